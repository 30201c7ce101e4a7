/*
 * mender_inside.h - what mender.c (what to do next) and mender_job.c (doing it) share, nobody else.
 */
#ifndef STORAGE_MENDER_INSIDE_H
#define STORAGE_MENDER_INSIDE_H

#include "catalog.h"
#include "keeper_inside.h"
#include "mender.h"
#include "segment_prefix.h"

#define MENDER_PLACES_MAX 8u  /* that are looked at for one segment */
#define MENDER_WRITES_MAX 32u /* of a healed copy that may wait for one flush */
#define MENDER_WINDOW 65536u  /* positions that are counted at a time */

enum mend_kind {
    MEND_REPAIR, /* a stretch of one place */
    MEND_HEAL,   /* one more copy of a segment */
    MEND_SCRUB,  /* one place of a segment from end to end */
    MEND_SEAL,   /* index and seal of a segment that a failed write has ended */
};

/* The parts of a slot, in the order in which they are checked; a healed copy is written in this
 * order, too, each part durable before the next. */
enum mend_part { PART_OPEN, PART_DATA, PART_INDEX /* and FLOWS */, PART_SEAL, PARTS };

struct mend_place {
    struct keeper_disk *disk;
    uint32_t slot;
    uint32_t held_in_join; /* the job writes there, and holds the slot against reuse: joins of the disk, else 0 */
};

/*
 * One piece of work. `next` is what happens when all that it waits for has been answered; where it
 * has been left behind, or the mender stops, it ends there instead.
 */
struct mend_job {
    struct mender *mender;
    struct mend_job *other; /* the next orphan */
    enum mend_kind kind;
    struct identity segment;
    uint64_t position;
    uint64_t slot_bytes;

    struct mend_place place[MENDER_PLACES_MAX]; /* that hold the segment; good disks first */
    uint8_t places;
    uint8_t primary; /* healing: read from; else: the one that is checked */
    uint8_t asked;
    bool sealed; /* `row` and the seal's page are known */
    struct segment_row row;

    uint8_t *buffer;
    uint32_t room;
    uint8_t *page; /* two of them: the seal; a header */

    enum mend_part part;
    uint32_t at, end;     /* what is left to be walked of the part */
    uint32_t length;      /* of what was read last */
    uint32_t good;        /* of it: whole frames */
    uint32_t want;        /* of a frame that is longer than the buffer; 0: none */
    uint32_t from, limit; /* a repair: the stretch */
    bool from_start;      /* a repair whose stretch began with no frame: all before it is walked */
    uint32_t reason;      /* enum worker_bad_reason of the damage at `at`; 0: none */
    uint64_t bytes, found, mended;

    bool has_target;
    struct mend_place target;
    uint64_t target_position; /* of what its slot held when it was chosen */
    struct segment stand_in; /* says to readers of the slot that it is not theirs any more */

    struct segment_prefix prefix; /* MEND_SEAL: of the frames that have been read */
    struct frame_identity seal_identity;
    struct segment_seal seal;
    uint32_t parts_written;

    struct keeper_request request; /* reads, and single writes */
    struct keeper_request second;
    struct keeper_request write[MENDER_WRITES_MAX];
    uint32_t writes;
    uint32_t outstanding; /* not answered yet, or, where that is waited for, not flushed */
    uint32_t unflushed;
    bool failed; /* a write or a flush of the target */
    void (*next)(struct mend_job *job);
    void (*when_flushed)(struct mend_job *job);
    void (*paused)(struct mend_job *job);
    bool orphan;
};

struct mend_wish { /* a repair that waits */
    struct identity segment;
    struct keeper_disk *disk;
    uint32_t slot, offset, bytes;
};

#define MENDER_ENDED_MAX 16u
#define MENDER_ENDED_TRIES 5u

struct mend_ended { /* a segment without a seal; what is not taken is sealed by the next start */
    struct segment_row row; /* position 0: nothing is here */
    uint64_t due_ns;
    uint32_t tries;
};

/* The count of copies, window by window from the newest position down. */
struct survey {
    bool running;
    bool healing;       /* the window's segments are healed; else they are only counted */
    uint64_t low, high; /* positions [low, high) */
    uint64_t below;     /* highest position below the window */
    uint32_t disk, slot;
    bool scanned;    /* the window has been counted */
    uint64_t cursor; /* positions at and above it have been dealt with */
    uint64_t degraded, missing;
    uint8_t count[MENDER_WINDOW];
};

struct mender {
    struct keeper *keeper;
    struct mender_options options;
    struct mender_state state;
    struct mend_job *job;
    struct mend_job *orphans;
    uint32_t orphan_count;
    bool stopping;
    bool makes_way; /* see mender_make_way() */
    uint32_t hurry;
    uint64_t now_ns;
    uint64_t pace_ns; /* no I/O of healing or scrub before */
    struct pressure_pace pressure;
    uint64_t held_since_ns; /* it waits for the recording; 0: it does not */

    struct mend_wish wish[MENDER_REPAIRS_MAX];
    uint32_t wish_first, wishes;
    struct mend_ended ended[MENDER_ENDED_MAX];

    uint64_t signature; /* of the disks' states: when it changes, copies are counted anew */
    uint64_t survey_due_ns;
    uint64_t degraded_since_ns; /* 0: nothing is */
    uint64_t heal_due_ns;       /* what could not be healed is not tried again before */
    struct survey survey;

    bool scrub_wanted;
    uint64_t scrub_segment; /* position of the segment whose places are being read; 0: none */
    uint8_t scrub_place;
};

/* Begins a job; false: there is nothing to do, or no memory. mender->job is it while it lasts. */
bool mend_begin(struct mender *mender, enum mend_kind kind, uint64_t position, uint8_t place,
                const struct mend_wish *wish, const struct segment_row *ended);

/* The job goes on: it had paused, and may. */
void mend_resume(struct mend_job *job);

/* It is done for: it frees itself when all of it has been answered. */
void mend_orphan(struct mend_job *job);

void mend_free(struct mend_job *job);

/* Whether a disk that the job waits for does not answer. */
bool mend_hangs(const struct mend_job *job);

/* In mender.c: the job has ended. `healed`: one copy more. */
void mender_job_done(struct mend_job *job, bool good);

/* In mender.c: whether I/O may be done now; notes the bytes that will be. */
bool mender_may_go(struct mender *mender, const struct mend_job *job, uint32_t bytes);

/* Where it sits: copies in one domain fail together. 0: not known. */
static inline uint64_t mender_failure_domain(const struct keeper_disk *disk)
{
    return disk->failure_domain;
}

/* Whether copies on this disk count. */
static inline bool mender_disk_good(const struct keeper_disk *disk)
{
    return keeper_disk_usable(disk);
}

#endif
