/*
 * catalog.c - the catalog's front: changes go into the queue, queries go to the body.
 *
 * The way of a change: the keeper posts it -> a record in the queue (a copy, under a lock that is
 * never held across a system call) -> the body applies it -> the record is removed. When the queue
 * is full the change is dropped and counted, the catalog is stale, and stays so until somebody has
 * posted everything anew and said so by catalog_fresh().
 *
 * Counting instead of a flag is what makes that safe: `renewed` becomes the number of drops that
 * were known when the new posting began, so a change dropped in its midst leaves the catalog stale.
 * Asking early (a status page that polls) can only make it lower, which costs another posting,
 * never a hole.
 */
#include "catalog.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "catalog_body.h"

/* ---- the queue ----------------------------------------------------------------------------------
 */

#define RECORD_HEAD_BYTES offsetof(struct catalog_change, ring)

_Static_assert(sizeof(struct catalog_change) < CATALOG_QUEUE_BYTES / 2, "a record fits the queue");
_Static_assert(RECORD_HEAD_BYTES == 8, "a filler fits every gap");

static const struct catalog_change *record_at(const struct catalog_queue *queue, uint32_t offset)
{
    return (const struct catalog_change *)(const void *)(queue->memory + offset);
}

/* Room for one record of `bytes`, or null. */
static struct catalog_change *queue_add(struct catalog_queue *queue, uint32_t bytes)
{
    if (queue->count == CATALOG_CHANGES_MAX)
        return NULL;
    uint32_t filler = 0;
    if (bytes > CATALOG_QUEUE_BYTES - queue->tail)
        filler = CATALOG_QUEUE_BYTES - queue->tail;
    if (bytes + filler > CATALOG_QUEUE_BYTES - queue->used)
        return NULL;
    if (filler > 0) {
        struct catalog_change *gap = (void *)(queue->memory + queue->tail);
        gap->bytes = filler;
        gap->kind = CHANGE_FILLER;
        queue->tail = 0;
    }
    struct catalog_change *change = (void *)(queue->memory + queue->tail);
    queue->tail = (queue->tail + bytes) % CATALOG_QUEUE_BYTES;
    queue->used += bytes + filler;
    queue->count++;
    return change;
}

const struct catalog_change *catalog_queue_next(const struct catalog_queue *queue,
                                                const struct catalog_change *change, uint32_t left)
{
    if (left == 0)
        return NULL;
    uint32_t offset = queue->head;
    if (change)
        offset = (uint32_t)((const uint8_t *)change - queue->memory) + change->bytes;
    offset %= CATALOG_QUEUE_BYTES;
    if (record_at(queue, offset)->kind == CHANGE_FILLER)
        offset = 0;
    return record_at(queue, offset);
}

void catalog_queue_remove(struct catalog_queue *queue, uint32_t count)
{
    assert(count <= queue->count);
    if (count == queue->count) {
        catalog_queue_empty(queue);
        return;
    }
    while (count > 0) {
        const struct catalog_change *change = record_at(queue, queue->head);
        if (change->kind != CHANGE_FILLER)
            count--;
        queue->count -= change->kind != CHANGE_FILLER;
        queue->used -= change->bytes;
        queue->head = (queue->head + change->bytes) % CATALOG_QUEUE_BYTES;
    }
}

/* Back to the start of the memory: a queue that keeps up touches its first pages only. */
void catalog_queue_empty(struct catalog_queue *queue)
{
    queue->head = 0;
    queue->tail = 0;
    queue->used = 0;
    queue->count = 0;
}

/* ---- the head -----------------------------------------------------------------------------------
 */

int catalog_head_open(struct catalog *catalog, const struct catalog_ops *ops)
{
    memset(catalog, 0, sizeof *catalog);
    catalog->ops = ops;
    catalog->queue.memory = malloc(CATALOG_QUEUE_BYTES);
    if (!catalog->queue.memory)
        return ERR_NO_MEMORY;
    if (pthread_mutex_init(&catalog->lock, NULL) != 0) {
        free(catalog->queue.memory);
        return ERR_NO_MEMORY;
    }
    return 0;
}

void catalog_head_close(struct catalog *catalog)
{
    pthread_mutex_destroy(&catalog->lock);
    free(catalog->queue.memory);
}

void catalog_close(struct catalog **catalog)
{
    if (!*catalog)
        return;
    struct catalog *closing = *catalog;
    *catalog = NULL;
    closing->ops->close(closing);
}

bool catalog_head_stale(const struct catalog *catalog)
{
    return catalog->incomplete || catalog->dropped > catalog->renewed;
}

bool catalog_stale(struct catalog *catalog)
{
    pthread_mutex_lock(&catalog->lock);
    bool stale = catalog_head_stale(catalog);
    if (catalog->reported == catalog->renewed)
        catalog->reported = catalog->dropped;
    pthread_mutex_unlock(&catalog->lock);
    return stale;
}

/* ---- changes ------------------------------------------------------------------------------------
 */

/* Takes a record of `bytes` behind its head, under the lock; null where it must be dropped. */
static struct catalog_change *post_begin(struct catalog *catalog, enum catalog_change_kind kind,
                                         size_t bytes)
{
    uint32_t record_bytes = (uint32_t)round_up(RECORD_HEAD_BYTES + bytes, 8);
    pthread_mutex_lock(&catalog->lock);
    struct catalog_change *change = queue_add(&catalog->queue, record_bytes);
    if (!change) {
        catalog->dropped++;
        pthread_mutex_unlock(&catalog->lock);
        return NULL;
    }
    change->bytes = record_bytes;
    change->kind = kind;
    return change;
}

static void post_end(struct catalog *catalog)
{
    catalog->posted++;
    catalog->ops->posted(catalog);
    pthread_mutex_unlock(&catalog->lock);
}

/* Copies at most size - 1 bytes and always terminates. */
static void copy_text(char *to, const char *from, size_t size)
{
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    to[length] = '\0';
}

void catalog_put_ring(struct catalog *catalog, const struct identity *ring, const char *name,
                      uint8_t copies, uint64_t slot_bytes)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_RING, sizeof change->ring);
    if (!change)
        return;
    change->ring.ring = *ring;
    change->ring.slot_bytes = slot_bytes;
    change->ring.copies = copies;
    copy_text(change->ring.name, name, sizeof change->ring.name);
    post_end(catalog);
}

void catalog_put_disk(struct catalog *catalog, const struct identity *ring,
                      const struct identity *disk, const char *path, uint64_t bytes, uint32_t slots,
                      enum disk_state state)
{
    size_t length = strnlen(path, CATALOG_DISK_PATH_MAX);
    struct catalog_change *change =
        post_begin(catalog, CHANGE_DISK, offsetof(struct catalog_change_disk, path) + length + 1);
    if (!change)
        return;
    change->disk.ring = *ring;
    change->disk.disk = *disk;
    change->disk.bytes = bytes;
    change->disk.slots = slots;
    change->disk.state = (uint8_t)state;
    memcpy(change->disk.path, path, length);
    change->disk.path[length] = '\0';
    post_end(catalog);
}

void catalog_put_segment(struct catalog *catalog, const struct segment_row *row)
{
    assert(row->places <= COPIES_MAX);
    size_t bytes = offsetof(struct segment_row, place) + row->places * sizeof row->place[0];
    struct catalog_change *change = post_begin(catalog, CHANGE_SEGMENT, bytes);
    if (!change)
        return;
    memcpy(&change->segment, row, bytes);
    post_end(catalog);
}

void catalog_drop_segment(struct catalog *catalog, const struct identity *segment)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_DROP, sizeof change->drop);
    if (!change)
        return;
    change->drop = *segment;
    post_end(catalog);
}

static void post_place(struct catalog *catalog, enum catalog_change_kind kind,
                       const struct identity *segment, uint32_t revision,
                       const struct segment_place *place)
{
    struct catalog_change *change = post_begin(catalog, kind, sizeof change->place);
    if (!change)
        return;
    change->place = (struct catalog_change_place){
        .segment = *segment, .revision = revision, .place = *place};
    post_end(catalog);
}

void catalog_add_place(struct catalog *catalog, const struct identity *segment, uint32_t revision,
                       const struct segment_place *place)
{
    post_place(catalog, CHANGE_PLACE_ADD, segment, revision, place);
}

void catalog_drop_place(struct catalog *catalog, const struct identity *segment,
                        const struct segment_place *place)
{
    post_place(catalog, CHANGE_PLACE_DROP, segment, 0, place);
}

void catalog_drop_places(struct catalog *catalog, const struct identity *disk)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_PLACES_DROP, sizeof change->places);
    if (!change)
        return;
    change->places = *disk;
    post_end(catalog);
}

/* From here to catalog_fresh() the catalog holds a part of what it should, and says so after a
 * crash too. */
void catalog_clear_ring(struct catalog *catalog, const struct identity *ring)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_CLEAR, sizeof change->clear);
    if (!change)
        return;
    change->clear = *ring;
    catalog->incomplete = true;
    catalog->renewing = catalog->dropped;
    post_end(catalog);
}

void catalog_put_interface(struct catalog *catalog, const struct identity *ring,
                           const struct interface_description *description, int64_t seen_ns)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_INTERFACE, sizeof change->interface);
    if (!change)
        return;
    struct interface_description *to = &change->interface.description;
    memset(&change->interface, 0, sizeof change->interface);
    change->interface.ring = *ring;
    change->interface.seen_ns = seen_ns;
    to->link_type = description->link_type;
    to->snapshot_length = description->snapshot_length;
    memcpy(to->hardware, description->hardware, sizeof to->hardware);
    copy_text(to->name, description->name, sizeof to->name);
    copy_text(to->description, description->description, sizeof to->description);
    post_end(catalog);
}

/*
 * The new posting made good what was known to be lost when it began: at the first catalog_stale()
 * that said so, or at catalog_clear_ring(). The record tells the body, which may believe it only if
 * nothing has been dropped since.
 */
void catalog_fresh(struct catalog *catalog)
{
    struct catalog_change *change = post_begin(catalog, CHANGE_COMPLETE, sizeof change->complete);
    if (!change)
        return;
    if (catalog->reported > catalog->renewed)
        catalog->renewed = catalog->reported;
    if (catalog->incomplete && catalog->renewing > catalog->renewed)
        catalog->renewed = catalog->renewing;
    catalog->reported = catalog->renewed;
    catalog->incomplete = false;
    change->complete = catalog->renewed;
    post_end(catalog);
}

int catalog_barrier(struct catalog *catalog)
{
    return catalog->ops->barrier(catalog);
}

/* ---- queries ------------------------------------------------------------------------------------
 */

int catalog_find(struct catalog *catalog, const struct identity *ring, int64_t from_ns,
                 int64_t to_ns, int (*each)(const struct segment_row *row, void *context),
                 void *context)
{
    /* Bodies compare with the last instant of the range, so that INT64_MAX needs no case of its
     * own. */
    int64_t last_ns = to_ns == INT64_MAX ? to_ns : to_ns - (to_ns > INT64_MIN);
    if (to_ns == INT64_MIN || from_ns > last_ns) {
        from_ns = INT64_MAX; /* an empty range: such a one in every body */
        last_ns = INT64_MIN;
    }
    return catalog->ops->find(catalog, ring, from_ns, last_ns, each, context);
}

int catalog_find_sealed(struct catalog *catalog, const struct identity *ring, uint64_t from, uint64_t to, uint32_t count,
                        int (*each)(const struct segment_row *row, void *context), void *context)
{
    to = to < INT64_MAX ? to : INT64_MAX;
    count = count < CATALOG_PAGE_ROWS ? count : CATALOG_PAGE_ROWS;
    return from <= to ? catalog->ops->find_sealed(catalog, ring, from, to, count, each, context) : 0;
}

int catalog_places(struct catalog *catalog, const struct identity *ring,
                   int (*each)(const struct segment_row *row, const struct segment_place *place,
                               void *context),
                   void *context)
{
    return catalog->ops->places(catalog, ring, each, context);
}

int catalog_summary(struct catalog *catalog, const struct identity *ring,
                    struct catalog_summary *summary)
{
    memset(summary, 0, sizeof *summary);
    summary->first_ns = INT64_MAX;
    summary->last_ns = INT64_MIN;
    return catalog->ops->summary(catalog, ring, summary);
}

int catalog_interfaces(struct catalog *catalog, const struct identity *ring,
                       int (*each)(const struct interface_description *description,
                                   int64_t first_seen_ns, int64_t last_seen_ns, void *context),
                       void *context)
{
    return catalog->ops->interfaces(catalog, ring, each, context);
}

int segment_row_order(const struct segment_row *a, const struct segment_row *b)
{
    int order = memcmp(a->run.byte, b->run.byte, sizeof a->run.byte);
    if (order != 0)
        return order;
    if (a->stream != b->stream)
        return a->stream < b->stream ? -1 : 1;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return memcmp(a->segment.byte, b->segment.byte, sizeof a->segment.byte);
}
