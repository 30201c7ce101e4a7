/*
 * packet_maker.h - packets from a line of text, for golden files that people can read.
 *
 *     eth / vlan 5 / ip 10.0.0.1 10.0.0.2 / tcp 1000 80 S opt=12 / data 100
 *
 * Layers stand from the outside in, with " / " between them; each gets the types, protocols and
 * lengths that what follows it asks for. The first says the link type:
 *
 *     eth [TO FROM] | raw | ipv4 | ipv6 | null | loop | sll | sll2 | ppp | pppoe-link | chdlc |
 *     wifi | radiotap | link N
 *
 * and the others:
 *
 *     eth vlan N, qinq N, mpls LABEL, cw, pppoe, llc (length, LLC, SNAP), pbb N, arp
 *     ip FROM TO [opt=BYTES] [frag=OFFSET[+]] [proto=N] [total=N], ip6 FROM TO [proto=N]
 *     hbh BYTES, dst BYTES, route BYTES, fragment OFFSET[+], ah BYTES
 *     tcp FROM TO [FLAGS] [opt=BYTES] [offset=WORDS], udp FROM TO, sctp FROM TO, icmp, esp, ospf
 *     gre [key] [seq] [csum], pptp, vxlan, geneve [opt=BYTES], gtp [ext], erspan1, erspan2, erspan3
 *     data BYTES, hex DIGITS
 *     meta [cap=N] [orig=N] [if=N] [time=MS] [app=NAME[,NAME]|unknown]
 */
#ifndef TESTS_PACKET_MAKER_H
#define TESTS_PACKET_MAKER_H

#include <stdbool.h>
#include <stdint.h>

#include "packet.h"

#define MADE_BYTES_MAX 70000

struct made_packet {
    uint8_t bytes[MADE_BYTES_MAX];
    struct packet packet; /* points into bytes */
    uint16_t link_type;
    bool app_unknown;
    char app[2][64]; /* empty: none */
};

/* 0, or -1 with a sentence in `error`. */
int packet_make(const char *text, struct made_packet *made, char error[200]);

#endif
