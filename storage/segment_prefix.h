/*
 * segment_prefix.h - what can be believed of a segment without a seal: its frames, one after the
 * other, and what a seal of them would say.
 *
 * For recovery, which seals what a crash has left open, and the mender, which seals what a failed
 * write has ended.
 */
#ifndef STORAGE_SEGMENT_PREFIX_H
#define STORAGE_SEGMENT_PREFIX_H

#include "catalog.h"
#include "flow_frames.h"
#include "segment_index.h"

struct segment_prefix {
    struct segment_index index;
    flow_keys_of *keys_of;
    struct flow_index *flows; /* null: without a key index */
    struct frame_table *table;
    struct account account;
    struct account *interface_account;
    uint64_t frontier;
};

/* Room for one slot of this size. `keys_of`: what it is indexed by, null: it gets no key index. ERR_NO_MEMORY. */
int segment_prefix_open(struct segment_prefix *prefix, uint64_t slot_bytes, flow_keys_of *keys_of);
void segment_prefix_close(struct segment_prefix *prefix);

/* Adds a data frame that has been checked; packets between it and the one before count as missing.
 * ERR_CORRUPT: its records are not whole. */
int segment_prefix_add(struct segment_prefix *prefix, const uint8_t *frame,
                       const struct frame_info *info);

/* Begins anew, with a segment whose first packet has this number. */
void segment_prefix_clear(struct segment_prefix *prefix, uint64_t first_packet);

/* The catalog's row of a sealed segment, without its places: from the identity of its SEAL frame and
 * what segment_seal_read() found there. */
void segment_row_from_seal(const struct frame_identity *identity, const struct seal_body *body,
                           struct segment_row *row);

/*
 * Makes the OPEN page (PAGE_BYTES) of a copy of a sealed segment that is written anew at a place. `host`: the recorder's name, may be empty.
 * `healing`: the copy is worth nothing without its seal (FORMAT.md, section 4).
 */
void segment_copy_open(uint8_t *page, const struct segment_row *row, uint64_t slot_bytes, const struct segment_place *place,
                       const char *host, bool healing);

#endif
