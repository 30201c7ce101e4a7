/*
 * source.h - where packets come from: capture files, libpcap, AF_PACKET, the generator.
 *
 * A source hands out batches of views into memory that it owns and gets them back by release, in the
 * same order. One thread, the capture thread, calls everything here except source_wake().
 *
 *     while ((result = source_next(source, &batch, timeout_ms)) >= 0) { ... source_release(source, &batch); }
 */
#ifndef CAPTURE_SOURCE_H
#define CAPTURE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "packet.h"

#define SOURCE_BATCH_MAX 256
#define SOURCE_INTERFACES_MAX 65535

struct source_batch {
    struct packet packet[SOURCE_BATCH_MAX];
    uint32_t count;
    uint64_t body[2]; /* the source's */
};

/* Cumulative since open, for one interface of the source. For a live source: seen = handed out + dropped_kernel. */
struct source_counters {
    uint64_t seen;           /* handed out in batches, plus dropped */
    uint64_t dropped_kernel; /* by kernel or adapter */
    uint64_t oversized;      /* handed out, longer than the interface's MTU: merged by GRO or LRO */
    uint64_t time_cut;       /* handed out, time finer than a nanosecond was cut to it */
};

struct source;

struct source_ops {
    const char *name; /* "pcap file", "AF_PACKET", ... */
    /* Up to SOURCE_BATCH_MAX views. 1: batch filled; 0: timeout or woken; ERR_END: no more (a file); other negative: failed. */
    int (*next)(struct source *source, struct source_batch *batch, int timeout_ms);
    void (*release)(struct source *source, struct source_batch *batch);
    /* Interfaces known so far; a capture file may grow more between batches, never fewer. */
    uint32_t (*interfaces)(const struct source *source);
    const struct interface_description *(*interface)(const struct source *source, uint32_t number);
    void (*counters)(struct source *source, uint32_t number, struct source_counters *counters);
    void (*close)(struct source *source);
};

struct source {
    const struct source_ops *ops;
    struct failure failure; /* why next() returned a negative code: a sentence with name and offset */
    bool waits;             /* a file: may be kept waiting without loss */
    uint64_t bytes_total;   /* of a file, 0 where unknown (a pipe); for progress */
    uint64_t bytes_done;
    int wake_fd;            /* eventfd(2) that source_wake() writes to, -1 for a source that never blocks long */
};

static inline int source_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    return source->ops->next(source, batch, timeout_ms);
}

static inline void source_release(struct source *source, struct source_batch *batch)
{
    source->ops->release(source, batch);
}

/* Makes a blocked source_next() return 0 at once. Any thread; async-signal-safe. */
void source_wake(struct source *source);

/* Closes and nulls. */
void source_close(struct source **source);

/*
 * A capture file from a descriptor, which the source owns from now on, also when this fails: classic pcap (micro-
 * and nanoseconds, both byte orders, Kuznetzov's variant refused by name) and pcapng (sections of both orders,
 * several interfaces, any if_tsresol and if_tsoffset, simple and obsolete packet blocks). `name` (the file's base
 * name, or "-") names interfaces that have no name of their own.
 * Refused: ERR_INVALID (not a capture file), ERR_UNSUPPORTED, ERR_CORRUPT; the sentence gives name, offset and reason.
 * Damage in mid-file: the packets before it are handed out, then next() fails with ERR_CORRUPT.
 */
int source_file_open(int fd, const char *name, struct source **source, struct failure *failure);

struct source_live_options {
    const char *const *interface; /* names */
    uint32_t interface_count;
    uint32_t snapshot_bytes;      /* 0: everything (262,144) */
    uint32_t buffer_bytes;        /* kernel buffer for each interface, 0: 32 MiB */
    bool promiscuous;
    bool outgoing;                /* also packets that this machine sends (AF_PACKET only) */
};

/* Live capture by libpcap, one handle an interface, nanosecond times where the handle has them. */
int source_pcap_open(const struct source_live_options *options, struct source **source, struct failure *failure);

/* Live capture by AF_PACKET, TPACKET_V3: mapped blocks, no copy; the outer VLAN tag is put back in place. */
int source_packet_open(const struct source_live_options *options, struct source **source, struct failure *failure);

struct source_generator_options {
    uint64_t seed;
    uint64_t packets;      /* to make, 0: no end */
    uint32_t flows;        /* at once, default 200,000 */
    uint32_t hosts;        /* default 20,000, Zipf-distributed */
    uint32_t frame_bytes;  /* 0: IMIX 60/566/1514 in 7:4:1; else this length for all */
    int64_t start_ns;      /* time of the first packet */
    uint64_t step_ns;      /* mean distance in time of two packets; 0: the wall clock, one reading a batch */
};

/* Repeatable traffic made in memory, fast enough to saturate a disk. Same options, same packets. */
int source_generator_open(const struct source_generator_options *options, struct source **source,
                          struct failure *failure);

#endif
