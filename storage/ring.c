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

#include "clock.h"
#include "disk_life.h"
#include "superblock_writer.h"

#define STREAMS_MAX 1024u
#define VERDICT_SHARE 256u             /* of the ring, as much as is written down of verdicts, */
#define VERDICT_BYTES_MOST (1ull << 30) /* and no more */
#define SUPERBLOCK_WAIT_NS 2000000000ull /* for disks that are told of a change */

struct ring_member {
    struct disk *disk; /* null: it has left */
    uint32_t given;    /* at the start: its place among the disks that ring_open() was given */
    /*
     * The same, for whoever does not hold members_lock: not before the disk is in. One that cannot be taken in is closed, and nobody may have
     * seen it.
     */
    _Atomic(struct disk *) shown;
    struct identity identity;
    struct superblock superblock;
    _Atomic uint64_t generation; /* the superblock's, for whoever does not hold members_lock */
    struct superblock_writer *writer; /* null: no superblock is being written */
    bool leaving;      /* the keeper has left it, and it is still open */
    bool closing;      /* `closer` closes it, when it has answered; until then `writer` is the closer's */
    pthread_t closer;
    struct disk *closed;
};

struct ring {
    struct ring_options options;
    struct identity run;
    struct pool *pool;
    struct pressure_gauge gauge;
    struct verdicts *verdicts;
    struct verdict_log *verdict_log; /* null: there is none */
    atomic_bool heedless; /* as the mender */
    atomic_uint readers;
    _Atomic uint64_t reader_came_ns[PRESSURE_SEATS]; /* of who sits there; 0: nobody */
    _Atomic uint64_t readers_held_back_ns;
    struct keeper *keeper;
    pthread_t thread;
    bool thread_started;
    atomic_bool stop;
    struct ring_member *member; /* RING_DISKS_MAX */
    _Atomic uint32_t members;
    uint64_t slot_bytes;
    pthread_mutex_t members_lock; /* whoever changes members, or writes superblocks */
    struct superblock_member known[SUPERBLOCK_MEMBERS]; /* all that the ring has or had, as superblocks list them */
    uint32_t knowns;
    uint64_t updated_ns;
    struct superblock_tombstone purged; /* the last purge; position 0: there was none */
    bool purging; /* under members_lock: ring_purge_live() is under way, and no disk may join, nor be taken out by hand */
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
    return clock_monotonic_ns();
}

static int64_t wall_ns(void *context)
{
    (void)context;
    return clock_realtime_ns();
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
 * the context switches remain. Otherwise it sleeps until it is woken: at 200,000 packets a second there are 300 frames,
 * and naps would cost more than all that it does for them.
 */
#define NAP_NS 250000
#define NAPS_QUIET 8         /* in a row, with nothing to do: there is not much any more */
#define BUSY_TIMES 8         /* in a row that there was something to do */
#define BUSY_WITHIN_NS 1000000 /* of the last time */

static void *keeper_thread(void *context)
{
    struct ring *ring = context;
    unsigned quiet = 0, busy = 0;
    uint64_t last_ns = 0;
    pthread_setname_np(pthread_self(), "keeper");
    while (!atomic_load(&ring->stop)) {
        bool did = keeper_run(ring->keeper, busy < BUSY_TIMES ? 100 : 0);
        uint64_t now_ns = monotonic_ns(NULL);
        quiet = did ? 0 : quiet + 1;
        if (quiet >= NAPS_QUIET || (did && now_ns - last_ns > BUSY_WITHIN_NS))
            busy = 0;
        else if (did && busy < BUSY_TIMES)
            busy++;
        if (did)
            last_ns = now_ns;
        if (busy == BUSY_TIMES)
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
    return NULL;
}

static void say(const struct ring_options *options, const char *severity, const char *kind, const char *text)
{
    if (options->event)
        options->event(options->context, severity, kind, text);
}

static int does_not_answer(const struct disk *disk, struct failure *failure)
{
    return fail(failure, ERR_TIMEOUT, "disk %s does not answer", disk->name);
}

static void show_generation(struct ring_member *member)
{
    atomic_store(&member->generation, le64_get(member->superblock.generation));
}

/* Reads and checks the superblock of member i, against the others' so far; mends it. */
static int read_superblock(struct ring *ring, uint32_t i, struct failure *failure)
{
    struct ring_member *member = &ring->member[i];
    struct superblock_condition condition;
    int result = superblock_read(member->disk, &member->superblock, &condition, failure);
    if (result != 0)
        return result;
    if (!identity_equal(&member->superblock.ring, &ring->options.ring))
        return fail(failure, ERR_MISMATCH, "disk %s belongs to another ring (\"%s\")", member->disk->name,
                    member->superblock.ring_name);
    if (ring->slot_bytes == 0)
        ring->slot_bytes = member->disk->geometry.slot_bytes;
    if (member->disk->geometry.slot_bytes != ring->slot_bytes)
        return fail(failure, ERR_MISMATCH, "disk %s has slots of %llu bytes, the ring's have %llu", member->disk->name,
                    (unsigned long long)member->disk->geometry.slot_bytes, (unsigned long long)ring->slot_bytes);
    member->identity = member->superblock.disk;
    show_generation(member);
    if (condition.repairs == 0)
        return 0;
    char text[512];
    result = superblock_repair(member->disk, &member->superblock, failure);
    show_generation(member);
    snprintf(text, sizeof text, "disk %.255s: %u of its 4 superblocks were damaged or stale, and %s", member->disk->name,
             condition.repairs, result == 0 ? "have been written anew" : "could not be written anew");
    say(&ring->options, "warning", "superblock-repaired", text);
    return result;
}

static int read_superblocks(struct ring *ring, struct failure *failure)
{
    for (uint32_t i = 0; i < ring->members; i++) {
        int result = read_superblock(ring, i, failure);
        if (result != 0)
            return result;
        for (uint32_t before = 0; before < i; before++)
            if (identity_equal(&ring->member[before].identity, &ring->member[i].identity))
                return fail(failure, ERR_MISMATCH, "%s and %s are the same disk", ring->member[before].disk->name,
                            ring->member[i].disk->name);
    }
    return 0;
}

/* ---- members, as the superblocks list them -------------------------------------------------------- */

static struct superblock_member *known_member(struct ring *ring, const struct identity *disk)
{
    for (uint32_t i = 0; i < ring->knowns; i++)
        if (identity_equal(&ring->known[i].disk, disk))
            return &ring->known[i];
    return NULL;
}

/* The list of the superblock that was written last: that of a disk that was away lags behind. */
static void load_members(struct ring *ring)
{
    const struct superblock *newest = &ring->member[0].superblock;
    for (uint32_t i = 1; i < ring->members; i++)
        if (le64_get(ring->member[i].superblock.updated_ns) > le64_get(newest->updated_ns))
            newest = &ring->member[i].superblock;
    ring->updated_ns = le64_get(newest->updated_ns);
    ring->knowns = le16_get(newest->members);
    memcpy(ring->known, newest->member, ring->knowns * sizeof *ring->known);
    if (le16_get(newest->tombstones) > 0)
        ring->purged = newest->tombstone[0];
}

static bool was_away(uint8_t state)
{
    return state == DISK_MISSING || state == DISK_REMOVED || state == DISK_FAILED;
}

/*
 * Whether the disk was away when packets were purged last: then it holds what must not come back. One that was there is none of these, even if
 * its superblock alone was not written any more when the power went; nor is a new one, but formatting a disk leaves in its slots what was there.
 */
static bool missed_purge(struct ring *ring, const struct superblock *superblock, struct disk *disk)
{
    if (le64_get(ring->purged.position) == 0 ||
        (le16_get(superblock->tombstones) > 0 &&
         identity_equal(&superblock->tombstone[0].purge, &ring->purged.purge)))
        return false;
    for (uint32_t i = 0; i < le16_get(superblock->members); i++)
        if (identity_equal(&superblock->member[i].disk, &superblock->disk) &&
            superblock->member[i].state == DISK_FRESH)
            return purge_finds_segments(disk, &ring->options.ring);
    const struct superblock_member *known = known_member(ring, &superblock->disk);
    return !known || was_away(known->state);
}

static int refuse_purged(const struct ring *ring, const struct disk *disk, struct failure *failure)
{
    return fail(failure, ERR_MISMATCH,
                "disk %s was away when packets were purged from ring %s, and may hold them still: wipe it (blkdiscard, or delete the "
                "file), then it can be added as a new disk",
                disk->name, ring->options.name);
}

/* At the start: who may not come back is left out, as if it were not there. ERR_MISMATCH: nobody is left. */
static int leave_out_purged(struct ring *ring, struct failure *failure)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < ring->members; i++) {
        struct ring_member *member = &ring->member[i];
        if (!missed_purge(ring, &member->superblock, member->disk)) {
            if (left != i) {
                ring->member[left] = *member;
                *member = (struct ring_member){0};
            }
            left++;
            continue;
        }
        (void)refuse_purged(ring, member->disk, failure);
        say(&ring->options, "warning", "disk-purged", failure->text);
        disk_close(&member->disk);
        *member = (struct ring_member){0};
    }
    ring->members = left;
    if (left == 0)
        return failure->code;
    *failure = (struct failure){0};
    return 0;
}

/* The invariant of disk_life.h, for whoever has let a member in or out. */
static void assert_life(struct ring *ring, const struct ring_member *member)
{
    bool leaving = member->leaving || member->closing;
    struct disk_facts facts = {
        .state = (enum disk_state)known_member(ring, &member->identity)->state,
        .open = member->disk || member->closing,
        .leaving = leaving,
        .takes_segments = false, /* the keeper's to assert */
        .is_read = !leaving && atomic_load(&member->shown),
    };
    assert(!disk_life_check(&facts));
}

/* Notes the state of a disk. False: the list is full, and nothing on it can be forgotten. */
static bool note_member(struct ring *ring, const struct identity *identity, const struct disk *disk, enum disk_state state)
{
    struct superblock_member *member = known_member(ring, identity);
    if (!member) {
        uint32_t at = ring->knowns;
        for (uint32_t i = 0; at == SUPERBLOCK_MEMBERS && i < ring->knowns; i++)
            if (ring->known[i].state == DISK_REMOVED)
                at = i;
        if (at == SUPERBLOCK_MEMBERS)
            return false;
        ring->knowns += at == ring->knowns;
        member = &ring->known[at];
        *member = (struct superblock_member){.disk = *identity, .joined_ns = le64_of((uint64_t)wall_ns(NULL))};
    }
    assert(disk_life_is_allowed((enum disk_state)member->state, state));
    member->state = (uint8_t)state;
    if (disk) {
        member->bytes = le64_of(disk->geometry.disk_bytes);
        superblock_set_text(member->name, sizeof member->name, disk->name);
    }
    return true;
}

static void list_members(struct ring *ring, struct ring_member *member)
{
    struct superblock *superblock = &member->superblock;
    superblock->copies = ring->options.copies;
    superblock->updated_ns = le64_of(ring->updated_ns);
    superblock->members = le16_of((uint16_t)ring->knowns);
    memset(superblock->member, 0, sizeof superblock->member);
    memcpy(superblock->member, ring->known, ring->knowns * sizeof *ring->known);
    memset(superblock->tombstone, 0, sizeof superblock->tombstone);
    superblock->tombstones = le16_of(le64_get(ring->purged.position) > 0);
    superblock->tombstone[0] = ring->purged;
}

static void say_behind(struct ring *ring, const struct ring_member *member, const char *why)
{
    char text[600];
    snprintf(text, sizeof text, "disk %.200s: its superblock could not be updated: %.300s", member->disk->name, why);
    say(&ring->options, "warning", "superblock-behind", text);
}

/* Waits until then for the writer that is there. False: the disk has not answered. *result, *failure: as superblock_write() left them. */
static bool writer_result(struct ring_member *member, uint64_t until_ns, int *result, struct failure *failure)
{
    if (!superblock_writer_end(&member->writer, until_ns, &member->superblock, result, failure))
        return false;
    show_generation(member);
    return true;
}

/* Whether no superblock is being written to the disk, after waiting for it until then. */
static bool writer_ended(struct ring *ring, struct ring_member *member, uint64_t until_ns)
{
    int result;
    struct failure failure;
    if (!member->writer)
        return true;
    if (!writer_result(member, until_ns, &result, &failure))
        return false;
    if (result != 0)
        say_behind(ring, member, failure.text);
    return true;
}

/* Begins to write the list to the disk, unless what it got last is still under way: it lags behind then, and the others' word counts. */
static void begin_writing(struct ring *ring, struct ring_member *member)
{
    if (!writer_ended(ring, member, 0))
        return;
    list_members(ring, member);
    if (superblock_writer_begin(&member->writer, member->disk, &member->superblock) != 0)
        say_behind(ring, member, "no memory, or no thread");
}

/*
 * The one place where superblocks of a running ring change: the list of members and the copies, on every disk that is there. A disk that
 * does not take it, or does not answer in time, is said; it lags behind then, and the others' word counts. Locks are held here that whoever
 * wants to read or to change the ring needs: so no disk may hold us up for long.
 */
static void update_members(struct ring *ring)
{
    uint64_t now = (uint64_t)wall_ns(NULL), until_ns = monotonic_ns(NULL) + SUPERBLOCK_WAIT_NS;
    ring->updated_ns = now > ring->updated_ns ? now : ring->updated_ns + 1;
    for (uint32_t i = 0; i < ring->members; i++)
        if (ring->member[i].disk && !ring->member[i].leaving)
            begin_writing(ring, &ring->member[i]);
    for (uint32_t i = 0; i < ring->members; i++)
        if (ring->member[i].disk && !ring->member[i].leaving && !writer_ended(ring, &ring->member[i], until_ns))
            say_behind(ring, &ring->member[i], "it does not answer");
}

/* At the start: what is not there is missing, unless it was removed; what is there is active. */
static void settle_members(struct ring *ring)
{
    bool changed = false;
    for (uint32_t k = 0; k < ring->knowns; k++) {
        struct superblock_member *known = &ring->known[k];
        uint8_t state = known->state == DISK_REMOVED ? DISK_REMOVED : DISK_MISSING;
        for (uint32_t i = 0; i < ring->members; i++)
            if (identity_equal(&ring->member[i].identity, &known->disk))
                state = DISK_ACTIVE;
        changed |= state != known->state;
        known->state = state;
    }
    for (uint32_t i = 0; i < ring->members; i++) {
        changed |= !known_member(ring, &ring->member[i].identity);
        (void)note_member(ring, &ring->member[i].identity, ring->member[i].disk, DISK_ACTIVE);
        changed |= le64_get(ring->member[i].superblock.updated_ns) != ring->updated_ns &&
                   memcmp(ring->member[i].superblock.member, ring->known, ring->knowns * sizeof *ring->known) != 0;
    }
    if (changed)
        update_members(ring);
}

static struct recovery_options recovery_options(struct ring *ring, bool whole)
{
    return (struct recovery_options){
        .ring = ring->options.ring,
        .keys_of = ring->options.keys_of,
        .catalog = ring->options.catalog,
        .whole = whole,
        .wall_ns = wall_ns,
        .progress = ring->options.progress,
        .event = ring->options.event,
        .give_up = ring->options.give_up,
        .context = ring->options.context,
    };
}

static void recovery_disks_free(struct recovery_disk *disk, uint32_t count)
{
    for (uint32_t i = 0; disk && i < count; i++)
        free(disk[i].belief);
    free(disk);
}

/* Those members that are there and, unless `all`, were there when the ring was last up. `number`: which they are. */
static struct recovery_disk *recovery_disks(struct ring *ring, bool all, uint32_t *number, uint32_t *count)
{
    struct recovery_disk *disk = calloc(RING_DISKS_MAX, sizeof *disk);
    *count = 0;
    for (uint32_t i = 0; disk && i < ring->members; i++) {
        const struct superblock_member *known = known_member(ring, &ring->member[i].identity);
        if (!ring->member[i].disk || ring->member[i].leaving || (!all && known && was_away(known->state)))
            continue;
        struct recovery_disk *one = &disk[*count];
        one->disk = ring->member[i].disk;
        one->identity = ring->member[i].identity;
        one->belief = calloc(one->disk->geometry.slot_count, sizeof *one->belief);
        if (!one->belief) {
            recovery_disks_free(disk, *count);
            return NULL;
        }
        number[(*count)++] = i;
    }
    return disk;
}

/* A 256th of the ring for what is written down of verdicts, and no more than VERDICT_BYTES_MOST: it lies with the state, not on the ring's disks. */
static int verdict_log_begin(struct ring *ring, const struct recovery_disk *disk, uint32_t disks, struct failure *failure)
{
    struct verdict_log_options options = {
        .directory = ring->options.verdict_directory,
        .ring = ring->options.ring,
        .run = ring->run,
        .verdicts = ring->verdicts,
    };
    if (options.directory <= 0)
        return 0;
    for (uint32_t i = 0; i < disks; i++)
        options.bytes_max += disk[i].disk->geometry.slot_count * ring->slot_bytes / VERDICT_SHARE;
    if (options.bytes_max > VERDICT_BYTES_MOST)
        options.bytes_max = VERDICT_BYTES_MOST;
    return verdict_log_open(&options, &ring->verdict_log) == 0 ? 0 : fail(failure, ERR_NO_MEMORY, "no memory for what layer 7 finds");
}

static int start_keeper(struct ring *ring, const struct recovery_disk *disk, uint32_t disks, uint64_t position,
                        struct failure *failure)
{
    atomic_store(&ring->heedless, ring->options.mender.heedless);
    int opened = pressure_gauge_open(&ring->gauge, failure);
    if (opened == 0)
        opened = verdicts_open(&ring->verdicts, failure);
    if (opened == 0)
        opened = verdict_log_begin(ring, disk, disks, failure);
    if (opened != 0)
        return opened;
    struct keeper_options options = {
        .ring = ring->options.ring,
        .run = ring->run,
        .slot_bytes = ring->slot_bytes,
        .copies = ring->options.copies,
        .flush_window_ns = ring->options.flush_window_ns,
        .mender = ring->options.mender,
        .keys_of = ring->options.keys_of,
        .verdicts = ring->verdicts,
        .gauge = ring->gauge.page,
        .pool = ring->pool,
        .catalog = ring->options.catalog,
        .monotonic_ns = monotonic_ns,
        .wall_ns = wall_ns,
        .event = ring->options.event,
        .context = ring->options.context,
    };
    gethostname(options.host, sizeof options.host - 1);
    int result = keeper_new(&options, &ring->keeper);
    for (uint32_t i = 0; i < disks && result == 0; i++)
        result = keeper_add_disk(ring->keeper, disk[i].disk, &disk[i].identity, disk[i].belief, NULL);
    if (result != 0)
        return fail(failure, result, "ring %s: %s", ring->options.name, error_text(result));
    keeper_raise_position(ring->keeper, position);
    keeper_set_threaded(ring->keeper, true);
    if (pthread_create(&ring->thread, NULL, keeper_thread, ring) != 0)
        return fail(failure, ERR_NO_MEMORY, "ring %s: no thread for the keeper", ring->options.name);
    ring->thread_started = true;
    return 0;
}

/* Those that were there when the ring was last up come first, so that the keeper's numbers are the members'. */
static void order_members(struct ring *ring)
{
    struct ring_member *sorted = calloc(RING_DISKS_MAX, sizeof *sorted);
    uint32_t count = 0;
    if (!sorted)
        return;
    for (int away = 0; away <= 1; away++)
        for (uint32_t i = 0; i < ring->members; i++) {
            const struct superblock_member *known = known_member(ring, &ring->member[i].identity);
            if ((known && was_away(known->state)) == (bool)away)
                sorted[count++] = ring->member[i];
        }
    free(ring->member);
    ring->member = sorted;
}

static int take_in(struct ring *ring, struct ring_member *member, struct recovery_report *report, struct failure *failure);

static void report_add(struct recovery_report *sum, const struct recovery_report *one)
{
    sum->slots_read += one->slots_read;
    sum->segments_found += one->segments_found;
    sum->segments_sealed += one->segments_sealed;
    sum->segments_empty += one->segments_empty;
    sum->segments_damaged += one->segments_damaged;
    sum->headers_repaired += one->headers_repaired;
    sum->packets_recovered += one->packets_recovered;
    sum->packets_missing += one->packets_missing;
}

/* Whoever reads the disks at the start is patient with each of several: one that hangs does not keep the others from recording. */
static int begin_patience(struct ring *ring, struct failure *failure)
{
    int result = 0;
    for (uint32_t i = 0; i < ring->members && ring->members > 1 && result == 0; i++)
        result = disk_patient_begin(&ring->member[i].disk, ring->options.join_patience_ms);
    return result == 0 ? 0 : fail(failure, result, "ring %s: %s", ring->options.name, error_text(result));
}

static int end_patience(struct ring *ring, const uint32_t *number, struct recovery_disk *disk, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!disk_patient_end(&ring->member[number[i]].disk))
            return ERR_TIMEOUT;
        disk[i].disk = ring->member[number[i]].disk;
    }
    return 0;
}

/* After a failure: where it is that of a disk which does not answer, that is said, whatever came of it. */
static int blame_silent(const struct ring *ring, int result, struct failure *failure)
{
    for (uint32_t i = 0; i < ring->members; i++) {
        const struct ring_member *member = &ring->member[i];
        if (!disk_patient_lost(member->disk))
            continue;
        if (ring->options.silent)
            *ring->options.silent = member->given;
        return does_not_answer(member->disk, failure);
    }
    return result;
}

/* What the disks hold, the keeper on it, and then the disks that were away: they are read from end to end. */
static int bring_up(struct ring *ring, struct recovery_report *report, struct failure *failure)
{
    uint32_t number[RING_DISKS_MAX], count;
    uint64_t position = 0;
    struct recovery_options options = recovery_options(ring, ring->options.whole);
    order_members(ring);
    struct recovery_disk *disk = recovery_disks(ring, ring->options.whole, number, &count);
    if (!disk)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    int result = recovery_run(&options, disk, count, &position, report, failure);
    if (result == 0)
        result = end_patience(ring, number, disk, count);
    if (result == 0)
        result = start_keeper(ring, disk, count, position, failure);
    recovery_disks_free(disk, count);
    for (uint32_t i = count; i < ring->members && result == 0; i++) {
        struct recovery_report one;
        result = take_in(ring, &ring->member[i], &one, failure);
        if (result == 0)
            report_add(report, &one);
    }
    if (result == 0)
        settle_members(ring);
    return result;
}

static void stop_keeper(struct ring *ring)
{
    atomic_store(&ring->stop, true);
    pthread_join(ring->thread, NULL);
    /* The last completions are handled here; a disk that hangs holds us, and its lock, until it answers. */
    keeper_set_threaded(ring->keeper, false);
    keeper_stop_mending(ring->keeper);
    while (!keeper_idle(ring->keeper))
        keeper_run(ring->keeper, 100);
}

static void ring_free(struct ring *ring)
{
    for (uint32_t i = 0; i < ring->members; i++) {
        if (ring->member[i].closing)
            pthread_join(ring->member[i].closer, NULL);
        (void)writer_ended(ring, &ring->member[i], UINT64_MAX);
        disk_close(&ring->member[i].disk);
    }
    keeper_free(&ring->keeper);
    pressure_gauge_close(&ring->gauge);
    verdict_log_close(&ring->verdict_log);
    verdicts_close(&ring->verdicts);
    pool_close(&ring->pool);
    pthread_mutex_destroy(&ring->members_lock);
    pthread_mutex_destroy(&ring->lock);
    free(ring->member);
    free(ring);
}

int ring_open(const struct ring_options *options, struct disk **disk, uint32_t disks, struct ring **result_ring,
              struct recovery_report *report, struct failure *failure)
{
    struct ring *ring = calloc(1, sizeof *ring);
    struct ring_member *member = calloc(RING_DISKS_MAX, sizeof *member);
    if (!ring || !member || disks == 0 || disks > RING_DISKS_MAX) {
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
        member[i].given = i;
        disk[i] = NULL;
    }
    identity_make(&ring->run);
    pthread_mutex_init(&ring->lock, NULL);
    pthread_mutex_init(&ring->members_lock, NULL);

    int result = begin_patience(ring, failure);
    if (result == 0)
        result = read_superblocks(ring, failure);
    if (result == 0 && pool_open(options->buffer_bytes, &ring->pool) != 0)
        result = fail(failure, ERR_NO_MEMORY, "ring %s: no memory for %llu bytes of buffers", options->name,
                      (unsigned long long)options->buffer_bytes);
    if (result == 0) {
        load_members(ring);
        result = leave_out_purged(ring, failure);
    }
    if (result == 0) {
        disks = ring->members;
        catalog_put_ring(options->catalog, &options->ring, options->name, options->copies, ring->slot_bytes);
        for (uint32_t i = 0; i < disks; i++)
            catalog_put_disk(options->catalog, &options->ring, &member[i].identity, member[i].disk->name,
                             member[i].disk->bytes, member[i].disk->geometry.slot_count, DISK_ACTIVE);
        result = bring_up(ring, report, failure);
    }
    if (result == 0) {
        for (uint32_t i = 0; i < disks; i++)
            atomic_store(&ring->member[i].shown, ring->member[i].disk);
        *result_ring = ring;
        return 0;
    }
    result = blame_silent(ring, result, failure);
    if (ring->thread_started)
        stop_keeper(ring);
    ring_free(ring);
    return result;
}

void ring_close(struct ring **slot)
{
    struct ring *ring = *slot;
    if (!ring)
        return;
    assert(ring->streams == 0);
    stop_keeper(ring);
    ring_free(ring);
    *slot = NULL;
}

/* ---- members come and go --------------------------------------------------------------------------- */

/* Under members_lock: whoever comes now would bring what the purge has not seen, and whoever goes would keep it. */
static int refuse_while_purged(const struct ring *ring, struct failure *failure)
{
    return ring->purging ? fail(failure, ERR_BUSY, "ring %s: packets are being purged from it; try again when that is done", ring->options.name) : 0;
}

int ring_disk_format(struct ring *ring, struct disk **slot, struct identity *identity, struct failure *failure)
{
    struct disk_geometry geometry;
    struct disk *disk = *slot;
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    int result = disk_geometry_plan(disk->bytes, ring->slot_bytes, &geometry, failure);
    if (result != 0) {
        free(superblock);
        return fail_context(failure, result, "disk %s", disk->name);
    }
    superblock_make(superblock, &geometry, &ring->options.ring, ring->options.name, ring->options.copies,
                    (uint64_t)wall_ns(NULL));
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    superblock_set_text(superblock->recorder, sizeof superblock->recorder, host);
    pthread_mutex_lock(&ring->members_lock);
    if (ring->knowns == SUPERBLOCK_MEMBERS) {
        result = fail(failure, ERR_TOO_LARGE, "a ring has at most %u disks", RING_DISKS_MAX);
    } else {
        memcpy(superblock->member, ring->known, ring->knowns * sizeof *ring->known);
        struct superblock_member *self = &superblock->member[ring->knowns];
        *self = (struct superblock_member){.disk = superblock->disk,
                                           .bytes = superblock->disk_bytes,
                                           .joined_ns = superblock->created_ns,
                                           .state = DISK_FRESH};
        superblock_set_text(self->name, sizeof self->name, disk->name);
        superblock->members = le16_of((uint16_t)(ring->knowns + 1));
    }
    pthread_mutex_unlock(&ring->members_lock);
    if (result == 0 && (result = disk_patient_begin(slot, ring->options.join_patience_ms)) != 0)
        fail(failure, result, "disk %s: %s", disk->name, error_text(result));
    if (result == 0)
        result = superblock_format(*slot, superblock, failure);
    if (!disk_patient_end(slot)) {
        result = does_not_answer(*slot, failure);
        disk_close(slot);
    }
    *identity = superblock->disk;
    free(superblock);
    return result;
}

struct in_work {
    struct identity *segment;
    uint32_t count, room;
    bool no_memory;
};

static void work_collect(const struct identity *segment, void *context)
{
    struct in_work *work = context;
    if (work->count == work->room) {
        uint32_t room = work->room ? 2 * work->room : 64;
        struct identity *grown = realloc(work->segment, room * sizeof *grown);
        if (!grown) {
            work->no_memory = true;
            return;
        }
        work->segment = grown;
        work->room = room;
    }
    work->segment[work->count++] = *segment;
}

static void expect_disk(struct keeper *keeper, void *context)
{
    keeper_expect_disk(keeper, true);
    keeper_segments_in_work(keeper, work_collect, context);
}

struct join {
    struct ring *ring;
    struct ring_member *member;
    const struct slot_belief *belief; /* null: it does not join after all */
    uint64_t position;
    uint32_t number;
    int result;
};

static void add_disk(struct keeper *keeper, void *context)
{
    struct join *join = context;
    if (!join->belief) {
        keeper_expect_disk(keeper, false);
        return;
    }
    keeper_raise_position(keeper, join->position);
    join->result = keeper_add_disk(keeper, join->member->disk, &join->member->identity, join->belief, &join->number);
}

static void name_buffers(struct ring *ring, struct disk *disk)
{
    uint32_t count;
    uint8_t *area = pool_area(ring->pool, &count);
    if (disk->ops->register_buffers)
        (void)disk->ops->register_buffers(disk, area, FRAME_BYTES_USUAL, count);
}

/* Reads the disk, and gives it to the keeper: it has the member's number, or gets it. Patience with the disk ends here. */
static int take_in(struct ring *ring, struct ring_member *member, struct recovery_report *report, struct failure *failure)
{
    struct in_work work = {0};
    struct join join = {.ring = ring, .member = member};
    struct recovery_options options = recovery_options(ring, false);
    struct recovery_disk disk = {.disk = member->disk, .identity = member->identity};
    disk.belief = calloc(disk.disk->geometry.slot_count, sizeof *disk.belief);
    keeper_call(ring->keeper, expect_disk, &work);
    int result = disk.belief && !work.no_memory ? 0 : fail(failure, ERR_NO_MEMORY, "out of memory");
    if (result == 0)
        result = recovery_join(&options, &disk, work.segment, work.count, &join.position, report, failure);
    if (result == 0 && !disk_patient_end(&member->disk))
        result = does_not_answer(member->disk, failure);
    if (result == 0 && ring->registered)
        name_buffers(ring, member->disk);
    if (result == 0)
        join.belief = disk.belief;
    keeper_call(ring->keeper, add_disk, &join);
    if (result == 0 && join.result != 0)
        result = fail(failure, join.result, "disk %s: %s", member->disk->name, error_text(join.result));
    assert(result != 0 || &ring->member[join.number] == member);
    free(work.segment);
    free(disk.belief);
    return result;
}

static struct ring_member *member_of(struct ring *ring, const struct identity *identity)
{
    for (uint32_t i = 0; i < ring->members; i++)
        if (identity_equal(&ring->member[i].identity, identity))
            return &ring->member[i];
    return NULL;
}

/* The superblock of the disk that joins is in the new member's place, which is not counted yet. */
static int join_member(struct ring *ring, struct ring_member *fresh, struct recovery_report *report, uint32_t *number,
                       struct failure *failure)
{
    struct ring_member *before = member_of(ring, &fresh->identity);
    struct disk *disk = fresh->disk;
    if (before && before->disk)
        return fail(failure, ERR_EXISTS, "disk %s is a member of ring %s already", disk->name, ring->options.name);
    if (missed_purge(ring, &fresh->superblock, disk))
        return refuse_purged(ring, disk, failure);
    if (!before && fresh == ring->member + RING_DISKS_MAX)
        return fail(failure, ERR_TOO_LARGE, "a ring has at most %u disks; those that have left since it was opened count, too",
                    RING_DISKS_MAX);
    struct ring_member *member = before ? before : fresh;
    if (before) {
        if (before->closing)
            pthread_join(before->closer, NULL);
        before->closing = before->leaving = false;
        before->superblock = fresh->superblock;
        before->disk = disk;
        fresh->disk = NULL;
    }
    const struct superblock_member *known = known_member(ring, &member->identity);
    enum disk_state was = known ? (enum disk_state)known->state : DISK_FRESH;
    /* Its own superblock first: what it cannot take it cannot be trusted with. The others' when it is in. */
    int result = note_member(ring, &member->identity, disk, DISK_ACTIVE)
                     ? 0
                     : fail(failure, ERR_TOO_LARGE, "the superblocks have no room for another member");
    if (result == 0) {
        list_members(ring, member);
        result = superblock_write(disk, &member->superblock, failure);
        show_generation(member);
    }
    if (result == 0)
        result = take_in(ring, member, report, failure);
    disk = member->disk; /* not the one that we were patient with */
    if (result != 0) {
        if (known_member(ring, &member->identity))
            (void)note_member(ring, &member->identity, NULL, was == DISK_FRESH ? DISK_REMOVED : was);
        if (before)
            before->disk = NULL;
        fresh->disk = disk; /* the caller closes it */
        return result;
    }
    *number = (uint32_t)(member - ring->member);
    atomic_store(&member->shown, disk);
    if (!before)
        ring->members++;
    assert_life(ring, member);
    update_members(ring);
    catalog_put_disk(ring->options.catalog, &ring->options.ring, &member->identity, disk->name, disk->bytes,
                     disk->geometry.slot_count, DISK_ACTIVE);
    return 0;
}

int ring_disk_join(struct ring *ring, struct disk **disk, struct recovery_report *report, uint32_t *number,
                   struct failure *failure)
{
    *report = (struct recovery_report){0};
    pthread_mutex_lock(&ring->members_lock);
    if (refuse_while_purged(ring, failure) != 0) {
        pthread_mutex_unlock(&ring->members_lock);
        disk_close(disk);
        return failure->code;
    }
    if (ring->members == RING_DISKS_MAX) {
        pthread_mutex_unlock(&ring->members_lock);
        disk_close(disk);
        return fail(failure, ERR_TOO_LARGE, "a ring has at most %u disks; those that have left since it was opened count, too",
                    RING_DISKS_MAX);
    }
    struct ring_member *fresh = &ring->member[ring->members];
    int result = disk_patient_begin(disk, ring->options.join_patience_ms);
    if (result != 0)
        fail(failure, result, "disk %s: %s", (*disk)->name, error_text(result));
    *fresh = (struct ring_member){.disk = *disk};
    *disk = NULL;
    if (result == 0)
        result = read_superblock(ring, ring->members, failure);
    if (result == 0)
        result = join_member(ring, fresh, report, number, failure);
    if (result != 0 && disk_patient_lost(fresh->disk))
        result = does_not_answer(fresh->disk, failure); /* whatever came of that */
    if (result != 0)
        disk_close(&fresh->disk);
    pthread_mutex_unlock(&ring->members_lock);
    return result;
}

struct leave {
    uint32_t number;
    enum disk_state state;
    bool again; /* it has left: is it quiet? */
    bool quiet;
    int result;
};

static void leave_disk(struct keeper *keeper, void *context)
{
    struct leave *leave = context;
    leave->result = leave->again ? 0 : keeper_leave_disk(keeper, leave->number, leave->state);
    leave->quiet = leave->result == 0 && keeper_disk_is_quiet(keeper, leave->number);
}

/* disk_close() waits for what is under way, however long that takes; but whoever writes to it must have ended. */
static void *close_later(void *context)
{
    struct ring_member *member = context;
    int result;
    struct failure failure;
    if (member->writer)
        (void)superblock_writer_end(&member->writer, UINT64_MAX, &member->superblock, &result, &failure);
    disk_close(&member->closed);
    return NULL;
}

static void close_member(struct ring *ring, struct ring_member *member, bool quiet)
{
    struct disk *disk = member->disk;
    atomic_store(&member->shown, NULL);
    member->disk = NULL;
    member->leaving = false;
    if (quiet) {
        disk_close(&disk);
        return;
    }
    member->closed = disk;
    member->closing = pthread_create(&member->closer, NULL, close_later, member) == 0;
    if (!member->closing) {
        member->disk = disk; /* with the ring, then */
        member->leaving = true;
        say(&ring->options, "warning", "disk-open", "a disk that has left stays open until the ring is closed: no thread");
    }
}

int ring_disk_leave(struct ring *ring, uint32_t number, enum disk_state state, int timeout_ms, struct failure *failure)
{
    pthread_mutex_lock(&ring->members_lock);
    if (number >= ring->members || !ring->member[number].disk) {
        pthread_mutex_unlock(&ring->members_lock);
        return fail(failure, ERR_NOT_FOUND, "ring %s has no disk %u", ring->options.name, number);
    }
    if (state == DISK_REMOVED && refuse_while_purged(ring, failure) != 0) {
        pthread_mutex_unlock(&ring->members_lock);
        return ERR_BUSY;
    }
    struct ring_member *member = &ring->member[number];
    struct leave leave = {.number = number, .state = state, .again = member->leaving};
    uint64_t end = monotonic_ns(NULL) + (uint64_t)timeout_ms * 1000000u;
    keeper_call(ring->keeper, leave_disk, &leave);
    if (leave.result != 0) {
        pthread_mutex_unlock(&ring->members_lock);
        return fail(failure, leave.result, "disk %s is the last that ring %s can record to, and it is being recorded: add "
                                           "another one first, or stop the capture",
                    member->disk->name, ring->options.name);
    }
    member->leaving = leave.again = true;
    while (state == DISK_REMOVED && !leave.quiet && monotonic_ns(NULL) < end) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        keeper_call(ring->keeper, leave_disk, &leave);
    }
    leave.quiet = writer_ended(ring, member, state == DISK_REMOVED ? end : 0) && leave.quiet;
    (void)note_member(ring, &member->identity, NULL, state);
    update_members(ring); /* of the others */
    catalog_put_disk(ring->options.catalog, &ring->options.ring, &member->identity, member->disk->name, member->disk->bytes,
                     member->disk->geometry.slot_count, state);
    int result = 0;
    if (state == DISK_REMOVED) {
        catalog_drop_places(ring->options.catalog, &member->identity);
        if (leave.quiet) {
            begin_writing(ring, member); /* for whoever finds it; the others' word counts */
            leave.quiet = writer_ended(ring, member, monotonic_ns(NULL) + SUPERBLOCK_WAIT_NS);
        }
        if (!leave.quiet)
            result = fail(failure, ERR_TIMEOUT, "disk %s has left ring %s, but stays locked until it has answered everything",
                          member->disk->name, ring->options.name);
    }
    close_member(ring, member, leave.quiet);
    assert_life(ring, member);
    pthread_mutex_unlock(&ring->members_lock);
    return result;
}

/* One generation more, by way of the writer: whatever else is being written there comes first. */
static int write_generation(struct ring *ring, struct ring_member *member, uint64_t generation, struct failure *failure)
{
    uint64_t until_ns = monotonic_ns(NULL) + SUPERBLOCK_WAIT_NS;
    int result = 0;
    if (writer_ended(ring, member, until_ns)) {
        list_members(ring, member);
        if (le64_get(member->superblock.generation) < generation)
            member->superblock.generation = le64_of(generation);
        if (superblock_writer_begin(&member->writer, member->disk, &member->superblock) != 0)
            return fail(failure, ERR_NO_MEMORY, "disk %s: no memory, or no thread", member->disk->name);
        if (writer_result(member, until_ns, &result, failure))
            return result;
    }
    return does_not_answer(member->disk, failure);
}

int ring_superblock_repair(struct ring *ring, uint32_t number, uint64_t generation, struct failure *failure)
{
    pthread_mutex_lock(&ring->members_lock);
    int result = 0;
    if (number >= ring->members || !ring->member[number].disk || ring->member[number].leaving)
        result = fail(failure, ERR_NOT_FOUND, "ring %s has no disk %u", ring->options.name, number);
    for (int pair = 0; pair < 2 && result == 0; pair++)
        result = write_generation(ring, &ring->member[number], generation, failure);
    pthread_mutex_unlock(&ring->members_lock);
    return result;
}

struct copies_question {
    uint8_t copies;
    uint32_t usable;
};

static void set_copies(struct keeper *keeper, void *context)
{
    struct copies_question *question = context;
    struct keeper_state state;
    keeper_state(keeper, &state);
    for (uint32_t i = 0; i < state.disks; i++)
        question->usable += state.disk[i].state == DISK_ACTIVE;
    if (question->usable >= question->copies)
        keeper_set_copies(keeper, question->copies);
}

int ring_set_copies(struct ring *ring, uint8_t copies, struct failure *failure)
{
    if (copies < 1 || copies > COPIES_MAX)
        return fail(failure, ERR_INVALID, "a ring has 1 to %u copies", COPIES_MAX);
    struct copies_question question = {.copies = copies};
    keeper_call(ring->keeper, set_copies, &question);
    if (question.usable < copies)
        return fail(failure, ERR_INVALID, "%u copies need %u disks, each copy on another one; %u %s active", copies, copies,
                    question.usable, question.usable == 1 ? "is" : "are");
    pthread_mutex_lock(&ring->members_lock);
    ring->options.copies = copies;
    update_members(ring);
    pthread_mutex_unlock(&ring->members_lock);
    catalog_put_ring(ring->options.catalog, &ring->options.ring, ring->options.name, copies, ring->slot_bytes);
    return 0;
}

struct domain {
    uint32_t number;
    uint64_t domain;
};

static void set_domain(struct keeper *keeper, void *context)
{
    const struct domain *domain = context;
    keeper_set_failure_domain(keeper, domain->number, domain->domain);
}

void ring_set_failure_domain(struct ring *ring, uint32_t number, uint64_t domain)
{
    struct domain question = {.number = number, .domain = domain};
    keeper_call(ring->keeper, set_domain, &question);
}

/* ---- streams ------------------------------------------------------------------------------------- */

/*
 * Registered memory is pinned, all of it: a ring that nobody records into does without. A disk that cannot register
 * them writes from them all the same, only slower.
 */
static void register_buffers(struct ring *ring)
{
    for (uint32_t i = 0; i < ring->members && !ring->registered; i++)
        if (ring->member[i].disk)
            name_buffers(ring, ring->member[i].disk);
    ring->registered = true;
}

int ring_stream_open(struct ring *ring, const struct stream_options *options, struct stream **stream)
{
    struct stream_options with_indexer = *options;
    with_indexer.indexer = true;
    pthread_mutex_lock(&ring->lock);
    register_buffers(ring);
    int result = ring->streams < STREAMS_MAX
                     ? stream_open(ring->keeper, ring->next_stream, &with_indexer, stream)
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

int ring_find_sealed(struct ring *ring, uint64_t from, uint64_t to, uint32_t count,
                     int (*each)(const struct segment_row *row, void *context), void *context)
{
    int result = catalog_barrier(ring->options.catalog);
    return result ? result : catalog_find_sealed(ring->options.catalog, &ring->options.ring, from, to, count, each, context);
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

static void copy_state(struct keeper *keeper, void *context)
{
    keeper_state(keeper, context);
}

void ring_positions(struct ring *ring, uint64_t *oldest, uint64_t *newest)
{
    struct keeper_state state;
    keeper_call(ring->keeper, copy_state, &state);
    *oldest = state.oldest_position;
    *newest = state.position;
}

struct worker_segment ring_row_segment(const struct segment_row *row)
{
    return (struct worker_segment){
        .segment = row->segment,
        .run = row->run,
        .position = row->position,
        .first_packet = row->first_packet,
        .packets = row->packets,
        .purged = row->purged,
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
}

void ring_worker_segment(struct ring *ring, const struct segment_row *row, struct worker_segment *segment)
{
    *segment = ring_row_segment(row);
    for (uint8_t i = 0; i < row->places; i++)
        for (uint32_t disk = 0; disk < ring->members; disk++)
            if (ring_disk(ring, disk, NULL) && identity_equal(&ring->member[disk].identity, &row->place[i].disk)) {
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
    if (!belief) {
        judge->judgement = WORKER_OVERTAKEN; /* the disk has left the ring */
        return;
    }
    if (open ? !identity_equal(&open->identity.segment, &segment->segment)
             : !identity_equal(&belief->segment, &segment->segment))
        judge->judgement = WORKER_OVERTAKEN;
    else if (open && judge->bad->offset >= open->row.data_end)
        judge->judgement = WORKER_TORN;
    else if (judge->bad->reason != WORKER_BAD_SILENT) /* of that nothing is known, and it could not be mended */
        (void)mender_repair(keeper, &judge->ring->member[segment->place[judge->bad->place].disk].identity,
                            segment->place[judge->bad->place].slot, &segment->segment, judge->bad->offset,
                            judge->bad->bytes);
}

enum worker_judgement ring_judge(struct ring *ring, const struct worker_segment *segment, const struct worker_bad *bad)
{
    struct judge question = {.ring = ring, .segment = segment, .bad = bad, .judgement = WORKER_DAMAGED};
    keeper_call(ring->keeper, judge, &question);
    if (question.judgement == WORKER_DAMAGED && bad->reason != WORKER_BAD_SILENT)
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
    atomic_store(&ring->heedless, options->heedless);
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
    uint64_t slot_bytes = ring->slot_bytes;
    state->total_bytes = state->used_bytes = state->raw_bytes = 0;
    for (uint32_t i = 0; i < state->keeper.disks; i++) {
        const struct keeper_disk_state *disk = &state->keeper.disk[i];
        if (!disk->disk)
            continue;
        state->raw_bytes += disk->segment_bytes;
        state->total_bytes += disk->slots * slot_bytes;
        state->used_bytes += (disk->slots - disk->free_slots) * slot_bytes;
    }
    state->damaged_reads = atomic_load(&ring->damaged_reads);
    state->pressure_permille = pressure_most(ring->gauge.page);
    state->readers = atomic_load(&ring->readers);
    state->readers_held_back_ns = atomic_load(&ring->readers_held_back_ns);
    pthread_mutex_lock(&ring->lock);
    state->streams = ring->streams;
    pthread_mutex_unlock(&ring->lock);
    int result = catalog_barrier(ring->options.catalog);
    if (result == 0)
        result = catalog_summary(ring->options.catalog, &ring->options.ring, &state->catalog);
    state->logical_bytes = result == 0 ? state->catalog.captured_bytes : 0;
    return result;
}

struct rebuild {
    struct ring *ring;
    struct recovery_disk *disk;
    uint32_t number[RING_DISKS_MAX], count;
    struct recovery_report *report;
    struct failure *failure;
    int result;
};

static void rebuild(struct keeper *keeper, void *context)
{
    struct rebuild *rebuild = context;
    uint64_t position = 0;
    struct recovery_options options = recovery_options(rebuild->ring, true);
    rebuild->result =
        recovery_run(&options, rebuild->disk, rebuild->count, &position, rebuild->report, rebuild->failure);
    keeper_raise_position(keeper, position);
    for (uint32_t i = 0; i < rebuild->count && rebuild->result == 0; i++)
        keeper_set_beliefs(keeper, rebuild->number[i], rebuild->disk[i].belief);
}

int ring_rebuild(struct ring *ring, struct recovery_report *report, struct failure *failure)
{
    struct rebuild question = {.ring = ring, .report = report, .failure = failure};
    pthread_mutex_lock(&ring->lock);
    if (ring->streams > 0) {
        pthread_mutex_unlock(&ring->lock);
        return fail(failure, ERR_BUSY, "ring %s is being recorded into: stop the capture first", ring->options.name);
    }
    pthread_mutex_lock(&ring->members_lock);
    if (refuse_while_purged(ring, failure) != 0) {
        pthread_mutex_unlock(&ring->members_lock);
        pthread_mutex_unlock(&ring->lock);
        return ERR_BUSY;
    }
    question.disk = recovery_disks(ring, true, question.number, &question.count);
    if (question.disk) {
        keeper_call(ring->keeper, rebuild, &question);
        recovery_disks_free(question.disk, question.count);
    }
    pthread_mutex_unlock(&ring->members_lock);
    pthread_mutex_unlock(&ring->lock);
    if (!question.disk)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    if (question.result != 0)
        return question.result;
    int result = catalog_barrier(ring->options.catalog);
    return result == 0 ? 0 : fail(failure, result, "the catalog could not be written: %s", error_text(result));
}

/* ---- purging --------------------------------------------------------------------------------------- */

#define PAUSE_WAIT_NS 30000000000ull /* for what the keeper has under way */

struct pause_question {
    bool pause, still;
};

static void pause_keeper(struct keeper *keeper, void *context)
{
    struct pause_question *question = context;
    question->still = keeper_pause(keeper, question->pause);
}

struct purge_beliefs {
    const struct rebuild *rebuild;
    uint64_t position;
};

static void take_beliefs(struct keeper *keeper, void *context)
{
    const struct purge_beliefs *beliefs = context;
    keeper_raise_position(keeper, beliefs->position);
    for (uint32_t i = 0; i < beliefs->rebuild->count; i++)
        keeper_set_beliefs(keeper, beliefs->rebuild->number[i], beliefs->rebuild->disk[i].belief);
}

static bool is_there(const struct ring *ring, const struct identity *identity)
{
    for (uint32_t i = 0; i < ring->members; i++)
        if (ring->member[i].disk && !ring->member[i].leaving && identity_equal(&ring->member[i].identity, identity))
            return true;
    return false;
}

/* Under members_lock. */
static int purge_check(struct ring *ring, bool give_up_away, struct failure *failure)
{
    struct keeper_state *state = malloc(sizeof *state);
    if (!state)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    keeper_call(ring->keeper, ask_state, state);
    int result = 0;
    for (uint32_t i = 0; i < state->disks && result == 0; i++)
        if (state->disk[i].disk && state->disk[i].state != DISK_ACTIVE)
            result = fail(failure, ERR_BUSY, "disk %s is %s: what it holds cannot be erased now; remove it from the ring, or try again later",
                          state->disk[i].disk->name, disk_state_name(state->disk[i].state));
    free(state);
    for (uint32_t k = 0; k < ring->knowns && result == 0 && !give_up_away; k++) {
        const struct superblock_member *known = &ring->known[k];
        if (!is_there(ring, &known->disk))
            result = fail(failure, ERR_BUSY,
                          "disk %.80s is %s, and may hold copies of what is to be purged: bring it back first, or give it up "
                          "(--give-up-away): then it can only come back when it has been wiped",
                          known->name, disk_state_name((enum disk_state)known->state));
    }
    return result;
}

int ring_purge_check(struct ring *ring, bool give_up_away, struct failure *failure)
{
    pthread_mutex_lock(&ring->members_lock);
    int result = purge_check(ring, give_up_away, failure);
    pthread_mutex_unlock(&ring->members_lock);
    return result;
}

/* Every disk that is there is told that this purge is none that it has missed. */
static int purge_mark(struct ring *ring, struct failure *failure)
{
    uint64_t oldest, generation[RING_DISKS_MAX];
    ring_positions(ring, &oldest, &generation[0]);
    struct superblock_tombstone before = ring->purged;
    ring->purged = (struct superblock_tombstone){.position = le64_of(generation[0] + 1)};
    identity_make(&ring->purged.purge);
    for (uint32_t i = 0; i < ring->members; i++)
        generation[i] = ring_superblock_generation(ring, i);
    update_members(ring);
    for (uint32_t i = 0; i < ring->members; i++)
        if (is_there(ring, &ring->member[i].identity) && ring_superblock_generation(ring, i) == generation[i]) {
            ring->purged = before;
            update_members(ring);
            return fail(failure, ERR_IO, "disk %s: its superblock could not be written, and nothing was erased", ring->member[i].disk->name);
        }
    return 0;
}

/* Waits until the keeper has nothing under way. */
static int pause_wait(struct ring *ring, struct failure *failure)
{
    struct pause_question question = {.pause = true};
    uint64_t until_ns = monotonic_ns(NULL) + PAUSE_WAIT_NS;
    keeper_call(ring->keeper, pause_keeper, &question);
    while (!question.still && monotonic_ns(NULL) < until_ns) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        keeper_call(ring->keeper, pause_keeper, &question);
    }
    return question.still ? 0
                          : fail(failure, ERR_BUSY, "ring %s: a disk does not answer; nothing was erased", ring->options.name);
}

/* Under both locks. */
static int purge_locked(struct ring *ring, const struct purge_options *options, struct rebuild *rebuild, bool give_up_away,
                        struct purge_report *report, struct failure *failure)
{
    struct purge_beliefs beliefs = {.rebuild = rebuild};
    int result = pause_wait(ring, failure);
    if (result == 0)
        result = purge_check(ring, give_up_away, failure);
    if (result == 0)
        result = purge_mark(ring, failure);
    if (result == 0) {
        result = purge_run(options, rebuild->disk, rebuild->count, &beliefs.position, report, failure);
        /* Where looking at the disks has failed nothing has been touched, and what was believed still holds. */
        if (beliefs.position > 0 && report->looked)
            keeper_call(ring->keeper, take_beliefs, &beliefs);
    }
    struct pause_question question = {.pause = false};
    keeper_call(ring->keeper, pause_keeper, &question);
    return result;
}

int ring_purge(struct ring *ring, struct purge_range *range, uint32_t ranges, int64_t from_ns, int64_t to_ns, bool give_up_away,
               struct purge_report *report, struct failure *failure)
{
    struct recovery_options look = recovery_options(ring, true);
    struct purge_options options = {.recovery = &look,
                                    .range = range,
                                    .ranges = purge_sort(range, ranges),
                                    .from_ns = from_ns,
                                    .to_ns = to_ns};
    struct rebuild rebuild = {.ring = ring};
    *report = (struct purge_report){0};
    pthread_mutex_lock(&ring->lock);
    if (ring->streams > 0) {
        pthread_mutex_unlock(&ring->lock);
        return fail(failure, ERR_BUSY, "ring %s is being recorded into: stop the capture first", ring->options.name);
    }
    pthread_mutex_lock(&ring->members_lock);
    rebuild.disk = recovery_disks(ring, true, rebuild.number, &rebuild.count);
    int result = refuse_while_purged(ring, failure) != 0 ? ERR_BUSY
                 : rebuild.disk ? purge_locked(ring, &options, &rebuild, give_up_away, report, failure)
                                : fail(failure, ERR_NO_MEMORY, "out of memory");
    recovery_disks_free(rebuild.disk, rebuild.count);
    pthread_mutex_unlock(&ring->members_lock);
    pthread_mutex_unlock(&ring->lock);
    int written = catalog_barrier(ring->options.catalog);
    return result != 0 || written == 0 ? result : fail(failure, written, "the catalog could not be written: %s", error_text(written));
}

/* ---- purging while it is recorded into ------------------------------------------------------------- */

#define SEAL_WAIT_NS 30000000000ull
#define READER_WAIT_NS 10000000000ull

static void ask_seal(void *context, uint32_t number)
{
    struct ring *ring = context;
    pthread_mutex_lock(&ring->lock);
    for (uint32_t i = 0; i < ring->streams; i++)
        if (stream_number(ring->stream[i]) == number)
            stream_request_seal(ring->stream[i]);
    pthread_mutex_unlock(&ring->lock);
}

static bool somebody_reads(void *context, uint64_t from_ns, uint64_t before_ns)
{
    struct ring *ring = context;
    bool reads = false;
    for (uint32_t seat = 0; seat < PRESSURE_SEATS; seat++) {
        uint64_t came_ns = atomic_load(&ring->reader_came_ns[seat]);
        reads |= came_ns != 0 && came_ns >= from_ns && came_ns < before_ns;
    }
    return reads;
}

/* Says that a purge begins: every disk that is there has the mark of it. */
static int purge_live_begin(struct ring *ring, bool give_up_away, struct failure *failure)
{
    pthread_mutex_lock(&ring->members_lock);
    int result = refuse_while_purged(ring, failure);
    if (result == 0)
        result = purge_check(ring, give_up_away, failure);
    if (result == 0)
        result = purge_mark(ring, failure);
    ring->purging |= result == 0;
    pthread_mutex_unlock(&ring->members_lock);
    return result;
}

int ring_purge_live(struct ring *ring, struct purge_range *range, uint32_t ranges, const struct ring_purge_options *options,
                    struct purge_report *report, struct failure *failure)
{
    struct recovery_options look = recovery_options(ring, false);
    look.progress = options->progress;
    look.give_up = options->give_up;
    look.context = options->context;
    struct purge_live_options live = {
        .purge = {.recovery = &look,
                  .range = range,
                  .ranges = purge_sort(range, ranges),
                  .from_ns = options->from_ns,
                  .to_ns = options->to_ns},
        .keeper = ring->keeper,
        .rate = options->rate,
        .heedless = atomic_load(&ring->heedless),
        .seal_wait_ns = SEAL_WAIT_NS,
        .reader_wait_ns = READER_WAIT_NS,
        .seal = ask_seal,
        .is_read = somebody_reads,
        .context = ring,
    };
    *report = (struct purge_report){0};
    int result = purge_live_begin(ring, options->give_up_away, failure);
    if (result != 0)
        return result;
    result = purge_live_run(&live, report, failure);
    pthread_mutex_lock(&ring->members_lock);
    ring->purging = false;
    pthread_mutex_unlock(&ring->members_lock);
    int written = catalog_barrier(ring->options.catalog);
    return result != 0 || written == 0 ? result : fail(failure, written, "the catalog could not be written: %s", error_text(written));
}

uint32_t ring_disks(const struct ring *ring)
{
    return ring->members;
}

struct disk *ring_disk(struct ring *ring, uint32_t i, struct identity *identity)
{
    if (identity)
        *identity = ring->member[i].identity;
    return atomic_load(&ring->member[i].shown);
}

int ring_pressure_fd(const struct ring *ring)
{
    return atomic_load(&ring->heedless) ? -1 : ring->gauge.fd;
}

struct verdicts *ring_verdicts(const struct ring *ring)
{
    return ring->verdicts;
}

struct verdict_log *ring_verdict_log(const struct ring *ring)
{
    return ring->verdict_log;
}

void ring_flush_verdicts(struct ring *ring, bool always)
{
    uint64_t oldest, newest;
    if (!ring->verdict_log)
        return;
    ring_positions(ring, &oldest, &newest);
    verdict_log_flush(ring->verdict_log, oldest, newest, always);
}

uint64_t ring_superblock_generation(const struct ring *ring, uint32_t i)
{
    return atomic_load(&ring->member[i].generation);
}

uint32_t ring_reader_comes(struct ring *ring)
{
    atomic_fetch_add(&ring->readers, 1);
    uint32_t seat = pressure_seat_take(&ring->gauge);
    if (seat < PRESSURE_SEATS)
        atomic_store(&ring->reader_came_ns[seat], monotonic_ns(NULL));
    return seat;
}

void ring_reader_reads(struct ring *ring, uint32_t seat, bool reads, uint64_t held_back_ns)
{
    atomic_fetch_add(&ring->readers_held_back_ns, held_back_ns);
    pressure_seat_reads(&ring->gauge, seat, reads);
}

void ring_reader_leaves(struct ring *ring, uint32_t seat)
{
    if (seat < PRESSURE_SEATS)
        atomic_store(&ring->reader_came_ns[seat], 0);
    pressure_seat_give(&ring->gauge, seat);
    atomic_fetch_sub(&ring->readers, 1);
}

const struct superblock *ring_superblock(const struct ring *ring, uint32_t i)
{
    return &ring->member[i].superblock;
}

const struct ring_options *ring_options(const struct ring *ring)
{
    return &ring->options;
}
