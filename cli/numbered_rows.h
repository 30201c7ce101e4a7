/*
 * numbered_rows.h - commands that list what the recorder has numbered, page by page: events, the
 * audit log.
 */
#ifndef CLI_NUMBERED_ROWS_H
#define CLI_NUMBERED_ROWS_H

#include <jansson.h>

#include "options.h"

/* --after and --limit. */
extern const struct option_row numbered_rows_options[];

/*
 * Asks `method` for the rows behind --after, at most --limit of them, and prints each of the
 * answer's `member` (with --json the answer as it is); `none` is said where there are none. As a
 * command's run().
 */
int numbered_rows_run(const struct invocation *invocation, const char *method, const char *member,
                      const char *none, void (*print)(const json_t *row), struct failure *failure);

#endif
