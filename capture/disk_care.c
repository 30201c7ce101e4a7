/*
 * disk_care.c - see disk_care.h.
 *
 * A look goes through the rows of state.db, which are all that the ring has ever had, and holds each against what the keeper
 * says. Opening a disk that is away can take long (a device that does not answer), so it happens every
 * disk_retry only, and never with the registry's lock held.
 */
#include "disk_care.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "disk_life.h"
#include "disk_rows.h"
#include "event_log.h"
#include "ring_opening.h"
#include "rounds.h"

#define CARE_PERIOD_MS 1000
#define LEAVE_MS 30000 /* for what is under way on a disk that is removed */
#define NOTE_NS (600 * UINT64_C(1000000000)) /* how often it is written down that a disk was seen */

struct disk_care {
    struct recorder *recorder;
    struct rounds *rounds;
    uint64_t noted_ns;
};

/* ---- rows in memory ----------------------------------------------------------------------------- */

struct rows {
    struct state_disk *row;
    uint32_t count, room;
};

static int keep_row(const struct state_disk *row, void *context)
{
    struct rows *rows = context;
    if (rows->count == rows->room) {
        uint32_t room = rows->room ? 2 * rows->room : 8;
        struct state_disk *grown = realloc(rows->row, room * sizeof *grown);
        if (!grown)
            return ERR_NO_MEMORY;
        rows->row = grown;
        rows->room = room;
    }
    rows->row[rows->count++] = *row;
    return 0;
}

/* Empty where state.db cannot be read: then there is nothing to be done this time. */
static struct rows rows_of(const struct ring_entry *entry)
{
    struct rows rows = {0};
    if (state_disks(entry->recorder->state, &entry->row.ring, keep_row, &rows) != 0)
        rows.count = 0;
    return rows;
}

/* ---- the ring's members ------------------------------------------------------------------------- */

/* The ring's number of a disk that it has open. */
static bool find_member(struct ring *ring, const struct identity *disk, uint32_t *number)
{
    for (uint32_t i = 0; i < ring_disks(ring); i++) {
        struct identity identity;
        if (ring_disk(ring, i, &identity) && identity_equal(&identity, disk)) {
            *number = i;
            return true;
        }
    }
    return false;
}

static uint32_t count_members(struct ring *ring)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < ring_disks(ring); i++)
        count += ring_disk(ring, i, NULL) != NULL;
    return count;
}

void disk_care_note(struct ring_entry *entry)
{
    struct rows rows = rows_of(entry);
    uint32_t number;
    for (uint32_t i = 0; i < rows.count; i++)
        if (find_member(entry->ring, &rows.row[i].disk, &number))
            disk_note_take(entry->recorder, &rows.row[i],
                           ring_superblock_generation(entry->ring, number));
    free(rows.row);
}

int disk_care_take_out(struct ring_entry *entry, const struct state_disk *row, enum disk_state state,
                       struct failure *failure)
{
    uint32_t number;
    if (!find_member(entry->ring, &row->disk, &number))
        return 0;
    if (count_members(entry->ring) == 1)
        return fail(failure, ERR_BUSY,
                    "disk %u (%.200s) is the only one that ring %s has: add another one first, or "
                    "delete the ring",
                    row->number, row->path, entry->row.name);
    uint64_t generation = ring_superblock_generation(entry->ring, number);
    pthread_mutex_lock(&entry->leaving_lock);
    int result = ring_disk_leave(entry->ring, number, state, state == DISK_REMOVED ? LEAVE_MS : 0,
                                 failure);
    pthread_mutex_unlock(&entry->leaving_lock);
    if (result == 0 || result == ERR_TIMEOUT) {
        disk_note_take(entry->recorder, row, generation);
        disk_care_note(entry);
    }
    return result;
}

/* What the keeper says of a member. */
static enum disk_state member_state(const struct ring_state *state, const struct identity *disk)
{
    for (uint32_t i = 0; i < state->keeper.disks; i++)
        if (identity_equal(&state->keeper.disk[i].identity, disk))
            return state->keeper.disk[i].state;
    return DISK_MISSING;
}

/* A member that has failed is let go, so that it can be read back from the start. */
static int give_up_failed(struct ring_entry *entry, const struct state_disk *row,
                          struct failure *failure)
{
    uint32_t number;
    struct ring_state *state;
    if (!find_member(entry->ring, &row->disk, &number))
        return 0;
    state = malloc(sizeof *state);
    if (!state)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    int result = ring_state(entry->ring, state);
    enum disk_state life = result == 0 ? member_state(state, &row->disk) : DISK_ACTIVE;
    free(state);
    if (life != DISK_FAILED)
        return fail(failure, ERR_EXISTS, "disk %u (%.200s) is part of ring %s, and %s", row->number,
                    row->path, entry->row.name, disk_state_name(life));
    return disk_care_take_out(entry, row, DISK_MISSING, failure);
}

int disk_care_take_in(struct ring_entry *entry, struct state_disk *row, bool force,
                      struct recovery_report *report, struct failure *failure)
{
    struct recorder *recorder = entry->recorder;
    struct disk_note note;
    struct disk *disk = NULL;
    uint32_t number;
    int result = give_up_failed(entry, row, failure);
    if (result != 0)
        return result;
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    result = disk_row_open(recorder, row, superblock, &disk, failure);
    if (result == 0 && !force && disk_note_get(recorder, row, &note) == 0)
        result = disk_note_check(&note, row->path, superblock, failure);
    if (result == 0)
        result = ring_disk_join(entry->ring, &disk, report, &number, failure);
    disk_close(&disk);
    free(superblock);
    if (result != 0)
        return result;
    row->state = DISK_ACTIVE;
    result = disk_row_put(recorder, row, failure);
    disk_care_note(entry);
    return result;
}

/* ---- looking after one ring --------------------------------------------------------------------- */

static void put_state(struct ring_entry *entry, struct state_disk *row, enum disk_state state)
{
    if (row->state == (uint8_t)state)
        return;
    row->state = (uint8_t)state;
    (void)state_put_disk(entry->recorder->state, row);
}

/* Whether nothing is left at the path that could come to again by itself. */
static bool has_vanished(const struct state_disk *row)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    struct device device;
    bool vanished = device_look(row->path, &device, NULL) != 0;
    if (!vanished && superblock) {
        int found = disk_peek(row->path, superblock, NULL);
        vanished = found == ERR_FOREIGN || found == ERR_NOT_FOUND ||
                   (found == 0 && !identity_equal(&superblock->disk, &row->disk));
    }
    free(superblock);
    return vanished;
}

static void look_at_failed(struct ring_entry *entry, struct state_disk *row)
{
    struct failure failure = {0};
    put_state(entry, row, DISK_FAILED);
    if (!has_vanished(row) || disk_care_take_out(entry, row, DISK_MISSING, &failure) != 0)
        return;
    put_state(entry, row, DISK_MISSING);
    event_log_say(entry->recorder->events, "error", "disk-missing", entry->row.name,
                  "disk %u (%.200s) is gone; it is looked for", row->number, row->path);
}

static void look_for_missing(struct ring_entry *entry, struct state_disk *row)
{
    struct recovery_report report = {0};
    struct failure failure = {0};
    char text[REPORT_TEXT_SIZE];
    int result = disk_care_take_in(entry, row, false, &report, &failure);
    if (result == 0) {
        recovery_report_text(&report, text);
        event_log_say(entry->recorder->events, "info", "disk-returned", entry->row.name,
                      "disk %u (%.200s) has returned and is part of the ring again%s%s", row->number,
                      row->path, text[0] ? ": " : "", text);
        return;
    }
    enum disk_state state = result == ERR_MISMATCH || result == ERR_FOREIGN ? DISK_FOREIGN : DISK_MISSING;
    if (row->state != (uint8_t)state && state == DISK_FOREIGN)
        event_log_say(entry->recorder->events, "warning", "disk-foreign", entry->row.name,
                      "disk %u is not taken back: %.300s", row->number, failure.text);
    put_state(entry, row, state);
}

static void look_after(struct ring_entry *entry, bool note, bool search)
{
    struct ring_state *state = malloc(sizeof *state);
    struct rows rows = rows_of(entry);
    bool known = state && ring_state(entry->ring, state) == 0;
    uint32_t number;
    for (uint32_t i = 0; known && i < rows.count; i++) {
        struct state_disk *row = &rows.row[i];
        if (row->state == DISK_REMOVED)
            continue;
        if (find_member(entry->ring, &row->disk, &number)) {
            enum disk_state life = member_state(state, &row->disk);
            if (life == DISK_FAILED)
                look_at_failed(entry, row);
            else
                put_state(entry, row, life);
        } else if (search) {
            look_for_missing(entry, row);
        }
    }
    if (note)
        disk_care_note(entry);
    free(rows.row);
    free(state);
}

/* ---- the thread --------------------------------------------------------------------------------- */

static void look_at_all(struct disk_care *care, bool note)
{
    struct ring_registry *registry = &care->recorder->registry;
    struct ring_look *looks;
    uint32_t count;
    if (ring_registry_look(registry, NULL, &looks, &count, NULL) != 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        struct ring_entry *entry = looks[i].entry;
        if (!looks[i].live || recorder_stopping(care->recorder) ||
            pthread_mutex_trylock(&entry->members_lock) != 0)
            continue;
        uint64_t now = clock_monotonic_ns();
        uint64_t every = entry->settings.value[SETTING_disk_retry];
        bool search = every > 0 && now - entry->searched_ns >= every;
        if (search)
            entry->searched_ns = now;
        look_after(entry, note, search);
        pthread_mutex_unlock(&entry->members_lock);
    }
    ring_registry_look_away(registry, &looks, count);
}

static void make_round(void *context)
{
    struct disk_care *care = context;
    bool note = clock_monotonic_ns() - care->noted_ns >= NOTE_NS;
    if (note)
        care->noted_ns = clock_monotonic_ns();
    look_at_all(care, note);
}

int disk_care_open(struct recorder *recorder, struct disk_care **result, struct failure *failure)
{
    struct disk_care *care = calloc(1, sizeof *care);
    if (!care)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    care->recorder = recorder;
    care->noted_ns = clock_monotonic_ns();
    int code = rounds_open("disk-care", CARE_PERIOD_MS, make_round, care, &care->rounds, failure);
    if (code != 0) {
        free(care);
        return code;
    }
    *result = care;
    return 0;
}

void disk_care_close(struct disk_care **slot)
{
    struct disk_care *care = *slot;
    if (!care)
        return;
    rounds_close(&care->rounds);
    free(care);
    *slot = NULL;
}
