/*
 * standing.c - see standing.h.
 *
 * In state.db a ring has one setting with a list of them, in JSON. In memory there is, for each
 * that had to be started again, when to try the next time.
 */
#include "standing.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "event_log.h"
#include "methods.h"

#define SETTING_STANDING ".recordings"
#define STANDING_MAX 64u
#define DELAY_FIRST_NS 1000000000ull
#define DELAY_MAX_NS 60000000000ull

struct attempt {
    struct attempt *next;
    struct identity ring;
    char *key; /* the parameters, as text */
    uint64_t due_ns;
    uint64_t delay_ns;
    bool told; /* that it cannot be started */
};

struct standing_list {
    pthread_mutex_t lock; /* the attempts; and reading and writing the setting as one step */
    struct attempt *attempts;
};

int standing_open(struct standing_list **list, struct failure *failure)
{
    *list = calloc(1, sizeof **list);
    if (!*list)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    pthread_mutex_init(&(*list)->lock, NULL);
    return 0;
}

void standing_close(struct standing_list **slot)
{
    struct standing_list *list = *slot;
    if (!list)
        return;
    while (list->attempts) {
        struct attempt *attempt = list->attempts;
        list->attempts = attempt->next;
        free(attempt->key);
        free(attempt);
    }
    pthread_mutex_destroy(&list->lock);
    free(list);
    *slot = NULL;
}

/* ---- state.db
 * -------------------------------------------------------------------------------------- */

static int take_setting(const char *name, const char *value, void *context)
{
    json_t **list = context;
    if (strcmp(name, SETTING_STANDING) == 0 && !*list)
        *list = json_loads(value, JSON_REJECT_DUPLICATES, NULL);
    return 0;
}

/* The list of a ring; empty where there is none, or none that can be read. Null: out of memory, or
 * state.db failed. */
static json_t *load(struct recorder *recorder, const struct identity *ring)
{
    json_t *list = NULL;
    if (state_settings(recorder->state, ring, take_setting, &list) != 0) {
        json_decref(list);
        return NULL;
    }
    if (!json_is_array(list)) {
        json_decref(list);
        list = json_array();
    }
    return list;
}

static int save(struct recorder *recorder, const struct identity *ring, const json_t *list)
{
    char *text = json_dumps(list, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return ERR_NO_MEMORY;
    int result = state_put_setting(recorder->state, ring, SETTING_STANDING,
                                   json_array_size(list) > 0 ? text : NULL);
    free(text);
    return result;
}

static int ring_identity(struct recorder *recorder, const char *name, struct identity *identity,
                         struct failure *failure)
{
    struct ring_look *looks;
    uint32_t count;
    int result = ring_registry_look(&recorder->registry, name, &looks, &count, failure);
    if (result != 0)
        return result;
    *identity = looks[0].entry->row.ring;
    ring_registry_look_away(&recorder->registry, &looks, count);
    return 0;
}

static int not_kept(struct failure *failure, int code)
{
    return fail(failure, code, "state.db could not be written: %s", error_text(code));
}

int standing_keep(struct recorder *recorder, const char *ring, const json_t *params,
                  struct failure *failure)
{
    struct identity identity;
    int result = ring_identity(recorder, ring, &identity, failure);
    if (result != 0)
        return result;
    pthread_mutex_lock(&recorder->standing->lock);
    json_t *list = load(recorder, &identity);
    if (!list)
        result = ERR_NO_MEMORY;
    else if (json_array_size(list) >= STANDING_MAX)
        result = ERR_TOO_LARGE;
    else if (json_array_append_new(list, json_deep_copy(params)) != 0)
        result = ERR_NO_MEMORY;
    else
        result = save(recorder, &identity, list);
    pthread_mutex_unlock(&recorder->standing->lock);
    json_decref(list);
    return result == 0 ? 0 : not_kept(failure, result);
}

static bool has_key(const json_t *params, const char *key)
{
    char *text = json_dumps(params, JSON_COMPACT | JSON_SORT_KEYS);
    bool same = text && strcmp(text, key) == 0;
    free(text);
    return same;
}

int standing_drop(struct recorder *recorder, const char *ring, const char *key)
{
    struct identity identity;
    int result = ring_identity(recorder, ring, &identity, NULL);
    if (result != 0)
        return result;
    pthread_mutex_lock(&recorder->standing->lock);
    json_t *list = load(recorder, &identity);
    for (size_t i = json_array_size(list); i-- > 0;)
        if (has_key(json_array_get(list, i), key))
            json_array_remove(list, i);
    result = list ? save(recorder, &identity, list) : ERR_NO_MEMORY;
    pthread_mutex_unlock(&recorder->standing->lock);
    json_decref(list);
    return result;
}

int standing_forget(struct recorder *recorder, const char *ring, struct failure *failure)
{
    struct identity identity;
    int result = ring_identity(recorder, ring, &identity, failure);
    if (result != 0)
        return result;
    pthread_mutex_lock(&recorder->standing->lock);
    json_t *list = load(recorder, &identity);
    bool any = json_array_size(list) > 0;
    if (any)
        result = state_put_setting(recorder->state, &identity, SETTING_STANDING, NULL);
    pthread_mutex_unlock(&recorder->standing->lock);
    json_decref(list);
    return result == 0 ? any : not_kept(failure, result);
}

/* ---- starting again
 * -------------------------------------------------------------------------------- */

static struct attempt *attempt_of(struct standing_list *list, const struct identity *ring,
                                  const char *key)
{
    struct attempt *attempt = list->attempts;
    while (attempt && !(identity_equal(&attempt->ring, ring) && strcmp(attempt->key, key) == 0))
        attempt = attempt->next;
    if (attempt)
        return attempt;
    attempt = calloc(1, sizeof *attempt);
    if (attempt)
        attempt->key = strdup(key);
    if (!attempt || !attempt->key) {
        free(attempt);
        return NULL;
    }
    attempt->ring = *ring;
    attempt->next = list->attempts;
    list->attempts = attempt;
    return attempt;
}

static void revive_one(struct recorder *recorder, const struct ring_entry *entry,
                       const json_t *params)
{
    struct request request = {.recorder = recorder, .params = params, .answer_fd = -1, .cancel_fd = -1};
    struct recording_options options = {0};
    struct recording *recording;
    uint64_t now_ns = clock_monotonic_ns();
    char *key = json_dumps(params, JSON_COMPACT | JSON_SORT_KEYS);
    struct attempt *attempt = key ? attempt_of(recorder->standing, &entry->row.ring, key) : NULL;
    bool runs = key && recording_runs(recorder, entry->row.name, key);
    if (attempt && runs && now_ns > attempt->due_ns + DELAY_MAX_NS)
        attempt->delay_ns = 0; /* it has run for long enough to be called healthy */
    if (!attempt || runs || now_ns < attempt->due_ns) {
        free(key);
        return;
    }
    int result = record_take_options(&request, &options);
    options.key = key;
    if (result == 0)
        result = recording_start(recorder, entry->row.name, &options, &recording, &request.failure);
    if (result == 0) {
        recording_release(&recording);
        attempt->told = false;
    } else if (!attempt->told && !recorder_stopping(recorder)) {
        attempt->told = true;
        event_log_say(recorder->events, "error", "recording-failed", entry->row.name,
                      "a recording that should run cannot be started, and is tried again: %.380s",
                      request.failure.text);
    }
    /* A recording that starts and fails at once is no better than one that does not start. */
    attempt->delay_ns = attempt->delay_ns == 0 ? DELAY_FIRST_NS : 2 * attempt->delay_ns;
    if (attempt->delay_ns > DELAY_MAX_NS)
        attempt->delay_ns = DELAY_MAX_NS;
    attempt->due_ns = now_ns + attempt->delay_ns;
    free(key);
}

void standing_revive(struct recorder *recorder)
{
    struct ring_look *looks;
    uint32_t count;
    if (recorder->session || recorder_stopping(recorder) ||
        ring_registry_look(&recorder->registry, NULL, &looks, &count, NULL) != 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        size_t at;
        const json_t *params;
        if (!looks[i].live)
            continue;
        /* Under the lock, so that what is stopped meanwhile is not started once more. */
        pthread_mutex_lock(&recorder->standing->lock);
        json_t *list = load(recorder, &looks[i].entry->row.ring);
        json_array_foreach(list, at, params) if (json_is_object(params))
            revive_one(recorder, looks[i].entry, params);
        pthread_mutex_unlock(&recorder->standing->lock);
        json_decref(list);
    }
    ring_registry_look_away(&recorder->registry, &looks, count);
}
