/*
 * recorder_link.h - how the web process reaches the recorder: it has no way into the state
 * directory itself, so the doorkeeper (doorkeeper.h) connects for it and hands over the connected
 * socket. The recorder thus sees the doorkeeper's credentials, and the web process needs none.
 *
 * A connection serves one question, or one extraction. Any thread may call.
 */
#ifndef WEB_RECORDER_LINK_H
#define WEB_RECORDER_LINK_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "control.h"
#include "errors.h"

struct recorder_link;

/* `door_fd` is the worker's end of the doorkeeper's socket; it stays the caller's. Null: out of
 * memory. */
struct recorder_link *recorder_link_open(int door_fd);
void recorder_link_close(struct recorder_link **slot);

/* ERR_CLOSED with a sentence: no recorder runs, or the doorkeeper is gone. */
int recorder_connect(struct recorder_link *link, struct control_connection *connection,
                     struct failure *failure);

/* Sends one request with an id of its own, on behalf of `actor` (PROTOCOL.md). `params` and `actor`
 * are consumed; null: none. */
int recorder_send(struct control_connection *connection, const char *method, json_t *params,
                  json_t *actor, const int *descriptors, uint32_t descriptor_count, json_int_t *id,
                  struct failure *failure);

/* A second message about the request `id`, which goes on. */
int recorder_send_more(struct control_connection *connection, json_int_t id, const char *method,
                       struct failure *failure);

/*
 * Receives one answer to `id`. 1: progress, in *value; 0: the result, in *value; negative: the
 * recorder's error, or that no answer came in time. The caller owns *value.
 */
int recorder_receive(struct control_connection *connection, json_int_t id, int timeout_ms,
                     json_t **value, struct failure *failure);

/* A question from connecting to hanging up; progress is skipped. *result is an object; the caller
 * owns it. ERR_TIMEOUT: nothing came for timeout_ms. */
int recorder_ask(struct recorder_link *link, const char *method, json_t *params, json_t *actor,
                 int timeout_ms, json_t **result, struct failure *failure);

/*
 * The same, as long as it is wanted: the recorder ends what it does for whoever has hung up. ERR_CLOSED: the other side of
 * `client_fd` has gone; ERR_INTERRUPTED: *stopping. Both are seen within half a second.
 */
int recorder_ask_for(struct recorder_link *link, int client_fd, const atomic_bool *stopping, const char *method,
                     json_t *params, json_t *actor, int timeout_ms, json_t **result, struct failure *failure);

#endif
