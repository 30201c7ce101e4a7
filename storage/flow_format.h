/*
 * flow_format.h - the encoded flow index, byte by byte; FORMAT.md section 9 explains it.
 */
#ifndef STORAGE_FLOW_FORMAT_H
#define STORAGE_FLOW_FORMAT_H

#include "bytes.h"

#define FLOW_INDEX_MAGIC "tlflows\n"
#define FLOW_INDEX_VERSION 2u
#define FLOW_INDEX_VERSION_UNMARKED 1u /* without FLOW_PART_MARKS, and a head that much shorter: read, not written */

#define FLOW_INDEX_PACKETS_MAX (SLOT_BYTES_MAX / 64)
#define FLOW_INDEX_FLOWS_MAX (SLOT_BYTES_MAX / 512)
#define FLOW_INDEX_ENDS_MAX (2 * FLOW_INDEX_FLOWS_MAX)
#define FLOW_INDEX_BLOCKS_MAX (SLOT_BYTES_MAX / PAGE_BYTES)
#define FLOW_INDEX_KINDS_MAX 4096u
#define FLOW_INDEX_STATES_MAX 1024u
#define FLOW_INDEX_SETS_MAX 256u
#define FLOW_INDEX_APPS_MAX 1024u
#define FLOW_INDEX_NAMES_BYTES 4096u /* of all names of applications, each with its length */
#define FLOW_INDEX_SERVICES_MAX 255u
#define FLOW_INDEX_CHUNK 256u      /* flows whose postings are one piece with one checksum; and that share a mark */
#define FLOW_INDEX_END_CHUNK 512u  /* ends that share a mark */
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
    FLOW_PART_MARKS,    /* where in other parts the pieces for so many ends, or flows, begin */
    FLOW_PARTS
};

#define FLOW_PARTS_UNMARKED FLOW_PART_MARKS

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

/*
 * The marks, in this order: of the ends of version 4, of those of version 6, of all ends, of flows. `bit`s count from the start of the part
 * that they are about; a piece ends where the next one begins, or with its part.
 */
struct flow_index_mark4 {
    le32 address; /* of the end before; 0: there is none */
    le32 bit;     /* in ADDRESS4 */
};

struct flow_index_mark6 {
    uint8_t address[16];
    le32 bit; /* in ADDRESS6 */
};

struct flow_index_mark_end {
    le32 flow; /* the first flow whose end 0 is not an end before */
    le32 bit;  /* in FIRSTS */
};

struct flow_index_piece {
    le32 bit;
    le32 crc; /* of the bytes in which it lies, the first and the last of which may be others', too */
};

enum flow_column {
    FLOW_COLUMN_KIND,
    FLOW_COLUMN_SERVICE,
    FLOW_COLUMN_PORTS,
    FLOW_COLUMN_STATE,
    FLOW_COLUMNS
};

struct flow_index_mark {
    struct flow_index_piece column[FLOW_COLUMNS];
};

_Static_assert(sizeof(struct flow_index_mark4) == 8, "on-disk layout");
_Static_assert(sizeof(struct flow_index_mark6) == 20, "on-disk layout");
_Static_assert(sizeof(struct flow_index_mark_end) == 8, "on-disk layout");
_Static_assert(sizeof(struct flow_index_mark) == 32, "on-disk layout");
_Static_assert(sizeof(struct flow_index_part) == 16, "on-disk layout");
_Static_assert(sizeof(struct flow_index_head) == 76 + 16 * FLOW_PARTS, "on-disk layout");
_Static_assert(sizeof(struct flow_index_state) == 6, "on-disk layout");

/* How many pieces of so many each that is. */
static inline uint32_t flow_chunks(uint32_t count, uint32_t each)
{
    return (count + each - 1) / each;
}

/* Where each kind of mark begins in its part, and how long that is in all. */
struct flow_marks {
    uint32_t six, ends, flows, bytes;
};

static inline struct flow_marks flow_marks(const uint32_t ends[3], uint32_t flows)
{
    struct flow_marks marks;
    marks.six = flow_chunks(ends[1], FLOW_INDEX_END_CHUNK) * (uint32_t)sizeof(struct flow_index_mark4);
    marks.ends = marks.six + flow_chunks(ends[2], FLOW_INDEX_END_CHUNK) * (uint32_t)sizeof(struct flow_index_mark6);
    marks.flows = marks.ends + flow_chunks(ends[0] + ends[1] + ends[2], FLOW_INDEX_END_CHUNK) * (uint32_t)sizeof(struct flow_index_mark_end);
    marks.bytes = marks.flows + flow_chunks(flows, FLOW_INDEX_CHUNK) * (uint32_t)sizeof(struct flow_index_mark);
    return marks;
}

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
