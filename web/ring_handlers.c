/*
 * ring_handlers.c - rings, disks, interfaces, captures, events, history: questions that the
 * recorder answers, handed on. What the recorder says is described in schema/PROTOCOL.md, and stays
 * as it is.
 */
#include <civetweb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "account.h"
#include "extraction_list.h"
#include "handlers.h"
#include "recorder_link.h"
#include "text.h"
#include "web_server.h"

#define HISTORY_POINTS_MAX 4000
#define HISTORY_SPAN_S (400 * INT64_C(86400)) /* that the recorder keeps at most */

/* Asks, and answers with the result as it is. */
static int hand_on(struct exchange *exchange, int status, const char *method, json_t *params)
{
    struct failure failure = {0};
    json_t *result;
    int code = recorder_ask(exchange->server->recorder, method, params, &result, &failure);
    return code == 0 ? answer_json(exchange, status, result, NULL)
                     : answer_failure(exchange, &failure);
}

/* The same for a change: logged, and answered with `member` of the result, or 204 where there is
 * none. */
static int hand_on_change(struct exchange *exchange, int status, const char *method, json_t *params,
                          const char *member, const char *ring)
{
    struct failure failure = {0};
    json_t *result;
    int code = recorder_ask(exchange->server->recorder, method, params, &result, &failure);
    exchange_log(exchange, "%s %s: %s", method, ring, code == 0 ? "done" : failure.text);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *part = member ? json_incref(json_object_get(result, member)) : NULL;
    json_decref(result);
    return part ? answer_json(exchange, status, part, NULL) : answer_nothing(exchange, NULL);
}

static int no_query(struct exchange *exchange)
{
    struct failure failure = {0};
    return exchange_check_query(exchange, "", &failure) == 0 ? 0
                                                             : answer_failure(exchange, &failure);
}

static int check_ring(struct exchange *exchange, const char *name)
{
    struct failure failure = {0};
    return text_check_ring_name(name, &failure) == 0 ? 0 : answer_failure(exchange, &failure);
}

/* The body as parameters, after its members' names have been checked. Null: answered already,
 * *status. */
static json_t *body_as_params(struct exchange *exchange, const char *names, int *status)
{
    struct failure failure = {0};
    if (exchange_check_body(exchange, names, &failure) == 0)
        return json_incref(exchange->body);
    *status = answer_failure(exchange, &failure);
    return NULL;
}

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
    int status = no_query(exchange);
    if (!status)
        status = check_ring(exchange, ring);
    return status ? status : hand_on(exchange, 200, "ring.show", json_pack("{s:s}", "ring", ring));
}

int handle_ring_change(struct exchange *exchange)
{
    const char *ring = exchange->parameter[0];
    int status = check_ring(exchange, ring);
    json_t *params = status ? NULL : body_as_params(exchange, "settings", &status);
    if (!params)
        return status;
    json_object_set_new(params, "ring", json_string(ring));
    struct failure failure = {0};
    json_t *result;
    int code = recorder_ask(exchange->server->recorder, "ring.set", params, &result, &failure);
    exchange_log(exchange, "ring.set %s: %s", ring, code == 0 ? "done" : failure.text);
    return code == 0 ? answer_json(exchange, 200, result, NULL)
                     : answer_failure(exchange, &failure);
}

int handle_ring_delete(struct exchange *exchange)
{
    struct failure failure = {0};
    char wipe[8] = "false";
    const char *ring = exchange->parameter[0];
    int status = check_ring(exchange, ring);
    if (status)
        return status;
    int code = exchange_check_query(exchange, "wipe", &failure);
    if (code == 0)
        code = exchange_query(exchange, "wipe", wipe, sizeof wipe, &failure);
    if (code == 0 && strcmp(wipe, "true") != 0 && strcmp(wipe, "false") != 0)
        code = fail(&failure, ERR_INVALID, "wipe: expected true or false");
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *params = json_pack("{s:s, s:b}", "ring", ring, "wipe", strcmp(wipe, "true") == 0);
    return hand_on_change(exchange, 204, "ring.delete", params, NULL, ring);
}

int handle_ring_status(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring = exchange->parameter[0];
    json_t *result;
    int status = no_query(exchange);
    if (!status)
        status = check_ring(exchange, ring);
    if (status)
        return status;
    int code = recorder_ask(exchange->server->recorder, "status", json_pack("{s:s}", "ring", ring),
                            &result, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *one = json_incref(json_array_get(json_object_get(result, "rings"), 0));
    json_decref(result);
    return answer_json(exchange, 200, one, NULL);
}

/* ---- history --------------------------------------------------------------------------------- */

/* Rows of the recorder summed up to equal steps, a column a line of the account. */
struct columns {
    int64_t from_s, step_s;
    size_t count;
    int64_t *packets[ACCOUNT_LINES]; /* modulo 2^64, as in the rows: in flight may fall */
    int64_t *stored_bytes;
    char *known; /* whether there is any row for the step */
};

static void columns_free(struct columns *columns)
{
    for (int line = 0; line < ACCOUNT_LINES; line++)
        free(columns->packets[line]);
    free(columns->stored_bytes);
    free(columns->known);
}

static int columns_make(struct columns *columns, int64_t from_s, int64_t to_s, int64_t step_s)
{
    *columns = (struct columns){.from_s = from_s,
                                .step_s = step_s,
                                .count = (size_t)((to_s - from_s + step_s - 1) / step_s)};
    bool made = (columns->stored_bytes = calloc(columns->count, sizeof(int64_t))) != NULL;
    made = (columns->known = calloc(columns->count, 1)) != NULL && made;
    for (int line = 0; line < ACCOUNT_LINES; line++)
        made = (columns->packets[line] = calloc(columns->count, sizeof(int64_t))) != NULL && made;
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
    for (int line = 0; line < ACCOUNT_LINES; line++)
        add(&columns->packets[line][at],
            json_object_get(row, account_name((enum account_line)line)));
    add(&columns->stored_bytes[at], json_object_get(row, "stored_bytes"));
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
    json_t *packets = json_object();
    for (int line = 0; line < ACCOUNT_LINES; line++)
        json_object_set_new(packets, account_name((enum account_line)line),
                            column_json(columns, columns->packets[line]));
    return json_pack("{s:I, s:I, s:I, s:o, s:o}", "from_s", (json_int_t)columns->from_s, "step_s",
                     (json_int_t)columns->step_s, "count", (json_int_t)columns->count, "packets",
                     packets, "stored_bytes", column_json(columns, columns->stored_bytes));
}

/* A time of the query, in seconds, rounded down. Absent: *time_s stays. */
static int query_time(const struct exchange *exchange, const char *name, int64_t *time_s,
                      struct failure *failure)
{
    char text[64] = "";
    struct timespec now;
    int64_t time_ns;
    int code = exchange_query(exchange, name, text, sizeof text, failure);
    if (code != 0 || !text[0])
        return code;
    clock_gettime(CLOCK_REALTIME, &now);
    code = text_parse_time(text, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, &time_ns, failure);
    if (code != 0)
        return fail_context(failure, code, "%s: ", name);
    *time_s = time_ns / 1000000000 - (time_ns % 1000000000 < 0);
    return 0;
}

static int take_span(const struct exchange *exchange, int64_t *from_s, int64_t *to_s,
                     int64_t *step_s, struct failure *failure)
{
    *to_s = time(NULL) + 1;
    *step_s = 0;
    int code = exchange_check_query(exchange, "from to step interface", failure);
    if (code == 0)
        code = query_time(exchange, "to", to_s, failure);
    *from_s = *to_s - 3600;
    if (code == 0)
        code = query_time(exchange, "from", from_s, failure);
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
    json_t *params = json_pack("{s:s, s:I, s:I}", "ring", ring, "from_s", (json_int_t)from_s,
                               "to_s", (json_int_t)to_s);
    if (interface[0])
        json_object_set_new(params, "interface", json_string(interface));
    code = recorder_ask(exchange->server->recorder, "history", params, &result, &failure);
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

/* ---- disks, interfaces, captures ------------------------------------------------------------- */

int handle_disks(struct exchange *exchange)
{
    struct failure failure = {0};
    char ring[PARAMETER_SIZE] = "";
    if (exchange_check_query(exchange, "ring", &failure) != 0 ||
        exchange_query(exchange, "ring", ring, sizeof ring, &failure) != 0)
        return answer_failure(exchange, &failure);
    bool one = ring[0] != '\0';
    int status = one ? check_ring(exchange, ring) : 0;
    return status
               ? status
               : hand_on(exchange, 200, "disk.list", one ? json_pack("{s:s}", "ring", ring) : NULL);
}

int handle_interfaces(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : hand_on(exchange, 200, "interfaces", NULL);
}

/* What is being recorded: the recordings of each ring's status. */
int handle_captures(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *result, *ring, *recording, *captures = json_array();
    size_t i, j;
    int status = no_query(exchange);
    if (status ||
        recorder_ask(exchange->server->recorder, "status", NULL, &result, &failure) != 0) {
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
    if (status)
        return status;
    struct failure failure = {0};
    json_t *result;
    int code = recorder_ask(exchange->server->recorder, "record.stop",
                            json_pack("{s:s}", "ring", ring), &result, &failure);
    exchange_log(exchange, "record.stop %s: %s", ring, code == 0 ? "done" : failure.text);
    return code == 0 ? answer_json(exchange, 200, result, NULL)
                     : answer_failure(exchange, &failure);
}

/* ---- events, and everything at once ---------------------------------------------------------- */

int handle_events(struct exchange *exchange)
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
    return hand_on(exchange, 200, "events",
                   json_pack("{s:I, s:I}", "after", (json_int_t)after, "limit", (json_int_t)limit));
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
    if (recorder_ask(exchange->server->recorder, "status", NULL, &result, &failure) != 0)
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
