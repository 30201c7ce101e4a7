/*
 * segment_blocks.h - which blocks of a frame are read for a filter, by what the segment's key index says of them.
 *
 *     segment_blocks_load() -> { segment_blocks_stretches() -> segment_stretch_fits() ... }
 *
 * Pure functions on memory, but for the load. What they say narrows and nothing else: where records do not stand in a frame as the
 * index has it, segment_stretch_fits() says so, and the frame is read whole.
 */
#ifndef STORAGE_SEGMENT_BLOCKS_H
#define STORAGE_SEGMENT_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_index_reader.h"
#include "frame.h"

/* What the key index says of a block. */
struct segment_block {
    uint16_t first;   /* offset in the block of the first record that begins in it, if one does */
    uint16_t packets; /* that begin in it */
    uint16_t wanted;  /* of those, may match; 0: it need not be read */
};

/* A part of a frame: the records that begin in neighbouring blocks. */
struct segment_stretch {
    uint32_t block, blocks; /* of the frame, in which its records begin */
    uint32_t at;            /* offset in the frame of the first record */
    uint32_t end;           /* of what is read of the frame from `block` on; the last record may reach beyond */
    uint32_t before;        /* packets of the frame that come before its first */
    uint32_t packets;
    uint32_t wanted; /* more of them than this cannot match */
};

#define STRETCHES_MAX (FRAME_BLOCKS_USUAL / 2) /* of a frame: none is next to another */

/* A frame's blocks in that table. */
struct segment_frame_blocks {
    const struct segment_block *block;
    uint32_t frame_bytes; /* at most FRAME_BYTES_USUAL */
};

/* What the table of blocks, which has room for all that are indexed, says of `count` of them from one on: a frame's. 0, or an error of the index. */
int segment_blocks_load(struct flow_reader *index, const struct flow_selection *selection, uint32_t from, uint32_t count,
                        struct segment_block *table);

/*
 * The stretches to be read of a frame, in order, into stretch[STRETCHES_MAX]; returns how many. `sure`: whatever may match does, so that the end of a
 * last record is worth reading only if a match is still missing by then; without, it is read at once.
 */
uint32_t segment_blocks_stretches(const struct segment_frame_blocks *frame, bool sure, struct segment_stretch *stretch);

/* Where the last record of a stretch ends, as an offset in the frame; at most `end`, that of the frame's records. */
uint32_t segment_stretch_records_end(const struct segment_frame_blocks *frame, const struct segment_stretch *stretch, uint32_t end);

/* Whether the records in a stretch, of which the blocks have been checked, begin and end where the table says. The header has passed. */
bool segment_stretch_fits(const struct segment_frame_blocks *frame, const struct segment_stretch *stretch, const uint8_t *bytes,
                          const struct frame_info *info);

#endif
