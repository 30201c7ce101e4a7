/*
 * key_run.h - which of a few hundred segments hold a key: one immutable file, beside the catalog.
 *
 *     key_run_begin() -> { key_run_add_segment() } ... -> key_run_write() or key_run_publish() -> key_run_end()
 *     key_run_create() -> (somebody writes) -> key_run_settle()
 *     key_run_open() -> { key_run_narrow() } ... -> key_run_close()
 *
 * A run is written once, from the segments' own indexes, and appears under its name complete and on
 * stable storage, or not at all. It is dropped as a whole when its segments are overwritten; runs
 * are never merged. It is derived: one that is damaged, missing, or of other segments costs time
 * (all of its segments are looked at) and is made anew from them. So nothing in it is believed
 * beyond "not in this segment", and that only after its checksum was right.
 *
 * Narrowing reads some pages of 4 KiB for each primitive of the filter, whatever the run holds.
 * Bytes are hostile. Threads: one for each object; files may be read by many.
 */
#ifndef STORAGE_KEY_RUN_H
#define STORAGE_KEY_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_index_reader.h"
#include "identity.h"
#include "narrowing.h"

#define KEY_RUN_SEGMENTS_MAX NARROWING_SEGMENTS_MAX

struct key_run_segment {
    struct identity segment;
    uint64_t position;
    uint32_t revision; /* another one than the catalog's: the run knows nothing of the segment */
};

/* ---- making ------------------------------------------------------------------------------------ */

struct key_run_maker;

/* For up to `segments` segments. Memory: as many keys as there are, up to a bound beyond which
 * kinds of keys are left out that have the most. ERR_NO_MEMORY. */
int key_run_begin(const struct identity *ring, uint32_t segments, struct key_run_maker **maker);
void key_run_end(struct key_run_maker **maker); /* null is allowed */

/*
 * Adds a segment and the keys of its flows. `index` null, or `whole` false (blocks of it are not
 * indexed): the run will not exclude this segment. An error of the index does the same and is no
 * error here. ERR_NO_SPACE, ERR_NO_MEMORY.
 */
int key_run_add_segment(struct key_run_maker *maker, const struct key_run_segment *segment,
                        struct flow_reader *index, bool whole);

/* Writes the run into an empty file. ERR_IO, ERR_NO_SPACE: it holds nothing of use. *bytes (may be null): how long it is. */
int key_run_write(struct key_run_maker *maker, int fd, uint64_t *bytes);

/* A file that key_run_settle() gives the name to when somebody, perhaps another process, has written a run into it. ERR_IO, ERR_NO_SPACE. */
int key_run_create(int directory, const char *name, int *fd);
/* Closes it. `code` 0: the run is written, and gets its name, on stable storage; else it is removed. 0, `code`, or ERR_IO: nothing is there under that name. */
int key_run_settle(int directory, const char *name, int fd, int code);
/* Removes from a directory what was created and never settled. */
void key_run_tidy(int directory);

/* Writes the run into a directory: a new file, synced, then renamed, the directory synced. ERR_IO,
 * ERR_NO_SPACE: nothing is there under that name. *bytes (may be null): how long it is. */
int key_run_publish(struct key_run_maker *maker, int directory, const char *name, uint64_t *bytes);

/* ---- asking ------------------------------------------------------------------------------------ */

struct key_run;

/* Opens a run of this ring. ERR_NOT_FOUND, ERR_FOREIGN (of another ring), ERR_CORRUPT, ERR_IO. */
int key_run_open(int directory, const char *name, const struct identity *ring,
                 struct key_run **run);
/* The same of a descriptor, which is the run's from now on, also when this fails. */
int key_run_open_fd(int fd, const struct identity *ring, struct key_run **run);
void key_run_close(struct key_run **run); /* null is allowed */

uint32_t key_run_segments(const struct key_run *run);
const struct key_run_segment *key_run_segment(const struct key_run *run, uint32_t number);

/* Bytes read so far: for --explain. */
uint64_t key_run_bytes_read(const struct key_run *run);

/* Reads all of it. 0, ERR_CORRUPT, ERR_IO, ERR_NO_MEMORY. */
int key_run_check(struct key_run *run);

/* Segments in which something may match: bit n is segment n. ERR_CORRUPT, ERR_IO: all of them may. */
int key_run_narrow(struct key_run *run, const struct narrowing *tree, struct segment_set *set);

#endif
