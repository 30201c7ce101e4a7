/*
 * segment_verdicts.c - see segment_verdicts.h.
 *
 * A table of words: the upper 56 bits of a conversation's hash, and in the lower eight the words of the filter that hold. All eight
 * set: its flows contradict one another.
 */
#include "segment_verdicts.h"

#include <stdlib.h>

#include "errors.h"
#include "filter_words.h"
#include "verdicts.h"

#define TRUTH_MASK UINT64_C(255)
#define CONTRADICTION TRUTH_MASK
#define PLACES_MIN 64u

_Static_assert(FILTER_WORDS_MAX < 8, "a byte holds the words that hold, and is never full of them");

struct segment_verdicts {
    uint64_t *place; /* 0: free; never full */
    uint32_t mask, count;
};

struct filling {
    struct segment_verdicts *verdicts;
    uint64_t seed;
    uint64_t bytes_max;
    verdict_truth_of *truth_of;
    void *context;
};

static uint64_t *place_of(const struct segment_verdicts *verdicts, uint64_t hash)
{
    uint32_t at = (uint32_t)(hash >> 24) & verdicts->mask;
    while (verdicts->place[at] != 0 && ((verdicts->place[at] ^ hash) & ~TRUTH_MASK) != 0)
        at = (at + 1) & verdicts->mask;
    return &verdicts->place[at];
}

/* Room for one more: at most half of it is in use. */
static int grow(struct filling *filling)
{
    struct segment_verdicts *verdicts = filling->verdicts;
    uint32_t places = verdicts->place ? verdicts->mask + 1 : 0;
    if (2 * (verdicts->count + 1) <= places)
        return 0;
    struct segment_verdicts more = {.mask = (places > 0 ? 2 * places : PLACES_MIN) - 1};
    if ((more.mask + 1) * sizeof *more.place > filling->bytes_max)
        return ERR_NO_MEMORY;
    more.place = calloc(more.mask + 1ul, sizeof *more.place);
    if (!more.place)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < places; i++)
        if (verdicts->place[i] != 0)
            *place_of(&more, verdicts->place[i]) = verdicts->place[i];
    more.count = verdicts->count;
    free(verdicts->place);
    *verdicts = more;
    return 0;
}

static int add_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    struct filling *filling = context;
    uint64_t hash;
    if (!seen->app || !verdicts_hash(keys, filling->seed, &hash))
        return 0;
    int result = grow(filling);
    if (result)
        return result;
    uint64_t word = (hash & ~TRUTH_MASK) | filling->truth_of(filling->context, seen->app);
    uint64_t *place = place_of(filling->verdicts, hash);
    if (*place == 0) {
        *place = word;
        filling->verdicts->count++;
    } else if (*place != word) {
        *place |= CONTRADICTION;
    }
    return 0;
}

int segment_verdicts_open(struct flow_reader *index, uint64_t seed, verdict_truth_of *truth_of, void *context, uint64_t bytes_max,
                          struct segment_verdicts **out)
{
    struct filling filling = {.verdicts = calloc(1, sizeof *filling.verdicts),
                              .seed = seed,
                              .bytes_max = bytes_max,
                              .truth_of = truth_of,
                              .context = context};
    *out = NULL;
    int result = filling.verdicts ? grow(&filling) : ERR_NO_MEMORY;
    if (!result)
        result = flow_reader_each(index, add_flow, &filling);
    if (result)
        segment_verdicts_close(&filling.verdicts);
    *out = filling.verdicts;
    return result;
}

uint64_t segment_verdicts_bytes(const struct segment_verdicts *verdicts)
{
    return (verdicts->mask + 1ul) * sizeof *verdicts->place;
}

bool segment_verdicts_get(const struct segment_verdicts *verdicts, uint64_t hash, uint32_t *truth)
{
    uint64_t word = *place_of(verdicts, hash);
    *truth = (uint32_t)(word & TRUTH_MASK);
    return word != 0 && *truth != CONTRADICTION;
}

void segment_verdicts_close(struct segment_verdicts **slot)
{
    if (!*slot)
        return;
    free((*slot)->place);
    free(*slot);
    *slot = NULL;
}
