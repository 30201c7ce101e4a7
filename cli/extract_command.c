/*
 * extract_command.c - a part of the past as a capture file.
 *
 * The recorder (its confined worker) writes into a descriptor that we hand over. ^C ends a job that
 * follows in good order (extract.finish). Any other is given up, as is every job at the second ^C,
 * and a packet that was being written is cut off the end of the file, so that what is there is a
 * whole capture. A reader that goes away (head, wireshark) ends it without a word.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "answer.h"
#include "capture_output.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"
#include "steno_query.h"
#include "text.h"

#define GAPS_SHOWN 20
#define FILTER_BYTES_MAX 32768u

struct extraction {
    struct session *session;
    struct capture_output output;
    struct progress progress;
    struct failure failure; /* of the output */
    bool follow;
    bool stopped;
    uint64_t packets; /* handed out, as of the last progress */
    bool bounded_below, bounded_above;
    int64_t from_ns, to_ns;
};

/* ---- while it runs --------------------------------------------------------------------------- */

static void extraction_progress(const json_t *answer, void *context)
{
    struct extraction *extraction = context;
    uint64_t packets = answer_count(answer, "packets");
    extraction->packets = packets;
    if (!progress_is_due(&extraction->progress))
        return;
    char size[TEXT_SIZE_SIZE];
    text_size(answer_count(answer, "output_bytes"), size);
    char time[TEXT_TIME_SIZE] = "";
    int64_t at_ns;
    if (answer_time(json_object_get(answer, "at_ns"), &at_ns))
        text_time(at_ns, time);
    time[strcspn(time, ".")] = '\0';
    if (extraction->follow)
        progress_show(&extraction->progress, "%" PRIu64 " packets, %s, at %s; ^C ends it", packets,
                      size, time[0] ? time : "-");
    else
        progress_show(&extraction->progress, "%" PRIu64 " packets, %s, at %s, segments: %s",
                      packets, size, time[0] ? time : "-",
                      progress_text(&extraction->progress, answer_count(answer, "segments_done"),
                                    answer_count(answer, "segments_total"), "segments"));
}

static int extraction_tick(void *context)
{
    struct extraction *extraction = context;
    return capture_output_settle(&extraction->output, false, &extraction->failure);
}

static int extraction_interrupted(unsigned count, void *context)
{
    struct extraction *extraction = context;
    extraction->stopped = true;
    if (count > 1 || !extraction->follow)
        return ERR_INTERRUPTED;
    return session_add(extraction->session, "extract.finish");
}

/* ---- the request ----------------------------------------------------------------------------- */

/* The words of the filter with blanks between them, as tcpdump does. The caller frees. */
static char *filter_make(const struct invocation *invocation, struct failure *failure)
{
    size_t bytes = 1;
    for (uint32_t i = 1; i < invocation->operands; i++)
        bytes += strlen(invocation->operand[i]) + 1;
    if (bytes > FILTER_BYTES_MAX) {
        fail(failure, ERR_INVALID, "a filter of more than %u bytes", FILTER_BYTES_MAX);
        return NULL;
    }
    char *filter = malloc(bytes);
    if (!filter) {
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
        return NULL;
    }
    char *end = filter;
    *end = '\0';
    for (uint32_t i = 1; i < invocation->operands; i++)
        end += sprintf(end, "%s%s", i > 1 ? " " : "", invocation->operand[i]);
    return filter;
}

static int64_t realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int range_parse(const struct invocation *invocation, struct extraction *extraction,
                       struct failure *failure)
{
    int64_t now_ns = realtime_ns();
    const char *from = options_text(invocation, "from");
    const char *to = options_text(invocation, "to");
    int code = from ? text_parse_time(from, now_ns, &extraction->from_ns, failure) : 0;
    if (code != 0)
        return fail_context(failure, code, "--from");
    code = to ? text_parse_time(to, now_ns, &extraction->to_ns, failure) : 0;
    if (code != 0)
        return fail_context(failure, code, "--to");
    extraction->bounded_below = from != NULL;
    extraction->bounded_above = to != NULL;
    if (from && to && extraction->from_ns >= extraction->to_ns)
        return fail(failure, ERR_INVALID, "--from %s is not before --to %s", from, to);
    return 0;
}

/* Puts a query in another language into ours: the filter anew, and the range as far as it narrows it. */
static int query_translate(const char *language, char **filter, struct extraction *extraction, struct failure *failure)
{
    struct steno_query query;
    if (!language || strcmp(language, "pcap") == 0)
        return 0;
    if (strcmp(language, "steno") != 0)
        return fail(failure, ERR_INVALID, "--query \"%s\": expected pcap or steno", output_printable(language));
    int code = steno_query_open(*filter, realtime_ns(), &query, failure);
    if (code != 0)
        return code;
    free(*filter);
    *filter = query.filter;
    if (query.from_ns != INT64_MIN && (!extraction->bounded_below || query.from_ns > extraction->from_ns)) {
        extraction->from_ns = query.from_ns;
        extraction->bounded_below = true;
    }
    if (query.to_ns != INT64_MAX && (!extraction->bounded_above || query.to_ns < extraction->to_ns)) {
        extraction->to_ns = query.to_ns;
        extraction->bounded_above = true;
    }
    if (extraction->bounded_below && extraction->bounded_above && extraction->from_ns >= extraction->to_ns)
        return fail(failure, ERR_INVALID, "the query's times lie outside --from and --to");
    return 0;
}

static int format_check(const char *format, struct failure *failure)
{
    static const char *const known[] = {"pcapng", "pcap", "pcap-us"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(format, known[i]) == 0)
            return 0;
    return fail(failure, ERR_INVALID, "--format \"%s\": expected pcapng, pcap or pcap-us", format);
}

static json_t *time_or_null(bool given, int64_t time_ns)
{
    return given ? answer_make_time(time_ns) : json_null();
}

/* The params of extract; null with a failure. */
static json_t *extract_params(const struct invocation *invocation, struct extraction *extraction,
                              struct failure *failure)
{
    const char *format = options_text(invocation, "format");
    uint64_t packets_max = 0;
    uint64_t bytes_max = 0;
    uint64_t seconds_max = 0;
    if (!format)
        format = "pcapng";
    if (text_check_ring_name(invocation->operand[0], failure) != 0 ||
        range_parse(invocation, extraction, failure) != 0 || format_check(format, failure) != 0 ||
        options_number(invocation, "packets-max", 1, INT64_MAX, &packets_max, failure) != 0 ||
        options_size(invocation, "bytes-max", &bytes_max, failure) != 0 ||
        options_number(invocation, "seconds-max", 1, INT32_MAX / 10, &seconds_max, failure) != 0)
        return NULL;
    extraction->follow = options_given(invocation, "follow");
    char *filter = filter_make(invocation, failure);
    if (filter && query_translate(options_text(invocation, "query"), &filter, extraction, failure) != 0) {
        free(filter);
        filter = NULL;
    }
    if (!filter)
        return NULL;
    json_t *text = json_string(filter);
    free(filter);
    if (!text) {
        fail(failure, ERR_INVALID, "a filter that is not UTF-8");
        return NULL;
    }
    json_t *params =
        json_pack("{s:s, s:o, s:o, s:o, s:s, s:b, s:I, s:I}", "ring", invocation->operand[0],
                  "from_ns", time_or_null(extraction->bounded_below, extraction->from_ns), "to_ns",
                  time_or_null(extraction->bounded_above, extraction->to_ns), "filter", text,
                  "format", format, "follow", extraction->follow, "packets_max",
                  (json_int_t)packets_max, "bytes_max", (json_int_t)bytes_max);
    if (!params)
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    if (seconds_max > 0)
        json_object_set_new(params, "seconds_max", json_integer((json_int_t)seconds_max));
    if (options_given(invocation, "headers"))
        json_object_set_new(params, "headers", json_true());
    return params;
}

/* ---- the report ------------------------------------------------------------------------------ */

/* The recorder's word for why, as a sentence; a word that we do not know stays as it is. */
static const char *gap_reason(const char *word)
{
    static const struct {
        const char *word;
        const char *sentence;
    } table[] = {
        {"damaged", "damaged on disk, and no good copy"},
        {"overwritten", "overwritten by the ring while they were read"},
        {"filter", "left out, the filter cannot be used on this link type"},
        {"dropped", "dropped while recording, see tapeloop history"},
        {"lost", "lost at a crash or with a disk"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].word, word) == 0)
            return table[i].sentence;
    return word;
}

/* A bound of a gap: the ends of time mean that there is none. */
static void gap_time(const json_t *gap, const char *name, const char *none,
                     char text[TEXT_TIME_SIZE])
{
    int64_t time_ns;
    if (answer_time(json_object_get(gap, name), &time_ns) && time_ns != INT64_MIN &&
        time_ns != INT64_MAX)
        text_time(time_ns, text);
    else
        snprintf(text, TEXT_TIME_SIZE, "%s", none);
}

static void gap_print(const json_t *gap)
{
    char from[TEXT_TIME_SIZE];
    char to[TEXT_TIME_SIZE];
    gap_time(gap, "from_ns", "the beginning", from);
    gap_time(gap, "to_ns", "the end", to);
    uint64_t packets = answer_count(gap, "packets");
    char count[32] = "packets";
    if (packets > 0)
        snprintf(count, sizeof count, "%" PRIu64 " packet%s", packets, packets == 1 ? "" : "s");
    const char *interface = answer_text(gap, "interface");
    const char *reason = answer_text(gap, "reason");
    char type[32] = "";
    if (strcmp(reason, "filter") == 0)
        snprintf(type, sizeof type, " (link type %" PRIu64 ")", answer_count(gap, "link_type"));
    output_note("  gap: %s from %s to %s%s%s: %s%s", count, from, to,
                interface[0] ? ", interface " : "", interface, gap_reason(reason), type);
}

static void gaps_print(const json_t *result)
{
    const json_t *gaps = answer_array(result, "gaps");
    uint64_t total = answer_count(result, "gaps_total");
    size_t listed = json_array_size(gaps);
    if (total < listed)
        total = listed;
    for (size_t i = 0; i < listed && i < GAPS_SHOWN; i++)
        gap_print(json_array_get(gaps, i));
    size_t shown = listed < GAPS_SHOWN ? listed : GAPS_SHOWN;
    if (total > shown)
        output_note("  and %" PRIu64 " more gaps (--json shows more of them)", total - shown);
}

static void summary_print(const struct extraction *extraction, const json_t *result)
{
    uint64_t packets = answer_count(result, "packets");
    char size[TEXT_SIZE_SIZE];
    char read[TEXT_SIZE_SIZE];
    char from[TEXT_TIME_SIZE] = "the oldest";
    char to[TEXT_TIME_SIZE] = "the newest";
    if (extraction->bounded_below)
        text_time(extraction->from_ns, from);
    if (extraction->bounded_above)
        text_time(extraction->to_ns, to);
    output_note(
        "%" PRIu64 " packet%s, %s, from %s to %s, in %s (%s read, %" PRIu64 " packets judged)",
        packets, packets == 1 ? "" : "s", text_size(answer_count(result, "output_bytes"), size),
        from, to, output_duration(progress_seconds(&extraction->progress)),
        text_size(answer_count(result, "bytes_read"), read),
        answer_count(result, "packets_judged"));
    uint64_t held_back_ms = answer_count(result, "held_back_ms");
    if (held_back_ms > 0)
        output_note("  waited %" PRIu64 ".%03" PRIu64 " s because recording needed the disks",
                    held_back_ms / 1000, held_back_ms % 1000);
    uint64_t moved = answer_count(result, "times_moved");
    if (moved > 0)
        output_note("  %" PRIu64
                    " times do not fit into this format and were moved to the nearest: "
                    "pcapng keeps them",
                    moved);
    if (answer_text(result, "limit")[0])
        output_note("  ended at the limit of %s that was given", answer_text(result, "limit"));
    if (json_is_false(json_object_get(result, "flushed")))
        output_note("  what came last is not durable yet, and missing");
    gaps_print(result);
}

/* What the exit status says of a job that came to its end. */
static int extraction_status(const json_t *result)
{
    if (answer_is_true(result, "complete"))
        return EXIT_DONE;
    if (!output_is_json())
        output_error("packets of this range are missing");
    return EXIT_INCOMPLETE;
}

static int extraction_report(const struct extraction *extraction, const json_t *result)
{
    if (!output_is_json())
        summary_print(extraction, result);
    else if (extraction->output.standard_output)
        output_json_aside(result);
    else
        output_json(result);
    return extraction_status(result);
}

/* ^C in the middle. What lies in a file ends with a whole packet. */
static int extraction_stopped(struct extraction *extraction, struct failure *failure)
{
    bool file = extraction->output.final != NULL;
    if (file)
        extraction->packets = capture_output_trim(&extraction->output);
    return fail(failure, ERR_INTERRUPTED, "stopped: %" PRIu64 " packets are written%s",
                extraction->packets, file ? "" : ", the last may be cut");
}

/* ---- the command ----------------------------------------------------------------------------- */

static int extract_to_output(const struct invocation *invocation, struct extraction *extraction,
                             json_t *params, struct failure *failure)
{
    struct session session;
    int code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    extraction->session = &session;
    struct session_job job = {
        .method = "extract",
        .descriptors = &extraction->output.fd,
        .descriptor_count = 1,
        .context = extraction,
        .progress = extraction_progress,
        .tick = extraction_tick,
        .interrupted = extraction_interrupted,
        .watched_fd = extraction->output.pipe ? extraction->output.fd : -1,
    };
    json_t *result = NULL;
    progress_open(&extraction->progress);
    code = session_call(&session, &job, params, &result, failure);
    progress_close(&extraction->progress);
    if (extraction->failure.code != 0)
        *failure = extraction->failure;
    if (code == 0)
        code = capture_output_settle(&extraction->output, true, failure);
    else
        capture_output_settle(&extraction->output, false, &extraction->failure);
    if (code == 0)
        code = extraction_report(extraction, result);
    else if (code == ERR_INTERRUPTED && extraction->stopped)
        code = extraction_stopped(extraction, failure);
    json_decref(result);
    code = session_close(&session, code, failure);
    /* The reader has seen enough. That the recorder hung up is another matter: then it still reads.
     */
    if (code == ERR_CLOSED && extraction->output.pipe &&
        capture_output_is_left(&extraction->output))
        return EXIT_DONE;
    return code;
}

static int extract_run(const struct invocation *invocation, struct failure *failure)
{
    struct extraction extraction = {.output = {.fd = -1}};
    json_t *params = extract_params(invocation, &extraction, failure);
    if (!params)
        return failure->code;
    int code = capture_output_open(&extraction.output, options_text(invocation, "write"), failure);
    if (code == 0)
        code = extract_to_output(invocation, &extraction, params, failure);
    else
        json_decref(params);
    capture_output_close(&extraction.output);
    return code;
}

static const struct option_row options[] = {
    {"from", 0, false, "T", "from this time on (default: the oldest packet)"},
    {"to", 0, false, "T", "up to, not including, this time (default: the newest)"},
    {"write", 'w', false, "FILE", "write there; - or nothing: standard output"},
    {"format", 0, false, "FORMAT", "pcapng (default), pcap (nanoseconds) or pcap-us"},
    {"query", 0, false, "LANGUAGE", "the filter's: pcap (default), or steno, as stenoread takes it"},
    {"follow", 0, false, NULL, "go on with what is recorded, until ^C"},
    {"headers", 0, false, NULL, "packets without what they carry: cut where their headers end"},
    {"packets-max", 'c', false, "N", "end after N packets"},
    {"bytes-max", 0, false, "SIZE", "end when the output has this size"},
    {"seconds-max", 0, false, "N", "end when it has worked for N seconds"},
    {0},
};

const struct command extract_command = {
    .name = "extract",
    .operands = "RING [FILTER...]",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "a part of the past as a capture file",
    .details = "T is RFC 3339 (2026-11-21T14:05:00Z; without a zone, local time), seconds since "
               "the epoch,\n"
               "now, or relative (-90s, -20m, -1h, -2d). FILTER is as in tcpdump, see "
               "pcap-filter(7); its\n"
               "words are joined by blanks. A filter word that begins with - goes behind --.\n"
               "Beside libpcap's primitives: flow A:P B:Q [tcp|udp], community 1:..., inner "
               "PRIMITIVE, outer\n"
               "PRIMITIVE (the first IP header, behind any VLAN tags), rule ID, after TIME, before TIME.\n"
               "Exit status 3 if packets of the range are missing; each gap is named. One that ends "
               "at a limit\n"
               "says so and is a whole capture up to there; its exit status is 0 if nothing is missing "
               "before. An\n"
               "existing FILE is replaced once there is something to replace it with.",
    .examples =
        "  tapeloop extract dmz --from -20m --to -15m -w incident.pcapng host 192.0.2.7\n"
        "  tapeloop extract dmz --from 2026-11-21T13:47:00Z tcp port 443 | wireshark -k -i -\n"
        "  tapeloop extract dmz --query steno 'host 192.0.2.7 and after 3h ago' -w host.pcapng\n"
        "  tapeloop extract dmz --follow --from now 'udp port 53' | tcpdump -n -r -",
    .options = options,
    .run = extract_run,
};
