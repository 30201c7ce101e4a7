/*
 * flow_keys.h - what the key index knows of one packet, and of the flow that the packet belongs to.
 *
 * Packets whose first FLOW_KEY_BYTES (and `inner`, where there is one) are equal are one flow. The
 * two ends stand in an order that does not depend on the direction, so both directions are one
 * flow; `from` says which end sent this packet.
 *
 * An index may only narrow. So whatever the decoder could not be sure of is marked here, and who
 * judges keys says "maybe" wherever a mark stands in the way.
 */
#ifndef SCHEMA_FLOW_KEYS_H
#define SCHEMA_FLOW_KEYS_H

#include <stdbool.h>
#include <stdint.h>

enum flow_mark {
    FLOW_LINK_UNSURE = 1 << 0,      /* link type or headers before the network's not understood */
    FLOW_NETWORK_UNSURE = 1 << 1,   /* addresses may be others than those here */
    FLOW_TRANSPORT_UNSURE = 1 << 2, /* ports may be others; with FLOW_EXTENSIONS the protocol too */
    FLOW_PORTS = 1 << 3,            /* ports are set */
    FLOW_EXTENSIONS = 1 << 4,       /* `protocol` is not the one in the IP header itself */
    FLOW_FRAGMENT = 1 << 5,         /* pieces of datagrams */
    FLOW_ETHERNET = 1 << 6,         /* both MAC addresses are those of an Ethernet header */
    FLOW_DIRECT = 1 << 7,           /* Ethernet, then `tags` tags of four bytes, then `ethertype` */
    FLOW_PPPOE = 1 << 8,            /* a PPPoE session */
    FLOW_INNER = 1 << 9,            /* `inner` is set */
    FLOW_DEEP = 1 << 10,            /* there may be inner headers besides those in `inner` */
    FLOW_ENCLOSED = 1 << 11,        /* the first IP header itself is an inner one: behind labels */
};

struct flow_end { /* 24 bytes */
    uint8_t address[16]; /* network order; of version 4 the first four, then zeros */
    uint8_t mac[6];      /* zeros where there is none */
    uint16_t port;
};

struct flow_kind { /* 16 bytes: what many flows have in common */
    uint16_t marks;  /* enum flow_mark */
    uint16_t vlan[2]; /* ids, outermost first; 0 where there are fewer tags */
    uint16_t ethertype; /* behind tags; 0: LLC, PPP or none */
    uint16_t link_type; /* LINKTYPE_ */
    uint8_t version;  /* 4 (also ARP and RARP, whose addresses these then are), 6, or 0: no addresses */
    uint8_t protocol; /* behind extension headers */
    uint8_t tags;     /* also those that `vlan` has no room for */
    uint8_t labels;   /* MPLS labels before the first IP header */
    uint8_t tunnel;   /* how the second IP header is reached, as the decoder numbers it; 0: none */
    uint8_t reserved;
};

struct flow_inner { /* 40 bytes: the innermost of several IP headers; [0] belongs to end[0] */
    uint8_t address[2][16];
    uint16_t port[2];
    uint8_t version;
    uint8_t protocol;
    uint8_t marks; /* FLOW_PORTS, FLOW_EXTENSIONS, FLOW_FRAGMENT, FLOW_TRANSPORT_UNSURE */
    uint8_t reserved;
};

struct flow_keys {
    struct flow_end end[2];
    struct flow_kind kind;
    struct flow_inner inner; /* only with FLOW_INNER; not set otherwise */
    /* This packet's, not the flow's: */
    uint8_t from;      /* the end that sent it, 0 or 1 */
    uint8_t tcp_flags; /* of the first transport header; 0 where it is not TCP */
    uint8_t entry;     /* in the frame's table: interface, direction and rule. The store sets it */
};

/*
 * A plain packet in short: Ethernet, at most one tag, IPv4 with two different addresses, without options, no fragment, TCP or UDP, and no
 * tunnel. Its words and its keys say the same, flow_plain_keys() and flow_keys_plain(); all is in this machine's order.
 */
struct flow_plain {
    uint64_t word[4]; /* address of end 0 << 32 | address of end 1; MAC << 16 | port of end 0; of end 1; see below */
};

/* The last word. Two packets whose first FLOW_PLAIN_BITS of it, and other words, are equal are one flow. */
#define FLOW_PLAIN_TCP 1u /* else UDP */
#define FLOW_PLAIN_TAGGED 2u
#define FLOW_PLAIN_VLAN 2u /* where the tag's id begins */
#define FLOW_PLAIN_BITS 14u
#define FLOW_PLAIN_IS (1u << 14) /* set: what is not plain has it clear, where both may be */
#define FLOW_PLAIN_FROM 15u      /* where `from` is, one bit, and all TCP flags: the packet's, not the flow's */
#define FLOW_PLAIN_TCP_FLAGS 16u
#define FLOW_PLAIN_REST 24u      /* what lies above is the store's */

static inline uint64_t flow_plain_last(uint64_t flow, bool from, uint8_t tcp_flags)
{
    return flow | FLOW_PLAIN_IS | (uint32_t)from << FLOW_PLAIN_FROM | (uint32_t)tcp_flags << FLOW_PLAIN_TCP_FLAGS;
}

static inline uint8_t flow_plain_from(uint64_t last)
{
    return last >> FLOW_PLAIN_FROM & 1;
}

static inline uint8_t flow_plain_tcp_flags(uint64_t last)
{
    return (uint8_t)(last >> FLOW_PLAIN_TCP_FLAGS);
}

/*
 * Makes the keys of a packet, all but `entry`, from the bytes that are stored of it. The store is given such a function, because it does not
 * decode headers itself: packet_keys_of() of rules/. Where `plain` is not null and the packet is plain, only that is set, and the answer is
 * true. `keys` null: that is all that is asked. Any thread, no state.
 */
typedef bool flow_keys_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain,
                          struct flow_keys *keys);

#define FLOW_KEY_BYTES 64u /* ends and kind */

_Static_assert(sizeof(struct flow_end) == 24, "no padding is compared");
_Static_assert(sizeof(struct flow_kind) == 16, "no padding is compared");
_Static_assert(sizeof(struct flow_inner) == 40, "no padding is compared");
_Static_assert(__builtin_offsetof(struct flow_keys, inner) == FLOW_KEY_BYTES, "ends and kind");

enum flow_way { /* directions in which packets of a flow were seen */
    FLOW_WAY_0 = 1 << 0, /* from end 0 */
    FLOW_WAY_1 = 1 << 1,
};

#define FLOW_TUNNEL_VXLAN 5  /* kind.tunnel */
#define FLOW_TUNNEL_GENEVE 6

#define FLOW_LINK_ETHERNET 1
#define FLOW_ETHERTYPE_IP 0x0800
#define FLOW_ETHERTYPE_ARP 0x0806
#define FLOW_ETHERTYPE_RARP 0x8035
#define FLOW_ETHERTYPE_IPV6 0x86dd

static inline void flow_plain_end(uint32_t address, uint64_t mac_and_port, struct flow_end *end)
{
    for (unsigned i = 0; i < 4; i++)
        end->address[i] = (uint8_t)(address >> (24 - 8 * i));
    for (unsigned i = 0; i < 6; i++)
        end->mac[i] = (uint8_t)(mac_and_port >> (56 - 8 * i));
    end->port = (uint16_t)mac_and_port;
}

static inline struct flow_kind flow_plain_kind(const struct flow_plain *plain)
{
    bool tagged = (plain->word[3] & FLOW_PLAIN_TAGGED) != 0;
    return (struct flow_kind){
        .marks = FLOW_ETHERNET | FLOW_DIRECT | FLOW_PORTS,
        .vlan = {(uint16_t)(plain->word[3] >> FLOW_PLAIN_VLAN & 0xfff)},
        .ethertype = FLOW_ETHERTYPE_IP,
        .link_type = FLOW_LINK_ETHERNET,
        .version = 4,
        .protocol = (plain->word[3] & FLOW_PLAIN_TCP) != 0 ? 6 : 17,
        .tags = tagged,
    };
}

/* Ends and kind of a plain packet: FLOW_KEY_BYTES of `keys` are set. */
static inline void flow_plain_keys(const struct flow_plain *plain, struct flow_keys *keys)
{
    *keys = (struct flow_keys){.kind = flow_plain_kind(plain)};
    flow_plain_end((uint32_t)(plain->word[0] >> 32), plain->word[1], &keys->end[0]);
    flow_plain_end((uint32_t)plain->word[0], plain->word[2], &keys->end[1]);
}

/* Whether that could be the keys of a plain packet; then the words are set. A packet with IP options, say, has such keys, too. */
static inline bool flow_keys_plain(const struct flow_keys *keys, struct flow_plain *plain)
{
    const struct flow_kind *kind = &keys->kind;
    if (kind->marks != (FLOW_ETHERNET | FLOW_DIRECT | FLOW_PORTS) || kind->version != 4 || kind->link_type != FLOW_LINK_ETHERNET ||
        kind->ethertype != FLOW_ETHERTYPE_IP || (kind->protocol != 6 && kind->protocol != 17) || kind->tags > 1 ||
        (kind->labels | kind->tunnel | kind->vlan[1] | (kind->vlan[0] >> 12)) != 0)
        return false;
    uint64_t side[2], address[2];
    for (unsigned end = 0; end < 2; end++) {
        address[end] = side[end] = 0;
        for (unsigned i = 0; i < 4; i++)
            address[end] = address[end] << 8 | keys->end[end].address[i];
        for (unsigned i = 0; i < 6; i++)
            side[end] = side[end] << 8 | keys->end[end].mac[i];
        side[end] = side[end] << 16 | keys->end[end].port;
    }
    uint64_t flow = (kind->protocol == 6 ? FLOW_PLAIN_TCP : 0) | (kind->tags > 0 ? FLOW_PLAIN_TAGGED : 0) |
                    (uint64_t)kind->vlan[0] << FLOW_PLAIN_VLAN;
    *plain = (struct flow_plain){
        .word = {address[0] << 32 | address[1], side[0], side[1], flow_plain_last(flow, keys->from, keys->tcp_flags)},
    };
    return address[0] != address[1];
}

#endif
