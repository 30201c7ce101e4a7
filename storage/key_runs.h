/*
 * key_runs.h - what all runs of keys together say of a job's segments.
 *
 *     key_runs_ask() ... -> { key_runs_exclude() ... } -> key_runs_close()
 *
 * Each run is opened, asked and closed at once, so that a job needs no more than one descriptor for them, and memory only for what is excluded. A run
 * that is damaged, or of another ring, is counted, and says nothing. Bytes are hostile. Threads: one.
 */
#ifndef STORAGE_KEY_RUNS_H
#define STORAGE_KEY_RUNS_H

#include <stdbool.h>
#include <stdint.h>

#include "identity.h"
#include "narrowing.h"

struct excluded_segment;

struct key_runs { /* all zeros at first */
    struct excluded_segment *slot; /* hash table, linear probing */
    uint32_t room, count;          /* slots, a power of two or 0; segments that are excluded */
    uint32_t asked, bad;           /* runs; of those, of no use */
    uint64_t bytes_read;
};

/* Asks a run, whose descriptor is closed in any case. 0 also where it is of no use; ERR_NO_MEMORY. */
int key_runs_ask(struct key_runs *runs, int fd, const struct identity *ring, const struct narrowing *tree);

/* Whether a run says that nothing in this revision of the segment can match. */
bool key_runs_exclude(const struct key_runs *runs, const struct identity *segment, uint32_t revision);

void key_runs_close(struct key_runs *runs);

#endif
