/*
 * segment_flows.h - where the key index of a sealed segment lies, and its bytes, from any good copy.
 *
 *     segment_flows_open() -> { flow_reader_open(&flows->source) ... } -> segment_flows_close()
 *
 * Reads go through the disk seam, where the bytes have not come ahead: what the flow reader expects to need all at once, else a few pages
 * each. A frame's header is checked before a byte of it is handed out; the bytes themselves are
 * under the checksums of the key index's own parts and pieces, so that single ones are read without the rest. Where flow_reader_*() finds
 * one of them wrong, the next copy can be tried. Bytes are hostile. Threads: that of the segment reader.
 */
#ifndef STORAGE_SEGMENT_FLOWS_H
#define STORAGE_SEGMENT_FLOWS_H

#include "flow_index_reader.h"
#include "segment_reader.h"

#define SEGMENT_FLOWS_FRAMES_MAX (SLOT_BYTES_MAX / 8 / FLOWS_PIECE_BYTES + 1) /* a key index is not longer than an eighth of its slot */
#define SEGMENT_FLOWS_WINDOWS_MAX 32u

struct segment_flows {
    struct flow_index_source source; /* of the whole key index; `flows` must not be moved while it is used */
    struct segment_readers *shared;
    const struct worker_segment *segment;
    uint32_t place;
    uint32_t offset, end;  /* of the FLOWS frames in the slot */
    uint32_t frames;
    struct { /* zeros: not yet checked */
        uint32_t header_bytes, body_bytes;
    } frame[SEGMENT_FLOWS_FRAMES_MAX];
    struct segment_pages window[SEGMENT_FLOWS_WINDOWS_MAX]; /* what of the slot was asked for, one behind the other in memory */
    uint32_t windows;
    struct patience_read *read; /* of these; null: nothing was asked for */
    bool awaited;
};

/*
 * 1: the segment has a key index at this place; 0: it has none (it is open, was sealed without one, or its INDEX frames cannot be read at any
 * place); ERR_CORRUPT, ERR_IO: not to be had from this place; ERR_NO_MEMORY, or a negative code of `judge`.
 * Reads the INDEX frames through `reader` if that has not been done.
 */
int segment_flows_open(struct segment_flows *flows, struct segment_reader *reader, uint32_t place);
void segment_flows_close(struct segment_flows *flows);

/* From the beginning of the INDEX frames on, how long what holds the first `front` bytes of the key index is; 0 for 0. */
uint32_t segment_flows_slot_bytes(const struct segment_flows *flows, uint32_t front);

#endif
