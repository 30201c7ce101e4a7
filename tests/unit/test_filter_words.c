/*
 * test_filter_words.c - the primitives that libpcap does not have, alone and among those that it
 * has.
 *
 * Random filters on random packets say that a word of ours changes nothing in what libpcap makes of
 * the rest, and that the index never says "none" of a packet that a word of ours is true of.
 */
#include "unit_test.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "filter.h"
#include "level_list.h"
#include "narrowing.h"
#include "packet_keys.h"
#include "packet_mixer.h"

#define ETHERNET 1

struct made {
    uint8_t bytes[MIXED_BYTES_MAX];
    struct packet packet;
};

static void make(struct mixer *mixer, struct made *made)
{
    uint32_t count = mixer_packet(mixer, made->bytes);
    made->packet =
        (struct packet){.bytes = made->bytes, .captured_bytes = count, .original_bytes = count};
}

/* 1 or 0; -1: the filter is not valid, with the sentence in *failure. */
static int judge(const char *text, const struct packet *packet, uint32_t rule,
                 struct failure *failure)
{
    struct filter *filter;
    if (filter_open(text, packet_levels, &filter, failure) != 0)
        return -1;
    const struct filter_program *program = filter_for(filter, ETHERNET);
    assert_non_null(program);
    int answer = filter_match(program, packet, rule);
    filter_close(&filter);
    return answer;
}

static int matches(const char *text, const struct packet *packet)
{
    struct failure failure;
    int answer = judge(text, packet, 0, &failure);
    if (answer < 0)
        fail_msg("%s: %s", text, failure.text);
    return answer;
}

/* ---- among libpcap's ---------------------------------------------------------------------------
 */

/* `form` with the filter for each %, and each `rule N` as a comparison that says the same of
 * `rule`, or as it is (0). */
static void spell(const char *form, const char *filter, uint32_t rule, char *to)
{
    while (*form != '\0') {
        if (*form == '%') {
            to = stpcpy(to, filter);
            form++;
        } else if (rule != 0 && strncmp(form, "rule ", 5) == 0) {
            to = stpcpy(to, (uint32_t)(form[5] - '0') == rule ? "1 = 1" : "1 = 0");
            form += 6;
        } else {
            *to++ = *form++;
        }
    }
    *to = '\0';
}

static void test_the_rest_is_as_it_was(void **state)
{
    (void)state;
    static const char *const form[] = {"rule 7 and (%)",          "(%) or not rule 7",
                                       "not (rule 7 and (%))",    "(rule 7 or rule 9) and not (%)",
                                       "vlan and rule 7 and (%)", "rule 8 or vlan or (%)"};
    struct mixer mixer = {.state = 5};
    uint32_t compared = 0, true_ones = 0;
    for (uint32_t i = 0; i < 300; i++) {
        char plain[512], text[700];
        mixer_filter(&mixer, plain);
        uint32_t rule = 7 + i % 3;
        struct filter *ours, *theirs;
        struct failure failure;
        spell(form[i % COUNT(form)], plain, 0, text);
        int result = filter_open(text, packet_levels, &ours, &failure);
        spell(form[i % COUNT(form)], plain, rule, text);
        int other = filter_open(text, NULL, &theirs, &failure);
        if (result ||
            other) { /* where `rule` has another number, the text may be refused as a whole */
            filter_close(&ours);
            filter_close(&theirs);
            continue;
        }
        for (uint32_t n = 0; n < 200; n++) {
            struct made made;
            make(&mixer, &made);
            bool is = filter_match(filter_for(ours, ETHERNET), &made.packet, rule);
            if (is != filter_match(filter_for(theirs, ETHERNET), &made.packet, 0))
                fail_msg("%s, of rule %u, means %s: %d", plain, rule, text, is);
            true_ones += is;
            compared++;
        }
        filter_close(&ours);
        filter_close(&theirs);
    }
    assert_true(compared > 30000 && true_ones > 1000);
}

/* ---- against the index -------------------------------------------------------------------------
 */

static void end_text(const struct flow_keys *keys, unsigned end, char *to, size_t size)
{
    const uint8_t *a = keys->end[end].address;
    if (keys->kind.version == 4) {
        snprintf(to, size, "%u.%u.%u.%u:%u", a[0], a[1], a[2], a[3], keys->end[end].port);
        return;
    }
    int at = snprintf(to, size, "[");
    for (unsigned i = 0; i < 16; i += 2)
        at += snprintf(to + at, size - (size_t)at, "%s%x", i > 0 ? ":" : "", a[i] << 8 | a[i + 1]);
    snprintf(to + at, size - (size_t)at, "]:%u", keys->end[end].port);
}

static void test_the_index_never_denies(void **state)
{
    (void)state;
    static const char *const inner[] = {"host 10.0.0.1",
                                        "net 10.0.0.0/8",
                                        "port 80",
                                        "portrange 1-1000",
                                        "tcp",
                                        "udp",
                                        "ip6",
                                        "icmp",
                                        "src or dst port 53",
                                        "dst net 10.0.0.0/24",
                                        "proto 17",
                                        "(tcp and port 443)",
                                        "tcp[13] & 2 != 0",
                                        "ip",
                                        "host 10.1.0.2"};
    struct mixer mixer = {.state = 11};
    uint32_t inner_ones = 0, flow_ones = 0;
    for (uint32_t i = 0; i < 400; i++) {
        struct made from;
        struct decoded_packet decoded;
        struct flow_keys keys;
        char one[80], two[80], text[400];
        make(&mixer, &from);
        decode_packet(ETHERNET, from.bytes, from.packet.captured_bytes, &decoded);
        packet_keys_fill(ETHERNET, from.bytes, from.packet.captured_bytes, &decoded, &keys);
        bool flow = (keys.kind.marks & FLOW_PORTS) != 0 && keys.kind.version != 0 && i % 2 == 0;
        end_text(&keys, i / 2 % 2, one, sizeof one);
        end_text(&keys, !(i / 2 % 2), two, sizeof two);
        static const char *const flow_form[] = {"%", "vlan or %", "not (not %)",
                                                "% and (udp or tcp)"};
        static const char *const inner_form[] = {"%", "not %", "udp and not %", "ip6 or %"};
        char word[256];
        if (flow)
            snprintf(word, sizeof word, "flow %s %s", one, two);
        else
            snprintf(word, sizeof word, "%s %s", i % 4 == 1 ? "inner" : "outer",
                     inner[mixer_below(&mixer, COUNT(inner))]);
        spell(flow ? flow_form[i / 4 % 4] : inner_form[i / 3 % 4], word, 0, text);
        struct narrowing *tree;
        struct filter *filter = NULL;
        struct failure failure;
        assert_int_equal(narrowing_open(text, &tree), 0);
        if (!narrowing_parsed(tree) || filter_open(text, packet_levels, &filter, &failure) != 0)
            fail_msg("%s: %s", text, failure.text);
        const struct filter_program *program = filter_for(filter, ETHERNET);
        if (flow && i / 4 % 4 == 0 && decoded.levels == 1)
            assert_true(filter_match(program, &from.packet, 0));
        for (uint32_t n = 0; n < 300; n++) {
            struct made made;
            make(&mixer, &made);
            decode_packet(ETHERNET, made.bytes, made.packet.captured_bytes, &decoded);
            packet_keys_fill(ETHERNET, made.bytes, made.packet.captured_bytes, &decoded, &keys);
            const struct flow_seen seen = {.ways = (uint8_t)(FLOW_WAY_0 << keys.from)};
            if (!filter_match(program, &made.packet, 0))
                continue;
            flow_ones += flow;
            inner_ones += !flow;
            if (narrowing_judge(tree, &keys, &seen) == NARROWING_NONE)
                fail_msg("%s: the index denies a packet that matches", text);
        }
        filter_close(&filter);
        narrowing_close(&tree);
    }
    assert_true(flow_ones > 20 && inner_ones > 1000);
}

/* ---- known answers -----------------------------------------------------------------------------
 */

struct build {
    uint8_t bytes[256];
    uint32_t count;
};

static void add(struct build *build, const void *bytes, uint32_t count)
{
    assert_true(build->count + count <= sizeof build->bytes);
    memcpy(build->bytes + build->count, bytes, count);
    build->count += count;
}

static void add_ethernet(struct build *build)
{
    static const uint8_t head[14] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0};
    build->count = 0;
    add(build, head, sizeof head);
}

static void add_ip(struct build *build, const uint8_t from[4], const uint8_t to[4],
                   uint8_t protocol, uint8_t payload)
{
    const uint8_t head[12] = {0x45, 0, 0, (uint8_t)(20 + payload), 0, 1, 0, 0, 64, protocol, 0, 0};
    add(build, head, sizeof head);
    add(build, from, 4);
    add(build, to, 4);
}

/* The first eight bytes of TCP, UDP or ICMP, and twelve zeros but for TCP's header length. */
static void add_transport(struct build *build, uint16_t first, uint16_t second)
{
    const uint8_t head[20] = {(uint8_t)(first >> 8),
                              (uint8_t)first,
                              (uint8_t)(second >> 8),
                              (uint8_t)second,
                              0,
                              20,
                              0,
                              0,
                              0,
                              0,
                              0,
                              0,
                              0x50,
                              2};
    add(build, head, sizeof head);
}

static struct packet packet_of(const struct build *build)
{
    return (struct packet){
        .bytes = build->bytes, .captured_bytes = build->count, .original_bytes = build->count};
}

/* The examples that the Community ID specification publishes. */
static void test_community(void **state)
{
    (void)state;
    static const struct {
        uint8_t from[4], to[4], protocol;
        uint16_t first, second;
        const char *id;
    } known[] = {
        {{128, 232, 110, 120}, {66, 35, 250, 204}, 6, 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
        {{66, 35, 250, 204}, {128, 232, 110, 120}, 6, 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
        {{192, 168, 1, 52}, {8, 8, 8, 8}, 17, 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
        {{192, 168, 0, 89}, {192, 168, 0, 1}, 1, 0x0800, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
        {{192, 168, 0, 1}, {192, 168, 0, 89}, 1, 0x0000, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
    };
    for (size_t i = 0; i < COUNT(known); i++) {
        struct build build;
        char text[64];
        add_ethernet(&build);
        add_ip(&build, known[i].from, known[i].to, known[i].protocol, 20);
        add_transport(&build, known[i].first, known[i].second);
        struct packet packet = packet_of(&build);
        for (size_t k = 0; k < COUNT(known); k++) {
            snprintf(text, sizeof text, "community %s", known[k].id);
            assert_int_equal(matches(text, &packet), strcmp(known[k].id, known[i].id) == 0);
        }
    }
}

static void test_flow_and_inner(void **state)
{
    (void)state;
    static const uint8_t a[4] = {10, 0, 0, 1}, b[4] = {10, 0, 0, 2}, c[4] = {192, 0, 2, 1},
                         d[4] = {192, 0, 2, 2};
    struct build plain, tunnel;
    add_ethernet(&plain);
    add_ip(&plain, a, b, 6, 20);
    add_transport(&plain, 1000, 80);
    add_ethernet(&tunnel);
    add_ip(&tunnel, c, d, 4, 40);
    add_ip(&tunnel, a, b, 6, 20);
    add_transport(&tunnel, 1000, 80);
    static const struct {
        const char *text;
        bool plain, tunnel;
    } known[] = {
        {"flow 10.0.0.1:1000 10.0.0.2:80", true, true},
        {"flow 10.0.0.2:80 10.0.0.1:1000", true, true},
        {"flow 10.0.0.1:80 10.0.0.2:1000", false, false},
        {"flow 10.0.0.1:1000 10.0.0.2:80 tcp", true, true},
        {"flow 10.0.0.1:1000 10.0.0.2:80 udp", false, false},
        {"flow 10.0.0.1:1000 10.0.0.2:80 and not ip proto 4", true, false},
        {"not flow [2001:db8::1]:1000 [2001:db8::2]:80", true, true},
        {"inner host 10.0.0.1", false, true},
        {"inner dst host 10.0.0.1", false, false},
        {"inner src or dst host 10.0.0.1 and host 192.0.2.1", false, true},
        {"inner host 192.0.2.1", false, false},
        {"inner port 80", false, true},
        {"(inner tcp)||(tcp port 80)", true, true},
        {"host 192.0.2.1 and !inner udp", false, true},
        {"inner tcp[tcpflags] & tcp-syn != 0", false, true},
    };
    struct packet packets[2] = {packet_of(&plain), packet_of(&tunnel)};
    for (size_t i = 0; i < COUNT(known); i++)
        for (unsigned k = 0; k < 2; k++)
            if (matches(known[i].text, &packets[k]) != (k == 0 ? known[i].plain : known[i].tunnel))
                fail_msg("%s: %s", known[i].text, k == 0 ? "plain" : "tunnel");
}

static void test_outer_and_times(void **state)
{
    (void)state;
    static const uint8_t a[4] = {10, 0, 0, 1}, b[4] = {10, 0, 0, 2}, c[4] = {192, 0, 2, 1},
                         d[4] = {192, 0, 2, 2};
    static const uint8_t tags[8] = {0x81, 0, 0, 5, 0x81, 0, 0, 6};
    struct build tagged = {0}, arp = {0};
    add_ethernet(&tagged);
    tagged.count = 12;
    add(&tagged, tags, sizeof tags);
    add(&tagged, (const uint8_t[]){8, 0}, 2);
    add_ip(&tagged, c, d, 4, 40);
    add_ip(&tagged, a, b, 6, 20);
    add_transport(&tagged, 1000, 80);
    add_ethernet(&arp);
    arp.bytes[13] = 6;
    add(&arp, (const uint8_t[]){0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2}, 14);
    add(&arp, c, 4);
    add(&arp, (const uint8_t[6]){0}, 6);
    add(&arp, d, 4);
    static const struct {
        const char *text;
        bool tagged, arp;
    } known[] = {
        {"host 192.0.2.1", false, true},
        {"outer host 192.0.2.1", true, false},
        {"outer host 10.0.0.1", false, false},
        {"outer (src host 192.0.2.1 and ip proto 4)", true, false},
        {"outer tcp", false, false},
        {"vlan and vlan and outer net 192.0.2.0/24", true, false},
        {"not outer host 192.0.2.1", false, true},
        {"after 2023-11-14T22:13:20.5Z", true, true},
        {"after 2023-11-14T23:13:20.500000001+01:00", false, false},
        {"before 2023-11-14T22:13:20.5Z", false, false},
        {"not (before 2023-11-14T22:13:20.500000001Z)", false, false},
        {"arp or after 2030-01-01T00:00:00Z", false, true},
    };
    struct packet packets[2] = {packet_of(&tagged), packet_of(&arp)};
    for (size_t i = 0; i < COUNT(known); i++) {
        for (unsigned k = 0; k < 2; k++) {
            packets[k].time_ns = 1700000000500000000;
            if (matches(known[i].text, &packets[k]) != (k == 0 ? known[i].tagged : known[i].arp))
                fail_msg("%s: %s", known[i].text, k == 0 ? "tagged" : "ARP");
        }
    }
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"flow 10.0.0.1:80", "column 17: expected the other end's ADDRESS:PORT"},
        {"tcp and flow 10.0.0.1 10.0.0.2:80", "column 14: expected ADDRESS:PORT"},
        {"flow 10.0.0.1:80 [::1]:80", "column 18: expected the other end's"},
        {"flow 10.0.0.1:99999 10.0.0.2:80", "column 6: expected ADDRESS:PORT"},
        {"flow 1.1.1.1:1 2.2.2.2:2 port 3", "column 26: expected `and`, `or` or the end"},
        {"community 2:LQU9qZlK+B5F3KDmev6m5PMibrg=", "column 11: expected a Community ID"},
        {"not community", "column 14: expected a Community ID"},
        {"rule x", "column 6: expected a rule's number"},
        {"rule 0", "column 6: expected a rule's number"},
        {"inner", "column 6: expected host, net"},
        {"inner not port 80", "column 7: expected host, net"},
        {"inner vlan 3", "column 7: expected host, net"},
        {"inner (tcp or port 80", "expected a closing parenthesis"},
        {"tcp and inner port x y", "column 15: the filter is not valid: unknown port"},
        {"outer vlan 3", "column 7: expected host, net"},
        {"outer after 2026-11-21T14:05:00Z", "column 7: expected host, net"},
        {"after", "column 6: expected a time with its zone"},
        {"tcp and after -5m", "column 15: expected a time with its zone"},
        {"after 2026-11-21T14:05:00", "column 7: expected a time with its zone"},
        {"before 2026-02-30T14:05:00Z", "column 8: expected a time with its zone"},
        {"app", "column 4: expected the name of a protocol"},
        {"app \"tls", "column 6: expected the name of a protocol"},
        {"app ''", "column 6: expected the name of a protocol"},
        {"app (tls)", "column 5: expected the name of a protocol"},
        {"tcp and app tls http", "column 17: expected `and`, `or` or the end"},
        {"inner app tls", "column 7: expected host, net"},
        {"rule 1 or rule 2 or rule 3 or rule 4 or rule 5 or rule 6 or rule 7",
         "column 61: more than 6"},
    };
    struct made made;
    struct mixer mixer = {.state = 1};
    make(&mixer, &made);
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct failure failure;
        assert_int_equal(judge(wrong[i].text, &made.packet, 0, &failure), -1);
        if (!strstr(failure.text, wrong[i].says))
            fail_msg("%s: %s", wrong[i].text, failure.text);
    }
    /* Where no primitive can begin, they are names. */
    struct failure failure;
    assert_int_equal(judge("host rule", &made.packet, 0, &failure), -1);
    assert_null(strstr(failure.text, "column"));
}

/* ---- app ---------------------------------------------------------------------------------------- */

/* What is not known of a conversation matters only where it decides. */
static void test_app(void **state)
{
    (void)state;
    static const struct {
        const char *text, *verdict; /* null: not judged */
        enum filter_answer answer;
    } ask[] = {
        {"app dns", "DNS", FILTER_YES},
        {"app dns", "TLS.Example", FILTER_NO},
        {"app tls", "TLS.Example", FILTER_YES},
        {"app EXAMPLE", "TLS.Example", FILTER_YES},
        {"app tls.example", "TLS.Example", FILTER_YES},
        {"not app dns", "DNS", FILTER_NO},
        {"not app dns", "Unknown", FILTER_YES},
        {"app unknown", "Unknown", FILTER_YES},
        {"app dns", NULL, FILTER_UNDECIDED},
        {"not app dns", NULL, FILTER_UNDECIDED},
        {"app dns or not app dns", NULL, FILTER_UNDECIDED}, /* each is looked at by itself */
        {"app dns and udp", NULL, FILTER_UNDECIDED},
        {"app dns and tcp", NULL, FILTER_NO},
        {"app dns or udp", NULL, FILTER_YES},
        {"not (app dns and tcp)", NULL, FILTER_YES},
        {"(app dns or app tls) and udp and not app example", NULL, FILTER_UNDECIDED},
        {"(app dns or app tls) and udp and not app example", "TLS.Example", FILTER_NO},
        {"(app dns or app tls) and udp and not app example", "TLS", FILTER_YES},
        {"(app dns||app tls)&&!app example", "TLS", FILTER_YES},
        {"app dns and host 192.0.2.99", NULL, FILTER_NO},
        {"not (app \"odd (name)\")and udp", "Odd (Name)", FILTER_NO},
        {"app 'odd (name)' and udp", "TLS.odd (name)", FILTER_YES},
        {"rule 7 and app dns", NULL, FILTER_UNDECIDED},
        {"rule 8 and app dns", NULL, FILTER_NO},
        {"udp", NULL, FILTER_YES},
    };
    static const uint8_t bytes[60] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0,
                                      203, 0, 113, 9, 10, 0, 0, 1, 4, 6, 0, 53, 0, 26};
    const struct packet packet = {.bytes = bytes, .captured_bytes = sizeof bytes, .original_bytes = sizeof bytes};
    for (size_t i = 0; i < COUNT(ask); i++) {
        struct filter *filter;
        struct failure failure = {0};
        if (filter_open(ask[i].text, packet_levels, &filter, &failure) != 0)
            fail_msg("%s: %s", ask[i].text, failure.text);
        uint32_t truth = ask[i].verdict ? filter_app_truth(filter, ask[i].verdict) : 0;
        assert_int_equal(truth & ~filter_apps(filter), 0);
        enum filter_answer answer = filter_ask(filter_for(filter, ETHERNET), &packet, 7, ask[i].verdict != NULL, truth);
        if (answer != ask[i].answer)
            fail_msg("%s, %s: %d", ask[i].text, ask[i].verdict ? ask[i].verdict : "not judged", answer);
        filter_close(&filter);
    }
}

static void test_app_names(void **state)
{
    (void)state;
    static const char *const name[] = {"DNS", "TLS"};
    struct verdicts *verdicts;
    struct filter *filter;
    struct failure failure = {0};
    assert_int_equal(verdicts_open(&verdicts, &failure), 0);
    assert_int_equal(filter_open("udp and (app dns or not app dnss)", packet_levels, &filter, &failure), 0);
    assert_int_equal(filter_check_apps(filter, verdicts, &failure), 0); /* nobody has said which there are */
    verdicts_name(verdicts, name, COUNT(name));
    assert_int_equal(filter_check_apps(filter, verdicts, &failure), ERR_INVALID);
    assert_non_null(strstr(failure.text, "column 25: layer 7 knows no protocol dnss: tapeloop apps lists"));
    filter_close(&filter);
    verdicts_close(&verdicts);
}

/* The index must not see another name than the filter does: what it passes by is never judged. */
static void test_app_in_the_index(void **state)
{
    (void)state;
    static const char *const text[] = {"app dns&&udp", "app dns||tcp", "udp and (app dns)", "app dns", "not(app tls)&&udp", "app \"dns\"&&udp", "(app 'dns')"};
    const struct flow_seen seen = {.app = "DNS", .ways = FLOW_WAY_0 | FLOW_WAY_1};
    const struct flow_keys keys = {.kind = {.marks = FLOW_ETHERNET | FLOW_DIRECT | FLOW_PORTS,
                                            .link_type = ETHERNET,
                                            .ethertype = FLOW_ETHERTYPE_IP,
                                            .version = 4,
                                            .protocol = 17}};
    for (size_t i = 0; i < COUNT(text); i++) {
        struct narrowing *tree;
        assert_int_equal(narrowing_open(text[i], &tree), 0);
        if (narrowing_parsed(tree) && narrowing_judge(tree, &keys, &seen) == NARROWING_NONE)
            fail_msg("%s: the flow is passed by", text[i]);
        narrowing_close(&tree);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_rest_is_as_it_was),
        cmocka_unit_test(test_the_index_never_denies),
        cmocka_unit_test(test_community),
        cmocka_unit_test(test_flow_and_inner),
        cmocka_unit_test(test_outer_and_times),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_app),
        cmocka_unit_test(test_app_names),
        cmocka_unit_test(test_app_in_the_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
