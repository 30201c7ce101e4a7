/*
 * test_ring_disks.c - disks join, leave and return while a real ring on files records: nothing that they could have
 * taken is lost, and what they hold is found again.
 */
#include "unit_test.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"
#include "simulation.h"

#define DISKS 4
#define DISK_BYTES (44u << 20)
#define PACKET_BYTES 6000u
#define PATIENCE_MS 2000u /* with a disk that joins */
#define STREAMS 2u
#define STREAM_PACKETS 10000u

struct world {
    char directory[64];
    struct identity identity, disk_identity[DISKS];
    struct catalog *catalog;
    struct ring *ring;
    struct stream *stream;
    uint64_t packets;
    char events[4096];
};

static const char *disk_path(const struct world *world, uint32_t i)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/disk%u", world->directory, i);
    return path;
}

static void note_event(void *context, const char *severity, const char *kind, const char *text)
{
    struct world *world = context;
    (void)severity, (void)text;
    size_t used = strlen(world->events);
    snprintf(world->events + used, sizeof world->events - used, "%s ", kind);
}

static struct disk *disk_new(struct world *world, uint32_t i)
{
    struct failure failure = {0};
    struct disk *disk = NULL;
    if (disk_uring_create(disk_path(world, i), DISK_BYTES, false, &disk, &failure) != 0)
        fail_msg("%s", failure.text);
    return disk;
}

static struct disk *disk_again(struct world *world, uint32_t i)
{
    struct failure failure = {0};
    struct disk *disk = NULL;
    if (disk_uring_open(disk_path(world, i), DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0)
        fail_msg("%s", failure.text);
    return disk;
}

/* Of a disk that is still being closed by the ring that has left it. */
static struct disk *disk_when_free(struct world *world, uint32_t i)
{
    struct failure failure = {0};
    struct disk *disk = NULL;
    int result;
    while ((result = disk_uring_open(disk_path(world, i), DISK_OPEN_EXCLUSIVE, &disk, &failure)) == ERR_BUSY)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (result != 0)
        fail_msg("%s", failure.text);
    return disk;
}

static int try_ring_up(struct world *world, struct disk **disk, uint32_t disks, uint8_t copies, uint32_t *silent, struct failure *failure)
{
    struct recovery_report report;
    struct ring_options options = {
        .ring = world->identity,
        .name = "test",
        .copies = copies,
        .buffer_bytes = RING_BUFFER_BYTES_MIN,
        .flush_window_ns = RING_FLUSH_WINDOW_NS_MIN,
        .join_patience_ms = PATIENCE_MS,
        .catalog = world->catalog,
        .event = note_event,
        .context = world,
        .silent = silent,
    };
    return ring_open(&options, disk, disks, &world->ring, &report, failure);
}

static void ring_up(struct world *world, struct disk **disk, uint32_t disks, uint8_t copies)
{
    struct failure failure = {0};
    if (try_ring_up(world, disk, disks, copies, NULL, &failure) != 0)
        fail_msg("%s", failure.text);
}

static void world_open(struct world *world, uint32_t disks, uint8_t copies)
{
    struct failure failure = {0};
    struct disk *disk[DISKS];
    uint64_t slot_bytes;
    bool fresh;
    memset(world, 0, sizeof *world);
    strcpy(world->directory, "/tmp/tapeloop-disks-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    identity_make(&world->identity);
    for (uint32_t i = 0; i < disks; i++)
        disk[i] = disk_new(world, i);
    if (ring_format_disks(&world->identity, "test", copies, SLOT_BYTES_MIN, disk, disks, world->disk_identity, &slot_bytes,
                          &failure) != 0 ||
        catalog_open(world->directory, &world->catalog, &fresh, &failure) != 0)
        fail_msg("%s", failure.text);
    ring_up(world, disk, disks, copies);
}

static void stream_begin(struct world *world)
{
    struct stream_options options = {0};
    static const struct interface_description interface = {.link_type = 1, .name = "test0"};
    assert_int_equal(ring_stream_open(world->ring, &options, &world->stream), 0);
    assert_int_equal(stream_add_interface(world->stream, &interface), 0);
}

static void stream_stop(struct world *world)
{
    struct account account;
    assert_int_equal(ring_stream_close(world->ring, &world->stream, &account, NULL, NULL), 0);
    assert_int_equal(account.packets[ACCOUNT_lost_disk], 0);
}

static void record(struct world *world, uint32_t count)
{
    static uint8_t bytes[PACKET_BYTES];
    for (uint32_t i = 0; i < count; i++) {
        struct packet packet = {.bytes = bytes,
                                .captured_bytes = PACKET_BYTES,
                                .original_bytes = PACKET_BYTES,
                                .time_ns = (int64_t)world->packets + 1};
        int result;
        memset(bytes, (int)world->packets, sizeof bytes);
        while ((result = stream_append(world->stream, 0, &packet, PACKET_BYTES, 0, 0)) == ERR_AGAIN) {
            stream_tick(world->stream);
            stream_wait(world->stream, 20);
        }
        assert_int_equal(result, 0);
        world->packets++;
    }
    stream_tick(world->stream);
}

/* All that was recorded is durable. */
static void flush(struct world *world)
{
    uint64_t ticket = stream_request_flush(world->stream);
    stream_tick(world->stream);
    while (!stream_wait_flushed(world->stream, ticket, 1000))
        stream_tick(world->stream);
}

static void world_close(struct world *world)
{
    char command[128];
    if (world->ring)
        ring_close(&world->ring);
    catalog_close(&world->catalog);
    snprintf(command, sizeof command, "rm -r %s", world->directory);
    assert_int_equal(system(command), 0);
}

/* ---- what a user would notice ------------------------------------------------------------------- */

struct sums {
    const struct world *world;
    uint64_t packets;  /* each once */
    uint64_t places[DISKS];
    uint8_t least;
    uint8_t *seen;
};

static int sum_row(const struct segment_row *row, void *context)
{
    struct sums *sums = context;
    uint8_t here = 0;
    for (uint64_t n = row->first_packet; n < row->first_packet + row->packets && n < STREAM_PACKETS; n++) {
        uint8_t *seen = &sums->seen[row->stream % STREAMS * STREAM_PACKETS + n];
        sums->packets += !*seen;
        *seen = 1;
    }
    for (uint8_t p = 0; p < row->places; p++)
        for (uint32_t d = 0; d < DISKS; d++)
            if (identity_equal(&row->place[p].disk, &sums->world->disk_identity[d])) {
                sums->places[d]++;
                here++;
            }
    if (here < sums->least)
        sums->least = here;
    return 0;
}

static struct sums sums_of(struct world *world)
{
    struct sums sums = {.world = world, .least = UINT8_MAX, .seen = calloc(STREAMS, STREAM_PACKETS)};
    assert_int_equal(ring_find(world->ring, INT64_MIN, INT64_MAX, sum_row, &sums), 0);
    free(sums.seen);
    return sums;
}

static struct superblock_member *member_in(const struct superblock *superblock, const struct identity *disk)
{
    static struct superblock_member member;
    for (uint16_t i = 0; i < le16_get(superblock->members); i++)
        if (identity_equal(&superblock->member[i].disk, disk)) {
            member = superblock->member[i];
            return &member;
        }
    return NULL;
}

static uint32_t number_of(const struct world *world, uint32_t i)
{
    for (uint32_t n = 0; n < ring_disks(world->ring); n++) {
        struct identity identity;
        (void)ring_disk(world->ring, n, &identity);
        if (identity_equal(&identity, &world->disk_identity[i]))
            return n;
    }
    fail_msg("disk %u has no number", i);
    return 0;
}

static void leave(struct world *world, uint32_t i, enum disk_state state)
{
    struct failure failure = {0};
    if (ring_disk_leave(world->ring, number_of(world, i), state, 20000, &failure) != 0)
        fail_msg("%s", failure.text);
    assert_null(ring_disk(world->ring, number_of(world, i), NULL));
}

static void join(struct world *world, struct disk *disk)
{
    struct failure failure = {0};
    struct recovery_report report;
    uint32_t number;
    if (ring_disk_join(world->ring, &disk, &report, &number, &failure) != 0)
        fail_msg("%s", failure.text);
    assert_null(disk);
    assert_non_null(ring_disk(world->ring, number, NULL));
}

/* One disk, and while it records a second one comes: two copies are possible then, and not before. */
static void test_add_while_recording(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world, 1, 1);
    stream_begin(&world);
    record(&world, 500);
    assert_int_equal(ring_set_copies(world.ring, 2, &failure), ERR_INVALID);
    assert_non_null(strstr(failure.text, "2 copies need 2 disks"));
    struct disk *disk = disk_new(&world, 1);
    assert_int_equal(ring_disk_format(world.ring, &disk, &world.disk_identity[1], &failure), 0);
    join(&world, disk);
    assert_int_equal(ring_set_copies(world.ring, 2, &failure), 0);
    record(&world, 2000);
    stream_stop(&world);
    struct sums sums = sums_of(&world);
    assert_int_equal(sums.packets, world.packets);
    assert_true(sums.places[1] >= 5);
    for (uint32_t i = 0; i < 2; i++) {
        const struct superblock *superblock = ring_superblock(world.ring, i);
        assert_int_equal(superblock->copies, 2);
        assert_int_equal(le16_get(superblock->members), 2);
        assert_int_equal(member_in(superblock, &world.disk_identity[1])->state, DISK_ACTIVE);
    }
    struct ring_state ring;
    assert_int_equal(ring_state(world.ring, &ring), 0);
    assert_int_equal(ring.keeper.durable_copies, 2);
    assert_int_equal(ring.logical_bytes, world.packets * PACKET_BYTES);
    world_close(&world);
}

/* Until the first disk holds so many segments: one that is slow at the moment gets fewer. */
static struct sums record_until_it_holds(struct world *world, uint32_t places)
{
    flush(world);
    struct sums sums = sums_of(world);
    while (sums.places[0] < places) {
        record(world, 200);
        flush(world);
        sums = sums_of(world);
    }
    return sums;
}

/* Removed while it is recorded to, and resumed: nothing is lost, its data is out of the ring, and in it again. */
static void remove_and_resume(uint8_t copies, bool restart)
{
    struct world world;
    world_open(&world, 3, copies);
    stream_begin(&world);
    record(&world, 1500);
    stream_stop(&world);
    stream_begin(&world);
    record(&world, 100);
    struct sums before = record_until_it_holds(&world, 3);
    leave(&world, 0, DISK_REMOVED);
    struct sums without = sums_of(&world);
    assert_int_equal(without.places[0], 0);
    if (copies > 1)
        assert_int_equal(without.packets, before.packets);
    else
        assert_true(without.packets < before.packets);
    assert_int_equal(member_in(ring_superblock(world.ring, 1), &world.disk_identity[0])->state, DISK_REMOVED);
    record(&world, 1500);
    if (restart) {
        struct disk *disk[2];
        stream_stop(&world);
        ring_close(&world.ring);
        disk[0] = disk_again(&world, 1);
        disk[1] = disk_again(&world, 2);
        ring_up(&world, disk, 2, copies);
        stream_begin(&world);
        assert_int_equal(member_in(ring_superblock(world.ring, 0), &world.disk_identity[0])->state, DISK_REMOVED);
    }
    join(&world, disk_again(&world, 0));
    record(&world, 100);
    stream_stop(&world);
    struct sums after = sums_of(&world);
    assert_true(after.places[0] >= before.places[0] - 2);
    if (!restart)
        assert_int_equal(after.packets, world.packets);
    assert_int_equal(member_in(ring_superblock(world.ring, 0), &world.disk_identity[0])->state, DISK_ACTIVE);
    world_close(&world);
}

static void test_remove_and_resume(void **state)
{
    (void)state;
    remove_and_resume(1, false);
    remove_and_resume(2, false);
}

static void test_resume_after_a_restart(void **state)
{
    (void)state;
    remove_and_resume(2, true);
}

/* A disk that was missing at a start is found again by the next one, with what it holds. */
static void test_missing_at_a_start(void **state)
{
    (void)state;
    struct world world;
    struct disk *disk[3];
    world_open(&world, 3, 1);
    stream_begin(&world);
    record(&world, 1500);
    stream_stop(&world);
    uint64_t all = sums_of(&world).packets;
    ring_close(&world.ring);
    disk[0] = disk_again(&world, 1);
    disk[1] = disk_again(&world, 2);
    ring_up(&world, disk, 2, 1);
    assert_int_equal(member_in(ring_superblock(world.ring, 0), &world.disk_identity[0])->state, DISK_MISSING);
    ring_close(&world.ring);
    disk[0] = disk_again(&world, 0);
    disk[1] = disk_again(&world, 1);
    disk[2] = disk_again(&world, 2);
    ring_up(&world, disk, 3, 1);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(member_in(ring_superblock(world.ring, i), &world.disk_identity[0])->state, DISK_ACTIVE);
    assert_int_equal(sums_of(&world).packets, all);
    world_close(&world);
}

/* Missing while it runs: the places stay in the catalog; fewer disks than copies is said, once, and so is the end of it. */
static void test_missing_and_back(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 2, 2);
    stream_begin(&world);
    record(&world, 700);
    leave(&world, 1, DISK_MISSING);
    record(&world, 700);
    join(&world, disk_when_free(&world, 1));
    record(&world, 1000);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    const char *degraded = strstr(world.events, "ring-degraded");
    assert_non_null(degraded);
    assert_null(strstr(degraded + 1, "ring-degraded"));
    assert_non_null(strstr(degraded, "ring-whole"));
    world_close(&world);
}

/* ---- a disk that hangs where its superblock is written, until it is let go ---- */

struct hanging {
    struct disk head;
    struct disk *inner;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hangs;
    bool everywhere; /* where its slots are read, too */
    uint32_t passes; /* so many answers it still gives then */
    bool held; /* somebody waits, or did */
    uint32_t waiters;
};

static void hanging_submit(struct disk *disk, struct disk_request *request)
{
    struct hanging *hanging = (struct hanging *)disk;
    pthread_mutex_lock(&hanging->lock);
    hanging->inner->geometry = disk->geometry;
    disk_submit(hanging->inner, request);
    pthread_mutex_unlock(&hanging->lock);
}

/* As long as it hangs, and limit_ms is not over. */
static bool hanging_wait_for(struct disk *disk, struct disk_request *request, unsigned limit_ms)
{
    struct hanging *hanging = (struct hanging *)disk;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += limit_ms / 1000;
    until.tv_nsec += (long)(limit_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&hanging->lock);
    bool concerned = hanging->hangs && (hanging->everywhere || request->slot == DISK_SLOT_META);
    bool hangs = concerned && hanging->passes == 0;
    if (concerned && !hangs)
        hanging->passes--;
    hanging->waiters++;
    for (int waited = 0; hangs && hanging->hangs && waited == 0;) {
        hanging->held = true;
        waited = limit_ms == UINT_MAX ? pthread_cond_wait(&hanging->changed, &hanging->lock)
                                      : pthread_cond_timedwait(&hanging->changed, &hanging->lock, &until);
    }
    hangs = hangs && hanging->hangs;
    hanging->waiters--;
    pthread_mutex_unlock(&hanging->lock);
    if (!hangs)
        disk_wait(hanging->inner, request);
    return !hangs;
}

static void hanging_wait(struct disk *disk, struct disk_request *request)
{
    (void)hanging_wait_for(disk, request, UINT_MAX);
}

static void hanging_close(struct disk *disk)
{
    struct hanging *hanging = (struct hanging *)disk;
    pthread_mutex_lock(&hanging->lock);
    assert_int_equal(hanging->waiters, 0); /* closed under whoever waits for it */
    while (hanging->hangs)
        pthread_cond_wait(&hanging->changed, &hanging->lock);
    pthread_mutex_unlock(&hanging->lock);
    disk_close(&hanging->inner);
    pthread_mutex_destroy(&hanging->lock);
    pthread_cond_destroy(&hanging->changed);
    free(hanging);
}

static const struct disk_ops hanging_ops = {
    .name = "hanging", .submit = hanging_submit, .wait = hanging_wait, .wait_for = hanging_wait_for, .close = hanging_close};

static struct disk *hanging_wrap(struct disk *inner)
{
    struct hanging *hanging = calloc(1, sizeof *hanging);
    assert_non_null(hanging);
    hanging->head = *inner;
    hanging->head.ops = &hanging_ops;
    hanging->inner = inner;
    pthread_mutex_init(&hanging->lock, NULL);
    pthread_cond_init(&hanging->changed, NULL);
    return &hanging->head;
}

/* The first `passes` answers come all the same. */
static void set_hangs_after(struct disk *disk, bool hangs, uint32_t passes)
{
    struct hanging *hanging = (struct hanging *)disk;
    pthread_mutex_lock(&hanging->lock);
    hanging->hangs = hangs;
    hanging->passes = passes;
    pthread_cond_broadcast(&hanging->changed);
    pthread_mutex_unlock(&hanging->lock);
}

static void set_hangs(struct disk *disk, bool hangs)
{
    set_hangs_after(disk, hangs, 0);
}

static bool is_held(struct disk *disk)
{
    struct hanging *hanging = (struct hanging *)disk;
    pthread_mutex_lock(&hanging->lock);
    bool held = hanging->held;
    pthread_mutex_unlock(&hanging->lock);
    return held;
}

/*
 * While one disk hangs, another one goes: that is told to all, and the one that hangs must not hold up who tells them. It did, with the locks held
 * that every extraction and every change of disks needs.
 */
static void test_leave_while_another_hangs(void **state)
{
    (void)state;
    struct world world;
    struct disk *disk[3];
    world_open(&world, 3, 2);
    ring_close(&world.ring);
    for (uint32_t i = 0; i < 3; i++)
        disk[i] = disk_again(&world, i);
    struct disk *hanging = disk[1] = hanging_wrap(disk[1]);
    ring_up(&world, disk, 3, 2);
    stream_begin(&world);
    record(&world, 200);
    set_hangs(hanging, true);
    leave(&world, 0, DISK_MISSING); /* for ever, before */
    assert_true(is_held(hanging));
    assert_non_null(strstr(world.events, "superblock-behind"));
    assert_int_equal(member_in(ring_superblock(world.ring, number_of(&world, 2)), &world.disk_identity[0])->state,
                     DISK_MISSING);
    record(&world, 200);
    join(&world, disk_when_free(&world, 0)); /* what hangs already is not waited for again */
    set_hangs(hanging, false);
    leave(&world, 0, DISK_REMOVED); /* the one that hung is told of this, or of the next */
    join(&world, disk_when_free(&world, 0));
    for (uint32_t i = 1; i < 3; i++)
        assert_int_equal(member_in(ring_superblock(world.ring, number_of(&world, i)), &world.disk_identity[0])->state,
                         DISK_ACTIVE);
    /* And it can go itself while a superblock is on its way to it. */
    set_hangs(hanging, true);
    leave(&world, 0, DISK_MISSING);
    leave(&world, 1, DISK_MISSING);
    record(&world, 200);
    set_hangs(hanging, false);
    join(&world, disk_when_free(&world, 1));
    join(&world, disk_when_free(&world, 0));
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    world_close(&world);
}

/*
 * A disk that hangs while it is taken in, wherever that is: it is given up after a while, with a sentence, and the ring is what it was. It once held up for ever
 * whoever wanted to change the ring. When it has answered, it is unlocked and can come again.
 */
static void test_join_of_a_disk_that_hangs(void **state)
{
    (void)state;
    /* At its first superblock; at the first write; at the third, the last two having been flushes; among its slots. */
    static const uint32_t passes[] = {0, 4, 7, 60};
    struct world world;
    world_open(&world, 3, 2);
    stream_begin(&world);
    record(&world, 1500);
    leave(&world, 0, DISK_REMOVED);
    struct sums without = sums_of(&world);
    for (uint32_t i = 0; i < COUNT(passes); i++) {
        struct failure failure = {0};
        struct recovery_report report;
        uint32_t number;
        struct disk *disk = hanging_wrap(disk_when_free(&world, 0)), *hanging = disk;
        set_hangs_after(hanging, true, passes[i]);
        assert_int_equal(ring_disk_join(world.ring, &disk, &report, &number, &failure), ERR_TIMEOUT);
        assert_null(disk);
        assert_non_null(strstr(failure.text, "does not answer"));
        assert_null(ring_disk(world.ring, number_of(&world, 0), NULL));
        assert_int_equal(member_in(ring_superblock(world.ring, 1), &world.disk_identity[0])->state, DISK_REMOVED);
        assert_int_equal(disk_uring_open(disk_path(&world, 0), DISK_OPEN_EXCLUSIVE, &disk, &failure), ERR_BUSY);
        assert_int_equal(ring_set_copies(world.ring, 2, &failure), 0);
        record(&world, 100);
        assert_int_equal(sums_of(&world).places[0], 0);
        set_hangs(hanging, false);
    }
    assert_true(sums_of(&world).packets >= without.packets);
    join(&world, disk_when_free(&world, 0));
    assert_true(sums_of(&world).places[0] > 0);
    record(&world, 100);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);

    /* The same for one that is to be formatted. */
    struct failure failure = {0};
    struct disk *disk = hanging_wrap(disk_new(&world, 3)), *hanging = disk;
    set_hangs(hanging, true);
    assert_int_equal(ring_disk_format(world.ring, &disk, &world.disk_identity[3], &failure), ERR_TIMEOUT);
    assert_null(disk);
    set_hangs(hanging, false);
    disk = disk_when_free(&world, 3);
    assert_int_equal(ring_disk_format(world.ring, &disk, &world.disk_identity[3], &failure), 0);
    join(&world, disk);
    world_close(&world);
}

static int add_row(const struct segment_row *row, void *context)
{
    *(uint64_t *)context += row->packets;
    return 0;
}

/* Of all runs: sums_of() tells those of one apart. */
static uint64_t packets_of_all_runs(struct world *world)
{
    uint64_t packets = 0;
    assert_int_equal(ring_find(world->ring, INT64_MIN, INT64_MAX, add_row, &packets), 0);
    return packets;
}

/*
 * A disk that hangs while the ring is brought up, wherever that is: it is named, the ring can be had without it, and what the disk holds is found again when it
 * comes. Everybody once waited for it.
 */
static void test_start_beside_a_disk_that_hangs(void **state)
{
    (void)state;
    /* At its first superblock; at the first of its slots; among them; where segments that were left open are read. */
    static const uint32_t passes[] = {0, 4, 9, 40};
    struct world world;
    world_open(&world, 3, 2);
    for (uint32_t i = 0; i < COUNT(passes); i++) {
        struct failure failure = {0};
        struct disk *disk[3];
        uint32_t silent = UINT32_MAX, hung = i % 3;
        stream_begin(&world);
        record(&world, 400);
        stream_stop(&world);
        ring_close(&world.ring);
        for (uint32_t d = 0; d < 3; d++)
            disk[d] = disk_again(&world, d);
        struct disk *hanging = disk[hung] = hanging_wrap(disk[hung]);
        ((struct hanging *)hanging)->everywhere = true;
        set_hangs_after(hanging, true, passes[i]);
        assert_int_equal(try_ring_up(&world, disk, 3, 2, &silent, &failure), ERR_TIMEOUT);
        assert_int_equal(silent, hung);
        assert_non_null(strstr(failure.text, "does not answer"));
        assert_null(world.ring);
        for (uint32_t d = 0, n = 0; d < 3; d++)
            if (d != hung)
                disk[n++] = disk_again(&world, d);
        ring_up(&world, disk, 2, 2);
        stream_begin(&world);
        record(&world, 400);
        set_hangs(hanging, false);
        join(&world, disk_when_free(&world, hung));
        record(&world, 100);
        stream_stop(&world);
        assert_int_equal(packets_of_all_runs(&world), world.packets);
        assert_true(sums_of(&world).places[hung] > 0);
    }
    world_close(&world);
}

/* Removed while it hangs: it has left, is said to be locked still, and can be had again when it has answered. It could not once, as long as the ring was up. */
static void test_removed_while_it_hangs(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    struct disk *disk[2];
    world_open(&world, 2, 1);
    ring_close(&world.ring);
    disk[0] = disk_again(&world, 0);
    struct disk *hanging = disk[1] = hanging_wrap(disk_again(&world, 1));
    ring_up(&world, disk, 2, 1);
    stream_begin(&world);
    record(&world, 200);
    set_hangs(hanging, true);
    assert_int_equal(ring_set_copies(world.ring, 1, &failure), 0); /* of which it is told */
    assert_int_equal(ring_disk_leave(world.ring, number_of(&world, 1), DISK_REMOVED, 500, &failure), ERR_TIMEOUT);
    assert_non_null(strstr(failure.text, "stays locked"));
    assert_null(ring_disk(world.ring, number_of(&world, 1), NULL));
    assert_int_equal(ring_disk_leave(world.ring, number_of(&world, 1), DISK_REMOVED, 500, &failure), ERR_NOT_FOUND);
    record(&world, 200);
    set_hangs(hanging, false);
    join(&world, disk_when_free(&world, 1));
    record(&world, 200);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    world_close(&world);
}

static struct superblock_condition condition_of(const struct world *world, uint32_t i)
{
    static struct superblock superblock;
    struct superblock_condition condition;
    struct failure failure = {0};
    struct disk *disk = NULL;
    assert_int_equal(disk_uring_open(disk_path(world, i), DISK_OPEN_READ, &disk, &failure), 0);
    assert_int_equal(superblock_read(disk, &superblock, &condition, &failure), 0);
    disk_close(&disk);
    return condition;
}

/* A repair of the superblock comes after what the ring itself is writing there, not beside it, as it once did: two generations would have mixed. */
static void test_superblock_repaired_while_one_is_written(void **state)
{
    (void)state;
    static const uint8_t zeros[SUPERBLOCK_BYTES];
    struct world world;
    struct failure failure = {0};
    struct disk *disk[2];
    world_open(&world, 2, 1);
    ring_close(&world.ring);
    disk[0] = disk_again(&world, 0);
    struct disk *hanging = disk[1] = hanging_wrap(disk_again(&world, 1));
    ring_up(&world, disk, 2, 1);
    FILE *file = fopen(disk_path(&world, 1), "r+");
    assert_non_null(file);
    assert_int_equal(fwrite(zeros, sizeof zeros, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(condition_of(&world, 1).repairs, 1);
    set_hangs(hanging, true);
    assert_int_equal(ring_set_copies(world.ring, 2, &failure), 0); /* a superblock is on its way now, and for some time */
    assert_non_null(strstr(world.events, "superblock-behind"));
    assert_int_equal(ring_superblock_repair(world.ring, 1, 0, &failure), ERR_TIMEOUT);
    set_hangs(hanging, false);
    uint64_t above = ring_superblock_generation(world.ring, 1) + 100; /* as if somebody else had written there */
    assert_int_equal(ring_superblock_repair(world.ring, 1, above, &failure), 0);
    assert_int_equal(ring_superblock_generation(world.ring, 1), above + 2);
    struct superblock_condition condition = condition_of(&world, 1);
    assert_int_equal(condition.repairs, 0);
    for (int place = 0; place < SUPERBLOCK_PLACES; place++)
        assert_true(condition.generation[place] > above);
    assert_int_equal(ring_superblock(world.ring, 1)->copies, 2);
    assert_int_equal(ring_superblock_repair(world.ring, 2, 0, &failure), ERR_NOT_FOUND);
    world_close(&world);
}

struct looker {
    struct ring *ring;
    uint32_t number;
    atomic_bool stop;
    bool seen;
};

static void *look_for_disk(void *context)
{
    struct looker *looker = context;
    while (!atomic_load(&looker->stop))
        looker->seen |= ring_disk(looker->ring, looker->number, NULL) != NULL;
    return NULL;
}

/* A disk that returns and cannot be taken in is closed: nobody who looked meanwhile may have got hold of it, as they once could. */
static void test_unseen_before_it_is_in(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 2, 1);
    stream_begin(&world);
    record(&world, 200);
    leave(&world, 0, DISK_REMOVED);
    struct looker looker = {.ring = world.ring, .number = number_of(&world, 0)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_for_disk, &looker), 0);
    for (int i = 0; i < 10; i++) {
        struct failure failure = {0};
        struct recovery_report report;
        uint32_t number;
        struct disk *disk = disk_faulty_wrap(disk_again(&world, 0), DISK_WRITE, 0, false);
        assert_int_equal(ring_disk_join(world.ring, &disk, &report, &number, &failure), ERR_IO);
        assert_null(disk);
    }
    atomic_store(&looker.stop, true);
    pthread_join(thread, NULL);
    assert_false(looker.seen);
    join(&world, disk_again(&world, 0));
    record(&world, 200);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    world_close(&world);
}

/* ---- a disk returns that has had a life of its own ------------------------------------------------- */

struct runs {
    struct identity own;    /* of the packets that world->ring recorded */
    struct identity strange;
    uint64_t own_packets, strange_packets;
    uint64_t position[256]; /* of all segments */
    uint32_t segments;
    uint64_t twice;         /* a position that two segments have; 0: none */
};

static int sum_run(const struct segment_row *row, void *context)
{
    struct runs *runs = context;
    for (uint32_t i = 0; i < runs->segments; i++)
        if (runs->position[i] == row->position)
            runs->twice = row->position;
    assert_true(runs->segments < COUNT(runs->position));
    runs->position[runs->segments++] = row->position;
    assert_true(row->places > 0);
    if (identity_equal(&row->run, &runs->own)) {
        runs->own_packets += row->packets;
    } else {
        runs->strange = row->run;
        runs->strange_packets += row->packets;
    }
    return 0;
}

static int note_run(const struct segment_row *row, void *context)
{
    *(struct identity *)context = row->run;
    return 0;
}

/*
 * A returning disk holds segments of a run that this recorder has never heard of, sealed ones and one that was being filled: while it was away another one recorded
 * there. They are found again, sealed, and as good as all others: nothing new is put over them, also not after the catalog was made anew.
 */
static void test_returning_disk_with_an_unknown_run(void **state)
{
    (void)state;
    struct world world, other;
    struct failure failure = {0};
    struct recovery_report report;
    char command[300];
    bool fresh;
    world_open(&world, 2, 1);
    stream_begin(&world);
    record(&world, 500);
    flush(&world);
    struct runs before = {0};
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, note_run, &before.own), 0);
    leave(&world, 1, DISK_MISSING);

    /* The same ring, on this disk alone, with a catalog of its own. */
    other = world;
    other.packets = 0;
    strcat(other.directory, "/other");
    snprintf(command, sizeof command, "mkdir %s", other.directory);
    assert_int_equal(system(command), 0);
    if (catalog_open(other.directory, &other.catalog, &fresh, &failure) != 0)
        fail_msg("%s", failure.text);
    struct disk *alone = disk_when_free(&world, 1);
    ring_up(&other, &alone, 1, 1);
    stream_begin(&other);
    record(&other, 700);
    flush(&other);
    /* It is gone in the midst of that: what lies on the disk now is what returns. */
    snprintf(command, sizeof command, "cp --sparse=never %s/disk1 %s/copy", world.directory, world.directory);
    assert_int_equal(system(command), 0);
    stream_stop(&other);
    ring_close(&other.ring);
    catalog_close(&other.catalog);
    snprintf(command, sizeof command, "mv %s/copy %s/disk1", world.directory, world.directory);
    assert_int_equal(system(command), 0);

    record(&world, 1000); /* both give the same positions */
    flush(&world);
    join(&world, disk_again(&world, 1));
    struct runs after = {.own = before.own};
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, sum_run, &after), 0);
    assert_int_equal(after.strange_packets, 700);
    record(&world, 1500); /* nine segments, or more: what is free on both is not half of what there is */
    stream_stop(&world);
    struct runs later = {.own = before.own};
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, sum_run, &later), 0);
    assert_int_equal(later.strange_packets, 700);
    assert_int_equal(later.own_packets, world.packets);
    assert_int_equal(ring_rebuild(world.ring, &report, &failure), 0);
    struct runs rebuilt = {.own = before.own};
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, sum_run, &rebuilt), 0);
    assert_int_equal(rebuilt.strange_packets, 700);
    assert_int_equal(rebuilt.own_packets, world.packets);
    assert_true(later.twice > 0); /* and nobody minds */
    world_close(&world);
}

/* ---- a reader that the ring overtakes -------------------------------------------------------------- */

static int keep_row(const struct segment_row *row, void *context)
{
    struct segment_row *kept = context;
    if (kept->places == 0 || row->position < kept->position)
        *kept = *row;
    return 0;
}

static void assert_no_damage(struct ring *ring)
{
    struct ring_state state;
    assert_int_equal(ring_state(ring, &state), 0);
    assert_int_equal(state.damaged_reads, 0);
    assert_int_equal(state.mender.repairs_waiting + state.mender.repaired + state.mender.unrepairable, 0);
}

/*
 * A slot is reassigned while a reader is in it: it reports what it found there, and the recorder, which knows whose the slot is now, says that it was overtaken;
 * that is no damage, and nothing is mended there.
 */
static void test_slot_reassigned_under_a_reader(void **state)
{
    (void)state;
    struct world world;
    struct segment_row row = {0};
    struct worker_segment segment;
    world_open(&world, 1, 1);
    stream_begin(&world);
    record(&world, 500);
    flush(&world);
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, keep_row, &row), 0);
    ring_worker_segment(world.ring, &row, &segment);
    assert_int_equal(segment.places, 1);
    struct worker_bad bad = {.segment = segment.segment, .offset = PAGE_BYTES, .bytes = PAGE_BYTES, .reason = WORKER_BAD_IDENTITY};
    for (uint64_t oldest = 0, newest; oldest <= row.position; ring_positions(world.ring, &oldest, &newest))
        record(&world, 100); /* until the ring has come round */
    flush(&world);
    assert_int_equal(ring_judge(world.ring, &segment, &bad), WORKER_OVERTAKEN);
    assert_no_damage(world.ring);
    stream_stop(&world);
    world_close(&world);
}

/* A disk that does not answer is no damage either, and is not asked to mend itself. */
static void test_silence_is_no_damage(void **state)
{
    (void)state;
    struct world world;
    struct segment_row row = {0};
    struct worker_segment segment;
    world_open(&world, 1, 1);
    stream_begin(&world);
    record(&world, 500);
    stream_stop(&world);
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, keep_row, &row), 0);
    ring_worker_segment(world.ring, &row, &segment);
    struct worker_bad bad = {.segment = segment.segment, .offset = PAGE_BYTES, .bytes = PAGE_BYTES, .reason = WORKER_BAD_SILENT};
    assert_int_equal(ring_judge(world.ring, &segment, &bad), WORKER_DAMAGED); /* another copy, or a gap */
    assert_no_damage(world.ring);
    world_close(&world);
}

/* ---- purging while it is recorded into ------------------------------------------------------------ */

struct purging {
    struct world *world;
    struct purge_range range[2];
    struct purge_report report;
    struct failure failure;
    int result;
    bool loses_a_disk; /* when the first segment is done */
    uint32_t refused;
    atomic_bool done;
};

/* In the midst of it: what would bring in what the purge has not seen, or keep it, is refused; a disk that is lost is lost. */
static void purge_goes_on(void *context, uint64_t segments_done, uint64_t segments_total)
{
    struct purging *purging = context;
    struct world *world = purging->world;
    struct failure failure = {0};
    struct purge_range none[1] = {{.count = 0}};
    struct purge_report report;
    struct ring_purge_options options = {.to_ns = 1};
    assert_true(segments_done <= segments_total);
    if (segments_done != 1)
        return;
    purging->refused += ring_disk_leave(world->ring, number_of(world, 0), DISK_REMOVED, 1000, &failure) == ERR_BUSY;
    purging->refused += ring_purge_live(world->ring, none, 1, &options, &report, &failure) == ERR_BUSY;
    purging->refused += strstr(failure.text, "purged") != NULL;
    if (purging->loses_a_disk)
        assert_int_equal(ring_disk_leave(world->ring, number_of(world, 2), DISK_MISSING, 0, &failure), 0);
}

static void *purge_thread(void *context)
{
    struct purging *purging = context;
    struct ring_purge_options options = {.from_ns = 0, .to_ns = INT64_MAX, .progress = purge_goes_on, .context = purging};
    purging->result = ring_purge_live(purging->world->ring, purging->range, 2, &options, &purging->report, &purging->failure);
    atomic_store(&purging->done, true);
    return NULL;
}

static int take_run(const struct segment_row *row, void *context)
{
    *(struct identity *)context = row->run;
    return 0;
}

static int sum_purged(const struct segment_row *row, void *context)
{
    *(uint64_t *)context += row->purged;
    return 0;
}

/* What was recorded last, and is still being filled, is among it. */
static void purge_beside_recording(struct world *world, struct purging *purging, bool loses_a_disk)
{
    pthread_t thread;
    struct identity run;
    flush(world);
    assert_int_equal(ring_find(world->ring, INT64_MIN, INT64_MAX, take_run, &run), 0);
    *purging = (struct purging){.world = world, .loses_a_disk = loses_a_disk};
    purging->range[0] = (struct purge_range){.run = run, .first = 20, .count = 700};
    purging->range[1] = (struct purge_range){.run = run, .first = 1199, .count = 1};
    assert_int_equal(pthread_create(&thread, NULL, purge_thread, purging), 0);
    while (!atomic_load(&purging->done)) {
        record(world, world->packets < 3000 ? 20 : 0);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    pthread_join(thread, NULL);
}

static void test_purge_while_recording(void **state)
{
    (void)state;
    struct world world;
    struct purging purging;
    uint64_t purged = 0;
    world_open(&world, 3, 2);
    stream_begin(&world);
    record(&world, 1200);
    purge_beside_recording(&world, &purging, false);
    if (purging.result != 0)
        fail_msg("%s", purging.failure.text);
    assert_int_equal(purging.refused, 3);
    assert_int_equal(purging.report.packets, 701);
    assert_int_equal(purging.report.bytes, 701 * PACKET_BYTES);
    assert_true(world.packets > 1200);
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, sum_purged, &purged), 0);
    assert_int_equal(purged, 701);
    record(&world, 300);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    assert_true(sums_of(&world).least == 2);
    assert_no_damage(world.ring);
    world_close(&world);
}

/* It says so, and does not count the disk as done; when it is back all of it is. */
static void test_a_disk_goes_while_it_is_purged(void **state)
{
    (void)state;
    struct world world;
    struct purging purging;
    uint64_t purged = 0;
    world_open(&world, 3, 2);
    stream_begin(&world);
    record(&world, 1200);
    purge_beside_recording(&world, &purging, true);
    assert_true(purging.result == ERR_BUSY || purging.result == ERR_CLOSED || purging.result == ERR_IO);
    assert_true(purging.failure.text[0] != 0);
    purge_beside_recording(&world, &purging, false);
    assert_int_equal(purging.result, ERR_BUSY); /* the disk is away, and nobody has given it up */
    assert_non_null(strstr(purging.failure.text, "give"));
    join(&world, disk_when_free(&world, 2));
    purge_beside_recording(&world, &purging, false);
    if (purging.result != 0)
        fail_msg("%s", purging.failure.text);
    assert_int_equal(ring_find(world.ring, INT64_MIN, INT64_MAX, sum_purged, &purged), 0);
    assert_int_equal(purged, 701);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    assert_no_damage(world.ring);
    world_close(&world);
}

/* What is refused, and changes nothing. */
static void test_refused(void **state)
{
    (void)state;
    struct world world, other;
    struct failure failure = {0};
    struct recovery_report report;
    uint32_t number;
    world_open(&world, 1, 1);
    world_open(&other, 1, 1);
    ring_close(&other.ring);
    stream_begin(&world);
    record(&world, 100);
    assert_int_equal(ring_disk_leave(world.ring, 0, DISK_REMOVED, 1000, &failure), ERR_BUSY);
    assert_int_equal(ring_disk_leave(world.ring, 7, DISK_REMOVED, 1000, &failure), ERR_NOT_FOUND);
    struct disk *disk = disk_again(&other, 0);
    assert_int_equal(ring_disk_join(world.ring, &disk, &report, &number, &failure), ERR_MISMATCH);
    assert_null(disk);
    assert_int_equal(ring_set_copies(world.ring, 5, &failure), ERR_INVALID);
    assert_int_equal(ring_set_copies(world.ring, 0, &failure), ERR_INVALID);
    record(&world, 100);
    stream_stop(&world);
    assert_int_equal(sums_of(&world).packets, world.packets);
    world_close(&other);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_while_recording),
        cmocka_unit_test(test_remove_and_resume),
        cmocka_unit_test(test_resume_after_a_restart),
        cmocka_unit_test(test_missing_at_a_start),
        cmocka_unit_test(test_missing_and_back),
        cmocka_unit_test(test_leave_while_another_hangs),
        cmocka_unit_test(test_join_of_a_disk_that_hangs),
        cmocka_unit_test(test_start_beside_a_disk_that_hangs),
        cmocka_unit_test(test_removed_while_it_hangs),
        cmocka_unit_test(test_superblock_repaired_while_one_is_written),
        cmocka_unit_test(test_unseen_before_it_is_in),
        cmocka_unit_test(test_returning_disk_with_an_unknown_run),
        cmocka_unit_test(test_slot_reassigned_under_a_reader),
        cmocka_unit_test(test_silence_is_no_damage),
        cmocka_unit_test(test_purge_while_recording),
        cmocka_unit_test(test_a_disk_goes_while_it_is_purged),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
