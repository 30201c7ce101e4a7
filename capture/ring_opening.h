/*
 * ring_opening.h - from rows in state.db to a ring that is up, and back.
 */
#ifndef CAPTURE_RING_OPENING_H
#define CAPTURE_RING_OPENING_H

#include "ring_registry.h"

/* The ring's settings as state.db has them, whether in force or not. What no version of ours would
 * have written is skipped. */
int ring_stored_settings(const struct ring_entry *entry, struct settings *settings,
                         struct failure *failure);

/*
 * Opens the ring's disks as state.db knows them, waits for busy ones as long as the setting
 * disk_wait says, brings the ring up. A disk that cannot be opened, or does not answer, is left out, with an event;
 * where none can, the failure is the first one's. Without any it says ring_entry_say_empty() and sets entry->empty. A device that
 * has moved is found by what it is. The entry is STARTING or CHANGING and the
 * caller's. *entry->cancel ends it early (ERR_INTERRUPTED).
 */
int ring_entry_open(struct ring_entry *entry, struct failure *failure);

/* The sentence of a ring that has no disk. */
void ring_entry_say_empty(const struct ring_entry *entry, struct failure *failure);

/* The generation of the superblock of a disk of the ring, which is up; 0 where it has no such disk. */
uint64_t ring_entry_generation(const struct ring_entry *entry, const struct identity *disk);

/* The same with disks that are open already; they are consumed in every case. */
int ring_entry_open_disks(struct ring_entry *entry, struct disk **disk, uint32_t disks,
                          struct recovery_report *report, struct failure *failure);

void ring_entry_close(struct ring_entry *entry);

/* "what was found" as one sentence for an event; empty where there is nothing to say. */
#define REPORT_TEXT_SIZE 320
const char *recovery_report_text(const struct recovery_report *report, char text[REPORT_TEXT_SIZE]);

/* Overwrites the four superblocks of an open disk whose geometry is set with zeros. */
int disk_wipe_superblocks(struct disk *disk, struct failure *failure);

#endif
