/*
 * spare_worker.h - a reading process that was started before anybody wants it.
 *
 *     spare_worker_open() -> { spare_worker_take() ... [spare_worker_leave()] spare_worker_refill() } ... -> spare_worker_close()
 *
 * Half of the time of a small search is a process that comes up: its libraries, its confinement. So when a client's extraction has been answered, the
 * process of the next one is started, gives up what it can, and waits for its job (its name meanwhile: tapeloop-waits). None gets a second
 * job. There is one at most, whatever has been asked; where it has died, or there is none, one is started as before.
 *
 * Any thread.
 */
#ifndef CAPTURE_SPARE_WORKER_H
#define CAPTURE_SPARE_WORKER_H

#include <pthread.h>
#include <stdbool.h>

#include "errors.h"
#include "worker.h"

#define SPARE_LEAVING_MAX 4

struct spare_worker {
    pthread_mutex_t lock;
    struct worker worker; /* socket -1: there is none */
    struct worker leaving[SPARE_LEAVING_MAX]; /* have said DONE, and were not yet waited for; socket -1: none */
    bool wanted;          /* one has been taken, or was missing */
    bool kept;            /* false: never one that nobody waits for */
};

/* Starts nothing. `kept` false: spare_worker_refill() never does. */
void spare_worker_open(struct spare_worker *spare, bool kept);

/* As worker_start(), and the kernel is told whom to end first where memory is short: every reading process is started by this. */
int spare_worker_start(const char *path, struct worker *worker, struct failure *failure);

/*
 * As spare_worker_start(), at once where there is one. It may have been killed a moment ago: then it goes without reading its job
 * (worker.h: unread), and another one can be started for that.
 */
int spare_worker_take(struct spare_worker *spare, const char *path, struct worker *worker, struct failure *failure);

/* A process has said DONE and all that it was to write is written: its end, up to a millisecond, is waited for with the next refill, or now where too many leave at once.
 * Consumes the worker. */
void spare_worker_leave(struct spare_worker *spare, struct worker *worker);

/* Waits for those that leave, and starts one if that is due. Takes a millisecond or two: for when nobody waits. */
void spare_worker_refill(struct spare_worker *spare, const char *path);

/* Ends it. Nobody takes one any more. */
void spare_worker_close(struct spare_worker *spare);

#endif
