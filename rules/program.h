/*
 * program.h - a rule list made ready for matching, and what one capture thread knows while it
 * matches.
 *
 *     control thread                                 capture thread
 *     rule_program_build(list)                       between batches:
 *     rule_state_open(program) for each thread           rule_handover_take(&handover, &state)
 *     rule_state_interface() for each interface          rule_state_interface() for new interfaces
 *     rule_handover_offer(&handover, &state)  ---->  for each packet:
 *     rule_handover_collect(), counters, close <----     decode_packet(), rule_state_apply(),
 *                                                        or, for some at once, rule_state_judge()
 *
 * A program is immutable: any number of threads may match with it, each through a state of its own.
 * A state belongs to one thread at a time; only its counters may be read by others meanwhile. So a
 * packet is treated by one list or by the next, never by a mixture.
 *
 * rule_state_apply() neither allocates nor locks, and does not read beyond the packet's captured
 * bytes. Its cost hardly depends on the number of rules: see program.c.
 */
#ifndef RULES_PROGRAM_H
#define RULES_PROGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode.h"
#include "errors.h"
#include "packet.h"
#include "rule.h"

/* ---- the program --------------------------------------------------------------------------- */

struct rule_program;

#define RULE_PROGRAM_BYTES_MAX (UINT64_C(256) << 20)

struct rule_program_options {
    /*
     * Names of the layer-7 protocols that verdicts can hold, alike in no case; the verdict's number
     * for name[i] is i + 1. Null: there is no layer 7 here, and `app` is refused.
     */
    const char *const *app;
    uint32_t apps;
    /* Link types (LINKTYPE_) that expressions must compile for; none: Ethernet. */
    const uint16_t *link_type;
    uint32_t link_types;
};

/*
 * Builds a program; the list stays the caller's and is copied. `options` may be null. The caller
 * gets one hold. ERR_UNSUPPORTED: `app` without layer 7; ERR_INVALID: an unknown protocol, or an
 * expression that compiles for none of the link types (the sentence gives the rule's number, and
 * the column where it is known); ERR_TOO_LARGE: RULES_MAX, RULE_PROGRAM_BYTES_MAX; ERR_NO_MEMORY.
 * libpcap may ask the name service about names in an expression: not for a capture thread.
 */
int rule_program_build(const struct rule_list *list, const struct rule_program_options *options,
                       struct rule_program **program, struct failure *failure);

/* Another hold, and the end of one; the last one frees. Any thread. A null *program is allowed. */
struct rule_program *rule_program_hold(struct rule_program *program);
void rule_program_release(struct rule_program **program);

/* The list that it was built from, as long as the program is held. */
const struct rule_list *rule_program_list(const struct rule_program *program);

/* Whether any rule looks at headers: if not, `decoded` may be null in rule_state_apply(). */
bool rule_program_needs_decoding(const struct rule_program *program);

/* Whether any rule asks for layer 7. */
bool rule_program_needs_app(const struct rule_program *program);

/* ---- one thread's state -------------------------------------------------------------------- */

struct rule_state;

#define RULE_FLOWS_USUAL (1u << 18) /* 4 MiB */
#define RULE_FLOWS_MAX (1u << 26)
#define RULE_FLOW_IDLE_S 120 /* a connection that was silent for so long has its N bytes anew */

struct rule_state_options {
    uint32_t
        flows; /* connections that `flow N` can follow at once, 0: RULE_FLOWS_USUAL; rounded up */
    uint64_t seed; /* of `sample`: the same for all threads of a ring, so that conversations stay
                      whole */
};

/* A state without interfaces, which holds the program. `options` may be null. ERR_NO_MEMORY,
 * ERR_TOO_LARGE. */
int rule_state_open(struct rule_program *program, const struct rule_state_options *options,
                    struct rule_state **state, struct failure *failure);

/* Frees and nulls. A null *state is allowed. */
void rule_state_close(struct rule_state **state);

struct rule_program *rule_state_program(const struct rule_state *state);

/*
 * Tells of the source's interface `number`. A packet of an interface that was not told of matches
 * no rule with `interface` or `bpf`. An expression that does not compile for the link type matches
 * nothing, negated or not; compiling it for a link type that the program has not seen happens here.
 * ERR_NO_MEMORY.
 */
int rule_state_interface(struct rule_state *state, uint32_t number,
                         const struct interface_description *interface, struct failure *failure);

/* How many interfaces have been told of: the least number that has not. */
uint32_t rule_state_interfaces(const struct rule_state *state);

/* Takes over what the state of the list before knew of connections, so that a change of rules does
 * not begin them anew. Done by rule_handover_take(). */
void rule_state_inherit(struct rule_state *state, struct rule_state *before);

/* ---- packets ------------------------------------------------------------------------------- */

/* What layer 7 says of a packet's flow: numbers as in rule_program_options, 0 for none. */
struct rule_verdict {
    bool unknown; /* not yet judged: `until known` applies. Means nothing for a packet without IP */
    uint16_t app[2]; /* nDPI gives two: TLS, and what it carries */
};

#define RULE_VERDICT_NONE ((struct rule_verdict){false, {0, 0}})
#define RULE_VERDICT_UNKNOWN ((struct rule_verdict){true, {0, 0}})

enum rule_decision {
    RULE_STORE,       /* keep_bytes of it */
    RULE_DISCARD,     /* by `discard`, or by `flow N` when the connection has had its bytes */
    RULE_SAMPLED_OUT, /* by `sample 1/N` */
};

struct rule_outcome {
    uint32_t rule;       /* number from 1; 0: none matched, the packet is kept whole */
    uint32_t keep_bytes; /* at most captured_bytes; 0 unless it is stored */
    uint8_t decision;    /* enum rule_decision */
    bool cut;            /* stored, with fewer bytes than were captured */
};

/* Decides about one packet, and counts it. `decoded` is of the same packet. The state's thread. */
void rule_state_apply(struct rule_state *state, const struct packet *packet,
                      const struct decoded_packet *decoded, struct rule_verdict verdict,
                      struct rule_outcome *outcome);

/*
 * The same for `count` packets in a row, which is faster. `decoded` and `outcome` have as many
 * elements; `verdict`, too, or is null: RULE_VERDICT_NONE for all. `decoded` may be null where the
 * program does not need it.
 */
void rule_state_apply_batch(struct rule_state *state, const struct packet *packet,
                            const struct decoded_packet *decoded,
                            const struct rule_verdict *verdict, uint32_t count,
                            struct rule_outcome *outcome);

/*
 * The same for 1 to DECODE_BATCH packets, for who treats those alike that are kept whole: true, and
 * only outcome[0] is set, where one rule, or none, keeps all of them whole.
 */
bool rule_state_apply_alike(struct rule_state *state, const struct packet *packet,
                            const struct decoded_packet *decoded,
                            const struct rule_verdict *verdict, uint32_t count,
                            struct rule_outcome *outcome);

/*
 * rule_state_apply_alike() for packets whose headers nobody else asks for: what of them must be
 * decoded is decoded here, which is little of most, so that this is the fastest. `behind` and
 * `link_type` as in decode_batch(). For programs without layer 7.
 */
bool rule_state_judge(struct rule_state *state, const struct packet *packet, uint32_t count,
                      uint32_t behind, const uint16_t *link_type, struct rule_outcome *outcome);

/* ---- counters ------------------------------------------------------------------------------ */

/*
 * Of one rule since its state was opened. Bytes are captured ones, so that bytes = stored + cut +
 * discarded, and packets = stored + discarded (a cut packet is stored; one that was sampled out
 * counts as discarded).
 */
struct rule_counters {
    uint64_t packets; /* matched */
    uint64_t bytes;
    uint64_t stored_packets;
    uint64_t stored_bytes;
    uint64_t cut_packets;
    uint64_t cut_bytes;
    uint64_t discarded_packets;
    uint64_t discarded_bytes;
};

/* Rule numbers as in rule_outcome: 0 for the packets that none matched, up to the list's count. Any
 * thread; while the state's thread is at work, each number is exact but they may be a few packets
 * apart. */
void rule_state_counters(const struct rule_state *state, uint32_t rule,
                         struct rule_counters *counters);

/* ---- changing rules while packets come ----------------------------------------------------- */

/*
 *  state                   | owner            | moved on by
 *  ------------------------+------------------+---------------------------------------------------
 *  made, told of interfaces| control thread   | rule_handover_offer()
 *  offered                 | the handover     | rule_handover_take(), or the next offer (replaced)
 *  in use                  | capture thread   | rule_handover_take() of the next one
 *  retired                 | the handover     | rule_handover_collect()
 *  collected               | control thread   | rule_state_close(), after its counters were added
 * up
 *
 * The release when a state is put into a place pairs with the acquire when it is taken out: all
 * that the former owner did is seen by the next.
 */
struct rule_handover {
    _Atomic(struct rule_state *) offered;
    _Atomic(struct rule_state *) retired;
};

#define RULE_HANDOVER_EMPTY \
    {                       \
        NULL, NULL          \
    } /* clang 14 takes no 0 for an atomic pointer */

/* Control thread. Offers *state and nulls it; an offer that has not been taken is replaced and
 * closed. */
void rule_handover_offer(struct rule_handover *handover, struct rule_state **state);

/* Control thread. The state that is no longer used, now the caller's; null: none. */
struct rule_state *rule_handover_collect(struct rule_handover *handover);

bool rule_handover_take_offer(struct rule_handover *handover, struct rule_state **current);

/*
 * Capture thread, between packets; costs a load when there is no offer. Exchanges *current (null
 * the first time) for what was offered. False: nothing offered, or the last one retired has not
 * been collected yet; then *current stays, and the offer waits.
 */
static inline bool rule_handover_take(struct rule_handover *handover, struct rule_state **current)
{
    if (atomic_load_explicit(&handover->offered, memory_order_relaxed) == NULL)
        return false;
    return rule_handover_take_offer(handover, current);
}

/* When no thread uses the handover any more: closes what lies in it. */
void rule_handover_clear(struct rule_handover *handover);

#endif
