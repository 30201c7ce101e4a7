#include "event_log.h"
#include "clock.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_EVENTS 256u
#define REPEAT_NS INT64_C(10000000000) /* the same sentence within this time is only counted */

struct event_log {
    struct state *state;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t posted;
    struct event queue[QUEUE_EVENTS];
    uint32_t head, count;
    uint64_t not_written;
    bool stop;

    /* the thread's */
    struct event last;
    uint64_t repeats;
    bool journal;
};

static void copy_text(char *to, size_t size, const char *from)
{
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    to[length] = '\0';
}

/* The journal takes the severity from a prefix; a terminal reads it as a word. */
static void print(const struct event_log *log, const struct event *event)
{
    bool error = strcmp(event->severity, "error") == 0;
    bool info = strcmp(event->severity, "info") == 0;
    const char *prefix = !log->journal ? "" : error ? "<3>" : info ? "<6>" : "<4>";
    const char *word = info || log->journal ? "" : error ? "error: " : "warning: ";
    const char *of = event->ring[0] ? "ring " : "";
    fprintf(stderr, "%stapeloopd: %s%s%s%s%s\n", prefix, word, of, event->ring,
            event->ring[0] ? ": " : "", event->text);
}

static void write_down(struct event_log *log, struct event *event)
{
    print(log, event);
    int result = state_put_event(log->state, event);
    if (result != 0)
        fprintf(stderr, "%stapeloopd: the event before could not be kept in state.db: %s\n",
                log->journal ? "<4>" : "", error_text(result));
}

static void repeats_write(struct event_log *log)
{
    if (log->repeats == 0)
        return;
    struct event event = log->last;
    char text[sizeof event.text];
    snprintf(text, sizeof text, "%" PRIu64 " times more: %.440s", log->repeats, event.text);
    memcpy(event.text, text, sizeof text);
    event.time_ns = clock_realtime_ns();
    log->repeats = 0;
    write_down(log, &event);
}

static void handle(struct event_log *log, struct event *event)
{
    if (strcmp(event->text, log->last.text) == 0 && strcmp(event->ring, log->last.ring) == 0 &&
        event->time_ns - log->last.time_ns < REPEAT_NS) {
        log->repeats++;
        return;
    }
    repeats_write(log);
    log->last = *event;
    write_down(log, event);
}

static void *log_thread(void *context)
{
    struct event_log *log = context;
    pthread_setname_np(pthread_self(), "events");
    pthread_mutex_lock(&log->lock);
    while (!log->stop || log->count > 0) {
        if (log->count == 0) {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_sec += REPEAT_NS / 1000000000;
            if (log->repeats == 0)
                pthread_cond_wait(&log->posted, &log->lock);
            else if (pthread_cond_timedwait(&log->posted, &log->lock, &until) != 0) {
                pthread_mutex_unlock(&log->lock);
                repeats_write(log);
                pthread_mutex_lock(&log->lock);
            }
            continue;
        }
        struct event event = log->queue[log->head];
        log->head = (log->head + 1) % QUEUE_EVENTS;
        log->count--;
        uint64_t not_written = log->count == 0 ? log->not_written : 0;
        log->not_written -= not_written;
        pthread_mutex_unlock(&log->lock);
        handle(log, &event);
        if (not_written > 0) {
            struct event lost = {
                .time_ns = clock_realtime_ns(), .severity = "warning", .kind = "events-lost"};
            snprintf(lost.text, sizeof lost.text,
                     "%" PRIu64 " events came too fast to be written down", not_written);
            handle(log, &lost);
        }
        pthread_mutex_lock(&log->lock);
    }
    pthread_mutex_unlock(&log->lock);
    repeats_write(log);
    return NULL;
}

int event_log_open(struct state *state, struct event_log **result, struct failure *failure)
{
    struct event_log *log = calloc(1, sizeof *log);
    if (!log)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    log->state = state;
    log->journal = getenv("JOURNAL_STREAM") != NULL && !isatty(STDERR_FILENO);
    pthread_mutex_init(&log->lock, NULL);
    clock_condition_init(&log->posted);
    int error = pthread_create(&log->thread, NULL, log_thread, log);
    if (error != 0) {
        pthread_cond_destroy(&log->posted);
        pthread_mutex_destroy(&log->lock);
        free(log);
        return fail_errno(failure, error, "no thread for the events");
    }
    *result = log;
    return 0;
}

void event_log_close(struct event_log **slot)
{
    struct event_log *log = *slot;
    if (!log)
        return;
    pthread_mutex_lock(&log->lock);
    log->stop = true;
    pthread_cond_signal(&log->posted);
    pthread_mutex_unlock(&log->lock);
    pthread_join(log->thread, NULL);
    pthread_cond_destroy(&log->posted);
    pthread_mutex_destroy(&log->lock);
    free(log);
    *slot = NULL;
}

void event_log_say(struct event_log *log, const char *severity, const char *kind, const char *ring,
                   const char *format, ...)
{
    struct event event = {.time_ns = clock_realtime_ns()};
    copy_text(event.severity, sizeof event.severity, severity);
    copy_text(event.kind, sizeof event.kind, kind);
    copy_text(event.ring, sizeof event.ring, ring);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(event.text, sizeof event.text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&log->lock);
    if (log->count == QUEUE_EVENTS) {
        log->not_written++;
    } else {
        log->queue[(log->head + log->count++) % QUEUE_EVENTS] = event;
        pthread_cond_signal(&log->posted);
    }
    pthread_mutex_unlock(&log->lock);
}
