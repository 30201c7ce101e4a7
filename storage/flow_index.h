/*
 * flow_index.h - which flows a segment holds, and which of its blocks hold their packets.
 *
 *     flow_index_open() -> { flow_index_clear() -> { flow_index_add() ... flow_index_end_frame() } ...
 *                            flow_index_encode() } -> flow_index_close()
 *
 * Made while a segment is filled, by one thread. What it has seen of flows it keeps from segment to segment; nothing of that is in the
 * encoding of a segment in which it was not seen. All memory is allocated at the
 * start; nothing of what packets do can make it more. Where a limit is met, the index says so and
 * stays right: packets of flows that find no room belong to one flow that may match anything, and
 * blocks behind the last one that found room are not indexed. A reader reads both.
 *
 * How much room the index will need in the slot is known at every moment, from above:
 * flow_index_bound(). The true size is two thirds of it, or less.
 *
 * What layer 7 makes of its flows is asked when it is sealed: most verdicts come after the first packets.
 *
 * Read by flow_index_reader.h.
 */
#ifndef STORAGE_FLOW_INDEX_H
#define STORAGE_FLOW_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "flow_keys.h"
#include "verdicts.h"

struct flow_index;

/*
 * For slots of this size: about 0.4 bytes of memory for each byte of a slot, and for what it keeps from segment to segment up to
 * 20 MiB beside slots of 16 MiB, 40 MiB beside those of 64. ERR_NO_MEMORY.
 */
int flow_index_open(uint64_t slot_bytes, struct flow_index **index);
void flow_index_close(struct flow_index **index); /* null is allowed */

/* Begins a segment. */
void flow_index_clear(struct flow_index *index);

/*
 * A hash of a flow's keys, secret to this index, so that nobody can make flows collide on purpose.
 * Over a batch of packets, flow_index_prefetch() for all, then flow_index_prefetch_flow() for all, then flow_index_prefetch_keys(),
 * then flow_index_add(): so memory is waited for a few times, not several times a packet.
 */
uint64_t flow_index_hash(const struct flow_index *index, const struct flow_keys *keys);
void flow_index_prefetch(const struct flow_index *index, uint64_t hash);
void flow_index_prefetch_flow(const struct flow_index *index, uint64_t hash);
void flow_index_prefetch_keys(const struct flow_index *index, uint64_t hash);

/*
 * A packet of `record_bytes` bytes was put at `at` of the frame being filled (from the frame's
 * start, header included). In the order of the frame.
 */
void flow_index_add(struct flow_index *index, const struct flow_keys *keys, uint64_t hash,
                    uint32_t at, uint32_t record_bytes);

/*
 * A packet of a frame, as who fills the frame knows it: its headers are in that thread's caches, and would have to be fetched from there. Of
 * one that is not plain (flow_keys.h) only where it is. Above FLOW_PLAIN_REST the last word says which entry it has, and where in the frame
 * its record begins.
 */
struct flow_note {
    struct flow_plain plain;
};

#define FLOW_NOTE_AT 32u

#define FLOW_NOTES_MAX 4096u /* of a frame: where there are more packets, those behind are so short that they lie line by line */

static inline bool flow_note_is_plain(const struct flow_note *note)
{
    return (note->plain.word[3] & FLOW_PLAIN_IS) != 0;
}

static inline uint32_t flow_note_at(const struct flow_note *note)
{
    return (uint32_t)(note->plain.word[3] >> FLOW_NOTE_AT);
}

static inline uint8_t flow_note_entry(const struct flow_note *note)
{
    return (uint8_t)(note->plain.word[3] >> FLOW_PLAIN_REST);
}

/*
 * The same of many packets by their notes: flow_index_ask(), which sets hash[] of those that are plain, then flow_index_ask_flows(), then
 * flow_index_add_notes(). For the others keys[] and hash[] are the caller's to set, flow_index_prefetch_*() his to call. `end`: of the
 * last one's record.
 */
void flow_index_ask(const struct flow_index *index, const struct flow_note *note, uint32_t count, uint64_t *hash);
void flow_index_ask_flows(const struct flow_index *index, const uint64_t *hash, uint32_t count);
void flow_index_add_notes(struct flow_index *index, const struct flow_note *note, const struct flow_keys *keys, const uint64_t *hash,
                          uint32_t count, uint32_t end);

/* The frame is finished and has `frame_bytes`: the next packet is the next frame's. */
void flow_index_end_frame(struct flow_index *index, uint32_t frame_bytes);

/* Layer 7 has found what a flow is; the flow need not have packets here. `name` has 1 to 63 bytes. */
void flow_index_verdict(struct flow_index *index, const struct flow_keys *keys, uint64_t hash,
                        const char *name);

/* The same as another index of the segment has it, of a flow that has packets here; of others nothing is noted. */
void flow_index_carry(struct flow_index *index, const struct flow_keys *keys, const char *name);

/* Room is left for the names of applications: flow_index_bound() counts them from now on. */
void flow_index_expect_verdicts(struct flow_index *index);

/*
 * The same of every flow that layer 7 knows of at this moment: once, before flow_index_encode(). Names beyond
 * FLOW_INDEX_NAMES_BYTES find no room: their flows are not judged.
 */
void flow_index_judge(struct flow_index *index, const struct verdicts *verdicts);

/* Bytes that flow_index_encode() will make at most. */
uint32_t flow_index_bound(const struct flow_index *index);

/* How many packets, whatever they are, the bound cannot outgrow `room_bytes` with. 0: seal, or stop. */
uint32_t flow_index_allowance(const struct flow_index *index, uint32_t room_bytes);

/* From the block that is being filled on, nothing is indexed any more: readers read it all. */
void flow_index_stop(struct flow_index *index);

/* Whether it has been stopped. */
bool flow_index_stopped(const struct flow_index *index);

/* Whether everything so far is indexed flow by flow. */
bool flow_index_whole(const struct flow_index *index);

/*
 * Encodes what was added; the bytes are the index's until it is cleared or closed. `entry` is the
 * segment's entry table. Returns their number; 0: it did not fit `room_bytes`, the segment has no
 * index. Once for each segment.
 */
uint32_t flow_index_encode(struct flow_index *index, const struct frame_entry *entry,
                           uint32_t entries, uint32_t room_bytes, const uint8_t **bytes);

/* For benchmarks: how many flows and packets there are. */
uint32_t flow_index_flows(const struct flow_index *index);
uint32_t flow_index_packets(const struct flow_index *index);

#endif
