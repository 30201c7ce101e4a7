/*
 * run_command.c - the recorder and the web interface together, in the foreground.
 *
 * The recorder is started first, and the web interface when it answers. A signal ends the web
 * interface, then the recorder, which writes out what it holds. What can go wrong: a recorder runs
 * there already, or one of the two does not come up (its own sentence is on standard error; the
 * other ends, too); the recorder ends by itself (so does everything); the web interface does (it is
 * started again, and recording has noticed nothing).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "paths.h"
#include "program_path.h"
#include "recorder_session.h"

#define RECORDER "tapeloopd"
#define WEB "tapeloop-web"
#define PORT_MAX 65534
#define LISTEN_DEFAULT "127.0.0.1"
#define READY_PAUSE_MS 50
#define AGAIN_PAUSE_MS 1000
#define UP_NS INT64_C(10000000000) /* a web interface that lived for so long had come up */
#define WORDS_MAX 64

struct child {
    const char *name;
    pid_t pid; /* 0: none */
    int fd;    /* readable when it has ended; -1 */
    int64_t began_ns;
};

struct run {
    const struct invocation *invocation;
    char *state; /* absolute */
    uint64_t port;
    int namespace_fd; /* the network that the web interface listens in; -1: our own */
    struct child recorder, web;
};

/* ---- programs ----------------------------------------------------------------------------------
 */

/* In the child. Does not return. */
static void child_become(const char *name, char **words, int namespace_fd, pid_t parent)
{
    char path[PATH_MAX];
    interrupt_reset();
    setpgid(0, 0); /* ^C is for us, who end both in good order */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(0);
    if (namespace_fd >= 0 && setns(namespace_fd, CLONE_NEWNET) != 0) {
        fprintf(stderr, "%s: its network namespace cannot be entered: %s\n", name, strerror(errno));
        _exit(1);
    }
    if (output_is_json())
        dup2(STDERR_FILENO, STDOUT_FILENO); /* standard output is for our own object */
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    program_path(name, path);
    if (path[0])
        execv(path, words);
    else
        execvp(name, words);
    fprintf(stderr, "%s: it cannot be started: %s\n", name, strerror(errno));
    _exit(127);
}

static int child_start(struct child *child, const char *name, char **words, int namespace_fd,
                       struct failure *failure)
{
    fflush(stdout);
    fflush(stderr);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0)
        child_become(name, words, namespace_fd, parent);
    if (pid < 0)
        return fail_errno(failure, errno, "%s cannot be started", name);
    int fd = pidfd_open(pid, 0);
    if (fd < 0) {
        int code = fail_errno(failure, errno, "%s cannot be watched", name);
        kill(pid, SIGTERM);
        waitpid(pid, NULL, 0);
        return code;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    *child = (struct child){.name = name, .pid = pid, .fd = fd, .began_ns = output_clock_ns()};
    return 0;
}

/* Whether it has ended, and then how, as a sentence. */
static bool child_has_ended(struct child *child, int *status, struct failure *failure)
{
    if (child->pid == 0 || waitpid(child->pid, status, WNOHANG) != child->pid)
        return false;
    close(child->fd);
    child->pid = 0;
    child->fd = -1;
    if (WIFSIGNALED(*status))
        fail(failure, ERR_CLOSED, "%s was ended by signal %d", child->name, WTERMSIG(*status));
    else
        fail(failure, ERR_CLOSED, "%s has ended with status %d", child->name, WEXITSTATUS(*status));
    return true;
}

/* Asks it to end, and waits until it has. ERR_INTERRUPTED: another signal came before that. */
static int child_stop(struct child *child, struct failure *failure)
{
    int status;
    struct failure how = {0};
    if (child->pid == 0)
        return 0;
    unsigned signals = interrupt_count();
    kill(child->pid, SIGTERM);
    while (!child_has_ended(child, &status, &how)) {
        struct pollfd watched[2] = {{.fd = child->fd, .events = POLLIN},
                                    {.fd = interrupt_fd(), .events = POLLIN}};
        poll(watched, 2, -1);
        interrupt_drain();
        if (interrupt_count() > signals)
            return fail(failure, ERR_INTERRUPTED, "not waited for %s, which is still ending",
                        child->name);
    }
    return status == 0 ? 0 : fail(failure, ERR_INTERNAL, "%s", how.text);
}

/* ---- the two of them ---------------------------------------------------------------------------
 */

static int recorder_start(struct run *run, struct failure *failure)
{
    char *words[] = {(char *)RECORDER, (char *)"--state", run->state, NULL};
    return child_start(&run->recorder, RECORDER, words, -1, failure);
}

static int web_start(struct run *run, struct failure *failure)
{
    static const char *const handed_on[] = {"web-state", "host", "certificate", "key"};
    char port[24], option[sizeof handed_on / sizeof handed_on[0]][24];
    const char *listen = options_text(run->invocation, "listen");
    char *words[WORDS_MAX] = {(char *)WEB,
                              (char *)"--state",
                              run->state,
                              (char *)"--port",
                              port,
                              (char *)"--listen",
                              (char *)(listen ? listen : LISTEN_DEFAULT)};
    size_t count = 7;
    snprintf(port, sizeof port, "%u", (unsigned)run->port);
    for (size_t i = 0; i < sizeof handed_on / sizeof handed_on[0]; i++) {
        snprintf(option[i], sizeof option[i], "--%s", handed_on[i]);
        for (uint32_t j = 0; j < options_count(run->invocation, handed_on[i]); j++) {
            if (count + 3 > WORDS_MAX)
                return fail(failure, ERR_INVALID, "%s: too many of them", option[i]);
            words[count++] = option[i];
            words[count++] = (char *)options_nth(run->invocation, handed_on[i], j);
        }
    }
    return child_start(&run->web, WEB, words, run->namespace_fd, failure);
}

/* ERR_NOT_FOUND: nobody answers there. */
static int recorder_ask_pid(const struct run *run, json_int_t *pid, struct failure *failure)
{
    struct session session;
    int code = session_open(&session, run->state, 0, failure);
    if (code != 0)
        return code;
    *pid = (json_int_t)answer_count(session.hello, "pid");
    return session_close(&session, 0, failure);
}

/* Waits until the recorder answers. */
static int recorder_await(struct run *run, struct failure *failure)
{
    json_int_t pid;
    int status;
    for (;;) {
        int code = recorder_ask_pid(run, &pid, failure);
        if (code == 0)
            return 0;
        if (code != ERR_NOT_FOUND && code != ERR_CLOSED)
            return code;
        struct pollfd watched[2] = {{.fd = run->recorder.fd, .events = POLLIN},
                                    {.fd = interrupt_fd(), .events = POLLIN}};
        poll(watched, 2, READY_PAUSE_MS);
        if (interrupt_count() > 0)
            return 0;
        if (child_has_ended(&run->recorder, &status, failure))
            return failure->code;
    }
}

/* The web interface has ended by itself. */
static int web_again(struct run *run, const struct failure *how, struct failure *failure)
{
    if (output_clock_ns() - run->web.began_ns < UP_NS) {
        *failure = *how;
        return failure->code;
    }
    output_error("%s; it is started again, and recording goes on", how->text);
    struct pollfd watched = {.fd = interrupt_fd(), .events = POLLIN};
    poll(&watched, 1, AGAIN_PAUSE_MS);
    return interrupt_count() > 0 ? 0 : web_start(run, failure);
}

/* Returns when there is a reason to end: a signal, 0, or something that went wrong. */
static int wait_for_reason(struct run *run, struct failure *failure)
{
    int code = 0, status;
    while (code == 0 && interrupt_count() == 0) {
        struct failure how = {0};
        struct pollfd watched[3] = {{.fd = run->recorder.fd, .events = POLLIN},
                                    {.fd = run->web.pid > 0 ? run->web.fd : -1, .events = POLLIN},
                                    {.fd = interrupt_fd(), .events = POLLIN}};
        poll(watched, 3, -1);
        if (interrupt_count() > 0)
            break;
        if (child_has_ended(&run->recorder, &status, &how)) {
            if (status == 0) /* tapeloop shutdown */
                break;
            *failure = how;
            code = failure->code;
        } else if (child_has_ended(&run->web, &status, &how)) {
            code = web_again(run, &how, failure);
        }
    }
    interrupt_drain();
    return code;
}

static int run_both(struct run *run, struct failure *failure)
{
    int code = recorder_start(run, failure);
    if (code == 0)
        code = recorder_await(run, failure);
    if (code == 0 && interrupt_count() == 0) {
        output_note("The recorder runs on %s; ^C ends it.", run->state);
        if (run->port > 0)
            code = web_start(run, failure);
        if (code == 0)
            code = wait_for_reason(run, failure);
    }
    /* What went wrong first is what is said. */
    struct failure later = {0};
    int stopped = child_stop(&run->web, &later);
    if (code == 0 && stopped != 0) {
        *failure = later;
        code = stopped;
    }
    stopped = child_stop(&run->recorder, &later);
    if (code == 0 && stopped != 0) {
        *failure = later;
        code = stopped;
    }
    return code;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static int prepare(struct run *run, struct failure *failure)
{
    json_int_t pid;
    const char *namespace = options_text(run->invocation, "web-namespace");
    int code = options_number(run->invocation, "port", 0, PORT_MAX, &run->port, failure);
    if (code != 0)
        return code;
    if (namespace && (run->namespace_fd = open(namespace, O_RDONLY | O_CLOEXEC)) < 0)
        return fail_errno(failure, errno, "network namespace %s", namespace);
    run->state = paths_absolute(run->invocation->state, failure);
    if (!run->state)
        return failure->code;
    code = recorder_ask_pid(run, &pid, failure);
    if (code == 0)
        return fail(failure, ERR_BUSY,
                    "a recorder (process %lld) runs on %s already: " WEB
                    " --state DIR gives it a web interface",
                    (long long)pid, run->state);
    return code == ERR_NOT_FOUND ? 0 : code;
}

static int run_run(const struct invocation *invocation, struct failure *failure)
{
    struct run run = {.invocation = invocation,
                      .port = 8443,
                      .namespace_fd = -1,
                      .recorder.fd = -1,
                      .web.fd = -1};
    int code = prepare(&run, failure);
    if (code == 0)
        code = run_both(&run, failure);
    if (run.namespace_fd >= 0)
        close(run.namespace_fd);
    free(run.state);
    if (code == 0 && output_is_json()) {
        json_t *nothing = json_object();
        output_json(nothing);
        json_decref(nothing);
    }
    return code == 0 ? EXIT_DONE : code;
}

static const struct option_row options[] = {
    {"listen", 0, false, "ADDRESS",
     "of the web interface; default " LISTEN_DEFAULT
     ", this machine only;\n0.0.0.0 or :: is everywhere"},
    {"port", 0, false, "N",
     "of the web interface; downloads have the next one\n(default 8443; 0: no web interface)"},
    {"host", 0, true, "NAME",
     "a name that browsers may know it by, besides its addresses;\nmay be given several times"},
    {"web-state", 0, false, "DIR", "where users and certificate are kept (default: DIR-web)"},
    {"certificate", 0, false, "FILE", "certificate chain, PEM (default: one of its own making)"},
    {"key", 0, false, "FILE", "its key (default: in the same file)"},
    {"web-namespace", 0, false, "FILE",
     "network namespace that the web interface listens in, as in\n/run/netns: recorded there is "
     "another one"},
    {0},
};

const struct command run_command = {
    .name = "run",
    .operands = "",
    .summary = "recorder and web interface in the foreground, until ^C",
    .details = "Starts tapeloopd and tapeloop-web on the state directory, which is made where it "
               "is missing,\n"
               "and prints the address and, the first time, the one-time password of the user "
               "admin. ^C ends\n"
               "both; what has come is durable then. A second ^C does not wait for it.",
    .examples = "  tapeloop run\n"
                "  tapeloop --state /srv/tapeloop run --listen 0.0.0.0 --host recorder.example.org",
    .options = options,
    .run = run_run,
};
