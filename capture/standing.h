/*
 * standing.h - recordings that stand until somebody stops them: across a crash, a reboot, and an
 * interface that went away.
 *
 * What was started without anybody attached is kept in state.db with its parameters. A recorder
 * that finds it not running starts it again, at once and then ever more rarely. Not in the recorder
 * of one command: that one ends with its command.
 */
#ifndef CAPTURE_STANDING_H
#define CAPTURE_STANDING_H

#include <jansson.h>

#include "errors.h"
#include "recorder.h"
#include "recording.h"

struct standing_list;

int standing_open(struct standing_list **list, struct failure *failure);
void standing_close(struct standing_list **slot);

/* Remembers a recording of a ring by what it was asked for: the parameters of record.start. */
int standing_keep(struct recorder *recorder, const char *ring, const json_t *params,
                  struct failure *failure);

/* Forgets one, by its parameters as sorted compact JSON text. */
int standing_drop(struct recorder *recorder, const char *ring, const char *key);

/* Forgets all of a ring. Returns whether there were any; negative: state.db could not be written.
 */
int standing_forget(struct recorder *recorder, const char *ring, struct failure *failure);

/* Starts what should run and does not. To be called when a ring has come up, and every second or
 * so. Any thread. */
void standing_revive(struct recorder *recorder);

#endif
