/*
 * decode.h - where the headers of a packet end, and what they say: one pass over its first bytes.
 *
 *     decode_packet(link_type, packet.bytes, packet.captured_bytes, &decoded);
 *
 * The result holds offsets into the packet's bytes, not copies of them, and stays true as long as
 * those stay readable. No allocation, no lock, no state: any thread. Every byte of the packet is
 * taken for hostile: nothing at or beyond `captured_bytes` is ever read, every loop is bounded by
 * the limits below, and a packet that ends in the middle of its headers gives what is there.
 *
 * A packet is a frame of its link layer that holds one IP header or several inside one another: its
 * *levels*. Level 0 is the first IP header met, the others were reached through tunnels.
 */
#ifndef RULES_DECODE_H
#define RULES_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "flow_keys.h"

#include "packet.h"

#define DECODE_LEVELS_MAX 8      /* IP headers inside one another */
#define DECODE_TAGS_MAX 8        /* VLAN tags of the outermost frame */
#define DECODE_LABELS_MAX 16     /* MPLS labels of one stack */
#define DECODE_EXTENSIONS_MAX 16 /* extension headers of one IP header */
#define DECODE_STEPS_MAX 48      /* headers of any kind below the link layer's */

#define DECODE_UNKNOWN UINT32_MAX /* an offset that could not be found */

/* LINKTYPE_ values that are decoded. Of any other link type, nothing is. */
enum link_type {
    LINK_NULL = 0,
    LINK_ETHERNET = 1,
    LINK_TOKEN_RING = 6,
    LINK_PPP = 9,
    LINK_FDDI = 10,
    LINK_RAW_BSD = 12, /* DLT_RAW here and there, found in files */
    LINK_RAW_OPENBSD = 14,
    LINK_PPP_HDLC = 50,
    LINK_PPPOE = 51,
    LINK_ATM_RFC1483 = 100,
    LINK_RAW = 101,
    LINK_CISCO_HDLC = 104,
    LINK_IEEE802_11 = 105,
    LINK_LOOP = 108,
    LINK_LINUX_SLL = 113,
    LINK_PRISM = 119,
    LINK_RADIOTAP = 127,
    LINK_AVS = 163,
    LINK_PPP_PPPD = 166,
    LINK_PPP_DIRECTION = 204,
    LINK_IPV4 = 228,
    LINK_IPV6 = 229,
    LINK_LINUX_SLL2 = 276,
};

enum decoded_flag {
    DECODED_LINK = 1 << 0,            /* the link type is one of the above */
    DECODED_MAC_SOURCE = 1 << 1,      /* mac_source_at */
    DECODED_MAC_DESTINATION = 1 << 2, /* mac_destination_at */
    DECODED_L2 = 1 << 3,              /* l2_end and ethertype */
    DECODED_CUT = 1 << 4,             /* the captured bytes end within a header */
    DECODED_MALFORMED = 1 << 5, /* a header contradicts itself; what follows it is not decoded */
    DECODED_TOO_DEEP =
        1 << 6,              /* more of something than the limits above: the rest is not decoded */
    DECODED_LABELS = 1 << 7, /* MPLS labels before the first IP header */
};

enum level_flag {
    LEVEL_ADDRESSES =
        1 << 0,              /* both addresses, the protocol and the fragment flags were captured */
    LEVEL_PROTOCOL = 1 << 1, /* `protocol` is what lies behind all extension headers */
    LEVEL_PORTS = 1 << 2,    /* TCP, UDP, UDP-Lite, SCTP or DCCP, and both ports were captured */
    LEVEL_FRAGMENT = 1 << 3, /* a fragment, the first or a later one */
    LEVEL_LATER = 1 << 4,    /* not the first fragment: there is no transport header */
    LEVEL_TCP_FLAGS = 1 << 5, /* tcp_flags */
    LEVEL_INNER = 1 << 6,     /* inside a tunnel or behind MPLS labels */
};

/* Through what a level was reached. */
enum decoded_tunnel {
    TUNNEL_NONE = 0,
    TUNNEL_MPLS,
    TUNNEL_IP, /* IPv4 or IPv6 in IPv4 or IPv6 */
    TUNNEL_GRE,
    TUNNEL_ERSPAN,
    TUNNEL_VXLAN,
    TUNNEL_GENEVE,
    TUNNEL_GTP,
    TUNNEL_ETHERNET, /* EtherIP, Ethernet in IPv6 */
};

enum ip_protocol {
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_DCCP = 33,
    PROTOCOL_SCTP = 132,
    PROTOCOL_UDP_LITE = 136,
};

enum tcp_flag { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* One IP header and the transport header behind it. */
struct decoded_level {
    uint32_t l3_start;
    uint32_t l3_end; /* behind options and extension headers; DECODE_UNKNOWN. May lie beyond the
                        captured bytes */
    uint32_t l4_end; /* behind the transport header and its options; equal to l3_end where there is
                        none (a later fragment); DECODE_UNKNOWN for a transport that is not known.
                        May lie beyond */
    uint16_t source_port;
    uint16_t destination_port;
    uint8_t version; /* 4 or 6 */
    uint8_t protocol;
    uint8_t flags;  /* enum level_flag */
    uint8_t tunnel; /* enum decoded_tunnel */
    uint8_t tcp_flags;
};

struct decoded_packet {
    uint16_t flags;     /* enum decoded_flag */
    uint16_t ethertype; /* of what the outermost frame carries, behind tags; 0: LLC, PPP or none */
    uint8_t levels;
    uint8_t tags;
    uint8_t labels; /* of the last stack walked */
    uint16_t mac_source_at;
    uint16_t mac_destination_at;
    uint32_t l2_end; /* behind tags, LLC and PPPoE, before labels; DECODE_UNKNOWN */
    uint32_t l3_end; /* of the innermost level; DECODE_UNKNOWN where there is no level */
    uint32_t l4_end; /* of the innermost level; DECODE_UNKNOWN where there is no level */
    uint16_t tag[DECODE_TAGS_MAX]; /* VLAN ids, outermost first; `tags` of them are set; the first
                                      is below 4096 in any case */
    struct decoded_level level[DECODE_LEVELS_MAX]; /* `levels` of them are set; the first is 0
                                                      without a level */
};

/* Decodes. `bytes` may be null where captured_bytes is 0. */
void decode_packet(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                   struct decoded_packet *decoded);

#define DECODE_BATCH 64 /* packets: what fits into the first-level cache together */

/*
 * Decodes `count` packets into as many of `decoded`, each by the link type of its interface.
 * `behind` more packets follow them in memory, whose turn will come next: headers are asked for
 * some packets ahead, beyond the end of these, too. That is why this is faster than one by one
 * where packets come from memory that was not touched.
 */
void decode_batch(const struct packet *packet, uint32_t count, uint32_t behind,
                  const uint16_t *link_type, struct decoded_packet *decoded);

/*
 * Whether an Ethernet packet is plain (flow_keys.h): then sets all but `entry`. decode_packet() sees the same in it, and nothing else that
 * differs between two whose words are equal.
 */
bool decode_flow_plain(const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain);

/*
 * Asks for a packet's headers some packets ahead, so that they are in the cache when it is decoded.
 * Reads nothing: any address will do. Worth it where packets come from memory that was not touched.
 */
static inline void decode_prefetch(const uint8_t *bytes)
{
    __builtin_prefetch(bytes);
    __builtin_prefetch(bytes + 64);
}

#define DECODE_PREFETCH_AHEAD 8 /* packets */

/* decode_packet() without the short cut for plain Ethernet, IPv4, TCP and UDP: what tests compare
 * it with.
 */
void decode_packet_slowly(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                          struct decoded_packet *decoded);

/* Where a level's addresses lie; only with LEVEL_ADDRESSES. 4 or 16 bytes each, by its version. */
static inline const uint8_t *decoded_source(const uint8_t *bytes, const struct decoded_level *level)
{
    return bytes + level->l3_start + (level->version == 4 ? 12 : 8);
}

static inline const uint8_t *decoded_destination(const uint8_t *bytes,
                                                 const struct decoded_level *level)
{
    return bytes + level->l3_start + (level->version == 4 ? 16 : 24);
}

static inline const struct decoded_level *decoded_innermost(const struct decoded_packet *decoded)
{
    return decoded->levels > 0 ? &decoded->level[decoded->levels - 1] : 0;
}

/*
 * A hash of the conversation that the packet's innermost level belongs to, alike for both
 * directions: addresses, protocol and ports; of a fragment (also a first one) addresses and
 * protocol only, so that all pieces of a datagram agree. False: there is no conversation (no IP, or
 * cut before the addresses).
 */
bool decoded_flow_hash(const uint8_t *bytes, const struct decoded_packet *decoded, uint64_t seed,
                       uint64_t *hash);

#endif
