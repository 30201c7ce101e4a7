/*
 * test_mender.c - lost copies come back, damage is mended, and a crash at any instant of either costs the work only: on simulated disks, on
 * virtual time.
 */
#include "unit_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_machine.h"

#define FAST (1u << 30)

static struct machine_options small(uint64_t seed, uint32_t disks, uint8_t copies)
{
    return (struct machine_options){
        .seed = seed,
        .disks = disks,
        .slots = 16,
        .slot_bytes = 64 * 1024,
        .copies = copies,
        .streams = 1,
        .packet_bytes_max = 1500,
        .flush_window_ns = 50000000,
        .latency_ns = 100000,
        .mender = {.heal_rate = FAST},
    };
}

/* ---- asking ---------------------------------------------------------------------------------------- */

static struct mender_state mending(struct machine *machine)
{
    struct mender_state state;
    mender_state(machine->keeper, &state);
    return state;
}

/* Lets time pass until the mender has nothing left that it can do. */
static void mend(struct machine *machine)
{
    for (int i = 0; i < 2000; i++) {
        machine_settle(machine);
        struct mender_state state = mending(machine);
        if (mender_is_done(machine->keeper) && !state.healing && (state.degraded_segments == 0 || i > 1000))
            return;
        simulation_advance(machine->simulation, 250000000);
    }
    fail_msg("the mender does not come to an end");
}

struct copies {
    struct machine *machine;
    uint32_t segments;
    uint32_t places;
    uint32_t least;
};

static int count_copies(const struct segment_row *row, void *context)
{
    struct copies *copies = context;
    uint32_t here = 0;
    for (uint8_t p = 0; p < row->places; p++)
        for (uint32_t d = 0; d < copies->machine->options.disks; d++) {
            if (!identity_equal(&copies->machine->identity[d], &row->place[p].disk))
                continue;
            here += !copies->machine->absent[d];
            for (uint8_t q = 0; q < p; q++) /* never two on one disk */
                assert_false(identity_equal(&row->place[p].disk, &row->place[q].disk));
        }
    if (row->packets == 0)
        return 0;
    copies->segments++;
    copies->places += here;
    if (here < copies->least)
        copies->least = here;
    return 0;
}

static struct copies copies_of(struct machine *machine)
{
    struct copies copies = {.machine = machine, .least = UINT32_MAX};
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    assert_int_equal(
        catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, count_copies, &copies), 0);
    return copies;
}

static uint64_t verify(struct machine *machine)
{
    struct machine_check check;
    machine_verify(machine, &check);
    assert_int_equal(check.bad_frames, 0);
    return check.packets;
}

/* Records, and comes up again without the first `lost` disks. */
static void record_and_lose(struct machine *machine, const struct machine_options *options, uint32_t packets,
                            uint32_t lost)
{
    machine_make(machine, options);
    machine_boot(machine, true);
    machine_work(machine, packets);
    machine_shut_down(machine);
    for (uint32_t d = 0; d < lost; d++)
        machine->absent[d] = true;
    machine_boot(machine, false);
}

/* ---- healing --------------------------------------------------------------------------------------- */

static void test_copies_come_back(void **state)
{
    (void)state;
    static const struct { uint32_t disks; uint8_t copies; uint32_t lost; } one[] = {
        {3, 2, 1}, {4, 3, 1}, {4, 2, 2}, {5, 3, 2}, {6, 4, 2}, {8, 4, 3}, {4, 2, 1},
    };
    for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) {
        struct machine machine;
        struct machine_options options = small(40 + i, one[i].disks, one[i].copies);
        options.slots = 40;
        if (one[i].lost >= one[i].copies)
            options.copies = (uint8_t)(one[i].lost + 1);
        record_and_lose(&machine, &options, 900, one[i].lost);
        assert_true(copies_of(&machine).least < options.copies);
        mend(&machine);
        assert_int_equal(mending(&machine).degraded_segments, options.copies > one[i].disks - one[i].lost
                                                                   ? mending(&machine).degraded_segments
                                                                   : 0);
        uint32_t left = one[i].disks - one[i].lost;
        uint32_t wanted = options.copies < left ? options.copies : left;
        struct copies copies = copies_of(&machine);
        assert_true(copies.segments > 10);
        assert_int_equal(copies.least, wanted);
        verify(&machine);
        machine_shut_down(&machine);
        /* From the disks alone, the lost ones with them. */
        memset(machine.absent, 0, sizeof machine.absent);
        machine_boot(&machine, true);
        assert_true(copies_of(&machine).least >= wanted);
        verify(&machine);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
}

/* Not before its time, and no faster than it may. */
static void test_delay_and_rate(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(7, 3, 2);
    options.slots = 40;
    options.mender = (struct mender_options){.heal_delay_ns = 120000000000, .heal_rate = 128 * 1024};
    record_and_lose(&machine, &options, 900, 1);
    machine_settle(&machine);
    uint64_t lost = mending(&machine).degraded_segments;
    assert_true(lost > 5);
    assert_int_equal(mending(&machine).degraded_bytes, lost * options.slot_bytes);
    simulation_advance(machine.simulation, 119000000000);
    machine_settle(&machine);
    assert_int_equal(mending(&machine).healed_segments, 0);
    simulation_advance(machine.simulation, 2000000000);
    uint64_t began_ns = simulation_now_ns(machine.simulation);
    while (mending(&machine).healed_segments < lost) {
        machine_settle(&machine);
        simulation_advance(machine.simulation, 10000000);
    }
    uint64_t took_ns = simulation_now_ns(machine.simulation) - began_ns;
    uint64_t least_ns = mending(&machine).healed_bytes * (1000000000 / 1024) / 128;
    assert_true(took_ns >= least_ns - least_ns / 8);
    machine_shut_down(&machine);
    machine_free(&machine);
}

/* A full ring: the newest have their copies back, the oldest have made room, and nothing newer than what was healed is gone. */
static void test_newest_first_in_a_full_ring(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(9, 3, 2);
    record_and_lose(&machine, &options, 3000, 1);
    mend(&machine);
    assert_true(mending(&machine).healed_segments > 5);
    verify(&machine);
    machine_shut_down(&machine);
    machine_boot(&machine, true);
    verify(&machine);
    machine_shut_down(&machine);
    machine_free(&machine);
}

/* Recording and healing at the same time, and a disk that comes to fail in the midst of it. */
static void test_healing_while_recording(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct machine machine;
        struct machine_options options = small(seed, 4, 2);
        options.slots = 40;
        options.roomy = true;
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        machine_work(&machine, 500);
        simulated_media_fault(machine.media[0], FAULT_VANISHED, DISK_WRITE, 0, 0);
        machine_work(&machine, 500);
        mend(&machine);
        machine_work(&machine, 500);
        mend(&machine);
        machine.absent[0] = true; /* it would not be read any more */
        verify(&machine);
        assert_true(mending(&machine).healed_segments > 0);
        machine_power_cut(&machine, UINT32_MAX);
        machine_boot(&machine, seed % 2 == 0);
        verify(&machine);
        mend(&machine);
        assert_int_equal(copies_of(&machine).least, 2);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
}

/* ---- crashes --------------------------------------------------------------------------------------- */

static struct machine_options crash_options(void)
{
    struct machine_options options = small(77, 3, 2);
    options.slots = 20;
    options.slot_bytes = 32 * 1024;
    options.roomy = true;
    return options;
}

/* The power goes, or the process is killed, at the n-th event of a healing. Returns whether the healing lasted that long. */
static bool crash_at(uint64_t n, enum simulation_cut kind, bool whole, uint32_t catalog_changes)
{
    struct machine machine;
    struct machine_options options = crash_options();
    record_and_lose(&machine, &options, 100, 1);
    simulation_cut_after(machine.simulation, n, kind);
    for (int i = 0; i < 400 && !simulation_cut_happened(machine.simulation); i++) {
        machine_settle(&machine);
        simulation_advance(machine.simulation, 50000000);
    }
    bool met = simulation_cut_happened(machine.simulation);
    simulation_cut_after(machine.simulation, 0, kind);
    if (kind == SIMULATION_CUT_POWER)
        machine_power_cut(&machine, catalog_changes);
    else
        machine_kill(&machine, catalog_changes);
    machine_boot(&machine, whole);
    uint64_t packets = verify(&machine);
    assert_int_equal(machine.report.packets_missing, 0);
    mend(&machine);
    assert_int_equal(copies_of(&machine).least, 2);
    assert_true(verify(&machine) >= packets);
    machine_shut_down(&machine);
    /* The lost disk is back: what it holds contradicts nothing. */
    machine.absent[0] = false;
    machine_boot(&machine, !whole);
    verify(&machine);
    assert_true(copies_of(&machine).least >= 2);
    machine_shut_down(&machine);
    machine_free(&machine);
    return met;
}

static void test_crash_at_every_event(void **state)
{
    (void)state;
    uint64_t crashes = 0;
    for (int kind = 0; kind < 2; kind++)
        for (int whole = 0; whole < 2; whole++)
            for (uint64_t n = 1; crash_at(n, kind ? SIMULATION_CUT_PROCESS : SIMULATION_CUT_POWER, whole,
                                          n % 3 == 0 ? UINT32_MAX : (uint32_t)(n % 3 - 1));
                 n++)
                crashes++;
    assert_true(crashes > 200);
}

/* A fault of each kind at each request of a healing, one after the other: it is healed all the same, or tried again. */
static void test_fault_at_every_request(void **state)
{
    (void)state;
    static const struct { enum fault_kind kind; enum disk_op op; } fault[] = {
        {FAULT_EIO, DISK_READ},         {FAULT_EIO, DISK_WRITE},   {FAULT_EIO, DISK_FLUSH},
        {FAULT_EIO_LANDED, DISK_WRITE}, {FAULT_FLIPPED, DISK_READ},
    };
    for (size_t f = 0; f < sizeof fault / sizeof fault[0]; f++)
        for (uint32_t disk = 1; disk < 3; disk++)
            for (uint32_t after = 0;; after++) {
                struct machine machine;
                struct machine_options options = crash_options();
                record_and_lose(&machine, &options, 100, 1);
                simulated_media_fault(machine.media[disk], fault[f].kind, fault[f].op, after, 0);
                mend(&machine);
                verify(&machine);
                assert_int_equal(copies_of(&machine).least, 2);
                bool struck = simulated_media_struck(machine.media[disk], fault[f].kind) > 0;
                machine_shut_down(&machine);
                machine_boot(&machine, true);
                verify(&machine);
                machine_free(&machine);
                if (!struck)
                    break;
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_come_back),
        cmocka_unit_test(test_delay_and_rate),
        cmocka_unit_test(test_newest_first_in_a_full_ring),
        cmocka_unit_test(test_healing_while_recording),
        cmocka_unit_test(test_crash_at_every_event),
        cmocka_unit_test(test_fault_at_every_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
