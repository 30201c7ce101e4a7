/*
 * prefix_table.h - from an address to the class of the prefixes that hold it.
 *
 * A tree of bytes: a node first compares the bytes that all prefixes below it share, then branches
 * over one byte. A single full address below a branch is a leaf that compares the rest. So a
 * thousand addresses take two or three steps, in memory that hardly anything else of them shares.
 */
#ifndef RULES_PREFIX_TABLE_H
#define RULES_PREFIX_TABLE_H

#include <stdint.h>

#include "bit_classes.h"

struct prefix {
    uint8_t key[16];
    uint8_t bits; /* of the key; those behind are 0 */
    uint32_t bit; /* number of the bit that the prefix stands for in a class */
};

struct prefix_node {
    uint8_t shared; /* bytes to compare */
    uint8_t path[15];
    uint32_t outside; /* class of what differs there */
    uint32_t child[256];
};

struct prefix_leaf {
    uint8_t path[16];
    uint32_t bytes;
    uint32_t outside;
    uint32_t inside;
};

struct prefix_table {
    uint32_t root; /* a class, or with a flag the number of a node or leaf */
    struct prefix_node *node;
    struct prefix_leaf *leaf;
    uint32_t nodes, nodes_room;
    uint32_t leaves, leaves_room;
};

#define PREFIX_NODE 0x80000000u
#define PREFIX_LEAF 0x40000000u
#define PREFIX_INDEX 0x3fffffffu

/*
 * Builds a table over `count` prefixes (reordered) of keys of key_bytes, adding what classes it
 * needs. Classes, and the table, take at most bytes_max each. ERR_NO_MEMORY, ERR_TOO_LARGE.
 */
int prefix_table_open(struct prefix_table *table, struct prefix *prefix, uint32_t count,
                      uint32_t key_bytes, struct bit_classes *classes, uint64_t bytes_max);
void prefix_table_close(struct prefix_table *table);

static inline uint32_t prefix_table_class(const struct prefix_table *table, const uint8_t *key)
{
    uint32_t at = table->root;
    while ((at & PREFIX_NODE) != 0) {
        const struct prefix_node *node = &table->node[at & PREFIX_INDEX];
        for (uint32_t i = 0; i < node->shared; i++) {
            if (key[i] != node->path[i])
                return node->outside;
        }
        key += node->shared;
        at = node->child[*key++];
    }
    if ((at & PREFIX_LEAF) != 0) {
        const struct prefix_leaf *leaf = &table->leaf[at & PREFIX_INDEX];
        for (uint32_t i = 0; i < leaf->bytes; i++) {
            if (key[i] != leaf->path[i])
                return leaf->outside;
        }
        return leaf->inside;
    }
    return at;
}

#endif
