/*
 * flow_index_reader.h - reads the key index of a segment: which of its blocks may hold packets that
 * match.
 *
 *     flow_reader_open() -> { flow_reader_select() | flow_reader_each() ... } -> flow_reader_close()
 *
 * Bytes are hostile: every part has a checksum that is looked at before the part is, and whatever
 * has passed is still held against all limits. ERR_CORRUPT means that the index is of no use and
 * the segment has to be read from end to end; it never means less than that.
 *
 * Only the parts that a question needs are read: a search for an address stops where no flow has
 * it. Where few flows have it, marks lead to what is said of them, and no column is decoded from its
 * beginning, and most are not read. Threads: one.
 */
#ifndef STORAGE_FLOW_INDEX_READER_H
#define STORAGE_FLOW_INDEX_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_keys.h"
#include "narrowing.h"

struct flow_reader;

struct flow_index_range {
    uint32_t offset, bytes;
};

/*
 * Where the bytes come from: 0, or a negative code that the reader's functions then return. expect(), which may be null, is told what will be
 * read next, ascending, so that all of it can be on its way at once.
 */
struct flow_index_source {
    int (*read)(void *context, uint32_t offset, uint32_t count, uint8_t *into);
    int (*expect)(void *context, const struct flow_index_range *range, uint32_t count);
    void *context;
    uint32_t bytes; /* of the index, or more */
};

int flow_reader_open(const struct flow_index_source *source, struct flow_reader **reader);
void flow_reader_close(struct flow_reader **reader); /* null is allowed */

/* Blocks from this one on are not indexed: read them. */
uint32_t flow_reader_blocks(const struct flow_reader *reader);

/* What was read so far, in bytes: for --explain. */
uint64_t flow_reader_bytes_read(const struct flow_reader *reader);

/* How much of the index, from its start, a search for addresses needs before it knows which flows have them. 0: there are no marks, or they did
 * not help the last one: all of it. */
uint32_t flow_reader_front(const struct flow_reader *reader);

#define FLOW_BLOCK_NONE UINT16_MAX

struct flow_block { /* 16 KiB of a frame */
    uint16_t first;   /* where in it the first record begins that does; FLOW_BLOCK_NONE: none does */
    uint16_t packets; /* that begin in it */
};

/* What is said of `count` of the indexed blocks from one on. 0 or a negative code. */
int flow_reader_block_table(struct flow_reader *reader, uint32_t from, uint32_t count, struct flow_block *block);

struct flow_selection {
    uint16_t *block; /* of each of the indexed blocks: how many packets of those flows begin in it; 0: it need not be read */
    uint32_t blocks;
    uint32_t selected; /* blocks */
    uint32_t flows;
    bool sure; /* every packet of those flows matches */
    uint64_t packets; /* of those flows */
    uint64_t bytes;   /* of those, with their record headers; right within 7 % for each flow. 0
                         where they were not asked for */
};

/* Has the source told what flow_reader_select() will read for this tree, as far as it can be said by now: so it is on its way while something else is
 * done. Not needed; the next selection is then for the same tree. 0 or a negative code. */
int flow_reader_expect(struct flow_reader *reader, const struct narrowing *tree);

/* Flows that may match (`tree` null: all), and the blocks of their packets. The selection's memory
 * is the caller's, also after an error, to be given back by flow_selection_clear(). `sizes`: also how many bytes that
 * is, for an estimate. */
int flow_reader_select(struct flow_reader *reader, const struct narrowing *tree, bool sizes,
                       struct flow_selection *selection);
void flow_selection_clear(struct flow_selection *selection);

static inline bool flow_selection_has(const struct flow_selection *selection, uint32_t block)
{
    return block >= selection->blocks || selection->block[block] > 0;
}

/* Calls `each` for every flow; a value other than 0 ends the walk and is returned. keys->from,
 * tcp_flags and entry mean nothing. */
int flow_reader_each(struct flow_reader *reader,
                     int (*each)(void *context, const struct flow_keys *keys,
                                 const struct flow_seen *seen),
                     void *context);

#endif
