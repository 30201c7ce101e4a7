/*
 * job_handlers.c - jobs and kept ranges: the recorder has them; here they are handed on, and their
 * results are downloaded.
 *
 * The happy path of a download: whoever may have packets is sent on to the server for downloads,
 * with a ticket; there the recorder is asked for the file, and hands over a descriptor that can only
 * read; the part that the client wants is written from it. The tag of the answer is the result's
 * own, so that a client which takes up again what broke off (Range, If-Range) never puts two files
 * together.
 *
 * Failures: before the first byte they are answers of their own; after it the connection is closed
 * with less than was said, and the client may come again.
 */
#include <civetweb.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "byte_range.h"
#include "extraction_list.h"
#include "extraction_wish.h"
#include "handing_on.h"
#include "handlers.h"
#include "job_tickets.h"
#include "recorder_link.h"
#include "text.h"
#include "web_server.h"

#define CHUNK_BYTES (256u << 10)
#define ANSWER_MS 60000

/* ---- handed on ------------------------------------------------------------------------------- */

int handle_jobs(struct exchange *exchange)
{
    struct failure failure = {0};
    char ring[64] = "";
    int code = exchange_check_query(exchange, "ring", &failure);
    if (code == 0)
        code = exchange_query(exchange, "ring", ring, sizeof ring, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    return hand_on(exchange, 200, "job.list", json_pack("{s:s?}", "ring", ring[0] ? ring : NULL));
}

/* The member `job` of what the recorder answers. */
static int answer_job(struct exchange *exchange, int status, json_t *result, const char *more)
{
    json_t *job = json_incref(json_object_get(result, "job"));
    json_decref(result);
    return answer_json(exchange, status, job, more);
}

int handle_job(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *result;
    int status = no_query(exchange);
    if (status)
        return status;
    int code = ask(exchange, "job.show", json_pack("{s:s}", "job", exchange->parameter[0]), &result,
                   &failure);
    return code == 0 ? answer_job(exchange, 200, result, NULL) : answer_failure(exchange, &failure);
}

/* A number of the body that goes on as it is: the recorder knows what it may be. */
static void copy_member(const struct exchange *exchange, const char *name, json_t *params)
{
    json_t *value = json_object_get(exchange->body, name);
    if (value)
        json_object_set(params, name, value);
}

static int take_job(struct exchange *exchange, json_t **params, struct failure *failure)
{
    struct extraction_wish wish = {0};
    const char *ring, *format = "pcapng", *expires = NULL;
    int64_t expires_ns = INT64_MAX;
    int code = exchange_check_body(
        exchange, "ring from to filter query format headers no_index packets_max bytes_max seconds_max name expires",
        failure);
    if (code == 0)
        code = exchange_body_string(exchange, "ring", true, &ring, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "format", false, &format, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "expires", false, &expires, failure);
    if (code == 0)
        code = exchange_time("expires", expires, &expires_ns, failure);
    if (code == 0)
        code = extraction_wish_of_body(exchange, ring, format, &wish, failure);
    if (code == 0) {
        *params = extraction_wish_params(&wish);
        json_object_set_new(*params, "format", json_string(wish.format));
        if (expires_ns != INT64_MAX) {
            char digits[24];
            snprintf(digits, sizeof digits, "%" PRId64, expires_ns);
            json_object_set_new(*params, "expires_ns", json_string(digits));
        }
        static const char *const members[] = {"headers", "no_index", "packets_max", "bytes_max", "seconds_max",
                                              "name"};
        for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
            copy_member(exchange, members[i], *params);
    }
    extraction_wish_free(&wish);
    return code;
}

int handle_job_create(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *params = NULL, *result;
    char line[96];
    int code = take_job(exchange, &params, &failure);
    if (code == 0)
        code = ask(exchange, "job.start", params, &result, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_int_t number =
        json_integer_value(json_object_get(json_object_get(result, "job"), "number"));
    exchange_log(exchange, "started job %" JSON_INTEGER_FORMAT, number);
    snprintf(line, sizeof line, "Location: /api/v1/jobs/%" JSON_INTEGER_FORMAT "\r\n", number);
    return answer_job(exchange, 201, result, line);
}

/* One's own; an admin may end everybody's. */
static json_t *own_job(const struct exchange *exchange)
{
    return json_pack("{s:s, s:s?}", "job", exchange->parameter[0], "user",
                     exchange->caller.rights & RIGHT_USERS ? NULL : exchange->caller.name);
}

int handle_job_cancel(struct exchange *exchange)
{
    int status = 0;
    json_t *nothing = body_as_params(exchange, "", &status);
    json_decref(nothing);
    return nothing ? hand_on_change(exchange, 200, "job.cancel", own_job(exchange), "job",
                                    exchange->parameter[0])
                   : status;
}

int handle_job_delete(struct exchange *exchange)
{
    int status = no_query(exchange);
    return status ? status
                  : hand_on_change(exchange, 204, "job.delete", own_job(exchange), NULL,
                                   exchange->parameter[0]);
}

/* ---- the result ------------------------------------------------------------------------------ */

int handle_job_packets(struct exchange *exchange)
{
    struct failure failure = {0};
    struct job_ticket ticket = {0};
    char secret[SECRET_TEXT_SIZE], url[DOWNLOAD_URL_SIZE], line[DOWNLOAD_URL_SIZE + 16];
    json_t *result;
    int status = no_query(exchange);
    if (status)
        return status;
    int code = ask(exchange, "job.show", json_pack("{s:s}", "job", exchange->parameter[0]), &result,
                   &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    const json_t *job = json_object_get(result, "job");
    const char *state = json_string_value(json_object_get(job, "state"));
    ticket.job = json_integer_value(json_object_get(job, "number"));
    if (!state || strcmp(state, "done") != 0)
        code = fail(&failure, ERR_NOT_FOUND, "this job has no result: it is %s", state ? state : "?");
    json_decref(result);
    snprintf(ticket.user, sizeof ticket.user, "%s", exchange->caller.name);
    if (code == 0)
        code = job_tickets_add(exchange->server->job_tickets, &ticket, secret, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    extraction_download_url(exchange, secret, url);
    snprintf(line, sizeof line, "Location: %s\r\n", url);
    answer_head(exchange, 307, NULL, 0, line);
    return 307;
}

/* The row of the job and a descriptor of its file; both the caller's. */
static int fetch(struct exchange *exchange, int64_t number, json_t **job, int *fd,
                 struct failure *failure)
{
    struct control_connection recorder = {.fd = -1};
    char text[24];
    json_int_t id;
    json_t *result = NULL;
    snprintf(text, sizeof text, "%" PRId64, number);
    int code = recorder_connect(exchange->server->recorder, &recorder, failure);
    if (code != 0)
        return code;
    code = recorder_send(&recorder, "job.fetch", json_pack("{s:s}", "job", text),
                         actor_json(exchange), NULL, 0, &id, failure);
    if (code == 0)
        code = recorder_receive(&recorder, id, ANSWER_MS, &result, failure);
    if (code > 0)
        code = fail(failure, ERR_PROTOCOL, "the recorder answers something else");
    if (code == 0) {
        *fd = control_take_descriptor(&recorder, 0);
        *job = json_incref(json_object_get(result, "job"));
        if (*fd < 0 || !*job)
            code = fail(failure, ERR_PROTOCOL, "the recorder has handed over no file");
    }
    json_decref(result);
    control_close(&recorder);
    return code;
}

/* False: the client does not take it, or it cannot be read. */
static bool send_part(struct exchange *exchange, int fd, uint64_t first, uint64_t last)
{
    char *buffer = malloc(CHUNK_BYTES);
    bool good = buffer != NULL;
    while (good && first <= last && !atomic_load(&exchange->server->stopping)) {
        uint64_t left = last - first + 1;
        ssize_t got =
            pread(fd, buffer, left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES, (off_t)first);
        if (got < 0 && errno == EINTR)
            continue;
        good = got > 0 && exchange_write(exchange, buffer, (size_t)got);
        first += got > 0 ? (uint64_t)got : 0;
    }
    free(buffer);
    return good && first > last;
}

static const char *text_of(const json_t *job, const char *name, const char *none)
{
    const char *text = json_string_value(json_object_get(job, name));
    return text ? text : none;
}

/* Which part is wanted of the file that has this tag: a range counts for that file only. */
static enum byte_range wanted(const struct exchange *exchange, const char *tag, uint64_t bytes,
                              uint64_t *first, uint64_t *last)
{
    const char *only_if = exchange_header(exchange, "If-Range");
    bool same = !only_if || strcmp(only_if, tag) == 0;
    return byte_range_parse(same ? exchange_header(exchange, "Range") : NULL, bytes, first, last);
}

static int send_file(struct exchange *exchange, const json_t *job, int fd, struct failure *failure)
{
    char tag[64], more[512], name[80];
    struct stat status;
    uint64_t first, last;
    if (fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "the result of the job");
    uint64_t bytes = (uint64_t)status.st_size;
    bool pcapng = strcmp(text_of(job, "format", ""), "pcapng") == 0;
    snprintf(tag, sizeof tag, "\"%.40s\"", text_of(job, "tag", ""));
    snprintf(name, sizeof name, "job-%" JSON_INTEGER_FORMAT,
             json_integer_value(json_object_get(job, "number")));
    enum byte_range range = wanted(exchange, tag, bytes, &first, &last);
    int used = snprintf(more, sizeof more,
                        "ETag: %s\r\nAccept-Ranges: bytes\r\n"
                        "Content-Disposition: attachment; filename=\"%.63s.%s\"\r\n",
                        tag, text_of(job, "name", name), pcapng ? "pcapng" : "pcap");
    if (range == BYTE_RANGE_NONE) {
        snprintf(more, sizeof more, "ETag: %s\r\nContent-Range: bytes */%" PRIu64 "\r\n", tag, bytes);
        return answer_problem(exchange, 416, "invalid", "the file is not that long", more);
    }
    if (range == BYTE_RANGE_PART)
        snprintf(more + used, sizeof more - (size_t)used,
                 "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n", first, last, bytes);
    uint64_t length = bytes > 0 ? last - first + 1 : 0;
    int answered = range == BYTE_RANGE_PART ? 206 : 200;
    answer_head(exchange, answered, pcapng ? "application/x-pcapng" : "application/vnd.tcpdump.pcap",
                (int64_t)length, more);
    bool whole = length == 0 || send_part(exchange, fd, first, last);
    exchange_log(exchange, "%s %" PRIu64 " bytes of job %" JSON_INTEGER_FORMAT,
                 whole ? "took" : "broke off in", length,
                 json_integer_value(json_object_get(job, "number")));
    return answered;
}

int download_job(struct exchange *exchange, const struct job_ticket *ticket)
{
    struct failure failure = {0};
    struct extraction_list *list = exchange->server->extractions;
    json_t *job = NULL;
    int fd = -1;
    if (!extraction_list_enter(list))
        return answer_problem(exchange, 503, "again", "as many downloads run as may: try again",
                              "Retry-After: 5\r\n");
    snprintf(exchange->caller.name, sizeof exchange->caller.name, "%s", ticket->user);
    int status = fetch(exchange, ticket->job, &job, &fd, &failure);
    if (status == 0)
        status = send_file(exchange, job, fd, &failure);
    if (status < 0)
        status = answer_failure(exchange, &failure);
    if (fd >= 0)
        close(fd);
    json_decref(job);
    extraction_list_leave(list);
    return status;
}
