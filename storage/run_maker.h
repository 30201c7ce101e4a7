/*
 * run_maker.h - makes a run of keys from the key indexes of segments: a job of a reading process.
 *
 * A segment without a key index that can be read, or with blocks that are not indexed, is in the run all the same, as one that nothing is
 * known of. Threads: that of the segment readers.
 */
#ifndef STORAGE_RUN_MAKER_H
#define STORAGE_RUN_MAKER_H

#include "segment_reader.h"

/*
 * Writes a run of `count` segments, at most KEY_RUN_SEGMENTS_MAX, into the empty file `fd`, which stays the caller's. `tick` is called between segments, a value
 * other than 0 ends the making and is returned. ERR_INVALID (too many, or none), ERR_NO_MEMORY, ERR_IO, ERR_NO_SPACE, or a code of shared->judge.
 */
int run_maker_write(struct segment_readers *shared, const struct worker_segment *segment, uint32_t count, int fd, int (*tick)(void *context),
                    void *context);

#endif
