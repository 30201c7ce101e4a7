/*
 * verdict_care.c - see verdict_care.h.
 */
#include "verdict_care.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rounds.h"

#define CARE_PERIOD_MS 500
#define ROUNDS_ALWAYS 20 /* so often it is written how far a stream is that has nothing to say, and looked for what is left of rings */

struct verdict_care {
    struct recorder *recorder;
    int directory;
    struct rounds *rounds;
    uint32_t round; /* the rounds' own */
};

struct looked {
    const struct ring_look *looks;
    uint32_t count;
};

static bool is_known(const struct identity *ring, void *context)
{
    const struct looked *looked = context;
    for (uint32_t i = 0; i < looked->count; i++)
        if (identity_equal(&looked->looks[i].entry->row.ring, ring))
            return true;
    return false;
}

static void make_round(void *context)
{
    struct verdict_care *care = context;
    struct ring_registry *registry = &care->recorder->registry;
    bool always = ++care->round % ROUNDS_ALWAYS == 0;
    struct looked looked;
    struct ring_look *looks;
    if (ring_registry_look(registry, NULL, &looks, &looked.count, NULL) != 0)
        return;
    looked.looks = looks;
    if (always)
        verdict_log_tidy(care->directory, is_known, &looked);
    for (uint32_t i = 0; i < looked.count; i++)
        if (looks[i].live)
            ring_flush_verdicts(looks[i].entry->ring, always);
    ring_registry_look_away(registry, &looks, looked.count);
}

int verdict_care_open(struct recorder *recorder, struct verdict_care **result, struct failure *failure)
{
    struct verdict_care *care = calloc(1, sizeof *care);
    *result = care;
    if (!care)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    care->recorder = recorder;
    care->directory = -1;
    int state = open(recorder->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (state >= 0 && (mkdirat(state, "verdicts", 0750) == 0 || errno == EEXIST))
        care->directory = openat(state, "verdicts", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int error = errno;
    if (state >= 0)
        close(state);
    if (care->directory >= 0)
        return 0;
    verdict_care_close(result);
    return fail_errno(failure, error, "%.300s/verdicts cannot be opened", recorder->directory);
}

int verdict_care_start(struct verdict_care *care, struct failure *failure)
{
    return rounds_open("verdict-care", CARE_PERIOD_MS, make_round, care, &care->rounds, failure);
}

void verdict_care_stop(struct verdict_care *care)
{
    if (care)
        rounds_close(&care->rounds);
}

void verdict_care_close(struct verdict_care **slot)
{
    struct verdict_care *care = *slot;
    if (!care)
        return;
    verdict_care_stop(care);
    if (care->directory >= 0)
        close(care->directory);
    free(care);
    *slot = NULL;
}

int verdict_care_directory(const struct verdict_care *care)
{
    return care->directory;
}

int verdict_care_each(struct verdict_care *care, struct ring *ring, int (*each)(int fd, void *context), void *context)
{
    ring_flush_verdicts(ring, true);
    return verdict_log_each(care->directory, &ring_options(ring)->ring, each, context);
}
