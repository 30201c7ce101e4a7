/*
 * purging.c - see purging.h: a reading process finds which packets go, the ring erases them.
 *
 * Where nobody records into the ring or reads it, it is owned alone for all of it, and all that no segment covers is cleared with the rest (ring_purge()). Else it is
 * used as a job, and all goes on beside the purge (ring_purge_live()): what is recorded after the finding stays. Which packets go is the process's word; the ring
 * sees to it that none goes whose time is not in the range.
 *
 * What is being erased is written down in state.db before the first byte of it is, and crossed out when the last one is: so a purge that was interrupted is named at the next
 * start.
 */
#include "purging.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "answer_json.h"
#include "catalog_care.h"
#include "event_log.h"
#include "job_list.h"
#include "methods.h"
#include "reading.h"
#include "ring_opening.h"
#include "run_care.h"
#include "waiting.h"

#define CLAIM_MS 5000 /* for a run of keys that is just being made */
#define BEGUN ".purge" /* settings of state.db that are not a person's begin with a point */

struct purging {
    struct request *request;
    struct ring_entry *entry;
    struct reading_options options;
    bool dry_run, give_up_away;
    bool live; /* the ring is not ours alone */
    struct reading_result found;
    struct purge_range *range;
    uint32_t ranges;
    uint64_t segments; /* that hold some of it */
    struct purge_report report;
    struct failure failure;
    atomic_bool cancel;
};

/* ---- what has been begun ------------------------------------------------------------------------ */

static int note_begun(struct purging *purging)
{
    struct failure *failure = &purging->failure;
    const struct reading_options *options = &purging->options;
    size_t room = strlen(options->filter) + 64;
    char *text = malloc(room);
    if (!text)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    snprintf(text, room, "%" PRId64 " %" PRId64 " %s", options->from_ns, options->to_ns, options->filter);
    int result = state_put_setting(purging->entry->recorder->state, &purging->entry->row.ring, BEGUN, text);
    free(text);
    return result == 0 ? 0 : fail(failure, result, "state.db could not be written: %s", error_text(result));
}

static void note_done(struct purging *purging)
{
    (void)state_put_setting(purging->entry->recorder->state, &purging->entry->row.ring, BEGUN, NULL);
}

static int say_begun(const char *name, const char *value, void *context)
{
    const struct ring_entry *entry = context;
    int64_t from_ns, to_ns;
    int filter = 0;
    if (strcmp(name, BEGUN) != 0 || sscanf(value, "%" SCNd64 " %" SCNd64 " %n", &from_ns, &to_ns, &filter) < 2)
        return 0;
    event_log_say(entry->recorder->events, "warning", "purge-interrupted", entry->row.name,
                  "a purge was interrupted, and part of the packets may still be there; the same command goes on: tapeloop purge %s --from %" PRId64
                  ".%09" PRId64 " --to %" PRId64 ".%09" PRId64 " %.300s",
                  entry->row.name, from_ns / 1000000000, from_ns % 1000000000, to_ns / 1000000000, to_ns % 1000000000, value + filter);
    return 0;
}

void purging_say_interrupted(struct ring_entry *entry)
{
    (void)state_settings(entry->recorder->state, &entry->row.ring, say_begun, entry);
}

bool purging_has_setting(const char *name)
{
    return setting_find(name, NULL) == SETTING_purge_rate;
}

/* ---- finding -------------------------------------------------------------------------------- */

static int take_ranges(struct purging *purging, int fd)
{
    struct failure *failure = &purging->request->failure;
    off_t bytes = lseek(fd, 0, SEEK_END);
    if (bytes < 0 || bytes % (off_t)sizeof *purging->range != 0 ||
        bytes / (off_t)sizeof *purging->range > (off_t)PURGE_RANGES_MAX)
        return fail(failure, ERR_PROTOCOL, "the list of packets that was found makes no sense");
    purging->range = malloc((size_t)bytes + 1);
    if (!purging->range)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    for (off_t at = 0; at < bytes;) {
        ssize_t count = pread(fd, (uint8_t *)purging->range + at, (size_t)(bytes - at), at);
        if (count <= 0)
            return fail_errno(failure, count < 0 ? errno : EIO, "the list of packets that was found");
        at += count;
    }
    purging->ranges = purge_sort(purging->range, (uint32_t)((size_t)bytes / sizeof *purging->range));
    return 0;
}

static int count_segment(const struct segment_row *row, void *context)
{
    struct purging *purging = context;
    purging->segments += purge_concerns(purging->range, purging->ranges, row);
    return 0;
}

static int find(struct purging *purging)
{
    struct failure *failure = &purging->request->failure;
    int fd = memfd_create("tapeloop-purge", MFD_CLOEXEC);
    if (fd < 0)
        return fail_errno(failure, errno, "a list of packets");
    purging->options.output = fd;
    int code = reading_run(purging->request, purging->entry, &purging->options, &purging->found);
    if (code == 0)
        code = take_ranges(purging, fd);
    close(fd);
    if (code == 0)
        code = ring_find(purging->entry->ring, INT64_MIN, INT64_MAX, count_segment, purging);
    if (code == 0 && catalog_care_lacks(purging->entry))
        code = fail(failure, ERR_CORRUPT, "ring %s: the catalog has lost something, so packets would be left: tapeloop rebuild %s finds all again",
                    purging->entry->row.name, purging->entry->row.name);
    if (code != 0 && failure->code == 0)
        fail(failure, code, "ring %s: the catalog cannot be read: %s", purging->entry->row.name, error_text(code));
    return code;
}

/* ---- erasing -------------------------------------------------------------------------------- */

static bool is_cancelled(void *context)
{
    const struct purging *purging = context;
    return atomic_load(&purging->cancel) || recorder_stopping(purging->entry->recorder);
}

static void note_progress(void *context, uint64_t done, uint64_t total)
{
    struct purging *purging = context;
    atomic_store(&purging->entry->purge_total, total);
    atomic_store(&purging->entry->purge_done, done);
}

/* What lies beside the ring and tells of what is in it: runs of keys, and what is said of conversations, which can be asked for any of them. */
static void keys_forget(struct ring_entry *entry)
{
    run_care_drop(entry->recorder->run_care, &entry->row.ring);
    if (ring_verdict_log(entry->ring))
        verdict_log_forget(ring_verdict_log(entry->ring));
}

/* Segments move in an order that the walk of a start does not know: the next one reads the disks whole. */
static int purge_live(struct purging *purging)
{
    struct ring_entry *entry = purging->entry;
    struct recorder *recorder = entry->recorder;
    struct settings settings; /* as they are now, not as they were when the ring came up */
    int result = ring_stored_settings(entry, &settings, &purging->failure);
    if (result != 0)
        return result;
    struct ring_purge_options options = {
        .from_ns = purging->options.from_ns,
        .to_ns = purging->options.to_ns,
        .give_up_away = purging->give_up_away,
        .rate = settings.value[SETTING_purge_rate],
        .progress = note_progress,
        .give_up = is_cancelled,
        .context = purging,
    };
    result = catalog_care_mark(recorder, &entry->row.ring);
    if (result != 0)
        return fail(&purging->failure, result, "state.db could not be written: %s", error_text(result));
    result = ring_purge_live(entry->ring, purging->range, purging->ranges, &options, &purging->report, &purging->failure);
    keys_forget(entry);
    return result;
}

/* One at a time, for others to see. */
static int purge_beside(struct purging *purging)
{
    struct ring_entry *entry = purging->entry;
    if (atomic_exchange(&entry->purging, true))
        return fail(&purging->failure, ERR_BUSY, "ring %s: packets are being purged from it; try again when that is done", entry->row.name);
    note_progress(purging, 0, 0);
    int result = note_begun(purging);
    if (result == 0)
        result = purge_live(purging);
    if (result == 0)
        note_done(purging);
    atomic_store(&entry->purging, false);
    return result;
}

static int purge_work(void *context)
{
    struct purging *purging = context;
    struct ring_entry *entry = purging->entry;
    struct recorder *recorder = entry->recorder;
    if (purging->live)
        return purge_beside(purging);
    int result = note_begun(purging);
    if (result != 0)
        return result;
    result = catalog_care_begin(recorder, &entry->row.ring, &purging->failure);
    if (result != 0)
        return result;
    result = ring_purge(entry->ring, purging->range, purging->ranges, purging->options.from_ns, purging->options.to_ns,
                        purging->give_up_away, &purging->report, &purging->failure);
    /* The catalog's last rows may be lost in a power cut, and segments have moved: the next start reads the disks whole. */
    catalog_care_end(recorder, &entry->row.ring, false);
    keys_forget(entry);
    if (result == 0)
        note_done(purging);
    return result;
}

static void purge_cancel(void *context)
{
    atomic_store(&((struct purging *)context)->cancel, true);
}

static json_t *purge_progress(void *context)
{
    const struct purging *purging = context;
    if (purging->live)
        return json_pack("{s:I, s:I}", "slots_done", (json_int_t)atomic_load(&purging->entry->purge_done), "slots_total",
                         (json_int_t)atomic_load(&purging->entry->purge_total));
    return json_pack("{s:I, s:I}", "slots_done", (json_int_t)atomic_load(&purging->entry->slots_done), "slots_total",
                     (json_int_t)atomic_load(&purging->entry->slots_total));
}

static int erase(struct purging *purging)
{
    struct request *request = purging->request;
    if (!purging->live)
        purging->entry->cancel = &purging->cancel;
    int code = request_background(request, purge_work, purge_progress, purge_cancel, purging);
    if (!purging->live)
        purging->entry->cancel = NULL;
    if (code != 0 && purging->failure.code != 0)
        request->failure = purging->failure;
    if (code == 0)
        event_log_say(request->recorder->events, "info", "purged", purging->entry->row.name,
                      "%llu packets have been erased; segments written anew: %llu",
                      (unsigned long long)purging->report.packets, (unsigned long long)purging->report.segments);
    else
        event_log_say(request->recorder->events, "error", "purge-failed", purging->entry->row.name,
                      "not everything that was to be purged has been erased: %.300s", request->failure.text);
    return code;
}

/* ---- the method ----------------------------------------------------------------------------- */

static int take_options(struct request *request, const char **name, struct purging *purging)
{
    struct reading_options *options = &purging->options;
    *options = (struct reading_options){
        .kind = WORKER_NUMBERS, .from_ns = INT64_MIN, .to_ns = INT64_MAX, .filter = "", .output = -1};
    int code = request_string(request, "ring", true, name);
    if (code == 0)
        code = request_time(request, "from_ns", &options->from_ns);
    if (code == 0)
        code = request_time(request, "to_ns", &options->to_ns);
    if (code == 0)
        code = request_string(request, "filter", false, &options->filter);
    if (code == 0)
        code = request_bool(request, "dry_run", &purging->dry_run);
    if (code == 0)
        code = request_bool(request, "give_up_away", &purging->give_up_away);
    if (code == 0 && (options->from_ns == INT64_MIN || options->to_ns == INT64_MAX || options->from_ns >= options->to_ns))
        code = fail(&request->failure, ERR_INVALID, "from when to when? What is erased is gone, so both have to be said");
    if (code == 0 && strlen(options->filter) > FILTER_BYTES_MAX)
        code = fail(&request->failure, ERR_TOO_LARGE, "the filter is longer than %u bytes", FILTER_BYTES_MAX);
    return code;
}

static bool is_recorded(struct ring *ring)
{
    struct ring_state *state = malloc(sizeof *state);
    bool recorded = !state || ring_state(ring, state) != 0 || state->streams > 0;
    free(state);
    return recorded;
}

/* Alone, where nobody else is there. A run of keys that is being made uses the ring, too, for a moment: that is waited for. */
static int enter(struct purging *purging, const char *name)
{
    struct request *request = purging->request;
    struct ring_registry *registry = &request->recorder->registry;
    int64_t until_ms = monotonic_ms() + CLAIM_MS;
    for (;;) {
        int code = ring_registry_claim(registry, name, &purging->entry, &request->failure);
        if (code != ERR_BUSY)
            return code;
        request->failure = (struct failure){0};
        code = ring_registry_use(registry, name, &purging->entry, &request->failure);
        if (code != 0)
            return code;
        purging->live = true;
        if (monotonic_ms() >= until_ms || is_recorded(purging->entry->ring) ||
            request_watch(request, -1, 50, NULL) != REQUEST_QUIET)
            return 0;
        ring_registry_release(registry, &purging->entry);
        purging->live = false;
    }
}

static void leave(struct purging *purging)
{
    struct ring_registry *registry = &purging->request->recorder->registry;
    if (purging->live)
        ring_registry_release(registry, &purging->entry);
    else
        ring_registry_settle(registry, purging->entry, NULL);
}

/* null: `unbounded`. */
static int64_t job_time(const json_t *row, const char *name, int64_t unbounded)
{
    const char *text = json_string_value(json_object_get(row, name));
    return text ? (int64_t)strtoll(text, NULL, 10) : unbounded;
}

/* Kept ranges and results of jobs that are, or will be, files of packets of this ring and time: the purge does not touch them, so who has to erase has to be told of them. */
static json_t *copies_elsewhere(const struct purging *purging)
{
    json_t *all = job_list_all(purging->request->recorder->jobs, purging->entry->row.name), *copies = json_array();
    const json_t *row;
    size_t i;
    json_array_foreach(all, i, row) {
        const char *state = json_string_value(json_object_get(row, "state"));
        if (!state || strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0 ||
            job_time(row, "from_ns", INT64_MIN) >= purging->options.to_ns || job_time(row, "to_ns", INT64_MAX) <= purging->options.from_ns)
            continue;
        json_array_append_new(copies, json_pack("{s:O, s:O}", "job", json_object_get(row, "number"), "name", json_object_get(row, "name")));
    }
    json_decref(all);
    return copies;
}

static json_t *answer(const struct purging *purging)
{
    /* What could not be read could not be judged: so it says what was missing, as an extraction does. */
    static const char *const taken[] = {"gaps", "gaps_total", "undecided", "complete"};
    const struct purge_report *report = &purging->report;
    const struct worker_progress *found = &purging->found.done.total;
    bool dry = purging->dry_run;
    json_t *result = json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "dry_run", (int)dry, "live", (int)purging->live, "packets",
                               (json_int_t)(dry ? found->packets : report->packets), "bytes",
                               (json_int_t)(dry ? found->output_bytes : report->bytes), "segments",
                               (json_int_t)(dry ? purging->segments : report->segments), "copies_dropped",
                               (json_int_t)report->segments_dropped, "pages_lost", (json_int_t)report->pages_lost,
                               "slots_cleared", (json_int_t)report->slots_cleared, "segments_gone",
                               (json_int_t)report->segments_gone, "slots_in_use", (json_int_t)report->slots_in_use);
    json_t *all = reading_result_json(&purging->found);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        json_object_set(result, taken[i], json_object_get(all, taken[i]));
    json_decref(all);
    json_object_set_new(result, "kept", copies_elsewhere(purging));
    return result;
}

int method_purge(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct purging purging = {.request = request};
    const char *name;
    int code = take_options(request, &name, &purging);
    if (code == 0)
        code = enter(&purging, name);
    if (code != 0)
        return code;
    if (!purging.entry->ring) {
        struct failure why = purging.entry->failure;
        ring_registry_settle(registry, purging.entry, &why);
        return fail(&request->failure, why.code, "%s", why.text);
    }
    if (!purging.live)
        pthread_mutex_lock(&purging.entry->members_lock); /* no disk comes or goes: else the ring refuses that itself, once it has begun */
    code = ring_purge_check(purging.entry->ring, purging.give_up_away, &request->failure);
    if (code == 0)
        code = find(&purging);
    if (code == 0 && !purging.dry_run)
        code = erase(&purging);
    if (!purging.live)
        pthread_mutex_unlock(&purging.entry->members_lock);
    if (code == 0)
        *result = answer(&purging);
    leave(&purging);
    reading_result_free(&purging.found);
    free(purging.range);
    return code;
}
