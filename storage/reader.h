/*
 * reader.h - the packets of a time range from any number of segments, merged by time.
 *
 *     reader_open() -> reader_add() ... -> { reader_next() ... } -> reader_finish() ->
 * reader_close()
 *
 * Order: each stream's packets in order of arrival, even where their times run backwards; of all
 * streams, the one whose next packet has the smallest time goes first; ties go to the lower
 * position, then to the stream that was added first. The same segments give the same order,
 * whatever the memory.
 *
 * Of each stream, packet numbers that were handed out are never handed out again (a frame that a
 * failing disk made the recorder write twice is the usual case), and numbers that do not come are a
 * gap, which is told with the reason that is known. What comes out was checked (promise P3).
 *
 * A stream is opened when its turn comes, so that a thousand imported files cost no more memory
 * than those that overlap. Memory is bounded by memory_max plus two usual frames, plus one frame
 * where it is longer than usual.
 *
 * Threads: one; the callbacks are called on it.
 */
#ifndef STORAGE_READER_H
#define STORAGE_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_io.h"
#include "errors.h"
#include "packet.h"
#include "worker.h"

struct reader_options {
    struct disk *const *disk; /* with their geometry; stay the caller's */
    uint32_t disks;
    struct identity ring;
    int64_t from_ns; /* inclusive; INT64_MIN: no bound */
    int64_t to_ns;   /* exclusive; INT64_MAX: no bound */
    bool follow; /* more segments may come: an open one is not left while its end may still be added
                  */
    uint64_t memory_max; /* bytes */
    struct piece_pool *pool; /* as in struct segment_readers */
    struct sifter *sifter; /* it has been asked what the filter asks, or nothing; stays the caller's. Null: there is none */
    /* The filter's tree, which stays the caller's: packets of which it says that they cannot match may be left out. Null: none are */
    const struct narrowing *narrowing;
    /* Which `app` words of the filter hold for what was recorded of a conversation, and what its hashes are made with: then packets come with what is
     * known of theirs. Null: it is not wanted. */
    uint32_t (*truth_of)(void *context, const char *verdict);
    uint64_t verdict_seed;
    /* A stretch did not pass: returns an enum worker_judgement, or a negative code, with which
     * reader_next() then ends. */
    int (*judge)(void *context, const struct worker_bad *bad);
    /* A gap in the result, before the packet that follows it. */
    void (*gap)(void *context, const struct worker_gap *gap);
    /* Called for every frame at least; a negative code ends reader_next(). May be null. */
    int (*tick)(void *context);
    /* As in struct segment_readers. Each may be null. */
    bool (*may_read)(void *context, uint32_t disk, uint32_t ahead, bool wait);
    bool (*is_gone)(void *context, uint64_t position);
    void *context;
};

struct reader;

int reader_open(const struct reader_options *options, struct reader **out);

/*
 * Adds segments, in any order, or replaces what is known of them (open ones grow and are sealed).
 * One without places is known to exist, but cannot be read. ERR_INVALID: a place, offset or length
 * that no disk of the job has; nothing was added.
 */
int reader_add(struct reader *reader, const struct worker_segment *segments, uint32_t count);

struct reader_packet {
    const struct packet *packet; /* until the next call; its `interface` is not to be used */
    uint32_t interface;          /* for reader_interface(), never changes */
    uint32_t rule;               /* id of the rule that kept it; 0: none */
    struct identity run;         /* these three name it in the whole ring, wherever copies of it lie */
    uint32_t stream;
    uint64_t number;
    const struct segment_verdicts *verdicts; /* where options.truth_of is set: of its segment; until the next call. Null: nothing was recorded of it */
    bool matches;  /* the sifter has asked the filter: what comes is what matches */
    bool unsealed; /* its segment was still being filled when it was read: there are none yet */
};

/* 1: a packet; 0: everything known has been handed out; negative: the job is over. */
int reader_next(struct reader *reader, struct reader_packet *out);

/*
 * The packet that reader_next() handed out last has passed the filter of options.narrowing. Who says so spares reading: where all is found that the
 * key index knows of, the end of a packet that is cut off by what was read is not fetched. Who does not say it loses nothing else.
 */
void reader_matched(struct reader *reader);

/*
 * Whether a stream waits, in a follow job, for the end of a segment of which the next one is known
 * already; and to wait no longer, up to the next time that reader_next() returns 0: what has not
 * come is lost.
 */
bool reader_waits(const struct reader *reader);
void reader_hurry(struct reader *reader);

/*
 * What can only be told at the end: numbers missing at the ends of streams (only if `complete`: the
 * caller did not stop early) and packets that were dropped within the range, through options.gap.
 */
void reader_finish(struct reader *reader, bool complete);

uint32_t reader_interfaces(const struct reader *reader);
const struct interface_description *reader_interface(const struct reader *reader,
                                                     uint32_t interface);

#define READER_UNKNOWN UINT64_MAX

/*
 * Packets that an interface saw and dropped in the range, from the accounts in the frames that
 * overlap it. A frame's account is its stream's: where a stream has several interfaces, what each
 * of them saw is READER_UNKNOWN, and what it dropped is known only when none dropped anything.
 */
void reader_account(const struct reader *reader, uint32_t interface, uint64_t *seen,
                    uint64_t *drops);

struct reader_counters {
    uint64_t segments_total;
    uint64_t segments_done;
    uint64_t bytes_read;
    uint64_t frames_checked;
    uint64_t frames_bad;
    uint64_t segments_by_runs;  /* that were passed by, or of which only an account was read, because nothing in them can match */
    uint64_t segments_narrowed; /* by their key indexes */
    uint64_t segments_excluded; /* of those: nothing in them can match */
    uint64_t purged;            /* packets of the range that were erased */
    uint64_t index_bytes;   /* of bytes_read: where frames lie, and key indexes */
    uint64_t blocks_wanted; /* of 16 KiB, in segments with a key index: those that may hold a match */
    uint64_t blocks_read;   /* of data frames */
    uint64_t indexes_bad;       /* key indexes that could not be used */
    uint64_t sifted;            /* packets about which the sifter has asked the filter, matches or not, */
    int64_t sifted_ns;          /* and the time that it has come to; 0 of them: none */
};

void reader_counters(const struct reader *reader, struct reader_counters *counters);

/* Waits for reads under way. Nulls. */
void reader_close(struct reader **out);

#endif
