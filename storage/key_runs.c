#include "key_runs.h"

#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "key_run.h"

struct excluded_segment {
    struct identity segment;
    uint32_t revision; /* 0: an empty slot, for revisions count from 1 */
};

static struct excluded_segment *slot_of(struct excluded_segment *slot, uint32_t room, const struct identity *segment, uint32_t revision)
{
    uint32_t at;
    memcpy(&at, segment->byte, sizeof at); /* random bits */
    for (at &= room - 1; slot[at].revision != 0; at = (at + 1) & (room - 1))
        if (slot[at].revision == revision && identity_equal(&slot[at].segment, segment))
            break;
    return &slot[at];
}

static bool grow(struct key_runs *runs)
{
    uint32_t room = runs->room == 0 ? 1024 : 2 * runs->room;
    struct excluded_segment *slot = calloc(room, sizeof *slot);
    if (!slot)
        return false;
    for (uint32_t i = 0; i < runs->room; i++)
        if (runs->slot[i].revision != 0)
            *slot_of(slot, room, &runs->slot[i].segment, runs->slot[i].revision) = runs->slot[i];
    free(runs->slot);
    runs->slot = slot;
    runs->room = room;
    return true;
}

static int exclude(struct key_runs *runs, const struct key_run_segment *segment)
{
    if (segment->revision == 0)
        return 0; /* there is no such segment */
    if (2 * runs->count >= runs->room && !grow(runs))
        return ERR_NO_MEMORY;
    struct excluded_segment *slot = slot_of(runs->slot, runs->room, &segment->segment, segment->revision);
    runs->count += slot->revision == 0;
    *slot = (struct excluded_segment){.segment = segment->segment, .revision = segment->revision};
    return 0;
}

int key_runs_ask(struct key_runs *runs, int fd, const struct identity *ring, const struct narrowing *tree)
{
    struct key_run *run = NULL;
    struct segment_set set;
    int code = key_run_open_fd(fd, ring, &run);
    if (code == 0)
        code = key_run_narrow(run, tree, &set);
    runs->asked++;
    runs->bad += code != 0 && code != ERR_NO_MEMORY;
    runs->bytes_read += run ? key_run_bytes_read(run) : 0;
    for (uint32_t i = 0; code == 0 && i < key_run_segments(run); i++)
        if ((set.word[i / 64] >> i % 64 & 1) == 0)
            code = exclude(runs, key_run_segment(run, i));
    key_run_close(&run);
    return code == ERR_NO_MEMORY ? code : 0;
}

bool key_runs_exclude(const struct key_runs *runs, const struct identity *segment, uint32_t revision)
{
    return runs->count > 0 && revision != 0 && slot_of(runs->slot, runs->room, segment, revision)->revision == revision;
}

void key_runs_close(struct key_runs *runs)
{
    free(runs->slot);
    *runs = (struct key_runs){0};
}
