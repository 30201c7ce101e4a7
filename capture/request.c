#include "request.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "text.h"

#define PROGRESS_NS 250000000ull
#define SECOND_MESSAGE_MS 10000 /* from its first byte to its last */

/* ---- parameters
 * ----------------------------------------------------------------------------------- */

static bool named(const char *names, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = names; (at = strstr(at, name)); at += length)
        if (length > 0 && (at == names || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return true;
    return false;
}

int request_check_names(struct request *request, const char *names)
{
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)request->params, key, value)
    {
        if (named(names, key))
            continue;
        char shown[80];
        text_printable(key, shown, sizeof shown);
        return fail(&request->failure, ERR_INVALID, "there is no parameter \"%s\"; there are: %s",
                    shown, names[0] ? names : "none");
    }
    return 0;
}

/* The member, or null where it is absent or null. */
static const json_t *member(const struct request *request, const char *name)
{
    const json_t *value = json_object_get(request->params, name);
    return json_is_null(value) ? NULL : value;
}

static int wrong(struct request *request, const char *name, const char *expected)
{
    return fail(&request->failure, ERR_INVALID, "parameter %s: expected %s", name, expected);
}

int request_string(struct request *request, const char *name, bool required, const char **value)
{
    const json_t *found = member(request, name);
    if (!found)
        return required ? fail(&request->failure, ERR_INVALID, "parameter %s is missing", name) : 0;
    if (!json_is_string(found))
        return wrong(request, name, "a text");
    if (strlen(json_string_value(found)) != json_string_length(found))
        return wrong(request, name, "a text without a zero byte");
    *value = json_string_value(found);
    return 0;
}

int request_count(struct request *request, const char *name, uint64_t min, uint64_t max,
                  uint64_t *value)
{
    const json_t *found = member(request, name);
    if (!found)
        return 0;
    json_int_t number = json_integer_value(found);
    if (!json_is_integer(found) || number < 0 || (uint64_t)number < min || (uint64_t)number > max)
        return fail(&request->failure, ERR_INVALID,
                    "parameter %s: expected a whole number from %" PRIu64 " to %" PRIu64, name, min,
                    max);
    *value = (uint64_t)number;
    return 0;
}

int request_bool(struct request *request, const char *name, bool *value)
{
    const json_t *found = member(request, name);
    if (!found)
        return 0;
    if (!json_is_boolean(found))
        return wrong(request, name, "true or false");
    *value = json_is_true(found);
    return 0;
}

int request_time(struct request *request, const char *name, int64_t *value)
{
    const json_t *found = member(request, name);
    if (!found)
        return 0;
    if (json_is_integer(found)) {
        *value = json_integer_value(found);
        return 0;
    }
    const char *text = json_string_value(found);
    if (!text || text[strspn(text, "-0123456789")] != '\0' || !text[0])
        return wrong(request, name, "a number of decimal digits, as a text");
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text)
        return wrong(request, name, "a number of 64 bits");
    *value = number;
    return 0;
}

int request_strings(struct request *request, const char *name, uint32_t max, const json_t **array,
                    uint32_t *count)
{
    *array = member(request, name);
    *count = 0;
    if (!*array)
        return 0;
    size_t size = json_array_size(*array);
    if (!json_is_array(*array))
        return wrong(request, name, "a list of texts");
    if (size > max)
        return fail(&request->failure, ERR_INVALID, "parameter %s: at most %u, not %zu", name, max,
                    size);
    for (size_t i = 0; i < size; i++) {
        const json_t *one = json_array_get(*array, i);
        if (!json_is_string(one) || strlen(json_string_value(one)) != json_string_length(one))
            return wrong(request, name, "a list of texts");
    }
    *count = (uint32_t)size;
    return 0;
}

/* ---- the client
 * ------------------------------------------------------------------------------------ */

void request_progress(struct request *request, json_t *progress, bool now)
{
    uint64_t now_ns = clock_monotonic_ns();
    if (request->gone || !progress || (!now && now_ns - request->progress_ns < PROGRESS_NS)) {
        json_decref(progress);
        return;
    }
    request->progress_ns = now_ns;
    if (!request->connection) {
        if (request->take_progress)
            request->take_progress(progress, request->context);
        json_decref(progress);
        return;
    }
    json_t *message = json_pack("{s:I, s:o}", "id", request->id, "progress", progress);
    if (!message || control_send(request->connection, message, NULL, 0) != 0)
        request->gone = true;
    json_decref(message);
}

/* There is something to read from the client. */
static enum request_news second_message(struct request *request, const char *second_method)
{
    char byte;
    ssize_t peeked = recv(request->connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (peeked < 0 && (errno == EAGAIN || errno == EINTR))
        return REQUEST_QUIET;
    request->gone = true;
    json_t *message;
    if (peeked <= 0 || control_receive(request->connection, &message, SECOND_MESSAGE_MS) != 0)
        return REQUEST_GONE;
    const char *method = json_string_value(json_object_get(message, "method"));
    const json_t *id = json_object_get(message, "id");
    if (second_method && method && strcmp(method, second_method) == 0 && json_is_integer(id) &&
        json_integer_value(id) == request->id)
        request->gone = false;
    json_decref(message);
    return request->gone ? REQUEST_GONE : REQUEST_SECOND;
}

enum request_news request_watch(struct request *request, int other_fd, int timeout_ms,
                                const char *second_method)
{
    struct pollfd watched[3] = {
        {.fd = request->recorder->stop_fd, .events = POLLIN},
        {.fd = request->connection ? request->connection->fd : request->cancel_fd,
         .events = POLLIN | POLLRDHUP},
        {.fd = other_fd, .events = POLLIN},
    };
    if (request->gone)
        return REQUEST_GONE;
    if (poll(watched, 3, timeout_ms) < 0)
        return REQUEST_QUIET;
    if (recorder_stopping(request->recorder))
        return REQUEST_STOPPING;
    if (watched[1].revents != 0 && !request->connection) {
        request->gone = true;
        return REQUEST_GONE;
    }
    if (watched[1].revents & POLLIN)
        return second_message(request, second_method);
    if (watched[1].revents != 0) {
        request->gone = true;
        return REQUEST_GONE;
    }
    return REQUEST_QUIET;
}

struct background {
    int (*work)(void *context);
    void *context;
    int result;
    int done_fd;
};

static void *background_thread(void *context)
{
    struct background *background = context;
    static const uint64_t one = 1;
    background->result = background->work(background->context);
    ssize_t written = write(background->done_fd, &one, sizeof one);
    (void)written;
    return NULL;
}

/* Waits for the work; once it is cancelled there is nothing else to wait for. */
static void background_watch(struct request *request, const struct background *background,
                             json_t *(*progress)(void *context), void (*cancel)(void *context))
{
    bool cancelled = false;
    for (;;) {
        struct pollfd done = {.fd = background->done_fd, .events = POLLIN};
        if (poll(&done, 1, cancelled ? -1 : 0) > 0)
            return;
        if (cancelled)
            continue;
        enum request_news news =
            request_watch(request, background->done_fd, (int)(PROGRESS_NS / 1000000), NULL);
        if (news == REQUEST_GONE || news == REQUEST_STOPPING) {
            cancelled = true;
            cancel(background->context);
        } else if (progress) {
            request_progress(request, progress(background->context), false);
        }
    }
}

int request_background(struct request *request, int (*work)(void *context),
                       json_t *(*progress)(void *context), void (*cancel)(void *context),
                       void *context)
{
    struct background background = {.work = work, .context = context};
    background.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (background.done_fd < 0)
        return fail_errno(&request->failure, errno, "no descriptor left");
    pthread_t thread;
    int error = pthread_create(&thread, NULL, background_thread, &background);
    if (error == 0) {
        background_watch(request, &background, progress, cancel);
        pthread_join(thread, NULL);
    }
    close(background.done_fd);
    if (error != 0)
        return fail_errno(&request->failure, error, "no thread left");
    return background.result;
}
