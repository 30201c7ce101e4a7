/*
 * flow_index_inside.h - what flow_index.c fills and flow_index_encode.c reads. For these two alone.
 */
#ifndef STORAGE_FLOW_INDEX_INSIDE_H
#define STORAGE_FLOW_INDEX_INSIDE_H

#include "flow_format.h"
#include "flow_index.h"

#define FLOW_REST 0u /* what finds no room: may be anything */
#define FLOW_OTHER (UINT64_C(1) << 32)
#define FLOW_PORT_NUMBERS 65536u

/*
 * Open addressing, at most two thirds full. A slot is the number of a record plus one, and above it
 * a tag: other bits of the record's hash than those that lead here. 0: it is free. Small slots, for
 * the caches.
 */
struct flow_table {
    uint32_t *slot;
    uint32_t mask;
};

struct flow_record {
    struct flow_end end[2];
    struct flow_kind kind;
};

struct flow_end_record { /* 32 bytes */
    uint64_t high, low; /* the address, as a number */
    uint64_t mac;
    uint32_t version;
    uint32_t mac_number; /* 0 while it is looked for */
};

/*
 * A flow, in a cache line of its own: with the slot of a table, the one that a packet costs.
 */
struct flow_state {
    uint64_t word[4]; /* of a plain flow; of others the last one is FLOW_OTHER and the number of the keys */
    uint32_t packets;
    uint32_t bytes;
    uint32_t end[2];
    uint32_t inner; /* number plus one; 0: none */
    uint16_t kind;
    uint16_t app;
    uint16_t port[2];
    uint8_t tcp_flags;
    uint8_t ways;
    uint8_t set;
    uint8_t ports; /* whether `port` is set */
};

struct flow_sorting {
    uint64_t high, low;
    uint64_t mac;
    uint64_t number;
};

struct flow_brief {
    uint16_t port[2];
    uint32_t packets;
    uint32_t second; /* rank of end 1 */
    uint32_t inner;
    uint16_t kind;
    uint16_t state;
    uint8_t size;
    uint8_t ports; /* whether there are any */
};

struct flow_entry_set {
    uint64_t word[4];
};

struct flow_block_start {
    uint32_t log; /* how many packets were logged before it */
    uint16_t offset;
    uint16_t packets;
};

struct flow_index {
    uint8_t *memory; /* all arrays below */
    uint64_t seed[10];
    uint64_t hash_without_high; /* what the upper half of an address adds to the hash of an end that has none */
    uint32_t flows_max, packets_max, blocks_max, ends_max;

    struct flow_table plain_table, other_table;
    struct flow_state *state;
    uint32_t flows;
    uint32_t flows_ended; /* those whose ends have been looked up */
    struct flow_record *other; /* keys of the flows that are not plain */
    uint32_t others;

    struct flow_table end_table;
    struct flow_end_record *end;
    uint32_t ends, ends_of[3];
    struct flow_table mac_table;
    uint64_t *mac;
    uint32_t macs;
    struct flow_table kind_table;
    uint16_t *plain_kind; /* by the last word of a plain flow: number plus one, 0: none yet */
    struct flow_kind kind[FLOW_INDEX_KINDS_MAX];
    uint32_t kinds;
    struct flow_table inner_table;
    struct flow_inner *inner;
    uint32_t inners, inners_max;

    struct flow_entry_set set[FLOW_INDEX_SETS_MAX];
    uint32_t sets;
    uint8_t alone[256]; /* of each entry: the set of it and no other; 0: none yet */
    char app[FLOW_INDEX_APPS_MAX][64];
    uint32_t apps, app_bytes;
    bool verdicts_expected;

    uint32_t *log;
    uint32_t logged;
    struct flow_block_start *block;
    uint32_t blocks;      /* begun */
    uint32_t frame_block; /* number of the first block of the frame being filled */
    bool stopped;
    uint32_t covered; /* once stopped */

    /* for encoding */
    struct flow_sorting *sorting[2];
    uint64_t *word[2]; /* the same for what is sorted by 32 bits */
    uint32_t *rank;      /* of each end, by its number; later of each MAC */
    uint32_t *by_rank;   /* the other way round */
    struct flow_brief *brief; /* what columns are made of, sorted by end 0 */
    uint32_t *place;     /* of each flow among those */
    uint32_t *start;     /* of each flow's part of `gathered`; and other numbers */
    uint16_t *gathered;  /* blocks, by flow */
    uint16_t *port_count; /* of each port; later the service that it is, plus one */
    uint64_t *number;
    uint8_t *out;
    uint32_t out_bytes;
};

static inline uint64_t flow_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Looks up what ends are not looked up yet. */
void flow_index_catch_up(struct flow_index *index);

#endif
