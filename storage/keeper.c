/*
 * keeper.c - the ring's state machine.
 *
 * The happy path of a frame: stream.c posts it -> frame_arrived() puts it into the stream's queue and submits it to the
 * disks of its segment's copies -> frame_written() for each -> the disk is flushed (flush_due() says when) ->
 * frame_flushed() -> settle() takes what is durable from the head of the stream's queue, in order, tells stream and
 * catalog, and gives the buffers back.
 *
 * When a write fails, the copy is bad and gets no more frames. When no good copy is left the segment has ended: the stream
 * is told to go on in another one; once nothing of it is under way, rescue() gives the frames that are not durable
 * to a segment of their own, elsewhere if there is an elsewhere. When no disk is left they are lost, and counted.
 *
 * Closing: a stream is detached when its queue is empty; the keeper is freed when nothing is under way.
 */
#include "keeper.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "placement.h"
#include "stream.h"

#define POSITION_IN_USE UINT64_MAX
#define OPEN_PATIENCE_NS 200000000ull
#define SUSPECT_AFTER_NS 2000000000ull
#define DISK_ERRORS_MAX 4 /* failed writes or flushes in a row that make a disk failed */

struct keeper_disk {
    struct keeper *keeper;
    struct disk *io;
    struct identity identity;
    uint32_t number;
    uint32_t slots;
    uint64_t *position; /* of what may be overwritten; 0 free, POSITION_IN_USE */
    struct slot_belief *belief;
    const struct segment **open;   /* the segment that uses the slot, or null */
    bool failed;
    bool suspect;
    uint32_t errors_in_a_row;

    /*
     * The watchdog. Requests carry the generation in which they were submitted. `marked` counts those of earlier generations
     * that are still out; when it comes to 0 the present generation becomes the marked one. So the oldest
     * request is at least as old as the mark while `marked` is not 0, without a list of requests.
     */
    uint32_t generation, current, marked;
    uint64_t marked_ns;

    uint64_t read_errors, write_errors, written_bytes, flushes;
    uint64_t in_flight_bytes;

    /* Writes that completed and are not flushed, in the order of their completion. */
    struct disk_request *unflushed_head;
    struct disk_request *unflushed_tail;
    uint64_t unflushed_bytes;
    uint64_t flush_due_ns; /* when the first of them has to be flushed */
    bool flush_wanted;
    bool flush_running;
    struct disk_request *flush_last; /* the running flush covers the list up to and with this one; null: nothing any more */
    struct disk_request flush;
    uint32_t flush_generation;
};

struct call {
    struct call *next;
    void (*function)(struct keeper *keeper, void *context);
    void *context;
    bool done;
};

struct keeper {
    struct keeper_options options;
    uint64_t next_position;
    uint32_t disks;
    struct keeper_disk *disk[RING_DISKS_MAX];
    struct stream *streams;
    struct segment *segments; /* all that are being prepared or filled */
    uint64_t segments_opened, segments_sealed, stale_beliefs;
    uint64_t requests_under_way;
    uint64_t pool_bytes;
    bool dead;
    bool prepare_again; /* a preparation found no disk: look again when something has changed */

    /* the mailbox */
    pthread_mutex_t lock;
    pthread_cond_t posted;
    pthread_cond_t called;
    struct frame_buffer *frames, **frames_end;
    struct disk_request *requests, **requests_end;
    struct stream *stream_posts, **stream_posts_end;
    struct call *calls, **calls_end;
    bool waiting; /* the keeper sleeps until something is posted */
    bool threaded;
    pthread_t thread;
    bool thread_known;
};

static void settle(struct keeper *keeper, struct stream *stream);
static void segment_free(struct segment *segment);
static void prepare(struct keeper *keeper, struct stream *stream, bool rescue);
static void segment_check_done(struct segment *segment);
static void segment_opened(struct segment *segment, struct segment_copy *copy, bool good);

static void say(struct keeper *keeper, const char *severity, const char *kind, const char *text)
{
    if (keeper->options.event)
        keeper->options.event(keeper->options.context, severity, kind, text);
}

const struct keeper_options *keeper_options(const struct keeper *keeper)
{
    return &keeper->options;
}

/* ---- the mailbox -------------------------------------------------------------------------------- */

/* Unlocks, then wakes the keeper if it sleeps: the other way round it would wake only to wait for the lock. */
static void mailbox_posted(struct keeper *keeper)
{
    bool wake = keeper->waiting;
    keeper->waiting = false;
    pthread_mutex_unlock(&keeper->lock);
    if (wake)
        pthread_cond_signal(&keeper->posted);
}

void keeper_post_frame(struct keeper *keeper, struct frame_buffer *buffer)
{
    buffer->next = NULL;
    pthread_mutex_lock(&keeper->lock);
    *keeper->frames_end = buffer;
    keeper->frames_end = &buffer->next;
    mailbox_posted(keeper);
}

void keeper_post_stream(struct keeper *keeper, struct stream *stream)
{
    if (atomic_exchange(stream_posted(stream), true))
        return;
    pthread_mutex_lock(&keeper->lock);
    *stream_mailbox_next(stream) = NULL;
    *keeper->stream_posts_end = stream;
    keeper->stream_posts_end = stream_mailbox_next(stream);
    mailbox_posted(keeper);
}

static void post_request(struct keeper *keeper, struct disk_request *request)
{
    request->next = NULL;
    pthread_mutex_lock(&keeper->lock);
    *keeper->requests_end = request;
    keeper->requests_end = &request->next;
    mailbox_posted(keeper);
}

void keeper_set_threaded(struct keeper *keeper, bool threaded)
{
    pthread_mutex_lock(&keeper->lock);
    keeper->threaded = threaded;
    keeper->thread_known = false;
    pthread_mutex_unlock(&keeper->lock);
}

void keeper_call(struct keeper *keeper, void (*function)(struct keeper *keeper, void *context), void *context)
{
    struct call call = {.function = function, .context = context};
    pthread_mutex_lock(&keeper->lock);
    if (!keeper->threaded || (keeper->thread_known && pthread_equal(keeper->thread, pthread_self()))) {
        pthread_mutex_unlock(&keeper->lock);
        function(keeper, context);
        return;
    }
    *keeper->calls_end = &call;
    keeper->calls_end = &call.next;
    pthread_cond_signal(&keeper->posted);
    while (!call.done)
        pthread_cond_wait(&keeper->called, &keeper->lock);
    pthread_mutex_unlock(&keeper->lock);
}

/* ---- requests ----------------------------------------------------------------------------------- */

static struct segment_copy *copy_of(struct segment *segment, const struct disk_request *request)
{
    for (uint8_t i = 0; i < segment->copies; i++)
        if (&segment->copy[i].request == request || &segment->copy[i].unseal == request)
            return &segment->copy[i];
    abort();
}

static void frame_request_done(struct disk_request *request)
{
    post_request(((struct frame_buffer *)request->owner)->segment->keeper, request);
}

static void segment_request_done(struct disk_request *request)
{
    post_request(((struct segment *)request->owner)->keeper, request);
}

static void flush_request_done(struct disk_request *request)
{
    post_request(((struct keeper_disk *)request->owner)->keeper, request);
}

static void submit(struct keeper *keeper, struct keeper_disk *disk, struct disk_request *request, uint32_t *generation)
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

static void request_answered(struct keeper *keeper, struct keeper_disk *disk, const struct disk_request *request,
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
        say(keeper, "info", "disk-back", text);
        keeper->prepare_again = true;
    }
}

static void disk_error(struct keeper *keeper, struct keeper_disk *disk, const char *what, int result)
{
    char text[512];
    snprintf(text, sizeof text, "disk %.255s: %s failed: %s", disk->io->name, what, error_text(result));
    say(keeper, "warning", "disk-error", text);
    if (++disk->errors_in_a_row < DISK_ERRORS_MAX || disk->failed)
        return;
    disk->failed = true;
    bool left = false;
    for (uint32_t i = 0; i < keeper->disks; i++)
        left |= !keeper->disk[i]->failed;
    snprintf(text, sizeof text, "disk %.255s has failed and is written no more%s", disk->io->name,
             left ? "" : "; no disk is left: nothing can be recorded");
    say(keeper, "error", "disk-failed", text);
    if (left || keeper->dead)
        return;
    keeper->dead = true;
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        stream_set_dead(stream, true);
}

/* ---- frames ------------------------------------------------------------------------------------- */

static uint8_t place_of(const struct frame_buffer *buffer, const struct disk_request *request)
{
    return (uint8_t)(request - buffer->request);
}

/* Some copy that still counts has not written and flushed it. */
static bool frame_pending(const struct frame_buffer *buffer)
{
    for (uint8_t i = 0; i < buffer->segment->copies; i++)
        if (!buffer->segment->copy[i].bad &&
            (buffer->place[i] == PLACE_SUBMITTED || buffer->place[i] == PLACE_WRITTEN))
            return true;
    return false;
}

static bool frame_flushed_somewhere(const struct frame_buffer *buffer)
{
    for (uint8_t i = 0; i < buffer->segment->copies; i++)
        if (buffer->place[i] == PLACE_FLUSHED)
            return true;
    return false;
}

static bool frame_write_open(const struct frame_buffer *buffer)
{
    for (uint8_t i = 0; i < buffer->segment->copies; i++)
        if (buffer->place[i] == PLACE_SUBMITTED)
            return true;
    return false;
}

/* Nobody waits for the frame any more. Its buffer is given back, now or when the last write of it has answered. */
static void frame_release(struct keeper *keeper, struct frame_buffer *buffer)
{
    struct segment *segment = buffer->segment;
    buffer->settled = true;
    if (frame_write_open(buffer))
        return;
    pool_give(keeper->options.pool, buffer);
    if (--segment->buffers == 0 && segment->phase == SEGMENT_DONE)
        segment_free(segment);
}

/* A disk may have this much submitted before it is taken for slower than the others. */
static uint64_t disk_share(const struct keeper *keeper)
{
    return keeper->disks > 1 ? keeper->pool_bytes / 2 : UINT64_MAX;
}

static void copy_is_bad(struct segment *segment, struct segment_copy *copy);

/* Of a segment with several copies, one whose disk has fallen far behind the others is left, before it holds all buffers. */
static void leave_laggards(struct keeper *keeper, struct segment *segment)
{
    uint64_t share = disk_share(keeper), least = UINT64_MAX;
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad && segment->copy[i].disk->in_flight_bytes < least)
            least = segment->copy[i].disk->in_flight_bytes;
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        if (copy->bad || copy->disk->in_flight_bytes < share || least > share / 4)
            continue;
        char text[400];
        snprintf(text, sizeof text, "disk %.255s is slower than the others: a segment goes on without a copy there",
                 copy->disk->io->name);
        say(keeper, "warning", "disk-slow", text);
        copy_is_bad(segment, copy);
    }
}

static void frame_submit(struct keeper *keeper, struct frame_buffer *buffer)
{
    struct segment *segment = buffer->segment;
    memset(buffer->place, PLACE_NONE, sizeof buffer->place);
    leave_laggards(keeper, segment);
    if (atomic_load(&segment->ended))
        return;
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        if (copy->bad)
            continue;
        struct disk_request *request = &buffer->request[i];
        *request = (struct disk_request){
            .op = DISK_WRITE,
            .slot = copy->slot,
            .offset = buffer->offset,
            .buffer = buffer->bytes,
            .bytes = buffer->length,
            .buffer_index = buffer->index,
            .done = frame_request_done,
            .owner = buffer,
        };
        buffer->place[i] = PLACE_SUBMITTED;
        copy->writes_open++;
        submit(keeper, copy->disk, request, &buffer->generation[i]);
    }
}

static void frame_arrived(struct keeper *keeper, struct frame_buffer *buffer)
{
    struct segment *segment = buffer->segment;
    buffer->next = NULL;
    if (segment->phase == SEGMENT_READY)
        segment->phase = SEGMENT_FILLING;
    segment->frames_received++;
    segment->buffers++;
    if (buffer->kind != FRAME_DATA) {
        /* A seal says that all before it is there: it is written when that is so. */
        struct frame_buffer **end = &segment->closing;
        while (*end)
            end = &(*end)->next;
        *end = buffer;
        if (buffer->kind == FRAME_SEAL)
            atomic_store(&segment->frames_sent, segment->frames_received);
        for (uint8_t i = 0; i < segment->copies && buffer->flush; i++)
            segment->copy[i].disk->flush_wanted = true;
        settle(keeper, buffer->stream);
        return;
    }
    struct stream_queue *queue = stream_queue(buffer->stream);
    if (queue->tail)
        queue->tail->next = buffer;
    else
        queue->head = buffer;
    queue->tail = buffer;
    segment->frames_under_way++;
    frame_submit(keeper, buffer);
    if (!frame_pending(buffer))
        settle(keeper, buffer->stream);
}

static void unflushed_add(struct keeper_disk *disk, struct disk_request *request, uint64_t due_ns)
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
static void unflushed_forget(struct keeper_disk *disk, const struct segment *segment)
{
    struct disk_request **link = &disk->unflushed_head, *before = NULL;
    while (*link) {
        struct disk_request *request = *link;
        struct frame_buffer *buffer = request->owner;
        if (request->done != frame_request_done || buffer->segment != segment) {
            before = request;
            link = &request->next;
            continue;
        }
        *link = request->next;
        disk->unflushed_bytes -= request->bytes;
        buffer->place[place_of(buffer, request)] = PLACE_FAILED;
        if (disk->flush_last == request)
            disk->flush_last = before;
        if (disk->unflushed_tail == request)
            disk->unflushed_tail = before;
    }
}

/* No good copy of the segment is left: it ends, and the stream hears of it. */
static void segment_end(struct segment *segment)
{
    if (segment->phase == SEGMENT_FILLING)
        segment->phase = SEGMENT_ENDED;
    atomic_store(&segment->ended, true);
    keeper_post_stream(segment->keeper, segment->stream);
}

static void copy_is_bad(struct segment *segment, struct segment_copy *copy)
{
    if (!copy->bad) {
        copy->bad = true;
        unflushed_forget(copy->disk, segment);
    }
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad)
            return;
    if (!atomic_load(&segment->ended))
        segment_end(segment);
}

static void slot_release(struct segment_copy *copy)
{
    struct keeper_disk *disk = copy->disk;
    disk->belief[copy->slot] = copy->left;
    disk->position[copy->slot] = copy->left.position;
    disk->open[copy->slot] = NULL;
}

/* A write of this copy has answered. */
static void copy_answered(struct segment_copy *copy)
{
    if (--copy->writes_open == 0 && copy->released)
        slot_release(copy);
}

static void frame_written(struct keeper *keeper, struct disk_request *request)
{
    struct frame_buffer *buffer = request->owner;
    struct segment *segment = buffer->segment;
    struct stream *stream = buffer->stream;
    uint8_t i = place_of(buffer, request);
    struct segment_copy *copy = &segment->copy[i];
    bool good = request->result == 0;
    request_answered(keeper, copy->disk, request, buffer->generation[i]);
    copy_answered(copy);
    buffer->place[i] = PLACE_FAILED;
    if (good) {
        copy->disk->errors_in_a_row = 0;
        copy->disk->written_bytes += request->bytes;
    } else {
        copy->disk->write_errors++;
        disk_error(keeper, copy->disk, "a write", request->result);
    }
    if (buffer->settled) {
        frame_release(keeper, buffer);
        return;
    }
    if (good && !copy->bad) {
        buffer->place[i] = PLACE_WRITTEN;
        unflushed_add(copy->disk, request, buffer->due_ns);
        if (buffer->flush)
            copy->disk->flush_wanted = true;
        return;
    }
    copy_is_bad(segment, copy);
    settle(keeper, stream);
}

/* ---- flushing ----------------------------------------------------------------------------------- */

static bool flush_due(const struct keeper *keeper, const struct keeper_disk *disk, uint64_t now)
{
    if (!disk->unflushed_head || disk->flush_running)
        return false;
    return disk->flush_wanted || disk->unflushed_bytes >= keeper->options.unflushed_bytes_max ||
           now >= disk->flush_due_ns;
}

static void flush_start(struct keeper *keeper, struct keeper_disk *disk)
{
    disk->flush_running = true;
    disk->flush_wanted = false;
    disk->flush_last = disk->unflushed_tail;
    disk->flush = (struct disk_request){.op = DISK_FLUSH,
                                        .slot = DISK_SLOT_META,
                                        .buffer_index = -1,
                                        .done = flush_request_done,
                                        .owner = disk};
    submit(keeper, disk, &disk->flush, &disk->flush_generation);
}

static void flush_done(struct keeper *keeper, struct keeper_disk *disk)
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
        disk_error(keeper, disk, "a flush", disk->flush.result);
        rest = NULL;
    }
    disk->unflushed_head = rest;
    if (!rest)
        disk->unflushed_tail = NULL;
    disk->flush_due_ns = UINT64_MAX;
    for (struct disk_request *one = rest; one; one = one->next) {
        uint64_t due_ns = one->done == segment_request_done ? 0 : ((struct frame_buffer *)one->owner)->due_ns;
        if (due_ns < disk->flush_due_ns)
            disk->flush_due_ns = due_ns;
    }
    while (request != rest) {
        struct disk_request *next = request->next;
        disk->unflushed_bytes -= request->bytes;
        if (request->done == segment_request_done) {
            struct segment *segment = request->owner;
            segment_opened(segment, copy_of(segment, request), good);
        } else {
            struct frame_buffer *buffer = request->owner;
            uint8_t i = place_of(buffer, request);
            buffer->place[i] = good ? PLACE_FLUSHED : PLACE_FAILED;
            if (!good) {
                /* May take frames of the same copy out of what is left of the list, which we have cut off already. */
                struct segment_copy *copy = &buffer->segment->copy[i];
                copy->bad = true;
                copy_is_bad(buffer->segment, copy);
            }
        }
        request = next;
    }
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        settle(keeper, stream);
}

void keeper_flush(struct keeper *keeper)
{
    for (uint32_t i = 0; i < keeper->disks; i++)
        keeper->disk[i]->flush_wanted = true;
}

/* ---- what is durable ---------------------------------------------------------------------------- */

static void segment_unlink(struct segment *segment)
{
    struct segment **link = &segment->keeper->segments;
    while (*link != segment)
        link = &(*link)->next;
    *link = segment->next;
}

static void segment_free(struct segment *segment)
{
    segment_unlink(segment);
    free(segment->page);
    free(segment);
}

/* Gives the slots up; those with an open write when that has answered. The segment goes when nothing refers to it any more. */
static void segment_done(struct segment *segment)
{
    segment->phase = SEGMENT_DONE;
    for (uint8_t i = 0; i < segment->copies; i++) {
        segment->copy[i].released = true;
        if (segment->copy[i].writes_open == 0)
            slot_release(&segment->copy[i]);
    }
    if (segment->buffers == 0)
        segment_free(segment);
}

/* Nothing more will be written into it: its slots may be overwritten in their turn. */
static void segment_close(struct segment *segment)
{
    struct slot_belief belief = {
        .segment = segment->identity.segment,
        .position = segment->row.packets > 0 ? segment->identity.position : 0,
        .revision = segment->identity.revision,
    };
    for (uint8_t i = 0; i < segment->copies; i++)
        segment->copy[i].left = belief;
    if (belief.position == 0)
        catalog_drop_segment(segment->keeper->options.catalog, &segment->identity.segment);
    else
        catalog_put_segment(segment->keeper->options.catalog, &segment->row);
    segment_done(segment);
}

/* The places without the bad copies, and the counts, in the catalog's form. */
static void row_update(struct segment *segment, const struct frame_buffer *buffer)
{
    struct segment_row *row = &segment->row;
    row->places = 0;
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad)
            row->place[row->places++] =
                (struct segment_place){.disk = segment->copy[i].disk->identity, .slot = segment->copy[i].slot};
    if (buffer->kind == FRAME_SEAL || buffer->kind == FRAME_INDEX) {
        if (row->index_offset == 0)
            row->index_offset = buffer->offset;
        uint32_t end = buffer->offset + buffer->length;
        row->index_bytes = (buffer->kind == FRAME_SEAL ? end - PAGE_BYTES : end) - row->index_offset;
        return;
    }
    if (row->packets == 0) {
        row->first_packet = buffer->first_packet;
        row->head_ns = buffer->head_ns;
    }
    row->packets += buffer->packets;
    row->captured_bytes += buffer->captured_bytes;
    if (buffer->first_ns < row->first_ns)
        row->first_ns = buffer->first_ns;
    if (buffer->last_ns > row->last_ns)
        row->last_ns = buffer->last_ns;
    row->data_end = buffer->offset + buffer->length;
}

static struct frame_buffer *queue_pop(struct stream_queue *queue)
{
    struct frame_buffer *buffer = queue->head;
    queue->head = buffer->next;
    if (!queue->head)
        queue->tail = NULL;
    return buffer;
}

/* Whether the stream has said that it will send no more of it, and all that it sent has arrived. */
static bool segment_complete(struct segment *segment)
{
    return atomic_load(&segment->frames_sent) == segment->frames_received;
}

/*
 * Whether the frames of an ended segment can be given to another one: not while a write of them may still answer soon. When the disk does
 * not answer they are copied (rescue_into).
 */
static bool segment_quiet(const struct stream_queue *queue, const struct segment *segment)
{
    for (const struct frame_buffer *buffer = queue->head; buffer; buffer = buffer->next)
        for (uint8_t i = 0; buffer->segment == segment && i < segment->copies; i++)
            if (buffer->place[i] == PLACE_SUBMITTED && !segment->copy[i].disk->suspect)
                return false;
    return true;
}

/* The frames of the ended segment at the queue's head are lost: no disk is left to take them. */
static void lose(struct keeper *keeper, struct stream *stream, struct segment *segment)
{
    struct stream_queue *queue = stream_queue(stream);
    while (queue->head && queue->head->segment == segment) {
        struct frame_buffer *buffer = queue_pop(queue);
        segment->frames_under_way--;
        stream_settled(stream, buffer, true);
        frame_release(keeper, buffer);
    }
}

/* A copy of a frame whose own buffer a disk still holds. Null: no buffer is free. */
static struct frame_buffer *frame_copy(struct keeper *keeper, const struct frame_buffer *buffer)
{
    struct frame_buffer *copy = buffer->index < 0 ? pool_take_oversized(keeper->options.pool, buffer->capacity)
                                                  : pool_take(keeper->options.pool);
    if (!copy)
        return NULL;
    uint8_t *bytes = copy->bytes;
    uint32_t capacity = copy->capacity;
    int32_t index = copy->index;
    *copy = *buffer;
    copy->bytes = bytes;
    copy->capacity = capacity;
    copy->index = index;
    memcpy(bytes, buffer->bytes, buffer->length);
    return copy;
}

/*
 * Moves the frames of the ended segment at the queue's head into the rescue segment: they came out of a slot of its size. When there
 * are no buffers to copy into, what is left goes to a rescue segment of its own later. Returns whether any have been moved.
 */
static bool rescue_into(struct keeper *keeper, struct stream *stream, struct segment *ended, struct segment *rescue)
{
    struct stream_queue *queue = stream_queue(stream);
    uint32_t end = PAGE_BYTES;
    for (struct frame_buffer **link = &queue->head; *link && (*link)->segment == ended; link = &(*link)->next) {
        struct frame_buffer *buffer = *link;
        if (frame_write_open(buffer)) {
            struct frame_buffer *copy = frame_copy(keeper, buffer);
            if (!copy)
                break;
            *link = copy;
            if (queue->tail == buffer)
                queue->tail = copy;
            frame_release(keeper, buffer);
            buffer = copy;
        } else {
            ended->buffers--;
        }
        ended->frames_under_way--;
        buffer->segment = rescue;
        buffer->offset = end;
        buffer->number = ++rescue->frames_received;
        buffer->flush = true;
        end += buffer->length;
        frame_relabel(buffer->bytes, &rescue->identity, buffer->offset, buffer->number);
        rescue->buffers++;
        rescue->frames_under_way++;
        frame_submit(keeper, buffer);
    }
    if (rescue->frames_received == 0)
        return false;
    rescue->phase = SEGMENT_FILLING;
    atomic_store(&rescue->frames_sent, rescue->frames_received);
    return true;
}

/*
 * The head of the queue belongs to a segment that has ended. Once nothing of it is under way its remaining frames
 * go elsewhere. Returns whether the queue has moved.
 */
static bool rescue(struct keeper *keeper, struct stream *stream, struct segment *segment)
{
    struct stream_queue *queue = stream_queue(stream);
    if (!segment_complete(segment) || !segment_quiet(queue, segment))
        return false;
    if (keeper->dead) {
        lose(keeper, stream, segment);
        return true;
    }
    struct segment *spare = NULL;
    bool on_the_way = false;
    for (struct segment *one = keeper->segments; one; one = one->next)
        if (one->rescue && !one->orphan && one->stream == stream && one->phase <= SEGMENT_READY) {
            on_the_way = true;
            if (one->phase == SEGMENT_READY)
                spare = one;
        }
    if (!spare) {
        if (!on_the_way)
            prepare(keeper, stream, true);
        return false;
    }
    return rescue_into(keeper, stream, segment, spare);
}

/* Writes the next INDEX frame or the SEAL, when everything before it is durable. Returns whether the segment is closed. */
static bool closing_go_on(struct keeper *keeper, struct segment *segment)
{
    while (segment->closing) {
        struct frame_buffer *buffer = segment->closing;
        bool submitted = segment->closing_submitted;
        if (submitted && frame_pending(buffer))
            return false;
        if (atomic_load(&segment->ended)) {
            segment->closing = buffer->next;
            segment->closing_submitted = false;
            frame_release(keeper, buffer);
            continue;
        }
        if (segment->frames_under_way > 0)
            return false;
        if (!submitted) {
            segment->closing_submitted = true;
            frame_submit(keeper, buffer);
            continue;
        }
        if (!frame_flushed_somewhere(buffer)) {
            segment_end(segment);
            continue;
        }
        row_update(segment, buffer);
        segment->closing = buffer->next;
        segment->closing_submitted = false;
        if (buffer->kind == FRAME_SEAL) {
            segment->row.state = SEGMENT_SEALED;
            segment->row.sealed_ns = keeper->options.wall_ns(keeper->options.context);
            keeper->segments_sealed++;
        }
        frame_release(keeper, buffer);
    }
    if (segment->frames_under_way > 0 || !segment_complete(segment))
        return false;
    /* Sealed; or ended, unused or a rescue, and without a seal until the next start gives it one. */
    segment_close(segment);
    return true;
}

static void settle(struct keeper *keeper, struct stream *stream)
{
    struct stream_queue *queue = stream_queue(stream);
    while (queue->head) {
        struct frame_buffer *buffer = queue->head;
        struct segment *segment = buffer->segment;
        if (frame_pending(buffer) || !frame_flushed_somewhere(buffer)) {
            if (atomic_load(&segment->ended) && rescue(keeper, stream, segment))
                continue;
            break;
        }
        queue_pop(queue);
        segment->frames_under_way--;
        row_update(segment, buffer);
        stream_settled(stream, buffer, false);
        frame_release(keeper, buffer);
    }
    for (struct segment *one = keeper->segments, *next; one; one = next) {
        next = one->next;
        if (one->stream == stream && one->phase >= SEGMENT_READY && one->phase != SEGMENT_DONE)
            (void)closing_go_on(keeper, one);
    }
}

/* ---- preparing segments -------------------------------------------------------------------------- */

static uint32_t victim_of(const struct keeper_disk *disk, uint64_t *position, uint32_t *free_slots)
{
    uint32_t best = UINT32_MAX;
    uint64_t lowest = POSITION_IN_USE;
    *free_slots = 0;
    for (uint32_t slot = 0; slot < disk->slots; slot++) {
        if (disk->position[slot] == 0)
            (*free_slots)++;
        if (disk->position[slot] < lowest) {
            lowest = disk->position[slot];
            best = slot;
        }
    }
    *position = lowest;
    return best;
}

static void slot_take(struct segment *segment, struct segment_copy *copy, struct keeper_disk *disk, uint32_t slot)
{
    *copy = (struct segment_copy){.disk = disk, .slot = slot};
    disk->position[slot] = POSITION_IN_USE;
    disk->open[slot] = segment;
}

/* Reads the header of the slot that a copy is to take. */
static void check_submit(struct segment *segment, uint8_t i)
{
    struct segment_copy *copy = &segment->copy[i];
    copy->request = (struct disk_request){
        .op = DISK_READ,
        .slot = copy->slot,
        .offset = 0,
        .buffer = segment->page + i * PAGE_BYTES,
        .bytes = PAGE_BYTES,
        .buffer_index = -1,
        .done = segment_request_done,
        .owner = segment,
    };
    segment->outstanding++;
    submit(segment->keeper, copy->disk, &copy->request, &copy->generation);
}

static void prepare(struct keeper *keeper, struct stream *stream, bool is_rescue)
{
    struct placement_disk candidate[RING_DISKS_MAX];
    uint32_t victim[RING_DISKS_MAX], chosen[COPIES_MAX];
    for (uint32_t i = 0; i < keeper->disks; i++) {
        struct keeper_disk *disk = keeper->disk[i];
        candidate[i] = (struct placement_disk){.slots = disk->slots, .in_flight_bytes = disk->in_flight_bytes};
        victim[i] = victim_of(disk, &candidate[i].oldest_position, &candidate[i].free_slots);
        candidate[i].usable = !disk->failed && !disk->suspect && victim[i] != UINT32_MAX &&
                              disk->in_flight_bytes < disk_share(keeper);
    }
    uint32_t copies = placement_choose(candidate, keeper->disks, keeper->options.copies, chosen);
    if (copies == 0) { /* rather a disk that is slow than none */
        for (uint32_t i = 0; i < keeper->disks; i++)
            candidate[i].usable = !keeper->disk[i]->failed && victim[i] != UINT32_MAX;
        copies = placement_choose(candidate, keeper->disks, keeper->options.copies, chosen);
    }
    if (copies == 0) {
        keeper->prepare_again = true;
        return;
    }
    struct segment *segment = calloc(1, sizeof *segment);
    uint8_t *page = segment ? aligned_alloc(PAGE_BYTES, (size_t)COPIES_MAX * PAGE_BYTES) : NULL;
    if (!page) {
        free(segment);
        keeper->prepare_again = true;
        return;
    }
    segment->keeper = keeper;
    segment->stream = stream;
    segment->page = page;
    segment->slot_bytes = keeper->options.slot_bytes;
    segment->phase = SEGMENT_CHECKING;
    segment->rescue = is_rescue;
    atomic_store(&segment->frames_sent, FRAMES_NOT_ALL_SENT);
    segment->copies = (uint8_t)copies;
    segment->next = keeper->segments;
    keeper->segments = segment;
    if (!is_rescue)
        stream_queue(stream)->preparing++;
    for (uint8_t i = 0; i < copies; i++)
        slot_take(segment, &segment->copy[i], keeper->disk[chosen[i]], victim[chosen[i]]);
    for (uint8_t i = 0; i < copies; i++)
        check_submit(segment, i);
}

/* A segment expires at all its places at once. */
static void expire(struct keeper *keeper, const struct slot_belief *belief)
{
    if (belief->position == 0)
        return;
    for (uint32_t i = 0; i < keeper->disks; i++) {
        struct keeper_disk *disk = keeper->disk[i];
        for (uint32_t slot = 0; slot < disk->slots; slot++)
            if (disk->position[slot] == belief->position) {
                disk->position[slot] = 0;
                disk->belief[slot] = (struct slot_belief){0};
            }
    }
    catalog_drop_segment(keeper->options.catalog, &belief->segment);
}

/* Another one may be prepared in its place. */
static void segment_orphan(struct segment *segment)
{
    if (!segment->rescue && !segment->orphan)
        stream_queue(segment->stream)->preparing--;
    segment->orphan = true;
    segment->keeper->prepare_again = true;
}

static void segment_give_up(struct segment *segment)
{
    segment_orphan(segment);
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        /* Up to here nothing was overwritten; afterwards the slot holds nothing that anybody knows of. */
        copy->left = (struct slot_belief){0};
        if (segment->phase == SEGMENT_CHECKING)
            copy->left = copy->disk->belief[copy->slot];
    }
    segment_done(segment);
}

/* Never written to, but a request's buffer is not const. */
static _Alignas(PAGE_BYTES) uint8_t zero_page[PAGE_BYTES];

/* Writes the OPEN frame to every copy, and clears the page of the old seal: it would speak for what is being overwritten. */
static void open_submit(struct segment *segment)
{
    struct keeper *keeper = segment->keeper;
    const struct keeper_options *options = &keeper->options;
    struct open_body body = {
        .opened_ns = le64_of((uint64_t)options->wall_ns(options->context)),
        .slot_bytes = le64_of(options->slot_bytes),
        .copies = segment->copies,
        .version = TAPELOOP_VERSION,
    };
    for (uint8_t i = 0; i < segment->copies; i++)
        body.place[i] = (struct open_place){.disk = segment->copy[i].disk->identity,
                                            .slot = le32_of(segment->copy[i].slot)};
    memcpy(body.host, options->host, strnlen(options->host, sizeof body.host - 1));
    uint8_t salt[32];
    struct frame_finish finish = {.kind = FRAME_OPEN, .salt = salt};
    if (getrandom(salt, sizeof salt, 0) != (ssize_t)sizeof salt)
        abort();
    identity_make(&segment->identity.segment);
    segment->identity.ring = options->ring;
    segment->identity.run = options->run;
    segment->identity.position = keeper->next_position++;
    segment->identity.revision = segment->identity.data_revision = 1;
    segment->identity.stream = stream_number(segment->stream);
    segment->row = (struct segment_row){
        .ring = options->ring,
        .segment = segment->identity.segment,
        .position = segment->identity.position,
        .revision = 1,
        .data_revision = 1,
        .run = options->run,
        .stream = segment->identity.stream,
        .state = SEGMENT_OPEN,
        .opened_ns = (int64_t)le64_get(body.opened_ns),
        .first_ns = INT64_MAX,
        .last_ns = INT64_MIN,
        .data_end = PAGE_BYTES,
    };
    finish.first_packet = stream_frontier(segment->stream);
    finish.frontier = finish.first_packet;
    int built = frame_build_plain(segment->page, PAGE_BYTES, &segment->identity, NULL, &finish, &body, sizeof body);
    assert(built == (int)PAGE_BYTES);
    segment->phase = SEGMENT_OPENING;
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        copy->request = (struct disk_request){
            .op = DISK_WRITE,
            .slot = copy->slot,
            .buffer = segment->page,
            .bytes = PAGE_BYTES,
            .buffer_index = -1,
            .done = segment_request_done,
            .owner = segment,
        };
        copy->unseal = copy->request;
        copy->unseal.offset = options->slot_bytes - PAGE_BYTES;
        copy->unseal.buffer = zero_page;
        copy->opening = 2;
        segment->outstanding += 2;
        copy->writes_open += 2;
        submit(keeper, copy->disk, &copy->request, &copy->generation);
        submit(keeper, copy->disk, &copy->unseal, &copy->unseal_generation);
    }
}

/*
 * All headers have been read. A slot that holds another segment than believed is put right in the belief, and another slot
 * takes its place: what the catalog says is never reason enough to overwrite.
 */
static void segment_check_done(struct segment *segment)
{
    struct keeper *keeper = segment->keeper;
    if (segment->orphan) {
        segment_give_up(segment);
        return;
    }
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        struct keeper_disk *disk = copy->disk;
        struct frame_info info;
        if (copy->request.result != 0) {
            disk->read_errors++;
            disk_error(keeper, disk, "reading a slot's header", copy->request.result);
            /* What cannot be read cannot be kept either, but another disk is the better choice. */
            if (disk->failed) {
                segment_give_up(segment);
                return;
            }
            continue;
        }
        if (frame_parse(segment->page + i * PAGE_BYTES, PAGE_BYTES, &info) != 0 ||
            !identity_equal(&info.ring, &keeper->options.ring) || info.kind != FRAME_OPEN)
            continue;
        struct slot_belief *belief = &disk->belief[copy->slot];
        if (identity_equal(&info.segment, &belief->segment) || info.position <= belief->position)
            continue;
        bool known = belief->position == 0 && identity_equal(&belief->segment, &info.segment);
        if (known)
            continue;
        keeper->stale_beliefs++;
        keeper_raise_position(keeper, info.position);
        *belief = (struct slot_belief){
            .segment = info.segment, .position = info.position, .revision = info.revision};
        disk->position[copy->slot] = info.position;
        disk->open[copy->slot] = NULL;
        uint64_t position;
        uint32_t free_slots, slot = victim_of(disk, &position, &free_slots);
        if (slot == UINT32_MAX) { /* every slot is in use: a ring of very few slots */
            copy->bad = true;
            slot_take(segment, copy, disk, copy->slot);
            segment_give_up(segment);
            return;
        }
        slot_take(segment, copy, disk, slot);
        check_submit(segment, i);
    }
    if (segment->outstanding > 0)
        return;
    for (uint8_t i = 0; i < segment->copies; i++)
        expire(keeper, &segment->copy[i].disk->belief[segment->copy[i].slot]);
    open_submit(segment);
}

static void segment_ready_if_opened(struct segment *segment)
{
    uint8_t good = 0;
    for (uint8_t i = 0; i < segment->copies; i++) {
        if (segment->copy[i].opening > 0)
            return;
        good += !segment->copy[i].bad;
    }
    if (good == 0 || segment->orphan) {
        segment_give_up(segment);
        return;
    }
    struct keeper *keeper = segment->keeper;
    segment->phase = SEGMENT_READY;
    keeper->segments_opened++;
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad)
            segment->row.place[segment->row.places++] =
                (struct segment_place){.disk = segment->copy[i].disk->identity, .slot = segment->copy[i].slot};
    catalog_put_segment(keeper->options.catalog, &segment->row);
    if (segment->rescue) {
        settle(keeper, segment->stream);
        return;
    }
    stream_queue(segment->stream)->preparing--;
    stream_grant(segment->stream, segment);
}

/* One of the two writes that open a copy has come to its end: flushed, or failed. */
static void segment_opened(struct segment *segment, struct segment_copy *copy, bool good)
{
    copy->bad |= !good;
    copy->opening--;
    segment_ready_if_opened(segment);
}

/*
 * A stream that has nothing prepared waits for it; for others it need not be flushed at once: under load the flush that the frames
 * need comes soon enough.
 */
static uint64_t open_due_ns(struct keeper *keeper, const struct segment *segment)
{
    if (segment->rescue || segment->orphan || stream_leases(segment->stream) == 0)
        return 0;
    return keeper->options.monotonic_ns(keeper->options.context) + OPEN_PATIENCE_NS;
}

static void segment_request_finished(struct keeper *keeper, struct disk_request *request)
{
    struct segment *segment = request->owner;
    struct segment_copy *copy = copy_of(segment, request);
    segment->outstanding--;
    request_answered(keeper, copy->disk, request,
                     request == &copy->unseal ? copy->unseal_generation : copy->generation);
    if (request->op == DISK_WRITE)
        copy_answered(copy);
    if (segment->phase == SEGMENT_CHECKING) {
        if (segment->outstanding == 0)
            segment_check_done(segment);
        return;
    }
    if (request->result == 0) {
        copy->disk->written_bytes += request->bytes;
        unflushed_add(copy->disk, request, open_due_ns(keeper, segment));
        return;
    }
    copy->disk->write_errors++;
    disk_error(keeper, copy->disk, "writing a segment's first page", request->result);
    segment_opened(segment, copy, false);
}

/* Prepared slots hold nothing of the past any more: a small ring keeps fewer of them. */
static uint32_t leases_ahead(const struct keeper *keeper)
{
    uint64_t slots = 0;
    for (uint32_t i = 0; i < keeper->disks; i++)
        slots += keeper->disk[i]->slots;
    return slots < 32 ? 1 : KEEPER_LEASES_AHEAD;
}

static void prepare_what_is_wanted(struct keeper *keeper)
{
    keeper->prepare_again = false;
    if (keeper->dead)
        return;
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next) {
        while (stream_queue(stream)->preparing + stream_leases(stream) < leases_ahead(keeper)) {
            prepare(keeper, stream, false);
            if (keeper->prepare_again)
                return;
        }
        if (stream_leases(stream) > 0)
            continue;
        /* It has taken its last one: what was being opened at leisure is wanted now. */
        for (const struct segment *one = keeper->segments; one; one = one->next)
            for (uint8_t i = 0; i < one->copies && one->stream == stream && one->phase == SEGMENT_OPENING; i++)
                one->copy[i].disk->flush_wanted = true;
    }
}

/* ---- streams ------------------------------------------------------------------------------------- */

void keeper_attach_stream(struct keeper *keeper, struct stream *stream)
{
    struct stream_queue *queue = stream_queue(stream);
    *queue = (struct stream_queue){.next = keeper->streams, .attached = true};
    keeper->streams = stream;
    if (keeper->dead)
        stream_set_dead(stream, true);
    prepare_what_is_wanted(keeper);
}

bool keeper_stream_done(struct keeper *keeper, struct stream *stream)
{
    const struct stream_queue *queue = stream_queue(stream);
    if (queue->head || queue->preparing > 0 || atomic_load(stream_posted(stream)))
        return false;
    /* Leases are READY; a seal or an index may still be under way when the last packet is durable. */
    for (const struct segment *one = keeper->segments; one; one = one->next)
        if (one->stream == stream && !one->orphan && one->phase != SEGMENT_READY && one->phase != SEGMENT_DONE)
            return false;
    return true;
}

void keeper_detach_stream(struct keeper *keeper, struct stream *stream)
{
    struct stream_queue *queue = stream_queue(stream);
    assert(keeper_stream_done(keeper, stream));
    struct stream **link = &keeper->streams;
    while (*link != stream)
        link = &stream_queue(*link)->next;
    *link = queue->next;
    queue->attached = false;
    struct segment *lease;
    while ((lease = stream_take_lease(stream)))
        segment_close(lease);
}

/* ---- running ------------------------------------------------------------------------------------- */

static void request_finished(struct keeper *keeper, struct disk_request *request)
{
    if (request->done == frame_request_done) {
        frame_written(keeper, request);
    } else if (request->done == segment_request_done) {
        segment_request_finished(keeper, request);
    } else {
        struct keeper_disk *disk = request->owner;
        request_answered(keeper, disk, request, disk->flush_generation);
        flush_done(keeper, disk);
    }
}

/*
 * A disk that has not answered for too long is suspect, if there is another one: what is being filled there goes on
 * without it. Alone, it is waited for.
 */
static void watch(struct keeper *keeper, struct keeper_disk *disk, uint64_t now)
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
    say(keeper, "warning", "disk-suspect", text);
    for (struct segment *segment = keeper->segments; segment; segment = segment->next)
        for (uint8_t i = 0; i < segment->copies; i++)
            if (segment->copy[i].disk != disk)
                continue;
            else if (segment->phase < SEGMENT_READY)
                segment_orphan(segment);
            else if (segment->phase != SEGMENT_DONE)
                copy_is_bad(segment, &segment->copy[i]);
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        settle(keeper, stream);
}

static bool mailbox_empty(const struct keeper *keeper)
{
    return !keeper->frames && !keeper->requests && !keeper->stream_posts && !keeper->calls;
}

/* How long the keeper may sleep before a flush is due. */
static int sleep_ms(const struct keeper *keeper, int timeout_ms)
{
    uint64_t now = keeper->options.monotonic_ns(keeper->options.context);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        if (!disk->unflushed_head || disk->flush_running)
            continue;
        uint64_t due = disk->flush_due_ns;
        if (due <= now)
            return 0;
        if ((due - now) / 1000000 + 1 < (uint64_t)timeout_ms)
            timeout_ms = (int)((due - now) / 1000000 + 1);
    }
    return timeout_ms;
}

static void mailbox_wait(struct keeper *keeper, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    keeper->waiting = true;
    while (mailbox_empty(keeper))
        if (pthread_cond_timedwait(&keeper->posted, &keeper->lock, &until) != 0)
            break;
    keeper->waiting = false;
}

bool keeper_run(struct keeper *keeper, int timeout_ms)
{
    if (timeout_ms > 0)
        timeout_ms = sleep_ms(keeper, timeout_ms);
    pthread_mutex_lock(&keeper->lock);
    if (!keeper->thread_known) {
        keeper->thread = pthread_self();
        keeper->thread_known = true;
    }
    if (timeout_ms > 0 && mailbox_empty(keeper))
        mailbox_wait(keeper, timeout_ms);
    struct frame_buffer *frames = keeper->frames;
    struct disk_request *requests = keeper->requests;
    struct stream *streams = keeper->stream_posts;
    struct call *calls = keeper->calls;
    keeper->frames = NULL, keeper->frames_end = &keeper->frames;
    keeper->requests = NULL, keeper->requests_end = &keeper->requests;
    keeper->stream_posts = NULL, keeper->stream_posts_end = &keeper->stream_posts;
    keeper->calls = NULL, keeper->calls_end = &keeper->calls;
    pthread_mutex_unlock(&keeper->lock);

    bool did = frames || requests || streams || calls;
    while (requests) {
        struct disk_request *request = requests;
        requests = request->next;
        request_finished(keeper, request);
    }
    while (frames) {
        struct frame_buffer *buffer = frames;
        frames = buffer->next;
        frame_arrived(keeper, buffer);
    }
    while (streams) {
        struct stream *stream = streams;
        streams = *stream_mailbox_next(stream);
        atomic_store(stream_posted(stream), false);
        if (stream_queue(stream)->attached)
            settle(keeper, stream);
    }
    if (did || keeper->prepare_again)
        prepare_what_is_wanted(keeper);
    uint64_t now = keeper->options.monotonic_ns(keeper->options.context);
    for (uint32_t i = 0; i < keeper->disks; i++)
        watch(keeper, keeper->disk[i], now);
    for (uint32_t i = 0; i < keeper->disks; i++)
        if (flush_due(keeper, keeper->disk[i], now)) {
            flush_start(keeper, keeper->disk[i]);
            did = true;
        }
    /* Calls come last: what they see includes everything posted before them. */
    while (calls) {
        struct call *call = calls;
        calls = call->next;
        call->function(keeper, call->context);
        pthread_mutex_lock(&keeper->lock);
        call->done = true;
        pthread_cond_broadcast(&keeper->called);
        pthread_mutex_unlock(&keeper->lock);
    }
    return did;
}

bool keeper_idle(struct keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    bool empty = mailbox_empty(keeper);
    pthread_mutex_unlock(&keeper->lock);
    return empty && keeper->requests_under_way == 0;
}

/* ---- making and asking ---------------------------------------------------------------------------- */

int keeper_new(const struct keeper_options *options, struct keeper **result)
{
    struct keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return ERR_NO_MEMORY;
    keeper->options = *options;
    struct pool_state pool;
    pool_state(options->pool, &pool);
    keeper->pool_bytes = (uint64_t)pool.buffers * FRAME_BYTES_USUAL;
    if (keeper->options.unflushed_bytes_max == 0)
        keeper->options.unflushed_bytes_max = keeper->pool_bytes / 4;
    if (keeper->options.suspect_after_ns == 0)
        keeper->options.suspect_after_ns = SUSPECT_AFTER_NS;
    keeper->next_position = 1;
    keeper->frames_end = &keeper->frames;
    keeper->requests_end = &keeper->requests;
    keeper->stream_posts_end = &keeper->stream_posts;
    keeper->calls_end = &keeper->calls;
    pthread_mutex_init(&keeper->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&keeper->posted, &monotonic);
    pthread_cond_init(&keeper->called, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *result = keeper;
    return 0;
}

void keeper_free(struct keeper **slot)
{
    struct keeper *keeper = *slot;
    if (!keeper)
        return;
    while (keeper->segments)
        segment_free(keeper->segments);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        struct keeper_disk *disk = keeper->disk[i];
        free(disk->position);
        free(disk->belief);
        free(disk->open);
        free(disk);
    }
    pthread_cond_destroy(&keeper->called);
    pthread_cond_destroy(&keeper->posted);
    pthread_mutex_destroy(&keeper->lock);
    free(keeper);
    *slot = NULL;
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

void keeper_raise_position(struct keeper *keeper, uint64_t position)
{
    if (position >= keeper->next_position && position < POSITION_IN_USE - 1)
        keeper->next_position = position + 1;
}

int keeper_open_segments(struct keeper *keeper, int (*each)(const struct segment_row *row, void *context),
                         void *context)
{
    for (const struct segment *segment = keeper->segments; segment; segment = segment->next) {
        if (segment->phase < SEGMENT_READY || segment->row.packets == 0)
            continue;
        int result = each(&segment->row, context);
        if (result != 0)
            return result;
    }
    return 0;
}

const struct slot_belief *keeper_belief(struct keeper *keeper, const struct identity *identity, uint32_t slot,
                                        const struct segment **open)
{
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        if (!identity_equal(&disk->identity, identity) || slot >= disk->slots)
            continue;
        *open = disk->open[slot];
        return &disk->belief[slot];
    }
    return NULL;
}

void keeper_state(struct keeper *keeper, struct keeper_state *state)
{
    *state = (struct keeper_state){
        .disks = keeper->disks,
        .position = keeper->next_position - 1,
        .segments_opened = keeper->segments_opened,
        .segments_sealed = keeper->segments_sealed,
        .stale_beliefs = keeper->stale_beliefs,
        .dead = keeper->dead,
    };
    uint64_t oldest = POSITION_IN_USE;
    uint32_t working = 0;
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        struct keeper_disk_state *one = &state->disk[i];
        *one = (struct keeper_disk_state){
            .identity = disk->identity,
            .disk = disk->io,
            .failed = disk->failed,
            .suspect = disk->suspect,
            .slots = disk->slots,
            .in_flight_bytes = disk->in_flight_bytes,
            .read_errors = disk->read_errors,
            .write_errors = disk->write_errors,
            .written_bytes = disk->written_bytes,
            .flushes = disk->flushes,
        };
        working += !disk->failed;
        state->in_flight_bytes += disk->in_flight_bytes;
        for (uint32_t slot = 0; slot < disk->slots; slot++) {
            if (disk->position[slot] == 0)
                one->free_slots++;
            else if (disk->position[slot] < oldest)
                oldest = disk->position[slot];
        }
    }
    state->oldest_position = oldest == POSITION_IN_USE ? 0 : oldest;
    state->durable_copies = (uint8_t)(working < keeper->options.copies ? working : keeper->options.copies);
}
