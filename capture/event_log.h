/*
 * event_log.h - what a person should know: one sentence each, to state.db and to standard error.
 *
 * Saying something never blocks, from whatever thread: a bounded queue and a thread of its own do
 * the writing. When the queue is full the event is not written down, counted, and the count is said
 * as soon as there is room. The same sentence again and again is written once, then with how often
 * it came.
 */
#ifndef CAPTURE_EVENT_LOG_H
#define CAPTURE_EVENT_LOG_H

#include <stdarg.h>
#include <stdbool.h>

#include "errors.h"
#include "state.h"

struct event_log;

/* `state` stays the caller's, until event_log_close(). Messages go to standard error too. */
int event_log_open(struct state *state, struct event_log **result, struct failure *failure);

/* Writes what is queued, ends the thread, frees, nulls. A null *slot is allowed. */
void event_log_close(struct event_log **slot);

/* severity: "info", "warning", "error"; kind: a word of at most 31 bytes; ring: a name or "". Any
 * thread. */
void event_log_say(struct event_log *log, const char *severity, const char *kind, const char *ring,
                   const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
