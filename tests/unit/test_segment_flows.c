/*
 * test_segment_flows.c - the key index where it lies: in FLOWS frames, between INDEX frames and seal.
 */
#include "unit_test.h"

#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "packet_keys.h"
#include "segment_fixture.h"
#include "segment_flows.h"
#include "simulation.h"
#include "verifier.h"

#define RARE 0x0a636363u /* 10.99.99.99 */

struct harness {
    struct fixture fixture;
    struct fixture_segment segment;
    struct disk *disk;
    struct segment_readers shared;
    struct segment_reader reader;
    uint32_t complaints;
    uint32_t complaint_offset;
};

static int judge(void *context, const struct worker_bad *bad)
{
    struct harness *harness = context;
    harness->complaints++;
    harness->complaint_offset = bad->offset;
    return WORKER_DAMAGED;
}

/* UDP over IPv4 over Ethernet, 60 bytes. */
static void make_packet(uint8_t packet[60], uint32_t from, uint32_t to, uint16_t port)
{
    memset(packet, 0, 60);
    memset(packet, 2, 12);
    packet[12] = 8;
    packet[14] = 0x45;
    packet[17] = 46;
    packet[22] = 64;
    packet[23] = 17;
    for (unsigned i = 0; i < 4; i++) {
        packet[26 + i] = (uint8_t)(from >> (24 - 8 * i));
        packet[30 + i] = (uint8_t)(to >> (24 - 8 * i));
    }
    packet[34] = (uint8_t)(port >> 8);
    packet[35] = (uint8_t)port;
    packet[37] = 53;
    packet[39] = 26;
}

/* A segment with as many packets as fit, `flows` of them with a flow of their own, and the rare host in every 997th. */
static void open_harness(struct harness *harness, uint64_t slot_bytes, uint32_t packets, uint32_t flows)
{
    static const uint32_t slots[] = {0, 1};
    memset(harness, 0, sizeof *harness);
    fixture_open(&harness->fixture, 2, slot_bytes);
    fixture_begin(&harness->segment, &harness->fixture, slots, 2, 1, 0, 1, 0, 0);
    fixture_index(&harness->segment, packet_keys_of);
    int interface = fixture_interface_usual(&harness->segment);
    for (uint32_t i = 0; i < packets; i++) {
        uint8_t packet[60];
        uint32_t from = i % 997 == 5 ? RARE : 0x0a000000u + i % flows * 2654435761u % 0x630000u;
        make_packet(packet, from, 0xc0000200u + i % 50, (uint16_t)(i % flows));
        if (!fixture_packet_bytes(&harness->segment, interface, 1, 1000 + i, packet, 60, 60))
            break;
    }
    fixture_seal(&harness->segment);
    harness->disk = fixture_disk(&harness->fixture);
    harness->shared = (struct segment_readers){
        .disk = &harness->disk,
        .ring = harness->fixture.ring,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .judge = judge,
        .context = harness,
    };
    assert_int_equal(segment_readers_open(&harness->shared, 4 << 20), 0);
    segment_reader_open(&harness->reader, &harness->shared, &harness->segment.about, 0, -1);
}

static void close_harness(struct harness *harness)
{
    segment_reader_close(&harness->reader);
    segment_readers_close(&harness->shared);
    disk_close(&harness->disk);
    fixture_end(&harness->segment);
    fixture_close(&harness->fixture);
}

/* Bytes come out as they were made, whatever piece is asked for, across frames, of either copy. */
static void ranges_are_what_was_encoded(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 16 << 20, 160000, 30000);
    const uint8_t *made;
    uint32_t bytes = flow_index_encode(harness.segment.flows, harness.segment.table.entry,
                                       harness.segment.table.entries, UINT32_MAX, &made);
    assert_true(bytes > FLOWS_PIECE_BYTES); /* several frames */
    for (uint32_t place = 0; place < 2; place++) {
        struct segment_flows flows;
        assert_int_equal(segment_flows_open(&flows, &harness.reader, place), 1);
        assert_true(flows.source.bytes >= bytes); /* the last frame's header, which says, is not looked at yet */
        uint8_t *read = malloc(bytes);
        assert_non_null(read);
        for (uint32_t from = 0, step = 1; from < bytes; from += step, step = step * 3 % 150001 + 1) {
            uint32_t count = step < bytes - from ? step : bytes - from;
            assert_int_equal(flows.source.read(flows.source.context, from, count, read + from), 0);
        }
        assert_memory_equal(read, made, bytes);
        assert_int_equal(flows.source.read(flows.source.context, bytes - 1, 2, read), ERR_CORRUPT);
        free(read);
        segment_flows_close(&flows);
    }
    assert_int_equal(harness.complaints, 0);
    close_harness(&harness);
}

/* The blocks that a filter selects hold all packets that match, and few others. */
static void a_filter_selects_the_blocks_of_its_packets(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 4 << 20, 40000, 300);
    struct segment_flows flows;
    struct flow_reader *reader;
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), 1);
    assert_int_equal(flow_reader_open(&flows.source, &reader), 0);
    struct narrowing *tree;
    assert_int_equal(narrowing_open("host 10.99.99.99", &tree), 0);
    assert_true(narrowing_parsed(tree));
    struct flow_selection selection;
    assert_int_equal(flow_reader_select(reader, tree, false, &selection), 0);
    uint32_t block = 0, wanted = 0, all = 0;
    for (uint32_t i = 0; i < harness.reader.entries; i++) {
        uint32_t offset = le32_get(harness.reader.entry[i].offset);
        const uint8_t *frame = fixture_slot(&harness.fixture, 0, offset);
        struct frame_info info;
        struct frame_cursor cursor;
        struct frame_packet packet;
        assert_int_equal(frame_parse(frame, le32_get(harness.reader.entry[i].frame_bytes), &info), 0);
        frame_cursor_start(&cursor, frame, &info);
        bool last[FRAME_BLOCKS_USUAL] = {false};
        for (;;) {
            uint32_t at = cursor.at;
            if (frame_cursor_next(&cursor, &packet) <= 0)
                break;
            if (memcmp(packet.packet.bytes + 26, "\x0a\x63\x63\x63", 4) != 0)
                continue;
            assert_true(flow_selection_has(&selection, block + at / BLOCK_BYTES));
            wanted += !last[at / BLOCK_BYTES];
            last[at / BLOCK_BYTES] = true;
        }
        all += frame_block_count(&info);
        block += frame_block_count(&info);
    }
    assert_true(flow_reader_blocks(reader) >= all);
    assert_true(wanted > 10 && wanted < all / 2);
    assert_int_equal(selection.selected, wanted);
    flow_selection_clear(&selection);
    narrowing_close(&tree);
    flow_reader_close(&reader);
    segment_flows_close(&flows);
    close_harness(&harness);
}

static uint32_t flows_offset(struct harness *harness)
{
    const struct worker_segment *about = &harness->segment.about;
    assert_int_equal(segment_reader_index(&harness->reader), 1);
    assert_true(harness->reader.flows_bytes > 0);
    return about->index_offset + about->index_bytes - harness->reader.flows_bytes;
}

/* What is wrong at one place is not handed out, and the other place has it. */
static void damage_leads_to_the_other_copy(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 1 << 20, 2000, 100);
    uint32_t offset = flows_offset(&harness);
    *fixture_slot(&harness.fixture, 0, offset + 100) ^= 1; /* the header */
    struct segment_flows flows;
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), ERR_CORRUPT);
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 1), 1);
    struct flow_reader *reader;
    assert_int_equal(flow_reader_open(&flows.source, &reader), 0);
    flow_reader_close(&reader);
    segment_flows_close(&flows);
    *fixture_slot(&harness.fixture, 1, offset + FLOWS_HEADER_BYTES + 20) ^= 1; /* the index's own head, or its tables */
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 1), 1);
    assert_int_equal(flow_reader_open(&flows.source, &reader), ERR_CORRUPT);
    segment_flows_close(&flows);
    close_harness(&harness);
}

/* Bytes of another segment, or of an earlier revision of it, are not this segment's key index. */
static void a_frame_of_something_else_is_refused(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 1 << 20, 2000, 100);
    uint32_t offset = flows_offset(&harness);
    struct frame_info info;
    uint8_t *frame = fixture_slot(&harness.fixture, 0, offset);
    assert_int_equal(frame_parse(frame, FRAME_BYTES_USUAL, &info), 0);
    struct frame_identity other = frame_identity_of(&info);
    other.segment.byte[3] ^= 1;
    frame_relabel(frame, &other, offset, info.number);
    struct segment_flows flows;
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), ERR_CORRUPT);
    other = frame_identity_of(&info);
    other.revision++;
    frame_relabel(frame, &other, offset, info.number);
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), ERR_CORRUPT);
    close_harness(&harness);
}

/* A scrub sees a flipped bit in the key index, wherever it is, and says where. */
static void a_scrub_finds_damage_in_it(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 1 << 20, 2000, 100);
    uint32_t offset = flows_offset(&harness);
    assert_int_equal(verifier_check(&harness.shared, &harness.segment.about, NULL, NULL), 0);
    assert_int_equal(harness.complaints, 0);
    for (uint32_t at = 50; at < harness.reader.flows_bytes; at += 1777) {
        harness.complaints = 0;
        uint8_t *byte = fixture_slot(&harness.fixture, at & 1, offset + at);
        *byte ^= 0x40;
        assert_int_equal(verifier_check(&harness.shared, &harness.segment.about, NULL, NULL), 0);
        assert_int_equal(harness.complaints, 1);
        assert_int_equal(harness.complaint_offset, offset);
        *byte ^= 0x40;
    }
    close_harness(&harness);
}

/* What has come ahead is what is used, and nothing is read twice; what is damaged in it is found as if it had been read then. */
static void an_index_that_came_ahead_is_used(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 16 << 20, 160000, 30000);
    const struct worker_segment *about = &harness.segment.about;
    assert_true(segment_index_ahead(&harness.shared, about, 0)); /* nothing of it matters before: the harness narrows nothing by itself */
    assert_true(segment_index_ahead(&harness.shared, about, 0)); /* once is enough */
    struct segment_flows flows;
    struct flow_reader *reader;
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), 1);
    assert_int_equal(flow_reader_open(&flows.source, &reader), 0);
    struct flow_selection selection;
    assert_int_equal(flow_reader_select(reader, NULL, true, &selection), 0);
    assert_int_equal(harness.shared.bytes_read, about->index_bytes);
    assert_int_equal(harness.shared.index_bytes, about->index_bytes);
    flow_selection_clear(&selection);
    flow_reader_close(&reader);
    segment_flows_close(&flows);
    assert_non_null(segment_index_bytes(&harness.shared, about, 0, about->index_offset, about->index_bytes));
    assert_null(segment_index_bytes(&harness.shared, about, 1, about->index_offset, 1)); /* of the other copy nothing came */
    assert_null(segment_index_bytes(&harness.shared, about, 0, about->index_offset - 1, 1));
    assert_null(segment_index_bytes(&harness.shared, about, 0, about->index_offset, about->index_bytes + 1));
    segment_index_forget(&harness.shared, about);
    assert_null(segment_index_bytes(&harness.shared, about, 0, about->index_offset, 1));

    uint32_t offset = flows_offset(&harness);
    *fixture_slot(&harness.fixture, 0, offset + FLOWS_HEADER_BYTES + 20) ^= 1;
    assert_true(segment_index_ahead(&harness.shared, about, 0));
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), 1);
    assert_int_equal(flow_reader_open(&flows.source, &reader), ERR_CORRUPT);
    segment_flows_close(&flows);
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 1), 1); /* read from the other copy */
    assert_int_equal(flow_reader_open(&flows.source, &reader), 0);
    flow_reader_close(&reader);
    segment_flows_close(&flows);
    close_harness(&harness);
}

/* What cannot be read ahead is read when it is needed; pieces that nobody has waited for are given back. */
static void an_index_that_did_not_come_is_read(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 1 << 20, 2000, 100);
    struct disk *plain = harness.disk;
    harness.disk = disk_faulty_wrap(plain, DISK_READ, 0, true);
    assert_true(segment_index_ahead(&harness.shared, &harness.segment.about, 0));
    struct segment_flows flows;
    assert_int_equal(segment_flows_open(&flows, &harness.reader, 0), 1);
    assert_true(disk_faulty_struck(harness.disk));
    segment_flows_close(&flows);
    assert_int_equal(harness.complaints, 0);
    assert_true(segment_index_ahead(&harness.shared, &harness.segment.about, 0));
    assert_int_equal(harness.shared.ahead[0], 1);
    segment_index_forget(&harness.shared, &harness.segment.about);
    assert_int_equal(harness.shared.ahead[0], 0);
    assert_true(segment_index_ahead(&harness.shared, &harness.segment.about, 1)); /* closing gives it back */
    close_harness(&harness);
}

/* A segment without a key index says so. */
static void a_segment_without_one(void **state)
{
    (void)state;
    struct harness harness;
    open_harness(&harness, 1 << 20, 2000, 100);
    struct fixture_segment bare;
    static const uint32_t slot[] = {1};
    fixture_begin(&bare, &harness.fixture, slot, 1, 1, 0, 2, 0, 0);
    int interface = fixture_interface_usual(&bare);
    assert_true(fixture_packet(&bare, interface, 0, 5, 100, 100));
    fixture_seal(&bare);
    struct segment_reader reader;
    struct segment_flows flows;
    segment_reader_open(&reader, &harness.shared, &bare.about, 0, -1);
    assert_int_equal(segment_flows_open(&flows, &reader, 0), 0);
    assert_int_equal(segment_reader_index(&reader), 1);
    segment_reader_close(&reader);
    fixture_end(&bare);
    close_harness(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_what_was_encoded),
        cmocka_unit_test(a_filter_selects_the_blocks_of_its_packets),
        cmocka_unit_test(damage_leads_to_the_other_copy),
        cmocka_unit_test(a_frame_of_something_else_is_refused),
        cmocka_unit_test(a_scrub_finds_damage_in_it),
        cmocka_unit_test(an_index_that_came_ahead_is_used),
        cmocka_unit_test(an_index_that_did_not_come_is_read),
        cmocka_unit_test(a_segment_without_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
