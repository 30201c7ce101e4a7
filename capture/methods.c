/*
 * methods.c - the table of methods, and those that are small.
 */
#include "methods.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "answer_json.h"
#include "audit.h"
#include "recording.h"

#define FLUSH_MS 30000
#define STARTING_MS 1500 /* for rings that are coming up, before an answer calls them starting */
#define ANSWER_EVENTS_MAX 10000u
#define HISTORY_ROWS_MAX 500000u
#define HISTORY_STEP_MAX_S 86400u

static int method_hello(struct request *request, json_t **result)
{
    const struct recorder *recorder = request->recorder;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *result = json_pack("{s:i, s:s, s:i, s:o, s:I, s:b}", "version", CONTROL_VERSION, "tapeloop",
                        TAPELOOP_VERSION, "pid", (int)getpid(), "state",
                        json_text(recorder->directory), "uptime_s",
                        (json_int_t)now.tv_sec - (json_int_t)(recorder->began_ns / 1000000000u),
                        "session", (int)recorder->session);
    return *result ? 0 : fail(&request->failure, ERR_NO_MEMORY, "out of memory");
}

static int method_shutdown(struct request *request, json_t **result)
{
    (void)result;
    recorder_stop(request->recorder);
    return 0;
}

static const struct method {
    const char *name;
    const char *parameters;
    enum audit_kind audit;
    int (*run)(struct request *request, json_t **result);
} methods[] = {
    {"hello", "", AUDIT_NONE, method_hello},
    {"ring.create", "name disks copies slot_bytes force", AUDIT_CHANGE, method_ring_create},
    {"ring.list", "", AUDIT_NONE, method_ring_list},
    {"ring.show", "ring", AUDIT_NONE, method_ring_show},
    {"ring.set", "ring settings expected", AUDIT_CHANGE, method_ring_set},
    {"settings", "", AUDIT_NONE, method_settings},
    {"ring.delete", "ring wipe", AUDIT_CHANGE, method_ring_delete},
    {"ring.adopt", "disks name", AUDIT_CHANGE, method_ring_adopt},
    {"ring.rebuild", "ring", AUDIT_CHANGE, method_ring_rebuild},
    {"disk.list", "ring oldest", AUDIT_NONE, method_disk_list},
    {"disk.add", "ring disk force", AUDIT_CHANGE, method_disk_add},
    {"disk.remove", "ring disk forget", AUDIT_CHANGE, method_disk_remove},
    {"disk.resume", "ring disk force", AUDIT_CHANGE, method_disk_resume},
    {"disk.replace", "ring disk with force", AUDIT_CHANGE, method_disk_replace},
    {"disk.locate", "ring disk on", AUDIT_CHANGE, method_disk_locate},
    {"record.start",
     "ring interfaces backend snapshot_bytes buffer_bytes promiscuous outgoing attach generator",
     AUDIT_CHANGE, method_record_start},
    {"record.stop", "ring", AUDIT_CHANGE, method_record_stop},
    {"import", "ring names", AUDIT_CHANGE, method_import},
    {"estimate", "ring from_ns to_ns filter query", AUDIT_NONE, method_estimate},
    {"extract", "ring from_ns to_ns filter query format follow packets_max bytes_max seconds_max headers no_index",
     AUDIT_READING, method_extract},
    {"job.start",
     "ring from_ns to_ns filter query format packets_max bytes_max seconds_max headers no_index name expires_ns wait",
     AUDIT_READING, method_job_start},
    {"job.list", "ring", AUDIT_NONE, method_job_list},
    {"job.show", "job", AUDIT_NONE, method_job_show},
    {"job.cancel", "job user", AUDIT_CHANGE, method_job_cancel},
    {"job.delete", "job user", AUDIT_CHANGE, method_job_delete},
    {"job.fetch", "job", AUDIT_READING, method_job_fetch},
    {"purge", "ring from_ns to_ns filter dry_run give_up_away", AUDIT_READING, method_purge},
    {"verify", "ring repair", AUDIT_CHANGE, method_verify},
    {"flush", "ring", AUDIT_NONE, method_flush},
    {"status", "ring", AUDIT_NONE, method_status},
    {"history", "ring interface from_s to_s step_s", AUDIT_NONE, method_history},
    {"events", "after limit", AUDIT_NONE, method_events},
    {"interfaces", "", AUDIT_NONE, method_interfaces},
    {"apps", "", AUDIT_NONE, method_apps},
    {"rule.list", "ring", AUDIT_NONE, method_rule_list},
    {"rule.add", "ring rule at revision", AUDIT_CHANGE, method_rule_add},
    {"rule.set", "ring number rule revision", AUDIT_CHANGE, method_rule_set},
    {"rule.move", "ring number direction revision", AUDIT_CHANGE, method_rule_move},
    {"rule.delete", "ring number revision", AUDIT_CHANGE, method_rule_delete},
    {"rule.replace", "ring rules revision", AUDIT_CHANGE, method_rule_replace},
    {"rule.test", "ring rules from_ns to_ns name", AUDIT_NONE, method_rule_test},
    {"audit.note", "action detail outcome", AUDIT_NONE, method_audit_note},
    {"audit.list", "after limit", AUDIT_NONE, method_audit_list},
    {"audit.verify", "number hash", AUDIT_NONE, method_audit_verify},
    {"shutdown", "", AUDIT_CHANGE, method_shutdown},
};

int method_run(struct request *request, const char *name, json_t **result)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(methods[i].name, name) != 0)
            continue;
        const struct method *method = &methods[i];
        int code = request_check_names(request, method->parameters);
        if (code == 0)
            code = audit_begin(request, method->audit, name);
        if (code != 0)
            return code;
        code = method->run(request, result);
        audit_end(request, method->audit, name, code, *result);
        return code;
    }
    return fail(&request->failure, ERR_UNSUPPORTED, "this recorder has no such method");
}

/* ---- answers about rings
 * --------------------------------------------------------------------------- */

/* Calls `append` for one ring (name) or all (null), with what it appends to. */
static int for_rings(struct request *request, const char *name, json_t *array,
                     int (*append)(const struct ring_look *look, json_t *array,
                                   struct failure *failure))
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_look *looks;
    uint32_t count;
    ring_registry_wait(registry, STARTING_MS);
    int code = ring_registry_look(registry, name, &looks, &count, &request->failure);
    if (code != 0)
        return code;
    for (uint32_t i = 0; i < count && code == 0; i++)
        code = append(&looks[i], array, &request->failure);
    ring_registry_look_away(registry, &looks, count);
    return code;
}

static int append_ring(const struct ring_look *look, json_t *array, struct failure *failure)
{
    json_t *ring = NULL;
    int code = json_ring(look, &ring, failure);
    if (code == 0)
        json_array_append_new(array, ring);
    return code;
}

static int append_whole_ring(const struct ring_look *look, json_t *array, struct failure *failure)
{
    json_t *ring = NULL;
    int code = json_ring_whole(look, &ring, failure);
    if (code == 0)
        json_array_append_new(array, ring);
    return code;
}

static int append_status(const struct ring_look *look, json_t *array, struct failure *failure)
{
    json_t *status = NULL;
    int code = json_ring_status(look, &status, failure);
    if (code != 0)
        return code;
    json_t *recordings = json_array();
    recordings_describe(look->entry->recorder, look->entry->row.name, recordings);
    json_object_set_new(status, "recordings", recordings);
    json_array_append_new(array, status);
    return 0;
}

int method_ring_list(struct request *request, json_t **result)
{
    json_t *rings = json_array();
    return json_answer_array(for_rings(request, NULL, rings, append_ring), rings, "rings", result);
}

int method_ring_show(struct request *request, json_t **result)
{
    const char *name;
    int code = request_string(request, "ring", true, &name);
    if (code != 0)
        return code;
    json_t *rings = json_array();
    code = for_rings(request, name, rings, append_whole_ring);
    if (code == 0)
        *result = json_incref(json_array_get(rings, 0));
    json_decref(rings);
    return code;
}

int method_disk_list(struct request *request, json_t **result)
{
    const char *name = NULL;
    bool oldest = false;
    int code = request_string(request, "ring", false, &name);
    if (code == 0)
        code = request_bool(request, "oldest", &oldest);
    if (code != 0)
        return code;
    json_t *disks = json_array();
    return json_answer_array(
        for_rings(request, name, disks, oldest ? json_append_disks_oldest : json_append_disks),
        disks, "disks", result);
}

int method_status(struct request *request, json_t **result)
{
    const char *name = NULL;
    json_t *recorder = NULL;
    int code = request_string(request, "ring", false, &name);
    if (code == 0)
        code = method_hello(request, &recorder);
    if (code != 0)
        return code;
    json_t *rings = json_array();
    code = json_answer_array(for_rings(request, name, rings, append_status), rings, "rings", result);
    json_object_set_new(recorder, "catalog_stale",
                        json_boolean(catalog_stale(request->recorder->catalog)));
    json_object_set_new(recorder, "layer7", json_layer7(request->recorder));
    if (code == 0)
        json_object_set(*result, "recorder", recorder);
    json_decref(recorder);
    return code;
}

int method_flush(struct request *request, json_t **result)
{
    const char *name;
    struct ring_entry *entry;
    struct ring_registry *registry = &request->recorder->registry;
    (void)result;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = ring_registry_use(registry, name, &entry, &request->failure);
    if (code != 0)
        return code;
    code = ring_flush(entry->ring, FLUSH_MS);
    ring_registry_release(registry, &entry);
    return code == 0
               ? 0
               : fail(&request->failure, code, "ring %s: not everything has become durable: %s",
                      name,
                      code == ERR_TIMEOUT ? "a disk is slow or has failed" : error_text(code));
}

/* ---- history and events
 * ---------------------------------------------------------------------------- */

struct rows {
    json_t *array;
    uint32_t count;
    int64_t step_s; /* 0: every row for itself */
    struct history_row sum; /* of the step that is being summed up, and of all interfaces */
    bool summing;
};

static int append_row(const struct history_row *row, struct rows *rows)
{
    if (rows->count++ == HISTORY_ROWS_MAX)
        return ERR_TOO_LARGE;
    json_t *object = json_account(&row->change);
    json_object_set_new(object, "second", json_integer((json_int_t)row->second));
    json_object_set_new(object, "interface", json_text(row->interface));
    json_object_set_new(object, "stored_bytes", json_integer((json_int_t)row->change.stored_bytes));
    json_object_set_new(object, "cut_packets", json_integer((json_int_t)row->change.cut_packets));
    json_object_set_new(object, "bytes", json_account_bytes(&row->change));
    return json_array_append_new(rows->array, object) == 0 ? 0 : ERR_NO_MEMORY;
}

static int append_sum(struct rows *rows)
{
    int code = rows->summing ? append_row(&rows->sum, rows) : 0;
    rows->summing = false;
    return code;
}

/* Rows come in the order of time: a step is whole when the next one begins. */
static int append_history(const struct history_row *row, void *context)
{
    struct rows *rows = context;
    if (rows->step_s == 0)
        return append_row(row, rows);
    int64_t rest = row->second % rows->step_s;
    int64_t second = row->second - (rest < 0 ? rest + rows->step_s : rest);
    int code = second != rows->sum.second ? append_sum(rows) : 0;
    if (code != 0)
        return code;
    if (!rows->summing)
        rows->sum = (struct history_row){.second = second};
    rows->summing = true;
    account_add(&rows->sum.change, &row->change);
    return 0;
}

int method_history(struct request *request, json_t **result)
{
    const char *name, *interface = NULL;
    int64_t from = INT64_MIN, to = INT64_MAX;
    uint64_t step_s = 0;
    struct ring_look *looks;
    uint32_t count;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = request_string(request, "interface", false, &interface);
    if (code == 0)
        code = request_count(request, "step_s", 0, HISTORY_STEP_MAX_S, &step_s);
    if (code == 0)
        code = request_time(request, "from_s", &from);
    if (code == 0)
        code = request_time(request, "to_s", &to);
    if (code == 0)
        code = ring_registry_look(&request->recorder->registry, name, &looks, &count,
                                  &request->failure);
    if (code != 0)
        return code;
    struct identity ring = looks[0].entry->row.ring;
    ring_registry_look_away(&request->recorder->registry, &looks, count);
    struct rows rows = {.array = json_array(), .step_s = (int64_t)step_s};
    code =
        state_history(request->recorder->state, &ring, interface, from, to, append_history, &rows);
    if (code == 0)
        code = append_sum(&rows);
    if (code == ERR_TOO_LARGE)
        fail(&request->failure, code, "more than %u rows: ask for a shorter time",
             HISTORY_ROWS_MAX);
    else if (code != 0)
        fail(&request->failure, code, "the history cannot be read: %s", error_text(code));
    return json_answer_array(code, rows.array, "rows", result);
}

static int append_event(const struct event *event, void *context)
{
    json_t *object = json_pack("{s:I, s:s, s:s, s:s, s:o}", "number", (json_int_t)event->number,
                               "severity", event->severity, "kind", event->kind, "ring",
                               event->ring, "text", json_text(event->text));
    json_set_time(object, "time", event->time_ns, true);
    return json_array_append_new(context, object) == 0 ? 0 : ERR_NO_MEMORY;
}

int method_events(struct request *request, json_t **result)
{
    uint64_t after = 0, limit = 100;
    int code = request_count(request, "after", 0, INT64_MAX, &after);
    if (code == 0)
        code = request_count(request, "limit", 1, ANSWER_EVENTS_MAX, &limit);
    if (code != 0)
        return code;
    json_t *events = json_array();
    code = state_events(request->recorder->state, after, (uint32_t)limit, append_event, events);
    if (code != 0)
        fail(&request->failure, code, "the events cannot be read: %s", error_text(code));
    return json_answer_array(code, events, "events", result);
}
