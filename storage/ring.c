/*
 * ring.c - the threads around the keeper, and the questions that others ask of a ring.
 */
#include "ring.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STREAMS_MAX 1024u

struct ring_member {
    struct disk *disk;
    struct identity identity;
    struct superblock superblock;
};

struct ring {
    struct ring_options options;
    struct identity run;
    struct pool *pool;
    struct keeper *keeper;
    pthread_t thread;
    atomic_bool stop;
    struct ring_member *member;
    uint32_t members;
    atomic_ulong damaged_reads;

    pthread_mutex_t lock; /* streams */
    struct stream *stream[STREAMS_MAX];
    uint32_t streams;
    uint32_t next_stream;
    bool registered;
};

static uint64_t monotonic_ns(void *context)
{
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int64_t wall_ns(void *context)
{
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- making --------------------------------------------------------------------------------------- */

int ring_format_disks(const struct identity *ring, const char *name, uint8_t copies, uint64_t slot_bytes,
                      struct disk **disk, uint32_t disks, struct identity *identity, uint64_t *slot_bytes_chosen,
                      struct failure *failure)
{
    if (disks == 0 || disks > RING_DISKS_MAX)
        return fail(failure, ERR_INVALID, "a ring has 1 to %u disks", RING_DISKS_MAX);
    if (copies > disks)
        return fail(failure, ERR_INVALID, "%u copies need %u disks, each copy on another one; there are %u", copies,
                    copies, disks);
    struct disk *smallest = disk[0];
    for (uint32_t i = 1; i < disks; i++)
        if (disk[i]->bytes < smallest->bytes)
            smallest = disk[i];
    struct disk_geometry geometry;
    int result = disk_geometry_plan(smallest->bytes, slot_bytes, &geometry, failure);
    if (result != 0)
        return fail_context(failure, result, "disk %s", smallest->name);
    slot_bytes = *slot_bytes_chosen = geometry.slot_bytes;
    struct superblock *superblock = calloc(disks, sizeof *superblock);
    if (!superblock)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    uint64_t now = (uint64_t)wall_ns(NULL);
    for (uint32_t i = 0; i < disks && result == 0; i++) {
        result = disk_geometry_plan(disk[i]->bytes, slot_bytes, &geometry, failure);
        if (result == 0)
            superblock_make(&superblock[i], &geometry, ring, name, copies, now);
    }
    for (uint32_t i = 0; i < disks && result == 0; i++) {
        char host[64] = "";
        gethostname(host, sizeof host - 1);
        superblock_set_text(superblock[i].recorder, sizeof superblock[i].recorder, host);
        superblock[i].members = le16_of((uint16_t)disks);
        for (uint32_t m = 0; m < disks; m++) {
            struct superblock_member *member = &superblock[i].member[m];
            member->disk = superblock[m].disk;
            member->bytes = superblock[m].disk_bytes;
            member->joined_ns = le64_of(now);
            member->state = DISK_ACTIVE;
            superblock_set_text(member->name, sizeof member->name, disk[m]->name);
        }
        result = superblock_format(disk[i], &superblock[i], failure);
        identity[i] = superblock[i].disk;
    }
    free(superblock);
    return result;
}

/* ---- opening ------------------------------------------------------------------------------------- */

/*
 * While there is much to do the keeper naps between two looks into its mailbox instead of being woken for each frame and
 * each completion: several are then handled, and submitted, at once. At 4 GB/s a nap is a MiB of frames, and a fifth of
 * the context switches remain. With nothing to do for some naps it sleeps until it is woken.
 */
#define NAP_NS 250000
#define NAPS_QUIET 8

static void *keeper_thread(void *context)
{
    struct ring *ring = context;
    unsigned quiet = 0;
    pthread_setname_np(pthread_self(), "keeper");
    while (!atomic_load(&ring->stop)) {
        bool did = keeper_run(ring->keeper, quiet < NAPS_QUIET ? 0 : 100);
        quiet = did ? 0 : quiet + 1;
        if (quiet < NAPS_QUIET)
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
    return NULL;
}

static void say(const struct ring_options *options, const char *severity, const char *kind, const char *text)
{
    if (options->event)
        options->event(options->context, severity, kind, text);
}

static int read_superblocks(struct ring *ring, struct failure *failure)
{
    for (uint32_t i = 0; i < ring->members; i++) {
        struct ring_member *member = &ring->member[i];
        struct superblock_condition condition;
        int result = superblock_read(member->disk, &member->superblock, &condition, failure);
        if (result != 0)
            return result;
        if (!identity_equal(&member->superblock.ring, &ring->options.ring))
            return fail(failure, ERR_MISMATCH, "disk %s belongs to another ring (\"%s\")", member->disk->name,
                        member->superblock.ring_name);
        if (member->disk->geometry.slot_bytes != ring->member[0].disk->geometry.slot_bytes)
            return fail(failure, ERR_MISMATCH, "disk %s has slots of %llu bytes, disk %s of %llu",
                        member->disk->name, (unsigned long long)member->disk->geometry.slot_bytes,
                        ring->member[0].disk->name,
                        (unsigned long long)ring->member[0].disk->geometry.slot_bytes);
        member->identity = member->superblock.disk;
        for (uint32_t before = 0; before < i; before++)
            if (identity_equal(&ring->member[before].identity, &member->identity))
                return fail(failure, ERR_MISMATCH, "%s and %s are the same disk", ring->member[before].disk->name,
                            member->disk->name);
        if (condition.repairs == 0)
            continue;
        char text[512];
        result = superblock_repair(member->disk, &member->superblock, failure);
        snprintf(text, sizeof text, "disk %.255s: %u of its 4 superblocks were damaged or stale, and %s", member->disk->name,
                 condition.repairs, result == 0 ? "have been written anew" : "could not be written anew");
        say(&ring->options, "warning", "superblock-repaired", text);
        if (result != 0)
            return result;
    }
    return 0;
}

static int run_recovery(struct ring *ring, bool whole, struct recovery_disk *disk, uint64_t *position,
                        struct recovery_report *report, struct failure *failure)
{
    struct recovery_options options = {
        .ring = ring->options.ring,
        .catalog = ring->options.catalog,
        .whole = whole,
        .wall_ns = wall_ns,
        .progress = ring->options.progress,
        .event = ring->options.event,
        .give_up = ring->options.give_up,
        .context = ring->options.context,
    };
    return recovery_run(&options, disk, ring->members, position, report, failure);
}

static struct recovery_disk *recovery_disks(struct ring *ring)
{
    struct recovery_disk *disk = calloc(ring->members, sizeof *disk);
    for (uint32_t i = 0; disk && i < ring->members; i++) {
        disk[i].disk = ring->member[i].disk;
        disk[i].identity = ring->member[i].identity;
        disk[i].belief = calloc(disk[i].disk->geometry.slot_count, sizeof *disk[i].belief);
        if (!disk[i].belief) {
            while (i > 0)
                free(disk[--i].belief);
            free(disk);
            return NULL;
        }
    }
    return disk;
}

static void recovery_disks_free(struct ring *ring, struct recovery_disk *disk)
{
    for (uint32_t i = 0; i < ring->members; i++)
        free(disk[i].belief);
    free(disk);
}

static int start_keeper(struct ring *ring, const struct recovery_disk *disk, uint64_t position,
                        struct failure *failure)
{
    struct keeper_options options = {
        .ring = ring->options.ring,
        .run = ring->run,
        .slot_bytes = ring->member[0].disk->geometry.slot_bytes,
        .copies = ring->options.copies,
        .flush_window_ns = ring->options.flush_window_ns,
        .mender = ring->options.mender,
        .pool = ring->pool,
        .catalog = ring->options.catalog,
        .monotonic_ns = monotonic_ns,
        .wall_ns = wall_ns,
        .event = ring->options.event,
        .context = ring->options.context,
    };
    gethostname(options.host, sizeof options.host - 1);
    int result = keeper_new(&options, &ring->keeper);
    for (uint32_t i = 0; i < ring->members && result == 0; i++) {
        result = keeper_add_disk(ring->keeper, ring->member[i].disk, &ring->member[i].identity, disk[i].belief, NULL);
    }
    if (result != 0)
        return fail(failure, result, "ring %s: %s", ring->options.name, error_text(result));
    keeper_raise_position(ring->keeper, position);
    keeper_set_threaded(ring->keeper, true);
    if (pthread_create(&ring->thread, NULL, keeper_thread, ring) != 0)
        return fail(failure, ERR_NO_MEMORY, "ring %s: no thread for the keeper", ring->options.name);
    return 0;
}

int ring_open(const struct ring_options *options, struct disk **disk, uint32_t disks, struct ring **result_ring,
              struct recovery_report *report, struct failure *failure)
{
    struct ring *ring = calloc(1, sizeof *ring);
    struct ring_member *member = calloc(disks ? disks : 1, sizeof *member);
    if (!ring || !member || disks == 0) {
        free(ring);
        free(member);
        for (uint32_t i = 0; i < disks; i++)
            disk_close(&disk[i]);
        return disks == 0 ? fail(failure, ERR_INVALID, "ring %s has no disk", options->name)
                          : fail(failure, ERR_NO_MEMORY, "out of memory");
    }
    ring->options = *options;
    ring->member = member;
    ring->members = disks;
    for (uint32_t i = 0; i < disks; i++) {
        member[i].disk = disk[i];
        disk[i] = NULL;
    }
    identity_make(&ring->run);
    pthread_mutex_init(&ring->lock, NULL);

    uint64_t position = 0;
    struct recovery_disk *recovery = NULL;
    int result = read_superblocks(ring, failure);
    if (result != 0)
        goto out;
    result = ERR_NO_MEMORY;
    recovery = recovery_disks(ring);
    if (!recovery || pool_open(options->buffer_bytes, &ring->pool) != 0) {
        fail(failure, result, "ring %s: no memory for %llu bytes of buffers", options->name,
             (unsigned long long)options->buffer_bytes);
        goto out;
    }
    catalog_put_ring(options->catalog, &options->ring, options->name, options->copies,
                     member[0].disk->geometry.slot_bytes);
    for (uint32_t i = 0; i < disks; i++)
        catalog_put_disk(options->catalog, &options->ring, &member[i].identity, member[i].disk->name,
                         member[i].disk->bytes, member[i].disk->geometry.slot_count, DISK_ACTIVE);
    result = run_recovery(ring, options->whole, recovery, &position, report, failure);
    if (result == 0)
        result = start_keeper(ring, recovery, position, failure);
out:
    if (recovery)
        recovery_disks_free(ring, recovery);
    if (result == 0) {
        *result_ring = ring;
        return 0;
    }
    keeper_free(&ring->keeper);
    for (uint32_t i = 0; i < disks; i++)
        disk_close(&member[i].disk);
    pool_close(&ring->pool);
    pthread_mutex_destroy(&ring->lock);
    free(member);
    free(ring);
    return result;
}

void ring_close(struct ring **slot)
{
    struct ring *ring = *slot;
    if (!ring)
        return;
    assert(ring->streams == 0);
    atomic_store(&ring->stop, true);
    pthread_join(ring->thread, NULL);
    /* The last completions are handled here; a disk that hangs holds us, and its lock, until it answers. */
    keeper_set_threaded(ring->keeper, false);
    keeper_stop_mending(ring->keeper);
    while (!keeper_idle(ring->keeper))
        keeper_run(ring->keeper, 100);
    for (uint32_t i = 0; i < ring->members; i++)
        disk_close(&ring->member[i].disk);
    keeper_free(&ring->keeper);
    pool_close(&ring->pool);
    pthread_mutex_destroy(&ring->lock);
    free(ring->member);
    free(ring);
    *slot = NULL;
}

/* ---- streams ------------------------------------------------------------------------------------- */

/*
 * Registered memory is pinned, all of it: a ring that nobody records into does without. A disk that cannot register
 * them writes from them all the same, only slower.
 */
static void register_buffers(struct ring *ring)
{
    uint32_t count;
    uint8_t *area = pool_area(ring->pool, &count);
    for (uint32_t i = 0; i < ring->members && !ring->registered; i++) {
        struct disk *disk = ring->member[i].disk;
        if (disk->ops->register_buffers)
            (void)disk->ops->register_buffers(disk, area, FRAME_BYTES_USUAL, count);
    }
    ring->registered = true;
}

int ring_stream_open(struct ring *ring, const struct stream_options *options, struct stream **stream)
{
    pthread_mutex_lock(&ring->lock);
    register_buffers(ring);
    int result = ring->streams < STREAMS_MAX
                     ? stream_open(ring->keeper, ring->next_stream, options, stream)
                     : ERR_TOO_LARGE;
    if (result == 0) {
        ring->next_stream++;
        ring->stream[ring->streams++] = *stream;
    }
    pthread_mutex_unlock(&ring->lock);
    return result;
}

int ring_stream_close(struct ring *ring, struct stream **stream, struct account *account,
                      bool (*give_up)(void *context), void *context)
{
    /* It can be asked for a flush, and for its account, until all of it is durable. */
    int result = stream_end(*stream, account, give_up, context);
    if (result == ERR_INTERRUPTED)
        return result;
    pthread_mutex_lock(&ring->lock);
    for (uint32_t i = 0; i < ring->streams; i++)
        if (ring->stream[i] == *stream) {
            ring->stream[i] = ring->stream[--ring->streams];
            break;
        }
    stream_free(stream);
    pthread_mutex_unlock(&ring->lock);
    return result;
}

struct flush_wait {
    uint32_t stream; /* number */
    uint64_t ticket;
};

/* Whether the stream is gone, and then all it took is durable or known to be lost, or what was asked for is durable. */
static bool flush_served(struct ring *ring, const struct flush_wait *wait)
{
    bool served = true;
    pthread_mutex_lock(&ring->lock);
    for (uint32_t i = 0; i < ring->streams; i++)
        if (stream_number(ring->stream[i]) == wait->stream)
            served = stream_wait_flushed(ring->stream[i], wait->ticket, 0);
    pthread_mutex_unlock(&ring->lock);
    return served;
}

int ring_flush(struct ring *ring, int timeout_ms)
{
    /* Streams may be closed while we wait, and others want the lock: so it is only held to ask. */
    uint64_t end = monotonic_ns(NULL) + (uint64_t)timeout_ms * 1000000u;
    pthread_mutex_lock(&ring->lock);
    uint32_t count = ring->streams;
    struct flush_wait *wait = calloc(count + 1, sizeof *wait);
    for (uint32_t i = 0; wait && i < count; i++)
        wait[i] = (struct flush_wait){stream_number(ring->stream[i]), stream_request_flush(ring->stream[i])};
    pthread_mutex_unlock(&ring->lock);
    if (!wait)
        return ERR_NO_MEMORY;
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        while (!flush_served(ring, &wait[i])) {
            if (monotonic_ns(NULL) >= end) {
                result = ERR_TIMEOUT;
                break;
            }
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    free(wait);
    return result;
}

struct interface_relay {
    void (*each)(uint32_t stream, const struct stream_interface_state *state, void *context);
    void *context;
    uint32_t stream;
};

static void relay_interface(const struct stream_interface_state *state, void *context)
{
    const struct interface_relay *relay = context;
    relay->each(relay->stream, state, relay->context);
}

void ring_interfaces(struct ring *ring,
                     void (*each)(uint32_t stream, const struct stream_interface_state *state, void *context),
                     void *context)
{
    struct interface_relay relay = {.each = each, .context = context};
    pthread_mutex_lock(&ring->lock);
    for (uint32_t i = 0; i < ring->streams; i++) {
        relay.stream = stream_number(ring->stream[i]);
        stream_interfaces(ring->stream[i], relay_interface, &relay);
    }
    pthread_mutex_unlock(&ring->lock);
}

/* ---- questions ----------------------------------------------------------------------------------- */

struct row_list {
    struct segment_row *row;
    uint32_t count, room;
    bool no_memory;
};

static int row_collect(const struct segment_row *row, void *context)
{
    struct row_list *list = context;
    if (list->count == list->room) {
        uint32_t room = list->room ? 2 * list->room : 16;
        struct segment_row *grown = realloc(list->row, room * sizeof *grown);
        if (!grown) {
            list->no_memory = true;
            return ERR_NO_MEMORY;
        }
        list->row = grown;
        list->room = room;
    }
    list->row[list->count++] = *row;
    return 0;
}

static void collect_open(struct keeper *keeper, void *context)
{
    (void)keeper_open_segments(keeper, row_collect, context);
}

struct find {
    const struct row_list *open;
    int (*each)(const struct segment_row *row, void *context);
    void *context;
};

static int find_each(const struct segment_row *row, void *context)
{
    struct find *find = context;
    if (row->state == SEGMENT_OPEN)
        for (uint32_t i = 0; i < find->open->count; i++)
            if (identity_equal(&find->open->row[i].segment, &row->segment)) {
                row = &find->open->row[i];
                break;
            }
    return row->packets == 0 ? 0 : find->each(row, find->context);
}

int ring_find(struct ring *ring, int64_t from_ns, int64_t to_ns,
              int (*each)(const struct segment_row *row, void *context), void *context)
{
    struct row_list open = {0};
    keeper_call(ring->keeper, collect_open, &open);
    struct find find = {.open = &open, .each = each, .context = context};
    int result = open.no_memory ? ERR_NO_MEMORY : catalog_barrier(ring->options.catalog);
    if (result == 0)
        result = catalog_find(ring->options.catalog, &ring->options.ring, from_ns, to_ns, find_each, &find);
    free(open.row);
    return result;
}

int ring_open_segments(struct ring *ring, int (*each)(const struct segment_row *row, void *context), void *context)
{
    struct row_list open = {0};
    keeper_call(ring->keeper, collect_open, &open);
    int result = open.no_memory ? ERR_NO_MEMORY : 0;
    for (uint32_t i = 0; i < open.count && result == 0; i++)
        result = each(&open.row[i], context);
    free(open.row);
    return result;
}

static void count_changes(struct keeper *keeper, void *context)
{
    struct keeper_state state;
    keeper_state(keeper, &state);
    *(uint64_t *)context = state.segments_opened + state.segments_sealed;
}

uint64_t ring_changes(struct ring *ring)
{
    uint64_t changes = 0;
    keeper_call(ring->keeper, count_changes, &changes);
    return changes;
}

void ring_worker_segment(struct ring *ring, const struct segment_row *row, struct worker_segment *segment)
{
    *segment = (struct worker_segment){
        .segment = row->segment,
        .run = row->run,
        .position = row->position,
        .first_packet = row->first_packet,
        .packets = row->packets,
        .head_ns = row->head_ns,
        .first_ns = row->first_ns,
        .last_ns = row->last_ns,
        .revision = row->revision,
        .data_revision = row->data_revision,
        .stream = row->stream,
        .state = row->state,
        .data_end = row->data_end,
        .index_offset = row->index_offset,
        .index_bytes = row->index_bytes,
    };
    for (uint8_t i = 0; i < row->places; i++)
        for (uint32_t disk = 0; disk < ring->members; disk++)
            if (identity_equal(&ring->member[disk].identity, &row->place[i].disk)) {
                segment->place[segment->places].disk = disk;
                segment->place[segment->places++].slot = row->place[i].slot;
            }
}

struct judge {
    struct ring *ring;
    const struct worker_segment *segment;
    const struct worker_bad *bad;
    enum worker_judgement judgement;
};

static void judge(struct keeper *keeper, void *context)
{
    struct judge *judge = context;
    const struct worker_segment *segment = judge->segment;
    const struct segment *open;
    if (judge->bad->place >= segment->places || segment->place[judge->bad->place].disk >= judge->ring->members)
        return;
    const struct slot_belief *belief =
        keeper_belief(keeper, &judge->ring->member[segment->place[judge->bad->place].disk].identity,
                      segment->place[judge->bad->place].slot, &open);
    if (!belief)
        return;
    if (open ? !identity_equal(&open->identity.segment, &segment->segment)
             : !identity_equal(&belief->segment, &segment->segment))
        judge->judgement = WORKER_OVERTAKEN;
    else if (open && judge->bad->offset >= open->row.data_end)
        judge->judgement = WORKER_TORN;
    else
        (void)mender_repair(keeper, &judge->ring->member[segment->place[judge->bad->place].disk].identity,
                            segment->place[judge->bad->place].slot, &segment->segment, judge->bad->offset,
                            judge->bad->bytes);
}

enum worker_judgement ring_judge(struct ring *ring, const struct worker_segment *segment, const struct worker_bad *bad)
{
    struct judge question = {.ring = ring, .segment = segment, .bad = bad, .judgement = WORKER_DAMAGED};
    keeper_call(ring->keeper, judge, &question);
    if (question.judgement == WORKER_DAMAGED)
        atomic_fetch_add(&ring->damaged_reads, 1);
    return question.judgement;
}

/* ---- mending -------------------------------------------------------------------------------------- */

static void set_hurry(struct keeper *keeper, void *context)
{
    mender_hurry(keeper, *(const bool *)context);
}

void ring_mend_hurry(struct ring *ring, bool begin)
{
    keeper_call(ring->keeper, set_hurry, &begin);
}

static void ask_mended(struct keeper *keeper, void *context)
{
    *(bool *)context = mender_is_done(keeper);
}

bool ring_mended(struct ring *ring)
{
    bool mended = false;
    keeper_call(ring->keeper, ask_mended, &mended);
    return mended;
}

static void begin_scrub(struct keeper *keeper, void *context)
{
    (void)context;
    mender_scrub_now(keeper);
}

void ring_scrub(struct ring *ring)
{
    keeper_call(ring->keeper, begin_scrub, NULL);
}

static void set_mender(struct keeper *keeper, void *context)
{
    mender_set_options(keeper, context);
}

void ring_set_mender(struct ring *ring, const struct mender_options *options)
{
    struct mender_options copy = *options;
    keeper_call(ring->keeper, set_mender, &copy);
}

static void ask_mender(struct keeper *keeper, void *context)
{
    mender_state(keeper, context);
}

void ring_mender_state(struct ring *ring, struct mender_state *state)
{
    keeper_call(ring->keeper, ask_mender, state);
}

/* ---- the state ------------------------------------------------------------------------------------ */

static void ask_state(struct keeper *keeper, void *context)
{
    keeper_state(keeper, context);
}

int ring_state(struct ring *ring, struct ring_state *state)
{
    keeper_call(ring->keeper, ask_state, &state->keeper);
    ring_mender_state(ring, &state->mender);
    pool_state(ring->pool, &state->pool);
    uint64_t slot_bytes = ring->member[0].disk->geometry.slot_bytes;
    state->total_bytes = state->used_bytes = 0;
    for (uint32_t i = 0; i < state->keeper.disks; i++) {
        const struct keeper_disk_state *disk = &state->keeper.disk[i];
        state->total_bytes += disk->slots * slot_bytes;
        state->used_bytes += (disk->slots - disk->free_slots) * slot_bytes;
    }
    state->damaged_reads = atomic_load(&ring->damaged_reads);
    pthread_mutex_lock(&ring->lock);
    state->streams = ring->streams;
    pthread_mutex_unlock(&ring->lock);
    int result = catalog_barrier(ring->options.catalog);
    return result != 0 ? result : catalog_summary(ring->options.catalog, &ring->options.ring, &state->catalog);
}

struct rebuild {
    struct ring *ring;
    struct recovery_disk *disk;
    struct recovery_report *report;
    struct failure *failure;
    int result;
};

static void rebuild(struct keeper *keeper, void *context)
{
    struct rebuild *rebuild = context;
    uint64_t position = 0;
    rebuild->result = run_recovery(rebuild->ring, true, rebuild->disk, &position, rebuild->report, rebuild->failure);
    keeper_raise_position(keeper, position);
    for (uint32_t i = 0; i < rebuild->ring->members && rebuild->result == 0; i++)
        keeper_set_beliefs(keeper, i, rebuild->disk[i].belief);
}

int ring_rebuild(struct ring *ring, struct recovery_report *report, struct failure *failure)
{
    struct rebuild question = {.ring = ring, .report = report, .failure = failure};
    pthread_mutex_lock(&ring->lock);
    if (ring->streams > 0) {
        pthread_mutex_unlock(&ring->lock);
        return fail(failure, ERR_BUSY, "ring %s is being recorded into: stop the capture first", ring->options.name);
    }
    question.disk = recovery_disks(ring);
    if (question.disk) {
        keeper_call(ring->keeper, rebuild, &question);
        recovery_disks_free(ring, question.disk);
    }
    pthread_mutex_unlock(&ring->lock);
    if (!question.disk)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    if (question.result != 0)
        return question.result;
    int result = catalog_barrier(ring->options.catalog);
    return result == 0 ? 0 : fail(failure, result, "the catalog could not be written: %s", error_text(result));
}

uint32_t ring_disks(const struct ring *ring)
{
    return ring->members;
}

struct disk *ring_disk(struct ring *ring, uint32_t i, struct identity *identity)
{
    if (identity)
        *identity = ring->member[i].identity;
    return ring->member[i].disk;
}

const struct superblock *ring_superblock(const struct ring *ring, uint32_t i)
{
    return &ring->member[i].superblock;
}

const struct ring_options *ring_options(const struct ring *ring)
{
    return &ring->options;
}
