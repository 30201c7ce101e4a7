/*
 * web_server.h - the three HTTP servers of the web process and what their handlers share.
 *
 * CivetWeb gives every connection a thread for as long as it lasts. So there are three servers with
 * threads of their own: the interface and the API; downloads, of which there are only so many; the
 * Unix socket. Nothing stays open longer than its answer.
 */
#ifndef WEB_WEB_SERVER_H
#define WEB_WEB_SERVER_H

#include <openssl/types.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "errors.h"

struct extraction_list;
struct login_guard;
struct mg_context;
struct job_tickets;
struct recorder_link;
struct web_server;
struct web_store;

#define HOST_NAMES_MAX 16u

struct web_options {
    const char *listen; /* address, or null: all */
    unsigned port, download_port;
    const char *socket_path;          /* of the Unix socket; null: none */
    const char *certificate, *key;    /* the operator's own; null: ours */
    const char *directory;            /* the web process's own */
    const char *host[HOST_NAMES_MAX]; /* names that a Host header may have */
    unsigned hosts;
    unsigned downloads_max;
};

struct entrance_data {
    struct web_server *server;
    int entrance; /* enum entrance */
};

struct web_server {
    const struct web_options *options;
    struct web_store *store;
    struct recorder_link *recorder;
    struct login_guard *guard;
    struct extraction_list *extractions;
    struct job_tickets *job_tickets;
    SSL_CTX *tls;
    atomic_bool stopping; /* downloads look at it */
    struct entrance_data data[3];
    struct mg_context *context[3];
};

/*
 * Starts to serve. `server` is zeroed but for options, store, recorder and tls, which stay the
 * caller's. ERR_BUSY: somebody else has the port; after a failure nothing is left.
 */
int web_server_start(struct web_server *server, struct failure *failure);

/* Ends downloads, answers what has begun, and stops. */
void web_server_stop(struct web_server *server);

#endif
