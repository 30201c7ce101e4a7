/*
 * checksum.h - CRC-32C, the one checksum of everything that lies on a disk.
 *
 * The standard one (RFC 3720 appendix B.4, "CRC-32C/iSCSI"): reflected polynomial 0x82F63B78, start
 * value and final inversion all ones, so that of "123456789" is 0xE3069283.
 *
 * Threads: any; nothing is shared.
 */
#ifndef STORAGE_CHECKSUM_H
#define STORAGE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of `count` bytes; 0 for none. */
uint32_t checksum_crc32c(const void *bytes, size_t count);

/*
 * Goes on where `crc` ends: checksum_crc32c_more(checksum_crc32c(a), b) is the checksum of a and b
 * back to back. 0 is the checksum of nothing and so the start.
 */
uint32_t checksum_crc32c_more(uint32_t crc, const void *bytes, size_t count);

#endif
