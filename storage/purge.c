/*
 * purge.c - see purge.h.
 *
 * The happy path: recovery_run() says what lies where -> seals say which segments hold what is to go -> from the newest to the oldest each of them
 * is read (purge_image_build), written anew to every disk that has it (purge_copy_write), and wiped where it was -> what no segment covers is cleared.
 *
 * The order of writing is that of FORMAT.md, section 4, for a copy that is made of a sealed one: OPEN marked as healing and no seal, durable; everything
 * else, durable; the seal, durable; the mark taken away. So a copy that is not whole is worth nothing to a start.
 */
#include "purge_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "segment_index.h"

#define PIECE_BYTES (1u << 20) /* read and written at a time */

/* ---- what is to go ------------------------------------------------------------------------------- */

static int range_compare(const void *left, const void *right)
{
    const struct purge_range *a = left, *b = right;
    int order = memcmp(&a->run, &b->run, sizeof a->run);
    if (order != 0)
        return order;
    if (a->stream != b->stream)
        return a->stream < b->stream ? -1 : 1;
    return a->first != b->first ? (a->first < b->first ? -1 : 1) : 0;
}

uint32_t purge_sort(struct purge_range *range, uint32_t ranges)
{
    uint32_t left = 0;
    if (ranges > 0)
        qsort(range, ranges, sizeof *range, range_compare);
    for (uint32_t i = 0; i < ranges; i++) {
        struct purge_range *last = left > 0 ? &range[left - 1] : NULL;
        if (range[i].count == 0 || range[i].count > UINT64_MAX - range[i].first)
            continue;
        if (!last || !identity_equal(&last->run, &range[i].run) || last->stream != range[i].stream ||
            range[i].first > last->first + last->count)
            range[left++] = range[i];
        else if (range[i].first + range[i].count > last->first + last->count)
            last->count = range[i].first + range[i].count - last->first;
    }
    return left;
}

/* The first range of the stream that ends behind `number`; null: there is none. */
static const struct purge_range *range_behind(const struct purge_range *all, uint32_t ranges, const struct identity *run,
                                              uint32_t stream, uint64_t number)
{
    struct purge_range sought = {.run = *run, .stream = stream, .first = number};
    uint32_t low = 0, high = ranges;
    while (low < high) { /* the first that does not begin before it */
        uint32_t middle = low + (high - low) / 2;
        if (range_compare(&all[middle], &sought) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (uint32_t i = low > 0 ? low - 1 : 0; i < ranges && i <= low; i++) {
        const struct purge_range *range = &all[i];
        if (identity_equal(&range->run, run) && range->stream == stream && range->first + range->count > number)
            return range;
    }
    return NULL;
}

bool purge_concerns(const struct purge_range *all, uint32_t ranges, const struct segment_row *row)
{
    const struct purge_range *range = range_behind(all, ranges, &row->run, row->stream, row->first_packet);
    return range && range->first < row->first_packet + row->packets + row->missing;
}

static bool is_gone(void *context, uint64_t number, int64_t time_ns)
{
    const struct purge *purge = context;
    const struct purge_options *options = purge->options;
    if (time_ns < options->from_ns || (time_ns >= options->to_ns && options->to_ns != INT64_MAX))
        return false;
    const struct purge_range *range = range_behind(options->range, options->ranges, &purge->row.run, purge->row.stream, number);
    return range && range->first <= number;
}

/* ---- slots --------------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *bytes, uint64_t count)
{
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

static int slot_failed(struct purge *purge, uint32_t disk, uint32_t slot, int code, const char *what)
{
    return fail(purge->failure, code, "disk %s, slot %u could not be %s: %s", purge->disk[disk].disk->name, slot, what,
                error_text(code));
}

/* All of the slot. What cannot be read is zeros. */
static void slot_read(struct purge *purge, uint32_t disk, uint32_t slot, uint8_t *image)
{
    struct disk *io = purge->disk[disk].disk;
    for (uint64_t at = 0; at < purge->slot_bytes; at += PIECE_BYTES) {
        uint32_t bytes = purge->slot_bytes - at < PIECE_BYTES ? (uint32_t)(purge->slot_bytes - at) : PIECE_BYTES;
        if (disk_read(io, slot, at, image + at, bytes) == 0)
            continue;
        for (uint64_t page = at; page < at + bytes; page += PAGE_BYTES)
            if (disk_read(io, slot, page, image + page, PAGE_BYTES) != 0)
                memset(image + page, 0, PAGE_BYTES);
    }
}

/* [from, to) of the slot out of the image. Not durable yet. */
static int slot_write(struct purge *purge, uint32_t disk, uint32_t slot, uint8_t *image, uint64_t from, uint64_t to)
{
    int result = 0;
    for (uint64_t at = from; at < to && result == 0; at += PIECE_BYTES) {
        uint32_t bytes = to - at < PIECE_BYTES ? (uint32_t)(to - at) : PIECE_BYTES;
        result = disk_write(purge->disk[disk].disk, slot, at, image + at, bytes);
    }
    return result;
}

int purge_slot_wipe(struct purge *purge, uint32_t disk, uint32_t slot)
{
    memset(purge->other, 0, purge->slot_bytes);
    int result = slot_write(purge, disk, slot, purge->other, PAGE_BYTES, purge->slot_bytes);
    if (result == 0)
        result = disk_flush(purge->disk[disk].disk);
    if (result == 0)
        result = slot_write(purge, disk, slot, purge->other, 0, PAGE_BYTES);
    if (result == 0)
        result = disk_flush(purge->disk[disk].disk);
    return result == 0 ? 0 : slot_failed(purge, disk, slot, result, "overwritten");
}

bool purge_seal_look(struct purge *purge, uint32_t disk, uint32_t slot, struct segment_row *row, enum seal_reason *reason)
{
    const struct slot_belief *belief = &purge->disk[disk].belief[slot];
    struct frame_info info;
    struct seal_body body;
    uint8_t *page = purge->part;
    if (disk_read(purge->disk[disk].disk, slot, purge->slot_bytes - PAGE_BYTES, page, PAGE_BYTES) != 0 ||
        frame_parse(page, PAGE_BYTES, &info) != 0 || info.frame_bytes != PAGE_BYTES || frame_check(page, &info) != 0 ||
        !identity_equal(&info.ring, &purge->options->recovery->ring) ||
        !identity_equal(&info.segment, &belief->segment) || info.position != belief->position ||
        segment_seal_read(page, &info, purge->slot_bytes, &body) != 0)
        return false;
    const struct frame_identity identity = frame_identity_of(&info);
    segment_row_from_seal(&identity, &body, row);
    *reason = (enum seal_reason)body.reason;
    return true;
}

/* ---- which segments ------------------------------------------------------------------------------ */

int purge_candidate_add(struct purge *purge, const struct segment_row *row)
{
    if (purge->candidates == purge->room) {
        uint32_t room = purge->room ? 2 * purge->room : 256;
        struct candidate *grown = realloc(purge->candidate, room * sizeof *grown);
        if (!grown)
            return fail(purge->failure, ERR_NO_MEMORY, "out of memory");
        purge->candidate = grown;
        purge->room = room;
    }
    purge->candidate[purge->candidates++] = (struct candidate){.segment = row->segment, .position = row->position};
    return 0;
}

static int candidate_compare(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->position != b->position)
        return a->position > b->position ? -1 : 1;
    return memcmp(&a->segment, &b->segment, sizeof a->segment);
}

void purge_candidates_sort(struct purge *purge)
{
    if (purge->candidates > 0)
        qsort(purge->candidate, purge->candidates, sizeof *purge->candidate, candidate_compare);
}

static int candidates_find(struct purge *purge)
{
    int result = 0;
    for (uint32_t disk = 0; disk < purge->disks; disk++)
        for (uint32_t slot = 0; slot < purge->disk[disk].disk->geometry.slot_count && result == 0; slot++) {
            struct segment_row row;
            enum seal_reason reason;
            if (purge->disk[disk].belief[slot].position == 0)
                continue;
            if (!purge_seal_look(purge, disk, slot, &row, &reason))
                return fail(purge->failure, ERR_BUSY,
                            "disk %s, slot %u holds a segment that could not be sealed: nothing was erased; what it holds "
                            "can be once the disk takes writes again",
                            purge->disk[disk].disk->name, slot);
            if (purge_concerns(purge->options->range, purge->options->ranges, &row))
                result = purge_candidate_add(purge, &row);
        }
    purge_candidates_sort(purge);
    return result;
}

/* Where the segment lies, and what its seal says. False: nowhere any more. */
static bool places_find(struct purge *purge, const struct candidate *candidate)
{
    purge->places = 0;
    for (uint32_t disk = 0; disk < purge->disks; disk++)
        for (uint32_t slot = 0; slot < purge->disk[disk].disk->geometry.slot_count; slot++) {
            const struct slot_belief *belief = &purge->disk[disk].belief[slot];
            if (belief->position == 0 || !identity_equal(&belief->segment, &candidate->segment) ||
                purge->places == RING_DISKS_MAX)
                continue;
            purge->place[purge->places].disk = disk;
            purge->place[purge->places].from = slot;
            purge->place[purge->places++].to = PURGE_NO_SLOT;
        }
    for (uint32_t i = 0; i < purge->places; i++)
        if (purge_seal_look(purge, purge->place[i].disk, purge->place[i].from, &purge->row, &purge->reason))
            return true;
    return false;
}

/* ---- the new revision ----------------------------------------------------------------------------- */

static bool frame_good(const struct purge *purge, const uint8_t *image, uint32_t at, struct frame_info *info)
{
    const struct segment_row *row = &purge->row;
    return frame_parse(image + at, row->data_end - at, info) == 0 && info->kind == FRAME_DATA && info->offset == at &&
           info->frame_bytes <= row->data_end - at && identity_equal(&info->ring, &row->ring) &&
           identity_equal(&info->segment, &row->segment) && info->position == row->position &&
           info->revision == row->data_revision && frame_check(image + at, info) == 0;
}

/* Another copy has the frame: it is put into the image. `loaded`: the place whose slot is in `other`. */
static bool frame_from_others(struct purge *purge, uint32_t at, uint32_t *loaded, struct frame_info *info)
{
    for (uint32_t i = 1; i < purge->places; i++) {
        if (*loaded != i)
            slot_read(purge, purge->place[i].disk, purge->place[i].from, purge->other);
        *loaded = i;
        if (frame_good(purge, purge->other, at, info)) {
            memcpy(purge->image + at, purge->other + at, info->frame_bytes);
            return true;
        }
    }
    return false;
}

/* The accounts of the interfaces, as the old index has them. */
static void accounts_take(struct purge *purge)
{
    const struct segment_row *row = &purge->row;
    uint32_t at = row->index_offset, room = (uint32_t)purge->slot_bytes - PAGE_BYTES - at;
    struct frame_info info;
    struct index_body body;
    if (row->index_bytes == 0 || frame_parse(purge->image + at, room, &info) != 0 || info.kind != FRAME_INDEX ||
        info.frame_bytes > room || frame_check(purge->image + at, &info) != 0 ||
        !identity_equal(&info.segment, &row->segment) || !frame_body(purge->image + at, &info, sizeof body))
        return;
    memcpy(&body, frame_body(purge->image + at, &info, sizeof body), sizeof body);
    uint64_t before = sizeof body + (uint64_t)le32_get(body.frames) * sizeof(struct index_frame_entry);
    uint32_t accounts = le32_get(body.accounts);
    if (accounts > FRAME_ENTRIES_MAX || before + accounts * sizeof(struct index_account) > info.body_bytes)
        return;
    const uint8_t *from = purge->image + at + info.header_bytes + before;
    for (uint32_t i = 0; i < accounts; i++, from += sizeof(struct index_account)) {
        struct index_account account;
        memcpy(&account, from, sizeof account);
        frame_account_get(&account.account, &purge->prefix.interface_account[i]);
    }
}

/* The table's entries, which the prefix leaves out. */
static void entries_take(struct purge *purge, const uint8_t *frame, const struct frame_info *info)
{
    struct frame_table *table = purge->prefix.table;
    table->entries = info->entries;
    memcpy(table->entry, frame + sizeof(struct frame_header) + info->blocks * sizeof(struct frame_block),
           info->entries * sizeof table->entry[0]);
}

/* Erases in one frame, and takes it over. False: it makes no sense, and is left out. */
static bool frame_take(struct purge *purge, uint32_t at, struct frame_info *info, uint64_t *packets, uint64_t *bytes)
{
    uint8_t *frame = purge->image + at;
    if (info->packets > 0 && frame_purge(frame, info, is_gone, purge, packets, bytes) != 0)
        return false;
    struct frame_identity identity = frame_identity_of(info);
    identity.revision = identity.data_revision = purge->row.revision + 1;
    frame_relabel(frame, &identity, at, info->number);
    int result = frame_parse(frame, info->frame_bytes, info);
    if (result == 0)
        result = segment_prefix_add(&purge->prefix, frame, info);
    assert(result == 0);
    entries_take(purge, frame, info);
    return true;
}

int purge_image_build(struct purge *purge, uint64_t *packets, uint64_t *bytes)
{
    struct segment_row *row = &purge->row;
    uint8_t *image = purge->image;
    uint32_t loaded = 0;
    slot_read(purge, purge->place[0].disk, purge->place[0].from, image);
    memset(purge->prefix.interface_account, 0, FRAME_ENTRIES_MAX * sizeof purge->prefix.interface_account[0]);
    frame_table_clear(purge->prefix.table);
    segment_prefix_clear(&purge->prefix, row->first_packet);
    purge->prefix.frontier = 0;
    accounts_take(purge);
    for (uint32_t at = PAGE_BYTES; at < row->data_end;) {
        struct frame_info info;
        bool good = frame_good(purge, image, at, &info) || frame_from_others(purge, at, &loaded, &info);
        uint32_t length = good ? info.frame_bytes : PAGE_BYTES;
        if (!good || !frame_take(purge, at, &info, packets, bytes)) {
            purge->report->pages_lost += is_zero(image + at, length) ? 0 : length / PAGE_BYTES;
            memset(image + at, 0, length); /* who can say whose bytes they are */
        }
        at += length;
    }
    const struct segment_index *index = &purge->prefix.index;
    if (purge->prefix.flows) /* what layer 7 found of what is left stays known */
        flow_frames_carry(purge->prefix.flows, image, row->index_offset, row->index_bytes, &row->segment, row->revision);
    memset(image, 0, PAGE_BYTES);
    memset(image + index->data_end, 0, purge->slot_bytes - index->data_end);
    struct frame_identity identity = {
        .ring = row->ring,
        .segment = row->segment,
        .run = row->run,
        .position = row->position,
        .revision = row->revision + 1,
        .data_revision = row->revision + 1,
        .stream = row->stream,
    };
    struct segment_seal seal = {
        .identity = &identity,
        .table = purge->prefix.table,
        .interface_account = purge->prefix.interface_account,
        .account = &purge->prefix.account,
        .frontier = purge->prefix.frontier,
        .opened_ns = row->opened_ns,
        .sealed_ns = row->sealed_ns,
        .reason = purge->reason,
        .slot_bytes = purge->slot_bytes,
    };
    if (getrandom(seal.salt, sizeof seal.salt, 0) != (ssize_t)sizeof seal.salt)
        abort();
    if (purge->prefix.flows)
        flow_frames_seal(purge->prefix.flows, index, &seal);
    uint32_t offset, length;
    segment_index_extent(index, &seal, &offset, &length);
    if (offset < index->data_end)
        return fail(purge->failure, ERR_CORRUPT, "a segment has no room for its index");
    for (uint32_t part = 0; part < segment_index_parts(index, &seal); part++) {
        length = segment_index_part(index, &seal, part, purge->part, &offset);
        memcpy(image + offset, purge->part, length);
    }
    struct frame_info info;
    struct seal_body body;
    uint8_t *page = image + purge->slot_bytes - PAGE_BYTES;
    int result = frame_parse(page, PAGE_BYTES, &info);
    if (result == 0)
        result = segment_seal_read(page, &info, purge->slot_bytes, &body);
    assert(result == 0);
    segment_row_from_seal(&identity, &body, row);
    return 0;
}

/* ---- copies --------------------------------------------------------------------------------------- */

/* A free slot of the disk; where there is none, its oldest, but not one of the segment in hand. */
static uint32_t slot_spare(const struct purge *purge, uint32_t disk)
{
    const struct recovery_disk *one = &purge->disk[disk];
    uint32_t best = PURGE_NO_SLOT;
    for (uint32_t slot = 0; slot < one->disk->geometry.slot_count; slot++) {
        const struct slot_belief *belief = &one->belief[slot];
        if (belief->position > 0 && identity_equal(&belief->segment, &purge->row.segment))
            continue;
        if (best == PURGE_NO_SLOT || belief->position < one->belief[best].position)
            best = slot;
    }
    return best;
}

/* The row of the segment with the places that there are. */
static void row_put(const struct purge *purge, struct segment_row *row)
{
    row->places = 0;
    for (uint32_t disk = 0; disk < purge->disks; disk++)
        for (uint32_t slot = 0; slot < purge->disk[disk].disk->geometry.slot_count; slot++) {
            const struct slot_belief *belief = &purge->disk[disk].belief[slot];
            if (belief->position > 0 && belief->revision == row->revision &&
                identity_equal(&belief->segment, &row->segment) && row->places < COPIES_MAX)
                row->place[row->places++] =
                    (struct segment_place){.disk = purge->disk[disk].identity, .slot = slot};
        }
    if (row->places > 0)
        catalog_put_segment(purge->options->recovery->catalog, row);
    else
        catalog_drop_segment(purge->options->recovery->catalog, &row->segment);
}

/* The slot's segment has to make room: this place of it is gone. */
static void place_drop(struct purge *purge, uint32_t disk, uint32_t slot)
{
    struct slot_belief gone = purge->disk[disk].belief[slot];
    purge->disk[disk].belief[slot] = (struct slot_belief){0};
    if (gone.position == 0)
        return;
    purge->report->segments_dropped++;
    struct segment_place place = {.disk = purge->disk[disk].identity, .slot = slot};
    catalog_drop_place(purge->options->recovery->catalog, &gone.segment, &place);
}

static void open_build(const struct purge *purge, uint32_t disk, uint32_t slot, uint8_t *page, bool healing)
{
    const struct segment_place place = {.disk = purge->disk[disk].identity, .slot = slot};
    segment_copy_open(page, &purge->row, purge->slot_bytes, &place, "", healing);
}

int purge_copy_write(struct purge *purge, uint32_t disk, uint32_t slot)
{
    struct disk *io = purge->disk[disk].disk;
    uint64_t seal_at = purge->slot_bytes - PAGE_BYTES;
    memset(purge->part, 0, PAGE_BYTES);
    int result = disk_write(io, slot, seal_at, purge->part, PAGE_BYTES);
    open_build(purge, disk, slot, purge->image, true);
    if (result == 0)
        result = disk_write(io, slot, 0, purge->image, PAGE_BYTES);
    if (result == 0)
        result = disk_flush(io);
    if (result == 0)
        result = slot_write(purge, disk, slot, purge->image, PAGE_BYTES, seal_at);
    if (result == 0)
        result = disk_flush(io);
    if (result == 0)
        result = disk_write(io, slot, seal_at, purge->image + seal_at, PAGE_BYTES);
    if (result == 0)
        result = disk_flush(io);
    open_build(purge, disk, slot, purge->image, false);
    if (result == 0)
        result = disk_write(io, slot, 0, purge->image, PAGE_BYTES);
    if (result == 0)
        result = disk_flush(io);
    return result == 0 ? 0 : slot_failed(purge, disk, slot, result, "written");
}

static int copies_write(struct purge *purge)
{
    for (uint32_t i = 0; i < purge->places; i++) {
        uint32_t disk = purge->place[i].disk, slot = slot_spare(purge, disk);
        if (slot == PURGE_NO_SLOT)
            return fail(purge->failure, ERR_NO_SPACE, "disk %s has no slot to spare", purge->disk[disk].disk->name);
        place_drop(purge, disk, slot);
        int result = purge_copy_write(purge, disk, slot);
        if (result != 0)
            return result;
        purge->disk[disk].belief[slot] = (struct slot_belief){
            .segment = purge->row.segment, .position = purge->row.position, .revision = purge->row.revision};
        purge->place[i].to = slot;
    }
    return 0;
}

static int segment_purge(struct purge *purge, const struct candidate *candidate)
{
    uint64_t packets = 0, bytes = 0, lost_before = purge->report->pages_lost;
    if (!places_find(purge, candidate))
        return 0; /* it had to make room for another one, and is overwritten */
    if (purge->row.revision == UINT32_MAX)
        return fail(purge->failure, ERR_CORRUPT, "a segment claims to have been rewritten for ever");
    int result = purge_image_build(purge, &packets, &bytes);
    if (result != 0 || (packets == 0 && purge->report->pages_lost == lost_before))
        return result;
    result = copies_write(purge);
    if (result == 0)
        purge->report->segments++;
    /* Where the copies could not all be made those that are there count: the next start would say the same. */
    bool any = purge->place[0].to != PURGE_NO_SLOT;
    for (uint32_t i = 0; i < purge->places && any; i++) {
        purge->disk[purge->place[i].disk].belief[purge->place[i].from] = (struct slot_belief){0};
        int wiped = purge_slot_wipe(purge, purge->place[i].disk, purge->place[i].from);
        result = result == 0 ? wiped : result;
    }
    if (any) {
        purge->report->packets += packets;
        purge->report->bytes += bytes;
        row_put(purge, &purge->row);
    }
    return result;
}

/* ---- what no segment covers ------------------------------------------------------------------------ */

int purge_stretch_clear(struct purge *purge, uint32_t disk, uint32_t slot, uint64_t from, uint64_t to)
{
    struct disk *io = purge->disk[disk].disk;
    int cleared = 0;
    for (uint64_t at = from; at < to; at += PIECE_BYTES) {
        uint32_t bytes = to - at < PIECE_BYTES ? (uint32_t)(to - at) : PIECE_BYTES;
        if (disk_read(io, slot, at, purge->image, bytes) == 0 && is_zero(purge->image, bytes))
            continue;
        memset(purge->image, 0, bytes);
        int result = disk_write(io, slot, at, purge->image, bytes);
        if (result != 0)
            return slot_failed(purge, disk, slot, result, "overwritten");
        cleared = 1;
    }
    return cleared;
}

bool purge_slot_is_clear(struct purge *purge, uint32_t disk, uint32_t slot)
{
    struct disk *io = purge->disk[disk].disk;
    return disk_read(io, slot, 0, purge->part, 2 * PAGE_BYTES) == 0 && is_zero(purge->part, 2 * PAGE_BYTES) &&
           disk_read(io, slot, purge->slot_bytes - PAGE_BYTES, purge->part, PAGE_BYTES) == 0 && is_zero(purge->part, PAGE_BYTES);
}

static int slot_clear(struct purge *purge, uint32_t disk, uint32_t slot)
{
    struct segment_row row;
    enum seal_reason reason;
    if (purge->disk[disk].belief[slot].position == 0) {
        if (purge_slot_is_clear(purge, disk, slot))
            return 0;
        int wiped = purge_slot_wipe(purge, disk, slot);
        return wiped == 0 ? 1 : wiped;
    }
    if (!purge_seal_look(purge, disk, slot, &row, &reason))
        return fail(purge->failure, ERR_CORRUPT, "disk %s, slot %u: its seal was there and is not any more",
                    purge->disk[disk].disk->name, slot);
    return purge_stretch_clear(purge, disk, slot, row.data_end, row.index_offset);
}

static int clear_the_rest(struct purge *purge)
{
    for (uint32_t disk = 0; disk < purge->disks; disk++) {
        for (uint32_t slot = 0; slot < purge->disk[disk].disk->geometry.slot_count; slot++) {
            int result = slot_clear(purge, disk, slot);
            if (result < 0)
                return result;
            purge->report->slots_cleared += (uint64_t)result;
        }
        int result = disk_flush(purge->disk[disk].disk);
        if (result != 0)
            return fail(purge->failure, result, "disk %s could not be flushed: %s", purge->disk[disk].disk->name,
                        error_text(result));
    }
    return 0;
}

bool purge_finds_segments(struct disk *disk, const struct identity *ring)
{
    uint8_t *pages = aligned_alloc(PAGE_BYTES, 3 * PAGE_BYTES);
    bool found = !pages;
    for (uint32_t slot = 0; slot < disk->geometry.slot_count && !found; slot++) {
        if (disk_read(disk, slot, 0, pages, 2 * PAGE_BYTES) != 0)
            memset(pages, 0, 2 * PAGE_BYTES);
        if (disk_read(disk, slot, disk->geometry.slot_bytes - PAGE_BYTES, pages + 2 * PAGE_BYTES, PAGE_BYTES) != 0)
            memset(pages + 2 * PAGE_BYTES, 0, PAGE_BYTES);
        for (uint32_t i = 0; i < 3 && !found; i++) {
            struct frame_info info;
            int result = frame_parse(pages + i * PAGE_BYTES, PAGE_BYTES, &info);
            found = result == ERR_AGAIN || (result == 0 && identity_equal(&info.ring, ring));
        }
    }
    free(pages);
    return found;
}

/* ---- all of it ------------------------------------------------------------------------------------- */

int purge_open(struct purge *purge)
{
    purge->image = aligned_alloc(PAGE_BYTES, purge->slot_bytes);
    purge->other = aligned_alloc(PAGE_BYTES, purge->slot_bytes);
    purge->part = aligned_alloc(PAGE_BYTES, FRAME_BYTES_USUAL);
    if (purge->image && purge->other && purge->part &&
        segment_prefix_open(&purge->prefix, purge->slot_bytes, purge->options->recovery->keys_of) == 0) {
        if (purge->prefix.flows)
            flow_index_expect_verdicts(purge->prefix.flows);
        return 0;
    }
    free(purge->image);
    free(purge->other);
    free(purge->part);
    return fail(purge->failure, ERR_NO_MEMORY, "out of memory");
}

void purge_close(struct purge *purge)
{
    segment_prefix_close(&purge->prefix);
    free(purge->candidate);
    free(purge->image);
    free(purge->other);
    free(purge->part);
}

int purge_run(const struct purge_options *options, struct recovery_disk *disk, uint32_t disks, uint64_t *position,
              struct purge_report *report, struct failure *failure)
{
    struct recovery_options look = *options->recovery;
    struct recovery_report found;
    struct purge purge = {.options = options, .disk = disk, .disks = disks, .report = report, .failure = failure};
    *report = (struct purge_report){0};
    look.whole = true;
    int result = recovery_run(&look, disk, disks, position, &found, failure);
    if (result != 0)
        return result;
    report->looked = true;
    purge.slot_bytes = disk[0].disk->geometry.slot_bytes;
    result = purge_open(&purge);
    if (result != 0)
        return result;
    result = candidates_find(&purge);
    struct candidate *last = NULL;
    for (uint32_t i = 0; i < purge.candidates && result == 0; i++) {
        struct candidate *candidate = &purge.candidate[i];
        if (last && identity_equal(&last->segment, &candidate->segment))
            continue; /* another place of the same */
        last = candidate;
        result = segment_purge(&purge, candidate);
        if (look.progress)
            look.progress(look.context, i + 1, purge.candidates);
        if (result == 0 && look.give_up && look.give_up(look.context))
            result = fail(failure, ERR_INTERRUPTED, "given up: part of it has been erased, purging again goes on");
    }
    if (result == 0)
        result = clear_the_rest(&purge);
    purge_close(&purge);
    return result;
}
