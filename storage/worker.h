/*
 * worker.h - what the recorder and one tapeloop-extract process say to each other.
 *
 * The recorder starts the worker with one end of a SOCK_SEQPACKET pair as descriptor 3 and nothing else. Each message is one
 * `struct worker_message` and `count` elements of the array that its type names, at most WORKER_MESSAGE_BYTES_MAX together;
 * both sides are of one build, so structs travel as they are. The worker trusts nothing of what it reads from
 * disks; the recorder trusts nothing of what a worker says beyond the job it was given.
 *
 *   recorder -> worker                                worker -> recorder
 *   JOB       (1 worker_job; descriptors: output or   PROGRESS (1 worker_progress), at most some a second
 *             none, one for each disk, then the       BAD      (1 worker_bad) and waits for VERDICT
 *             pressure gauge or none, then the
             verdicts or none)
 *   FILTER    (count bytes of text, no zero)          GAP      (1 worker_gap), for each gap in the result
 *   SEGMENTS  (count worker_segment) any number       CAUGHT_UP (none) follow: everything sent so far is written out
 *   RUN       (none; descriptor: a run of keys)
 *             any number, behind FILTER
 *   PLAN_END  (none) the plan is complete             DONE     (1 worker_done), then it exits 0
 *   SEGMENTS again, in a follow job: new segments,
 *             and known ones with more in them or sealed
 *   VERDICT   (1 worker_verdict)
 *   GAP       (1 worker_gap) follow: one that the recorder has found, for the file's comments; it is not answered
 *   FINISH    (none) follow: end when caught up
 *
 * A worker whose output is gone (EPIPE) or whose socket closes ends at once. Killing it is always safe.
 */
#ifndef STORAGE_WORKER_H
#define STORAGE_WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "disk_format.h"
#include "errors.h"
#include "identity.h"

#define WORKER_MESSAGE_BYTES_MAX (60u * 1024)
#define WORKER_SOCKET 3
#define WORKER_MEMORY_USUAL (64u << 20) /* for buffers: what a job has, unless somebody wants it otherwise */
#define WORKER_SECONDS_MAX (10u * 366 * 86400)

enum worker_message_type {
    WORKER_JOB = 1,
    WORKER_FILTER,
    WORKER_SEGMENTS,
    WORKER_PLAN_END,
    WORKER_VERDICT,
    WORKER_FINISH,
    WORKER_RUN,
    WORKER_VERDICT_LOG, /* with a descriptor: a piece of what is written down of verdicts (verdict_log.h), the oldest first; before PLAN_END */
    WORKER_PROGRESS = 64,
    WORKER_BAD,
    WORKER_GAP,
    WORKER_CAUGHT_UP,
    WORKER_DONE,
};

struct worker_message {
    uint32_t type;
    uint32_t count;
};

enum worker_kind {
    WORKER_EXTRACT = 1, /* write packets to the output */
    WORKER_VERIFY = 2,  /* read every frame and seal of every place, write nothing */
    WORKER_RUN_MAKE = 3, /* read the key indexes of the segments, write a run of keys (key_run.h) to the output, an empty file */
    WORKER_NUMBERS = 4,  /* write which packets they are to the output: struct purge_range (purge.h), in no order; output_bytes are theirs as captured */
};

enum worker_format {
    WORKER_PCAPNG = 1,
    WORKER_PCAP_NS = 2,
    WORKER_PCAP_US = 3,
};

struct worker_job {
    uint32_t kind;
    uint32_t format;
    int64_t from_ns;  /* inclusive; INT64_MIN: no bound */
    int64_t to_ns;    /* exclusive; INT64_MAX: no bound */
    uint32_t follow;  /* 1: do not end at PLAN_END, only at FINISH */
    uint32_t disks;
    uint32_t headers_only; /* 1: packets are cut where their headers end, before the filter looks at them */
    uint32_t gauge;   /* 1: the descriptor behind the disks is a pressure gauge (pressure.h) */
    uint32_t seat;    /* the worker's there */
    uint64_t packets_max; /* 0: no limit */
    uint64_t bytes_max;   /* of output, 0: no limit */
    uint64_t seconds_max; /* that it works, waiting included; 0: no limit */
    uint32_t no_index;    /* 1: everything is read, as if there were neither key indexes nor runs */
    uint32_t verdicts;    /* 1: the last descriptor is what layer 7 has found so far (verdicts.h) */
    uint64_t memory_max;  /* for buffers, bytes */
    struct identity ring;
    char ring_name[64];
    char host[64];
    struct { uint64_t slots_offset, slot_bytes, slot_count, disk_bytes; uint32_t number; /* in the gauge */ char name[128]; } disk[RING_DISKS_MAX];
};

struct worker_segment {
    struct identity segment;
    struct identity run;
    uint64_t position;
    uint64_t first_packet;
    uint64_t packets;
    uint64_t purged;     /* of these */
    int64_t head_ns;
    int64_t first_ns;  /* open: INT64_MIN, INT64_MAX: not known */
    int64_t last_ns;
    uint32_t revision;
    uint32_t data_revision;
    uint32_t stream;
    uint32_t state;      /* enum segment_state */
    uint32_t data_end;   /* sealed: end of the data frames; open: end of what is durable and may be read */
    uint32_t index_offset;
    uint32_t index_bytes;
    uint32_t places;
    struct { uint32_t disk, slot; } place[COPIES_MAX]; /* disk: index into the job's disks */
    uint32_t nothing;    /* the worker's own: 1: a run of keys says that nothing in it can match */
    uint32_t whole;      /* the worker's own: 1: neither runs nor its key index are asked */
    uint32_t reserved;
};

struct worker_progress {
    uint64_t segments_done, segments_total;
    uint64_t bytes_read;   /* from disks */
    uint64_t packets_judged;
    uint64_t packets;      /* handed out */
    uint64_t output_bytes;
    int64_t at_ns;         /* time of the last packet judged */
    uint64_t held_back_ns; /* waited because recording needed the disks (P7) */
};

enum worker_bad_reason {
    WORKER_BAD_READ = 1,     /* the disk failed to read it */
    WORKER_BAD_MISSING,      /* no frame where one must be */
    WORKER_BAD_CHECKSUM,     /* header or block */
    WORKER_BAD_IDENTITY,     /* a valid frame of something else: another segment, revision or place */
    WORKER_BAD_RECORDS,      /* packet records contradict the header */
    WORKER_BAD_SILENT,       /* the disk does not answer: nothing is known of what lies there */
};

struct worker_bad { /* one copy of a stretch that did not pass */
    struct identity segment;
    uint32_t place;          /* index into the segment's places */
    uint32_t offset;         /* in the slot */
    uint32_t bytes;
    uint32_t reason;
    struct identity found;   /* BAD_IDENTITY: what lies there */
    uint64_t found_position;
};

enum worker_judgement {
    WORKER_DAMAGED = 1,   /* it is damage: try another copy, or name the gap */
    WORKER_OVERTAKEN,     /* the ring has reused the slot: the rest of the segment is gone, name what is lost as overwritten */
    WORKER_TORN,          /* the end of what a crash left: nothing is missing */
    WORKER_AGAIN,         /* repaired: read it again */
};

struct worker_verdict {
    uint32_t judgement;
};

enum worker_gap_reason {
    WORKER_GAP_DAMAGED = 1,  /* no good copy */
    WORKER_GAP_OVERWRITTEN,  /* overtaken by the ring while reading */
    WORKER_GAP_FILTER,       /* the filter cannot be compiled for a link type */
    WORKER_GAP_DROPPED,      /* the account says that packets of the range were dropped; `packets` says how many */
    WORKER_GAP_LOST,         /* packet numbers of a stream are missing: lost at a crash or with a disk */
    WORKER_GAP_SILENT,       /* no good copy on the disks that answer, and one that has a copy does not */
};

struct worker_gap {
    int64_t from_ns, to_ns; /* between the packets around it */
    uint64_t packets;       /* 0: not known */
    uint32_t reason;
    uint32_t link_type;     /* GAP_FILTER */
    char interface[64];     /* GAP_DROPPED, GAP_FILTER; may be empty */
};

enum worker_limit { WORKER_LIMIT_NONE, WORKER_LIMIT_PACKETS, WORKER_LIMIT_BYTES, WORKER_LIMIT_SECONDS };

struct worker_done {
    int32_t result;         /* 0 or an error code */
    uint32_t limit;         /* enum worker_limit: the one at which it ended, before the end of the range */
    uint32_t gaps;          /* sent as GAP (at most 1,000 are sent, all are counted) */
    struct worker_progress total;
    uint64_t frames_checked;
    uint64_t frames_bad;
    uint64_t runs;              /* of keys, that were asked */
    uint64_t runs_bad;          /* of those, of no use */
    uint64_t run_bytes;         /* read for that */
    uint64_t segments_by_runs;  /* that were not read because of what runs say */
    uint64_t segments_narrowed; /* of which the key index said what need not be read */
    uint64_t segments_excluded; /* of those: nothing in them can match */
    uint64_t index_bytes;       /* of total.bytes_read: where frames lie, and key indexes */
    uint64_t blocks_wanted;     /* of 16 KiB, by the key indexes: that may hold a match */
    uint64_t blocks_read;       /* of data frames */
    uint64_t indexes_bad;       /* key indexes that could not be used: their segments were read whole */
    uint64_t purged;        /* packets of the range that were erased, whether they would have matched or not */
    uint64_t undecided;         /* packets that match or do not by what layer 7 found of their conversation, which is not known: they were not handed out */
    uint64_t times_moved;   /* pcap formats: packets whose time did not fit and was moved to the nearest that does */
    char text[384];         /* the sentence for result != 0 */
    char narrowing[1024];   /* what of the filter key indexes and runs decide, for people; empty: nothing */
};

/* ---- the recorder's side ------------------------------------------------------------------------ */

struct worker {
    pid_t pid;
    int socket;
    bool unread; /* worker_receive() has seen that it went without reading all that it had been sent */
};

/*
 * Starts tapeloop-extract (`path`) with an empty environment and only its socket. ERR_NOT_FOUND: no such program.
 * The caller polls worker->socket, and owns the process until worker_stop().
 */
int worker_start(const char *path, struct worker *worker, struct failure *failure);

/* One message; descriptors stay the caller's. Blocks while the socket is full. ERR_CLOSED: the worker is gone. */
int worker_send(struct worker *worker, enum worker_message_type type, const void *elements, uint32_t element_bytes,
                uint32_t count, const int *descriptors, uint32_t descriptor_count);

/*
 * One message into `buffer` of WORKER_MESSAGE_BYTES_MAX bytes: returns its type (64 and up) with the element at *element and
 * its length checked, or ERR_TIMEOUT, ERR_CLOSED, ERR_PROTOCOL.
 */
int worker_receive(struct worker *worker, uint8_t *buffer, const void **element, int timeout_ms);

/* Kills the process if it still runs, reaps it, closes the socket. Returns its wait status. */
int worker_stop(struct worker *worker);

/* ---- the worker's side -------------------------------------------------------------------------- */

#define WORKER_DESCRIPTORS_MAX (3 + RING_DISKS_MAX)

struct worker_received {
    enum worker_message_type type;
    const void *elements; /* in the caller's buffer */
    uint32_t count;
    uint32_t descriptors; /* the receiver's to close; closed on exec */
    int descriptor[WORKER_DESCRIPTORS_MAX];
};

/*
 * One message of the recorder into `buffer` (WORKER_MESSAGE_BYTES_MAX bytes, aligned for uint64_t), its length checked against
 * its type, its texts terminated. 0, or ERR_TIMEOUT (timeout_ms -1: waits for ever), ERR_CLOSED, ERR_PROTOCOL.
 */
int worker_take(int socket, uint8_t *buffer, struct worker_received *received, int timeout_ms);

/*
 * One message to the recorder without blocking: 0, ERR_AGAIN (the socket is full), ERR_CLOSED. worker_send() is the same
 * with blocking.
 */
int worker_offer(int socket, enum worker_message_type type, const void *element, uint32_t element_bytes);

#endif
