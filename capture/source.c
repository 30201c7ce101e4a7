/*
 * source.c - what all packet sources share: being woken and being closed.
 */
#include "source.h"

#include <stddef.h>
#include <unistd.h>

void source_wake(struct source *source)
{
    /* Only write(2) is called, so that a signal handler may do this too. A full eventfd counter
     * means that a wake is pending already: nothing is lost by not adding another. */
    static const uint64_t one = 1;
    if (source->wake_fd >= 0) {
        ssize_t written = write(source->wake_fd, &one, sizeof one);
        (void)written;
    }
}

void source_close(struct source **source)
{
    struct source *closed = *source;
    if (closed == NULL)
        return;
    *source = NULL;
    closed->ops->close(closed);
}
