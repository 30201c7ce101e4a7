/*
 * pressure.h - how far behind its disks the recorder is, published by it and heeded by whoever reads (P7).
 *
 *     recorder: pressure_gauge_open() -> { pressure_publish() } -> pressure_gauge_close()
 *     reader:   pressure_gauge_map() -> { pressure_read() -> pressure_wait_ns() } -> pressure_gauge_unmap()
 *
 * I/O priorities mean nothing under the `none` scheduler, so a disk shares itself out among all that ask. What tells that it has become
 * too slow for the recorder is that writes pile up in front of it. The recorder publishes that as a level for each disk in a
 * page of shared memory, which a reading process gets as a descriptor with its job: sealed, so that it can be neither resized
 * nor written by anybody else. A reader looks before each piece that it asks a disk for.
 *
 * The level is in permille of the high mark, PRESSURE_SHARE of the buffers. At the high mark a reader is held back, and until
 * the level has fallen to the low mark: apart, or it would flap. A held-back reader still reads a piece in PRESSURE_PIECE_NS: a gauge stops nobody
 * for ever. A gauge that was not written for PRESSURE_FRESH_NS holds nobody back.
 */
#ifndef STORAGE_PRESSURE_H
#define STORAGE_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "errors.h"

#define PRESSURE_SHARE 8u    /* an eighth of the buffers on their way to one disk is the high mark */
#define PRESSURE_HIGH 1000u
#define PRESSURE_LOW 500u
#define PRESSURE_LOOK_NS 5000000ull    /* a held-back reader looks again after this */
#define PRESSURE_PIECE_NS 500000000ull /* and reads one piece in so long whatever the level */
#define PRESSURE_FRESH_NS 1000000000ull

/* ---- the rule: pure ----------------------------------------------------------------------------- */

/* The level of a disk with so many bytes on their way to it. buffer_bytes: all buffers of the ring, not 0. Saturates. */
uint32_t pressure_level(uint64_t in_flight_bytes, uint64_t buffer_bytes);

/* What a reader remembers of one disk. Begins as zeros. */
struct pressure_pace {
    bool held;
    uint64_t went_ns; /* of the last piece */
};

/* 0: a piece may be asked for now, and it is noted that it is. Otherwise: look again after so many nanoseconds. `now_ns` is monotonic. */
uint64_t pressure_wait_ns(struct pressure_pace *pace, uint32_t level, uint64_t now_ns);

/* ---- the page ----------------------------------------------------------------------------------- */

struct pressure_page;

struct pressure_gauge {
    int fd; /* to be handed out; stays the gauge's */
    struct pressure_page *page;
};

/* ERR_NO_MEMORY, or what errno says. */
int pressure_gauge_open(struct pressure_gauge *gauge, struct failure *failure);
/* Of a gauge of zeros or one whose opening failed too. */
void pressure_gauge_close(struct pressure_gauge *gauge);

/* One thread. now_ns: CLOCK_MONOTONIC, which is the same for all processes. Levels first, then the time. */
void pressure_publish(struct pressure_page *page, uint32_t disk, uint32_t level);
void pressure_publish_time(struct pressure_page *page, uint64_t now_ns);

/* The reader's view, read-only; `fd` stays the caller's. ERR_PROTOCOL: not a sealed gauge. */
int pressure_gauge_map(int fd, const struct pressure_page **page);
void pressure_gauge_unmap(const struct pressure_page **page);

/* The level of a disk (below RING_DISKS_MAX); 0 where the gauge is stale. Any thread. */
uint32_t pressure_read(const struct pressure_page *page, uint32_t disk, uint64_t now_ns);

#endif
