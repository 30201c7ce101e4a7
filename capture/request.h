/*
 * request.h - one request of the control protocol while it is being answered: its parameters, its
 * progress, its client.
 *
 * A request belongs to its connection's thread. Long work either watches the client itself
 * (request_watch) or runs on a thread of its own while the connection's thread watches
 * (request_background).
 */
#ifndef CAPTURE_REQUEST_H
#define CAPTURE_REQUEST_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "errors.h"
#include "recorder.h"

struct request {
    struct recorder *recorder;
    struct control_connection *connection; /* null: work without a client, see below */
    json_int_t id;
    const json_t *params;
    const json_t *actor; /* on whose behalf, as the client says; null: his own */
    struct failure failure; /* what a method leaves when it returns an error */
    bool gone;              /* the client closed, or broke the protocol: no answer is wanted */
    uint64_t progress_ns;   /* when the last progress was sent */
    int answer_fd;          /* goes with the answer, and is closed then; -1: none */
    /* Without a client: what ends the work when it can be read (-1: nothing), and who is told of progress. */
    int cancel_fd;
    void (*take_progress)(const json_t *progress, void *context);
    void *context;
};

/* ---- parameters: 0, or ERR_INVALID with a sentence that names the parameter
 * ----------------------- */

/* Refuses members that are not among `names` (separated by blanks). */
int request_check_names(struct request *request, const char *names);

/* Strings are the request's. An absent or null one: ERR_INVALID if `required`, else *value stays as
 * it is. */
int request_string(struct request *request, const char *name, bool required, const char **value);
int request_count(struct request *request, const char *name, uint64_t min, uint64_t max,
                  uint64_t *value);
int request_bool(struct request *request, const char *name, bool *value);
/* A time or a time in seconds: a string of decimal digits, or an integer. */
int request_time(struct request *request, const char *name, int64_t *value);
/* An array of at most `max` strings; absent: *array is null and *count 0. */
int request_strings(struct request *request, const char *name, uint32_t max, const json_t **array,
                    uint32_t *count);

/* ---- the client
 * ------------------------------------------------------------------------------------ */

/* Sends a progress object (consumed, may be null), at most every 250 ms unless `now`. A client that
 * does not take it is gone. */
void request_progress(struct request *request, json_t *progress, bool now);

enum request_news {
    REQUEST_QUIET,    /* the time is over, or `other_fd` is ready */
    REQUEST_GONE,     /* the client has closed: cancel */
    REQUEST_SECOND,   /* the client sent the second method that it may send */
    REQUEST_STOPPING, /* the recorder ends */
};

/*
 * Waits for the client, for other_fd (-1: none) to become readable, or for the time to be over.
 * second_method (may be null) is the one request that the client may send meanwhile; anything else
 * is a breach of protocol.
 */
enum request_news request_watch(struct request *request, int other_fd, int timeout_ms,
                                const char *second_method);

/*
 * Runs work(context) on a thread of its own; sends what progress(context) (may be null) gives from time to time; calls
 * cancel(context) once when the client is gone or the recorder ends. Returns what `work` returned, after it has. ERR_NO_MEMORY: no thread.
 */
int request_background(struct request *request, int (*work)(void *context), json_t *(*progress)(void *context),
                       void (*cancel)(void *context), void *context);

#endif
