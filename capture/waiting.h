/*
 * waiting.h - what sources that block have in common: a time to be back by, and being woken before
 * it.
 */
#ifndef CAPTURE_WAITING_H
#define CAPTURE_WAITING_H

#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static inline int64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until when a call may last. */
struct deadline {
    int timeout_ms; /* as poll(2) takes it: -1 for ever, 0 not at all */
    int64_t at_ms;
};

static inline struct deadline deadline_of(int timeout_ms)
{
    return (struct deadline){timeout_ms, timeout_ms > 0 ? monotonic_ms() + timeout_ms : 0};
}

/* What is left of it, again as poll(2) takes it. */
static inline int deadline_left_ms(const struct deadline *deadline)
{
    if (deadline->timeout_ms <= 0)
        return deadline->timeout_ms;
    int64_t left_ms = deadline->at_ms - monotonic_ms();
    return left_ms > 0 ? (int)left_ms : 0;
}

/* The descriptor that source_wake() writes to; -1 with errno. */
static inline int wake_open(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* Takes all wakes that are pending. */
static inline void wake_drain(int fd)
{
    uint64_t wakes;
    ssize_t drained = read(fd, &wakes, sizeof wakes);
    (void)drained; /* none pending: nothing to take */
}

#endif
