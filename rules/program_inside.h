/*
 * program_inside.h - what a program is made of: sets of rules, one bit a rule. For program.c, which
 * makes it, and matching.c, which matches with it.
 *
 * Conditions fall into *dimensions*: MAC, IP, port, VLAN, layer-7 protocol, and inner IP and port.
 * Within a dimension, a rule's first condition lies in slot 0, its second in slot 1, and so on. A
 * table for each dimension gives the class of a value (bit_classes.h): for each slot, the set of
 * rules whose condition there holds for that value. A packet has several values in a dimension
 * (both ends, all tags): what holds is the union of their sets, `hit`. With `base`, the rules that
 * have no condition in this slot and those whose condition is negated,
 *
 *     rules that this slot does not rule out = hit ^ base
 *
 * because a negated condition has its bit in both where it holds, a plain one only in hit, and a
 * rule without a condition only in base. The intersection over all slots holds the rules that
 * match; its lowest bit is the first. What depends on the interface alone was intersected before
 * the first packet; `bpf` is evaluated last, in order, and only for rules that all else lets
 * through.
 *
 * Up to 64 rules are one word, and a class is looked up as its word. More rules are sets of words
 * behind a summary, one bit for each word that is not 0: intersecting the summaries first leaves
 * one or two words to look at where conditions are exact, so that a thousand rules cost about what
 * ten do.
 */
#ifndef RULES_PROGRAM_INSIDE_H
#define RULES_PROGRAM_INSIDE_H

#include <pcap/pcap.h>

#include "bit_classes.h"
#include "flow_bytes.h"
#include "prefix_table.h"
#include "program.h"
#include "sieve.h"

#define WORDS_MAX (RULES_MAX / 64)
_Static_assert(WORDS_MAX <= 64, "one word of summary");

enum dimension_kind {
    DIMENSION_IP,
    DIMENSION_PORT,
    DIMENSION_MAC,
    DIMENSION_VLAN,
    DIMENSION_APP,
    DIMENSION_INNER_IP,
    DIMENSION_INNER_PORT,
    DIMENSIONS,
};

#define VALUES_MAX (2 * DECODE_LEVELS_MAX) /* of a packet in a dimension */
#define PORTS 65536u
#define PAGE_PORTS 256u
#define VLANS 4096u

enum transport { TRANSPORT_NONE, TRANSPORT_TCP, TRANSPORT_UDP, TRANSPORT_SCTP, TRANSPORTS };

/* From port to class, in pages, so that the many ports that no rule names share the page 0. */
struct port_table {
    uint16_t page[TRANSPORTS][PORTS / PAGE_PORTS];
    uint32_t *class; /* pages x PAGE_PORTS */
    uint32_t pages;
};

struct dimension {
    uint32_t slots; /* 0: not used */
    uint32_t sets;
    uint64_t *base;         /* slots x words */
    uint64_t *base_summary; /* slots */
    /* By class and slot: the set itself where it is one word, else its number. */
    uint64_t *mask;
    uint32_t *set_of;
    uint64_t *set; /* sets x (1 + words): summary, words */
    /* From value to class. */
    struct prefix_table address[2]; /* MAC; IPv4 and IPv6 */
    struct port_table *port;
    uint32_t *number; /* by VLAN id, or by number of the layer-7 protocol */
};

/* An expression compiled for one link type, all of them. */
struct expressions {
    uint16_t link_type;
    struct bpf_program *filter;
    bool *compiled;
    struct expressions *next;
};

struct residue {    /* a rule's bpf conditions */
    uint32_t first; /* in residual */
    uint32_t count;
};

struct residual {
    uint32_t expression;
    bool negated;
};

struct compiled_action {
    struct action action;
    struct action until_known;
    bool has_app;
};

struct rule_program {
    _Atomic uint32_t holds;
    struct rule_list list;
    uint32_t rules;
    uint32_t words;
    uint32_t used; /* dimensions, a bit each */
    struct dimension dimension[DIMENSIONS];
    uint64_t *quiet;                /* by subset of dimensions: summary, words */
    struct compiled_action *action; /* by number; 0, for what no rule matches: all is kept */
    uint64_t *possible;             /* rules without `not all` */
    uint64_t *bpf;                  /* rules with bpf conditions */
    struct residue *residue;
    struct residual *residual;
    const char **expression; /* texts, in the list's memory */
    uint32_t expressions;
    struct expressions *compiled; /* for the link types known when it was built */
    uint32_t apps;
    bool needs_decoding;
    bool needs_app;
    bool needs_flows;
    bool needs_interface;
    bool one_word;  /* up to 64 rules, at most one condition of a kind in each; addresses, ports and
                       tags only: match_words() does */
    bool by_tuples; /* no layer 7 and no expressions: see match_tuples() */
    struct sieve *sieve; /* null: there is none for it */
};

/* What an interface leaves of the rules. */
struct view {
    uint64_t summary;
    uint64_t *mask; /* words */
    const struct expressions *expressions;
    uint32_t rule_when_quiet; /* number from 1 of the rule for packets for which no condition holds;
                                 0: none. Without expressions and layer 7 */
    bool sieved; /* the interface is of Ethernet, the program has a sieve, and that rule's action
                    does not look at headers: such packets need not be decoded */
};

/*
 * The classes of a packet's values, where it has at most one in each place, and the view that it is
 * judged by: all that a match depends on. Places of dimensions that are not used are 0.
 */
enum tuple_place {
    TUPLE_IP,
    TUPLE_PORT = 2,
    TUPLE_MAC = 4,
    TUPLE_TAG = 6,
    TUPLE_VIEW,
    TUPLE_PLACES
};

struct tuple {
    union {
        uint32_t place[TUPLE_PLACES];
        uint64_t pair[TUPLE_PLACES / 2];
    };
};

/* What the last tuple that came to this place matched. The tuple 0 never asks. */
struct remembered {
    struct tuple tuple;
    uint32_t rule; /* number from 1; 0: none */
};

#define REMEMBERED 1024u

/* Bumped by the state's thread alone, read by any. What is stored is what is left of the others. */
struct tally {
    _Atomic uint64_t packets;
    _Atomic uint64_t bytes;
    _Atomic uint64_t cut_packets;
    _Atomic uint64_t cut_bytes;
    _Atomic uint64_t discarded_packets;
    _Atomic uint64_t discarded_bytes;
};

struct rule_state {
    struct rule_program *program;
    uint32_t views;
    uint32_t views_room;
    struct view *view;
    struct view nowhere;          /* an interface that was not told of */
    struct expressions *compiled; /* for link types that the program has not seen */
    struct flow_bytes *flows;
    uint64_t seed;
    struct tally *tally;           /* rules + 1 */
    struct remembered *remembered; /* REMEMBERED of them; null unless the program is by_tuples */
    uint32_t sieve_pause;          /* batches that it is not worth trying for: see sieve_is_due() */
};
#endif
