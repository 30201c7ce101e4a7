/*
 * narrowing.h - what of a filter an index can decide.
 *
 *     narrowing_open(text) -> { narrowing_judge(keys of a flow) ... } -> narrowing_close()
 *
 * A filter's text is parsed by the rules of pcap-filter(7), and each primitive that the index has
 * keys for is judged on a flow: no packet of it matches, every packet does, or it takes a look at
 * the packets. `and`, `or` and `not` follow from that: `not` of "every" is "none". Whatever is not
 * understood, a name, arithmetic, a primitive of some other link type, is "maybe", so an answer of
 * "none" is always right, and never more than an opinion about what need not be read: the packets
 * themselves are judged by the filter.
 *
 * What makes it hard is what libpcap does with offsets. `vlan`, `mpls`, `pppoes` and `geneve` move
 * the place of all that follows them in the text, in `or` as in `and`, on packets that have no such
 * header, too. So each primitive remembers how many of these stand before it, and says "maybe" of
 * flows whose headers are not shaped like that.
 *
 * Beside the language of pcap-filter(7):
 *     app NAME                      what layer 7 found
 *     flow A:P B:Q [tcp|udp]        one conversation, both directions; [2001:db8::1]:443
 *     community 1:...               its Community ID
 *     inner PRIMITIVE               host, net, port, portrange or a protocol inside a tunnel
 *     outer PRIMITIVE               the same of the first IP header, behind any tags
 *     rule N                        what rule N kept
 *     after TIME, before TIME       the catalog's and the packet's to judge, not the flow's
 *
 * The text is hostile. Threads: a tree is immutable once it is open.
 */
#ifndef STORAGE_NARROWING_H
#define STORAGE_NARROWING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "disk_format.h"
#include "flow_keys.h"

enum narrowing_verdict {
    NARROWING_NONE,  /* no packet of the flow matches */
    NARROWING_MAYBE, /* look at them */
    NARROWING_EVERY, /* every packet matches that the filter can read */
};

struct narrowing;

/* What was seen of a flow beside its keys. All zeros but `ways` means: nothing is known. */
struct flow_seen {
    const char *app;          /* null: no verdict */
    const uint8_t *entry_set; /* bit n of 256: packets with entry n were seen; null: any */
    const struct frame_entry *entry;
    uint32_t entries;
    uint8_t ways; /* enum flow_way */
    uint8_t tcp_flags;
};

/* Null or empty text: everything matches. 0 or ERR_NO_MEMORY: text that cannot be parsed is not an
 * error here; it makes a tree that narrows nothing. */
int narrowing_open(const char *text, struct narrowing **tree);
void narrowing_close(struct narrowing **tree); /* null is allowed */

/* Whether the whole text was understood as a filter; false: it narrows nothing. */
bool narrowing_parsed(const struct narrowing *tree);

/*
 * For people: the tree, with "(packets)" where the packets themselves have to be looked at. Terminated, and cut with "..." where it is too long; printable.
 */
void narrowing_describe(const struct narrowing *tree, char *text, size_t size);

enum narrowing_verdict narrowing_judge(const struct narrowing *tree, const struct flow_keys *keys,
                                       const struct flow_seen *seen);

/*
 * A first look that needs addresses only: where narrowing_has_ends() says so, flows that may match
 * have an end for which narrowing_end() is true, or marks of which narrowing_end_unsure() is.
 */
bool narrowing_has_ends(const struct narrowing *tree);
bool narrowing_end(const struct narrowing *tree, uint8_t version, const uint8_t address[16]);
bool narrowing_end_unsure(const struct narrowing *tree, const struct flow_kind *kind);

/* The ends that narrowing_end() is true for lie in so many stretches of addresses, which may overlap: both bounds are included, in network
 * order, of the version that is returned. */
uint32_t narrowing_ends(const struct narrowing *tree);
uint8_t narrowing_end_bounds(const struct narrowing *tree, uint32_t number, uint8_t low[16], uint8_t high[16]);

/* Whether, of a flow of which one end is in the stretch that narrowing_end_bounds() says, the other end's address decides nothing more: it may be left
 * zero. So it is where the filter asks for one host, whichever way, and for no other address. */
bool narrowing_one_end_decides(const struct narrowing *tree);

/* What narrowing_judge() looks at beside addresses and kind: the rest may be left zero. */
enum narrowing_need {
    NEED_PORTS = 1 << 0,
    NEED_MACS = 1 << 1,
    NEED_INNER = 1 << 2,
    NEED_SEEN = 1 << 3,
};
unsigned narrowing_needs(const struct narrowing *tree);

/* ---- asking for keys instead of flows ---------------------------------------------------------- */

enum narrowing_key_type { /* also the sections of a run, in this order: never renumber */
    KEY_HOST4 = 0,     /* 4 bytes, network order; also ARP's */
    KEY_HOST6 = 1,     /* 16 bytes */
    KEY_PORT = 2,      /* 2 bytes, big endian */
    KEY_PROTOCOL = 3,  /* version, protocol */
    KEY_MAC = 4,       /* 6 bytes */
    KEY_VLAN = 5,      /* 2 bytes, big endian; any of the tags */
    KEY_ETHERTYPE = 6, /* 2 bytes, big endian */
    KEY_APP = 7,       /* 16 bytes: the name's first, padded with zeros */
    KEY_SPECIAL = 8,   /* 1 byte: enum narrowing_special */
    KEY_TYPES
};

enum narrowing_special { /* flows that a key says nothing about */
    SPECIAL_LINK_UNSURE = 0,
    SPECIAL_NETWORK_UNSURE = 1,
    SPECIAL_TRANSPORT_UNSURE = 2,
    SPECIAL_LABELS = 3,        /* flows behind MPLS labels */
    SPECIAL_NO_APP = 4,        /* flows without a verdict that may yet have had one */
    SPECIAL_EXTENSIONS = 5,    /* FLOW_EXTENSIONS */
    SPECIAL_TAGGED_ODDLY = 6,  /* tags and something else before the network header, or many tags */
    SPECIAL_NOT_ETHERNET = 7,
    SPECIAL_INNER = 8, /* flows in tunnels */
    SPECIALS
};

/* Tells `each` every key that a run has to hold of a flow, so that narrowing_lookup() is right. */
void narrowing_keys(const struct flow_keys *keys, const struct flow_seen *seen,
                    void (*each)(void *context, enum narrowing_key_type type, const uint8_t *key),
                    void *context);

/* A set of at most this many segments, as bits. */
#define NARROWING_SEGMENTS_MAX 1024u

struct segment_set {
    uint64_t word[NARROWING_SEGMENTS_MAX / 64];
};

/* Adds the segments that have a key from `low` to `high` (both included, key_bytes long) to *set. */
typedef int narrowing_find(void *context, enum narrowing_key_type type, const uint8_t *low,
                           const uint8_t *high, struct segment_set *set);

uint32_t narrowing_key_bytes(enum narrowing_key_type type);

/* Removes from *set the segments in which nothing can match, as far as keys tell. 0, or what `find`
 * returned: *set is then as it was. */
int narrowing_lookup(const struct narrowing *tree, narrowing_find *find, void *context,
                     struct segment_set *set);

#endif
