/* Capture files as a source: both formats, every byte order and resolution, and every way to be
 * damaged. */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "capture_file.h"
#include "capture_maker.h"
#include "pcap_oracle.h"
#include "unit_test.h"

#define NAME "some.pcap"
#define S_NS INT64_C(1000000000)

/* ---- helpers -------------------------------------------------------------------------------- */

static const size_t steps[] = {1, 13, 4096};
#define STEPS (sizeof steps / sizeof steps[0])

/* Everything that a source hands out, copied. */
struct reading {
    struct packet packet[64]; /* `bytes` of its own */
    uint8_t bytes[64][256];
    uint32_t packets;
    int result; /* the negative code at its end */
    struct failure failure;
    uint32_t interfaces;
    struct interface_description interface[16];
    struct source_counters counters[16];
};

static void read_source(struct source *source, struct reading *reading)
{
    static struct source_batch batch;
    while ((reading->result = source_next(source, &batch, -1)) >= 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            struct packet *packet = &reading->packet[reading->packets];
            assert_true(reading->packets < 64);
            *packet = batch.packet[i];
            if (packet->captured_bytes <= sizeof reading->bytes[0])
                memcpy(reading->bytes[reading->packets], packet->bytes, packet->captured_bytes);
            packet->bytes = reading->bytes[reading->packets++];
        }
        source_release(source, &batch);
    }
    reading->failure = source->failure;
    reading->interfaces = source->ops->interfaces(source);
    for (uint32_t i = 0; i < reading->interfaces && i < 16; i++) {
        reading->interface[i] = *source->ops->interface(source, i);
        source->ops->counters(source, i, &reading->counters[i]);
    }
}

static void read_bytes(const uint8_t *bytes, size_t count, size_t step_bytes,
                       struct reading *reading)
{
    struct source *source = NULL;
    *reading = (struct reading){0};
    reading->result =
        capture_file_open_memory(bytes, count, step_bytes, NAME, &source, &reading->failure);
    if (reading->result < 0) {
        assert_null(source);
        assert_int_equal(reading->failure.code, reading->result);
        return;
    }
    read_source(source, reading);
    source_close(&source);
    assert_null(source);
}

static struct reading *read_maker(const struct maker *maker)
{
    static struct reading reading;
    read_bytes(maker->bytes, maker->count, 4096, &reading);
    return &reading;
}

static void packet_is(const struct reading *reading, uint32_t number, int64_t time_ns,
                      uint32_t captured, uint32_t original, uint8_t first)
{
    assert_true(number < reading->packets);
    const struct packet *packet = &reading->packet[number];
    assert_int_equal(packet->time_ns, time_ns);
    assert_int_equal(packet->captured_bytes, captured);
    assert_int_equal(packet->original_bytes, original);
    for (uint32_t i = 0; i < captured && i < 256; i++)
        assert_int_equal(packet->bytes[i], (uint8_t)(first + i));
}

/* Damage is told with the file's name, the offset and a reason. */
static void damaged_is(const struct reading *reading, uint64_t offset, const char *reason)
{
    char place[64];
    assert_int_equal(reading->result, ERR_CORRUPT);
    assert_int_equal(reading->failure.code, ERR_CORRUPT);
    snprintf(place, sizeof place, NAME ": damaged at offset %" PRIu64 ": ", offset);
    if (strncmp(reading->failure.text, place, strlen(place)) != 0 ||
        strstr(reading->failure.text, reason) == NULL)
        fail_msg("\"%s\" does not begin with \"%s\" and say \"%s\"", reading->failure.text, place,
                 reason);
}

/* libpcap agrees, or differs in the way that is expected. */
static void oracle_is(const uint8_t *bytes, size_t count, enum oracle_verdict verdict)
{
    for (size_t i = 0; i < STEPS; i++) {
        struct oracle_result result;
        oracle_compare(bytes, count, steps[i], NAME, &result);
        if (result.verdict != verdict)
            fail_msg("step %zu: \"%s\" instead of \"%s\": %s\n  ours %" PRIu64
                     " packets, %s\n  theirs %" PRIu64 " packets, %s",
                     steps[i], oracle_verdict_name(result.verdict), oracle_verdict_name(verdict),
                     result.why, result.packets_ours, result.ours, result.packets_theirs,
                     result.theirs);
    }
}

static void oracle_agrees(const uint8_t *bytes, size_t count)
{
    struct oracle_result result;
    oracle_compare(bytes, count, 4096, NAME, &result);
    if (result.verdict == ORACLE_DIFFERENT)
        fail_msg("%s\n  ours %" PRIu64 " packets, %s\n  theirs %" PRIu64 " packets, %s", result.why,
                 result.packets_ours, result.ours, result.packets_theirs, result.theirs);
}

/* ---- classic pcap --------------------------------------------------------------------------- */

static void pcap_magics(void **state)
{
    (void)state;
    for (int big = 0; big < 2; big++) {
        for (int nano = 0; nano < 2; nano++) {
            struct maker maker = {.big = big};
            make_pcap_header(&maker, nano ? MAKE_NANOSECONDS : MAKE_MICROSECONDS, 65535, 1);
            make_pcap_record(&maker, 1700000000, 123456, 60, 1514, 7);
            make_pcap_record(&maker, 1700000001, 999999, 0, 0, 0);
            make_pcap_record(&maker, 1699999999, 0, 61, 61, 200);
            for (size_t i = 0; i < STEPS; i++) {
                struct reading reading;
                int64_t unit_ns = nano ? 1 : 1000;
                read_bytes(maker.bytes, maker.count, steps[i], &reading);
                assert_int_equal(reading.result, ERR_END);
                assert_int_equal(reading.packets, 3);
                packet_is(&reading, 0, 1700000000 * S_NS + 123456 * unit_ns, 60, 1514, 7);
                packet_is(&reading, 1, 1700000001 * S_NS + 999999 * unit_ns, 0, 0, 0);
                packet_is(&reading, 2, 1699999999 * S_NS, 61, 61, 200);
                assert_int_equal(reading.interfaces, 1);
                assert_int_equal(reading.interface[0].link_type, 1);
                assert_int_equal(reading.interface[0].snapshot_length, 65535);
                assert_string_equal(reading.interface[0].name, NAME);
                assert_int_equal(reading.counters[0].seen, 3);
                assert_int_equal(reading.counters[0].dropped_kernel, 0);
            }
            oracle_is(maker.bytes, maker.count, ORACLE_SAME);
            maker_free(&maker);
        }
    }
}

/* Times that nobody should write: all of them are what libpcap makes of them. */
static void pcap_wild_times(void **state)
{
    (void)state;
    static const uint32_t wild[] = {0,          1,          999999,     1000000,
                                    0x7fffffff, 0x80000000, 0xffcedd80, UINT32_MAX};
    enum { WILD = sizeof wild / sizeof wild[0] };
    for (int big = 0; big < 2; big++) {
        for (int nano = 0; nano < 2; nano++) {
            struct maker maker = {.big = big};
            make_pcap_header(&maker, nano ? MAKE_NANOSECONDS : MAKE_MICROSECONDS, 65535, 1);
            for (size_t i = 0; i < WILD * WILD; i++)
                make_pcap_record(&maker, wild[i / WILD], wild[i % WILD], 4, 4, 1);
            oracle_is(maker.bytes, maker.count, big ? ORACLE_SAME : ORACLE_UNSIGNED_TIME);
            maker_free(&maker);
        }
    }
    struct maker maker = {0};
    make_pcap_header(&maker, MAKE_MICROSECONDS, 65535, 1);
    make_pcap_record(&maker, 1000, 5000000, 4, 4, 1);      /* more than a second of microseconds */
    make_pcap_record(&maker, 0xffffffff, 250000, 4, 4, 1); /* in 2106 */
    struct reading *reading = read_maker(&maker);
    packet_is(reading, 0, 1005 * S_NS, 4, 4, 1);
    packet_is(reading, 1, INT64_C(0xffffffff) * S_NS + 250000000, 4, 4, 1);
    maker_free(&maker);
}

static void pcap_lengths(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_pcap_header(&maker, MAKE_MICROSECONDS, 100, 1);
    make_pcap_record(&maker, 1, 0, 100, 100, 1);
    make_pcap_record(&maker, 2, 0, 101, 101, 1); /* beyond the snapshot length: cut to it */
    make_pcap_record(&maker, 3, 0, 90, 20, 1);   /* more captured than there was: kept as given */
    make_pcap_record(&maker, 4, 0, 1, UINT32_MAX, 1);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->result, ERR_END);
    packet_is(reading, 0, 1 * S_NS, 100, 100, 1);
    packet_is(reading, 1, 2 * S_NS, 100, 101, 1);
    packet_is(reading, 2, 3 * S_NS, 90, 20, 1);
    packet_is(reading, 3, 4 * S_NS, 1, UINT32_MAX, 1);
    oracle_is(maker.bytes, maker.count, ORACLE_SAME);
    maker_free(&maker);
}

/* Before version 2.3 the original length came first; in 2.3 it may; 543.0 is DG/UX. */
static void pcap_versions(void **state)
{
    (void)state;
    static const struct {
        uint16_t major, minor;
        bool read;
    } version[] = {{2, 4, true},  {2, 3, true},  {2, 2, true},  {2, 0, true},   {543, 0, true},
                   {2, 5, false}, {1, 4, false}, {3, 0, false}, {543, 1, false}};
    for (size_t i = 0; i < sizeof version / sizeof version[0]; i++) {
        struct maker maker = {0};
        make_pcap_header(&maker, MAKE_MICROSECONDS, 65535, 1);
        make_pcap_record(&maker, 1, 0, 60, 60, 1);
        make_over32(&maker, 4, (uint32_t)version[i].minor << 16 | version[i].major);
        /* Twice as many bytes as the record claims in one of its lengths: read in either order. */
        make32(&maker, 2);
        make32(&maker, 0);
        make32(&maker, 40);
        make32(&maker, 20);
        make_fill(&maker, 0, 40);
        oracle_agrees(maker.bytes, maker.count);
        struct reading *reading = read_maker(&maker);
        if (version[i].read) {
            packet_is(reading, 0, 1 * S_NS, 60, 60, 1);
        } else {
            assert_int_equal(reading->result, ERR_UNSUPPORTED);
            assert_non_null(strstr(reading->failure.text, "version"));
        }
        maker_free(&maker);
    }
}

/* The longest packet of a link type is read, one byte more is damage, at the record's offset. */
static void pcap_longest(void **state)
{
    (void)state;
    static const struct {
        uint16_t link_type;
        uint32_t captured_max;
    } limit[] = {{1, 262144}, {249, 1u << 20}, {279, 8u << 20}, {231, PACKET_CAPTURED_MAX}};
    for (size_t i = 0; i < sizeof limit / sizeof limit[0]; i++) {
        for (uint32_t more = 0; more < 2; more++) {
            struct maker maker = {0};
            make_pcap_header(&maker, MAKE_MICROSECONDS, 0, limit[i].link_type);
            make_pcap_record(&maker, 1, 0, 10, 10, 0);
            make32(&maker, 2);
            make32(&maker, 0);
            make32(&maker, limit[i].captured_max + more);
            make32(&maker, limit[i].captured_max + more);
            uint8_t *zeros = calloc(1, limit[i].captured_max + more);
            assert_non_null(zeros);
            make_bytes(&maker, zeros, limit[i].captured_max + more);
            free(zeros);
            struct reading *reading = read_maker(&maker);
            if (more == 0) {
                assert_int_equal(reading->result, ERR_END);
                assert_int_equal(reading->packets, 2);
                assert_int_equal(reading->packet[1].captured_bytes, limit[i].captured_max);
            } else {
                assert_int_equal(reading->packets, 1);
                damaged_is(reading, 24 + 16 + 10, "claims to have");
            }
            struct oracle_result result;
            oracle_compare(maker.bytes, maker.count, 65536, NAME, &result);
            assert_int_equal(result.verdict,
                             limit[i].link_type == 231 && more != 0 ? ORACLE_LONGEST : ORACLE_SAME);
            maker_free(&maker);
        }
    }
}

static void pcap_check_sequence(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_pcap_header(&maker, MAKE_MICROSECONDS, 65535, 0x24000001); /* 2 words of check sequence */
    make_pcap_record(&maker, 1, 0, 60, 60, 1);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->interface[0].link_type, 1);
    assert_non_null(strstr(reading->interface[0].description, "check sequence of 4 bytes"));
    oracle_is(maker.bytes, maker.count, ORACLE_SAME);
    make_over32(&maker, 20, 0x30000001); /* a length without the flag says nothing */
    reading = read_maker(&maker);
    assert_int_equal(reading->interface[0].link_type, 1);
    assert_string_equal(reading->interface[0].description, "");
    maker_free(&maker);
}

/* ---- pcapng --------------------------------------------------------------------------------- */

static void pcapng_interfaces(void **state)
{
    (void)state;
    for (int big = 0; big < 2; big++) {
        struct maker maker = {.big = big};
        make_section(&maker);
        size_t begun = make_begin(&maker, MAKE_INTERFACE);
        make16(&maker, 1);
        make16(&maker, 0);
        make32(&maker, 262144);
        make_option(&maker, 1, "a comment", 9);
        make_option(&maker, 2, "eth0", 4);
        make_option(&maker, 3, "the one at the wall", 19);
        make_option(&maker, 6, "\x02\x00\x5e\x10\x20\x30", 6);
        make_option(&maker, 9, "\x09", 1);
        make_option(&maker, 0, "", 0);
        make_end(&maker, begun);
        make_interface(&maker, 101, 0, 6, NULL);
        make_enhanced(&maker, 0, 1700000000000000001, 60, 70, 1);
        make_interface(&maker, 113, 96, 6, "\xc3\xa9t\xff\n");
        make_enhanced(&maker, 2, 1700000000000002, 33, 33, 3);
        make_enhanced(&maker, 1, 1700000000000003, 31, 40, 5);
        for (size_t i = 0; i < STEPS; i++) {
            struct reading reading;
            read_bytes(maker.bytes, maker.count, steps[i], &reading);
            assert_int_equal(reading.result, ERR_END);
            assert_int_equal(reading.packets, 3);
            packet_is(&reading, 0, 1700000000000000001, 60, 70, 1);
            packet_is(&reading, 1, 1700000000000002000, 33, 33, 3);
            packet_is(&reading, 2, 1700000000000003000, 31, 40, 5);
            assert_int_equal(reading.packet[0].interface, 0);
            assert_int_equal(reading.packet[1].interface, 2);
            assert_int_equal(reading.packet[2].interface, 1);
            assert_int_equal(reading.interfaces, 3);
            assert_string_equal(reading.interface[0].name, "eth0");
            assert_string_equal(reading.interface[0].description, "the one at the wall");
            assert_memory_equal(reading.interface[0].hardware, "\x02\x00\x5e\x10\x20\x30", 6);
            assert_int_equal(reading.interface[0].snapshot_length, 262144);
            assert_int_equal(reading.interface[1].link_type, 101);
            assert_int_equal(reading.interface[1].snapshot_length, 0);
            assert_string_equal(reading.interface[1].name, NAME "#1");
            assert_int_equal(reading.interface[2].link_type, 113);
            assert_string_equal(reading.interface[2].name, "\xc3\xa9t\\xff\\x0a");
            for (int n = 0; n < 3; n++)
                assert_int_equal(reading.counters[n].seen, 1);
        }
        oracle_is(maker.bytes, maker.count, ORACLE_LINK_TYPES);
        maker_free(&maker);
    }
}

static void pcapng_resolutions(void **state)
{
    (void)state;
    static const struct {
        uint64_t reading;
        int64_t time_ns;
        enum oracle_verdict verdict;
        uint8_t resolution;
        bool cut;
    } line[] = {
        {1700000000, 1700000000 * S_NS, ORACLE_SAME, 0, false},
        {1700000000123, INT64_C(1700000000123000000), ORACLE_SAME, 3, false},
        {1700000000123456, INT64_C(1700000000123456000), ORACLE_SAME, 6, false},
        {1700000000123456789, INT64_C(1700000000123456789), ORACLE_SAME, 9, false},
        {123456789012345678, INT64_C(123456789012345), ORACLE_SAME, 12, true},
        {123456789012345000, INT64_C(123456789012345), ORACLE_SAME, 12, false},
        {UINT64_MAX, INT64_C(1844674407), ORACLE_SAME, 19, true},
        {1700000000, 1700000000 * S_NS, ORACLE_SAME, 0x80 | 0, false},
        {3, 1500000000, ORACLE_SAME, 0x80 | 1, false},
        {513, 1001953125, ORACLE_SAME, 0x80 | 9, false},
        {1025, 1000976562, ORACLE_SAME, 0x80 | 10, true},
        {(UINT64_C(1700000000) << 32) + (UINT64_C(1) << 31), INT64_C(1700000000500000000),
         ORACLE_SAME, 0x80 | 32, false},
        {(UINT64_C(3) << 40) + (UINT64_C(3) << 38), INT64_C(3750000000), ORACLE_FINE_TIME,
         0x80 | 40, false},
        {UINT64_MAX, INT64_C(1999999999), ORACLE_FINE_TIME, 0x80 | 63, true},
        {UINT64_MAX, INT64_MAX, ORACLE_WILD_TIME, 9, false},
        {UINT64_MAX, INT64_MAX, ORACLE_WILD_TIME, 6, false},
        {UINT64_MAX, INT64_MAX, ORACLE_WILD_TIME, 0, false},
    };
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
        struct maker maker = {.big = i % 2 != 0};
        make_section(&maker);
        make_interface(&maker, 1, 262144, line[i].resolution, NULL);
        make_enhanced(&maker, 0, line[i].reading, 60, 60, 1);
        struct reading *reading = read_maker(&maker);
        assert_int_equal(reading->result, ERR_END);
        packet_is(reading, 0, line[i].time_ns, 60, 60, 1);
        assert_int_equal(reading->counters[0].time_cut, line[i].cut);
        oracle_is(maker.bytes, maker.count, line[i].verdict);
        maker_free(&maker);
    }
    static const uint8_t impossible[] = {20, 127, 0x80 | 64, 0xff};
    for (size_t i = 0; i < sizeof impossible; i++) {
        struct maker maker = {0};
        make_section(&maker);
        make_interface(&maker, 1, 262144, impossible[i], NULL);
        damaged_is(read_maker(&maker), 28, "finer than 64 bits");
        oracle_is(maker.bytes, maker.count, ORACLE_BOTH_REFUSED);
        maker_free(&maker);
    }
}

static void pcapng_offsets(void **state)
{
    (void)state;
    static const struct {
        int64_t offset_s;
        int64_t time_ns;
        enum oracle_verdict verdict;
    } line[] = {
        {0, INT64_C(5000001000), ORACLE_SAME},
        {1700000000, INT64_C(1700000005000001000), ORACLE_SAME},
        {-6, -S_NS + 1000, ORACLE_SAME},
        {-1700000000, -1700000000 * S_NS + INT64_C(5000001000), ORACLE_SAME},
        {INT64_MAX, INT64_MAX, ORACLE_WILD_TIME},
        {INT64_MIN, INT64_MIN, ORACLE_WILD_TIME},
    };
    for (int big = 0; big < 2; big++) {
        for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
            struct maker maker = {.big = big};
            struct maker value = {.big = big};
            make_section(&maker);
            size_t begun = make_begin(&maker, MAKE_INTERFACE);
            make16(&maker, 1);
            make16(&maker, 0);
            make32(&maker, 262144);
            make64(&value, (uint64_t)line[i].offset_s);
            make_option(&maker, 14, value.bytes, 8);
            make_end(&maker, begun);
            make_enhanced(&maker, 0, 5000001, 60, 60, 1);
            struct reading *reading = read_maker(&maker);
            packet_is(reading, 0, line[i].time_ns, 60, 60, 1);
            oracle_is(maker.bytes, maker.count, line[i].verdict);
            maker_free(&maker);
            maker_free(&value);
        }
    }
}

/* Simple and obsolete packet blocks, directions, and blocks that nobody knows. */
static void pcapng_blocks(void **state)
{
    (void)state;
    for (int big = 0; big < 2; big++) {
        struct maker maker = {.big = big};
        static const struct {
            uint32_t flags;
            uint8_t direction;
        } flags[] = {{0, DIRECTION_UNKNOWN},
                     {1, DIRECTION_IN},
                     {2, DIRECTION_OUT},
                     {0xffff0001, DIRECTION_IN}};
        make_section(&maker);
        make_interface(&maker, 1, 64, 9, "eth0");
        size_t begun = make_begin(&maker, 0x40000bad); /* unknown, with a body */
        make_fill(&maker, 0xaa, 33);
        make_end(&maker, begun);
        make_end(&maker, make_begin(&maker, 5)); /* statistics, empty */
        begun = make_begin(&maker, MAKE_SIMPLE);
        make32(&maker, 20);
        make_fill(&maker, 7, 20);
        make_end(&maker, begun);
        begun = make_begin(&maker, MAKE_SIMPLE); /* longer than the snapshot length, so cut to it */
        make32(&maker, 1000);
        make_fill(&maker, 8, 64);
        make_end(&maker, begun);
        for (int i = 0; i < 4; i++) {
            struct maker value = {.big = big};
            make32(&value, flags[i].flags);
            begun = make_begin(&maker, i % 2 == 0 ? MAKE_ENHANCED : MAKE_OBSOLETE);
            if (i % 2 == 0) {
                make32(&maker, 0);
            } else {
                make16(&maker, 0);
                make16(&maker, 0xffff); /* drops, not known */
            }
            make32(&maker, 0);
            make32(&maker, 17);
            make32(&maker, 3);
            make32(&maker, 9);
            make_fill(&maker, 9, 3);
            make_fill(&maker, 0, 1);
            make_option(&maker, 1, "seen", 4);
            make_option(&maker, 2, value.bytes, 4);
            make_option(&maker, 0, "", 0);
            make_end(&maker, begun);
            maker_free(&value);
        }
        struct reading *reading = read_maker(&maker);
        assert_int_equal(reading->result, ERR_END);
        assert_int_equal(reading->packets, 6);
        assert_int_equal(reading->packet[0].captured_bytes, 20);
        assert_int_equal(reading->packet[0].time_ns, 0);
        assert_int_equal(reading->packet[1].captured_bytes, 64);
        assert_int_equal(reading->packet[1].original_bytes, 1000);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(reading->packet[2 + i].direction, flags[i].direction);
            assert_int_equal(reading->packet[2 + i].time_ns, 17);
            assert_int_equal(reading->packet[2 + i].captured_bytes, 3);
            assert_int_equal(reading->packet[2 + i].original_bytes, 9);
        }
        oracle_is(maker.bytes, maker.count, ORACLE_SAME);
        maker_free(&maker);
    }
}

/* Options of a packet that are damaged cost its direction, not the packet: libpcap does not look at
 * them. */
static void pcapng_packet_options(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_section(&maker);
    make_interface(&maker, 1, 64, 9, "eth0");
    size_t begun = make_begin(&maker, MAKE_ENHANCED);
    make_fill(&maker, 0, 12);
    make32(&maker, 4);
    make32(&maker, 4);
    make_fill(&maker, 1, 4);
    make16(&maker, 2);
    make16(&maker, 60000); /* a length beyond the block */
    make_end(&maker, begun);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->result, ERR_END);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->packet[0].direction, DIRECTION_UNKNOWN);
    oracle_is(maker.bytes, maker.count, ORACLE_SAME);
    maker_free(&maker);
}

static void pcapng_sections(void **state)
{
    (void)state;
    struct maker maker = {0};
    for (int section = 0; section < 6; section++) {
        maker.big = section % 2 != 0;
        make_section(&maker);
        make_interface(&maker, 1, 262144, 9, "eth0");
        if (section >= 2)
            make_interface(&maker, 1, 262144, 9, NULL);
        if (section == 4)
            make_interface(&maker, 1, 262144, 9, "eth1");
        if (section == 5)
            make_interface(&maker, 1, 262144, 9, "eth2");
        make_enhanced(&maker, 0, (uint64_t)section, 60, 60, 1);
        if (section >= 2)
            make_enhanced(&maker, 1, (uint64_t)section, 61, 61, 1);
        if (section >= 4)
            make_enhanced(&maker, 2, (uint64_t)section, 62, 62, 1);
    }
    for (size_t i = 0; i < STEPS; i++) {
        struct reading reading;
        read_bytes(maker.bytes, maker.count, steps[i], &reading);
        assert_int_equal(reading.result, ERR_END);
        assert_int_equal(reading.packets, 12);
        /* The same description in the same place of another section is the same interface. */
        assert_int_equal(reading.interfaces, 4);
        assert_string_equal(reading.interface[0].name, "eth0");
        assert_string_equal(reading.interface[1].name, NAME "#1");
        assert_string_equal(reading.interface[2].name, "eth1");
        assert_string_equal(reading.interface[3].name, "eth2");
        assert_int_equal(reading.counters[0].seen, 6);
        assert_int_equal(reading.counters[1].seen, 4);
        assert_int_equal(reading.counters[2].seen, 1);
        assert_int_equal(reading.counters[3].seen, 1);
    }
    oracle_is(maker.bytes, maker.count, ORACLE_BYTE_ORDERS);

    /* A section without the interface that its packet names. */
    maker.big = false;
    make_section(&maker);
    size_t at = maker.count;
    make_enhanced(&maker, 0, 1, 60, 60, 1);
    damaged_is(read_maker(&maker), at, "of interface 0, the section has described 0");
    maker_free(&maker);
}

/* Where libpcap stops and we do not, on purpose. */
static void pcapng_beyond_libpcap(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_section(&maker);
    make_interface(&maker, 1, 100, 9, "eth0");
    make_interface(&maker, 1, 200, 9, "eth1");
    make_enhanced(&maker, 1, 1, 200, 200, 1);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->packet[0].captured_bytes, 200);
    oracle_is(maker.bytes, maker.count, ORACLE_SNAPSHOTS);
    maker_free(&maker);

    make_section(&maker); /* no snapshot length: as long as it takes */
    make_interface(&maker, 1, 0, 9, "eth0");
    make_enhanced(&maker, 0, 1, 300000, 300000, 1);
    reading = read_maker(&maker);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->packet[0].captured_bytes, 300000);
    oracle_is(maker.bytes, maker.count, ORACLE_NO_LIMIT);
    maker_free(&maker);

    make_section(&maker);
    make_interface(&maker, 1, 0, 9, "eth0");
    size_t begun = make_begin(&maker, MAKE_SIMPLE);
    make32(&maker, 300000);
    make_fill(&maker, 1, 300000);
    make_end(&maker, begun);
    reading = read_maker(&maker);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->packet[0].captured_bytes, 300000);
    oracle_is(maker.bytes, maker.count, ORACLE_NO_LIMIT);
    maker_free(&maker);

    begun = make_begin(&maker, MAKE_SECTION); /* a long comment on the file */
    make32(&maker, 0x1a2b3c4d);
    make16(&maker, 1);
    make16(&maker, 0);
    make64(&maker, UINT64_MAX);
    for (int i = 0; i < 20; i++) {
        char comment[60000];
        memset(comment, 'x', sizeof comment);
        make_option(&maker, 1, comment, sizeof comment);
    }
    make_end(&maker, begun);
    make_interface(&maker, 1, 0, 9, "eth0");
    make_enhanced(&maker, 0, 1, 60, 60, 1);
    reading = read_maker(&maker);
    assert_int_equal(reading->packets, 1);
    struct oracle_result result;
    oracle_compare(maker.bytes, maker.count, 65536, NAME, &result);
    assert_int_equal(result.verdict, ORACLE_SECTION_HEADER);
    maker_free(&maker);
}

/* The longest packet, and its block, fit; anything that claims more is damage before memory is
 * asked for. */
static void pcapng_longest(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_section(&maker);
    make_interface(&maker, 1, 0, 9, "eth0");
    size_t at = maker.count;
    uint8_t *zeros = calloc(1, PACKET_CAPTURED_MAX + 1);
    assert_non_null(zeros);
    size_t begun = make_begin(&maker, MAKE_ENHANCED);
    make_fill(&maker, 0, 12);
    make32(&maker, PACKET_CAPTURED_MAX);
    make32(&maker, PACKET_CAPTURED_MAX);
    make_bytes(&maker, zeros, PACKET_CAPTURED_MAX);
    make_end(&maker, begun);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->result, ERR_END);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->packet[0].captured_bytes, PACKET_CAPTURED_MAX);
    struct oracle_result result;
    oracle_compare(maker.bytes, maker.count, 65536, NAME, &result);
    assert_int_equal(result.verdict, ORACLE_BLOCK_LENGTH);

    maker.count = at;
    begun = make_begin(&maker, MAKE_ENHANCED);
    make_fill(&maker, 0, 12);
    make32(&maker, PACKET_CAPTURED_MAX + 1);
    make32(&maker, PACKET_CAPTURED_MAX + 1);
    make_bytes(&maker, zeros, PACKET_CAPTURED_MAX + 1);
    make_end(&maker, begun);
    damaged_is(read_maker(&maker), at, "claims to have 16777216 bytes");
    free(zeros);

    static const uint32_t length[] = {
        0, 4, 8, 11, 13, 14, FILE_BLOCK_BYTES_MAX + 4, 0x80000000, 0xfffffffc};
    for (size_t i = 0; i < sizeof length / sizeof length[0]; i++) {
        maker.count = at;
        make32(&maker, 77);
        make32(&maker, length[i]);
        make_fill(&maker, 0, 64);
        damaged_is(read_maker(&maker), at + 4, "claims a length");
        oracle_agrees(maker.bytes, maker.count);
    }
    maker_free(&maker);
}

static void pcapng_interface_damage(void **state)
{
    (void)state;
    static const struct {
        uint16_t code, length;
        uint8_t times;
        const char *reason;
    } line[] = {
        {9, 2, 1, "time resolution"},  {9, 1, 2, "time resolution"},
        {14, 4, 1, "time offset"},     {14, 8, 2, "time offset"},
        {0, 4, 1, "ends its options"}, {2, 60000, 1, "beyond its end"},
    };
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
        struct maker maker = {0};
        make_section(&maker);
        make_interface(&maker, 1, 100, 6, "good");
        make_enhanced(&maker, 0, 1, 60, 60, 1);
        size_t at = maker.count;
        size_t begun = make_begin(&maker, MAKE_INTERFACE);
        make16(&maker, 1);
        make16(&maker, 0);
        make32(&maker, 100);
        for (int n = 0; n < line[i].times; n++) {
            make16(&maker, line[i].code);
            make16(&maker, line[i].length);
            make_fill(&maker, 1, line[i].length > 8 ? 8 : (line[i].length + 3u) & ~3u);
        }
        make_end(&maker, begun);
        struct reading *reading = read_maker(&maker);
        assert_int_equal(reading->packets, 1);
        damaged_is(reading, at, line[i].reason);
        oracle_is(maker.bytes, maker.count, ORACLE_SAME);
        maker_free(&maker);
    }
}

static void pcapng_too_many_interfaces(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_section(&maker);
    for (int i = 0; i < SOURCE_INTERFACES_MAX; i++)
        make_interface(&maker, 1, 100, 6, NULL);
    make_enhanced(&maker, SOURCE_INTERFACES_MAX - 1, 1, 60, 60, 1);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->result, ERR_END);
    assert_int_equal(reading->interfaces, SOURCE_INTERFACES_MAX);
    assert_int_equal(reading->packet[0].interface, SOURCE_INTERFACES_MAX - 1);
    make_interface(&maker, 1, 100, 6, NULL);
    reading = read_maker(&maker);
    assert_int_equal(reading->packets, 1);
    assert_int_equal(reading->result, ERR_UNSUPPORTED);
    assert_non_null(strstr(reading->failure.text, "more than 65535 interfaces"));
    maker_free(&maker);
}

/* ---- refused -------------------------------------------------------------------------------- */

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        uint8_t count;
        int code;
        const char *reason;
    } line[] = {
        {"", 0, ERR_INVALID, "is empty"},
        {"\xd4\xc3", 2, ERR_INVALID, "begins like neither"},
        {"\xd4\xc3\xb2\xa1", 4, ERR_CORRUPT, "cut short"},
        {"\x0a\x0d\x0d\x0a", 4, ERR_INVALID, "begins like neither"},
        {"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a", 12, ERR_CORRUPT, "cut short"},
        {"once upon a time there was a packet", 35, ERR_INVALID, "begins like neither"},
        {"\x34\xcd\xb2\xa1", 4, ERR_UNSUPPORTED, "Kuznetzov"},
        {"\xa1\xb2\xcd\x34", 4, ERR_UNSUPPORTED, "Kuznetzov"},
        {"\xa1\xb2\x34\xcd", 4, ERR_UNSUPPORTED, "Mesquita"},
        {"\xa1\x2b\x3c\x4d", 4, ERR_UNSUPPORTED, "Navtel"},
        {"\x1c\x00\x01\xac", 4, ERR_UNSUPPORTED, "Ixia"},
        {"snoop\0\0\0", 8, ERR_UNSUPPORTED, "snoop"},
        {"\x1f\x8b\x08", 3, ERR_UNSUPPORTED, "gzip -d"},
        {"\x28\xb5\x2f\xfd", 4, ERR_UNSUPPORTED, "zstd -d"},
        {"\xfd"
         "7zXZ\0",
         6, ERR_UNSUPPORTED, "xz -d"},
        {"BZh9", 4, ERR_UNSUPPORTED, "bzip2 -d"},
    };
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
        struct reading reading;
        read_bytes((const uint8_t *)line[i].bytes, line[i].count, 7, &reading);
        if (reading.result != line[i].code || strncmp(reading.failure.text, NAME ": ", 11) != 0 ||
            strstr(reading.failure.text, line[i].reason) == NULL)
            fail_msg("line %zu: %d, \"%s\"", i, reading.result, reading.failure.text);
    }

    struct maker maker = {0};
    make_section(&maker);
    struct reading *reading = read_maker(&maker);
    assert_int_equal(reading->result, ERR_INVALID);
    assert_non_null(strstr(reading->failure.text, "without describing an interface"));
    oracle_is(maker.bytes, maker.count, ORACLE_BOTH_REFUSED);
    make_enhanced(&maker, 0, 0, 60, 60, 1);
    damaged_is(read_maker(&maker), 28, "has described 0");
    oracle_is(maker.bytes, maker.count, ORACLE_BOTH_REFUSED);
    maker_free(&maker);

    static const uint16_t version[][2] = {{2, 0}, {1, 1}, {0, 0}};
    for (size_t i = 0; i < 3; i++) {
        make_section(&maker);
        make_over32(&maker, 12, (uint32_t)version[i][1] << 16 | version[i][0]);
        make_interface(&maker, 1, 100, 6, NULL);
        reading = read_maker(&maker);
        assert_int_equal(reading->result, ERR_UNSUPPORTED);
        assert_non_null(strstr(reading->failure.text, "version"));
        oracle_is(maker.bytes, maker.count, ORACLE_BOTH_REFUSED);
        maker_free(&maker);
    }

    make_pcap_header(&maker, 0xa1b2cd34, 65535, 1);
    oracle_is(maker.bytes, maker.count, ORACLE_KUZNETZOV);
    maker_free(&maker);
}

/* ---- damage --------------------------------------------------------------------------------- */

static void make_samples(struct maker sample[4])
{
    for (int i = 0; i < 4; i++) {
        sample[i] = (struct maker){.big = i % 2 != 0};
        if (i < 2) {
            make_pcap_header(&sample[i], i == 0 ? MAKE_MICROSECONDS : MAKE_NANOSECONDS, 65535, 1);
            make_pcap_record(&sample[i], 1700000000, 1, 60, 60, 1);
            make_pcap_record(&sample[i], 1700000001, 2, 5, 1500, 2);
            make_pcap_record(&sample[i], 1700000002, 3, 33, 33, 3);
            continue;
        }
        make_section(&sample[i]);
        make_interface(&sample[i], 1, 262144, 9, "eth0");
        make_enhanced(&sample[i], 0, 1700000000000000000, 60, 60, 1);
        make_interface(&sample[i], 1, 262144, 6, NULL);
        size_t begun = make_begin(&sample[i], MAKE_SIMPLE);
        make32(&sample[i], 7);
        make_fill(&sample[i], 7, 7);
        make_end(&sample[i], begun);
        make_enhanced(&sample[i], 1, 1700000000000000, 33, 34, 3);
    }
}

/* Cut after every byte: the whole packets come out, and the end is an end only between two records.
 */
static void cut_everywhere(void **state)
{
    (void)state;
    struct maker sample[4];
    make_samples(sample);
    for (int s = 0; s < 4; s++) {
        uint32_t packets = 0;
        unsigned ends = 0;
        for (size_t count = 1; count < sample[s].count; count++) {
            struct reading reading;
            read_bytes(sample[s].bytes, count, 4096, &reading);
            assert_in_range(reading.packets, packets, packets + 1);
            packets = reading.packets;
            if (reading.result == ERR_END)
                ends++;
            else
                assert_non_null(strstr(reading.failure.text, NAME));
            for (uint32_t i = 0; i < packets; i++)
                assert_int_equal(reading.packet[i].bytes[4],
                                 s >= 2 && i == 1 ? 7 : reading.packet[i].bytes[0] + 4);
            oracle_agrees(sample[s].bytes, count);
        }
        assert_int_equal(packets, 2);
        /* pcap: after the header and two packets; pcapng: after the interface, and two packets and
         * an interface. */
        assert_int_equal(ends, s < 2 ? 3 : 4);
        maker_free(&sample[s]);
    }
}

/* Every bit flipped, every byte set to 0 and 255. */
static void flipped_everywhere(void **state)
{
    (void)state;
    struct maker sample[4];
    make_samples(sample);
    for (int s = 0; s < 4; s++) {
        for (size_t at = 0; at < sample[s].count; at++) {
            uint8_t byte = sample[s].bytes[at];
            for (unsigned bit = 0; bit < 10; bit++) {
                sample[s].bytes[at] = bit == 8 ? 0 : bit == 9 ? 255 : byte ^ (uint8_t)(1u << bit);
                oracle_agrees(sample[s].bytes, sample[s].count);
            }
            sample[s].bytes[at] = byte;
        }
        maker_free(&sample[s]);
    }
}

/* ---- pseudo-headers ------------------------------------------------------------------------- */

/* Random packets, and such as look right, of every link type with fields in the writer's byte
 * order. */
static void pseudo_headers(void **state)
{
    (void)state;
    static const uint16_t link_type[] = {113, 117, 189, 220, 239, 276, 1};
    uint64_t random = 1;
    for (size_t l = 0; l < sizeof link_type / sizeof link_type[0]; l++) {
        for (int big = 0; big < 2; big++) {
            for (int ng = 0; ng < 2; ng++) {
                struct maker maker = {.big = big};
                if (ng) {
                    make_section(&maker);
                    make_interface(&maker, link_type[l], 262144, 6, NULL);
                } else {
                    make_pcap_header(&maker, MAKE_MICROSECONDS, 262144, link_type[l]);
                }
                for (uint32_t n = 0; n < 3000; n++) {
                    uint8_t bytes[160];
                    for (size_t i = 0; i < sizeof bytes; i++) {
                        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
                        bytes[i] = (uint8_t)(random >> 56);
                    }
                    struct maker head = {.big = big};
                    uint32_t captured = (uint32_t)(random >> 20) % (sizeof bytes + 1);
                    uint32_t original =
                        n % 5 == 0 ? (uint32_t)(random >> 30) % 80 : captured + n % 3;
                    if (link_type[l] == 113 || link_type[l] == 276) { /* CAN, CAN FD, others */
                        size_t at = link_type[l] == 113 ? 14 : 0;
                        bytes[at] = 0;
                        bytes[at + 1] = (uint8_t)(11 + n % 4);
                    } else if (link_type[l] == 117) {
                        bytes[0] = (uint8_t)(40 + n % 30);
                    } else if (link_type[l] == 239) {
                        bytes[1] = n % 7 == 0;
                        for (uint32_t at = 4; at + 4 < sizeof bytes; at += 8 + n % 4 * 4) {
                            head.count = 0;
                            make16(&head, (uint16_t)(n % 11 == 0 ? n : 5 + n % 4 * 4));
                            memcpy(bytes + at, head.bytes, 2);
                        }
                    } else if (link_type[l] == 220 &&
                               n % 2 == 0) { /* isochronous, completed, incoming */
                        uint32_t descriptors = n % 7;
                        uint32_t request = 200 + n % 50;
                        bytes[8] = 'C';
                        bytes[9] = (uint8_t)(n % 10 == 0);
                        bytes[10] |= 0x80;
                        bytes[15] = 0;
                        make32(&head, request);
                        make32(&head, descriptors);
                        memcpy(bytes + 32, head.bytes, 4);
                        memcpy(bytes + 60, head.bytes + 4, 4);
                        for (uint32_t d = 0; d < descriptors && 64 + 16 * d + 12 < sizeof bytes;
                             d++) {
                            head.count = 0;
                            make32(&head, d * 100 + n % 3);
                            make32(&head, n % 4 * 10);
                            memcpy(bytes + 64 + 16 * d + 4, head.bytes, 8);
                        }
                        original = 64 + 16 * descriptors + request;
                    }
                    maker_free(&head);
                    if (ng) {
                        size_t begun = make_begin(&maker, MAKE_ENHANCED);
                        make_fill(&maker, 0, 12);
                        make32(&maker, captured);
                        make32(&maker, original);
                        make_bytes(&maker, bytes, captured);
                        make_end(&maker, begun);
                    } else {
                        make32(&maker, 1);
                        make32(&maker, 2);
                        make32(&maker, captured);
                        make32(&maker, original);
                        make_bytes(&maker, bytes, captured);
                    }
                }
                oracle_is(maker.bytes, maker.count, ORACLE_SAME);
                maker_free(&maker);
            }
        }
    }
}

/* ---- batches and descriptors ---------------------------------------------------------------- */

/* Views stay until their batch is released, however many batches are held. */
static void held_batches(void **state)
{
    (void)state;
    enum { HELD = 40, PACKETS = 256 * HELD };
    static struct source_batch batch[HELD];
    for (int ng = 0; ng < 2; ng++) {
        struct maker maker = {0};
        if (ng) {
            make_section(&maker);
            make_interface(&maker, 1, 262144, 6, NULL);
        } else {
            make_pcap_header(&maker, MAKE_MICROSECONDS, 262144, 1);
        }
        for (uint32_t i = 0; i < PACKETS; i++) {
            if (ng)
                make_enhanced(&maker, 0, i, 60 + i % 50, 200, (uint8_t)i);
            else
                make_pcap_record(&maker, 0, i, 60 + i % 50, 200, (uint8_t)i);
        }
        struct source *source;
        assert_int_equal(
            capture_file_open_memory(maker.bytes, maker.count, 9000, NAME, &source, NULL), 0);
        uint32_t next = 0;
        int result = 1;
        while (result > 0) {
            unsigned held = 0;
            uint32_t first = next;
            while (held < 16 && (result = source_next(source, &batch[held], -1)) > 0)
                next += batch[held++].count;
            for (unsigned h = 0; h < held; h++) {
                for (uint32_t i = 0; i < batch[h].count; i++, first++) {
                    const struct packet *packet = &batch[h].packet[i];
                    assert_int_equal(packet->captured_bytes, 60 + first % 50);
                    assert_int_equal(packet->time_ns, first * 1000);
                    for (uint32_t b = 0; b < packet->captured_bytes; b++)
                        assert_int_equal(packet->bytes[b], (uint8_t)(first + b));
                }
                source_release(source, &batch[h]);
            }
        }
        assert_int_equal(result, ERR_END);
        assert_int_equal(next, PACKETS);
        assert_int_equal(source->bytes_done, maker.count);
        assert_int_equal(source->bytes_total, maker.count);
        /* Closing with a batch in hand frees it all the same. */
        source_close(&source);
        assert_int_equal(
            capture_file_open_memory(maker.bytes, maker.count, 900, NAME, &source, NULL), 0);
        for (unsigned h = 0; h < HELD; h++)
            assert_int_equal(source_next(source, &batch[h], -1), 1);
        source_close(&source);
        maker_free(&maker);
    }
}

static void regular_file(void **state)
{
    (void)state;
    struct maker maker = {0};
    make_pcap_header(&maker, MAKE_MICROSECONDS, 262144, 1);
    for (uint32_t i = 0; i < 40; i++)
        make_pcap_record(&maker, i, 0, 60, 60, (uint8_t)i);
    int fd = memfd_create("capture", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "junk", 4), 4);
    assert_int_equal(write(fd, maker.bytes, maker.count), (ssize_t)maker.count);
    assert_int_equal(lseek(fd, 4, SEEK_SET), 4); /* read from where it stands */
    struct source *source = NULL;
    struct failure failure;
    struct reading reading = {0};
    assert_int_equal(source_file_open(fd, NAME, &source, &failure), 0);
    assert_true(source->waits);
    assert_int_equal(source->bytes_total, maker.count);
    read_source(source, &reading);
    assert_int_equal(reading.result, ERR_END);
    assert_int_equal(reading.packets, 40);
    assert_int_equal(source->bytes_done, maker.count);
    source_close(&source);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* the source owned it */
    maker_free(&maker);

    fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(source_file_open(fd, "tmp", &source, &failure), ERR_INVALID);
    assert_string_equal(failure.text, "tmp: is a directory, not a capture file");
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(source_file_open(fd, "null", &source, &failure) < 0);
    assert_non_null(strstr(failure.text, "null at offset 0: cannot be read: "));
}

static void *wake_later(void *source)
{
    usleep(20000);
    source_wake(source);
    return NULL;
}

static void pipes(void **state)
{
    (void)state;
    struct maker maker = {0};
    static struct source_batch batch;
    int end[2];
    make_pcap_header(&maker, MAKE_MICROSECONDS, 262144, 1);
    make_pcap_record(&maker, 1, 0, 60, 60, 1);
    make_pcap_record(&maker, 2, 0, 60, 60, 2);
    assert_int_equal(pipe(end), 0);
    assert_int_equal(write(end[1], maker.bytes, 24 + 76 + 10), 24 + 76 + 10);
    struct source *source = NULL;
    assert_int_equal(source_file_open(end[0], "-", &source, NULL), 0);
    assert_int_equal(source->bytes_total, 0);
    assert_string_equal(source->ops->interface(source, 0)->name, "-");
    /* The packet that is whole comes at once; the one that is not is waited for, and given up in
     * time. */
    assert_int_equal(source_next(source, &batch, -1), 1);
    assert_int_equal(batch.count, 1);
    source_release(source, &batch);
    assert_int_equal(source_next(source, &batch, 0), 0);
    assert_int_equal(source_next(source, &batch, 20), 0);
    assert_int_equal(batch.count, 0);
    source_release(source, &batch);
    /* Woken: at once, and once. */
    source_wake(source);
    source_wake(source);
    assert_int_equal(source_next(source, &batch, -1), 0);
    assert_int_equal(source_next(source, &batch, 1), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wake_later, source), 0);
    assert_int_equal(source_next(source, &batch, -1), 0);
    pthread_join(thread, NULL);
    /* The rest of the packet, then half a header, then the end. */
    assert_int_equal(write(end[1], maker.bytes + 110, maker.count - 110),
                     (ssize_t)maker.count - 110);
    assert_int_equal(source_next(source, &batch, -1), 1);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.packet[0].time_ns, 2 * S_NS);
    source_release(source, &batch);
    assert_int_equal(write(end[1], "12345678", 8), 8);
    close(end[1]);
    assert_int_equal(source_next(source, &batch, -1), ERR_CORRUPT);
    assert_non_null(
        strstr(source->failure.text, "-: damaged at offset 176: the file is cut short"));
    assert_int_equal(source_next(source, &batch, -1), ERR_CORRUPT); /* and it stays so */
    source_close(&source);
    maker_free(&maker);
}

/* ---- names ---------------------------------------------------------------------------------- */

static void names(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } line[] = {
        {"eth0", "eth0"},
        {"", ""},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xbc", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xbc"},
        {"a\tb\x7f", "a\\x09b\\x7f"},
        {"\xc0\xaf", "\\xc0\\xaf"}, /* longer than it need be */
        {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* half of a surrogate pair */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* beyond Unicode */
        {"\xc2\x85", "\\xc2\\x85"},                   /* a control character */
        {"x\xc3", "x\\xc3"},                          /* cut off */
    };
    char out[256];
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++) {
        file_text(out, sizeof out, (const uint8_t *)line[i].in, strlen(line[i].in));
        assert_string_equal(out, line[i].out);
    }
    file_text(out, 6, (const uint8_t *)"abcd\xc3\xa9", 6); /* cut before a character, not inside */
    assert_string_equal(out, "abcd");
    file_text(out, sizeof out, (const uint8_t *)"ab\0cd", 5);
    assert_string_equal(out, "ab");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pcap_magics),
        cmocka_unit_test(pcap_wild_times),
        cmocka_unit_test(pcap_lengths),
        cmocka_unit_test(pcap_versions),
        cmocka_unit_test(pcap_longest),
        cmocka_unit_test(pcap_check_sequence),
        cmocka_unit_test(pcapng_interfaces),
        cmocka_unit_test(pcapng_resolutions),
        cmocka_unit_test(pcapng_offsets),
        cmocka_unit_test(pcapng_blocks),
        cmocka_unit_test(pcapng_packet_options),
        cmocka_unit_test(pcapng_sections),
        cmocka_unit_test(pcapng_beyond_libpcap),
        cmocka_unit_test(pcapng_longest),
        cmocka_unit_test(pcapng_interface_damage),
        cmocka_unit_test(pcapng_too_many_interfaces),
        cmocka_unit_test(refused),
        cmocka_unit_test(cut_everywhere),
        cmocka_unit_test(flipped_everywhere),
        cmocka_unit_test(pseudo_headers),
        cmocka_unit_test(held_batches),
        cmocka_unit_test(regular_file),
        cmocka_unit_test(pipes),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
