/*
 * test_classifier.c - the recorder's side of layer 7, with a process that does what the test wants
 * (lib/fake_classify.c): names, verdicts, bounds, and every way in which a process can go wrong.
 *
 * Nothing here has a time limit: what must happen is waited for.
 */
#include "unit_test.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "classifier.h"
#include "classifier_queue.h"

static char folder[] = "/tmp/test_classifier.XXXXXX";

/* ---- packets --------------------------------------------------------------------------------- */

struct made {
    uint8_t byte[128];
    struct packet packet;
    struct decoded_packet decoded;
};

enum { UDP = PROTOCOL_UDP, TCP = PROTOCOL_TCP };

/* Ethernet, IPv4, and a payload of four bytes that ends in `last`; none for TCP where last is 0.
 * The flow is in the source's address and port; `back` turns the packet around. */
static void make(struct made *made, uint8_t protocol, uint32_t flow, bool back, uint8_t last,
                 uint8_t tcp_flags)
{
    uint8_t *ip = made->byte + 14, *l4 = ip + 20;
    uint32_t l4_bytes = protocol == TCP ? 20 : 8, payload = protocol == TCP && last == 0 ? 0 : 4;
    memset(made, 0, sizeof *made);
    made->byte[12] = 0x08;
    ip[0] = 0x45;
    ip[3] = (uint8_t)(20 + l4_bytes + payload);
    ip[8] = 64;
    ip[9] = protocol;
    const uint8_t here[4] = {10, (uint8_t)(flow >> 24), (uint8_t)(flow >> 16), 1};
    const uint8_t there[4] = {192, 168, 0, 1};
    memcpy(ip + 12, back ? there : here, 4);
    memcpy(ip + 16, back ? here : there, 4);
    uint8_t *flow_port = l4 + (back ? 2 : 0), *other_port = l4 + (back ? 0 : 2);
    flow_port[0] = (uint8_t)(flow >> 8);
    flow_port[1] = (uint8_t)flow;
    other_port[1] = 53;
    if (protocol == TCP) {
        l4[12] = 5 << 4;
        l4[13] = tcp_flags;
    } else {
        l4[5] = (uint8_t)(8 + payload);
    }
    if (payload)
        l4[l4_bytes + 3] = last;
    made->packet = (struct packet){.bytes = made->byte,
                                   .captured_bytes = 14 + 20 + l4_bytes + payload,
                                   .original_bytes = 14 + 20 + l4_bytes + payload,
                                   .time_ns = 1700000000000000000};
    decode_packet(LINK_ETHERNET, made->byte, made->packet.captured_bytes, &made->decoded);
}

static struct rule_verdict ask(struct classifier_port *port, const struct made *made)
{
    return classifier_verdict(port, &made->packet, &made->decoded);
}

static struct rule_verdict ask_udp(struct classifier_port *port, uint32_t flow, uint8_t last)
{
    struct made made;
    make(&made, UDP, flow, false, last, 0);
    return ask(port, &made);
}

/* ---- the process -------------------------------------------------------------------------------
 */

struct world {
    char program[PATH_MAX];
    struct classifier *classifier;
    struct classifier_port *port;
    char said[8][512]; /* the last sentences */
    atomic_uint sentences;
};

static void heard(void *context, const char *severity, const char *sentence)
{
    struct world *world = context;
    assert_string_equal(severity, "warning");
    unsigned number = atomic_load(&world->sentences) % 8;
    snprintf(world->said[number], sizeof world->said[number], "%s", sentence);
    atomic_fetch_add(&world->sentences, 1);
}

static void world_open(struct world *world, const char *mode, uint32_t flows)
{
    struct failure failure = {0};
    char fake[PATH_MAX];
    const char *bin = getenv("TAPELOOP_TEST_BIN");
    *world = (struct world){0};
    assert_non_null(bin);
    snprintf(fake, sizeof fake, "%s/tapeloop-classify-fake", bin);
    snprintf(world->program, sizeof world->program, "%s/%s", folder, mode);
    if (symlink(fake, world->program) != 0)
        assert_int_equal(access(world->program, X_OK), 0); /* made before */
    struct classifier_options options = {.program = world->program,
                                         .say = heard,
                                         .context = world,
                                         .restart_ms = 1,
                                         .hang_ms = strcmp(mode, "hang") == 0 ? 400 : 60000};
    assert_int_equal(classifier_open(&options, &world->classifier, &failure), 0);
    assert_int_equal(classifier_port_open(world->classifier, flows, &world->port, &failure), 0);
}

static void world_close(struct world *world)
{
    classifier_port_close(&world->port);
    classifier_close(&world->classifier);
    assert_null(world->classifier);
}

static struct classifier_counters counters_of(struct world *world)
{
    struct classifier_counters counters;
    classifier_counters(world->classifier, &counters);
    return counters;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* Until the process `starts` is ready, and the port lends to it. */
static void await_start(struct world *world, uint64_t starts)
{
    struct classifier_counters counters;
    do {
        nap();
        classifier_port_turn(world->port); /* who lies is found out */
        counters = counters_of(world);
    } while (counters.starts < starts || !counters.running);
    classifier_port_turn(world->port);
}

/* Until the process has taken everything and been heard. */
static void await_taken(struct world *world)
{
    while (classifier_port_pending(world->port) > 0) {
        nap();
        classifier_port_turn(world->port); /* may see it dead */
    }
    classifier_port_turn(world->port);
}

static void assert_verdict(struct rule_verdict verdict, uint16_t app)
{
    assert_false(verdict.unknown);
    assert_int_equal(verdict.app[0], 0);
    assert_int_equal(verdict.app[1], app);
}

static bool has_said(struct world *world, const char *words)
{
    unsigned sentences = atomic_load(&world->sentences);
    for (unsigned i = 0; i < sentences && i < 8; i++)
        if (strstr(world->said[i], words))
            return true;
    return false;
}

/* ---- names -------------------------------------------------------------------------------------
 */

static void test_missing(void **state)
{
    (void)state;
    struct failure failure = {0};
    struct classifier_options options = {.program = "/nonexistent/tapeloop-classify"};
    struct classifier *classifier;
    struct classifier_port *port = NULL;
    const char *const *name;
    uint32_t names;
    assert_int_equal(classifier_open(&options, &classifier, &failure), 0);
    assert_int_equal(classifier_names(classifier, &name, &names, &failure), ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "libndpi-dev"));
    assert_non_null(strstr(failure.text, options.program));
    assert_int_equal(classifier_port_open(classifier, 0, &port, &failure), ERR_UNSUPPORTED);
    assert_null(port);
    classifier_close(&classifier);
}

static void test_names(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    const char *const *name, *const *again;
    uint32_t names;
    world_open(&world, "honest", 0);
    assert_int_equal(classifier_names(world.classifier, &name, &names, &failure), 0);
    assert_int_equal(names, 3);
    assert_string_equal(name[0], "Alpha");
    assert_string_equal(name[2], "Gamma");
    assert_int_equal(classifier_names(world.classifier, &again, &names, &failure), 0);
    assert_ptr_equal(name, again);
    world_close(&world);

    /* What is odd gets a name of its own, printable and short. */
    world_open(&world, "names-twins", 0);
    assert_int_equal(classifier_names(world.classifier, &name, &names, &failure), 0);
    assert_int_equal(names, 4);
    assert_string_equal(name[0], "Alpha");
    assert_string_equal(name[1], "nDPI-2");
    assert_string_equal(name[2], "nDPI-3");
    assert_int_equal(strlen(name[3]), CLASSIFIER_NAME_BYTES - 1);
    assert_memory_equal(name[3], "Nul??xxx", 8);
    world_close(&world);
}

static void assert_names_fail(const char *mode, const char *sentence)
{
    struct world world;
    struct failure failure = {0};
    const char *const *name;
    uint32_t names;
    world_open(&world, mode, 0);
    assert_true(classifier_names(world.classifier, &name, &names, &failure) < 0);
    assert_int_equal(names, 0);
    if (!strstr(failure.text, sentence))
        fail_msg("%s: %s", mode, failure.text);
    world_close(&world);
}

static void test_names_refused(void **state)
{
    (void)state;
    assert_names_fail("names-none", "knows 0 protocols");
    assert_names_fail("names-many", "knows 4294967295 protocols");
    assert_names_fail("refuse", "no ?[31mway");
}

/* Rules were built with the names of the first process. */
static void test_names_change(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "names-other", 0);
    struct failure failure = {0};
    const char *const *name;
    uint32_t names;
    assert_int_equal(classifier_names(world.classifier, &name, &names, &failure), 0);
    assert_string_equal(name[1], "Beta");
    /* It dies of the first packet that it is lent, so not before its names were taken, however busy the machine is. */
    for (uint32_t flow = 0; !has_said(&world, "another one than before"); flow++) {
        (void)ask_udp(world.port, flow % 100, 'x');
        classifier_port_turn(world.port);
        nap();
    }
    assert_int_equal(classifier_names(world.classifier, &name, &names, &failure), 0);
    assert_string_equal(name[1], "Beta");
    assert_false(counters_of(&world).running);
    world_close(&world);
}

/* ---- verdicts ----------------------------------------------------------------------------------
 */

static void test_verdict(void **state)
{
    (void)state;
    struct world world;
    struct made made;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    for (uint32_t flow = 0; flow < 1000; flow++)
        assert_true(ask_udp(world.port, flow, flow % 4).unknown);
    await_taken(&world);
    for (uint32_t flow = 0; flow < 1000; flow++) {
        make(&made, UDP, flow, flow % 2, 'x', 0); /* either direction */
        assert_verdict(ask(world.port, &made), flow % 4);
    }
    assert_true(ask_udp(world.port, 1000, 1).unknown);
    struct classifier_counters counters = counters_of(&world);
    assert_int_equal(counters.lent, 1001);
    assert_int_equal(counters.verdicts, 1000);
    assert_int_equal(counters.unknown, 250);
    assert_int_equal(counters.skipped + counters.stale + counters.hangs, 0);
    assert_int_equal(counters.starts, 1);
    assert_int_equal(atomic_load(&world.sentences), 0);
    world_close(&world);
}

static void test_no_flow(void **state)
{
    (void)state;
    struct world world;
    struct made made;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    make(&made, UDP, 1, false, 1, 0);
    made.byte[13] = 0x06; /* ARP */
    decode_packet(LINK_ETHERNET, made.byte, made.packet.captured_bytes, &made.decoded);
    assert_verdict(ask(world.port, &made), 0);

    /* A first fragment is of its flow, a later one of none that could be known. */
    make(&made, UDP, 2, false, 2, 0);
    made.byte[14 + 6] = 0x20;
    decode_packet(LINK_ETHERNET, made.byte, made.packet.captured_bytes, &made.decoded);
    assert_true(ask(world.port, &made).unknown);
    await_taken(&world);
    assert_verdict(ask(world.port, &made), 2);
    assert_verdict(ask_udp(world.port, 2, 1), 2);
    made.byte[14 + 7] = 1;
    decode_packet(LINK_ETHERNET, made.byte, made.packet.captured_bytes, &made.decoded);
    for (int i = 0; i < 3; i++) {
        assert_true(ask(world.port, &made).unknown);
        await_taken(&world);
    }
    assert_int_equal(counters_of(&world).lent, 1);
    world_close(&world);
}

/* So many packets of a flow and no more; of TCP, four without payload besides, padding is none. */
static void test_lent_max(void **state)
{
    (void)state;
    struct world world;
    struct made made;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    for (int i = 0; i < 100; i++)
        assert_true(ask_udp(world.port, 1, 'x').unknown);
    assert_int_equal(counters_of(&world).lent, CLASSIFIER_LENT_MAX);
    for (int i = 0; i < 100; i++) {
        make(&made, TCP, 2, i % 2, 0, TCP_ACK);
        made.packet.captured_bytes += 6; /* to Ethernet's 60 bytes */
        assert_true(ask(world.port, &made).unknown);
    }
    assert_int_equal(counters_of(&world).lent, CLASSIFIER_LENT_MAX + CLASSIFIER_BARE_MAX);
    make(&made, TCP, 2, false, 3, TCP_ACK);
    assert_true(ask(world.port, &made).unknown);
    await_taken(&world);
    assert_verdict(ask(world.port, &made), 3);
    world_close(&world);
}

/* A name that may become a closer one is there at once, and stays when more packets come. */
static void test_named(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    assert_true(ask_udp(world.port, 1, 'N').unknown);
    await_taken(&world);
    assert_verdict(ask_udp(world.port, 1, 'N'), 1);
    assert_int_equal(counters_of(&world).verdicts, 0);
    assert_verdict(ask_udp(world.port, 1, 2), 1);
    await_taken(&world);
    assert_verdict(ask_udp(world.port, 1, 'x'), 2);
    assert_int_equal(counters_of(&world).verdicts, 1);
    assert_int_equal(counters_of(&world).lent, 3);
    world_close(&world);
}

static void test_anew(void **state)
{
    (void)state;
    struct world world;
    struct made made;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    make(&made, TCP, 1, false, 0, TCP_SYN);
    assert_true(ask(world.port, &made).unknown);
    assert_true(ask(world.port, &made).unknown); /* sent again: the same connection */
    make(&made, TCP, 1, false, 1, TCP_ACK);
    assert_true(ask(world.port, &made).unknown);
    assert_true(ask_udp(world.port, 1, 2).unknown);
    await_taken(&world);
    assert_verdict(ask(world.port, &made), 1);
    made.packet.time_ns += 3600 * INT64_C(1000000000); /* TCP that was silent goes on */
    assert_verdict(ask(world.port, &made), 1);
    int64_t later_ns = made.packet.time_ns;
    make(&made, TCP, 1, false, 0, TCP_SYN); /* the same ports once more */
    made.packet.time_ns = later_ns;
    assert_true(ask(world.port, &made).unknown);
    make(&made, TCP, 1, true, 3, TCP_ACK);
    made.packet.time_ns = later_ns;
    assert_true(ask(world.port, &made).unknown);
    await_taken(&world);
    assert_verdict(ask(world.port, &made), 3);

    make(&made, UDP, 1, false, 'x', 0);
    made.packet.time_ns += CLASSIFIER_IDLE_S * INT64_C(1000000000);
    assert_verdict(ask(world.port, &made), 2);
    made.packet.time_ns += (CLASSIFIER_IDLE_S + 1) * INT64_C(1000000000);
    assert_true(ask(world.port, &made).unknown);
    /* Wild times do no more than that. */
    made.packet.time_ns = INT64_MIN;
    (void)ask(world.port, &made);
    made.packet.time_ns = INT64_MAX;
    (void)ask(world.port, &made);
    world_close(&world);
}

static void test_settle(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(classifier_port_settle(world.port, 60000), 0);
    world_close(&world);
    world_open(&world, "deaf", 0);
    await_start(&world, 1);
    assert_int_equal(classifier_port_settle(world.port, 50), ERR_TIMEOUT);
    world_close(&world);
}

/* ---- bounds ------------------------------------------------------------------------------------
 */

static void test_queue_full(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "deaf", 0);
    await_start(&world, 1);
    for (uint32_t flow = 0; flow < 10000; flow++) {
        assert_true(ask_udp(world.port, flow, 1).unknown);
        if (flow % 256 == 0)
            classifier_port_turn(world.port);
    }
    struct classifier_counters counters = counters_of(&world);
    assert_int_equal(counters.lent, CLASSIFIER_LENT_SLOTS);
    assert_int_equal(counters.skipped, 10000 - CLASSIFIER_LENT_SLOTS);
    assert_int_equal(classifier_port_pending(world.port), CLASSIFIER_LENT_SLOTS);
    world_close(&world);

    /* Whoever is slow only loses time: what was skipped is lent when the flow goes on. */
    world_open(&world, "slow", 0);
    await_start(&world, 1);
    uint32_t judged = 0;
    while (judged < CLASSIFIER_LENT_SLOTS + 100) {
        judged = 0;
        for (uint32_t flow = 0; flow < CLASSIFIER_LENT_SLOTS + 100; flow++) {
            struct rule_verdict verdict = ask_udp(world.port, flow, flow % 4);
            if (!verdict.unknown) {
                assert_verdict(verdict, flow % 4);
                judged++;
            }
        }
        classifier_port_turn(world.port);
        nap();
    }
    assert_true(counters_of(&world).skipped > 0);
    world_close(&world);
}

/* More flows than are remembered: the ones that come back are judged again, never wrongly. */
static void test_table_full(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "honest", 64);
    await_start(&world, 1);
    for (uint32_t flow = 0; flow < 100000; flow++) {
        struct rule_verdict verdict = ask_udp(world.port, flow % 1000, flow % 4);
        if (!verdict.unknown)
            assert_verdict(verdict, flow % 4);
        if (flow % 256 == 0)
            classifier_port_turn(world.port);
    }
    await_taken(&world);
    uint32_t judged = 0;
    for (uint32_t flow = 0; flow < 1000; flow++) {
        struct rule_verdict verdict = ask_udp(world.port, flow, flow % 4);
        if (!verdict.unknown)
            assert_verdict(verdict, flow % 4);
        judged += !verdict.unknown;
    }
    assert_true(judged <= 64);
    /* A flow whose place was taken before its verdict came. */
    struct classifier_counters counters = counters_of(&world);
    assert_true(counters.stale > 0);
    assert_true(counters.verdicts + counters.stale <= counters.lent);
    world_close(&world);

    struct failure failure = {0};
    world_open(&world, "honest", 0);
    struct classifier_port *port = NULL;
    assert_int_equal(
        classifier_port_open(world.classifier, CLASSIFIER_FLOWS_MAX + 1, &port, &failure),
        ERR_TOO_LARGE);
    assert_null(port);
    world_close(&world);
}

static void test_ports(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    struct classifier_port *port[CLASSIFIER_PORTS_MAX] = {0}, *more = NULL;
    world_open(&world, "honest", 0);
    await_start(&world, 1);
    for (uint32_t i = 1; i < CLASSIFIER_PORTS_MAX; i++)
        assert_int_equal(classifier_port_open(world.classifier, 16, &port[i], &failure), 0);
    assert_int_equal(classifier_port_open(world.classifier, 16, &more, &failure), ERR_TOO_LARGE);
    for (uint32_t round = 0; round < 3; round++) {
        /* The same flow at two ports is two flows; one that was closed leaves nothing behind. */
        classifier_port_turn(port[1]);
        classifier_port_turn(port[2]);
        assert_true(ask_udp(port[1], 1, 1).unknown);
        assert_true(ask_udp(port[2], 1, 2).unknown);
        while (classifier_port_pending(port[1]) + classifier_port_pending(port[2]) > 0)
            nap();
        classifier_port_turn(port[1]);
        classifier_port_turn(port[2]);
        assert_verdict(ask_udp(port[1], 1, 'x'), 1);
        assert_verdict(ask_udp(port[2], 1, 'x'), 2);
        for (uint32_t i = 1; i <= 2; i++) {
            assert_true(ask_udp(port[i], 2, 3).unknown); /* under way as it is closed */
            classifier_port_close(&port[i]);
            /* As soon as the process has let go of it. */
            while (classifier_port_open(world.classifier, 16, &port[i], &failure) != 0)
                nap();
        }
    }
    assert_int_equal(counters_of(&world).lent, 3 * 4); /* of ports that are closed, too */
    assert_int_equal(counters_of(&world).starts, 1);
    for (uint32_t i = 1; i < CLASSIFIER_PORTS_MAX; i++)
        classifier_port_close(&port[i]);
    world_close(&world);
}

/* ---- processes that go wrong
 * --------------------------------------------------------------------- */

/* Asks for `flows` flows again and again, until another process has judged all of them. */
static void feed_until_judged(struct world *world, uint32_t flows, uint64_t starts)
{
    uint32_t judged = 0;
    while (judged < flows || counters_of(world).starts < starts) {
        judged = 0;
        for (uint32_t flow = 0; flow < flows; flow++) {
            struct rule_verdict verdict = ask_udp(world->port, flow, flow % 4);
            if (verdict.unknown)
                continue;
            assert_verdict(verdict, flow % 4);
            judged++;
        }
        classifier_port_turn(world->port);
        nap();
    }
}

static void test_hang(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "hang", 0);
    feed_until_judged(&world, 500, 2);
    struct classifier_counters counters = counters_of(&world);
    assert_true(counters.hangs >= 1); /* more, where this machine has no time for it */
    assert_true(counters.starts >= 2);
    assert_true(has_said(&world, "hung"));
    world_close(&world);
}

/* It dies again and again while packets come as fast as they can: no call waits for anything, and
 * no verdict is wrong. */
static void test_dies(void **state)
{
    (void)state;
    struct world world;
    struct rusage before, after;
    struct made made;
    uint64_t packets = 0, judged = 0;
    world_open(&world, "mortal", 1 << 16);
    await_start(&world, 1);
    long waits = 0;
    while (counters_of(&world).starts < 8 || judged == 0) {
        getrusage(RUSAGE_THREAD, &before);
        for (uint32_t i = 0; i < 10000; i++, packets++) {
            uint32_t flow = (uint32_t)(packets / 8 % 50000);
            make(&made, UDP, flow, packets % 2, flow % 4, 0);
            struct rule_verdict verdict = ask(world.port, &made);
            if (!verdict.unknown) {
                assert_verdict(verdict, flow % 4);
                judged++;
            }
            if (i % 256 == 0)
                classifier_port_turn(world.port);
        }
        getrusage(RUSAGE_THREAD, &after);
        waits += after.ru_nvcsw - before.ru_nvcsw;
    }
    print_message("%llu packets, %llu judged, %ld waits\n", (unsigned long long)packets,
                  (unsigned long long)judged, waits);
    assert_int_equal(waits, 0);
    assert_true(judged > 0);
    assert_true(has_said(&world, "signal 9"));
    assert_int_equal(counters_of(&world).hangs, 0);
    world_close(&world);
}

/* Flows that were judged before it died stay so; those that were not are lent again. */
static void test_dies_once(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "hang", 0);
    await_start(&world, 1);
    for (uint32_t flow = 0; flow < 10; flow++)
        (void)ask_udp(world.port, flow, 1 + flow % 3);
    for (uint32_t flow = 10; flow < 20; flow++)
        for (int i = 0; i < (flow < 15 ? 5 : 20); i++)
            (void)ask_udp(world.port, flow, flow < 15 ? 'N' : 'x');
    assert_int_equal(counters_of(&world).lent, 10 + 5 * 5 + 5 * CLASSIFIER_LENT_MAX);
    await_taken(&world); /* or dead: it hangs after 100 */
    await_start(&world, 2);
    for (uint32_t flow = 0; flow < 10; flow++)
        assert_verdict(ask_udp(world.port, flow, 'x'), (uint16_t)(1 + flow % 3));
    for (uint32_t flow = 10; flow < 15; flow++)
        assert_verdict(ask_udp(world.port, flow, 'x'), 1); /* the name that was known */
    for (uint32_t flow = 15; flow < 20; flow++)
        assert_true(ask_udp(world.port, flow, 3).unknown);
    await_taken(&world);
    for (uint32_t flow = 15; flow < 20; flow++)
        assert_verdict(ask_udp(world.port, flow, 'x'), 3);
    world_close(&world);
}

static void test_lies(void **state)
{
    (void)state;
    static const char *const mode[] = {"lie-said", "lie-taken", "lie-app"};
    for (size_t i = 0; i < sizeof mode / sizeof mode[0]; i++) {
        struct world world;
        world_open(&world, mode[i], 0);
        await_start(&world, 1);
        feed_until_judged(&world, 3000, 2);
        assert_int_equal(counters_of(&world).starts, 2);
        assert_true(has_said(&world, "cannot know"));
        world_close(&world);
    }
}

/* Verdicts for flows and serials that nobody asked for change nothing. */
static void test_lies_about_flows(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, "lie-flows", 0);
    await_start(&world, 1);
    feed_until_judged(&world, 100, 1);
    struct classifier_counters counters = counters_of(&world);
    assert_true(counters.stale >= 100 * 1998);
    assert_int_equal(counters.verdicts, 100);
    world_close(&world);
}

/* All of the memory changes while it is looked at. */
static void test_noise(void **state)
{
    (void)state;
    struct world world;
    struct made made;
    world_open(&world, "lie-noise", 1024);
    await_start(&world, 1);
    while (counters_of(&world).starts < 2) {
        for (uint32_t flow = 0; flow < 5000; flow++) {
            make(&made, UDP, flow, false, flow % 4, 0);
            struct rule_verdict verdict = ask(world.port, &made);
            assert_true(verdict.app[0] <= 3 && verdict.app[1] <= 3);
            if (flow % 100 == 0)
                classifier_port_turn(world.port);
        }
        (void)classifier_port_pending(world.port);
    }
    world_close(&world);
    /* The next one is believed again. */
    world_open(&world, "lie-noise", 1024);
    await_start(&world, 2);
    assert_true(ask_udp(world.port, 1, 2).unknown);
    while (ask_udp(world.port, 1, 2).unknown) {
        classifier_port_turn(world.port);
        nap();
    }
    assert_verdict(ask_udp(world.port, 1, 'x'), 2);
    world_close(&world);
}

/* ---- all
 * ------------------------------------------------------------------------------------------ */

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[PATH_MAX];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_refused), cmocka_unit_test(test_names_change),
        cmocka_unit_test(test_verdict),       cmocka_unit_test(test_no_flow),
        cmocka_unit_test(test_lent_max),      cmocka_unit_test(test_named),
        cmocka_unit_test(test_anew),          cmocka_unit_test(test_settle),
        cmocka_unit_test(test_queue_full),    cmocka_unit_test(test_table_full),
        cmocka_unit_test(test_ports),         cmocka_unit_test(test_hang),
        cmocka_unit_test(test_dies),          cmocka_unit_test(test_dies_once),
        cmocka_unit_test(test_lies),          cmocka_unit_test(test_lies_about_flows),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
