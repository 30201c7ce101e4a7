/*
 * disk_rows.h - the disks of rings as state.db knows them: who they are whatever they are called, how a
 * person names one, and where one is now.
 *
 * A row has a disk's path and state. What is known of its hardware is a note beside it (a setting of the
 * ring whose name begins with ".disk."): by it a device that was sdb and is sdc now is found again. A file is
 * looked for at its path only.
 *
 * Threads: any, but whoever changes rows of a ring that is up holds its members_lock. Calls may wait for disks.
 */
#ifndef CAPTURE_DISK_ROWS_H
#define CAPTURE_DISK_ROWS_H

#include "device.h"
#include "recorder.h"
#include "superblock.h"

struct disk_note {
    bool is_file;
    char device[DEVICE_IDENTITY_SIZE];  /* as in struct device */
    char stable_path[DEVICE_PATH_SIZE];
    char enclosure[64], enclosure_slot[64];
    int64_t last_seen_ns; /* wall clock; 0: never */
    uint64_t generation;  /* of its superblock then; 0: not known */
};

/* Zeros where there is none. 0 or an error of state.db's. */
int disk_note_get(struct recorder *recorder, const struct state_disk *row, struct disk_note *note);

/*
 * Looks at what is at the row's path and writes it down, with the time. `generation` 0 keeps the old one. Failures are of no
 * consequence but that less is known.
 */
void disk_note_take(struct recorder *recorder, const struct state_disk *row, uint64_t generation);
void disk_note_forget(struct recorder *recorder, const struct state_disk *row);

/*
 * The disk that a person means: by number, by path (as given, by-id, or through links), or by the first digits (4 at
 * least) of its identity. ring null: of all rings. ERR_NOT_FOUND; ERR_INVALID: several could be meant.
 */
int disk_row_find(struct recorder *recorder, const struct identity *ring, const char *word,
                  struct state_disk *row, struct failure *failure);

/* Writes one row, all of it. The sentence names the disk. */
int disk_row_put(struct recorder *recorder, const struct state_disk *row, struct failure *failure);

/*
 * Opens and locks the row's disk where it is now; row->path follows it. *superblock is what it says. ERR_BUSY may pass. ERR_MISMATCH:
 * something of another ring, or another disk, is in its place, and it is nowhere else; ERR_NOT_FOUND and others of
 * disk_uring_open().
 */
int disk_row_open(struct recorder *recorder, struct state_disk *row, struct superblock *superblock,
                  struct disk **disk, struct failure *failure);

/* Reads the superblock of whatever is at `path`, without a lock. As superblock_read(). */
int disk_peek(const char *path, struct superblock *superblock, struct failure *failure);

/*
 * Whether the disk, of which this superblock was read, had another life since the ring let go of it: written by another recorder,
 * or an older copy of itself. 0, or ERR_MISMATCH with the sentence.
 */
int disk_note_check(const struct disk_note *note, const char *path,
                    const struct superblock *superblock, struct failure *failure);

#endif
