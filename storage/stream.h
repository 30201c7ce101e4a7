/*
 * stream.h - one capture thread's way into the store: append packets, flush, close.
 *
 *     stream_open(ring's keeper ...) -> stream_add_interface() ... { stream_append() ... stream_tick() } -> stream_end() -> stream_free()
 *
 * Everything here is called by one thread, the capture thread, except where it says "any thread". Nothing blocks but
 * stream_wait() and stream_end(); nothing is allocated per packet.
 */
#ifndef STORAGE_STREAM_H
#define STORAGE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "errors.h"
#include "frame.h"
#include "keeper.h"
#include "packet.h"
#include "segment_index.h"

struct stream_options {
    uint64_t flush_window_ns;       /* a frame with packets is written when it is this old; 0: the ring's */
    void (*wake)(void *context);    /* makes the capture thread call stream_tick() soon. Any thread. May be null */
    void *wake_context;
    bool indexer;                   /* a thread of its own makes the key indexes (indexer.h); else the capture thread does */
};

/* Makes the stream known to the keeper, which begins to prepare segments for it. Number: of the run, from 0. */
int stream_open(struct keeper *keeper, uint32_t number, const struct stream_options *options, struct stream **stream);

/* Returns the interface's number in this stream, or ERR_NO_MEMORY, ERR_TOO_LARGE (65,535). */
int stream_add_interface(struct stream *stream, const struct interface_description *description);

/*
 * Stores the first `captured_bytes` bytes of a packet (at most packet->captured_bytes). `packet->interface` is not looked at.
 * 0: it is in a buffer, and counted as stored when that is durable.
 * ERR_AGAIN: no buffer or no segment is ready; nothing happened. Wait and call again, or count it as dropped.
 * ERR_TOO_LARGE: does not fit a segment: to be counted as refused. ERR_IO: no disk is left.
 */
int stream_append(struct stream *stream, uint32_t interface, const struct packet *packet, uint32_t captured_bytes,
                  uint8_t action, uint32_t rule);

/*
 * Counts packets of an interface that were not stored. Every packet that the caller takes is counted as seen before it
 * is appended or counted elsewhere: what is seen and nothing else yet is in flight.
 */
void stream_count(struct stream *stream, uint32_t interface, enum account_line line, uint64_t packets, uint64_t bytes);

/* Sets a line that somebody else counts, as the kernel does with its drops. */
void stream_set_count(struct stream *stream, uint32_t interface, enum account_line line, uint64_t packets);

/*
 * Whether stream_append() says ERR_AGAIN while the indexer has no room, and stream_wait() waits for it: true, unless set. False is for live sources:
 * then segments are left without their whole key index, and counted (keeper_state.segments_coarse).
 */
void stream_set_patient(struct stream *stream, bool patient);

/* To be called after each batch and at least every 50 ms: flush window, requests to flush, publication of the counters. */
void stream_tick(struct stream *stream);

/*
 * The keeper is not woken for each frame but for a few together. Who has nothing to append for now says so by stream_rest(), which wakes it for those
 * that it has not been woken for, and returns whether there were any; stream_owes() tells the same beforehand. stream_wait() rests by itself.
 */
bool stream_rest(struct stream *stream);
bool stream_owes(const struct stream *stream);

/* Waits until stream_append() may succeed, or the timeout is over. */
void stream_wait(struct stream *stream, int timeout_ms);

/*
 * Ends the stream: writes what is buffered, seals, waits until everything is durable or known to be lost. Then only the functions for any
 * thread may be called, and stream_free().
 * ERR_IO when packets were lost at a disk. *account (may be null) is the final account over all interfaces.
 * `give_up` (may be null) is asked now and then while waiting; true ends the waiting (ERR_INTERRUPTED).
 */
int stream_end(struct stream *stream, struct account *account, bool (*give_up)(void *context), void *context);

/* The steps of stream_end() without waiting, for the simulation: ERR_AGAIN until everything is durable or lost. */
int stream_finish(struct stream *stream);
/* After stream_end(), or after stream_finish() said 0 or ERR_IO and the keeper let go of it; or, in the simulation, after a crash, when the keeper is gone, too. */
void stream_free(struct stream **stream);

/* ---- any thread --------------------------------------------------------------------------------- */

/* Packets below this number are durable. */
uint64_t stream_frontier(struct stream *stream);

/* Asks that everything taken so far be written and flushed; returns a ticket for stream_wait_flushed(). */
uint64_t stream_request_flush(struct stream *stream);

/*
 * Asks that the segment that is being filled be sealed as it is, soon, and that recording go on in the next one. Nothing where nothing has been put into it; one that
 * has ended anyway stays so.
 */
void stream_request_seal(struct stream *stream);

/* Waits until what the ticket asked for is durable, or the timeout is over. Returns whether it is. */
bool stream_wait_flushed(struct stream *stream, uint64_t ticket, int timeout_ms);

struct stream_interface_state {
    struct interface_description description;
    struct account account; /* `stored` is durable, `in_flight` is taken and not yet durable: adds up (P6) */
};

/* Calls `each` for the interfaces, all read at one instant, under the stream's lock: `each` must be brief. */
void stream_interfaces(struct stream *stream, void (*each)(const struct stream_interface_state *state, void *context),
                       void *context);

uint32_t stream_number(const struct stream *stream);

/* The number that the next packet will have. The capture thread's. */
uint64_t stream_next_packet(const struct stream *stream);

/* ---- the keeper's part of a stream ---------------------------------------------------------------- */

struct stream_queue { /* keeper thread only */
    struct frame_buffer *head;
    struct frame_buffer *tail;
    uint32_t preparing;              /* leases on their way */
    struct segment *ended;           /* segments that failed and whose frames wait for a rescue segment */
    struct stream *next;             /* the keeper's list */
    bool attached;
};

struct stream_queue *stream_queue(struct stream *stream);
/* A READY segment for the stream. */
void stream_grant(struct stream *stream, struct segment *segment);
uint32_t stream_leases(struct stream *stream);
/* Takes a lease back that the stream has not begun; null if none. */
struct segment *stream_take_lease(struct stream *stream);
/* The buffer's packets are durable, or (lost) will never be. */
void stream_settled(struct stream *stream, const struct frame_buffer *buffer, bool lost);
/* No disk is left, or one is back. */
void stream_set_dead(struct stream *stream, bool dead);
/* Intrusive links of the mailbox. */
struct stream **stream_mailbox_next(struct stream *stream);
atomic_bool *stream_posted(struct stream *stream);

#endif
