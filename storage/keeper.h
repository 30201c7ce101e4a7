/*
 * keeper.h - the one mind of a ring: which segment lies where, what is durable, what is overwritten next.
 *
 * A state machine without threads of its own: everything that happens (a frame from a capture thread, a completion from
 * a disk, a call from elsewhere) is posted to its mailbox, and keeper_run() handles what has been posted. In a recorder one thread
 * calls keeper_run(); in the simulation the test does, with virtual time, so that every crash and fault replays from a seed.
 *
 * Life of a segment, as the keeper sees it:
 *
 *     CHECK --headers read--> OPENING --OPEN frames durable--> READY --stream takes it--> FILLING
 *       ^ belief was stale: other slots |                        |                           |
 *       +-------------------------------+      stream closes: slots free again      seal durable: SEALED
 *                                                                             a write failed: ENDED
 *
 * Before a slot is reused its header is read, because the catalog may be behind; and its new OPEN frame is durable, and the old seal's page
 * cleared, before any other frame of the new segment is written, so that after a crash a slot is either wholly the old
 * segment's or recognisably the new one's (promise P2).
 *
 * Index and seal are written when all data frames of the segment are durable: a valid seal proves that its segment is complete.
 *
 * A frame is durable when it and all frames before it in its stream are written and flushed at every place of their segments
 * that has not failed, and at one at least. Buffers return to the pool only then, so that a failed flush loses nothing; and
 * only when no write of theirs is open, for a write cannot be taken back.
 *
 * A disk that does not answer for some time is suspect: it gets no new segments while others can take them, and the copies
 * that are being filled there are left behind; when it has answered everything it is active again.
 */
#ifndef STORAGE_KEEPER_H
#define STORAGE_KEEPER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "catalog.h"
#include "disk_io.h"
#include "flow_keys.h"
#include "frame.h"
#include "mender.h"
#include "pool.h"
#include "pressure.h"
#include "verdicts.h"

/*
 * Prepared segments of a stream: to prepare one takes three answers of a disk, so of small slots there are more, for as much as the buffers hold, but not more
 * than a small share of the ring for all streams: they hold nothing of the past any more.
 */
#define KEEPER_LEASES_AHEAD 3
#define KEEPER_LEASES_MAX 16
#define KEEPER_LEASES_RING_SHARE 16u

struct keeper;
struct stream;

struct keeper_options {
    struct identity ring;
    struct identity run;          /* of this recorder's life */
    uint64_t slot_bytes;
    uint8_t copies;
    uint64_t flush_window_ns;
    uint64_t suspect_after_ns;    /* a request that takes longer makes its disk suspect; 0: 2 s */
    uint64_t unflushed_bytes_max; /* flush sooner than the window when a disk has this much unflushed; 0: a quarter of the pool */
    struct mender_options mender; /* zeros: nothing is healed, sealed or scrubbed unasked */
    char host[64];
    flow_keys_of *keys_of;        /* what segments are indexed by; null: they get no key index */
    const struct verdicts *verdicts; /* of layer 7, for key indexes; may be null; stays the caller's */
    struct pressure_page *gauge;  /* for readers; may be null; stays the caller's */
    struct pool *pool;            /* stays the caller's */
    struct catalog *catalog;      /* stays the caller's */
    uint64_t (*monotonic_ns)(void *context);
    int64_t (*wall_ns)(void *context);
    /* Something that a person should know; kind is a word ("disk-failed"). May be null. On the keeper's thread. */
    void (*event)(void *context, const char *severity, const char *kind, const char *text);
    void *context;
};

/* What a slot holds, as the keeper believes. Position 0: free. */
struct slot_belief {
    struct identity segment;
    uint64_t position;
    uint32_t revision; /* 0: only its first page was seen, it counts for no copy */
};

#define FRAMES_NOT_ALL_SENT UINT32_MAX

enum segment_phase {
    SEGMENT_CHECKING,
    SEGMENT_OPENING,
    SEGMENT_READY,
    SEGMENT_FILLING,
    SEGMENT_ENDED, /* a write failed at its last good place: the stream goes on in another one */
    SEGMENT_DONE,
};

struct segment_copy {
    struct keeper_disk *disk;
    uint32_t slot;
    bool bad;                    /* gets no more frames: a write or flush failed, or the disk was left behind */
    bool released;               /* the slot is free for others, or will be when no write is open */
    uint32_t writes_open;        /* no slot with a write still open is reused, ever */
    struct slot_belief left;     /* what the slot holds once it is released */
    uint64_t turn;               /* and, where that is nothing, when its turn comes to be reused: 0 at once */
    bool gone;                   /* its disk has left the ring: the slot is none of ours any more */
    uint32_t generation;
    uint8_t opening;             /* of the two writes that open it: not yet flushed */
    struct disk_request request; /* header read, OPEN write */
    uint32_t unseal_generation;
    struct disk_request unseal;  /* clears the page where the last segment's seal is */
};

/* A segment that is being prepared or filled. The keeper's; a stream reads identity, slot_bytes and `ended` of the one it fills. */
struct segment {
    struct segment *next;
    struct keeper *keeper;
    struct stream *stream;
    struct frame_identity identity;
    uint64_t slot_bytes;
    uint64_t begun_ns;           /* monotonic: when its preparation began */
    uint8_t *page;               /* one for each copy */
    enum segment_phase phase;
    uint8_t copies;
    uint8_t outstanding;         /* header reads and opening writes that the disks have */
    struct segment_copy copy[COPIES_MAX];
    uint32_t buffers;            /* of any kind that refer to it, the settled ones with open writes, too */
    uint32_t frames_under_way;   /* data frames that the keeper has and that are not durable */
    struct frame_buffer *closing; /* INDEX and FLOWS frames and SEAL, in order: written when what is before them is durable */
    uint32_t closing_submitted;   /* so many of them are */
    atomic_bool ended;
    uint32_t frames_received;
    uint64_t bytes_received;     /* of those */
    _Atomic uint32_t frames_sent; /* set by the stream when it will send no more without a seal; until then FRAMES_NOT_ALL_SENT */
    bool orphan;                 /* being prepared on a disk that does not answer: nobody waits for it any more */
    bool coarse;                 /* sealed without its whole key index; set before the seal is posted */
    bool rescue;                 /* for frames of an ended segment, not for the stream */
    struct segment_row row;      /* what is durable */
};

int keeper_new(const struct keeper_options *options, struct keeper **keeper);

/* No request is under way and no stream is open. Disks are not closed. */
void keeper_free(struct keeper **keeper);

/*
 * Adds a disk, before the keeper runs or inside keeper_call(). `belief` (slot_count entries, copied) says what its slots hold.
 * Positions handed out from now on are above every one seen. Returns the disk's number in the ring: a disk that was
 * there before gets its old one back. ERR_TOO_LARGE, ERR_NO_MEMORY; ERR_BUSY: it is there, or what was under way before it left has not been
 * answered.
 */
int keeper_add_disk(struct keeper *keeper, struct disk *disk, const struct identity *identity,
                    const struct slot_belief *belief, uint32_t *number);

/* Positions from here on; never lower than what was seen. */
void keeper_raise_position(struct keeper *keeper, uint64_t position);

/*
 * Handles everything posted so far and whatever time has made due. Waits up to timeout_ms for something to do.
 * Returns whether it did anything.
 */
bool keeper_run(struct keeper *keeper, int timeout_ms);

/* Runs `function` on the keeper's thread and waits for it. In the simulation, or on the keeper's thread, directly. */
void keeper_call(struct keeper *keeper, void (*function)(struct keeper *keeper, void *context), void *context);

/*
 * Inside keeper_call(): begins nothing of its own any more, or does again. Whether nothing is under way and nobody records: then, while it lasts, the disks
 * may be written to by somebody else, who tells with keeper_set_beliefs() what came of it.
 */
bool keeper_pause(struct keeper *keeper, bool pause);

/* Says that keeper_call() must post (a thread runs the keeper) or may call directly. */
void keeper_set_threaded(struct keeper *keeper, bool threaded);

/* ---- for stream.c ------------------------------------------------------------------------------- */

/*
 * The keeper is woken for it if it is urgent, or where some have come together: one wake-up costs as much as all that is done for a
 * frame. Who posts without urgency owes a keeper_nudge() before it waits for anything.
 */
void keeper_post_frame(struct keeper *keeper, struct frame_buffer *buffer, bool urgent);
void keeper_nudge(struct keeper *keeper);
void keeper_post_stream(struct keeper *keeper, struct stream *stream);
const struct keeper_options *keeper_options(const struct keeper *keeper);

/* ---- inside keeper_call() only ------------------------------------------------------------------- */

/*
 * A disk is being looked at that will be added: from now on it is noted what expires, so that keeper_add_disk() does not believe that its copies are
 * still there. `expected` false: it will not be added after all. One disk at a time.
 */
void keeper_expect_disk(struct keeper *keeper, bool expected);

/*
 * Leaves a disk: nothing is submitted to it any more, what was being filled there goes on elsewhere. `state` is DISK_REMOVED, DISK_MISSING or
 * DISK_FAILED. It stays the caller's to close, once keeper_disk_is_quiet(). ERR_BUSY: it is the last that works, and a stream is attached.
 * ERR_NOT_FOUND.
 */
int keeper_leave_disk(struct keeper *keeper, uint32_t number, enum disk_state state);
/* Whether everything that was under way on a disk that has been left is answered. */
bool keeper_disk_is_quiet(const struct keeper *keeper, uint32_t number);

/* Copies of the segments that are prepared from now on. */
void keeper_set_copies(struct keeper *keeper, uint8_t copies);
/* Enclosure or underlying device, 0: not known. */
void keeper_set_failure_domain(struct keeper *keeper, uint32_t number, uint64_t domain);

/* Calls `each` with every segment that is being prepared or filled, or that was and whose last writes have not been answered. */
void keeper_segments_in_work(struct keeper *keeper, void (*each)(const struct identity *segment, void *context), void *context);

void keeper_attach_stream(struct keeper *keeper, struct stream *stream);
/* Whether nothing of the stream is under way: its frames, indexes and seals are durable or lost. Then it may be detached. */
bool keeper_stream_done(struct keeper *keeper, struct stream *stream);
/* Gives its unused leases back. Nothing of it is under way. */
void keeper_detach_stream(struct keeper *keeper, struct stream *stream);

/* Calls `each` for every segment that is being filled, with what of it is durable. */
int keeper_open_segments(struct keeper *keeper, int (*each)(const struct segment_row *row, void *context),
                         void *context);

/* What lies in a slot, as believed; position UINT64_MAX while it is being prepared or filled by `open`. */
const struct slot_belief *keeper_belief(struct keeper *keeper, const struct identity *disk, uint32_t slot,
                                        const struct segment **open);

/* Replaces what is believed of a disk's slots (slot_count entries, copied). No stream is attached. */
void keeper_set_beliefs(struct keeper *keeper, uint32_t disk, const struct slot_belief *belief);

/* The mender begins nothing any more; what it does ends with the next answers of the disks. */
void keeper_stop_mending(struct keeper *keeper);

/* Asks every disk to flush now what is written. */
void keeper_flush(struct keeper *keeper);

struct keeper_disk_state {
    struct identity identity;
    struct disk *disk;           /* null: it has left */
    enum disk_state state;
    uint64_t failure_domain;
    uint32_t slots;
    uint32_t free_slots;
    uint64_t segments;           /* copies there that count */
    uint64_t segment_bytes;      /* the same in bytes, raw: whole slots */
    uint64_t in_flight_bytes;
    uint64_t read_errors;
    uint64_t write_errors;
    uint64_t written_bytes;
    uint64_t flushes;
};

struct keeper_state {
    uint32_t disks;
    struct keeper_disk_state disk[RING_DISKS_MAX];
    uint64_t position;           /* the last one given */
    uint64_t oldest_position;    /* of a segment that is still there; 0: none */
    uint64_t segments_opened;
    uint64_t segments_sealed;
    uint64_t segments_coarse;    /* of those, by streams: without a key index that tells all flows apart, though there should be one */
    uint64_t stale_beliefs;      /* slots that held something else than the catalog said */
    uint64_t in_flight_bytes;
    uint8_t copies;              /* that there should be */
    uint8_t durable_copies;      /* smallest k in force: of what is being filled, and of what would be opened now */
    bool dead;                   /* no disk is left */
};

void keeper_state(struct keeper *keeper, struct keeper_state *state);

/* Whether nothing is under way: no request, no frame. */
bool keeper_idle(struct keeper *keeper);

#endif
