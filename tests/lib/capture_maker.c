/*
 * capture_maker.c - capture files of any kind, made in memory.
 */
#include "capture_maker.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void maker_free(struct maker *maker)
{
    free(maker->bytes);
    *maker = (struct maker){0};
}

void make_bytes(struct maker *maker, const void *bytes, size_t count)
{
    if (maker->count + count > maker->room) {
        maker->room = (maker->count + count) * 2;
        maker->bytes = realloc(maker->bytes, maker->room);
        assert(maker->bytes != NULL);
    }
    if (count > 0)
        memcpy(maker->bytes + maker->count, bytes, count);
    maker->count += count;
}

void make_fill(struct maker *maker, uint8_t byte, size_t count)
{
    for (size_t i = 0; i < count; i++)
        make_bytes(maker, &byte, 1);
}

static void make_number(struct maker *maker, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * (maker->big ? count - 1 - i : i));
        make_bytes(maker, &byte, 1);
    }
}

void make16(struct maker *maker, uint16_t value)
{
    make_number(maker, value, 2);
}

void make32(struct maker *maker, uint32_t value)
{
    make_number(maker, value, 4);
}

void make64(struct maker *maker, uint64_t value)
{
    make_number(maker, value, 8);
}

void make_over32(struct maker *maker, size_t at, uint32_t value)
{
    size_t count = maker->count;
    assert(at + 4 <= count);
    maker->count = at;
    make32(maker, value);
    maker->count = count;
}

static void make_packet(struct maker *maker, uint32_t count, uint8_t first)
{
    for (uint32_t i = 0; i < count; i++)
        make_fill(maker, (uint8_t)(first + i), 1);
}

void make_pcap_header(struct maker *maker, uint32_t magic, uint32_t snapshot_length,
                      uint32_t network)
{
    make32(maker, magic);
    make16(maker, 2);
    make16(maker, 4);
    make32(maker, 0);
    make32(maker, 0);
    make32(maker, snapshot_length);
    make32(maker, network);
}

void make_pcap_record(struct maker *maker, uint32_t seconds, uint32_t fraction, uint32_t captured,
                      uint32_t original, uint8_t first)
{
    make32(maker, seconds);
    make32(maker, fraction);
    make32(maker, captured);
    make32(maker, original);
    make_packet(maker, captured, first);
}

size_t make_begin(struct maker *maker, uint32_t type)
{
    size_t begun = maker->count;
    make32(maker, type);
    make32(maker, 0);
    return begun;
}

void make_end(struct maker *maker, size_t begun)
{
    while ((maker->count - begun) % 4 != 0)
        make_fill(maker, 0, 1);
    uint32_t length = (uint32_t)(maker->count - begun) + 4;
    make_over32(maker, begun + 4, length);
    make32(maker, length);
}

void make_option(struct maker *maker, uint16_t code, const void *value, uint16_t count)
{
    make16(maker, code);
    make16(maker, count);
    make_bytes(maker, value, count);
    make_fill(maker, 0, (size_t)(-count & 3));
}

void make_section(struct maker *maker)
{
    size_t begun = make_begin(maker, MAKE_SECTION);
    make32(maker, 0x1a2b3c4d);
    make16(maker, 1);
    make16(maker, 0);
    make64(maker, UINT64_MAX); /* length of the section: not known */
    make_end(maker, begun);
}

void make_interface(struct maker *maker, uint16_t link_type, uint32_t snapshot_length,
                    uint8_t resolution, const char *name)
{
    size_t begun = make_begin(maker, MAKE_INTERFACE);
    make16(maker, link_type);
    make16(maker, 0);
    make32(maker, snapshot_length);
    if (name != NULL)
        make_option(maker, 2, name, (uint16_t)strlen(name));
    if (resolution != 6)
        make_option(maker, 9, &resolution, 1);
    make_end(maker, begun);
}

void make_enhanced(struct maker *maker, uint32_t interface, uint64_t reading, uint32_t captured,
                   uint32_t original, uint8_t first)
{
    size_t begun = make_begin(maker, MAKE_ENHANCED);
    make32(maker, interface);
    make32(maker, (uint32_t)(reading >> 32));
    make32(maker, (uint32_t)reading);
    make32(maker, captured);
    make32(maker, original);
    make_packet(maker, captured, first);
    make_end(maker, begun);
}
