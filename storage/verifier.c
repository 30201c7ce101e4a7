/*
 * verifier.c - one place of one segment at a time: its frames in order, its index, its seal.
 *
 * A frame whose checksums are right is also walked: records that contradict their header were
 * written by a bug, and nobody would ever see them otherwise. The index and the seal must then say
 * what the frames said; where a frame was bad, they are only checked for themselves.
 */
#include "verifier.h"

#include <stdlib.h>
#include <string.h>

#include "segment_index.h"

struct tally {
    struct segment_readers *shared;
    const struct worker_segment *segment;
    uint32_t place;
    struct index_frame_entry *frame; /* what the index should hold */
    uint32_t frames;
    uint32_t room;
    uint64_t packets;
    uint64_t captured_bytes;
    int64_t first_ns;
    int64_t last_ns;
    uint32_t data_end;
    bool whole; /* every frame has passed */
};

static int complain(const struct tally *tally, uint32_t offset, uint32_t bytes, int reason,
                    const struct frame_info *info)
{
    struct worker_bad bad = {
        .segment = tally->segment->segment,
        .place = tally->place,
        .offset = offset,
        .bytes = bytes,
        .reason = (uint32_t)reason,
    };
    if (reason == WORKER_BAD_IDENTITY) {
        bad.found = info->segment;
        bad.found_position = info->position;
    }
    tally->shared->frames_bad++;
    return tally->shared->judge(tally->shared->context, &bad);
}

/* Whether the records are what the header says they are. Adds the captured bytes up. */
static bool records_fit(const struct segment_frame *frame, uint64_t *captured_bytes)
{
    const struct frame_info *info = &frame->info;
    struct frame_cursor cursor;
    struct frame_packet packet;
    int64_t first_ns = INT64_MAX, last_ns = INT64_MIN;
    uint32_t packets = 0;
    int result;
    frame_cursor_start(&cursor, frame->bytes, info);
    while ((result = frame_cursor_next(&cursor, &packet)) > 0) {
        int64_t time_ns = packet.packet.time_ns;
        if (packets++ == 0 && time_ns != info->head_ns)
            return false;
        first_ns = time_ns < first_ns ? time_ns : first_ns;
        last_ns = time_ns > last_ns ? time_ns : last_ns;
        *captured_bytes += packet.packet.captured_bytes;
    }
    if (result < 0 || packets != info->packets || cursor.at != cursor.end)
        return false;
    return packets == 0 || (first_ns == info->first_ns && last_ns == info->last_ns);
}

static int add_frame(struct tally *tally, const struct segment_frame *frame)
{
    const struct frame_info *info = &frame->info;
    if (frame->good_end < info->frame_bytes) {
        tally->whole = false;
        return 0;
    }
    if (info->kind != FRAME_DATA)
        return 0;
    if (!records_fit(frame, &tally->captured_bytes)) {
        tally->whole = false;
        int judgement = complain(tally, info->offset, info->frame_bytes, WORKER_BAD_RECORDS, info);
        return judgement < 0 ? judgement : 0;
    }
    if (tally->frames == tally->room) {
        uint32_t room = tally->room == 0 ? 256 : 2 * tally->room;
        struct index_frame_entry *more = realloc(tally->frame, room * sizeof *more);
        if (!more)
            return ERR_NO_MEMORY;
        tally->frame = more;
        tally->room = room;
    }
    tally->frame[tally->frames++] = (struct index_frame_entry){
        .offset = le32_of(info->offset),
        .frame_bytes = le32_of(info->frame_bytes),
        .number = le32_of(info->number),
        .packets = le32_of(info->packets),
        .first_packet = le64_of(info->first_packet),
        .head_ns = le64_of((uint64_t)info->head_ns),
        .first_ns = le64_of((uint64_t)info->first_ns),
        .last_ns = le64_of((uint64_t)info->last_ns),
    };
    tally->packets += info->packets;
    if (info->packets > 0 && info->first_ns < tally->first_ns)
        tally->first_ns = info->first_ns;
    if (info->packets > 0 && info->last_ns > tally->last_ns)
        tally->last_ns = info->last_ns;
    tally->data_end = info->offset + info->frame_bytes;
    return 0;
}

/* All frames up to the end of the data. 1; 0: the place is not the segment's any more; or a
 * negative code. */
static int check_frames(struct tally *tally, struct segment_reader *reader,
                        int (*tick)(void *context), void *context)
{
    for (;;) {
        struct segment_frame frame;
        int step = segment_reader_next(reader, PIECES_AHEAD_MAX, &frame);
        int result = step < 0 ? step : tick ? tick(context) : 0;
        if (!result && step == SEGMENT_STEP_FRAME)
            result = add_frame(tally, &frame);
        if (result)
            return result;
        if (step == SEGMENT_STEP_END)
            return 1;
        if (step == SEGMENT_STEP_OVERTAKEN)
            return 0;
        if (step == SEGMENT_STEP_DAMAGED || step == SEGMENT_STEP_SILENT)
            tally->whole = false;
        segment_reader_advance(reader);
    }
}

static int check_index(struct tally *tally, struct segment_reader *reader)
{
    int good = segment_reader_index(reader);
    if (good <= 0 || !tally->whole)
        return good < 0 ? good : 0;
    size_t bytes = tally->frames * sizeof *tally->frame;
    if (reader->entries == tally->frames &&
        (bytes == 0 || memcmp(reader->entry, tally->frame, bytes) == 0))
        return 0;
    int judgement = complain(tally, tally->segment->index_offset, tally->segment->index_bytes,
                             WORKER_BAD_RECORDS, NULL);
    return judgement < 0 ? judgement : 0;
}

/* The FLOWS frames: what is in them is under checksums of its own, and derived; that their blocks are right is what can be mended. */
static int check_flows(struct tally *tally, const struct segment_reader *reader)
{
    const struct worker_segment *segment = tally->segment;
    uint32_t end = segment->index_offset + segment->index_bytes, tries = 0;
    for (uint32_t at = end - reader->flows_bytes; reader->index_state == INDEX_GOOD && at < end;) {
        uint8_t *frame;
        struct frame_info info;
        int reason = segment_fetch(tally->shared, segment, tally->place, at, end - at, FRAME_FLOWS, &frame, &info);
        uint32_t left = end - at, bytes = left < FLOWS_FRAME_BYTES ? left : FLOWS_FRAME_BYTES;
        if (!reason && info.frame_bytes != bytes)
            reason = WORKER_BAD_RECORDS;
        free(frame);
        if (reason < 0)
            return reason;
        int judgement = reason ? complain(tally, at, bytes, reason, &info) : 0;
        if (judgement < 0)
            return judgement;
        if (judgement == WORKER_AGAIN && ++tries < 4)
            continue;
        tries = 0;
        at += bytes;
    }
    return 0;
}

/* Whether the seal says what the frames and the recorder say. */
static bool seal_fits(const struct tally *tally, const struct seal_body *body)
{
    const struct worker_segment *segment = tally->segment;
    if (le32_get(body->data_end) != segment->data_end ||
        le32_get(body->index_offset) != segment->index_offset ||
        le32_get(body->index_bytes) != segment->index_bytes ||
        le64_get(body->packets) != segment->packets)
        return false;
    return !tally->whole || (le64_get(body->packets) == tally->packets &&
                             le64_get(body->captured_bytes) == tally->captured_bytes &&
                             le32_get(body->data_frames) == tally->frames &&
                             (int64_t)le64_get(body->first_ns) == tally->first_ns &&
                             (int64_t)le64_get(body->last_ns) == tally->last_ns);
}

static int check_seal(struct tally *tally)
{
    const struct worker_segment *segment = tally->segment;
    uint64_t slot_bytes =
        tally->shared->disk[segment->place[tally->place].disk]->geometry.slot_bytes;
    uint32_t offset = (uint32_t)(slot_bytes - PAGE_BYTES);
    for (int tries = 0; tries < 4; tries++) {
        uint8_t *frame;
        struct frame_info info;
        struct seal_body body;
        int reason = segment_fetch(tally->shared, segment, tally->place, offset, PAGE_BYTES,
                                   FRAME_SEAL, &frame, &info);
        if (!reason &&
            (segment_seal_read(frame, &info, slot_bytes, &body) || !seal_fits(tally, &body)))
            reason = WORKER_BAD_RECORDS;
        free(frame);
        if (reason <= 0)
            return reason;
        int judgement = complain(tally, offset, PAGE_BYTES, reason, &info);
        if (judgement != WORKER_AGAIN)
            return judgement < 0 ? judgement : 0;
    }
    return 0;
}

static int check_place(struct segment_readers *shared, const struct worker_segment *segment,
                       uint32_t place, int (*tick)(void *context), void *context)
{
    struct tally tally = {
        .shared = shared,
        .segment = segment,
        .place = place,
        .first_ns = INT64_MAX,
        .last_ns = INT64_MIN,
        .whole = true,
    };
    struct segment_reader reader;
    segment_reader_open(&reader, shared, segment, place, (int)place);
    int result = check_frames(&tally, &reader, tick, context);
    if (result > 0)
        result = segment->state == SEGMENT_OPEN ? 0 : check_index(&tally, &reader);
    else if (result == 0)
        goto out;
    if (!result && segment->state != SEGMENT_OPEN)
        result = check_flows(&tally, &reader);
    if (!result && segment->state != SEGMENT_OPEN)
        result = check_seal(&tally);
out:
    segment_reader_close(&reader);
    free(tally.frame);
    return result;
}

int verifier_check(struct segment_readers *shared, const struct worker_segment *segment,
                   int (*tick)(void *context), void *context)
{
    for (uint32_t place = 0; place < segment->places; place++) {
        int result = check_place(shared, segment, place, tick, context);
        if (result)
            return result;
    }
    return 0;
}
