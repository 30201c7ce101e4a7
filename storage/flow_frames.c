/*
 * flow_frames.c - see flow_frames.h.
 *
 * Packets go through in batches: first the keys of all, then what the index knows of all is asked for from memory, then they are
 * added. So memory is waited for once in a batch and not several times a packet.
 */
#include "flow_frames.h"

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
