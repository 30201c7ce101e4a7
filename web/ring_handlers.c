/*
 * ring_handlers.c - rings, settings, interfaces, captures, events, history.
 */
#include <civetweb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "account.h"
#include "extraction_list.h"
#include "handing_on.h"
#include "handlers.h"
#include "recorder_link.h"
#include "text.h"
#include "web_server.h"

#define HISTORY_POINTS_MAX 4000
#define HISTORY_SPAN_S (400 * INT64_C(86400)) /* that the recorder keeps at most */

/* ---- rings ----------------------------------------------------------------------------------- */

int handle_rings(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "ring.list", NULL);
}

int handle_ring_create(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *name;
    int status;
    json_t *params = body_as_params(exchange, "name disks copies slot_bytes force", &status);
    if (!params)
        return status;
    if (exchange_body_string(exchange, "name", true, &name, &failure) != 0) {
        json_decref(params);
        return answer_failure(exchange, &failure);
    }
    return hand_on_change(exchange, 201, "ring.create", params, "ring", name);
}

int handle_ring(struct exchange *exchange)
{
    const char *ring = exchange->parameter[0];
    int status = check_plain_ring(exchange);
    return status ? status : hand_on(exchange, 200, "ring.show", json_pack("{s:s}", "ring", ring));
}

int handle_ring_delete(struct exchange *exchange)
{
    struct failure failure = {0};
    bool wipe = false;
    const char *ring = exchange->parameter[0];
    int status = check_ring(exchange, ring);
    if (status)
        return status;
    int code = exchange_check_query(exchange, "wipe", &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "wipe", &wipe, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *params = json_pack("{s:s, s:b}", "ring", ring, "wipe", (int)wipe);
    return hand_on_change(exchange, 204, "ring.delete", params, NULL, ring);
}

int handle_ring_status(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring = exchange->parameter[0];
    json_t *result;
    int status = check_plain_ring(exchange);
    if (status)
        return status;
    int code = ask(exchange, "status", json_pack("{s:s}", "ring", ring), &result, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *one = json_incref(json_array_get(json_object_get(result, "rings"), 0));
    json_decref(result);
    return answer_json(exchange, 200, one, NULL);
}

/* ---- settings -------------------------------------------------------------------------------- */

/* All settings of a ring, as ring.set takes them. New reference, or null with *failure. */
static json_t *ask_settings(struct exchange *exchange, const char *ring, struct failure *failure)
{
    json_t *shown;
    if (ask(exchange, "ring.show", json_pack("{s:s}", "ring", ring), &shown, failure) != 0)
        return NULL;
    json_t *settings = json_incref(json_object_get(shown, "settings"));
    char copies[24];
    snprintf(copies, sizeof copies, "%" JSON_INTEGER_FORMAT,
             json_integer_value(json_object_get(shown, "copies")));
    json_object_set_new(settings, "copies", json_string(copies));
    json_decref(shown);
    return json_pack("{s:o}", "settings", settings);
}

int handle_ring_settings(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring = exchange->parameter[0];
    int status = check_plain_ring(exchange);
    if (status)
        return status;
    json_t *settings = ask_settings(exchange, ring, &failure);
    return settings ? answer_json(exchange, 200, settings, NULL)
                    : answer_failure(exchange, &failure);
}

/*
 * With If-Match, the change is made to those settings only: the recorder is told which they were
 * and compares them itself, for between our look and the change somebody else may come. 0, or the
 * status of the answer that refuses.
 */
static int take_expected(struct exchange *exchange, const char *ring, json_t *params)
{
    struct failure failure = {0};
    char tag[TAG_SIZE];
    const char *wanted = exchange_header(exchange, "If-Match");
    if (!wanted || strcmp(wanted, "*") == 0)
        return 0;
    json_t *settings = ask_settings(exchange, ring, &failure);
    if (!settings)
        return answer_failure(exchange, &failure);
    int code = answer_tag(settings, "", tag);
    json_object_set(params, "expected", json_object_get(settings, "settings"));
    json_decref(settings);
    if (code == 0 && strcmp(tag, wanted) == 0)
        return 0;
    return answer_problem(exchange, 412, "mismatch",
                          "the settings have been changed by somebody else: look again", NULL);
}

int handle_ring_settings_change(struct exchange *exchange)
{
    const char *ring = exchange->parameter[0];
    int status = check_ring(exchange, ring);
    json_t *params = status ? NULL : body_as_params(exchange, "settings", &status);
    if (!params)
        return status;
    json_object_set_new(params, "ring", json_string(ring));
    status = take_expected(exchange, ring, params);
    if (!status)
        return hand_on_change(exchange, 200, "ring.set", params, HANDED_WHOLE, ring);
    json_decref(params);
    return status;
}

int handle_settings(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "settings", NULL);
}

int handle_settings_change(struct exchange *exchange)
{
    int status;
    json_t *params = body_as_params(exchange, "settings", &status);
    return params ? hand_on_change(exchange, 200, "ring.set", params, HANDED_WHOLE, "the recorder")
                  : status;
}

/* ---- history --------------------------------------------------------------------------------- */

/* Rows of the recorder summed up to equal steps, a column a line of the account. */
struct columns {
    int64_t from_s, step_s;
    size_t count;
    int64_t *packets[ACCOUNT_LINES]; /* modulo 2^64, as in the rows: in flight may fall */
    int64_t *bytes[ACCOUNT_LINES];
    int64_t *stored_bytes, *cut_packets;
    char *known; /* whether there is any row for the step */
};

static void columns_free(struct columns *columns)
{
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        free(columns->packets[line]);
        free(columns->bytes[line]);
    }
    free(columns->stored_bytes);
    free(columns->cut_packets);
    free(columns->known);
}

static int columns_make(struct columns *columns, int64_t from_s, int64_t to_s, int64_t step_s)
{
    *columns = (struct columns){.from_s = from_s,
                                .step_s = step_s,
                                .count = (size_t)((to_s - from_s + step_s - 1) / step_s)};
    bool made = (columns->stored_bytes = calloc(columns->count, sizeof(int64_t))) != NULL;
    made = (columns->cut_packets = calloc(columns->count, sizeof(int64_t))) != NULL && made;
    made = (columns->known = calloc(columns->count, 1)) != NULL && made;
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        made = (columns->packets[line] = calloc(columns->count, sizeof(int64_t))) != NULL && made;
        made = (columns->bytes[line] = calloc(columns->count, sizeof(int64_t))) != NULL && made;
    }
    if (!made)
        columns_free(columns);
    return made ? 0 : ERR_NO_MEMORY;
}

static void add(int64_t *sum, const json_t *value)
{
    *sum = (int64_t)((uint64_t)*sum + (uint64_t)json_integer_value(value));
}

static void columns_add(struct columns *columns, const json_t *row)
{
    int64_t second = json_integer_value(json_object_get(row, "second"));
    if (second < columns->from_s ||
        (uint64_t)(second - columns->from_s) / (uint64_t)columns->step_s >= columns->count)
        return;
    size_t at = (size_t)((second - columns->from_s) / columns->step_s);
    columns->known[at] = 1;
    const json_t *bytes = json_object_get(row, "bytes");
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        const char *name = account_name((enum account_line)line);
        add(&columns->packets[line][at], json_object_get(row, name));
        add(&columns->bytes[line][at], json_object_get(bytes, name));
    }
    add(&columns->stored_bytes[at], json_object_get(row, "stored_bytes"));
    add(&columns->cut_packets[at], json_object_get(row, "cut_packets"));
}

static json_t *column_json(const struct columns *columns, const int64_t *values)
{
    json_t *array = json_array();
    for (size_t i = 0; i < columns->count; i++)
        json_array_append_new(array, columns->known[i] ? json_integer((json_int_t)values[i])
                                                       : json_null());
    return array;
}

static json_t *columns_json(const struct columns *columns)
{
    json_t *packets = json_object(), *bytes = json_object();
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        const char *name = account_name((enum account_line)line);
        json_object_set_new(packets, name, column_json(columns, columns->packets[line]));
        json_object_set_new(bytes, name, column_json(columns, columns->bytes[line]));
    }
    return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "from_s", (json_int_t)columns->from_s,
                     "step_s", (json_int_t)columns->step_s, "count", (json_int_t)columns->count,
                     "packets", packets, "bytes", bytes, "stored_bytes",
                     column_json(columns, columns->stored_bytes), "cut_packets",
                     column_json(columns, columns->cut_packets));
}

/* A time of the query, in seconds, rounded down. Absent: *time_s stays. */
static int query_time(const struct exchange *exchange, const char *name, int64_t *time_s,
                      struct failure *failure)
{
    char text[64] = "";
    int64_t time_ns;
    int code = exchange_query(exchange, name, text, sizeof text, failure);
    if (code != 0 || !text[0])
        return code;
    code = exchange_time(name, text, &time_ns, failure);
    if (code != 0)
        return code;
    *time_s = time_ns / 1000000000 - (time_ns % 1000000000 < 0);
    return 0;
}

static int take_span(const struct exchange *exchange, int64_t *from_s, int64_t *to_s,
                     int64_t *step_s, struct failure *failure)
{
    *to_s = time(NULL) + 1;
    *step_s = 0;
    const int64_t none = INT64_MIN;
    int64_t since_s = none, given_from_s = none, given_to_s = none;
    int code = exchange_check_query(exchange, "from to since step interface", failure);
    if (code == 0)
        code = query_time(exchange, "to", &given_to_s, failure);
    if (code == 0)
        code = query_time(exchange, "from", &given_from_s, failure);
    if (code == 0)
        code = query_time(exchange, "since", &since_s, failure);
    if (code == 0 && since_s != none && (given_from_s != none || given_to_s != none))
        code = fail(failure, ERR_INVALID, "since and from, to exclude each other");
    if (given_to_s != none)
        *to_s = given_to_s;
    *from_s = since_s != none ? since_s : given_from_s != none ? given_from_s : *to_s - 3600;
    if (code == 0)
        code = exchange_query_count(exchange, "step", 1, 86400, step_s, failure);
    if (code == 0 && *from_s >= *to_s)
        code = fail(failure, ERR_INVALID, "from: expected a time before to");
    if (code == 0 && (*to_s - *from_s > HISTORY_SPAN_S || *from_s < INT64_MIN / 4))
        code = fail(failure, ERR_INVALID, "from, to: expected no more than 400 days");
    if (code != 0)
        return code;
    int64_t least = (*to_s - *from_s + HISTORY_POINTS_MAX - 1) / HISTORY_POINTS_MAX;
    if (*step_s == 0)
        *step_s = least;
    if (*step_s < least)
        return fail(failure, ERR_INVALID, "step: more than %d points; expected %lld or more",
                    HISTORY_POINTS_MAX, (long long)least);
    /* Steps begin at multiples of themselves, so that the same second is in the same step each
     * time. */
    int64_t rest = *from_s % *step_s;
    *from_s -= rest < 0 ? rest + *step_s : rest;
    return 0;
}

int handle_ring_history(struct exchange *exchange)
{
    struct failure failure = {0};
    char interface[256] = "";
    const char *ring = exchange->parameter[0];
    int64_t from_s, to_s, step_s;
    struct columns columns;
    json_t *result, *row;
    size_t i;
    int status = check_ring(exchange, ring);
    if (status)
        return status;
    int code = take_span(exchange, &from_s, &to_s, &step_s, &failure);
    if (code == 0)
        code = exchange_query(exchange, "interface", interface, sizeof interface, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *params = json_pack("{s:s, s:I, s:I, s:I}", "ring", ring, "from_s", (json_int_t)from_s,
                               "to_s", (json_int_t)to_s, "step_s", (json_int_t)step_s);
    if (interface[0])
        json_object_set_new(params, "interface", json_string(interface));
    code = ask(exchange, "history", params, &result, &failure);
    if (code == 0 && columns_make(&columns, from_s, to_s, step_s) != 0) {
        json_decref(result);
        code = fail(&failure, ERR_NO_MEMORY, "out of memory");
    }
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_array_foreach(json_object_get(result, "rows"), i, row) columns_add(&columns, row);
    json_decref(result);
    json_t *answer = columns_json(&columns);
    columns_free(&columns);
    return answer_json(exchange, 200, answer, NULL);
}

/* ---- interfaces, captures -------------------------------------------------------------------- */

int handle_interfaces(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "interfaces", NULL);
}

int handle_apps(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "apps", NULL);
}

/* What is being recorded: the recordings of each ring's status. */
int handle_captures(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *result, *ring, *recording, *captures = json_array();
    size_t i, j;
    int status = no_query(exchange);
    if (status || ask(exchange, "status", NULL, &result, &failure) != 0) {
        json_decref(captures);
        return status ? status : answer_failure(exchange, &failure);
    }
    json_array_foreach(json_object_get(result, "rings"), i, ring)
    {
        const json_t *name = json_object_get(json_object_get(ring, "ring"), "name");
        json_array_foreach(json_object_get(ring, "recordings"), j, recording)
        {
            json_t *capture = json_copy(recording);
            json_object_set_new(capture, "ring", json_string(json_string_value(name)));
            json_array_append_new(captures, capture);
        }
    }
    json_decref(result);
    return answer_json(exchange, 200, json_pack("{s:o}", "captures", captures), NULL);
}

/* The recording stands: it goes on until it is stopped, whoever started it. */
int handle_capture_start(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring;
    int status;
    json_t *params = body_as_params(
        exchange,
        "ring interfaces backend snapshot_bytes buffer_bytes promiscuous outgoing generator",
        &status);
    if (!params)
        return status;
    if (exchange_body_string(exchange, "ring", true, &ring, &failure) != 0) {
        json_decref(params);
        return answer_failure(exchange, &failure);
    }
    json_object_set_new(params, "attach", json_false());
    return hand_on_change(exchange, 204, "record.start", params, NULL, ring);
}

int handle_capture_stop(struct exchange *exchange)
{
    const char *ring = exchange->parameter[0];
    int status = check_ring(exchange, ring);
    return status ? status
                  : hand_on_change(exchange, 200, "record.stop", json_pack("{s:s}", "ring", ring),
                                   HANDED_WHOLE, ring);
}

/* ---- events, and everything at once ---------------------------------------------------------- */

/* A list of which more may have come since number `after`. */
static int hand_on_list(struct exchange *exchange, const char *method)
{
    struct failure failure = {0};
    int64_t after = 0, limit = 100;
    int code = exchange_check_query(exchange, "after limit", &failure);
    if (code == 0)
        code = exchange_query_count(exchange, "after", 0, INT64_MAX, &after, &failure);
    if (code == 0)
        code = exchange_query_count(exchange, "limit", 1, 10000, &limit, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    return hand_on(exchange, 200, method,
                   json_pack("{s:I, s:I}", "after", (json_int_t)after, "limit", (json_int_t)limit));
}

int handle_events(struct exchange *exchange)
{
    return hand_on_list(exchange, "events");
}

int handle_audit(struct exchange *exchange)
{
    return hand_on_list(exchange, "audit.list");
}

int handle_audit_verify(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "audit.verify", NULL);
}

/* One answer for a page that is looked at once a second, so that no page holds a connection open.
 */
int handle_overview(struct exchange *exchange)
{
    struct failure failure = {0};
    struct timespec now;
    char text[24];
    json_t *result;
    int status = no_query(exchange);
    if (status)
        return status;
    if (ask(exchange, "status", NULL, &result, &failure) != 0)
        return answer_failure(exchange, &failure);
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(text, sizeof text, "%lld", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    json_object_set_new(result, "now_ns", json_string(text));
    json_object_set_new(result, "extractions",
                        exchange->caller.rights & RIGHT_PACKETS
                            ? extraction_list_json(exchange->server->extractions)
                            : json_array());
    return answer_json(exchange, 200, result, NULL);
}
