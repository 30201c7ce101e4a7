/*
 * ring_methods.c - making, adopting, changing and deleting rings.
 *
 * Whoever changes a ring owns its entry in the registry meanwhile. What goes wrong half-way is
 * undone in reverse: afterwards disks, files and state.db are as they were before.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "answer_json.h"
#include "catalog_care.h"
#include "clock.h"
#include "disk_rows.h"
#include "event_log.h"
#include "job_row.h"
#include "mending.h"
#include "purging.h"
#include "methods.h"
#include "new_disk.h"
#include "ring_opening.h"
#include "superblock.h"
#include "text.h"

/* ---- what create and adopt have in common
 * ------------------------------------------------------------ */

/* A ring that is being made, on a thread of its own. */
struct making {
    struct recorder *recorder;
    struct state_ring row;
    struct new_disk *disk;
    uint32_t disks;
    bool force;
    const char *name; /* adopt: null keeps the ring's own */
    struct ring_entry *entry;
    struct recovery_report report;
    struct failure failure;
    atomic_bool cancel;
};

static int check_disks(struct request *request, const json_t *disks, struct making *making)
{
    size_t count = json_is_array(disks) ? json_array_size(disks) : 0;
    if (disks && !json_is_array(disks) && !json_is_null(disks))
        return fail(&request->failure, ERR_INVALID, "parameter disks: expected a list");
    if (count > RING_DISKS_MAX)
        return fail(&request->failure, ERR_INVALID, "a ring has at most %u disks", RING_DISKS_MAX);
    making->disk = calloc(count + 1, sizeof *making->disk);
    if (!making->disk) {
        fail(&request->failure, ERR_NO_MEMORY, "out of memory");
        return ERR_NO_MEMORY;
    }
    making->disks = (uint32_t)count;
    return 0;
}

static int check_same_paths(struct request *request, const struct making *making)
{
    for (uint32_t i = 0; i < making->disks; i++)
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(making->disk[i].path, making->disk[k].path) == 0)
                return fail(&request->failure, ERR_INVALID, "disk %s is given twice",
                            making->disk[i].path);
    return 0;
}

static void making_cancel(void *context)
{
    atomic_store(&((struct making *)context)->cancel, true);
}

static bool cancelled(const struct making *making)
{
    return atomic_load(&making->cancel) || recorder_stopping(making->recorder);
}

/* state.db: the ring and its disks, numbered in the order given. */
static int write_rows(struct making *making)
{
    struct state *state = making->recorder->state;
    int result = state_put_ring(state, &making->row);
    for (uint32_t i = 0; i < making->disks && result == 0; i++) {
        struct state_disk row = {
            .disk = making->disk[i].identity,
            .ring = making->row.ring,
            .bytes = making->disk[i].disk_bytes,
            .state = DISK_ACTIVE,
        };
        memcpy(row.path, making->disk[i].path, sizeof row.path);
        result = state_put_disk(state, &row);
    }
    return result == 0 ? 0
                       : fail(&making->failure, result, "state.db could not be written: %s",
                              error_text(result));
}

/* Hands the disks to the ring. They are gone from `making` in every case. */
static int bring_up(struct making *making)
{
    making->entry->cancel = &making->cancel;
    struct disk **disk = calloc(making->disks + 1, sizeof(struct disk *));
    if (!disk)
        return fail(&making->failure, ERR_NO_MEMORY, "out of memory");
    for (uint32_t i = 0; i < making->disks; i++) {
        disk[i] = making->disk[i].disk;
        making->disk[i].disk = NULL;
    }
    int result = ring_entry_open_disks(making->entry, disk, making->disks, &making->report,
                                       &making->failure);
    free(disk);
    making->entry->cancel = NULL;
    return result;
}

/* ---- create
 * --------------------------------------------------------------------------------------- */

static int format_disks(struct making *making)
{
    struct disk **disk = calloc(making->disks + 1, sizeof(struct disk *));
    struct identity *identity = calloc(making->disks + 1, sizeof *identity);
    int result = ERR_NO_MEMORY;
    if (disk && identity) {
        for (uint32_t i = 0; i < making->disks; i++) {
            disk[i] = making->disk[i].disk;
            making->disk[i].written = true;
        }
        result = ring_format_disks(&making->row.ring, making->row.name, making->row.copies,
                                   making->row.slot_bytes, disk, making->disks, identity,
                                   &making->row.slot_bytes, &making->failure);
        for (uint32_t i = 0; i < making->disks; i++) {
            making->disk[i].identity = identity[i];
            making->disk[i].disk_bytes = disk[i]->bytes;
        }
    } else {
        fail(&making->failure, result, "out of memory");
    }
    free(disk);
    free(identity);
    return result;
}

/* What is known of the hardware of the disks, for when they are looked for. */
static void note_disks(struct making *making)
{
    for (uint32_t i = 0; i < making->disks; i++) {
        struct state_disk row = {.disk = making->disk[i].identity, .ring = making->row.ring};
        memcpy(row.path, making->disk[i].path, sizeof row.path);
        disk_note_take(making->recorder, &row,
                       ring_entry_generation(making->entry, &making->disk[i].identity));
    }
}

/* A ring without a disk: a name, for disks to come. */
static int create_empty(struct making *making)
{
    struct ring_registry *registry = &making->recorder->registry;
    struct failure empty;
    int result = write_rows(making);
    if (result != 0) {
        ring_registry_remove(registry, &making->entry);
        return result;
    }
    making->entry->empty = true;
    ring_entry_say_empty(making->entry, &empty);
    ring_registry_settle(registry, making->entry, &empty);
    return 0;
}

static int create_work(void *context)
{
    struct making *making = context;
    struct recorder *recorder = making->recorder;
    int result = ring_registry_add(&recorder->registry, recorder, &making->row, RING_CHANGING,
                                   &making->entry, &making->failure);
    if (result != 0)
        return result;
    if (result == 0 && making->disks == 0)
        return create_empty(making);
    for (uint32_t i = 0; i < making->disks && result == 0; i++)
        result = cancelled(making) ? fail(&making->failure, ERR_INTERRUPTED, "interrupted")
                                   : new_disk_create(&making->disk[i], making->force,
                                                     &making->failure);
    if (result == 0)
        result = format_disks(making);
    if (result == 0)
        result = write_rows(making);
    if (result == 0) {
        ring_registry_set_slot_bytes(&recorder->registry, making->entry, making->row.slot_bytes);
        result = bring_up(making);
    }
    if (result == 0) {
        note_disks(making);
        ring_registry_settle(&recorder->registry, making->entry, NULL);
        return 0;
    }
    (void)state_delete_ring(recorder->state, &making->row.ring);
    catalog_care_forget(recorder, &making->row.ring);
    for (uint32_t i = 0; i < making->disks; i++)
        new_disk_undo(&making->disk[i]);
    ring_registry_remove(&recorder->registry, &making->entry);
    return result;
}

int method_ring_create(struct request *request, json_t **result)
{
    struct making making = {.recorder = request->recorder};
    const char *name;
    uint64_t copies = 1;
    const json_t *disks = json_object_get(request->params, "disks");
    int code = request_string(request, "name", true, &name);
    if (code == 0)
        code = text_check_ring_name(name, &request->failure);
    if (code == 0)
        code = request_count(request, "copies", 1, COPIES_MAX, &copies);
    if (code == 0)
        code = request_count(request, "slot_bytes", 0, SLOT_BYTES_MAX, &making.row.slot_bytes);
    if (code == 0)
        code = request_bool(request, "force", &making.force);
    if (code == 0)
        code = check_disks(request, disks, &making);
    for (uint32_t i = 0; code == 0 && i < making.disks; i++)
        code = new_disk_take(request, json_array_get(disks, i), &making.disk[i]);
    if (code == 0)
        code = check_same_paths(request, &making);
    if (code == 0 && making.disks == 0 && copies > 1)
        code = fail(&request->failure, ERR_INVALID,
                    "%u copies need %u disks, and there is none yet: add disks first, then "
                    "tapeloop ring set %s copies=%u",
                    (unsigned)copies, (unsigned)copies, name, (unsigned)copies);
    if (code == 0 && making.disks > 0 && copies > making.disks)
        code = fail(&request->failure, ERR_INVALID,
                    "%u copies need %u disks, each copy on another one; there are %u",
                    (unsigned)copies, (unsigned)copies, making.disks);
    if (code == 0) {
        identity_make(&making.row.ring);
        memcpy(making.row.name, name, strlen(name) + 1);
        making.row.copies = (uint8_t)copies;
        making.row.created_ns = clock_realtime_ns();
        code = request_background(request, create_work, NULL, making_cancel, &making);
        if (code != 0 && making.failure.code != 0)
            request->failure = making.failure;
    }
    free(making.disk);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "ring-created", name, "created%s",
                  making.disks == 0 ? ", without a disk: it records nothing yet" : "");
    return json_answer_ring(request, name, result);
}

/* ---- adopt
 * ---------------------------------------------------------------------------------------- */

/* Reads a disk's superblock; the first one says what ring it is. */
static int adopt_disk(struct making *making, struct new_disk *disk, struct superblock *superblock)
{
    int result = disk_uring_open(disk->path, DISK_OPEN_EXCLUSIVE, &disk->disk, &making->failure);
    if (result != 0)
        return result;
    result = superblock_read(disk->disk, superblock, NULL, &making->failure);
    if (result != 0)
        return result;
    disk->identity = superblock->disk;
    disk->disk_bytes = disk->disk->bytes;
    if (disk == making->disk) {
        making->row.ring = superblock->ring;
        making->row.slot_bytes = disk->disk->geometry.slot_bytes;
        making->row.copies = superblock->copies;
        snprintf(making->row.name, sizeof making->row.name, "%.63s",
                 making->name ? making->name : superblock->ring_name);
        making->row.created_ns = (int64_t)le64_get(superblock->created_ns);
        return text_check_ring_name(making->row.name, &making->failure);
    }
    if (!identity_equal(&superblock->ring, &making->row.ring))
        return fail(&making->failure, ERR_MISMATCH,
                    "disk %s belongs to another ring (\"%s\") than %s", disk->path,
                    superblock->ring_name, making->disk[0].path);
    return 0;
}

/* A ring comes up without a disk that is not given; but not in silence, and it is looked for. */
static void tell_missing(struct making *making, const struct superblock *superblock)
{
    uint32_t members = le16_get(superblock->members), missing = 0;
    for (uint32_t m = 0; m < members && m < SUPERBLOCK_MEMBERS; m++) {
        const struct superblock_member *member = &superblock->member[m];
        bool found = member->state == DISK_REMOVED;
        for (uint32_t i = 0; i < making->disks && !found; i++)
            found = identity_equal(&member->disk, &making->disk[i].identity);
        if (found)
            continue;
        missing++;
        struct state_disk row = {.disk = member->disk,
                                 .ring = making->row.ring,
                                 .bytes = le64_get(member->bytes),
                                 .state = DISK_MISSING};
        snprintf(row.path, sizeof row.path, "%.87s", member->name);
        (void)state_put_disk(making->recorder->state, &row);
    }
    if (missing > 0)
        event_log_say(making->recorder->events, "warning", "disk-left-out", making->row.name,
                      "adopted with %u of its %u disks", making->disks, making->disks + missing);
}

static int adopt_work(void *context)
{
    struct making *making = context;
    struct recorder *recorder = making->recorder;
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return fail(&making->failure, ERR_NO_MEMORY, "out of memory");
    int result = 0;
    for (uint32_t i = 0; i < making->disks && result == 0; i++)
        result = adopt_disk(making, &making->disk[i], superblock);
    if (result == 0)
        result = ring_registry_add(&recorder->registry, recorder, &making->row, RING_CHANGING,
                                   &making->entry, &making->failure);
    if (result != 0)
        goto out;
    result = write_rows(making);
    /* What the catalog knows of a ring that is new to it is nothing: bring_up() reads it whole. */
    if (result == 0) {
        result = catalog_care_mark(recorder, &making->row.ring);
        if (result != 0)
            fail(&making->failure, result, "state.db could not be written: %s", error_text(result));
    }
    if (result == 0)
        result = bring_up(making);
    if (result == 0) {
        note_disks(making);
        tell_missing(making, superblock);
        ring_registry_settle(&recorder->registry, making->entry, NULL);
    } else {
        (void)state_delete_ring(recorder->state, &making->row.ring);
        catalog_care_forget(recorder, &making->row.ring);
        ring_registry_remove(&recorder->registry, &making->entry);
    }
out:
    for (uint32_t i = 0; i < making->disks; i++)
        disk_close(&making->disk[i].disk);
    free(superblock);
    return result;
}

int method_ring_adopt(struct request *request, json_t **result)
{
    struct making making = {.recorder = request->recorder};
    const json_t *disks;
    uint32_t count;
    int code = request_string(request, "name", false, &making.name);
    if (code == 0 && making.name)
        code = text_check_ring_name(making.name, &request->failure);
    if (code == 0)
        code = request_strings(request, "disks", RING_DISKS_MAX, &disks, &count);
    if (code == 0 && count == 0)
        code = fail(&request->failure, ERR_INVALID, "which disks? Their paths are missing");
    if (code == 0)
        code = check_disks(request, disks, &making);
    for (uint32_t i = 0; i < making.disks && code == 0; i++)
        code = new_disk_take_path(request, json_string_value(json_array_get(disks, i)), &making.disk[i]);
    if (code == 0)
        code = check_same_paths(request, &making);
    if (code == 0) {
        code = request_background(request, adopt_work, NULL, making_cancel, &making);
        if (code != 0 && making.failure.code != 0)
            request->failure = making.failure;
    }
    free(making.disk);
    if (code == 0)
        code = json_answer_ring(request, making.row.name, result);
    if (code != 0)
        return code;
    event_log_say(request->recorder->events, "info", "ring-adopted", making.row.name, "adopted");
    json_object_set_new(*result, "report", json_report(&making.report));
    return 0;
}

/* ---- rebuild
 * -------------------------------------------------------------------------------------- */

struct rebuilding {
    struct ring_entry *entry;
    struct recovery_report report;
    struct failure failure;
    atomic_bool cancel;
};

static int rebuild_work(void *context)
{
    struct rebuilding *rebuilding = context;
    struct ring_entry *entry = rebuilding->entry;
    struct recorder *recorder = entry->recorder;
    int result = catalog_care_begin(recorder, &entry->row.ring, &rebuilding->failure);
    if (result != 0)
        return result;
    uint64_t losses = recorder->catalog_losses;
    entry->catalog_losses = UINT64_MAX; /* meanwhile, and if it fails */
    result = ring_rebuild(entry->ring, &rebuilding->report, &rebuilding->failure);
    if (result == 0)
        entry->catalog_losses = losses;
    catalog_care_end(recorder, &entry->row.ring, result == 0);
    return result;
}

static void rebuild_cancel(void *context)
{
    atomic_store(&((struct rebuilding *)context)->cancel, true);
}

static json_t *rebuild_progress(void *context)
{
    struct rebuilding *rebuilding = context;
    return json_pack("{s:I, s:I}", "slots_done",
                     (json_int_t)atomic_load(&rebuilding->entry->slots_done), "slots_total",
                     (json_int_t)atomic_load(&rebuilding->entry->slots_total));
}

int method_ring_rebuild(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct rebuilding rebuilding = {0};
    const char *name;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = ring_registry_claim(registry, name, &rebuilding.entry, &request->failure);
    if (code != 0)
        return code;
    if (rebuilding.entry->ring) {
        rebuilding.entry->cancel = &rebuilding.cancel;
        code = request_background(request, rebuild_work, rebuild_progress, rebuild_cancel,
                                  &rebuilding);
        if (code != 0 && rebuilding.failure.code != 0)
            request->failure = rebuilding.failure;
        rebuilding.entry->cancel = NULL;
        ring_registry_settle(registry, rebuilding.entry, NULL);
    } else {
        struct failure why = rebuilding.entry->failure;
        ring_registry_settle(registry, rebuilding.entry, &why);
        return fail(&request->failure, why.code, "%s", why.text);
    }
    if (code != 0)
        return code;
    char text[REPORT_TEXT_SIZE];
    recovery_report_text(&rebuilding.report, text);
    event_log_say(request->recorder->events, "info", "rebuilt", name,
                  "the catalog has been rebuilt from the disks%s%s", text[0] ? ": " : "", text);
    *result = json_pack("{s:o}", "report", json_report(&rebuilding.report));
    return 0;
}

/* ---- settings
 * ------------------------------------------------------------------------------------- */

static json_t *describe_setting(enum setting setting)
{
    char preset[SETTING_TEXT_SIZE], min[SETTING_TEXT_SIZE], max[SETTING_TEXT_SIZE];
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", setting_name(setting), "kind",
                     setting_kind(setting), "default",
                     setting_text(setting, setting_default(setting), preset), "min",
                     setting_text(setting, setting_min(setting), min), "max",
                     setting_text(setting, setting_max(setting), max), "help",
                     setting_help(setting));
}

int method_settings(struct request *request, json_t **result)
{
    uint32_t rings_max, rings;
    char text[24];
    json_t *described = json_array();
    for (int i = 0; i < SETTINGS; i++)
        json_array_append_new(described, describe_setting((enum setting)i));
    ring_registry_count(&request->recorder->registry, &rings_max, &rings);
    snprintf(text, sizeof text, "%u", (unsigned)rings_max);
    *result = json_pack("{s:{s:s}, s:i, s:o}", "settings", RECORDER_SETTING_MAX_RINGS, text, "rings",
                        (int)rings, "of_rings", described);
    return *result ? 0 : fail(&request->failure, ERR_NO_MEMORY, "out of memory");
}

/* ---- set
 * ------------------------------------------------------------------------------------------ */

/* All or nothing: what is given is checked before any of it is kept. */
static int check_settings(struct request *request, const json_t *given, struct settings *settings)
{
    const char *key;
    const json_t *value;
    if (!json_is_object(given) || json_object_size(given) == 0)
        return fail(&request->failure, ERR_INVALID, "parameter settings: expected names and texts");
    json_object_foreach((json_t *)given, key, value)
    {
        int setting = setting_find(key, &request->failure);
        if (setting < 0)
            return setting;
        if (!json_is_string(value))
            return fail(&request->failure, ERR_INVALID, "setting %s: expected a text", key);
        int code = setting_parse(settings, (enum setting)setting, json_string_value(value),
                                 &request->failure);
        if (code != 0)
            return code;
    }
    return 0;
}

static int keep_settings(struct request *request, const struct identity *ring, const json_t *given)
{
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)given, key, value)
    {
        int code = state_put_setting(request->recorder->state, ring, key, json_string_value(value));
        if (code != 0)
            return fail(&request->failure, code, "state.db could not be written: %s",
                        error_text(code));
    }
    return 0;
}

/* Closes and opens a ring that nobody uses, so that new settings are in force. False where it is in
 * use. */
static bool reopen(struct request *request, const char *name, struct failure *why)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_entry *entry;
    if (ring_registry_claim(registry, name, &entry, NULL) != 0)
        return false;
    ring_entry_close(entry);
    bool opened = ring_entry_open(entry, why) == 0;
    bool empty = entry->empty;
    ring_registry_settle(registry, entry, why);
    if (!opened && empty) { /* they wait for its first disk */
        *why = (struct failure){0};
        opened = true;
    }
    return opened;
}

/* A whole number in a text. ERR_INVALID. */
static int take_number(struct request *request, const char *name, const json_t *value, uint64_t min,
                       uint64_t max, uint64_t *number)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    char *end;
    *number = strtoull(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && strlen(text) < 18 && *number >= min &&
        *number <= max)
        return 0;
    return fail(&request->failure, ERR_INVALID, "setting %s: expected a whole number from %u to %u",
                name, (unsigned)min, (unsigned)max);
}

#define RINGS_MAX_MAX 1024u

/* What is of the recorder, not of a ring: how many rings it may have. */
static int set_recorder(struct request *request, const json_t *given, json_t **result)
{
    uint64_t rings_max;
    char text[24];
    const json_t *value = json_object_get(given, RECORDER_SETTING_MAX_RINGS);
    if (!value || json_object_size(given) != 1)
        return fail(&request->failure, ERR_INVALID,
                    "the only setting of the recorder itself is max-rings; for those of a ring say "
                    "which");
    int code = take_number(request, "max-rings", value, 1, RINGS_MAX_MAX, &rings_max);
    if (code != 0)
        return code;
    snprintf(text, sizeof text, "%u", (unsigned)rings_max);
    code = state_put_setting(request->recorder->state, NULL, RECORDER_SETTING_MAX_RINGS, text);
    if (code != 0)
        return fail(&request->failure, code, "state.db could not be written: %s", error_text(code));
    ring_registry_set_max(&request->recorder->registry, (uint32_t)rings_max);
    *result = json_pack("{s:{s:s}, s:b, s:s}", "settings", RECORDER_SETTING_MAX_RINGS, text,
                        "in_force", 1, "note", "");
    return 0;
}

/* In the ring that records, and for the next start. */
static int set_copies(struct request *request, const char *name, const json_t *value)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_entry *entry;
    uint64_t copies;
    int code = take_number(request, "copies", value, 1, COPIES_MAX, &copies);
    if (code == 0)
        code = ring_registry_use(registry, name, &entry, &request->failure);
    if (code != 0)
        return code;
    pthread_mutex_lock(&entry->members_lock);
    struct state_ring row = entry->row;
    uint8_t before = row.copies;
    row.copies = (uint8_t)copies;
    code = ring_set_copies(entry->ring, row.copies, &request->failure);
    if (code == 0) {
        code = state_put_ring(request->recorder->state, &row);
        if (code != 0) {
            fail(&request->failure, code, "state.db could not be written: %s", error_text(code));
            (void)ring_set_copies(entry->ring, before, NULL);
        }
    }
    if (code == 0)
        ring_registry_set_copies(registry, entry, row.copies);
    pthread_mutex_unlock(&entry->members_lock);
    ring_registry_release(registry, &entry);
    if (code == 0)
        event_log_say(request->recorder->events, "info", "copies-set", name,
                      "every packet is written to %u disk%s from now on, before that %u",
                      (unsigned)copies, copies == 1 ? "" : "s", before);
    return code;
}

/* Whether the ring is set as the client believes, where it has said so; then nobody has been faster. */
static int check_expected(struct request *request, const struct ring_entry *entry,
                          const struct settings *settings)
{
    const json_t *expected = json_object_get(request->params, "expected");
    char copies[24];
    if (!expected || json_is_null(expected))
        return 0;
    json_t *now = json_settings(settings);
    snprintf(copies, sizeof copies, "%u", (unsigned)entry->row.copies);
    json_object_set_new(now, "copies", json_string(copies));
    bool same = json_equal(now, expected);
    json_decref(now);
    return same ? 0
                : fail(&request->failure, ERR_MISMATCH,
                       "the settings of ring %s have been changed by somebody else", entry->row.name);
}

/* Checks and keeps the settings of one ring; *settings are all of them then. Under settings_lock. */
static int set_ring(struct request *request, const char *name, const json_t *given,
                    const json_t *copies, struct settings *settings)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_look *looks;
    uint32_t count;
    int code = ring_registry_look(registry, name, &looks, &count, &request->failure);
    if (code != 0)
        return code;
    struct ring_entry *entry = looks[0].entry;
    code = ring_stored_settings(entry, settings, &request->failure);
    if (code == 0)
        code = check_expected(request, entry, settings);
    if (code == 0 && (!copies || json_object_size(given) > 0))
        code = check_settings(request, given, settings);
    if (code == 0 && copies)
        code = set_copies(request, name, copies);
    if (code == 0)
        code = keep_settings(request, &entry->row.ring, given);
    ring_registry_look_away(registry, &looks, count);
    return code;
}

/* What the mender is told is in force although the ring is in use. Whether that was all. */
static bool set_mender(struct request *request, const char *name, json_t *wanted, const struct settings *settings)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_entry *entry;
    struct failure busy = {0};
    const char *key;
    json_t *value;
    bool all = true;
    if (ring_registry_use(registry, name, &entry, &busy) != 0)
        return false;
    mending_set(entry, settings);
    ring_registry_release(registry, &entry);
    json_object_foreach(wanted, key, value)
        all = all && (strcmp(key, "copies") == 0 || mending_has_setting(key) || job_has_setting(key) || purging_has_setting(key));
    return all;
}

int method_ring_set(struct request *request, json_t **result)
{
    const json_t *wanted = json_object_get(request->params, "settings");
    const char *name = NULL;
    struct settings settings;
    struct failure why = {0};
    int code = request_string(request, "ring", false, &name);
    if (code == 0 && !name)
        return set_recorder(request, wanted, result);
    if (code != 0)
        return code;
    json_t *given = json_is_object(wanted) ? json_copy((json_t *)wanted) : json_object();
    json_t *copies = json_incref(json_object_get(given, "copies"));
    json_object_del(given, "copies");
    bool others = json_object_size(given) > 0, with_copies = copies != NULL;
    pthread_mutex_lock(&request->recorder->settings_lock);
    code = set_ring(request, name, given, copies, &settings);
    pthread_mutex_unlock(&request->recorder->settings_lock);
    json_decref(given);
    json_decref(copies);
    if (code != 0)
        return code;
    bool in_force = !others || reopen(request, name, &why);
    if (!in_force && why.code != 0)
        return fail(&request->failure, why.code,
                    "the settings are kept, but the ring could not be opened again: %.400s",
                    why.text);
    if (!in_force)
        in_force = set_mender(request, name, (json_t *)wanted, &settings);
    json_t *all = json_settings(&settings);
    if (with_copies)
        json_object_set(all, "copies", json_object_get(wanted, "copies"));
    *result = json_pack("{s:o, s:b, s:s}", "settings", all, "in_force", (int)in_force, "note",
                        in_force ? ""
                                 : "the ring is in use: the settings are in force when it is "
                                   "opened the next time");
    return 0;
}

/* ---- delete
 * --------------------------------------------------------------------------------------- */

struct deleting {
    struct recorder *recorder;
    struct ring_entry *entry;
    bool wipe;
    struct new_disk *disk;
    uint32_t disks, room;
    struct failure failure;
};

static int note_path(const struct state_disk *row, void *context)
{
    struct deleting *deleting = context;
    if (deleting->disks == deleting->room) {
        uint32_t room = deleting->room ? 2 * deleting->room : 8;
        struct new_disk *grown = realloc(deleting->disk, room * sizeof *grown);
        if (!grown)
            return ERR_NO_MEMORY;
        deleting->disk = grown;
        deleting->room = room;
    }
    struct new_disk *disk = &deleting->disk[deleting->disks++];
    *disk = (struct new_disk){.identity = row->disk};
    memcpy(disk->path, row->path, sizeof disk->path);
    return 0;
}

/* Opens the disk again and makes sure that it still is the one. */
static int wipe_disk(struct deleting *deleting, struct new_disk *disk)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return fail(&deleting->failure, ERR_NO_MEMORY, "out of memory");
    int result = disk_uring_open(disk->path, DISK_OPEN_EXCLUSIVE, &disk->disk, &deleting->failure);
    if (result == 0)
        result = superblock_read(disk->disk, superblock, NULL, &deleting->failure);
    if (result == 0 && !identity_equal(&superblock->disk, &disk->identity))
        result = fail(&deleting->failure, ERR_MISMATCH,
                      "disk %s is another one now and is left alone", disk->path);
    if (result == 0)
        result = disk_wipe_superblocks(disk->disk, &deleting->failure);
    disk_close(&disk->disk);
    free(superblock);
    return result;
}

/* The ring is forgotten even where a disk could not be wiped: the first such failure is told. */
static int delete_ring(struct deleting *deleting)
{
    struct recorder *recorder = deleting->recorder;
    struct identity ring = deleting->entry->row.ring;
    int result = state_disks(recorder->state, &ring, note_path, deleting);
    if (result != 0)
        return fail(&deleting->failure, result, "its disks are not known: %s", error_text(result));
    result = state_delete_ring(recorder->state, &ring);
    if (result != 0)
        return fail(&deleting->failure, result, "state.db could not be written: %s",
                    error_text(result));
    ring_entry_close(deleting->entry);
    catalog_care_forget(recorder, &ring);
    for (uint32_t i = 0; i < deleting->disks && deleting->wipe; i++) {
        struct failure first = deleting->failure;
        int wiped = wipe_disk(deleting, &deleting->disk[i]);
        if (result == 0)
            result = wiped;
        else
            deleting->failure = first;
    }
    ring_registry_remove(&recorder->registry, &deleting->entry);
    return result;
}

int method_ring_delete(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct deleting deleting = {.recorder = request->recorder};
    const char *name;
    (void)result;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = request_bool(request, "wipe", &deleting.wipe);
    if (code == 0)
        code = ring_registry_claim(registry, name, &deleting.entry, &request->failure);
    if (code != 0)
        return code;
    struct failure was = deleting.entry->failure;
    code = delete_ring(&deleting);
    free(deleting.disk);
    if (deleting.entry) {
        ring_registry_settle(registry, deleting.entry, &was);
        return fail(&request->failure, code, "ring %s: %.450s", name, deleting.failure.text);
    }
    event_log_say(request->recorder->events, "info", "ring-deleted", name, "deleted%s",
                  deleting.wipe ? ", and its disks wiped" : "");
    if (code != 0)
        return fail(&request->failure, code, "ring %s is deleted, but: %.450s", name,
                    deleting.failure.text);
    return 0;
}
