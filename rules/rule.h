/*
 * rule.h - snapshot-length rules as data: an ordered list; the first rule whose conditions all hold
 * applies, nothing after it is looked at, and without one the whole packet is kept.
 *
 * Lists come from rule_text.h or rule_json.h, and become something that can be matched by
 * program.h. A list and all that hangs on it belongs to whoever made it. Not for several threads at
 * once.
 */
#ifndef RULES_RULE_H
#define RULES_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"
#include "packet.h"

#define RULES_MAX 4096         /* in a list */
#define RULE_CONDITIONS_MAX 16 /* in a rule */
#define RULE_TEXT_MAX 4096     /* bytes of a rule's text */
#define RULE_VALUE_MAX 2048    /* bytes of a name or an expression */
#define RULE_SNAP_MAX PACKET_CAPTURED_MAX
#define RULE_FLOW_MAX (UINT32_C(1) << 31) /* bytes of `flow N`: 2 GiB */
#define RULE_SAMPLE_MAX 1000000u          /* N of `sample 1/N` */

enum condition_kind {
    CONDITION_ALL,
    CONDITION_MAC,      /* either end: address, prefix_bits of 48 */
    CONDITION_IP,       /* either end: version, address, prefix_bits */
    CONDITION_TCP_PORT, /* either end: low to high */
    CONDITION_UDP_PORT,
    CONDITION_PORT,      /* of TCP, UDP or SCTP */
    CONDITION_APP,       /* text: the name of a layer-7 protocol, in any case */
    CONDITION_VLAN,      /* low: the id of any tag of the outermost frame */
    CONDITION_INTERFACE, /* text: its name, exactly */
    CONDITION_BPF,       /* text: pcap-filter(7) */
};

struct condition {
    uint8_t kind; /* enum condition_kind */
    bool negated;
    bool inner;      /* of IP and ports: looks into tunnels, at any level but the outermost */
    uint8_t version; /* 4 or 6 */
    uint8_t prefix_bits;
    uint8_t address[16]; /* bits behind prefix_bits are 0 */
    uint16_t low;
    uint16_t high;
    char *text; /* owned; null where the kind has none */
    uint32_t
        column; /* where it begins in the text that it was read from, from 1; 0: from no text */
};

enum action_kind {
    ACTION_FULL,
    ACTION_DISCARD,
    ACTION_SNAP, /* number: bytes of the packet, from 1 */
    ACTION_HEADERS_L3,
    ACTION_HEADERS_L3_L4, /* number: bytes of what follows, from 0 */
    ACTION_FLOW,          /* number: bytes of each connection, from 1 */
    ACTION_SAMPLE,        /* number: one conversation of so many is kept, from 1 */
};

struct action {
    uint8_t kind; /* enum action_kind */
    uint32_t number;
};

struct rule {
    struct condition *condition; /* at least 1; owned */
    uint32_t conditions;
    struct action action;
    struct action
        until_known; /* of a rule with `app`: what applies while the verdict is out; else full */
    uint32_t id;     /* a name that whoever keeps a list gives its rules, so that one is known again
                        when     its place changes. 0: none. Copied; no part of what the rule says */
};

struct rule_list {
    struct rule *rule; /* owned */
    uint32_t count;
};

/* Frees what a rule holds, and empties it. */
void rule_clear(struct rule *rule);

/* A deep copy. ERR_NO_MEMORY leaves `copy` empty. */
int rule_copy(const struct rule *rule, struct rule *copy);

/* Whether two rules say the same, condition by condition in order. */
bool rule_equal(const struct rule *a, const struct rule *b);

bool rule_has(const struct rule *rule, enum condition_kind kind);

void rule_list_clear(struct rule_list *list);
int rule_list_copy(const struct rule_list *list, struct rule_list *copy);

/* Moves `rule` into the list before number `at`, counted from 0 (list->count: at the end), and
 * empties it. ERR_TOO_LARGE: RULES_MAX; ERR_INVALID: no such place; ERR_NO_MEMORY. The rule then
 * stays the caller's. */
int rule_list_insert(struct rule_list *list, uint32_t at, struct rule *rule,
                     struct failure *failure);

/* ERR_NOT_FOUND: no rule has that number, counted from 0. */
int rule_list_remove(struct rule_list *list, uint32_t at, struct failure *failure);

/* One place up (towards the first) or down. ERR_NOT_FOUND; ERR_INVALID: is the first, or the last,
 * already. */
int rule_list_move(struct rule_list *list, uint32_t at, bool up, struct failure *failure);

#endif
