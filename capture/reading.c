/*
 * reading.c - see reading.h.
 *
 * The happy path: what has been taken is made durable, a worker is started and given its job, the
 * disks (read-only descriptors, opened for it) and every segment that may matter; it reads, we
 * relay; DONE is the end.
 *
 * Following: ten times a second the open segments are compared with what was sent. As soon as the
 * ring has opened or sealed one since the last full look, there is another full look, so that a
 * segment that came and went in between is not missed, and none is sent before those of its stream
 * that precede it. Nothing is sent before the worker has caught up with what was sent before: a
 * slow reader of the output makes the updates rarer, never the recorder wait. When the ring has
 * turned past what was not sent yet, positions tell so, and the time is named as a gap.
 *
 * Failure: a worker that dies, or says what it may not, ends the job and nothing else; but one that
 * had waited for it and has died before it could know all of it has written nothing yet, and another
 * is started. A client that goes has its worker killed.
 */
#include "reading.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "answer_json.h"
#include "catalog_care.h"
#include "classifier.h"
#include "clock.h"
#include "event_log.h"
#include "methods.h"
#include "key_run.h"
#include "run_care.h"
#include "steno_query.h"
#include "verdict_care.h"

#define FLUSH_MS 10000
#define FOLLOW_NS 100000000ull /* between two looks at the ring */
#define LOOK_SHARE 10          /* full looks take at most a tenth of the time */
#define FOLLOW_LATE_NS \
    2000000000 /* after its end a range is followed for a flush window and this */
#define RELAY_MS 200
#define READS_NS 1000000000ull /* a worker that has asked no disk for so long has no turn there (pressure.h) */
#define MENDER_WAIT_MS 5
#define NO_DISK UINT32_MAX
#define SEGMENTS_A_MESSAGE \
    ((WORKER_MESSAGE_BYTES_MAX - sizeof(struct worker_message)) / sizeof(struct worker_segment))

/* What the worker was told of a segment. */
struct sent {
    struct identity segment;
    uint32_t data_end;
    uint32_t revision;
    uint8_t state;
    uint8_t places;
    bool used;
    bool seen; /* in the full look that is under way */
    struct {
        uint32_t disk, slot; /* the ring's number of the disk */
    } place[COPIES_MAX];
};

struct reading {
    struct request *request;
    struct ring_entry *entry;
    struct ring *ring;
    const struct reading_options *options;
    struct reading_result *result;
    struct worker worker;

    uint32_t
        disk_of[RING_DISKS_MAX]; /* from the ring's number to the job's, NO_DISK: not to be had */
    uint32_t disks;
    bool doubtful[RING_DISKS_MAX]; /* by the ring's number: it does not answer, or has failed */
    int disk_fd[RING_DISKS_MAX];

    struct sent *sent; /* hash table, linear probing; its size a power of two */
    uint32_t sent_room, sent_count;

    struct worker_segment batch[SEGMENTS_A_MESSAGE];
    uint32_t batch_count;
    uint64_t segments;

    uint32_t seat; /* at the pressure gauge */
    uint64_t reads_until_ns; /* monotonic: by then it has to ask a disk again, or it has no turn; 0: it has none */
    struct worker_progress progress;

    bool cut_off; /* it went before all of its job could be sent */
    bool heard;   /* it has said something */
    bool caught_up;
    bool finish_wanted;
    bool finishing; /* FINISH has been sent */
    uint64_t counts_seen;
    uint64_t position_min, position_max; /* of what was planned; min above max: nothing */
    /* Of a follow job: what it takes to see that the ring has turned past what was never sent. */
    bool looked;            /* there was a full look, so the next is set */
    uint64_t looked_to;     /* the last position there was before it */
    uint64_t newest_sent;   /* position of the newest segment sent, and its last packet's time */
    int64_t newest_sent_ns;
    uint64_t oldest_found;  /* in this look: position of the oldest with packets, and its first one's */
    int64_t oldest_found_ns;
    uint32_t overtaken;     /* gaps that we, not the worker, have found */
    uint64_t look_due_ns;
    uint64_t full_look_due_ns;
    uint8_t buffer[WORKER_MESSAGE_BYTES_MAX] __attribute__((aligned(16)));
};

const char *reading_gap_word(uint32_t reason)
{
    static const char *const word[] = {"unknown", "damaged", "overwritten",
                                       "filter",  "dropped", "lost", "no answer"};
    return reason < sizeof word / sizeof word[0] ? word[reason] : word[0];
}

const char *reading_bad_word(uint32_t reason)
{
    static const char *const word[] = {"unknown",  "read error", "missing",
                                       "checksum", "identity",   "records", "no answer"};
    return reason < sizeof word / sizeof word[0] ? word[reason] : word[0];
}

void reading_result_free(struct reading_result *result)
{
    free(result->gap);
    free(result->bad);
}

/* ---- what was sent
 * --------------------------------------------------------------------------------- */

static struct sent *sent_slot(struct sent *table, uint32_t room, const struct identity *segment)
{
    uint32_t at;
    memcpy(&at, segment->byte, sizeof at); /* random bits already */
    for (at &= room - 1; table[at].used; at = (at + 1) & (room - 1))
        if (identity_equal(&table[at].segment, segment))
            break;
    return &table[at];
}

static struct sent *sent_find(const struct reading *reading, const struct identity *segment)
{
    if (reading->sent_room == 0)
        return NULL;
    struct sent *found = sent_slot(reading->sent, reading->sent_room, segment);
    return found->used ? found : NULL;
}

/* Moves what is wanted (`only_seen`: of this look) to a table with room for twice as much. */
static int sent_rehash(struct reading *reading, bool only_seen)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < reading->sent_room; i++)
        count += reading->sent[i].used && (!only_seen || reading->sent[i].seen);
    uint32_t room = 64;
    while (room < 4 * count)
        room *= 2;
    struct sent *table = calloc(room, sizeof *table);
    if (!table)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < reading->sent_room; i++)
        if (reading->sent[i].used && (!only_seen || reading->sent[i].seen))
            *sent_slot(table, room, &reading->sent[i].segment) = reading->sent[i];
    free(reading->sent);
    reading->sent = table;
    reading->sent_room = room;
    reading->sent_count = count;
    return 0;
}

static int sent_add(struct reading *reading, const struct identity *segment, struct sent **added)
{
    if (2 * reading->sent_count >= reading->sent_room) {
        int result = sent_rehash(reading, false);
        if (result != 0)
            return result;
    }
    *added = sent_slot(reading->sent, reading->sent_room, segment);
    if (!(*added)->used) {
        **added = (struct sent){.segment = *segment, .used = true};
        reading->sent_count++;
    }
    return 0;
}

/* ---- the plan
 * -------------------------------------------------------------------------------------- */

static void keep_gap(struct reading *reading, const struct worker_gap *gap)
{
    struct reading_result *result = reading->result;
    if (result->gaps == READING_LIST_MAX)
        return;
    struct worker_gap *grown = realloc(result->gap, (result->gaps + 1) * sizeof *grown);
    if (!grown)
        return;
    result->gap = grown;
    result->gap[result->gaps++] = *gap;
}

static int batch_send(struct reading *reading)
{
    if (reading->batch_count == 0)
        return 0;
    int result = worker_send(&reading->worker, WORKER_SEGMENTS, reading->batch,
                             sizeof reading->batch[0], reading->batch_count, NULL, 0);
    reading->batch_count = 0;
    reading->caught_up = false;
    return result;
}

/* Which disks the recorder itself is waiting for, or has given up: a read there may never end. */
static void look_at_disks(struct reading *reading)
{
    struct ring_state *state = malloc(sizeof *state);
    if (state && ring_state(reading->ring, state) == 0)
        for (uint32_t i = 0; i < state->keeper.disks; i++)
            reading->doubtful[i] = state->keeper.disk[i].state != DISK_ACTIVE;
    free(state);
}

/* Leaves out the places on doubtful disks, if there is another one. A check looks at all of them. */
static void leave_doubtful_places(const struct reading *reading, struct worker_segment *segment)
{
    uint32_t good = 0;
    for (uint32_t i = 0; i < segment->places; i++) {
        uint32_t disk = segment->place[i].disk;
        if (reading->disk_of[disk] != NO_DISK && !reading->doubtful[disk])
            segment->place[good++] = segment->place[i];
    }
    if (good > 0)
        segment->places = good;
}

/* Sends a segment if it is new, or if there is more of it than the worker knows. */
static int plan_row(const struct segment_row *row, void *context)
{
    struct reading *reading = context;
    struct sent *sent = sent_find(reading, &row->segment);
    bool is_new = !sent;
    if (is_new) {
        int result = sent_add(reading, &row->segment, &sent);
        if (result != 0)
            return result;
        reading->segments++;
    }
    sent->seen = true;
    reading->position_min = row->position < reading->position_min ? row->position : reading->position_min;
    reading->position_max = row->position > reading->position_max ? row->position : reading->position_max;
    if (row->packets > 0 && row->first_ns <= row->last_ns) {
        if (row->position < reading->oldest_found) {
            reading->oldest_found = row->position;
            reading->oldest_found_ns = row->first_ns;
        }
        if (row->position >= reading->newest_sent) {
            reading->newest_sent = row->position;
            reading->newest_sent_ns = row->last_ns;
        }
    }
    if (!is_new && sent->data_end == row->data_end && sent->revision == row->revision &&
        sent->state == row->state)
        return 0;
    struct worker_segment segment;
    ring_worker_segment(reading->ring, row, &segment);
    if (reading->options->kind != WORKER_VERIFY)
        leave_doubtful_places(reading, &segment);
    uint32_t places = 0;
    for (uint32_t i = 0; i < segment.places; i++) {
        uint32_t disk = reading->disk_of[segment.place[i].disk];
        if (disk == NO_DISK)
            continue;
        sent->place[places].disk = segment.place[i].disk;
        sent->place[places].slot = segment.place[i].slot;
        segment.place[places].slot = segment.place[i].slot;
        segment.place[places++].disk = disk;
    }
    segment.places = places;
    sent->places = (uint8_t)places;
    sent->data_end = row->data_end;
    sent->revision = row->revision;
    sent->state = (uint8_t)row->state;
    reading->batch[reading->batch_count++] = segment;
    return reading->batch_count == SEGMENTS_A_MESSAGE ? batch_send(reading) : 0;
}

/*
 * The output's reader was so slow that segments came and were overwritten between two looks: no
 * frame of theirs was ever read, and where whole streams went, no packet number tells of them
 * either. How many packets of the range they held, nobody knows any more.
 */
static int name_overtaken(struct reading *reading, uint64_t oldest, int64_t sent_ns)
{
    if (!reading->looked || oldest <= reading->looked_to + 1)
        return 0;
    int64_t to_ns = reading->oldest_found != UINT64_MAX ? reading->oldest_found_ns
                                                        : reading->options->to_ns;
    struct worker_gap gap = {.from_ns = sent_ns < to_ns ? sent_ns : to_ns,
                             .to_ns = sent_ns < to_ns ? to_ns : sent_ns,
                             .reason = WORKER_GAP_OVERWRITTEN};
    keep_gap(reading, &gap);
    reading->overtaken++;
    return worker_send(&reading->worker, WORKER_GAP, &gap, sizeof gap, 1, NULL, 0);
}

static int look_at_all(struct reading *reading)
{
    for (uint32_t i = 0; i < reading->sent_room; i++)
        reading->sent[i].seen = false;
    uint64_t began_ns = clock_monotonic_ns();
    look_at_disks(reading);
    uint64_t oldest = 0, newest = 0;
    int64_t sent_ns = reading->newest_sent > 0 ? reading->newest_sent_ns : reading->options->from_ns;
    reading->oldest_found = UINT64_MAX;
    const struct reading_options *options = reading->options;
    if (options->follow) /* the keeper is asked, and each question to it is a part of what a short answer takes */
        ring_positions(reading->ring, &oldest, &newest);
    int result = options->kind == WORKER_RUN_MAKE
                     ? ring_find_sealed(reading->ring, options->from_position, options->to_position,
                                        KEY_RUN_SEGMENTS_MAX - 1, plan_row, reading)
                     : ring_find(reading->ring, options->from_ns, options->to_ns, plan_row, reading);
    reading->result->catalog_lacks |= catalog_care_lacks(reading->entry);
    if (result == 0)
        result = batch_send(reading);
    if (result == 0 && reading->options->follow) {
        uint64_t ignored;
        ring_positions(reading->ring, &oldest, &ignored);
        result = name_overtaken(reading, oldest, sent_ns);
        reading->looked = true;
        reading->looked_to = newest;
    }
    /* What the ring has overwritten meanwhile will not come again. */
    if (result == 0 && reading->options->follow)
        result = sent_rehash(reading, true);
    uint64_t now_ns = clock_monotonic_ns();
    reading->full_look_due_ns = now_ns + (now_ns - began_ns) * LOOK_SHARE;
    return result;
}

/* ---- following
 * ------------------------------------------------------------------------------------- */

struct open_look {
    struct reading *reading;
    bool unknown; /* one that has not been sent */
    struct segment_row *row;
    uint32_t rows;
};

static int open_row(const struct segment_row *row, void *context)
{
    struct open_look *look = context;
    struct segment_row *grown = realloc(look->row, (look->rows + 1) * sizeof *grown);
    if (!grown)
        return ERR_NO_MEMORY;
    look->row = grown;
    look->row[look->rows++] = *row;
    look->unknown |= !sent_find(look->reading, &row->segment);
    return 0;
}

/* Tells the worker what has come since the last time. */
static int follow_look(struct reading *reading)
{
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns < reading->look_due_ns)
        return 0;
    reading->look_due_ns = now_ns + FOLLOW_NS;
    struct open_look look = {.reading = reading};
    int result = ring_open_segments(reading->ring, open_row, &look);
    /* Asked for after the open ones: what was sealed before they were listed is counted in it. */
    uint64_t counts = ring_changes(reading->ring);
    bool changed = look.unknown || counts != reading->counts_seen;
    if (result == 0 && changed && now_ns >= reading->full_look_due_ns) {
        reading->counts_seen = counts;
        result = look_at_all(reading);
    } else if (result == 0 && !changed) {
        for (uint32_t i = 0; i < look.rows && result == 0; i++)
            result = plan_row(&look.row[i], reading);
        if (result == 0)
            result = batch_send(reading);
    }
    free(look.row);
    return result;
}

/*
 * The job ends, once the worker has caught up: only then is there a last look, which finds what has come meanwhile, and
 * what has come and gone. Without it an answer that lacks most of the range would be called complete.
 */
static int finish(struct reading *reading)
{
    reading->finish_wanted = true;
    if (reading->finishing || !reading->caught_up)
        return 0;
    reading->finishing = true;
    (void)ring_flush(reading->ring, FLUSH_MS);
    reading->look_due_ns = reading->full_look_due_ns = 0;
    int result = follow_look(reading);
    if (result == 0)
        result = worker_send(&reading->worker, WORKER_FINISH, NULL, 0, 0, NULL, 0);
    return result;
}

/* The range ends in the past, and what was taken in it has had the time to become durable. */
static bool range_is_over(const struct reading *reading)
{
    int64_t to_ns = reading->options->to_ns;
    uint64_t late_ns = ring_options(reading->ring)->flush_window_ns + FOLLOW_LATE_NS;
    return to_ns < INT64_MAX - (int64_t)late_ns && clock_realtime_ns() > to_ns + (int64_t)late_ns;
}

/* ---- what the worker says
 * --------------------------------------------------------------------------- */

static void keep_bad(struct reading *reading, const struct worker_bad *bad, const struct sent *sent)
{
    struct reading_result *result = reading->result;
    result->damaged++;
    if (result->bads == READING_LIST_MAX)
        return;
    struct reading_bad *grown = realloc(result->bad, (result->bads + 1) * sizeof *grown);
    if (!grown)
        return;
    result->bad = grown;
    struct reading_bad *one = &result->bad[result->bads++];
    *one = (struct reading_bad){.bad = *bad, .slot = sent->place[bad->place].slot};
    (void)ring_disk(reading->ring, sent->place[bad->place].disk, &one->disk);
    char path[256] = "?"; /* of a disk that comes or goes at this very moment */
    if (pthread_mutex_trylock(&reading->entry->leaving_lock) == 0) {
        struct disk *disk = ring_disk(reading->ring, sent->place[bad->place].disk, NULL);
        if (disk)
            memcpy(path, disk->name, sizeof path);
        pthread_mutex_unlock(&reading->entry->leaving_lock);
    }
    event_log_say(reading->request->recorder->events, "warning",
                  bad->reason == WORKER_BAD_SILENT ? "disk-silent" : "damaged",
                  reading->entry->row.name, "disk %.200s, slot %u, offset %u: %s", path,
                  one->slot, bad->offset, reading_bad_word(bad->reason));
}

/* Gives the mender time to work off what it has been told. */
static void wait_for_mender(struct reading *reading)
{
    struct mender_state state;
    for (;;) {
        ring_mender_state(reading->ring, &state);
        if (state.repairs_waiting < MENDER_REPAIRS_MAX / 2 ||
            request_watch(reading->request, -1, MENDER_WAIT_MS, NULL) != REQUEST_QUIET)
            return;
    }
}

static int judge(struct reading *reading, const struct worker_bad *bad)
{
    struct worker_verdict verdict = {.judgement = WORKER_OVERTAKEN};
    const struct sent *sent = sent_find(reading, &bad->segment);
    if (sent && bad->place >= sent->places)
        return fail(&reading->request->failure, ERR_PROTOCOL,
                    "the reading process names a place that it was not given");
    if (sent) {
        struct worker_segment segment = {
            .segment = sent->segment, .revision = sent->revision, .places = sent->places};
        segment.data_end = sent->data_end;
        segment.state = sent->state;
        for (uint8_t i = 0; i < sent->places; i++) {
            segment.place[i].disk = sent->place[i].disk;
            segment.place[i].slot = sent->place[i].slot;
        }
        if (reading->options->repair)
            wait_for_mender(reading);
        verdict.judgement = ring_judge(reading->ring, &segment, bad);
        if (verdict.judgement == WORKER_DAMAGED)
            keep_bad(reading, bad, sent);
    }
    return worker_send(&reading->worker, WORKER_VERDICT, &verdict, sizeof verdict, 1, NULL, 0);
}

static json_t *progress_json(const struct worker_progress *progress)
{
    char at[24];
    snprintf(at, sizeof at, "%lld", (long long)progress->at_ns);
    return json_pack("{s:I, s:I, s:I, s:I, s:o}", "segments_done",
                     (json_int_t)progress->segments_done, "segments_total",
                     (json_int_t)progress->segments_total, "packets", (json_int_t)progress->packets,
                     "output_bytes", (json_int_t)progress->output_bytes, "at_ns",
                     progress->packets_judged ? json_string(at) : json_null());
}

/* Who has read, or waited for the recording, goes on having a turn at the disks. */
static void note_progress(struct reading *reading, const struct worker_progress *progress)
{
    const struct worker_progress *before = &reading->progress;
    if (progress->bytes_read == before->bytes_read && progress->held_back_ns <= before->held_back_ns)
        return;
    uint64_t held_back_ns =
        progress->held_back_ns > before->held_back_ns ? progress->held_back_ns - before->held_back_ns : 0;
    reading->reads_until_ns = clock_monotonic_ns() + READS_NS;
    reading->progress = *progress;
    ring_reader_reads(reading->ring, reading->seat, true, held_back_ns);
}

static void watch_turn(struct reading *reading)
{
    if (reading->reads_until_ns == 0 || clock_monotonic_ns() < reading->reads_until_ns)
        return;
    reading->reads_until_ns = 0;
    ring_reader_reads(reading->ring, reading->seat, false, 0);
}

/* Handles one message of the worker. 1: it is done. */
static int take_message(struct reading *reading)
{
    struct failure *failure = &reading->request->failure;
    const void *element;
    int type = worker_receive(&reading->worker, reading->buffer, &element, 0);
    reading->heard |= type > 0;
    switch (type) {
    case ERR_TIMEOUT:
        return ERR_AGAIN;
    case WORKER_PROGRESS:
        note_progress(reading, element);
        request_progress(reading->request, progress_json(element), false);
        return 0;
    case WORKER_BAD:
        return judge(reading, element);
    case WORKER_GAP:
        keep_gap(reading, element);
        return 0;
    case WORKER_CAUGHT_UP:
        reading->caught_up = true;
        return 0;
    case WORKER_DONE:
        reading->result->done = *(const struct worker_done *)element;
        note_progress(reading, &reading->result->done.total);
        reading->result->done.gaps += reading->overtaken;
        if (reading->result->done.runs_bad > 0)
            run_care_doubt(reading->request->recorder->run_care);
        return 1;
    case ERR_CLOSED:
        return ERR_CLOSED;
    default:
        return fail(failure, type < 0 ? type : ERR_PROTOCOL, "the reading process talks nonsense");
    }
}

/* The worker is gone without a DONE. */
static int worker_died(struct reading *reading)
{
    struct failure *failure = &reading->request->failure;
    int status = worker_stop(&reading->worker);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        return fail(failure, ERR_INTERNAL, "the reading process was killed by signal %d (%s)",
                    WTERMSIG(status), strsignal(WTERMSIG(status)));
    return fail(failure, ERR_CLOSED,
                "the reading process has ended early: nobody takes its output "
                "any more");
}

static int relay(struct reading *reading)
{
    const struct reading_options *options = reading->options;
    struct request *request = reading->request;
    for (;;) {
        int result;
        while ((result = take_message(reading)) == 0)
            ;
        watch_turn(reading);
        if (result == ERR_CLOSED)
            return worker_died(reading);
        if (result != ERR_AGAIN)
            return result > 0 ? 0 : result;
        int wait_ms = RELAY_MS;
        if (options->follow && !reading->finishing) {
            wait_ms = (int)(FOLLOW_NS / 1000000);
            /* Another look in front of the last one would find something each time, in a ring that is fast. */
            if (reading->finish_wanted || range_is_over(reading))
                result = finish(reading);
            else
                result = reading->caught_up ? follow_look(reading) : 0;
            if (result == ERR_CLOSED)
                return worker_died(reading);
            if (result != 0)
                return fail(&request->failure, result, "ring %s: %s", reading->entry->row.name,
                            error_text(result));
        }
        switch (request_watch(request, reading->worker.socket, wait_ms,
                              options->follow ? "extract.finish" : NULL)) {
        case REQUEST_GONE:
            return fail(&request->failure, ERR_INTERRUPTED, "interrupted");
        case REQUEST_STOPPING:
            return fail(&request->failure, ERR_CLOSED, "the recorder is ending");
        case REQUEST_SECOND:
            if (finish(reading) == ERR_CLOSED)
                return worker_died(reading);
            break;
        case REQUEST_QUIET:
            break;
        }
    }
}

/* ---- beginning
 * ------------------------------------------------------------------------------------- */

/* Opens the disk of the ring that a row of state.db names, for the worker to read. */
static int open_disk(const struct state_disk *row, void *context)
{
    struct reading *reading = context;
    for (uint32_t i = 0; i < ring_disks(reading->ring); i++) {
        struct identity identity;
        if (!ring_disk(reading->ring, i, &identity) || !identity_equal(&identity, &row->disk))
            continue;
        int fd = open(row->path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && errno == EINVAL)
            fd = open(row->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) {
            event_log_say(reading->request->recorder->events, "warning", "disk-not-read",
                          reading->entry->row.name, "disk %.200s cannot be opened for reading: %s",
                          row->path, strerror(errno));
            return 0;
        }
        reading->disk_fd[i] = fd;
    }
    return 0;
}

/* Under leaving_lock: a disk that leaves is closed. */
static int open_members(struct reading *reading, struct worker_job *job, int *descriptor,
                      uint32_t *descriptors)
{
    struct failure *failure = &reading->request->failure;
    int result = state_disks(reading->request->recorder->state, &reading->entry->row.ring,
                             open_disk, reading);
    if (result != 0)
        return fail(failure, result, "ring %s: its disks are not known: %s",
                    reading->entry->row.name, error_text(result));
    for (uint32_t i = 0; i < ring_disks(reading->ring); i++) {
        if (reading->disk_fd[i] < 0)
            continue;
        const struct disk *disk = ring_disk(reading->ring, i, NULL);
        reading->disk_of[i] = job->disks;
        job->disk[job->disks].number = i;
        job->disk[job->disks].slots_offset = disk->geometry.slots_offset;
        job->disk[job->disks].slot_bytes = disk->geometry.slot_bytes;
        job->disk[job->disks].slot_count = disk->geometry.slot_count;
        job->disk[job->disks].disk_bytes = disk->geometry.disk_bytes;
        snprintf(job->disk[job->disks].name, sizeof job->disk[job->disks].name, "%.127s",
                 disk->name);
        job->disks++;
        descriptor[(*descriptors)++] = reading->disk_fd[i];
    }
    return job->disks > 0 ? 0
                          : fail(failure, ERR_IO, "ring %s: none of its disks can be read",
                                 reading->entry->row.name);
}

static int open_disks(struct reading *reading, struct worker_job *job, int *descriptor,
                      uint32_t *descriptors)
{
    pthread_mutex_lock(&reading->entry->leaving_lock);
    int result = open_members(reading, job, descriptor, descriptors);
    pthread_mutex_unlock(&reading->entry->leaving_lock);
    return result;
}

static int send_run(int fd, void *context)
{
    struct reading *reading = context;
    return worker_send(&reading->worker, WORKER_RUN, NULL, 0, 0, &fd, 1);
}

static int send_verdict_log(int fd, void *context)
{
    struct reading *reading = context;
    return worker_send(&reading->worker, WORKER_VERDICT_LOG, NULL, 0, 0, &fd, 1);
}

/* Whether the filter may ask for what layer 7 finds: only the process that reads it knows for sure. */
static bool asks_app(const struct reading_options *options)
{
    return options->filter && strstr(options->filter, "app");
}

/* Which protocols there are to ask for. Where layer 7 is not installed any name is taken: what was recorded while it was can still be found. */
static void tell_names(struct reading *reading)
{
    struct recorder *recorder = reading->request->recorder;
    struct verdicts *verdicts = ring_verdicts(reading->ring);
    const char *const *name;
    uint32_t names;
    if (verdicts_names(verdicts) == 0 && classifier_names(recorder->classifier, &name, &names, NULL) == 0)
        verdicts_name(verdicts, name, names);
}

/* Job, disks, filter, plan. */
static int brief(struct reading *reading)
{
    const struct reading_options *options = reading->options;
    struct failure *failure = &reading->request->failure;
    const struct ring_options *ring = ring_options(reading->ring);
    struct worker_job *job = calloc(1, sizeof *job);
    int descriptor[WORKER_DESCRIPTORS_MAX];
    uint32_t descriptors = 0;
    if (!job)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    job->kind = (uint32_t)options->kind;
    job->format = (uint32_t)options->format;
    job->from_ns = options->from_ns;
    job->to_ns = options->to_ns;
    job->follow = options->follow;
    job->headers_only = options->headers_only;
    job->no_index = options->no_index;
    job->packets_max = options->packets_max;
    job->bytes_max = options->bytes_max;
    job->seconds_max = options->seconds_max;
    job->memory_max = WORKER_MEMORY_USUAL;
    job->ring = ring->ring;
    memcpy(job->ring_name, ring->name, sizeof job->ring_name);
    gethostname(job->host, sizeof job->host - 1);
    if (options->output >= 0)
        descriptor[descriptors++] = options->output;
    int result = open_disks(reading, job, descriptor, &descriptors);
    int gauge = ring_pressure_fd(reading->ring);
    job->gauge = gauge >= 0;
    job->seat = reading->seat;
    if (gauge >= 0)
        descriptor[descriptors++] = gauge;
    job->verdicts = asks_app(options);
    if (job->verdicts) {
        tell_names(reading);
        descriptor[descriptors++] = verdicts_fd(ring_verdicts(reading->ring));
    }
    if (result == 0)
        result =
            worker_send(&reading->worker, WORKER_JOB, job, sizeof *job, 1, descriptor, descriptors);
    free(job);
    if (result == 0 && options->filter && options->filter[0])
        result = worker_send(&reading->worker, WORKER_FILTER, options->filter, 1,
                             (uint32_t)strlen(options->filter), NULL, 0);
    if (result == 0) {
        reading->counts_seen = ring_changes(reading->ring);
        result = look_at_all(reading);
    }
    bool finds = options->kind == WORKER_EXTRACT || options->kind == WORKER_NUMBERS;
    if (result == 0 && finds && options->filter && options->filter[0] && !options->no_index)
        result = run_care_each(reading->request->recorder->run_care, &ring->ring, reading->position_min,
                               reading->position_max, send_run, reading);
    if (result == 0 && finds && asks_app(options))
        result = verdict_care_each(reading->request->recorder->verdict_care, reading->ring, send_verdict_log, reading);
    if (result == 0)
        result = worker_send(&reading->worker, WORKER_PLAN_END, NULL, 0, 0, NULL, 0);
    return result;
}

/* What is newest is only in memory yet: it is wanted if the range reaches that far. */
static void flush(struct reading *reading)
{
    int64_t window_ns = (int64_t)ring_options(reading->ring)->flush_window_ns;
    if (reading->options->to_ns > clock_realtime_ns() - window_ns && ring_flush(reading->ring, FLUSH_MS) != 0)
        reading->result->not_flushed = true;
}

/* Has the worker that is there do all of it. */
static int employ(struct reading *reading)
{
    struct failure *failure = &reading->request->failure;
    int code = brief(reading);
    for (uint32_t i = 0; i < RING_DISKS_MAX; i++)
        if (reading->disk_fd[i] >= 0)
            close(reading->disk_fd[i]);
    reading->cut_off = code == ERR_CLOSED;
    /* It may have ended because of what it was told: then it has said so. */
    if (code == ERR_CLOSED)
        code = 0;
    else if (code != 0 && failure->code == 0)
        fail(failure, code, "ring %s: %s", reading->entry->row.name, error_text(code));
    if (code == 0)
        code = relay(reading);
    if (code == 0 && reading->options->promptly && reading->worker.socket >= 0)
        spare_worker_leave(&reading->request->recorder->spare, &reading->worker);
    else
        worker_stop(&reading->worker);
    return code;
}

/*
 * `again`: whether there was another one before this. *died_waiting: nothing was done, for the process had died before it knew all
 * that it was to do; it has no output before that (extraction.c).
 */
static int run_with(struct request *request, struct ring_entry *entry, const struct reading_options *options,
                    struct reading_result *result, bool again, bool *died_waiting)
{
    *died_waiting = false;
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading)
        return fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    reading->request = request;
    reading->entry = entry;
    reading->ring = entry->ring;
    reading->options = options;
    reading->result = result;
    reading->position_min = UINT64_MAX;
    for (uint32_t i = 0; i < RING_DISKS_MAX; i++) {
        reading->disk_fd[i] = -1;
        reading->disk_of[i] = NO_DISK;
    }
    if (options->kind != WORKER_RUN_MAKE)
        flush(reading);
    reading->seat = ring_reader_comes(reading->ring);
    reading->reads_until_ns = clock_monotonic_ns() + READS_NS;
    const char *path = request->recorder->extract_path;
    int code = options->promptly && !again
                   ? spare_worker_take(&request->recorder->spare, path, &reading->worker, &request->failure)
                   : spare_worker_start(path, &reading->worker, &request->failure);
    if (code == 0) {
        code = employ(reading);
        *died_waiting = code != 0 && !reading->heard && (reading->cut_off || reading->worker.unread);
    }
    ring_reader_leaves(reading->ring, reading->seat);
    if (code == 0 && result->done.result != 0)
        code = fail(&request->failure, result->done.result, "%s",
                    result->done.text[0] ? result->done.text : error_text(result->done.result));
    free(reading->sent);
    free(reading);
    return code;
}

static int run(struct request *request, struct ring_entry *entry,
               const struct reading_options *options, struct reading_result *result)
{
    bool died_waiting;
    int code = run_with(request, entry, options, result, false, &died_waiting);
    if (!options->promptly || !died_waiting || request->gone || recorder_stopping(request->recorder))
        return code;
    request->failure = (struct failure){0};
    return run_with(request, entry, options, result, true, &died_waiting);
}

#define SPEED_BYTES_MIN (1u << 20) /* of a reading that says something about speed */

/* What it has read in that time counts for a quarter of what is known. */
static void note_speed(struct recorder *recorder, uint64_t bytes_read, uint64_t took_ns)
{
    if (bytes_read < SPEED_BYTES_MIN || took_ns == 0)
        return;
    uint64_t now = (uint64_t)((double)bytes_read * 1e9 / (double)took_ns);
    uint64_t before = atomic_load(&recorder->reading_bytes_per_s);
    atomic_store(&recorder->reading_bytes_per_s, before > 0 ? (3 * before + now) / 4 : now);
}

int reading_run(struct request *request, struct ring_entry *entry,
                const struct reading_options *options, struct reading_result *result)
{
    atomic_uint *readings = &request->recorder->readings;
    uint64_t began_ns = clock_monotonic_ns();
    *result = (struct reading_result){0};
    int code = atomic_fetch_add(readings, 1) < READINGS_MAX
                   ? run(request, entry, options, result)
                   : fail(&request->failure, ERR_BUSY,
                          "as many extractions and checks run as the recorder allows (%u): "
                          "try again when one has ended",
                          READINGS_MAX);
    atomic_fetch_sub(readings, 1);
    if (code == 0 && !options->follow)
        note_speed(request->recorder, result->done.total.bytes_read, clock_monotonic_ns() - began_ns);
    return code;
}

int reading_check_filter(struct request *request, struct ring_entry *entry, const char *filter)
{
    struct reading_options options = {
        .kind = WORKER_EXTRACT, .format = WORKER_PCAPNG, .filter = filter};
    struct reading_result read = {0};
    options.output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (options.output < 0)
        return fail_errno(&request->failure, errno, "/dev/null");
    int code = reading_run(request, entry, &options, &read);
    close(options.output);
    reading_result_free(&read);
    return code;
}

/* ---- the method
 * ------------------------------------------------------------------------------------ */

static int take_format(struct request *request, enum worker_format *format)
{
    static const char *const name[] = {"pcapng", "pcap", "pcap-us"};
    const char *given = name[0];
    int code = request_string(request, "format", false, &given);
    for (int i = 0; i < 3 && code == 0; i++)
        if (strcmp(given, name[i]) == 0) {
            *format = (enum worker_format)(WORKER_PCAPNG + i);
            return 0;
        }
    return code != 0
               ? code
               : fail(&request->failure, ERR_INVALID, "the formats are pcapng, pcap and pcap-us");
}

static json_t *json_gaps(const struct reading_result *result)
{
    json_t *gaps = json_array();
    for (uint32_t i = 0; i < result->gaps; i++) {
        const struct worker_gap *gap = &result->gap[i];
        json_t *object = json_pack("{s:I, s:s, s:i, s:o}", "packets", (json_int_t)gap->packets,
                                   "reason", reading_gap_word(gap->reason), "link_type",
                                   (int)gap->link_type, "interface", json_text(gap->interface));
        json_set_time(object, "from", gap->from_ns, true);
        json_set_time(object, "to", gap->to_ns, true);
        json_array_append_new(gaps, object);
    }
    return gaps;
}

json_t *reading_plan_json(const struct reading_result *result)
{
    const struct worker_done *done = &result->done;
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        {"segments", done->total.segments_done},
        {"runs", done->runs},
        {"runs_bad", done->runs_bad},
        {"run_bytes", done->run_bytes},
        {"segments_by_runs", done->segments_by_runs},
        {"segments_narrowed", done->segments_narrowed},
        {"segments_excluded", done->segments_excluded},
        {"indexes_bad", done->indexes_bad},
        {"index_bytes", done->index_bytes},
        {"blocks_wanted", done->blocks_wanted},
        {"blocks_read", done->blocks_read},
        {"bytes_read", done->total.bytes_read},
        {"packets_judged", done->total.packets_judged},
        {"purged", done->purged},
    };
    json_t *plan = json_pack("{s:o}", "narrowing", json_text(done->narrowing));
    for (size_t i = 0; plan && i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(plan, counts[i].name, json_integer((json_int_t)counts[i].value));
    return plan;
}

json_t *reading_result_json(const struct reading_result *result)
{
    static const char *const limits[] = {
        [WORKER_LIMIT_PACKETS] = "packets", [WORKER_LIMIT_BYTES] = "bytes", [WORKER_LIMIT_SECONDS] = "seconds"};
    const struct worker_done *done = &result->done;
    json_t *plan = reading_plan_json(result);
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:b, s:b, s:b}", "packets", (json_int_t)done->total.packets,
        "output_bytes", (json_int_t)done->total.output_bytes, "held_back_ms",
        (json_int_t)(done->total.held_back_ns / 1000000), "gaps", json_gaps(result), "gaps_total",
        (json_int_t)done->gaps, "undecided", (json_int_t)done->undecided, "times_moved", (json_int_t)done->times_moved, "flushed",
        (int)!result->not_flushed, "catalog_whole", (int)!result->catalog_lacks, "complete",
        (int)(done->gaps == 0 && done->undecided == 0 && !result->not_flushed && !result->catalog_lacks));
    bool limited = done->limit > WORKER_LIMIT_NONE && done->limit <= WORKER_LIMIT_SECONDS;
    json_object_set_new(object, "limit", limited ? json_string(limits[done->limit]) : json_null());
    if (!plan || json_object_update(object, plan) != 0) {
        json_decref(object);
        object = NULL;
    }
    json_decref(plan);
    return object;
}

/* Puts a query in stenographer's words into our language: the filter, and the range as far as it narrows it. */
static int translate(struct request *request, struct reading_options *options)
{
    struct steno_query query;
    int code = steno_query_open(options->filter, clock_realtime_ns(), &query, &request->failure);
    if (code != 0)
        return code;
    options->asked = options->filter;
    options->filter = options->translated = query.filter; /* which is what the query owns */
    if (query.from_ns > options->from_ns)
        options->from_ns = query.from_ns;
    if (query.to_ns < options->to_ns)
        options->to_ns = query.to_ns;
    return options->from_ns < options->to_ns
               ? 0
               : fail(&request->failure, ERR_INVALID, "the query's times leave nothing of the range");
}

int reading_take_range(struct request *request, struct reading_options *options)
{
    *options = (struct reading_options){.kind = WORKER_EXTRACT,
                                        .from_ns = INT64_MIN,
                                        .to_ns = INT64_MAX,
                                        .filter = "",
                                        .query = "pcap",
                                        .output = -1};
    int code = request_time(request, "from_ns", &options->from_ns);
    if (code == 0)
        code = request_time(request, "to_ns", &options->to_ns);
    if (code == 0)
        code = request_string(request, "filter", false, &options->filter);
    if (code == 0)
        code = request_string(request, "query", false, &options->query);
    if (code == 0 && strlen(options->filter) > FILTER_BYTES_MAX)
        code = fail(&request->failure, ERR_TOO_LARGE, "the filter is longer than %u bytes",
                    FILTER_BYTES_MAX);
    if (code != 0 || strcmp(options->query, "pcap") == 0)
        return code;
    return strcmp(options->query, "steno") == 0
               ? translate(request, options)
               : fail(&request->failure, ERR_INVALID, "parameter query: expected pcap or steno");
}

int reading_take_options(struct request *request, struct reading_options *options)
{
    int code = reading_take_range(request, options);
    if (code == 0)
        code = take_format(request, &options->format);
    if (code == 0)
        code = request_bool(request, "headers", &options->headers_only);
    if (code == 0)
        code = request_bool(request, "no_index", &options->no_index);
    if (code == 0)
        code = request_count(request, "packets_max", 0, INT64_MAX, &options->packets_max);
    if (code == 0)
        code = request_count(request, "bytes_max", 0, INT64_MAX, &options->bytes_max);
    if (code == 0)
        code =
            request_count(request, "seconds_max", 0, WORKER_SECONDS_MAX, &options->seconds_max);
    return code;
}

void reading_options_free(struct reading_options *options)
{
    free(options->translated);
    options->translated = NULL;
}

void reading_add_asked(json_t *result, const struct reading_options *options)
{
    json_object_set_new(result, "filter", json_text(options->filter));
    json_set_time(result, "from", options->from_ns, options->from_ns != INT64_MIN);
    json_set_time(result, "to", options->to_ns, options->to_ns != INT64_MAX);
}

static int extract(struct request *request, const char *ring, struct reading_options *options, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct reading_result extracted = {0};
    struct ring_entry *entry;
    int code = ring_registry_use(registry, ring, &entry, &request->failure);
    if (code != 0)
        return code;
    options->output = control_take_descriptor(request->connection, 0);
    options->promptly = true;
    code = reading_run(request, entry, options, &extracted);
    close(options->output);
    ring_registry_release(registry, &entry);
    *result = code == 0 ? reading_result_json(&extracted) : NULL;
    if (*result)
        reading_add_asked(*result, options);
    reading_result_free(&extracted);
    return code;
}

int method_extract(struct request *request, json_t **result)
{
    struct reading_options options = {0};
    const char *ring;
    int code = request_string(request, "ring", true, &ring);
    if (code == 0)
        code = reading_take_options(request, &options);
    if (code == 0)
        code = request_bool(request, "follow", &options.follow);
    if (code == 0 && request->connection->descriptors != 1)
        code = fail(&request->failure, ERR_INVALID,
                    "expected one descriptor, to write the packets to");
    if (code == 0)
        code = extract(request, ring, &options, result);
    reading_options_free(&options);
    return code;
}
