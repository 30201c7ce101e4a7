/*
 * segment_index.h - the frame directory of a segment and the frames that close it: INDEX, FLOWS and the SEAL.
 *
 * Used by the stream that fills a segment and by recovery, which makes the index of a segment that a crash left open.
 */
#ifndef STORAGE_SEGMENT_INDEX_H
#define STORAGE_SEGMENT_INDEX_H

#include <stdint.h>

#include "account.h"
#include "frame.h"

struct segment_index {
    struct index_frame_entry *entry;
    uint32_t entries;
    uint32_t room;
    uint64_t packets;
    uint64_t captured_bytes;
    uint64_t first_packet; /* of the segment */
    uint64_t missing;
    uint64_t purged; /* of `packets` */
    int64_t head_ns;
    int64_t first_ns;
    int64_t last_ns;
    uint32_t data_end;
    uint32_t next_number;
};

/* Room for the frames of one slot of this size: never grows afterwards. ERR_NO_MEMORY. */
int segment_index_open(struct segment_index *index, uint64_t slot_bytes);
void segment_index_close(struct segment_index *index);
void segment_index_clear(struct segment_index *index, uint64_t first_packet);

/* Adds a data frame. The captured bytes are those of its packets, without record headers. */
void segment_index_add(struct segment_index *index, uint32_t offset, uint32_t frame_bytes, uint32_t number,
                       uint32_t packets, uint64_t first_packet, uint64_t captured_bytes, int64_t head_ns,
                       int64_t first_ns, int64_t last_ns);

/* Bytes at the end of the slot that INDEX frames and SEAL will take when there are `frames` data frames. */
uint32_t segment_index_room(uint32_t frames, const struct frame_table *table);

struct segment_seal {
    const struct frame_identity *identity; /* revision: of index and seal; data_revision: of the frames */
    const struct frame_table *table;
    const struct account *interface_account; /* one for each interface of the table */
    const struct account *account;           /* of the stream */
    uint64_t frontier;
    int64_t opened_ns;
    int64_t sealed_ns;
    enum seal_reason reason;
    uint64_t slot_bytes;
    uint8_t salt[32];
    const uint8_t *flows; /* the encoded key index, for the FLOWS frames */
    uint32_t flows_bytes; /* 0: there is none */
};

/* Bytes that a key index may have which is to lie between `data_end` and the rest of what closes the slot. */
uint32_t segment_index_flows_room(const struct segment_index *index, const struct frame_table *table,
                                  uint64_t slot_bytes);

/* Bytes of FLOWS frames that hold so many bytes of key index. */
uint32_t segment_index_flows_frames(uint32_t flows_bytes);

/* How many parts segment_index_part() will make. Each fits FRAME_BYTES_USUAL; the last one contains the SEAL, too. */
uint32_t segment_index_parts(const struct segment_index *index, const struct segment_seal *seal);

/*
 * Builds part `part` into `buffer` (FRAME_BYTES_USUAL): an INDEX frame or, in the parts after those, a FLOWS frame; behind the last one the SEAL.
 * *offset: where in the slot it goes; returns its length.
 */
uint32_t segment_index_part(const struct segment_index *index, const struct segment_seal *seal, uint32_t part,
                            uint8_t *buffer, uint32_t *offset);

/* Where the INDEX frames begin and how long they and the FLOWS frames are together. */
void segment_index_extent(const struct segment_index *index, const struct segment_seal *seal, uint32_t *offset,
                          uint32_t *bytes);

/* Reads a SEAL frame, checked before by frame_parse() and frame_check(). ERR_CORRUPT where its numbers do not fit the slot. */
int segment_seal_read(const uint8_t *frame, const struct frame_info *info, uint64_t slot_bytes, struct seal_body *body);

#endif
