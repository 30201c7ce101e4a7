/*
 * rule_test_command.c - what rules would make of packets: of a file, or of what a ring holds.
 *
 * The recorder has it judged (rule.test): it is handed the file, or reads the range.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"
#include "rule_source.h"
#include "rule_view.h"
#include "text.h"

struct trial {
    char *rules; /* the text, or null: the ring's; owned */
    bool ranged;
    bool bounded_below, bounded_above;
    int64_t from_ns, to_ns;
    const char *name; /* of the capture, or null */
    int capture_fd;   /* -1: none */
    struct progress progress;
};

/* ---- what is judged ------------------------------------------------------------------------- */

static int open_file(struct trial *trial, const char *path, struct failure *failure)
{
    bool input = strcmp(path, "-") == 0;
    const char *slash = strrchr(path, '/');
    trial->name = input ? "standard input" : slash ? slash + 1 : path;
    trial->capture_fd = input ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return trial->capture_fd >= 0 ? 0
                                  : fail_errno(failure, errno, "%s", output_printable(trial->name));
}

static void extract_progress(const json_t *answer, void *context)
{
    struct trial *trial = context;
    if (progress_is_due(&trial->progress))
        progress_show(&trial->progress, "%" PRIu64 " packets, segments: %s",
                      answer_count(answer, "packets"),
                      progress_text(&trial->progress, answer_count(answer, "segments_done"),
                                    answer_count(answer, "segments_total"), "segments"));
}

static json_t *time_or_null(bool given, int64_t time_ns)
{
    return given ? answer_make_time(time_ns) : json_null();
}

static int have_judged(struct trial *trial, struct session *session, const char *ring,
                       json_t **result, struct failure *failure)
{
    char name[256];
    struct session_job job = {.method = "rule.test",
                              .descriptors = &trial->capture_fd,
                              .descriptor_count = trial->capture_fd >= 0 ? 1 : 0,
                              .context = trial,
                              .progress = extract_progress,
                              .watched_fd = -1};
    json_t *params = json_pack("{s:s, s:o, s:o}", "ring", ring, "from_ns",
                               time_or_null(trial->bounded_below, trial->from_ns), "to_ns",
                               time_or_null(trial->bounded_above, trial->to_ns));
    if (trial->rules)
        json_object_set_new(params, "rules", json_string(trial->rules));
    if (trial->name) {
        text_printable(trial->name, name, sizeof name);
        json_object_set_new(params, "name", json_string(name));
    }
    progress_open(&trial->progress);
    int code = session_call(session, &job, params, result, failure);
    progress_close(&trial->progress);
    return code;
}

/* ---- the command ---------------------------------------------------------------------------- */

static int report(json_t *result)
{
    const json_t *error = answer_object(result, "error");
    bool complete = answer_is_true(result, "complete");
    uint64_t bytes = answer_count(result, "bytes");
    uint64_t saved = answer_count(result, "cut_bytes") + answer_count(result, "discarded_bytes");
    json_object_set_new(result, "bytes_saved", json_integer((json_int_t)saved));
    if (output_is_json()) {
        json_object_set_new(result, "complete", json_boolean(complete && !error));
        output_json(result);
    } else {
        char text[TEXT_SIZE_SIZE], all[TEXT_SIZE_SIZE];
        rule_view(answer_array(result, "rules"), answer_object(result, "unmatched"), result);
        printf("\n%" PRIu64 " of %" PRIu64 " packets kept, %" PRIu64 " of them cut; %s of %s saved "
               "(%.1f %%)\n",
               answer_count(result, "stored_packets"), answer_count(result, "packets"),
               answer_count(result, "cut_packets"), text_size(saved, text), text_size(bytes, all),
               bytes ? (double)saved * 100 / (double)bytes : 0.0);
        if (json_is_integer(json_object_get(result, "until_known")))
            printf(
                "Layer 7 was asked and waited for: a verdict holds from the packet after the one "
                "that gave it.\n\"until known\" applied to %" PRIu64 " packets.\n",
                answer_count(result, "until_known"));
        if (error)
            output_error("only up to the damage: %s", answer_text(error, "message"));
        else if (!complete)
            output_error("packets of this range are missing");
    }
    return complete && !error ? EXIT_DONE : EXIT_INCOMPLETE;
}

static int time_option(const struct invocation *invocation, const char *name, bool *given,
                       int64_t *time_ns, struct failure *failure)
{
    struct timespec now;
    const char *text = options_text(invocation, name);
    clock_gettime(CLOCK_REALTIME, &now);
    *given = text != NULL;
    int code = text ? text_parse_time(text, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, time_ns,
                                      failure)
                    : 0;
    return code == 0 ? 0 : fail_context(failure, code, "--%s", name);
}

static int trial_words(const struct invocation *invocation, struct trial *trial,
                       struct failure *failure)
{
    const char *rules = options_text(invocation, "rules");
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code == 0)
        code = time_option(invocation, "from", &trial->bounded_below, &trial->from_ns, failure);
    if (code == 0)
        code = time_option(invocation, "to", &trial->bounded_above, &trial->to_ns, failure);
    if (code != 0)
        return code;
    trial->ranged = invocation->operands < 2;
    bool bounded = trial->bounded_below || trial->bounded_above;
    if (trial->ranged && !bounded)
        return fail(failure, ERR_INVALID,
                    "test on what? On a FILE, or on what the ring holds: --from T, --to T");
    if (!trial->ranged && bounded)
        return fail(failure, ERR_INVALID, "a FILE and a range of time exclude each other");
    if (trial->bounded_below && trial->bounded_above && trial->from_ns >= trial->to_ns)
        return fail(failure, ERR_INVALID, "--from is not before --to");
    if (rules)
        trial->rules = rule_source_file(rules, failure);
    return rules && !trial->rules ? failure->code : 0;
}

static int trial_run(const struct invocation *invocation, struct trial *trial,
                     struct failure *failure)
{
    const char *ring = invocation->operand[0];
    struct session session;
    json_t *result = NULL;
    int code = trial_words(invocation, trial, failure);
    /* First what can fail without a recorder. */
    if (code == 0 && !trial->ranged)
        code = open_file(trial, invocation->operand[1], failure);
    if (code != 0)
        return code;
    code = session_open(&session, invocation->state, SESSION_START | SESSION_RINGS, failure);
    if (code != 0)
        return code;
    code = have_judged(trial, &session, ring, &result, failure);
    if (code == 0)
        code = report(result);
    json_decref(result);
    return session_close(&session, code, failure);
}

static int test_run(const struct invocation *invocation, struct failure *failure)
{
    struct trial trial = {.capture_fd = -1};
    int code = trial_run(invocation, &trial, failure);
    if (trial.capture_fd >= 0)
        close(trial.capture_fd);
    free(trial.rules);
    return code;
}

static const struct option_row options[] = {
    {"rules", 0, false, "FILE", "these rules (as rule replace reads them), not the ring's"},
    {"from", 0, false, "T", "on what the ring holds from this time on"},
    {"to", 0, false, "T", "up to, not including, this time"},
    {0},
};

const struct command rule_test_command = {
    .name = "rule test",
    .operands = "RING [FILE]",
    .operands_min = 1,
    .operands_max = 2,
    .summary = "what rules would keep, cut and discard of a capture or of the past",
    .details =
        "Changes nothing. Of stored packets, what is stored is judged: bytes that were cut when\n"
        "they were recorded are gone. For rules with app, layer 7 is asked and waited for, so "
        "that\n"
        "the answer is the same each time: \"until known\" applies to a flow's packets up to the "
        "one\n"
        "by which it is recognised, and to flows that never are before the capture ends.\n"
        "Exit status 3: the file is damaged, or packets of the range are missing.",
    .examples = "  tapeloop rule test dmz monday.pcapng\n"
                "  tapeloop rule test dmz --from -1h --rules proposed.rules",
    .options = options,
    .run = test_run,
};
