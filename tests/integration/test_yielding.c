/*
 * test_yielding.c - reading never makes recording drop (P7): on simulated disks, each with one budget for reads and writes.
 *
 *     test_yielding [--seed S] [--runs N] [--seconds N]
 *
 * A live source brings packets for 80 % of what the disks can do, and drops what is not taken at once. Meanwhile a disk's worth of copies is
 * healed and everything scrubbed without pause (what `verify --repair` asks for), frames that were spoiled before are repaired, and readers read all that there is,
 * again and again: they have no work but reading, so they ask for the next piece in the instant in which they have the last one. Readers are the real ones
 * (reader.h), each on a thread of its own, of which one runs at a time: a run replays from its seed.
 *
 * Each run is made three times: without readers and mender, when nothing may be dropped, or it proves nothing; with them, when nothing may be dropped either, and
 * everybody must get on; and with them, but without the gauge, when much is dropped, or this test could not fail.
 */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pressure.h"
#include "reader.h"
#include "store_machine.h"
#include "unit_test.h"

#define MS UINT64_C(1000000)
#define SECOND (1000 * MS)
#define MIB UINT64_C(0x100000)
#define RECORD_BYTES 16u
#define SHARE_PERCENT 80u
#define READERS_MAX 128u
#define READER_MEMORY (64u << 20) /* as the recorder gives it */
#define PENDING INT_MIN

struct world;

/* A disk as a reader has it: waiting for it lets the others run. */
struct lent_disk {
    struct disk head; /* first: the seam's pointer is ours */
    struct disk *inner;
    struct player *player;
};

/* A reader, and the thread that is it. */
struct player {
    struct world *world;
    pthread_t thread;
    pthread_cond_t turn;
    bool running, ended;
    struct disk_request *waits_for;
    uint64_t wakes_ns; /* when it waits for time; else UINT64_MAX */
    struct lent_disk disk[MACHINE_DISKS_MAX];
    struct pressure_reader pressure;
    uint64_t read_bytes, packets, rounds;
};

struct world {
    struct machine machine;
    struct pressure_gauge gauge;
    pthread_mutex_t lock; /* whoever runs has it: the scheduler or one player */
    pthread_cond_t back;
    bool over, heedless;
    uint32_t players;
    struct player player[READERS_MAX];
    uint64_t offered, dropped;
    uint64_t without_segment; /* of those: though buffers were free */
    uint32_t spoiled;
};

/* ---- turns ---------------------------------------------------------------------------------------- */

/* On the player's thread: the scheduler goes on, until it is this one's turn again. */
static void yield(struct player *player)
{
    player->running = false;
    pthread_cond_signal(&player->world->back);
    while (!player->running)
        pthread_cond_wait(&player->turn, &player->world->lock);
}

static bool may_run(const struct world *world, const struct player *player)
{
    if (player->ended)
        return false;
    if (player->waits_for)
        return player->waits_for->result != PENDING;
    return world->over || simulation_now_ns(world->machine.simulation) >= player->wakes_ns;
}

/* Whether anybody could. */
static bool let_run(struct world *world)
{
    bool any = false;
    for (uint32_t i = 0; i < world->players; i++) {
        struct player *player = &world->player[i];
        if (!may_run(world, player))
            continue;
        any = true;
        player->running = true;
        pthread_cond_signal(&player->turn);
        while (player->running)
            pthread_cond_wait(&world->back, &world->lock);
    }
    return any;
}

static void lent_submit(struct disk *head, struct disk_request *request)
{
    struct lent_disk *disk = (struct lent_disk *)head;
    request->result = PENDING;
    disk->inner->ops->submit(disk->inner, request);
}

static void lent_wait(struct disk *head, struct disk_request *request)
{
    struct player *player = ((struct lent_disk *)head)->player;
    player->waits_for = request;
    while (request->result == PENDING)
        yield(player);
    player->waits_for = NULL;
}

static const struct disk_ops lent_ops = {.name = "lent", .submit = lent_submit, .wait = lent_wait};

static uint64_t player_now_ns(void *context)
{
    return simulation_now_ns(((struct player *)context)->world->machine.simulation);
}

static void player_sleep_ns(void *context, uint64_t ns)
{
    struct player *player = context;
    player->wakes_ns = player_now_ns(player) + ns;
    yield(player);
    player->wakes_ns = 0;
}

/* ---- a reader's life ------------------------------------------------------------------------------- */

static bool may_read(void *context, uint32_t disk, uint32_t ahead, bool wait)
{
    struct player *player = context;
    return player->world->over || pressure_may_read(&player->pressure, disk, ahead, wait);
}

/* What is spoiled here is known to the mender already. */
static int judge(void *context, const struct worker_bad *bad)
{
    (void)context, (void)bad;
    return WORKER_OVERTAKEN;
}

static void note_gap(void *context, const struct worker_gap *gap)
{
    (void)context, (void)gap;
}

static int stop_when_over(void *context)
{
    return ((struct player *)context)->world->over ? ERR_CLOSED : 0;
}

struct plan {
    struct machine *machine;
    struct reader *reader;
};

static int plan_row(const struct segment_row *row, void *context)
{
    struct plan *plan = context;
    struct worker_segment segment = {
        .segment = row->segment, .run = row->run, .position = row->position, .first_packet = row->first_packet,
        .packets = row->packets, .head_ns = row->head_ns, .first_ns = row->first_ns, .last_ns = row->last_ns,
        .revision = row->revision, .data_revision = row->data_revision, .stream = row->stream,
        .state = row->state, .data_end = row->data_end, .index_offset = row->index_offset, .index_bytes = row->index_bytes,
    };
    if (row->state != SEGMENT_SEALED)
        return 0;
    for (uint8_t p = 0; p < row->places; p++)
        for (uint32_t d = 0; d < plan->machine->options.disks; d++)
            if (identity_equal(&plan->machine->identity[d], &row->place[p].disk) && !plan->machine->absent[d]) {
                segment.place[segment.places].disk = d;
                segment.place[segment.places++].slot = row->place[p].slot;
            }
    return reader_add(plan->reader, &segment, 1);
}

static void read_everything(struct player *player)
{
    struct machine *machine = &player->world->machine;
    struct disk *disk[MACHINE_DISKS_MAX];
    for (uint32_t d = 0; d < machine->options.disks; d++)
        disk[d] = &player->disk[d].head;
    const struct reader_options options = {
        .disk = disk, .disks = machine->options.disks, .ring = machine->ring, .from_ns = INT64_MIN, .to_ns = INT64_MAX,
        .memory_max = READER_MEMORY, .judge = judge, .gap = note_gap, .tick = stop_when_over,
        .may_read = player->world->heedless ? NULL : may_read, .context = player,
    };
    struct plan plan = {.machine = machine};
    assert_int_equal(reader_open(&options, &plan.reader), 0);
    assert_int_equal(catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, plan_row, &plan), 0);
    struct reader_packet packet;
    int result;
    while ((result = reader_next(plan.reader, &packet)) > 0)
        player->packets++;
    assert_true(result == 0 || result == ERR_CLOSED);
    struct reader_counters counters;
    reader_counters(plan.reader, &counters);
    player->read_bytes += counters.bytes_read;
    player->rounds++;
    reader_close(&plan.reader);
}

static void *player_run(void *context)
{
    struct player *player = context;
    pthread_mutex_lock(&player->world->lock);
    while (!player->running)
        pthread_cond_wait(&player->turn, &player->world->lock);
    while (!player->world->over) {
        read_everything(player);
        player_sleep_ns(player, MS); /* there may be nothing yet */
    }
    player->ended = true;
    player->running = false;
    pthread_cond_signal(&player->world->back);
    pthread_mutex_unlock(&player->world->lock);
    return NULL;
}

static void player_start(struct world *world, struct player *player)
{
    *player = (struct player){.world = world};
    player->pressure = (struct pressure_reader){
        .page = world->gauge.page, .now_ns = player_now_ns, .sleep_ns = player_sleep_ns, .context = player,
        .seat = pressure_seat_take(&world->gauge)};
    for (uint32_t d = 0; d < world->machine.options.disks; d++) {
        struct failure failure;
        struct lent_disk *lent = &player->disk[d];
        assert_int_equal(simulated_disk_open(world->machine.media[d], DISK_OPEN_READ, &lent->inner, &failure), 0);
        if (!world->machine.absent[d])
            lent->inner->geometry = world->machine.disk[d]->geometry;
        lent->head = *lent->inner;
        lent->head.ops = &lent_ops;
        lent->player = player;
    }
    pthread_cond_init(&player->turn, NULL);
    assert_int_equal(pthread_create(&player->thread, NULL, player_run, player), 0);
}

static void player_stop(struct player *player)
{
    pthread_join(player->thread, NULL);
    pthread_cond_destroy(&player->turn);
    for (uint32_t d = 0; d < player->world->machine.options.disks; d++)
        disk_close(&player->disk[d].inner);
}

/* ---- the source ------------------------------------------------------------------------------------ */

/* What comes in a millisecond; what is not taken at once is dropped. */
static void offer(struct world *world, uint32_t packets)
{
    for (uint32_t n = 0; n < packets; n++) {
        int result = machine_append(&world->machine, n % world->machine.options.streams);
        assert_true(result == 0 || result == ERR_AGAIN);
        world->offered++;
        world->dropped += result != 0;
        if (result != 0) {
            struct pool_state pool;
            pool_state(world->machine.pool, &pool);
            world->without_segment += pool.free > 0;
        }
    }
}

static void every_ms(struct world *world, uint32_t packets)
{
    struct machine *machine = &world->machine;
    offer(world, packets);
    if (simulation_now_ns(machine->simulation) / MS % 10 == 0)
        for (uint32_t i = 0; i < machine->options.streams; i++)
            stream_tick(machine->stream[i]);
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
}

/* Until then: events in their order, everybody as soon as he may. */
static void play(struct world *world, uint64_t until_ns, uint32_t packets_a_ms)
{
    struct simulation *simulation = world->machine.simulation;
    uint64_t source_ns = simulation_now_ns(simulation);
    while (simulation_now_ns(simulation) < until_ns) {
        if (simulation_now_ns(simulation) >= source_ns) {
            every_ms(world, packets_a_ms);
            source_ns += MS;
        }
        (void)let_run(world);
        uint64_t next_ns = source_ns;
        if (simulation_next_ns(simulation) < next_ns)
            next_ns = simulation_next_ns(simulation);
        for (uint32_t i = 0; i < world->players; i++)
            if (!world->player[i].waits_for && world->player[i].wakes_ns < next_ns)
                next_ns = world->player[i].wakes_ns;
        machine_run_until(&world->machine, next_ns);
    }
}

/* ---- a run ----------------------------------------------------------------------------------------- */

struct setup {
    uint64_t seed;
    uint32_t disks; /* that are left, after one has gone */
    uint8_t copies;
    uint64_t slot_bytes, pool_bytes, bandwidth;
    uint32_t slots, readers, seconds;
};

struct outcome {
    uint64_t offered, dropped, without_segment, read_bytes, least_read_bytes, held_back_ns;
    uint64_t healed_bytes, scrubbed_bytes, repaired;
};

#define SPOILED 20u

/* Spoils a frame of a few segments at their first place, and says so to the mender, as a reader does that meets it. */
static int spoil(const struct segment_row *row, void *context)
{
    struct world *world = context;
    struct machine *machine = &world->machine;
    uint32_t d = 0;
    uint8_t byte;
    if (world->spoiled == SPOILED || row->state != SEGMENT_SEALED || row->places < 2)
        return 0;
    while (!identity_equal(&machine->identity[d], &row->place[0].disk))
        d++;
    if (machine->absent[d])
        return 0;
    uint64_t offset = META_BYTES + (uint64_t)row->place[0].slot * machine->options.slot_bytes + PAGE_BYTES + 5000;
    simulated_media_peek(machine->media[d], offset, &byte, 1);
    byte ^= 1;
    simulated_media_poke(machine->media[d], offset, &byte, 1);
    world->spoiled += mender_repair(machine->keeper, &machine->identity[d], row->place[0].slot, &row->segment, PAGE_BYTES, 1);
    return 0;
}

enum mode { ALONE, HEEDING, HEEDLESS };

static struct outcome run(const struct setup *setup, enum mode mode)
{
    bool heedless = mode == HEEDLESS;
    struct world *world = calloc(1, sizeof *world);
    struct failure failure;
    assert_non_null(world);
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->back, NULL);
    world->heedless = heedless;
    assert_int_equal(pressure_gauge_open(&world->gauge, &failure), 0);
    struct machine *machine = &world->machine;
    const struct machine_options options = {
        .seed = setup->seed, .disks = setup->disks + 1, .slots = setup->slots, .slot_bytes = (uint32_t)setup->slot_bytes,
        .copies = setup->copies, .streams = 2, .packet_bytes_max = 3000, .flush_window_ns = 200 * MS,
        .latency_ns = MS / 10, .bandwidth = setup->bandwidth, .pool_bytes = setup->pool_bytes, .without_index = true,
        .mender = {.heal_rate = mode != ALONE, .scrub_rate = mode != ALONE, .heedless = heedless},
        .gauge = world->gauge.page,
    };
    machine_make(machine, &options);
    machine_boot(machine, true);
    pthread_mutex_lock(&world->lock);
    const uint32_t packet_bytes = options.packet_bytes_max / 2 + RECORD_BYTES;
    uint64_t all = (uint64_t)setup->bandwidth * setup->disks / setup->copies;
    uint32_t packets_a_ms = (uint32_t)(all * SHARE_PERCENT / 100 / 1000 / packet_bytes);
    play(world, simulation_now_ns(machine->simulation) + 100 * MS, 0); /* segments are prepared */
    /* Something to read: an eighth of a ring. */
    uint64_t some_ns = (uint64_t)setup->slots * setup->slot_bytes / 8 * options.disks / setup->copies /
                       ((uint64_t)packets_a_ms * packet_bytes) * MS;
    play(world, simulation_now_ns(machine->simulation) + some_ns, packets_a_ms);
    assert_int_equal(world->dropped, 0); /* without readers */
    machine_shut_down(machine);
    machine->absent[setup->disks] = setup->copies > 1;
    machine_boot(machine, false);
    play(world, simulation_now_ns(machine->simulation) + 100 * MS, 0);
    play(world, simulation_now_ns(machine->simulation) + SECOND / 2, packets_a_ms);
    assert_int_equal(world->dropped, 0);
    world->offered = 0;
    world->players = mode == ALONE ? 0 : setup->readers;
    for (uint32_t i = 0; i < world->players; i++)
        player_start(world, &world->player[i]);
    if (mode != ALONE) {
        assert_int_equal(catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, spoil, world), 0);
        mender_hurry(machine->keeper, true);
        mender_scrub_now(machine->keeper);
    }
    play(world, simulation_now_ns(machine->simulation) + setup->seconds * SECOND, packets_a_ms);

    struct outcome outcome = {.offered = world->offered, .dropped = world->dropped,
                              .without_segment = world->without_segment, .least_read_bytes = world->players > 0 ? UINT64_MAX : 0};
    struct mender_state mending;
    mender_state(machine->keeper, &mending);
    outcome.healed_bytes = mending.healed_bytes;
    outcome.scrubbed_bytes = mending.scrub.bytes + mending.last_scrub.bytes;
    outcome.repaired = mending.repaired;
    world->over = true;
    simulation_advance(machine->simulation, 2 * PRESSURE_FRESH_NS); /* a stale gauge holds nobody back */
    bool all_ended = false;
    while (!all_ended) {
        all_ended = true;
        if (!let_run(world))
            (void)machine_step(machine);
        for (uint32_t i = 0; i < world->players; i++)
            all_ended &= world->player[i].ended;
    }
    pthread_mutex_unlock(&world->lock);
    for (uint32_t i = 0; i < world->players; i++) {
        struct player *player = &world->player[i];
        player_stop(player);
        outcome.read_bytes += player->read_bytes;
        if (player->read_bytes < outcome.least_read_bytes)
            outcome.least_read_bytes = player->read_bytes;
        outcome.held_back_ns += player->pressure.held_back_ns;
    }
    machine_free(machine);
    pressure_gauge_close(&world->gauge);
    pthread_cond_destroy(&world->back);
    pthread_mutex_destroy(&world->lock);
    free(world);
    return outcome;
}

static void tell(const char *name, const struct outcome *outcome)
{
    printf("  %-8s dropped %llu of %llu (%llu for want of a segment); read %.1f MiB, the slowest reader %.2f; held back %.1f s; "
           "healed %.1f MiB, scrubbed %.1f, %llu frames repaired\n",
           name, (unsigned long long)outcome->dropped, (unsigned long long)outcome->offered,
           (unsigned long long)outcome->without_segment, (double)outcome->read_bytes / MIB,
           (double)outcome->least_read_bytes / MIB, (double)outcome->held_back_ns / 1e9,
           (double)outcome->healed_bytes / MIB, (double)outcome->scrubbed_bytes / MIB,
           (unsigned long long)outcome->repaired);
    fflush(stdout);
}

static void judge_setup(const struct setup *setup)
{
    printf("seed %llu: %u disks of %llu MB/s, %u copies, slots of %llu MiB, %u readers, %u s at %u %%\n",
           (unsigned long long)setup->seed, setup->disks, (unsigned long long)setup->bandwidth / 1000000, setup->copies,
           (unsigned long long)setup->slot_bytes / MIB, setup->readers, setup->seconds, SHARE_PERCENT);
    struct outcome alone = run(setup, ALONE), heeding = run(setup, HEEDING), heedless = run(setup, HEEDLESS);
    tell("alone", &alone);
    tell("heeding", &heeding);
    tell("heedless", &heedless);
    assert_int_equal(alone.dropped, 0); /* or the load is more than these disks can take */
    assert_int_equal(heeding.dropped, 0);
    assert_true(heedless.dropped > heedless.offered / 100);
    /* A fiftieth of the bandwidth is read by somebody; nobody reads nothing; what was lost is being brought back. */
    assert_true(heeding.read_bytes >= setup->bandwidth * setup->disks / 50 * setup->seconds);
    assert_true(heeding.least_read_bytes > 0);
    assert_true(heeding.healed_bytes + heeding.scrubbed_bytes > 0 || heeding.repaired > 0);
}

static uint64_t seed = 1, runs = 1, seconds = 3;

static struct setup usual(uint64_t of_seed)
{
    return (struct setup){.seed = of_seed, .disks = 3, .copies = 2, .slot_bytes = MIB, .slots = 256,
                          .pool_bytes = 64 * MIB, .bandwidth = 40000000, .readers = 3, .seconds = (uint32_t)seconds};
}

static void few_readers_of_copies(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < runs; i++) {
        const struct setup setup = usual(seed + i);
        judge_setup(&setup);
    }
}

static void many_readers_of_copies(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < runs; i++) {
        struct setup setup = usual(seed + i);
        setup.slot_bytes = 2 * MIB;
        setup.readers = 40;
        setup.seconds *= 2; /* until everybody has had his turn */
        judge_setup(&setup);
    }
}

static void readers_of_one_disk(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < runs; i++) {
        struct setup setup = usual(seed + i);
        setup.disks = setup.copies = 1;
        setup.slot_bytes = 2 * MIB;
        setup.readers = 12;
        judge_setup(&setup);
    }
}

/* Two streams that have their segments on the same disk at once take more than it can, for as long as that lasts. */
static void streams_that_meet(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < runs; i++) {
        struct setup setup = usual(seed + i);
        setup.disks = 4;
        judge_setup(&setup);
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0)
            seed = value;
        else if (strcmp(argv[i], "--runs") == 0)
            runs = value;
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = value;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(few_readers_of_copies), cmocka_unit_test(many_readers_of_copies),
                                       cmocka_unit_test(readers_of_one_disk), cmocka_unit_test(streams_that_meet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
