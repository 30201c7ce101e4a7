/*
 * test_flow_index.c - what the index of a segment says of its packets is true, whatever they are
 * and whatever happens to its bytes.
 *
 * Random packets are laid into frames as a stream lays them. Then, for many filters: every block
 * that holds a packet which libpcap matches is selected; counts are those of the packets; the
 * encoding never outgrows its bound. Damaged bytes give an error or the same answer. What marks lead to is what whole columns say, which is
 * how an index without marks is read.
 */
#include "unit_test.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "errors.h"
#include "filter.h"
#include "flow_format.h"
#include "flow_frames.h"
#include "flow_index.h"
#include "flow_index_reader.h"
#include "packet_keys.h"
#include "packet_mixer.h"

#define HEADER_BYTES 600u
#define RECORD_BYTES 16u
#define PACKETS 9000u

struct laid {
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t count;
    uint32_t block;
    uint8_t entry;
};

struct segment {
    struct laid *packet;
    uint32_t packets;
    struct flow_index *index;
    const uint8_t *bytes; /* encoded */
    uint32_t length;
    uint8_t *copy;
};

static int read_memory(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    const struct segment *segment = context;
    assert_true((uint64_t)offset + count <= segment->length);
    memcpy(into, segment->copy + offset, count);
    return 0;
}

static struct flow_reader *open_reader(struct segment *segment, int *code)
{
    struct flow_reader *reader = NULL;
    const struct flow_index_source source = {
        .read = read_memory, .context = segment, .bytes = segment->length};
    *code = flow_reader_open(&source, &reader);
    return reader;
}

/* A packet that has been made. */
static void lay_packet(struct segment *segment, struct mixer *mixer, struct laid *one, uint32_t *at, uint32_t *frame, uint32_t frame_bytes)
{
    struct decoded_packet decoded;
    struct flow_keys keys;
    one->entry = (uint8_t)mixer_below(mixer, 3);
    if (*at + RECORD_BYTES + one->count > frame_bytes) {
        flow_index_end_frame(segment->index, frame_bytes);
        *frame += (frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
        *at = HEADER_BYTES;
    }
    one->block = *frame + *at / BLOCK_BYTES;
    decode_packet(LINK_ETHERNET, one->bytes, one->count, &decoded);
    packet_keys_fill(LINK_ETHERNET, one->bytes, one->count, &decoded, &keys);
    keys.entry = one->entry;
    uint64_t hash = flow_index_hash(segment->index, &keys);
    flow_index_prefetch(segment->index, hash);
    flow_index_prefetch_flow(segment->index, hash);
    flow_index_add(segment->index, &keys, hash, *at, RECORD_BYTES + one->count);
    *at += RECORD_BYTES + one->count;
}

static void lay_one(struct segment *segment, struct mixer *mixer, uint32_t *at, uint32_t *frame,
                    uint32_t frame_bytes)
{
    struct laid *one = &segment->packet[segment->packets++];
    one->count = mixer_packet(mixer, one->bytes);
    lay_packet(segment, mixer, one, at, frame, frame_bytes);
}

static const struct frame_entry entry_table[3] = {
    {.rule = {{1}}}, {.rule = {{2}}}, {.rule = {{3}}}};

static void lay(struct segment *segment, struct mixer *mixer, uint32_t packets, uint32_t frame_bytes)
{
    uint32_t at = HEADER_BYTES, frame = 0;
    segment->packets = 0;
    segment->packet = malloc(packets * sizeof *segment->packet);
    assert_non_null(segment->packet);
    uint32_t allowance = 0, bound = 0;
    for (uint32_t i = 0; i < packets; i++) {
        if (allowance == 0) {
            /* what was promised: so many packets do not raise the bound further */
            assert_true(bound == 0 || flow_index_bound(segment->index) <= bound);
            bound = flow_index_bound(segment->index) + 20000;
            allowance = flow_index_allowance(segment->index, bound);
            assert_true(allowance > 0);
        }
        allowance--;
        lay_one(segment, mixer, &at, &frame, frame_bytes);
    }
    flow_index_end_frame(segment->index, frame_bytes);
}

static void encode(struct segment *segment)
{
    uint32_t limit = flow_index_bound(segment->index);
    segment->length = flow_index_encode(segment->index, entry_table, 3, limit, &segment->bytes);
    assert_true(segment->length > 0 && segment->length <= limit);
    segment->copy = malloc(segment->length);
    assert_non_null(segment->copy);
    memcpy(segment->copy, segment->bytes, segment->length);
}

static void done(struct segment *segment)
{
    free(segment->packet);
    free(segment->copy);
    flow_index_close(&segment->index);
}

/* Whether a selection has the block of every packet that matches. */
static void check_filter(struct segment *segment, const char *text)
{
    struct filter *filter;
    struct failure failure;
    struct narrowing *tree;
    struct flow_selection selection;
    int code;
    if (filter_open(text, NULL, &filter, &failure) != 0)
        return;
    assert_int_equal(narrowing_open(text, &tree), 0);
    struct flow_reader *reader = open_reader(segment, &code);
    assert_int_equal(code, 0);
    assert_int_equal(flow_reader_select(reader, tree, true, &selection), 0);
    const struct filter_program *program = filter_for(filter, LINK_ETHERNET);
    uint64_t matched = 0;
    for (uint32_t i = 0; i < segment->packets; i++) {
        const struct laid *one = &segment->packet[i];
        const struct packet packet = {
            .bytes = one->bytes, .captured_bytes = one->count, .original_bytes = one->count};
        if (!filter_match(program, &packet, 0))
            continue;
        matched++;
        if (!flow_selection_has(&selection, one->block))
            fail_msg("%s: packet %u in block %u is missing", text, i, one->block);
    }
    if (flow_reader_blocks(reader) > 0 && selection.packets < matched &&
        flow_index_whole(segment->index))
        fail_msg("%s: %lu packets, but %lu match", text, (unsigned long)selection.packets,
                 (unsigned long)matched);
    flow_selection_clear(&selection);
    flow_reader_close(&reader);
    narrowing_close(&tree);
    filter_close(&filter);
}

/* Makes of the copy what was written before there were marks: the head is shorter, and nothing leads to that part. */
static void take_marks_away(struct segment *segment)
{
    struct flow_index_head head;
    const size_t bytes = offsetof(struct flow_index_head, part) + FLOW_PARTS_UNMARKED * sizeof head.part[0];
    memcpy(&head, segment->copy, bytes);
    head.version = le16_of(FLOW_INDEX_VERSION_UNMARKED);
    head.parts = le16_of(FLOW_PARTS_UNMARKED);
    head.crc = le32_of(0);
    head.crc = le32_of(checksum_crc32c(&head, bytes));
    memcpy(segment->copy, &head, bytes);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const uint32_t frame_bytes[] = {FRAME_BYTES_USUAL, 4096, 20480, 65536};
    struct mixer mixer = {.state = 5};
    struct segment segment = {0};
    assert_int_equal(flow_index_open(4u << 20, &segment.index), 0);
    for (size_t round = 0; round < COUNT(frame_bytes); round++) {
        flow_index_clear(segment.index);
        lay(&segment, &mixer, round == 1 ? 3000 : PACKETS, frame_bytes[round]);
        encode(&segment);
        check_filter(&segment, "host 10.0.0.1");
        check_filter(&segment, "tcp port 80 and host 10.0.0.1");
        check_filter(&segment, "not vlan and not tcp");
        check_filter(&segment, "ether src 2:0:0:0:0:1 and src port 53");
        for (unsigned i = 0; i < 60; i++) {
            char text[600];
            mixer_filter(&mixer, text);
            if (i == 40)
                take_marks_away(&segment);
            check_filter(&segment, text);
        }
        free(segment.packet);
        free(segment.copy);
    }
    segment.packet = NULL;
    segment.copy = NULL;
    done(&segment);
}

struct counting {
    uint32_t flows, ways, apps;
};

static int count_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    struct counting *counting = context;
    (void)keys;
    counting->flows++;
    counting->ways += seen->ways == (FLOW_WAY_0 | FLOW_WAY_1);
    counting->apps += seen->app && strcmp(seen->app, "DNS") == 0;
    return 0;
}

/* ---- verdicts ---------------------------------------------------------------------------------- */

struct judging {
    const struct verdicts *verdicts;
    uint32_t judged, unjudged, wrong;
};

/* What the index says of a flow is what the table said when it was made, or nothing. */
static int judge_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    struct judging *judging = context;
    uint64_t hash;
    uint16_t app[2];
    char text[VERDICT_TEXT_BYTES];
    bool has = verdicts_hash(keys, verdicts_seed(judging->verdicts), &hash) && verdicts_get(judging->verdicts, hash, app);
    assert_true(!has || verdicts_text(judging->verdicts, app, text));
    judging->judged += has && seen->app;
    judging->unjudged += has && !seen->app;
    judging->wrong += seen->app && (!has || strcmp(seen->app, text) != 0);
    return 0;
}

/* `names`: so many different protocols, with long names. */
static void judge_all(uint32_t names, struct judging *judging)
{
    static char text[VERDICTS_NAMES_MAX][VERDICTS_NAME_BYTES];
    static const char *name[VERDICTS_NAMES_MAX];
    struct mixer mixer = {.state = 21};
    struct segment segment = {0};
    struct verdicts *verdicts;
    struct failure failure;
    int code;
    for (uint32_t i = 0; i < names; i++) {
        snprintf(text[i], sizeof text[i], "Protocol-with-a-long-name-%u", (uint16_t)i);
        name[i] = text[i];
    }
    assert_int_equal(verdicts_open(&verdicts, &failure), 0);
    verdicts_name(verdicts, name, names);
    assert_int_equal(flow_index_open(16u << 20, &segment.index), 0);
    flow_index_expect_verdicts(segment.index);
    for (unsigned round = 0; round < 2; round++) { /* the second time nothing of the first is left */
        flow_index_clear(segment.index);
        free(segment.packet);
        free(segment.copy);
        lay(&segment, &mixer, PACKETS, FRAME_BYTES_USUAL);
        for (uint32_t i = 0; i < segment.packets; i++) {
            struct flow_keys keys;
            uint64_t hash;
            (void)packet_keys_of(LINK_ETHERNET, segment.packet[i].bytes, segment.packet[i].count, NULL, &keys);
            if (!verdicts_hash(&keys, verdicts_seed(verdicts), &hash) || hash % 7 == 0)
                continue; /* some are not judged */
            const uint16_t app[2] = {(uint16_t)((hash >> 8) % (names + 1)), (uint16_t)(hash % 3 == 0 ? (hash >> 20) % (names + 1) : 0)};
            verdicts_put(verdicts, hash, app);
        }
        flow_index_judge(segment.index, verdicts);
        encode(&segment);
    }
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    *judging = (struct judging){.verdicts = verdicts};
    assert_int_equal(flow_reader_each(reader, judge_flow, judging), 0);
    assert_int_equal(judging->wrong, 0);
    flow_reader_close(&reader);
    check_filter(&segment, "host 10.0.0.1 and tcp");
    verdicts_close(&verdicts);
    done(&segment);
}

static void test_verdicts(void **state)
{
    (void)state;
    struct judging judging;
    judge_all(5, &judging);
    print_message("%u flows judged, %u not\n", judging.judged, judging.unjudged);
    assert_true(judging.judged > 1000);
    assert_int_equal(judging.unjudged, 0); /* also where there are more combinations than states */
    judge_all(1000, &judging);
    print_message("%u flows judged, %u not\n", judging.judged, judging.unjudged);
    assert_true(judging.judged > 0 && judging.unjudged > 0); /* names find no room: their flows are not judged, and nothing else is lost */
}

/* All of it adds up: packets, blocks, what was seen, verdicts. */
static void test_counts(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 6};
    struct segment segment = {0};
    struct flow_selection selection;
    struct counting counting = {0};
    int code;
    assert_int_equal(flow_index_open(16u << 20, &segment.index), 0);
    lay(&segment, &mixer, PACKETS, FRAME_BYTES_USUAL);
    struct decoded_packet decoded;
    struct flow_keys keys;
    decode_packet(LINK_ETHERNET, segment.packet[7].bytes, segment.packet[7].count, &decoded);
    packet_keys_fill(LINK_ETHERNET, segment.packet[7].bytes, segment.packet[7].count, &decoded,
                     &keys);
    flow_index_verdict(segment.index, &keys, flow_index_hash(segment.index, &keys), "DNS");
    encode(&segment);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    assert_int_equal(flow_reader_each(reader, count_flow, &counting), 0);
    assert_int_equal(counting.flows, flow_index_flows(segment.index) - 1); /* none had no room */
    assert_int_equal(counting.apps, 1);
    assert_true(counting.ways > 10);
    assert_int_equal(flow_reader_select(reader, NULL, true, &selection), 0);
    assert_int_equal(selection.packets, PACKETS);
    uint32_t selected = selection.selected;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < segment.packets; i++)
        bytes += RECORD_BYTES + segment.packet[i].count;
    assert_true(selection.bytes > bytes * 93 / 100 && selection.bytes < bytes * 107 / 100);
    flow_selection_clear(&selection);
    uint32_t sum = 0;
    struct flow_block *block = malloc(flow_reader_blocks(reader) * sizeof *block);
    assert_non_null(block);
    assert_int_equal(flow_reader_block_table(reader, 0, flow_reader_blocks(reader), block), 0);
    assert_int_equal(flow_reader_block_table(reader, 1, flow_reader_blocks(reader), block), ERR_CORRUPT);
    for (uint32_t i = 0; i < flow_reader_blocks(reader); i++) {
        sum += block[i].packets;
        selected -= block[i].packets > 0; /* all that hold any, and no others */
        assert_true((block[i].packets > 0) == (block[i].first < BLOCK_BYTES));
    }
    assert_int_equal(block[0].first, HEADER_BYTES);
    free(block);
    assert_int_equal(sum, PACKETS);
    assert_int_equal(selected, 0);
    flow_reader_close(&reader);
    done(&segment);
}

/* A flood: more flows than there is room for, then more packets. What has no room is still found. */
static void test_floods(void **state)
{
    (void)state;
    struct segment segment = {0};
    struct flow_keys keys;
    struct decoded_packet decoded;
    struct narrowing *tree;
    struct flow_selection selection;
    int code;
    uint8_t bytes[60] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0,
                         64, 6, 0, 0, 10, 0, 0, 0, 192, 0, 2, 1, 4, 0, 0, 80};
    bytes[46] = 0x50;
    assert_int_equal(flow_index_open(1u << 20, &segment.index), 0);
    for (uint32_t i = 0; i < 30000; i++) {
        bytes[27] = (uint8_t)(i >> 16);
        bytes[28] = (uint8_t)(i >> 8);
        bytes[29] = (uint8_t)i;
        decode_packet(LINK_ETHERNET, bytes, sizeof bytes, &decoded);
        packet_keys_fill(LINK_ETHERNET, bytes, sizeof bytes, &decoded, &keys);
        keys.entry = (uint8_t)(i % 255);
        flow_index_add(segment.index, &keys, flow_index_hash(segment.index, &keys),
                       HEADER_BYTES + i % 3000 * 76, 76);
        if (i % 3000 == 2999)
            flow_index_end_frame(segment.index, FRAME_BYTES_USUAL);
    }
    assert_false(flow_index_whole(segment.index));
    encode(&segment);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    const uint32_t some[] = {5, 100, 3000, 9000, 29999};
    for (size_t i = 0; i < COUNT(some); i++) {
        char text[64];
        snprintf(text, sizeof text, "host 10.%u.%u.%u", some[i] >> 16, some[i] >> 8 & 255,
                 some[i] & 255);
        assert_int_equal(narrowing_open(text, &tree), 0);
        assert_int_equal(flow_reader_select(reader, tree, false, &selection), 0);
        uint32_t block = some[i] / 3000 * FRAME_BLOCKS_USUAL +
                         (HEADER_BYTES + some[i] % 3000 * 76) / BLOCK_BYTES;
        assert_true(flow_selection_has(&selection, block));
        flow_selection_clear(&selection);
        narrowing_close(&tree);
    }
    flow_reader_close(&reader);
    done(&segment);
}

/* ---- plain packets and notes ------------------------------------------------------------------- */

/* What is plain says the same in short as its keys do, and keys of others are not taken for it. */
static void test_plain(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 31};
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t plains = 0, alike = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t count = mixer_packet(&mixer, bytes);
        struct flow_plain plain, again;
        struct flow_keys keys, whole;
        packet_keys_of(LINK_ETHERNET, bytes, count, NULL, &keys);
        bool is_plain = packet_keys_of(LINK_ETHERNET, bytes, count, &plain, NULL), could_be = flow_keys_plain(&keys, &again);
        assert_true(could_be || !is_plain);
        alike += could_be && !is_plain; /* an odd header, say */
        if (could_be) {
            flow_plain_keys(&again, &whole);
            assert_memory_equal(&whole, &keys, FLOW_KEY_BYTES);
        }
        if (!is_plain)
            continue;
        plains++;
        assert_memory_equal(plain.word, again.word, sizeof plain.word);
        assert_true(plain.word[3] >> FLOW_PLAIN_REST == 0 && (plain.word[3] & FLOW_PLAIN_IS) != 0 && plain.word[0] != 0);
        assert_int_equal(flow_plain_from(plain.word[3]), keys.from);
        assert_int_equal(flow_plain_tcp_flags(plain.word[3]), keys.tcp_flags);
    }
    print_message("%u plain packets, %u with keys like theirs\n", plains, alike);
    assert_true(plains > 10000 && alike > 100);
}

/* Packets are laid into a frame, as a stream does it. */
struct noted {
    uint8_t *frame;
    struct flow_note note[FLOW_NOTES_MAX];
    struct frame_table table;
    struct frame_builder builder;
};

static void noted_begin(struct noted *noted)
{
    static const struct interface_description interface[2] = {{.link_type = LINK_ETHERNET, .name = "a"}, {.link_type = LINK_RAW, .name = "b"}};
    frame_table_clear(&noted->table);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(frame_table_add_interface(&noted->table, &interface[i]), i);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(frame_table_entry(&noted->table, i == 2, 0, 0, i), i);
    frame_builder_start(&noted->builder, noted->frame, FRAME_BYTES_USUAL, &noted->table);
}

static bool noted_put(struct noted *noted, uint8_t entry, const uint8_t *bytes, uint32_t count)
{
    const struct packet packet = {.bytes = bytes, .captured_bytes = count, .original_bytes = count, .time_ns = 1};
    struct frame_builder *builder = &noted->builder;
    if (!frame_builder_fits(builder, count))
        return false;
    if (builder->packets < FLOW_NOTES_MAX)
        flow_note_put(&noted->note[builder->packets], packet_keys_of, entry == 2 ? LINK_RAW : LINK_ETHERNET, bytes, count, entry, builder->at);
    frame_builder_add(builder, entry, &packet, count);
    return true;
}

/* The same index comes of notes, of some of them, and of the frame alone; where there is no room for more, too. */
static void compare_notes(struct noted *noted, uint32_t room_bytes)
{
    static const struct frame_identity identity;
    static const struct account account;
    const struct frame_finish finish = {.kind = FRAME_DATA, .offset = PAGE_BYTES, .account = &account};
    struct frame_info info;
    uint32_t packets = noted->builder.packets, length = frame_builder_finish(&noted->builder, &identity, &noted->table, &finish);
    assert_int_equal(frame_parse(noted->frame, length, &info), 0);
    const uint32_t notes = packets < FLOW_NOTES_MAX ? packets : FLOW_NOTES_MAX, some[] = {notes, 0, 1, 2, notes / 2, notes - 1};
    uint8_t *wanted = NULL;
    uint32_t wanted_bytes = 0;
    for (size_t i = 0; i < COUNT(some); i++) {
        struct flow_index *index;
        const uint8_t *bytes;
        assert_int_equal(flow_index_open(4u << 20, &index), 0);
        flow_frame_add(index, packet_keys_of, noted->frame, &info, noted->note, some[i], room_bytes);
        if (room_bytes == UINT32_MAX)
            assert_int_equal(flow_index_packets(index), packets);
        uint32_t count = flow_index_encode(index, noted->table.entry, noted->table.entries, UINT32_MAX, &bytes);
        assert_true(count > 0);
        if (!wanted) {
            wanted = malloc(count);
            assert_non_null(wanted);
            memcpy(wanted, bytes, wanted_bytes = count);
        }
        assert_int_equal(count, wanted_bytes);
        assert_memory_equal(bytes, wanted, count);
        flow_index_close(&index);
    }
    free(wanted);
}

static void test_notes(void **state)
{
    (void)state;
    static struct noted noted;
    struct mixer mixer = {.state = 32};
    uint8_t bytes[MIXED_BYTES_MAX];
    noted.frame = malloc(FRAME_BYTES_USUAL);
    assert_non_null(noted.frame);
    for (unsigned round = 0; round < 6; round++) {
        noted_begin(&noted);
        while (noted_put(&noted, (uint8_t)mixer_below(&mixer, 3), bytes, mixer_packet(&mixer, bytes)))
            ;
        compare_notes(&noted, round % 2 == 0 ? UINT32_MAX : 20000);
    }
    /* More packets than notes: nearly all are cut to nothing. */
    noted_begin(&noted);
    for (uint32_t i = 0; noted_put(&noted, (uint8_t)(i % 3), bytes, i % 50 == 0 ? mixer_packet(&mixer, bytes) : i % 7); i++)
        ;
    assert_true(noted.builder.packets > FLOW_NOTES_MAX);
    compare_notes(&noted, UINT32_MAX);
    free(noted.frame);
}

/* Stopped in mid-segment: what comes after is not in it, what came before is. */
static void test_stop(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 8};
    struct segment segment = {0};
    int code;
    assert_int_equal(flow_index_open(4u << 20, &segment.index), 0);
    lay(&segment, &mixer, 2000, FRAME_BYTES_USUAL);
    flow_index_stop(segment.index);
    uint32_t packets = segment.packets;
    struct laid *before = segment.packet;
    segment.packet = NULL;
    lay(&segment, &mixer, 1000, FRAME_BYTES_USUAL);
    free(segment.packet);
    segment.packet = before;
    segment.packets = packets;
    encode(&segment);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    assert_int_equal(flow_reader_blocks(reader),
                     (before[packets - 1].block / FRAME_BLOCKS_USUAL + 1) * FRAME_BLOCKS_USUAL);
    flow_reader_close(&reader);
    check_filter(&segment, "host 10.0.0.1");
    done(&segment);
}

static void test_empty(void **state)
{
    (void)state;
    struct segment segment = {0};
    struct flow_selection selection;
    int code;
    assert_int_equal(flow_index_open(1u << 20, &segment.index), 0);
    encode(&segment);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    assert_int_equal(flow_reader_select(reader, NULL, true, &selection), 0);
    assert_int_equal(selection.packets, 0);
    flow_selection_clear(&selection);
    flow_reader_close(&reader);
    done(&segment);
}

/* One byte changed anywhere: an error, or the answer as it was. */
static void test_damage(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 9};
    struct segment segment = {0};
    struct narrowing *tree;
    struct flow_selection right, now;
    unsigned noticed = 0;
    int code;
    assert_int_equal(flow_index_open(1u << 20, &segment.index), 0);
    lay(&segment, &mixer, 2500, FRAME_BYTES_USUAL);
    encode(&segment);
    assert_int_equal(narrowing_open("src host 10.0.0.3 and tcp and not port 80", &tree), 0);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(flow_reader_select(reader, tree, true, &right), 0);
    flow_reader_close(&reader);
    for (unsigned i = 0; i < 4000; i++) {
        uint32_t at = mixer_below(&mixer, segment.length);
        uint8_t change = (uint8_t)(1 + mixer_below(&mixer, 255));
        segment.copy[at] ^= change;
        reader = open_reader(&segment, &code);
        now = (struct flow_selection){0};
        if (code == 0)
            code = flow_reader_select(reader, tree, true, &now);
        assert_true(code == 0 || code == ERR_CORRUPT);
        noticed += code != 0;
        if (code == 0) {
            assert_int_equal(now.packets, right.packets);
            assert_memory_equal(now.block, right.block, right.blocks * sizeof *right.block);
        }
        flow_selection_clear(&now);
        flow_reader_close(&reader);
        segment.copy[at] ^= change;
    }
    print_message("%u of 4000 damages were met and noticed\n", noticed);
    assert_true(noticed > 2000);
    flow_selection_clear(&right);
    narrowing_close(&tree);
    done(&segment);
}

/* ---- marks ------------------------------------------------------------------------------------- */

#define CROWD 30000u /* packets, most of them of a flow of their own, in several hundred pieces */

/* UDP between two of `hosts` addresses, of version 4 or 6; every 50th says of itself that it has no sure addresses (a header that is cut short). */
static uint32_t make_crowd_packet(struct mixer *mixer, uint8_t bytes[80], uint32_t hosts)
{
    bool six = mixer_below(mixer, 3) == 0;
    uint32_t host[2] = {mixer_below(mixer, hosts), mixer_below(mixer, hosts)}, at = six ? 22 : 26, ports = six ? 54 : 34;
    memset(bytes, 0, 80);
    bytes[0] = bytes[6] = 2;
    bytes[5] = (uint8_t)mixer_below(mixer, 3);
    bytes[12] = six ? 0x86 : 8;
    bytes[13] = six ? 0xdd : 0;
    bytes[14] = six ? 0x60 : 0x45;
    bytes[six ? 19 : 17] = six ? 8 : 28;
    bytes[six ? 20 : 23] = 17;
    bytes[six ? 21 : 22] = 64;
    for (unsigned i = 0; i < 2; i++, at += six ? 16 : 4) {
        uint32_t spread = host[i] * 2654435761u;
        bytes[at] = six ? 0x20 : (uint8_t)(host[i] % 4 == 0 ? 10 : spread >> 24);
        bytes[at + 1] = (uint8_t)(spread >> 16 & 7);
        bytes[at + (six ? 14 : 2)] = (uint8_t)(host[i] >> 8);
        bytes[at + (six ? 15 : 3)] = (uint8_t)host[i];
    }
    uint32_t one = mixer_below(mixer, 4) == 0 ? 53 : 1024 + mixer_below(mixer, 60000);
    bytes[ports] = (uint8_t)(one >> 8);
    bytes[ports + 1] = (uint8_t)one;
    bytes[ports + 3] = (uint8_t)mixer_below(mixer, 4);
    bytes[ports + 5] = 8;
    return mixer_below(mixer, 50) == 0 ? 20 : ports + 8;
}

static void lay_crowd(struct segment *segment, struct mixer *mixer, uint32_t packets, uint32_t hosts, bool unsure)
{
    uint32_t at = HEADER_BYTES, frame = 0;
    segment->packets = 0;
    segment->packet = malloc(packets * sizeof *segment->packet);
    assert_non_null(segment->packet);
    for (uint32_t i = 0; i < packets; i++) {
        struct laid *one = &segment->packet[segment->packets++];
        do
            one->count = make_crowd_packet(mixer, one->bytes, hosts);
        while (one->count == 20 && (!unsure || i % 20 != 0));
        lay_packet(segment, mixer, one, &at, &frame, FRAME_BYTES_USUAL);
    }
    flow_index_end_frame(segment->index, FRAME_BYTES_USUAL);
}

static void make_question(struct mixer *mixer, const struct segment *segment, char text[300])
{
    static const char *const way[] = {"", "src ", "dst "};
    const uint8_t *bytes = segment->packet[mixer_below(mixer, segment->packets)].bytes;
    char host[2][80];
    bool six = bytes[12] != 8;
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *a = bytes + (six ? 22 + 16 * i : 26 + 4 * i);
        if (six)
            snprintf(host[i], sizeof host[i], "%x:%x::%x", a[0] << 8 | a[1], a[2] << 8 | a[3], a[14] << 8 | a[15]);
        else
            snprintf(host[i], sizeof host[i], "%u.%u.%u.%u", a[0], a[1], a[2], a[3] + (mixer_below(mixer, 9) == 0)); /* now and then one that is not there */
    }
    const uint8_t *port = bytes + (six ? 54 : 34);
    switch (mixer_below(mixer, 8)) {
    case 0:
        snprintf(text, 300, "%shost %s", way[mixer_below(mixer, 3)], host[0]);
        break;
    case 1:
        snprintf(text, 300, "host %s and host %s and udp port %u and port %u", host[0], host[1], port[0] << 8 | port[1], port[3]);
        break;
    case 2:
        snprintf(text, 300, "host %s or (host %s and not port 53)", host[0], host[1]);
        break;
    case 3:
        snprintf(text, 300, "%snet %u.%u.%u.0/24 and port 53", way[mixer_below(mixer, 3)], bytes[26], bytes[27], bytes[28]);
        break;
    case 4:
        snprintf(text, 300, "host %s and rule 2", host[1]);
        break;
    case 5: /* one host leads to the flow, the address at its other end decides */
        snprintf(text, 300, "host %s and not %shost %s", host[0], way[mixer_below(mixer, 3)], host[1]);
        break;
    case 6:
        snprintf(text, 300, "host %s and %s", host[1], mixer_below(mixer, 2) == 0 ? "not ip multicast" : "port 53");
        break;
    default:
        snprintf(text, 300, "net %u.%u.0.0 mask 255.%u.0.0 and udp", bytes[26], bytes[27], mixer_below(mixer, 256));
        break;
    }
}

static int select_in(struct segment *segment, const struct narrowing *tree, struct flow_selection *selection, bool *marks)
{
    int code;
    struct flow_reader *reader = open_reader(segment, &code);
    *selection = (struct flow_selection){0};
    if (code == 0)
        code = flow_reader_select(reader, tree, true, selection);
    *marks = code == 0 && flow_reader_front(reader) > 0;
    flow_reader_close(&reader);
    return code;
}

static void assert_same_selection(const struct flow_selection *now, const struct flow_selection *right)
{
    assert_int_equal(now->packets, right->packets);
    assert_int_equal(now->flows, right->flows);
    assert_int_equal(now->bytes, right->bytes);
    assert_int_equal(now->selected, right->selected);
    assert_int_equal(now->sure, right->sure);
    assert_memory_equal(now->block, right->block, right->blocks * sizeof *right->block);
}

/* What marks lead to is what the columns say. */
static void test_marks(void **state)
{
    (void)state;
    static const struct {
        uint32_t packets, hosts;
        bool unsure;
    } crowds[] = {{CROWD, 12000, false}, {CROWD, 40000, true}, {CROWD, 20, false}, {3, 3, false}, {513, 600, true}, {257, 1, false}};
    struct mixer mixer = {.state = 10};
    struct segment segment = {0};
    unsigned by_marks = 0, found = 0, asked = 0;
    assert_int_equal(flow_index_open(16u << 20, &segment.index), 0);
    for (size_t crowd = 0; crowd < COUNT(crowds); crowd++) {
        flow_index_clear(segment.index);
        lay_crowd(&segment, &mixer, crowds[crowd].packets, crowds[crowd].hosts, crowds[crowd].unsure);
        encode(&segment);
        struct segment old = segment;
        old.copy = malloc(segment.length);
        assert_non_null(old.copy);
        memcpy(old.copy, segment.copy, segment.length);
        take_marks_away(&old);
        for (unsigned i = 0; i < 150; i++) {
            char text[300];
            struct narrowing *tree;
            struct flow_selection now, right;
            bool marks, never;
            make_question(&mixer, &segment, text);
            assert_int_equal(narrowing_open(text, &tree), 0);
            assert_int_equal(select_in(&segment, tree, &now, &marks), 0);
            assert_int_equal(select_in(&old, tree, &right, &never), 0);
            assert_false(never);
            assert_same_selection(&now, &right);
            by_marks += marks;
            found += marks && now.flows > 0;
            asked++;
            flow_selection_clear(&now);
            flow_selection_clear(&right);
            narrowing_close(&tree);
            if (i < 10)
                check_filter(&segment, text);
        }
        free(old.copy);
        free(segment.copy);
        free(segment.packet);
    }
    print_message("%u of %u questions by marks, %u of them found something\n", by_marks, asked, found);
    assert_true(by_marks > asked / 3 && by_marks < asked && found > asked / 6);
    segment.packet = NULL;
    segment.copy = NULL;
    done(&segment);
}

/* The marks, and what they lead to, damaged: an error, or the answer as it was. Also where a damaged piece is exchanged for another, whole one. */
static void test_damaged_marks(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 11};
    struct segment segment = {0};
    struct flow_index_head head;
    unsigned noticed = 0;
    assert_int_equal(flow_index_open(16u << 20, &segment.index), 0);
    lay_crowd(&segment, &mixer, CROWD, 12000, true);
    encode(&segment);
    memcpy(&head, segment.copy, sizeof head);
    uint8_t *whole = malloc(segment.length);
    assert_non_null(whole);
    memcpy(whole, segment.copy, segment.length);
    for (unsigned question = 0; question < 40; question++) {
        char text[300];
        struct narrowing *tree;
        struct flow_selection now, right;
        bool marks = false;
        do {
            make_question(&mixer, &segment, text);
            assert_int_equal(narrowing_open(text, &tree), 0);
            assert_int_equal(select_in(&segment, tree, &right, &marks), 0);
            if (!marks || right.flows == 0) {
                narrowing_close(&tree);
                flow_selection_clear(&right);
                marks = false;
            }
        } while (!marks);
        for (unsigned i = 0; i < 200; i++) {
            uint32_t part = i % FLOW_PARTS, from = le32_get(head.part[part].offset), bytes = le32_get(head.part[part].bytes);
            if (bytes == 0)
                continue;
            uint32_t at = from + mixer_below(&mixer, bytes), length = mixer_below(&mixer, 3) == 0 ? 1 : 1 + mixer_below(&mixer, 5000);
            length = length < from + bytes - at ? length : from + bytes - at;
            if (mixer_below(&mixer, 2) == 0)
                memmove(segment.copy + at, segment.copy + from + mixer_below(&mixer, bytes - length + 1), length);
            else
                for (uint32_t j = 0; j < length; j++)
                    segment.copy[at + j] ^= (uint8_t)(1 + mixer_below(&mixer, 255));
            int code = select_in(&segment, tree, &now, &marks);
            assert_true(code == 0 || code == ERR_CORRUPT);
            noticed += code != 0;
            if (code == 0)
                assert_same_selection(&now, &right);
            flow_selection_clear(&now);
            memcpy(segment.copy + from, whole + from, bytes);
        }
        flow_selection_clear(&right);
        narrowing_close(&tree);
    }
    print_message("%u damages were met and noticed\n", noticed);
    assert_true(noticed > 1000);
    free(whole);
    done(&segment);
}

/* What another index of the segment knows is taken over of flows that have packets, and makes none of others. */
static void test_carry(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 8};
    struct segment segment = {0};
    struct counting counting = {0};
    struct flow_keys keys;
    int code;
    assert_int_equal(flow_index_open(16u << 20, &segment.index), 0);
    lay(&segment, &mixer, PACKETS, FRAME_BYTES_USUAL);
    uint32_t flows = flow_index_flows(segment.index);
    packet_keys_of(LINK_ETHERNET, segment.packet[7].bytes, segment.packet[7].count, NULL, &keys);
    flow_index_carry(segment.index, &keys, "DNS");
    memset(keys.end[0].mac, 0x77, sizeof keys.end[0].mac);
    flow_index_carry(segment.index, &keys, "TLS");
    assert_int_equal(flow_index_flows(segment.index), flows);
    encode(&segment);
    struct flow_reader *reader = open_reader(&segment, &code);
    assert_int_equal(code, 0);
    assert_int_equal(flow_reader_each(reader, count_flow, &counting), 0);
    assert_int_equal(counting.apps, 1);
    flow_reader_close(&reader);
    done(&segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_verdicts),   cmocka_unit_test(test_carry),
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_notes),
        cmocka_unit_test(test_floods),     cmocka_unit_test(test_stop),
        cmocka_unit_test(test_empty),      cmocka_unit_test(test_damage),
        cmocka_unit_test(test_marks),      cmocka_unit_test(test_damaged_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
