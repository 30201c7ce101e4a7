/*
 * plan_view.h - how packets were found: what each step has left for the next, and read for it.
 */
#ifndef CLI_PLAN_VIEW_H
#define CLI_PLAN_VIEW_H

#include <jansson.h>
#include <stdint.h>

/* On standard output. `plan` has the members of `plan` in job.show (schema/PROTOCOL.md); `packets` match. */
void plan_print(const json_t *plan, uint64_t packets);

#endif
