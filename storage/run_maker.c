#include "run_maker.h"

#include "key_run.h"
#include "segment_flows.h"

/* Whether each block of the segment is indexed. */
static bool indexed_whole(const struct segment_reader *reader, const struct flow_reader *index)
{
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < reader->entries; i++)
        blocks += (le32_get(reader->entry[i].frame_bytes) + BLOCK_BYTES - 1) / BLOCK_BYTES;
    return blocks == flow_reader_blocks(index);
}

/* Adds a segment from the key index at one place. 1: there was a sound beginning of one; 0: not here. */
static int add_from(struct key_run_maker *maker, const struct key_run_segment *about, struct segment_reader *reader, uint32_t place)
{
    struct segment_flows flows;
    struct flow_reader *index = NULL;
    int result = segment_flows_open(&flows, reader, place);
    if (result <= 0)
        return result == ERR_CORRUPT || result == ERR_IO ? 0 : result;
    result = flow_reader_open(&flows.source, &index);
    if (result == 0)
        result = key_run_add_segment(maker, about, index, indexed_whole(reader, index));
    flow_reader_close(&index);
    segment_flows_close(&flows);
    return result == ERR_CORRUPT || result == ERR_IO ? 0 : result < 0 ? result : 1;
}

static int add_segment(struct key_run_maker *maker, struct segment_readers *shared, const struct worker_segment *segment)
{
    const struct key_run_segment about = {
        .segment = segment->segment, .position = segment->position, .revision = segment->revision};
    struct segment_reader reader;
    int result = 0;
    segment_reader_open(&reader, shared, segment, 0, -1);
    for (uint32_t place = 0; place < segment->places && result == 0; place++)
        result = add_from(maker, &about, &reader, place);
    if (result == 0)
        result = key_run_add_segment(maker, &about, NULL, false);
    segment_reader_close(&reader);
    return result < 0 ? result : 0;
}

int run_maker_write(struct segment_readers *shared, const struct worker_segment *segment, uint32_t count, int fd, int (*tick)(void *context),
                    void *context)
{
    struct key_run_maker *maker;
    int result = key_run_begin(&shared->ring, count, &maker);
    if (result != 0)
        return result;
    for (uint32_t i = 0; i < count && result == 0; i++) {
        result = add_segment(maker, shared, &segment[i]);
        if (result == 0)
            result = tick(context);
    }
    if (result == 0)
        result = key_run_write(maker, fd, NULL);
    key_run_end(&maker);
    return result;
}
