#include "capture_output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
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

/* ---- cutting the end of a capture --------------------------------------------------------------
 */

#define WINDOW_BYTES (1u << 20)
#define TAIL_BYTES_MAX (32u << 20) /* of one packet; what is longer is no such thing, and stays */
#define PCAPNG_SECTION 0x0a0d0d0au
#define PCAPNG_ORDER 0x1a2b3c4du
#define PCAPNG_PACKET 6u
#define PCAPNG_BLOCK_MIN 12u
#define PCAP_NS 0xa1b23c4du
#define PCAP_US 0xa1b2c3d4u
#define PCAP_HEADER_BYTES 24u
#define PCAP_RECORD_BYTES 16u

/* A file that is read from its beginning to its end, a few bytes here and there. */
struct walk {
    int fd;
    uint64_t bytes;  /* of the file */
    uint64_t offset; /* of the window */
    size_t filled;
    uint8_t *window;
};

/* A 32-bit number in this machine's byte order; false behind the end. */
static bool walk_read(struct walk *walk, uint64_t offset, uint32_t *number)
{
    if (offset + sizeof *number > walk->bytes)
        return false;
    if (offset < walk->offset || offset + sizeof *number > walk->offset + walk->filled) {
        ssize_t got = pread(walk->fd, walk->window, WINDOW_BYTES, (off_t)offset);
        walk->offset = offset;
        walk->filled = got > 0 ? (size_t)got : 0;
        if (walk->filled < sizeof *number)
            return false;
    }
    memcpy(number, walk->window + (offset - walk->offset), sizeof *number);
    return true;
}

/* The end of the last whole block, and the packets up to there. */
static uint64_t walk_pcapng(struct walk *walk, uint64_t *packets)
{
    uint64_t offset = 0;
    uint32_t type;
    uint32_t bytes;
    uint32_t again;
    while (walk_read(walk, offset, &type) && walk_read(walk, offset + 4, &bytes) &&
           bytes >= PCAPNG_BLOCK_MIN && bytes % 4 == 0 &&
           walk_read(walk, offset + bytes - 4, &again) && again == bytes) {
        *packets += type == PCAPNG_PACKET;
        offset += bytes;
    }
    return offset;
}

/* The end of the last whole record. */
static uint64_t walk_pcap(struct walk *walk, uint64_t *packets)
{
    uint64_t offset = PCAP_HEADER_BYTES;
    uint32_t bytes;
    while (walk_read(walk, offset + 8, &bytes) &&
           offset + PCAP_RECORD_BYTES + bytes <= walk->bytes) {
        (*packets)++;
        offset += PCAP_RECORD_BYTES + bytes;
    }
    return offset;
}

uint64_t capture_output_trim(struct capture_output *output)
{
    struct stat status;
    struct walk walk = {.fd = output->fd};
    if (!output->final || fstat(output->fd, &status) != 0 || !S_ISREG(status.st_mode))
        return 0;
    walk.bytes = (uint64_t)status.st_size;
    walk.window = malloc(WINDOW_BYTES);
    uint64_t packets = 0;
    uint64_t end = 0;
    uint32_t magic;
    uint32_t order;
    if (walk.window && walk_read(&walk, 0, &magic)) {
        if (magic == PCAPNG_SECTION && walk_read(&walk, 8, &order) && order == PCAPNG_ORDER)
            end = walk_pcapng(&walk, &packets);
        else if ((magic == PCAP_NS || magic == PCAP_US) && walk.bytes >= PCAP_HEADER_BYTES)
            end = walk_pcap(&walk, &packets);
    }
    free(walk.window);
    if (end == 0 || walk.bytes - end > TAIL_BYTES_MAX ||
        (end < walk.bytes && ftruncate(output->fd, (off_t)end) != 0))
        return 0;
    return packets;
}

/* ---- leaving -----------------------------------------------------------------------------------
 */

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
