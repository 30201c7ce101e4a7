/*
 * flow_frames.c - see flow_frames.h.
 *
 * Packets go through in batches: first the keys of all, then what the index knows of all is asked for from memory, then they are
 * added. So memory is waited for once in a batch and not several times a packet.
 */
#include "flow_frames.h"

#include <string.h>

#include "errors.h"
#include "flow_index_reader.h"

#define BATCH 32u
#define AHEAD 12u /* packets, whose records another processor's caches may have */

struct batch {
    uint32_t count;
    struct flow_keys keys[BATCH];
    uint64_t hash[BATCH];
    uint32_t at[BATCH];
    uint32_t bytes[BATCH];
};

static void batch_add(struct flow_index *index, struct batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++)
        flow_index_prefetch_flow(index, batch->hash[i]);
    for (uint32_t i = 0; i < batch->count; i++)
        flow_index_add(index, &batch->keys[i], batch->hash[i], batch->at[i], batch->bytes[i]);
    batch->count = 0;
}

void flow_frame_add(struct flow_index *index, flow_keys_of *keys_of, const uint8_t *frame, const struct frame_info *info,
                    const uint32_t *noted, uint32_t notes, uint32_t room_bytes)
{
    struct frame_cursor cursor;
    struct frame_packet packet;
    struct batch batch;
    uint16_t link_type[FRAME_ENTRIES_MAX];
    uint32_t allowed = 0, asked_for = 0;
    int step;
    batch.count = 0;
    for (uint32_t i = 0; i < info->interfaces; i++) {
        struct interface_description description;
        link_type[i] = frame_interface(frame, info, i, &description) == 0 ? description.link_type : UINT16_MAX;
    }
    frame_cursor_start(&cursor, frame, info);
    for (;;) {
        uint32_t at = cursor.at;
        for (uint32_t ahead = info->packets - cursor.left + AHEAD; asked_for < notes && asked_for < ahead; asked_for++) {
            __builtin_prefetch(frame + noted[asked_for]);
            __builtin_prefetch(frame + noted[asked_for] + 64);
        }
        step = frame_cursor_next(&cursor, &packet);
        if (step <= 0)
            break;
        if (allowed == 0) {
            batch_add(index, &batch);
            allowed = flow_index_allowance(index, room_bytes);
            if (allowed == 0)
                flow_index_stop(index);
            if (flow_index_stopped(index))
                break;
        }
        allowed--;
        struct flow_keys *keys = &batch.keys[batch.count];
        keys_of(link_type[packet.packet.interface], packet.packet.bytes, packet.packet.captured_bytes, keys);
        keys->entry = packet.entry;
        batch.hash[batch.count] = flow_index_hash(index, keys);
        flow_index_prefetch(index, batch.hash[batch.count]);
        batch.at[batch.count] = at;
        batch.bytes[batch.count] = cursor.at - at;
        if (++batch.count == BATCH)
            batch_add(index, &batch);
    }
    batch_add(index, &batch);
    if (step < 0)
        flow_index_stop(index);
    flow_index_end_frame(index, info->frame_bytes);
}

void flow_frames_seal(struct flow_index *flows, const struct segment_index *index, struct segment_seal *seal)
{
    seal->flows_bytes =
        flow_index_encode(flows, seal->table->entry, seal->table->entries,
                          segment_index_flows_room(index, seal->table, seal->slot_bytes), &seal->flows);
}

/* ---- verdicts of before ------------------------------------------------------------------------------ */

#define CARRIED_FRAMES_MAX (SLOT_BYTES_MAX / 8 / FLOWS_PIECE_BYTES + 1) /* a key index is not longer than an eighth of its slot */

/* The FLOWS frames of a segment in memory: where their bodies are. */
struct carried {
    struct flow_index *flows;
    uint32_t frames;
    struct {
        const uint8_t *bytes;
        uint32_t count;
    } body[CARRIED_FRAMES_MAX];
};

static int carried_read(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    const struct carried *carried = context;
    while (count > 0) {
        uint32_t number = offset / FLOWS_PIECE_BYTES, within = offset % FLOWS_PIECE_BYTES;
        if (number >= carried->frames || within >= carried->body[number].count)
            return ERR_CORRUPT;
        uint32_t left = carried->body[number].count - within, bytes = left < count ? left : count;
        memcpy(into, carried->body[number].bytes + within, bytes);
        into += bytes;
        offset += bytes;
        count -= bytes;
    }
    return 0;
}

static int carry_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    const struct carried *carried = context;
    if (seen->app)
        flow_index_carry(carried->flows, keys, seen->app);
    return 0;
}

void flow_frames_carry(struct flow_index *flows, const uint8_t *slot, uint32_t offset, uint32_t bytes, const struct identity *segment,
                       uint32_t revision)
{
    struct carried carried = {.flows = flows};
    uint32_t total = 0;
    for (uint32_t at = 0; at < bytes;) {
        struct frame_info info;
        const uint8_t *frame = slot + offset + at;
        if (frame_parse(frame, bytes - at, &info) != 0 || info.frame_bytes > bytes - at || info.offset != offset + at ||
            !identity_equal(&info.segment, segment) || info.revision != revision || frame_check(frame, &info) != 0)
            return;
        at += info.frame_bytes;
        if (info.kind != FRAME_FLOWS)
            continue;
        if (carried.frames == CARRIED_FRAMES_MAX || (at < bytes && info.body_bytes != FLOWS_PIECE_BYTES) || info.body_bytes > FLOWS_PIECE_BYTES)
            return;
        carried.body[carried.frames].bytes = frame + info.header_bytes;
        carried.body[carried.frames++].count = info.body_bytes;
        total += info.body_bytes;
    }
    struct flow_index_source source = {.read = carried_read, .context = &carried, .bytes = total};
    struct flow_reader *reader;
    if (total == 0 || flow_reader_open(&source, &reader) != 0)
        return;
    (void)flow_reader_each(reader, carry_flow, &carried);
    flow_reader_close(&reader);
}
