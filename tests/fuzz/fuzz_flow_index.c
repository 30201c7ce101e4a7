/*
 * fuzz_flow_index.c - arbitrary bytes as the encoded index of a segment.
 *
 * The first byte chooses: bit 0: checksums are put right first, so that what is behind them is
 * reached; bits 1-3: which filter is asked. The rest is the index, in memory of exactly its length.
 */
#include "fuzz.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "errors.h"
#include "flow_format.h"
#include "flow_index_reader.h"

struct bytes {
    const uint8_t *at;
    size_t count;
};

static int read_bytes(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    const struct bytes *bytes = context;
    assert((uint64_t)offset + count <= bytes->count);
    memcpy(into, bytes->at + offset, count);
    return 0;
}

static uint32_t part_field(const uint8_t *part, unsigned at)
{
    le32 field;
    memcpy(&field, part + at, sizeof field);
    return le32_get(field);
}

static void put_crc(uint8_t *at, const uint8_t *bytes, size_t count)
{
    le32 field = le32_of(checksum_crc32c(bytes, count));
    memcpy(at, &field, sizeof field);
}

static uint64_t part_end(const struct flow_index_part *part)
{
    return (uint64_t)le32_get(part->offset) + le32_get(part->bytes);
}

static void put_chunk_checksums(uint8_t *bytes, size_t count, const struct flow_index_head *head)
{
    const struct flow_index_part *chunks = &head->part[FLOW_PART_CHUNKS];
    const struct flow_index_part *postings = &head->part[FLOW_PART_POSTINGS];
    uint64_t chunks_at = le32_get(chunks->offset), chunks_bytes = le32_get(chunks->bytes);
    uint64_t at = le32_get(postings->offset), end = at + le32_get(postings->bytes);
    for (uint64_t i = 0; chunks_at + chunks_bytes <= count && end <= count && i + 8 <= chunks_bytes;
         i += 8) {
        uint64_t from = at + part_field(bytes + chunks_at + i, 0), to = end;
        if (i + 16 <= chunks_bytes)
            to = at + part_field(bytes + chunks_at + i + 8, 0);
        if (from <= to && to <= end)
            put_crc(bytes + chunks_at + i + 4, bytes + from, to - from);
    }
}

/* Of the pieces that marks lead to. */
static void put_piece_checksums(uint8_t *bytes, size_t count, const struct flow_index_head *head)
{
    static const enum flow_part part_of[FLOW_COLUMNS] = {FLOW_PART_KIND, FLOW_PART_SERVICE, FLOW_PART_PORTS, FLOW_PART_STATE};
    const uint32_t ends[3] = {le32_get(head->ends[0]), le32_get(head->ends[1]), le32_get(head->ends[2])};
    const struct flow_index_part *marks = &head->part[FLOW_PART_MARKS];
    if (ends[0] > FLOW_INDEX_ENDS_MAX || ends[1] > FLOW_INDEX_ENDS_MAX || ends[2] > FLOW_INDEX_ENDS_MAX ||
        le32_get(head->flows) > FLOW_INDEX_FLOWS_MAX || part_end(marks) > count)
        return;
    uint64_t pieces = flow_chunks(le32_get(head->flows), FLOW_INDEX_CHUNK), at = le32_get(marks->offset) + (uint64_t)flow_marks(ends, 0).flows;
    for (uint64_t i = 0; i < pieces && at + 32 * (i + 1) <= part_end(marks); i++)
        for (unsigned column = 0; column < FLOW_COLUMNS; column++) {
            const struct flow_index_part *part = &head->part[part_of[column]];
            uint8_t *mark = bytes + at + 32 * i + 8 * column;
            uint64_t from = le32_get(part->offset) + part_field(mark, 0) / 8ul, to = part_end(part);
            if (i + 1 < pieces && at + 32 * (i + 2) <= part_end(marks))
                to = le32_get(part->offset) + (part_field(mark, 32) + 7ul) / 8;
            if (from <= to && to <= count)
                put_crc(mark + 4, bytes + from, to - from);
        }
}

/* Makes the checksums of the head, the parts, the chunks and the pieces right, as far as lengths allow. */
static void put_checksums(uint8_t *bytes, size_t count)
{
    const size_t shorter = offsetof(struct flow_index_head, part) + FLOW_PARTS_UNMARKED * sizeof(struct flow_index_part);
    struct flow_index_head head = {0};
    if (count < shorter)
        return;
    memcpy(&head, bytes, shorter);
    bool old = le16_get(head.version) == FLOW_INDEX_VERSION_UNMARKED;
    size_t length = old ? shorter : sizeof head;
    if (count < length)
        return;
    memcpy(&head, bytes, length);
    put_chunk_checksums(bytes, count, &head);
    if (!old)
        put_piece_checksums(bytes, count, &head);
    for (unsigned i = 0; i < (old ? FLOW_PARTS_UNMARKED : FLOW_PARTS); i++) {
        struct flow_index_part *part = &head.part[i];
        if (part_end(part) <= count)
            put_crc((uint8_t *)&part->crc, bytes + le32_get(part->offset), le32_get(part->bytes));
    }
    head.crc = le32_of(0);
    put_crc((uint8_t *)&head.crc, (const uint8_t *)&head, length);
    memcpy(bytes, &head, length);
}

static int count_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    *(uint64_t *)context += keys->end[0].port + seen->ways;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const char *const filters[] = {
        "",       "host 10.0.0.1", "ether src 2:0:0:0:0:1", "not tcp and src port 53",
        "host 10.0.0.1 and rule 2 and port 53", "inner host 10.0.0.3 or app dns", "geneve and host 10.0.0.2", "src net 10.0.0.0/29 or host 2001:db8::1",
    };
    if (count < 1)
        return 0;
    uint8_t *copy = malloc(count);
    if (!copy)
        return 0;
    memcpy(copy, bytes + 1, count - 1);
    if ((bytes[0] & 1) != 0)
        put_checksums(copy, count - 1);
    struct bytes held = {.at = copy, .count = count - 1};
    const struct flow_index_source source = {
        .read = read_bytes, .context = &held, .bytes = (uint32_t)(count - 1)};
    struct flow_reader *reader = NULL;
    if (flow_reader_open(&source, &reader) == 0) {
        struct narrowing *tree;
        struct flow_selection selection = {0};
        uint64_t sum = 0;
        if (narrowing_open(filters[bytes[0] >> 1 & 7], &tree) == 0) {
            int code = flow_reader_select(reader, tree, true, &selection);
            assert(code == 0 || code == ERR_CORRUPT || code == ERR_NO_MEMORY);
            assert(code != 0 || selection.selected <= flow_reader_blocks(reader));
            flow_selection_clear(&selection);
            narrowing_close(&tree);
        }
        (void)flow_reader_each(reader, count_flow, &sum);
        struct flow_block *block = malloc((flow_reader_blocks(reader) + 1ul) * sizeof *block);
        if (block)
            (void)flow_reader_block_table(reader, 0, flow_reader_blocks(reader), block);
        free(block);
        flow_reader_close(&reader);
    }
    free(copy);
    return 0;
}
