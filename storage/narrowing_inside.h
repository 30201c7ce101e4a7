/*
 * narrowing_inside.h - the tree that narrowing_parse.c makes and narrowing.c judges with.
 */
#ifndef STORAGE_NARROWING_INSIDE_H
#define STORAGE_NARROWING_INSIDE_H

#include "narrowing.h"

#define NARROWING_NODES_MAX 2048u
#define NARROWING_DEPTH_MAX 100u
#define NARROWING_ENDS_MAX 256u

enum node_type { NODE_ATOM, NODE_AND, NODE_OR, NODE_NOT };

enum atom_type {
    ATOM_MAYBE, /* not for the index */
    ATOM_HOST,
    ATOM_PORT,
    ATOM_PROTOCOL,
    ATOM_ETHERTYPE,
    ATOM_MAC,
    ATOM_MAC_GROUP,    /* `bits` of the first byte of the receiver's, or broadcast */
    ATOM_IP_MULTICAST, /* receiver */
    ATOM_VLAN,
    ATOM_MPLS,
    ATOM_PPPOE_DISCOVERY,
    ATOM_PPPOE_SESSION,
    ATOM_GENEVE,
    ATOM_APP,
    ATOM_FLOW,
    ATOM_COMMUNITY,
    ATOM_RULE,
};

enum atom_way { WAY_EITHER, WAY_SOURCE, WAY_DESTINATION, WAY_BOTH };

/* How many headers that move offsets stand before a primitive in the text. */
struct shape {
    uint8_t tags, labels, pppoe, tunnels;
};

struct host {
    uint8_t version;
    uint8_t address[16]; /* bits outside the mask are zero */
    uint8_t mask[16];
};

struct atom {
    enum atom_type type;
    enum atom_way way;
    struct shape shape;
    bool inner;     /* `inner`: of headers inside tunnels */
    bool outer;     /* `outer`: of the first IP header, judged as if it were the packet's beginning */
    bool surely;    /* "every" is possible */
    bool any;       /* VLAN: any id; MAC_GROUP: any group, not broadcast alone */
    uint8_t family; /* HOST: 0, or the protocol that it was limited to */
    uint8_t version; /* PROTOCOL: 0 either */
    uint8_t protocol; /* PORT: 0 any */
    uint16_t low, high; /* PORT; VLAN and ETHERTYPE in low */
    struct host host;   /* HOST; FLOW: one end */
    struct host peer;   /* FLOW: the other */
    uint8_t mac[6];
    uint8_t digest[20]; /* COMMUNITY */
    uint32_t rule;
    char app[64];
};

enum host_family { FAMILY_ANY = 0, FAMILY_IP = 4, FAMILY_IP6 = 6, FAMILY_ARP = 1, FAMILY_RARP = 2 };

struct node {
    enum node_type type;
    uint32_t left, right; /* numbers of nodes; NOT: left */
    struct atom atom;
};

struct narrowing {
    bool everything; /* no filter */
    bool parsed;
    struct node *node;
    uint32_t nodes;
    uint32_t root;
    uint32_t ends;                          /* of `end`; 0: addresses decide nothing */
    const struct host *end[NARROWING_ENDS_MAX];
    bool ends_shifted; /* one of them is behind a tag or a label */
    bool ends_inner;   /* one of them may be inside a tunnel */
};

/* Parses into a tree that is all zeros. False: not understood. ERR_NO_MEMORY: as is. */
int narrowing_parse(struct narrowing *tree, const char *text);

#endif
