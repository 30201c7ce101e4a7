/*
 * catalog.h - catalog.db: time -> segments -> places. Derived data: the disks can always rebuild it (promise P5).
 *
 * One thread, inside this module, owns the SQLite write connection. Changes are posted to a bounded queue from the
 * ring's keeper and written in batches; posting never blocks and never touches the disk. When the queue is full the
 * change is dropped, the catalog is marked stale (catalog_stale()), and the recorder has its rings read whole at the next start, or by a rebuild.
 * Queries use a read connection of their own, under a lock; they see what catalog_barrier() has waited for.
 */
#ifndef STORAGE_CATALOG_H
#define STORAGE_CATALOG_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "disk_format.h"
#include "errors.h"
#include "identity.h"
#include "packet.h"

enum segment_state {
    SEGMENT_OPEN = 1,    /* frames are being added; places and frontier come from the keeper */
    SEGMENT_SEALED = 2,  /* complete */
    SEGMENT_DAMAGED = 3, /* sealed, but a part of it has no good copy */
};

struct segment_place {
    struct identity disk;
    uint32_t slot;
};

/* One segment as the catalog knows it; for an open one the counts are those of the last frame that was reported. */
struct segment_row {
    struct identity ring;
    struct identity segment;
    uint64_t position;
    uint32_t revision;
    uint32_t data_revision;
    struct identity run;
    uint32_t stream;
    enum segment_state state;
    uint64_t first_packet;
    uint64_t packets;
    uint64_t captured_bytes;
    uint64_t missing;       /* packets known to be gone */
    uint64_t purged;        /* of `packets`: that were erased, and of which the number is left */
    int64_t opened_ns;      /* clock of the recorder */
    int64_t sealed_ns;
    int64_t head_ns;        /* time of the first packet */
    int64_t first_ns;       /* smallest and largest packet time; first > last while there is no packet */
    int64_t last_ns;
    uint32_t data_end;      /* bytes of frames in the slot */
    uint32_t index_offset;  /* 0 while open */
    uint32_t index_bytes;
    uint8_t places;
    struct segment_place place[COPIES_MAX];
};

struct catalog;

/*
 * Opens DIR/catalog.db, making it where it is missing. A file that is no database, damaged, or of an unknown version is moved
 * aside (catalog.db.damaged-N) and begun anew: *fresh then says that the disks must be read. So it says of a catalog that an
 * earlier process left stale. From then to catalog_fresh() the catalog is stale. ERR_IO, ERR_NO_SPACE, ERR_PERMISSION.
 */
int catalog_open(const char *directory, struct catalog **catalog, bool *fresh, struct failure *failure);

/* Writes what is queued, closes, nulls. */
void catalog_close(struct catalog **catalog);

/* ---- changes: any thread, never blocking. The structs are copied. ------------------------------- */

void catalog_put_ring(struct catalog *catalog, const struct identity *ring, const char *name, uint8_t copies,
                      uint64_t slot_bytes);
void catalog_put_disk(struct catalog *catalog, const struct identity *ring, const struct identity *disk,
                      const char *path, uint64_t bytes, uint32_t slots, enum disk_state state);
/*
 * Inserts or replaces the row and its places. Rows that held one of these places before lose it, and are deleted where it was
 * their last. At most COPIES_MAX places, else it asserts.
 */
void catalog_put_segment(struct catalog *catalog, const struct segment_row *row);
void catalog_drop_segment(struct catalog *catalog, const struct identity *segment);
/*
 * One place more, or one less, of a segment that the catalog knows; of one that it does not know, or knows in another revision, nothing. A
 * place is added unless there are COPIES_MAX; it replaces one on the same disk; whoever had it before loses it as in catalog_put_segment().
 * A segment that loses its last place is gone.
 */
void catalog_add_place(struct catalog *catalog, const struct identity *segment, uint32_t revision,
                       const struct segment_place *place);
void catalog_drop_place(struct catalog *catalog, const struct identity *segment,
                        const struct segment_place *place);
/* No segment has a place on that disk any more; those that had no other are gone. */
void catalog_drop_places(struct catalog *catalog, const struct identity *disk);
/* Forgets all that is known of a ring's segments: what a rebuild begins with. The catalog is stale from here to catalog_fresh(). */
void catalog_clear_ring(struct catalog *catalog, const struct identity *ring);
/* Interfaces that a segment holds, for lists; the same description is one row. */
void catalog_put_interface(struct catalog *catalog, const struct identity *ring,
                           const struct interface_description *description, int64_t seen_ns);

/*
 * Whether the catalog may lack something: a change was dropped since the last catalog_fresh(), or the catalog was begun anew
 * (also at run time, when it turns out to be damaged). The keeper asks now and then; on true it posts everything anew and then calls
 * catalog_fresh(). What is dropped between the two leaves the catalog stale. A query's answer may be short when this says true after it.
 */
bool catalog_stale(struct catalog *catalog);
void catalog_fresh(struct catalog *catalog);

/*
 * Waits until every change posted before is committed, or an attempt to do so has failed: returns 0 or that error. The write
 * thread goes on trying. Not on the keeper's thread.
 */
int catalog_barrier(struct catalog *catalog);

/* ---- queries: any thread ------------------------------------------------------------------------ */

/*
 * Calls `each` for every segment of the ring that may hold packets in [from_ns, to_ns), ordered by run, stream, position;
 * open ones always. A nonzero return of `each` ends the query and is returned. Times: INT64_MIN and INT64_MAX = no bound.
 * No transaction and no lock is held across a call of `each`. ERR_CORRUPT: the catalog turned out to be damaged; it is begun anew.
 */
int catalog_find(struct catalog *catalog, const struct identity *ring, int64_t from_ns, int64_t to_ns,
                 int (*each)(const struct segment_row *row, void *context), void *context);

/*
 * Calls `each` for the segments of the ring that are not open, of positions from `from` to `to`, in their order; at most `count` of them (up to 1,000).
 * Otherwise as catalog_find(). Positions of 2^63 and above are not found.
 */
int catalog_find_sealed(struct catalog *catalog, const struct identity *ring, uint64_t from, uint64_t to, uint32_t count,
                        int (*each)(const struct segment_row *row, void *context), void *context);

/* Every place of the ring with what is known to lie there; for a start without reading the disks. Ordered by disk, slot. */
int catalog_places(struct catalog *catalog, const struct identity *ring,
                   int (*each)(const struct segment_row *row, const struct segment_place *place, void *context),
                   void *context);

struct catalog_summary {
    uint64_t segments;
    uint64_t packets;
    uint64_t captured_bytes;
    uint64_t missing;
    uint64_t purged; /* of `packets` */
    uint64_t damaged_segments;
    int64_t first_ns; /* oldest packet: smallest packet time of the ring; INT64_MAX when empty */
    int64_t last_ns;  /* INT64_MIN when empty */
    uint64_t position_min; /* 0 when there is no segment */
    uint64_t position_max;
};

int catalog_summary(struct catalog *catalog, const struct identity *ring, struct catalog_summary *summary);

int catalog_interfaces(struct catalog *catalog, const struct identity *ring,
                       int (*each)(const struct interface_description *description, int64_t first_seen_ns,
                                   int64_t last_seen_ns, void *context),
                       void *context);

/* ---- in memory: for the simulation -------------------------------------------------------------- */

/*
 * A catalog without SQLite or thread, for tests of the keeper: changes apply only when catalog_memory_catch_up() says so, so that
 * a test can have a catalog that is behind by any number of changes, or lose the last ones.
 */
struct catalog *catalog_memory_new(void);
/* Applies up to `count` queued changes (UINT32_MAX: all). */
void catalog_memory_catch_up(struct catalog *catalog, uint32_t count);
/* A crash: queued changes are gone, applied ones stay. */
void catalog_memory_crash(struct catalog *catalog);

#endif
