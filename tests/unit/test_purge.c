/*
 * test_purge.c - what is purged is nowhere on the disks, all else is there byte for byte, and a crash at any instant leaves each
 * segment as it was or as it is to be: on simulated disks.
 */
#include "unit_test.h"

#include <stdlib.h>
#include <string.h>

#include "frame.h"
#include "segment_index.h"
#include "store_machine.h"

static struct machine_options small(uint64_t seed, uint32_t disks, uint8_t copies)
{
    struct machine_options options = machine_small(seed, disks, 16, copies);
    options.roomy = true;
    return options;
}

static uint64_t purged_below = UINT64_MAX; /* what was recorded later is not what was to go */

/* Single ones, some in a row, more than a frame and more than a segment; none of them the last. */
static bool is_purged(uint32_t life, uint32_t stream, uint64_t number)
{
    return stream == 0 && number < purged_below && (number % 7 == 3 || (number >= 30 && number < 33) || (number >= 100 && number < 260)) && life == 0;
}

#define RANGES_MAX 1000u

static uint32_t ranges_make(const struct machine *machine, struct purge_range *range, uint64_t *packets)
{
    uint32_t count = 0;
    *packets = 0;
    for (uint64_t number = machine->life[0].taken[0]; number-- > 0;) { /* in no good order */
        if (!is_purged(0, 0, number))
            continue;
        assert_true(count < RANGES_MAX);
        range[count++] = (struct purge_range){.run = machine->life[0].run, .stream = 0, .first = number, .count = 1};
        ++*packets;
    }
    return count;
}

struct sought { /* the first, or the last, bytes of a packet */
    uint8_t bytes[16];
    uint64_t number;
    bool is_tail, found;
};

static int sought_compare(const void *left, const void *right)
{
    return memcmp(left, right, sizeof((struct sought *)0)->bytes);
}

/* Marks what lies somewhere in the media. */
static void look_for(struct sought *sought, size_t count, const uint8_t *media, uint64_t media_bytes)
{
    static bool begins[1 << 16]; /* by the first two bytes */
    memset(begins, 0, sizeof begins);
    qsort(sought, count, sizeof *sought, sought_compare);
    for (size_t i = 0; i < count; i++)
        begins[sought[i].bytes[0] | sought[i].bytes[1] << 8] = true;
    for (uint64_t at = 0; at + 16 <= media_bytes; at++) {
        if (!begins[media[at] | media[at + 1] << 8])
            continue;
        struct sought *one = bsearch(media + at, sought, count, sizeof *sought, sought_compare);
        if (one)
            one->found = true;
    }
}

/* How many packets have a first and a last 16 bytes that lie somewhere on a disk that is there; `purged`: of those that are to be gone, or of the others. */
static uint64_t packets_on_disks(const struct machine *machine, bool purged)
{
    const struct machine_options *options = &machine->options;
    uint64_t media_bytes = META_BYTES * 2 + (uint64_t)options->slots * options->slot_bytes, taken = machine->life[0].taken[0], count = 0, found = 0;
    uint8_t *media = malloc(options->disks * media_bytes), *parts = calloc(taken + 1, 1);
    struct sought *sought = calloc(2 * taken + 1, sizeof *sought);
    static uint8_t bytes[1 << 20];
    for (uint32_t d = 0; d < options->disks; d++) {
        memset(media + d * media_bytes, 0, media_bytes);
        if (!machine->absent[d])
            simulated_media_peek(machine->media[d], 0, media + d * media_bytes, media_bytes);
    }
    for (uint64_t number = 0; number < taken; number++) {
        struct packet packet;
        if (is_purged(0, 0, number) != purged)
            continue;
        machine_packet(machine, 0, 0, number, bytes, &packet);
        for (int tail = 0; tail <= 1; tail++) {
            sought[count].number = number;
            sought[count].is_tail = tail == 1;
            memcpy(sought[count++].bytes, bytes + (tail == 1 ? packet.captured_bytes - 16 : 0), 16);
        }
    }
    if (count > 0)
        look_for(sought, count, media, options->disks * media_bytes);
    for (uint64_t i = 0; i < count; i++)
        parts[sought[i].number] |= sought[i].found ? 1 << sought[i].is_tail : 0;
    for (uint64_t number = 0; number < taken; number++)
        found += purged ? parts[number] != 0 : parts[number] == 3;
    free(sought);
    free(parts);
    free(media);
    return found;
}

static void record(struct machine *machine, const struct machine_options *options, uint32_t packets)
{
    purged_below = UINT64_MAX;
    machine_make(machine, options);
    machine->may_be_purged = is_purged;
    machine_boot(machine, true);
    machine_work(machine, packets);
}

static struct machine_check verify(struct machine *machine)
{
    struct machine_check check;
    machine_verify(machine, &check);
    assert_int_equal(check.bad_frames, 0);
    assert_int_equal(check.holes, 0);
    return check;
}

static void test_nothing_is_left(void **state)
{
    (void)state;
    static const struct {
        uint32_t disks;
        uint8_t copies;
        bool without_index;
    } one[] = {{1, 1, false}, {2, 2, false}, {4, 3, false}, {2, 1, true}};
    for (size_t i = 0; i < COUNT(one); i++) {
        struct machine machine;
        struct machine_options options = small(100 + i, one[i].disks, one[i].copies);
        options.without_index = one[i].without_index;
        record(&machine, &options, 500);
        machine_shut_down(&machine);
        struct purge_range range[RANGES_MAX];
        struct purge_report report;
        uint64_t purged;
        uint32_t ranges = ranges_make(&machine, range, &purged);
        assert_int_equal(packets_on_disks(&machine, true), purged);
        assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
        assert_int_equal(report.packets, purged);
        assert_int_equal(report.pages_lost, 0);
        assert_int_equal(report.segments_dropped, 0);
        assert_true(report.segments > 3);
        assert_int_equal(packets_on_disks(&machine, true), 0);
        assert_int_equal(packets_on_disks(&machine, false), 500 - purged);
        for (int whole = 0; whole <= 1; whole++) { /* the catalog says what the disks say */
            machine_boot(&machine, whole == 1);
            struct machine_check check = verify(&machine);
            assert_int_equal(check.packets, (500 - purged) * options.copies);
            assert_int_equal(check.purged, purged * options.copies);
            struct catalog_summary summary;
            assert_int_equal(catalog_summary(machine.catalog, &machine.ring, &summary), 0);
            assert_int_equal(summary.purged, purged);
            assert_int_equal(summary.packets, 500);
            machine_shut_down(&machine);
        }
        /* Again: there is nothing more to do. */
        assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
        assert_int_equal(report.packets, 0);
        assert_int_equal(report.segments, 0);
        machine_free(&machine);
    }
}

/* A ring that has turned has no slot to spare: the oldest of each disk goes, and slots hold the rests of other laps. */
static void test_full_ring(void **state)
{
    (void)state;
    struct machine machine;
    struct machine_options options = small(7, 2, 2);
    options.roomy = false;
    options.slots = 8;
    record(&machine, &options, 900);
    machine_shut_down(&machine);
    struct purge_report report;
    uint64_t before = packets_on_disks(&machine, false);
    assert_true(before > 0 && before < 900);
    struct purge_range single[RANGES_MAX];
    uint64_t purged;
    uint32_t ranges = ranges_make(&machine, single, &purged);
    assert_int_equal(machine_purge(&machine, single, ranges, 0, &report), 0);
    assert_int_equal(packets_on_disks(&machine, true), 0);
    machine_boot(&machine, false);
    assert_true(verify(&machine).packets > 0);
    machine_shut_down(&machine);
    machine_free(&machine);
}

#define CRASH_PACKETS 100u

/* The power goes, or the process is killed, at the n-th event. Returns whether the purge lasted that long. */
static bool crash_at(uint64_t n, enum simulation_cut kind, uint8_t copies, uint64_t seed)
{
    struct machine machine;
    struct machine_options options = small(seed + n, 2, copies);
    options.slots = 8;
    options.mender.heal_rate = 1u << 30;
    record(&machine, &options, CRASH_PACKETS);
    machine_shut_down(&machine);
    struct purge_range range[RANGES_MAX];
    struct purge_report report;
    uint64_t purged;
    uint32_t ranges = ranges_make(&machine, range, &purged);
    simulation_cut_after(machine.simulation, n, kind);
    int result = machine_purge(&machine, range, ranges, (uint32_t)machine_random(&machine, 10), &report);
    simulation_cut_after(machine.simulation, 0, kind);
    machine_boot(&machine, true); /* which whoever purges sees to */
    struct machine_check check = verify(&machine);
    assert_true(check.packets >= CRASH_PACKETS - purged);
    assert_int_equal(machine.report.packets_missing, 0);
    machine_shut_down(&machine);
    ranges = ranges_make(&machine, range, &purged);
    assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
    if (n % 4 == 0) /* it takes long */
        assert_int_equal(packets_on_disks(&machine, true), 0);
    if (n % 16 == 0) /* verify() has seen them */
        assert_int_equal(packets_on_disks(&machine, false), CRASH_PACKETS - purged);
    machine_boot(&machine, false);
    check = verify(&machine);
    assert_true(check.purged >= purged);
    machine_shut_down(&machine);
    machine_free(&machine);
    return result == ERR_CLOSED;
}

static void test_crash_at_every_event(void **state)
{
    (void)state;
    for (uint8_t copies = 1; copies <= 2; copies++) {
        uint64_t n = 1;
        while (crash_at(n, SIMULATION_CUT_POWER, copies, 1000) || crash_at(n, SIMULATION_CUT_POWER, copies, 5000)) {
            if (n % 4 == 0)
                (void)crash_at(n, SIMULATION_CUT_PROCESS, copies, 9000);
            n++;
        }
        assert_true(n > 50);
    }
}

/* A frame that one copy has lost is taken from another; one that none has is left out, and its bytes are cleared. */
static void test_damage(void **state)
{
    (void)state;
    for (uint32_t harmed = 1; harmed <= 2; harmed++) {
        struct machine machine;
        struct machine_options options = small(300, 2, 2);
        record(&machine, &options, 300);
        machine_shut_down(&machine);
        uint8_t page[64];
        for (uint32_t d = 0; d < harmed; d++)
            for (uint32_t slot = 0; slot < options.slots; slot++) {
                uint64_t at = META_BYTES + (uint64_t)slot * options.slot_bytes + PAGE_BYTES + 2000;
                simulated_media_peek(machine.media[d], at, page, sizeof page);
                page[harmed] ^= 0x40;
                simulated_media_poke(machine.media[d], at, page, sizeof page);
            }
        struct purge_range range[RANGES_MAX];
        struct purge_report report;
        uint64_t purged;
        uint32_t ranges = ranges_make(&machine, range, &purged);
        assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
            assert_int_equal(packets_on_disks(&machine, true), 0);
        assert_int_equal(report.pages_lost > 0, harmed == 2);
        if (harmed == 1)
            assert_int_equal(packets_on_disks(&machine, false), 300 - purged);
        machine_free(&machine);
    }
}

/* ---- while it records ------------------------------------------------------------------------------ */

static struct machine_options busy(uint64_t seed, uint32_t disks, uint8_t copies)
{
    struct machine_options options = small(seed, disks, copies);
    options.slots = 40;
    return options;
}

/* All that was taken so far can be found, and what is to go is all of that. */
static void all_durable(struct machine *machine)
{
    while (stream_frontier(machine->stream[0]) < machine->life[0].taken[0]) {
        (void)stream_request_flush(machine->stream[0]);
        stream_tick(machine->stream[0]);
        if (!machine_step(machine))
            simulation_advance(machine->simulation, machine->options.flush_window_ns);
    }
    purged_below = machine->life[0].taken[0];
}

static void test_beside_recording(void **state)
{
    (void)state;
    static const struct {
        uint32_t disks;
        uint8_t copies;
        bool without_index;
    } one[] = {{1, 1, false}, {2, 2, false}, {4, 3, false}, {2, 1, true}};
    for (size_t i = 0; i < COUNT(one); i++) {
        struct machine machine;
        struct machine_options options = busy(400 + i, one[i].disks, one[i].copies);
        options.without_index = one[i].without_index;
        options.mender = (struct mender_options){.heal_rate = 1u << 30, .scrub_rate = 1u << 30, .scrub_interval_ns = 1000000000};
        record(&machine, &options, 500);
        all_durable(&machine);
        struct purge_range range[RANGES_MAX];
        struct purge_report report;
        struct failure failure = {0};
        uint64_t purged;
        uint32_t ranges = ranges_make(&machine, range, &purged);
        assert_int_equal(packets_on_disks(&machine, true), purged);
        assert_int_equal(machine_purge_live(&machine, range, ranges, 300, 0, &report, &failure), 0);
        assert_int_equal(machine.life[0].taken[0], 800);
        assert_int_equal(report.packets, purged);
        assert_int_equal(report.pages_lost + report.segments_dropped + report.segments_gone, 0);
        assert_true(report.slots_in_use >= one[i].copies); /* of what is being filled */
        assert_int_equal(packets_on_disks(&machine, true), 0);
        /* It records on, and a second purge finds nothing to do. */
        machine_work(&machine, 50);
        all_durable(&machine);
        purged_below = 500;
        assert_int_equal(machine_purge_live(&machine, range, ranges, 0, 0, &report, &failure), 0);
        assert_int_equal(report.packets + report.segments, 0);
        machine_shut_down(&machine);
        assert_int_equal(packets_on_disks(&machine, true), 0);
        assert_int_equal(packets_on_disks(&machine, false), 850 - purged);
        for (int whole = 0; whole <= 1; whole++) {
            machine_boot(&machine, whole == 1);
            struct machine_check check = verify(&machine);
            assert_int_equal(check.packets, (850 - purged) * options.copies);
            assert_int_equal(check.purged, purged * options.copies);
            struct catalog_summary summary;
            assert_int_equal(catalog_summary(machine.catalog, &machine.ring, &summary), 0);
            assert_int_equal(summary.purged, purged);
            machine_shut_down(&machine);
        }
        machine_free(&machine);
    }
}

/* The ring turns meanwhile: what expires before its turn is gone, and no slot is used twice. */
static void test_beside_recording_in_a_full_ring(void **state)
{
    (void)state;
    for (uint64_t seed = 500; seed < 520; seed++) {
        struct machine machine;
        struct machine_options options = small(seed, 2, 2);
        options.roomy = false;
        options.slots = 12;
        record(&machine, &options, 900);
        all_durable(&machine);
        struct purge_range range[RANGES_MAX];
        struct purge_report report;
        struct failure failure = {0};
        uint64_t purged;
        uint32_t ranges = ranges_make(&machine, range, &purged);
        assert_int_equal(machine_purge_live(&machine, range, ranges, 600, 0, &report, &failure), 0);
        machine_shut_down(&machine);
        machine_boot(&machine, true);
        struct machine_check check = verify(&machine);
        assert_true(check.packets > 0);
        machine_shut_down(&machine);
        assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
        assert_int_equal(report.packets, 0); /* none was left in a segment */
        assert_int_equal(packets_on_disks(&machine, true), 0);
        machine_free(&machine);
    }
}

static bool live_crash_at(uint64_t n, enum simulation_cut kind, uint8_t copies, uint64_t seed)
{
    struct machine machine;
    struct machine_options options = busy(seed + n, 2, copies);
    options.slots = 16;
    options.mender.heal_rate = 1u << 30;
    record(&machine, &options, CRASH_PACKETS);
    all_durable(&machine);
    struct purge_range range[RANGES_MAX];
    struct purge_report report;
    struct failure failure = {0};
    uint64_t purged;
    uint32_t ranges = ranges_make(&machine, range, &purged);
    simulation_cut_after(machine.simulation, n, kind);
    int result = machine_purge_live(&machine, range, ranges, 40, (uint32_t)machine_random(&machine, 10), &report, &failure);
    bool cut = simulation_cut_happened(machine.simulation);
    simulation_cut_after(machine.simulation, 0, kind);
    if (!cut) {
        assert_int_equal(result, 0);
        machine_shut_down(&machine);
    }
    machine_boot(&machine, true);
    struct machine_check check;
    machine_verify(&machine, &check); /* what was in flight at the cut may be missing, and that is a hole */
    assert_int_equal(check.bad_frames, 0);
    assert_true(check.packets >= CRASH_PACKETS - purged);
    assert_int_equal(machine.report.packets_missing, 0);
    machine_shut_down(&machine);
    ranges = ranges_make(&machine, range, &purged);
    assert_int_equal(machine_purge(&machine, range, ranges, 0, &report), 0);
    if (n % 8 == 0)
        assert_int_equal(packets_on_disks(&machine, true), 0);
    machine_boot(&machine, false);
    machine_verify(&machine, &check);
    assert_int_equal(check.bad_frames, 0);
    assert_true(check.purged >= purged);
    machine_shut_down(&machine);
    machine_free(&machine);
    return cut;
}

static void test_crash_at_every_event_beside_recording(void **state)
{
    (void)state;
    for (uint8_t copies = 1; copies <= 2; copies++) {
        uint64_t n = 1;
        while (live_crash_at(n, SIMULATION_CUT_POWER, copies, 20000)) {
            (void)live_crash_at(n, SIMULATION_CUT_PROCESS, copies, 30000);
            n++;
        }
        assert_true(n > 100);
    }
}

/* A write or a flush that fails, at each of them: what was said to be gone is, what was not to go is there, and purging again goes on. */
static void test_faults_beside_recording(void **state)
{
    (void)state;
    for (uint32_t after = 0; after < 80; after++)
        for (uint32_t op = DISK_READ; op <= DISK_FLUSH; op++) {
            struct machine machine;
            struct machine_options options = busy(700 + after, 3, 2);
            options.mender.heal_rate = 1u << 30;
            options.slots = 20;
            record(&machine, &options, 150);
            all_durable(&machine);
            struct purge_range range[RANGES_MAX];
            struct purge_report report;
            struct failure failure = {0};
            uint64_t purged;
            uint32_t ranges = ranges_make(&machine, range, &purged);
            simulated_media_fault(machine.media[after % 3], FAULT_EIO, (enum disk_op)op, after, 0);
            int result = machine_purge_live(&machine, range, ranges, 60, 0, &report, &failure);
            if (result == 0)
                assert_int_equal(report.packets, purged);
            machine_run_until(&machine, simulation_now_ns(machine.simulation) + 3000000000ull);
            ranges = ranges_make(&machine, range, &purged);
            for (uint32_t tries = 0; result != 0 && tries < 5; tries++)
                result = machine_purge_live(&machine, range, ranges, 0, 0, &report, &failure);
            assert_int_equal(result, 0);
            if (after % 2 == 0 || op == DISK_WRITE) /* it takes long */
                assert_int_equal(packets_on_disks(&machine, true), 0);
            machine_shut_down(&machine);
            machine_boot(&machine, true);
            struct machine_check check = verify(&machine);
            assert_true(check.packets >= 210 - purged && check.purged >= purged);
            machine_shut_down(&machine);
            machine_free(&machine);
        }
}

/* A write that hangs: the purge gives its disk up, recording goes on, and when it has been answered the slots are slots as before. */
static void test_a_disk_that_hangs(void **state)
{
    (void)state;
    uint32_t given_up = 0;
    for (uint32_t after = 0; after < 40; after++) {
        struct machine machine;
        struct machine_options options = busy(900 + after, 2, 2);
        options.mender.heal_rate = 1u << 30;
        record(&machine, &options, 150);
        all_durable(&machine);
        struct purge_range range[RANGES_MAX];
        struct purge_report report;
        struct failure failure = {0};
        uint64_t purged;
        uint32_t ranges = ranges_make(&machine, range, &purged);
        simulated_media_fault(machine.media[1], FAULT_HUNG, DISK_WRITE, after, 0);
        int result = machine_purge_live(&machine, range, ranges, 100, 0, &report, &failure);
        if (result != 0) { /* else it was one of the recording's, or none */
            assert_true(failure.text[0] != 0);
            given_up++;
            machine_work(&machine, 50);
        }
        simulated_media_heal(machine.media[1]);
        machine_run_until(&machine, simulation_now_ns(machine.simulation) + 100000000000ull);
        ranges = ranges_make(&machine, range, &purged);
        for (uint32_t tries = 0; result != 0 && tries < 5; tries++)
            result = machine_purge_live(&machine, range, ranges, 0, 0, &report, &failure);
        assert_int_equal(result, 0);
        machine_shut_down(&machine);
        if (after % 5 == 0)
            assert_int_equal(packets_on_disks(&machine, true), 0);
        machine_boot(&machine, true);
        (void)verify(&machine);
        struct keeper_state *keeper = malloc(sizeof *keeper);
        keeper_state(machine.keeper, keeper);
        assert_true(keeper->disk[0].free_slots > 20 && keeper->disk[1].free_slots > 20);
        free(keeper);
        machine_shut_down(&machine);
        machine_free(&machine);
    }
    assert_true(given_up > 5);
}

static void test_sort(void **state)
{
    (void)state;
    struct identity a = {{1}}, b = {{2}};
    struct purge_range range[] = {
        {.run = b, .first = 5, .count = 5},  {.run = a, .stream = 1, .first = 0, .count = 2},
        {.run = b, .first = 10, .count = 1}, {.run = b, .first = 6, .count = 2},
        {.run = a, .first = 0, .count = 1},  {.run = a, .first = UINT64_MAX, .count = 9},
        {.run = b, .first = 12, .count = 0}, {.run = b, .first = 12, .count = 3},
    };
    assert_int_equal(purge_sort(range, COUNT(range)), 4);
    assert_true(range[0].first == 0 && range[0].count == 1 && range[0].stream == 0);
    assert_true(range[1].stream == 1 && range[1].count == 2);
    assert_true(range[2].first == 5 && range[2].count == 6);
    assert_true(range[3].first == 12 && range[3].count == 3);
}

/* Seals were shorter before they said what was purged: they are believed, and nothing was. */
static void test_seals_from_before(void **state)
{
    (void)state;
    const uint64_t slot_bytes = 64 * 1024;
    uint8_t *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
    const struct frame_identity identity = {.revision = 1, .data_revision = 1, .position = 1};
    const struct frame_finish finish = {.kind = FRAME_SEAL, .offset = (uint32_t)slot_bytes - PAGE_BYTES, .number = 3};
    const struct {
        uint32_t bytes;
        uint64_t packets, purged, found;
        int result;
    } one[] = {{SEAL_BODY_BYTES_MIN, 7, 5, 0, 0},
               {sizeof(struct seal_body), 7, 5, 5, 0},
               {sizeof(struct seal_body), 7, 8, 0, ERR_CORRUPT},
               {SEAL_BODY_BYTES_MIN - 8, 7, 5, 0, ERR_CORRUPT}};
    for (size_t i = 0; i < COUNT(one); i++) {
        const struct seal_body given = {.packets = le64_of(one[i].packets),
                                        .data_end = le32_of(2 * PAGE_BYTES),
                                        .index_offset = le32_of((uint32_t)slot_bytes - 2 * PAGE_BYTES),
                                        .index_bytes = le32_of(PAGE_BYTES),
                                        .missing = le64_of(3),
                                        .purged = le64_of(one[i].purged)};
        struct seal_body read;
        struct frame_info info;
        assert_int_equal(frame_build_plain(page, PAGE_BYTES, &identity, NULL, &finish, &given, one[i].bytes), PAGE_BYTES);
        assert_int_equal(frame_parse(page, PAGE_BYTES, &info), 0);
        assert_int_equal(segment_seal_read(page, &info, slot_bytes, &read), one[i].result);
        if (one[i].result == 0) {
            assert_int_equal(le64_get(read.purged), one[i].found);
            assert_int_equal(le64_get(read.missing), 3);
        }
    }
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sort),
        cmocka_unit_test(test_nothing_is_left),
        cmocka_unit_test(test_seals_from_before),
        cmocka_unit_test(test_full_ring),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_crash_at_every_event),
        cmocka_unit_test(test_beside_recording),
        cmocka_unit_test(test_beside_recording_in_a_full_ring),
        cmocka_unit_test(test_faults_beside_recording),
        cmocka_unit_test(test_a_disk_that_hangs),
        cmocka_unit_test(test_crash_at_every_event_beside_recording),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
