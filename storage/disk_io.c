/*
 * disk_io.c - what all bodies of the seam share: the arithmetic of places, and single operations.
 */
#include "disk_io.h"

#include <stddef.h>

uint64_t disk_offset(const struct disk *disk, uint32_t slot, uint64_t offset, uint32_t bytes)
{
    const struct disk_geometry *geometry = &disk->geometry;
    if (slot == DISK_SLOT_META) {
        if (offset > disk->bytes || bytes > disk->bytes - offset)
            return UINT64_MAX;
        return offset;
    }
    if (slot >= geometry->slot_count || offset > geometry->slot_bytes ||
        bytes > geometry->slot_bytes - offset)
        return UINT64_MAX;
    /* Whoever sets the geometry has checked it against the disk's size (superblock_check), so this
     * cannot overflow; the last comparison holds even if somebody did not. */
    uint64_t start = geometry->slots_offset + (uint64_t)slot * geometry->slot_bytes + offset;
    if (start > disk->bytes || bytes > disk->bytes - start)
        return UINT64_MAX;
    return start;
}

int disk_check(const struct disk *disk, const struct disk_request *request, uint64_t *offset)
{
    *offset = 0;
    if (request->op == DISK_FLUSH)
        return disk->read_only ? ERR_INVALID : 0;
    if (request->op != DISK_READ && request->op != DISK_WRITE)
        return ERR_INVALID;
    if (request->op == DISK_WRITE && disk->read_only)
        return ERR_INVALID;
    if (request->bytes == 0 || request->bytes % PAGE_BYTES != 0 ||
        request->offset % PAGE_BYTES != 0 || (uintptr_t)request->buffer % PAGE_BYTES != 0)
        return ERR_INVALID;
    *offset = disk_offset(disk, request->slot, request->offset, request->bytes);
    return *offset == UINT64_MAX ? ERR_INVALID : 0;
}

static void nothing_to_do(struct disk_request *request)
{
    (void)request;
}

static int disk_operate(struct disk *disk, enum disk_op op, uint32_t slot, uint64_t offset,
                        uint8_t *buffer, uint32_t bytes)
{
    struct disk_request request = {
        .op = op,
        .slot = slot,
        .offset = offset,
        .buffer = buffer,
        .bytes = bytes,
        .buffer_index = -1,
        .done = nothing_to_do,
    };
    disk_submit(disk, &request);
    disk_wait(disk, &request);
    return request.result;
}

int disk_read(struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer, uint32_t bytes)
{
    return disk_operate(disk, DISK_READ, slot, offset, buffer, bytes);
}

int disk_write(struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer, uint32_t bytes)
{
    return disk_operate(disk, DISK_WRITE, slot, offset, buffer, bytes);
}

int disk_flush(struct disk *disk)
{
    return disk_operate(disk, DISK_FLUSH, DISK_SLOT_META, 0, NULL, 0);
}

void disk_close(struct disk **disk)
{
    if (*disk == NULL)
        return;
    (*disk)->ops->close(*disk);
    *disk = NULL;
}
