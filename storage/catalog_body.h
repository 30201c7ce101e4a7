/*
 * catalog_body.h - what the bodies of the catalog share: the queue of changes and the table of
 * verbs.
 *
 * catalog.c turns every change into a record in the queue; a body takes records from its front,
 * applies them, and only then removes them. A body that fails, rolls back and tries again finds
 * them where they were, so applying a change twice must do what applying it once does.
 *
 * The contract that keeps a catalog usable after a crash: what has been applied is always a prefix
 * of what was posted. Where that cannot be (a change was dropped because the queue was full) the
 * body marks the catalog as incomplete, durably, before it applies anything that was posted later.
 */
#ifndef STORAGE_CATALOG_BODY_H
#define STORAGE_CATALOG_BODY_H

#include <pthread.h>

#include "catalog.h"

#define CATALOG_CHANGES_MAX 65536u      /* in the queue; more are dropped */
#define CATALOG_QUEUE_BYTES (16u << 20) /* and their bytes */
#define CATALOG_PAGE_ROWS 1000u         /* rows read in one transaction of a query */
#define CATALOG_DISK_PATH_MAX 4095u     /* longer paths are cut */

enum catalog_change_kind {
    CHANGE_FILLER, /* unused bytes before the queue's end */
    CHANGE_RING,
    CHANGE_DISK,
    CHANGE_SEGMENT,
    CHANGE_DROP,
    CHANGE_CLEAR,
    CHANGE_INTERFACE,
    CHANGE_PLACE_ADD,
    CHANGE_PLACE_DROP,
    CHANGE_PLACES_DROP, /* all of a disk */
    CHANGE_COMPLETE, /* everything has been posted anew */
};

struct catalog_change_ring {
    struct identity ring;
    uint64_t slot_bytes;
    uint8_t copies;
    char name[RING_NAME_MAX + 1];
};

struct catalog_change_disk {
    struct identity ring;
    struct identity disk;
    uint64_t bytes;
    uint32_t slots;
    uint8_t state;
    char path[CATALOG_DISK_PATH_MAX + 1]; /* the record ends behind the terminating zero */
};

struct catalog_change_interface {
    struct identity ring;
    int64_t seen_ns;
    struct interface_description description;
};

struct catalog_change_place {
    struct identity segment;
    uint32_t revision; /* of an addition */
    struct segment_place place;
};

/* A record in the queue; `bytes` says where the next one begins. */
struct catalog_change {
    uint32_t bytes; /* multiple of 8 */
    uint32_t kind;  /* enum catalog_change_kind */
    union {
        struct catalog_change_ring ring;
        struct catalog_change_disk disk;
        struct segment_row segment; /* the record ends behind the last place in use */
        struct identity drop;
        struct identity clear;
        struct catalog_change_interface interface;
        struct catalog_change_place place;
        struct identity places;
        uint64_t complete; /* drops that the new posting has made good */
    };
};

/*
 * First in, first out, in one piece of memory. Records lie in one piece each. One thread removes,
 * any thread adds, both under the catalog's lock; records between first and last stay readable
 * without it.
 */
struct catalog_queue {
    uint8_t *memory;
    uint32_t head; /* offset of the first record */
    uint32_t tail; /* offset behind the last one */
    uint32_t used; /* bytes, fillers included */
    uint32_t count;
};

struct catalog_ops {
    /* A change was added to an empty queue, or the queue became long enough for a batch. Under the
     * lock. */
    void (*posted)(struct catalog *catalog);
    int (*barrier)(struct catalog *catalog);
    /* Packets from from_ns to last_ns, both inclusive; from_ns > last_ns: only those that are named
     * always. */
    int (*find)(struct catalog *catalog, const struct identity *ring, int64_t from_ns,
                int64_t last_ns, int (*each)(const struct segment_row *row, void *context),
                void *context);
    /* from <= to < 2^63, count at most CATALOG_PAGE_ROWS. */
    int (*find_sealed)(struct catalog *catalog, const struct identity *ring, uint64_t from, uint64_t to, uint32_t count,
                       int (*each)(const struct segment_row *row, void *context), void *context);
    int (*places)(struct catalog *catalog, const struct identity *ring,
                  int (*each)(const struct segment_row *row, const struct segment_place *place,
                              void *context),
                  void *context);
    int (*summary)(struct catalog *catalog, const struct identity *ring,
                   struct catalog_summary *summary);
    int (*interfaces)(struct catalog *catalog, const struct identity *ring,
                      int (*each)(const struct interface_description *description,
                                  int64_t first_seen_ns, int64_t last_seen_ns, void *context),
                      void *context);
    void (*close)(struct catalog *catalog); /* frees the body, not the head's queue and lock */
};

/* The head of every body, its first member. */
struct catalog {
    const struct catalog_ops *ops;
    pthread_mutex_t lock; /* all below */
    struct catalog_queue queue;
    uint64_t posted;   /* changes accepted so far */
    uint64_t dropped;  /* changes dropped so far, and other losses */
    uint64_t reported; /* `dropped` when catalog_stale() first said so */
    uint64_t renewed;  /* `dropped` that has been made good */
    uint64_t renewing; /* `dropped` when `incomplete` was set */
    bool incomplete;   /* begun anew or cleared, and not yet filled again */
};

/* Sets up the head. ERR_NO_MEMORY. */
int catalog_head_open(struct catalog *catalog, const struct catalog_ops *ops);
void catalog_head_close(struct catalog *catalog);

/* The first record, or the one after `change`; null when there is none before offset `tail`. Not
 * under the lock. */
const struct catalog_change *catalog_queue_next(const struct catalog_queue *queue,
                                                const struct catalog_change *change, uint32_t left);

/* Removes the first `count` records. Under the lock. */
void catalog_queue_remove(struct catalog_queue *queue, uint32_t count);

/* Removes all. Under the lock. */
void catalog_queue_empty(struct catalog_queue *queue);

/* What catalog_stale() answers. Under the lock. */
bool catalog_head_stale(const struct catalog *catalog);

/* ---- what both bodies must judge alike
 * ------------------------------------------------------------ */

/* A segment whose packets' times bound it; the others (open, or with packets gone) may hold any
 * time. */
static inline bool segment_row_timed(const struct segment_row *row)
{
    return row->first_ns <= row->last_ns;
}

/* Whether a query must name the segment whatever its times. */
static inline bool segment_row_always(const struct segment_row *row)
{
    return row->state == SEGMENT_OPEN || (!segment_row_timed(row) && row->missing > 0);
}

/* Whether the segment may hold packets from from_ns to last_ns, both inclusive. */
static inline bool segment_row_matches(const struct segment_row *row, int64_t from_ns,
                                       int64_t last_ns)
{
    if (segment_row_always(row))
        return true;
    return from_ns <= last_ns && segment_row_timed(row) && row->first_ns <= last_ns &&
           row->last_ns >= from_ns;
}

/* The order of catalog_find(): below 0, 0, above 0. */
int segment_row_order(const struct segment_row *a, const struct segment_row *b);

#endif
