/*
 * verdict_past.h - what is written down of verdicts (verdict_log.h), for who judges packets of which nothing else knows what layer 7 has found.
 *
 *     verdict_past_open() -> verdict_past_piece() ... verdict_past_want() ... -> { verdict_past_ask() ... } -> verdict_past_close()
 *
 * Nothing is read before the first question: most jobs have none. What is read then is what the packets wanted may need, VERDICT_PAST_BYTES_MAX at most; what
 * finds no room is not known. Pieces are taken for hostile. Threads: one.
 */
#ifndef STORAGE_VERDICT_PAST_H
#define STORAGE_VERDICT_PAST_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_keys.h"
#include "identity.h"
#include "verdict_log.h"

#define VERDICT_PAST_BYTES_MAX (64u << 20)
#define VERDICT_PAST_PIECES_MAX 64u

struct verdict_past;

/* Which of a filter's `app` words hold for a name: filter_app_truth(). */
typedef uint32_t verdict_past_truth(void *context, const char *name);

/* `entries_max`: of records in memory, 32 bytes each; 0: as above. ERR_NO_MEMORY. */
int verdict_past_open(const struct identity *ring, verdict_past_truth *truth_of, void *context, uint32_t entries_max, struct verdict_past **past);

void verdict_past_close(struct verdict_past **past); /* null is allowed */

/* A piece, the older ones first; the descriptor is ours. More than VERDICT_PAST_PIECES_MAX are closed, and count as missing. */
void verdict_past_piece(struct verdict_past *past, int fd);

/*
 * Packets from `first` to below `end` of this stream may be asked about; before the first question, what comes later is not known. ERR_NO_MEMORY.
 */
int verdict_past_want(struct verdict_past *past, const struct identity *run, uint32_t stream, uint64_t first, uint64_t end);

/*
 * What was found of the conversation of this packet. False: nothing that holds for it.
 */
bool verdict_past_ask(struct verdict_past *past, const struct identity *run, uint32_t stream, uint64_t number, const struct flow_keys *keys,
                      uint32_t *truth);

/* Bytes read of pieces so far. */
uint64_t verdict_past_bytes_read(const struct verdict_past *past);

#endif
