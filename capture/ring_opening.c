/*
 * ring_opening.c - see ring_opening.h.
 *
 * The happy path: each disk is opened and locked, found to be of this ring, and ring_open() does
 * the rest. A disk that is busy may only be so because writes of a recorder that was killed still
 * land: it is tried again. What cannot be had, or stops answering while it is read, is left out, and
 * the ring comes up without it, for a ring with a disk is better than none.
 */
#include "ring_opening.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "catalog_care.h"
#include "clock.h"
#include "disk_rows.h"
#include "event_log.h"
#include "mending.h"
#include "purging.h"
#include "packet_keys.h"
#include "recorder.h"
#include "superblock.h"
#include "verdict_care.h"

#define BUSY_RETRY_NS 100000000ull
#define BUFFER_SHARE_OF_MEMORY 8

/* ---- settings
 * ------------------------------------------------------------------------------------ */

static int load_setting(const char *name, const char *value, void *context)
{
    struct settings *settings = context;
    int setting = name[0] == '.' ? -1 : setting_find(name, NULL);
    if (setting >= 0)
        (void)setting_parse(settings, (enum setting)setting, value, NULL);
    return 0;
}

int ring_stored_settings(const struct ring_entry *entry, struct settings *settings,
                         struct failure *failure)
{
    settings_default(settings);
    int result = state_settings(entry->recorder->state, &entry->row.ring, load_setting, settings);
    return result == 0 ? 0
                       : fail(failure, result, "ring %s: its settings cannot be read: %s",
                              entry->row.name, error_text(result));
}

static uint64_t buffer_bytes(const struct settings *settings)
{
    uint64_t bytes = settings->value[SETTING_buffer_bytes];
    if (settings->set[SETTING_buffer_bytes])
        return bytes;
    uint64_t share = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) /
                     BUFFER_SHARE_OF_MEMORY;
    if (bytes > share)
        bytes = share;
    return bytes < RING_BUFFER_BYTES_MIN ? RING_BUFFER_BYTES_MIN : bytes;
}

/* ---- what a ring tells
 * ----------------------------------------------------------------------------- */

static void on_event(void *context, const char *severity, const char *kind, const char *text)
{
    struct ring_entry *entry = context;
    event_log_say(entry->recorder->events, severity, kind, entry->row.name, "%s", text);
}

static void on_progress(void *context, uint64_t slots_done, uint64_t slots_total)
{
    struct ring_entry *entry = context;
    atomic_store(&entry->slots_total, slots_total);
    atomic_store(&entry->slots_done, slots_done);
}

static bool on_give_up(void *context)
{
    struct ring_entry *entry = context;
    return (entry->cancel && atomic_load(entry->cancel)) || recorder_stopping(entry->recorder);
}

const char *recovery_report_text(const struct recovery_report *report, char text[REPORT_TEXT_SIZE])
{
    const struct {
        uint64_t count;
        const char *what;
    } part[] = {
        {report->segments_sealed, "segments that were left open have been sealed"},
        {report->packets_recovered, "packets were in them"},
        {report->segments_found, "slots held something else than the catalog said"},
        {report->headers_repaired, "torn first pages have been written anew"},
        {report->segments_damaged, "segments are damaged"},
        {report->packets_missing, "packets that had been durable are missing"},
    };
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        if (part[i].count > 0 && used < REPORT_TEXT_SIZE)
            used += (size_t)snprintf(text + used, REPORT_TEXT_SIZE - used, "%s%" PRIu64 " %s",
                                     used ? "; " : "", part[i].count, part[i].what);
    return text;
}

static void tell_report(struct ring_entry *entry, const struct recovery_report *report)
{
    char text[REPORT_TEXT_SIZE];
    if (recovery_report_text(report, text)[0] == '\0')
        return;
    bool damage = report->segments_damaged > 0 || report->packets_missing > 0;
    event_log_say(entry->recorder->events, damage ? "warning" : "info", "recovered",
                  entry->row.name, "%s", text);
}

/* ---- disks
 * ---------------------------------------------------------------------------------------- */

struct wanted_disk {
    struct state_disk row;
    struct disk *disk;
    struct failure failure;
    bool done; /* opened, or never to be */
    bool left_out;
};

struct wanted_disks {
    struct wanted_disk *disk;
    uint32_t count, room;
};

static int want_disk(const struct state_disk *row, void *context)
{
    struct wanted_disks *wanted = context;
    if (row->state == DISK_REMOVED)
        return 0;
    if (wanted->count == wanted->room) {
        uint32_t room = wanted->room ? 2 * wanted->room : 8;
        struct wanted_disk *grown = realloc(wanted->disk, room * sizeof *grown);
        if (!grown)
            return ERR_NO_MEMORY;
        wanted->disk = grown;
        wanted->room = room;
    }
    wanted->disk[wanted->count++] = (struct wanted_disk){.row = *row};
    return 0;
}

/* A row follows its disk, and says that it is there. */
static void keep_row(struct recorder *recorder, const struct state_disk *before,
                     struct state_disk *row)
{
    row->state = DISK_ACTIVE;
    if (strcmp(before->path, row->path) != 0 || before->state != row->state)
        (void)state_put_disk(recorder->state, row);
}

static void try_disk(struct ring_entry *entry, struct wanted_disk *wanted)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    struct state_disk before = wanted->row;
    wanted->failure = (struct failure){0};
    if (!superblock) {
        wanted->done = true;
        fail(&wanted->failure, ERR_NO_MEMORY, "out of memory");
        return;
    }
    int result = disk_row_open(entry->recorder, &wanted->row, superblock, &wanted->disk,
                               &wanted->failure);
    wanted->done = result != ERR_BUSY;
    if (result == 0) {
        keep_row(entry->recorder, &before, &wanted->row);
        disk_note_take(entry->recorder, &wanted->row, le64_get(superblock->generation));
        if (strcmp(before.path, wanted->row.path) != 0)
            event_log_say(entry->recorder->events, "info", "disk-moved", entry->row.name,
                          "disk %u is %.200s now, it was %.200s", wanted->row.number,
                          wanted->row.path, before.path);
    }
    free(superblock);
}

/* The ring comes up without it. */
static void leave_out(struct ring_entry *entry, struct wanted_disk *wanted)
{
    uint8_t state = wanted->failure.code == ERR_MISMATCH ? DISK_FOREIGN : DISK_MISSING;
    if (wanted->row.state != state) {
        wanted->row.state = state;
        (void)state_put_disk(entry->recorder->state, &wanted->row);
    }
}

/* Opens what can be opened and is not yet. */
static void open_wanted(struct ring_entry *entry, struct wanted_disks *wanted)
{
    uint64_t end_ns = clock_monotonic_ns() + entry->settings.value[SETTING_disk_wait];
    for (;;) {
        uint32_t busy = 0;
        for (uint32_t i = 0; i < wanted->count; i++) {
            if (!wanted->disk[i].done)
                try_disk(entry, &wanted->disk[i]);
            busy += !wanted->disk[i].done;
        }
        if (busy == 0 || clock_monotonic_ns() >= end_ns || on_give_up(entry))
            return;
        nanosleep(&(struct timespec){.tv_nsec = (long)BUSY_RETRY_NS}, NULL);
    }
}

int disk_wipe_superblocks(struct disk *disk, struct failure *failure)
{
    uint8_t *zeros = aligned_alloc(PAGE_BYTES, SUPERBLOCK_BYTES);
    if (!zeros)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    memset(zeros, 0, SUPERBLOCK_BYTES);
    int result = 0;
    for (int place = 0; place < SUPERBLOCK_PLACES && result == 0; place++)
        result = disk_write(
            disk, DISK_SLOT_META,
            superblock_place_offset((enum superblock_place)place, disk->geometry.disk_bytes), zeros,
            SUPERBLOCK_BYTES);
    if (result == 0)
        result = disk_flush(disk);
    free(zeros);
    return result == 0 ? 0
                       : fail(failure, result, "disk %s: wiping its superblocks: %s", disk->name,
                              error_text(result));
}

/* ---- opening and closing
 * --------------------------------------------------------------------------- */

static int open_ring(struct ring_entry *entry, struct disk **disk, uint32_t disks, uint32_t *silent,
                     struct recovery_report *report, struct failure *failure)
{
    struct recorder *recorder = entry->recorder;
    struct ring_options options = {
        .ring = entry->row.ring,
        .copies = entry->row.copies,
        .buffer_bytes = buffer_bytes(&entry->settings),
        .flush_window_ns = entry->settings.value[SETTING_flush_window],
        .mender = mending_options(entry),
        .keys_of = entry->settings.value[SETTING_index] ? packet_keys_of : NULL,
        .catalog = recorder->catalog,
        .verdict_directory = verdict_care_directory(recorder->verdict_care),
        .event = on_event,
        .progress = on_progress,
        .give_up = on_give_up,
        .context = entry,
        .silent = silent,
    };
    memcpy(options.name, entry->row.name, sizeof options.name);
    uint64_t losses = recorder->catalog_losses;
    int result = catalog_care_is_marked(recorder, &entry->row.ring, &options.whole);
    if (result != 0)
        fail(failure, result, "ring %s: its settings cannot be read: %s", entry->row.name,
             error_text(result));
    else if (options.whole)
        result = catalog_care_begin(recorder, &entry->row.ring, failure);
    if (result != 0) {
        for (uint32_t i = 0; i < disks; i++)
            disk_close(&disk[i]);
        return result;
    }
    if (options.whole)
        losses = recorder->catalog_losses;
    result = ring_open(&options, disk, disks, &entry->ring, report, failure);
    entry->catalog_losses = losses;
    if (options.whole)
        catalog_care_end(recorder, &entry->row.ring, result == 0);
    if (result != 0)
        entry->ring = NULL;
    else {
        tell_report(entry, report);
        purging_say_interrupted(entry);
    }
    return result;
}

void ring_entry_say_empty(const struct ring_entry *entry, struct failure *failure)
{
    fail(failure, ERR_NOT_FOUND,
         "ring %s has no disk and records nothing yet: tapeloop disk add %s PATH[:SIZE] makes it live",
         entry->row.name, entry->row.name);
}

static int say_no_disk(struct ring_entry *entry, struct failure *failure)
{
    entry->empty = true;
    ring_entry_say_empty(entry, failure);
    return ERR_NOT_FOUND;
}

uint64_t ring_entry_generation(const struct ring_entry *entry, const struct identity *disk)
{
    for (uint32_t i = 0; entry->ring && i < ring_disks(entry->ring); i++) {
        struct identity identity;
        ring_disk(entry->ring, i, &identity);
        if (identity_equal(&identity, disk))
            return ring_superblock_generation(entry->ring, i);
    }
    return 0;
}

int ring_entry_open_disks(struct ring_entry *entry, struct disk **disk, uint32_t disks,
                          struct recovery_report *report, struct failure *failure)
{
    return open_ring(entry, disk, disks, NULL, report, failure);
}

/* Leaves out what could not be had, with an event. Returns the first failure, null where there is none. */
static const struct failure *leave_out_absent(struct ring_entry *entry, struct wanted_disks *wanted)
{
    const struct failure *why = NULL;
    for (uint32_t i = 0; i < wanted->count; i++) {
        struct wanted_disk *one = &wanted->disk[i];
        if (one->disk)
            continue;
        if (!why)
            why = &one->failure;
        if (one->left_out || (!one->done && on_give_up(entry)))
            continue; /* busy, and the waiting was given up: that says nothing of the disk */
        one->left_out = true;
        leave_out(entry, one);
        event_log_say(entry->recorder->events, "error", "disk-left-out", entry->row.name,
                      "disk %u is left out: %.400s", one->row.number, one->failure.text);
    }
    return why;
}

/* Brings the ring up from what is open. ERR_AGAIN: a disk does not answer; it is left out now, and the others are to be opened again. */
static int open_present(struct ring_entry *entry, struct wanted_disks *wanted, const struct failure *why,
                        struct failure *failure)
{
    struct recovery_report report;
    uint32_t disks = 0, silent = UINT32_MAX;
    uint32_t *number = calloc(wanted->count + 1, sizeof *number);
    struct disk **disk = calloc(wanted->count + 1, sizeof(struct disk *));
    int result = number && disk ? 0 : fail(failure, ERR_NO_MEMORY, "out of memory");
    for (uint32_t i = 0; i < wanted->count; i++) {
        if (result != 0)
            disk_close(&wanted->disk[i].disk);
        if (!wanted->disk[i].disk)
            continue;
        number[disks] = i;
        disk[disks++] = wanted->disk[i].disk;
        wanted->disk[i].disk = NULL;
        wanted->disk[i].done = false;
    }
    if (result == 0 && disks == 0)
        result = why ? fail(failure, why->code, "%s", why->text) : say_no_disk(entry, failure);
    else if (result == 0)
        result = open_ring(entry, disk, disks, &silent, &report, failure);
    if (result != 0 && silent < disks) {
        wanted->disk[number[silent]].failure = *failure;
        wanted->disk[number[silent]].done = true;
        result = ERR_AGAIN;
    }
    free(number);
    free(disk);
    return result;
}

int ring_entry_open(struct ring_entry *entry, struct failure *failure)
{
    struct wanted_disks wanted = {0};
    int result = ring_stored_settings(entry, &entry->settings, failure);
    if (result != 0)
        return result;
    entry->empty = false;
    result = state_disks(entry->recorder->state, &entry->row.ring, want_disk, &wanted);
    if (result != 0) {
        fail(failure, result, "ring %s: its disks are not known: %s", entry->row.name,
             error_text(result));
    } else {
        do {
            open_wanted(entry, &wanted);
            const struct failure *why = leave_out_absent(entry, &wanted);
            result = open_present(entry, &wanted, why, failure);
        } while (result == ERR_AGAIN);
    }
    free(wanted.disk);
    return result;
}

void ring_entry_close(struct ring_entry *entry)
{
    ring_close(&entry->ring);
}
