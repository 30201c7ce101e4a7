/*
 * pressure.h - how far behind its disks the recorder is, published by it and heeded by whoever reads (P7).
 *
 *     recorder: pressure_gauge_open() -> { pressure_publish() } -> pressure_gauge_close()
 *     reader:   pressure_gauge_map() -> { pressure_may_read() } -> pressure_gauge_unmap()
 *
 * I/O priorities mean nothing under the `none` scheduler, so a disk shares itself out among all that ask, and a write waits behind every piece that
 * a reader has asked for. The recorder publishes, in a page of shared memory which a reading process gets as a descriptor with its job (sealed, so that
 * it can be neither resized nor written by anybody else), for each disk what it has come to, and how many read. A reader looks before each piece that it asks a
 * disk for. Two things hold it back:
 *
 *     turn    as long as the recorder writes to the disk, time is cut into turns, and the readers have them one after the other: one piece a turn. A turn is
 *             PRESSURE_PAUSE times what the recorder's own requests take there, by the share of the time in which it has any there, and rounded up to a power of two, so that all who look see
 *             the same. So two readers seldom wait in the disk's queue at once, however many there are; what makes the disk slower
 *             makes them slower; and where little is written, the turns are nothing. Who reads nothing for a while has no turn. The mender is
 *             a reader, too, with one turn in PRESSURE_MENDER_SHARE at least.
 *     level   how near the recorder is to dropping, in permille of the high mark: of the bytes on their way to the disk (an eighth of the buffers), of the buffers that are
 *             taken (half), of the segments that are prepared (a stream that has none). At the high mark a reader is held back, and until the level
 *             has fallen to the low mark: apart, or it would flap.
 *
 * A gauge stops nobody for ever: at the high mark turns are as long as PRESSURE_PIECE_NS, or PRESSURE_TRICKLE times what they would be if that is more. A gauge that was
 * not written for PRESSURE_FRESH_NS holds nobody back.
 */
#ifndef STORAGE_PRESSURE_H
#define STORAGE_PRESSURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "errors.h"

#define PRESSURE_SHARE 8u      /* an eighth of the buffers on their way to one disk is the high mark */
#define PRESSURE_POOL_SHARE 2u /* and half of them taken, by whatever */
#define PRESSURE_HIGH 1000u
#define PRESSURE_LOW 500u
#define PRESSURE_PAUSE 8u /* a turn is so many times what a frame takes, where the disk is never without one; a piece is four frames */
#define PRESSURE_TRICKLE 4u
#define PRESSURE_TURN_NS_MIN 100000ull /* shorter ones are none */
#define PRESSURE_MENDER_SHARE 4u
#define PRESSURE_SEATS 128u /* readers that can be told apart */
#define PRESSURE_LOOK_NS 5000000ull    /* a held-back reader looks again after this */
#define PRESSURE_PIECE_NS 500000000ull /* and a turn is no longer whatever the level */
#define PRESSURE_FRESH_NS 1000000000ull
#define PRESSURE_AHEAD 8u /* pieces that all readers together may have asked a disk for while something is recorded there, but each one */

/* ---- the rule: pure ----------------------------------------------------------------------------- */

/* The level of so many bytes that wait, where mark_bytes are the high mark. Saturates. */
uint32_t pressure_level(uint64_t bytes, uint64_t mark_bytes);

/* What a reader sees of a disk. Zeros: nothing is recorded there. */
struct pressure_view {
    uint32_t level;
    uint32_t turn, readers; /* its own, from 0, of so many readers; readers 0: of one */
    bool mends;             /* the mender has turns, too: one in PRESSURE_MENDER_SHARE, where there are more readers than that */
    bool is_mender;
    uint64_t turn_ns;     /* how long a turn is; 0: nothing is recorded */
};

/* What a reader remembers of one disk. Begins as zeros. */
struct pressure_pace {
    bool held;
    uint64_t went_ns; /* of the last piece; 0: none yet */
};

/*
 * 0: a piece may be asked for now, and it is noted that it is. Otherwise: look again after so many nanoseconds. `now_ns` is not 0, and of a clock that is the same for
 * all readers.
 */
uint64_t pressure_wait_ns(struct pressure_pace *pace, const struct pressure_view *view, uint64_t now_ns);

/* ---- the page ----------------------------------------------------------------------------------- */

struct pressure_page;

struct pressure_gauge {
    int fd; /* to be handed out; stays the gauge's */
    struct pressure_page *page;
    pthread_mutex_t lock; /* of the seats */
    bool taken[PRESSURE_SEATS], reads[PRESSURE_SEATS];
};

/* ERR_NO_MEMORY, or what errno says. */
int pressure_gauge_open(struct pressure_gauge *gauge, struct failure *failure);
/* Of a gauge of zeros or one whose opening failed too. */
void pressure_gauge_close(struct pressure_gauge *gauge);

/* One thread. now_ns: CLOCK_MONOTONIC, which is the same for all processes. Disks first, then the time. */
void pressure_publish(struct pressure_page *page, uint32_t disk, uint32_t level, uint64_t turn_ns);
/* mends: the mender has work. */
void pressure_publish_time(struct pressure_page *page, bool mends, uint64_t now_ns);

/* The position of the oldest segment that is still on the disks, for who has a long list of segments to read; 0: not known. One thread. */
void pressure_publish_oldest(struct pressure_page *page, uint64_t position);
uint64_t pressure_oldest(const struct pressure_page *page);
uint32_t pressure_readers(const struct pressure_page *page);

/* A seat for a reader, which counts as one that reads; PRESSURE_SEATS where all are taken: such readers share a turn. Any thread. */
uint32_t pressure_seat_take(struct pressure_gauge *gauge);
void pressure_seat_give(struct pressure_gauge *gauge, uint32_t seat);
/* Whether who sits there reads: who does not has no turn of its own. */
void pressure_seat_reads(struct pressure_gauge *gauge, uint32_t seat, bool reads);

/* The reader's view, read-only; `fd` stays the caller's. ERR_PROTOCOL: not a sealed gauge. */
int pressure_gauge_map(int fd, const struct pressure_page **page);
void pressure_gauge_unmap(const struct pressure_page **page);

/* Of a disk (below RING_DISKS_MAX), from a seat (PRESSURE_SEATS: none); zeros where the gauge is stale. Any thread. */
struct pressure_view pressure_read(const struct pressure_page *page, uint32_t seat, uint32_t disk, uint64_t now_ns);
/* The mender's: without level and turn_ns, which it knows. */
struct pressure_view pressure_read_turn_of_mender(const struct pressure_page *page);

/* The highest level of all disks, for looking at. */
uint32_t pressure_most(const struct pressure_page *page);

/* ---- a reader, put together ----------------------------------------------------------------------- */

struct pressure_reader {
    const struct pressure_page *page; /* null: nothing is recorded that reading might disturb */
    uint64_t (*now_ns)(void *context); /* of the clock that the gauge is published with */
    void (*sleep_ns)(void *context, uint64_t ns);
    void *context;
    uint32_t seat;
    uint64_t until_ns; /* from then on it is held back no more; 0: for ever */
    struct pressure_pace pace[RING_DISKS_MAX];
    uint64_t held_back_ns; /* slept so far */
};

/*
 * Whether the disk (the gauge's number, below RING_DISKS_MAX) may be asked for a piece now; noted as asked for if so. ahead: pieces that it has been
 * asked for already. `wait`: sleeps until it may, and is then true. One thread.
 */
bool pressure_may_read(struct pressure_reader *reader, uint32_t disk, uint32_t ahead, bool wait);

#endif
