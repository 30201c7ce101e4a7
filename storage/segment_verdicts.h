/*
 * segment_verdicts.h - what was recorded of the conversations of one sealed segment, for who judges its packets by `app`.
 *
 *     segment_verdicts_open() -> { segment_verdicts_get() ... } -> segment_verdicts_close()
 *
 * From the segment's key index. A conversation that is not there, or of which its flows say different things, is not judged. Threads: one.
 */
#ifndef STORAGE_SEGMENT_VERDICTS_H
#define STORAGE_SEGMENT_VERDICTS_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_index_reader.h"

struct segment_verdicts;

/* Which of a filter's `app` words hold for what was recorded of a conversation: filter_app_truth(). */
typedef uint32_t verdict_truth_of(void *context, const char *verdict);

/*
 * Asks `truth_of` about every flow of the index. ERR_NO_MEMORY, also where it would take more than bytes_max;
 * ERR_CORRUPT or of the index's source: nothing is known.
 */
int segment_verdicts_open(struct flow_reader *index, uint64_t seed, verdict_truth_of *truth_of, void *context, uint64_t bytes_max,
                          struct segment_verdicts **verdicts);

uint64_t segment_verdicts_bytes(const struct segment_verdicts *verdicts);

/* Of the conversation with this hash (verdicts_hash()). False: it was not judged. */
bool segment_verdicts_get(const struct segment_verdicts *verdicts, uint64_t hash, uint32_t *truth);

void segment_verdicts_close(struct segment_verdicts **verdicts); /* null is allowed */

#endif
