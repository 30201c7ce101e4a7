/*
 * control.h - the control socket: JSON messages, with descriptors beside them, over a Unix stream socket.
 *
 * A message is a 4-byte little-endian length and that many bytes of one JSON object (UTF-8, no
 * trailing bytes). Descriptors (SCM_RIGHTS) travel with the message's first byte. A request is
 *     {"version": 1, "id": N, "method": "ring.create", "params": {...}}
 * (and may have an "actor", see PROTOCOL.md) and is answered by any number of  {"id": N, "progress": {...}}  and then exactly one of
 *     {"id": N, "result": {...}}      {"id": N, "error": {"code": "busy", "message": "..."}}
 * One request at a time on a connection; closing the connection cancels what it asked for.
 */
#ifndef SCHEMA_CONTROL_H
#define SCHEMA_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define CONTROL_VERSION 1
#define CONTROL_REQUEST_BYTES_MAX (1u << 20)   /* what a server accepts */
#define CONTROL_ANSWER_BYTES_MAX (256u << 20)  /* what a client accepts */
#define CONTROL_DESCRIPTORS_MAX 16
#define CONTROL_DEPTH_MAX 16                   /* nesting of JSON that a server accepts */
#define CONTROL_SOCKET_NAME "control.sock"     /* in the state directory */

/* A connected socket and what has been read of the next message. One thread. */
struct control_connection {
    int fd;
    uint32_t bytes_max;     /* of one incoming message */
    uint8_t *buffer;
    size_t buffered;
    size_t capacity;
    int descriptor[CONTROL_DESCRIPTORS_MAX]; /* received, not yet taken */
    uint32_t descriptors;
};

void control_open(struct control_connection *connection, int fd, uint32_t bytes_max);

/* Closes the socket, descriptors not taken, and frees the buffer. */
void control_close(struct control_connection *connection);

/* Connects to the recorder of a state directory. ERR_NOT_FOUND: none is running there. */
int control_connect(struct control_connection *connection, const char *state_directory, struct failure *failure);

/*
 * Sends one message, blocking. `descriptors` stay the caller's. `message` is not consumed.
 * ERR_CLOSED: the other side is gone (no SIGPIPE).
 */
int control_send(struct control_connection *connection, const json_t *message, const int *descriptors,
                 uint32_t descriptor_count);

/*
 * Receives one message; the caller owns *message. timeout_ms -1: for ever. ERR_CLOSED, ERR_TIMEOUT,
 * ERR_PROTOCOL (too long, not an object, too deep, not UTF-8): the connection is then of no more use.
 */
int control_receive(struct control_connection *connection, json_t **message, int timeout_ms);

/* Takes the i-th descriptor of the last message (closed on exec), or -1. The caller owns it. */
int control_take_descriptor(struct control_connection *connection, uint32_t i);

/* Parses one message body with the limits above; the fuzz target. ERR_PROTOCOL or ERR_NO_MEMORY. */
int control_parse(const uint8_t *bytes, size_t count, json_t **message);

/*
 * One request from start to end: sends, calls `progress` (may be null) for each progress object, returns
 * the result object in *result (the caller owns it; may be null). A remote error becomes code and sentence in failure.
 */
int control_call(struct control_connection *connection, const char *method, json_t *params /* consumed */,
                 const int *descriptors, uint32_t descriptor_count,
                 void (*progress)(const json_t *progress, void *context), void *context, json_t **result,
                 struct failure *failure);

#endif
