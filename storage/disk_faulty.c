/*
 * disk_faulty.c - wraps any other body and fails requests by number.
 *
 * The happy path: each request gets a shadow that asks the inner disk for the same bytes, and the
 * shadow's done() hands the result on. A request that is to fail gets a shadow that the inner disk
 * must refuse, so that the failure too arrives when and in the thread in which completions arrive.
 * Nothing else can fail here. Closing waits for the inner disk, which waits for all shadows.
 *
 *   shadow       owner             moved on by
 *   spare        the list          faulty_submit
 *   under way    the inner disk    shadow_done -> spare (or pinned, while somebody waits for it)
 */
#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "simulation.h"

enum shadow_state { /* in body[3] of the outer request */
                    SHADOW_UNDER_WAY = 1,
                    SHADOW_DONE = 2,
};

struct shadow {
    struct disk_request inner; /* first: the inner disk's pointer is ours */
    struct disk_request *outer;
    struct disk_faulty *faulty;
    struct shadow *next_spare;
    unsigned waiters;
    bool under_way;
    bool fails;
};

struct disk_faulty {
    struct disk head; /* first: the seam's pointer is ours */
    struct disk *inner;
    pthread_mutex_t lock; /* of everything below, and of the shadows' own fields */
    struct shadow *spare;
    enum disk_op op;
    uint64_t after;
    bool once;
    bool struck;
};

static struct disk_faulty *faulty_of(const struct disk *disk)
{
    return (struct disk_faulty *)(uintptr_t)disk;
}

static void shadow_recycle(struct shadow *shadow)
{
    if (shadow->under_way || shadow->waiters > 0)
        return;
    shadow->next_spare = shadow->faulty->spare;
    shadow->faulty->spare = shadow;
}

static void shadow_done(struct disk_request *inner)
{
    struct shadow *shadow = (struct shadow *)inner;
    struct disk_faulty *faulty = shadow->faulty;
    struct disk_request *outer = shadow->outer;
    outer->result = shadow->fails ? ERR_IO : inner->result;
    outer->submitted_ns = inner->submitted_ns;
    pthread_mutex_lock(&faulty->lock);
    outer->body[3] = SHADOW_DONE;
    pthread_mutex_unlock(&faulty->lock);
    outer->done(outer);
    /* Only now: a waiter that finds the shadow under way waits for the inner disk to return from
     * here. */
    pthread_mutex_lock(&faulty->lock);
    shadow->under_way = false;
    shadow_recycle(shadow);
    pthread_mutex_unlock(&faulty->lock);
}

static bool is_hit(struct disk_faulty *faulty, enum disk_op op)
{
    if (faulty->op != 0 && faulty->op != op)
        return false;
    if (faulty->after > 0) {
        faulty->after--;
        return false;
    }
    if (faulty->once && faulty->struck)
        return false;
    faulty->struck = true;
    return true;
}

static void faulty_submit(struct disk *disk, struct disk_request *request)
{
    struct disk_faulty *faulty = faulty_of(disk);
    uint64_t offset;
    int refused = disk_check(disk, request, &offset);

    pthread_mutex_lock(&faulty->lock);
    struct shadow *shadow = faulty->spare;
    if (shadow != NULL)
        faulty->spare = shadow->next_spare;
    else
        shadow = malloc(sizeof *shadow);
    assert(shadow != NULL);
    *shadow = (struct shadow){
        .inner = {.op = request->op,
                  .slot = DISK_SLOT_META, /* the geometry is the wrapper's: see disk_check above */
                  .offset = offset,
                  .buffer = request->buffer,
                  .bytes = request->bytes,
                  .buffer_index = request->buffer_index,
                  .done = shadow_done},
        .outer = request,
        .faulty = faulty,
        .under_way = true,
        .fails = refused == 0 && is_hit(faulty, request->op),
    };
    if (refused != 0 || shadow->fails) {
        shadow->inner.op = DISK_READ; /* of nothing, which no body accepts */
        shadow->inner.bytes = 0;
    }
    request->next = NULL;
    request->body[0] = (uint64_t)(uintptr_t)shadow;
    request->body[3] = SHADOW_UNDER_WAY;
    pthread_mutex_unlock(&faulty->lock);
    disk_submit(faulty->inner, &shadow->inner);
}

static void faulty_wait(struct disk *disk, struct disk_request *request)
{
    struct disk_faulty *faulty = faulty_of(disk);
    pthread_mutex_lock(&faulty->lock);
    struct shadow *shadow = (struct shadow *)(uintptr_t)request->body[0];
    if (shadow == NULL || shadow->outer != request || !shadow->under_way) {
        pthread_mutex_unlock(&faulty->lock);
        return;
    }
    shadow->waiters++;
    pthread_mutex_unlock(&faulty->lock);
    disk_wait(faulty->inner, &shadow->inner);
    pthread_mutex_lock(&faulty->lock);
    shadow->waiters--;
    shadow_recycle(shadow);
    pthread_mutex_unlock(&faulty->lock);
}

static int faulty_register(struct disk *disk, uint8_t *base, uint64_t buffer_bytes, uint32_t count)
{
    struct disk *inner = faulty_of(disk)->inner;
    return inner->ops->register_buffers(inner, base, buffer_bytes, count);
}

static void faulty_close(struct disk *disk)
{
    struct disk_faulty *faulty = faulty_of(disk);
    disk_close(&faulty->inner);
    while (faulty->spare != NULL) {
        struct shadow *shadow = faulty->spare;
        faulty->spare = shadow->next_spare;
        free(shadow);
    }
    pthread_mutex_destroy(&faulty->lock);
    free(faulty);
}

static const struct disk_ops faulty_ops = {
    .name = "faulty",
    .submit = faulty_submit,
    .wait = faulty_wait,
    .register_buffers = faulty_register,
    .close = faulty_close,
};

struct disk *disk_faulty_wrap(struct disk *inner, enum disk_op op, uint64_t after, bool once)
{
    struct disk_faulty *faulty = calloc(1, sizeof *faulty);
    assert(faulty != NULL);
    faulty->head = *inner;
    faulty->head.ops = &faulty_ops;
    faulty->inner = inner;
    faulty->op = op;
    faulty->after = after;
    faulty->once = once;
    pthread_mutex_init(&faulty->lock, NULL);
    return &faulty->head;
}

bool disk_faulty_struck(const struct disk *disk)
{
    struct disk_faulty *faulty = faulty_of(disk);
    pthread_mutex_lock(&faulty->lock);
    bool struck = faulty->struck;
    pthread_mutex_unlock(&faulty->lock);
    return struck;
}
