/*
 * flow_format.h - the encoded flow index, byte by byte; FORMAT.md section 9 explains it.
 */
#ifndef STORAGE_FLOW_FORMAT_H
#define STORAGE_FLOW_FORMAT_H

#include "bytes.h"

#define FLOW_INDEX_MAGIC "tlflows\n"
#define FLOW_INDEX_VERSION 1u

#define FLOW_INDEX_PACKETS_MAX (SLOT_BYTES_MAX / 64)
#define FLOW_INDEX_FLOWS_MAX (SLOT_BYTES_MAX / 512)
#define FLOW_INDEX_ENDS_MAX (2 * FLOW_INDEX_FLOWS_MAX)
#define FLOW_INDEX_BLOCKS_MAX (SLOT_BYTES_MAX / PAGE_BYTES)
#define FLOW_INDEX_KINDS_MAX 4096u
#define FLOW_INDEX_STATES_MAX 1024u
#define FLOW_INDEX_SETS_MAX 256u
#define FLOW_INDEX_APPS_MAX 1024u
#define FLOW_INDEX_SERVICES_MAX 255u
#define FLOW_INDEX_CHUNK 256u      /* flows whose postings are one piece with one checksum */
#define FLOW_INDEX_RAW 255u        /* a part's code: fixed width instead of Golomb */
#define FLOW_INDEX_NO_RECORD 16383u /* no record begins in this block */
#define FLOW_INDEX_APP_UNKNOWN 0u  /* no verdict yet */

enum flow_part {
    FLOW_PART_BLOCKS,   /* where each block's first record begins, and how many begin in it */
    FLOW_PART_ENTRIES,  /* the segment's entry table */
    FLOW_PART_KINDS,    /* struct flow_kind, most frequent first */
    FLOW_PART_STATES,   /* combinations of TCP flags, ways, entries and application */
    FLOW_PART_SETS,     /* sets of entries, 32 bytes each */
    FLOW_PART_APPS,     /* names of applications */
    FLOW_PART_INNERS,   /* struct flow_inner */
    FLOW_PART_MACS,     /* distinct, ascending */
    FLOW_PART_ADDRESS4, /* of the ends of version 4, ascending */
    FLOW_PART_ADDRESS6,
    FLOW_PART_END_MACS, /* each end's MAC, as a number in MACS */
    FLOW_PART_FIRSTS,   /* of each end: the number of flows whose end 0 it is */
    FLOW_PART_SECONDS,  /* each flow's end 1 */
    FLOW_PART_KIND,     /* each flow's kind */
    FLOW_PART_SERVICES, /* the ports that many flows have */
    FLOW_PART_SERVICE,  /* of each flow with ports: which of them at which end */
    FLOW_PART_PORTS,    /* the other port, or both */
    FLOW_PART_STATE,    /* each flow's state */
    FLOW_PART_INNER,    /* of each flow with FLOW_INNER: its number in INNERS */
    FLOW_PART_SIZES,    /* each flow's bytes, roughly */
    FLOW_PART_CHUNKS,   /* where the pieces of POSTINGS begin, and their checksums */
    FLOW_PART_POSTINGS, /* each flow's packets: how many, and the block of each */
    FLOW_PARTS
};

struct flow_index_part {
    le32 offset; /* from the start of the index */
    le32 bytes;
    le32 crc;    /* of POSTINGS: 0, its chunks have their own */
    uint8_t code; /* width, order of the code, or FLOW_INDEX_RAW */
    uint8_t reserved[3];
};

struct flow_index_head {
    uint8_t magic[8];
    le32 crc;   /* of this head with this field zero */
    le16 version;
    le16 parts;
    le32 bytes; /* of the whole index */
    le32 blocks; /* blocks [0, blocks) are indexed; what comes after them must be read */
    le32 packets;
    le32 flows;
    le32 ends[3]; /* without address, of version 4, of version 6: numbered in this order */
    le32 macs;
    le32 kinds;
    le32 states;
    le32 sets;
    le32 inners;
    le32 entries;
    le32 services;
    le32 apps;
    struct flow_index_part part[FLOW_PARTS];
};

struct flow_index_state { /* 6 bytes */
    uint8_t tcp_flags;
    uint8_t ways;
    le16 set;
    le16 app; /* number in APPS plus one; 0: not known */
};

struct flow_index_chunk {
    le32 offset; /* in POSTINGS */
    le32 crc;
};

_Static_assert(sizeof(struct flow_index_part) == 16, "on-disk layout");
_Static_assert(sizeof(struct flow_index_head) == 76 + 16 * FLOW_PARTS, "on-disk layout");
_Static_assert(sizeof(struct flow_index_state) == 6, "on-disk layout");

/* The order of a flow's gaps: close to log2 of the mean gap, by integers alone. */
static inline uint32_t flow_gap_order(uint32_t blocks, uint32_t packets)
{
    uint64_t mean = (uint64_t)blocks * 11 / ((uint64_t)packets * 16);
    return mean == 0 ? 0 : 63 - (uint32_t)__builtin_clzll(mean);
}

/* Sizes as eight bits: an exponent and three bits behind its leading one; rounded down. */
static inline uint8_t flow_size_put(uint32_t bytes)
{
    if (bytes < 8)
        return (uint8_t)bytes;
    uint32_t exponent = 31 - (uint32_t)__builtin_clz(bytes);
    return (uint8_t)((exponent - 2) << 3 | (bytes >> (exponent - 3) & 7));
}

/* The middle of what flow_size_put() makes the same. */
static inline uint64_t flow_size_get(uint8_t size)
{
    if (size < 16)
        return size;
    uint32_t exponent = (size >> 3) + 2u;
    return ((8u | (size & 7u)) * 2 + 1) * (UINT64_C(1) << (exponent - 4));
}

#endif
