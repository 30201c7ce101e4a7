/*
 * segment_reader.c - see the header for the happy path, the failure modes and what closing does.
 */
#include "segment_reader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "segment_flows.h"

#define INDEX_STEP_BYTES (16u * 1024) /* of an index that are read at once */
#define HEADER_PROBE_BYTES \
    (16u * 1024) /* read at once where only a header is wanted: nearly always enough */
#define INDEX_AHEAD_BYTES (128u * 1024) /* of a key index in which addresses are looked for, before one has said how much that takes */
#define SCAN_BYTES FRAME_BYTES_USUAL
#define SIFTED_BYTES_MIN (512u * 1024) /* come at once: with less, to wake a thread costs more than it does */
#define UNASKED_MAX 64u /* segments in a row whose key indexes are not asked */
#define TRIES_MAX 3u /* of reading a stretch again because the recorder says so */
#define BLOCKS_MAX (FRAME_BYTES_MAX / BLOCK_BYTES)

/* The longest header that a frame can have: every table full. What claims more is no header. */
#define HEADER_BYTES_MAX                                                           \
    (sizeof(struct frame_header) + (BLOCKS_MAX + 1) * sizeof(struct frame_block) + \
     FRAME_ENTRIES_MAX * (sizeof(struct frame_entry) + sizeof(struct frame_interface) + 512) + 8)

/* Steps that do not leave this file. */
enum {
    STEP_RETRY = 100, /* something was set right: look again */
    STEP_TROUBLE,     /* the frame did not pass */
};

struct piece {
    struct patience_read *read; /* of PIECE_ROOM_BYTES, then PIECE_BYTES; null: its disk hangs, and keeps it */
    uint32_t frames; /* 0: a piece of the slot; else so many frames or blocks of them, each in FRAME_BYTES_USUAL of the memory, in the order of entries */
    struct sifter_frame *sift; /* PIECE_FRAMES; null: the piece was never used for frames */
    struct sifter_batch batch;
    uint32_t entry[PIECE_FRAMES];
    uint32_t header_bytes; /* that were read of each */
    struct piece *next;
    uint8_t *data;   /* first valid byte */
    uint32_t offset; /* in the slot, of `data` */
    uint32_t bytes;  /* valid at `data` */
    uint32_t place;
    uint32_t disk; /* of the job */
    bool others; /* have the same */
    bool waited;
    bool is_short; /* of PIECE_SHORT_BYTES, without room before them */
    int result;
};

/* ---- pieces ------------------------------------------------------------------------------------
 */

static void *page_memory(size_t bytes)
{
    return aligned_alloc(PAGE_BYTES, bytes);
}

/* `memory`: of the pool; null, after some of it was lost: the piece has its own. */
static struct piece *piece_new(uint8_t *memory, bool is_short)
{
    struct piece *piece = calloc(1, sizeof *piece);
    struct patience_read *read =
        memory ? patience_read_lent(memory) : patience_read_new(is_short ? PIECE_SHORT_BYTES : PIECE_ROOM_BYTES + PIECE_BYTES);
    if (!piece || !read) {
        free(piece);
        patience_read_free(&read);
        return NULL;
    }
    piece->read = read;
    piece->is_short = is_short;
    return piece;
}

/* Null where the pool has no more, or the machine has no memory: then frames are fetched one by
 * one. */
static struct piece *piece_take(struct segment_readers *shared)
{
    struct piece *piece = shared->free_piece;
    if (piece) {
        shared->free_piece = piece->next;
        piece->read->sifter = NULL;
        return piece;
    }
    if (shared->pieces + shared->patience.lost_reads >= shared->pieces_max)
        return NULL;
    piece = piece_new(piece_pool_take(shared->pool, PIECE_ROOM_BYTES + PIECE_BYTES), false);
    shared->pieces += piece != NULL;
    return piece;
}

static struct piece *short_take(struct segment_readers *shared)
{
    struct piece *piece = shared->free_short;
    if (piece) {
        shared->free_short = piece->next;
        return piece;
    }
    if (shared->shorts >= shared->shorts_max)
        return NULL;
    piece = piece_new(shared->short_memory ? shared->short_memory + (size_t)shared->shorts * PIECE_SHORT_BYTES : NULL, true);
    shared->shorts += piece != NULL;
    return piece;
}

static void piece_wait(struct segment_readers *shared, struct piece *piece)
{
    if (piece->waited)
        return;
    struct patience_read *read = piece->read;
    piece->result = patience_end(&shared->patience, &piece->read, piece->others);
    piece->waited = true;
    if (!piece->read) /* a disk that answers after all must not have it sifted */
        sifter_withdraw(shared->sifter, &read->batch);
    shared->ahead[piece->disk]--;
    if (piece->result == 0)
        shared->bytes_read += piece->read->bytes;
}

static void piece_give(struct segment_readers *shared, struct piece *piece)
{
    piece_wait(shared, piece);
    if (!piece->read) {
        /* What a short one has lost counts as a piece among those that are lost, so it has no successor. */
        shared->pieces -= !piece->is_short;
        free(piece->sift);
        free(piece);
        return;
    }
    sifter_withdraw(shared->sifter, &piece->read->batch);
    struct piece **list = piece->is_short ? &shared->free_short : &shared->free_piece;
    piece->next = *list;
    *list = piece;
}

static void free_pieces(struct segment_readers *shared, struct piece **list)
{
    while (*list) {
        struct piece *piece = *list;
        *list = piece->next;
        patience_read_free(&piece->read);
        shared->pieces -= !piece->is_short;
        free(piece->sift);
        free(piece);
    }
}

/* Memory for all pieces. Where there is none, each has its own. */
static void pool_open(struct segment_readers *shared)
{
    const uint32_t short_bytes = shared->shorts_max * PIECE_SHORT_BYTES;
    shared->own_pool = (struct piece_pool){.memory = NULL};
    if (shared->pool) {
        piece_pool_restart(shared->pool);
    } else {
        shared->pool = &shared->own_pool;
        piece_pool_open(shared->pool, (uint64_t)shared->pieces_max * (PIECE_ROOM_BYTES + PIECE_BYTES) + short_bytes);
    }
    shared->short_memory = short_bytes > 0 ? piece_pool_take(shared->pool, short_bytes) : NULL;
}

static struct piece *pop_piece(struct segment_reader *reader)
{
    struct piece *piece = reader->head;
    reader->head = piece->next;
    if (!reader->head)
        reader->tail = NULL;
    reader->pieces--;
    return piece;
}

static void drop_pieces(struct segment_reader *reader)
{
    while (reader->head)
        piece_give(reader->shared, pop_piece(reader));
}

static void index_ahead_drop(struct segment_readers *shared, struct index_ahead *ahead)
{
    if (ahead->piece)
        piece_give(shared, ahead->piece);
    ahead->piece = NULL;
}

int segment_readers_open(struct segment_readers *shared, uint64_t memory_max)
{
    uint64_t most = memory_max / (PIECE_ROOM_BYTES + PIECE_BYTES);
    shared->free_piece = shared->free_short = NULL;
    shared->patience = (struct patience){0};
    shared->single = NULL;
    shared->unasked = shared->unasked_next = 0;
    shared->pieces = shared->shorts = 0;
    shared->pieces_max = most < 1 ? 1 : most > 4096 ? 4096 : (uint32_t)most;
    shared->shorts_max = 0;
    if (((shared->narrowing && narrowing_has_ends(shared->narrowing)) || shared->sifter) && shared->pieces_max > 2 * PIECES_OF_SHORTS) {
        shared->shorts_max = INDEXES_AHEAD_MAX;
        shared->pieces_max -= PIECES_OF_SHORTS;
    }
    memset(shared->ahead, 0, sizeof shared->ahead);
    memset(shared->index_ahead, 0, sizeof shared->index_ahead);
    shared->bytes_read = shared->frames_checked = shared->frames_bad = 0;
    shared->header_bytes = PAGE_BYTES;
    shared->index_ahead_bytes = shared->narrowing && narrowing_has_ends(shared->narrowing) ? INDEX_AHEAD_BYTES : 0;
    shared->scratch = page_memory(FRAME_BYTES_USUAL);
    if (!shared->scratch)
        return ERR_NO_MEMORY;
    pool_open(shared);
    return 0;
}

void segment_readers_close(struct segment_readers *shared)
{
    for (uint32_t i = 0; i < INDEXES_AHEAD_MAX; i++)
        index_ahead_drop(shared, &shared->index_ahead[i]);
    free_pieces(shared, &shared->free_piece);
    free_pieces(shared, &shared->free_short);
    assert(shared->pieces == 0);
    patience_close(&shared->patience);
    piece_pool_close(&shared->own_pool);
    shared->pool = NULL;
    patience_read_free(&shared->single);
    free(shared->scratch);
    shared->scratch = NULL;
}

/* ---- what a frame must be ----------------------------------------------------------------------
 */

bool segment_owns(const struct segment_readers *shared, const struct worker_segment *segment,
                  enum frame_kind kind, uint32_t offset, const struct frame_info *info)
{
    if (info->kind != kind || info->offset != offset || info->position != segment->position ||
        info->stream != segment->stream || !identity_equal(&info->ring, &shared->ring) ||
        !identity_equal(&info->segment, &segment->segment) ||
        !identity_equal(&info->run, &segment->run))
        return false;
    switch (kind) {
    case FRAME_DATA:
        return info->revision == segment->data_revision;
    case FRAME_OPEN: /* written with the data, or anew by whoever rewrote index and seal */
        return info->revision == segment->data_revision || info->revision == segment->revision;
    default:
        return info->revision == segment->revision && info->data_revision == segment->data_revision;
    }
}

static int header_reason(int parsed)
{
    return parsed == ERR_NOT_FOUND ? WORKER_BAD_MISSING : WORKER_BAD_CHECKSUM;
}

static int read_reason(int result)
{
    return result == ERR_TIMEOUT ? WORKER_BAD_SILENT : WORKER_BAD_READ;
}

static bool place_hangs(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place)
{
    return patience_lost(&shared->patience, shared->disk[segment->place[place].disk]);
}

/* Whether another place than this one can be asked. */
static bool has_others(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place)
{
    for (uint32_t other = 0; other < segment->places; other++)
        if (other != place && !place_hangs(shared, segment, other))
            return true;
    return false;
}

struct patience_read *segment_ask_pages(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                        const struct segment_pages *stretch, uint32_t stretches)
{
    uint32_t bytes = 0;
    assert(stretches > 0 && stretches <= SEGMENT_PAGES_MAX);
    for (uint32_t i = 0; i < stretches; i++)
        bytes += stretch[i].bytes;
    if (place_hangs(shared, segment, place))
        return NULL;
    if (shared->may_read)
        (void)shared->may_read(shared->context, segment->place[place].disk, 0, true);
    struct patience_read *read = bytes <= FRAME_BYTES_USUAL ? shared->single : NULL;
    if (read)
        shared->single = NULL;
    else
        read = patience_read_new(bytes <= FRAME_BYTES_USUAL ? FRAME_BYTES_USUAL : bytes);
    if (!read)
        return NULL;
    for (uint32_t i = 0, at = 0; i < stretches; at += stretch[i].bytes, i++)
        patience_ask(read, shared->disk[segment->place[place].disk], segment->place[place].slot, stretch[i].offset, read->memory + at,
                     stretch[i].bytes);
    patience_go(read);
    return read;
}

int segment_await_pages(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place, struct patience_read **read)
{
    int result = patience_end(&shared->patience, read, has_others(shared, segment, place));
    if (result == 0)
        shared->bytes_read += (*read)->bytes;
    else
        segment_drop_pages(shared, read);
    return result;
}

void segment_drop_pages(struct segment_readers *shared, struct patience_read **read)
{
    if (*read && (*read)->asked > 0)
        (void)patience_end(&shared->patience, read, true);
    if (*read && !shared->single && (*read)->bytes <= FRAME_BYTES_USUAL)
        shared->single = *read;
    else
        patience_read_free(read);
    *read = NULL;
}

int segment_read_place(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                       uint32_t offset, uint8_t *buffer, uint32_t bytes)
{
    if (place_hangs(shared, segment, place))
        return ERR_TIMEOUT;
    /* Not into the caller's memory: a disk that hangs keeps what it was given. */
    struct patience_read *read = segment_ask_pages(shared, segment, place, &(struct segment_pages){.offset = offset, .bytes = bytes}, 1);
    if (!read)
        return ERR_NO_MEMORY;
    int result = segment_await_pages(shared, segment, place, &read);
    if (!result)
        memcpy(buffer, read->memory, bytes);
    segment_drop_pages(shared, &read);
    return result;
}

/* ---- key indexes that come before they are needed ----------------------------------------------- */

/* Whether the next segment is read without asking its key index. What was recorded of conversations is there and nowhere else. */
static bool goes_unasked(const struct segment_readers *shared)
{
    return shared->unasked > 0 && !shared->truth_of;
}

static struct index_ahead *index_ahead_find(struct segment_readers *shared, const struct worker_segment *segment)
{
    for (uint32_t i = 0; i < INDEXES_AHEAD_MAX; i++)
        if (shared->index_ahead[i].piece && shared->index_ahead[i].revision == segment->revision &&
            identity_equal(&shared->index_ahead[i].segment, &segment->segment))
            return &shared->index_ahead[i];
    return NULL;
}

/* As much of what lies between data and seal as the INDEX takes, if most frames have the usual length: where no key index is asked. */
static uint32_t index_only_bytes(const struct worker_segment *segment)
{
    return (uint32_t)round_up(PAGE_BYTES + (segment->data_end / FRAME_BYTES_USUAL + 1) * sizeof(struct index_frame_entry), PAGE_BYTES);
}

bool segment_index_ahead(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place)
{
    struct index_ahead *ahead = NULL;
    bool frames_only = segment->whole || goes_unasked(shared) || (shared->sifter && !shared->narrowing && !shared->truth_of);
    if (segment->state == SEGMENT_OPEN || segment->index_bytes == 0 || place >= segment->places || segment->nothing ||
        (frames_only && !shared->sifter) || place_hangs(shared, segment, place) || index_ahead_find(shared, segment) ||
        (shared->is_gone && shared->is_gone(shared->context, segment->position)))
        return true; /* there is nothing to ask for */
    for (uint32_t i = 0; i < INDEXES_AHEAD_MAX && !ahead; i++)
        if (!shared->index_ahead[i].piece)
            ahead = &shared->index_ahead[i];
    uint32_t disk = segment->place[place].disk;
    if (!ahead || (shared->may_read && !shared->may_read(shared->context, disk, shared->ahead[disk], false)))
        return false;
    const uint32_t room = PIECE_ROOM_BYTES + PIECE_BYTES;
    const uint32_t most = frames_only                                                          ? index_only_bytes(segment)
                          : shared->index_ahead_bytes > 0 && shared->index_ahead_bytes < room ? shared->index_ahead_bytes
                                                                                              : room;
    const uint32_t bytes = segment->index_bytes < most ? segment->index_bytes : most;
    struct piece *piece = bytes <= PIECE_SHORT_BYTES ? short_take(shared) : NULL;
    if (!piece && (shared->free_piece || shared->pieces + 1 < shared->pieces_max)) /* the last one is for packets */
        piece = piece_take(shared);
    if (!piece)
        return false;
    piece->data = piece->read->memory;
    piece->offset = segment->index_offset;
    piece->bytes = bytes;
    piece->place = place;
    piece->disk = disk;
    piece->frames = 0;
    piece->others = has_others(shared, segment, place);
    piece->waited = false;
    piece->next = NULL;
    shared->ahead[disk]++;
    patience_ask(piece->read, shared->disk[disk], segment->place[place].slot, piece->offset, piece->data, piece->bytes);
    patience_go(piece->read);
    *ahead = (struct index_ahead){
        .piece = piece, .segment = segment->segment, .revision = segment->revision, .slot = segment->place[place].slot};
    return true;
}

void segment_index_forget(struct segment_readers *shared, const struct worker_segment *segment)
{
    struct index_ahead *ahead = index_ahead_find(shared, segment);
    if (ahead)
        index_ahead_drop(shared, ahead);
}

const uint8_t *segment_index_reach(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                   uint32_t offset, uint32_t *bytes)
{
    struct index_ahead *ahead = index_ahead_find(shared, segment);
    struct piece *piece = ahead ? ahead->piece : NULL;
    if (!piece || segment->place[place].disk != piece->disk || segment->place[place].slot != ahead->slot ||
        offset < piece->offset || offset - piece->offset >= piece->bytes)
        return NULL;
    if (!piece->waited) {
        piece_wait(shared, piece);
        shared->index_bytes += piece->result == 0 ? piece->bytes : 0;
    }
    if (piece->result == 0) {
        *bytes = piece->bytes - (offset - piece->offset);
        return piece->data + (offset - piece->offset);
    }
    index_ahead_drop(shared, ahead); /* whoever asks now finds out alone */
    return NULL;
}

const uint8_t *segment_index_bytes(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                   uint32_t offset, uint32_t bytes)
{
    uint32_t there;
    const uint8_t *found = segment_index_reach(shared, segment, place, offset, &there);
    return found && there >= bytes ? found : NULL;
}

/* Header only, into memory that the caller frees. `kind` as expected. */
static int fetch_header(struct segment_readers *shared, const struct worker_segment *segment,
                        uint32_t place, uint32_t offset, uint32_t bytes_max, enum frame_kind kind,
                        struct frame_info *info)
{
    uint32_t bytes = bytes_max < HEADER_PROBE_BYTES ? bytes_max : HEADER_PROBE_BYTES;
    for (;;) {
        uint8_t *buffer = page_memory(bytes);
        if (!buffer)
            return ERR_NO_MEMORY;
        int result = segment_read_place(shared, segment, place, offset, buffer, bytes);
        int parsed = result ? 0 : frame_parse(buffer, bytes, info);
        free(buffer);
        if (result)
            return read_reason(result);
        if (parsed == ERR_AGAIN && info->header_bytes > bytes && info->header_bytes <= bytes_max &&
            info->header_bytes <= HEADER_BYTES_MAX) {
            bytes = (uint32_t)round_up(info->header_bytes, PAGE_BYTES);
            continue;
        }
        if (parsed)
            return header_reason(parsed);
        if (!segment_owns(shared, segment, kind, offset, info))
            return WORKER_BAD_IDENTITY;
        return info->frame_bytes <= bytes_max ? 0 : WORKER_BAD_RECORDS;
    }
}

int segment_fetch(struct segment_readers *shared, const struct worker_segment *segment,
                  uint32_t place, uint32_t offset, uint32_t bytes_max, enum frame_kind kind,
                  uint8_t **frame, struct frame_info *info)
{
    *frame = NULL;
    int reason = fetch_header(shared, segment, place, offset, bytes_max, kind, info);
    if (reason)
        return reason;
    uint8_t *buffer = page_memory(info->frame_bytes);
    if (!buffer)
        return ERR_NO_MEMORY;
    uint32_t bytes = info->frame_bytes;
    int result = segment_read_place(shared, segment, place, offset, buffer, bytes);
    if (result) {
        free(buffer);
        return read_reason(result);
    }
    /* The header is looked at again: between the two reads the ring may have come along. */
    int parsed = frame_parse(buffer, bytes, info);
    if (parsed || !segment_owns(shared, segment, kind, offset, info) ||
        info->frame_bytes != bytes) {
        free(buffer);
        return parsed ? header_reason(parsed) : WORKER_BAD_IDENTITY;
    }
    *frame = buffer;
    shared->frames_checked++;
    return frame_check(buffer, info) ? WORKER_BAD_CHECKSUM : 0;
}

/* Tells the recorder and returns its judgement. `info`: of a valid header that is not ours, or
 * null. */
static int report(struct segment_reader *reader, uint32_t place, uint32_t offset, uint32_t bytes,
                  int reason, const struct frame_info *info)
{
    struct worker_bad bad = {
        .segment = reader->segment->segment,
        .place = place,
        .offset = offset,
        .bytes = bytes,
        .reason = (uint32_t)reason,
    };
    if (reason == WORKER_BAD_IDENTITY) {
        bad.found = info->segment;
        bad.found_position = info->position;
    }
    reader->shared->frames_bad++;
    segment_index_forget(reader->shared, reader->segment); /* what it says is read anew */
    return reader->shared->judge(reader->shared->context, &bad);
}

/* ---- the index ---------------------------------------------------------------------------------
 */

static uint32_t entry_offset(const struct segment_reader *reader, uint32_t i)
{
    return i < reader->entries ? le32_get(reader->entry[i].offset) : reader->segment->data_end;
}

static uint32_t entry_end(const struct segment_reader *reader, uint32_t i)
{
    return le32_get(reader->entry[i].offset) + le32_get(reader->entry[i].frame_bytes);
}

/* The entry at this offset, or the first behind it. */
static uint32_t entry_find(const struct segment_reader *reader, uint32_t offset)
{
    uint32_t low = 0, high = reader->entries;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (le32_get(reader->entry[middle].offset) < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool in_range(const struct segment_readers *shared, int64_t first_ns, int64_t last_ns)
{
    return last_ns >= shared->from_ns && (first_ns < shared->to_ns || shared->to_ns == INT64_MAX);
}

static enum segment_want want(const struct segment_reader *reader, uint32_t entry)
{
    return reader->want ? (enum segment_want)reader->want[entry] : WANT_WHOLE;
}

static bool entry_wanted(const struct segment_reader *reader, uint32_t i)
{
    const struct index_frame_entry *entry = &reader->entry[i];
    return le32_get(entry->packets) > 0 && want(reader, i) != WANT_NOTHING &&
           in_range(reader->shared, (int64_t)le64_get(entry->first_ns),
                    (int64_t)le64_get(entry->last_ns));
}

/* Frames in order, within the data, none over another: what everything after relies on. */
static bool entries_fit(const struct index_frame_entry *entry, uint32_t entries, uint32_t data_end)
{
    uint32_t at = PAGE_BYTES, number = 0;
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t offset = le32_get(entry[i].offset), bytes = le32_get(entry[i].frame_bytes);
        if (offset < at || offset % PAGE_BYTES != 0 || bytes == 0 || bytes % PAGE_BYTES != 0 ||
            bytes > FRAME_BYTES_MAX || offset > data_end || bytes > data_end - offset ||
            le32_get(entry[i].number) <= number)
            return false;
        at = offset + bytes;
        number = le32_get(entry[i].number);
    }
    return true;
}

/* The beginning of what lies between data and seal: where it was read ahead, or in memory of its own. */
struct index_view {
    const uint8_t *bytes;
    uint32_t have;
    uint8_t *memory; /* null: not needed yet */
};

/* Sees to it that the first `wanted` bytes are there. Only the INDEX frames are needed, and how long they are, they say themselves. */
static int index_have(struct segment_reader *reader, uint32_t place, struct index_view *view, uint32_t wanted)
{
    const struct worker_segment *segment = reader->segment;
    uint32_t bytes = (uint32_t)round_up(wanted, INDEX_STEP_BYTES), there;
    bytes = bytes < segment->index_bytes ? bytes : segment->index_bytes;
    if (bytes <= view->have)
        return 0;
    const uint8_t *ahead = view->memory ? NULL : segment_index_reach(reader->shared, segment, place, segment->index_offset, &there);
    if (ahead && there >= (wanted < segment->index_bytes ? wanted : segment->index_bytes)) {
        *view = (struct index_view){.bytes = ahead, .have = there < segment->index_bytes ? there : segment->index_bytes};
        return 0;
    }
    uint32_t had = view->memory ? view->have : 0;
    if (!view->memory)
        view->memory = page_memory(segment->index_bytes);
    if (!view->memory)
        return ERR_NO_MEMORY;
    int result = segment_read_place(reader->shared, segment, place, segment->index_offset + had, view->memory + had, bytes - had);
    reader->shared->index_bytes += result == 0 ? bytes - had : 0;
    view->bytes = view->memory;
    view->have = bytes;
    return result;
}

/* Takes the frames that one INDEX frame lists. 0, a reason, or ERR_NO_MEMORY. */
static int take_entries(const uint8_t *frame, const struct frame_info *info, uint32_t part, uint32_t *parts, uint32_t room,
                        struct index_frame_entry **entry, uint32_t *entries)
{
    struct index_body body;
    const uint8_t *from = frame_body(frame, info, sizeof body);
    if (!from)
        return WORKER_BAD_RECORDS;
    memcpy(&body, from, sizeof body);
    uint64_t frames = le32_get(body.frames), accounts = le32_get(body.accounts);
    if (le32_get(body.part) != part || (part > 0 && le32_get(body.parts) != *parts) ||
        info->body_bytes != sizeof body + frames * sizeof **entry + accounts * sizeof(struct index_account) ||
        frames > room - *entries)
        return WORKER_BAD_RECORDS;
    struct index_frame_entry *more = realloc(*entry, (*entries + frames + 1) * sizeof **entry);
    if (!more)
        return ERR_NO_MEMORY;
    *parts = le32_get(body.parts);
    *entry = more;
    memcpy(more + *entries, from + sizeof body, frames * sizeof *more);
    *entries += (uint32_t)frames;
    return 0;
}

/*
 * Reads the index of one place. 0 with the entries in reader->entry; a reason, with the offset of
 * what did not pass; or a negative code.
 */
static int read_index(struct segment_reader *reader, uint32_t place, uint32_t *offset,
                      struct frame_info *info)
{
    const struct worker_segment *segment = reader->segment;
    struct index_view view = {.bytes = NULL};
    struct index_frame_entry *entry = NULL;
    uint32_t room = segment->index_bytes / sizeof(struct index_frame_entry), entries = 0;
    uint32_t at = 0, part = 0, parts = 1;
    int reason = 0;
    *offset = segment->index_offset;
    while (!reason && part < parts) {
        *offset = segment->index_offset + at;
        if (at == segment->index_bytes) {
            reason = WORKER_BAD_MISSING;
            break;
        }
        int unread = index_have(reader, place, &view, at + PAGE_BYTES);
        int parsed = unread ? 0 : frame_parse(view.bytes + at, view.have - at, info);
        if (parsed == ERR_AGAIN && info->header_bytes <= segment->index_bytes - at) {
            unread = index_have(reader, place, &view, at + info->header_bytes);
            parsed = unread ? 0 : frame_parse(view.bytes + at, view.have - at, info);
        }
        if (!unread && !parsed && info->frame_bytes <= segment->index_bytes - at)
            unread = index_have(reader, place, &view, at + info->frame_bytes);
        if (unread)
            reason = unread == ERR_NO_MEMORY ? unread : read_reason(unread);
        else if (parsed)
            reason = header_reason(parsed);
        else if (!segment_owns(reader->shared, segment, FRAME_INDEX, *offset, info))
            reason = WORKER_BAD_IDENTITY;
        else if (info->frame_bytes > segment->index_bytes - at)
            reason = WORKER_BAD_RECORDS;
        else if (frame_check(view.bytes + at, info))
            reason = WORKER_BAD_CHECKSUM;
        if (reason)
            break;
        reader->shared->frames_checked++;
        reason = take_entries(view.bytes + at, info, part, &parts, room, &entry, &entries);
        if (reason)
            break;
        at += info->frame_bytes;
        part++;
    }
    free(view.memory);
    if (!reason && !entries_fit(entry, entries, segment->data_end)) {
        *offset = segment->index_offset;
        reason = WORKER_BAD_RECORDS;
    }
    if (reason) {
        free(entry);
        return reason;
    }
    reader->entry = entry;
    reader->entries = entries;
    reader->flows_bytes = segment->index_bytes - at;
    return 0;
}

int segment_reader_index(struct segment_reader *reader)
{
    const struct worker_segment *segment = reader->segment;
    if (reader->index_state != INDEX_UNREAD)
        return reader->index_state == INDEX_GOOD;
    if (segment->state == SEGMENT_OPEN || segment->index_bytes == 0)
        return 0;
    for (uint32_t i = 0; i < segment->places; i++) {
        uint32_t place = (reader->place + i) % segment->places;
        if (reader->only_place >= 0 && place != (uint32_t)reader->only_place)
            continue;
        for (uint32_t tries = 0; tries <= TRIES_MAX; tries++) {
            uint32_t offset;
            struct frame_info info;
            int reason = read_index(reader, place, &offset, &info);
            if (reason < 0)
                return reason;
            if (reason == 0) {
                reader->index_state = INDEX_GOOD;
                return 1;
            }
            int judgement =
                report(reader, place, offset, segment->index_offset + segment->index_bytes - offset,
                       reason, &info);
            if (judgement < 0)
                return judgement;
            if (judgement != WORKER_AGAIN)
                break;
        }
    }
    reader->index_state = INDEX_BAD;
    return 0;
}

/* ---- reading ahead -----------------------------------------------------------------------------
 */

static void narrowing_end_early(struct segment_reader *reader);

void segment_reader_open(struct segment_reader *reader, struct segment_readers *shared,
                         const struct worker_segment *segment, uint32_t place, int only_place)
{
    *reader = (struct segment_reader){
        .shared = shared,
        .segment = segment,
        .place = only_place >= 0 ? (uint32_t)only_place : place,
        .only_place = only_place,
        .exact = true,
    };
}

void segment_reader_update(struct segment_reader *reader, const struct worker_segment *segment)
{
    narrowing_end_early(reader); /* its places may be others now */
    reader->segment = segment;
    if (segment->places == 0 ||
        (reader->only_place >= 0 && (uint32_t)reader->only_place >= segment->places))
        reader->ended = true; /* there is nothing left to read it from */
    else if (reader->place >= segment->places)
        reader->place = 0;
}

static void forget_selection(struct segment_reader *reader)
{
    free(reader->want);
    free(reader->want_block);
    free(reader->block);
    reader->want = NULL;
    reader->want_block = NULL;
    reader->block = NULL;
}

/*
 * Where a key index spares next to nothing, decoding it is work for nothing, and the segments that follow will be of the same kind: one, then two, then four
 * of them, and so on, are read without being asked. So if they are of another kind after all, no more is read for nothing than was for something.
 */
static void note_density(struct segment_readers *shared, uint64_t needed, uint64_t blocks)
{
    bool dense = blocks > 0 && needed >= blocks - blocks / 8;
    uint32_t next = shared->unasked_next > 0 ? 2 * shared->unasked_next : 1;
    shared->unasked_next = !dense ? 0 : next < UNASKED_MAX ? next : UNASKED_MAX;
    shared->unasked = shared->unasked_next;
}

/* How a frame is read of which all is wanted. */
static enum segment_want want_of_all(const struct segment_reader *reader, uint32_t frame_bytes)
{
    return reader->shared->sifter && frame_bytes <= FRAME_BYTES_USUAL ? WANT_PLACED : WANT_WHOLE;
}

/* Nothing narrows the segment, but its INDEX says where its frames lie. Without memory for that it is read piece by piece. */
static void place_frames(struct segment_reader *reader)
{
    reader->want = malloc(reader->entries + 1ul);
    for (uint32_t i = 0; i < reader->entries && reader->want; i++)
        reader->want[i] = want_of_all(reader, le32_get(reader->entry[i].frame_bytes));
}

/* Blocks are numbered over the frames in their order, each frame beginning with a new one. A packet is in the block that its
 * record begins in, so a frame without such a block has nothing to offer. Of the others the key index says where records are. */
static int choose_frames(struct segment_reader *reader, struct flow_reader *index, const struct flow_selection *selection)
{
    uint32_t block = 0, first = reader->entries, last = reader->entries;
    uint64_t needed = 0;
    bool any = false;
    for (uint32_t i = 0; i < reader->entries; i++) {
        uint32_t frame_bytes = le32_get(reader->entry[i].frame_bytes), count = (frame_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
        uint64_t packets = le32_get(reader->entry[i].packets), listed = 0, wanted = 0;
        bool indexed = block + count <= selection->blocks;
        for (uint32_t j = block; j < block + count && indexed; j++)
            wanted += selection->block[j] > 0;
        int result = wanted > 0 ? segment_blocks_load(index, selection, block, count, reader->block) : 0;
        for (uint32_t j = block, goes_on = 0; j < block + count && wanted > 0; j++) {
            listed += reader->block[j].packets;
            goes_on = selection->block[j] > 0 || (goes_on && reader->block[j].packets == 0); /* a long packet's middle */
            needed += goes_on;
        }
        if (result != 0 || (wanted > 0 && listed != packets))
            return result != 0 ? result : ERR_CORRUPT;
        reader->want_block[i] = block;
        reader->want[i] = !indexed || (wanted > 0 && frame_bytes > FRAME_BYTES_USUAL) ? want_of_all(reader, frame_bytes)
                          : wanted > 0                                                ? WANT_BLOCKS
                                                                                      : WANT_NOTHING;
        block += count;
        reader->shared->blocks_wanted += indexed ? wanted : count;
        needed += indexed ? 0 : count;
        any |= !indexed || wanted > 0;
        if (packets == 0 || !in_range(reader->shared, (int64_t)le64_get(reader->entry[i].first_ns), (int64_t)le64_get(reader->entry[i].last_ns)))
            continue;
        first = first == reader->entries ? i : first;
        last = i;
    }
    if (selection->blocks > block) /* it is about other frames */
        return ERR_CORRUPT;
    uint32_t keep[2] = {reader->keep_first ? first : reader->entries, reader->keep_last ? last : reader->entries};
    for (uint32_t i = 0; i < 2; i++)
        if (keep[i] < reader->entries && reader->want[keep[i]] == WANT_NOTHING)
            reader->want[keep[i]] = le32_get(reader->entry[keep[i]].frame_bytes) > FRAME_BYTES_USUAL ? WANT_WHOLE : WANT_BLOCKS;
    reader->shared->segments_excluded += !any;
    note_density(reader->shared, needed, block);
    return 0;
}

/* Takes over what the key index says of each block. 0, ERR_CORRUPT, ERR_NO_MEMORY or of its source: nothing is wanted less than before. */
static int take_selection(struct segment_reader *reader, struct flow_reader *index, const struct flow_selection *selection)
{
    reader->block = calloc(selection->blocks + 1ul, sizeof *reader->block);
    reader->want = malloc(reader->entries + 1ul);
    reader->want_block = calloc(reader->entries + 1ul, sizeof *reader->want_block);
    reader->sure = selection->sure;
    int result = reader->block && reader->want && reader->want_block ? choose_frames(reader, index, selection) : ERR_NO_MEMORY;
    if (result)
        forget_selection(reader);
    return result;
}

/* A key index that is being asked. */
struct segment_narrowing {
    struct segment_flows flows;
    struct flow_reader *index;
    uint32_t place;
    int result; /* of what was done so far */
};

static void narrowing_end_early(struct segment_reader *reader)
{
    struct segment_narrowing *narrowing = reader->narrowing;
    reader->narrowing = NULL;
    if (!narrowing)
        return;
    flow_reader_close(&narrowing->index);
    segment_flows_close(&narrowing->flows);
    free(narrowing);
}

/* Begins to ask the key index at one place; what goes wrong is kept for who goes on. 0; ERR_NO_MEMORY, or a negative code of `judge`. */
static int narrowing_begin(struct segment_reader *reader, uint32_t place)
{
    struct segment_narrowing *narrowing = calloc(1, sizeof *narrowing);
    if (!narrowing)
        return ERR_NO_MEMORY;
    reader->narrowing = narrowing;
    narrowing->place = place;
    narrowing->flows.shared = reader->shared;
    narrowing->result = segment_flows_open(&narrowing->flows, reader, place);
    if (narrowing->result == 1) {
        int result = flow_reader_open(&narrowing->flows.source, &narrowing->index);
        if (result == 0)
            result = flow_reader_expect(narrowing->index, reader->shared->narrowing);
        narrowing->result = result < 0 ? result : 1;
    }
    int result = narrowing->result;
    if (result >= 0 || result == ERR_CORRUPT || result == ERR_IO)
        return 0;
    narrowing_end_early(reader);
    return result;
}

static void forget_verdicts(struct segment_reader *reader)
{
    if (reader->verdicts)
        reader->shared->verdict_bytes -= segment_verdicts_bytes(reader->verdicts);
    segment_verdicts_close(&reader->verdicts);
}

/* What was recorded of conversations. Where it takes more memory than there is for it, they count as not judged. */
static int learn(struct segment_reader *reader, struct flow_reader *index)
{
    struct segment_readers *shared = reader->shared;
    int result = segment_verdicts_open(index, shared->verdict_seed, shared->truth_of, shared->context,
                                       VERDICT_BYTES_MAX - shared->verdict_bytes, &reader->verdicts);
    if (result == 0)
        shared->verdict_bytes += segment_verdicts_bytes(reader->verdicts);
    return result == ERR_NO_MEMORY ? 0 : result;
}

/* Whether anything of the segment is read for that selection. */
static bool reads_any(const struct segment_reader *reader, const struct flow_selection *selection)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < reader->entries; i++)
        blocks += (le32_get(reader->entry[i].frame_bytes) + BLOCK_BYTES - 1) / BLOCK_BYTES;
    return selection->selected > 0 || selection->blocks < blocks;
}

/* Asks the key index at one place. 1: it has answered; 0: there is none; ERR_CORRUPT, ERR_IO: not of this place. */
static int narrow_by(struct segment_reader *reader, uint32_t place)
{
    struct flow_selection selection = {.block = NULL};
    if (reader->narrowing && reader->narrowing->place != place)
        narrowing_end_early(reader);
    int result = reader->narrowing ? 0 : narrowing_begin(reader, place);
    if (result < 0)
        return result;
    struct segment_narrowing *narrowing = reader->narrowing;
    const struct narrowing *tree = reader->shared->narrowing;
    result = narrowing->result;
    if (result == 1)
        result = tree ? flow_reader_select(narrowing->index, tree, false, &selection) : 0;
    else if (result == 0)
        result = 1; /* there is none */
    if (result == 0) {
        uint32_t needed = segment_flows_slot_bytes(&narrowing->flows, flow_reader_front(narrowing->index));
        reader->shared->index_ahead_bytes = needed > 0 ? (uint32_t)round_up(needed, PAGE_BYTES) + PAGE_BYTES : 0; /* a page more, for the next one may need a little more */
    }
    if (result == 0 && reader->shared->truth_of && (!tree || reads_any(reader, &selection)))
        result = learn(reader, narrowing->index);
    if (result == 0 && tree)
        result = take_selection(reader, narrowing->index, &selection);
    if (result < 0)
        forget_verdicts(reader);
    flow_selection_clear(&selection);
    narrowing_end_early(reader);
    return result < 0 ? result : !result;
}

/* A run of keys says that nothing in the segment can match: the same as if its key index had said so. 0 or ERR_NO_MEMORY. */
static int narrow_by_run(struct segment_reader *reader)
{
    struct flow_selection none = {.sure = true};
    for (uint32_t i = 0; i < reader->entries; i++)
        none.blocks += (le32_get(reader->entry[i].frame_bytes) + BLOCK_BYTES - 1) / BLOCK_BYTES;
    none.block = calloc(none.blocks + 1ul, sizeof *none.block);
    int result = none.block ? take_selection(reader, NULL, &none) : ERR_NO_MEMORY;
    reader->shared->segments_by_runs++;
    reader->shared->segments_excluded--; /* it is not the key index that says so */
    flow_selection_clear(&none);
    return result;
}

/* A key index that is damaged, at every place, costs the time to read the segment, and never an answer. 0 or a negative code. */
static int narrow(struct segment_reader *reader)
{
    const struct worker_segment *segment = reader->segment;
    int result = 0;
    for (uint32_t i = 0; i < segment->places; i++) {
        uint32_t place = (reader->place + i) % segment->places;
        if (reader->only_place >= 0 && place != (uint32_t)reader->only_place)
            continue;
        result = narrow_by(reader, place);
        if (result != ERR_CORRUPT && result != ERR_IO)
            break;
    }
    segment_index_forget(reader->shared, segment);
    if (result == ERR_CORRUPT || result == ERR_IO) {
        reader->shared->indexes_bad++;
        return 0;
    }
    reader->shared->segments_narrowed += result == 1 && reader->shared->narrowing;
    return result < 0 ? result : 0;
}

/* A long list of segments of which each waited for its turn, only to be found overwritten, would be read for ever, behind the ring. */
static bool is_gone(const struct segment_reader *reader)
{
    const struct segment_readers *shared = reader->shared;
    return shared->is_gone && reader->at == 0 && reader->submitted == 0 && shared->is_gone(shared->context, reader->segment->position);
}

int segment_reader_prepare(struct segment_reader *reader)
{
    const struct segment_readers *shared = reader->shared;
    const struct worker_segment *segment = reader->segment;
    uint32_t place = reader->only_place >= 0 ? (uint32_t)reader->only_place : reader->place;
    bool asks = shared->narrowing && !goes_unasked(shared);
    if (reader->decided || reader->narrowing || (!asks && !shared->sifter) || shared->everything ||
        segment->state == SEGMENT_OPEN || segment->nothing || place >= segment->places || is_gone(reader))
        return 0;
    int good = segment_reader_index(reader);
    return good < 0 ? good : good && asks ? narrowing_begin(reader, place) : 0;
}

/* Once, before the first read: whether the index pays. It does where a part of a sealed segment is
 * wanted, by time or by a filter. */
static int decide(struct segment_reader *reader)
{
    const struct segment_readers *shared = reader->shared;
    const struct worker_segment *segment = reader->segment;
    if (reader->decided)
        return 0;
    reader->decided = true;
    bool whole = segment->first_ns >= shared->from_ns &&
                 (segment->last_ns < shared->to_ns || shared->to_ns == INT64_MAX);
    reader->was_open = segment->state == SEGMENT_OPEN;
    bool asks = shared->narrowing || shared->truth_of; /* the key index */
    bool unasked = false;
    if (asks && !segment->nothing && !reader->narrowing && goes_unasked(shared)) {
        reader->shared->unasked--;
        asks = false;
        unasked = true;
    }
    if (shared->everything || segment->state == SEGMENT_OPEN || (whole && !asks && !shared->sifter) || is_gone(reader))
        return 0;
    int good = segment_reader_index(reader);
    if (good <= 0)
        return good;
    if (asks && !segment->whole) { /* one that was purged was written anew: nothing is recorded there of conversations, either */
        int result = segment->nothing ? narrow_by_run(reader) : narrow(reader);
        if (result < 0)
            return result;
    }
    for (uint32_t i = 0; i < reader->entries && unasked; i++) /* any of them may hold a match */
        reader->shared->blocks_wanted += (le32_get(reader->entry[i].frame_bytes) + BLOCK_BYTES - 1) / BLOCK_BYTES;
    if (!reader->want && shared->sifter)
        place_frames(reader);
    if (whole && !reader->want)
        return 0;
    reader->pruned = true;
    reader->at = reader->submitted = entry_offset(reader, 0);
    reader->number = reader->entries > 0 ? le32_get(reader->entry[0].number) : 0;
    return 0;
}

/* The index contradicts the frames: do without it from here on. */
static void distrust_index(struct segment_reader *reader)
{
    drop_pieces(reader);
    forget_verdicts(reader);
    reader->pruned = false;
    reader->exact = false;
    reader->index_state = INDEX_BAD;
    reader->submitted = reader->at;
}

/* The next stretch to be submitted; false: there is none. */
static bool next_stretch(struct segment_reader *reader, uint32_t *from, uint32_t *to)
{
    *from = reader->submitted;
    *to = reader->segment->data_end;
    if (!reader->pruned)
        return *from < *to;
    uint32_t i = reader->submit_entry;
    while (i < reader->entries &&
           (entry_end(reader, i) <= reader->submitted || !entry_wanted(reader, i)))
        i++;
    reader->submit_entry = i;
    if (i == reader->entries)
        return false;
    if (entry_offset(reader, i) > *from)
        *from = entry_offset(reader, i);
    *to = entry_end(reader, i);
    while (*to - *from < PIECE_BYTES && i + 1 < reader->entries && want(reader, i) == WANT_WHOLE &&
           entry_offset(reader, i + 1) == *to && entry_wanted(reader, i + 1) && want(reader, i + 1) == WANT_WHOLE)
        *to = entry_end(reader, ++i);
    return true;
}

/* The blocks of a frame that are wanted, and its place in the table. */
static struct segment_frame_blocks frame_blocks(const struct segment_reader *reader, uint32_t entry)
{
    return (struct segment_frame_blocks){.block = reader->block + reader->want_block[entry],
                                         .frame_bytes = le32_get(reader->entry[entry].frame_bytes)};
}

static uint8_t *piece_frame(const struct piece *piece, uint32_t i)
{
    return piece->read->memory + (size_t)i * FRAME_BYTES_USUAL;
}

/* What the sifter is to know of the frame of an entry, which is the piece's next. */
static void expect_frame(const struct segment_reader *reader, struct piece *piece, uint32_t entry)
{
    struct sifter_frame *sift = &piece->sift[piece->frames];
    bool whole = want(reader, entry) == WANT_PLACED;
    uint32_t frame_bytes = le32_get(reader->entry[entry].frame_bytes);
    sift->bytes = piece_frame(piece, piece->frames);
    sift->frame_bytes = frame_bytes;
    sift->header_bytes = whole || frame_bytes < piece->header_bytes ? frame_bytes : piece->header_bytes;
    sift->block = whole ? NULL : reader->block + reader->want_block[entry];
    sift->sure = reader->sure;
    sift->state = SIFTER_WAITS;
}

static void ask_stretch(const struct segment_reader *reader, struct piece *piece, uint32_t frame, uint32_t from, uint32_t to)
{
    const struct worker_segment *segment = reader->segment;
    uint32_t offset = entry_offset(reader, piece->entry[frame]);
    patience_ask(piece->read, reader->shared->disk[segment->place[piece->place].disk], segment->place[piece->place].slot,
                 offset + from, piece_frame(piece, frame) + from, to - from);
}

/* Whether the frame is read to a place of its own. */
static bool is_placed(const struct segment_reader *reader, uint32_t entry)
{
    return want(reader, entry) == WANT_BLOCKS || want(reader, entry) == WANT_PLACED;
}

/* Asks for the wanted frames from submit_entry on, or header and blocks of them, as many as have room in the piece and are read so. */
static void ask_frames(struct segment_reader *reader, struct piece *piece)
{
    struct segment_stretch stretch[STRETCHES_MAX];
    uint32_t i = reader->submit_entry;
    piece->offset = entry_offset(reader, i);
    piece->header_bytes = reader->shared->header_bytes;
    for (; i < reader->entries && piece->frames < PIECE_FRAMES; i++) {
        if (!entry_wanted(reader, i))
            continue;
        if (!is_placed(reader, i))
            break;
        expect_frame(reader, piece, i);
        if (want(reader, i) == WANT_PLACED) {
            uint32_t frame = piece->frames++;
            piece->entry[frame] = i;
            ask_stretch(reader, piece, frame, 0, le32_get(reader->entry[i].frame_bytes));
            reader->submitted = entry_end(reader, i);
            continue;
        }
        struct segment_frame_blocks blocks = frame_blocks(reader, i);
        uint32_t count = segment_blocks_stretches(&blocks, reader->sure, stretch), frame = piece->frames++;
        uint32_t header_bytes = piece->header_bytes < blocks.frame_bytes ? piece->header_bytes : blocks.frame_bytes;
        piece->entry[frame] = i;
        if (count == 0 || stretch[0].block * BLOCK_BYTES > header_bytes)
            ask_stretch(reader, piece, frame, 0, header_bytes);
        for (uint32_t j = 0; j < count; j++) {
            bool headed = j == 0 && stretch[j].block * BLOCK_BYTES <= header_bytes;
            uint32_t from = headed ? 0 : stretch[j].block * BLOCK_BYTES;
            ask_stretch(reader, piece, frame, from, stretch[j].end > header_bytes || !headed ? stretch[j].end : header_bytes);
            reader->shared->blocks_read += (stretch[j].end + BLOCK_BYTES - 1) / BLOCK_BYTES - stretch[j].block;
        }
        reader->submitted = entry_end(reader, i);
    }
    piece->bytes = reader->submitted - piece->offset;
    piece->batch.frame = piece->sift;
    piece->batch.frames = piece->frames;
    piece->batch.next_frame = 0;
    piece->read->sifter = piece->read->bytes >= SIFTED_BYTES_MIN ? reader->shared->sifter : NULL;
    piece->read->batch = &piece->batch;
    patience_go(piece->read);
}

/* Submits one piece. False: nothing to read, nothing to read it into, or recording needs the disk
 * and there is something to go on with. */
static bool submit_piece(struct segment_reader *reader)
{
    uint32_t from, to;
    if (reader->ended || (reader->sees && reader->pieces > 0) || !next_stretch(reader, &from, &to))
        return false;
    struct segment_readers *shared = reader->shared;
    const struct worker_segment *segment = reader->segment;
    for (uint32_t i = 0; i < segment->places && reader->only_place < 0 && place_hangs(shared, segment, reader->place); i++)
        reader->place = (reader->place + 1) % segment->places;
    if (place_hangs(shared, segment, reader->place))
        return false;
    struct piece *piece = piece_take(shared);
    if (!piece)
        return false;
    bool placed = reader->pruned && is_placed(reader, reader->submit_entry);
    if (placed && !piece->sift)
        piece->sift = malloc(PIECE_FRAMES * sizeof *piece->sift);
    uint32_t disk = segment->place[reader->place].disk;
    bool gone = is_gone(reader);
    if ((placed && !piece->sift) ||
        (shared->may_read && !gone && !shared->may_read(shared->context, disk, shared->ahead[disk], reader->pieces == 0))) {
        piece->waited = true; /* nothing was asked for */
        piece_give(shared, piece);
        return false;
    }
    reader->sees = gone;
    uint32_t bytes = gone ? PAGE_BYTES : to - from < PIECE_BYTES ? to - from : PIECE_BYTES;
    piece->data = piece->read->memory + PIECE_ROOM_BYTES;
    piece->offset = from;
    piece->bytes = bytes;
    piece->place = reader->place;
    piece->disk = disk;
    shared->ahead[disk]++;
    piece->others = reader->only_place < 0 && has_others(shared, segment, reader->place);
    piece->waited = false;
    piece->next = NULL;
    if (reader->tail)
        reader->tail->next = piece;
    else
        reader->head = piece;
    reader->tail = piece;
    reader->pieces++;
    piece->frames = 0;
    if (placed) {
        ask_frames(reader, piece);
        return true;
    }
    reader->submitted = from + bytes;
    patience_ask(piece->read, shared->disk[disk], segment->place[reader->place].slot, from, piece->data, bytes);
    patience_go(piece->read);
    return true;
}

int segment_reader_ahead(struct segment_reader *reader, uint32_t pieces)
{
    int result = decide(reader);
    while (!result && reader->pieces < pieces && submit_piece(reader))
        ;
    return result;
}

bool segment_reader_all_ahead(const struct segment_reader *reader)
{
    struct segment_reader copy = *reader; /* next_stretch() moves its entry on */
    uint32_t from, to;
    return reader->ended || (reader->decided && !next_stretch(&copy, &from, &to));
}

/* ---- one frame ---------------------------------------------------------------------------------
 */

/*
 * Puts what is left of the first piece in front of the second, so that the frame at `at` lies in
 * one. `need` bytes of it are wanted. True: look again. False: that does not help.
 */
static bool join_pieces(struct segment_reader *reader, uint32_t need)
{
    struct piece *first = reader->head;
    uint32_t skip = reader->at - first->offset, left = first->bytes - skip;
    if (!first->next)
        submit_piece(reader);
    struct piece *second = first->next;
    if (!second || second->frames > 0 || second->offset != first->offset + first->bytes || left > PIECE_ROOM_BYTES ||
        need - left > second->bytes)
        return false;
    piece_wait(reader->shared, second);
    if (second->result)
        return false;
    second->data -= left;
    second->offset -= left;
    second->bytes += left;
    memcpy(second->data, first->data + skip, left);
    piece_give(reader->shared, pop_piece(reader));
    return true;
}

/* Whether a checked header is what must come at `at`. 0 or a reason. */
static int check_header(struct segment_reader *reader, const struct frame_info *info)
{
    enum frame_kind kind = reader->at == 0 ? FRAME_OPEN : FRAME_DATA;
    if (!segment_owns(reader->shared, reader->segment, kind, reader->at, info) ||
        (reader->exact ? info->number != reader->number : info->number < reader->number))
        return WORKER_BAD_IDENTITY;
    return info->frame_bytes <= reader->segment->data_end - reader->at ? 0 : WORKER_BAD_RECORDS;
}

/* The header says that nothing in this frame is wanted. */
static bool may_skip(const struct segment_reader *reader, const struct frame_info *info)
{
    return !reader->shared->everything && info->kind == FRAME_DATA && info->packets > 0 &&
           !in_range(reader->shared, info->first_ns, info->last_ns);
}

/* The frame lies whole at frame->bytes and its header has passed: now its blocks. */
static int check_frame(struct segment_reader *reader, struct segment_frame *frame, int *reason)
{
    frame->good_end = frame->info.frame_bytes;
    reader->length = frame->info.frame_bytes;
    reader->next_number = frame->info.number + 1;
    reader->next_exact = true;
    if (may_skip(reader, &frame->info))
        return SEGMENT_STEP_SKIPPED;
    reader->shared->frames_checked++;
    reader->shared->blocks_read += frame_block_count(&frame->info);
    if (frame_check(frame->bytes, &frame->info) == 0)
        return SEGMENT_STEP_FRAME;
    *reason = WORKER_BAD_CHECKSUM;
    return STEP_TROUBLE;
}

/* A frame that is too long for pieces, or for which there is none. */
static int look_alone(struct segment_reader *reader, struct segment_frame *frame, int *reason)
{
    const struct worker_segment *segment = reader->segment;
    uint32_t left = segment->data_end - reader->at;
    uint32_t bytes = left < FRAME_BYTES_USUAL ? left : FRAME_BYTES_USUAL;
    uint8_t *scratch = reader->shared->scratch;
    reader->looked_place = reader->place;
    frame->bytes = NULL;
    if (segment_read_place(reader->shared, segment, reader->place, reader->at, scratch, bytes)) {
        *reason = WORKER_BAD_READ;
        return STEP_TROUBLE;
    }
    int parsed = frame_parse(scratch, bytes, &frame->info);
    if (parsed && parsed != ERR_AGAIN) {
        *reason = header_reason(parsed);
        return STEP_TROUBLE;
    }
    if (!parsed) {
        *reason = check_header(reader, &frame->info);
        if (*reason)
            return STEP_TROUBLE;
        if (frame->info.frame_bytes <= bytes) {
            frame->bytes = scratch;
            frame->borrowed = true;
            return check_frame(reader, frame, reason);
        }
    }
    enum frame_kind kind = reader->at == 0 ? FRAME_OPEN : FRAME_DATA;
    int result = segment_fetch(reader->shared, segment, reader->place, reader->at, left, kind,
                               &reader->held, &frame->info);
    if (!result)
        result = check_header(reader, &frame->info);
    if (result < 0)
        return result;
    frame->bytes = reader->held;
    frame->good_end = reader->length = frame->info.frame_bytes;
    reader->next_number = frame->info.number + 1;
    reader->next_exact = true;
    *reason = result;
    return result ? STEP_TROUBLE : SEGMENT_STEP_FRAME;
}

/* A frame of which only blocks were read does not fit together, whoever's fault that is: it is read whole, and judged then. */
static void want_whole(struct segment_reader *reader)
{
    drop_pieces(reader);
    reader->want[reader->entry_next] = WANT_WHOLE;
    reader->submitted = reader->at;
    reader->submit_entry = reader->entry_next;
}

/* Which frame of the first piece is the one at `at`; `frames` of it: none is. */
static uint32_t read_frame(const struct segment_reader *reader)
{
    const struct piece *piece = reader->head;
    uint32_t i = 0;
    while (piece && i < piece->frames && piece->entry[i] != reader->entry_next)
        i++;
    return i;
}

static int look_at_frame(struct segment_reader *reader, struct segment_frame *frame)
{
    struct segment_readers *shared = reader->shared;
    struct piece *piece = reader->head;
    uint32_t i = read_frame(reader);
    piece_wait(shared, piece);
    if (piece->result || i == piece->frames) {
        want_whole(reader);
        return STEP_RETRY;
    }
    sifter_take(shared->sifter, &piece->batch, i);
    struct sifter_frame *sift = &piece->sift[i];
    frame->info = sift->info;
    if (sift->parsed == ERR_AGAIN && sift->info.header_bytes <= FRAME_BYTES_USUAL / 4) /* the next ones will not be too short */
        shared->header_bytes = (uint32_t)round_up(sift->info.header_bytes, PAGE_BYTES);
    if (!sift->passed || check_header(reader, &frame->info)) {
        want_whole(reader);
        return STEP_RETRY;
    }
    shared->frames_checked++;
    shared->blocks_read += sift->block ? 0 : frame_block_count(&frame->info);
    reader->looked_place = piece->place;
    reader->length = frame->good_end = frame->info.frame_bytes;
    reader->next_number = frame->info.number + 1;
    reader->next_exact = true;
    frame->bytes = sift->bytes;
    frame->parts = sift->block != NULL;
    frame->stretch = sift->stretch;
    frame->stretches = sift->stretches;
    frame->sifted = sift->sifted ? sift : NULL;
    return SEGMENT_STEP_FRAME;
}

int segment_reader_extend(struct segment_reader *reader, struct segment_stretch *stretch)
{
    struct segment_frame_blocks blocks = frame_blocks(reader, reader->entry_next);
    uint32_t i = read_frame(reader);
    struct frame_info info;
    uint8_t *bytes = reader->head && i < reader->head->frames ? piece_frame(reader->head, i) : NULL;
    if (!bytes || frame_parse(bytes, reader->head->header_bytes, &info)) {
        want_whole(reader);
        return 0;
    }
    uint32_t from = stretch->end;
    uint32_t end = (uint32_t)round_up(segment_stretch_records_end(&blocks, stretch, info.header_bytes + info.body_bytes), BLOCK_BYTES);
    end = end < blocks.frame_bytes ? end : blocks.frame_bytes;
    if (end <= from || segment_read_place(reader->shared, reader->segment, reader->looked_place, reader->at + from, bytes + from, end - from) ||
        frame_check_blocks(bytes, &info, from / BLOCK_BYTES, (end - from + BLOCK_BYTES - 1) / BLOCK_BYTES)) {
        want_whole(reader);
        return 0;
    }
    reader->shared->blocks_read += (end - from + BLOCK_BYTES - 1) / BLOCK_BYTES;
    stretch->end = end;
    if (segment_stretch_fits(&blocks, stretch, bytes, &info))
        return 1;
    want_whole(reader);
    return 0;
}

static int look(struct segment_reader *reader, struct segment_frame *frame, int *reason)
{
    struct piece *piece = reader->head;
    frame->bytes = NULL;
    frame->borrowed = frame->parts = false;
    frame->stretches = 0;
    frame->sifted = NULL;
    if (!piece)
        return look_alone(reader, frame, reason);
    if (piece->frames > 0)
        return look_at_frame(reader, frame);
    reader->looked_place = piece->place;
    piece_wait(reader->shared, piece);
    if (piece->result) {
        *reason = WORKER_BAD_READ;
        return STEP_TROUBLE;
    }
    uint32_t skip = reader->at - piece->offset, left = piece->bytes - skip;
    int parsed = frame_parse(piece->data + skip, left, &frame->info);
    if (parsed && parsed != ERR_AGAIN) {
        *reason = header_reason(parsed);
        return STEP_TROUBLE;
    }
    uint32_t need = parsed ? frame->info.header_bytes : frame->info.frame_bytes;
    *reason = parsed ? (need > HEADER_BYTES_MAX ? WORKER_BAD_CHECKSUM : 0)
                     : check_header(reader, &frame->info);
    if (*reason)
        return STEP_TROUBLE;
    if (need > left)
        return join_pieces(reader, need) ? STEP_RETRY : look_alone(reader, frame, reason);
    frame->bytes = piece->data + skip;
    return check_frame(reader, frame, reason);
}

/* ---- when a frame did not pass -----------------------------------------------------------------
 */

/* What the copies of one frame give together. Copies are the same bytes, so good blocks of any may
 * stand side by side. */
struct salvage {
    uint8_t *frame; /* null: no copy has a good header */
    struct frame_info info;
    uint8_t good[BLOCKS_MAX / 8 + 1];
};

static bool salvage_has(const struct salvage *salvage, uint32_t block)
{
    return salvage->good[block / 8] & 1u << block % 8;
}

/* Takes the good blocks of a copy whose header has passed. False: no memory. */
static bool salvage_add(struct salvage *salvage, const uint8_t *frame,
                        const struct frame_info *info)
{
    if (!salvage->frame) {
        salvage->frame = page_memory(info->frame_bytes);
        if (!salvage->frame)
            return false;
        salvage->info = *info;
        memset(salvage->good, 0, sizeof salvage->good);
        memcpy(salvage->frame, frame, info->frame_bytes);
    } else if (info->header_bytes != salvage->info.header_bytes ||
               memcmp(salvage->frame, frame, info->header_bytes) != 0) {
        return true; /* not the same frame after all: the first one counts */
    }
    for (uint32_t i = 0; i < frame_block_count(info); i++) {
        if (salvage_has(salvage, i) || frame_check_blocks(frame, info, i, 1))
            continue;
        uint32_t from = i * BLOCK_BYTES, to = from + BLOCK_BYTES;
        if (to > info->frame_bytes)
            to = info->frame_bytes;
        memcpy(salvage->frame + from, frame + from, to - from);
        salvage->good[i / 8] |= (uint8_t)(1u << i % 8);
    }
    return true;
}

/* Bytes of the frame up to its first bad block. */
static uint32_t salvage_end(const struct salvage *salvage)
{
    for (uint32_t i = 0; i < frame_block_count(&salvage->info); i++)
        if (!salvage_has(salvage, i))
            return i * BLOCK_BYTES > salvage->info.header_bytes ? i * BLOCK_BYTES
                                                                : salvage->info.header_bytes;
    return salvage->info.frame_bytes;
}

/* Whether a frame of this segment begins at `bytes`, which is `offset` of the slot. */
static bool begins_frame(struct segment_reader *reader, uint32_t place, const uint8_t *bytes,
                         uint32_t available, uint32_t offset)
{
    struct frame_info info;
    if (memcmp(bytes, FRAME_MAGIC, sizeof(FRAME_MAGIC) - 1) != 0)
        return false;
    int parsed = frame_parse(bytes, available, &info);
    if (parsed == ERR_AGAIN)
        return fetch_header(reader->shared, reader->segment, place, offset,
                            reader->segment->data_end - offset, FRAME_DATA, &info) == 0 &&
               info.number >= reader->number;
    return !parsed && segment_owns(reader->shared, reader->segment, FRAME_DATA, offset, &info) &&
           info.number >= reader->number;
}

/* Offset of the first frame behind `at` that proves itself at any place; data_end if none. */
static uint32_t scan(struct segment_reader *reader)
{
    const struct worker_segment *segment = reader->segment;
    uint8_t *buffer = reader->shared->scratch;
    for (uint32_t from = reader->at + PAGE_BYTES; from < segment->data_end; from += SCAN_BYTES) {
        uint32_t bytes =
            segment->data_end - from < SCAN_BYTES ? segment->data_end - from : SCAN_BYTES;
        uint32_t found = segment->data_end;
        for (uint32_t place = 0; place < segment->places; place++) {
            if (reader->only_place >= 0 && place != (uint32_t)reader->only_place)
                continue;
            bool whole = segment_read_place(reader->shared, segment, place, from, buffer, bytes) == 0;
            for (uint32_t at = 0; at < bytes && from + at < found; at += PAGE_BYTES) {
                /* Where one page cannot be read the others may. */
                if (!whole &&
                    segment_read_place(reader->shared, segment, place, from + at, buffer + at, PAGE_BYTES))
                    continue;
                if (begins_frame(reader, place, buffer + at, whole ? bytes - at : PAGE_BYTES,
                                 from + at))
                    found = from + at;
            }
        }
        if (found < segment->data_end)
            return found;
    }
    return segment->data_end;
}

/* No copy of the frame at `at` has a header: how far to go on. */
static int pass_over(struct segment_reader *reader, struct segment_frame *frame)
{
    uint32_t next = PAGE_BYTES; /* the OPEN frame is one page */
    reader->next_number = reader->number + 1;
    reader->next_exact = reader->at == 0;
    if (reader->at > 0 && reader->index_state == INDEX_GOOD) {
        uint32_t entry = entry_find(reader, reader->at) + 1;
        next = entry_offset(reader, entry);
        reader->next_exact = entry < reader->entries;
        if (reader->next_exact)
            reader->next_number = le32_get(reader->entry[entry].number);
    } else if (reader->at > 0) {
        next = scan(reader);
    }
    reader->length = next - reader->at;
    frame->bytes = NULL;
    return reader->silent ? SEGMENT_STEP_SILENT : SEGMENT_STEP_DAMAGED;
}

/* A frame that salvage made whole, or whole up to a block. */
static int hand_out_salvage(struct segment_reader *reader, struct salvage *salvage,
                            struct segment_frame *frame)
{
    reader->held = salvage->frame;
    *frame = (struct segment_frame){.bytes = reader->held,
                                    .info = salvage->info,
                                    .good_end = salvage_end(salvage),
                                    .silent = reader->silent};
    reader->length = salvage->info.frame_bytes;
    reader->next_number = salvage->info.number + 1;
    reader->next_exact = true;
    return frame->good_end > salvage->info.header_bytes ? SEGMENT_STEP_FRAME : reader->silent ? SEGMENT_STEP_SILENT : SEGMENT_STEP_DAMAGED;
}

/* Bytes that the frame at `at` takes, as far as is known. */
static uint32_t expected_bytes(const struct segment_reader *reader)
{
    if (reader->at == 0)
        return PAGE_BYTES;
    if (reader->index_state == INDEX_GOOD)
        return le32_get(reader->entry[entry_find(reader, reader->at)].frame_bytes);
    return reader->segment->data_end - reader->at;
}

/*
 * Asks the recorder about one place and fetches from it anew as long as it says so. *reason is what
 * was wrong, 0 when the frame has passed after all. Returns the last judgement, or a negative code.
 */
static int try_place(struct segment_reader *reader, uint32_t place, int *reason, uint8_t **copy,
                     struct segment_frame *frame)
{
    uint32_t most = expected_bytes(reader);
    enum frame_kind kind = reader->at == 0 ? FRAME_OPEN : FRAME_DATA;
    for (uint32_t tries = 0;; tries++) {
        bool headed = *reason == WORKER_BAD_CHECKSUM && frame->bytes;
        int judgement = report(reader, place, reader->at, headed ? frame->info.frame_bytes : most,
                               *reason, &frame->info);
        if (judgement != WORKER_AGAIN || tries == TRIES_MAX)
            return judgement;
        free(*copy);
        int result = segment_fetch(reader->shared, reader->segment, place, reader->at, most, kind,
                                   copy, &frame->info);
        if (!result)
            result = check_header(reader, &frame->info);
        frame->bytes = *copy;
        *reason = result;
        if (result <= 0)
            return result;
    }
}

/* Tries every place. 0: none has the frame whole; SEGMENT_STEP_FRAME (in reader->held), _OVERTAKEN,
 * _END or negative. */
static int try_places(struct segment_reader *reader, int reason, struct segment_frame *frame,
                      struct salvage *salvage)
{
    const struct worker_segment *segment = reader->segment;
    enum frame_kind kind = reader->at == 0 ? FRAME_OPEN : FRAME_DATA;
    uint32_t first =
        reader->looked_place % segment->places; /* a piece may be older than a change of places */
    for (uint32_t i = 0; i < segment->places; i++) {
        uint32_t place = (first + i) % segment->places;
        if (reader->only_place >= 0 && place != (uint32_t)reader->only_place)
            continue;
        uint8_t *copy = NULL;
        bool seen = i == 0 && reason != WORKER_BAD_READ;
        if (!seen) { /* a failed piece says nothing about this frame */
            reason = segment_fetch(reader->shared, segment, place, reader->at,
                                   expected_bytes(reader), kind, &copy, &frame->info);
            if (!reason)
                reason = check_header(reader, &frame->info);
            frame->bytes = copy;
        }
        int judgement = reason > 0 ? try_place(reader, place, &reason, &copy, frame) : reason;
        if (judgement < 0) {
            free(copy);
            return judgement;
        }
        reader->silent |= reason == WORKER_BAD_SILENT;
        if (reason == 0) {
            free(reader->held);
            reader->held = copy;
            reader->place = place;
            frame->bytes = copy;
            frame->borrowed = frame->parts = false;
            frame->sifted = NULL;
            frame->good_end = reader->length = frame->info.frame_bytes;
            reader->next_number = frame->info.number + 1;
            reader->next_exact = true;
            return SEGMENT_STEP_FRAME;
        }
        if (judgement == WORKER_OVERTAKEN || judgement == WORKER_TORN) {
            free(copy);
            reader->ended = true;
            return judgement == WORKER_TORN ? SEGMENT_STEP_END : SEGMENT_STEP_OVERTAKEN;
        }
        bool enough = reason != WORKER_BAD_CHECKSUM || !frame->bytes ||
                      salvage_add(salvage, frame->bytes, &frame->info);
        free(copy);
        if (!enough)
            return ERR_NO_MEMORY;
    }
    return STEP_TROUBLE;
}

static int rescue(struct segment_reader *reader, int reason, struct segment_frame *frame)
{
    if (reader->at > 0) {
        int good = segment_reader_index(reader);
        if (good < 0)
            return good;
        uint32_t entry = good ? entry_find(reader, reader->at) : 0;
        if (good && entry_offset(reader, entry) != reader->at) {
            /* Recovery found nothing here either: the index knows the hole, and numbering names it.
             */
            if (reader->pruned) {
                distrust_index(reader);
                return STEP_RETRY;
            }
            reader->at = entry_offset(reader, entry);
            reader->exact = entry < reader->entries;
            if (reader->exact)
                reader->number = le32_get(reader->entry[entry].number);
            return STEP_RETRY;
        }
    }
    struct salvage salvage = {.frame = NULL};
    reader->silent = false;
    int step = try_places(reader, reason, frame, &salvage);
    if (step == STEP_TROUBLE && salvage.frame) {
        free(reader->held);
        return hand_out_salvage(reader, &salvage, frame);
    }
    free(salvage.frame);
    return step == STEP_TROUBLE ? pass_over(reader, frame) : step;
}

/* ---- steps -------------------------------------------------------------------------------------
 */

/* Forgets pieces that lie before `at`. */
static void catch_up(struct segment_reader *reader)
{
    while (reader->head && reader->head->offset + reader->head->bytes <= reader->at)
        piece_give(reader->shared, pop_piece(reader));
    if (reader->head && reader->head->offset > reader->at) {
        drop_pieces(reader);
        reader->submitted = reader->at;
    }
    if (reader->submitted < reader->at)
        reader->submitted = reader->at;
}

/* Where little is wanted, there are many frames for each that is read: those whose packets follow one another are one step. */
static int skip_entries(struct segment_reader *reader, struct segment_frame *frame)
{
    const struct index_frame_entry *entry = &reader->entry[reader->entry_next];
    *frame = (struct segment_frame){
        .info =
            {
                .kind = FRAME_DATA,
                .frame_bytes = le32_get(entry->frame_bytes),
                .number = le32_get(entry->number),
                .packets = le32_get(entry->packets),
                .first_packet = le64_get(entry->first_packet),
                .head_ns = (int64_t)le64_get(entry->head_ns),
                .first_ns = (int64_t)le64_get(entry->first_ns),
                .last_ns = (int64_t)le64_get(entry->last_ns),
            },
    };
    reader->length = frame->info.frame_bytes;
    for (uint32_t i = reader->entry_next + 1; i < reader->entries && !entry_wanted(reader, i); i++) {
        uint32_t packets = le32_get(reader->entry[i].packets);
        int64_t first_ns = (int64_t)le64_get(reader->entry[i].first_ns);
        if (le64_get(reader->entry[i].first_packet) != frame->info.first_packet + frame->info.packets || packets > UINT32_MAX - frame->info.packets)
            break;
        frame->info.packets += packets;
        frame->info.first_ns = first_ns < frame->info.first_ns ? first_ns : frame->info.first_ns;
        frame->info.last_ns = (int64_t)le64_get(reader->entry[i].last_ns);
        reader->entries_more++;
    }
    return SEGMENT_STEP_SKIPPED;
}

int segment_reader_next(struct segment_reader *reader, uint32_t pieces, struct segment_frame *frame)
{
    free(reader->held);
    reader->held = NULL;
    reader->length = 0;
    reader->entries_more = 0;
    frame->silent = false;
    for (;;) {
        int result = decide(reader);
        if (result)
            return result;
        if (reader->ended || reader->at >= reader->segment->data_end) {
            drop_pieces(reader);
            return SEGMENT_STEP_END;
        }
        if (reader->pruned && !entry_wanted(reader, reader->entry_next))
            return skip_entries(reader, frame);
        catch_up(reader);
        result = segment_reader_ahead(reader, pieces > 0 ? pieces : 1);
        if (result)
            return result;
        int reason = 0;
        int step = look(reader, frame, &reason);
        if (step == SEGMENT_STEP_FRAME && reader->pruned &&
            (frame->info.frame_bytes != le32_get(reader->entry[reader->entry_next].frame_bytes) ||
             frame->info.first_packet != le64_get(reader->entry[reader->entry_next].first_packet) ||
             frame->info.packets != le32_get(reader->entry[reader->entry_next].packets))) {
            distrust_index(reader);
            continue;
        }
        if (step == STEP_TROUBLE)
            step = rescue(reader, reason, frame);
        if (step != STEP_RETRY)
            return step;
    }
}

void segment_reader_advance(struct segment_reader *reader)
{
    if (reader->length == 0)
        return;
    if (reader->pruned) {
        reader->entry_next += 1 + reader->entries_more;
        reader->entries_more = 0;
        reader->at = entry_offset(reader, reader->entry_next);
        reader->exact = reader->entry_next < reader->entries;
        if (reader->exact)
            reader->number = le32_get(reader->entry[reader->entry_next].number);
    } else {
        reader->at += reader->length;
        reader->number = reader->next_number;
        reader->exact = reader->next_exact;
    }
    reader->length = 0;
    free(reader->held);
    reader->held = NULL;
}

int segment_reader_account_before(struct segment_reader *reader, struct account *account)
{
    if (!reader->pruned || reader->entry_next == 0)
        return ERR_NOT_FOUND;
    struct frame_info info;
    uint32_t offset = entry_offset(reader, reader->entry_next - 1);
    int reason = fetch_header(reader->shared, reader->segment, reader->place, offset,
                              reader->at - offset, FRAME_DATA, &info);
    if (reason)
        return reason < 0 ? reason : ERR_CORRUPT;
    *account = info.account;
    return 0;
}

void segment_reader_close(struct segment_reader *reader)
{
    drop_pieces(reader);
    narrowing_end_early(reader);
    free(reader->held);
    free(reader->entry);
    forget_selection(reader);
    forget_verdicts(reader);
    reader->held = NULL;
    reader->entry = NULL;
    reader->entries = 0;
    reader->ended = true;
}
