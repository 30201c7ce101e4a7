#include "piece_pool.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "disk_format.h"

void piece_pool_open(struct piece_pool *pool, uint64_t bytes)
{
    bytes = (bytes + PIECE_POOL_STEP_BYTES - 1) / PIECE_POOL_STEP_BYTES * PIECE_POOL_STEP_BYTES;
    *pool = (struct piece_pool){.memory = aligned_alloc(PIECE_POOL_STEP_BYTES, bytes)};
    if (!pool->memory)
        return;
    pool->bytes = bytes;
    (void)madvise(pool->memory, bytes, MADV_HUGEPAGE); /* a kernel without them has small ones */
}

void piece_pool_warm(struct piece_pool *pool, uint64_t bytes, bool (*is_awaited)(void *context), void *context)
{
    for (uint64_t at = 0; at < bytes && at < pool->bytes; at += PAGE_BYTES) {
        if (at % PIECE_POOL_STEP_BYTES == 0 && is_awaited(context))
            return;
        *(volatile uint8_t *)(pool->memory + at) = 0;
    }
}

uint8_t *piece_pool_take(struct piece_pool *pool, uint32_t bytes)
{
    if (pool->bytes - pool->used < bytes)
        return NULL;
    uint8_t *memory = pool->memory + pool->used;
    pool->used += bytes;
    return memory;
}

void piece_pool_restart(struct piece_pool *pool)
{
    pool->used = 0;
}

void piece_pool_close(struct piece_pool *pool)
{
    free(pool->memory);
    *pool = (struct piece_pool){.memory = NULL};
}
