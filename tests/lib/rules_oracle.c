#include "rules_oracle.h"

#include <assert.h>
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#define NEVER (-1L)

struct level {
    int version;
    int inner;
    int addresses; /* known */
    uint8_t from[16], to[16];
    int protocol;
    int ports; /* known */
    int from_port, to_port;
    int tcp_flags; /* -1: not known */
    int fragment, later;
    long l3_end, l4_end;
};

struct facts {
    int macs;
    uint8_t mac[2][6];
    int vlans;
    int vlan[8];
    int levels;
    struct level level[8];
    int steps;
};

/* A stretch of the packet: from `at` up to `end`. */
struct stretch {
    const uint8_t *p;
    long at, end;
};

static int number(const uint8_t *p, int bytes)
{
    unsigned value = 0;
    while (bytes-- > 0)
        value = value << 8 | *p++;
    return (int)value;
}

static long room(struct stretch s)
{
    return s.end - s.at;
}

static struct stretch after(struct stretch s, long bytes)
{
    s.at += bytes;
    return s;
}

static void note_mac(struct facts *f, struct stretch s, long at, int inside)
{
    if (!inside && f->macs < 2 && room(s) >= at + 6)
        memcpy(f->mac[f->macs++], s.p + s.at + at, 6);
}

static void ip_any(struct facts *f, struct stretch s, int inside);
static void ip4(struct facts *f, struct stretch s, int inside);
static void ip6(struct facts *f, struct stretch s, int inside);
static void typed(struct facts *f, struct stretch s, int type, int inside);

static void ethernet(struct facts *f, struct stretch s, int inside)
{
    if (f->macs == 0) {
        note_mac(f, s, 0, inside);
        note_mac(f, s, 6, inside);
    }
    if (room(s) >= 14)
        typed(f, after(s, 14), number(s.p + s.at + 12, 2), inside);
}

static void llc(struct facts *f, struct stretch s, int inside)
{
    const uint8_t *p = s.p + s.at;
    if (room(s) >= 3 && memcmp(p, "\x06\x06\x03", 3) == 0)
        typed(f, after(s, 3), 0x800, inside);
    else if (room(s) >= 8 &&
             (memcmp(p, "\xaa\xaa\x03\0\0\0", 6) == 0 ||
              memcmp(p, "\xaa\xaa\x03\0\0\xf8", 6) == 0) &&
             number(p + 6, 2) >= 0x600)
        typed(f, after(s, 8), number(p + 6, 2), inside);
}

static int could_be_frame(struct stretch s)
{
    if (room(s) < 14)
        return 0;
    int type = number(s.p + s.at + 12, 2);
    return type == 0x800 || type == 0x86dd || type == 0x8100 || type == 0x88a8 || type == 0x8847 ||
           type == 0x806;
}

static void mpls(struct facts *f, struct stretch s)
{
    for (int labels = 0;; labels++) {
        if (room(s) < 4 || labels == 16)
            return;
        s = after(s, 4);
        if (s.p[s.at - 2] & 1)
            break;
    }
    if (room(s) < 1)
        return;
    int first = s.p[s.at];
    if (first >= 0x60 && first < 0x70)
        ip6(f, s, 1);
    else if (first >= 0x45 && first < 0x50)
        ip4(f, s, 1);
    else if (first < 0x10 && room(s) < 18)
        return;
    else if (first < 0x10 && could_be_frame(after(s, 4)))
        ethernet(f, after(s, 4), 1);
    else if (could_be_frame(s))
        ethernet(f, s, 1);
}

static void ppp(struct facts *f, struct stretch s, int inside)
{
    if (room(s) < 1)
        return;
    int odd = s.p[s.at] & 1;
    if (!odd && room(s) < 2)
        return;
    int protocol = odd ? s.p[s.at] : number(s.p + s.at, 2);
    s = after(s, odd ? 1 : 2);
    if (protocol == 0x21)
        ip4(f, s, inside);
    if (protocol == 0x57)
        ip6(f, s, inside);
    if (protocol == 0x281 || protocol == 0x283)
        mpls(f, s);
}

static void typed(struct facts *f, struct stretch s, int type, int inside)
{
    const uint8_t *p = s.p + s.at;
    int tag = 0;
    if (f->steps++ > 40)
        return;
    switch (type) {
    case 0x800:
        ip4(f, s, inside);
        return;
    case 0x86dd:
        ip6(f, s, inside);
        return;
    case 0x8100:
    case 0x88a8:
    case 0x9100:
    case 0x9200:
        tag = 4;
        break;
    case 0x8926:
        tag = 6;
        break;
    case 0x893f:
        tag = 8;
        break;
    case 0x8847:
    case 0x8848:
        mpls(f, s);
        return;
    case 0x8864:
        if (room(s) >= 6 && p[0] == 0x11 && p[1] == 0)
            ppp(f, after(s, 6), inside);
        return;
    case 0x880b:
        ppp(f, s, inside);
        return;
    case 0x88e7:
        if (room(s) >= 4)
            ethernet(f, after(s, 4), inside);
        return;
    case 0x6558:
        ethernet(f, s, inside);
        return;
    default:
        if (type <= 1500)
            llc(f, s, inside);
        return;
    }
    if (room(s) < tag)
        return;
    if (tag == 4 && !inside) {
        if (f->vlans == 8)
            return;
        f->vlan[f->vlans++] = number(p, 2) % 4096;
    }
    typed(f, after(s, tag), number(p + tag - 2, 2), inside);
}

/* ---- IP and what it carries ---------------------------------------------------------------- */

static void gre(struct facts *f, struct stretch s, struct level *level)
{
    if (room(s) < 4)
        return;
    int flags = number(s.p + s.at, 2), type = number(s.p + s.at + 2, 2), version = flags & 7;
    if (version > 1 || flags & 0x4000)
        return;
    long bytes = 4 + 4 * (!!(flags & 0x8000) + !!(flags & 0x2000) + !!(flags & 0x1000));
    if (version == 1 && flags & 0x80)
        bytes += 4;
    if (level->l4_end == NEVER)
        level->l4_end = s.at + bytes;
    if (room(s) < bytes)
        return;
    s = after(s, bytes);
    if (version == 1) {
        if (type == 0x880b)
            ppp(f, s, 1);
    } else if (type == 0x88be) {
        long own = flags & 0x1000 ? 8 : 0;
        if (room(s) >= own)
            ethernet(f, after(s, own), 1);
    } else if (type == 0x22eb) {
        long own = room(s) >= 12 && s.p[s.at + 11] & 1 ? 20 : 12;
        if (room(s) >= own)
            ethernet(f, after(s, own), 1);
    } else if (type >= 0x600) {
        typed(f, s, type, 1);
    }
}

static void gtp(struct facts *f, struct stretch s)
{
    const uint8_t *p = s.p + s.at;
    if (room(s) < 8 || p[0] >> 4 != 3 || p[1] != 255)
        return;
    long bytes = 8;
    if (p[0] & 7) {
        if (room(s) < 12)
            return;
        bytes = 12;
        for (int next = p[0] & 4 ? p[11] : 0, i = 0; next != 0; i++) {
            if (i == 16 || room(s) < bytes + 1 || p[bytes] == 0 || room(s) < bytes + 4 * p[bytes])
                return;
            bytes += 4 * p[bytes];
            next = p[bytes - 1];
        }
    }
    s = after(s, bytes);
    if (room(s) > 0 && s.p[s.at] >> 4 == 4)
        ip4(f, s, 1);
    if (room(s) > 0 && s.p[s.at] >> 4 == 6)
        ip6(f, s, 1);
}

static void udp_content(struct facts *f, struct stretch s, struct level *level)
{
    const uint8_t *p = s.p + s.at;
    int to = level->to_port;
    if (to == 4789 || to == 8472 || to == 4790) {
        if (room(s) < 8 || !(p[0] & 8) || p[7] != 0)
            return;
        int next = to == 4790 && p[0] & 4 ? p[3] : 3;
        if (next == 1)
            ip4(f, after(s, 8), 1);
        if (next == 2)
            ip6(f, after(s, 8), 1);
        if (next == 3)
            ethernet(f, after(s, 8), 1);
        if (next == 5)
            mpls(f, after(s, 8));
    } else if (to == 6081) {
        if (room(s) < 8 || p[0] >> 6 || p[7] != 0 || room(s) < 8 + 4 * (p[0] & 63))
            return;
        if (number(p + 2, 2) >= 0x600)
            typed(f, after(s, 8 + 4 * (p[0] & 63)), number(p + 2, 2), 1);
    } else if (to == 6635) {
        mpls(f, s);
    } else if (to == 4754) {
        gre(f, s, level);
    } else if (to == 2152 || level->from_port == 2152) {
        gtp(f, s);
    }
}

static long known_header(int protocol)
{
    switch (protocol) {
    case 1:
    case 2:
    case 50:
    case 58:
    case 112:
    case 136:
        return 8;
    case 59:
        return 0;
    case 88:
        return 20;
    case 89:
        return 24;
    case 103:
    case 115:
        return 4;
    case 132:
        return 12;
    default:
        return NEVER;
    }
}

static void transport(struct facts *f, struct stretch s, struct level *level)
{
    const uint8_t *p = s.p + s.at;
    int protocol = level->protocol;
    if (level->later) {
        level->l4_end = level->l3_end;
        return;
    }
    if ((protocol == 6 || protocol == 17 || protocol == 33 || protocol == 132 || protocol == 136) &&
        room(s) >= 4) {
        level->ports = 1;
        level->from_port = number(p, 2);
        level->to_port = number(p + 2, 2);
    }
    if (known_header(protocol) != NEVER)
        level->l4_end = s.at + known_header(protocol);
    if (protocol == 6 && room(s) >= 14) {
        level->tcp_flags = p[13];
        if (p[12] >> 4 >= 5)
            level->l4_end = s.at + 4 * (p[12] >> 4);
    }
    if (protocol == 33 && room(s) >= 5 && p[4] >= 3)
        level->l4_end = s.at + 4 * p[4];
    if (protocol == 17) {
        level->l4_end = s.at + 8;
        if (room(s) >= 8)
            udp_content(f, after(s, 8), level);
    }
    if (protocol == 47)
        gre(f, s, level);
    if (protocol == 4)
        ip4(f, s, 1);
    if (protocol == 41)
        ip6(f, s, 1);
    if (protocol == 137)
        mpls(f, s);
    if (protocol == 143)
        ethernet(f, s, 1);
    if (protocol == 97 && room(s) >= 2)
        ethernet(f, after(s, 2), 1);
}

static struct level *another(struct facts *f, int version, int inside)
{
    if (f->levels == 8)
        return NULL;
    struct level *level = &f->level[f->levels++];
    *level = (struct level){.version = version,
                            .inner = inside,
                            .tcp_flags = -1,
                            .l3_end = NEVER,
                            .l4_end = NEVER,
                            .protocol = -1};
    return level;
}

static void ip4(struct facts *f, struct stretch s, int inside)
{
    const uint8_t *p = s.p + s.at;
    if (room(s) < 1 || p[0] < 0x45 || p[0] > 0x4f)
        return;
    struct level *level = another(f, 4, inside);
    if (level == NULL)
        return;
    long header = 4 * (p[0] - 0x40);
    level->l3_end = s.at + header;
    if (room(s) < 20)
        return;
    level->addresses = 1;
    memcpy(level->from, p + 12, 4);
    memcpy(level->to, p + 16, 4);
    level->protocol = p[9];
    level->later = (number(p + 6, 2) & 0x1fff) != 0;
    level->fragment = level->later || (p[6] & 0x20);
    long total = number(p + 2, 2);
    if (total >= header && total < room(s))
        s.end = s.at + total;
    if (room(s) < header)
        return;
    s = after(s, header);
    for (int i = 0; level->protocol == 51 && !level->later; i++) { /* authentication headers */
        level->l3_end = NEVER;
        if (i == 16 || room(s) < 8)
            return;
        long bytes = 4 * (s.p[s.at + 1] + 2);
        level->protocol = s.p[s.at];
        if (room(s) < bytes)
            return;
        s = after(s, bytes);
        level->l3_end = level->protocol == 51 ? NEVER : s.at;
    }
    transport(f, s, level);
}

static void ip6(struct facts *f, struct stretch s, int inside)
{
    const uint8_t *p = s.p + s.at;
    if (room(s) < 1 || p[0] >> 4 != 6)
        return;
    struct level *level = another(f, 6, inside);
    if (level == NULL || room(s) < 40)
        return;
    level->addresses = 1;
    memcpy(level->from, p + 8, 16);
    memcpy(level->to, p + 24, 16);
    long total = number(p + 4, 2);
    if (total != 0 && total + 40 < room(s))
        s.end = s.at + 40 + total;
    level->protocol = p[6];
    s = after(s, 40);
    for (int i = 0;; i++) {
        int kind = level->protocol;
        if (level->later || !(kind == 0 || kind == 43 || kind == 44 || kind == 51 || kind == 60 ||
                              kind == 135 || kind == 139 || kind == 140))
            break;
        if (i == 16 || room(s) < 8)
            return;
        const uint8_t *e = s.p + s.at;
        long bytes = kind == 44 ? 8 : kind == 51 ? 4 * (e[1] + 2) : 8 * (e[1] + 1);
        if (kind == 44) {
            level->later |= number(e + 2, 2) >> 3 != 0;
            level->fragment |= level->later || (e[3] & 1);
        }
        level->protocol = e[0];
        if (room(s) < bytes)
            return;
        s = after(s, bytes);
    }
    level->l3_end = s.at;
    transport(f, s, level);
}

static void ip_any(struct facts *f, struct stretch s, int inside)
{
    if (room(s) > 0 && s.p[s.at] >> 4 == 4)
        ip4(f, s, inside);
    if (room(s) > 0 && s.p[s.at] >> 4 == 6)
        ip6(f, s, inside);
}

/* ---- link types ---------------------------------------------------------------------------- */

static void wireless(struct facts *f, struct stretch s, int padded)
{
    const uint8_t *p = s.p + s.at;
    if (room(s) < 2 || p[0] & 3)
        return;
    int data = (p[0] & 0x0c) == 0x08, to = p[1] & 1, from = p[1] & 2;
    if ((p[0] & 0x0c) == 0) {
        note_mac(f, s, 4, 0);
        note_mac(f, s, 10, 0);
    }
    if (!data)
        return;
    note_mac(f, s, to ? 16 : 4, 0);
    note_mac(f, s, to && from ? 24 : from ? 16 : 10, 0);
    long bytes = to && from ? 30 : 24;
    int several = 0;
    if (p[0] & 0x80) {
        if (room(s) < bytes + 2)
            return;
        several = p[bytes] & 0x80;
        bytes += p[1] & 0x80 ? 6 : 2;
    }
    while (padded && bytes % 4 != 0)
        bytes++;
    if (room(s) < bytes || p[0] & 0x40 || p[1] & 0x40)
        return;
    s = after(s, bytes);
    if (several && room(s) < 14)
        return;
    llc(f, several ? after(s, 14) : s, 0);
}

static void radiotap(struct facts *f, struct stretch s)
{
    const uint8_t *p = s.p;
    if (room(s) < 8 || p[0] != 0)
        return;
    long bytes = p[2] + 256L * p[3], at = 8;
    if (bytes < 8 || room(s) < bytes)
        return;
    for (long word = 4; p[word + 3] & 0x80 && at + 4 <= bytes; word = at - 4)
        at += 4;
    if (p[4] & 1)
        at = (at + 7) / 8 * 8 + 8;
    int padded = p[4] & 2 && at < bytes && p[at] & 0x20;
    wireless(f, after(s, bytes), padded);
}

static void linux_type(struct facts *f, struct stretch s, int type)
{
    if (type == 4)
        llc(f, s, 0);
    else if (type >= 0x600)
        typed(f, s, type, 0);
}

static void hdlc(struct facts *f, struct stretch s)
{
    if (room(s) >= 2 && s.p[s.at + 1] == 3 && (s.p[s.at] == 0xff || s.p[s.at] == 0))
        s = after(s, 2);
    ppp(f, s, 0);
}

static void decode(struct facts *f, const struct oracle_packet *packet)
{
    const uint8_t *p = packet->packet.bytes;
    struct stretch s = {p, 0, packet->packet.captured_bytes};
    memset(f, 0, sizeof *f);
    switch (packet->link_type) {
    case 1:
        ethernet(f, s, 0);
        break;
    case 12:
    case 14:
    case 101:
        ip_any(f, s, 0);
        break;
    case 228:
        ip4(f, s, 0);
        break;
    case 229:
        ip6(f, s, 0);
        break;
    case 0:
    case 108:
        if (room(s) >= 4) {
            int family =
                p[0] || p[1] ? p[0] + 256 * p[1] + 65536 * (p[2] + 256 * p[3]) : number(p, 4);
            if (family == 2)
                ip4(f, after(s, 4), 0);
            if (family == 10 || family == 24 || family == 28 || family == 30)
                ip6(f, after(s, 4), 0);
        }
        break;
    case 113:
        if (room(s) >= 16) {
            if (number(p + 4, 2) == 6)
                note_mac(f, s, 6, 0);
            linux_type(f, after(s, 16), number(p + 14, 2));
        }
        break;
    case 276:
        if (room(s) >= 20) {
            if (p[11] == 6)
                note_mac(f, s, 12, 0);
            linux_type(f, after(s, 20), number(p, 2));
        }
        break;
    case 9:
    case 50:
        hdlc(f, s);
        break;
    case 166:
    case 204:
        if (room(s) >= 1)
            hdlc(f, after(s, 1));
        break;
    case 51:
        typed(f, s, 0x8864, 0);
        break;
    case 104:
        if (room(s) >= 4)
            linux_type(f, after(s, 4), number(p + 2, 2) == 4 ? 0 : number(p + 2, 2));
        break;
    case 100:
        llc(f, s, 0);
        break;
    case 10:
        if (room(s) >= 13) {
            note_mac(f, s, 1, 0);
            note_mac(f, s, 7, 0);
            if (p[0] >> 4 == 5)
                llc(f, after(s, 13), 0);
        }
        break;
    case 6:
        if (room(s) >= 14) {
            note_mac(f, s, 2, 0);
            note_mac(f, s, 8, 0);
            long bytes = 14;
            if (p[8] & 0x80 && room(s) < 16)
                break;
            if (p[8] & 0x80)
                bytes += p[14] & 31;
            if (room(s) >= bytes && p[1] >> 6 == 1)
                llc(f, after(s, bytes), 0);
        }
        break;
    case 105:
        wireless(f, s, 0);
        break;
    case 127:
        radiotap(f, s);
        break;
    case 119:
    case 163:
        if (room(s) >= 8) {
            long bytes = 144;
            if (p[0] == 0x80 && p[1] == 0x21 && p[2] >> 4 == 1)
                bytes = (long)(uint32_t)number(p + 4, 4);
            if (bytes >= 8 && room(s) >= bytes)
                wireless(f, after(s, bytes), 0);
        }
        break;
    }
}

/* ---- conditions ---------------------------------------------------------------------------- */

static int within(const uint8_t *address, const struct condition *condition)
{
    for (int bit = 0; bit < condition->prefix_bits; bit++) {
        if ((address[bit / 8] ^ condition->address[bit / 8]) >> (7 - bit % 8) & 1)
            return 0;
    }
    return 1;
}

static int level_holds(const struct level *level, const struct condition *condition)
{
    if (condition->kind == CONDITION_IP)
        return level->addresses && level->version == condition->version &&
               (within(level->from, condition) || within(level->to, condition));
    if (!level->ports)
        return 0;
    int tcp = level->protocol == 6, udp = level->protocol == 17, sctp = level->protocol == 132;
    if (condition->kind == CONDITION_TCP_PORT   ? !tcp
        : condition->kind == CONDITION_UDP_PORT ? !udp
                                                : !(tcp || udp || sctp))
        return 0;
    return (level->from_port >= condition->low && level->from_port <= condition->high) ||
           (level->to_port >= condition->low && level->to_port <= condition->high);
}

struct compiled {
    char *text;
    uint16_t link_type;
    int good;
    struct bpf_program filter;
    struct compiled *next;
};

static struct compiled *compiled;

static struct compiled *compile(const char *text, uint16_t link_type)
{
    for (struct compiled *each = compiled; each != NULL; each = each->next) {
        if (each->link_type == link_type && strcmp(each->text, text) == 0)
            return each;
    }
    struct compiled *made = calloc(1, sizeof *made);
    assert(made != NULL);
    made->text = strdup(text);
    made->link_type = link_type;
    int dlt = link_type == 101 || link_type == 14 ? DLT_RAW
              : link_type == 100                  ? DLT_ATM_RFC1483
                                                  : link_type;
    pcap_t *dead = pcap_open_dead(dlt, 262144);
    made->good = pcap_compile(dead, &made->filter, text, 0, PCAP_NETMASK_UNKNOWN) == 0;
    pcap_close(dead);
    made->next = compiled;
    compiled = made;
    return made;
}

void oracle_forget_expressions(void)
{
    while (compiled != NULL) {
        struct compiled *first = compiled;
        compiled = first->next;
        pcap_freecode(&first->filter);
        free(first->text);
        free(first);
    }
}

/* 1, 0, or -1: can be neither true nor false here. */
static int holds(const struct condition *condition, const struct oracle_packet *packet,
                 const struct facts *f)
{
    switch (condition->kind) {
    case CONDITION_ALL:
        return 1;
    case CONDITION_MAC:
        for (int i = 0; i < f->macs; i++) {
            if (within(f->mac[i], condition))
                return 1;
        }
        return 0;
    case CONDITION_VLAN:
        for (int i = 0; i < f->vlans; i++) {
            if (f->vlan[i] == condition->low)
                return 1;
        }
        return 0;
    case CONDITION_INTERFACE:
        return strcmp(packet->interface, condition->text) == 0;
    case CONDITION_BPF: {
        struct compiled *expression = compile(condition->text, packet->link_type);
        struct pcap_pkthdr header = {.caplen = packet->packet.captured_bytes,
                                     .len = packet->packet.original_bytes};
        if (!expression->good)
            return -1;
        return pcap_offline_filter(&expression->filter, &header, packet->packet.bytes) != 0;
    }
    case CONDITION_APP:
        for (int i = 0; i < 2 && f->levels > 0; i++) {
            if (packet->app[i] != NULL && strcasecmp(packet->app[i], condition->text) == 0)
                return 1;
        }
        return 0;
    default:
        for (int i = 0; i < f->levels; i++) {
            if ((condition->inner ? f->level[i].inner : i == 0) &&
                level_holds(&f->level[i], condition))
                return 1;
        }
        return 0;
    }
}

/* ---- actions ------------------------------------------------------------------------------- */

struct oracle_connection {
    uint8_t key[40];
    int64_t last_s;
    uint64_t bytes;
};

static int connection_key(const struct facts *f, uint8_t key[40])
{
    if (f->levels == 0 || !f->level[f->levels - 1].addresses)
        return 0;
    const struct level *level = &f->level[f->levels - 1];
    uint16_t ports[2] = {0, 0}, tail[2] = {(uint16_t)level->protocol, (uint16_t)level->version};
    int order = memcmp(level->from, level->to, 16);
    if (level->ports && !level->fragment) {
        if (order == 0)
            order = level->from_port - level->to_port;
        ports[order > 0] = (uint16_t)level->from_port;
        ports[order <= 0] = (uint16_t)level->to_port;
    }
    memcpy(key, order > 0 ? level->to : level->from, 16);
    memcpy(key + 16, order > 0 ? level->from : level->to, 16);
    memcpy(key + 32, ports, 4);
    memcpy(key + 36, tail, 4);
    return 1;
}

static int flow_keeps(const struct action *action, const struct oracle_packet *packet,
                      const struct facts *f, struct oracle_memory *memory)
{
    uint8_t key[40];
    if (!connection_key(f, key))
        return 1;
    int flags = f->level[f->levels - 1].tcp_flags;
    int64_t now_s = packet->packet.time_ns / 1000000000;
    struct oracle_connection *found = NULL;
    for (uint32_t i = 0; i < memory->connections && found == NULL; i++) {
        if (memcmp(memory->connection[i].key, key, sizeof key) == 0)
            found = &memory->connection[i];
    }
    if (found == NULL) {
        memory->connection =
            realloc(memory->connection, (memory->connections + 1) * sizeof *memory->connection);
        assert(memory->connection != NULL);
        found = &memory->connection[memory->connections++];
        memset(found, 0, sizeof *found);
        memcpy(found->key, key, sizeof key);
        found->last_s = now_s;
    }
    if ((flags >= 0 && (flags & 0x12) == 2) || now_s - found->last_s > 120)
        found->bytes = 0;
    uint64_t before = found->bytes;
    found->bytes += packet->packet.captured_bytes;
    found->last_s = now_s;
    return before < action->number || (flags >= 0 && flags & 7);
}

static void act(const struct action *action, const struct oracle_packet *packet,
                const struct facts *f, struct oracle_memory *memory, struct oracle_outcome *outcome)
{
    const struct level *last = f->levels > 0 ? &f->level[f->levels - 1] : NULL;
    long whole = packet->packet.captured_bytes, keep = whole;
    uint8_t key[40];
    switch (action->kind) {
    case ACTION_DISCARD:
        outcome->decision = 'd';
        break;
    case ACTION_SNAP:
        keep = action->number;
        break;
    case ACTION_HEADERS_L3:
        if (last != NULL && last->l3_end != NEVER)
            keep = last->l3_end;
        break;
    case ACTION_HEADERS_L3_L4:
        if (last != NULL && last->l4_end != NEVER)
            keep = last->l4_end + action->number;
        break;
    case ACTION_FLOW:
        if (!flow_keeps(action, packet, f, memory))
            outcome->decision = 'd';
        break;
    case ACTION_SAMPLE:
        if (connection_key(f, key) && XXH3_64bits(key, sizeof key) % action->number != 0)
            outcome->decision = 'o';
        break;
    }
    outcome->keep_bytes = outcome->decision != 's' ? 0 : (uint32_t)(keep < whole ? keep : whole);
}

void oracle_apply(const struct rule_list *list, const struct oracle_packet *packet,
                  struct oracle_memory *memory, struct oracle_outcome *outcome)
{
    struct facts f;
    decode(&f, packet);
    *outcome = (struct oracle_outcome){0, packet->packet.captured_bytes, 's'};
    for (uint32_t i = 0; i < list->count; i++) {
        const struct rule *rule = &list->rule[i];
        int good = 1, waits = 0;
        for (uint32_t j = 0; j < rule->conditions && good; j++) {
            const struct condition *condition = &rule->condition[j];
            int held = holds(condition, packet, &f);
            if (condition->kind == CONDITION_APP && packet->app_unknown && f.levels > 0)
                waits = 1;
            else
                good = held >= 0 && held != condition->negated;
        }
        if (!good)
            continue;
        outcome->rule = i + 1;
        act(waits ? &rule->until_known : &rule->action, packet, &f, memory, outcome);
        return;
    }
}

void oracle_forget(struct oracle_memory *memory)
{
    free(memory->connection);
    *memory = (struct oracle_memory){0};
}
