/*
 * purging.h - packets are erased from a ring (the method `purge`), also while it is recorded into; what was begun and not ended is known at the next start.
 */
#ifndef CAPTURE_PURGING_H
#define CAPTURE_PURGING_H

#include <stdbool.h>

struct ring_entry;

/* The ring has just come up: says so where a purge of it was interrupted. */
void purging_say_interrupted(struct ring_entry *entry);

/* Whether a setting of a ring is one that counts from the next purge on. */
bool purging_has_setting(const char *name);

#endif
