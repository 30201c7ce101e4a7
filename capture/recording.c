/*
 * recording.c - see recording.h.
 *
 * Lifetime: the list holds a recording until it is found to have ended (recordings_stop,
 * recordings_reap); whoever started it or waits for it holds it, too. The last to let go joins the
 * thread, which has ended by then, and frees. The ring is used, as a job, from before the source is
 * opened until the thread has closed the pipeline.
 */
#include "recording.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "answer_json.h"
#include "event_log.h"
#include "network_interface.h"
#include "pipeline.h"
#include "rule_store.h"
#include "source.h"

struct recording_list {
    pthread_mutex_t lock;
    struct recording *first;
};

struct recording {
    struct recording *next;
    struct recorder *recorder;
    struct ring_entry *entry; /* used as a job until it has ended */
    char ring[RING_NAME_MAX + 1];
    char *interface[RECORDING_INTERFACES_MAX];
    uint32_t interfaces;
    enum recording_backend backend;
    char *key;
    int64_t since_ns;
    pthread_t thread;
    struct source *source;
    int ended_fd;

    /* under the list's lock */
    uint32_t holders;
    bool listed;
    bool ended;
    struct pipeline *pipeline; /* null once it has ended */
    struct account account;    /* final, when it has ended */
    int result;
    struct failure failure;
};

static const char *const backend_names[] = {"auto", "packet", "pcap", "generator"};

int recording_list_open(struct recording_list **list, struct failure *failure)
{
    *list = calloc(1, sizeof **list);
    if (!*list)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    pthread_mutex_init(&(*list)->lock, NULL);
    return 0;
}

void recording_list_close(struct recording_list **list)
{
    if (!*list)
        return;
    assert(!(*list)->first);
    pthread_mutex_destroy(&(*list)->lock);
    free(*list);
    *list = NULL;
}

int recording_backend(const char *name, struct failure *failure)
{
    for (int i = 0; i < (int)(sizeof backend_names / sizeof backend_names[0]); i++)
        if (strcmp(name, backend_names[i]) == 0)
            return i;
    return fail(failure, ERR_INVALID, "the backends are auto, packet, pcap and generator");
}

/* ---- the thread
 * ------------------------------------------------------------------------------------ */

/* Sizes and times that point at something that a person can change. */
static void tell_oddities(const struct recording *recording, const struct pipeline *pipeline)
{
    struct pipeline_progress progress;
    pipeline_progress((struct pipeline *)pipeline, &progress);
    if (progress.oversized > 0)
        event_log_say(recording->recorder->events, "warning", "oversized", recording->ring,
                      "%llu packets of %s were longer than the interface's MTU: merged by GRO or "
                      "LRO, not as they were on the wire",
                      (unsigned long long)progress.oversized, recording->interface[0]);
}

static void *recording_thread(void *context)
{
    struct recording *recording = context;
    struct recording_list *list = recording->recorder->recordings;
    struct failure failure = {0}, end_failure = {0};
    struct account account = {0};
    pthread_setname_np(pthread_self(), "capture");
    int result = pipeline_run(recording->pipeline, recording->source, &failure);
    bool by_itself = result != 0 && result != ERR_INTERRUPTED;
    tell_oddities(recording, recording->pipeline);

    /* The pipeline goes on existing for others until they cannot see it any more. */
    pthread_mutex_lock(&list->lock);
    struct pipeline *pipeline = recording->pipeline;
    recording->pipeline = NULL;
    pthread_mutex_unlock(&list->lock);
    int end_result = ring_entry_end_pipeline(recording->entry, &pipeline, &account, &end_failure);
    source_close(&recording->source);
    ring_registry_release(&recording->recorder->registry, &recording->entry);
    if (by_itself)
        event_log_say(recording->recorder->events, "error", "recording-failed", recording->ring,
                      "the recording has ended: %s", failure.text);
    else
        event_log_say(recording->recorder->events, "info", "recording-stopped", recording->ring,
                      "the recording has ended");

    pthread_mutex_lock(&list->lock);
    recording->account = account;
    recording->result = by_itself ? result : end_result;
    recording->failure = by_itself ? failure : end_failure;
    recording->ended = true;
    pthread_mutex_unlock(&list->lock);
    static const uint64_t one = 1;
    ssize_t written = write(recording->ended_fd, &one, sizeof one);
    (void)written;
    return NULL;
}

/* ---- starting
 * -------------------------------------------------------------------------------------- */

static int source_open(const struct recording_options *options, struct source **source,
                       struct failure *failure)
{
    if (options->backend == BACKEND_GENERATOR) {
        struct source_generator_options generator = {
            .seed = options->generator_seed,
            .packets = options->generator_packets,
        };
        return source_generator_open(&generator, source, failure);
    }
    struct source_live_options live = {
        .interface = options->interface,
        .interface_count = options->interfaces,
        .snapshot_bytes = options->snapshot_bytes,
        .buffer_bytes = options->buffer_bytes,
        .promiscuous = options->promiscuous,
        .outgoing = options->outgoing,
    };
    return options->backend == BACKEND_PCAP ? source_pcap_open(&live, source, failure)
                                            : source_packet_open(&live, source, failure);
}

/* One interface of several: the others go on. On the capture thread. */
static void interface_ended(void *context, const char *sentence)
{
    const struct recording *recording = context;
    event_log_say(recording->recorder->events, "error", "interface-ended", recording->ring, "%s",
                  sentence);
}

static void recording_free(struct recording *recording)
{
    for (uint32_t i = 0; i < recording->interfaces; i++)
        free(recording->interface[i]);
    if (recording->ended_fd >= 0)
        close(recording->ended_fd);
    free(recording->key);
    free(recording);
}

static struct recording *recording_new(struct recorder *recorder, const char *ring,
                                       const struct recording_options *options)
{
    struct recording *recording = calloc(1, sizeof *recording);
    if (!recording)
        return NULL;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    recording->since_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    recording->recorder = recorder;
    recording->backend = options->backend;
    memcpy(recording->ring, ring, strlen(ring) + 1); /* the registry knows it: it fits */
    recording->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (options->key)
        recording->key = strdup(options->key);
    bool whole = recording->ended_fd >= 0 && (recording->key || !options->key);
    for (uint32_t i = 0; i < options->interfaces && whole; i++) {
        recording->interface[i] = strdup(options->interface[i]);
        whole = recording->interface[i] != NULL;
        recording->interfaces += whole;
    }
    if (whole)
        return recording;
    recording_free(recording);
    return NULL;
}

/* Under the list's lock. The same packets twice in one ring are a mistake. */
static int check_twice(const struct recording_list *list, const struct recording *wanted,
                       struct failure *failure)
{
    for (const struct recording *one = list->first; one; one = one->next)
        for (uint32_t i = 0; i < one->interfaces && !one->ended; i++)
            for (uint32_t k = 0; k < wanted->interfaces; k++)
                if (strcmp(one->ring, wanted->ring) == 0 &&
                    strcmp(one->interface[i], wanted->interface[k]) == 0)
                    return fail(failure, ERR_BUSY, "%s is being recorded into ring %s already",
                                one->interface[i], one->ring);
    return 0;
}

/* Puts it on the list, from where it is seen, and starts its thread. */
static int go(struct recording *recording, struct failure *failure)
{
    struct recording_list *list = recording->recorder->recordings;
    pthread_mutex_lock(&list->lock);
    int result = check_twice(list, recording, failure);
    if (result == 0 && recorder_stopping(recording->recorder))
        result = fail(failure, ERR_CLOSED, "the recorder is ending");
    if (result == 0) {
        int error = pthread_create(&recording->thread, NULL, recording_thread, recording);
        if (error != 0)
            result = fail_errno(failure, error, "no thread for the recording");
    }
    if (result == 0) {
        recording->holders = 2; /* the list, and the caller */
        recording->listed = true;
        recording->next = list->first;
        list->first = recording;
    }
    pthread_mutex_unlock(&list->lock);
    return result;
}

int recording_start(struct recorder *recorder, const char *ring,
                    const struct recording_options *options, struct recording **result,
                    struct failure *failure)
{
    struct ring_entry *entry;
    int code = ring_registry_use(&recorder->registry, ring, &entry, failure);
    if (code != 0)
        return code;
    struct recording *recording = recording_new(recorder, ring, options);
    if (!recording) {
        code = fail(failure, ERR_NO_MEMORY, "out of memory or descriptors");
        goto release;
    }
    recording->entry = entry;
    for (uint32_t i = 0; i < options->interfaces && options->backend != BACKEND_GENERATOR; i++) {
        const char *off = network_unmerge(options->interface[i]);
        if (off)
            event_log_say(recorder->events, "info", "offload-off", ring,
                          "%s was on at %s, and has been switched off: it merges packets", off,
                          options->interface[i]);
    }
    code = source_open(options, &recording->source, failure);
    if (code != 0)
        goto free;
    struct pipeline_options pipeline = {
        .interface_ended = interface_ended,
        .context = recording,
        .ring = entry->ring,
        .packets_per_s =
            options->backend == BACKEND_GENERATOR ? options->generator_packets_per_s : 0,
    };
    struct duplicate_options duplicates;
    code = rule_store_apply(entry, &pipeline, &duplicates, failure);
    if (code == 0)
        code = pipeline_open(&pipeline, &recording->pipeline, failure);
    if (code != 0)
        goto close_source;
    code = go(recording, failure);
    if (code != 0)
        goto close_pipeline;
    event_log_say(
        recorder->events, "info", "recording-started", recording->ring, "recording %s%s by %s",
        recording->interfaces ? recording->interface[0] : "what is made up",
        recording->interfaces > 1 ? " and others" : "", backend_names[recording->backend]);
    *result = recording;
    return 0;

close_pipeline:
    pipeline_close(&recording->pipeline);
close_source:
    source_close(&recording->source);
free:
    recording_free(recording);
release:
    ring_registry_release(&recorder->registry, &entry);
    return code;
}

/* ---- while it runs
 * --------------------------------------------------------------------------------- */

bool recording_runs(struct recorder *recorder, const char *ring, const char *key)
{
    pthread_mutex_lock(&recorder->recordings->lock);
    const struct recording *one = recorder->recordings->first;
    while (one &&
           (one->ended || !one->key || strcmp(one->key, key) != 0 || strcmp(one->ring, ring) != 0))
        one = one->next;
    pthread_mutex_unlock(&recorder->recordings->lock);
    return one != NULL;
}

int recording_ended_fd(const struct recording *recording)
{
    return recording->ended_fd;
}

bool recording_has_ended(struct recording *recording)
{
    pthread_mutex_lock(&recording->recorder->recordings->lock);
    bool ended = recording->ended;
    pthread_mutex_unlock(&recording->recorder->recordings->lock);
    return ended;
}

void recording_stop(struct recording *recording)
{
    struct recording_list *list = recording->recorder->recordings;
    pthread_mutex_lock(&list->lock);
    if (recording->pipeline)
        pipeline_stop(recording->pipeline);
    pthread_mutex_unlock(&list->lock);
}

struct progress {
    json_t *interfaces;
    struct account total;
};

static void progress_interface(const struct stream_interface_state *state, void *context)
{
    struct progress *progress = context;
    account_add(&progress->total, &state->account);
    json_array_append_new(progress->interfaces,
                          json_pack("{s:o, s:o}", "name", json_text(state->description.name),
                                    "account", json_account(&state->account)));
}

json_t *recording_progress(struct recording *recording)
{
    struct recording_list *list = recording->recorder->recordings;
    struct progress progress = {.interfaces = json_array()};
    json_int_t bytes_per_s = 0;
    pthread_mutex_lock(&list->lock);
    if (recording->pipeline) {
        pipeline_interfaces(recording->pipeline, progress_interface, &progress);
        bytes_per_s = (json_int_t)atomic_load(&recording->entry->bytes_per_s);
    } else {
        progress.total = recording->account;
    }
    pthread_mutex_unlock(&list->lock);
    return json_pack("{s:o, s:o, s:I}", "account", json_account(&progress.total), "interfaces",
                     progress.interfaces, "bytes_per_s", bytes_per_s);
}

/* ---- the end
 * --------------------------------------------------------------------------------------- */

int recording_wait(struct recording *recording, struct account *account, struct failure *failure)
{
    struct pollfd ended = {.fd = recording->ended_fd, .events = POLLIN};
    while (poll(&ended, 1, -1) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&recording->recorder->recordings->lock);
    assert(recording->ended);
    if (account)
        *account = recording->account;
    int result = recording->result;
    if (failure && result != 0)
        *failure = recording->failure;
    pthread_mutex_unlock(&recording->recorder->recordings->lock);
    return result;
}

/* Under the list's lock. Whether it is the caller's to free, after unlocking. */
static bool let_go(struct recording *recording)
{
    return --recording->holders == 0;
}

static void bury(struct recording *recording)
{
    pthread_join(recording->thread, NULL);
    recording_free(recording);
}

void recording_release(struct recording **slot)
{
    struct recording *recording = *slot;
    struct recording_list *list = recording->recorder->recordings;
    pthread_mutex_lock(&list->lock);
    bool last = let_go(recording);
    pthread_mutex_unlock(&list->lock);
    if (last)
        bury(recording);
    *slot = NULL;
}

static void unlist(struct recording_list *list, struct recording *recording)
{
    struct recording **link = &list->first;
    while (*link != recording)
        link = &(*link)->next;
    *link = recording->next;
    recording->listed = false;
}

/* A recording of the ring that has not ended (null: any, ended or not): stopped, off the list, and
 * held for the caller. */
static struct recording *take_one(struct recording_list *list, const char *ring)
{
    pthread_mutex_lock(&list->lock);
    struct recording *found = list->first;
    while (found && ring && (found->ended || strcmp(found->ring, ring) != 0))
        found = found->next;
    if (found) {
        unlist(list, found); /* the list's hold is ours now */
        if (found->pipeline)
            pipeline_stop(found->pipeline);
    }
    pthread_mutex_unlock(&list->lock);
    return found;
}

uint32_t recordings_stop(struct recorder *recorder, const char *ring, struct account *account,
                         struct failure *failure)
{
    struct recording *taken[RECORDING_INTERFACES_MAX];
    uint32_t count = 0, all = 0;
    *account = (struct account){0};
    do {
        count = 0; /* all are asked to stop before the first one is waited for */
        while (count < RECORDING_INTERFACES_MAX &&
               (taken[count] = take_one(recorder->recordings, ring)))
            count++;
        for (uint32_t i = 0; i < count; i++) {
            struct account one;
            struct failure why = {0};
            if (recording_wait(taken[i], &one, &why) != 0 && failure && failure->code == 0)
                *failure = why;
            account_add(account, &one);
            recording_release(&taken[i]);
        }
        all += count;
    } while (count > 0);
    return all;
}

void recordings_reap(struct recorder *recorder)
{
    struct recording_list *list = recorder->recordings;
    for (;;) {
        pthread_mutex_lock(&list->lock);
        struct recording *found = list->first;
        while (found && !found->ended)
            found = found->next;
        bool last = false;
        if (found) {
            unlist(list, found);
            last = let_go(found);
        }
        pthread_mutex_unlock(&list->lock);
        if (!found)
            return;
        if (last)
            bury(found);
    }
}

/* How long the capture thread has a batch of packets, from when it gets it to when it gives it back. */
static json_t *batches_json(struct pipeline *pipeline)
{
    struct pipeline_progress progress;
    pipeline_progress(pipeline, &progress);
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "packets", (json_int_t)progress.packets, "count",
                     (json_int_t)progress.batches, "ns", (json_int_t)progress.batch_ns, "ns_max",
                     (json_int_t)progress.batch_ns_max, "ns_min",
                     (json_int_t)progress.batch_ns_min);
}

void recordings_describe(struct recorder *recorder, const char *ring, json_t *array)
{
    struct recording_list *list = recorder->recordings;
    pthread_mutex_lock(&list->lock);
    for (const struct recording *one = list->first; one; one = one->next) {
        if (one->ended || strcmp(one->ring, ring) != 0)
            continue;
        json_t *interfaces = json_array();
        for (uint32_t i = 0; i < one->interfaces; i++)
            json_array_append_new(interfaces, json_text(one->interface[i]));
        json_t *object = json_pack("{s:o, s:s}", "interfaces", interfaces, "backend",
                                   backend_names[one->backend]);
        json_set_time(object, "since", one->since_ns, true);
        if (one->pipeline)
            json_object_set_new(object, "batches", batches_json(one->pipeline));
        json_array_append_new(array, object);
    }
    pthread_mutex_unlock(&list->lock);
}
