/*
 * keeper_disk.c - one disk as the keeper sees it: requests and the watchdog over them, errors, what is written and not flushed.
 *
 * A failed request is counted and said; DISK_ERRORS_MAX of them in a row make a disk failed. One that does not answer
 * is suspect until it has answered everything. After an error at flush it is doubtful until it has been read back.
 *
 * Whenever a disk becomes one of these, or leaves, it is left behind: the copies that are being prepared or filled there are bad from then on,
 * and what only lay there goes on elsewhere.
 */
#include "keeper_inside.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk_life.h"
#include "stream.h"

#define FRAME_BYTES_SUBMITTED (8u << 20) /* enough for a fast disk to be never idle, and not long for a slow one */
#define FRAME_POOL_SHARE 16u             /* and of few buffers no more than this share */
#define SLOW_AFTER_NS 100000000ull
#define SLOW_MEMORY_NS 1000000000ull /* one that crawls answers now and then, and is no quicker for it */
#define ANSWER_MEMORY 8
#define BUSY_WINDOW_NS 50000000ull
#define SILENCE_STEP_NS 20000000ull
#define LOST_AFTER_TIMES 10 /* suspect_after: for a request that others have overtaken all the time */
#define DISK_ERRORS_MAX 4 /* failed writes or flushes in a row that make a disk failed */

/* Whoever changes what the disk's state follows from says so here: a transition that disk_life.h does not allow is a bug, and so is a broken invariant. */
static void life_changed(struct keeper_disk *disk)
{
    enum disk_state now = keeper_disk_condition(disk);
    uint32_t requests = disk->current + disk->marked;
    struct disk_facts facts = {
        .state = now,
        .open = disk->io || requests > 0,
        .leaving = !disk->io && requests > 0,
        .takes_segments = keeper_disk_usable(disk),
        .is_read = disk->io,
        .requests = requests,
    };
    assert(disk_life_is_allowed(disk->life, now));
    assert(!disk_life_check(&facts));
    disk->life = now;
}

/* ---- requests ----------------------------------------------------------------------------------- */

static void request_answered(struct disk_request *request)
{
    keeper_post_request(((struct keeper_request *)request->owner)->disk->keeper, request);
}

static void flush_answered(struct disk_request *request)
{
    keeper_post_request(((struct keeper_disk *)request->owner)->keeper, request);
}

/* Bytes of packets, and of the segments that take them. */
static bool is_of_recording(const struct disk_request *request)
{
    return request->done != request_answered && request->bytes > 0;
}

static void count_submitted(struct keeper *keeper, struct keeper_disk *disk, const struct disk_request *request,
                            uint32_t *generation)
{
    keeper->requests_under_way++;
    disk->in_flight_bytes += request->bytes;
    *generation = disk->generation;
    disk->current++;
}

void keeper_submit(struct keeper *keeper, struct keeper_disk *disk, struct disk_request *request, uint32_t *generation)
{
    assert(disk->io);
    count_submitted(keeper, disk, request, generation);
    disk_submit(disk->io, request);
}

static bool is_frame(const struct disk_request *request)
{
    return request->done == keeper_frame_answered;
}

/* Submits what waits, as far as there is room. */
static void frames_go_on(struct keeper_disk *disk)
{
    uint64_t most = disk->keeper->pool_bytes / FRAME_POOL_SHARE;
    if (most > FRAME_BYTES_SUBMITTED)
        most = FRAME_BYTES_SUBMITTED;
    while (disk->waiting_head && disk->frame_bytes <= most) {
        struct disk_request *request = disk->waiting_head;
        struct frame_buffer *buffer = request->owner;
        disk->waiting_head = request->next;
        disk->frame_bytes += request->bytes;
        buffer->generation[keeper_frame_place(buffer, request)] = disk->generation;
        disk->current++;
        disk_submit(disk->io, request);
    }
    if (!disk->waiting_head)
        disk->waiting_tail = NULL;
}

void keeper_frame_write(struct keeper_disk *disk, struct disk_request *request)
{
    assert(disk->io);
    request->next = NULL;
    if (disk->waiting_tail)
        disk->waiting_tail->next = request;
    else
        disk->waiting_head = request;
    disk->waiting_tail = request;
    disk->keeper->requests_under_way++;
    disk->in_flight_bytes += request->bytes;
    frames_go_on(disk);
}

void keeper_waiting_forget(struct keeper_disk *disk, struct segment *segment)
{
    struct disk_request **link = &disk->waiting_head, *before = NULL;
    while (*link) {
        struct disk_request *request = *link;
        struct frame_buffer *buffer = request->owner;
        if (buffer->segment != segment) {
            before = request;
            link = &request->next;
            continue;
        }
        uint8_t i = keeper_frame_place(buffer, request);
        *link = request->next;
        disk->keeper->requests_under_way--;
        disk->in_flight_bytes -= request->bytes;
        assert(!buffer->settled); /* of a copy that is not bad all frames are waited for */
        buffer->place[i] = PLACE_FAILED;
        keeper_copy_answered(segment, &segment->copy[i]);
    }
    disk->waiting_tail = before;
}

/* All of the marked generation have answered: those that were submitted since are the next to be watched. */
static void watch_next(struct keeper *keeper, struct keeper_disk *disk)
{
    disk->generation++;
    disk->silent_ns = 0;
    disk->marked = disk->current;
    disk->current = 0;
    disk->marked_ns = keeper->options.monotonic_ns(keeper->options.context);
}

static void note_answer(struct keeper_disk *disk, const struct disk_request *request)
{
    uint64_t took_ns = disk->answered_ns > request->submitted_ns ? disk->answered_ns - request->submitted_ns : 0;
    if (took_ns >= disk->answer_ns)
        disk->answer_ns = took_ns;
    else
        disk->answer_ns -= (disk->answer_ns - took_ns) / ANSWER_MEMORY;
    disk->took_ns += took_ns;
}

/* How busy the recording keeps the disk: by Little's law what its requests took in all, by the time. */
static void watch_busy(struct keeper_disk *disk, uint64_t now)
{
    uint64_t window_ns = now - disk->took_since_ns;
    if (window_ns < BUSY_WINDOW_NS)
        return;
    uint64_t busy = disk->took_ns / (window_ns / 1000);
    if (busy > 1000)
        busy = 1000;
    disk->busy = busy > disk->busy ? (uint32_t)busy : disk->busy - (disk->busy - (uint32_t)busy + 3) / 4;
    disk->took_ns = 0;
    disk->took_since_ns = now;
}

uint64_t keeper_disk_turn_ns(const struct keeper_disk *disk, uint64_t now)
{
    if (!disk->io || !disk->keeper->streams)
        return 0;
    uint64_t oldest_ns = disk->marked > 0 ? now - disk->marked_ns : 0;
    uint64_t answer_ns = oldest_ns > disk->answer_ns ? oldest_ns : disk->answer_ns;
    return 1 + PRESSURE_PAUSE * answer_ns / 1000 * disk->busy;
}

void keeper_answered(struct keeper *keeper, struct keeper_disk *disk, const struct disk_request *request,
                             uint32_t generation)
{
    keeper->requests_under_way--;
    disk->in_flight_bytes -= request->bytes;
    disk->silent_ns = 0;
    disk->answered_ns = keeper->options.monotonic_ns(keeper->options.context);
    if (is_of_recording(request))
        note_answer(disk, request);
    if (is_frame(request)) {
        disk->frame_bytes -= request->bytes;
        frames_go_on(disk);
    }
    if (generation == disk->generation) {
        disk->current--;
        return;
    }
    if (--disk->marked > 0)
        return;
    watch_next(keeper, disk);
    if (disk->suspect && disk->io) {
        char text[400];
        disk->suspect = false;
        life_changed(disk);
        snprintf(text, sizeof text, "disk %.255s answers again", disk->name);
        keeper_say(keeper, "info", "disk-back", text);
        keeper->prepare_again = true;
    }
}

/* What is being prepared or filled there goes on without it. */
static void leave_behind(struct keeper *keeper, struct keeper_disk *disk)
{
    for (struct segment *segment = keeper->segments; segment; segment = segment->next)
        for (uint8_t i = 0; i < segment->copies; i++)
            if (segment->copy[i].disk != disk)
                continue;
            else if (segment->phase < SEGMENT_READY)
                keeper_segment_orphan(segment);
            else if (segment->phase != SEGMENT_DONE)
                keeper_copy_is_bad(segment, &segment->copy[i]);
}

static void set_dead(struct keeper *keeper, bool dead)
{
    keeper->dead = dead;
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        stream_set_dead(stream, dead);
}

static bool any_left(const struct keeper *keeper)
{
    bool left = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        left |= keeper_disk_left(keeper->disk[i]);
    return left;
}

static void fail_disk(struct keeper *keeper, struct keeper_disk *disk)
{
    char text[512];
    disk->failed = true;
    life_changed(disk);
    bool left = any_left(keeper);
    snprintf(text, sizeof text, "disk %.255s has failed and is written no more%s", disk->name,
             left ? "" : "; no disk is left: nothing can be recorded");
    keeper_say(keeper, "error", "disk-failed", text);
    leave_behind(keeper, disk);
    if (!left && !keeper->dead)
        set_dead(keeper, true);
}

void keeper_disk_error(struct keeper *keeper, struct keeper_disk *disk, const char *what, int result)
{
    char text[512];
    if (!disk->io)
        return; /* it has left: what it says now is no news */
    snprintf(text, sizeof text, "disk %.255s: %s failed: %s", disk->name, what, error_text(result));
    keeper_say(keeper, "warning", "disk-error", text);
    if (++disk->errors_in_a_row >= DISK_ERRORS_MAX && !disk->failed)
        fail_disk(keeper, disk);
}

enum disk_state keeper_disk_condition(const struct keeper_disk *disk)
{
    if (!disk->io)
        return disk->away;
    return disk->failed ? DISK_FAILED : disk->suspect || disk->doubtful ? DISK_SUSPECT : DISK_ACTIVE;
}

void keeper_watch_level(struct keeper *keeper)
{
    char text[200];
    uint32_t usable = 0;
    for (uint32_t i = 0; i < keeper->disks; i++)
        usable += keeper_disk_usable(keeper->disk[i]);
    bool degraded = usable < keeper->options.copies;
    if (degraded == keeper->degraded)
        return;
    keeper->degraded = degraded;
    if (degraded)
        snprintf(text, sizeof text, "%u of the disks can take new segments, which should have %u copies: they get fewer",
                 usable, keeper->options.copies);
    else
        snprintf(text, sizeof text, "new segments get all of their %u copies again", keeper->options.copies);
    keeper_say(keeper, degraded ? "warning" : "info", degraded ? "ring-degraded" : "ring-whole", text);
}

/* ---- the read-back after an error at flush -------------------------------------------------------- */

/*
 * What a failed flush should have covered counts as unwritten: the frames are rescued from their buffers. Whether the disk can be trusted with
 * more is another question: it is, when what was written there since the last good flush can be read, whatever it
 * holds now, and one more flush succeeds. At most PROBE_PLACES_MAX places are read, the last ones. A probe that fails counts
 * like the flush, and is made again a little later.
 */
#define PROBE_PLACES_MAX 32u
#define PROBE_BYTES (64u * 1024)
#define PROBE_AGAIN_NS 250000000ull

struct keeper_probe {
    struct keeper_request request;
    struct { uint32_t slot; uint32_t bytes; uint64_t offset; } place[PROBE_PLACES_MAX];
    uint32_t places, at;
    bool running;
    uint64_t due_ns; /* when it is not running */
    uint8_t *buffer;
};

static void probe_go_on(struct keeper *keeper, struct keeper_request *request);

static void probe_next(struct keeper_disk *disk)
{
    struct keeper_probe *probe = disk->probe;
    struct disk_request flush = {.op = DISK_FLUSH, .slot = DISK_SLOT_META, .buffer_index = -1};
    probe->request = (struct keeper_request){.request = flush, .finished = probe_go_on};
    if (probe->at < probe->places) {
        probe->request.request = (struct disk_request){
            .op = DISK_READ,
            .slot = probe->place[probe->at].slot,
            .offset = probe->place[probe->at].offset,
            .buffer = probe->buffer,
            .bytes = probe->place[probe->at].bytes,
            .buffer_index = -1,
        };
    }
    probe->running = true;
    keeper_request_submit(disk, &probe->request);
}

static void probe_go_on(struct keeper *keeper, struct keeper_request *request)
{
    struct keeper_disk *disk = request->disk;
    struct keeper_probe *probe = disk->probe;
    char text[400];
    probe->running = false;
    if (!disk->io || disk->failed)
        return;
    if (request->request.result != 0) {
        probe->due_ns = keeper->options.monotonic_ns(keeper->options.context) + PROBE_AGAIN_NS;
        if (++disk->flush_errors >= DISK_ERRORS_MAX) {
            fail_disk(keeper, disk);
            keeper_settle_all(keeper);
        }
        return;
    }
    if (probe->at < probe->places) {
        probe->at++;
        probe_next(disk);
        return;
    }
    disk->doubtful = false;
    life_changed(disk);
    disk->errors_in_a_row = 0;
    snprintf(text, sizeof text, "disk %.255s has been read back and is used again", disk->name);
    keeper_say(keeper, "info", "disk-back", text);
    keeper->prepare_again = true;
}

/* Notes what is not flushed, the last of it where that is much: the places to be read. */
static void probe_note(struct keeper_disk *disk)
{
    struct keeper_probe *probe = disk->probe;
    if (!probe) {
        probe = calloc(1, sizeof *probe);
        if (probe)
            probe->buffer = aligned_alloc(PAGE_BYTES, PROBE_BYTES);
        if (!probe || !probe->buffer) {
            free(probe);
            return;
        }
        disk->probe = probe;
    }
    if (probe->running)
        return;
    probe->places = probe->at = 0;
    for (const struct disk_request *one = disk->unflushed_head; one; one = one->next, probe->places++) {
        uint32_t i = probe->places % PROBE_PLACES_MAX;
        probe->place[i].slot = one->slot;
        probe->place[i].offset = one->offset;
        probe->place[i].bytes = one->bytes < PROBE_BYTES ? one->bytes : PROBE_BYTES;
    }
    if (probe->places > PROBE_PLACES_MAX)
        probe->places = PROBE_PLACES_MAX;
    probe->due_ns = 0;
}

/* A flush has failed: the disk is left behind until it has been read back; when that happens again and again it has failed. */
static void doubt(struct keeper *keeper, struct keeper_disk *disk)
{
    char text[512];
    if (disk->failed || !disk->io)
        return;
    if (++disk->flush_errors >= DISK_ERRORS_MAX || !disk->probe) {
        fail_disk(keeper, disk);
        return;
    }
    snprintf(text, sizeof text,
             "disk %.255s: what was written there since the last flush counts as lost, and nothing new is written there "
             "until it has been read back",
             disk->name);
    keeper_say(keeper, "warning", "disk-doubtful", text);
    leave_behind(keeper, disk);
}

/*
 * How long the disk has been in debt. One that answers steadily is only busy, however long its queue is: what counts is the time since
 * its last answer. But a single request that is passed over by all others has been lost, sooner or later.
 */
static uint64_t overdue_ns(const struct keeper *keeper, const struct keeper_disk *disk, uint64_t now)
{
    uint64_t oldest = now - disk->marked_ns;
    uint64_t silent = disk->answered_ns > disk->marked_ns ? now - disk->answered_ns : oldest;
    return oldest >= LOST_AFTER_TIMES * keeper->options.suspect_after_ns ? oldest : silent;
}

/*
 * A disk that has not answered for too long is suspect, if there is another one: what is being filled there goes on
 * without it. Alone, it is waited for.
 */
static void watch_answers(struct keeper *keeper, struct keeper_disk *disk, uint64_t now)
{
    if (disk->marked == 0) {
        if (disk->current > 0)
            watch_next(keeper, disk);
        return;
    }
    uint64_t overdue = overdue_ns(keeper, disk, now);
    if (disk->suspect || disk->failed || !disk->io || overdue < keeper->options.suspect_after_ns)
        return;
    bool others = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        others |= keeper->disk[i] != disk && keeper_disk_usable(keeper->disk[i]);
    if (!others)
        return;
    char text[400];
    disk->suspect = true;
    life_changed(disk);
    snprintf(text, sizeof text, "disk %.255s has not answered for %.1f s: it is left out until it does", disk->name,
             (double)overdue / 1e9);
    keeper_say(keeper, "warning", "disk-suspect", text);
    leave_behind(keeper, disk);
    keeper_settle_all(keeper);
}

bool keeper_disk_is_slow(const struct keeper_disk *disk)
{
    return disk->watched_ns < disk->slow_until_ns;
}

void keeper_disk_watch(struct keeper *keeper, struct keeper_disk *disk, uint64_t now)
{
    /* When the keeper itself has not run, that is no silence of the disk's. */
    uint64_t since = now - disk->watched_ns;
    disk->watched_ns = now;
    disk->silent_ns += since < SILENCE_STEP_NS ? since : SILENCE_STEP_NS;
    if (disk->marked > 0 && disk->silent_ns > SLOW_AFTER_NS)
        disk->slow_until_ns = now + SLOW_MEMORY_NS;
    watch_answers(keeper, disk, now);
    watch_busy(disk, now);
    if (keeper_disk_due_ns(disk) <= now)
        probe_next(disk);
}

uint64_t keeper_disk_due_ns(const struct keeper_disk *disk)
{
    if (!disk->io || disk->failed || !disk->doubtful || disk->probe->running)
        return UINT64_MAX;
    return disk->probe->due_ns;
}

/*
 * What disks that give no answer hold already is out of reach for how long they please: each further one may have half of the rest. So there
 * is room for the last good disk, however many of the others hang.
 */
uint64_t keeper_disk_share(const struct keeper *keeper, const struct keeper_disk *disk)
{
    uint64_t room = keeper->pool_bytes;
    uint32_t left = 0;
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *one = keeper->disk[i];
        left += keeper_disk_left(one);
        if (one != disk && (one->suspect || !one->io || keeper_disk_is_slow(one)))
            room -= one->in_flight_bytes < room ? one->in_flight_bytes : room;
    }
    return left > 1 ? room / 2 : UINT64_MAX;
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
        if (!is_frame(request) || buffer->segment != segment) {
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
    if (!disk->unflushed_head || disk->flush_running || !disk->io)
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
    if (is_frame(request))
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
    } else if (is_frame(request)) {
        frame_flushed(request->owner, request, good);
    } else {
        struct keeper_request *one = request->owner;
        one->flushed(keeper, one, good);
    }
}

static void flush_failed(struct keeper *keeper, struct keeper_disk *disk)
{
    /* Since the last good flush nothing is certain, what completed during this one neither. */
    struct disk_request *request = disk->unflushed_head;
    disk->write_errors++;
    probe_note(disk);
    disk->doubtful |= disk->io && !disk->failed; /* before anything looks for a disk */
    life_changed(disk);
    disk->unflushed_head = disk->unflushed_tail = NULL;
    disk->unflushed_bytes = 0;
    while (request) {
        struct disk_request *next = request->next;
        request_flushed(keeper, request, false);
        request = next;
    }
    keeper_disk_error(keeper, disk, "a flush", disk->flush.result);
    doubt(keeper, disk);
}

static void flush_succeeded(struct keeper *keeper, struct keeper_disk *disk)
{
    /* What was left behind in the meantime is no more in the list: then the flush covers less, or nothing. */
    struct disk_request *request = disk->unflushed_head;
    struct disk_request *rest = disk->flush_last ? disk->flush_last->next : request;
    disk->flushes++;
    disk->flush_errors = 0;
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
        request_flushed(keeper, request, true);
        request = next;
    }
}

static void flush_finished(struct keeper *keeper, struct keeper_disk *disk)
{
    disk->flush_running = false;
    if (disk->flush.result == 0)
        flush_succeeded(keeper, disk);
    else
        flush_failed(keeper, disk);
    keeper_settle_all(keeper);
}

void keeper_flush(struct keeper *keeper)
{
    for (uint32_t i = 0; i < keeper->disks; i++)
        keeper->disk[i]->flush_wanted = keeper->disk[i]->io != NULL;
}

/* ---- joining and leaving ------------------------------------------------------------------------- */

static void put_beliefs(struct keeper_disk *disk, const struct slot_belief *belief)
{
    for (uint32_t slot = 0; slot < disk->slots; slot++) {
        disk->belief[slot] = belief[slot];
        disk->position[slot] = belief[slot].position;
        keeper_raise_position(disk->keeper, belief[slot].position);
    }
}

static struct keeper_disk *disk_of(struct keeper *keeper, const struct identity *identity)
{
    for (uint32_t i = 0; i < keeper->disks; i++)
        if (identity_equal(&keeper->disk[i]->identity, identity))
            return keeper->disk[i];
    return NULL;
}

void keeper_expect_disk(struct keeper *keeper, bool expected)
{
    keeper->expecting = expected;
    keeper->expired_count = 0;
}

void keeper_note_expired(struct keeper *keeper, const struct identity *segment)
{
    if (!keeper->expecting)
        return;
    if (keeper->expired_count == keeper->expired_room) {
        uint32_t room = keeper->expired_room ? 2 * keeper->expired_room : 256;
        struct identity *grown = realloc(keeper->expired, room * sizeof *grown);
        if (!grown)
            return; /* then a copy of it is believed in: older than all else, it is the next to go */
        keeper->expired = grown;
        keeper->expired_room = room;
    }
    keeper->expired[keeper->expired_count++] = *segment;
}

/* What has expired while the disk was looked at is free there, too. */
static void disbelieve_expired(struct keeper *keeper, struct keeper_disk *disk)
{
    for (uint32_t slot = 0; slot < disk->slots; slot++)
        for (uint32_t i = 0; disk->position[slot] != 0 && i < keeper->expired_count; i++)
            if (identity_equal(&disk->belief[slot].segment, &keeper->expired[i])) {
                disk->position[slot] = 0;
                disk->belief[slot].position = 0;
                catalog_drop_segment(keeper->options.catalog, &keeper->expired[i]);
            }
    keeper_expect_disk(keeper, false);
}

void keeper_disk_free(struct keeper_disk *disk)
{
    if (disk->probe)
        free(disk->probe->buffer);
    free(disk->probe);
    free(disk->position);
    free(disk->belief);
    free(disk->open);
    free(disk);
}

int keeper_add_disk(struct keeper *keeper, struct disk *io, const struct identity *identity,
                    const struct slot_belief *belief, uint32_t *number)
{
    struct keeper_disk *before = disk_of(keeper, identity);
    if (before && (before->io || before->current + before->marked > 0))
        return ERR_BUSY;
    if (!before && keeper->disks == RING_DISKS_MAX)
        return ERR_TOO_LARGE;
    uint32_t slots = io->geometry.slot_count;
    struct keeper_disk *disk = before ? before : calloc(1, sizeof *disk);
    uint64_t *position = calloc(slots, sizeof *position);
    struct slot_belief *beliefs = calloc(slots, sizeof *beliefs);
    const struct segment **open = calloc(slots, sizeof(struct segment *));
    if (!disk || !position || !beliefs || !open) {
        if (!before)
            free(disk);
        free(position);
        free(beliefs);
        free(open);
        return ERR_NO_MEMORY;
    }
    if (before) {
        free(disk->position);
        free(disk->belief);
        free(disk->open);
    } else {
        disk->keeper = keeper;
        disk->identity = *identity;
        disk->number = keeper->disks;
        keeper->disk[keeper->disks++] = disk;
    }
    disk->io = io;
    disk->held = UINT32_MAX;
    snprintf(disk->name, sizeof disk->name, "%s", io->name);
    disk->slots = slots;
    disk->position = position;
    disk->belief = beliefs;
    disk->open = open;
    disk->failed = disk->suspect = disk->doubtful = false;
    disk->errors_in_a_row = disk->flush_errors = 0;
    disk->joins++;
    life_changed(disk);
    if (number)
        *number = disk->number;
    put_beliefs(disk, belief);
    disbelieve_expired(keeper, disk);
    if (keeper->dead)
        set_dead(keeper, false);
    keeper->prepare_again = true;
    return 0;
}

/* A disk has left. What is durable there stays in the row where it may come back by itself, else another row says where it is. */
static void segment_forget_disk(struct segment *segment, const struct keeper_disk *disk)
{
    struct segment_row *row = &segment->row;
    uint8_t kept = 0;
    for (uint8_t i = 0; i < segment->copies; i++)
        segment->copy[i].gone |= segment->copy[i].disk == disk;
    for (uint8_t p = 0; p < row->places; p++)
        if (disk->away != DISK_REMOVED || !identity_equal(&row->place[p].disk, &disk->identity))
            row->place[kept++] = row->place[p];
    row->places = kept;
}

int keeper_leave_disk(struct keeper *keeper, uint32_t number, enum disk_state state)
{
    struct keeper_disk *disk = number < keeper->disks ? keeper->disk[number] : NULL;
    if (!disk || !disk->io)
        return ERR_NOT_FOUND;
    bool others = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        others |= i != number && keeper_disk_left(keeper->disk[i]);
    if (!others && !disk->failed && keeper->streams)
        return ERR_BUSY;
    disk->io = NULL;
    disk->away = state;
    life_changed(disk);
    leave_behind(keeper, disk);
    assert(!disk->waiting_head);
    /* What waits for a flush there waits in vain. Frames have been taken out of the list; the rest is told. */
    struct disk_request *request = disk->unflushed_head;
    disk->unflushed_head = disk->unflushed_tail = disk->flush_last = NULL;
    disk->unflushed_bytes = 0;
    while (request) {
        struct disk_request *next = request->next;
        request_flushed(keeper, request, false);
        request = next;
    }
    for (struct segment *segment = keeper->segments; segment; segment = segment->next)
        segment_forget_disk(segment, disk);
    memset(disk->position, 0, disk->slots * sizeof *disk->position);
    memset(disk->belief, 0, disk->slots * sizeof *disk->belief);
    memset(disk->open, 0, disk->slots * sizeof *disk->open);
    keeper_settle_all(keeper);
    return 0;
}

bool keeper_disk_is_quiet(const struct keeper *keeper, uint32_t number)
{
    const struct keeper_disk *disk = keeper->disk[number];
    return !disk->io && disk->current + disk->marked == 0;
}

void keeper_set_failure_domain(struct keeper *keeper, uint32_t number, uint64_t domain)
{
    if (number < keeper->disks)
        keeper->disk[number]->failure_domain = domain;
}

void keeper_set_beliefs(struct keeper *keeper, uint32_t number, const struct slot_belief *belief)
{
    assert(!keeper->streams && !keeper->segments);
    put_beliefs(keeper->disk[number], belief);
}

/* ---- answers ------------------------------------------------------------------------------------- */

void keeper_request_submit(struct keeper_disk *disk, struct keeper_request *request)
{
    request->disk = disk;
    request->request.done = request_answered;
    request->request.owner = request;
    if (!disk->io) {
        count_submitted(disk->keeper, disk, &request->request, &request->generation);
        request->request.result = ERR_CLOSED;
        request_answered(&request->request);
        return;
    }
    keeper_submit(disk->keeper, disk, &request->request, &request->generation);
}

void keeper_request_flush(struct keeper_request *request, uint64_t due_ns)
{
    if (!request->disk->io) {
        request->flushed(request->disk->keeper, request, false);
        return;
    }
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
    } else if (asked->result != 0 && asked->op == DISK_READ) {
        disk->read_errors++;
    } else if (asked->result != 0) {
        disk->write_errors++;
    }
    request->finished(keeper, request);
}

void keeper_request_finished(struct keeper *keeper, struct disk_request *request)
{
    if (is_frame(request)) {
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
