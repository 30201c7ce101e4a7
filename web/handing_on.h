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

/* Asks, and answers with the result. `params` is consumed; null: none. */
int hand_on(struct exchange *exchange, int status, const char *method, json_t *params);

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

/* The body as parameters, after its members' names have been checked. Null: answered, *status. */
json_t *body_as_params(struct exchange *exchange, const char *names, int *status);

/* A number of the path, 1 to `max`. 0, or 404: there can be no such thing. */
int path_count(struct exchange *exchange, const char *text, int64_t max, int64_t *number);

#endif
