/* The pressure gauge: when a reader is held back, and how the page travels (P7). */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pressure.h"
#include "unit_test.h"

#define MS 1000000ull
#define START_NS (100 * 1000 * MS)

static struct pressure_view view(uint32_t level, uint64_t turn_ns)
{
    return (struct pressure_view){.level = level, .readers = 1, .turn_ns = turn_ns};
}

static void level_is_a_share_of_the_mark(void **state)
{
    (void)state;
    assert_int_equal(pressure_level(0, 32 << 20), 0);
    assert_int_equal(pressure_level(16 << 20, 32 << 20), PRESSURE_LOW);
    assert_int_equal(pressure_level(32 << 20, 32 << 20), PRESSURE_HIGH);
    assert_int_equal(pressure_level(64 << 20, 32 << 20), 2 * PRESSURE_HIGH);
    assert_int_equal(pressure_level(UINT64_MAX, 0), UINT32_MAX);
}

static void an_idle_disk_holds_nobody_back(void **state)
{
    (void)state;
    struct pressure_pace pace = {0};
    const struct pressure_view idle = view(PRESSURE_HIGH - 1, 1);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(pressure_wait_ns(&pace, &idle, START_NS + i), 0);
}

static void marks_are_apart(void **state)
{
    (void)state;
    struct pressure_pace pace = {0};
    struct pressure_view now = view(0, 1);
    assert_int_equal(pressure_wait_ns(&pace, &now, START_NS), 0);
    now.level = PRESSURE_HIGH;
    assert_true(pressure_wait_ns(&pace, &now, START_NS + MS) > 0);
    /* Below the high mark is not enough, the low one is. */
    now.level = PRESSURE_LOW + 1;
    assert_true(pressure_wait_ns(&pace, &now, START_NS + 2 * MS) > 0);
    now.level = PRESSURE_LOW;
    assert_int_equal(pressure_wait_ns(&pace, &now, START_NS + 3 * MS), 0);
    now.level = PRESSURE_HIGH - 1;
    assert_int_equal(pressure_wait_ns(&pace, &now, START_NS + 4 * MS), 0);
}

/* Pieces that so many readers ask for in the time, each as soon as it may; at once: most that went within one turn of `turn_ns`. */
static uint64_t pieces_of(struct pressure_view now, uint32_t readers, uint64_t time_ns, uint64_t *least)
{
    struct pressure_pace pace[8] = {0};
    uint64_t went[8] = {0}, all = 0, due[8];
    for (uint32_t i = 0; i < readers; i++)
        due[i] = START_NS;
    for (uint64_t at = START_NS; at < START_NS + time_ns; at += MS / 10)
        for (uint32_t i = 0; i < readers; i++) {
            if (due[i] > at)
                continue;
            now.turn = i;
            now.readers = readers;
            uint64_t wait = pressure_wait_ns(&pace[i], &now, at);
            assert_true(wait <= PRESSURE_LOOK_NS);
            due[i] = at + wait;
            went[i] += wait == 0;
            all += wait == 0;
        }
    *least = UINT64_MAX;
    for (uint32_t i = 0; i < readers; i++)
        *least = went[i] < *least ? went[i] : *least;
    return all;
}

/* One piece a turn, whoever's it is: a hundred readers ask for no more than one does. */
static void readers_have_turns(void **state)
{
    (void)state;
    uint64_t least, turn_ns = 64 * PRESSURE_TURN_NS_MIN;
    for (uint32_t readers = 1; readers <= 8; readers++) {
        uint64_t pieces = pieces_of(view(0, turn_ns - 1), readers, 800 * turn_ns, &least);
        assert_in_range(pieces, 790, 801);
        assert_true(least >= 800 / readers - 2);
    }
}

/* The mender has every other turn beside one reader, and never less than every fourth; together they have them all. */
static void the_mender_has_turns(void **state)
{
    (void)state;
    uint64_t turn_ns = 64 * PRESSURE_TURN_NS_MIN;
    for (uint32_t readers = 0; readers <= 8; readers++) {
        uint64_t mends = 0, reads = 0;
        for (uint32_t who = 0; who <= readers; who++) {
            struct pressure_pace pace = {0};
            const struct pressure_view now = {.turn = who, .readers = readers, .mends = true, .is_mender = who == readers, .turn_ns = turn_ns};
            for (uint64_t at = START_NS; at < START_NS + 840 * turn_ns; at += turn_ns / 4)
                if (pressure_wait_ns(&pace, &now, at) == 0)
                    *(now.is_mender ? &mends : &reads) += 1;
        }
        uint32_t share = readers < 3 ? readers + 1 : 4;
        assert_in_range(mends, 840 / share - 1, 840 / share + 1);
        assert_in_range(reads + mends, 839, 841);
    }
}

/* However long the disk is behind, and whatever its answers take. */
static void nobody_is_stopped_for_ever(void **state)
{
    (void)state;
    uint64_t least;
    for (uint64_t turn_ns = 0; turn_ns < UINT64_MAX / 4; turn_ns = turn_ns * 2 + 1) {
        uint64_t pieces = pieces_of(view(UINT32_MAX, turn_ns), 4, 80 * PRESSURE_PIECE_NS, &least);
        assert_in_range(pieces, 12, 80);
        assert_true(least >= 2);
    }
}

/* Ahead of what is wanted at once, all readers together ask for a few pieces only: what is idle now may have to record in a moment. */
static uint64_t fixed_ns(void *context)
{
    (void)context;
    return START_NS;
}

static void reading_ahead_is_bounded(void **state)
{
    (void)state;
    struct failure failure = {0};
    struct pressure_gauge gauge;
    assert_int_equal(pressure_gauge_open(&gauge, &failure), 0);
    struct pressure_reader reader = {.page = gauge.page, .now_ns = fixed_ns, .seat = pressure_seat_take(&gauge)};
    pressure_publish(gauge.page, 3, 0, 1);
    pressure_publish_time(gauge.page, false, START_NS);
    assert_true(pressure_may_read(&reader, 3, PRESSURE_AHEAD - 1, false));
    assert_false(pressure_may_read(&reader, 3, PRESSURE_AHEAD, false));
    assert_true(pressure_may_read(&reader, 3, PRESSURE_AHEAD, true));
    assert_true(pressure_may_read(&reader, 2, PRESSURE_AHEAD, false)); /* nothing is recorded there */
    (void)pressure_seat_take(&gauge);
    assert_true(pressure_may_read(&reader, 3, PRESSURE_AHEAD / 2 - 1, false));
    assert_false(pressure_may_read(&reader, 3, PRESSURE_AHEAD / 2, false));
    assert_int_equal(reader.held_back_ns, 0);
    pressure_gauge_close(&gauge);
}

static void seats_give_turns_to_those_who_read(void **state)
{
    (void)state;
    struct failure failure = {0};
    struct pressure_gauge gauge;
    assert_int_equal(pressure_gauge_open(&gauge, &failure), 0);
    pressure_publish_time(gauge.page, false, START_NS);
    uint32_t seat[3];
    for (uint32_t i = 0; i < 3; i++)
        seat[i] = pressure_seat_take(&gauge);
    for (uint32_t i = 0; i < 3; i++) {
        const struct pressure_view one = pressure_read(gauge.page, seat[i], 0, START_NS);
        assert_int_equal(one.turn, i);
        assert_int_equal(one.readers, 3);
    }
    pressure_seat_reads(&gauge, seat[1], false);
    assert_int_equal(pressure_read(gauge.page, seat[2], 0, START_NS).turn, 1);
    assert_int_equal(pressure_read(gauge.page, seat[2], 0, START_NS).readers, 2);
    assert_false(pressure_read(gauge.page, seat[2], 0, START_NS).mends);
    pressure_publish_time(gauge.page, true, START_NS);
    assert_true(pressure_read(gauge.page, seat[2], 0, START_NS).mends);
    assert_true(pressure_read_turn_of_mender(gauge.page).is_mender);
    assert_int_equal(pressure_read_turn_of_mender(gauge.page).readers, 2);
    pressure_seat_give(&gauge, seat[0]);
    assert_int_equal(pressure_read(gauge.page, seat[2], 0, START_NS).turn, 0);
    assert_int_equal(pressure_seat_take(&gauge), seat[0]);
    for (uint32_t i = 2; i < PRESSURE_SEATS - 1; i++)
        assert_int_not_equal(pressure_seat_take(&gauge), PRESSURE_SEATS);
    assert_int_equal(pressure_seat_take(&gauge), PRESSURE_SEATS); /* nor has anybody more than none */
    pressure_seat_reads(&gauge, PRESSURE_SEATS, false);
    pressure_seat_give(&gauge, PRESSURE_SEATS);
    assert_int_equal(pressure_read(gauge.page, PRESSURE_SEATS, 0, START_NS).turn, 0);
    pressure_gauge_close(&gauge);
}

static void the_page_is_read_only_and_goes_stale(void **state)
{
    (void)state;
    struct failure failure = {0};
    struct pressure_gauge gauge;
    const struct pressure_page *page;
    assert_int_equal(pressure_gauge_open(&gauge, &failure), 0);
    assert_int_equal(pressure_gauge_map(gauge.fd, &page), 0);
    assert_int_equal(pressure_read(page, 0, 3, START_NS).level, 0); /* never written */
    pressure_publish(gauge.page, 3, 777, 55);
    pressure_publish_time(gauge.page, false, START_NS);
    assert_int_equal(pressure_read(page, 0, 3, START_NS).level, 777);
    assert_int_equal(pressure_read(page, 0, 3, START_NS).turn_ns, 55);
    assert_int_equal(pressure_most(page), 777);
    assert_int_equal(pressure_read(page, 0, 2, START_NS).level, 0);
    assert_int_equal(pressure_read(page, 0, 3, START_NS - 1).level, 777);
    assert_int_equal(pressure_read(page, 0, 3, START_NS + PRESSURE_FRESH_NS).level, 777);
    assert_int_equal(pressure_read(page, 0, 3, START_NS + PRESSURE_FRESH_NS + 1).level, 0);
    assert_int_equal(pressure_read(page, 0, 3, START_NS + PRESSURE_FRESH_NS + 1).turn_ns, 0);

    char byte = 1;
    assert_int_equal(ftruncate(gauge.fd, 0), -1);
    assert_int_equal(pwrite(gauge.fd, &byte, 1, 0), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, gauge.fd, 0), MAP_FAILED);
    pressure_gauge_unmap(&page);
    pressure_gauge_close(&gauge);
}

static void what_is_no_gauge_is_refused(void **state)
{
    (void)state;
    const struct pressure_page *page;
    int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(unsealed >= 0);
    assert_int_equal(ftruncate(unsealed, 4096), 0);
    assert_int_equal(pressure_gauge_map(unsealed, &page), ERR_PROTOCOL);
    assert_null(page);
    assert_int_equal(fcntl(unsealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(pressure_gauge_map(unsealed, &page), ERR_PROTOCOL); /* its size is wrong */
    close(unsealed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(level_is_a_share_of_the_mark),
        cmocka_unit_test(an_idle_disk_holds_nobody_back),
        cmocka_unit_test(marks_are_apart),
        cmocka_unit_test(readers_have_turns),
        cmocka_unit_test(the_mender_has_turns),
        cmocka_unit_test(reading_ahead_is_bounded),
        cmocka_unit_test(seats_give_turns_to_those_who_read),
        cmocka_unit_test(nobody_is_stopped_for_ever),
        cmocka_unit_test(the_page_is_read_only_and_goes_stale),
        cmocka_unit_test(what_is_no_gauge_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
