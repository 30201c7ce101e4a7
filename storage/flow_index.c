/*
 * flow_index.c - the key index of a segment while it is filled.
 *
 * A packet costs one look into a hash table: its flow is there, or is made. That the flow had a
 * packet is written into a log, four bytes a packet, and nothing more: which blocks a flow's
 * packets are in follows from where in the log each block began. When the segment is sealed the log
 * is sorted by flow (flow_index_encode.c).
 *
 * A plain flow (flow_keys.h) is known by four words, which lie in the cache line with what is counted of it. All others have keys.
 *
 * What flows have in common is kept once while they are made: ends (an address and a MAC), MACs,
 * kinds, inner headers. So it is known at every moment how many of each there are, which is what
 * bounds the encoded size.
 */
#include "flow_index.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "bit_stream.h"
#include "errors.h"
#include "flow_index_inside.h"

#define SLACK_BYTES 4096u /* of the encoding's buffer beyond its bound */
#define PACKET_BOUND 128u /* bytes by which any packet can raise the bound */
#define HUGE_PAGE_BYTES (2u << 20)
#define NUMBER_BITS 18u
#define NUMBER_MASK ((1u << NUMBER_BITS) - 1)
#define FRESH_MAX 32u /* flows whose ends are not looked up yet */
#define JUDGED_AT_ONCE 32u /* flows */
#define PLAIN_KINDS (1u << FLOW_PLAIN_BITS)
#define LAST_MASK (PLAIN_KINDS - 1) /* of a plain packet's last word: what the flow has of it */

_Static_assert(FLOW_INDEX_FLOWS_MAX + 2 * FRESH_MAX < NUMBER_MASK, "a record's number fits a slot");
_Static_assert(sizeof(struct flow_record) == FLOW_KEY_BYTES, "what is compared");
_Static_assert(sizeof(struct flow_state) == 64, "a cache line");

/* ---- memory ------------------------------------------------------------------------------------ */

/* Carves the index's arrays out of one piece of memory; without one, only adds up what they need. */
struct carving {
    uint8_t *memory;
    size_t taken;
};

static void *carve(struct carving *carving, uint64_t count, size_t size)
{
    void *at = carving->memory ? carving->memory + carving->taken : NULL;
    carving->taken += round_up(count * size, 64);
    return at;
}

static void carve_table(struct carving *carving, struct flow_table *table, uint32_t records)
{
    uint32_t slots = 64;
    while (slots < records + records / 2)
        slots *= 2;
    table->mask = slots - 1;
    table->slot = carve(carving, slots, sizeof *table->slot);
}

static void table_clear(struct flow_table *table)
{
    memset(table->slot, 0, (table->mask + 1ul) * sizeof *table->slot);
}

/* Bits of a hash that its place in a table does not depend on. */
static inline uint32_t tag_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32) & ~NUMBER_MASK;
}

static inline uint32_t place_of(const struct flow_table *table, uint64_t hash)
{
    return (uint32_t)hash & table->mask;
}

/*
 * Looks for a hash from *at on. Returns the number, plus one, of the next record that may have it,
 * where *at is then; 0: there is none, and *at is free.
 */
static inline uint32_t table_next(const struct flow_table *table, uint32_t tag, uint32_t *at)
{
    for (;; *at = (*at + 1) & table->mask) {
        uint32_t slot = table->slot[*at];
        if (slot == 0 || (slot & ~NUMBER_MASK) == tag)
            return slot & NUMBER_MASK;
    }
}

static inline uint32_t table_after(const struct flow_table *table, uint32_t tag, uint32_t *at)
{
    *at = (*at + 1) & table->mask;
    return table_next(table, tag, at);
}

static inline void table_put(struct flow_table *table, uint32_t at, uint32_t tag, uint32_t number)
{
    table->slot[at] = number | tag;
}

/* Before table_next(): the slot; and, when that is there, the number that it has, plus one, or 0. */
static inline void table_prefetch(const struct flow_table *table, uint64_t hash)
{
    __builtin_prefetch(&table->slot[place_of(table, hash)]);
}

static inline uint32_t table_glance(const struct flow_table *table, uint64_t hash)
{
    return table->slot[place_of(table, hash)] & NUMBER_MASK;
}

static size_t carve_all(struct flow_index *index, uint8_t *memory)
{
    struct carving carving = {.memory = memory};
    uint32_t flows = index->flows_max, ends = index->ends_max;
    carve_table(&carving, &index->plain_table, flows);
    carve_table(&carving, &index->other_table, flows);
    carve_table(&carving, &index->end_table, ends);
    carve_table(&carving, &index->mac_table, ends);
    carve_table(&carving, &index->kind_table, FLOW_INDEX_KINDS_MAX);
    carve_table(&carving, &index->inner_table, index->inners_max);
    index->plain_kind = carve(&carving, PLAIN_KINDS, sizeof *index->plain_kind);
    index->state = carve(&carving, flows, sizeof *index->state);
    index->other = carve(&carving, flows, sizeof *index->other);
    index->end = carve(&carving, ends, sizeof *index->end);
    index->mac = carve(&carving, ends, sizeof *index->mac);
    index->inner = carve(&carving, index->inners_max, sizeof *index->inner);
    index->log = carve(&carving, index->packets_max, sizeof *index->log);
    index->block = carve(&carving, index->blocks_max + 1ul, sizeof *index->block);
    index->sorting[0] = carve(&carving, ends, sizeof *index->sorting[0]);
    index->sorting[1] = carve(&carving, ends, sizeof *index->sorting[1]);
    index->word[0] = carve(&carving, ends, sizeof *index->word[0]);
    index->word[1] = carve(&carving, ends, sizeof *index->word[1]);
    index->rank = carve(&carving, ends, sizeof *index->rank);
    index->by_rank = carve(&carving, ends, sizeof *index->by_rank);
    index->brief = carve(&carving, flows, sizeof *index->brief);
    index->place = carve(&carving, flows, sizeof *index->place);
    index->start = carve(&carving, 2ul * flows + 1, sizeof *index->start);
    index->gathered = carve(&carving, index->packets_max, sizeof *index->gathered);
    index->port_count = carve(&carving, FLOW_PORT_NUMBERS, sizeof *index->port_count);
    index->number = carve(&carving, 2ul * flows, sizeof *index->number);
    index->out = carve(&carving, index->out_bytes, 1);
    return carving.taken;
}

int flow_index_open(uint64_t slot_bytes, struct flow_index **out)
{
    assert(slot_bytes >= BLOCK_BYTES && slot_bytes <= SLOT_BYTES_MAX); /* short ones are for the simulation */
    struct flow_index *index = calloc(1, sizeof *index);
    if (!index)
        return ERR_NO_MEMORY;
    index->flows_max = (uint32_t)(slot_bytes / 512);
    index->packets_max = (uint32_t)(slot_bytes / 64);
    index->blocks_max = (uint32_t)(slot_bytes / PAGE_BYTES);
    index->ends_max = index->flows_max + 2 * FRESH_MAX;
    index->inners_max = index->flows_max / 4;
    index->out_bytes = (uint32_t)(slot_bytes / 8) + SLACK_BYTES;
    size_t bytes = round_up(carve_all(index, NULL), HUGE_PAGE_BYTES);
    index->memory = aligned_alloc(HUGE_PAGE_BYTES, bytes);
    if (!index->memory || getrandom(index->seed, sizeof index->seed, 0) != (ssize_t)sizeof index->seed) {
        flow_index_close(&index);
        return ERR_NO_MEMORY;
    }
    index->hash_without_high = flow_fold(index->seed[1], index->seed[3]);
    madvise(index->memory, bytes, MADV_HUGEPAGE); /* where there are none it is slower, no more */
    carve_all(index, index->memory);
    flow_index_clear(index);
    *out = index;
    return 0;
}

void flow_index_close(struct flow_index **slot)
{
    if (!*slot)
        return;
    free((*slot)->memory);
    free(*slot);
    *slot = NULL;
}

/* ---- hashing ----------------------------------------------------------------------------------- */

static inline uint64_t word_at(const void *bytes, uint32_t at)
{
    uint64_t word;
    memcpy(&word, (const uint8_t *)bytes + at, sizeof word);
    return word;
}

static inline uint64_t hash_inner(const uint64_t *seed, const struct flow_inner *inner)
{
    return flow_fold(word_at(inner, 0) ^ seed[1], word_at(inner, 8) ^ seed[2]) ^
           flow_fold(word_at(inner, 16) ^ seed[3], word_at(inner, 24) ^ seed[4]) ^
           flow_fold(word_at(inner, 32) ^ seed[5], seed[6]);
}

uint64_t flow_index_hash(const struct flow_index *index, const struct flow_keys *keys)
{
    const uint64_t *seed = index->seed;
    uint64_t hash = flow_fold(word_at(keys, 0) ^ seed[0], word_at(keys, 8) ^ seed[1]) ^
                    flow_fold(word_at(keys, 16) ^ seed[2], word_at(keys, 24) ^ seed[3]) ^
                    flow_fold(word_at(keys, 32) ^ seed[4], word_at(keys, 40) ^ seed[5]) ^
                    flow_fold(word_at(keys, 48) ^ seed[6], word_at(keys, 56) ^ seed[7]);
    if ((keys->kind.marks & FLOW_INNER) != 0)
        hash ^= hash_inner(seed, &keys->inner);
    return flow_fold(hash ^ seed[8], seed[9] | 1);
}

static inline uint64_t plain_hash(const struct flow_index *index, const uint64_t *word, uint64_t last)
{
    const uint64_t *seed = index->seed;
    return flow_fold(flow_fold(word[0] ^ seed[0], word[1] ^ seed[1]) ^ seed[2], flow_fold(word[2] ^ seed[3], last ^ seed[4]) ^ seed[5]);
}

void flow_index_prefetch(const struct flow_index *index, uint64_t hash)
{
    table_prefetch(&index->other_table, hash);
}

void flow_index_prefetch_flow(const struct flow_index *index, uint64_t hash)
{
    uint32_t number = table_glance(&index->other_table, hash);
    if (number != 0)
        __builtin_prefetch(&index->state[number - 1], 1);
}

void flow_index_prefetch_keys(const struct flow_index *index, uint64_t hash)
{
    uint32_t number = table_glance(&index->other_table, hash);
    if (number != 0)
        __builtin_prefetch(&index->other[(uint32_t)index->state[number - 1].word[3]]);
}

/* ---- what flows have in common ----------------------------------------------------------------- */

static uint32_t mac_take(struct flow_index *index, uint64_t mac, uint64_t hash)
{
    struct flow_table *table = &index->mac_table;
    uint32_t at = place_of(table, hash), tag = tag_of(hash), number = table_next(table, tag, &at);
    for (; number != 0; number = table_after(table, tag, &at))
        if (index->mac[number - 1] == mac)
            return number - 1;
    index->mac[index->macs] = mac;
    table_put(table, at, tag, ++index->macs);
    return index->macs - 1;
}

static inline uint64_t be64_at(const void *bytes, uint32_t at)
{
    uint64_t word = word_at(bytes, at);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(word) : word;
}

static inline struct flow_end_record end_of(const struct flow_end *end, uint32_t version)
{
    struct flow_end_record record = {.version = version};
    uint64_t high = be64_at(end->address, 0), low = be64_at(end->address, 8);
    if (version == 4)
        record.low = high >> 32;
    else if (version == 6)
        record.high = high, record.low = low;
    record.mac = be64_at(end, offsetof(struct flow_end, mac)) >> 16; /* the port lies behind it */
    return record;
}

_Static_assert(offsetof(struct flow_end, mac) + 8 == sizeof(struct flow_end), "eight bytes are there");

/* An end that is looked for. Of those of version 4 and without address only `low` counts, and `high` is not set. */
struct end_search {
    uint64_t low, mac, hash, high;
    uint32_t version;
};

static inline uint64_t mac_hash(const struct flow_index *index, uint64_t mac)
{
    return flow_fold(mac ^ index->seed[4], index->seed[5] | 1);
}

static inline uint32_t end_take(struct flow_index *index, const struct end_search *wanted)
{
    struct flow_table *table = &index->end_table;
    uint32_t at = place_of(table, wanted->hash), tag = tag_of(wanted->hash);
    uint32_t number = table_next(table, tag, &at);
    for (; number != 0; number = table_after(table, tag, &at)) {
        const struct flow_end_record *found = &index->end[number - 1];
        if (((found->low ^ wanted->low) | (found->mac ^ wanted->mac) | (found->version ^ wanted->version)) == 0 &&
            (wanted->version != 6 || found->high == wanted->high))
            return number - 1;
    }
    index->end[index->ends] = (struct flow_end_record){
        .high = wanted->version == 6 ? wanted->high : 0,
        .low = wanted->low,
        .mac = wanted->mac,
        .version = wanted->version,
        .mac_number = mac_take(index, wanted->mac, mac_hash(index, wanted->mac)),
    };
    index->ends_of[wanted->version / 2 - (wanted->version != 0)]++;
    table_put(table, at, tag, ++index->ends);
    return index->ends - 1;
}

static void other_ends(const struct flow_index *index, const struct flow_state *state, struct end_search *search)
{
    const struct flow_record *other = &index->other[(uint32_t)state->word[3]];
    for (unsigned side = 0; side < 2; side++) {
        struct flow_end_record end = end_of(&other->end[side], other->kind.version);
        search[side] = (struct end_search){.low = end.low, .mac = end.mac, .high = end.high, .version = end.version};
        search[side].hash = flow_fold(end.low ^ index->seed[0], end.mac ^ index->seed[2]) ^ flow_fold(end.high ^ index->seed[1], index->seed[3]);
    }
}

static inline void plain_ends(const struct flow_index *index, const struct flow_state *state, struct end_search *search)
{
    for (unsigned side = 0; side < 2; side++) {
        uint64_t low = (uint32_t)(side == 0 ? state->word[0] >> 32 : state->word[0]), mac = state->word[1 + side] >> 16;
        search[side].low = low;
        search[side].mac = mac;
        search[side].version = 4;
        search[side].hash = flow_fold(low ^ index->seed[0], mac ^ index->seed[2]) ^ index->hash_without_high;
    }
}

/*
 * Looks up the ends of the flows that came since the last time: many at once, so that memory is
 * waited for once and not for each.
 */
void flow_index_catch_up(struct flow_index *index)
{
    struct end_search search[2 * FRESH_MAX];
    uint32_t count = index->flows - index->flows_ended;
    struct flow_state *fresh = &index->state[index->flows_ended];
    for (uint32_t i = 0; i < count; i++) {
        if ((fresh[i].word[3] & FLOW_OTHER) == 0)
            plain_ends(index, &fresh[i], &search[2 * i]);
        else
            other_ends(index, &fresh[i], &search[2 * i]);
        table_prefetch(&index->end_table, search[2 * i].hash);
        table_prefetch(&index->end_table, search[2 * i + 1].hash);
    }
    for (uint32_t i = 0; i < 2 * count; i++) {
        uint32_t number = table_glance(&index->end_table, search[i].hash);
        if (number != 0)
            __builtin_prefetch(&index->end[number - 1]);
        else
            table_prefetch(&index->mac_table, mac_hash(index, search[i].mac));
    }
    for (uint32_t i = 0; i < count; i++) {
        fresh[i].end[0] = end_take(index, &search[2 * i]);
        fresh[i].end[1] = end_take(index, &search[2 * i + 1]);
    }
    index->flows_ended = index->flows;
}

/* UINT32_MAX: there is no room. */
static uint32_t kind_take(struct flow_index *index, const struct flow_kind *kind)
{
    struct flow_table *table = &index->kind_table;
    uint64_t hash = flow_fold(word_at(kind, 0) ^ index->seed[0], word_at(kind, 8) ^ index->seed[1]);
    uint32_t at = place_of(table, hash), tag = tag_of(hash), number = table_next(table, tag, &at);
    for (; number != 0; number = table_after(table, tag, &at))
        if (memcmp(&index->kind[number - 1], kind, sizeof *kind) == 0)
            return number - 1;
    if (index->kinds == FLOW_INDEX_KINDS_MAX)
        return UINT32_MAX;
    index->kind[index->kinds] = *kind;
    table_put(table, at, tag, ++index->kinds);
    return index->kinds - 1;
}

/* A number plus one; UINT32_MAX: there is no room. */
static uint32_t inner_take(struct flow_index *index, const struct flow_inner *inner)
{
    struct flow_table *table = &index->inner_table;
    uint64_t hash = hash_inner(index->seed, inner);
    uint32_t at = place_of(table, hash), tag = tag_of(hash), number = table_next(table, tag, &at);
    for (; number != 0; number = table_after(table, tag, &at))
        if (memcmp(&index->inner[number - 1], inner, sizeof *inner) == 0)
            return number;
    if (index->inners == index->inners_max)
        return UINT32_MAX;
    index->inner[index->inners] = *inner;
    table_put(table, at, tag, ++index->inners);
    return index->inners;
}

/* The set with one entry more. The last set stands for all entries: what has no room is in it. */
static uint8_t set_with(struct flow_index *index, uint8_t set, uint8_t entry)
{
    if (set == 0 && index->alone[entry] != 0)
        return index->alone[entry];
    struct flow_entry_set wanted = index->set[set];
    wanted.word[entry >> 6] |= UINT64_C(1) << (entry & 63);
    for (uint32_t i = 0; i < index->sets; i++)
        if (memcmp(&index->set[i], &wanted, sizeof wanted) == 0)
            return (uint8_t)i;
    if (index->sets == FLOW_INDEX_SETS_MAX - 1) {
        memset(&index->set[index->sets], 0xff, sizeof wanted);
        index->sets++;
    }
    if (index->sets == FLOW_INDEX_SETS_MAX)
        return FLOW_INDEX_SETS_MAX - 1;
    index->set[index->sets] = wanted;
    if (set == 0)
        index->alone[entry] = (uint8_t)index->sets;
    return (uint8_t)index->sets++;
}

/* ---- flows ------------------------------------------------------------------------------------- */

static bool flows_have_room(struct flow_index *index)
{
    if (index->ends + 2 * (index->flows - index->flows_ended + 1) > index->ends_max)
        flow_index_catch_up(index);
    return index->flows < index->flows_max && index->ends + 2 * FRESH_MAX <= index->ends_max;
}

static inline void flow_made(struct flow_index *index)
{
    index->flows++;
    if (index->flows - index->flows_ended == FRESH_MAX)
        flow_index_catch_up(index);
}

static void other_write(struct flow_index *index, const struct flow_keys *keys, uint32_t kind, uint32_t inner)
{
    memcpy(&index->other[index->others], keys, FLOW_KEY_BYTES);
    index->state[index->flows] = (struct flow_state){
        .word = {[3] = FLOW_OTHER | index->others},
        .inner = inner,
        .kind = (uint16_t)kind,
        .ports = (keys->kind.marks & FLOW_PORTS) != 0,
        .port = {keys->end[0].port, keys->end[1].port},
    };
    index->others++;
    flow_made(index);
}

static uint32_t other_make(struct flow_index *index, const struct flow_keys *keys, uint32_t at, uint32_t tag)
{
    uint32_t inner = 0, kind = flows_have_room(index) ? kind_take(index, &keys->kind) : UINT32_MAX;
    if (kind == UINT32_MAX)
        return FLOW_REST;
    if ((keys->kind.marks & FLOW_INNER) != 0)
        inner = inner_take(index, &keys->inner);
    if (inner == UINT32_MAX)
        return FLOW_REST;
    table_put(&index->other_table, at, tag, index->flows + 1);
    other_write(index, keys, kind, inner);
    return index->flows - 1;
}

/* The flow, where it is there; else FLOW_REST, and where it would have to be put. */
static inline uint32_t other_find(const struct flow_index *index, const struct flow_keys *keys, uint32_t *at, uint32_t tag)
{
    const struct flow_table *table = &index->other_table;
    uint32_t number = table_next(table, tag, at);
    for (; number != 0; number = table_after(table, tag, at)) {
        const struct flow_state *state = &index->state[number - 1];
        if (memcmp(&index->other[(uint32_t)state->word[3]], keys, FLOW_KEY_BYTES) == 0 &&
            ((keys->kind.marks & FLOW_INNER) == 0 ||
             memcmp(&index->inner[state->inner - 1], &keys->inner, sizeof keys->inner) == 0))
            return number - 1;
    }
    return FLOW_REST;
}

static uint32_t other_take(struct flow_index *index, const struct flow_keys *keys, uint64_t hash)
{
    uint32_t at = place_of(&index->other_table, hash), tag = tag_of(hash), flow = other_find(index, keys, &at, tag);
    return flow != FLOW_REST ? flow : other_make(index, keys, at, tag);
}

static uint32_t plain_make(struct flow_index *index, const uint64_t *word, uint64_t last, uint32_t at, uint32_t tag)
{
    uint16_t *known = &index->plain_kind[last];
    if (!flows_have_room(index))
        return FLOW_REST;
    if (*known == 0) {
        const struct flow_plain plain = {.word = {[3] = last}};
        const struct flow_kind kind = flow_plain_kind(&plain);
        uint32_t number = kind_take(index, &kind);
        if (number == UINT32_MAX)
            return FLOW_REST;
        *known = (uint16_t)(number + 1);
    }
    table_put(&index->plain_table, at, tag, index->flows + 1);
    index->state[index->flows] = (struct flow_state){
        .word = {word[0], word[1], word[2], last},
        .kind = (uint16_t)(*known - 1),
        .ports = 1,
        .port = {(uint16_t)word[1], (uint16_t)word[2]},
    };
    flow_made(index);
    return index->flows - 1;
}

/* By the words of a plain packet; `last`: the last one, without what a note has in it. */
static inline uint32_t plain_find(const struct flow_index *index, const uint64_t *word, uint64_t last, uint32_t *at, uint32_t tag)
{
    const struct flow_table *table = &index->plain_table;
    uint32_t number = table_next(table, tag, at);
    for (; number != 0; number = table_after(table, tag, at)) {
        const uint64_t *known = index->state[number - 1].word;
        if (((known[0] ^ word[0]) | (known[1] ^ word[1]) | (known[2] ^ word[2]) | (known[3] ^ last)) == 0)
            return number - 1;
    }
    return FLOW_REST;
}

static inline uint32_t plain_take(struct flow_index *index, const uint64_t *word, uint64_t last, uint64_t hash)
{
    uint32_t at = place_of(&index->plain_table, hash), tag = tag_of(hash), flow = plain_find(index, word, last, &at, tag);
    return flow != FLOW_REST ? flow : plain_make(index, word, last, at, tag);
}

static uint32_t flow_take(struct flow_index *index, const struct flow_keys *keys, uint64_t hash)
{
    struct flow_plain plain;
    return flow_keys_plain(keys, &plain) ? plain_take(index, plain.word, plain.word[3] & LAST_MASK, plain_hash(index, plain.word, plain.word[3] & LAST_MASK)) : other_take(index, keys, hash);
}

void flow_index_clear(struct flow_index *index)
{
    table_clear(&index->plain_table);
    table_clear(&index->other_table);
    table_clear(&index->end_table);
    table_clear(&index->mac_table);
    table_clear(&index->kind_table);
    table_clear(&index->inner_table);
    memset(index->plain_kind, 0, PLAIN_KINDS * sizeof *index->plain_kind);
    index->flows = index->flows_ended = index->others = index->ends = index->macs = index->kinds = index->inners = 0;
    memset(index->ends_of, 0, sizeof index->ends_of);
    memset(&index->set[0], 0, sizeof index->set[0]);
    memset(index->alone, 0, sizeof index->alone);
    index->sets = 1; /* the empty one */
    index->apps = index->app_bytes = 0;
    index->logged = index->blocks = index->frame_block = index->covered = 0;
    index->stopped = false;
    static const struct flow_keys rest = {
        .kind = {.marks = FLOW_LINK_UNSURE | FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE |
                          FLOW_DEEP}};
    other_write(index, &rest, kind_take(index, &rest.kind), 0);
}

/* The blocks up to the one that holds `at` have begun; the last of them with this packet. */
static void blocks_begin(struct flow_index *index, uint32_t at)
{
    uint32_t block = index->frame_block + at / BLOCK_BYTES;
    if (block >= index->blocks_max) {
        flow_index_stop(index);
        return;
    }
    for (; index->blocks <= block; index->blocks++)
        index->block[index->blocks] =
            (struct flow_block_start){.log = index->logged, .offset = FLOW_INDEX_NO_RECORD};
    index->block[block].offset = (uint16_t)(at % BLOCK_BYTES);
}

/* A packet is put at `at`. Returns whether it is indexed. */
static inline bool packet_begin(struct flow_index *index, uint32_t at)
{
    if (index->stopped)
        return false;
    if (index->frame_block + at / BLOCK_BYTES >= index->blocks)
        blocks_begin(index, at);
    if (index->logged == index->packets_max)
        flow_index_stop(index);
    return !index->stopped;
}

static inline void packet_count(struct flow_index *index, uint32_t flow, uint8_t from, uint8_t tcp_flags, uint8_t entry,
                                uint32_t record_bytes)
{
    struct flow_state *state = &index->state[flow];
    index->log[index->logged++] = flow;
    index->block[index->blocks - 1].packets++;
    state->packets++;
    state->bytes += record_bytes;
    state->tcp_flags |= tcp_flags;
    state->ways |= (uint8_t)(FLOW_WAY_0 << from);
    if ((index->set[state->set].word[entry >> 6] >> (entry & 63) & 1) == 0)
        state->set = set_with(index, state->set, entry);
}

void flow_index_add(struct flow_index *index, const struct flow_keys *keys, uint64_t hash, uint32_t at, uint32_t record_bytes)
{
    if (packet_begin(index, at))
        packet_count(index, flow_take(index, keys, hash), keys->from, keys->tcp_flags, keys->entry, record_bytes);
}

/* ---- many packets ------------------------------------------------------------------------------ */

/* Of a packet that is not plain it is the hash of nothing, which harms nobody: a branch would cost more. */
void flow_index_ask(const struct flow_index *index, const struct flow_note *note, uint32_t count, uint64_t *hash)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t *word = note[i].plain.word;
        hash[i] = plain_hash(index, word, word[3] & LAST_MASK);
        table_prefetch(&index->plain_table, hash[i]);
    }
}

void flow_index_ask_flows(const struct flow_index *index, const uint64_t *hash, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = table_glance(&index->plain_table, hash[i]);
        __builtin_prefetch(&index->state[number > 0 ? number - 1 : 0], 1);
    }
}

void flow_index_add_notes(struct flow_index *index, const struct flow_note *note, const struct flow_keys *keys, const uint64_t *hash,
                          uint32_t count, uint32_t end)
{
    for (uint32_t i = 0, at = flow_note_at(note), next; i < count; i++, at = next) {
        next = i + 1 < count ? flow_note_at(&note[i + 1]) : end;
        if (!packet_begin(index, at))
            return;
        const uint64_t *word = note[i].plain.word;
        if (flow_note_is_plain(&note[i]))
            packet_count(index, plain_take(index, word, word[3] & LAST_MASK, hash[i]), flow_plain_from(word[3]),
                         flow_plain_tcp_flags(word[3]), flow_note_entry(&note[i]), next - at);
        else
            packet_count(index, flow_take(index, &keys[i], hash[i]), keys[i].from, keys[i].tcp_flags, keys[i].entry, next - at);
    }
}

/* ---- the rest ---------------------------------------------------------------------------------- */

void flow_index_end_frame(struct flow_index *index, uint32_t frame_bytes)
{
    uint32_t blocks = (frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    if (!index->stopped && index->frame_block + blocks > index->blocks_max)
        flow_index_stop(index);
    if (index->stopped)
        return;
    index->frame_block += blocks;
    for (; index->blocks < index->frame_block; index->blocks++)
        index->block[index->blocks] =
            (struct flow_block_start){.log = index->logged, .offset = FLOW_INDEX_NO_RECORD};
}

/* The number of an application plus one; 0: no room, or no name. */
static uint16_t app_take(struct flow_index *index, const char *name)
{
    uint32_t app = 0, length = (uint32_t)strlen(name);
    while (app < index->apps && strcmp(index->app[app], name) != 0)
        app++;
    if (app < index->apps)
        return (uint16_t)(app + 1);
    if (app == FLOW_INDEX_APPS_MAX || length == 0 || length >= sizeof index->app[0] ||
        index->app_bytes + 1 + length > FLOW_INDEX_NAMES_BYTES)
        return 0;
    memcpy(index->app[index->apps++], name, length + 1);
    index->app_bytes += 1 + length;
    return (uint16_t)(app + 1);
}

void flow_index_verdict(struct flow_index *index, const struct flow_keys *keys, uint64_t hash,
                        const char *name)
{
    uint16_t app = index->stopped ? 0 : app_take(index, name);
    uint32_t flow = app > 0 ? flow_take(index, keys, hash) : FLOW_REST;
    if (flow != FLOW_REST)
        index->state[flow].app = app;
}

void flow_index_carry(struct flow_index *index, const struct flow_keys *keys, const char *name)
{
    struct flow_plain plain;
    uint32_t at, flow;
    if (flow_keys_plain(keys, &plain)) {
        uint64_t last = plain.word[3] & LAST_MASK, hash = plain_hash(index, plain.word, last);
        at = place_of(&index->plain_table, hash);
        flow = plain_find(index, plain.word, last, &at, tag_of(hash));
    } else {
        uint64_t hash = flow_index_hash(index, keys);
        at = place_of(&index->other_table, hash);
        flow = other_find(index, keys, &at, tag_of(hash));
    }
    if (flow != FLOW_REST)
        index->state[flow].app = app_take(index, name);
}

/* What is asked of layer 7 for some flows at a time, so that memory is waited for once. */
struct asked {
    uint32_t flow[JUDGED_AT_ONCE];
    uint64_t hash[JUDGED_AT_ONCE];
    uint32_t count;
};

/* Few pairs of protocols are on many flows: their names are looked up once. */
struct pairs {
    uint32_t pair[FLOW_INDEX_APPS_MAX];
    uint16_t app[FLOW_INDEX_APPS_MAX];
    uint32_t count;
};

static uint16_t pair_app(struct flow_index *index, const struct verdicts *verdicts, struct pairs *pairs,
                         const uint16_t protocol[2])
{
    char text[VERDICT_TEXT_BYTES];
    uint32_t pair = protocol[0] | (uint32_t)protocol[1] << 16, i = 0;
    while (i < pairs->count && pairs->pair[i] != pair)
        i++;
    if (i < pairs->count)
        return pairs->app[i];
    uint16_t app = verdicts_text(verdicts, protocol, text) ? app_take(index, text) : 0;
    if (pairs->count < FLOW_INDEX_APPS_MAX) {
        pairs->pair[pairs->count] = pair;
        pairs->app[pairs->count++] = app;
    }
    return app;
}

static void asked_answer(struct flow_index *index, const struct verdicts *verdicts, struct pairs *pairs,
                         struct asked *asked)
{
    for (uint32_t i = 0; i < asked->count; i++) {
        uint16_t protocol[2];
        if (verdicts_get(verdicts, asked->hash[i], protocol))
            index->state[asked->flow[i]].app = pair_app(index, verdicts, pairs, protocol);
    }
    asked->count = 0;
}

void flow_index_expect_verdicts(struct flow_index *index)
{
    index->verdicts_expected = true;
}

static void keys_of_flow(const struct flow_index *index, uint32_t flow, struct flow_keys *keys)
{
    const struct flow_state *state = &index->state[flow];
    if ((state->word[3] & FLOW_OTHER) == 0) {
        const struct flow_plain plain = {.word = {state->word[0], state->word[1], state->word[2], state->word[3]}};
        flow_plain_keys(&plain, keys);
        return;
    }
    memcpy(keys, &index->other[(uint32_t)state->word[3]], FLOW_KEY_BYTES);
    if ((keys->kind.marks & FLOW_INNER) != 0)
        keys->inner = index->inner[state->inner - 1];
}

void flow_index_judge(struct flow_index *index, const struct verdicts *verdicts)
{
    uint64_t seed = verdicts_seed(verdicts);
    struct asked asked = {.count = 0};
    struct pairs pairs;
    pairs.count = 0;
    for (uint32_t flow = FLOW_REST + 1; flow < index->flows; flow++) {
        struct flow_keys keys;
        keys_of_flow(index, flow, &keys);
        if (!verdicts_hash(&keys, seed, &asked.hash[asked.count]))
            continue;
        verdicts_prefetch(verdicts, asked.hash[asked.count]);
        asked.flow[asked.count++] = flow;
        if (asked.count == JUDGED_AT_ONCE)
            asked_answer(index, verdicts, &pairs, &asked);
    }
    asked_answer(index, verdicts, &pairs, &asked);
}

void flow_index_stop(struct flow_index *index)
{
    if (index->stopped)
        return;
    index->stopped = true;
    index->covered = index->blocks > 0 ? index->blocks - 1 : 0;
    if (index->frame_block > index->covered)
        index->covered = index->frame_block; /* nothing of the open frame was added yet */
}

bool flow_index_stopped(const struct flow_index *index)
{
    return index->stopped;
}

bool flow_index_whole(const struct flow_index *index)
{
    return !index->stopped && index->state[FLOW_REST].packets == 0;
}

uint32_t flow_index_flows(const struct flow_index *index)
{
    return index->flows;
}

uint32_t flow_index_packets(const struct flow_index *index)
{
    return index->logged;
}

/* ---- the bound --------------------------------------------------------------------------------- */

/* log2(a / b) in sixteenths, from above; 0 where a < b. */
static uint32_t log2_ratio_16(uint64_t a, uint64_t b)
{
    if (a <= b)
        return 0;
    uint64_t ratio = (a << 8) / b + 1; /* 8 bits behind the point */
    uint32_t whole = 63 - (uint32_t)__builtin_clzll(ratio);
    uint32_t rest = (uint32_t)((ratio << 8 >> whole) & 255); /* log2(1 + x) <= x + 0.09 */
    return (whole - 8) * 16 + rest / 16 + 3;
}

/*
 * Each part at its worst: codes fall back to plain numbers where those are shorter, counts and gaps
 * are worst where all flows are alike, because the logarithm is concave.
 */
static uint64_t bound_of(const struct flow_index *index, uint64_t ends, uint64_t macs)
{
    uint64_t flows = index->flows, kinds = index->kinds, inners = index->inners;
    uint64_t packets = index->logged, blocks = index->blocks + 2ul;
    uint64_t bytes = sizeof(struct flow_index_head) + FLOW_PARTS * 8 + blocks * 4;
    bytes += 256 * sizeof(struct frame_entry) + FLOW_INDEX_SERVICES_MAX * 2;
    bytes += (index->verdicts_expected ? FLOW_INDEX_NAMES_BYTES : index->app_bytes) + (index->sets + 1ul) * 32;
    bytes += kinds * 18 + inners * 45 + macs * 6;
    bytes += (flows < FLOW_INDEX_STATES_MAX ? flows : FLOW_INDEX_STATES_MAX) * 6;
    bytes += index->ends_of[1] * 4ul + index->ends_of[2] * 17ul;
    bytes += (flows / FLOW_INDEX_CHUNK + 1) * (sizeof(struct flow_index_chunk) + 1);
    const uint64_t end_mark = sizeof(struct flow_index_mark6) + sizeof(struct flow_index_mark_end);
    bytes += (flows + FLOW_INDEX_CHUNK) * sizeof(struct flow_index_mark) / FLOW_INDEX_CHUNK;
    bytes += (ends + 3 * FLOW_INDEX_END_CHUNK) * end_mark / FLOW_INDEX_END_CHUNK; /* of each class, the last one begun */
    uint64_t bits = ends * (bits_width((uint32_t)macs) + 2) + 2 * flows;
    bits += flows * (bits_width((uint32_t)ends) + bits_width((uint32_t)kinds));
    bits += flows * (10 + 41 + 8);
    bits += inners > 0 ? flows * bits_width((uint32_t)inners) : 0;
    bits += flows * (1 + log2_ratio_16(packets + flows, flows + 1) / 8 + 2);
    bits += packets * (log2_ratio_16(blocks * flows, packets + 1) + 56) / 16;
    return bytes + bits / 8;
}

uint32_t flow_index_bound(const struct flow_index *index)
{
    uint64_t ends_fresh = 2 * (index->flows - index->flows_ended);
    return (uint32_t)(bound_of(index, index->ends + ends_fresh, index->macs + ends_fresh) +
                      ends_fresh * 17);
}

uint32_t flow_index_allowance(const struct flow_index *index, uint32_t room_bytes)
{
    if (index->stopped)
        return UINT32_MAX; /* it grows no more */
    uint32_t bound = flow_index_bound(index), most = index->out_bytes - SLACK_BYTES;
    room_bytes = room_bytes < most ? room_bytes : most;
    return bound >= room_bytes ? 0 : (room_bytes - bound) / PACKET_BOUND;
}
