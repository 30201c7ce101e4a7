#include "disk_rows.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "text.h"

#define NOTE_PREFIX ".disk."
#define PREFIX_DIGITS_MIN 4u
/* A superblock is written when members come and go, twice when it is mended; a crash may have kept a note of it from being
 * taken. Another life of a ring is further away than that. */
#define GENERATION_SLACK 16u

/* ---- notes -------------------------------------------------------------------------------------- */

static void note_name(const struct state_disk *row, char name[64])
{
    char id[IDENTITY_TEXT_SIZE];
    snprintf(name, 64, NOTE_PREFIX "%s", identity_text(&row->disk, id));
}

struct note_wanted {
    char name[64];
    struct disk_note *note;
};

static void take_text(const json_t *object, const char *name, char *text, size_t text_bytes)
{
    const char *value = json_string_value(json_object_get(object, name));
    snprintf(text, text_bytes, "%s", value ? value : "");
}

static int take_note(const char *name, const char *value, void *context)
{
    struct note_wanted *wanted = context;
    struct disk_note *note = wanted->note;
    if (strcmp(name, wanted->name) != 0)
        return 0;
    json_t *object = json_loads(value, JSON_REJECT_DUPLICATES, NULL);
    note->is_file = json_is_true(json_object_get(object, "file"));
    take_text(object, "device", note->device, sizeof note->device);
    take_text(object, "stable_path", note->stable_path, sizeof note->stable_path);
    take_text(object, "enclosure", note->enclosure, sizeof note->enclosure);
    take_text(object, "enclosure_slot", note->enclosure_slot, sizeof note->enclosure_slot);
    note->last_seen_ns = json_integer_value(json_object_get(object, "last_seen_ns"));
    note->generation = (uint64_t)json_integer_value(json_object_get(object, "generation"));
    json_decref(object);
    return 0;
}

int disk_note_get(struct recorder *recorder, const struct state_disk *row, struct disk_note *note)
{
    struct note_wanted wanted = {.note = note};
    *note = (struct disk_note){0};
    note_name(row, wanted.name);
    return state_settings(recorder->state, &row->ring, take_note, &wanted);
}

static void put_note(struct recorder *recorder, const struct state_disk *row,
                     const struct disk_note *note)
{
    char name[64];
    note_name(row, name);
    json_t *object =
        json_pack("{s:b, s:s, s:s, s:s, s:s, s:I, s:I}", "file", (int)note->is_file, "device",
                  note->device, "stable_path", note->stable_path, "enclosure", note->enclosure,
                  "enclosure_slot", note->enclosure_slot, "last_seen_ns",
                  (json_int_t)note->last_seen_ns, "generation", (json_int_t)note->generation);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (text)
        (void)state_put_setting(recorder->state, &row->ring, name, text);
    free(text);
    json_decref(object);
}

void disk_note_take(struct recorder *recorder, const struct state_disk *row, uint64_t generation)
{
    struct device device;
    struct disk_note note;
    if (disk_note_get(recorder, row, &note) != 0)
        return;
    if (device_look(row->path, &device, NULL) == 0) {
        note.is_file = device.is_file;
        memcpy(note.device, device.identity, sizeof note.device);
        memcpy(note.stable_path, device.stable_path, sizeof note.stable_path);
        memcpy(note.enclosure, device.enclosure, sizeof note.enclosure);
        memcpy(note.enclosure_slot, device.enclosure_slot, sizeof note.enclosure_slot);
    }
    note.last_seen_ns = clock_realtime_ns();
    if (generation > 0)
        note.generation = generation;
    put_note(recorder, row, &note);
}

void disk_note_forget(struct recorder *recorder, const struct state_disk *row)
{
    char name[64];
    note_name(row, name);
    (void)state_put_setting(recorder->state, &row->ring, name, NULL);
}

int disk_note_check(const struct disk_note *note, const char *path,
                    const struct superblock *superblock, struct failure *failure)
{
    uint64_t found = le64_get(superblock->generation);
    if (note->generation == 0)
        return 0;
    if (found > note->generation + GENERATION_SLACK)
        return fail(failure, ERR_MISMATCH,
                    "%s has been written by another recorder since (generation %" PRIu64
                    ", not %" PRIu64 "); --force takes it all the same",
                    path, found, note->generation);
    if (found + GENERATION_SLACK < note->generation)
        return fail(failure, ERR_MISMATCH,
                    "%s is an older copy of the disk (generation %" PRIu64 ", not %" PRIu64
                    "); --force takes it all the same",
                    path, found, note->generation);
    return 0;
}

/* ---- which one ---------------------------------------------------------------------------------- */

struct search {
    struct recorder *recorder;
    const char *word;
    char real[1024];   /* the word as a path, through links; "" where it is none */
    uint64_t number;   /* the word as a number; 0: it is none */
    int best;          /* how well the match that was found matches; 0: none */
    uint32_t matches;  /* of those that match so */
    struct state_disk *row;
};

static bool is_path(const struct search *search, const struct state_disk *row)
{
    char real[4096];
    struct disk_note note;
    if (strchr(search->word, '/') == NULL)
        return false;
    if (strcmp(row->path, search->word) == 0)
        return true;
    if (disk_note_get(search->recorder, row, &note) == 0 &&
        strcmp(note.stable_path, search->word) == 0)
        return true;
    return search->real[0] && realpath(row->path, real) && strcmp(real, search->real) == 0;
}

/* A number beats digits of an identity, which could be anything. */
static int quality(const struct search *search, const struct state_disk *row)
{
    char id[IDENTITY_TEXT_SIZE];
    size_t length = strlen(search->word);
    if (is_path(search, row))
        return 3;
    if (search->number > 0 && search->number == row->number)
        return 2;
    return length >= PREFIX_DIGITS_MIN &&
           strncasecmp(identity_text(&row->disk, id), search->word, length) == 0;
}

static int match(const struct state_disk *row, void *context)
{
    struct search *search = context;
    int how = quality(search, row);
    if (how == 0 || how < search->best)
        return 0;
    search->matches = how == search->best ? search->matches + 1 : 1;
    search->best = how;
    *search->row = *row;
    return 0;
}

static int match_in_ring(const struct state_ring *ring, void *context)
{
    struct search *search = context;
    return state_disks(search->recorder->state, &ring->ring, match, search);
}

int disk_row_find(struct recorder *recorder, const struct identity *ring, const char *word,
                  struct state_disk *row, struct failure *failure)
{
    struct search search = {.recorder = recorder, .word = word, .row = row};
    char real[4096], shown[128];
    text_printable(word, shown, sizeof shown);
    if (strchr(word, '/') && realpath(word, real) && strlen(real) < sizeof search.real)
        memcpy(search.real, real, strlen(real) + 1);
    if (word[0] != '\0' && strlen(word) <= 9 && word[strspn(word, "0123456789")] == '\0')
        search.number = strtoull(word, NULL, 10);
    int result = ring ? state_disks(recorder->state, ring, match, &search)
                      : state_rings(recorder->state, match_in_ring, &search);
    if (result != 0)
        return fail(failure, result, "state.db cannot be read: %s", error_text(result));
    if (search.matches == 0)
        return fail(failure, ERR_NOT_FOUND,
                    "there is no disk \"%s\": give its number, its path, or the first digits of its "
                    "identity (tapeloop disk list)",
                    shown);
    if (search.matches > 1)
        return fail(failure, ERR_INVALID,
                    "disk \"%s\" could be several: give its path, or more of its identity "
                    "(tapeloop disk list)",
                    shown);
    return 0;
}

int disk_row_put(struct recorder *recorder, const struct state_disk *row, struct failure *failure)
{
    int result = state_put_disk(recorder->state, row);
    return result == 0 ? 0
                       : fail(failure, result, "disk %.200s: state.db could not be written: %s",
                              row->path, error_text(result));
}

/* ---- where it is -------------------------------------------------------------------------------- */

/* superblock_read() of a disk that may hang: others wait meanwhile. ERR_TIMEOUT: it does not answer, and can only be closed. */
static int read_patiently(struct disk **disk, struct superblock *superblock, struct failure *failure)
{
    int result = disk_patient_begin(disk, 0);
    if (result != 0)
        return fail(failure, result, "disk %s: %s", (*disk)->name, error_text(result));
    result = superblock_read(*disk, superblock, NULL, failure);
    return disk_patient_end(disk) ? result
                                  : fail(failure, ERR_TIMEOUT, "disk %s does not answer", (*disk)->name);
}

int disk_peek(const char *path, struct superblock *superblock, struct failure *failure)
{
    struct disk *disk;
    int result = disk_uring_open(path, DISK_OPEN_READ, &disk, failure);
    if (result == 0) {
        result = read_patiently(&disk, superblock, failure);
        disk_close(&disk);
    }
    return result;
}

static bool is_same(const struct state_disk *row, const struct superblock *superblock)
{
    return identity_equal(&superblock->disk, &row->disk) &&
           identity_equal(&superblock->ring, &row->ring);
}

struct whereabouts {
    const struct state_disk *row;
    struct superblock *superblock;
};

static bool is_it(const char *path, void *context)
{
    struct whereabouts *wanted = context;
    return disk_peek(path, wanted->superblock, NULL) == 0 && is_same(wanted->row, wanted->superblock);
}

/* Opens what is at row->path, if it is the disk. ERR_MISMATCH: it is not. */
static int open_here(struct state_disk *row, struct superblock *superblock, struct disk **disk,
                     struct failure *failure)
{
    int result = disk_uring_open(row->path, DISK_OPEN_EXCLUSIVE, disk, failure);
    if (result == ERR_BUSY && disk_peek(row->path, superblock, NULL) == 0 &&
        !is_same(row, superblock))
        return fail(failure, ERR_MISMATCH, "disk %s is another one now: of ring \"%s\"", row->path,
                    superblock->ring_name);
    if (result != 0)
        return result;
    result = read_patiently(disk, superblock, failure);
    if (result == 0 && !is_same(row, superblock))
        result = fail(failure, ERR_MISMATCH, "disk %s is another one now: of ring \"%s\"", row->path,
                      superblock->ring_name);
    if (result != 0)
        disk_close(disk);
    return result;
}

int disk_row_open(struct recorder *recorder, struct state_disk *row, struct superblock *superblock,
                  struct disk **disk, struct failure *failure)
{
    struct disk_note note;
    char path[DEVICE_PATH_SIZE];
    struct whereabouts wanted = {.row = row, .superblock = superblock};
    int result = open_here(row, superblock, disk, failure);
    if (result == 0 || result == ERR_BUSY || result == ERR_NO_MEMORY)
        return result;
    if (disk_note_get(recorder, row, &note) != 0 || note.is_file || note.last_seen_ns == 0 ||
        device_find(note.device, is_it, &wanted, path) != 0)
        return result; /* what was found at its path is what there is to say */
    struct state_disk moved = *row;
    memcpy(moved.path, path, strlen(path) + 1);
    result = open_here(&moved, superblock, disk, failure);
    if (result == 0)
        *row = moved;
    return result;
}
