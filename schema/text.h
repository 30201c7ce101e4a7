/*
 * text.h - times, sizes and durations as people write them, in and out.
 */
#ifndef SCHEMA_TEXT_H
#define SCHEMA_TEXT_H

#include <stdint.h>
#include <stddef.h>

#include "errors.h"

/*
 * A point in time: RFC 3339 ("2026-11-21T14:05:00Z", "...T14:05:00.123456789+01:00", a space for the T; without a
 * zone: local time), seconds since the epoch with up to nine decimals ("1700000000.5", may be negative), "now", or
 * relative to now_ns ("-90s", "-1h", "-2d", "-5m", "-250ms", "+10s"). Dates that do not exist are refused.
 * Result in nanoseconds since the epoch. ERR_INVALID with a sentence that says what was expected.
 */
int text_parse_time(const char *text, int64_t now_ns, int64_t *time_ns, struct failure *failure);

/* RFC 3339 in UTC with nine decimals: "2026-11-21T14:05:00.000000000Z". Returns `text`. */
#define TEXT_TIME_SIZE 40
const char *text_time(int64_t time_ns, char text[TEXT_TIME_SIZE]);

/*
 * A size in bytes: digits with an optional fraction and K, M, G, T or P, always powers of 1024, optionally followed by
 * "iB" or "B"; case does not matter. What a fraction leaves of a byte is cut. ERR_INVALID; ERR_TOO_LARGE above 2^62.
 */
int text_parse_size(const char *text, uint64_t *bytes, struct failure *failure);

/* "1.0 GiB", "4.0 KiB", "17 B": three significant digits or fewer decimals. Returns `text`. */
#define TEXT_SIZE_SIZE 16
const char *text_size(uint64_t bytes, char text[TEXT_SIZE_SIZE]);

/* A duration: number and unit ms, s, m, h or d. Nanoseconds. */
int text_parse_duration(const char *text, int64_t *duration_ns, struct failure *failure);

/*
 * The number that `text` begins with: digits, without a sign or blanks in front, at most `most`. `base` is 10, 16, or 0: as C has it, hexadecimal
 * behind 0x, octal behind 0. Returns what stands behind it, which may be more text; null: there is no such number, *number stays.
 */
const char *text_number(const char *text, int base, uint32_t most, uint32_t *number);

/* A name of a ring: 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', not beginning with '-' or '.'. */
int text_check_ring_name(const char *text, struct failure *failure);

/* Copies `text` with every byte that is not printable ASCII as \xNN, always terminated; for showing foreign bytes. */
void text_printable(const char *text, char *out, size_t out_size);

#endif
