/*
 * segment_fixture.c - see the header.
 */
#include "segment_fixture.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer_poison.h"
#include "catalog.h"

/* ---- the image ---------------------------------------------------------------------------------
 */

void fixture_open(struct fixture *fixture, uint32_t slots, uint64_t slot_bytes)
{
    *fixture = (struct fixture){
        .bytes = FIXTURE_SLOTS_OFFSET + slots * slot_bytes,
        .slot_bytes = slot_bytes,
        .slots = slots,
    };
    fixture->image = calloc(1, fixture->bytes);
    assert(fixture->image);
    memset(fixture->ring.byte, 0x11, sizeof fixture->ring.byte);
}

void fixture_close(struct fixture *fixture)
{
    free(fixture->image);
    fixture->image = NULL;
}

uint8_t *fixture_slot(const struct fixture *fixture, uint32_t slot, uint64_t offset)
{
    assert(slot < fixture->slots && offset < fixture->slot_bytes);
    return fixture->image + FIXTURE_SLOTS_OFFSET + slot * fixture->slot_bytes + offset;
}

void fixture_write(const struct fixture *fixture, const char *path)
{
    FILE *file = fopen(path, "wb");
    assert(file);
    size_t written = fwrite(fixture->image, 1, fixture->bytes, file);
    assert(written == fixture->bytes);
    int closed = fclose(file);
    assert(closed == 0);
}

/* ---- the image as a disk -----------------------------------------------------------------------
 */

struct fixture_body {
    struct disk head;
    struct fixture *fixture;
    uint64_t answers_left;
};

enum { UNDER_WAY = 1, ANSWERED = 2 }; /* in body[0] */

static void image_submit(struct disk *disk, struct disk_request *request)
{
    (void)disk;
    request->body[0] = UNDER_WAY;
    buffer_poison(request->buffer, request->bytes); /* nobody may look before disk_wait() */
}

static void image_wait(struct disk *disk, struct disk_request *request)
{
    struct fixture *fixture = ((struct fixture_body *)disk)->fixture;
    uint64_t offset;
    if (request->body[0] == ANSWERED)
        return;
    request->body[0] = ANSWERED;
    buffer_unpoison(request->buffer, request->bytes);
    request->result = disk_check(disk, request, &offset);
    fixture->reads++;
    fixture->read_bytes += request->bytes;
    if (!request->result && offset < fixture->broken_to &&
        offset + request->bytes > fixture->broken_from)
        request->result = ERR_IO;
    if (!request->result)
        memcpy(request->buffer, fixture->image + offset, request->bytes);
    request->done(request);
}

static bool image_wait_for(struct disk *disk, struct disk_request *request, unsigned limit_ms)
{
    struct fixture_body *body = (struct fixture_body *)disk;
    (void)limit_ms;
    if (request->body[0] != ANSWERED) {
        if (body->answers_left == 0)
            return false;
        body->answers_left -= body->answers_left != UINT64_MAX;
    }
    image_wait(disk, request);
    return true;
}

void fixture_disk_hangs(struct disk *disk, uint64_t after)
{
    ((struct fixture_body *)disk)->answers_left = after;
}

static void image_close(struct disk *disk)
{
    free(disk);
}

static const struct disk_ops image_ops = {
    .name = "image",
    .submit = image_submit,
    .wait = image_wait,
    .wait_for = image_wait_for,
    .close = image_close,
};

struct disk *fixture_disk(struct fixture *fixture)
{
    struct fixture_body *body = calloc(1, sizeof *body);
    assert(body);
    body->fixture = fixture;
    body->answers_left = UINT64_MAX;
    body->head = (struct disk){
        .ops = &image_ops,
        .geometry = {.disk_bytes = fixture->bytes,
                     .slots_offset = FIXTURE_SLOTS_OFFSET,
                     .slot_bytes = fixture->slot_bytes,
                     .slot_count = fixture->slots},
        .bytes = fixture->bytes,
        .alignment = 1,
        .read_only = true,
        .name = "image",
    };
    return &body->head;
}

/* ---- segments ----------------------------------------------------------------------------------
 */

static void put(struct fixture_segment *segment, uint32_t offset, const uint8_t *bytes,
                uint32_t count)
{
    for (uint32_t i = 0; i < segment->about.places; i++)
        memcpy(fixture_slot(segment->fixture, segment->about.place[i].slot, offset), bytes, count);
}

static void start_frame(struct fixture_segment *segment, uint32_t capacity)
{
    free(segment->buffer);
    segment->buffer = aligned_alloc(PAGE_BYTES, capacity);
    assert(segment->buffer);
    frame_builder_start(&segment->builder, segment->buffer, capacity, &segment->table);
}

void fixture_begin(struct fixture_segment *segment, struct fixture *fixture, const uint32_t *slots,
                   uint32_t places, uint8_t run, uint32_t stream, uint64_t position,
                   uint64_t first_packet, uint32_t frame_bytes)
{
    memset(segment, 0, sizeof *segment);
    segment->fixture = fixture;
    segment->frame_capacity = frame_bytes ? frame_bytes : FRAME_BYTES_USUAL;
    segment->identity = (struct frame_identity){.ring = fixture->ring,
                                                .position = position,
                                                .revision = 1,
                                                .data_revision = 1,
                                                .stream = stream};
    memset(segment->identity.run.byte, run, sizeof segment->identity.run.byte);
    memset(segment->identity.segment.byte, 0x80, sizeof segment->identity.segment.byte);
    memcpy(segment->identity.segment.byte, &position, sizeof position);
    segment->about = (struct worker_segment){
        .segment = segment->identity.segment,
        .run = segment->identity.run,
        .position = position,
        .first_packet = first_packet,
        .first_ns = INT64_MAX,
        .last_ns = INT64_MIN,
        .revision = 1,
        .data_revision = 1,
        .stream = stream,
        .state = SEGMENT_OPEN,
        .data_end = PAGE_BYTES,
        .places = places,
    };
    for (uint32_t i = 0; i < places; i++) {
        segment->about.place[i].disk = 0;
        segment->about.place[i].slot = slots[i];
    }
    segment->next_packet = first_packet;
    segment->offset = PAGE_BYTES;
    segment->number = 1;
    int result = segment_index_open(&segment->index, fixture->slot_bytes);
    assert(result == 0);
    segment_index_clear(&segment->index, first_packet);

    uint8_t page[PAGE_BYTES];
    struct open_body body = {.slot_bytes = le64_of(fixture->slot_bytes), .copies = (uint8_t)places};
    struct frame_finish finish = {.kind = FRAME_OPEN};
    result =
        frame_build_plain(page, PAGE_BYTES, &segment->identity, NULL, &finish, &body, sizeof body);
    assert(result == (int)PAGE_BYTES);
    put(segment, 0, page, PAGE_BYTES);
}

void fixture_index(struct fixture_segment *segment, flow_keys_of *keys_of)
{
    segment->keys_of = keys_of;
    int result = flow_index_open(segment->fixture->slot_bytes, &segment->flows);
    assert(result == 0);
}

int fixture_interface(struct fixture_segment *segment,
                      const struct interface_description *description)
{
    fixture_flush(segment);
    free(segment->buffer);
    segment->buffer = NULL;
    int number = frame_table_add_interface(&segment->table, description);
    assert(number >= 0);
    return number;
}

int fixture_interface_usual(struct fixture_segment *segment)
{
    struct interface_description description = {.link_type = 1, .snapshot_length = 262144};
    snprintf(description.name, sizeof description.name, "eth%u", segment->about.stream);
    return fixture_interface(segment, &description);
}

void fixture_bytes(uint32_t stream, uint64_t number, uint8_t *bytes, uint32_t count)
{
    uint64_t state = number * 0x9e3779b97f4a7c15u + stream * 0xbf58476d1ce4e5b9u + 1;
    for (uint32_t i = 0; i < count; i++) {
        if (i % 8 == 0)
            state = (state ^ state >> 29) * 0x94d049bb133111ebu + 1;
        bytes[i] = (uint8_t)(state >> 8 * (i % 8));
    }
}

bool fixture_packet(struct fixture_segment *segment, int interface, uint8_t direction,
                    int64_t time_ns, uint32_t captured_bytes, uint32_t original_bytes)
{
    uint8_t *bytes = malloc(captured_bytes + 1);
    assert(bytes);
    fixture_bytes(segment->about.stream, segment->next_packet, bytes, captured_bytes);
    bool added = fixture_packet_bytes(segment, interface, direction, time_ns, bytes, captured_bytes,
                                      original_bytes);
    free(bytes);
    return added;
}

/* Whether a frame of `bytes` and all that must come after it fit into the slot. */
static bool slot_has_room(const struct fixture_segment *segment, uint32_t bytes)
{
    uint32_t flows = segment->flows ? segment_index_flows_frames(flow_index_bound(segment->flows)) : 0;
    return segment->offset + bytes + flows +
               segment_index_room(segment->index.entries + 1, &segment->table) <=
           segment->fixture->slot_bytes;
}

bool fixture_packet_bytes(struct fixture_segment *segment, int interface, uint8_t direction,
                          int64_t time_ns, const uint8_t *bytes, uint32_t captured_bytes,
                          uint32_t original_bytes)
{
    struct packet packet = {
        .bytes = bytes,
        .captured_bytes = captured_bytes,
        .original_bytes = original_bytes,
        .time_ns = time_ns,
        .direction = direction,
    };
    int entry = frame_table_entry(&segment->table, (uint16_t)interface, direction,
                                  captured_bytes < original_bytes, 0);
    assert(entry >= 0);
    if (segment->buffer && (!frame_builder_fits(&segment->builder, captured_bytes) ||
                            !frame_builder_take_table(&segment->builder, &segment->table)))
        fixture_flush(segment);
    if (!segment->buffer) {
        uint32_t capacity = segment->frame_capacity;
        while (captured_bytes + sizeof(struct packet_record) +
                   frame_header_room(capacity, &segment->table) >
               capacity)
            capacity += PAGE_BYTES; /* an oversized packet has a frame of its own */
        if (!slot_has_room(segment, capacity))
            return false;
        start_frame(segment, capacity);
    }
    frame_builder_add(&segment->builder, (uint8_t)entry, &packet, captured_bytes);
    segment->account.packets[ACCOUNT_seen]++;
    segment->account.packets[ACCOUNT_stored]++;
    segment->account.stored_bytes += captured_bytes;
    segment->next_packet++;
    return true;
}

void fixture_flush(struct fixture_segment *segment)
{
    struct frame_builder *builder = &segment->builder;
    if (!segment->buffer || builder->packets == 0)
        return;
    struct frame_finish finish = {
        .kind = FRAME_DATA,
        .offset = segment->offset,
        .number = segment->number,
        .first_packet = segment->next_packet - builder->packets,
        .account = &segment->account,
    };
    uint32_t bytes = frame_builder_finish(builder, &segment->identity, &segment->table, &finish);
    put(segment, segment->offset, segment->buffer, bytes);
    segment_index_add(&segment->index, segment->offset, bytes, segment->number, builder->packets,
                      finish.first_packet, builder->captured_bytes, builder->head_ns,
                      builder->first_ns, builder->last_ns);
    struct frame_info info;
    int parsed = frame_parse(segment->buffer, bytes, &info);
    assert(parsed == 0);
    if (segment->flows)
        flow_frame_add(segment->flows, segment->keys_of, segment->buffer, &info, NULL, 0,
                       segment_index_flows_room(&segment->index, &segment->table,
                                                segment->fixture->slot_bytes));
    segment->offset += bytes;
    segment->number++;
    segment->about.data_end = segment->offset;
    segment->about.packets = segment->index.packets;
    segment->about.first_packet = segment->index.first_packet;
    segment->about.head_ns = segment->index.head_ns;
    segment->about.first_ns = segment->index.first_ns;
    segment->about.last_ns = segment->index.last_ns;
    free(segment->buffer);
    segment->buffer = NULL;
}

void fixture_seal(struct fixture_segment *segment)
{
    fixture_flush(segment);
    struct account account[FRAME_ENTRIES_MAX] = {0};
    account[0] = segment->account;
    struct segment_seal seal = {
        .identity = &segment->identity,
        .table = &segment->table,
        .interface_account = account,
        .account = &segment->account,
        .reason = SEAL_CLOSED,
        .slot_bytes = segment->fixture->slot_bytes,
    };
    if (segment->flows)
        flow_frames_seal(segment->flows, &segment->index, &seal);
    uint8_t *buffer = malloc(FRAME_BYTES_USUAL);
    assert(buffer);
    for (uint32_t part = 0; part < segment_index_parts(&segment->index, &seal); part++) {
        uint32_t offset, bytes = segment_index_part(&segment->index, &seal, part, buffer, &offset);
        put(segment, offset, buffer, bytes);
    }
    free(buffer);
    segment_index_extent(&segment->index, &seal, &segment->about.index_offset,
                         &segment->about.index_bytes);
    segment->about.state = SEGMENT_SEALED;
    segment->about.revision = segment->identity.revision;
}

void fixture_end(struct fixture_segment *segment)
{
    free(segment->buffer);
    segment->buffer = NULL;
    segment_index_close(&segment->index);
    flow_index_close(&segment->flows);
}
