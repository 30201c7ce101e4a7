/*
 * fuzz_flow_index.c - arbitrary bytes as the encoded index of a segment.
 *
 * The first byte chooses: bit 0: checksums are put right first, so that what is behind them is
 * reached; bits 1-3: which filter is asked. The rest is the index, in memory of exactly its length.
 */
#include "fuzz.h"

#include <assert.h>
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

/* Makes the checksums of the head, the parts and the chunks right, as far as lengths allow. */
static void put_checksums(uint8_t *bytes, size_t count)
{
    struct flow_index_head *head = (struct flow_index_head *)bytes;
    if (count < sizeof *head)
        return;
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
    for (unsigned i = 0; i < FLOW_PARTS; i++) {
        struct flow_index_part *part = &head->part[i];
        uint64_t from = le32_get(part->offset), length = le32_get(part->bytes);
        if (from + length <= count)
            put_crc((uint8_t *)&part->crc, bytes + from, length);
    }
    head->crc = le32_of(0);
    put_crc((uint8_t *)&head->crc, bytes, sizeof *head);
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
        "rule 2", "inner host 10.0.0.3 or app dns", "geneve and host 10.0.0.2", "vlan 5",
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
        uint32_t offset, packets;
        if (narrowing_open(filters[bytes[0] >> 1 & 7], &tree) == 0) {
            int code = flow_reader_select(reader, tree, true, &selection);
            assert(code == 0 || code == ERR_CORRUPT || code == ERR_NO_MEMORY);
            assert(code != 0 || selection.selected <= flow_reader_blocks(reader));
            flow_selection_clear(&selection);
            narrowing_close(&tree);
        }
        (void)flow_reader_each(reader, count_flow, &sum);
        for (uint32_t i = 0; i < flow_reader_blocks(reader); i += 7)
            if (flow_reader_block(reader, i, &offset, &packets) != 0)
                break;
        flow_reader_close(&reader);
    }
    free(copy);
    return 0;
}
