/*
 * test_steno_query.c - stenographer's language: what is read, what comes of it, what is refused and where.
 *
 * Random queries are judged by their own tree on random packets, and by the filter and range that they become: the
 * answers have to be the same.
 */
#include "unit_test.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "decode.h"
#include "filter.h"
#include "level_list.h"
#include "narrowing.h"
#include "packet_mixer.h"
#include "steno_query.h"

#define ETHERNET 1
#define NOW_NS 1700000000000000000 /* 2023-11-14T22:13:20Z */

static void test_known(void **state)
{
    (void)state;
    static const struct {
        const char *text, *filter;
        int64_t from_ns, to_ns;
    } known[] = {
        {"", "", INT64_MIN, INT64_MAX},
        {"host 8.8.8.8", "outer (host 8.8.8.8)", INT64_MIN, INT64_MAX},
        {"host 2001:DB8::1", "outer (host 2001:db8::1)", INT64_MIN, INT64_MAX},
        {"net 10.1.2.3/8", "outer (net 10.0.0.0/8)", INT64_MIN, INT64_MAX},
        {"net 10.1.2.3 mask 255.255.0.0", "outer (net 10.1.0.0/16)", INT64_MIN, INT64_MAX},
        {"net 2001:db8:ffff::/33", "outer (net 2001:db8:8000::/33)", INT64_MIN, INT64_MAX},
        {"port 53", "outer (tcp port 53 or udp port 53)", INT64_MIN, INT64_MAX},
        {"ip proto 47", "outer (ip proto 47 or ip6 proto 47)", INT64_MIN, INT64_MAX},
        {"protocol 47", "outer (ip proto 47 or ip6 proto 47)", INT64_MIN, INT64_MAX},
        {"tcp && (port 80||port 81)",
         "outer ((tcp) and ((tcp port 80 or udp port 80) or (tcp port 81 or udp port 81)))", INT64_MIN, INT64_MAX},
        {"after 45m ago", "", NOW_NS - 2700000000000, INT64_MAX},
        {"host 1.2.3.4 and after 3h ago and before 2023-11-14T20:00:00Z", "outer (host 1.2.3.4)",
         NOW_NS - 10800000000000, NOW_NS - 8000000000000},
        {"icmp or udp and before 2023-11-14T23:13:20+01:00", "outer ((ip proto 1 or ip6 proto 1) or (udp))", INT64_MIN,
         NOW_NS},
        {"(tcp and after 10s ago) or (udp and after 20s ago)",
         "((outer (tcp) and after 2023-11-14T22:13:10.000000000Z) or (outer (udp) and after "
         "2023-11-14T22:13:00.000000000Z))",
         NOW_NS - 20000000000, INT64_MAX},
    };
    for (size_t i = 0; i < COUNT(known); i++) {
        struct steno_query query;
        struct failure failure;
        if (steno_query_open(known[i].text, NOW_NS, &query, &failure) != 0)
            fail_msg("%s: %s", known[i].text, failure.text);
        assert_string_equal(query.filter, known[i].filter);
        if (query.from_ns != known[i].from_ns || query.to_ns != known[i].to_ns)
            fail_msg("%s: another range", known[i].text);
        steno_query_close(&query);
    }
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"host", "column 5: expected an IP address"},
        {"host example.org", "column 6: expected an IP address"},
        {"net 10.0.0.0", "column 13: expected mask, or a slash"},
        {"net 10.0.0.0/33", "column 5: expected a network"},
        {"net 10.0.0.0 mask 255.0.255.0", "column 19: expected a mask"},
        {"net 10.0.0.0 mask ffff::", "column 19: expected a mask"},
        {"port 65536", "column 6: expected a port"},
        {"ip proto 256", "column 10: expected the number"},
        {"ip 6", "column 4: expected proto"},
        {"after 3h", "column 9: expected ago"},
        {"before yesterday", "column 8: expected a time"},
        {"before 1700000000", "column 8: expected a time"},
        {"tcp udp", "column 5: expected and, or, or the end"},
        {"tcp and", "column 8: expected host, net"},
        {"not tcp", "column 1: expected host, net"},
        {"(tcp", "column 5: expected and, or, or a closing"},
        {"tcp & udp", "column 5: expected and, or, or the end"},
        {"tcp)", "column 4: expected and, or, or the end"},
        {"vlan 5", "column 1: `vlan` cannot be asked for"},
        {"after 1h ago and before 2h ago", "no packet can match"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct steno_query query;
        struct failure failure;
        assert_int_not_equal(steno_query_open(wrong[i].text, NOW_NS, &query, &failure), 0);
        assert_null(query.filter);
        if (!strstr(failure.text, wrong[i].says))
            fail_msg("%s: %s", wrong[i].text, failure.text);
    }
}

static void test_bounds(void **state)
{
    (void)state;
    char text[4096] = "";
    struct steno_query query;
    struct failure failure;
    for (unsigned i = 0; i < 100; i++)
        strcat(text, "(");
    assert_int_equal(steno_query_open(text, NOW_NS, &query, &failure), ERR_TOO_LARGE);
    strcpy(text, "tcp");
    for (unsigned i = 0; i < STENO_QUERY_PRIMITIVES_MAX - 1; i++)
        strcat(text, " or tcp");
    assert_int_equal(steno_query_open(text, NOW_NS, &query, &failure), 0);
    steno_query_close(&query);
    strcat(text, " or tcp");
    assert_int_equal(steno_query_open(text, NOW_NS, &query, &failure), ERR_TOO_LARGE);
    memset(text, 'x', 1000);
    text[1000] = '\0';
    assert_int_equal(steno_query_open(text, NOW_NS, &query, &failure), ERR_INVALID);
}

/* ---- a tree of the test's own -------------------------------------------------------------------- */

struct tree {
    uint32_t at;
    char text[2000];
    bool value;
};

static bool level_has(const struct packet *packet, const struct packet_level *level, uint32_t which)
{
    const uint8_t *ip = packet->bytes + level->start;
    static const uint8_t host[4] = {10, 0, 0, 1};
    bool tcp_or_udp = level->ports && (level->protocol == 6 || level->protocol == 17);
    switch (which) {
    case 0:
        return level->version == 4 && (memcmp(ip + 12, host, 4) == 0 || memcmp(ip + 16, host, 4) == 0);
    case 1:
        return tcp_or_udp && (level->source_port == 80 || level->destination_port == 80);
    default:
        return level->version == 4 && (ip[12] == 10 || ip[16] == 10);
    }
}

/* Appends a random query and says what it is for the packet. */
static bool grow(struct mixer *mixer, const struct packet *packet, const struct packet_level *level, unsigned depth,
                 char *text)
{
    static const char *const word[] = {"host 10.0.0.1", "port 80", "net 10.0.0.0/8"};
    uint32_t which = mixer_below(mixer, depth == 0 ? 5 : 9);
    if (which < 3) {
        strcat(text, word[which]);
        return level && level_has(packet, level, which);
    }
    if (which < 5) { /* about the packet's time */
        char moment[40];
        uint32_t ago = mixer_below(mixer, 20);
        snprintf(moment, sizeof moment, "%s %us ago", which == 3 ? "after" : "before", ago);
        strcat(text, moment);
        int64_t bound = NOW_NS - (int64_t)ago * 1000000000;
        return which == 3 ? packet->time_ns >= bound : packet->time_ns < bound;
    }
    strcat(text, "(");
    bool value = grow(mixer, packet, level, depth - 1, text);
    for (uint32_t more = 1 + mixer_below(mixer, 2); more > 0; more--) {
        bool both = mixer_below(mixer, 2) == 0;
        strcat(text, both ? " and " : " || ");
        bool right = grow(mixer, packet, level, depth - 1, text);
        value = both ? value && right : value || right;
    }
    strcat(text, ")");
    return value;
}

static void test_means_the_same(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 3};
    uint32_t compared = 0, true_ones = 0;
    for (uint32_t i = 0; i < 6000; i++) {
        uint8_t bytes[MIXED_BYTES_MAX];
        uint32_t count = mixer_packet(&mixer, bytes);
        struct packet packet = {.bytes = bytes,
                                .captured_bytes = count,
                                .original_bytes = count,
                                .time_ns = NOW_NS - (int64_t)mixer_below(&mixer, 20) * 1000000000 + 500000000};
        struct packet_level level[PACKET_LEVELS_MAX];
        uint32_t levels = packet_levels(ETHERNET, bytes, count, level);
        if (levels > 0 && (level[0].later || level[0].transport == UINT32_MAX || level[0].transport + 20 > count ||
                           (level[0].version == 6 && level[0].transport != level[0].start + 40)))
            continue; /* what libpcap makes of fragments, cut headers and extension headers is not this test's */
        char text[4000] = "";
        bool wanted = grow(&mixer, &packet, levels > 0 ? &level[0] : NULL, 2, text);
        struct steno_query query;
        struct filter *filter;
        struct failure failure;
        if (steno_query_open(text, NOW_NS, &query, &failure) != 0) {
            assert_non_null(strstr(failure.text, "no packet can match"));
            assert_false(wanted);
            continue;
        }
        if (filter_open(query.filter, packet_levels, &filter, &failure) != 0) {
            assert_non_null(strstr(failure.text, "more than")); /* six words of ours */
            steno_query_close(&query);
            continue;
        }
        bool is = packet.time_ns >= query.from_ns && packet.time_ns < query.to_ns &&
                  filter_match(filter_for(filter, ETHERNET), &packet, 0);
        if (is != wanted)
            fail_msg("%s means %s: %d", text, query.filter, is);
        compared++;
        true_ones += is;
        struct narrowing *tree;
        assert_int_equal(narrowing_open(query.filter, &tree), 0);
        assert_true(narrowing_parsed(tree));
        narrowing_close(&tree);
        filter_close(&filter);
        steno_query_close(&query);
    }
    assert_true(compared > 2000 && true_ones > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_means_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
