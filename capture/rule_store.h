/*
 * rule_store.h - the rules of a ring in state.db, and what a ring's settings say of its packets.
 *
 * The whole list is one text, so that each change is one transaction: all of it or nothing. It is
 * read when it is first asked for, whether the ring is up or not.
 */
#ifndef CAPTURE_RULE_STORE_H
#define CAPTURE_RULE_STORE_H

#include "ring_registry.h"
#include "ring_rules.h"

/*
 * The ring's rules, read from state.db where that has not been done. They stay the entry's, which
 * the caller uses, looks at or owns. Rules that cannot be in force (ring_rules_failure()) are told
 * as an event: every packet is kept whole then. ERR_IO and others: state.db cannot be read.
 */
int rule_store_open(struct ring_entry *entry, struct ring_rules **rules, struct failure *failure);

/* ring_rules_change(), kept in state.db. */
int rule_store_change(struct ring_entry *entry, struct ring_rules *rules,
                      struct ring_rules_draft *draft, bool *in_force, struct failure *failure);

/* Of sampling: the ring's name for itself, so that it chooses alike for ever. */
uint64_t rule_store_seed(const struct ring_entry *entry);

/* Says to a pipeline what the ring keeps of packets: rules, duplicates. The ring is used. */
int rule_store_apply(struct ring_entry *entry, struct pipeline_options *options,
                     struct duplicate_options *duplicates, struct failure *failure);

#endif
