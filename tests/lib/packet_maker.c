#include "packet_maker.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS_MAX 40
#define WORDS_MAX 8

struct layer {
    char *word[WORDS_MAX];
    int words;
    uint32_t begins;    /* where it lies in the packet */
    uint32_t length_at; /* a length to be filled in at the end; 0: none */
};

struct maker_state {
    struct made_packet *made;
    struct layer layer[LAYERS_MAX];
    int layers;
    uint32_t at;
    char *error;
};

static void put(struct maker_state *m, uint64_t value, int bytes)
{
    while (bytes-- > 0) /* the last eight hold the value */
        m->made->bytes[m->at++] = bytes < 8 ? (uint8_t)(value >> 8 * bytes) : 0;
}

static void fill(struct maker_state *m, unsigned first, long bytes)
{
    while (bytes-- > 0)
        m->made->bytes[m->at++] = (uint8_t)first++;
}

static bool is(const struct layer *layer, const char *name)
{
    return layer != NULL && strcmp(layer->word[0], name) == 0;
}

/* The value of NAME=VALUE among a layer's words, or null. */
static const char *option(const struct layer *layer, const char *name)
{
    size_t bytes = strlen(name);
    for (int i = 1; i < layer->words; i++) {
        if (strncmp(layer->word[i], name, bytes) == 0 && layer->word[i][bytes] == '=')
            return layer->word[i] + bytes + 1;
    }
    return NULL;
}

static long option_number(const struct layer *layer, const char *name, long usual)
{
    const char *value = option(layer, name);
    return value != NULL ? strtol(value, NULL, 0) : usual;
}

static bool flag(const struct layer *layer, const char *name)
{
    for (int i = 1; i < layer->words; i++) {
        if (strcmp(layer->word[i], name) == 0)
            return true;
    }
    return false;
}

static long argument(const struct layer *layer, int i, long usual)
{
    return i < layer->words && strchr(layer->word[i], '=') == NULL ? strtol(layer->word[i], NULL, 0)
                                                                   : usual;
}

struct code {
    const char *name;
    int code;
};

static int look_up(const struct code *table, const struct layer *layer, int usual)
{
    for (; layer != NULL && table->name != NULL; table++) {
        if (is(layer, table->name))
            return table->code;
    }
    return usual;
}

static int ethertype(const struct layer *next)
{
    static const struct code table[] = {
        {"ip", 0x800},    {"ip6", 0x86dd},     {"vlan", 0x8100},    {"qinq", 0x88a8},
        {"mpls", 0x8847}, {"pppoe", 0x8864},   {"arp", 0x806},      {"eth", 0x6558},
        {"pbb", 0x88e7},  {"erspan1", 0x88be}, {"erspan2", 0x88be}, {"erspan3", 0x22eb},
        {NULL, 0},
    };
    return look_up(table, next, 0x88b5);
}

static int protocol(const struct layer *layer, const struct layer *next)
{
    static const struct code table[] = {
        {"tcp", 6},   {"udp", 17},   {"sctp", 132}, {"icmp", 1},      {"esp", 50},  {"gre", 47},
        {"pptp", 47}, {"ip", 4},     {"ip6", 41},   {"hbh", 0},       {"dst", 60},  {"route", 43},
        {"ah", 51},   {"mpls", 137}, {"eth", 143},  {"fragment", 44}, {"ospf", 89}, {NULL, 0},
    };
    return (int)option_number(layer, "proto", look_up(table, next, 253));
}

static int fragment_bits(const char *text, int shift, int more)
{
    int offset = (int)strtol(text, NULL, 0);
    return offset / 8 << shift | (strchr(text, '+') != NULL ? more : 0);
}

static int bad(struct maker_state *m, const struct layer *layer, const char *what)
{
    snprintf(m->error, 200, "%s: %s", layer->word[0], what);
    return -1;
}

static int put_addresses(struct maker_state *m, const struct layer *layer, int family, int bytes)
{
    for (int i = 1; i <= 2; i++) {
        if (layer->words <= i || inet_pton(family, layer->word[i], m->made->bytes + m->at) != 1)
            return bad(m, layer, "two addresses are needed");
        m->at += (uint32_t)bytes;
    }
    return 0;
}

static void put_mac(struct maker_state *m, const struct layer *layer, int i, unsigned usual)
{
    unsigned byte[6];
    if (i < layer->words && sscanf(layer->word[i], "%x:%x:%x:%x:%x:%x", &byte[0], &byte[1],
                                   &byte[2], &byte[3], &byte[4], &byte[5]) == 6) {
        for (int j = 0; j < 6; j++)
            put(m, byte[j], 1);
    } else {
        put(m, 0x020000000000u + usual, 6);
    }
}

static int put_ip(struct maker_state *m, struct layer *layer, const struct layer *next)
{
    long options = option_number(layer, "opt", 0);
    const char *fragment = option(layer, "frag");
    put(m, 0x45 + (uint64_t)options / 4, 1);
    put(m, 0, 1);
    layer->length_at = option(layer, "total") == NULL ? m->at : 0;
    put(m, (uint64_t)option_number(layer, "total", 0), 2);
    put(m, 0x1234, 2);
    put(m, (uint64_t)(fragment != NULL ? fragment_bits(fragment, 0, 0x2000) : 0), 2);
    put(m, 64, 1);
    put(m, (uint64_t)protocol(layer, next), 1);
    put(m, 0xabcd, 2);
    if (put_addresses(m, layer, AF_INET, 4) < 0)
        return -1;
    fill(m, 1, options);
    return 0;
}

static int put_ip6(struct maker_state *m, struct layer *layer, const struct layer *next)
{
    put(m, 0x60000000, 4);
    layer->length_at = m->at;
    put(m, 0, 2);
    put(m, (uint64_t)protocol(layer, next), 1);
    put(m, 64, 1);
    return put_addresses(m, layer, AF_INET6, 16);
}

static void put_tcp(struct maker_state *m, const struct layer *layer)
{
    static const char letters[] = "FSRPAU";
    long options = option_number(layer, "opt", 0);
    unsigned flags = 0;
    if (layer->words > 3 && strchr(layer->word[3], '=') == NULL) {
        for (const char *letter = layer->word[3]; *letter != '\0'; letter++)
            flags |=
                1u << (strchr(letters, *letter) != NULL ? strchr(letters, *letter) - letters : 7);
    } else {
        flags = 16;
    }
    put(m, (uint64_t)argument(layer, 1, 0), 2);
    put(m, (uint64_t)argument(layer, 2, 0), 2);
    put(m, 0x0102030405060708, 8);
    put(m, (uint64_t)option_number(layer, "offset", 5 + options / 4) << 4, 1);
    put(m, flags, 1);
    put(m, 0x2000, 2);
    put(m, 0, 4);
    fill(m, 1, options);
}

static void put_gre(struct maker_state *m, const struct layer *layer, const struct layer *next)
{
    bool sequence = flag(layer, "seq") || is(next, "erspan2") || is(next, "erspan3");
    put(m,
        (flag(layer, "csum") ? 0x8000u : 0) | (flag(layer, "key") ? 0x2000u : 0) |
            (sequence ? 0x1000u : 0),
        2);
    put(m, (uint64_t)ethertype(next), 2);
    put(m, 0, 4 * (flag(layer, "csum") + flag(layer, "key") + sequence));
}

static void put_ppp(struct maker_state *m, const struct layer *next)
{
    put(m, is(next, "ip") ? 0x21 : is(next, "ip6") ? 0x57 : is(next, "mpls") ? 0x281 : 0xc021, 2);
}

static void put_wireless(struct maker_state *m, const struct layer *next)
{
    put(m, 0x8801, 2); /* data with a quality field, to the system */
    put(m, 0, 2);
    put(m, 0x0200000000aa, 6); /* the station's point of access */
    put(m, 0x020000000001, 6); /* from */
    put(m, 0x020000000002, 6); /* to */
    put(m, 0, 4);
    put(m, 0xaaaa030000000000 | (uint64_t)ethertype(next), 8);
}

static void put_gtp(struct maker_state *m, const struct layer *layer)
{
    bool extended = flag(layer, "ext");
    put(m, extended ? 0x34 : 0x30, 1);
    put(m, 0xff, 1);
    put(m, 0, 2);
    put(m, 0x11223344, 4);
    if (extended) {
        put(m, 0x85, 4);       /* no number, no unit, then an extension */
        put(m, 0x01000000, 4); /* of one word, the last */
    }
}

static int first_layer(struct maker_state *m, struct layer *layer, const struct layer *next)
{
    static const struct code table[] = {
        {"eth", 1},     {"raw", 101},  {"ipv4", 228},     {"ipv6", 229}, {"null", 0},
        {"loop", 108},  {"sll", 113},  {"sll2", 276},     {"ppp", 9},    {"pppoe-link", 51},
        {"chdlc", 104}, {"wifi", 105}, {"radiotap", 127}, {NULL, 0},
    };
    int link = is(layer, "link") ? (int)argument(layer, 1, 0) : look_up(table, layer, -1);
    if (link < 0)
        return bad(m, layer, "is no first layer");
    m->made->link_type = (uint16_t)link;
    switch (is(layer, "link") ? -1 : link) {
    case 1:
        put_mac(m, layer, 1, 2);
        put_mac(m, layer, 2, 1);
        put(m, is(next, "llc") ? 40u : (uint64_t)ethertype(next), 2);
        break;
    case 0: /* as a machine of the other byte order has it */
        put(m, is(next, "ip6") ? 0x1e000000 : 0x02000000, 4);
        break;
    case 108:
        put(m, is(next, "ip6") ? 24 : 2, 4);
        break;
    case 113:
        put(m, 0x0000000100060200, 8);
        put(m, 0x0000000100000000u + (uint64_t)ethertype(next), 8);
        break;
    case 276:
        put(m, (uint64_t)ethertype(next) << 16, 4);
        put(m, 0x0000000100010006, 8);
        put(m, 0x0200000000010000, 8);
        break;
    case 9:
        put(m, 0xff03, 2);
        put_ppp(m, next);
        break;
    case 51:
        put(m, 0x110000010040, 6);
        put_ppp(m, next);
        break;
    case 104:
        put(m, 0x0f00, 2);
        put(m, (uint64_t)ethertype(next), 2);
        break;
    case 127:
        put(m, 0x0000090002000000, 8); /* nine bytes: flags only */
        put(m, 0, 1);
        put_wireless(m, next);
        break;
    case 105:
        put_wireless(m, next);
        break;
    default:
        break;
    }
    return 0;
}

static int put_hex(struct maker_state *m, const struct layer *layer)
{
    const char *digits = layer->words > 1 ? layer->word[1] : "";
    for (; digits[0] != '\0' && digits[1] != '\0'; digits += 2) {
        char pair[3] = {digits[0], digits[1], '\0'};
        put(m, strtoul(pair, NULL, 16), 1);
    }
    return 0;
}

static int put_extension(struct maker_state *m, const struct layer *layer, const struct layer *next)
{
    long bytes = argument(layer, 1, 8);
    put(m, (uint64_t)protocol(layer, next), 1);
    if (is(layer, "fragment")) {
        put(m, 0, 1);
        put(m, (uint64_t)fragment_bits(layer->word[1], 3, 1), 2);
        put(m, 7, 4);
    } else {
        put(m, (uint64_t)(is(layer, "ah") ? bytes / 4 - 2 : bytes / 8 - 1), 1);
        put(m, 0, (int)bytes - 2);
    }
    return 0;
}

static int put_layer(struct maker_state *m, struct layer *layer, const struct layer *next)
{
    if (is(layer, "eth")) {
        put_mac(m, layer, 1, 4);
        put_mac(m, layer, 2, 3);
        put(m, (uint64_t)ethertype(next), 2);
    } else if (is(layer, "vlan") || is(layer, "qinq")) {
        put(m, (uint64_t)argument(layer, 1, 1), 2);
        put(m, (uint64_t)ethertype(next), 2);
    } else if (is(layer, "mpls")) {
        put(m, (uint64_t)argument(layer, 1, 16) << 12 | (is(next, "mpls") ? 0 : 0x100) | 64, 4);
    } else if (is(layer, "cw")) {
        put(m, 0, 4);
    } else if (is(layer, "pbb")) {
        put(m, (uint64_t)argument(layer, 1, 1), 4);
    } else if (is(layer, "pppoe")) {
        put(m, 0x110000010040, 6);
        put_ppp(m, next);
    } else if (is(layer, "llc")) {
        put(m, 0xaaaa030000000000 | (uint64_t)ethertype(next), 8);
    } else if (is(layer, "arp")) {
        put(m, 0x0001080006040001, 8);
        fill(m, 1, 20);
    } else if (is(layer, "ip")) {
        return put_ip(m, layer, next);
    } else if (is(layer, "ip6")) {
        return put_ip6(m, layer, next);
    } else if (is(layer, "hbh") || is(layer, "dst") || is(layer, "route") || is(layer, "ah") ||
               is(layer, "fragment")) {
        return put_extension(m, layer, next);
    } else if (is(layer, "tcp")) {
        put_tcp(m, layer);
    } else if (is(layer, "udp")) {
        put(m, (uint64_t)argument(layer, 1, 0), 2);
        put(m, (uint64_t)argument(layer, 2, 0), 2);
        layer->length_at = m->at;
        put(m, 0, 4);
    } else if (is(layer, "sctp")) {
        put(m, (uint64_t)argument(layer, 1, 0), 2);
        put(m, (uint64_t)argument(layer, 2, 0), 2);
        put(m, 0, 8);
    } else if (is(layer, "icmp") || is(layer, "esp")) {
        put(m, 0x0800123400010001, 8);
    } else if (is(layer, "ospf")) {
        fill(m, 2, 24);
    } else if (is(layer, "gre")) {
        put_gre(m, layer, next);
    } else if (is(layer, "pptp")) {
        put(m, 0x3001880b00000000, 8);
        put(m, 1, 4);
        put_ppp(m, next);
    } else if (is(layer, "vxlan")) {
        put(m, 0x0800000000001100, 8);
    } else if (is(layer, "geneve")) {
        put(m, (uint64_t)option_number(layer, "opt", 0) / 4 << 8, 2);
        put(m, (uint64_t)ethertype(next), 2);
        put(m, 0x1100, 4);
        fill(m, 1, option_number(layer, "opt", 0));
    } else if (is(layer, "gtp")) {
        put_gtp(m, layer);
    } else if (is(layer, "erspan1")) {
        /* nothing of its own */
    } else if (is(layer, "erspan2")) {
        put(m, 0x1000000000000000, 8);
    } else if (is(layer, "erspan3")) {
        put(m, 0x2000000000000000, 8);
        put(m, 0, 4);
    } else if (is(layer, "data")) {
        long bytes = argument(layer, 1, 0);
        if (bytes < 0 || m->at + bytes > MADE_BYTES_MAX - 1000)
            return bad(m, layer, "too much");
        fill(m, 0x20, bytes);
    } else if (is(layer, "hex")) {
        return put_hex(m, layer);
    } else {
        return bad(m, layer, "no such layer");
    }
    return 0;
}

static void take_meta(struct maker_state *m, const struct layer *layer)
{
    struct packet *packet = &m->made->packet;
    const char *app = option(layer, "app");
    packet->original_bytes = (uint32_t)option_number(layer, "orig", packet->original_bytes);
    packet->captured_bytes = (uint32_t)option_number(layer, "cap", packet->captured_bytes);
    packet->interface = (uint16_t)option_number(layer, "if", 0);
    packet->time_ns = option_number(layer, "time", 0) * 1000000;
    m->made->app_unknown = app != NULL && strcmp(app, "unknown") == 0;
    if (app != NULL && !m->made->app_unknown)
        sscanf(app, "%63[^,],%63s", m->made->app[0], m->made->app[1]);
}

static void fill_lengths(struct maker_state *m)
{
    for (int i = 0; i < m->layers; i++) {
        const struct layer *layer = &m->layer[i];
        if (layer->length_at == 0)
            continue;
        uint32_t bytes = m->at - layer->begins - (is(layer, "ip6") ? 40 : 0);
        m->made->bytes[layer->length_at] = (uint8_t)(bytes >> 8);
        m->made->bytes[layer->length_at + 1] = (uint8_t)bytes;
    }
}

static int split_layers(struct maker_state *m, char *text)
{
    for (char *rest = text; rest != NULL; m->layers++) {
        char *own = rest, *save = NULL;
        struct layer *layer = &m->layer[m->layers];
        rest = strstr(rest, " / ");
        if (rest != NULL) {
            *rest = '\0';
            rest += 3;
        }
        for (char *word = strtok_r(own, " ", &save); word != NULL && layer->words < WORDS_MAX;
             word = strtok_r(NULL, " ", &save))
            layer->word[layer->words++] = word;
        if (layer->words == 0 || m->layers + 1 == LAYERS_MAX) {
            snprintf(m->error, 200, "an empty layer, or too many");
            return -1;
        }
    }
    return 0;
}

int packet_make(const char *text, struct made_packet *made, char error[200])
{
    struct maker_state m = {.made = made, .error = error};
    char *copy = strdup(text);
    int result = copy != NULL ? split_layers(&m, copy) : -1;
    made->packet = (struct packet){.bytes = made->bytes};
    made->app_unknown = false;
    made->app[0][0] = made->app[1][0] = '\0';
    const struct layer *meta = NULL;
    if (result == 0 && is(&m.layer[m.layers - 1], "meta"))
        meta = &m.layer[--m.layers];
    for (int i = 0; i < m.layers && result == 0; i++) {
        struct layer *layer = &m.layer[i], *next = i + 1 < m.layers ? layer + 1 : NULL;
        layer->begins = m.at;
        result = i == 0 ? first_layer(&m, layer, next) : put_layer(&m, layer, next);
    }
    if (result == 0) {
        fill_lengths(&m);
        made->packet.captured_bytes = made->packet.original_bytes = m.at;
        if (meta != NULL)
            take_meta(&m, meta);
    }
    free(copy);
    return result;
}
