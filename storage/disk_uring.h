/*
 * disk_uring.h - between disk_open.c, which opens, locks and makes disks, and disk_uring.c, their
 * body.
 */
#ifndef STORAGE_DISK_URING_H
#define STORAGE_DISK_URING_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_io.h"
#include "errors.h"

/* What disk_open.c has found out about a descriptor. */
struct disk_source {
    int fd;             /* consumed by disk_uring_start, also where that fails */
    uint64_t bytes;     /* of the whole file or device */
    uint32_t alignment; /* of offsets, lengths and memory; 1 where there is no O_DIRECT */
    bool read_only;
    bool locked; /* by flock(2): given back at close */
    const char *name;
};

/* Starts the disk's thread. ERR_NO_MEMORY and the like; without io_uring it still works, see
 * disk_uring_obstacle(). */
int disk_uring_start(const struct disk_source *source, struct disk **disk, struct failure *failure);

#endif
