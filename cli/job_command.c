/*
 * job_command.c - extractions in the recorder's care, and ranges that are kept: started, looked at,
 * fetched, ended.
 *
 * The recorder writes the file; job get is handed a descriptor of it and copies. What is waited for
 * (job start --wait, keep) goes on when we go; with a recorder of our own it ends with us.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "capture_output.h"
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "plan_view.h"
#include "range_params.h"
#include "recorder_session.h"
#include "text.h"

#define COPY_BYTES (1u << 20)

/* ---- how one looks --------------------------------------------------------------------------- */

/* What of it is missing, or why it failed, on standard error. What the exit status says. */
static int job_verdict(const json_t *job)
{
    const char *state = answer_text(job, "state");
    if (strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0) {
        if (!output_is_json())
            output_error("job %" PRIu64 " is %s: %s", answer_count(job, "number"), state,
                         answer_text(job, "error"));
        return EXIT_FAILED;
    }
    if (strcmp(state, "done") != 0 || answer_is_true(job, "complete"))
        return EXIT_DONE;
    if (!output_is_json()) {
        range_gaps_print(job);
        output_error("packets of this range are missing");
    }
    return EXIT_INCOMPLETE;
}

static void line(const char *label, const char *text)
{
    printf("  %-10s %s\n", label, output_printable(text));
}

static void line_time(const json_t *job, const char *label, const char *name)
{
    char text[TEXT_TIME_SIZE];
    int64_t time_ns;
    if (answer_time(json_object_get(job, name), &time_ns))
        line(label, text_time(time_ns, text));
}

static void print_job(const json_t *job)
{
    char size[TEXT_SIZE_SIZE];
    const char *name = answer_text(job, "name"), *limit = answer_text(job, "limit");
    printf("job %" PRIu64 "%s%s: %s", answer_count(job, "number"), name[0] ? ", kept as " : "",
           output_printable(name), output_printable(answer_text(job, "state")));
    if (strcmp(answer_text(job, "state"), "running") == 0)
        printf(", %.0f %%", 100 * answer_number(job, "share"));
    printf("\n");
    line("ring", answer_text(job, "ring"));
    line_time(job, "from", "from_ns");
    line_time(job, "to", "to_ns");
    if (answer_text(job, "asked")[0])
        line("query", answer_text(job, "asked"));
    if (answer_text(job, "filter")[0])
        line("filter", answer_text(job, "filter"));
    printf("  %-10s %s%s\n", "format", output_printable(answer_text(job, "format")),
           answer_is_true(job, "headers") ? ", headers only" : "");
    if (answer_is_true(job, "no_index"))
        line("index", "not used");
    printf("  %-10s %" PRIu64 ", %s\n", "packets", answer_count(job, "packets"),
           text_size(answer_count(job, "output_bytes"), size));
    if (limit[0])
        printf("  %-10s it ended there, of %s\n", "limit", output_printable(limit));
    if (answer_text(job, "user")[0])
        line("user", answer_text(job, "user"));
    line_time(job, "asked for", "created_ns");
    line_time(job, "ended", "ended_ns");
    line_time(job, "expires", "expires_ns");
    int64_t from_ns = INT64_MIN, oldest_ns;
    (void)answer_time(json_object_get(job, "from_ns"), &from_ns);
    if (from_ns != INT64_MIN && answer_time(json_object_get(job, "oldest_ns"), &oldest_ns) && oldest_ns > from_ns)
        line_time(job, "held from", "oldest_ns"); /* nothing of what lies before was there any more, or yet */
}

/* {"job": JOB} as an answer, which is consumed. `judged`: the exit status says what has come of it. */
static int job_report(json_t *result, bool judged)
{
    const json_t *job = answer_object(result, "job");
    if (output_is_json())
        output_json(result);
    else
        print_job(job);
    int status = judged ? job_verdict(job) : EXIT_DONE;
    json_decref(result);
    return status;
}

/* ---- start, keep ----------------------------------------------------------------------------- */

static void job_progress(const json_t *job, void *context)
{
    struct progress *progress = context;
    char size[TEXT_SIZE_SIZE];
    if (progress_is_due(progress))
        progress_show(progress, "job %" PRIu64 " %s: %.0f %%, %" PRIu64 " packets, %s",
                      answer_count(job, "number"), answer_text(job, "state"),
                      100 * answer_number(job, "share"), answer_count(job, "packets"),
                      text_size(answer_count(job, "output_bytes"), size));
}

static int expiry_param(const struct invocation *invocation, json_t *params, struct failure *failure)
{
    const char *text = options_text(invocation, "expires");
    struct timespec now;
    int64_t expires_ns;
    if (!text)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    int code = text_parse_time(text, now_ns, &expires_ns, failure);
    if (code != 0)
        return fail_context(failure, code, "--expires");
    if (expires_ns <= now_ns)
        return fail(failure, ERR_INVALID, "--expires %s: that time is over", output_printable(text));
    json_object_set_new(params, "expires_ns", answer_make_time(expires_ns));
    return 0;
}

/* Asks for it (params are consumed); waits where it is wanted. */
static int job_begin(const struct invocation *invocation, json_t *params, bool wait,
                     struct failure *failure)
{
    struct session session;
    struct progress progress;
    json_t *result = NULL;
    json_object_set_new(params, "wait", json_boolean(wait));
    int code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    struct session_job job = {
        .method = "job.start", .context = &progress, .progress = job_progress, .watched_fd = -1};
    progress_open(&progress);
    code = session_call(&session, &job, params, &result, failure);
    progress_close(&progress);
    if (code == 0)
        code = job_report(result, wait);
    return session_close(&session, code, failure);
}

static int start_run(const struct invocation *invocation, struct failure *failure)
{
    struct range range;
    json_t *params = range_params(invocation, &range, failure);
    return params ? job_begin(invocation, params, options_given(invocation, "wait"), failure)
                  : failure->code;
}

static int keep_run(const struct invocation *invocation, struct failure *failure)
{
    struct range range;
    const char *name = options_text(invocation, "name");
    if (!name)
        return fail(failure, ERR_INVALID, "--name: under which name is it to be kept?");
    json_t *params = range_params(invocation, &range, failure);
    if (!params)
        return failure->code;
    json_t *text = json_string(name);
    int code = text ? expiry_param(invocation, params, failure)
                    : fail(failure, ERR_INVALID, "--name: a name that is not UTF-8");
    if (code != 0) {
        json_decref(text);
        json_decref(params);
        return code;
    }
    json_object_set_new(params, "name", text);
    return job_begin(invocation, params, !options_given(invocation, "detach"), failure);
}

static const struct option_row start_options[] = {
    RANGE_OPTIONS,
    {"wait", 0, false, NULL, "return when it has ended; the exit status is as that of extract"},
    {0},
};

const struct command job_start_command = {
    .name = "job start",
    .operands = "RING [FILTER...]",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "extract into a file that the recorder writes and keeps for a while",
    .details =
        "The file lies in the folder jobs of the state directory, until the time of the ring's setting\n"
        "job_keep is over; job_bytes is what all such files of a ring may take. Two jobs run at a time,\n"
        "the others wait. Times and filters are those of extract. A job that is interrupted by the\n"
        "recorder's end has failed, and its file is removed.",
    .examples = "  tapeloop job start dmz --from -1h tcp port 443\n"
                "  tapeloop job start dmz --from -1d --bytes-max 2G --wait",
    .options = start_options,
    .run = start_run,
};

static const struct option_row keep_options[] = {
    RANGE_OPTIONS,
    {"name", 0, false, "NAME", "what it is called from then on"},
    {"expires", 0, false, "T", "delete it then (+7d, 2027-01-31); default: never"},
    {"detach", 0, false, NULL, "return at once; a recorder that stays must be running"},
    {0},
};

const struct command keep_command = {
    .name = "keep",
    .operands = "RING [FILTER...]",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "keep a copy of a time range, whatever the ring overwrites",
    .details =
        "What matches is copied into a capture file under its name, in the folder jobs of the state\n"
        "directory; the ring's setting keep_bytes is what all that is kept of it may take. It stays\n"
        "when the ring is deleted. job list shows it, job get fetches it, job delete ends it. What was\n"
        "missing in the range is recorded with it, and the exit status is then 3.",
    .examples = "  tapeloop keep dmz --from -60s --name incident-7 host 192.0.2.7\n"
                "  tapeloop keep dmz --from -2h --to -1h --name before-the-crash --expires +30d\n"
                "  tapeloop job get incident-7 -w incident-7.pcapng",
    .options = keep_options,
    .run = keep_run,
};

/* ---- list, show, cancel, delete -------------------------------------------------------------- */

static void list_row(struct table *table, const json_t *job)
{
    char text[64];
    const char *state = answer_text(job, "state");
    table_number(table, answer_count(job, "number"));
    table_text(table, answer_text(job, "name")[0] ? answer_text(job, "name") : "-");
    table_text(table, answer_text(job, "ring"));
    if (strcmp(state, "running") == 0)
        snprintf(text, sizeof text, "%.0f %%", 100 * answer_number(job, "share"));
    else
        snprintf(text, sizeof text, "%.30s%s", state,
                 json_is_false(json_object_get(job, "complete")) ? ", gaps" : "");
    table_text(table, text);
    table_number(table, answer_count(job, "packets"));
    table_size(table, answer_count(job, "output_bytes"));
    table_time(table, json_object_get(job, "expires_ns"));
    table_text(table, answer_text(job, "filter")[0] ? answer_text(job, "filter") : "-");
}

static int list_run(const struct invocation *invocation, struct failure *failure)
{
    static const char *const heads[] = {"JOB",     "NAME", "RING",    "STATE",
                                        "PACKETS", "SIZE", "EXPIRES", "FILTER"};
    const char *ring = invocation->operands > 0 ? invocation->operand[0] : NULL;
    json_t *result = NULL;
    struct table table;
    if (ring && text_check_ring_name(ring, failure) != 0)
        return failure->code;
    int code = session_ask(invocation, SESSION_START, "job.list", json_pack("{s:s?}", "ring", ring),
                           &result, failure);
    if (code != 0)
        return code;
    const json_t *jobs = answer_array(result, "jobs");
    if (output_is_json()) {
        output_json(result);
    } else if (json_array_size(jobs) == 0) {
        output_note("There is no job, and nothing is kept.");
    } else {
        table_open(&table, sizeof heads / sizeof heads[0]);
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
            table_text(&table, heads[i]);
        for (size_t i = 0; i < json_array_size(jobs); i++)
            list_row(&table, json_array_get(jobs, i));
        table_print(&table, stdout, "");
        table_close(&table);
    }
    json_decref(result);
    return EXIT_DONE;
}

const struct command job_list_command = {
    .name = "job list",
    .operands = "[RING]",
    .operands_max = 1,
    .summary = "jobs that wait, run and have ended, and what is kept",
    .examples = "  tapeloop job list\n  tapeloop job list dmz --json",
    .run = list_run,
};

/* {"job": the first operand}, which may be anything. Null: with a failure. */
static json_t *job_params(const struct invocation *invocation, struct failure *failure)
{
    json_t *text = json_string(invocation->operand[0]);
    if (!text)
        fail(failure, ERR_NOT_FOUND, "there is no job of that name");
    return text ? json_pack("{s:o}", "job", text) : NULL;
}

static int show_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = job_params(invocation, failure), *result = NULL;
    int code = params ? session_ask(invocation, SESSION_START, "job.show", params, &result, failure)
                      : failure->code;
    if (code != 0)
        return code;
    if (!output_is_json() && answer_text(answer_object(result, "job"), "error")[0])
        output_note("%s", answer_text(answer_object(result, "job"), "error"));
    if (!output_is_json())
        range_gaps_print(answer_object(result, "job"));
    if (!options_given(invocation, "explain") || output_is_json())
        return job_report(result, false);
    const json_t *plan = answer_object(answer_object(result, "job"), "plan");
    print_job(answer_object(result, "job"));
    if (plan)
        plan_print(plan, answer_count(answer_object(result, "job"), "packets"));
    else
        output_note("how it was found is known once it is done");
    json_decref(result);
    return EXIT_DONE;
}

static const struct option_row show_options[] = {
    {"explain", 0, false, NULL, "say how it was found, step by step"},
    {0},
};

const struct command job_show_command = {
    .name = "job show",
    .operands = "JOB",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "one job: its number or the name under which it is kept",
    .examples = "  tapeloop job show 17 --explain\n  tapeloop job show incident-7 --json",
    .options = show_options,
    .run = show_run,
};

static int cancel_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = job_params(invocation, failure), *result = NULL;
    int code = params ? session_ask(invocation, SESSION_START, "job.cancel", params, &result, failure)
                      : failure->code;
    return code == 0 ? job_report(result, false) : code;
}

const struct command job_cancel_command = {
    .name = "job cancel",
    .operands = "JOB",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "end a job that waits or runs; its file goes",
    .examples = "  tapeloop job cancel 17",
    .run = cancel_run,
};

static int delete_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = job_params(invocation, failure), *result = NULL;
    int code = params ? session_ask(invocation, SESSION_START, "job.delete", params, &result, failure)
                      : failure->code;
    if (code == 0 && output_is_json())
        output_json(result);
    json_decref(result);
    return code;
}

const struct command job_delete_command = {
    .name = "job delete",
    .operands = "JOB",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "delete a job with its file, also what is kept",
    .examples = "  tapeloop job delete incident-7",
    .run = delete_run,
};

/* ---- get ------------------------------------------------------------------------------------- */

static int copy_write(int to, const char *bytes, size_t count, struct failure *failure)
{
    while (count > 0) {
        ssize_t written = write(to, bytes, count);
        if (written < 0 && errno != EINTR)
            return errno == EPIPE ? fail(failure, ERR_CLOSED, "%s", error_text(ERR_CLOSED))
                                  : fail_errno(failure, errno, "writing the packets failed");
        if (written > 0) {
            bytes += written;
            count -= (size_t)written;
        }
    }
    return 0;
}

static int copy_file(int from, int to, uint64_t bytes, struct progress *progress,
                     struct failure *failure)
{
    char *buffer = malloc(COPY_BYTES);
    uint64_t done = 0;
    int code = buffer ? 0 : fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    while (code == 0) {
        ssize_t got = read(from, buffer, COPY_BYTES);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        code = got < 0 ? fail_errno(failure, errno, "reading the result failed")
                       : copy_write(to, buffer, (size_t)got, failure);
        done += got > 0 ? (uint64_t)got : 0;
        if (code == 0 && interrupt_count() > 0)
            code = fail(failure, ERR_INTERRUPTED, "%s", error_text(ERR_INTERRUPTED));
        if (progress_is_due(progress))
            progress_show(progress, "%s", progress_text(progress, done, bytes, NULL));
    }
    free(buffer);
    return code;
}

/* The recorder's answer with its descriptor; the caller owns both. */
static int fetch(const struct invocation *invocation, json_t **result, int *fd,
                 struct failure *failure)
{
    struct session session;
    json_t *params = job_params(invocation, failure);
    if (!params)
        return failure->code;
    int code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    struct session_job job = {.method = "job.fetch", .watched_fd = -1};
    code = session_call(&session, &job, params, result, failure);
    *fd = code == 0 ? control_take_descriptor(&session.connection, 0) : -1;
    if (code == 0 && *fd < 0)
        code = fail(failure, ERR_PROTOCOL, "the recorder has handed over no file");
    return session_close(&session, code, failure);
}

static int get_run(const struct invocation *invocation, struct failure *failure)
{
    struct capture_output output = {.fd = -1};
    struct progress progress;
    json_t *result = NULL;
    int fd = -1;
    int code = capture_output_open(&output, options_text(invocation, "write"), failure);
    if (code == 0)
        code = fetch(invocation, &result, &fd, failure);
    const json_t *job = answer_object(result, "job");
    if (code == 0) {
        progress_open(&progress);
        code = copy_file(fd, output.fd, answer_count(job, "output_bytes"), &progress, failure);
        progress_close(&progress);
    }
    if (code == 0)
        code = capture_output_settle(&output, true, failure);
    if (code == ERR_CLOSED && output.pipe && capture_output_is_left(&output))
        code = EXIT_DONE; /* the reader has seen enough */
    else if (code == 0 && output_is_json())
        (output.standard_output ? output_json_aside : output_json)(result);
    if (code == 0)
        code = job_verdict(job);
    if (fd >= 0)
        close(fd);
    capture_output_close(&output);
    json_decref(result);
    return code;
}

static const struct option_row get_options[] = {
    {"write", 'w', false, "FILE", "write there; - or nothing: standard output"},
    {0},
};

const struct command job_get_command = {
    .name = "job get",
    .operands = "JOB",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "the result of a job, or what is kept, as a capture file",
    .details = "Exit status 3 if packets of its range were missing when it was made; each gap is named.",
    .examples = "  tapeloop job get 17 -w result.pcapng\n"
                "  tapeloop job get incident-7 | tcpdump -n -r -",
    .options = get_options,
    .run = get_run,
};
