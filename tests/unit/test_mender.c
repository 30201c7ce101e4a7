/*
 * test_mender.c - lost copies come back, damage is mended, and a crash at any instant of either
 * costs the work only: on simulated disks, on virtual time.
 */
#include "unit_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "store_machine.h"

#define FAST (1u << 30)

static struct machine_options small(uint64_t seed, uint32_t disks, uint8_t copies)
{
    struct machine_options options = machine_small(seed, disks, 16, copies);
    options.mender.heal_rate = FAST;
    return options;
}

/* ---- asking
 * ---------------------------------------------------------------------------------------- */

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
        if (mender_is_done(machine->keeper) && !state.healing &&
            (state.degraded_segments == 0 || i > 1000))
            return;
        simulation_advance(machine->simulation, 250000000);
    }
    fail_msg("the mender does not come to an end");
}

/* Lets time pass until what was reported is mended, or cannot be: it waits while what was just recorded is on its way. */
static void repair(struct machine *machine)
{
    for (int i = 0; i < 1000; i++) {
        machine_settle(machine);
        if (mender_is_done(machine->keeper))
            return;
        simulation_advance(machine->simulation, 5000000);
    }
    fail_msg("repairs do not come to an end");
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
        catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, count_copies, &copies),
        0);
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
static void record_and_lose(struct machine *machine, const struct machine_options *options,
                            uint32_t packets, uint32_t lost)
{
    machine_make(machine, options);
    machine_boot(machine, true);
    machine_work(machine, packets);
    machine_shut_down(machine);
    for (uint32_t d = 0; d < lost; d++)
        machine->absent[d] = true;
    machine_boot(machine, false);
}

/* ---- healing
 * --------------------------------------------------------------------------------------- */

static void test_copies_come_back(void **state)
{
    (void)state;
    static const struct {
        uint32_t disks;
        uint8_t copies;
        uint32_t lost;
    } one[] = {
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
        assert_int_equal(
            mending(&machine).degraded_segments,
            options.copies > one[i].disks - one[i].lost ? mending(&machine).degraded_segments : 0);
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
    options.mender =
        (struct mender_options){.heal_delay_ns = 120000000000, .heal_rate = 128 * 1024};
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

/* A full ring: the newest have their copies back, the oldest have made room, and nothing newer than
 * what was healed is gone. */
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

static bool has_failed(struct machine *machine, uint32_t disk)
{
    struct keeper_state state;
    keeper_state(machine->keeper, &state);
    return state.disk[disk].state == DISK_FAILED;
}

/* Recording and healing at the same time, and a disk that comes to fail in the midst of it. */
static void test_healing_while_recording(void **state)
{
    (void)state;
    uint64_t healed = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct machine machine;
        struct machine_options options = small(seed, 4, 2);
        options.slots = 80; /* a short slot's key index takes a good part of it: what heals must not have expired meanwhile */
        options.roomy = true;
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        machine_work(&machine, 500);
        simulated_media_fault(machine.media[0], FAULT_VANISHED, DISK_WRITE, 0, 0);
        for (int i = 0; i < 60 && !has_failed(&machine, 0); i++)
            machine_work(&machine, 50);
        assert_true(has_failed(&machine, 0));
        mend(&machine);
        machine_work(&machine, 500);
        mend(&machine);
        machine.absent[0] = true; /* it would not be read any more */
        verify(&machine);
        assert_true(mending(&machine).healed_segments > 0);
        healed += mending(&machine).healed_segments;
        machine_power_cut(&machine, UINT32_MAX);
        machine_boot(&machine, seed % 2 == 0);
        verify(&machine);
        mend(&machine);
        assert_int_equal(copies_of(&machine).least, 2);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
    assert_true(healed > 60);
}

/* In a slot that is believed to be free lies the first page of a segment that nobody knows of. */
static void leave_unknown(struct machine *machine, uint32_t disk, uint32_t slot)
{
    const struct segment *open;
    if (keeper_belief(machine->keeper, &machine->identity[disk], slot, &open)->position != 0 || open)
        return;
    struct frame_identity identity = {
        .ring = machine->ring, .position = 1000000 + slot, .revision = 1, .data_revision = 1};
    struct frame_finish finish = {.kind = FRAME_OPEN};
    struct open_body body = {.slot_bytes = le64_of(machine->options.slot_bytes), .copies = 1};
    _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    identity_make(&identity.segment);
    identity_make(&identity.run);
    assert_int_equal(frame_build_plain(page, PAGE_BYTES, &identity, NULL, &finish, &body, sizeof body), PAGE_BYTES);
    simulated_media_poke(machine->media[disk], META_BYTES + (uint64_t)slot * machine->options.slot_bytes, page, sizeof page);
}

/*
 * While the mender reads the header of the slot that it would take, recording takes that slot, and what the header shows is news to both. It
 * was: the mender put the belief right, and with it took away the mark that the slot is in use. It was then given to a third one, and two
 * segments were written into it.
 */
static void test_one_slot_wanted_by_two(void **state)
{
    (void)state;
    for (uint32_t steps = 0; steps < 40; steps++) {
        struct machine machine;
        struct machine_options options = small(1, 3, 2);
        options.slots = 80;
        options.roomy = true;
        options.mender.heal_rate = 0;
        record_and_lose(&machine, &options, 900, 1);
        machine_settle(&machine);
        for (uint32_t disk = 1; disk < options.disks; disk++)
            for (uint32_t slot = 0; slot < options.slots; slot += 2)
                leave_unknown(&machine, disk, slot);
        options.mender.heal_rate = FAST;
        mender_set_options(machine.keeper, &options.mender);
        for (uint32_t i = 0; i < steps; i++)
            (void)machine_step(&machine);
        /* Without a step between them: a segment is full, and another one is prepared. */
        for (uint32_t i = 0; i < 200 && machine_append(&machine, 0) == 0; i++)
            continue;
        machine_work(&machine, 600);
        mend(&machine);
        verify(&machine);
        machine_shut_down(&machine);
        machine_boot(&machine, steps % 2 == 0);
        verify(&machine);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
}

/* A disk hangs at some request of the healing: it goes on without that disk, and ends when the disk
 * answers again. */
static void test_disk_hangs(void **state)
{
    (void)state;
    uint32_t times = 0;
    for (uint32_t after = 0; after < 30; after++) {
        struct machine machine;
        struct machine_options options = small(after + 1, 4, 2);
        options.slots = 40;
        options.roomy = true;
        record_and_lose(&machine, &options, 1500, 1);
        enum disk_op op = after % 2 ? DISK_READ : DISK_WRITE;
        simulated_media_fault(machine.media[1], FAULT_HUNG, op, after / 2, 0);
        for (int i = 0; i < 800; i++) {
            machine_settle(&machine);
            simulation_advance(machine.simulation, 250000000);
        }
        struct mender_state left = mending(&machine);
        bool hung = simulated_media_struck(machine.media[1], FAULT_HUNG) > 0;
        assert_true(hung || left.degraded_segments == 0);
        simulated_media_unhang(machine.media[1]);
        mend(&machine);
        assert_true(mending(&machine).healed_segments >= left.healed_segments);
        assert_int_equal(copies_of(&machine).least, 2);
        verify(&machine);
        if (hung) { /* else it would do so now */
            machine_shut_down(&machine);
            machine_boot(&machine, true);
            verify(&machine);
            times++;
        }
        machine_free(&machine);
    }
    assert_true(times > 10);
}

/* ---- sealing
 * --------------------------------------------------------------------------------------- */

static int count_unsealed(const struct segment_row *row, void *context)
{
    if (row->packets > 0 && row->state == SEGMENT_OPEN)
        ++*(uint32_t *)context;
    return 0;
}

static uint32_t unsealed(struct machine *machine)
{
    uint32_t count = 0;
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    assert_int_equal(catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX,
                                  count_unsealed, &count),
                     0);
    return count;
}

/* A write that fails ends a segment, and another one takes its frames: both have their seal without
 * a restart. */
static void seal_what_failed(uint32_t disks, uint8_t copies, bool cut)
{
    uint64_t sealed = 0;
    for (uint32_t after = 2; after < 26; after++) {
        struct machine machine;
        struct machine_options options = small(after, disks, copies);
        options.slots = 40;
        options.roomy = true;
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        for (uint32_t d = 0; d < disks; d++)
            simulated_media_fault(machine.media[d], FAULT_EIO, DISK_WRITE, after, 0);
        machine_work(&machine, 300);
        if (cut) { /* in the midst of it */
            simulation_cut_after(machine.simulation, 1 + machine_random(&machine, 60),
                                 SIMULATION_CUT_POWER);
            machine_settle(&machine);
            simulation_cut_after(machine.simulation, 0, SIMULATION_CUT_POWER);
            machine_power_cut(&machine, (uint32_t)machine_random(&machine, 30));
            machine_boot(&machine, after % 2);
        } else {
            for (int i = 0; i < 30; i++) {
                machine_settle(&machine);
                simulation_advance(machine.simulation, 1000000000);
            }
            sealed += mending(&machine).sealed;
            assert_int_equal(unsealed(&machine), 0);
            verify(&machine);
        }
        machine_shut_down(&machine);
        machine_boot(&machine, after % 2 == 0);
        verify(&machine);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
    assert_true(cut || sealed > 5);
}

static void test_sealing(void **state)
{
    (void)state;
    seal_what_failed(2, 1, false);
    seal_what_failed(4, 2, false);
}

static void test_power_cut_at_sealing(void **state)
{
    (void)state;
    seal_what_failed(2, 1, true);
    seal_what_failed(4, 2, true);
}

/* ---- crashes
 * --------------------------------------------------------------------------------------- */

static struct machine_options crash_options(void)
{
    struct machine_options options = small(77, 3, 2);
    options.slots = 20;
    options.slot_bytes = 32 * 1024;
    options.roomy = true;
    return options;
}

/* The power goes, or the process is killed, at the n-th event of a healing. Returns whether the
 * healing lasted that long. */
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
            for (uint64_t n = 1; crash_at(n, kind ? SIMULATION_CUT_PROCESS : SIMULATION_CUT_POWER,
                                          whole, n % 3 == 0 ? UINT32_MAX : (uint32_t)(n % 3 - 1));
                 n++)
                crashes++;
    assert_true(crashes > 200);
}

/* A fault of each kind at each request of a healing, one after the other: it is healed all the
 * same, or tried again. */
static void test_fault_at_every_request(void **state)
{
    (void)state;
    static const struct {
        enum fault_kind kind;
        enum disk_op op;
    } fault[] = {
        {FAULT_EIO, DISK_READ},         {FAULT_EIO, DISK_WRITE},    {FAULT_EIO, DISK_FLUSH},
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

/* ---- damage
 * ---------------------------------------------------------------------------------------- */

struct target {
    struct segment_row row;
    uint8_t place;
    uint32_t disk;
};

struct pick {
    struct machine *machine;
    uint32_t skip;
    bool found;
    struct segment_row row;
};

static int pick_row(const struct segment_row *row, void *context)
{
    struct pick *pick = context;
    if (row->state == SEGMENT_OPEN || row->places < 2 || pick->skip-- > 0)
        return 0;
    pick->row = *row;
    pick->found = true;
    return 1;
}

/* One copy of a sealed segment, as the seed decides. */
static struct target pick_place(struct machine *machine)
{
    struct pick pick = {.machine = machine,
                        .skip = (uint32_t)machine_random(machine, copies_of(machine).segments)};
    for (int i = 0; i < 2 && !pick.found; i++, pick.skip = 0)
        (void)catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, pick_row, &pick);
    assert_true(pick.found);
    struct target target = {.row = pick.row,
                            .place = (uint8_t)machine_random(machine, pick.row.places)};
    while (!identity_equal(&machine->identity[target.disk], &pick.row.place[target.place].disk))
        target.disk++;
    return target;
}

static uint64_t offset_of(const struct machine *machine, const struct target *target,
                          uint32_t offset)
{
    return META_BYTES +
           (uint64_t)target->row.place[target->place].slot * machine->options.slot_bytes + offset;
}

/* The place of a frame that begins at the returned offset, in any part of the slot. */
static uint32_t pick_frame(struct machine *machine, const struct target *target)
{
    uint32_t data = 0, chosen = PAGE_BYTES;
    uint8_t *slot = malloc(machine->options.slot_bytes);
    simulated_media_peek(machine->media[target->disk], offset_of(machine, target, 0), slot,
                         machine->options.slot_bytes);
    switch (machine_random(machine, 8)) {
    case 0:
        chosen = target->row.index_offset;
        break;
    case 1:
        chosen = machine->options.slot_bytes - PAGE_BYTES;
        break;
    case 2:
        chosen = 0;
        break;
    default:
        for (uint32_t at = PAGE_BYTES; at < target->row.data_end;) {
            struct frame_info info;
            if (frame_parse(slot + at, target->row.data_end - at, &info) != 0)
                break; /* harmed before */
            if (machine_random(machine, ++data) == 0)
                chosen = at;
            at += info.frame_bytes;
        }
    }
    free(slot);
    return chosen;
}

enum harm { HARM_FLIPPED, HARM_TORN, HARM_LOST, HARM_MISDIRECTED, HARMS };

/* What each kind of fault leaves on a disk, in the frame at this place. */
static void harm(struct machine *machine, const struct target *target, uint32_t offset,
                 enum harm kind)
{
    struct simulated_media *media = machine->media[target->disk];
    uint8_t page[PAGE_BYTES], other[PAGE_BYTES];
    uint64_t at = offset_of(machine, target, offset);
    simulated_media_peek(media, at, page, sizeof page);
    switch (kind) {
    case HARM_FLIPPED:
        page[machine_random(machine, 300)] ^= (uint8_t)(1u << machine_random(machine, 8));
        break;
    case HARM_TORN: /* the first sectors are new, the rest is what lay there before */
        memset(page + 512, (int)machine_random(machine, 256), sizeof page - 512);
        page[600] ^= 1;
        break;
    case HARM_LOST:
        memset(page, 0, sizeof page);
        break;
    default: /* something of the ring's own that belongs elsewhere */
        simulated_media_peek(media,
                             META_BYTES + machine_random(machine, machine->options.slots) *
                                              machine->options.slot_bytes,
                             other, sizeof other);
        if (memcmp(other, page, sizeof page) == 0)
            memset(other, 0x5a, sizeof other);
        memcpy(page, other, sizeof page);
    }
    simulated_media_poke(media, at, page, sizeof page);
}

static void machine_with_segments(struct machine *machine, const struct machine_options *options,
                                  uint32_t packets)
{
    machine_make(machine, options);
    machine_boot(machine, true);
    machine_work(machine, packets);
    machine_shut_down(machine);
    machine_boot(machine, false);
}

static void report(struct machine *machine, const struct target *target, uint32_t offset,
                   uint32_t bytes)
{
    const struct segment_place *place = &target->row.place[target->place];
    assert_true(mender_repair(machine->keeper, &place->disk, place->slot, &target->row.segment,
                              offset, bytes));
}

/* The page of every copy at this place is the same again. */
static void assert_mended(struct machine *machine, const struct target *target, uint32_t offset,
                          const uint8_t *before)
{
    uint8_t page[PAGE_BYTES];
    simulated_media_peek(machine->media[target->disk], offset_of(machine, target, offset), page,
                         sizeof page);
    assert_memory_equal(page, before, sizeof page);
}

/* A reader finds one frame after the other damaged, in every way that a disk can do it. */
static void harm_and_repair(uint64_t seed, uint32_t rounds)
{
    struct machine machine;
    struct machine_options options = small(seed, 4, 2);
    machine_with_segments(&machine, &options, 900);
    for (uint32_t i = 0; i < rounds; i++)
        for (int kind = 0; kind < HARMS; kind++) {
            struct target target = pick_place(&machine);
            uint32_t offset = pick_frame(&machine, &target);
            uint8_t before[PAGE_BYTES];
            simulated_media_peek(machine.media[target.disk], offset_of(&machine, &target, offset),
                                 before, sizeof before);
            harm(&machine, &target, offset, (enum harm)kind);
            uint64_t repaired = mending(&machine).repaired;
            report(&machine, &target, offset, 1 + (uint32_t)machine_random(&machine, 20000));
            repair(&machine);
            assert_int_equal(mending(&machine).repaired, repaired + 1);
            /* The first page names the place where it lies: another copy's names another one. */
            if (offset != 0)
                assert_mended(&machine, &target, offset, before);
        }
    assert_int_equal(mending(&machine).unrepairable, 0);
    verify(&machine);
    machine_shut_down(&machine);
    machine_boot(&machine, true);
    verify(&machine);
    assert_int_equal(copies_of(&machine).least, 2);
    machine_shut_down(&machine);
    machine_free(&machine);
}

static void test_repair(void **state)
{
    (void)state;
    harm_and_repair(3, 60);
}

/* With no other copy nothing is touched, and it is said. */
static void test_no_good_copy(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(4, 3, 2);
    machine_with_segments(&machine, &options, 500);
    struct target target = pick_place(&machine);
    for (target.place = 0; target.place < target.row.places; target.place++) {
        target.disk = 0;
        while (
            !identity_equal(&machine.identity[target.disk], &target.row.place[target.place].disk))
            target.disk++;
        harm(&machine, &target, PAGE_BYTES, HARM_TORN);
    }
    target.place--;
    uint8_t before[PAGE_BYTES], after[PAGE_BYTES];
    simulated_media_peek(machine.media[target.disk], offset_of(&machine, &target, PAGE_BYTES),
                         before, sizeof before);
    uint64_t events = machine.events;
    report(&machine, &target, PAGE_BYTES, PAGE_BYTES);
    repair(&machine);
    assert_int_equal(mending(&machine).repaired, 0);
    assert_int_equal(mending(&machine).unrepairable, 1);
    assert_true(machine.events > events);
    simulated_media_peek(machine.media[target.disk], offset_of(&machine, &target, PAGE_BYTES),
                         after, sizeof after);
    assert_memory_equal(before, after, sizeof before);
    machine_free(&machine);
}

static void scrub(struct machine *machine)
{
    mender_scrub_now(machine->keeper);
    do {
        machine_settle(machine);
        simulation_advance(machine->simulation, 100000000);
    } while (mending(machine).scrubbing);
}

/* The power goes at each event of a repair: the damage is found again, or is mended; no other frame
 * has suffered. */
static void test_crash_in_repair(void **state)
{
    (void)state;
    bool met = true;
    for (uint64_t n = 1; met; n++) {
        struct machine machine;
        struct machine_options options = small(500, 3, 2);
        options.mender.scrub_rate = FAST;
        machine_with_segments(&machine, &options, 300);
        struct target target = pick_place(&machine);
        uint32_t offset = pick_frame(&machine, &target);
        harm(&machine, &target, offset, (enum harm)(n % HARMS));
        simulation_cut_after(machine.simulation, n, SIMULATION_CUT_POWER);
        report(&machine, &target, offset, PAGE_BYTES);
        machine_settle(&machine);
        met = simulation_cut_happened(machine.simulation);
        simulation_cut_after(machine.simulation, 0, SIMULATION_CUT_POWER);
        machine_power_cut(&machine, UINT32_MAX);
        machine_boot(&machine, n % 2 == 0);
        mend(&machine);
        scrub(&machine);
        mend(&machine);
        verify(&machine);
        assert_int_equal(copies_of(&machine).least, 2);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
}

/* ---- the scrub
 * ------------------------------------------------------------------------------------- */

static void test_scrub(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(6, 4, 3);
    options.slots = 32;
    options.mender.scrub_rate = FAST;
    machine_with_segments(&machine, &options, 1500);
    uint32_t harmed = 0;
    for (int i = 0; i < 30; i++) {
        struct target target = pick_place(&machine);
        uint32_t offset = pick_frame(&machine, &target);
        target.place = (uint8_t)(i % 2); /* never the third copy */
        target.disk = 0;
        while (
            !identity_equal(&machine.identity[target.disk], &target.row.place[target.place].disk))
            target.disk++;
        harm(&machine, &target, offset, (enum harm)(i % HARMS));
        harmed++;
    }
    scrub(&machine);
    struct mender_state after = mending(&machine);
    assert_true(after.last_scrub.ended_ns > after.last_scrub.started_ns);
    assert_true(after.last_scrub.found > harmed / 2); /* some struck the same frame */
    assert_int_equal(after.last_scrub.found, after.last_scrub.mended);
    assert_int_equal(after.unrepairable, 0);
    assert_true(after.last_scrub.bytes > 1500 * 760 * 2);
    scrub(&machine);
    assert_int_equal(mending(&machine).last_scrub.found, 0);
    verify(&machine);
    machine_shut_down(&machine);
    machine_free(&machine);
}

/* By itself, when the interval is over, at its rate; and after a restart from where it was. */
static void test_scrub_schedule(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(8, 3, 2);
    options.mender.scrub_rate = 1 << 20;
    options.mender.scrub_interval_ns = 3600000000000;
    machine_with_segments(&machine, &options, 900);
    machine_settle(&machine);
    assert_false(mending(&machine).scrubbing);
    assert_int_equal(mending(&machine).scrub_next_ns, 3600000000000);
    simulation_advance(machine.simulation, 3600000000000);
    uint64_t began_ns = simulation_now_ns(machine.simulation);
    machine_settle(&machine);
    assert_true(mending(&machine).scrubbing);
    while (mending(&machine).scrub_position < 6) {
        machine_settle(&machine);
        simulation_advance(machine.simulation, 10000000);
    }
    machine.options.mender.scrub_position = mending(&machine).scrub_position;
    machine.options.mender.scrub_started_ns = mending(&machine).scrub.started_ns;
    machine_power_cut(&machine, UINT32_MAX);
    machine_boot(&machine, false);
    assert_true(mending(&machine).scrubbing);
    assert_true(mending(&machine).scrub_position >= 6);
    assert_int_equal(mending(&machine).scrub.started_ns, machine.options.mender.scrub_started_ns);
    while (mending(&machine).scrubbing) {
        machine_settle(&machine);
        simulation_advance(machine.simulation, 10000000);
    }
    uint64_t took_ns = simulation_now_ns(machine.simulation) - began_ns;
    assert_true(took_ns >
                copies_of(&machine).places * 50000ull * 1000); /* about 50 KB a place, 1 MiB/s */
    assert_int_equal(mending(&machine).scrub_next_ns,
                     machine.options.mender.scrub_started_ns +
                         (int64_t)options.mender.scrub_interval_ns);
    machine_shut_down(&machine);
    machine_free(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_come_back),
        cmocka_unit_test(test_delay_and_rate),
        cmocka_unit_test(test_newest_first_in_a_full_ring),
        cmocka_unit_test(test_healing_while_recording),
        cmocka_unit_test(test_one_slot_wanted_by_two),
        cmocka_unit_test(test_disk_hangs),
        cmocka_unit_test(test_sealing),
        cmocka_unit_test(test_power_cut_at_sealing),
        cmocka_unit_test(test_crash_at_every_event),
        cmocka_unit_test(test_fault_at_every_request),
        cmocka_unit_test(test_repair),
        cmocka_unit_test(test_no_good_copy),
        cmocka_unit_test(test_crash_in_repair),
        cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_scrub_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
