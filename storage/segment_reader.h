/*
 * segment_reader.h - the data frames of one segment in order, each checked, from whichever copy is
 * good.
 *
 *     segment_reader_open() -> { segment_reader_next() ... segment_reader_advance() } ->
 * segment_reader_close()
 *
 * Happy path: pieces of nearly 2 MiB are read ahead from one place; a frame is looked at where it lies in
 * its piece. A frame that straddles two pieces is made whole by copying its beginning in front of
 * the second one, where each piece has room for it.
 *
 * Failure modes: a piece that cannot be read, a frame that does not pass, a frame of something
 * else. Then frames are fetched one by one: from the same place, once the recorder has judged the
 * stretch, from the other copies, and where no copy is whole, the good blocks of all of them are
 * put together (copies are the same bytes). What then still lacks its header is passed over: with
 * the index, or page by page up to the next frame that proves itself.
 *
 * Where the key index says which blocks of a frame may hold a match, nothing but the frame's header and those blocks is read, each to where it
 * lies in a whole frame, several frames to a piece; neighbouring blocks in one go. Where a record crosses into a block that was not wanted, that one
 * is fetched when it turns out to be needed. What does not fit together here is not judged: the whole frame is read instead, and that one is.
 *
 * Closing waits for what is under way: a buffer is the disk's until then.
 *
 * Memory: pieces come from a pool that the readers of all streams share. Where it has none left,
 * frames are fetched one at a time into one scratch buffer, and the caller copies what it wants to
 * keep ("borrowed"). The beginnings of key indexes that come ahead have short pieces of
 * their own, so that little memory is used for them (piece_pool.h).
 *
 *   piece      owner            moved on by
 *   free       pool             piece_take
 *   reading    disk             disk_wait
 *   filled     segment_reader   piece_give, once the frames in it are consumed
 *
 * Threads: one.
 */
#ifndef STORAGE_SEGMENT_READER_H
#define STORAGE_SEGMENT_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "catalog.h"
#include "disk_io.h"
#include "frame.h"
#include "narrowing.h"
#include "patience.h"
#include "piece_pool.h"
#include "segment_blocks.h"
#include "segment_verdicts.h"
#include "sifter.h"
#include "worker.h"

#define PIECE_ROOM_BYTES \
    FRAME_BYTES_USUAL       /* in front of each piece, for the beginning of its first frame */
#define PIECE_BYTES (PIECE_POOL_STEP_BYTES - PIECE_ROOM_BYTES)
#define PIECES_AHEAD_MAX 4u /* of one stream: what is on its way, and what has come, should find room in a cache together */
#define PIECE_FRAMES ((PIECE_ROOM_BYTES + PIECE_BYTES) / FRAME_BYTES_USUAL) /* of which blocks are read into one piece */

#define INDEXES_AHEAD_MAX 8u /* of all streams */
#define PIECE_SHORT_BYTES FRAME_BYTES_USUAL
#define PIECES_OF_SHORTS ((INDEXES_AHEAD_MAX * PIECE_SHORT_BYTES + PIECE_ROOM_BYTES + PIECE_BYTES - 1) / (PIECE_ROOM_BYTES + PIECE_BYTES))

/* What is remembered of conversations in segments that are being read, where a filter asks for `app`: half a MiB for 20,000 of them. */
#define VERDICT_BYTES_MAX (64u << 20)

struct piece;
struct segment_narrowing;

/* Of a segment that is yet to be read: what lies between its data and its seal, or the beginning of that. */
struct index_ahead {
    struct piece *piece; /* null: free */
    struct identity segment;
    uint32_t revision, slot;
};

/* What the readers of one job share. */
struct segment_readers {
    struct disk *const *disk;
    uint32_t disks;
    struct identity ring;
    int64_t from_ns; /* inclusive */
    int64_t to_ns;   /* exclusive, INT64_MAX: no bound */
    bool everything; /* check also what lies outside the range: for verifying */
    const struct narrowing *narrowing; /* the filter's tree: frames in which nothing can match are not read. Null: all are */
    /* What was recorded of conversations is wanted, where packets are read: whom to ask, and with what hashes are made (segment_verdicts.h). Null: it is not. */
    verdict_truth_of *truth_of;
    uint64_t verdict_seed;
    /* Tells the recorder of a stretch that did not pass. An enum worker_judgement, or a negative
     * code that ends the job. */
    int (*judge)(void *context, const struct worker_bad *bad);
    /* Whether the disk may be asked for a piece now; `wait`: not before it may. ahead: pieces that it was asked for and that nobody has waited for
     * yet. May be null: always. */
    bool (*may_read)(void *context, uint32_t disk, uint32_t ahead, bool wait);
    /* Whether the ring has probably taken the slots of the segment at this position: then a page is asked for, out of turn, to see. May be
     * null: never. */
    bool (*is_gone)(void *context, uint64_t position);
    void *context;
    /* What pieces are cut from, nobody else's meanwhile: what is lost to a disk that hangs comes back with the end. Null: one of their own. */
    struct piece_pool *pool;

    /* Checks frames, and says which packets match, before the reader comes to them. Null: nobody does. Sealed segments are then read by their INDEX. */
    struct sifter *sifter;

    struct patience patience; /* of disks that hang */
    struct patience_read *single; /* for reads that are waited for at once; null: not yet, or lost */
    struct piece *free_piece, *free_short;
    uint32_t pieces, shorts;
    uint32_t pieces_max, shorts_max;
    struct piece_pool own_pool;
    uint8_t *short_memory; /* of it, for short pieces */
    uint32_t header_bytes; /* to be read of a frame that is read by blocks: as long as headers have been so far */
    uint32_t ahead[RING_DISKS_MAX]; /* pieces, by the job's disks */
    struct index_ahead index_ahead[INDEXES_AHEAD_MAX];
    uint32_t unasked;       /* segments that are yet to be read without asking their key indexes, since nearly all of others was wanted, */
    uint32_t unasked_next;  /* and how many it will be the next time */
    uint32_t index_ahead_bytes; /* of each, 0: all; what the last one needed before it was known what else to read */
    uint8_t *scratch; /* FRAME_BYTES_USUAL */
    uint64_t verdict_bytes; /* of those of open readers, VERDICT_BYTES_MAX at most */
    uint64_t bytes_read;
    uint64_t frames_checked;
    uint64_t frames_bad;
    uint64_t segments_by_runs;  /* of which no more than an account was read, for runs of keys say that nothing in them can match */
    uint64_t segments_narrowed; /* by their key indexes */
    uint64_t segments_excluded; /* of those: nothing in them can match */
    uint64_t indexes_bad;       /* key indexes of no use: their segments are read as if there were none */
    uint64_t index_bytes;       /* of bytes_read: INDEX and FLOWS frames */
    uint64_t blocks_wanted;     /* that may hold a match, by the key indexes */
    uint64_t blocks_read;       /* of data frames, each header and what it covers of the first block not counted where nothing else of it was read */
};

/* The fields above the blank line are set. memory_max: for pieces, bytes; at least one is allowed.
 * ERR_NO_MEMORY. */
int segment_readers_open(struct segment_readers *shared, uint64_t memory_max);
/* All readers are closed. */
void segment_readers_close(struct segment_readers *shared);

enum index_state {
    INDEX_UNREAD = 0,
    INDEX_GOOD,
    INDEX_BAD, /* no good copy, or there is none */
};

enum segment_want {
    WANT_WHOLE = 0,
    WANT_BLOCKS, /* header, and the blocks that the key index selects, which may be none */
    WANT_NOTHING,
    WANT_PLACED, /* all of it, and to where it lies as a frame, for the sifter */
};

struct segment_reader {
    struct segment_readers *shared;
    const struct worker_segment *segment; /* the caller's; may grow, see segment_reader_update() */
    int only_place;                       /* -1: any */
    uint32_t place;                       /* being read */
    uint32_t looked_place;                /* that the bytes looked at last came from */
    uint32_t at;                          /* offset of the next frame */
    uint32_t number;                      /* that it has; not `exact`: or a higher one */
    bool exact;
    bool ended;           /* before data_end: overtaken, or torn */
    bool sees;            /* the first page has been asked for, to see whether the segment is still there */
    uint32_t length;      /* of the step that next() handed out; 0: none */
    uint32_t next_number; /* after that step */
    bool next_exact;
    uint8_t *held; /* a frame that was fetched alone, until the step is over */

    struct piece *head; /* read ahead, in order of offset */
    struct piece *tail;
    uint32_t pieces;
    uint32_t submitted;    /* offset up to which they reach */
    uint32_t submit_entry; /* pruned: the entry that submission stands at */

    /* A frame of the range is read, whatever the key index says: whoever counts needs the accounts at both ends of it. The owner
     * sets it after opening. */
    bool keep_first, keep_last;

    struct segment_narrowing *narrowing; /* begun before it is needed; null: not */
    bool decided;
    bool pruned; /* only frames are read that the index puts into the range, and the key index does not exclude */
    bool silent; /* of the places that were tried for the last frame that was not good at once, some disk does not answer */
    uint8_t *want; /* an enum segment_want for each entry; null: all are wanted whole */
    uint32_t *want_block;        /* the block, of those below, that each entry begins with */
    struct segment_block *block; /* of the segment, as far as frames are read by blocks */
    bool sure;                   /* every packet that may match does */
    bool was_open;               /* when its first frame was read: what has been found out since is not looked for on the disk */
    struct segment_verdicts *verdicts; /* null: nothing is known of them, or nothing is wanted */
    enum index_state index_state;
    uint32_t entry_next; /* pruned: the entry of the frame at `at` */
    uint32_t entries_more; /* behind that one, that the step is about, too */
    uint32_t entries;
    struct index_frame_entry *entry;
    uint32_t flows_bytes; /* of the FLOWS frames between the INDEX frames and the seal */
};

enum segment_step {
    SEGMENT_STEP_FRAME,   /* a frame that has passed */
    SEGMENT_STEP_SKIPPED, /* a frame whose packets all lie outside the range, or none of which can
                             match, or several such frames whose packets follow one another: only `info`'s numbers and times are set */
    SEGMENT_STEP_DAMAGED, /* something is missing here; numbering will tell how much */
    SEGMENT_STEP_SILENT,  /* the same, and it may lie on a disk that does not answer */
    SEGMENT_STEP_OVERTAKEN, /* the rest of the segment is overwritten */
    SEGMENT_STEP_END,       /* no more frames: for ever if the segment is not open */
};

struct segment_frame {
    const uint8_t
        *bytes; /* until segment_reader_advance(); if borrowed: until any call for any reader */
    struct frame_info info;
    bool borrowed;
    uint32_t good_end; /* bytes of the frame that have passed; less than frame_bytes: the rest is
                          damaged */
    bool silent;       /* or lies on a disk that does not answer */
    bool parts;             /* of `bytes`, header and these stretches are there, nothing else: nothing else can match */
    struct segment_stretch *stretch; /* until segment_reader_advance() */
    uint32_t stretches;
    const struct sifter_frame *sifted; /* which of its packets match, until then; null: nobody has looked */
};

/* Reads nothing yet. `place`: the one to begin with; only_place -1 or the only one to read. */
void segment_reader_open(struct segment_reader *reader, struct segment_readers *shared,
                         const struct worker_segment *segment, uint32_t place, int only_place);

/* The segment has grown or was sealed, or its description has moved in memory. */
void segment_reader_update(struct segment_reader *reader, const struct worker_segment *segment);

/* Finds out what of the key index will be asked, as far as that can be seen without waiting for it, and asks the disk for it. A segment that is read
 * next is so prepared while the one before it is being read. Returns a negative code of `judge`. */
int segment_reader_prepare(struct segment_reader *reader);

/* Has up to `pieces` pieces read ahead. Returns a negative code of `judge` (of a bad index). */
int segment_reader_ahead(struct segment_reader *reader, uint32_t pieces);

/* Whether all that is to be read has been submitted. */
bool segment_reader_all_ahead(const struct segment_reader *reader);

/*
 * The next step: an enum segment_step, or a negative code. Except at END and OVERTAKEN,
 * segment_reader_advance() goes on to the one after; without it the same step comes again. `pieces`
 * as in segment_reader_ahead().
 */
int segment_reader_next(struct segment_reader *reader, uint32_t pieces,
                        struct segment_frame *frame);
void segment_reader_advance(struct segment_reader *reader);

/*
 * The last record of this stretch of the step goes on behind stretch->end, which moves on. 1; 0: that does not fit together, and
 * without segment_reader_advance() the same step comes again, now as a whole frame; or a negative code.
 */
int segment_reader_extend(struct segment_reader *reader, struct segment_stretch *stretch);

/* Pruned: the account in the header of the frame before the one at `at`. ERR_NOT_FOUND,
 * ERR_CORRUPT: it is not to be had. */
int segment_reader_account_before(struct segment_reader *reader, struct account *account);

/* Reads the index if it has not been read. Whether it is good: reader->entry then has
 * reader->entries entries. */
int segment_reader_index(struct segment_reader *reader);

void segment_reader_close(struct segment_reader *reader);

/*
 * Fetches one frame of any kind, `bytes_max` long or shorter, from `offset` of a place. 0, an enum
 * worker_bad_reason, or a negative code. *frame is the caller's to free(); null unless the header
 * has passed. *info is set where a header did, be it the one of a frame that does not belong here.
 */
int segment_fetch(struct segment_readers *shared, const struct worker_segment *segment,
                  uint32_t place, uint32_t offset, uint32_t bytes_max, enum frame_kind kind,
                  uint8_t **frame, struct frame_info *info);

/*
 * Reads a stretch of a place and waits for it: 0, or why not (the disk's result, ERR_TIMEOUT, ERR_NO_MEMORY). A disk that hangs is not asked.
 */
int segment_read_place(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                       uint32_t offset, uint8_t *buffer, uint32_t bytes);

struct segment_pages {
    uint32_t offset, bytes; /* in the slot */
};

#define SEGMENT_PAGES_MAX PATIENCE_STRETCHES_MAX

/*
 * The same for several stretches of whole pages at once, which come into the read's memory, one behind the other: asks for them, and does not
 * wait but for recording. Null: there is no memory, or the disk hangs. segment_await_pages() waits: 0, or the disk's result, or ERR_TIMEOUT; *read
 * is then null. segment_drop_pages() gives it back, and waits where it has not been waited for; null is allowed.
 */
struct patience_read *segment_ask_pages(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                        const struct segment_pages *stretch, uint32_t stretches);
int segment_await_pages(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place, struct patience_read **read);
void segment_drop_pages(struct segment_readers *shared, struct patience_read **read);

/*
 * Asks for the key index of a segment that will be narrowed, and does not wait. `place` as in segment_reader_open(). False: not now, since there is no
 * memory for it or recording needs the disk; where it is not asked for again it is read when it is needed.
 */
bool segment_index_ahead(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place);
/* Gives it back: it has been used, or will not be. */
void segment_index_forget(struct segment_readers *shared, const struct worker_segment *segment);
/* What lies between data and seal, from an offset on, as far as it was read ahead: null where it was not. Good until it is forgotten. */
const uint8_t *segment_index_reach(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                   uint32_t offset, uint32_t *bytes);
/* A stretch of it: null where it did not come whole. */
const uint8_t *segment_index_bytes(struct segment_readers *shared, const struct worker_segment *segment, uint32_t place,
                                   uint32_t offset, uint32_t bytes);

/* Whether a checked header is the segment's frame of this kind and offset. */
bool segment_owns(const struct segment_readers *shared, const struct worker_segment *segment,
                  enum frame_kind kind, uint32_t offset, const struct frame_info *info);

#endif
