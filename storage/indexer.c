/*
 * indexer.c - see indexer.h.
 *
 * The happy path: frames come, the thread wakes when some are there, adds them to the one key index that it has, and gives their buffers
 * back. With a ledger the key index is encoded, what closes the segment is written, and the next frame begins a new one.
 *
 * What can be missing is a buffer for what closes the segment. Then frames wait in the queue, and the stream takes no new buffers
 * (indexer_wants_buffers()), as it did when it sealed its segments itself.
 *
 * A segment that has ended is left by the stream, without a ledger: its frames are added for nothing, and the next segment's first one
 * begins the key index anew. One that ends while it is being closed is left by segment_ledger_write().
 */
#include "indexer.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "flow_frames.h"

#define JOBS (INDEXER_FRAMES + INDEXER_LEDGERS)
#define NOTES (INDEXER_FRAMES + 1) /* pieces: of frames that wait, and the one that is being filled */
#define WAKE_FRAMES 4u     /* that are worth waking the thread for */
#define BUFFER_WAIT_MS 2
#define OTHERS_WAIT_MS 1
#define FIXED_BYTES 8192u  /* of a key index, beside what grows with the data */
#define RATE_SHIFT 16      /* bytes of key index for each byte of data, as a fraction */
#define RATE_FIRST ((1u << RATE_SHIFT) / 24)

struct job {
    struct frame_buffer *buffer; /* null: of a ledger */
    struct flow_note *note;
    struct frame_info info;
    uint32_t room_bytes;
    bool first;
    struct segment_ledger *ledger;
    bool indexed;
};

struct indexer {
    struct keeper *keeper;
    struct stream *stream;
    struct flow_index *flows; /* the thread's */
    struct segment_ledger ledger[INDEXER_LEDGERS];
    pthread_t thread;
    atomic_bool wants_buffers;

    pthread_mutex_t lock;
    pthread_cond_t work, room;
    bool sleeping, waiting, stop;
    uint32_t wake_at; /* frames that are left when it is worth waking who waits: not for every single one */
    struct job job[JOBS]; /* a job's place is the thread's until it is done */
    uint32_t first_job, jobs, frames;
    bool free[INDEXER_LEDGERS];
    struct flow_note *notes; /* NOTES pieces of FLOW_NOTES_MAX */
    struct flow_note *free_note[NOTES]; /* the one that was used last comes first: it is in the caches */
    uint32_t free_notes;
    /* For indexer_bound(): segments begun by the stream and by the thread, and what is known of the latter's. */
    uint64_t segments_handed, segments_seen;
    uint64_t bound;
    uint32_t data_end;
    bool stopped;
    uint64_t rate;
};

static struct pool *pool_of(const struct indexer *indexer)
{
    return keeper_options(indexer->keeper)->pool;
}

/* ---- the thread -------------------------------------------------------------------------------- */

static void frame_add(struct indexer *indexer, struct job *job)
{
    struct flow_index *flows = indexer->flows;
    if (job->first)
        flow_index_clear(flows);
    uint32_t notes = job->info.packets < FLOW_NOTES_MAX ? job->info.packets : FLOW_NOTES_MAX;
    flow_frame_add(flows, keeper_options(indexer->keeper)->keys_of, job->buffer->bytes, &job->info, job->note, notes, job->room_bytes);
    pool_let_go(pool_of(indexer), job->buffer);
    uint64_t bound = flow_index_bound(flows);
    bool stopped = flow_index_stopped(flows);
    pthread_mutex_lock(&indexer->lock);
    indexer->segments_seen += job->first;
    indexer->bound = bound;
    indexer->data_end = job->info.offset + job->info.frame_bytes;
    indexer->stopped = stopped;
    indexer->rate = (bound << RATE_SHIFT) / indexer->data_end;
    pthread_mutex_unlock(&indexer->lock);
}

static void ledger_close(struct indexer *indexer, struct job *job)
{
    struct segment_ledger *ledger = job->ledger;
    if (job->indexed)
        segment_ledger_encode(ledger, indexer->flows, keeper_options(indexer->keeper)->verdicts);
    else
        ledger->segment->coarse = true;
    while (segment_ledger_write(ledger, indexer->keeper, indexer->stream) == ERR_AGAIN) {
        atomic_store(&indexer->wants_buffers, true);
        pool_wait(pool_of(indexer), BUFFER_WAIT_MS);
    }
    atomic_store(&indexer->wants_buffers, false);
}

/* Under the lock. */
static void job_done(struct indexer *indexer, const struct job *job)
{
    if (job->buffer) {
        indexer->frames--;
        indexer->free_note[indexer->free_notes++] = job->note;
    } else {
        indexer->free[job->ledger - indexer->ledger] = true;
    }
    indexer->first_job = (indexer->first_job + 1) % JOBS;
    indexer->jobs--;
    if (indexer->waiting && indexer->frames <= indexer->wake_at) {
        indexer->waiting = false;
        pthread_cond_signal(&indexer->room);
    }
}

static void *serve(void *context)
{
    struct indexer *indexer = context;
    pthread_setname_np(pthread_self(), "tapeloop-index");
    pthread_mutex_lock(&indexer->lock);
    for (;;) {
        while (indexer->jobs == 0 && !indexer->stop) {
            indexer->sleeping = true;
            pthread_cond_wait(&indexer->work, &indexer->lock);
        }
        indexer->sleeping = false;
        if (indexer->jobs == 0)
            break;
        struct job *job = &indexer->job[indexer->first_job];
        pthread_mutex_unlock(&indexer->lock);
        if (job->buffer)
            frame_add(indexer, job);
        else
            ledger_close(indexer, job);
        pthread_mutex_lock(&indexer->lock);
        job_done(indexer, job);
    }
    pthread_mutex_unlock(&indexer->lock);
    return NULL;
}

/* ---- opening ------------------------------------------------------------------------------------ */

static void indexer_free(struct indexer *indexer)
{
    for (uint32_t i = 0; i < INDEXER_LEDGERS; i++)
        segment_ledger_close(&indexer->ledger[i]);
    flow_index_close(&indexer->flows);
    free(indexer->notes);
    pthread_cond_destroy(&indexer->room);
    pthread_cond_destroy(&indexer->work);
    pthread_mutex_destroy(&indexer->lock);
    free(indexer);
}

int indexer_open(struct keeper *keeper, struct stream *stream, struct indexer **result)
{
    struct indexer *indexer = calloc(1, sizeof *indexer);
    if (!indexer)
        return ERR_NO_MEMORY;
    uint64_t slot_bytes = keeper_options(keeper)->slot_bytes;
    indexer->keeper = keeper;
    indexer->stream = stream;
    indexer->rate = RATE_FIRST;
    pthread_mutex_init(&indexer->lock, NULL);
    pthread_cond_init(&indexer->work, NULL);
    clock_condition_init(&indexer->room);
    indexer->notes = malloc(NOTES * FLOW_NOTES_MAX * sizeof *indexer->notes); /* 8 MiB, of which what is used is touched */
    for (uint32_t i = 0; i < NOTES && indexer->notes; i++)
        indexer->free_note[indexer->free_notes++] = indexer->notes + i * FLOW_NOTES_MAX;
    int code = indexer->notes ? flow_index_open(slot_bytes, &indexer->flows) : ERR_NO_MEMORY;
    if (code == 0 && keeper_options(keeper)->verdicts)
        flow_index_expect_verdicts(indexer->flows);
    for (uint32_t i = 0; i < INDEXER_LEDGERS && code == 0; i++) {
        code = segment_ledger_open(&indexer->ledger[i], slot_bytes);
        indexer->free[i] = true;
    }
    if (code != 0)
        goto undo;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int answer = pthread_create(&indexer->thread, NULL, serve, indexer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (answer != 0)
        goto undo;
    *result = indexer;
    return 0;
undo:
    indexer_free(indexer);
    return ERR_NO_MEMORY;
}

void indexer_close(struct indexer **slot)
{
    struct indexer *indexer = *slot;
    if (!indexer)
        return;
    pthread_mutex_lock(&indexer->lock);
    indexer->stop = true;
    pthread_cond_signal(&indexer->work);
    pthread_mutex_unlock(&indexer->lock);
    pthread_join(indexer->thread, NULL);
    indexer_free(indexer);
    *slot = NULL;
}

/* ---- the capture thread -------------------------------------------------------------------------- */

/* Unlocks, then wakes the thread: the other way round it would wake only to wait for the lock. */
static void unlock_and_wake(struct indexer *indexer, bool worth_it)
{
    bool wake = worth_it && indexer->sleeping;
    indexer->sleeping = indexer->sleeping && !wake;
    pthread_mutex_unlock(&indexer->lock);
    if (wake)
        pthread_cond_signal(&indexer->work);
}

struct flow_note *indexer_hold(struct indexer *indexer, struct frame_buffer *buffer)
{
    struct flow_note *note = NULL;
    pthread_mutex_lock(&indexer->lock);
    if (indexer->frames < INDEXER_FRAMES && pool_hold(pool_of(indexer), buffer))
        note = indexer->free_note[--indexer->free_notes];
    unlock_and_wake(indexer, !note && indexer->jobs > 0);
    return note;
}

void indexer_let_go(struct indexer *indexer, struct frame_buffer *buffer, struct flow_note *note)
{
    pool_let_go(pool_of(indexer), buffer);
    pthread_mutex_lock(&indexer->lock);
    indexer->free_note[indexer->free_notes++] = note;
    pthread_mutex_unlock(&indexer->lock);
}

static struct job *job_put(struct indexer *indexer)
{
    assert(indexer->jobs < JOBS);
    return &indexer->job[(indexer->first_job + indexer->jobs++) % JOBS];
}

void indexer_frame(struct indexer *indexer, struct frame_buffer *buffer, struct flow_note *note, bool first, uint32_t room_bytes)
{
    struct frame_info info;
    int parsed = frame_parse(buffer->bytes, buffer->length, &info);
    assert(parsed == 0); /* we made it */
    pthread_mutex_lock(&indexer->lock);
    struct job *job = job_put(indexer);
    job->buffer = buffer;
    job->note = note;
    job->info = info;
    job->first = first;
    job->room_bytes = room_bytes;
    indexer->frames++;
    indexer->segments_handed += first;
    unlock_and_wake(indexer, indexer->frames >= WAKE_FRAMES);
}

struct segment_ledger *indexer_ledger(struct indexer *indexer)
{
    struct segment_ledger *ledger = NULL;
    pthread_mutex_lock(&indexer->lock);
    for (uint32_t i = 0; i < INDEXER_LEDGERS && !ledger; i++)
        if (indexer->free[i]) {
            indexer->free[i] = false;
            ledger = &indexer->ledger[i];
        }
    unlock_and_wake(indexer, !ledger);
    return ledger;
}

void indexer_seal(struct indexer *indexer, struct segment_ledger *ledger, bool indexed)
{
    pthread_mutex_lock(&indexer->lock);
    struct job *job = job_put(indexer);
    job->buffer = NULL;
    job->ledger = ledger;
    job->indexed = indexed;
    unlock_and_wake(indexer, true);
}

void indexer_wait(struct indexer *indexer, int timeout_ms)
{
    pthread_mutex_lock(&indexer->lock);
    if (indexer->jobs == 0 && timeout_ms > OTHERS_WAIT_MS)
        timeout_ms = OTHERS_WAIT_MS; /* other streams hold the buffers: nobody will say when they do not */
    indexer->wake_at = indexer->frames / 2;
    indexer->waiting = true;
    struct timespec until = clock_monotonic_in_ms(timeout_ms);
    pthread_cond_timedwait(&indexer->room, &indexer->lock, &until);
    indexer->waiting = false;
    pthread_mutex_unlock(&indexer->lock);
}

bool indexer_wants_buffers(const struct indexer *indexer)
{
    return atomic_load_explicit(&indexer->wants_buffers, memory_order_relaxed);
}

uint64_t indexer_bound(struct indexer *indexer, uint32_t data_end)
{
    pthread_mutex_lock(&indexer->lock);
    bool seen = indexer->segments_seen == indexer->segments_handed && indexer->segments_seen > 0;
    uint64_t bound = seen ? indexer->bound : FIXED_BYTES;
    uint32_t known = seen ? indexer->data_end : 0;
    if (data_end > known && !(seen && indexer->stopped))
        bound += ((data_end - known) * indexer->rate >> RATE_SHIFT) * 5 / 4;
    pthread_mutex_unlock(&indexer->lock);
    return bound;
}
