/*
 * doorkeeper.c - see doorkeeper.h.
 *
 * Where it is root it keeps, of root's powers, those with which it makes a web process under
 * another user, ends it, and connects to the recorder.
 */
#include "doorkeeper.h"

#include <cap-ng.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

#define AGAIN_NS 300000000      /* after a crash, before the next web process */
#define AGAIN_SLOW_NS 900000000 /* when the one before lived for less than this many seconds: */
#define SHORT_LIFE_S 5

struct doorkeeper {
    const char *state_directory;
    doorkeeper_worker worker;
    void *context;
    int signal_fd;
    int door_fd; /* our end */
    pid_t pid;   /* of the web process; 0: none */
    time_t began;
    bool ending;
};

static void keep_capabilities(void)
{
    static const unsigned kept[] = {CAP_DAC_OVERRIDE, CAP_CHOWN, CAP_SETUID,
                                    CAP_SETGID,       CAP_KILL,  CAP_SETPCAP};
    if (geteuid() != 0)
        return;
    capng_clear(CAPNG_SELECT_BOTH);
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        capng_update(CAPNG_ADD,
                     (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET),
                     kept[i]);
    if (capng_apply(CAPNG_SELECT_BOTH) != 0)
        fputs("tapeloop-web: not all capabilities can be given up\n", stderr);
}

/* Forks the web process. False: that failed. */
static bool begin_worker(struct doorkeeper *keeper)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        perror("tapeloop-web: a socket for the web process");
        return false;
    }
    fflush(NULL);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        close(keeper->signal_fd);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
        exit(keeper->worker(ends[1], keeper->context));
    }
    close(ends[1]);
    if (pid < 0) {
        perror("tapeloop-web: the web process");
        close(ends[0]);
        return false;
    }
    keeper->door_fd = ends[0];
    keeper->pid = pid;
    keeper->began = time(NULL);
    return true;
}

/* Connects to the recorder, and hands over the socket, or a code. */
static void answer_knock(struct doorkeeper *keeper)
{
    char byte;
    struct control_connection connection;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ancillary = {0};
    if (recv(keeper->door_fd, &byte, sizeof byte, 0) <= 0)
        return; /* it is ending: SIGCHLD will say so */
    int code = control_connect(&connection, keeper->state_directory, NULL);
    struct iovec part = {.iov_base = &code, .iov_len = sizeof code};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (code == 0) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = sizeof ancillary.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &connection.fd, sizeof(int));
    }
    (void)!sendmsg(keeper->door_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (code == 0)
        control_close(&connection);
}

/* The web process has ended. True: so does the doorkeeper, with *status. */
static bool bury(struct doorkeeper *keeper, int *status)
{
    int how;
    if (keeper->pid == 0 || waitpid(keeper->pid, &how, WNOHANG) != keeper->pid)
        return false;
    keeper->pid = 0;
    close(keeper->door_fd);
    keeper->door_fd = -1;
    if (WIFEXITED(how) && (WEXITSTATUS(how) <= 1 || keeper->ending)) {
        *status = WEXITSTATUS(how);
        return true;
    }
    if (keeper->ending)
        return true;
    if (WIFSIGNALED(how))
        fprintf(stderr,
                "tapeloop-web: the web process was ended by signal %d (%s); another one begins\n",
                WTERMSIG(how), strsignal(WTERMSIG(how)));
    else
        fprintf(stderr, "tapeloop-web: the web process ended with status %d; another one begins\n",
                WEXITSTATUS(how));
    bool again = time(NULL) - keeper->began < SHORT_LIFE_S;
    nanosleep(&(struct timespec){.tv_nsec = again ? AGAIN_SLOW_NS : AGAIN_NS}, NULL);
    *status = 1;
    return !begin_worker(keeper);
}

/* True: it is time to end, with *status. */
static bool take_signal(struct doorkeeper *keeper, int *status)
{
    struct signalfd_siginfo info;
    if (read(keeper->signal_fd, &info, sizeof info) != sizeof info)
        return false;
    if (info.ssi_signo == SIGCHLD)
        return bury(keeper, status);
    keeper->ending = true;
    if (keeper->pid == 0)
        return true;
    kill(keeper->pid, SIGTERM);
    return false;
}

int doorkeeper_run(const char *state_directory, doorkeeper_worker worker, void *context)
{
    struct doorkeeper keeper = {
        .state_directory = state_directory, .worker = worker, .context = context, .door_fd = -1};
    int status = 0;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    keeper.signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (keeper.signal_fd < 0) {
        perror("tapeloop-web: signals cannot be received");
        return 1;
    }
    keep_capabilities();
    if (!begin_worker(&keeper))
        return 1;
    for (;;) {
        struct pollfd watched[2] = {{.fd = keeper.signal_fd, .events = POLLIN},
                                    {.fd = keeper.door_fd, .events = POLLIN}};
        if (poll(watched, 2, -1) < 0)
            continue;
        if (watched[0].revents && take_signal(&keeper, &status))
            break;
        if (watched[1].revents & POLLIN)
            answer_knock(&keeper);
        else if (watched[1].revents) {
            /* Its end is closed, and SIGCHLD follows: no more to be heard from it. */
            struct pollfd news = {.fd = keeper.signal_fd, .events = POLLIN};
            (void)poll(&news, 1, -1);
        }
    }
    if (keeper.door_fd >= 0)
        close(keeper.door_fd);
    close(keeper.signal_fd);
    return status;
}
