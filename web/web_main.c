/*
 * web_main.c - the program tapeloop-web: options, the web process from its beginning to its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "certificate.h"
#include "doorkeeper.h"
#include "handlers.h"
#include "recorder_link.h"
#include "role.h"
#include "web_confinement.h"
#include "web_server.h"
#include "web_store.h"

#define STATE_DEFAULT "/var/lib/tapeloop"
#define PORT_DEFAULT 8443
#define DOWNLOADS_DEFAULT 8
#define DOWNLOADS_MAX 64

static const char usage[] =
    "Usage: tapeloop-web [OPTION...]\n"
    "\n"
    "The web interface and REST API of tapeloop, over HTTPS. It asks the recorder (tapeloopd) "
    "through its\n"
    "control socket, and stays in the foreground. Started as root, what faces the network runs as "
    "another user.\n"
    "\n"
    "  --state DIR          the recorder's state directory; default: TAPELOOP_STATE, "
    "or " STATE_DEFAULT "\n"
    "  --web-state DIR      where users, sessions and the certificate are kept, made where it is "
    "missing;\n"
    "                       default: the state directory's name with \"-web\" behind it\n"
    "  --listen ADDRESS     listen there only; default: everywhere\n"
    "  --port N             for the interface and the API; default: 8443\n"
    "  --download-port N    for downloads of packets; default: the next one\n"
    "  --socket PATH|none   Unix socket for the API, tokens only; default: web.sock in the web "
    "state directory\n"
    "  --certificate FILE   certificate chain (PEM); default: one of its own making\n"
    "  --key FILE           its key (PEM); default: in the same file\n"
    "  --host NAME          a name that browsers may know this server by, besides its addresses, "
    "localhost\n"
    "                       and the machine's name; may be given several times\n"
    "  --downloads N        so many at a time (1 to 64); default: 8\n"
    "  --viewer-headers     viewers may extract packets up to the end of their headers\n"
    "  --user NAME          whom to run as where started as root; default: tapeloop-web, or else "
    "nobody\n"
    "  --new-password USER  give the user a new one-time password, print it, and end\n"
    "  --routes             print what the API answers, and what right each needs\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM, SIGINT and SIGHUP end it.\n";

struct arguments {
    struct web_options options;
    struct web_identity identity;
    const char *state, *user, *new_password;
    bool no_socket;
    char directory[PATH_MAX], socket_path[PATH_MAX + 16];
};

/* ---- options --------------------------------------------------------------------------------- */

static int wrong(const char *sentence, const char *value)
{
    fprintf(stderr, "tapeloop-web: %s: \"%s\". See tapeloop-web --help\n", sentence, value);
    return 2;
}

static bool take_number(const char *text, unsigned min, unsigned max, unsigned *number)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < min || value > max)
        return false;
    *number = (unsigned)value;
    return true;
}

enum {
    STATE = 256,
    WEB_STATE,
    LISTEN,
    PORT,
    DOWNLOAD_PORT,
    SOCKET,
    CERTIFICATE,
    KEY,
    HOST,
    DOWNLOADS, VIEWER_HEADERS,
    USER,
    NEW_PASSWORD,
    ROUTES,
    VERSION,
    HELP
};

/* One option. An exit status, or -1 to go on. */
static int take_option(int option, const char *value, struct arguments *arguments)
{
    struct web_options *options = &arguments->options;
    switch (option) {
    case STATE:
        arguments->state = value;
        return -1;
    case WEB_STATE:
        options->directory = value;
        return -1;
    case LISTEN:
        options->listen = value;
        return -1;
    case PORT:
        return take_number(value, 1, 65534, &options->port) ? -1 : wrong("--port: no port", value);
    case DOWNLOAD_PORT:
        return take_number(value, 1, 65535, &options->download_port)
                   ? -1
                   : wrong("--download-port: no port", value);
    case SOCKET:
        arguments->no_socket = strcmp(value, "none") == 0;
        options->socket_path = arguments->no_socket ? NULL : value;
        return -1;
    case CERTIFICATE:
        options->certificate = value;
        return -1;
    case KEY:
        options->key = value;
        return -1;
    case HOST:
        if (options->hosts == HOST_NAMES_MAX)
            return wrong("--host: too many names", value);
        options->host[options->hosts++] = value;
        return -1;
    case DOWNLOADS:
        return take_number(value, 1, DOWNLOADS_MAX, &options->downloads_max)
                   ? -1
                   : wrong("--downloads: expected 1 to 64", value);
    case VIEWER_HEADERS:
        role_give_headers();
        return -1;
    case USER:
        arguments->user = value;
        return -1;
    case NEW_PASSWORD:
        arguments->new_password = value;
        return -1;
    case ROUTES:
        routes_print();
        return 0;
    case VERSION:
        printf("tapeloop-web %s\n", TAPELOOP_VERSION);
        return 0;
    case HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return 2;
    }
}

static int take_arguments(int count, char **values, struct arguments *arguments)
{
    static const struct option options[] = {
        {"state", required_argument, NULL, STATE},
        {"web-state", required_argument, NULL, WEB_STATE},
        {"listen", required_argument, NULL, LISTEN},
        {"port", required_argument, NULL, PORT},
        {"download-port", required_argument, NULL, DOWNLOAD_PORT},
        {"socket", required_argument, NULL, SOCKET},
        {"certificate", required_argument, NULL, CERTIFICATE},
        {"key", required_argument, NULL, KEY},
        {"host", required_argument, NULL, HOST},
        {"downloads", required_argument, NULL, DOWNLOADS},
        {"viewer-headers", no_argument, NULL, VIEWER_HEADERS},
        {"user", required_argument, NULL, USER},
        {"new-password", required_argument, NULL, NEW_PASSWORD},
        {"routes", no_argument, NULL, ROUTES},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    const char *environment = getenv("TAPELOOP_STATE");
    int option;
    if (environment && environment[0])
        arguments->state = environment;
    while ((option = getopt_long(count, values, "", options, NULL)) != -1) {
        int status = take_option(option, optarg, arguments);
        if (status >= 0)
            return status;
    }
    if (optind < count)
        return wrong("what is that", values[optind]);
    if (arguments->options.key && !arguments->options.certificate)
        return wrong("--key needs --certificate beside it", arguments->options.key);
    if (!arguments->options.download_port)
        arguments->options.download_port = arguments->options.port + 1;
    if (arguments->options.download_port == arguments->options.port)
        return wrong("--download-port: it is the other port", "");
    return -1;
}

/* ---- the directory --------------------------------------------------------------------------- */

/* Makes it, and gives it to whom the web process runs as; its group is that of the state directory.
 */
static int make_directory(struct arguments *arguments, struct failure *failure)
{
    char name[PATH_MAX];
    struct stat status;
    struct web_options *options = &arguments->options;
    size_t length = strlen(arguments->state);
    while (length > 1 && arguments->state[length - 1] == '/')
        length--;
    if (!options->directory) {
        snprintf(name, sizeof name, "%.*s-web",
                 (int)(length < PATH_MAX - 8 ? length : PATH_MAX - 8), arguments->state);
        options->directory = name;
    }
    gid_t group = stat(arguments->state, &status) == 0 ? status.st_gid : arguments->identity.group;
    if (mkdir(options->directory, 0750) == 0) {
        if (geteuid() == 0 && (chown(options->directory, arguments->identity.user, group) != 0 ||
                               chmod(options->directory, 02750) != 0))
            return fail_errno(failure, errno, "directory %s", options->directory);
    } else if (errno != EEXIST) {
        return fail_errno(failure, errno, "directory %s cannot be made", options->directory);
    }
    if (!realpath(options->directory, arguments->directory))
        return fail_errno(failure, errno, "directory %s", options->directory);
    options->directory = arguments->directory;
    if (!options->socket_path && !arguments->no_socket) {
        snprintf(arguments->socket_path, sizeof arguments->socket_path, "%s/web.sock",
                 arguments->directory);
        options->socket_path = arguments->socket_path;
    }
    return 0;
}

/* ---- the web process ------------------------------------------------------------------------- */

/* Gives a user a one-time password and prints it; makes the user where `role` says what it is to
 * be. */
static int give_password(struct web_store *store, const char *name, const enum role *role,
                         struct failure *failure)
{
    char password[PASSWORD_MADE_SIZE];
    struct web_user user = {.must_change = true, .created_s = time(NULL)};
    snprintf(user.name, sizeof user.name, "%.63s", name);
    if (password_make(password) != 0)
        return fail(failure, ERR_INTERNAL, "the random generator failed");
    int code = password_hash(password, user.password, failure);
    if (code != 0)
        return code;
    if (role) {
        user.role = *role;
        code = web_store_add_user(store, &user);
    } else {
        code = web_store_set_password(store, name, user.password, true);
    }
    if (code != 0)
        return fail(failure, code, "user %.63s: %s", name, error_text(code));
    printf(
        "tapeloop-web: user %s has the one-time password %s: log in with it, and set your own.\n",
        user.name, password);
    fflush(stdout);
    return 0;
}

static int open_store(const struct web_options *options, struct web_store **store,
                      struct failure *failure)
{
    static const enum role admin = ROLE_ADMIN;
    int code = web_store_open(options->directory, store, failure);
    if (code != 0)
        return code;
    int users = web_store_user_count(*store);
    if (users < 0)
        code = fail(failure, users, "users cannot be read: %s", error_text(users));
    if (users == 0)
        code = give_password(*store, "admin", &admin, failure);
    if (code != 0)
        web_store_close(store);
    return code;
}

static void say_where(const struct web_server *server)
{
    char host[256] = "localhost", fingerprint[FINGERPRINT_SIZE];
    const struct web_options *options = server->options;
    if (options->listen)
        snprintf(host, sizeof host, strchr(options->listen, ':') ? "[%.200s]" : "%.200s",
                 options->listen);
    else
        (void)gethostname(host, sizeof host - 1);
    certificate_fingerprint(server->tls, fingerprint);
    printf("tapeloop-web: https://%s:%u/ (certificate SHA-256 %s)\n", host, options->port,
           fingerprint);
    if (options->socket_path)
        printf("tapeloop-web: API with tokens on %s\n", options->socket_path);
    fflush(stdout);
}

static void wait_for_signal(void)
{
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    while (sigwait(&set, &number) != 0)
        ;
}

/* From root, if that is what we are, to serving: the operator's key is read before root is given
 * up, all else after. */
static int open_all(struct arguments *arguments, struct web_server *server, struct failure *failure)
{
    const struct web_options *options = &arguments->options;
    int code = options->certificate
                   ? certificate_context(options->certificate, options->key, &server->tls, failure)
                   : 0;
    if (code == 0)
        code = web_confinement_begin(&arguments->identity, options->directory, failure);
    if (code == 0 && access(options->directory, W_OK | X_OK) != 0)
        code = fail_errno(
            failure, errno,
            "user %ld cannot use directory %s, or not get there: choose another with --web-state",
            (long)geteuid(), options->directory);
    if (code == 0 && !options->certificate) {
        char path[PATH_MAX + sizeof CERTIFICATE_FILE];
        snprintf(path, sizeof path, "%s/%s", options->directory, CERTIFICATE_FILE);
        code = certificate_make(options->directory, options->host, options->hosts, failure);
        if (code == 0)
            code = certificate_context(path, NULL, &server->tls, failure);
    }
    if (code == 0)
        code = open_store(options, &server->store, failure);
    return code;
}

static int web_process(int door_fd, void *context)
{
    struct arguments *arguments = context;
    struct failure failure = {0};
    struct web_server server = {.options = &arguments->options};
    int code = open_all(arguments, &server, &failure);
    if (code == 0 && arguments->new_password) {
        code = give_password(server.store, arguments->new_password, NULL, &failure);
    } else if (code == 0) {
        server.recorder = recorder_link_open(door_fd);
        code = server.recorder ? web_server_start(&server, &failure)
                               : fail(&failure, ERR_NO_MEMORY, "out of memory");
        if (code == 0) {
            code = web_confinement_finish(&failure);
            if (code == 0) {
                say_where(&server);
                wait_for_signal();
            }
            web_server_stop(&server);
        }
    }
    recorder_link_close(&server.recorder);
    web_store_close(&server.store);
    SSL_CTX_free(server.tls);
    if (code != 0)
        fprintf(stderr, "tapeloop-web: %s\n", failure.text);
    return code == 0 ? 0 : 1;
}

int main(int count, char **values)
{
    static struct arguments arguments = {
        .options = {.port = PORT_DEFAULT, .downloads_max = DOWNLOADS_DEFAULT},
        .state = STATE_DEFAULT};
    struct failure failure = {0};
    int status = take_arguments(count, values, &arguments);
    if (status >= 0)
        return status;
    int code = web_confinement_identity(arguments.user, &arguments.identity, &failure);
    if (code == 0)
        code = make_directory(&arguments, &failure);
    if (code != 0) {
        fprintf(stderr, "tapeloop-web: %s\n", failure.text);
        return 1;
    }
    return doorkeeper_run(arguments.state, web_process, &arguments);
}
