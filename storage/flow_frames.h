/*
 * flow_frames.h - the key index is fed with whole frames.
 *
 *     flow_frame_add() ... -> flow_frames_seal()
 *
 * For everybody who makes a segment: the stream that fills it, the start that seals what a crash left open, the mender that
 * seals what a failed write has ended. The filter of an extraction judges what is stored, so keys come from the frame and
 * not from the packet as it was captured. A frame was written a moment ago: its headers are in the caches.
 */
#ifndef STORAGE_FLOW_FRAMES_H
#define STORAGE_FLOW_FRAMES_H

#include "flow_index.h"
#include "segment_index.h"

/* At `at` of the frame a packet was put. */
static inline void flow_note_put(struct flow_note *note, flow_keys_of *keys_of, uint16_t link_type, const uint8_t *bytes,
                                 uint32_t captured_bytes, uint8_t entry, uint32_t at)
{
    if (!keys_of(link_type, bytes, captured_bytes, &note->plain, NULL))
        *note = (struct flow_note){0};
    note->plain.word[3] |= (uint64_t)at << FLOW_NOTE_AT | (uint32_t)entry << FLOW_PLAIN_REST;
}

/*
 * Adds the packets of a finished data frame, whose checksums are known to be right; `info` is what frame_parse() made of its header, of which
 * only the tables are read here. `note`: of its first `notes` packets, made by this process; the others are taken from the frame.
 * `room_bytes`: what the encoded index may have; where the next packets could outgrow it, indexing stops
 * (flow_index_stop()). A frame whose records contradict its header stops it, too.
 */
void flow_frame_add(struct flow_index *index, flow_keys_of *keys_of, const uint8_t *frame, const struct frame_info *info,
                    const struct flow_note *note, uint32_t notes, uint32_t room_bytes);

/* Encodes the index into the seal: the FLOWS frames, as far as there is room for them. seal->flows is the index's until it is cleared. */
void flow_frames_seal(struct flow_index *flows, const struct segment_index *index, struct segment_seal *seal);

/*
 * What layer 7 had found of the flows of `flows`, which are all of a segment's that is to be written anew, from the key index that the segment has: what closes it lies at `offset`
 * of `slot`, `bytes` long, with the seal behind it. Where that cannot be read its flows are not judged. After the last frame was added.
 */
void flow_frames_carry(struct flow_index *flows, const uint8_t *slot, uint32_t offset, uint32_t bytes, const struct identity *segment,
                       uint32_t revision);

#endif
