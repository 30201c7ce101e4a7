/*
 * flow_frames.c - see flow_frames.h.
 *
 * Packets go through in batches, and several batches are under way: of the third the hashes are made and the places in the index's tables asked
 * for from memory, of the second what these lead to, and those of the first are added. So memory is waited for rarely. Packets that are not
 * plain need more steps; there are few, and they are listed, so that no branch depends on a packet but in the last step.
 */
#include "flow_frames.h"

#include <string.h>

#include "errors.h"
#include "flow_index_reader.h"

#define BATCH 32u
#define BATCHES 3u /* under way */
#define GATHERED (8 * BATCH) /* notes of packets of which there were none */

struct batch {
    const struct flow_note *note;
    uint32_t count;
    uint32_t end; /* of the last one's record */
    uint32_t others;
    uint8_t other[BATCH]; /* those that are not plain */
    uint64_t hash[BATCH];
    struct flow_keys keys[BATCH]; /* of the others */
};

struct feed {
    struct flow_index *index;
    flow_keys_of *keys_of;
    const uint8_t *frame;
    const struct frame_info *info;
    uint16_t link_type[FRAME_ENTRIES_MAX]; /* of each entry */
    uint32_t room_bytes;
    uint32_t allowed; /* packets, before the bound is looked at again */
    struct batch batch[BATCHES];
};

/* Where the record of the i-th packet ends. */
static inline uint32_t record_end(const struct batch *batch, uint32_t i)
{
    return i + 1 < batch->count ? flow_note_at(&batch->note[i + 1]) : batch->end;
}

static void batch_begin(struct feed *feed, struct batch *batch)
{
    flow_index_ask(feed->index, batch->note, batch->count, batch->hash);
    batch->others = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        batch->other[batch->others] = (uint8_t)i;
        batch->others += !flow_note_is_plain(&batch->note[i]);
    }
    for (uint32_t i = 0; i < batch->others; i++) {
        const uint8_t *record = feed->frame + flow_note_at(&batch->note[batch->other[i]]);
        __builtin_prefetch(record);
        __builtin_prefetch(record + 64);
    }
}

static void batch_ask(struct feed *feed, struct batch *batch)
{
    struct flow_index *index = feed->index;
    for (uint32_t i = 0; i < batch->others; i++) {
        uint32_t number = batch->other[i], at = flow_note_at(&batch->note[number]) + (uint32_t)sizeof(struct packet_record);
        struct flow_keys *keys = &batch->keys[number];
        keys->entry = flow_note_entry(&batch->note[number]);
        (void)feed->keys_of(feed->link_type[keys->entry], feed->frame + at, record_end(batch, number) - at, NULL, keys);
        batch->hash[number] = flow_index_hash(index, keys);
        flow_index_prefetch(index, batch->hash[number]);
    }
    flow_index_ask_flows(index, batch->hash, batch->count);
    for (uint32_t i = 0; i < batch->others; i++)
        flow_index_prefetch_flow(index, batch->hash[batch->other[i]]);
}

static void batch_add(struct feed *feed, struct batch *batch)
{
    struct flow_index *index = feed->index;
    for (uint32_t i = 0; i < batch->others; i++)
        flow_index_prefetch_keys(index, batch->hash[batch->other[i]]);
    flow_index_add_notes(index, batch->note, batch->keys, batch->hash, batch->count, batch->end);
}

/* So many packets that the bound need not be looked at. */
static void run_add(struct feed *feed, const struct flow_note *note, uint32_t count, uint32_t end)
{
    uint32_t batches = (count + BATCH - 1) / BATCH;
    for (uint32_t step = 0; step < batches + BATCHES - 1; step++) {
        if (step < batches) {
            struct batch *batch = &feed->batch[step % BATCHES];
            uint32_t from = step * BATCH, to = count - from < BATCH ? count : from + BATCH;
            batch->note = note + from;
            batch->count = to - from;
            batch->end = to < count ? flow_note_at(&note[to]) : end;
            batch_begin(feed, batch);
        }
        if (step >= 1 && step - 1 < batches)
            batch_ask(feed, &feed->batch[(step - 1) % BATCHES]);
        if (step >= 2)
            batch_add(feed, &feed->batch[(step - 2) % BATCHES]);
    }
}

/* Any number of packets. False: the index has stopped. */
static bool notes_add(struct feed *feed, const struct flow_note *note, uint32_t count, uint32_t end)
{
    for (uint32_t i = 0, some; i < count; i += some) {
        if (feed->allowed == 0)
            feed->allowed = flow_index_allowance(feed->index, feed->room_bytes);
        if (feed->allowed == 0)
            flow_index_stop(feed->index);
        if (flow_index_stopped(feed->index))
            return false;
        some = count - i < feed->allowed ? count - i : feed->allowed;
        feed->allowed -= some;
        run_add(feed, note + i, some, i + some < count ? flow_note_at(&note[i + some]) : end);
    }
    return true;
}

/* What no notes were made of. */
static void rest_add(struct feed *feed, struct frame_cursor *cursor)
{
    struct flow_note note[GATHERED];
    struct frame_packet packet;
    uint32_t count = 0;
    int step;
    do {
        uint32_t at = cursor->at;
        step = frame_cursor_next(cursor, &packet);
        if (count == GATHERED || step <= 0) {
            if (!notes_add(feed, note, count, at))
                return;
            count = 0;
        }
        if (step > 0)
            flow_note_put(&note[count++], feed->keys_of, feed->link_type[packet.entry], packet.packet.bytes, packet.packet.captured_bytes,
                          packet.entry, at);
    } while (step > 0);
    if (step < 0)
        flow_index_stop(feed->index);
}

static void feed_links(struct feed *feed)
{
    const struct frame_info *info = feed->info;
    struct frame_cursor cursor;
    frame_cursor_start(&cursor, feed->frame, info);
    for (uint32_t i = 0; i < info->entries; i++) {
        struct frame_entry entry;
        struct interface_description description;
        memcpy(&entry, cursor.entries + i * sizeof entry, sizeof entry);
        bool known = le16_get(entry.interface) < info->interfaces &&
                     frame_interface(feed->frame, info, le16_get(entry.interface), &description) == 0;
        feed->link_type[i] = known ? description.link_type : UINT16_MAX;
    }
}

void flow_frame_add(struct flow_index *index, flow_keys_of *keys_of, const uint8_t *frame, const struct frame_info *info,
                    const struct flow_note *note, uint32_t notes, uint32_t room_bytes)
{
    struct feed feed; /* most of it is set as it is used */
    struct frame_cursor cursor;
    feed.index = index;
    feed.keys_of = keys_of;
    feed.frame = frame;
    feed.info = info;
    feed.room_bytes = room_bytes;
    feed.allowed = 0;
    frame_cursor_start(&cursor, frame, info);
    feed_links(&feed);
    if (notes < info->packets) { /* the last note's packet is where the cursor goes on */
        notes = notes > 0 ? notes - 1 : 0;
        cursor.at = notes > 0 ? flow_note_at(&note[notes]) : cursor.at;
        cursor.left -= notes;
        if (notes_add(&feed, note, notes, cursor.at))
            rest_add(&feed, &cursor);
    } else {
        (void)notes_add(&feed, note, info->packets, cursor.end);
    }
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
