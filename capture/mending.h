/*
 * mending.h - a ring's mender as the recorder sees it: its settings, where its scrub stood, how it
 * is shown.
 *
 * Where a scrub stands is kept in state.db, with the ring's settings, twice a minute: after a
 * restart it goes on from there.
 */
#ifndef CAPTURE_MENDING_H
#define CAPTURE_MENDING_H

#include <jansson.h>
#include <stdint.h>

#include "mender.h"

struct recorder;
struct settings;
struct ring_entry;

/* From the settings in force, and from what state.db says of the last scrub. */
struct mender_options mending_options(struct ring_entry *entry);

/* Whether a setting is the mender's: then it is in force at once, whoever uses the ring. */
bool mending_has_setting(const char *name);
void mending_set(struct ring_entry *entry, const struct settings *settings);

/* Once a second, `second` of the wall clock: keeps where each ring's scrub stands. */
void mending_watch(struct recorder *recorder, int64_t second);

/* "mending" in a ring's status. */
json_t *json_mending(const struct mender_state *state);

#endif
