/*
 * batch_arena.c - a bounded pool of arenas that are all alike.
 */
#include "batch_arena.h"

#include <stdlib.h>
#include <string.h>

struct batch_arena *arena_take(struct arena_pool *pool, struct failure *failure)
{
    struct batch_arena *arena = pool->spare;
    if (arena != NULL) {
        pool->spare = arena->next;
        return arena;
    }
    if (pool->arenas == ARENAS_MAX) {
        fail(failure, ERR_INTERNAL, "%u batches were taken and not released", ARENAS_MAX);
        return NULL;
    }
    arena = calloc(1, sizeof *arena);
    if (arena != NULL)
        arena->bytes = aligned_alloc(64, pool->arena_bytes);
    if (arena == NULL || arena->bytes == NULL) {
        free(arena);
        fail(failure, ERR_NO_MEMORY, "no memory for a batch of packets");
        return NULL;
    }
    if (pool->pattern != NULL)
        memcpy(arena->bytes, pool->pattern, pool->arena_bytes);
    arena->older = pool->newest;
    pool->newest = arena;
    pool->arenas++;
    return arena;
}

void arena_give(struct arena_pool *pool, struct batch_arena *arena)
{
    if (arena == NULL)
        return;
    arena->next = pool->spare;
    pool->spare = arena;
}

void arena_close(struct arena_pool *pool)
{
    while (pool->newest != NULL) {
        struct batch_arena *arena = pool->newest;
        pool->newest = arena->older;
        free(arena->bytes);
        free(arena);
    }
    pool->spare = NULL;
    pool->arenas = 0;
}
