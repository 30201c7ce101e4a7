/*
 * fuzz.h - the entry that libFuzzer, or replay_main.c in its place, calls in every harness.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Digests one input; crashes or trips a sanitizer where something is wrong. Always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

#endif
