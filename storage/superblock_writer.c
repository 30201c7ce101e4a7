#include "superblock_writer.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"

struct superblock_writer {
    struct disk *disk;
    struct superblock superblock;
    struct failure failure;
    int result;
    pthread_t thread;
    pthread_mutex_t lock; /* of `ended` */
    pthread_cond_t changed;
    bool ended;
};

static void *write_it(void *context)
{
    struct superblock_writer *writer = context;
    writer->result = superblock_write(writer->disk, &writer->superblock, &writer->failure);
    pthread_mutex_lock(&writer->lock);
    writer->ended = true;
    pthread_cond_signal(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

static void writer_free(struct superblock_writer **writer)
{
    pthread_cond_destroy(&(*writer)->changed);
    pthread_mutex_destroy(&(*writer)->lock);
    free(*writer);
    *writer = NULL;
}

int superblock_writer_begin(struct superblock_writer **result, struct disk *disk, const struct superblock *superblock)
{
    struct superblock_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return ERR_NO_MEMORY;
    writer->disk = disk;
    writer->superblock = *superblock;
    clock_condition_init(&writer->changed);
    pthread_mutex_init(&writer->lock, NULL);
    *result = writer;
    if (pthread_create(&writer->thread, NULL, write_it, writer) == 0)
        return 0;
    writer_free(result);
    return ERR_NO_MEMORY;
}

static bool wait_for(struct superblock_writer *writer, uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    int waited = 0;
    pthread_mutex_lock(&writer->lock);
    while (!writer->ended && waited == 0)
        waited = until_ns == UINT64_MAX ? pthread_cond_wait(&writer->changed, &writer->lock)
                                        : pthread_cond_timedwait(&writer->changed, &writer->lock, &until);
    bool ended = writer->ended;
    pthread_mutex_unlock(&writer->lock);
    return ended;
}

bool superblock_writer_end(struct superblock_writer **writer, uint64_t until_ns, struct superblock *superblock, int *result,
                           struct failure *failure)
{
    if (!wait_for(*writer, until_ns))
        return false;
    pthread_join((*writer)->thread, NULL);
    *superblock = (*writer)->superblock;
    *result = (*writer)->result;
    *failure = (*writer)->failure;
    writer_free(writer);
    return true;
}
