/*
 * verify_command.c - looking after a ring: everything read and checked, the catalog made anew, what
 * is in flight made durable.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"
#include "text.h"
#include "views.h"

#define BAD_SHOWN 20

/* ---- verify ---------------------------------------------------------------------------------- */

static void verify_progress(const json_t *answer, void *context)
{
    struct progress *progress = context;
    if (!progress_is_due(progress))
        return;
    uint64_t done = answer_count(answer, "segments_done");
    uint64_t total = answer_count(answer, "segments_total");
    if (json_object_get(answer, "segments_healed")) {
        progress_show(progress, "mending: %" PRIu64 " repairs wait, %" PRIu64 " copies made",
                      answer_count(answer, "repairs_waiting"),
                      answer_count(answer, "segments_healed"));
        return;
    }
    progress_show(progress, "segment %" PRIu64 " of %" PRIu64 ", %s", done, total,
                  progress_text(progress, done, total, "segments"));
}

static void bad_print(const json_t *bad)
{
    size_t count = json_array_size(bad);
    if (count == 0)
        return;
    static const char *const heading[] = {"SEGMENT", "DISK", "SLOT", "OFFSET", "BYTES", "REASON"};
    struct table table;
    table_open(&table, sizeof heading / sizeof heading[0]);
    for (size_t i = 0; i < sizeof heading / sizeof heading[0]; i++)
        table_text(&table, heading[i]);
    for (size_t i = 0; i < count && i < BAD_SHOWN; i++) {
        const json_t *row = json_array_get(bad, i);
        const json_t *disk = json_object_get(row, "disk");
        table_text(&table, answer_text(row, "segment"));
        if (json_is_string(disk))
            table_text(&table, json_string_value(disk));
        else
            table_number(&table, answer_count(row, "disk"));
        table_number(&table, answer_count(row, "slot"));
        table_number(&table, answer_count(row, "offset"));
        table_number(&table, answer_count(row, "bytes"));
        table_text(&table, answer_text(row, "reason"));
    }
    table_print(&table, stdout, "  ");
    table_close(&table);
    if (count > BAD_SHOWN)
        printf("  and %zu more (--json shows them)\n", count - BAD_SHOWN);
}

/* Whether one of the reasons is damage: it may also be that not all could be read. A recorder that gives none has found damage. */
static bool is_damaged(const json_t *reasons)
{
    bool damaged = json_array_size(reasons) == 0;
    for (size_t i = 0; i < json_array_size(reasons); i++) {
        const char *reason = answer_text(json_array_get(reasons, i), "reason");
        damaged |= strcmp(reason, "catalog") != 0 && strcmp(reason, "not-flushed") != 0;
    }
    return damaged;
}

/* Why it is not clean. */
static void reasons_print(const json_t *reasons)
{
    for (size_t i = 0; i < json_array_size(reasons); i++)
        printf("  %s\n", answer_text(json_array_get(reasons, i), "text"));
}

static void held_back_print(const json_t *result)
{
    uint64_t reading_ms = answer_count(result, "held_back_ms"), mending_ms = answer_count(result, "mending_held_back_ms");
    if (reading_ms + mending_ms > 0)
        printf("  waited because recording needed the disks: %.3f s reading, %.3f s mending\n", (double)reading_ms / 1000,
               (double)mending_ms / 1000);
}

/* After --repair: what was mended, and what could not be. */
static void mended_print(const json_t *mended)
{
    if (!mended)
        return;
    printf("  mended: %" PRIu64 " frames, %" PRIu64 " superblocks, %" PRIu64
           " missing copies made\n",
           answer_count(mended, "frames"), answer_count(mended, "superblocks"),
           answer_count(mended, "copies"));
    uint64_t frames = answer_count(mended, "frames_left"),
             blocks = answer_count(mended, "superblocks_left");
    uint64_t segments = answer_count(mended, "segments_left");
    if (frames + blocks + segments > 0)
        printf("  not to be mended: %" PRIu64 " frames, %" PRIu64 " superblocks; %" PRIu64
               " segments have too few copies\n",
               frames, blocks, segments);
}

static int verify_run(const struct invocation *invocation, struct failure *failure)
{
    const char *ring = invocation->operand[0];
    int code = text_check_ring_name(ring, failure);
    if (code != 0)
        return code;
    struct session session;
    code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0)
        return code;
    struct progress progress;
    struct session_job job = {
        .method = "verify",
        .context = &progress,
        .progress = verify_progress,
        .watched_fd = -1,
    };
    json_t *result = NULL;
    progress_open(&progress);
    code = session_call(
        &session, &job,
        json_pack("{s:s, s:b}", "ring", ring, "repair", options_given(invocation, "repair")),
        &result, failure);
    progress_close(&progress);
    if (code == 0) {
        bool clean = answer_is_true(result, "clean");
        if (output_is_json()) {
            output_json(result);
        } else {
            printf("ring %s: %s; %" PRIu64 " segments, %" PRIu64 " frames checked, %" PRIu64
                   " bad; %" PRIu64 " superblocks bad\n",
                   ring, clean ? "clean" : is_damaged(answer_array(result, "reasons")) ? "DAMAGED" : "NOT CLEAN", answer_count(result, "segments"),
                   answer_count(result, "frames_checked"), answer_count(result, "frames_bad"),
                   answer_count(result, "superblocks_bad"));
            reasons_print(answer_array(result, "reasons"));
            held_back_print(result);
            bad_print(answer_array(result, "bad"));
            mended_print(answer_object(result, "mended"));
        }
        code = clean                                 ? EXIT_DONE
               : options_given(invocation, "repair") ? EXIT_INCOMPLETE
                                                     : EXIT_FAILED;
    }
    json_decref(result);
    return session_close(&session, code, failure);
}

static const struct option_row verify_options[] = {
    {"repair", 0, false, NULL, "mend what can be mended from another copy, and wait for it"},
    {0},
};

const struct command verify_command = {
    .name = "verify",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "read everything in a ring and check everything",
    .details = "Exit status 1 if something is damaged, or could not be checked; it says why, and lists each place. With --repair, damage "
               "is mended from\n"
               "another copy and missing copies are made; exit status 3 if something is left.",
    .examples = "  tapeloop verify dmz\n  tapeloop verify dmz --repair",
    .options = verify_options,
    .run = verify_run,
};

/* ---- rebuild --------------------------------------------------------------------------------- */

static void rebuild_progress(const json_t *answer, void *context)
{
    struct progress *progress = context;
    if (!progress_is_due(progress))
        return;
    uint64_t done = answer_count(answer, "slots_done");
    uint64_t total = answer_count(answer, "slots_total");
    progress_show(progress, "slot %" PRIu64 " of %" PRIu64 ", %s", done, total,
                  progress_text(progress, done, total, "slots"));
}

static int rebuild_run(const struct invocation *invocation, struct failure *failure)
{
    const char *ring = invocation->operand[0];
    int code = text_check_ring_name(ring, failure);
    if (code != 0)
        return code;
    struct session session;
    code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0)
        return code;
    struct progress progress;
    struct session_job job = {
        .method = "ring.rebuild",
        .context = &progress,
        .progress = rebuild_progress,
        .watched_fd = -1,
    };
    json_t *result = NULL;
    progress_open(&progress);
    code = session_call(&session, &job, json_pack("{s:s}", "ring", ring), &result, failure);
    progress_close(&progress);
    if (code == 0 && output_is_json()) {
        output_json(result);
    } else if (code == 0) {
        printf("ring %s: the catalog is rebuilt from the disks\n", ring);
        const json_t *report = answer_object(result, "report");
        view_members(report ? report : result, "  ", stdout);
    }
    json_decref(result);
    return session_close(&session, code, failure);
}

const struct command rebuild_command = {
    .name = "rebuild",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "make the catalog of a ring anew, from its disks",
    .details = "The catalog is derived data: it can be deleted, and this brings it back.",
    .examples = "  tapeloop rebuild dmz",
    .run = rebuild_run,
};

/* ---- flush ----------------------------------------------------------------------------------- */

static int flush_run(const struct invocation *invocation, struct failure *failure)
{
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code != 0)
        return code;
    json_t *result = NULL;
    code = session_ask(invocation, SESSION_START, "flush",
                       json_pack("{s:s}", "ring", invocation->operand[0]), &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    json_decref(result);
    return EXIT_DONE;
}

const struct command flush_command = {
    .name = "flush",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "wait until every packet taken so far is durable",
    .examples = "  tapeloop flush dmz",
    .run = flush_run,
};
