/*
 * keeper_disk.c - one disk as the keeper sees it: requests and the watchdog over them, errors, what is written and not flushed.
 *
 * A failed request is counted and said; DISK_ERRORS_MAX of them in a row make a disk failed. One that does not answer
 * is suspect until it has answered everything.
 */
#include "keeper_inside.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"

#define DISK_ERRORS_MAX 4 /* failed writes or flushes in a row that make a disk failed */

/* ---- requests ----------------------------------------------------------------------------------- */

static void request_answered(struct disk_request *request)
{
    keeper_post_request(((struct keeper_request *)request->owner)->disk->keeper, request);
}

static void flush_answered(struct disk_request *request)
{
    keeper_post_request(((struct keeper_disk *)request->owner)->keeper, request);
}

void keeper_submit(struct keeper *keeper, struct keeper_disk *disk, struct disk_request *request, uint32_t *generation)
{
    keeper->requests_under_way++;
    disk->in_flight_bytes += request->bytes;
    *generation = disk->generation;
    disk->current++;
    disk_submit(disk->io, request);
}

/* All of the marked generation have answered: those that were submitted since are the next to be watched. */
static void watch_next(struct keeper *keeper, struct keeper_disk *disk)
{
    disk->generation++;
    disk->marked = disk->current;
    disk->current = 0;
    disk->marked_ns = keeper->options.monotonic_ns(keeper->options.context);
}

void keeper_answered(struct keeper *keeper, struct keeper_disk *disk, const struct disk_request *request,
                             uint32_t generation)
{
    keeper->requests_under_way--;
    disk->in_flight_bytes -= request->bytes;
    if (generation == disk->generation) {
        disk->current--;
        return;
    }
    if (--disk->marked > 0)
        return;
    watch_next(keeper, disk);
    if (disk->suspect) {
        char text[400];
        disk->suspect = false;
        snprintf(text, sizeof text, "disk %.255s answers again", disk->io->name);
        keeper_say(keeper, "info", "disk-back", text);
        keeper->prepare_again = true;
    }
}

void keeper_disk_error(struct keeper *keeper, struct keeper_disk *disk, const char *what, int result)
{
    char text[512];
    snprintf(text, sizeof text, "disk %.255s: %s failed: %s", disk->io->name, what, error_text(result));
    keeper_say(keeper, "warning", "disk-error", text);
    if (++disk->errors_in_a_row < DISK_ERRORS_MAX || disk->failed)
        return;
    disk->failed = true;
    bool left = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        left |= !keeper->disk[i]->failed;
    snprintf(text, sizeof text, "disk %.255s has failed and is written no more%s", disk->io->name,
             left ? "" : "; no disk is left: nothing can be recorded");
    keeper_say(keeper, "error", "disk-failed", text);
    if (left || keeper->dead)
        return;
    keeper->dead = true;
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        stream_set_dead(stream, true);
}

/*
 * A disk that has not answered for too long is suspect, if there is another one: what is being filled there goes on
 * without it. Alone, it is waited for.
 */
void keeper_disk_watch(struct keeper *keeper, struct keeper_disk *disk, uint64_t now)
{
    if (disk->marked == 0) {
        if (disk->current > 0)
            watch_next(keeper, disk);
        return;
    }
    if (disk->suspect || disk->failed || now - disk->marked_ns < keeper->options.suspect_after_ns)
        return;
    bool others = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        others |= keeper->disk[i] != disk && !keeper->disk[i]->failed && !keeper->disk[i]->suspect;
    if (!others)
        return;
    char text[400];
    disk->suspect = true;
    snprintf(text, sizeof text, "disk %.255s has not answered for %.1f s: it is left out until it does", disk->io->name,
             (double)(now - disk->marked_ns) / 1e9);
    keeper_say(keeper, "warning", "disk-suspect", text);
    for (struct segment *segment = keeper->segments; segment; segment = segment->next)
        for (uint8_t i = 0; i < segment->copies; i++)
            if (segment->copy[i].disk != disk)
                continue;
            else if (segment->phase < SEGMENT_READY)
                keeper_segment_orphan(segment);
            else if (segment->phase != SEGMENT_DONE)
                keeper_copy_is_bad(segment, &segment->copy[i]);
    keeper_settle_all(keeper);
}

/* A disk may have this much submitted before it is taken for slower than the others. */
uint64_t keeper_disk_share(const struct keeper *keeper)
{
    return keeper->disks > 1 ? keeper->pool_bytes / 2 : UINT64_MAX;
}


/* ---- flushing ----------------------------------------------------------------------------------- */

void keeper_unflushed_add(struct keeper_disk *disk, struct disk_request *request, uint64_t due_ns)
{
    request->next = NULL;
    if (!disk->unflushed_head || due_ns < disk->flush_due_ns)
        disk->flush_due_ns = due_ns;
    if (disk->unflushed_tail)
        disk->unflushed_tail->next = request;
    else
        disk->unflushed_head = request;
    disk->unflushed_tail = request;
    disk->unflushed_bytes += request->bytes;
}

/* Takes the frames of a copy that is left behind out of its disk's list: whether they are flushed matters no more. */
void keeper_unflushed_forget(struct keeper_disk *disk, const struct segment *segment)
{
    struct disk_request **link = &disk->unflushed_head, *before = NULL;
    while (*link) {
        struct disk_request *request = *link;
        struct frame_buffer *buffer = request->owner;
        if (request->done != keeper_frame_answered || buffer->segment != segment) {
            before = request;
            link = &request->next;
            continue;
        }
        *link = request->next;
        disk->unflushed_bytes -= request->bytes;
        buffer->place[keeper_frame_place(buffer, request)] = PLACE_FAILED;
        if (disk->flush_last == request)
            disk->flush_last = before;
        if (disk->unflushed_tail == request)
            disk->unflushed_tail = before;
    }
}


bool keeper_flush_due(const struct keeper *keeper, const struct keeper_disk *disk, uint64_t now)
{
    if (!disk->unflushed_head || disk->flush_running)
        return false;
    return disk->flush_wanted || disk->unflushed_bytes >= keeper->options.unflushed_bytes_max ||
           now >= disk->flush_due_ns;
}

void keeper_flush_start(struct keeper *keeper, struct keeper_disk *disk)
{
    disk->flush_running = true;
    disk->flush_wanted = false;
    disk->flush_last = disk->unflushed_tail;
    disk->flush = (struct disk_request){.op = DISK_FLUSH,
                                        .slot = DISK_SLOT_META,
                                        .buffer_index = -1,
                                        .done = flush_answered,
                                        .owner = disk};
    keeper_submit(keeper, disk, &disk->flush, &disk->flush_generation);
}

static uint64_t request_due_ns(const struct disk_request *request)
{
    if (request->done == keeper_frame_answered)
        return ((const struct frame_buffer *)request->owner)->due_ns;
    return request->done == request_answered ? ((const struct keeper_request *)request->owner)->due_ns : 0;
}

static void frame_flushed(struct frame_buffer *buffer, const struct disk_request *request, bool good)
{
    uint8_t i = keeper_frame_place(buffer, request);
    buffer->place[i] = good ? PLACE_FLUSHED : PLACE_FAILED;
    if (!good) {
        /* May take frames of the same copy out of what is left of the list, which has been cut off already. */
        struct segment_copy *copy = &buffer->segment->copy[i];
        copy->bad = true;
        keeper_copy_is_bad(buffer->segment, copy);
    }
}

static void request_flushed(struct keeper *keeper, struct disk_request *request, bool good)
{
    if (request->done == keeper_segment_answered) {
        struct segment *segment = request->owner;
        keeper_segment_opened(segment, keeper_segment_copy(segment, request), good);
    } else if (request->done == keeper_frame_answered) {
        frame_flushed(request->owner, request, good);
    } else {
        struct keeper_request *one = request->owner;
        one->flushed(keeper, one, good);
    }
}

static void flush_finished(struct keeper *keeper, struct keeper_disk *disk)
{
    bool good = disk->flush.result == 0;
    /* What was left behind in the meantime is no more in the list: then the flush covers less, or nothing. */
    struct disk_request *request = disk->unflushed_head;
    struct disk_request *rest = disk->flush_last ? disk->flush_last->next : request;
    disk->flush_running = false;
    if (good) {
        disk->flushes++;
    } else {
        /* Since the last good flush nothing is certain, what completed during this one neither. */
        disk->write_errors++;
        keeper_disk_error(keeper, disk, "a flush", disk->flush.result);
        rest = NULL;
    }
    disk->unflushed_head = rest;
    if (!rest)
        disk->unflushed_tail = NULL;
    disk->flush_due_ns = UINT64_MAX;
    for (struct disk_request *one = rest; one; one = one->next)
        if (request_due_ns(one) < disk->flush_due_ns)
            disk->flush_due_ns = request_due_ns(one);
    while (request != rest) {
        struct disk_request *next = request->next;
        disk->unflushed_bytes -= request->bytes;
        request_flushed(keeper, request, good);
        request = next;
    }
    keeper_settle_all(keeper);
}

void keeper_flush(struct keeper *keeper)
{
    for (uint32_t i = 0; i < keeper->disks; i++)
        keeper->disk[i]->flush_wanted = true;
}

int keeper_add_disk(struct keeper *keeper, struct disk *io, const struct identity *identity,
                    const struct slot_belief *belief, uint32_t *number)
{
    if (keeper->disks == RING_DISKS_MAX)
        return ERR_TOO_LARGE;
    struct keeper_disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return ERR_NO_MEMORY;
    disk->keeper = keeper;
    disk->io = io;
    disk->identity = *identity;
    disk->number = keeper->disks;
    disk->held = UINT32_MAX;
    disk->slots = io->geometry.slot_count;
    disk->position = calloc(disk->slots, sizeof *disk->position);
    disk->belief = calloc(disk->slots, sizeof *disk->belief);
    disk->open = calloc(disk->slots, sizeof *disk->open);
    if (!disk->position || !disk->belief || !disk->open) {
        free(disk->position);
        free(disk->belief);
        free(disk->open);
        free(disk);
        return ERR_NO_MEMORY;
    }
    if (number)
        *number = keeper->disks;
    keeper->disk[keeper->disks++] = disk;
    keeper_set_beliefs(keeper, disk->number, belief);
    return 0;
}

void keeper_set_beliefs(struct keeper *keeper, uint32_t number, const struct slot_belief *belief)
{
    struct keeper_disk *disk = keeper->disk[number];
    assert(!keeper->streams && !keeper->segments);
    for (uint32_t slot = 0; slot < disk->slots; slot++) {
        disk->belief[slot] = belief[slot];
        disk->position[slot] = belief[slot].position;
        keeper_raise_position(keeper, belief[slot].position);
    }
}


/* ---- answers ------------------------------------------------------------------------------------- */

void keeper_request_submit(struct keeper_disk *disk, struct keeper_request *request)
{
    request->disk = disk;
    request->request.done = request_answered;
    request->request.owner = request;
    keeper_submit(disk->keeper, disk, &request->request, &request->generation);
}

void keeper_request_flush(struct keeper_request *request, uint64_t due_ns)
{
    request->due_ns = due_ns;
    keeper_unflushed_add(request->disk, &request->request, due_ns);
}

static void request_finished(struct keeper *keeper, struct keeper_request *request)
{
    struct keeper_disk *disk = request->disk;
    const struct disk_request *asked = &request->request;
    keeper_answered(keeper, disk, asked, request->generation);
    if (asked->result == 0 && asked->op == DISK_WRITE) {
        disk->errors_in_a_row = 0;
        disk->written_bytes += asked->bytes;
    } else if (asked->result != 0 && asked->op == DISK_WRITE) {
        disk->write_errors++;
        keeper_disk_error(keeper, disk, "a write", asked->result);
    } else if (asked->result != 0) {
        disk->read_errors++;
    }
    request->finished(keeper, request);
}

void keeper_request_finished(struct keeper *keeper, struct disk_request *request)
{
    if (request->done == keeper_frame_answered) {
        keeper_frame_written(keeper, request);
    } else if (request->done == keeper_segment_answered) {
        keeper_segment_written(keeper, request);
    } else if (request->done == request_answered) {
        request_finished(keeper, request->owner);
    } else {
        struct keeper_disk *disk = request->owner;
        keeper_answered(keeper, disk, request, disk->flush_generation);
        flush_finished(keeper, disk);
    }
}
