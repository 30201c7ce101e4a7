/*
 * capture_maker.h - makes capture files in memory, byte by byte, right or wrong, for tests.
 *
 * A maker holds the bytes made so far and the byte order of what comes next. Its memory is freed by
 * maker_free().
 */
#ifndef TESTS_CAPTURE_MAKER_H
#define TESTS_CAPTURE_MAKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct maker {
    uint8_t *bytes;
    size_t count;
    size_t room;
    bool big; /* byte order */
};

void maker_free(struct maker *maker);

void make_bytes(struct maker *maker, const void *bytes, size_t count);
void make_fill(struct maker *maker, uint8_t byte, size_t count);
void make16(struct maker *maker, uint16_t value);
void make32(struct maker *maker, uint32_t value);
void make64(struct maker *maker, uint64_t value);

/* Puts `value` over four bytes made earlier. */
void make_over32(struct maker *maker, size_t at, uint32_t value);

/* ---- classic pcap --------------------------------------------------------------------------- */

#define MAKE_MICROSECONDS 0xa1b2c3d4u
#define MAKE_NANOSECONDS 0xa1b23c4du

void make_pcap_header(struct maker *maker, uint32_t magic, uint32_t snapshot_length,
                      uint32_t network);
/* A record whose bytes are `first`, `first` + 1, ... */
void make_pcap_record(struct maker *maker, uint32_t seconds, uint32_t fraction, uint32_t captured,
                      uint32_t original, uint8_t first);

/* ---- pcapng --------------------------------------------------------------------------------- */

enum make_block {
    MAKE_INTERFACE = 1,
    MAKE_OBSOLETE = 2,
    MAKE_SIMPLE = 3,
    MAKE_ENHANCED = 6,
    MAKE_SECTION = 0x0a0d0d0a,
};

/* A block is begun, filled with make...(), and ended, which pads it and sets both lengths. Returns
 * where it begins. */
size_t make_begin(struct maker *maker, uint32_t type);
void make_end(struct maker *maker, size_t begun);

void make_option(struct maker *maker, uint16_t code, const void *value, uint16_t count);

void make_section(struct maker *maker);
/* With the option if_tsresol where `resolution` is not 6, and if_name where `name` is not null. */
void make_interface(struct maker *maker, uint16_t link_type, uint32_t snapshot_length,
                    uint8_t resolution, const char *name);
/* Bytes are `first`, `first` + 1, ... */
void make_enhanced(struct maker *maker, uint32_t interface, uint64_t reading, uint32_t captured,
                   uint32_t original, uint8_t first);

#endif
