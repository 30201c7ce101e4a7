/*
 * stream.c - from packets to frames: the capture thread's half of the store.
 *
 * The happy path: stream_append() finds room in the frame being filled. When the frame is full it is finished (header,
 * checksums) and posted to the keeper, and a new buffer is taken from the pool. When the slot is full, the index and the seal follow, and the
 * next segment, prepared by the keeper beforehand, is taken.
 *
 * What can be missing is a buffer (disks behind) or a prepared segment: ERR_AGAIN, and nothing has happened. Sealing
 * needs buffers, too, and goes on where it stopped at the next call.
 *
 * When the keeper says that the segment has ended (a write failed), the frame in hand is finished and posted all the same, for the keeper
 * rescues it with the others, and the stream goes on in the next segment.
 */
#include "stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "flow_frames.h"
#include "indexer.h"
#include "segment_ledger.h"

#define INTERFACES_MAX 65535u
#define NOT_IN_TABLE UINT16_MAX
#define FRAME_ROOM_MIN (2 * PAGE_BYTES) /* a shorter rest of a slot is left */

struct settled {
    uint64_t packets, bytes, captured_bytes, cut;
};

struct stream_interface {
    struct interface_description description;
    struct account account;   /* the capture thread's */
    struct account published; /* a copy, under the lock; `stored` is what was taken */
    struct settled durable, lost; /* under the lock */
    uint16_t table_number;    /* in the open segment's table, or NOT_IN_TABLE */
    bool dirty;
};

struct stream {
    struct keeper *keeper;
    struct pool *pool;
    uint32_t number;
    struct stream_options options;

    /* the capture thread's */
    struct stream_interface *interface;
    uint32_t interfaces, interface_room;
    uint16_t *dirty; /* numbers of interfaces whose account changed since it was published */
    uint32_t dirty_count;
    struct account account; /* over all interfaces */
    struct segment_ledger *ledger; /* of the segment being filled, or sealed here */
    struct segment_ledger own;     /* that one, where there is no indexer */
    flow_keys_of *keys_of;
    struct flow_index *flows;      /* null: without a key index, or the indexer has it */
    struct indexer *indexer;       /* null: there is none */
    bool patient;                  /* waits for the indexer */
    bool indexed;                  /* the indexer has some frames of this segment, */
    bool unindexed;                /* and gets no more */
    uint32_t indexed_end;          /* of the last that it got */
    bool wants_indexer;            /* what was missing when ERR_AGAIN was said */
    struct frame_buffer *buffer;
    struct flow_note *note;        /* of the packets of the buffer, where that is held for the indexer, too; else null */
    struct frame_builder builder;
    uint64_t next_packet;
    /* Packets of one kind in a row: the entry that they share, and what is not yet in the accounts. */
    struct { uint32_t interface, rule; uint8_t direction, action, entry; bool valid; uint16_t share, link_type; } last;
    struct settled fresh;
    bool sealing;
    bool owes;         /* frames that the keeper was not woken for */
    bool sealing_here; /* and not handed over to the indexer */
    bool finishing;

    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct segment *lease[KEEPER_LEASES_MAX + 1];
    uint32_t leases;
    uint64_t frontier;
    uint64_t taken;          /* published next_packet */
    uint64_t flush_ticket, flush_served, flush_packet;
    bool lost_packets;
    bool dead;

    _Atomic uint64_t frontier_seen; /* the frontier, for the frame headers */
    atomic_bool flush_asked;
    atomic_bool seal_asked;

    /* the keeper's */
    struct stream_queue queue;
    struct stream *mailbox_next;
    atomic_bool posted;
};

static uint64_t now_ns(const struct stream *stream)
{
    const struct keeper_options *options = keeper_options(stream->keeper);
    return options->monotonic_ns(options->context);
}

static uint64_t window_ns(const struct stream *stream)
{
    return stream->options.flush_window_ns ? stream->options.flush_window_ns
                                           : keeper_options(stream->keeper)->flush_window_ns;
}

/* ---- opening ------------------------------------------------------------------------------------ */

static void attach(struct keeper *keeper, void *context)
{
    keeper_attach_stream(keeper, context);
}

/* Where the ring has a key index: in a recorder an indexer makes it, in the simulation the stream itself. */
static int open_ledgers(struct stream *stream)
{
    const struct keeper_options *options = keeper_options(stream->keeper);
    stream->ledger = &stream->own;
    stream->keys_of = options->keys_of;
    if (options->keys_of && stream->options.indexer) {
        int result = indexer_open(stream->keeper, stream, &stream->indexer);
        if (result == 0)
            stream->ledger = indexer_ledger(stream->indexer);
        return result;
    }
    int result = segment_ledger_open(&stream->own, options->slot_bytes);
    if (result == 0 && options->keys_of)
        result = flow_index_open(options->slot_bytes, &stream->flows);
    if (result == 0 && stream->flows && options->verdicts)
        flow_index_expect_verdicts(stream->flows);
    if (result != 0)
        segment_ledger_close(&stream->own);
    return result;
}

int stream_open(struct keeper *keeper, uint32_t number, const struct stream_options *options,
                struct stream **result)
{
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return ERR_NO_MEMORY;
    stream->keeper = keeper;
    stream->pool = keeper_options(keeper)->pool;
    stream->number = number;
    stream->options = *options;
    stream->patient = true;
    if (open_ledgers(stream) != 0) {
        free(stream);
        return ERR_NO_MEMORY;
    }
    pthread_mutex_init(&stream->lock, NULL);
    clock_condition_init(&stream->changed);
    keeper_call(keeper, attach, stream);
    *result = stream;
    return 0;
}

void stream_set_patient(struct stream *stream, bool patient)
{
    stream->patient = patient;
}

int stream_add_interface(struct stream *stream, const struct interface_description *description)
{
    if (stream->interfaces >= INTERFACES_MAX)
        return ERR_TOO_LARGE;
    pthread_mutex_lock(&stream->lock);
    if (stream->interfaces == stream->interface_room) {
        uint32_t room = stream->interface_room ? 2 * stream->interface_room : 4;
        struct stream_interface *grown = realloc(stream->interface, room * sizeof *grown);
        if (grown)
            stream->interface = grown;
        uint16_t *dirty = grown ? realloc(stream->dirty, room * sizeof *dirty) : NULL;
        if (!dirty) {
            pthread_mutex_unlock(&stream->lock);
            return ERR_NO_MEMORY;
        }
        stream->dirty = dirty;
        stream->interface_room = room;
    }
    stream->interface[stream->interfaces] =
        (struct stream_interface){.description = *description, .table_number = NOT_IN_TABLE};
    int number = (int)stream->interfaces++;
    pthread_mutex_unlock(&stream->lock);
    return number;
}

/* ---- counting ----------------------------------------------------------------------------------- */

static struct stream_interface *touch(struct stream *stream, uint32_t interface)
{
    struct stream_interface *one = &stream->interface[interface];
    if (!one->dirty) {
        one->dirty = true;
        stream->dirty[stream->dirty_count++] = (uint16_t)interface;
    }
    return one;
}

void stream_count(struct stream *stream, uint32_t interface, enum account_line line, uint64_t packets, uint64_t bytes)
{
    struct stream_interface *one = touch(stream, interface);
    one->account.packets[line] += packets;
    one->account.bytes[line] += bytes;
    stream->account.packets[line] += packets;
    stream->account.bytes[line] += bytes;
}

void stream_set_count(struct stream *stream, uint32_t interface, enum account_line line, uint64_t packets)
{
    struct stream_interface *one = touch(stream, interface);
    stream->account.packets[line] += packets - one->account.packets[line];
    one->account.packets[line] = packets;
}

static void account_stored(struct account *account, const struct settled *fresh)
{
    account->packets[ACCOUNT_stored] += fresh->packets;
    account->bytes[ACCOUNT_stored] += fresh->bytes;
    account->stored_bytes += fresh->captured_bytes;
    account->cut_packets += fresh->cut;
}

/* Brings the accounts up to date with what has been appended. */
static void fold_fresh(struct stream *stream)
{
    const struct settled *fresh = &stream->fresh;
    if (fresh->packets == 0)
        return;
    struct frame_share *share = &stream->buffer->share[stream->last.share];
    share->packets += (uint32_t)fresh->packets;
    share->bytes += fresh->bytes;
    share->captured_bytes += fresh->captured_bytes;
    share->cut += (uint32_t)fresh->cut;
    account_stored(&touch(stream, stream->last.interface)->account, fresh);
    account_stored(&stream->account, fresh);
    stream->fresh = (struct settled){0};
}

static void publish(struct stream *stream)
{
    fold_fresh(stream);
    pthread_mutex_lock(&stream->lock);
    for (uint32_t i = 0; i < stream->dirty_count; i++) {
        struct stream_interface *one = &stream->interface[stream->dirty[i]];
        one->published = one->account;
        one->dirty = false;
    }
    stream->dirty_count = 0;
    stream->taken = stream->next_packet;
    pthread_mutex_unlock(&stream->lock);
}

/* ---- frames ------------------------------------------------------------------------------------- */

/* Where the next frame goes. */
static uint32_t next_offset(const struct stream *stream)
{
    return stream->ledger->index.data_end;
}

/* What the key index of the packets so far may need at most. *growing: whether more packets will make it need more. */
static uint64_t flows_bound(const struct stream *stream, bool *growing)
{
    if (stream->indexer) {
        *growing = !stream->unindexed;
        return stream->indexed ? indexer_bound(stream->indexer, stream->indexed_end) : 0;
    }
    *growing = !flow_index_stopped(stream->flows);
    return flow_index_bound(stream->flows);
}

/*
 * What the key index of the packets so far may need at most, and how fast that grows with the data: so the slot is full when both meet, and a
 * flood of flows seals early. The next frame may still surprise; what then finds no room is not indexed.
 */
static uint32_t room_beside_flows(const struct stream *stream, uint32_t room)
{
    if ((!stream->flows && !stream->indexer) || stream->ledger->index.entries == 0)
        return room;
    bool growing;
    uint64_t bound = segment_index_flows_frames((uint32_t)flows_bound(stream, &growing)) + PAGE_BYTES;
    uint64_t data = next_offset(stream) > FRAME_BYTES_USUAL ? next_offset(stream) : FRAME_BYTES_USUAL;
    uint64_t growth = growing ? bound + bound / 4 : 0;
    return bound >= room ? 0 : (uint32_t)((room - bound) * data / (data + growth));
}

/* Bytes that the next frame may have, when the indexes will describe it, too. */
static uint32_t slot_room(const struct stream *stream)
{
    const struct segment_ledger *ledger = stream->ledger;
    /* One page more than the table needs now: a frame can add a few entries to it. */
    uint64_t taken = (uint64_t)next_offset(stream) + segment_index_room(ledger->index.entries + 1, ledger->table) +
                     PAGE_BYTES;
    return taken >= ledger->segment->slot_bytes
               ? 0
               : room_beside_flows(stream, (uint32_t)(ledger->segment->slot_bytes - taken));
}

/* Adds a finished frame to the key index, or hands it over to who does. */
static void frame_index(struct stream *stream, struct frame_buffer *buffer)
{
    if (!stream->flows && !stream->note)
        return;
    const struct segment_ledger *ledger = stream->ledger;
    uint32_t room = segment_index_flows_room(&ledger->index, ledger->table, ledger->segment->slot_bytes);
    if (stream->note) {
        stream->indexed_end = next_offset(stream);
        indexer_frame(stream->indexer, buffer, stream->note, !stream->indexed, room);
        stream->indexed = true;
        stream->note = NULL;
        return;
    }
    struct frame_info info;
    int parsed = frame_parse(buffer->bytes, buffer->length, &info);
    assert(parsed == 0); /* it was made a moment ago */
    flow_frame_add(stream->flows, keeper_options(stream->keeper)->keys_of, buffer->bytes, &info, NULL, 0, room);
}

static void frame_post(struct stream *stream, bool flush)
{
    publish(stream); /* before anything of it can be durable: the published account is never behind what is settled */
    struct segment_ledger *ledger = stream->ledger;
    struct frame_buffer *buffer = stream->buffer;
    struct frame_builder *builder = &stream->builder;
    struct frame_finish finish = {
        .kind = FRAME_DATA,
        .offset = next_offset(stream),
        .number = ledger->index.next_number,
        .first_packet = stream->next_packet - builder->packets,
        .frontier = atomic_load_explicit(&stream->frontier_seen, memory_order_relaxed),
        .account = &stream->account,
    };
    buffer->length = frame_builder_finish(builder, &ledger->segment->identity, ledger->table, &finish);
    buffer->kind = FRAME_DATA;
    buffer->flush = flush;
    buffer->offset = finish.offset;
    buffer->number = finish.number;
    buffer->packets = builder->packets;
    buffer->first_packet = finish.first_packet;
    buffer->captured_bytes = builder->captured_bytes;
    buffer->head_ns = builder->head_ns;
    buffer->first_ns = builder->first_ns;
    buffer->last_ns = builder->last_ns;
    segment_index_add(&ledger->index, buffer->offset, buffer->length, buffer->number, buffer->packets,
                      buffer->first_packet, buffer->captured_bytes, buffer->head_ns, buffer->first_ns,
                      buffer->last_ns);
    frame_index(stream, buffer);
    stream->buffer = NULL;
    stream->last.valid = false;
    ledger->frames_sent++;
    keeper_post_frame(stream->keeper, buffer, flush);
    stream->owes = !flush;
}

/* Gives back the buffer of a frame that has no packets. */
static void frame_drop(struct stream *stream)
{
    if (stream->note)
        indexer_let_go(stream->indexer, stream->buffer, stream->note);
    pool_give(stream->pool, stream->buffer);
    stream->note = NULL;
    stream->buffer = NULL;
    stream->last.valid = false;
}

/* Starts a frame of up to `capacity` bytes in a buffer of its own. */
static int frame_begin(struct stream *stream, uint32_t capacity, bool oversized)
{
    if (stream->indexer && indexer_wants_buffers(stream->indexer))
        return ERR_AGAIN; /* the last segment is sealed before this one gets on */
    struct frame_buffer *buffer =
        oversized ? pool_take_oversized(stream->pool, capacity) : pool_take(stream->pool);
    if (!buffer)
        return ERR_AGAIN;
    if (stream->indexer && !stream->unindexed) {
        stream->note = indexer_hold(stream->indexer, buffer);
        if (!stream->note && stream->patient && !oversized) {
            pool_give(stream->pool, buffer);
            stream->wants_indexer = true;
            return ERR_AGAIN;
        }
        stream->unindexed = !stream->note;
    }
    buffer->segment = stream->ledger->segment;
    buffer->stream = stream;
    buffer->due_ns = now_ns(stream) + window_ns(stream);
    stream->buffer = buffer;
    stream->last.valid = false;
    frame_builder_start(&stream->builder, buffer->bytes, capacity, stream->ledger->table);
    return 0;
}

/* ---- segments ----------------------------------------------------------------------------------- */

static int segment_begin(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    struct segment *segment = NULL;
    bool dead = stream->dead;
    if (stream->leases > 0) {
        segment = stream->lease[0];
        memmove(&stream->lease[0], &stream->lease[1], --stream->leases * sizeof stream->lease[0]);
    }
    pthread_mutex_unlock(&stream->lock);
    if (!segment)
        return dead ? ERR_IO : ERR_AGAIN;
    segment_ledger_begin(stream->ledger, segment, stream->next_packet);
    if (stream->flows)
        flow_index_clear(stream->flows);
    stream->indexed = stream->unindexed = false;
    for (uint32_t i = 0; i < stream->interfaces; i++)
        stream->interface[i].table_number = NOT_IN_TABLE;
    stream->last.valid = false;
    keeper_post_stream(stream->keeper, stream); /* time to prepare another one */
    return 0;
}

/* The stream is done with a segment that has no seal: it ended, or nothing was ever put into it. */
static void segment_leave(struct stream *stream)
{
    stream->sealing = stream->sealing_here = false;
    segment_ledger_leave(stream->ledger, stream->keeper, stream);
}

static void seal_begin(struct stream *stream, enum seal_reason reason)
{
    struct segment_ledger *ledger = stream->ledger;
    for (uint32_t i = 0; i < stream->interfaces; i++)
        if (stream->interface[i].table_number != NOT_IN_TABLE)
            ledger->interface_account[stream->interface[i].table_number] = stream->interface[i].account;
    ledger->account = stream->account;
    ledger->window_ns = window_ns(stream);
    segment_ledger_seal(ledger, keeper_options(stream->keeper), reason,
                        atomic_load_explicit(&stream->frontier_seen, memory_order_relaxed));
    if (stream->flows)
        segment_ledger_encode(ledger, stream->flows, keeper_options(stream->keeper)->verdicts);
    stream->sealing = true;
    stream->sealing_here = !stream->indexer;
}

/*
 * Hands the segment over to the indexer, which seals it. A stream that does not wait seals it itself, without a key index, where the indexer is
 * behind by some segments. Returns whether it has been handed over.
 */
static int seal_hand_over(struct stream *stream)
{
    struct segment_ledger *next = indexer_ledger(stream->indexer);
    if (next) {
        indexer_seal(stream->indexer, stream->ledger, stream->indexed);
        stream->ledger = next;
        stream->sealing = false;
        return 0;
    }
    stream->wants_indexer = true;
    if (stream->patient || stream->finishing)
        return ERR_AGAIN;
    stream->ledger->segment->coarse = true;
    stream->sealing_here = true;
    return ERR_AGAIN;
}

/* Writes the indexes and the seal, as far as there are buffers, or has them written. 0 when the segment is out of our hands. */
static int seal_go_on(struct stream *stream)
{
    stream->ledger->flush = stream->finishing;
    if (!stream->sealing_here) {
        int result = seal_hand_over(stream);
        if (!stream->sealing_here)
            return result;
    }
    int result = segment_ledger_write(stream->ledger, stream->keeper, stream);
    if (result == 0)
        stream->sealing = stream->sealing_here = false;
    return result;
}

/* ---- appending ----------------------------------------------------------------------------------- */

/* Whether this packet is of the same kind as the one before it in this frame. */
static inline bool like_the_last(const struct stream *stream, uint32_t interface, uint8_t direction, uint8_t action,
                                 uint32_t rule)
{
    return stream->last.valid && stream->last.interface == interface && stream->last.rule == rule &&
           stream->last.direction == direction && stream->last.action == action;
}

/*
 * The entry for a packet of this kind in the open frame; adds to the table what it does not have yet.
 * ERR_AGAIN: the frame's header has no room for the new entry; ERR_NO_SPACE: the segment's table is full.
 */
static int entry_for(struct stream *stream, uint32_t interface, uint8_t direction, uint8_t action, uint32_t rule)
{
    if (like_the_last(stream, interface, direction, action, rule))
        return stream->last.entry;
    fold_fresh(stream);
    struct stream_interface *one = &stream->interface[interface];
    if (one->table_number == NOT_IN_TABLE) {
        int number = frame_table_add_interface(stream->ledger->table, &one->description);
        if (number < 0)
            return number;
        one->table_number = (uint16_t)number;
    }
    int entry = frame_table_entry(stream->ledger->table, one->table_number, direction, action, rule);
    if (entry < 0)
        return entry;
    if (!frame_builder_take_table(&stream->builder, stream->ledger->table))
        return ERR_AGAIN;
    struct frame_buffer *buffer = stream->buffer;
    uint16_t share = 0;
    while (share < buffer->shares && buffer->share[share].interface != interface)
        share++;
    if (share == buffer->shares)
        buffer->share[buffer->shares++] = (struct frame_share){.interface = (uint16_t)interface};
    stream->last.valid = true;
    stream->last.interface = interface;
    stream->last.rule = rule;
    stream->last.direction = direction;
    stream->last.action = action;
    stream->last.entry = (uint8_t)entry;
    stream->last.share = share;
    stream->last.link_type = one->description.link_type;
    return entry;
}

/* Sees to it that a frame is open that `captured_bytes` more bytes fit. */
static int make_room(struct stream *stream, uint32_t captured_bytes)
{
    uint64_t slot_bytes = keeper_options(stream->keeper)->slot_bytes;
    for (;;) {
        if (stream->sealing) {
            int result = seal_go_on(stream);
            if (result != 0)
                return result;
        }
        if (stream->buffer) {
            if (frame_builder_fits(&stream->builder, captured_bytes))
                return 0;
            frame_post(stream, false);
        }
        if (stream->ledger->segment && atomic_load_explicit(&stream->ledger->segment->ended, memory_order_relaxed))
            segment_leave(stream);
        if (!stream->ledger->segment) {
            int result = segment_begin(stream);
            if (result != 0)
                return result;
        }
        uint32_t room = (uint32_t)round_down(slot_room(stream), PAGE_BYTES);
        uint32_t usual = room < FRAME_BYTES_USUAL ? room : FRAME_BYTES_USUAL;
        uint32_t needed = captured_bytes + (uint32_t)sizeof(struct packet_record);
        uint32_t header = usual ? frame_header_room(usual, stream->ledger->table) : 0;
        if (usual >= FRAME_ROOM_MIN && header + needed <= usual)
            return frame_begin(stream, usual, false);
        /* Longer than a usual frame, or than what is left of the slot. The header of a long frame is longer, too. */
        uint32_t whole = (uint32_t)round_up(header + needed + needed / BLOCK_BYTES * sizeof(struct frame_block) +
                                            PAGE_BYTES, PAGE_BYTES);
        if (whole > FRAME_BYTES_USUAL && whole <= room && whole <= FRAME_BYTES_MAX)
            return frame_begin(stream, whole, true);
        if (stream->ledger->index.entries == 0)
            return ERR_TOO_LARGE;
        if (whole > FRAME_BYTES_MAX || whole + (uint64_t)8 * PAGE_BYTES > slot_bytes)
            return ERR_TOO_LARGE;
        seal_begin(stream, SEAL_FULL);
    }
}

static inline __attribute__((always_inline)) void append(struct stream *stream, uint8_t entry, const struct packet *packet, uint32_t captured_bytes,
                          uint8_t action)
{
    struct frame_builder *builder = &stream->builder;
    uint32_t number = builder->packets, at = builder->at;
    frame_builder_add(builder, entry, packet, captured_bytes);
    if (stream->note && number < FLOW_NOTES_MAX)
        flow_note_put(&stream->note[number], stream->keys_of, stream->last.link_type, packet->bytes, captured_bytes, entry, at);
    stream->fresh.packets++;
    stream->fresh.bytes += packet->original_bytes;
    stream->fresh.captured_bytes += captured_bytes;
    stream->fresh.cut += action != 0;
    stream->next_packet++;
}

/* One that needs another frame, or an entry that was not the last one's. Apart, so that the others do not pay for its variables. */
static __attribute__((noinline)) int append_slowly(struct stream *stream, uint32_t interface, const struct packet *packet,
                                                   uint32_t captured_bytes, uint8_t action, uint32_t rule)
{
    for (;;) {
        int result = make_room(stream, captured_bytes);
        if (result != 0)
            return result;
        int entry = entry_for(stream, interface, packet->direction, action, rule);
        if (entry >= 0) {
            append(stream, (uint8_t)entry, packet, captured_bytes, action);
            return 0;
        }
        /* The table has grown beyond this frame's header, or is full: another frame, or another segment. */
        if (stream->builder.packets > 0) {
            frame_post(stream, false);
        } else {
            frame_drop(stream);
        }
        if (entry == ERR_NO_SPACE)
            seal_begin(stream, SEAL_TABLE);
    }
}

int stream_append(struct stream *stream, uint32_t interface, const struct packet *packet, uint32_t captured_bytes,
                  uint8_t action, uint32_t rule)
{
    assert(interface < stream->interfaces && captured_bytes <= packet->captured_bytes);
    if (!like_the_last(stream, interface, packet->direction, action, rule) || !frame_builder_fits(&stream->builder, captured_bytes))
        return append_slowly(stream, interface, packet, captured_bytes, action, rule);
    append(stream, stream->last.entry, packet, captured_bytes, action);
    return 0;
}

/* Somebody wants the segment closed before it is full. */
static void seal_early(struct stream *stream)
{
    struct segment_ledger *ledger = stream->ledger;
    if (stream->sealing || !ledger->segment || atomic_load(&ledger->segment->ended))
        return;
    if (stream->buffer && stream->builder.packets > 0)
        frame_post(stream, true);
    else if (stream->buffer)
        frame_drop(stream);
    if (ledger->index.entries > 0)
        seal_begin(stream, SEAL_CLOSED);
}

void stream_tick(struct stream *stream)
{
    bool asked = atomic_exchange(&stream->flush_asked, false);
    if (atomic_exchange(&stream->seal_asked, false))
        seal_early(stream);
    if (stream->sealing)
        (void)seal_go_on(stream); /* for want of a buffer it goes on at the next tick */
    if (stream->buffer && stream->builder.packets > 0 && (asked || now_ns(stream) >= stream->buffer->due_ns))
        frame_post(stream, true);
    publish(stream);
    if (asked) {
        stream_rest(stream);
        pthread_mutex_lock(&stream->lock);
        stream->flush_served = stream->flush_ticket;
        stream->flush_packet = stream->next_packet;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
    }
}

static void wait_changed(struct stream *stream, int timeout_ms)
{
    struct timespec until = clock_monotonic_in_ms(timeout_ms);
    pthread_cond_timedwait(&stream->changed, &stream->lock, &until);
}

bool stream_rest(struct stream *stream)
{
    bool owed = stream->owes;
    stream->owes = false;
    if (owed)
        keeper_nudge(stream->keeper);
    return owed;
}

bool stream_owes(const struct stream *stream)
{
    return stream->owes;
}

void stream_wait(struct stream *stream, int timeout_ms)
{
    stream_rest(stream);
    pthread_mutex_lock(&stream->lock);
    bool want_indexer = stream->wants_indexer;
    stream->wants_indexer = false;
    bool want_lease = !want_indexer && !stream->ledger->segment && stream->leases == 0 && !stream->dead;
    if (want_lease)
        wait_changed(stream, timeout_ms);
    pthread_mutex_unlock(&stream->lock);
    if (want_indexer)
        indexer_wait(stream->indexer, timeout_ms);
    else if (!want_lease)
        pool_wait(stream->pool, timeout_ms);
}

/* ---- closing ------------------------------------------------------------------------------------ */

int stream_finish(struct stream *stream)
{
    stream->finishing = true;
    stream_rest(stream);
    if (stream->buffer) {
        if (stream->builder.packets > 0)
            frame_post(stream, true);
        else
            frame_drop(stream);
    }
    struct segment_ledger *ledger = stream->ledger;
    if (ledger->segment && !stream->sealing) {
        if (ledger->index.entries == 0 || atomic_load(&ledger->segment->ended))
            segment_leave(stream);
        else
            seal_begin(stream, SEAL_CLOSED);
    }
    if (stream->sealing) {
        int result = seal_go_on(stream);
        if (result != 0)
            return result;
    }
    publish(stream);
    pthread_mutex_lock(&stream->lock);
    bool settled = stream->frontier == stream->next_packet;
    bool lost = stream->lost_packets;
    pthread_mutex_unlock(&stream->lock);
    return !settled ? ERR_AGAIN : lost ? ERR_IO : 0;
}

void stream_free(struct stream **slot)
{
    struct stream *stream = *slot;
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    indexer_close(&stream->indexer);
    flow_index_close(&stream->flows);
    segment_ledger_close(&stream->own);
    free(stream->dirty);
    free(stream->interface);
    free(stream);
    *slot = NULL;
}

struct detach {
    struct stream *stream;
    bool done;
};

/* Index, seal and unused leases may still be under way when the last packet is durable. */
static void detach(struct keeper *keeper, void *context)
{
    struct detach *detach = context;
    if (!keeper_stream_done(keeper, detach->stream))
        return;
    keeper_detach_stream(keeper, detach->stream);
    detach->done = true;
}

int stream_end(struct stream *stream, struct account *account, bool (*give_up)(void *context), void *context)
{
    int result;
    while ((result = stream_finish(stream)) == ERR_AGAIN) {
        if (give_up && give_up(context))
            return ERR_INTERRUPTED;
        stream_tick(stream); /* requests to flush are answered to the end */
        pthread_mutex_lock(&stream->lock);
        wait_changed(stream, 20);
        pthread_mutex_unlock(&stream->lock);
    }
    struct detach state = {.stream = stream};
    for (;;) {
        keeper_call(stream->keeper, detach, &state);
        if (state.done)
            break;
        stream_tick(stream);
        if (give_up && give_up(context))
            return ERR_INTERRUPTED;
        pthread_mutex_lock(&stream->lock);
        wait_changed(stream, 5);
        pthread_mutex_unlock(&stream->lock);
    }
    if (account)
        *account = stream->account;
    return result;
}

/* ---- any thread --------------------------------------------------------------------------------- */

uint64_t stream_frontier(struct stream *stream)
{
    return atomic_load(&stream->frontier_seen);
}

uint64_t stream_request_flush(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    uint64_t ticket = ++stream->flush_ticket;
    pthread_mutex_unlock(&stream->lock);
    atomic_store(&stream->flush_asked, true);
    if (stream->options.wake)
        stream->options.wake(stream->options.wake_context);
    return ticket;
}

void stream_request_seal(struct stream *stream)
{
    atomic_store(&stream->seal_asked, true);
    if (stream->options.wake)
        stream->options.wake(stream->options.wake_context);
}

bool stream_wait_flushed(struct stream *stream, uint64_t ticket, int timeout_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t end_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000 + timeout_ms;
    bool done = false, served = false;
    uint64_t packet = 0;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        if (!served && stream->flush_served >= ticket) {
            served = true;
            packet = stream->flush_packet;
        }
        done = served && stream->frontier >= packet;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t left = end_ms - (now.tv_sec * 1000 + now.tv_nsec / 1000000);
        if (done || left <= 0 || stream->dead)
            break;
        wait_changed(stream, left > 1000 ? 1000 : (int)left);
    }
    pthread_mutex_unlock(&stream->lock);
    return done;
}

void stream_interfaces(struct stream *stream, void (*each)(const struct stream_interface_state *state, void *context),
                       void *context)
{
    struct stream_interface_state state;
    pthread_mutex_lock(&stream->lock);
    for (uint32_t i = 0; i < stream->interfaces; i++) {
        const struct stream_interface *one = &stream->interface[i];
        state.description = one->description;
        state.account = one->published;
        struct account *account = &state.account;
        account->packets[ACCOUNT_stored] = one->durable.packets;
        account->bytes[ACCOUNT_stored] = one->durable.bytes;
        account->packets[ACCOUNT_lost_disk] += one->lost.packets;
        account->bytes[ACCOUNT_lost_disk] += one->lost.bytes;
        account->stored_bytes = one->durable.captured_bytes;
        account->cut_packets = one->durable.cut;
        /* What was taken and has come to no end yet: in a batch, in a buffer, or written and not flushed. */
        account->packets[ACCOUNT_in_flight] = 0;
        account->packets[ACCOUNT_in_flight] = account->packets[ACCOUNT_seen] - account_sum(account);
        each(&state, context);
    }
    pthread_mutex_unlock(&stream->lock);
}

uint64_t stream_next_packet(const struct stream *stream)
{
    return stream->next_packet;
}

uint32_t stream_number(const struct stream *stream)
{
    return stream->number;
}

/* ---- the keeper's part ---------------------------------------------------------------------------- */

struct stream_queue *stream_queue(struct stream *stream)
{
    return &stream->queue;
}

void stream_grant(struct stream *stream, struct segment *segment)
{
    pthread_mutex_lock(&stream->lock);
    assert(stream->leases < KEEPER_LEASES_MAX + 1);
    stream->lease[stream->leases++] = segment;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

uint32_t stream_leases(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    uint32_t leases = stream->leases;
    pthread_mutex_unlock(&stream->lock);
    return leases;
}

struct segment *stream_take_lease(struct stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    struct segment *segment = stream->leases > 0 ? stream->lease[--stream->leases] : NULL;
    pthread_mutex_unlock(&stream->lock);
    return segment;
}

static void share_add(struct settled *sum, const struct frame_share *share)
{
    sum->packets += share->packets;
    sum->bytes += share->bytes;
    sum->captured_bytes += share->captured_bytes;
    sum->cut += share->cut;
}

void stream_settled(struct stream *stream, const struct frame_buffer *buffer, bool lost)
{
    pthread_mutex_lock(&stream->lock);
    for (uint16_t i = 0; i < buffer->shares; i++) {
        struct stream_interface *one = &stream->interface[buffer->share[i].interface];
        share_add(lost ? &one->lost : &one->durable, &buffer->share[i]);
    }
    if (buffer->kind == FRAME_DATA) {
        stream->frontier = buffer->first_packet + buffer->packets;
        atomic_store_explicit(&stream->frontier_seen, stream->frontier, memory_order_relaxed);
        stream->lost_packets |= lost;
    }
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

void stream_set_dead(struct stream *stream, bool dead)
{
    pthread_mutex_lock(&stream->lock);
    stream->dead = dead;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

struct stream **stream_mailbox_next(struct stream *stream)
{
    return &stream->mailbox_next;
}

atomic_bool *stream_posted(struct stream *stream)
{
    return &stream->posted;
}
