#include "packet_mixer.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

uint64_t mixer_random(struct mixer *mixer)
{
    uint64_t z = (mixer->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t mixer_below(struct mixer *mixer, uint32_t bound)
{
    return (uint32_t)(mixer_random(mixer) % bound);
}

struct making {
    struct mixer *mixer;
    uint8_t *at;
    unsigned depth;
};

static void put8(struct making *making, uint32_t value)
{
    *making->at++ = (uint8_t)value;
}

static void put16(struct making *making, uint32_t value)
{
    put8(making, value >> 8);
    put8(making, value);
}

static void put_fill(struct making *making, uint32_t count)
{
    for (; count > 0; count--)
        put8(making, (uint32_t)mixer_random(making->mixer));
}

static void put_mac(struct making *making)
{
    static const uint8_t first[] = {2, 2, 2, 1, 255};
    uint32_t which = mixer_below(making->mixer, 24);
    uint8_t byte = first[which < 20 ? 0 : which - 19];
    put8(making, byte);
    for (unsigned i = 0; i < 4; i++)
        put8(making, byte == 255 ? 255 : 0);
    put8(making, byte == 255 ? 255 : 1 + which % 6);
}

static void put_address(struct making *making, int version)
{
    uint32_t host = mixer_below(making->mixer, 12);
    if (version == 4) {
        put8(making, host == 11 ? 224 : 10);
        put8(making, 0);
        put8(making, host / 6);
        put8(making, 1 + host);
        return;
    }
    put16(making, host == 11 ? 0xff02 : 0x2001);
    put16(making, 0x0db8);
    put_fill(making, 0);
    for (unsigned i = 0; i < 5; i++)
        put16(making, 0);
    put16(making, 1 + host);
}

static void put_inside(struct making *making);

static void put_transport(struct making *making, uint32_t protocol)
{
    static const uint16_t port[] = {80, 443, 53, 40000, 40001, 4789, 6081, 2152, 0x800, 22};
    uint32_t one = port[mixer_below(making->mixer, 10)], two = port[mixer_below(making->mixer, 10)];
    switch (protocol) {
    case 6:
        put16(making, one);
        put16(making, two);
        put_fill(making, 8);
        put8(making, mixer_below(making->mixer, 20) ? 0x50 : 0x10);
        put8(making, mixer_below(making->mixer, 32));
        put_fill(making, 6);
        break;
    case 17:
        put16(making, one);
        put16(making, two);
        put16(making, 40);
        put16(making, 0);
        if (making->depth < 2 && (two == 4789 || two == 6081)) {
            put8(making, two == 4789 ? 8 : 0);
            put8(making, 0);
            put16(making, two == 4789 ? 0 : 0x6558);
            put16(making, 0);
            put16(making, 0);
            put_inside(making);
            return;
        }
        break;
    case 132:
        put16(making, one);
        put16(making, two);
        put_fill(making, 8);
        break;
    default:
        put_fill(making, 8);
    }
    put_fill(making, mixer_below(making->mixer, 30));
}

static void put_ip(struct making *making, int version)
{
    static const uint8_t common[] = {6, 6, 6, 17, 17, 17, 1, 58, 132, 2, 50, 51, 47, 4, 41, 103};
    struct mixer *mixer = making->mixer;
    uint32_t protocol = common[mixer_below(mixer, sizeof common)];
    uint8_t *start = making->at;
    making->depth++;
    if (version == 4) {
        uint32_t options = mixer_below(mixer, 8) == 0 ? 4 * mixer_below(mixer, 5) : 0;
        put8(making, mixer_below(mixer, 40) ? 0x45 + options / 4 : mixer_below(mixer, 256));
        put8(making, 0);
        put16(making, 0);
        put16(making, mixer_below(mixer, 9));
        put16(making, mixer_below(mixer, 12) ? 0x4000 : mixer_below(mixer, 2) ? 0x2000 : 0x00b9);
        put8(making, 64);
        put8(making, protocol);
        put16(making, 0);
        put_address(making, 4);
        put_address(making, 4);
        put_fill(making, options);
    } else {
        static const uint8_t extension[] = {0, 44, 60, 43, 51};
        bool extended = mixer_below(mixer, 6) == 0;
        uint32_t which = extension[mixer_below(mixer, 5)];
        put8(making, 0x60);
        put8(making, 0);
        put16(making, mixer_below(mixer, 50));
        put16(making, 0);
        put8(making, extended ? which : protocol);
        put8(making, 64);
        put_address(making, 6);
        put_address(making, 6);
        if (extended) {
            put8(making, protocol);
            put8(making, 0);
            put16(making, which == 44 ? mixer_below(mixer, 3) * 8 : 0);
            put_fill(making, 4);
        }
    }
    if ((protocol == 4 || protocol == 41) && making->depth < 3)
        put_ip(making, protocol == 4 ? 4 : 6);
    else if (protocol == 47 && making->depth < 3) {
        put16(making, 0);
        put16(making, 0x0800);
        put_ip(making, 4);
    } else
        put_transport(making, protocol);
    if (version == 4) {
        uint32_t total = (uint32_t)(making->at - start);
        if (mixer_below(mixer, 25) == 0)
            total = mixer_below(mixer, 60); /* a length that lies */
        start[2] = (uint8_t)(total >> 8);
        start[3] = (uint8_t)total;
    } else if (mixer_below(mixer, 4)) {
        uint32_t payload = (uint32_t)(making->at - start) - 40;
        start[4] = (uint8_t)(payload >> 8);
        start[5] = (uint8_t)payload;
    }
}

static void put_arp(struct making *making)
{
    put16(making, 1);
    put16(making, 0x0800);
    put8(making, 6);
    put8(making, 4);
    put16(making, 1);
    put_mac(making);
    put_address(making, 4);
    put_mac(making);
    put_address(making, 4);
}

static void put_labels(struct making *making)
{
    uint32_t labels = 1 + mixer_below(making->mixer, 3);
    for (uint32_t i = 0; i < labels; i++) {
        put16(making, 6);
        put8(making, 0x40 | (i + 1 == labels));
        put8(making, 64);
    }
    if (mixer_below(making->mixer, 8) == 0)
        put_fill(making, 30);
    else
        put_ip(making, mixer_below(making->mixer, 4) ? 4 : 6);
}

static void put_inside(struct making *making)
{
    struct mixer *mixer = making->mixer;
    put_mac(making);
    put_mac(making);
    uint32_t tags = mixer_below(mixer, 4) ? 0 : 1 + mixer_below(mixer, 3);
    for (uint32_t i = 0; i < tags; i++) {
        static const uint16_t type[] = {0x8100, 0x8100, 0x88a8, 0x9100, 0x9200};
        put16(making, type[mixer_below(mixer, 5)]);
        put16(making, 5 + mixer_below(mixer, 3) + (mixer_below(mixer, 2) << 13));
    }
    switch (mixer_below(mixer, 24)) {
    case 0:
        put16(making, 0x0806 + (mixer_below(mixer, 5) == 0 ? 0x8035 - 0x0806 : 0));
        put_arp(making);
        break;
    case 1:
        put16(making, 38);
        put8(making, 0x42);
        put8(making, 0x42);
        put8(making, 3);
        put_fill(making, 35);
        break;
    case 2:
        put16(making, 0x88cc);
        put_fill(making, 40);
        break;
    case 3:
        put16(making, 0x8847);
        put_labels(making);
        break;
    case 4:
        put16(making, 0x8864);
        put16(making, mixer_below(mixer, 9) ? 0x1100 : 0x1101);
        put16(making, 7);
        put16(making, 30);
        put16(making, 0x0021);
        put_ip(making, 4);
        break;
    case 5:
        put16(making, 60); /* LLC, SNAP, IP */
        put8(making, 0xaa);
        put8(making, 0xaa);
        put8(making, 3);
        put8(making, 0);
        put16(making, 0);
        put16(making, 0x0800);
        put_ip(making, 4);
        break;
    case 6:
        put16(making, 0x8926);
        put16(making, 0x0800);
        put16(making, 0x0800);
        put16(making, 0x0800);
        put_ip(making, 4);
        break;
    case 7:
    case 8:
    case 9:
    case 10:
        put16(making, 0x86dd);
        put_ip(making, 6);
        break;
    default:
        put16(making, 0x0800);
        put_ip(making, 4);
    }
}

uint32_t mixer_packet(struct mixer *mixer, uint8_t *bytes)
{
    struct making making = {.mixer = mixer, .at = bytes};
    put_inside(&making);
    uint32_t count = (uint32_t)(making.at - bytes);
    if (mixer_below(mixer, 16) == 0)
        count = mixer_below(mixer, count + 1);
    if (mixer_below(mixer, 16) == 0 && count > 0)
        bytes[mixer_below(mixer, count)] = (uint8_t)mixer_random(mixer);
    return count;
}

/* ---- filters ----------------------------------------------------------------------------------- */

static int add_primitive(struct mixer *mixer, char *text, size_t room)
{
    static const char *const way[] = {"", "", "src ", "dst ", "src or dst ", "src and dst "};
    static const char *const family[] = {"", "", "ip ", "arp ", "rarp "};
    static const char *const transport[] = {"", "tcp ", "udp ", "sctp "};
    static const char *const word[] = {
        "ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "igmp", "sctp", "ah", "esp", "pim",
        "vlan", "mpls", "pppoes", "pppoed", "geneve", "broadcast", "multicast", "ip multicast",
        "ip6 multicast", "ether multicast", "ip broadcast", "rarp",
        "tcp[13] & 2 != 0", "(ip[8] + 1) * 2 > 100", "len > 80", "less 70", "greater 90",
        "ip6[6] = 6", "udp[2:2] = 53", "ether[0] & 1 = 1", "ip proto 6", "ip6 proto 17", "proto 1",
        "ip proto \\udp", "ether proto 0x806", "ether proto \\ip", "ether proto 0x88cc",
        "ether proto 0x8100", "ip proto 51", "ip6 proto 44", "ip6 proto 60", "proto 4",
        "portrange 50-90", "tcp portrange 1000-50000", "net 10.0.0.0/23", "net 10.0.1", "net 10",
        "src net 10.0.0", "dst net 224.0.0.0/4", "net 10.0.0.0 mask 255.255.255.0",
        "ip6 net 2001:db8::/64", "net 2001:db8::8/125", "src host 2001:db8::3",
        "dst host ff02:db8::c", "vlan 5", "vlan 6", "vlan 7", "mpls 100", "pppoes 7"};
    static const uint16_t port[] = {80, 443, 53, 40000, 40001, 4789, 6081, 22};
    uint32_t host = mixer_below(mixer, 12);
    switch (mixer_below(mixer, 8)) {
    case 0:
    case 1:
        return snprintf(text, room, "%s%shost 10.0.%u.%u", family[mixer_below(mixer, 5)],
                        way[mixer_below(mixer, 6)], host / 6, host + 1);
    case 2:
    case 3:
        return snprintf(text, room, "%s%sport %u", transport[mixer_below(mixer, 4)],
                        way[mixer_below(mixer, 6)], port[mixer_below(mixer, 8)]);
    case 4:
        return snprintf(text, room, "ether %shost 02:00:00:00:00:%02x", way[mixer_below(mixer, 4)],
                        1 + host % 6);
    default:
        return snprintf(text, room, "%s", word[mixer_below(mixer, sizeof word / sizeof word[0])]);
    }
}

static char *add_filter(struct mixer *mixer, char *text, char *end, unsigned depth)
{
    if (depth == 0 || end - text < 160)
        return text + add_primitive(mixer, text, (size_t)(end - text));
    if (mixer_below(mixer, 4) == 0)
        text += sprintf(text, "not ");
    text += sprintf(text, "(");
    text = add_filter(mixer, text, end - 80, depth - 1);
    text += sprintf(text, mixer_below(mixer, 2) ? " and " : " or ");
    if (mixer_below(mixer, 4) == 0)
        text += sprintf(text, "not ");
    text = add_filter(mixer, text, end - 8, depth - 1);
    return text + sprintf(text, ")");
}

void mixer_filter(struct mixer *mixer, char *text)
{
    add_filter(mixer, text, text + 500, mixer_below(mixer, 4));
}
