#include "flow_index_reader.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bit_stream.h"
#include "checksum.h"
#include "errors.h"
#include "flow_format.h"

#define GOLOMB_ORDER_MAX 31u
#define NO_INNER UINT32_MAX
#define CANDIDATES_MAX 128u /* flows that are reached by marks; where there are more, to decode whole columns is faster */
#define SPANS_MAX 32u

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

struct search;

struct flow_reader {
    struct flow_index_source source;
    struct part part[FLOW_PARTS];
    uint32_t blocks, packets, flows, ends[3], all_ends, macs;
    uint32_t kinds, states, sets, inners, entries, services, apps;
    struct flow_columns column;
    char (*app)[64];
    uint64_t bytes_read;
    uint32_t bytes; /* of the index */
    bool marked;   /* the index has marks */
    bool by_marks; /* the last selection did with them */
    struct search *search; /* by marks, that has begun; null: none */
    bool expected;
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

static int expect(struct flow_reader *reader, const struct flow_index_range *range, uint32_t count)
{
    return reader->source.expect && count > 0 ? reader->source.expect(reader->source.context, range, count) : 0;
}

static int expect_all(struct flow_reader *reader)
{
    return expect(reader, &(struct flow_index_range){.bytes = reader->bytes}, 1);
}

static int read_head(struct flow_reader *reader)
{
    struct flow_index_head head = {0};
    const uint32_t shorter = offsetof(struct flow_index_head, part) + FLOW_PARTS_UNMARKED * sizeof head.part[0];
    if (reader->source.bytes < shorter)
        return ERR_CORRUPT;
    int code = read_bytes(reader, 0, shorter, (uint8_t *)&head);
    if (code < 0)
        return code;
    bool old = le16_get(head.version) == FLOW_INDEX_VERSION_UNMARKED;
    if ((!old && (le16_get(head.version) != FLOW_INDEX_VERSION || reader->source.bytes < sizeof head)) ||
        le16_get(head.parts) != (old ? FLOW_PARTS_UNMARKED : FLOW_PARTS))
        return ERR_CORRUPT;
    code = old ? 0 : read_bytes(reader, shorter, sizeof head - shorter, (uint8_t *)&head + shorter);
    if (code < 0)
        return code;
    uint32_t crc = le32_get(head.crc), parts = le16_get(head.parts);
    head.crc = le32_of(0);
    if (memcmp(head.magic, FLOW_INDEX_MAGIC, sizeof head.magic) != 0 ||
        checksum_crc32c(&head, old ? shorter : sizeof head) != crc || le32_get(head.bytes) > reader->source.bytes)
        return ERR_CORRUPT;
    reader->marked = !old;
    reader->bytes = le32_get(head.bytes);
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
    for (unsigned i = 0; i < parts; i++) {
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
    free(reader->search);
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
        uint8_t *bytes = malloc(part->bytes + sizeof(le64)); /* with zeros behind, for who looks at eight bytes at once */
        if (!bytes)
            return ERR_NO_MEMORY;
        memset(bytes + part->bytes, 0, sizeof(le64));
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

/* One of several records: bits say which bytes, of 64 at most, differ from the one before. */
static void get_record(struct bit_reader *bits, uint8_t *record, uint32_t count)
{
    uint64_t change = bits_get(bits, count < 32 ? count : 32);
    if (count > 32)
        change |= (uint64_t)bits_get(bits, count - 32) << 32;
    for (uint32_t i = 0; i < count; i++)
        if ((change >> i & 1) != 0)
            record[i] = (uint8_t)bits_get(bits, 8);
}

/* A number of a width of at most 32 bits, at a bit of a part that was loaded whole. */
static uint32_t number_at(const uint8_t *bytes, uint64_t bit, uint32_t width)
{
    le64 word;
    memcpy(&word, bytes + (bit >> 3), sizeof word);
    return (uint32_t)(le64_get(word) >> (bit & 7) & ((UINT64_C(1) << width) - 1));
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

/* The ports that many flows have. */
static int load_services(struct flow_reader *reader, uint16_t known[FLOW_INDEX_SERVICES_MAX])
{
    struct bit_reader services;
    int code = part_load(reader, FLOW_PART_SERVICES, &services);
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < reader->services; i++)
        known[i] = (uint16_t)bits_get(&services, 16);
    return services.failed ? ERR_CORRUPT : 0;
}

/* Of flows of these kinds; the bits are at the first of them. */
static int decode_ports(const struct flow_reader *reader, const uint16_t *known, struct bit_reader service, struct bit_reader ports,
                        const uint32_t *kind, uint32_t count, uint16_t (*port)[2])
{
    uint8_t order = reader->part[FLOW_PART_SERVICE].code;
    uint32_t width = bits_width(1 + 2 * reader->services);
    for (uint32_t i = 0; i < count; i++) {
        if ((reader->column.kind[kind[i]].marks & FLOW_PORTS) == 0)
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
    return service.failed || ports.failed ? ERR_CORRUPT : 0;
}

/* Of the first `count` flows, whose kinds are known. */
static int load_ports(struct flow_reader *reader, uint32_t count)
{
    if (reader->column.port && reader->column.ports >= count)
        return 0;
    uint16_t known[FLOW_INDEX_SERVICES_MAX];
    struct bit_reader service, ports;
    uint16_t(*port)[2] = calloc(count + 1ul, sizeof *port);
    int code = port ? load_services(reader, known) : ERR_NO_MEMORY;
    if (code == 0)
        code = part_load(reader, FLOW_PART_SERVICE, &service);
    if (code == 0)
        code = part_load(reader, FLOW_PART_PORTS, &ports);
    if (code == 0)
        code = decode_ports(reader, known, service, ports, reader->column.flow_kind, count, port);
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

/* What states are about, and what they are. */
static int load_state_table(struct flow_reader *reader)
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
    return code;
}

static int load_states(struct flow_reader *reader)
{
    int code = load_state_table(reader);
    return code < 0 ? code
                    : load_numbers(reader, FLOW_PART_STATE, reader->flows, bits_width(reader->states), reader->states,
                                   &reader->column.state);
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

/* What a state says. */
static void seen_get(const struct flow_reader *reader, uint32_t number, struct flow_seen *seen)
{
    struct flow_index_state state;
    memcpy(&state, reader->part[FLOW_PART_STATES].loaded + number * sizeof state, sizeof state);
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
    seen_get(reader, column->state[flow], seen);
}

int flow_reader_each(struct flow_reader *reader,
                     int (*each)(void *context, const struct flow_keys *keys,
                                 const struct flow_seen *seen),
                     void *context)
{
    int code = expect_all(reader);
    if (code == 0)
        code = load_flows(reader, NEED_PORTS | NEED_MACS | NEED_INNER | NEED_SEEN, reader->flows);
    for (uint32_t flow = 0; code == 0 && flow < reader->flows; flow++) {
        struct flow_keys keys;
        struct flow_seen seen;
        flow_get(reader, flow, &keys, &seen);
        code = each(context, &keys, &seen);
    }
    return code;
}

int flow_reader_block_table(struct flow_reader *reader, uint32_t from, uint32_t count, struct flow_block *block)
{
    struct bit_reader bits;
    int code = part_load(reader, FLOW_PART_BLOCKS, &bits);
    if (code < 0)
        return code;
    if (from > reader->blocks || count > reader->blocks - from || (from + count) * UINT64_C(25) > bits.end)
        return ERR_CORRUPT;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = number_at(bits.bytes, (from + i) * UINT64_C(25), 25), first = number & 16383;
        block[i] = (struct flow_block){.first = first == FLOW_INDEX_NO_RECORD ? FLOW_BLOCK_NONE : (uint16_t)first,
                                       .packets = (uint16_t)(number >> 14)};
    }
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

/* Where in the postings a piece lies. */
static int chunk_range(const struct flow_reader *reader, uint32_t chunk, struct flow_index_range *range, uint32_t *crc)
{
    struct flow_index_chunk this, next;
    const struct part *postings = &reader->part[FLOW_PART_POSTINGS];
    const uint8_t *chunks = reader->part[FLOW_PART_CHUNKS].loaded;
    memcpy(&this, chunks + chunk * sizeof this, sizeof this);
    uint32_t begin = le32_get(this.offset), end = postings->bytes;
    if (chunk + 1 < flow_chunks(reader->flows, FLOW_INDEX_CHUNK)) {
        memcpy(&next, chunks + (chunk + 1ul) * sizeof next, sizeof next);
        end = le32_get(next.offset);
    }
    if (begin > end || end > postings->bytes)
        return ERR_CORRUPT;
    *range = (struct flow_index_range){.offset = postings->offset + begin, .bytes = end - begin};
    *crc = le32_get(this.crc);
    return 0;
}

/* One piece of the postings: read only where one of its flows, which is what wanted[] is about, is wanted. */
static int select_chunk(struct flow_reader *reader, const uint8_t *wanted, uint32_t chunk,
                        struct flow_selection *selection)
{
    struct bit_reader bits;
    struct flow_index_range range;
    uint32_t flows = reader->flows - chunk * FLOW_INDEX_CHUNK, crc;
    flows = flows < FLOW_INDEX_CHUNK ? flows : FLOW_INDEX_CHUNK;
    const uint8_t *last = memrchr(wanted, 1, flows);
    if (!last)
        return 0;
    int code = chunk_range(reader, chunk, &range, &crc);
    if (code != 0)
        return code;
    uint8_t *bytes = malloc(range.bytes + 1ul);
    if (!bytes)
        return ERR_NO_MEMORY;
    code = read_bytes(reader, range.offset, range.bytes, bytes);
    if (code == 0 && checksum_crc32c(bytes, range.bytes) != crc)
        code = ERR_CORRUPT;
    bits_open(&bits, bytes, range.bytes);
    for (const uint8_t *flow = wanted; code == 0 && flow <= last; flow++)
        code = select_flow(reader, &bits, *flow != 0, selection);
    free(bytes);
    return code;
}

/* Where the postings' pieces are. */
static int load_chunks(struct flow_reader *reader)
{
    struct bit_reader bits;
    int code = part_load(reader, FLOW_PART_CHUNKS, &bits);
    bool short_of = reader->part[FLOW_PART_CHUNKS].bytes < flow_chunks(reader->flows, FLOW_INDEX_CHUNK) * sizeof(struct flow_index_chunk);
    return code == 0 && short_of ? ERR_CORRUPT : code;
}

static int select_blocks(struct flow_reader *reader, const uint8_t *wanted,
                         struct flow_selection *selection)
{
    if (!memchr(wanted, 1, reader->flows))
        return 0;
    int code = load_chunks(reader);
    for (uint32_t chunk = 0; code == 0 && chunk < flow_chunks(reader->flows, FLOW_INDEX_CHUNK); chunk++)
        code = select_chunk(reader, wanted + chunk * FLOW_INDEX_CHUNK, chunk, selection);
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

/* ---- selecting by marks ------------------------------------------------------------------------ */

/*
 * A search for addresses of which few flows have any: the address leads to ends, these to flows, and the marks to what is said of those. Of
 * the columns nothing is decoded but the pieces that such flows are in.
 */
struct end_span {
    uint32_t from, to; /* ends */
    uint8_t address[16]; /* of the first */
};

struct candidate {
    uint32_t flow;
    uint32_t end[2];
    bool known[2]; /* which of these are: the others are looked up where the flow is judged */
};

struct search {
    struct flow_reader *reader;
    const struct narrowing *tree;
    struct flow_marks at; /* in the part */
    struct end_span span[SPANS_MAX];
    uint32_t spans;
    struct candidate candidate[CANDIDATES_MAX];
    uint32_t candidates;
    bool crowded; /* there are more than that */
    bool one_end_decides; /* narrowing_one_end_decides() */
    uint16_t service[FLOW_INDEX_SERVICES_MAX];
};

/* The columns of one piece. */
struct flow_piece {
    uint32_t kind[FLOW_INDEX_CHUNK];
    uint16_t port[FLOW_INDEX_CHUNK][2];
    uint32_t state[FLOW_INDEX_CHUNK];
};

static const uint8_t *marks_of(const struct search *search)
{
    return search->reader->part[FLOW_PART_MARKS].loaded;
}

static struct flow_index_mark4 mark4(const struct search *search, uint32_t piece)
{
    struct flow_index_mark4 mark;
    memcpy(&mark, marks_of(search) + piece * sizeof mark, sizeof mark);
    return mark;
}

static struct flow_index_mark6 mark6(const struct search *search, uint32_t piece)
{
    struct flow_index_mark6 mark;
    memcpy(&mark, marks_of(search) + search->at.six + piece * sizeof mark, sizeof mark);
    return mark;
}

static struct flow_index_mark_end mark_end(const struct search *search, uint32_t piece)
{
    struct flow_index_mark_end mark;
    memcpy(&mark, marks_of(search) + search->at.ends + piece * sizeof mark, sizeof mark);
    return mark;
}

static struct flow_index_piece mark_flow(const struct search *search, uint32_t piece, enum flow_column column)
{
    struct flow_index_mark mark;
    memcpy(&mark, marks_of(search) + search->at.flows + piece * sizeof mark, sizeof mark);
    return mark.column[column];
}

/* A whole part, and in it the bit that a mark names. */
static int load_at(struct flow_reader *reader, enum flow_part part, uint32_t bit, struct bit_reader *bits)
{
    int code = part_load(reader, part, bits);
    if (code == 0 && bit > bits->end)
        code = ERR_CORRUPT;
    if (code == 0)
        bits->at = bit;
    return code;
}

/* An address being read: of either version as sixteen bytes, so that memcmp() orders them. */
struct address_walk {
    struct bit_reader bits;
    uint8_t now[16];
    uint64_t sum; /* version 4 */
    uint8_t version;
};

static int walk_from(const struct search *search, uint8_t version, uint32_t piece, struct address_walk *walk)
{
    *walk = (struct address_walk){.version = version};
    if (version == 4) {
        struct flow_index_mark4 mark = mark4(search, piece);
        walk->sum = le32_get(mark.address);
        return load_at(search->reader, FLOW_PART_ADDRESS4, le32_get(mark.bit), &walk->bits);
    }
    struct flow_index_mark6 mark = mark6(search, piece);
    memcpy(walk->now, mark.address, sizeof walk->now);
    return load_at(search->reader, FLOW_PART_ADDRESS6, le32_get(mark.bit), &walk->bits);
}

static int walk_next(const struct search *search, struct address_walk *walk)
{
    if (walk->version == 4) {
        walk->sum += get_number(&walk->bits, search->reader->part[FLOW_PART_ADDRESS4].code, 32);
        if (walk->sum > UINT32_MAX)
            return ERR_CORRUPT;
        put_address4(walk->now, (uint32_t)walk->sum);
    } else {
        uint32_t common = bits_get(&walk->bits, 5);
        for (uint32_t byte = common; byte < 16; byte++)
            walk->now[byte] = (uint8_t)bits_get(&walk->bits, 8);
    }
    return walk->bits.failed ? ERR_CORRUPT : 0;
}

/* Below zero, zero, above zero: as the address that the walk is at is before a bound, the bound, behind it. */
static int compare_address(const struct address_walk *walk, const uint8_t *bound)
{
    if (walk->version != 4)
        return memcmp(walk->now, bound, sizeof walk->now);
    uint32_t number = (uint32_t)bound[0] << 24 | (uint32_t)bound[1] << 16 | (uint32_t)bound[2] << 8 | bound[3];
    return walk->sum < number ? -1 : walk->sum > number;
}

/* The last piece before which all addresses are below `low`; the first one, where there is none. */
static uint32_t piece_of_address(const struct search *search, uint8_t version, const uint8_t *low)
{
    uint32_t from = 0, to = flow_chunks(search->reader->ends[version == 4 ? 1 : 2], FLOW_INDEX_END_CHUNK);
    while (to - from > 1) {
        uint32_t middle = from + (to - from) / 2;
        uint8_t address[16] = {0};
        if (version == 4)
            put_address4(address, le32_get(mark4(search, middle).address));
        else
            memcpy(address, mark6(search, middle).address, sizeof address);
        if (memcmp(address, low, version == 4 ? 4 : 16) < 0)
            from = middle;
        else
            to = middle;
    }
    return from;
}

/* The ends whose addresses lie from `low` to `high`. */
static int find_span(struct search *search, uint8_t version, const uint8_t *low, const uint8_t *high)
{
    const struct flow_reader *reader = search->reader;
    uint32_t count = reader->ends[version == 4 ? 1 : 2];
    uint32_t base = reader->ends[0] + (version == 4 ? 0 : reader->ends[1]);
    if (count == 0)
        return 0;
    struct address_walk walk;
    uint32_t piece = piece_of_address(search, version, low), i = piece * FLOW_INDEX_END_CHUNK;
    struct end_span span = {.from = count, .to = count};
    int code = walk_from(search, version, piece, &walk);
    for (; code == 0 && i < count; i++) {
        code = walk_next(search, &walk);
        if (code == 0 && compare_address(&walk, high) > 0)
            break;
        if (span.from == count && compare_address(&walk, low) >= 0) {
            span.from = i;
            memcpy(span.address, walk.now, sizeof span.address);
        }
        if (i >= span.from + 2 * CANDIDATES_MAX) { /* each end is one of a flow, which has two */
            search->crowded = true;
            return 0;
        }
    }
    span.to = i;
    if (code != 0 || span.from >= span.to)
        return code;
    if (search->spans == SPANS_MAX) {
        search->crowded = true;
        return 0;
    }
    span.from += base;
    span.to += base;
    search->span[search->spans++] = span;
    return 0;
}

static int find_spans(struct search *search)
{
    int code = 0;
    for (uint32_t i = 0; code == 0 && !search->crowded && i < narrowing_ends(search->tree); i++) {
        uint8_t low[16], high[16];
        uint8_t version = narrowing_end_bounds(search->tree, i, low, high);
        code = find_span(search, version, low, high);
    }
    return code;
}

/* `side`: that `end` is of the flow; 2: none is known. */
static void add_candidate(struct search *search, uint32_t flow, unsigned side, uint32_t end)
{
    if (search->candidates == CANDIDATES_MAX) {
        search->crowded = true;
        return;
    }
    struct candidate *candidate = &search->candidate[search->candidates++];
    *candidate = (struct candidate){.flow = flow, .end = {end, end}, .known = {side == 0, side == 1}};
}

/* Flows whose end 0 is in a span. */
static int find_firsts(struct search *search, const struct end_span *span)
{
    struct flow_reader *reader = search->reader;
    struct bit_reader bits;
    uint32_t piece = span->from / FLOW_INDEX_END_CHUNK;
    struct flow_index_mark_end mark = mark_end(search, piece);
    uint64_t flow = le32_get(mark.flow);
    int code = load_at(reader, FLOW_PART_FIRSTS, le32_get(mark.bit), &bits);
    for (uint32_t end = piece * FLOW_INDEX_END_CHUNK; code == 0 && end < span->to && !search->crowded; end++) {
        uint64_t times = get_number(&bits, reader->part[FLOW_PART_FIRSTS].code, bits_width(FLOW_INDEX_FLOWS_MAX + 1));
        if (bits.failed || flow > reader->flows || times > reader->flows - flow)
            return ERR_CORRUPT;
        for (uint64_t i = 0; end >= span->from && i < times && !search->crowded; i++)
            add_candidate(search, (uint32_t)(flow + i), 0, end);
        flow += times;
    }
    return code;
}

/* The first of the flows from `flow` on whose end 1 is in the span; the number of flows, where there is none. */
static uint32_t next_within(const uint8_t *bytes, uint32_t width, uint32_t flow, uint32_t flows, const struct end_span *span)
{
    const uint32_t from = span->from, length = span->to - span->from;
    if (length == 1 && width > 1) {
        /* As many numbers as one look shows are compared at once: where a field of the difference is zero, the borrow of one that is taken from each
         * reaches the highest bit of a field in which that bit was zero. */
        const uint32_t count = 57 / width;
        uint64_t lows = 0, word;
        for (uint32_t i = 0; i < count; i++)
            lows |= UINT64_C(1) << i * width;
        const uint64_t wanted = lows * from, highs = lows << (width - 1);
        for (; flow + count <= flows; flow += count) {
            uint64_t bit = (uint64_t)flow * width;
            le64 field;
            memcpy(&field, bytes + (bit >> 3), sizeof field);
            word = (le64_get(field) >> (bit & 7)) ^ wanted;
            if (((word - lows) & ~word & highs) != 0)
                break;
        }
    }
    while (flow < flows && number_at(bytes, (uint64_t)flow * width, width) - from >= length)
        flow++;
    return flow;
}

/* Flows whose end 1 is in a span: all of the column is gone through, a number of a known width after the other. */
static int find_seconds(struct search *search)
{
    struct flow_reader *reader = search->reader;
    struct bit_reader bits;
    uint32_t width = bits_width(reader->all_ends), flows = reader->flows;
    int code = part_load(reader, FLOW_PART_SECONDS, &bits);
    if (code == 0 && (reader->part[FLOW_PART_SECONDS].code != width || (uint64_t)flows * width > bits.end))
        code = ERR_CORRUPT;
    for (uint32_t i = 0; code == 0 && i < search->spans; i++) {
        const struct end_span *span = &search->span[i];
        for (uint32_t flow = 0; !search->crowded && (flow = next_within(bits.bytes, width, flow, flows, span)) < flows; flow++)
            add_candidate(search, flow, 1, number_at(bits.bytes, (uint64_t)flow * width, width));
    }
    return code;
}

/* Flows of kinds that say that their addresses are not sure. */
static int find_unsure(struct search *search)
{
    struct flow_reader *reader = search->reader;
    bool unsure[FLOW_INDEX_KINDS_MAX], any = false;
    int code = load_kind_table(reader);
    for (uint32_t i = 0; code == 0 && i < reader->kinds; i++)
        any |= unsure[i] = narrowing_end_unsure(search->tree, &reader->column.kind[i]);
    if (code != 0 || !any)
        return code;
    code = load_kinds(reader, reader->flows);
    for (uint32_t flow = 0; code == 0 && flow < reader->flows && !search->crowded; flow++)
        if (unsure[reader->column.flow_kind[flow]])
            add_candidate(search, flow, 2, 0);
    return code;
}

static int by_flow(const void *a, const void *b)
{
    uint32_t one = ((const struct candidate *)a)->flow, two = ((const struct candidate *)b)->flow;
    return one < two ? -1 : one > two;
}

/* In order, and each once, with what is known of it. */
static void sort_candidates(struct search *search)
{
    uint32_t count = 0;
    qsort(search->candidate, search->candidates, sizeof search->candidate[0], by_flow);
    for (uint32_t i = 0; i < search->candidates; i++) {
        const struct candidate *candidate = &search->candidate[i];
        struct candidate *last = count > 0 ? &search->candidate[count - 1] : NULL;
        if (!last || last->flow != candidate->flow) {
            search->candidate[count++] = *candidate;
            continue;
        }
        for (unsigned side = 0; side < 2; side++)
            if (candidate->known[side]) {
                last->end[side] = candidate->end[side];
                last->known[side] = true;
            }
    }
    search->candidates = count;
}

/* A flow's end 0: how many flows each end begins is summed up, from the last mark before it. */
static int find_first(const struct search *search, uint32_t number, uint32_t *first)
{
    struct flow_reader *reader = search->reader;
    struct bit_reader bits;
    uint32_t from = 0, to = flow_chunks(reader->all_ends, FLOW_INDEX_END_CHUNK);
    while (to - from > 1) {
        uint32_t middle = from + (to - from) / 2;
        if (le32_get(mark_end(search, middle).flow) <= number)
            from = middle;
        else
            to = middle;
    }
    if (reader->all_ends == 0)
        return ERR_CORRUPT;
    struct flow_index_mark_end mark = mark_end(search, from);
    uint64_t flow = le32_get(mark.flow);
    int code = load_at(reader, FLOW_PART_FIRSTS, le32_get(mark.bit), &bits);
    if (code != 0)
        return code;
    struct bit_reader now = bits;
    uint8_t order = reader->part[FLOW_PART_FIRSTS].code;
    uint32_t end = from * FLOW_INDEX_END_CHUNK;
    for (; end < reader->all_ends && flow <= number && !now.failed; end++)
        flow += get_number(&now, order, bits_width(FLOW_INDEX_FLOWS_MAX + 1));
    *first = end - 1;
    return now.failed || flow <= number || end == from * FLOW_INDEX_END_CHUNK ? ERR_CORRUPT : 0;
}

/* Both ends of a flow. */
static int find_ends(struct search *search, struct candidate *candidate)
{
    struct flow_reader *reader = search->reader;
    struct bit_reader bits;
    uint32_t width = bits_width(reader->all_ends);
    int code = candidate->known[0] ? 0 : find_first(search, candidate->flow, &candidate->end[0]);
    if (code != 0 || candidate->known[1])
        return code;
    code = part_load(reader, FLOW_PART_SECONDS, &bits);
    if (code == 0 && (reader->part[FLOW_PART_SECONDS].code != width || (uint64_t)reader->flows * width > bits.end))
        code = ERR_CORRUPT;
    if (code == 0)
        candidate->end[1] = number_at(bits.bytes, (uint64_t)candidate->flow * width, width);
    return code == 0 && candidate->end[1] >= reader->all_ends ? ERR_CORRUPT : code;
}

/* The last one of so many of version 4, fewer than a piece has. */
static int skip_addresses4(const struct search *search, const struct address_walk *walk, uint32_t count, uint8_t address[16])
{
    struct bit_reader bits = walk->bits;
    uint64_t sum = walk->sum; /* each number is below 2^48 */
    uint8_t order = search->reader->part[FLOW_PART_ADDRESS4].code;
    for (uint32_t i = 0; i < count; i++)
        sum += get_number(&bits, order, 32);
    put_address4(address, (uint32_t)sum);
    return bits.failed || sum > UINT32_MAX ? ERR_CORRUPT : 0;
}

/* An end's address, into zeros. */
static int find_address(const struct search *search, uint32_t end, uint8_t address[16])
{
    const struct flow_reader *reader = search->reader;
    uint32_t behind4 = reader->ends[0] + reader->ends[1];
    if (end < reader->ends[0])
        return 0;
    for (uint32_t i = 0; i < search->spans; i++) {
        if (search->span[i].from == end) { /* that of whoever is asked for is known */
            memcpy(address, search->span[i].address, 16);
            return 0;
        }
    }
    uint8_t version = end < behind4 ? 4 : 6;
    uint32_t number = end < behind4 ? end - reader->ends[0] : end - behind4, piece = number / FLOW_INDEX_END_CHUNK;
    struct address_walk walk;
    int code = walk_from(search, version, piece, &walk);
    if (code == 0 && version == 4)
        return skip_addresses4(search, &walk, number + 1 - piece * FLOW_INDEX_END_CHUNK, address);
    for (uint32_t i = piece * FLOW_INDEX_END_CHUNK; code == 0 && i <= number; i++)
        code = walk_next(search, &walk);
    if (code == 0)
        memcpy(address, walk.now, 16);
    return code;
}

/* Where a piece of a column lies. */
static int piece_range(const struct search *search, uint32_t piece, enum flow_column column, struct flow_index_range *range, uint32_t *bit,
                       uint32_t *crc)
{
    static const enum flow_part part_of[FLOW_COLUMNS] = {FLOW_PART_KIND, FLOW_PART_SERVICE, FLOW_PART_PORTS, FLOW_PART_STATE};
    const struct flow_reader *reader = search->reader;
    const struct part *part = &reader->part[part_of[column]];
    struct flow_index_piece this = mark_flow(search, piece, column);
    uint64_t from = le32_get(this.bit) / 8, to = part->bytes;
    if (piece + 1 < flow_chunks(reader->flows, FLOW_INDEX_CHUNK))
        to = (le32_get(mark_flow(search, piece + 1, column).bit) + 7ul) / 8;
    if (from > to || to > part->bytes)
        return ERR_CORRUPT;
    *range = (struct flow_index_range){.offset = part->offset + (uint32_t)from, .bytes = (uint32_t)(to - from)};
    *bit = le32_get(this.bit) % 8;
    *crc = le32_get(this.crc);
    return 0;
}

/* A piece's bytes, checked by themselves: *memory is the caller's to free(), also after an error. */
static int piece_load(const struct search *search, uint32_t piece, enum flow_column column, uint8_t **memory, struct bit_reader *bits)
{
    struct flow_index_range range;
    uint32_t bit, crc;
    int code = piece_range(search, piece, column, &range, &bit, &crc);
    *memory = code == 0 ? malloc(range.bytes + 1ul) : NULL;
    if (code == 0 && !*memory)
        code = ERR_NO_MEMORY;
    if (code == 0)
        code = read_bytes(search->reader, range.offset, range.bytes, *memory);
    if (code == 0 && checksum_crc32c(*memory, range.bytes) != crc)
        code = ERR_CORRUPT;
    if (code != 0)
        return code;
    bits_open(bits, *memory, range.bytes);
    bits->at = bit;
    return bits->at > bits->end ? ERR_CORRUPT : 0;
}

static int decode_piece_numbers(const struct search *search, uint32_t piece, enum flow_column column, enum flow_part part, uint32_t limit,
                                uint32_t count, uint32_t *value)
{
    uint8_t *memory;
    struct bit_reader bits;
    int code = piece_load(search, piece, column, &memory, &bits);
    for (uint32_t i = 0; code == 0 && i < count; i++) {
        uint64_t number = get_number(&bits, search->reader->part[part].code, bits_width(limit));
        value[i] = (uint32_t)number;
        if (bits.failed || number >= limit)
            code = ERR_CORRUPT;
    }
    free(memory);
    return code;
}

static int decode_piece(const struct search *search, unsigned needs, uint32_t piece, struct flow_piece *columns)
{
    const struct flow_reader *reader = search->reader;
    uint32_t count = reader->flows - piece * FLOW_INDEX_CHUNK;
    count = count < FLOW_INDEX_CHUNK ? count : FLOW_INDEX_CHUNK;
    int code = decode_piece_numbers(search, piece, FLOW_COLUMN_KIND, FLOW_PART_KIND, reader->kinds, count, columns->kind);
    if (code == 0 && (needs & NEED_PORTS) != 0) {
        uint8_t *memory[2] = {NULL, NULL};
        struct bit_reader service, ports;
        memset(columns->port, 0, sizeof columns->port);
        code = piece_load(search, piece, FLOW_COLUMN_SERVICE, &memory[0], &service);
        if (code == 0)
            code = piece_load(search, piece, FLOW_COLUMN_PORTS, &memory[1], &ports);
        if (code == 0)
            code = decode_ports(reader, search->service, service, ports, columns->kind, count, columns->port);
        free(memory[0]);
        free(memory[1]);
    }
    if (code == 0 && (needs & NEED_SEEN) != 0)
        code = decode_piece_numbers(search, piece, FLOW_COLUMN_STATE, FLOW_PART_STATE, reader->states, count, columns->state);
    return code;
}

/* What will be read of the pieces that have candidates. */
static int expect_pieces(struct search *search, unsigned needs)
{
    struct flow_reader *reader = search->reader;
    struct flow_index_range range[CANDIDATES_MAX * (FLOW_COLUMNS + 1)];
    const bool needed[FLOW_COLUMNS] = {true, (needs & NEED_PORTS) != 0, (needs & NEED_PORTS) != 0, (needs & NEED_SEEN) != 0};
    uint32_t count = 0, ignored, crc;
    int code = 0;
    for (unsigned column = 0; column <= FLOW_COLUMNS; column++) {
        uint32_t before = UINT32_MAX;
        for (uint32_t i = 0; code == 0 && i < search->candidates; i++) {
            uint32_t piece = search->candidate[i].flow / FLOW_INDEX_CHUNK;
            if (piece == before || (column < FLOW_COLUMNS && !needed[column]))
                continue;
            before = piece;
            code = column < FLOW_COLUMNS ? piece_range(search, piece, (enum flow_column)column, &range[count], &ignored, &crc)
                                         : chunk_range(reader, piece, &range[count], &crc);
            count++;
        }
    }
    return code == 0 ? expect(reader, range, count) : code;
}

static int judge_candidate(const struct search *search, struct candidate *candidate, const struct flow_piece *columns, unsigned needs,
                           enum narrowing_verdict *verdict)
{
    uint32_t row = candidate->flow % FLOW_INDEX_CHUNK;
    struct flow_keys keys = {.kind = search->reader->column.kind[columns->kind[row]]};
    struct flow_seen seen = {.ways = FLOW_WAY_0 | FLOW_WAY_1};
    int code = 0;
    for (unsigned i = 0; code == 0 && i < 2; i++) {
        if (!search->one_end_decides || candidate->known[i] || !candidate->known[!i])
            code = find_address(search, candidate->end[i], keys.end[i].address);
        keys.end[i].port = (needs & NEED_PORTS) != 0 ? columns->port[row][i] : 0;
    }
    if (code == 0 && (needs & NEED_SEEN) != 0)
        seen_get(search->reader, columns->state[row], &seen);
    if (code == 0)
        *verdict = narrowing_judge(search->tree, &keys, &seen);
    return code;
}

/* Judges the candidates from *i on that are in one piece, and selects the blocks of those that may match. */
static int select_piece(struct search *search, uint32_t *i, unsigned needs, bool sizes, struct flow_selection *selection)
{
    struct flow_reader *reader = search->reader;
    struct flow_piece columns;
    uint8_t wanted[FLOW_INDEX_CHUNK] = {0};
    uint32_t piece = search->candidate[*i].flow / FLOW_INDEX_CHUNK;
    int code = decode_piece(search, needs, piece, &columns);
    for (; code == 0 && *i < search->candidates && search->candidate[*i].flow / FLOW_INDEX_CHUNK == piece; ++*i) {
        struct candidate *candidate = &search->candidate[*i];
        enum narrowing_verdict verdict = NARROWING_MAYBE;
        if (!search->one_end_decides || (!candidate->known[0] && !candidate->known[1]))
            code = find_ends(search, candidate);
        if (code == 0)
            code = judge_candidate(search, candidate, &columns, needs, &verdict);
        wanted[candidate->flow % FLOW_INDEX_CHUNK] = verdict != NARROWING_NONE;
        selection->sure &= verdict != NARROWING_MAYBE;
        if (code == 0 && verdict != NARROWING_NONE && sizes)
            selection->bytes += flow_size_get(reader->part[FLOW_PART_SIZES].loaded[candidate->flow]);
    }
    return code == 0 ? select_chunk(reader, wanted, piece, selection) : code;
}

/* Flows that may match, in no order. */
static int find_candidates(struct search *search)
{
    struct flow_reader *reader = search->reader;
    struct bit_reader bits;
    int code = part_load(reader, FLOW_PART_MARKS, &bits);
    search->at = flow_marks(reader->ends, reader->flows);
    if (code == 0 && reader->part[FLOW_PART_MARKS].bytes != search->at.bytes)
        code = ERR_CORRUPT;
    if (code == 0)
        code = find_spans(search);
    for (uint32_t i = 0; code == 0 && i < search->spans && !search->crowded; i++)
        code = find_firsts(search, &search->span[i]);
    if (code == 0 && !search->crowded && search->spans > 0)
        code = find_seconds(search);
    if (code == 0 && !search->crowded)
        code = find_unsure(search);
    return code;
}

/* Begins a search by marks, where they may help: reader->search is null where they do not. 0 or a negative code. */
static int search_begin(struct flow_reader *reader, const struct narrowing *tree)
{
    unsigned needs = tree ? narrowing_needs(tree) : 0;
    if (!reader->marked || !tree || !narrowing_has_ends(tree) || (needs & (NEED_MACS | NEED_INNER)) != 0)
        return 0;
    struct search *search = calloc(1, sizeof *search);
    if (!search)
        return ERR_NO_MEMORY;
    search->reader = reader;
    search->tree = tree;
    search->one_end_decides = narrowing_one_end_decides(tree);
    int code = find_candidates(search);
    if (code == 0 && !search->crowded) {
        sort_candidates(search);
        code = search->candidates > 0 ? load_chunks(reader) : 0;
        if (code == 0)
            code = expect_pieces(search, needs);
    }
    if (code == 0 && !search->crowded)
        reader->search = search;
    else
        free(search);
    return code;
}

int flow_reader_expect(struct flow_reader *reader, const struct narrowing *tree)
{
    if (reader->expected)
        return 0;
    reader->expected = true;
    int code = search_begin(reader, tree);
    return code < 0 || reader->search ? code : expect_all(reader);
}

static int select_by_marks(struct flow_reader *reader, bool sizes, struct flow_selection *selection)
{
    struct search *search = reader->search;
    unsigned needs = narrowing_needs(search->tree);
    struct bit_reader bits;
    int code = 0;
    selection->sure = true;
    if (search->candidates > 0 && (needs & NEED_PORTS) != 0)
        code = load_services(reader, search->service);
    if (search->candidates > 0 && code == 0 && (needs & NEED_SEEN) != 0)
        code = load_state_table(reader);
    if (search->candidates > 0 && code == 0 && sizes) {
        code = part_load(reader, FLOW_PART_SIZES, &bits);
        if (code == 0 && reader->part[FLOW_PART_SIZES].bytes < reader->flows)
            code = ERR_CORRUPT;
    }
    for (uint32_t i = 0; code == 0 && i < search->candidates;)
        code = select_piece(search, &i, needs, sizes, selection);
    return code;
}

uint32_t flow_reader_front(const struct flow_reader *reader)
{
    static const enum flow_part front[] = {FLOW_PART_MARKS, FLOW_PART_ADDRESS4, FLOW_PART_ADDRESS6, FLOW_PART_FIRSTS, FLOW_PART_SECONDS,
                                           FLOW_PART_KINDS, FLOW_PART_KIND, FLOW_PART_CHUNKS, FLOW_PART_BLOCKS, FLOW_PART_SERVICES};
    uint32_t end = 0;
    for (size_t i = 0; reader->by_marks && i < sizeof front / sizeof front[0]; i++) {
        const struct part *part = &reader->part[front[i]];
        end = part->offset + part->bytes > end ? part->offset + part->bytes : end;
    }
    return end;
}

/* ---- selecting: all of it ---------------------------------------------------------------------- */

static int select_by_columns(struct flow_reader *reader, const struct narrowing *tree, bool sizes, struct flow_selection *selection)
{
    uint8_t *wanted = malloc(reader->flows + 1ul);
    int code = wanted ? 0 : ERR_NO_MEMORY;
    if (code == 0)
        code = judge_flows(reader, tree, wanted, &selection->sure);
    if (code == 0)
        code = select_blocks(reader, wanted, selection);
    if (code == 0 && sizes)
        code = add_sizes(reader, wanted, selection);
    free(wanted);
    return code;
}

int flow_reader_select(struct flow_reader *reader, const struct narrowing *tree, bool sizes,
                       struct flow_selection *selection)
{
    *selection = (struct flow_selection){.blocks = reader->blocks};
    selection->block = calloc(reader->blocks + 1ul, sizeof *selection->block);
    int code = selection->block ? flow_reader_expect(reader, tree) : ERR_NO_MEMORY;
    reader->by_marks = code == 0 && reader->search;
    assert(!reader->by_marks || reader->search->tree == tree);
    if (code == 0)
        code = reader->by_marks ? select_by_marks(reader, sizes, selection) : select_by_columns(reader, tree, sizes, selection);
    for (uint32_t i = 0; code == 0 && i < reader->blocks; i++)
        selection->selected += selection->block[i] > 0;
    free(reader->search);
    reader->search = NULL;
    reader->expected = false; /* the next question is another one */
    return code;
}

void flow_selection_clear(struct flow_selection *selection)
{
    free(selection->block);
    selection->block = NULL;
}
