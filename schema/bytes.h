/*
 * bytes.h - integers as they lie on a disk: little endian, unaligned, a type of their own.
 *
 * An on-disk struct is built of le16, le32 and le64 only, so that no field can be read without a
 * conversion and so that its layout has no padding on any machine.
 */
#ifndef SCHEMA_BYTES_H
#define SCHEMA_BYTES_H

#include <stdint.h>
#include <string.h>

typedef struct { uint8_t byte[2]; } le16;
typedef struct { uint8_t byte[4]; } le32;
typedef struct { uint8_t byte[8]; } le64;

static inline uint16_t le16_get(le16 field)
{
    uint16_t value;
    memcpy(&value, field.byte, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? value : __builtin_bswap16(value);
}

static inline uint32_t le32_get(le32 field)
{
    uint32_t value;
    memcpy(&value, field.byte, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? value : __builtin_bswap32(value);
}

static inline uint64_t le64_get(le64 field)
{
    uint64_t value;
    memcpy(&value, field.byte, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? value : __builtin_bswap64(value);
}

static inline le16 le16_of(uint16_t value)
{
    le16 field;
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        value = __builtin_bswap16(value);
    memcpy(field.byte, &value, sizeof value);
    return field;
}

static inline le32 le32_of(uint32_t value)
{
    le32 field;
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        value = __builtin_bswap32(value);
    memcpy(field.byte, &value, sizeof value);
    return field;
}

static inline le64 le64_of(uint64_t value)
{
    le64 field;
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        value = __builtin_bswap64(value);
    memcpy(field.byte, &value, sizeof value);
    return field;
}

/* Rounds up to a multiple of `unit`, which is a power of two. */
static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t round_down(uint64_t value, uint64_t unit)
{
    return value & ~(unit - 1);
}

#endif
