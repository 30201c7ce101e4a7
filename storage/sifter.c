/*
 * sifter.c - one lock for everything: it is taken a few times for each quarter of a MiB.
 */
#include "sifter.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define INTERFACES_MAX 16u /* of a frame's table; where there are more, the reader asks the filter */

_Static_assert(FRAME_BYTES_USUAL <= 1u << 18 && FRAME_BYTES_USUAL / sizeof(struct packet_record) <= 1u << 14, "a match has room");

struct sifter {
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows, and of the batches */
    pthread_cond_t given; /* there is something to take, or the end has come */
    pthread_cond_t done;  /* by the thread, while the reader waits */
    struct sifter_batch *head, **end; /* that have frames which nobody has taken */
    bool reader_waits;
    bool closing;
    bool asks;
    struct sifter_question question;
};

/* ---- one frame --------------------------------------------------------------------------------- */

/* All but the blocks of a frame that is there as a whole, and those too where it is not. */
static void check(struct sifter_frame *frame)
{
    const struct segment_frame_blocks blocks = {.block = frame->block, .frame_bytes = frame->frame_bytes};
    frame->stretches = frame->block ? segment_blocks_stretches(&blocks, frame->sure, frame->stretch) : 0;
    frame->parsed = frame_parse(frame->bytes, frame->header_bytes, &frame->info);
    frame->passed = frame->parsed == 0 && frame->info.frame_bytes == frame->frame_bytes;
    for (uint32_t i = 0; i < frame->stretches && frame->passed; i++) {
        const struct segment_stretch *stretch = &frame->stretch[i];
        uint32_t count = (stretch->end + BLOCK_BYTES - 1) / BLOCK_BYTES - stretch->block;
        frame->passed = frame_check_blocks(frame->bytes, &frame->info, stretch->block, count) == 0 &&
                        segment_stretch_fits(&blocks, stretch, frame->bytes, &frame->info);
    }
}

/* Blocks of a whole frame are checked one by one, each before anything in it is looked at, and looked at while the processor has it at hand. */
static inline bool reach(struct sifter_frame *frame, uint32_t *checked, uint32_t end)
{
    while (*checked * BLOCK_BYTES < end && frame->passed)
        frame->passed = frame_check_blocks(frame->bytes, &frame->info, (*checked)++, 1) == 0;
    return frame->passed;
}

static bool programs_of(const struct sifter_question *question, const struct sifter_frame *frame, const void *program[INTERFACES_MAX])
{
    struct interface_description description;
    uint16_t last = 0;
    if (frame->info.interfaces == 0 || frame->info.interfaces > INTERFACES_MAX)
        return false;
    for (uint32_t i = 0; i < frame->info.interfaces; i++) {
        if (frame_interface(frame->bytes, &frame->info, i, &description))
            return false;
        program[i] = i > 0 && description.link_type == last ? program[i - 1] : question->program(question->context, description.link_type);
        last = description.link_type;
        if (!program[i])
            return false;
    }
    return true;
}

/*
 * Goes through the packets; `checked`: blocks of a whole frame that have been. False: they are the reader's, for what it does about them is more than to hand out those that match: records that make no
 * sense, or go on behind what was read, or were purged.
 */
static bool find(const struct sifter_question *question, struct sifter_frame *frame, uint32_t *checked)
{
    const void *program[INTERFACES_MAX];
    struct frame_cursor cursor;
    struct frame_packet packet;
    int64_t last_ns = INT64_MIN;
    frame_cursor_start(&cursor, frame->bytes, &frame->info);
    if (frame->info.kind != FRAME_DATA || !programs_of(question, frame, program))
        return false;
    const uint32_t body_end = cursor.end;
    for (uint32_t i = 0; i < (frame->block ? frame->stretches : 1); i++) {
        uint32_t number = 0, wanted = UINT32_MAX;
        if (frame->block) {
            const struct segment_stretch *stretch = &frame->stretch[i];
            number = stretch->before;
            wanted = stretch->wanted;
            cursor.at = stretch->at;
            cursor.end = stretch->end < body_end ? stretch->end : body_end;
            cursor.left = stretch->packets;
        }
        for (int result; wanted > 0; number++) {
            uint32_t at = cursor.at;
            if (!reach(frame, checked, at + (uint32_t)sizeof(struct packet_record) < cursor.end ? at + (uint32_t)sizeof(struct packet_record) : cursor.end))
                return false;
            result = frame_cursor_next(&cursor, &packet);
            if (result == 0)
                break;
            if (result < 0 || packet.purged || !reach(frame, checked, cursor.at))
                return false;
            frame->ordered &= packet.packet.time_ns >= last_ns;
            last_ns = packet.packet.time_ns;
            frame->judged++;
            if (!question->match(program[packet.packet.interface], &packet.packet, packet.rule))
                continue;
            if (frame->matches == SIFTED_MATCHES_MAX)
                return false;
            frame->match[frame->matches++] = at << 14 | number;
            wanted -= frame->block != NULL;
        }
    }
    return true;
}

void sifter_sift(const struct sifter_question *question, struct sifter_frame *frame)
{
    frame->judged = frame->matches = 0;
    frame->ordered = true;
    check(frame);
    uint32_t checked = frame->block ? FRAME_BLOCKS_USUAL : 0;
    frame->sifted = frame->passed && question && find(question, frame, &checked);
    frame->sifted &= reach(frame, &checked, frame->frame_bytes);
}

/* ---- the queue --------------------------------------------------------------------------------- */

static void unlink_batch(struct sifter *sifter, struct sifter_batch *batch)
{
    struct sifter_batch **link = &sifter->head;
    while (*link != batch)
        link = &(*link)->next;
    *link = batch->next;
    if (sifter->end == &batch->next)
        sifter->end = link;
    batch->queued = false;
}

/* The first frame that nobody has taken; null: there is none. */
static struct sifter_frame *take_any(struct sifter *sifter, struct sifter_batch **batch)
{
    while (sifter->head) {
        struct sifter_batch *first = sifter->head;
        while (first->next_frame < first->frames && first->frame[first->next_frame].state != SIFTER_WAITS)
            first->next_frame++;
        if (first->next_frame < first->frames) {
            struct sifter_frame *frame = &first->frame[first->next_frame++];
            frame->state = SIFTER_TAKEN;
            *batch = first;
            return frame;
        }
        unlink_batch(sifter, first);
    }
    return NULL;
}

static void work(struct sifter *sifter, struct sifter_frame *frame)
{
    pthread_mutex_unlock(&sifter->lock);
    sifter_sift(sifter->asks ? &sifter->question : NULL, frame);
    pthread_mutex_lock(&sifter->lock);
    frame->state = SIFTER_DONE;
}

static void *serve(void *context)
{
    struct sifter *sifter = context;
    pthread_setname_np(pthread_self(), "tapeloop-sifter");
    pthread_mutex_lock(&sifter->lock);
    while (!sifter->closing) {
        struct sifter_batch *batch;
        struct sifter_frame *frame = take_any(sifter, &batch);
        if (!frame) {
            pthread_cond_wait(&sifter->given, &sifter->lock);
            continue;
        }
        batch->working++;
        work(sifter, frame);
        batch->working--;
        if (sifter->reader_waits)
            pthread_cond_signal(&sifter->done);
    }
    pthread_mutex_unlock(&sifter->lock);
    return NULL;
}

void sifter_give(struct sifter *sifter, struct sifter_batch *const *given)
{
    pthread_mutex_lock(&sifter->lock);
    struct sifter_batch *batch = *given;
    if (batch) {
        batch->next = NULL;
        batch->queued = true;
        *sifter->end = batch;
        sifter->end = &batch->next;
        pthread_cond_signal(&sifter->given);
    }
    pthread_mutex_unlock(&sifter->lock);
}

/* Until the thread has done something. */
static void await_work(struct sifter *sifter)
{
    sifter->reader_waits = true;
    pthread_cond_wait(&sifter->done, &sifter->lock);
    sifter->reader_waits = false;
}

void sifter_take(struct sifter *sifter, struct sifter_batch *batch, uint32_t i)
{
    struct sifter_frame *frame = &batch->frame[i], *other;
    struct sifter_batch *others;
    if (!sifter) {
        if (frame->state != SIFTER_DONE)
            sifter_sift(NULL, frame);
        frame->state = SIFTER_DONE;
        return;
    }
    pthread_mutex_lock(&sifter->lock);
    if (frame->state == SIFTER_WAITS) {
        frame->state = SIFTER_TAKEN;
        work(sifter, frame);
    }
    while (frame->state != SIFTER_DONE)
        if ((other = take_any(sifter, &others)))
            work(sifter, other);
        else
            await_work(sifter);
    pthread_mutex_unlock(&sifter->lock);
}

void sifter_withdraw(struct sifter *sifter, struct sifter_batch **given)
{
    if (!sifter || !*given) /* nobody but us makes it null */
        return;
    pthread_mutex_lock(&sifter->lock);
    struct sifter_batch *batch = *given;
    *given = NULL;
    if (batch->queued)
        unlink_batch(sifter, batch);
    while (batch->working > 0)
        await_work(sifter);
    pthread_mutex_unlock(&sifter->lock);
}

/* ---- open and close ---------------------------------------------------------------------------- */

struct sifter *sifter_open(void)
{
    struct sifter *sifter = calloc(1, sizeof *sifter);
    if (!sifter)
        return NULL;
    sifter->end = &sifter->head;
    pthread_mutex_init(&sifter->lock, NULL);
    pthread_cond_init(&sifter->given, NULL);
    pthread_cond_init(&sifter->done, NULL);
    if (pthread_create(&sifter->thread, NULL, serve, sifter) == 0)
        return sifter;
    pthread_cond_destroy(&sifter->done);
    pthread_cond_destroy(&sifter->given);
    pthread_mutex_destroy(&sifter->lock);
    free(sifter);
    return NULL;
}

void sifter_ask(struct sifter *sifter, const struct sifter_question *question)
{
    pthread_mutex_lock(&sifter->lock);
    sifter->question = *question;
    sifter->asks = true;
    pthread_mutex_unlock(&sifter->lock);
}

void sifter_close(struct sifter **out)
{
    struct sifter *sifter = *out;
    *out = NULL;
    if (!sifter)
        return;
    assert(!sifter->head);
    pthread_mutex_lock(&sifter->lock);
    sifter->closing = true;
    pthread_cond_signal(&sifter->given);
    pthread_mutex_unlock(&sifter->lock);
    pthread_join(sifter->thread, NULL);
    pthread_cond_destroy(&sifter->done);
    pthread_cond_destroy(&sifter->given);
    pthread_mutex_destroy(&sifter->lock);
    free(sifter);
}
