/*
 * history.h - once a second: what has changed in every account, for state.db and for rates; and
 * what only somebody who looks regularly sees: drops that begin and end, recordings that ended by
 * themselves, a catalog that lacks something.
 */
#ifndef CAPTURE_HISTORY_H
#define CAPTURE_HISTORY_H

#include "recorder.h"

struct history;

/* Starts the thread. The recorder's registry, state and events are there. */
int history_open(struct recorder *recorder, struct history **result, struct failure *failure);

/* Writes the last rows and ends the thread; rings must still be open. A null *slot is allowed.
 */
void history_close(struct history **slot);

#endif
