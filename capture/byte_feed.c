/*
 * byte_feed.c - reading ahead into chunks, and keeping those chunks in place that somebody looks
 * into.
 */
#include "byte_feed.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "waiting.h"

static struct feed_chunk *feed_new_chunk(struct byte_feed *feed, size_t capacity)
{
    struct feed_chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return NULL;
    chunk->bytes = malloc(capacity);
    if (chunk->bytes == NULL) {
        free(chunk);
        return NULL;
    }
    chunk->capacity = capacity;
    chunk->older = feed->newest;
    feed->newest = chunk;
    feed->chunks++;
    return chunk;
}

static int feed_start(struct byte_feed *feed)
{
    feed->chunk = feed_new_chunk(feed, feed->step_bytes);
    if (feed->chunk != NULL)
        return 0;
    feed_close(feed);
    return ERR_NO_MEMORY;
}

int feed_open(struct byte_feed *feed, int fd, int wake_fd)
{
    *feed = (struct byte_feed){.fd = fd, .wake_fd = wake_fd, .step_bytes = FEED_CHUNK_BYTES};
    return feed_start(feed);
}

int feed_open_memory(struct byte_feed *feed, const uint8_t *memory, size_t bytes, size_t step_bytes)
{
    assert(step_bytes > 0);
    *feed = (struct byte_feed){
        .fd = -1, .wake_fd = -1, .memory = memory, .memory_bytes = bytes, .step_bytes = step_bytes};
    return feed_start(feed);
}

void feed_close(struct byte_feed *feed)
{
    while (feed->newest != NULL) {
        struct feed_chunk *chunk = feed->newest;
        feed->newest = chunk->older;
        free(chunk->bytes);
        free(chunk);
    }
    feed->chunk = feed->spare = NULL;
    if (feed->fd >= 0)
        close(feed->fd);
    if (feed->wake_fd >= 0)
        close(feed->wake_fd);
    feed->fd = feed->wake_fd = -1;
}

struct feed_chunk *feed_pin(struct byte_feed *feed)
{
    feed->chunk->pins++;
    return feed->chunk;
}

void feed_unpin(struct byte_feed *feed, struct feed_chunk *chunk)
{
    assert(chunk->pins > 0);
    if (--chunk->pins > 0 || chunk == feed->chunk)
        return;
    chunk->next = feed->spare;
    feed->spare = chunk;
}

/* Goes on in another chunk of at least `needed` bytes; the old one lives on by its pins. */
static int feed_change_chunk(struct byte_feed *feed, size_t needed, struct failure *failure)
{
    size_t capacity = needed > feed->step_bytes ? needed : feed->step_bytes;
    struct feed_chunk *chunk = feed->spare;
    if (chunk != NULL) {
        if (chunk->capacity < capacity) {
            uint8_t *bytes = realloc(chunk->bytes, capacity);
            if (bytes == NULL)
                return fail(failure, ERR_NO_MEMORY, "no memory for %zu bytes of the file",
                            capacity);
            chunk->bytes = bytes;
            chunk->capacity = capacity;
        }
        feed->spare = chunk->next;
        chunk->next = NULL;
    } else {
        if (feed->chunks == FEED_CHUNKS_MAX)
            return fail(failure, ERR_INTERNAL, "too many batches were taken and not released");
        chunk = feed_new_chunk(feed, capacity);
        if (chunk == NULL)
            return fail(failure, ERR_NO_MEMORY, "no memory for %zu bytes of the file", capacity);
    }
    memcpy(chunk->bytes, feed_bytes(feed), feed_available(feed));
    feed->chunk = chunk;
    feed->tail -= feed->head;
    feed->head = 0;
    return 0;
}

/* Makes room behind `tail`, so that `needed` bytes fit in one piece from `head` on. */
static int feed_make_room(struct byte_feed *feed, size_t needed, struct failure *failure)
{
    struct feed_chunk *chunk = feed->chunk;
    if (chunk->pins > 0) {
        if (chunk->capacity - feed->head >= needed)
            return 0;
        return feed_change_chunk(feed, needed, failure);
    }
    if (feed->head > 0) {
        memmove(chunk->bytes, feed_bytes(feed), feed_available(feed));
        feed->tail -= feed->head;
        feed->head = 0;
    }
    if (chunk->capacity < needed) {
        uint8_t *bytes = realloc(chunk->bytes, needed);
        if (bytes == NULL)
            return fail(failure, ERR_NO_MEMORY, "no memory for %zu bytes of the file", needed);
        chunk->bytes = bytes;
        chunk->capacity = needed;
    }
    return 0;
}

/* 1: the descriptor has something to read (or its end), 0: time is over or somebody woke us. */
static int feed_wait(struct byte_feed *feed, int timeout_ms, struct failure *failure)
{
    struct pollfd wait[2] = {{.fd = feed->fd, .events = POLLIN},
                             {.fd = feed->wake_fd, .events = POLLIN}};
    int ready = poll(wait, 2, timeout_ms);
    if (ready < 0)
        return errno == EINTR ? fail(failure, ERR_INTERRUPTED, "interrupted while waiting")
                              : fail_errno(failure, errno, "cannot wait for more");
    if (wait[1].revents != 0) {
        wake_drain(feed->wake_fd);
        return 0;
    }
    return ready > 0;
}

int feed_read(struct byte_feed *feed, size_t needed, int timeout_ms, struct failure *failure)
{
    assert(needed > feed_available(feed));
    if (feed->ended)
        return ERR_END;
    int result = feed_make_room(feed, needed, failure);
    if (result < 0)
        return result;
    size_t wanted = needed - feed_available(feed);
    if (wanted < feed->step_bytes)
        wanted = feed->step_bytes;
    if (wanted > feed->chunk->capacity - feed->tail)
        wanted = feed->chunk->capacity - feed->tail;

    if (feed->fd < 0) {
        size_t count = feed->memory_bytes < wanted ? feed->memory_bytes : wanted;
        if (count > 0)
            memcpy(feed->chunk->bytes + feed->tail, feed->memory, count);
        feed->memory += count;
        feed->memory_bytes -= count;
        feed->tail += count;
        feed->ended = count == 0;
        return feed->ended ? ERR_END : 1;
    }
    if (feed->wake_fd >= 0) {
        result = feed_wait(feed, timeout_ms, failure);
        if (result <= 0)
            return result;
    }
    ssize_t count = read(feed->fd, feed->chunk->bytes + feed->tail, wanted);
    if (count < 0) {
        if (errno == EAGAIN)
            return 0; /* somebody made it non-blocking, and another reader was faster */
        return errno == EINTR ? fail(failure, ERR_INTERRUPTED, "interrupted while reading")
                              : fail_errno(failure, errno, "cannot be read");
    }
    feed->tail += (size_t)count;
    feed->ended = count == 0;
    return feed->ended ? ERR_END : 1;
}
