/*
 * purging.c - the method that erases packets: a reading process finds which, ring_purge() erases them.
 *
 * The ring is owned alone for all of it, so that nothing is recorded, imported or read between finding and erasing. Which packets go is the
 * process's word; the ring sees to it that none goes whose time is not in the range.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "answer_json.h"
#include "catalog_care.h"
#include "event_log.h"
#include "methods.h"
#include "reading.h"
#include "run_care.h"
#include "waiting.h"

#define CLAIM_MS 5000 /* for a run of keys that is just being made */

struct purging {
    struct request *request;
    struct ring_entry *entry;
    struct reading_options options;
    bool dry_run, give_up_away;
    struct reading_result found;
    struct purge_range *range;
    uint32_t ranges;
    uint64_t segments; /* that hold some of it */
    struct purge_report report;
    struct failure failure;
    atomic_bool cancel;
};

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

static int purge_work(void *context)
{
    struct purging *purging = context;
    struct ring_entry *entry = purging->entry;
    struct recorder *recorder = entry->recorder;
    int result = catalog_care_begin(recorder, &entry->row.ring, &purging->failure);
    if (result != 0)
        return result;
    result = ring_purge(entry->ring, purging->range, purging->ranges, purging->options.from_ns, purging->options.to_ns,
                        purging->give_up_away, &purging->report, &purging->failure);
    /* The catalog's last rows may be lost in a power cut, and segments have moved: the next start reads the disks whole. */
    catalog_care_end(recorder, &entry->row.ring, false);
    run_care_drop(recorder->run_care, &entry->row.ring);
    if (ring_verdict_log(entry->ring))
        verdict_log_forget(ring_verdict_log(entry->ring)); /* what is said of conversations can be asked for any of them */
    return result;
}

static void purge_cancel(void *context)
{
    atomic_store(&((struct purging *)context)->cancel, true);
}

static json_t *purge_progress(void *context)
{
    const struct purging *purging = context;
    return json_pack("{s:I, s:I}", "slots_done", (json_int_t)atomic_load(&purging->entry->slots_done), "slots_total",
                     (json_int_t)atomic_load(&purging->entry->slots_total));
}

static int erase(struct purging *purging)
{
    struct request *request = purging->request;
    purging->entry->cancel = &purging->cancel;
    int code = request_background(request, purge_work, purge_progress, purge_cancel, purging);
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

/* A run of keys that is being made uses the ring, too, for a moment. */
static int claim(struct request *request, const char *name, struct ring_entry **entry)
{
    struct ring_registry *registry = &request->recorder->registry;
    int64_t until_ms = monotonic_ms() + CLAIM_MS;
    int code;
    while ((code = ring_registry_claim(registry, name, entry, &request->failure)) == ERR_BUSY && monotonic_ms() < until_ms &&
           request_watch(request, -1, 50, NULL) == REQUEST_QUIET)
        continue;
    if (code == ERR_BUSY)
        return fail_context(&request->failure, code, "a ring is purged while nobody records into it and nobody reads it");
    if (code == 0)
        request->failure = (struct failure){0};
    return code;
}

static json_t *answer(const struct purging *purging)
{
    /* What could not be read could not be judged: so it says what was missing, as an extraction does. */
    static const char *const taken[] = {"gaps", "gaps_total", "undecided", "complete"};
    const struct purge_report *report = &purging->report;
    const struct worker_progress *found = &purging->found.done.total;
    bool dry = purging->dry_run;
    json_t *result = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "dry_run", (int)dry, "packets",
                               (json_int_t)(dry ? found->packets : report->packets), "bytes",
                               (json_int_t)(dry ? found->output_bytes : report->bytes), "segments",
                               (json_int_t)(dry ? purging->segments : report->segments), "copies_dropped",
                               (json_int_t)report->segments_dropped, "pages_lost", (json_int_t)report->pages_lost,
                               "slots_cleared", (json_int_t)report->slots_cleared);
    json_t *all = reading_result_json(&purging->found);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        json_object_set(result, taken[i], json_object_get(all, taken[i]));
    json_decref(all);
    return result;
}

int method_purge(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct purging purging = {.request = request};
    const char *name;
    int code = take_options(request, &name, &purging);
    if (code == 0)
        code = claim(request, name, &purging.entry);
    if (code != 0)
        return code;
    if (!purging.entry->ring) {
        struct failure why = purging.entry->failure;
        ring_registry_settle(registry, purging.entry, &why);
        return fail(&request->failure, why.code, "%s", why.text);
    }
    pthread_mutex_lock(&purging.entry->members_lock); /* no disk comes or goes */
    code = ring_purge_check(purging.entry->ring, purging.give_up_away, &request->failure);
    if (code == 0)
        code = find(&purging);
    if (code == 0 && !purging.dry_run)
        code = erase(&purging);
    pthread_mutex_unlock(&purging.entry->members_lock);
    ring_registry_settle(registry, purging.entry, NULL);
    if (code == 0)
        *result = answer(&purging);
    reading_result_free(&purging.found);
    free(purging.range);
    return code;
}
