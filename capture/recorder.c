/*
 * recorder.c - see recorder.h.
 *
 * The happy path: directory, lock, databases, events; each ring on a thread of its own, so that one
 * whose disks are slow or busy holds nobody up; history; the control socket last, for what it
 * promises has to be there.
 *
 * Closing goes the other way: recordings end first, for everything else only serves them.
 */
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "catalog_care.h"
#include "classifier.h"
#include "control_server.h"
#include "disk_care.h"
#include "event_log.h"
#include "history.h"
#include "job_list.h"
#include "recording.h"
#include "ring_opening.h"
#include "run_care.h"
#include "standing.h"
#include "verdict_care.h"

/* ---- the state directory
 * --------------------------------------------------------------------------- */

static int take_directory(struct recorder *recorder, const char *path, struct failure *failure)
{
    struct stat status;
    if (mkdir(path, 0750) != 0 && errno != EEXIST)
        return fail_errno(failure, errno, "the state directory %s cannot be made", path);
    if (!realpath(path, recorder->directory))
        return fail_errno(failure, errno, "the state directory %s", path);
    if (stat(recorder->directory, &status) != 0)
        return fail_errno(failure, errno, "the state directory %s", path);
    if (!S_ISDIR(status.st_mode))
        return fail(failure, ERR_INVALID, "%s is not a directory", path);
    return 0;
}

/* One recorder a state directory: a lock, for a pid file outlives its process. The pid in it is for
 * the sentence below. */
static int take_lock(struct recorder *recorder, struct failure *failure)
{
    char text[32] = "";
    int directory = open(recorder->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return fail_errno(failure, errno, "the state directory %s", recorder->directory);
    int fd = openat(directory, RECORDER_LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    int number = errno;
    close(directory);
    if (fd < 0)
        return fail_errno(failure, number, "%s/%s", recorder->directory, RECORDER_LOCK_NAME);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        number = errno;
        ssize_t length = pread(fd, text, sizeof text - 1, 0);
        close(fd);
        if (number != EWOULDBLOCK)
            return fail_errno(failure, number, "%s/%s", recorder->directory, RECORDER_LOCK_NAME);
        text[length > 0 ? strspn(text, "0123456789") : 0] = '\0';
        return fail(failure, ERR_BUSY, "a recorder is running on %s already%s%s%s",
                    recorder->directory, text[0] ? " (process " : "", text, text[0] ? ")" : "");
    }
    int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        number = errno;
        close(fd);
        return fail_errno(failure, number, "%s/%s", recorder->directory, RECORDER_LOCK_NAME);
    }
    recorder->lock_fd = fd;
    return 0;
}

/* ---- rings
 * ----------------------------------------------------------------------------------------- */

static void *startup_thread(void *context)
{
    struct ring_entry *entry = context;
    struct recorder *recorder = entry->recorder;
    struct failure failure = {0};
    pthread_setname_np(pthread_self(), "startup");
    /* A recorder that is asked to end while it looks at its disks has not failed. */
    if (ring_entry_open(entry, &failure) != 0 && !entry->empty && !recorder_stopping(recorder))
        event_log_say(recorder->events, "error", "ring-failed", entry->row.name, "%s",
                      failure.text);
    ring_registry_settle(&recorder->registry, entry, &failure);
    standing_revive(recorder);
    return NULL;
}

struct startup {
    struct recorder *recorder;
    struct failure *failure;
};

static int add_ring(const struct state_ring *row, void *context)
{
    struct startup *startup = context;
    struct recorder *recorder = startup->recorder;
    struct ring_entry *entry;
    return ring_registry_add(&recorder->registry, recorder, row, RING_STARTING, &entry,
                             startup->failure);
}

static int take_max_rings(const char *name, const char *value, void *context)
{
    unsigned long rings_max = strtoul(value, NULL, 10);
    if (strcmp(name, RECORDER_SETTING_MAX_RINGS) == 0 && rings_max > 0 && rings_max <= UINT32_MAX)
        ring_registry_set_max(context, (uint32_t)rings_max);
    return 0;
}

/* Brings all rings up, each on its own thread. */
static int start_rings(struct recorder *recorder, bool fresh, struct failure *failure)
{
    struct startup startup = {.recorder = recorder, .failure = failure};
    /* The catalog has been begun anew: from here on the marks say what it lacks. */
    int result = fresh ? catalog_care_mark_all(recorder) : 0;
    if (result == 0 && fresh)
        catalog_fresh(recorder->catalog);
    if (result == 0)
        result = state_settings(recorder->state, NULL, take_max_rings, &recorder->registry);
    if (result == 0)
        result = state_rings(recorder->state, add_ring, &startup);
    if (result != 0)
        return fail(failure, result, "state.db in %s: %s", recorder->directory, error_text(result));
    for (struct ring_entry *entry = recorder->registry.entries; entry; entry = entry->next) {
        int error = pthread_create(&entry->startup, NULL, startup_thread, entry);
        entry->startup_running = error == 0;
        if (error != 0) {
            struct failure why = {0};
            fail_errno(&why, error, "no thread to bring it up");
            ring_registry_settle(&recorder->registry, entry, &why);
        }
    }
    return 0;
}

/* ---- opening and closing
 * --------------------------------------------------------------------------- */

static void say_layer7(void *context, const char *severity, const char *sentence)
{
    const struct recorder *recorder = context;
    event_log_say(recorder->events, severity, "layer-7", "", "%s", sentence);
}

void recorder_program(const struct recorder *recorder, const char *name, char path[PATH_MAX])
{
    const char *slash = strrchr(recorder->extract_path, '/');
    int directory = slash ? (int)(slash - recorder->extract_path) + 1 : 0;
    snprintf(path, PATH_MAX, "%.*s%s", directory, recorder->extract_path, name);
}

/* Layer 7. Nothing is started before a rule asks for it. */
static int open_classifier(struct recorder *recorder, struct failure *failure)
{
    char program[PATH_MAX];
    recorder_program(recorder, "tapeloop-classify", program);
    struct classifier_options options = {
        .program = program, .say = say_layer7, .context = recorder};
    return classifier_open(&options, &recorder->classifier, failure);
}

int recorder_open(const struct recorder_options *options, struct recorder **result,
                  struct failure *failure)
{
    struct recorder *recorder = calloc(1, sizeof *recorder);
    struct timespec now;
    bool fresh;
    if (!recorder)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    clock_gettime(CLOCK_MONOTONIC, &now);
    recorder->began_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    recorder->session = options->session;
    recorder->lock_fd = -1;
    pthread_mutex_init(&recorder->catalog_lock, NULL);
    pthread_mutex_init(&recorder->settings_lock, NULL);
    spare_worker_open(&recorder->spare, !options->session);
    ring_registry_init(&recorder->registry);
    snprintf(recorder->extract_path, sizeof recorder->extract_path, "%s", options->extract_path);
    recorder->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int code = recorder->stop_fd >= 0 ? 0 : fail_errno(failure, errno, "no descriptor left");
    if (code == 0)
        code = take_directory(recorder, options->state_directory, failure);
    if (code == 0)
        code = take_lock(recorder, failure);
    if (code == 0)
        code = state_open(recorder->directory, &recorder->state, failure);
    if (code == 0)
        code = catalog_open(recorder->directory, &recorder->catalog, &fresh, failure);
    if (code == 0)
        code = event_log_open(recorder->state, &recorder->events, failure);
    if (code == 0)
        code = open_classifier(recorder, failure);
    if (code == 0)
        code = recording_list_open(&recorder->recordings, failure);
    if (code == 0)
        code = standing_open(&recorder->standing, failure);
    if (code == 0)
        code = verdict_care_open(recorder, &recorder->verdict_care, failure);
    if (code == 0)
        code = start_rings(recorder, fresh, failure);
    if (code == 0)
        code = verdict_care_start(recorder->verdict_care, failure);
    if (code == 0)
        code = history_open(recorder, &recorder->history, failure);
    if (code == 0)
        code = disk_care_open(recorder, &recorder->disk_care, failure);
    if (code == 0)
        code = run_care_open(recorder, &recorder->run_care, failure);
    if (code == 0)
        code = job_list_open(recorder, &recorder->jobs, failure);
    if (code == 0)
        code = control_server_open(recorder, &recorder->server, failure);
    if (code != 0) {
        recorder_stop(recorder);
        recorder_close(&recorder);
        return code;
    }
    if (!recorder->session)
        event_log_say(recorder->events, "info", "started", "", "tapeloopd %s has started on %s",
                      TAPELOOP_VERSION, recorder->directory);
    *result = recorder;
    return 0;
}

void recorder_stop(struct recorder *recorder)
{
    static const uint64_t one = 1;
    atomic_store(&recorder->stopping, true);
    ssize_t written = write(recorder->stop_fd, &one, sizeof one);
    (void)written;
}

/* Rings that are still coming up see that the recorder stops. */
static void close_rings(struct recorder *recorder)
{
    for (struct ring_entry *entry = recorder->registry.entries; entry; entry = entry->next) {
        if (entry->startup_running)
            pthread_join(entry->startup, NULL);
        entry->startup_running = false;
        ring_entry_close(entry);
    }
}

void recorder_close(struct recorder **slot)
{
    struct recorder *recorder = *slot;
    if (!recorder)
        return;
    bool was_up = recorder->server && !recorder->session;
    recorder_stop(recorder);
    ring_registry_close_down(&recorder->registry);
    if (recorder->recordings) {
        struct account account;
        (void)recordings_stop(recorder, NULL, &account, NULL);
    }
    control_server_close(&recorder->server);
    spare_worker_close(&recorder->spare); /* only connections took from it */
    job_list_close(&recorder->jobs);
    run_care_close(&recorder->run_care);
    verdict_care_stop(recorder->verdict_care);
    disk_care_close(&recorder->disk_care);
    history_close(&recorder->history);
    if (was_up)
        event_log_say(recorder->events, "info", "stopped", "", "tapeloopd has ended");
    close_rings(recorder);
    verdict_care_close(&recorder->verdict_care);
    recording_list_close(&recorder->recordings);
    standing_close(&recorder->standing);
    classifier_close(&recorder->classifier);
    event_log_close(&recorder->events); /* after all who may say something */
    ring_registry_free(&recorder->registry);
    catalog_close(&recorder->catalog);
    state_close(&recorder->state);
    if (recorder->lock_fd >= 0)
        close(recorder->lock_fd);
    if (recorder->stop_fd >= 0)
        close(recorder->stop_fd);
    pthread_mutex_destroy(&recorder->settings_lock);
    pthread_mutex_destroy(&recorder->catalog_lock);
    free(recorder);
    *slot = NULL;
}
