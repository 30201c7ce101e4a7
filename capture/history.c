/*
 * history.c - see history.h.
 *
 * The thread remembers the accounts of a second ago, by ring and interface name, and writes the
 * differences: all rows of a second in one transaction, none where nothing has changed. Differences
 * are modulo 2^64, as in_flight may fall: so in every row, as in every sum of rows, seen is the sum
 * of the other lines (promise P6).
 *
 * Drops are told when they begin and when there have been none for DROPS_QUIET_S: a loss that comes
 * and goes is one.
 */
#include "history.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "catalog_care.h"
#include "clock.h"
#include "event_log.h"
#include "mending.h"
#include "recording.h"
#include "standing.h"

#define KEEP_SECONDS (7 * INT64_C(86400)) /* of one-second rows; then minutes */
#define TRIM_S 600
#define DROPS_QUIET_S 10
#define SUBJECTS_MAX 8192u /* interfaces of all rings that are remembered one by one */
#define BUCKETS 4096u

/* An interface name of a ring. */
struct subject {
    struct identity ring;
    char interface[INTERFACE_NAME_MAX + 1];
    struct account before; /* a second ago */
    struct account now;
    bool seen;
    uint32_t next; /* in its bucket, + 1 */
};

/* Loss of one ring, by cause. */
struct loss {
    struct identity ring;
    char name[RING_NAME_MAX + 1];
    uint64_t packets[ACCOUNT_LINES]; /* since it began */
    unsigned quiet_s[ACCOUNT_LINES];
    bool going[ACCOUNT_LINES];
};

struct history {
    struct recorder *recorder;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;

    /* the thread's */
    struct subject *subject;
    uint32_t subjects, subject_room;
    uint32_t bucket[BUCKETS]; /* number of a subject + 1, 0: none */
    struct loss *loss;
    uint32_t losses, loss_room;
    struct history_row *row;
    uint32_t rows, row_room;
    int64_t trimmed_s;
    bool failing;
};

static const enum account_line loss_lines[] = {ACCOUNT_dropped_queue, ACCOUNT_dropped_kernel,
                                               ACCOUNT_lost_disk, ACCOUNT_refused};

/* ---- collecting
 * ------------------------------------------------------------------------------------ */

struct collect {
    struct history *history;
    const struct ring_entry *entry;
};

static bool grow(void **array, uint32_t *room, uint32_t count, size_t bytes)
{
    if (count < *room)
        return true;
    uint32_t more = *room ? 2 * *room : 16;
    void *grown = realloc(*array, more * bytes);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static uint32_t bucket_of(const struct identity *ring, const char *interface)
{
    uint32_t hash = ring->byte[0];
    for (const char *c = interface; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    return (hash ^ hash >> 16) % BUCKETS;
}

/* Found, or made; null where there is no room. */
static struct subject *subject_of(struct history *history, const struct identity *ring,
                                  const char *interface)
{
    uint32_t *bucket = &history->bucket[bucket_of(ring, interface)];
    for (uint32_t at = *bucket; at > 0; at = history->subject[at - 1].next)
        if (identity_equal(&history->subject[at - 1].ring, ring) &&
            strcmp(history->subject[at - 1].interface, interface) == 0)
            return &history->subject[at - 1];
    bool is_other = strcmp(interface, OTHER_INTERFACES) == 0;
    if ((history->subjects >= SUBJECTS_MAX && !is_other) ||
        !grow((void **)&history->subject, &history->subject_room, history->subjects,
              sizeof *history->subject))
        return NULL;
    struct subject *made = &history->subject[history->subjects++];
    *made = (struct subject){.ring = *ring, .next = *bucket};
    memcpy(made->interface, interface, strnlen(interface, INTERFACE_NAME_MAX));
    *bucket = history->subjects;
    return made;
}

static void collect_account(int64_t stream, const char *name, uint16_t link_type,
                            const struct account *account, void *context)
{
    const struct collect *collect = context;
    struct history *history = collect->history;
    const struct identity *ring = &collect->entry->row.ring;
    (void)stream;
    (void)link_type;
    struct subject *found = subject_of(history, ring, name);
    if (!found) /* without memory, or with too many: together */
        found = subject_of(history, ring, OTHER_INTERFACES);
    if (!found)
        return;
    if (!found->seen)
        found->now = (struct account){0};
    found->seen = true;
    account_add(&found->now, account);
}

static bool is_change(const struct account *change)
{
    static const struct account none;
    return memcmp(change, &none, sizeof none) != 0;
}

static struct account difference(const struct account *now, const struct account *before)
{
    struct account change;
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        change.packets[line] = now->packets[line] - before->packets[line];
        change.bytes[line] = now->bytes[line] - before->bytes[line];
    }
    change.stored_bytes = now->stored_bytes - before->stored_bytes;
    change.cut_packets = now->cut_packets - before->cut_packets;
    return change;
}

/* ---- losses
 * ---------------------------------------------------------------------------------------- */

static struct loss *loss_of(struct history *history, const struct ring_entry *entry)
{
    for (uint32_t i = 0; i < history->losses; i++)
        if (identity_equal(&history->loss[i].ring, &entry->row.ring))
            return &history->loss[i];
    if (!grow((void **)&history->loss, &history->loss_room, history->losses, sizeof *history->loss))
        return NULL;
    struct loss *loss = &history->loss[history->losses++];
    *loss = (struct loss){.ring = entry->row.ring};
    memcpy(loss->name, entry->row.name, sizeof loss->name);
    return loss;
}

static void watch_loss(struct history *history, const struct ring_entry *entry,
                       const struct account *change)
{
    struct event_log *events = history->recorder->events;
    struct loss *loss = loss_of(history, entry);
    for (size_t i = 0; loss && i < sizeof loss_lines / sizeof loss_lines[0]; i++) {
        enum account_line line = loss_lines[i];
        if (change->packets[line] > 0) {
            if (!loss->going[line]) {
                loss->packets[line] = 0;
                event_log_say(events, "warning", "drops-begin", loss->name,
                              "packets are being lost: %s", account_help(line));
            }
            loss->going[line] = true;
            loss->packets[line] += change->packets[line];
            loss->quiet_s[line] = 0;
        } else if (loss->going[line] && ++loss->quiet_s[line] >= DROPS_QUIET_S) {
            loss->going[line] = false;
            event_log_say(events, "info", "drops-end", loss->name,
                          "no packets lost for %d s; %" PRIu64 " were: %s", DROPS_QUIET_S,
                          loss->packets[line], account_help(line));
        }
    }
}

/* ---- a second
 * -------------------------------------------------------------------------------------- */

static void add_row(struct history *history, const struct subject *subject, int64_t second,
                    const struct account *change)
{
    if (!grow((void **)&history->row, &history->row_room, history->rows, sizeof *history->row))
        return;
    struct history_row *row = &history->row[history->rows++];
    *row = (struct history_row){.ring = subject->ring, .second = second, .change = *change};
    memcpy(row->interface, subject->interface, sizeof row->interface);
}

static void ring_second(struct history *history, struct ring_entry *entry, int64_t second)
{
    struct collect collect = {.history = history, .entry = entry};
    struct account sum = {0};
    ring_entry_accounts(entry, collect_account, &collect);
    for (uint32_t i = 0; i < history->subjects; i++) {
        struct subject *subject = &history->subject[i];
        if (!subject->seen || !identity_equal(&subject->ring, &entry->row.ring))
            continue;
        struct account change = difference(&subject->now, &subject->before);
        subject->before = subject->now;
        if (!is_change(&change))
            continue;
        account_add(&sum, &change);
        add_row(history, subject, second, &change);
    }
    atomic_store(&entry->bytes_per_s, sum.stored_bytes);
    watch_loss(history, entry, &sum);
}

static void write_rows(struct history *history)
{
    if (history->rows == 0)
        return;
    int result = state_put_history(history->recorder->state, history->row, history->rows);
    if (result != 0 && !history->failing)
        event_log_say(history->recorder->events, "warning", "history-lost", "",
                      "the history cannot be written to state.db: %s", error_text(result));
    history->failing = result != 0;
    history->rows = 0;
}

/* A ring that is gone takes its memory with it. */
static void forget_unseen(struct history *history)
{
    uint32_t kept = 0;
    memset(history->bucket, 0, sizeof history->bucket);
    for (uint32_t i = 0; i < history->subjects; i++) {
        if (!history->subject[i].seen)
            continue;
        struct subject *subject = &history->subject[kept++];
        *subject = history->subject[i];
        uint32_t *bucket = &history->bucket[bucket_of(&subject->ring, subject->interface)];
        subject->next = *bucket;
        *bucket = kept;
    }
    history->subjects = kept;
}

static void one_second(struct history *history, int64_t second)
{
    struct ring_registry *registry = &history->recorder->registry;
    struct ring_look *looks;
    uint32_t count;
    if (ring_registry_look(registry, NULL, &looks, &count, NULL) != 0)
        return;
    bool all = true;
    for (uint32_t i = 0; i < history->subjects; i++)
        history->subject[i].seen = false;
    for (uint32_t i = 0; i < count; i++) {
        all &= looks[i].live;
        if (looks[i].live)
            ring_second(history, looks[i].entry, second);
    }
    ring_registry_look_away(registry, &looks, count);
    write_rows(history);
    if (all) /* a ring that is being changed comes back with its accounts */
        forget_unseen(history);
}

static void now_and_then(struct history *history, int64_t second)
{
    struct recorder *recorder = history->recorder;
    recordings_reap(recorder);
    standing_revive(recorder);
    if (second - history->trimmed_s >= TRIM_S || second < history->trimmed_s) {
        history->trimmed_s = second;
        (void)state_history_trim(recorder->state, second, KEEP_SECONDS);
    }
    catalog_care_watch(recorder);
    mending_watch(recorder, second);
}

static void *history_thread(void *context)
{
    struct history *history = context;
    pthread_setname_np(pthread_self(), "history");
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    bool stop = false;
    while (!stop) {
        due.tv_sec++;
        pthread_mutex_lock(&history->lock);
        while (!history->stop && pthread_cond_timedwait(&history->wake, &history->lock, &due) == 0)
            ;
        stop = history->stop;
        pthread_mutex_unlock(&history->lock);
        struct timespec wall, now;
        clock_gettime(CLOCK_REALTIME, &wall);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > due.tv_sec + 1) /* held up: what was missed is in this row */
            due = now;
        one_second(history, wall.tv_sec);
        now_and_then(history, wall.tv_sec);
    }
    return NULL;
}

/* ---- opening and closing
 * --------------------------------------------------------------------------- */

int history_open(struct recorder *recorder, struct history **result, struct failure *failure)
{
    struct history *history = calloc(1, sizeof *history);
    if (!history)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    history->recorder = recorder;
    pthread_mutex_init(&history->lock, NULL);
    clock_condition_init(&history->wake);
    int error = pthread_create(&history->thread, NULL, history_thread, history);
    if (error != 0) {
        pthread_cond_destroy(&history->wake);
        pthread_mutex_destroy(&history->lock);
        free(history);
        return fail_errno(failure, error, "no thread for the history");
    }
    *result = history;
    return 0;
}

void history_close(struct history **slot)
{
    struct history *history = *slot;
    if (!history)
        return;
    pthread_mutex_lock(&history->lock);
    history->stop = true;
    pthread_cond_signal(&history->wake);
    pthread_mutex_unlock(&history->lock);
    pthread_join(history->thread, NULL);
    pthread_cond_destroy(&history->wake);
    pthread_mutex_destroy(&history->lock);
    free(history->subject);
    free(history->loss);
    free(history->row);
    free(history);
    *slot = NULL;
}
