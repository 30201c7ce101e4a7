/*
 * classifier_queue.h - the memory that the recorder shares with one tapeloop-classify.
 *
 * One memfd, sealed against growing and shrinking, mapped whole by both: a head and a pair of
 * queues for each capture thread (port). Both sides are of one build, so structs travel as they
 * are.
 *
 *   recorder: lends            `lent` ---> classifier_lent[]    ---> `taken`   process
 *   recorder: `heard` <--- classifier_said[] <--- `said`                         process: judges
 *
 * Positions count up for ever and are taken modulo the queue's length; the one who writes a
 * position stores it with release after the slot's content, the other loads it with acquire. A full
 * queue is left alone: the recorder skips the packet, the process waits with that port.
 *
 *  port's words          | who writes | meaning
 *  ----------------------+------------+-------------------------------------------------------------
 *  wanted == 0           | recorder   | no capture thread
 *  wanted == N           | recorder   | queues are empty at position 0, for the process that is N
 *  served == N           | process    | it reads and writes these queues
 *  served == 0           | process    | it has seen that it is not wanted, and will touch nothing
 *
 * A new capture thread may have the queues when `served` is 0 or the process that served has died.
 * The process is told its number N, which is never used again, in the head.
 *
 * The recorder believes nothing that it reads here. It keeps its own positions to itself, and what
 * the process could not have written honestly is a reason to kill it (classifier.c).
 */
#ifndef CAPTURE_CLASSIFIER_QUEUE_H
#define CAPTURE_CLASSIFIER_QUEUE_H

#include <stdatomic.h>
#include <stdint.h>

#include "classifier.h"

#define CLASSIFIER_MEMORY \
    3 /* the process's descriptor of the memory, the only one besides 0 to 2 */

#define CLASSIFIER_LENT_SLOTS 2048 /* powers of two */
#define CLASSIFIER_SAID_SLOTS 4096
#define CLASSIFIER_HEAD_BYTES 2024 /* of each packet, from its innermost IP header on */
#define CLASSIFIER_NAME_BYTES 32
#define CLASSIFIER_SIGN_MS 50 /* an idle process shows that it is alive so often */

enum classifier_lent_flag {
    CLASSIFIER_LAST = 1,   /* no more of this flow will come: judge it */
    CLASSIFIER_SETTLE = 2, /* not a packet: give up all flows of this port, then say so */
};

struct classifier_lent {
    uint64_t flow;   /* a hash, not 0 */
    uint32_t serial; /* tells a flow from one before it that had the same addresses and ports */
    uint16_t bytes;
    uint16_t flags;
    int64_t time_ns;
    uint8_t byte[CLASSIFIER_HEAD_BYTES];
};
_Static_assert(sizeof(struct classifier_lent) == 2048, "no padding");

enum classifier_said_flag {
    CLASSIFIER_FINAL = 1, /* no more packets of this flow are wanted */
};

struct classifier_said {
    uint64_t flow; /* 0: CLASSIFIER_SETTLE with that serial is done */
    uint32_t serial;
    uint16_t app[2]; /* as in struct rule_verdict */
    uint16_t flags;
    uint16_t spare[3];
};
_Static_assert(sizeof(struct classifier_said) == 24, "no padding");

#define CLASSIFIER_LINE _Alignas(64)

struct classifier_queues {
    CLASSIFIER_LINE _Atomic uint32_t wanted; /* recorder */
    _Atomic uint64_t lent;
    _Atomic uint64_t heard;
    CLASSIFIER_LINE _Atomic uint32_t served; /* process */
    _Atomic uint64_t taken;
    _Atomic uint64_t said;
    CLASSIFIER_LINE struct classifier_said verdict[CLASSIFIER_SAID_SLOTS];
    struct classifier_lent packet[CLASSIFIER_LENT_SLOTS];
};

struct classifier_shared {
    /* Written by the recorder before the process is started. */
    uint32_t number;   /* of the process, from 1 */
    uint32_t recorder; /* process id */

    /* Written by the process before it says that it is ready. */
    CLASSIFIER_LINE char failure[512]; /* why it ends, if it cannot begin */
    uint32_t names;
    char name[CLASSIFIER_NAMES_MAX][CLASSIFIER_NAME_BYTES];
    CLASSIFIER_LINE _Atomic uint32_t ready; /* its number */
    _Atomic uint32_t signs; /* of life: counts up, at least every CLASSIFIER_SIGN_MS */

    /* Sleeping is said before the queues are looked at for the last time, and asked after they were
     * filled, on either side by a read-modify-write: whichever comes second sees what the other did
     * before, so nobody sleeps on work. */
    CLASSIFIER_LINE _Atomic uint32_t sleeping; /* process; the recorder takes it back as it rings */
    _Atomic uint32_t bell;                     /* recorder; a futex */

    CLASSIFIER_LINE struct classifier_queues port[CLASSIFIER_PORTS_MAX];
};

#endif
