/*
 * keeper_inside.h - what the parts of the keeper share: keeper*.c, the mender, and who works on slots beside it (disk_guest.c, purge_live.c), nobody else.
 *
 *     keeper.c          the mailbox, the run, streams, answers about the ring's state
 *     keeper_disk.c     one disk: requests, the watchdog, errors, what is written and not flushed
 *     keeper_frame.c    the way of a frame, and its rescue
 *     keeper_segment.c  slots are chosen, checked, opened, closed; what expires
 *
 * Everything here is called on the keeper's thread (in the simulation: the test's), except the functions that a disk calls as
 * done(): they only post. Nothing blocks; all I/O is a request that is answered through the mailbox, so that every
 * crash and every fault replays in the simulation.
 */
#ifndef STORAGE_KEEPER_INSIDE_H
#define STORAGE_KEEPER_INSIDE_H

#include "keeper.h"

#define POSITION_IN_USE UINT64_MAX

struct keeper_disk {
    struct keeper *keeper;
    struct disk *io;    /* null: it has left the ring, or the ring has left it; whatever was under way there is still answered */
    char name[256];
    struct identity identity;
    uint32_t number;    /* stays while the ring is open, also when it leaves and returns */
    uint64_t failure_domain;
    uint32_t slots;
    /*
     * The order of reuse: 0 free, POSITION_IN_USE. Where a copy went bad it is its segment's, so that the slot comes in its turn and not at
     * once, while belief.position is 0: nothing that counts lies there.
     */
    uint64_t *position;
    struct slot_belief *belief;
    const struct segment **open;   /* the segment that uses the slot, or null */
    uint32_t held;                 /* the mender writes there: not to be reused now; UINT32_MAX: none */
    bool failed;
    bool suspect;       /* does not answer */
    bool doubtful;      /* an error at flush: nothing new goes there until it has been read back */
    enum disk_state life; /* what all of these come to, as it was asserted last */
    uint32_t joins;     /* grows whenever it joins: whoever kept a slot's number over that has nothing */
    enum disk_state away; /* when io is null: as what it left */
    uint32_t errors_in_a_row;
    uint32_t flush_errors; /* since the last good flush of something */
    struct keeper_probe *probe; /* the read-back, while it is doubtful */

    /*
     * The watchdog. Requests carry the generation in which they were submitted. `marked` counts those of earlier generations
     * that are still out; when it comes to 0 the present generation becomes the marked one. So the oldest
     * request is at least as old as the mark while `marked` is not 0, without a list of requests.
     */
    uint32_t generation, current, marked;
    uint64_t marked_ns;
    uint64_t silent_ns;   /* since its last answer, while the keeper ran */
    uint64_t slow_until_ns; /* it was slow not long ago */
    uint64_t answered_ns; /* of the last answer */
    uint64_t watched_ns;

    uint64_t read_errors, write_errors, written_bytes, flushes;
    uint64_t in_flight_bytes; /* submitted or waiting */

    /* Frames for it beyond what it is given at once, in their order. Their copies are not bad: such frames are withdrawn. */
    struct disk_request *waiting_head;
    struct disk_request *waiting_tail;
    uint64_t frame_bytes; /* submitted */

    /*
     * The recording's own requests, the mender's not. answer_ns: what they take, that of a slow one at once, coming down by an eighth with each quicker one.
     * busy: how many are under way on the average, in permille, at most 1,000; a sharp rise at once, coming down by a quarter a window.
     */
    uint64_t answer_ns;
    uint64_t took_ns, took_since_ns; /* of those that were answered since then */
    uint32_t busy;

    /* Writes that completed and are not flushed, in the order of their completion. */
    struct disk_request *unflushed_head;
    struct disk_request *unflushed_tail;
    uint64_t unflushed_bytes;
    uint64_t flush_due_ns; /* when the first of them has to be flushed */
    bool flush_wanted;
    bool flush_running;
    struct disk_request *flush_last; /* the running flush covers the list up to and with this one; null: nothing any more */
    struct disk_request flush;
    uint32_t flush_generation;
};

/* A new segment, or a healed copy, may be placed there. */
static inline bool keeper_disk_usable(const struct keeper_disk *disk)
{
    return disk->io && !disk->failed && !disk->suspect && !disk->doubtful;
}

/* The position of the segment that has a good copy in the slot; 0: none; POSITION_IN_USE. */
static inline uint64_t keeper_slot_counts(const struct keeper_disk *disk, uint32_t slot)
{
    uint64_t position = disk->position[slot];
    const struct slot_belief *belief = &disk->belief[slot];
    return position == POSITION_IN_USE || (belief->position != 0 && belief->revision != 0) ? position : 0;
}

/* It may become usable again by itself, or is. */
static inline bool keeper_disk_left(const struct keeper_disk *disk)
{
    return disk->io && !disk->failed;
}

enum disk_state keeper_disk_condition(const struct keeper_disk *disk);

struct call;

struct keeper {
    struct keeper_options options;
    uint64_t next_position;
    uint32_t disks;
    struct keeper_disk *disk[RING_DISKS_MAX];
    struct stream *streams;
    struct segment *segments; /* all that are being prepared or filled */
    struct mender *mender;
    struct disk_guest *guests; /* disk_guest.h: also those that are closed and still wait for an answer */
    uint64_t segments_opened, segments_sealed, segments_coarse, stale_beliefs;
    uint64_t requests_under_way;
    uint64_t pool_bytes;
    uint64_t oldest_told_ns; /* when the gauge was last told */
    bool dead;
    bool expecting;     /* see keeper_expect_disk() */
    struct identity *expired;
    uint32_t expired_count, expired_room;
    bool degraded;      /* fewer disks can take new segments than there should be copies */
    bool prepare_again; /* a preparation found no disk: look again when something has changed */

    /* the mailbox */
    pthread_mutex_t lock;
    pthread_cond_t posted;
    pthread_cond_t called;
    struct frame_buffer *frames, **frames_end;
    uint32_t frames_unsaid; /* of them, since it was last woken, or looked */
    struct disk_request *requests, **requests_end;
    struct stream *stream_posts, **stream_posts_end;
    struct call *calls, **calls_end;
    bool waiting; /* the keeper sleeps until something is posted */
    bool threaded;
    pthread_t thread;
    bool thread_known;
};

/* ---- keeper.c ----------------------------------------------------------------------------------- */

/* Something that a person should know. */
void keeper_say(struct keeper *keeper, const char *severity, const char *kind, const char *text);

/* Of the disk that is furthest behind, without a chunk that the mender has under way itself, and its turn. */
struct pressure_view keeper_pressure(const struct keeper *keeper, uint64_t now_ns);

/* Any thread: a request has been answered. */
void keeper_post_request(struct keeper *keeper, struct disk_request *request);

/* disk_guest.c: all of them, whatever they wait for. */
void keeper_guests_free(struct keeper *keeper);

/* ---- keeper_disk.c: requests -------------------------------------------------------------------- */

/*
 * A request of the mender's, or of any other part that keeps no frames. The submitter sets the first block; the rest is the keeper's until
 * `finished` is called, exactly once. Its memory, and its buffer's, stay until then: there is no cancel.
 */
struct keeper_request {
    struct disk_request request; /* op, slot, offset, buffer, bytes, buffer_index */
    /* The disk has answered: request.result says how. A good write is not durable yet. */
    void (*finished)(struct keeper *keeper, struct keeper_request *request);
    /* For keeper_request_flush(): a flush that covers the write has ended. */
    void (*flushed)(struct keeper *keeper, struct keeper_request *request, bool good);
    void *context;

    struct keeper_disk *disk;
    uint32_t generation;
    uint64_t due_ns;
};

/* Counts errors of the disk, too: a failed write counts towards its failure. On a disk that has left it is answered with ERR_CLOSED. */
void keeper_request_submit(struct keeper_disk *disk, struct keeper_request *request);

/*
 * In or after `finished` of a good write: it is to be flushed by due_ns (monotonic; 0: now), together with whatever else is unflushed there;
 * then `flushed` is called, exactly once. `request` stays until then.
 */
void keeper_request_flush(struct keeper_request *request, uint64_t due_ns);

/* For requests that carry their generation themselves (frames, segments). Every answer goes through keeper_answered() once. */
void keeper_submit(struct keeper *keeper, struct keeper_disk *disk, struct disk_request *request, uint32_t *generation);
void keeper_answered(struct keeper *keeper, struct keeper_disk *disk, const struct disk_request *request,
                     uint32_t generation);

/* A write, flush or header read failed. */
void keeper_disk_error(struct keeper *keeper, struct keeper_disk *disk, const char *what, int result);

/*
 * The write of a frame: submitted when those before it leave room for it. What a disk has been given cannot be taken back, and whatever else it is asked for has
 * to wait behind it: so that is little, and a segment can be prepared on a disk that is far behind.
 */
void keeper_frame_write(struct keeper_disk *disk, struct disk_request *request);
/* Takes the frames of a copy that is left behind out of what waits for its disk: they will not be written there. */
void keeper_waiting_forget(struct keeper_disk *disk, struct segment *segment);

/* The disk may have this many bytes in flight before it is taken for slower than the others. */
uint64_t keeper_disk_share(const struct keeper *keeper, const struct keeper_disk *disk);

/* The watchdog's look at the clock; the read-back goes on. */
void keeper_disk_watch(struct keeper *keeper, struct keeper_disk *disk, uint64_t now);
/* It owes an answer, and has given none for longer than a disk should take, though not so long that it would be suspect; or did so a second ago. */
bool keeper_disk_is_slow(const struct keeper_disk *disk);
/* When keeper_disk_watch() has something to do though nothing is answered; UINT64_MAX: never. */
/* For the disk that is expected. */
void keeper_note_expired(struct keeper *keeper, const struct identity *segment);
void keeper_disk_free(struct keeper_disk *disk);
/* For the pressure gauge: how long the turn of a reader is; 0: nothing is recorded; 1: just now, nothing is. */
uint64_t keeper_disk_turn_ns(const struct keeper_disk *disk, uint64_t now);
uint64_t keeper_disk_due_ns(const struct keeper_disk *disk);
/* Says so when fewer disks can take new segments than there should be copies, and when that is over. */
void keeper_watch_level(struct keeper *keeper);

/* A good write waits for a flush; the list's order is that of completion. */
void keeper_unflushed_add(struct keeper_disk *disk, struct disk_request *request, uint64_t due_ns);
/* Takes the frames of a copy that is left behind out of its disk's list: whether they are flushed matters no more. */
void keeper_unflushed_forget(struct keeper_disk *disk, const struct segment *segment);
bool keeper_flush_due(const struct keeper *keeper, const struct keeper_disk *disk, uint64_t now);
void keeper_flush_start(struct keeper *keeper, struct keeper_disk *disk);

/* The answer to any request, by its done(). */
void keeper_request_finished(struct keeper *keeper, struct disk_request *request);

/* ---- keeper_frame.c ----------------------------------------------------------------------------- */

/* done() of a frame's write. */
void keeper_frame_answered(struct disk_request *request);
void keeper_frame_arrived(struct keeper *keeper, struct frame_buffer *buffer);
void keeper_frame_written(struct keeper *keeper, struct disk_request *request);
/* Which copy a request of the buffer's is for. */
uint8_t keeper_frame_place(const struct frame_buffer *buffer, const struct disk_request *request);

/* The copy gets no more frames; with no good one left the segment ends. */
void keeper_copy_is_bad(struct segment *segment, struct segment_copy *copy);

/* Takes what is durable from the head of the stream's queue, in order; rescues; writes indexes and seals. */
void keeper_settle(struct keeper *keeper, struct stream *stream);
void keeper_settle_all(struct keeper *keeper);

/* ---- keeper_segment.c --------------------------------------------------------------------------- */

/* done() of a header read and of the two writes that open a copy. */
void keeper_segment_answered(struct disk_request *request);
void keeper_segment_written(struct keeper *keeper, struct disk_request *request);
/* One of the two writes that open a copy has come to its end: flushed, or failed. */
void keeper_segment_opened(struct segment *segment, struct segment_copy *copy, bool good);
struct segment_copy *keeper_segment_copy(struct segment *segment, const struct disk_request *request);

/* Begins to prepare a segment for the stream, or for its frames that have to be rescued. */
void keeper_prepare(struct keeper *keeper, struct stream *stream, bool is_rescue);
void keeper_prepare_wanted(struct keeper *keeper);
/* For the pressure gauge: at the high mark a quarter of what should be prepared for the stream is. */
uint32_t keeper_prepared_level(const struct keeper *keeper, struct stream *stream);
/* What is wanted at once and held up by a slow disk is begun anew without it. */
void keeper_prepare_watch(struct keeper *keeper, uint64_t now);
/* Nobody waits for the segment that is being prepared: another one may be prepared in its place. */
void keeper_segment_orphan(struct segment *segment);
/* Nothing more will be written into it: its slots may be overwritten in their turn. */
void keeper_segment_close(struct segment *segment);
void keeper_segment_free(struct segment *segment);
/* A write of this copy has answered. */
void keeper_copy_answered(struct segment *segment, struct segment_copy *copy);

/* The slot that would be overwritten next, UINT32_MAX where all are in use; its position, 0 for a free one. */
uint32_t keeper_victim(const struct keeper_disk *disk, uint64_t *position, uint32_t *free_slots);
/*
 * Whether the slot's first page, just read, shows a newer segment than was believed. Then the belief has been put right, and the slot is nobody's:
 * what the catalog says is never reason enough to overwrite. `holder`: the segment that has taken the slot, null: none has. The slot must still be
 * its own, for to put right the belief of a slot that another one has taken meanwhile would hand it out twice.
 */
bool keeper_slot_is_stale(struct keeper_disk *disk, uint32_t slot, const struct segment *holder, const uint8_t *page);
/* A segment expires at all its places at once, in the beliefs and in the catalog. */
void keeper_expire(struct keeper *keeper, const struct slot_belief *belief);

#endif
