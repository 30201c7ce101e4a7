/* The control socket: framing, descriptors, limits, calls. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bytes.h"
#include "control.h"
#include "unit_test.h"

static int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    assert_non_null(directory);
    int count = 0;
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

/* Two connected ends; `raw` is a plain socket to misbehave with. */
struct pair {
    struct control_connection connection;
    int raw;
    int descriptors_before;
};

static int pair_open(void **state)
{
    struct pair *pair = calloc(1, sizeof *pair);
    int fd[2];
    pair->descriptors_before = open_descriptors();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0)
        return -1;
    control_open(&pair->connection, fd[0], CONTROL_REQUEST_BYTES_MAX);
    pair->raw = fd[1];
    *state = pair;
    return 0;
}

/* Whatever a test did, no descriptor is left behind. */
static int pair_close(void **state)
{
    struct pair *pair = *state;
    control_close(&pair->connection);
    if (pair->raw >= 0)
        close(pair->raw);
    int leaked = open_descriptors() - pair->descriptors_before;
    free(pair);
    *state = NULL;
    return leaked;
}

/* Closes and opens again, between two rounds of one test. */
static struct pair *pair_renew(void **state)
{
    if (pair_close(state) != 0 || pair_open(state) != 0)
        abort();
    return *state;
}

static void raw_send(int fd, const void *bytes, size_t count, const int *descriptors, size_t number)
{
    union {
        char bytes[CMSG_SPACE(64 * sizeof(int))];
        struct cmsghdr align;
    } ancillary = {{0}};
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (number > 0) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = CMSG_SPACE(number * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(number * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, number * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), count);
}

static void raw_message(int fd, const char *text, const int *descriptors, size_t number)
{
    char frame[1024] = {0};
    le32 header = le32_of((uint32_t)strlen(text));
    memcpy(frame, &header, 4);
    char *end = stpcpy(frame + 4, text);
    raw_send(fd, frame, (size_t)(end - frame), descriptors, number);
}

static int64_t number_of(const json_t *message, const char *key)
{
    return json_integer_value(json_object_get(message, key));
}

static void messages_arrive_in_order(void **state)
{
    struct pair *pair = *state;
    struct control_connection other;
    control_open(&other, pair->raw, CONTROL_REQUEST_BYTES_MAX);
    pair->raw = -1;
    for (int i = 0; i < 50; i++) {
        json_t *message = json_pack("{s:i, s:s}", "n", i, "text", "\xe2\x82\xac \"x\"\n");
        assert_int_equal(control_send(&other, message, NULL, 0), 0);
        json_decref(message);
    }
    for (int i = 0; i < 50; i++) {
        json_t *message;
        assert_int_equal(control_receive(&pair->connection, &message, 1000), 0);
        assert_int_equal(number_of(message, "n"), i);
        assert_string_equal(json_string_value(json_object_get(message, "text")),
                            "\xe2\x82\xac \"x\"\n");
        json_decref(message);
    }
    control_close(&other);
    json_t *message;
    assert_int_equal(control_receive(&pair->connection, &message, -1), ERR_CLOSED);
}

static void a_message_in_single_bytes(void **state)
{
    struct pair *pair = *state;
    static const char frame[] = "\x0f\0\0\0{\"key\":\"value\"}{";
    json_t *message;
    for (size_t i = 0; i < 4 + 15 - 1; i++) {
        raw_send(pair->raw, frame + i, 1, NULL, 0);
        /* a time-out keeps what has come */
        assert_int_equal(control_receive(&pair->connection, &message, 0), ERR_TIMEOUT);
    }
    raw_send(pair->raw, frame + 18, 1, NULL, 0);
    assert_int_equal(control_receive(&pair->connection, &message, 0), 0);
    assert_string_equal(json_string_value(json_object_get(message, "key")), "value");
    json_decref(message);
}

static void the_other_side_goes_away(void **state)
{
    struct pair *pair = *state;
    json_t *message;
    raw_send(pair->raw, "\x0f\0\0\0{\"key", 9, NULL, 0);
    close(pair->raw);
    pair->raw = -1;
    assert_int_equal(control_receive(&pair->connection, &message, -1), ERR_CLOSED);
    message = json_object();
    assert_int_equal(control_send(&pair->connection, message, NULL, 0),
                     ERR_CLOSED); /* no SIGPIPE */
    json_decref(message);
}

static void lengths_that_lie(void **state)
{
    static const uint32_t length[] = {0, CONTROL_REQUEST_BYTES_MAX + 1, UINT32_MAX, 1u << 31};
    struct pair *pair = *state;
    for (size_t i = 0; i < COUNT(length); i++) {
        le32 header = le32_of(length[i]);
        json_t *message;
        raw_send(pair->raw, &header, sizeof header, NULL, 0);
        assert_int_equal(control_receive(&pair->connection, &message, 1000), ERR_PROTOCOL);
        pair = pair_renew(state);
    }
}

/* The length is a promise: memory follows the bytes that came, not the promise. */
static void a_promise_takes_no_memory(void **state)
{
    struct pair *pair = *state;
    le32 header = le32_of(CONTROL_REQUEST_BYTES_MAX);
    json_t *message;
    raw_send(pair->raw, &header, sizeof header, NULL, 0);
    raw_send(pair->raw, "{", 1, NULL, 0);
    assert_int_equal(control_receive(&pair->connection, &message, 0), ERR_TIMEOUT);
    assert_in_range(pair->connection.capacity, 5, 16384);
}

static void *send_large(void *argument)
{
    struct control_connection *connection = argument;
    char *text = malloc(900001);
    memset(text, 'x', 900000);
    text[900000] = '\0';
    json_t *message = json_pack("{s:s}", "text", text);
    int descriptor[2];
    if (pipe(descriptor) != 0 || control_send(connection, message, descriptor, 2) != 0)
        abort();
    close(descriptor[0]);
    close(descriptor[1]);
    json_decref(message);
    free(text);
    return NULL;
}

/* Larger than any socket buffer: many partial writes, many partial reads, descriptors once. */
static void a_large_message_with_descriptors(void **state)
{
    struct pair *pair = *state;
    struct control_connection other;
    control_open(&other, pair->raw, CONTROL_REQUEST_BYTES_MAX);
    pair->raw = -1;
    pthread_t thread;
    for (int round = 0; round < 3; round++) {
        assert_int_equal(pthread_create(&thread, NULL, send_large, &other), 0);
        json_t *message;
        assert_int_equal(control_receive(&pair->connection, &message, -1), 0);
        pthread_join(thread, NULL);
        assert_int_equal(json_string_length(json_object_get(message, "text")), 900000);
        assert_int_equal(pair->connection.descriptors, 2);
        assert_in_range(pair->connection.capacity, 0, 65536);
        json_decref(message);
    }
    control_close(&other);
}

static void a_sender_that_must_not_block_waits(void **state)
{
    struct pair *pair = *state;
    struct control_connection other;
    control_open(&other, pair->raw, CONTROL_REQUEST_BYTES_MAX);
    pair->raw = -1;
    assert_int_equal(fcntl(other.fd, F_SETFL, O_NONBLOCK), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_large, &other), 0);
    json_t *message;
    usleep(10000); /* let it fill the socket; right whichever of the two is first */
    assert_int_equal(control_receive(&pair->connection, &message, -1), 0);
    pthread_join(thread, NULL);
    json_decref(message);
    control_close(&other);
}

static void a_sender_with_a_time_limit_gives_up(void **state)
{
    struct pair *pair = *state;
    struct timeval limit = {.tv_usec = 20000};
    assert_int_equal(setsockopt(pair->connection.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit),
                     0);
    char *text = malloc(4u << 20);
    memset(text, 'x', (4u << 20) - 1);
    text[(4u << 20) - 1] = '\0';
    json_t *message = json_pack("{s:s}", "text", text);
    assert_int_equal(control_send(&pair->connection, message, NULL, 0), ERR_TIMEOUT);
    json_decref(message);
    free(text);
}

static void descriptors_belong_to_their_message(void **state)
{
    struct pair *pair = *state;
    int one[2];
    int two[2];
    assert_int_equal(pipe(one), 0);
    assert_int_equal(pipe(two), 0);
    /* all three lie in the socket before the first is read */
    raw_message(pair->raw, "{\"n\":1}", one, 2);
    raw_message(pair->raw, "{\"n\":2}", NULL, 0);
    raw_message(pair->raw, "{\"n\":3}", two + 1, 1);

    json_t *message;
    assert_int_equal(control_receive(&pair->connection, &message, 1000), 0);
    json_decref(message);
    assert_int_equal(pair->connection.descriptors, 2);
    int writer = control_take_descriptor(&pair->connection, 1);
    assert_true(writer >= 0);
    assert_int_equal(control_take_descriptor(&pair->connection, 1), -1); /* taken */
    assert_int_equal(control_take_descriptor(&pair->connection, 2), -1);
    assert_int_equal(fcntl(writer, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(write(writer, "x", 1), 1);
    char byte;
    assert_int_equal(read(one[0], &byte, 1), 1);
    close(writer);

    assert_int_equal(control_receive(&pair->connection, &message, 1000), 0);
    assert_int_equal(number_of(message, "n"), 2);
    json_decref(message);
    assert_int_equal(pair->connection.descriptors, 0);

    assert_int_equal(control_receive(&pair->connection, &message, 1000), 0);
    assert_int_equal(number_of(message, "n"), 3);
    json_decref(message);
    assert_int_equal(pair->connection.descriptors, 1);
    for (int i = 0; i < 2; i++) {
        close(one[i]);
        close(two[i]);
    }
}

static void descriptors_out_of_place(void **state)
{
    struct pair *pair = *state;
    json_t *message;
    raw_send(pair->raw, "\x07\0\0\0{", 5, NULL, 0);
    raw_send(pair->raw, "\"n\":1}", 6, &pair->raw, 1);
    assert_int_equal(control_receive(&pair->connection, &message, 1000), ERR_PROTOCOL);
}

static void too_many_descriptors(void **state)
{
    struct pair *pair = *state;
    int many[CONTROL_DESCRIPTORS_MAX + 3];
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = pair->raw;
    json_t *message;
    raw_message(pair->raw, "{\"n\":1}", many, COUNT(many));
    assert_int_equal(control_receive(&pair->connection, &message, 1000), ERR_PROTOCOL);
}

static void as_many_descriptors_as_allowed(void **state)
{
    struct pair *pair = *state;
    int many[CONTROL_DESCRIPTORS_MAX + 1];
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = pair->raw;
    struct control_connection other;
    control_open(&other, pair->raw, CONTROL_REQUEST_BYTES_MAX);
    json_t *message = json_pack("{s:i}", "n", 1);
    assert_int_equal(control_send(&other, message, many, CONTROL_DESCRIPTORS_MAX + 1), ERR_INVALID);
    assert_int_equal(control_send(&other, message, many, CONTROL_DESCRIPTORS_MAX), 0);
    json_decref(message);
    assert_int_equal(control_receive(&pair->connection, &message, 1000), 0);
    assert_int_equal(pair->connection.descriptors, CONTROL_DESCRIPTORS_MAX);
    json_decref(message);
}

static int parse(const char *text)
{
    json_t *message = NULL;
    int code = control_parse((const uint8_t *)text, strlen(text), &message);
    assert_true((code == 0) == (message != NULL));
    json_decref(message);
    return code;
}

static void bodies_that_are_taken(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{}",
        "{\"a\":[1,2.5,-3,true,false,null,{\"b\":\"\\u20ac\"}]}",
        "{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}",
        "{\"\\\"[[[[[[[[[[[[[[[[[[[[[[[\":\"\\\\\"}",
        "{ \"a\" : 9223372036854775807 }",
        "{\"a\":{\"x\":1},\"b\":{\"x\":1}}",
    };
    for (size_t i = 0; i < COUNT(good); i++)
        if (parse(good[i]) != 0)
            fail_msg("%s was refused", good[i]);
}

static void bodies_that_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "}",
        "[]",
        "[{}]",
        "1",
        "null",
        "\"x\"",
        " {}",
        "{} ",
        "{}\n",
        "{}{}",
        "{},{}",
        "{\"a\":1,\"a\":2}",
        "{\"b\":{\"a\":1,\"a\":1}}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1,}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"\xc3\"}",
        "{\"a\":\"\xed\xa0\x80\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":99999999999999999999}",
        "{\"a\":1e999}",
        "{\"a\":NaN}",
        "{\"a\":01}",
        "{\"a\":\"}",
        "{\"a\":\"\\\"}",
        "{/**/}",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        if (parse(bad[i]) != ERR_PROTOCOL)
            fail_msg("%s was taken", bad[i]);
    json_t *message;
    assert_int_equal(control_parse((const uint8_t *)"{\"a\":\0 1}", 9, &message), ERR_PROTOCOL);
    assert_int_equal(control_parse(NULL, 0, &message), ERR_PROTOCOL);
}

static int parse_nested(size_t depth, const char *open, const char *close)
{
    size_t width = strlen(open);
    char *text = calloc(1, depth * (width + 1) + 16);
    assert_non_null(text);
    char *end = stpcpy(text, "{\"a\":");
    for (size_t i = 1; i < depth; i++)
        end = stpcpy(end, open);
    end = stpcpy(end, "1");
    for (size_t i = 1; i < depth; i++)
        end = stpcpy(end, close);
    stpcpy(end, "}");
    int code = parse(text);
    free(text);
    return code;
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    assert_int_equal(parse_nested(CONTROL_DEPTH_MAX, "[", "]"), 0);
    assert_int_equal(parse_nested(CONTROL_DEPTH_MAX, "{\"a\":", "}"), 0);
    assert_int_equal(parse_nested(CONTROL_DEPTH_MAX + 1, "[", "]"), ERR_PROTOCOL);
    assert_int_equal(parse_nested(CONTROL_DEPTH_MAX + 1, "{\"a\":", "}"), ERR_PROTOCOL);
    /* as deep as a message is long: the stack of the parser must not follow */
    assert_int_equal(parse_nested(500000, "[", "]"), ERR_PROTOCOL);
    assert_int_equal(parse_nested(150000, "{\"a\":", "}"), ERR_PROTOCOL);
}

/* A connection that has refused a message and is closed gives everything back; see pair_close(). */
static void a_refused_body_on_the_wire(void **state)
{
    struct pair *pair = *state;
    json_t *message;
    raw_message(pair->raw, "{\"a\":1,\"a\":2}", &pair->raw, 1);
    assert_int_equal(control_receive(&pair->connection, &message, 1000), ERR_PROTOCOL);
}

static void only_objects_are_sent(void **state)
{
    struct pair *pair = *state;
    json_t *array = json_array();
    assert_int_equal(control_send(&pair->connection, array, NULL, 0), ERR_INVALID);
    assert_int_equal(control_send(&pair->connection, NULL, NULL, 0), ERR_INVALID);
    json_decref(array);
}

/* ---- calls ------------------------------------------------------------------------------------
 */

/* Answers one request with these, in which a %lld stands for the request's number. */
struct script {
    int fd;
    const char *answer[4];
    char method[64];
    int64_t version;
    int64_t x;
    uint32_t descriptors;
};

static void *serve(void *argument)
{
    struct script *script = argument;
    struct control_connection connection;
    control_open(&connection, script->fd, CONTROL_REQUEST_BYTES_MAX);
    json_t *request;
    if (control_receive(&connection, &request, -1) != 0)
        abort();
    long long id = number_of(request, "id");
    script->version = number_of(request, "version");
    script->x = number_of(json_object_get(request, "params"), "x");
    script->descriptors = connection.descriptors;
    snprintf(script->method, sizeof script->method, "%s",
             json_string_value(json_object_get(request, "method")));
    json_decref(request);
    for (int i = 0; i < 4 && script->answer[i]; i++) {
        char number[32];
        char text[512];
        snprintf(number, sizeof number, "%lld", id);
        const char *place = strchr(script->answer[i], '#');
        int before = place ? (int)(place - script->answer[i]) : (int)strlen(script->answer[i]);
        snprintf(text, sizeof text, "%.*s%s%s", before, script->answer[i], place ? number : "",
                 place ? place + 1 : "");
        raw_message(connection.fd, text, NULL, 0);
    }
    control_close(&connection);
    return NULL;
}

static void count_progress(const json_t *progress, void *context)
{
    *(int64_t *)context = *(int64_t *)context * 10 + number_of(progress, "n");
}

static int call(struct pair *pair, struct script *script, int64_t *progress, json_t **result,
                struct failure *failure)
{
    script->fd = pair->raw;
    pair->raw = -1;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, serve, script), 0);
    int descriptor = 0;
    int code =
        control_call(&pair->connection, "ring.create", json_pack("{s:i}", "x", 42), &descriptor, 1,
                     progress ? count_progress : NULL, progress, result, failure);
    pthread_join(thread, NULL);
    return code;
}

static void a_call_with_progress(void **state)
{
    struct pair *pair = *state;
    struct script script = {.answer = {"{\"id\":#,\"progress\":{\"n\":1}}",
                                       "{\"id\":#,\"progress\":{\"n\":2}}",
                                       "{\"id\":#,\"result\":{\"good\":7}}"}};
    int64_t progress = 0;
    json_t *result = NULL;
    struct failure failure = {0};
    assert_int_equal(call(pair, &script, &progress, &result, &failure), 0);
    assert_int_equal(progress, 12);
    assert_int_equal(number_of(result, "good"), 7);
    json_decref(result);
    assert_string_equal(script.method, "ring.create");
    assert_int_equal(script.version, CONTROL_VERSION);
    assert_int_equal(script.x, 42);
    assert_int_equal(script.descriptors, 1);
}

static void a_call_whose_answer_nobody_wants(void **state)
{
    struct pair *pair = *state;
    struct script script = {
        .answer = {"{\"id\":#,\"progress\":{}}", "{\"id\":#,\"result\":{\"good\":7}}"}};
    assert_int_equal(call(pair, &script, NULL, NULL, NULL), 0);
}

static void a_call_that_fails_there(void **state)
{
    struct pair *pair = *state;
    struct script script = {
        .answer = {"{\"id\":#,\"error\":{\"code\":\"busy\",\"message\":\"disk %s a\"}}"}};
    struct failure failure = {0};
    assert_int_equal(call(pair, &script, NULL, NULL, &failure), ERR_BUSY);
    assert_int_equal(failure.code, ERR_BUSY);
    assert_string_equal(failure.text, "disk %s a");
}

/* "again" is an error like another, not one more progress report. */
static void a_call_that_fails_with_again(void **state)
{
    struct pair *pair = *state;
    struct script script = {
        .answer = {"{\"id\":#,\"error\":{\"code\":\"again\",\"message\":\"not yet\"}}"}};
    assert_int_equal(call(pair, &script, NULL, NULL, NULL), ERR_AGAIN);
}

static void a_call_that_fails_with_an_unknown_word(void **state)
{
    struct pair *pair = *state;
    struct script script = {
        .answer = {"{\"id\":#,\"error\":{\"code\":\"haunted\",\"message\":\"boo\"}}"}};
    assert_int_equal(call(pair, &script, NULL, NULL, NULL), ERR_INTERNAL);
}

static void answers_that_fit_no_request(void **state)
{
    static const char *const bad[] = {
        "{\"id\":0,\"result\":{}}",
        "{\"id\":\"x\",\"result\":{}}",
        "{\"result\":{}}",
        "{\"id\":#}",
        "{\"id\":#,\"result\":{},\"error\":{\"code\":\"io\",\"message\":\"x\"}}",
        "{\"id\":#,\"result\":{},\"progress\":{}}",
        "{\"id\":#,\"error\":{\"code\":\"io\"}}",
        "{\"id\":#,\"error\":{\"message\":\"x\"}}",
        "{\"id\":#,\"error\":\"x\"}",
        "[#]",
    };
    struct pair *pair = *state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct script script = {.answer = {bad[i]}};
        struct failure failure = {0};
        json_t *result = NULL;
        assert_int_equal(call(pair, &script, NULL, &result, &failure), ERR_PROTOCOL);
        assert_null(result);
        assert_true(strlen(failure.text) > 0);
        pair = pair_renew(state);
    }
}

static void a_call_without_an_answer(void **state)
{
    struct pair *pair = *state;
    struct script script = {.answer = {"{\"id\":#,\"progress\":{}}"}};
    struct failure failure = {0};
    assert_int_equal(call(pair, &script, NULL, NULL, &failure), ERR_CLOSED);
    assert_non_null(strstr(failure.text, "no answer"));
}

/* ---- connecting -------------------------------------------------------------------------------
 */

static int listener_open(const char *directory)
{
    int place = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", place,
             CONTROL_SOCKET_NAME);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
    close(place);
    return fd;
}

static void connect_in(const char *directory)
{
    struct control_connection connection;
    struct failure failure = {0};
    int before = open_descriptors();
    assert_int_equal(control_connect(&connection, directory, &failure), ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "no recorder is running on"));
    assert_int_equal(connection.fd, -1);

    int listener = listener_open(directory);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(control_connect(&connection, directory, &failure), 0);
    assert_int_equal(fcntl(connection.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    control_close(&connection);
    control_close(&connection); /* twice does no harm */
    close(listener);

    /* the socket's file is left over from a recorder that died */
    assert_int_equal(control_connect(&connection, directory, NULL), ERR_NOT_FOUND);
    assert_int_equal(open_descriptors(), before);
    char name[4096];
    snprintf(name, sizeof name, "%s/%s", directory, CONTROL_SOCKET_NAME);
    unlink(name);
}

static void connecting(void **state)
{
    (void)state;
    const char *temporary = getenv("TMPDIR");
    char directory[1024];
    snprintf(directory, sizeof directory, "%s/tapeloop-control-XXXXXX",
             temporary ? temporary : "/tmp");
    assert_non_null(mkdtemp(directory));
    connect_in(directory);

    /* longer than a socket's address can be */
    char deep[1400];
    snprintf(deep, sizeof deep, "%s/%0200d", directory, 7);
    assert_int_equal(mkdir(deep, 0700), 0);
    connect_in(deep);
    rmdir(deep);
    struct control_connection connection;
    assert_int_equal(control_connect(&connection, deep, NULL), ERR_NOT_FOUND);
    rmdir(directory);
    assert_int_equal(control_connect(&connection, directory, NULL), ERR_NOT_FOUND);
}

#define with_pair(test) cmocka_unit_test_setup_teardown(test, pair_open, pair_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_pair(messages_arrive_in_order),
        with_pair(a_message_in_single_bytes),
        with_pair(the_other_side_goes_away),
        with_pair(lengths_that_lie),
        with_pair(a_promise_takes_no_memory),
        with_pair(a_large_message_with_descriptors),
        with_pair(a_sender_that_must_not_block_waits),
        with_pair(a_sender_with_a_time_limit_gives_up),
        with_pair(descriptors_belong_to_their_message),
        with_pair(descriptors_out_of_place),
        with_pair(too_many_descriptors),
        with_pair(as_many_descriptors_as_allowed),
        cmocka_unit_test(bodies_that_are_taken),
        cmocka_unit_test(bodies_that_are_refused),
        cmocka_unit_test(nesting_is_bounded),
        with_pair(a_refused_body_on_the_wire),
        with_pair(only_objects_are_sent),
        with_pair(a_call_with_progress),
        with_pair(a_call_whose_answer_nobody_wants),
        with_pair(a_call_that_fails_there),
        with_pair(a_call_that_fails_with_again),
        with_pair(a_call_that_fails_with_an_unknown_word),
        with_pair(answers_that_fit_no_request),
        with_pair(a_call_without_an_answer),
        cmocka_unit_test(connecting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
