/*
 * mending.c - see mending.h.
 */
#include "mending.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "answer_json.h"
#include "recorder.h"
#include "ring_registry.h"

#define STOOD ".scrub" /* settings of state.db that are not a person's begin with a point */
#define KEEP_S 30

struct stood {
    uint64_t position;
    int64_t started_ns;
    bool known;
};

static int find_stood(const char *name, const char *value, void *context)
{
    struct stood *stood = context;
    if (strcmp(name, STOOD) == 0)
        stood->known =
            sscanf(value, "%" SCNu64 " %" SCNd64, &stood->position, &stood->started_ns) == 2;
    return 0;
}

static void keep(struct recorder *recorder, const struct identity *ring, const struct stood *stood)
{
    char text[64];
    snprintf(text, sizeof text, "%" PRIu64 " %" PRId64, stood->position, stood->started_ns);
    (void)state_put_setting(recorder->state, ring, STOOD, text);
}

static struct mender_options options_of(const struct settings *settings)
{
    return (struct mender_options){
        .heal_delay_ns = settings->value[SETTING_heal_delay],
        .heal_rate = settings->value[SETTING_heal_rate],
        .scrub_interval_ns = settings->value[SETTING_scrub_interval],
        .scrub_rate = settings->value[SETTING_scrub_rate],
        .heedless = settings->value[SETTING_yielding] == 0,
    };
}

bool mending_has_setting(const char *name)
{
    int setting = setting_find(name, NULL);
    return setting == SETTING_heal_delay || setting == SETTING_heal_rate ||
           setting == SETTING_scrub_interval || setting == SETTING_scrub_rate || setting == SETTING_yielding;
}

void mending_set(struct ring_entry *entry, const struct settings *settings)
{
    struct mender_options options = options_of(settings);
    ring_set_mender(entry->ring, &options);
}

struct mender_options mending_options(struct ring_entry *entry)
{
    struct mender_options options = options_of(&entry->settings);
    struct stood stood = {0};
    int result = state_settings(entry->recorder->state, &entry->row.ring, find_stood, &stood);
    if (!stood.known) {
        /* A ring's first scrub begins an interval after this. */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        stood.started_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        if (result == 0)
            keep(entry->recorder, &entry->row.ring, &stood);
    }
    options.scrub_position = stood.position;
    options.scrub_started_ns = stood.started_ns;
    return options;
}

static void keep_ring(struct recorder *recorder, const struct ring_look *look)
{
    const struct identity *ring = &look->entry->row.ring;
    struct stood before = {0};
    struct mender_state state;
    ring_mender_state(look->entry->ring, &state);
    struct stood now = {
        .position = state.scrub_position,
        .started_ns = state.scrubbing ? state.scrub.started_ns : state.last_scrub.started_ns,
    };
    if (state_settings(recorder->state, ring, find_stood, &before) == 0 &&
        (!before.known || before.position != now.position || before.started_ns != now.started_ns))
        keep(recorder, ring, &now);
}

void mending_watch(struct recorder *recorder, int64_t second)
{
    struct ring_look *looks;
    uint32_t count;
    if (second % KEEP_S != 0 ||
        ring_registry_look(&recorder->registry, NULL, &looks, &count, NULL) != 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        if (looks[i].live)
            keep_ring(recorder, &looks[i]);
    ring_registry_look_away(&recorder->registry, &looks, count);
}

static json_t *json_scrub(const struct mender_scrub *scrub)
{
    if (scrub->ended_ns == 0)
        return json_null(); /* none has been finished in this run of the recorder */
    json_t *object = json_pack("{s:I, s:I, s:I}", "bytes", (json_int_t)scrub->bytes, "found",
                               (json_int_t)scrub->found, "mended", (json_int_t)scrub->mended);
    json_set_time(object, "started", scrub->started_ns, true);
    json_set_time(object, "ended", scrub->ended_ns, true);
    return object;
}

static double scrub_progress(const struct mender_state *state)
{
    if (!state->scrubbing || state->scrub_position_end == 0)
        return 0;
    return (double)state->scrub_position / (double)state->scrub_position_end;
}

json_t *json_mending(const struct mender_state *state)
{
    json_t *object = json_pack(
        "{s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:{s:b, s:f, s:I, s:I, s:I, s:o}}",
        "degraded_segments", (json_int_t)state->degraded_segments, "degraded_bytes",
        (json_int_t)state->degraded_bytes, "healing", (int)state->healing, "healed_segments",
        (json_int_t)state->healed_segments, "healed_bytes", (json_int_t)state->healed_bytes,
        "repaired", (json_int_t)state->repaired, "unrepairable", (json_int_t)state->unrepairable,
        "repairs_waiting", (json_int_t)state->repairs_waiting, "scrub", "running",
        (int)state->scrubbing, "progress", scrub_progress(state), "bytes",
        (json_int_t)state->scrub.bytes, "found", (json_int_t)state->scrub.found, "mended",
        (json_int_t)state->scrub.mended, "last", json_scrub(&state->last_scrub));
    json_set_time(json_object_get(object, "scrub"), "next", state->scrub_next_ns,
                  state->scrub_next_ns != 0);
    return object;
}
