/*
 * segment_index.c - where the frames of a segment are, the frames of its key index, and the page that closes it.
 *
 * All of it lies directly before the slot's end, so that without a key index it is one write in the usual case. Parts of at most
 * PART_FRAMES entries keep every INDEX frame within one buffer, whatever the slot's size; FLOWS frames are a page shorter than a
 * buffer, so that the seal has room behind the last.
 */
#include "segment_index.h"

#include <assert.h>
#include <stdlib.h>

#define PART_FRAMES 2048u /* 96 KiB of entries in an INDEX frame */

int segment_index_open(struct segment_index *index, uint64_t slot_bytes)
{
    *index = (struct segment_index){.room = (uint32_t)(slot_bytes / PAGE_BYTES)};
    index->entry = malloc(index->room * sizeof *index->entry);
    if (!index->entry)
        return ERR_NO_MEMORY;
    segment_index_clear(index, 0);
    return 0;
}

void segment_index_close(struct segment_index *index)
{
    free(index->entry);
    index->entry = NULL;
}

void segment_index_clear(struct segment_index *index, uint64_t first_packet)
{
    index->entries = 0;
    index->packets = index->captured_bytes = index->missing = index->purged = 0;
    index->first_packet = first_packet;
    index->head_ns = 0;
    index->first_ns = INT64_MAX;
    index->last_ns = INT64_MIN;
    index->data_end = PAGE_BYTES; /* behind the OPEN frame */
    index->next_number = 1;
}

void segment_index_add(struct segment_index *index, uint32_t offset, uint32_t frame_bytes, uint32_t number,
                       uint32_t packets, uint64_t first_packet, uint64_t captured_bytes, int64_t head_ns,
                       int64_t first_ns, int64_t last_ns)
{
    assert(index->entries < index->room);
    index->entry[index->entries++] = (struct index_frame_entry){
        .offset = le32_of(offset),
        .frame_bytes = le32_of(frame_bytes),
        .number = le32_of(number),
        .packets = le32_of(packets),
        .first_packet = le64_of(first_packet),
        .head_ns = le64_of((uint64_t)head_ns),
        .first_ns = le64_of((uint64_t)first_ns),
        .last_ns = le64_of((uint64_t)last_ns),
    };
    if (packets > 0) {
        if (index->packets == 0) {
            index->head_ns = head_ns;
            index->first_packet = first_packet;
        }
        if (first_ns < index->first_ns)
            index->first_ns = first_ns;
        if (last_ns > index->last_ns)
            index->last_ns = last_ns;
    }
    index->packets += packets;
    index->captured_bytes += captured_bytes;
    index->data_end = offset + frame_bytes;
    index->next_number = number + 1;
}

/* The interfaces' accounts go into part 0; with very many interfaces that part holds fewer frames. */
static uint32_t part_header(const struct frame_table *table)
{
    return (uint32_t)(sizeof(struct frame_header) + FRAME_BLOCKS_USUAL * sizeof(struct frame_block) +
                      table->entries * sizeof(struct frame_entry) + table->interface_bytes + 8 +
                      sizeof(struct index_body));
}

static uint32_t part_bytes(uint32_t frames, uint32_t accounts, const struct frame_table *table)
{
    return (uint32_t)round_up(part_header(table) + frames * sizeof(struct index_frame_entry) +
                                  accounts * sizeof(struct index_account),
                              PAGE_BYTES);
}

static uint32_t parts_of(uint32_t frames)
{
    return frames == 0 ? 1 : (frames + PART_FRAMES - 1) / PART_FRAMES;
}

static uint32_t part_frames(uint32_t frames, uint32_t part)
{
    uint32_t left = frames - part * PART_FRAMES;
    return left < PART_FRAMES ? left : PART_FRAMES;
}

/*
 * Accounts are left out where table and accounts together would not fit a buffer (more than about 250 interfaces with
 * long names): the stream's account, which every frame carries, remains.
 */
static uint32_t account_count(const struct frame_table *table)
{
    uint32_t most = part_bytes(PART_FRAMES, table->interfaces, table);
    return most <= FRAME_BYTES_USUAL - PAGE_BYTES ? table->interfaces : 0;
}

/* The table, too, is left out of the index where it is too long: every data frame has its own. */
static const struct frame_table *index_table(const struct frame_table *table)
{
    static const struct frame_table none;
    return part_bytes(PART_FRAMES, 0, table) <= FRAME_BYTES_USUAL - PAGE_BYTES ? table : &none;
}

uint32_t segment_index_room(uint32_t frames, const struct frame_table *full)
{
    const struct frame_table *table = index_table(full);
    uint32_t bytes = PAGE_BYTES;
    for (uint32_t part = 0; part < parts_of(frames); part++)
        bytes += part_bytes(part_frames(frames, part), part == 0 ? account_count(table) : 0, table);
    return bytes;
}

/* What the frames that close a segment have in common; `nth` of them, from 0. */
static struct frame_finish closing(const struct segment_index *index, const struct segment_seal *seal,
                                   enum frame_kind kind, uint32_t nth, uint32_t offset)
{
    return (struct frame_finish){
        .kind = kind,
        .offset = offset,
        .number = index->next_number + nth,
        .first_packet = index->first_packet + index->packets + index->missing,
        .frontier = seal->frontier,
        .account = seal->account,
        .salt = seal->salt,
    };
}

/* ---- the key index's frames ----------------------------------------------------------------------- */

static uint32_t flows_parts(uint32_t flows_bytes)
{
    return (flows_bytes + FLOWS_PIECE_BYTES - 1) / FLOWS_PIECE_BYTES;
}

/* The length of the frame that holds a piece of so many bytes. */
static uint32_t flows_frame(uint32_t piece_bytes)
{
    return (uint32_t)round_up(FLOWS_HEADER_BYTES + piece_bytes, PAGE_BYTES);
}

uint32_t segment_index_flows_frames(uint32_t flows_bytes)
{
    uint32_t rest = flows_bytes % FLOWS_PIECE_BYTES;
    return flows_bytes / FLOWS_PIECE_BYTES * FLOWS_FRAME_BYTES + (rest > 0 ? flows_frame(rest) : 0);
}

uint32_t segment_index_flows_room(const struct segment_index *index, const struct frame_table *table,
                                  uint64_t slot_bytes)
{
    uint64_t taken = (uint64_t)index->data_end + segment_index_room(index->entries, table);
    uint64_t gap = taken < slot_bytes ? slot_bytes - taken : 0, rest = gap % FLOWS_FRAME_BYTES;
    return (uint32_t)(gap / FLOWS_FRAME_BYTES * FLOWS_PIECE_BYTES +
                      (rest > FLOWS_HEADER_BYTES ? rest - FLOWS_HEADER_BYTES : 0));
}

static uint32_t flows_part(const struct segment_index *index, const struct segment_seal *seal, uint32_t part,
                           uint8_t *buffer, uint32_t *offset)
{
    uint32_t from = part * FLOWS_PIECE_BYTES, left = seal->flows_bytes - from;
    uint32_t bytes = left < FLOWS_PIECE_BYTES ? left : FLOWS_PIECE_BYTES, length = flows_frame(bytes);
    *offset = (uint32_t)(seal->slot_bytes - PAGE_BYTES) - segment_index_flows_frames(seal->flows_bytes) +
              part * FLOWS_FRAME_BYTES;
    struct frame_finish finish = closing(index, seal, FRAME_FLOWS, parts_of(index->entries) + part, *offset);
    int built = frame_build_plain(buffer, length, seal->identity, NULL, &finish, seal->flows + from, bytes);
    assert(built == (int)length);
    return length;
}

/* ---- building ------------------------------------------------------------------------------------- */

uint32_t segment_index_parts(const struct segment_index *index, const struct segment_seal *seal)
{
    return parts_of(index->entries) + flows_parts(seal->flows_bytes);
}

void segment_index_extent(const struct segment_index *index, const struct segment_seal *seal, uint32_t *offset,
                          uint32_t *bytes)
{
    *bytes = segment_index_room(index->entries, seal->table) - PAGE_BYTES +
             segment_index_flows_frames(seal->flows_bytes);
    *offset = (uint32_t)(seal->slot_bytes - PAGE_BYTES - *bytes);
}

static uint32_t index_part(const struct segment_index *index, const struct segment_seal *seal, uint32_t part,
                           uint8_t *buffer, uint32_t *offset)
{
    const struct frame_table *table = index_table(seal->table);
    uint32_t parts = parts_of(index->entries), accounts = part == 0 ? account_count(table) : 0;
    uint32_t frames = part_frames(index->entries, part);
    uint32_t index_offset, index_bytes;
    segment_index_extent(index, seal, &index_offset, &index_bytes);
    assert(index_offset >= index->data_end);

    *offset = index_offset;
    for (uint32_t before = 0; before < part; before++)
        *offset += part_bytes(part_frames(index->entries, before), before == 0 ? account_count(table) : 0, table);

    uint32_t length = part_bytes(frames, accounts, table);
    uint8_t *body = buffer + frame_plain_header(length, table);
    uint32_t body_bytes = (uint32_t)(sizeof(struct index_body) + frames * sizeof(struct index_frame_entry) +
                                     accounts * sizeof(struct index_account));
    struct index_body head = {
        .part = le32_of(part), .parts = le32_of(parts), .frames = le32_of(frames), .accounts = le32_of(accounts)};
    memcpy(body, &head, sizeof head);
    uint8_t *at = body + sizeof head;
    memcpy(at, index->entry + part * PART_FRAMES, frames * sizeof(struct index_frame_entry));
    at += frames * sizeof(struct index_frame_entry);
    for (uint32_t i = 0; i < accounts; i++, at += sizeof(struct index_account)) {
        struct index_account account;
        frame_account_put(&account.account, &seal->interface_account[i]);
        memcpy(at, &account, sizeof account);
    }
    struct frame_finish finish = closing(index, seal, FRAME_INDEX, part, *offset);
    int built = frame_build_plain(buffer, length, seal->identity, table, &finish, NULL, body_bytes);
    assert(built == (int)length);
    return length;
}

static void put_seal(const struct segment_index *index, const struct segment_seal *seal, uint8_t *page)
{
    const struct frame_table *table = index_table(seal->table);
    uint32_t index_offset, index_bytes;
    segment_index_extent(index, seal, &index_offset, &index_bytes);
    struct seal_body seal_body = {
        .opened_ns = le64_of((uint64_t)seal->opened_ns),
        .sealed_ns = le64_of((uint64_t)seal->sealed_ns),
        .packets = le64_of(index->packets),
        .captured_bytes = le64_of(index->captured_bytes),
        .first_packet = le64_of(index->first_packet),
        .head_ns = le64_of((uint64_t)index->head_ns),
        .first_ns = le64_of((uint64_t)index->first_ns),
        .last_ns = le64_of((uint64_t)index->last_ns),
        .data_frames = le32_of(index->entries),
        .data_end = le32_of(index->data_end),
        .index_offset = le32_of(index_offset),
        .index_bytes = le32_of(index_bytes),
        .next_number = le32_of(index->next_number + segment_index_parts(index, seal)),
        .reason = (uint8_t)seal->reason,
        .missing = le64_of(index->missing),
        .purged = le64_of(index->purged),
    };
    struct frame_finish finish = closing(index, seal, FRAME_SEAL, segment_index_parts(index, seal),
                                         (uint32_t)(seal->slot_bytes - PAGE_BYTES));
    /* With the interfaces, where they fit the page: then a rebuild learns them without reading more. */
    int built = frame_build_plain(page, PAGE_BYTES, seal->identity, table, &finish, &seal_body, sizeof seal_body);
    if (built == ERR_TOO_LARGE)
        built = frame_build_plain(page, PAGE_BYTES, seal->identity, NULL, &finish, &seal_body, sizeof seal_body);
    assert(built == (int)PAGE_BYTES);
}

uint32_t segment_index_part(const struct segment_index *index, const struct segment_seal *seal, uint32_t part,
                            uint8_t *buffer, uint32_t *offset)
{
    uint32_t frames = parts_of(index->entries);
    uint32_t length = part < frames ? index_part(index, seal, part, buffer, offset)
                                    : flows_part(index, seal, part - frames, buffer, offset);
    if (part + 1 < segment_index_parts(index, seal))
        return length;
    put_seal(index, seal, buffer + length);
    return length + PAGE_BYTES;
}

int segment_seal_read(const uint8_t *frame, const struct frame_info *info, uint64_t slot_bytes, struct seal_body *body)
{
    const void *bytes = frame_body(frame, info, SEAL_BODY_BYTES_MIN);
    if (info->kind != FRAME_SEAL || !bytes || info->offset != slot_bytes - PAGE_BYTES)
        return ERR_CORRUPT;
    *body = (struct seal_body){0};
    memcpy(body, bytes, info->body_bytes < sizeof *body ? SEAL_BODY_BYTES_MIN : sizeof *body);
    if (le64_get(body->purged) > le64_get(body->packets))
        return ERR_CORRUPT;
    uint32_t data_end = le32_get(body->data_end), index_offset = le32_get(body->index_offset);
    uint32_t index_bytes = le32_get(body->index_bytes);
    if (data_end < PAGE_BYTES || data_end % PAGE_BYTES != 0 || index_offset % PAGE_BYTES != 0 ||
        index_bytes % PAGE_BYTES != 0 || index_offset < data_end || index_bytes > slot_bytes ||
        index_offset + (uint64_t)index_bytes != slot_bytes - PAGE_BYTES || info->data_revision > info->revision)
        return ERR_CORRUPT;
    return 0;
}
