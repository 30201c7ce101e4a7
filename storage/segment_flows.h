/*
 * segment_flows.h - where the key index of a sealed segment lies, and its bytes, from any good copy.
 *
 *     segment_flows_open() -> { flow_reader_open(&flows->source) ... } -> segment_flows_close()
 *
 * Reads go through the disk seam, a few pages each, where the bytes have not come ahead. A frame's header is checked before a byte of it is handed out; the bytes themselves are
 * under the checksums of the key index's own parts, so that single parts are read without the rest. Where flow_reader_*() finds
 * one of them wrong, the next copy can be tried. Bytes are hostile. Threads: that of the segment reader.
 */
#ifndef STORAGE_SEGMENT_FLOWS_H
#define STORAGE_SEGMENT_FLOWS_H

#include "flow_index_reader.h"
#include "segment_reader.h"

struct segment_flows {
    struct flow_index_source source; /* of the whole key index; `flows` must not be moved while it is used */
    struct segment_readers *shared;
    const struct worker_segment *segment;
    uint32_t place;
    uint32_t offset, end;  /* of the FLOWS frames in the slot */
    uint32_t frames;
    uint32_t checked;      /* the frame whose header was checked last, */
    uint32_t header_bytes; /* and how long it is */
    uint32_t from, to;     /* what of the slot is in the window */
    uint8_t *memory; /* of the window; null: not yet needed */
    const uint8_t *window;
};

/*
 * 1: the segment has a key index at this place; 0: it has none (it is open, was sealed without one, or its INDEX frames cannot be read at any
 * place); ERR_CORRUPT, ERR_IO: not to be had from this place; ERR_NO_MEMORY, or a negative code of `judge`.
 * Reads the INDEX frames through `reader` if that has not been done.
 */
int segment_flows_open(struct segment_flows *flows, struct segment_reader *reader, uint32_t place);
void segment_flows_close(struct segment_flows *flows);

#endif
