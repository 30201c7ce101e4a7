/*
 * handing_on.c - see handing_on.h.
 */
#include "handing_on.h"

#include <civetweb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "civetweb_socket.h"
#include "recorder_link.h"
#include "text.h"
#include "web_server.h"

#define ANSWER_MS 60000 /* for what a person waits for; stopping a recording flushes its disks */
#define NOTE_MS 2000    /* for a row of the audit log: nobody is kept out for want of it */

json_t *actor_json(const struct exchange *exchange)
{
    char from[64];
    text_printable(exchange->entrance == ENTRANCE_LOCAL ? "here" : exchange->info->remote_addr,
                   from, sizeof from);
    return json_pack("{s:s, s:s}", "user", exchange->caller.name, "from", from);
}

int ask(struct exchange *exchange, const char *method, json_t *params, json_t **result,
        struct failure *failure)
{
    return recorder_ask(exchange->server->recorder, method, params, actor_json(exchange), ANSWER_MS,
                        result, failure);
}

void audit(const struct exchange *exchange, const char *action, const char *outcome,
           const char *format, ...)
{
    struct failure failure = {0};
    char text[512], clean[1024], word[40];
    json_t *result;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text_printable(text, clean, sizeof clean);
    exchange_log(exchange, "%s %s: %s", action, text, outcome);
    snprintf(word, sizeof word, "web.%s", action);
    json_t *params =
        json_pack("{s:s, s:s, s:s}", "action", word, "detail", clean, "outcome", outcome);
    if (recorder_ask(exchange->server->recorder, "audit.note", params, actor_json(exchange),
                     NOTE_MS, &result, &failure) == 0)
        json_decref(result);
    else
        exchange_log(exchange, "that is not in the audit log: %s", failure.text);
}

int hand_on(struct exchange *exchange, int status, const char *method, json_t *params)
{
    struct failure failure = {0};
    json_t *result;
    int code = ask(exchange, method, params, &result, &failure);
    return code == 0 ? answer_json(exchange, status, result, NULL)
                     : answer_failure(exchange, &failure);
}

int hand_on_watched(struct exchange *exchange, int status, const char *method, json_t *params)
{
    struct failure failure = {0};
    struct web_server *server = exchange->server;
    json_t *result;
    int code = recorder_ask_for(server->recorder, civetweb_socket(exchange->connection), &server->stopping, method,
                                params, actor_json(exchange), ANSWER_MS, &result, &failure);
    return code == 0 ? answer_json(exchange, status, result, NULL)
                     : answer_failure(exchange, &failure);
}

int hand_on_change(struct exchange *exchange, int status, const char *method, json_t *params,
                   const char *member, const char *about)
{
    struct failure failure = {0};
    json_t *result;
    int code = ask(exchange, method, params, &result, &failure);
    exchange_log(exchange, "%s %s: %s", method, about, code == 0 ? "done" : failure.text);
    if (code == ERR_MISMATCH && exchange_header(exchange, "If-Match"))
        return answer_problem(exchange, 412, "mismatch", failure.text, NULL);
    if (code != 0)
        return answer_failure(exchange, &failure);
    if (member && !member[0])
        return answer_json(exchange, status, result, NULL);
    json_t *part = member ? json_incref(json_object_get(result, member)) : NULL;
    json_decref(result);
    return part ? answer_json(exchange, status, part, NULL) : answer_nothing(exchange, NULL);
}

int no_query(struct exchange *exchange)
{
    struct failure failure = {0};
    return exchange_check_query(exchange, "", &failure) == 0 ? 0
                                                             : answer_failure(exchange, &failure);
}

int check_ring(struct exchange *exchange, const char *name)
{
    struct failure failure = {0};
    return text_check_ring_name(name, &failure) == 0 ? 0 : answer_failure(exchange, &failure);
}

int check_plain_ring(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status : check_ring(exchange, exchange->parameter[0]);
}

json_t *body_as_params(struct exchange *exchange, const char *names, int *status)
{
    struct failure failure = {0};
    if (exchange_check_body(exchange, names, &failure) == 0)
        return json_incref(exchange->body);
    *status = answer_failure(exchange, &failure);
    return NULL;
}

int path_count(struct exchange *exchange, const char *text, int64_t max, int64_t *number)
{
    char *end;
    *number = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : -1;
    if (*number >= 1 && *number <= max && *end == '\0')
        return 0;
    return answer_problem(exchange, 404, "not_found", "there is nothing of that number", NULL);
}
