/*
 * packet.h - one packet on its way: a view of bytes that somebody else owns.
 */
#ifndef SCHEMA_PACKET_H
#define SCHEMA_PACKET_H

#include <stdint.h>

#define PACKET_CAPTURED_MAX ((1u << 24) - 1) /* 24 bits in the packet record */

enum packet_direction {
    DIRECTION_UNKNOWN = 0,
    DIRECTION_IN = 1,
    DIRECTION_OUT = 2,
};

/*
 * `bytes` belongs to the source that made the view, and stays readable until the source's
 * `release`. `interface` counts the source's own interfaces from 0.
 */
struct packet {
    const uint8_t *bytes;
    uint32_t captured_bytes; /* readable at `bytes`; at most PACKET_CAPTURED_MAX */
    uint32_t original_bytes; /* length on the wire; kept as the source gave it, even where smaller than captured_bytes */
    int64_t time_ns;         /* nanoseconds since the epoch, may be negative or wild: never steers anything */
    uint16_t interface;
    uint8_t direction; /* enum packet_direction */
};

#define INTERFACE_NAME_MAX 255
#define INTERFACE_TEXT_MAX 255

/* What is known of an interface; the same on disk, in the catalog and in pcapng's interface block. */
struct interface_description {
    uint16_t link_type;         /* LINKTYPE_ value of the pcap formats, not the DLT_ of this machine */
    uint32_t snapshot_length;   /* bytes; 0 = no limit */
    uint8_t hardware[6];        /* MAC address, zeros where unknown */
    char name[INTERFACE_NAME_MAX + 1];        /* "eth0", or the file's name for an import */
    char description[INTERFACE_TEXT_MAX + 1]; /* free text, may be empty */
};

#endif
