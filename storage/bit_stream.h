/*
 * bit_stream.h - numbers of any width, packed without gaps, for the index.
 *
 * The first number lies in the lowest bits of the first byte. Three codes:
 *   bits     a number of a known width, 0 to 56 written, 0 to 32 read
 *   rice     quotient by 2^k as so many zeros and a one, then k bits: for gaps that are alike
 *   golomb   exponential Golomb code of order k: v + 2^k has n bits above k; n zeros, a one, n bits,
 *            k bits: for gaps that may be anything, at most 2 * 49 + 1 bits
 * Writers and readers never leave their buffer: what does not fit sets `failed`. A writer's buffer has eight bytes
 * more than it will need.
 */
#ifndef STORAGE_BIT_STREAM_H
#define STORAGE_BIT_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"

#define BITS_PUT_MAX 56u /* in one go: with what is pending, less than 64 */

struct bit_writer {
    uint8_t *at;
    uint8_t *end;
    uint64_t pending;
    uint32_t bits; /* in `pending`, below 8 between calls */
    bool failed;
};

static inline void bits_begin(struct bit_writer *writer, uint8_t *at, uint8_t *end)
{
    *writer = (struct bit_writer){.at = at, .end = end};
}

/* Writes eight bytes at a time, of which those that are not whole yet are written again: no branch depends on widths. */
static inline void bits_put(struct bit_writer *writer, uint64_t value, uint32_t width)
{
    writer->pending |= value << writer->bits;
    writer->bits += width;
    if ((size_t)(writer->end - writer->at) < sizeof(le64)) {
        writer->failed = true;
    } else {
        le64 word = le64_of(writer->pending);
        memcpy(writer->at, &word, sizeof word);
        writer->at += writer->bits >> 3;
    }
    writer->pending >>= writer->bits & ~7u;
    writer->bits &= 7;
}

static inline void bits_put_zeros(struct bit_writer *writer, uint32_t count)
{
    for (; count > 32; count -= 32)
        bits_put(writer, 0, 32);
    bits_put(writer, 0, count);
}

static inline void bits_put_rice(struct bit_writer *writer, uint32_t value, uint32_t k)
{
    uint32_t quotient = value >> k, rest = value & ((1u << k) - 1);
    if (quotient + 1 + k <= BITS_PUT_MAX) {
        bits_put(writer, (uint64_t)(1 | rest << 1) << quotient, quotient + 1 + k);
        return;
    }
    bits_put_zeros(writer, quotient);
    bits_put(writer, 1 | (uint64_t)rest << 1, 1 + k);
}

static inline uint32_t golomb_bits(uint64_t value, uint32_t k)
{
    return 2 * (uint32_t)(63 - __builtin_clzll((value >> k) + 1)) + 1 + k;
}

/* value below 2^48, k at most 31 */
static inline void bits_put_golomb(struct bit_writer *writer, uint64_t value, uint32_t k)
{
    uint64_t above = (value >> k) + 1, low = value & ((UINT64_C(1) << k) - 1);
    uint32_t n = (uint32_t)(63 - __builtin_clzll(above));
    above = (above - (UINT64_C(1) << n)) << 1 | 1; /* the one, then the bits behind it */
    if (2 * n + 1 + k <= BITS_PUT_MAX) {
        bits_put(writer, (above | low << (n + 1)) << n, 2 * n + 1 + k);
        return;
    }
    bits_put_zeros(writer, n);
    bits_put(writer, above, n + 1);
    bits_put(writer, low, k);
}

/* Ends at a byte; returns where. */
static inline uint8_t *bits_end(struct bit_writer *writer)
{
    for (; writer->bits > 0 && !writer->failed; writer->pending >>= 8) {
        if (writer->at == writer->end)
            writer->failed = true;
        else
            *writer->at++ = (uint8_t)writer->pending;
        writer->bits -= writer->bits < 8 ? writer->bits : 8;
    }
    return writer->at;
}

struct bit_reader {
    const uint8_t *bytes;
    uint64_t at;  /* in bits */
    uint64_t end; /* in bits */
    bool failed;
};

static inline void bits_open(struct bit_reader *reader, const uint8_t *bytes, uint32_t count)
{
    *reader = (struct bit_reader){.bytes = bytes, .end = (uint64_t)count * 8};
}

/* At least 57 bits from the reader's place on; zeros beyond the end. */
static inline uint64_t bits_peek(const struct bit_reader *reader)
{
    uint64_t byte = reader->at >> 3, left = (reader->end >> 3) - byte;
    le64 word = {{0}};
    if (left >= sizeof word)
        memcpy(&word, reader->bytes + byte, sizeof word);
    else if (left > 0)
        memcpy(&word, reader->bytes + byte, left);
    return le64_get(word) >> (reader->at & 7);
}

static inline uint32_t bits_get(struct bit_reader *reader, uint32_t width)
{
    if (reader->end - reader->at < width) {
        reader->failed = true;
        reader->at = reader->end;
        return 0;
    }
    uint64_t word = bits_peek(reader);
    reader->at += width;
    return (uint32_t)(word & ((UINT64_C(1) << width) - 1));
}

/* Zeros up to the next one, which is passed over; fails beyond `most`. */
static inline uint32_t bits_get_zeros(struct bit_reader *reader, uint32_t most)
{
    uint32_t zeros = 0;
    for (;;) {
        uint64_t word = bits_peek(reader) & ((UINT64_C(1) << 56) - 1);
        if (word != 0) {
            uint32_t more = (uint32_t)__builtin_ctzll(word);
            zeros += more;
            reader->at += more + 1;
            break;
        }
        if (reader->end - reader->at <= 56 || zeros > most) {
            reader->failed = true;
            reader->at = reader->end;
            return 0;
        }
        reader->at += 56;
        zeros += 56;
    }
    if (zeros > most) {
        reader->failed = true;
        return 0;
    }
    return zeros;
}

static inline uint32_t bits_get_rice(struct bit_reader *reader, uint32_t k, uint32_t most)
{
    uint64_t word = bits_peek(reader);
    uint32_t zeros = word != 0 ? (uint32_t)__builtin_ctzll(word) : 64, width = zeros + 1 + k;
    if (zeros <= 24 && k <= 31 && zeros <= most >> k && width <= reader->end - reader->at) {
        reader->at += width;
        return zeros << k | (uint32_t)(word >> (zeros + 1) & ((UINT64_C(1) << k) - 1));
    }
    uint32_t quotient = bits_get_zeros(reader, most >> k);
    return quotient << k | bits_get(reader, k);
}

/* Any number; apart, so that the compiler has the loops hold only what nearly every number needs. */
static __attribute__((noinline, unused)) uint64_t bits_get_golomb_long(struct bit_reader *reader, uint32_t k)
{
    if (k > 48) {
        reader->failed = true;
        return 0;
    }
    uint32_t n = bits_get_zeros(reader, 48);
    uint64_t above = bits_get(reader, n < 32 ? n : 32);
    if (n > 32)
        above |= (uint64_t)bits_get(reader, n - 32) << 32;
    above += (UINT64_C(1) << n) - 1;
    if (above >> (48 - k) != 0) {
        reader->failed = true;
        return 0;
    }
    return above << k | bits_get(reader, k);
}

/* k is read from the same bytes, and may be anything. */
static inline uint64_t bits_get_golomb(struct bit_reader *reader, uint32_t k)
{
    uint64_t word = bits_peek(reader); /* nearly every number lies in what one look shows */
    uint32_t n = word != 0 ? (uint32_t)__builtin_ctzll(word) : 64, width = 2 * n + 1 + k;
    if (n > 12 || k > 31 || width > reader->end - reader->at)
        return bits_get_golomb_long(reader, k);
    reader->at += width;
    word >>= n + 1;
    return ((word & ((UINT64_C(1) << n) - 1)) + (UINT64_C(1) << n) - 1) << k | (word >> n & ((UINT64_C(1) << k) - 1));
}

/* The width that numbers below `count` need. */
static inline uint32_t bits_width(uint32_t count)
{
    return count <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(count - 1);
}

#endif
