/*
 * new_disk.h - a disk on its way into a ring: what a request says of it, making it, and unmaking it when
 * something goes wrong on the way.
 */
#ifndef CAPTURE_NEW_DISK_H
#define CAPTURE_NEW_DISK_H

#include "disk_io.h"
#include "request.h"

struct new_disk {
    char path[sizeof((struct state_disk *)0)->path];
    uint64_t bytes;
    bool was_there;    /* before we came */
    bool written;      /* our superblock may be on it */
    struct disk *disk; /* until the ring owns it */
    uint64_t disk_bytes;
    struct identity identity;
};

/* A path from the root on, not too long. ERR_INVALID. */
int new_disk_take_path(struct request *request, const char *path, struct new_disk *disk);

/* {"path", "bytes"} of a request, and whether that says how large a file is to be. ERR_INVALID. */
int new_disk_take(struct request *request, const json_t *object, struct new_disk *disk);

/* Makes or takes it: open, locked, not yet formatted. As disk_uring_create(). */
int new_disk_create(struct new_disk *disk, bool force, struct failure *failure);

/* Whatever was made is unmade. What stood at the path before stays there, without our superblocks. */
void new_disk_undo(struct new_disk *disk);

#endif
