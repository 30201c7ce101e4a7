/*
 * batch_arena.h - memory for the packets of one batch, for sources that make or copy packets.
 *
 * An arena belongs to a batch from arena_take() to arena_give(), and to the pool otherwise;
 * arena_close() frees all of them, wherever they are. One thread.
 */
#ifndef CAPTURE_BATCH_ARENA_H
#define CAPTURE_BATCH_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define ARENAS_MAX 64u /* batches that may be held at once */

struct batch_arena {
    struct batch_arena *next;  /* in the list of those that are free */
    struct batch_arena *older; /* in the list of all */
    uint8_t *bytes;
};

struct arena_pool {
    size_t arena_bytes;     /* a multiple of 64 */
    const uint8_t *pattern; /* what a new arena holds; null: anything. The caller's */
    struct batch_arena *spare;
    struct batch_arena *newest;
    uint32_t arenas;
};

/* A free arena, or null with a failure: no memory, or ARENAS_MAX are held. */
struct batch_arena *arena_take(struct arena_pool *pool, struct failure *failure);

/* Back to the pool; null is allowed. */
void arena_give(struct arena_pool *pool, struct batch_arena *arena);

void arena_close(struct arena_pool *pool);

#endif
