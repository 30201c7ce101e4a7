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

/* Single ones, some in a row, more than a frame and more than a segment; none of them the last. */
static bool is_purged(uint32_t life, uint32_t stream, uint64_t number)
{
    return stream == 0 && (number % 7 == 3 || (number >= 30 && number < 33) || (number >= 100 && number < 260)) && life == 0;
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

/* How many packets have a first and a last 16 bytes that lie somewhere on a disk that is there; `purged`: of those that are to be gone, or of the others. */
static uint64_t packets_on_disks(const struct machine *machine, bool purged)
{
    const struct machine_options *options = &machine->options;
    uint64_t media_bytes = META_BYTES * 2 + (uint64_t)options->slots * options->slot_bytes, found = 0;
    uint8_t *media = malloc(options->disks * media_bytes);
    static uint8_t bytes[1 << 20];
    for (uint32_t d = 0; d < options->disks; d++) {
        memset(media + d * media_bytes, 0, media_bytes);
        if (!machine->absent[d])
            simulated_media_peek(machine->media[d], 0, media + d * media_bytes, media_bytes);
    }
    for (uint64_t number = 0; number < machine->life[0].taken[0]; number++) {
        struct packet packet;
        if (is_purged(0, 0, number) != purged)
            continue;
        machine_packet(machine, 0, 0, number, bytes, &packet);
        bool head = memmem(media, options->disks * media_bytes, bytes, 16);
        bool tail = memmem(media, options->disks * media_bytes, bytes + packet.captured_bytes - 16, 16);
        found += purged ? head || tail : head && tail;
    }
    free(media);
    return found;
}

static void record(struct machine *machine, const struct machine_options *options, uint32_t packets)
{
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
