/*
 * verifier.h - reads every frame, index and seal of every place and checks that they agree.
 *
 * Threads: one.
 */
#ifndef STORAGE_VERIFIER_H
#define STORAGE_VERIFIER_H

#include <stdint.h>

#include "segment_reader.h"
#include "worker.h"

/*
 * Verifies one segment at each of its places. `shared` was opened with `everything` set. What does
 * not pass is told by shared->judge and counted in shared->frames_bad; that is no error. `tick` is
 * called for every frame, a negative code of it ends the work. Returns 0 or a negative code.
 */
int verifier_check(struct segment_readers *shared, const struct worker_segment *segment,
                   int (*tick)(void *context), void *context);

#endif
