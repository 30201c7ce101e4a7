/*
 * mender.c - see mender.h: what is to be done next, and when.
 *
 * Repairs that wait come first, then seals, healing, the scrub. What lacks a copy is found by
 * counting what the keeper believes of the slots (survey), a window of positions at a time from the
 * newest down: no catalog is asked, and memory does not depend on the ring's size. A count begins
 * when the state of a disk has changed, and once a minute.
 */
#include "mender_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SURVEY_EVERY_NS 60000000000ull
#define SURVEY_SOON_NS 1000000000ull
#define UNNOTICED_BYTES 65536u /* a read so short takes no turn at a disk that is recorded to: one is under way at most */
#define ENDED_AGAIN_NS 10000000000ull
#define SURVEY_SLOTS 16384u /* looked at in one run of the keeper */

int mender_new(struct keeper *keeper, const struct mender_options *options, struct mender **result)
{
    struct mender *mender = calloc(1, sizeof *mender);
    if (!mender)
        return ERR_NO_MEMORY;
    mender->keeper = keeper;
    mender->options = *options;
    if (options->scrub_position > 0) {
        mender->state.scrub.started_ns = options->scrub_started_ns;
        mender->state.scrub_position = options->scrub_position;
        mender->state.scrubbing = true;
    } else {
        mender->state.last_scrub.started_ns = options->scrub_started_ns;
    }
    *result = mender;
    return 0;
}

void mender_free(struct mender **slot)
{
    struct mender *mender = *slot;
    if (!mender)
        return;
    if (mender->job)
        mend_free(mender->job);
    while (mender->orphans)
        mend_free(mender->orphans);
    free(mender);
    *slot = NULL;
}

void mender_stop(struct mender *mender)
{
    mender->stopping = true;
}

void mender_pause(struct mender *mender, bool pause)
{
    mender->stopping = pause;
    mender->state.counted = false;
    mender->survey.running = mender->state.healing = false;
    mender->survey_due_ns = mender->heal_due_ns = 0;
}

bool mender_is_still(const struct mender *mender)
{
    return !mender->job && !mender->orphans;
}

/* ---- counting
 * ------------------------------------------------------------------------------------ */

/* Changes whenever copies may have come or gone by more than one. */
static uint64_t disks_signature(const struct keeper *keeper)
{
    uint64_t signature = keeper->disks * 8u + keeper->options.copies;
    for (uint32_t i = 0; i < keeper->disks; i++)
        signature = signature * 1000003u + i * 2u + mender_disk_good(keeper->disk[i]);
    return signature;
}

static uint32_t good_disks(const struct keeper *keeper)
{
    uint32_t good = 0;
    for (uint32_t i = 0; i < keeper->disks; i++)
        good += mender_disk_good(keeper->disk[i]);
    return good;
}

static void window_begin(struct survey *survey, uint64_t high)
{
    survey->high = survey->cursor = high;
    survey->low = high > MENDER_WINDOW ? high - MENDER_WINDOW : 1; /* 0 is no position */
    survey->below = 0;
    survey->disk = survey->slot = 0;
    survey->scanned = false;
    memset(survey->count, 0, sizeof survey->count);
}

static void survey_begin(struct mender *mender, bool healing)
{
    struct survey *survey = &mender->survey;
    survey->running = true;
    survey->healing = healing;
    survey->degraded = survey->missing = 0;
    /* With one copy of each segment nothing can lack one. */
    window_begin(survey, mender->keeper->options.copies > 1 ? mender->keeper->next_position : 1);
}

static void survey_end(struct mender *mender)
{
    struct survey *survey = &mender->survey;
    survey->running = false;
    mender->survey_due_ns = mender->now_ns + SURVEY_EVERY_NS;
    if (survey->healing) {
        mender->state.healing = false;
        mender->heal_due_ns = mender->now_ns + SURVEY_EVERY_NS;
        survey_begin(mender, false); /* what is left */
        return;
    }
    mender->state.degraded_segments = survey->degraded;
    mender->state.degraded_bytes = survey->missing * mender->keeper->options.slot_bytes;
    mender->state.counted = true;
    if (survey->degraded == 0)
        mender->degraded_since_ns = 0;
    else if (mender->degraded_since_ns == 0)
        mender->degraded_since_ns = mender->now_ns;
}

static void count_slot(struct survey *survey, uint64_t position)
{
    if (position == 0 || position >= survey->high)
        return; /* free, in use, or newer */
    if (position >= survey->low)
        survey->count[position - survey->low] += survey->count[position - survey->low] < UINT8_MAX;
    else if (position > survey->below)
        survey->below = position;
}

/* Counts on; whether the window is complete. */
static bool window_scan(struct mender *mender)
{
    struct survey *survey = &mender->survey;
    const struct keeper *keeper = mender->keeper;
    uint32_t left = SURVEY_SLOTS;
    for (; survey->disk < keeper->disks && survey->high > 1; survey->disk++, survey->slot = 0) {
        const struct keeper_disk *disk = keeper->disk[survey->disk];
        if (!mender_disk_good(disk))
            continue;
        for (; survey->slot < disk->slots; survey->slot++) {
            if (left-- == 0)
                return false;
            count_slot(survey, keeper_slot_counts(disk, survey->slot));
        }
    }
    survey->scanned = true;
    return true;
}

/* Adds the window up. */
static void window_sum(struct mender *mender)
{
    struct survey *survey = &mender->survey;
    uint8_t copies = mender->keeper->options.copies;
    for (uint32_t i = 0; i < MENDER_WINDOW; i++)
        if (survey->count[i] > 0 && survey->count[i] < copies) {
            survey->degraded++;
            survey->missing += copies - survey->count[i];
        }
}

static void window_next(struct mender *mender)
{
    if (mender->survey.below > 0)
        window_begin(&mender->survey, mender->survey.below + 1);
    else
        survey_end(mender);
}

/* Begins to heal the next segment of the window; false: there is none left. */
static bool window_heal(struct mender *mender)
{
    struct survey *survey = &mender->survey;
    uint32_t wanted = good_disks(mender->keeper);
    if (wanted > mender->keeper->options.copies)
        wanted = mender->keeper->options.copies;
    while (survey->cursor > survey->low) {
        uint64_t position = survey->cursor - 1;
        uint8_t count = survey->count[position - survey->low];
        if (count > 0 && count < wanted && mend_begin(mender, MEND_HEAL, position, 0, NULL, NULL))
            return true; /* mender_job_done() moves the count, or the cursor, on */
        survey->cursor--;
    }
    return false;
}

/* When healing is due; UINT64_MAX: there is nothing to heal, or nothing to heal with. */
static uint64_t heal_due_ns(const struct mender *mender)
{
    if (mender->degraded_since_ns == 0 || (mender->options.heal_rate == 0 && mender->hurry == 0) ||
        good_disks(mender->keeper) < 2)
        return UINT64_MAX;
    uint64_t due_ns =
        mender->degraded_since_ns + (mender->hurry > 0 ? 0 : mender->options.heal_delay_ns);
    return due_ns > mender->heal_due_ns ? due_ns : mender->heal_due_ns;
}

static bool survey_wanted(struct mender *mender)
{
    uint64_t signature = disks_signature(mender->keeper);
    bool wanted = signature != mender->signature || mender->now_ns >= mender->survey_due_ns;
    if (wanted)
        mender->state.counted = false;
    if (signature != mender->signature)
        mender->heal_due_ns = 0;
    mender->signature = signature;
    return wanted;
}

/* Counting and healing. Whether it did anything. */
static bool survey_go_on(struct mender *mender)
{
    struct survey *survey = &mender->survey;
    if (!survey->running) {
        if (survey_wanted(mender))
            survey_begin(mender, false);
        else if (mender->state.counted && mender->now_ns >= heal_due_ns(mender))
            survey_begin(mender, true);
        else
            return false;
        mender->state.healing = survey->healing;
        return true;
    }
    if (!survey->scanned) {
        if (window_scan(mender) && !survey->healing)
            window_sum(mender);
        return true;
    }
    if (!survey->healing || !window_heal(mender))
        window_next(mender);
    return true;
}

/* ---- the scrub
 * ----------------------------------------------------------------------------------- */

/* The lowest position of a segment that is not below `from`; 0: there is none. */
static uint64_t next_segment(const struct keeper *keeper, uint64_t from)
{
    uint64_t next = POSITION_IN_USE;
    for (uint32_t i = 0; i < keeper->disks; i++) {
        const struct keeper_disk *disk = keeper->disk[i];
        for (uint32_t slot = 0; mender_disk_good(disk) && slot < disk->slots; slot++)
            if (keeper_slot_counts(disk, slot) >= from && keeper_slot_counts(disk, slot) < next)
                next = keeper_slot_counts(disk, slot);
    }
    return next == POSITION_IN_USE ? 0 : next;
}

static void scrub_begin(struct mender *mender, int64_t wall_ns)
{
    mender->scrub_wanted = false;
    mender->state.scrubbing = true;
    mender->state.scrub_position = 1;
    mender->state.scrub = (struct mender_scrub){.started_ns = wall_ns};
}

static void scrub_end(struct mender *mender, int64_t wall_ns)
{
    mender->state.scrub.ended_ns = wall_ns;
    mender->state.last_scrub = mender->state.scrub;
    mender->state.scrub = (struct mender_scrub){0};
    mender->state.scrubbing = false;
    mender->state.scrub_position = 0;
}

/* Its first one begins an interval after the ring was first opened with it: scrub_started_ns is
 * then the time of that. */
static bool scrub_due(const struct mender *mender, int64_t wall_ns)
{
    const struct mender_options *options = &mender->options;
    if (mender->scrub_wanted)
        return true;
    if (options->scrub_interval_ns == 0 || options->scrub_rate == 0)
        return false;
    return wall_ns - mender->state.last_scrub.started_ns >= (int64_t)options->scrub_interval_ns;
}

static bool scrub_go_on(struct mender *mender)
{
    struct mender_state *state = &mender->state;
    const struct keeper_options *options = &mender->keeper->options;
    int64_t wall_ns = options->wall_ns(options->context);
    if (!state->scrubbing) {
        if (!scrub_due(mender, wall_ns))
            return false;
        scrub_begin(mender, wall_ns);
    }
    if (mender->options.scrub_rate == 0 && mender->hurry == 0)
        return false;
    if (mender->scrub_segment == 0) {
        mender->scrub_segment = next_segment(mender->keeper, state->scrub_position);
        mender->scrub_place = 0;
        state->scrub_position_end = mender->keeper->next_position;
        if (mender->scrub_segment == 0) {
            scrub_end(mender, wall_ns);
            return true;
        }
    }
    if (mend_begin(mender, MEND_SCRUB, mender->scrub_segment, mender->scrub_place, NULL, NULL)) {
        mender->scrub_place++;
        return true;
    }
    state->scrub_position = mender->scrub_segment + 1;
    mender->scrub_segment = 0;
    return true;
}

/* ---- repairs that readers wish
 * ---------------------------------------------------------------------- */

static struct keeper_disk *disk_of(struct keeper *keeper, const struct identity *identity)
{
    for (uint32_t i = 0; i < keeper->disks; i++)
        if (identity_equal(&keeper->disk[i]->identity, identity))
            return keeper->disk[i];
    return NULL;
}

bool mender_repair(struct keeper *keeper, const struct identity *identity, uint32_t slot,
                   const struct identity *segment, uint32_t offset, uint32_t bytes)
{
    struct mender *mender = keeper->mender;
    struct keeper_disk *disk = disk_of(keeper, identity);
    if (!disk || slot >= disk->slots || offset % PAGE_BYTES != 0 ||
        offset >= keeper->options.slot_bytes || disk->position[slot] == POSITION_IN_USE ||
        !identity_equal(&disk->belief[slot].segment, segment)) {
        mender->state.repairs_dropped++;
        return false;
    }
    if (bytes > keeper->options.slot_bytes - offset)
        bytes = (uint32_t)keeper->options.slot_bytes - offset;
    const struct mend_wish wish = {.segment = *segment,
                                   .disk = disk,
                                   .slot = slot,
                                   .offset = offset,
                                   .bytes = bytes > 0 ? bytes : 1};
    for (uint32_t i = 0; i < mender->wishes; i++) {
        const struct mend_wish *one = &mender->wish[(mender->wish_first + i) % MENDER_REPAIRS_MAX];
        if (one->disk == disk && one->slot == slot && one->offset == offset &&
            one->bytes >= wish.bytes)
            return true;
    }
    if (mender->wishes == MENDER_REPAIRS_MAX) {
        mender->state.repairs_dropped++;
        return false;
    }
    mender->wish[(mender->wish_first + mender->wishes++) % MENDER_REPAIRS_MAX] = wish;
    return true;
}

static bool repair_begin(struct mender *mender)
{
    if (mender->wishes == 0)
        return false;
    const struct mend_wish wish = mender->wish[mender->wish_first];
    mender->wish_first = (mender->wish_first + 1) % MENDER_REPAIRS_MAX;
    mender->wishes--;
    const struct slot_belief *belief = &wish.disk->belief[wish.slot];
    if (wish.disk->io && belief->position > 0 && identity_equal(&belief->segment, &wish.segment))
        (void)mend_begin(mender, MEND_REPAIR, belief->position, 0, &wish, NULL);
    return true;
}

/* ---- segments without a seal
 * ------------------------------------------------------------------------ */

void mender_ended(struct mender *mender, const struct segment_row *row)
{
    for (uint32_t i = 0; i < MENDER_ENDED_MAX; i++)
        if (mender->ended[i].row.position == 0) {
            mender->ended[i] = (struct mend_ended){.row = *row};
            return;
        }
}

/* Tries each now and then: its slots may still have a write under way, or the disk comes to itself.
 */
static bool seal_begin(struct mender *mender)
{
    for (uint32_t i = 0; i < MENDER_ENDED_MAX && mender->options.heal_rate > 0; i++) {
        struct mend_ended *ended = &mender->ended[i];
        if (ended->row.position == 0 || mender->now_ns < ended->due_ns)
            continue;
        const struct segment_row row = ended->row;
        ended->due_ns = mender->now_ns + ENDED_AGAIN_NS;
        if (++ended->tries > MENDER_ENDED_TRIES)
            ended->row.position = 0;
        else if (mend_begin(mender, MEND_SEAL, row.position, 0, NULL, &row))
            return true;
    }
    return false;
}

static uint64_t seal_due_ns(const struct mender *mender)
{
    uint64_t due_ns = UINT64_MAX;
    for (uint32_t i = 0; i < MENDER_ENDED_MAX && mender->options.heal_rate > 0; i++)
        if (mender->ended[i].row.position != 0 && mender->ended[i].due_ns < due_ns)
            due_ns = mender->ended[i].due_ns;
    return due_ns;
}

/* ---- running
 * -------------------------------------------------------------------------------------- */

void mender_job_done(struct mend_job *job, bool good)
{
    struct mender *mender = job->mender;
    struct mender_state *state = &mender->state;
    if (job->kind == MEND_SCRUB) {
        state->scrub.bytes += job->bytes;
        state->scrub.found += job->found;
        state->scrub.mended += job->mended;
        return;
    }
    for (uint32_t i = 0; i < MENDER_ENDED_MAX && job->kind == MEND_SEAL && good; i++)
        if (mender->ended[i].row.position == job->position)
            mender->ended[i].row.position = 0;
    struct survey *survey = &mender->survey;
    if (job->kind != MEND_HEAL || !survey->running || !survey->healing ||
        survey->cursor != job->position + 1)
        return;
    if (good) {
        survey->count[job->position - survey->low]++; /* it may lack another one */
        return;
    }
    if (!mender->stopping)
        state->heals_failed++;
    survey->cursor--;
}

static uint64_t rate_of(const struct mender *mender, const struct mend_job *job)
{
    if (mender->hurry > 0 || job->kind == MEND_REPAIR)
        return 0;
    return job->kind == MEND_SCRUB ? mender->options.scrub_rate : mender->options.heal_rate;
}

bool mender_may_go(struct mender *mender, const struct mend_job *job, uint32_t bytes)
{
    uint64_t rate = rate_of(mender, job);
    if (rate > 0 && mender->now_ns < mender->pace_ns)
        return false;
    const struct pressure_view pressure = keeper_pressure(mender->keeper, mender->now_ns);
    uint64_t wait_ns =
        mender->options.heedless || bytes <= UNNOTICED_BYTES ? 0 : pressure_wait_ns(&mender->pressure, &pressure, mender->now_ns);
    if (wait_ns > 0) {
        if (mender->held_since_ns == 0)
            mender->held_since_ns = mender->now_ns;
        mender->pace_ns = mender->now_ns + wait_ns;
        return false;
    }
    if (mender->held_since_ns > 0)
        mender->state.held_back_ns += mender->now_ns - mender->held_since_ns;
    mender->held_since_ns = 0;
    if (rate == 0)
        return true;
    mender->pace_ns = mender->now_ns + bytes * (1000000000ull / 16) / (rate / 16 + 1);
    return true;
}

void mender_short_of_copies(struct mender *mender)
{
    mender->state.counted = false;
    if (mender->survey_due_ns > mender->now_ns + SURVEY_SOON_NS)
        mender->survey_due_ns = mender->now_ns + SURVEY_SOON_NS;
}

bool mender_works(const struct mender *mender)
{
    return mender->job != NULL || mender->makes_way; /* who it makes way for has its turns among the readers */
}

bool mender_make_way(struct keeper *keeper, bool way)
{
    keeper->mender->makes_way = way;
    return mender_is_still(keeper->mender);
}

bool mender_run(struct mender *mender, uint64_t now_ns)
{
    mender->now_ns = now_ns;
    struct mend_job *job = mender->job;
    if (job && job->paused) {
        if (!mender->stopping && mender->hurry == 0 && now_ns < mender->pace_ns)
            return false;
        mend_resume(job);
        return !mender->job || !mender->job->paused;
    }
    if (job) {
        if (!mend_hangs(job) || mender->orphan_count >= MENDER_ORPHANS_MAX)
            return false;
        mender_job_done(job, false);
        mend_orphan(job);
        return true;
    }
    if (mender->stopping || mender->makes_way || mender->keeper->dead)
        return false;
    return repair_begin(mender) || seal_begin(mender) || survey_go_on(mender) ||
           scrub_go_on(mender);
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t mender_due_ns(const struct mender *mender)
{
    if (mender->job)
        return mender->job->paused ? mender->pace_ns : UINT64_MAX;
    if (mender->stopping || mender->makes_way || mender->keeper->dead)
        return UINT64_MAX;
    return sooner(sooner(mender->survey_due_ns, heal_due_ns(mender)), seal_due_ns(mender));
}

/* ---- asking
 * --------------------------------------------------------------------------------------- */

void mender_hurry(struct keeper *keeper, bool begin)
{
    struct mender *mender = keeper->mender;
    assert(begin || mender->hurry > 0);
    mender->hurry += begin ? 1 : UINT32_MAX;
    if (begin) {
        mender->state.counted = false;
        mender->survey_due_ns = mender->heal_due_ns = 0;
    }
}

bool mender_is_done(struct keeper *keeper)
{
    const struct mender *mender = keeper->mender;
    bool repairing = mender->job && mender->job->kind != MEND_SCRUB;
    return mender->stopping || keeper->dead ||
           (mender->wishes == 0 && !repairing && !mender->survey.running && mender->state.counted &&
            mender->now_ns < heal_due_ns(mender));
}

void mender_scrub_now(struct keeper *keeper)
{
    keeper->mender->scrub_wanted = !keeper->mender->state.scrubbing;
}

void mender_set_options(struct keeper *keeper, const struct mender_options *options)
{
    keeper->mender->options = *options;
}

void mender_state(struct keeper *keeper, struct mender_state *state)
{
    const struct mender *mender = keeper->mender;
    const struct mender_options *options = &mender->options;
    *state = mender->state;
    state->repairs_waiting = mender->wishes;
    if (options->scrub_interval_ns > 0 && options->scrub_rate > 0 && !state->scrubbing)
        state->scrub_next_ns = state->last_scrub.started_ns + (int64_t)options->scrub_interval_ns;
}
