#include "packet_keys.h"

#include <stdbool.h>
#include <string.h>

enum { ETHERNET_BYTES = 14, TAG_BYTES = 4, LABEL_BYTES = 4, ARP_BYTES = 28, TYPE_PPPOE = 0x8864 };

_Static_assert(TUNNEL_VXLAN == FLOW_TUNNEL_VXLAN && TUNNEL_GENEVE == FLOW_TUNNEL_GENEVE,
               "numbers that lie on disks");

#define TROUBLE (DECODED_CUT | DECODED_MALFORMED | DECODED_TOO_DEEP)

static inline uint32_t be16_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 8 | bytes[1];
}

static inline uint64_t be64_at(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(value) : value;
}

/* Whether an expression reads the network header of this link type where the decoder does. */
static bool link_is_sure(uint16_t link_type, const struct decoded_packet *decoded)
{
    switch (link_type) {
    case LINK_ETHERNET:
    case LINK_RAW:
    case LINK_RAW_BSD:
    case LINK_RAW_OPENBSD:
    case LINK_IPV4:
    case LINK_IPV6:
    case LINK_NULL:
    case LINK_LOOP:
    case LINK_LINUX_SLL:
    case LINK_LINUX_SLL2:
        return (decoded->flags & DECODED_L2) != 0;
    case LINK_PPP: /* where address and control are left out, all offsets are others */
        return (decoded->flags & DECODED_L2) != 0 && decoded->l2_end == 4;
    default:
        return false;
    }
}

static uint16_t level_marks(const uint8_t *bytes, const struct decoded_level *level, bool trouble)
{
    uint8_t first = bytes[level->l3_start + (level->version == 4 ? 9 : 6)];
    uint16_t marks = 0;
    if ((level->flags & LEVEL_PORTS) != 0)
        marks |= FLOW_PORTS;
    else if (trouble && (level->flags & LEVEL_LATER) == 0)
        marks |= FLOW_TRANSPORT_UNSURE;
    if (first != level->protocol || (level->flags & LEVEL_PROTOCOL) == 0)
        marks |= FLOW_EXTENSIONS;
    if ((level->flags & LEVEL_FRAGMENT) != 0)
        marks |= FLOW_FRAGMENT;
    return marks;
}

/* Labels must be directly before the IP header, or a reader that skips them lands elsewhere. */
static uint16_t label_marks(const struct decoded_packet *decoded, struct flow_kind *kind)
{
    kind->labels = decoded->labels > 0 ? decoded->labels : 1;
    if (decoded->levels == 0 ||
        decoded->level[0].l3_start != decoded->l2_end + LABEL_BYTES * (uint32_t)decoded->labels)
        return FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE | FLOW_ENCLOSED;
    return FLOW_ENCLOSED;
}

static uint16_t ethernet_marks(const uint8_t *bytes, const struct decoded_packet *decoded,
                               uint32_t captured_bytes)
{
    uint16_t marks = 0;
    if ((decoded->flags & (DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION)) ==
        (DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION))
        marks |= FLOW_ETHERNET;
    uint32_t direct = ETHERNET_BYTES + TAG_BYTES * (uint32_t)decoded->tags;
    if (decoded->ethertype != 0 && decoded->l2_end == direct)
        marks |= FLOW_DIRECT;
    if (decoded->ethertype == 0 && captured_bytes >= direct &&
        be16_at(bytes + direct - 2) == TYPE_PPPOE)
        marks |= FLOW_PPPOE;
    return marks;
}

/* Addresses of ARP and RARP, where a filter reads them: at fixed places, whatever the header says. */
static uint16_t arp_ends(const uint8_t *bytes, uint32_t captured_bytes,
                         const struct decoded_packet *decoded, struct flow_keys *keys)
{
    if (captured_bytes < decoded->l2_end + ARP_BYTES)
        return FLOW_NETWORK_UNSURE;
    keys->kind.version = 4;
    memcpy(keys->end[0].address, bytes + decoded->l2_end + 14, 4);
    memcpy(keys->end[1].address, bytes + decoded->l2_end + 24, 4);
    return 0;
}

static void fill_inner(const uint8_t *bytes, const struct decoded_packet *decoded,
                       struct flow_keys *keys)
{
    const struct decoded_level *level = decoded_innermost(decoded);
    struct flow_inner *inner = &keys->inner;
    keys->kind.tunnel = decoded->level[1].tunnel;
    if ((level->flags & LEVEL_ADDRESSES) == 0) {
        keys->kind.marks |= FLOW_DEEP;
        return;
    }
    bool trouble = (decoded->flags & TROUBLE) != 0;
    uint32_t address_bytes = level->version == 4 ? 4 : 16;
    memset(inner, 0, sizeof *inner);
    memcpy(inner->address[0], decoded_source(bytes, level), address_bytes);
    memcpy(inner->address[1], decoded_destination(bytes, level), address_bytes);
    inner->marks = (uint8_t)level_marks(bytes, level, trouble);
    if ((inner->marks & FLOW_PORTS) != 0) {
        inner->port[0] = level->source_port;
        inner->port[1] = level->destination_port;
    }
    inner->version = level->version;
    inner->protocol = level->protocol;
    keys->kind.marks |= FLOW_INNER;
    if (trouble || decoded->levels > 2)
        keys->kind.marks |= FLOW_DEEP;
}

/* Everything but what plain packets have. end[0] is the source here. */
static void fill_rest(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                      const struct decoded_packet *decoded, struct flow_keys *keys)
{
    bool trouble = (decoded->flags & TROUBLE) != 0;
    struct flow_kind *kind = &keys->kind;
    kind->marks = 0;
    if (!link_is_sure(link_type, decoded))
        kind->marks |= FLOW_LINK_UNSURE | FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE;
    else if (link_type == LINK_ETHERNET)
        kind->marks |= ethernet_marks(bytes, decoded, captured_bytes);
    if ((decoded->flags & DECODED_LABELS) != 0)
        kind->marks |= label_marks(decoded, kind);
    if (trouble)
        kind->marks |= FLOW_DEEP;
    const struct decoded_level *level = decoded->levels > 0 ? &decoded->level[0] : NULL;
    if (level != NULL && (level->flags & LEVEL_ADDRESSES) != 0) {
        uint32_t address_bytes = level->version == 4 ? 4 : 16;
        memcpy(keys->end[0].address, decoded_source(bytes, level), address_bytes);
        memcpy(keys->end[1].address, decoded_destination(bytes, level), address_bytes);
        kind->version = level->version;
        kind->protocol = level->protocol;
        kind->marks |= level_marks(bytes, level, trouble && decoded->levels == 1);
        if ((kind->marks & FLOW_PORTS) != 0) {
            keys->end[0].port = level->source_port;
            keys->end[1].port = level->destination_port;
        }
        keys->tcp_flags = (level->flags & LEVEL_TCP_FLAGS) != 0 ? level->tcp_flags : 0;
    } else if (level == NULL && (decoded->flags & DECODED_L2) != 0 &&
               (decoded->ethertype == FLOW_ETHERTYPE_ARP ||
                decoded->ethertype == FLOW_ETHERTYPE_RARP)) {
        kind->marks |= arp_ends(bytes, captured_bytes, decoded, keys);
    } else if (level != NULL || trouble) {
        kind->marks |= FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE;
    }
    if (decoded->levels > 1)
        fill_inner(bytes, decoded, keys);
}

/* Puts the ends into the order that does not depend on the direction. */
static void order_ends(struct flow_keys *keys)
{
    uint64_t a = be64_at(keys->end[0].address), b = be64_at(keys->end[1].address);
    if (a == b) {
        int order = memcmp(&keys->end[0], &keys->end[1], sizeof keys->end[0]);
        a = order > 0;
        b = 0;
    }
    keys->from = a > b;
    if (!keys->from)
        return;
    struct flow_end end = keys->end[0];
    keys->end[0] = keys->end[1];
    keys->end[1] = end;
    if ((keys->kind.marks & FLOW_INNER) == 0)
        return;
    struct flow_inner *inner = &keys->inner;
    uint8_t address[16];
    uint16_t port = inner->port[0];
    memcpy(address, inner->address[0], sizeof address);
    memcpy(inner->address[0], inner->address[1], sizeof address);
    memcpy(inner->address[1], address, sizeof address);
    inner->port[0] = inner->port[1];
    inner->port[1] = port;
}

static void fill_any(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                     const struct decoded_packet *decoded, struct flow_keys *keys)
{
    memset(keys->end, 0, sizeof keys->end);
    keys->kind = (struct flow_kind){
        .link_type = link_type,
        .ethertype = decoded->ethertype,
        .tags = decoded->tags,
        .vlan = {decoded->tags > 0 ? decoded->tag[0] : 0, decoded->tags > 1 ? decoded->tag[1] : 0},
    };
    keys->tcp_flags = 0;
    if ((decoded->flags & DECODED_MAC_SOURCE) != 0)
        memcpy(keys->end[0].mac, bytes + decoded->mac_source_at, 6);
    if ((decoded->flags & DECODED_MAC_DESTINATION) != 0)
        memcpy(keys->end[1].mac, bytes + decoded->mac_destination_at, 6);
    fill_rest(link_type, bytes, captured_bytes, decoded, keys);
    order_ends(keys);
}

void packet_keys_fill(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                      const struct decoded_packet *decoded, struct flow_keys *keys)
{
    /* What most packets are: Ethernet, at most one tag, one IP header, TCP or UDP. */
    const struct decoded_level *level = &decoded->level[0];
    const uint32_t l2_end = ETHERNET_BYTES + TAG_BYTES * (uint32_t)decoded->tags;
    const bool v6 = level->version == 6;
    if (link_type != LINK_ETHERNET || decoded->levels != 1 ||
        decoded->flags != (DECODED_LINK | DECODED_L2 | DECODED_MAC_SOURCE | DECODED_MAC_DESTINATION) ||
        decoded->tags > 1 || decoded->l2_end != l2_end || decoded->ethertype != (v6 ? FLOW_ETHERTYPE_IPV6 : FLOW_ETHERTYPE_IP) ||
        (level->flags & ~LEVEL_TCP_FLAGS) != (LEVEL_ADDRESSES | LEVEL_PROTOCOL | LEVEL_PORTS) || level->l3_start != l2_end ||
        bytes[l2_end + (v6 ? 6 : 9)] != level->protocol) {
        fill_any(link_type, bytes, captured_bytes, decoded, keys);
        return;
    }
    const uint8_t *source = bytes + l2_end + (v6 ? 8 : 12), *destination = source + (v6 ? 16 : 4);
    uint64_t a = be64_at(source), b = v6 ? be64_at(destination) : a << 32;
    if (!v6)
        a = a >> 32 << 32;
    if (a == b) {
        fill_any(link_type, bytes, captured_bytes, decoded, keys);
        return;
    }
    uint32_t from = a > b;
    struct flow_end *sender = &keys->end[from], *receiver = &keys->end[!from];
    memset(keys->end, 0, sizeof keys->end);
    if (v6) {
        memcpy(sender->address, source, 16);
        memcpy(receiver->address, destination, 16);
    } else {
        memcpy(sender->address, source, 4);
        memcpy(receiver->address, destination, 4);
    }
    memcpy(sender->mac, bytes + 6, 6);
    memcpy(receiver->mac, bytes, 6);
    sender->port = level->source_port;
    receiver->port = level->destination_port;
    keys->kind = (struct flow_kind){
        .marks = FLOW_ETHERNET | FLOW_DIRECT | FLOW_PORTS,
        .vlan = {decoded->tags > 0 ? decoded->tag[0] : 0},
        .ethertype = decoded->ethertype,
        .link_type = LINK_ETHERNET,
        .version = level->version,
        .protocol = level->protocol,
        .tags = decoded->tags,
    };
    keys->from = (uint8_t)from;
    keys->tcp_flags = (level->flags & LEVEL_TCP_FLAGS) != 0 ? level->tcp_flags : 0;
}

/* Apart from what most packets need. */
static __attribute__((noinline)) void decode_and_fill(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_keys *keys)
{
    struct decoded_packet decoded;
    decode_packet(link_type, bytes, captured_bytes, &decoded);
    packet_keys_fill(link_type, bytes, captured_bytes, &decoded, keys);
}

bool packet_keys_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain, struct flow_keys *keys)
{
    if (!keys)
        return link_type == LINK_ETHERNET && decode_flow_plain(bytes, captured_bytes, plain);
    if (plain && link_type == LINK_ETHERNET && decode_flow_plain(bytes, captured_bytes, plain))
        return true;
    decode_and_fill(link_type, bytes, captured_bytes, keys);
    return false;
}
