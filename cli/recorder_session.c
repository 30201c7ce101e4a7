/*
 * recorder_session.c - finding or starting the recorder, asking it, and leaving it.
 *
 * What can go wrong, and what is done: nobody listens and tapeloopd cannot be started (its
 * sentence, or exec's, is the command's); the recorder dies under a call (the connection closes:
 * ERR_CLOSED, with how it died if it was ours); it never answers (a signal ends the wait); it
 * answers nonsense (ERR_PROTOCOL).
 */
#include "recorder_session.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "interrupt.h"
#include "output.h"
#include "paths.h"
#include "program_path.h"

#define RECORDER "tapeloopd"
#define OPEN_PATIENCE_NS INT64_C(15000000000) /* for a recorder that is just starting or ending */
#define OPEN_PAUSE_MS 50
#define RINGS_PATIENCE_NS INT64_C(5000000000)
#define RINGS_PAUSE_MS 20
#define TICK_MS 100
#define PATIENCE_NOTE_NS INT64_C(3000000000)
#define SENTENCE_SIZE 512
#define GIVE_UP_NS INT64_C(10000000000)

/* Sleeps, or ERR_INTERRUPTED. */
static int pause_ms(int ms)
{
    struct pollfd wanted = {.fd = interrupt_fd(), .events = POLLIN};
    poll(&wanted, 1, ms);
    return interrupt_count() > 0 ? ERR_INTERRUPTED : 0;
}

/* ---- a recorder of our own ------------------------------------------------------------------- */

/* In the child. Does not return. */
static void recorder_become(const char *path, const char *state, int fd, int words_fd)
{
    interrupt_reset();
    setpgid(0, 0); /* ^C is for the command; the recorder learns from the session what to do */
    int null_fd = open("/dev/null", O_RDWR);
    if (null_fd >= 0) {
        dup2(null_fd, STDIN_FILENO);
        dup2(null_fd, STDOUT_FILENO);
    }
    dup2(words_fd, STDERR_FILENO);
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    /* Descriptors that the command inherited from its caller are none of the recorder's business.
     */
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    fcntl(fd, F_SETFD, 0);
    char *arguments[] = {
        (char *)RECORDER, (char *)"--state", (char *)state, (char *)"--session", number, NULL};
    if (path[0])
        execv(path, arguments);
    else
        execvp(RECORDER, arguments);
    dprintf(fd, "not_found: cannot start the recorder, %s: %s\n", path[0] ? path : RECORDER,
            strerror(errno));
    _exit(127);
}

/* One line of the recorder's standard error, without its end. */
static void word_show(const char *line)
{
    static const char name[] = RECORDER ": ";
    bool own = strncmp(line, name, sizeof name - 1) == 0; /* else something below it: a sanitizer */
    const char *text = own ? line + sizeof name - 1 : line;
    bool error = strncmp(text, "error: ", 7) == 0;
    bool warning = strncmp(text, "warning: ", 9) == 0;
    if (!output_is_verbose() && own && !error && !warning)
        return;
    if (own && warning)
        output_note("tapeloop: %s", text); /* not with --quiet or --json */
    else if (!output_is_json() || !own)
        output_error("%s", text);
}

/* Takes what the recorder has said so far. A line that is too long is shown in pieces. */
static void words_take(struct session *session)
{
    while (session->words_fd >= 0) {
        char *words = session->words;
        size_t used = session->word_bytes;
        ssize_t got = read(session->words_fd, words + used, sizeof session->words - 1 - used);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            close(session->words_fd);
            session->words_fd = -1;
        }
        used += got > 0 ? (size_t)got : 0;
        char *begin = words;
        char *end;
        while ((end = memchr(begin, '\n', (size_t)(words + used - begin)))) {
            *end = '\0';
            word_show(begin);
            begin = end + 1;
        }
        used -= (size_t)(begin - words);
        memmove(words, begin, used);
        if (used > 0 && (got <= 0 || used == sizeof session->words - 1)) {
            words[used] = '\0';
            word_show(words);
            used = 0;
        }
        session->word_bytes = (uint32_t)used;
    }
}

/* "ready", or "CODE: SENTENCE" */
static int sentence_judge(char *text, struct failure *failure)
{
    text[strcspn(text, "\n")] = '\0';
    if (strcmp(text, "ready") == 0)
        return 0;
    if (text[0] == '\0')
        return fail(failure, ERR_INTERNAL, "the recorder ended before it was ready");
    char *colon = strstr(text, ": ");
    if (!colon)
        return fail(failure, ERR_INTERNAL, "%s", text);
    *colon = '\0';
    int code = error_from_name(text);
    if (strcmp(error_name(code), text) == 0)
        return fail(failure, code, "%s", colon + 2);
    *colon = ':';
    return fail(failure, ERR_INTERNAL, "%s", text);
}

/* Waits for the recorder's first line. */
static int recorder_await(struct session *session, struct failure *failure)
{
    int fd = session->life_fd;
    char text[SENTENCE_SIZE] = "";
    size_t used = 0;
    while (!memchr(text, '\n', used) && used + 1 < sizeof text) {
        struct pollfd wanted[3] = {{.fd = fd, .events = POLLIN},
                                   {.fd = interrupt_fd(), .events = POLLIN},
                                   {.fd = session->words_fd, .events = POLLIN}};
        if (poll(wanted, 3, -1) < 0 && errno != EINTR)
            return fail_errno(failure, errno, "cannot wait for the recorder");
        words_take(session);
        if (interrupt_count() > 0)
            return fail(failure, ERR_INTERRUPTED, "interrupted");
        ssize_t got = recv(fd, text + used, sizeof text - 1 - used, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    text[used] = '\0';
    return sentence_judge(text, failure);
}

/* The recorder has more to do, for other commands that have found it: it is no longer ours. */
static bool recorder_stays(const struct session *session)
{
    char text[SENTENCE_SIZE];
    ssize_t got = recv(session->life_fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[got > 0 ? got : 0] = '\0';
    return strstr(text, "staying") != NULL;
}

/*
 * Waits for our recorder to end, or to say that it stays. Returns its wait status, or -1 where
 * waiting was given up.
 */
static int recorder_reap(struct session *session)
{
    shutdown(session->life_fd, SHUT_WR);
    unsigned signals = interrupt_count();
    int64_t started_ns = output_clock_ns();
    bool noted = false;
    for (int ms = 1;; ms = ms < 50 ? 2 * ms : ms) {
        int status = 0;
        pid_t pid = waitpid(session->recorder, &status, WNOHANG);
        words_take(session);
        if (pid == session->recorder || (pid < 0 && errno != EINTR)) {
            session->recorder = 0;
            return pid < 0 ? 0 : status;
        }
        if (recorder_stays(session)) {
            session->recorder = 0;
            return 0;
        }
        if (interrupt_count() > signals)
            return -1;
        if (!noted && output_is_drawn() && output_clock_ns() - started_ns > PATIENCE_NOTE_NS) {
            output_note("Waiting for the recorder to write out what it holds.");
            noted = true;
        }
        interrupt_drain();
        struct pollfd wanted = {.fd = interrupt_fd(), .events = POLLIN};
        poll(&wanted, 1, ms);
    }
}

/* Closes what held the recorder of our own. */
static void session_forget(struct session *session)
{
    if (session->life_fd >= 0)
        close(session->life_fd);
    if (session->words_fd >= 0)
        close(session->words_fd);
    session->life_fd = -1;
    session->words_fd = -1;
}

static int recorder_start(struct session *session, struct failure *failure)
{
    char path[PATH_MAX];
    program_path(RECORDER, path);
    int pair[2];
    int words[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return fail_errno(failure, errno, "cannot start the recorder");
    if (pipe2(words, O_CLOEXEC) != 0) {
        int number = errno;
        close(pair[0]);
        close(pair[1]);
        return fail_errno(failure, number, "cannot start the recorder");
    }
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    int number = errno;
    if (pid == 0)
        recorder_become(path, session->state, pair[1], words[1]);
    close(pair[1]);
    close(words[1]);
    if (pid < 0) {
        close(pair[0]);
        close(words[0]);
        return fail_errno(failure, number, "cannot start the recorder");
    }
    session->recorder = pid;
    session->life_fd = pair[0];
    session->words_fd = words[0];
    fcntl(words[0], F_SETFL, O_NONBLOCK);
    int code = recorder_await(session, failure);
    if (code != 0) {
        recorder_reap(session);
        session_forget(session);
    }
    return code;
}

/* ---- messages -------------------------------------------------------------------------------- */

static int message_send(struct control_connection *connection, json_int_t id, const char *method,
                        json_t *params, const int *descriptors, uint32_t count,
                        struct failure *failure)
{
    if (!params)
        params = json_object();
    json_t *message = json_pack("{s:i, s:I, s:s, s:o}", "version", CONTROL_VERSION, "id", id,
                                "method", method, "params", params);
    if (!message)
        return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    int code = control_send(connection, message, descriptors, count);
    json_decref(message);
    if (code == ERR_CLOSED)
        return fail(failure, code, "the recorder has hung up");
    return code == 0 ? 0 : fail(failure, code, "cannot ask the recorder: %s", error_text(code));
}

static int answer_refuse(struct failure *failure)
{
    return fail(failure, ERR_PROTOCOL,
                "what listens in the state directory gives answers that no recorder gives");
}

/*
 * Looks at one message. 0: the result, taken over; ERR_AGAIN: progress, shown; else the call has
 * failed. *remote says that the recorder says so.
 */
static int message_judge(json_t *message, json_int_t id, const struct session_job *job,
                         json_t **result, bool *remote, struct failure *failure)
{
    const json_t *number = json_object_get(message, "id");
    json_t *good = json_object_get(message, "result");
    const json_t *bad = json_object_get(message, "error");
    const json_t *part = json_object_get(message, "progress");
    bool one = (good != NULL) + (bad != NULL) + (part != NULL) == 1;
    if (!json_is_integer(number) || json_integer_value(number) != id || !one)
        return answer_refuse(failure);
    if (part) {
        if (job && job->progress)
            job->progress(part, job->context);
        return ERR_AGAIN;
    }
    if (bad) {
        const char *code = json_string_value(json_object_get(bad, "code"));
        const char *text = json_string_value(json_object_get(bad, "message"));
        if (!code || !text)
            return answer_refuse(failure);
        *remote = true;
        return fail(failure, error_from_name(code), "%s", text);
    }
    if (json_is_null(good))
        *result = json_object();
    else if (json_is_object(good))
        *result = json_incref(good);
    else
        return answer_refuse(failure);
    return *result ? 0 : fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
}

/* Says how a recorder that hung up did so. */
static int hung_up(struct session *session, struct failure *failure)
{
    if (session->recorder <= 0)
        return fail(failure, ERR_CLOSED, "the recorder has hung up before it was done");
    int status = recorder_reap(session);
    if (status > 0 && WIFSIGNALED(status))
        return fail(failure, ERR_CLOSED, "the recorder was ended by signal %d", WTERMSIG(status));
    if (status > 0 && WIFEXITED(status))
        return fail(failure, ERR_CLOSED, "the recorder ended with status %d", WEXITSTATUS(status));
    return fail(failure, ERR_CLOSED, "the recorder ended before it was done");
}

static int receive_failed(struct session *session, int code, struct failure *failure)
{
    if (code == ERR_CLOSED)
        return hung_up(session, failure);
    if (code == ERR_PROTOCOL)
        return answer_refuse(failure);
    return fail(failure, code, "no answer from the recorder: %s", error_text(code));
}

/* Waits for the next message, seeing to everything else in the meantime. */
static int message_await(struct session *session, const struct session_job *job, unsigned *signals,
                         json_t **message, struct failure *failure)
{
    for (;;) {
        int code = control_receive(&session->connection, message, 0);
        if (code == 0)
            return 0;
        if (code != ERR_TIMEOUT)
            return receive_failed(session, code, failure);
        struct pollfd wanted[4] = {
            {.fd = session->connection.fd, .events = POLLIN},
            {.fd = interrupt_fd(), .events = POLLIN},
            {.fd = job->watched_fd, .events = 0},
            {.fd = session->words_fd, .events = POLLIN},
        };
        int ready = poll(wanted, 4, job->tick ? TICK_MS : -1);
        if (ready < 0 && errno != EINTR)
            return fail_errno(failure, errno, "cannot wait for the recorder");
        words_take(session);
        interrupt_drain();
        while (*signals < interrupt_count()) {
            ++*signals;
            code = job->interrupted ? job->interrupted(*signals, job->context) : ERR_INTERRUPTED;
            if (code != 0)
                return fail(failure, code, "%s", error_text(code));
        }
        if (ready > 0 && (wanted[2].revents & (POLLERR | POLLHUP)))
            return fail(failure, ERR_CLOSED, "%s", error_text(ERR_CLOSED));
        if (job->tick) {
            code = job->tick(job->context);
            if (code != 0)
                return fail(failure, code, "%s", error_text(code));
        }
    }
}

/*
 * Gives a call up. After the first ^C, waits until the recorder has noticed and let go of what it
 * had for us, the output of an extraction above all: it then hangs up too.
 */
static void call_give_up(struct session *session, int code)
{
    unsigned signals = interrupt_count();
    int64_t deadline_ns = output_clock_ns() + GIVE_UP_NS;
    int fd = session->connection.fd;
    bool there = code == ERR_INTERRUPTED && signals < 2 && fd >= 0 && shutdown(fd, SHUT_WR) == 0;
    while (there && interrupt_count() == signals && output_clock_ns() < deadline_ns) {
        char ignored[4096];
        struct pollfd wanted[2] = {{.fd = fd, .events = POLLIN},
                                   {.fd = interrupt_fd(), .events = POLLIN}};
        poll(wanted, 2, TICK_MS);
        ssize_t got = recv(fd, ignored, sizeof ignored, MSG_DONTWAIT);
        there = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    }
    control_close(&session->connection);
}

int session_call(struct session *session, const struct session_job *job, json_t *params,
                 json_t **result, struct failure *failure)
{
    if (session->connection.fd < 0) {
        json_decref(params);
        return fail(failure, ERR_CLOSED, "the recorder has hung up");
    }
    json_int_t id = ++session->last_id;
    unsigned signals = 0; /* one that came before counts too: nothing has been asked yet */
    int code = message_send(&session->connection, id, job->method, params, job->descriptors,
                            job->descriptor_count, failure);
    bool remote = false;
    json_t *answer = NULL;
    while (code == 0) {
        json_t *message = NULL;
        code = message_await(session, job, &signals, &message, failure);
        if (code != 0)
            break;
        bool more = json_object_get(message, "progress") != NULL;
        code = message_judge(message, id, job, &answer, &remote, failure);
        json_decref(message);
        if (!more || code != ERR_AGAIN)
            break;
        code = job->tick ? job->tick(job->context) : 0;
        if (code != 0)
            fail(failure, code, "%s", error_text(code));
    }
    /* Whatever was asked is not wanted any more, and what may still come fits no other request. */
    if (code != 0 && !remote)
        call_give_up(session, code);
    if (code == 0 && result)
        *result = answer;
    else
        json_decref(answer);
    return code;
}

int session_add(struct session *session, const char *method)
{
    return message_send(&session->connection, session->last_id, method, NULL, NULL, 0, NULL);
}

int session_peek(struct session *session, const char *method, json_t *params, int timeout_ms,
                 json_t **result)
{
    struct control_connection connection;
    int code = control_connect(&connection, session->state, NULL);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    code = message_send(&connection, 1, method, params, NULL, 0, NULL);
    json_t *message = NULL;
    if (code == 0)
        code = control_receive(&connection, &message, timeout_ms);
    bool remote = false;
    if (code == 0)
        code = message_judge(message, 1, NULL, result, &remote, NULL);
    json_decref(message);
    control_close(&connection);
    return code;
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* A state directory that is not there is made by the commands that make rings, and by no other. */
static int state_check(const char *state, unsigned flags, struct failure *failure)
{
    struct stat status;
    if (stat(state, &status) != 0) {
        if (errno != ENOENT)
            return fail_errno(failure, errno, "state directory %s", state);
        if (flags & SESSION_MAKE_STATE)
            return 0;
        return fail(
            failure, ERR_NOT_FOUND,
            "there is no state directory %s: tapeloop ring create makes it, --state DIR names "
            "another",
            state);
    }
    if (!S_ISDIR(status.st_mode))
        return fail(failure, ERR_INVALID, "state directory %s: it is no directory", state);
    return 0;
}

/* Connects and shakes hands. ERR_CLOSED: the recorder was just ending. */
static int recorder_greet(struct session *session, struct failure *failure)
{
    int code = control_connect(&session->connection, session->state, failure);
    if (code == ERR_PERMISSION)
        return fail(
            failure, code,
            "no permission to speak with the recorder of %s: be root, or in the group of its "
            "socket",
            session->state);
    if (code != 0)
        return code;
    struct session_job job = {.method = "hello", .watched_fd = -1};
    code = session_call(session, &job, NULL, &session->hello, failure);
    if (code != 0)
        control_close(&session->connection);
    return code;
}

/* A recorder that has just been started looks at its disks first, and knows little until it has. */
static int rings_await(struct session *session, struct failure *failure)
{
    int64_t deadline_ns = output_clock_ns() + RINGS_PATIENCE_NS;
    for (;;) {
        struct session_job job = {.method = "ring.list", .watched_fd = -1};
        json_t *result = NULL;
        int code = session_call(session, &job, NULL, &result, failure);
        bool starting = false;
        size_t i;
        json_t *ring;
        json_array_foreach(json_object_get(result, "rings"), i, ring)
        {
            const char *state = json_string_value(json_object_get(ring, "state"));
            starting = starting || (state && strcmp(state, "starting") == 0);
        }
        json_decref(result);
        if (code != 0 || !starting || output_clock_ns() > deadline_ns)
            return code;
        code = pause_ms(RINGS_PAUSE_MS);
        if (code != 0)
            return fail(failure, code, "%s", error_text(code));
    }
}

int session_open(struct session *session, const char *state, unsigned flags,
                 struct failure *failure)
{
    *session = (struct session){.life_fd = -1, .words_fd = -1};
    control_open(&session->connection, -1, CONTROL_ANSWER_BYTES_MAX);
    session->state = paths_absolute(state, failure);
    if (!session->state)
        return failure->code;
    int code = state_check(session->state, flags, failure);
    int64_t deadline_ns = output_clock_ns() + OPEN_PATIENCE_NS;
    while (code == 0) {
        code = recorder_greet(session, failure);
        if (code == 0 && session->recorder > 0 && (flags & SESSION_RINGS))
            code = rings_await(session, failure);
        if (code == 0)
            return 0;
        bool nobody = code == ERR_NOT_FOUND;
        if ((!nobody && code != ERR_CLOSED) || session->recorder > 0)
            break;
        if (nobody && !(flags & SESSION_START))
            break;
        if (nobody) {
            code = recorder_start(session, failure);
            if (code == 0)
                continue;
            if (code != ERR_BUSY)
                break;
        }
        if (output_clock_ns() > deadline_ns)
            break;
        code = pause_ms(OPEN_PAUSE_MS);
        if (code != 0)
            fail(failure, code, "%s", error_text(code));
    }
    struct failure ignored;
    return session_close(session, code, &ignored);
}

int session_close(struct session *session, int code, struct failure *failure)
{
    control_close(&session->connection);
    json_decref(session->hello);
    session->hello = NULL;
    free(session->state);
    session->state = NULL;
    if (session->recorder <= 0) {
        session_forget(session);
        return code;
    }
    int status = recorder_reap(session);
    session_forget(session);
    if (status == 0 || code == EXIT_FAILED || code < 0)
        return code;
    if (status < 0)
        return fail(failure, ERR_INTERRUPTED,
                    "not waited for the recorder, which is still writing");
    if (WIFSIGNALED(status))
        return fail(failure, ERR_INTERNAL, "the recorder was ended by signal %d at its end",
                    WTERMSIG(status));
    return fail(failure, ERR_INTERNAL, "the recorder ended with status %d", WEXITSTATUS(status));
}

int session_ask(const struct invocation *invocation, unsigned flags, const char *method,
                json_t *params, json_t **result, struct failure *failure)
{
    struct session session;
    int code = session_open(&session, invocation->state, flags, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    struct session_job job = {.method = method, .watched_fd = -1};
    json_t *answer = NULL;
    code = session_call(&session, &job, params, &answer, failure);
    code = session_close(&session, code, failure);
    if (code == 0)
        *result = answer;
    else
        json_decref(answer);
    return code;
}
