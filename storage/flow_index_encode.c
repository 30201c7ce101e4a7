/*
 * flow_index_encode.c - the key index of a segment that has been filled, as bytes.
 *
 * What the segment numbers in the order of its coming is put into the order that readers search: ends by address, flows by their first end.
 * Then column by column, each in the code that makes it shortest, and last the log, sorted by flow.
 */
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bit_stream.h"
#include "checksum.h"
#include "flow_index_inside.h"

#define RADIX 256u
#define STATE_SLOTS 4096u
#define SERVICE_FLOWS 1024u   /* of which a port has one or more on average, and a few besides, to be listed */
#define CANDIDATES_MAX (2 * SERVICE_FLOWS)
#define SAMPLES 256u /* of a column, to choose its code by */
#define GATHER_AHEAD 12u /* flows */
#define MARKS_MAX (FLOW_INDEX_FLOWS_MAX / FLOW_INDEX_CHUNK + FLOW_INDEX_ENDS_MAX / FLOW_INDEX_END_CHUNK + 1) /* of either kind */
#define STATES_KEPT 128u /* of the states, for applications alone */
#define ANY_SET (FLOW_INDEX_SETS_MAX - 1) /* of entries: holds all, or is none, which readers take for all */

/* ---- encoding: order --------------------------------------------------------------------------- */

static uint8_t sorting_byte(const struct flow_sorting *item, uint32_t place)
{
    return (uint8_t)((place < 8 ? item->low : item->high) >> (place & 7) * 8);
}

/* Sorts by (high, low): a pass for each byte that is not the same in all. Returns the sorted half. */
static struct flow_sorting *sort_numbers(struct flow_sorting *from, struct flow_sorting *to, uint32_t count)
{
    uint64_t high = 0, low = 0;
    for (uint32_t i = 1; i < count; i++) {
        high |= from[i].high ^ from[0].high;
        low |= from[i].low ^ from[0].low;
    }
    for (uint32_t place = 0; place < 16; place++) {
        if (((place < 8 ? low : high) >> (place & 7) * 8 & 255) == 0)
            continue;
        uint32_t at[RADIX + 1] = {0};
        for (uint32_t i = 0; i < count; i++)
            at[sorting_byte(&from[i], place) + 1]++;
        for (uint32_t i = 1; i <= RADIX; i++)
            at[i] += at[i - 1];
        for (uint32_t i = 0; i < count; i++)
            to[at[sorting_byte(&from[i], place)]++] = from[i];
        struct flow_sorting *other = from;
        from = to;
        to = other;
    }
    return from;
}

static int by_mac(const void *a, const void *b)
{
    uint64_t one = ((const struct flow_sorting *)a)->mac, two = ((const struct flow_sorting *)b)->mac;
    return one < two ? -1 : one > two;
}

/* One address with several MACs, which is rare: sorted by MAC in a second step. */
static void sort_macs(struct flow_sorting *item, uint32_t count)
{
    for (uint32_t from = 0, to; from < count; from = to) {
        bool alike = true;
        for (to = from + 1; to < count && item[to].low == item[from].low &&
                            item[to].high == item[from].high; to++)
            alike = false;
        if (!alike)
            qsort(&item[from], to - from, sizeof *item, by_mac);
    }
}

/* ---- encoding: parts --------------------------------------------------------------------------- */

struct encoding {
    struct flow_index *index;
    struct flow_index_head head;
    struct bit_writer writer;
    uint8_t *part_start;
    uint32_t first; /* flow: FLOW_REST is left out where it has no packets */
    uint32_t flows;
    uint32_t blocks;
    uint32_t packets;
    bool failed;
    uint32_t kind_uses[FLOW_INDEX_KINDS_MAX];
    struct flow_index_state state[FLOW_INDEX_STATES_MAX];
    uint64_t state_word[FLOW_INDEX_STATES_MAX]; /* each as a number, by which it is looked for */
    uint32_t state_uses[FLOW_INDEX_STATES_MAX];
    uint16_t state_slot[STATE_SLOTS];
    uint32_t states;
    uint32_t services_least; /* flows that make a port worth being listed */
    uint32_t candidates;
    uint16_t candidate[CANDIDATES_MAX];
    uint32_t code[FLOW_INDEX_KINDS_MAX];
    uint8_t *marks; /* room for that part, which is written last */
    struct flow_marks marks_at;
    uint32_t item[MARKS_MAX + 1]; /* of a part: the first that each piece holds */
    uint32_t bit[MARKS_MAX + 1];  /* and where in the part that is, in bits */
};

static void part_begin(struct encoding *encoding, uint8_t *at)
{
    encoding->part_start = at;
    bits_begin(&encoding->writer, at, encoding->index->out + encoding->index->out_bytes);
}

static uint8_t *part_end(struct encoding *encoding, enum flow_part part, uint32_t code)
{
    uint8_t *end = bits_end(&encoding->writer), *start = encoding->part_start;
    uint32_t bytes = (uint32_t)(end - start);
    encoding->failed |= encoding->writer.failed;
    encoding->head.part[part] = (struct flow_index_part){
        .offset = le32_of((uint32_t)(start - encoding->index->out)),
        .bytes = le32_of(bytes),
        .crc = le32_of(part == FLOW_PART_POSTINGS ? 0 : checksum_crc32c(start, bytes)),
        .code = (uint8_t)code,
    };
    part_begin(encoding, end);
    return end;
}

static void put_bytes(struct encoding *encoding, const void *bytes, uint32_t count)
{
    const uint8_t *byte = bytes;
    for (uint32_t i = 0; i < count; i++)
        bits_put(&encoding->writer, byte[i], 8);
}

/* The order of the code that makes these numbers shortest, as far as a sample shows. */
static uint32_t best_order(const uint64_t *value, uint32_t count)
{
    uint64_t sum = 0, best_bits = UINT64_MAX;
    uint32_t step = count < 2 * SAMPLES ? 1 : count / SAMPLES, best = 0, middle = 0;
    for (uint32_t i = 0; i < count; i += step)
        sum += value[i];
    sum = sum / (count / step + 1) + 1;
    while (middle < 30 && sum >> middle > 1)
        middle++;
    for (uint32_t k = middle > 8 ? middle - 8 : 0; k <= middle; k++) {
        uint64_t bits = 0;
        for (uint32_t i = 0; i < count; i += step)
            bits += golomb_bits(value[i], k);
        if (bits < best_bits)
            best_bits = bits, best = k;
    }
    return best;
}

/* Of a part of `count` numbers: pieces of `each`. Returns how many. */
static uint32_t pieces_of(struct encoding *encoding, uint32_t count, uint32_t each)
{
    uint32_t pieces = flow_chunks(count, each);
    for (uint32_t i = 0; i < pieces; i++)
        encoding->item[i] = i * each;
    return pieces;
}

static uint32_t bits_so_far(const struct encoding *encoding, const struct bit_writer *writer)
{
    return 8 * (uint32_t)(writer->at - encoding->part_start) + writer->bits;
}

/*
 * A whole part of numbers, each of at most `width` bits: coded, or as they are where that is shorter. Notes in bit[] where each of the pieces
 * begins that item[] names.
 */
static void put_pieces(struct encoding *encoding, enum flow_part part, const uint64_t *value, uint32_t count, uint32_t width, uint32_t pieces)
{
    struct bit_writer writer = encoding->writer; /* a copy: what is written cannot be part of it, so it stays in registers */
    uint32_t order = best_order(value, count), i = 0;
    uint64_t raw_bits = (uint64_t)count * width;
    encoding->item[pieces] = count;
    for (uint32_t piece = 0; piece <= pieces; piece++) {
        for (uint32_t to = encoding->item[piece]; i < to; i++)
            bits_put_golomb(&writer, value[i], order);
        encoding->bit[piece] = bits_so_far(encoding, &writer);
    }
    encoding->writer = writer;
    if (encoding->bit[pieces] <= raw_bits && !writer.failed) {
        part_end(encoding, part, order);
        return;
    }
    part_begin(encoding, encoding->part_start);
    writer = encoding->writer;
    for (i = 0; i < count; i++)
        bits_put(&writer, value[i], width);
    encoding->writer = writer;
    for (uint32_t piece = 0; piece <= pieces; piece++)
        encoding->bit[piece] = encoding->item[piece] * width;
    part_end(encoding, part, FLOW_INDEX_RAW);
}

static void put_numbers(struct encoding *encoding, enum flow_part part, const uint64_t *value,
                        uint32_t count, uint32_t width)
{
    put_pieces(encoding, part, value, count, width, 0);
}

/* The marks of a column whose pieces begin at bit[], when its part has been written. */
static void mark_column(struct encoding *encoding, enum flow_column column, enum flow_part part)
{
    const struct flow_index_part *written = &encoding->head.part[part];
    const uint8_t *start = encoding->index->out + le32_get(written->offset);
    uint32_t chunks = flow_chunks(encoding->flows, FLOW_INDEX_CHUNK);
    uint8_t *at = encoding->marks + encoding->marks_at.flows + column * sizeof(struct flow_index_piece);
    for (uint32_t i = 0; i < chunks && !encoding->failed; i++, at += sizeof(struct flow_index_mark)) {
        uint32_t from = encoding->bit[i] / 8, to = i + 1 < chunks ? (encoding->bit[i + 1] + 7) / 8 : le32_get(written->bytes);
        struct flow_index_piece piece = {.bit = le32_of(encoding->bit[i]), .crc = le32_of(checksum_crc32c(start + from, to - from))};
        memcpy(at, &piece, sizeof piece);
    }
}

static void encode_blocks(struct encoding *encoding)
{
    struct bit_writer writer = encoding->writer;
    for (uint32_t i = 0; i < encoding->blocks; i++)
        bits_put(&writer, encoding->index->block[i].offset | (uint32_t)encoding->index->block[i].packets << 14, 25);
    encoding->writer = writer;
    part_end(encoding, FLOW_PART_BLOCKS, 0);
}

/* Records one after the other: which bytes differ from the one before, then those. */
static void put_record(struct encoding *encoding, const uint8_t *record, const uint8_t *before,
                       uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        bits_put(&encoding->writer, record[i] != before[i], 1);
    for (uint32_t i = 0; i < bytes; i++)
        if (record[i] != before[i])
            bits_put(&encoding->writer, record[i], 8);
}

/* Numbers what flows use by how often it is used, so that short codes go to what is frequent:
 * code[]. Returns it in that order; *used: how many have any use. */
static const struct flow_sorting *rank_codes(struct encoding *encoding, const uint32_t *uses,
                                        uint32_t count, uint32_t *used)
{
    struct flow_sorting *item = encoding->index->sorting[0];
    for (uint32_t i = 0; i < count; i++)
        item[i] = (struct flow_sorting){.low = UINT32_MAX - uses[i], .number = i};
    item = sort_numbers(item, encoding->index->sorting[1], count);
    *used = 0;
    for (uint32_t i = 0; i < count; i++) {
        encoding->code[item[i].number] = i;
        if (item[i].low != UINT32_MAX)
            *used = i + 1;
    }
    return item;
}

/* A kind as it lies on a disk. */
static void kind_bytes(const struct flow_kind *kind, uint8_t bytes[16])
{
    const uint16_t word[5] = {kind->marks, kind->vlan[0], kind->vlan[1], kind->ethertype,
                              kind->link_type};
    for (unsigned i = 0; i < 5; i++) {
        le16 field = le16_of(word[i]);
        memcpy(bytes + 2 * i, &field, sizeof field);
    }
    bytes[10] = kind->version;
    bytes[11] = kind->protocol;
    bytes[12] = kind->tags;
    bytes[13] = kind->labels;
    bytes[14] = kind->tunnel;
    bytes[15] = 0;
}

static void encode_kinds(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint8_t now[16], before[16] = {0};
    uint32_t kinds;
    const struct flow_sorting *sorted = rank_codes(encoding, encoding->kind_uses, index->kinds, &kinds);
    for (uint32_t i = 0; i < kinds; i++) {
        kind_bytes(&index->kind[sorted[i].number], now);
        put_record(encoding, now, before, sizeof now);
        memcpy(before, now, sizeof now);
    }
    part_end(encoding, FLOW_PART_KINDS, 0);
    encoding->head.kinds = le32_of(kinds);
    for (uint32_t i = 0; i < encoding->flows; i++)
        index->number[i] = encoding->code[index->brief[i].kind];
    uint32_t pieces = pieces_of(encoding, encoding->flows, FLOW_INDEX_CHUNK);
    put_pieces(encoding, FLOW_PART_KIND, index->number, encoding->flows, bits_width(kinds), pieces);
    mark_column(encoding, FLOW_COLUMN_KIND, FLOW_PART_KIND);
}

/* The number of a state, which is made while there are fewer than `most`; else 0. */
static uint16_t state_find(struct encoding *encoding, const struct flow_state *flow, uint32_t most)
{
    uint64_t word = flow->tcp_flags | (uint64_t)flow->ways << 8 | (uint64_t)flow->set << 16 |
                    (uint64_t)flow->app << 32;
    uint32_t at = (uint32_t)flow_fold(word, encoding->index->seed[2] | 1) % STATE_SLOTS;
    while (encoding->state_slot[at] != 0 && encoding->state_word[encoding->state_slot[at]] != word)
        at = (at + 1) % STATE_SLOTS;
    if (encoding->state_slot[at] == 0 && encoding->states < most) {
        encoding->state[encoding->states] = (struct flow_index_state){
            .tcp_flags = flow->tcp_flags,
            .ways = flow->ways,
            .set = le16_of(flow->set),
            .app = le16_of(flow->app)};
        encoding->state_word[encoding->states] = word;
        encoding->state_slot[at] = (uint16_t)encoding->states++;
    }
    return encoding->state_slot[at];
}

/*
 * States are gathered in a small table. What finds no room gets one that allows everything, but for the application: nothing else
 * says what that is, so it has places of its own. State 0 allows everything, and of it no application is known.
 */
static uint16_t state_take(struct encoding *encoding, const struct flow_state *flow)
{
    uint32_t most = FLOW_INDEX_STATES_MAX - (encoding->index->apps > 0 ? STATES_KEPT : 0);
    uint16_t number = state_find(encoding, flow, most);
    if (number == 0 && flow->app > 0) {
        const struct flow_state any = {
            .tcp_flags = UINT8_MAX, .ways = FLOW_WAY_0 | FLOW_WAY_1, .set = ANY_SET, .app = flow->app};
        number = state_find(encoding, &any, FLOW_INDEX_STATES_MAX);
    }
    encoding->state_uses[number]++;
    return number;
}

static void encode_states(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint32_t used;
    const struct flow_sorting *sorted =
        rank_codes(encoding, encoding->state_uses, encoding->states, &used);
    for (uint32_t i = 0; i < used; i++)
        put_bytes(encoding, &encoding->state[sorted[i].number], sizeof encoding->state[0]);
    part_end(encoding, FLOW_PART_STATES, 0);
    encoding->head.states = le32_of(used);
    for (uint32_t i = 0; i < encoding->flows; i++)
        index->number[i] = encoding->code[index->brief[i].state];
    uint32_t pieces = pieces_of(encoding, encoding->flows, FLOW_INDEX_CHUNK);
    put_pieces(encoding, FLOW_PART_STATE, index->number, encoding->flows, bits_width(used), pieces);
    mark_column(encoding, FLOW_COLUMN_STATE, FLOW_PART_STATE);
}

/* ---- encoding: ends ---------------------------------------------------------------------------- */

static void encode_macs(struct encoding *encoding, uint32_t *mac_rank)
{
    struct flow_index *index = encoding->index;
    struct flow_sorting *item = index->sorting[0];
    for (uint32_t i = 0; i < index->macs; i++)
        item[i] = (struct flow_sorting){.low = index->mac[i], .number = i};
    item = sort_numbers(item, index->sorting[1], index->macs);
    for (uint32_t i = 0; i < index->macs; i++) {
        mac_rank[item[i].number] = i;
        index->number[i] = item[i].low - (i > 0 ? item[i - 1].low : 0);
    }
    put_numbers(encoding, FLOW_PART_MACS, index->number, index->macs, 48);
    encoding->head.macs = le32_of(index->macs);
}

/* Sorts by the upper half: a pass for each byte that is not the same in all. Returns the sorted half. */
static uint64_t *sort_words(uint64_t *from, uint64_t *to, uint32_t count)
{
    uint64_t differ = 0;
    for (uint32_t i = 1; i < count; i++)
        differ |= from[i] ^ from[0];
    for (uint32_t shift = 32; shift < 64; shift += 8) {
        if ((differ >> shift & 255) == 0)
            continue;
        uint32_t at[RADIX + 1] = {0};
        for (uint32_t i = 0; i < count; i++)
            at[(from[i] >> shift & 255) + 1]++;
        for (uint32_t i = 1; i <= RADIX; i++)
            at[i] += at[i - 1];
        for (uint32_t i = 0; i < count; i++)
            to[at[from[i] >> shift & 255]++] = from[i];
        uint64_t *other = from;
        from = to;
        to = other;
    }
    return from;
}

/* Of words that are alike but for their numbers, the ends that these are sorted by MAC: rare. */
static void sort_words_macs(struct flow_index *index, uint64_t *word, uint32_t count)
{
    for (uint32_t from = 0, to; from < count; from = to) {
        for (to = from + 1; to < count && word[to] >> 32 == word[from] >> 32;)
            to++;
        if (to - from == 1)
            continue;
        struct flow_sorting *item = index->sorting[0];
        for (uint32_t i = from; i < to; i++)
            item[i - from] = (struct flow_sorting){.low = index->end[(uint32_t)word[i]].mac, .number = word[i]};
        item = sort_numbers(item, index->sorting[1], to - from);
        for (uint32_t i = from; i < to; i++)
            word[i] = item[i - from].number;
    }
}

/* The same as sort_ends(), of version 4. Returns words: the address, and the end's number. */
static const uint64_t *sort_ends4(struct flow_index *index, uint32_t base, uint32_t *by_rank)
{
    uint64_t *word = index->word[0];
    uint32_t count = 0;
    for (uint32_t i = 0; i < index->ends; i++)
        if (index->end[i].version == 4)
            word[count++] = index->end[i].low << 32 | i;
    word = sort_words(word, index->word[1], count);
    sort_words_macs(index, word, count);
    for (uint32_t i = 0; i < count; i++) {
        index->rank[(uint32_t)word[i]] = base + i;
        by_rank[base + i] = (uint32_t)word[i];
    }
    return word;
}

/* The ends of one class in order; gives each its rank. by_rank[]: their numbers. */
static const struct flow_sorting *sort_ends(struct flow_index *index, uint32_t version, uint32_t base,
                                            uint32_t *by_rank)
{
    struct flow_sorting *item = index->sorting[0];
    uint32_t count = 0;
    for (uint32_t i = 0; i < index->ends; i++) {
        const struct flow_end_record *end = &index->end[i];
        if (end->version == version)
            item[count++] = (struct flow_sorting){
                .high = end->high, .low = end->low, .mac = end->mac, .number = i};
    }
    item = sort_numbers(item, index->sorting[1], count);
    sort_macs(item, count);
    for (uint32_t i = 0; i < count; i++) {
        index->rank[item[i].number] = base + i;
        by_rank[base + i] = (uint32_t)item[i].number;
    }
    return item;
}

static void encode_addresses6(struct encoding *encoding, const struct flow_sorting *item, uint32_t count)
{
    uint64_t high = 0, low = 0;
    uint8_t *marks = encoding->marks + encoding->marks_at.six;
    for (uint32_t i = 0; i < count; i++) {
        if (i % FLOW_INDEX_END_CHUNK == 0) {
            struct flow_index_mark6 mark = {.bit = le32_of(bits_so_far(encoding, &encoding->writer))};
            for (uint32_t byte = 0; byte < 16; byte++)
                mark.address[byte] = (uint8_t)((byte < 8 ? high : low) >> (7 - (byte & 7)) * 8);
            memcpy(marks, &mark, sizeof mark);
            marks += sizeof mark;
        }
        uint64_t high_change = item[i].high ^ high, low_change = item[i].low ^ low;
        uint32_t common = high_change != 0  ? (uint32_t)__builtin_clzll(high_change) / 8
                          : low_change != 0 ? 8 + (uint32_t)__builtin_clzll(low_change) / 8
                                            : 16;
        high = item[i].high, low = item[i].low;
        bits_put(&encoding->writer, common, 5);
        for (uint32_t byte = common; byte < 16; byte++)
            bits_put(&encoding->writer, (byte < 8 ? high : low) >> (7 - (byte & 7)) * 8 & 255, 8);
    }
    part_end(encoding, FLOW_PART_ADDRESS6, 0);
}

/* by_rank[]: each end's number, in order. */
static void encode_addresses(struct encoding *encoding, uint32_t *by_rank)
{
    struct flow_index *index = encoding->index;
    for (unsigned class = 0; class < 3; class++)
        encoding->head.ends[class] = le32_of(index->ends_of[class]);
    sort_ends(index, 0, 0, by_rank);
    const uint64_t *word = sort_ends4(index, index->ends_of[0], by_rank);
    for (uint32_t i = 0; i < index->ends_of[1]; i++)
        index->number[i] = (word[i] >> 32) - (i > 0 ? word[i - 1] >> 32 : 0);
    uint32_t pieces = pieces_of(encoding, index->ends_of[1], FLOW_INDEX_END_CHUNK);
    put_pieces(encoding, FLOW_PART_ADDRESS4, index->number, index->ends_of[1], 32, pieces);
    for (uint32_t i = 0; i < pieces; i++) {
        struct flow_index_mark4 mark = {.address = le32_of(i > 0 ? (uint32_t)(word[i * FLOW_INDEX_END_CHUNK - 1] >> 32) : 0), .bit = le32_of(encoding->bit[i])};
        memcpy(encoding->marks + i * sizeof mark, &mark, sizeof mark);
    }
    const struct flow_sorting *item = sort_ends(index, 6, index->ends_of[0] + index->ends_of[1], by_rank);
    encode_addresses6(encoding, item, index->ends_of[2]);
}

static void encode_end_macs(struct encoding *encoding, const uint32_t *mac_rank,
                            const uint32_t *by_rank)
{
    struct flow_index *index = encoding->index;
    uint32_t before = 0;
    for (uint32_t i = 0; i < index->ends; i++) {
        uint32_t now = mac_rank[index->end[by_rank[i]].mac_number];
        index->number[i] = now >= before ? 2ul * (now - before) : 2ul * (before - now) - 1;
        before = now;
    }
    put_numbers(encoding, FLOW_PART_END_MACS, index->number, index->ends,
                bits_width(index->macs) + 1);
}

/* ---- encoding: flows --------------------------------------------------------------------------- */

/* A port that enough flows have becomes a candidate at that moment. Flows have two ports each: no more than 2 * SERVICE_FLOWS get so far. */
static inline void count_port(struct encoding *encoding, uint16_t port)
{
    uint16_t *count = &encoding->index->port_count[port];
    if (*count == UINT16_MAX)
        return;
    if (++*count == encoding->services_least)
        encoding->candidate[encoding->candidates++] = port;
}

/*
 * Puts the flows in the order of their first ends. The one pass over all of a flow's memory: what
 * the columns need of it goes into `brief`, which the caches can hold.
 */
static void gather_flows(struct encoding *encoding, uint32_t *at)
{
    struct flow_index *index = encoding->index;
    memset(index->port_count, 0, FLOW_PORT_NUMBERS * sizeof *index->port_count);
    for (uint32_t i = encoding->first; i < index->flows; i++) {
        const struct flow_state *state = &index->state[i];
        if (i + GATHER_AHEAD < index->flows) /* about where it will go */
            __builtin_prefetch(
                &index->brief[at[index->rank[index->state[i + GATHER_AHEAD].end[0]]]], 1);
        uint32_t place = at[index->rank[state->end[0]]]++;
        struct flow_brief *brief = &index->brief[place];
        index->place[i] = place;
        *brief = (struct flow_brief){
            .port = {state->port[0], state->port[1]},
            .packets = state->packets,
            .second = index->rank[state->end[1]],
            .inner = state->inner,
            .kind = state->kind,
            .state = state_take(encoding, state),
            .size = flow_size_put(state->bytes),
            .ports = state->ports,
        };
        encoding->kind_uses[state->kind]++;
        for (unsigned end = 0; end < 2 && state->ports; end++)
            count_port(encoding, state->port[end]);
    }
}

static void encode_order(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint32_t *at = index->start;
    memset(at, 0, (index->ends + 1) * sizeof *at);
    for (uint32_t i = encoding->first; i < index->flows; i++)
        at[index->rank[index->state[i].end[0]] + 1]++;
    for (uint32_t i = 0; i < index->ends; i++)
        index->number[i] = at[i + 1];
    uint32_t pieces = pieces_of(encoding, index->ends, FLOW_INDEX_END_CHUNK);
    put_pieces(encoding, FLOW_PART_FIRSTS, index->number, index->ends, bits_width(FLOW_INDEX_FLOWS_MAX + 1), pieces);
    for (uint32_t i = 1; i <= index->ends; i++)
        at[i] += at[i - 1];
    for (uint32_t i = 0; i < pieces; i++) {
        struct flow_index_mark_end mark = {.flow = le32_of(at[i * FLOW_INDEX_END_CHUNK]), .bit = le32_of(encoding->bit[i])};
        memcpy(encoding->marks + encoding->marks_at.ends + i * sizeof mark, &mark, sizeof mark);
    }
    encoding->services_least = encoding->flows / SERVICE_FLOWS + 4;
    gather_flows(encoding, at);
    uint32_t width = bits_width(index->ends);
    struct bit_writer writer = encoding->writer;
    for (uint32_t i = 0; i < encoding->flows; i++)
        bits_put(&writer, index->brief[i].second, width);
    encoding->writer = writer;
    part_end(encoding, FLOW_PART_SECONDS, width);
}

/*
 * Of two ports one is a service's, mostly: those that many flows have are listed, and a flow says
 * which of them it has and at which end, then the other port.
 */
static uint32_t choose_services(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint16_t *count = index->port_count;
    uint32_t candidates = encoding->candidates, services;
    struct flow_sorting *item = index->sorting[0];
    for (uint32_t i = 0; i < candidates; i++) {
        uint16_t port = encoding->candidate[i];
        item[i] = (struct flow_sorting){.low = UINT16_MAX - count[port], .number = port};
    }
    memset(count, 0, FLOW_PORT_NUMBERS * sizeof *count);
    item = sort_numbers(item, index->sorting[1], candidates);
    services = candidates < FLOW_INDEX_SERVICES_MAX ? candidates : FLOW_INDEX_SERVICES_MAX;
    for (uint32_t i = 0; i < services; i++) {
        bits_put(&encoding->writer, item[i].number, 16);
        count[item[i].number] = (uint16_t)(i + 1);
    }
    part_end(encoding, FLOW_PART_SERVICES, 0);
    encoding->head.services = le32_of(services);
    return services;
}

static void encode_ports(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint32_t services = choose_services(encoding), count = 0, others = 0;
    uint32_t *other = index->start; /* twice as many as flows have room */
    uint32_t other_at[MARKS_MAX];
    uint32_t pieces = pieces_of(encoding, encoding->flows, FLOW_INDEX_CHUNK);
    for (uint32_t i = 0; i < encoding->flows; i++) {
        const struct flow_brief *flow = &index->brief[i];
        if (i % FLOW_INDEX_CHUNK == 0) {
            encoding->item[i / FLOW_INDEX_CHUNK] = count;
            other_at[i / FLOW_INDEX_CHUNK] = others;
        }
        if (!flow->ports)
            continue;
        uint32_t one = index->port_count[flow->port[0]] - 1u;
        uint32_t two = index->port_count[flow->port[1]] - 1u; /* none: the greatest number */
        uint32_t best = one <= two ? one : two, side = one > two;
        index->number[count++] = best < services ? 1 + 2 * best + side : 0;
        if (best >= services)
            other[others++] = flow->port[0];
        other[others++] = flow->port[best < services ? !side : 1];
    }
    put_pieces(encoding, FLOW_PART_SERVICE, index->number, count, bits_width(1 + 2 * services), pieces);
    mark_column(encoding, FLOW_COLUMN_SERVICE, FLOW_PART_SERVICE);
    struct bit_writer writer = encoding->writer;
    for (uint32_t i = 0; i < others; i++)
        bits_put(&writer, other[i], 16);
    encoding->writer = writer;
    part_end(encoding, FLOW_PART_PORTS, 0);
    for (uint32_t i = 0; i < pieces; i++)
        encoding->bit[i] = 16 * other_at[i];
    mark_column(encoding, FLOW_COLUMN_PORTS, FLOW_PART_PORTS);
}

static void encode_inners(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint8_t before[sizeof(struct flow_inner)] = {0};
    for (uint32_t i = 0; i < index->inners; i++) {
        uint8_t now[sizeof before];
        struct flow_inner inner = index->inner[i];
        memcpy(now, &inner, sizeof now);
        for (unsigned end = 0; end < 2; end++) {
            le16 port = le16_of(inner.port[end]);
            memcpy(now + 32 + 2 * end, &port, sizeof port);
        }
        put_record(encoding, now, before, sizeof now);
        memcpy(before, now, sizeof before);
    }
    part_end(encoding, FLOW_PART_INNERS, 0);
    encoding->head.inners = le32_of(index->inners);
    uint32_t width = bits_width(index->inners);
    for (uint32_t i = 0; i < encoding->flows; i++) {
        if (index->brief[i].inner != 0)
            bits_put(&encoding->writer, index->brief[i].inner - 1, width);
    }
    part_end(encoding, FLOW_PART_INNER, width);
}

static void encode_tables(struct encoding *encoding, const struct frame_entry *entry,
                          uint32_t entries)
{
    struct flow_index *index = encoding->index;
    put_bytes(encoding, entry, entries * (uint32_t)sizeof *entry);
    part_end(encoding, FLOW_PART_ENTRIES, 0);
    encoding->head.entries = le32_of(entries);
    for (uint32_t i = 0; i < index->sets; i++)
        for (uint32_t word = 0; word < 4; word++) {
            bits_put(&encoding->writer, (uint32_t)index->set[i].word[word], 32);
            bits_put(&encoding->writer, index->set[i].word[word] >> 32, 32);
        }
    part_end(encoding, FLOW_PART_SETS, 0);
    encoding->head.sets = le32_of(index->sets);
    for (uint32_t i = 0; i < index->apps; i++) {
        uint32_t length = (uint32_t)strlen(index->app[i]);
        bits_put(&encoding->writer, length, 8);
        put_bytes(encoding, index->app[i], length);
    }
    part_end(encoding, FLOW_PART_APPS, 0);
    encoding->head.apps = le32_of(index->apps);
    struct bit_writer writer = encoding->writer;
    for (uint32_t i = 0; i < encoding->flows; i++)
        bits_put(&writer, index->brief[i].size, 8);
    encoding->writer = writer;
    part_end(encoding, FLOW_PART_SIZES, 0);
}

/* ---- encoding: postings ------------------------------------------------------------------------ */

/* Sorts the log by flow, in the order of `brief`: gathered[]. */
static void gather_blocks(struct encoding *encoding)
{
    struct flow_index *index = encoding->index;
    uint32_t *at = index->start, sum = 0;
    for (uint32_t i = 0; i < encoding->flows; i++) {
        index->number[i] = sum;
        sum += index->brief[i].packets;
    }
    for (uint32_t i = encoding->first; i < index->flows; i++)
        at[i] = (uint32_t)index->number[index->place[i]];
    for (uint32_t block = 0; block < encoding->blocks; block++) {
        uint32_t from = index->block[block].log, to = from + index->block[block].packets;
        for (uint32_t i = from; i < to; i++)
            index->gathered[at[index->log[i]]++] = (uint16_t)block;
    }
}

static uint8_t *encode_postings(struct encoding *encoding, uint8_t *chunks)
{
    struct flow_index *index = encoding->index;
    for (uint32_t i = 0; i < encoding->flows; i++)
        index->number[i] = index->brief[i].packets;
    uint32_t order = best_order(index->number, encoding->flows);
    const uint16_t *block = index->gathered;
    struct bit_writer writer = encoding->writer;
    uint8_t *start = encoding->part_start, *at = start;
    for (uint32_t i = 0; i < encoding->flows; i++) {
        uint32_t packets = (uint32_t)index->number[i], before = 0;
        bits_put_golomb(&writer, packets, order);
        uint32_t k = packets > 0 ? flow_gap_order(encoding->blocks, packets) : 0;
        for (uint32_t j = 0; j < packets; j++, block++) {
            bits_put_rice(&writer, *block - before, k);
            before = *block;
        }
        if ((i + 1) % FLOW_INDEX_CHUNK != 0 && i + 1 < encoding->flows)
            continue;
        uint8_t *end = bits_end(&writer);
        struct flow_index_chunk chunk = {
            .offset = le32_of((uint32_t)(at - start)),
            .crc = le32_of(checksum_crc32c(at, (size_t)(end - at))),
        };
        memcpy(chunks + i / FLOW_INDEX_CHUNK * sizeof chunk, &chunk, sizeof chunk);
        at = end;
    }
    encoding->writer = writer;
    return part_end(encoding, FLOW_PART_POSTINGS, order);
}

/* ---- encoding: all of it ----------------------------------------------------------------------- */

/* What was logged of blocks that are not indexed is taken out again. */
static void cut_log(struct flow_index *index, struct encoding *encoding)
{
    encoding->blocks = index->stopped ? index->covered : index->blocks;
    encoding->packets =
        encoding->blocks < index->blocks ? index->block[encoding->blocks].log : index->logged;
    while (index->logged > encoding->packets)
        index->state[index->log[--index->logged]].packets--;
    encoding->first = index->state[FLOW_REST].packets > 0 ? FLOW_REST : FLOW_REST + 1;
    encoding->flows = index->flows - encoding->first;
}

/* A part that was filled while others were written. */
static void part_place(struct encoding *encoding, enum flow_part part, const uint8_t *start, uint32_t bytes)
{
    encoding->head.part[part] = (struct flow_index_part){
        .offset = le32_of((uint32_t)(start - encoding->index->out)),
        .bytes = le32_of(bytes),
        .crc = le32_of(checksum_crc32c(start, bytes)),
    };
}

static void head_finish(struct encoding *encoding, uint32_t length)
{
    struct flow_index_head *head = &encoding->head;
    memcpy(head->magic, FLOW_INDEX_MAGIC, sizeof head->magic);
    head->version = le16_of(FLOW_INDEX_VERSION);
    head->parts = le16_of(FLOW_PARTS);
    head->bytes = le32_of(length);
    head->blocks = le32_of(encoding->blocks);
    head->packets = le32_of(encoding->packets);
    head->flows = le32_of(encoding->flows);
    head->crc = le32_of(0);
    head->crc = le32_of(checksum_crc32c(head, sizeof *head));
    memcpy(encoding->index->out, head, sizeof *head);
}

uint32_t flow_index_encode(struct flow_index *index, const struct frame_entry *entry,
                           uint32_t entries, uint32_t room_bytes, const uint8_t **bytes)
{
    struct encoding encoding = {.index = index, .states = 1};
    encoding.state[0] = (struct flow_index_state){
        .tcp_flags = UINT8_MAX, .ways = FLOW_WAY_0 | FLOW_WAY_1, .set = le16_of(UINT16_MAX)};
    flow_index_catch_up(index);
    cut_log(index, &encoding);
    /* What a search for an address reads comes first and lies together. */
    encoding.marks = index->out + sizeof(struct flow_index_head);
    encoding.marks_at = flow_marks(index->ends_of, encoding.flows);
    if (encoding.marks + encoding.marks_at.bytes > index->out + index->out_bytes)
        return 0;
    part_begin(&encoding, encoding.marks + encoding.marks_at.bytes);
    encode_addresses(&encoding, index->by_rank);
    encode_order(&encoding);
    encode_kinds(&encoding);
    uint8_t *chunks = encoding.part_start;
    uint32_t chunk_bytes = flow_chunks(encoding.flows, FLOW_INDEX_CHUNK) * (uint32_t)sizeof(struct flow_index_chunk);
    if (encoding.failed || chunks + chunk_bytes > index->out + index->out_bytes)
        return 0;
    part_begin(&encoding, chunks + chunk_bytes);
    encode_blocks(&encoding);
    encode_ports(&encoding);
    encode_states(&encoding);
    encode_macs(&encoding, index->rank);
    encode_end_macs(&encoding, index->rank, index->by_rank);
    encode_inners(&encoding);
    encode_tables(&encoding, entry, entries);
    gather_blocks(&encoding);
    uint8_t *end = encode_postings(&encoding, chunks);
    part_place(&encoding, FLOW_PART_CHUNKS, chunks, chunk_bytes);
    part_place(&encoding, FLOW_PART_MARKS, encoding.marks, encoding.marks_at.bytes);
    uint32_t length = (uint32_t)(end - index->out);
    if (encoding.failed || length > room_bytes)
        return 0;
    head_finish(&encoding, length);
    *bytes = index->out;
    return length;
}
