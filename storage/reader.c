/*
 * reader.c - streams, their merge, and what is missing from them.
 *
 * A stream goes through its segments with a segment_reader; when all of the current segment is on
 * its way, the next one's begins to read ahead, and of the one behind that it is found out what will be wanted. Streams stand in a binary heap by the time of their
 * next packet, an unopened one by the smallest time that its next packet can have. The stream at
 * the top stays there as long as its packets are the earliest, so that a run of packets of one
 * stream costs one comparison each.
 *
 * Memory: three quarters are pieces, shared by all streams. A stream for which no piece is left
 * reads its frames one by one into a buffer that all share, and keeps in a stash what it has room
 * for there: records, whole and checked. What did not fit is fetched again, and numbering skips
 * what was handed out. The stashes are the other quarter.
 */
#include "reader.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "segment_reader.h"
#include "sifter.h"

#define STASH_BYTES_MIN (4u * 1024)
#define NOT_IN_HEAP UINT32_MAX
#define MATCHES_AHEAD 4u /* of what the sifter has found, come into the cache before they are handed out, */
#define MATCH_LINES 4u   /* the beginning of each; the processor sees by itself how that goes on */
#define THIRDS_MAX (INDEXES_AHEAD_MAX / 2) /* where there are more streams, the key indexes that come ahead do not reach that far */
#define AS_WHOLE 2 /* of a step that does not leave this file */

struct reader_stream {
    struct identity run;
    uint32_t number;
    uint32_t order; /* of appearance */

    struct worker_segment **segment; /* in the order of precedes() */
    uint32_t segments;
    uint32_t room;
    uint32_t current;
    uint32_t heap_at;
    int64_t key_ns;
    uint64_t key_position;
    struct segment_reader now;  /* of segment[current], if `open` */
    struct segment_reader next; /* reads ahead in segment[next_at], if `next_open` */
    uint32_t next_at;           /* the first behind `current` that need not be passed by, when it was opened */
    struct segment_reader third; /* is prepared: of segment[third_at], the first behind next_at, if `third_open`, which it is only while `next_open` */
    uint32_t third_at;
    uint32_t index_at; /* the key indexes of the segments before this one have been asked for, */
    uint32_t indexes;  /* and of so many of those behind `current` */

    bool open;
    bool next_open, third_open;
    bool fresh; /* the current segment has just been opened */
    bool has_head;
    bool walking;    /* the cursor is in a frame */
    bool damaged;    /* of which only a part is good */
    bool silent;     /* and the rest may lie on a disk that does not answer */
    bool rest;       /* of which the stash holds only a part */
    bool parts;      /* of which only stretches are there: all that can match */
    bool numbered;   /* next_packet is set */
    bool timed;      /* last_ns is set */
    bool has_before; /* `before` is the account before the range */
    bool counted;    /* `before` and `after` are the accounts around the range */

    uint32_t pending;     /* why the numbers that come next may be missing; 0: not known */
    uint64_t next_packet; /* the first number that was not yet seen */
    int64_t last_ns;      /* of the last packet seen */
    struct frame_packet head;
    struct frame_cursor cursor;
    struct frame_info info; /* of the cursor's frame */
    const struct sifter_frame *sifted; /* the frame's, whose matches are all that is wanted of it; null: there is none */
    uint32_t match;                    /* the next one of these */
    struct segment_stretch *stretch; /* parts: the cursor's, the segment reader's */
    uint32_t stretches;              /* from that one on */
    uint8_t *stash;
    uint32_t stash_room;

    uint32_t table_bytes;
    uint8_t *table;                  /* the frame's interface table that the map is for */
    uint32_t map[FRAME_ENTRIES_MAX]; /* from the frame's interfaces to the reader's */
    uint32_t used_count;
    uint32_t *used; /* the reader's numbers of all interfaces that it ever had */

    struct account before;
    struct account after;
    int64_t counted_from_ns;
    int64_t counted_to_ns;
};

struct reader {
    struct reader_options options;
    struct segment_readers shared;
    struct reader_stream **stream;
    uint32_t streams;
    struct reader_stream **heap;
    uint32_t heap_count;
    struct reader_stream *last; /* whose packet was handed out */
    bool added;                 /* streams may have to go into the heap */
    bool hurry;                 /* nothing is waited for */
    uint32_t active;            /* streams with an open segment */
    uint64_t stash_max;         /* bytes for all stashes */
    uint64_t segments_total;
    uint64_t segments_done;
    uint64_t purged;
    uint64_t sifted;
    int64_t sifted_ns;
    uint64_t segments_by_runs;
    struct worker_segment **known; /* hash table of all, by identity; owns them */
    uint32_t known_room;           /* a power of two */
    struct interface_description *interface;
    uint32_t interfaces;
};

/* ---- the heap ----------------------------------------------------------------------------------
 */

static bool before(const struct reader_stream *a, const struct reader_stream *b)
{
    if (a->key_ns != b->key_ns)
        return a->key_ns < b->key_ns;
    if (a->key_position != b->key_position)
        return a->key_position < b->key_position;
    return a->order < b->order;
}

static void heap_put(struct reader *reader, uint32_t at, struct reader_stream *stream)
{
    reader->heap[at] = stream;
    stream->heap_at = at;
}

static void heap_down(struct reader *reader, uint32_t at)
{
    struct reader_stream *stream = reader->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= reader->heap_count)
            break;
        if (child + 1 < reader->heap_count && before(reader->heap[child + 1], reader->heap[child]))
            child++;
        if (before(stream, reader->heap[child]))
            break;
        heap_put(reader, at, reader->heap[child]);
        at = child;
    }
    heap_put(reader, at, stream);
}

static void heap_take_first(struct reader *reader)
{
    reader->heap[0]->heap_at = NOT_IN_HEAP;
    struct reader_stream *last = reader->heap[--reader->heap_count];
    if (reader->heap_count > 0) {
        heap_put(reader, 0, last);
        heap_down(reader, 0);
    }
}

/* ---- interfaces --------------------------------------------------------------------------------
 */

static bool same_interface(const struct interface_description *a,
                           const struct interface_description *b)
{
    return a->link_type == b->link_type && a->snapshot_length == b->snapshot_length &&
           memcmp(a->hardware, b->hardware, sizeof a->hardware) == 0 &&
           strcmp(a->name, b->name) == 0 && strcmp(a->description, b->description) == 0;
}

static int number_interface(struct reader *reader, const struct interface_description *description,
                            uint32_t *number)
{
    for (uint32_t i = 0; i < reader->interfaces; i++) {
        if (same_interface(&reader->interface[i], description)) {
            *number = i;
            return 0;
        }
    }
    if ((reader->interfaces & (reader->interfaces - 1)) == 0) { /* full at every power of two */
        uint32_t room = reader->interfaces == 0 ? 1 : 2 * reader->interfaces;
        struct interface_description *more = realloc(reader->interface, room * sizeof *more);
        if (!more)
            return ERR_NO_MEMORY;
        reader->interface = more;
    }
    *number = reader->interfaces;
    reader->interface[reader->interfaces++] = *description;
    return 0;
}

/* Remembers that a stream has packets of this interface. */
static int note_used(struct reader_stream *stream, uint32_t interface)
{
    for (uint32_t i = 0; i < stream->used_count; i++)
        if (stream->used[i] == interface)
            return 0;
    uint32_t *more = realloc(stream->used, (stream->used_count + 1) * sizeof *more);
    if (!more)
        return ERR_NO_MEMORY;
    stream->used = more;
    stream->used[stream->used_count++] = interface;
    return 0;
}

/* Makes the map for a frame. Frames of a stream mostly have the same table: then it stays. */
static int map_interfaces(struct reader *reader, struct reader_stream *stream,
                          const struct segment_frame *frame)
{
    const struct frame_info *info = &frame->info;
    const uint8_t *table = frame->bytes + sizeof(struct frame_header) +
                           info->blocks * sizeof(struct frame_block) +
                           info->entries * sizeof(struct frame_entry);
    if (info->interface_bytes == 0 || (info->interface_bytes == stream->table_bytes &&
                                       memcmp(table, stream->table, info->interface_bytes) == 0))
        return 0; /* with none at all, the cursor refuses every packet */
    uint8_t *copy = realloc(stream->table, info->interface_bytes);
    if (!copy)
        return ERR_NO_MEMORY;
    stream->table = copy;
    stream->table_bytes = 0; /* until the map is whole */
    for (uint32_t i = 0; i < info->interfaces; i++) {
        struct interface_description description;
        int result = frame_interface(frame->bytes, info, i, &description);
        if (!result)
            result = number_interface(reader, &description, &stream->map[i]);
        if (!result)
            result = note_used(stream, stream->map[i]);
        if (result)
            return result;
    }
    memcpy(copy, table, info->interface_bytes);
    stream->table_bytes = info->interface_bytes;
    return 0;
}

/* ---- numbers and gaps --------------------------------------------------------------------------
 */

static bool in_range(const struct reader *reader, int64_t first_ns, int64_t last_ns)
{
    return last_ns >= reader->options.from_ns &&
           (first_ns < reader->options.to_ns || reader->options.to_ns == INT64_MAX);
}

/* "eth0, eth1": a stream counts its interfaces' drops together. What is too long is cut. */
static void name_interfaces(const struct reader *reader, const struct reader_stream *stream,
                            char *text, size_t size)
{
    size_t at = 0;
    for (uint32_t i = 0; i < stream->used_count && at + 1 < size; i++) {
        int more = snprintf(text + at, size - at, "%s%s", i > 0 ? ", " : "",
                            reader->interface[stream->used[i]].name);
        at += more > 0 ? (size_t)more : 0;
    }
}

static void tell_gap(struct reader *reader, const struct reader_stream *stream, uint32_t reason,
                     uint64_t packets, int64_t from_ns, int64_t to_ns)
{
    int64_t low = from_ns < to_ns ? from_ns : to_ns, high = from_ns < to_ns ? to_ns : from_ns;
    if (!in_range(reader, low, high))
        return;
    struct worker_gap gap = {.from_ns = low, .to_ns = high, .packets = packets, .reason = reason};
    if (reason == WORKER_GAP_DROPPED)
        name_interfaces(reader, stream, gap.interface, sizeof gap.interface);
    reader->options.gap(reader->options.context, &gap);
}

/* Where numbering begins: at the stream's first segment that says where. */
static void begin_numbers(struct reader_stream *stream, uint64_t first)
{
    if (stream->numbered)
        return;
    stream->numbered = true;
    stream->next_packet = first;
    for (uint32_t i = 0; i <= stream->current && i < stream->segments; i++) {
        const struct worker_segment *segment = stream->segment[i];
        if (segment->packets > 0 && segment->first_packet < stream->next_packet) {
            stream->next_packet = segment->first_packet;
            stream->last_ns = segment->head_ns;
            stream->timed = true;
        }
    }
}

/* Packets [first, first + count) come now. Tells what is missing before them; returns how many of
 * them were seen. */
static uint64_t note_packets(struct reader *reader, struct reader_stream *stream, uint64_t first,
                             uint64_t count, int64_t head_ns)
{
    begin_numbers(stream, first);
    if (first > stream->next_packet) {
        tell_gap(reader, stream, stream->pending ? stream->pending : WORKER_GAP_LOST,
                 first - stream->next_packet, stream->timed ? stream->last_ns : head_ns, head_ns);
        stream->next_packet = first;
    }
    if (first + count > stream->next_packet)
        stream->pending = 0;
    uint64_t seen = stream->next_packet - first;
    return seen < count ? seen : count;
}

/* They all lie outside the range. */
static void skip_packets(struct reader *reader, struct reader_stream *stream, uint64_t first,
                         uint64_t count, int64_t head_ns, int64_t last_ns)
{
    if (count == 0 || note_packets(reader, stream, first, count, head_ns) == count)
        return;
    stream->next_packet = first + count;
    stream->last_ns = last_ns;
    stream->timed = true;
}

static uint64_t dropped(const struct account *account)
{
    return account->packets[ACCOUNT_dropped_queue] + account->packets[ACCOUNT_dropped_kernel] +
           account->packets[ACCOUNT_lost_disk] + account->packets[ACCOUNT_refused];
}

static uint64_t risen(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

/* A frame that overlaps the range: its account is the one at the range's end, so far. */
static void note_account(struct reader_stream *stream, const struct frame_info *info)
{
    if (!stream->counted) {
        if (segment_reader_account_before(&stream->now, &stream->before) == 0)
            stream->has_before = true;
        if (!stream->has_before) /* the stream's beginning; or nobody knows any more what was before
                                  */
            stream->before = info->first_packet == 0 ? (struct account){0} : info->account;
        stream->counted = true;
        stream->counted_from_ns = info->first_ns;
        stream->counted_to_ns = info->last_ns;
    }
    stream->after = info->account;
    if (info->first_ns < stream->counted_from_ns)
        stream->counted_from_ns = info->first_ns;
    if (info->last_ns > stream->counted_to_ns)
        stream->counted_to_ns = info->last_ns;
}

/* ---- one stream --------------------------------------------------------------------------------
 */

static uint32_t quota(const struct reader *reader)
{
    uint32_t fair = reader->shared.pieces_max / (reader->active ? reader->active : 1);
    return fair < 1 ? 1 : fair > PIECES_AHEAD_MAX ? PIECES_AHEAD_MAX : fair;
}

static uint32_t stash_quota(const struct reader *reader)
{
    uint64_t fair = reader->stash_max / reader->streams;
    return fair < STASH_BYTES_MIN     ? STASH_BYTES_MIN
           : fair > FRAME_BYTES_USUAL ? FRAME_BYTES_USUAL
                                      : (uint32_t)fair;
}

/* Nothing of it lies in the range, or nothing of it can be read. */
static bool is_outside(const struct reader *reader, const struct worker_segment *segment)
{
    return segment->places == 0 || (segment->state != SEGMENT_OPEN &&
                                    !in_range(reader, segment->first_ns, segment->last_ns));
}

/* Whether all of its packets lie in the range. */
static bool is_inside(const struct reader *reader, const struct worker_segment *segment)
{
    return segment->state != SEGMENT_OPEN && segment->first_ns >= reader->options.from_ns &&
           (segment->last_ns < reader->options.to_ns || reader->options.to_ns == INT64_MAX);
}

/* Whether segment `i` of a stream is the first, or the last one of the range. */
static bool is_first(const struct reader *reader, const struct reader_stream *stream, uint32_t i)
{
    while (i > 0 && is_outside(reader, stream->segment[i - 1]))
        i--;
    return i == 0;
}

static bool is_last(const struct reader *reader, const struct reader_stream *stream, uint32_t i)
{
    while (i + 1 < stream->segments && is_outside(reader, stream->segment[i + 1]))
        i++;
    return i + 1 == stream->segments;
}

/* Nothing of it need be read. The accounts at both ends of the range are wanted even where nothing matches. */
static bool passes_by(const struct reader *reader, const struct reader_stream *stream, uint32_t i)
{
    const struct worker_segment *segment = stream->segment[i];
    return is_outside(reader, segment) || (segment->nothing && !is_first(reader, stream, i) && !is_last(reader, stream, i));
}

/* Segment `i` of a stream. Where no other one before or behind it is of the range, it has the range's first or last account. */
static void open_segment(struct reader *reader, struct segment_reader *out,
                         const struct reader_stream *stream, uint32_t i)
{
    const struct worker_segment *segment = stream->segment[i];
    segment_reader_open(out, &reader->shared, segment,
                        (uint32_t)(segment->position % segment->places), -1);
    out->keep_first = is_first(reader, stream, i);
    out->keep_last = is_last(reader, stream, i);
}

static void close_next(struct reader_stream *stream)
{
    if (stream->next_open)
        segment_reader_close(&stream->next);
    if (stream->third_open)
        segment_reader_close(&stream->third);
    stream->next_open = stream->third_open = false;
    stream->next_at = 0;
}

/* The third one, if there is one, is the next. */
static void move_third(struct reader_stream *stream)
{
    stream->next_open = stream->third_open;
    if (!stream->third_open)
        return;
    stream->next = stream->third;
    stream->next_at = stream->third_at;
    stream->third_open = false;
}

static void close_current(struct reader *reader, struct reader_stream *stream)
{
    segment_index_forget(&reader->shared, stream->segment[stream->current]);
    if (stream->open) {
        segment_reader_close(&stream->now);
        stream->open = false;
        reader->active--;
        stream->indexes -= stream->indexes > 0;
    }
    /* What was erased of a segment that lies in the range only in part is counted as it is read (step_stream()). */
    if (is_inside(reader, stream->segment[stream->current]))
        reader->purged += stream->segment[stream->current]->purged;
    stream->current++;
    reader->segments_done++;
}

/* A filter's key indexes are read before they are needed: while one is decoded, the disk brings the next ones. */
static void indexes_ahead(struct reader *reader, struct reader_stream *stream)
{
    uint32_t most = INDEXES_AHEAD_MAX / (reader->streams ? reader->streams : 1);
    if (!reader->shared.narrowing && !reader->shared.sifter)
        return;
    if (stream->index_at < stream->current) {
        stream->index_at = stream->current;
        stream->indexes = 0;
    }
    for (; stream->index_at < stream->segments && stream->indexes <= most; stream->index_at++) {
        const struct worker_segment *segment = stream->segment[stream->index_at];
        if (passes_by(reader, stream, stream->index_at))
            continue;
        if (!segment_index_ahead(&reader->shared, segment, (uint32_t)(segment->position % segment->places)))
            return;
        stream->indexes++;
    }
}

/* Makes `now` read segment[current], passing by what need not be read. False: there is none. */
static bool open_current(struct reader *reader, struct reader_stream *stream)
{
    while (!stream->open) {
        if (stream->current >= stream->segments)
            return false;
        const struct worker_segment *segment = stream->segment[stream->current];
        if (passes_by(reader, stream, stream->current)) {
            if (stream->next_at <= stream->current)
                close_next(stream);
            reader->segments_by_runs += segment->nothing && !is_outside(reader, segment);
            if (segment->places > 0 || !in_range(reader, segment->first_ns, segment->last_ns))
                skip_packets(reader, stream, segment->first_packet, segment->packets,
                             segment->head_ns, segment->last_ns);
            close_current(reader, stream);
            continue;
        }
        if (stream->next_at != stream->current)
            close_next(stream);
        indexes_ahead(reader, stream);
        if (stream->next_open)
            stream->now = stream->next;
        else
            open_segment(reader, &stream->now, stream, stream->current);
        move_third(stream);
        stream->open = stream->fresh = true;
        reader->active++;
    }
    return true;
}

/* The first segment behind `at` that need not be passed by; where there is none, how many there are. */
static uint32_t behind(const struct reader *reader, const struct reader_stream *stream, uint32_t at)
{
    do
        at++;
    while (at < stream->segments && passes_by(reader, stream, at));
    return at;
}

/*
 * The key index of the segment behind the next one is asked what is wanted of it, before the disk is asked for what is wanted of the next one: so the answer
 * is there when that one's turn comes, and the disk is asked for more before it has done all that it was asked for.
 */
static int prepare_third(struct reader *reader, struct reader_stream *stream)
{
    if (stream->third_open || !reader->shared.narrowing || reader->streams > THIRDS_MAX ||
        stream->segment[stream->next_at]->state == SEGMENT_OPEN)
        return 0;
    uint32_t at = behind(reader, stream, stream->next_at);
    if (at == stream->segments)
        return 0;
    open_segment(reader, &stream->third, stream, at);
    stream->third_at = at;
    stream->third_open = true;
    return segment_reader_prepare(&stream->third);
}

/* Once all of the current segment is on its way, the next one begins to come. */
static int read_ahead(struct reader *reader, struct reader_stream *stream)
{
    uint32_t most = quota(reader);
    if (stream->now.pieces >= most || !segment_reader_all_ahead(&stream->now) ||
        stream->segment[stream->current]->state == SEGMENT_OPEN)
        return 0;
    if (!stream->next_open) {
        uint32_t at = stream->next_at > stream->current ? stream->next_at : behind(reader, stream, stream->current);
        stream->next_at = at;
        if (at == stream->segments)
            return 0;
        open_segment(reader, &stream->next, stream, at);
        stream->next_open = true;
        return segment_reader_prepare(&stream->next); /* what it asks for is there when the current one's packets have been gone through */
    }
    int result = prepare_third(reader, stream);
    return result < 0 ? result : segment_reader_ahead(&stream->next, most - stream->now.pieces);
}

/*
 * An open segment has been read as far as it goes: whether to leave it for the next one. That
 * another one of the stream has begun means that this one has ended; but its last frames, or the
 * segment that they were rescued to, may yet have to be told of. Numbers say whether something is
 * still to come.
 */
static bool may_leave(const struct reader *reader, struct reader_stream *stream)
{
    if (stream->segment[stream->current]->state != SEGMENT_OPEN)
        return true;
    if (stream->current + 1 >= stream->segments)
        return false;
    const struct worker_segment *next = stream->segment[stream->current + 1];
    if (!reader->options.follow || reader->hurry || stream->now.ended ||
        (next->packets > 0 && next->first_packet <= stream->next_packet))
        return true;
    return false;
}

/* Copies checked records out of a frame whose memory is only borrowed. */
static int fill_stash(struct reader *reader, struct reader_stream *stream)
{
    struct frame_cursor walk = stream->cursor;
    struct frame_packet packet;
    uint32_t entry_bytes = stream->cursor.entry_count * (uint32_t)sizeof(struct frame_entry);
    uint32_t most = stash_quota(reader), end = walk.at, left = walk.left;
    while (frame_cursor_next(&walk, &packet) > 0) {
        if (walk.at - stream->cursor.at > most && left < stream->cursor.left)
            break;
        end = walk.at;
        left = walk.left;
    }
    uint32_t bytes = end - stream->cursor.at;
    if (entry_bytes + bytes > stream->stash_room) {
        free(stream->stash);
        stream->stash_room = 0;
        stream->stash = malloc(entry_bytes + bytes);
        if (!stream->stash)
            return ERR_NO_MEMORY;
        stream->stash_room = entry_bytes + bytes;
    }
    memcpy(stream->stash, stream->cursor.entries, entry_bytes);
    memcpy(stream->stash + entry_bytes, stream->cursor.frame + stream->cursor.at, bytes);
    uint32_t taken = stream->cursor.left - left;
    stream->rest = left > 0 && taken > 0;
    stream->cursor.frame = stream->cursor.entries = stream->stash;
    stream->cursor.at = entry_bytes;
    stream->cursor.end = entry_bytes + bytes;
    /* Records that contradict the header end the walk here as they would in the frame. */
    stream->cursor.left = stream->rest ? taken : taken + left;
    return 0;
}

/* Sets the cursor on those records of the first stretch that were not yet seen. What lies between two stretches cannot match. */
static void enter_stretch(struct reader_stream *stream)
{
    const struct segment_stretch *stretch = stream->stretch;
    uint64_t first = stream->info.first_packet + stretch->before;
    uint32_t body_end = stream->info.header_bytes + stream->info.body_bytes;
    if (stream->next_packet < first)
        stream->next_packet = first;
    stream->cursor.at = stretch->at;
    stream->cursor.end = stretch->end < body_end ? stretch->end : body_end;
    stream->cursor.left = stretch->packets;
    struct frame_packet packet;
    for (uint64_t seen = stream->next_packet - first; seen > 0; seen--)
        if (frame_cursor_next(&stream->cursor, &packet) <= 0)
            break; /* all were seen, or the last one is cut off: the walk that follows comes to the same end */
}

/*
 * Whether it is enough to hand out what the sifter has found in a frame: all of it is new and in the range, and, where streams are merged, no earlier packet than the
 * ones before it comes in it. For where a stream stands among others is a matter of all its packets, whatever the filter says.
 */
static bool takes_sifted(const struct reader *reader, const struct reader_stream *stream, const struct segment_frame *frame, uint64_t seen)
{
    const struct frame_info *info = &frame->info;
    return frame->sifted && seen == 0 && info->first_ns >= reader->options.from_ns &&
           (info->last_ns < reader->options.to_ns || reader->options.to_ns == INT64_MAX) &&
           (reader->streams == 1 || (frame->sifted->ordered && (!stream->timed || info->first_ns >= stream->last_ns)));
}

/* Sets the cursor behind the packets of a frame that were seen before. 1; 0: there is nothing new
 * in it. */
static int enter_frame(struct reader *reader, struct reader_stream *stream,
                       const struct segment_frame *frame)
{
    const struct frame_info *info = &frame->info;
    if (info->kind != FRAME_DATA || info->packets == 0)
        return 0;
    uint64_t seen = note_packets(reader, stream, info->first_packet, info->packets, info->head_ns);
    if (in_range(reader, info->first_ns, info->last_ns))
        note_account(stream, info);
    if (seen == info->packets)
        return 0;
    if (frame->parts && frame->stretches == 0) {
        skip_packets(reader, stream, info->first_packet, info->packets, info->head_ns, info->last_ns);
        return 0;
    }
    int result = map_interfaces(reader, stream, frame);
    if (result)
        return result;
    stream->info = *info;
    stream->damaged = frame->good_end < info->frame_bytes;
    stream->silent = frame->silent;
    stream->rest = false;
    stream->parts = frame->parts;
    stream->sifted = takes_sifted(reader, stream, frame, seen) ? frame->sifted : NULL;
    frame_cursor_start(&stream->cursor, frame->bytes, info);
    if (stream->sifted) {
        stream->match = 0;
        reader->sifted += frame->sifted->judged;
        reader->sifted_ns = info->head_ns;
        stream->walking = true;
        return 1;
    }
    if (frame->parts) {
        stream->stretch = frame->stretch;
        stream->stretches = frame->stretches;
        enter_stretch(stream);
        stream->walking = true;
        return 1;
    }
    if (stream->cursor.end > frame->good_end)
        stream->cursor.end = frame->good_end;
    struct frame_packet packet;
    while (seen-- > 0)
        if (frame_cursor_next(&stream->cursor, &packet) <= 0)
            break; /* the walk that follows ends at once, too, and says so */
    if (frame->borrowed) {
        result = fill_stash(reader, stream);
        if (result)
            return result;
    }
    stream->walking = true;
    return 1;
}

/* Goes on to the next frame with new packets. 1; 0: there is nothing more for now. */
static int load(struct reader *reader, struct reader_stream *stream)
{
    for (;;) {
        if (!open_current(reader, stream))
            return 0;
        int result = reader->options.tick ? reader->options.tick(reader->options.context) : 0;
        if (result)
            return result;
        /* While the disk reads what is wanted of this segment, the key index of the next one says what is wanted of that. */
        result = stream->now.pieces > 0 && (stream->fresh || !stream->next_open) ? read_ahead(reader, stream) : 0;
        stream->fresh = false;
        if (result < 0)
            return result;
        struct segment_frame frame;
        int step = segment_reader_next(&stream->now, quota(reader), &frame);
        switch (step) {
        case SEGMENT_STEP_FRAME:
            result = enter_frame(reader, stream, &frame);
            if (result < 0)
                return result;
            step = read_ahead(reader, stream);
            if (step < 0 || result > 0)
                return step < 0 ? step : 1;
            break;
        case SEGMENT_STEP_SKIPPED:
            skip_packets(reader, stream, frame.info.first_packet, frame.info.packets,
                         frame.info.head_ns, frame.info.last_ns);
            if (!stream->now.pruned && !stream->counted) {
                stream->has_before = true;
                stream->before = frame.info.account;
            }
            break;
        case SEGMENT_STEP_DAMAGED:
            stream->pending = WORKER_GAP_DAMAGED;
            break;
        case SEGMENT_STEP_SILENT:
            stream->pending = WORKER_GAP_SILENT;
            break;
        case SEGMENT_STEP_OVERTAKEN:
            stream->pending = WORKER_GAP_OVERWRITTEN;
            break;
        case SEGMENT_STEP_END:
            if (!may_leave(reader, stream))
                return 0;
            close_current(reader, stream);
            continue;
        default:
            return step;
        }
        segment_reader_advance(&stream->now);
    }
}

/* The records of a frame whose checksums are right make no sense: the recorder should know, nobody
 * can help. */
static int tell_records(struct reader *reader, struct reader_stream *stream)
{
    struct worker_bad bad = {
        .segment = stream->info.segment,
        .place = stream->now.place,
        .offset = stream->info.offset,
        .bytes = stream->info.frame_bytes,
        .reason = WORKER_BAD_RECORDS,
    };
    reader->shared.frames_bad++;
    int judgement = reader->options.judge(reader->options.context, &bad);
    return judgement < 0 ? judgement : 0;
}

/* The next record of the stretches. 1; 0: there are no more that can match; AS_WHOLE: the frame is to be read whole; or a negative code. */
static int next_in_stretches(struct reader *reader, struct reader_stream *stream)
{
    for (;;) {
        struct segment_stretch *stretch = stream->stretch;
        int result = stretch->wanted > 0 ? frame_cursor_next(&stream->cursor, &stream->head) : 0;
        if (result > 0)
            return result;
        if (result < 0 && stream->cursor.end < stream->info.header_bytes + stream->info.body_bytes) {
            result = segment_reader_extend(&stream->now, stretch);
            if (result <= 0)
                return result < 0 ? result : AS_WHOLE;
            uint32_t body_end = stream->info.header_bytes + stream->info.body_bytes;
            stream->cursor.end = stretch->end < body_end ? stretch->end : body_end;
            continue;
        }
        if (result < 0)
            return ERR_CORRUPT;
        if (--stream->stretches == 0)
            break;
        stream->stretch++;
        enter_stretch(stream);
    }
    skip_packets(reader, stream, stream->info.first_packet, stream->info.packets, stream->info.head_ns, stream->info.last_ns);
    return 0;
}

/* Matches lie apart, and another core has had them last: each would be waited for if it were not known beforehand which comes next. */
static void fetch_ahead(const struct reader_stream *stream)
{
    const uint32_t ahead = stream->match + MATCHES_AHEAD;
    if (ahead >= stream->sifted->matches)
        return;
    const uint8_t *record = stream->sifted->bytes + SIFTED_AT(stream->sifted->match[ahead]);
    for (uint32_t line = 0; line < MATCH_LINES; line++) /* it may reach beyond the frame: nothing is read */
        __builtin_prefetch(record + line * 64);
}

/* The next packet that the sifter has found. 1; 0: there are no more in the frame; ERR_CORRUPT. */
static int next_sifted(struct reader *reader, struct reader_stream *stream)
{
    if (stream->match == stream->sifted->matches) {
        skip_packets(reader, stream, stream->info.first_packet, stream->info.packets, stream->info.head_ns, stream->info.last_ns);
        return 0;
    }
    uint32_t match = stream->sifted->match[stream->match++];
    fetch_ahead(stream);
    stream->next_packet = stream->info.first_packet + SIFTED_PACKET(match); /* those before it do not match */
    stream->cursor.at = SIFTED_AT(match);
    stream->cursor.left = 1;
    return frame_cursor_next(&stream->cursor, &stream->head);
}

/* Makes the stream's next packet in the range its head. 1; 0: there is nothing more for now. */
static int step_stream(struct reader *reader, struct reader_stream *stream)
{
    for (;;) {
        while (stream->walking) {
            int result = stream->sifted  ? next_sifted(reader, stream)
                         : stream->parts ? next_in_stretches(reader, stream)
                                         : frame_cursor_next(&stream->cursor, &stream->head);
            if (result > 0 && result != AS_WHOLE) {
                int64_t time_ns = stream->head.packet.time_ns;
                stream->next_packet++;
                stream->last_ns = time_ns;
                stream->timed = true;
                if (time_ns < reader->options.from_ns ||
                    (time_ns >= reader->options.to_ns && reader->options.to_ns != INT64_MAX))
                    continue;
                if (stream->head.purged) {
                    reader->purged += !is_inside(reader, stream->segment[stream->current]);
                    continue;
                }
                stream->has_head = true;
                stream->key_ns = time_ns;
                stream->key_position = stream->info.position;
                return 1;
            }
            stream->walking = false;
            if (result == AS_WHOLE)
                continue;
            if (result < 0 && result != ERR_CORRUPT)
                return result;
            if (result < 0) {
                stream->pending = stream->silent ? WORKER_GAP_SILENT : WORKER_GAP_DAMAGED;
                result = stream->damaged ? 0 : tell_records(reader, stream);
                if (result)
                    return result;
            }
            if (!stream->rest)
                segment_reader_advance(&stream->now);
        }
        int result = load(reader, stream);
        if (result <= 0)
            return result;
    }
}

/* ---- segments ----------------------------------------------------------------------------------
 */

int reader_open(const struct reader_options *options, struct reader **out)
{
    *out = NULL;
    struct reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return ERR_NO_MEMORY;
    reader->options = *options;
    reader->shared.disk = options->disk;
    reader->shared.disks = options->disks;
    reader->shared.ring = options->ring;
    reader->shared.from_ns = options->from_ns;
    reader->shared.to_ns = options->to_ns;
    reader->shared.narrowing = options->narrowing;
    reader->shared.sifter = options->sifter;
    reader->shared.truth_of = options->truth_of;
    reader->shared.verdict_seed = options->verdict_seed;
    reader->shared.judge = options->judge;
    reader->shared.may_read = options->may_read;
    reader->shared.is_gone = options->is_gone;
    reader->shared.context = options->context;
    reader->shared.pool = options->pool;
    reader->stash_max = options->memory_max / 4;
    int result = segment_readers_open(&reader->shared, options->memory_max - reader->stash_max);
    if (result) {
        free(reader);
        return result;
    }
    *out = reader;
    return 0;
}

static bool valid(const struct reader *reader, const struct worker_segment *segment)
{
    if (segment->places > COPIES_MAX || segment->data_end % PAGE_BYTES != 0 ||
        segment->index_offset % PAGE_BYTES != 0 || segment->index_bytes % PAGE_BYTES != 0 ||
        segment->first_packet + segment->packets < segment->packets)
        return false;
    for (uint32_t i = 0; i < segment->places; i++) {
        if (segment->place[i].disk >= reader->options.disks)
            return false;
        const struct disk_geometry *geometry =
            &reader->options.disk[segment->place[i].disk]->geometry;
        if (segment->place[i].slot >= geometry->slot_count ||
            segment->data_end > geometry->slot_bytes ||
            segment->index_offset > geometry->slot_bytes ||
            segment->index_bytes > geometry->slot_bytes - segment->index_offset)
            return false;
    }
    return true;
}

/* Segments come ordered by stream mostly: the last one added to is looked at first. */
static struct reader_stream *find_stream(struct reader *reader,
                                         const struct worker_segment *segment)
{
    for (uint32_t i = reader->streams; i-- > 0;) {
        struct reader_stream *stream = reader->stream[i];
        if (stream->number == segment->stream && identity_equal(&stream->run, &segment->run))
            return stream;
    }
    return NULL;
}

static struct reader_stream *add_stream(struct reader *reader, const struct worker_segment *segment)
{
    if ((reader->streams & (reader->streams - 1)) == 0) {
        uint32_t room = reader->streams == 0 ? 1 : 2 * reader->streams;
        struct reader_stream **streams = realloc(reader->stream, room * sizeof(void *));
        if (!streams)
            return NULL;
        reader->stream = streams;
        struct reader_stream **heap = realloc(reader->heap, room * sizeof(void *));
        if (!heap)
            return NULL;
        reader->heap = heap;
    }
    struct reader_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->run = segment->run;
    stream->number = segment->stream;
    stream->order = reader->streams;
    stream->heap_at = NOT_IN_HEAP;
    reader->stream[reader->streams++] = stream;
    return stream;
}

/* By identity. An empty entry, where it would go, if the reader does not know it. */
static struct worker_segment **known_entry(const struct reader *reader,
                                           const struct identity *segment)
{
    uint32_t at;
    memcpy(&at, segment->byte, sizeof at); /* random bits */
    for (at &= reader->known_room - 1; reader->known[at]; at = (at + 1) & (reader->known_room - 1))
        if (identity_equal(&reader->known[at]->segment, segment))
            break;
    return &reader->known[at];
}

/* Makes room for one more in the table: at most half of it is in use. */
static int grow_known(struct reader *reader)
{
    if (2 * reader->segments_total < reader->known_room)
        return 0;
    struct worker_segment **old = reader->known;
    uint32_t old_room = reader->known_room, room = old_room == 0 ? 64 : 2 * old_room;
    struct worker_segment **table = calloc(room, sizeof(void *));
    if (!table)
        return ERR_NO_MEMORY;
    reader->known = table;
    reader->known_room = room;
    for (uint32_t i = 0; i < old_room; i++)
        if (old[i])
            *known_entry(reader, &old[i]->segment) = old[i];
    free(old);
    return 0;
}

/*
 * The order of a stream's segments is that of their packets' numbers, not their positions': what a
 * failing disk did not take was written to a rescue segment, later than what follows it. One
 * without packets is the one to be filled next.
 */
static bool precedes(const struct worker_segment *a, const struct worker_segment *b)
{
    uint64_t first_a = a->packets > 0 ? a->first_packet : UINT64_MAX;
    uint64_t first_b = b->packets > 0 ? b->first_packet : UINT64_MAX;
    return first_a != first_b ? first_a < first_b : a->position < b->position;
}

static int insert_segment(struct reader *reader, struct reader_stream *stream,
                          struct worker_segment *segment)
{
    if (stream->segments == stream->room) {
        uint32_t room = stream->room == 0 ? 4 : 2 * stream->room;
        struct worker_segment **more = realloc(stream->segment, room * sizeof(void *));
        if (!more)
            return ERR_NO_MEMORY;
        stream->segment = more;
        stream->room = room;
    }
    if (stream->open && stream->segment[stream->current]->packets == 0) {
        /* Nothing has come of it: whichever is first is read first. */
        close_next(stream);
        segment_reader_close(&stream->now);
        stream->open = false;
        reader->active--;
    }
    uint32_t at = stream->segments;
    while (at > 0 && precedes(segment, stream->segment[at - 1]))
        at--;
    if (at < stream->segments)
        close_next(stream); /* it may no longer be the next */
    memmove(stream->segment + at + 1, stream->segment + at,
            (stream->segments - at) * sizeof(void *));
    stream->segment[at] = segment;
    stream->segments++;
    if (at < stream->current || (at == stream->current && stream->open)) {
        stream->current++; /* too late: what follows it has been handed out */
        reader->segments_done++;
    }
    return 0;
}

/* More is known of a segment. It moves in the list if it now has a first packet. */
static int update_segment(struct reader *reader, struct reader_stream *stream,
                          struct worker_segment *known, const struct worker_segment *segment)
{
    bool moves = precedes(known, segment) || precedes(segment, known);
    uint32_t at = stream->segments;
    while (at > 0 && stream->segment[at - 1] != known)
        at--;
    assert(at > 0);
    at--;
    *known = *segment;
    if (moves && (at > stream->current || (at == stream->current && !stream->open))) {
        close_next(stream);
        stream->segments--;
        memmove(stream->segment + at, stream->segment + at + 1,
                (stream->segments - at) * sizeof(void *));
        return insert_segment(reader, stream, known);
    }
    if (stream->open)
        segment_reader_update(&stream->now, stream->segment[stream->current]);
    if (stream->next_open)
        segment_reader_update(&stream->next, stream->segment[stream->next_at]);
    if (stream->third_open)
        segment_reader_update(&stream->third, stream->segment[stream->third_at]);
    return 0;
}

static int add_segment(struct reader *reader, const struct worker_segment *segment)
{
    struct reader_stream *stream = find_stream(reader, segment);
    if (!stream)
        stream = add_stream(reader, segment);
    if (!stream || grow_known(reader))
        return ERR_NO_MEMORY;
    struct worker_segment **entry = known_entry(reader, &segment->segment);
    if (*entry &&
        ((*entry)->stream != segment->stream || !identity_equal(&(*entry)->run, &segment->run)))
        return ERR_INVALID; /* a segment does not change its stream */
    if (*entry)
        return update_segment(reader, stream, *entry, segment);
    struct worker_segment *copy = malloc(sizeof *copy);
    if (!copy)
        return ERR_NO_MEMORY;
    *copy = *segment;
    int result = insert_segment(reader, stream, copy);
    if (result) {
        free(copy);
        return result;
    }
    *entry = copy;
    reader->segments_total++;
    return 0;
}

int reader_add(struct reader *reader, const struct worker_segment *segments, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!valid(reader, &segments[i]))
            return ERR_INVALID;
    for (uint32_t i = 0; i < count; i++) {
        int result = add_segment(reader, &segments[i]);
        if (result)
            return result;
    }
    reader->added = true;
    return 0;
}

/* The smallest time that the next packet of a stream that waits can have. */
static void set_key(struct reader *reader, struct reader_stream *stream)
{
    stream->key_ns = INT64_MIN;
    stream->key_position = 0;
    if (stream->open || stream->current >= stream->segments)
        return;
    const struct worker_segment *segment = stream->segment[stream->current];
    int64_t head_ns = segment->head_ns, from_ns = reader->options.from_ns;
    stream->key_position = segment->position;
    if (segment->packets == 0)
        return;
    if (!in_range(reader, head_ns, head_ns) && segment->state != SEGMENT_OPEN)
        head_ns = segment->first_ns;
    stream->key_ns = head_ns > from_ns ? head_ns : from_ns;
}

/* Puts streams that may have packets into the heap, and those that wait where they belong now. */
static void add_to_heap(struct reader *reader)
{
    for (uint32_t i = 0; i < reader->streams; i++) {
        struct reader_stream *stream = reader->stream[i];
        if (!stream->open && stream->current >= stream->segments)
            continue;
        if (stream->heap_at == NOT_IN_HEAP)
            heap_put(reader, reader->heap_count++, stream);
        else if (stream->open || stream->has_head)
            continue;
        set_key(reader, stream);
    }
    for (uint32_t i = reader->heap_count / 2; i-- > 0;)
        heap_down(reader, i);
    reader->added = false;
}

bool reader_waits(const struct reader *reader)
{
    for (uint32_t i = 0; i < reader->streams; i++) {
        const struct reader_stream *stream = reader->stream[i];
        if (reader->options.follow && stream->open && stream->heap_at == NOT_IN_HEAP &&
            stream->current + 1 < stream->segments &&
            stream->segment[stream->current + 1]->packets > 0)
            return true;
    }
    return false;
}

void reader_hurry(struct reader *reader)
{
    reader->hurry = reader->added = true;
}

int reader_next(struct reader *reader, struct reader_packet *out)
{
    if (reader->last) { /* it is still the first: now its next packet decides where it stands */
        reader->last->has_head = false;
        reader->last = NULL;
    }
    if (reader->added)
        add_to_heap(reader);
    while (reader->heap_count > 0) {
        struct reader_stream *stream = reader->heap[0];
        if (!stream->has_head) {
            int result = step_stream(reader, stream);
            if (result < 0)
                return result;
            if (result == 0)
                heap_take_first(reader);
            else if (reader->heap_count > 1)
                heap_down(reader, 0);
            continue;
        }
        out->packet = &stream->head.packet;
        out->interface = stream->map[stream->head.packet.interface];
        out->rule = stream->head.rule;
        out->run = stream->info.run;
        out->stream = stream->info.stream;
        out->number = stream->next_packet - 1;
        out->verdicts = stream->now.verdicts;
        out->unsealed = stream->now.was_open;
        out->matches = stream->sifted != NULL;
        reader->last = stream;
        return 1;
    }
    reader->hurry = false;
    return 0;
}

void reader_matched(struct reader *reader)
{
    struct reader_stream *stream = reader->last;
    if (stream && stream->walking && !stream->sifted && stream->parts && stream->stretch->wanted > 0)
        stream->stretch->wanted--;
}

/* ---- the end -----------------------------------------------------------------------------------
 */

/* Numbers up to the end of the last segment that did not come. */
static void tell_end(struct reader *reader, struct reader_stream *stream)
{
    uint64_t end = 0;
    const struct worker_segment *last = NULL;
    for (uint32_t i = 0; i < stream->segments; i++) {
        const struct worker_segment *segment = stream->segment[i];
        if (segment->packets > 0 && segment->first_packet + segment->packets > end) {
            end = segment->first_packet + segment->packets;
            last = segment;
        }
    }
    if (!last)
        return;
    begin_numbers(stream, last->first_packet);
    if (end <= stream->next_packet)
        return;
    bool known = last->first_ns <= last->last_ns &&
                 last->last_ns != INT64_MAX; /* of an open one they need not be */
    int64_t to_ns = known ? last->last_ns : stream->timed ? stream->last_ns : last->head_ns;
    tell_gap(reader, stream, stream->pending ? stream->pending : WORKER_GAP_LOST,
             end - stream->next_packet, stream->timed ? stream->last_ns : last->head_ns, to_ns);
}

void reader_finish(struct reader *reader, bool complete)
{
    for (uint32_t i = 0; i < reader->streams; i++) {
        struct reader_stream *stream = reader->stream[i];
        if (complete)
            tell_end(reader, stream);
        if (!stream->counted)
            continue;
        uint64_t count = risen(dropped(&stream->before), dropped(&stream->after));
        if (count > 0)
            tell_gap(reader, stream, WORKER_GAP_DROPPED, count, stream->counted_from_ns,
                     stream->counted_to_ns);
    }
}

void reader_account(const struct reader *reader, uint32_t interface, uint64_t *seen,
                    uint64_t *drops)
{
    uint64_t all_seen = 0, all_drops = 0;
    bool known = false, alone = true; /* alone: in streams that have no other interface */
    *seen = *drops = READER_UNKNOWN;
    for (uint32_t i = 0; i < reader->streams; i++) {
        const struct reader_stream *stream = reader->stream[i];
        bool used = false;
        for (uint32_t j = 0; j < stream->used_count; j++)
            used = used || stream->used[j] == interface;
        if (!used || !stream->counted)
            continue;
        uint64_t more = risen(dropped(&stream->before), dropped(&stream->after));
        if (stream->used_count > 1 && more > 0)
            return;
        known = true;
        alone = alone && stream->used_count == 1;
        all_drops += more;
        all_seen +=
            risen(stream->before.packets[ACCOUNT_seen], stream->after.packets[ACCOUNT_seen]);
    }
    if (known)
        *drops = all_drops;
    if (known && alone)
        *seen = all_seen;
}

uint32_t reader_interfaces(const struct reader *reader)
{
    return reader->interfaces;
}

const struct interface_description *reader_interface(const struct reader *reader,
                                                     uint32_t interface)
{
    assert(interface < reader->interfaces);
    return &reader->interface[interface];
}

void reader_counters(const struct reader *reader, struct reader_counters *counters)
{
    *counters = (struct reader_counters){
        .segments_total = reader->segments_total,
        .segments_done = reader->segments_done,
        .bytes_read = reader->shared.bytes_read,
        .frames_checked = reader->shared.frames_checked,
        .frames_bad = reader->shared.frames_bad,
        .segments_by_runs = reader->segments_by_runs + reader->shared.segments_by_runs,
        .segments_narrowed = reader->shared.segments_narrowed,
        .segments_excluded = reader->shared.segments_excluded,
        .purged = reader->purged,
        .index_bytes = reader->shared.index_bytes,
        .blocks_wanted = reader->shared.blocks_wanted,
        .blocks_read = reader->shared.blocks_read,
        .indexes_bad = reader->shared.indexes_bad,
        .sifted = reader->sifted,
        .sifted_ns = reader->sifted_ns,
    };
}

void reader_close(struct reader **out)
{
    struct reader *reader = *out;
    if (!reader)
        return;
    for (uint32_t i = 0; i < reader->streams; i++) {
        struct reader_stream *stream = reader->stream[i];
        if (stream->open)
            segment_reader_close(&stream->now);
        close_next(stream);
        free(stream->segment);
        free(stream->stash);
        free(stream->table);
        free(stream->used);
        free(stream);
    }
    segment_readers_close(&reader->shared);
    for (uint32_t i = 0; i < reader->known_room; i++)
        free(reader->known[i]);
    free(reader->known);
    free(reader->stream);
    free(reader->heap);
    free(reader->interface);
    free(reader);
    *out = NULL;
}
