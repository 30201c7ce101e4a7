/*
 * purge_inside.h - what purge.c (a ring at rest) and purge_live.c (one that is recorded into) share, nobody else: a segment in hand, its new revision,
 * a copy of that, and slots that are wiped. Everything here reads, writes and waits; a result that is not 0 has its sentence in purge->failure.
 */
#ifndef STORAGE_PURGE_INSIDE_H
#define STORAGE_PURGE_INSIDE_H

#include "purge.h"
#include "segment_prefix.h"

#define PURGE_NO_SLOT UINT32_MAX

struct candidate { /* a segment that holds something that is to go */
    struct identity segment;
    uint64_t position;
};

struct purge {
    const struct purge_options *options;
    struct recovery_disk *disk;
    uint32_t disks;
    struct purge_report *report;
    struct failure *failure;
    uint64_t slot_bytes;
    uint8_t *image; /* of the slot as it will be */
    uint8_t *other; /* another copy of it; zeros, where nothing is being read */
    uint8_t *part;  /* FRAME_BYTES_USUAL */
    struct segment_prefix prefix;
    struct candidate *candidate;
    uint32_t candidates, room;

    /* of the segment in hand */
    struct segment_row row; /* as its seal has it; `place` is not used */
    enum seal_reason reason;
    uint32_t places;
    struct { uint32_t disk, from, to; } place[RING_DISKS_MAX];
};

/* What a segment takes: options and slot_bytes are set. ERR_NO_MEMORY. */
int purge_open(struct purge *purge);
void purge_close(struct purge *purge);

/* The newest first: what the oldest slot of a disk is taken for is then not what still waits. */
int purge_candidate_add(struct purge *purge, const struct segment_row *row);
void purge_candidates_sort(struct purge *purge);

/* The seal of what is believed to be in the slot. False: there is none. */
bool purge_seal_look(struct purge *purge, uint32_t disk, uint32_t slot, struct segment_row *row, enum seal_reason *reason);

/*
 * Everything of the new slot but its first page, which is of each place; purge->row is the new revision's afterwards. ERR_CORRUPT: what must follow the data does
 * not fit.
 */
int purge_image_build(struct purge *purge, uint64_t *packets, uint64_t *bytes);

/* The image as one more copy. */
int purge_copy_write(struct purge *purge, uint32_t disk, uint32_t slot);

/* Overwrites a slot with zeros. The first page last, and after all else is durable: where that is zero, all is (purge_slot_is_clear()). */
int purge_slot_wipe(struct purge *purge, uint32_t disk, uint32_t slot);

/* Nothing was ever written there, or it was wiped: whoever uses a slot begins with its first page, and with its last. */
bool purge_slot_is_clear(struct purge *purge, uint32_t disk, uint32_t slot);

/* [from, to) of the slot is to hold zeros. 1: it has been overwritten; 0: it was so. Uses the image. */
int purge_stretch_clear(struct purge *purge, uint32_t disk, uint32_t slot, uint64_t from, uint64_t to);

#endif
