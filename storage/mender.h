/*
 * mender.h - brings back what was lost: copies of segments that have too few, frames that a disk
 * has spoiled.
 *
 *     healing   a segment that lost a copy gets it back on another disk, newest first, some time
 *               after the loss
 *     repair    a frame that a reader could not believe is written anew from another copy, and
 *               read back
 *     sealing   a segment that a failed write has ended, or that took what such a one could not,
 *               gets its index and seal
 *     scrub     every place of every segment is read and checked now and then, and repaired where
 *               it is damaged
 *
 * A part of the keeper: it runs on the keeper's thread, from keeper_run(), does all I/O through the
 * keeper's requests, and believes only what is on the disks. One segment at a time, through one
 * buffer of MENDER_CHUNK_BYTES (longer for one oversized frame); a disk that hangs keeps its
 * buffer, and at most MENDER_ORPHANS_MAX of them are left behind so, then it waits.
 *
 * Life of a healed copy, in the slot that it takes:
 *
 *     header read -> OPEN (marked as healing) and cleared seal page durable -> DATA durable
 *     -> INDEX durable -> SEAL durable -> the mark is taken away -> in the catalog
 *
 * Before its seal such a copy is worth nothing: a start that meets one drops it. So a crash at any
 * instant costs the work only.
 *
 * A slot is taken as recording takes one: a free one, else the oldest of that disk, but only if
 * what lies there is older than the segment that is healed; otherwise the segment stays as it is,
 * and expires sooner.
 */
#ifndef STORAGE_MENDER_H
#define STORAGE_MENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "identity.h"

struct segment_row;

#define MENDER_CHUNK_BYTES (1u << 20)
/* That wait; more are not taken, and found again by the next reader or scrub. */
#define MENDER_REPAIRS_MAX 256u
#define MENDER_ORPHANS_MAX 4u

struct keeper;
struct mender;

struct mender_options {
    uint64_t heal_delay_ns;     /* between the loss of a copy and the work */
    uint64_t heal_rate;         /* bytes of segments a second; 0: nothing is healed */
    uint64_t scrub_interval_ns; /* between the starts of two scrubs; 0: none */
    uint64_t scrub_rate;        /* bytes a second; 0: none */
    /* Where the last run stood. */
    uint64_t scrub_position;  /* of the scrub that was under way: what lies below has been read; 0:
                                 none was under way */
    int64_t scrub_started_ns; /* wall clock, of that or of the last one; 0: never */
    bool heedless; /* does not yield to recording; nor do the ring's readers (ring_pressure_fd()) */
};

/* One scrub. */
struct mender_scrub {
    int64_t started_ns; /* wall clock; 0: there was none */
    int64_t ended_ns;   /* 0: under way */
    uint64_t bytes;     /* read in this run of the recorder */
    uint64_t found;     /* damaged frames */
    uint64_t mended;
};

struct mender_state {
    uint64_t degraded_segments; /* with fewer good copies than the ring's level, when it was last
                                   counted */
    uint64_t degraded_bytes;    /* slots' worth of missing copies */
    bool counted;               /* the two are of now: nothing has changed since */
    bool healing;
    uint64_t healed_segments; /* copies made since the start */
    uint64_t healed_bytes;
    uint64_t heals_failed;
    uint64_t sealed;       /* segments that a failed write had ended */
    uint64_t repaired;     /* frames written anew, and read back */
    uint64_t unrepairable; /* frames without a good copy, or whose place could not be written */
    uint64_t repairs_waiting;
    uint64_t held_back_ns; /* waited because recording needed the disks */
    uint64_t repairs_dropped; /* reported, and not taken up: too many waited, or the segment was
                                 still being filled */
    bool scrubbing;
    uint64_t scrub_position; /* 0: not under way */
    uint64_t scrub_position_end;
    struct mender_scrub scrub, last_scrub;
    int64_t scrub_next_ns; /* wall clock; 0: no scrub is planned */
};

/* ---- for the keeper
 * ------------------------------------------------------------------------------ */

/* ERR_NO_MEMORY. */
int mender_new(struct keeper *keeper, const struct mender_options *options, struct mender **mender);
/* No request of it is under way. */
void mender_free(struct mender **mender);

/* Goes on with what is due. Whether it did anything. */
bool mender_run(struct mender *mender, uint64_t now_ns);

/* When mender_run() wants to be called again though nothing is posted; UINT64_MAX: when something
 * is posted. */
uint64_t mender_due_ns(const struct mender *mender);

/* Whether it reads or writes, or would. */
bool mender_works(const struct mender *mender);

/* A segment is closed with fewer copies than there should be: it is counted soon. */
void mender_short_of_copies(struct mender *mender);

/* The segment is closed without a seal; `row` (copied) says what of it is durable and where. */
void mender_ended(struct mender *mender, const struct segment_row *row);

/* Begins nothing any more, and ends what it does at the next answer of a disk. */
void mender_stop(struct mender *mender);

/* The same for a time: until it goes on, with everything counted anew. */
void mender_pause(struct mender *mender, bool pause);

/* Nothing of it is under way, nor of what it has left behind. */
bool mender_is_still(const struct mender *mender);

/* ---- inside keeper_call()
 * ------------------------------------------------------------------------ */

/*
 * Whoever else rewrites slots (purge_live.h) wants to, or is done: the mender begins nothing while it is so, and one piece of its own work in between, where it has some. Whether
 * it has nothing under way: then it is the other's turn. `held` of the disks is the other's to use meanwhile.
 */
bool mender_make_way(struct keeper *keeper, bool way);

/*
 * A reader has found this stretch of a place damaged, and it was judged so. Whole frames are
 * mended. False: the queue is full, or the place is not the segment's any more.
 */
bool mender_repair(struct keeper *keeper, const struct identity *disk, uint32_t slot,
                   const struct identity *segment, uint32_t offset, uint32_t bytes);

/* While set, neither delay nor rate holds the mender back; what is degraded is looked for at once.
 * Nests. */
void mender_hurry(struct keeper *keeper, bool begin);

/* Nothing waits to be repaired, and nothing that could be healed is left. */
bool mender_is_done(struct keeper *keeper);

/* Starts a scrub now, unless one is under way. */
void mender_scrub_now(struct keeper *keeper);

void mender_set_options(struct keeper *keeper, const struct mender_options *options);
void mender_state(struct keeper *keeper, struct mender_state *state);

#endif
