/*
 * test_store_crash.c - the store on simulated disks loses its power, or its process, at seeded random moments (promise P2).
 *
 *     test_store_crash [--runs N] [--seed S] [--only power|kill|calls]
 *
 * Each run is a machine of its own: a few lives, each ended by a crash somewhere, with a catalog that is behind by a random number
 * of changes or gone altogether. After each crash the next start must need no hand, every packet that was durable
 * must be there, byte for byte, unless the ring has overwritten it, and no frame that the catalog names may be bad.
 * A failure prints its seed; --seed S --runs 1 replays it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_machine.h"

static void require(bool condition, const struct machine *machine, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "seed %llu, life %u: %s\n", (unsigned long long)machine->options.seed, machine->lives, what);
    abort();
}

static struct machine_options random_options(uint64_t seed)
{
    struct simulation *dice = simulation_new(seed * 2654435761u + 1);
    struct machine_options options = {
        .seed = seed,
        .disks = 1 + (uint32_t)simulation_random(dice, 3),
        .slots = 6 + (uint32_t)simulation_random(dice, 8),
        .slot_bytes = (uint32_t)(64 * 1024) << simulation_random(dice, 3),
        .copies = 1,
        .streams = 1 + (uint32_t)simulation_random(dice, 2),
        .packet_bytes_max = simulation_random(dice, 4) == 0 ? 9000 : 1500,
        .flush_window_ns = 50000000,
        .latency_ns = simulation_random(dice, 3) == 0 ? 5000000 : 100000,
    };
    if (simulation_random(dice, 4) == 0)
        options.copies = (uint8_t)options.disks;
    simulation_free(&dice);
    return options;
}

/* After a crash: boots, looks, and gives the next life something to stand on. */
static void boot_and_check(struct machine *machine, bool whole, uint64_t *packets)
{
    struct machine_check check;
    machine_boot(machine, whole);
    machine_verify(machine, &check);
    require(check.bad_frames == 0, machine, "a bad frame where the catalog says that there are packets");
    require(machine->report.packets_missing == 0, machine, "recovery reports durable packets as missing");
    *packets += check.packets;
}

static uint32_t some_changes(struct machine *machine)
{
    return machine_random(machine, 3) == 0 ? 0 : (uint32_t)machine_random(machine, 12);
}

static void run(uint64_t seed, bool power, uint64_t *cuts, uint64_t *packets)
{
    struct machine machine;
    struct machine_options options = random_options(seed);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    uint32_t lives = 2 + (uint32_t)machine_random(&machine, 4);
    for (uint32_t i = 0; i < lives; i++) {
        /* Now and then more than the whole ring holds, so that slots are reused while the catalog is behind. */
        uint32_t capacity = options.disks * options.slots * options.slot_bytes / options.copies / 800;
        machine_work(&machine, (uint32_t)machine_random(&machine, machine_random(&machine, 3) == 0 ? 2 * capacity : 200));
        for (uint64_t n = machine_random(&machine, 10); n > 0; n--)
            (void)machine_step(&machine);
        if (machine_random(&machine, 8) == 0) {
            machine_shut_down(&machine);
        } else if (power) {
            machine_power_cut(&machine, some_changes(&machine));
            (*cuts)++;
        } else {
            machine_kill(&machine, some_changes(&machine));
            (*cuts)++;
        }
        boot_and_check(&machine, machine_random(&machine, 6) == 0, packets);
    }
    machine_free(&machine);
}

/* A scripted run, crashed after its 1st completion, its 2nd, ... until it gets through. */
static void crash_after_each_call(uint64_t seed, uint64_t *cuts, uint64_t *packets)
{
    bool through = false;
    for (uint32_t calls = 0; !through; calls++)
        for (int power = 0; power <= 1; power++) {
            struct machine machine;
            struct machine_options options = {
                .seed = seed,
                .disks = 1,
                .slots = 6,
                .slot_bytes = 64 * 1024,
                .copies = 1,
                .streams = 1,
                .packet_bytes_max = 1500,
                .flush_window_ns = 50000000,
                .latency_ns = 100000,
            };
            machine_make(&machine, &options);
            machine_boot(&machine, true);
            uint32_t left = calls, appended = 0;
            while (left > 0 && appended < 700) {
                int result = machine_append(&machine, 0);
                if (result == 0) {
                    appended++;
                    if (appended % 40 == 0) {
                        simulation_advance(machine.simulation, options.flush_window_ns);
                        stream_tick(machine.stream[0]);
                    }
                }
                (void)keeper_run(machine.keeper, 0);
                if (result == 0 && appended % 3 != 0)
                    continue;
                if (simulation_step(machine.simulation))
                    left--;
                else if (result == ERR_AGAIN)
                    simulation_advance(machine.simulation, options.flush_window_ns);
                (void)keeper_run(machine.keeper, 0);
            }
            through = left > 0;
            if (power)
                machine_power_cut(&machine, calls % 5);
            else
                machine_kill(&machine, calls % 5);
            (*cuts)++;
            boot_and_check(&machine, false, packets);
            machine_free(&machine);
        }
}

int main(int argc, char **argv)
{
    uint64_t runs = 60, seed = 1, cuts = 0, packets = 0;
    const char *only = "";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--runs") == 0)
            runs = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
    }
    for (uint64_t i = 0; i < runs; i++) {
        if (strcmp(only, "") == 0 || strcmp(only, "power") == 0)
            run(seed + i, true, &cuts, &packets);
        if (strcmp(only, "") == 0 || strcmp(only, "kill") == 0)
            run(seed + i, false, &cuts, &packets);
    }
    if (strcmp(only, "") == 0 || strcmp(only, "calls") == 0)
        for (uint64_t i = 0; i < (runs + 59) / 60; i++)
            crash_after_each_call(seed + i, &cuts, &packets);
    printf("%llu crashes, %llu packets checked after them\n", (unsigned long long)cuts, (unsigned long long)packets);
    return 0;
}
