/*
 * exchange.c - see exchange.h.
 */
#include "exchange.h"

#include <civetweb.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include <linux/sockios.h>

#include "civetweb_socket.h"
#include "text.h"

#define QUERY_PARAMETERS_MAX 32
#define QUERY_VALUE_BYTES_MAX 8192u
#define WRITE_BYTES (16u << 10) /* between two looks at how fast the client is: a record of TLS */

/* ---- the request ----------------------------------------------------------------------------- */

const char *exchange_header(const struct exchange *exchange, const char *name)
{
    return mg_get_header(exchange->connection, name);
}

int exchange_query(const struct exchange *exchange, const char *name, char *value, size_t size,
                   struct failure *failure)
{
    const char *query = exchange->info->query_string;
    int length = -1;
    char text[QUERY_VALUE_BYTES_MAX + 1];
    if (query)
        length = mg_get_var(query, strlen(query), name, text, sizeof text);
    if (length == -1)
        return 0;
    if (length < 0 || (size_t)length >= size)
        return fail(failure, ERR_INVALID, "%s: longer than %zu bytes", name, size - 1);
    memcpy(value, text, (size_t)length + 1);
    return 0;
}

/* Whether `name` (length bytes) is one of the words of `names`. */
static bool is_among(const char *name, size_t length, const char *names)
{
    while (*names) {
        size_t word = strcspn(names, " ");
        if (word == length && memcmp(names, name, length) == 0)
            return true;
        names += word;
        names += strspn(names, " ");
    }
    return false;
}

int exchange_check_query(const struct exchange *exchange, const char *names,
                         struct failure *failure)
{
    const char *part = exchange->info->query_string;
    const char *seen[QUERY_PARAMETERS_MAX];
    size_t seen_bytes[QUERY_PARAMETERS_MAX], count = 0;
    if (part && strstr(part, "%00"))
        return fail(failure, ERR_INVALID, "the query holds a zero");
    while (part && *part) {
        size_t length = strcspn(part, "&"), name = strcspn(part, "=&");
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", (int)(name < sizeof shown ? name : sizeof shown - 1),
                 part);
        if (!is_among(part, name, names))
            return fail(failure, ERR_INVALID, "there is no query parameter \"%s\" here", shown);
        for (size_t i = 0; i < count; i++)
            if (seen_bytes[i] == name && memcmp(seen[i], part, name) == 0)
                return fail(failure, ERR_INVALID, "query parameter \"%s\" is there twice", shown);
        if (count == QUERY_PARAMETERS_MAX)
            return fail(failure, ERR_INVALID, "too many query parameters");
        seen[count] = part;
        seen_bytes[count++] = name;
        part += length + (part[length] == '&');
    }
    return 0;
}

int exchange_query_count(const struct exchange *exchange, const char *name, int64_t min,
                         int64_t max, int64_t *value, struct failure *failure)
{
    char text[32], *end;
    const char *query = exchange->info->query_string;
    int length = query ? mg_get_var(query, strlen(query), name, text, sizeof text) : -1;
    if (length == -1)
        return 0;
    errno = 0;
    long long number = length > 0 ? strtoll(text, &end, 10) : 0;
    if (length <= 0 || *end != '\0' || errno != 0 || number < min || number > max ||
        (text[0] != '-' && (text[0] < '0' || text[0] > '9')))
        return fail(failure, ERR_INVALID, "%s: expected a number from %" PRId64 " to %" PRId64,
                    name, min, max);
    *value = number;
    return 0;
}

int exchange_query_switch(const struct exchange *exchange, const char *name, bool *value,
                          struct failure *failure)
{
    char text[8] = "";
    int code = exchange_query(exchange, name, text, sizeof text, failure);
    if (code != 0 || !text[0])
        return code;
    *value = strcmp(text, "true") == 0;
    return *value || strcmp(text, "false") == 0
               ? 0
               : fail(failure, ERR_INVALID, "%s: expected true or false", name);
}

int exchange_check_body(const struct exchange *exchange, const char *names, struct failure *failure)
{
    const char *name;
    json_t *value;
    json_object_foreach(
        exchange->body, name,
        value) if (!is_among(name, strlen(name),
                             names)) return fail(failure, ERR_INVALID,
                                                 "the body has a member that does not belong here; "
                                                 "possible are: %s",
                                                 names);
    return 0;
}

int exchange_body_string(const struct exchange *exchange, const char *name, bool required,
                         const char **value, struct failure *failure)
{
    const json_t *member = json_object_get(exchange->body, name);
    if (json_is_string(member))
        *value = json_string_value(member);
    else if (required || (member && !json_is_null(member)))
        return fail(failure, ERR_INVALID, "%s: expected a string", name);
    return 0;
}

int exchange_body_switch(const struct exchange *exchange, const char *name, bool *value,
                         struct failure *failure)
{
    const json_t *member = json_object_get(exchange->body, name);
    if (member && !json_is_boolean(member))
        return fail(failure, ERR_INVALID, "%s: expected true or false", name);
    if (member)
        *value = json_is_true(member);
    return 0;
}

int exchange_time(const char *name, const char *text, int64_t *time_ns, struct failure *failure)
{
    struct timespec now;
    if (!text || !*text)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    int code =
        text_parse_time(text, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, time_ns, failure);
    return code == 0 ? 0 : fail_context(failure, code, "%s", name);
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* What every answer says about itself, so that no browser makes more of it than it is. */
static const char guards[] =
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src "
    "'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n";

void answer_head(struct exchange *exchange, int status, const char *type, int64_t length,
                 const char *more)
{
    char lines[256] = "";
    int used = 0;
    if (type)
        used = snprintf(lines, sizeof lines, "Content-Type: %s\r\n", type);
    if (length >= 0)
        snprintf(lines + used, sizeof lines - (size_t)used, "Content-Length: %" PRId64 "\r\n",
                 length);
    mg_printf(exchange->connection, "HTTP/1.1 %d %s\r\n%s%s%sConnection: close\r\n\r\n", status,
              mg_get_response_code_text(exchange->connection, status), lines, more ? more : "",
              guards);
}

/* Whether the client has been waited for too long for what it took; what lies in the kernel yet, it has not taken. */
static bool is_too_slow(const struct exchange *exchange)
{
    int queued = 0;
    if (exchange->waited_ms <= TAKE_GRACE_MS)
        return false;
    if (ioctl(civetweb_socket(exchange->connection), SIOCOUTQ, &queued) != 0 || queued < 0)
        queued = 0;
    uint64_t taken = exchange->given_bytes > (uint64_t)queued ? exchange->given_bytes - (uint64_t)queued : 0;
    return exchange->waited_ms > TAKE_GRACE_MS + (int64_t)(taken * 1000 / TAKE_BYTES_PER_S);
}

bool exchange_write(struct exchange *exchange, const char *bytes, size_t count)
{
    while (count > 0) {
        size_t piece = count < WRITE_BYTES ? count : WRITE_BYTES;
        int64_t began_ms = exchange_clock_ms();
        if (mg_write(exchange->connection, bytes, piece) != (int)piece)
            return false;
        exchange->waited_ms += exchange_clock_ms() - began_ms;
        exchange->given_bytes += piece;
        if (is_too_slow(exchange))
            return false;
        bytes += piece;
        count -= piece;
    }
    return true;
}

static bool is_head(const struct exchange *exchange)
{
    const char *method = exchange->info->request_method; /* null: what came was no request */
    return method && strcmp(method, "HEAD") == 0;
}

static int answer_text(struct exchange *exchange, int status, const char *type, char *text,
                       const char *more)
{
    size_t length = text ? strlen(text) : 0;
    if (!text) {
        answer_head(exchange, 500, NULL, 0, NULL);
        return 500;
    }
    answer_head(exchange, status, type, (int64_t)length, more);
    if (!is_head(exchange))
        (void)exchange_write(exchange, text, length); /* its length has been said: who gets less sees it */
    free(text);
    return status;
}

static void make_tag(const char *text, const char *prefix, char tag[TAG_SIZE])
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    char hex[2 * SECRET_DIGEST_BYTES + 1];
    secret_digest_bytes(text, strlen(text), digest);
    hex_text(digest, 16, hex);
    snprintf(tag, TAG_SIZE, "\"%.24s%.32s\"", prefix, hex);
}

int answer_tag(const json_t *value, const char *prefix, char tag[TAG_SIZE])
{
    char *text = json_dumps(value, JSON_COMPACT);
    if (!text)
        return ERR_NO_MEMORY;
    make_tag(text, prefix, tag);
    free(text);
    return 0;
}

int answer_json_tagged(struct exchange *exchange, json_t *value, const char *prefix)
{
    char tag[TAG_SIZE], line[TAG_SIZE + 16];
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text)
        return answer_text(exchange, 200, "application/json", NULL, NULL);
    make_tag(text, prefix, tag);
    snprintf(line, sizeof line, "ETag: %s\r\n", tag);
    const char *known = exchange_header(exchange, "If-None-Match");
    if (!known || strcmp(known, tag) != 0)
        return answer_text(exchange, 200, "application/json", text, line);
    free(text);
    answer_head(exchange, 304, NULL, -1, line);
    return 304;
}

int answer_json(struct exchange *exchange, int status, json_t *value, const char *more)
{
    if (status == 200 && !more && strcmp(exchange->info->request_method, "GET") == 0)
        return answer_json_tagged(exchange, value, "");
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    return answer_text(exchange, status, "application/json", text, more);
}

int answer_plain(struct exchange *exchange, const char *type, char *text)
{
    return answer_text(exchange, 200, type, text, NULL);
}

int answer_nothing(struct exchange *exchange, const char *more)
{
    answer_head(exchange, 204, NULL, -1, more);
    return 204;
}

int answer_problem(struct exchange *exchange, int status, const char *code, const char *sentence,
                   const char *more)
{
    char clean[1024];
    text_printable(sentence, clean,
                   sizeof clean); /* sentences hold foreign text; JSON holds UTF-8 only */
    json_t *problem = json_pack("{s:s, s:s, s:i, s:s, s:s}", "type", "about:blank", "title",
                                mg_get_response_code_text(exchange->connection, status), "status",
                                status, "code", code, "detail", clean);
    char *text = problem ? json_dumps(problem, JSON_COMPACT) : NULL;
    json_decref(problem);
    return answer_text(exchange, status, "application/problem+json", text, more);
}

int answer_status(int code)
{
    switch (code) {
    case ERR_NOT_FOUND:
        return 404;
    case ERR_INVALID:
    case ERR_TOO_SMALL:
    case ERR_TOO_LARGE:
        return 400;
    case ERR_PERMISSION:
        return 403;
    case ERR_EXISTS:
    case ERR_BUSY:
    case ERR_FOREIGN:
    case ERR_MISMATCH:
        return 409;
    case ERR_UNSUPPORTED:
        return 501;
    case ERR_CLOSED:
    case ERR_AGAIN:
        return 503;
    case ERR_TIMEOUT:
        return 504;
    case ERR_NO_SPACE:
        return 507;
    default:
        return 500;
    }
}

int answer_failure(struct exchange *exchange, const struct failure *failure)
{
    int status = answer_status(failure->code);
    return answer_problem(exchange, status, error_name(failure->code),
                          failure->text[0] ? failure->text : error_text(failure->code),
                          status == 503 ? "Retry-After: 2\r\n" : NULL);
}

int64_t exchange_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void exchange_log(const struct exchange *exchange, const char *format, ...)
{
    char text[512], clean[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text_printable(text, clean, sizeof clean);
    fprintf(stderr, "tapeloop-web: %s from %s: %s\n",
            exchange->caller.name[0] ? exchange->caller.name : "somebody",
            exchange->entrance == ENTRANCE_LOCAL ? "here" : exchange->info->remote_addr, clean);
}
