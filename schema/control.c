/*
 * control.c - framing of the control socket.
 *
 * A receiver never reads past the message that it is at. So the kernel, which hands out descriptors
 * with the byte that they were sent with, cannot mix those of two messages; and what comes with any
 * byte but a message's first ones is a breach of protocol.
 *
 * The other side may lie: a length is only believed as far as bytes have come, nesting is counted
 * before the (recursive) parser sees the text, and descriptors that nobody asked for are closed.
 */
#include "control.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"

#define HEADER_BYTES sizeof(le32)
#define BUFFER_BYTES_MIN 4096u
#define BUFFER_BYTES_KEPT (64u * 1024) /* between messages; a larger buffer is given back */

void control_open(struct control_connection *connection, int fd, uint32_t bytes_max)
{
    *connection = (struct control_connection){.fd = fd, .bytes_max = bytes_max};
}

static void descriptors_close(struct control_connection *connection)
{
    for (uint32_t i = 0; i < connection->descriptors; i++)
        if (connection->descriptor[i] >= 0)
            close(connection->descriptor[i]);
    connection->descriptors = 0;
}

void control_close(struct control_connection *connection)
{
    descriptors_close(connection);
    if (connection->fd >= 0)
        close(connection->fd);
    free(connection->buffer);
    control_open(connection, -1, connection->bytes_max);
}

int control_take_descriptor(struct control_connection *connection, uint32_t i)
{
    if (i >= connection->descriptors)
        return -1;
    int fd = connection->descriptor[i];
    connection->descriptor[i] = -1;
    return fd;
}

/* ---- connecting -------------------------------------------------------------------------------
 */

/*
 * A socket's address holds 107 bytes and a state directory may have a longer name: then the address
 * goes by way of the opened directory.
 */
static int address_make(const char *state_directory, struct sockaddr_un *address, int *directory)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    *directory = -1;
    int length = snprintf(address->sun_path, sizeof address->sun_path, "%s/%s", state_directory,
                          CONTROL_SOCKET_NAME);
    if (length >= 0 && (size_t)length < sizeof address->sun_path)
        return 0;
    *directory = open(state_directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*directory < 0)
        return -errno;
    snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", *directory,
             CONTROL_SOCKET_NAME);
    return 0;
}

int control_connect(struct control_connection *connection, const char *state_directory,
                    struct failure *failure)
{
    control_open(connection, -1, CONTROL_ANSWER_BYTES_MAX);
    struct sockaddr_un address;
    int directory;
    int number = -address_make(state_directory, &address, &directory);
    int fd = -1;
    if (number == 0) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
            number = errno;
    }
    if (directory >= 0)
        close(directory);
    if (number == 0) {
        connection->fd = fd;
        return 0;
    }
    if (fd >= 0)
        close(fd);
    if (number == ENOENT || number == ECONNREFUSED || number == ENOTDIR)
        return fail(failure, ERR_NOT_FOUND, "no recorder is running on %s", state_directory);
    return fail_errno(failure, number, "cannot reach the recorder of %s", state_directory);
}

/* ---- sending ----------------------------------------------------------------------------------
 */

/* Waits until a non-blocking socket takes bytes again. */
static int send_wait(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || !(flags & O_NONBLOCK))
        return ERR_TIMEOUT; /* it does block: its SO_SNDTIMEO is over */
    struct pollfd wanted = {.fd = fd, .events = POLLOUT};
    if (poll(&wanted, 1, -1) < 0 && errno != EINTR)
        return error_from_errno(errno);
    return 0;
}

/* Sends all of `part`, the descriptors with its first byte. */
static int send_parts(int fd, struct iovec part[2], const int *descriptors, uint32_t count)
{
    union {
        char bytes[CMSG_SPACE(CONTROL_DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } ancillary = {{0}};
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    if (count > 0) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    }
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            int result = errno == EAGAIN ? send_wait(fd) : error_from_errno(errno);
            if (result != 0)
                return result;
            continue;
        }
        if (sent > 0) {
            message.msg_control = NULL;
            message.msg_controllen = 0;
        }
        size_t left = (size_t)sent;
        while (message.msg_iovlen > 0 && left >= message.msg_iov->iov_len) {
            left -= message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + left;
            message.msg_iov->iov_len -= left;
        }
    }
    return 0;
}

int control_send(struct control_connection *connection, const json_t *message,
                 const int *descriptors, uint32_t descriptor_count)
{
    if (!json_is_object(message) || descriptor_count > CONTROL_DESCRIPTORS_MAX)
        return ERR_INVALID;
    char *text = json_dumps(message, JSON_COMPACT);
    if (!text)
        return ERR_NO_MEMORY;
    int result = ERR_TOO_LARGE;
    size_t count = strlen(text); /* JSON text holds no zero byte: a zero in a string is \u0000 */
    if (count <= CONTROL_ANSWER_BYTES_MAX) {
        le32 header = le32_of((uint32_t)count);
        struct iovec part[2] = {{.iov_base = &header, .iov_len = sizeof header},
                                {.iov_base = text, .iov_len = count}};
        result = send_parts(connection->fd, part, descriptors, descriptor_count);
    }
    free(text);
    return result;
}

/* ---- receiving --------------------------------------------------------------------------------
 */

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the socket has something to read. deadline_ms < 0: for ever. */
static int receive_wait(int fd, int64_t deadline_ms)
{
    for (;;) {
        int left_ms = -1;
        if (deadline_ms >= 0) {
            int64_t left = deadline_ms - clock_ms();
            left_ms = left > 0 ? (int)left : 0;
        }
        struct pollfd wanted = {.fd = fd, .events = POLLIN};
        int ready = poll(&wanted, 1, left_ms);
        if (ready > 0)
            return 0;
        if (ready == 0)
            return ERR_TIMEOUT;
        if (errno != EINTR)
            return error_from_errno(errno);
    }
}

/* Room for `bytes` in all, at least doubling. */
static int buffer_grow(struct control_connection *connection, size_t bytes)
{
    if (bytes <= connection->capacity)
        return 0;
    size_t capacity = connection->capacity ? connection->capacity : BUFFER_BYTES_MIN;
    while (capacity < bytes)
        capacity *= 2;
    uint8_t *buffer = realloc(connection->buffer, capacity);
    if (!buffer)
        return ERR_NO_MEMORY;
    connection->buffer = buffer;
    connection->capacity = capacity;
    return 0;
}

/* Keeps the descriptors of one recvmsg(2). ERR_PROTOCOL where they are too many or out of place. */
static int descriptors_keep(struct control_connection *connection, struct msghdr *message,
                            bool first)
{
    bool refused = message->msg_flags & MSG_CTRUNC;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (first && connection->descriptors < CONTROL_DESCRIPTORS_MAX) {
                connection->descriptor[connection->descriptors++] = fd;
            } else {
                refused = true;
                close(fd);
            }
        }
    }
    return refused ? ERR_PROTOCOL : 0;
}

/* Reads at most `count` more bytes into the buffer: what one recvmsg(2) gives. */
static int receive_some(struct control_connection *connection, size_t count)
{
    union {
        char bytes[CMSG_SPACE(CONTROL_DESCRIPTORS_MAX * sizeof(int))];
        struct cmsghdr align;
    } ancillary;
    struct iovec room = {.iov_base = connection->buffer + connection->buffered, .iov_len = count};
    struct msghdr message = {.msg_iov = &room,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    ssize_t got = recvmsg(connection->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : error_from_errno(errno);
    if (got == 0)
        return ERR_CLOSED;
    bool first = connection->buffered == 0;
    connection->buffered += (size_t)got;
    return descriptors_keep(connection, &message, first);
}

/* How many bytes the message at hand has, as far as is known: its header, then all of it. */
static int message_bytes(const struct control_connection *connection, size_t *bytes)
{
    *bytes = HEADER_BYTES;
    if (connection->buffered < HEADER_BYTES)
        return 0;
    le32 header;
    memcpy(&header, connection->buffer, sizeof header);
    uint32_t body = le32_get(header);
    if (body == 0 || body > connection->bytes_max)
        return ERR_PROTOCOL;
    *bytes += body;
    return 0;
}

static int receive_whole(struct control_connection *connection, int64_t deadline_ms, size_t *bytes)
{
    for (;;) {
        int result = message_bytes(connection, bytes);
        if (result != 0 || (connection->buffered >= HEADER_BYTES && connection->buffered == *bytes))
            return result;
        /* The buffer at most doubles with what has come, whatever the header promises. */
        size_t room = connection->buffered + BUFFER_BYTES_MIN;
        if (connection->capacity > room)
            room = connection->capacity;
        if (room > *bytes)
            room = *bytes;
        result = buffer_grow(connection, room);
        if (result == 0)
            result = receive_wait(connection->fd, deadline_ms);
        if (result == 0)
            result = receive_some(connection, room - connection->buffered);
        if (result != 0)
            return result;
    }
}

int control_receive(struct control_connection *connection, json_t **message, int timeout_ms)
{
    if (connection->buffered == 0)
        descriptors_close(connection); /* of the message before */
    int64_t deadline_ms = timeout_ms < 0 ? -1 : clock_ms() + timeout_ms;
    size_t bytes;
    int result = receive_whole(connection, deadline_ms, &bytes);
    if (result != 0)
        return result;
    result = control_parse(connection->buffer + HEADER_BYTES, bytes - HEADER_BYTES, message);
    connection->buffered = 0;
    if (connection->capacity > BUFFER_BYTES_KEPT) {
        free(connection->buffer);
        connection->buffer = NULL;
        connection->capacity = 0;
    }
    return result;
}

/*
 * True where brackets nest deeper than the limit. Only what stands outside strings counts; where
 * the text is no JSON, the parser finds the fault no deeper than this has counted.
 */
static bool too_deep(const uint8_t *bytes, size_t count)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < count; i++) {
        uint8_t c = bytes[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > CONTROL_DEPTH_MAX)
                return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

int control_parse(const uint8_t *bytes, size_t count, json_t **message)
{
    /* The braces are the first and last byte: nothing before, nothing behind, and an object. */
    if (count < 2 || bytes[0] != '{' || bytes[count - 1] != '}' || too_deep(bytes, count))
        return ERR_PROTOCOL;
    json_error_t error;
    json_t *parsed = json_loadb((const char *)bytes, count, JSON_REJECT_DUPLICATES, &error);
    if (!parsed)
        return json_error_code(&error) == json_error_out_of_memory ? ERR_NO_MEMORY : ERR_PROTOCOL;
    assert(json_is_object(parsed));
    *message = parsed;
    return 0;
}

/* ---- a call ------------------------------------------------------------------------------------
 */

static json_t *request_make(json_int_t id, const char *method, json_t *params)
{
    if (!params)
        params = json_object();
    return json_pack("{s:i, s:I, s:s, s:o}", "version", CONTROL_VERSION, "id", id, "method", method,
                     "params", params);
}

static int remote_error(const json_t *error, struct failure *failure)
{
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "message"));
    if (!code || !text)
        return fail(failure, ERR_PROTOCOL, "the recorder sent an error without code or message");
    return fail(failure, error_from_name(code), "%s", text);
}

/*
 * Looks at one answer. 0: it was the last one; ERR_AGAIN: progress, more will come; other negative
 * codes: the call failed.
 */
static int answer_take(const json_t *answer, json_int_t id,
                       void (*progress)(const json_t *progress, void *context), void *context,
                       json_t **result, struct failure *failure)
{
    const json_t *number = json_object_get(answer, "id");
    json_t *good = json_object_get(answer, "result");
    const json_t *bad = json_object_get(answer, "error");
    const json_t *part = json_object_get(answer, "progress");
    int kinds = (good != NULL) + (bad != NULL) + (part != NULL);
    if (!json_is_integer(number) || json_integer_value(number) != id || kinds != 1)
        return fail(failure, ERR_PROTOCOL, "the recorder sent an answer that fits no request");
    if (bad)
        return remote_error(bad, failure);
    if (part) {
        if (progress)
            progress(part, context);
        return ERR_AGAIN;
    }
    if (result)
        *result = json_incref(good);
    return 0;
}

int control_call(struct control_connection *connection, const char *method, json_t *params,
                 const int *descriptors, uint32_t descriptor_count,
                 void (*progress)(const json_t *progress, void *context), void *context,
                 json_t **result, struct failure *failure)
{
    static _Atomic uint32_t last_id;
    json_int_t id = (json_int_t)atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
    json_t *request = request_make(id, method, params);
    if (!request)
        return fail(failure, ERR_NO_MEMORY, "out of memory, or a method that is not UTF-8");
    int code = control_send(connection, request, descriptors, descriptor_count);
    json_decref(request);
    if (code != 0)
        return fail(failure, code, "cannot ask the recorder: %s", error_text(code));
    bool more = true;
    while (more) {
        json_t *answer;
        code = control_receive(connection, &answer, -1);
        if (code != 0)
            return fail(failure, code, "no answer from the recorder: %s", error_text(code));
        /* A remote error may bear any code, that of progress too: the answer tells them apart. */
        more = json_object_get(answer, "progress") != NULL;
        code = answer_take(answer, id, progress, context, result, failure);
        json_decref(answer);
        if (code != ERR_AGAIN)
            more = false;
    }
    return code;
}
