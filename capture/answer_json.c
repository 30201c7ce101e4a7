#include "answer_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "disk_life.h"
#include "disk_rows.h"
#include "mending.h"
#include "classifier.h"
#include "ring_opening.h"
#include "text.h"

json_t *json_text(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    char *clean = strdup(text);
    for (char *c = clean; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    string = clean ? json_string(clean) : NULL;
    free(clean);
    return string;
}

void json_set_time(json_t *object, const char *name, int64_t time_ns, bool known)
{
    char key[48], digits[24], text[TEXT_TIME_SIZE];
    snprintf(key, sizeof key, "%s_ns", name);
    snprintf(digits, sizeof digits, "%" PRId64, time_ns);
    json_object_set_new(object, key, known ? json_string(digits) : json_null());
    snprintf(key, sizeof key, "%s_text", name);
    json_object_set_new(object, key, known ? json_string(text_time(time_ns, text)) : json_null());
}

int json_answer_array(int code, json_t *array, const char *name, json_t **result)
{
    if (code == 0)
        *result = json_pack("{s:o}", name, array);
    else
        json_decref(array);
    return code;
}

static json_t *json_lines(const uint64_t lines[ACCOUNT_LINES])
{
    json_t *object = json_object();
    for (int line = 0; line < ACCOUNT_LINES; line++)
        json_object_set_new(object, account_name((enum account_line)line),
                            json_integer((json_int_t)lines[line]));
    return object;
}

json_t *json_account(const struct account *account)
{
    return json_lines(account->packets);
}

json_t *json_account_bytes(const struct account *account)
{
    return json_lines(account->bytes);
}

json_t *json_report(const struct recovery_report *report)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "slots_read", (json_int_t)report->slots_read,
        "segments_found", (json_int_t)report->segments_found, "segments_sealed",
        (json_int_t)report->segments_sealed, "segments_empty", (json_int_t)report->segments_empty,
        "segments_damaged", (json_int_t)report->segments_damaged, "headers_repaired",
        (json_int_t)report->headers_repaired, "packets_recovered",
        (json_int_t)report->packets_recovered, "packets_missing",
        (json_int_t)report->packets_missing);
}

json_t *json_settings(const struct settings *settings)
{
    json_t *object = json_object();
    char text[SETTING_TEXT_SIZE];
    for (int i = 0; i < SETTINGS; i++)
        json_object_set_new(object, setting_name((enum setting)i),
                            json_string(setting_text((enum setting)i, settings->value[i], text)));
    return object;
}

json_t *json_layer7(struct recorder *recorder)
{
    struct classifier_counters counters;
    classifier_counters(recorder->classifier, &counters);
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "running", (int)counters.running,
                     "lent", (json_int_t)counters.lent, "skipped", (json_int_t)counters.skipped,
                     "verdicts", (json_int_t)counters.verdicts, "unknown",
                     (json_int_t)counters.unknown, "starts", (json_int_t)counters.starts, "hangs",
                     (json_int_t)counters.hangs);
}

/* ---- disks
 * ----------------------------------------------------------------------------------------- */

struct disk_answers {
    const struct ring_look *look;
    const struct ring_state *state; /* null: the ring is not up */
    json_t *disks;
    int64_t oldest_ns[RING_DISKS_MAX]; /* packet on the keeper's i-th disk; INT64_MAX: none */
};

static const struct keeper_disk_state *keeper_disk_of(const struct ring_state *state,
                                                      const struct identity *disk)
{
    for (uint32_t i = 0; state && i < state->keeper.disks; i++)
        if (state->keeper.disk[i].disk && identity_equal(&state->keeper.disk[i].identity, disk))
            return &state->keeper.disk[i];
    return NULL;
}

/* What a person is told of a disk: the keeper knows those that the ring has, its row the others. */
static const char *disk_word(const struct disk_answers *answers, const struct state_disk *row,
                             const struct keeper_disk_state *keeper)
{
    if (keeper)
        return disk_state_name(keeper->state);
    if (row->state == DISK_REMOVED)
        return disk_state_name(DISK_REMOVED);
    if (!answers->state)
        return "offline"; /* the ring is not up */
    return disk_state_name(row->state == DISK_FOREIGN ? DISK_FOREIGN : DISK_MISSING);
}

static void describe_hardware(json_t *disk, const struct disk_note *note)
{
    json_object_set_new(disk, "device", json_text(note->device));
    json_object_set_new(disk, "stable_path", json_text(note->stable_path));
    json_object_set_new(disk, "enclosure", json_text(note->enclosure));
    json_object_set_new(disk, "enclosure_slot", json_text(note->enclosure_slot));
    json_set_time(disk, "last_seen", note->last_seen_ns, note->last_seen_ns > 0);
}

static int append_disk(const struct state_disk *row, void *context)
{
    struct disk_answers *answers = context;
    const struct keeper_disk_state *found = keeper_disk_of(answers->state, &row->disk);
    struct keeper_disk_state none = {0};
    const struct keeper_disk_state *keeper = found ? found : &none;
    struct disk_note note;
    char id[IDENTITY_TEXT_SIZE];
    if (disk_note_get(answers->look->entry->recorder, row, &note) != 0)
        note = (struct disk_note){0};
    json_t *disk = json_pack(
        "{s:s, s:i, s:s, s:o, s:I, s:i, s:i, s:I, s:s, s:I, s:I, s:I, s:I}", "ring",
        answers->look->entry->row.name, "number", (int)row->number, "id",
        identity_text(&row->disk, id), "path", json_text(row->path), "bytes",
        (json_int_t)row->bytes, "slots", (int)keeper->slots, "free_slots", (int)keeper->free_slots,
        "used_bytes",
        (json_int_t)((keeper->slots - keeper->free_slots) * answers->look->slot_bytes), "state",
        disk_word(answers, row, found), "read_errors", (json_int_t)keeper->read_errors,
        "write_errors", (json_int_t)keeper->write_errors, "written_bytes",
        (json_int_t)keeper->written_bytes, "in_flight_bytes",
        (json_int_t)keeper->in_flight_bytes);
    describe_hardware(disk, &note);
    int64_t oldest_ns = found ? answers->oldest_ns[found - answers->state->keeper.disk] : INT64_MAX;
    json_set_time(disk, "oldest", oldest_ns, oldest_ns != INT64_MAX);
    return json_array_append_new(answers->disks, disk) == 0 ? 0 : ERR_NO_MEMORY;
}

static int note_oldest(const struct segment_row *row, const struct segment_place *place,
                       void *context)
{
    struct disk_answers *answers = context;
    const struct keeper_disk_state *disk = keeper_disk_of(answers->state, &place->disk);
    if (!disk || row->first_ns > row->last_ns)
        return 0;
    int64_t *oldest_ns = &answers->oldest_ns[disk - answers->state->keeper.disk];
    if (row->first_ns < *oldest_ns)
        *oldest_ns = row->first_ns;
    return 0;
}

static int append_disks(const struct ring_look *look, const struct ring_state *state, json_t *disks,
                        bool with_oldest, struct failure *failure)
{
    struct disk_answers answers = {.look = look, .state = state, .disks = disks};
    for (uint32_t i = 0; i < RING_DISKS_MAX; i++)
        answers.oldest_ns[i] = INT64_MAX;
    if (state && with_oldest) /* without it less is said, no more */
        (void)catalog_places(look->entry->recorder->catalog, &look->entry->row.ring, note_oldest,
                             &answers);
    int result =
        state_disks(look->entry->recorder->state, &look->entry->row.ring, append_disk, &answers);
    return result == 0 ? 0
                       : fail(failure, result, "ring %s: its disks are not known: %s",
                              look->entry->row.name, error_text(result));
}

static int state_of(const struct ring_look *look, struct ring_state *state, struct failure *failure)
{
    int result = ring_state(look->entry->ring, state);
    return result == 0 ? 0
                       : fail(failure, result, "ring %s: the catalog cannot be read: %s",
                              look->entry->row.name, error_text(result));
}

int json_append_disks(const struct ring_look *look, json_t *disks, struct failure *failure)
{
    struct ring_state state;
    int result = look->live ? state_of(look, &state, failure) : 0;
    return result == 0 ? append_disks(look, look->live ? &state : NULL, disks, false, failure)
                       : result;
}

int json_append_disks_oldest(const struct ring_look *look, json_t *disks, struct failure *failure)
{
    struct ring_state state;
    int result = look->live ? state_of(look, &state, failure) : 0;
    return result == 0 ? append_disks(look, look->live ? &state : NULL, disks, true, failure)
                       : result;
}

/* ---- rings
 * ----------------------------------------------------------------------------------------- */

/* A disk that was removed is none of the ring's. */
static int count_disk(const struct state_disk *row, void *context)
{
    *(json_int_t *)context += row->state != DISK_REMOVED;
    return 0;
}

static json_t *error_of(const struct ring_look *look)
{
    char text[128];
    uint64_t done = atomic_load(&look->entry->slots_done);
    uint64_t total = atomic_load(&look->entry->slots_total);
    switch (look->state) {
    case RING_FAILED:
    case RING_EMPTY:
        return json_text(look->failure.text);
    case RING_STARTING:
        snprintf(text, sizeof text, "its disks are being looked at (%" PRIu64 " of %" PRIu64 ")",
                 done, total);
        return json_string(text);
    case RING_CHANGING:
        return json_string("it is being changed");
    default:
        return json_null();
    }
}

static const char *ring_state_word(const struct ring_look *look, const struct ring_state *state)
{
    if (look->state == RING_STARTING)
        return "starting";
    if (look->state == RING_FAILED)
        return "failed";
    if (look->state == RING_EMPTY)
        return "empty";
    return look->live && state->streams > 0 ? "recording" : "idle";
}

/* What the ring holds of segments when each is written as often as it should be. */
static uint64_t logical_total(const struct ring_look *look, const struct ring_state *state)
{
    return look->copies > 0 ? state->total_bytes / look->copies : 0;
}

static int ring_with_state(const struct ring_look *look, const struct ring_state *state,
                           json_t **result, struct failure *failure)
{
    const struct ring_entry *entry = look->entry;
    const struct catalog_summary *catalog = &state->catalog;
    json_int_t disks = 0;
    char id[IDENTITY_TEXT_SIZE];
    int code = state_disks(entry->recorder->state, &entry->row.ring, count_disk, &disks);
    if (code != 0)
        return fail(failure, code, "ring %s: its disks are not known: %s", entry->row.name,
                    error_text(code));
    bool any = look->live && catalog->first_ns <= catalog->last_ns;
    json_t *ring = json_pack(
        "{s:s, s:s, s:i, s:I, s:s, s:o, s:I, s:I, s:I, s:I}", "name", entry->row.name, "id",
        identity_text(&entry->row.ring, id), "copies", (int)look->copies, "slot_bytes",
        (json_int_t)look->slot_bytes, "state", ring_state_word(look, state), "error",
        error_of(look), "disks", disks, "total_bytes", (json_int_t)state->total_bytes, "used_bytes",
        (json_int_t)state->used_bytes, "packets", (json_int_t)(catalog->packets - catalog->purged));
    json_object_set_new(ring, "purged", json_integer((json_int_t)catalog->purged));
    json_object_set_new(ring, "logical_total_bytes",
                        json_integer((json_int_t)logical_total(look, state)));
    json_object_set_new(ring, "logical_used_bytes",
                        json_integer((json_int_t)(catalog->segments * look->slot_bytes)));
    json_object_set_new(ring, "packet_bytes", json_integer((json_int_t)state->logical_bytes));
    json_set_time(ring, "oldest", catalog->first_ns, any);
    json_set_time(ring, "newest", catalog->last_ns, any);
    *result = ring;
    return ring ? 0 : fail(failure, ERR_NO_MEMORY, "out of memory");
}

int json_ring(const struct ring_look *look, json_t **ring, struct failure *failure)
{
    struct ring_state state = {0};
    int result = look->live ? state_of(look, &state, failure) : 0;
    return result == 0 ? ring_with_state(look, &state, ring, failure) : result;
}

static int append_interface(const struct interface_description *description, int64_t first_seen_ns,
                            int64_t last_seen_ns, void *context)
{
    json_t *interface =
        json_pack("{s:o, s:o, s:i, s:I}", "name", json_text(description->name), "description",
                  json_text(description->description), "link_type", (int)description->link_type,
                  "snapshot_bytes", (json_int_t)description->snapshot_length);
    json_set_time(interface, "first_seen", first_seen_ns, true);
    json_set_time(interface, "last_seen", last_seen_ns, true);
    return json_array_append_new(context, interface) == 0 ? 0 : ERR_NO_MEMORY;
}

int json_ring_whole(const struct ring_look *look, json_t **result, struct failure *failure)
{
    struct ring_entry *entry = look->entry;
    struct ring_state state = {0};
    struct settings settings;
    json_t *ring = NULL, *disks = json_array(), *interfaces = json_array();
    int code = ring_stored_settings(entry, &settings, failure);
    if (code == 0 && look->live)
        code = state_of(look, &state, failure);
    if (code == 0)
        code = ring_with_state(look, &state, &ring, failure);
    if (code == 0)
        code = append_disks(look, look->live ? &state : NULL, disks, false, failure);
    if (code == 0) {
        code = catalog_interfaces(entry->recorder->catalog, &entry->row.ring, append_interface,
                                  interfaces);
        if (code != 0)
            fail(failure, code, "ring %s: the catalog cannot be read: %s", entry->row.name,
                 error_text(code));
    }
    if (code != 0) {
        json_decref(ring);
        json_decref(disks);
        json_decref(interfaces);
        return code;
    }
    json_object_set_new(ring, "disk_count", json_incref(json_object_get(ring, "disks")));
    json_object_set_new(ring, "disks", disks);
    json_object_set_new(ring, "interfaces", interfaces);
    json_object_set_new(ring, "settings", json_settings(&settings));
    *result = ring;
    return 0;
}

/* ---- status
 * ---------------------------------------------------------------------------------------- */

struct account_answers {
    json_t *interfaces;
    struct account total;
};

static void append_account(int64_t stream, const char *name, uint16_t link_type,
                           const struct account *account, void *context)
{
    struct account_answers *answers = context;
    account_add(&answers->total, account);
    json_array_append_new(answers->interfaces,
                          json_pack("{s:o, s:i, s:o, s:o, s:o, s:I}", "name", json_text(name),
                                    "link_type", (int)link_type, "stream",
                                    stream >= 0 ? json_integer((json_int_t)stream) : json_null(),
                                    "account", json_account(account), "account_bytes",
                                    json_account_bytes(account), "stored_bytes",
                                    (json_int_t)account->stored_bytes));
}

/* Seconds from the oldest packet to now; 0 where packet times are of the future, or of nowhere. */
static json_int_t reach_back_s(const struct catalog_summary *catalog)
{
    int64_t reach_ns;
    if (catalog->first_ns > catalog->last_ns ||
        __builtin_sub_overflow(clock_realtime_ns(), catalog->first_ns, &reach_ns) || reach_ns < 0)
        return 0;
    return reach_ns / 1000000000;
}

static json_t *errors_of(const struct ring_state *state)
{
    uint64_t read = 0, written = 0;
    json_int_t failed = 0;
    for (uint32_t i = 0; i < state->keeper.disks; i++) {
        read += state->keeper.disk[i].read_errors;
        written += state->keeper.disk[i].write_errors;
        failed += state->keeper.disk[i].state == DISK_FAILED;
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "read", (json_int_t)read, "write",
                     (json_int_t)written, "damaged_reads", (json_int_t)state->damaged_reads,
                     "damaged_segments", (json_int_t)state->catalog.damaged_segments,
                     "failed_disks", failed);
}

/* How far back the ring will reach if everything goes on as in the last second; null while nothing is recorded. */
static json_t *forecast_s(const struct ring_look *look, const struct ring_state *state)
{
    uint64_t rate = atomic_load(&look->entry->bytes_per_s);
    return look->live && rate > 0 ? json_integer((json_int_t)(logical_total(look, state) / rate))
                                  : json_null();
}

/* Whether packets are, or would be now, on fewer disks than they should be, or a disk is away. */
static bool is_degraded(const struct ring_look *look, const struct ring_state *state,
                        json_int_t disks)
{
    json_int_t there = 0;
    for (uint32_t i = 0; i < state->keeper.disks; i++)
        there += state->keeper.disk[i].disk && state->keeper.disk[i].state != DISK_FAILED;
    return look->live && (state->keeper.durable_copies < look->copies || there != disks ||
                          state->mender.degraded_segments > 0);
}

/* How reading gives way to recording (P7). */
static json_t *json_yielding(const struct ring_state *state)
{
    return json_pack("{s:I, s:i, s:I, s:I}", "level_permille", (json_int_t)state->pressure_permille, "readers",
                     (int)state->readers, "readers_held_back_ms",
                     (json_int_t)(state->readers_held_back_ns / 1000000), "mending_held_back_ms",
                     (json_int_t)(state->mender.held_back_ns / 1000000));
}

/* Of a purge that goes on beside others: who has the ring alone has its progress in the state of the ring. */
static json_t *json_purging(const struct ring_entry *entry)
{
    if (!atomic_load(&entry->purging))
        return json_null();
    return json_pack("{s:I, s:I}", "segments_done", (json_int_t)atomic_load(&entry->purge_done), "segments_total",
                     (json_int_t)atomic_load(&entry->purge_total));
}

int json_ring_status(const struct ring_look *look, json_t **result, struct failure *failure)
{
    struct ring_entry *entry = look->entry;
    struct ring_state state = {0};
    struct account_answers answers = {0};
    json_t *ring = NULL;
    int code = look->live ? state_of(look, &state, failure) : 0;
    if (code == 0)
        code = ring_with_state(look, &state, &ring, failure);
    if (code != 0)
        return code;
    answers.interfaces = json_array();
    if (look->live)
        ring_entry_accounts(entry, append_account, &answers);
    bool any = look->live && state.catalog.first_ns <= state.catalog.last_ns;
    bool degraded =
        is_degraded(look, &state, json_integer_value(json_object_get(ring, "disks")));
    json_t *status = json_pack(
        "{s:o, s:o, s:o, s:I, s:I, s:o, s:I, s:{s:I, s:I}, s:i, s:b, s:I, s:I, s:o}", "ring", ring,
        "account", json_account(&answers.total), "account_bytes",
        json_account_bytes(&answers.total), "stored_bytes", (json_int_t)answers.total.stored_bytes,
        "cut_packets", (json_int_t)answers.total.cut_packets, "interfaces", answers.interfaces,
        "in_flight_bytes", (json_int_t)state.keeper.in_flight_bytes, "buffers", "total",
        (json_int_t)state.pool.buffers, "free", (json_int_t)state.pool.free, "durable_copies",
        (int)state.keeper.durable_copies, "degraded", (int)degraded, "reach_back_s",
        look->live ? reach_back_s(&state.catalog) : 0, "bytes_per_s",
        (json_int_t)atomic_load(&entry->bytes_per_s), "errors", errors_of(&state));
    json_object_set_new(status, "forecast_s", forecast_s(look, &state));
    json_object_set_new(status, "coarse_segments",
                        json_integer((json_int_t)state.keeper.segments_coarse));
    struct verdict_log_counters verdicts = {0};
    if (look->live && ring_verdict_log(entry->ring))
        verdict_log_counters(ring_verdict_log(entry->ring), &verdicts);
    json_object_set_new(status, "verdicts_lost", json_integer((json_int_t)verdicts.lost));
    json_object_set_new(status, "mending", look->live ? json_mending(&state.mender) : json_null());
    json_object_set_new(status, "yielding", look->live ? json_yielding(&state) : json_null());
    json_object_set_new(status, "purging", json_purging(entry));
    json_set_time(status, "oldest", state.catalog.first_ns, any);
    json_set_time(status, "newest", state.catalog.last_ns, any);
    *result = status;
    return status ? 0 : fail(failure, ERR_NO_MEMORY, "out of memory");
}

json_t *json_reach_back(struct recorder *recorder, const char *ring)
{
    struct ring_look *looks;
    struct catalog_summary summary;
    uint32_t count;
    if (ring_registry_look(&recorder->registry, ring, &looks, &count, NULL) != 0)
        return json_null();
    struct identity identity = looks[0].entry->row.ring;
    ring_registry_look_away(&recorder->registry, &looks, count);
    if (catalog_summary(recorder->catalog, &identity, &summary) != 0)
        return json_null();
    return json_integer(reach_back_s(&summary));
}

int json_answer_ring(struct request *request, const char *name, json_t **result)
{
    struct ring_look *looks;
    uint32_t count;
    int code =
        ring_registry_look(&request->recorder->registry, name, &looks, &count, &request->failure);
    if (code != 0)
        return code;
    json_t *ring = NULL;
    code = json_ring(&looks[0], &ring, &request->failure);
    ring_registry_look_away(&request->recorder->registry, &looks, count);
    if (code != 0)
        return code;
    *result = json_pack("{s:o}", "ring", ring);
    return 0;
}
