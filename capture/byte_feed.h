/*
 * byte_feed.h - the bytes of a capture file, read ahead in chunks that views may point into.
 *
 *     feed_open, then { parse what feed_bytes() shows, feed_take() it, feed_pin() for views that
 * stay, feed_read() when more is needed, feed_unpin() when the views are given back }, feed_close.
 *
 * A chunk is one piece of memory. What is not parsed yet always lies in the current chunk, in one
 * piece. A chunk that is pinned keeps its bytes where they are: the feed then goes on behind them
 * or in another chunk, to which it copies the unparsed rest. A chunk without a pin is used again.
 *
 * The feed works on anything that read(2) works on. It does not map files: another process that
 * cuts a mapped file short would end this one with SIGBUS.
 *
 * One thread.
 */
#ifndef CAPTURE_BYTE_FEED_H
#define CAPTURE_BYTE_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

/* Read at once. The chunk stays in the processor's second-level cache while it is parsed and
 * copied. */
#define FEED_CHUNK_BYTES (256u * 1024)
/* Chunks at once: one is being filled, the others are pinned by batches that the caller still
 * holds. */
#define FEED_CHUNKS_MAX 64u

struct feed_chunk {
    struct feed_chunk *next;  /* in the list of spare chunks */
    struct feed_chunk *older; /* in the list of all */
    uint8_t *bytes;
    size_t capacity;
    uint32_t pins;
};

struct byte_feed {
    int fd;                /* -1: from memory */
    int wake_fd;           /* -1: reading never blocks for long */
    const uint8_t *memory; /* what is left of it; the caller's */
    size_t memory_bytes;
    size_t step_bytes; /* how much to read at once */
    struct feed_chunk *chunk;
    struct feed_chunk *spare;
    struct feed_chunk *newest;
    uint32_t chunks;
    size_t head; /* chunk->bytes[head .. tail) is read and not yet parsed */
    size_t tail;
    uint64_t offset; /* of `head`, from where the descriptor stood at open */
    bool ended;      /* read(2) has said that there is no more */
};

/* Takes over `fd` and `wake_fd`, also when this fails (ERR_NO_MEMORY). */
int feed_open(struct byte_feed *feed, int fd, int wake_fd);

/* The same from memory, read in steps of `step_bytes`; `memory` stays the caller's and must outlive
 * the feed. */
int feed_open_memory(struct byte_feed *feed, const uint8_t *memory, size_t bytes,
                     size_t step_bytes);

/* Frees all chunks, pinned or not. */
void feed_close(struct byte_feed *feed);

static inline uint8_t *feed_bytes(const struct byte_feed *feed)
{
    return feed->chunk->bytes + feed->head;
}

static inline size_t feed_available(const struct byte_feed *feed)
{
    return feed->tail - feed->head;
}

/* `bytes` have been parsed; at most feed_available(). */
static inline void feed_take(struct byte_feed *feed, size_t bytes)
{
    feed->head += bytes;
    feed->offset += bytes;
}

/*
 * Reads once, making room for `needed` bytes in one piece (unparsed ones included, more than are
 * available now). timeout_ms -1: for ever; it counts only where reading can block. Returns 1 when
 * something came, 0 when the time was over or the feed was woken, ERR_END at the end,
 * ERR_INTERRUPTED, ERR_NO_MEMORY, ERR_IO and what else read(2) can fail with (the sentence says it
 * without naming the file). Bytes in pinned chunks stay where they are.
 */
int feed_read(struct byte_feed *feed, size_t needed, int timeout_ms, struct failure *failure);

/* Keeps what lies in the current chunk in place; give the returned chunk to feed_unpin() later. */
struct feed_chunk *feed_pin(struct byte_feed *feed);
void feed_unpin(struct byte_feed *feed, struct feed_chunk *chunk);

#endif
