/*
 * decode.c - a walk over headers, one step a header.
 *
 * A cursor stands before the next header; a step reads that header, moves the cursor behind it and
 * says what comes next. The walk ends at a transport that is no tunnel, at the end of the captured
 * bytes, at something unknown or malformed, or at a limit. So headers that hold one another in any
 * order need neither recursion nor memory.
 *
 * What most packets are, Ethernet with at most a few tags, IPv4 or IPv6 without options, TCP or
 * UDP, takes a short cut first that tests all of that at once.
 */
#include "decode.h"

#include <stddef.h>
#include <string.h>
#include <xxhash.h>

enum {
    TYPE_IPV4 = 0x0800,
    TYPE_VLAN = 0x8100,
    TYPE_VLAN_SERVICE = 0x88a8,
    TYPE_VLAN_OLD = 0x9100,
    TYPE_VLAN_OLDER = 0x9200,
    TYPE_IPV6 = 0x86dd,
    TYPE_MPLS = 0x8847,
    TYPE_MPLS_MULTICAST = 0x8848,
    TYPE_PPPOE_SESSION = 0x8864,
    TYPE_PPP = 0x880b,
    TYPE_BRIDGING = 0x6558,     /* transparent Ethernet bridging, in GRE and GENEVE */
    TYPE_BACKBONE = 0x88e7,     /* 802.1ah: Ethernet in Ethernet */
    TYPE_VIRTUAL_NIC = 0x8926,  /* VN-Tag */
    TYPE_EXTENDED_TAG = 0x893f, /* 802.1BR */
    TYPE_ERSPAN_I_II = 0x88be,
    TYPE_ERSPAN_III = 0x22eb,
    TYPE_SMALLEST = 0x0600, /* below, it is a length */
    TYPE_LENGTH_MAX = 1500,
};

enum {
    PROTOCOL_HOP_BY_HOP = 0,
    PROTOCOL_ICMP = 1,
    PROTOCOL_IGMP = 2,
    PROTOCOL_IPV4 = 4,
    PROTOCOL_IPV6 = 41,
    PROTOCOL_ROUTING = 43,
    PROTOCOL_FRAGMENT = 44,
    PROTOCOL_GRE = 47,
    PROTOCOL_ESP = 50,
    PROTOCOL_AUTHENTICATION = 51,
    PROTOCOL_ICMPV6 = 58,
    PROTOCOL_NOTHING = 59,
    PROTOCOL_OPTIONS = 60,
    PROTOCOL_EIGRP = 88,
    PROTOCOL_OSPF = 89,
    PROTOCOL_ETHERIP = 97,
    PROTOCOL_PIM = 103,
    PROTOCOL_VRRP = 112,
    PROTOCOL_L2TP = 115,
    PROTOCOL_MOBILITY = 135,
    PROTOCOL_MPLS = 137,
    PROTOCOL_HIP = 139,
    PROTOCOL_SHIM6 = 140,
    PROTOCOL_ETHERNET = 143,
};

enum {
    PORT_GTP = 2152,
    PORT_GRE = 4754,
    PORT_VXLAN = 4789,
    PORT_VXLAN_GPE = 4790,
    PORT_GENEVE = 6081,
    PORT_MPLS = 6635,
    PORT_VXLAN_LINUX = 8472,
};

enum step {
    STEP_END,
    STEP_ETHERNET,
    STEP_TYPE, /* what cursor.type says */
    STEP_LLC,
    STEP_PPP, /* the protocol field of PPP */
    STEP_MPLS,
    STEP_IP, /* of the version that its first four bits say */
    STEP_IPV4,
    STEP_IPV6,
    STEP_TRANSPORT, /* what cursor.type says, of the last level */
};

struct cursor {
    const uint8_t *bytes;
    uint32_t at; /* at most `end` */
    uint32_t end;
    uint32_t type; /* ethertype or IP protocol for the next step */
    uint8_t tunnel;
    bool inside; /* in a tunnel: MACs, tags and ethertype are no longer the outermost frame's */
    struct decoded_packet *out;
};

static inline uint32_t be16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(value) : value;
}

static inline uint32_t be32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(value) : value;
}

static inline uint32_t little16(const uint8_t *bytes)
{
    return (uint32_t)bytes[1] << 8 | bytes[0];
}

static inline const uint8_t *here(const struct cursor *cursor)
{
    return cursor->bytes + cursor->at;
}

static inline uint32_t left(const struct cursor *cursor)
{
    return cursor->end - cursor->at;
}

/* Whether `count` more bytes are there to be read. */
static inline bool have(struct cursor *cursor, uint32_t count)
{
    if (left(cursor) >= count)
        return true;
    cursor->out->flags |= DECODED_CUT;
    return false;
}

static inline bool skip(struct cursor *cursor, uint32_t count)
{
    if (!have(cursor, count)) {
        cursor->at = cursor->end;
        return false;
    }
    cursor->at += count;
    return true;
}

static inline enum step end_with(struct cursor *cursor, unsigned flag)
{
    cursor->out->flags |= flag;
    return STEP_END;
}

/* The outermost frame's headers end here. */
static inline void l2_ends(struct cursor *cursor, uint32_t ethertype)
{
    struct decoded_packet *out = cursor->out;
    if (cursor->inside || (out->flags & DECODED_L2) != 0)
        return;
    out->flags |= DECODED_L2;
    out->l2_end = cursor->at;
    out->ethertype = (uint16_t)ethertype;
}

static void macs_at(struct cursor *cursor, uint32_t destination, uint32_t source)
{
    if (cursor->inside ||
        (cursor->out->flags & (DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION)) != 0)
        return;
    if (left(cursor) >= destination + 6) {
        cursor->out->mac_destination_at = (uint16_t)(cursor->at + destination);
        cursor->out->flags |= DECODED_MAC_DESTINATION;
    }
    if (left(cursor) >= source + 6) {
        cursor->out->mac_source_at = (uint16_t)(cursor->at + source);
        cursor->out->flags |= DECODED_MAC_SOURCE;
    }
}

static enum step as_type(struct cursor *cursor, uint32_t type)
{
    cursor->type = type;
    return STEP_TYPE;
}

/* ---- the link layer ------------------------------------------------------------------------ */

static enum step step_ethernet(struct cursor *cursor)
{
    macs_at(cursor, 0, 6);
    if (!have(cursor, 14))
        return STEP_END;
    uint32_t type = be16(here(cursor) + 12);
    cursor->at += 14;
    return as_type(cursor, type);
}

/* A tag: its id where `tagged`, then the type of what follows. */
static bool step_tag(struct cursor *cursor, uint32_t tag_bytes, bool tagged)
{
    struct decoded_packet *out = cursor->out;
    if (!have(cursor, tag_bytes))
        return false;
    if (tagged && !cursor->inside) {
        if (out->tags == DECODE_TAGS_MAX) {
            out->flags |= DECODED_TOO_DEEP;
            return false;
        }
        out->tag[out->tags++] = be16(here(cursor)) & 0xfff;
    }
    cursor->type = be16(here(cursor) + tag_bytes - 2);
    cursor->at += tag_bytes;
    return true;
}

static enum step step_type(struct cursor *cursor)
{
    switch (cursor->type) {
    case TYPE_IPV4:
        l2_ends(cursor, cursor->type);
        return STEP_IPV4;
    case TYPE_IPV6:
        l2_ends(cursor, cursor->type);
        return STEP_IPV6;
    case TYPE_VLAN:
    case TYPE_VLAN_SERVICE:
    case TYPE_VLAN_OLD:
    case TYPE_VLAN_OLDER:
        return step_tag(cursor, 4, true) ? STEP_TYPE : STEP_END;
    case TYPE_VIRTUAL_NIC:
        return step_tag(cursor, 6, false) ? STEP_TYPE : STEP_END;
    case TYPE_EXTENDED_TAG:
        return step_tag(cursor, 8, false) ? STEP_TYPE : STEP_END;
    case TYPE_BACKBONE: /* the service's number, then the customer's frame */
        return skip(cursor, 4) ? STEP_ETHERNET : STEP_END;
    case TYPE_BRIDGING:
        return STEP_ETHERNET;
    case TYPE_MPLS:
    case TYPE_MPLS_MULTICAST:
        l2_ends(cursor, cursor->type);
        return STEP_MPLS;
    case TYPE_PPPOE_SESSION:
        if (!have(cursor, 6))
            return STEP_END;
        if (here(cursor)[0] != 0x11 || here(cursor)[1] != 0)
            return end_with(cursor, DECODED_MALFORMED);
        cursor->at += 6;
        return STEP_PPP;
    case TYPE_PPP:
        return STEP_PPP;
    default:
        if (cursor->type <= TYPE_LENGTH_MAX)
            return STEP_LLC;
        l2_ends(cursor, cursor->type);
        return STEP_END;
    }
}

static enum step step_llc(struct cursor *cursor)
{
    if (!have(cursor, 3))
        return STEP_END;
    const uint8_t *llc = here(cursor);
    if (llc[0] == 0x06 && llc[1] == 0x06 && llc[2] == 0x03) {
        cursor->at += 3;
        return as_type(cursor, TYPE_IPV4);
    }
    bool snap = llc[0] == 0xaa && llc[1] == 0xaa && llc[2] == 0x03;
    if (snap && !have(cursor, 8))
        return STEP_END;
    if (snap && llc[3] == 0 && llc[4] == 0 && (llc[5] == 0 || llc[5] == 0xf8)) {
        uint32_t type = be16(llc + 6);
        cursor->at += 8;
        if (type >= TYPE_SMALLEST)
            return as_type(cursor, type);
    }
    l2_ends(cursor, 0);
    return STEP_END;
}

static enum step step_ppp(struct cursor *cursor)
{
    if (!have(cursor, 1))
        return STEP_END;
    uint32_t protocol = here(cursor)[0];
    if ((protocol & 1) != 0) { /* compressed to its odd byte */
        cursor->at += 1;
    } else {
        if (!have(cursor, 2))
            return STEP_END;
        protocol = be16(here(cursor));
        cursor->at += 2;
    }
    l2_ends(cursor, 0);
    switch (protocol) {
    case 0x0021:
        return STEP_IPV4;
    case 0x0057:
        return STEP_IPV6;
    case 0x0281:
    case 0x0283:
        return STEP_MPLS;
    default:
        return STEP_END;
    }
}

/* Whether a frame of Ethernet may begin `ahead` bytes from here: its type is one that it would
 * have. */
static bool looks_like_ethernet(const struct cursor *cursor, uint32_t ahead)
{
    if (left(cursor) < ahead + 14)
        return false;
    switch (be16(here(cursor) + ahead + 12)) {
    case TYPE_IPV4:
    case TYPE_IPV6:
    case TYPE_VLAN:
    case TYPE_VLAN_SERVICE:
    case TYPE_MPLS:
    case 0x0806:
        return true;
    default:
        return false;
    }
}

/*
 * Labels do not say what they stand before. An IP header shows its version, and, of version 4, a
 * length that can be; a pseudowire of Ethernet shows a type where a frame, with or without a
 * control word before it, has one.
 */
static enum step step_mpls(struct cursor *cursor)
{
    struct decoded_packet *out = cursor->out;
    bool bottom = false;
    out->labels = 0;
    while (!bottom) {
        if (!have(cursor, 4))
            return STEP_END;
        if (out->labels == DECODE_LABELS_MAX)
            return end_with(cursor, DECODED_TOO_DEEP);
        out->labels++;
        bottom = (here(cursor)[2] & 1) != 0;
        cursor->at += 4;
    }
    if (!cursor->inside)
        out->flags |= DECODED_LABELS;
    cursor->inside = true;
    if (cursor->tunnel == TUNNEL_NONE)
        cursor->tunnel = TUNNEL_MPLS;
    if (!have(cursor, 1))
        return STEP_END;
    uint8_t first = here(cursor)[0];
    if (first >> 4 == 6)
        return STEP_IPV6;
    if (first >> 4 == 4 && (first & 15) >= 5)
        return STEP_IPV4;
    if (first >> 4 == 0) {
        if (!have(cursor, 4 + 14))
            return STEP_END; /* cut before it can be told which of both it is */
        if (looks_like_ethernet(cursor, 4)) {
            cursor->at += 4;
            return STEP_ETHERNET;
        }
    }
    return looks_like_ethernet(cursor, 0) ? STEP_ETHERNET : STEP_END;
}

/* ---- IP ------------------------------------------------------------------------------------ */

static struct decoded_level *level_begin(struct cursor *cursor, uint8_t version)
{
    struct decoded_packet *out = cursor->out;
    if (out->levels == DECODE_LEVELS_MAX) {
        out->flags |= DECODED_TOO_DEEP;
        return NULL;
    }
    struct decoded_level *level = &out->level[out->levels++];
    *level = (struct decoded_level){
        .l3_start = cursor->at,
        .l3_end = DECODE_UNKNOWN,
        .l4_end = DECODE_UNKNOWN,
        .version = version,
        .flags = cursor->inside ? LEVEL_INNER : 0,
        .tunnel = cursor->tunnel,
    };
    return level;
}

static enum step step_ip(struct cursor *cursor)
{
    if (!have(cursor, 1))
        return STEP_END;
    switch (here(cursor)[0] >> 4) {
    case 4:
        return STEP_IPV4;
    case 6:
        return STEP_IPV6;
    default:
        return end_with(cursor, DECODED_MALFORMED);
    }
}

static enum step step_ipv4(struct cursor *cursor)
{
    if (!have(cursor, 1))
        return STEP_END;
    const uint8_t *ip = here(cursor);
    uint32_t header_bytes = (ip[0] & 15u) * 4;
    if (ip[0] >> 4 != 4 || header_bytes < 20)
        return end_with(cursor, DECODED_MALFORMED);
    struct decoded_level *level = level_begin(cursor, 4);
    if (level == NULL)
        return STEP_END;
    level->l3_end = cursor->at + header_bytes;
    if (!have(cursor, 20))
        return STEP_END;
    uint32_t fragment = be16(ip + 6);
    level->flags |= LEVEL_ADDRESSES;
    if ((fragment & 0x3fff) != 0)
        level->flags |= LEVEL_FRAGMENT;
    if ((fragment & 0x1fff) != 0)
        level->flags |= LEVEL_LATER;
    level->protocol = ip[9];
    if (ip[9] != PROTOCOL_AUTHENTICATION)
        level->flags |= LEVEL_PROTOCOL;
    uint32_t total_bytes = be16(ip + 2); /* 0 where the adapter segments: take what is there */
    if (total_bytes >= header_bytes && total_bytes < left(cursor))
        cursor->end = cursor->at + total_bytes; /* padding is no header */
    if (!skip(cursor, header_bytes))
        return STEP_END;
    cursor->type = ip[9];
    return STEP_TRANSPORT;
}

static bool is_extension(uint32_t protocol)
{
    switch (protocol) {
    case PROTOCOL_HOP_BY_HOP:
    case PROTOCOL_ROUTING:
    case PROTOCOL_FRAGMENT:
    case PROTOCOL_AUTHENTICATION:
    case PROTOCOL_OPTIONS:
    case PROTOCOL_MOBILITY:
    case PROTOCOL_HIP:
    case PROTOCOL_SHIM6:
        return true;
    default:
        return false;
    }
}

/*
 * Walks extension headers from the cursor on: of version 6 all kinds, of version 4 the
 * authentication header. False where they cannot be walked to their end; level->l3_end is then
 * unknown, unless a later fragment's follows, whose l3_end is known.
 */
static bool walk_extensions(struct cursor *cursor, struct decoded_level *level)
{
    level->l3_end = DECODE_UNKNOWN;
    for (unsigned walked = 0; is_extension(cursor->type); walked++) {
        if (walked == DECODE_EXTENSIONS_MAX)
            return end_with(cursor, DECODED_TOO_DEEP), false;
        if (!have(cursor, 8))
            return false;
        const uint8_t *extension = here(cursor);
        uint32_t bytes = (extension[1] + 1u) * 8;
        if (cursor->type == PROTOCOL_AUTHENTICATION)
            bytes = (extension[1] + 2u) * 4;
        if (cursor->type == PROTOCOL_FRAGMENT) {
            bytes = 8;
            uint32_t fragment = be16(extension + 2);
            if ((fragment & 0xfff9) != 0)
                level->flags |= LEVEL_FRAGMENT;
            if ((fragment & 0xfff8) != 0)
                level->flags |= LEVEL_LATER;
        }
        cursor->type = extension[0];
        level->protocol = extension[0];
        if (!skip(cursor, bytes))
            return false;
        if ((level->flags & LEVEL_LATER) != 0)
            break; /* what follows is the middle of something */
        if (level->version == 4 && cursor->type != PROTOCOL_AUTHENTICATION)
            break;
    }
    level->flags |= LEVEL_PROTOCOL;
    level->l3_end = cursor->at;
    return true;
}

static enum step step_ipv6(struct cursor *cursor)
{
    if (!have(cursor, 1))
        return STEP_END;
    const uint8_t *ip = here(cursor);
    if (ip[0] >> 4 != 6)
        return end_with(cursor, DECODED_MALFORMED);
    struct decoded_level *level = level_begin(cursor, 6);
    if (level == NULL || !have(cursor, 40))
        return STEP_END;
    level->flags |= LEVEL_ADDRESSES;
    level->protocol = ip[6];
    uint32_t payload_bytes = be16(ip + 4); /* 0 of a jumbogram: take what is there */
    if (payload_bytes != 0 && payload_bytes + 40 < left(cursor))
        cursor->end = cursor->at + payload_bytes + 40;
    cursor->at += 40;
    cursor->type = ip[6];
    if (!walk_extensions(cursor, level))
        return STEP_END;
    return STEP_TRANSPORT;
}

/* ---- tunnels ------------------------------------------------------------------------------- */

static void enter(struct cursor *cursor, enum decoded_tunnel tunnel)
{
    cursor->tunnel = (uint8_t)tunnel;
    cursor->inside = true;
}

/* RFC 2784, 2890; version 1: RFC 2637; ERSPAN: draft-foschiano-erspan. */
static enum step step_gre(struct cursor *cursor, struct decoded_level *level)
{
    if (!have(cursor, 4))
        return STEP_END;
    const uint8_t *gre = here(cursor);
    uint32_t bits = be16(gre), type = be16(gre + 2);
    uint32_t version = bits & 7, bytes = 4;
    enum {
        CHECKSUM = 0x8000,
        ROUTING = 0x4000,
        KEY = 0x2000,
        SEQUENCE = 0x1000,
        ACKNOWLEDGED = 0x80
    };
    if (version > 1 || (bits & ROUTING) != 0)
        return STEP_END;
    bytes += (bits & CHECKSUM) != 0 ? 4 : 0;
    bytes += (bits & KEY) != 0 ? 4 : 0;
    bytes += (bits & SEQUENCE) != 0 ? 4 : 0;
    bytes += version == 1 && (bits & ACKNOWLEDGED) != 0 ? 4 : 0;
    if (level->l4_end == DECODE_UNKNOWN)
        level->l4_end = cursor->at + bytes;
    if (!skip(cursor, bytes))
        return STEP_END;
    enter(cursor, TUNNEL_GRE);
    if (version == 1)
        return type == TYPE_PPP ? STEP_PPP : STEP_END;
    if (type == TYPE_ERSPAN_I_II) { /* type I has no header of its own, and no sequence number */
        enter(cursor, TUNNEL_ERSPAN);
        return (bits & SEQUENCE) == 0 || skip(cursor, 8) ? STEP_ETHERNET : STEP_END;
    }
    if (type == TYPE_ERSPAN_III) {
        enter(cursor, TUNNEL_ERSPAN);
        if (!have(cursor, 12))
            return STEP_END;
        uint32_t subheader = (here(cursor)[11] & 1u) * 8;
        return skip(cursor, 12 + subheader) ? STEP_ETHERNET : STEP_END;
    }
    return type >= TYPE_SMALLEST ? as_type(cursor, type) : STEP_END;
}

/* RFC 7348; the generic extension names what follows. */
static enum step step_vxlan(struct cursor *cursor, bool generic)
{
    if (!have(cursor, 8))
        return STEP_END;
    const uint8_t *vxlan = here(cursor);
    if ((vxlan[0] & 0x08) == 0 || vxlan[7] != 0)
        return STEP_END; /* something else on that port */
    bool named = generic && (vxlan[0] & 0x04) != 0;
    uint8_t next = named ? vxlan[3] : 3;
    cursor->at += 8;
    enter(cursor, TUNNEL_VXLAN);
    switch (next) {
    case 1:
        return STEP_IPV4;
    case 2:
        return STEP_IPV6;
    case 3:
        return STEP_ETHERNET;
    case 5:
        return STEP_MPLS;
    default:
        return STEP_END;
    }
}

/* RFC 8926. */
static enum step step_geneve(struct cursor *cursor)
{
    if (!have(cursor, 8))
        return STEP_END;
    const uint8_t *geneve = here(cursor);
    if (geneve[0] >> 6 != 0 || geneve[7] != 0)
        return STEP_END;
    uint32_t type = be16(geneve + 2);
    if (!skip(cursor, 8 + (geneve[0] & 0x3fu) * 4))
        return STEP_END;
    enter(cursor, TUNNEL_GENEVE);
    return type >= TYPE_SMALLEST ? as_type(cursor, type) : STEP_END;
}

/* 3GPP TS 29.281. */
static enum step step_gtp(struct cursor *cursor)
{
    if (!have(cursor, 8))
        return STEP_END;
    const uint8_t *gtp = here(cursor);
    enum { VERSION_1 = 0x30, VERSION_BITS = 0xf0, EXTENDED = 4, OPTIONAL = 7, USER_DATA = 255 };
    if ((gtp[0] & VERSION_BITS) != VERSION_1 || gtp[1] != USER_DATA)
        return STEP_END;
    cursor->at += 8;
    if ((gtp[0] & OPTIONAL) != 0) {
        if (!have(cursor, 4))
            return STEP_END;
        uint8_t next = (gtp[0] & EXTENDED) != 0 ? here(cursor)[3] : 0;
        cursor->at += 4;
        for (unsigned walked = 0; next != 0; walked++) {
            if (walked == DECODE_EXTENSIONS_MAX)
                return end_with(cursor, DECODED_TOO_DEEP);
            if (!have(cursor, 1))
                return STEP_END;
            uint32_t bytes = here(cursor)[0] * 4u;
            if (bytes == 0)
                return end_with(cursor, DECODED_MALFORMED);
            if (!skip(cursor, bytes))
                return STEP_END;
            next = cursor->bytes[cursor->at - 1];
        }
    }
    if (!have(cursor, 1))
        return STEP_END;
    enter(cursor, TUNNEL_GTP);
    uint8_t version = here(cursor)[0] >> 4;
    return version == 4 ? STEP_IPV4 : version == 6 ? STEP_IPV6 : STEP_END;
}

static inline bool is_tunnel_port(uint32_t port)
{
    switch (port) {
    case PORT_GTP:
    case PORT_GRE:
    case PORT_VXLAN:
    case PORT_VXLAN_GPE:
    case PORT_GENEVE:
    case PORT_MPLS:
    case PORT_VXLAN_LINUX:
        return true;
    default:
        return false;
    }
}

static enum step step_udp_tunnel(struct cursor *cursor, struct decoded_level *level)
{
    switch (level->destination_port) {
    case PORT_VXLAN:
    case PORT_VXLAN_LINUX:
        return step_vxlan(cursor, false);
    case PORT_VXLAN_GPE:
        return step_vxlan(cursor, true);
    case PORT_GENEVE:
        return step_geneve(cursor);
    case PORT_MPLS:
        enter(cursor, TUNNEL_MPLS);
        return STEP_MPLS;
    case PORT_GRE:
        return step_gre(cursor, level);
    default:
        return level->destination_port == PORT_GTP || level->source_port == PORT_GTP
                   ? step_gtp(cursor)
                   : STEP_END;
    }
}

/* ---- the transport ------------------------------------------------------------------------- */

static bool take_ports(struct cursor *cursor, struct decoded_level *level)
{
    if (!have(cursor, 4))
        return false;
    level->source_port = (uint16_t)be16(here(cursor));
    level->destination_port = (uint16_t)be16(here(cursor) + 2);
    level->flags |= LEVEL_PORTS;
    return true;
}

static enum step fixed_header(struct cursor *cursor, struct decoded_level *level, uint32_t bytes)
{
    level->l4_end = cursor->at + bytes;
    have(cursor, bytes);
    return STEP_END;
}

static enum step step_tcp(struct cursor *cursor, struct decoded_level *level)
{
    if (!take_ports(cursor, level) || !have(cursor, 14))
        return STEP_END;
    const uint8_t *tcp = here(cursor);
    uint32_t bytes = (tcp[12] >> 4) * 4u;
    level->tcp_flags = tcp[13];
    level->flags |= LEVEL_TCP_FLAGS;
    if (bytes < 20)
        return end_with(cursor, DECODED_MALFORMED);
    return fixed_header(cursor, level, bytes);
}

static enum step step_dccp(struct cursor *cursor, struct decoded_level *level)
{
    if (!take_ports(cursor, level) || !have(cursor, 5))
        return STEP_END;
    uint32_t bytes = here(cursor)[4] * 4u;
    if (bytes < 12)
        return end_with(cursor, DECODED_MALFORMED);
    return fixed_header(cursor, level, bytes);
}

static enum step step_udp(struct cursor *cursor, struct decoded_level *level)
{
    bool ports = take_ports(cursor, level);
    level->l4_end = cursor->at + 8;
    if (!ports || !skip(cursor, 8))
        return STEP_END;
    if (!is_tunnel_port(level->destination_port) && level->source_port != PORT_GTP)
        return STEP_END;
    return step_udp_tunnel(cursor, level);
}

static enum step step_transport(struct cursor *cursor)
{
    struct decoded_level *level = &cursor->out->level[cursor->out->levels - 1];
    if (level->version == 4 && (level->flags & LEVEL_LATER) == 0 &&
        cursor->type == PROTOCOL_AUTHENTICATION && !walk_extensions(cursor, level))
        return STEP_END;
    if ((level->flags & LEVEL_LATER) != 0) {
        level->l4_end = level->l3_end;
        return STEP_END;
    }
    switch (cursor->type) {
    case PROTOCOL_TCP:
        return step_tcp(cursor, level);
    case PROTOCOL_UDP:
        return step_udp(cursor, level);
    case PROTOCOL_UDP_LITE:
        take_ports(cursor, level);
        return fixed_header(cursor, level, 8);
    case PROTOCOL_SCTP:
        take_ports(cursor, level);
        return fixed_header(cursor, level, 12);
    case PROTOCOL_DCCP:
        return step_dccp(cursor, level);
    case PROTOCOL_ICMP:
    case PROTOCOL_ICMPV6:
    case PROTOCOL_IGMP:
    case PROTOCOL_ESP:
    case PROTOCOL_VRRP:
        return fixed_header(cursor, level, 8);
    case PROTOCOL_PIM:
    case PROTOCOL_L2TP:
        return fixed_header(cursor, level, 4);
    case PROTOCOL_OSPF:
        return fixed_header(cursor, level, 24);
    case PROTOCOL_EIGRP:
        return fixed_header(cursor, level, 20);
    case PROTOCOL_NOTHING:
        return fixed_header(cursor, level, 0);
    case PROTOCOL_GRE:
        return step_gre(cursor, level);
    case PROTOCOL_IPV4:
        enter(cursor, TUNNEL_IP);
        return STEP_IPV4;
    case PROTOCOL_IPV6:
        enter(cursor, TUNNEL_IP);
        return STEP_IPV6;
    case PROTOCOL_MPLS:
        enter(cursor, TUNNEL_MPLS);
        return STEP_MPLS;
    case PROTOCOL_ETHERNET:
        enter(cursor, TUNNEL_ETHERNET);
        return STEP_ETHERNET;
    case PROTOCOL_ETHERIP:
        enter(cursor, TUNNEL_ETHERNET);
        return skip(cursor, 2) ? STEP_ETHERNET : STEP_END;
    default:
        return STEP_END;
    }
}

/* ---- link types ---------------------------------------------------------------------------- */

/* The address family of BSD's loopback, in the byte order of whoever captured it. */
static enum step link_null(struct cursor *cursor)
{
    if (!have(cursor, 4))
        return STEP_END;
    uint32_t family = be32(here(cursor));
    if (family > 0xffff)
        family = __builtin_bswap32(family);
    cursor->at += 4;
    switch (family) {
    case 2:
        return as_type(cursor, TYPE_IPV4);
    case 10: /* Linux */
    case 24: /* NetBSD, OpenBSD */
    case 28: /* FreeBSD */
    case 30: /* macOS */
        return as_type(cursor, TYPE_IPV6);
    default:
        l2_ends(cursor, 0);
        return STEP_END;
    }
}

static enum step link_raw(struct cursor *cursor, enum step next)
{
    l2_ends(cursor, 0);
    return next;
}

/* A protocol field of Linux: an ethertype, or a number below that says what kind of frame follows.
 */
static enum step linux_protocol(struct cursor *cursor, uint32_t protocol)
{
    if (protocol == 4)
        return STEP_LLC;
    if (protocol >= TYPE_SMALLEST)
        return as_type(cursor, protocol);
    l2_ends(cursor, 0);
    return STEP_END;
}

static enum step link_sll(struct cursor *cursor, uint32_t bytes, uint32_t protocol_at,
                          uint32_t address_bytes, uint32_t address_at)
{
    if (!have(cursor, bytes))
        return STEP_END;
    uint32_t protocol = be16(here(cursor) + protocol_at);
    if (address_bytes == 6) {
        cursor->out->mac_source_at = (uint16_t)(cursor->at + address_at);
        cursor->out->flags |= DECODED_MAC_SOURCE;
    }
    cursor->at += bytes;
    return linux_protocol(cursor, protocol);
}

static enum step link_ppp(struct cursor *cursor)
{
    if (left(cursor) >= 2 && here(cursor)[1] == 0x03 &&
        (here(cursor)[0] == 0xff || here(cursor)[0] == 0x00))
        cursor->at += 2; /* address and control */
    return STEP_PPP;
}

static enum step link_cisco(struct cursor *cursor)
{
    if (!have(cursor, 4))
        return STEP_END;
    uint32_t type = be16(here(cursor) + 2);
    cursor->at += 4;
    if (type >= TYPE_SMALLEST)
        return as_type(cursor, type);
    l2_ends(cursor, 0);
    return STEP_END;
}

static enum step link_fddi(struct cursor *cursor)
{
    if (!have(cursor, 13))
        return STEP_END;
    uint8_t control = here(cursor)[0];
    macs_at(cursor, 1, 7);
    cursor->at += 13;
    if ((control & 0xf0) == 0x50) /* asynchronous LLC */
        return STEP_LLC;
    l2_ends(cursor, 0);
    return STEP_END;
}

static enum step link_token_ring(struct cursor *cursor)
{
    if (!have(cursor, 14))
        return STEP_END;
    bool llc = (here(cursor)[1] & 0xc0) == 0x40;
    bool routed = (here(cursor)[8] & 0x80) != 0; /* a bit of the source address */
    macs_at(cursor, 2, 8);
    cursor->at += 14;
    if (routed) {
        if (!have(cursor, 2) || !skip(cursor, here(cursor)[0] & 0x1f))
            return STEP_END;
    }
    if (llc)
        return STEP_LLC;
    l2_ends(cursor, 0);
    return STEP_END;
}

/* IEEE 802.11. `padded`: the adapter fills the header up to a multiple of four bytes. */
static enum step link_wireless(struct cursor *cursor, bool padded)
{
    if (!have(cursor, 2))
        return STEP_END;
    const uint8_t *frame = here(cursor);
    enum { MANAGEMENT = 0, DATA = 2, EMPTY = 0x40, QUALITY = 0x80 };
    enum { TO_SYSTEM = 1, FROM_SYSTEM = 2, PROTECTED = 0x40, ORDER = 0x80 };
    unsigned type = frame[0] >> 2 & 3;
    unsigned way = frame[1] & (TO_SYSTEM | FROM_SYSTEM);
    if ((frame[0] & 3) != 0)
        return end_with(cursor, DECODED_MALFORMED);
    if (type == MANAGEMENT)
        macs_at(cursor, 4, 10);
    if (type != DATA)
        return STEP_END;
    macs_at(cursor, way & TO_SYSTEM ? 16 : 4,
            way == (TO_SYSTEM | FROM_SYSTEM) ? 24
            : way == FROM_SYSTEM             ? 16
                                             : 10);
    bool quality = (frame[0] & QUALITY) != 0, aggregated = false;
    uint32_t bytes = way == (TO_SYSTEM | FROM_SYSTEM) ? 30 : 24;
    if (quality) {
        if (!have(cursor, bytes + 2))
            return STEP_END;
        aggregated = (frame[bytes] & 0x80) != 0;
        bytes += (frame[1] & ORDER) != 0 ? 6 : 2;
    }
    if (padded)
        bytes = (bytes + 3) & ~3u;
    if (!skip(cursor, bytes))
        return STEP_END;
    if ((frame[0] & EMPTY) != 0 || (frame[1] & PROTECTED) != 0) {
        l2_ends(cursor, 0);
        return STEP_END;
    }
    if (aggregated && !skip(cursor, 14)) /* the first of several: its addresses and length */
        return STEP_END;
    return STEP_LLC;
}

static enum step link_radiotap(struct cursor *cursor)
{
    if (!have(cursor, 8))
        return STEP_END;
    const uint8_t *radio = here(cursor);
    uint32_t bytes = little16(radio + 2);
    if (radio[0] != 0 || bytes < 8)
        return end_with(cursor, DECODED_MALFORMED);
    if (!have(cursor, bytes))
        return STEP_END;
    /* The second field, if there, is a byte of flags behind all presence words and a 64-bit time.
     */
    enum { TIME = 1, FLAGS = 2, MORE = 0x80, FLAG_PADDED = 0x20 };
    uint32_t at = 8;
    for (const uint8_t *word = radio + 4; (word[3] & MORE) != 0 && at + 4 <= bytes; at += 4)
        word = radio + at;
    if ((radio[4] & TIME) != 0)
        at = ((at + 7) & ~7u) + 8;
    bool padded = (radio[4] & FLAGS) != 0 && at < bytes && (radio[at] & FLAG_PADDED) != 0;
    cursor->at += bytes;
    return link_wireless(cursor, padded);
}

/* The old prism header has 144 bytes; on the same link type, AVS headers say their length. */
static enum step link_prism(struct cursor *cursor)
{
    if (!have(cursor, 8))
        return STEP_END;
    uint32_t bytes = 144;
    if ((be32(here(cursor)) & 0xfffff000u) == 0x80211000u)
        bytes = be32(here(cursor) + 4);
    if (bytes < 8)
        return end_with(cursor, DECODED_MALFORMED);
    return skip(cursor, bytes) ? link_wireless(cursor, false) : STEP_END;
}

static enum step step_link(struct cursor *cursor, uint16_t link_type)
{
    cursor->out->flags = DECODED_LINK;
    switch (link_type) {
    case LINK_ETHERNET:
        return STEP_ETHERNET;
    case LINK_NULL:
    case LINK_LOOP:
        return link_null(cursor);
    case LINK_RAW:
    case LINK_RAW_BSD:
    case LINK_RAW_OPENBSD:
        return link_raw(cursor, STEP_IP);
    case LINK_IPV4:
        return link_raw(cursor, STEP_IPV4);
    case LINK_IPV6:
        return link_raw(cursor, STEP_IPV6);
    case LINK_LINUX_SLL:
        return link_sll(cursor, 16, 14, left(cursor) >= 6 ? be16(here(cursor) + 4) : 0, 6);
    case LINK_LINUX_SLL2:
        return link_sll(cursor, 20, 0, left(cursor) >= 12 ? here(cursor)[11] : 0, 12);
    case LINK_PPP:
    case LINK_PPP_HDLC:
        return link_ppp(cursor);
    case LINK_PPP_PPPD:
    case LINK_PPP_DIRECTION: /* a byte for the direction first */
        if (!skip(cursor, 1))
            return STEP_END;
        return link_ppp(cursor);
    case LINK_PPPOE:
        return as_type(cursor, TYPE_PPPOE_SESSION);
    case LINK_CISCO_HDLC:
        return link_cisco(cursor);
    case LINK_ATM_RFC1483:
        return STEP_LLC;
    case LINK_FDDI:
        return link_fddi(cursor);
    case LINK_TOKEN_RING:
        return link_token_ring(cursor);
    case LINK_IEEE802_11:
        return link_wireless(cursor, false);
    case LINK_RADIOTAP:
        return link_radiotap(cursor);
    case LINK_PRISM:
    case LINK_AVS:
        return link_prism(cursor);
    default:
        cursor->out->flags = 0;
        return STEP_END;
    }
}

/* ---- the walk ------------------------------------------------------------------------------ */

static inline void decoded_begin(struct decoded_packet *out)
{
    out->flags = 0;
    out->ethertype = 0;
    out->levels = 0;
    out->tags = 0;
    out->labels = 0;
    out->mac_source_at = 0;
    out->mac_destination_at = 0;
    out->tag[0] = 0;
    out->level[0] = (struct decoded_level){0};
    out->l2_end = DECODE_UNKNOWN;
    out->l3_end = DECODE_UNKNOWN;
    out->l4_end = DECODE_UNKNOWN;
}

static enum step step_once(struct cursor *cursor, enum step step)
{
    switch (step) {
    case STEP_ETHERNET:
        return step_ethernet(cursor);
    case STEP_TYPE:
        return step_type(cursor);
    case STEP_LLC:
        return step_llc(cursor);
    case STEP_PPP:
        return step_ppp(cursor);
    case STEP_MPLS:
        return step_mpls(cursor);
    case STEP_IP:
        return step_ip(cursor);
    case STEP_IPV4:
        return step_ipv4(cursor);
    case STEP_IPV6:
        return step_ipv6(cursor);
    case STEP_TRANSPORT:
        return step_transport(cursor);
    default:
        return STEP_END;
    }
}

void decode_packet_slowly(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                          struct decoded_packet *decoded)
{
    struct cursor cursor = {.bytes = bytes, .end = captured_bytes, .out = decoded};
    decoded_begin(decoded);
    enum step step = step_link(&cursor, link_type);
    for (unsigned steps = 0; step != STEP_END; steps++) {
        if (steps == DECODE_STEPS_MAX) {
            decoded->flags |= DECODED_TOO_DEEP;
            break;
        }
        step = step_once(&cursor, step);
    }
    const struct decoded_level *level = decoded_innermost(decoded);
    if (level != NULL) {
        decoded->l3_end = level->l3_end;
        decoded->l4_end = level->l4_end;
    }
}

/*
 * The plain packets: Ethernet with at most one tag, IP without options, fragments and extensions,
 * TCP or UDP that is complete and no tunnel. There are eight shapes of them, and a shape says
 * everything about a packet but its ports, its tag, and TCP's flags and length.
 */
enum { PLAIN_TAGGED = 1, PLAIN_V6 = 2, PLAIN_TCP = 4, PLAIN_SHAPES = 8 };

#define PLAIN_L2(shape) (14u + 4 * (((shape)&PLAIN_TAGGED) != 0))
#define PLAIN_L3(shape) (PLAIN_L2(shape) + (((shape)&PLAIN_V6) != 0 ? 40 : 20))
#define PLAIN_L4(shape) (PLAIN_L3(shape) + (((shape)&PLAIN_TCP) != 0 ? 20 : 8))
#define PLAIN(shape)                                                                        \
    {                                                                                       \
        .flags = DECODED_LINK | DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION | DECODED_L2,  \
        .ethertype = ((shape)&PLAIN_V6) != 0 ? TYPE_IPV6 : TYPE_IPV4, .levels = 1,          \
        .tags = ((shape)&PLAIN_TAGGED) != 0, .mac_source_at = 6, .l2_end = PLAIN_L2(shape), \
        .l3_end = PLAIN_L3(shape), .l4_end = PLAIN_L4(shape),                               \
        .level[0] = {                                                                       \
            .l3_start = PLAIN_L2(shape),                                                    \
            .l3_end = PLAIN_L3(shape),                                                      \
            .l4_end = PLAIN_L4(shape),                                                      \
            .version = ((shape)&PLAIN_V6) != 0 ? 6 : 4,                                     \
            .protocol = ((shape)&PLAIN_TCP) != 0 ? PROTOCOL_TCP : PROTOCOL_UDP,             \
            .flags = LEVEL_ADDRESSES | LEVEL_PROTOCOL | LEVEL_PORTS |                       \
                     (((shape)&PLAIN_TCP) != 0 ? LEVEL_TCP_FLAGS : 0),                      \
        },                                                                                  \
    }

static const struct decoded_packet plain_packet[PLAIN_SHAPES] = {
    PLAIN(0), PLAIN(1), PLAIN(2), PLAIN(3), PLAIN(4), PLAIN(5), PLAIN(6), PLAIN(7),
};

/* What is copied of it. */
#define PLAIN_BYTES (offsetof(struct decoded_packet, level) + sizeof(struct decoded_level))

/* Ports of tunnels over UDP, each at its number modulo 32. Port 0 is taken for one: it is rare. */
#define PORT_PLACES 32u
#define PORT_PLACE(port) [(port) % PORT_PLACES] = (port)
static const uint16_t tunnel_port[PORT_PLACES] = {
    PORT_PLACE(PORT_GTP),         PORT_PLACE(PORT_GRE),    PORT_PLACE(PORT_VXLAN),
    PORT_PLACE(PORT_VXLAN_GPE),   PORT_PLACE(PORT_GENEVE), PORT_PLACE(PORT_MPLS),
    PORT_PLACE(PORT_VXLAN_LINUX),
};

static inline uint64_t load64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Hides from the compiler that a number is 0 or 1: it would branch on it. */
static inline uint32_t unforeseen(uint32_t value)
{
    __asm__("" : "+r"(value));
    return value;
}

/* What the first 8 bytes of a plain header of version 4 say: its length, that it is no fragment. */
static inline uint64_t unlike_v4(const uint8_t *ip)
{
    static const uint8_t mask[8] = {0xff, 0, 0, 0, 0, 0, 0x3f, 0xff}, value[8] = {0x45};
    return (load64(ip) & load64(mask)) ^ load64(value);
}

/*
 * Whether a packet whose IP header, of that version, begins at `at` is plain: both are constants here. What
 * TCP and UDP differ in is chosen by arithmetic, and the one question is whether all of it is
 * plain: `unlike` is then 0, and each number that `least` was made of at least 0.
 */
struct plain_transport {
    uint32_t tcp; /* 0 or 1 */
    uint32_t l4_bytes;
    uint32_t ports;
};

static inline __attribute__((always_inline)) bool is_plain(const uint8_t *bytes, uint32_t captured_bytes, uint32_t shape,
                                                           struct plain_transport *found)
{
    const bool v6 = (shape & PLAIN_V6) != 0;
    const uint32_t at = PLAIN_L2(shape), l3_end = PLAIN_L3(shape);
    if (captured_bytes < l3_end + 20)
        return false;
    const uint8_t *ip = bytes + at, *transport = bytes + l3_end;
    uint32_t protocol = ip[v6 ? 6 : 9];
    uint32_t tcp = unforeseen(protocol == PROTOCOL_TCP);
    uint32_t l4_bytes = 8 + (((transport[12] >> 2) & 0x3cu) - 8) * tcp;
    uint32_t ports = be32(transport), destination_port = ports & 0xffff, source_port = ports >> 16;
    uint64_t unlike = v6 ? (ip[0] & 0xf0u) ^ 0x60u : unlike_v4(ip);
    unlike |= protocol ^ (PROTOCOL_UDP - (PROTOCOL_UDP - PROTOCOL_TCP) * tcp);
    /* Only version 4 counts the header. A length of 0 is an adapter's, or a jumbogram's. */
    uint32_t length = v6 ? be16(ip + 4) : be16(ip + 2) - 20;
    int32_t least = (int32_t)(length - l4_bytes);
    least |= (int32_t)(l4_bytes - (8 + 12 * tcp));
    least |= (int32_t)(captured_bytes - l3_end - l4_bytes);
    least |= (int32_t)(tunnel_port[destination_port % PORT_PLACES] ^ destination_port) - 1;
    least |= (int32_t)(source_port ^ PORT_GTP) - 1;
    *found = (struct plain_transport){.tcp = tcp, .l4_bytes = l4_bytes, .ports = ports};
    return (unlike | (uint32_t)least >> 31) == 0;
}

static inline __attribute__((always_inline)) bool decode_shape(const uint8_t *bytes,
                                                               uint32_t captured_bytes,
                                                               uint32_t shape,
                                                               struct decoded_packet *decoded)
{
    const uint32_t l3_end = PLAIN_L3(shape);
    struct plain_transport found;
    if (!is_plain(bytes, captured_bytes, shape, &found))
        return false;
    uint32_t tcp = found.tcp, l4_bytes = found.l4_bytes, source_port = found.ports >> 16, destination_port = found.ports & 0xffff;
    const uint8_t *transport = bytes + l3_end;
    memcpy(decoded, &plain_packet[shape + tcp * PLAIN_TCP], PLAIN_BYTES);
    if ((shape & PLAIN_TAGGED) != 0)
        decoded->tag[0] = (uint16_t)(be16(bytes + 14) & 0xfff);
    decoded->l4_end = l3_end + l4_bytes;
    decoded->level[0].l4_end = l3_end + l4_bytes;
    decoded->level[0].source_port = (uint16_t)source_port;
    decoded->level[0].destination_port = (uint16_t)destination_port;
    decoded->level[0].tcp_flags = (uint8_t)(transport[13] * tcp);
    return true;
}

/*
 * Decodes a plain packet. False: it is none, and the walk must decode it; `decoded` is unchanged.
 *
 * Tags and versions are branched on: most traffic is mostly of one kind, and a branch that is
 * guessed right lets a processor go on where a number would have to be waited for. TCP and UDP come
 * mixed: no branch there.
 */
static inline bool decode_plain(const uint8_t *bytes, uint32_t captured_bytes,
                                struct decoded_packet *decoded)
{
    if (captured_bytes < PLAIN_L4(0))
        return false;
    uint32_t type = be16(bytes + 12);
    if (type == TYPE_IPV4)
        return decode_shape(bytes, captured_bytes, 0, decoded);
    if (type == TYPE_IPV6)
        return decode_shape(bytes, captured_bytes, PLAIN_V6, decoded);
    if (type != TYPE_VLAN)
        return false;
    type = be16(bytes + 16);
    if (type == TYPE_IPV4)
        return decode_shape(bytes, captured_bytes, PLAIN_TAGGED, decoded);
    return type == TYPE_IPV6 &&
           decode_shape(bytes, captured_bytes, PLAIN_TAGGED | PLAIN_V6, decoded);
}

static inline uint64_t be64(const uint8_t *bytes)
{
    uint64_t value = load64(bytes);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(value) : value;
}

bool decode_flow_plain(const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain)
{
    struct plain_transport found;
    if (captured_bytes < PLAIN_L4(0))
        return false;
    uint32_t type = be16(bytes + 12), l3_start = PLAIN_L2(0);
    uint64_t tag = 0;
    if (type == TYPE_IPV4) {
        if (!is_plain(bytes, captured_bytes, 0, &found))
            return false;
    } else {
        if (type != TYPE_VLAN || be16(bytes + 16) != TYPE_IPV4 || !is_plain(bytes, captured_bytes, PLAIN_TAGGED, &found))
            return false;
        l3_start = PLAIN_L2(PLAIN_TAGGED);
        tag = FLOW_PLAIN_TAGGED | (be16(bytes + 14) & 0xfffu) << FLOW_PLAIN_VLAN;
    }
    uint64_t addresses = be64(bytes + l3_start + 12);
    uint32_t source = (uint32_t)(addresses >> 32), destination = (uint32_t)addresses;
    if (source == destination)
        return false; /* such ends are put in order by all that there is of them */
    uint64_t sender = be64(bytes + 4) << 16 | found.ports >> 16, receiver = (be64(bytes) & ~UINT64_C(0xffff)) | (found.ports & 0xffff);
    bool from = source > destination;
    plain->word[0] = from ? addresses << 32 | source : addresses;
    plain->word[1] = from ? receiver : sender;
    plain->word[2] = from ? sender : receiver;
    plain->word[3] = flow_plain_last(tag | found.tcp * FLOW_PLAIN_TCP, from, (uint8_t)(bytes[l3_start + 20 + 13] * found.tcp));
    return true;
}

static inline void decode_one(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                              struct decoded_packet *decoded)
{
    if (link_type != LINK_ETHERNET || !decode_plain(bytes, captured_bytes, decoded))
        decode_packet_slowly(link_type, bytes, captured_bytes, decoded);
}

void decode_packet(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                   struct decoded_packet *decoded)
{
    decode_one(link_type, bytes, captured_bytes, decoded);
}

void decode_batch(const struct packet *packet, uint32_t count, uint32_t behind,
                  const uint16_t *link_type, struct decoded_packet *decoded)
{
    for (uint32_t i = 0; i < count; i++) {
        if (i + DECODE_PREFETCH_AHEAD < count + behind)
            decode_prefetch(packet[i + DECODE_PREFETCH_AHEAD].bytes);
        decode_one(link_type[packet[i].interface], packet[i].bytes, packet[i].captured_bytes,
                   &decoded[i]);
    }
}

/* ---- conversations ------------------------------------------------------------------------- */

bool decoded_flow_hash(const uint8_t *bytes, const struct decoded_packet *decoded, uint64_t seed,
                       uint64_t *hash)
{
    const struct decoded_level *level = decoded_innermost(decoded);
    if (level == NULL || (level->flags & LEVEL_ADDRESSES) == 0)
        return false;
    /* The lesser end first: address, then port. */
    struct {
        uint8_t address[2][16];
        uint16_t port[2];
        uint16_t protocol;
        uint16_t version;
    } key;
    _Static_assert(sizeof key == 40, "no padding is hashed");
    memset(&key, 0, sizeof key);
    uint32_t address_bytes = level->version == 4 ? 4 : 16;
    const uint8_t *source = decoded_source(bytes, level);
    const uint8_t *destination = decoded_destination(bytes, level);
    bool ports = (level->flags & (LEVEL_PORTS | LEVEL_FRAGMENT)) == LEVEL_PORTS;
    int order = memcmp(source, destination, address_bytes);
    if (order == 0 && ports)
        order = (int)level->source_port - (int)level->destination_port;
    unsigned first = order > 0;
    memcpy(key.address[first], source, address_bytes);
    memcpy(key.address[!first], destination, address_bytes);
    if (ports) {
        key.port[first] = level->source_port;
        key.port[!first] = level->destination_port;
    }
    key.protocol = level->protocol;
    key.version = level->version;
    *hash = XXH3_64bits_withSeed(&key, sizeof key, seed);
    return true;
}
