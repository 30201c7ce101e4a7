/*
 * narrowing_parse.c - the language of pcap-filter(7), as far as an index can use it.
 *
 * libpcap says what is a filter; this only has to understand filters, and gives up on the rest.
 * Words are taken as libpcap's scanner takes them. `and` and `or` have one precedence and associate
 * to the left. An identifier without qualifiers takes those of the one before it ("port 80 or
 * 443"), which is why a primitive hands its qualifiers on.
 *
 * A parenthesis may begin a group or arithmetic ("(tcp[13] & 2) != 0"): arithmetic is tried first.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "errors.h"
#include "narrowing_inside.h"
#include "text.h"

#define WORD_MAX 128u
#define NO_NODE UINT32_MAX

struct qualifiers {
    bool valid;
    bool link;      /* ether */
    uint8_t family; /* enum host_family; 255: another protocol */
    uint8_t protocol; /* of ports: 6, 17, 132; 0 */
    enum atom_way way;
    bool way_other; /* addr1, ra, ... */
    enum { TYPE_NONE, TYPE_HOST, TYPE_NET, TYPE_PORT, TYPE_RANGE, TYPE_PROTO, TYPE_OTHER } type;
};

struct parser {
    struct narrowing *tree;
    const char *at;
    struct shape shape;
    bool inner, outer;
    bool failed;
    int code;
    unsigned depth;
    char word[WORD_MAX]; /* of the token looked at; empty where it is none */
};

/* ---- nodes -------------------------------------------------------------------------------------- */

static uint32_t node_new(struct parser *parser, enum node_type type, uint32_t left, uint32_t right)
{
    struct narrowing *tree = parser->tree;
    if (tree->nodes == NARROWING_NODES_MAX) {
        parser->failed = true;
        return 0;
    }
    tree->node[tree->nodes] = (struct node){.type = type, .left = left, .right = right};
    return tree->nodes++;
}

static uint32_t atom_new(struct parser *parser, const struct atom *atom)
{
    uint32_t number = node_new(parser, NODE_ATOM, 0, 0);
    struct atom *made = &parser->tree->node[number].atom;
    *made = *atom;
    made->shape = parser->shape;
    made->inner = parser->inner;
    made->outer = parser->outer;
    return number;
}

static uint32_t maybe(struct parser *parser)
{
    return atom_new(parser, &(struct atom){.type = ATOM_MAYBE});
}

/* ---- words -------------------------------------------------------------------------------------- */

static void spaces(struct parser *parser)
{
    while (*parser->at != '\0' && strchr(" \t\r\n", *parser->at))
        parser->at++;
}

static bool is_word_byte(char byte)
{
    return isalnum((unsigned char)byte) || byte == '_' || byte == '.' || byte == ':' || byte == '-';
}

/* Looks at the word that begins here: parser->word. Returns where it ends. */
static const char *peek(struct parser *parser)
{
    spaces(parser);
    const char *from = parser->at, *to = from;
    if (*from == '\\')
        to = ++from;
    while (is_word_byte(*to))
        to++;
    while (to > from && to[-1] == '-') /* a word ends in a letter or digit */
        to--;
    size_t length = (size_t)(to - from);
    if (length >= WORD_MAX) {
        parser->failed = true;
        length = 0;
    }
    memcpy(parser->word, from, length);
    parser->word[length] = '\0';
    return to;
}

static bool is_escaped(struct parser *parser)
{
    spaces(parser);
    return *parser->at == '\\';
}

static bool next_is(struct parser *parser, const char *word)
{
    peek(parser);
    return !is_escaped(parser) && strcmp(parser->word, word) == 0;
}

static bool take(struct parser *parser, const char *word)
{
    const char *end = peek(parser);
    if (is_escaped(parser) || strcmp(parser->word, word) != 0)
        return false;
    parser->at = end;
    return true;
}

static bool take_sign(struct parser *parser, const char *sign)
{
    spaces(parser);
    size_t length = strlen(sign);
    if (strncmp(parser->at, sign, length) != 0)
        return false;
    parser->at += length;
    return true;
}

static bool take_and(struct parser *parser)
{
    return take_sign(parser, "&&") || take(parser, "and");
}

static bool take_or(struct parser *parser)
{
    return take_sign(parser, "||") || take(parser, "or");
}

static bool take_not(struct parser *parser)
{
    spaces(parser);
    if (parser->at[0] == '!' && parser->at[1] != '=') {
        parser->at++;
        return true;
    }
    return take(parser, "not");
}

static bool number_of(const char *word, uint32_t *number)
{
    const char *end = text_number(word, 0, UINT32_MAX, number);
    return end && *end == '\0';
}

static bool take_number(struct parser *parser, uint32_t *number)
{
    const char *end = peek(parser);
    if (!number_of(parser->word, number))
        return false;
    parser->at = end;
    return true;
}

/* ---- arithmetic --------------------------------------------------------------------------------- */

static const struct {
    const char *word;
    uint8_t version, protocol;
    uint16_t ethertype; /* instead, where it is not 0 */
    bool surely;
} protocol_word[] = {
    {"ip", 0, 0, FLOW_ETHERTYPE_IP, true},
    {"ip6", 0, 0, FLOW_ETHERTYPE_IPV6, true},
    {"arp", 0, 0, FLOW_ETHERTYPE_ARP, true},
    {"rarp", 0, 0, FLOW_ETHERTYPE_RARP, true},
    {"tcp", 0, 6, 0, true},
    {"udp", 0, 17, 0, true},
    {"sctp", 0, 132, 0, true},
    {"icmp", 4, 1, 0, true},
    {"icmp6", 6, 58, 0, true},
    {"igmp", 4, 2, 0, false},
    {"igrp", 4, 9, 0, false},
    {"pim", 0, 103, 0, false},
    {"vrrp", 4, 112, 0, false},
    {"carp", 4, 112, 0, false},
    {"ah", 0, 51, 0, false},
    {"esp", 0, 50, 0, false},
};

static int find_protocol(const char *word)
{
    for (size_t i = 0; i < sizeof protocol_word / sizeof protocol_word[0]; i++)
        if (strcmp(word, protocol_word[i].word) == 0)
            return (int)i;
    return -1;
}

static uint32_t protocol_atom(struct parser *parser, int which)
{
    struct atom atom = {.type = ATOM_PROTOCOL,
                        .version = protocol_word[which].version,
                        .protocol = protocol_word[which].protocol,
                        .surely = protocol_word[which].surely};
    if (protocol_word[which].ethertype != 0) {
        atom.type = ATOM_ETHERTYPE;
        atom.low = protocol_word[which].ethertype;
    }
    return atom_new(parser, &atom);
}

static bool skip_brackets(struct parser *parser)
{
    unsigned open = 0;
    do {
        if (*parser->at == '\0')
            return false;
        open += *parser->at == '[';
        open -= *parser->at == ']';
        parser->at++;
    } while (open > 0);
    return true;
}

static bool arithmetic(struct parser *parser, uint32_t *implied);

/* A term; *implied: a node that a relation over it needs to be true, or NO_NODE. */
static bool arithmetic_term(struct parser *parser, uint32_t *implied)
{
    spaces(parser);
    if (*parser->at == '-') {
        parser->at++;
        return arithmetic_term(parser, implied);
    }
    if (*parser->at == '(') {
        parser->at++;
        if (++parser->depth > NARROWING_DEPTH_MAX)
            return false;
        bool good = arithmetic(parser, implied) && take_sign(parser, ")");
        parser->depth--;
        return good;
    }
    const char *end = peek(parser);
    uint32_t ignored;
    char word[WORD_MAX];
    memcpy(word, parser->word, sizeof word);
    if (word[0] == '\0' || is_escaped(parser))
        return false;
    parser->at = end;
    spaces(parser);
    if (*parser->at == '[' && isalpha((unsigned char)word[0])) {
        if (!skip_brackets(parser))
            return false;
        int which = find_protocol(word);
        if (which < 0)
            return true;
        uint32_t node = protocol_atom(parser, which);
        *implied = *implied == NO_NODE ? node : node_new(parser, NODE_AND, *implied, node);
        return true;
    }
    return number_of(word, &ignored) || strcmp(word, "len") == 0 || strcmp(word, "length") == 0 ||
           strncmp(word, "tcp-", 4) == 0 || strncmp(word, "icmp", 4) == 0;
}

static bool take_operator(struct parser *parser)
{
    spaces(parser);
    if (strncmp(parser->at, "&&", 2) == 0 || strncmp(parser->at, "||", 2) == 0)
        return false;
    if (take_sign(parser, "<<") || take_sign(parser, ">>"))
        return true;
    if (*parser->at == '\0' || !strchr("+-*/%&|^", *parser->at))
        return false;
    parser->at++;
    return true;
}

static bool arithmetic(struct parser *parser, uint32_t *implied)
{
    do {
        if (!arithmetic_term(parser, implied))
            return false;
    } while (take_operator(parser));
    return true;
}

/* arithmetic, comparison, arithmetic; or nothing, and the parser stands where it stood. */
static bool relation(struct parser *parser, uint32_t *node)
{
    const char *from = parser->at;
    uint32_t nodes = parser->tree->nodes, implied = NO_NODE;
    unsigned depth = parser->depth;
    bool failed = parser->failed;
    if (arithmetic(parser, &implied) &&
        (take_sign(parser, ">=") || take_sign(parser, "<=") || take_sign(parser, "!=") ||
         take_sign(parser, "==") || take_sign(parser, "=") || take_sign(parser, ">") ||
         take_sign(parser, "<")) &&
        arithmetic(parser, &implied)) {
        *node = maybe(parser);
        if (implied != NO_NODE)
            *node = node_new(parser, NODE_AND, implied, *node);
        return true;
    }
    parser->at = from;
    parser->tree->nodes = nodes;
    parser->depth = depth;
    parser->failed = failed;
    return false;
}

/* ---- identifiers -------------------------------------------------------------------------------- */

/* Up to four numbers with dots between them; *bits: how many of the address they say. */
static bool dotted(const char *word, uint32_t *address, uint32_t *bits)
{
    *address = *bits = 0;
    for (;;) {
        uint32_t part;
        const char *end = *bits < 32 ? text_number(word, 10, 255, &part) : NULL;
        if (!end)
            return false;
        *address = *address << 8 | part;
        *bits += 8;
        if (*end == '\0')
            return true;
        if (*end != '.')
            return false;
        word = end + 1;
    }
}

static void host4(struct host *host, uint32_t address, uint32_t mask)
{
    *host = (struct host){.version = 4};
    for (unsigned i = 0; i < 4; i++) {
        host->mask[i] = (uint8_t)(mask >> (24 - 8 * i));
        host->address[i] = (uint8_t)(address >> (24 - 8 * i)) & host->mask[i];
    }
}

static bool host6(struct host *host, const char *word, uint32_t length)
{
    *host = (struct host){.version = 6};
    if (inet_pton(AF_INET6, word, host->address) != 1 || length > 128)
        return false;
    for (unsigned i = 0; i < 16; i++) {
        uint32_t bits = length > 8 * i ? length - 8 * i : 0;
        host->mask[i] = bits >= 8 ? 255 : (uint8_t)(0xff00 >> bits);
        host->address[i] &= host->mask[i];
    }
    return true;
}

static bool mac_of(const char *word, uint8_t mac[6])
{
    unsigned count = 0;
    const char *at = word;
    while (count < 6) { /* 1:2:3:a:b:c, also with dashes or dots */
        uint32_t part;
        const char *end = text_number(at, 16, 255, &part);
        if (!end || end - at > 2)
            return false;
        mac[count++] = (uint8_t)part;
        at = end;
        if (count < 6 && *at != ':' && *at != '-' && *at != '.')
            return false;
        at += count < 6;
    }
    return *at == '\0';
}

static uint32_t network_atom(struct parser *parser, const struct qualifiers *q,
                             const struct host *host)
{
    if (q->link || q->way_other || q->family == 255 ||
        (host->version == 6 && q->family != FAMILY_ANY && q->family != FAMILY_IP6) ||
        (host->version == 4 && q->family == FAMILY_IP6))
        return maybe(parser);
    return atom_new(parser, &(struct atom){.type = ATOM_HOST,
                                           .way = q->way,
                                           .family = q->family,
                                           .host = *host,
                                           .surely = true});
}

static uint32_t port_atom(struct parser *parser, const struct qualifiers *q, uint32_t low,
                          uint32_t high)
{
    if (low > high) {
        uint32_t other = low;
        low = high;
        high = other;
    }
    if (q->link || q->way_other || q->family != FAMILY_ANY || high > 65535)
        return maybe(parser);
    return atom_new(parser, &(struct atom){.type = ATOM_PORT,
                                           .way = q->way,
                                           .protocol = q->protocol,
                                           .low = (uint16_t)low,
                                           .high = (uint16_t)high,
                                           .surely = true});
}

static uint32_t protocol_id(struct parser *parser, const struct qualifiers *q, const char *word)
{
    uint32_t number;
    int which = find_protocol(word);
    if (q->way != WAY_EITHER || q->way_other || q->protocol != 0)
        return maybe(parser);
    if (q->link) {
        if (which >= 0 && protocol_word[which].ethertype != 0)
            return protocol_atom(parser, which);
        if (!number_of(word, &number) || number < 0x600 || number > 0xffff)
            return maybe(parser);
        return atom_new(parser, &(struct atom){.type = ATOM_ETHERTYPE,
                                               .low = (uint16_t)number,
                                               .surely = true});
    }
    if (q->family != FAMILY_ANY && q->family != FAMILY_IP && q->family != FAMILY_IP6)
        return maybe(parser);
    if (which >= 0 && protocol_word[which].ethertype == 0)
        number = protocol_word[which].protocol;
    else if (!number_of(word, &number) || number > 255)
        return maybe(parser);
    return atom_new(parser, &(struct atom){.type = ATOM_PROTOCOL,
                                           .version = q->family,
                                           .protocol = (uint8_t)number,
                                           .surely = q->family != FAMILY_ANY});
}

/* The text's beginning up to a sign. */
static bool split(const char *word, char sign, char *head, const char **tail)
{
    const char *at = strchr(word, sign);
    if (!at)
        return false;
    memcpy(head, word, (size_t)(at - word));
    head[at - word] = '\0';
    *tail = at + 1;
    return true;
}

static uint32_t host_id(struct parser *parser, const struct qualifiers *q, const char *word)
{
    struct host host;
    uint32_t address, bits, length;
    if (q->link) {
        struct atom atom = {.type = ATOM_MAC, .way = q->way, .surely = true};
        if (q->way_other || q->type == TYPE_NET || !mac_of(word, atom.mac))
            return maybe(parser);
        return atom_new(parser, &atom);
    }
    if (strchr(word, ':')) {
        length = 128;
        if (q->type == TYPE_NET && take_sign(parser, "/") && !take_number(parser, &length))
            parser->failed = true;
        return host6(&host, word, length) ? network_atom(parser, q, &host) : maybe(parser);
    }
    if (!dotted(word, &address, &bits)) {
        if (take_sign(parser, "/") && !take_number(parser, &length))
            parser->failed = true;
        return maybe(parser);
    }
    uint32_t mask = UINT32_MAX;
    if (bits == 8 && !strchr(word, '.')) { /* a bare number: gen_ncode()'s promotion of networks */
        if (!number_of(word, &address))
            return maybe(parser);
        bits = 32;
        while (q->type == TYPE_NET && address != 0 && (address & 0xff000000) == 0)
            address <<= 8, mask <<= 8;
        if (take_sign(parser, "/")) {
            parser->failed |= !take_number(parser, &length);
            return maybe(parser);
        }
        if (q->type != TYPE_NET)
            return maybe(parser);
    }
    address = bits == 32 ? address : address << (32 - bits);
    mask = bits == 32 ? mask : mask << (32 - bits);
    if (take_sign(parser, "/")) {
        if (!take_number(parser, &length) || length > 32)
            parser->failed = true;
        mask = length == 0 ? 0 : UINT32_MAX << (32 - (length <= 32 ? length : 32));
    } else if (next_is(parser, "mask")) {
        take(parser, "mask");
        const char *end = peek(parser);
        if (!dotted(parser->word, &mask, &bits))
            parser->failed = true;
        else
            mask <<= 32 - bits;
        parser->at = end;
    }
    host4(&host, address, mask);
    return network_atom(parser, q, &host);
}

/* One identifier, with these qualifiers. */
static uint32_t one_id(struct parser *parser, const struct qualifiers *q)
{
    char word[WORD_MAX], head[WORD_MAX];
    const char *tail, *end = peek(parser);
    uint32_t low, high;
    memcpy(word, parser->word, sizeof word);
    if (word[0] == '\0' || !q->valid) {
        parser->failed = true;
        return 0;
    }
    parser->at = end;
    switch (q->type) {
    case TYPE_NONE:
    case TYPE_HOST:
    case TYPE_NET:
        return host_id(parser, q, word);
    case TYPE_PORT:
        return number_of(word, &low) ? port_atom(parser, q, low, low) : maybe(parser);
    case TYPE_RANGE:
        if (number_of(word, &low))
            return port_atom(parser, q, low, low);
        if (split(word, '-', head, &tail) && number_of(head, &low) && number_of(tail, &high))
            return port_atom(parser, q, low, high);
        return maybe(parser);
    case TYPE_PROTO:
        return protocol_id(parser, q, word);
    default:
        return maybe(parser);
    }
}

/* ---- qualifiers --------------------------------------------------------------------------------- */

static bool take_any(struct parser *parser, const char *const *word)
{
    for (; *word; word++)
        if (take(parser, *word))
            return true;
    return false;
}

/* Returns whether a protocol was named. *which: in protocol_word, or -1. */
static bool take_protocol(struct parser *parser, struct qualifiers *q, int *which)
{
    static const char *const link[] = {"ether", "link", "fddi", "tr", "wlan", "ppp", "slip", NULL};
    static const char *const other[] = {"atalk", "aarp", "decnet", "lat",   "sca",  "moprc",
                                        "mopdl", "iso",  "esis",   "es-is", "isis", "is-is",
                                        "clnp",  "stp",  "ipx",    "netbeui", "radio", NULL};
    *which = -1;
    if (take_any(parser, link)) {
        q->link = true;
        return true;
    }
    if (take_any(parser, other)) {
        q->family = 255;
        return true;
    }
    const char *end = peek(parser);
    *which = is_escaped(parser) ? -1 : find_protocol(parser->word);
    if (*which < 0)
        return false;
    parser->at = end;
    static const uint8_t family[] = {FAMILY_IP, FAMILY_IP6, FAMILY_ARP, FAMILY_RARP};
    uint8_t protocol = protocol_word[*which].protocol;
    if (*which < 4)
        q->family = family[*which];
    else if (protocol == 6 || protocol == 17 || protocol == 132)
        q->protocol = protocol;
    else
        q->family = 255;
    return true;
}

static bool take_way(struct parser *parser, struct qualifiers *q)
{
    static const char *const other[] = {"ra", "ta", "addr1", "addr2", "addr3", "addr4", NULL};
    for (unsigned i = 0; i < 2; i++) {
        const char *one = i == 0 ? "src" : "dst", *two = i == 0 ? "dst" : "src";
        if (!take(parser, one))
            continue;
        const char *from = parser->at;
        q->way = i == 0 ? WAY_SOURCE : WAY_DESTINATION;
        if (take_or(parser) && take(parser, two)) {
            q->way = WAY_EITHER;
            return true;
        }
        parser->at = from;
        if (take_and(parser) && take(parser, two)) {
            q->way = WAY_BOTH;
            return true;
        }
        parser->at = from;
        return true;
    }
    if (!take_any(parser, other))
        return false;
    q->way_other = true;
    return true;
}

static bool take_type(struct parser *parser, struct qualifiers *q)
{
    static const char *const word[] = {"host", "net", "port", "portrange", "proto", NULL};
    static const char *const other[] = {"protochain", "gateway", NULL};
    for (unsigned i = 0; word[i]; i++)
        if (take(parser, word[i])) {
            static const int type[] = {TYPE_HOST, TYPE_NET, TYPE_PORT, TYPE_RANGE, TYPE_PROTO};
            q->type = type[i];
            return true;
        }
    if (!take_any(parser, other))
        return false;
    q->type = TYPE_OTHER;
    return true;
}

/* ---- primitives --------------------------------------------------------------------------------- */

static uint32_t term(struct parser *parser, struct qualifiers *q, bool ids);
static uint32_t expression(struct parser *parser, struct qualifiers *q, bool ids);

/* broadcast and multicast, with or without a protocol before them. */
static bool group_primitive(struct parser *parser, const struct qualifiers *q, bool protocol,
                            uint32_t *node)
{
    struct atom atom = {.type = ATOM_MAC_GROUP, .surely = true};
    bool broadcast = take(parser, "broadcast");
    if (!broadcast && !take(parser, "multicast"))
        return false;
    atom.any = !broadcast;
    if (!protocol || q->link) {
        *node = atom_new(parser, &atom);
    } else if (!broadcast && (q->family == FAMILY_IP || q->family == FAMILY_IP6)) {
        atom.type = ATOM_IP_MULTICAST;
        atom.version = q->family;
        *node = atom_new(parser, &atom);
    } else {
        *node = maybe(parser);
    }
    return true;
}

/* What moves the offsets of all that follows. */
static bool shifting_primitive(struct parser *parser, uint32_t *node)
{
    static const struct {
        const char *word;
        enum atom_type type;
    } shifting[] = {{"vlan", ATOM_VLAN},
                    {"mpls", ATOM_MPLS},
                    {"pppoed", ATOM_PPPOE_DISCOVERY},
                    {"pppoes", ATOM_PPPOE_SESSION},
                    {"geneve", ATOM_GENEVE},
                    {"vxlan", ATOM_MAYBE}};
    for (size_t i = 0; i < sizeof shifting / sizeof shifting[0]; i++) {
        uint32_t number;
        if (!take(parser, shifting[i].word))
            continue;
        struct atom atom = {.type = shifting[i].type, .any = true};
        if (i != 2 && take_number(parser, &number)) {
            atom.any = number > 4095;
            atom.low = (uint16_t)number;
        }
        *node = atom_new(parser, &atom);
        uint8_t *count[] = {&parser->shape.tags,  &parser->shape.labels,  NULL,
                            &parser->shape.pppoe, &parser->shape.tunnels, &parser->shape.tunnels};
        if (count[i] && *count[i] < 200)
            ++*count[i];
        return true;
    }
    return false;
}

/* Primitives that the index knows nothing of. */
static bool other_primitive(struct parser *parser, uint32_t *node)
{
    static const char *const bare[] = {"inbound", "outbound", NULL};
    static const char *const with_word[] = {"less", "greater", "ifname", "on", "ifindex", "type",
                                            "subtype", "dir", NULL};
    if (take_any(parser, with_word)) {
        const char *end = peek(parser);
        parser->failed |= parser->word[0] == '\0';
        parser->at = end;
    } else if (!take_any(parser, bare)) {
        return false;
    }
    *node = maybe(parser);
    return true;
}

/* Takes so many bytes from `from` on, and goes on behind them. False: there are none, or too many. */
static bool copy_word(struct parser *parser, const char *from, size_t length, char *word, size_t room)
{
    if (length == 0 || length >= room)
        return false;
    memcpy(word, from, length);
    word[length] = '\0';
    parser->at = from + length;
    return true;
}

/* Up to the next space or parenthesis. */
static bool raw_word(struct parser *parser, char *word, size_t room)
{
    spaces(parser);
    size_t length = strcspn(parser->at, " \t\r\n)");
    return copy_word(parser, parser->at, length, word, room);
}

/* A name, up to where filter_words.c sees its end, too: who finds another name there passes packets by that match. */
static bool name_word(struct parser *parser, char *word, size_t room)
{
    spaces(parser);
    size_t length = 0;
    const char *from = parser->at;
    if (*from == '"' || *from == '\'') {
        const char *end = strchr(++from, *parser->at);
        if (!end || !copy_word(parser, from, (size_t)(end - from), word, room))
            return false;
        parser->at++;
        return true;
    }
    while (isalnum((unsigned char)parser->at[length]) || (parser->at[length] != '\0' && strchr("_.:-/", parser->at[length])))
        length++;
    return copy_word(parser, parser->at, length, word, room);
}

static bool socket_of(const char *word, struct host *host, uint16_t *port)
{
    char address[WORD_MAX];
    const char *colon = strrchr(word, ':');
    uint32_t number, bits;
    if (!colon || !number_of(colon + 1, &number) || number > 65535)
        return false;
    *port = (uint16_t)number;
    size_t length = (size_t)(colon - word);
    if (word[0] == '[' && length >= 2 && word[length - 1] == ']') {
        memcpy(address, word + 1, length - 2);
        address[length - 2] = '\0';
        return host6(host, address, 128);
    }
    memcpy(address, word, length);
    address[length] = '\0';
    if (!dotted(address, &number, &bits) || bits != 32)
        return false;
    host4(host, number, UINT32_MAX);
    return true;
}

static uint32_t flow_primitive(struct parser *parser)
{
    char one[WORD_MAX], two[WORD_MAX];
    struct atom atom = {.type = ATOM_FLOW};
    if (!raw_word(parser, one, sizeof one) || !raw_word(parser, two, sizeof two) ||
        !socket_of(one, &atom.host, &atom.low) || !socket_of(two, &atom.peer, &atom.high) ||
        atom.host.version != atom.peer.version) {
        parser->failed = true;
        return 0;
    }
    if (take(parser, "tcp"))
        atom.protocol = 6;
    else if (take(parser, "udp"))
        atom.protocol = 17;
    return atom_new(parser, &atom);
}

static bool community_of(const char *word, uint8_t digest[20])
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, value = 0, count = 0;
    if (strncmp(word, "1:", 2) != 0 || strlen(word) != 30 || word[29] != '=')
        return false;
    for (const char *at = word + 2; at < word + 29; at++) {
        const char *found = strchr(digit, *at);
        if (!found)
            return false;
        value = value << 6 | (uint32_t)(found - digit);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            digest[count++] = (uint8_t)(value >> bits);
        }
    }
    return count == 20;
}

/* The words that are ours, not libpcap's. */
static bool own_primitive(struct parser *parser, struct qualifiers *q, uint32_t *node)
{
    char word[WORD_MAX];
    struct atom atom = {.type = ATOM_MAYBE};
    if (take(parser, "flow")) {
        *node = flow_primitive(parser);
    } else if (take(parser, "app")) {
        atom.type = ATOM_APP;
        parser->failed |= !name_word(parser, word, sizeof atom.app);
        if (!parser->failed)
            memcpy(atom.app, word, strlen(word) + 1);
        *node = atom_new(parser, &atom);
    } else if (take(parser, "community")) {
        atom.type = ATOM_COMMUNITY;
        parser->failed |= !raw_word(parser, word, sizeof word) || !community_of(word, atom.digest);
        *node = atom_new(parser, &atom);
    } else if (take(parser, "rule")) {
        atom.type = ATOM_RULE;
        parser->failed |= !take_number(parser, &atom.rule);
        *node = atom_new(parser, &atom);
    } else if (take(parser, "inner")) {
        bool outside = parser->inner;
        parser->inner = true;
        *node = term(parser, q, false);
        parser->inner = outside;
        return true;
    } else if (take(parser, "outer")) {
        struct shape shape = parser->shape;
        bool outside = parser->outer;
        parser->shape = (struct shape){0};
        parser->outer = true;
        *node = term(parser, q, false);
        parser->shape = shape;
        parser->outer = outside;
        return true;
    } else if (take(parser, "after") || take(parser, "before")) {
        parser->failed |= !raw_word(parser, word, sizeof word);
        *node = maybe(parser);
    } else {
        return false;
    }
    q->valid = false;
    return true;
}

static bool is_keyword_like(struct parser *parser)
{
    peek(parser);
    return next_is(parser, "and") || next_is(parser, "or") || parser->word[0] == '\0';
}

/* After qualifiers: one identifier, or several in parentheses, or `not` one. */
static uint32_t id(struct parser *parser, struct qualifiers *q)
{
    if (++parser->depth > NARROWING_DEPTH_MAX) {
        parser->failed = true;
        return 0;
    }
    uint32_t node;
    if (take_not(parser)) {
        node = id(parser, q);
        node = node_new(parser, NODE_NOT, node, 0);
    } else if (take_sign(parser, "(")) {
        node = expression(parser, q, true);
        parser->failed |= !take_sign(parser, ")");
    } else {
        node = one_id(parser, q);
    }
    parser->depth--;
    return node;
}

/* Qualifiers and what they qualify; or a protocol alone. */
static uint32_t qualified(struct parser *parser, struct qualifiers *q, bool ids)
{
    struct qualifiers given = {.valid = true};
    const char *from = parser->at;
    int which;
    uint32_t node;
    bool protocol = take_protocol(parser, &given, &which);
    if (group_primitive(parser, &given, protocol, &node)) {
        q->valid = false;
        return node;
    }
    bool way = take_way(parser, &given), type = take_type(parser, &given);
    if (way || type) {
        *q = given;
        return id(parser, q);
    }
    if (!protocol) {
        parser->at = from;
        if (ids && q->valid && !is_keyword_like(parser))
            return one_id(parser, q);
        parser->failed = true;
        return 0;
    }
    q->valid = false;
    if (given.link && other_primitive(parser, &node)) /* wlan type ... */
        return node;
    return which >= 0 ? protocol_atom(parser, which) : maybe(parser);
}

static uint32_t term(struct parser *parser, struct qualifiers *q, bool ids)
{
    uint32_t node = 0;
    if (parser->failed || ++parser->depth > NARROWING_DEPTH_MAX) {
        parser->failed = true;
        return 0;
    }
    if (take_not(parser)) {
        node = term(parser, q, ids);
        node = node_new(parser, NODE_NOT, node, 0);
    } else if (relation(parser, &node) || shifting_primitive(parser, &node) ||
               other_primitive(parser, &node)) {
        q->valid = false;
    } else if (take_sign(parser, "(")) {
        struct qualifiers inside = *q;
        node = expression(parser, &inside, ids);
        parser->failed |= !take_sign(parser, ")");
    } else if (!own_primitive(parser, q, &node)) {
        node = qualified(parser, q, ids);
    }
    parser->depth--;
    return node;
}

/* `ids`: it may begin with an identifier that takes the qualifiers before it. */
static uint32_t expression(struct parser *parser, struct qualifiers *q, bool ids)
{
    uint32_t node = term(parser, q, ids);
    while (!parser->failed) {
        bool both = take_and(parser);
        if (!both && !take_or(parser))
            break;
        uint32_t right = term(parser, q, true);
        node = node_new(parser, both ? NODE_AND : NODE_OR, node, right);
    }
    return node;
}

int narrowing_parse(struct narrowing *tree, const char *text)
{
    struct parser parser = {.tree = tree, .at = text};
    struct qualifiers q = {.valid = false};
    spaces(&parser);
    tree->everything = *parser.at == '\0';
    tree->parsed = true;
    if (tree->everything)
        return 0;
    tree->node = calloc(NARROWING_NODES_MAX, sizeof *tree->node);
    if (!tree->node)
        return ERR_NO_MEMORY;
    tree->root = expression(&parser, &q, false);
    spaces(&parser);
    tree->parsed = !parser.failed && *parser.at == '\0';
    return 0;
}
