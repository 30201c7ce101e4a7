/*
 * pool.c - frame buffers. Last in, first out: the buffer that was just written is still in the cache.
 */
#include "pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "clock.h"

#define POOL_BUFFERS_MIN 8u
#define WAKE_BUFFERS_MAX 16u

enum hold {
    HOLD_TAKEN = 1, /* pool_hold(), and the buffer is not given back */
    HOLD_ONLY,      /* it is given back but for the hold */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t given;
    struct frame_buffer *free;
    uint32_t free_count;
    uint32_t free_min;
    uint32_t count;
    bool oversized_out;
    uint32_t waiters;
    uint32_t wake_at; /* free buffers that are worth waking a waiter for: not every single one */
    uint8_t *area;
    struct frame_buffer *buffer;
    uint8_t *hold;     /* of each buffer: 0 or enum hold */
    uint32_t holds;
    uint32_t holds_max;
};

int pool_open(uint64_t bytes, struct pool **result)
{
    uint64_t count = bytes / FRAME_BYTES_USUAL;
    if (count < POOL_BUFFERS_MIN)
        count = POOL_BUFFERS_MIN;
    if (count > UINT32_MAX)
        return ERR_TOO_LARGE;
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return ERR_NO_MEMORY;
    pool->area = mmap(NULL, count * FRAME_BYTES_USUAL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pool->area == MAP_FAILED)
        goto no_area;
    /* Registering pins every page: a few hundred large ones take a tenth of the time, where the kernel has them. */
    (void)madvise(pool->area, count * FRAME_BYTES_USUAL, MADV_HUGEPAGE);
    pool->buffer = calloc(count, sizeof *pool->buffer);
    pool->hold = calloc(count, sizeof *pool->hold);
    if (!pool->buffer || !pool->hold)
        goto no_buffers;
    pool->count = (uint32_t)count;
    pool->free_count = pool->free_min = pool->count;
    pool->holds_max = pool->count / 4;
    pool->wake_at = pool->count < 8 * WAKE_BUFFERS_MAX ? pool->count / 8 : WAKE_BUFFERS_MAX;
    for (uint32_t i = pool->count; i-- > 0;) {
        struct frame_buffer *buffer = &pool->buffer[i];
        buffer->bytes = pool->area + (uint64_t)i * FRAME_BYTES_USUAL;
        buffer->capacity = FRAME_BYTES_USUAL;
        buffer->index = (int32_t)i;
        buffer->next = pool->free;
        pool->free = buffer;
    }
    pthread_mutex_init(&pool->lock, NULL);
    clock_condition_init(&pool->given);
    *result = pool;
    return 0;

no_buffers:
    free(pool->hold);
    free(pool->buffer);
    munmap(pool->area, count * FRAME_BYTES_USUAL);
no_area:
    free(pool);
    return ERR_NO_MEMORY;
}

void pool_close(struct pool **slot)
{
    if (*slot)
        assert((*slot)->free_count == (*slot)->count && !(*slot)->oversized_out);
    pool_discard(slot);
}

void pool_discard(struct pool **slot)
{
    struct pool *pool = *slot;
    if (!pool)
        return;
    pthread_cond_destroy(&pool->given);
    pthread_mutex_destroy(&pool->lock);
    munmap(pool->area, (uint64_t)pool->count * FRAME_BYTES_USUAL);
    free(pool->hold);
    free(pool->buffer);
    free(pool);
    *slot = NULL;
}

/* Only what a former use could leave behind; requests are set up anew before each submission. */
static void buffer_clear(struct frame_buffer *buffer)
{
    buffer->next = NULL;
    buffer->segment = NULL;
    buffer->stream = NULL;
    buffer->flush = false;
    buffer->packets = 0;
    buffer->captured_bytes = 0;
    buffer->shares = 0;
    buffer->settled = false;
    memset(buffer->place, PLACE_NONE, sizeof buffer->place);
}

struct frame_buffer *pool_take(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct frame_buffer *buffer = pool->free;
    if (buffer) {
        pool->free = buffer->next;
        if (--pool->free_count < pool->free_min)
            pool->free_min = pool->free_count;
    }
    pthread_mutex_unlock(&pool->lock);
    if (buffer)
        buffer_clear(buffer);
    return buffer;
}

struct frame_buffer *pool_take_oversized(struct pool *pool, uint32_t capacity)
{
    assert(capacity % PAGE_BYTES == 0 && capacity <= FRAME_BYTES_MAX);
    pthread_mutex_lock(&pool->lock);
    bool free_now = !pool->oversized_out;
    pool->oversized_out = true;
    pthread_mutex_unlock(&pool->lock);
    if (!free_now)
        return NULL;
    struct frame_buffer *buffer = calloc(1, sizeof *buffer);
    uint8_t *bytes = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!buffer || bytes == MAP_FAILED) {
        free(buffer);
        if (bytes != MAP_FAILED)
            munmap(bytes, capacity);
        pthread_mutex_lock(&pool->lock);
        pool->oversized_out = false;
        pthread_mutex_unlock(&pool->lock);
        return NULL;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    buffer->index = -1;
    return buffer;
}

bool pool_hold(struct pool *pool, struct frame_buffer *buffer)
{
    if (buffer->index < 0)
        return false;
    pthread_mutex_lock(&pool->lock);
    uint8_t *hold = &pool->hold[buffer->index];
    bool room = pool->holds < pool->holds_max;
    assert(*hold == 0);
    if (room) {
        *hold = HOLD_TAKEN;
        pool->holds++;
    }
    pthread_mutex_unlock(&pool->lock);
    return room;
}

/* Under the lock. */
static void buffer_free(struct pool *pool, struct frame_buffer *buffer)
{
    buffer->next = pool->free;
    pool->free = buffer;
    pool->free_count++;
    if (pool->waiters > 0 && pool->free_count >= pool->wake_at)
        pthread_cond_broadcast(&pool->given);
}

void pool_let_go(struct pool *pool, struct frame_buffer *buffer)
{
    pthread_mutex_lock(&pool->lock);
    uint8_t *hold = &pool->hold[buffer->index], was = *hold;
    assert(was != 0);
    *hold = 0;
    pool->holds--;
    if (was == HOLD_ONLY)
        buffer_free(pool, buffer);
    pthread_mutex_unlock(&pool->lock);
}

static void oversized_give(struct pool *pool, struct frame_buffer *buffer)
{
    munmap(buffer->bytes, buffer->capacity);
    free(buffer);
    pthread_mutex_lock(&pool->lock);
    pool->oversized_out = false;
    if (pool->waiters > 0)
        pthread_cond_broadcast(&pool->given);
    pthread_mutex_unlock(&pool->lock);
}

void pool_give(struct pool *pool, struct frame_buffer *buffer)
{
    if (buffer->index < 0) {
        oversized_give(pool, buffer);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    uint8_t *hold = &pool->hold[buffer->index];
    if (*hold == HOLD_TAKEN)
        *hold = HOLD_ONLY;
    else
        buffer_free(pool, buffer);
    pthread_mutex_unlock(&pool->lock);
}

void pool_wait(struct pool *pool, int timeout_ms)
{
    struct timespec until = clock_monotonic_in_ms(timeout_ms);
    pthread_mutex_lock(&pool->lock);
    if (pool->free_count < pool->wake_at) {
        pool->waiters++;
        pthread_cond_timedwait(&pool->given, &pool->lock, &until);
        pool->waiters--;
    }
    pthread_mutex_unlock(&pool->lock);
}

void pool_state(struct pool *pool, struct pool_state *state)
{
    pthread_mutex_lock(&pool->lock);
    state->buffers = pool->count;
    state->free = pool->free_count;
    state->free_min = pool->free_min;
    pool->free_min = pool->free_count;
    pthread_mutex_unlock(&pool->lock);
}

uint32_t pool_free(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    uint32_t count = pool->free_count;
    pthread_mutex_unlock(&pool->lock);
    return count;
}

uint8_t *pool_area(struct pool *pool, uint32_t *count)
{
    *count = pool->count;
    return pool->area;
}
