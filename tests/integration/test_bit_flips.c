/*
 * test_bit_flips.c - every single bit of what is live on a small store, flipped, one after the other (promise P3).
 *
 * A store with 4 MiB of live slots is filled through stream and keeper. Then, for each bit of every live frame (headers, tables, records, padding,
 * index, seal) and of every superblock place: with the bit flipped, the check that every reader goes through must say no. At the end
 * the media must be as they were. A flip that goes unnoticed prints its place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store_machine.h"
#include "superblock.h"

#define SLOT_BYTES (1024u * 1024)
#define SLOTS 6u /* one of them is kept ready, one is being filled */

struct totals {
    uint64_t frames, bits, superblock_bits;
};

static void unnoticed(const char *what, uint32_t slot, uint32_t offset, uint64_t bit)
{
    fprintf(stderr, "slot %u, %s at %u: bit %llu flipped and not noticed\n", slot, what, offset, (unsigned long long)bit);
    exit(1);
}

/* What a reader requires of a frame before it looks at a byte of it; only the block that holds the flipped bit can have changed. */
static bool passes(const uint8_t *frame, uint32_t room, const struct frame_info *expected, uint64_t bit)
{
    struct frame_info info;
    if (frame_parse(frame, room, &info) != 0)
        return false;
    if (info.kind != expected->kind || info.offset != expected->offset || info.number != expected->number ||
        info.frame_bytes != expected->frame_bytes || info.position != expected->position ||
        info.revision != expected->revision || !identity_equal(&info.segment, &expected->segment))
        return false;
    return frame_check_blocks(frame, &info, (uint32_t)(bit / 8 / BLOCK_BYTES), 1) == 0;
}

static void flip_frame(uint8_t *slot, uint32_t number, uint32_t offset, struct totals *totals)
{
    struct frame_info info;
    uint8_t *frame = slot + offset;
    if (frame_parse(frame, SLOT_BYTES - offset, &info) != 0 || frame_check(frame, &info) != 0) {
        fprintf(stderr, "slot %u: no valid frame at %u to begin with\n", number, offset);
        exit(1);
    }
    for (uint64_t bit = 0; bit < (uint64_t)info.frame_bytes * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (passes(frame, SLOT_BYTES - offset, &info, bit))
            unnoticed("frame", number, offset, bit);
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    totals->frames++;
    totals->bits += (uint64_t)info.frame_bytes * 8;
}

static void flip_slot(struct machine *machine, uint32_t number, struct totals *totals)
{
    uint8_t *slot = aligned_alloc(PAGE_BYTES, SLOT_BYTES), *before = malloc(SLOT_BYTES);
    struct frame_info info;
    struct seal_body seal;
    simulated_media_peek(machine->media[0], META_BYTES + (uint64_t)number * SLOT_BYTES, slot, SLOT_BYTES);
    memcpy(before, slot, SLOT_BYTES);
    bool sealed = frame_parse(slot + SLOT_BYTES - PAGE_BYTES, PAGE_BYTES, &info) == 0 &&
                  segment_seal_read(slot + SLOT_BYTES - PAGE_BYTES, &info, SLOT_BYTES, &seal) == 0;
    if (frame_parse(slot, PAGE_BYTES, &info) == 0)
        flip_frame(slot, number, 0, totals);
    for (uint32_t offset = PAGE_BYTES; sealed && offset < le32_get(seal.data_end); offset += info.frame_bytes) {
        if (frame_parse(slot + offset, SLOT_BYTES - offset, &info) != 0)
            unnoticed("missing frame", number, offset, 0);
        flip_frame(slot, number, offset, totals);
    }
    uint32_t index_end = sealed ? le32_get(seal.index_offset) + le32_get(seal.index_bytes) : 0;
    for (uint32_t offset = sealed ? le32_get(seal.index_offset) : 0; offset < index_end; offset += info.frame_bytes) {
        if (frame_parse(slot + offset, SLOT_BYTES - offset, &info) != 0)
            unnoticed("missing index", number, offset, 0);
        flip_frame(slot, number, offset, totals);
    }
    if (sealed)
        flip_frame(slot, number, SLOT_BYTES - PAGE_BYTES, totals);
    if (memcmp(before, slot, SLOT_BYTES) != 0)
        unnoticed("the test itself", number, 0, 0);
    free(before);
    free(slot);
}

/* The checksum is over all of the superblock: a flip anywhere is one. */
static void flip_superblocks(struct machine *machine, struct totals *totals)
{
    struct disk *disk;
    struct superblock *superblock = malloc(sizeof *superblock);
    struct failure failure = {0};
    struct disk_geometry geometry;
    if (simulated_disk_open(machine->media[0], DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0 ||
        disk_geometry_plan(disk->bytes, SLOT_BYTES, &geometry, &failure) != 0) {
        fprintf(stderr, "%s\n", failure.text);
        exit(1);
    }
    superblock_make(superblock, &geometry, &machine->ring, "flips", 1, 1);
    if (superblock_format(disk, superblock, &failure) != 0) {
        fprintf(stderr, "%s\n", failure.text);
        exit(1);
    }
    disk_close(&disk);
    uint8_t *bytes = malloc(SUPERBLOCK_BYTES);
    for (int place = 0; place < SUPERBLOCK_PLACES; place++) {
        simulated_media_peek(machine->media[0],
                             superblock_place_offset((enum superblock_place)place, geometry.disk_bytes), bytes,
                             SUPERBLOCK_BYTES);
        if (superblock_check(bytes, SUPERBLOCK_BYTES) != 0)
            unnoticed("no valid superblock to begin with", 0, (uint32_t)place, 0);
        for (uint64_t bit = 0; bit < (uint64_t)SUPERBLOCK_BYTES * 8; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            if (superblock_check(bytes, SUPERBLOCK_BYTES) == 0)
                unnoticed("superblock", 0, (uint32_t)place, bit);
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        totals->superblock_bits += (uint64_t)SUPERBLOCK_BYTES * 8;
    }
    free(bytes);
    free(superblock);
}

int main(void)
{
    struct machine machine;
    struct machine_options options = {
        .seed = 4,
        .disks = 1,
        .slots = SLOTS,
        .slot_bytes = SLOT_BYTES,
        .copies = 1,
        .streams = 1,
        .packet_bytes_max = 1500,
        .flush_window_ns = 50000000,
        .latency_ns = 1000,
    };
    struct totals totals = {0};
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    machine_work(&machine, 9000); /* all slots, and some of them a second time */
    machine_shut_down(&machine);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        flip_slot(&machine, slot, &totals);
    flip_superblocks(&machine, &totals);
    machine_free(&machine);
    printf("%llu frames: %llu bits flipped; superblocks: %llu bits flipped; every one noticed\n",
           (unsigned long long)totals.frames, (unsigned long long)totals.bits,
           (unsigned long long)totals.superblock_bits);
    return totals.bits < 8ull * 7 / 2 * 1024 * 1024 ? 1 : 0;
}
