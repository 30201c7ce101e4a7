/*
 * recovery.h - what lies on the disks: finding out at the start, mending what a crash left open.
 *
 * Runs before the keeper does, on one thread, on disks that are locked. Never trusts the catalog about what may be
 * overwritten: it begins with what the catalog believes, reads on from there in the order in which slots are reused, and
 * stops where headers are what they are believed to be; without a catalog it reads a header and a seal of every slot.
 */
#ifndef STORAGE_RECOVERY_H
#define STORAGE_RECOVERY_H

#include <stdint.h>

#include "catalog.h"
#include "flow_keys.h"
#include "disk_io.h"
#include "keeper.h"

struct recovery_disk {
    struct disk *disk;          /* geometry set */
    struct identity identity;
    struct slot_belief *belief; /* slot_count entries: the result */
};

struct recovery_report {
    uint64_t slots_read;         /* headers */
    uint64_t segments_found;     /* with packets, that the catalog did not know, or not as complete */
    uint64_t segments_sealed;    /* that a crash had left open */
    uint64_t segments_empty;     /* prepared and never used */
    uint64_t segments_damaged;   /* with a hole before the frontier, or that could not be read */
    uint64_t headers_repaired;   /* first pages that were torn and are written anew from their seals */
    uint64_t packets_recovered;  /* in the segments that were sealed */
    uint64_t packets_missing;    /* known to have been durable, and gone */
};

struct recovery_options {
    struct identity ring;
    struct catalog *catalog;
    flow_keys_of *keys_of; /* what is sealed is indexed by; null: it gets no key index */
    bool whole;      /* ignore the catalog: read every slot (rebuild, adopt, a fresh catalog) */
    bool read_only;  /* look only: nothing is sealed or repaired */
    int64_t (*wall_ns)(void *context);
    /* Progress and events, may be null. */
    void (*progress)(void *context, uint64_t slots_done, uint64_t slots_total);
    void (*event)(void *context, const char *severity, const char *kind, const char *text);
    bool (*give_up)(void *context); /* asked now and then; true: ERR_INTERRUPTED */
    void *context;
};

/*
 * Fills in each disk's beliefs, brings the catalog up to date with them, seals what is open. *position is the highest one seen.
 * A disk that cannot be read at all is an error; a slot that cannot be read is damage and reported.
 */
int recovery_run(const struct recovery_options *options, struct recovery_disk *disk, uint32_t disks,
                 uint64_t *position, struct recovery_report *report, struct failure *failure);

/*
 * The same for one disk that comes, or comes back, while the ring records: reads every slot of it and brings what lies there together with what the
 * catalog knows. Complete copies of known segments get their place back; segments that the catalog does not know, of whatever
 * run, are found again, and sealed where they are open; copies of a segment that is known in a better revision, or more complete, or is just being filled
 * elsewhere, are nothing any more, and their slots are free.
 *
 * `filling`: the segments that the keeper has in work, taken before this is called. Any thread but the keeper's; the disk is in no keeper yet.
 */
int recovery_join(const struct recovery_options *options, struct recovery_disk *disk, const struct identity *filling,
                  uint32_t filling_count, uint64_t *position, struct recovery_report *report, struct failure *failure);

#endif
