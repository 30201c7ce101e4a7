#include "patience.h"

#include <assert.h>
#include <stdlib.h>

struct patience_read *patience_read_new(size_t bytes)
{
    struct patience_read *read = calloc(1, sizeof *read);
    uint8_t *memory = aligned_alloc(PAGE_BYTES, bytes);
    if (!read || !memory) {
        free(read);
        free(memory);
        return NULL;
    }
    read->memory = memory;
    return read;
}

void patience_read_free(struct patience_read **slot)
{
    struct patience_read *read = *slot;
    if (!read)
        return;
    assert(!read->asked);
    free(read->memory);
    free(read);
    *slot = NULL;
}

static void answered(struct disk_request *request)
{
    (void)request; /* disk_wait() is how we learn of it */
}

void patience_ask(struct patience_read *read, struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer,
                  uint32_t bytes)
{
    assert(!read->asked);
    read->disk = disk;
    read->asked = true;
    read->request = (struct disk_request){
        .op = DISK_READ,
        .slot = slot,
        .offset = offset,
        .buffer = buffer,
        .bytes = bytes,
        .buffer_index = -1,
        .done = answered,
        .owner = read,
    };
    disk_submit(disk, &read->request);
}

int patience_end(struct patience *patience, struct patience_read **slot, bool others)
{
    struct patience_read *read = *slot;
    unsigned limit_ms = patience_lost(patience, read->disk) ? 0 : others ? PATIENCE_MS : PATIENCE_ALONE_MS;
    if (disk_wait_for(read->disk, &read->request, limit_ms)) {
        read->asked = false;
        return read->request.result;
    }
    read->next = patience->lost;
    patience->lost = read;
    patience->lost_reads++;
    *slot = NULL;
    return ERR_TIMEOUT;
}

/* Frees the read, which has been answered. */
static void forget(struct patience *patience, struct patience_read **link)
{
    struct patience_read *read = *link;
    *link = read->next;
    read->asked = false;
    patience->lost_reads--;
    patience_read_free(&read);
}

bool patience_lost(struct patience *patience, const struct disk *disk)
{
    bool lost = false;
    for (struct patience_read **link = &patience->lost; *link;)
        if (disk_wait_for((*link)->disk, &(*link)->request, 0)) {
            forget(patience, link);
        } else {
            lost |= (*link)->disk == disk;
            link = &(*link)->next;
        }
    return lost;
}

void patience_close(struct patience *patience)
{
    while (patience->lost) {
        disk_wait(patience->lost->disk, &patience->lost->request);
        forget(patience, &patience->lost);
    }
}
