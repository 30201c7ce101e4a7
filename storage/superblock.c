/*
 * superblock.c - see superblock.h for the four places and why there are four.
 *
 * What a crash can leave behind while generation g is written (the others hold g-1, and g-2 where g
 * goes): head[g] torn or new, tail[g] still g-2, torn or new; head[g-1] and tail[g-1] are
 * untouched. The reader takes g where it is whole, else g-1: either was the truth at that instant.
 */
#include "superblock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "text.h"

#define GENERATION_MAX (UINT64_C(1) << 62) /* nobody gets there; leaves room to count on */
#define DISK_BYTES_MAX (UINT64_C(1) << 62)
#define SLOTS_ALIGNMENT (1024u * 1024)

/* ---- geometry -----------------------------------------------------------------------------------
 */

static uint64_t slot_bytes_usual(uint64_t disk_bytes)
{
    uint64_t slot_bytes = SLOT_BYTES_MIN;
    while (slot_bytes < SLOT_BYTES_MAX && slot_bytes * 2 <= disk_bytes / 256)
        slot_bytes *= 2;
    return slot_bytes;
}

static bool is_slot_size(uint64_t bytes)
{
    return bytes >= SLOT_BYTES_MIN && bytes <= SLOT_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

int disk_geometry_plan(uint64_t disk_bytes, uint64_t slot_bytes, struct disk_geometry *geometry,
                       struct failure *failure)
{
    char have[TEXT_SIZE_SIZE], want[TEXT_SIZE_SIZE], slot[TEXT_SIZE_SIZE];
    if (disk_bytes > DISK_BYTES_MAX)
        return fail(failure, ERR_TOO_LARGE, "a disk of %llu bytes is larger than is supported",
                    (unsigned long long)disk_bytes);
    if (slot_bytes == 0)
        slot_bytes = slot_bytes_usual(disk_bytes);
    if (!is_slot_size(slot_bytes))
        return fail(failure, ERR_INVALID,
                    "a segment size of %llu bytes is not a power of two from 1 MiB to 64 MiB",
                    (unsigned long long)slot_bytes);
    uint64_t slots_offset = round_up(META_BYTES, SLOTS_ALIGNMENT);
    uint64_t least = slots_offset + SLOTS_MIN * slot_bytes + META_BYTES;
    uint64_t used = round_down(disk_bytes, PAGE_BYTES);
    if (used < least)
        return fail(
            failure, ERR_TOO_SMALL, "%s is too small: with segments of %s a disk needs at least %s",
            text_size(disk_bytes, have), text_size(slot_bytes, slot), text_size(least, want));
    uint64_t count = (used - slots_offset - META_BYTES) / slot_bytes;
    if (count >= UINT32_MAX) /* UINT32_MAX itself is DISK_SLOT_META */
        return fail(failure, ERR_TOO_LARGE, "segments of %s are too many on a disk of %s",
                    text_size(slot_bytes, slot), text_size(disk_bytes, have));
    *geometry = (struct disk_geometry){
        .disk_bytes = used,
        .slots_offset = slots_offset,
        .slot_bytes = slot_bytes,
        .slot_count = (uint32_t)count,
    };
    return 0;
}

uint64_t superblock_place_offset(enum superblock_place place, uint64_t disk_bytes)
{
    uint64_t pair = place < SUPERBLOCK_TAIL_FIRST ? 0 : disk_bytes - META_BYTES;
    return pair + (place % 2 != 0 ? SUPERBLOCK_SECOND_OFFSET : 0);
}

const char *superblock_place_text(enum superblock_place place)
{
    static const char *const text[] = {"head, first place", "head, second place",
                                       "tail, first place", "tail, second place"};
    return place < SUPERBLOCK_PLACES ? text[place] : "no place";
}

/* ---- making ---------------------------------------------------------------------------------- */

void superblock_set_text(char *field, size_t field_bytes, const char *text)
{
    memset(field, 0, field_bytes);
    for (size_t i = 0; i + 1 < field_bytes && text[i] != 0; i++) {
        unsigned char c = (unsigned char)text[i];
        field[i] = c < 0x20 || c == 0x7f ? '?' : text[i];
    }
}

void superblock_make(struct superblock *superblock, const struct disk_geometry *geometry,
                     const struct identity *ring, const char *ring_name, uint8_t copies,
                     uint64_t now_ns)
{
    memset(superblock, 0, sizeof *superblock);
    memcpy(superblock->magic, SUPERBLOCK_MAGIC, sizeof superblock->magic);
    superblock->version = le32_of(FORMAT_VERSION);
    superblock->ring = *ring;
    identity_make(&superblock->disk);
    superblock->created_ns = le64_of(now_ns);
    superblock->updated_ns = le64_of(now_ns);
    superblock->disk_bytes = le64_of(geometry->disk_bytes);
    superblock->slots_offset = le64_of(geometry->slots_offset);
    superblock->slot_bytes = le64_of(geometry->slot_bytes);
    superblock->slot_count = le64_of(geometry->slot_count);
    superblock->copies = copies;
    superblock_set_text(superblock->ring_name, sizeof superblock->ring_name, ring_name);
}

void superblock_geometry(const struct superblock *superblock, struct disk_geometry *geometry)
{
    *geometry = (struct disk_geometry){
        .disk_bytes = le64_get(superblock->disk_bytes),
        .slots_offset = le64_get(superblock->slots_offset),
        .slot_bytes = le64_get(superblock->slot_bytes),
        .slot_count = (uint32_t)le64_get(superblock->slot_count),
    };
}

/* ---- checking -------------------------------------------------------------------------------- */

static uint32_t superblock_crc(const uint8_t *bytes)
{
    static const uint8_t zero[sizeof(le32)];
    size_t at = offsetof(struct superblock, crc);
    uint32_t crc = checksum_crc32c(bytes, at);
    crc = checksum_crc32c_more(crc, zero, sizeof zero);
    at += sizeof zero;
    return checksum_crc32c_more(crc, bytes + at, SUPERBLOCK_BYTES - at);
}

/* Terminated, and without control characters; bytes above 127 are some file system's names. */
static bool is_text(const char *field, size_t field_bytes)
{
    for (size_t i = 0; i < field_bytes; i++) {
        unsigned char c = (unsigned char)field[i];
        if (c == 0)
            return true;
        if (c < 0x20 || c == 0x7f)
            return false;
    }
    return false;
}

static bool is_geometry(const struct superblock *superblock)
{
    uint64_t disk_bytes = le64_get(superblock->disk_bytes);
    uint64_t slots_offset = le64_get(superblock->slots_offset);
    uint64_t slot_bytes = le64_get(superblock->slot_bytes);
    uint64_t slot_count = le64_get(superblock->slot_count);
    if (disk_bytes > DISK_BYTES_MAX || disk_bytes % PAGE_BYTES != 0 || disk_bytes < 2 * META_BYTES)
        return false;
    if (slots_offset % PAGE_BYTES != 0 || slots_offset < META_BYTES ||
        slots_offset > disk_bytes - META_BYTES)
        return false;
    if (!is_slot_size(slot_bytes) || slot_count < SLOTS_MIN || slot_count >= UINT32_MAX)
        return false;
    /* Below 2^32 times at most 2^26: no overflow. */
    return slot_count * slot_bytes <= disk_bytes - META_BYTES - slots_offset;
}

static bool are_members(const struct superblock *superblock)
{
    uint32_t members = le16_get(superblock->members);
    if (members > SUPERBLOCK_MEMBERS)
        return false;
    for (uint32_t i = 0; i < members; i++) {
        const struct superblock_member *member = &superblock->member[i];
        if (identity_is_zero(&member->disk) || member->state > DISK_FOREIGN ||
            le64_get(member->bytes) > DISK_BYTES_MAX || !is_text(member->name, sizeof member->name))
            return false;
        for (uint32_t other = 0; other < i; other++) {
            if (identity_equal(&member->disk, &superblock->member[other].disk))
                return false;
        }
    }
    return true;
}

/* On a superblock whose checksum is right and whose version is ours. */
static bool is_plausible(const struct superblock *superblock)
{
    if (le64_get(superblock->generation) >= GENERATION_MAX || identity_is_zero(&superblock->ring) ||
        identity_is_zero(&superblock->disk))
        return false;
    if (superblock->copies < 1 || superblock->copies > COPIES_MAX)
        return false;
    if (!is_text(superblock->ring_name, sizeof superblock->ring_name) ||
        text_check_ring_name(superblock->ring_name, NULL) != 0 ||
        !is_text(superblock->recorder, sizeof superblock->recorder))
        return false;
    if (le16_get(superblock->tombstones) > SUPERBLOCK_TOMBSTONES)
        return false;
    return is_geometry(superblock) && are_members(superblock);
}

int superblock_check(const uint8_t *bytes, size_t size)
{
    if (size < sizeof(struct superblock) || memcmp(bytes, SUPERBLOCK_MAGIC, 8) != 0)
        return ERR_FOREIGN;
    /* Every field is bytes, so the struct may lie anywhere. */
    const struct superblock *superblock = (const struct superblock *)bytes;
    if (le32_get(superblock->crc) != superblock_crc(bytes))
        return ERR_CORRUPT;
    /* A cipher is announced by an incompatible feature; this version knows none. */
    if (le32_get(superblock->version) != FORMAT_VERSION ||
        (le32_get(superblock->incompat) & ~FEATURE_INCOMPAT_KNOWN) != 0 || superblock->cipher != 0)
        return ERR_UNSUPPORTED;
    return is_plausible(superblock) ? 0 : ERR_CORRUPT;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* What was found in the four places; `copy` is 4 x SUPERBLOCK_BYTES, page-aligned. */
struct reading {
    struct disk *disk;
    uint8_t *copy;
    int verdict[SUPERBLOCK_PLACES]; /* 0, ERR_IO or superblock_check's */
};

static struct superblock *reading_at(const struct reading *reading, unsigned place)
{
    return (struct superblock *)(reading->copy + (size_t)place * SUPERBLOCK_BYTES);
}

static void read_pair(struct reading *reading, enum superblock_place first, uint64_t disk_bytes)
{
    for (unsigned place = first; place < first + 2u; place++) {
        uint8_t *bytes = (uint8_t *)reading_at(reading, place);
        int result = disk_read(reading->disk, DISK_SLOT_META,
                               superblock_place_offset((enum superblock_place)place, disk_bytes),
                               bytes, SUPERBLOCK_BYTES);
        reading->verdict[place] = result != 0 ? result : superblock_check(bytes, SUPERBLOCK_BYTES);
    }
}

/* The valid place with the highest generation (of equals the first), or SUPERBLOCK_PLACES. */
static unsigned best_place(const struct reading *reading)
{
    unsigned best = SUPERBLOCK_PLACES;
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++) {
        if (reading->verdict[place] != 0)
            continue;
        if (best == SUPERBLOCK_PLACES || le64_get(reading_at(reading, place)->generation) >
                                             le64_get(reading_at(reading, best)->generation))
            best = place;
    }
    return best;
}

static enum superblock_finding finding_of(int verdict)
{
    switch (verdict) {
    case 0:
        return SUPERBLOCK_GOOD;
    case ERR_FOREIGN:
        return SUPERBLOCK_ABSENT;
    case ERR_CORRUPT:
    case ERR_UNSUPPORTED:
        return SUPERBLOCK_DAMAGED;
    default:
        return SUPERBLOCK_UNREADABLE;
    }
}

/*
 * Judges each place against the best: a place of the best's parity must hold the best's generation,
 * the two others must agree on an older one. What carries another disk's identity belongs to an
 * earlier life.
 */
static void judge_places(const struct reading *reading, unsigned best,
                         struct superblock_condition *condition)
{
    memset(condition, 0, sizeof *condition);
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++) {
        condition->place[place] = finding_of(reading->verdict[place]);
        if (reading->verdict[place] == 0)
            condition->generation[place] = le64_get(reading_at(reading, place)->generation);
    }
    if (best < SUPERBLOCK_PLACES) {
        const struct superblock *truth = reading_at(reading, best);
        uint64_t generation = le64_get(truth->generation);
        for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++) {
            if (reading->verdict[place] != 0)
                continue;
            const struct superblock *here = reading_at(reading, place);
            bool good = identity_equal(&here->disk, &truth->disk) &&
                        identity_equal(&here->ring, &truth->ring);
            if (place % 2 == generation % 2) {
                good = good && memcmp(here, truth, SUPERBLOCK_BYTES) == 0;
            } else {
                unsigned twin = (place + 2) % SUPERBLOCK_PLACES;
                uint64_t twins = reading->verdict[twin] == 0
                                     ? le64_get(reading_at(reading, twin)->generation)
                                     : 0;
                good = good && place % 2 == le64_get(here->generation) % 2 &&
                       (reading->verdict[twin] != 0 || le64_get(here->generation) >= twins);
            }
            if (!good)
                condition->place[place] = SUPERBLOCK_STALE;
        }
    }
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++)
        condition->repairs += condition->place[place] != SUPERBLOCK_GOOD;
}

static int no_superblock(const struct reading *reading, struct failure *failure)
{
    const char *name = reading->disk->name;
    bool ours = false, unreadable = false;
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++) {
        ours |= reading->verdict[place] == ERR_CORRUPT;
        unreadable |= reading->verdict[place] != 0 &&
                      finding_of(reading->verdict[place]) == SUPERBLOCK_UNREADABLE;
    }
    if (unreadable)
        return fail(failure, ERR_IO, "%s: no superblock can be read", name);
    if (ours)
        return fail(failure, ERR_CORRUPT, "%s: all copies of the superblock are damaged", name);
    return fail(failure, ERR_FOREIGN, "%s is not a tapeloop disk", name);
}

static int take(struct reading *reading, unsigned best, struct superblock *superblock,
                struct failure *failure)
{
    struct disk *disk = reading->disk;
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++) {
        if (reading->verdict[place] == ERR_UNSUPPORTED)
            return fail(failure, ERR_UNSUPPORTED, "%s was written by a newer version of tapeloop",
                        disk->name);
    }
    if (best == SUPERBLOCK_PLACES)
        return no_superblock(reading, failure);
    const struct superblock *found = reading_at(reading, best);
    if (le64_get(found->disk_bytes) > disk->bytes)
        return fail(failure, ERR_CORRUPT, "%s has shrunk: it has %llu bytes and had %llu",
                    disk->name, (unsigned long long)disk->bytes,
                    (unsigned long long)le64_get(found->disk_bytes));
    if (!disk->read_only && (le32_get(found->compat) & ~FEATURE_COMPAT_KNOWN) != 0)
        return fail(failure, ERR_UNSUPPORTED,
                    "%s was written by a newer version of tapeloop: it can only be read",
                    disk->name);
    memcpy(superblock, found, sizeof *superblock);
    superblock_geometry(superblock, &disk->geometry);
    return 0;
}

int superblock_read(struct disk *disk, struct superblock *superblock,
                    struct superblock_condition *condition, struct failure *failure)
{
    struct superblock_condition ignored;
    struct reading reading = {.disk = disk};
    if (condition == NULL)
        condition = &ignored;
    for (unsigned place = 0; place < SUPERBLOCK_PLACES; place++)
        reading.verdict[place] = ERR_FOREIGN;
    memset(condition, 0, sizeof *condition);
    if (disk->bytes < 2 * META_BYTES)
        return fail(failure, ERR_FOREIGN, "%s is not a tapeloop disk: it is too small", disk->name);
    reading.copy = aligned_alloc(PAGE_BYTES, (size_t)SUPERBLOCK_PLACES * SUPERBLOCK_BYTES);
    if (reading.copy == NULL)
        return fail(failure, ERR_NO_MEMORY, "%s: no memory for the superblock", disk->name);

    read_pair(&reading, SUPERBLOCK_HEAD_FIRST, disk->bytes);
    /* Where the tail lies the head says; if it cannot, it is where it would be on a disk used
     * whole. */
    unsigned best = best_place(&reading);
    uint64_t disk_bytes = round_down(disk->bytes, PAGE_BYTES);
    if (best < SUPERBLOCK_PLACES && le64_get(reading_at(&reading, best)->disk_bytes) < disk_bytes)
        disk_bytes = le64_get(reading_at(&reading, best)->disk_bytes);
    read_pair(&reading, SUPERBLOCK_TAIL_FIRST, disk_bytes);
    best = best_place(&reading);
    judge_places(&reading, best, condition);
    int result = take(&reading, best, superblock, failure);
    free(reading.copy);
    return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* disk_write() of a page-aligned buffer, with the sentence. */
static int put(struct disk *disk, uint64_t offset, uint8_t *bytes, uint32_t count,
               struct failure *failure)
{
    int result = disk_write(disk, DISK_SLOT_META, offset, bytes, count);
    if (result == 0)
        return 0;
    return fail(failure, result, "%s: writing the superblock at byte %llu: %s", disk->name,
                (unsigned long long)offset, error_text(result));
}

static int settle(struct disk *disk, struct failure *failure)
{
    int result = disk_flush(disk);
    if (result == 0)
        return 0;
    return fail(failure, result, "%s: flushing the superblock: %s", disk->name, error_text(result));
}

static int put_and_settle(struct disk *disk, uint64_t offset, uint8_t *bytes, uint32_t count,
                          struct failure *failure)
{
    int result = put(disk, offset, bytes, count, failure);
    return result != 0 ? result : settle(disk, failure);
}

static void superblock_seal(struct superblock *superblock)
{
    superblock->crc = le32_of(superblock_crc((const uint8_t *)superblock));
}

/* Writes the superblock as it is to the places of its generation. */
static int write_generation(struct disk *disk, struct superblock *superblock,
                            struct failure *failure)
{
    superblock_seal(superblock);
    if (superblock_check((const uint8_t *)superblock, sizeof *superblock) != 0 ||
        le64_get(superblock->disk_bytes) > disk->bytes)
        return fail(failure, ERR_INTERNAL, "%s: refused to write an impossible superblock",
                    disk->name);
    uint8_t *bytes = aligned_alloc(PAGE_BYTES, SUPERBLOCK_BYTES);
    if (bytes == NULL)
        return fail(failure, ERR_NO_MEMORY, "%s: no memory for the superblock", disk->name);
    memcpy(bytes, superblock, SUPERBLOCK_BYTES);
    uint64_t disk_bytes = le64_get(superblock->disk_bytes);
    unsigned second = le64_get(superblock->generation) % 2;
    int result =
        put_and_settle(disk, superblock_place_offset(SUPERBLOCK_HEAD_FIRST + second, disk_bytes),
                       bytes, SUPERBLOCK_BYTES, failure);
    if (result == 0)
        result = put_and_settle(disk,
                                superblock_place_offset(SUPERBLOCK_TAIL_FIRST + second, disk_bytes),
                                bytes, SUPERBLOCK_BYTES, failure);
    free(bytes);
    return result;
}

int superblock_write(struct disk *disk, struct superblock *superblock, struct failure *failure)
{
    uint64_t generation = le64_get(superblock->generation) + 1;
    superblock->generation = le64_of(generation);
    int result = write_generation(disk, superblock, failure);
    /* The place may be torn now, and the other one of its pair is the last good one: the next try,
     * under a generation of its own, must come back to this one. */
    if (result != 0)
        superblock->generation = le64_of(generation + 1);
    return result;
}

int superblock_repair(struct disk *disk, struct superblock *superblock, struct failure *failure)
{
    int result = superblock_write(disk, superblock, failure);
    return result != 0 ? result : superblock_write(disk, superblock, failure);
}

/* Takes a previous owner's superblocks away, all before the first of ours is written: a crash in
 * the middle must not leave an old one of a higher generation beside a new one. */
static int clear_places(struct disk *disk, uint64_t disk_bytes, struct failure *failure)
{
    uint8_t *zeros = aligned_alloc(PAGE_BYTES, META_BYTES);
    if (zeros == NULL)
        return fail(failure, ERR_NO_MEMORY, "%s: no memory for the superblock", disk->name);
    memset(zeros, 0, META_BYTES);
    int result = put(disk, 0, zeros, META_BYTES, failure);
    if (result == 0)
        result = put_and_settle(disk, disk_bytes - META_BYTES, zeros, META_BYTES, failure);
    free(zeros);
    return result;
}

int superblock_format(struct disk *disk, struct superblock *superblock, struct failure *failure)
{
    uint64_t disk_bytes = le64_get(superblock->disk_bytes);
    superblock->generation = le64_of(0);
    superblock_seal(superblock);
    if (superblock_check((const uint8_t *)superblock, sizeof *superblock) != 0 ||
        disk_bytes > disk->bytes)
        return fail(failure, ERR_INTERNAL, "%s: refused to write an impossible superblock",
                    disk->name);
    int result = clear_places(disk, disk_bytes, failure);
    if (result == 0)
        result = write_generation(disk, superblock, failure);
    if (result == 0)
        result = superblock_write(disk, superblock, failure);
    if (result == 0)
        superblock_geometry(superblock, &disk->geometry);
    return result;
}
