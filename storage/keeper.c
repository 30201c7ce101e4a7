/*
 * keeper.c - the ring's state machine.
 *
 * The happy path of a frame: stream.c posts it -> keeper_frame_arrived() puts it into the stream's queue and submits it to the
 * disks of its segment's copies -> keeper_frame_written() for each -> the disk is flushed (keeper_flush_due() says when) ->
 * frame_flushed() -> keeper_settle() takes what is durable from the head of the stream's queue, in order, tells stream and
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
#include "clock.h"
#include "keeper_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "stream.h"

#define SUSPECT_AFTER_NS 2000000000ull
#define FRAMES_WORTH_WAKING 4u /* a megabyte: as much as the kernel hands over at once */
#define OLDEST_PERIOD_NS 100000000ull /* readers are told how far the ring has got */

struct call {
    struct call *next;
    void (*function)(struct keeper *keeper, void *context);
    void *context;
    bool done;
};

void keeper_say(struct keeper *keeper, const char *severity, const char *kind, const char *text)
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
    keeper->frames_unsaid = 0;
    pthread_mutex_unlock(&keeper->lock);
    if (wake)
        pthread_cond_signal(&keeper->posted);
}

void keeper_post_frame(struct keeper *keeper, struct frame_buffer *buffer, bool urgent)
{
    buffer->next = NULL;
    pthread_mutex_lock(&keeper->lock);
    *keeper->frames_end = buffer;
    keeper->frames_end = &buffer->next;
    if (urgent || ++keeper->frames_unsaid >= FRAMES_WORTH_WAKING)
        mailbox_posted(keeper);
    else
        pthread_mutex_unlock(&keeper->lock);
}

void keeper_nudge(struct keeper *keeper)
{
    pthread_mutex_lock(&keeper->lock);
    if (keeper->frames_unsaid > 0)
        mailbox_posted(keeper);
    else
        pthread_mutex_unlock(&keeper->lock);
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

void keeper_post_request(struct keeper *keeper, struct disk_request *request)
{
    request->next = NULL;
    pthread_mutex_lock(&keeper->lock);
    *keeper->requests_end = request;
    keeper->requests_end = &request->next;
    if (request->more)
        pthread_mutex_unlock(&keeper->lock); /* the next one says it */
    else
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

/* ---- streams ------------------------------------------------------------------------------------- */

void keeper_attach_stream(struct keeper *keeper, struct stream *stream)
{
    struct stream_queue *queue = stream_queue(stream);
    *queue = (struct stream_queue){.next = keeper->streams, .attached = true};
    keeper->streams = stream;
    if (keeper->dead)
        stream_set_dead(stream, true);
    keeper_prepare_wanted(keeper);
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
        keeper_segment_close(lease);
}

/* ---- running ------------------------------------------------------------------------------------- */

static bool mailbox_empty(const struct keeper *keeper)
{
    return !keeper->frames && !keeper->requests && !keeper->stream_posts && !keeper->calls;
}

static int sooner_ms(int timeout_ms, uint64_t now, uint64_t due)
{
    if (due <= now)
        return 0;
    return (due - now) / 1000000 + 1 < (uint64_t)timeout_ms ? (int)((due - now) / 1000000 + 1) : timeout_ms;
}

/* How long the keeper may sleep before a flush is due, or the mender. */
static int sleep_ms(const struct keeper *keeper, int timeout_ms)
{
    uint64_t now = keeper->options.monotonic_ns(keeper->options.context);
    timeout_ms = sooner_ms(timeout_ms, now, mender_due_ns(keeper->mender));
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        uint64_t due = keeper_disk_due_ns(disk);
        if (disk->unflushed_head && !disk->flush_running && disk->flush_due_ns < due)
            due = disk->flush_due_ns;
        if (due == UINT64_MAX)
            continue;
        timeout_ms = sooner_ms(timeout_ms, now, due);
    }
    return timeout_ms;
}

static void mailbox_wait(struct keeper *keeper, int timeout_ms)
{
    struct timespec until = clock_monotonic_in_ms(timeout_ms);
    keeper->waiting = true;
    while (mailbox_empty(keeper))
        if (pthread_cond_timedwait(&keeper->posted, &keeper->lock, &until) != 0)
            break;
    keeper->waiting = false;
}

/* What presses on the ring as a whole: buffers that are taken, streams that nothing is prepared for. */
static uint32_t ring_level(const struct keeper *keeper)
{
    uint64_t taken_bytes = keeper->pool_bytes - (uint64_t)pool_free(keeper->options.pool) * FRAME_BYTES_USUAL;
    uint32_t level = pressure_level(taken_bytes, keeper->pool_bytes / PRESSURE_POOL_SHARE);
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next) {
        uint32_t prepared = keeper_prepared_level(keeper, stream);
        level = prepared > level ? prepared : level;
    }
    return level;
}

static uint32_t disk_level(const struct keeper_disk *disk, uint64_t without_bytes)
{
    uint64_t bytes = disk->in_flight_bytes > without_bytes ? disk->in_flight_bytes - without_bytes : 0;
    return pressure_level(bytes, disk->keeper->pool_bytes / PRESSURE_SHARE);
}

static uint64_t oldest_on(const struct keeper_disk *disk)
{
    uint64_t oldest = POSITION_IN_USE;
    for (uint32_t slot = 0; slot < disk->slots && disk->io; slot++)
        if (disk->position[slot] != 0 && disk->position[slot] < oldest)
            oldest = disk->position[slot];
    return oldest;
}

/* Of a segment that is still there; 0: there is none. Looks at every slot. */
static uint64_t oldest_position(const struct keeper *keeper)
{
    uint64_t oldest = POSITION_IN_USE;
    for (uint32_t i = 0; i < keeper->disks; i++) {
        uint64_t here = oldest_on(keeper->disk[i]);
        oldest = here < oldest ? here : oldest;
    }
    return oldest == POSITION_IN_USE ? 0 : oldest;
}

static void publish_pressure(struct keeper *keeper, uint64_t now_ns)
{
    struct pressure_page *page = keeper->options.gauge;
    if (!page)
        return;
    if (pressure_readers(page) > 0 && now_ns - keeper->oldest_told_ns >= OLDEST_PERIOD_NS) {
        pressure_publish_oldest(page, oldest_position(keeper));
        keeper->oldest_told_ns = now_ns;
    }
    uint32_t ring = ring_level(keeper);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        uint32_t level = disk_level(keeper->disk[i], 0);
        pressure_publish(page, i, level > ring ? level : ring, keeper_disk_turn_ns(keeper->disk[i], now_ns));
    }
    pressure_publish_time(page, mender_works(keeper->mender), now_ns);
}

struct pressure_view keeper_pressure(const struct keeper *keeper, uint64_t now_ns)
{
    struct pressure_view most = {.is_mender = true};
    if (keeper->options.gauge)
        most = pressure_read_turn_of_mender(keeper->options.gauge);
    most.level = ring_level(keeper);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        uint32_t level = disk_level(keeper->disk[i], MENDER_CHUNK_BYTES);
        uint64_t turn_ns = keeper_disk_turn_ns(keeper->disk[i], now_ns);
        most.level = level > most.level ? level : most.level;
        most.turn_ns = turn_ns > most.turn_ns ? turn_ns : most.turn_ns;
    }
    return most;
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
    keeper->frames = NULL, keeper->frames_end = &keeper->frames, keeper->frames_unsaid = 0;
    keeper->requests = NULL, keeper->requests_end = &keeper->requests;
    keeper->stream_posts = NULL, keeper->stream_posts_end = &keeper->stream_posts;
    keeper->calls = NULL, keeper->calls_end = &keeper->calls;
    pthread_mutex_unlock(&keeper->lock);

    bool did = frames || requests || streams || calls;
    while (requests) {
        struct disk_request *request = requests;
        requests = request->next;
        keeper_request_finished(keeper, request);
    }
    while (frames) {
        struct frame_buffer *buffer = frames;
        frames = buffer->next;
        keeper_frame_arrived(keeper, buffer);
    }
    while (streams) {
        struct stream *stream = streams;
        streams = *stream_mailbox_next(stream);
        atomic_store(stream_posted(stream), false);
        if (stream_queue(stream)->attached)
            keeper_settle(keeper, stream);
    }
    if (did || keeper->prepare_again)
        keeper_prepare_wanted(keeper);
    uint64_t now = keeper->options.monotonic_ns(keeper->options.context);
    for (uint32_t i = 0; i < keeper->disks; i++)
        keeper_disk_watch(keeper, keeper->disk[i], now);
    keeper_prepare_watch(keeper, now);
    for (uint32_t i = 0; i < keeper->disks; i++)
        if (keeper_flush_due(keeper, keeper->disk[i], now)) {
            keeper_flush_start(keeper, keeper->disk[i]);
            did = true;
        }
    did |= mender_run(keeper->mender, now);
    keeper_watch_level(keeper);
    publish_pressure(keeper, now);
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

void keeper_stop_mending(struct keeper *keeper)
{
    mender_stop(keeper->mender);
}

bool keeper_pause(struct keeper *keeper, bool pause)
{
    mender_pause(keeper->mender, pause);
    return keeper->requests_under_way == 0 && !keeper->streams && !keeper->segments && mender_is_still(keeper->mender);
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
    if (mender_new(keeper, &options->mender, &keeper->mender) != 0) {
        free(keeper);
        return ERR_NO_MEMORY;
    }
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
    clock_condition_init(&keeper->posted);
    clock_condition_init(&keeper->called);
    *result = keeper;
    return 0;
}

void keeper_free(struct keeper **slot)
{
    struct keeper *keeper = *slot;
    if (!keeper)
        return;
    keeper_guests_free(keeper);
    mender_free(&keeper->mender);
    while (keeper->segments)
        keeper_segment_free(keeper->segments);
    for (uint32_t i = 0; i < keeper->disks; i++)
        keeper_disk_free(keeper->disk[i]);
    free(keeper->expired);
    pthread_cond_destroy(&keeper->called);
    pthread_cond_destroy(&keeper->posted);
    pthread_mutex_destroy(&keeper->lock);
    free(keeper);
    *slot = NULL;
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
        if (!disk->io || !identity_equal(&disk->identity, identity) || slot >= disk->slots)
            continue;
        *open = disk->open[slot];
        return &disk->belief[slot];
    }
    return NULL;
}

void keeper_segments_in_work(struct keeper *keeper, void (*each)(const struct identity *segment, void *context), void *context)
{
    for (const struct segment *segment = keeper->segments; segment; segment = segment->next)
        if (segment->phase >= SEGMENT_OPENING)
            each(&segment->identity.segment, context);
}

void keeper_set_copies(struct keeper *keeper, uint8_t copies)
{
    keeper->options.copies = copies;
}

/* Fewest good copies of what is being filled, and of what would be opened now. */
static uint8_t copies_in_force(const struct keeper *keeper)
{
    uint32_t fewest = 0;
    for (uint32_t i = 0; i < keeper->disks; i++)
        fewest += keeper_disk_usable(keeper->disk[i]);
    if (fewest > keeper->options.copies)
        fewest = keeper->options.copies;
    for (const struct segment *segment = keeper->segments; segment; segment = segment->next) {
        uint32_t good = 0;
        for (uint8_t i = 0; i < segment->copies; i++)
            good += !segment->copy[i].bad;
        if (segment->phase == SEGMENT_FILLING && good > 0 && good < fewest)
            fewest = good;
    }
    return (uint8_t)fewest;
}

static void disk_state(const struct keeper_disk *disk, uint64_t slot_bytes, struct keeper_disk_state *one)
{
    *one = (struct keeper_disk_state){
        .identity = disk->identity,
        .disk = disk->io,
        .state = keeper_disk_condition(disk),
        .failure_domain = disk->failure_domain,
        .slots = disk->slots,
        .in_flight_bytes = disk->in_flight_bytes,
        .read_errors = disk->read_errors,
        .write_errors = disk->write_errors,
        .written_bytes = disk->written_bytes,
        .flushes = disk->flushes,
    };
    for (uint32_t slot = 0; slot < disk->slots && disk->io; slot++) {
        one->free_slots += disk->position[slot] == 0;
        one->segments += disk->position[slot] == POSITION_IN_USE || disk->belief[slot].position != 0;
    }
    one->segment_bytes = one->segments * slot_bytes;
}

void keeper_state(struct keeper *keeper, struct keeper_state *state)
{
    *state = (struct keeper_state){
        .disks = keeper->disks,
        .position = keeper->next_position - 1,
        .segments_opened = keeper->segments_opened,
        .segments_sealed = keeper->segments_sealed,
        .segments_coarse = keeper->segments_coarse,
        .stale_beliefs = keeper->stale_beliefs,
        .copies = keeper->options.copies,
        .durable_copies = copies_in_force(keeper),
        .dead = keeper->dead,
    };
    for (uint32_t i = 0; i < keeper->disks; i++) {
        disk_state(keeper->disk[i], keeper->options.slot_bytes, &state->disk[i]);
        state->in_flight_bytes += keeper->disk[i]->in_flight_bytes;
    }
    state->oldest_position = oldest_position(keeper);
}
