/*
 * control_server.c - see control_server.h.
 *
 * The happy path of a connection: accepted, its credentials checked, a place found for it, and from
 * then on its own thread's: a message is received, run as a request and answered, until the client
 * closes.
 *
 * Clients may be hostile as far as they get: who is not allowed is closed without a word; a message
 * that begins must be whole within ten seconds; what breaks the protocol ends the connection; a
 * client that takes no answers is given up.
 */
#include "control_server.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "event_log.h"
#include "methods.h"

#define MESSAGE_MS 10000      /* from a message's first byte to its last */
#define ANSWER_S 10           /* a client that takes nothing for so long is given up */
#define TURN_AWAY_MS 100      /* how long somebody who is turned away has to say what he wanted */
#define IDLE_NS 5000000000ull /* so long without a request, and the place may be given away */

enum place_state { PLACE_FREE, PLACE_RUNNING, PLACE_ENDED };

struct place {
    struct control_server *server;
    enum place_state state;
    pthread_t thread;
    int fd;
    bool idle; /* between two requests */
    uint64_t idle_since_ns;
};

struct control_server {
    struct recorder *recorder;
    int fd;
    int directory;
    gid_t group;
    pthread_t thread;
    pthread_mutex_t lock; /* the places, and leaving */
    bool leaving;
    struct place place[CONNECTIONS_MAX];
};

/* ---- one connection
 * -------------------------------------------------------------------------------- */

static int send_answer(struct control_connection *connection, json_int_t id, const char *kind,
                       json_t *value, int fd)
{
    json_t *message = json_pack("{s:I, s:o}", "id", id, kind, value);
    int result = message ? control_send(connection, message, &fd, fd >= 0) : ERR_NO_MEMORY;
    json_decref(message);
    return result;
}

/* Sentences hold foreign text; JSON holds UTF-8 only. */
static json_t *sentence(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    char clean[sizeof((struct failure *)0)->text];
    size_t length = 0;
    for (; text[length] && length < sizeof clean - 1; length++)
        clean[length] = (unsigned char)text[length] < 0x80 ? text[length] : '?';
    clean[length] = '\0';
    return json_string(clean);
}

static int send_error(struct control_connection *connection, json_int_t id, int code,
                      const char *text)
{
    return send_answer(connection, id, "error",
                       json_pack("{s:s, s:o}", "code", error_name(code), "message",
                                 sentence(text[0] ? text : error_text(code))),
                       -1);
}

/* What every request has. The method and the parameters are the message's. */
static int take_apart(const json_t *message, struct request *request, const char **method)
{
    static const char expected[] = "a request has a version, an id, a method and parameters";
    const json_t *id = json_object_get(message, "id");
    const json_t *version = json_object_get(message, "version");
    request->id = json_integer_value(id);
    request->params = json_object_get(message, "params");
    request->actor = json_object_get(message, "actor");
    *method = json_string_value(json_object_get(message, "method"));
    if (!json_is_integer(id) || !json_is_integer(version) || !*method ||
        (request->params && !json_is_object(request->params)) ||
        (request->actor && !json_is_object(request->actor)))
        return fail(&request->failure, ERR_PROTOCOL, "%s", expected);
    if (json_integer_value(version) != CONTROL_VERSION)
        return fail(&request->failure, ERR_UNSUPPORTED,
                    "this recorder speaks version %d of the protocol", CONTROL_VERSION);
    return 0;
}

/* False when the connection is to be closed. */
static bool answer(struct recorder *recorder, struct control_connection *connection,
                   const json_t *message)
{
    struct request request = {
        .recorder = recorder, .connection = connection, .answer_fd = -1, .cancel_fd = -1};
    const char *method;
    int code = take_apart(message, &request, &method);
    if (code != 0) {
        (void)send_error(connection, request.id, code, request.failure.text);
        return false;
    }
    json_t *result = NULL, *none = NULL;
    if (!request.params)
        request.params = none = json_object();
    code = request.params ? method_run(&request, method, &result) : ERR_NO_MEMORY;
    int sent = ERR_CLOSED;
    if (!request.gone && code == 0) {
        sent = send_answer(connection, request.id, "result", result ? result : json_object(),
                           request.answer_fd);
        if (sent == ERR_TOO_LARGE)
            sent = send_error(connection, request.id, ERR_TOO_LARGE,
                              "the answer is too large for one message: ask for less");
    } else {
        json_decref(result);
        if (!request.gone)
            sent = send_error(connection, request.id, code, request.failure.text);
    }
    if (request.answer_fd >= 0)
        close(request.answer_fd);
    json_decref(none);
    return sent == 0;
}

static void set_idle(struct place *place, bool idle)
{
    pthread_mutex_lock(&place->server->lock);
    place->idle = idle;
    place->idle_since_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&place->server->lock);
}

static void *connection_thread(void *context)
{
    struct place *place = context;
    struct recorder *recorder = place->server->recorder;
    struct control_connection connection;
    pthread_setname_np(pthread_self(), "connection");
    control_open(&connection, place->fd, CONTROL_REQUEST_BYTES_MAX);
    while (!recorder_stopping(recorder)) {
        struct pollfd wanted = {.fd = connection.fd, .events = POLLIN};
        set_idle(place, true);
        if (poll(&wanted, 1, -1) < 0 && errno != EINTR)
            break;
        set_idle(place, false);
        if (wanted.revents == 0)
            continue;
        json_t *message;
        int code = control_receive(&connection, &message, MESSAGE_MS);
        if (code == ERR_PROTOCOL)
            (void)send_error(&connection, 0, code, "that was no message of the control protocol");
        if (code != 0)
            break;
        bool go_on = answer(recorder, &connection, message);
        json_decref(message);
        spare_worker_refill(&recorder->spare, recorder->extract_path); /* now nobody waits */
        if (!go_on)
            break;
    }
    pthread_mutex_lock(&place->server->lock);
    place->state = PLACE_ENDED; /* from here on nobody else touches the descriptor */
    pthread_mutex_unlock(&place->server->lock);
    control_close(&connection);
    return NULL;
}

/* ---- accepting
 * ------------------------------------------------------------------------------------- */

static bool in_group(int fd, gid_t group)
{
#ifdef SO_PEERGROUPS
    gid_t groups[1024];
    socklen_t size = sizeof groups;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0)
        for (size_t i = 0; i < size / sizeof groups[0]; i++)
            if (groups[i] == group)
                return true;
#endif
    return false;
}

/* Root, our own user, and members of the socket's group. */
static bool is_allowed(const struct control_server *server, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid() || peer.gid == server->group ||
           in_group(fd, server->group);
}

/* A free place, after those whose threads have ended are free again. Null: there is none. */
static struct place *find_place(struct control_server *server)
{
    struct place *found = NULL;
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
        struct place *place = &server->place[i];
        pthread_mutex_lock(&server->lock);
        enum place_state state = place->state;
        pthread_mutex_unlock(&server->lock);
        if (state == PLACE_ENDED) {
            pthread_join(place->thread, NULL);
            place->state = state = PLACE_FREE;
        }
        if (state == PLACE_FREE && !found)
            found = place;
    }
    return found;
}

/* Ends the connection that has been idle for longest, so that the next one finds a place. */
static void make_place(struct control_server *server)
{
    struct place *oldest = NULL;
    uint64_t now_ns = clock_monotonic_ns();
    pthread_mutex_lock(&server->lock);
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
        struct place *place = &server->place[i];
        if (place->state == PLACE_RUNNING && place->idle &&
            now_ns - place->idle_since_ns >= IDLE_NS &&
            (!oldest || place->idle_since_ns < oldest->idle_since_ns))
            oldest = place;
    }
    if (oldest)
        shutdown(oldest->fd, SHUT_RD);
    pthread_mutex_unlock(&server->lock);
}

/* Tells somebody for whom there is no place so, under the id of his request if he says it at once.
 */
static void turn_away(int fd, int code, const char *text)
{
    struct control_connection connection;
    json_t *message;
    json_int_t id = 0;
    control_open(&connection, fd, CONTROL_REQUEST_BYTES_MAX);
    if (control_receive(&connection, &message, TURN_AWAY_MS) == 0) {
        id = json_integer_value(json_object_get(message, "id"));
        json_decref(message);
    }
    (void)send_error(&connection, id, code, text);
    control_close(&connection);
}

static void welcome(struct control_server *server, int fd)
{
    struct timeval patience = {.tv_sec = ANSWER_S};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (!is_allowed(server, fd)) {
        close(fd);
        return;
    }
    struct place *place = find_place(server);
    if (!place) {
        make_place(server);
        turn_away(fd, ERR_BUSY, "the recorder has as many connections as it serves: try again");
        return;
    }
    place->server = server;
    place->fd = fd;
    place->idle = false;
    pthread_mutex_lock(&server->lock);
    bool leaving = server->leaving;
    if (!leaving)
        place->state = PLACE_RUNNING;
    pthread_mutex_unlock(&server->lock);
    if (leaving) {
        close(fd);
        return;
    }
    if (pthread_create(&place->thread, NULL, connection_thread, place) != 0) {
        pthread_mutex_lock(&server->lock);
        place->state = PLACE_FREE;
        pthread_mutex_unlock(&server->lock);
        turn_away(fd, ERR_BUSY, "the recorder has no thread left: try again");
    }
}

static void *accept_thread(void *context)
{
    struct control_server *server = context;
    pthread_setname_np(pthread_self(), "control");
    while (!recorder_stopping(server->recorder)) {
        struct pollfd wanted[2] = {{.fd = server->fd, .events = POLLIN},
                                   {.fd = server->recorder->stop_fd, .events = POLLIN}};
        if (poll(wanted, 2, -1) < 0 || !(wanted[0].revents & POLLIN))
            continue;
        int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            welcome(server, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            event_log_say(server->recorder->events, "warning", "no-descriptors", "",
                          "a connection could not be accepted: %s", strerror(errno));
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        }
    }
    return NULL;
}

/* ---- opening and closing
 * --------------------------------------------------------------------------- */

/*
 * The socket gets its mode under another name and is then renamed: nobody ever sees it with a wider
 * one. By way of the opened directory, for an address holds 107 bytes and a directory may have a
 * longer name.
 */
static int listen_at(struct control_server *server, struct failure *failure)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static const char name[] = CONTROL_SOCKET_NAME, fresh[] = CONTROL_SOCKET_NAME ".new";
    struct stat status;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", server->directory,
             fresh);
    if (unlinkat(server->directory, fresh, 0) != 0 && errno != ENOENT)
        return fail_errno(failure, errno, "%s: removing an old control socket",
                          server->recorder->directory);
    if (bind(server->fd, (const struct sockaddr *)&address, sizeof address) != 0)
        return fail_errno(failure, errno, "%s: making the control socket",
                          server->recorder->directory);
    /* Its group is the directory's, where we may say so: whom the directory lets in. */
    if (fstat(server->directory, &status) == 0 &&
        fchownat(server->directory, fresh, (uid_t)-1, status.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
        errno = 0; /* then it is our own, and is_allowed() asks for that one */
    if (fchmodat(server->directory, fresh, 0660, 0) != 0 ||
        fstatat(server->directory, fresh, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        listen(server->fd, SOMAXCONN) != 0 ||
        renameat(server->directory, fresh, server->directory, name) != 0) {
        int number = errno;
        unlinkat(server->directory, fresh, 0);
        return fail_errno(failure, number, "%s: making the control socket",
                          server->recorder->directory);
    }
    server->group = status.st_gid;
    return 0;
}

int control_server_open(struct recorder *recorder, struct control_server **result,
                        struct failure *failure)
{
    struct control_server *server = calloc(1, sizeof *server);
    if (!server)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    server->recorder = recorder;
    server->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    server->directory = open(recorder->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int code = 0;
    if (server->fd < 0 || server->directory < 0)
        code = fail_errno(failure, errno, "%s: making the control socket", recorder->directory);
    if (code == 0)
        code = listen_at(server, failure);
    pthread_mutex_init(&server->lock, NULL);
    if (code == 0) {
        int error = pthread_create(&server->thread, NULL, accept_thread, server);
        if (error == 0) {
            *result = server;
            return 0;
        }
        unlinkat(server->directory, CONTROL_SOCKET_NAME, 0);
        code = fail_errno(failure, error, "no thread for the control socket");
    }
    pthread_mutex_destroy(&server->lock);
    if (server->fd >= 0)
        close(server->fd);
    if (server->directory >= 0)
        close(server->directory);
    free(server);
    return code;
}

bool control_server_leave(struct control_server *server)
{
    pthread_mutex_lock(&server->lock);
    bool alone = true;
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++)
        alone = alone && server->place[i].state != PLACE_RUNNING;
    server->leaving = server->leaving || alone;
    pthread_mutex_unlock(&server->lock);
    return alone;
}

void control_server_close(struct control_server **slot)
{
    struct control_server *server = *slot;
    if (!server)
        return;
    unlinkat(server->directory, CONTROL_SOCKET_NAME, 0);
    pthread_join(server->thread, NULL);
    close(server->fd);
    pthread_mutex_lock(&server->lock);
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++)
        if (server->place[i].state == PLACE_RUNNING)
            shutdown(server->place[i].fd, SHUT_RD); /* idle ones end; answers can still be sent */
    pthread_mutex_unlock(&server->lock);
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
        pthread_mutex_lock(&server->lock);
        bool used = server->place[i].state != PLACE_FREE;
        pthread_mutex_unlock(&server->lock);
        if (used)
            pthread_join(server->place[i].thread, NULL);
    }
    close(server->directory);
    pthread_mutex_destroy(&server->lock);
    free(server);
    *slot = NULL;
}
