/*
 * recovery.c - see recovery.h; FORMAT.md, "Recovery", is the specification.
 *
 * The happy path: load what the catalog believes; walk on from there; look at each slot that the walk found or that the
 * catalog calls open; gather copies of the same segment; seal those without a seal; tell the catalog.
 */
#include "recovery.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "frame.h"
#include "segment_index.h"
#include "segment_prefix.h"

#define WALK_MARGIN 64u /* headers in a row that are as believed, and then the walk ends */
#define BATCH 64u       /* slots looked at at a time */
#define HEAD_BYTES (2 * PAGE_BYTES)
#define SEARCH_BYTES (1u << 20) /* read at a time where frames are searched page by page */
#define CHANGES_MAX 4096u /* posted to the catalog before it is waited for: its queue is bounded */

enum slot_content {
    SLOT_EMPTY,    /* nothing of ours */
    SLOT_SEALED,
    SLOT_UNSEALED,
    SLOT_UNREAD,   /* the disk fails to read it */
    SLOT_HALF,     /* a copy that was being made and has no seal: free */
};

/* What one slot holds, from its first and last page. */
struct slot_view {
    enum slot_content content;
    bool header_damaged; /* the seal is good, the first page is not */
    bool repaired;
    bool healing;
    uint32_t disk;
    uint32_t slot;
    struct frame_identity open;   /* from the first page; of a damaged one, from what lies behind it */
    uint64_t first_packet;
    int64_t opened_ns;
    uint8_t open_places;
    struct open_place place[COPIES_MAX];
    struct frame_identity seal;
    struct seal_body seal_body;
};

#define INTERFACES_NOTED 64u

struct noted_interface {
    struct interface_description description;
    int64_t first_ns, last_ns;
};

struct recovery {
    const struct recovery_options *options;
    struct recovery_disk *disk;
    uint32_t disks;
    struct recovery_report *report;
    uint64_t position;
    uint8_t *pages; /* BATCH beginnings, BATCH seals, and one more page */
    uint8_t *pieces; /* two of SEARCH_BYTES; null until there is something to be searched */
    struct slot_view *found; /* slots to be looked at closely */
    uint32_t found_count, found_room;
    struct noted_interface *interface; /* INTERFACES_NOTED */
    uint32_t interfaces;
    struct failure *failure;
};

static void say(const struct recovery *recovery, const char *severity, const char *kind, const char *text)
{
    if (recovery->options->event)
        recovery->options->event(recovery->options->context, severity, kind, text);
}

static bool given_up(const struct recovery *recovery)
{
    return recovery->options->give_up && recovery->options->give_up(recovery->options->context);
}

static void request_done(struct disk_request *request)
{
    (void)request; /* disk_wait() is what we wait with */
}

/* ---- reading slots ------------------------------------------------------------------------------ */

static void page_request(struct disk_request *request, uint32_t slot, uint64_t offset, uint8_t *page, uint32_t bytes)
{
    *request = (struct disk_request){.op = DISK_READ,
                                     .slot = slot,
                                     .offset = offset,
                                     .buffer = page,
                                     .bytes = bytes,
                                     .buffer_index = -1,
                                     .done = request_done};
}

static uint8_t *head_pages(const struct recovery *recovery, uint32_t i)
{
    return recovery->pages + (size_t)i * HEAD_BYTES;
}

static uint8_t *seal_page(const struct recovery *recovery, uint32_t i)
{
    return recovery->pages + (size_t)BATCH * HEAD_BYTES + (size_t)i * PAGE_BYTES;
}

/* For single reads. */
static uint8_t *spare_page(const struct recovery *recovery)
{
    return seal_page(recovery, BATCH);
}

/*
 * Reads the beginning and the last page of up to BATCH slots at a time: results[i] and results[count + i]. The page behind the first tells
 * whose the slot is where that is damaged, and comes with it for nothing.
 */
static void read_ends(struct recovery *recovery, uint32_t disk_number, const uint32_t *slot, uint32_t count,
                      int *results)
{
    struct disk *disk = recovery->disk[disk_number].disk;
    struct disk_request request[2 * BATCH];
    for (uint32_t i = 0; i < count; i++) {
        page_request(&request[i], slot[i], 0, head_pages(recovery, i), HEAD_BYTES);
        page_request(&request[count + i], slot[i], disk->geometry.slot_bytes - PAGE_BYTES, seal_page(recovery, i),
                     PAGE_BYTES);
        disk_submit(disk, &request[i]);
        disk_submit(disk, &request[count + i]);
    }
    for (uint32_t i = 0; i < 2 * count; i++) {
        disk_wait(disk, &request[i]);
        results[i] = request[i].result;
    }
    for (uint32_t i = 0; i < count; i++)
        if (results[i] != 0) { /* then as much of it as can be read */
            memset(head_pages(recovery, i), 0, HEAD_BYTES);
            results[i] = disk_read(disk, slot[i], 0, head_pages(recovery, i), PAGE_BYTES);
            (void)disk_read(disk, slot[i], PAGE_BYTES, head_pages(recovery, i) + PAGE_BYTES, PAGE_BYTES);
        }
    recovery->report->slots_read += count;
}

static bool open_frame(const struct recovery *recovery, const uint8_t *page, struct slot_view *view)
{
    struct frame_info info;
    struct open_body body;
    if (frame_parse(page, PAGE_BYTES, &info) != 0 || frame_check(page, &info) != 0 || info.kind != FRAME_OPEN ||
        info.offset != 0 || info.frame_bytes != PAGE_BYTES ||
        !identity_equal(&info.ring, &recovery->options->ring) || !frame_body(page, &info, sizeof body))
        return false;
    memcpy(&body, frame_body(page, &info, sizeof body), sizeof body);
    view->open = frame_identity_of(&info);
    view->first_packet = info.first_packet;
    view->opened_ns = (int64_t)le64_get(body.opened_ns);
    view->healing = body.healing != 0;
    view->open_places = body.copies < COPIES_MAX ? body.copies : COPIES_MAX;
    memcpy(view->place, body.place, sizeof view->place);
    return true;
}

static bool same_description(const struct interface_description *a, const struct interface_description *b)
{
    return a->link_type == b->link_type && a->snapshot_length == b->snapshot_length &&
           memcmp(a->hardware, b->hardware, sizeof a->hardware) == 0 && strcmp(a->name, b->name) == 0 &&
           strcmp(a->description, b->description) == 0;
}

/* Tells the catalog when an interface was seen first and last. What many segments name is told once, when all have been looked at. */
static void interface_seen(struct recovery *recovery, const struct interface_description *description, int64_t seen_ns)
{
    for (uint32_t i = 0; i < recovery->interfaces; i++)
        if (same_description(&recovery->interface[i].description, description)) {
            if (seen_ns < recovery->interface[i].first_ns)
                recovery->interface[i].first_ns = seen_ns;
            if (seen_ns > recovery->interface[i].last_ns)
                recovery->interface[i].last_ns = seen_ns;
            return;
        }
    if (recovery->interfaces == INTERFACES_NOTED)
        catalog_put_interface(recovery->options->catalog, &recovery->options->ring, description, seen_ns);
    else
        recovery->interface[recovery->interfaces++] =
            (struct noted_interface){.description = *description, .first_ns = seen_ns, .last_ns = seen_ns};
}

static void interfaces_to_catalog(struct recovery *recovery, const uint8_t *frame, const struct frame_info *info,
                                  int64_t seen_ns)
{
    for (uint32_t i = 0; i < info->interfaces; i++) {
        struct interface_description description;
        memset(&description, 0, sizeof description);
        if (frame_interface(frame, info, i, &description) == 0)
            interface_seen(recovery, &description, seen_ns);
    }
}

static void tell_interfaces(struct recovery *recovery)
{
    for (uint32_t i = 0; i < recovery->interfaces; i++) {
        const struct noted_interface *one = &recovery->interface[i];
        catalog_put_interface(recovery->options->catalog, &recovery->options->ring, &one->description, one->first_ns);
        if (one->last_ns != one->first_ns)
            catalog_put_interface(recovery->options->catalog, &recovery->options->ring, &one->description, one->last_ns);
    }
}

static bool seal_frame(struct recovery *recovery, const uint8_t *page, uint64_t slot_bytes,
                       struct slot_view *view)
{
    struct frame_info info;
    if (frame_parse(page, PAGE_BYTES, &info) != 0 || info.frame_bytes != PAGE_BYTES ||
        frame_check(page, &info) != 0 || !identity_equal(&info.ring, &recovery->options->ring) ||
        segment_seal_read(page, &info, slot_bytes, &view->seal_body) != 0)
        return false;
    view->seal = frame_identity_of(&info);
    interfaces_to_catalog(recovery, page, &info, (int64_t)le64_get(view->seal_body.opened_ns));
    return true;
}

/* A data frame of our ring directly behind a first page that is not readable: an open segment whose header is damaged. */
static bool first_data_frame(const struct recovery *recovery, const uint8_t *page, struct frame_info *info)
{
    if (frame_parse(page, PAGE_BYTES, info) != 0)
        return false;
    return info->kind == FRAME_DATA && info->offset == PAGE_BYTES && info->number == 1 &&
           identity_equal(&info->ring, &recovery->options->ring);
}

static void slot_judge(struct recovery *recovery, struct slot_view *view, const uint8_t *first, int first_result,
                       const uint8_t *last, int last_result)
{
    uint64_t slot_bytes = recovery->disk[view->disk].disk->geometry.slot_bytes;
    bool open = first_result == 0 && open_frame(recovery, first, view);
    bool sealed = last_result == 0 && seal_frame(recovery, last, slot_bytes, view);
    if (open && sealed && identity_equal(&view->open.segment, &view->seal.segment)) {
        view->content = SLOT_SEALED;
    } else if (open) {
        view->content = view->healing ? SLOT_HALF : SLOT_UNSEALED;
    } else if (sealed) {
        view->content = SLOT_SEALED;
        view->header_damaged = true;
        view->open = view->seal;
        view->open.revision = view->seal.data_revision;
        view->first_packet = le64_get(view->seal_body.first_packet);
        view->opened_ns = (int64_t)le64_get(view->seal_body.opened_ns);
    } else {
        struct frame_info data;
        view->content = first_result != 0 ? SLOT_UNREAD : SLOT_EMPTY;
        if (first_data_frame(recovery, first + PAGE_BYTES, &data)) {
            view->content = SLOT_UNSEALED;
            view->header_damaged = true;
            view->open = frame_identity_of(&data);
            view->first_packet = data.first_packet;
            view->opened_ns = data.head_ns;
        }
    }
    if (view->content == SLOT_SEALED || view->content == SLOT_UNSEALED || view->content == SLOT_HALF)
        if (view->open.position > recovery->position)
            recovery->position = view->open.position;
}

static bool found_has(const struct recovery *recovery, uint32_t disk, uint32_t slot)
{
    for (uint32_t i = 0; i < recovery->found_count; i++)
        if (recovery->found[i].disk == disk && recovery->found[i].slot == slot)
            return true;
    return false;
}

static int found_add(struct recovery *recovery, const struct slot_view *view)
{
    if (!recovery->options->whole && found_has(recovery, view->disk, view->slot))
        return 0;
    if (recovery->found_count == recovery->found_room) {
        uint32_t room = recovery->found_room ? 2 * recovery->found_room : 256;
        struct slot_view *grown = realloc(recovery->found, room * sizeof *grown);
        if (!grown)
            return ERR_NO_MEMORY;
        recovery->found = grown;
        recovery->found_room = room;
    }
    recovery->found[recovery->found_count++] = *view;
    return 0;
}

/* ---- what to look at ----------------------------------------------------------------------------- */

static struct slot_belief belief_of(const struct slot_view *view)
{
    if (view->content == SLOT_HALF) /* free, but what its first page says is known */
        return (struct slot_belief){.segment = view->open.segment};
    if (view->content != SLOT_SEALED && view->content != SLOT_UNSEALED)
        return (struct slot_belief){0};
    return (struct slot_belief){.segment = view->open.segment,
                                .position = view->open.position,
                                .revision = view->content == SLOT_SEALED ? view->seal.revision : view->open.revision};
}

static int look_at(struct recovery *recovery, uint32_t disk, const uint32_t *slot, uint32_t count,
                   struct slot_view *view)
{
    int results[2 * BATCH];
    read_ends(recovery, disk, slot, count, results);
    for (uint32_t i = 0; i < count; i++) {
        view[i] = (struct slot_view){.disk = disk, .slot = slot[i]};
        slot_judge(recovery, &view[i], head_pages(recovery, i), results[i], seal_page(recovery, i), results[count + i]);
    }
    if (disk_patient_lost(recovery->disk[disk].disk))
        return ERR_TIMEOUT; /* what has not been read is not empty */
    return given_up(recovery) ? ERR_INTERRUPTED : 0;
}

static int read_every_slot(struct recovery *recovery, uint32_t disk, uint64_t done, uint64_t total)
{
    uint32_t slots = recovery->disk[disk].disk->geometry.slot_count;
    struct slot_view view[BATCH];
    uint32_t number[BATCH];
    for (uint32_t from = 0; from < slots; from += BATCH) {
        uint32_t count = slots - from < BATCH ? slots - from : BATCH;
        for (uint32_t i = 0; i < count; i++)
            number[i] = from + i;
        int result = look_at(recovery, disk, number, count, view);
        for (uint32_t i = 0; i < count && result == 0; i++) {
            recovery->disk[disk].belief[from + i] = belief_of(&view[i]);
            if (view[i].content == SLOT_UNREAD)
                recovery->report->segments_damaged++;
            if (view[i].content == SLOT_SEALED || view[i].content == SLOT_UNSEALED)
                result = found_add(recovery, &view[i]);
        }
        if (result != 0)
            return result;
        if (recovery->options->progress)
            recovery->options->progress(recovery->options->context, done + from + count, total);
    }
    return 0;
}

struct order {
    uint64_t position;
    uint32_t slot;
};

static int order_compare(const void *left, const void *right)
{
    const struct order *a = left, *b = right;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return a->slot < b->slot ? -1 : a->slot > b->slot;
}

/* The segment that was believed to be here has been overwritten, if only its first page: it is gone at all its places. */
static void belief_expires(struct recovery *recovery, const struct slot_belief *belief)
{
    struct slot_belief gone = *belief;
    if (gone.position == 0)
        return;
    catalog_drop_segment(recovery->options->catalog, &gone.segment);
    for (uint32_t disk = 0; disk < recovery->disks; disk++)
        for (uint32_t slot = 0; slot < recovery->disk[disk].disk->geometry.slot_count; slot++) {
            struct slot_belief *one = &recovery->disk[disk].belief[slot];
            if (one->position == gone.position && identity_equal(&one->segment, &gone.segment))
                *one = (struct slot_belief){0};
        }
}

/* Takes what was seen for what is believed from now on. */
static int believe(struct recovery *recovery, const struct slot_view *view)
{
    struct slot_belief *belief = &recovery->disk[view->disk].belief[view->slot], now = belief_of(view);
    if (!identity_equal(&now.segment, &belief->segment)) {
        /* Only what has overwritten it says that it is gone everywhere; where nothing is to be seen, this place is lost. */
        if (now.position > belief->position || view->content == SLOT_HALF)
            belief_expires(recovery, belief);
        else if (belief->position > 0)
            catalog_drop_place(recovery->options->catalog, &belief->segment,
                               &(struct segment_place){.disk = recovery->disk[view->disk].identity, .slot = view->slot});
    }
    *belief = now;
    return view->content == SLOT_HALF ? 0 : found_add(recovery, view);
}

/* Reads headers in the order in which the slots would have been reused since the catalog was written. */
static int walk_on(struct recovery *recovery, uint32_t disk)
{
    struct recovery_disk *one = &recovery->disk[disk];
    uint32_t slots = one->disk->geometry.slot_count, unchanged = 0;
    struct order *order = malloc(slots * sizeof *order);
    if (!order)
        return ERR_NO_MEMORY;
    for (uint32_t slot = 0; slot < slots; slot++)
        order[slot] = (struct order){.position = one->belief[slot].position, .slot = slot};
    qsort(order, slots, sizeof *order, order_compare);
    int result = 0;
    for (uint32_t at = 0; at < slots && unchanged < WALK_MARGIN && result == 0;) {
        struct slot_view view[BATCH];
        uint32_t number[BATCH], count = slots - at < BATCH ? slots - at : BATCH;
        for (uint32_t i = 0; i < count; i++)
            number[i] = order[at + i].slot;
        result = look_at(recovery, disk, number, count, view);
        for (uint32_t i = 0; i < count && result == 0; i++) {
            struct slot_belief *belief = &one->belief[number[i]], now = belief_of(&view[i]);
            if (now.position == belief->position && identity_equal(&now.segment, &belief->segment) &&
                !view[i].header_damaged) {
                unchanged++;
                continue;
            }
            unchanged = 0;
            result = believe(recovery, &view[i]);
        }
        at += count;
    }
    free(order);
    return result;
}

struct open_rows {
    struct recovery *recovery;
    uint32_t count, room;
    struct { uint32_t disk, slot; } *place;
};

static int load_place(const struct segment_row *row, const struct segment_place *place, void *context)
{
    struct open_rows *open = context;
    struct recovery *recovery = open->recovery;
    if (row->position > recovery->position)
        recovery->position = row->position;
    for (uint32_t disk = 0; disk < recovery->disks; disk++) {
        struct recovery_disk *one = &recovery->disk[disk];
        if (!identity_equal(&one->identity, &place->disk) || place->slot >= one->disk->geometry.slot_count)
            continue;
        one->belief[place->slot] = (struct slot_belief){
            .segment = row->segment, .position = row->position, .revision = row->revision};
        if (row->state != SEGMENT_OPEN)
            return 0;
        if (open->count == open->room) {
            uint32_t room = open->room ? 2 * open->room : 64;
            void *grown = realloc(open->place, room * sizeof *open->place);
            if (!grown)
                return ERR_NO_MEMORY;
            open->place = grown;
            open->room = room;
        }
        open->place[open->count].disk = disk;
        open->place[open->count++].slot = place->slot;
    }
    return 0;
}

/* The catalog's beliefs, then each slot that it calls open, then the walk. */
static int believe_catalog(struct recovery *recovery)
{
    struct open_rows open = {.recovery = recovery};
    int result = catalog_places(recovery->options->catalog, &recovery->options->ring, load_place, &open);
    for (uint32_t i = 0; i < open.count && result == 0; i++) {
        struct slot_view view;
        result = look_at(recovery, open.place[i].disk, &open.place[i].slot, 1, &view);
        if (result != 0)
            break;
        result = believe(recovery, &view);
    }
    free(open.place);
    for (uint32_t disk = 0; disk < recovery->disks && result == 0; disk++)
        result = walk_on(recovery, disk);
    return result;
}

/* ---- segments without a seal --------------------------------------------------------------------- */

static bool same_segment(const struct frame_info *info, const struct slot_view *view)
{
    return identity_equal(&info->ring, &view->open.ring) && identity_equal(&info->segment, &view->open.segment) &&
           identity_equal(&info->run, &view->open.run) && info->position == view->open.position &&
           info->revision == view->open.revision && info->stream == view->open.stream;
}

/* Reads and checks the data frame at `offset`. 0, ERR_NOT_FOUND (none is there, or it is not whole), ERR_IO. */
static int read_frame(struct disk *disk, const struct slot_view *view, uint32_t offset, uint8_t *buffer,
                      struct frame_info *info)
{
    uint64_t slot_bytes = disk->geometry.slot_bytes;
    if (offset + PAGE_BYTES > slot_bytes)
        return ERR_NOT_FOUND;
    int result = disk_read(disk, view->slot, offset, buffer, PAGE_BYTES);
    if (result != 0)
        return result;
    result = frame_parse(buffer, PAGE_BYTES, info);
    if (result == ERR_AGAIN && offset + round_up(info->header_bytes, PAGE_BYTES) <= slot_bytes) {
        uint32_t header_bytes = (uint32_t)round_up(info->header_bytes, PAGE_BYTES);
        result = disk_read(disk, view->slot, offset, buffer, header_bytes);
        if (result != 0)
            return result;
        result = frame_parse(buffer, header_bytes, info);
    }
    if (result != 0 || info->kind != FRAME_DATA || info->offset != offset || !same_segment(info, view) ||
        offset + (uint64_t)info->frame_bytes > slot_bytes)
        return ERR_NOT_FOUND;
    if (info->frame_bytes > PAGE_BYTES) {
        result = disk_read(disk, view->slot, offset, buffer, info->frame_bytes);
        if (result != 0)
            return result;
        if (frame_parse(buffer, info->frame_bytes, info) != 0)
            return ERR_NOT_FOUND;
    }
    return frame_check(buffer, info) == 0 ? 0 : ERR_NOT_FOUND;
}

/*
 * The pages of a slot, one after the other: read by the piece, the next one while this one is looked at. A segment that was prepared and never
 * used is searched from end to end for what may lie behind a hole; page by page, each read waited for, that took
 * a start half a minute.
 */
struct search {
    struct disk *disk;
    uint32_t slot;
    uint8_t *buffer[2];
    uint32_t piece[2]; /* its number, from 1; 0: none */
    struct disk_request request[2];
    uint8_t *spare; /* a page */
};

static void search_ask(struct search *search, uint32_t piece)
{
    uint64_t offset = (uint64_t)(piece - 1) * SEARCH_BYTES, left = search->disk->geometry.slot_bytes - offset;
    struct disk_request *request = &search->request[piece % 2];
    page_request(request, search->slot, offset, search->buffer[piece % 2],
                 left < SEARCH_BYTES ? (uint32_t)left : SEARCH_BYTES);
    search->piece[piece % 2] = piece;
    disk_submit(search->disk, request);
}

/* Waits for what is under way there. */
static void search_let_go(struct search *search, uint32_t side)
{
    if (search->piece[side] != 0)
        disk_wait(search->disk, &search->request[side]);
    search->piece[side] = 0;
}

/* The page at `at`, until the next call. Null: it cannot be read. */
static const uint8_t *search_page(struct search *search, uint32_t at)
{
    uint32_t piece = at / SEARCH_BYTES + 1, side = piece % 2;
    if (search->piece[side] != piece) {
        search_let_go(search, side);
        search_ask(search, piece);
    }
    disk_wait(search->disk, &search->request[side]);
    if ((uint64_t)piece * SEARCH_BYTES < search->disk->geometry.slot_bytes && search->piece[!side] != piece + 1) {
        search_let_go(search, !side);
        search_ask(search, piece + 1);
    }
    if (search->request[side].result == 0)
        return search->buffer[side] + at % SEARCH_BYTES;
    return disk_read(search->disk, search->slot, at, search->spare, PAGE_BYTES) == 0 ? search->spare : NULL;
}

/*
 * Walks the frames of the slot. After the first place where no whole frame lies, the rest is searched: a later frame of this
 * segment whose frontier lies beyond the hole proves that what is missing had been durable: damage, and the frames behind it
 * are kept. Without such a proof the hole is the end that the crash left.
 */
static void read_prefix(const struct recovery *recovery, const struct slot_view *view, uint8_t *buffer,
                        struct segment_prefix *prefix)
{
    struct disk *disk = recovery->disk[view->disk].disk;
    struct search search = {.disk = disk,
                            .slot = view->slot,
                            .buffer = {recovery->pieces, recovery->pieces + SEARCH_BYTES},
                            .spare = spare_page(recovery)};
    uint32_t slot_bytes = (uint32_t)disk->geometry.slot_bytes, offset = PAGE_BYTES, number = 1;
    struct frame_info info;
    segment_prefix_clear(prefix, view->first_packet);
    while (read_frame(disk, view, offset, buffer, &info) == 0 && info.number == number) {
        if (segment_prefix_add(prefix, buffer, &info) != 0)
            break;
        offset += info.frame_bytes;
        number++;
    }
    uint64_t reached = prefix->index.first_packet + prefix->index.packets;
    struct segment_index *index = &prefix->index;
    uint32_t kept = index->entries;
    for (uint32_t at = offset; at + PAGE_BYTES <= slot_bytes;) {
        const uint8_t *page = search_page(&search, at);
        if (!page || memcmp(page, FRAME_MAGIC, 8) != 0 || read_frame(disk, view, at, buffer, &info) != 0 ||
            info.number < number || info.first_packet < reached) {
            at += PAGE_BYTES;
            continue;
        }
        /* Where the segment's first packet is not known, only a frontier beyond all of the hole proves anything. */
        uint64_t proof = kept > 0 ? reached + 1 : info.first_packet;
        if (index->entries == kept && info.frontier < proof) {
            at += info.frame_bytes;
            continue;
        }
        if (segment_prefix_add(prefix, buffer, &info) != 0) {
            at += PAGE_BYTES;
            continue;
        }
        at += info.frame_bytes;
    }
    search_let_go(&search, 0);
    search_let_go(&search, 1);
}

static int write_and_flush(struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer, uint32_t bytes)
{
    int result = disk_write(disk, slot, offset, buffer, bytes);
    return result != 0 ? result : disk_flush(disk);
}

/* Writes index and seal of a prefix to one place. */
static int write_seal(struct recovery *recovery, const struct slot_view *view, const struct segment_prefix *prefix,
                      const struct segment_seal *seal, uint8_t *buffer)
{
    struct disk *disk = recovery->disk[view->disk].disk;
    uint32_t parts = segment_index_parts(&prefix->index, seal);
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t offset, length = segment_index_part(&prefix->index, seal, part, buffer, &offset);
        int result = write_and_flush(disk, view->slot, offset, buffer, length);
        if (result != 0)
            return result;
    }
    return 0;
}

static void row_add_place(struct recovery *recovery, const struct slot_view *view, struct segment_row *row)
{
    if (row->places < COPIES_MAX)
        row->place[row->places++] =
            (struct segment_place){.disk = recovery->disk[view->disk].identity, .slot = view->slot};
}

/* Gives the page back to a segment whose first page a torn write destroyed while its slot was about to be reused. */
static void repair_header(struct recovery *recovery, const struct slot_view *view)
{
    if (recovery->options->read_only)
        return;
    uint8_t *page = spare_page(recovery);
    struct frame_identity identity = view->seal;
    identity.revision = view->seal.data_revision;
    struct disk *disk = recovery->disk[view->disk].disk;
    struct open_body body = {
        .opened_ns = view->seal_body.opened_ns, .slot_bytes = le64_of(disk->geometry.slot_bytes), .copies = 1};
    uint64_t first_packet = le64_get(view->seal_body.first_packet);
    struct frame_finish finish = {.kind = FRAME_OPEN, .first_packet = first_packet, .frontier = first_packet};
    int built = frame_build_plain(page, PAGE_BYTES, &identity, NULL, &finish, &body, sizeof body);
    assert(built == (int)PAGE_BYTES);
    if (write_and_flush(disk, view->slot, 0, page, PAGE_BYTES) == 0)
        recovery->report->headers_repaired++;
}

/* Whether the first of two copies is to be believed rather than the second. */
static bool seal_better(const struct slot_view *a, const struct slot_view *b)
{
    if ((a->content == SLOT_SEALED) != (b->content == SLOT_SEALED))
        return a->content == SLOT_SEALED;
    if (a->content != SLOT_SEALED)
        return false;
    /* A recovery that saw only a shorter copy has sealed that: it knows less than the one that it did not see. */
    uint64_t a_packets = le64_get(a->seal_body.packets), b_packets = le64_get(b->seal_body.packets);
    if (a_packets != b_packets && (a->seal_body.reason == SEAL_RECOVERED || b->seal_body.reason == SEAL_RECOVERED))
        return a_packets > b_packets;
    if (a->seal.revision != b->seal.revision)
        return a->seal.revision > b->seal.revision;
    return le32_get(a->seal_body.data_end) > le32_get(b->seal_body.data_end);
}

/* What it holds is worth nothing beside a better copy, which the mender copies; what its first page says is known. */
static void slot_free(struct recovery *recovery, const struct slot_view *view)
{
    recovery->disk[view->disk].belief[view->slot] = (struct slot_belief){.segment = view->open.segment};
}

/* The views of one segment's copies: [first, first + count) of the sorted list. */
static int settle_sealed(struct recovery *recovery, struct slot_view *view, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (seal_better(&view[i], &view[best]))
            best = i;
    struct segment_row row;
    segment_row_from_seal(&view[best].seal, &view[best].seal_body, &row);
    for (uint32_t i = 0; i < count; i++) {
        if (view[i].content != SLOT_SEALED || seal_better(&view[best], &view[i])) {
            slot_free(recovery, &view[i]);
            continue;
        }
        row_add_place(recovery, &view[i], &row);
        if (view[i].header_damaged)
            repair_header(recovery, &view[i]);
    }
    if (row.state == SEGMENT_DAMAGED)
        recovery->report->segments_damaged++;
    recovery->report->segments_found++;
    catalog_put_segment(recovery->options->catalog, &row);
    return 0;
}

/* Nothing was ever written behind the first page, or nothing that can be believed: the slots are free. */
static void forget_segment(struct recovery *recovery, const struct slot_view *view, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        slot_free(recovery, &view[i]);
    catalog_drop_segment(recovery->options->catalog, &view[0].open.segment);
    recovery->report->segments_empty++;
}

static int settle_unsealed(struct recovery *recovery, struct slot_view *view, uint32_t count)
{
    struct disk *disk = recovery->disk[view[0].disk].disk;
    uint64_t slot_bytes = disk->geometry.slot_bytes;
    struct segment_prefix prefix[COPIES_MAX] = {0};
    uint32_t prefixes = 0, best = 0;
    uint8_t *buffer = aligned_alloc(PAGE_BYTES, slot_bytes > FRAME_BYTES_MAX ? FRAME_BYTES_MAX : slot_bytes);
    if (!recovery->pieces)
        recovery->pieces = aligned_alloc(PAGE_BYTES, 2 * SEARCH_BYTES);
    int result = buffer && recovery->pieces ? 0 : ERR_NO_MEMORY;
    if (count > COPIES_MAX)
        count = COPIES_MAX;
    while (prefixes < count && result == 0) {
        result = segment_prefix_open(&prefix[prefixes], slot_bytes, recovery->options->keys_of);
        if (result != 0)
            break;
        prefixes++;
        read_prefix(recovery, &view[prefixes - 1], buffer, &prefix[prefixes - 1]);
        if (disk_patient_lost(recovery->disk[view[prefixes - 1].disk].disk))
            result = ERR_TIMEOUT; /* what has not been read is not a hole */
        if (prefix[prefixes - 1].index.packets > prefix[best].index.packets)
            best = prefixes - 1;
    }
    if (result != 0)
        goto out;
    const struct segment_index *index = &prefix[best].index;
    if (index->packets == 0) {
        forget_segment(recovery, view, count);
        goto out;
    }
    struct frame_identity identity = view[best].open;
    identity.data_revision = identity.revision;
    identity.revision++;
    /* Per interface only the stored packets could be counted again; the stream's account is in its last frame. */
    struct segment_seal seal = {
        .identity = &identity,
        .table = prefix[best].table,
        .interface_account = prefix[best].interface_account,
        .account = &prefix[best].account,
        .frontier = prefix[best].frontier,
        .opened_ns = view[best].opened_ns,
        .sealed_ns = recovery->options->wall_ns(recovery->options->context),
        .reason = SEAL_RECOVERED,
        .slot_bytes = slot_bytes,
    };
    if (getrandom(seal.salt, sizeof seal.salt, 0) != (ssize_t)sizeof seal.salt)
        abort();
    struct segment_row row = {
        .ring = identity.ring,
        .segment = identity.segment,
        .position = identity.position,
        .revision = identity.revision,
        .data_revision = identity.data_revision,
        .run = identity.run,
        .stream = identity.stream,
        .state = index->missing > 0 ? SEGMENT_DAMAGED : SEGMENT_SEALED,
        .first_packet = index->first_packet,
        .packets = index->packets,
        .captured_bytes = index->captured_bytes,
        .missing = index->missing,
        .purged = index->purged,
        .opened_ns = seal.opened_ns,
        .sealed_ns = seal.sealed_ns,
        .head_ns = index->head_ns,
        .first_ns = index->first_ns,
        .last_ns = index->last_ns,
        .data_end = index->data_end,
    };
    if (prefix[best].flows)
        flow_frames_seal(prefix[best].flows, index, &seal);
    segment_index_extent(index, &seal, &row.index_offset, &row.index_bytes);
    bool room = row.index_offset >= row.data_end;
    for (uint32_t i = 0; i < count; i++) {
        /* A copy that holds less is no copy of this revision: the mender makes another. */
        if (prefix[i].index.entries != index->entries || prefix[i].index.data_end != index->data_end) {
            slot_free(recovery, &view[i]);
            continue;
        }
        int written = recovery->options->read_only || !room
                          ? 0
                          : write_seal(recovery, &view[i], &prefix[best], &seal, buffer);
        if (written != 0) {
            char text[400];
            snprintf(text, sizeof text, "disk %.255s, slot %u: the segment that the last run left open could not be sealed: %s",
                     recovery->disk[view[i].disk].disk->name, view[i].slot, error_text(written));
            say(recovery, "warning", "seal-failed", text);
        }
        row_add_place(recovery, &view[i], &row);
        struct slot_belief *belief = &recovery->disk[view[i].disk].belief[view[i].slot];
        belief->revision = identity.revision;
        if (view[i].header_damaged && written == 0) {
            view[i].seal = view[i].open;
            view[i].seal.data_revision = view[i].open.revision;
            view[i].seal_body.first_packet = le64_of(index->first_packet);
            view[i].seal_body.opened_ns = le64_of((uint64_t)view[i].opened_ns);
            repair_header(recovery, &view[i]);
        }
    }
    if (recovery->options->read_only || !room) {
        row.state = SEGMENT_OPEN;
        row.revision = identity.data_revision;
        row.index_offset = row.index_bytes = 0;
    }
    recovery->report->segments_found++;
    recovery->report->segments_sealed++;
    recovery->report->packets_recovered += index->packets;
    recovery->report->packets_missing += index->missing;
    if (index->missing > 0)
        recovery->report->segments_damaged++;
    catalog_put_segment(recovery->options->catalog, &row);
    for (uint32_t i = 0; i < prefix[best].table->interfaces; i++) {
        /* Described by the table's own bytes, read back through a frame. */
        struct frame_finish finish = {.kind = FRAME_INDEX};
        struct frame_info info;
        uint32_t bytes = (uint32_t)round_up(frame_plain_header(FRAME_BYTES_USUAL, prefix[best].table), PAGE_BYTES);
        if (i == 0 && bytes <= slot_bytes &&
            frame_build_plain(buffer, bytes, &identity, prefix[best].table, &finish, NULL, 0) > 0 &&
            frame_parse(buffer, bytes, &info) == 0)
            interfaces_to_catalog(recovery, buffer, &info, row.opened_ns);
    }
out:
    while (prefixes > 0)
        segment_prefix_close(&prefix[--prefixes]);
    free(buffer);
    return result;
}

static int look_at_copy(struct recovery *recovery, uint32_t disk, uint32_t slot)
{
    struct slot_view view;
    if (slot >= recovery->disk[disk].disk->geometry.slot_count || found_has(recovery, disk, slot))
        return 0;
    int result = look_at(recovery, disk, &slot, 1, &view);
    return result == 0 ? believe(recovery, &view) : result;
}

/* Where the catalog believes the segment to be: its first page does not know of copies that were made later. */
static int look_at_believed_copies(struct recovery *recovery, const struct identity *segment)
{
    int result = 0;
    for (uint32_t disk = 0; disk < recovery->disks; disk++)
        for (uint32_t slot = 0; slot < recovery->disk[disk].disk->geometry.slot_count && result == 0; slot++) {
            const struct slot_belief *belief = &recovery->disk[disk].belief[slot];
            if (belief->position > 0 && identity_equal(&belief->segment, segment))
                result = look_at_copy(recovery, disk, slot);
        }
    return result;
}

/* The other copies of what was found: a row names all of them. Of an open segment, the first page names some that neither catalog nor walk led to. */
static int look_at_other_copies(struct recovery *recovery)
{
    int result = 0;
    for (uint32_t at = 0; at < recovery->found_count && result == 0; at++) {
        const struct slot_view one = recovery->found[at];
        if (one.content != SLOT_UNSEALED && one.content != SLOT_SEALED)
            continue;
        result = look_at_believed_copies(recovery, &one.open.segment);
        if (one.header_damaged || one.content == SLOT_SEALED)
            continue;
        for (uint8_t i = 0; i < one.open_places && result == 0; i++)
            for (uint32_t disk = 0; disk < recovery->disks; disk++) {
                if (result == 0 && identity_equal(&recovery->disk[disk].identity, &one.place[i].disk))
                    result = look_at_copy(recovery, disk, le32_get(one.place[i].slot));
            }
    }
    return result;
}

static int view_compare(const void *left, const void *right)
{
    const struct slot_view *a = left, *b = right;
    if (a->open.position != b->open.position)
        return a->open.position < b->open.position ? -1 : 1;
    return memcmp(&a->open.segment, &b->open.segment, sizeof a->open.segment);
}

/* Whether somebody was patient with one of the disks, in vain. */
static bool any_lost(const struct recovery *recovery)
{
    bool lost = false;
    for (uint32_t i = 0; i < recovery->disks; i++)
        lost |= disk_patient_lost(recovery->disk[i].disk);
    return lost;
}

static int settle_all(struct recovery *recovery)
{
    if (recovery->found_count > 0) /* qsort(3) takes no null pointer */
        qsort(recovery->found, recovery->found_count, sizeof *recovery->found, view_compare);
    int result = 0;
    uint32_t settled = 0;
    for (uint32_t from = 0, to; from < recovery->found_count && result == 0; from = to) {
        struct slot_view *view = &recovery->found[from];
        bool sealed = false;
        for (to = from; to < recovery->found_count; to++) {
            if (!identity_equal(&recovery->found[to].open.segment, &view->open.segment))
                break;
            sealed |= recovery->found[to].content == SLOT_SEALED;
        }
        if (view->content != SLOT_SEALED && view->content != SLOT_UNSEALED)
            continue; /* an empty slot that the catalog believed to hold something */
        result = sealed ? settle_sealed(recovery, view, to - from) : settle_unsealed(recovery, view, to - from);
        if (result == 0 && ++settled % CHANGES_MAX == 0)
            result = catalog_barrier(recovery->options->catalog);
        if (result == 0 && any_lost(recovery))
            result = ERR_TIMEOUT;
        if (given_up(recovery))
            result = ERR_INTERRUPTED;
    }
    return result;
}

static int recovery_begin(struct recovery *recovery)
{
    recovery->pages = aligned_alloc(PAGE_BYTES, BATCH * (HEAD_BYTES + PAGE_BYTES) + PAGE_BYTES);
    recovery->interface = calloc(INTERFACES_NOTED, sizeof *recovery->interface);
    if (recovery->pages && recovery->interface)
        return 0;
    free(recovery->pages);
    free(recovery->interface);
    return ERR_NO_MEMORY;
}

static void recovery_end(struct recovery *recovery)
{
    tell_interfaces(recovery);
    free(recovery->interface);
    free(recovery->found);
    free(recovery->pieces);
    free(recovery->pages);
}

int recovery_run(const struct recovery_options *options, struct recovery_disk *disk, uint32_t disks,
                 uint64_t *position, struct recovery_report *report, struct failure *failure)
{
    *report = (struct recovery_report){0};
    struct recovery recovery = {
        .options = options, .disk = disk, .disks = disks, .report = report, .failure = failure};
    if (recovery_begin(&recovery) != 0)
        return fail(failure, ERR_NO_MEMORY, "out of memory while looking at the disks");
    uint64_t total = 0, done = 0;
    for (uint32_t i = 0; i < disks; i++) {
        memset(disk[i].belief, 0, disk[i].disk->geometry.slot_count * sizeof *disk[i].belief);
        total += disk[i].disk->geometry.slot_count;
    }
    int result = 0;
    if (options->whole) {
        catalog_clear_ring(options->catalog, &options->ring);
        for (uint32_t i = 0; i < disks && result == 0; i++) {
            result = read_every_slot(&recovery, i, done, total);
            done += disk[i].disk->geometry.slot_count;
        }
    } else {
        result = believe_catalog(&recovery);
    }
    if (result == 0 && !options->whole)
        result = look_at_other_copies(&recovery);
    if (result == 0)
        result = settle_all(&recovery);
    *position = recovery.position;
    recovery_end(&recovery);
    if (result != 0)
        fail(failure, result, "looking at the disks: %s", error_text(result));
    return result;
}

/* ---- one disk that joins ------------------------------------------------------------------------- */

/* What the catalog says of a segment. */
struct known {
    struct identity segment;
    uint32_t revision, data_revision, data_end;
    uint64_t packets;
    bool open;
    bool elsewhere; /* it has a place on another disk */
};

struct known_list {
    const struct identity *joining;
    struct known *known;
    uint32_t count, room;
};

static int known_compare(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(struct identity)); /* the first member of both */
}

static int known_collect(const struct segment_row *row, void *context)
{
    struct known_list *list = context;
    if (list->count == list->room) {
        uint32_t room = list->room ? 2 * list->room : 1024;
        struct known *grown = realloc(list->known, room * sizeof *grown);
        if (!grown)
            return ERR_NO_MEMORY;
        list->known = grown;
        list->room = room;
    }
    struct known *known = &list->known[list->count++];
    *known = (struct known){.segment = row->segment,
                            .revision = row->revision,
                            .data_revision = row->data_revision,
                            .data_end = row->data_end,
                            .packets = row->packets,
                            .open = row->state == SEGMENT_OPEN};
    for (uint8_t p = 0; p < row->places; p++)
        known->elsewhere |= !identity_equal(&row->place[p].disk, list->joining);
    return 0;
}

enum join_verdict {
    JOIN_NOTHING,  /* superseded: the slot is free */
    JOIN_PLACE,    /* a good copy of what is known */
    JOIN_SEGMENT,  /* found again */
};

static enum join_verdict join_judge(const struct slot_view *view, const struct known *known)
{
    if (!known || !known->elsewhere)
        return JOIN_SEGMENT;
    if (view->content == SLOT_SEALED && view->seal.revision == known->revision &&
        le64_get(view->seal_body.packets) == known->packets && le32_get(view->seal_body.data_end) == known->data_end)
        return known->open ? JOIN_NOTHING : JOIN_PLACE;
    /* What has no seal elsewhere has ended there and waits for one: a sealed copy is more than that. */
    bool more = view->content == SLOT_SEALED && view->seal.data_revision == known->data_revision &&
                (known->open ? le64_get(view->seal_body.packets) >= known->packets
                             : le64_get(view->seal_body.packets) > known->packets);
    return more ? JOIN_SEGMENT : JOIN_NOTHING;
}

static bool is_one_of(const struct identity *list, uint32_t count, const struct identity *segment)
{
    for (uint32_t i = 0; i < count; i++)
        if (identity_equal(&list[i], segment))
            return true;
    return false;
}

static int join_slot(struct recovery *recovery, struct slot_view *view, const struct known_list *list, bool is_filled)
{
    const struct known *known = list->count == 0 ? NULL
                                                 : bsearch(&view->open.segment, list->known, list->count,
                                                           sizeof *list->known, known_compare);
    struct segment_place place = {.disk = recovery->disk[0].identity, .slot = view->slot};
    enum join_verdict verdict = is_filled ? JOIN_NOTHING : join_judge(view, known);
    if (verdict == JOIN_PLACE) {
        catalog_add_place(recovery->options->catalog, &view->open.segment, known->revision, &place);
        recovery->report->segments_found++;
        if (view->header_damaged)
            repair_header(recovery, view);
        return 0;
    }
    if (verdict == JOIN_SEGMENT)
        return view->content == SLOT_SEALED ? settle_sealed(recovery, view, 1) : settle_unsealed(recovery, view, 1);
    slot_free(recovery, view);
    return 0;
}

int recovery_join(const struct recovery_options *options, struct recovery_disk *disk, const struct identity *filling,
                  uint32_t filling_count, uint64_t *position, struct recovery_report *report, struct failure *failure)
{
    struct recovery_options whole = *options;
    whole.whole = true;
    *report = (struct recovery_report){0};
    struct recovery recovery = {.options = &whole, .disk = disk, .disks = 1, .report = report, .failure = failure};
    struct known_list list = {.joining = &disk->identity};
    if (recovery_begin(&recovery) != 0)
        return fail(failure, ERR_NO_MEMORY, "out of memory while looking at disk %s", disk->disk->name);
    uint32_t slots = disk->disk->geometry.slot_count;
    memset(disk->belief, 0, slots * sizeof *disk->belief);
    int result = catalog_barrier(options->catalog);
    if (result == 0)
        result = catalog_find(options->catalog, &options->ring, INT64_MIN, INT64_MAX, known_collect, &list);
    if (result == 0)
        result = read_every_slot(&recovery, 0, 0, slots);
    if (list.count > 0)
        qsort(list.known, list.count, sizeof *list.known, known_compare);
    catalog_drop_places(options->catalog, &disk->identity); /* what it said of this disk is read anew */
    for (uint32_t i = 0; i < recovery.found_count && result == 0; i++) {
        struct slot_view *view = &recovery.found[i];
        result = join_slot(&recovery, view, &list, is_one_of(filling, filling_count, &view->open.segment));
        if (result == 0 && any_lost(&recovery))
            result = ERR_TIMEOUT;
        if (result == 0 && i % CHANGES_MAX == CHANGES_MAX - 1)
            result = catalog_barrier(options->catalog);
        if (result == 0 && given_up(&recovery))
            result = ERR_INTERRUPTED;
    }
    *position = recovery.position;
    free(list.known);
    recovery_end(&recovery);
    return result == 0 ? 0 : fail(failure, result, "looking at disk %s: %s", disk->disk->name, error_text(result));
}
