#include "checksum.h"

#include <isa-l/crc.h>

/* ISA-L counts in int: longer stretches go in pieces of this many bytes. */
#define PIECE_BYTES ((size_t)1 << 30)

uint32_t checksum_crc32c(const void *bytes, size_t count)
{
    return checksum_crc32c_more(0, bytes, count);
}

uint32_t checksum_crc32c_more(uint32_t crc, const void *bytes, size_t count)
{
    /* ISA-L takes and gives the bare register: both inversions of the standard are the caller's.
     * Its parameter is not const for historical reasons; it only reads. */
    uint8_t *at = (uint8_t *)(uintptr_t)bytes;
    uint32_t state = ~crc;
    while (count > 0) {
        size_t piece = count < PIECE_BYTES ? count : PIECE_BYTES;
        state = crc32_iscsi(at, (int)piece, state);
        at += piece;
        count -= piece;
    }
    return ~state;
}
