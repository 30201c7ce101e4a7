/*
 * test_rules.c - what the golden files do not show: lists being edited, memory of connections,
 * tables against a slow search, programs that are shared and exchanged while packets come.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit_test.h"

#include "bit_classes.h"
#include "decode.h"
#include "flow_bytes.h"
#include "packet_maker.h"
#include "prefix_table.h"
#include "program.h"
#include "rule_json.h"
#include "rule_text.h"
#include "rules_oracle.h"

static uint64_t random_state = 20;

/* splitmix64 */
static uint64_t draw(uint64_t bound)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % bound;
}

static void parse(const char *text, struct rule_list *list)
{
    struct failure failure = {0};
    if (rule_list_parse(text, list, NULL, &failure) < 0)
        fail_msg("%s", failure.text);
}

static struct rule_program *program_of(const char *text)
{
    struct rule_list list;
    struct rule_program *program;
    struct failure failure = {0};
    parse(text, &list);
    if (rule_program_build(&list, NULL, &program, &failure) < 0)
        fail_msg("%s", failure.text);
    rule_list_clear(&list);
    return program;
}

/* A state that alone holds its program, and knows of Ethernet interface 0. */
static struct rule_state *state_of(const char *text, const struct rule_state_options *options)
{
    static const struct interface_description about = {.link_type = LINK_ETHERNET, .name = "eth0"};
    struct rule_program *program = program_of(text);
    struct rule_state *state;
    assert_int_equal(rule_state_open(program, options, &state, NULL), 0);
    rule_program_release(&program);
    assert_null(program);
    assert_int_equal(rule_state_interface(state, 0, &about, NULL), 0);
    return state;
}

static struct rule_outcome apply(struct rule_state *state, const struct made_packet *made)
{
    struct decoded_packet decoded;
    struct rule_outcome outcome;
    decode_packet(made->link_type, made->packet.bytes, made->packet.captured_bytes, &decoded);
    rule_state_apply(state, &made->packet, &decoded, RULE_VERDICT_NONE, &outcome);
    return outcome;
}

static void make(const char *text, struct made_packet *made)
{
    char error[200];
    if (packet_make(text, made, error) < 0)
        fail_msg("%s", error);
}

static void assert_list(const struct rule_list *list, const char *wanted)
{
    char *printed = rule_list_print(list);
    assert_string_equal(printed, wanted);
    free(printed);
}

static void test_edit(void **unused)
{
    (void)unused;
    struct rule_list list, copy;
    struct rule rule;
    struct failure failure = {0};
    parse("vlan 1 : full\nvlan 2 : discard\n", &list);
    assert_int_equal(rule_parse("app tls until known: snap 9 : discard", &rule, NULL, NULL), 0);
    assert_int_equal(rule_list_insert(&list, 3, &rule, &failure), ERR_INVALID);
    assert_int_equal(rule_list_insert(&list, 1, &rule, &failure), 0);
    assert_int_equal(rule.conditions, 0);
    assert_list(&list, "vlan 1 : full\napp tls until known: snap 9 : discard\nvlan 2 : discard\n");
    assert_int_equal(rule_list_move(&list, 0, true, &failure), ERR_INVALID);
    assert_int_equal(rule_list_move(&list, 2, false, &failure), ERR_INVALID);
    assert_int_equal(rule_list_move(&list, 3, true, &failure), ERR_NOT_FOUND);
    assert_int_equal(rule_list_move(&list, 1, false, &failure), 0);
    assert_int_equal(rule_list_move(&list, 1, true, &failure), 0);
    assert_list(&list, "vlan 2 : discard\nvlan 1 : full\napp tls until known: snap 9 : discard\n");
    assert_int_equal(rule_list_copy(&list, &copy), 0);
    assert_int_equal(rule_list_remove(&list, 3, &failure), ERR_NOT_FOUND);
    assert_int_equal(rule_list_remove(&list, 1, &failure), 0);
    assert_list(&list, "vlan 2 : discard\napp tls until known: snap 9 : discard\n");
    assert_list(&copy, "vlan 2 : discard\nvlan 1 : full\napp tls until known: snap 9 : discard\n");
    rule_list_clear(&list);
    rule_list_clear(&copy);
    assert_list(&list, "");
}

static void test_limits(void **unused)
{
    (void)unused;
    struct rule_list list = {0};
    struct rule rule;
    struct rule_program *program;
    struct failure failure = {0};
    for (uint32_t i = 0; i < RULES_MAX; i++) {
        char text[80];
        snprintf(text, sizeof text, "ip 10.%u.%u.1 and vlan %u : snap 20", i / 256, i % 256,
                 i % 4096);
        assert_int_equal(rule_parse(text, &rule, NULL, NULL), 0);
        assert_int_equal(rule_list_insert(&list, list.count, &rule, &failure), 0);
    }
    assert_int_equal(rule_parse("all : full", &rule, NULL, NULL), 0);
    assert_int_equal(rule_list_insert(&list, 0, &rule, &failure), ERR_TOO_LARGE);
    assert_int_equal(rule.conditions, 1);
    rule_clear(&rule);
    assert_int_equal(rule_program_build(&list, NULL, &program, &failure), 0);
    struct rule_state *state;
    struct made_packet made;
    assert_int_equal(rule_state_open(program, NULL, &state, NULL), 0);
    make("eth / vlan 4095 / ip 10.15.255.1 1.1.1.1 / udp 1 2", &made);
    assert_int_equal(apply(state, &made).rule, RULES_MAX);
    rule_state_close(&state);
    rule_program_release(&program);
    rule_list_clear(&list);

    char long_text[RULE_TEXT_MAX + 2];
    memset(long_text, ' ', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    assert_int_equal(rule_parse(long_text, &rule, NULL, &failure), ERR_TOO_LARGE);
    const struct rule_state_options options = {.flows = RULE_FLOWS_MAX + 1};
    program = program_of("all : flow 1");
    assert_int_equal(rule_state_open(program, &options, &state, &failure), ERR_TOO_LARGE);
    rule_program_release(&program);
}

/* Random prefixes against a search of all of them. */
static void test_prefix_table(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 60; round++) {
        enum { COUNT_MAX = 120 };
        struct prefix prefix[COUNT_MAX], sorted[COUNT_MAX];
        uint32_t key_bytes = round % 3 == 0 ? 4 : round % 3 == 1 ? 6 : 16;
        uint32_t count = (uint32_t)draw(COUNT_MAX);
        memset(prefix, 0, sizeof prefix);
        for (uint32_t i = 0; i < count; i++) {
            prefix[i].bits = (uint8_t)draw(8 * key_bytes + 1);
            prefix[i].bit = i;
            for (uint32_t j = 0; j < prefix[i].bits; j++) { /* mostly zeros, so that they meet */
                if (draw(8) == 0)
                    prefix[i].key[j / 8] |= (uint8_t)(0x80 >> j % 8);
            }
        }
        memcpy(sorted, prefix, sizeof sorted);
        struct bit_classes classes;
        struct prefix_table table;
        assert_int_equal(bit_classes_open(&classes, 2), 0);
        assert_int_equal(prefix_table_open(&table, sorted, count, key_bytes, &classes, 1 << 26), 0);
        for (unsigned try = 0; try < 2000; try++) {
            uint8_t key[16] = {0};
            uint64_t wanted[2] = {0, 0};
            if (count > 0 && draw(2) == 0)
                memcpy(key, prefix[draw(count)].key, sizeof key);
            for (uint64_t flips = draw(4); flips > 0; flips--)
                key[draw(key_bytes)] ^= (uint8_t)(1 << draw(8));
            for (uint32_t i = 0; i < count; i++) {
                bool holds = true;
                for (uint32_t j = 0; j < prefix[i].bits && holds; j++)
                    holds = ((key[j / 8] ^ prefix[i].key[j / 8]) >> (7 - j % 8) & 1) == 0;
                wanted[i / 64] |= (uint64_t)holds << i % 64;
            }
            const uint64_t *found = bit_classes_get(&classes, prefix_table_class(&table, key));
            assert_memory_equal(found, wanted, sizeof wanted);
        }
        prefix_table_close(&table);
        bit_classes_close(&classes);
    }
}

/* Random lists and packets against the oracle: what nobody would write down. */
static void test_random_lists(void **unused)
{
    (void)unused;
    static const char *const kind[] = {"ip 10.0.#.0/24",
                                       "ip 10.0.0.#",
                                       "tcp port #",
                                       "udp port #-40",
                                       "port #",
                                       "vlan #",
                                       "not vlan #",
                                       "not ip 10.0.#.0/25",
                                       "not tcp port #",
                                       "inner ip 10.0.#.1",
                                       "not inner port #",
                                       "all",
                                       "mac 02:00:00:00:00:0#",
                                       "bpf 'len > #'"};
    static const char *const action[] = {"full",       "discard",         "snap 30",
                                         "headers l3", "headers l3+l4+2", "sample 1/2"};
    for (unsigned round = 0; round < 150; round++) {
        static char text[200000];
        size_t at = 0;
        uint32_t rules = 1 + (uint32_t)draw(round % 3 == 0 ? 300 : 30);
        for (uint32_t i = 0; i < rules; i++) {
            for (uint64_t conditions = draw(4) + 1; conditions > 0; conditions--) {
                for (const char *from = kind[draw(COUNT(kind))]; *from != '\0'; from++)
                    text[at++] = *from == '#' ? (char)('0' + draw(6)) : *from;
                at +=
                    (size_t)snprintf(text + at, sizeof text - at, conditions > 1 ? " and " : " : ");
            }
            at +=
                (size_t)snprintf(text + at, sizeof text - at, "%s\n", action[draw(COUNT(action))]);
        }
        struct rule_list list;
        struct rule_state *state = state_of(text, NULL);
        parse(text, &list);
        for (unsigned i = 0; i < 200; i++) {
            char packet[300], tag[20] = "";
            struct made_packet made;
            struct oracle_memory memory = {0};
            struct oracle_outcome wanted;
            if (draw(2) == 0)
                snprintf(tag, sizeof tag, "vlan %u / ", (unsigned)draw(6));
            if (draw(4) == 0)
                snprintf(packet, sizeof packet,
                         "eth / %sip 10.0.%u.1 10.0.0.%u / gre / ip 10.0.%u.1 10.0.9.9 / udp %u 7 "
                         "/ data 9",
                         tag, (unsigned)draw(6), (unsigned)draw(6), (unsigned)draw(6),
                         (unsigned)draw(6));
            else
                snprintf(packet, sizeof packet,
                         "eth / %sip 10.0.%u.1 10.0.0.%u / %s %u %u / data %u", tag,
                         (unsigned)draw(6), (unsigned)draw(6), draw(2) == 0 ? "tcp" : "udp",
                         (unsigned)draw(6), (unsigned)draw(60), (unsigned)draw(20));
            make(packet, &made);
            struct oracle_packet asked = {
                .packet = made.packet, .link_type = 1, .interface = "eth0"};
            struct rule_outcome outcome = apply(state, &made);
            oracle_apply(&list, &asked, &memory, &wanted);
            if (outcome.rule != wanted.rule || outcome.keep_bytes != wanted.keep_bytes ||
                "sdo"[outcome.decision] != wanted.decision)
                fail_msg("round %u, %s: rule %u, the oracle says %u, of\n%s", round, packet,
                         outcome.rule, wanted.rule, text);
            oracle_forget(&memory);
        }
        rule_state_close(&state);
        rule_list_clear(&list);
    }
    oracle_forget_expressions();
}

static void test_flow_bytes(void **unused)
{
    (void)unused;
    struct flow_bytes *table = flow_bytes_open(1000);
    assert_non_null(table);
    assert_true(flow_bytes_room(table) >= 1000 && flow_bytes_room(table) < 2048);
    assert_int_equal(flow_bytes_add(table, 77, 100, 0, 120, false), 0);
    assert_int_equal(flow_bytes_add(table, 77, 100, 0, 120, false), 100);
    assert_int_equal(flow_bytes_add(table, 77, UINT32_MAX, 0, 120, false), 200);
    assert_int_equal(flow_bytes_add(table, 77, 1, 0, 120, false),
                     UINT32_MAX); /* does not run over */
    assert_int_equal(flow_bytes_add(table, 77, 1, 0, 120, true), 0);
    /* A flood of others: the table stays as large as it is, and what was pushed out begins anew. */
    for (uint64_t i = 0; i < 100000; i++)
        flow_bytes_add(table, (i + 1000) * 0x9e3779b97f4a7c15u, 1, 1000000000, 120, false);
    assert_int_equal(flow_bytes_add(table, 77, 5, 2000000000, 120, false), 0);
    flow_bytes_close(&table);
    assert_null(table);
}

/* The memory of connections survives a change of rules, and the counters begin anew. */
static void test_handover_keeps_flows(void **unused)
{
    (void)unused;
    struct rule_handover handover = RULE_HANDOVER_EMPTY;
    struct rule_state *current = NULL;
    struct rule_state *next = state_of("all : flow 100", NULL);
    struct made_packet made;
    make("eth / ip 10.0.0.1 10.0.0.2 / udp 1 2 / data 200", &made);
    assert_false(rule_handover_take(&handover, &current));
    rule_handover_offer(&handover, &next);
    assert_null(next);
    assert_true(rule_handover_take(&handover, &current));
    assert_int_equal(apply(current, &made).decision, RULE_STORE);
    assert_int_equal(apply(current, &made).decision, RULE_DISCARD);

    next = state_of("vlan 9 : discard\nall : flow 100", NULL);
    rule_handover_offer(&handover, &next);
    next = state_of("vlan 8 : discard\nvlan 9 : discard\nall : flow 100", NULL);
    rule_handover_offer(&handover, &next); /* replaces the one that was not taken */
    assert_true(rule_handover_take(&handover, &current));
    struct rule_outcome outcome = apply(current, &made);
    assert_int_equal(outcome.rule, 3);
    assert_int_equal(outcome.decision, RULE_DISCARD);

    /* Nothing is taken while the one before has not been collected. */
    next = state_of("all : full", NULL);
    rule_handover_offer(&handover, &next);
    assert_false(rule_handover_take(&handover, &current));
    struct rule_state *retired = rule_handover_collect(&handover);
    assert_non_null(retired);
    struct rule_counters counters;
    rule_state_counters(retired, 1, &counters);
    assert_int_equal(counters.packets, 2);
    assert_int_equal(counters.discarded_packets, 1);
    assert_int_equal(counters.stored_bytes, 242);
    rule_state_close(&retired);
    assert_true(rule_handover_take(&handover, &current));
    assert_int_equal(apply(current, &made).decision, RULE_STORE);
    next = state_of("all : discard", NULL);
    rule_handover_offer(&handover, &next);
    rule_handover_clear(&handover);
    assert_null(rule_handover_collect(&handover));
    rule_state_close(&current);
}

struct exchange {
    struct rule_handover handover;
    _Atomic bool stop;
    uint64_t packets;
    uint64_t wrong;
};

/* Packets of two kinds; each list treats both alike in number: 32 bytes of one, 33 of the other, or
 * 40 and 41. */
static void *capture_thread(void *argument)
{
    struct exchange *exchange = argument;
    struct rule_state *state = NULL;
    struct made_packet *made = malloc(2 * sizeof *made);
    char error[200];
    if (made == NULL ||
        packet_make("eth / ip 10.0.0.1 10.0.0.2 / tcp 1 2 / data 100", &made[0], error) < 0 ||
        packet_make("eth / ip 10.0.0.1 10.0.0.2 / udp 1 2 / data 100", &made[1], error) < 0)
        abort();
    while (!atomic_load(&exchange->stop)) {
        rule_handover_take(&exchange->handover, &state);
        for (unsigned i = 0; i < 16 && state != NULL; i++) {
            uint32_t first = apply(state, &made[0]).keep_bytes,
                     second = apply(state, &made[1]).keep_bytes;
            exchange->packets += 2;
            exchange->wrong += !(first == 32 && second == 33) && !(first == 40 && second == 41);
        }
    }
    rule_state_close(&state);
    free(made);
    return NULL;
}

static uint64_t packets_of(const struct rule_state *state)
{
    struct rule_counters one, two;
    rule_state_counters(state, 1, &one);
    rule_state_counters(state, 2, &two);
    assert_int_equal(one.cut_packets, one.packets);
    return one.packets + two.packets;
}

static void test_exchange(void **unused)
{
    (void)unused;
    static struct exchange exchange;
    pthread_t thread;
    uint64_t counted = 0;
    struct rule_state *retired;
    assert_int_equal(pthread_create(&thread, NULL, capture_thread, &exchange), 0);
    for (unsigned i = 0; i < 1000; i++) {
        struct rule_state *next =
            state_of(i % 2 == 0 ? "tcp port 1 : snap 32\nudp port 1 : snap 33"
                                : "tcp port 1 : snap 40\nudp port 1 : snap 41",
                     NULL);
        rule_handover_offer(&exchange.handover, &next);
        while (i == 0 && atomic_load(&exchange.handover.offered) != NULL)
            sched_yield(); /* the first has none before it that would be given back */
        while (i > 0 && (retired = rule_handover_collect(&exchange.handover)) == NULL)
            sched_yield();
        if (i > 0) {
            counted += packets_of(retired);
            rule_state_close(&retired);
        }
    }
    /* The last state is the thread's: one more exchange gives it back. */
    struct rule_state *end = state_of("tcp port 1 : snap 32\nudp port 1 : snap 33", NULL);
    rule_handover_offer(&exchange.handover, &end);
    while ((retired = rule_handover_collect(&exchange.handover)) == NULL)
        sched_yield();
    counted += packets_of(retired);
    rule_state_close(&retired);
    atomic_store(&exchange.stop, true);
    pthread_join(thread, NULL);
    rule_handover_clear(&exchange.handover);
    assert_int_equal(exchange.wrong, 0);
    assert_true(counted <= exchange.packets && counted > 0);
}

/* One program, several threads, each with a state of its own; the last hold frees. */
static void *sharing_thread(void *argument)
{
    struct rule_program *program = argument;
    struct rule_state *state;
    struct made_packet *made = malloc(sizeof *made);
    char error[200];
    if (made == NULL || rule_state_open(program, NULL, &state, NULL) < 0 ||
        packet_make("eth / ip 10.0.0.1 10.0.0.2 / tcp 1 2 / data 100", made, error) < 0)
        abort();
    rule_program_release(&program);
    uint64_t discarded = 0;
    for (unsigned i = 0; i < 10000; i++)
        discarded += apply(state, made).decision == RULE_DISCARD;
    rule_state_close(&state);
    free(made);
    return (void *)(uintptr_t)discarded;
}

static void test_sharing(void **unused)
{
    (void)unused;
    struct rule_program *program = program_of("udp port 2 : full\nip 10.0.0.0/8 : discard");
    pthread_t thread[4];
    for (unsigned i = 0; i < COUNT(thread); i++)
        assert_int_equal(
            pthread_create(&thread[i], NULL, sharing_thread, rule_program_hold(program)), 0);
    rule_program_release(&program);
    for (unsigned i = 0; i < COUNT(thread); i++) {
        void *discarded;
        pthread_join(thread[i], &discarded);
        assert_int_equal((uintptr_t)discarded, 10000);
    }
}

/* An interface that was not told of: what asks for one holds neither way. */
static void test_unknown_interface(void **unused)
{
    (void)unused;
    struct rule_state *state = state_of("interface eth0 : snap 1\nnot interface eth0 : snap 2\n"
                                        "bpf 'tcp' : snap 3\nnot bpf 'tcp' : snap 4\nall : snap 5",
                                        NULL);
    struct made_packet made;
    make("eth / ip 10.0.0.1 10.0.0.2 / tcp 1 2", &made);
    assert_int_equal(apply(state, &made).rule, 1);
    assert_int_equal(rule_state_interfaces(state), 1);
    made.packet.interface = 3;
    assert_int_equal(apply(state, &made).rule, 5);
    struct interface_description about = {.link_type = LINK_RAW, .name = "tun0"};
    assert_int_equal(rule_state_interface(state, 3, &about, NULL), 0);
    assert_int_equal(rule_state_interfaces(state), 1); /* 1 and 2 are missing */
    assert_int_equal(apply(state, &made).rule, 2);
    made.packet.interface = 2;
    assert_int_equal(apply(state, &made).rule, 5);
    assert_int_equal(rule_state_interface(state, 65536, &about, NULL), ERR_TOO_LARGE);
    rule_state_close(&state);
}

static void test_needs(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        bool decoding;
    } list[] = {
        {"", false},
        {"all : discard", false},
        {"not interface eth0 and bpf 'tcp' : snap 9", false},
        {"all : headers l3", true},
        {"all : flow 9", true},
        {"all : sample 1/2", true},
        {"vlan 1 : full", true},
    };
    for (unsigned i = 0; i < COUNT(list); i++) {
        struct rule_program *program = program_of(list[i].text);
        assert_int_equal(rule_program_needs_decoding(program), list[i].decoding);
        assert_false(rule_program_needs_app(program));
        rule_program_release(&program);
    }
}

/* JSON that must be refused, and a word that the sentence must hold. */
static void test_json_refused(void **unused)
{
    (void)unused;
    static const char *const refused[][2] = {
        {"{}", "an array"},
        {"[7]", "expected an object"},
        {"[{}]", "conditions"},
        {"[{\"text\": \"all\"}]", "column 4"},
        {"[{\"text\": 7}]", "a string"},
        {"[{\"text\": \"all : full\", \"more\": 1}]", "more"},
        {"[{\"text\": \"all : full\", \"action\": {\"kind\": \"full\"}}]", "conditions"},
        {"[{\"text\": \"all : full\", \"conditions\": [{\"kind\": \"all\"}], \"action\": "
         "{\"kind\": \"discard\"}}]",
         "the same"},
        {"[{\"conditions\": [], \"action\": {\"kind\": \"full\"}}]", "1 to 16"},
        {"[{\"conditions\": [{\"kind\": \"all\"}]}]", "action"},
        {"[{\"conditions\": [{\"kind\": \"none\"}], \"action\": {\"kind\": \"full\"}}]",
         "conditions[0]"},
        {"[{\"conditions\": [{\"kind\": \"all\"}, {\"kind\": \"ip\"}], \"action\": {\"kind\": "
         "\"full\"}}]",
         "conditions[1]"},
        {"[{\"conditions\": [{\"kind\": \"all\", \"value\": \"x\"}], \"action\": {\"kind\": "
         "\"full\"}}]",
         "value"},
        {"[{\"conditions\": [{\"kind\": \"vlan\", \"value\": \"5\", \"inner\": true}], \"action\": "
         "{\"kind\": \"full\"}}]",
         "inner"},
        {"[{\"conditions\": [{\"kind\": \"vlan\", \"value\": \"5 and all\"}], \"action\": "
         "{\"kind\": \"full\"}}]",
         "column 3"},
        {"[{\"conditions\": [{\"kind\": \"ip\", \"value\": \"::1 : discard\"}], \"action\": "
         "{\"kind\": \"full\"}}]",
         "the end of the value"},
        {"[{\"conditions\": [{\"kind\": \"vlan\", \"value\": \"5\", \"not\": 1}], \"action\": "
         "{\"kind\": \"full\"}}]",
         "true or false"},
        {"[{\"conditions\": [{\"kind\": \"interface\", \"value\": \"a\\u0001\"}], \"action\": "
         "{\"kind\": \"full\"}}]",
         "control"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"snap\"}}]", "bytes"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"snap\", \"bytes\": "
         "0}}]",
         "from 1"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"snap\", \"bytes\": "
         "99999999}}]",
         "16777215"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"snap\", \"bytes\": "
         "1.5}}]",
         "bytes"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"headers\", \"layers\": "
         "\"l4\"}}]",
         "layers"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"headers\", \"layers\": "
         "\"l3\", \"bytes\": 1}}]",
         "l3+l4"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"sample\", \"one_in\": "
         "0}}]",
         "from 1"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"keep\"}}]", "discard"},
        {"[{\"conditions\": [{\"kind\": \"all\"}], \"action\": {\"kind\": \"full\"}, "
         "\"until_known\": {\"kind\": \"full\"}}]",
         "app"},
        {"[{\"conditions\": [{\"kind\": \"app\", \"value\": \"x\"}], \"action\": {\"kind\": "
         "\"full\"}, \"until_known\": {\"kind\": \"flow\", \"bytes\": 1}}]",
         "until_known"},
    };
    for (unsigned i = 0; i < COUNT(refused); i++) {
        struct rule_list list;
        struct failure failure = {0};
        json_t *json = json_loads(refused[i][0], 0, NULL);
        assert_non_null(json);
        assert_int_equal(rule_list_from_json(json, &list, &failure), ERR_INVALID);
        assert_int_equal(list.count, 0);
        if (strstr(failure.text, refused[i][1]) == NULL)
            fail_msg("%s: %s", refused[i][0], failure.text);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edit),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_prefix_table),
        cmocka_unit_test(test_random_lists),
        cmocka_unit_test(test_flow_bytes),
        cmocka_unit_test(test_handover_keeps_flows),
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_unknown_interface),
        cmocka_unit_test(test_needs),
        cmocka_unit_test(test_json_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
