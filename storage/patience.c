#include "patience.h"

#include <assert.h>
#include <stdlib.h>

#include "sifter.h"

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

struct patience_read *patience_read_lent(uint8_t *memory)
{
    struct patience_read *read = calloc(1, sizeof *read);
    if (read) {
        read->memory = memory;
        read->lent = true;
    }
    return read;
}

void patience_read_free(struct patience_read **slot)
{
    struct patience_read *read = *slot;
    if (!read)
        return;
    assert(read->asked == 0);
    if (!read->lent)
        free(read->memory);
    free(read);
    *slot = NULL;
}

static void answered(struct disk_request *request)
{
    struct patience_read *read = request->owner;
    if (request->result != 0)
        atomic_store(&read->bad, true);
    if (atomic_fetch_sub(&read->open, 1) == 1 && read->sifter && !atomic_load(&read->bad))
        sifter_give(read->sifter, &read->batch);
    /* The owner learns of it by disk_wait(). */
}

void patience_ask(struct patience_read *read, struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer,
                  uint32_t bytes)
{
    assert(read->asked < PATIENCE_STRETCHES_MAX && read->gone == 0 && (read->asked == 0 || read->disk == disk));
    struct disk_request *before = read->asked > 0 ? &read->request[read->asked - 1] : NULL;
    read->bytes = read->asked == 0 ? bytes : read->bytes + bytes;
    if (before && before->slot == slot && before->offset + before->bytes == offset && before->buffer + before->bytes == buffer) {
        before->bytes += bytes; /* what goes on where the last one ends is read in one go */
        return;
    }
    struct disk_request *request = &read->request[read->asked];
    read->disk = disk;
    read->asked++;
    *request = (struct disk_request){
        .op = DISK_READ,
        .slot = slot,
        .offset = offset,
        .buffer = buffer,
        .bytes = bytes,
        .buffer_index = -1,
        .done = answered,
        .owner = read,
    };
}

void patience_go(struct patience_read *read)
{
    assert(read->gone == 0);
    read->gone = read->asked;
    atomic_store(&read->open, read->asked);
    atomic_store(&read->bad, false);
    disk_submit_all(read->disk, read->request, read->asked);
}

/* Whether all stretches have been answered, after at most so long for each. */
static bool all_answered(struct patience_read *read, unsigned limit_ms)
{
    /* The last one first: mostly the others have been answered before it, and who waits is woken once. */
    while (read->answered < read->asked && disk_wait_for(read->disk, &read->request[read->asked - 1 - read->answered], limit_ms))
        read->answered++;
    return read->answered == read->asked;
}

int patience_end(struct patience *patience, struct patience_read **slot, bool others)
{
    struct patience_read *read = *slot;
    assert(read->gone == read->asked);
    unsigned limit_ms = patience_lost(patience, read->disk) ? 0 : others ? PATIENCE_MS : PATIENCE_ALONE_MS;
    if (all_answered(read, limit_ms)) {
        int result = 0;
        for (uint32_t i = 0; i < read->asked && !result; i++)
            result = read->request[i].result;
        read->asked = read->gone = read->answered = 0;
        return result;
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
    read->asked = read->gone = read->answered = 0;
    patience->lost_reads--;
    patience_read_free(&read);
}

bool patience_lost(struct patience *patience, const struct disk *disk)
{
    bool lost = false;
    for (struct patience_read **link = &patience->lost; *link;)
        if (all_answered(*link, 0)) {
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
        struct patience_read *read = patience->lost;
        for (; read->answered < read->asked; read->answered++)
            disk_wait(read->disk, &read->request[read->asked - 1 - read->answered]);
        forget(patience, &patience->lost);
    }
}
