/*
 * test_narrowing.c - whatever libpcap's program matches, the tree says "maybe" of; and it says
 * "none" often enough to be of use.
 *
 * The judge is libpcap: random packets of all kinds and the shared captures, under hand-written
 * and random filters. A packet's own flow is what the tree is asked about, and the flow as the
 * index would know it when packets of both directions were seen. Captures are read from
 * $TAPELOOP_CAPTURES or ../shared/captures beside the source tree; without them that part is
 * skipped.
 */
#include "unit_test.h"

#include <fts.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "narrowing.h"
#include "packet_keys.h"
#include "packet_mixer.h"

#define PACKETS 20000u
#define RANDOM_FILTERS 400u
#define CAPTURE_PACKETS_MAX 400u

struct stored {
    struct packet packet;
    struct flow_keys keys;
    uint16_t link_type;
};

static struct stored *stored;
static uint32_t stored_count, stored_room;
static unsigned long asked, none, matched, excluded_of_unmatched;

static void store(uint16_t link_type, const uint8_t *bytes, uint32_t captured, uint32_t original)
{
    if (stored_count == stored_room) {
        stored_room = stored_room ? 2 * stored_room : 4096;
        stored = realloc(stored, stored_room * sizeof *stored);
        assert_non_null(stored);
    }
    struct stored *one = &stored[stored_count++];
    uint8_t *copy = malloc(captured ? captured : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, captured);
    memset(one, 0, sizeof *one);
    one->packet = (struct packet){
        .bytes = copy, .captured_bytes = captured, .original_bytes = original};
    one->link_type = link_type;
    struct decoded_packet decoded;
    decode_packet(link_type, copy, captured, &decoded);
    packet_keys_fill(link_type, copy, captured, &decoded, &one->keys);
}

static void forget(void)
{
    for (uint32_t i = 0; i < stored_count; i++)
        free((void *)(uintptr_t)stored[i].packet.bytes);
    free(stored);
    stored = NULL;
    stored_count = stored_room = 0;
}

static void show(const struct stored *one, const char *text)
{
    print_error("filter: %s\nlink type %u, marks %x, version %u, protocol %u, tags %u, labels %u, "
                "ethertype %04x\n",
                text, one->link_type, one->keys.kind.marks, one->keys.kind.version,
                one->keys.kind.protocol, one->keys.kind.tags, one->keys.kind.labels,
                one->keys.kind.ethertype);
    for (uint32_t i = 0; i < one->packet.captured_bytes && i < 120; i++)
        print_error("%02x", one->packet.bytes[i]);
    print_error("\n");
}

/* One filter over all that is stored. `parsed`: it must be understood. */
static void check(const char *text, bool parsed)
{
    struct filter *filter;
    struct narrowing *tree;
    struct failure failure;
    if (filter_open(text, NULL, &filter, &failure) != 0)
        return; /* libpcap refuses it: nothing to compare with */
    assert_int_equal(narrowing_open(text, &tree), 0);
    if (parsed && !narrowing_parsed(tree))
        fail_msg("not understood: %s", text);
    for (uint32_t i = 0; i < stored_count; i++) {
        const struct stored *one = &stored[i];
        const struct filter_program *program = filter_for(filter, one->link_type);
        bool matches = filter_match(program, &one->packet, 0);
        struct flow_seen seen = {.ways = (uint8_t)(FLOW_WAY_0 << one->keys.from)};
        enum narrowing_verdict verdict = narrowing_judge(tree, &one->keys, &seen);
        seen.ways = FLOW_WAY_0 | FLOW_WAY_1;
        enum narrowing_verdict both = narrowing_judge(tree, &one->keys, &seen);
        bool end = !narrowing_has_ends(tree) || narrowing_end_unsure(tree, &one->keys.kind);
        for (unsigned j = 0; j < 2; j++)
            end |= one->keys.kind.version != 0 &&
                   narrowing_end(tree, one->keys.kind.version, one->keys.end[j].address);
        if (matches && (verdict == NARROWING_NONE || both == NARROWING_NONE || !end)) {
            show(one, text);
            fail_msg("packet %u matches, and the index would have left it out (%d %d %d)", i,
                     verdict, both, end);
        }
        asked++;
        none += verdict == NARROWING_NONE;
        matched += matches;
        excluded_of_unmatched += !matches && verdict == NARROWING_NONE;
    }
    narrowing_close(&tree);
    filter_close(&filter);
}

static void say(const char *what)
{
    print_message("%s: %lu verdicts, %.1f %% matched, %.1f %% need not be read; of what does not "
                  "match, %.1f %% is left out\n",
                  what, asked, 100.0 * (double)matched / (double)asked,
                  100.0 * (double)none / (double)asked,
                  100.0 * (double)excluded_of_unmatched / (double)(asked - matched));
    asked = none = matched = excluded_of_unmatched = 0;
}

static const char *const filters[] = {
    "host 10.0.0.1",
    "not host 10.0.0.1",
    "not (host 10.0.0.1 and tcp port 80)",
    "host 10.0.0.1 or 10.0.1.7",
    "host (10.0.0.1 or 10.0.1.7) and not port 80",
    "tcp port 80 or 443 or 53",
    "port not 80",
    "not port 80 and not vlan",
    "vlan and host 10.0.0.1",
    "vlan or host 10.0.0.1",
    "vlan 5 and vlan 6 and host 10.0.0.1",
    "vlan 5 or vlan 6",
    "not vlan and host 10.0.0.2",
    "not vlan and vlan 6 and host 10.0.0.2",
    "not (vlan and host 10.0.0.2)",
    "(vlan and host 10.0.0.2) or host 10.0.0.2",
    "host 10.0.0.2 or (vlan and host 10.0.0.2)",
    "mpls and host 10.0.0.1",
    "mpls 100 and mpls and ip6",
    "mpls or host 10.0.0.1",
    "pppoes and host 10.0.0.1",
    "pppoes 7 and not tcp",
    "pppoes or tcp port 80",
    "geneve and host 10.0.0.1",
    "geneve or host 10.0.0.1",
    "not geneve",
    "ether host 02:00:00:00:00:01 and not arp",
    "ether src 2:0:0:0:0:1",
    "not ether dst host 02:00:00:00:00:02",
    "not broadcast and not multicast",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src and dst net 10.0.0.0/24",
    "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply",
    "not ip and not ip6",
    "not (not tcp)",
    "not not not udp",
    "(((host 10.0.0.1))) && !(port 80) || arp",
    "ip[2:2] > 0 and (ip[0] & 0xf) != 5",
    "src 10.0.0.1 and dst 10.0.0.2",
    "src or dst 10.0.0.4",
    "ip host 10.0.0.1 and not tcp",
    "not ip proto 6",
    "not ip6 proto 6",
    "not proto 6",
    "not tcp",
    "not icmp",
    "not ether proto 0x86dd",
    "not net 10.0.0.0/23",
    "not portrange 1-1000",
    "net 0.0.0.0/0",
    "dst host 224.0.1.12 or ip multicast",
    "ip6 host 2001:db8::1 and not udp port 53",
    "port http",
    "len = 60 or less 50",
};

static void test_mixed_packets(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 1};
    uint8_t bytes[MIXED_BYTES_MAX];
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint32_t count = mixer_packet(&mixer, bytes);
        assert_true(count <= sizeof bytes);
        store(LINK_ETHERNET, bytes, count, count);
    }
    for (size_t i = 0; i < COUNT(filters); i++)
        check(filters[i], true);
    say("hand-written filters, packets of all kinds");
    for (uint32_t i = 0; i < RANDOM_FILTERS; i++) {
        char text[600];
        mixer_filter(&mixer, text);
        check(text, true);
    }
    say("random filters, packets of all kinds");
    forget();
}

/* What is of use must be left out, not only allowed to be. */
static void test_it_narrows(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double at_least; /* percent of what does not match */
    } useful[] = {
        {"host 10.0.0.1", 75}, {"tcp port 80 and host 10.0.0.1", 85}, {"arp", 90},
        {"vlan 5", 60},        {"not tcp and not udp", 10},          {"ether src 2:0:0:0:0:1", 80},
        {"vlan and host 10.0.0.1", 85}, {"flow 10.0.0.1:80 10.0.0.2:443", 80},
    };
    struct mixer mixer = {.state = 2};
    uint8_t bytes[MIXED_BYTES_MAX];
    for (uint32_t i = 0; i < PACKETS / 4; i++)
        store(LINK_ETHERNET, bytes, mixer_packet(&mixer, bytes), 600);
    for (size_t i = 0; i < COUNT(useful); i++) {
        struct narrowing *tree;
        unsigned left_out = 0;
        assert_int_equal(narrowing_open(useful[i].text, &tree), 0);
        assert_true(narrowing_parsed(tree));
        for (uint32_t j = 0; j < stored_count; j++) {
            struct flow_seen seen = {.ways = (uint8_t)(FLOW_WAY_0 << stored[j].keys.from)};
            left_out += narrowing_judge(tree, &stored[j].keys, &seen) == NARROWING_NONE;
        }
        if (100.0 * left_out < useful[i].at_least * stored_count)
            fail_msg("%s leaves out only %.1f %%", useful[i].text,
                     100.0 * left_out / (double)stored_count);
        narrowing_close(&tree);
    }
    forget();
}

static void test_own_words(void **state)
{
    (void)state;
    static const uint8_t packet[] = {
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0,
        128, 232, 110, 28, 66, 35, 250, 22, /* 128.232.110.120 -> 66.35.250.204, ports below */
        0x88, 0x27, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0};
    uint8_t bytes[sizeof packet];
    memcpy(bytes, packet, sizeof packet);
    bytes[29] = 120;
    bytes[33] = 204;
    store(LINK_ETHERNET, bytes, sizeof bytes, sizeof bytes);
    struct frame_entry entry[2] = {{.rule = le32_of(7)}, {.rule = le32_of(9)}};
    uint8_t set[32] = {2};
    const struct {
        const char *text;
        enum narrowing_verdict verdict;
    } cases[] = {
        {"flow 128.232.110.120:34855 66.35.250.204:80", NARROWING_MAYBE},
        {"flow 66.35.250.204:80 128.232.110.120:34855 tcp", NARROWING_MAYBE},
        {"flow 66.35.250.204:80 128.232.110.120:34855 udp", NARROWING_NONE},
        {"flow 66.35.250.204:81 128.232.110.120:34855", NARROWING_NONE},
        /* the Community ID specification's own example */
        {"community 1:LQU9qZlK+B5F3KDmev6m5PMibrg=", NARROWING_MAYBE},
        {"community 1:MQU9qZlK+B5F3KDmev6m5PMibrg=", NARROWING_NONE},
        {"app tls", NARROWING_MAYBE},
        {"app google and tcp", NARROWING_MAYBE},
        {"app dns", NARROWING_NONE},
        {"not app dns", NARROWING_EVERY},
        {"rule 9", NARROWING_MAYBE},
        {"rule 7", NARROWING_NONE},
        {"inner host 66.35.250.204", NARROWING_NONE},
        {"inner tcp or udp", NARROWING_NONE},
        {"host 66.35.250.204", NARROWING_EVERY},
        {"not host 66.35.250.204", NARROWING_NONE},
        {"src host 66.35.250.204", NARROWING_NONE},
        {"this is no filter", NARROWING_MAYBE},
        {"(host 1.2.3.4", NARROWING_MAYBE},
        {"", NARROWING_EVERY},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct narrowing *tree;
        struct flow_seen seen = {.ways = (uint8_t)(FLOW_WAY_0 << stored[0].keys.from),
                                 .app = "TLS.Google",
                                 .entry_set = set,
                                 .entry = entry,
                                 .entries = 2};
        assert_int_equal(narrowing_open(cases[i].text, &tree), 0);
        enum narrowing_verdict verdict = narrowing_judge(tree, &stored[0].keys, &seen);
        if (verdict != cases[i].verdict) {
            show(&stored[0], cases[i].text);
            fail_msg("%s: %d", cases[i].text, verdict);
        }
        narrowing_close(&tree);
    }
    forget();
}

/* Deep and long texts end, and mean nothing wrong. */
static void test_wild_texts(void **state)
{
    (void)state;
    static char text[200000];
    struct narrowing *tree;
    memset(text, '(', sizeof text - 1);
    assert_int_equal(narrowing_open(text, &tree), 0);
    assert_false(narrowing_parsed(tree));
    narrowing_close(&tree);
    size_t at = 0;
    while (at + 20 < sizeof text)
        at += (size_t)sprintf(text + at, "%sport 80", at ? " or " : "");
    assert_int_equal(narrowing_open(text, &tree), 0);
    assert_false(narrowing_parsed(tree));
    narrowing_close(&tree);
}

static void store_capture(const char *path)
{
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *pcap = pcap_open_offline(path, error);
    struct pcap_pkthdr *head;
    const u_char *bytes;
    if (!pcap)
        return;
    int link = pcap_datalink(pcap) == DLT_RAW ? LINK_RAW : pcap_datalink(pcap);
    for (unsigned i = 0; i < CAPTURE_PACKETS_MAX && pcap_next_ex(pcap, &head, &bytes) == 1; i++)
        if (head->caplen < 65536)
            store((uint16_t)link, bytes, head->caplen, head->len);
    pcap_close(pcap);
}

static void add_filters_of(const struct stored *one)
{
    char text[200];
    const struct flow_end *end = one->keys.end;
    if (one->keys.kind.version == 4) {
        snprintf(text, sizeof text, "host %u.%u.%u.%u", end[0].address[0], end[0].address[1],
                 end[0].address[2], end[0].address[3]);
        check(text, true);
        snprintf(text, sizeof text, "not host %u.%u.%u.%u and not port %u", end[0].address[0],
                 end[0].address[1], end[0].address[2], end[0].address[3], end[0].port);
        check(text, true);
    }
    snprintf(text, sizeof text, "port %u or (vlan and src port %u)", end[0].port, end[1].port);
    check(text, true);
    snprintf(text, sizeof text, "not ether host %02x:%02x:%02x:%02x:%02x:%02x", end[0].mac[0],
             end[0].mac[1], end[0].mac[2], end[0].mac[3], end[0].mac[4], end[0].mac[5]);
    check(text, true);
}

static void test_captures(void **state)
{
    (void)state;
    const char *root = getenv("TAPELOOP_CAPTURES"), *source = getenv("TAPELOOP_SOURCE");
    char path[4096];
    snprintf(path, sizeof path, "%s/../shared/captures", source ? source : ".");
    char *const roots[] = {root ? (char *)(uintptr_t)root : path, NULL};
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOSTAT, NULL);
    for (FTSENT *entry; walk && (entry = fts_read(walk));)
        if (entry->fts_info == FTS_F || entry->fts_info == FTS_NSOK)
            store_capture(entry->fts_accpath);
    if (walk)
        fts_close(walk);
    if (stored_count == 0) {
        print_message("skipped: no captures under %s\n", roots[0]);
        skip();
    }
    print_message("%u packets of captures\n", stored_count);
    for (size_t i = 0; i < COUNT(filters); i++)
        check(filters[i], true);
    struct mixer mixer = {.state = 3};
    for (unsigned i = 0; i < 30; i++)
        add_filters_of(&stored[mixer_below(&mixer, stored_count)]);
    say("captures");
    forget();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_packets), cmocka_unit_test(test_it_narrows),
        cmocka_unit_test(test_own_words),     cmocka_unit_test(test_wild_texts),
        cmocka_unit_test(test_captures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
