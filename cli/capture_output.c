#include "capture_output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE 0600 /* other people's traffic: nobody else's to read */

static int no_memory(struct failure *failure)
{
    return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
}

static bool is_read_by_somebody(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

static int refuse_terminal(struct failure *failure)
{
    return fail(
        failure, ERR_INVALID,
        "packets are binary and no sight for a terminal: -w FILE, or a pipe behind it (tapeloop "
        "extract ... | tcpdump -r -)");
}

/* A file beside `final`, unknown until it is renamed. */
static int temporary_make(struct capture_output *output, struct failure *failure)
{
    if (asprintf(&output->temporary, "%s.XXXXXX", output->final) < 0) {
        output->temporary = NULL;
        return no_memory(failure);
    }
    output->fd = mkostemp(output->temporary, O_CLOEXEC);
    if (output->fd < 0) {
        int number = errno;
        free(output->temporary);
        output->temporary = NULL;
        return fail_errno(failure, number, "%s", output->name);
    }
    mode_t mask = umask(0);
    umask(mask);
    fchmod(output->fd, MODE & ~mask);
    return 0;
}

int capture_output_open(struct capture_output *output, const char *name, struct failure *failure)
{
    *output = (struct capture_output){.fd = -1};
    if (!name || strcmp(name, "-") == 0) {
        output->standard_output = true;
        output->fd = STDOUT_FILENO;
        output->pipe = is_read_by_somebody(STDOUT_FILENO);
        return isatty(STDOUT_FILENO) == 1 ? refuse_terminal(failure) : 0;
    }
    output->name = strdup(name);
    if (!output->name)
        return no_memory(failure);
    struct stat status;
    if (stat(name, &status) == 0 && !S_ISREG(status.st_mode)) {
        if (S_ISDIR(status.st_mode))
            return fail_errno(failure, EISDIR, "%s", name);
        output->fd = open(name, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        if (output->fd < 0)
            return fail_errno(failure, errno, "%s", name);
        output->pipe = is_read_by_somebody(output->fd);
        return isatty(output->fd) == 1 ? refuse_terminal(failure) : 0;
    }
    output->final = realpath(name, NULL); /* a link stays one: what it points at is replaced */
    if (output->final && access(output->final, W_OK) != 0)
        return fail_errno(failure, errno, "%s", name); /* a file that is protected stays */
    if (!output->final)
        output->final = strdup(name);
    return output->final ? temporary_make(output, failure) : no_memory(failure);
}

int capture_output_settle(struct capture_output *output, bool finished, struct failure *failure)
{
    struct stat status;
    if (!output->temporary)
        return 0;
    if (!finished && (fstat(output->fd, &status) != 0 || status.st_size == 0))
        return 0;
    if (rename(output->temporary, output->final) != 0)
        return fail_errno(failure, errno, "%s", output->name);
    free(output->temporary);
    output->temporary = NULL;
    return 0;
}

bool capture_output_is_left(const struct capture_output *output)
{
    struct pollfd wanted = {.fd = output->fd, .events = 0};
    return poll(&wanted, 1, 0) > 0 && (wanted.revents & (POLLERR | POLLHUP)) != 0;
}

void capture_output_close(struct capture_output *output)
{
    if (output->temporary)
        unlink(output->temporary);
    if (output->fd >= 0 && !output->standard_output)
        close(output->fd);
    free(output->name);
    free(output->final);
    free(output->temporary);
    *output = (struct capture_output){.fd = -1};
}
