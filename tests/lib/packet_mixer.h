/*
 * packet_mixer.h - random packets of all kinds that matter to an index, few values each, so that
 * filters about those values meet some of them.
 *
 * Ethernet with and without tags, LLC, ARP, IPv4 and IPv6 with options, fragments and extension
 * headers, transports, tunnels, MPLS, PPPoE; now and then cut short, with a byte changed, or with
 * lengths that lie. A seed makes the same packets everywhere.
 */
#ifndef TESTS_PACKET_MIXER_H
#define TESTS_PACKET_MIXER_H

#include <stdint.h>

#define MIXED_BYTES_MAX 600

struct mixer {
    uint64_t state;
};

uint64_t mixer_random(struct mixer *mixer);
uint32_t mixer_below(struct mixer *mixer, uint32_t bound);

/* Returns the packet's length; `bytes` has room for MIXED_BYTES_MAX. */
uint32_t mixer_packet(struct mixer *mixer, uint8_t *bytes);

/* A random filter about such packets, in `text` (at least 512 bytes). */
void mixer_filter(struct mixer *mixer, char *text);

#endif
