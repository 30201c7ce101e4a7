/*
 * estimating.c - how much an extraction would hand out, before there is one.
 *
 * From the catalog alone: of a segment that lies in the range only in part, as much is counted as of its time lies in
 * it. What a filter leaves is not known before it is read: but it is checked, by the process that would use it, on
 * an empty range.
 *
 * So that nothing found is no riddle, it comes with what is known of the time: from when on the ring holds packets,
 * and what became of those that were seen then, by the history. And where the catalog has lost something, it says so: it is
 * no upper bound then.
 */
#include <string.h>

#include "answer_json.h"
#include "catalog_care.h"
#include "methods.h"
#include "reading.h"

struct estimate {
    int64_t from_ns, to_ns;
    double packets, bytes;
    uint64_t segments, missing;
    double purged;
    bool catalog_lacks;
    struct account account; /* of the range's seconds, all interfaces */
};

/* Which share of the segment's time lies in the range. */
static double share_of(const struct estimate *estimate, const struct segment_row *row)
{
    double from = (double)(row->first_ns > estimate->from_ns ? row->first_ns : estimate->from_ns);
    double to = (double)(row->last_ns < estimate->to_ns ? row->last_ns : estimate->to_ns);
    double length = (double)row->last_ns - (double)row->first_ns;
    if (row->first_ns > row->last_ns || from > to)
        return 0;
    return length > 0 ? (to - from) / length : 1;
}

static int add_segment(const struct segment_row *row, void *context)
{
    struct estimate *estimate = context;
    double share = share_of(estimate, row);
    estimate->packets += share * (double)(row->packets - row->purged);
    estimate->purged += share * (double)row->purged;
    estimate->bytes += share * (double)row->captured_bytes;
    if (share > 0) {
        estimate->segments++;
        estimate->missing += row->missing;
    }
    return 0;
}

static int add_history(const struct history_row *row, void *context)
{
    struct estimate *estimate = context;
    for (int line = 0; line < ACCOUNT_LINES; line++)
        estimate->account.packets[line] += row->change.packets[line];
    return 0;
}

/* Rounded outwards; a bound that is none stays none. */
static int64_t second_of(int64_t time_ns, bool up)
{
    int64_t second = time_ns / 1000000000, rest = time_ns % 1000000000;
    return up ? second + (rest > 0) : second - (rest < 0);
}

static int look_up(struct request *request, struct ring_entry *entry, struct estimate *estimate,
                   struct catalog_summary *summary)
{
    const struct recorder *recorder = request->recorder;
    struct failure *failure = &request->failure;
    const char *name = entry->row.name;
    int code = ring_find(entry->ring, estimate->from_ns, estimate->to_ns, add_segment, estimate);
    if (code == 0)
        code = catalog_summary(recorder->catalog, &entry->row.ring, summary);
    if (code != 0)
        return fail(failure, code, "ring %s: the catalog cannot be read: %s", name,
                    error_text(code));
    estimate->catalog_lacks = catalog_care_lacks(entry); /* after it has answered */
    code = state_history(recorder->state, &entry->row.ring, NULL, second_of(estimate->from_ns, false),
                         second_of(estimate->to_ns, true), add_history, estimate);
    return code == 0 ? 0
                     : fail(failure, code, "ring %s: its history cannot be read: %s", name,
                            error_text(code));
}

/* How long it takes at the speed of earlier readings; null: there was none. */
static json_t *seconds_json(const struct request *request, const struct estimate *estimate)
{
    uint64_t bytes_per_s = atomic_load(&request->recorder->reading_bytes_per_s);
    return bytes_per_s > 0 ? json_real(estimate->bytes / (double)bytes_per_s) : json_null();
}

static int estimate_range(struct request *request, const char *ring, const struct reading_options *options,
                          json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct estimate estimate = {.from_ns = options->from_ns, .to_ns = options->to_ns};
    struct ring_entry *entry;
    int code = ring_registry_use(registry, ring, &entry, &request->failure);
    if (code != 0)
        return code;
    if (options->filter[0])
        code = reading_check_filter(request, entry, options->filter);
    struct catalog_summary summary;
    if (code == 0)
        code = look_up(request, entry, &estimate, &summary);
    ring_registry_release(registry, &entry);
    if (code != 0)
        return code;
    *result = json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "packets", (json_int_t)estimate.packets,
                        "bytes", (json_int_t)estimate.bytes, "segments",
                        (json_int_t)estimate.segments, "missing", (json_int_t)estimate.missing, "purged",
                        (json_int_t)estimate.purged,
                        "seconds", seconds_json(request, &estimate), "account",
                        json_account(&estimate.account));
    bool held = summary.first_ns <= summary.last_ns;
    json_set_time(*result, "oldest", summary.first_ns, held);
    json_set_time(*result, "newest", summary.last_ns, held);
    json_object_set_new(*result, "catalog_whole", json_boolean(!estimate.catalog_lacks));
    json_object_set_new(*result, "complete", json_boolean(!estimate.catalog_lacks && estimate.missing == 0));
    reading_add_asked(*result, options);
    return 0;
}

int method_estimate(struct request *request, json_t **result)
{
    struct reading_options options = {0};
    const char *ring;
    int code = request_string(request, "ring", true, &ring);
    if (code == 0)
        code = reading_take_range(request, &options);
    if (code == 0)
        code = estimate_range(request, ring, &options, result);
    reading_options_free(&options);
    return code;
}
