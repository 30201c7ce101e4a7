/*
 * mender_job.c - one piece of the mender's work: a segment's copy made, a place checked, a stretch
 * repaired.
 *
 * The happy path of healing: seal_ask() learns from a seal what the segment is -> target_choose()
 * -> its slot's header is read -> target_open() -> walk() reads whole frames from a good copy,
 * checks them, writes them to the target; part by part, each durable before the next -> heal_done()
 * tells keeper and catalog.
 *
 * A scrub walks the same way and writes nothing. Where a frame does not pass, damage_ask() looks
 * for it in the other copies; damage_mend() writes it in place, while the slot is held, flushes,
 * and reads it back.
 *
 * Failure: a write of the target that fails ends the healing, and its slot is free again. A frame
 * that no copy has is counted, named, and passed over; a healed copy gets its bytes as they are,
 * for readers can use the good blocks of it.
 *
 * Everything is a step: a function that asks the disks for something and says with `next` where it
 * goes on.
 */
#include "mender_inside.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "placement.h"
#include "segment_index.h"
#include "segment_prefix.h"
#include "superblock.h"
#include "worker.h"

static void walk(struct mend_job *job);
static void part_begin(struct mend_job *job);
static void damage_ask(struct mend_job *job);
static void target_choose(struct mend_job *job);
static void open_build(struct mend_job *job, uint8_t *page, bool healing);

/* ---- requests -----------------------------------------------------------------------------------
 */

/* Everything that the job waited for has been answered. */
static void step_done(struct mend_job *job)
{
    if (job->orphan) {
        if (job->outstanding + job->unflushed == 0)
            mend_free(job);
        return;
    }
    void (*next)(struct mend_job *) = job->next;
    if (job->outstanding > 0 || !next)
        return;
    job->next = NULL;
    next(job);
}

static void answered(struct keeper *keeper, struct keeper_request *request)
{
    (void)keeper;
    struct mend_job *job = request->context;
    job->outstanding--;
    step_done(job);
}

static struct disk_request *request_make(struct mend_job *job, struct keeper_request *request,
                                         enum disk_op op, const struct mend_place *place,
                                         uint32_t offset, uint8_t *bytes, uint32_t length)
{
    *request = (struct keeper_request){
        .request = {.op = op,
                    .slot = place->slot,
                    .offset = offset,
                    .buffer = bytes,
                    .bytes = length,
                    .buffer_index = -1},
        .finished = answered,
        .context = job,
    };
    return &request->request;
}

static void read_from(struct mend_job *job, const struct mend_place *place, uint32_t offset,
                      uint8_t *bytes, uint32_t length, void (*next)(struct mend_job *))
{
    request_make(job, &job->request, DISK_READ, place, offset, bytes, length);
    job->outstanding++;
    job->next = next;
    keeper_request_submit(place->disk, &job->request);
}

static void durable(struct keeper *keeper, struct keeper_request *request, bool good)
{
    (void)keeper;
    struct mend_job *job = request->context;
    job->failed |= !good;
    job->outstanding--;
    step_done(job);
}

static void written(struct keeper *keeper, struct keeper_request *request)
{
    struct mend_job *job = request->context;
    if (request->request.result == 0) {
        keeper_request_flush(request, 0);
        return;
    }
    job->failed = true;
    answered(keeper, request);
}

/* A write that is waited for until it is durable; `failed` says whether it is. */
static void write_durably(struct mend_job *job, struct keeper_request *request,
                          const struct mend_place *place, uint32_t offset, uint8_t *bytes,
                          uint32_t length, void (*next)(struct mend_job *))
{
    request_make(job, request, DISK_WRITE, place, offset, bytes, length);
    request->finished = written;
    request->flushed = durable;
    job->outstanding++;
    job->next = next;
    keeper_request_submit(place->disk, request);
}

/* ---- writes of a healed copy: many to a flush
 * ---------------------------------------------------- */

static void flushed_some(struct keeper *keeper, struct keeper_request *request, bool good)
{
    (void)keeper;
    struct mend_job *job = request->context;
    job->failed |= !good;
    if (--job->unflushed > 0)
        return;
    if (job->outstanding == 0) /* else one of them is still with the disk */
        job->writes = 0;
    void (*then)(struct mend_job *) = job->when_flushed;
    job->when_flushed = NULL;
    if (job->orphan)
        step_done(job);
    else if (then)
        then(job);
}

static void written_some(struct keeper *keeper, struct keeper_request *request)
{
    struct mend_job *job = request->context;
    if (request->request.result == 0) {
        job->unflushed++;
        keeper_request_flush(request, job->mender->now_ns + keeper->options.flush_window_ns);
    } else {
        job->failed = true;
    }
    job->outstanding--;
    step_done(job);
}

/* Goes on when all that was written to the target is durable, or it is known that it is not. */
static void when_durable(struct mend_job *job, void (*then)(struct mend_job *))
{
    if (job->unflushed == 0) {
        job->writes =
            0; /* nothing is outstanding: a step never runs before all of it is answered */
        then(job);
        return;
    }
    job->when_flushed = then;
    job->target.disk->flush_wanted = true;
}

static void target_write(struct mend_job *job, uint32_t offset, uint8_t *bytes, uint32_t length,
                         void (*next)(struct mend_job *))
{
    assert(job->writes < MENDER_WRITES_MAX);
    struct keeper_request *request = &job->write[job->writes++];
    request_make(job, request, DISK_WRITE, &job->target, offset, bytes, length);
    request->finished = written_some;
    request->flushed = flushed_some;
    job->outstanding++;
    job->next = next;
    keeper_request_submit(job->target.disk, request);
}

/* ---- the end
 * ------------------------------------------------------------------------------------- */

static bool place_holds(const struct mend_job *job, const struct mend_place *place)
{
    const struct keeper_disk *disk = place->disk;
    return disk->io && keeper_slot_counts(disk, place->slot) == job->position &&
           identity_equal(&disk->belief[place->slot].segment, &job->segment);
}

/* Not any more where the disk has been away since: what was held there is forgotten. */
static bool holding(const struct mend_place *place)
{
    return place->held_in_join == place->disk->joins;
}

/* False: a job that was left behind still has a write under way on that disk, and holds its own slot. */
static bool hold(struct mend_place *place)
{
    if (place->disk->held != UINT32_MAX)
        return false;
    place->held_in_join = place->disk->joins;
    place->disk->held = place->slot;
    return true;
}

static void let_go(struct mend_job *job)
{
    for (uint8_t i = 0; i < job->places; i++) {
        struct mend_place *place = &job->place[i];
        if (holding(place))
            place->disk->held = UINT32_MAX;
        place->held_in_join = 0;
    }
}

/* Gives the target's slot up. `whole`: it is a copy of the segment now. */
static void target_release(struct mend_job *job, bool whole)
{
    struct keeper_disk *disk = job->target.disk;
    uint32_t slot = job->target.slot;
    job->has_target = false;
    if (disk->open[slot] != &job->stand_in)
        return; /* the disk has left, and may have returned since: the slot is no more ours */
    /* Otherwise it holds nothing that anybody wants; what its first page says is known. */
    disk->belief[slot] = (struct slot_belief){.segment = job->segment,
                                              .position = whole ? job->position : 0,
                                              .revision = job->row.revision};
    disk->position[slot] = disk->belief[slot].position;
    disk->open[slot] = NULL;
    disk->keeper->prepare_again = true;
}

void mend_free(struct mend_job *job)
{
    struct mender *mender = job->mender;
    if (job->has_target)
        target_release(job, false);
    let_go(job);
    if (job->kind == MEND_SEAL)
        segment_prefix_close(&job->prefix);
    for (struct mend_job **link = &mender->orphans; *link; link = &(*link)->other)
        if (*link == job) {
            *link = job->other;
            mender->orphan_count--;
            break;
        }
    if (mender->job == job)
        mender->job = NULL;
    free(job->buffer);
    free(job->page);
    free(job);
}

/* The job's end. What was written and is not flushed is waited for by the orphan that it becomes.
 */
static void finish(struct mend_job *job, bool good)
{
    mender_job_done(job, good);
    mend_orphan(job);
}

void mend_orphan(struct mend_job *job)
{
    struct mender *mender = job->mender;
    job->orphan = true;
    job->next = NULL;
    job->when_flushed = NULL;
    job->paused = NULL;
    job->other = mender->orphans;
    mender->orphans = job;
    mender->orphan_count++;
    mender->job = NULL;
    if (job->unflushed > 0)
        job->target.disk->flush_wanted = true;
    step_done(job);
}

bool mend_hangs(const struct mend_job *job)
{
    bool waits_for_target = job->has_target && job->outstanding + job->unflushed > 0;
    return (waits_for_target && job->target.disk->suspect) ||
           (job->outstanding > 0 && job->request.disk && job->request.disk->suspect);
}

void mend_resume(struct mend_job *job)
{
    void (*step)(struct mend_job *) = job->paused;
    job->paused = NULL;
    step(job);
}

/* ---- frames
 * -------------------------------------------------------------------------------------- */

static const char *reason_text(uint32_t reason)
{
    switch (reason) {
    case WORKER_BAD_READ:
        return "the disk failed to read it";
    case WORKER_BAD_MISSING:
        return "no frame was there";
    case WORKER_BAD_IDENTITY:
        return "a frame of something else was there";
    default:
        return "its checksum was wrong";
    }
}

/* What is wrong with the frame at `bytes`, of which `length` are there: 0 nothing; *need: how long
 * it is, where that is more. */
static uint32_t frame_wrong(const struct mend_job *job, const uint8_t *bytes, uint32_t offset,
                            uint32_t length, uint32_t *need, struct frame_info *info)
{
    static const enum frame_kind kind[PARTS] = {FRAME_OPEN, FRAME_DATA, FRAME_INDEX, FRAME_SEAL};
    *need = 0;
    int result = frame_parse(bytes, length, info);
    if (result == ERR_AGAIN && info->header_bytes <= FRAME_BYTES_MAX &&
        job->end - offset > length) {
        *need = (uint32_t)round_up(info->header_bytes, PAGE_BYTES);
        return 0;
    }
    if (result != 0)
        return result == ERR_NOT_FOUND ? WORKER_BAD_MISSING : WORKER_BAD_CHECKSUM;
    uint32_t revision = job->part >= PART_INDEX ? job->row.revision : job->row.data_revision;
    bool kind_fits = info->kind == kind[job->part] || (job->part == PART_INDEX && info->kind == FRAME_FLOWS);
    if (!kind_fits || info->offset != offset ||
        info->position != job->position ||
        !identity_equal(&info->ring, &job->mender->keeper->options.ring) ||
        !identity_equal(&info->segment, &job->segment) || info->revision != revision)
        return WORKER_BAD_IDENTITY;
    if (info->frame_bytes > job->end - offset)
        return WORKER_BAD_CHECKSUM;
    if (info->frame_bytes > length) {
        *need = info->frame_bytes;
        return 0;
    }
    return frame_check(bytes, info) == 0 ? 0 : WORKER_BAD_CHECKSUM;
}

/* Looks at what has been read: sets `good`, `want` and `reason`. `one`: only the first frame is
 * wanted. */
static void look(struct mend_job *job, bool one)
{
    struct frame_info info;
    job->good = job->want = 0;
    job->reason = job->request.request.result != 0 ? WORKER_BAD_READ : 0;
    while (job->reason == 0 && job->good < job->length) {
        uint32_t need;
        job->reason = frame_wrong(job, job->buffer + job->good, job->at + job->good,
                                  job->length - job->good, &need, &info);
        if (job->reason != 0)
            break;
        if (need > 0) {
            if (job->good == 0)
                job->want = need;
            break;
        }
        job->good += info.frame_bytes;
        if (one)
            break;
    }
}

static bool buffer_grow(struct mend_job *job, uint32_t bytes)
{
    if (bytes <= job->room)
        return true;
    uint8_t *buffer = aligned_alloc(PAGE_BYTES, bytes);
    if (!buffer)
        return false;
    free(job->buffer);
    job->buffer = buffer;
    job->room = bytes;
    return true;
}

static void buffer_shrink(struct mend_job *job)
{
    uint32_t usual =
        job->slot_bytes < MENDER_CHUNK_BYTES ? (uint32_t)job->slot_bytes : MENDER_CHUNK_BYTES;
    if (job->room == usual)
        return;
    uint8_t *buffer = aligned_alloc(PAGE_BYTES, usual);
    if (!buffer)
        return; /* the longer one will do */
    free(job->buffer);
    job->buffer = buffer;
    job->room = usual;
}

/* Reads at `at`, as much as fits or as one long frame wants. False: it cannot be had. */
static bool read_at(struct mend_job *job, const struct mend_place *place,
                    void (*next)(struct mend_job *))
{
    uint32_t left = job->end - job->at;
    if (job->want > left || (job->want > 0 && !buffer_grow(job, job->want)))
        return false;
    job->length = job->want > 0 ? job->want : left < job->room ? left : job->room;
    read_from(job, place, job->at, job->buffer, job->length, next);
    return true;
}

static void tell(struct mend_job *job, const char *severity, const char *kind, const char *what)
{
    char text[640], id[IDENTITY_TEXT_SIZE];
    const struct mend_place *place = &job->place[job->primary];
    snprintf(text, sizeof text,
             "disk %.255s, slot %" PRIu32 ", offset %" PRIu32 ", segment %s: %s; %s",
             place->disk->name, place->slot, job->at, identity_text(&job->segment, id),
             reason_text(job->reason), what);
    keeper_say(job->mender->keeper, severity, kind, text);
}

/* ---- the walk
 * ------------------------------------------------------------------------------------ */

/* Another place that still holds the segment takes the primary's part in healing. */
static bool primary_lives(struct mend_job *job)
{
    if (place_holds(job, &job->place[job->primary]) &&
        (job->kind != MEND_HEAL || mender_disk_good(job->place[job->primary].disk)))
        return true;
    for (uint8_t i = 0; i < job->places && job->kind == MEND_HEAL; i++)
        if (place_holds(job, &job->place[i]) && mender_disk_good(job->place[i].disk)) {
            job->primary = i;
            return true;
        }
    return false;
}

static bool job_is_over(struct mend_job *job)
{
    return job->mender->stopping || job->failed || !primary_lives(job) ||
           (job->has_target && (!mender_disk_good(job->target.disk) ||
                                job->target.disk->open[job->target.slot] != &job->stand_in));
}

static void heal_done(struct mend_job *job)
{
    struct mender *mender = job->mender;
    if (job->failed || !primary_lives(job)) {
        finish(job, false);
        return;
    }
    /* The row names the good places first: there may be more places than a row holds. */
    struct segment_row *row = &job->row;
    row->places = 0;
    row->place[row->places++] =
        (struct segment_place){.disk = job->target.disk->identity, .slot = job->target.slot};
    for (uint8_t i = 0; i < job->places && row->places < COPIES_MAX; i++)
        if (place_holds(job, &job->place[i]))
            row->place[row->places++] = (struct segment_place){.disk = job->place[i].disk->identity,
                                                               .slot = job->place[i].slot};
    catalog_put_segment(mender->keeper->options.catalog, row);
    target_release(job, true);
    mender->state.healed_segments++;
    mender->state.healed_bytes += job->bytes;
    finish(job, true);
}

/* It is a copy like any other: should its seal be spoiled one day, its frames still count. */
static void heal_confirm(struct mend_job *job)
{
    uint8_t *open = job->page + PAGE_BYTES;
    open_build(job, open, false);
    write_durably(job, &job->second, &job->target, 0, open, PAGE_BYTES, heal_done);
}

static void part_done(struct mend_job *job)
{
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    if (job->kind == MEND_REPAIR) {
        finish(job, true);
        return;
    }
    job->part++;
    if (job->part < PARTS)
        part_begin(job);
    else if (job->kind == MEND_HEAL)
        heal_confirm(job);
    else
        finish(job, true);
}

static void part_begin(struct mend_job *job)
{
    uint32_t slot_bytes = (uint32_t)job->slot_bytes;
    const uint32_t from[PARTS + 1] = {0, PAGE_BYTES, job->row.index_offset, slot_bytes - PAGE_BYTES,
                                      slot_bytes};
    job->at = from[job->part];
    job->end = job->part == PART_OPEN   ? PAGE_BYTES
               : job->part == PART_DATA ? job->row.data_end
                                        : from[job->part + 1];
    walk(job);
}

static void walk_looked(struct mend_job *job);
static void ended_read(struct mend_job *job);
static void ended_looked(struct mend_job *job);

static void walk(struct mend_job *job)
{
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    if (job->at >= job->end || (job->kind == MEND_REPAIR && job->at >= job->limit)) {
        if (job->kind == MEND_HEAL)
            when_durable(job, part_done);
        else if (job->kind == MEND_SEAL)
            ended_read(job);
        else
            part_done(job);
        return;
    }
    if (job->has_target && job->writes == MENDER_WRITES_MAX) {
        when_durable(job, walk);
        return;
    }
    uint32_t left = job->end - job->at;
    if (!mender_may_go(job->mender, job, left < job->room ? left : job->room)) {
        job->paused = walk;
        return;
    }
    buffer_shrink(job);
    job->want = 0;
    (void)read_at(job, &job->place[job->primary], walk_looked);
}

static void walk_advance(struct mend_job *job)
{
    job->at += job->good;
    job->bytes += job->good;
    if (job->reason == 0) {
        walk(job);
        return;
    }
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    job->found++;
    job->asked = 0;
    job->want = 0;
    damage_ask(job);
}

static void walk_looked(struct mend_job *job)
{
    look(job, false);
    if (job->want > 0) {
        if (read_at(job, &job->place[job->primary], walk_looked))
            return;
        job->reason = WORKER_BAD_CHECKSUM; /* says that it is longer than the room that is there */
    }
    if (job->kind == MEND_SEAL)
        ended_looked(job);
    else if (job->good > 0 && job->has_target)
        target_write(job, job->at, job->buffer, job->good, walk_advance);
    else
        walk_advance(job);
}

/* ---- segments that a failed write has ended
 * ------------------------------------------------------ */

/* Index and seal are durable at every place. */
static void ended_sealed(struct mend_job *job)
{
    struct segment_row *row = &job->row;
    row->revision = job->seal_identity.revision;
    row->state = SEGMENT_SEALED;
    row->sealed_ns = job->seal.sealed_ns;
    segment_index_extent(&job->prefix.index, &job->seal, &row->index_offset, &row->index_bytes);
    row->places = 0;
    for (uint8_t i = 0; i < job->places && row->places < COPIES_MAX; i++) {
        const struct mend_place *place = &job->place[i];
        if (!holding(place))
            continue;
        place->disk->belief[place->slot].revision = row->revision;
        row->place[row->places++] =
            (struct segment_place){.disk = place->disk->identity, .slot = place->slot};
    }
    catalog_put_segment(job->mender->keeper->options.catalog, row);
    job->mender->state.sealed++;
    let_go(job);
    finish(job, true);
}

static void ended_write(struct mend_job *job)
{
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    if (job->parts_written == segment_index_parts(&job->prefix.index, &job->seal)) {
        ended_sealed(job);
        return;
    }
    bool good = false;
    for (uint8_t i = 0; i < job->places; i++) {
        const struct mend_place *place = &job->place[i];
        if (!holding(place))
            continue;
        good = place_holds(job, place) && mender_disk_good(place->disk);
        if (!good)
            break; /* it has parts of an index and no seal: all of them are written anew another time */
    }
    if (!good) {
        finish(job, false);
        return;
    }
    uint32_t offset, length = segment_index_part(&job->prefix.index, &job->seal,
                                                 job->parts_written++, job->buffer, &offset);
    for (uint8_t i = 0; i < job->places; i++)
        if (holding(&job->place[i]))
            write_durably(job, &job->write[i], &job->place[i], offset, job->buffer, length,
                          ended_write);
}

/* All that was durable of it has been read. */
static void ended_read(struct mend_job *job)
{
    const struct segment_row *row = &job->row;
    const struct segment_index *index = &job->prefix.index;
    const struct keeper_options *options = &job->mender->keeper->options;
    job->seal_identity = (struct frame_identity){
        .ring = row->ring,
        .segment = row->segment,
        .run = row->run,
        .position = row->position,
        .revision = row->data_revision + 1,
        .data_revision = row->data_revision,
        .stream = row->stream,
    };
    job->seal = (struct segment_seal){
        .identity = &job->seal_identity,
        .table = job->prefix.table,
        .interface_account = job->prefix.interface_account,
        .account = &job->prefix.account,
        .frontier = job->prefix.frontier,
        .opened_ns = row->opened_ns,
        .sealed_ns = options->wall_ns(options->context),
        .reason = SEAL_FAILED,
        .slot_bytes = job->slot_bytes,
    };
    if (getrandom(job->seal.salt, sizeof job->seal.salt, 0) != (ssize_t)sizeof job->seal.salt)
        abort();
    if (job->prefix.flows)
        flow_frames_seal(job->prefix.flows, index, &job->seal);
    uint32_t offset, bytes;
    segment_index_extent(index, &job->seal, &offset, &bytes);
    if (index->packets != row->packets || index->missing > 0 || index->data_end != row->data_end ||
        offset < row->data_end) {
        finish(job, false); /* the next start looks at it with more time */
        return;
    }
    for (uint8_t i = 0; i < job->places; i++)
        if (place_holds(job, &job->place[i]) && mender_disk_good(job->place[i].disk))
            (void)hold(&job->place[i]);
    ended_write(job);
}

static void ended_looked(struct mend_job *job)
{
    struct frame_info info;
    bool good = job->reason == 0;
    for (uint32_t at = 0; at < job->good && good; at += info.frame_bytes)
        good = frame_parse(job->buffer + at, job->good - at, &info) == 0 &&
               segment_prefix_add(&job->prefix, job->buffer + at, &info) == 0;
    job->at += job->good;
    if (good)
        walk(job);
    else
        finish(job, false);
}

static void ended_begin(struct mend_job *job)
{
    segment_prefix_clear(&job->prefix, job->row.first_packet);
    job->part = PART_DATA;
    job->at = PAGE_BYTES;
    job->end = job->row.data_end;
    walk(job);
}

/* ---- damage
 * -------------------------------------------------------------------------------------- */

/* After a frame that has been dealt with. */
static void damage_passed(struct mend_job *job)
{
    job->at += job->good;
    job->bytes += job->good;
    walk(job);
}

static void mended_looked(struct mend_job *job)
{
    uint32_t reason = job->reason, length = job->good;
    look(job, true);
    bool mended = job->good == length;
    let_go(job);
    job->reason = reason;
    job->good = length;
    if (mended) {
        job->mended++;
        job->mender->state.repaired++;
        tell(job, "warning", "repaired", "written anew from another copy");
    } else {
        job->mender->state.unrepairable++;
        tell(job, "error", "not-repaired", "written anew from another copy, and still not right");
    }
    damage_passed(job);
}

static void mended(struct mend_job *job)
{
    if (job->failed) {
        job->mender->state.unrepairable++;
        let_go(job);
        tell(job, "error", "not-repaired",
             "another copy is good, but it could not be written here");
        finish(job, false);
        return;
    }
    job->length = job->good;
    read_from(job, &job->place[job->primary], job->at, job->buffer, job->length, mended_looked);
}

/* The buffer holds the good frame. */
static void damage_mend(struct mend_job *job)
{
    if (job_is_over(job) || !hold(&job->place[job->primary])) {
        finish(job, false);
        return;
    }
    write_durably(job, &job->request, &job->place[job->primary], job->at, job->buffer, job->good,
                  mended);
}

/* The end of a stretch of the primary that is no frame: the next one of the segment, or all that
 * was read. */
static uint32_t next_frame(const struct mend_job *job)
{
    struct frame_info info;
    uint32_t need, offset = PAGE_BYTES;
    for (; offset < job->length; offset += PAGE_BYTES)
        if (frame_wrong(job, job->buffer + offset, job->at + offset, job->length - offset, &need,
                        &info) == 0)
            break;
    return offset < job->length ? offset : job->length;
}

static void lost_read(struct mend_job *job)
{
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    bool readable = job->request.request.result == 0;
    job->good = readable ? next_frame(job) : job->length;
    if (job->has_target && readable)
        target_write(job, job->at, job->buffer, job->good, damage_passed);
    else
        damage_passed(job);
}

/* No copy has it. */
static void damage_lost(struct mend_job *job)
{
    if (job->kind == MEND_REPAIR && !job->from_start && job->at == job->from &&
        job->part == PART_DATA) {
        /* What a reader names may begin in the midst of a frame. */
        job->from_start = true;
        job->found--;
        job->at = PAGE_BYTES;
        walk(job);
        return;
    }
    job->mender->state.unrepairable++;
    tell(job, "error", "not-repaired", "no copy of it is good");
    job->want = 0;
    if (!primary_lives(job)) {
        finish(job, false);
        return;
    }
    (void)read_at(job, &job->place[job->primary], lost_read);
}

static void damage_read(struct mend_job *job)
{
    uint32_t reason = job->reason;
    look(job, true);
    if (job->want > 0 && read_at(job, &job->place[job->asked], damage_read)) {
        job->reason = reason;
        return;
    }
    job->want = 0;
    job->reason = reason;
    if (job->good == 0) {
        job->asked++;
        damage_ask(job);
        return;
    }
    if (job->kind != MEND_HEAL) {
        damage_mend(job);
        return;
    }
    /* The copy goes on; the place that it was read from has its repair later. */
    const struct mend_place *place = &job->place[job->primary];
    (void)mender_repair(job->mender->keeper, &place->disk->identity, place->slot, &job->segment,
                        job->at, job->good);
    target_write(job, job->at, job->buffer, job->good, damage_passed);
}

static void damage_ask(struct mend_job *job)
{
    while (job->asked < job->places &&
           (job->asked == job->primary || !place_holds(job, &job->place[job->asked]) ||
            job->place[job->asked].disk->suspect))
        job->asked++;
    if (job->asked == job->places)
        damage_lost(job);
    else
        (void)read_at(job, &job->place[job->asked], damage_read);
}

/* ---- the target of healing
 * ------------------------------------------------------------------------ */

static bool domain_used(const struct mend_job *job, uint64_t domain)
{
    for (uint8_t i = 0; i < job->places; i++)
        if (domain != 0 && place_holds(job, &job->place[i]) &&
            mender_disk_good(job->place[i].disk) &&
            mender_failure_domain(job->place[i].disk) == domain)
            return true;
    return false;
}

static bool has_place_on(const struct mend_job *job, const struct keeper_disk *disk)
{
    for (uint8_t i = 0; i < job->places; i++)
        if (job->place[i].disk == disk && place_holds(job, &job->place[i]))
            return true;
    return false;
}

/* The disk and slot for the copy. False: there is none that may be taken. */
static bool target_find(struct mend_job *job)
{
    struct keeper *keeper = job->mender->keeper;
    struct placement_disk candidate[RING_DISKS_MAX];
    uint32_t victim[RING_DISKS_MAX], chosen;
    for (int share_domains = 0; share_domains <= 1; share_domains++) {
        for (uint32_t i = 0; i < keeper->disks; i++) {
            struct keeper_disk *disk = keeper->disk[i];
            candidate[i] = (struct placement_disk){.usable = false};
            if (!mender_disk_good(disk) || has_place_on(job, disk) ||
                (!share_domains && domain_used(job, mender_failure_domain(disk))))
                continue;
            candidate[i].slots = disk->slots;
            candidate[i].bytes_to_write = disk->in_flight_bytes;
            victim[i] =
                keeper_victim(disk, &candidate[i].oldest_position, &candidate[i].free_slots);
            candidate[i].usable =
                victim[i] != UINT32_MAX && candidate[i].oldest_position < job->position;
        }
        if (placement_choose(candidate, keeper->disks, 1, &chosen) == 1) {
            job->target = (struct mend_place){.disk = keeper->disk[chosen], .slot = victim[chosen]};
            job->target_position = candidate[chosen].oldest_position;
            return true;
        }
    }
    return false;
}

static void open_build(struct mend_job *job, uint8_t *page, bool healing)
{
    const struct segment_place place = {.disk = job->target.disk->identity, .slot = job->target.slot};
    segment_copy_open(page, &job->row, job->slot_bytes, &place, job->mender->keeper->options.host, healing);
}

static void target_opened(struct mend_job *job)
{
    job->part = PART_DATA;
    part_begin(job);
}

static void target_open(struct mend_job *job)
{
    struct keeper_disk *disk = job->target.disk;
    uint32_t slot = job->target.slot;
    const struct slot_belief victim = disk->belief[slot];
    keeper_expire(disk->keeper, &victim);
    job->stand_in.identity.segment = job->segment;
    disk->position[slot] = POSITION_IN_USE;
    disk->open[slot] = &job->stand_in;
    job->has_target = true;
    uint8_t *open = job->page + PAGE_BYTES, *zeros = job->buffer;
    open_build(job, open, true);
    memset(zeros, 0, PAGE_BYTES);
    write_durably(job, &job->second, &job->target, (uint32_t)job->slot_bytes - PAGE_BYTES, zeros,
                  PAGE_BYTES, target_opened);
    write_durably(job, &job->request, &job->target, 0, open, PAGE_BYTES, target_opened);
}

static void target_checked(struct mend_job *job)
{
    struct keeper_disk *disk = job->target.disk;
    if (job_is_over(job) || job->request.request.result != 0) {
        finish(job, false);
        return;
    }
    uint32_t slot = job->target.slot;
    /* Recording may have taken the slot since, and may even be done with it: then the page says nothing about what is there now. */
    if (disk->position[slot] != job->target_position || disk->open[slot] ||
        keeper_slot_is_stale(disk, slot, NULL, job->page + PAGE_BYTES))
        target_choose(job);
    else
        target_open(job);
}

static void target_choose(struct mend_job *job)
{
    if (job_is_over(job) || !target_find(job)) {
        finish(job, false);
        return;
    }
    read_from(job, &job->target, 0, job->page + PAGE_BYTES, PAGE_BYTES, target_checked);
}

/* ---- the beginning
 * -------------------------------------------------------------------------------- */

/* A repair of a segment that has no seal knows the frames by what was believed. */
static void begin_unsealed(struct mend_job *job)
{
    const struct mend_place *place = &job->place[job->primary];
    uint32_t revision = place->disk->belief[place->slot].revision;
    job->row = (struct segment_row){.revision = revision, .data_revision = revision};
    job->row.data_end = job->row.index_offset = (uint32_t)job->slot_bytes - PAGE_BYTES;
}

static void begin_repair(struct mend_job *job)
{
    uint32_t slot_bytes = (uint32_t)job->slot_bytes;
    job->part = job->from < PAGE_BYTES                 ? PART_OPEN
                : job->from < job->row.data_end        ? PART_DATA
                : job->from == slot_bytes - PAGE_BYTES ? PART_SEAL
                                                       : PART_INDEX;
    if (job->part == PART_INDEX && (!job->sealed || job->from < job->row.index_offset)) {
        finish(job, true); /* nothing is there */
        return;
    }
    uint32_t limit = job->limit;
    job->at = job->from;
    job->end = job->part == PART_OPEN    ? PAGE_BYTES
               : job->part == PART_DATA  ? job->row.data_end
               : job->part == PART_INDEX ? slot_bytes - PAGE_BYTES
                                         : slot_bytes;
    job->limit = limit < job->end ? limit : job->end;
    walk(job);
}

static void begin(struct mend_job *job)
{
    if (job_is_over(job)) {
        finish(job, false);
        return;
    }
    if (!job->sealed && job->kind != MEND_SEAL)
        begin_unsealed(job);
    switch (job->kind) {
    case MEND_REPAIR:
        begin_repair(job);
        break;
    case MEND_HEAL:
        if (job->sealed)
            target_choose(job);
        else
            finish(job, false);
        break;
    case MEND_SEAL:
        if (job->sealed)
            finish(job, true);
        else
            ended_begin(job);
        break;
    case MEND_SCRUB:
        job->part = PART_OPEN;
        if (job->sealed)
            part_begin(job);
        else
            finish(job, true);
        break;
    }
}

static void seal_ask(struct mend_job *job);

static void seal_read(struct mend_job *job)
{
    struct frame_info info;
    struct seal_body body;
    const struct keeper_request *request = &job->request;
    if (request->request.result == 0 && frame_parse(job->page, PAGE_BYTES, &info) == 0 &&
        info.frame_bytes == PAGE_BYTES && frame_check(job->page, &info) == 0 &&
        info.position == job->position &&
        identity_equal(&info.ring, &job->mender->keeper->options.ring) &&
        identity_equal(&info.segment, &job->segment) &&
        segment_seal_read(job->page, &info, job->slot_bytes, &body) == 0) {
        job->sealed = true;
        const struct frame_identity identity = frame_identity_of(&info);
        segment_row_from_seal(&identity, &body, &job->row);
        begin(job);
        return;
    }
    job->asked++;
    seal_ask(job);
}

static void seal_ask(struct mend_job *job)
{
    while (job->asked < job->places &&
           (!place_holds(job, &job->place[job->asked]) || job->place[job->asked].disk->suspect))
        job->asked++;
    if (job->asked == job->places || job->mender->stopping)
        begin(job);
    else
        read_from(job, &job->place[job->asked], (uint32_t)job->slot_bytes - PAGE_BYTES, job->page,
                  PAGE_BYTES, seal_read);
}

/* Where the segment lies, good disks first. */
static void places_find(struct mend_job *job)
{
    const struct keeper *keeper = job->mender->keeper;
    for (int good = 1; good >= 0; good--)
        for (uint32_t i = 0; i < keeper->disks; i++) {
            struct keeper_disk *disk = keeper->disk[i];
            if (!disk->io || mender_disk_good(disk) != (bool)good)
                continue;
            for (uint32_t slot = 0; slot < disk->slots && job->places < MENDER_PLACES_MAX; slot++)
                if (keeper_slot_counts(disk, slot) == job->position) {
                    if (job->places == 0)
                        job->segment = disk->belief[slot].segment;
                    job->place[job->places] = (struct mend_place){.disk = disk, .slot = slot};
                    job->places += place_holds(job, &job->place[job->places]);
                }
        }
}

bool mend_begin(struct mender *mender, enum mend_kind kind, uint64_t position, uint8_t place,
                const struct mend_wish *wish, const struct segment_row *ended)
{
    uint64_t slot_bytes = mender->keeper->options.slot_bytes;
    struct mend_job *job = calloc(1, sizeof *job);
    if (!job)
        return false;
    job->mender = mender;
    job->kind = kind;
    job->position = position;
    job->slot_bytes = slot_bytes;
    job->room = slot_bytes < MENDER_CHUNK_BYTES ? (uint32_t)slot_bytes : MENDER_CHUNK_BYTES;
    job->buffer = aligned_alloc(PAGE_BYTES, job->room);
    job->page = aligned_alloc(PAGE_BYTES, 2 * PAGE_BYTES);
    places_find(job);
    if (wish) {
        job->from = wish->offset;
        job->limit = wish->offset + wish->bytes;
        for (place = 0; place < job->places; place++)
            if (job->place[place].disk == wish->disk && job->place[place].slot == wish->slot)
                break;
    }
    if (ended)
        job->row = *ended;
    if (!job->buffer || !job->page || place >= job->places ||
        !mender_disk_good(job->place[place].disk) ||
        (ended && segment_prefix_open(&job->prefix, slot_bytes, mender->keeper->options.keys_of) != 0)) {
        free(job->buffer);
        free(job->page);
        free(job);
        return false;
    }
    job->primary = place;
    mender->job = job;
    seal_ask(job);
    return true;
}
