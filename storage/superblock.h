/*
 * superblock.h - what makes a disk ours: its place in a ring, its geometry, and the ring's members.
 *
 * In the order of use: disk_geometry_plan, superblock_make, superblock_format for a new disk;
 * superblock_read (and superblock_repair, where its condition asks for it) for an old one;
 * superblock_write for every change.
 *
 * A disk has four places for it: a pair at the start and a pair at the start of the last META_BYTES of
 * the part in use. Generation g goes to the first (g even) or second (g odd) place of both pairs, at
 * the start first. So at every instant at least one pair holds a whole superblock, the last that was
 * acknowledged or a newer one, and a bit that flips in any of the four is noticed and mended.
 *
 * Threads: one at a time for a disk. Calls block on the disk's I/O: not inside done().
 */
#ifndef STORAGE_SUPERBLOCK_H
#define STORAGE_SUPERBLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk_format.h"
#include "disk_io.h"
#include "errors.h"

#define SLOTS_MIN 4u /* on one disk */

enum superblock_place {
    SUPERBLOCK_HEAD_FIRST,
    SUPERBLOCK_HEAD_SECOND,
    SUPERBLOCK_TAIL_FIRST,
    SUPERBLOCK_TAIL_SECOND,
    SUPERBLOCK_PLACES
};

enum superblock_finding {
    SUPERBLOCK_GOOD,       /* valid, and of the generation that belongs here */
    SUPERBLOCK_STALE,      /* valid, but a write is missing here */
    SUPERBLOCK_DAMAGED,    /* ours, and checksum or contents are wrong */
    SUPERBLOCK_ABSENT,     /* nothing of ours */
    SUPERBLOCK_UNREADABLE, /* the disk gave an error */
};

struct superblock_condition {
    enum superblock_finding place[SUPERBLOCK_PLACES];
    uint64_t generation[SUPERBLOCK_PLACES]; /* of GOOD and STALE ones */
    uint32_t repairs; /* places that are not GOOD: superblock_repair mends them */
};

/*
 * How a disk of disk_bytes is divided. slot_bytes 0: the power of two at or below disk_bytes / 256,
 * within SLOT_BYTES_MIN and SLOT_BYTES_MAX. ERR_TOO_SMALL: fewer than SLOTS_MIN slots, the sentence
 * says how much is needed. ERR_INVALID: slot_bytes is not a power of two in range.
 */
int disk_geometry_plan(uint64_t disk_bytes, uint64_t slot_bytes, struct disk_geometry *geometry,
                       struct failure *failure);

/*
 * Fills *superblock for a new disk: a fresh disk identity, no members. ring_name is one that
 * text_check_ring_name() accepts; copies 1 to COPIES_MAX. The caller adds the members.
 */
void superblock_make(struct superblock *superblock, const struct disk_geometry *geometry,
                     const struct identity *ring, const char *ring_name, uint8_t copies,
                     uint64_t now_ns);

/* Puts `text` into a text field of a superblock: cut, zero-padded, control characters as '?'. */
void superblock_set_text(char *field, size_t field_bytes, const char *text);

/*
 * Is this a superblock that can be trusted: 0, ERR_FOREIGN (no magic), ERR_CORRUPT (checksum, or a field
 * that nothing of ours would write), ERR_UNSUPPORTED (of a newer version). `bytes` need not be aligned.
 * Of the disk it knows only what the superblock says. Any bytes, any size; the fuzz target.
 */
int superblock_check(const uint8_t *bytes, size_t size);

/* The geometry that a checked superblock records. */
void superblock_geometry(const struct superblock *superblock, struct disk_geometry *geometry);

/*
 * Makes the disk ours: removes what is in the four places, clears the key areas, then writes generations
 * 0 and 1. Sets disk->geometry. The disk must be what the caller may overwrite: disk_uring_create has seen to that.
 * ERR_INTERNAL: the superblock would not pass its own check.
 */
int superblock_format(struct disk *disk, struct superblock *superblock, struct failure *failure);

/*
 * Reads all four places, takes the highest valid generation into *superblock and sets disk->geometry.
 * ERR_FOREIGN: not ours; ERR_CORRUPT: ours, but no place is whole, or the disk is smaller than the superblock
 * says; ERR_UNSUPPORTED: made by a newer version (also compatible features, where the disk is open for
 * writing); ERR_IO. `condition` is filled in every case; may be null.
 */
int superblock_read(struct disk *disk, struct superblock *superblock,
                    struct superblock_condition *condition, struct failure *failure);

/*
 * Writes the next generation: head, flush, tail, flush. Updates generation and checksum of *superblock. After
 * an error the last acknowledged superblock is still there, and the next call tries the same place again.
 */
int superblock_write(struct disk *disk, struct superblock *superblock, struct failure *failure);

/* Writes *superblock, as superblock_read gave it, to all four places, under two new generations. */
int superblock_repair(struct disk *disk, struct superblock *superblock, struct failure *failure);

/* "head, first place", for messages. Static memory. */
const char *superblock_place_text(enum superblock_place place);

/* Byte offset of a place on a disk of which disk_bytes are used. */
uint64_t superblock_place_offset(enum superblock_place place, uint64_t disk_bytes);

#endif
