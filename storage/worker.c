/*
 * worker.c - the socket between the recorder and a tapeloop-extract process, seen from both ends.
 *
 * SOCK_SEQPACKET keeps messages apart, so one sendmsg() or recvmsg() is one message. Each side
 * checks type and length of what comes in against its own table: a wrong length never reaches a
 * reader of the struct.
 */
#include "worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- messages ----------------------------------------------------------------------------------
 */

/* Bytes of one element; false for a type that this side does not take. */
static bool element_size(uint32_t type, bool from_worker, uint32_t *bytes)
{
    switch (type) {
    case WORKER_JOB:
        *bytes = sizeof(struct worker_job);
        return !from_worker;
    case WORKER_FILTER:
        *bytes = 1;
        return !from_worker;
    case WORKER_SEGMENTS:
        *bytes = sizeof(struct worker_segment);
        return !from_worker;
    case WORKER_PLAN_END:
    case WORKER_FINISH:
    case WORKER_RUN:
    case WORKER_VERDICT_LOG:
        *bytes = 0;
        return !from_worker;
    case WORKER_VERDICT:
        *bytes = sizeof(struct worker_verdict);
        return !from_worker;
    case WORKER_PROGRESS:
        *bytes = sizeof(struct worker_progress);
        return from_worker;
    case WORKER_BAD:
        *bytes = sizeof(struct worker_bad);
        return from_worker;
    case WORKER_GAP: /* goes both ways */
        *bytes = sizeof(struct worker_gap);
        return true;
    case WORKER_CAUGHT_UP:
        *bytes = 0;
        return from_worker;
    case WORKER_DONE:
        *bytes = sizeof(struct worker_done);
        return from_worker;
    default:
        return false;
    }
}

/* Messages that say one thing carry one element; lists carry any number; the rest none. */
static bool count_fits(uint32_t type, uint32_t count)
{
    switch (type) {
    case WORKER_FILTER:
    case WORKER_SEGMENTS:
        return true;
    case WORKER_PLAN_END:
    case WORKER_FINISH:
    case WORKER_RUN:
    case WORKER_VERDICT_LOG:
    case WORKER_CAUGHT_UP:
        return count == 0;
    default:
        return count == 1;
    }
}

static bool message_fits(const uint8_t *buffer, size_t length, bool from_worker)
{
    struct worker_message head;
    uint32_t bytes;
    if (length < sizeof head)
        return false;
    memcpy(&head, buffer, sizeof head);
    return element_size(head.type, from_worker, &bytes) && count_fits(head.type, head.count) &&
           length - sizeof head == (uint64_t)bytes * head.count;
}

static void terminate(char *text, size_t size)
{
    text[size - 1] = '\0';
}

static void terminate_texts(uint32_t type, void *element)
{
    if (type == WORKER_JOB) {
        struct worker_job *job = element;
        terminate(job->ring_name, sizeof job->ring_name);
        terminate(job->host, sizeof job->host);
        for (uint32_t i = 0; i < RING_DISKS_MAX; i++)
            terminate(job->disk[i].name, sizeof job->disk[i].name);
    } else if (type == WORKER_GAP) {
        struct worker_gap *gap = element;
        terminate(gap->interface, sizeof gap->interface);
    } else if (type == WORKER_DONE) {
        struct worker_done *done = element;
        terminate(done->text, sizeof done->text);
        terminate(done->narrowing, sizeof done->narrowing);
    }
}

static int send_message(int socket, enum worker_message_type type, const void *elements,
                        uint32_t element_bytes, uint32_t count, const int *descriptors,
                        uint32_t descriptor_count, int flags)
{
    uint64_t bytes = (uint64_t)element_bytes * count;
    assert(bytes + sizeof(struct worker_message) <= WORKER_MESSAGE_BYTES_MAX);
    assert(descriptor_count <= WORKER_DESCRIPTORS_MAX);
    struct worker_message head = {.type = (uint32_t)type, .count = count};
    struct iovec part[2] = {{&head, sizeof head}, {(void *)elements, (size_t)bytes}};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(WORKER_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = part, .msg_iovlen = bytes > 0 ? 2 : 1};
    if (descriptor_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
        memcpy(CMSG_DATA(rights), descriptors, descriptor_count * sizeof(int));
    }
    for (;;) {
        if (sendmsg(socket, &message, MSG_NOSIGNAL | flags) >= 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN && (flags & MSG_DONTWAIT))
            return ERR_AGAIN;
        if (errno == EAGAIN) {
            struct pollfd room = {.fd = socket, .events = POLLOUT};
            poll(&room, 1, -1);
            continue;
        }
        return errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN ? ERR_CLOSED
                                                                          : error_from_errno(errno);
    }
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until a message can be read. */
static int wait_readable(int socket, int timeout_ms)
{
    int64_t end = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;
    for (;;) {
        int64_t left = timeout_ms < 0 ? -1 : end - now_ms();
        struct pollfd in = {.fd = socket, .events = POLLIN};
        int ready = poll(&in, 1, timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);
        if (ready > 0)
            return 0;
        if (ready == 0)
            return ERR_TIMEOUT;
        if (errno != EINTR)
            return error_from_errno(errno);
    }
}

/* Descriptors beyond what `descriptor` holds, and all of them where it is null, are closed by the
 * kernel. */
static int receive_message(int socket, void *buffer, size_t *length, int *descriptor,
                           uint32_t *descriptors, bool *unread)
{
    struct iovec part = {buffer, WORKER_MESSAGE_BYTES_MAX};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(WORKER_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor) {
        *descriptors = 0;
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
    }
    /* ECONNRESET says, once, that the other side has gone without reading everything; its last
     * words come after that. */
    ssize_t received;
    do {
        received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        *unread |= received < 0 && errno == ECONNRESET;
    } while (received < 0 && (errno == EINTR || errno == ECONNRESET));
    if (received < 0)
        return error_from_errno(errno);
    if (descriptor) {
        for (struct cmsghdr *rights = CMSG_FIRSTHDR(&message); rights;
             rights = CMSG_NXTHDR(&message, rights)) {
            if (rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS)
                continue;
            uint32_t count = (uint32_t)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(descriptor + *descriptors, CMSG_DATA(rights), count * sizeof(int));
            *descriptors += count; /* the control buffer holds no more than the array does */
        }
    }
    if (received == 0)
        return ERR_CLOSED;
    *length = (size_t)received;
    return message.msg_flags & MSG_TRUNC ? ERR_PROTOCOL : 0;
}

/* ---- the recorder's side -----------------------------------------------------------------------
 */

static int spawn(const char *path, int socket, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, ordinary;
    sigemptyset(&none);
    sigemptyset(&ordinary);
    for (int number = 1; number < SIGRTMIN; number++)
        if (number != SIGKILL && number != SIGSTOP)
            sigaddset(&ordinary, number);
    char *const arguments[] = {(char *)"tapeloop-extract", NULL}, *const environment[] = {NULL};

    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (error) {
        posix_spawn_file_actions_destroy(&actions);
        return error;
    }
    /* The socket first: it may be any number, and dup2 of 3 to 3 takes the close-on-exec flag off.
     */
    error = posix_spawn_file_actions_adddup2(&actions, socket, WORKER_SOCKET);
    if (!error)
        error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(&actions, WORKER_SOCKET + 1);
    if (!error)
        error = posix_spawnattr_setsigmask(&attributes, &none);
    if (!error)
        error = posix_spawnattr_setsigdefault(&attributes, &ordinary);
    if (!error)
        error =
            posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (!error)
        error = posix_spawn(pid, path, &actions, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

int worker_start(const char *path, struct worker *worker, struct failure *failure)
{
    *worker = (struct worker){.pid = -1, .socket = -1};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return fail_errno(failure, errno, "no socket for the reading process");
    /* Descriptors 0 to 2 are given to other things in the child before the socket is moved. */
    int inherited = fcntl(pair[1], F_DUPFD_CLOEXEC, WORKER_SOCKET);
    int error = inherited < 0 ? errno : spawn(path, inherited, &worker->pid);
    if (inherited >= 0)
        close(inherited);
    close(pair[1]);
    if (error) {
        close(pair[0]);
        worker->pid = -1;
        if (error == ENOENT)
            return fail(failure, ERR_NOT_FOUND,
                        "the program %s is missing: is tapeloop installed whole?", path);
        return fail_errno(failure, error, "starting %s failed", path);
    }
    worker->socket = pair[0];
    return 0;
}

int worker_send(struct worker *worker, enum worker_message_type type, const void *elements,
                uint32_t element_bytes, uint32_t count, const int *descriptors,
                uint32_t descriptor_count)
{
    return send_message(worker->socket, type, elements, element_bytes, count, descriptors,
                        descriptor_count, 0);
}

int worker_receive(struct worker *worker, uint8_t *buffer, const void **element, int timeout_ms)
{
    size_t length;
    int result = wait_readable(worker->socket, timeout_ms);
    if (!result)
        result = receive_message(worker->socket, buffer, &length, NULL, NULL, &worker->unread);
    if (result)
        return result;
    if (!message_fits(buffer, length, true))
        return ERR_PROTOCOL;
    struct worker_message head;
    memcpy(&head, buffer, sizeof head);
    terminate_texts(head.type, buffer + sizeof head);
    *element = buffer + sizeof head;
    return (int)head.type;
}

int worker_stop(struct worker *worker)
{
    int status = 0;
    if (worker->socket >= 0)
        close(worker->socket);
    worker->socket = -1;
    if (worker->pid > 0) {
        kill(worker->pid, SIGKILL); /* one that has exited is a zombie until the wait: the number is
                                       still its own */
        while (waitpid(worker->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    worker->pid = -1;
    return status;
}

/* ---- the worker's side -------------------------------------------------------------------------
 */

int worker_take(int socket, uint8_t *buffer, struct worker_received *received, int timeout_ms)
{
    size_t length = 0;
    bool unread = false; /* the recorder's end is the end, whatever it has read */
    *received = (struct worker_received){.descriptors = 0};
    int result = wait_readable(socket, timeout_ms);
    if (!result)
        result =
            receive_message(socket, buffer, &length, received->descriptor, &received->descriptors, &unread);
    if (!result && !message_fits(buffer, length, false))
        result = ERR_PROTOCOL;
    if (result) {
        for (uint32_t i = 0; i < received->descriptors; i++)
            close(received->descriptor[i]);
        received->descriptors = 0;
        return result;
    }
    struct worker_message head;
    memcpy(&head, buffer, sizeof head);
    terminate_texts(head.type, buffer + sizeof head);
    received->type = head.type;
    received->count = head.count;
    received->elements = buffer + sizeof head;
    return 0;
}

int worker_offer(int socket, enum worker_message_type type, const void *element,
                 uint32_t element_bytes)
{
    return send_message(socket, type, element, element_bytes, element_bytes > 0 ? 1 : 0, NULL, 0,
                        MSG_DONTWAIT);
}
