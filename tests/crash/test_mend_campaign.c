/*
 * test_mend_campaign.c - disks that fail while copies are being made, and disks that lie while they
 * are written: from seeds.
 *
 *     test_mend_campaign [--runs N] [--faults N] [--seed N] [--only heal|lies]
 *
 * heal: 2 to 4 copies on 4 to 8 disks; all but one copy's worth of disks fail at random moments, in
 * the midst of recording, healing and after it. Then every segment has as many copies as there are
 * disks for, and every durable packet is there (P1, P4).
 *
 * lies: one disk tears, loses, misdirects or flips a random choice of its writes, until N of each
 * kind have struck. Whatever the scrub then finds it mends from the other disks, and every packet
 * is right (P3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_machine.h"

#define FAST (1ull << 34)
#define SECOND 1000000000ull
#define LIES_A_RUN 25

static void check(const struct machine *machine, bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "seed %llu: %s\n", (unsigned long long)machine->options.seed, what);
    abort();
}

/* Lets time pass until nothing is left that the mender can do. */
static void mend(struct machine *machine)
{
    struct mender_state state;
    for (int i = 0; i < 4000; i++) {
        machine_settle(machine);
        mender_state(machine->keeper, &state);
        if (mender_is_done(machine->keeper) && !state.healing &&
            (state.degraded_segments == 0 || i > 2000))
            return;
        simulation_advance(machine->simulation, SECOND / 4);
    }
    check(machine, false, "the mender does not come to an end");
}

static void scrub(struct machine *machine, struct mender_state *state)
{
    mender_scrub_now(machine->keeper);
    do {
        machine_settle(machine);
        simulation_advance(machine->simulation, SECOND / 10);
        mender_state(machine->keeper, state);
    } while (state->scrubbing);
}

struct copies {
    const struct machine *machine;
    uint32_t segments;
    uint32_t least;
};

static int count_copies(const struct segment_row *row, void *context)
{
    struct copies *copies = context;
    uint32_t here = 0;
    for (uint8_t p = 0; p < row->places; p++)
        for (uint32_t d = 0; d < copies->machine->options.disks; d++)
            here += !copies->machine->absent[d] &&
                    identity_equal(&copies->machine->identity[d], &row->place[p].disk);
    if (row->packets == 0 || row->state == SEGMENT_OPEN)
        return 0;
    copies->segments++;
    if (here < copies->least)
        copies->least = here;
    return 0;
}

static struct copies copies_of(struct machine *machine)
{
    struct copies copies = {.machine = machine, .least = UINT32_MAX};
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    (void)catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, count_copies,
                       &copies);
    return copies;
}

static struct machine_options options_of(uint64_t seed, uint32_t disks, uint8_t copies)
{
    return (struct machine_options){
        .seed = seed,
        .disks = disks,
        .slots = 64,
        .slot_bytes = 64 * 1024,
        .copies = copies,
        .streams = 1 + (uint32_t)(seed % 2),
        .packet_bytes_max = 1500,
        .flush_window_ns = 50000000,
        .latency_ns = 100000,
        .mender = {.heal_rate = FAST, .scrub_rate = FAST},
        .roomy = true,
    };
}

/* ---- disks that fail
 * ------------------------------------------------------------------------------- */

static uint64_t heal_run(uint64_t seed)
{
    struct machine machine;
    uint32_t disks = 4 + (uint32_t)(seed % 5);
    uint8_t copies = (uint8_t)(2 + seed / 5 % 3);
    struct machine_options options = options_of(seed, disks, copies);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    machine_work(&machine, 300);
    bool gone[MACHINE_DISKS_MAX] = {false};
    for (uint32_t failing = 0; failing + 1 < copies; failing++) {
        uint32_t disk;
        do
            disk = (uint32_t)machine_random(&machine, disks);
        while (gone[disk]);
        gone[disk] = true;
        /* At some request from now: of recording, or of the healing that the one before has caused.
         */
        simulated_media_fault(machine.media[disk], FAULT_VANISHED, DISK_WRITE,
                              (uint32_t)machine_random(&machine, 20), 0);
        machine_work(&machine, 50 + (uint32_t)machine_random(&machine, 200));
        for (uint64_t steps = machine_random(&machine, 400); steps > 0; steps--)
            if (!machine_step(&machine))
                simulation_advance(machine.simulation, SECOND / 100);
    }
    machine_work(&machine, 300);
    for (uint32_t d = 0; d < disks; d++)
        while (gone[d] && simulated_media_struck(machine.media[d], FAULT_VANISHED) == 0)
            machine_work(&machine, 50); /* its turn has not come */
    memcpy(machine.absent, gone, sizeof gone);
    uint32_t left = 0;
    for (uint32_t d = 0; d < disks; d++)
        left += !gone[d];
    uint32_t wanted = copies < left ? copies : left;
    mend(&machine);
    machine_shut_down(&machine);
    machine_boot(&machine, seed % 2 == 0);
    mend(&machine);
    struct copies have = copies_of(&machine);
    struct machine_check checked;
    machine_verify(&machine, &checked); /* fails where a durable packet is missing */
    check(&machine, checked.bad_frames == 0, "a bad frame after healing");
    check(&machine, have.segments > 0 && have.least >= wanted,
          "a segment has too few copies after healing");
    struct mender_state state;
    mender_state(machine.keeper, &state);
    machine_shut_down(&machine);
    machine_free(&machine);
    return checked.packets;
}

/* ---- disks that lie
 * ---------------------------------------------------------------------------------- */

static const struct {
    enum fault_kind kind;
    const char *name;
} lie[] = {{FAULT_TORN, "torn"},
           {FAULT_LOST, "lost"},
           {FAULT_MISDIRECTED, "misdirected"},
           {FAULT_FLIPPED, "flipped"}};
#define LIES (sizeof lie / sizeof lie[0])

static void lie_run(uint64_t seed, uint64_t struck[LIES], uint64_t wanted, uint64_t *mended,
                    uint64_t *copied)
{
    struct machine machine;
    struct machine_options options = options_of(seed, 3, 2);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    uint32_t liar = (uint32_t)machine_random(&machine, options.disks),
             kind = (uint32_t)(seed % LIES);
    for (uint32_t tries = 0; tries < LIES && struck[kind] >= wanted; tries++)
        kind = (kind + 1) % LIES;
    for (uint32_t i = 0; i < LIES_A_RUN; i++)
        simulated_media_fault(machine.media[liar], lie[kind].kind, DISK_WRITE,
                              (uint32_t)machine_random(&machine, 100), 0);
    for (uint32_t tries = 0;
         tries < 30 && simulated_media_struck(machine.media[liar], lie[kind].kind) < LIES_A_RUN;
         tries++)
        machine_work(&machine, 150);
    machine_shut_down(&machine);
    struck[kind] += simulated_media_struck(machine.media[liar], lie[kind].kind);
    machine_boot(&machine, seed % 2 == 0);
    struct mender_state state, again;
    mend(&machine);
    scrub(&machine, &state);
    mend(&machine);
    *mended += state.repaired;
    *copied += state.healed_segments;
    check(&machine, state.unrepairable == 0,
          "damage that could not be mended, though another copy was good");
    scrub(&machine, &again);
    check(&machine, again.last_scrub.found == 0, "damage that a scrub left");
    check(&machine, copies_of(&machine).least >= 2, "a segment has too few copies");
    struct machine_check checked;
    machine_verify(&machine, &checked);
    check(&machine, checked.bad_frames == 0, "a bad frame after the scrub");
    machine_shut_down(&machine);
    machine_free(&machine);
}

int main(int argc, char **argv)
{
    uint64_t runs = 40, faults = 100, seed = 1, packets = 0, mended = 0, copied = 0,
             struck[LIES] = {0};
    const char *only = "";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--runs") == 0)
            runs = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--faults") == 0)
            faults = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
    }
    for (uint64_t i = 0; i < runs && strcmp(only, "lies") != 0; i++)
        packets += heal_run(seed + i);
    bool more = strcmp(only, "heal") != 0;
    for (uint64_t i = 0; more; i++) {
        lie_run(seed + i, struck, faults, &mended, &copied);
        more = false;
        for (size_t k = 0; k < LIES; k++)
            more |= struck[k] < faults;
    }
    printf("%llu packets checked after disks failed\n", (unsigned long long)packets);
    for (size_t k = 0; k < LIES; k++)
        printf("%s: %llu faults\n", lie[k].name, (unsigned long long)struck[k]);
    printf("%llu frames mended, %llu copies made anew\n", (unsigned long long)mended,
           (unsigned long long)copied);
    return 0;
}
