/*
 * segment_prefix.c - see segment_prefix.h.
 */
#include "segment_prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int segment_prefix_open(struct segment_prefix *prefix, uint64_t slot_bytes, flow_keys_of *keys_of)
{
    *prefix = (struct segment_prefix){.keys_of = keys_of};
    prefix->table = malloc(sizeof *prefix->table);
    prefix->interface_account = calloc(FRAME_ENTRIES_MAX, sizeof *prefix->interface_account);
    if (!prefix->table || !prefix->interface_account ||
        (keys_of && flow_index_open(slot_bytes, &prefix->flows) != 0) ||
        segment_index_open(&prefix->index, slot_bytes) != 0) {
        flow_index_close(&prefix->flows);
        free(prefix->table);
        free(prefix->interface_account);
        return ERR_NO_MEMORY;
    }
    frame_table_clear(prefix->table);
    return 0;
}

void segment_prefix_close(struct segment_prefix *prefix)
{
    segment_index_close(&prefix->index);
    flow_index_close(&prefix->flows);
    free(prefix->table);
    free(prefix->interface_account);
}

void segment_prefix_clear(struct segment_prefix *prefix, uint64_t first_packet)
{
    segment_index_clear(&prefix->index, first_packet);
    if (prefix->flows)
        flow_index_clear(prefix->flows);
}

int segment_prefix_add(struct segment_prefix *prefix, const uint8_t *frame,
                       const struct frame_info *info)
{
    struct frame_cursor cursor;
    struct frame_packet packet;
    uint64_t captured_bytes = 0;
    uint32_t packets = 0, purged = 0;
    int result;
    frame_cursor_start(&cursor, frame, info);
    while ((result = frame_cursor_next(&cursor, &packet)) > 0) {
        captured_bytes += packet.packet.captured_bytes;
        packets++;
        purged += packet.purged;
    }
    if (result < 0 || packets != info->packets)
        return ERR_CORRUPT;
    /* The table only grows within a segment: the last frame's is the segment's. */
    frame_table_clear(prefix->table);
    for (uint32_t i = 0; i < info->interfaces; i++) {
        struct interface_description description;
        if (frame_interface(frame, info, i, &description) == 0)
            (void)frame_table_add_interface(prefix->table, &description);
    }
    uint64_t expected = prefix->index.first_packet + prefix->index.packets + prefix->index.missing;
    if (prefix->index.entries > 0 && info->first_packet > expected)
        prefix->index.missing += info->first_packet - expected;
    segment_index_add(&prefix->index, info->offset, info->frame_bytes, info->number, info->packets,
                      info->first_packet, captured_bytes, info->head_ns, info->first_ns,
                      info->last_ns);
    prefix->index.purged += purged;
    if (prefix->flows)
        flow_frame_add(prefix->flows, prefix->keys_of, frame, info, NULL, 0, UINT32_MAX);
    prefix->account = info->account;
    if (info->frontier > prefix->frontier)
        prefix->frontier = info->frontier;
    return 0;
}

void segment_row_from_seal(const struct frame_identity *identity, const struct seal_body *body,
                           struct segment_row *row)
{
    *row = (struct segment_row){
        .ring = identity->ring,
        .segment = identity->segment,
        .position = identity->position,
        .revision = identity->revision,
        .data_revision = identity->data_revision,
        .run = identity->run,
        .stream = identity->stream,
        .state = le64_get(body->missing) > 0 ? SEGMENT_DAMAGED : SEGMENT_SEALED,
        .first_packet = le64_get(body->first_packet),
        .packets = le64_get(body->packets),
        .captured_bytes = le64_get(body->captured_bytes),
        .missing = le64_get(body->missing),
        .purged = le64_get(body->purged),
        .opened_ns = (int64_t)le64_get(body->opened_ns),
        .sealed_ns = (int64_t)le64_get(body->sealed_ns),
        .head_ns = (int64_t)le64_get(body->head_ns),
        .first_ns = (int64_t)le64_get(body->first_ns),
        .last_ns = (int64_t)le64_get(body->last_ns),
        .data_end = le32_get(body->data_end),
        .index_offset = le32_get(body->index_offset),
        .index_bytes = le32_get(body->index_bytes),
    };
}

void segment_copy_open(uint8_t *page, const struct segment_row *row, uint64_t slot_bytes, const struct segment_place *place,
                       const char *host, bool healing)
{
    struct frame_identity identity = {
        .ring = row->ring,
        .segment = row->segment,
        .run = row->run,
        .position = row->position,
        .revision = row->data_revision,
        .data_revision = row->data_revision,
        .stream = row->stream,
    };
    struct open_body body = {
        .opened_ns = le64_of((uint64_t)row->opened_ns),
        .slot_bytes = le64_of(slot_bytes),
        .copies = 1,
        .healing = healing,
        .version = TAPELOOP_VERSION,
        .place = {{.disk = place->disk, .slot = le32_of(place->slot)}},
    };
    memcpy(body.host, host, strnlen(host, sizeof body.host - 1));
    struct frame_finish finish = {
        .kind = FRAME_OPEN, .first_packet = row->first_packet, .frontier = row->first_packet};
    int built = frame_build_plain(page, PAGE_BYTES, &identity, NULL, &finish, &body, sizeof body);
    assert(built == (int)PAGE_BYTES);
}
