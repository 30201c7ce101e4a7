/*
 * The superblock of a disk found lying about. An input is its first bytes, the rest are zeros: once as
 * it is, once under a right checksum. What the check lets through must be safe to use as it stands.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "fuzz.h"
#include "superblock.h"
#include "text.h"

static void check(bool good)
{
    if (!good)
        abort();
}

static void use(const struct superblock *superblock)
{
    struct disk_geometry geometry;
    superblock_geometry(superblock, &geometry);
    uint64_t end = geometry.slots_offset + (uint64_t)geometry.slot_count * geometry.slot_bytes;
    check(geometry.slot_count >= SLOTS_MIN && geometry.slots_offset >= META_BYTES);
    check(geometry.slot_bytes >= SLOT_BYTES_MIN && geometry.slot_bytes <= SLOT_BYTES_MAX);
    check(end > geometry.slots_offset && end <= geometry.disk_bytes - META_BYTES);

    /* The arithmetic of places, on a disk of that size, is what the geometry says. */
    struct disk disk = {.geometry = geometry, .bytes = geometry.disk_bytes};
    uint32_t last = geometry.slot_count - 1;
    check(disk_offset(&disk, last, geometry.slot_bytes - PAGE_BYTES, PAGE_BYTES) ==
          end - PAGE_BYTES);
    check(disk_offset(&disk, last + 1, 0, PAGE_BYTES) == UINT64_MAX);

    check(superblock->copies >= 1 && superblock->copies <= COPIES_MAX);
    check(text_check_ring_name(superblock->ring_name, NULL) == 0);
    check(strlen(superblock->recorder) < sizeof superblock->recorder);
    check(le16_get(superblock->members) <= SUPERBLOCK_MEMBERS);
    check(le16_get(superblock->tombstones) <= SUPERBLOCK_TOMBSTONES);
    for (uint32_t i = 0; i < le16_get(superblock->members); i++) {
        const struct superblock_member *member = &superblock->member[i];
        check(strlen(member->name) < sizeof member->name);
        check(strpbrk(member->name, "\033\n\r") == NULL);
        check(member->state <= DISK_FOREIGN);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static struct superblock superblock;
    int verdict = superblock_check(bytes, count); /* of any size */
    check(verdict == 0 || verdict == ERR_FOREIGN || verdict == ERR_CORRUPT ||
          verdict == ERR_UNSUPPORTED);

    if (count > sizeof superblock)
        count = sizeof superblock;
    memset(&superblock, 0, sizeof superblock);
    memcpy(&superblock, bytes, count);
    superblock.crc = le32_of(0);
    superblock.crc = le32_of(checksum_crc32c(&superblock, sizeof superblock));
    if (superblock_check((const uint8_t *)&superblock, sizeof superblock) == 0)
        use(&superblock);
    return 0;
}
