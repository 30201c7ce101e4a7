/*
 * catalog_memory.c - the catalog in memory, for the simulation: no SQLite, no thread, no time.
 *
 * Changes wait in the queue until catalog_memory_catch_up() applies them, so that a test decides
 * how far behind the catalog is; catalog_memory_crash() forgets those that wait. Tables are plain
 * arrays that are searched from end to end: a simulated ring has a few hundred segments.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "catalog_body.h"

struct memory_ring {
    struct identity ring;
    char name[RING_NAME_MAX + 1];
    uint8_t copies;
    uint64_t slot_bytes;
};

struct memory_interface {
    struct identity ring;
    struct interface_description description;
    int64_t first_seen_ns;
    int64_t last_seen_ns;
};

struct catalog_memory {
    struct catalog head;
    struct segment_row *segment; /* all below: under the head's lock */
    uint32_t segments;
    uint32_t segments_max;
    struct memory_interface *interface;
    uint32_t interfaces;
    uint32_t interfaces_max;
};

/* Makes room for one more. A simulation without memory has nothing to say to a test: it ends. */
static void *grow(void *array, uint32_t count, uint32_t *max, size_t bytes)
{
    if (count < *max)
        return array;
    uint32_t more = *max ? *max * 2 : 64;
    void *grown = realloc(array, more * bytes);
    if (!grown)
        abort();
    *max = more;
    return grown;
}

/* ---- changes ------------------------------------------------------------------------------------
 */

static struct segment_row *find_segment(struct catalog_memory *memory,
                                        const struct identity *segment)
{
    for (uint32_t i = 0; i < memory->segments; i++)
        if (identity_equal(&memory->segment[i].segment, segment))
            return &memory->segment[i];
    return NULL;
}

static void remove_segment(struct catalog_memory *memory, struct segment_row *row)
{
    *row = memory->segment[--memory->segments];
}

static bool place_equal(const struct segment_place *a, const struct segment_place *b)
{
    return a->slot == b->slot && identity_equal(&a->disk, &b->disk);
}

/* Takes a place from whoever has it; a segment that has none left is gone. */
static void take_place(struct catalog_memory *memory, const struct segment_place *place)
{
    for (uint32_t i = memory->segments; i-- > 0;) {
        struct segment_row *row = &memory->segment[i];
        uint8_t kept = 0;
        for (uint8_t p = 0; p < row->places; p++)
            if (!place_equal(&row->place[p], place))
                row->place[kept++] = row->place[p];
        bool lost_last = row->places > 0 && kept == 0;
        row->places = kept;
        if (lost_last)
            remove_segment(memory, row);
    }
}

static void put_segment(struct catalog_memory *memory, const struct segment_row *put)
{
    struct segment_row row = *put;
    row.places = 0;
    for (uint8_t p = 0; p < put->places; p++) {
        bool again = false;
        for (uint8_t q = 0; q < row.places; q++)
            again |= place_equal(&put->place[p], &row.place[q]);
        if (!again)
            row.place[row.places++] = put->place[p];
    }
    struct segment_row *old = find_segment(memory, &row.segment);
    if (old)
        remove_segment(memory, old);
    for (uint8_t p = 0; p < row.places; p++)
        take_place(memory, &row.place[p]);
    memory->segment = grow(memory->segment, memory->segments, &memory->segments_max, sizeof row);
    memory->segment[memory->segments++] = row;
}

static void add_place(struct catalog_memory *memory, const struct catalog_change_place *add)
{
    struct segment_row *old = find_segment(memory, &add->segment);
    if (!old || old->revision != add->revision)
        return;
    struct segment_row row = *old;
    row.places = 0;
    for (uint8_t p = 0; p < old->places; p++)
        if (!identity_equal(&old->place[p].disk, &add->place.disk))
            row.place[row.places++] = old->place[p];
    if (row.places == COPIES_MAX)
        return;
    row.place[row.places++] = add->place;
    put_segment(memory, &row);
}

/* Without those places of a disk that `slot` matches; UINT32_MAX: all. */
static void drop_places(struct catalog_memory *memory, struct segment_row *row,
                        const struct identity *disk, uint32_t slot)
{
    uint8_t kept = 0;
    uint8_t before = row->places;
    for (uint8_t p = 0; p < row->places; p++)
        if (!identity_equal(&row->place[p].disk, disk) ||
            (slot != UINT32_MAX && row->place[p].slot != slot))
            row->place[kept++] = row->place[p];
    row->places = kept;
    if (before > 0 && kept == 0)
        remove_segment(memory, row);
}

static void clear_ring(struct catalog_memory *memory, const struct identity *ring)
{
    for (uint32_t i = memory->segments; i-- > 0;)
        if (identity_equal(&memory->segment[i].ring, ring))
            remove_segment(memory, &memory->segment[i]);
}

static bool description_equal(const struct interface_description *a,
                              const struct interface_description *b)
{
    return a->link_type == b->link_type && a->snapshot_length == b->snapshot_length &&
           memcmp(a->hardware, b->hardware, sizeof a->hardware) == 0 &&
           strcmp(a->name, b->name) == 0 && strcmp(a->description, b->description) == 0;
}

static void put_interface(struct catalog_memory *memory, const struct catalog_change_interface *put)
{
    for (uint32_t i = 0; i < memory->interfaces; i++) {
        struct memory_interface *known = &memory->interface[i];
        if (!identity_equal(&known->ring, &put->ring) ||
            !description_equal(&known->description, &put->description))
            continue;
        if (put->seen_ns < known->first_seen_ns)
            known->first_seen_ns = put->seen_ns;
        if (put->seen_ns > known->last_seen_ns)
            known->last_seen_ns = put->seen_ns;
        return;
    }
    memory->interface = grow(memory->interface, memory->interfaces, &memory->interfaces_max,
                             sizeof *memory->interface);
    struct memory_interface *row = &memory->interface[memory->interfaces++];
    row->ring = put->ring;
    row->description = put->description;
    row->first_seen_ns = put->seen_ns;
    row->last_seen_ns = put->seen_ns;
}

static void apply(struct catalog_memory *memory, const struct catalog_change *change)
{
    switch ((enum catalog_change_kind)change->kind) {
    case CHANGE_SEGMENT: {
        struct segment_row row = {0};
        size_t bytes = offsetof(struct segment_row, place) +
                       change->segment.places * sizeof change->segment.place[0];
        memcpy(&row, &change->segment, bytes);
        put_segment(memory, &row);
        break;
    }
    case CHANGE_DROP: {
        struct segment_row *row = find_segment(memory, &change->drop);
        if (row)
            remove_segment(memory, row);
        break;
    }
    case CHANGE_PLACE_ADD:
        add_place(memory, &change->place);
        break;
    case CHANGE_PLACE_DROP: {
        struct segment_row *row = find_segment(memory, &change->place.segment);
        if (row)
            drop_places(memory, row, &change->place.place.disk, change->place.place.slot);
        break;
    }
    case CHANGE_PLACES_DROP:
        for (uint32_t i = memory->segments; i-- > 0;)
            drop_places(memory, &memory->segment[i], &change->places, UINT32_MAX);
        break;
    case CHANGE_CLEAR:
        clear_ring(memory, &change->clear);
        break;
    case CHANGE_INTERFACE:
        put_interface(memory, &change->interface);
        break;
    case CHANGE_RING: /* no query asks for these */
    case CHANGE_DISK:
    case CHANGE_COMPLETE: /* nothing here outlives the process */
    case CHANGE_FILLER:
        break;
    }
}

void catalog_memory_catch_up(struct catalog *catalog, uint32_t count)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    const struct catalog_change *change = NULL;
    uint32_t applied = 0;
    while (applied < count &&
           (change = catalog_queue_next(&catalog->queue, change, catalog->queue.count - applied))) {
        apply(memory, change);
        applied++;
    }
    catalog_queue_remove(&catalog->queue, applied);
    pthread_mutex_unlock(&catalog->lock);
}

void catalog_memory_crash(struct catalog *catalog)
{
    pthread_mutex_lock(&catalog->lock);
    catalog_queue_empty(&catalog->queue);
    pthread_mutex_unlock(&catalog->lock);
}

/* ---- queries: on copies, so that no lock is held while the caller looks at them
 * ------------------- */

static int order_rows(const void *a, const void *b)
{
    return segment_row_order(a, b);
}

static int memory_find(struct catalog *catalog, const struct identity *ring, int64_t from_ns,
                       int64_t last_ns, int (*each)(const struct segment_row *row, void *context),
                       void *context)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    struct segment_row *found = malloc((memory->segments + 1) * sizeof *found);
    uint32_t count = 0;
    for (uint32_t i = 0; found && i < memory->segments; i++) {
        const struct segment_row *row = &memory->segment[i];
        if (identity_equal(&row->ring, ring) && segment_row_matches(row, from_ns, last_ns))
            found[count++] = *row;
    }
    pthread_mutex_unlock(&catalog->lock);
    if (!found)
        return ERR_NO_MEMORY;
    qsort(found, count, sizeof *found, order_rows);
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        result = each(&found[i], context);
    free(found);
    return result;
}

static int order_positions(const void *a, const void *b)
{
    const struct segment_row *one = a, *two = b;
    return one->position < two->position ? -1 : one->position > two->position;
}

static int memory_find_sealed(struct catalog *catalog, const struct identity *ring, uint64_t from, uint64_t to, uint32_t most,
                              int (*each)(const struct segment_row *row, void *context), void *context)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    struct segment_row *found = malloc((memory->segments + 1) * sizeof *found);
    uint32_t count = 0;
    for (uint32_t i = 0; found && i < memory->segments; i++) {
        const struct segment_row *row = &memory->segment[i];
        if (identity_equal(&row->ring, ring) && row->state != SEGMENT_OPEN && row->position >= from && row->position <= to)
            found[count++] = *row;
    }
    pthread_mutex_unlock(&catalog->lock);
    if (!found)
        return ERR_NO_MEMORY;
    qsort(found, count, sizeof *found, order_positions);
    int result = 0;
    for (uint32_t i = 0; i < count && i < most && result == 0; i++)
        result = each(&found[i], context);
    free(found);
    return result;
}

struct memory_place {
    struct segment_place place;
    struct segment_row row;
};

static int order_places(const void *a, const void *b)
{
    const struct segment_place *p = &((const struct memory_place *)a)->place;
    const struct segment_place *q = &((const struct memory_place *)b)->place;
    int order = memcmp(p->disk.byte, q->disk.byte, sizeof p->disk.byte);
    if (order != 0)
        return order;
    return p->slot < q->slot ? -1 : p->slot > q->slot;
}

static int memory_places(struct catalog *catalog, const struct identity *ring,
                         int (*each)(const struct segment_row *row,
                                     const struct segment_place *place, void *context),
                         void *context)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    struct memory_place *found =
        malloc(((size_t)memory->segments * COPIES_MAX + 1) * sizeof *found);
    uint32_t count = 0;
    for (uint32_t i = 0; found && i < memory->segments; i++) {
        const struct segment_row *row = &memory->segment[i];
        for (uint8_t p = 0; identity_equal(&row->ring, ring) && p < row->places; p++) {
            found[count].place = row->place[p];
            found[count++].row = *row;
        }
    }
    pthread_mutex_unlock(&catalog->lock);
    if (!found)
        return ERR_NO_MEMORY;
    qsort(found, count, sizeof *found, order_places);
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        result = each(&found[i].row, &found[i].place, context);
    free(found);
    return result;
}

static int memory_summary(struct catalog *catalog, const struct identity *ring,
                          struct catalog_summary *summary)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    for (uint32_t i = 0; i < memory->segments; i++) {
        const struct segment_row *row = &memory->segment[i];
        if (!identity_equal(&row->ring, ring))
            continue;
        if (summary->segments == 0 || row->position < summary->position_min)
            summary->position_min = row->position;
        if (summary->segments == 0 || row->position > summary->position_max)
            summary->position_max = row->position;
        summary->segments++;
        summary->packets += row->packets;
        summary->captured_bytes += row->captured_bytes;
        summary->missing += row->missing;
        summary->purged += row->purged;
        summary->damaged_segments += row->state == SEGMENT_DAMAGED;
        if (segment_row_timed(row) && row->first_ns < summary->first_ns)
            summary->first_ns = row->first_ns;
        if (segment_row_timed(row) && row->last_ns > summary->last_ns)
            summary->last_ns = row->last_ns;
    }
    pthread_mutex_unlock(&catalog->lock);
    return 0;
}

static int memory_interfaces(struct catalog *catalog, const struct identity *ring,
                             int (*each)(const struct interface_description *description,
                                         int64_t first_seen_ns, int64_t last_seen_ns,
                                         void *context),
                             void *context)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    pthread_mutex_lock(&catalog->lock);
    struct memory_interface *found = malloc((memory->interfaces + 1) * sizeof *found);
    uint32_t count = 0;
    for (uint32_t i = 0; found && i < memory->interfaces; i++)
        if (identity_equal(&memory->interface[i].ring, ring))
            found[count++] = memory->interface[i];
    pthread_mutex_unlock(&catalog->lock);
    if (!found)
        return ERR_NO_MEMORY;
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        result =
            each(&found[i].description, found[i].first_seen_ns, found[i].last_seen_ns, context);
    free(found);
    return result;
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static void memory_posted(struct catalog *catalog)
{
    (void)catalog; /* changes wait for catalog_memory_catch_up() */
}

static int memory_barrier(struct catalog *catalog)
{
    catalog_memory_catch_up(catalog, UINT32_MAX);
    return 0;
}

static void memory_close(struct catalog *catalog)
{
    struct catalog_memory *memory = (struct catalog_memory *)catalog;
    free(memory->segment);
    free(memory->interface);
    catalog_head_close(catalog);
    free(memory);
}

static const struct catalog_ops memory_ops = {
    .posted = memory_posted,
    .barrier = memory_barrier,
    .find = memory_find,
    .find_sealed = memory_find_sealed,
    .places = memory_places,
    .summary = memory_summary,
    .interfaces = memory_interfaces,
    .close = memory_close,
};

struct catalog *catalog_memory_new(void)
{
    struct catalog_memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return NULL;
    if (catalog_head_open(&memory->head, &memory_ops) != 0) {
        free(memory);
        return NULL;
    }
    return &memory->head;
}
