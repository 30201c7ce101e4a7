/*
 * judging.c - the method rule.test: what rules would make of a capture, or of what a ring holds.
 *
 * Nothing here looks at a packet. tapeloop-judge does, confined (judge_main.c): it gets the capture
 * as its standard input, which is the client's file, or a pipe that an extraction writes into, and
 * the rules in a file in memory; what it finds is JSON on its standard output.
 *
 * Rules with `app` need layer 7: then a tapeloop-classify is started for this test alone, and the
 * judge borrows it. That of the recorder is for what is being recorded.
 *
 * The happy path: rules, layer 7, judge, extraction into the judge, its answer. A client that goes,
 * a judge that dies: the job has failed, and nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "classifier.h"
#include "methods.h"
#include "privileges.h"
#include "reading.h"
#include "rule_store.h"
#include "rule_text.h"

#define JUDGE "tapeloop-judge"
#define CLASSIFY "tapeloop-classify"
#define RULES_FD 3
#define LAYER7_FD 4
#define NAME_BYTES_MAX 255u
#define ANSWER_BYTES_MAX (64u << 20)
#define LOOK_MS 200 /* between two looks at the client and the recorder's end */

struct judging {
    struct request *request;
    const char *ring;
    char *rules; /* the text; owned */
    char seed[24];
    char name[NAME_BYTES_MAX + 1]; /* of the capture */
    pid_t judge;                   /* 0: none */
    int capture, answer;           /* -1: none */
    struct classifier *classifier; /* null: no rule needs one */
    int layer7;                    /* its memory; -1: none */
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

/* Starts layer 7 where a rule asks for it. Rules that cannot be read are the judge's to refuse. */
static int layer7_start(struct judging *judging)
{
    struct failure *failure = &judging->request->failure;
    struct classifier_options options = {0};
    struct rule_list list;
    char program[PATH_MAX];
    bool needed = false;
    if (rule_list_parse(judging->rules, &list, NULL, NULL) != 0)
        return 0;
    for (uint32_t i = 0; i < list.count; i++)
        needed |= rule_has(&list.rule[i], CONDITION_APP);
    rule_list_clear(&list);
    if (!needed)
        return 0;
    recorder_program(judging->request->recorder, CLASSIFY, program);
    options.program = program;
    int code = classifier_open(&options, &judging->classifier, failure);
    return code == 0 ? classifier_lend(judging->classifier, &judging->layer7, failure) : code;
}

/* Descriptors that the judge is given, above those that they become. */
struct given {
    int capture, answer, rules;
    int layer7; /* -1: none */
};

/* An errno. */
static int spawn(struct judging *judging, const char *program, const struct given *given)
{
    posix_spawn_file_actions_t actions;
    char *const arguments[] = {(char *)JUDGE, judging->seed, judging->name,
                               given->layer7 >= 0 ? (char *)"layer7" : NULL, NULL};
    char *const environment[] = {NULL};
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawn_file_actions_adddup2(&actions, given->capture, STDIN_FILENO);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, given->answer, STDOUT_FILENO);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&actions, given->rules, RULES_FD);
    if (!error && given->layer7 >= 0)
        error = posix_spawn_file_actions_adddup2(&actions, given->layer7, LAYER7_FD);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(
            &actions, given->layer7 >= 0 ? LAYER7_FD + 1 : RULES_FD + 1);
    if (!error)
        error = posix_spawn(&judging->judge, program, &actions, NULL, arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    if (error)
        judging->judge = 0;
    return error;
}

static int above(int fd)
{
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, LAYER7_FD + 1);
}

/* Starts it; the capture's descriptor is closed here. */
static int judge_start(struct judging *judging)
{
    struct failure *failure = &judging->request->failure;
    char program[PATH_MAX];
    int ends[2] = {-1, -1};
    int code = 0, rules = rules_file(judging->rules, failure);
    recorder_program(judging->request->recorder, JUDGE, program);
    if (rules < 0)
        code = rules;
    else if (pipe2(ends, O_CLOEXEC) != 0)
        code = fail_errno(failure, errno, "no pipe from " JUDGE);
    if (code == 0) {
        struct given given = {above(judging->capture), above(ends[1]), above(rules),
                              above(judging->layer7)};
        bool all = given.capture >= 0 && given.answer >= 0 && given.rules >= 0 &&
                   (given.layer7 >= 0) == (judging->layer7 >= 0);
        int error = all ? spawn(judging, program, &given) : errno;
        const int each[] = {given.capture, given.answer, given.rules, given.layer7};
        for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
            if (each[i] >= 0)
                close(each[i]);
        if (error)
            code = fail_errno(failure, error, "starting %s failed", program);
        else
            privileges_offer_child(judging->judge);
    }
    if (rules >= 0)
        close(rules);
    if (ends[1] >= 0)
        close(ends[1]);
    judging->answer = ends[0];
    close(judging->capture);
    judging->capture = -1;
    return code;
}

static void judge_end(struct judging *judging)
{
    if (judging->judge > 0) {
        kill(judging->judge, SIGKILL);
        while (waitpid(judging->judge, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (judging->answer >= 0)
        close(judging->answer);
    if (judging->capture >= 0)
        close(judging->capture);
    if (judging->layer7 >= 0)
        close(judging->layer7);
    classifier_close(&judging->classifier);
}

/* All that it has to say, until it closes its output. The caller frees *text. */
static int read_answer(struct judging *judging, char **text, size_t *used)
{
    struct failure *failure = &judging->request->failure;
    size_t room = 0;
    *text = NULL;
    *used = 0;
    fcntl(judging->answer, F_SETFL, O_NONBLOCK);
    for (;;) {
        if (room - *used < 4096) {
            room = room ? 2 * room : 65536;
            char *grown = room <= ANSWER_BYTES_MAX ? realloc(*text, room) : NULL;
            if (!grown)
                return fail(failure, ERR_PROTOCOL, JUDGE " has too much to say");
            *text = grown;
        }
        ssize_t got = read(judging->answer, *text + *used, room - *used);
        if (got == 0)
            return 0;
        if (got > 0) {
            *used += (size_t)got;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return fail_errno(failure, errno, "reading what " JUDGE " says");
        switch (request_watch(judging->request, judging->answer, LOOK_MS, NULL)) {
        case REQUEST_QUIET:
            break;
        case REQUEST_STOPPING:
            return fail(failure, ERR_CLOSED, "the recorder is ending");
        default:
            return fail(failure, ERR_INTERRUPTED, "interrupted");
        }
    }
}

/* What it has found; the caller owns it. A failure of the judge's own is ours. */
static int judge_answer(struct judging *judging, json_t **result)
{
    struct failure *failure = &judging->request->failure;
    char *text;
    size_t used;
    int code = read_answer(judging, &text, &used);
    json_t *found = code == 0 ? json_loadb(text, used, 0, NULL) : NULL;
    free(text);
    if (code != 0)
        return code;
    if (!json_is_object(found)) {
        json_decref(found);
        return fail(failure, ERR_PROTOCOL, JUDGE " has died");
    }
    if (json_object_get(found, "packets")) {
        *result = found;
        return 0;
    }
    const json_t *error = json_object_get(found, "error");
    const char *name = json_string_value(json_object_get(error, "code"));
    const char *sentence = json_string_value(json_object_get(error, "message"));
    code = name ? error_from_name(name) : ERR_INTERNAL;
    code =
        fail(failure, code < 0 ? code : ERR_INTERNAL, "%s", sentence ? sentence : JUDGE " failed");
    json_decref(found);
    return code;
}

/* ---- what is judged ------------------------------------------------------------------------- */

/* Lets an extraction write the range into the judge. *complete: nothing of it is missing. */
static int judge_range(struct judging *judging, struct reading_options *options, bool *complete)
{
    struct request *request = judging->request;
    struct ring_registry *registry = &request->recorder->registry;
    struct reading_result extracted = {0};
    struct ring_entry *entry;
    int ends[2];
    int code = ring_registry_use(registry, judging->ring, &entry, &request->failure);
    if (code != 0)
        return code;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        code = fail_errno(&request->failure, errno, "no pipe to " JUDGE);
    } else {
        judging->capture = ends[0];
        options->output = ends[1];
        code = judge_start(judging);
        if (code == 0)
            code = reading_run(request, entry, options, &extracted);
        close(ends[1]);
    }
    *complete = extracted.done.gaps == 0 && !extracted.not_flushed && !extracted.catalog_lacks;
    reading_result_free(&extracted);
    ring_registry_release(registry, &entry);
    return code;
}

/* The ring's seed, and its rules unless others were given. */
static int take_rules(struct judging *judging)
{
    struct request *request = judging->request;
    struct ring_look *looks;
    struct ring_rules *rules;
    struct ring_rules_draft draft = {0};
    uint32_t count;
    const char *given = NULL;
    int code = request_string(request, "rules", false, &given);
    if (code == 0)
        code = ring_registry_look(&request->recorder->registry, judging->ring, &looks, &count,
                                  &request->failure);
    if (code != 0)
        return code;
    code = rule_store_open(looks[0].entry, &rules, &request->failure);
    if (code == 0 && ring_rules_draft(rules, &draft) != 0)
        code = fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    if (code == 0) {
        snprintf(judging->seed, sizeof judging->seed, "%" PRIu64, rule_store_seed(looks[0].entry));
        judging->rules = given ? strdup(given) : rule_list_print(&draft.list);
        if (!judging->rules)
            code = fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    }
    rule_list_clear(&draft.list);
    ring_registry_look_away(&request->recorder->registry, &looks, count);
    return code;
}

static int take_options(struct judging *judging, struct reading_options *options)
{
    struct request *request = judging->request;
    const char *name = "";
    int code = request_string(request, "ring", true, &judging->ring);
    if (code == 0)
        code = request_string(request, "name", false, &name);
    if (code == 0)
        code = request_time(request, "from_ns", &options->from_ns);
    if (code == 0)
        code = request_time(request, "to_ns", &options->to_ns);
    if (code == 0 && request->connection->descriptors > 1)
        code = fail(&request->failure, ERR_INVALID,
                    "expected one descriptor, a capture file, or none");
    bool bounded = options->from_ns != INT64_MIN || options->to_ns != INT64_MAX;
    if (code == 0 && request->connection->descriptors == 1 && bounded)
        code =
            fail(&request->failure, ERR_INVALID, "a file and a range of time exclude each other");
    if (code == 0 && options->from_ns >= options->to_ns)
        code = fail(&request->failure, ERR_INVALID, "parameter from_ns is not before to_ns");
    if (code == 0)
        snprintf(judging->name, sizeof judging->name, "%.*s", (int)NAME_BYTES_MAX,
                 name[0] ? name : judging->ring);
    if (code == 0)
        code = take_rules(judging);
    return code == 0 ? layer7_start(judging) : code;
}

int method_rule_test(struct request *request, json_t **result)
{
    struct reading_options options = {.kind = WORKER_EXTRACT,
                                      .format = WORKER_PCAPNG,
                                      .from_ns = INT64_MIN,
                                      .to_ns = INT64_MAX,
                                      .filter = ""};
    struct judging judging = {.request = request, .capture = -1, .answer = -1, .layer7 = -1};
    bool complete = true;
    int code = take_options(&judging, &options);
    if (code == 0 && request->connection->descriptors == 1) {
        judging.capture = control_take_descriptor(request->connection, 0);
        code = judge_start(&judging);
    } else if (code == 0) {
        code = judge_range(&judging, &options, &complete);
    }
    /* What the judge says is nearer to the cause than that nobody reads the extraction. */
    if (code == 0 || (judging.answer >= 0 && (code == ERR_CLOSED || code == ERR_IO))) {
        struct failure why = request->failure;
        int judged = judge_answer(&judging, result);
        if (judged == 0 && code != 0) {
            json_decref(*result);
            *result = NULL;
            request->failure = why;
        } else {
            code = judged;
        }
    }
    if (code == 0)
        json_object_set_new(*result, "complete", json_boolean(complete));
    judge_end(&judging);
    free(judging.rules);
    return code;
}
