#include "bit_classes.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "errors.h"

#define HEADS 16384u

int bit_classes_open(struct bit_classes *classes, uint32_t words)
{
    *classes = (struct bit_classes){.words = words, .room = 16};
    classes->bits = calloc(classes->room, words * sizeof *classes->bits);
    classes->next = calloc(classes->room, sizeof *classes->next);
    classes->head = calloc(HEADS, sizeof *classes->head);
    if (classes->bits == NULL || classes->next == NULL || classes->head == NULL) {
        bit_classes_close(classes);
        return ERR_NO_MEMORY;
    }
    classes->count = 1; /* the empty set is found by a test of its own: a head of 0 means none */
    return 0;
}

void bit_classes_close(struct bit_classes *classes)
{
    free(classes->bits);
    free(classes->next);
    free(classes->head);
    *classes = (struct bit_classes){0};
}

static bool is_empty(const uint64_t *set, uint32_t words)
{
    for (uint32_t i = 0; i < words; i++) {
        if (set[i] != 0)
            return false;
    }
    return true;
}

static int grow(struct bit_classes *classes)
{
    uint32_t room = classes->room * 2;
    uint64_t *bits = realloc(classes->bits, (uint64_t)room * classes->words * sizeof *bits);
    if (bits == NULL)
        return ERR_NO_MEMORY;
    classes->bits = bits;
    uint32_t *next = realloc(classes->next, room * sizeof *next);
    if (next == NULL)
        return ERR_NO_MEMORY;
    classes->next = next;
    classes->room = room;
    return 0;
}

int bit_classes_add(struct bit_classes *classes, const uint64_t *set, uint64_t bytes_max,
                    uint32_t *number)
{
    uint64_t set_bytes = classes->words * sizeof *set;
    *number = 0;
    if (is_empty(set, classes->words))
        return 0;
    uint32_t *head = &classes->head[XXH3_64bits(set, set_bytes) % HEADS];
    for (uint32_t each = *head; each != 0; each = classes->next[each]) {
        if (memcmp(bit_classes_get(classes, each), set, set_bytes) == 0) {
            *number = each;
            return 0;
        }
    }
    if ((classes->count + UINT64_C(1)) * set_bytes > bytes_max)
        return ERR_TOO_LARGE;
    if (classes->count == classes->room && grow(classes) < 0)
        return ERR_NO_MEMORY;
    *number = classes->count++;
    memcpy(classes->bits + (uint64_t)*number * classes->words, set, set_bytes);
    classes->next[*number] = *head;
    *head = *number;
    return 0;
}
