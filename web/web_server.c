/*
 * web_server.c - see web_server.h.
 */
#include "web_server.h"

#include <civetweb.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access.h"
#include "extraction_list.h"
#include "job_tickets.h"
#include "handlers.h"

/* Every connection has a thread, and a client that says nothing has it until the time is over: so
 * many, and so short. */
#define MAIN_THREADS "256"
#define MAIN_TIMEOUT_MS "10000"
#define DOWNLOAD_THREADS_SPARE 24 /* beside those that hand over packets: to refuse others */
#define DOWNLOAD_TIMEOUT_MS "30000"
#define LOCAL_THREADS "32"

static struct exchange exchange_of(struct mg_connection *connection)
{
    const struct mg_request_info *info = mg_get_request_info(connection);
    const struct entrance_data *data = mg_get_user_data(mg_get_context(connection));
    return (struct exchange){.server = data->server,
                             .connection = connection,
                             .info = info,
                             .entrance = (enum entrance)data->entrance};
}

static int take_request(struct mg_connection *connection)
{
    struct exchange exchange = exchange_of(connection);
    return route_request(&exchange);
}

/* What CivetWeb refuses by itself: requests that are none. */
static int take_error(struct mg_connection *connection, int status, const char *sentence)
{
    struct exchange exchange = exchange_of(connection);
    (void)sentence;
    if (!exchange.info)
        return 1;
    (void)answer_problem(&exchange, status, "protocol", "that was no request that can be answered",
                         NULL);
    return 0;
}

/* Clients that break off are no news, and there is no end of them. */
static int take_message(const struct mg_connection *connection, const char *message)
{
    (void)connection;
    (void)message;
    return 1;
}

/* The context is ours: it is asked for when a server starts, and again when it ends. */
static int give_tls(void **tls, void *data)
{
    *tls = ((const struct entrance_data *)data)->server->tls;
    return 1;
}

/* `tls`: with it, and on `port`; else `port` is a whole entry. */
static int start(struct web_server *server, enum entrance entrance, const char *ports,
                 const char *threads, const char *timeout_ms, struct failure *failure)
{
    const struct mg_callbacks callbacks = {.begin_request = take_request,
                                           .http_error = take_error,
                                           .log_message = take_message,
                                           .external_ssl_ctx = give_tls};
    const char *options[] = {
        "listening_ports",
        ports,
        "num_threads",
        threads,
        "request_timeout_ms",
        timeout_ms,
        "decode_url",
        "no", /* what is behind a zero would be lost */
        "enable_keep_alive",
        "no",
        "enable_auth_domain_check",
        "no",
        "enable_directory_listing",
        "no",
        "max_request_size",
        "16384",
        "connection_queue",
        "128",
        "listen_backlog",
        "512",
        "tcp_nodelay",
        "1",
        NULL,
    };
    char words[256] = "";
    struct mg_error_data error = {.text = words, .text_buffer_size = sizeof words};
    server->data[entrance] = (struct entrance_data){server, (int)entrance};
    struct mg_init_data init = {.callbacks = &callbacks,
                                .user_data = &server->data[entrance],
                                .configuration_options = options};
    server->context[entrance] = mg_start2(&init, &error);
    if (!server->context[entrance])
        return fail(failure, ERR_BUSY, "%s cannot be served: %s", ports,
                    words[0] ? words : strerror(errno));
    return 0;
}

static int start_tls(struct web_server *server, enum entrance entrance, unsigned port,
                     const char *threads, const char *timeout_ms, struct failure *failure)
{
    char ports[128];
    const char *listen = server->options->listen;
    if (listen) {
        bool colons = strchr(listen, ':') != NULL;
        snprintf(ports, sizeof ports, "%s%.90s%s:%us", colons ? "[" : "", listen, colons ? "]" : "",
                 port);
        return start(server, entrance, ports, threads, timeout_ms, failure);
    }
    snprintf(ports, sizeof ports, "+%us", port); /* both versions of IP */
    if (start(server, entrance, ports, threads, timeout_ms, failure) == 0)
        return 0;
    snprintf(ports, sizeof ports, "%us", port); /* a machine without IPv6 */
    return start(server, entrance, ports, threads, timeout_ms, failure);
}

static int start_local(struct web_server *server, struct failure *failure)
{
    char ports[160];
    const char *path = server->options->socket_path;
    struct stat status;
    if (!path)
        return 0;
    if (strchr(path, ',') || snprintf(ports, sizeof ports, "x%s", path) > 107)
        return fail(failure, ERR_INVALID, "socket %s: too long, or with a comma", path);
    if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode))
        unlink(path); /* of a process that was killed */
    mode_t mask = umask(0117);
    int code = start(server, ENTRANCE_LOCAL, ports, LOCAL_THREADS, MAIN_TIMEOUT_MS, failure);
    umask(mask);
    return code;
}

int web_server_start(struct web_server *server, struct failure *failure)
{
    char download_threads[16];
    const struct web_options *options = server->options;
    snprintf(download_threads, sizeof download_threads, "%u",
             options->downloads_max + DOWNLOAD_THREADS_SPARE);
    mg_init_library(MG_FEATURES_TLS);
    server->guard = login_guard_open();
    server->extractions = extraction_list_open(options->downloads_max);
    server->job_tickets = job_tickets_open();
    int code = server->guard && server->extractions && server->job_tickets
                   ? 0
                   : fail(failure, ERR_NO_MEMORY, "out of memory");
    if (code == 0)
        code =
            start_tls(server, ENTRANCE_MAIN, options->port, MAIN_THREADS, MAIN_TIMEOUT_MS, failure);
    if (code == 0)
        code = start_tls(server, ENTRANCE_DOWNLOAD, options->download_port, download_threads,
                         DOWNLOAD_TIMEOUT_MS, failure);
    if (code == 0)
        code = start_local(server, failure);
    if (code != 0)
        web_server_stop(server);
    return code;
}

void web_server_stop(struct web_server *server)
{
    atomic_store(&server->stopping, true);
    for (int i = 2; i >= 0; i--)
        if (server->context[i])
            mg_stop(server->context[i]);
    memset(server->context, 0, sizeof server->context);
    extraction_list_close(&server->extractions);
    job_tickets_close(&server->job_tickets);
    login_guard_close(&server->guard);
    mg_exit_library();
}
