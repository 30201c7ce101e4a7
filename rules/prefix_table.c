#include "prefix_table.h"

#include <stdlib.h>
#include <string.h>

#include "errors.h"

struct builder {
    struct prefix_table *table;
    struct bit_classes *classes;
    uint32_t key_bytes;
    uint64_t bytes_max;
};

static int by_key(const void *a, const void *b)
{
    const struct prefix *left = a, *right = b;
    int order = memcmp(left->key, right->key, sizeof left->key);
    return order != 0 ? order : (int)left->bits - (int)right->bits;
}

/* The class of `inherited` and the prefixes that end in this byte and hold `byte`. */
static int class_with(struct builder *builder, uint32_t inherited, const struct prefix *prefix,
                      uint32_t count, uint32_t depth, unsigned byte, uint32_t *number)
{
    uint32_t words = builder->classes->words;
    uint64_t *set = NULL;
    *number = inherited;
    for (uint32_t i = 0; i < count; i++) {
        if (prefix[i].bits > 8 * depth + 8)
            continue;
        unsigned shift = 8 * depth + 8 - prefix[i].bits;
        if ((unsigned)prefix[i].key[depth] >> shift != byte >> shift)
            continue;
        if (set == NULL) {
            set = malloc(words * sizeof *set);
            if (set == NULL)
                return ERR_NO_MEMORY;
            memcpy(set, bit_classes_get(builder->classes, inherited), words * sizeof *set);
        }
        set[prefix[i].bit / 64] |= UINT64_C(1) << prefix[i].bit % 64;
    }
    if (set == NULL)
        return 0;
    int result = bit_classes_add(builder->classes, set, builder->bytes_max, number);
    free(set);
    return result;
}

static int new_node(struct builder *builder, uint32_t *number)
{
    struct prefix_table *table = builder->table;
    if (table->nodes == table->nodes_room) {
        uint32_t room = table->nodes_room ? table->nodes_room * 2 : 4;
        if (room * sizeof *table->node > builder->bytes_max)
            return ERR_TOO_LARGE;
        struct prefix_node *grown = realloc(table->node, room * sizeof *grown);
        if (grown == NULL)
            return ERR_NO_MEMORY;
        table->node = grown;
        table->nodes_room = room;
    }
    *number = table->nodes++;
    memset(&table->node[*number], 0, sizeof table->node[0]);
    return 0;
}

static int new_leaf(struct builder *builder, const struct prefix_leaf *leaf, uint32_t *at)
{
    struct prefix_table *table = builder->table;
    if (table->leaves == table->leaves_room) {
        uint32_t room = table->leaves_room ? table->leaves_room * 2 : 16;
        struct prefix_leaf *grown = realloc(table->leaf, room * sizeof *grown);
        if (grown == NULL)
            return ERR_NO_MEMORY;
        table->leaf = grown;
        table->leaves_room = room;
    }
    *at = PREFIX_LEAF | table->leaves;
    table->leaf[table->leaves++] = *leaf;
    return 0;
}

/* All prefixes are the same full key. */
static int build_leaf(struct builder *builder, const struct prefix *prefix, uint32_t count,
                      uint32_t depth, uint32_t inherited, uint32_t *at)
{
    struct prefix_leaf leaf = {.bytes = builder->key_bytes - depth, .outside = inherited};
    memcpy(leaf.path, prefix[0].key + depth, leaf.bytes);
    int result = class_with(builder, inherited, prefix, count, builder->key_bytes - 1,
                            prefix[0].key[builder->key_bytes - 1], &leaf.inside);
    return result < 0 ? result : new_leaf(builder, &leaf, at);
}

/*
 * A place in the tree for prefixes (sorted) that share their first `depth` bytes and are longer
 * than that; `inherited` is the class of those that hold everything here.
 */
static int build(struct builder *builder, const struct prefix *prefix, uint32_t count,
                 uint32_t depth, uint32_t inherited, uint32_t *at)
{
    const uint8_t *first = prefix[0].key, *last = prefix[count - 1].key;
    uint32_t shared = 0, number, shortest = 128;
    for (uint32_t i = 0; i < count; i++)
        shortest = prefix[i].bits < shortest ? prefix[i].bits : shortest;
    if (shortest == 8 * builder->key_bytes && memcmp(first, last, builder->key_bytes) == 0)
        return build_leaf(builder, prefix, count, depth, inherited, at);
    while (8 * (depth + shared + 1) < shortest && first[depth + shared] == last[depth + shared])
        shared++;
    int result = new_node(builder, &number);
    if (result < 0)
        return result;
    struct prefix_node *node = &builder->table->node[number];
    node->shared = (uint8_t)shared;
    memcpy(node->path, first + depth, shared);
    node->outside = inherited;
    depth += shared;
    uint32_t from = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        while (from < count && prefix[from].key[depth] < byte)
            from++; /* shorter ones that began before may still hold this byte: class_with() looks
                       at all */
        uint32_t to = from;
        while (to < count && prefix[to].key[depth] == byte)
            to++;
        uint32_t child;
        result = class_with(builder, inherited, prefix, count, depth, byte, &child);
        if (result < 0)
            return result;
        /* Of equal bytes, the shorter prefixes come first only where all else is 0: pick the longer
         * ones. */
        struct prefix *longer = malloc((to - from + 1) * sizeof *longer);
        if (longer == NULL)
            return ERR_NO_MEMORY;
        uint32_t longers = 0;
        for (uint32_t i = from; i < to; i++) {
            if (prefix[i].bits > 8 * depth + 8)
                longer[longers++] = prefix[i];
        }
        if (longers > 0)
            result = build(builder, longer, longers, depth + 1, child, &child);
        free(longer);
        if (result < 0)
            return result;
        builder->table->node[number].child[byte] = child;
    }
    *at = PREFIX_NODE | number;
    return 0;
}

int prefix_table_open(struct prefix_table *table, struct prefix *prefix, uint32_t count,
                      uint32_t key_bytes, struct bit_classes *classes, uint64_t bytes_max)
{
    struct builder builder = {table, classes, key_bytes, bytes_max};
    *table = (struct prefix_table){0};
    uint64_t *everywhere = calloc(classes->words, sizeof *everywhere);
    struct prefix *longer = malloc((count + 1) * sizeof *longer);
    uint32_t inherited = 0, longers = 0;
    int result = everywhere == NULL || longer == NULL ? ERR_NO_MEMORY : 0;
    if (result < 0)
        goto done;
    qsort(prefix, count, sizeof *prefix, by_key);
    for (uint32_t i = 0; i < count; i++) { /* a prefix of length 0 holds every address */
        if (prefix[i].bits == 0)
            everywhere[prefix[i].bit / 64] |= UINT64_C(1) << prefix[i].bit % 64;
        else
            longer[longers++] = prefix[i];
    }
    result = bit_classes_add(classes, everywhere, bytes_max, &inherited);
    table->root = inherited;
    if (result == 0 && longers > 0)
        result = build(&builder, longer, longers, 0, inherited, &table->root);
done:
    free(longer);
    free(everywhere);
    if (result < 0)
        prefix_table_close(table);
    return result;
}

void prefix_table_close(struct prefix_table *table)
{
    free(table->node);
    free(table->leaf);
    *table = (struct prefix_table){0};
}
