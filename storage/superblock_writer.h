/*
 * superblock_writer.h - writes a superblock without waiting for ever: a disk may hang, and whoever tells all disks of a change holds
 * locks that others need.
 *
 * A writer is a thread with a copy of the superblock, for one write to one disk. There is no cancel: a writer that was given up on for now goes on,
 * and the disk gets no other superblock, and is not closed, before it has ended.
 *
 * One thread begins and ends a writer; it may change between the calls.
 */
#ifndef STORAGE_SUPERBLOCK_WRITER_H
#define STORAGE_SUPERBLOCK_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "superblock.h"

struct superblock_writer;

/* superblock_write() of *superblock, which is copied. *writer must be null before. The disk stays the caller's, and open. ERR_NO_MEMORY. */
int superblock_writer_begin(struct superblock_writer **writer, struct disk *disk, const struct superblock *superblock);

/*
 * Waits until `until_ns` (CLOCK_MONOTONIC; 0: only looks; UINT64_MAX: for ever). True: it has ended, *superblock and *failure are as
 * superblock_write() left them, *result is what it returned, and the writer is freed and nulled. False: the disk has not answered.
 */
bool superblock_writer_end(struct superblock_writer **writer, uint64_t until_ns, struct superblock *superblock, int *result,
                           struct failure *failure);

#endif
