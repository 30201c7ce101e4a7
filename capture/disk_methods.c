/*
 * disk_methods.c - the first disk of a ring that was made without one, and the lamp of a disk's slot.
 *
 * Such a ring is claimed: its first disk makes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer_json.h"
#include "disk_life.h"
#include "disk_rows.h"
#include "event_log.h"
#include "methods.h"
#include "new_disk.h"
#include "ring_opening.h"
#include "text.h"

/* A verb on its way, on a thread of its own. */
struct verb {
    struct recorder *recorder;
    struct ring_entry *entry;
    const char *ring;
    struct new_disk new_disk;
    bool force;
    struct state_disk row; /* of the disk that came or went */
    struct recovery_report report;
    struct failure failure;
    atomic_bool cancel;
};

static void verb_cancel(void *context)
{
    atomic_store(&((struct verb *)context)->cancel, true);
}

static json_t *verb_progress(void *context)
{
    const struct verb *verb = context;
    return json_pack("{s:I, s:I}", "slots_done", (json_int_t)atomic_load(&verb->entry->slots_done),
                     "slots_total", (json_int_t)atomic_load(&verb->entry->slots_total));
}

static int state_of_ring(struct request *request, const char *name, enum ring_entry_state *state)
{
    struct ring_look *looks;
    uint32_t count;
    int code = ring_registry_look(&request->recorder->registry, name, &looks, &count,
                                  &request->failure);
    if (code != 0)
        return code;
    *state = looks[0].state;
    ring_registry_look_away(&request->recorder->registry, &looks, count);
    return 0;
}

/* ---- add ---------------------------------------------------------------------------------------- */

static void fill_row(struct verb *verb, uint8_t state)
{
    verb->row = (struct state_disk){
        .disk = verb->new_disk.identity,
        .ring = verb->entry->row.ring,
        .bytes = verb->new_disk.disk_bytes,
        .state = state,
    };
    memcpy(verb->row.path, verb->new_disk.path, sizeof verb->row.path);
}

/* The entry is ours. */
static int make_first(struct verb *verb)
{
    struct ring_entry *entry = verb->entry;
    struct new_disk *disk = &verb->new_disk;
    struct failure *failure = &verb->failure;
    struct state_ring row = entry->row;
    int result = ring_stored_settings(entry, &entry->settings, failure);
    if (result == 0)
        result = new_disk_create(disk, verb->force, failure);
    if (result != 0)
        return result;
    disk->written = true;
    result = ring_format_disks(&row.ring, row.name, row.copies, row.slot_bytes, &disk->disk, 1,
                               &disk->identity, &row.slot_bytes, failure);
    disk->disk_bytes = disk->disk->bytes;
    if (result == 0) {
        fill_row(verb, DISK_ACTIVE);
        result = state_put_ring(verb->recorder->state, &row);
        if (result != 0)
            fail(failure, result, "state.db could not be written: %s", error_text(result));
    }
    if (result == 0)
        result = disk_row_put(verb->recorder, &verb->row, failure);
    if (result == 0) {
        entry->cancel = &verb->cancel;
        result = ring_entry_open_disks(entry, &disk->disk, 1, &verb->report, failure);
        entry->cancel = NULL;
    }
    if (result != 0) {
        (void)state_delete_disk(verb->recorder->state, &verb->row.disk);
        (void)state_put_ring(verb->recorder->state, &entry->row);
        new_disk_undo(disk);
        return result;
    }
    ring_registry_set_slot_bytes(&verb->recorder->registry, entry, row.slot_bytes);
    entry->empty = false;
    disk_note_take(verb->recorder, &verb->row, ring_entry_generation(entry, &verb->row.disk));
    return 0;
}

static int first_work(void *context)
{
    return make_first(context);
}

static int add_first(struct request *request, struct verb *verb)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct failure empty;
    int code = ring_registry_claim(registry, verb->ring, &verb->entry, &request->failure);
    if (code != 0)
        return code;
    if (verb->entry->ring || !verb->entry->empty) { /* somebody was faster */
        empty = verb->entry->failure;
        ring_registry_settle(registry, verb->entry, &empty);
        return fail(&request->failure, ERR_BUSY, "ring %s is being changed at the moment",
                    verb->ring);
    }
    code = request_background(request, first_work, verb_progress, verb_cancel, verb);
    if (code != 0 && verb->failure.code != 0)
        request->failure = verb->failure;
    ring_entry_say_empty(verb->entry, &empty);
    ring_registry_settle(registry, verb->entry, &empty);
    return code;
}

/* The row as state.db has it now, with the number that it was given. */
static int answer_disk(struct request *request, const struct verb *verb, json_t **result)
{
    char id[IDENTITY_TEXT_SIZE];
    struct state_disk row;
    struct failure none;
    identity_text(&verb->row.disk, id);
    if (disk_row_find(request->recorder, &verb->row.ring, id, &row, &none) != 0)
        row = verb->row;
    *result = json_pack("{s:{s:s, s:i, s:s, s:o, s:I, s:s}, s:o}", "disk", "ring", verb->ring,
                        "number", (int)row.number, "id", id, "path", json_text(row.path), "bytes",
                        (json_int_t)row.bytes, "state",
                        disk_state_name((enum disk_state)row.state), "report",
                        json_report(&verb->report));
    return *result ? 0 : fail(&request->failure, ERR_NO_MEMORY, "out of memory");
}

int method_disk_add(struct request *request, json_t **result)
{
    struct verb verb = {.recorder = request->recorder};
    enum ring_entry_state state;
    int code = request_string(request, "ring", true, &verb.ring);
    if (code == 0)
        code = request_bool(request, "force", &verb.force);
    if (code == 0)
        code = state_of_ring(request, verb.ring, &state);
    if (code == 0)
        code = new_disk_take(request, json_object_get(request->params, "disk"), &verb.new_disk);
    if (code == 0)
        code = state == RING_EMPTY
                   ? add_first(request, &verb)
                   : fail(&request->failure, ERR_UNSUPPORTED,
                          "this version gives a ring its first disk only, and %s has one", verb.ring);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "disk-added", verb.ring, "disk %.200s is added: the ring is ready to record",
                  verb.row.path);
    return answer_disk(request, &verb, result);
}

/* ---- locate ------------------------------------------------------------------------------------- */

int method_disk_locate(struct request *request, json_t **result)
{
    struct state_disk row;
    const char *word;
    bool on = false;
    (void)result;
    int code = request_string(request, "disk", true, &word);
    if (code == 0)
        code = request_bool(request, "on", &on);
    if (code == 0)
        code = disk_row_find(request->recorder, NULL, word, &row, &request->failure);
    return code == 0 ? device_locate(row.path, on, &request->failure) : code;
}
