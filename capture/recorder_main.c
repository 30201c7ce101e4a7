/*
 * recorder_main.c - the program tapeloopd: options, signals, and the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#ifdef TAPELOOP_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "control_server.h"
#include "privileges.h"
#include "recorder.h"
#include "settings.h"

#define STATE_DEFAULT "/var/lib/tapeloop"
#define LEAVE_MS 20        /* how often it is looked whether everybody has gone */
#define STAYING_TURNS 10   /* so often, before it is said that others are still here */
#ifndef TAPELOOP_LIBEXEC
#define TAPELOOP_LIBEXEC "/usr/libexec/tapeloop"
#endif

static const char usage[] =
    "Usage: tapeloopd [--state DIR] [--session FD]\n"
    "\n"
    "The recorder of tapeloop: captures, stores, and answers on DIR/control.sock. It is usually\n"
    "started by systemd, or by the command tapeloop, and stays in the foreground.\n"
    "\n"
    "  --state DIR    state directory, made where it is missing; default: TAPELOOP_STATE, or\n"
    "                 " STATE_DEFAULT "\n"
    "  --session FD   end when the other end of this descriptor is closed and nobody is connected\n"
    "                 any more; write \"ready\", or what went wrong, to it, and \"staying\" when others\n"
    "                 still are\n"
    "  --foreground   allowed, and the default\n"
    "  --settings     print the settings that a ring has\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM, SIGINT and SIGHUP end it: recordings are sealed and durable before it is gone.\n";

struct arguments {
    const char *state;
    int session_fd; /* -1: none */
};

static void print_settings(void)
{
    for (int i = 0; i < SETTINGS; i++) {
        enum setting setting = (enum setting)i;
        char preset[SETTING_TEXT_SIZE], min[SETTING_TEXT_SIZE], max[SETTING_TEXT_SIZE];
        printf("%-14s %s to %s, default %s\n    %s\n", setting_name(setting),
               setting_text(setting, setting_min(setting), min),
               setting_text(setting, setting_max(setting), max),
               setting_text(setting, setting_default(setting), preset), setting_help(setting));
    }
}

/* Returns an exit status, or -1 to go on. */
static int take_arguments(int count, char **values, struct arguments *arguments)
{
    enum { STATE = 256, SESSION, FOREGROUND, PRINT_SETTINGS, VERSION, HELP };
    static const struct option options[] = {
        {"state", required_argument, NULL, STATE},
        {"session", required_argument, NULL, SESSION},
        {"foreground", no_argument, NULL, FOREGROUND},
        {"settings", no_argument, NULL, PRINT_SETTINGS},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    const char *environment = getenv("TAPELOOP_STATE");
    *arguments = (struct arguments){
        .state = environment && environment[0] ? environment : STATE_DEFAULT, .session_fd = -1};
    int option;
    char *end;
    while ((option = getopt_long(count, values, "", options, NULL)) != -1) {
        switch (option) {
        case STATE:
            arguments->state = optarg;
            break;
        case SESSION:
            arguments->session_fd = (int)strtol(optarg, &end, 10);
            if (*end != '\0' || fcntl(arguments->session_fd, F_GETFD) < 0) {
                fprintf(stderr, "tapeloopd: --session: \"%s\" is no open descriptor\n", optarg);
                return 2;
            }
            break;
        case FOREGROUND:
            break;
        case PRINT_SETTINGS:
            print_settings();
            return 0;
        case VERSION:
            printf("tapeloopd %s\n", TAPELOOP_VERSION);
            return 0;
        case HELP:
            fputs(usage, stdout);
            return 0;
        default:
            return 2;
        }
    }
    if (optind < count) {
        fprintf(stderr, "tapeloopd: what is \"%s\"? See tapeloopd --help\n", values[optind]);
        return 2;
    }
    return -1;
}

/* ---- surroundings
 * ---------------------------------------------------------------------------------- */

/* Where the environment says, beside this program, or where a distribution puts it. */
static void find_extract(char path[PATH_MAX])
{
    static const char name[] = "tapeloop-extract";
    const char *environment = getenv("TAPELOOP_LIBEXEC");
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    if (environment && environment[0] &&
        snprintf(path, PATH_MAX, "%s/%s", environment, name) < PATH_MAX)
        return;
    if (length > 0) {
        own[length] = '\0';
        char *slash = strrchr(own, '/');
        if (slash)
            *slash = '\0';
        if (snprintf(path, PATH_MAX, "%s/%s", own, name) < PATH_MAX && access(path, X_OK) == 0)
            return;
    }
    snprintf(path, PATH_MAX, "%s/%s", TAPELOOP_LIBEXEC, name);
}

/* Disks, sockets, interfaces and clients: as many descriptors as we may have. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* All threads have these blocked; the main thread reads them. */
static int signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void session_say(int fd, const char *text)
{
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        return; /* whoever asked has gone: that is noticed in due course */
}

static void session_fail(int fd, const struct failure *failure)
{
    char text[sizeof failure->text + 64];
    snprintf(text, sizeof text, "%s: %s\n", error_name(failure->code), failure->text);
    session_say(fd, text);
}

/* Whether the command that started us is gone. What it may send means nothing. */
static bool session_is_over(int fd)
{
    char bytes[64];
    ssize_t got = read(fd, bytes, sizeof bytes);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

static void tell_systemd(const char *text)
{
#ifdef TAPELOOP_SYSTEMD
    (void)sd_notify(0, text);
#else
    (void)text;
#endif
}

/* ---- from start to end
 * ----------------------------------------------------------------------------- */

/*
 * Returns when there is a reason to end. A session is over when its command is gone, but other
 * commands may have found this recorder meanwhile: a recording among them must not end with a
 * question that came before it.
 */
static void wait_for_reason(const struct recorder *recorder, int signal_fd, int session_fd)
{
    int fd = session_fd;
    unsigned turns = 0; /* since the session was over */
    for (;;) {
        struct pollfd watched[3] = {{.fd = signal_fd, .events = POLLIN},
                                    {.fd = recorder->stop_fd, .events = POLLIN},
                                    {.fd = fd, .events = POLLIN}};
        bool over = session_fd >= 0 && fd < 0;
        if (over && control_server_leave(recorder->server))
            return;
        if (over && turns <= STAYING_TURNS && ++turns == STAYING_TURNS)
            session_say(session_fd, "staying\n");
        if (poll(watched, 3, over ? LEAVE_MS : -1) < 0)
            continue;
        if (watched[0].revents || watched[1].revents)
            return;
        if (watched[2].revents && session_is_over(fd))
            fd = -1;
    }
}

int main(int count, char **values)
{
    struct arguments arguments;
    int status = take_arguments(count, values, &arguments);
    if (status >= 0)
        return status;
    if (arguments.session_fd >= 0)
        fcntl(arguments.session_fd, F_SETFD, FD_CLOEXEC);
    int signal_fd = signals_open();
    raise_descriptors();

    struct failure failure = {0};
    struct recorder *recorder;
    char extract_path[PATH_MAX];
    find_extract(extract_path);
    struct recorder_options options = {
        .state_directory = arguments.state,
        .extract_path = extract_path,
        .session = arguments.session_fd >= 0,
    };
    int code = signal_fd < 0 ? fail_errno(&failure, errno, "signals cannot be received") : 0;
    if (code == 0)
        code = privileges_drop(&failure);
    if (code == 0)
        code = recorder_open(&options, &recorder, &failure);
    if (code != 0) {
        session_fail(arguments.session_fd, &failure);
        if (arguments.session_fd < 0)
            fprintf(stderr, "tapeloopd: %s\n", failure.text);
        return 1;
    }
    session_say(arguments.session_fd, "ready\n");
    tell_systemd("READY=1");
    wait_for_reason(recorder, signal_fd, arguments.session_fd);
    tell_systemd("STOPPING=1");
    recorder_stop(recorder);
    recorder_close(&recorder);
    return 0;
}
