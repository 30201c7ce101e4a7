/*
 * packet_capture_handlers.c - figures for monitoring, and the paths of an older product, whose
 * scripts go on with the same fields.
 *
 * That product had one buffer. So `ring` is an addition, and may be left out where there is one
 * ring only. What it called a filter of the capture is here the first rule of its kind for the
 * interface,
 *
 *     interface NAME and not bpf EXPRESSION : discard
 *
 * for what a recorder leaves out is accounted for: `start` makes, changes or deletes that rule, as
 * filter_expr says, and `stop` leaves it.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "handing_on.h"
#include "handlers.h"
#include "metrics.h"

#define OPEN_METRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* ---- which ring ------------------------------------------------------------------------------ */

/* The recorder's status of one ring (`ring`), or, where that is empty, of all. */
static int ask_status(struct exchange *exchange, const char *ring, json_t **status,
                      struct failure *failure)
{
    json_t *params = ring[0] ? json_pack("{s:s}", "ring", ring) : NULL;
    return ask(exchange, "status", params, status, failure);
}

/* The name of the ring that is meant. ERR_INVALID: none is named, and there is not exactly one. */
static int choose_ring(struct exchange *exchange, const char *given, char name[PARAMETER_SIZE],
                       struct failure *failure)
{
    json_t *result;
    if (given) {
        snprintf(name, PARAMETER_SIZE, "%s", given);
        return 0;
    }
    int code = ask(exchange, "ring.list", NULL, &result, failure);
    if (code != 0)
        return code;
    const json_t *rings = json_object_get(result, "rings");
    const char *only = json_string_value(json_object_get(json_array_get(rings, 0), "name"));
    if (json_array_size(rings) == 1 && only)
        snprintf(name, PARAMETER_SIZE, "%s", only);
    else
        code = fail(failure, ERR_INVALID,
                    json_array_size(rings) == 0 ? "there is no ring to record into"
                                                : "ring: there are several; which one?");
    json_decref(result);
    return code;
}

static int query_ring(struct exchange *exchange, char ring[PARAMETER_SIZE], struct failure *failure)
{
    ring[0] = '\0';
    int code = exchange_check_query(exchange, "ring", failure);
    return code == 0 ? exchange_query(exchange, "ring", ring, PARAMETER_SIZE, failure) : code;
}

/* The status of the ring that the query names, or of all. */
static int ask_queried_status(struct exchange *exchange, json_t **status, struct failure *failure)
{
    char ring[PARAMETER_SIZE];
    int code = query_ring(exchange, ring, failure);
    return code == 0 ? ask_status(exchange, ring, status, failure) : code;
}

/* ---- figures --------------------------------------------------------------------------------- */

static struct capture_figures figures_of(const json_t *status)
{
    struct capture_figures figures = {0};
    const json_t *rings = json_object_get(status, "rings");
    for (size_t i = 0; i < json_array_size(rings); i++)
        capture_figures_add(&figures, json_array_get(rings, i));
    return figures;
}

/* Flows are counted where there is an index of them; null: nobody counts them. */
static json_t *figures_json(const struct capture_figures *figures)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return json_pack(
        "{s:I, s:I, s:I, s:f, s:n, s:n, s:f, s:f, s:f}", "packets_captured", figures->captured,
        "packets_dropped", figures->dropped, "bytes_captured", figures->captured_bytes, "drop_rate",
        capture_drop_percent(figures), "active_flows", "total_flows", "throughput_mbps",
        (double)figures->bytes_per_s * 8 / 1e6, "buffer_usage_pct", capture_buffer_percent(figures),
        "timestamp", (double)now.tv_sec + (double)now.tv_nsec / 1e9);
}

int handle_packet_capture_metrics(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *status;
    if (ask_queried_status(exchange, &status, &failure) != 0)
        return answer_failure(exchange, &failure);
    struct capture_figures figures = figures_of(status);
    json_decref(status);
    return answer_json(exchange, 200, figures_json(&figures), NULL);
}

static double ms_of(json_int_t ns)
{
    return (double)ns / 1e6;
}

int handle_health_capture(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *status;
    if (ask_queried_status(exchange, &status, &failure) != 0)
        return answer_failure(exchange, &failure);
    struct capture_figures figures = figures_of(status);
    json_decref(status);
    return answer_json(
        exchange, 200,
        json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:n}", "avg_processing_time_ms",
                  figures.batches ? ms_of(figures.batch_ns) / (double)figures.batches : 0.0,
                  "max_processing_time_ms", ms_of(figures.batch_ns_max), "min_processing_time_ms",
                  ms_of(figures.batch_ns_min), "packets_processed", figures.captured,
                  "packets_dropped", figures.dropped, "packets_duplicate", figures.duplicates,
                  "queue_size", figures.in_flight, "active_flows"),
        NULL);
}

int handle_metrics(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *status, *disks;
    int refused = no_query(exchange);
    if (refused)
        return refused;
    int code = ask_status(exchange, "", &status, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    code = ask(exchange, "disk.list", NULL, &disks, &failure);
    if (code != 0) {
        json_decref(status);
        return answer_failure(exchange, &failure);
    }
    char *text = metrics_text(status, json_object_get(disks, "disks"));
    json_decref(status);
    json_decref(disks);
    return answer_plain(exchange, OPEN_METRICS, text);
}

/* ---- status ---------------------------------------------------------------------------------- */

int handle_packet_capture_status(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *status;
    if (ask_queried_status(exchange, &status, &failure) != 0)
        return answer_failure(exchange, &failure);
    json_t *captures = json_array();
    const json_t *rings = json_object_get(status, "rings");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *one = json_array_get(rings, i);
        const json_t *recordings = json_object_get(one, "recordings");
        json_t *name = json_object_get(json_object_get(one, "ring"), "name");
        for (size_t k = 0; k < json_array_size(recordings); k++) {
            const json_t *recording = json_array_get(recordings, k);
            json_array_append_new(captures,
                                  json_pack("{s:O, s:O, s:O, s:O}", "ring", name, "interfaces",
                                            json_object_get(recording, "interfaces"), "backend",
                                            json_object_get(recording, "backend"), "since_ns",
                                            json_object_get(recording, "since_ns")));
        }
    }
    struct capture_figures figures = figures_of(status);
    json_decref(status);
    return answer_json(exchange, 200,
                       json_pack("{s:s, s:o, s:o}", "status",
                                 figures.recordings ? "running" : "stopped", "captures", captures,
                                 "metrics", figures_json(&figures)),
                       NULL);
}

/* ---- start ----------------------------------------------------------------------------------- */

struct start {
    char ring[PARAMETER_SIZE];
    const char *interface, *backend, *filter;
    int64_t buffer_mb, snapshot_bytes;
};

/* A whole number of the body; absent or null: *value stays. */
static int body_count(const struct exchange *exchange, const char *name, int64_t max,
                      int64_t *value, struct failure *failure)
{
    const json_t *member = json_object_get(exchange->body, name);
    if (!member || json_is_null(member))
        return 0;
    *value = json_integer_value(member);
    return json_is_integer(member) && *value >= 0 && *value <= max
               ? 0
               : fail(failure, ERR_INVALID, "%s: expected a whole number from 0 to %lld", name,
                      (long long)max);
}

/* Packets have the kernel's time stamps. */
static int check_timestamps(const struct exchange *exchange, struct failure *failure)
{
    const char *source = "kernel";
    int code = exchange_body_string(exchange, "timestamp_source", false, &source, failure);
    if (code != 0 || strcasecmp(source, "kernel") == 0 || strcasecmp(source, "software") == 0 ||
        strcasecmp(source, "host") == 0 || strcasecmp(source, "auto") == 0)
        return code;
    return fail(failure, ERR_UNSUPPORTED,
                "timestamp_source: this version has the kernel's time stamps only");
}

static int take_start(struct exchange *exchange, struct start *start, struct failure *failure)
{
    const char *ring = NULL;
    *start = (struct start){.backend = "auto", .filter = ""};
    int code = exchange_check_body(
        exchange, "interface backend buffer_size_mb timestamp_source filter_expr snaplen ring",
        failure);
    if (code == 0)
        code = exchange_body_string(exchange, "interface", true, &start->interface, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "backend", false, &start->backend, failure);
    if (code == 0)
        code = body_count(exchange, "buffer_size_mb", 4095, &start->buffer_mb, failure);
    if (code == 0)
        code = body_count(exchange, "snaplen", 262144, &start->snapshot_bytes, failure);
    if (code == 0)
        code = check_timestamps(exchange, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "filter_expr", false, &start->filter, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "ring", false, &ring, failure);
    return code == 0 ? choose_ring(exchange, ring, start->ring, failure) : code;
}

static bool condition_is(const json_t *condition, const char *kind, bool negated)
{
    const char *word = json_string_value(json_object_get(condition, "kind"));
    return word && strcmp(word, kind) == 0 &&
           json_is_true(json_object_get(condition, "not")) == negated;
}

/* Whether the rule is such a filter of the interface. */
static bool is_filter(const json_t *rule, const char *interface)
{
    const json_t *conditions = json_object_get(rule, "conditions");
    const json_t *first = json_array_get(conditions, 0);
    const char *name = json_string_value(json_object_get(first, "value"));
    const char *action =
        json_string_value(json_object_get(json_object_get(rule, "action"), "kind"));
    return json_array_size(conditions) == 2 && condition_is(first, "interface", false) && name &&
           strcmp(name, interface) == 0 &&
           condition_is(json_array_get(conditions, 1), "bpf", true) && action &&
           strcmp(action, "discard") == 0;
}

static json_t *filter_rule(const struct start *start)
{
    return json_pack("{s:[{s:s, s:s}, {s:s, s:s, s:b}], s:{s:s}}", "conditions", "kind",
                     "interface", "value", start->interface, "kind", "bpf", "value", start->filter,
                     "not", 1, "action", "kind", "discard");
}

/* Makes the rule be what filter_expr says. Somebody else's change meanwhile is ERR_MISMATCH. */
static int set_filter(struct exchange *exchange, const struct start *start, struct failure *failure)
{
    json_t *listed, *result;
    json_int_t number = 0;
    int code =
        ask(exchange, "rule.list", json_pack("{s:s}", "ring", start->ring), &listed, failure);
    if (code != 0)
        return code;
    const json_t *rules = json_object_get(listed, "rules");
    for (size_t i = 0; i < json_array_size(rules) && number == 0; i++)
        if (is_filter(json_array_get(rules, i), start->interface))
            number = (json_int_t)i + 1;
    json_t *params = json_pack("{s:s, s:O}", "ring", start->ring, "revision",
                               json_object_get(listed, "revision"));
    json_decref(listed);
    if (number == 0 && !start->filter[0]) {
        json_decref(params);
        return 0;
    }
    if (start->filter[0])
        json_object_set_new(params, "rule", filter_rule(start));
    json_object_set_new(params, number ? "number" : "at", json_integer(number ? number : 1));
    code = ask(exchange,
               !start->filter[0] ? "rule.delete"
               : number          ? "rule.set"
                                 : "rule.add",
               params, &result, failure);
    if (code != 0)
        return fail_context(failure, code, "filter_expr");
    json_decref(result);
    return 0;
}

int handle_packet_capture_start(struct exchange *exchange)
{
    struct failure failure = {0};
    struct start start;
    json_t *result;
    int code = take_start(exchange, &start, &failure);
    if (code == 0)
        code = set_filter(exchange, &start, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    code = ask(exchange, "record.start",
               json_pack("{s:s, s:[s], s:s, s:I, s:I, s:b}", "ring", start.ring, "interfaces",
                         start.interface, "backend", start.backend, "buffer_bytes",
                         (json_int_t)start.buffer_mb << 20, "snapshot_bytes",
                         (json_int_t)start.snapshot_bytes, "attach", 0),
               &result, &failure);
    exchange_log(exchange, "record.start %s: %s", start.ring, code == 0 ? "done" : failure.text);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_decref(result);
    return answer_json(exchange, 200,
                       json_pack("{s:s, s:s, s:s, s:s}", "status", "running", "ring", start.ring,
                                 "interface", start.interface, "backend", start.backend),
                       NULL);
}

/* ---- stop ------------------------------------------------------------------------------------ */

/* What came is durable when it answers. The figures are those of what was stopped. */
int handle_packet_capture_stop(struct exchange *exchange)
{
    struct failure failure = {0};
    char name[PARAMETER_SIZE];
    const char *ring = NULL;
    json_t *stopped;
    int code = exchange_check_body(exchange, "ring", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "ring", false, &ring, &failure);
    if (code == 0)
        code = choose_ring(exchange, ring, name, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    code = ask(exchange, "record.stop", json_pack("{s:s}", "ring", name), &stopped, &failure);
    exchange_log(exchange, "record.stop %s: %s", name, code == 0 ? "done" : failure.text);
    if (code != 0)
        return answer_failure(exchange, &failure);
    struct capture_figures figures = {0};
    capture_figures_add(&figures, stopped);
    json_decref(stopped);
    return answer_json(exchange, 200,
                       json_pack("{s:s, s:s, s:o}", "status", "stopped", "ring", name,
                                 "final_metrics", figures_json(&figures)),
                       NULL);
}
