/* The generator: the same packets for the same options, all of them valid, in the promised mix. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "source.h"
#include "unit_test.h"

static struct source *open_generator(const struct source_generator_options *options)
{
    struct source *source = NULL;
    struct failure failure = {0};
    if (source_generator_open(options, &source, &failure) != 0)
        fail_msg("%s", failure.text);
    return source;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t count)
{
    const uint8_t *byte = bytes;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
    return hash;
}

/* A hash over all packets, with `held` batches in hand at a time. */
static uint64_t traffic_hash(const struct source_generator_options *options, unsigned held)
{
    static struct source_batch batch[16];
    struct source *source = open_generator(options);
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    uint64_t packets = 0;
    int result = 1;
    while (result > 0) {
        unsigned taken = 0;
        while (taken < held && (result = source_next(source, &batch[taken], 0)) > 0)
            taken++;
        for (unsigned t = 0; t < taken; t++) {
            for (uint32_t i = 0; i < batch[t].count; i++) {
                const struct packet *packet = &batch[t].packet[i];
                hash = mix(hash, &packet->time_ns, sizeof packet->time_ns);
                hash = mix(hash, &packet->captured_bytes, sizeof packet->captured_bytes);
                hash = mix(hash, packet->bytes, packet->captured_bytes);
                packets++;
            }
            source_release(source, &batch[t]);
        }
    }
    assert_int_equal(result, ERR_END);
    assert_int_equal(packets, options->packets);
    struct source_counters counters;
    source->ops->counters(source, 0, &counters);
    assert_int_equal(counters.seen, options->packets);
    source_close(&source);
    return hash;
}

static void repeatable(void **state)
{
    (void)state;
    struct source_generator_options options = {
        .seed = 7, .packets = 20001, .flows = 3000, .hosts = 500, .step_ns = 100, .start_ns = 5};
    uint64_t hash = traffic_hash(&options, 1);
    assert_int_equal(traffic_hash(&options, 1), hash);
    assert_int_equal(traffic_hash(&options, 16), hash);
    /* The same on every machine and in every build: what was measured once can be measured again.
     */
    assert_int_equal(hash, UINT64_C(0xf84729a97d4c8aea));
    options.seed = 8;
    assert_int_not_equal(traffic_hash(&options, 1), hash);
}

static uint32_t sum_bytes(uint32_t sum, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        sum += (uint32_t)bytes[i] << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16 != 0)
        sum = (sum >> 16) + (sum & 0xffff);
    return sum;
}

struct seen {
    uint64_t v4, v6, tcp, udp, tagged, opened, closed, stamped;
};

/* Decodes a frame to its end, checks all lengths and checksums. */
static void frame_is_valid(const uint8_t *bytes, uint32_t count, uint64_t number, struct seen *seen)
{
    assert_in_range(count, 60, 9216);
    assert_int_equal(bytes[0] & 1, 0);
    assert_memory_not_equal(bytes, bytes + 6, 6);
    const uint8_t *end = bytes + count;
    const uint8_t *at = bytes + 12;
    uint32_t type = (uint32_t)(at[0] << 8 | at[1]);
    if (type == 0x8100) {
        seen->tagged++;
        assert_in_range((at[2] << 8 | at[3]) & 0xfff, 1, 4094);
        at += 4;
        type = (uint32_t)(at[0] << 8 | at[1]);
    }
    at += 2;
    uint32_t pseudo, l4_bytes;
    uint8_t protocol;
    if (type == 0x0800) {
        seen->v4++;
        assert_int_equal(at[0], 0x45);
        assert_int_equal(sum_bytes(0, at, 20), 0xffff);
        assert_int_equal(at[2] << 8 | at[3], end - at);
        l4_bytes = (uint32_t)(end - at) - 20;
        protocol = at[9];
        pseudo = sum_bytes(protocol + l4_bytes, at + 12, 8);
        at += 20;
    } else {
        assert_int_equal(type, 0x86dd);
        seen->v6++;
        assert_int_equal(at[0], 0x60);
        l4_bytes = (uint32_t)(end - at) - 40;
        assert_int_equal(at[4] << 8 | at[5], l4_bytes);
        protocol = at[6];
        pseudo = sum_bytes(protocol + l4_bytes, at + 8, 32);
        at += 40;
    }
    assert_int_equal(sum_bytes(pseudo, at, l4_bytes), 0xffff);
    if (protocol == 6) {
        seen->tcp++;
        assert_int_equal(at[12], 0x50);
        seen->opened += (at[13] & 2) != 0;
        seen->closed += (at[13] & 1) != 0;
        at += 20;
    } else {
        assert_int_equal(protocol, 17);
        seen->udp++;
        assert_int_equal(at[4] << 8 | at[5], l4_bytes);
        assert_int_not_equal(at[6] << 8 | at[7], 0);
        at += 8;
    }
    assert_true(at <= end);
    if (end - at >= 8) {
        uint64_t stamp = 0;
        for (int i = 0; i < 8; i++)
            stamp = stamp << 8 | at[i];
        assert_int_equal(stamp, number);
        seen->stamped++;
    }
}

static void valid_packets(void **state)
{
    (void)state;
    static const uint32_t frame[] = {0, 60, 61, 77, 78, 79, 101, 1514, 9216};
    static struct source_batch batch;
    for (size_t f = 0; f < COUNT(frame); f++) {
        struct source_generator_options options = {.seed = f,
                                                   .packets = 30000,
                                                   .flows = 5000,
                                                   .hosts = 300,
                                                   .frame_bytes = frame[f],
                                                   .start_ns = -1000,
                                                   .step_ns = 70};
        struct source *source = open_generator(&options);
        struct seen seen = {0};
        uint64_t number = 0, lengths[3] = {0};
        int64_t last_ns = -1000;
        assert_int_equal(source->ops->interfaces(source), 1);
        assert_int_equal(source->ops->interface(source, 0)->link_type, 1);
        while (source_next(source, &batch, 0) > 0) {
            for (uint32_t i = 0; i < batch.count; i++) {
                const struct packet *packet = &batch.packet[i];
                uint32_t count = packet->captured_bytes;
                assert_int_equal(packet->original_bytes, count);
                assert_int_equal(packet->interface, 0);
                assert_true(packet->time_ns >= last_ns);
                last_ns = packet->time_ns;
                frame_is_valid(packet->bytes, count, number++, &seen);
                if (frame[f] != 0) {
                    assert_int_equal(count, frame[f]);
                } else {
                    assert_true(count == 60 || count == 566 || count == 1514);
                    lengths[count == 60 ? 0 : count == 566 ? 1 : 2]++;
                }
            }
            source_release(source, &batch);
        }
        assert_int_equal(number, 30000);
        /* On average the time goes on by step_ns. */
        assert_in_range((uint64_t)(last_ns + 1000), 30000 * 68, 30000 * 72);
        assert_true(seen.tagged > 2000 && seen.tagged < 6000);
        assert_true(seen.udp > 5000 && seen.tcp > 10000);
        assert_true(seen.opened > 20 && seen.closed > 20);
        if (frame[f] == 0 || frame[f] >= 78)
            assert_true(seen.v6 > 2000);
        else
            assert_int_equal(seen.v6, 0);
        if (frame[f] == 0) {
            assert_in_range(lengths[0], 30000 * 7 / 12 - 500, 30000 * 7 / 12 + 500);
            assert_in_range(lengths[1], 30000 * 4 / 12 - 500, 30000 * 4 / 12 + 500);
            assert_in_range(lengths[2], 30000 * 1 / 12 - 300, 30000 * 1 / 12 + 300);
        }
        source_close(&source);
    }
}

/* Zipf: the first host takes part about as often as the next two together. */
static void hosts_are_zipf(void **state)
{
    (void)state;
    enum { HOSTS = 1000, FLOWS = 200000 };
    static uint32_t taken[HOSTS];
    static struct source_batch batch;
    /* Flows are drawn evenly, so that packets of a full table show how hosts were drawn. */
    struct source_generator_options options = {.seed = 3,
                                               .packets = 400000,
                                               .flows = FLOWS,
                                               .hosts = HOSTS,
                                               .frame_bytes = 60,
                                               .step_ns = 1};
    struct source *source = open_generator(&options);
    while (source_next(source, &batch, 0) > 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            const uint8_t *mac = batch.packet[i].bytes;
            for (int end = 0; end < 2; end++, mac += 6) {
                uint32_t host = (uint32_t)mac[3] << 16 | (uint32_t)mac[4] << 8 | mac[5];
                assert_in_range(host, 0, HOSTS - 1);
                taken[host]++;
            }
        }
        source_release(source, &batch);
    }
    source_close(&source);
    /* 1/rank over the harmonic number of 1,000, 7.485, of 800,000 ends of packets. */
    assert_in_range(taken[0], 90000, 115000);
    assert_in_range(taken[1], 47000, 62000);
    assert_in_range(taken[9], 9200, 12300);
    assert_in_range(taken[99], 700, 1500);
    for (int i = 0; i < HOSTS; i++)
        assert_true(taken[i] > 0);
}

static void wall_clock(void **state)
{
    (void)state;
    static struct source_batch batch;
    struct source_generator_options options = {.packets = 300, .flows = 1, .hosts = 2};
    struct source *source = open_generator(&options);
    struct timespec before, after;
    clock_gettime(CLOCK_REALTIME, &before);
    assert_int_equal(source_next(source, &batch, 0), 1);
    clock_gettime(CLOCK_REALTIME, &after);
    assert_int_equal(batch.count, SOURCE_BATCH_MAX);
    for (uint32_t i = 0; i < batch.count; i++) {
        assert_true(batch.packet[i].time_ns >=
                    before.tv_sec * INT64_C(1000000000) + before.tv_nsec);
        assert_true(batch.packet[i].time_ns <= after.tv_sec * INT64_C(1000000000) + after.tv_nsec);
    }
    source_release(source, &batch);
    assert_int_equal(source_next(source, &batch, 0), 1);
    assert_int_equal(batch.count, 300 - SOURCE_BATCH_MAX);
    /* Closed with a batch in hand; a sanitizer sees that nothing is lost. */
    source_close(&source);
    assert_null(source);
}

static void refused_options(void **state)
{
    (void)state;
    static const struct {
        struct source_generator_options options;
        const char *reason;
    } line[] = {
        {{.frame_bytes = 59}, "frames of 60 to 9216 bytes, not 59"},
        {{.frame_bytes = 9217}, "not 9217"},
        {{.hosts = 1}, "hosts"},
        {{.hosts = 1u << 24}, "hosts"},
        {{.flows = UINT32_MAX}, "flows"},
        {{.step_ns = UINT64_MAX}, "between packets"},
    };
    for (size_t i = 0; i < COUNT(line); i++) {
        struct source *source = NULL;
        struct failure failure = {0};
        assert_int_equal(source_generator_open(&line[i].options, &source, &failure), ERR_INVALID);
        assert_null(source);
        assert_non_null(strstr(failure.text, line[i].reason));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repeatable),      cmocka_unit_test(valid_packets),
        cmocka_unit_test(hosts_are_zipf),  cmocka_unit_test(wall_clock),
        cmocka_unit_test(refused_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
