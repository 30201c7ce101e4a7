/*
 * fuzz_key_run.c - arbitrary bytes as a run.
 *
 * The first byte: bit 0: checksums of head, segments, fences and pages are put right first. The
 * rest is the file.
 */
#include "fuzz.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "disk_format.h"
#include "errors.h"
#include "key_run.h"

#define HEAD_FIXED_BYTES 48u
#define SECTION_BYTES 32u
#define ALWAYS_BYTES (KEY_RUN_SEGMENTS_MAX / 8)
#define HEAD_BYTES (HEAD_FIXED_BYTES + KEY_TYPES * SECTION_BYTES + ALWAYS_BYTES)

static uint32_t get32(const uint8_t *at)
{
    le32 field;
    memcpy(&field, at, sizeof field);
    return le32_get(field);
}

static uint64_t get64(const uint8_t *at)
{
    le64 field;
    memcpy(&field, at, sizeof field);
    return le64_get(field);
}

static void put_crc(uint8_t *at, const uint8_t *bytes, uint64_t count)
{
    le32 field = le32_of(checksum_crc32c(bytes, count));
    memcpy(at, &field, sizeof field);
}

static void put_checksums(uint8_t *bytes, size_t count)
{
    if (count < HEAD_BYTES)
        return;
    uint64_t segments = get32(bytes + 40) * UINT64_C(32);
    if (PAGE_BYTES + segments <= count)
        put_crc(bytes + 44, bytes + PAGE_BYTES, segments);
    for (unsigned type = 0; type < KEY_TYPES; type++) {
        uint8_t *section = bytes + HEAD_FIXED_BYTES + type * SECTION_BYTES;
        uint64_t pages = get32(section), at = get64(section + 8), fences = get64(section + 16);
        uint64_t length = pages * narrowing_key_bytes((enum narrowing_key_type)type);
        for (uint64_t i = 0; i < pages && at <= count && (i + 1) * PAGE_BYTES <= count - at; i++)
            put_crc(bytes + at + i * PAGE_BYTES, bytes + at + i * PAGE_BYTES + 4, PAGE_BYTES - 4);
        if (fences <= count && length <= count - fences)
            put_crc(section + 24, bytes + fences, length);
    }
    memset(bytes + 8, 0, 4);
    put_crc(bytes + 8, bytes, HEAD_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const char *const filters[] = {"host 10.0.0.1", "net 10.0.0.0/8 or net 2001:db8::/32",
                                          "vlan and tcp port 80", "not arp and ether src 1:2:3:4:5:6",
                                          "app dns or portrange 0-65535"};
    if (count < 1)
        return 0;
    uint8_t *copy = malloc(count);
    int fd = memfd_create("run", MFD_CLOEXEC);
    if (!copy || fd < 0)
        abort();
    memcpy(copy, bytes + 1, count - 1);
    if ((bytes[0] & 1) != 0)
        put_checksums(copy, count - 1);
    if (write(fd, copy, count - 1) != (ssize_t)(count - 1))
        abort();
    struct identity ring = {{0}};
    if (count > 1 + 32)
        memcpy(&ring, copy + 16, sizeof ring);
    struct key_run *run = NULL;
    if (key_run_open_fd(fd, &ring, &run) == 0) { /* takes the descriptor, also when it fails */
        for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
            struct narrowing *tree;
            struct segment_set set;
            if (narrowing_open(filters[i], &tree) != 0)
                continue;
            int code = key_run_narrow(run, tree, &set);
            assert(code == 0 || code == ERR_CORRUPT || code == ERR_NO_MEMORY);
            narrowing_close(&tree);
        }
        for (uint32_t i = 0; i < key_run_segments(run); i++)
            assert(key_run_segment(run, i) != NULL);
        key_run_close(&run);
    }
    free(copy);
    return 0;
}
