/*
 * sifter.h - frames that have come from a disk are checked, and the packets in them that match are found, on a thread beside the reader's.
 *
 *     sifter_open() -> sifter_ask() -> { sifter_give() -> sifter_take() ... -> sifter_withdraw() } ... -> sifter_close()
 *
 * Checksums and a filter are most of what a large answer costs, and need nothing but the frame. The disk's thread gives a batch of frames when the
 * last byte of it is there; the reader takes one after the other, in its order, and does itself what nobody has begun, so it never waits where there
 * is something to do. Without a sifter everything is as before, on one thread: sifter_sift() is the same work.
 *
 * What a frame's header says of segment, place and number is the reader's to judge: it knows what must come.
 *
 *   frame      moved on by
 *   WAITS      sifter_take(), or the sifter's thread
 *   TAKEN      whoever has taken it
 *   DONE       sifter_withdraw(): the batch is the reader's alone again
 */
#ifndef STORAGE_SIFTER_H
#define STORAGE_SIFTER_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "packet.h"
#include "segment_blocks.h"

/* In a frame with more matches than this (of 64 bytes each, all packets of a usual one match) the reader asks the filter itself. */
#define SIFTED_MATCHES_MAX 4096u

/* A match: where its record begins in the frame, and which packet of the frame it is. */
#define SIFTED_AT(match) ((match) >> 14)
#define SIFTED_PACKET(match) ((match) & 0x3fffu)

enum sifter_state {
    SIFTER_WAITS = 0,
    SIFTER_TAKEN,
    SIFTER_DONE,
};

struct sifter_frame {
    /* Set by who gives it. */
    const uint8_t *bytes;
    uint32_t header_bytes;             /* that are there, from the beginning */
    uint32_t frame_bytes;              /* as long as it should be: at most FRAME_BYTES_USUAL */
    const struct segment_block *block; /* what the key index says of its blocks, of which only those that may match are there; null: all is there */
    bool sure;                         /* as in segment_blocks_stretches() */

    enum sifter_state state; /* of the sifter's lock, once it was given */

    /* Found out. */
    int parsed;  /* frame_parse()'s answer */
    bool passed; /* header and checksums are right, and records where the key index has them */
    bool sifted; /* `match` has all that match */
    struct frame_info info;
    struct segment_stretch stretch[STRETCHES_MAX];
    uint32_t stretches;
    bool ordered; /* and no packet that was looked at is earlier than one before it */
    uint32_t judged;
    uint32_t matches;
    uint32_t match[SIFTED_MATCHES_MAX];
};

/* Frames that come together. The fields are the sifter's, but for the first two. */
struct sifter_batch {
    struct sifter_frame *frame;
    uint32_t frames;
    uint32_t next_frame; /* those before it are taken */
    uint32_t working;    /* on it: the sifter's thread */
    bool queued;
    struct sifter_batch *next;
};

/* Which packets match. */
struct sifter_question {
    /* For packets of a link type; called on any thread, also on two at once. Null: the reader is to ask itself. */
    const void *(*program)(void *context, uint16_t link_type);
    bool (*match)(const void *program, const struct packet *packet, uint32_t rule);
    void *context;
};

/* Checks a frame, and finds what matches; `question` null: checks it. Any thread. */
void sifter_sift(const struct sifter_question *question, struct sifter_frame *frame);

struct sifter;

/* Starts the thread. Null: there is none to be had. */
struct sifter *sifter_open(void);

/* What to look for, before anything is given. Copied. */
void sifter_ask(struct sifter *sifter, const struct sifter_question *question);

/* All bytes of the batch's frames are there. Any thread; *batch stays where it is until sifter_withdraw(), and is null where that was quicker. */
void sifter_give(struct sifter *sifter, struct sifter_batch *const *batch);

/* Returns when frame `i` is done. The reader's thread. sifter may be null, and the batch need not have been given. */
void sifter_take(struct sifter *sifter, struct sifter_batch *batch, uint32_t i);

/* Nobody works on *batch any more, and nobody will: it is null then. The reader's thread; sifter may be null. */
void sifter_withdraw(struct sifter *sifter, struct sifter_batch **batch);

/* Nothing is given any more. Nulls; null is allowed. */
void sifter_close(struct sifter **sifter);

#endif
