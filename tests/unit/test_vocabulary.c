/* The small words of schema/: identities, accounts, integers as they lie on a disk. */
#include <string.h>

#include "account.h"
#include "bytes.h"
#include "disk_format.h"
#include "errors.h"
#include "identity.h"
#include "unit_test.h"

static void identities_differ_and_print(void **state)
{
    (void)state;
    struct identity a;
    struct identity b;
    char text[IDENTITY_TEXT_SIZE];
    identity_make(&a);
    identity_make(&b);
    assert_false(identity_equal(&a, &b));
    assert_false(identity_is_zero(&a));
    assert_int_equal(strlen(identity_text(&a, text)), 32);
    assert_int_equal(strspn(text, "0123456789abcdef"), 32);
    assert_int_equal(identity_parse(text, &b), 0);
    assert_true(identity_equal(&a, &b));
}

static void identities_are_read_strictly(void **state)
{
    (void)state;
    struct identity id = {{1, 2, 3}};
    struct identity before = id;
    static const char *const bad[] = {
        "",
        "0",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789abcdef0123456789abcdeg",
        " 123456789abcdef0123456789abcdef",
        "0123456789abcdef-0123456789abcdef",
        "0x23456789abcdef0123456789abcdef",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(identity_parse(bad[i], &id), ERR_INVALID);
        assert_true(identity_equal(&id, &before));
    }
    assert_int_equal(identity_parse("00FFabCDef0123456789abcdef012345", &id), 0);
    assert_int_equal(id.byte[0], 0x00);
    assert_int_equal(id.byte[1], 0xff);
    assert_int_equal(id.byte[2], 0xab);
    assert_int_equal(id.byte[15], 0x45);
}

static void the_account_balances(void **state)
{
    (void)state;
    struct account a = {0};
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        a.packets[line] = (uint64_t)1 << line;
        a.bytes[line] = 1000 + (uint64_t)line;
        assert_true(strlen(account_name((enum account_line)line)) > 0);
        assert_true(strlen(account_help((enum account_line)line)) > 10);
    }
    assert_string_equal(account_name(ACCOUNT_dropped_kernel), "dropped_kernel");
    /* every line is in the sum exactly once, but for `seen` */
    assert_int_equal(account_sum(&a), ((uint64_t)1 << ACCOUNT_LINES) - 1 - 1);

    struct account b = {0};
    a.stored_bytes = 5;
    a.cut_packets = 6;
    account_add(&b, &a);
    account_add(&b, &a);
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        assert_int_equal(b.packets[line], 2 * a.packets[line]);
        assert_int_equal(b.bytes[line], 2 * a.bytes[line]);
    }
    assert_int_equal(b.stored_bytes, 10);
    assert_int_equal(b.cut_packets, 12);
}

static void the_account_fits_its_place_on_disk(void **state)
{
    (void)state;
    assert_int_equal(ACCOUNT_LINES, FRAME_ACCOUNT_LINES);
}

static void integers_lie_little_end_first(void **state)
{
    (void)state;
    le16 a = le16_of(0x0102);
    le32 b = le32_of(0x01020304);
    le64 c = le64_of(UINT64_C(0x0102030405060708));
    assert_memory_equal(a.byte, "\2\1", 2);
    assert_memory_equal(b.byte, "\4\3\2\1", 4);
    assert_memory_equal(c.byte, "\10\7\6\5\4\3\2\1", 8);
    assert_int_equal(le16_get(a), 0x0102);
    assert_int_equal(le32_get(b), 0x01020304);
    assert_true(le64_get(c) == UINT64_C(0x0102030405060708));
    assert_true(le64_get(le64_of(UINT64_MAX)) == UINT64_MAX);
}

static void rounding(void **state)
{
    (void)state;
    assert_int_equal(round_up(0, 4096), 0);
    assert_int_equal(round_up(1, 4096), 4096);
    assert_int_equal(round_up(4096, 4096), 4096);
    assert_int_equal(round_down(4097, 4096), 4096);
    assert_int_equal(round_down(4095, 4096), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identities_differ_and_print),
        cmocka_unit_test(identities_are_read_strictly),
        cmocka_unit_test(the_account_balances),
        cmocka_unit_test(the_account_fits_its_place_on_disk),
        cmocka_unit_test(integers_lie_little_end_first),
        cmocka_unit_test(rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
