/*
 * pcap_oracle.h - reads a capture with our source and with libpcap and says where they differ.
 *
 * libpcap is what tcpdump shows: whatever it hands out, the source must hand out too, packet by
 * packet. Where the source reads more, on purpose, the difference has a name here and is tested for
 * by name.
 */
#ifndef TESTS_PCAP_ORACLE_H
#define TESTS_PCAP_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum oracle_verdict {
    ORACLE_SAME, /* the same packets, and both ended, or both failed after the same packet */
    ORACLE_BOTH_REFUSED,  /* neither opened it */
    ORACLE_KUZNETZOV,     /* we refuse Kuznetzov's variant by name; libpcap guesses */
    ORACLE_RESERVED_BITS, /* ten bits beside a link type: we pass over them, libpcap makes them part
                             of it */
    ORACLE_LINK_TYPES,  /* libpcap stops at a second link type (and takes DLT_ for LINKTYPE_ numbers
                           there) */
    ORACLE_SNAPSHOTS,   /* libpcap stops at a second snapshot length */
    ORACLE_BYTE_ORDERS, /* libpcap stops at a section of the other byte order */
    ORACLE_NO_LIMIT,    /* snapshot length 0: libpcap stops at, or cuts to, 262,144 bytes */
    ORACLE_SECTION_HEADER, /* libpcap refuses a first section header of more than 1 MiB, and does
                            * not look at later ones that come before any interface */
    ORACLE_BLOCK_LENGTH,   /* libpcap stops at a block a little shorter than we do */
    ORACLE_LONGEST,        /* longer than a packet record can hold: libpcap reads it, we stop */
    ORACLE_FINE_TIME,      /* libpcap overflows 64 bits with resolutions of 2^-35 s and finer */
    ORACLE_UNSIGNED_TIME,  /* classic pcap after 2038: libpcap takes the seconds for signed */
    ORACLE_WILD_TIME, /* beyond 64 bits of nanoseconds: ours stays at the end, libpcap's has seconds
                       */
    ORACLE_DIFFERENT, /* anything else: a defect */
};

const char *oracle_verdict_name(enum oracle_verdict verdict);

struct oracle_result {
    enum oracle_verdict verdict;
    uint64_t packets_ours;
    uint64_t packets_theirs;
    char ours[512];   /* our sentence, empty if we read to the end */
    char theirs[256]; /* libpcap's */
    char why[256];    /* the first difference */
};

/* Reads `count` bytes with both; ours gets them in steps of `step_bytes`. */
void oracle_compare(const uint8_t *bytes, size_t count, size_t step_bytes, const char *name,
                    struct oracle_result *result);

#endif
