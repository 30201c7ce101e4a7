/*
 * rounds.h - a thread that makes its rounds: something is done now and then until the recorder ends.
 *
 *     rounds_open() -> { rounds_hurry() } -> rounds_close()
 */
#ifndef CAPTURE_ROUNDS_H
#define CAPTURE_ROUNDS_H

#include "errors.h"

struct rounds;

/*
 * Starts a thread of this name (15 characters are seen by ps(1)) that calls `make` after every period_ms (above 0, of
 * CLOCK_MONOTONIC, counted from the end of the last call), never twice at once. ERR_NO_MEMORY, or what
 * pthread_create(3) says.
 */
int rounds_open(const char *name, int period_ms, void (*make)(void *context), void *context, struct rounds **rounds,
                struct failure *failure);

/* The next round begins at once, or, where one is being made, right behind it. Any thread. */
void rounds_hurry(struct rounds *rounds);

/* Waits for the round that is being made, if there is one. Of null too. */
void rounds_close(struct rounds **rounds);

#endif
