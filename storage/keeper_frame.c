/*
 * keeper_frame.c - the way of a frame through the keeper, and what happens to it when a write fails. See keeper.c.
 */
#include "keeper_inside.h"

#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include "stream.h"

void keeper_frame_answered(struct disk_request *request)
{
    keeper_post_request(((struct frame_buffer *)request->owner)->segment->keeper, request);
}

uint8_t keeper_frame_place(const struct frame_buffer *buffer, const struct disk_request *request)
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
        keeper_segment_free(segment);
}

/* Of a segment with several copies, one whose disk has fallen far behind the others is left, before it holds all buffers. */
static void leave_laggards(struct keeper *keeper, struct segment *segment)
{
    uint64_t least = UINT64_MAX;
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad && segment->copy[i].disk->in_flight_bytes < least)
            least = segment->copy[i].disk->in_flight_bytes;
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        uint64_t share = keeper_disk_share(keeper, copy->disk);
        if (copy->bad || copy->disk->in_flight_bytes < share || least > share / 4)
            continue;
        char text[400];
        snprintf(text, sizeof text, "disk %.255s is slower than the others: a segment goes on without a copy there",
                 copy->disk->name);
        keeper_say(keeper, "warning", "disk-slow", text);
        keeper_copy_is_bad(segment, copy);
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
            .done = keeper_frame_answered,
            .owner = buffer,
        };
        buffer->place[i] = PLACE_SUBMITTED;
        copy->writes_open++;
        keeper_frame_write(copy->disk, request);
    }
}

void keeper_frame_arrived(struct keeper *keeper, struct frame_buffer *buffer)
{
    struct segment *segment = buffer->segment;
    buffer->next = NULL;
    if (segment->phase == SEGMENT_READY)
        segment->phase = SEGMENT_FILLING;
    segment->frames_received++;
    segment->bytes_received += buffer->length;
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
        keeper_settle(keeper, buffer->stream);
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
        keeper_settle(keeper, buffer->stream);
}

static void segment_end(struct segment *segment)
{
    if (segment->phase == SEGMENT_FILLING)
        segment->phase = SEGMENT_ENDED;
    atomic_store(&segment->ended, true);
    keeper_post_stream(segment->keeper, segment->stream);
}

void keeper_copy_is_bad(struct segment *segment, struct segment_copy *copy)
{
    keeper_waiting_forget(copy->disk, segment);
    if (!copy->bad) {
        copy->bad = true;
        keeper_unflushed_forget(copy->disk, segment);
    }
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad)
            return;
    if (!atomic_load(&segment->ended))
        segment_end(segment);
}


void keeper_frame_written(struct keeper *keeper, struct disk_request *request)
{
    struct frame_buffer *buffer = request->owner;
    struct segment *segment = buffer->segment;
    struct stream *stream = buffer->stream;
    uint8_t i = keeper_frame_place(buffer, request);
    struct segment_copy *copy = &segment->copy[i];
    bool good = request->result == 0;
    keeper_answered(keeper, copy->disk, request, buffer->generation[i]);
    keeper_copy_answered(segment, copy);
    buffer->place[i] = PLACE_FAILED;
    if (good) {
        copy->disk->errors_in_a_row = 0;
        copy->disk->written_bytes += request->bytes;
    } else {
        copy->disk->write_errors++;
        keeper_disk_error(keeper, copy->disk, "a write", request->result);
    }
    if (buffer->settled) {
        frame_release(keeper, buffer);
        return;
    }
    if (good && !copy->bad) {
        buffer->place[i] = PLACE_WRITTEN;
        keeper_unflushed_add(copy->disk, request, buffer->due_ns);
        if (buffer->flush)
            copy->disk->flush_wanted = true;
        return;
    }
    keeper_copy_is_bad(segment, copy);
    keeper_settle(keeper, stream);
}

/* ---- what is durable ---------------------------------------------------------------------------- */

/* The places without the bad copies, and the counts, in the catalog's form. */
static void row_update(struct segment *segment, const struct frame_buffer *buffer)
{
    struct segment_row *row = &segment->row;
    row->places = 0;
    for (uint8_t i = 0; i < segment->copies; i++)
        if (!segment->copy[i].bad)
            row->place[row->places++] =
                (struct segment_place){.disk = segment->copy[i].disk->identity, .slot = segment->copy[i].slot};
    if (buffer->kind != FRAME_DATA) {
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
        rescue->bytes_received += buffer->length;
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
            keeper_prepare(keeper, stream, true);
        return false;
    }
    return rescue_into(keeper, stream, segment, spare);
}

/* Submits what may be written of what closes the segment: all but the seal at once, the seal when those are durable. */
static void closing_submit(struct keeper *keeper, struct segment *segment)
{
    uint32_t number = 0;
    for (struct frame_buffer *buffer = segment->closing; buffer; buffer = buffer->next, number++) {
        if (number < segment->closing_submitted)
            continue;
        if (buffer->kind == FRAME_SEAL && buffer != segment->closing)
            return;
        segment->closing_submitted++;
        frame_submit(keeper, buffer);
    }
}

/* Writes INDEX and FLOWS frames and the SEAL, when everything before them is durable. Returns whether the segment is closed. */
static bool closing_go_on(struct keeper *keeper, struct segment *segment)
{
    while (segment->closing) {
        struct frame_buffer *buffer = segment->closing;
        if (segment->frames_under_way == 0 && !atomic_load(&segment->ended))
            closing_submit(keeper, segment);
        bool submitted = segment->closing_submitted > 0;
        if (submitted && frame_pending(buffer))
            return false;
        bool ended = atomic_load(&segment->ended);
        if (!ended && !submitted)
            return false;
        if (!ended && !frame_flushed_somewhere(buffer)) {
            segment_end(segment);
            continue;
        }
        segment->closing = buffer->next;
        segment->closing_submitted -= submitted;
        if (!ended)
            row_update(segment, buffer);
        if (!ended && buffer->kind == FRAME_SEAL) {
            segment->row.state = SEGMENT_SEALED;
            segment->row.sealed_ns = keeper->options.wall_ns(keeper->options.context);
            keeper->segments_sealed++;
            keeper->segments_coarse += segment->coarse;
        }
        frame_release(keeper, buffer);
    }
    if (segment->frames_under_way > 0 || !segment_complete(segment))
        return false;
    /* Sealed; or ended, unused or a rescue, and without a seal until the next start gives it one. */
    keeper_segment_close(segment);
    return true;
}

void keeper_settle(struct keeper *keeper, struct stream *stream)
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


void keeper_settle_all(struct keeper *keeper)
{
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        keeper_settle(keeper, stream);
}
