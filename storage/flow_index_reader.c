#include "flow_index_reader.h"

#include <stdlib.h>
#include <string.h>

#include "bit_stream.h"
#include "checksum.h"
#include "errors.h"
#include "flow_format.h"

#define GOLOMB_ORDER_MAX 31u
#define NO_INNER UINT32_MAX

struct part {
    uint32_t offset;
    uint32_t bytes;
    uint32_t crc;
    uint8_t code;
    uint8_t *loaded; /* and checked; null: not yet */
};

struct flow_columns { /* each null until it is decoded */
    uint32_t *address4;      /* of each end of version 4 */
    uint8_t (*address6)[16]; /* of each end of version 6 */
    uint32_t *first;        /* of each flow: its end 0 */
    uint32_t *second;
    struct flow_kind *kind; /* the kinds */
    uint32_t *flow_kind;    /* of the first flow_kinds flows: behind the last that is asked about it is not decoded */
    uint32_t flow_kinds;
    uint16_t (*port)[2]; /* of the first `ports` flows */
    uint32_t ports;
    uint64_t *mac; /* of each end */
    uint32_t *state;
    uint32_t *inner;
    struct flow_inner *inners;
};

struct flow_reader {
    struct flow_index_source source;
    struct part part[FLOW_PARTS];
    uint32_t blocks, packets, flows, ends[3], all_ends, macs;
    uint32_t kinds, states, sets, inners, entries, services, apps;
    struct flow_columns column;
    char (*app)[64];
    uint64_t bytes_read;
};

/* ---- opening ----------------------------------------------------------------------------------- */

static int read_bytes(struct flow_reader *reader, uint32_t offset, uint32_t count, uint8_t *into)
{
    reader->bytes_read += count;
    return reader->source.read(reader->source.context, offset, count, into);
}

static bool counts_are_good(const struct flow_reader *reader)
{
    return reader->blocks <= FLOW_INDEX_BLOCKS_MAX && reader->packets <= FLOW_INDEX_PACKETS_MAX &&
           reader->flows <= FLOW_INDEX_FLOWS_MAX && reader->ends[0] <= FLOW_INDEX_ENDS_MAX &&
           reader->ends[1] <= FLOW_INDEX_ENDS_MAX && reader->ends[2] <= FLOW_INDEX_ENDS_MAX &&
           reader->all_ends <= FLOW_INDEX_ENDS_MAX && reader->macs <= FLOW_INDEX_ENDS_MAX &&
           reader->kinds <= FLOW_INDEX_KINDS_MAX && reader->states <= FLOW_INDEX_STATES_MAX &&
           reader->sets <= FLOW_INDEX_SETS_MAX && reader->inners <= FLOW_INDEX_FLOWS_MAX &&
           reader->entries <= FRAME_ENTRIES_MAX && reader->apps <= FLOW_INDEX_APPS_MAX &&
           reader->services <= FLOW_INDEX_SERVICES_MAX;
}

static int read_head(struct flow_reader *reader)
{
    struct flow_index_head head;
    if (reader->source.bytes < sizeof head)
        return ERR_CORRUPT;
    int code = read_bytes(reader, 0, sizeof head, (uint8_t *)&head);
    if (code < 0)
        return code;
    uint32_t crc = le32_get(head.crc);
    head.crc = le32_of(0);
    if (memcmp(head.magic, FLOW_INDEX_MAGIC, sizeof head.magic) != 0 ||
        checksum_crc32c(&head, sizeof head) != crc || le32_get(head.bytes) > reader->source.bytes)
        return ERR_CORRUPT;
    if (le16_get(head.version) != FLOW_INDEX_VERSION || le16_get(head.parts) != FLOW_PARTS)
        return ERR_CORRUPT;
    reader->blocks = le32_get(head.blocks);
    reader->packets = le32_get(head.packets);
    reader->flows = le32_get(head.flows);
    for (unsigned i = 0; i < 3; i++)
        reader->ends[i] = le32_get(head.ends[i]);
    uint64_t ends = (uint64_t)reader->ends[0] + reader->ends[1] + reader->ends[2];
    reader->all_ends = ends > UINT32_MAX ? UINT32_MAX : (uint32_t)ends;
    reader->macs = le32_get(head.macs);
    reader->kinds = le32_get(head.kinds);
    reader->states = le32_get(head.states);
    reader->sets = le32_get(head.sets);
    reader->inners = le32_get(head.inners);
    reader->entries = le32_get(head.entries);
    reader->services = le32_get(head.services);
    reader->apps = le32_get(head.apps);
    for (unsigned i = 0; i < FLOW_PARTS; i++) {
        struct part *part = &reader->part[i];
        part->offset = le32_get(head.part[i].offset);
        part->bytes = le32_get(head.part[i].bytes);
        part->crc = le32_get(head.part[i].crc);
        part->code = head.part[i].code;
        if ((uint64_t)part->offset + part->bytes > le32_get(head.bytes) ||
            (part->code > GOLOMB_ORDER_MAX && part->code != FLOW_INDEX_RAW))
            return ERR_CORRUPT;
    }
    return counts_are_good(reader) ? 0 : ERR_CORRUPT;
}

int flow_reader_open(const struct flow_index_source *source, struct flow_reader **out)
{
    struct flow_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return ERR_NO_MEMORY;
    reader->source = *source;
    int code = read_head(reader);
    if (code < 0) {
        free(reader);
        return code;
    }
    *out = reader;
    return 0;
}

void flow_reader_close(struct flow_reader **slot)
{
    struct flow_reader *reader = *slot;
    if (!reader)
        return;
    for (unsigned i = 0; i < FLOW_PARTS; i++)
        free(reader->part[i].loaded);
    struct flow_columns *column = &reader->column;
    free(column->address4);
    free(column->address6);
    free(column->first);
    free(column->second);
    free(column->kind);
    free(column->flow_kind);
    free(column->port);
    free(column->mac);
    free(column->state);
    free(column->inner);
    free(column->inners);
    free(reader->app);
    free(reader);
    *slot = NULL;
}

uint32_t flow_reader_blocks(const struct flow_reader *reader)
{
    return reader->blocks;
}

uint64_t flow_reader_bytes_read(const struct flow_reader *reader)
{
    return reader->bytes_read;
}

/* ---- parts ------------------------------------------------------------------------------------- */

/* The part's bytes, checked, as bits. */
static int part_load(struct flow_reader *reader, enum flow_part number, struct bit_reader *bits)
{
    struct part *part = &reader->part[number];
    if (!part->loaded) {
        uint8_t *bytes = malloc(part->bytes > 0 ? part->bytes : 1);
        if (!bytes)
            return ERR_NO_MEMORY;
        int code = read_bytes(reader, part->offset, part->bytes, bytes);
        if (code == 0 && checksum_crc32c(bytes, part->bytes) != part->crc)
            code = ERR_CORRUPT;
        if (code < 0) {
            free(bytes);
            return code;
        }
        part->loaded = bytes;
    }
    bits_open(bits, part->loaded, part->bytes);
    return 0;
}

static inline __attribute__((always_inline)) uint64_t get_number(struct bit_reader *bits, uint8_t code, uint32_t width)
{
    if (code != FLOW_INDEX_RAW)
        return bits_get_golomb(bits, code);
    uint64_t low = bits_get(bits, width < 32 ? width : 32);
    return width > 32 ? low | (uint64_t)bits_get(bits, width - 32) << 32 : low;
}

/* Decodes a part of numbers below `limit` into a new array. */
static int load_numbers(struct flow_reader *reader, enum flow_part number, uint32_t count,
                        uint32_t width, uint32_t limit, uint32_t **out)
{
    struct bit_reader bits;
    if (*out)
        return 0;
    int code = part_load(reader, number, &bits);
    if (code < 0)
        return code;
    uint32_t *value = malloc((count + 1ul) * sizeof *value);
    if (!value)
        return ERR_NO_MEMORY;
    struct bit_reader now = bits; /* whose place the compiler keeps in a register */
    uint8_t order = reader->part[number].code;
    bool good = true;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t read = get_number(&now, order, width);
        good &= read < limit;
        value[i] = (uint32_t)read;
    }
    if (now.failed || !good) {
        free(value);
        return ERR_CORRUPT;
    }
    *out = value;
    return 0;
}

/* One of several records: bits say which bytes differ from the one before. */
static void get_record(struct bit_reader *bits, uint8_t *record, uint32_t count)
{
    uint64_t change = 0;
    for (uint32_t i = 0; i < count; i++)
        change |= (uint64_t)bits_get(bits, 1) << i;
    for (uint32_t i = 0; i < count; i++)
        if ((change >> i & 1) != 0)
            record[i] = (uint8_t)bits_get(bits, 8);
}

static uint16_t little16_at(const uint8_t *bytes)
{
    le16 field;
    memcpy(&field, bytes, sizeof field);
    return le16_get(field);
}

/* ---- columns ----------------------------------------------------------------------------------- */

static int decode_address4(struct flow_reader *reader, uint32_t *address)
{
    struct bit_reader bits;
    uint64_t sum = 0;
    int code = part_load(reader, FLOW_PART_ADDRESS4, &bits);
    if (code < 0)
        return code;
    struct bit_reader now = bits;
    uint8_t order = reader->part[FLOW_PART_ADDRESS4].code;
    bool good = true;
    for (uint32_t i = 0; i < reader->ends[1]; i++) {
        sum += get_number(&now, order, 32); /* each below 2^48: once beyond, the sum has been seen to be */
        good &= sum <= UINT32_MAX;
        address[i] = (uint32_t)sum;
    }
    return now.failed || !good ? ERR_CORRUPT : 0;
}

static int decode_address6(struct flow_reader *reader, uint8_t (*address)[16])
{
    struct bit_reader bits;
    uint8_t now[16] = {0};
    int code = part_load(reader, FLOW_PART_ADDRESS6, &bits);
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < reader->ends[2]; i++) {
        uint32_t common = bits_get(&bits, 5);
        for (uint32_t byte = common; byte < 16; byte++)
            now[byte] = (uint8_t)bits_get(&bits, 8);
        memcpy(address[i], now, sizeof now);
    }
    return bits.failed ? ERR_CORRUPT : 0;
}

static int load_addresses(struct flow_reader *reader)
{
    if (reader->column.address4)
        return 0;
    uint32_t *address4 = malloc((reader->ends[1] + 1ul) * sizeof *address4);
    uint8_t(*address6)[16] = malloc((reader->ends[2] + 1ul) * sizeof *address6);
    int code = address4 && address6 ? decode_address4(reader, address4) : ERR_NO_MEMORY;
    if (code == 0)
        code = decode_address6(reader, address6);
    if (code < 0) {
        free(address4);
        free(address6);
        return code;
    }
    reader->column.address4 = address4;
    reader->column.address6 = address6;
    return 0;
}

static void put_address4(uint8_t address[16], uint32_t number)
{
    for (unsigned byte = 0; byte < 4; byte++)
        address[byte] = (uint8_t)(number >> (24 - 8 * byte));
}

/* An end's address, into zeros. */
static void get_address(const struct flow_reader *reader, uint32_t end, uint8_t address[16])
{
    uint32_t behind4 = reader->ends[0] + reader->ends[1];
    if (end >= behind4)
        memcpy(address, reader->column.address6[end - behind4], 16);
    else if (end >= reader->ends[0])
        put_address4(address, reader->column.address4[end - reader->ends[0]]);
}

/* Of each flow both ends. */
static int load_flow_ends(struct flow_reader *reader)
{
    uint32_t *times = NULL, *first;
    if (reader->column.first)
        return 0;
    int code = load_numbers(reader, FLOW_PART_FIRSTS, reader->all_ends,
                            bits_width(FLOW_INDEX_FLOWS_MAX + 1), reader->flows + 1, &times);
    if (code == 0 && reader->part[FLOW_PART_SECONDS].code != bits_width(reader->all_ends))
        code = ERR_CORRUPT;
    if (code < 0) {
        free(times);
        return code;
    }
    struct bit_reader bits;
    uint32_t width = reader->part[FLOW_PART_SECONDS].code, flow = 0;
    first = malloc((reader->flows + 1ul) * sizeof *first);
    uint32_t *second = malloc((reader->flows + 1ul) * sizeof *second);
    code = first && second ? part_load(reader, FLOW_PART_SECONDS, &bits) : ERR_NO_MEMORY;
    for (uint32_t end = 0; code == 0 && end < reader->all_ends; end++) {
        if (times[end] > reader->flows - flow)
            code = ERR_CORRUPT;
        for (uint32_t i = 0; code == 0 && i < times[end]; i++)
            first[flow++] = end;
    }
    if (code == 0 && flow != reader->flows)
        code = ERR_CORRUPT;
    bool good = true;
    if (code == 0) {
        struct bit_reader now = bits;
        for (uint32_t i = 0; i < reader->flows; i++) {
            second[i] = bits_get(&now, width);
            good &= second[i] < reader->all_ends;
        }
        code = now.failed || !good ? ERR_CORRUPT : 0;
    }
    free(times);
    if (code < 0) {
        free(first);
        free(second);
        return code;
    }
    reader->column.first = first;
    reader->column.second = second;
    return 0;
}

static int load_kind_table(struct flow_reader *reader)
{
    struct bit_reader bits;
    uint8_t now[16] = {0};
    if (!reader->column.kind) {
        int code = part_load(reader, FLOW_PART_KINDS, &bits);
        struct flow_kind *kind = calloc(reader->kinds + 1ul, sizeof *kind);
        if (code == 0 && !kind)
            code = ERR_NO_MEMORY;
        for (uint32_t i = 0; code == 0 && i < reader->kinds; i++) {
            get_record(&bits, now, sizeof now);
            kind[i] = (struct flow_kind){
                .marks = little16_at(now),
                .vlan = {little16_at(now + 2), little16_at(now + 4)},
                .ethertype = little16_at(now + 6),
                .link_type = little16_at(now + 8),
                .version = now[10],
                .protocol = now[11],
                .tags = now[12],
                .labels = now[13],
                .tunnel = now[14],
            };
        }
        if (code == 0 && bits.failed)
            code = ERR_CORRUPT;
        if (code < 0) {
            free(kind);
            return code;
        }
        reader->column.kind = kind;
    }
    return 0;
}

/* Of the first `count` flows. */
static int load_kinds(struct flow_reader *reader, uint32_t count)
{
    struct flow_columns *column = &reader->column;
    int code = load_kind_table(reader);
    if (code != 0 || (column->flow_kind && column->flow_kinds >= count))
        return code;
    free(column->flow_kind);
    column->flow_kind = NULL;
    column->flow_kinds = count;
    return load_numbers(reader, FLOW_PART_KIND, count, bits_width(reader->kinds), reader->kinds, &column->flow_kind);
}

static const struct flow_kind *kind_of(const struct flow_reader *reader, uint32_t flow)
{
    return &reader->column.kind[reader->column.flow_kind[flow]];
}

static int decode_ports(struct flow_reader *reader, uint16_t (*port)[2], uint32_t count)
{
    struct bit_reader services, coded, plain;
    uint16_t known[FLOW_INDEX_SERVICES_MAX];
    int code = part_load(reader, FLOW_PART_SERVICES, &services);
    if (code == 0)
        code = part_load(reader, FLOW_PART_SERVICE, &coded);
    if (code == 0)
        code = part_load(reader, FLOW_PART_PORTS, &plain);
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < reader->services; i++)
        known[i] = (uint16_t)bits_get(&services, 16);
    struct bit_reader service = coded, ports = plain;
    uint8_t order = reader->part[FLOW_PART_SERVICE].code;
    uint32_t width = bits_width(1 + 2 * reader->services);
    for (uint32_t i = 0; i < count; i++) {
        if ((kind_of(reader, i)->marks & FLOW_PORTS) == 0)
            continue;
        uint64_t which = get_number(&service, order, width);
        if (which > 2ul * reader->services)
            return ERR_CORRUPT;
        if (which == 0) {
            port[i][0] = (uint16_t)bits_get(&ports, 16);
            port[i][1] = (uint16_t)bits_get(&ports, 16);
        } else {
            uint32_t side = (which - 1) & 1;
            port[i][side] = known[(which - 1) / 2];
            port[i][!side] = (uint16_t)bits_get(&ports, 16);
        }
    }
    return services.failed || service.failed || ports.failed ? ERR_CORRUPT : 0;
}

/* Of the first `count` flows, whose kinds are known. */
static int load_ports(struct flow_reader *reader, uint32_t count)
{
    if (reader->column.port && reader->column.ports >= count)
        return 0;
    uint16_t(*port)[2] = calloc(count + 1ul, sizeof *port);
    int code = port ? decode_ports(reader, port, count) : ERR_NO_MEMORY;
    if (code < 0) {
        free(port);
        return code;
    }
    free(reader->column.port);
    reader->column.port = port;
    reader->column.ports = count;
    return 0;
}

static int load_macs(struct flow_reader *reader)
{
    struct bit_reader macs, ends;
    if (reader->column.mac)
        return 0;
    int code = part_load(reader, FLOW_PART_MACS, &macs);
    if (code == 0)
        code = part_load(reader, FLOW_PART_END_MACS, &ends);
    if (code < 0)
        return code;
    uint64_t *mac = malloc((reader->macs + 1ul) * sizeof *mac), now = 0, rank = 0;
    uint64_t *of_end = malloc((reader->all_ends + 1ul) * sizeof *of_end);
    code = mac && of_end ? 0 : ERR_NO_MEMORY;
    for (uint32_t i = 0; code == 0 && i < reader->macs; i++) {
        mac[i] = now += get_number(&macs, reader->part[FLOW_PART_MACS].code, 48);
        if (now >> 48 != 0)
            code = ERR_CORRUPT;
    }
    for (uint32_t i = 0; code == 0 && i < reader->all_ends; i++) {
        uint64_t step = get_number(&ends, reader->part[FLOW_PART_END_MACS].code,
                                   bits_width(reader->macs) + 1);
        rank = (step & 1) != 0 ? rank - (step + 1) / 2 : rank + step / 2;
        if (rank >= reader->macs)
            code = ERR_CORRUPT;
        else
            of_end[i] = mac[rank];
    }
    if (code == 0 && (macs.failed || ends.failed))
        code = ERR_CORRUPT;
    free(mac);
    if (code < 0) {
        free(of_end);
        return code;
    }
    reader->column.mac = of_end;
    return 0;
}

static int decode_inners(struct flow_reader *reader, struct flow_inner *inners)
{
    struct bit_reader bits;
    uint8_t now[sizeof(struct flow_inner)] = {0};
    int code = part_load(reader, FLOW_PART_INNERS, &bits);
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < reader->inners; i++) {
        get_record(&bits, now, sizeof now);
        memcpy(&inners[i], now, sizeof now);
        for (unsigned end = 0; end < 2; end++)
            inners[i].port[end] = little16_at(now + 32 + 2 * end);
    }
    return bits.failed ? ERR_CORRUPT : 0;
}

static int load_inners(struct flow_reader *reader)
{
    struct bit_reader bits;
    if (reader->column.inner)
        return 0;
    int code = part_load(reader, FLOW_PART_INNER, &bits);
    if (code == 0 && reader->part[FLOW_PART_INNER].code != bits_width(reader->inners))
        code = ERR_CORRUPT;
    if (code < 0)
        return code;
    struct flow_inner *inners = calloc(reader->inners + 1ul, sizeof *inners);
    uint32_t *inner = malloc((reader->flows + 1ul) * sizeof *inner);
    code = inners && inner ? decode_inners(reader, inners) : ERR_NO_MEMORY;
    for (uint32_t i = 0; code == 0 && i < reader->flows; i++) {
        inner[i] = NO_INNER;
        if ((kind_of(reader, i)->marks & FLOW_INNER) == 0)
            continue;
        inner[i] = bits_get(&bits, reader->part[FLOW_PART_INNER].code);
        if (inner[i] >= reader->inners || bits.failed)
            code = ERR_CORRUPT;
    }
    if (code < 0) {
        free(inners);
        free(inner);
        return code;
    }
    reader->column.inners = inners;
    reader->column.inner = inner;
    return 0;
}

static int load_apps(struct flow_reader *reader)
{
    struct bit_reader bits;
    if (reader->app)
        return 0;
    int code = part_load(reader, FLOW_PART_APPS, &bits);
    if (code < 0)
        return code;
    char(*app)[64] = calloc(reader->apps + 1ul, sizeof *app);
    if (!app)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < reader->apps; i++) {
        uint32_t length = bits_get(&bits, 8);
        for (uint32_t byte = 0; byte < length; byte++) {
            char letter = (char)bits_get(&bits, 8);
            if (byte < sizeof app[0] - 1)
                app[i][byte] = letter;
        }
    }
    if (bits.failed) {
        free(app);
        return ERR_CORRUPT;
    }
    reader->app = app;
    return 0;
}

static int load_states(struct flow_reader *reader)
{
    struct bit_reader bits;
    int code = load_apps(reader);
    if (code == 0)
        code = part_load(reader, FLOW_PART_STATES, &bits);
    if (code == 0)
        code = part_load(reader, FLOW_PART_SETS, &bits);
    if (code == 0)
        code = part_load(reader, FLOW_PART_ENTRIES, &bits);
    if (code == 0 &&
        (reader->part[FLOW_PART_STATES].bytes < reader->states * sizeof(struct flow_index_state) ||
         reader->part[FLOW_PART_SETS].bytes < reader->sets * 32 ||
         reader->part[FLOW_PART_ENTRIES].bytes < reader->entries * sizeof(struct frame_entry)))
        code = ERR_CORRUPT;
    if (code < 0)
        return code;
    return load_numbers(reader, FLOW_PART_STATE, reader->flows, bits_width(reader->states),
                        reader->states, &reader->column.state);
}

/* Addresses and kinds, and what else is needed (enum narrowing_need), of the first `count` flows at least. */
static int load_flows(struct flow_reader *reader, unsigned needs, uint32_t count)
{
    if ((needs & (NEED_INNER | NEED_SEEN)) != 0)
        count = reader->flows;
    int code = load_addresses(reader);
    if (code == 0)
        code = load_flow_ends(reader);
    if (code == 0)
        code = load_kinds(reader, count);
    if (code == 0 && (needs & NEED_PORTS) != 0)
        code = load_ports(reader, count);
    if (code == 0 && (needs & NEED_MACS) != 0)
        code = load_macs(reader);
    if (code == 0 && (needs & NEED_INNER) != 0)
        code = load_inners(reader);
    if (code == 0 && (needs & NEED_SEEN) != 0)
        code = load_states(reader);
    return code;
}

/* A flow's keys and what was seen of it, as far as load_flows() has been called for. */
static void flow_get(const struct flow_reader *reader, uint32_t flow, struct flow_keys *keys,
                     struct flow_seen *seen)
{
    const struct flow_columns *column = &reader->column;
    const uint32_t number[2] = {column->first[flow], column->second[flow]};
    *keys = (struct flow_keys){.kind = *kind_of(reader, flow)};
    *seen = (struct flow_seen){.ways = FLOW_WAY_0 | FLOW_WAY_1};
    for (unsigned i = 0; i < 2; i++) {
        struct flow_end *end = &keys->end[i];
        get_address(reader, number[i], end->address);
        for (unsigned byte = 0; column->mac && byte < 6; byte++)
            end->mac[byte] = (uint8_t)(column->mac[number[i]] >> (40 - 8 * byte));
        if (column->port)
            end->port = column->port[flow][i];
    }
    if (column->inner && column->inner[flow] != NO_INNER)
        keys->inner = column->inners[column->inner[flow]];
    if (!column->state)
        return;
    struct flow_index_state state;
    memcpy(&state, reader->part[FLOW_PART_STATES].loaded + column->state[flow] * sizeof state,
           sizeof state);
    uint32_t set = le16_get(state.set), app = le16_get(state.app);
    *seen = (struct flow_seen){
        .app = app > 0 && app <= reader->apps ? reader->app[app - 1] : NULL,
        .entry_set =
            set < reader->sets ? reader->part[FLOW_PART_SETS].loaded + set * 32ul : NULL,
        .entry = (const struct frame_entry *)reader->part[FLOW_PART_ENTRIES].loaded,
        .entries = reader->entries,
        .ways = state.ways,
        .tcp_flags = state.tcp_flags,
    };
}

int flow_reader_each(struct flow_reader *reader,
                     int (*each)(void *context, const struct flow_keys *keys,
                                 const struct flow_seen *seen),
                     void *context)
{
    int code = load_flows(reader, NEED_PORTS | NEED_MACS | NEED_INNER | NEED_SEEN, reader->flows);
    for (uint32_t flow = 0; code == 0 && flow < reader->flows; flow++) {
        struct flow_keys keys;
        struct flow_seen seen;
        flow_get(reader, flow, &keys, &seen);
        code = each(context, &keys, &seen);
    }
    return code;
}

int flow_reader_block(struct flow_reader *reader, uint32_t block, uint32_t *offset,
                      uint32_t *packets)
{
    struct bit_reader bits;
    int code = part_load(reader, FLOW_PART_BLOCKS, &bits);
    if (code < 0)
        return code;
    if (block >= reader->blocks || (block + 1ul) * 25 > bits.end)
        return ERR_CORRUPT;
    bits.at = block * 25ul;
    *offset = bits_get(&bits, 14);
    *packets = bits_get(&bits, 11);
    if (*offset == FLOW_INDEX_NO_RECORD)
        *offset = UINT32_MAX;
    return 0;
}

/* ---- selecting --------------------------------------------------------------------------------- */

/* Of each end, whether the filter can want it. Returns whether it can want any. */
static bool judge_ends(const struct flow_reader *reader, const struct narrowing *tree, uint8_t *good)
{
    uint8_t address[16] = {0};
    uint8_t any = 0, *at = good;
    memset(at, 0, reader->ends[0]);
    at += reader->ends[0];
    for (uint32_t i = 0; i < reader->ends[1]; i++) {
        put_address4(address, reader->column.address4[i]);
        any |= at[i] = narrowing_end(tree, 4, address);
    }
    at += reader->ends[1];
    for (uint32_t i = 0; i < reader->ends[2]; i++)
        any |= at[i] = narrowing_end(tree, 6, reader->column.address6[i]);
    return any != 0;
}

/* Flows with an end that the filter can want, and those whose addresses are not sure: wanted[], and how many come up to the last of them, 0: there is none. */
static int candidates_by_end(struct flow_reader *reader, const struct narrowing *tree,
                             uint8_t *wanted, uint32_t *count)
{
    *count = 0;
    int code = load_addresses(reader);
    if (code == 0)
        code = load_kind_table(reader);
    if (code < 0)
        return code;
    uint8_t *end_good = malloc(reader->all_ends + 1ul);
    if (!end_good)
        return ERR_NO_MEMORY;
    bool possible = judge_ends(reader, tree, end_good), unsure = false; /* mostly no end is one that is wanted, and which flow has which need not be decoded */
    for (uint32_t i = 0; i < reader->kinds; i++)
        unsure |= narrowing_end_unsure(tree, &reader->column.kind[i]);
    memset(wanted, 0, reader->flows);
    if (possible || unsure)
        code = load_flow_ends(reader);
    if (code == 0 && unsure)
        code = load_kinds(reader, reader->flows);
    for (uint32_t i = 0; code == 0 && possible && i < reader->flows; i++)
        wanted[i] = end_good[reader->column.first[i]] | end_good[reader->column.second[i]];
    for (uint32_t i = 0; code == 0 && unsure && i < reader->flows; i++)
        wanted[i] |= narrowing_end_unsure(tree, kind_of(reader, i));
    free(end_good);
    const uint8_t *last = code == 0 ? memrchr(wanted, 1, reader->flows) : NULL;
    *count = last ? (uint32_t)(last - wanted) + 1 : 0;
    return code;
}

/* *sure: all packets of all flows that are wanted match. */
static int judge_flows(struct flow_reader *reader, const struct narrowing *tree, uint8_t *wanted, bool *sure)
{
    uint32_t count = reader->flows;
    memset(wanted, 1, reader->flows);
    *sure = true;
    if (!tree)
        return 0;
    int code = narrowing_has_ends(tree) ? candidates_by_end(reader, tree, wanted, &count) : 0;
    if (code == 0 && count > 0)
        code = load_flows(reader, narrowing_needs(tree), count);
    for (uint32_t i = 0; code == 0 && i < count; i++) {
        struct flow_keys keys;
        struct flow_seen seen;
        if (!wanted[i])
            continue;
        flow_get(reader, i, &keys, &seen);
        enum narrowing_verdict verdict = narrowing_judge(tree, &keys, &seen);
        wanted[i] = verdict != NARROWING_NONE;
        *sure &= verdict != NARROWING_MAYBE;
    }
    return code;
}

static int select_flow(struct flow_reader *reader, struct bit_reader *bits, bool wanted,
                       struct flow_selection *selection)
{
    uint64_t packets = bits_get_golomb(bits, reader->part[FLOW_PART_POSTINGS].code);
    if (packets > reader->packets || (packets > 0 && reader->blocks == 0))
        return ERR_CORRUPT;
    uint32_t k = packets > 0 ? flow_gap_order(reader->blocks, (uint32_t)packets) : 0;
    uint64_t block = 0;
    for (uint64_t i = 0; i < packets; i++) {
        block += bits_get_rice(bits, k, reader->blocks);
        if (block >= reader->blocks || bits->failed)
            return ERR_CORRUPT;
        if (wanted && selection->block[block] < UINT16_MAX)
            selection->block[block]++;
    }
    if (wanted) {
        selection->flows++;
        selection->packets += packets;
    }
    return bits->failed ? ERR_CORRUPT : 0;
}

/* One piece of the postings: read only where one of its flows is wanted. */
static int select_chunk(struct flow_reader *reader, const uint8_t *wanted, uint32_t chunk,
                        struct flow_selection *selection)
{
    struct bit_reader bits;
    struct flow_index_chunk this, next;
    const struct part *postings = &reader->part[FLOW_PART_POSTINGS];
    uint32_t from = chunk * FLOW_INDEX_CHUNK, to = from + FLOW_INDEX_CHUNK;
    to = to < reader->flows ? to : reader->flows;
    if (!memchr(wanted + from, 1, to - from))
        return 0;
    const uint8_t *chunks = reader->part[FLOW_PART_CHUNKS].loaded;
    memcpy(&this, chunks + chunk * sizeof this, sizeof this);
    uint32_t begin = le32_get(this.offset), end = postings->bytes;
    if (to < reader->flows) {
        memcpy(&next, chunks + (chunk + 1ul) * sizeof next, sizeof next);
        end = le32_get(next.offset);
    }
    if (begin > end || end > postings->bytes)
        return ERR_CORRUPT;
    uint8_t *bytes = malloc(end - begin + 1ul);
    if (!bytes)
        return ERR_NO_MEMORY;
    int code = read_bytes(reader, postings->offset + begin, end - begin, bytes);
    if (code == 0 && checksum_crc32c(bytes, end - begin) != le32_get(this.crc))
        code = ERR_CORRUPT;
    bits_open(&bits, bytes, end - begin);
    for (uint32_t flow = from; code == 0 && flow < to; flow++)
        code = select_flow(reader, &bits, wanted[flow] != 0, selection);
    free(bytes);
    return code;
}

static int select_blocks(struct flow_reader *reader, const uint8_t *wanted,
                         struct flow_selection *selection)
{
    struct bit_reader bits;
    if (!memchr(wanted, 1, reader->flows))
        return 0;
    uint32_t chunks = (reader->flows + FLOW_INDEX_CHUNK - 1) / FLOW_INDEX_CHUNK;
    int code = part_load(reader, FLOW_PART_CHUNKS, &bits);
    if (code == 0 &&
        reader->part[FLOW_PART_CHUNKS].bytes < chunks * sizeof(struct flow_index_chunk))
        code = ERR_CORRUPT;
    for (uint32_t chunk = 0; code == 0 && chunk < chunks; chunk++)
        code = select_chunk(reader, wanted, chunk, selection);
    for (uint32_t i = 0; code == 0 && i < reader->blocks; i++)
        selection->selected += selection->block[i] > 0;
    return code;
}

static int add_sizes(struct flow_reader *reader, const uint8_t *wanted,
                     struct flow_selection *selection)
{
    struct bit_reader bits;
    int code = part_load(reader, FLOW_PART_SIZES, &bits);
    if (code == 0 && reader->part[FLOW_PART_SIZES].bytes < reader->flows)
        code = ERR_CORRUPT;
    for (uint32_t flow = 0; code == 0 && flow < reader->flows; flow++)
        if (wanted[flow])
            selection->bytes += flow_size_get(reader->part[FLOW_PART_SIZES].loaded[flow]);
    return code;
}

int flow_reader_select(struct flow_reader *reader, const struct narrowing *tree, bool sizes,
                       struct flow_selection *selection)
{
    *selection = (struct flow_selection){.blocks = reader->blocks};
    selection->block = calloc(reader->blocks + 1ul, sizeof *selection->block);
    uint8_t *wanted = malloc(reader->flows + 1ul);
    int code = selection->block && wanted ? judge_flows(reader, tree, wanted, &selection->sure) : ERR_NO_MEMORY;
    if (code == 0)
        code = select_blocks(reader, wanted, selection);
    if (code == 0 && sizes)
        code = add_sizes(reader, wanted, selection);
    free(wanted);
    return code;
}

void flow_selection_clear(struct flow_selection *selection)
{
    free(selection->block);
    selection->block = NULL;
}
