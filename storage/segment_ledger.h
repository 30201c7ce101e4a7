/*
 * segment_ledger.h - what the maker of a segment writes down while it is filled, and closes it with.
 *
 *     segment_ledger_open() -> { segment_ledger_begin() -> frames ... segment_ledger_seal() -> segment_ledger_write() } -> segment_ledger_close()
 *
 * One thread at a time: the capture thread's while the segment is filled; then the same thread's, or that of the indexer (indexer.h), until
 * INDEX, FLOWS and SEAL are with the keeper. Nothing blocks.
 */
#ifndef STORAGE_SEGMENT_LEDGER_H
#define STORAGE_SEGMENT_LEDGER_H

#include "flow_index.h"
#include "keeper.h"
#include "segment_index.h"

struct segment_ledger {
    struct segment *segment;   /* the keeper's; null: none is being filled or closed */
    struct segment_index index;
    struct frame_table *table;
    struct account *interface_account; /* one for each interface of the table, when it is sealed */
    struct account account;            /* of the stream, when it is sealed */
    struct segment_seal seal;
    uint32_t frames_sent;      /* to the keeper, of every kind */
    uint32_t part;             /* of what closes it: the next one */
    bool flush;                /* somebody waits for the seal */
    uint64_t window_ns;        /* when the seal has to be durable, from when it is written */
};

/* Room for one slot of this size: never grows afterwards. ERR_NO_MEMORY. */
int segment_ledger_open(struct segment_ledger *ledger, uint64_t slot_bytes);
void segment_ledger_close(struct segment_ledger *ledger);

/* Begins with a segment that the keeper has prepared. */
void segment_ledger_begin(struct segment_ledger *ledger, struct segment *segment, uint64_t first_packet);

/* All data frames are with the keeper: what the seal will say. The accounts are the caller's to copy into the ledger. */
void segment_ledger_seal(struct segment_ledger *ledger, const struct keeper_options *options, enum seal_reason reason,
                         uint64_t frontier);

/* Encodes the key index, which is the index's until it is cleared, with what layer 7 knows of its flows by now (`verdicts`, may be null); one that is
 * not whole is counted (`segments_coarse`). */
void segment_ledger_encode(struct segment_ledger *ledger, struct flow_index *flows, const struct verdicts *verdicts);

/*
 * Writes what closes the segment, as far as there are buffers. 0: the segment is out of our hands, sealed or ended; ERR_AGAIN: no buffer,
 * to be called again.
 */
int segment_ledger_write(struct segment_ledger *ledger, struct keeper *keeper, struct stream *stream);

/* Lets go of a segment that gets no seal: it ended, or nothing was ever put into it. */
void segment_ledger_leave(struct segment_ledger *ledger, struct keeper *keeper, struct stream *stream);

#endif
