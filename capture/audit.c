/*
 * audit.c - see audit.h.
 */
#include "audit.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "answer_json.h"
#include "event_log.h"
#include "state.h"
#include "text.h"

#define ANSWER_ROWS_MAX 10000u

/* ---- rows ----------------------------------------------------------------------------------- */

static const char *member(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* Whom the kernel names, and whom he says that he acts for: the web process has users of its own.
 */
void audit_actor(const struct request *request, char text[AUDIT_ACTOR_SIZE])
{
    size_t size = AUDIT_ACTOR_SIZE;
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t length = sizeof peer;
    char user[72] = "", from[72] = "";
    (void)getsockopt(request->connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    if (!request->actor) {
        snprintf(text, size, "uid %u", (unsigned)peer.uid);
        return;
    }
    text_printable(member(request->actor, "user"), user, sizeof user);
    text_printable(member(request->actor, "from"), from, sizeof from);
    snprintf(text, size, "%s from %s, by uid %u", user[0] ? user : "somebody", from,
             (unsigned)peer.uid);
}

/* Cut, where it is too long, between two characters, and marked as cut. */
static void take_detail(const json_t *params, char *detail, size_t size)
{
    static const char mark[] = "...";
    char *text = json_dumps(params, JSON_COMPACT | JSON_ENSURE_ASCII);
    snprintf(detail, size, "%s", text ? text : "");
    if (text && strlen(text) >= size)
        memcpy(detail + size - sizeof mark, mark, sizeof mark);
    free(text);
}

static int put_row(const struct recorder *recorder, const char *actor, const char *method,
                   const json_t *params, const char *outcome)
{
    struct timespec now;
    struct audit_row *row = calloc(1, sizeof *row);
    if (!row)
        return ERR_NO_MEMORY;
    clock_gettime(CLOCK_REALTIME, &now);
    row->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    snprintf(row->actor, sizeof row->actor, "%s", actor);
    snprintf(row->action, sizeof row->action, "%s", method);
    const char *ring = member(params, "ring");
    text_printable(ring[0] ? ring : member(params, "name"), row->ring, sizeof row->ring);
    take_detail(params, row->detail, sizeof row->detail);
    text_printable(outcome, row->outcome, sizeof row->outcome);
    int code = state_put_audit(recorder->state, row);
    free(row);
    return code;
}

static int put(struct request *request, const char *method, const json_t *params,
               const char *outcome)
{
    char actor[AUDIT_ACTOR_SIZE];
    audit_actor(request, actor);
    return put_row(request->recorder, actor, method, params, outcome);
}

static void say_not_kept(const struct recorder *recorder, const char *method, const char *outcome,
                         int code)
{
    event_log_say(recorder->events, "error", "audit-failed", "",
                  "%s (%.100s) could not be written into the audit log: %s", method, outcome,
                  error_text(code));
}

void audit_job_end(const struct recorder *recorder, const json_t *row, const char *outcome)
{
    static const char action[] = "job.end";
    json_t *params = json_pack("{s:O, s:O, s:O}", "ring", json_object_get(row, "ring"), "job",
                               json_object_get(row, "number"), "name", json_object_get(row, "name"));
    int code = params ? put_row(recorder, member(row, "actor"), action, params, outcome) : ERR_NO_MEMORY;
    json_decref(params);
    if (code != 0)
        say_not_kept(recorder, action, outcome, code);
}

int audit_begin(struct request *request, enum audit_kind kind, const char *method)
{
    static const char begun[] = "begun";
    int code = kind == AUDIT_NONE ? 0 : put(request, method, request->params, begun);
    if (code != 0 && kind == AUDIT_CHANGE) {
        say_not_kept(request->recorder, method, begun, code);
        code = 0;
    }
    return code == 0 ? 0
                     : fail(&request->failure, code,
                            "no packets are handed out: it could not be written into the audit "
                            "log: %s",
                            error_text(code));
}

void audit_end(struct request *request, enum audit_kind kind, const char *method, int code,
               const json_t *result)
{
    char outcome[256];
    if (kind == AUDIT_NONE)
        return;
    const json_t *packets = json_object_get(result, "packets");
    if (code != 0)
        snprintf(outcome, sizeof outcome, "%s: %.220s", error_name(code), request->failure.text);
    else if (kind == AUDIT_READING && json_is_integer(packets))
        snprintf(outcome, sizeof outcome, "done: %" JSON_INTEGER_FORMAT " packets",
                 json_integer_value(packets));
    else
        snprintf(outcome, sizeof outcome, "done");
    int kept = put(request, method, request->params, outcome);
    if (kept != 0)
        say_not_kept(request->recorder, method, outcome, kept);
}

/* ---- audit.note ----------------------------------------------------------------------------- */

/* What happens in the web process alone: its words begin with "web.", so that they are nobody
 * else's. */
static int check_action(struct request *request, const char *action)
{
    bool good =
        strncmp(action, "web.", 4) == 0 && strlen(action) < sizeof((struct audit_row *)0)->action;
    for (const char *c = action; *c && good; c++)
        good = (*c >= 'a' && *c <= 'z') || *c == '.' || *c == '-';
    return good ? 0
                : fail(&request->failure, ERR_INVALID,
                       "parameter action: expected \"web.\" and a word of a-z and -");
}

int method_audit_note(struct request *request, json_t **result)
{
    const char *action, *detail = "", *outcome = "done";
    (void)result;
    int code = request_string(request, "action", true, &action);
    if (code == 0)
        code = check_action(request, action);
    if (code == 0)
        code = request_string(request, "detail", false, &detail);
    if (code == 0)
        code = request_string(request, "outcome", false, &outcome);
    if (code != 0)
        return code;
    json_t *params = json_pack("{s:s}", "detail", detail);
    code = params ? put(request, action, params, outcome) : ERR_NO_MEMORY;
    json_decref(params);
    return code == 0 ? 0
                     : fail(&request->failure, code, "the audit log could not be written: %s",
                            error_text(code));
}

/* ---- audit.list and audit.verify ------------------------------------------------------------ */

#define HASH_TEXT_SIZE (2 * AUDIT_HASH_BYTES + 1)

static const char *hash_text(const uint8_t hash[AUDIT_HASH_BYTES], char text[HASH_TEXT_SIZE])
{
    for (size_t i = 0; i < AUDIT_HASH_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", hash[i]);
    return text;
}

static int append_row(const struct audit_row *row, void *context)
{
    char hash[HASH_TEXT_SIZE];
    json_t *object =
        json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:s}", "number", (json_int_t)row->number, "actor",
                  json_text(row->actor), "action", json_text(row->action), "ring",
                  json_text(row->ring), "detail", json_text(row->detail), "outcome",
                  json_text(row->outcome), "hash", hash_text(row->hash, hash));
    json_set_time(object, "time", row->time_ns, true);
    return json_array_append_new(context, object) == 0 ? 0 : ERR_NO_MEMORY;
}

int method_audit_list(struct request *request, json_t **result)
{
    uint64_t after = 0, limit = 100;
    int code = request_count(request, "after", 0, INT64_MAX, &after);
    if (code == 0)
        code = request_count(request, "limit", 1, ANSWER_ROWS_MAX, &limit);
    if (code != 0)
        return code;
    json_t *rows = json_array();
    code = state_audit(request->recorder->state, after, (uint32_t)limit, append_row, rows);
    if (code != 0)
        fail(&request->failure, code, "the audit log cannot be read: %s", error_text(code));
    return json_answer_array(code, rows, "rows", result);
}

static int take_hash(struct request *request, uint64_t number, uint8_t hash[AUDIT_HASH_BYTES],
                     bool *given)
{
    const char *text = NULL;
    int code = request_string(request, "hash", false, &text);
    *given = text != NULL;
    if (code != 0 || !text)
        return code;
    bool good = strlen(text) == 2 * AUDIT_HASH_BYTES && number > 0;
    for (size_t i = 0; good && i < AUDIT_HASH_BYTES; i++) {
        unsigned byte = 0;
        good = isxdigit((unsigned char)text[2 * i]) && isxdigit((unsigned char)text[2 * i + 1]) &&
               sscanf(text + 2 * i, "%2x", &byte) == 1;
        hash[i] = (uint8_t)byte;
    }
    return good ? 0
                : fail(&request->failure, ERR_INVALID,
                       "parameters number, hash: expected the number of a row and 64 hexadecimal "
                       "digits");
}

int method_audit_verify(struct request *request, json_t **result)
{
    struct audit_verdict verdict;
    uint64_t number = 0;
    uint8_t hash[AUDIT_HASH_BYTES];
    char head[HASH_TEXT_SIZE];
    bool given;
    int code = request_count(request, "number", 1, INT64_MAX, &number);
    if (code == 0)
        code = take_hash(request, number, hash, &given);
    if (code != 0)
        return code;
    code = state_audit_verify(request->recorder->state, number, given ? hash : NULL, &verdict);
    if (code != 0)
        return fail(&request->failure, code, "the audit log cannot be read: %s", error_text(code));
    bool clean = verdict.bad == 0 && (!given || verdict.known);
    *result = json_pack("{s:I, s:s, s:o, s:o, s:b}", "rows", (json_int_t)verdict.rows, "head",
                        hash_text(verdict.head, head), "bad",
                        verdict.bad ? json_integer((json_int_t)verdict.bad) : json_null(), "known",
                        given ? json_boolean(verdict.known) : json_null(), "clean", (int)clean);
    return *result ? 0 : fail(&request->failure, ERR_NO_MEMORY, "out of memory");
}
