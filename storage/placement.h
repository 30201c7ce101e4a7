/*
 * placement.h - which disks the copies of the next segment go to: pure functions, no I/O.
 */
#ifndef STORAGE_PLACEMENT_H
#define STORAGE_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"

struct placement_disk {
    bool usable;
    uint32_t slots;
    uint32_t free_slots;       /* never used, or expired */
    uint64_t oldest_position;  /* of the segment that would be overwritten; 0 where a slot is free */
    uint64_t bytes_to_write;   /* on their way there, or still to come for what was placed there */
    uint64_t failure_domain;   /* enclosure or underlying device; 0 = not known */
};

/*
 * Chooses up to `copies` different disks, best first, into `chosen`; returns how many. A disk with free slots comes before one
 * without, the emptier (in proportion to its size) first; among full disks the one that holds the oldest segment, so that
 * all reach equally far back; among equals, and those that are within two segments of it, the one with the least to write, so that none is idle while
 * others have a queue. Two copies share a failure domain only
 * when there is no other choice.
 */
uint32_t placement_choose(const struct placement_disk *disk, uint32_t disks, uint32_t copies, uint32_t *chosen);

#endif
