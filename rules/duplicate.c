#include "duplicate.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define WAYS 4

struct entry {
    uint64_t low, high; /* the hash */
    int64_t time_ns;
    uint64_t used; /* 0: free */
};

struct duplicate_table {
    struct duplicate_options options;
    uint32_t sets;
    struct entry *entry; /* sets x WAYS */
};

int duplicate_open(const struct duplicate_options *options, struct duplicate_table **table,
                   struct failure *failure)
{
    struct duplicate_options own = options != NULL ? *options : (struct duplicate_options){0};
    *table = NULL;
    if (own.window_ns == 0)
        own.window_ns = DUPLICATE_WINDOW_NS_USUAL;
    if (own.entries == 0)
        own.entries = DUPLICATE_ENTRIES_USUAL;
    if (own.window_ns < 0 || own.window_ns > DUPLICATE_WINDOW_NS_MAX)
        return fail(failure, ERR_INVALID, "the window for duplicates is at most 10 s");
    if (own.entries > DUPLICATE_ENTRIES_MAX)
        return fail(failure, ERR_INVALID, "the table of duplicates holds at most %u packets",
                    DUPLICATE_ENTRIES_MAX);
    struct duplicate_table *made = calloc(1, sizeof *made);
    if (made != NULL) {
        made->options = own;
        made->sets = (own.entries + WAYS - 1) / WAYS;
        made->entry = calloc((size_t)made->sets * WAYS, sizeof *made->entry);
    }
    if (made == NULL || made->entry == NULL) {
        free(made);
        return fail(failure, ERR_NO_MEMORY, "no memory for the table of duplicates");
    }
    *table = made;
    return 0;
}

void duplicate_close(struct duplicate_table **table)
{
    if (*table == NULL)
        return;
    free((*table)->entry);
    free(*table);
    *table = NULL;
}

bool duplicate_needs_decoding(const struct duplicate_table *table)
{
    return table->options.ignore_hops || table->options.ignore_tags;
}

/* Zeros what a router changes in the outermost IP header, as far as it lies in the copy. */
static void blank_hops(uint8_t *headers, uint32_t bytes, const struct decoded_packet *decoded)
{
    if (decoded->levels == 0)
        return;
    uint32_t start = decoded->level[0].l3_start;
    if (decoded->level[0].version == 4) {
        static const uint8_t changed[] = {8, 10, 11}; /* time to live; checksum */
        for (unsigned i = 0; i < sizeof changed; i++) {
            if (start + changed[i] < bytes)
                headers[start + changed[i]] = 0;
        }
    } else if (start + 7 < bytes) {
        headers[start + 7] = 0;
    }
}

/* Bytes of tags that are left out: they stand between the addresses and the type of a frame of
 * Ethernet. */
static uint32_t tag_bytes(const struct duplicate_table *table, const struct packet *packet,
                          const struct decoded_packet *decoded)
{
    const uint16_t macs = DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION;
    uint32_t bytes = decoded->tags * 4u;
    if (!table->options.ignore_tags || (decoded->flags & macs) != macs ||
        decoded->mac_destination_at != 0 || decoded->mac_source_at != 6 ||
        packet->captured_bytes < 12 + bytes)
        return 0;
    return bytes;
}

/*
 * Where something is left out, the hash covers a copy of the headers without it, then the rest in
 * place, and the lengths. Both parts begin and end at the same byte of what is left, tags or not.
 */
static XXH128_hash_t hash_of(const struct duplicate_table *table, const struct packet *packet,
                             const struct decoded_packet *decoded)
{
    if (!duplicate_needs_decoding(table) || packet->captured_bytes == 0)
        return XXH3_128bits_withSeed(packet->bytes, packet->captured_bytes, packet->original_bytes);
    uint8_t headers[DUPLICATE_HEADERS_MAX + 4 * DECODE_TAGS_MAX];
    uint32_t out = tag_bytes(table, packet, decoded);
    uint32_t copied = DUPLICATE_HEADERS_MAX + out;
    if (copied > packet->captured_bytes)
        copied = packet->captured_bytes;
    memcpy(headers, packet->bytes, copied);
    if (table->options.ignore_hops)
        blank_hops(headers, copied, decoded);
    if (out > 0)
        memmove(headers + 12, headers + 12 + out, copied - 12 - out);
    XXH128_hash_t first = XXH3_128bits(headers, copied - out);
    XXH128_hash_t rest = XXH3_128bits(packet->bytes + copied, packet->captured_bytes - copied);
    uint64_t all[6] = {first.low64,
                       first.high64,
                       rest.low64,
                       rest.high64,
                       packet->captured_bytes - out,
                       packet->original_bytes - out};
    return XXH3_128bits(all, sizeof all);
}

static uint64_t distance(int64_t a, int64_t b)
{
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

bool duplicate_seen(struct duplicate_table *table, const struct packet *packet,
                    const struct decoded_packet *decoded)
{
    XXH128_hash_t hash = hash_of(table, packet, decoded);
    uint64_t place = (hash.high64 >> 32) * table->sets >> 32;
    struct entry *entry = &table->entry[place * WAYS], *oldest = entry;
    for (unsigned i = 0; i < WAYS; i++) {
        struct entry *each = &entry[i];
        if (each->used != 0 && each->low == hash.low64 && each->high == hash.high64) {
            if (distance(each->time_ns, packet->time_ns) <= (uint64_t)table->options.window_ns)
                return true;
            oldest = each;
            break;
        }
        if (oldest->used != 0 &&
            (each->used == 0 ||
             distance(each->time_ns, packet->time_ns) > distance(oldest->time_ns, packet->time_ns)))
            oldest = each;
    }
    *oldest = (struct entry){hash.low64, hash.high64, packet->time_ns, 1};
    return false;
}
