/*
 * indexer.h - the thread that makes the key indexes of one stream's segments, beside the capture thread.
 *
 *     indexer_open() -> { { indexer_hold() -> indexer_frame() } ... indexer_seal() } -> indexer_close()
 *
 * The capture thread hands over frames that it has finished, and then the ledger of the segment; the indexer adds their packets to the key index,
 * encodes it, and writes what closes the segment (INDEX, FLOWS, SEAL) itself. So a segment is sealed a little later than it is full, and the next
 * one is being filled meanwhile.
 *
 * Everything is bounded, and nothing waits for the indexer but who wants to: the queue has INDEXER_FRAMES frames, and a quarter of the pool's
 * buffers can be in the queues of a ring (pool_hold()). Where there is no room a stream that does not wait goes on without: the rest of its segment is
 * not indexed, and readers read it.
 *
 *   what       state      owner                  moved on by
 *   a buffer   held       capture and indexer    indexer_hold()
 *              queued     keeper and indexer     indexer_frame(); the keeper gets it from the stream
 *              free       pool                   both are done with it, in either order (pool.h)
 *   a ledger   filling    capture thread         indexer_ledger()
 *              queued     indexer                indexer_seal()
 *              free       indexer                the indexer, when the seal is with the keeper, or the segment was left
 *
 * Who fills a frame also notes what the key index wants to know of its packets (flow_frames.h), while their headers are in its caches: the indexer
 * reads those notes, one after the other, and of the frame only what they do not say.
 *
 * In the simulation there is no such thread: the stream then does the same itself, in its own turn.
 */
#ifndef STORAGE_INDEXER_H
#define STORAGE_INDEXER_H

#include "flow_frames.h"
#include "segment_ledger.h"

struct indexer;

#define INDEXER_FRAMES 64u  /* that wait, at most */

#define INDEXER_LEDGERS 3u /* one being filled, one being closed, one that waits */

/* Starts the thread, with ledgers for slots of the keeper's size. ERR_NO_MEMORY. */
int indexer_open(struct keeper *keeper, struct stream *stream, struct indexer **indexer);

/* Everything handed over is done with: the segments of the stream are sealed or left. Null is allowed. */
void indexer_close(struct indexer **indexer);

/* ---- the capture thread ---------------------------------------------------------------------------- */

/*
 * Holds a buffer that will be filled with the next frame, so that indexer_frame() can take it; indexer_let_go() where it is not
 * handed over after all. Returns room for FLOW_NOTES_MAX notes, to be filled with the frame, packet by packet. Null: there is no room.
 */
struct flow_note *indexer_hold(struct indexer *indexer, struct frame_buffer *buffer);
void indexer_let_go(struct indexer *indexer, struct frame_buffer *buffer, struct flow_note *note);

/* Hands over a finished data frame that was held, before it goes to the keeper. `first`: of its segment. `room_bytes` as flow_frame_add() wants it. */
void indexer_frame(struct indexer *indexer, struct frame_buffer *buffer, struct flow_note *note, bool first, uint32_t room_bytes);

/* A ledger that nobody uses, which is the caller's from now on; null: the indexer is behind. */
struct segment_ledger *indexer_ledger(struct indexer *indexer);

/* Hands over a ledger that was sealed (segment_ledger_seal()). `indexed`: some frames of it were handed over, the first of them all. */
void indexer_seal(struct indexer *indexer, struct segment_ledger *ledger, bool indexed);

/* Waits until there is room for frames and a free ledger, or the timeout is over. */
void indexer_wait(struct indexer *indexer, int timeout_ms);

/* Whether a ledger waits for buffers: then the next free ones are its. */
bool indexer_wants_buffers(const struct indexer *indexer);

/*
 * How many bytes the key index of the frames up to `data_end` of the segment being filled needs at most: known of those that the indexer
 * has seen, of the others by the same rate; where it has seen none, by that of the segment before. An estimate: what then finds no room
 * in the slot is not indexed.
 */
uint64_t indexer_bound(struct indexer *indexer, uint32_t data_end);

#endif
