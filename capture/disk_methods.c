/*
 * disk_methods.c - disks of a ring while it records: added, removed, resumed, replaced, shown.
 *
 * A verb uses the ring as a job does, so that nobody deletes it meanwhile, and holds its members_lock while members change. Rows of state.db
 * are written before a disk joins (FRESH) and after (ACTIVE): after a crash between the two the disk is opened like any other, for
 * what makes it a member is its superblock.
 *
 * A ring without a disk is claimed instead: its first disk makes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer_json.h"
#include "disk_care.h"
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
    const char *word;         /* the disk that is meant */
    struct new_disk new_disk; /* add, replace */
    bool force;
    bool forget;
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

/* The rings that are up are used for the time of `work`. */
static int run_on_ring(struct request *request, struct verb *verb, int (*work)(void *context))
{
    struct ring_registry *registry = &request->recorder->registry;
    int code = ring_registry_use(registry, verb->ring, &verb->entry, &request->failure);
    if (code != 0)
        return code;
    code = request_background(request, work, verb_progress, verb_cancel, verb);
    if (code != 0 && verb->failure.code != 0)
        request->failure = verb->failure;
    ring_registry_release(registry, &verb->entry);
    return code;
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

static int identity_of_ring(struct request *request, const char *name, struct identity *ring)
{
    struct ring_look *looks;
    uint32_t count;
    int code = ring_registry_look(&request->recorder->registry, name, &looks, &count,
                                  &request->failure);
    if (code != 0)
        return code;
    *ring = looks[0].entry->row.ring;
    ring_registry_look_away(&request->recorder->registry, &looks, count);
    return 0;
}

static int out_of_memory(struct verb *verb)
{
    return fail(&verb->failure, ERR_NO_MEMORY, "out of memory");
}

/* ---- add ---------------------------------------------------------------------------------------- */

/* A disk with packets of this very ring is more likely meant to be resumed than to be emptied. */
static int refuse_own(struct verb *verb)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return out_of_memory(verb);
    struct state_disk row;
    char id[IDENTITY_TEXT_SIZE];
    int result = 0;
    bool ours = disk_peek(verb->new_disk.path, superblock, NULL) == 0 &&
                identity_equal(&superblock->ring, &verb->entry->row.ring);
    bool known = ours && disk_row_find(verb->recorder, &verb->entry->row.ring,
                                       identity_text(&superblock->disk, id), &row, NULL) == 0;
    if (known && disk_life_is_read((enum disk_state)row.state))
        result = fail(&verb->failure, ERR_EXISTS, "%s is disk %u of this ring already",
                      verb->new_disk.path, row.number);
    else if (ours && !verb->force)
        result = fail(&verb->failure, ERR_FOREIGN,
                      "%s is a disk of this ring and holds packets of it: tapeloop disk resume %s %s "
                      "takes it up again (--force empties it)",
                      verb->new_disk.path, verb->entry->row.name, verb->new_disk.path);
    free(superblock);
    return result;
}

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

/* Under members_lock: the disk is there, and becomes a member. */
static int join_new(struct verb *verb)
{
    struct new_disk *disk = &verb->new_disk;
    struct failure *failure = &verb->failure;
    struct ring *ring = verb->entry->ring;
    uint32_t number;
    int result = ring_disk_format(ring, &disk->disk, &disk->identity, failure);
    if (result == 0) {
        fill_row(verb, DISK_FRESH);
        result = disk_row_put(verb->recorder, &verb->row, failure);
    }
    if (result == 0) {
        result = ring_disk_join(ring, &disk->disk, &verb->report, &number, failure);
        if (result != 0)
            (void)state_delete_disk(verb->recorder->state, &verb->row.disk);
    }
    if (result != 0)
        return result;
    verb->row.state = DISK_ACTIVE;
    result = disk_row_put(verb->recorder, &verb->row, failure);
    disk_care_note(verb->entry);
    return result;
}

/* Making a disk, and unmaking it when something goes wrong, can take long, or for ever where it hangs: that holds up nobody else. */
static int add_disk(struct verb *verb)
{
    struct new_disk *disk = &verb->new_disk;
    int result = refuse_own(verb);
    if (result == 0)
        result = new_disk_create(disk, verb->force, &verb->failure);
    if (result != 0)
        return result;
    disk->written = true;
    disk->disk_bytes = disk->disk->bytes;
    pthread_mutex_lock(&verb->entry->members_lock);
    result = join_new(verb);
    pthread_mutex_unlock(&verb->entry->members_lock);
    if (result != 0 && verb->row.state != DISK_ACTIVE)
        new_disk_undo(disk);
    return result;
}

static int add_work(void *context)
{
    return add_disk(context);
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
    disk_care_note(entry);
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
        code = state == RING_EMPTY ? add_first(request, &verb)
                                   : run_on_ring(request, &verb, add_work);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "disk-added", verb.ring, "disk %.200s is added%s",
                  verb.row.path, state == RING_EMPTY ? ": the ring is ready to record" : "");
    return answer_disk(request, &verb, result);
}

/* ---- remove ------------------------------------------------------------------------------------- */

static int find_row(struct verb *verb)
{
    return disk_row_find(verb->recorder, &verb->entry->row.ring, verb->word, &verb->row,
                         &verb->failure);
}

/* Under members_lock. */
static int remove_disk(struct verb *verb)
{
    struct state_disk *row = &verb->row;
    int result = find_row(verb);
    if (result != 0)
        return result;
    if (row->state == DISK_REMOVED && !verb->forget)
        return fail(&verb->failure, ERR_EXISTS,
                    "disk %u (%.200s) is removed already (--forget takes it off the list)",
                    row->number, row->path);
    if (row->state != DISK_REMOVED) {
        result = disk_care_take_out(verb->entry, row, DISK_REMOVED, &verb->failure);
        if (result != 0 && result != ERR_TIMEOUT)
            return result;
        row->state = DISK_REMOVED; /* also where it is closed later */
        struct failure unwritten = {0};
        int written = disk_row_put(verb->recorder, row, &unwritten);
        if (result == 0 && written != 0) {
            result = written;
            verb->failure = unwritten;
        }
    }
    if (result == 0 && verb->forget) {
        disk_note_forget(verb->recorder, row);
        result = state_delete_disk(verb->recorder->state, &row->disk);
        if (result != 0)
            fail(&verb->failure, result, "state.db could not be written: %s", error_text(result));
    }
    return result;
}

static int remove_work(void *context)
{
    struct verb *verb = context;
    pthread_mutex_lock(&verb->entry->members_lock);
    int result = remove_disk(verb);
    pthread_mutex_unlock(&verb->entry->members_lock);
    return result;
}

int method_disk_remove(struct request *request, json_t **result)
{
    struct verb verb = {.recorder = request->recorder};
    int code = request_string(request, "ring", true, &verb.ring);
    if (code == 0)
        code = request_string(request, "disk", true, &verb.word);
    if (code == 0)
        code = request_bool(request, "forget", &verb.forget);
    if (code == 0)
        code = run_on_ring(request, &verb, remove_work);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "disk-removed", verb.ring,
                  "disk %u (%.200s) is removed; its packets stay on it%s", verb.row.number,
                  verb.row.path, verb.forget ? ", and it is forgotten" : "");
    return answer_disk(request, &verb, result);
}

/* ---- resume ------------------------------------------------------------------------------------- */

static bool looks_like_path(const char *word)
{
    return word[0] == '/';
}

/*
 * The row of the disk that is meant. A path that no row has is looked at: a disk that was moved, or forgotten,
 * says itself who it is.
 */
static int find_resumed(struct verb *verb, const struct identity *ring, const char *name)
{
    char id[IDENTITY_TEXT_SIZE];
    int result = disk_row_find(verb->recorder, ring, verb->word, &verb->row, &verb->failure);
    if (result != ERR_NOT_FOUND || !looks_like_path(verb->word) ||
        strlen(verb->word) >= sizeof verb->row.path)
        return result;
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return out_of_memory(verb);
    result = disk_peek(verb->word, superblock, &verb->failure);
    if (result == 0 && !identity_equal(&superblock->ring, ring))
        result = fail(&verb->failure, ERR_MISMATCH,
                      "%s is a disk of another ring (\"%s\"), not of %s", verb->word,
                      superblock->ring_name, name);
    if (result == 0 &&
        disk_row_find(verb->recorder, ring, identity_text(&superblock->disk, id), &verb->row,
                      NULL) != 0)
        verb->row = (struct state_disk){.disk = superblock->disk,
                                        .ring = *ring,
                                        .bytes = le64_get(superblock->disk_bytes),
                                        .state = DISK_REMOVED};
    if (result == 0)
        memcpy(verb->row.path, verb->word, strlen(verb->word) + 1);
    free(superblock);
    return result;
}

static int resume_work(void *context)
{
    struct verb *verb = context;
    struct ring_entry *entry = verb->entry;
    pthread_mutex_lock(&entry->members_lock);
    int result = find_resumed(verb, &entry->row.ring, entry->row.name);
    if (result == 0)
        result = disk_care_take_in(entry, &verb->row, verb->force, &verb->report, &verb->failure);
    pthread_mutex_unlock(&entry->members_lock);
    return result;
}

static int reopen_work(void *context)
{
    struct verb *verb = context;
    verb->entry->cancel = &verb->cancel;
    int result = ring_entry_open(verb->entry, &verb->failure);
    verb->entry->cancel = NULL;
    return result;
}

/* A ring that is down for want of disks: with this one it may come up. */
static int resume_down(struct request *request, struct verb *verb)
{
    struct ring_registry *registry = &request->recorder->registry;
    int code = ring_registry_claim(registry, verb->ring, &verb->entry, &request->failure);
    if (code != 0)
        return code;
    struct failure why = verb->entry->failure;
    if (!verb->entry->ring) {
        code = find_resumed(verb, &verb->entry->row.ring, verb->ring);
        if (code == 0) {
            verb->row.state = DISK_MISSING;
            code = disk_row_put(verb->recorder, &verb->row, &verb->failure);
        }
        if (code == 0) {
            code = request_background(request, reopen_work, verb_progress, verb_cancel, verb);
            why = verb->failure;
            verb->row.state = DISK_ACTIVE;
        }
    }
    if (code != 0 && verb->failure.code != 0)
        request->failure = verb->failure;
    ring_registry_settle(registry, verb->entry, &why);
    return code;
}

int method_disk_resume(struct request *request, json_t **result)
{
    struct verb verb = {.recorder = request->recorder};
    enum ring_entry_state state;
    char text[REPORT_TEXT_SIZE];
    int code = request_string(request, "ring", true, &verb.ring);
    if (code == 0)
        code = request_string(request, "disk", true, &verb.word);
    if (code == 0)
        code = request_bool(request, "force", &verb.force);
    if (code == 0)
        code = state_of_ring(request, verb.ring, &state);
    if (code == 0)
        code = state == RING_FAILED || state == RING_EMPTY
                   ? resume_down(request, &verb)
                   : run_on_ring(request, &verb, resume_work);
    if (code != 0)
        return code;
    recovery_report_text(&verb.report, text);
    event_log_say(request->recorder->events, "info", "disk-resumed", verb.ring,
                  "disk %.200s is part of the ring again%s%s", verb.row.path, text[0] ? ": " : "",
                  text);
    return answer_disk(request, &verb, result);
}

/* ---- replace ------------------------------------------------------------------------------------ */

/* The new one first: the ring is never with fewer disks than before. */
static int replace_work(void *context)
{
    struct verb *verb = context;
    struct verb old = {.recorder = verb->recorder,
                       .entry = verb->entry,
                       .word = verb->word};
    int result = find_row(&old);
    if (result == 0 && old.row.state == DISK_REMOVED)
        result = fail(&old.failure, ERR_EXISTS, "disk %u (%.200s) is removed already: add the new one",
                      old.row.number, old.row.path);
    if (result != 0)
        verb->failure = old.failure;
    else
        result = add_disk(verb);
    if (result == 0) {
        char id[IDENTITY_TEXT_SIZE]; /* whatever the new disk may be called */
        old.word = identity_text(&old.row.disk, id);
        result = remove_work(&old);
        if (result != 0)
            fail(&verb->failure, result, "%.200s is added, but disk %u could not be removed: %.200s",
                 verb->row.path, old.row.number, old.failure.text);
    }
    return result;
}

int method_disk_replace(struct request *request, json_t **result)
{
    struct verb verb = {.recorder = request->recorder};
    int code = request_string(request, "ring", true, &verb.ring);
    if (code == 0)
        code = request_string(request, "disk", true, &verb.word);
    if (code == 0)
        code = request_bool(request, "force", &verb.force);
    if (code == 0)
        code = new_disk_take(request, json_object_get(request->params, "with"), &verb.new_disk);
    if (code == 0)
        code = run_on_ring(request, &verb, replace_work);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "disk-replaced", verb.ring,
                  "disk \"%.100s\" is replaced by %.200s", verb.word, verb.row.path);
    return answer_disk(request, &verb, result);
}

/* ---- locate ------------------------------------------------------------------------------------- */

int method_disk_locate(struct request *request, json_t **result)
{
    struct state_disk row;
    struct identity ring;
    const char *word, *name = NULL;
    bool on = false;
    (void)result;
    int code = request_string(request, "disk", true, &word);
    if (code == 0)
        code = request_string(request, "ring", false, &name);
    if (code == 0)
        code = request_bool(request, "on", &on);
    if (code == 0 && name)
        code = identity_of_ring(request, name, &ring);
    if (code == 0)
        code = disk_row_find(request->recorder, name ? &ring : NULL, word, &row, &request->failure);
    return code == 0 ? device_locate(row.path, on, &request->failure) : code;
}
