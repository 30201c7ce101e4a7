/*
 * disk_care.h - looks after the disks of the rings that are up: who has failed or gone is taken out and
 * told, who has returned is taken in again.
 *
 * One thread, which looks at each ring every CARE_PERIOD_MS. It takes a ring's members_lock for that.
 *
 * A disk that is MISSING or FOREIGN is looked for; one that is FAILED waits for a person, unless its device is gone, and then it
 * is MISSING; one that is REMOVED is left alone. state.db has the states, and so have the superblocks of those that are there.
 */
#ifndef CAPTURE_DISK_CARE_H
#define CAPTURE_DISK_CARE_H

#include "recorder.h"

struct disk_care;

int disk_care_open(struct recorder *recorder, struct disk_care **care, struct failure *failure);
/* Before the rings are closed. A null *slot is allowed. */
void disk_care_close(struct disk_care **slot);

/* ---- what the verbs share with it: under members_lock; the ring is up ------------------------------ */

/* Writes down what is known of each disk that is there. */
void disk_care_note(struct ring_entry *entry);

/*
 * The ring lets go of a disk that it may or may not have. REMOVED: what is under way there ends first; MISSING: at once. ERR_BUSY:
 * it is the only one. ERR_TIMEOUT: it has left, but stays locked until it answers. The row is not written.
 */
int disk_care_take_out(struct ring_entry *entry, const struct state_disk *row, enum disk_state state,
                       struct failure *failure);

/*
 * Opens the row's disk, checks that it is of this ring and had no other life meanwhile (unless `force`), and makes it part of the ring
 * again; the row follows and is written. ERR_EXISTS: it is part of it, and well.
 */
int disk_care_take_in(struct ring_entry *entry, struct state_disk *row, bool force,
                      struct recovery_report *report, struct failure *failure);

#endif
