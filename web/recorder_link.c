/*
 * recorder_link.c - see recorder_link.h.
 */
#include "recorder_link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_MS 500 /* between two looks at whether an answer is still wanted */

struct recorder_link {
    int door_fd;
    pthread_mutex_t lock; /* one knock at a time */
};

struct recorder_link *recorder_link_open(int door_fd)
{
    struct recorder_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->door_fd = door_fd;
    pthread_mutex_init(&link->lock, NULL);
    return link;
}

void recorder_link_close(struct recorder_link **slot)
{
    if (!*slot)
        return;
    pthread_mutex_destroy(&(*slot)->lock);
    free(*slot);
    *slot = NULL;
}

/* The connected socket, or a negative code: what the doorkeeper's answer brings. */
static int knock(int door_fd)
{
    int code = 0, fd = -1;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ancillary;
    struct iovec part = {.iov_base = &code, .iov_len = sizeof code};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    ssize_t got;
    if (send(door_fd, "c", 1, MSG_NOSIGNAL) != 1)
        return ERR_CLOSED;
    do
        got = recvmsg(door_fd, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got != sizeof code)
        return ERR_CLOSED;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    if (code < 0 && fd >= 0)
        close(fd);
    return code < 0 ? code : fd >= 0 ? fd : ERR_CLOSED;
}

int recorder_connect(struct recorder_link *link, struct control_connection *connection,
                     struct failure *failure)
{
    pthread_mutex_lock(&link->lock);
    int fd = knock(link->door_fd);
    pthread_mutex_unlock(&link->lock);
    if (fd == ERR_NOT_FOUND)
        return fail(failure, ERR_CLOSED, "no recorder is running: start tapeloopd");
    if (fd < 0)
        return fail(failure, ERR_CLOSED, "the recorder cannot be reached: %s", error_text(fd));
    control_open(connection, fd, CONTROL_ANSWER_BYTES_MAX);
    return 0;
}

static int send_request(struct control_connection *connection, json_int_t id, const char *method,
                        json_t *params, json_t *actor, const int *descriptors,
                        uint32_t descriptor_count, struct failure *failure)
{
    json_t *request = json_pack("{s:i, s:I, s:s, s:o}", "version", CONTROL_VERSION, "id", id,
                                "method", method, "params", params ? params : json_object());
    if (actor)
        json_object_set_new(request, "actor", actor);
    if (!request)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    int code = control_send(connection, request, descriptors, descriptor_count);
    json_decref(request);
    return code == 0
               ? 0
               : fail(failure, ERR_CLOSED, "the recorder cannot be asked: %s", error_text(code));
}

int recorder_send(struct control_connection *connection, const char *method, json_t *params,
                  json_t *actor, const int *descriptors, uint32_t descriptor_count, json_int_t *id,
                  struct failure *failure)
{
    static _Atomic uint32_t last_id;
    *id = (json_int_t)atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
    return send_request(connection, *id, method, params, actor, descriptors, descriptor_count,
                        failure);
}

int recorder_send_more(struct control_connection *connection, json_int_t id, const char *method,
                       struct failure *failure)
{
    return send_request(connection, id, method, NULL, NULL, NULL, 0, failure);
}

static int remote_error(const json_t *error, struct failure *failure)
{
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "message"));
    int number = code ? error_from_name(code) : ERR_PROTOCOL;
    return fail(failure, number < 0 ? number : ERR_PROTOCOL, "%s",
                text ? text : "the recorder sent an error without a sentence");
}

int recorder_receive(struct control_connection *connection, json_int_t id, int timeout_ms,
                     json_t **value, struct failure *failure)
{
    json_t *answer;
    int code = control_receive(connection, &answer, timeout_ms);
    if (code == ERR_TIMEOUT)
        return fail(failure, code, "the recorder does not answer");
    if (code != 0)
        return fail(failure, ERR_CLOSED, "the recorder has hung up: %s", error_text(code));
    const json_t *number = json_object_get(answer, "id");
    json_t *result = json_object_get(answer, "result");
    json_t *progress = json_object_get(answer, "progress");
    const json_t *error = json_object_get(answer, "error");
    if (!json_is_integer(number) || json_integer_value(number) != id)
        code = fail(failure, ERR_PROTOCOL, "the recorder sent an answer that fits no request");
    else if (error)
        code = remote_error(error, failure);
    else if (json_is_object(result))
        *value = json_incref(result);
    else if (json_is_object(progress))
        *value = json_incref(progress);
    else
        code = fail(failure, ERR_PROTOCOL, "the recorder sent an answer that makes no sense");
    bool more = code == 0 && !json_is_object(result);
    json_decref(answer);
    return more ? 1 : code;
}

/* Until the recorder has something to say, or has had timeout_ms for it. */
static int wait_for(const struct control_connection *connection, int client_fd, const atomic_bool *stopping,
                    int timeout_ms, struct failure *failure)
{
    for (int waited_ms = 0; waited_ms < timeout_ms; waited_ms += LOOK_MS) {
        struct pollfd watched[2] = {{.fd = connection->fd, .events = POLLIN},
                                    {.fd = client_fd, .events = POLLRDHUP}};
        if (poll(watched, 2, LOOK_MS) < 0 && errno != EINTR)
            return fail_errno(failure, errno, "waiting for the recorder");
        if (watched[1].revents)
            return fail(failure, ERR_CLOSED, "the client has gone");
        if (watched[0].revents)
            return 0;
        if (atomic_load(stopping))
            return fail(failure, ERR_INTERRUPTED, "tapeloop-web is ending");
    }
    return fail(failure, ERR_TIMEOUT, "the recorder does not answer");
}

int recorder_ask_for(struct recorder_link *link, int client_fd, const atomic_bool *stopping, const char *method,
                     json_t *params, json_t *actor, int timeout_ms, json_t **result, struct failure *failure)
{
    struct control_connection connection;
    json_int_t id;
    int code = recorder_connect(link, &connection, failure);
    if (code != 0) {
        json_decref(params);
        json_decref(actor);
        return code;
    }
    code = recorder_send(&connection, method, params, actor, NULL, 0, &id, failure);
    if (code == 0)
        do {
            code = stopping ? wait_for(&connection, client_fd, stopping, timeout_ms, failure) : 0;
            if (code == 0)
                code = recorder_receive(&connection, id, timeout_ms, result, failure);
            if (code == 1)
                json_decref(*result); /* progress */
        } while (code == 1);
    control_close(&connection);
    return code;
}

int recorder_ask(struct recorder_link *link, const char *method, json_t *params, json_t *actor,
                 int timeout_ms, json_t **result, struct failure *failure)
{
    return recorder_ask_for(link, -1, NULL, method, params, actor, timeout_ms, result, failure);
}
