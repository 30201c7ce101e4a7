/*
 * segment_flows.c - see segment_flows.h.
 */
#include "segment_flows.h"

#include <stdlib.h>
#include <string.h>

#define WHOLE_BYTES (512u * 1024) /* what is no longer is read in one go: ten small reads take longer */
#define WINDOW_BYTES (64u * 1024) /* else, at once at most */

/* Sees to it that [offset, offset + bytes) of the slot, at most a window of the FLOWS frames, is in memory. */
static int window_move(struct segment_flows *flows, uint32_t offset, uint32_t bytes)
{
    if (offset >= flows->from && offset + bytes <= flows->to)
        return 0;
    uint32_t from = (uint32_t)round_down(offset, PAGE_BYTES), to = (uint32_t)round_up(offset + bytes, PAGE_BYTES);
    if (flows->end - flows->offset <= WHOLE_BYTES) {
        from = flows->offset;
        to = flows->end;
    }
    const struct worker_segment *segment = flows->segment;
    flows->from = flows->to = 0;
    flows->window = segment_index_bytes(flows->shared, segment, flows->place, flows->offset, flows->end - flows->offset);
    if (flows->window) {
        flows->from = flows->offset;
        flows->to = flows->end;
        return 0;
    }
    if (!flows->memory)
        flows->memory = aligned_alloc(PAGE_BYTES, flows->end - flows->offset <= WHOLE_BYTES ? flows->end - flows->offset : WINDOW_BYTES);
    if (!flows->memory)
        return ERR_NO_MEMORY;
    if (segment_read_place(flows->shared, segment, flows->place, from, flows->memory, to - from) != 0)
        return ERR_IO;
    flows->window = flows->memory;
    flows->shared->index_bytes += to - from;
    flows->from = from;
    flows->to = to;
    return 0;
}

/* Whether the header of a frame is what it has to be. 0, ERR_CORRUPT, ERR_IO. */
static int check_frame(struct segment_flows *flows, uint32_t number, struct frame_info *info)
{
    uint32_t offset = flows->offset + number * FLOWS_FRAME_BYTES;
    bool last = number + 1 == flows->frames;
    int result = window_move(flows, offset, PAGE_BYTES);
    if (result != 0)
        return result;
    if (frame_parse(flows->window + (offset - flows->from), PAGE_BYTES, info) != 0 ||
        !segment_owns(flows->shared, flows->segment, FRAME_FLOWS, offset, info) ||
        info->frame_bytes != (last ? flows->end - offset : FLOWS_FRAME_BYTES) || info->body_bytes == 0 ||
        (!last && info->body_bytes != FLOWS_PIECE_BYTES) || info->body_bytes > FLOWS_PIECE_BYTES)
        return ERR_CORRUPT;
    flows->shared->frames_checked++;
    return 0;
}

static int read_range(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    struct segment_flows *flows = context;
    if (offset > flows->source.bytes || count > flows->source.bytes - offset)
        return ERR_CORRUPT;
    while (count > 0) {
        uint32_t number = offset / FLOWS_PIECE_BYTES, within = offset % FLOWS_PIECE_BYTES;
        if (number != flows->checked) {
            struct frame_info info;
            int result = check_frame(flows, number, &info);
            if (result != 0)
                return result;
            flows->checked = number;
            flows->header_bytes = info.header_bytes;
        }
        uint32_t at = flows->offset + number * FLOWS_FRAME_BYTES + flows->header_bytes + within;
        uint32_t bytes = FLOWS_PIECE_BYTES - within < count ? FLOWS_PIECE_BYTES - within : count;
        if (bytes > WINDOW_BYTES - PAGE_BYTES)
            bytes = WINDOW_BYTES - PAGE_BYTES;
        int result = at + bytes <= flows->end ? window_move(flows, at, bytes) : ERR_CORRUPT;
        if (result != 0)
            return result;
        memcpy(into, flows->window + (at - flows->from), bytes);
        into += bytes;
        offset += bytes;
        count -= bytes;
    }
    return 0;
}

int segment_flows_open(struct segment_flows *flows, struct segment_reader *reader, uint32_t place)
{
    const struct worker_segment *segment = reader->segment;
    int good = segment_reader_index(reader);
    if (good <= 0 || reader->flows_bytes == 0)
        return good < 0 ? good : 0;
    *flows = (struct segment_flows){
        .shared = reader->shared,
        .segment = segment,
        .place = place,
        .offset = segment->index_offset + segment->index_bytes - reader->flows_bytes,
        .end = segment->index_offset + segment->index_bytes,
        .frames = (reader->flows_bytes + FLOWS_FRAME_BYTES - 1) / FLOWS_FRAME_BYTES,
    };
    struct frame_info info;
    int result = check_frame(flows, flows->frames - 1, &info);
    if (result != 0) {
        segment_flows_close(flows);
        return result;
    }
    flows->checked = flows->frames - 1;
    flows->header_bytes = info.header_bytes;
    flows->source = (struct flow_index_source){
        .read = read_range,
        .context = flows,
        .bytes = flows->checked * FLOWS_PIECE_BYTES + info.body_bytes,
    };
    return 1;
}

void segment_flows_close(struct segment_flows *flows)
{
    free(flows->memory);
    flows->memory = NULL;
    flows->window = NULL;
}
