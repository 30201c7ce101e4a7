/*
 * test_sieve.c - that the sieve decides nothing: what rules say of packets that nobody has decoded
 * is what they say of the same packets decoded the slow way. And that it passes what it is there
 * for.
 *
 *     test_sieve [LISTS [SEED]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit_test.h"

#include "decode.h"
#include "packet_maker.h"
#include "packet_mixer.h"
#include "program.h"
#include "rule_text.h"
#include "sieve.h"

#define TEXT_MAX 60000
#define TOGETHER DECODE_BATCH
#define INTERFACES 3 /* two of Ethernet, and one of raw IP */

static unsigned lists = 300;
static uint64_t seed = 1;

static const uint16_t link_type[INTERFACES] = {LINK_ETHERNET, LINK_ETHERNET, LINK_RAW};

static struct rule_state *state_of(const char *text)
{
    static const char *const name[INTERFACES] = {"eth0", "eth1", "tun0"};
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *state;
    struct failure failure = {0};
    if (rule_list_parse(text, &list, NULL, &failure) < 0 ||
        rule_program_build(&list, NULL, &program, &failure) < 0 ||
        rule_state_open(program, NULL, &state, &failure) < 0)
        fail_msg("%s", failure.text);
    for (uint32_t i = 0; i < INTERFACES - 1; i++) { /* the last one is not told of */
        struct interface_description about = {.link_type = link_type[i]};
        snprintf(about.name, sizeof about.name, "%s", name[i]);
        assert_int_equal(rule_state_interface(state, i, &about, NULL), 0);
    }
    rule_program_release(&program);
    rule_list_clear(&list);
    return state;
}

/* ---- random lists, about what the mixer's packets have -------------------------------------- */

/* A condition of a kind below KINDS, without its `not`. */
#define KINDS 14

static int put_condition(struct mixer *mixer, uint32_t kind, char *text)
{
    static const uint16_t port[] = {80, 443, 53, 40000, 40001, 4789, 22, 99, 0};
    static const char *const transport[] = {"tcp ", "udp ", ""};
    uint32_t small = mixer_below(mixer, 12);
    switch (kind) {
    case 0:
        return sprintf(text, "ip 10.%u.0.0/16", small + 1);
    case 1:
        return sprintf(text, "ip 2001:db8:%u::/48", small);
    case 2:
        return sprintf(text, "ip 10.0.%u.%u", small / 6, small + 1);
    case 3:
        return sprintf(text, "ip 10.0.%u.0/24", small);
    case 4: /* bits behind a prefix are 0 */
        return sprintf(text, "ip 10.0.0.0/%u", 15 + small);
    case 5:
        return sprintf(text, "ip 2001:db8::/%u", 32 + 7 * small);
    case 6:
        return sprintf(text, "ip 2001:db8::%u", small + 1);
    case 7:
        return sprintf(text, "vlan %u", 3 + small);
    case 8:
        return sprintf(text, "mac 02:00:00:00:00:%02x", small);
    case 9:
        return sprintf(text, "mac 02:00:00:00:%02x:00/42", small);
    case 10:
        return sprintf(text, "interface eth%u", small % 3);
    case 11:
        return sprintf(text, "%s", small == 0 ? "all" : "port 0");
    case 12:
        return sprintf(text, "port %u-%u", 1000 * small, 1000 * small + 40 * small);
    default:
        return sprintf(text, "%sport %u", transport[mixer_below(mixer, 3)],
                       port[mixer_below(mixer, COUNT(port))]);
    }
}

/* Few kinds in each, so that some packets are in question and others are not. */
static void make_list(struct mixer *mixer, char *text)
{
    static const char *const action[] = {"full",     "full",       "discard",
                                         "snap 40",  "headers l3", "headers l3+l4+2",
                                         "flow 500", "sample 1/3"};
    uint32_t rules =
        mixer_below(mixer, 5) == 0 ? 65 + mixer_below(mixer, 150) : mixer_below(mixer, 6);
    uint32_t kind[3];
    for (uint32_t i = 0; i < COUNT(kind); i++)
        kind[i] = mixer_below(mixer, KINDS);
    *text = '\0';
    for (uint32_t i = 0; i < rules; i++) {
        for (uint32_t conditions = 1 + mixer_below(mixer, 3); conditions > 0; conditions--) {
            text += sprintf(text, "%s", mixer_below(mixer, 5) == 0 ? "not " : "");
            text += put_condition(mixer, kind[mixer_below(mixer, COUNT(kind))], text);
            text += sprintf(text, conditions > 1 ? " and " : " : ");
        }
        text += sprintf(text, "%s\n", action[mixer_below(mixer, COUNT(action))]);
    }
    if (mixer_below(mixer, 2) == 0)
        sprintf(text, "not ip 192.0.2.0/24 : %s\n", action[mixer_below(mixer, 4)]);
}

/* ---- packets in memory of exactly their length ----------------------------------------------- */

struct packets {
    struct packet packet[TOGETHER];
    uint8_t *memory[TOGETHER];
    uint32_t count;
};

static void packets_add(struct packets *packets, uint16_t interface, const uint8_t *bytes,
                        uint32_t count, int64_t time_ns)
{
    uint8_t *memory = malloc(count + 1u);
    assert_non_null(memory);
    memcpy(memory + 1, bytes, count); /* where there are none, not even one may be read */
    packets->memory[packets->count] = memory;
    packets->packet[packets->count++] = (struct packet){.bytes = memory + 1,
                                                        .captured_bytes = count,
                                                        .original_bytes = count,
                                                        .time_ns = time_ns,
                                                        .interface = interface};
}

static void packets_clear(struct packets *packets)
{
    for (uint32_t i = 0; i < packets->count; i++)
        free(packets->memory[i]);
    packets->count = 0;
}

/* ---- the comparison -------------------------------------------------------------------------- */

struct trio {
    const char *text;
    struct rule_state *plain, *together, *judging; /* how they get the packets */
    unsigned long judged, alike;
};

static void check_outcomes(const struct trio *trio, const struct packets *packets,
                           const struct rule_outcome *got, const struct rule_outcome *wanted,
                           const char *how)
{
    for (uint32_t i = 0; i < packets->count; i++) {
        if (got[i].rule != wanted[i].rule || got[i].keep_bytes != wanted[i].keep_bytes ||
            got[i].decision != wanted[i].decision || got[i].cut != wanted[i].cut)
            fail_msg("seed %llu, packet %u of %u, %u bytes, interface %u: %srule %u keeps %u (%u), "
                     "by itself it is rule %u that keeps %u (%u), of\n%s",
                     (unsigned long long)seed, i, packets->count, packets->packet[i].captured_bytes,
                     packets->packet[i].interface, how, got[i].rule, got[i].keep_bytes,
                     got[i].decision, wanted[i].rule, wanted[i].keep_bytes, wanted[i].decision,
                     trio->text);
    }
}

static void compare(struct trio *trio, const struct packets *packets)
{
    static struct decoded_packet decoded[TOGETHER];
    struct rule_outcome wanted[TOGETHER], applied[TOGETHER], got[TOGETHER];
    uint32_t count = packets->count;
    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        decode_packet_slowly(link_type[packets->packet[i].interface], packets->packet[i].bytes,
                             packets->packet[i].captured_bytes, &decoded[i]);
    for (uint32_t i = 0; i < count; i++) /* one by one: without the sieve */
        rule_state_apply(trio->plain, &packets->packet[i], &decoded[i], RULE_VERDICT_NONE,
                         &wanted[i]);
    rule_state_apply_batch(trio->together, packets->packet, decoded, NULL, count, applied);
    check_outcomes(trio, packets, applied, wanted, "decoded together, ");
    bool alike = rule_state_judge(trio->judging, packets->packet, count, 0, link_type, got);
    for (uint32_t i = 1; alike && i < count; i++)
        got[i] = (struct rule_outcome){.rule = got[0].rule,
                                       .keep_bytes = packets->packet[i].captured_bytes};
    check_outcomes(trio, packets, got, wanted, "not decoded, ");
    trio->judged += count;
    trio->alike += alike ? count : 0;
}

static void compare_counters(const struct trio *trio)
{
    uint32_t rules = rule_program_list(rule_state_program(trio->plain))->count;
    for (uint32_t i = 0; i <= rules; i++) {
        struct rule_counters wanted, got;
        rule_state_counters(trio->plain, i, &wanted);
        rule_state_counters(trio->judging, i, &got);
        bool same = memcmp(&wanted, &got, sizeof got) == 0;
        rule_state_counters(trio->together, i, &got);
        if (!same || memcmp(&wanted, &got, sizeof got) != 0)
            fail_msg("seed %llu: the counters of rule %u differ, of\n%s", (unsigned long long)seed,
                     i, trio->text);
    }
}

static uint16_t draw_interface(struct mixer *mixer)
{
    static const uint16_t mostly[] = {0, 0, 0, 0, 0, 0, 0, 1, 1, 2};
    return mostly[mixer_below(mixer, COUNT(mostly))];
}

/* A packet as most are, of the mixer's addresses, ports and tags, and of others. */
static uint32_t plain_packet(struct mixer *mixer, uint8_t *bytes)
{
    static const uint16_t port[] = {80, 443, 53, 40000, 40001, 1000, 5123, 61000, 4789};
    static const uint8_t protocol[] = {6, 6, 17, 17, 132, 1, 58, 51, 44, 136};
    uint8_t *at = bytes;
    bool six = mixer_below(mixer, 3) == 0, tagged = mixer_below(mixer, 3) == 0;
    uint8_t next = protocol[mixer_below(mixer, mixer_below(mixer, 3) ? 4 : COUNT(protocol))];
    memset(bytes, 0, 120);
    for (unsigned end = 0; end < 2; end++, at += 6) {
        at[0] = 2;
        at[4] = (uint8_t)(mixer_below(mixer, 4) << 6);
        at[5] = (uint8_t)mixer_below(mixer, 14);
    }
    if (tagged) {
        memcpy(at, "\x81\x00", 2);
        at[2] = (uint8_t)(mixer_below(mixer, 16) << 4);
        at[3] = (uint8_t)mixer_below(mixer, 20);
        at += 4;
    }
    memcpy(at, six ? "\x86\xdd\x60" : "\x08\x00\x45", 3);
    at += 2;
    at[six ? 5 : 3] = (uint8_t)mixer_below(mixer, 70); /* a length, mostly too short or too long */
    at[six ? 6 : 9] = next;
    if (!six && mixer_below(mixer, 6) == 0)
        at[6 + mixer_below(mixer, 2)] = (uint8_t)mixer_below(mixer, 64);
    at += six ? 8 : 12;
    for (unsigned end = 0; end < 2; end++, at += six ? 16 : 4) {
        uint32_t host = mixer_below(mixer, 14);
        memcpy(at, six ? "\x20\x01\x0d\xb8" : "\x0a\x00\x00\x00", 4);
        at[six ? 5 : 1] = (uint8_t)(mixer_below(mixer, 2) ? 0 : mixer_below(mixer, 14));
        at[2] += six ? 0 : (uint8_t)(host / 6);
        at[six ? 15 : 3] = (uint8_t)host;
    }
    for (unsigned end = 0; end < 2; end++, at += 2) {
        uint32_t number = port[mixer_below(mixer, COUNT(port))] + mixer_below(mixer, 2);
        at[0] = (uint8_t)(number >> 8);
        at[1] = (uint8_t)number;
    }
    uint32_t count = (uint32_t)(at - bytes) + mixer_below(mixer, 30);
    return mixer_below(mixer, 8) == 0 ? mixer_below(mixer, count) : count;
}

static void add_random(struct mixer *mixer, bool plain, struct packets *packets, int64_t time_ns)
{
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t count = plain ? plain_packet(mixer, bytes) : mixer_packet(mixer, bytes);
    if (mixer_below(mixer, 10) == 0) { /* nothing but chance, behind a beginning that is plain */
        uint32_t kept = mixer_below(mixer, 60);
        for (uint32_t i = kept; i < count; i++)
            bytes[i] = (uint8_t)mixer_random(mixer);
    }
    packets_add(packets, draw_interface(mixer), bytes, count, time_ns);
}

static void test_random(void **unused)
{
    (void)unused;
    static char text[TEXT_MAX];
    struct mixer mixer = {seed};
    unsigned long judged = 0, alike = 0;
    for (unsigned i = 0; i < lists; i++) {
        make_list(&mixer, text);
        struct trio trio = {text, state_of(text), state_of(text), state_of(text), 0, 0};
        struct packets packets = {.count = 0};
        int64_t time_ns = 0;
        for (unsigned batch = 0; batch < 40; batch++) { /* enough for a pause to end */
            uint32_t count = 1 + mixer_below(&mixer, TOGETHER);
            while (packets.count < count)
                add_random(&mixer, batch % 4 != 0, &packets, time_ns += 1000000);
            compare(&trio, &packets);
            packets_clear(&packets);
        }
        for (unsigned whole = 0; whole < 10; whole++) { /* every truncation */
            uint8_t bytes[MIXED_BYTES_MAX];
            uint32_t count = whole % 2 ? mixer_packet(&mixer, bytes) : plain_packet(&mixer, bytes);
            for (uint32_t cut = 0; cut <= count; cut++) {
                packets_add(&packets, 0, bytes, cut, time_ns += 1000000);
                if (packets.count == TOGETHER || cut == count) {
                    compare(&trio, &packets);
                    packets_clear(&packets);
                }
            }
        }
        compare_counters(&trio);
        judged += trio.judged;
        alike += trio.alike;
        rule_state_close(&trio.plain);
        rule_state_close(&trio.together);
        rule_state_close(&trio.judging);
    }
    print_message("%lu packets judged, %lu of them together\n", judged, alike);
    assert_true(alike > 0 && alike < judged);
}

/* ---- what is passed ------------------------------------------------------------------------- */

static struct sieve *sieve_of(const char *text)
{
    struct rule_list list;
    struct sieve *sieve;
    struct failure failure = {0};
    if (rule_list_parse(text, &list, NULL, &failure) < 0)
        fail_msg("%s", failure.text);
    assert_int_equal(sieve_open(&list, &sieve), 0);
    rule_list_clear(&list);
    return sieve;
}

/* Whether a packet is left, behind one that is not. */
static uint32_t lefts(const struct sieve *sieve, const char *text, uint16_t interface)
{
    static struct made_packet first, made;
    struct packet packet[2];
    char error[200];
    uint8_t left[DECODE_BATCH] = {0};
    if (packet_make("eth / ip 10.1.0.1 10.1.0.2 / tcp 9 9", &first, error) < 0 ||
        packet_make(text, &made, error) < 0)
        fail_msg("%s: %s", text, error);
    packet[0] = first.packet;
    packet[1] = made.packet;
    packet[1].interface = interface;
    uint32_t count = sieve_pass(sieve, packet, 2, 0, left);
    assert_true(count == 0 || (count == 1 && left[0] == 1));
    return count;
}

/* A list that asks for little, and packets that it asks nothing of, or something. */
static void test_passed(void **unused)
{
    (void)unused;
    static const char *const passed[] = {
        "eth / ip 10.1.0.1 10.1.0.2 / tcp 40000 80 / data 9",
        "eth / ip 10.1.0.1 10.1.0.2 / udp 40000 53 / data 9",
        "eth / ip 10.1.0.1 10.1.0.2 / sctp 40000 80",
        "eth / vlan 6 / ip 10.2.0.8 10.1.0.2 / udp 5000 53",
        "eth / ip6 2001:db8:1::1 2001:db8:2::1 / tcp 40000 80",
        "eth / vlan 6 / ip6 2001:db8:1::1 2001:db8:2::1 / udp 40000 8080",
        "eth / ip 10.1.0.1 10.1.0.2 / udp 40000 443", /* the rule wants another address, too */
        "eth / ip 10.1.0.1 10.1.0.2 frag=8 / data 30",
        "eth / ip 10.1.0.1 10.1.0.2 / icmp / data 30",
        "eth / ip 192.0.2.1 10.1.0.2 / tcp 40000 80", /* beyond the rule that is always there */
    };
    static const char *const left[] = {
        "eth / ip 10.2.0.7 10.1.0.2 / tcp 40000 80",
        "eth / ip 10.1.0.1 10.2.0.7 / udp 4000 80",
        "eth / ip 10.1.0.1 10.1.0.2 / tcp 8080 5000",
        "eth / ip 10.1.0.1 10.1.0.2 / tcp 5 8080",
        "eth / vlan 5 / ip 10.1.0.1 10.1.0.2 / udp 8080 9",
        "eth / ip6 2001:db8:1::1 2001:db8:3::1 / udp 40000 443",
        "eth / ip 10.1.0.1 10.9.0.1 / tcp 1 2", /* the last rule's */
        "eth 02:00:00:00:00:07 02:00:00:00:00:01 / ip 10.1.0.1 10.1.0.2 / tcp 1 2",
        /* Not plain: what of them holds is for decoding to find. */
        "eth / vlan 6 / vlan 5 / ip 10.1.0.1 10.1.0.2 / tcp 1 2",
        "eth / qinq 6 / ip 10.1.0.1 10.1.0.2 / tcp 1 2",
        "eth / ip 10.1.0.1 10.1.0.2 opt=4 / tcp 1 2",
        "eth / ip 10.1.0.1 10.1.0.2 / ah 12 / tcp 1 2",
        "eth / ip6 2001:db8:1::1 2001:db8:2::1 / hbh 8 / tcp 1 2",
        "eth / ip6 2001:db8:1::1 2001:db8:2::1 / fragment 8 / data 30",
        "eth / mpls 5 / ip 10.1.0.1 10.1.0.2 / tcp 1 2",
        "eth / arp",
        "eth / ip 10.1.0.1 10.1.0.2 / udp 1 2 / data 20 / meta cap=41",
    };
    struct sieve *sieve = sieve_of("ip 10.2.0.7 : discard\n"
                                   "tcp port 8080-8089 : headers l3\n"
                                   "vlan 5 : discard\n"
                                   "mac 02:00:00:00:00:07 : full\n"
                                   "ip 2001:db8:3::/48 and udp port 443 : discard\n"
                                   "not ip 10.9.0.0/16 and interface eth7 : snap 9\n"
                                   "all : full\n"
                                   "ip 192.0.2.0/24 : discard\n");
    for (size_t i = 0; i < COUNT(passed); i++) {
        if (lefts(sieve, passed[i], 0) != 0)
            fail_msg("left: %s", passed[i]);
        if (lefts(sieve, passed[i], 3) != 1)
            fail_msg("passed for another interface: %s", passed[i]);
    }
    for (size_t i = 0; i < COUNT(left); i++) {
        if (lefts(sieve, left[i], 0) != 1)
            fail_msg("passed: %s", left[i]);
    }
    sieve_close(&sieve);
    assert_null(sieve);

    /* Where no ports are asked for, they may be missing, or anywhere. */
    sieve = sieve_of("ip 10.2.0.7 : discard\n");
    assert_int_equal(lefts(sieve, "eth / ip 10.1.0.1 10.1.0.2 / ah 12 / tcp 1 2", 0), 0);
    assert_int_equal(lefts(sieve, "eth / ip 10.1.0.1 10.2.0.7 / ah 12 / tcp 1 2", 0), 1);
    sieve_close(&sieve);

    /* Nothing is asked for. */
    assert_null(sieve_of("interface eth0 : full\nall : full\nip 10.2.0.7 : discard\n"));
    assert_null(sieve_of(""));
}

int main(int argc, char **argv)
{
    lists = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : lists;
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : seed;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passed),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
