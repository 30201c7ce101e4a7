/*
 * keeper_segment.c - segments come and go: which slots the next one takes, the check of what lies there, opening, closing.
 *
 * The happy path: keeper_prepare() chooses slots and reads their headers -> segment_check_done() -> open_submit() writes the OPEN
 * frame and clears the old seal's page -> when both are flushed everywhere the segment is READY and the stream's.
 * When a header says something else than was believed, another slot is looked at. keeper_segment_close() gives the slots up.
 */
#include "keeper_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "placement.h"
#include "stream.h"

#define OPEN_PATIENCE_NS 50000000ull
#define RING_SLOTS_FEW 32u
#define PREPARE_PATIENCE_NS 100000000ull

struct segment_copy *keeper_segment_copy(struct segment *segment, const struct disk_request *request)
{
    for (uint8_t i = 0; i < segment->copies; i++)
        if (&segment->copy[i].request == request || &segment->copy[i].unseal == request)
            return &segment->copy[i];
    abort();
}

void keeper_segment_answered(struct disk_request *request)
{
    keeper_post_request(((struct segment *)request->owner)->keeper, request);
}

static void slot_release(struct segment *segment, struct segment_copy *copy)
{
    struct keeper_disk *disk = copy->disk;
    if (copy->gone)
        return;
    assert(disk->open[copy->slot] == segment); /* it was never handed out twice */
    disk->belief[copy->slot] = copy->left;
    disk->position[copy->slot] = copy->left.position ? copy->left.position : copy->turn;
    disk->open[copy->slot] = NULL;
}

/* A write of this copy has answered. */
void keeper_copy_answered(struct segment *segment, struct segment_copy *copy)
{
    if (--copy->writes_open == 0 && copy->released)
        slot_release(segment, copy);
}

static void segment_unlink(struct segment *segment)
{
    struct segment **link = &segment->keeper->segments;
    while (*link != segment)
        link = &(*link)->next;
    *link = segment->next;
}

void keeper_segment_free(struct segment *segment)
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
            slot_release(segment, &segment->copy[i]);
    }
    if (segment->buffers == 0)
        keeper_segment_free(segment);
}

/* Nothing more will be written into it: its slots may be overwritten in their turn. */
void keeper_segment_close(struct segment *segment)
{
    const struct segment_row *row = &segment->row;
    bool empty = row->packets == 0;
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        bool counts = false;
        for (uint8_t p = 0; p < row->places; p++)
            counts |= identity_equal(&row->place[p].disk, &copy->disk->identity);
        copy->left = (struct slot_belief){
            .segment = segment->identity.segment,
            .position = counts && !empty ? segment->identity.position : 0,
            .revision = segment->identity.revision,
        };
        /* A copy that went bad is nobody's, but its turn has not come: a place that cannot be written would be tried again at once. */
        copy->turn = empty ? 0 : segment->identity.position;
    }
    if (empty || row->places == 0)
        catalog_drop_segment(segment->keeper->options.catalog, &segment->identity.segment);
    else
        catalog_put_segment(segment->keeper->options.catalog, &segment->row);
    if (!empty && row->places > 0 && row->state == SEGMENT_OPEN)
        mender_ended(segment->keeper->mender, row);
    if (!empty && row->places < segment->keeper->options.copies)
        mender_short_of_copies(segment->keeper->mender);
    segment_done(segment);
}

uint32_t keeper_victim(const struct keeper_disk *disk, uint64_t *position, uint32_t *free_slots)
{
    uint32_t best = UINT32_MAX;
    uint64_t lowest = POSITION_IN_USE;
    *free_slots = 0;
    for (uint32_t slot = 0; slot < disk->slots; slot++) {
        if (slot == disk->held)
            continue;
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
        .done = keeper_segment_answered,
        .owner = segment,
    };
    segment->outstanding++;
    keeper_submit(segment->keeper, copy->disk, &copy->request, &copy->generation);
}

/* Of each stream; a very small ring keeps only one. */
static uint32_t leases_ahead(const struct keeper *keeper)
{
    uint64_t slots = 0, streams = 0;
    for (uint32_t i = 0; i < keeper->disks; i++)
        slots += keeper->disk[i]->io ? keeper->disk[i]->slots : 0;
    if (slots < RING_SLOTS_FEW)
        return 1;
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next)
        streams++;
    if (streams == 0)
        return KEEPER_LEASES_AHEAD;
    uint64_t wanted = keeper->pool_bytes / keeper->options.slot_bytes / streams;
    uint64_t most = slots / KEEPER_LEASES_RING_SHARE / keeper->options.copies / streams;
    if (wanted > most)
        wanted = most;
    return wanted < KEEPER_LEASES_AHEAD ? KEEPER_LEASES_AHEAD
           : wanted > KEEPER_LEASES_MAX ? KEEPER_LEASES_MAX
                                        : (uint32_t)wanted;
}

uint32_t keeper_prepared_level(const struct keeper *keeper, struct stream *stream)
{
    uint32_t ahead = leases_ahead(keeper), leases = stream_leases(stream);
    return leases >= ahead ? 0 : PRESSURE_HIGH * (ahead - leases) * 2 / ahead;
}

/* Less than half of what should be prepared is: what holds up the next one cannot be waited for. */
static bool runs_low(const struct keeper *keeper, struct stream *stream)
{
    return stream_leases(stream) * 2 < leases_ahead(keeper);
}

enum choice { CHOOSE_FAST, CHOOSE_USABLE, CHOOSE_ANY };

static uint32_t choose(struct keeper *keeper, struct placement_disk *candidate, const uint32_t *victim, enum choice choice,
                       uint32_t *chosen)
{
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        bool usable = choice == CHOOSE_ANY ? keeper_disk_left(disk) && !disk->doubtful
                                           : keeper_disk_usable(disk) && disk->in_flight_bytes < keeper_disk_share(keeper, disk);
        candidate[i].usable = usable && victim[i] != UINT32_MAX && (choice != CHOOSE_FAST || !keeper_disk_is_slow(disk));
    }
    return placement_choose(candidate, keeper->disks, keeper->options.copies, chosen);
}

/* What is on its way to a disk is not all that it has to do: adds what will be written to the segments that are prepared for it, or being filled. */
static void add_bytes_to_come(const struct keeper *keeper, struct placement_disk *candidate)
{
    for (const struct segment *segment = keeper->segments; segment; segment = segment->next)
        for (uint8_t i = 0; i < segment->copies && segment->phase <= SEGMENT_FILLING; i++)
            if (!segment->copy[i].bad)
                candidate[segment->copy[i].disk->number].bytes_to_write += segment->slot_bytes - segment->bytes_received;
}

/*
 * The disks for the next segment. One that is slow at the moment is left out where the copies can be had without it, and, when the
 * stream will soon want the segment, also where there are fewer then: the mender brings the missing ones (P4). Rather a disk that does not answer than none.
 */
static uint32_t choose_disks(struct keeper *keeper, struct stream *stream, bool is_rescue, uint32_t *victim,
                             uint32_t *chosen)
{
    struct placement_disk candidate[RING_DISKS_MAX];
    bool wanted = is_rescue || runs_low(keeper, stream);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        candidate[i] = (struct placement_disk){.slots = disk->slots,
                                               .bytes_to_write = disk->in_flight_bytes,
                                               .failure_domain = disk->failure_domain};
        victim[i] = disk->io ? keeper_victim(disk, &candidate[i].oldest_position, &candidate[i].free_slots) : UINT32_MAX;
    }
    add_bytes_to_come(keeper, candidate);
    uint32_t copies = choose(keeper, candidate, victim, CHOOSE_FAST, chosen);
    if (copies == 0 || (copies < keeper->options.copies && !wanted))
        copies = choose(keeper, candidate, victim, CHOOSE_USABLE, chosen);
    return copies > 0 ? copies : choose(keeper, candidate, victim, CHOOSE_ANY, chosen);
}

void keeper_prepare(struct keeper *keeper, struct stream *stream, bool is_rescue)
{
    uint32_t victim[RING_DISKS_MAX], chosen[COPIES_MAX];
    uint32_t copies = choose_disks(keeper, stream, is_rescue, victim, chosen);
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
    segment->begun_ns = keeper->options.monotonic_ns(keeper->options.context);
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

/* A segment expires at all its places at once. Another one may have its position: of a recorder that wrote a disk of this ring apart from us. */
void keeper_expire(struct keeper *keeper, const struct slot_belief *belief)
{
    if (belief->position == 0)
        return;
    keeper_note_expired(keeper, &belief->segment);
    for (uint32_t i = 0; i < keeper->disks; i++) {
        struct keeper_disk *disk = keeper->disk[i];
        for (uint32_t slot = 0; slot < disk->slots; slot++)
            if (disk->position[slot] == belief->position &&
                identity_equal(&disk->belief[slot].segment, &belief->segment)) {
                disk->position[slot] = 0;
                /* Free, but what its first page says is known, and no news. */
                disk->belief[slot] = (struct slot_belief){.segment = disk->belief[slot].segment};
            }
    }
    catalog_drop_segment(keeper->options.catalog, &belief->segment);
}

/* Another one may be prepared in its place. */
void keeper_segment_orphan(struct segment *segment)
{
    if (!segment->rescue && !segment->orphan)
        stream_queue(segment->stream)->preparing--;
    if (segment->rescue && !segment->orphan)
        keeper_post_stream(segment->keeper, segment->stream); /* its frames look for another one */
    segment->orphan = true;
    segment->keeper->prepare_again = true;
}

static void segment_give_up(struct segment *segment)
{
    keeper_segment_orphan(segment);
    for (uint8_t i = 0; i < segment->copies; i++) {
        struct segment_copy *copy = &segment->copy[i];
        /* Up to here nothing was overwritten; afterwards the slot holds nothing that anybody knows of. */
        copy->left = (struct slot_belief){0};
        if (segment->phase == SEGMENT_CHECKING && !copy->gone)
            copy->left = copy->disk->belief[copy->slot];
        else if (copy->bad)
            copy->turn = segment->identity.position;
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
            .done = keeper_segment_answered,
            .owner = segment,
        };
        copy->unseal = copy->request;
        copy->unseal.offset = options->slot_bytes - PAGE_BYTES;
        copy->unseal.buffer = zero_page;
        copy->opening = 2;
        segment->outstanding += 2;
        copy->writes_open += 2;
        keeper_submit(keeper, copy->disk, &copy->request, &copy->generation);
        keeper_submit(keeper, copy->disk, &copy->unseal, &copy->unseal_generation);
    }
}

bool keeper_slot_is_stale(struct keeper_disk *disk, uint32_t slot, const struct segment *holder, const uint8_t *page)
{
    assert(disk->open[slot] == holder && (disk->position[slot] == POSITION_IN_USE) == (holder != NULL));
    struct keeper *keeper = disk->keeper;
    struct slot_belief *belief = &disk->belief[slot];
    struct frame_info info;
    if (frame_parse(page, PAGE_BYTES, &info) != 0 || !identity_equal(&info.ring, &keeper->options.ring) ||
        info.kind != FRAME_OPEN)
        return false;
    /* A slot that was given up holds the first page of a segment that is known to be gone. */
    if (identity_equal(&info.segment, &belief->segment) || info.position <= belief->position)
        return false;
    keeper->stale_beliefs++;
    keeper_raise_position(keeper, info.position);
    /* Without a revision: nobody has seen more of it than this page. */
    *belief = (struct slot_belief){.segment = info.segment, .position = info.position};
    disk->position[slot] = info.position;
    disk->open[slot] = NULL;
    return true;
}

/* It cannot be prepared here: it goes when the headers that are read anew for other copies have been answered, too. */
static void check_failed(struct segment *segment)
{
    keeper_segment_orphan(segment);
    if (segment->outstanding == 0)
        segment_give_up(segment);
}

/* All headers have been read. Another slot takes the place of one that held something else than believed. */
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
        if (copy->request.result != 0) {
            disk->read_errors++;
            keeper_disk_error(keeper, disk, "reading a slot's header", copy->request.result);
            /* What cannot be read cannot be kept either, but another disk is the better choice. */
            if (disk->failed) {
                check_failed(segment);
                return;
            }
            continue;
        }
        if (!keeper_slot_is_stale(disk, copy->slot, segment, segment->page + i * PAGE_BYTES))
            continue;
        uint64_t position;
        uint32_t free_slots, slot = keeper_victim(disk, &position, &free_slots);
        if (slot == UINT32_MAX) { /* every slot is in use: a ring of very few slots */
            copy->bad = true;
            slot_take(segment, copy, disk, copy->slot);
            check_failed(segment);
            return;
        }
        slot_take(segment, copy, disk, slot);
        check_submit(segment, i);
    }
    if (segment->outstanding > 0)
        return;
    for (uint8_t i = 0; i < segment->copies; i++)
        keeper_expire(keeper, &segment->copy[i].disk->belief[segment->copy[i].slot]);
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
        keeper_settle(keeper, segment->stream);
        return;
    }
    stream_queue(segment->stream)->preparing--;
    stream_grant(segment->stream, segment);
}

/* One of the two writes that open a copy has come to its end: flushed, or failed. */
void keeper_segment_opened(struct segment *segment, struct segment_copy *copy, bool good)
{
    copy->bad |= !good;
    copy->opening--;
    segment_ready_if_opened(segment);
}

/*
 * A stream that has little prepared waits for it; for others it need not be flushed at once: under load the flush that the frames
 * need comes soon enough.
 */
static uint64_t open_due_ns(struct keeper *keeper, const struct segment *segment)
{
    if (segment->rescue || segment->orphan || runs_low(keeper, segment->stream))
        return 0;
    return keeper->options.monotonic_ns(keeper->options.context) + OPEN_PATIENCE_NS;
}

void keeper_segment_written(struct keeper *keeper, struct disk_request *request)
{
    struct segment *segment = request->owner;
    struct segment_copy *copy = keeper_segment_copy(segment, request);
    segment->outstanding--;
    keeper_answered(keeper, copy->disk, request,
                     request == &copy->unseal ? copy->unseal_generation : copy->generation);
    if (request->op == DISK_WRITE)
        keeper_copy_answered(segment, copy);
    if (segment->phase == SEGMENT_CHECKING) {
        if (segment->outstanding == 0)
            segment_check_done(segment);
        return;
    }
    if (copy->gone) {
        keeper_segment_opened(segment, copy, false);
        return;
    }
    if (request->result == 0) {
        copy->disk->written_bytes += request->bytes;
        keeper_unflushed_add(copy->disk, request, open_due_ns(keeper, segment));
        return;
    }
    copy->disk->write_errors++;
    keeper_disk_error(keeper, copy->disk, "writing a segment's first page", request->result);
    keeper_segment_opened(segment, copy, false);
}

void keeper_prepare_wanted(struct keeper *keeper)
{
    bool again = keeper->prepare_again;
    keeper->prepare_again = false;
    if (keeper->dead)
        return;
    if (again)
        keeper_settle_all(keeper); /* a rescue that found no disk looks for one, too: nothing else may ever call it */
    for (struct stream *stream = keeper->streams; stream; stream = stream_queue(stream)->next) {
        while (stream_queue(stream)->preparing + stream_leases(stream) < leases_ahead(keeper)) {
            keeper_prepare(keeper, stream, false);
            if (keeper->prepare_again)
                return;
        }
        if (!runs_low(keeper, stream))
            continue;
        /* It has taken its last ones: what was being opened at leisure is wanted now. */
        for (const struct segment *one = keeper->segments; one; one = one->next)
            for (uint8_t i = 0; i < one->copies && one->stream == stream && one->phase == SEGMENT_OPENING; i++)
                one->copy[i].disk->flush_wanted = true;
    }
}

/* Whether the segment that is being prepared waits for a slow disk, and would not with others. */
static bool held_up(const struct keeper *keeper, const struct segment *segment)
{
    bool slow = false, others = false;
    for (uint8_t i = 0; i < segment->copies; i++)
        slow |= keeper_disk_is_slow(segment->copy[i].disk);
    for (uint32_t i = 0; i < keeper->disks; i++)
        others |= keeper_disk_usable(keeper->disk[i]) && !keeper_disk_is_slow(keeper->disk[i]);
    return slow && others;
}

void keeper_prepare_watch(struct keeper *keeper, uint64_t now)
{
    bool found = false;
    for (struct segment *one = keeper->segments; one; one = one->next)
        if (one->phase < SEGMENT_READY && !one->orphan && now - one->begun_ns > PREPARE_PATIENCE_NS &&
            (one->rescue || runs_low(keeper, one->stream)) && held_up(keeper, one)) {
            keeper_segment_orphan(one);
            found = true;
        }
    if (!found)
        return;
    keeper_settle_all(keeper); /* rescues look for another segment */
    keeper_prepare_wanted(keeper);
}
