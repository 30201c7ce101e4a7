#include "flow_bytes.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 4

struct entry {
    uint64_t hash; /* 0: free */
    uint32_t bytes;
    uint32_t last_s; /* low 32 bits of the time */
};

struct set {
    struct entry entry[WAYS];
};
_Static_assert(sizeof(struct set) == 64, "a cache line");

struct flow_bytes {
    struct set *set;
    uint32_t sets; /* a power of two */
};

struct flow_bytes *flow_bytes_open(uint32_t flows)
{
    struct flow_bytes *table = calloc(1, sizeof *table);
    if (table == NULL)
        return NULL;
    table->sets = 1;
    while ((uint64_t)table->sets * WAYS < flows)
        table->sets *= 2;
    size_t bytes = table->sets * sizeof(struct set);
    table->set = aligned_alloc(sizeof(struct set), bytes);
    if (table->set == NULL) {
        free(table);
        return NULL;
    }
    memset(table->set, 0, bytes); /* touched now, not at the first packets */
    return table;
}

void flow_bytes_close(struct flow_bytes **table)
{
    if (*table == NULL)
        return;
    free((*table)->set);
    free(*table);
    *table = NULL;
}

uint32_t flow_bytes_room(const struct flow_bytes *table)
{
    return table->sets * WAYS;
}

/* Seconds that passed from `last_s` on; 0 where time ran backwards. */
static uint32_t silence(uint32_t last_s, uint32_t now_s)
{
    uint32_t passed = now_s - last_s;
    return passed > INT32_MAX ? 0 : passed;
}

uint32_t flow_bytes_add(struct flow_bytes *table, uint64_t hash, uint32_t bytes, int64_t time_ns,
                        uint32_t idle_s, bool anew)
{
    struct set *set = &table->set[hash >> 32 & (table->sets - 1)];
    uint32_t now_s = (uint32_t)(time_ns / 1000000000);
    hash |= 1; /* 0 means free */
    struct entry *entry = NULL, *oldest = &set->entry[0];
    for (unsigned i = 0; i < WAYS; i++) {
        struct entry *each = &set->entry[i];
        if (each->hash == hash) {
            entry = each;
            break;
        }
        if (each->hash == 0 ||
            (oldest->hash != 0 && silence(each->last_s, now_s) > silence(oldest->last_s, now_s)))
            oldest = each;
    }
    if (entry == NULL) {
        entry = oldest;
        *entry = (struct entry){.hash = hash, .last_s = now_s};
    }
    if (anew || silence(entry->last_s, now_s) > idle_s)
        entry->bytes = 0;
    uint32_t before = entry->bytes;
    entry->bytes = before + bytes < before ? UINT32_MAX : before + bytes;
    entry->last_s = now_s;
    return before;
}
