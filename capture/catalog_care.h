/*
 * catalog_care.h - which rings the catalog may lack something of, and making that good.
 *
 * The catalog itself knows only that something is missing (catalog_stale). Which rings that
 * concerns stands in state.db, as a mark with each of them: a marked ring is read whole when it
 * comes up the next time, or when somebody asks for a rebuild.
 *
 * Rings are read whole one after the other, so that what is dropped from the catalog's queue
 * meanwhile is known to be of that ring.
 */
#ifndef CAPTURE_CATALOG_CARE_H
#define CAPTURE_CATALOG_CARE_H

#include <stdbool.h>

#include "errors.h"
#include "identity.h"

struct recorder;
struct ring_entry;

/* Whether the ring is marked. */
int catalog_care_is_marked(struct recorder *recorder, const struct identity *ring, bool *marked);

/* Marks a ring; marks every ring. */
int catalog_care_mark(struct recorder *recorder, const struct identity *ring);
int catalog_care_mark_all(struct recorder *recorder);

/*
 * Around what clears a ring in the catalog and posts it anew: marks it; holds up whoever else wants
 * to do that. After an error there is nothing to end.
 */
int catalog_care_begin(struct recorder *recorder, const struct identity *ring,
                       struct failure *failure);

/* `whole`: all of the ring has been posted. Its mark goes if all of that has arrived. */
void catalog_care_end(struct recorder *recorder, const struct identity *ring, bool whole);

/*
 * Whether the catalog may lack something of a ring, so that what it answers may be short: since something was lost, until the ring has been read whole.
 * Ask after the answer. Any thread.
 */
bool catalog_care_lacks(const struct ring_entry *entry);

/* Removes a ring that is no more from the catalog. */
void catalog_care_forget(struct recorder *recorder, const struct identity *ring);

/* Now and then: marks all rings, and says so once, when the catalog has lost something. */
void catalog_care_watch(struct recorder *recorder);

#endif
