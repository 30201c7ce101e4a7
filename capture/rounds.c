/* rounds.c - see rounds.h. */
#include "rounds.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "clock.h"

struct rounds {
    const char *name;
    int period_ms;
    void (*make)(void *context);
    void *context;
    pthread_t thread;
    pthread_mutex_t lock; /* the two below */
    pthread_cond_t wake;
    bool hurry;
    bool stop;
};

/* Until the next round is due. The lock is held. */
static void await_round(struct rounds *rounds)
{
    const struct timespec until = clock_monotonic_in_ms(rounds->period_ms);
    while (!rounds->stop && !rounds->hurry)
        if (pthread_cond_timedwait(&rounds->wake, &rounds->lock, &until) != 0)
            break;
    rounds->hurry = false;
}

static void *rounds_thread(void *context)
{
    struct rounds *rounds = context;
    pthread_setname_np(pthread_self(), rounds->name);
    pthread_mutex_lock(&rounds->lock);
    for (;;) {
        await_round(rounds);
        if (rounds->stop)
            break;
        pthread_mutex_unlock(&rounds->lock);
        rounds->make(rounds->context);
        pthread_mutex_lock(&rounds->lock);
    }
    pthread_mutex_unlock(&rounds->lock);
    return NULL;
}

static void rounds_free(struct rounds *rounds)
{
    pthread_cond_destroy(&rounds->wake);
    pthread_mutex_destroy(&rounds->lock);
    free(rounds);
}

int rounds_open(const char *name, int period_ms, void (*make)(void *context), void *context, struct rounds **result,
                struct failure *failure)
{
    struct rounds *rounds = calloc(1, sizeof *rounds);
    if (!rounds)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    rounds->name = name;
    rounds->period_ms = period_ms;
    rounds->make = make;
    rounds->context = context;
    pthread_mutex_init(&rounds->lock, NULL);
    clock_condition_init(&rounds->wake);
    int error = pthread_create(&rounds->thread, NULL, rounds_thread, rounds);
    if (error != 0) {
        rounds_free(rounds);
        return fail_errno(failure, error, "no thread left");
    }
    *result = rounds;
    return 0;
}

void rounds_hurry(struct rounds *rounds)
{
    pthread_mutex_lock(&rounds->lock);
    rounds->hurry = true;
    pthread_cond_signal(&rounds->wake);
    pthread_mutex_unlock(&rounds->lock);
}

void rounds_close(struct rounds **slot)
{
    struct rounds *rounds = *slot;
    if (!rounds)
        return;
    pthread_mutex_lock(&rounds->lock);
    rounds->stop = true;
    pthread_cond_signal(&rounds->wake);
    pthread_mutex_unlock(&rounds->lock);
    pthread_join(rounds->thread, NULL);
    rounds_free(rounds);
    *slot = NULL;
}
