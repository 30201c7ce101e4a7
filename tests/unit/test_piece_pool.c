/*
 * The pool that pieces are cut from: nothing that was taken lies over anything else, an empty one says so, and what is found beforehand ends when it is to.
 */
#include "unit_test.h"

#include <stdint.h>
#include <string.h>

#include "disk_format.h"
#include "piece_pool.h"

static void test_take(void **state)
{
    (void)state;
    struct piece_pool pool;
    piece_pool_open(&pool, 3 * PIECE_POOL_STEP_BYTES - PAGE_BYTES); /* in whole steps */
    assert_int_equal(pool.bytes, 3 * PIECE_POOL_STEP_BYTES);
    for (unsigned round = 0; round < 2; round++) {
        uint8_t *before, *first = piece_pool_take(&pool, PAGE_BYTES), *now;
        uint32_t bytes = PAGE_BYTES, taken = PAGE_BYTES;
        assert_int_equal((uintptr_t)first % PIECE_POOL_STEP_BYTES, 0);
        memset(first, 1, PAGE_BYTES);
        for (before = first; (now = piece_pool_take(&pool, 2 * bytes)); before = now) {
            assert_ptr_equal(now, before + bytes);
            bytes *= 2;
            taken += bytes;
            memset(now, 2, bytes);
        }
        assert_true(taken <= pool.bytes && taken + 2 * bytes > pool.bytes);
        assert_int_equal(first[PAGE_BYTES - 1], 1);
        assert_non_null(piece_pool_take(&pool, (uint32_t)(pool.bytes - taken)));
        assert_null(piece_pool_take(&pool, PAGE_BYTES));
        piece_pool_restart(&pool);
    }
    piece_pool_close(&pool);
    assert_null(piece_pool_take(&pool, PAGE_BYTES));
}

struct patient {
    unsigned asked, most;
};

static bool is_awaited(void *context)
{
    struct patient *patient = context;
    return patient->asked++ == patient->most;
}

static void test_warm(void **state)
{
    (void)state;
    struct piece_pool pool;
    struct patient patient = {.most = 2};
    piece_pool_open(&pool, 4 * PIECE_POOL_STEP_BYTES);
    memset(pool.memory, 7, pool.bytes);
    piece_pool_warm(&pool, UINT64_MAX, is_awaited, &patient); /* not beyond the pool, and no step begun once it is awaited */
    assert_int_equal(patient.asked, 3);
    assert_int_equal(pool.memory[2 * PIECE_POOL_STEP_BYTES - PAGE_BYTES], 0);
    assert_int_equal(pool.memory[2 * PIECE_POOL_STEP_BYTES], 7);
    patient = (struct patient){.most = 100};
    piece_pool_warm(&pool, UINT64_MAX, is_awaited, &patient);
    assert_int_equal(patient.asked, 4);
    assert_int_equal(pool.memory[4 * PIECE_POOL_STEP_BYTES - PAGE_BYTES], 0);
    piece_pool_close(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_take), cmocka_unit_test(test_warm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
