/* The pressure gauge: when a reader is held back, and how the page travels (P7). */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pressure.h"
#include "unit_test.h"

#define MS 1000000ull
#define START_NS (100 * 1000 * MS)

static void level_is_a_share_of_the_buffers(void **state)
{
    (void)state;
    assert_int_equal(pressure_level(0, 256 << 20), 0);
    assert_int_equal(pressure_level(16 << 20, 256 << 20), PRESSURE_LOW);
    assert_int_equal(pressure_level(32 << 20, 256 << 20), PRESSURE_HIGH);
    assert_int_equal(pressure_level(64 << 20, 256 << 20), 2 * PRESSURE_HIGH);
    assert_int_equal(pressure_level(UINT64_MAX, 1), UINT32_MAX);
}

static void an_idle_disk_holds_nobody_back(void **state)
{
    (void)state;
    struct pressure_pace pace = {0};
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(pressure_wait_ns(&pace, PRESSURE_HIGH - 1, START_NS + i), 0);
}

static void marks_are_apart(void **state)
{
    (void)state;
    struct pressure_pace pace = {0};
    assert_int_equal(pressure_wait_ns(&pace, 0, START_NS), 0);
    assert_int_equal(pressure_wait_ns(&pace, PRESSURE_HIGH, START_NS + MS), PRESSURE_LOOK_NS);
    /* Below the high mark is not enough, the low one is. */
    assert_int_equal(pressure_wait_ns(&pace, PRESSURE_LOW + 1, START_NS + 2 * MS), PRESSURE_LOOK_NS);
    assert_int_equal(pressure_wait_ns(&pace, PRESSURE_LOW, START_NS + 3 * MS), 0);
    assert_int_equal(pressure_wait_ns(&pace, PRESSURE_HIGH - 1, START_NS + 4 * MS), 0);
}

/* A reader that sleeps as it is told gets one piece in PRESSURE_PIECE_NS, however long the disk is behind. */
static void nobody_is_stopped_for_ever(void **state)
{
    (void)state;
    struct pressure_pace pace = {0};
    uint64_t pieces = 0;
    for (uint64_t now = START_NS; now < START_NS + 20 * PRESSURE_PIECE_NS;) {
        uint64_t wait = pressure_wait_ns(&pace, UINT32_MAX, now);
        assert_true(wait <= PRESSURE_LOOK_NS);
        pieces += wait == 0;
        now += wait ? wait : 1;
    }
    assert_int_equal(pieces, 20);
}

static void the_page_is_read_only_and_goes_stale(void **state)
{
    (void)state;
    struct failure failure = {0};
    struct pressure_gauge gauge;
    const struct pressure_page *page;
    assert_int_equal(pressure_gauge_open(&gauge, &failure), 0);
    assert_int_equal(pressure_gauge_map(gauge.fd, &page), 0);
    assert_int_equal(pressure_read(page, 3, START_NS), 0); /* never written */
    pressure_publish(gauge.page, 3, 777);
    pressure_publish_time(gauge.page, START_NS);
    assert_int_equal(pressure_read(page, 3, START_NS), 777);
    assert_int_equal(pressure_read(page, 2, START_NS), 0);
    assert_int_equal(pressure_read(page, 3, START_NS - 1), 777);
    assert_int_equal(pressure_read(page, 3, START_NS + PRESSURE_FRESH_NS), 777);
    assert_int_equal(pressure_read(page, 3, START_NS + PRESSURE_FRESH_NS + 1), 0);

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
        cmocka_unit_test(level_is_a_share_of_the_buffers),
        cmocka_unit_test(an_idle_disk_holds_nobody_back),
        cmocka_unit_test(marks_are_apart),
        cmocka_unit_test(nobody_is_stopped_for_ever),
        cmocka_unit_test(the_page_is_read_only_and_goes_stale),
        cmocka_unit_test(what_is_no_gauge_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
