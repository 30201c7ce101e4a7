/*
 * flow_index.c - the key index of a segment while it is filled, and its encoding.
 *
 * A packet costs one look into a hash table: its flow is there, or is made. That the flow had a
 * packet is written into a log, four bytes a packet, and nothing more: which blocks a flow's
 * packets are in follows from where in the log each block began. When the segment is sealed the log
 * is sorted by flow.
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
#include "checksum.h"
#include "errors.h"
#include "flow_format.h"

#define FLOW_REST 0u /* what finds no room: may be anything */
#define SLACK_BYTES 4096u /* of the encoding's buffer beyond its bound */
#define PACKET_BOUND 128u /* bytes by which any packet can raise the bound */
#define RADIX 256u
#define STATE_SLOTS 4096u
#define PORTS 65536u
#define SERVICE_FLOWS 1024u   /* of which a port has one or more on average, and a few besides, to be listed */
#define CANDIDATES_MAX (2 * SERVICE_FLOWS)
#define HUGE_PAGE_BYTES (2u << 20)
#define NUMBER_BITS 18u
#define NUMBER_MASK ((1u << NUMBER_BITS) - 1)
#define SAMPLES 256u /* of a column, to choose its code by */
#define GATHER_AHEAD 12u /* flows */
#define FRESH_MAX 32u /* flows whose ends are not looked up yet */
#define MARKS_MAX (FLOW_INDEX_FLOWS_MAX / FLOW_INDEX_CHUNK + FLOW_INDEX_ENDS_MAX / FLOW_INDEX_END_CHUNK + 1) /* of either kind */
#define JUDGED_AT_ONCE 32u /* flows */
#define STATES_KEPT 128u /* of the states, for applications alone */
#define ANY_SET (FLOW_INDEX_SETS_MAX - 1) /* of entries: holds all, or is none, which readers take for all */

/*
 * Open addressing, at most two thirds full. A slot is the number of a record plus one, and above it
 * a tag: other bits of the record's hash than those that lead here. 0: it is free. Small slots, for
 * the caches.
 */
struct table {
    uint32_t *slot;
    uint32_t mask;
};

_Static_assert(FLOW_INDEX_FLOWS_MAX + 2 * FRESH_MAX < NUMBER_MASK, "a record's number fits a slot");

struct flow_record {
    struct flow_end end[2];
    struct flow_kind kind;
};

struct flow_state { /* 32 bytes */
    uint32_t packets;
    uint32_t bytes;
    uint32_t inner; /* number plus one; 0: none */
    uint8_t tcp_flags;
    uint8_t ways;
    uint8_t set;
    uint8_t ports; /* whether `port` is set */
    uint32_t end[2];
    uint16_t kind;
    uint16_t app;
    uint16_t port[2];
};

struct end_record { /* 32 bytes */
    uint64_t high, low; /* the address, as a number */
    uint64_t mac;
    uint32_t version;
    uint32_t mac_number; /* 0 while it is looked for */
};

struct sorting {
    uint64_t high, low;
    uint64_t mac;
    uint64_t number;
};

struct brief {
    uint16_t port[2];
    uint32_t packets;
    uint32_t second; /* rank of end 1 */
    uint32_t inner;
    uint16_t kind;
    uint16_t state;
    uint8_t size;
    uint8_t ports; /* whether there are any */
};

struct entry_set {
    uint64_t word[4];
};

struct block_start {
    uint32_t log; /* how many packets were logged before it */
    uint16_t offset;
    uint16_t packets;
};

struct flow_index {
    uint8_t *memory; /* all arrays below */
    uint64_t seed[10];
    uint32_t flows_max, packets_max, blocks_max, ends_max;

    struct table flow_table;
    struct flow_record *record;
    struct flow_state *state;
    uint32_t flows;
    uint32_t flows_ended; /* those whose ends have been looked up */

    struct table end_table;
    struct end_record *end;
    uint32_t ends, ends_of[3];
    struct table mac_table;
    uint64_t *mac;
    uint32_t macs;
    struct table kind_table;
    struct flow_kind kind[FLOW_INDEX_KINDS_MAX];
    uint32_t kinds;
    struct table inner_table;
    struct flow_inner *inner;
    uint32_t inners, inners_max;

    struct entry_set set[FLOW_INDEX_SETS_MAX];
    uint32_t sets;
    char app[FLOW_INDEX_APPS_MAX][64];
    uint32_t apps, app_bytes;
    bool verdicts_expected;

    uint32_t *log;
    uint32_t logged;
    struct block_start *block;
    uint32_t blocks;      /* begun */
    uint32_t frame_block; /* number of the first block of the frame being filled */
    bool stopped;
    uint32_t covered; /* once stopped */

    /* for encoding */
    struct sorting *sorting[2];
    uint32_t *rank;     /* of each end, by its number; later of each MAC */
    uint32_t *by_rank;  /* the other way round */
    struct brief *brief; /* what columns are made of, sorted by end 0 */
    uint32_t *place;     /* of each flow among those */
    uint32_t *start;     /* of each flow's part of `gathered`; and other numbers */
    uint16_t *gathered; /* blocks, by flow */
    uint16_t *port_count; /* of each port; later the service that it is, plus one */
    uint64_t *number;
    uint8_t *out;
    uint32_t out_bytes;
};

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

static void carve_table(struct carving *carving, struct table *table, uint32_t records)
{
    uint32_t slots = 64;
    while (slots < records + records / 2)
        slots *= 2;
    table->mask = slots - 1;
    table->slot = carve(carving, slots, sizeof *table->slot);
}

static void table_clear(struct table *table)
{
    memset(table->slot, 0, (table->mask + 1ul) * sizeof *table->slot);
}

/* Bits of a hash that its place in a table does not depend on. */
static inline uint32_t tag_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32) & ~NUMBER_MASK;
}

static inline uint32_t place_of(const struct table *table, uint64_t hash)
{
    return (uint32_t)hash & table->mask;
}

/*
 * Looks for a hash from *at on. Returns the number, plus one, of the next record that may have it,
 * where *at is then; 0: there is none, and *at is free.
 */
static inline uint32_t table_next(const struct table *table, uint32_t tag, uint32_t *at)
{
    for (;; *at = (*at + 1) & table->mask) {
        uint32_t slot = table->slot[*at];
        if (slot == 0 || (slot & ~NUMBER_MASK) == tag)
            return slot & NUMBER_MASK;
    }
}

static inline uint32_t table_after(const struct table *table, uint32_t tag, uint32_t *at)
{
    *at = (*at + 1) & table->mask;
    return table_next(table, tag, at);
}

static inline void table_put(struct table *table, uint32_t at, uint32_t tag, uint32_t number)
{
    table->slot[at] = number | tag;
}

/* Before table_next(): the slot; and, when that is there, the number that it has, plus one, or 0. */
static inline void table_prefetch(const struct table *table, uint64_t hash)
{
    __builtin_prefetch(&table->slot[place_of(table, hash)]);
}

static inline uint32_t table_glance(const struct table *table, uint64_t hash)
{
    return table->slot[place_of(table, hash)] & NUMBER_MASK;
}

static size_t carve_all(struct flow_index *index, uint8_t *memory)
{
    struct carving carving = {.memory = memory};
    uint32_t flows = index->flows_max, ends = index->ends_max;
    carve_table(&carving, &index->flow_table, flows);
    carve_table(&carving, &index->end_table, ends);
    carve_table(&carving, &index->mac_table, ends);
    carve_table(&carving, &index->kind_table, FLOW_INDEX_KINDS_MAX);
    carve_table(&carving, &index->inner_table, index->inners_max);
    index->record = carve(&carving, flows, sizeof *index->record);
    index->state = carve(&carving, flows, sizeof *index->state);
    index->end = carve(&carving, ends, sizeof *index->end);
    index->mac = carve(&carving, ends, sizeof *index->mac);
    index->inner = carve(&carving, index->inners_max, sizeof *index->inner);
    index->log = carve(&carving, index->packets_max, sizeof *index->log);
    index->block = carve(&carving, index->blocks_max + 1ul, sizeof *index->block);
    index->sorting[0] = carve(&carving, ends, sizeof *index->sorting[0]);
    index->sorting[1] = carve(&carving, ends, sizeof *index->sorting[1]);
    index->rank = carve(&carving, ends, sizeof *index->rank);
    index->by_rank = carve(&carving, ends, sizeof *index->by_rank);
    index->brief = carve(&carving, flows, sizeof *index->brief);
    index->place = carve(&carving, flows, sizeof *index->place);
    index->start = carve(&carving, 2ul * flows + 1, sizeof *index->start);
    index->gathered = carve(&carving, index->packets_max, sizeof *index->gathered);
    index->port_count = carve(&carving, PORTS, sizeof *index->port_count);
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

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t word_at(const void *bytes, uint32_t at)
{
    uint64_t word;
    memcpy(&word, (const uint8_t *)bytes + at, sizeof word);
    return word;
}

static inline uint64_t hash_inner(const uint64_t *seed, const struct flow_inner *inner)
{
    return fold(word_at(inner, 0) ^ seed[1], word_at(inner, 8) ^ seed[2]) ^
           fold(word_at(inner, 16) ^ seed[3], word_at(inner, 24) ^ seed[4]) ^
           fold(word_at(inner, 32) ^ seed[5], seed[6]);
}

uint64_t flow_index_hash(const struct flow_index *index, const struct flow_keys *keys)
{
    const uint64_t *seed = index->seed;
    uint64_t hash = fold(word_at(keys, 0) ^ seed[0], word_at(keys, 8) ^ seed[1]) ^
                    fold(word_at(keys, 16) ^ seed[2], word_at(keys, 24) ^ seed[3]) ^
                    fold(word_at(keys, 32) ^ seed[4], word_at(keys, 40) ^ seed[5]) ^
                    fold(word_at(keys, 48) ^ seed[6], word_at(keys, 56) ^ seed[7]);
    if ((keys->kind.marks & FLOW_INNER) != 0)
        hash ^= hash_inner(seed, &keys->inner);
    return fold(hash ^ seed[8], seed[9] | 1);
}

void flow_index_prefetch(const struct flow_index *index, uint64_t hash)
{
    table_prefetch(&index->flow_table, hash);
}

void flow_index_prefetch_flow(const struct flow_index *index, uint64_t hash)
{
    uint32_t number = table_glance(&index->flow_table, hash);
    if (number == 0)
        return;
    __builtin_prefetch(&index->record[number - 1]);
    __builtin_prefetch(&index->state[number - 1], 1);
}

/* ---- what flows have in common ----------------------------------------------------------------- */

static uint32_t mac_take(struct flow_index *index, uint64_t mac, uint64_t hash)
{
    struct table *table = &index->mac_table;
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

static inline struct end_record end_of(const struct flow_end *end, uint32_t version)
{
    struct end_record record = {.version = version};
    uint64_t high = be64_at(end->address, 0), low = be64_at(end->address, 8);
    if (version == 4)
        record.low = high >> 32;
    else if (version == 6)
        record.high = high, record.low = low;
    record.mac = be64_at(end, offsetof(struct flow_end, mac)) >> 16; /* the port lies behind it */
    return record;
}

_Static_assert(offsetof(struct flow_end, mac) + 8 == sizeof(struct flow_end), "eight bytes are there");

/* An end that is looked for: it, its hash and its MAC's. */
struct end_search {
    struct end_record end;
    uint64_t hash, mac_hash;
};

static uint32_t end_take(struct flow_index *index, const struct end_search *search)
{
    const struct end_record *wanted = &search->end;
    struct table *table = &index->end_table;
    uint32_t at = place_of(table, search->hash), tag = tag_of(search->hash);
    uint32_t number = table_next(table, tag, &at);
    for (; number != 0; number = table_after(table, tag, &at)) {
        const struct end_record *found = &index->end[number - 1];
        if (found->low == wanted->low && found->high == wanted->high &&
            found->mac == wanted->mac && found->version == wanted->version)
            return number - 1;
    }
    index->end[index->ends] = *wanted;
    index->end[index->ends].mac_number = mac_take(index, wanted->mac, search->mac_hash);
    index->ends_of[wanted->version / 2 - (wanted->version != 0)]++;
    table_put(table, at, tag, ++index->ends);
    return index->ends - 1;
}

/*
 * Looks up the ends of the flows that came since the last time: many at once, so that memory is
 * waited for once and not for each.
 */
static void ends_catch_up(struct flow_index *index)
{
    const uint64_t *seed = index->seed;
    struct end_search search[2 * FRESH_MAX];
    uint32_t count = 2 * (index->flows - index->flows_ended);
    for (uint32_t i = 0; i < count; i++) {
        const struct flow_record *flow = &index->record[index->flows_ended + i / 2];
        struct end_record *end = &search[i].end;
        *end = end_of(&flow->end[i & 1], flow->kind.version);
        search[i].mac_hash = fold(end->mac ^ seed[4], seed[5] | 1);
        search[i].hash = fold(end->high ^ seed[0], end->low ^ seed[1]) ^
                         fold(end->mac ^ seed[2], end->version ^ seed[3]);
        table_prefetch(&index->end_table, search[i].hash);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = table_glance(&index->end_table, search[i].hash);
        if (number != 0)
            __builtin_prefetch(&index->end[number - 1]);
        else
            table_prefetch(&index->mac_table, search[i].mac_hash);
    }
    for (uint32_t i = 0; i < count; i++)
        index->state[index->flows_ended + i / 2].end[i & 1] = end_take(index, &search[i]);
    index->flows_ended = index->flows;
}

/* UINT32_MAX: there is no room. */
static uint32_t kind_take(struct flow_index *index, const struct flow_kind *kind)
{
    struct table *table = &index->kind_table;
    uint64_t hash = fold(word_at(kind, 0) ^ index->seed[0], word_at(kind, 8) ^ index->seed[1]);
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
    struct table *table = &index->inner_table;
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
    struct entry_set wanted = index->set[set];
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
    return (uint8_t)index->sets++;
}

/* ---- flows ------------------------------------------------------------------------------------- */

static void flow_write(struct flow_index *index, const struct flow_keys *keys, uint32_t kind,
                       uint32_t inner)
{
    struct flow_state *state = &index->state[index->flows];
    memcpy(&index->record[index->flows++], keys, FLOW_KEY_BYTES);
    *state = (struct flow_state){
        .inner = inner,
        .kind = (uint16_t)kind,
        .ports = (keys->kind.marks & FLOW_PORTS) != 0,
        .port = {keys->end[0].port, keys->end[1].port},
    };
    if (index->flows - index->flows_ended == FRESH_MAX)
        ends_catch_up(index);
}

void flow_index_clear(struct flow_index *index)
{
    table_clear(&index->flow_table);
    table_clear(&index->end_table);
    table_clear(&index->mac_table);
    table_clear(&index->kind_table);
    table_clear(&index->inner_table);
    index->flows = index->flows_ended = index->ends = index->macs = index->kinds = index->inners = 0;
    memset(index->ends_of, 0, sizeof index->ends_of);
    memset(&index->set[0], 0, sizeof index->set[0]);
    index->sets = 1; /* the empty one */
    index->apps = index->app_bytes = 0;
    index->logged = index->blocks = index->frame_block = index->covered = 0;
    index->stopped = false;
    static const struct flow_keys rest = {
        .kind = {.marks = FLOW_LINK_UNSURE | FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE |
                          FLOW_DEEP}};
    flow_write(index, &rest, kind_take(index, &rest.kind), 0);
}

static uint32_t flow_make(struct flow_index *index, const struct flow_keys *keys, uint32_t at,
                          uint32_t tag)
{
    if (index->ends + 2 * (index->flows - index->flows_ended + 1) > index->ends_max)
        ends_catch_up(index);
    if (index->flows == index->flows_max || index->ends + 2 * FRESH_MAX > index->ends_max)
        return FLOW_REST;
    uint32_t inner = 0, kind = kind_take(index, &keys->kind);
    if (kind == UINT32_MAX)
        return FLOW_REST;
    if ((keys->kind.marks & FLOW_INNER) != 0)
        inner = inner_take(index, &keys->inner);
    if (inner == UINT32_MAX)
        return FLOW_REST;
    table_put(&index->flow_table, at, tag, index->flows + 1);
    flow_write(index, keys, kind, inner);
    return index->flows - 1;
}

static inline bool flow_is(const struct flow_index *index, uint32_t flow, const struct flow_keys *keys)
{
    return memcmp(&index->record[flow], keys, FLOW_KEY_BYTES) == 0 &&
           ((keys->kind.marks & FLOW_INNER) == 0 ||
            memcmp(&index->inner[index->state[flow].inner - 1], &keys->inner, sizeof keys->inner) == 0);
}

/* The flow, where it is there; else FLOW_REST, and where it would have to be put. */
static inline uint32_t flow_find(const struct flow_index *index, const struct flow_keys *keys, uint32_t *at, uint32_t tag)
{
    const struct table *table = &index->flow_table;
    uint32_t number = table_next(table, tag, at);
    for (; number != 0; number = table_after(table, tag, at))
        if (flow_is(index, number - 1, keys))
            return number - 1;
    return FLOW_REST;
}

static inline uint32_t flow_take(struct flow_index *index, const struct flow_keys *keys,
                                 uint64_t hash)
{
    uint32_t at = place_of(&index->flow_table, hash), tag = tag_of(hash), flow = flow_find(index, keys, &at, tag);
    return flow != FLOW_REST ? flow : flow_make(index, keys, at, tag);
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
            (struct block_start){.log = index->logged, .offset = FLOW_INDEX_NO_RECORD};
    index->block[block].offset = (uint16_t)(at % BLOCK_BYTES);
}

void flow_index_add(struct flow_index *index, const struct flow_keys *keys, uint64_t hash,
                    uint32_t at, uint32_t record_bytes)
{
    if (index->stopped)
        return;
    if (index->frame_block + at / BLOCK_BYTES >= index->blocks)
        blocks_begin(index, at);
    if (index->logged == index->packets_max)
        flow_index_stop(index);
    if (index->stopped)
        return;
    uint32_t flow = flow_take(index, keys, hash);
    struct flow_state *state = &index->state[flow];
    index->log[index->logged++] = flow;
    index->block[index->blocks - 1].packets++;
    state->packets++;
    state->bytes += record_bytes;
    state->tcp_flags |= keys->tcp_flags;
    state->ways |= (uint8_t)(FLOW_WAY_0 << keys->from);
    if ((index->set[state->set].word[keys->entry >> 6] >> (keys->entry & 63) & 1) == 0)
        state->set = set_with(index, state->set, keys->entry);
}

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
            (struct block_start){.log = index->logged, .offset = FLOW_INDEX_NO_RECORD};
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
    uint64_t hash = flow_index_hash(index, keys);
    uint32_t at = place_of(&index->flow_table, hash), flow = flow_find(index, keys, &at, tag_of(hash));
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

void flow_index_judge(struct flow_index *index, const struct verdicts *verdicts)
{
    uint64_t seed = verdicts_seed(verdicts);
    struct asked asked = {.count = 0};
    struct pairs pairs;
    pairs.count = 0;
    for (uint32_t flow = FLOW_REST + 1; flow < index->flows; flow++) {
        struct flow_keys keys;
        memcpy(&keys, &index->record[flow], FLOW_KEY_BYTES);
        if ((keys.kind.marks & FLOW_INNER) != 0)
            keys.inner = index->inner[index->state[flow].inner - 1];
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

/* ---- encoding: order --------------------------------------------------------------------------- */

static uint8_t sorting_byte(const struct sorting *item, uint32_t place)
{
    return (uint8_t)((place < 8 ? item->low : item->high) >> (place & 7) * 8);
}

/* Sorts by (high, low): a pass for each byte that is not the same in all. Returns the sorted half. */
static struct sorting *sort_numbers(struct sorting *from, struct sorting *to, uint32_t count)
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
        struct sorting *other = from;
        from = to;
        to = other;
    }
    return from;
}

static int by_mac(const void *a, const void *b)
{
    uint64_t one = ((const struct sorting *)a)->mac, two = ((const struct sorting *)b)->mac;
    return one < two ? -1 : one > two;
}

/* One address with several MACs, which is rare: sorted by MAC in a second step. */
static void sort_macs(struct sorting *item, uint32_t count)
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

static uint32_t bits_so_far(const struct encoding *encoding)
{
    return 8 * (uint32_t)(encoding->writer.at - encoding->part_start) + encoding->writer.bits;
}

/*
 * A whole part of numbers, each of at most `width` bits: coded, or as they are where that is shorter. Notes in bit[] where each of the pieces
 * begins that item[] names.
 */
static void put_pieces(struct encoding *encoding, enum flow_part part, const uint64_t *value, uint32_t count, uint32_t width, uint32_t pieces)
{
    struct bit_writer *writer = &encoding->writer;
    uint32_t order = best_order(value, count), i = 0;
    uint64_t raw_bits = (uint64_t)count * width;
    encoding->item[pieces] = count;
    for (uint32_t piece = 0; piece <= pieces; piece++) {
        for (uint32_t to = encoding->item[piece]; i < to; i++)
            bits_put_golomb(writer, value[i], order);
        encoding->bit[piece] = bits_so_far(encoding);
    }
    if (encoding->bit[pieces] <= raw_bits && !writer->failed) {
        part_end(encoding, part, order);
        return;
    }
    part_begin(encoding, encoding->part_start);
    for (i = 0; i < count; i++)
        bits_put(writer, value[i], width);
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
    for (uint32_t i = 0; i < encoding->blocks; i++) {
        bits_put(&encoding->writer, encoding->index->block[i].offset, 14);
        bits_put(&encoding->writer, encoding->index->block[i].packets, 11);
    }
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
static const struct sorting *rank_codes(struct encoding *encoding, const uint32_t *uses,
                                        uint32_t count, uint32_t *used)
{
    struct sorting *item = encoding->index->sorting[0];
    for (uint32_t i = 0; i < count; i++)
        item[i] = (struct sorting){.low = UINT32_MAX - uses[i], .number = i};
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
    const struct sorting *sorted = rank_codes(encoding, encoding->kind_uses, index->kinds, &kinds);
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
    uint32_t at = (uint32_t)fold(word, encoding->index->seed[2] | 1) % STATE_SLOTS;
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
    const struct sorting *sorted =
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
    struct sorting *item = index->sorting[0];
    for (uint32_t i = 0; i < index->macs; i++)
        item[i] = (struct sorting){.low = index->mac[i], .number = i};
    item = sort_numbers(item, index->sorting[1], index->macs);
    for (uint32_t i = 0; i < index->macs; i++) {
        mac_rank[item[i].number] = i;
        index->number[i] = item[i].low - (i > 0 ? item[i - 1].low : 0);
    }
    put_numbers(encoding, FLOW_PART_MACS, index->number, index->macs, 48);
    encoding->head.macs = le32_of(index->macs);
}

/* The ends of one class in order; gives each its rank. by_rank[]: their numbers. */
static const struct sorting *sort_ends(struct flow_index *index, uint32_t version, uint32_t base,
                                       uint32_t *by_rank)
{
    struct sorting *item = index->sorting[0];
    uint32_t count = 0;
    for (uint32_t i = 0; i < index->ends; i++) {
        const struct end_record *end = &index->end[i];
        if (end->version == version)
            item[count++] = (struct sorting){
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

static void encode_addresses6(struct encoding *encoding, const struct sorting *item, uint32_t count)
{
    uint64_t high = 0, low = 0;
    uint8_t *marks = encoding->marks + encoding->marks_at.six;
    for (uint32_t i = 0; i < count; i++) {
        if (i % FLOW_INDEX_END_CHUNK == 0) {
            struct flow_index_mark6 mark = {.bit = le32_of(bits_so_far(encoding))};
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
    const struct sorting *item = sort_ends(index, 4, index->ends_of[0], by_rank);
    for (uint32_t i = 0; i < index->ends_of[1]; i++)
        index->number[i] = item[i].low - (i > 0 ? item[i - 1].low : 0);
    uint32_t pieces = pieces_of(encoding, index->ends_of[1], FLOW_INDEX_END_CHUNK);
    put_pieces(encoding, FLOW_PART_ADDRESS4, index->number, index->ends_of[1], 32, pieces);
    for (uint32_t i = 0; i < pieces; i++) {
        struct flow_index_mark4 mark = {.address = le32_of(i > 0 ? (uint32_t)item[i * FLOW_INDEX_END_CHUNK - 1].low : 0), .bit = le32_of(encoding->bit[i])};
        memcpy(encoding->marks + i * sizeof mark, &mark, sizeof mark);
    }
    item = sort_ends(index, 6, index->ends_of[0] + index->ends_of[1], by_rank);
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
    memset(index->port_count, 0, PORTS * sizeof *index->port_count);
    for (uint32_t i = encoding->first; i < index->flows; i++) {
        const struct flow_state *state = &index->state[i];
        if (i + GATHER_AHEAD < index->flows) /* about where it will go */
            __builtin_prefetch(
                &index->brief[at[index->rank[index->state[i + GATHER_AHEAD].end[0]]]], 1);
        uint32_t place = at[index->rank[state->end[0]]]++;
        struct brief *brief = &index->brief[place];
        index->place[i] = place;
        *brief = (struct brief){
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
    for (uint32_t i = 0; i < encoding->flows; i++)
        bits_put(&encoding->writer, index->brief[i].second, width);
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
    struct sorting *item = index->sorting[0];
    for (uint32_t i = 0; i < candidates; i++) {
        uint16_t port = encoding->candidate[i];
        item[i] = (struct sorting){.low = UINT16_MAX - count[port], .number = port};
    }
    memset(count, 0, PORTS * sizeof *count);
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
        const struct brief *flow = &index->brief[i];
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
    for (uint32_t i = 0; i < others; i++)
        bits_put(&encoding->writer, other[i], 16);
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
    for (uint32_t i = 0; i < encoding->flows; i++)
        bits_put(&encoding->writer, index->brief[i].size, 8);
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
    struct bit_writer *writer = &encoding->writer;
    uint8_t *start = encoding->part_start, *at = start;
    for (uint32_t i = 0; i < encoding->flows; i++) {
        uint32_t packets = (uint32_t)index->number[i], before = 0;
        bits_put_golomb(writer, packets, order);
        uint32_t k = packets > 0 ? flow_gap_order(encoding->blocks, packets) : 0;
        for (uint32_t j = 0; j < packets; j++, block++) {
            bits_put_rice(writer, *block - before, k);
            before = *block;
        }
        if ((i + 1) % FLOW_INDEX_CHUNK != 0 && i + 1 < encoding->flows)
            continue;
        uint8_t *end = bits_end(writer);
        struct flow_index_chunk chunk = {
            .offset = le32_of((uint32_t)(at - start)),
            .crc = le32_of(checksum_crc32c(at, (size_t)(end - at))),
        };
        memcpy(chunks + i / FLOW_INDEX_CHUNK * sizeof chunk, &chunk, sizeof chunk);
        at = end;
    }
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
    ends_catch_up(index);
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
