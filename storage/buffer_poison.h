/*
 * buffer_poison.h - makes the address sanitizer see what it cannot: the kernel writing into a buffer.
 *
 * A read buffer belongs to the disk from submit to done(). Under the address sanitizer it is poisoned
 * for that time, so that whoever looks into it (or frees it) too early is told. A write buffer is not:
 * several disks and the submitter may read it at once. Without the sanitizer these are nothing.
 */
#ifndef STORAGE_BUFFER_POISON_H
#define STORAGE_BUFFER_POISON_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define BUFFER_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUFFER_POISON 1
#endif
#endif

#ifdef BUFFER_POISON
#include <sanitizer/asan_interface.h>
#endif

static inline void buffer_poison(const void *buffer, size_t bytes)
{
#ifdef BUFFER_POISON
    ASAN_POISON_MEMORY_REGION(buffer, bytes);
#else
    (void)buffer;
    (void)bytes;
#endif
}

static inline void buffer_unpoison(const void *buffer, size_t bytes)
{
#ifdef BUFFER_POISON
    ASAN_UNPOISON_MEMORY_REGION(buffer, bytes);
#else
    (void)buffer;
    (void)bytes;
#endif
}

#endif
