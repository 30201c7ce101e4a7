/*
 * run_care.h - looks after the runs of keys (storage/key_run.h) of the rings that are up: has them made, drops them, and hands them out.
 *
 * They lie in STATE/runs, named RING-FROM-TO-SEGMENTS.run: the ring's identity, and from which position to which it is about, in hexadecimal. What
 * there is stands in the names alone. A run is made by a reading process, off the packet path, when RUN_SEGMENTS_FIRST sealed segments are in none;
 * when small ones have come to RUN_SEGMENTS together, one run takes their place. One goes when all that it is about is overwritten; one that is missing is
 * made again. All of them can be deleted at any time.
 *
 * Threads: one that cares; run_care_each() and run_care_doubt() any.
 */
#ifndef CAPTURE_RUN_CARE_H
#define CAPTURE_RUN_CARE_H

#include <stdint.h>

#include "recorder.h"

#define RUN_SEGMENTS_FIRST 16u
#define RUN_SEGMENTS 256u

struct run_care;

int run_care_open(struct recorder *recorder, struct run_care **care, struct failure *failure);
/* Before the rings are closed. A null *slot is allowed. */
void run_care_close(struct run_care **slot);

/*
 * Opens each run of the ring that is about a position from `from` to `to`, and calls `each` with it; the descriptor is closed afterwards. A value other than 0
 * ends that and is returned. Runs that cannot be opened are passed by.
 */
int run_care_each(struct run_care *care, const struct identity *ring, uint64_t from, uint64_t to, int (*each)(int fd, void *context),
                  void *context);

/* Deletes all runs of a ring that nobody uses as a job: they name what must be nowhere any more. New ones are made. */
void run_care_drop(struct run_care *care, const struct identity *ring);

/* A reader could not use one of them: all are read, and what is damaged is dropped and made again. */
void run_care_doubt(struct run_care *care);

#endif
