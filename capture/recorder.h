/*
 * recorder.h - one recorder: a state directory, its lock and databases, its rings, and the threads
 * that serve them.
 *
 *     recorder_open() -> wait for a reason to end -> recorder_stop() -> recorder_close()
 *
 * Threads: one for the events, one for the history, one that accepts connections, one for each
 * connection and for each recording; below them those of each ring. All of them end in
 * recorder_close().
 */
#ifndef CAPTURE_RECORDER_H
#define CAPTURE_RECORDER_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "catalog.h"
#include "errors.h"
#include "ring_registry.h"
#include "spare_worker.h"
#include "state.h"

#define RECORDER_LOCK_NAME "recorder.lock" /* in the state directory; holds the pid, for people */

#define RECORDER_SETTING_MAX_RINGS "max_rings" /* in state.db, of no ring */

struct classifier;
struct control_server;
struct disk_care;
struct event_log;
struct history;
struct job_list;
struct recording_list;
struct run_care;
struct standing_list;
struct verdict_care;

struct recorder_options {
    const char *state_directory;
    const char *extract_path; /* tapeloop-extract */
    bool session;             /* ends with the command that started it */
};

struct recorder {
    char directory[PATH_MAX]; /* absolute */
    char extract_path[PATH_MAX];
    bool session;
    int lock_fd;
    int stop_fd; /* eventfd: readable when the recorder is to end */
    atomic_bool stopping;
    uint64_t began_ns; /* CLOCK_MONOTONIC */
    struct state *state;
    struct catalog *catalog;
    pthread_mutex_t catalog_lock; /* catalog_care.h */
    bool catalog_lacks;           /* under it: told, and all rings marked */
    _Atomic uint64_t catalog_losses; /* how often the catalog had lost something when somebody wanted to make that good */
    pthread_mutex_t settings_lock; /* a ring's settings are looked at and changed in one piece */
    struct event_log *events;
    _Atomic uint64_t reading_bytes_per_s; /* at which readings went lately, for estimates; 0: there was none */
    struct spare_worker spare; /* for the next extraction that a client waits for */
    atomic_uint readings; /* that run, and those that are about to be refused; reading.c */
    struct classifier *classifier; /* layer 7, for rules with `app` */
    struct ring_registry registry;
    struct recording_list *recordings;
    struct standing_list *standing;
    struct job_list *jobs;
    struct history *history;
    struct disk_care *disk_care;
    struct run_care *run_care;
    struct verdict_care *verdict_care;
    struct control_server *server;
};

/*
 * Takes the state directory (made where it is missing, 0750) and brings everything up; rings come
 * up by themselves meanwhile. ERR_BUSY: another recorder has it, the sentence names its pid.
 */
int recorder_open(const struct recorder_options *options, struct recorder **result,
                  struct failure *failure);

/* The path of another program of ours: it lies where tapeloop-extract does. */
void recorder_program(const struct recorder *recorder, const char *name, char path[PATH_MAX]);

/* Asks the recorder to end: stop_fd becomes readable, jobs end. Any thread; async-signal-safe. */
void recorder_stop(struct recorder *recorder);

static inline bool recorder_stopping(const struct recorder *recorder)
{
    return atomic_load(&recorder->stopping);
}

/* Ends recordings (sealed, durable), connections, rings, databases; frees, nulls. */
void recorder_close(struct recorder **slot);

#endif
