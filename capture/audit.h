/*
 * audit.h - who did what: every change, every extraction, and the log-ins that the web process
 * tells of, in state.db, each row chained to the one before (state.h).
 *
 * An extraction is written down before its first byte, and does not begin where that fails; its end
 * is another row. A change is written down after it was made or refused.
 *
 * Threads: any, each with a request of its own. Calls wait for a disk.
 */
#ifndef CAPTURE_AUDIT_H
#define CAPTURE_AUDIT_H

#include "request.h"

enum audit_kind {
    AUDIT_CHANGE,  /* one row, when it has been made or refused */
    AUDIT_READING, /* hands out packets: a row before it begins and one when it has ended */
    AUDIT_NONE,    /* only looks */
};

/* Before the method runs. 0, or the error for which it must not, with its sentence. */
int audit_begin(struct request *request, enum audit_kind kind, const char *method);

/* After it has: `code` and request->failure are what came of it, `result` (may be null) what it
 * answers. */
void audit_end(struct request *request, enum audit_kind kind, const char *method, int code,
               const json_t *result);

/* Who asks, as the log has it: whom the kernel names, and for whom he says that he acts. */
#define AUDIT_ACTOR_SIZE 192
void audit_actor(const struct request *request, char text[AUDIT_ACTOR_SIZE]);

/* The end of a job, for whoever started it (job_row.h): it comes when nobody asks. */
void audit_job_end(const struct recorder *recorder, const json_t *row, const char *outcome);

int method_audit_note(struct request *request, json_t **result);
int method_audit_list(struct request *request, json_t **result);
int method_audit_verify(struct request *request, json_t **result);

#endif
