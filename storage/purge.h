/*
 * purge.h - packets are erased from a ring that is not recorded into.
 *
 * What goes is named by run, stream and number, as a reading process has found it (WORKER_NUMBERS): the same packets in whatever segment a copy
 * of them lies. Each segment that holds one is written anew, all of its copies, under the next revision, into a free slot of the same disk; when every copy is
 * sealed and durable its old slots are overwritten with zeros. Where a disk has no free slot its oldest segment goes, as it would for recording.
 * In the end all that no segment covers is overwritten, too: free slots, and what lies behind the last frame of a segment, may hold
 * copies of what was erased.
 *
 * A crash at any instant leaves each segment in its old or in its new revision: the next start, which has to read the disks whole, believes the
 * highest revision that is sealed. What was not done then is done by purging again.
 *
 * Threads: one; nobody else writes to the disks. It takes two slots' bytes of memory, and what the key index of one segment takes.
 */
#ifndef STORAGE_PURGE_H
#define STORAGE_PURGE_H

#include "recovery.h"

/* Packets [first, first + count) of a stream. As a reading process writes them to its output. */
struct purge_range {
    struct identity run;
    uint32_t stream;
    uint32_t reserved;
    uint64_t first;
    uint64_t count;
};

/* So many of them at most: 40 MiB. */
#define PURGE_RANGES_MAX (1u << 20)

struct purge_options {
    const struct recovery_options *recovery; /* `whole` need not be set; its progress is called with segments done and their number, too */
    const struct purge_range *range;         /* by purge_sort() */
    uint32_t ranges;
    int64_t from_ns, to_ns; /* nothing is erased whose time is not in [from_ns, to_ns), whoever named it */
};

struct purge_report {
    uint64_t packets;          /* erased, each once */
    uint64_t bytes;            /* captured, of those */
    uint64_t segments;         /* written anew */
    uint64_t segments_dropped; /* the oldest of a disk without a free slot: copies */
    uint64_t pages_lost;       /* of segments that were written anew: no copy of them was good */
    uint64_t slots_cleared;
    uint64_t segments_gone;    /* purge_live.h: expired before their turn came */
    uint64_t slots_in_use;     /* purge_live.h: recording uses them, so they were not cleared */
    bool looked;               /* beliefs say what the disks hold now; not set by purge_live.h, which changes the keeper's own */
};

/* Brings what a process has named into order, and puts together what overlaps. Returns how many are left. */
uint32_t purge_sort(struct purge_range *range, uint32_t ranges);

/* Whether a slot of the disk begins or ends with a frame of the ring: a start would find a segment there. */
bool purge_finds_segments(struct disk *disk, const struct identity *ring);

/* Whether the segment holds, or held, one of them. `range`: by purge_sort(). */
bool purge_concerns(const struct purge_range *range, uint32_t ranges, const struct segment_row *row);

/*
 * Looks at the disks whole, as a rebuild does, and erases. Where report->looked is set, beliefs and catalog are of what lies there afterwards, also where it fails.
 * The catalog's last changes may be lost in a power cut while the disks have changed: so the next start, too, has to read them whole.
 * 0 says that no byte of the packets is left on these disks. ERR_BUSY: a segment has no seal, nothing was erased; ERR_NO_SPACE: a disk has
 * no slot to spare; ERR_IO; ERR_INTERRUPTED.
 */
int purge_run(const struct purge_options *options, struct recovery_disk *disk, uint32_t disks, uint64_t *position,
              struct purge_report *report, struct failure *failure);

#endif
