/*
 * frame.c - the frame codec. FORMAT.md, "Frame", is the specification.
 */
#include "frame.h"

#include <assert.h>
#include <stddef.h>

#include "checksum.h"

_Static_assert(FRAME_ACCOUNT_LINES == ACCOUNT_LINES, "account.def and the disk format agree");

#define HEADER_CRC_OFFSET 8

/* ---- reading ----------------------------------------------------------------------------------- */

static uint32_t header_crc(const uint8_t *bytes, uint32_t header_bytes)
{
    static const uint8_t zero[4];
    uint32_t crc = checksum_crc32c(bytes, HEADER_CRC_OFFSET);
    crc = checksum_crc32c_more(crc, zero, sizeof zero);
    return checksum_crc32c_more(crc, bytes + HEADER_CRC_OFFSET + 4, header_bytes - HEADER_CRC_OFFSET - 4);
}

void frame_account_get(const struct frame_account *disk, struct account *account)
{
    for (unsigned i = 0; i < ACCOUNT_LINES; i++) {
        account->packets[i] = le64_get(disk->packets[i]);
        account->bytes[i] = le64_get(disk->bytes[i]);
    }
    account->stored_bytes = le64_get(disk->stored_bytes);
    account->cut_packets = le64_get(disk->cut_packets);
}

void frame_account_put(struct frame_account *disk, const struct account *account)
{
    for (unsigned i = 0; i < ACCOUNT_LINES; i++) {
        disk->packets[i] = le64_of(account->packets[i]);
        disk->bytes[i] = le64_of(account->bytes[i]);
    }
    disk->stored_bytes = le64_of(account->stored_bytes);
    disk->cut_packets = le64_of(account->cut_packets);
}

static const uint8_t *block_table(const uint8_t *frame)
{
    return frame + sizeof(struct frame_header);
}

static uint32_t tables_bytes(uint32_t blocks, uint32_t entries, uint32_t interface_bytes)
{
    return (uint32_t)(sizeof(struct frame_header) + blocks * sizeof(struct frame_block) +
                      entries * sizeof(struct frame_entry) + interface_bytes);
}

/* Whether the interface table is a chain of whole descriptions that ends where it says. */
static bool interfaces_fit(const uint8_t *table, uint32_t bytes, uint32_t interfaces)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < interfaces; i++) {
        struct frame_interface one;
        if (bytes - at < sizeof one)
            return false;
        memcpy(&one, table + at, sizeof one);
        uint32_t length = (uint32_t)round_up(sizeof one + one.name_bytes + one.description_bytes, 8);
        if (bytes - at < length)
            return false;
        at += length;
    }
    return at == bytes;
}

int frame_parse(const uint8_t *bytes, uint32_t available, struct frame_info *info)
{
    struct frame_header header;
    if (available < sizeof header)
        return ERR_CORRUPT;
    memcpy(&header, bytes, sizeof header);
    if (memcmp(header.magic, FRAME_MAGIC, sizeof header.magic) != 0)
        return ERR_NOT_FOUND;
    uint32_t header_bytes = le32_get(header.header_bytes);
    uint32_t frame_bytes = le32_get(header.frame_bytes);
    if (header_bytes < sizeof header || header_bytes % 8 != 0 || frame_bytes % PAGE_BYTES != 0 ||
        frame_bytes > FRAME_BYTES_MAX || header_bytes > frame_bytes)
        return ERR_CORRUPT;
    if (header_bytes > available) {
        info->header_bytes = header_bytes;
        return ERR_AGAIN;
    }
    if (header_crc(bytes, header_bytes) != le32_get(header.header_crc))
        return ERR_CORRUPT;

    uint32_t blocks = le16_get(header.blocks), entries = le16_get(header.entries);
    uint32_t interfaces = le16_get(header.interfaces), interface_bytes = le32_get(header.interface_bytes);
    if (interface_bytes > header_bytes || tables_bytes(blocks, entries, interface_bytes) > header_bytes ||
        blocks < (frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES || entries > FRAME_ENTRIES_MAX ||
        interfaces > FRAME_ENTRIES_MAX || header.kind < FRAME_OPEN || header.kind > FRAME_FLOWS ||
        le32_get(header.body_bytes) > frame_bytes - header_bytes ||
        le32_get(header.stored_bytes) != le32_get(header.body_bytes) ||
        le32_get(header.offset) % PAGE_BYTES != 0 || header.cipher != 0 || le16_get(header.flags) != 0)
        return ERR_CORRUPT;
    const uint8_t *entry_table = block_table(bytes) + blocks * sizeof(struct frame_block);
    if (!interfaces_fit(entry_table + entries * sizeof(struct frame_entry), interface_bytes, interfaces))
        return ERR_CORRUPT;

    info->kind = header.kind;
    info->header_bytes = header_bytes;
    info->frame_bytes = frame_bytes;
    info->offset = le32_get(header.offset);
    info->number = le32_get(header.number);
    info->ring = header.ring;
    info->segment = header.segment;
    info->run = header.run;
    info->position = le64_get(header.position);
    info->revision = le32_get(header.revision);
    info->data_revision = le32_get(header.data_revision);
    info->stream = le32_get(header.stream);
    info->first_packet = le64_get(header.first_packet);
    info->packets = le32_get(header.packets);
    info->body_bytes = le32_get(header.body_bytes);
    info->frontier = le64_get(header.frontier);
    info->head_ns = (int64_t)le64_get(header.head_ns);
    info->first_ns = (int64_t)le64_get(header.first_ns);
    info->last_ns = (int64_t)le64_get(header.last_ns);
    info->blocks = (uint16_t)blocks;
    info->entries = (uint16_t)entries;
    info->interfaces = (uint16_t)interfaces;
    info->interface_bytes = interface_bytes;
    info->cipher = header.cipher;
    frame_account_get(&header.account, &info->account);
    return 0;
}

/* The part of block i that its checksum covers: the header has one of its own. */
static void block_extent(uint32_t i, uint32_t header_bytes, uint32_t frame_bytes, uint32_t *from, uint32_t *to)
{
    *from = i * BLOCK_BYTES;
    *to = *from + BLOCK_BYTES;
    if (*from < header_bytes)
        *from = header_bytes;
    if (*to > frame_bytes)
        *to = frame_bytes;
    if (*from > *to)
        *from = *to;
}

static uint32_t block_crc(const uint8_t *frame, uint32_t i, uint32_t header_bytes, uint32_t frame_bytes)
{
    uint32_t from, to;
    block_extent(i, header_bytes, frame_bytes, &from, &to);
    return checksum_crc32c(frame + from, to - from);
}

int frame_check_blocks(const uint8_t *frame, const struct frame_info *info, uint32_t first, uint32_t count)
{
    const uint8_t *table = block_table(frame);
    for (uint32_t i = first; i < first + count; i++) {
        struct frame_block block;
        memcpy(&block, table + i * sizeof block, sizeof block);
        if (block_crc(frame, i, info->header_bytes, info->frame_bytes) != le32_get(block.crc))
            return ERR_CORRUPT;
    }
    return 0;
}

int frame_interface(const uint8_t *frame, const struct frame_info *info, uint32_t i,
                    struct interface_description *description)
{
    if (i >= info->interfaces)
        return ERR_NOT_FOUND;
    const uint8_t *at = block_table(frame) + info->blocks * sizeof(struct frame_block) +
                        info->entries * sizeof(struct frame_entry);
    struct frame_interface one;
    for (;; i--) {
        memcpy(&one, at, sizeof one);
        if (i == 0)
            break;
        at += round_up(sizeof one + one.name_bytes + one.description_bytes, 8);
    }
    memset(description, 0, sizeof *description);
    description->link_type = le16_get(one.link_type);
    description->snapshot_length = le32_get(one.snapshot_length);
    memcpy(description->hardware, one.hardware, sizeof one.hardware);
    memcpy(description->name, at + sizeof one, one.name_bytes);
    memcpy(description->description, at + sizeof one + one.name_bytes, one.description_bytes);
    return 0;
}

void frame_cursor_start(struct frame_cursor *cursor, const uint8_t *frame, const struct frame_info *info)
{
    cursor->frame = frame;
    cursor->entries = block_table(frame) + info->blocks * sizeof(struct frame_block);
    cursor->entry_count = info->entries;
    cursor->interfaces = info->interfaces;
    cursor->at = info->header_bytes;
    cursor->end = info->header_bytes + info->body_bytes;
    cursor->left = info->kind == FRAME_DATA ? info->packets : 0;
}

const void *frame_body(const uint8_t *frame, const struct frame_info *info, uint32_t bytes)
{
    return info->body_bytes >= bytes ? frame + info->header_bytes : NULL;
}

/* ---- building ---------------------------------------------------------------------------------- */

void frame_table_clear(struct frame_table *table)
{
    table->entries = 0;
    table->interfaces = 0;
    table->interface_bytes = 0;
}

int frame_table_add_interface(struct frame_table *table, const struct interface_description *description)
{
    if (table->interfaces >= FRAME_ENTRIES_MAX)
        return ERR_NO_SPACE;
    size_t name_bytes = strnlen(description->name, INTERFACE_NAME_MAX);
    size_t text_bytes = strnlen(description->description, INTERFACE_TEXT_MAX);
    struct frame_interface one = {
        .snapshot_length = le32_of(description->snapshot_length),
        .link_type = le16_of(description->link_type),
        .name_bytes = (uint8_t)name_bytes,
        .description_bytes = (uint8_t)text_bytes,
    };
    memcpy(one.hardware, description->hardware, sizeof one.hardware);
    uint32_t length = (uint32_t)round_up(sizeof one + name_bytes + text_bytes, 8);
    uint8_t *at = table->interface + table->interface_bytes;
    memset(at, 0, length);
    memcpy(at, &one, sizeof one);
    memcpy(at + sizeof one, description->name, name_bytes);
    memcpy(at + sizeof one + name_bytes, description->description, text_bytes);
    table->interface_bytes += length;
    return table->interfaces++;
}

int frame_table_entry(struct frame_table *table, uint16_t interface, uint8_t direction, uint8_t action,
                      uint32_t rule)
{
    for (int i = 0; i < table->entries; i++) {
        const struct frame_entry *entry = &table->entry[i];
        if (le16_get(entry->interface) == interface && entry->direction == direction &&
            entry->action == action && le32_get(entry->rule) == rule)
            return i;
    }
    if (table->entries >= FRAME_RULE_ENTRIES_MAX && rule != 0 && rule != FRAME_RULE_UNSAID)
        return frame_table_entry(table, interface, direction, action, FRAME_RULE_UNSAID);
    if (table->entries >= FRAME_ENTRIES_MAX)
        return ERR_NO_SPACE;
    table->entry[table->entries] = (struct frame_entry){
        .interface = le16_of(interface), .direction = direction, .action = action, .rule = le32_of(rule)};
    return table->entries++;
}

#define SPARE_ENTRIES 4u
#define SPARE_INTERFACE_BYTES 128u

static uint16_t blocks_of(uint32_t capacity)
{
    return (uint16_t)((capacity + BLOCK_BYTES - 1) / BLOCK_BYTES);
}

static uint16_t entry_room(const struct frame_table *table)
{
    /* As many again: where packets are of many rules, a few short frames fill the table. */
    uint32_t room = table->entries + (table->entries > SPARE_ENTRIES ? table->entries : SPARE_ENTRIES);
    return (uint16_t)(room < FRAME_ENTRIES_MAX ? room : FRAME_ENTRIES_MAX);
}

uint32_t frame_header_room(uint32_t capacity, const struct frame_table *table)
{
    return (uint32_t)round_up(tables_bytes(blocks_of(capacity), entry_room(table),
                                           table->interface_bytes + SPARE_INTERFACE_BYTES), 8);
}

void frame_builder_start(struct frame_builder *builder, uint8_t *buffer, uint32_t capacity,
                         const struct frame_table *table)
{
    *builder = (struct frame_builder){
        .buffer = buffer,
        .capacity = capacity,
        .header_bytes = frame_header_room(capacity, table),
        .blocks = blocks_of(capacity),
        .entry_room = entry_room(table),
        .interface_room = table->interface_bytes + SPARE_INTERFACE_BYTES,
        .entries = table->entries,
        .interfaces = table->interfaces,
        .interface_bytes = table->interface_bytes,
        .first_ns = INT64_MAX,
        .last_ns = INT64_MIN,
    };
    assert(builder->header_bytes + sizeof(struct packet_record) <= capacity);
    builder->at = builder->header_bytes;
    builder->checked = builder->header_bytes / BLOCK_BYTES; /* blocks that are all header: empty extent */
    memset(buffer, 0, builder->header_bytes);
}

static void put_block_crc(uint8_t *frame, uint32_t i, uint32_t header_bytes, uint32_t frame_bytes)
{
    le32 crc = le32_of(block_crc(frame, i, header_bytes, frame_bytes));
    memcpy(frame + sizeof(struct frame_header) + i * sizeof(struct frame_block), &crc, sizeof crc);
}

/* While they are still in the processor's cache: from memory it would cost six times as much. */
void frame_builder_check_blocks(struct frame_builder *builder)
{
    while (builder->checked < builder->at / BLOCK_BYTES) {
        put_block_crc(builder->buffer, builder->checked, builder->header_bytes, builder->capacity);
        builder->checked++;
    }
}

/* How much of the segment's table a frame has. */
struct table_part {
    uint16_t entries;
    uint16_t interfaces;
    uint32_t interface_bytes;
};

/* Fills in everything but block table and checksum. */
static void put_header(uint8_t *frame, const struct frame_identity *identity, const struct frame_finish *finish,
                       uint32_t header_bytes, uint32_t frame_bytes, uint32_t body_bytes, uint16_t blocks,
                       const struct frame_table *table, const struct table_part *part)
{
    struct frame_header header = {
        .magic = {'t', 'l', 'f', 'r', 'a', 'm', 'e', '\n'},
        .header_bytes = le32_of(header_bytes),
        .frame_bytes = le32_of(frame_bytes),
        .offset = le32_of(finish->offset),
        .kind = (uint8_t)finish->kind,
        .number = le32_of(finish->number),
        .ring = identity->ring,
        .segment = identity->segment,
        .run = identity->run,
        .position = le64_of(identity->position),
        .revision = le32_of(identity->revision),
        .data_revision = le32_of(identity->data_revision),
        .stream = le32_of(identity->stream),
        .first_packet = le64_of(finish->first_packet),
        .body_bytes = le32_of(body_bytes),
        .stored_bytes = le32_of(body_bytes),
        .frontier = le64_of(finish->frontier),
        .first_ns = le64_of((uint64_t)INT64_MAX),
        .last_ns = le64_of((uint64_t)INT64_MIN),
        .blocks = le16_of(blocks),
    };
    if (finish->salt)
        memcpy(header.salt, finish->salt, sizeof header.salt);
    if (finish->account)
        frame_account_put(&header.account, finish->account);
    if (table) {
        header.entries = le16_of(part->entries);
        header.interfaces = le16_of(part->interfaces);
        header.interface_bytes = le32_of(part->interface_bytes);
        uint8_t *entries = frame + sizeof header + blocks * sizeof(struct frame_block);
        memcpy(entries, table->entry, part->entries * sizeof table->entry[0]);
        memcpy(entries + part->entries * sizeof table->entry[0], table->interface, part->interface_bytes);
    }
    memcpy(frame, &header, sizeof header);
}

static void put_header_crc(uint8_t *frame)
{
    le32 header_bytes;
    memcpy(&header_bytes, frame + offsetof(struct frame_header, header_bytes), sizeof header_bytes);
    le32 crc = le32_of(header_crc(frame, le32_get(header_bytes)));
    memcpy(frame + offsetof(struct frame_header, header_crc), &crc, sizeof crc);
}

uint32_t frame_builder_finish(struct frame_builder *builder, const struct frame_identity *identity,
                              const struct frame_table *table, const struct frame_finish *finish)
{
    struct table_part part = {builder->entries, builder->interfaces, builder->interface_bytes};
    uint8_t *frame = builder->buffer;
    uint32_t frame_bytes = (uint32_t)round_up(builder->at, PAGE_BYTES);
    memset(frame + builder->at, 0, frame_bytes - builder->at);
    for (uint32_t i = builder->checked; i < (frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES; i++)
        put_block_crc(frame, i, builder->header_bytes, frame_bytes);
    put_header(frame, identity, finish, builder->header_bytes, frame_bytes, builder->at - builder->header_bytes,
               builder->blocks, table, &part);
    struct frame_header *header = (struct frame_header *)frame;
    header->packets = le32_of(builder->packets);
    header->head_ns = le64_of((uint64_t)builder->head_ns);
    header->first_ns = le64_of((uint64_t)builder->first_ns);
    header->last_ns = le64_of((uint64_t)builder->last_ns);
    put_header_crc(frame);
    return frame_bytes;
}

uint32_t frame_plain_header(uint32_t frame_bytes, const struct frame_table *table)
{
    return (uint32_t)round_up(tables_bytes(blocks_of(frame_bytes), table ? table->entries : 0,
                                           table ? table->interface_bytes : 0), 8);
}

int frame_build_plain(uint8_t *buffer, uint32_t frame_bytes, const struct frame_identity *identity,
                      const struct frame_table *table, const struct frame_finish *finish, const void *body,
                      uint32_t body_bytes)
{
    uint32_t header_bytes = frame_plain_header(frame_bytes, table);
    if (header_bytes > frame_bytes || body_bytes > frame_bytes - header_bytes)
        return ERR_TOO_LARGE;
    memset(buffer, 0, header_bytes);
    if (body)
        memcpy(buffer + header_bytes, body, body_bytes);
    memset(buffer + header_bytes + body_bytes, 0, frame_bytes - header_bytes - body_bytes);
    for (uint32_t i = 0; i < blocks_of(frame_bytes); i++)
        put_block_crc(buffer, i, header_bytes, frame_bytes);
    struct table_part part = {0};
    if (table)
        part = (struct table_part){table->entries, table->interfaces, table->interface_bytes};
    put_header(buffer, identity, finish, header_bytes, frame_bytes, body_bytes, blocks_of(frame_bytes), table, &part);
    put_header_crc(buffer);
    return (int)frame_bytes;
}

void frame_relabel(uint8_t *frame, const struct frame_identity *identity, uint32_t offset, uint32_t number)
{
    struct frame_header *header = (struct frame_header *)frame;
    header->ring = identity->ring;
    header->segment = identity->segment;
    header->run = identity->run;
    header->position = le64_of(identity->position);
    header->revision = le32_of(identity->revision);
    header->data_revision = le32_of(identity->data_revision);
    header->stream = le32_of(identity->stream);
    header->offset = le32_of(offset);
    header->number = le32_of(number);
    put_header_crc(frame);
}

/* ---- erasing ----------------------------------------------------------------------------------- */

static int64_t whole_second(int64_t time_ns)
{
    return time_ns > INT64_MIN + 1000000000 ? time_ns - time_ns % 1000000000 : time_ns;
}

static void put_record(uint8_t *at, int64_t time_ns, uint32_t original_bytes, uint32_t captured_and_entry)
{
    struct packet_record record = {.time_ns = le64_of((uint64_t)time_ns),
                                   .original_bytes = le32_of(original_bytes),
                                   .captured_and_entry = le32_of(captured_and_entry)};
    memcpy(at, &record, sizeof record);
}

/*
 * `count` erased packets in a row lie in [at, end): all but the last get no room at all, so that of their lengths only the sum is left. Their
 * time is that of a packet that stays: it must not tell when they came.
 */
static void erase_row(uint8_t *frame, uint32_t at, uint32_t end, uint32_t count, int64_t time_ns)
{
    uint32_t record_bytes = (uint32_t)sizeof(struct packet_record);
    memset(frame + at, 0, end - at);
    for (; count > 0; count--, at += record_bytes) {
        uint32_t room = count == 1 ? end - at - record_bytes : 0;
        put_record(frame + at, time_ns, 0, room | FRAME_ENTRY_PURGED << 24);
    }
}

int frame_purge(uint8_t *frame, const struct frame_info *info,
                bool (*is_gone)(void *context, uint64_t number, int64_t time_ns), void *context, uint64_t *packets,
                uint64_t *bytes)
{
    struct frame_cursor cursor;
    struct frame_packet packet = {.entry = 0};
    int64_t kept_ns = 0, head_ns = 0, first_ns = INT64_MAX, last_ns = INT64_MIN;
    bool any_kept = false;
    uint64_t number = info->first_packet;
    int result;
    frame_cursor_start(&cursor, frame, info);
    while ((result = frame_cursor_next(&cursor, &packet)) > 0) {
        int64_t time_ns = packet.packet.time_ns;
        if (!any_kept && !packet.purged && !is_gone(context, number, time_ns)) {
            kept_ns = time_ns; /* what is erased before it has its time */
            any_kept = true;
        }
        number++;
    }
    /* One record has to be able to take the room of all: a frame of more than a usual one's length has a single packet. */
    if (result < 0 || number != info->first_packet + info->packets || info->packets == 0 || cursor.at != cursor.end ||
        info->body_bytes - info->packets * sizeof(struct packet_record) > PACKET_CAPTURED_MAX)
        return ERR_CORRUPT;
    if (!any_kept)
        kept_ns = whole_second(info->first_ns);

    uint32_t row_at = 0, row = 0, left = info->packets;
    number = info->first_packet;
    frame_cursor_start(&cursor, frame, info);
    for (; left > 0; left--, number++) {
        uint32_t at = cursor.at;
        (void)frame_cursor_next(&cursor, &packet);
        bool gone = packet.purged || is_gone(context, number, packet.packet.time_ns);
        if (gone && !packet.purged) {
            ++*packets;
            *bytes += packet.packet.captured_bytes;
        }
        if (gone && row++ == 0)
            row_at = at;
        if (!gone && row > 0) {
            erase_row(frame, row_at, at, row, kept_ns);
            row = 0;
        }
        if (!gone)
            kept_ns = packet.packet.time_ns;
        int64_t time_ns = kept_ns;
        if (number == info->first_packet)
            head_ns = time_ns;
        first_ns = time_ns < first_ns ? time_ns : first_ns;
        last_ns = time_ns > last_ns ? time_ns : last_ns;
    }
    if (row > 0)
        erase_row(frame, row_at, cursor.end, row, kept_ns);

    struct frame_header *header = (struct frame_header *)frame;
    header->head_ns = le64_of((uint64_t)head_ns);
    header->first_ns = le64_of((uint64_t)first_ns);
    header->last_ns = le64_of((uint64_t)last_ns);
    for (uint32_t i = 0; i < frame_block_count(info); i++)
        put_block_crc(frame, i, info->header_bytes, info->frame_bytes);
    put_header_crc(frame);
    return 0;
}
