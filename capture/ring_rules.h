/*
 * ring_rules.h - the rules of a ring while it records: the list, the program made of it, and the
 * capture threads that match with it.
 *
 *     control threads                               capture threads
 *     ring_rules_open()
 *     ring_rules_change(), any number of times      ring_rules_attach() -> rule_feed_take() between
 *     ring_rules_counters()                         batches ... -> ring_rules_detach()
 *     ring_rules_close(), when nobody is attached
 *
 * A change is made on a copy of the list: what does not compile changes nothing. Then each capture
 * thread is offered a state of the new program, and goes over to it between two batches: a packet
 * is judged by one list or by the next.
 *
 * Rules have an id for life, which is never given to another rule of the ring. Counters belong to
 * the id: they stay when rules move and when others change, and begin anew with a rule that says
 * something else. They count since the recorder started.
 *
 * Threads: any, behind one lock which is never taken on the packet path.
 */
#ifndef CAPTURE_RING_RULES_H
#define CAPTURE_RING_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "program.h"

struct classifier;
struct classifier_port;
struct ring_rules;
struct verdicts;

/* What a capture thread is given: its own, but for what the header of rules/program.h says. */
struct rule_feed {
    struct rule_handover handover;
    struct rule_state *state; /* never null */
    /* For `app`; null: no list has needed it yet, or it could not be had, in which case a later
     * change may bring it. Then it is there to stay. Read by rule_feed_port(). */
    _Atomic(struct classifier_port *) port;
    struct verdicts *verdicts; /* what layer 7 finds is wanted there, whatever the rules ask for; null: no */

    /* under the lock of the rules */
    struct rule_feed *next;
    struct rule_state *in_use;     /* as far as is known: collected when it is not */
    struct rule_state *offered;    /* null: none, or known to be taken */
    struct rule_state *next_state; /* during a change */
};

/* An empty list. `seed` is that of sampling: alike for all threads, and after a restart. Without a
 * classifier (null) `app` is refused. */
int ring_rules_open(uint64_t seed, struct classifier *classifier, struct ring_rules **rules,
                    struct failure *failure);

/* Frees, nulls. Nobody is attached any more. A null *rules is allowed. */
void ring_rules_close(struct ring_rules **rules);

/* ---- the list: control threads ------------------------------------------------------------- */

/* Grows with each change; 0: never changed. */
uint64_t ring_rules_revision(struct ring_rules *rules);

/* A copy of the list with its ids, for the caller to change and to clear, and what
 * ring_rules_change() wants to see again. ERR_NO_MEMORY. */
struct ring_rules_draft {
    struct rule_list list;
    uint64_t revision;
    uint32_t last_id; /* the highest that was ever given */
};

int ring_rules_draft(struct ring_rules *rules, struct ring_rules_draft *draft);

/*
 * Takes the draft's list, its revision one up: rules without an id get one, unless the list that is
 * replaced has an equal rule whose id the draft does not use. `keep` (may be null) is called before
 * anything changes, to put the draft where it lasts; an error of it is returned.
 *
 * ERR_MISMATCH: the list has been changed since the draft was made; else as rule_program_build(),
 * and nothing has changed. *in_force (may be null): all capture threads use the new list; false
 * when one of them has not come round to it within two seconds; ring_rules_in_force() tells when it has.
 */
int ring_rules_change(struct ring_rules *rules, struct ring_rules_draft *draft,
                      int (*keep)(const struct ring_rules_draft *draft, void *context,
                                  struct failure *failure),
                      void *context, bool *in_force, struct failure *failure);

/* Whether all capture threads use the newest list: one that waits for its disks keeps the list before until they answer. */
bool ring_rules_in_force(struct ring_rules *rules);

/*
 * The list that was kept, when the ring comes up. A list that does not compile (any more: layer 7
 * has gone) is there to be looked at and changed, but every packet is kept whole: then its error,
 * as ring_rules_failure() gives it afterwards.
 */
int ring_rules_restore(struct ring_rules *rules, const struct ring_rules_draft *draft,
                       struct failure *failure);

/* Why the list is not in force; code 0: it is. */
struct failure ring_rules_failure(struct ring_rules *rules);

/*
 * Counters of the rules of a list (of a draft: by their ids), all threads'; number 0: of the
 * packets that no rule matched. `counters` has room for one more than the list has rules.
 * ERR_NO_MEMORY.
 */
int ring_rules_counters(struct ring_rules *rules, const struct rule_list *list,
                        struct rule_counters *counters);

/* Whether the list has rules of layer 7. */
bool ring_rules_need_app(struct ring_rules *rules);

/* ---- one capture thread -------------------------------------------------------------------- */

/* A feed whose state has no interfaces yet. `verdicts`: where layer 7 shall write what it finds, also where no rule asks for it; null: nowhere.
 * ERR_NO_MEMORY. */
int ring_rules_attach(struct ring_rules *rules, struct verdicts *verdicts, struct rule_feed **feed, struct failure *failure);

/* Adds the feed's counters up, frees, nulls. A null *feed is allowed. */
void ring_rules_detach(struct ring_rules *rules, struct rule_feed **feed);

/* Between packets: goes over to a new list if there is one. True: the state is another, and has no
 * interfaces. Costs a load when there is none. */
static inline bool rule_feed_take(struct rule_feed *feed)
{
    return rule_handover_take(&feed->handover, &feed->state);
}

/* The way to layer 7, or null. The capture thread's. */
static inline struct classifier_port *rule_feed_port(struct rule_feed *feed)
{
    return atomic_load_explicit(&feed->port, memory_order_acquire);
}

#endif
