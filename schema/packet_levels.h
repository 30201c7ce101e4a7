/*
 * packet_levels.h - where a packet's IP headers are: what judges stored packets beyond libpcap
 * needs of the decoder.
 *
 * The store does not decode headers itself. Who starts the reading side hands it such a function:
 * packet_levels() of rules/.
 */
#ifndef SCHEMA_PACKET_LEVELS_H
#define SCHEMA_PACKET_LEVELS_H

#include <stdbool.h>
#include <stdint.h>

#define PACKET_LEVELS_MAX 8u

struct packet_level {
    uint32_t start;     /* of the IP header; both addresses and the protocol were captured */
    uint32_t transport; /* behind the IP header and its extensions; UINT32_MAX: not known. May lie
                           beyond the captured bytes */
    uint16_t source_port;
    uint16_t destination_port;
    uint8_t version; /* 4 or 6 */
    uint8_t protocol;
    bool ports; /* both are set */
    bool later; /* not the first fragment: there is no transport header */
    bool inner; /* inside a tunnel or behind MPLS labels */
};

/* Fills `level`, outermost first, and returns how many there are. Bytes are hostile. Any thread, no
 * state. */
typedef uint32_t packet_levels_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                                  struct packet_level level[PACKET_LEVELS_MAX]);

#endif
