/*
 * router.c - from a request to its handler: Host, path, who, right, CSRF, body, in this order. What
 * is refused here reaches no handler.
 */
#include <civetweb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "access.h"
#include "control.h"
#include "handlers.h"
#include "web_server.h"

#define BODY_MS 10000 /* from a body's first byte to its last */

#define ACCESS_PUBLIC (-1)
#define ACCESS_NONE RIGHT_NONE
#define ACCESS_READ RIGHT_READ
#define ACCESS_HEADERS RIGHT_HEADERS
#define ACCESS_PACKETS RIGHT_PACKETS
#define ACCESS_CONTROL RIGHT_CONTROL
#define ACCESS_USERS RIGHT_USERS

static const struct route {
    const char *method, *path, *access_name;
    int access;
    int (*handle)(struct exchange *exchange);
} routes[] = {
#define ROUTE(method, path, access, handler) \
    {#method, path, #access, (int)ACCESS_##access, handler},
#include "routes.def"
#undef ROUTE
};

#define ROUTES (sizeof routes / sizeof routes[0])

void routes_print(void)
{
    for (size_t i = 0; i < ROUTES; i++)
        printf("%s %s %s\n", routes[i].method, routes[i].path, routes[i].access_name);
}

/* One part of a path, decoded. False: nothing, too long, or with a zero or a slash in it. */
static bool decode(const char *part, size_t length, char value[PARAMETER_SIZE])
{
    if (length == 0 || length > 3 * PARAMETER_SIZE)
        return false;
    int decoded = mg_url_decode(part, (int)length, value, (int)PARAMETER_SIZE, 0);
    return decoded > 0 && strlen(value) == (size_t)decoded && !strchr(value, '/');
}

/* Whether `path` fits `pattern`; the parts in braces go to the exchange. */
static bool path_fits(struct exchange *exchange, const char *pattern, const char *path)
{
    unsigned count = 0;
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t length = strcspn(path, "/");
        if (count == PARAMETERS_MAX || !decode(path, length, exchange->parameter[count++]))
            return false;
        path += length;
        pattern = strchr(pattern, '}') + 1;
    }
    return *path == '\0';
}

/* The route, or null: then *allowed has the methods that the path does have, "" if there is no such
 * path. */
static const struct route *find_route(struct exchange *exchange, char *allowed, size_t size)
{
    allowed[0] = '\0';
    for (size_t i = 0; i < ROUTES; i++) {
        if (!path_fits(exchange, routes[i].path, exchange->info->local_uri))
            continue;
        if (strcmp(routes[i].method, exchange->info->request_method) == 0)
            return &routes[i];
        size_t used = strlen(allowed);
        snprintf(allowed + used, size - used, "%s%s", used ? ", " : "", routes[i].method);
    }
    return NULL;
}

/* 0, or the status of the answer that refuses. */
static int refuse(struct exchange *exchange, const struct route *route)
{
    struct failure failure = {0};
    bool change = strcmp(route->method, "GET") != 0;
    if (change && exchange->entrance == ENTRANCE_MAIN && !access_origin_is_ours(exchange))
        return answer_problem(exchange, 403, "origin",
                              "the request comes from a page that is not ours", NULL);
    if (route->access == ACCESS_PUBLIC)
        return 0;
    int code = access_identify(exchange, &failure);
    if (code == ERR_PERMISSION)
        return answer_problem(exchange, 401, "unauthorized", failure.text,
                              "WWW-Authenticate: Bearer\r\n");
    if (code != 0)
        return answer_failure(exchange, &failure);
    if (change && !access_csrf_is_right(exchange))
        return answer_problem(exchange, 403, "csrf", "the header X-CSRF-Token is missing or wrong",
                              NULL);
    if (exchange->caller.must_change && strncmp(route->path, "/api/v1/session", 15) != 0)
        return answer_problem(exchange, 403, "password-change", "set a password of your own first",
                              NULL);
    if (exchange->caller.rights &
        RIGHT_PACKETS) /* who may see all of a packet may see its headers */
        exchange->caller.rights |= RIGHT_HEADERS;
    if ((exchange->caller.rights & (unsigned)route->access) != (unsigned)route->access)
        return answer_problem(exchange, 403, "permission", "this user or token may not do that",
                              NULL);
    return 0;
}

/*
 * What there is of a body, at most `size` bytes of it; less: the client has gone, or is too slow.
 * `body` null: they are dropped. A byte at a time, for CivetWeb waits for all of a piece however
 * slowly it comes, and a client that drips must not keep its thread for longer than one that says
 * nothing.
 */
static size_t read_body(const struct exchange *exchange, uint8_t *body, size_t size)
{
    size_t got = 0;
    uint8_t byte;
    int64_t due_ms = exchange_clock_ms() + BODY_MS;
    while (got < size && exchange_clock_ms() < due_ms &&
           mg_read(exchange->connection, body ? body + got : &byte, 1) == 1)
        got++;
    return got;
}

/* A body that was refused unread is read all the same where it is small: who still sends when the
 * connection is closed may never see why. */
static void drain_body(const struct exchange *exchange)
{
    long long length = exchange->info->content_length;
    if (!exchange->body_read && length > 0 && length <= (long long)BODY_BYTES_MAX)
        (void)read_body(exchange, NULL, (size_t)length);
}

/* 0 with exchange->body, or the status of the answer that refuses. No body is an empty object. */
static int take_body(struct exchange *exchange)
{
    static const char json[] = "application/json";
    uint8_t bytes[4096], *body = bytes;
    const char *type = exchange_header(exchange, "Content-Type");
    long long length = exchange->info->content_length;
    if (length == 0 || (length < 0 && !exchange_header(exchange, "Transfer-Encoding"))) {
        exchange->body = json_object();
        return exchange->body ? 0
                              : answer_problem(exchange, 500, "no_memory", "out of memory", NULL);
    }
    if (length < 0)
        return answer_problem(exchange, 411, "length", "a body needs its Content-Length", NULL);
    if (length > (long long)BODY_BYTES_MAX)
        return answer_problem(exchange, 413, "too_large", "the body is too large", NULL);
    if (!type || strncasecmp(type, json, sizeof json - 1) != 0 ||
        !strchr("; ", type[sizeof json - 1]))
        return answer_problem(exchange, 415, "type", "the body must be application/json", NULL);
    if ((size_t)length > sizeof bytes && !(body = malloc((size_t)length)))
        return answer_problem(exchange, 500, "no_memory", "out of memory", NULL);
    exchange->body_read = true;
    size_t got = read_body(exchange, body, (size_t)length);
    int code = got == (size_t)length ? control_parse(body, got, &exchange->body) : ERR_PROTOCOL;
    if (body != bytes)
        free(body);
    return code == 0 ? 0
                     : answer_problem(exchange, 400, "invalid", "the body is no JSON object", NULL);
}

/* The API, and outside of it the files of the interface. */
static int route_path(struct exchange *exchange)
{
    char allowed[64], line[96];
    const struct route *route = find_route(exchange, allowed, sizeof allowed);
    bool interface = !route && !allowed[0] && strncmp(exchange->info->local_uri, "/api/", 5) != 0;
    if (interface && exchange->entrance == ENTRANCE_MAIN)
        return handle_ui_file(exchange);
    /* Packets by ticket have an entrance of their own, and it has nothing else. */
    bool download = route && route->handle == handle_download;
    if ((exchange->entrance == ENTRANCE_DOWNLOAD) != download &&
        exchange->entrance != ENTRANCE_LOCAL)
        route = NULL, allowed[0] = '\0';
    if (!route && !allowed[0])
        return answer_problem(exchange, 404, "not_found", "there is nothing at this path", NULL);
    if (!route) {
        snprintf(line, sizeof line, "Allow: %s\r\n", allowed);
        return answer_problem(exchange, 405, "method", "this path does not have this method", line);
    }
    int status = refuse(exchange, route);
    bool has_body = strcmp(route->method, "GET") != 0 && strcmp(route->method, "DELETE") != 0;
    if (status == 0 && has_body)
        status = take_body(exchange);
    return status ? status : route->handle(exchange);
}

int route_request(struct exchange *exchange)
{
    const struct web_options *options = exchange->server->options;
    const char *path = exchange->info->local_uri;
    mg_disable_connection_keep_alive(exchange->connection);
    if (exchange->entrance != ENTRANCE_LOCAL &&
        !access_host_is_ours(exchange_header(exchange, "Host"), options->host, options->hosts))
        return answer_problem(exchange, 421, "host",
                              "this server is not known by that name: see --host of tapeloop-web",
                              NULL);
    if (!path || path[0] != '/')
        return answer_problem(exchange, 400, "invalid", "that is no path", NULL);
    int status = route_path(exchange);
    drain_body(exchange);
    json_decref(exchange->body);
    return status;
}
