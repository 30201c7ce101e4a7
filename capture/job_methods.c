/*
 * job_methods.c - the methods about jobs: started, looked at, fetched, cancelled, deleted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "answer_json.h"
#include "audit.h"
#include "clock.h"
#include "job_list.h"
#include "methods.h"

#define WAIT_MS 200 /* between two looks at a job that somebody waits for */

/* ---- start ----------------------------------------------------------------------------------- */

/* What is still to come cannot be had: a job ends. */
static int check_range(struct request *request, struct reading_options *options, int64_t now_ns)
{
    if (options->to_ns > now_ns)
        options->to_ns = now_ns;
    return options->from_ns < options->to_ns
               ? 0
               : fail(&request->failure, ERR_INVALID,
                      "the range ends before it begins, or lies in the future: a job takes what is "
                      "there");
}

static int take_wish(struct request *request, struct job_wish *wish, struct reading_options *options)
{
    *wish = (struct job_wish){
        .options = options, .created_ns = clock_realtime_ns(), .expires_ns = INT64_MAX, .user = ""};
    int code = request_string(request, "ring", true, &wish->ring);
    if (code == 0)
        code = reading_take_options(request, options);
    if (code == 0)
        code = check_range(request, options, wish->created_ns);
    if (code == 0)
        code = request_string(request, "name", false, &wish->name);
    if (code == 0 && wish->name)
        code = job_name_check(wish->name, &request->failure);
    if (code == 0)
        code = request_time(request, "expires_ns", &wish->expires_ns);
    wish->expires = wish->expires_ns != INT64_MAX;
    if (code == 0 && wish->expires && !wish->name)
        code = fail(&request->failure, ERR_INVALID,
                    "parameter expires_ns: only what is kept under a name has a time of its own; "
                    "other results go by the setting job_keep");
    if (code == 0 && wish->expires_ns <= wish->created_ns)
        code = fail(&request->failure, ERR_INVALID, "parameter expires_ns: that time is over");
    const char *user = json_string_value(json_object_get(request->actor, "user"));
    if (user)
        wish->user = user;
    return code;
}

/* The ring is up, and the process that will use the filter understands it. */
static int check_ring(struct request *request, struct job_wish *wish)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_entry *entry;
    int code = ring_registry_use(registry, wish->ring, &entry, &request->failure);
    if (code != 0)
        return code;
    wish->ring_id = entry->row.ring;
    if (wish->options->filter[0])
        code = reading_check_filter(request, entry, wish->options->filter);
    ring_registry_release(registry, &entry);
    return code;
}

/* Until the job has ended. A client that goes, or the recorder's end, leaves the job to itself. */
static int wait_for_end(struct request *request, uint64_t number)
{
    struct job_list *jobs = request->recorder->jobs;
    while (!job_list_has_ended(jobs, number)) {
        json_t *row = NULL;
        if (job_list_show(jobs, number, &row, NULL) == 0)
            request_progress(request, row, false);
        switch (request_watch(request, -1, WAIT_MS, NULL)) {
        case REQUEST_GONE:
        case REQUEST_SECOND:
            return fail(&request->failure, ERR_INTERRUPTED, "interrupted");
        case REQUEST_STOPPING:
            return fail(&request->failure, ERR_CLOSED, "the recorder is ending");
        case REQUEST_QUIET:
            break;
        }
    }
    return 0;
}

static int answer_job(struct request *request, uint64_t number, json_t **result)
{
    json_t *row;
    int code = job_list_show(request->recorder->jobs, number, &row, &request->failure);
    if (code == 0)
        *result = json_pack("{s:o}", "job", row);
    return code;
}

/* Takes the wish from the request, and puts it on the list. */
static int add_job(struct request *request, bool wait, struct reading_options *options, uint64_t *number)
{
    struct job_wish wish;
    char actor[AUDIT_ACTOR_SIZE];
    int code = take_wish(request, &wish, options);
    if (code == 0 && request->recorder->session && !wait)
        code = fail(&request->failure, ERR_UNSUPPORTED,
                    "no recorder runs on this state directory, and a job would end with this "
                    "command: wait for it (--wait)");
    if (code == 0)
        code = check_ring(request, &wish);
    if (code != 0)
        return code;
    audit_actor(request, actor);
    wish.actor = actor;
    return job_list_add(request->recorder->jobs, &wish, number, &request->failure);
}

int method_job_start(struct request *request, json_t **result)
{
    struct reading_options options = {0};
    uint64_t number;
    bool wait = false;
    int code = request_bool(request, "wait", &wait);
    if (code == 0)
        code = add_job(request, wait, &options, &number);
    reading_options_free(&options);
    if (code == 0 && wait)
        code = wait_for_end(request, number);
    return code == 0 ? answer_job(request, number, result) : code;
}

/* ---- looked at, ended, fetched ---------------------------------------------------------------- */

int method_job_list(struct request *request, json_t **result)
{
    const char *ring = NULL;
    int code = request_string(request, "ring", false, &ring);
    return code == 0
               ? json_answer_array(0, job_list_all(request->recorder->jobs, ring), "jobs", result)
               : code;
}

/* The job that is meant: its number or the name under which it is kept. */
static int take_job(struct request *request, uint64_t *number)
{
    const char *text;
    int code = request_string(request, "job", true, &text);
    return code == 0 ? job_list_find(request->recorder->jobs, text, number, &request->failure) : code;
}

int method_job_show(struct request *request, json_t **result)
{
    uint64_t number;
    int code = take_job(request, &number);
    return code == 0 ? answer_job(request, number, result) : code;
}

static int end_job(struct request *request, uint64_t *number,
                   int (*end)(struct job_list *jobs, uint64_t number, const char *user,
                              struct failure *failure))
{
    const char *user = NULL;
    int code = take_job(request, number);
    if (code == 0)
        code = request_string(request, "user", false, &user);
    return code == 0 ? end(request->recorder->jobs, *number, user, &request->failure) : code;
}

int method_job_cancel(struct request *request, json_t **result)
{
    uint64_t number;
    int code = end_job(request, &number, job_list_cancel);
    return code == 0 ? answer_job(request, number, result) : code;
}

int method_job_delete(struct request *request, json_t **result)
{
    uint64_t number;
    (void)result;
    return end_job(request, &number, job_list_delete);
}

int method_job_fetch(struct request *request, json_t **result)
{
    uint64_t number;
    json_t *row;
    int code = take_job(request, &number);
    if (code == 0)
        code = job_list_file(request->recorder->jobs, number, &request->answer_fd, &row,
                             &request->failure);
    if (code == 0)
        *result = json_pack("{s:o}", "job", row);
    return code;
}
