/*
 * extraction_handlers.c - packets: what is asked for, and the stream itself.
 *
 * The happy path: who wants packets asks for an extraction and gets a ticket; the ticket is used
 * once, at the server for downloads; the recorder is asked to write into a pipe, and what comes out
 * of it is handed on as it comes. The recorder's result says whether anything is missing; it
 * follows the packets, as the trailer `Tapeloop-Complete`, for the first byte goes out long before
 * it is known.
 *
 * Of one that is to be explained the packets are found, counted and left: its answer is the recorder's
 * result.
 *
 * One that follows goes on with what is recorded. Stopped through the list, it ends in good order:
 * the recorder is asked to finish, and what it still has comes, and its result.
 *
 * Failures: before the first byte they are answers of their own. After it, the connection is closed
 * without the last chunk, so that no client takes a part for the whole. A client that goes (its
 * socket says so, also while there is nothing to send), or takes nothing for half a minute, or too little (exchange_write()), ends
 * the extraction; so does the end of the web process, and the
 * recorder ends its work when the control connection closes.
 */
#include <civetweb.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "civetweb_socket.h"
#include "extraction_list.h"
#include "extraction_wish.h"
#include "handing_on.h"
#include "handlers.h"
#include "recorder_link.h"
#include "text.h"
#include "web_server.h"

#define PIPE_BYTES (1 << 20)
#define CHUNK_BYTES (256u << 10)
#define CHUNK_HEAD_BYTES 10u /* in front of a chunk: its size in digits, and a line's end */
#define CHUNK_TAIL_BYTES 2u  /* behind it */
#define TURN_MS 250     /* how often it is looked whether somebody wants it to stop */
#define CORK_MS 2   /* so long what is left waits for more */
#define ANSWER_MS 10000 /* from an answer's first byte to its last */
#define FINISH_MS 30000 /* for one that follows, to end in good order */

/* ---- asking for packets ---------------------------------------------------------------------- */

static int check_format(const char *format, struct failure *failure)
{
    static const char *const formats[] = {"pcapng", "pcap", "pcap-us"};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(format, formats[i]) == 0)
            return 0;
    return fail(failure, ERR_INVALID, "format: expected pcapng, pcap or pcap-us");
}

static int check_query(const char *query, struct failure *failure)
{
    return strcmp(query, "pcap") == 0 || strcmp(query, "steno") == 0
               ? 0
               : fail(failure, ERR_INVALID, "query: expected pcap or steno");
}

static int make_wish(const struct exchange *exchange, const char *ring, const char *from,
                     const char *to, const char *filter, const char *query, const char *format,
                     struct extraction_wish *wish, struct failure *failure)
{
    *wish = (struct extraction_wish){.from_ns = INT64_MIN, .to_ns = INT64_MAX};
    int code = text_check_ring_name(ring, failure);
    if (code == 0)
        code = check_format(format, failure);
    if (code == 0)
        code = check_query(query, failure);
    if (code == 0)
        code = exchange_time("from", from, &wish->from_ns, failure);
    if (code == 0)
        code = exchange_time("to", to, &wish->to_ns, failure);
    if (code == 0 && wish->from_ns >= wish->to_ns)
        code = fail(failure, ERR_INVALID, "from: expected a time before to");
    if (code == 0 && strlen(filter) > FILTER_TEXT_MAX)
        code = fail(failure, ERR_TOO_LARGE, "the filter is longer than %u bytes", FILTER_TEXT_MAX);
    if (code == 0 && !(wish->filter = strdup(filter)))
        code = fail(failure, ERR_NO_MEMORY, "out of memory");
    snprintf(wish->user, sizeof wish->user, "%s", exchange->caller.name);
    snprintf(wish->ring, sizeof wish->ring, "%.63s", ring);
    snprintf(wish->query, sizeof wish->query, "%.7s", query);
    snprintf(wish->format, sizeof wish->format, "%.15s", format);
    return code;
}

/* Who has no right to what packets carry gets their headers, and may not ask for more. */
static int take_headers(const struct exchange *exchange, bool given, bool wanted,
                        struct extraction_wish *wish, struct failure *failure)
{
    bool all = (exchange->caller.rights & RIGHT_PACKETS) != 0;
    wish->headers_only = given ? wanted : !all;
    return all || wish->headers_only
               ? 0
               : fail(failure, ERR_PERMISSION, "headers: this user or token may have no more");
}

/* What comes is for those who may have all of it: it takes a place among the downloads for as long
 * as they like. */
static int take_follow(const struct exchange *exchange, bool follow, struct extraction_wish *wish,
                       struct failure *failure)
{
    wish->follow = follow;
    if (follow && wish->explain)
        return fail(failure, ERR_INVALID, "explain: one that follows has no end that could be explained");
    return !follow || exchange->caller.rights & RIGHT_PACKETS
               ? 0
               : fail(failure, ERR_PERMISSION, "follow: this user or token may not do that");
}

void extraction_download_url(const struct exchange *exchange, const char *ticket,
                             char url[DOWNLOAD_URL_SIZE])
{
    size_t size = DOWNLOAD_URL_SIZE;
    const char *host = exchange_header(exchange, "Host");
    size_t length = host ? strlen(host) : 0;
    if (exchange->entrance == ENTRANCE_LOCAL || length == 0) {
        snprintf(url, size, "/api/v1/downloads/%s", ticket);
        return;
    }
    const char *bracket = memchr(host, ']', length), *colon = strchr(bracket ? bracket : host, ':');
    if (colon)
        length = (size_t)(colon - host);
    snprintf(url, size, "https://%.*s:%u/api/v1/downloads/%s", (int)(length < 256 ? length : 256),
             host, exchange->server->options->download_port, ticket);
}

static int add_wish(struct exchange *exchange, struct extraction_wish *wish, int64_t *number,
                    char url[DOWNLOAD_URL_SIZE], struct failure *failure)
{
    char ticket[SECRET_TEXT_SIZE];
    char from[TEXT_TIME_SIZE] = "the beginning", to[TEXT_TIME_SIZE] = "the end";
    if (wish->from_ns != INT64_MIN)
        text_time(wish->from_ns, from);
    if (wish->to_ns != INT64_MAX)
        text_time(wish->to_ns, to);
    exchange_log(exchange, "%s %s, %s to %s%s: %.200s",
                 wish->explain ? "asks how it would be found in" : "extracts from", wish->ring, from, to,
                 wish->follow ? ", as they come" : "", wish->filter);
    int code = extraction_list_add(exchange->server->extractions, wish, number, ticket, failure);
    if (code == 0)
        extraction_download_url(exchange, ticket, url);
    return code;
}

int extraction_wish_of_body(struct exchange *exchange, const char *ring, const char *format,
                            struct extraction_wish *wish, struct failure *failure)
{
    const char *from = NULL, *to = NULL, *filter = "", *query = "pcap";
    int code = exchange_body_string(exchange, "from", false, &from, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "to", false, &to, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "filter", false, &filter, failure);
    if (code == 0)
        code = exchange_body_string(exchange, "query", false, &query, failure);
    return code == 0 ? make_wish(exchange, ring, from, to, filter, query, format, wish, failure) : code;
}

int handle_extraction_create(struct exchange *exchange)
{
    struct failure failure = {0};
    struct extraction_wish wish = {0};
    const char *ring, *format = "pcapng";
    char url[DOWNLOAD_URL_SIZE];
    int64_t number = 0;
    bool headers = false, follow = false;
    int code = exchange_check_body(
        exchange, "ring from to filter query format headers no_index explain follow", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "ring", true, &ring, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "format", false, &format, &failure);
    if (code == 0)
        code = extraction_wish_of_body(exchange, ring, format, &wish, &failure);
    if (code == 0)
        code = exchange_body_switch(exchange, "no_index", &wish.no_index, &failure);
    if (code == 0)
        code = exchange_body_switch(exchange, "explain", &wish.explain, &failure);
    if (code == 0)
        code = exchange_body_switch(exchange, "headers", &headers, &failure);
    if (code == 0)
        code = take_headers(exchange, json_object_get(exchange->body, "headers") != NULL, headers, &wish, &failure);
    if (code == 0)
        code = exchange_body_switch(exchange, "follow", &follow, &failure);
    if (code == 0)
        code = take_follow(exchange, follow, &wish, &failure);
    if (code == 0)
        code = add_wish(exchange, &wish, &number, url, &failure);
    extraction_wish_free(&wish);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *answer = extraction_list_one(exchange->server->extractions, number);
    if (answer)
        json_object_set_new(answer, "url", json_string(url));
    return answer_json(exchange, 201, answer, NULL);
}

/* For a script: one request that ends in packets, by way of a redirection to the server for
 * downloads. */
int handle_packets(struct exchange *exchange)
{
    struct failure failure = {0};
    struct extraction_wish wish = {0};
    char from[64] = "", to[64] = "", query[8] = "pcap", format[16] = "pcapng", url[DOWNLOAD_URL_SIZE], line[DOWNLOAD_URL_SIZE + 16];
    char filter[FILTER_TEXT_MAX + 2] = "", headers[8] = "";
    int64_t number;
    int code = exchange_check_query(
        exchange, "from to filter query format headers no_index explain follow", &failure);
    if (code == 0)
        code = exchange_query(exchange, "from", from, sizeof from, &failure);
    if (code == 0)
        code = exchange_query(exchange, "to", to, sizeof to, &failure);
    if (code == 0)
        code = exchange_query(exchange, "format", format, sizeof format, &failure);
    if (code == 0)
        code = exchange_query(exchange, "query", query, sizeof query, &failure);
    if (code == 0) /* one that is too long must not become none */
        code = exchange_query(exchange, "filter", filter, sizeof filter, &failure);
    bool headers_only = false, follow = false;
    if (code == 0)
        code = exchange_query(exchange, "headers", headers, sizeof headers, &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "headers", &headers_only, &failure);
    if (code == 0)
        code =
            make_wish(exchange, exchange->parameter[0], from, to, filter, query, format, &wish, &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "no_index", &wish.no_index, &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "explain", &wish.explain, &failure);
    if (code == 0)
        code = take_headers(exchange, headers[0] != '\0', headers_only, &wish, &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "follow", &follow, &failure);
    if (code == 0)
        code = take_follow(exchange, follow, &wish, &failure);
    if (code == 0)
        code = add_wish(exchange, &wish, &number, url, &failure);
    extraction_wish_free(&wish);
    if (code != 0)
        return answer_failure(exchange, &failure);
    snprintf(line, sizeof line, "Location: %s\r\n", url);
    answer_head(exchange, 307, NULL, 0, line);
    return 307;
}

json_t *extraction_wish_params(const struct extraction_wish *wish)
{
    char digits[24];
    json_t *params = json_pack("{s:s, s:s, s:s}", "ring", wish->ring, "filter", wish->filter, "query", wish->query);
    snprintf(digits, sizeof digits, "%" PRId64, wish->from_ns);
    if (wish->from_ns != INT64_MIN)
        json_object_set_new(params, "from_ns", json_string(digits));
    snprintf(digits, sizeof digits, "%" PRId64, wish->to_ns);
    if (wish->to_ns != INT64_MAX)
        json_object_set_new(params, "to_ns", json_string(digits));
    return params;
}

int handle_estimate(struct exchange *exchange)
{
    struct failure failure = {0};
    struct extraction_wish wish = {0};
    int code = exchange_check_body(exchange, "from to filter query", &failure);
    if (code == 0)
        code =
            extraction_wish_of_body(exchange, exchange->parameter[0], "pcapng", &wish, &failure);
    json_t *params = code == 0 ? extraction_wish_params(&wish) : NULL;
    extraction_wish_free(&wish);
    return code == 0 ? hand_on(exchange, 200, "estimate", params)
                     : answer_failure(exchange, &failure);
}

/*
 * Two steps: without `confirm` it is only said what would be erased; what erases says the ring's name once more, as who deletes a ring does. It lasts as long as the request: who
 * hangs up ends it, and the same request goes on.
 */
int handle_purge(struct exchange *exchange)
{
    struct failure failure = {0};
    struct extraction_wish wish = {0};
    const char *ring = exchange->parameter[0], *confirm = NULL;
    bool give_up_away = false;
    int code = exchange_check_body(exchange, "from to filter confirm give_up_away", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "confirm", false, &confirm, &failure);
    if (code == 0)
        code = exchange_body_switch(exchange, "give_up_away", &give_up_away, &failure);
    if (code == 0 && confirm && strcmp(confirm, ring) != 0)
        code = fail(&failure, ERR_INVALID, "confirm is not the name of the ring: nothing was erased");
    if (code == 0)
        code = extraction_wish_of_body(exchange, ring, "pcapng", &wish, &failure);
    json_t *params = code == 0 ? extraction_wish_params(&wish) : NULL;
    extraction_wish_free(&wish);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_object_del(params, "query");
    json_object_set_new(params, "dry_run", json_boolean(!confirm));
    json_object_set_new(params, "give_up_away", json_boolean(give_up_away));
    if (confirm)
        exchange_log(exchange, "purges packets from ring %s", ring);
    return hand_on_watched(exchange, 200, "purge", params);
}

int handle_extractions(struct exchange *exchange)
{
    struct failure failure = {0};
    if (exchange_check_query(exchange, "", &failure) != 0)
        return answer_failure(exchange, &failure);
    return answer_json(
        exchange, 200,
        json_pack("{s:o}", "extractions", extraction_list_json(exchange->server->extractions)),
        NULL);
}

/* One's own; an admin may stop everybody's. */
int handle_extraction_stop(struct exchange *exchange)
{
    struct failure failure = {0};
    char *end;
    long long number = strtoll(exchange->parameter[0], &end, 10);
    const char *user = exchange->caller.rights & RIGHT_USERS ? NULL : exchange->caller.name;
    int code =
        *end ? ERR_NOT_FOUND : extraction_list_stop(exchange->server->extractions, number, user);
    if (code == 0) {
        exchange_log(exchange, "stopped extraction %lld", number);
        return answer_nothing(exchange, NULL);
    }
    fail(&failure, code, "%s",
         code == ERR_NOT_FOUND ? "there is no such extraction, or it has ended"
                               : "only its user or an admin may stop it");
    return answer_failure(exchange, &failure);
}

/* ---- the stream ------------------------------------------------------------------------------ */

struct stream {
    struct exchange *exchange;
    const struct extraction_wish *wish;
    int64_t number;
    struct control_connection recorder;
    json_int_t id;
    int pipe; /* the end that is read; -1: it has ended */
    bool chunked;
    bool begun;    /* the head has been sent */
    bool corked;   /* see cork() */
    bool answered; /* the recorder's result is there */
    json_t *result; /* it, where it is to be explained */
    int64_t finish_due_ms; /* of one that follows, once it is to end: by when. 0: not yet */
    struct extraction_progress progress;
    char *buffer;
};

static void take_progress(struct extraction_progress *progress, const json_t *value)
{
    static const char *const names[] = {"packets", "output_bytes", "segments_done",
                                        "segments_total", "gaps_total", "undecided"};
    int64_t *const fields[] = {&progress->packets, &progress->output_bytes,
                               &progress->segments_done, &progress->segments_total,
                               &progress->gaps_total, &progress->undecided};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *number = json_object_get(value, names[i]);
        if (json_is_integer(number))
            *fields[i] = json_integer_value(number);
    }
    progress->complete = json_is_true(json_object_get(value, "complete"));
}

static void send_head(struct stream *stream)
{
    char more[512], from[24] = "begin", to[24] = "end";
    const struct extraction_wish *wish = stream->wish;
    const char *version = stream->exchange->info->http_version;
    stream->chunked = version && strcmp(version, "1.0") != 0;
    if (wish->from_ns != INT64_MIN)
        snprintf(from, sizeof from, "%" PRId64, wish->from_ns / 1000000000);
    if (wish->to_ns != INT64_MAX)
        snprintf(to, sizeof to, "%" PRId64, wish->to_ns / 1000000000);
    /* Range is ignored, as RFC 9110 allows: the stream is made as it goes, and nobody knows its length. */
    snprintf(more, sizeof more, "Accept-Ranges: none\r\n%sContent-Disposition: attachment; filename=\"%s_%s_%s.%s\"\r\n",
             stream->chunked ? "Transfer-Encoding: chunked\r\nTrailer: Tapeloop-Complete\r\n" : "",
             wish->ring, from, to, strcmp(wish->format, "pcapng") == 0 ? "pcapng" : "pcap");
    answer_head(stream->exchange, 200,
                strcmp(wish->format, "pcapng") == 0 ? "application/x-pcapng"
                                                    : "application/vnd.tcpdump.pcap",
                -1, more);
    stream->begun = true;
}

/* What is around the bytes is overwritten. */
static bool send_bytes(struct stream *stream, char *bytes, size_t count)
{
    if (!stream->begun)
        send_head(stream);
    if (count == 0)
        return true;
    if (!stream->chunked)
        return exchange_write(stream->exchange, bytes, count);
    /* In one piece, with the room around the bytes: see CHUNK_HEAD_BYTES. */
    char digits[CHUNK_HEAD_BYTES + 1];
    int length = snprintf(digits, sizeof digits, "%zx\r\n", count);
    char *piece = bytes - length;
    memcpy(piece, digits, (size_t)length);
    memcpy(bytes + count, "\r\n", CHUNK_TAIL_BYTES);
    count += (size_t)length + CHUNK_TAIL_BYTES;
    return exchange_write(stream->exchange, piece, count);
}

/* While there is more to send, the kernel is to send full segments only: TLS hands over 16 KiB at a
 * time, and each of them on its own costs half as much again. */
static void cork(struct stream *stream, bool more)
{
    int on = more;
    if (stream->corked != more) /* a Unix socket has nothing of the kind */
        (void)setsockopt(civetweb_socket(stream->exchange->connection), IPPROTO_TCP, TCP_CORK, &on,
                         sizeof on);
    stream->corked = more;
}

/* Packets that have come. ERR_CLOSED: the client does not take them. */
static int take_bytes(struct stream *stream, struct failure *failure)
{
    char *bytes = stream->buffer + CHUNK_HEAD_BYTES;
    ssize_t got = read(stream->pipe, bytes, CHUNK_BYTES);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0
                                                 : fail_errno(failure, errno, "reading packets");
    cork(stream, got > 0 && !stream->wish->explain);
    if (got == 0) {
        close(stream->pipe);
        stream->pipe = -1;
        return 0;
    }
    if (stream->wish->explain)
        return 0; /* they go nowhere */
    return send_bytes(stream, bytes, (size_t)got)
               ? 0
               : fail(failure, ERR_CLOSED, "the client has gone");
}

static int take_answer(struct stream *stream, struct failure *failure)
{
    json_t *value;
    int code = recorder_receive(&stream->recorder, stream->id, ANSWER_MS, &value, failure);
    if (code < 0)
        return code;
    take_progress(&stream->progress, value);
    stream->answered = code == 0;
    if (stream->answered && stream->wish->explain)
        stream->result = json_incref(value);
    json_decref(value);
    return 0;
}

/* Somebody wants it to end. One that follows ends in good order, if its client takes the rest. */
static int stop(struct stream *stream, struct failure *failure)
{
    if (!stream->wish->follow || (stream->finish_due_ms && exchange_clock_ms() > stream->finish_due_ms))
        return fail(failure, ERR_INTERRUPTED, "stopped");
    if (stream->finish_due_ms || stream->answered)
        return 0;
    stream->finish_due_ms = exchange_clock_ms() + FINISH_MS;
    return recorder_send_more(&stream->recorder, stream->id, "extract.finish", failure);
}

static int hand_over(struct stream *stream, struct failure *failure)
{
    struct extraction_list *list = stream->exchange->server->extractions;
    int code = 0, client = civetweb_socket(stream->exchange->connection);
    while (code == 0 && (stream->pipe >= 0 || !stream->answered)) {
        struct pollfd watched[3] = {
            {.fd = stream->pipe, .events = POLLIN},
            {.fd = stream->answered ? -1 : stream->recorder.fd, .events = POLLIN},
            {.fd = client, .events = POLLRDHUP}};
        int ready = poll(watched, 3, stream->corked ? CORK_MS : TURN_MS);
        if (ready < 0 && errno != EINTR)
            return fail_errno(failure, errno, "waiting for packets");
        if (ready == 0)
            cork(stream, false);
        if (watched[2].revents)
            return fail(failure, ERR_CLOSED, "the client has gone");
        if (watched[0].revents)
            code = take_bytes(stream, failure);
        if (code == 0 && watched[1].revents)
            code = take_answer(stream, failure);
        if (code == 0 && atomic_load(&stream->exchange->server->stopping))
            code = fail(failure, ERR_INTERRUPTED, "tapeloop-web is ending");
        if (code == 0 && !extraction_list_progress(list, stream->number, &stream->progress))
            code = stop(stream, failure);
    }
    return code;
}

/* The recorder has the pipe's other end, and we only this one: its end is the packets' end. */
static int begin(struct stream *stream, struct failure *failure)
{
    const struct extraction_wish *wish = stream->wish;
    int ends[2];
    int code = recorder_connect(stream->exchange->server->recorder, &stream->recorder, failure);
    if (code != 0)
        return code;
    stream->buffer = malloc(CHUNK_HEAD_BYTES + CHUNK_BYTES + CHUNK_TAIL_BYTES);
    if (!stream->buffer)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    if (pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno(failure, errno, "no pipe for the packets");
    (void)fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES); /* a smaller one will do */
    stream->pipe = ends[0];
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    json_t *params = extraction_wish_params(wish);
    json_object_set_new(params, "format", json_string(wish->format));
    if (wish->headers_only)
        json_object_set_new(params, "headers", json_true());
    if (wish->no_index)
        json_object_set_new(params, "no_index", json_true());
    if (wish->follow)
        json_object_set_new(params, "follow", json_true());
    code = recorder_send(&stream->recorder, "extract", params, actor_json(stream->exchange),
                         &ends[1], 1, &stream->id, failure);
    close(ends[1]);
    return code;
}

/* The end of the answer; the status that it has had. */
static int finish(struct stream *stream, int code, const struct failure *failure)
{
    struct mg_connection *connection = stream->exchange->connection;
    if (code != 0 && !stream->begun)
        return code == ERR_CLOSED ? answer_problem(stream->exchange, 503, "closed", failure->text,
                                                   "Retry-After: 2\r\n")
                                  : answer_failure(stream->exchange, failure);
    if (code == 0 && stream->wish->explain) {
        json_t *result = stream->result;
        stream->result = NULL;
        return answer_json(stream->exchange, 200, result, "");
    }
    if (code == 0 && !stream->begun)
        send_head(stream);
    if (code == 0 && stream->chunked)
        mg_printf(connection, "0\r\nTapeloop-Complete: %s\r\n\r\n",
                  stream->progress.complete ? "true" : "false");
    return 200;
}

int handle_download(struct exchange *exchange)
{
    struct failure failure = {0};
    struct extraction_wish wish;
    struct stream stream = {
        .exchange = exchange, .wish = &wish, .pipe = -1, .recorder = {.fd = -1}};
    struct extraction_list *list = exchange->server->extractions;
    struct job_ticket ticket;
    if (job_tickets_use(exchange->server->job_tickets, exchange->parameter[0], &ticket))
        return download_job(exchange, &ticket);
    int code = extraction_list_begin(list, exchange->parameter[0], &stream.number, &wish, &failure);
    if (code == ERR_AGAIN)
        return answer_problem(exchange, 503, "again", failure.text, "Retry-After: 5\r\n");
    if (code != 0)
        return answer_failure(exchange, &failure);
    /* Whoever uses the ticket, it is its owner who takes the packets. */
    snprintf(exchange->caller.name, sizeof exchange->caller.name, "%s", wish.user);
    code = begin(&stream, &failure);
    if (code == 0)
        code = hand_over(&stream, &failure);
    int status = finish(&stream, code, &failure);
    if (stream.pipe >= 0)
        close(stream.pipe);
    if (stream.recorder.fd >= 0)
        control_close(&stream.recorder);
    free(stream.buffer);
    json_decref(stream.result);
    extraction_list_end(list, stream.number,
                        code == 0                 ? EXTRACTION_DONE
                        : code == ERR_INTERRUPTED ? EXTRACTION_STOPPED
                                                  : EXTRACTION_FAILED,
                        &stream.progress, code == 0 ? "" : failure.text);
    extraction_wish_free(&wish);
    return status;
}
