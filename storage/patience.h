/*
 * patience.h - reads from disks that may never answer, for whoever can do without one.
 *
 *     patience_read_new -> { patience_ask ... -> patience_go -> patience_end } ... -> patience_read_free
 *
 * There is no cancel: what has not been answered in time is the disk's until it is, request and memory. patience_end() takes such a read
 * away from its owner, and until it has been answered its disk counts as lost: whoever asks patience_lost() first asks it for nothing more.
 *
 * One thread.
 */
#ifndef STORAGE_PATIENCE_H
#define STORAGE_PATIENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "disk_io.h"

/* For an answer: where somebody else can be asked, and where nobody can. A disk under load is slow, and an answer too many a gap too few. */
#define PATIENCE_MS 5000
#define PATIENCE_ALONE_MS 60000

#define PATIENCE_STRETCHES_MAX 72u /* of one read */

struct sifter;
struct sifter_batch;

struct patience_read {
    struct disk_request request[PATIENCE_STRETCHES_MAX];
    struct disk *disk;
    uint8_t *memory;   /* page-aligned, the read's */
    bool lent;         /* it is not the read's to free */
    uint32_t asked;    /* stretches, of a read that has not ended */
    uint32_t gone;     /* of those, have been given to the disk */
    uint32_t answered; /* of those */
    uint64_t bytes;    /* that were asked for */
    atomic_uint open;  /* stretches that have not been answered: counted by the disk's thread */
    atomic_bool bad;   /* one of those that were could not be read */
    struct sifter *sifter;      /* who gets the frames in it as soon as all is there; null: nobody */
    struct sifter_batch *batch; /* those frames; until sifter_withdraw() */
    struct patience_read *next;
};

struct patience {
    struct patience_read *lost;
    uint32_t lost_reads;
};

/* `bytes` of memory, a multiple of PAGE_BYTES. Null: there is none. */
struct patience_read *patience_read_new(size_t bytes);

/* With memory that stays the caller's, and may be freed once all is answered that was asked: after patience_close(). */
struct patience_read *patience_read_lent(uint8_t *memory);

/* It has ended, or was never asked. */
void patience_read_free(struct patience_read **read);

/* To be read into `buffer`, which lies in the read's memory. Further stretches of the same disk may be added before patience_go(), PATIENCE_STRETCHES_MAX in all. */
void patience_ask(struct patience_read *read, struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer,
                  uint32_t bytes);

/* Asks the disk for all of them, at once: its thread is woken once. */
void patience_go(struct patience_read *read);

/*
 * Waits for all answers, as long as the disk has not been lost by another read; `others`: somebody else can be asked. 0, or the disk's result where it
 * could not read one of the stretches. ERR_TIMEOUT: there was no answer, and *read is null.
 */
int patience_end(struct patience *patience, struct patience_read **read, bool others);

/* Whether the disk owes an answer for too long. One that has given it is found again. */
bool patience_lost(struct patience *patience, const struct disk *disk);

/* Waits for all that is owed, however long that takes. */
void patience_close(struct patience *patience);

#endif
