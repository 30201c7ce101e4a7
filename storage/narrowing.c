/*
 * narrowing.c - judging flows, and asking runs, by the tree of a filter.
 *
 * What libpcap's program would do with a packet is known from the flow's keys only where the
 * packet has the shape that the program expects. Everything here that says NONE or EVERY has asked
 * first whether the shape is right; narrowing.h says why. A program that reads beyond a packet's
 * end rejects the packet whatever else the filter says, so a verdict on packets that are cut short
 * never has to be other than for whole ones.
 */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "errors.h"
#include "narrowing_inside.h"
#include "verdicts.h"

#define UNSURE (FLOW_LINK_UNSURE | FLOW_NETWORK_UNSURE)
#define ETHERTYPE_MPLS 0x8847
#define ETHERTYPE_PPPOE_DISCOVERY 0x8863
#define ETHERTYPE_PPPOE_SESSION 0x8864
#define PORT_GENEVE 6081

/* ---- shapes ------------------------------------------------------------------------------------ */

/* Whether a primitive with this many headers before it looks at the flow's own network header. */
static bool shape_fits(const struct shape *shape, const struct flow_kind *kind)
{
    bool direct = (kind->marks & FLOW_DIRECT) != 0;
    if (shape->tunnels > 0)
        return false;
    if (shape->pppoe > 0)
        return (kind->marks & FLOW_PPPOE) != 0 && kind->tags == shape->tags && shape->labels == 0;
    if (shape->labels > 0)
        return direct && kind->tags == shape->tags && kind->labels >= shape->labels;
    return shape->tags == 0 || (direct && kind->tags >= shape->tags);
}

/* Whether nothing at all stands between the filter and the packets of the flow. */
static bool is_plain(const struct atom *atom, const struct flow_kind *kind)
{
    const uint16_t wanted = FLOW_ETHERNET | FLOW_DIRECT;
    return (kind->marks & (wanted | UNSURE | FLOW_TRANSPORT_UNSURE)) == wanted &&
           kind->tags == 0 && kind->labels == 0 && !atom->inner && !atom->outer && atom->shape.tags == 0 &&
           atom->shape.labels == 0 && atom->shape.pppoe == 0 && atom->shape.tunnels == 0;
}

static enum narrowing_verdict no_more_than_maybe(enum narrowing_verdict verdict)
{
    return verdict == NARROWING_EVERY ? NARROWING_MAYBE : verdict;
}

static enum narrowing_verdict better(enum narrowing_verdict a, enum narrowing_verdict b)
{
    return a > b ? a : b;
}

/* ---- one level of headers ---------------------------------------------------------------------- */

struct level { /* the first IP header, or the innermost */
    const uint8_t *address[2];
    uint16_t port[2];
    uint16_t marks;
    uint16_t ethertype;
    uint8_t version;
    uint8_t protocol;
};

static struct level outer_level(const struct flow_keys *keys)
{
    return (struct level){
        .address = {keys->end[0].address, keys->end[1].address},
        .port = {keys->end[0].port, keys->end[1].port},
        .marks = keys->kind.marks,
        .ethertype = keys->kind.ethertype,
        .version = keys->kind.version,
        .protocol = keys->kind.protocol,
    };
}

static struct level inner_level(const struct flow_keys *keys)
{
    const struct flow_inner *inner = &keys->inner;
    return (struct level){
        .address = {inner->address[0], inner->address[1]},
        .port = {inner->port[0], inner->port[1]},
        .marks = inner->marks,
        .version = inner->version,
        .protocol = inner->protocol,
    };
}

/* A property of either end, judged by the directions in which packets were seen. */
static enum narrowing_verdict by_way(const bool has[2], enum atom_way way, uint8_t ways)
{
    bool any = false, all = (ways & (FLOW_WAY_0 | FLOW_WAY_1)) != 0;
    for (unsigned from = 0; from < 2; from++) {
        bool holds = way == WAY_EITHER        ? has[0] || has[1]
                     : way == WAY_BOTH        ? has[0] && has[1]
                     : way == WAY_SOURCE      ? has[from]
                                              : has[!from];
        if ((ways & FLOW_WAY_0 << from) == 0)
            continue;
        any |= holds;
        all &= holds;
    }
    return all ? NARROWING_EVERY : any ? NARROWING_MAYBE : NARROWING_NONE;
}

static bool host_has(const struct host *host, const uint8_t *address)
{
    for (unsigned i = 0; i < (host->version == 4 ? 4u : 16u); i++)
        if ((address[i] & host->mask[i]) != host->address[i])
            return false;
    return true;
}

static enum narrowing_verdict judge_host(const struct atom *atom, const struct level *level,
                                         uint8_t ways)
{
    bool arp = level->ethertype == FLOW_ETHERTYPE_ARP, rarp = level->ethertype == FLOW_ETHERTYPE_RARP;
    if (level->version != atom->host.version || (atom->family == FAMILY_ARP && !arp) ||
        (atom->family == FAMILY_RARP && !rarp) || (atom->family == FAMILY_IP && (arp || rarp)))
        return NARROWING_NONE;
    const bool has[2] = {host_has(&atom->host, level->address[0]),
                         host_has(&atom->host, level->address[1])};
    return by_way(has, atom->way, ways);
}

static enum narrowing_verdict judge_port(const struct atom *atom, const struct level *level,
                                         uint8_t ways)
{
    if ((level->marks & FLOW_TRANSPORT_UNSURE) != 0)
        return NARROWING_MAYBE;
    bool known = level->protocol == 6 || level->protocol == 17 || level->protocol == 132;
    if ((level->marks & FLOW_PORTS) == 0 || !known ||
        (atom->protocol != 0 && atom->protocol != level->protocol))
        return NARROWING_NONE;
    const bool has[2] = {level->port[0] >= atom->low && level->port[0] <= atom->high,
                         level->port[1] >= atom->low && level->port[1] <= atom->high};
    enum narrowing_verdict verdict = by_way(has, atom->way, ways);
    return (level->marks & FLOW_EXTENSIONS) != 0 ? no_more_than_maybe(verdict) : verdict;
}

static enum narrowing_verdict judge_protocol(const struct atom *atom, const struct level *level)
{
    bool arp = level->ethertype == FLOW_ETHERTYPE_ARP || level->ethertype == FLOW_ETHERTYPE_RARP;
    if (level->version == 0 || arp || (atom->version != 0 && atom->version != level->version))
        return NARROWING_NONE;
    if ((level->marks & FLOW_EXTENSIONS) != 0)
        return NARROWING_MAYBE; /* a filter may mean the extension header, or what is behind it */
    return atom->protocol == level->protocol ? NARROWING_EVERY : NARROWING_NONE;
}

static enum narrowing_verdict judge_multicast(const struct atom *atom, const struct level *level,
                                              uint8_t ways)
{
    bool arp = level->ethertype == FLOW_ETHERTYPE_ARP || level->ethertype == FLOW_ETHERTYPE_RARP;
    if (level->version != atom->version || arp)
        return NARROWING_NONE;
    uint8_t least = atom->version == 4 ? 224 : 255;
    const bool has[2] = {level->address[0][0] >= least, level->address[1][0] >= least};
    return by_way(has, WAY_DESTINATION, ways);
}

static enum narrowing_verdict judge_level(const struct atom *atom, const struct level *level,
                                          uint8_t ways)
{
    switch (atom->type) {
    case ATOM_HOST:
        return judge_host(atom, level, ways);
    case ATOM_PORT:
        return judge_port(atom, level, ways);
    case ATOM_PROTOCOL:
        return judge_protocol(atom, level);
    case ATOM_IP_MULTICAST:
        return judge_multicast(atom, level, ways);
    default:
        return NARROWING_MAYBE;
    }
}

/* Behind `inner`: any header in a tunnel or behind labels. */
static enum narrowing_verdict judge_inner(const struct atom *atom, const struct flow_keys *keys,
                                          uint8_t ways)
{
    enum narrowing_verdict verdict = NARROWING_NONE;
    if ((keys->kind.marks & (UNSURE | FLOW_DEEP)) != 0)
        return NARROWING_MAYBE;
    if ((keys->kind.marks & FLOW_INNER) != 0) {
        struct level level = inner_level(keys);
        verdict = better(verdict, judge_level(atom, &level, ways));
    }
    if ((keys->kind.marks & FLOW_ENCLOSED) != 0) {
        struct level level = outer_level(keys);
        verdict = better(verdict, judge_level(atom, &level, ways));
    }
    return no_more_than_maybe(verdict);
}

/* Behind `geneve` or `vxlan`: the headers in the tunnel, where it is one such tunnel and no more. */
static enum narrowing_verdict judge_tunnelled(const struct atom *atom, const struct flow_keys *keys,
                                              uint8_t ways)
{
    const struct shape *shape = &atom->shape;
    bool fits = keys->kind.tunnel == FLOW_TUNNEL_GENEVE || keys->kind.tunnel == FLOW_TUNNEL_VXLAN;
    if (!fits || shape->tunnels > 1 || shape->tags > 0 || shape->labels > 0 || shape->pppoe > 0 ||
        (keys->kind.marks & (UNSURE | FLOW_DEEP | FLOW_INNER | FLOW_ENCLOSED)) != FLOW_INNER)
        return NARROWING_MAYBE;
    struct level level = inner_level(keys);
    return no_more_than_maybe(judge_level(atom, &level, ways));
}

static enum narrowing_verdict judge_network(const struct atom *atom, const struct flow_keys *keys,
                                            uint8_t ways)
{
    if (atom->inner)
        return judge_inner(atom, keys, ways);
    if (atom->shape.tunnels > 0)
        return judge_tunnelled(atom, keys, ways);
    if ((keys->kind.marks & UNSURE) != 0 || !shape_fits(&atom->shape, &keys->kind))
        return NARROWING_MAYBE;
    struct level level = outer_level(keys);
    enum narrowing_verdict verdict = judge_level(atom, &level, ways);
    return atom->surely && is_plain(atom, &keys->kind) ? verdict : no_more_than_maybe(verdict);
}

/* ---- the link layer ---------------------------------------------------------------------------- */

/* Types that stand before the one in the keys: tags of all kinds, and Ethernet in Ethernet. */
static bool is_shim(uint16_t ethertype)
{
    switch (ethertype) {
    case 0x8100:
    case 0x88a8:
    case 0x9100:
    case 0x9200:
    case 0x8926:
    case 0x893f:
    case 0x88e7:
    case 0x6558:
    case 0x880b:
        return true;
    default:
        return false;
    }
}

static enum narrowing_verdict judge_ethertype(const struct atom *atom, const struct flow_kind *kind)
{
    const struct shape *shape = &atom->shape;
    if (atom->outer) {
        uint8_t version = atom->low == FLOW_ETHERTYPE_IP ? 4 : atom->low == FLOW_ETHERTYPE_IPV6 ? 6 : 0;
        return version == 0 || (kind->marks & UNSURE) != 0 || kind->version == version ? NARROWING_MAYBE : NARROWING_NONE;
    }
    if ((kind->marks & FLOW_LINK_UNSURE) != 0 || (kind->marks & FLOW_ETHERNET) == 0 ||
        atom->inner || is_shim(atom->low) || shape->labels > 0 || shape->pppoe > 0 ||
        shape->tunnels > 0)
        return NARROWING_MAYBE;
    if (shape->tags > 0 && !((kind->marks & FLOW_DIRECT) != 0 && kind->tags >= shape->tags))
        return NARROWING_MAYBE;
    if (kind->ethertype == atom->low)
        return atom->surely && is_plain(atom, kind) ? NARROWING_EVERY : NARROWING_MAYBE;
    if (kind->ethertype == 0 && atom->low == ETHERTYPE_PPPOE_SESSION)
        return NARROWING_MAYBE;
    return NARROWING_NONE; /* also LLC: where the type would be, there is a length */
}

static enum narrowing_verdict judge_mac(const struct atom *atom, const struct flow_keys *keys,
                                        uint8_t ways)
{
    bool has[2];
    if ((keys->kind.marks & FLOW_ETHERNET) == 0 || atom->inner || atom->shape.tunnels > 0 ||
        atom->shape.pppoe > 0 || atom->shape.labels > 0)
        return NARROWING_MAYBE;
    for (unsigned i = 0; i < 2; i++) {
        static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
        const uint8_t *mac = keys->end[i].mac;
        has[i] = atom->type == ATOM_MAC ? memcmp(mac, atom->mac, 6) == 0
                 : atom->any            ? (mac[0] & 1) != 0
                                        : memcmp(mac, broadcast, 6) == 0;
    }
    return by_way(has, atom->type == ATOM_MAC ? atom->way : WAY_DESTINATION, ways);
}

static enum narrowing_verdict judge_vlan(const struct atom *atom, const struct flow_kind *kind)
{
    const struct shape *shape = &atom->shape;
    bool direct = (kind->marks & FLOW_DIRECT) != 0;
    if ((kind->marks & FLOW_LINK_UNSURE) != 0 || (kind->marks & FLOW_ETHERNET) == 0 ||
        atom->inner || shape->labels > 0 || shape->pppoe > 0 || shape->tunnels > 0)
        return NARROWING_MAYBE;
    if (shape->tags > 0 && (!direct || kind->tags < shape->tags))
        return NARROWING_MAYBE;
    if (kind->tags <= shape->tags)
        return NARROWING_NONE;
    if (atom->any || !direct || shape->tags > 1)
        return NARROWING_MAYBE;
    return kind->vlan[shape->tags] == atom->low ? NARROWING_MAYBE : NARROWING_NONE;
}

/* A header that a filter knows by its type. */
static enum narrowing_verdict judge_shim(const struct atom *atom, const struct flow_keys *keys)
{
    const struct flow_kind *kind = &keys->kind;
    const struct shape *shape = &atom->shape;
    if ((kind->marks & FLOW_LINK_UNSURE) != 0 || (kind->marks & FLOW_ETHERNET) == 0 ||
        atom->inner || shape->labels > 0 || shape->pppoe > 0 || shape->tunnels > 0)
        return NARROWING_MAYBE;
    if (shape->tags > 0 && ((kind->marks & FLOW_DIRECT) == 0 || kind->tags < shape->tags))
        return NARROWING_MAYBE;
    switch (atom->type) {
    case ATOM_MPLS:
        return kind->labels > 0 || kind->ethertype == ETHERTYPE_MPLS ? NARROWING_MAYBE
                                                                     : NARROWING_NONE;
    case ATOM_PPPOE_DISCOVERY:
        return kind->ethertype == 0 || kind->ethertype == ETHERTYPE_PPPOE_DISCOVERY
                   ? NARROWING_MAYBE
                   : NARROWING_NONE;
    default:
        return kind->ethertype == 0 ? NARROWING_MAYBE : NARROWING_NONE;
    }
}

/* ---- what is ours ------------------------------------------------------------------------------ */

static enum narrowing_verdict judge_app(const struct atom *atom, const struct flow_keys *keys, const struct flow_seen *seen)
{
    if (!seen->app)
        return verdicts_never(&keys->kind) ? NARROWING_NONE : NARROWING_MAYBE;
    return verdict_is(seen->app, atom->app) ? NARROWING_MAYBE : NARROWING_NONE;
}

static bool flow_is(const struct atom *atom, const struct level *level)
{
    if (level->version != atom->host.version)
        return false;
    bool ports = (level->marks & FLOW_TRANSPORT_UNSURE) == 0;
    if (ports && ((level->marks & FLOW_PORTS) == 0 ||
                  (atom->protocol != 0 && atom->protocol != level->protocol)))
        return false;
    for (unsigned one = 0; one < 2; one++)
        if (host_has(&atom->host, level->address[one]) &&
            host_has(&atom->peer, level->address[!one]) &&
            (!ports || (level->port[one] == atom->low && level->port[!one] == atom->high)))
            return true;
    return false;
}

static enum narrowing_verdict judge_flow(const struct atom *atom, const struct flow_keys *keys)
{
    struct level outer = outer_level(keys);
    if ((keys->kind.marks & (UNSURE | FLOW_DEEP)) != 0 || flow_is(atom, &outer))
        return NARROWING_MAYBE;
    if ((keys->kind.marks & FLOW_INNER) == 0)
        return NARROWING_NONE;
    struct level inner = inner_level(keys);
    return flow_is(atom, &inner) ? NARROWING_MAYBE : NARROWING_NONE;
}

/* Community ID, version 1, seed 0: of TCP, UDP and SCTP, where it depends on nothing else. */
static bool community_is(const struct atom *atom, const struct level *level)
{
    uint8_t text[2 + 16 + 16 + 2 + 4] = {0}, digest[EVP_MAX_MD_SIZE];
    uint32_t address_bytes = level->version == 4 ? 4 : 16, at = 2;
    bool ports = level->protocol == 6 || level->protocol == 17 || level->protocol == 132;
    if (level->version == 0 || !ports || (level->marks & FLOW_PORTS) == 0 ||
        (level->marks & (FLOW_FRAGMENT | FLOW_TRANSPORT_UNSURE)) != 0)
        return true; /* who knows */
    int order = memcmp(level->address[0], level->address[1], address_bytes);
    unsigned first = order > 0 || (order == 0 && level->port[0] > level->port[1]);
    for (unsigned i = 0; i < 2; i++, at += address_bytes)
        memcpy(text + at, level->address[first ^ i], address_bytes);
    text[at] = level->protocol;
    at += 2;
    for (unsigned i = 0; i < 2; i++, at += 2) {
        text[at] = (uint8_t)(level->port[first ^ i] >> 8);
        text[at + 1] = (uint8_t)level->port[first ^ i];
    }
    unsigned length = 0;
    return EVP_Digest(text, at, digest, &length, EVP_sha1(), NULL) != 1 ||
           memcmp(digest, atom->digest, sizeof atom->digest) == 0;
}

static enum narrowing_verdict judge_community(const struct atom *atom, const struct flow_keys *keys)
{
    struct level outer = outer_level(keys);
    if ((keys->kind.marks & (UNSURE | FLOW_DEEP)) != 0 || community_is(atom, &outer))
        return NARROWING_MAYBE;
    if ((keys->kind.marks & FLOW_INNER) == 0)
        return NARROWING_NONE;
    struct level inner = inner_level(keys);
    return community_is(atom, &inner) ? NARROWING_MAYBE : NARROWING_NONE;
}

static enum narrowing_verdict judge_rule(const struct atom *atom, const struct flow_seen *seen)
{
    if (!seen->entry_set)
        return NARROWING_MAYBE;
    for (uint32_t i = 0; i < 256; i++) {
        if ((seen->entry_set[i / 8] >> i % 8 & 1) == 0)
            continue;
        if (i >= seen->entries || le32_get(seen->entry[i].rule) == atom->rule)
            return NARROWING_MAYBE;
    }
    return NARROWING_NONE;
}

/* ---- the tree ---------------------------------------------------------------------------------- */

static enum narrowing_verdict judge_atom(const struct atom *atom, const struct flow_keys *keys,
                                         const struct flow_seen *seen)
{
    struct atom geneve;
    switch (atom->type) {
    case ATOM_HOST:
    case ATOM_PORT:
    case ATOM_PROTOCOL:
    case ATOM_IP_MULTICAST:
        return judge_network(atom, keys, seen->ways);
    case ATOM_ETHERTYPE:
        return judge_ethertype(atom, &keys->kind);
    case ATOM_MAC:
    case ATOM_MAC_GROUP:
        return judge_mac(atom, keys, seen->ways);
    case ATOM_VLAN:
        return judge_vlan(atom, &keys->kind);
    case ATOM_MPLS:
    case ATOM_PPPOE_DISCOVERY:
    case ATOM_PPPOE_SESSION:
        return judge_shim(atom, keys);
    case ATOM_GENEVE:
        geneve = (struct atom){.type = ATOM_PORT,
                               .shape = atom->shape,
                               .inner = atom->inner,
                               .protocol = 17,
                               .low = PORT_GENEVE,
                               .high = PORT_GENEVE};
        return no_more_than_maybe(judge_network(&geneve, keys, seen->ways));
    case ATOM_APP:
        return judge_app(atom, keys, seen);
    case ATOM_FLOW:
        return judge_flow(atom, keys);
    case ATOM_COMMUNITY:
        return judge_community(atom, keys);
    case ATOM_RULE:
        return judge_rule(atom, seen);
    case ATOM_MAYBE:
        break;
    }
    return NARROWING_MAYBE;
}

/* As deep as there are nodes at most, where a chain of `and` and `or` grows to the left. */
static enum narrowing_verdict judge_node(const struct narrowing *tree, uint32_t number,
                                         const struct flow_keys *keys, const struct flow_seen *seen)
{
    const struct node *node = &tree->node[number];
    enum narrowing_verdict left, right;
    switch (node->type) {
    case NODE_ATOM:
        return judge_atom(&node->atom, keys, seen);
    case NODE_NOT:
        left = judge_node(tree, node->left, keys, seen);
        return left == NARROWING_NONE    ? NARROWING_EVERY
               : left == NARROWING_EVERY ? NARROWING_NONE
                                         : NARROWING_MAYBE;
    case NODE_AND:
        left = judge_node(tree, node->left, keys, seen);
        if (left == NARROWING_NONE)
            return left;
        right = judge_node(tree, node->right, keys, seen);
        return left < right ? left : right;
    case NODE_OR:
        left = judge_node(tree, node->left, keys, seen);
        if (left == NARROWING_EVERY)
            return left;
        right = judge_node(tree, node->right, keys, seen);
        return left > right ? left : right;
    }
    return NARROWING_MAYBE;
}

enum narrowing_verdict narrowing_judge(const struct narrowing *tree, const struct flow_keys *keys,
                                       const struct flow_seen *seen)
{
    if (tree->everything)
        return NARROWING_EVERY;
    return tree->parsed ? judge_node(tree, tree->root, keys, seen) : NARROWING_MAYBE;
}

unsigned narrowing_needs(const struct narrowing *tree)
{
    unsigned needs = 0;
    for (uint32_t i = 0; tree->parsed && i < tree->nodes; i++) {
        const struct atom *atom = &tree->node[i].atom;
        if (tree->node[i].type != NODE_ATOM)
            continue;
        if (atom->inner || atom->shape.tunnels > 0 || atom->type == ATOM_FLOW ||
            atom->type == ATOM_COMMUNITY)
            needs |= NEED_INNER;
        if (atom->type == ATOM_PORT || atom->type == ATOM_FLOW || atom->type == ATOM_COMMUNITY ||
            atom->type == ATOM_GENEVE)
            needs |= NEED_PORTS;
        if (atom->type == ATOM_MAC || atom->type == ATOM_MAC_GROUP)
            needs |= NEED_MACS;
        if (atom->way != WAY_EITHER || atom->type == ATOM_MAC_GROUP ||
            atom->type == ATOM_IP_MULTICAST || atom->type == ATOM_APP || atom->type == ATOM_RULE)
            needs |= NEED_SEEN;
    }
    return needs;
}

/* ---- addresses first --------------------------------------------------------------------------- */

static struct shape shape_most(struct shape a, struct shape b)
{
    return (struct shape){.tags = a.tags > b.tags ? a.tags : b.tags,
                          .labels = a.labels > b.labels ? a.labels : b.labels,
                          .pppoe = a.pppoe > b.pppoe ? a.pppoe : b.pppoe};
}

static struct shape shape_least(struct shape a, struct shape b)
{
    return (struct shape){.tags = a.tags < b.tags ? a.tags : b.tags,
                          .labels = a.labels < b.labels ? a.labels : b.labels,
                          .pppoe = a.pppoe < b.pppoe ? a.pppoe : b.pppoe};
}

/* Tags that flows must have for which a node is not NONE, when they have those of `have`. */
static struct shape shape_needed(const struct narrowing *tree, uint32_t number, struct shape have)
{
    const struct node *node = &tree->node[number];
    struct shape none = {0}, left, right;
    switch (node->type) {
    case NODE_AND:
        left = shape_needed(tree, node->left, have);
        right = shape_needed(tree, node->right, shape_most(have, left));
        return shape_most(left, right);
    case NODE_OR:
        left = shape_needed(tree, node->left, have);
        right = shape_needed(tree, node->right, have);
        return shape_least(left, right);
    case NODE_ATOM:
        if (node->atom.type == ATOM_VLAN && node->atom.shape.tags <= have.tags &&
            node->atom.shape.labels == 0 && node->atom.shape.pppoe == 0 &&
            node->atom.shape.tunnels == 0 && !node->atom.inner)
            return (struct shape){.tags = (uint8_t)(node->atom.shape.tags + 1)};
        return none;
    case NODE_NOT:
        return none;
    }
    return none;
}

static bool shape_is_had(const struct shape *shape, const struct shape *have)
{
    return shape->tags <= have->tags && shape->labels == 0 && shape->pppoe == 0 &&
           shape->tunnels == 0;
}

/* Gathers hosts one of which each matching flow must have; false: there are none such. */
static bool gather_ends(struct narrowing *tree, uint32_t number, struct shape have)
{
    const struct node *node = &tree->node[number];
    const struct atom *atom = &node->atom;
    uint32_t ends = tree->ends;
    struct shape left;
    switch (node->type) {
    case NODE_AND:
        left = shape_needed(tree, node->left, have);
        if (gather_ends(tree, node->right, shape_most(have, left)))
            return true;
        tree->ends = ends;
        return gather_ends(tree, node->left, have);
    case NODE_OR:
        return gather_ends(tree, node->left, have) && gather_ends(tree, node->right, have);
    case NODE_NOT:
        return false;
    case NODE_ATOM:
        break;
    }
    if ((atom->type != ATOM_HOST && atom->type != ATOM_FLOW) || atom->inner ||
        tree->ends == NARROWING_ENDS_MAX)
        return false;
    if (atom->type == ATOM_HOST && !shape_is_had(&atom->shape, &have))
        return false;
    tree->ends_shifted |= atom->type == ATOM_HOST && atom->shape.tags > 0;
    tree->ends_inner |= atom->type == ATOM_FLOW;
    tree->end[tree->ends++] = &atom->host;
    return true;
}

int narrowing_open(const char *text, struct narrowing **out)
{
    struct narrowing *tree = calloc(1, sizeof *tree);
    int code = tree ? narrowing_parse(tree, text ? text : "") : ERR_NO_MEMORY;
    if (code < 0) {
        narrowing_close(&tree);
        return code;
    }
    if (!tree->everything && tree->parsed && !gather_ends(tree, tree->root, (struct shape){0}))
        tree->ends = 0;
    *out = tree;
    return 0;
}

void narrowing_close(struct narrowing **slot)
{
    if (!*slot)
        return;
    free((*slot)->node);
    free(*slot);
    *slot = NULL;
}

bool narrowing_parsed(const struct narrowing *tree)
{
    return tree->parsed;
}

bool narrowing_has_ends(const struct narrowing *tree)
{
    return tree->ends > 0;
}

bool narrowing_end(const struct narrowing *tree, uint8_t version, const uint8_t address[16])
{
    for (uint32_t i = 0; i < tree->ends; i++)
        if (tree->end[i]->version == version && host_has(tree->end[i], address))
            return true;
    return false;
}

uint32_t narrowing_ends(const struct narrowing *tree)
{
    return tree->ends;
}

/* The first and the last address of a network; where its mask has holes, with others in between. */
static void host_bounds(const struct host *host, uint8_t low[16], uint8_t high[16])
{
    for (unsigned i = 0; i < 16; i++) {
        low[i] = host->address[i];
        high[i] = host->address[i] | (uint8_t)~host->mask[i];
    }
}

uint8_t narrowing_end_bounds(const struct narrowing *tree, uint32_t number, uint8_t low[16], uint8_t high[16])
{
    host_bounds(tree->end[number], low, high);
    return tree->end[number]->version;
}

bool narrowing_one_end_decides(const struct narrowing *tree)
{
    uint32_t hosts = 0;
    for (uint32_t i = 0; i < tree->nodes; i++) {
        const struct atom *atom = &tree->node[i].atom;
        if (tree->node[i].type != NODE_ATOM)
            continue;
        switch (atom->type) {
        case ATOM_MAYBE:
        case ATOM_PORT:
        case ATOM_PROTOCOL:
        case ATOM_ETHERTYPE:
        case ATOM_VLAN:
        case ATOM_MPLS:
        case ATOM_APP:
        case ATOM_RULE:
            break;
        case ATOM_HOST:
            if (atom->way != WAY_EITHER || atom->inner)
                return false;
            for (unsigned byte = 0; byte < (atom->host.version == 4 ? 4u : 16u); byte++)
                if (atom->host.mask[byte] != 255)
                    return false;
            hosts++;
            break;
        default:
            return false;
        }
    }
    return tree->ends == 1 && hosts == 1;
}

bool narrowing_end_unsure(const struct narrowing *tree, const struct flow_kind *kind)
{
    if ((kind->marks & UNSURE) != 0)
        return true;
    if (tree->ends_shifted && ((kind->marks & FLOW_DIRECT) == 0 || kind->labels > 0))
        return true;
    return tree->ends_inner && (kind->marks & (FLOW_INNER | FLOW_DEEP)) != 0;
}

/* ---- keys -------------------------------------------------------------------------------------- */

uint32_t narrowing_key_bytes(enum narrowing_key_type type)
{
    static const uint8_t bytes[KEY_TYPES] = {4, 16, 2, 2, 6, 2, 2, 16, 1};
    return bytes[type];
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The beginning of one of a verdict's names, in small letters. */
static void app_key(const char *name, size_t length, uint8_t key[16])
{
    memset(key, 0, 16);
    for (size_t i = 0; i < length && i < 16; i++)
        key[i] = (uint8_t)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] | 32 : name[i]);
}

static void app_keys(const char *name,
                     void (*each)(void *context, enum narrowing_key_type type, const uint8_t *key),
                     void *context)
{
    uint8_t key[16];
    const char *dot = strchr(name, '.');
    app_key(name, strlen(name), key);
    each(context, KEY_APP, key);
    if (!dot)
        return;
    app_key(name, (size_t)(dot - name), key);
    each(context, KEY_APP, key);
    app_key(dot + 1, strlen(dot + 1), key);
    each(context, KEY_APP, key);
}

static bool is_special(const struct flow_keys *keys, const struct flow_seen *seen, unsigned special)
{
    const struct flow_kind *kind = &keys->kind;
    switch (special) {
    case SPECIAL_LINK_UNSURE:
        return (kind->marks & FLOW_LINK_UNSURE) != 0;
    case SPECIAL_NETWORK_UNSURE:
        return (kind->marks & FLOW_NETWORK_UNSURE) != 0;
    case SPECIAL_TRANSPORT_UNSURE:
        return (kind->marks & FLOW_TRANSPORT_UNSURE) != 0;
    case SPECIAL_LABELS:
        return kind->labels > 0;
    case SPECIAL_NO_APP:
        return seen->app == NULL && !verdicts_never(kind);
    case SPECIAL_EXTENSIONS:
        return (kind->marks & FLOW_EXTENSIONS) != 0;
    case SPECIAL_TAGGED_ODDLY:
        return kind->tags > 2 || (kind->tags > 0 && ((kind->marks & FLOW_DIRECT) == 0 ||
                                                     kind->labels > 0));
    case SPECIAL_NOT_ETHERNET:
        return (kind->marks & FLOW_ETHERNET) == 0;
    default:
        return (kind->marks & (FLOW_INNER | FLOW_DEEP | FLOW_ENCLOSED)) != 0;
    }
}

void narrowing_keys(const struct flow_keys *keys, const struct flow_seen *seen,
                    void (*each)(void *context, enum narrowing_key_type type, const uint8_t *key),
                    void *context)
{
    const struct flow_kind *kind = &keys->kind;
    uint8_t key[2];
    for (unsigned i = 0; i < 2; i++) {
        if (kind->version != 0)
            each(context, kind->version == 4 ? KEY_HOST4 : KEY_HOST6, keys->end[i].address);
        if ((kind->marks & FLOW_PORTS) != 0) {
            put16(key, keys->end[i].port);
            each(context, KEY_PORT, key);
        }
        if ((kind->marks & FLOW_ETHERNET) != 0)
            each(context, KEY_MAC, keys->end[i].mac);
    }
    if (kind->version != 0) {
        key[0] = kind->version;
        key[1] = kind->protocol;
        each(context, KEY_PROTOCOL, key);
    }
    for (unsigned i = 0; i < kind->tags && i < 2; i++) {
        put16(key, kind->vlan[i]);
        each(context, KEY_VLAN, key);
    }
    put16(key, kind->ethertype);
    each(context, KEY_ETHERTYPE, key);
    if (seen->app)
        app_keys(seen->app, each, context);
    for (uint8_t special = 0; special < SPECIALS; special++)
        if (is_special(keys, seen, special))
            each(context, KEY_SPECIAL, &special);
}

/* ---- asking runs ------------------------------------------------------------------------------- */

struct lookup {
    const struct narrowing *tree;
    narrowing_find *find;
    void *context;
};

static const struct segment_set all_segments = {
    {[0 ... NARROWING_SEGMENTS_MAX / 64 - 1] = UINT64_MAX}};

static int find_special(const struct lookup *lookup, unsigned specials, struct segment_set *set)
{
    int code = 0;
    for (uint8_t special = 0; code == 0 && special < SPECIALS; special++)
        if ((specials >> special & 1) != 0)
            code = lookup->find(lookup->context, KEY_SPECIAL, &special, &special, set);
    return code;
}

static int find_host(const struct lookup *lookup, const struct host *host, struct segment_set *set)
{
    uint8_t low[16], high[16];
    host_bounds(host, low, high);
    return lookup->find(lookup->context, host->version == 4 ? KEY_HOST4 : KEY_HOST6, low, high, set);
}

static int find_ports(const struct lookup *lookup, uint16_t from, uint16_t to,
                      struct segment_set *set)
{
    uint8_t low[2], high[2];
    put16(low, from);
    put16(high, to);
    return lookup->find(lookup->context, KEY_PORT, low, high, set);
}

#define SPECIAL(name) (1u << SPECIAL_##name)
#define SPECIAL_ADDRESS (SPECIAL(LINK_UNSURE) | SPECIAL(NETWORK_UNSURE))

static void keep_both(struct segment_set *set, const struct segment_set *other)
{
    for (unsigned i = 0; i < NARROWING_SEGMENTS_MAX / 64; i++)
        set->word[i] &= other->word[i];
}

/* Both hosts and both ports, each by itself. */
static int find_flow(const struct lookup *lookup, const struct atom *atom, struct segment_set *set)
{
    const struct host *host[2] = {&atom->host, &atom->peer};
    const uint16_t port[2] = {atom->low, atom->high};
    struct segment_set both = all_segments;
    int code = 0;
    for (unsigned i = 0; code == 0 && i < 2; i++) {
        struct segment_set hosts = {{0}}, ports = {{0}};
        code = find_host(lookup, host[i], &hosts);
        if (code == 0)
            code = find_ports(lookup, port[i], port[i], &ports);
        if (code == 0)
            code = find_special(lookup, SPECIAL(TRANSPORT_UNSURE), &ports);
        keep_both(&both, &hosts);
        keep_both(&both, &ports);
    }
    for (unsigned i = 0; i < NARROWING_SEGMENTS_MAX / 64; i++)
        set->word[i] |= both.word[i];
    return code != 0 ? code : find_special(lookup, SPECIAL_ADDRESS | SPECIAL(INNER), set);
}

static int find_protocol(const struct lookup *lookup, const struct atom *atom,
                         struct segment_set *set)
{
    int code = 0;
    for (uint8_t version = 4; code == 0 && version <= 6; version += 2) {
        const uint8_t key[2] = {version, atom->protocol};
        if (atom->version == 0 || atom->version == version)
            code = lookup->find(lookup->context, KEY_PROTOCOL, key, key, set);
    }
    return code != 0 ? code : find_special(lookup, SPECIAL_ADDRESS | SPECIAL(EXTENSIONS), set);
}

/* Segments in which a primitive may hold; *set is empty before. */
static int find_atom(const struct lookup *lookup, const struct atom *atom, struct shape have,
                     struct segment_set *set)
{
    const unsigned link = SPECIAL(LINK_UNSURE) | SPECIAL(NOT_ETHERNET);
    unsigned odd = atom->shape.tags > 0 ? SPECIAL(TAGGED_ODDLY) | SPECIAL(NOT_ETHERNET) : 0;
    uint8_t low[16], high[16];
    int code;
    if (atom->type != ATOM_FLOW && atom->type != ATOM_APP &&
        (atom->inner || !shape_is_had(&atom->shape, &have))) {
        *set = all_segments;
        return 0;
    }
    switch (atom->type) {
    case ATOM_HOST:
        code = find_host(lookup, &atom->host, set);
        return code != 0 ? code : find_special(lookup, SPECIAL_ADDRESS | odd, set);
    case ATOM_PORT:
        code = find_ports(lookup, atom->low, atom->high, set);
        odd |= SPECIAL(TRANSPORT_UNSURE);
        return code != 0 ? code : find_special(lookup, SPECIAL_ADDRESS | odd, set);
    case ATOM_PROTOCOL:
        code = find_protocol(lookup, atom, set);
        return code != 0 ? code : find_special(lookup, odd, set);
    case ATOM_MAC:
        code = lookup->find(lookup->context, KEY_MAC, atom->mac, atom->mac, set);
        return code != 0 ? code : find_special(lookup, link, set);
    case ATOM_ETHERTYPE:
        if (atom->outer || is_shim(atom->low) || atom->low == ETHERTYPE_PPPOE_SESSION)
            break;
        put16(low, atom->low);
        code = lookup->find(lookup->context, KEY_ETHERTYPE, low, low, set);
        return code != 0 ? code : find_special(lookup, link | odd, set);
    case ATOM_VLAN:
        put16(low, atom->any ? 0 : atom->low);
        put16(high, atom->any ? 4095 : atom->low);
        code = lookup->find(lookup->context, KEY_VLAN, low, high, set);
        return code != 0 ? code : find_special(lookup, link | SPECIAL(TAGGED_ODDLY), set);
    case ATOM_MPLS:
        put16(low, ETHERTYPE_MPLS);
        code = lookup->find(lookup->context, KEY_ETHERTYPE, low, low, set);
        return code != 0 ? code : find_special(lookup, link | odd | SPECIAL(LABELS), set);
    case ATOM_APP:
        app_key(atom->app, strlen(atom->app), low);
        code = lookup->find(lookup->context, KEY_APP, low, low, set);
        return code != 0 ? code : find_special(lookup, SPECIAL(NO_APP), set);
    case ATOM_FLOW:
        return find_flow(lookup, atom, set);
    default:
        break;
    }
    *set = all_segments;
    return 0;
}

static int find_node(const struct lookup *lookup, uint32_t number, struct shape have,
                     struct segment_set *set)
{
    const struct node *node = &lookup->tree->node[number];
    struct segment_set right = {{0}};
    struct shape left_shape;
    int code;
    switch (node->type) {
    case NODE_ATOM:
        return find_atom(lookup, &node->atom, have, set);
    case NODE_AND:
        left_shape = shape_needed(lookup->tree, node->left, have);
        code = find_node(lookup, node->left, have, set);
        if (code == 0)
            code = find_node(lookup, node->right, shape_most(have, left_shape), &right);
        keep_both(set, &right);
        return code;
    case NODE_OR:
        code = find_node(lookup, node->left, have, set);
        if (code == 0)
            code = find_node(lookup, node->right, have, &right);
        for (unsigned i = 0; i < NARROWING_SEGMENTS_MAX / 64; i++)
            set->word[i] |= right.word[i];
        return code;
    case NODE_NOT:
        break;
    }
    *set = all_segments;
    return 0;
}

int narrowing_lookup(const struct narrowing *tree, narrowing_find *find, void *context,
                     struct segment_set *set)
{
    const struct lookup lookup = {.tree = tree, .find = find, .context = context};
    struct segment_set found = {{0}};
    if (tree->everything || !tree->parsed)
        return 0;
    int code = find_node(&lookup, tree->root, (struct shape){0}, &found);
    if (code == 0)
        keep_both(set, &found);
    return code;
}
