/*
 * purge_command.c - packets are erased for good, after a question.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "range_params.h"
#include "recorder_session.h"

static void purge_progress(const json_t *answer, void *context)
{
    struct progress *progress = context;
    if (!progress_is_due(progress))
        return;
    bool finds = json_object_get(answer, "segments_total") != NULL;
    uint64_t done = answer_count(answer, finds ? "segments_done" : "slots_done");
    uint64_t total = answer_count(answer, finds ? "segments_total" : "slots_total");
    progress_show(progress, "%s: %" PRIu64 " of %" PRIu64 ", %s", finds ? "looking for packets" : "erasing", done, total,
                  progress_text(progress, done, total, "segments"));
}

static int ask(struct session *session, json_t *params, json_t **result, struct failure *failure)
{
    struct progress progress;
    struct session_job job = {
        .method = "purge",
        .context = &progress,
        .progress = purge_progress,
        .watched_fd = -1,
    };
    progress_open(&progress);
    int code = session_call(session, &job, params, result, failure);
    progress_close(&progress);
    return code;
}

static void found_print(const json_t *result, const struct range *range)
{
    char size[TEXT_SIZE_SIZE], from[TEXT_TIME_SIZE], to[TEXT_TIME_SIZE];
    uint64_t segments = answer_count(result, "segments");
    range_text(range, from, to);
    printf("%" PRIu64 " packets match, %s as captured, in %" PRIu64 " segment%s, from %s to %s\n", answer_count(result, "packets"),
           text_size(answer_count(result, "bytes"), size), segments, segments == 1 ? "" : "s", from, to);
    fflush(stdout);
}

static void done_print(const json_t *result)
{
    uint64_t dropped = answer_count(result, "copies_dropped"), lost = answer_count(result, "pages_lost");
    uint64_t segments = answer_count(result, "segments");
    printf("%" PRIu64 " packets are erased; %" PRIu64 " segment%s written anew\n", answer_count(result, "packets"), segments,
           segments == 1 ? " is" : "s are");
    if (dropped > 0)
        printf("%" PRIu64 " copies of the oldest segments had to make room\n", dropped);
    uint64_t gone = answer_count(result, "segments_gone"), in_use = answer_count(result, "slots_in_use");
    if (gone > 0)
        printf("%" PRIu64 " segment%s expired before the purge came to %s\n", gone, gone == 1 ? "" : "s", gone == 1 ? "it" : "them");
    if (in_use > 0)
        printf("The recording uses %" PRIu64 " slots: behind what it has written there may lie what was erased or expired. Purge again later, or when nothing\n"
               "is recorded, to have that cleared, too\n", in_use);
    if (lost > 0)
        printf("%" PRIu64 " damaged pages, of which no copy was good, are erased, too\n", lost);
}

/* Files that were made of the ring stay as they are. */
static void kept_say(const json_t *result)
{
    const json_t *row;
    size_t i;
    json_array_foreach(json_object_get(result, "kept"), i, row) {
        const char *name = json_string_value(json_object_get(row, "name"));
        if (i == 0)
            output_note("These files of the same time may hold such packets, and stay (tapeloop job delete):");
        if (name)
            output_note("  kept range %s", name);
        else
            output_note("  job %" PRIu64, answer_count(row, "job"));
    }
}

static void gaps_say(const json_t *result)
{
    kept_say(result);
    if (answer_is_true(result, "complete"))
        return;
    output_note("Not everything in the range could be read or decided, and what could not stays:");
    range_gaps_print(result);
}

/* Without a terminal nobody can be asked. */
static int question(const struct invocation *invocation, struct failure *failure)
{
    char line[16] = "";
    if (options_given(invocation, "yes"))
        return 0;
    if (output_is_json() || !isatty(STDIN_FILENO))
        return fail(failure, ERR_INVALID, "nothing is erased without a question, and nobody can be asked: say --yes, or --dry-run to look only");
    fprintf(stderr, "Erase them? Nothing brings them back. Type yes: ");
    fflush(stderr);
    if (!fgets(line, sizeof line, stdin) || strcmp(line, "yes\n") != 0)
        return fail(failure, ERR_INTERRUPTED, "nothing was erased");
    return 0;
}

static int purge_in_session(const struct invocation *invocation, struct session *session, json_t *params,
                            const struct range *range, struct failure *failure)
{
    bool dry = options_given(invocation, "dry-run");
    json_t *result = NULL, *look = json_deep_copy(params);
    if (!look)
        return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    json_object_set_new(look, "dry_run", json_true());
    int code = ask(session, look, &result, failure);
    if (code != 0)
        return code;
    bool complete = answer_is_true(result, "complete");
    if (!output_is_json())
        found_print(result, range);
    if (dry) {
        if (output_is_json())
            output_json(result);
        else
            gaps_say(result);
    } else {
        json_decref(result);
        result = NULL;
        code = question(invocation, failure);
        if (code == 0)
            code = ask(session, json_incref(params), &result, failure);
        if (code == 0 && output_is_json())
            output_json(result);
        else if (code == 0) {
            done_print(result);
            gaps_say(result);
        }
        complete = code == 0 && answer_is_true(result, "complete");
    }
    json_decref(result);
    return code == 0 && !complete ? EXIT_INCOMPLETE : code;
}

static int purge_run(const struct invocation *invocation, struct failure *failure)
{
    static const char *const others[] = {"format", "packets_max", "bytes_max", "headers"};
    struct range range = {0};
    json_t *params = range_params(invocation, &range, failure);
    if (!params)
        return failure->code;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        json_object_del(params, others[i]);
    json_object_set_new(params, "give_up_away", json_boolean(options_given(invocation, "give-up-away")));
    struct session session;
    int code = range.bounded_below && range.bounded_above
                   ? 0
                   : fail(failure, ERR_INVALID, "from when to when? What is erased is gone: both --from and --to have to be given");
    if (code == 0)
        code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code == 0) {
        code = purge_in_session(invocation, &session, params, &range, failure);
        code = session_close(&session, code, failure);
    }
    json_decref(params);
    return code;
}

static const struct option_row options[] = {
    RANGE_TIME_OPTIONS,
    {"dry-run", 0, false, NULL, "only say what would be erased"},
    {"yes", 'y', false, NULL, "erase without asking"},
    {"give-up-away", 0, false, NULL, "also where a disk of the ring is away: it can only come\nback when it has been wiped"},
    {0},
};

const struct command purge_command = {
    .name = "purge",
    .operands = "RING [FILTER...]",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "erase packets for good, by time and filter",
    .details = "Afterwards no byte of them is on the ring's disks, and their flows are in no index; all other\n"
               "packets are as they were. --from and --to have to be given; times and filters are those of extract.\n"
               "Every segment that holds such packets is written anew into a free slot; a disk that has none gives up its\n"
               "oldest segment. The ring may be recorded into and read meanwhile (setting purge_rate): the segment that is\n"
               "being filled is sealed early, and slots that recording uses are not cleared of what lay there before.\n"
               "If it is interrupted, part of the packets are erased: the same command goes on. Kept ranges and files\n"
               "that were extracted are not touched; those of the same time are named: see tapeloop job list. Exit status 3 if not everything in the\n"
               "range could be read: what could not was not looked at.",
    .examples = "  tapeloop purge dmz --from -2h --to -1h --dry-run host 192.0.2.7\n"
                "  tapeloop purge dmz --from 2026-11-21T13:00:00Z --to 2026-11-21T14:00:00Z host 192.0.2.7\n"
                "  tapeloop purge dmz --from -2h --to -1h --yes tcp port 25",
    .options = options,
    .run = purge_run,
};
