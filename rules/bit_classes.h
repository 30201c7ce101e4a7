/*
 * bit_classes.h - sets of conditions, each known by a small number: its class.
 *
 * Of all the values that a header field can have, most cannot be told apart by the rules: the same
 * conditions hold for them. Such values form a class. A set is a row of 64-bit words; the class 0
 * is the empty set. Equal sets get the same number.
 */
#ifndef RULES_BIT_CLASSES_H
#define RULES_BIT_CLASSES_H

#include <stdbool.h>
#include <stdint.h>

struct bit_classes {
    uint32_t words; /* of a set */
    uint32_t count;
    uint32_t room;
    uint64_t *bits; /* count x words */
    uint32_t *next; /* of the same hash; 0: none */
    uint32_t *head;
};

/* With the class 0. ERR_NO_MEMORY. */
int bit_classes_open(struct bit_classes *classes, uint32_t words);
void bit_classes_close(struct bit_classes *classes);

static inline const uint64_t *bit_classes_get(const struct bit_classes *classes, uint32_t number)
{
    return classes->bits + (uint64_t)number * classes->words;
}

/* The class of `set`, which must not lie in the classes' own memory. ERR_NO_MEMORY; ERR_TOO_LARGE
 * where all sets together would take more than `bytes_max`. */
int bit_classes_add(struct bit_classes *classes, const uint64_t *set, uint64_t bytes_max,
                    uint32_t *number);

#endif
