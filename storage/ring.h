/*
 * ring.h - a ring in use: its disks, its keeper's thread, its streams.
 *
 *     ring_format_disks() once;  ring_open() -> ring_stream_open() ... ring_stream_close() -> ring_close()
 *
 * Threads: everything here may be called by any thread except where stream.h says "capture thread". The keeper has a thread of its
 * own, each disk one, each stream one beside its capture thread (indexer.h), the catalog one.
 */
#ifndef STORAGE_RING_H
#define STORAGE_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "catalog.h"
#include "disk_io.h"
#include "keeper.h"
#include "purge_live.h"
#include "recovery.h"
#include "stream.h"
#include "superblock.h"
#include "verdict_log.h"
#include "worker.h"

struct ring;

struct ring_options {
    struct identity ring;
    char name[64];
    uint8_t copies;
    uint64_t buffer_bytes;     /* of packets on their way; the bound of data in flight */
    uint64_t flush_window_ns;  /* 50 ms to 10 s */
    unsigned join_patience_ms; /* for each answer of a disk that is formatted or taken in, or read at the start beside others; 0: DISK_PATIENCE_MS */
    struct mender_options mender;
    flow_keys_of *keys_of;     /* what segments are indexed by; null: they get no key index */
    struct catalog *catalog;   /* stays the caller's */
    int verdict_directory;     /* where verdicts are written down (verdict_log.h), above 0, stays the caller's; 0: nowhere */
    bool whole;                /* read every slot: the catalog is fresh, or the ring is new to this machine */
    void (*event)(void *context, const char *severity, const char *kind, const char *text);
    void (*progress)(void *context, uint64_t slots_done, uint64_t slots_total);
    bool (*give_up)(void *context);
    void *context;
    uint32_t *silent; /* null, or for ring_open(): which disk, as they were given, it gave up */
};

#define RING_BUFFER_BYTES_MIN (8u << 20)
#define RING_FLUSH_WINDOW_NS_MIN 50000000ull
#define RING_FLUSH_WINDOW_NS_MAX 10000000000ull

/*
 * Makes freshly created disks (disk_uring_create) the members of a new ring, all with slots of one size: slot_bytes, or, where that is
 * 0, what fits the smallest disk. The disks stay the caller's. ERR_TOO_SMALL, ERR_INVALID, ERR_IO.
 */
int ring_format_disks(const struct identity *ring, const char *name, uint8_t copies, uint64_t slot_bytes,
                      struct disk **disk, uint32_t disks, struct identity *identity, uint64_t *slot_bytes_chosen,
                      struct failure *failure);

/*
 * Brings a ring up from disks that are open and locked. Reads superblocks (mends damaged ones), checks that they are all of this ring, finds out what the
 * slots hold, seals what a crash left open, starts the keeper. The disks belong to the ring from now on, also when this fails. A disk that does not answer is
 * given up where there are others (ERR_TIMEOUT, *options->silent): the ring can be opened again without it. Where there is one disk only, it is waited for.
 */
int ring_open(const struct ring_options *options, struct disk **disk, uint32_t disks, struct ring **ring,
              struct recovery_report *report, struct failure *failure);

/*
 * Formats an open disk (disk_uring_create) as a further member of the ring, with the ring's slot size. Nothing of the ring changes yet.
 * The disk stays the caller's. ERR_TOO_SMALL, ERR_TOO_LARGE (128 members), ERR_IO. ERR_TIMEOUT: it does not answer; *disk is null, and closed when
 * it does.
 */
int ring_disk_format(struct ring *ring, struct disk **disk, struct identity *identity, struct failure *failure);

/*
 * Takes an open, locked disk that is formatted for this ring (fresh, or a member before) into the running ring: checks its superblock,
 * brings what lies on it together with what the catalog knows (recovery_join), updates the members in all superblocks, gives it to
 * the keeper. Recording goes on meanwhile. *disk is the ring's, also on failure. ERR_MISMATCH: another ring, other slots; ERR_EXISTS: it is a member
 * already; ERR_IO. ERR_TIMEOUT: it does not answer; others, who wait for its turn to change the ring, wait no longer than that.
 */
int ring_disk_join(struct ring *ring, struct disk **disk, struct recovery_report *report, uint32_t *number,
                   struct failure *failure);

/*
 * The member gets nothing new, what is being filled there goes on elsewhere, and it is closed and unlocked: with state DISK_REMOVED when nothing is
 * under way there, and its copies leave the catalog; with DISK_MISSING or DISK_FAILED at once, the closing happens when it answers, and
 * the catalog keeps its places, which count for nothing until it is back. The other members' superblocks say `state`, after DISK_REMOVED its own,
 * too. Its data stays on it. ERR_TIMEOUT after timeout_ms: it has left, as with 0, but is closed and unlocked later, when it answers. ERR_BUSY: it is the last that
 * works and a stream is open. ERR_NOT_FOUND.
 */
int ring_disk_leave(struct ring *ring, uint32_t number, enum disk_state state, int timeout_ms, struct failure *failure);

/*
 * Write redundancy from now on: of new segments; the mender brings older ones up, and leaves surplus copies to expire. 1 to COPIES_MAX;
 * ERR_INVALID with a sentence where fewer disks are active.
 */
int ring_set_copies(struct ring *ring, uint8_t copies, struct failure *failure);

/* Enclosure or underlying device of a member: copies go to different ones where they can. 0: not known. */
void ring_set_failure_domain(struct ring *ring, uint32_t number, uint64_t domain);

/* All streams are closed. Writes what is left to write, closes the disks. */
void ring_close(struct ring **ring);

/* Streams, numbered within this run, with an indexer. The stream is the capture thread's; the ring only knows of it. */
int ring_stream_open(struct ring *ring, const struct stream_options *options, struct stream **stream);
/* stream_end(), forget, stream_free(). The stream stays as it is when the waiting was given up (ERR_INTERRUPTED). */
int ring_stream_close(struct ring *ring, struct stream **stream, struct account *account,
                      bool (*give_up)(void *context), void *context);

/* Sees to it that everything taken before the call is durable and can be found. ERR_TIMEOUT: a disk or a capture thread is slow. */
int ring_flush(struct ring *ring, int timeout_ms);

/*
 * The segments that may hold packets of [from_ns, to_ns), ordered by run, stream and position; open ones with what of them is durable now.
 * `each` as in catalog_find().
 */
int ring_find(struct ring *ring, int64_t from_ns, int64_t to_ns,
              int (*each)(const struct segment_row *row, void *context), void *context);

/* Those that are not open, of positions from `from` to `to`, in their order; at most `count` of them (up to 1,000). */
int ring_find_sealed(struct ring *ring, uint64_t from, uint64_t to, uint32_t count,
                     int (*each)(const struct segment_row *row, void *context), void *context);

/* The open segments only: for following. */
int ring_open_segments(struct ring *ring, int (*each)(const struct segment_row *row, void *context), void *context);

/* A number that grows whenever a segment is opened or sealed: unchanged, ring_open_segments() lists those that it listed before. */
uint64_t ring_changes(struct ring *ring);

/* Positions of the oldest segment that is still there (0: none is) and of the last one that was prepared. */
void ring_positions(struct ring *ring, uint64_t *oldest, uint64_t *newest);

/* A row in the worker's form, without its places. */
struct worker_segment ring_row_segment(const struct segment_row *row);

/* The same with them; disks are numbered as ring_disk() does. */
void ring_worker_segment(struct ring *ring, const struct segment_row *row, struct worker_segment *segment);

/* The recorder alone judges what a reader could not believe. Damage is counted, and mended in the background from another copy. */
enum worker_judgement ring_judge(struct ring *ring, const struct worker_segment *segment, const struct worker_bad *bad);

/*
 * While set, the ring is mended without delay and at full speed; ring_mended() then says whether everything that readers have
 * reported has been dealt with, and no copy is missing that could be made. Nests.
 */
void ring_mend_hurry(struct ring *ring, bool begin);
bool ring_mended(struct ring *ring);

/* Reads and checks everything in the background, from now on, unless that is being done. */
void ring_scrub(struct ring *ring);

/* Delay, rates and interval, from now on; where a scrub stood is not looked at. */
void ring_set_mender(struct ring *ring, const struct mender_options *options);

/* Without asking the catalog, other than ring_state(). */
void ring_mender_state(struct ring *ring, struct mender_state *state);

/* Reads every slot and writes the catalog anew. ERR_BUSY while a stream is open. */
int ring_rebuild(struct ring *ring, struct recovery_report *report, struct failure *failure);

/*
 * Erases packets for good (purge.h), and writes into the superblocks that it did: a disk that is away now holds them still, and is not taken in any more.
 * Where one is known that is away, `give_up_away` says that this is wanted. `range`: put into order by this. ERR_BUSY: a stream is open, a disk is
 * away or does not work, or does not answer: nothing has been erased. Otherwise as purge_run(); the next start has to read the disks whole.
 */
int ring_purge(struct ring *ring, struct purge_range *range, uint32_t ranges, int64_t from_ns, int64_t to_ns, bool give_up_away,
               struct purge_report *report, struct failure *failure);

struct ring_purge_options {
    int64_t from_ns, to_ns;
    bool give_up_away;
    uint64_t rate; /* bytes read and written a second; 0: as fast as the recording lets it */
    void (*progress)(void *context, uint64_t segments_done, uint64_t segments_total); /* may be null, as give_up */
    bool (*give_up)(void *context);
    void *context;
};

/*
 * The same while it is recorded into, read and healed (purge_live.h), and when not. Disks that go away meanwhile end it; none is taken in, and none
 * out by hand. The marks in the superblocks come first. Any thread, and for long: of a ring that is neither rebuilt nor closed meanwhile.
 */
int ring_purge_live(struct ring *ring, struct purge_range *range, uint32_t ranges, const struct ring_purge_options *options,
                    struct purge_report *report, struct failure *failure);

/* Whether a purge would be refused because of the disks: as ring_purge(). */
int ring_purge_check(struct ring *ring, bool give_up_away, struct failure *failure);

/* Numbers given so far: those of members that have left are among them, and stay theirs. */
uint32_t ring_disks(const struct ring *ring);
/* The i-th disk, the ring's, until it leaves; null: it has left, or is not in yet. Any thread; who uses it sees to it that it does not leave. */
struct disk *ring_disk(struct ring *ring, uint32_t i, struct identity *identity);

/* The pressure gauge (pressure.h) for a reading process; disks are numbered as ring_disk() does. Stays the ring's. -1: it need not heed it. */
int ring_pressure_fd(const struct ring *ring);

/* What layer 7 finds in what is recorded into the ring, as long as it is open: the ring's. Any thread. */
struct verdicts *ring_verdicts(const struct ring *ring);

/* Where its streams write down what layer 7 has found of which of their packets; null: nowhere. */
struct verdict_log *ring_verdict_log(const struct ring *ring);

/* Has that written. Any thread. */
void ring_flush_verdicts(struct ring *ring, bool always);
/* The generation of the i-th disk's superblock, as it was read or written last. Any thread. */
uint64_t ring_superblock_generation(const struct ring *ring, uint32_t i);
/* All of it; nobody changes the ring meanwhile. */

/*
 * A reading process comes to the gauge: its seat there, for its job, until it leaves. `reads`: whether it has asked a disk for anything of late. held_back_ns: what it
 * has waited since that was last said. Any thread.
 */
uint32_t ring_reader_comes(struct ring *ring);
void ring_reader_reads(struct ring *ring, uint32_t seat, bool reads, uint64_t held_back_ns);
void ring_reader_leaves(struct ring *ring, uint32_t seat);
const struct superblock *ring_superblock(const struct ring *ring, uint32_t i);

/*
 * Writes the superblock of a member anew to its four places, in generations above `generation`, the one that was found there; not beside one that the
 * ring is writing itself, but after it. ERR_NOT_FOUND: it has left; ERR_TIMEOUT: it does not answer; ERR_IO.
 */
int ring_superblock_repair(struct ring *ring, uint32_t number, uint64_t generation, struct failure *failure);
const struct ring_options *ring_options(const struct ring *ring);

struct ring_state {
    struct keeper_state keeper;
    struct pool_state pool;
    struct catalog_summary catalog;
    uint64_t logical_bytes;    /* stored, each packet once, as captured */
    uint64_t raw_bytes;        /* slots with copies that count */
    uint64_t total_bytes;      /* of all slots, raw */
    uint64_t used_bytes;       /* slots that hold something, raw */
    uint64_t damaged_reads;    /* frames that readers found damaged, judged as such */
    struct mender_state mender;
    uint32_t streams;
    uint32_t pressure_permille; /* of the high mark (pressure.h), of the disk that is furthest behind */
    uint32_t readers;           /* processes that have a seat at the gauge */
    uint64_t readers_held_back_ns; /* what they have waited for the recording, in all */
};

int ring_state(struct ring *ring, struct ring_state *state);

/* Calls `each` for every interface of every open stream. */
void ring_interfaces(struct ring *ring,
                     void (*each)(uint32_t stream, const struct stream_interface_state *state, void *context),
                     void *context);

#endif
