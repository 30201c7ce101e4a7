/*
 * purge_live.c - see purge_live.h.
 *
 * The happy path: wait_sealed() -> candidates_find() asks the catalog -> for each segment, newest first: turn_begin() waits until the mender has nothing under way ->
 * places_hold() -> purge_image_build() -> target_take() and purge_copy_write() for each place -> swap() -> readers_wait() -> the old slots are wiped
 * and given back -> turn_end(). Then clear_the_rest() goes through all slots.
 *
 * Who may touch what: the slots of the old revision are held (`held` of their disks) from places_hold() to swap(): they cannot expire, and stay what the keeper believes. Targets are
 * taken (disk_guest_take()) from the moment their header has been read, old slots from swap() on, until they are given back. Everything that changes what the keeper
 * believes happens inside keeper_call().
 *
 * Failure: before swap() the targets are given back, free or, where a write failed, in the old turn, and the segment is what it was. Where one copy of the new revision is sealed the old one
 * is over, for so a start would say; the mender makes the copies that are missing. A slot that cannot be wiped is an error, and keeps its turn.
 */
#include "purge_live.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "disk_guest.h"
#include "keeper_inside.h"
#include "purge_inside.h"
#include "stream.h"

#define SEAL_ASK_NS 100000000ull /* between two looks whether all is sealed */
#define SLOTS_A_TURN 64u         /* cleared before the mender has its turn */

struct live {
    const struct purge_live_options *options;
    struct purge purge;
    struct guest_options guest;
    struct guest_pace pace;
    uint64_t patient_from_ns; /* readers that came before then have been waited for, in vain */
    bool opened;
    uint64_t unsealed;        /* segments that hold something and could not be sealed in time */
};

static uint64_t now_ns(const struct live *live)
{
    const struct keeper_options *options = keeper_options(live->options->keeper);
    return options->monotonic_ns(options->context);
}

static bool given_up(const struct live *live)
{
    const struct recovery_options *look = live->options->purge.recovery;
    return look->give_up && look->give_up(look->context);
}

/* What has been begun comes to an end, and soon. */
static bool hurries(void *context)
{
    return given_up(context);
}

/* The guest's, which has one context for both. */
static bool step(void *context)
{
    const struct live *live = context;
    return live->options->step(live->options->context);
}

static int interrupted(struct live *live)
{
    return fail(live->purge.failure, ERR_INTERRUPTED, "given up: part of it has been erased, purging again goes on");
}

static int closed(struct live *live)
{
    return fail(live->purge.failure, ERR_CLOSED, "the recorder ends: part of it has been erased, purging again goes on");
}

static int not_well(struct live *live, const struct disk *disk)
{
    return fail(live->purge.failure, ERR_BUSY,
                "disk %s has left, failed, or does not answer: what it holds is not erased; purge again when it is back, or has been taken out", disk->name);
}

/* ---- turns with the mender ------------------------------------------------------------------------- */

struct way_question {
    bool way, still;
};

static void make_way(struct keeper *keeper, void *context)
{
    struct way_question *question = context;
    question->still = mender_make_way(keeper, question->way);
}

static void turn_end(struct live *live)
{
    struct way_question question = {.way = false};
    keeper_call(live->options->keeper, make_way, &question);
}

static int turn_begin(struct live *live)
{
    struct way_question question = {.way = true};
    for (;;) {
        keeper_call(live->options->keeper, make_way, &question);
        if (question.still)
            return 0;
        bool more = disk_guest_idle(&live->guest);
        if (more && !given_up(live))
            continue;
        turn_end(live);
        return more ? interrupted(live) : closed(live);
    }
}

/* ---- which segments -------------------------------------------------------------------------------- */

struct filling {
    const struct purge_options *purge;
    uint32_t stream[64]; /* that are to seal; the others are asked the next time */
    uint32_t streams;
    bool any;
};

static void look_at_filling(struct keeper *keeper, void *context)
{
    struct filling *filling = context;
    filling->streams = 0;
    filling->any = false;
    for (const struct segment *one = keeper->segments; one; one = one->next) {
        if (one->phase < SEGMENT_READY || one->phase == SEGMENT_DONE || one->row.packets == 0 ||
            !purge_concerns(filling->purge->range, filling->purge->ranges, &one->row))
            continue;
        filling->any = true;
        if (one->phase == SEGMENT_FILLING && !one->rescue && filling->streams < sizeof filling->stream / sizeof filling->stream[0])
            filling->stream[filling->streams++] = one->identity.stream;
    }
}

static int row_take(const struct segment_row *row, void *context)
{
    struct live *live = context;
    if (row->packets == 0 || !purge_concerns(live->purge.options->range, live->purge.options->ranges, row))
        return 0;
    if (row->state != SEGMENT_OPEN)
        return purge_candidate_add(&live->purge, row);
    live->unsealed++;
    return 0;
}

static int candidates_find(struct live *live)
{
    struct purge *purge = &live->purge;
    const struct recovery_options *look = purge->options->recovery;
    purge->candidates = 0;
    live->unsealed = 0;
    int result = catalog_barrier(look->catalog);
    if (result == 0)
        result = catalog_find(look->catalog, &look->ring, INT64_MIN, INT64_MAX, row_take, live);
    if (result != 0)
        return purge->failure->code != 0 ? result : fail(purge->failure, result, "the catalog cannot be read: %s", error_text(result));
    purge_candidates_sort(purge);
    return 0;
}

/* Waits until no segment that holds something is being filled, or waits for its seal: only those that are sealed can be written anew. Then the candidates are known. */
static int wait_sealed(struct live *live)
{
    struct filling filling = {.purge = live->purge.options};
    uint64_t until_ns = now_ns(live) + live->options->seal_wait_ns;
    for (;;) {
        keeper_call(live->options->keeper, look_at_filling, &filling);
        for (uint32_t i = 0; i < filling.streams; i++)
            live->options->seal(live->options->context, filling.stream[i]);
        bool over = now_ns(live) >= until_ns;
        if (!filling.any || over) {
            int result = candidates_find(live);
            if (result != 0 || live->unsealed == 0 || over)
                return result;
        }
        for (uint64_t again_ns = now_ns(live) + SEAL_ASK_NS; now_ns(live) < again_ns;) {
            if (!disk_guest_idle(&live->guest))
                return closed(live);
            if (given_up(live))
                return interrupted(live);
        }
    }
}

/* ---- the segment in hand --------------------------------------------------------------------------- */

struct hand {
    struct live *live;
    const struct candidate *candidate;
    int result;
    const struct disk *blamed;
};

/* It cannot expire from now on, and is what it is. */
static void places_hold(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct hand *hand = context;
    struct purge *purge = &hand->live->purge;
    purge->places = 0;
    for (uint32_t d = 0; d < purge->disks; d++) {
        struct keeper_disk *host = disk_guest_host(purge->disk[d].disk);
        for (uint32_t slot = 0; slot < host->slots && host->io; slot++) {
            const struct slot_belief *belief = &host->belief[slot];
            if (keeper_slot_counts(host, slot) != hand->candidate->position ||
                !identity_equal(&belief->segment, &hand->candidate->segment))
                continue;
            /* One disk has one copy: a second one can only be what somebody has put together by hand. */
            if (!disk_guest_is_well(purge->disk[d].disk) || host->held != UINT32_MAX || purge->places == RING_DISKS_MAX) {
                hand->result = ERR_BUSY;
                hand->blamed = purge->disk[d].disk;
                continue;
            }
            host->held = slot;
            purge->disk[d].belief[slot] = *belief;
            purge->place[purge->places].disk = d;
            purge->place[purge->places].from = slot;
            purge->place[purge->places++].to = PURGE_NO_SLOT;
        }
    }
}

static void let_go(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct live *live = context;
    struct purge *purge = &live->purge;
    for (uint32_t i = 0; i < purge->places; i++) {
        struct keeper_disk *host = disk_guest_host(purge->disk[purge->place[i].disk].disk);
        if (host->held == purge->place[i].from)
            host->held = UINT32_MAX;
    }
}

static bool seal_find(struct live *live)
{
    struct purge *purge = &live->purge;
    for (uint32_t i = 0; i < purge->places; i++)
        if (purge_seal_look(purge, purge->place[i].disk, purge->place[i].from, &purge->row, &purge->reason))
            return true;
    return false;
}

struct well_question {
    const struct live *live;
    const struct disk *ill; /* null: all of the places are on disks that are well */
    bool all;               /* of the ring's */
};

static void ask_well(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct well_question *question = context;
    const struct purge *purge = &question->live->purge;
    for (uint32_t i = 0; i < (question->all ? purge->disks : purge->places); i++) {
        const struct disk *disk = purge->disk[question->all ? i : purge->place[i].disk].disk;
        if (!disk_guest_is_well(disk))
            question->ill = disk;
    }
}

/* What a disk that is gone did not give is not damage: nothing may be made of it. */
static int check_well(struct live *live, bool all)
{
    struct well_question question = {.live = live, .all = all};
    keeper_call(live->options->keeper, ask_well, &question);
    return question.ill ? not_well(live, question.ill) : 0;
}

/* ---- slots for the new revision --------------------------------------------------------------------- */

struct target {
    struct live *live;
    struct disk *disk;
    uint32_t slot; /* PURGE_NO_SLOT: there is none */
    uint64_t position;
    bool taken;
};

static void target_choose(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct target *target = context;
    uint32_t free_slots;
    target->slot = keeper_victim(disk_guest_host(target->disk), &target->position, &free_slots);
}

/* The slot's first page has been read: is it still what was chosen? */
static void target_confirm(struct keeper *keeper, void *context)
{
    struct target *target = context;
    struct purge *purge = &target->live->purge;
    struct keeper_disk *host = disk_guest_host(target->disk);
    if (!disk_guest_is_well(target->disk) || host->position[target->slot] != target->position || host->open[target->slot] ||
        keeper_slot_is_stale(host, target->slot, NULL, purge->part))
        return;
    const struct slot_belief victim = host->belief[target->slot];
    purge->report->segments_dropped += victim.position > 0;
    keeper_expire(keeper, &victim);
    const struct slot_belief left = {.segment = purge->row.segment};
    target->taken = disk_guest_take(target->disk, target->slot, &left);
    assert(target->taken);
}

static int target_take(struct live *live, uint32_t place)
{
    struct purge *purge = &live->purge;
    struct target target = {.live = live, .disk = purge->disk[purge->place[place].disk].disk};
    for (uint32_t tries = 0; tries < 2 * target.disk->geometry.slot_count; tries++) {
        keeper_call(live->options->keeper, target_choose, &target);
        if (target.slot == PURGE_NO_SLOT)
            break;
        int result = disk_read(target.disk, target.slot, 0, purge->part, PAGE_BYTES);
        if (result != 0)
            return fail(purge->failure, result, "disk %s, slot %u could not be read: %s", target.disk->name, target.slot, error_text(result));
        keeper_call(live->options->keeper, target_confirm, &target);
        if (target.taken) {
            purge->place[place].to = target.slot;
            return 0;
        }
        result = check_well(live, false);
        if (result != 0)
            return result;
    }
    return fail(purge->failure, ERR_NO_SPACE, "disk %s has no slot to spare", target.disk->name);
}

/* Of the places from `made` on: what was begun there is nothing. */
struct giving {
    struct live *live;
    uint32_t made;
};

static void targets_give(struct keeper *keeper, void *context)
{
    (void)keeper;
    const struct giving *giving = context;
    struct purge *purge = &giving->live->purge;
    const struct slot_belief left = {.segment = purge->row.segment};
    for (uint32_t i = giving->made; i < purge->places; i++) {
        struct disk *disk = purge->disk[purge->place[i].disk].disk;
        if (purge->place[i].to != PURGE_NO_SLOT && !disk_guest_is_lost(disk)) /* else the guest gives it when it has been answered */
            disk_guest_give(disk, purge->place[i].to, &left, purge->row.position);
        purge->place[i].to = PURGE_NO_SLOT;
    }
}

/* From now on the segment is the new revision, at the places that have it. */
static void swap(struct keeper *keeper, void *context)
{
    struct live *live = context;
    struct purge *purge = &live->purge;
    struct segment_row *row = &purge->row;
    const struct slot_belief whole = {.segment = row->segment, .position = row->position, .revision = row->revision};
    const struct slot_belief nothing = {.segment = row->segment};
    let_go(keeper, live);
    row->places = 0;
    for (uint32_t i = 0; i < purge->places; i++) {
        struct disk *disk = purge->disk[purge->place[i].disk].disk;
        struct keeper_disk *host = disk_guest_host(disk);
        if (purge->place[i].to != PURGE_NO_SLOT) {
            disk_guest_give(disk, purge->place[i].to, &whole, 0);
            if (row->places < COPIES_MAX)
                row->place[row->places++] =
                    (struct segment_place){.disk = purge->disk[purge->place[i].disk].identity, .slot = purge->place[i].to};
        }
        if (host->io && identity_equal(&host->belief[purge->place[i].from].segment, &row->segment))
            (void)disk_guest_take(disk, purge->place[i].from, &nothing);
    }
    catalog_put_segment(keeper->options.catalog, row);
    if (row->places < keeper->options.copies)
        mender_short_of_copies(keeper->mender);
}

/* Who reads an old slot has time to come to the end of it. Who has had that once, and is still there, has it no more. */
static void readers_wait(struct live *live)
{
    const struct purge_live_options *options = live->options;
    uint64_t began_ns = now_ns(live);
    while (options->is_read && options->is_read(options->context, live->patient_from_ns, began_ns) && !given_up(live))
        if (now_ns(live) - began_ns >= options->reader_wait_ns || !disk_guest_idle(&live->guest))
            live->patient_from_ns = began_ns;
}

struct wiped {
    struct live *live;
    uint32_t place;
    bool good;
};

static void old_give(struct keeper *keeper, void *context)
{
    (void)keeper;
    const struct wiped *wiped = context;
    const struct purge *purge = &wiped->live->purge;
    struct disk *disk = purge->disk[purge->place[wiped->place].disk].disk;
    struct slot_belief left = {0};
    if (!wiped->good)
        left.segment = purge->row.segment; /* what its first page may still say is known, and no news */
    if (!disk_guest_is_lost(disk))
        disk_guest_give(disk, purge->place[wiped->place].from, &left, wiped->good ? 0 : purge->row.position);
}

static int old_wipe(struct live *live)
{
    struct purge *purge = &live->purge;
    int result = 0;
    for (uint32_t i = 0; i < purge->places; i++) {
        int one = purge_slot_wipe(purge, purge->place[i].disk, purge->place[i].from);
        struct wiped wiped = {.live = live, .place = i, .good = one == 0};
        keeper_call(live->options->keeper, old_give, &wiped);
        result = result == 0 ? one : result;
    }
    return result;
}

static int copies_make(struct live *live, uint32_t *made)
{
    struct purge *purge = &live->purge;
    int result = 0;
    for (*made = 0; *made < purge->places && result == 0; *made += result == 0) {
        result = target_take(live, *made);
        if (result == 0)
            result = purge_copy_write(purge, purge->place[*made].disk, purge->place[*made].to);
    }
    return result;
}

/* The places are held. */
static int segment_rewrite(struct live *live)
{
    struct purge *purge = &live->purge;
    uint64_t packets = 0, bytes = 0, lost_before = purge->report->pages_lost;
    uint32_t made;
    if (!seal_find(live)) {
        int result = check_well(live, false);
        return result != 0 ? result
                           : fail(purge->failure, ERR_CORRUPT, "a segment has lost its seal, and cannot be written anew: tapeloop verify --repair mends it");
    }
    if (purge->row.revision == UINT32_MAX)
        return fail(purge->failure, ERR_CORRUPT, "a segment claims to have been rewritten for ever");
    int result = purge_image_build(purge, &packets, &bytes);
    if (result == 0)
        result = check_well(live, false);
    if (result != 0 || (packets == 0 && purge->report->pages_lost == lost_before))
        return result;
    result = copies_make(live, &made);
    struct giving giving = {.live = live, .made = made};
    keeper_call(live->options->keeper, targets_give, &giving);
    if (made == 0)
        return result;
    keeper_call(live->options->keeper, swap, live);
    purge->report->segments++;
    purge->report->packets += packets;
    purge->report->bytes += bytes;
    /* Who asks the catalog from now on is told of the new places. */
    int told = catalog_barrier(purge->options->recovery->catalog);
    if (result == 0 && told != 0)
        result = fail(purge->failure, told, "the catalog could not be written: %s", error_text(told));
    readers_wait(live);
    int wiped = old_wipe(live);
    return result == 0 ? wiped : result;
}

static int segment_purge(struct live *live, const struct candidate *candidate)
{
    struct purge *purge = &live->purge;
    struct hand hand = {.live = live, .candidate = candidate};
    keeper_call(live->options->keeper, places_hold, &hand);
    int result = hand.result;
    if (result != 0)
        not_well(live, hand.blamed);
    else if (purge->places == 0)
        purge->report->segments_gone++; /* it has expired meanwhile */
    else
        result = segment_rewrite(live);
    keeper_call(live->options->keeper, let_go, live);
    for (uint32_t i = 0; i < purge->places; i++)
        purge->disk[purge->place[i].disk].belief[purge->place[i].from] = (struct slot_belief){0};
    return result;
}

static int segments_purge(struct live *live)
{
    struct purge *purge = &live->purge;
    const struct recovery_options *look = purge->options->recovery;
    int result = 0;
    for (uint32_t i = 0; i < purge->candidates && result == 0; i++) {
        result = turn_begin(live);
        if (result != 0)
            break;
        result = segment_purge(live, &purge->candidate[i]);
        turn_end(live);
        if (look->progress)
            look->progress(look->context, i + 1, purge->candidates);
        if (result == 0 && given_up(live))
            result = interrupted(live);
    }
    return result;
}

/* ---- what no segment covers ------------------------------------------------------------------------- */

enum rest { REST_IN_USE, REST_FREE, REST_SEGMENT };

struct resting {
    struct live *live;
    uint32_t disk, slot;
    enum rest rest;
    uint64_t turn; /* of a slot that is free */
    bool held, taken, cleared;
};

static void rest_look(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct resting *resting = context;
    struct purge *purge = &resting->live->purge;
    struct keeper_disk *host = disk_guest_host(purge->disk[resting->disk].disk);
    uint64_t position = host->io ? host->position[resting->slot] : POSITION_IN_USE;
    resting->turn = 0;
    if (position == POSITION_IN_USE || host->open[resting->slot]) {
        resting->rest = REST_IN_USE;
    } else if (host->belief[resting->slot].position == 0) {
        resting->rest = REST_FREE;
        resting->turn = position;
    } else {
        resting->rest = REST_SEGMENT;
        resting->held = true; /* whatever becomes of `rest` */
        host->held = resting->slot;
        purge->disk[resting->disk].belief[resting->slot] = host->belief[resting->slot];
    }
}

/* Its first page has been read: what the keeper believes of a slot is never reason enough to overwrite it. */
static void rest_take(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct resting *resting = context;
    struct purge *purge = &resting->live->purge;
    struct disk *disk = purge->disk[resting->disk].disk;
    struct keeper_disk *host = disk_guest_host(disk);
    resting->taken = disk_guest_is_well(disk) && !host->open[resting->slot] && host->position[resting->slot] == resting->turn &&
                     host->belief[resting->slot].position == 0 && !keeper_slot_is_stale(host, resting->slot, NULL, purge->part) &&
                     disk_guest_take(disk, resting->slot, &host->belief[resting->slot]);
}

static void rest_give(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct resting *resting = context;
    struct purge *purge = &resting->live->purge;
    struct disk *disk = purge->disk[resting->disk].disk;
    struct keeper_disk *host = disk_guest_host(disk);
    const struct slot_belief left = resting->cleared ? (struct slot_belief){0} : host->belief[resting->slot];
    if (resting->taken && !disk_guest_is_lost(disk))
        disk_guest_give(disk, resting->slot, &left, resting->turn);
    if (resting->held && host->held == resting->slot)
        host->held = UINT32_MAX;
    purge->disk[resting->disk].belief[resting->slot] = (struct slot_belief){0};
}

static int free_slot_clear(struct live *live, struct resting *resting)
{
    struct purge *purge = &live->purge;
    struct disk *disk = purge->disk[resting->disk].disk;
    if (purge_slot_is_clear(purge, resting->disk, resting->slot))
        return 0;
    if (disk_read(disk, resting->slot, 0, purge->part, PAGE_BYTES) != 0)
        memset(purge->part, 0, PAGE_BYTES);
    keeper_call(live->options->keeper, rest_take, resting);
    if (!resting->taken) {
        resting->rest = REST_IN_USE; /* meanwhile, or it holds what nobody knew of */
        return check_well(live, true);
    }
    int result = purge_slot_wipe(purge, resting->disk, resting->slot);
    resting->cleared = result == 0;
    return result == 0 ? 1 : result;
}

static int segment_slot_clear(struct live *live, struct resting *resting)
{
    struct purge *purge = &live->purge;
    struct segment_row row;
    enum seal_reason reason;
    if (purge_seal_look(purge, resting->disk, resting->slot, &row, &reason))
        return purge_stretch_clear(purge, resting->disk, resting->slot, row.data_end, row.index_offset);
    resting->rest = REST_IN_USE; /* the mender has still to seal or to mend it */
    return check_well(live, true);
}

static int slot_clear(struct live *live, uint32_t disk, uint32_t slot)
{
    struct resting resting = {.live = live, .disk = disk, .slot = slot};
    int result = 0;
    keeper_call(live->options->keeper, rest_look, &resting);
    if (resting.rest == REST_FREE)
        result = free_slot_clear(live, &resting);
    else if (resting.rest == REST_SEGMENT)
        result = segment_slot_clear(live, &resting);
    live->purge.report->slots_in_use += resting.rest == REST_IN_USE;
    keeper_call(live->options->keeper, rest_give, &resting);
    return result;
}

static int clear_the_rest(struct live *live)
{
    struct purge *purge = &live->purge;
    uint32_t slots = 0;
    int result = turn_begin(live);
    if (result != 0)
        return result;
    for (uint32_t d = 0; d < purge->disks && result >= 0; d++) {
        for (uint32_t slot = 0; slot < purge->disk[d].disk->geometry.slot_count && result >= 0; slot++) {
            result = slot_clear(live, d, slot);
            purge->report->slots_cleared += result > 0;
            if (result >= 0 && given_up(live))
                result = interrupted(live);
            if (result < 0 || ++slots % SLOTS_A_TURN != 0)
                continue;
            turn_end(live);
            result = turn_begin(live);
            if (result != 0)
                return result;
        }
        int flushed = result >= 0 ? disk_flush(purge->disk[d].disk) : 0;
        if (flushed != 0)
            result = fail(purge->failure, flushed, "disk %s could not be flushed: %s", purge->disk[d].disk->name, error_text(flushed));
    }
    turn_end(live);
    return result < 0 ? result : 0;
}

/* ---- all of it -------------------------------------------------------------------------------------- */

struct listing {
    struct live *live;
    uint32_t number[RING_DISKS_MAX];
    uint32_t count;
};

static void list_disks(struct keeper *keeper, void *context)
{
    struct listing *listing = context;
    for (uint32_t i = 0; i < keeper->disks; i++)
        if (keeper->disk[i]->io)
            listing->number[listing->count++] = i;
}

static int live_open(struct live *live)
{
    struct purge *purge = &live->purge;
    struct listing listing = {.live = live};
    keeper_call(live->options->keeper, list_disks, &listing);
    int result = purge_open(purge);
    if (result != 0)
        return result;
    live->opened = true;
    for (uint32_t i = 0; i < listing.count && result == 0; i++) {
        struct recovery_disk *one = &purge->disk[purge->disks];
        result = disk_guest_open(&live->guest, listing.number[i], &one->disk);
        if (result != 0)
            break;
        one->identity = disk_guest_host(one->disk)->identity;
        one->belief = calloc(one->disk->geometry.slot_count, sizeof *one->belief);
        purge->disks++;
        if (!one->belief)
            result = ERR_NO_MEMORY;
    }
    return result == 0 ? 0 : fail(purge->failure, result, "%s", error_text(result));
}

static void live_close(struct live *live)
{
    struct purge *purge = &live->purge;
    for (uint32_t i = 0; i < purge->disks; i++) {
        disk_close(&purge->disk[i].disk);
        free(purge->disk[i].belief);
    }
}

int purge_live_run(const struct purge_live_options *options, struct purge_report *report, struct failure *failure)
{
    struct recovery_disk *disk = calloc(RING_DISKS_MAX, sizeof *disk);
    if (!disk)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    struct live live = {
        .options = options,
        .pace = {.rate = options->rate, .heedless = options->heedless},
        .purge = {.options = &options->purge,
                  .disk = disk,
                  .report = report,
                  .failure = failure,
                  .slot_bytes = keeper_options(options->keeper)->slot_bytes},
    };
    live.guest = (struct guest_options){.keeper = options->keeper,
                                        .pace = &live.pace,
                                        .patience_ms = options->patience_ms,
                                        .hurry = hurries,
                                        .step = options->step ? step : NULL,
                                        .context = &live};
    *report = (struct purge_report){0};
    int result = live_open(&live);
    if (result == 0)
        result = check_well(&live, true);
    if (result == 0)
        result = wait_sealed(&live);
    if (result == 0)
        result = segments_purge(&live);
    if (result == 0)
        result = clear_the_rest(&live);
    if (result == 0)
        result = check_well(&live, true);
    if (result == 0 && live.unsealed > 0)
        result = fail(failure, ERR_BUSY,
                      "%llu segments that hold such packets are not sealed yet, and stay as they are; all others have been erased: purge again",
                      (unsigned long long)live.unsealed);
    live_close(&live);
    if (live.opened)
        purge_close(&live.purge);
    free(disk);
    return result;
}
