/*
 * piece_pool.h - the memory that a reading process reads into, as one stretch.
 *
 *     piece_pool_open() -> [piece_pool_warm()] -> { piece_pool_take() ... piece_pool_restart() } ... -> piece_pool_close()
 *
 * For a small answer, the kernel's finding a page for each that was read into for the first time took a third of the disk's thread. So the stretch is
 * in huge pages, where the machine has them, and a process that waits for its job has some of it found beforehand.
 *
 * One thread.
 */
#ifndef STORAGE_PIECE_POOL_H
#define STORAGE_PIECE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#define PIECE_POOL_STEP_BYTES (2u << 20) /* a huge page */

struct piece_pool {
    uint8_t *memory;
    uint64_t bytes, used;
};

/* Nothing of it is used yet. Where there is no memory for that, the pool is empty, and whoever takes from it has to have another. */
void piece_pool_open(struct piece_pool *pool, uint64_t bytes);

/* Uses the first `bytes`, a step at a time, as long as nobody is waiting for us to end. */
void piece_pool_warm(struct piece_pool *pool, uint64_t bytes, bool (*is_awaited)(void *context), void *context);

/* A multiple of PAGE_BYTES, aligned to one; from the beginning on. Null: there is no more. */
uint8_t *piece_pool_take(struct piece_pool *pool, uint32_t bytes);

/* Nothing that was taken is in use any more, nor does a disk owe an answer into it: it begins anew. */
void piece_pool_restart(struct piece_pool *pool);

void piece_pool_close(struct piece_pool *pool);

#endif
