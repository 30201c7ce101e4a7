/*
 * handing_on.h - routes that are the recorder's to answer: what is asked goes on through the
 * control socket, and what the recorder says (schema/PROTOCOL.md) comes back as it is.
 *
 * Each function returns the status that it has answered with, or, where it says so, 0: nothing is
 * answered yet.
 */
#ifndef WEB_HANDING_ON_H
#define WEB_HANDING_ON_H

#include "exchange.h"

#define HANDED_WHOLE "" /* the whole result, not a member of it */

/* Asks on behalf of the caller; *result is the caller's. `params` is consumed; null: none. */
int ask(struct exchange *exchange, const char *method, json_t *params, json_t **result,
        struct failure *failure);

/* Whom the recorder is to write into its audit log. New reference. */
json_t *actor_json(const struct exchange *exchange);

/*
 * What happened here alone, log-ins and users: a line for the journal, and a row of the recorder's
 * audit log where one answers. `action`: a word of a-z and -; `outcome`: "done", or what went
 * wrong.
 */
void audit(const struct exchange *exchange, const char *action, const char *outcome,
           const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Asks, and answers with the result. `params` is consumed; null: none. */
int hand_on(struct exchange *exchange, int status, const char *method, json_t *params);

/* The same for what takes long and can be begun again: it is given up when the client has gone. */
int hand_on_watched(struct exchange *exchange, int status, const char *method, json_t *params);

/*
 * The same for a change: logged as one of `about`, and answered with `member` of the result
 * (HANDED_WHOLE: all of it), or, where that is null, with 204. What the recorder refuses because it
 * was changed meanwhile is 412 where the client has sent If-Match, else 409.
 */
int hand_on_change(struct exchange *exchange, int status, const char *method, json_t *params,
                   const char *member, const char *about);

/* 0: the request has no query. */
int no_query(struct exchange *exchange);

/* 0: it may be the name of a ring. */
int check_ring(struct exchange *exchange, const char *name);

/* 0: the request has no query, and its path's first parameter may be the name of a ring. */
int check_plain_ring(struct exchange *exchange);

/* The body as parameters, after its members' names have been checked. Null: answered, *status. */
json_t *body_as_params(struct exchange *exchange, const char *names, int *status);

/* A number of the path, 1 to `max`. 0, or 404: there can be no such thing. */
int path_count(struct exchange *exchange, const char *text, int64_t max, int64_t *number);

#endif
