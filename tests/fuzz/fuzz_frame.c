/*
 * fuzz_frame.c - arbitrary bytes as a slot: frames, their records, index, seal, and the reader over
 * all of it.
 *
 * The first four bytes choose: byte 0 bit 0: put checksums right first, so that what is behind them
 * is reached; bit 1: the segment is sealed; bit 2: only a part of time is wanted; bit 3: two
 * copies, the other one spoiled; bits 4-5: how the recorder judges; byte 1: how much memory; bytes
 * 2-3: where the data end. The rest, padded to whole pages, is the slot.
 */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "reader.h"
#include "segment_fixture.h"
#include "segment_index.h"
#include "verifier.h"

#define SLOT_PAGES_MAX 64u

static uint32_t get32(const uint8_t *at)
{
    le32 field;
    memcpy(&field, at, sizeof field);
    return le32_get(field);
}

static void put32(uint8_t *at, uint32_t value)
{
    le32 field = le32_of(value);
    memcpy(at, &field, sizeof field);
}

/* Makes the checksums of whatever begins like a frame right, as far as its lengths allow. */
static void put_checksums(uint8_t *frame, uint32_t available)
{
    uint32_t header_bytes = get32(frame + 12), frame_bytes = get32(frame + 16);
    if (header_bytes < sizeof(struct frame_header) || header_bytes > available ||
        frame_bytes > available || frame_bytes < header_bytes)
        return;
    for (uint32_t i = 0; i * BLOCK_BYTES < frame_bytes; i++) {
        uint32_t from = i * BLOCK_BYTES, to = from + BLOCK_BYTES;
        uint32_t at = (uint32_t)(sizeof(struct frame_header) + i * sizeof(struct frame_block));
        from = from < header_bytes ? header_bytes : from;
        to = to > frame_bytes ? frame_bytes : to;
        from = from > to ? to : from;
        if (at + 4 <= header_bytes)
            put32(frame + at, checksum_crc32c(frame + from, to - from));
    }
    put32(frame + 8, 0);
    put32(frame + 8, checksum_crc32c(frame, header_bytes));
}

static bool is_gone(void *context, uint64_t number, int64_t time_ns)
{
    (void)context;
    return ((number ^ (uint64_t)time_ns) * 0x9e3779b97f4a7c15ull >> 62) != 0;
}

/* Of a frame that has passed: what goes is gone, what stays is the same. */
static void purge_frame(const uint8_t *frame, const struct frame_info *info)
{
    uint8_t *copy = malloc(info->frame_bytes);
    uint64_t packets = 0, bytes = 0, number = info->first_packet;
    if (!copy)
        return;
    memcpy(copy, frame, info->frame_bytes);
    if (info->kind == FRAME_DATA && frame_purge(copy, info, is_gone, NULL, &packets, &bytes) == 0) {
        struct frame_info after;
        assert(frame_parse(copy, info->frame_bytes, &after) == 0 && frame_check(copy, &after) == 0);
        assert(after.packets == info->packets && after.first_packet == info->first_packet);
        struct frame_cursor old_cursor, new_cursor;
        struct frame_packet was, is;
        frame_cursor_start(&old_cursor, frame, info);
        frame_cursor_start(&new_cursor, copy, &after);
        for (; frame_cursor_next(&old_cursor, &was) > 0; number++) {
            assert(frame_cursor_next(&new_cursor, &is) > 0);
            assert(is.purged == (was.purged || is_gone(NULL, number, was.packet.time_ns)));
            packets -= is.purged && !was.purged;
            assert(is.purged || (is.packet.time_ns == was.packet.time_ns && is.rule == was.rule && is.entry == was.entry &&
                                 is.packet.captured_bytes == was.packet.captured_bytes &&
                                 memcmp(is.packet.bytes, was.packet.bytes, was.packet.captured_bytes) == 0));
        }
        assert(frame_cursor_next(&new_cursor, &is) == 0 && new_cursor.at == new_cursor.end && packets == 0);
    } else {
        assert(memcmp(copy, frame, info->frame_bytes) == 0);
    }
    free(copy);
}

/* Every frame alone, in memory of exactly its length. */
static void look_at_frame(const uint8_t *bytes, uint32_t available, uint64_t slot_bytes)
{
    struct frame_info info;
    uint8_t *copy = malloc(available);
    if (!copy)
        return;
    memcpy(copy, bytes, available);
    if (frame_parse(copy, available, &info) == 0 && info.frame_bytes <= available &&
        frame_check(copy, &info) == 0) {
        struct frame_cursor cursor;
        struct frame_packet packet;
        uint64_t sum = 0;
        frame_cursor_start(&cursor, copy, &info);
        while (frame_cursor_next(&cursor, &packet) > 0) {
            struct interface_description description;
            assert(frame_interface(copy, &info, packet.packet.interface, &description) == 0);
            for (uint32_t i = 0; i < packet.packet.captured_bytes; i++)
                sum += packet.packet.bytes[i];
        }
        purge_frame(copy, &info);
        struct seal_body seal;
        if (segment_seal_read(copy, &info, slot_bytes, &seal) == 0)
            assert(le32_get(seal.index_offset) + (uint64_t)le32_get(seal.index_bytes) ==
                   slot_bytes - PAGE_BYTES);
        free(copy);
        volatile uint64_t used = sum; /* the bytes were looked at */
        (void)used;
        return;
    }
    free(copy);
}

/* The segment that the slot claims to hold. */
static void describe(const uint8_t *slot, uint32_t slot_bytes, uint32_t data_end, bool sealed,
                     struct worker_segment *segment, struct identity *ring)
{
    struct frame_info info;
    bool known = false;
    *segment = (struct worker_segment){
        .state = SEGMENT_OPEN, .first_ns = INT64_MIN, .last_ns = INT64_MAX, .places = 1};
    segment->data_end = data_end;
    for (uint32_t at = 0; at < slot_bytes; at += PAGE_BYTES) {
        if (frame_parse(slot + at, slot_bytes - at, &info) != 0)
            continue;
        if (!known || info.kind == FRAME_DATA) {
            known = true;
            *ring = info.ring;
            segment->segment = info.segment;
            segment->run = info.run;
            segment->position = info.position;
            segment->stream = info.stream;
            segment->revision = segment->data_revision = info.revision;
            segment->head_ns = info.head_ns;
        }
        struct seal_body seal;
        if (!sealed || info.frame_bytes > slot_bytes - at ||
            segment_seal_read(slot + at, &info, slot_bytes, &seal) != 0)
            continue;
        segment->state = SEGMENT_SEALED;
        segment->revision = info.revision;
        segment->data_revision = info.data_revision;
        segment->data_end = le32_get(seal.data_end);
        segment->index_offset = le32_get(seal.index_offset);
        segment->index_bytes = le32_get(seal.index_bytes);
        segment->first_packet = le64_get(seal.first_packet) >> 1;
        segment->packets = le64_get(seal.packets) >> 1;
        segment->head_ns = (int64_t)le64_get(seal.head_ns);
        segment->first_ns = (int64_t)le64_get(seal.first_ns);
        segment->last_ns = (int64_t)le64_get(seal.last_ns);
    }
}

static int judge(void *context, const struct worker_bad *bad)
{
    (void)bad;
    return *(const int *)context;
}

static void note_gap(void *context, const struct worker_gap *gap)
{
    (void)context;
    assert(gap->from_ns <= gap->to_ns);
}

static void read_all(struct fixture *fixture, const struct worker_segment *segment, uint8_t choice,
                     uint64_t memory, int judgement)
{
    struct disk *disk = fixture_disk(fixture);
    struct reader_options options = {
        .disk = &disk,
        .disks = 1,
        .ring = fixture->ring,
        .from_ns = choice & 4 ? segment->head_ns : INT64_MIN,
        .to_ns = choice & 4 && segment->head_ns < INT64_MAX - 3000000000
                     ? segment->head_ns + 3000000000
                     : INT64_MAX,
        .memory_max = memory,
        .judge = judge,
        .gap = note_gap,
        .context = &judgement,
    };
    struct reader *reader;
    if (reader_open(&options, &reader) == 0) {
        if (reader_add(reader, segment, 1) == 0) {
            struct reader_packet packet;
            uint64_t sum = 0;
            while (reader_next(reader, &packet) == 1) {
                assert(packet.interface < reader_interfaces(reader));
                for (uint32_t i = 0; i < packet.packet->captured_bytes; i++)
                    sum += packet.packet->bytes[i];
            }
            volatile uint64_t used = sum;
            (void)used;
            reader_finish(reader, true);
        }
        reader_close(&reader);
    }
    struct segment_readers shared = {
        .disk = &disk,
        .disks = 1,
        .ring = fixture->ring,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .everything = true,
        .judge = judge,
        .context = &judgement,
    };
    if (segment->index_offset + segment->index_bytes <= fixture->slot_bytes &&
        segment_readers_open(&shared, memory) == 0) {
        verifier_check(&shared, segment, NULL, NULL);
        segment_readers_close(&shared);
    }
    disk_close(&disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count < 4 + PAGE_BYTES / 4 || count > 4 + SLOT_PAGES_MAX * PAGE_BYTES)
        return 0;
    uint8_t choice = bytes[0];
    uint32_t slot_bytes = (uint32_t)round_up(count - 4, PAGE_BYTES);
    struct fixture fixture;
    fixture_open(&fixture, 2, slot_bytes);
    uint8_t *slot = fixture_slot(&fixture, 0, 0);
    memcpy(slot, bytes + 4, count - 4);
    for (uint32_t at = 0; at < slot_bytes; at += PAGE_BYTES) {
        if ((choice & 1) && memcmp(slot + at, FRAME_MAGIC, 8) == 0)
            put_checksums(slot + at, slot_bytes - at);
        look_at_frame(slot + at, slot_bytes - at, slot_bytes);
    }
    uint32_t data_end =
        (uint32_t)((bytes[2] | bytes[3] << 8) % (slot_bytes / PAGE_BYTES + 1)) * PAGE_BYTES;
    struct worker_segment segment;
    describe(slot, slot_bytes, data_end, choice & 2, &segment, &fixture.ring);
    if (choice & 8) { /* the reader begins with the place that the position says */
        memcpy(fixture_slot(&fixture, 1, 0), slot, slot_bytes);
        segment.places = 2;
        segment.place[1].slot = 1;
        for (uint32_t at = 100; at < slot_bytes; at += 3 * PAGE_BYTES)
            slot[at] ^= 1;
    }
    static const int judgements[] = {WORKER_DAMAGED, WORKER_OVERTAKEN, WORKER_TORN, WORKER_AGAIN};
    read_all(&fixture, &segment, choice, bytes[1] & 1 ? 16u << 20 : 1, judgements[choice >> 4 & 3]);
    fixture_close(&fixture);
    return 0;
}
