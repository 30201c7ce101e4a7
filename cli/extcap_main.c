/*
 * extcap_main.c - tapeloop-extcap: rings as interfaces in Wireshark and tshark.
 *
 * Wireshark runs what lies in its extcap folder, once for each question, and reads the answers as
 * sentences of its extcap protocol
 * (https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html). The interfaces are the
 * rings of the recorder on the state directory. Capturing becomes `tapeloop extract` into the FIFO
 * that Wireshark made: this program turns into it, so that signals, the closed FIFO and the exit
 * status are dealt with in one place.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "interrupt.h"
#include "options.h"
#include "program_path.h"
#include "recorder_session.h"
#include "text.h"

#define INTERFACE_PREFIX "tapeloop-"
#define LINK_TYPE_ANY 147 /* DLT_USER0: what is written is pcapng, which names its own link types \
                           */
#define ARGUMENTS_MAX 24

struct request {
    bool interfaces, dlts, config, capture;
    const char *interface;
    const char *fifo;
    const char *capture_filter; /* Wireshark's own field, or tshark's -f */
    const char *from, *to, *filter;
    bool follow;
    const char *state;
};

enum {
    OPTION_INTERFACES = 256,
    OPTION_INTERFACE,
    OPTION_DLTS,
    OPTION_CONFIG,
    OPTION_CAPTURE,
    OPTION_FIFO,
    OPTION_CAPTURE_FILTER,
    OPTION_VERSION,
    OPTION_IGNORED,
    OPTION_FROM,
    OPTION_TO,
    OPTION_FILTER,
    OPTION_FOLLOW,
    OPTION_STATE,
    OPTION_HELP
};

static const struct option option_table[] = {
    {"extcap-interfaces", no_argument, NULL, OPTION_INTERFACES},
    {"extcap-interface", required_argument, NULL, OPTION_INTERFACE},
    {"extcap-dlts", no_argument, NULL, OPTION_DLTS},
    {"extcap-config", no_argument, NULL, OPTION_CONFIG},
    {"capture", no_argument, NULL, OPTION_CAPTURE},
    {"fifo", required_argument, NULL, OPTION_FIFO},
    {"extcap-capture-filter", required_argument, NULL, OPTION_CAPTURE_FILTER},
    {"extcap-version", optional_argument, NULL, OPTION_VERSION},
    {"extcap-control-in", required_argument, NULL, OPTION_IGNORED},
    {"extcap-control-out", required_argument, NULL, OPTION_IGNORED},
    {"extcap-reload-option", required_argument, NULL, OPTION_IGNORED},
    {"from", required_argument, NULL, OPTION_FROM},
    {"to", required_argument, NULL, OPTION_TO},
    {"filter", required_argument, NULL, OPTION_FILTER},
    {"follow", no_argument, NULL, OPTION_FOLLOW},
    {"state", required_argument, NULL, OPTION_STATE},
    {"help", no_argument, NULL, OPTION_HELP},
    {0},
};

static const char *given(const char *text)
{
    return text && text[0] ? text : NULL;
}

static int say_help(void)
{
    printf(
        "tapeloop-extcap: the rings of a tapeloop recorder as interfaces in Wireshark and tshark.\n"
        "\n"
        "Wireshark runs it by itself when it is in the folder of its external capture programs "
        "(Help, About,\n"
        "Folders: \"Personal Extcap path\"):\n"
        "\n"
        "    mkdir -p ~/.config/wireshark/extcap && ln -s %s ~/.config/wireshark/extcap/\n"
        "    tshark -i tapeloop-dmz -o extcap.tapeloop_dmz.from:-20m -f 'host 192.0.2.7'\n"
        "\n"
        "By hand:\n"
        "    tapeloop-extcap --extcap-interfaces\n"
        "    tapeloop-extcap --extcap-interface tapeloop-RING --extcap-config\n"
        "    tapeloop-extcap --extcap-interface tapeloop-RING --capture --fifo FIFO [--from T] "
        "[--to T]\n"
        "                    [--filter FILTER] [--follow] [--state DIR]\n"
        "\n"
        "The recorder is the one on $TAPELOOP_STATE, or %s. T and FILTER are those of tapeloop "
        "extract.\n",
        program_invocation_name, options_state_default());
    return EXIT_DONE;
}

static int complain(const struct failure *failure)
{
    fprintf(stderr, "tapeloop-extcap: %s\n", failure->text);
    return EXIT_FAILED;
}

/* ---- what there is
 * --------------------------------------------------------------------------------- */

/* A value inside {...}: what would end it is left out. */
static void print_value(const char *text)
{
    char clean[256];
    text_printable(text, clean, sizeof clean);
    for (const char *at = clean; *at; at++)
        if (*at != '{' && *at != '}' && *at != '=')
            putchar(*at);
}

static void print_ring(const json_t *ring)
{
    printf("interface {value=" INTERFACE_PREFIX);
    print_value(answer_text(ring, "name"));
    printf("}{display=tapeloop ring ");
    print_value(answer_text(ring, "name"));
    printf("}\n");
}

/* Without a recorder, or without the right to ask it, there are no rings: the reason is said, and
 * Wireshark goes on. */
static int list_interfaces(const struct request *request)
{
    struct session session;
    struct failure failure = {0};
    json_t *result = NULL;
    printf("extcap {version=%s}{display=tapeloop packet rings}\n", TAPELOOP_VERSION);
    int code = session_open(&session, request->state, SESSION_START | SESSION_RINGS, &failure);
    if (code == 0) {
        struct session_job job = {.method = "ring.list", .watched_fd = -1};
        code = session_call(&session, &job, NULL, &result, &failure);
        const json_t *rings = answer_array(result, "rings");
        for (size_t i = 0; code == 0 && i < json_array_size(rings); i++)
            print_ring(json_array_get(rings, i));
        json_decref(result);
        code = session_close(&session, code, &failure);
    }
    if (code < 0)
        fprintf(stderr, "tapeloop-extcap: no rings: %s\n", failure.text);
    return EXIT_DONE;
}

static int list_link_types(void)
{
    printf("dlt {number=%d}{name=tapeloop}{display=as recorded}\n", LINK_TYPE_ANY);
    return EXIT_DONE;
}

static int list_options(void)
{
    printf(
        "arg {number=0}{call=--from}{display=From}{type=string}{default=-5m}"
        "{tooltip=A time (2026-11-21T14:05:00Z), seconds since the epoch, now, or back from now: "
        "-90s, -20m, -1h, "
        "-2d. Empty: the oldest packet}{group=Range}\n"
        "arg {number=1}{call=--to}{display=To}{type=string}"
        "{tooltip=Up to, not including, this time. Empty: the newest packet}{group=Range}\n"
        "arg {number=2}{call=--follow}{display=Go on with what is "
        "recorded}{type=boolflag}{default=false}"
        "{tooltip=After the past, live packets, until the capture is stopped}{group=Range}\n"
        "arg {number=3}{call=--filter}{display=Filter}{type=string}"
        "{tooltip=As in tapeloop extract, beside the capture filter of Wireshark}{group=Filter}\n"
        "arg {number=4}{call=--state}{display=State directory}{type=string}{placeholder=%s}"
        "{tooltip=Of the recorder}{group=Recorder}\n",
        options_state_default());
    return EXIT_DONE;
}

/* ---- capturing
 * ------------------------------------------------------------------------------------- */

static const char *ring_of(const struct request *request, struct failure *failure)
{
    const char *interface = request->interface;
    size_t prefix = sizeof INTERFACE_PREFIX - 1;
    if (!interface || strncmp(interface, INTERFACE_PREFIX, prefix) != 0) {
        fail(failure, ERR_INVALID, "--extcap-interface: expected " INTERFACE_PREFIX "RING");
        return NULL;
    }
    return text_check_ring_name(interface + prefix, failure) == 0 ? interface + prefix : NULL;
}

/* Both filters have to hold. The caller frees; null without any. */
static char *filter_both(const struct request *request)
{
    const char *a = given(request->capture_filter), *b = given(request->filter);
    char *both = NULL;
    if (!a && !b)
        return NULL;
    if (a && b ? asprintf(&both, "(%s) and (%s)", a, b) < 0 : !(both = strdup(a ? a : b)))
        abort(); /* some hundred bytes */
    return both;
}

/* Turns into `tapeloop extract`. Does not come back unless that fails. */
static int become_extract(const struct request *request, const char *from, const char *to,
                          const char *file, struct failure *failure)
{
    const char *ring = ring_of(request, failure);
    char program[PATH_MAX];
    const char *argument[ARGUMENTS_MAX];
    size_t count = 0;
    if (!ring)
        return complain(failure);
    program_path("tapeloop", program);
    argument[count++] = "tapeloop";
    argument[count++] = "--quiet";
    argument[count++] = "--state";
    argument[count++] = request->state;
    argument[count++] = "extract";
    if (from) {
        argument[count++] = "--from";
        argument[count++] = from;
    }
    if (to) {
        argument[count++] = "--to";
        argument[count++] = to;
    }
    if (request->follow)
        argument[count++] = "--follow";
    argument[count++] = "--write";
    argument[count++] = file;
    argument[count++] = "--";
    argument[count++] = ring;
    argument[count] = filter_both(request);
    argument[count + 1] = NULL;
    interrupt_reset();
    execvp(program[0] ? program : "tapeloop", (char *const *)argument);
    fail(failure, ERR_NOT_FOUND, "the program tapeloop cannot be started: %s", strerror(errno));
    return complain(failure);
}

/* Wireshark asks whether a capture filter is one: silence says yes, a sentence on standard output
 * no. */
static int check_filter(const struct request *request)
{
    struct failure failure = {0};
    if (dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
        return EXIT_FAILED;
    return become_extract(request, "0", "0.000000001", "/dev/null",
                          &failure); /* a range without packets */
}

static int capture(const struct request *request)
{
    struct failure failure = {0};
    if (!request->fifo) {
        fail(&failure, ERR_INVALID, "--capture needs --fifo");
        return complain(&failure);
    }
    int fifo = open(request->fifo, O_WRONLY);
    if (fifo < 0) {
        fail_errno(&failure, errno, "%s", request->fifo);
        return complain(&failure);
    }
    if (fifo != STDOUT_FILENO) {
        if (dup2(fifo, STDOUT_FILENO) < 0) {
            fail_errno(&failure, errno, "%s", request->fifo);
            return complain(&failure);
        }
        close(fifo);
    }
    return become_extract(request, given(request->from), given(request->to), "-", &failure);
}

/* ---- the command line
 * -------------------------------------------------------------------------------- */

/* What is not known is what a newer Wireshark says: it is left out of account. */
static void parse(int argc, char **argv, struct request *request, bool *help)
{
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, "", option_table, NULL)) != -1;)
        switch (option) {
        case OPTION_INTERFACES:
            request->interfaces = true;
            break;
        case OPTION_INTERFACE:
            request->interface = optarg;
            break;
        case OPTION_DLTS:
            request->dlts = true;
            break;
        case OPTION_CONFIG:
            request->config = true;
            break;
        case OPTION_CAPTURE:
            request->capture = true;
            break;
        case OPTION_FIFO:
            request->fifo = optarg;
            break;
        case OPTION_CAPTURE_FILTER:
            request->capture_filter = optarg;
            break;
        case OPTION_FROM:
            request->from = optarg;
            break;
        case OPTION_TO:
            request->to = optarg;
            break;
        case OPTION_FILTER:
            request->filter = optarg;
            break;
        case OPTION_FOLLOW:
            request->follow = true;
            break;
        case OPTION_STATE:
            request->state = given(optarg) ? optarg : request->state;
            break;
        case OPTION_HELP:
            *help = true;
            break;
        default:
            break;
        }
}

int main(int argc, char **argv)
{
    struct request request = {.state = options_state_default()};
    bool help = false;
    interrupt_open();
    parse(argc, argv, &request, &help);
    int status;
    if (help)
        status = say_help();
    else if (request.interfaces)
        status = list_interfaces(&request);
    else if (request.dlts)
        status = list_link_types();
    else if (request.config)
        status = list_options();
    else if (request.capture)
        status = capture(&request);
    else if (request.interface && request.capture_filter)
        status = check_filter(&request);
    else
        status = say_help();
    return fflush(stdout) == 0 ? status : EXIT_FAILED;
}
