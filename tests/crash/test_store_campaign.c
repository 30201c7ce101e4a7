/*
 * test_store_campaign.c - copies on disks that fail, hang, vanish and crawl at seeded random moments, under live traffic on virtual time.
 *
 *     test_store_campaign [--runs N] [--seed S] [--only fails,hangs,vanishes,crawls]
 *
 * A run is a ring of c = 1 to 4 copies on 4 to 8 disks. c - 1 of them go bad at random moments, some come back. Traffic comes in at a
 * rate that the disks that stay good can well take. Then the power goes, the process is killed or the ring is closed, and the ring
 * comes up without the disks that went bad, and once more with them. What must hold:
 *
 * In every fourth run up to all disks but one go bad, and what is checked is what is there when they are back.
 *
 *   P1   every packet that was durable is there without the bad disks, byte for byte
 *   P4   no packet was dropped: the good disks could have taken each of them
 *   P10  no more is in flight than the pool holds, and no disk that hangs holds more than its share of it
 *
 * A failure prints its seed; --seed S --runs 1 replays it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_machine.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define TICK_NS (10 * MS)

enum trouble { FAILS, HANGS, VANISHES, CRAWLS, TROUBLES };

static const char *const trouble_name[TROUBLES] = {"fails", "hangs", "vanishes", "crawls"};

struct victim {
    uint32_t disk;
    enum trouble trouble;
    uint64_t from_ns;
    uint64_t until_ns; /* UINT64_MAX: never good again */
    bool begun, over;
};

struct campaign {
    struct machine machine;
    struct victim victim[MACHINE_DISKS_MAX];
    uint32_t victims;
    bool bold; /* more of them than the copies can bear */
    uint64_t dropped;
    uint64_t dropped_ns; /* when the first one was */
    uint64_t held_max; /* in flight on one disk */
};

static void require(bool condition, const struct campaign *campaign, const char *what)
{
    if (condition)
        return;
    const struct machine_options *options = &campaign->machine.options;
    fprintf(stderr, "seed %llu: %u copies on %u disks: %s\n", (unsigned long long)options->seed, options->copies,
            options->disks, what);
    if (campaign->dropped > 0)
        fprintf(stderr, "  %llu dropped, the first one at %.3f s\n", (unsigned long long)campaign->dropped,
                (double)campaign->dropped_ns / 1e9);
    for (uint32_t i = 0; i < campaign->victims; i++) {
        const struct victim *victim = &campaign->victim[i];
        fprintf(stderr, "  disk %u %s at %.3f s", victim->disk, trouble_name[victim->trouble],
                (double)victim->from_ns / 1e9);
        if (victim->until_ns != UINT64_MAX)
            fprintf(stderr, ", until %.3f s", (double)victim->until_ns / 1e9);
        fputc('\n', stderr);
    }
    abort();
}

static struct machine_options random_options(uint64_t seed)
{
    struct simulation *dice = simulation_new(seed * 2654435761u + 3);
    uint32_t copies = 1 + (uint32_t)simulation_random(dice, 4);
    struct machine_options options = {
        .seed = seed,
        .disks = 4 + (uint32_t)simulation_random(dice, 5),
        .slots = 120,
        .slot_bytes = 512 * 1024,
        .copies = (uint8_t)copies,
        .streams = 1 + (uint32_t)simulation_random(dice, 2),
        .packet_bytes_max = simulation_random(dice, 4) == 0 ? 9000 : 1500,
        .flush_window_ns = 200 * MS,
        .latency_ns = simulation_random(dice, 3) == 0 ? 5 * MS : MS / 10,
        .bandwidth = 100000000,
        .pool_bytes = 96u * FRAME_BYTES_USUAL,
        .roomy = true,
    };
    simulation_free(&dice);
    return options;
}

static enum trouble some_trouble(struct machine *machine, unsigned allowed)
{
    enum trouble trouble;
    do
        trouble = (enum trouble)machine_random(machine, TROUBLES);
    while ((allowed >> trouble & 1) == 0);
    return trouble;
}

/* copies - 1 different disks (or more, but not all), each with its trouble and its time. */
static void choose_victims(struct campaign *campaign, unsigned allowed, uint64_t duration_ns)
{
    struct machine *machine = &campaign->machine;
    bool taken[MACHINE_DISKS_MAX] = {false};
    uint32_t count = machine->options.copies - 1u;
    if (campaign->bold)
        count = 1 + (uint32_t)machine_random(machine, machine->options.disks - 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t disk;
        do
            disk = (uint32_t)machine_random(machine, machine->options.disks);
        while (taken[disk]);
        taken[disk] = true;
        struct victim *victim = &campaign->victim[campaign->victims++];
        *victim = (struct victim){
            .disk = disk,
            .trouble = some_trouble(machine, allowed),
            .from_ns = simulation_now_ns(machine->simulation) + machine_random(machine, duration_ns),
            .until_ns = UINT64_MAX,
        };
        if (machine_random(machine, 3) == 0)
            victim->until_ns = victim->from_ns + machine_random(machine, duration_ns);
    }
}

static void begin(struct campaign *campaign, struct victim *victim)
{
    struct simulated_media *media = campaign->machine.media[victim->disk];
    victim->begun = true;
    switch (victim->trouble) {
    case FAILS:
        simulated_media_fault_often(media, machine_random(&campaign->machine, 2) ? FAULT_EIO : FAULT_EIO_LANDED, 0,
                                    1 + (uint32_t)machine_random(&campaign->machine, 3), 0);
        break;
    case HANGS:
        simulated_media_fault_often(media, FAULT_HUNG, 0, 1, 0);
        break;
    case VANISHES:
        simulated_media_fault(media, FAULT_VANISHED, 0, 0, 0);
        break;
    default:
        simulated_media_pace(media, 100000, 100 * MS);
        break;
    }
}

static void end(struct campaign *campaign, struct victim *victim)
{
    const struct machine_options *options = &campaign->machine.options;
    victim->over = true;
    simulated_media_heal(campaign->machine.media[victim->disk]);
    simulated_media_pace(campaign->machine.media[victim->disk], options->bandwidth, options->latency_ns);
}

static void let_trouble_happen(struct campaign *campaign)
{
    uint64_t now = simulation_now_ns(campaign->machine.simulation);
    for (uint32_t i = 0; i < campaign->victims; i++) {
        struct victim *victim = &campaign->victim[i];
        if (!victim->begun && now >= victim->from_ns)
            begin(campaign, victim);
        if (victim->begun && !victim->over && now >= victim->until_ns)
            end(campaign, victim);
    }
}

/* P10: of the buffers, what each disk holds. A frame is submitted whole, so the share may be passed by one. */
static void check_memory(struct campaign *campaign)
{
    struct keeper_state state;
    keeper_state(campaign->machine.keeper, &state);
    for (uint32_t i = 0; i < state.disks; i++)
        if (state.disk[i].in_flight_bytes > campaign->held_max)
            campaign->held_max = state.disk[i].in_flight_bytes;
    require(campaign->held_max <= campaign->machine.options.pool_bytes / 2 + FRAME_BYTES_USUAL, campaign,
            "one disk holds more than its share of the buffers (P10)");
}

/* A live source: packets come when they come, and what the store does not take at once is dropped. */
static void record(struct campaign *campaign, uint64_t duration_ns, uint64_t interval_ns)
{
    struct machine *machine = &campaign->machine;
    uint64_t begin_ns = simulation_now_ns(machine->simulation), tick_ns = begin_ns;
    for (uint64_t at = begin_ns; at < begin_ns + duration_ns; at += interval_ns) {
        while (tick_ns <= at) {
            machine_run_until(machine, tick_ns);
            let_trouble_happen(campaign);
            for (uint32_t i = 0; i < machine->options.streams; i++)
                stream_tick(machine->stream[i]);
            check_memory(campaign);
            catalog_memory_catch_up(machine->catalog, 2);
            tick_ns += TICK_NS;
        }
        machine_run_until(machine, at);
        int result = machine_append(machine, (uint32_t)machine_random(machine, machine->options.streams));
        if (result != 0 && campaign->dropped++ == 0)
            campaign->dropped_ns = at;
    }
}

static bool is_bad_now(const struct victim *victim)
{
    return victim->begun && !victim->over;
}

/* Ends the life in one of three ways; which disks are still bad does not depend on it. */
static void end_life(struct campaign *campaign)
{
    struct machine *machine = &campaign->machine;
    bool any_bad = false;
    for (uint32_t i = 0; i < campaign->victims; i++)
        any_bad |= is_bad_now(&campaign->victim[i]);
    switch (machine_random(machine, any_bad ? 2 : 3)) {
    case 0:
        machine_power_cut(machine, (uint32_t)machine_random(machine, 12));
        break;
    case 1:
        machine_kill(machine, (uint32_t)machine_random(machine, 12));
        break;
    default:
        machine_shut_down(machine);
        break;
    }
}

static uint64_t boot_and_check(struct campaign *campaign, bool whole)
{
    struct machine_check check;
    machine_boot(&campaign->machine, whole);
    machine_verify(&campaign->machine, &check);
    require(check.bad_frames == 0, campaign, "a bad frame where the catalog says that there are packets");
    require(campaign->machine.report.packets_missing == 0, campaign, "recovery reports durable packets as missing");
    return check.packets;
}

struct totals {
    uint64_t packets, troubles[TROUBLES], held_max;
};

/* The ring comes up without its bad disks, records a little, and is closed. */
static void live_without_victims(struct campaign *campaign, struct totals *totals)
{
    struct machine *machine = &campaign->machine;
    for (uint32_t i = 0; i < campaign->victims; i++)
        machine->absent[campaign->victim[i].disk] = campaign->victim[i].begun;
    totals->packets += boot_and_check(campaign, machine_random(machine, 4) == 0);
    machine_work(machine, 100);
    machine_shut_down(machine);
    memset(machine->absent, 0, sizeof machine->absent);
}

static void run(uint64_t seed, unsigned allowed, struct totals *totals)
{
    struct campaign campaign = {.bold = seed % 4 == 3};
    struct machine *machine = &campaign.machine;
    struct machine_options options = random_options(seed);
    machine_make(machine, &options);
    uint64_t duration_ns = SECOND + machine_random(machine, 4 * SECOND);
    machine_boot(machine, true);
    machine_run_until(machine, simulation_now_ns(machine->simulation) + SECOND); /* segments are ready */
    choose_victims(&campaign, allowed, duration_ns);
    /* About 2 MB/s: while a disk hangs for the two seconds that make it suspect, the pool can hold what comes in. */
    record(&campaign, duration_ns, options.packet_bytes_max / 2 * (SECOND / 2000000));
    end_life(&campaign);

    for (uint32_t i = 0; i < campaign.victims; i++)
        totals->troubles[campaign.victim[i].trouble] += campaign.victim[i].begun;
    if (!campaign.bold)
        live_without_victims(&campaign, totals);
    for (uint32_t i = 0; i < campaign.victims; i++) /* they come back, with whatever is on them */
        end(&campaign, &campaign.victim[i]);
    totals->packets += boot_and_check(&campaign, true);
    require(campaign.dropped == 0, &campaign, "a packet was dropped that the good disks could have taken (P4)");
    if (campaign.held_max > totals->held_max)
        totals->held_max = campaign.held_max;
    machine_free(machine);
}

/* "fails,hangs" -> a bit for each. */
static unsigned troubles_read(const char *text)
{
    unsigned allowed = 0;
    for (int i = 0; i < TROUBLES; i++)
        allowed |= strstr(text, trouble_name[i]) != NULL ? 1u << i : 0;
    return allowed;
}

int main(int argc, char **argv)
{
    uint64_t runs = 20, seed = 1;
    unsigned allowed = (1u << TROUBLES) - 1;
    struct totals totals = {0};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--runs") == 0)
            runs = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            allowed = troubles_read(argv[i + 1]);
    }
    if (allowed == 0) {
        fprintf(stderr, "--only knows fails, hangs, vanishes and crawls\n");
        return 2;
    }
    printf("seeds %llu to %llu\n", (unsigned long long)seed, (unsigned long long)(seed + runs - 1));
    fflush(stdout);
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, allowed, &totals);
    printf("%llu packets checked after", (unsigned long long)totals.packets);
    for (int i = 0; i < TROUBLES; i++)
        printf(" %llu disk %s%s", (unsigned long long)totals.troubles[i], trouble_name[i], i + 1 < TROUBLES ? "," : "");
    printf("; one disk held %llu KiB at most\n", (unsigned long long)totals.held_max / 1024);
    return 0;
}
