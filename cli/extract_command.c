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
#include <string.h>

#include "answer.h"
#include "capture_output.h"
#include "commands.h"
#include "output.h"
#include "plan_view.h"
#include "range_params.h"
#include "recorder_session.h"
#include "text.h"

struct extraction {
    struct session *session;
    struct capture_output output;
    struct progress progress;
    struct failure failure; /* of the output */
    bool follow;
    bool explain;
    bool stopped;
    uint64_t packets; /* handed out, as of the last progress */
    struct range range;
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

/* The params of extract; null with a failure. */
static json_t *extract_params(const struct invocation *invocation, struct extraction *extraction,
                              struct failure *failure)
{
    json_t *params = range_params(invocation, &extraction->range, failure);
    extraction->follow = options_given(invocation, "follow");
    if (params)
        json_object_set_new(params, "follow", json_boolean(extraction->follow));
    return params;
}

/* ---- the report ------------------------------------------------------------------------------ */

static void summary_print(const struct extraction *extraction, const json_t *result)
{
    uint64_t packets = answer_count(result, "packets");
    char size[TEXT_SIZE_SIZE];
    char read[TEXT_SIZE_SIZE];
    char from[TEXT_TIME_SIZE];
    char to[TEXT_TIME_SIZE];
    range_text(&extraction->range, from, to);
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
    uint64_t purged = answer_count(result, "purged");
    if (purged > 0)
        output_note("  %" PRIu64 " packet%s of that time %s purged, whatever the filter", purged, purged == 1 ? "" : "s",
                    purged == 1 ? "was" : "were");
    if (json_is_false(json_object_get(result, "catalog_whole")))
        output_note("  the catalog has lost something, and segments may be missing: tapeloop rebuild RING finds all again");
    range_gaps_print(result);
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

static int extraction_report(struct extraction *extraction, const json_t *result)
{
    range_of_answer(result, &extraction->range);
    if (extraction->explain && !output_is_json())
        plan_print(result, answer_count(result, "packets"));
    else if (!output_is_json())
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
    const char *output = options_text(invocation, "write");
    extraction.explain = options_given(invocation, "explain");
    if (extraction.explain && !output)
        output = "/dev/null"; /* standard output is for the plan */
    int code = extraction.explain && output && strcmp(output, "-") == 0
                   ? fail(failure, ERR_INVALID, "--explain and the packets cannot both go to standard output")
                   : capture_output_open(&extraction.output, output, failure);
    if (code == 0)
        code = extract_to_output(invocation, &extraction, params, failure);
    else
        json_decref(params);
    capture_output_close(&extraction.output);
    return code;
}

static const struct option_row options[] = {
    RANGE_OPTIONS,
    {"write", 'w', false, "FILE", "write there; - or nothing: standard output"},
    {"follow", 0, false, NULL, "go on with what is recorded, until ^C"},
    {"explain", 0, false, NULL, "say how it was found, step by step; without --write the packets go nowhere"},
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
               "PRIMITIVE (the first IP header, behind any VLAN tags), rule ID, after TIME, before TIME, app\n"
               "NAME (what layer 7 has found of the packet's flow, where the ring's setting classify is on;\n"
               "tapeloop apps lists the names).\n"
               "Exit status 3 if packets of the range are missing, or not decided because it is not recorded\n"
               "what layer 7 found of their flows; each gap is named. One that ends "
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
