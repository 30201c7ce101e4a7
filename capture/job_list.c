/*
 * job_list.c - see job_list.h.
 *
 * The happy path of a job: added as WAITING, written down; the scheduler gives it to a runner; the
 * runner looks how much the range can come to at most, sets that aside of quota and disk, makes the
 * file, has a worker write into it (reading.h), makes it durable, writes the row, and only then the
 * job is DONE.
 *
 * Failures: a full disk, a worker that died, a ring that has gone, the recorder's end: the file is
 * removed, the row says why. One that finds no room because of what is set aside for others waits
 * for them; where nobody else runs, it gets what there is, and its end is named as its limit.
 *
 * Two locks. store_lock is for whoever changes rows and files, and is held while a disk is waited
 * for; lock, inside of it, is for what is in memory, so that looking never waits.
 */
#include "job_list.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "answer_json.h"
#include "audit.h"
#include "clock.h"
#include "event_log.h"
#include "ring_opening.h"
#include "text.h"

#define SETTING_LAST ".jobs" /* in state.db, of no ring: the last number given, and one row a job */
#define SETTING_JOB ".job."
#define PACKET_OVERHEAD_BYTES 64u      /* at most, of a packet in a capture file */
#define FILE_OVERHEAD_BYTES (1u << 20) /* interfaces, comments, what comes while it is looked */
#define FLUSH_MS 10000
#define AGAIN_NS 1000000000ull
#define DISK_KEPT_SHARE 20            /* a twentieth of the file system is left to others, */
#define DISK_KEPT_BYTES_MAX (1u << 30) /* at most this */

struct job {
    struct job *next;
    json_t *row; /* under lock, or of the runner alone; no part of it is shared with what goes to others */
    struct job_facts facts;
    uint64_t due_ns;    /* WAITING: not before, CLOCK_MONOTONIC */
    const char *lacks;  /* WAITING: of what there was no room for it, as job_allowance() says; null: nothing */
    uint64_t set_aside; /* RUNNING: bytes it may write, and what it has written */
    uint64_t written;
    int64_t lo_ns, hi_ns; /* RUNNING: where packets can lie */
    bool cancel;
    bool doomed; /* to be removed when it has ended */
    struct runner *runner; /* RUNNING */
};

struct runner {
    struct job_list *list;
    pthread_t thread;
    bool used, ended;
    int cancel_fd; /* eventfd */
    struct job *job;
};

struct job_list {
    struct recorder *recorder;
    pthread_mutex_t store_lock;
    uint64_t last; /* under store_lock: the last number given */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    struct job *jobs; /* by number */
    uint32_t count;
    struct runner runner[JOBS_RUNNING_MAX];
    pthread_t scheduler;
    bool scheduling;
};

static bool is_under_way(const struct job *job)
{
    return job->facts.state == JOB_WAITING || job->facts.state == JOB_RUNNING;
}

static const char *text_of(const json_t *row, const char *name)
{
    const char *text = json_string_value(json_object_get(row, name));
    return text ? text : "";
}

/* ---- the folder ------------------------------------------------------------------------------ */

/* Opened each time: it may be on a disk that is mounted later. `make`: where it is missing. */
static int open_directory(const struct job_list *list, bool make, struct failure *failure)
{
    char path[PATH_MAX + sizeof "/" JOBS_DIRECTORY];
    snprintf(path, sizeof path, "%s/" JOBS_DIRECTORY, list->recorder->directory);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make && (mkdir(path, 0700) == 0 || errno == EEXIST))
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : fail_errno(failure, errno, "the folder %s", path);
}

static void remove_file(const struct job_list *list, const json_t *row)
{
    char name[JOB_FILE_NAME_SIZE];
    int directory = open_directory(list, false, NULL);
    if (directory < 0)
        return;
    job_file_name(row, name);
    if (unlinkat(directory, name, 0) != 0 && errno != ENOENT)
        event_log_say(list->recorder->events, "warning", "job-file-left", text_of(row, "ring"),
                      "%s, which nobody needs any more, cannot be removed: %s", name,
                      strerror(errno));
    close(directory);
}

/* ---- rows in state.db ------------------------------------------------------------------------ */

static void setting_of(uint64_t number, char name[48])
{
    snprintf(name, 48, SETTING_JOB "%" PRIu64, number);
}

static int put_row(const struct job_list *list, const json_t *row)
{
    char name[48];
    char *text = json_dumps(row, JSON_COMPACT);
    setting_of((uint64_t)json_integer_value(json_object_get(row, "number")), name);
    int code = text ? state_put_setting(list->recorder->state, NULL, name, text) : ERR_NO_MEMORY;
    free(text);
    return code;
}

/* ---- the list -------------------------------------------------------------------------------- */

static struct job *find_job(const struct job_list *list, uint64_t number)
{
    struct job *job = list->jobs;
    while (job && job->facts.number != number)
        job = job->next;
    return job;
}

static int not_found(struct failure *failure)
{
    return fail(failure, ERR_NOT_FOUND, "there is no such job; it may have been deleted or expired");
}

/* Takes `row` over. Under lock, or while there is one thread. */
static int insert_job(struct job_list *list, json_t *row, const struct job_facts *facts)
{
    struct job *job = calloc(1, sizeof *job), **place = &list->jobs;
    if (!job) {
        json_decref(row);
        return ERR_NO_MEMORY;
    }
    job->row = row;
    job->facts = *facts;
    while (*place && (*place)->facts.number < facts->number)
        place = &(*place)->next;
    job->next = *place;
    *place = job;
    list->count++;
    return 0;
}

static void free_job(struct job *job)
{
    json_decref(job->row);
    free(job);
}

/* Row first: a file without a row is removed at the next start, a row without a file would lie. Under store_lock. */
static int remove_job(struct job_list *list, struct job *job, struct failure *failure)
{
    char name[48];
    struct job **place = &list->jobs;
    setting_of(job->facts.number, name);
    int code = state_put_setting(list->recorder->state, NULL, name, NULL);
    if (code != 0)
        return fail(failure, code, "state.db could not be written: %s", error_text(code));
    remove_file(list, job->row);
    pthread_mutex_lock(&list->lock);
    while (*place != job)
        place = &(*place)->next;
    *place = job->next;
    list->count--;
    pthread_cond_broadcast(&list->changed);
    pthread_mutex_unlock(&list->lock);
    free_job(job);
    return 0;
}

/* As the others may see it, and theirs. Under lock. */
static json_t *shown(const struct job *job, bool whole)
{
    json_t *row = json_copy(job->row);
    json_object_del(row, "actor");
    json_object_del(row, "ring_id");
    if (!whole) {
        json_object_del(row, "gaps");
        json_object_del(row, "plan");
    }
    json_t *copy = json_deep_copy(row);
    json_decref(row);
    return copy;
}

/* ---- running one ----------------------------------------------------------------------------- */

struct job_run {
    struct job_list *list;
    struct job *job; /* its row's constant members may be read without the lock */
    struct request request;
    struct ring_entry *entry;
    struct settings settings;
    struct reading_options options;
    uint64_t bytes_max; /* that its maker has set */
    const char *limit;  /* why it gets less than it may need */
    int64_t oldest_ns;
    int directory;
    char file[JOB_FILE_NAME_SIZE];
};

static void take_progress(const json_t *progress, void *context)
{
    static const char *const names[] = {"packets", "output_bytes", "segments_done", "segments_total"};
    struct job_run *run = context;
    struct job *job = run->job;
    const char *at = json_string_value(json_object_get(progress, "at_ns"));
    pthread_mutex_lock(&run->list->lock);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        json_object_set(job->row, names[i], json_object_get(progress, names[i]));
    job->written = (uint64_t)json_integer_value(json_object_get(progress, "output_bytes"));
    if (at)
        json_object_set_new(job->row, "share",
                            json_real(job_share(job->lo_ns, job->hi_ns, strtoll(at, NULL, 10))));
    pthread_mutex_unlock(&run->list->lock);
    /* A little at a time: the disk may be one that is recorded to, and a whole result at its end would be in the way. */
    (void)sync_file_range(run->options.output, 0, 0, SYNC_FILE_RANGE_WRITE);
}

struct measure {
    int64_t from_ns, to_ns, lo_ns, hi_ns;
    uint64_t bytes;
};

static int measure_segment(const struct segment_row *row, void *context)
{
    struct measure *measure = context;
    measure->bytes += row->captured_bytes + row->packets * PACKET_OVERHEAD_BYTES;
    if (row->packets > 0 && row->first_ns < measure->lo_ns)
        measure->lo_ns = row->first_ns;
    if (row->packets > 0 && row->last_ns > measure->hi_ns)
        measure->hi_ns = row->last_ns;
    return 0;
}

/* How much the range comes to at most, whatever the filter leaves. */
static int measure_range(struct job_run *run, struct measure *measure)
{
    const struct reading_options *options = &run->options;
    struct ring *ring = run->entry->ring;
    struct catalog_summary summary;
    *measure = (struct measure){.lo_ns = INT64_MAX, .hi_ns = INT64_MIN, .bytes = FILE_OVERHEAD_BYTES};
    if (options->to_ns > clock_realtime_ns() - (int64_t)ring_options(ring)->flush_window_ns)
        (void)ring_flush(ring, FLUSH_MS); /* the worker's result says whether it was */
    int code = ring_find(ring, options->from_ns, options->to_ns, measure_segment, measure);
    if (code == 0)
        code = catalog_summary(run->list->recorder->catalog, &run->entry->row.ring, &summary);
    if (code != 0)
        return fail(&run->request.failure, code, "ring %s: the catalog cannot be read: %s",
                    run->entry->row.name, error_text(code));
    run->oldest_ns = summary.first_ns;
    if (options->from_ns > measure->lo_ns)
        measure->lo_ns = options->from_ns;
    if (options->to_ns < measure->hi_ns)
        measure->hi_ns = options->to_ns;
    return 0;
}

/* Free for results: a part of the file system is left to everybody else, state.db among them. */
static uint64_t disk_room(int directory)
{
    struct statvfs room;
    if (fstatvfs(directory, &room) != 0)
        return UINT64_MAX; /* then a write will say it */
    uint64_t kept = (uint64_t)room.f_blocks * room.f_frsize / DISK_KEPT_SHARE;
    if (kept > DISK_KEPT_BYTES_MAX)
        kept = DISK_KEPT_BYTES_MAX;
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    return free_bytes > kept ? free_bytes - kept : 0;
}

/* Under lock. *others: jobs run for which something is set aside. */
static void look_for_room(const struct job_run *run, struct job_room *room, bool *others)
{
    const struct job_facts *facts = &run->job->facts;
    *others = false;
    for (const struct job *job = run->list->jobs; job; job = job->next) {
        if (job == run->job)
            continue;
        bool runs = job->facts.state == JOB_RUNNING;
        uint64_t unwritten =
            runs && job->set_aside > job->written ? job->set_aside - job->written : 0;
        *others = *others || job->set_aside > 0;
        room->disk_bytes = room->disk_bytes > unwritten ? room->disk_bytes - unwritten : 0;
        if (job->facts.kept == facts->kept && identity_equal(&job->facts.ring, &facts->ring))
            room->taken_bytes += runs                              ? job->set_aside
                                 : job->facts.state == JOB_DONE ? job->facts.file_bytes
                                                                  : 0;
    }
}

/* Sets aside what the job may need. ERR_AGAIN: others have it. */
static int take_room(struct job_run *run, const struct measure *measure)
{
    struct job *job = run->job;
    enum setting quota = job->facts.kept ? SETTING_keep_bytes : SETTING_job_bytes;
    struct job_room room = {.quota_bytes = run->settings.value[quota],
                            .disk_bytes = disk_room(run->directory)};
    uint64_t need = measure->bytes;
    bool others;
    if (run->bytes_max > 0 && run->bytes_max < need)
        need = run->bytes_max;
    pthread_mutex_lock(&run->list->lock);
    look_for_room(run, &room, &others);
    uint64_t allowed = job_allowance(&room, need, &run->limit);
    int code = run->limit && others ? ERR_AGAIN : 0;
    if (code == 0 && run->limit && allowed < FILE_OVERHEAD_BYTES)
        code = ERR_NO_SPACE;
    if (code == 0) {
        job->set_aside = allowed;
        job->lo_ns = measure->lo_ns;
        job->hi_ns = measure->hi_ns;
    }
    pthread_mutex_unlock(&run->list->lock);
    run->options.bytes_max = allowed;
    char quota_text[TEXT_SIZE_SIZE], taken[TEXT_SIZE_SIZE], disk[TEXT_SIZE_SIZE];
    if (code == ERR_NO_SPACE)
        return fail(&run->request.failure, code,
                    "no room for the result: of %s (setting %s) %s are taken, and %s of the disk are "
                    "free for results",
                    text_size(room.quota_bytes, quota_text), setting_name(quota),
                    text_size(room.taken_bytes, taken), text_size(room.disk_bytes, disk));
    return code;
}

static int make_file(struct job_run *run)
{
    job_file_name(run->job->row, run->file);
    run->options.output = openat(run->directory, run->file,
                                 O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (run->options.output < 0)
        return fail_errno(&run->request.failure, errno, "the file for the result, %s", run->file);
    return fsync(run->directory) == 0
               ? 0
               : fail_errno(&run->request.failure, errno, "the folder of the result");
}

/* From the ring's name to a file that can be written. */
static int prepare(struct job_run *run)
{
    struct failure *failure = &run->request.failure;
    struct recorder *recorder = run->list->recorder;
    struct measure measure;
    int code =
        ring_registry_use(&recorder->registry, text_of(run->job->row, "ring"), &run->entry, failure);
    if (code != 0)
        return code;
    if (!identity_equal(&run->entry->row.ring, &run->job->facts.ring))
        return fail(failure, ERR_NOT_FOUND, "the ring has been deleted: the one of its name is another");
    code = ring_stored_settings(run->entry, &run->settings, failure);
    if (code == 0)
        code = measure_range(run, &measure);
    if (code == 0) {
        run->directory = open_directory(run->list, true, failure);
        code = run->directory < 0 ? run->directory : 0;
    }
    if (code == 0)
        code = take_room(run, &measure);
    return code == 0 ? make_file(run) : code;
}

/* What has come of it, in a copy of its row. Null: out of memory. */
static json_t *ended_row(const struct job_run *run, enum job_state state,
                         const struct reading_result *result)
{
    static const char *const taken[] = {"packets", "output_bytes", "limit", "complete", "gaps_total", "undecided"};
    pthread_mutex_lock(&run->list->lock);
    json_t *row = json_copy(run->job->row);
    pthread_mutex_unlock(&run->list->lock);
    int64_t now_ns = clock_realtime_ns(), keep_ns = (int64_t)run->settings.value[SETTING_job_keep];
    json_object_set_new(row, "state", json_string(job_state_word(state)));
    json_set_time(row, "ended", now_ns, true);
    if (state != JOB_DONE || !run->job->facts.kept)
        json_set_time(row, "expires", now_ns + keep_ns, true);
    if (state != JOB_DONE) {
        json_object_set_new(row, "error", json_text(run->request.failure.text));
        return row;
    }
    json_t *answer = reading_result_json(result);
    json_t *gaps = json_incref(json_object_get(answer, "gaps"));
    while (json_array_size(gaps) > JOB_GAPS_KEPT)
        json_array_remove(gaps, json_array_size(gaps) - 1);
    json_object_set_new(row, "gaps", gaps);
    /* One that had to end where its room ended lacks the rest. */
    if (result->done.limit == WORKER_LIMIT_BYTES &&
        (run->bytes_max == 0 || run->options.bytes_max < run->bytes_max)) {
        json_object_set_new(answer, "limit", json_string(run->limit ? run->limit : "quota"));
        json_object_set_new(answer, "complete", json_false());
    }
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        json_object_set(row, taken[i], json_object_get(answer, taken[i]));
    json_object_set_new(row, "plan", reading_plan_json(result));
    json_object_set_new(row, "share", json_real(1));
    json_set_time(row, "oldest", run->oldest_ns, run->oldest_ns != INT64_MAX);
    json_decref(answer);
    return row;
}

static void say_end(const struct job_run *run, enum job_state state, const json_t *row)
{
    char outcome[256];
    const char *ring = text_of(row, "ring");
    json_int_t number = json_integer_value(json_object_get(row, "number"));
    if (state == JOB_DONE)
        snprintf(outcome, sizeof outcome, "done: %" JSON_INTEGER_FORMAT " packets",
                 json_integer_value(json_object_get(row, "packets")));
    else
        snprintf(outcome, sizeof outcome, "%s: %.220s", job_state_word(state), text_of(row, "error"));
    if (state == JOB_FAILED && !recorder_stopping(run->list->recorder))
        event_log_say(run->list->recorder->events, "warning", "job-failed", ring,
                      "job %" JSON_INTEGER_FORMAT " has failed: %.400s", number, text_of(row, "error"));
    audit_job_end(run->list->recorder, row, outcome);
}

/* Puts what it has become in place; under store_lock. */
static void take_row(struct job_list *list, struct job *job, json_t *row, enum job_state state)
{
    struct job_facts facts;
    pthread_mutex_lock(&list->lock);
    if (row) {
        json_decref(job->row);
        job->row = row;
        if (job_row_read(row, &facts))
            job->facts = facts;
    }
    job->facts.state = state;
    job->set_aside = 0;
    job->written = 0;
    job->runner = NULL;
    pthread_cond_broadcast(&list->changed);
    pthread_mutex_unlock(&list->lock);
}

/* No room yet, or too many readings: back to those that wait. False: it has been cancelled meanwhile. */
static bool wait_again(struct job_run *run)
{
    struct job_list *list = run->list;
    if (run->file[0])
        (void)unlinkat(run->directory, run->file, 0);
    pthread_mutex_lock(&list->lock);
    if (run->job->cancel) {
        pthread_mutex_unlock(&list->lock);
        return false;
    }
    run->job->facts.state = JOB_WAITING;
    run->job->due_ns = clock_monotonic_ns() + AGAIN_NS;
    run->job->lacks = run->limit;
    run->job->set_aside = 0;
    run->job->written = 0;
    run->job->runner = NULL;
    json_object_set_new(run->job->row, "state", json_string(job_state_word(JOB_WAITING)));
    pthread_cond_broadcast(&list->changed);
    pthread_mutex_unlock(&list->lock);
    return true;
}

static void conclude(struct job_run *run, int code, const struct reading_result *result)
{
    struct job_list *list = run->list;
    struct job *job = run->job;
    pthread_mutex_lock(&list->store_lock);
    pthread_mutex_lock(&list->lock);
    enum job_state state = code == 0 ? JOB_DONE : job->cancel ? JOB_CANCELLED : JOB_FAILED;
    pthread_mutex_unlock(&list->lock);
    if (state == JOB_CANCELLED)
        fail(&run->request.failure, ERR_INTERRUPTED, "cancelled");
    json_t *row = ended_row(run, state, result);
    int kept = row ? put_row(list, row) : ERR_NO_MEMORY;
    if (kept != 0 && state == JOB_DONE) { /* after a restart nobody would know of it */
        state = JOB_FAILED;
        fail(&run->request.failure, kept, "its row could not be written: %s", error_text(kept));
        json_decref(row);
        row = ended_row(run, state, result);
    }
    if (state != JOB_DONE && run->file[0])
        (void)unlinkat(run->directory, run->file, 0);
    if (row)
        say_end(run, state, row);
    take_row(list, job, row, state);
    if (job->doomed)
        (void)remove_job(list, job, NULL);
    pthread_mutex_unlock(&list->store_lock);
}

static void run_job(struct job_run *run)
{
    struct reading_result result = {0};
    struct recorder *recorder = run->list->recorder;
    settings_default(&run->settings);
    bool good = job_row_options(run->job->row, &run->options);
    run->bytes_max = run->options.bytes_max;
    int code = good ? prepare(run) : fail(&run->request.failure, ERR_CORRUPT, "its row is damaged");
    if (code == 0)
        code = reading_run(&run->request, run->entry, &run->options, &result);
    if (code == 0 && fsync(run->options.output) != 0)
        code = fail_errno(&run->request.failure, errno, "the result could not be made durable");
    if (run->options.output >= 0)
        close(run->options.output);
    if (run->entry)
        ring_registry_release(&recorder->registry, &run->entry);
    bool later = (code == ERR_AGAIN || code == ERR_BUSY) && !recorder_stopping(recorder);
    if (!later || !wait_again(run))
        conclude(run, code, &result);
    reading_result_free(&result);
    if (run->directory >= 0)
        close(run->directory);
}

static void *runner_thread(void *context)
{
    struct runner *runner = context;
    struct job_list *list = runner->list;
    struct job_run run = {.list = list, .job = runner->job, .directory = -1, .options.output = -1};
    pthread_setname_np(pthread_self(), "job");
    run.request = (struct request){.recorder = list->recorder,
                                   .cancel_fd = runner->cancel_fd,
                                   .take_progress = take_progress,
                                   .context = &run};
    run_job(&run);
    pthread_mutex_lock(&list->lock);
    runner->ended = true;
    pthread_cond_broadcast(&list->changed);
    pthread_mutex_unlock(&list->lock);
    return NULL;
}

/* ---- scheduling ------------------------------------------------------------------------------ */

/* Under lock, which is let go while a thread that has ended is joined. */
static void reap_runners(struct job_list *list)
{
    for (uint32_t i = 0; i < JOBS_RUNNING_MAX; i++) {
        struct runner *runner = &list->runner[i];
        if (!runner->used || !runner->ended)
            continue;
        pthread_mutex_unlock(&list->lock);
        pthread_join(runner->thread, NULL);
        pthread_mutex_lock(&list->lock);
        runner->used = false;
    }
}

/* Under lock. */
static void start_job(struct runner *runner, struct job *job)
{
    uint64_t drained;
    ssize_t got = read(runner->cancel_fd, &drained, sizeof drained);
    (void)got;
    runner->job = job;
    runner->ended = false;
    job->facts.state = JOB_RUNNING;
    job->runner = runner;
    job->written = 0;
    job->lacks = NULL;
    json_object_set_new(job->row, "state", json_string(job_state_word(JOB_RUNNING)));
    json_set_time(job->row, "started", clock_realtime_ns(), true);
    runner->used = pthread_create(&runner->thread, NULL, runner_thread, runner) == 0;
    if (runner->used)
        return;
    job->facts.state = JOB_WAITING; /* no thread left: later */
    job->due_ns = clock_monotonic_ns() + AGAIN_NS;
    job->runner = NULL;
    json_object_set_new(job->row, "state", json_string(job_state_word(JOB_WAITING)));
}

/* Whether one that came earlier waits for the same room: then it comes first, or it might wait for ever. Under lock. */
static bool is_behind(const struct job_list *list, const struct job *job)
{
    for (const struct job *other = list->jobs; other != job; other = other->next)
        if (other->facts.state == JOB_WAITING && other->lacks &&
            (strcmp(other->lacks, "disk") == 0 ||
             (other->facts.kept == job->facts.kept &&
              identity_equal(&other->facts.ring, &job->facts.ring))))
            return true;
    return false;
}

/* Under lock. */
static void start_waiting(struct job_list *list)
{
    uint64_t now_ns = clock_monotonic_ns();
    struct job *job = list->jobs;
    for (uint32_t i = 0; i < JOBS_RUNNING_MAX; i++) {
        if (list->runner[i].used)
            continue;
        while (job && (job->facts.state != JOB_WAITING || job->due_ns > now_ns || is_behind(list, job)))
            job = job->next;
        if (!job)
            return;
        start_job(&list->runner[i], job);
    }
}

/* One whose time is over. Under store_lock, so that it stays. */
static struct job *find_expired(struct job_list *list, int64_t now_ns)
{
    pthread_mutex_lock(&list->lock);
    struct job *job = list->jobs;
    while (job && (is_under_way(job) || job->facts.expires_ns > now_ns))
        job = job->next;
    pthread_mutex_unlock(&list->lock);
    return job;
}

static void expire(struct job_list *list)
{
    struct job *job;
    int64_t now_ns = clock_realtime_ns();
    pthread_mutex_lock(&list->store_lock);
    while ((job = find_expired(list, now_ns))) {
        if (job->facts.kept && job->facts.state == JOB_DONE)
            event_log_say(list->recorder->events, "info", "kept-expired", text_of(job->row, "ring"),
                          "what was kept as %s has expired and is deleted", text_of(job->row, "name"));
        if (remove_job(list, job, NULL) != 0)
            break; /* tried again in a second */
    }
    pthread_mutex_unlock(&list->store_lock);
}

static void *scheduler_thread(void *context)
{
    struct job_list *list = context;
    pthread_setname_np(pthread_self(), "jobs");
    for (;;) {
        expire(list);
        pthread_mutex_lock(&list->lock);
        reap_runners(list);
        if (list->stop)
            break;
        start_waiting(list);
        struct timespec until = clock_monotonic_in_ms(1000);
        pthread_cond_timedwait(&list->changed, &list->lock, &until);
        pthread_mutex_unlock(&list->lock);
    }
    pthread_mutex_unlock(&list->lock);
    return NULL;
}

/* ---- what the methods do --------------------------------------------------------------------- */

static bool name_is_taken(const struct job_list *list, const char *name)
{
    for (const struct job *job = list->jobs; job && name; job = job->next)
        if (job->facts.kept && (is_under_way(job) || job->facts.state == JOB_DONE) &&
            strcmp(text_of(job->row, "name"), name) == 0)
            return true;
    return false;
}

static int check_new(struct job_list *list, const struct job_wish *wish, struct failure *failure)
{
    int code = 0;
    pthread_mutex_lock(&list->lock);
    if (list->count >= JOBS_MAX)
        code = fail(failure, ERR_TOO_LARGE, "as many jobs are known as may be (%u): delete some",
                    JOBS_MAX);
    else if (name_is_taken(list, wish->name))
        code = fail(failure, ERR_EXISTS, "something is kept as %s already", wish->name);
    pthread_mutex_unlock(&list->lock);
    return code;
}

/* Number and row, on stable storage. Under store_lock. */
static int write_new(struct job_list *list, const struct job_wish *wish, json_t **row)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, list->last + 1);
    int code = state_put_setting(list->recorder->state, NULL, SETTING_LAST, text);
    if (code != 0)
        return code;
    *row = job_row_make(++list->last, wish);
    return *row ? put_row(list, *row) : ERR_NO_MEMORY;
}

int job_list_add(struct job_list *list, const struct job_wish *wish, uint64_t *number,
                 struct failure *failure)
{
    json_t *row = NULL;
    struct job_facts facts;
    pthread_mutex_lock(&list->store_lock);
    int code = check_new(list, wish, failure);
    if (code == 0) {
        code = write_new(list, wish, &row);
        if (code == 0 && !job_row_read(row, &facts))
            code = ERR_INTERNAL;
        if (code == 0) {
            pthread_mutex_lock(&list->lock);
            code = insert_job(list, row, &facts);
            row = NULL;
            *number = facts.number;
            pthread_cond_broadcast(&list->changed);
            pthread_mutex_unlock(&list->lock);
        }
        if (code != 0)
            fail(failure, code, "the job could not be written down: %s", error_text(code));
    }
    pthread_mutex_unlock(&list->store_lock);
    json_decref(row);
    return code;
}

int job_list_find(struct job_list *list, const char *text, uint64_t *number, struct failure *failure)
{
    bool by_number = text[0] && strlen(text) < 19 && text[strspn(text, "0123456789")] == '\0';
    const struct job *found = NULL;
    pthread_mutex_lock(&list->lock);
    for (const struct job *job = list->jobs; job; job = job->next)
        if (by_number ? job->facts.number == strtoull(text, NULL, 10)
                      : job->facts.kept && strcmp(text_of(job->row, "name"), text) == 0)
            /* of several of a name, the one that is or becomes something: the others have failed */
            found = found && (is_under_way(found) || found->facts.state == JOB_DONE) ? found : job;
    if (found)
        *number = found->facts.number;
    pthread_mutex_unlock(&list->lock);
    return found ? 0 : not_found(failure);
}

int job_list_show(struct job_list *list, uint64_t number, json_t **row, struct failure *failure)
{
    pthread_mutex_lock(&list->lock);
    const struct job *job = find_job(list, number);
    *row = job ? shown(job, true) : NULL;
    pthread_mutex_unlock(&list->lock);
    return !job ? not_found(failure)
           : *row ? 0
                  : fail(failure, ERR_NO_MEMORY, "out of memory");
}

json_t *job_list_all(struct job_list *list, const char *ring)
{
    json_t *all = json_array();
    pthread_mutex_lock(&list->lock);
    for (const struct job *job = list->jobs; job; job = job->next) {
        if (ring && strcmp(text_of(job->row, "ring"), ring) != 0)
            continue;
        json_array_append_new(all, shown(job, false));
    }
    pthread_mutex_unlock(&list->lock);
    return all;
}

bool job_list_has_ended(struct job_list *list, uint64_t number)
{
    pthread_mutex_lock(&list->lock);
    const struct job *job = find_job(list, number);
    bool ended = !job || !is_under_way(job);
    pthread_mutex_unlock(&list->lock);
    return ended;
}

/* May that user end it? Under lock. */
static int check_user(const struct job *job, const char *user, struct failure *failure)
{
    if (!job)
        return not_found(failure);
    return user && strcmp(user, text_of(job->row, "user")) != 0
               ? fail(failure, ERR_PERMISSION, "only its user or an admin may do that")
               : 0;
}

/* One that waits; under store_lock. */
static int cancel_waiting(struct job_list *list, struct job *job, struct failure *failure)
{
    struct job_run run = {.list = list, .job = job};
    settings_default(&run.settings);
    fail(&run.request.failure, ERR_INTERRUPTED, "cancelled");
    json_t *row = ended_row(&run, JOB_CANCELLED, NULL);
    int code = row ? put_row(list, row) : ERR_NO_MEMORY;
    if (code != 0) {
        json_decref(row);
        pthread_mutex_lock(&list->lock);
        job->due_ns = 0;
        pthread_mutex_unlock(&list->lock);
        return fail(failure, code, "state.db could not be written: %s", error_text(code));
    }
    say_end(&run, JOB_CANCELLED, row);
    take_row(list, job, row, JOB_CANCELLED);
    return 0;
}

int job_list_cancel(struct job_list *list, uint64_t number, const char *user,
                    struct failure *failure)
{
    static const uint64_t one = 1;
    pthread_mutex_lock(&list->store_lock);
    pthread_mutex_lock(&list->lock);
    struct job *job = find_job(list, number);
    int code = check_user(job, user, failure);
    enum job_state state = code == 0 ? job->facts.state : JOB_FAILED;
    if (code == 0 && state == JOB_RUNNING) {
        job->cancel = true;
        ssize_t written = write(job->runner->cancel_fd, &one, sizeof one);
        (void)written;
    } else if (code == 0 && state == JOB_WAITING) {
        /* The scheduler gives it to nobody any more. */
        job->due_ns = UINT64_MAX;
    } else if (code == 0) {
        code = fail(failure, ERR_BUSY, "it has ended already: %s", job_state_word(state));
    }
    pthread_mutex_unlock(&list->lock);
    if (code == 0 && state == JOB_WAITING)
        code = cancel_waiting(list, job, failure);
    pthread_mutex_unlock(&list->store_lock);
    if (code != 0 || state == JOB_WAITING)
        return code;
    pthread_mutex_lock(&list->lock);
    while ((job = find_job(list, number)) && is_under_way(job) && !list->stop)
        pthread_cond_wait(&list->changed, &list->lock);
    pthread_mutex_unlock(&list->lock);
    return 0;
}

int job_list_delete(struct job_list *list, uint64_t number, const char *user,
                    struct failure *failure)
{
    int code = job_list_cancel(list, number, user, failure);
    if (code != 0 && code != ERR_BUSY)
        return code;
    pthread_mutex_lock(&list->store_lock);
    pthread_mutex_lock(&list->lock);
    struct job *job = find_job(list, number);
    bool runs = job && is_under_way(job); /* the recorder is ending, and did not wait */
    if (runs)
        job->doomed = true;
    pthread_mutex_unlock(&list->lock);
    code = job && !runs ? remove_job(list, job, failure) : 0;
    pthread_mutex_unlock(&list->store_lock);
    return code;
}

int job_list_file(struct job_list *list, uint64_t number, int *fd, json_t **row,
                  struct failure *failure)
{
    char name[JOB_FILE_NAME_SIZE];
    struct stat status;
    *fd = -1;
    int code = job_list_show(list, number, row, failure);
    if (code != 0)
        return code;
    const char *state = text_of(*row, "state");
    if (strcmp(state, job_state_word(JOB_DONE)) != 0) {
        code = fail(failure, ERR_NOT_FOUND, "job %" PRIu64 " has no file: it is %s", number, state);
    } else {
        int directory = open_directory(list, false, failure);
        job_file_name(*row, name);
        if (directory >= 0)
            *fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (directory < 0)
            code = directory;
        else if (*fd < 0)
            code = fail_errno(failure, errno, "job %" PRIu64 ": its file %s", number, name);
        else if (fstat(*fd, &status) != 0 ||
                 status.st_size != json_integer_value(json_object_get(*row, "output_bytes")))
            code = fail(failure, ERR_CORRUPT, "job %" PRIu64 ": its file is not as long as it was",
                        number);
        if (directory >= 0)
            close(directory);
    }
    if (code == 0)
        return 0;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    json_decref(*row);
    *row = NULL;
    return code;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int load_setting(const char *name, const char *value, void *context)
{
    struct job_list *list = context;
    struct job_facts facts;
    if (strcmp(name, SETTING_LAST) == 0)
        list->last = strtoull(value, NULL, 10);
    if (strncmp(name, SETTING_JOB, sizeof SETTING_JOB - 1) != 0)
        return 0;
    json_t *row = json_loads(value, 0, NULL);
    if (!row || !job_row_complete(row) || !job_row_read(row, &facts)) {
        event_log_say(list->recorder->events, "warning", "job-unknown", "",
                      "what state.db says of a job (%.40s) is not understood, and left alone", name);
        json_decref(row);
        return 0;
    }
    return insert_job(list, row, &facts);
}

/* Those that were under way when the last recorder ended. */
static void fail_interrupted(struct job_list *list)
{
    for (struct job *job = list->jobs; job; job = job->next) {
        struct job_run run = {.list = list, .job = job};
        if (!is_under_way(job))
            continue;
        settings_default(&run.settings);
        fail(&run.request.failure, ERR_INTERRUPTED,
             "the recorder ended before it was done: start it again");
        json_t *row = ended_row(&run, JOB_FAILED, NULL);
        int code = row ? put_row(list, row) : ERR_NO_MEMORY;
        if (code != 0)
            event_log_say(list->recorder->events, "error", "job-failed", text_of(job->row, "ring"),
                          "state.db could not be written: %s", error_text(code));
        if (row)
            say_end(&run, JOB_FAILED, row);
        take_row(list, job, row, JOB_FAILED);
    }
}

/* Removes files of ours that are no job's result. */
static void clear_directory(struct job_list *list)
{
    int fd = open_directory(list, false, NULL);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(directory));) {
        uint64_t number;
        if (!job_file_number(entry->d_name, &number))
            continue;
        const struct job *job = find_job(list, number);
        if (!job || job->facts.state != JOB_DONE)
            (void)unlinkat(fd, entry->d_name, 0);
    }
    closedir(directory);
}

int job_list_open(struct recorder *recorder, struct job_list **result, struct failure *failure)
{
    struct job_list *list = calloc(1, sizeof *list);
    if (!list)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    list->recorder = recorder;
    pthread_mutex_init(&list->store_lock, NULL);
    pthread_mutex_init(&list->lock, NULL);
    clock_condition_init(&list->changed);
    int code = 0;
    for (uint32_t i = 0; i < JOBS_RUNNING_MAX; i++) {
        list->runner[i].list = list;
        list->runner[i].cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (list->runner[i].cancel_fd < 0)
            code = fail_errno(failure, errno, "no descriptor left");
    }
    if (code == 0) {
        code = state_settings(recorder->state, NULL, load_setting, list);
        if (code != 0)
            fail(failure, code, "state.db in %s: %s", recorder->directory, error_text(code));
    }
    if (code == 0) {
        fail_interrupted(list);
        clear_directory(list);
        int error = pthread_create(&list->scheduler, NULL, scheduler_thread, list);
        list->scheduling = error == 0;
        if (error != 0)
            code = fail_errno(failure, error, "no thread left");
    }
    *result = list;
    if (code != 0)
        job_list_close(result);
    return code;
}

void job_list_close(struct job_list **slot)
{
    struct job_list *list = *slot;
    if (!list)
        return;
    pthread_mutex_lock(&list->lock);
    list->stop = true;
    pthread_cond_broadcast(&list->changed);
    pthread_mutex_unlock(&list->lock);
    if (list->scheduling)
        pthread_join(list->scheduler, NULL);
    for (uint32_t i = 0; i < JOBS_RUNNING_MAX; i++) {
        if (list->runner[i].used)
            pthread_join(list->runner[i].thread, NULL);
        if (list->runner[i].cancel_fd >= 0)
            close(list->runner[i].cancel_fd);
    }
    for (struct job *job = list->jobs, *next; job; job = next) {
        next = job->next;
        free_job(job);
    }
    pthread_cond_destroy(&list->changed);
    pthread_mutex_destroy(&list->lock);
    pthread_mutex_destroy(&list->store_lock);
    free(list);
    *slot = NULL;
}
