/*
 * identity.h - the 128 random bits that name a ring, a disk, a segment and a run.
 */
#ifndef SCHEMA_IDENTITY_H
#define SCHEMA_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define IDENTITY_TEXT_SIZE 33 /* 32 hexadecimal digits and the terminating zero */

struct identity {
    uint8_t byte[16];
};

/* Fills `id` with random bits from getrandom(2). Aborts if the kernel has none: nothing is safe then. */
void identity_make(struct identity *id);

/* Writes the 32 lower-case hexadecimal digits of `id`; returns `text`. */
const char *identity_text(const struct identity *id, char text[IDENTITY_TEXT_SIZE]);

/* Reads 32 hexadecimal digits. Returns 0, or ERR_INVALID and leaves `id` as it was. */
int identity_parse(const char *text, struct identity *id);

static inline bool identity_equal(const struct identity *a, const struct identity *b)
{
    return memcmp(a->byte, b->byte, sizeof a->byte) == 0;
}

static inline bool identity_is_zero(const struct identity *id)
{
    static const struct identity zero;
    return identity_equal(id, &zero);
}

#endif
