#include "segment_blocks.h"

#include <stdlib.h>
#include <string.h>

static uint32_t block_count(const struct segment_frame_blocks *frame)
{
    return (frame->frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int segment_blocks_load(struct flow_reader *index, const struct flow_selection *selection, uint32_t from, uint32_t count,
                        struct segment_block *table)
{
    struct flow_block said[FRAME_BLOCKS_USUAL];
    for (uint32_t i = from, part; i < from + count; i += part) {
        part = least(from + count - i, FRAME_BLOCKS_USUAL);
        int code = flow_reader_block_table(index, i, part, said);
        for (uint32_t j = 0; j < part && code == 0; j++) {
            uint16_t first = said[j].first, packets = said[j].packets;
            /* A packet that may match begins in a block in which none begins: the parts contradict each other. */
            if (selection->block[i + j] > packets || (packets > 0) != (first < BLOCK_BYTES))
                code = ERR_CORRUPT;
            table[i + j] =
                (struct segment_block){.first = packets > 0 ? first : 0, .packets = packets, .wanted = selection->block[i + j]};
        }
        if (code != 0)
            return code;
    }
    return 0;
}

uint32_t segment_stretch_records_end(const struct segment_frame_blocks *frame, const struct segment_stretch *stretch, uint32_t end)
{
    for (uint32_t i = stretch->block + stretch->blocks; i < block_count(frame); i++)
        if (frame->block[i].packets > 0)
            return least(i * BLOCK_BYTES + frame->block[i].first, end);
    return end;
}

/* Up to where a stretch is read. */
static uint32_t read_end(const struct segment_frame_blocks *frame, const struct segment_stretch *stretch, bool sure)
{
    uint32_t end = (stretch->block + stretch->blocks) * BLOCK_BYTES;
    if (!sure) {
        uint32_t records_end = (uint32_t)round_up(segment_stretch_records_end(frame, stretch, frame->frame_bytes), BLOCK_BYTES);
        end = records_end > end ? records_end : end;
    }
    return least(end, frame->frame_bytes);
}

uint32_t segment_blocks_stretches(const struct segment_frame_blocks *frame, bool sure, struct segment_stretch *stretch)
{
    uint32_t count = 0, before = 0;
    for (uint32_t i = 0; i < block_count(frame); before += frame->block[i].packets, i++) {
        const struct segment_block *block = &frame->block[i];
        struct segment_stretch *last = count > 0 ? &stretch[count - 1] : NULL;
        if (block->wanted == 0)
            continue;
        if (last && i * BLOCK_BYTES <= last->end) { /* read in one go; records between them come along */
            last->packets = before + block->packets - last->before;
            last->blocks = i + 1 - last->block;
            last->wanted += block->wanted;
        } else {
            last = &stretch[count++];
            *last = (struct segment_stretch){.block = i,
                                             .blocks = 1,
                                             .at = i * BLOCK_BYTES + block->first,
                                             .before = before,
                                             .packets = block->packets,
                                             .wanted = block->wanted};
        }
        last->end = read_end(frame, last, sure);
    }
    return count;
}

bool segment_stretch_fits(const struct segment_frame_blocks *frame, const struct segment_stretch *stretch, const uint8_t *bytes,
                          const struct frame_info *info)
{
    uint32_t at = stretch->at, body_end = info->header_bytes + info->body_bytes;
    uint32_t records_end = segment_stretch_records_end(frame, stretch, body_end);
    uint64_t block_end = (uint64_t)(stretch->block + stretch->blocks) * BLOCK_BYTES;
    if (at < info->header_bytes || (stretch->block == 0 && at != info->header_bytes) ||
        stretch->before + stretch->packets > info->packets)
        return false;
    for (uint32_t i = 0; i < stretch->packets; i++) {
        struct packet_record record;
        if (at >= block_end || at >= body_end)
            return false;
        if (stretch->end - at < sizeof record) /* it is the last one, and its length lies behind */
            return i + 1 == stretch->packets;
        memcpy(&record, bytes + at, sizeof record);
        at += (uint32_t)sizeof record + (le32_get(record.captured_and_entry) & PACKET_CAPTURED_MAX);
    }
    return at == records_end;
}
