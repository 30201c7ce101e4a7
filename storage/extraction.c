/*
 * extraction.c - reader, filter and capture writer put together, and the conversation with the
 * recorder.
 *
 * While the reader works the recorder may speak: segments that come then are kept until the reader
 * has handed out everything that it knows, because it must not grow in the midst of a step. The
 * recorder's answer to BAD is waited for where it is asked.
 */
#include "extraction.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "capture_writer.h"
#include "filter.h"
#include "key_runs.h"
#include "narrowing.h"
#include "piece_pool.h"
#include "purge.h"
#include "pressure.h"
#include "reader.h"
#include "run_maker.h"
#include "segment_reader.h"
#include "sifter.h"
#include "text.h"
#include "verdict_past.h"
#include "verdicts.h"
#include "verifier.h"
#include "worker.h"

_Static_assert((int)CAPTURE_PCAPNG == WORKER_PCAPNG && (int)CAPTURE_PCAP_NS == WORKER_PCAP_NS &&
                   (int)CAPTURE_PCAP_US == WORKER_PCAP_US,
               "the job's format is the writer's");
_Static_assert(CAPTURE_UNKNOWN == READER_UNKNOWN, "not known is the same for both");

#define PATIENCE_NS 3000000000ll /* for what a stream's next packets show to be missing */
#define PROGRESS_NS 250000000ll
#define GAPS_SENT_MAX 1000u
#define PIPE_BYTES (1024 * 1024) /* what we ask the kernel for; it may say no */
#define PACKETS_PER_CLOCK                                                   \
    4096u /* the clock is read once in so many packets, and for every frame \
           */

#define POOL_WARM_BYTES (14u << 20) /* what a small answer comes to use of it: six pieces, and the short ones */
#define HEAP_WARM_BYTES (2u << 20)

#define NUMBERS_OPEN 64u     /* streams whose packets are put together while they alternate */
#define NUMBERS_WRITTEN 1024u /* at a time */

/* The output of WORKER_NUMBERS. */
struct numbers {
    struct purge_range open[NUMBERS_OPEN]; /* may grow; count 0: none */
    uint32_t next;                         /* of them makes room for another */
    struct purge_range batch[NUMBERS_WRITTEN];
    uint32_t batched;
    uint64_t ranges, packets, bytes;
};

/* An interface of the reader, as it goes out. */
struct exit {
    const struct filter_program *program;
    int number; /* the writer's; -1 before the first packet */
    int64_t from_ns;
    int64_t to_ns;
};

struct extraction {
    int socket;
    int output; /* -1: none */
    struct worker_job job;
    struct disk *disk[RING_DISKS_MAX];
    struct pressure_reader pressure;
    uint8_t message[WORKER_MESSAGE_BYTES_MAX] __attribute__((aligned(8)));
    struct failure failure;

    struct worker_segment *inbox; /* segments that came and were not yet given to the reader */
    uint32_t inbox_count;
    uint32_t inbox_room;
    bool planned;       /* PLAN_END came */
    bool finish;        /* FINISH came */
    uint32_t judgement; /* VERDICT came; 0: none */

    packet_headers_of *headers_of;
    struct packet cut; /* in a job that hands out headers only: the packet up to their end */
    packet_levels_of *levels_of;
    flow_keys_of *keys_of;
    struct verdicts *verdicts; /* what layer 7 has found lately; null: it has not been asked */
    uint64_t verdict_seed;
    struct verdict_past *past; /* what is written down of verdicts; null: nothing came */
    uint32_t apps;      /* of the filter, as filter_apps() has them */
    uint64_t undecided; /* packets */
    char *filter_text;
    struct filter *filter;
    struct narrowing *narrowing; /* of the same text; null: it narrows nothing, or is not to */
    struct key_runs runs;
    struct sifter *sifter; /* null: there is none */
    pthread_mutex_t programs_lock; /* of the filter's programs: the sifter asks for them, too */
    struct reader *reader;
    uint64_t handed; /* packets, by the reader, */
    uint64_t judged; /* and those of them that were judged here, not by the sifter */
    struct capture_writer *writer;
    struct numbers *numbers; /* in a job that wants these; null: packets are handed out */
    struct exit *exit;
    uint32_t exits;

    int64_t
        waits_since_ns; /* monotonic: the reader has waited for a segment to grow; 0: it does not */
    int64_t reported_ns; /* monotonic: of the last PROGRESS */
    uint32_t gaps;
    enum worker_limit limit; /* the one that was reached */
    int64_t deadline_ns;     /* monotonic; INT64_MAX: none */
    struct worker_progress progress;
    struct piece_pool pool;
    struct segment_readers single; /* of a job that goes through segments one by one */
};

/* ---- the conversation --------------------------------------------------------------------------
 */

static int protocol_error(struct extraction *extraction, const char *what)
{
    return fail(&extraction->failure, ERR_PROTOCOL, "the recorder sent %s", what);
}

static int keep_segments(struct extraction *extraction, const struct worker_segment *segments,
                         uint32_t count)
{
    if (count > extraction->inbox_room - extraction->inbox_count) {
        uint32_t room = 2 * extraction->inbox_room + count;
        struct worker_segment *more = realloc(extraction->inbox, room * sizeof *more);
        if (!more)
            return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for the list of segments");
        extraction->inbox = more;
        extraction->inbox_room = room;
    }
    memcpy(extraction->inbox + extraction->inbox_count, segments, count * sizeof *segments);
    extraction->inbox_count += count;
    return 0;
}

static int set_filter(struct extraction *extraction, const char *text, uint32_t count)
{
    if (extraction->filter_text || extraction->planned)
        return protocol_error(extraction, "a second filter");
    if (memchr(text, '\0', count))
        return fail(&extraction->failure, ERR_INVALID, "the filter contains a zero byte");
    extraction->filter_text = strndup(text, count);
    if (!extraction->filter_text)
        return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for the filter");
    if (extraction->job.no_index || extraction->filter_text[strspn(extraction->filter_text, " \t\r\n")] == '\0')
        return 0;
    if (narrowing_open(extraction->filter_text, &extraction->narrowing) != 0)
        return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for the filter");
    if (!narrowing_parsed(extraction->narrowing))
        narrowing_close(&extraction->narrowing);
    key_runs_close(&extraction->runs);
    return 0;
}

/* A run of keys: what it says is noted, before the segments are given to the reader. */
static int take_run(struct extraction *extraction, struct worker_received *received)
{
    if (received->descriptors != 1 || extraction->planned)
        return protocol_error(extraction, "a run that is none");
    received->descriptors = 0;
    if (!extraction->narrowing) {
        close(received->descriptor[0]);
        return 0;
    }
    if (key_runs_ask(&extraction->runs, received->descriptor[0], &extraction->job.ring, extraction->narrowing) != 0)
        return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for what the runs of keys say");
    return 0;
}

static uint32_t truth_of(void *context, const char *verdict);

/* A piece of what is written down of verdicts: read when a packet is met of which nothing else is known. */
static int take_verdict_log(struct extraction *extraction, struct worker_received *received)
{
    if (received->descriptors != 1 || extraction->planned)
        return protocol_error(extraction, "verdicts that are none");
    if (!extraction->past && verdict_past_open(&extraction->job.ring, truth_of, extraction, 0, &extraction->past) != 0)
        return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for what is written down of verdicts");
    received->descriptors = 0;
    verdict_past_piece(extraction->past, received->descriptor[0]);
    return 0;
}

static void describe_gap(const struct worker_gap *gap, char *text, size_t size)
{
    char from[TEXT_TIME_SIZE], to[TEXT_TIME_SIZE], packets[64];
    text_time(gap->from_ns, from);
    text_time(gap->to_ns, to);
    if (gap->packets > 0)
        snprintf(packets, sizeof packets, "%" PRIu64 " packet%s", gap->packets,
                 gap->packets == 1 ? "" : "s");
    else
        snprintf(packets, sizeof packets, "packets");
    switch (gap->reason) {
    case WORKER_GAP_DAMAGED:
        snprintf(text, size, "gap: %s between %s and %s: damaged on disk, and no good copy",
                 packets, from, to);
        break;
    case WORKER_GAP_SILENT:
        snprintf(text, size, "gap: %s between %s and %s: a disk that has them does not answer", packets, from, to);
        break;
    case WORKER_GAP_OVERWRITTEN:
        snprintf(text, size,
                 "gap: %s between %s and %s: overwritten by the ring while they were read", packets,
                 from, to);
        break;
    case WORKER_GAP_DROPPED:
        snprintf(text, size,
                 "dropped: %s between %s and %s%s%.63s: the recorder was too slow or had no disk",
                 packets, from, to, gap->interface[0] ? " on " : "", gap->interface);
        break;
    case WORKER_GAP_FILTER:
        snprintf(text, size,
                 "link type %" PRIu32 " (%.63s): left out, the filter cannot be used on it",
                 gap->link_type, gap->interface);
        break;
    default:
        snprintf(text, size, "gap: %s between %s and %s: lost at a crash or with a disk", packets,
                 from, to);
        break;
    }
}

/* A gap that the recorder has found: it counts it, and the file says it. */
static int take_gap(struct extraction *extraction, const struct worker_gap *gap)
{
    char text[512];
    if (!extraction->writer)
        return protocol_error(extraction, "a gap before there was a file");
    describe_gap(gap, text, sizeof text);
    capture_writer_comment(extraction->writer, text);
    return 0;
}

/* Takes one message and files what it says. timeout_ms as in worker_take(), whose codes it returns.
 */
static int listen_once(struct extraction *extraction, int timeout_ms)
{
    struct worker_received received;
    int result = worker_take(extraction->socket, extraction->message, &received, timeout_ms);
    if (result)
        return result;
    if (received.type == WORKER_RUN)
        result = take_run(extraction, &received);
    if (received.type == WORKER_VERDICT_LOG)
        result = take_verdict_log(extraction, &received);
    for (uint32_t i = 0; i < received.descriptors; i++)
        close(received.descriptor[i]); /* only a JOB has others, and it was the first message */
    switch (received.type) {
    case WORKER_FILTER:
        return set_filter(extraction, received.elements, received.count);
    case WORKER_RUN:
    case WORKER_VERDICT_LOG:
        return result;
    case WORKER_SEGMENTS:
        return keep_segments(extraction, received.elements, received.count);
    case WORKER_PLAN_END:
        extraction->planned = true;
        return 0;
    case WORKER_FINISH:
        extraction->finish = true;
        return 0;
    case WORKER_VERDICT:
        extraction->judgement = ((const struct worker_verdict *)received.elements)->judgement;
        if (extraction->judgement < WORKER_DAMAGED || extraction->judgement > WORKER_AGAIN)
            return protocol_error(extraction, "a verdict that does not exist");
        return 0;
    case WORKER_GAP:
        return take_gap(extraction, received.elements);
    default:
        return protocol_error(extraction, "a second job");
    }
}

/* Says something that must arrive. While the socket is full, listens: the recorder may be waiting
 * for us to. */
static int say(struct extraction *extraction, enum worker_message_type type, const void *element,
               uint32_t bytes)
{
    for (;;) {
        int result = worker_offer(extraction->socket, type, element, bytes);
        if (result != ERR_AGAIN)
            return result;
        struct pollfd ready = {.fd = extraction->socket, .events = POLLIN | POLLOUT};
        if (poll(&ready, 1, -1) > 0 && (ready.revents & POLLIN)) {
            result = listen_once(extraction, 0);
            if (result && result != ERR_TIMEOUT)
                return result;
        }
    }
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void count_up(struct extraction *extraction)
{
    struct worker_progress *progress = &extraction->progress;
    if (extraction->reader) {
        struct reader_counters counters;
        reader_counters(extraction->reader, &counters);
        progress->segments_done = counters.segments_done;
        progress->segments_total = counters.segments_total;
        progress->bytes_read = counters.bytes_read;
        progress->packets_judged = extraction->judged + counters.sifted;
        if (counters.sifted > 0 && counters.sifted_ns > progress->at_ns)
            progress->at_ns = counters.sifted_ns;
    } else {
        progress->bytes_read = extraction->single.bytes_read;
    }
    if (extraction->writer) {
        progress->packets = capture_writer_packets(extraction->writer);
        progress->output_bytes = capture_writer_bytes(extraction->writer);
    }
    if (extraction->numbers) {
        progress->packets = extraction->numbers->packets;
        progress->output_bytes = extraction->numbers->bytes;
    }
}

/* Progress is for looking at: where the socket is full, it is left out. ERR_TIMEOUT: its seconds are over. */
static int tick(void *context)
{
    struct extraction *extraction = context;
    int64_t now = now_ns();
    if (now >= extraction->deadline_ns) {
        extraction->limit = WORKER_LIMIT_SECONDS;
        return ERR_TIMEOUT; /* pump() knows what it means */
    }
    if (now - extraction->reported_ns < PROGRESS_NS)
        return 0;
    extraction->reported_ns = now;
    count_up(extraction);
    int result = worker_offer(extraction->socket, WORKER_PROGRESS, &extraction->progress,
                              sizeof extraction->progress);
    return result == ERR_AGAIN ? 0 : result;
}

/* The recorder's clock, which the pressure gauge is published with. */
static uint64_t gauge_now_ns(void *context)
{
    struct timespec now;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* While it waits for its turn the recorder hears that it would read: so it keeps it. */
static void gauge_sleep_ns(void *context, uint64_t ns)
{
    struct extraction *extraction = context;
    nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
    extraction->progress.held_back_ns = extraction->pressure.held_back_ns;
    (void)tick(extraction); /* a recorder that is gone is noticed at the next thing said */
}

/* Reading yields to recording (P7): see pressure.h. */
static bool may_read(void *context, uint32_t disk, uint32_t ahead, bool wait)
{
    struct extraction *extraction = context;
    bool may = pressure_may_read(&extraction->pressure, extraction->job.disk[disk].number, ahead, wait);
    extraction->progress.held_back_ns = extraction->pressure.held_back_ns;
    return may;
}

static bool is_gone(void *context, uint64_t position)
{
    const struct extraction *extraction = context;
    return position < pressure_oldest(extraction->pressure.page);
}

static int judge(void *context, const struct worker_bad *bad)
{
    struct extraction *extraction = context;
    extraction->judgement = 0;
    int result = say(extraction, WORKER_BAD, bad, sizeof *bad);
    while (!result && extraction->judgement == 0)
        result = listen_once(extraction, -1);
    return result ? result : (int)extraction->judgement;
}

static void note_gap(void *context, const struct worker_gap *gap)
{
    struct extraction *extraction = context;
    char text[512];
    /* A socket that is closed is noticed at the next thing said. */
    if (extraction->gaps++ < GAPS_SENT_MAX)
        (void)say(extraction, WORKER_GAP, gap, sizeof *gap);
    if (!extraction->writer)
        return;
    describe_gap(gap, text, sizeof text);
    capture_writer_comment(extraction->writer, text);
}

/* ---- packets -----------------------------------------------------------------------------------
 */

/* Each link type that the filter refuses is told once. */
static void tell_refused(struct extraction *extraction,
                         const struct interface_description *description, uint32_t upto)
{
    for (uint32_t i = 0; i < upto; i++)
        if (reader_interface(extraction->reader, i)->link_type == description->link_type)
            return;
    struct worker_gap gap = {
        .from_ns = extraction->job.from_ns,
        .to_ns = extraction->job.to_ns,
        .reason = WORKER_GAP_FILTER,
        .link_type = description->link_type,
    };
    memcpy(gap.interface, description->name, sizeof gap.interface - 1);
    note_gap(extraction, &gap);
}

/* The reader has met interfaces that are new. */
static int add_exits(struct extraction *extraction)
{
    uint32_t count = reader_interfaces(extraction->reader);
    struct exit *more = realloc(extraction->exit, count * sizeof *more);
    if (!more)
        return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for interfaces");
    extraction->exit = more;
    while (extraction->exits < count) {
        const struct interface_description *description =
            reader_interface(extraction->reader, extraction->exits);
        pthread_mutex_lock(&extraction->programs_lock);
        const struct filter_program *program =
            filter_for(extraction->filter, description->link_type);
        pthread_mutex_unlock(&extraction->programs_lock);
        if (!program)
            return fail(&extraction->failure, ERR_NO_MEMORY, "no memory for the filter");
        if (program->verdict == FILTER_REFUSED)
            tell_refused(extraction, description, extraction->exits);
        more[extraction->exits++] = (struct exit){
            .program = program, .number = -1, .from_ns = INT64_MAX, .to_ns = INT64_MIN};
    }
    return 0;
}

static int write_packet(struct extraction *extraction, const struct reader_packet *packet)
{
    struct exit *way = &extraction->exit[packet->interface];
    if (way->number < 0) {
        way->number = capture_writer_interface(
            extraction->writer, reader_interface(extraction->reader, packet->interface));
        if (way->number < 0)
            return fail(&extraction->failure, way->number,
                        "too many interfaces for one capture file");
    }
    int result = capture_writer_packet(extraction->writer, (uint32_t)way->number, packet->packet);
    if (result == ERR_TOO_LARGE) {
        extraction->limit = WORKER_LIMIT_BYTES;
        return 0;
    }
    if (result) {
        extraction->failure = *capture_writer_failure(extraction->writer);
        return result;
    }
    if (packet->packet->time_ns < way->from_ns)
        way->from_ns = packet->packet->time_ns;
    if (packet->packet->time_ns > way->to_ns)
        way->to_ns = packet->packet->time_ns;
    uint64_t most = extraction->job.packets_max;
    if (most > 0 && capture_writer_packets(extraction->writer) == most)
        extraction->limit = WORKER_LIMIT_PACKETS;
    return 0;
}

static int numbers_flush(struct extraction *extraction)
{
    struct numbers *numbers = extraction->numbers;
    const uint8_t *at = (const uint8_t *)numbers->batch;
    size_t left = numbers->batched * sizeof numbers->batch[0];
    while (left > 0) {
        ssize_t written = write(extraction->output, at, left);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return fail_errno(&extraction->failure, errno, "the list of packets could not be written");
        at += written;
        left -= (size_t)written;
    }
    numbers->batched = 0;
    return 0;
}

static int numbers_put(struct extraction *extraction, const struct purge_range *range)
{
    struct numbers *numbers = extraction->numbers;
    if (range->count == 0)
        return 0;
    if (numbers->ranges++ == PURGE_RANGES_MAX)
        return fail(&extraction->failure, ERR_TOO_LARGE,
                    "more than %u stretches of packets match: do it in several parts, each of a shorter time", PURGE_RANGES_MAX);
    numbers->batch[numbers->batched++] = *range;
    return numbers->batched == NUMBERS_WRITTEN ? numbers_flush(extraction) : 0;
}

static int note_number(struct extraction *extraction, const struct reader_packet *packet)
{
    struct numbers *numbers = extraction->numbers;
    numbers->packets++;
    numbers->bytes += packet->packet->captured_bytes;
    for (uint32_t i = 0; i < NUMBERS_OPEN; i++) {
        struct purge_range *range = &numbers->open[i];
        if (range->count > 0 && range->stream == packet->stream && range->first + range->count == packet->number &&
            identity_equal(&range->run, &packet->run)) {
            range->count++;
            return 0;
        }
    }
    struct purge_range *range = &numbers->open[numbers->next++ % NUMBERS_OPEN];
    int result = numbers_put(extraction, range);
    *range = (struct purge_range){.run = packet->run, .stream = packet->stream, .first = packet->number, .count = 1};
    return result;
}

/* Before the filter looks: who may not see what packets carry must not be able to ask for it either. */
static void cut_to_headers(struct extraction *extraction, struct reader_packet *packet)
{
    uint16_t link_type = reader_interface(extraction->reader, packet->interface)->link_type;
    extraction->cut = *packet->packet;
    extraction->cut.captured_bytes = extraction->headers_of(
        link_type, packet->packet->bytes, packet->packet->captured_bytes);
    packet->packet = &extraction->cut;
}

/* Which `app` words hold for what was recorded of a conversation: for the reader. */
static uint32_t truth_of(void *context, const char *verdict)
{
    const struct extraction *extraction = context;
    return filter_app_truth(extraction->filter, verdict);
}

/*
 * What is known of the packet's conversation: of a sealed segment what is recorded there, of one that is still being filled what layer 7 has found by
 * now; where that is nothing, what is written down of this packet's number (verdict_past.h). False: nothing.
 */
static bool know_app(const struct extraction *extraction, const struct reader_packet *packet, uint32_t *truth)
{
    uint16_t link_type = reader_interface(extraction->reader, packet->interface)->link_type, app[2];
    char text[VERDICT_TEXT_BYTES];
    struct flow_keys keys;
    uint64_t hash;
    *truth = 0;
    (void)extraction->keys_of(link_type, packet->packet->bytes, packet->packet->captured_bytes, NULL, &keys);
    if (!verdicts_hash(&keys, extraction->verdict_seed, &hash))
        return true; /* it is of none: no `app` holds for it */
    if (!packet->unsealed && packet->verdicts && segment_verdicts_get(packet->verdicts, hash, truth))
        return true;
    if (packet->unsealed && extraction->verdicts && verdicts_get(extraction->verdicts, hash, app) &&
        verdicts_text(extraction->verdicts, app, text)) {
        *truth = filter_app_truth(extraction->filter, text);
        return true;
    }
    return extraction->past && verdict_past_ask(extraction->past, &packet->run, packet->stream, packet->number, &keys, truth);
}

/* Whether the packet is to be handed out. */
static bool matches(struct extraction *extraction, const struct reader_packet *packet, bool known, uint32_t truth)
{
    const struct filter_program *program = extraction->exit[packet->interface].program;
    if (extraction->apps == 0)
        return filter_match(program, packet->packet, packet->rule);
    enum filter_answer answer = filter_ask(program, packet->packet, packet->rule, known, truth);
    extraction->undecided += answer == FILTER_UNDECIDED;
    return answer == FILTER_YES;
}

static int hand_out(struct extraction *extraction)
{
    struct reader_packet packet;
    int result = 0;
    while (!extraction->limit && (result = reader_next(extraction->reader, &packet)) == 1) {
        extraction->progress.at_ns = packet.packet->time_ns;
        extraction->judged += !packet.matches;
        result = ++extraction->handed % PACKETS_PER_CLOCK == 0 ? tick(extraction) : 0;
        if (!result && packet.interface >= extraction->exits)
            result = add_exits(extraction);
        if (result)
            return result;
        uint32_t truth = 0;
        bool known = extraction->apps == 0 || know_app(extraction, &packet, &truth);
        if (extraction->job.headers_only)
            cut_to_headers(extraction, &packet);
        if (!packet.matches && !matches(extraction, &packet, known, truth))
            continue;
        reader_matched(extraction->reader);
        result = extraction->numbers ? note_number(extraction, &packet) : write_packet(extraction, &packet);
        if (result)
            return result;
    }
    return result;
}

/* Hands out everything that the reader knows of, or up to a limit. */
static int pump(struct extraction *extraction)
{
    int result = hand_out(extraction);
    return result == ERR_TIMEOUT && extraction->limit == WORKER_LIMIT_SECONDS ? 0 : result;
}

/* ---- jobs --------------------------------------------------------------------------------------
 */

/* How long to wait for the recorder: a stream whose next frames are not told of is not waited for
 * without end. */
static int patience_ms(struct extraction *extraction)
{
    int64_t now = now_ns();
    if (!reader_waits(extraction->reader)) {
        extraction->waits_since_ns = 0;
        return -1;
    }
    if (extraction->waits_since_ns == 0)
        extraction->waits_since_ns = now;
    int64_t left = extraction->waits_since_ns + PATIENCE_NS - now;
    return left > 0 ? (int)(left / 1000000) + 1 : 0;
}

/* Waits for the recorder, with an eye on the output and on the time, and takes all that it has said. */
static int listen_and_watch(struct extraction *extraction)
{
    int timeout_ms = patience_ms(extraction);
    int64_t left_ms = (extraction->deadline_ns - now_ns()) / 1000000 + 1;
    if (extraction->deadline_ns != INT64_MAX && (timeout_ms < 0 || left_ms < timeout_ms))
        timeout_ms = left_ms < 0 ? 0 : left_ms < INT_MAX ? (int)left_ms : INT_MAX;
    struct pollfd ready[2] = {{.fd = extraction->socket, .events = POLLIN},
                              {.fd = extraction->output}};
    while (poll(ready, 2, timeout_ms) < 0)
        if (errno != EINTR)
            return fail_errno(&extraction->failure, errno, "waiting for the recorder failed");
    if (ready[1].revents & (POLLERR | POLLHUP))
        return fail(&extraction->failure, ERR_CLOSED, "the output was closed by its reader");
    int result;
    do
        result = listen_once(extraction, 0);
    while (!result);
    return result == ERR_TIMEOUT ? 0 : result;
}

/* How many packets one that is being filled has is not known yet. */
static int past_want(struct extraction *extraction)
{
    int result = 0;
    for (uint32_t i = 0; i < extraction->inbox_count && extraction->past && !result; i++) {
        const struct worker_segment *segment = &extraction->inbox[i];
        uint64_t end = segment->state == SEGMENT_OPEN ? UINT64_MAX : segment->first_packet + segment->packets;
        result = verdict_past_want(extraction->past, &segment->run, segment->stream, segment->first_packet, end);
    }
    return result;
}

static int give_segments(struct extraction *extraction)
{
    for (uint32_t i = 0; i < extraction->inbox_count; i++) {
        struct worker_segment *segment = &extraction->inbox[i];
        /* Where some of it was purged and the range ends in it, how much of that lies in the range only its packets say. */
        segment->whole = segment->purged > 0 && (segment->first_ns < extraction->job.from_ns ||
                                                 (segment->last_ns >= extraction->job.to_ns && extraction->job.to_ns != INT64_MAX));
        segment->nothing = segment->state != SEGMENT_OPEN && !segment->whole &&
                           key_runs_exclude(&extraction->runs, &segment->segment, segment->revision);
    }
    int result = past_want(extraction);
    if (!result)
        result = reader_add(extraction->reader, extraction->inbox, extraction->inbox_count);
    extraction->inbox_count = 0;
    return result ? fail(&extraction->failure, result, "the recorder sent a segment that cannot be")
                  : 0;
}

/* A filter that asks for what layer 7 finds needs to know of names and of conversations. */
static int prepare_apps(struct extraction *extraction)
{
    extraction->apps = filter_apps(extraction->filter);
    if (extraction->apps == 0)
        return 0;
    if (!extraction->keys_of)
        return fail(&extraction->failure, ERR_UNSUPPORTED, "nobody here knows conversations");
    return extraction->verdicts ? filter_check_apps(extraction->filter, extraction->verdicts, &extraction->failure) : 0;
}

static int await_plan(struct extraction *extraction)
{
    int result = 0;
    while (!result && !extraction->planned) {
        result = listen_once(extraction, -1);
        if (!result && extraction->filter_text && !extraction->filter)
            result = filter_open(extraction->filter_text, extraction->levels_of, &extraction->filter,
                                 &extraction->failure);
    }
    if (!result && !extraction->filter)
        result = filter_open(NULL, extraction->levels_of, &extraction->filter, &extraction->failure);
    return result ? result : prepare_apps(extraction);
}

static void describe_section(const struct extraction *extraction, char *text, size_t size)
{
    const struct worker_job *job = &extraction->job;
    char from[TEXT_TIME_SIZE] = "the beginning", to[TEXT_TIME_SIZE] = "the end", ring[256],
         host[256];
    if (job->from_ns != INT64_MIN)
        text_time(job->from_ns, from);
    if (job->to_ns != INT64_MAX)
        text_time(job->to_ns, to);
    text_printable(job->ring_name, ring, sizeof ring);
    text_printable(job->host, host, sizeof host);
    int at = snprintf(text, size, "ring %s%s%s, from %s to %s", ring, host[0] ? " on " : "", host,
                      from, to);
    const char *filter = extraction->filter_text;
    if (filter && filter[0] && at > 0 && (size_t)at < size)
        snprintf(text + at, size - (size_t)at, ", filter: %.300s", filter);
}

static int open_writer(struct extraction *extraction)
{
    char comment[700];
    describe_section(extraction, comment, sizeof comment);
    struct capture_writer_options options = {
        .format = (enum capture_format)extraction->job.format,
        .fd = extraction->output,
        .bytes_max = extraction->job.bytes_max,
        .comment = comment,
    };
    (void)fcntl(extraction->output, F_SETPIPE_SZ, PIPE_BYTES);
    return capture_writer_open(&options, &extraction->writer, &extraction->failure);
}

/* The sifter's: any thread. Packets of a link type that the filter refuses come to the reader, and so it is told. */
static const void *program_for(void *context, uint16_t link_type)
{
    struct extraction *extraction = context;
    pthread_mutex_lock(&extraction->programs_lock);
    const struct filter_program *program = filter_for(extraction->filter, link_type);
    pthread_mutex_unlock(&extraction->programs_lock);
    return program && program->verdict != FILTER_REFUSED ? program : NULL;
}

static bool program_matches(const void *program, const struct packet *packet, uint32_t rule)
{
    return filter_match(program, packet, rule);
}

/* The sifter asks the filter what this thread would ask; not where that is more than the filter of a whole packet, nor where every packet matches. */
static void ask_sifter(struct extraction *extraction)
{
    const char *text = extraction->filter_text;
    const struct sifter_question question = {.program = program_for, .match = program_matches, .context = extraction};
    if (extraction->sifter && text && text[strspn(text, " \t\r\n")] != '\0' && extraction->apps == 0 && !extraction->job.headers_only)
        sifter_ask(extraction->sifter, &question);
}

static int open_reader(struct extraction *extraction)
{
    struct reader_options options = {
        .disk = extraction->disk,
        .disks = extraction->job.disks,
        .ring = extraction->job.ring,
        .from_ns = extraction->job.from_ns,
        .to_ns = extraction->job.to_ns,
        .follow = extraction->job.follow != 0,
        .memory_max = extraction->job.memory_max,
        .pool = &extraction->pool,
        .sifter = extraction->sifter,
        .narrowing = extraction->narrowing,
        .truth_of = extraction->apps != 0 ? truth_of : NULL,
        .verdict_seed = extraction->verdict_seed,
        .judge = judge,
        .gap = note_gap,
        .tick = tick,
        .may_read = extraction->pressure.page ? may_read : NULL,
        .is_gone = extraction->pressure.page ? is_gone : NULL,
        .context = extraction,
    };
    ask_sifter(extraction);
    int result = reader_open(&options, &extraction->reader);
    return result ? fail(&extraction->failure, result, "no memory for reading") : 0;
}

/* What each interface saw and dropped goes into its statistics block. */
static int finish_output(struct extraction *extraction)
{
    reader_finish(extraction->reader, !extraction->limit);
    if (capture_writer_packets(extraction->writer) == 0 &&
        reader_interfaces(extraction->reader) > 0) /* a file without packets names its link type */
        (void)capture_writer_interface(extraction->writer, reader_interface(extraction->reader, 0));
    for (uint32_t i = 0; i < extraction->exits; i++) {
        const struct exit *way = &extraction->exit[i];
        struct capture_statistics statistics = {.from_ns = way->from_ns, .to_ns = way->to_ns};
        if (way->number < 0)
            continue;
        reader_account(extraction->reader, i, &statistics.received, &statistics.dropped);
        capture_writer_statistics(extraction->writer, (uint32_t)way->number, &statistics);
    }
    if (extraction->undecided > 0) {
        char text[256];
        snprintf(text, sizeof text, "undecided: %" PRIu64 " packets are not here of which it is not recorded what layer 7 found, which the filter asks for",
                 extraction->undecided);
        capture_writer_comment(extraction->writer, text);
    }
    int result = capture_writer_finish(extraction->writer);
    if (result)
        extraction->failure = *capture_writer_failure(extraction->writer);
    return result;
}

static int run_extract(struct extraction *extraction)
{
    int result = await_plan(extraction);
    if (!result)
        result = open_reader(extraction);
    if (!result)
        result = open_writer(extraction);
    if (extraction->job.seconds_max > 0)
        extraction->deadline_ns = now_ns() + (int64_t)extraction->job.seconds_max * 1000000000;
    if (extraction->job.seconds_max > 0)
        extraction->pressure.until_ns = (uint64_t)extraction->deadline_ns;
    while (!result) {
        bool last = extraction->finish || !extraction->job.follow;
        result = give_segments(extraction);
        if (last || patience_ms(extraction) == 0) {
            extraction->waits_since_ns = 0;
            reader_hurry(extraction->reader);
        }
        if (!result)
            result = pump(extraction);
        if (result || extraction->limit || (last && extraction->inbox_count == 0))
            break;
        result = capture_writer_flush(extraction->writer);
        if (result)
            extraction->failure = *capture_writer_failure(extraction->writer);
        if (!result && extraction->inbox_count == 0)
            result = say(extraction, WORKER_CAUGHT_UP, NULL, 0);
        if (!result && extraction->inbox_count == 0 && !extraction->finish)
            result = listen_and_watch(extraction);
        if (!result && now_ns() >= extraction->deadline_ns) {
            extraction->limit = WORKER_LIMIT_SECONDS;
            break;
        }
    }
    return result ? result : finish_output(extraction);
}

static int run_numbers(struct extraction *extraction)
{
    int result = await_plan(extraction);
    if (!result)
        result = open_reader(extraction);
    extraction->numbers = calloc(1, sizeof *extraction->numbers);
    if (!result && !extraction->numbers)
        result = fail(&extraction->failure, ERR_NO_MEMORY, "no memory for the list of packets");
    if (!result)
        result = give_segments(extraction);
    if (result)
        return result;
    reader_hurry(extraction->reader);
    result = pump(extraction);
    for (uint32_t i = 0; i < NUMBERS_OPEN && !result; i++)
        result = numbers_put(extraction, &extraction->numbers->open[i]);
    if (!result)
        result = numbers_flush(extraction);
    if (!result)
        reader_finish(extraction->reader, true);
    return result;
}

/* For jobs that go through the segments one by one: awaits the plan, checks it and opens what reads them. */
static int open_segments(struct extraction *extraction, bool everything)
{
    int result = await_plan(extraction);
    if (result)
        return result;
    struct segment_readers *shared = &extraction->single;
    *shared = (struct segment_readers){
        .disk = extraction->disk,
        .disks = extraction->job.disks,
        .ring = extraction->job.ring,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .everything = everything,
        .judge = judge,
        .may_read = extraction->pressure.page ? may_read : NULL,
        .is_gone = extraction->pressure.page ? is_gone : NULL,
        .context = extraction,
        .pool = &extraction->pool,
    };
    result = open_reader(extraction); /* only to check what the recorder has sent */
    if (!result)
        result = reader_add(extraction->reader, extraction->inbox, extraction->inbox_count);
    reader_close(&extraction->reader);
    if (result)
        return fail(&extraction->failure, result, "the recorder sent a segment that cannot be");
    extraction->progress.segments_total = extraction->inbox_count;
    return segment_readers_open(shared, extraction->job.memory_max);
}

static int run_verify(struct extraction *extraction)
{
    int result = open_segments(extraction, true);
    for (uint32_t i = 0; i < extraction->inbox_count && !result; i++) {
        result = verifier_check(&extraction->single, &extraction->inbox[i], tick, extraction);
        extraction->progress.segments_done += !result;
        extraction->progress.at_ns = extraction->inbox[i].last_ns;
    }
    return result;
}

static int run_make(struct extraction *extraction)
{
    int result = open_segments(extraction, false);
    if (!result)
        result = run_maker_write(&extraction->single, extraction->inbox, extraction->inbox_count, extraction->output, tick, extraction);
    return result;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static bool job_fits(const struct worker_job *job, uint32_t descriptors)
{
    uint32_t outputs = job->kind != WORKER_VERIFY;
    if (job->kind < WORKER_EXTRACT || job->kind > WORKER_NUMBERS || (job->kind == WORKER_NUMBERS && job->follow))
        return false;
    if (job->disks > RING_DISKS_MAX || job->gauge > 1 || job->verdicts > 1)
        return false;
    for (uint32_t i = 0; i < job->disks && job->gauge; i++)
        if (job->disk[i].number >= RING_DISKS_MAX)
            return false;
    return descriptors == job->disks + outputs + job->gauge + job->verdicts &&
           job->from_ns <= job->to_ns && job->seconds_max <= WORKER_SECONDS_MAX &&
           (job->kind != WORKER_EXTRACT || (job->format >= WORKER_PCAPNG && job->format <= WORKER_PCAP_US));
}

static int open_disk(struct extraction *extraction, uint32_t i, int fd)
{
    int result = disk_uring_from_fd(fd, extraction->job.disk[i].name, &extraction->disk[i],
                                    &extraction->failure);
    if (result)
        return result;
    struct disk *disk = extraction->disk[i];
    disk->geometry = (struct disk_geometry){
        .disk_bytes = extraction->job.disk[i].disk_bytes,
        .slots_offset = extraction->job.disk[i].slots_offset,
        .slot_bytes = extraction->job.disk[i].slot_bytes,
        .slot_count = (uint32_t)extraction->job.disk[i].slot_count,
    };
    const struct disk_geometry *geometry = &disk->geometry;
    if (geometry->slot_bytes == 0 || geometry->slot_bytes > SLOT_BYTES_MAX ||
        geometry->slot_bytes % PAGE_BYTES != 0 || geometry->slots_offset % PAGE_BYTES != 0 ||
        extraction->job.disk[i].slot_count > UINT32_MAX - 1 ||
        geometry->slots_offset > disk->bytes ||
        geometry->slot_count > (disk->bytes - geometry->slots_offset) / geometry->slot_bytes)
        return fail(&extraction->failure, ERR_PROTOCOL, "%s: the slots do not fit the disk",
                    disk->name);
    return 0;
}

/* Before the process confines itself: afterwards it could not ask for one. */
static void seed_take(struct extraction *extraction)
{
    if (extraction->verdicts)
        extraction->verdict_seed = verdicts_seed(extraction->verdicts);
    else if (getrandom(&extraction->verdict_seed, sizeof extraction->verdict_seed, GRND_NONBLOCK) < 0)
        extraction->verdict_seed = (uint64_t)now_ns();
}

/* The first message. Every descriptor that came is taken over or closed. */
static int take_job(struct extraction *extraction)
{
    struct worker_received received;
    int result = worker_take(extraction->socket, extraction->message, &received, -1);
    if (result)
        return result;
    uint32_t used = 0;
    if (received.type == WORKER_JOB)
        memcpy(&extraction->job, received.elements, sizeof extraction->job);
    if (received.type != WORKER_JOB || !job_fits(&extraction->job, received.descriptors)) {
        result = protocol_error(extraction, "something else than a job");
    } else {
        if (extraction->job.kind != WORKER_VERIFY)
            extraction->output = received.descriptor[used++];
        for (uint32_t i = 0; i < extraction->job.disks && !result; i++)
            result = open_disk(extraction, i, received.descriptor[used++]);
        extraction->pressure.seat = extraction->job.seat;
        if (extraction->job.gauge && !result) /* the mapping outlives the descriptor */
            result = pressure_gauge_map(received.descriptor[used], &extraction->pressure.page);
        if (extraction->job.verdicts && !result)
            result = verdicts_map(received.descriptor[received.descriptors - 1], &extraction->verdicts);
        seed_take(extraction);
    }
    while (used < received.descriptors)
        close(received.descriptor[used++]);
    return result;
}

static void send_done(struct extraction *extraction, int result)
{
    struct worker_done done = {
        .result = result, .limit = extraction->limit, .gaps = extraction->gaps};
    count_up(extraction);
    done.total = extraction->progress;
    if (extraction->reader) {
        struct reader_counters counters;
        reader_counters(extraction->reader, &counters);
        done.frames_checked = counters.frames_checked;
        done.frames_bad = counters.frames_bad;
        done.segments_by_runs = counters.segments_by_runs;
        done.segments_narrowed = counters.segments_narrowed;
        done.segments_excluded = counters.segments_excluded;
        done.index_bytes = counters.index_bytes;
        done.blocks_wanted = counters.blocks_wanted;
        done.blocks_read = counters.blocks_read;
        done.indexes_bad = counters.indexes_bad;
        done.purged = counters.purged;
    } else {
        done.frames_checked = extraction->single.frames_checked;
        done.frames_bad = extraction->single.frames_bad;
    }
    if (extraction->narrowing)
        narrowing_describe(extraction->narrowing, done.narrowing, sizeof done.narrowing);
    done.runs = extraction->runs.asked;
    done.runs_bad = extraction->runs.bad;
    done.run_bytes = extraction->runs.bytes_read;
    done.undecided = extraction->undecided;
    if (extraction->writer)
        done.times_moved = capture_writer_times_moved(extraction->writer);
    const char *text = extraction->failure.code ? extraction->failure.text : error_text(result);
    if (result)
        snprintf(done.text, sizeof done.text, "%.380s", text);
    (void)say(extraction, WORKER_DONE, &done, sizeof done);
}

void extraction_set_headers(struct extraction *extraction, packet_headers_of *headers_of)
{
    extraction->headers_of = headers_of;
}

void extraction_set_keys(struct extraction *extraction, flow_keys_of *keys_of)
{
    extraction->keys_of = keys_of;
}

static bool job_has_come(void *context)
{
    const struct extraction *extraction = context;
    struct pollfd socket = {.fd = extraction->socket, .events = POLLIN};
    return poll(&socket, 1, 0) != 0;
}

/* What a small answer comes to use of memory, the kernel finds now, as long as there is nothing to do. */
static void warm(struct extraction *extraction)
{
    uint8_t *heap = job_has_come(extraction) ? NULL : malloc(HEAP_WARM_BYTES);
    for (uint32_t at = 0; heap && at < HEAP_WARM_BYTES; at += PAGE_BYTES)
        *(volatile uint8_t *)(heap + at) = 0;
    free(heap); /* the program has told malloc() to keep it */
    piece_pool_warm(&extraction->pool, POOL_WARM_BYTES, job_has_come, extraction);
}

int extraction_open(int socket, packet_levels_of *levels_of, struct extraction **out)
{
    *out = NULL;
    struct extraction *extraction = calloc(1, sizeof *extraction);
    if (!extraction)
        return ERR_NO_MEMORY;
    extraction->socket = socket;
    extraction->levels_of = levels_of;
    extraction->output = -1;
    extraction->deadline_ns = INT64_MAX;
    extraction->pressure =
        (struct pressure_reader){.now_ns = gauge_now_ns, .sleep_ns = gauge_sleep_ns, .context = extraction};
    piece_pool_open(&extraction->pool, WORKER_MEMORY_USUAL);
    pthread_mutex_init(&extraction->programs_lock, NULL);
    extraction->sifter = sifter_open(); /* now, since later on no thread can be started: capture/extract_main.c */
    warm(extraction);
    int result = take_job(extraction);
    if (result) {
        send_done(extraction, result);
        extraction_close(&extraction);
        return result;
    }
    *out = extraction;
    return 0;
}

int extraction_run(struct extraction *extraction)
{
    extraction->reported_ns = now_ns();
    int result = extraction->job.headers_only && !extraction->headers_of
                     ? fail(&extraction->failure, ERR_UNSUPPORTED, "nobody here knows headers")
                 : extraction->job.kind == WORKER_VERIFY   ? run_verify(extraction)
                 : extraction->job.kind == WORKER_RUN_MAKE ? run_make(extraction)
                 : extraction->job.kind == WORKER_NUMBERS  ? run_numbers(extraction)
                                                         : run_extract(extraction);
    send_done(extraction, result);
    return result;
}

void extraction_fail(struct extraction *extraction, const struct failure *failure)
{
    extraction->failure = *failure;
    send_done(extraction, failure->code);
}

void extraction_close(struct extraction **out)
{
    struct extraction *extraction = *out;
    if (!extraction)
        return;
    reader_close(&extraction->reader);
    if (extraction->single.scratch)
        segment_readers_close(&extraction->single);
    sifter_close(&extraction->sifter);
    pthread_mutex_destroy(&extraction->programs_lock);
    capture_writer_close(&extraction->writer);
    filter_close(&extraction->filter);
    narrowing_close(&extraction->narrowing);
    verdict_past_close(&extraction->past);
    key_runs_close(&extraction->runs);
    for (uint32_t i = 0; i < RING_DISKS_MAX; i++)
        disk_close(&extraction->disk[i]);
    pressure_gauge_unmap(&extraction->pressure.page);
    verdicts_close(&extraction->verdicts);
    piece_pool_close(&extraction->pool);
    if (extraction->output >= 0)
        close(extraction->output);
    free(extraction->inbox);
    free(extraction->filter_text);
    free(extraction->exit);
    free(extraction->numbers);
    free(extraction);
    *out = NULL;
}
