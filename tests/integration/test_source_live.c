/*
 * test_source_live.c - the live sources against packets that are known byte for byte.
 *
 * All traffic stays between two network namespaces of our own (netns.h), and is bounded. Exits with
 * 77 where the machine does not permit that.
 */
#include <endian.h>
#include <linux/if_ether.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "netns.h"
#include "source.h"
#include "unit_test.h"

#define PAIRS 3
/* Nothing more comes when nothing has come for this long: many times what the kernel may gather
 * packets for. */
#define QUIET_MS 250
/* What must come is waited for no longer than so many times QUIET_MS: a test that hangs names nothing. */
#define QUIETS_MAX 400

static struct netns netns;

static const struct backend {
    const char *name;
    int (*open)(const struct source_live_options *options, struct source **source,
                struct failure *failure);
} backends[] = {{"AF_PACKET", source_packet_open}, {"libpcap", source_pcap_open}};

/* ---- known packets -------------------------------------------------------------------------- */

static const uint32_t lengths[] = {14,  15,   18,   22,   60,   64,   65,
                                   128, 1000, 1514, 1518, 2048, 4096, 9014};

static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};

#define FRAME_BYTES_MAX (14 + NETNS_MTU)

/*
 * The frame with a number: its length, its VLAN tags (none, one, two, a service tag outside) and
 * all its bytes follow from it. Returns the length.
 */
static uint32_t frame_make(uint32_t number, uint8_t *frame)
{
    static const uint16_t outer[] = {0, ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021AD};
    unsigned tags = number % 4 == 0 ? 0 : number % 4 == 1 ? 1 : 2;
    uint32_t bytes = lengths[number / 4 % COUNT(lengths)];
    uint32_t at = 12;
    if (tags > 0 && bytes < 16 + 4 * tags)
        bytes = 16 + 4 * tags; /* the kernel throws away tagged frames with nothing behind */
    memcpy(frame, addresses, sizeof addresses);
    for (unsigned tag = 0; tag < tags; tag++) {
        uint16_t protocol = htobe16(tag == 0 ? outer[number % 4] : ETH_P_8021Q);
        uint16_t control =
            htobe16((uint16_t)((number + tag) % 8 << 13 | (1 + (number + tag) % 4000)));
        memcpy(frame + at, &protocol, 2);
        memcpy(frame + at + 2, &control, 2);
        at += 4;
    }
    uint16_t type = htobe16(0x88b5); /* for experiments on a local net */
    memcpy(frame + at, &type, 2);
    at += 2;
    for (uint32_t i = at; i < bytes; i++)
        frame[i] = (uint8_t)(number * 31 + i);
    if (bytes >= at + 4)
        memcpy(frame + at, &number, 4);
    return bytes;
}

/* A frame that the queue between the two ends did not take is sent again. */
static void frames_send(const char *interface, uint32_t first, uint32_t count)
{
    static uint8_t frame[FRAME_BYTES_MAX + 8];
    int sender = netns_sender(&netns, NETNS_LEFT, interface);
    netns_enter(&netns, NETNS_LEFT);
    int table = netns_table_open();
    uint64_t before = netns_table_sent(table, interface);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = frame_make(first + i, frame);
        netns_send(sender, frame, bytes);
        while (netns_table_sent(table, interface) < before + i + 1) {
            usleep(1000);
            netns_send(sender, frame, bytes);
        }
    }
    close(table);
    netns_enter(&netns, NETNS_RIGHT);
    close(sender);
}

static void packet_is_frame(const struct packet *packet, uint32_t number, uint32_t snapshot_bytes)
{
    static uint8_t frame[FRAME_BYTES_MAX + 8];
    uint32_t bytes = frame_make(number, frame);
    uint32_t captured = bytes < snapshot_bytes ? bytes : snapshot_bytes;
    if (packet->original_bytes != bytes || packet->captured_bytes != captured)
        fail_msg("packet %u: lengths %u of %u, not %u of %u", number, packet->captured_bytes,
                 packet->original_bytes, captured, bytes);
    for (uint32_t i = 0; i < captured; i++) {
        if (packet->bytes[i] != frame[i])
            fail_msg("packet %u of %u bytes: byte %u is %#x, not %#x", number, bytes, i,
                     packet->bytes[i], frame[i]);
    }
}

/* ---- helpers -------------------------------------------------------------------------------- */

static struct source *open_source(const struct backend *backend,
                                  const struct source_live_options *options)
{
    struct source *source = NULL;
    struct failure failure = {0};
    if (backend->open(options, &source, &failure) != 0)
        fail_msg("%s: %s", backend->name, failure.text);
    return source;
}

/* The next batch, or what source_next() says instead. */
static int next_in_time(struct source *source, struct source_batch *batch)
{
    int result = 0;
    for (unsigned quiet = 0; result == 0 && quiet < QUIETS_MAX; quiet++)
        result = source_next(source, batch, QUIET_MS);
    return result;
}

static struct source_counters counters_of(struct source *source, uint32_t number)
{
    struct source_counters counters;
    source->ops->counters(source, number, &counters);
    return counters;
}

static int64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void byte_for_byte(void **state)
{
    static const uint32_t snapshots[] = {0, 17, 100};
    enum { FRAMES = 4 * COUNT(lengths) * 3 };
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        for (size_t s = 0; s < COUNT(snapshots); s++) {
            static struct source_batch batch;
            const char *interface[] = {"right0"};
            const struct source_live_options options = {
                .interface = interface, .interface_count = 1, .snapshot_bytes = snapshots[s]};
            struct source *source = open_source(&backends[b], &options);
            const struct interface_description *description = source->ops->interface(source, 0);
            uint32_t seen = 0;
            int result;
            assert_false(source->waits);
            assert_int_equal(source->ops->interfaces(source), 1);
            assert_string_equal(description->name, "right0");
            assert_int_equal(description->link_type, 1);
            assert_memory_not_equal(description->hardware, "\0\0\0\0\0\0", 6);
            int64_t before_ns = wall_ns();
            frames_send("left0", 0, FRAMES);
            while ((result = source_next(source, &batch, QUIET_MS)) > 0) {
                for (uint32_t i = 0; i < batch.count; i++) {
                    const struct packet *packet = &batch.packet[i];
                    packet_is_frame(packet, seen++, snapshots[s] != 0 ? snapshots[s] : 262144);
                    assert_true(packet->time_ns >= before_ns && packet->time_ns <= wall_ns());
                    assert_int_equal(packet->direction, DIRECTION_IN);
                    assert_int_equal(packet->interface, 0);
                }
                source_release(source, &batch);
            }
            assert_int_equal(result, 0);
            assert_int_equal(seen, FRAMES);
            struct source_counters counters = counters_of(source, 0);
            assert_int_equal(counters.seen, FRAMES);
            assert_int_equal(counters.dropped_kernel, 0);
            assert_int_equal(counters.oversized, 0);
            source_close(&source);
        }
    }
}

/* Nanoseconds, not microseconds with three zeros: of a hundred times, some have a rest. */
static void nanoseconds(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static struct source_batch batch;
        const char *interface[] = {"right0"};
        const struct source_live_options options = {.interface = interface, .interface_count = 1};
        struct source *source = open_source(&backends[b], &options);
        uint32_t rests = 0;
        frames_send("left0", 0, 100);
        while (source_next(source, &batch, QUIET_MS) > 0) {
            for (uint32_t i = 0; i < batch.count; i++)
                rests += batch.packet[i].time_ns % 1000 != 0;
            source_release(source, &batch);
        }
        assert_in_range(rests, 50, 100);
        source_close(&source);
    }
}

/* Several interfaces in one source: each with its own packets, in order, and its own counters. */
static void several_interfaces(void **state)
{
    enum { FRAMES = 500 };
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static struct source_batch batch;
        const char *interface[] = {"right0", "right1", "right2"};
        const struct source_live_options options = {
            .interface = interface, .interface_count = 3, .promiscuous = true};
        struct source *source = open_source(&backends[b], &options);
        uint32_t seen[3] = {0};
        for (uint32_t i = 0; i < FRAMES; i += 100) {
            frames_send("left2", 2000 + i, 100);
            frames_send("left0", i, 100);
            frames_send("left1", 1000 + i, 100);
        }
        while (source_next(source, &batch, QUIET_MS) > 0) {
            for (uint32_t i = 0; i < batch.count; i++) {
                uint32_t number = batch.packet[i].interface;
                assert_in_range(number, 0, 2);
                packet_is_frame(&batch.packet[i], number * 1000 + seen[number]++, 262144);
            }
            source_release(source, &batch);
        }
        for (uint32_t n = 0; n < 3; n++) {
            assert_int_equal(seen[n], FRAMES);
            assert_int_equal(counters_of(source, n).seen, FRAMES);
            assert_string_equal(source->ops->interface(source, n)->name, interface[n]);
        }
        source_close(&source);
    }
}

/* What this machine sends itself is left out, unless it is asked for. */
static void outgoing(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        for (int wanted = 0; wanted < 2; wanted++) {
            static struct source_batch batch;
            const char *interface[] = {"left0"}; /* the side that sends */
            const struct source_live_options options = {
                .interface = interface, .interface_count = 1, .outgoing = wanted != 0};
            netns_enter(&netns, NETNS_LEFT);
            struct source *source = open_source(&backends[b], &options);
            netns_enter(&netns, NETNS_RIGHT);
            uint32_t seen = 0;
            frames_send("left0", 0, 50);
            while (source_next(source, &batch, QUIET_MS) > 0) {
                for (uint32_t i = 0; i < batch.count; i++) {
                    packet_is_frame(&batch.packet[i], seen++, 262144);
                    if (backends[b].open == source_packet_open)
                        assert_int_equal(batch.packet[i].direction, DIRECTION_OUT);
                }
                source_release(source, &batch);
            }
            assert_int_equal(seen, wanted ? 50 : 0);
            source_close(&source);
        }
    }
}

/* A tiny buffer and nobody who reads: the kernel drops, and every packet is in one count or the
 * other. */
static void drops_are_counted(void **state)
{
    enum { FRAMES = 20000 };
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static struct source_batch batch;
        const char *interface[] = {"right0"};
        const struct source_live_options options = {
            .interface = interface, .interface_count = 1, .buffer_bytes = 256 * 1024};
        struct source *source = open_source(&backends[b], &options);
        uint64_t seen = 0;
        uint64_t sent = netns_sent(&netns, NETNS_LEFT, "left0");
        frames_send("left0", 0, FRAMES / 2);
        struct source_counters early = counters_of(source, 0);
        assert_true(early.dropped_kernel > 0);
        assert_int_equal(early.seen, early.dropped_kernel);
        for (int flood = 0; flood < 2; flood++) {
            while (source_next(source, &batch, QUIET_MS) > 0) {
                seen += batch.count;
                source_release(source, &batch);
                struct source_counters now = counters_of(source, 0);
                assert_int_equal(now.seen, seen + now.dropped_kernel);
            }
            if (flood == 0)
                frames_send("left0", 0, FRAMES / 2);
        }
        struct source_counters counters = counters_of(source, 0);
        assert_true(seen > 0 && counters.dropped_kernel > early.dropped_kernel);
        sent = netns_sent(&netns, NETNS_LEFT, "left0") - sent;
        if (counters.seen != sent || counters.seen != seen + counters.dropped_kernel)
            fail_msg("%s: %ju sent, %ju handed out, %ju dropped, %ju seen", backends[b].name,
                     (uintmax_t)sent, (uintmax_t)seen, (uintmax_t)counters.dropped_kernel,
                     (uintmax_t)counters.seen);
        source_close(&source);
    }
}

/* Views stay while their batches are held, over more packets than a block or an arena has. */
static void held_batches(void **state)
{
    enum { HELD = 24, FRAMES = 3000 };
    static struct source_batch batch[HELD];
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        const char *interface[] = {"right0"};
        const struct source_live_options options = {
            .interface = interface, .interface_count = 1, .buffer_bytes = 32 << 20};
        struct source *source = open_source(&backends[b], &options);
        uint32_t sent = 0, seen = 0;
        for (int round = 0; round < 4; round++) {
            unsigned held = 0;
            frames_send("left0", sent, FRAMES);
            sent += FRAMES;
            /* On a machine that is busy elsewhere a quiet moment is not the end. */
            for (unsigned quiet = 0; seen < sent && quiet < 100; quiet++) {
                while (held < HELD && source_next(source, &batch[held], QUIET_MS) > 0)
                    held++;
                for (unsigned h = 0; h < held; h++) {
                    for (uint32_t i = 0; i < batch[h].count; i++)
                        packet_is_frame(&batch[h].packet[i], seen++, 262144);
                    source_release(source, &batch[h]);
                }
                held = 0;
            }
            assert_int_equal(seen, sent);
        }
        assert_int_equal(counters_of(source, 0).seen, 4 * FRAMES);
        assert_int_equal(counters_of(source, 0).dropped_kernel, 0);
        source_close(&source);
    }
}

static uint64_t count_all(struct source *source)
{
    static struct source_batch batch;
    uint64_t seen = 0;
    while (source_next(source, &batch, QUIET_MS) > 0) {
        seen += batch.count;
        source_release(source, &batch);
    }
    return seen;
}

/*
 * Frames longer than the interface's MTU allows, as it was at open, count as merged. A veth pair
 * passes none such on, so the MTU is raised afterwards.
 */
static void oversized(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static uint8_t frame[3000];
        const char *interface[] = {"right0"};
        const struct source_live_options options = {.interface = interface, .interface_count = 1};
        assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 mtu 1500"), 0);
        struct source *source = open_source(&backends[b], &options);
        int sender = netns_sender(&netns, NETNS_LEFT, "left0");
        memcpy(frame, addresses, sizeof addresses);
        frame[12] = 0x88;
        frame[13] = 0xb5;
        for (uint32_t bytes = 1510; bytes <= 1518; bytes++) /* one tag more than the MTU says */
            netns_send(sender, frame, bytes);
        assert_int_equal(count_all(source), 9);
        assert_int_equal(counters_of(source, 0).oversized, 0);
        assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 mtu %d", NETNS_MTU), 0);
        netns_send(sender, frame, 1522); /* two tags */
        netns_send(sender, frame, 1523);
        netns_send(sender, frame, 3000);
        assert_int_equal(count_all(source), 3);
        assert_int_equal(counters_of(source, 0).oversized, 2);
        close(sender);
        source_close(&source);
    }
}

static void *wake_later(void *source)
{
    usleep(30000);
    source_wake(source);
    return NULL;
}

static void wakes(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static struct source_batch batch;
        pthread_t thread;
        const char *interface[] = {"right0", "right1"};
        const struct source_live_options options = {.interface = interface, .interface_count = 2};
        struct source *source = open_source(&backends[b], &options);
        assert_int_equal(source_next(source, &batch, 0), 0);
        assert_int_equal(source_next(source, &batch, 20), 0);
        assert_int_equal(pthread_create(&thread, NULL, wake_later, source), 0);
        assert_int_equal(source_next(source, &batch, -1),
                         0); /* for ever, were it not for the wake */
        pthread_join(thread, NULL);
        source_wake(source);
        assert_int_equal(source_next(source, &batch, -1), 0);
        source_release(source, &batch);
        /* And it works on. */
        frames_send("left1", 0, 1);
        assert_int_equal(next_in_time(source, &batch), 1);
        assert_int_equal(batch.count, 1);
        assert_int_equal(batch.packet[0].interface, 1);
        source_release(source, &batch);
        source_close(&source);
    }
}

/* One interface is removed, then the other goes down: what they have is handed out, then they end,
 * and the last ends the source. */
static void interfaces_end(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        static struct source_batch batch;
        const char *interface[] = {"right0", "gone"};
        assert_int_equal(netns_run(&netns, NETNS_LEFT,
                                   "ip link add name going type veth peer name gone && "
                                   "ip link set gone netns /proc/%d/fd/%d && "
                                   "ip link set going arp off up",
                                   (int)getpid(), netns.side[NETNS_RIGHT]),
                         0);
        assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set gone arp off up"), 0);
        netns_await_up(&netns, NETNS_LEFT, "going");
        const struct source_live_options options = {.interface = interface, .interface_count = 2};
        struct source *source = open_source(&backends[b], &options);
        uint32_t seen[2] = {0};
        int result = 0;
        frames_send("going", 0, 1); /* no tag, 14 bytes */
        assert_int_equal(netns_run(&netns, NETNS_LEFT, "ip link del going"), 0);
        while (source->failure.code == 0 && (result = source_next(source, &batch, 50)) >= 0) {
            for (uint32_t i = 0; i < batch.count; i++)
                seen[batch.packet[i].interface]++;
            source_release(source, &batch);
        }
        assert_true(result >= 0);
        assert_int_equal(seen[1], 1);
        assert_int_equal(source->failure.code, ERR_IO);
        assert_non_null(strstr(source->failure.text, "interface gone"));
        /* The other goes on. */
        frames_send("left0", 0, 10);
        while ((result = source_next(source, &batch, QUIET_MS)) > 0) {
            for (uint32_t i = 0; i < batch.count; i++)
                packet_is_frame(&batch.packet[i], seen[batch.packet[i].interface]++, 262144);
            source_release(source, &batch);
        }
        assert_int_equal(result, 0);
        assert_int_equal(seen[0], 10);
        if (backends[b].open == source_pcap_open) {
            /* libpcap waits for an interface that is down to come up again. */
            assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 down"), 0);
            while ((result = source_next(source, &batch, 20)) > 0)
                source_release(source, &batch);
            assert_int_equal(result, 0);
            assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 arp off up"), 0);
            netns_await_up(&netns, NETNS_LEFT, "left0");
            frames_send("left0", 0, 1);
            assert_int_equal(next_in_time(source, &batch), 1);
            assert_int_equal(batch.count, 1);
            source_release(source, &batch);
            source_close(&source);
            continue;
        }
        /* Until it goes down too. */
        assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 down"), 0);
        while ((result = next_in_time(source, &batch)) > 0)
            source_release(source, &batch);
        assert_int_equal(result, ERR_IO);
        assert_int_equal(source->failure.code, ERR_IO);
        assert_non_null(strstr(source->failure.text, "interface right0"));
        assert_non_null(strstr(source->failure.text, "ended"));
        assert_int_equal(source_next(source, &batch, -1), ERR_IO); /* and it stays so */
        assert_int_equal(counters_of(source, 0).seen, 10);
        assert_int_equal(counters_of(source, 1).seen, 1);
        source_close(&source);
        assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right0 arp off up"), 0);
    }
}

static void refused(const struct backend *backend, const struct source_live_options *options,
                    int code, const char *reason)
{
    struct source *source = NULL;
    struct failure failure = {0};
    int result = backend->open(options, &source, &failure);
    assert_null(source);
    if (result != code || failure.code != code || strstr(failure.text, reason) == NULL)
        fail_msg("%s: %d, \"%s\" does not say \"%s\"", backend->name, result, failure.text, reason);
}

static void refusals(void **state)
{
    (void)state;
    assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right2 down"), 0);
    for (size_t b = 0; b < COUNT(backends); b++) {
        const char *unknown[] = {"right0", "nosuch0"};
        const char *twice[] = {"right0", "right1", "right0"};
        const char *down[] = {"right2"};
        const char *empty[] = {""};
        refused(&backends[b], &(struct source_live_options){unknown, 2, 0, 0, false, false},
                ERR_NOT_FOUND,
                "there is no interface nosuch0; there are: lo, right0, right1, right2");
        refused(&backends[b], &(struct source_live_options){twice, 3, 0, 0, false, false},
                ERR_INVALID, "right0 is given twice");
        refused(&backends[b], &(struct source_live_options){down, 1, 0, 0, false, false}, ERR_IO,
                "ip link set right2 up");
        refused(&backends[b], &(struct source_live_options){empty, 1, 0, 0, false, false},
                ERR_INVALID, "name has 1 to");
        refused(&backends[b], &(struct source_live_options){empty, 0, 0, 0, false, false},
                ERR_INVALID, "no interface");
    }
    assert_int_equal(netns_run(&netns, NETNS_RIGHT, "ip link set right2 up"), 0);
}

/* Somebody without privileges learns which one is missing. */
static void no_privilege(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT(backends); b++) {
        fflush(stdout);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            const char *interface[] = {"right0"};
            struct source *source = NULL;
            struct failure failure = {0};
            if (setresuid(65534, 65534, 65534) < 0)
                _exit(2);
            int result = backends[b].open(
                &(struct source_live_options){.interface = interface, .interface_count = 1},
                &source, &failure);
            _exit(result == ERR_PERMISSION && strstr(failure.text, "CAP_NET_RAW") != NULL ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(void)
{
    netns_make(&netns, PAIRS);
    netns_enter(&netns, NETNS_RIGHT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_for_byte),      cmocka_unit_test(nanoseconds),
        cmocka_unit_test(several_interfaces), cmocka_unit_test(outgoing),
        cmocka_unit_test(drops_are_counted),  cmocka_unit_test(held_batches),
        cmocka_unit_test(oversized),          cmocka_unit_test(wakes),
        cmocka_unit_test(interfaces_end),     cmocka_unit_test(refusals),
        cmocka_unit_test(no_privilege),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    netns_free(&netns);
    return failed;
}
