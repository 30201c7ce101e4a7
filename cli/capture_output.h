/*
 * capture_output.h - where an extraction writes: a file that replaces what was there only once
 * there is something to replace it with, or standard output.
 *
 * A file is made beside its final name and takes it over (rename) as soon as the first bytes are in
 * it: so a refused filter leaves an old file alone and no new one behind, and a file that grows can
 * be followed under its name from its beginning. What is no plain file (a pipe, a device) is opened
 * as it is.
 */
#ifndef CLI_CAPTURE_OUTPUT_H
#define CLI_CAPTURE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"

struct capture_output {
    int fd;
    bool standard_output;
    bool pipe;       /* somebody reads it, and may stop */
    char *name;      /* as typed; null for standard output */
    char *final;     /* the file's name behind symbolic links, until it is in place */
    char *temporary; /* its name before; null once it is in place, or where none is needed */
};

/* `name` null or "-": standard output. ERR_INVALID: a terminal. */
int capture_output_open(struct capture_output *output, const char *name, struct failure *failure);

/* Puts the file in place if something has been written to it, or if `finished`. Cheap to call
 * often. */
int capture_output_settle(struct capture_output *output, bool finished, struct failure *failure);

/*
 * Cuts a file that was not written to its end (pcapng or pcap) behind its last whole packet, so
 * that it is a capture that everybody reads. Returns the packets that are left, 0 where it is no
 * such file or was left as it is. Nobody may be writing any more.
 */
uint64_t capture_output_trim(struct capture_output *output);

/* Has whoever read the pipe stopped doing so? */
bool capture_output_is_left(const struct capture_output *output);

/* Closes; a file that is not in place is removed. */
void capture_output_close(struct capture_output *output);

#endif
