/*
 * test_duplicate.c - which packets count as the same, and for how long.
 */
#include <stdlib.h>
#include <string.h>

#include "unit_test.h"

#include "duplicate.h"
#include "packet_maker.h"

static bool seen(struct duplicate_table *table, const char *text, int64_t time_ns, int change_at)
{
    static struct made_packet made;
    struct decoded_packet decoded;
    char error[200];
    if (packet_make(text, &made, error) < 0)
        fail_msg("%s", error);
    if (change_at >= 0)
        made.bytes[change_at] ^= 0x10;
    made.packet.time_ns = time_ns;
    decode_packet(made.link_type, made.packet.bytes, made.packet.captured_bytes, &decoded);
    return duplicate_seen(table, &made.packet, duplicate_needs_decoding(table) ? &decoded : NULL);
}

static struct duplicate_table *open_table(struct duplicate_options options)
{
    struct duplicate_table *table;
    assert_int_equal(duplicate_open(&options, &table, NULL), 0);
    return table;
}

#define PLAIN "eth / ip 10.0.0.1 10.0.0.2 / tcp 1 2 / data 900"
#define TAGGED "eth / vlan 5 / ip 10.0.0.1 10.0.0.2 / tcp 1 2 / data 900"
#define TAGGED_TWICE "eth / qinq 7 / vlan 5 / ip 10.0.0.1 10.0.0.2 / tcp 1 2 / data 900"
#define SHORT "eth / vlan 5 / arp"

enum { TTL_AT = 14 + 8, CHECKSUM_AT = 14 + 10, IDENTIFICATION_AT = 14 + 4, PAYLOAD_AT = 54 + 800 };

static void test_window(void **unused)
{
    (void)unused;
    struct duplicate_table *table;
    assert_int_equal(duplicate_open(NULL, &table, NULL), 0);
    assert_false(duplicate_needs_decoding(table));
    assert_false(seen(table, PLAIN, 0, -1));
    assert_true(seen(table, PLAIN, 0, -1));
    assert_true(seen(table, PLAIN, 1000000, -1));
    assert_false(
        seen(table, PLAIN, 1000001, -1));   /* the window begins at the one that was stored */
    assert_true(seen(table, PLAIN, 1, -1)); /* handed out late */
    assert_false(seen(table, PLAIN, INT64_MIN, -1));
    assert_false(seen(table, PLAIN, INT64_MAX, -1));
    duplicate_close(&table);
    assert_null(table);

    table = open_table((struct duplicate_options){.window_ns = 50});
    assert_false(seen(table, PLAIN, 100, -1));
    assert_true(seen(table, PLAIN, 150, -1));
    assert_false(seen(table, PLAIN, 151, -1));
    duplicate_close(&table);
}

static void test_every_byte_counts(void **unused)
{
    (void)unused;
    struct duplicate_table *table = open_table((struct duplicate_options){0});
    struct duplicate_table *lenient =
        open_table((struct duplicate_options){.ignore_hops = true, .ignore_tags = true});
    assert_false(seen(table, PLAIN, 0, -1));
    assert_false(seen(lenient, PLAIN, 0, -1));
    for (int at = 0; at < 954; at++) {
        assert_false(seen(table, PLAIN, 0, at));
        bool changes = at == TTL_AT || at == CHECKSUM_AT || at == CHECKSUM_AT + 1;
        if (at >= 12 && at < 14)
            continue; /* another type is another decoding */
        if (at == 14 || at == 15 + 8)
            continue; /* not IPv4 any more, or another protocol */
        assert_int_equal(seen(lenient, PLAIN, 0, at), changes);
    }
    assert_false(seen(table, TAGGED, 0, -1));
    duplicate_close(&table);
    duplicate_close(&lenient);
}

static void test_tags(void **unused)
{
    (void)unused;
    struct duplicate_table *table = open_table((struct duplicate_options){.ignore_tags = true});
    assert_true(duplicate_needs_decoding(table));
    assert_false(seen(table, TAGGED, 0, -1));
    assert_true(seen(table, PLAIN, 0, -1));
    assert_true(seen(table, TAGGED_TWICE, 0, -1));
    assert_false(seen(table, PLAIN, 0, TTL_AT));
    assert_false(seen(table, PLAIN, 0, PAYLOAD_AT));
    assert_true(seen(table, TAGGED, 0, PAYLOAD_AT + 4));
    assert_false(seen(table, SHORT, 0, -1));
    assert_true(seen(table, "eth / arp", 0, -1));
    assert_false(seen(table, PLAIN " / meta cap=40", 0, -1));
    assert_false(seen(table, PLAIN " / meta orig=2000", 0, -1));
    assert_false(seen(table, PLAIN " / meta cap=0", 0, -1));
    duplicate_close(&table);
}

static void test_hops(void **unused)
{
    (void)unused;
    struct duplicate_table *table = open_table((struct duplicate_options){.ignore_hops = true});
    assert_false(seen(table, PLAIN, 0, -1));
    assert_true(seen(table, PLAIN, 0, TTL_AT));
    assert_true(seen(table, PLAIN, 0, CHECKSUM_AT));
    assert_false(seen(table, PLAIN, 0, IDENTIFICATION_AT));
    assert_false(seen(table, TAGGED, 0, -1));
    assert_false(seen(table, "eth / ip6 fe80::1 fe80::2 / udp 1 2", 0, -1));
    assert_true(seen(table, "eth / ip6 fe80::1 fe80::2 / udp 1 2", 0, 14 + 7));
    assert_false(seen(table, "eth / ip6 fe80::1 fe80::2 / udp 1 2", 0, 14 + 6 + 4));
    duplicate_close(&table);
}

/* More packets than it has room for: the table does not grow, and the newest are still known. */
static void test_bound(void **unused)
{
    (void)unused;
    struct duplicate_table *table = open_table((struct duplicate_options){.entries = 1000});
    uint8_t bytes[64] = {0};
    struct packet packet = {
        .bytes = bytes, .captured_bytes = sizeof bytes, .original_bytes = sizeof bytes};
    unsigned known = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        memcpy(bytes, &i, sizeof i);
        packet.time_ns = i;
        assert_false(duplicate_seen(table, &packet, NULL));
        assert_true(duplicate_seen(table, &packet, NULL));
    }
    for (uint32_t i = 100000 - 200; i < 100000; i++) {
        memcpy(bytes, &i, sizeof i);
        known += duplicate_seen(table, &packet, NULL);
    }
    assert_true(known >= 190);
    duplicate_close(&table);
}

static void test_refused(void **unused)
{
    (void)unused;
    struct duplicate_table *table;
    struct failure failure = {0};
    struct duplicate_options options = {.window_ns = -1};
    assert_int_equal(duplicate_open(&options, &table, &failure), ERR_INVALID);
    options = (struct duplicate_options){.window_ns = DUPLICATE_WINDOW_NS_MAX + 1};
    assert_int_equal(duplicate_open(&options, &table, &failure), ERR_INVALID);
    options = (struct duplicate_options){.entries = DUPLICATE_ENTRIES_MAX + 1};
    assert_int_equal(duplicate_open(&options, &table, &failure), ERR_INVALID);
    assert_null(table);
    assert_true(failure.text[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window), cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_tags),   cmocka_unit_test(test_hops),
        cmocka_unit_test(test_bound),  cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
