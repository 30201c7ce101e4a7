/*
 * record_methods.c - starting and stopping recordings, and the interfaces that there are to record.
 */
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answer_json.h"
#include "methods.h"
#include "network_interface.h"
#include "recording.h"
#include "standing.h"

#define PROGRESS_MS 1000

/* ---- record.start and record.stop
 * ---------------------------------------------------------------- */

static json_t *progress_of(struct request *request, const char *ring, struct recording *recording)
{
    json_t *progress = recording_progress(recording);
    json_object_set_new(progress, "reach_back_s", json_reach_back(request->recorder, ring));
    return progress;
}

/* Waits with the client for the recording's end, and answers with its account. */
static int attend(struct request *request, const char *ring, struct recording *recording,
                  json_t **result)
{
    bool stopping = false;
    request_progress(request, progress_of(request, ring, recording), true);
    for (;;) {
        enum request_news news = request_watch(request, recording_ended_fd(recording), PROGRESS_MS,
                                               stopping ? NULL : "record.stop");
        if (news == REQUEST_QUIET && recording_has_ended(recording))
            break;
        if (news == REQUEST_QUIET) {
            request_progress(request, progress_of(request, ring, recording), true);
            continue;
        }
        stopping = true;
        recording_stop(recording);
        if (news != REQUEST_SECOND)
            break; /* nobody to tell how it goes on, or no time to */
    }
    struct account account;
    int code = recording_wait(recording, &account, &request->failure);
    if (code == 0)
        *result = json_pack("{s:o, s:o, s:I, s:I}", "account", json_account(&account),
                            "account_bytes", json_account_bytes(&account), "stored_bytes",
                            (json_int_t)account.stored_bytes, "cut_packets",
                            (json_int_t)account.cut_packets);
    return code;
}

/* {`packets`, `packets_per_s`, `seed`} of generated traffic. */
static int take_generator(struct request *request, struct recording_options *options)
{
    const json_t *object = json_object_get(request->params, "generator");
    struct request inner = {.recorder = request->recorder, .params = object};
    options->generator_seed = 1;
    if (!object || json_is_null(object))
        return 0;
    int code = ERR_INVALID;
    if (!json_is_object(object))
        return fail(&request->failure, code, "parameter generator: expected an object");
    code = request_check_names(&inner, "packets packets_per_s seed");
    if (code == 0)
        code = request_count(&inner, "packets", 0, INT64_MAX, &options->generator_packets);
    if (code == 0)
        code = request_count(&inner, "packets_per_s", 0, 1000000000,
                             &options->generator_packets_per_s);
    if (code == 0)
        code = request_count(&inner, "seed", 0, INT64_MAX, &options->generator_seed);
    if (code != 0)
        request->failure = inner.failure;
    return code;
}

int record_take_options(struct request *request, struct recording_options *options)
{
    const json_t *interfaces;
    const char *backend = "auto";
    uint64_t snapshot_bytes = 0, buffer_bytes = 0;
    options->promiscuous = true;
    options->outgoing = true;
    int code = request_strings(request, "interfaces", RECORDING_INTERFACES_MAX, &interfaces,
                               &options->interfaces);
    if (code == 0)
        code = request_string(request, "backend", false, &backend);
    if (code == 0)
        code = request_count(request, "snapshot_bytes", 0, PACKET_CAPTURED_MAX, &snapshot_bytes);
    if (code == 0)
        code = request_count(request, "buffer_bytes", 0, UINT32_MAX, &buffer_bytes);
    if (code == 0)
        code = request_bool(request, "promiscuous", &options->promiscuous);
    if (code == 0)
        code = request_bool(request, "outgoing", &options->outgoing);
    if (code == 0)
        code = take_generator(request, options);
    if (code != 0)
        return code;
    int number = recording_backend(backend, &request->failure);
    if (number < 0)
        return number;
    options->backend = (enum recording_backend)number;
    options->snapshot_bytes = (uint32_t)snapshot_bytes;
    options->buffer_bytes = (uint32_t)buffer_bytes;
    for (uint32_t i = 0; i < options->interfaces; i++)
        options->interface[i] = json_string_value(json_array_get(interfaces, i));
    if (options->backend == BACKEND_GENERATOR && options->interfaces > 0)
        return fail(&request->failure, ERR_INVALID, "the generator has no interfaces to choose");
    if (options->backend != BACKEND_GENERATOR && options->interfaces == 0)
        return fail(&request->failure, ERR_INVALID, "which interface is to be recorded?");
    return 0;
}

/* A recording of one interface that stands: started, and kept in state.db. */
static int start_standing(struct request *request, const char *ring,
                          const struct recording_options *options, const json_t *params,
                          struct recording **recording)
{
    int code = recording_start(request->recorder, ring, options, recording, &request->failure);
    if (code != 0)
        return code;
    code = standing_keep(request->recorder, ring, params, &request->failure);
    if (code != 0) {
        recording_stop(*recording);
        (void)recording_wait(*recording, NULL, NULL);
        recording_release(recording);
    }
    return code;
}

static void undo_standing(struct request *request, const char *ring, const char *key,
                          struct recording **recording)
{
    (void)standing_drop(request->recorder, ring, key);
    recording_stop(*recording);
    (void)recording_wait(*recording, NULL, NULL);
    recording_release(recording);
}

/*
 * Recordings that nobody attends stand until they are stopped, across restarts: one for each
 * interface, so that one that goes away and comes back is no matter of the others. All are started
 * or none.
 */
static int start_all_standing(struct request *request, const char *ring,
                              const struct recording_options *options)
{
    struct recording *recording[RECORDING_INTERFACES_MAX] = {0};
    char *key[RECORDING_INTERFACES_MAX] = {0};
    uint32_t started = 0;
    int code = 0;
    while (started < options->interfaces && code == 0) {
        struct recording_options one = *options;
        json_t *params = json_deep_copy(request->params);
        json_object_set_new(params, "interfaces", json_pack("[s]", options->interface[started]));
        key[started] = params ? json_dumps(params, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
        one.interface[0] = options->interface[started];
        one.interfaces = 1;
        one.key = key[started];
        code = one.key ? start_standing(request, ring, &one, params, &recording[started])
                       : fail(&request->failure, ERR_NO_MEMORY, "out of memory");
        json_decref(params);
        if (code != 0)
            free(key[started]);
        else
            started++;
    }
    while (started > 0) {
        started--;
        if (code != 0)
            undo_standing(request, ring, key[started], &recording[started]);
        else
            recording_release(&recording[started]);
        free(key[started]);
    }
    return code;
}

int method_record_start(struct request *request, json_t **result)
{
    struct recording_options options = {0};
    struct recording *recording = NULL;
    const char *ring;
    bool is_attached = false;
    int code = request_string(request, "ring", true, &ring);
    if (code == 0)
        code = request_bool(request, "attach", &is_attached);
    if (code == 0)
        code = record_take_options(request, &options);
    if (code == 0)
        code =
            !is_attached && options.backend != BACKEND_GENERATOR && !request->recorder->session
                ? start_all_standing(request, ring, &options)
                : recording_start(request->recorder, ring, &options, &recording, &request->failure);
    if (code != 0 || !recording)
        return code;
    if (is_attached)
        code = attend(request, ring, recording, result);
    recording_release(&recording);
    return code;
}

int method_record_stop(struct request *request, json_t **result)
{
    const char *ring;
    struct account account;
    int code = request_string(request, "ring", true, &ring);
    if (code != 0)
        return code;
    /* First what would start it again. */
    int stood = standing_forget(request->recorder, ring, &request->failure);
    if (stood < 0)
        return stood;
    uint32_t stopped = recordings_stop(request->recorder, ring, &account, &request->failure);
    if (stopped == 0 && !stood)
        return fail(&request->failure, ERR_NOT_FOUND,
                    "nothing is being recorded into a ring \"%s\"", ring);
    if (request->failure.code != 0)
        return request->failure.code;
    *result =
        json_pack("{s:o, s:o, s:I, s:I, s:i}", "account", json_account(&account), "account_bytes",
                  json_account_bytes(&account), "stored_bytes", (json_int_t)account.stored_bytes,
                  "cut_packets", (json_int_t)account.cut_packets, "recordings", (int)stopped);
    return 0;
}

/* ---- interfaces
 * ------------------------------------------------------------------------------------ */

/* Megabits a second, 0 where the kernel does not know. */
static int speed_of(const char *name)
{
    char path[64 + IF_NAMESIZE], text[32];
    long speed = 0;
    snprintf(path, sizeof path, "/sys/class/net/%s/speed", name);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fgets(text, sizeof text, file))
        speed = strtol(text, NULL, 10);
    fclose(file);
    return speed > 0 && speed <= INT_MAX ? (int)speed : 0;
}

static json_t *json_interface(int fd, const char *name)
{
    struct network_interface interface;
    uint16_t link_type;
    if (network_interface_read(fd, name, &interface, NULL) != 0)
        return NULL; /* it has gone since it was listed */
    bool known = network_link_type(name, interface.hardware_type, &link_type, NULL) == 0;
    return json_pack("{s:o, s:b, s:o, s:I, s:i}", "name", json_text(name), "up", (int)interface.up,
                     "link_type", known ? json_integer(link_type) : json_null(), "mtu",
                     (json_int_t)interface.mtu, "speed_mbps", speed_of(name));
}

int method_interfaces(struct request *request, json_t **result)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct if_nameindex *names = fd >= 0 ? if_nameindex() : NULL;
    if (!names) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return fail_errno(&request->failure, number, "the interfaces cannot be listed");
    }
    json_t *interfaces = json_array();
    for (const struct if_nameindex *one = names; one->if_name; one++) {
        json_t *interface = json_interface(fd, one->if_name);
        if (interface)
            json_array_append_new(interfaces, interface);
    }
    if_freenameindex(names);
    close(fd);
    *result = json_pack("{s:o}", "interfaces", interfaces);
    return 0;
}
