/*
 * pool.h - the fixed set of frame buffers between capture threads and disks (promise P10).
 *
 * All memory that packets occupy on their way comes from here: one page-aligned area, cut into buffers of
 * FRAME_BYTES_USUAL. Its size is the bound on data in flight. Taking never blocks: a pool with nothing left
 * means that the disks are behind, and the caller drops and counts (live) or waits (file).
 *
 *   state      owner           moved on by
 *   free       pool            pool_take
 *   filling    capture thread  stream.c hands it to the keeper
 *   queued     keeper          keeper.c submits it to each place's disk
 *   written    keeper          the disks' completions
 *   durable    keeper          pool_give, once every place is flushed
 *
 * From `queued` on the indexer (indexer.h) may hold a buffer, too, to read its packets (not its header, which a rescue rewrites); the
 * buffer becomes free when both are done with it.
 */
#ifndef STORAGE_POOL_H
#define STORAGE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "disk_io.h"

struct segment;
struct stream;

/* How many packets of one interface a frame holds: for the account of what is durable. */
struct frame_share {
    uint16_t interface; /* number in the stream */
    uint32_t packets;
    uint64_t bytes;          /* on the wire */
    uint64_t captured_bytes;
    uint32_t cut;
};

enum frame_place {
    PLACE_NONE,      /* nothing was submitted for this copy */
    PLACE_SUBMITTED, /* the disk has it, or it waits for the disk */
    PLACE_WRITTEN,   /* and waits for a flush */
    PLACE_FLUSHED,
    PLACE_FAILED,
};

struct frame_buffer {
    struct frame_buffer *next;        /* pool's, then mailbox's, then stream's queue */
    uint8_t *bytes;
    uint32_t capacity;
    int32_t index;                    /* of the registered buffer, -1 for an oversized one */

    /* filled in by the stream */
    struct segment *segment;
    struct stream *stream;
    enum frame_kind kind;             /* SEAL: the seal, and in the same write the last INDEX or FLOWS frame before it */
    bool flush;                       /* somebody waits for it: flush as soon as it is written */
    uint64_t due_ns;                  /* monotonic: when it has to be durable */
    uint32_t offset;
    uint32_t length;
    uint32_t number;
    uint32_t packets;
    uint64_t first_packet;
    uint64_t captured_bytes;
    int64_t head_ns;
    int64_t first_ns;
    int64_t last_ns;
    uint16_t shares;
    struct frame_share share[FRAME_ENTRIES_MAX];

    /* the keeper's */
    struct disk_request request[COPIES_MAX];
    uint32_t generation[COPIES_MAX];  /* of the requests: see keeper.c, the watchdog */
    uint8_t place[COPIES_MAX];        /* enum frame_place */
    bool settled;                     /* durable, lost or copied elsewhere: to be given back when no write is open */
};

struct pool;

/* `bytes` is rounded down to whole buffers; at least 8. ERR_NO_MEMORY. */
int pool_open(uint64_t bytes, struct pool **pool);

/* Every buffer has been given back. */
void pool_close(struct pool **pool);

/* Frees a pool whose buffers will never come back: the simulation, after a crash. */
void pool_discard(struct pool **pool);

/* A buffer with nothing in it, or null when all are in use. Any thread. */
struct frame_buffer *pool_take(struct pool *pool);

/*
 * A buffer for one packet that is longer than a usual frame; null while another one is out, or without memory.
 * Beyond the pool's own size; at most one exists, its memory goes back to the kernel afterwards.
 */
struct frame_buffer *pool_take_oversized(struct pool *pool, uint32_t capacity);

/*
 * A hold on the buffer beside its owner's, to read it: it becomes free when it was given back and the hold was let go. One for each buffer.
 * False: there are holds on a quarter of the pool already, or it is an oversized one, of which there is only one; nothing happened. Any thread.
 */
bool pool_hold(struct pool *pool, struct frame_buffer *buffer);
void pool_let_go(struct pool *pool, struct frame_buffer *buffer);

/* Any thread. Wakes pool_wait(). */
void pool_give(struct pool *pool, struct frame_buffer *buffer);

/* Waits until it is worth trying again (some buffers are free, not just one), or the timeout is over. */
void pool_wait(struct pool *pool, int timeout_ms);

struct pool_state {
    uint32_t buffers;
    uint32_t free;
    uint32_t free_min; /* fewest free since the last call */
};

void pool_state(struct pool *pool, struct pool_state *state);

/* Buffers that are free now. */
uint32_t pool_free(struct pool *pool);

/* The area, for disk_ops.register_buffers. */
uint8_t *pool_area(struct pool *pool, uint32_t *count);

#endif
