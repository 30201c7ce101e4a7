/*
 * pipeline.h - the way of the packets from a source into the store, on one capture thread.
 *
 *     pipeline_open() -> pipeline_run(), once for each source -> pipeline_finish() ->
 * pipeline_close()
 *
 * All of that is one thread's, the capture thread's, and one stream's. Other threads may call what
 * is marked so.
 */
#ifndef CAPTURE_PIPELINE_H
#define CAPTURE_PIPELINE_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "duplicate.h"
#include "errors.h"
#include "ring.h"
#include "ring_rules.h"
#include "source.h"

struct pipeline;

struct pipeline_options {
    struct ring *ring; /* open until the pipeline is closed */
    /* A live source has lost an interface and goes on with the others: why. May be null. On the
     * capture thread. */
    void (*interface_ended)(void *context, const char *sentence);
    void *context;
    uint64_t packets_per_s; /* slows a source that waits down to this rate; 0: as fast as it goes */
    struct ring_rules *rules; /* what is kept of each packet; null: all. Open as long as `ring` */
    struct verdicts *verdicts; /* layer 7 looks at what comes, whatever the rules ask for, and writes what it finds there; null: not. Only with
                                  `rules`. Open as long as `ring` */
    const struct duplicate_options *duplicates; /* packets just seen are left out; null: they stay.
                                                   Copied */
};

/* Opens a stream in the ring. ERR_NO_MEMORY, ERR_TOO_LARGE (too many streams), ERR_INVALID (options
 * of duplicates). */
int pipeline_open(const struct pipeline_options *options, struct pipeline **result,
                  struct failure *failure);

/*
 * Takes packets from the source until it ends, and stores them. The source stays the caller's. 0:
 * the source has ended; ERR_INTERRUPTED: pipeline_stop(); ERR_IO with a sentence: no disk is left
 * (only for a source that waits: a live one goes on and counts); else what ended the source, with
 * its sentence. What was taken stays in every case.
 */
int pipeline_run(struct pipeline *pipeline, struct source *source, struct failure *failure);

/* Whether the present or last run met a ring without a disk to write to. The capture thread's. */
bool pipeline_no_disk(const struct pipeline *pipeline);

/* Seals what was taken and waits until it is durable, or known to be lost: then ERR_IO. No more
 * runs afterwards. */
int pipeline_finish(struct pipeline *pipeline, struct failure *failure);

/* Closes the stream, frees, nulls; finishes first where that has not been done. A null *slot is
 * allowed. */
void pipeline_close(struct pipeline **slot);

/* ---- any thread, while the pipeline is open
 * ------------------------------------------------------ */

/* Makes the present and every later run end soon. */
void pipeline_stop(struct pipeline *pipeline);

/* Number of the pipeline's stream in its ring. */
uint32_t pipeline_stream(const struct pipeline *pipeline);

/* The accounts of all interfaces, read at one instant. `each` must be brief. */
void pipeline_interfaces(struct pipeline *pipeline,
                         void (*each)(const struct stream_interface_state *state, void *context),
                         void *context);

struct pipeline_progress {
    uint64_t packets;    /* taken in all runs */
    uint64_t bytes_done; /* of the present source, as it counts them */
    uint64_t oversized;  /* packets longer than their interface's MTU, in all runs */
    uint64_t time_cut;   /* packets whose time was cut to nanoseconds, in all runs */
    uint64_t batches;    /* handed over by sources, in all runs */
    uint64_t batch_ns;   /* that all of them took, from being handed over to being given back */
    uint64_t batch_ns_max, batch_ns_min; /* that one took; 0 before the first */
};

void pipeline_progress(struct pipeline *pipeline, struct pipeline_progress *progress);

#endif
