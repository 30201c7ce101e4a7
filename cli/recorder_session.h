/*
 * recorder_session.h - a command's line to the recorder of a state directory: the one that runs
 * there, or one that is started for the time of the command.
 *
 * The happy path: session_open() connects to DIR/control.sock, session_call() asks, session_close()
 * hangs up. Where nobody listens, session_open() starts
 *     tapeloopd --state DIR --session FD
 * with one end of a socket pair as FD. The recorder writes "ready" and a line feed there, or
 * "CODE: SENTENCE" (the code a word of errors.def) and ends. When our end closes, because the
 * command is done or because it was killed, the recorder finishes what it holds and ends;
 * session_close() waits for that, so that its locks are free when the next command starts. Where
 * other commands have connected to it meanwhile, it writes "staying" instead, and ends with the
 * last of them.
 *
 * What a recorder of our own says on its standard error comes to us: its warnings and errors become
 * the command's, the rest is shown with --verbose only.
 *
 * Two commands may find nobody and start a recorder each: the second recorder finds the state
 * directory taken, and its command connects to the first. In the same way a recorder that is just
 * ending is waited for.
 */
#ifndef CLI_RECORDER_SESSION_H
#define CLI_RECORDER_SESSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control.h"
#include "errors.h"
#include "options.h"

enum session_flags {
    SESSION_START = 1, /* start a recorder where none runs */
    SESSION_RINGS =
        4, /* and wait, some seconds, until its rings are up: for those who look at them */
    SESSION_MAKE_STATE =
        2, /* and make the state directory where it is missing: without this, nothing is made */
};

struct session {
    struct control_connection connection;
    char *state; /* absolute */
    json_int_t last_id;
    json_t *hello;  /* the recorder's answer to hello */
    pid_t recorder; /* the one that we started, or 0 */
    int life_fd;    /* of it; -1 */
    int words_fd;   /* its standard error; -1 */
    uint32_t word_bytes;
    char words[1024]; /* a line of it, as far as it has come */
};

/* One request that may take long. */
struct session_job {
    const char *method;
    const int *descriptors; /* the caller's */
    uint32_t descriptor_count;
    void *context; /* of the functions below, each of which may be null */
    void (*progress)(const json_t *progress, void *context);
    /* Every tenth of a second, and after each progress. Negative: give up with this code. */
    int (*tick)(void *context);
    /* A signal came, the `count`th. 0: go on waiting for the answer; negative: give up. Null:
     * ERR_INTERRUPTED. */
    int (*interrupted)(unsigned count, void *context);
    int watched_fd; /* a pipe whose reader may go, ERR_CLOSED; -1: none */
};

/*
 * ERR_NOT_FOUND: no state directory, or no recorder and SESSION_START was not given; what else can
 * go wrong is in the sentence. Not to be closed where it fails.
 */
int session_open(struct session *session, const char *state, unsigned flags,
                 struct failure *failure);

/*
 * Asks and waits for the answer. `params` is consumed (null: none). *result (the caller owns it;
 * may be null) is an object, also where the recorder had nothing to say. Giving up hangs up, which
 * cancels the job.
 */
int session_call(struct session *session, const struct session_job *job, json_t *params,
                 json_t **result, struct failure *failure);

/* During a call: another message about it, with its id ("extract.finish", "record.stop"). */
int session_add(struct session *session, const char *method);

/*
 * A quick question on a connection of its own while a call is under way. *result as in
 * session_call(). ERR_TIMEOUT: no answer within the time.
 */
int session_peek(struct session *session, const char *method, json_t *params, int timeout_ms,
                 json_t **result);

/*
 * Hangs up and waits for a recorder of our own to end. Returns `code`, or, where that is 0 or an
 * EXIT_ value of success and the recorder did not end well, a negative code with a sentence.
 */
int session_close(struct session *session, int code, struct failure *failure);

/* All of it for a command that asks one short question. */
int session_ask(const struct invocation *invocation, unsigned flags, const char *method,
                json_t *params, json_t **result, struct failure *failure);

#endif
