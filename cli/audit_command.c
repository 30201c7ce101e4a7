/*
 * audit_command.c - the audit log: who did what, and whether it is whole.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "commands.h"
#include "numbered_rows.h"
#include "output.h"
#include "recorder_session.h"
#include "text.h"

/* ---- list ------------------------------------------------------------------------------------ */

static void print_row(const json_t *row)
{
    char time[TEXT_TIME_SIZE] = "-";
    int64_t time_ns;
    const char *ring = answer_text(row, "ring");
    if (answer_time(json_object_get(row, "time_ns"), &time_ns))
        text_time(time_ns, time);
    printf("%" PRIu64 "  %s  ", answer_count(row, "number"), time);
    printf("%s: ", output_printable(answer_text(row, "actor")));
    printf("%s", output_printable(answer_text(row, "action")));
    if (ring[0])
        printf(", ring %s", output_printable(ring));
    printf(" %s: ", output_printable(answer_text(row, "detail")));
    printf("%s\n", output_printable(answer_text(row, "outcome")));
}

static int list_run(const struct invocation *invocation, struct failure *failure)
{
    return numbered_rows_run(invocation, "audit.list", "rows", "Nothing was written down.", print_row,
                             failure);
}

const struct command audit_list_command = {
    .name = "audit list",
    .operands = "",
    .summary = "who changed what, who took packets, who logged in",
    .examples = "  tapeloop audit list\n  tapeloop audit list --after 1200 --json",
    .options = numbered_rows_options,
    .run = list_run,
};

/* ---- verify ---------------------------------------------------------------------------------- */

/* "NUMBER:HASH", as it was printed. */
static int take_head(const char *text, json_t *params, struct failure *failure)
{
    char *colon;
    if (!text)
        return 0;
    uint64_t number = strtoull(text, &colon, 10);
    if (text[0] < '0' || text[0] > '9' || *colon != ':' || number == 0 || number > INT64_MAX)
        return fail(failure, ERR_INVALID,
                    "--head: expected NUMBER:HASH, as audit verify prints it");
    char hash[80];
    text_printable(colon + 1, hash, sizeof hash);
    json_object_set_new(params, "number", json_integer((json_int_t)number));
    json_object_set_new(params, "hash", json_string(hash));
    return 0;
}

static int report(const json_t *result, bool asked)
{
    uint64_t rows = answer_count(result, "rows"), bad = answer_count(result, "bad");
    bool known = answer_is_true(result, "known");
    if (bad)
        output_error("row %" PRIu64 " of the audit log is missing or was changed", bad);
    if (asked && !known)
        output_error("the head that was given is none of this log's: it was made anew, or cut");
    if (!output_is_json())
        printf("%" PRIu64 " rows fit; head %" PRIu64 ":%s\n", rows, rows,
               output_printable(answer_text(result, "head")));
    return bad || (asked && !known) ? EXIT_FAILED : EXIT_DONE;
}

static int verify_run(const struct invocation *invocation, struct failure *failure)
{
    const char *head = options_text(invocation, "head");
    json_t *params = json_object(), *result = NULL;
    int code = take_head(head, params, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    code = session_ask(invocation, SESSION_START, "audit.verify", params, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    code = report(result, head != NULL);
    json_decref(result);
    return code;
}

static const struct option_row verify_options[] = {
    {"head", 0, false, "NUMBER:HASH", "and this one, printed earlier, must be part of it"},
    {0},
};

const struct command audit_verify_command = {
    .name = "audit verify",
    .operands = "",
    .summary = "whether the audit log is as it was written",
    .details =
        "Each row has a hash over itself and the row before: a row that was changed, put in or\n"
        "taken out is found. Whoever may write state.db could make all of it anew: keep the head\n"
        "that is printed somewhere else, and give it with --head later. Exit status 1: the log "
        "was\n"
        "tampered with.",
    .examples = "  tapeloop audit verify\n  tapeloop audit verify --head 1200:6f0e...",
    .options = verify_options,
    .run = verify_run,
};
