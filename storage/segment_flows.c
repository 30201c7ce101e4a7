/*
 * segment_flows.c - see segment_flows.h.
 */
#include "segment_flows.h"

#include <stdlib.h>
#include <string.h>

#define WHOLE_BYTES (512u * 1024) /* what is no longer may be read in one go: ten small reads take longer */
#define WINDOW_BYTES (64u * 1024) /* else, at once at most */
#define JOIN_BYTES (16u * 1024)   /* what lies between two stretches and is no longer is read with them */

static void forget_windows(struct segment_flows *flows)
{
    segment_drop_pages(flows->shared, &flows->read);
    flows->windows = 0;
}

/* Whether offset `at` of the slot was asked for: where in the memory of that, and how many bytes from there on. */
static bool find_window(const struct segment_flows *flows, uint32_t at, uint32_t *begin, uint32_t *bytes)
{
    uint32_t from = 0;
    for (uint32_t i = 0; i < flows->windows; i++) {
        const struct segment_pages *window = &flows->window[i];
        if (at >= window->offset && at - window->offset < window->bytes) {
            *bytes = window->bytes - (at - window->offset);
            *begin = from + (at - window->offset);
            return true;
        }
        from += window->bytes;
    }
    return false;
}

/* Where it is in memory, waiting for it if it is on its way; null: it is not. */
static const uint8_t *find_bytes(struct segment_flows *flows, uint32_t at, uint32_t *bytes)
{
    uint32_t begin;
    if (!find_window(flows, at, &begin, bytes))
        return segment_index_reach(flows->shared, flows->segment, flows->place, at, bytes);
    if (!flows->awaited && segment_await_pages(flows->shared, flows->segment, flows->place, &flows->read) != 0) {
        forget_windows(flows);
        return NULL;
    }
    flows->shared->index_bytes += flows->awaited ? 0 : flows->read->bytes;
    flows->awaited = true;
    return flows->read->memory + begin;
}

/* Asks for stretches in place of what was asked for before. */
static int ask_windows(struct segment_flows *flows, const struct segment_pages *window, uint32_t windows)
{
    forget_windows(flows);
    flows->read = segment_ask_pages(flows->shared, flows->segment, flows->place, window, windows);
    if (!flows->read)
        return ERR_IO;
    memcpy(flows->window, window, windows * sizeof *window);
    flows->windows = windows;
    flows->awaited = false;
    return 0;
}

/* Sees to it that what begins at `at` of the slot is in memory, a page of it at least. */
static int have_bytes(struct segment_flows *flows, uint32_t at, uint32_t wanted, const uint8_t **found, uint32_t *bytes)
{
    *found = find_bytes(flows, at, bytes);
    if (*found)
        return 0;
    uint32_t from = (uint32_t)round_down(at, PAGE_BYTES);
    uint32_t to = wanted < flows->end - at ? (uint32_t)round_up(at + wanted, PAGE_BYTES) : flows->end;
    to = to - from > WINDOW_BYTES ? from + WINDOW_BYTES : to;
    int result = ask_windows(flows, &(struct segment_pages){.offset = from, .bytes = to - from}, 1);
    if (result == 0)
        *found = find_bytes(flows, at, bytes);
    return result != 0 || *found ? result : ERR_IO;
}

static uint32_t frame_offset(const struct segment_flows *flows, uint32_t number)
{
    return flows->offset + number * FLOWS_FRAME_BYTES;
}

/* Whether the header of a frame is what it has to be. 0, ERR_CORRUPT, ERR_IO. */
static int check_frame(struct segment_flows *flows, uint32_t number)
{
    uint32_t offset = frame_offset(flows, number), bytes;
    bool last = number + 1 == flows->frames;
    struct frame_info info;
    const uint8_t *header;
    if (flows->frame[number].header_bytes > 0)
        return 0;
    int result = have_bytes(flows, offset, PAGE_BYTES, &header, &bytes);
    if (result != 0)
        return result;
    if (frame_parse(header, PAGE_BYTES, &info) != 0 ||
        !segment_owns(flows->shared, flows->segment, FRAME_FLOWS, offset, &info) ||
        info.frame_bytes != (last ? flows->end - offset : FLOWS_FRAME_BYTES) || info.body_bytes == 0 ||
        (!last && info.body_bytes != FLOWS_PIECE_BYTES) || info.body_bytes > FLOWS_PIECE_BYTES)
        return ERR_CORRUPT;
    flows->shared->frames_checked++;
    flows->frame[number].header_bytes = info.header_bytes;
    flows->frame[number].body_bytes = info.body_bytes;
    return 0;
}

static int read_range(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    struct segment_flows *flows = context;
    if (offset > flows->source.bytes || count > flows->source.bytes - offset)
        return ERR_CORRUPT;
    while (count > 0) {
        uint32_t number = offset / FLOWS_PIECE_BYTES, within = offset % FLOWS_PIECE_BYTES, there;
        const uint8_t *found;
        int result = check_frame(flows, number);
        if (result != 0)
            return result;
        if (within >= flows->frame[number].body_bytes)
            return ERR_CORRUPT;
        uint32_t left = flows->frame[number].body_bytes - within, bytes = left < count ? left : count;
        result = have_bytes(flows, frame_offset(flows, number) + flows->frame[number].header_bytes + within, bytes, &found, &there);
        if (result != 0)
            return result;
        bytes = there < bytes ? there : bytes;
        memcpy(into, found, bytes);
        into += bytes;
        offset += bytes;
        count -= bytes;
    }
    return 0;
}

/* Stretches that are to be read at once: in order, none next to another. */
struct wish {
    struct segment_pages window[SEGMENT_FLOWS_WINDOWS_MAX];
    uint32_t windows;
    bool full; /* the others are read when they are needed */
};

/* Adds the pages of [from, to) of the slot that did not come ahead. */
static void wish_pages(const struct segment_flows *flows, struct wish *wish, uint32_t from, uint32_t to)
{
    uint32_t there;
    while (from < to && segment_index_reach(flows->shared, flows->segment, flows->place, from, &there))
        from += there < to - from ? there : to - from;
    if (from == to)
        return;
    from = (uint32_t)round_down(from, PAGE_BYTES);
    to = (uint32_t)round_up(to, PAGE_BYTES);
    struct segment_pages *last = wish->windows > 0 ? &wish->window[wish->windows - 1] : NULL;
    if (last && from >= last->offset && from <= last->offset + last->bytes + JOIN_BYTES) {
        last->bytes = to > last->offset + last->bytes ? to - last->offset : last->bytes;
    } else if (wish->windows < SEGMENT_FLOWS_WINDOWS_MAX && (!last || from > last->offset)) {
        wish->window[wish->windows++] = (struct segment_pages){.offset = from, .bytes = to - from};
    } else {
        wish->full = true;
    }
}

/* Where a byte of the key index lies in the slot: surely, where its frame's header has been looked at, else behind a header of this length. */
static uint32_t slot_offset(const struct segment_flows *flows, uint32_t offset, uint32_t header_bytes)
{
    uint32_t number = offset / FLOWS_PIECE_BYTES;
    if (flows->frame[number].header_bytes > 0)
        header_bytes = flows->frame[number].header_bytes;
    return frame_offset(flows, number) + header_bytes + offset % FLOWS_PIECE_BYTES;
}

static int by_offset(const void *a, const void *b)
{
    uint32_t one = ((const struct segment_pages *)a)->offset, two = ((const struct segment_pages *)b)->offset;
    return one < two ? -1 : one > two;
}

static int expect_ranges(void *context, const struct flow_index_range *range, uint32_t count)
{
    struct segment_flows *flows = context;
    struct wish wish = {.windows = 0};
    struct segment_pages *wanted = malloc((2ul * count + 1) * sizeof *wanted);
    uint32_t wants = 0, bytes = 0;
    if (!wanted)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        if (range[i].offset >= flows->source.bytes || range[i].bytes > flows->source.bytes - range[i].offset || range[i].bytes == 0)
            continue; /* who reads it is told */
        uint32_t last = (range[i].offset + range[i].bytes - 1) / FLOWS_PIECE_BYTES;
        uint32_t from = slot_offset(flows, range[i].offset, sizeof(struct frame_header));
        uint32_t to = slot_offset(flows, range[i].offset + range[i].bytes - 1, FLOWS_HEADER_BYTES) + 1;
        wanted[wants++] = (struct segment_pages){.offset = from, .bytes = (to < flows->end ? to : flows->end) - from};
        if (last < flows->frames && flows->frame[last].header_bytes == 0) /* headers between lie within */
            wanted[wants++] = (struct segment_pages){.offset = frame_offset(flows, last), .bytes = PAGE_BYTES};
    }
    qsort(wanted, wants, sizeof *wanted, by_offset);
    for (uint32_t i = 0; i < wants; i++)
        wish_pages(flows, &wish, wanted[i].offset, wanted[i].offset + wanted[i].bytes);
    free(wanted);
    for (uint32_t i = 0; i < wish.windows; i++)
        bytes += wish.window[i].bytes;
    return bytes > 0 && bytes <= WHOLE_BYTES ? ask_windows(flows, wish.window, wish.windows) : 0;
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
    if (flows->frames > SEGMENT_FLOWS_FRAMES_MAX)
        return ERR_CORRUPT;
    int result = check_frame(flows, 0);
    if (result != 0) {
        segment_flows_close(flows);
        return result;
    }
    /* How long the last frame's body is, its header says, which is looked at when a byte of it is wanted. */
    uint32_t last = flows->end - frame_offset(flows, flows->frames - 1);
    flows->source = (struct flow_index_source){
        .read = read_range,
        .expect = expect_ranges,
        .context = flows,
        .bytes = flows->frames == 1 ? flows->frame[0].body_bytes
                                    : (flows->frames - 1) * FLOWS_PIECE_BYTES + (last < FLOWS_PIECE_BYTES ? last : FLOWS_PIECE_BYTES),
    };
    return 1;
}

/* What a search by marks read of it: so much of the next ones is worth reading ahead. */
uint32_t segment_flows_slot_bytes(const struct segment_flows *flows, uint32_t front)
{
    return front > 0 ? slot_offset(flows, front - 1, FLOWS_HEADER_BYTES) + 1 - flows->segment->index_offset : 0;
}

void segment_flows_close(struct segment_flows *flows)
{
    forget_windows(flows);
}
