#include "interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#define SIGNALS_OBEYED 2

static volatile sig_atomic_t count;
static int pipe_fd[2] = {-1, -1};

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

static void set_all(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before;
        /* nohup(1) ignores SIGHUP, a shell SIGINT of what it puts into the background: so be it. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

static void handle(int number)
{
    int saved = errno;
    count = count + 1;
    if (count > SIGNALS_OBEYED) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        sigaction(number, &action, NULL);
        raise(number);
    }
    ssize_t written = write(pipe_fd[1], "", 1); /* full: then it is readable anyway */
    (void)written;
    errno = saved;
}

void interrupt_open(void)
{
    if (pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK) != 0)
        return; /* then signals do what they always do */
    set_all(handle);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
}

unsigned interrupt_count(void)
{
    return (unsigned)count;
}

int interrupt_fd(void)
{
    return pipe_fd[0];
}

void interrupt_drain(void)
{
    char bytes[16];
    while (read(pipe_fd[0], bytes, sizeof bytes) > 0)
        continue;
}

void interrupt_reset(void)
{
    set_all(SIG_DFL);
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGPIPE, &action, NULL);
}
