/*
 * classifier_port.c - a capture thread's end of the classifier: see classifier.h.
 *
 * The happy path: a packet's flow is looked up; as long as the flow is not judged, the packet's
 * head is copied into the next free slot of the queue. Between batches, what the process has said
 * is taken over into the flow table, and the process is woken if it sleeps on what was lent.
 *
 * A flow's life:
 *
 *     new --> lent to process N --> named --> judged
 *      ^        |                     +--------^ N has died
 *      +--------+ N has died, or the flow opens anew (SYN, silence): a new serial
 *
 * Named is a flow whose protocols are known, of which the process wants more packets, because it
 * may find a closer name.
 *
 * What can go wrong: the queue is full, and the packet is skipped. The process dies: the queues are
 * emptied, and what it has not judged is lent to the next one, from wherever the flow is then. The
 * process lies: a position that is none, a protocol that has no name; it is reported and not
 * listened to any more, and killed by the thread that watches it. A verdict for a flow or serial
 * that is not waiting for one is left alone.
 *
 * The table is like that of rules/flow_bytes.c: sets of four, and in a set the flow that was silent
 * for the longest makes room.
 */
#include "classifier_body.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAYS 4

enum flow_state {
    FLOW_UNJUDGED = 0,
    FLOW_NAMED,
    FLOW_JUDGED,
};

struct flow {
    uint64_t hash; /* 0: free */
    uint32_t serial;
    uint32_t last_s; /* low 32 bits of the time */
    uint32_t number; /* of the process that it was lent to */
    uint16_t app[2];
    uint8_t lent; /* to that process */
    uint8_t bare;
    uint8_t state; /* enum flow_state */
};
_Static_assert(sizeof(struct flow) == 32, "two in a cache line");

struct set {
    struct flow flow[WAYS];
};

struct classifier_port {
    struct classifier *classifier;
    struct classifier_link *link;
    struct classifier_queues *queues;
    uint32_t place;
    uint64_t seed;
    struct verdicts *record; /* null: nobody wants to know later on. Its seed is ours then */

    struct verdict_stream *log; /* of whose packets it is written down as well; null: nowhere */
    uint64_t at;                /* the number of the next packet, or less */

    struct set *set;
    uint64_t *began; /* for each flow of the table, the number of its first packet, or less; null: nobody wants to know */
    uint32_t sets;   /* a power of two */
    uint32_t serial; /* the last one given */

    /* The queues, as this side knows them. */
    uint32_t number; /* of the process that they are for; 0: none, and nothing is lent */
    uint64_t lent, taken;
    uint64_t heard;
    uint64_t rung; /* `lent` when the process was last looked after */
    uint32_t settled;

    _Atomic uint64_t lent_count, skipped, verdicts, unknown, stale; /* for other threads */
};

static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed); /* one writer */
}

/* ---- opening -------------------------------------------------------------------------------- */

int port_create(struct classifier *classifier, struct classifier_link *link, uint32_t place,
                uint32_t flows, struct classifier_port **result, struct failure *failure)
{
    if (flows > CLASSIFIER_FLOWS_MAX)
        return fail(failure, ERR_TOO_LARGE, "a capture thread can follow %u flows at most",
                    CLASSIFIER_FLOWS_MAX);
    struct classifier_port *port = calloc(1, sizeof *port);
    uint32_t sets = 1;
    while ((uint64_t)sets * WAYS < (flows ? flows : CLASSIFIER_FLOWS_USUAL))
        sets *= 2;
    struct set *set = aligned_alloc(64, sets * sizeof *set);
    if (!port || !set) {
        free(port);
        free(set);
        return fail(failure, ERR_NO_MEMORY, "no memory to follow flows for layer 7");
    }
    memset(set, 0, sets * sizeof *set); /* touched now, not at the first packets */
    port->classifier = classifier;
    port->link = link;
    port->place = place;
    port->queues = &link->shared->port[place];
    port->set = set;
    port->sets = sets;
    if (getrandom(&port->seed, sizeof port->seed, GRND_NONBLOCK) != sizeof port->seed)
        port->seed = (uint64_t)(uintptr_t)port; /* early at boot: less hard to guess */
    *result = port;
    return 0;
}

void port_destroy(struct classifier_port **slot)
{
    struct classifier_port *port = *slot;
    atomic_store(&port->queues->wanted, 0);
    free(port->began);
    free(port->set);
    free(port);
    *slot = NULL;
}

void classifier_port_log(struct classifier_port *port, struct verdict_stream *stream)
{
    if (port->record && !port->began)
        port->began = calloc((size_t)port->sets * WAYS, sizeof *port->began);
    port->log = port->began ? stream : NULL;
}

void classifier_port_at(struct classifier_port *port, uint64_t number)
{
    port->at = number;
    if (port->log)
        verdict_stream_upto(port->log, number);
}

void classifier_port_record(struct classifier_port *port, struct verdicts *verdicts)
{
    port->record = verdicts;
    port->seed = verdicts_seed(verdicts); /* so that a flow's hash is its conversation's */
}

struct classifier *port_classifier(const struct classifier_port *port)
{
    return port->classifier;
}

uint32_t port_place(const struct classifier_port *port)
{
    return port->place;
}

void port_count(const struct classifier_port *port, struct port_counters *sum)
{
    sum->lent += atomic_load_explicit(&port->lent_count, memory_order_relaxed);
    sum->skipped += atomic_load_explicit(&port->skipped, memory_order_relaxed);
    sum->verdicts += atomic_load_explicit(&port->verdicts, memory_order_relaxed);
    sum->unknown += atomic_load_explicit(&port->unknown, memory_order_relaxed);
    sum->stale += atomic_load_explicit(&port->stale, memory_order_relaxed);
}

/* ---- the flow table ------------------------------------------------------------------------- */

/* Seconds that passed from `last_s` on; 0 where time ran backwards. */
static uint32_t silence(uint32_t last_s, uint32_t now_s)
{
    uint32_t passed = now_s - last_s;
    return passed > INT32_MAX ? 0 : passed;
}

static struct set *set_of(struct classifier_port *port, uint64_t hash)
{
    return &port->set[hash >> 32 & (port->sets - 1)];
}

static struct flow *flow_find(struct classifier_port *port, uint64_t hash)
{
    struct set *set = set_of(port, hash);
    for (unsigned i = 0; i < WAYS; i++)
        if (set->flow[i].hash == hash)
            return &set->flow[i];
    return NULL;
}

static uint64_t *flow_began(const struct classifier_port *port, const struct flow *flow)
{
    return &port->began[flow - port->set->flow];
}

/* What the place held before is over, for all that this side knows: what was written down of it holds no longer. */
static void flow_begin(struct classifier_port *port, struct flow *flow, uint64_t hash)
{
    if (port->log && flow->state != FLOW_UNJUDGED)
        verdict_stream_put(port->log, flow->hash, port->at, NULL);
    if (port->began)
        *flow_began(port, flow) = port->at;
    *flow = (struct flow){.hash = hash, .serial = ++port->serial};
    if (port->record)
        verdicts_drop(port->record, hash);
}

/* Another process gets all of it once more: for us it is the same conversation as before. */
static void flow_lend_anew(struct classifier_port *port, struct flow *flow)
{
    uint64_t began = port->began ? *flow_began(port, flow) : 0;
    flow_begin(port, flow, flow->hash);
    if (port->began)
        *flow_began(port, flow) = began;
}

/* A conversation may have been forgotten there in a flood of others: as long as it has packets it is said again, once a second. */
static void flow_remind(struct classifier_port *port, const struct flow *flow)
{
    if (port->record && flow->state != FLOW_UNJUDGED)
        verdicts_put(port->record, flow->hash, flow->app);
}

/* The packet's flow, which begins here if it was not known, or `opens`, or `fades` (no packet of it
 * says that it is the first) and was silent for long. */
static struct flow *flow_take(struct classifier_port *port, uint64_t hash, int64_t time_ns,
                              bool opens, bool fades)
{
    uint32_t now_s = (uint32_t)(time_ns / 1000000000);
    struct flow *flow = flow_find(port, hash);
    if (!flow) {
        struct set *set = set_of(port, hash);
        flow = &set->flow[0];
        for (unsigned i = 0; i < WAYS && flow->hash != 0; i++)
            if (set->flow[i].hash == 0 ||
                silence(set->flow[i].last_s, now_s) > silence(flow->last_s, now_s))
                flow = &set->flow[i];
        flow_begin(port, flow, hash);
    } else if ((fades && silence(flow->last_s, now_s) > CLASSIFIER_IDLE_S) ||
               (opens && (flow->state != FLOW_UNJUDGED || flow->lent > 0))) {
        flow_begin(port, flow, hash);
    }
    if (flow->last_s != now_s)
        flow_remind(port, flow);
    flow->last_s = now_s;
    return flow;
}

/* ---- lending -------------------------------------------------------------------------------- */

/* The process has written what it cannot have meant: nothing more from it, nothing more to it. */
static void disown(struct classifier_port *port)
{
    atomic_store(&port->link->liar, port->number);
    port->number = 0;
}

/* Learns how far the process is. */
static void taken_learn(struct classifier_port *port)
{
    uint64_t taken = atomic_load_explicit(&port->queues->taken, memory_order_acquire);
    if (taken - port->taken > port->lent - port->taken)
        disown(port); /* it has taken what was never lent */
    else
        port->taken = taken;
}

/* How far the process is was learnt between batches: asking for each packet would have two
 * processors quarrel over the line that it writes to. */
static bool fits(const struct classifier_port *port)
{
    return port->lent - port->taken < CLASSIFIER_LENT_SLOTS;
}

static void lend(struct classifier_port *port, uint64_t hash, uint32_t serial, uint16_t flags,
                 int64_t time_ns, const uint8_t *head, uint32_t bytes)
{
    struct classifier_lent *slot = &port->queues->packet[port->lent % CLASSIFIER_LENT_SLOTS];
    slot->flow = hash;
    slot->serial = serial;
    slot->flags = flags;
    slot->time_ns = time_ns;
    slot->bytes = (uint16_t)(bytes < CLASSIFIER_HEAD_BYTES ? bytes : CLASSIFIER_HEAD_BYTES);
    if (slot->bytes > 0)
        memcpy(slot->byte, head, slot->bytes);
    port->lent++;
    atomic_store_explicit(&port->queues->lent, port->lent, memory_order_release);
}

/* Whether a TCP segment carries nothing. Padding of short frames is not part of it. */
static bool is_bare(const struct packet *packet, const struct decoded_level *level)
{
    if (level->protocol != PROTOCOL_TCP || level->l4_end == DECODE_UNKNOWN)
        return false;
    const uint8_t *header = packet->bytes + level->l3_start; /* with LEVEL_ADDRESSES, all of it */
    uint32_t l3_bytes = level->version == 4 ? (uint32_t)(header[2] << 8 | header[3])
                                            : (uint32_t)(header[4] << 8 | header[5]) + 40;
    if (l3_bytes == 0 || (level->version == 6 && l3_bytes == 40))
        l3_bytes = packet->captured_bytes - level->l3_start; /* merged by the adapter */
    return level->l4_end >= level->l3_start + l3_bytes;
}

static void flow_lend(struct classifier_port *port, struct flow *flow, const struct packet *packet,
                      const struct decoded_level *level)
{
    if (flow->number != port->number && port->number != 0) {
        if (flow->state == FLOW_NAMED) {
            flow->state = FLOW_JUDGED; /* the name stays */
            return;
        }
        if (flow->number != 0)
            flow_lend_anew(port, flow);
        flow->number = port->number;
        flow->last_s = (uint32_t)(packet->time_ns / 1000000000);
    }
    bool bare = is_bare(packet, level);
    uint8_t *lent = bare ? &flow->bare : &flow->lent;
    uint8_t most = bare ? CLASSIFIER_BARE_MAX : CLASSIFIER_LENT_MAX;
    if (*lent >= most)
        return;
    if (port->number == 0 || !fits(port)) {
        count(&port->skipped);
        return;
    }
    ++*lent;
    lend(port, flow->hash, flow->serial, flow->lent == CLASSIFIER_LENT_MAX ? CLASSIFIER_LAST : 0,
         packet->time_ns, packet->bytes + level->l3_start,
         packet->captured_bytes - level->l3_start);
    count(&port->lent_count);
}

/* The hash of the packet's flow; a first fragment has ports, and is one of its flow's packets. */
static bool flow_hash(const struct classifier_port *port, const struct packet *packet,
                      const struct decoded_packet *decoded, const struct decoded_level *level,
                      uint64_t *hash)
{
    if (!(level->flags & LEVEL_FRAGMENT) || !(level->flags & LEVEL_PORTS))
        return decoded_flow_hash(packet->bytes, decoded, port->seed, hash);
    struct decoded_packet whole;
    whole.levels = 1;
    whole.level[0] = *level;
    whole.level[0].flags &= (uint8_t)~LEVEL_FRAGMENT;
    return decoded_flow_hash(packet->bytes, &whole, port->seed, hash);
}

struct rule_verdict classifier_verdict(struct classifier_port *port, const struct packet *packet,
                                       const struct decoded_packet *decoded)
{
    const struct decoded_level *level = decoded_innermost(decoded);
    uint64_t hash;
    if (level && level->flags & LEVEL_LATER)
        return RULE_VERDICT_UNKNOWN;
    if (!level || !flow_hash(port, packet, decoded, level, &hash))
        return RULE_VERDICT_NONE;
    bool opens =
        level->flags & LEVEL_TCP_FLAGS && (level->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    hash |= 1; /* 0 means free */
    struct flow *flow =
        flow_take(port, hash, packet->time_ns, opens, level->protocol != PROTOCOL_TCP);
    if (flow->state != FLOW_JUDGED)
        flow_lend(port, flow, packet, level);
    if (flow->state == FLOW_UNJUDGED)
        return RULE_VERDICT_UNKNOWN;
    return (struct rule_verdict){false, {flow->app[0], flow->app[1]}};
}

/* ---- hearing -------------------------------------------------------------------------------- */

static void take_verdict(struct classifier_port *port, const struct classifier_said *verdict)
{
    struct flow *flow = flow_find(port, verdict->flow);
    if (!flow || flow->serial != verdict->serial || flow->number != port->number ||
        flow->state == FLOW_JUDGED) {
        count(&port->stale);
        return;
    }
    if (port->log && (flow->state == FLOW_UNJUDGED || memcmp(flow->app, verdict->app, sizeof flow->app) != 0))
        verdict_stream_put(port->log, flow->hash, *flow_began(port, flow), verdict->app);
    memcpy(flow->app, verdict->app, sizeof flow->app);
    flow->state = verdict->flags & CLASSIFIER_FINAL ? FLOW_JUDGED : FLOW_NAMED;
    flow_remind(port, flow);
    if (flow->state == FLOW_NAMED)
        return;
    count(&port->verdicts);
    if (verdict->app[0] == 0 && verdict->app[1] == 0)
        count(&port->unknown);
}

/* Takes over what the process has said; not more than fits into its queue, then it is a lie. */
static void hear(struct classifier_port *port)
{
    uint64_t said = atomic_load_explicit(&port->queues->said, memory_order_acquire);
    bool lie = said - port->heard > CLASSIFIER_SAID_SLOTS;
    for (; port->heard != said && !lie; port->heard++) {
        struct classifier_said verdict; /* a copy: what is checked is what is used */
        memcpy(&verdict, &port->queues->verdict[port->heard % CLASSIFIER_SAID_SLOTS],
               sizeof verdict);
        lie = verdict.app[0] > port->link->names || verdict.app[1] > port->link->names;
        if (lie)
            break;
        if (verdict.flow == 0)
            port->settled = verdict.serial;
        else
            take_verdict(port, &verdict);
    }
    atomic_store_explicit(&port->queues->heard, port->heard, memory_order_release);
    if (lie)
        disown(port);
}

/* Empties the queues for another process, or none. The one that they were for is dead. */
static void attach(struct classifier_port *port, uint32_t number)
{
    port->number = number;
    port->lent = port->taken = port->heard = port->rung = 0;
    port->settled = 0;
    if (number == 0)
        return;
    struct classifier_queues *queues = port->queues;
    atomic_store(&queues->lent, 0);
    atomic_store(&queues->taken, 0);
    atomic_store(&queues->said, 0);
    atomic_store(&queues->heard, 0);
    atomic_store(&queues->served, 0);
    atomic_store(&queues->wanted, number); /* all of the above is seen by who sees this */
}

static void ring_bell(struct classifier_shared *shared)
{
    atomic_store(&shared->sleeping, 0);
    atomic_fetch_add(&shared->bell, 1);
    syscall(SYS_futex, &shared->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void classifier_port_turn(struct classifier_port *port)
{
    uint32_t number = atomic_load_explicit(&port->link->number, memory_order_acquire);
    if (port->number != 0)
        hear(port); /* first: what a process said before it died counts */
    if (port->number != 0)
        taken_learn(port);
    if (number != port->number &&
        (number == 0 || number != atomic_load_explicit(&port->link->liar, memory_order_relaxed)))
        attach(port, number);
    if (port->number == 0 || port->lent == port->rung)
        return;
    port->rung = port->lent;
    if (atomic_fetch_or(&port->link->shared->sleeping, 0) != 0) /* see `sleeping` */
        ring_bell(port->link->shared);
}

uint32_t classifier_port_pending(struct classifier_port *port)
{
    if (port->number == 0)
        return 0;
    taken_learn(port);
    return (uint32_t)(port->lent - port->taken);
}

/* ---- for tests and tools -------------------------------------------------------------------- */

int classifier_port_settle(struct classifier_port *port, uint32_t timeout_ms)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    uint32_t number = 0, serial = 0;
    for (uint32_t waited_ms = 0; waited_ms <= timeout_ms; waited_ms++) {
        classifier_port_turn(port);
        if (number == 0 && port->number != 0 && fits(port)) {
            number = port->number;
            serial = ++port->serial;
            lend(port, 0, serial, CLASSIFIER_SETTLE, 0, NULL, 0);
        } else if (number != 0 && port->number != number) {
            return ERR_CLOSED;
        } else if (number != 0 && port->settled == serial) {
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return ERR_TIMEOUT;
}
