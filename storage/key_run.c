/*
 * key_run.c - runs: a head, the segments, then for each type of key its pages and their first keys.
 *
 *     head (4 KiB) | segments | pages of type 0 | fences of type 0 | pages of type 1 | ...
 *
 * A page is 4 KiB: le32 CRC of the rest, le16 entries, le16 zero, then entries in ascending order of
 * their keys: key, a byte n, and either n numbers of segments (a byte each in runs of up to 256,
 * else two) or, where n is 0, a bit for each segment. Fences are the first key of each page.
 */
#include "key_run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "disk_format.h"
#include "errors.h"

#define RUN_MAGIC "tlkeyrun"
#define RUN_VERSION 1u
#define PAGE_HEAD_BYTES 8u
#define PAGES_MAX (1u << 18)
#define RANGE_PAGES_MAX 64u /* a range of keys over more pages is not looked up */
#define KEYS_MAX (2u << 20) /* of one type */
#define KEY_BYTES_MAX 16u
#define FILE_NAME_MAX 200u

struct run_section {
    le32 pages;
    le32 present; /* 0: keys of this type were left out, any segment may have any of them */
    le64 pages_offset;
    le64 fences_offset;
    le32 fences_crc;
    le32 reserved;
};

struct run_head {
    uint8_t magic[8];
    le32 crc; /* of this struct with this field zero */
    le32 version;
    struct identity ring;
    le64 bytes;
    le32 segments;
    le32 segments_crc;
    struct run_section section[KEY_TYPES];
    uint8_t always[KEY_RUN_SEGMENTS_MAX / 8]; /* segments that cannot be excluded */
};

struct run_segment {
    struct identity segment;
    le64 position;
    le32 revision;
    le32 reserved;
};

_Static_assert(sizeof(struct run_section) == 32 && sizeof(struct run_segment) == 32, "on disk");
_Static_assert(sizeof(struct run_head) <= PAGE_BYTES, "the head has a page");

/* ---- making ------------------------------------------------------------------------------------ */

struct key_table { /* open addressing; records of key and bits */
    uint8_t *record;
    uint32_t *slot; /* number of a record plus one */
    uint32_t slots;
    uint32_t count, room;
    bool left_out;
};

struct key_run_maker {
    struct identity ring;
    struct key_run_segment *segment;
    uint32_t segments, segments_max, set_bytes;
    uint8_t always[KEY_RUN_SEGMENTS_MAX / 8];
    struct key_table table[KEY_TYPES];
    int code; /* of what cannot return one */
};

int key_run_begin(const struct identity *ring, uint32_t segments, struct key_run_maker **out)
{
    if (segments == 0 || segments > KEY_RUN_SEGMENTS_MAX)
        return ERR_INVALID;
    struct key_run_maker *maker = calloc(1, sizeof *maker);
    if (maker)
        maker->segment = calloc(segments, sizeof *maker->segment);
    if (!maker || !maker->segment) {
        free(maker);
        return ERR_NO_MEMORY;
    }
    maker->ring = *ring;
    maker->segments_max = segments;
    maker->set_bytes = (segments + 7) / 8;
    *out = maker;
    return 0;
}

void key_run_end(struct key_run_maker **slot)
{
    struct key_run_maker *maker = *slot;
    if (!maker)
        return;
    for (unsigned type = 0; type < KEY_TYPES; type++) {
        free(maker->table[type].record);
        free(maker->table[type].slot);
    }
    free(maker->segment);
    free(maker);
    *slot = NULL;
}

static uint32_t record_bytes(const struct key_run_maker *maker, enum narrowing_key_type type)
{
    return narrowing_key_bytes(type) + maker->set_bytes;
}

static uint32_t key_hash(const uint8_t *key, uint32_t bytes)
{
    uint64_t hash = 0x9e3779b97f4a7c15u;
    for (uint32_t i = 0; i < bytes; i++)
        hash = (hash ^ key[i]) * 0x100000001b3u;
    return (uint32_t)(hash ^ hash >> 32);
}

static void table_leave_out(struct key_table *table)
{
    free(table->record);
    free(table->slot);
    *table = (struct key_table){.left_out = true};
}

static bool table_grow(struct key_table *table, uint32_t key_bytes, uint32_t bytes)
{
    uint32_t room = table->room ? 2 * table->room : 1024, slots = 2 * room;
    uint8_t *record = realloc(table->record, (size_t)room * bytes);
    if (!record)
        return false;
    table->record = record;
    uint32_t *slot = calloc(slots, sizeof *slot);
    if (!slot)
        return false;
    for (uint32_t i = 0; i < table->count; i++) {
        uint32_t at = key_hash(record + (size_t)i * bytes, key_bytes) & (slots - 1);
        while (slot[at] != 0)
            at = (at + 1) & (slots - 1);
        slot[at] = i + 1;
    }
    free(table->slot);
    table->slot = slot;
    table->slots = slots;
    table->room = room;
    return true;
}

/* The newest segment has this key. */
static void add_key(void *context, enum narrowing_key_type type, const uint8_t *key)
{
    struct key_run_maker *maker = context;
    struct key_table *table = &maker->table[type];
    uint32_t key_bytes = narrowing_key_bytes(type), bytes = record_bytes(maker, type);
    if (table->left_out)
        return;
    if (table->count == table->room) {
        if (table->count >= KEYS_MAX) {
            table_leave_out(table);
            return;
        }
        if (!table_grow(table, key_bytes, bytes)) {
            maker->code = ERR_NO_MEMORY;
            return;
        }
    }
    uint32_t at = key_hash(key, key_bytes) & (table->slots - 1);
    uint8_t *record;
    for (;; at = (at + 1) & (table->slots - 1)) {
        record = table->record + (size_t)(table->slot[at] - 1) * bytes;
        if (table->slot[at] == 0 || memcmp(record, key, key_bytes) == 0)
            break;
    }
    if (table->slot[at] == 0) {
        record = table->record + (size_t)table->count * bytes;
        memcpy(record, key, key_bytes);
        memset(record + key_bytes, 0, maker->set_bytes);
        table->slot[at] = ++table->count;
    }
    uint32_t number = maker->segments - 1;
    record[key_bytes + number / 8] |= (uint8_t)(1u << number % 8);
}

static int add_flow(void *context, const struct flow_keys *keys, const struct flow_seen *seen)
{
    struct key_run_maker *maker = context;
    narrowing_keys(keys, seen, add_key, maker);
    return maker->code;
}

int key_run_add_segment(struct key_run_maker *maker, const struct key_run_segment *segment,
                        struct flow_reader *index, bool whole)
{
    if (maker->segments == maker->segments_max)
        return ERR_NO_SPACE;
    uint32_t number = maker->segments++;
    maker->segment[number] = *segment;
    int code = index && whole ? flow_reader_each(index, add_flow, maker) : ERR_NOT_FOUND;
    if (code != 0)
        maker->always[number / 8] |= (uint8_t)(1u << number % 8);
    return maker->code;
}

/* ---- writing ----------------------------------------------------------------------------------- */

struct run_writer {
    int fd;
    uint64_t offset;
    int code;
};

static void write_bytes(struct run_writer *writer, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    while (count > 0 && writer->code == 0) {
        ssize_t written = write(writer->fd, at, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            writer->code = errno == ENOSPC || errno == EDQUOT ? ERR_NO_SPACE : ERR_IO;
            return;
        }
        at += written;
        count -= (size_t)written;
        writer->offset += (uint64_t)written;
    }
}

static int compare_keys(const void *a, const void *b, void *context)
{
    return memcmp(a, b, *(const uint32_t *)context);
}

/* A set as it lies in a page; returns its length. */
static uint32_t put_set(const struct key_run_maker *maker, const uint8_t *bits, uint8_t *at)
{
    uint32_t width = maker->segments > 256 ? 2 : 1, count = 0;
    uint32_t set_bytes = (maker->segments + 7) / 8;
    for (uint32_t i = 0; i < maker->segments; i++) {
        if ((bits[i / 8] >> i % 8 & 1) == 0)
            continue;
        if ((count + 1) * width >= set_bytes) { /* bits are shorter */
            at[0] = 0;
            memcpy(at + 1, bits, set_bytes);
            return 1 + set_bytes;
        }
        at[1 + count * width] = (uint8_t)i;
        if (width == 2)
            at[2 + count * width] = (uint8_t)(i >> 8);
        count++;
    }
    at[0] = (uint8_t)count;
    return 1 + count * width;
}

static void page_finish(struct run_writer *writer, uint8_t *page, uint32_t *used, uint32_t entries)
{
    le16 count = le16_of((uint16_t)entries);
    memset(page + *used, 0, PAGE_BYTES - *used);
    memcpy(page + 4, &count, sizeof count);
    le32 crc = le32_of(checksum_crc32c(page + 4, PAGE_BYTES - 4));
    memcpy(page, &crc, sizeof crc);
    write_bytes(writer, page, PAGE_BYTES);
    *used = PAGE_HEAD_BYTES;
}

static void write_section(struct key_run_maker *maker, struct run_writer *writer,
                          enum narrowing_key_type type, struct run_section *section)
{
    struct key_table *table = &maker->table[type];
    uint32_t key_bytes = narrowing_key_bytes(type), bytes = record_bytes(maker, type);
    uint8_t page[PAGE_BYTES] = {0}, set[2 + KEY_RUN_SEGMENTS_MAX / 8 + 2];
    uint32_t used = PAGE_HEAD_BYTES, entries = 0, pages = 0;
    section->present = le32_of(!table->left_out);
    section->pages_offset = le64_of(writer->offset);
    uint8_t *fences = malloc((table->count + 1ul) * key_bytes);
    if (!fences) {
        writer->code = ERR_NO_MEMORY;
        return;
    }
    if (table->count > 1)
        qsort_r(table->record, table->count, bytes, compare_keys, &key_bytes);
    for (uint32_t i = 0; i < table->count; i++) {
        const uint8_t *record = table->record + (size_t)i * bytes;
        uint32_t set_bytes = put_set(maker, record + key_bytes, set);
        if (used + key_bytes + set_bytes > PAGE_BYTES) {
            page_finish(writer, page, &used, entries);
            entries = 0;
        }
        if (entries++ == 0)
            memcpy(fences + (size_t)pages++ * key_bytes, record, key_bytes);
        memcpy(page + used, record, key_bytes);
        memcpy(page + used + key_bytes, set, set_bytes);
        used += key_bytes + set_bytes;
    }
    if (entries > 0)
        page_finish(writer, page, &used, entries);
    section->pages = le32_of(pages);
    section->fences_offset = le64_of(writer->offset);
    section->fences_crc = le32_of(checksum_crc32c(fences, (size_t)pages * key_bytes));
    write_bytes(writer, fences, (size_t)pages * key_bytes);
    free(fences);
    table->count = 0; /* sorted records no longer fit the slots */
    table_leave_out(table);
}

static void write_segments(const struct key_run_maker *maker, struct run_writer *writer,
                           struct run_head *head)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < maker->segments; i++) {
        const struct run_segment segment = {
            .segment = maker->segment[i].segment,
            .position = le64_of(maker->segment[i].position),
            .revision = le32_of(maker->segment[i].revision),
        };
        crc = checksum_crc32c_more(crc, &segment, sizeof segment);
        write_bytes(writer, &segment, sizeof segment);
    }
    head->segments = le32_of(maker->segments);
    head->segments_crc = le32_of(crc);
}

/* Where the next bytes go. */
static void write_at(struct run_writer *writer, uint64_t offset)
{
    writer->offset = offset;
    if (writer->code == 0 && lseek(writer->fd, (off_t)offset, SEEK_SET) < 0)
        writer->code = ERR_IO;
}

static void write_run(struct key_run_maker *maker, struct run_writer *writer)
{
    struct run_head head = {.version = le32_of(RUN_VERSION), .ring = maker->ring};
    memcpy(head.magic, RUN_MAGIC, sizeof head.magic);
    memcpy(head.always, maker->always, sizeof head.always);
    write_at(writer, PAGE_BYTES);
    write_segments(maker, writer, &head);
    for (unsigned type = 0; type < KEY_TYPES && writer->code == 0; type++)
        write_section(maker, writer, (enum narrowing_key_type)type, &head.section[type]);
    uint64_t bytes = writer->offset;
    head.bytes = le64_of(bytes);
    head.crc = le32_of(checksum_crc32c(&head, sizeof head));
    write_at(writer, 0);
    write_bytes(writer, &head, sizeof head);
    writer->offset = bytes;
}

int key_run_write(struct key_run_maker *maker, int fd, uint64_t *bytes)
{
    struct run_writer writer = {.fd = fd, .code = maker->code};
    if (writer.code == 0)
        write_run(maker, &writer);
    if (writer.code == 0 && bytes)
        *bytes = writer.offset;
    return writer.code;
}

#define FRESH ".new"

static int fresh_name(const char *name, char fresh[FILE_NAME_MAX + 8])
{
    if (strlen(name) > FILE_NAME_MAX)
        return ERR_TOO_LARGE;
    snprintf(fresh, FILE_NAME_MAX + 8, "%s" FRESH, name);
    return 0;
}

int key_run_create(int directory, const char *name, int *fd)
{
    char fresh[FILE_NAME_MAX + 8];
    int code = fresh_name(name, fresh);
    if (code != 0)
        return code;
    *fd = openat(directory, fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    return *fd >= 0 ? 0 : errno == ENOSPC || errno == EDQUOT ? ERR_NO_SPACE : ERR_IO;
}

int key_run_settle(int directory, const char *name, int fd, int code)
{
    char fresh[FILE_NAME_MAX + 8];
    if (fresh_name(name, fresh) != 0) {
        close(fd);
        return ERR_TOO_LARGE;
    }
    if (code == 0 && fsync(fd) != 0)
        code = ERR_IO;
    close(fd);
    if (code == 0 && renameat(directory, fresh, directory, name) != 0)
        code = ERR_IO;
    if (code == 0 && fsync(directory) != 0) {
        unlinkat(directory, name, 0); /* it is there or not after a crash: better not now, either */
        code = ERR_IO;
    }
    if (code != 0)
        unlinkat(directory, fresh, 0);
    return code;
}

void key_run_tidy(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    if (!names) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((entry = readdir(names))) {
        size_t length = strlen(entry->d_name);
        if (length >= sizeof FRESH && strcmp(entry->d_name + length - (sizeof FRESH - 1), FRESH) == 0)
            unlinkat(directory, entry->d_name, 0);
    }
    closedir(names);
}

int key_run_publish(struct key_run_maker *maker, int directory, const char *name, uint64_t *bytes)
{
    int fd;
    int code = maker->code != 0 ? maker->code : key_run_create(directory, name, &fd);
    if (code != 0)
        return code;
    return key_run_settle(directory, name, fd, key_run_write(maker, fd, bytes));
}

/* ---- asking ------------------------------------------------------------------------------------ */

struct section {
    bool present;
    uint32_t pages;
    uint64_t pages_offset, fences_offset;
    uint32_t fences_crc;
    uint8_t *fences; /* checked; null: not read yet */
};

struct key_run {
    int fd;
    struct key_run_segment *segment;
    uint32_t segments;
    uint64_t bytes;
    uint64_t bytes_read;
    uint8_t always[KEY_RUN_SEGMENTS_MAX / 8];
    struct section section[KEY_TYPES];
};

static int read_at(struct key_run *run, uint64_t offset, void *into, size_t count)
{
    uint8_t *at = into;
    run->bytes_read += count;
    while (count > 0) {
        ssize_t got = pread(run->fd, at, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ERR_IO;
        if (got == 0)
            return ERR_CORRUPT; /* shorter than it says */
        at += got;
        offset += (uint64_t)got;
        count -= (size_t)got;
    }
    return 0;
}

static bool inside(const struct key_run *run, uint64_t offset, uint64_t count)
{
    return offset <= run->bytes && count <= run->bytes - offset;
}

static int read_sections(struct key_run *run, const struct run_head *head)
{
    for (unsigned type = 0; type < KEY_TYPES; type++) {
        struct section *section = &run->section[type];
        const struct run_section *given = &head->section[type];
        uint64_t key_bytes = narrowing_key_bytes((enum narrowing_key_type)type);
        section->present = le32_get(given->present) != 0;
        section->pages = le32_get(given->pages);
        section->pages_offset = le64_get(given->pages_offset);
        section->fences_offset = le64_get(given->fences_offset);
        section->fences_crc = le32_get(given->fences_crc);
        if (section->pages > PAGES_MAX ||
            !inside(run, section->pages_offset, (uint64_t)section->pages * PAGE_BYTES) ||
            !inside(run, section->fences_offset, section->pages * key_bytes))
            return ERR_CORRUPT;
    }
    return 0;
}

static int read_segments(struct key_run *run, const struct run_head *head)
{
    uint32_t crc = 0;
    run->segments = le32_get(head->segments);
    if (run->segments > KEY_RUN_SEGMENTS_MAX ||
        !inside(run, PAGE_BYTES, run->segments * sizeof(struct run_segment)))
        return ERR_CORRUPT;
    run->segment = calloc(run->segments + 1ul, sizeof *run->segment);
    struct run_segment *given = calloc(run->segments + 1ul, sizeof *given);
    int code = run->segment && given
                   ? read_at(run, PAGE_BYTES, given, run->segments * sizeof *given)
                   : ERR_NO_MEMORY;
    crc = code == 0 ? checksum_crc32c(given, run->segments * sizeof *given) : 0;
    if (code == 0 && crc != le32_get(head->segments_crc))
        code = ERR_CORRUPT;
    for (uint32_t i = 0; code == 0 && i < run->segments; i++)
        run->segment[i] = (struct key_run_segment){
            .segment = given[i].segment,
            .position = le64_get(given[i].position),
            .revision = le32_get(given[i].revision),
        };
    free(given);
    return code;
}

static int read_head(struct key_run *run, const struct identity *ring)
{
    struct run_head head;
    int code = read_at(run, 0, &head, sizeof head);
    if (code < 0)
        return code;
    uint32_t crc = le32_get(head.crc);
    head.crc = le32_of(0);
    if (memcmp(head.magic, RUN_MAGIC, sizeof head.magic) != 0 ||
        checksum_crc32c(&head, sizeof head) != crc || le32_get(head.version) != RUN_VERSION)
        return ERR_CORRUPT;
    if (memcmp(&head.ring, ring, sizeof *ring) != 0)
        return ERR_FOREIGN;
    run->bytes = le64_get(head.bytes);
    memcpy(run->always, head.always, sizeof run->always);
    code = read_sections(run, &head);
    return code == 0 ? read_segments(run, &head) : code;
}

int key_run_open_fd(int fd, const struct identity *ring, struct key_run **out)
{
    struct key_run *run = calloc(1, sizeof *run);
    if (!run) {
        close(fd);
        return ERR_NO_MEMORY;
    }
    run->fd = fd;
    int code = read_head(run, ring);
    if (code < 0) {
        key_run_close(&run);
        return code;
    }
    *out = run;
    return 0;
}

int key_run_open(int directory, const char *name, const struct identity *ring, struct key_run **run)
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    return key_run_open_fd(fd, ring, run);
}

void key_run_close(struct key_run **slot)
{
    struct key_run *run = *slot;
    if (!run)
        return;
    close(run->fd);
    for (unsigned type = 0; type < KEY_TYPES; type++)
        free(run->section[type].fences);
    free(run->segment);
    free(run);
    *slot = NULL;
}

uint32_t key_run_segments(const struct key_run *run)
{
    return run->segments;
}

const struct key_run_segment *key_run_segment(const struct key_run *run, uint32_t number)
{
    return number < run->segments ? &run->segment[number] : NULL;
}

uint64_t key_run_bytes_read(const struct key_run *run)
{
    return run->bytes_read;
}

static void add_all(struct segment_set *set)
{
    memset(set, 0xff, sizeof *set);
}

static int fences_load(struct key_run *run, enum narrowing_key_type type)
{
    struct section *section = &run->section[type];
    size_t bytes = (size_t)section->pages * narrowing_key_bytes(type);
    if (section->fences)
        return 0;
    uint8_t *fences = malloc(bytes + 1);
    int code = fences ? read_at(run, section->fences_offset, fences, bytes) : ERR_NO_MEMORY;
    if (code == 0 && checksum_crc32c(fences, bytes) != section->fences_crc)
        code = ERR_CORRUPT;
    if (code < 0) {
        free(fences);
        return code;
    }
    section->fences = fences;
    return 0;
}

/* Adds the set at `at`; returns its length, 0 where it does not fit. */
static uint32_t set_add(const struct key_run *run, const uint8_t *at, uint32_t room,
                        struct segment_set *set)
{
    uint32_t width = run->segments > 256 ? 2 : 1, set_bytes = (run->segments + 7) / 8;
    if (room < 1)
        return 0;
    uint32_t bytes = at[0] == 0 ? 1 + set_bytes : 1 + at[0] * width;
    if (bytes > room)
        return 0;
    for (uint32_t i = 0; set && at[0] == 0 && i < run->segments; i++)
        if ((at[1 + i / 8] >> i % 8 & 1) != 0)
            set->word[i / 64] |= UINT64_C(1) << i % 64;
    for (uint32_t i = 0; set && i < at[0]; i++) {
        uint32_t number = at[1 + i * width] | (width == 2 ? (uint32_t)at[2 + i * width] << 8 : 0);
        if (number < KEY_RUN_SEGMENTS_MAX)
            set->word[number / 64] |= UINT64_C(1) << number % 64;
    }
    return bytes;
}

static int page_find(struct key_run *run, enum narrowing_key_type type, uint32_t number,
                     const uint8_t *low, const uint8_t *high, struct segment_set *set)
{
    uint8_t page[PAGE_BYTES];
    le32 crc;
    le16 entries;
    uint32_t key_bytes = narrowing_key_bytes(type), at = PAGE_HEAD_BYTES;
    int code =
        read_at(run, run->section[type].pages_offset + (uint64_t)number * PAGE_BYTES, page, sizeof page);
    if (code < 0)
        return code;
    memcpy(&crc, page, sizeof crc);
    memcpy(&entries, page + 4, sizeof entries);
    if (checksum_crc32c(page + 4, PAGE_BYTES - 4) != le32_get(crc))
        return ERR_CORRUPT;
    for (uint32_t i = 0; i < le16_get(entries); i++) {
        if (PAGE_BYTES - at < key_bytes)
            return ERR_CORRUPT;
        bool wanted = memcmp(page + at, low, key_bytes) >= 0 && memcmp(page + at, high, key_bytes) <= 0;
        at += key_bytes;
        uint32_t bytes = set_add(run, page + at, PAGE_BYTES - at, wanted ? set : NULL);
        if (bytes == 0)
            return ERR_CORRUPT;
        at += bytes;
    }
    return 0;
}

static int find(void *context, enum narrowing_key_type type, const uint8_t *low,
                const uint8_t *high, struct segment_set *set)
{
    struct key_run *run = context;
    struct section *section = &run->section[type];
    uint32_t key_bytes = narrowing_key_bytes(type), from = 0, to = section->pages;
    if (!section->present) {
        add_all(set);
        return 0;
    }
    int code = fences_load(run, type);
    if (code < 0)
        return code;
    while (from < to) { /* the first page that begins behind `low` */
        uint32_t middle = from + (to - from) / 2;
        if (memcmp(section->fences + (size_t)middle * key_bytes, low, key_bytes) <= 0)
            from = middle + 1;
        else
            to = middle;
    }
    uint32_t page = from > 0 ? from - 1 : 0;
    for (uint32_t count = 0; page < section->pages && code == 0; page++, count++) {
        if (memcmp(section->fences + (size_t)page * key_bytes, high, key_bytes) > 0)
            break;
        if (count == RANGE_PAGES_MAX) {
            add_all(set);
            break;
        }
        code = page_find(run, type, page, low, high, set);
    }
    return code;
}

int key_run_narrow(struct key_run *run, const struct narrowing *tree, struct segment_set *set)
{
    struct segment_set all = {{0}};
    for (uint32_t i = 0; i < run->segments; i++)
        all.word[i / 64] |= UINT64_C(1) << i % 64;
    *set = all;
    int code = narrowing_lookup(tree, find, run, set);
    for (uint32_t i = 0; i < run->segments; i++)
        if ((run->always[i / 8] >> i % 8 & 1) != 0)
            set->word[i / 64] |= UINT64_C(1) << i % 64;
    return code;
}

int key_run_check(struct key_run *run)
{
    int code = 0;
    for (unsigned type = 0; type < KEY_TYPES && code == 0; type++) {
        const uint8_t none[KEY_BYTES_MAX] = {0}, all[KEY_BYTES_MAX] = {[0 ... KEY_BYTES_MAX - 1] = 0xff};
        struct segment_set set = {{0}};
        if (!run->section[type].present)
            continue;
        code = fences_load(run, (enum narrowing_key_type)type);
        for (uint32_t page = 0; page < run->section[type].pages && code == 0; page++)
            code = page_find(run, (enum narrowing_key_type)type, page, none, all, &set);
    }
    return code;
}
