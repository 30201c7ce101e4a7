/*
 * bench_hay.c - what a needle costs as the hay grows: one flow of 20 packets, in rings of any size.
 *
 *     bench_hay [--dir DIR] [--slot BYTES] [--times-max N] RING_BYTES...
 *
 * A ring's segments are made on demand. Some are real ones, of the generator's traffic, with their key indexes, in memory; segment i of the ring is one of
 * them, told apart by what the disk answers: its identity, its position, the numbers and times of its packets, and all checksums over them, are those of segment
 * i. 20 segments, evenly spread, hold one packet of the flow each. All else is as in a recorder: a row for each segment in a real catalog.db, a run of keys for each
 * 256 of them, made by the run maker from the key indexes that it reads there (or like one that was: see make_runs()), and the reader, which checks what it reads. Asked is what an extraction of the
 * whole ring asks: the catalog for its segments, every run, then the reader.
 *
 * Prints a line of JSON for each ring: bytes and milliseconds of each of the three. Files are out of the page cache before they are asked. Fails where the
 * answer is not the 20 packets, or, with --times-max, where the last ring cost more than so many times the bytes of the first.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "catalog.h"
#include "checksum.h"
#include "filter.h"
#include "key_run.h"
#include "key_runs.h"
#include "narrowing.h"
#include "packet_keys.h"
#include "reader.h"
#include "run_care.h"
#include "run_maker.h"
#include "segment_fixture.h"
#include "source.h"

#define QUESTION "host 10.99.99.1 and host 10.99.99.2 and tcp port 40001 and tcp port 8443"
#define NEEDLES 20u
#define NEEDLE_BYTES 200u
#define PLAIN 16u  /* models without a needle */
#define NEEDLED 4u /* models with one */
#define MODELS (PLAIN + NEEDLED)
#define FLOWS_A_MIB 312u /* of the generator, at once: 20,000 with the largest slots. Of more than the index of a slot has room for, runs say nothing */
#define STEP_NS 4000
#define SPAN_NS_A_BYTE 16 /* of a slot: from a segment's first packet to the next one's */
#define START_NS INT64_C(1700000000000000000)
#define MEMORY_MAX (64u << 20) /* of a reading process: capture/reading.h */
#define BATCH 10000u           /* rows of the catalog that are posted in one go */

struct model { /* a segment whose packets have numbers from 0 and times from 0 */
    struct fixture_segment segment;
    struct frame_info *frame;
    uint32_t frames;
};

struct hay {
    struct fixture fixture; /* a slot for each model */
    struct model model[MODELS];
    uint8_t needle[NEEDLE_BYTES];
    uint32_t segments;
    uint64_t *first_packet; /* of each segment */
    uint32_t made_segment, made_frame; /* which one lies in `made` */
    uint8_t *made;
};

static _Noreturn void give_up(const char *what, const char *why)
{
    fprintf(stderr, "bench_hay: %s: %s\n", what, why);
    exit(1);
}

static void must(int code, const char *what)
{
    if (code != 0)
        give_up(what, error_text(code));
}

static void *memory(size_t bytes)
{
    void *result = calloc(1, bytes);
    if (!result)
        give_up("memory", strerror(errno));
    return result;
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* ---- models ------------------------------------------------------------------------------------- */

/* TCP from 10.99.99.1:40001 to 10.99.99.2:8443. */
static void make_needle(uint8_t packet[NEEDLE_BYTES])
{
    static const uint8_t head[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 186, 0, 1, 0x40, 0, 64, 6,
                                   0, 0, 10, 99, 99, 1, 10, 99, 99, 2, 40001 >> 8, 40001 & 255, 8443 >> 8, 8443 & 255};
    memset(packet, 0, NEEDLE_BYTES);
    memcpy(packet, head, sizeof head);
    packet[46] = 0x50;
    packet[47] = 0x18;
}

/* Left free, so that not even the last frame of a model brings more than its key index has room for: runs would say nothing of such a segment. */
static uint64_t margin(uint64_t slot_bytes)
{
    return slot_bytes / 64 > 32 * 1024 ? slot_bytes / 64 : 32 * 1024;
}

static bool has_room(const struct fixture_segment *segment, uint64_t slot_bytes)
{
    return segment->offset + FRAME_BYTES_USUAL + segment_index_flows_frames(flow_index_bound(segment->flows)) +
               segment_index_room(segment->index.entries + 1, &segment->table) + margin(slot_bytes) <= slot_bytes;
}

static bool add_packet(struct fixture_segment *segment, int interface, const uint8_t *bytes, uint32_t count)
{
    return fixture_packet_bytes(segment, interface, DIRECTION_IN, (int64_t)segment->next_packet * STEP_NS, bytes, count, count);
}

static void list_frames(struct hay *hay, struct model *model, uint32_t slot)
{
    uint32_t room = 0;
    for (uint64_t at = 0; at < hay->fixture.slot_bytes;) {
        if (model->frames == room) {
            room = room > 0 ? 2 * room : 512;
            model->frame = realloc(model->frame, room * sizeof *model->frame);
            if (!model->frame)
                give_up("memory", strerror(errno));
        }
        struct frame_info *info = &model->frame[model->frames];
        if (at == model->segment.about.data_end)
            at = model->segment.about.index_offset;
        must(frame_parse(fixture_slot(&hay->fixture, slot, at), (uint32_t)(hay->fixture.slot_bytes - at), info), "a frame of a model");
        at += info->frame_bytes;
        model->frames++;
    }
}

static void make_models(struct hay *hay, uint64_t slot_bytes)
{
    static struct source_batch batch;
    const struct source_generator_options options = {.seed = 1, .flows = (uint32_t)(slot_bytes >> 20) * FLOWS_A_MIB, .start_ns = START_NS, .step_ns = STEP_NS};
    struct source *source;
    struct failure failure = {0};
    fixture_open(&hay->fixture, MODELS, slot_bytes);
    hay->made = memory(FRAME_BYTES_USUAL);
    hay->made_segment = UINT32_MAX;
    make_needle(hay->needle);
    if (source_generator_open(&options, &source, &failure) != 0)
        give_up("the generator", failure.text);
    uint32_t next = 0;
    batch.count = 0;
    for (uint32_t i = 0; i < MODELS; i++) {
        struct fixture_segment *segment = &hay->model[i].segment;
        fixture_begin(segment, &hay->fixture, &i, 1, 1, 0, 0, 0, 0);
        fixture_index(segment, packet_keys_of);
        int interface = fixture_interface_usual(segment);
        bool needle = i >= PLAIN, room = true;
        while (room) {
            if (needle && segment->offset > slot_bytes / 2) {
                needle = false;
                room = add_packet(segment, interface, hay->needle, NEEDLE_BYTES);
                continue;
            }
            if (next == batch.count) {
                if (batch.count > 0)
                    source_release(source, &batch);
                next = 0;
                must(source_next(source, &batch, 0) > 0 ? 0 : ERR_IO, "the generator");
            }
            room = has_room(segment, slot_bytes) && add_packet(segment, interface, batch.packet[next].bytes, batch.packet[next].captured_bytes);
            next += room;
        }
        fixture_seal(segment);
        if (flow_index_stopped(segment->flows))
            give_up("a model", "its key index is not whole");
        if (needle || (int64_t)segment->next_packet * STEP_NS >= (int64_t)slot_bytes * SPAN_NS_A_BYTE)
            give_up("a model", "its slot is too small");
        list_frames(hay, &hay->model[i], i);
    }
    source_release(source, &batch);
    source_close(&source);
}

/* ---- segments made of them ------------------------------------------------------------------------ */

/* Which of the needles lies in a segment; NEEDLES: none. */
static uint32_t needle_of(const struct hay *hay, uint32_t segment)
{
    for (uint32_t i = 0; i < NEEDLES; i++)
        if (segment == (uint64_t)hay->segments * (2 * i + 1) / (2 * NEEDLES))
            return i;
    return NEEDLES;
}

static uint32_t model_of(const struct hay *hay, uint32_t segment)
{
    uint32_t needle = needle_of(hay, segment);
    return needle < NEEDLES ? PLAIN + needle % NEEDLED : segment % PLAIN;
}

static struct identity identity_of(const struct hay *hay, uint32_t segment)
{
    struct identity identity = hay->model[0].segment.about.segment;
    uint64_t position = segment + 1;
    memcpy(identity.byte, &position, sizeof position);
    return identity;
}

static int64_t shift_of(const struct hay *hay, uint32_t segment)
{
    return START_NS + segment * (int64_t)hay->fixture.slot_bytes * SPAN_NS_A_BYTE;
}

static void move(le64 *number, uint64_t by)
{
    *number = le64_of(le64_get(*number) + by);
}

static void move_account(struct frame_account *account, uint64_t packets)
{
    move(&account->packets[ACCOUNT_seen], packets);
    move(&account->packets[ACCOUNT_stored], packets);
}

static void move_records(uint8_t *frame, const struct frame_info *info, uint64_t ns)
{
    for (uint32_t i = 0, at = info->header_bytes; i < info->packets; i++) {
        struct packet_record record;
        memcpy(&record, frame + at, sizeof record);
        move(&record.time_ns, ns);
        memcpy(frame + at, &record, sizeof record);
        at += (uint32_t)sizeof record + (le32_get(record.captured_and_entry) & 0xffffff);
    }
}

static void move_index(uint8_t *body, uint64_t packets, uint64_t ns)
{
    const struct index_body *head = (const struct index_body *)body;
    struct index_frame_entry *entry = (struct index_frame_entry *)(body + sizeof *head);
    uint32_t entries = le32_get(head->frames);
    for (uint32_t i = 0; i < entries; i++) {
        move(&entry[i].first_packet, packets);
        move(&entry[i].head_ns, ns);
        move(&entry[i].first_ns, ns);
        move(&entry[i].last_ns, ns);
    }
    struct index_account *account = (struct index_account *)(entry + entries);
    for (uint32_t i = 0; i < le32_get(head->accounts); i++)
        move_account(&account[i].account, packets);
}

static void move_seal(struct seal_body *seal, uint64_t packets, uint64_t ns)
{
    move(&seal->first_packet, packets);
    move(&seal->opened_ns, ns);
    move(&seal->sealed_ns, ns);
    move(&seal->head_ns, ns);
    move(&seal->first_ns, ns);
    move(&seal->last_ns, ns);
}

/* A segment's frame, as it would lie on the disk: until the next call. */
static const uint8_t *make_frame(struct hay *hay, uint32_t segment, uint32_t slot, uint32_t number)
{
    const struct frame_info *info = &hay->model[slot].frame[number];
    uint8_t *frame = hay->made, *body = frame + info->header_bytes;
    struct frame_header *header = (struct frame_header *)frame;
    uint64_t packets = hay->first_packet[segment], ns = (uint64_t)shift_of(hay, segment);
    if (hay->made_segment == segment && hay->made_frame == number)
        return frame;
    hay->made_segment = segment;
    hay->made_frame = number;
    memcpy(frame, fixture_slot(&hay->fixture, slot, info->offset), info->frame_bytes);
    header->segment = identity_of(hay, segment);
    header->position = le64_of(segment + 1);
    move(&header->first_packet, packets);
    move_account(&header->account, packets);
    if (info->kind == FRAME_DATA) {
        move(&header->head_ns, ns);
        move(&header->first_ns, ns);
        move(&header->last_ns, ns);
        move_records(frame, info, ns);
    } else if (info->kind == FRAME_INDEX)
        move_index(body, packets, ns);
    else if (info->kind == FRAME_SEAL)
        move_seal((struct seal_body *)body, packets, ns);
    struct frame_block *block = (struct frame_block *)(frame + sizeof *header);
    for (uint32_t i = 0; info->kind != FRAME_FLOWS && i < frame_block_count(info); i++) { /* those of FLOWS are as they were */
        uint32_t from = i * BLOCK_BYTES, to = from + BLOCK_BYTES < info->frame_bytes ? from + BLOCK_BYTES : info->frame_bytes;
        from = from > info->header_bytes ? from : info->header_bytes;
        block[i].crc = le32_of(from < to ? checksum_crc32c(frame + from, to - from) : 0);
    }
    header->header_crc = le32_of(0);
    header->header_crc = le32_of(checksum_crc32c(frame, info->header_bytes));
    return frame;
}

static void make_bytes(struct hay *hay, uint32_t segment, uint64_t offset, uint8_t *bytes, uint32_t count)
{
    uint32_t slot = model_of(hay, segment);
    const struct model *model = &hay->model[slot];
    uint64_t end = offset + count;
    memset(bytes, 0, count);
    for (uint32_t i = 0; i < model->frames && model->frame[i].offset < end; i++) {
        uint64_t from = model->frame[i].offset, to = from + model->frame[i].frame_bytes;
        if (to <= offset)
            continue;
        const uint8_t *frame = make_frame(hay, segment, slot, i);
        uint64_t low = from > offset ? from : offset, high = to < end ? to : end;
        memcpy(bytes + (low - offset), frame + (low - from), high - low);
    }
}

/* ---- the disk ------------------------------------------------------------------------------------ */

struct hay_disk {
    struct disk head;
    struct hay *hay;
};

enum { UNDER_WAY = 1, ANSWERED = 2 }; /* in body[0] */

static void hay_submit(struct disk *disk, struct disk_request *request)
{
    (void)disk;
    request->body[0] = UNDER_WAY;
}

static void hay_wait(struct disk *disk, struct disk_request *request)
{
    uint64_t offset;
    if (request->body[0] == ANSWERED)
        return;
    request->body[0] = ANSWERED;
    request->result = disk_check(disk, request, &offset);
    if (request->result == 0 && request->slot == DISK_SLOT_META)
        request->result = ERR_IO; /* nobody who looks for packets asks for it */
    if (request->result == 0)
        make_bytes(((struct hay_disk *)disk)->hay, request->slot, request->offset, request->buffer, request->bytes);
    request->done(request);
}

static void hay_close(struct disk *disk)
{
    free(disk);
}

static struct disk *hay_open(struct hay *hay)
{
    static const struct disk_ops ops = {.name = "hay", .submit = hay_submit, .wait = hay_wait, .close = hay_close};
    struct hay_disk *disk = memory(sizeof *disk);
    uint64_t bytes = 2 * META_BYTES + hay->segments * hay->fixture.slot_bytes;
    disk->hay = hay;
    disk->head = (struct disk){
        .ops = &ops,
        .geometry = {.disk_bytes = bytes, .slots_offset = META_BYTES, .slot_bytes = hay->fixture.slot_bytes, .slot_count = hay->segments},
        .bytes = bytes,
        .alignment = 1,
        .read_only = true,
        .name = "hay",
    };
    return &disk->head;
}

/* ---- the ring ------------------------------------------------------------------------------------- */

static char directory[256];

static const char *file_path(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static const char *run_path(uint32_t number)
{
    char name[20];
    snprintf(name, sizeof name, "run-%u", number);
    return file_path(name);
}

static void forget(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static struct segment_row row_of(const struct hay *hay, const struct identity *disk, uint32_t segment)
{
    const struct fixture_segment *model = &hay->model[model_of(hay, segment)].segment;
    int64_t ns = shift_of(hay, segment);
    struct segment_row row = {
        .ring = hay->fixture.ring,
        .segment = identity_of(hay, segment),
        .position = segment + 1,
        .revision = model->about.revision,
        .data_revision = model->about.data_revision,
        .run = model->about.run,
        .stream = model->about.stream,
        .state = SEGMENT_SEALED,
        .first_packet = hay->first_packet[segment],
        .packets = model->about.packets,
        .captured_bytes = model->index.captured_bytes,
        .opened_ns = ns,
        .sealed_ns = ns,
        .head_ns = model->about.head_ns + ns,
        .first_ns = model->about.first_ns + ns,
        .last_ns = model->about.last_ns + ns,
        .data_end = model->about.data_end,
        .index_offset = model->about.index_offset,
        .index_bytes = model->about.index_bytes,
        .places = 1,
    };
    row.place[0] = (struct segment_place){.disk = *disk, .slot = segment};
    return row;
}

static struct worker_segment about_of(const struct segment_row *row)
{
    struct worker_segment about = ring_row_segment(row);
    about.places = row->places;
    about.place[0].slot = row->place[0].slot;
    return about;
}

static int judge(void *context, const struct worker_bad *bad)
{
    (void)context;
    fprintf(stderr, "bench_hay: offset %u of a segment is bad (%u)\n", bad->offset, bad->reason);
    return ERR_CORRUPT;
}

static int no_tick(void *context)
{
    (void)context;
    return 0;
}

static void make_catalog(const struct hay *hay)
{
    static const struct identity disk = {{7}};
    struct catalog *catalog;
    struct failure failure = {0};
    bool fresh;
    if (catalog_open(directory, &catalog, &fresh, &failure) != 0)
        give_up("the catalog", failure.text);
    catalog_put_ring(catalog, &hay->fixture.ring, "hay", 1, hay->fixture.slot_bytes);
    catalog_put_disk(catalog, &hay->fixture.ring, &disk, "hay", hay->segments * hay->fixture.slot_bytes, hay->segments, DISK_ACTIVE);
    for (uint32_t i = 0; i < hay->segments; i++) {
        struct segment_row row = row_of(hay, &disk, i);
        catalog_put_segment(catalog, &row);
        if (i % BATCH == BATCH - 1)
            must(catalog_barrier(catalog), "the catalog");
    }
    catalog_fresh(catalog);
    must(catalog_barrier(catalog), "the catalog");
    if (catalog_stale(catalog))
        give_up("the catalog", "it lacks something");
    catalog_close(&catalog);
}

/*
 * Many runs are about the same models in the same order, and differ in what they call the segments alone. To add the same keys to a thousand runs takes an hour; so
 * the others are copies of the first of their kind with another table of segments. This is all that is known here of the form of a run (key_run.c): should it change,
 * a copy will not be taken for a run of these segments, and is made as the first one was.
 */
#define RUN_HEAD_BYTES (48u + 32u * KEY_TYPES + KEY_RUN_SEGMENTS_MAX / 8)
#define RUN_HEAD_CRC 8u
#define RUN_SEGMENTS_CRC 44u
#define RUN_SEGMENT_BYTES 32u

static bool tell_apart(const struct hay *hay, uint32_t run, const struct worker_segment *about, uint32_t count)
{
    static uint8_t page[PAGE_BYTES], table[RUN_SEGMENTS * RUN_SEGMENT_BYTES];
    bool right = false;
    int fd = open(run_path(run), O_RDWR | O_CLOEXEC);
    if (fd < 0)
        give_up(directory, strerror(errno));
    if (pread(fd, page, PAGE_BYTES, 0) == PAGE_BYTES && pread(fd, table, count * RUN_SEGMENT_BYTES, PAGE_BYTES) == count * RUN_SEGMENT_BYTES) {
        for (uint32_t i = 0; i < count; i++) {
            le64 position = le64_of(about[i].position);
            memcpy(table + i * RUN_SEGMENT_BYTES, &about[i].segment, sizeof about[i].segment);
            memcpy(table + i * RUN_SEGMENT_BYTES + sizeof about[i].segment, &position, sizeof position);
        }
        le32 crc = le32_of(checksum_crc32c(table, count * RUN_SEGMENT_BYTES)), none = le32_of(0);
        memcpy(page + RUN_SEGMENTS_CRC, &crc, sizeof crc);
        memcpy(page + RUN_HEAD_CRC, &none, sizeof none);
        crc = le32_of(checksum_crc32c(page, RUN_HEAD_BYTES));
        memcpy(page + RUN_HEAD_CRC, &crc, sizeof crc);
        right = pwrite(fd, page, PAGE_BYTES, 0) == PAGE_BYTES && pwrite(fd, table, count * RUN_SEGMENT_BYTES, PAGE_BYTES) == count * RUN_SEGMENT_BYTES;
    }
    struct key_run *opened = NULL;
    right = key_run_open_fd(fd, &hay->fixture.ring, &opened) == 0 && right && key_run_segments(opened) == count;
    for (uint32_t i = 0; i < count && right; i++) {
        const struct key_run_segment *segment = key_run_segment(opened, i);
        right = identity_equal(&segment->segment, &about[i].segment) && segment->position == about[i].position && segment->revision == about[i].revision;
    }
    key_run_close(&opened);
    return right;
}

static void copy_file(uint32_t from, uint32_t to)
{
    static uint8_t bytes[1 << 20];
    int in = open(run_path(from), O_RDONLY | O_CLOEXEC), out = open(run_path(to), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    ssize_t count = in < 0 || out < 0 ? -1 : 1;
    while (count > 0 && (count = read(in, bytes, sizeof bytes)) > 0)
        if (write(out, bytes, (size_t)count) != count)
            count = -1;
    if (count < 0)
        give_up(directory, strerror(errno));
    close(in);
    close(out);
}

/* Another run that is about the same models; `run` itself: there is none before it. */
static uint32_t like_run(const struct hay *hay, uint32_t run, uint32_t count)
{
    for (uint32_t other = 0; other < run; other++) {
        uint32_t i = 0;
        while (i < count && model_of(hay, other * RUN_SEGMENTS + i) == model_of(hay, run * RUN_SEGMENTS + i))
            i++;
        if (i == count)
            return other;
    }
    return run;
}

/* Returns how many bytes they have; *made: how many were made from key indexes. */
static uint64_t make_runs(struct hay *hay, uint32_t *made)
{
    static struct worker_segment about[RUN_SEGMENTS];
    static const struct identity nowhere;
    struct disk *disk = hay_open(hay);
    struct segment_readers shared = {.disk = &disk, .disks = 1, .ring = hay->fixture.ring, .from_ns = INT64_MIN, .to_ns = INT64_MAX, .judge = judge};
    uint64_t bytes = 0;
    *made = 0;
    must(segment_readers_open(&shared, MEMORY_MAX), "readers");
    for (uint32_t at = 0; at < hay->segments; at += RUN_SEGMENTS) {
        uint32_t count = hay->segments - at < RUN_SEGMENTS ? hay->segments - at : RUN_SEGMENTS, run = at / RUN_SEGMENTS;
        uint32_t like = count == RUN_SEGMENTS ? like_run(hay, run, count) : run;
        struct stat status;
        for (uint32_t i = 0; i < count; i++) {
            struct segment_row row = row_of(hay, &nowhere, at + i);
            about[i] = about_of(&row);
        }
        if (like != run)
            copy_file(like, run);
        if (like == run || !tell_apart(hay, run, about, count)) {
            int fd = open(run_path(run), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
            if (fd < 0)
                give_up(directory, strerror(errno));
            must(run_maker_write(&shared, about, count, fd, no_tick, NULL), "a run of keys");
            close(fd);
            ++*made;
        }
        if (stat(run_path(run), &status) == 0)
            bytes += (uint64_t)status.st_size;
    }
    segment_readers_close(&shared);
    disk_close(&disk);
    return bytes;
}

static void make_ring(struct hay *hay, uint64_t ring_bytes)
{
    hay->segments = (uint32_t)(ring_bytes / hay->fixture.slot_bytes);
    if (hay->segments < 2 * NEEDLES)
        give_up("the ring", "too few segments for its needles");
    free(hay->first_packet);
    hay->first_packet = memory(hay->segments * sizeof *hay->first_packet);
    for (uint32_t i = 1; i < hay->segments; i++)
        hay->first_packet[i] = hay->first_packet[i - 1] + hay->model[model_of(hay, i - 1)].segment.about.packets;
    hay->made_segment = UINT32_MAX;
}

/* ---- the question --------------------------------------------------------------------------------- */

struct plan {
    struct worker_segment *about;
    uint32_t count, room;
};

static int take_row(const struct segment_row *row, void *context)
{
    struct plan *plan = context;
    if (plan->count == plan->room)
        return ERR_NO_SPACE;
    plan->about[plan->count++] = about_of(row);
    return 0;
}

/* What this process has read by read() and its like, as the kernel counts it. */
static uint64_t bytes_read_by_us(void)
{
    char line[100];
    uint64_t bytes = 0;
    FILE *file = fopen("/proc/self/io", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "rchar: %" SCNu64, &bytes) == 1)
            break;
    if (file)
        fclose(file);
    return bytes;
}

struct cost {
    uint64_t catalog_bytes, run_bytes, disk_bytes;
    double catalog_ms, run_ms, disk_ms;
    uint32_t runs;
    struct reader_counters counters;
};

static void ask_catalog(const struct hay *hay, struct plan *plan, struct cost *cost)
{
    struct catalog *catalog;
    struct failure failure = {0};
    bool fresh;
    if (catalog_open(directory, &catalog, &fresh, &failure) != 0 || fresh)
        give_up("the catalog", failure.text);
    forget(file_path("catalog.db"));
    cost->catalog_bytes = bytes_read_by_us();
    cost->catalog_ms = now_ms();
    must(catalog_find(catalog, &hay->fixture.ring, INT64_MIN, INT64_MAX, take_row, plan), "the catalog");
    cost->catalog_ms = now_ms() - cost->catalog_ms;
    cost->catalog_bytes = bytes_read_by_us() - cost->catalog_bytes;
    if (plan->count != hay->segments || catalog_stale(catalog))
        give_up("the catalog", "it lacks segments");
    catalog_close(&catalog);
}

static void ask_runs(const struct hay *hay, const struct narrowing *tree, struct key_runs *runs, struct cost *cost)
{
    uint32_t count = (hay->segments + RUN_SEGMENTS - 1) / RUN_SEGMENTS;
    for (uint32_t i = 0; i < count; i++)
        forget(run_path(i));
    cost->run_ms = now_ms();
    for (uint32_t i = 0; i < count; i++)
        must(key_runs_ask(runs, open(run_path(i), O_RDONLY | O_CLOEXEC), &hay->fixture.ring, tree), "a run of keys");
    cost->run_ms = now_ms() - cost->run_ms;
    cost->run_bytes = runs->bytes_read;
    cost->runs = runs->asked;
    if (runs->bad > 0 || runs->asked != count)
        give_up("runs of keys", "they are of no use");
}

static void ask_reader(struct hay *hay, const struct filter_program *program, const struct narrowing *tree, const struct key_runs *runs,
                       const struct plan *plan, struct cost *cost)
{
    struct disk *disk = hay_open(hay);
    const struct reader_options options = {.disk = &disk, .disks = 1, .ring = hay->fixture.ring, .from_ns = INT64_MIN, .to_ns = INT64_MAX,
                                           .memory_max = MEMORY_MAX, .narrowing = tree, .judge = judge};
    struct reader *reader;
    struct reader_packet packet;
    uint32_t found = 0;
    int result;
    cost->disk_ms = now_ms();
    must(reader_open(&options, &reader), "the reader");
    for (uint32_t i = 0; i < plan->count; i++) {
        plan->about[i].nothing = key_runs_exclude(runs, &plan->about[i].segment, plan->about[i].revision);
        must(reader_add(reader, &plan->about[i], 1), "the reader");
    }
    while ((result = reader_next(reader, &packet)) == 1)
        if (filter_match(program, packet.packet, packet.rule)) {
            int64_t from_ns = shift_of(hay, (uint32_t)((uint64_t)hay->segments * (2 * found + 1) / (2 * NEEDLES)));
            if (found == NEEDLES || packet.packet->captured_bytes != NEEDLE_BYTES || memcmp(packet.packet->bytes, hay->needle, NEEDLE_BYTES) != 0 ||
                packet.packet->time_ns < from_ns || packet.packet->time_ns >= from_ns + (int64_t)hay->fixture.slot_bytes * SPAN_NS_A_BYTE)
                give_up("the answer", "a packet that is not the needle's, or not its turn");
            reader_matched(reader);
            found++;
        }
    must(result, "the reader");
    reader_finish(reader, true);
    cost->disk_ms = now_ms() - cost->disk_ms;
    reader_counters(reader, &cost->counters);
    cost->disk_bytes = cost->counters.bytes_read;
    reader_close(&reader);
    disk_close(&disk);
    if (found != NEEDLES || cost->counters.indexes_bad > 0 || cost->counters.frames_bad > 0)
        give_up("the answer", "it is not whole");
}

static struct cost ask(struct hay *hay)
{
    struct plan plan = {.about = memory(hay->segments * sizeof *plan.about), .room = hay->segments};
    struct cost cost = {0};
    struct key_runs runs = {0};
    struct filter *filter;
    struct narrowing *tree;
    struct failure failure = {0};
    if (filter_open(QUESTION, NULL, &filter, &failure) != 0)
        give_up(QUESTION, failure.text);
    must(narrowing_open(QUESTION, &tree), QUESTION);
    ask_catalog(hay, &plan, &cost);
    ask_runs(hay, tree, &runs, &cost);
    ask_reader(hay, filter_for(filter, LINK_ETHERNET), tree, &runs, &plan, &cost);
    key_runs_close(&runs);
    narrowing_close(&tree);
    filter_close(&filter);
    free(plan.about);
    return cost;
}

static void remove_ring(const struct hay *hay)
{
    static const char *const name[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    for (uint32_t i = 0; i * RUN_SEGMENTS < hay->segments; i++)
        unlink(run_path(i));
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++)
        unlink(file_path(name[i]));
}

int main(int argc, char **argv)
{
    static struct hay hay;
    const char *where = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    uint64_t slot_bytes = SLOT_BYTES_MAX, first = 0, last = 0;
    double times_max = 0;
    int i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--dir") == 0)
            where = argv[i + 1];
        else if (strcmp(argv[i], "--slot") == 0)
            slot_bytes = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--times-max") == 0)
            times_max = strtod(argv[i + 1], NULL);
        else
            break;
    }
    if (i >= argc || argv[i][0] == '-' || slot_bytes < SLOT_BYTES_MIN || slot_bytes > SLOT_BYTES_MAX || (slot_bytes & (slot_bytes - 1)) != 0) {
        fprintf(stderr, "usage: bench_hay [--dir DIR] [--slot BYTES] [--times-max N] RING_BYTES...\n");
        return 2;
    }
    snprintf(directory, sizeof directory, "%.200s/bench-hay-XXXXXX", where);
    if (!mkdtemp(directory))
        give_up(where, strerror(errno));
    make_models(&hay, slot_bytes);
    for (; i < argc; i++) {
        double began = now_ms();
        make_ring(&hay, strtoull(argv[i], NULL, 10));
        make_catalog(&hay);
        uint32_t runs_made;
        uint64_t runs_size = make_runs(&hay, &runs_made);
        double made = now_ms();
        struct cost cost = ask(&hay);
        last = cost.catalog_bytes + cost.run_bytes + cost.disk_bytes;
        first = first > 0 ? first : last;
        printf("{\"ring_bytes\": %" PRIu64 ", \"segments\": %u, \"packets\": %" PRIu64 ", \"runs\": %u, \"runs_made\": %u, \"runs_size\": %" PRIu64
               ", \"made_s\": %.1f, \"catalog_bytes\": %" PRIu64 ", \"catalog_ms\": %.1f, \"run_bytes\": %" PRIu64 ", \"run_ms\": %.1f, \"disk_bytes\": %" PRIu64
               ", \"index_bytes\": %" PRIu64 ", \"disk_ms\": %.1f, \"by_runs\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"ms\": %.1f}\n",
               hay.segments * slot_bytes, hay.segments, hay.first_packet[hay.segments - 1] + hay.model[model_of(&hay, hay.segments - 1)].segment.about.packets,
               cost.runs, runs_made, runs_size, (made - began) / 1e3, cost.catalog_bytes, cost.catalog_ms, cost.run_bytes, cost.run_ms, cost.disk_bytes,
               cost.counters.index_bytes, cost.disk_ms, cost.counters.segments_by_runs, last, cost.catalog_ms + cost.run_ms + cost.disk_ms);
        fflush(stdout);
        remove_ring(&hay);
    }
    rmdir(directory);
    for (uint32_t m = 0; m < MODELS; m++) {
        fixture_end(&hay.model[m].segment);
        free(hay.model[m].frame);
    }
    fixture_close(&hay.fixture);
    free(hay.first_packet);
    free(hay.made);
    if (times_max > 0 && (double)last > times_max * (double)first) {
        fprintf(stderr, "bench_hay: the last ring cost %.1f times the bytes of the first, %.1f are allowed\n", (double)last / (double)first, times_max);
        return 1;
    }
    return 0;
}
