/*
 * rule_test_command.c - what rules would make of packets: of a file, or of what a ring holds.
 *
 * Nothing here looks at a packet. tapeloop-judge does, confined: it gets the capture as its
 * standard input, which is the file, or a pipe that the recorder's extraction writes into, and the
 * rules in a file in memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "program_path.h"
#include "recorder_session.h"
#include "rule_source.h"
#include "rule_view.h"
#include "text.h"

#define JUDGE "tapeloop-judge"
#define RULES_FD 3
#define ANSWER_BYTES_MAX (64u << 20)

struct trial {
    char *rules; /* the text; owned */
    char seed[24];
    bool ranged;
    bool bounded_below, bounded_above;
    int64_t from_ns, to_ns;
    const char *name; /* of the capture */
    int capture_fd;
    pid_t judge;
    int answer_fd;
    struct progress progress;
};

/* ---- the judge ------------------------------------------------------------------------------ */

static int rules_file(const char *rules, struct failure *failure)
{
    size_t bytes = strlen(rules), done = 0;
    int fd = memfd_create("rules", MFD_CLOEXEC);
    while (fd >= 0 && done < bytes) {
        ssize_t wrote = write(fd, rules + done, bytes - done);
        if (wrote < 0)
            break;
        done += (size_t)wrote;
    }
    if (fd >= 0 && done == bytes && lseek(fd, 0, SEEK_SET) == 0)
        return fd;
    int number = errno;
    if (fd >= 0)
        close(fd);
    return fail_errno(failure, number, "no memory for the rules");
}

/* In the child. Does not return. */
static void judge_become(const struct trial *trial, const char *path, int rules_fd, int answer_fd)
{
    interrupt_reset();
    /* Whatever the numbers are: none is lost when another takes its place. */
    int capture = fcntl(trial->capture_fd, F_DUPFD, 16), rules = fcntl(rules_fd, F_DUPFD, 16),
        answer = fcntl(answer_fd, F_DUPFD, 16);
    dup2(capture, STDIN_FILENO);
    dup2(answer, STDOUT_FILENO);
    dup2(rules, RULES_FD);
    close_range(RULES_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC);
    char *arguments[] = {(char *)JUDGE, (char *)trial->seed, (char *)trial->name, NULL};
    if (path[0])
        execv(path, arguments);
    else
        execvp(JUDGE, arguments);
    dprintf(STDOUT_FILENO,
            "{\"error\": {\"code\": \"not_found\", \"message\": \"cannot start " JUDGE "\"}}");
    _exit(127);
}

/* Starts it; the capture's descriptor is closed here. */
static int judge_start(struct trial *trial, struct failure *failure)
{
    char path[PATH_MAX];
    int answer[2] = {-1, -1};
    int rules_fd = rules_file(trial->rules, failure);
    int code = rules_fd < 0 ? rules_fd : 0;
    program_path(JUDGE, path);
    if (code == 0 && pipe2(answer, O_CLOEXEC) != 0)
        code = fail_errno(failure, errno, "no pipe to " JUDGE);
    if (code == 0) {
        fflush(stdout);
        trial->judge = fork();
        if (trial->judge == 0)
            judge_become(trial, path, rules_fd, answer[1]);
        if (trial->judge < 0) {
            code = fail_errno(failure, errno, "cannot start " JUDGE);
            trial->judge = 0;
        }
    }
    if (rules_fd >= 0)
        close(rules_fd);
    if (answer[1] >= 0)
        close(answer[1]);
    trial->answer_fd = answer[0];
    close(trial->capture_fd);
    trial->capture_fd = -1;
    return code;
}

static void judge_end(struct trial *trial)
{
    if (trial->judge > 0) {
        kill(trial->judge, SIGKILL);
        while (waitpid(trial->judge, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    trial->judge = 0;
    if (trial->answer_fd >= 0)
        close(trial->answer_fd);
    trial->answer_fd = -1;
}

/* What it has to say; the caller owns it. A failure of its own is ours. */
static int judge_answer(struct trial *trial, json_t **result, struct failure *failure)
{
    size_t used = 0, room = 0;
    char *text = NULL;
    for (;;) {
        if (room - used < 4096) {
            room = room ? 2 * room : 65536;
            char *grown = room <= ANSWER_BYTES_MAX ? realloc(text, room) : NULL;
            if (!grown) {
                free(text);
                return fail(failure, ERR_PROTOCOL, JUDGE " has too much to say");
            }
            text = grown;
        }
        ssize_t got = read(trial->answer_fd, text + used, room - used);
        if (interrupt_count() > 0) {
            free(text);
            return fail(failure, ERR_INTERRUPTED, "interrupted");
        }
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    *result = json_loadb(text, used, 0, NULL);
    free(text);
    const json_t *error = answer_object(*result, "error");
    if (!json_is_object(*result))
        return fail(failure, ERR_PROTOCOL, JUDGE " has died");
    if (json_object_get(*result, "packets"))
        return 0;
    int code = ERR_INTERNAL;
    for (int known = ERR_AGAIN; known >= ERR_INTERNAL; known--)
        if (strcmp(error_name(known), answer_text(error, "code")) == 0)
            code = known;
    fail(failure, code, "%s", answer_text(error, "message"));
    json_decref(*result);
    *result = NULL;
    return code;
}

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

/* Lets the recorder write the range into the judge. *complete: nothing of it is missing. */
static int judge_range(struct trial *trial, struct session *session, const char *ring,
                       bool *complete, struct failure *failure)
{
    int pipe_fd[2];
    if (pipe2(pipe_fd, O_CLOEXEC) != 0)
        return fail_errno(failure, errno, "no pipe");
    trial->capture_fd = pipe_fd[0];
    trial->name = ring;
    int code = judge_start(trial, failure);
    json_t *result = NULL;
    if (code == 0) {
        json_t *params =
            json_pack("{s:s, s:o, s:o, s:s, s:s}", "ring", ring, "from_ns",
                      trial->bounded_below ? answer_make_time(trial->from_ns) : json_null(),
                      "to_ns", trial->bounded_above ? answer_make_time(trial->to_ns) : json_null(),
                      "filter", "", "format", "pcapng");
        struct session_job job = {.method = "extract",
                                  .descriptors = &pipe_fd[1],
                                  .descriptor_count = 1,
                                  .context = trial,
                                  .progress = extract_progress,
                                  .watched_fd = -1};
        progress_open(&trial->progress);
        code = session_call(session, &job, params, &result, failure);
        progress_close(&trial->progress);
    }
    close(pipe_fd[1]);
    *complete = answer_is_true(result, "complete");
    json_decref(result);
    return code;
}

/* The ring's rules and seed, from the recorder. */
static int ask_rules(struct trial *trial, struct session *session, const char *ring,
                     struct failure *failure)
{
    struct session_job job = {.method = "rule.list", .watched_fd = -1};
    json_t *result = NULL;
    int code = session_call(session, &job, json_pack("{s:s}", "ring", ring), &result, failure);
    if (code != 0)
        return code;
    snprintf(trial->seed, sizeof trial->seed, "%.20s", answer_text(result, "seed"));
    if (!trial->rules) {
        size_t bytes = 0, i;
        json_t *rule;
        FILE *out = open_memstream(&trial->rules, &bytes);
        json_array_foreach(answer_array(result, "rules"), i, rule) if (out)
            fprintf(out, "%s\n", answer_text(rule, "text"));
        if (!out || fclose(out) != 0)
            code = fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    }
    json_decref(result);
    return code;
}

/* ---- the command ---------------------------------------------------------------------------- */

static int report(json_t *result, bool complete)
{
    const json_t *error = answer_object(result, "error");
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
    bool complete = true;
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
    code = ask_rules(trial, &session, ring, failure);
    if (code == 0 && trial->ranged)
        code = judge_range(trial, &session, ring, &complete, failure);
    else if (code == 0)
        code = judge_start(trial, failure);
    /* What the judge says is nearer to the cause than that nobody read the extraction. */
    if (code == 0 || code == ERR_CLOSED || code == ERR_IO) {
        struct failure why = *failure;
        int judged = trial->judge > 0 ? judge_answer(trial, &result, failure) : code;
        if (judged == 0 && code != 0) {
            *failure = why;
            judged = code;
        }
        code = judged;
    }
    if (code == 0)
        code = report(result, complete);
    json_decref(result);
    return session_close(&session, code, failure);
}

static int test_run(const struct invocation *invocation, struct failure *failure)
{
    struct trial trial = {.capture_fd = -1, .answer_fd = -1, .seed = "0"};
    int code = trial_run(invocation, &trial, failure);
    judge_end(&trial);
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
        "they were recorded are gone. Layer 7 is not asked: of a rule with app, \"until known\"\n"
        "applies. Exit status 3: the file is damaged, or packets of the range are missing.",
    .examples = "  tapeloop rule test dmz monday.pcapng\n"
                "  tapeloop rule test dmz --from -1h --rules proposed.rules",
    .options = options,
    .run = test_run,
};
