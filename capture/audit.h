/*
 * audit.h - who did what: every change, every extraction, and the log-ins that the web process
 * tells of, in state.db, each row chained to the one before (state.h).
 *
 * Both are written down twice: that they begin, before anything has happened, and what came of
 * them. A change without its second row was under way when the recorder died. An extraction whose
 * beginning cannot be written down does not begin; a change is made all the same, for what must go
 * on goes on, and an event says so.
 *
 * Threads: any, each with a request of its own. Calls wait for a disk.
 */
#ifndef CAPTURE_AUDIT_H
#define CAPTURE_AUDIT_H

#include "request.h"

enum audit_kind {
    AUDIT_CHANGE,  /* does not wait for the audit log to be well */
    AUDIT_READING, /* hands out packets: not unwritten */
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
