/*
 * verdict_care.h - looks after what is written down of verdicts (storage/verdict_log.h): has it written, hands it out, and deletes what is left of rings that
 * are no more. It lies in STATE/verdicts.
 *
 *     verdict_care_open() -> rings come up, with verdict_care_directory() -> verdict_care_start() -> ... -> verdict_care_stop() -> rings close -> verdict_care_close()
 *
 * Threads: one that makes its rounds, from start to stop; the rest any.
 */
#ifndef CAPTURE_VERDICT_CARE_H
#define CAPTURE_VERDICT_CARE_H

#include "recorder.h"

struct verdict_care;

int verdict_care_open(struct recorder *recorder, struct verdict_care **care, struct failure *failure);
int verdict_care_start(struct verdict_care *care, struct failure *failure);
/* Of null too, and where it has not been started. */
void verdict_care_stop(struct verdict_care *care);
void verdict_care_close(struct verdict_care **care);

/* For ring_options. */
int verdict_care_directory(const struct verdict_care *care);

/* Calls `each` with all that is written down of a ring's verdicts by now, the oldest first; the descriptor is closed afterwards. A value other than 0 ends that, and is returned. */
int verdict_care_each(struct verdict_care *care, struct ring *ring, int (*each)(int fd, void *context), void *context);

#endif
