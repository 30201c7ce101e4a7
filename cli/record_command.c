/*
 * record_command.c - recording in the foreground, until ^C or for a while; and in the background of
 * a recorder that runs anyway.
 *
 * In the foreground the recording lives as long as our connection. ^C asks for its end
 * (record.stop) and waits for the final account. A second ^C hangs up, which ends the recording
 * too, but leaves nobody to hear the account.
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

#define SNAPSHOT_MAX 262144u
#define SNAPSHOT_MIN 14u
#define INTERFACES_MAX 64u
#define PEEK_MS 300

struct recording {
    struct session *session;
    const struct invocation *invocation;
    const char *ring;
    struct progress progress;
    bool begun;
    bool stopping;
    int64_t duration_ns;    /* 0: until ^C */
    int64_t end_ns;         /* by output_clock_ns(); 0: not yet known */
    struct account account; /* as of the last progress */
    struct account before;  /* and of the one before */
    int64_t account_ns;
    double packets_per_s;
    double bytes_per_s;
    double reach_back_s; /* negative: not known */
};

/* ---- what is seen while it runs ---------------------------------------------------------------
 */

/* What fits into a line of 80 as long as nothing is dropped. */
static void recording_draw(struct recording *recording)
{
    if (!progress_is_due(&recording->progress))
        return;
    const struct account *account = &recording->account;
    char rate[TEXT_SIZE_SIZE];
    char drops[128] = "no drops";
    char reach[64] = "";
    if (view_dropped(account) > 0)
        snprintf(drops, sizeof drops,
                 "DROPPED: queue %" PRIu64 ", kernel %" PRIu64 ", disk %" PRIu64,
                 account->packets[ACCOUNT_dropped_queue], account->packets[ACCOUNT_dropped_kernel],
                 account->packets[ACCOUNT_lost_disk]);
    if (recording->reach_back_s > 0)
        snprintf(reach, sizeof reach, "; reaches back %s",
                 output_duration(recording->reach_back_s));
    progress_show(&recording->progress, "%s: %.0f pps, %s/s; stored %" PRIu64 "; %s%s",
                  recording->ring, recording->packets_per_s,
                  text_size((uint64_t)recording->bytes_per_s, rate),
                  account->packets[ACCOUNT_stored], drops, reach);
}

/* How far the ring reaches back is known to its status alone. */
static void recording_reach_back(struct recording *recording)
{
    json_t *status = NULL;
    if (session_peek(recording->session, "status", json_pack("{s:s}", "ring", recording->ring),
                     PEEK_MS, &status) != 0)
        return;
    const json_t *row = json_array_get(answer_array(status, "rings"), 0);
    recording->reach_back_s = answer_number(row, "reach_back_s");
    json_decref(status);
}

static void recording_progress(const json_t *progress, void *context)
{
    struct recording *recording = context;
    int64_t now_ns = output_clock_ns();
    const json_t *account = answer_object(progress, "account");
    recording->before = recording->account;
    answer_account(account, &recording->account);
    double seconds = (double)(now_ns - recording->account_ns) / 1e9;
    uint64_t seen = recording->account.packets[ACCOUNT_seen];
    uint64_t seen_before = recording->before.packets[ACCOUNT_seen];
    if (recording->begun && seconds > 0.05 && seen >= seen_before)
        recording->packets_per_s = (double)(seen - seen_before) / seconds;
    recording->account_ns = now_ns;
    double rate = answer_number(progress, "bytes_per_s");
    recording->bytes_per_s = rate > 0 && rate < 1e18 ? rate : 0;
    if (output_is_drawn())
        recording_reach_back(recording);
    if (!recording->begun && recording->duration_ns > 0)
        recording->end_ns = now_ns + recording->duration_ns;
    if (!recording->begun)
        output_note("Recording into ring %s. %s", recording->ring,
                    recording->duration_ns > 0 ? "^C ends it early." : "^C ends it.");
    recording->begun = true;
    recording_draw(recording);
}

static int recording_end(struct recording *recording)
{
    recording->stopping = true;
    return session_add(recording->session, "record.stop");
}

static int recording_tick(void *context)
{
    struct recording *recording = context;
    if (recording->stopping)
        return 0;
    if (recording->end_ns > 0 && output_clock_ns() >= recording->end_ns)
        return recording_end(recording);
    return 0;
}

static int recording_interrupted(unsigned count, void *context)
{
    struct recording *recording = context;
    if (count > 1)
        return ERR_INTERRUPTED;
    return recording->stopping ? 0 : recording_end(recording);
}

/* ---- the request ----------------------------------------------------------------------------- */

static int interfaces_make(const struct invocation *invocation, json_t *interfaces,
                           struct failure *failure)
{
    uint32_t count = options_count(invocation, "interface");
    const char *backend = options_text(invocation, "backend");
    bool generated = backend && strcmp(backend, "generator") == 0;
    if (count == 0 && !generated)
        return fail(failure, ERR_INVALID,
                    "which interface? tapeloop record %s -i INTERFACE (tapeloop "
                    "interfaces lists them)",
                    invocation->operand[0]);
    if (count > INTERFACES_MAX)
        return fail(failure, ERR_INVALID, "at most %u interfaces", INTERFACES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        const char *name = options_nth(invocation, "interface", i);
        json_t *text = name[0] ? json_string(name) : NULL;
        if (!text)
            return fail(failure, ERR_INVALID, "interface \"%s\": no such name",
                        output_printable(name));
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(name, options_nth(invocation, "interface", j)) != 0)
                continue;
            json_decref(text);
            return fail(failure, ERR_INVALID, "interface %s is given twice",
                        output_printable(name));
        }
        if (json_array_append_new(interfaces, text) != 0)
            return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    }
    return 0;
}

static int backend_check(const char *backend, struct failure *failure)
{
    static const char *const known[] = {"auto", "packet", "pcap", "generator"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(backend, known[i]) == 0)
            return 0;
    return fail(failure, ERR_INVALID, "--backend \"%s\": expected auto, packet, pcap or generator",
                backend);
}

/* The params of record.start; null with a failure. */
static json_t *start_params(const struct invocation *invocation, bool attach,
                            struct failure *failure)
{
    const char *backend = options_text(invocation, "backend");
    uint64_t snapshot = 0;
    uint64_t buffer = 0;
    if (!backend)
        backend = "auto";
    if (backend_check(backend, failure) != 0 ||
        options_number(invocation, "snapshot-length", SNAPSHOT_MIN, SNAPSHOT_MAX, &snapshot,
                       failure) != 0 ||
        options_size(invocation, "buffer", &buffer, failure) != 0)
        return NULL;
    if (buffer > UINT32_MAX) {
        fail(failure, ERR_INVALID, "--buffer: more than 4 GiB");
        return NULL;
    }
    json_t *interfaces = json_array();
    if (interfaces_make(invocation, interfaces, failure) != 0) {
        json_decref(interfaces);
        return NULL;
    }
    json_t *params = json_pack("{s:s, s:o, s:s, s:b, s:b, s:b}", "ring", invocation->operand[0],
                               "interfaces", interfaces, "backend", backend, "promiscuous",
                               !options_given(invocation, "no-promiscuous"), "outgoing",
                               options_given(invocation, "outgoing"), "attach", attach);
    if (params && snapshot > 0)
        json_object_set_new(params, "snapshot_bytes", json_integer((json_int_t)snapshot));
    if (params && buffer > 0)
        json_object_set_new(params, "buffer_bytes", json_integer((json_int_t)buffer));
    if (!params)
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    return params;
}

/* ---- in the foreground ------------------------------------------------------------------------
 */

/* The account at the end; EXIT_INCOMPLETE where packets were dropped. */
static int account_report(json_t *result)
{
    struct account account;
    answer_account(answer_object(result, "account"), &account);
    if (output_is_json())
        output_json(result);
    else
        view_account(&account, stdout);
    json_decref(result);
    uint64_t dropped = view_dropped(&account);
    if (dropped == 0)
        return EXIT_DONE;
    if (!output_is_json())
        output_error("%" PRIu64 " packets were dropped", dropped);
    return EXIT_INCOMPLETE;
}

static int record_attached(const struct invocation *invocation, int64_t duration_ns,
                           struct failure *failure)
{
    json_t *params = start_params(invocation, true, failure);
    if (!params)
        return failure->code;
    struct session session;
    int code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    struct recording recording = {
        .session = &session,
        .invocation = invocation,
        .ring = invocation->operand[0],
        .duration_ns = duration_ns,
        .reach_back_s = -1,
    };
    struct session_job job = {
        .method = "record.start",
        .context = &recording,
        .progress = recording_progress,
        .tick = recording_tick,
        .interrupted = recording_interrupted,
        .watched_fd = -1,
    };
    json_t *result = NULL;
    progress_open(&recording.progress);
    code = session_call(&session, &job, params, &result, failure);
    progress_close(&recording.progress);
    if (code == 0)
        code = account_report(result);
    return session_close(&session, code, failure);
}

/* ---- in the background ------------------------------------------------------------------------
 */

static int record_detached(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = start_params(invocation, false, failure);
    if (!params)
        return failure->code;
    struct session session;
    int code = session_open(&session, invocation->state, 0, failure);
    if (code == 0 && answer_is_true(session.hello, "session"))
        code = session_close(
            &session,
            fail(failure, ERR_INVALID,
                 "--detach needs a recorder that stays, and the one that runs ends with the "
                 "command that started it: start one with tapeloopd --state DIR"),
            failure);
    else if (code == ERR_NOT_FOUND)
        fail(failure, code,
             "%s: --detach needs one that stays, start it with tapeloopd --state DIR",
             failure->text);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    struct session_job job = {.method = "record.start", .watched_fd = -1};
    json_t *result = NULL;
    code = session_call(&session, &job, params, &result, failure);
    if (code == 0 && output_is_json())
        output_json(result);
    else if (code == 0)
        output_note("Recording into ring %s. tapeloop record %s --stop ends it.",
                    invocation->operand[0], invocation->operand[0]);
    json_decref(result);
    return session_close(&session, code, failure);
}

static int record_stop(const struct invocation *invocation, struct failure *failure)
{
    json_t *result = NULL;
    int code = session_ask(invocation, 0, "record.stop",
                           json_pack("{s:s}", "ring", invocation->operand[0]), &result, failure);
    return code != 0 ? code : account_report(result);
}

/* ---- the command ------------------------------------------------------------------------------
 */

static int record_run(const struct invocation *invocation, struct failure *failure)
{
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code != 0)
        return code;
    if (options_given(invocation, "outgoing") && options_given(invocation, "no-outgoing"))
        return fail(failure, ERR_INVALID, "--outgoing and --no-outgoing exclude one another");
    bool stop = options_given(invocation, "stop");
    bool detach = options_given(invocation, "detach");
    if (stop && (invocation->values > 1))
        return fail(failure, ERR_INVALID, "--stop goes with no other option of record");
    if (detach && options_given(invocation, "for"))
        return fail(failure, ERR_INVALID, "--detach and --for exclude one another");
    int64_t duration_ns = 0;
    const char *text = options_text(invocation, "for");
    if (text) {
        code = text_parse_duration(text, &duration_ns, failure);
        if (code != 0)
            return fail_context(failure, code, "--for");
        if (duration_ns <= 0)
            return fail(failure, ERR_INVALID, "--for \"%s\": longer than nothing, please", text);
    }
    if (stop)
        return record_stop(invocation, failure);
    if (detach)
        return record_detached(invocation, failure);
    return record_attached(invocation, duration_ns, failure);
}

static const struct option_row options[] = {
    {"interface", 'i', true, "INTERFACE", "may be given several times"},
    {"backend", 0, false, "B",
     "auto, packet (AF_PACKET), pcap (libpcap) or generator\n(made-up traffic); default auto"},
    {"snapshot-length", 's', false, "BYTES", "keep at most so much of each packet (default: all)"},
    {"buffer", 'B', false, "SIZE", "the kernel's buffer for each interface (default 32M)"},
    {"no-promiscuous", 'p', false, NULL, "only what is addressed to this machine"},
    {"outgoing", 0, false, NULL, "also what this machine sends: the default"},
    {"no-outgoing", 0, false, NULL, "not what this machine sends (the backend packet can tell)"},
    {"for", 0, false, "DURATION", "end after a while: 30s, 5m, 2h, 1d"},
    {"detach", 0, false, NULL, "return at once; the running recorder goes on"},
    {"stop", 0, false, NULL, "end a recording"},
    {0},
};

const struct command record_command = {
    .name = "record",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "record interfaces into a ring until ^C",
    .details =
        "Prints the account of all packets at the end: what was seen is what was stored plus what\n"
        "was left out or lost, by cause. Exit status 3 if packets were dropped.",
    .examples = "  tapeloop record dmz -i eth0\n"
                "  tapeloop record dmz -i eth0 -i eth1 --for 1h\n"
                "  tapeloop record dmz -i eth0 --detach && tapeloop record dmz --stop",
    .options = options,
    .run = record_run,
};
