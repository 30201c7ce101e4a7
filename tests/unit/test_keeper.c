/*
 * test_keeper.c - the keeper and its streams when disks fail in the middle of work: on simulated disks, on virtual time.
 *
 * Style: fail the 1st call, the 2nd, ... until the work gets through without meeting the fault.
 */
#include "unit_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reader.h"
#include "ring.h"
#include "store_machine.h"

struct sums {
    uint64_t seen, stored, in_flight, lost;
};

static void sum_up(const struct stream_interface_state *state, void *context)
{
    struct sums *sums = context;
    const struct account *account = &state->account;
    assert_int_equal(account->packets[ACCOUNT_seen], account_sum(account)); /* P6 */
    sums->seen += account->packets[ACCOUNT_seen];
    sums->stored += account->packets[ACCOUNT_stored];
    sums->in_flight += account->packets[ACCOUNT_in_flight];
    sums->lost += account->packets[ACCOUNT_lost_disk];
}

/* Boots again and reads everything. */
static void check_all(struct machine *machine)
{
    struct machine_check check;
    machine_boot(machine, false);
    machine_verify(machine, &check);
    assert_int_equal(check.bad_frames, 0);
    machine_shut_down(machine);
    machine_boot(machine, true); /* and from the disks alone (P5) */
    machine_verify(machine, &check);
    assert_int_equal(check.bad_frames, 0);
}

/* How many slots hold a sealed segment; each must have its key index, directly before the seal. */
static uint32_t sealed_with_key_index(struct machine *machine)
{
    const struct machine_options *options = &machine->options;
    uint32_t sealed = 0;
    uint8_t *slot = malloc(options->slot_bytes);
    assert_non_null(slot);
    for (uint32_t i = 0; i < options->disks * options->slots; i++) {
        struct frame_info open, seal, info;
        uint32_t flows_end = 0;
        simulated_media_peek(machine->media[i / options->slots],
                             META_BYTES + (uint64_t)(i % options->slots) * options->slot_bytes, slot, options->slot_bytes);
        uint32_t end = options->slot_bytes - PAGE_BYTES;
        if (frame_parse(slot, PAGE_BYTES, &open) != 0 || frame_parse(slot + end, PAGE_BYTES, &seal) != 0 ||
            seal.kind != FRAME_SEAL || !identity_equal(&open.segment, &seal.segment))
            continue;
        for (uint32_t at = PAGE_BYTES; at < end; at += PAGE_BYTES)
            if (frame_parse(slot + at, end - at, &info) == 0 && info.kind == FRAME_FLOWS &&
                identity_equal(&info.segment, &seal.segment) && info.revision == seal.revision &&
                frame_check(slot + at, &info) == 0 && memcmp(slot + at + info.header_bytes, "tlflows\n", 8) == 0)
                flows_end = at + info.frame_bytes;
        assert_int_equal(flows_end, end);
        sealed++;
    }
    free(slot);
    return sealed;
}

/* What a stream seals has a key index, and what a start seals after a crash has one, too. */
static void test_key_index_is_written(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = machine_small(5, 2, 12, 2);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    machine_work(&machine, 300);
    machine_shut_down(&machine);
    uint32_t sealed = sealed_with_key_index(&machine);
    assert_true(sealed >= 6);
    machine_boot(&machine, false);
    machine_work(&machine, 60);
    machine_power_cut(&machine, UINT32_MAX);
    machine_boot(&machine, false);
    assert_true(machine.report.segments_sealed > 0);
    assert_true(sealed_with_key_index(&machine) > 0);
    machine_shut_down(&machine);
    machine_free(&machine);
}

static void test_clean_life(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = machine_small(1, 1, 12, 1);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    machine_work(&machine, 500);
    struct sums sums = {0};
    stream_interfaces(machine.stream[0], sum_up, &sums);
    machine_shut_down(&machine);
    assert_int_equal(machine.life[0].durable[0], 500);
    check_all(&machine);
    assert_int_equal(machine.report.packets_missing, 0);
    machine_free(&machine);
}

/* One fault of a kind, at each write (or flush, or read) in turn. Nothing may be lost while a disk is left that works. */
static void one_fault_everywhere(enum fault_kind kind, enum disk_op op, uint32_t disks, uint8_t copies)
{
    uint32_t struck = 0;
    for (uint32_t after = 0;; after++) {
        struct machine machine;
        struct machine_options options = machine_small(after + 1, disks, 12, copies);
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        simulated_media_fault(machine.media[0], kind, op, after, 0);
        machine_work(&machine, 250);
        machine_shut_down(&machine); /* fails the test where something is not durable */
        bool met = simulated_media_struck(machine.media[0], kind) > 0;
        struck += met;
        check_all(&machine);
        machine_free(&machine);
        if (!met)
            break;
    }
    assert_true(struck > 3);
}

static void test_failed_write(void **state)
{
    (void)state;
    one_fault_everywhere(FAULT_EIO, DISK_WRITE, 1, 1);
    one_fault_everywhere(FAULT_EIO, DISK_WRITE, 2, 1);
    one_fault_everywhere(FAULT_EIO, DISK_WRITE, 2, 2);
    one_fault_everywhere(FAULT_EIO, DISK_WRITE, 3, 2);
}

static void test_failed_write_that_landed(void **state)
{
    (void)state;
    one_fault_everywhere(FAULT_EIO_LANDED, DISK_WRITE, 1, 1);
    one_fault_everywhere(FAULT_EIO_LANDED, DISK_WRITE, 2, 2);
}

static void test_failed_flush(void **state)
{
    (void)state;
    one_fault_everywhere(FAULT_EIO, DISK_FLUSH, 1, 1);
    one_fault_everywhere(FAULT_EIO, DISK_FLUSH, 2, 2);
}

static void test_failed_read(void **state)
{
    (void)state;
    for (uint32_t after = 0; after < 8; after++) {
        struct machine machine;
        struct machine_options options = machine_small(after + 1, 1, 12, 1);
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        simulated_media_fault(machine.media[0], FAULT_EIO, DISK_READ, after, 0);
        machine_work(&machine, 2000); /* more than a lap: headers are read before slots are reused */
        machine_shut_down(&machine);
        check_all(&machine);
        machine_free(&machine);
    }
}

/* Two disks, one copy: the one that is left takes what the other has lost from the buffers. */
static void test_one_disk_vanishes(void **state)
{
    (void)state;
    for (uint32_t after = 0; after < 40; after += 3) {
        struct machine machine;
        struct machine_options options = machine_small(100 + after, 2, 12, 1);
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        simulated_media_fault(machine.media[0], FAULT_VANISHED, DISK_WRITE, after, 0);
        machine_work(&machine, 400);
        uint64_t taken = machine.life[0].taken[0];
        assert_int_equal(taken, 400);
        for (int result; (result = stream_finish(machine.stream[0])) != 0;) {
            assert_int_equal(result, ERR_AGAIN);
            if (!machine_step(&machine))
                simulation_advance(machine.simulation, options.flush_window_ns);
        }
        struct sums sums = {0};
        stream_interfaces(machine.stream[0], sum_up, &sums);
        assert_int_equal(sums.lost, 0);
        assert_int_equal(sums.stored, 400);
        machine_free(&machine);
    }
}

/* No disk is left: the stream says so, nothing hangs, and every packet is accounted for. */
static void test_last_disk_vanishes(void **state)
{
    (void)state;
    for (uint32_t after = 0; after < 40; after++) {
        struct machine machine;
        struct machine_options options = machine_small(200 + after, 1, 12, 1);
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        simulated_media_fault(machine.media[0], FAULT_VANISHED, 0, after, 0);
        uint32_t refused = 0;
        for (uint32_t i = 0; i < 3000 && refused == 0; i++) {
            int result = machine_append(&machine, 0);
            if (result == ERR_IO)
                refused++;
            if (result == ERR_AGAIN && !machine_step(&machine))
                simulation_advance(machine.simulation, options.flush_window_ns);
            if (i % 50 == 0)
                stream_tick(machine.stream[0]);
            (void)machine_step(&machine);
        }
        int result;
        while ((result = stream_finish(machine.stream[0])) == ERR_AGAIN)
            if (!machine_step(&machine))
                simulation_advance(machine.simulation, options.flush_window_ns);
        struct sums sums = {0};
        stream_interfaces(machine.stream[0], sum_up, &sums);
        assert_int_equal(sums.in_flight, 0);
        assert_int_equal(sums.seen, sums.stored + sums.lost);
        assert_int_equal(result, sums.lost > 0 ? ERR_IO : 0);
        assert_true(refused > 0 || machine.life[0].taken[0] == 0 || sums.lost == 0);
        machine_free(&machine);
    }
}

/*
 * A write that hangs: the disk becomes suspect, its frames go elsewhere (copied: the hung write still reads the old buffer),
 * everything becomes durable without it, and when it answers after all it is a disk like the others again.
 */
static bool hang(uint32_t disks, uint8_t copies, uint32_t after, enum disk_op op)
{
    struct machine machine;
    struct machine_options options = machine_small(300 + after, disks, 12, copies);
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    simulated_media_fault(machine.media[0], FAULT_HUNG, op, after, 0);
    machine_work(&machine, 600);
    assert_int_equal(machine.life[0].taken[0], 600);
    for (int result, rounds = 0; (result = stream_finish(machine.stream[0])) != 0; rounds++) {
        assert_int_equal(result, ERR_AGAIN);
        assert_true(rounds < 100000);
        if (!machine_step(&machine))
            simulation_advance(machine.simulation, options.flush_window_ns);
    }
    struct sums sums = {0};
    stream_interfaces(machine.stream[0], sum_up, &sums);
    assert_int_equal(sums.stored, 600);
    struct keeper_state state;
    keeper_state(machine.keeper, &state);
    bool struck = simulated_media_struck(machine.media[0], FAULT_HUNG) > 0;
    simulated_media_unhang(machine.media[0]);
    machine_settle(&machine);
    machine_shut_down(&machine);
    check_all(&machine);
    machine_free(&machine);
    return struck;
}

static void test_hung_disk(void **state)
{
    (void)state;
    for (uint32_t after = 3; after < 15; after += 3) {
        assert_true(hang(2, 1, after, DISK_WRITE));
        assert_true(hang(2, 2, after, DISK_WRITE));
        assert_true(hang(4, 2, after, DISK_WRITE));
    }
    for (uint32_t after = 1; after < 4; after++) {
        assert_true(hang(2, 1, after, DISK_FLUSH));
        assert_true(hang(3, 2, after, DISK_FLUSH));
    }
    assert_true(hang(2, 2, 3, DISK_READ));
}

/* What the catalog says is never reason enough to overwrite: it is lost at each crash here. */
static void test_stale_catalog(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct machine machine;
        struct machine_options options = machine_small(seed, 1, 12, 1);
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        for (int life = 0; life < 5; life++) {
            struct machine_check check;
            machine_work(&machine, 30 + (uint32_t)machine_random(&machine, 900));
            machine_power_cut(&machine, (uint32_t)machine_random(&machine, 3));
            machine_boot(&machine, false);
            machine_verify(&machine, &check);
            assert_int_equal(check.bad_frames, 0);
        }
        machine_free(&machine);
    }
}

struct beliefs {
    struct slot_belief slot[24];
    uint32_t known;
};

/* What the keeper believes of the machine's only disk, of slots that are not in use. */
static struct beliefs beliefs_of(struct machine *machine)
{
    struct beliefs beliefs = {0};
    assert_true(machine->options.slots <= COUNT(beliefs.slot));
    for (uint32_t slot = 0; slot < machine->options.slots; slot++) {
        const struct segment *open;
        const struct slot_belief *belief = keeper_belief(machine->keeper, &machine->identity[0], slot, &open);
        assert_non_null(belief);
        if (!open)
            beliefs.slot[slot] = *belief;
        beliefs.known += beliefs.slot[slot].position != 0;
    }
    return beliefs;
}

/*
 * A stale catalog at reuse: the keeper believes that slots are free which hold segments of a later life. A start finds nearly all of what a catalog does
 * not know; this is what stands behind it. Each slot's header is read before it is reused, so not one of those segments goes before older ones.
 */
static void test_stale_catalog_at_reuse(void **state)
{
    (void)state;
    uint64_t stale = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct machine machine;
        struct machine_options options = machine_small(500 + seed, 1, 12, 1);
        options.slots = 24;
        options.roomy = true; /* nothing durable may be gone */
        machine_make(&machine, &options);
        machine_boot(&machine, true);
        machine_work(&machine, 240);
        machine_shut_down(&machine);
        machine.options.streams = 0;
        machine_boot(&machine, false);
        struct beliefs beliefs = beliefs_of(&machine); /* of now */
        assert_true(beliefs.known >= 3);
        machine_shut_down(&machine);
        machine.options.streams = 1;
        machine_boot(&machine, false);
        machine_work(&machine, 300);
        machine_shut_down(&machine);
        machine.options.streams = 0;
        machine_boot(&machine, false);
        assert_true(beliefs_of(&machine).known >= beliefs.known + 3);
        keeper_set_beliefs(machine.keeper, 0, beliefs.slot);
        static const struct interface_description interface = {.link_type = 1, .name = "sim0"};
        struct stream_options stream = {0};
        assert_int_equal(stream_open(machine.keeper, 0, &stream, &machine.stream[0]), 0);
        assert_int_equal(stream_add_interface(machine.stream[0], &interface), 0);
        machine.options.streams = 1;
        machine_work(&machine, 240);
        struct keeper_state keeper;
        keeper_state(machine.keeper, &keeper);
        stale += keeper.stale_beliefs;
        machine_shut_down(&machine);
        check_all(&machine);
        machine_free(&machine);
    }
    assert_true(stale >= 20 * 3);
}

/*
 * Two recorders that wrote disks of one ring apart from each other have given the same positions. When a segment expires, the other one that has its position
 * does not; it once did, unnoticed by the catalog.
 */
static void test_a_position_that_two_segments_have(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = machine_small(900, 2, 12, 1);
    options.streams = 0;
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    for (uint32_t disk = 0; disk < 2; disk++) {
        struct slot_belief belief[12];
        for (uint32_t slot = 0; slot < options.slots; slot++) {
            belief[slot] = (struct slot_belief){.position = 1 + slot, .revision = 1};
            identity_make(&belief[slot].segment);
        }
        keeper_set_beliefs(machine.keeper, disk, belief);
    }
    struct stream_options stream = {0};
    assert_int_equal(stream_open(machine.keeper, 0, &stream, &machine.stream[0]), 0);
    machine.options.streams = 1;
    machine_settle(&machine); /* one segment is prepared */
    uint32_t left = 0;
    for (uint32_t disk = 0; disk < 2; disk++) {
        const struct segment *open;
        const struct slot_belief *belief = keeper_belief(machine.keeper, &machine.identity[disk], 0, &open);
        left += !open && belief->position == 1;
    }
    assert_int_equal(left, 1);
    machine_shut_down(&machine);
    machine_free(&machine);
}

/* ---- read by a reader, not by the machine's own code ---------------------------------------------- */

struct reading {
    struct machine *machine;
    struct reader *reader;
    uint64_t overlap; /* packets that more than one segment has */
    uint64_t packets;
};

static int read_row(const struct segment_row *row, void *context)
{
    struct reading *reading = context;
    struct worker_segment segment = ring_row_segment(row);
    for (uint8_t i = 0; i < row->places; i++)
        for (uint32_t disk = 0; disk < reading->machine->options.disks; disk++)
            if (identity_equal(&reading->machine->identity[disk], &row->place[i].disk)) {
                segment.place[segment.places].disk = disk;
                segment.place[segment.places++].slot = row->place[i].slot;
            }
    reading->packets += row->packets;
    return row->packets > 0 ? reader_add(reading->reader, &segment, 1) : 0;
}

static int nothing_is_bad(void *context, const struct worker_bad *bad)
{
    (void)context;
    fail_msg("offset %u is bad: %u", bad->offset, bad->reason);
    return WORKER_DAMAGED;
}

static void nothing_is_missing(void *context, const struct worker_gap *gap)
{
    (void)context;
    fail_msg("%llu packets are missing: %u", (unsigned long long)gap->packets, gap->reason);
}

/* The machine is up, and nothing is under way. Life 0's packets, each once, in their order. Returns how many the segments have more than once. */
static uint64_t read_once_each(struct machine *machine)
{
    struct reading reading = {.machine = machine};
    struct reader_options options = {
        .disk = machine->disk,
        .disks = machine->options.disks,
        .ring = machine->ring,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .memory_max = 16u << 20,
        .judge = nothing_is_bad,
        .gap = nothing_is_missing,
        .context = &reading,
    };
    assert_int_equal(reader_open(&options, &reading.reader), 0);
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    assert_int_equal(catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, read_row, &reading), 0);
    struct reader_packet found;
    uint64_t number = 0;
    while (reader_next(reading.reader, &found) == 1) {
        static uint8_t bytes[4096];
        struct packet packet;
        machine_packet(machine, 0, 0, number++, bytes, &packet);
        assert_int_equal(found.packet->captured_bytes, packet.captured_bytes);
        assert_int_equal(found.packet->time_ns, packet.time_ns);
        assert_memory_equal(found.packet->bytes, bytes, packet.captured_bytes);
    }
    reader_finish(reading.reader, true);
    reader_close(&reading.reader);
    assert_int_equal(number, machine->life[0].taken[0]);
    return reading.packets - number;
}

/*
 * A write fails in mid-segment, and its bytes have landed all the same: its frame is rescued to another segment, and lies in the old one, too, where a start after a
 * crash finds it. Whoever reads gets each packet once.
 */
static void test_failed_write_in_mid_segment_that_landed(void **state)
{
    (void)state;
    uint64_t twice = 0;
    for (uint32_t disks = 1; disks <= 2; disks++)
        for (uint32_t after = 0;; after++) {
            struct machine machine;
            struct machine_options options = machine_small(700 + after, disks, 12, 1);
            options.slots = 24;
            options.roomy = true;
            machine_make(&machine, &options);
            machine_boot(&machine, true);
            simulated_media_fault(machine.media[0], FAULT_EIO_LANDED, DISK_WRITE, after, 0);
            machine_work(&machine, 150);
            for (int result; (result = stream_finish(machine.stream[0])) != 0;) {
                assert_int_equal(result, ERR_AGAIN);
                if (!machine_step(&machine))
                    simulation_advance(machine.simulation, options.flush_window_ns);
            }
            bool met = simulated_media_struck(machine.media[0], FAULT_EIO_LANDED) > 0;
            machine_kill(&machine, UINT32_MAX);
            machine.options.streams = 0;
            machine_boot(&machine, true);
            twice += read_once_each(&machine);
            machine_shut_down(&machine);
            machine_free(&machine);
            if (!met)
                break;
        }
    assert_true(twice > 0); /* or it did not happen */
}

/* A frame that is larger than usual, and one that no slot can hold. */
static void test_sizes(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = machine_small(7, 1, 12, 1);
    options.slot_bytes = 1024 * 1024;
    options.packet_bytes_max = 900000;
    options.slots = 20;
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    machine_work(&machine, 12);
    static uint8_t big[1100000];
    struct packet packet = {.bytes = big, .captured_bytes = sizeof big, .original_bytes = sizeof big};
    int result;
    while ((result = stream_append(machine.stream[0], 0, &packet, packet.captured_bytes, 0, 0)) == ERR_AGAIN)
        if (!machine_step(&machine))
            simulation_advance(machine.simulation, options.flush_window_ns);
    assert_int_equal(result, ERR_TOO_LARGE);
    machine_work(&machine, 5);
    machine_shut_down(&machine);
    check_all(&machine);
    machine_free(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_index_is_written),
        cmocka_unit_test(test_clean_life),
        cmocka_unit_test(test_failed_write),
        cmocka_unit_test(test_failed_write_that_landed),
        cmocka_unit_test(test_failed_flush),
        cmocka_unit_test(test_failed_read),
        cmocka_unit_test(test_one_disk_vanishes),
        cmocka_unit_test(test_last_disk_vanishes),
        cmocka_unit_test(test_hung_disk),
        cmocka_unit_test(test_stale_catalog),
        cmocka_unit_test(test_stale_catalog_at_reuse),
        cmocka_unit_test(test_a_position_that_two_segments_have),
        cmocka_unit_test(test_failed_write_in_mid_segment_that_landed),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
