/*
 * verdict_log.h - what layer 7 has found, and of which packets, kept beyond the segment that was being filled when it was found.
 *
 *     ring:    verdict_log_open() -> { verdict_log_flush(): now and then, and before somebody reads } -> verdict_log_close()
 *     stream:  verdict_log_stream() -> { verdict_stream_put() ... verdict_stream_upto() } -> verdict_log_leave()
 *     files:   verdict_log_each(), verdict_log_tidy(), verdict_log_forget()
 *
 * A sealed segment never changes, and layer 7 often makes up its mind when a conversation's first packets lie in one. A segment that a crash has left
 * open is sealed by who knows of no verdict. So each verdict is written down here, too: of which conversation, from which packet number of its stream on.
 * It holds until the conversation begins anew, which is written down as well, in a run of the recorder. Read by verdict_past.h, and by nothing but that.
 *
 * It is derived and can be deleted at any time: what nothing else knows of is undecided then. It lies in STATE/verdicts, in *pieces*, named
 * RING-PIECE-POSITION.verdicts: the ring's identity, the piece's number, and the newest position that the ring had when it was begun, in hexadecimal. A
 * piece goes when the next one was begun before the oldest segment of the ring, and the oldest of them when there are more than VERDICT_PIECES_MAX.
 *
 * A piece is a row of chunks, little endian:
 *
 *     off  size
 *       0     8  "TLVERDCT"
 *       8     4  CRC-32C of bytes 12 to 112
 *      12     4  CRC-32C of what follows the head
 *      16    16  ring
 *      32    16  run
 *      48     8  seed that hashes are made with (verdicts_hash())
 *      56     8  sequence: chunks of one stream of a run count up from 0
 *      64     8  upto: all that was found of packets below this number is in this chunk and those before it
 *      72     8  the least number in it, or all ones: there are no records
 *      80     4  bytes of the chunk, head included, a multiple of 8
 *      84     4  stream
 *      88     4  records
 *      92     4  names
 *      96     4  bytes of the names
 *     100    12  zero
 *     112        names, each with a zero behind it, zeros up to a multiple of 8; records of 16 bytes, in the order in which they came: the hash; the
 *                number, shifted by 16, and below it which name, from 1, or 0: here the conversation begins anew, and is not judged
 *
 * Where a sequence number is missing (a chunk is damaged, could not be written, its piece is gone, or there was no room for what a stream had to
 * say) nothing that was said before holds for packets from the last `upto` before the gap on: what was lost may have said that a conversation had begun anew.
 * What a crash has left half-written ends its piece, and is cut off when the log is opened.
 *
 * Threads: one uses a stream, with no lock and no system call; everything else any thread.
 */
#ifndef STORAGE_VERDICT_LOG_H
#define STORAGE_VERDICT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "errors.h"
#include "identity.h"
#include "verdicts.h"

#define VERDICT_PIECES_MAX 16u
#define VERDICT_CHUNK_RECORDS_MAX 4096u
#define VERDICT_CHUNK_NAMES_MAX 512u
#define VERDICT_CHUNK_BYTES_MAX (VERDICT_CHUNK_RECORDS_MAX * 16 + VERDICT_CHUNK_NAMES_MAX * VERDICT_TEXT_BYTES + 112)
#define VERDICT_NUMBER_MAX (UINT64_C(1) << 48) /* beyond it nothing is written down */
#define VERDICT_CHUNK_MAGIC "TLVERDCT"

struct verdict_chunk_head {
    uint8_t magic[8];
    le32 head_crc;
    le32 body_crc;
    struct identity ring;
    struct identity run;
    le64 seed;
    le64 sequence;
    le64 upto;
    le64 first;
    le32 bytes;
    le32 stream;
    le32 records;
    le32 names;
    le32 names_bytes;
    le32 reserved[3];
};
_Static_assert(sizeof(struct verdict_chunk_head) == 112, "on disk");

struct verdict_record {
    le64 hash;
    le64 number_name;
};
_Static_assert(sizeof(struct verdict_record) == 16, "on disk");

/*
 * Whether this is the head of a chunk of this ring that can be in a file which goes on for `room` bytes from it on. The body has its own checksum.
 */
bool verdict_chunk_fits(const struct verdict_chunk_head *head, const struct identity *ring, uint64_t room);

struct verdict_log;
struct verdict_stream;

struct verdict_log_options {
    int directory;            /* the caller's, open as long as the log */
    struct identity ring;
    struct identity run;
    const struct verdicts *verdicts; /* names, and the seed of hashes; open as long as the log */
    uint64_t bytes_max;       /* of all pieces of the ring, about */
};

/* Goes on with the last piece. ERR_NO_MEMORY; what cannot be written is counted, never an error. */
int verdict_log_open(const struct verdict_log_options *options, struct verdict_log **log);

/* All streams have left. Flushes. Null is allowed. */
void verdict_log_close(struct verdict_log **log);

/* For one stream of the run. ERR_NO_MEMORY. */
int verdict_log_stream(struct verdict_log *log, uint32_t number, struct verdict_stream **stream);

/* Writes what it has said, and closes it. Null is allowed. */
void verdict_log_leave(struct verdict_log *log, struct verdict_stream **stream);

/*
 * From packet `number` on the conversation is these protocols (null: it begins anew, and is not judged). Where there is no room for it this, and all
 * until the next flush, is lost, and that is said.
 */
void verdict_stream_put(struct verdict_stream *stream, uint64_t hash, uint64_t number, const uint16_t app[2]);

/* All that is known of packets with numbers below this has been put. */
void verdict_stream_upto(struct verdict_stream *stream, uint64_t number);

/*
 * Writes what streams have put. `oldest`, `newest`: positions of the ring (ring_positions()); with `always` also how far they are, where there is nothing
 * else to say.
 */
void verdict_log_flush(struct verdict_log *log, uint64_t oldest, uint64_t newest, bool always);

struct verdict_log_counters {
    uint64_t records; /* written */
    uint64_t bytes;
    uint64_t lost;    /* that found no room, or could not be written */
};

void verdict_log_counters(struct verdict_log *log, struct verdict_log_counters *counters);

/* Deletes all that is written of the ring: it tells of what must be nowhere any more. */
void verdict_log_forget(struct verdict_log *log);

/* ---- the files, also of a ring that is not open ---------------------------------------------------------------------------------- */

/* Calls `each` with every piece of the ring, the oldest first, opened for reading; the descriptor is closed afterwards. A value other than 0 ends that, and is returned. */
int verdict_log_each(int directory, const struct identity *ring, int (*each)(int fd, void *context), void *context);

/* Deletes the pieces of rings that `known` does not know. */
void verdict_log_tidy(int directory, bool (*known)(const struct identity *ring, void *context), void *context);

#endif
