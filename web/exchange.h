/*
 * exchange.h - one HTTP request and its answer, between CivetWeb and the handlers.
 *
 * An exchange belongs to the thread that serves its connection. A handler answers exactly once,
 * with one of the answer_... functions, whose result it returns: the status of the answer. Failures
 * are problem details (RFC 9457).
 */
#ifndef WEB_EXCHANGE_H
#define WEB_EXCHANGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"
#include "password.h"
#include "web_store.h"

struct mg_connection;
struct mg_request_info;
struct web_server;

#define BODY_BYTES_MAX (64u << 10)
#define PARAMETERS_MAX 2u
#define PARAMETER_SIZE 128u

enum entrance {
    ENTRANCE_MAIN,     /* the interface and the API, TLS */
    ENTRANCE_DOWNLOAD, /* packets by ticket, TLS */
    ENTRANCE_LOCAL,    /* the API on a Unix socket, no TLS, tokens only */
};

/* Who asks, once that is known. */
struct caller {
    char name[USER_NAME_MAX + 1];
    enum role role;
    unsigned rights;  /* of the token, no more than of the role */
    bool must_change; /* may do nothing but set a password */
    bool by_cookie;
    uint8_t secret[SECRET_DIGEST_BYTES]; /* of the session, when by_cookie */
    char csrf[SECRET_TEXT_SIZE];         /* likewise: what a change must bring along */
};

struct exchange {
    struct web_server *server;
    struct mg_connection *connection;
    const struct mg_request_info *info;
    enum entrance entrance;
    struct caller caller;
    char parameter[PARAMETERS_MAX][PARAMETER_SIZE]; /* the path's parts in braces, in order */
    bool body_read;                                 /* as much of it as has come in time */
    json_t *body;                                   /* of a request that has one; the exchange's */
    int64_t waited_ms;                              /* for the client to take what exchange_write() had for it, */
    uint64_t given_bytes;                           /* and how much that was */
};

/* ---- the request ----------------------------------------------------------------------------- */

/* The request's header, or null. The connection's memory. */
const char *exchange_header(const struct exchange *exchange, const char *name);

/* Copies a query parameter, decoded; absent: `value` stays. ERR_INVALID: longer than size - 1
 * bytes. */
int exchange_query(const struct exchange *exchange, const char *name, char *value, size_t size,
                   struct failure *failure);

/* ERR_INVALID: the query has a parameter that is not among `names` (separated by blanks), a zero,
 * or one twice. */
int exchange_check_query(const struct exchange *exchange, const char *names,
                         struct failure *failure);

/* A whole number from the query; absent: *value stays. ERR_INVALID. */
int exchange_query_count(const struct exchange *exchange, const char *name, int64_t min,
                         int64_t max, int64_t *value, struct failure *failure);

/* "true" or "false" from the query; absent: *value stays. ERR_INVALID. */
int exchange_query_switch(const struct exchange *exchange, const char *name, bool *value,
                          struct failure *failure);

/* ERR_INVALID: the body has a member that is not among `names`. */
int exchange_check_body(const struct exchange *exchange, const char *names,
                        struct failure *failure);

/* A string member of the body. The body's memory. ERR_INVALID: absent and required, or no string.
 */
int exchange_body_string(const struct exchange *exchange, const char *name, bool required,
                         const char **value, struct failure *failure);

/* true or false as a member of the body; absent: *value stays. ERR_INVALID. */
int exchange_body_switch(const struct exchange *exchange, const char *name, bool *value,
                         struct failure *failure);

/* A time as people write it (text.h), called `name` in the sentence; null or "": *time_ns stays. */
int exchange_time(const char *name, const char *text, int64_t *time_ns, struct failure *failure);

/* ---- the answer ------------------------------------------------------------------------------ */

/* Begins every answer: status line and the headers that all answers have. `more`: whole header
 * lines, or null. */
void answer_head(struct exchange *exchange, int status, const char *type,
                 int64_t length /* -1: none */, const char *more);

/*
 * Bytes of the answer, all of them. False: the client has gone, takes nothing for as long as its server waits, or takes them too
 * slowly: a client that keeps a thread waiting for more than TAKE_GRACE_MS has to take TAKE_BYTES_PER_S on the average of that time.
 * What there is no more to send of does not count against it.
 */
#define TAKE_GRACE_MS 30000
#define TAKE_BYTES_PER_S 8192
bool exchange_write(struct exchange *exchange, const char *bytes, size_t count);

/* `value` is consumed. A GET without `more` has an ETag and may be answered by 304. `more`: whole
 * header lines ("Name: value\r\n"), or null. */
int answer_json(struct exchange *exchange, int status, json_t *value, const char *more);

/* The same with 200 and a tag that begins with `prefix`. */
int answer_json_tagged(struct exchange *exchange, json_t *value, const char *prefix);

/* The tag that answer_json() would give `value`, with its quotes. ERR_NO_MEMORY. */
#define TAG_SIZE 64u
int answer_tag(const json_t *value, const char *prefix, char tag[TAG_SIZE]);

/* 200 with a text that is not JSON; `text` is freed. Null: 500. */
int answer_plain(struct exchange *exchange, const char *type, char *text);

/* 204 */
int answer_nothing(struct exchange *exchange, const char *more);

/* A problem: `code` is a word of errors.def or one of the few that openapi.yaml names besides. */
int answer_problem(struct exchange *exchange, int status, const char *code, const char *sentence,
                   const char *more);

/* The problem that fits `failure`. */
int answer_failure(struct exchange *exchange, const struct failure *failure);

/* The HTTP status for an error code. */
int answer_status(int code);

/* Milliseconds since some moment, of a clock that nobody sets. */
int64_t exchange_clock_ms(void);

/* One line about what somebody did, on standard error: for the journal. No foreign bytes get
 * through unprintable. */
void exchange_log(const struct exchange *exchange, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
