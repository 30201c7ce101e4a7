/*
 * extraction.h - one job of tapeloop-extract, from the JOB message to DONE.
 *
 *     extraction_open() -> extraction_run() -> extraction_close()
 *
 * The two steps are apart so that the program can confine itself between them: open receives the
 * job and starts the disks' threads, run takes filter and segments and looks at bytes from disks.
 *
 * Threads: one, beside those of the disks.
 */
#ifndef STORAGE_EXTRACTION_H
#define STORAGE_EXTRACTION_H

#include "errors.h"
#include "flow_keys.h"
#include "packet_headers.h"
#include "packet_levels.h"

struct extraction;

/*
 * Waits for the JOB on `socket`, which stays the caller's, and opens what came with it. levels_of: decodes
 * headers for filters, or null (filter.h). An error has been told to the recorder where that was possible.
 */
int extraction_open(int socket, packet_levels_of *levels_of, struct extraction **out);

/* What decodes headers, for jobs that hand out no more than those; without it they fail. */
void extraction_set_headers(struct extraction *extraction, packet_headers_of *headers_of);

/* What tells conversations apart, for filters that ask for `app`; without it they fail. */
void extraction_set_keys(struct extraction *extraction, flow_keys_of *keys_of);

/* Does the job and sends DONE, with result and sentence. Returns the result; ERR_CLOSED also where
 * the recorder is gone. */
int extraction_run(struct extraction *extraction);

/* Sends DONE for a failure between the two steps. */
void extraction_fail(struct extraction *extraction, const struct failure *failure);

/* Nulls. */
void extraction_close(struct extraction **out);

#endif
