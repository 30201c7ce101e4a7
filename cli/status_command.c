/*
 * status_command.c - how recorder and rings are, now and over time.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "clock.h"
#include "commands.h"
#include "numbered_rows.h"
#include "interrupt.h"
#include "output.h"
#include "recorder_session.h"
#include "text.h"
#include "views.h"

#define WATCH_PERIOD_MS 1000
#define HISTORY_SECONDS 600

/* ---- status ---------------------------------------------------------------------------------- */

static void writing_print(const json_t *row)
{
    char rate[TEXT_SIZE_SIZE];
    char flight[TEXT_SIZE_SIZE];
    double bytes_per_s = answer_number(row, "bytes_per_s");
    if (!(bytes_per_s >= 0 && bytes_per_s < 1e18))
        bytes_per_s = 0;
    printf("  %-14s %s/s, %s in flight\n", "writing", text_size((uint64_t)bytes_per_s, rate),
           text_size(answer_count(row, "in_flight_bytes"), flight));
    const json_t *buffers = answer_object(row, "buffers");
    if (buffers)
        printf("  %-14s %" PRIu64 " of %" PRIu64 " free\n", "buffers",
               answer_count(buffers, "free"), answer_count(buffers, "total"));
    if (json_object_get(row, "durable_copies"))
        printf("  %-14s on %" PRIu64 " disk%s%s\n", "durable", answer_count(row, "durable_copies"),
               answer_count(row, "durable_copies") == 1 ? "" : "s",
               answer_is_true(row, "degraded") || answer_count(row, "degraded") > 0 ? " (DEGRADED)"
                                                                                    : "");
}

static void index_print(const json_t *row)
{
    if (answer_count(row, "coarse_segments") > 0)
        printf("  %-14s %" PRIu64 " segments sealed without a whole key index: searches read them\n",
               "index", answer_count(row, "coarse_segments"));
    if (answer_count(row, "verdicts_lost") > 0)
        printf("  %-14s %" PRIu64 " verdicts were not written down: where filters ask for app, packets may be undecided\n", "layer 7",
               answer_count(row, "verdicts_lost"));
}

static void mending_print(const json_t *mending)
{
    char size[TEXT_SIZE_SIZE];
    if (answer_count(mending, "degraded_segments") > 0)
        printf("  %-14s %" PRIu64 " segments lack copies (%s)%s, %" PRIu64 " copies made\n",
               "healing", answer_count(mending, "degraded_segments"),
               text_size(answer_count(mending, "degraded_bytes"), size),
               answer_is_true(mending, "healing") ? ", at work" : "",
               answer_count(mending, "healed_segments"));
    if (answer_count(mending, "repaired") + answer_count(mending, "unrepairable") > 0)
        printf("  %-14s %" PRIu64 " damaged frames mended, %" PRIu64 " not to be mended\n",
               "repairs", answer_count(mending, "repaired"), answer_count(mending, "unrepairable"));
    const json_t *scrub = answer_object(mending, "scrub"), *last = answer_object(scrub, "last");
    if (answer_is_true(scrub, "running"))
        printf("  %-14s at %.0f %%, %s read, %" PRIu64 " damaged, %" PRIu64 " mended\n", "scrub",
               100 * answer_number(scrub, "progress"),
               text_size(answer_count(scrub, "bytes"), size), answer_count(scrub, "found"),
               answer_count(scrub, "mended"));
    if (last)
        printf("  %-14s %s, %s read, %" PRIu64 " damaged, %" PRIu64 " mended\n", "last scrub",
               output_printable(answer_text(last, "ended_text")),
               text_size(answer_count(last, "bytes"), size), answer_count(last, "found"),
               answer_count(last, "mended"));
    if (answer_text(scrub, "next_text")[0])
        printf("  %-14s %s\n", "next scrub", output_printable(answer_text(scrub, "next_text")));
}

/* How reading gives way to recording, where anybody reads or has waited. */
static void yielding_print(const json_t *yielding)
{
    uint64_t readers_ms = answer_count(yielding, "readers_held_back_ms");
    uint64_t mending_ms = answer_count(yielding, "mending_held_back_ms");
    uint64_t readers = answer_count(yielding, "readers");
    if (readers == 0 && readers_ms == 0 && mending_ms == 0)
        return;
    printf("  %-14s %" PRIu64 " reading; so far readers have waited %.1f s for recording, mending %.1f s%s\n", "yielding",
           readers, (double)readers_ms / 1000, (double)mending_ms / 1000,
           answer_count(yielding, "level_permille") >= 1000 ? "; recording needs the disks now" : "");
}

static void purging_print(const json_t *purging)
{
    printf("  %-14s %" PRIu64 " of %" PRIu64 " segments written anew\n", "purging", answer_count(purging, "segments_done"),
           answer_count(purging, "segments_total"));
}

static void errors_print(const json_t *row)
{
    const json_t *errors = json_object_get(row, "errors");
    if (json_is_integer(errors) && json_integer_value(errors) > 0)
        printf("  %-14s %" JSON_INTEGER_FORMAT " (tapeloop events says which)\n", "errors",
               json_integer_value(errors));
    else if (json_is_string(errors) && json_string_value(errors)[0])
        printf("  %-14s %s\n", "errors", output_printable(json_string_value(errors)));
    size_t i;
    json_t *error;
    json_array_foreach(errors, i, error)
    {
        const char *text =
            json_is_string(error) ? json_string_value(error) : answer_text(error, "text");
        printf("  %-14s %s\n", i == 0 ? "errors" : "", output_printable(text));
    }
}

/* Every cause of promise P6, also those that never occurred, and their sum. */
static void account_print(const json_t *row)
{
    struct account account;
    struct table table;
    answer_account(answer_object(row, "account"), &account);
    if (account.packets[ACCOUNT_seen] == 0)
        return;
    table_open(&table, 3);
    table_text(&table, "ACCOUNT");
    table_text(&table, "PACKETS");
    table_text(&table, "");
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        table_text(&table, view_line_name(line));
        table_number(&table, account.packets[line]);
        table_text(&table, account_help((enum account_line)line));
    }
    table_text(&table, "sum");
    table_number(&table, account_sum(&account));
    table_text(&table, account_sum(&account) == account.packets[ACCOUNT_seen]
                           ? "of all but the first line: every packet is accounted for"
                           : "of all but the first line: DIFFERS from what was seen");
    table_text(&table, "cut");
    table_number(&table, answer_count(row, "cut_packets"));
    table_text(&table, "of those stored: packets of which a rule has kept a part");
    putchar('\n');
    table_print(&table, stdout, "  ");
    table_close(&table);
}

static void status_ring_print(const json_t *row, const json_t *disks)
{
    const json_t *ring = answer_object(row, "ring");
    if (!ring)
        ring = row;
    view_ring(ring);
    if (answer_number(row, "reach_back_s") > 0)
        printf("  %-14s %s\n", "reaches back", output_duration(answer_number(row, "reach_back_s")));
    if (answer_number(row, "forecast_s") > 0)
        printf("  %-14s %s at the present rate\n", "will reach", output_duration(answer_number(row, "forecast_s")));
    writing_print(row);
    index_print(row);
    if (answer_object(row, "mending"))
        mending_print(answer_object(row, "mending"));
    if (answer_object(row, "yielding"))
        yielding_print(answer_object(row, "yielding"));
    if (answer_object(row, "purging"))
        purging_print(answer_object(row, "purging"));
    errors_print(row);
    const json_t *interfaces = answer_array(row, "interfaces");
    if (json_array_size(interfaces) > 0) {
        putchar('\n');
        view_interfaces(interfaces, "  ");
    }
    account_print(row);
    putchar('\n');
    view_disks(disks, answer_text(ring, "name"), "  ");
}

static void recorder_print(const struct session *session)
{
    if (session->recorder > 0) {
        printf("no recorder is running\n");
        return;
    }
    printf("recorder: tapeloop %s, process %" PRIu64 ", up %s%s\n",
           output_printable(answer_text(session->hello, "tapeloop")),
           answer_count(session->hello, "pid"),
           output_duration(answer_number(session->hello, "uptime_s")),
           answer_is_true(session->hello, "session") ? ", for the time of a command" : "");
}

static int status_show(const struct invocation *invocation, struct session *session,
                       struct failure *failure)
{
    const char *ring = invocation->operands > 0 ? invocation->operand[0] : NULL;
    struct session_job job = {.method = "status", .watched_fd = -1};
    json_t *result = NULL;
    int code = session_call(session, &job, json_pack("{s:s?}", "ring", ring), &result, failure);
    if (code != 0)
        return code;
    if (output_is_json()) {
        output_json(result);
        json_decref(result);
        return 0;
    }
    json_t *disks = NULL;
    job.method = "disk.list";
    code = session_call(session, &job, json_pack("{s:s?}", "ring", ring), &disks, failure);
    if (code == 0) {
        recorder_print(session);
        const json_t *rings = answer_array(result, "rings");
        if (json_array_size(rings) == 0)
            output_note(
                "There is no ring yet: tapeloop ring create NAME --disk PATH:SIZE makes one.");
        size_t i;
        json_t *row;
        json_array_foreach(rings, i, row)
        {
            putchar('\n');
            status_ring_print(row, answer_array(disks, "disks"));
        }
    }
    json_decref(disks);
    json_decref(result);
    return code;
}

/* Again each second, until ^C or until nobody reads it. */
static int status_watch(const struct invocation *invocation, struct session *session,
                        struct failure *failure)
{
    bool terminal = isatty(STDOUT_FILENO) == 1 && !output_is_json();
    for (bool first = true;; first = false) {
        if (terminal)
            printf("\033[H\033[2J");
        else if (!first && !output_is_json())
            putchar('\n');
        int code = status_show(invocation, session, failure);
        if (code == ERR_INTERRUPTED)
            return EXIT_DONE;
        if (code == 0 && output_flush(failure) == ERR_CLOSED)
            return EXIT_DONE; /* nobody reads it any more */
        if (code == 0 && ferror(stdout))
            return EXIT_FAILED; /* at the end of the program it is said why */
        if (code != 0)
            return code;
        struct pollfd wanted = {.fd = interrupt_fd(), .events = POLLIN};
        if (interrupt_count() == 0)
            poll(&wanted, 1, WATCH_PERIOD_MS);
        if (interrupt_count() > 0)
            return EXIT_DONE;
    }
}

static int status_run(const struct invocation *invocation, struct failure *failure)
{
    int code = invocation->operands > 0 ? text_check_ring_name(invocation->operand[0], failure) : 0;
    if (code != 0)
        return code;
    struct session session;
    code = session_open(&session, invocation->state, SESSION_START | SESSION_RINGS, failure);
    if (code != 0)
        return code;
    if (options_given(invocation, "watch"))
        code = status_watch(invocation, &session, failure);
    else
        code = status_show(invocation, &session, failure);
    return session_close(&session, code, failure);
}

static const struct option_row status_options[] = {
    {"watch", 0, false, NULL, "again each second, until ^C; with --json, one object a line"},
    {0},
};

const struct command status_command = {
    .name = "status",
    .operands = "[RING]",
    .operands_max = 1,
    .summary = "how recorder, rings, interfaces and disks are",
    .details =
        "In each line of the interfaces, what was seen is the sum of the columns behind it; and so "
        "it\n"
        "is in the account of all, which names every cause. Both are since the recorder started.",
    .examples = "  tapeloop status\n  tapeloop status dmz --watch",
    .options = status_options,
    .run = status_run,
};

/* ---- history --------------------------------------------------------------------------------- */

static void history_print(const json_t *rows)
{
    struct account all = {0};
    struct account one;
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        answer_account(row, &one);
        account_add(&all, &one);
    }
    uint32_t columns = 3;
    bool shown[ACCOUNT_LINES];
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        shown[line] = line == ACCOUNT_seen || line == ACCOUNT_stored || all.packets[line] > 0;
        columns += shown[line];
    }
    struct table table;
    table_open(&table, columns);
    table_text(&table, "SECOND");
    table_text(&table, "INTERFACE");
    for (int line = 0; line < ACCOUNT_LINES; line++)
        if (shown[line])
            table_text(&table, account_name((enum account_line)line));
    table_text(&table, "stored_bytes");
    json_array_foreach(rows, i, row)
    {
        char text[TEXT_TIME_SIZE];
        int64_t second = 0;
        int64_t time_ns = 0;
        if (!answer_time(json_object_get(row, "second"), &second) ||
            __builtin_mul_overflow(second, INT64_C(1000000000), &time_ns))
            time_ns = 0;
        text_time(time_ns, text);
        snprintf(text + strcspn(text, "."), 2, "Z"); /* whole seconds */
        table_text(&table, text);
        table_text(&table, answer_text(row, "interface"));
        answer_account(row, &one);
        for (int line = 0; line < ACCOUNT_LINES; line++)
            if (shown[line])
                table_number(&table, one.packets[line]);
        table_number(&table, one.stored_bytes);
    }
    table_print(&table, stdout, "");
    table_close(&table);
}

/* A time option in whole seconds, the default where it was not given. */
static int seconds_parse(const struct invocation *invocation, const char *name, int64_t now,
                         int64_t *seconds, struct failure *failure)
{
    const char *text = options_text(invocation, name);
    int64_t time_ns;
    if (!text)
        return 0;
    int code = text_parse_time(text, now, &time_ns, failure);
    if (code != 0)
        return fail_context(failure, code, "--%s", name);
    *seconds = time_ns / 1000000000 - (time_ns % 1000000000 < 0);
    return 0;
}

static int history_run(const struct invocation *invocation, struct failure *failure)
{
    int64_t now = clock_realtime_ns();
    int64_t to_s = now / 1000000000 + 1;
    int64_t from_s = to_s - HISTORY_SECONDS;
    const char *interface = options_text(invocation, "interface");
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code == 0)
        code = seconds_parse(invocation, "from", now, &from_s, failure);
    if (code == 0)
        code = seconds_parse(invocation, "to", now, &to_s, failure);
    if (code == 0 && from_s >= to_s)
        code = fail(failure, ERR_INVALID, "--from is not before --to");
    if (code != 0)
        return code;
    json_t *result = NULL;
    json_t *params = json_pack("{s:s, s:s?, s:I, s:I}", "ring", invocation->operand[0], "interface",
                               interface, "from_s", (json_int_t)from_s, "to_s", (json_int_t)to_s);
    if (!params)
        return fail(failure, ERR_INVALID, "interface \"%s\": no such name",
                    output_printable(interface));
    code = session_ask(invocation, SESSION_START, "history", params, &result, failure);
    if (code != 0)
        return code;
    const json_t *rows = answer_array(result, "rows");
    if (output_is_json())
        output_json(result);
    else if (json_array_size(rows) == 0)
        output_note("Nothing happened in this time.");
    else
        history_print(rows);
    json_decref(result);
    return EXIT_DONE;
}

static const struct option_row history_options[] = {
    {"from", 0, false, "T", "from this time on (default -10m)"},
    {"to", 0, false, "T", "up to, not including, this time (default now)"},
    {"interface", 'i', false, "INTERFACE", "of this one only"},
    {0},
};

const struct command history_command = {
    .name = "history",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "the account of packets, second by second",
    .examples = "  tapeloop history dmz\n"
                "  tapeloop history dmz --from -1h --interface eth0 --json",
    .options = history_options,
    .run = history_run,
};

/* ---- events ---------------------------------------------------------------------------------- */

static void print_event(const json_t *event)
{
    char time[TEXT_TIME_SIZE] = "-";
    int64_t time_ns;
    if (answer_time(json_object_get(event, "time_ns"), &time_ns))
        text_time(time_ns, time);
    const char *ring = answer_text(event, "ring");
    printf("%" PRIu64 "  %s  %-7s  %s%s%s: %s\n", answer_count(event, "number"), time,
           output_printable(answer_text(event, "severity")),
           output_printable(answer_text(event, "kind")), ring[0] ? ", ring " : "",
           output_printable(ring), output_printable(answer_text(event, "text")));
}

static int events_run(const struct invocation *invocation, struct failure *failure)
{
    return numbered_rows_run(invocation, "events", "events", "No event.", print_event, failure);
}

const struct command events_command = {
    .name = "events",
    .operands = "",
    .summary = "what happened: starts, drops, failures of disks",
    .examples = "  tapeloop events\n  tapeloop events --after 1200 --json",
    .options = numbered_rows_options,
    .run = events_run,
};
