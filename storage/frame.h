/*
 * frame.h - frames as bytes: checking and walking them, and building them.
 *
 * Pure functions on memory: no I/O, no allocation, no locks. Everything that is read from a disk goes
 * through frame_parse() and frame_check_blocks() before a byte of it is believed (promise P3).
 */
#ifndef STORAGE_FRAME_H
#define STORAGE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "disk_format.h"
#include "errors.h"
#include "packet.h"

/* ---- reading ----------------------------------------------------------------------------------- */

/* A checked header in this machine's byte order. Points to nothing. */
struct frame_info {
    enum frame_kind kind;
    uint32_t header_bytes;
    uint32_t frame_bytes;
    uint32_t offset;
    uint32_t number;
    struct identity ring;
    struct identity segment;
    struct identity run;
    uint64_t position;
    uint32_t revision;
    uint32_t data_revision;
    uint32_t stream;
    uint64_t first_packet;
    uint32_t packets;
    uint32_t body_bytes;
    uint64_t frontier;
    int64_t head_ns;
    int64_t first_ns;
    int64_t last_ns;
    uint16_t blocks;
    uint16_t entries;
    uint16_t interfaces;
    uint32_t interface_bytes;
    uint8_t cipher;
    struct account account;
};

/*
 * Checks the header at `bytes`, of which `available` can be read: magic, checksum, and that every length and count
 * fits every other, so that what follows may index by them. 0, or
 * ERR_AGAIN (the header is longer than `available`: info->header_bytes says how long; nothing else is set),
 * ERR_NOT_FOUND (no frame begins here), ERR_CORRUPT (one did, or claims to).
 */
int frame_parse(const uint8_t *bytes, uint32_t available, struct frame_info *info);

/* Whether the checksums of blocks [first, first + count) of the frame at `frame` are right. 0 or ERR_CORRUPT. */
int frame_check_blocks(const uint8_t *frame, const struct frame_info *info, uint32_t first, uint32_t count);

static inline uint32_t frame_block_count(const struct frame_info *info)
{
    return (info->frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
}

/* All blocks. */
static inline int frame_check(const uint8_t *frame, const struct frame_info *info)
{
    return frame_check_blocks(frame, info, 0, frame_block_count(info));
}

/* The i-th interface of the frame's table, i < info->interfaces. The frame has passed frame_parse(). */
int frame_interface(const uint8_t *frame, const struct frame_info *info, uint32_t i,
                    struct interface_description *description);

struct frame_packet {
    struct packet packet; /* `interface` is an index into the frame's interface table; bytes lie in the frame */
    uint32_t rule;
    uint8_t action;
    uint8_t entry;
    bool purged; /* it was erased: a packet of no bytes, of the frame's first interface, that is counted and handed to nobody */
};

/* Walks the packets of a frame whose blocks have been checked. */
struct frame_cursor {
    const uint8_t *frame;
    const uint8_t *entries;
    uint16_t entry_count;
    uint16_t interfaces;
    uint32_t at;
    uint32_t end;
    uint32_t left;
};

void frame_cursor_start(struct frame_cursor *cursor, const uint8_t *frame, const struct frame_info *info);

/* 1: *out is the next packet; 0: there are no more; ERR_CORRUPT: the records contradict the header. Inline: every packet that is read goes this way. */
static inline int frame_cursor_next(struct frame_cursor *cursor, struct frame_packet *out)
{
    if (cursor->left == 0)
        return 0;
    struct packet_record record;
    if (cursor->end - cursor->at < sizeof record)
        return ERR_CORRUPT;
    memcpy(&record, cursor->frame + cursor->at, sizeof record);
    uint32_t captured_and_entry = le32_get(record.captured_and_entry);
    uint32_t captured = captured_and_entry & PACKET_CAPTURED_MAX, number = captured_and_entry >> 24;
    if (captured > cursor->end - cursor->at - sizeof record)
        return ERR_CORRUPT;
    out->purged = number == FRAME_ENTRY_PURGED;
    if (out->purged && cursor->interfaces > 0) {
        out->packet = (struct packet){.bytes = cursor->frame + cursor->at + sizeof record,
                                      .time_ns = (int64_t)le64_get(record.time_ns)};
        out->rule = 0;
        out->action = 0;
        out->entry = 0;
        cursor->at += (uint32_t)sizeof record + captured;
        cursor->left--;
        return 1;
    }
    if (number >= cursor->entry_count)
        return ERR_CORRUPT;
    struct frame_entry entry;
    memcpy(&entry, cursor->entries + number * sizeof entry, sizeof entry);
    if (le16_get(entry.interface) >= cursor->interfaces)
        return ERR_CORRUPT;
    out->packet.bytes = cursor->frame + cursor->at + sizeof record;
    out->packet.captured_bytes = captured;
    out->packet.original_bytes = le32_get(record.original_bytes);
    out->packet.time_ns = (int64_t)le64_get(record.time_ns);
    out->packet.interface = le16_get(entry.interface);
    out->packet.direction = entry.direction;
    out->rule = le32_get(entry.rule);
    out->action = entry.action;
    out->entry = (uint8_t)number;
    cursor->at += (uint32_t)sizeof record + captured;
    cursor->left--;
    return 1;
}

/* The body of an OPEN, INDEX or SEAL frame, which is at least `bytes` long; null if it is not. */
const void *frame_body(const uint8_t *frame, const struct frame_info *info, uint32_t bytes);

void frame_account_get(const struct frame_account *disk, struct account *account);
void frame_account_put(struct frame_account *disk, const struct account *account);

/* ---- building ---------------------------------------------------------------------------------- */

/* What all frames of a segment have in common. */
struct frame_identity {
    struct identity ring;
    struct identity segment;
    struct identity run;
    uint64_t position;
    uint32_t revision;
    uint32_t data_revision;
    uint32_t stream;
};

/* Whose frame it is. */
static inline struct frame_identity frame_identity_of(const struct frame_info *info)
{
    return (struct frame_identity){
        .ring = info->ring,
        .segment = info->segment,
        .run = info->run,
        .position = info->position,
        .revision = info->revision,
        .data_revision = info->data_revision,
        .stream = info->stream,
    };
}

/*
 * The interfaces and entries in use in a segment; numbers are stable within it. About 140 KiB, made once a stream.
 */
struct frame_table {
    uint16_t entries;
    uint16_t interfaces;
    uint32_t interface_bytes;
    struct frame_entry entry[FRAME_ENTRIES_MAX];
    uint8_t interface[FRAME_ENTRIES_MAX * (sizeof(struct frame_interface) + 2 * 256)];
};

void frame_table_clear(struct frame_table *table);

/* Adds an interface (no search for an equal one); returns its number, or ERR_NO_SPACE when the table is full. */
int frame_table_add_interface(struct frame_table *table, const struct interface_description *description);

/* Finds or adds an entry; returns its number 0..254, or ERR_NO_SPACE. */
int frame_table_entry(struct frame_table *table, uint16_t interface, uint8_t direction, uint8_t action,
                      uint32_t rule);

/* A frame being filled in `buffer`. One thread. */
struct frame_builder {
    uint8_t *buffer;
    uint32_t capacity;      /* bytes that the frame may grow to, multiple of PAGE_BYTES */
    uint32_t header_bytes;
    uint32_t at;            /* end of the records */
    uint32_t checked;       /* blocks whose checksum stands in the table already */
    uint16_t blocks;
    uint16_t entry_room;    /* what the header has room for */
    uint32_t interface_room;
    uint16_t entries;       /* of the segment's table, those that this frame will have: the table may have grown beyond it */
    uint16_t interfaces;
    uint32_t interface_bytes;
    uint32_t packets;
    uint64_t captured_bytes;
    int64_t head_ns;
    int64_t first_ns;
    int64_t last_ns;
};

/* Starts a frame with room for the table as it is and a little more. `capacity` must hold the header and a record. */
void frame_builder_start(struct frame_builder *builder, uint8_t *buffer, uint32_t capacity,
                         const struct frame_table *table);

/* Bytes of a header for this table in a frame of this capacity. */
uint32_t frame_header_room(uint32_t capacity, const struct frame_table *table);

static inline bool frame_builder_fits(const struct frame_builder *builder, uint32_t captured_bytes)
{
    return captured_bytes + (uint32_t)sizeof(struct packet_record) <= builder->capacity - builder->at;
}

/*
 * Takes over what was added to the table since the start. False: the header has no room for it; the frame can be
 * finished, but packets with the new entries have to go into another one.
 */
static inline bool frame_builder_take_table(struct frame_builder *builder, const struct frame_table *table)
{
    if (table->entries > builder->entry_room || table->interface_bytes > builder->interface_room)
        return false;
    builder->entries = table->entries;
    builder->interfaces = table->interfaces;
    builder->interface_bytes = table->interface_bytes;
    return true;
}

/* Puts the checksums of the blocks that have become full into the table. */
void frame_builder_check_blocks(struct frame_builder *builder);

/* Appends one packet, cut to `captured_bytes`; the caller has asked frame_builder_fits(). Inline: the packet path. */
static inline void frame_builder_add(struct frame_builder *builder, uint8_t entry, const struct packet *packet,
                                     uint32_t captured_bytes)
{
    struct packet_record record = {
        .time_ns = le64_of((uint64_t)packet->time_ns),
        .original_bytes = le32_of(packet->original_bytes),
        .captured_and_entry = le32_of(captured_bytes | (uint32_t)entry << 24),
    };
    uint8_t *at = builder->buffer + builder->at;
    memcpy(at, &record, sizeof record);
    memcpy(at + sizeof record, packet->bytes, captured_bytes);
    builder->at += (uint32_t)sizeof record + captured_bytes;
    if (builder->packets++ == 0)
        builder->head_ns = packet->time_ns;
    if (packet->time_ns < builder->first_ns)
        builder->first_ns = packet->time_ns;
    if (packet->time_ns > builder->last_ns)
        builder->last_ns = packet->time_ns;
    builder->captured_bytes += captured_bytes;
    if (builder->at >= (builder->checked + 1) * BLOCK_BYTES)
        frame_builder_check_blocks(builder);
}

struct frame_finish {
    enum frame_kind kind;
    uint32_t offset;
    uint32_t number;
    uint64_t first_packet;
    uint64_t frontier;
    const struct account *account;
    const uint8_t *salt; /* 32 bytes or null */
};

/*
 * Pads to a page, completes block table and header. Returns the frame's length in bytes. The header's offset, number
 * and identity may be changed afterwards by frame_relabel() without touching a block.
 */
uint32_t frame_builder_finish(struct frame_builder *builder, const struct frame_identity *identity,
                              const struct frame_table *table, const struct frame_finish *finish);

/* Where the body of a plain frame of this length begins. */
uint32_t frame_plain_header(uint32_t frame_bytes, const struct frame_table *table /* or null */);

/*
 * Builds a frame of exactly `frame_bytes` whose body is given as it is (OPEN, INDEX, SEAL). The body is copied from
 * `body`, or, where that is null, already lies at frame_plain_header(). Returns frame_bytes, or ERR_TOO_LARGE.
 */
int frame_build_plain(uint8_t *buffer, uint32_t frame_bytes, const struct frame_identity *identity,
                      const struct frame_table *table /* or null */, const struct frame_finish *finish,
                      const void *body, uint32_t body_bytes);

/* Gives a finished frame to another segment or place: rewrites identity, offset, number and header checksum only. */
void frame_relabel(uint8_t *frame, const struct frame_identity *identity, uint32_t offset, uint32_t number);

/*
 * Erases packets of a data frame that has been checked: those whose number and time `is_gone` says. What is left of one is its record, which says that
 * it was purged; the others stay where they are, byte for byte. Times, block table and header are made anew. *packets, *bytes grow by what
 * was erased. ERR_CORRUPT: the records contradict the header, and nothing has been changed.
 */
int frame_purge(uint8_t *frame, const struct frame_info *info,
                bool (*is_gone)(void *context, uint64_t number, int64_t time_ns), void *context, uint64_t *packets,
                uint64_t *bytes);

#endif
