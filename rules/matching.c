/*
 * matching.c - the packet path: the first rule that matches, and what its action keeps.
 *
 * No allocation, no lock, no system call. What the tables mean is said in program_inside.h.
 */
#include <string.h>

#include "program_inside.h"

#define RULE_BATCH DECODE_BATCH

static const uint8_t transport_of[256] = {
    [PROTOCOL_TCP] = TRANSPORT_TCP,
    [PROTOCOL_UDP] = TRANSPORT_UDP,
    [PROTOCOL_SCTP] = TRANSPORT_SCTP,
};

/* ---- matching ------------------------------------------------------------------------------ */

/* The classes of a packet's values in a dimension; those of class 0 change nothing. */
struct classes {
    uint32_t count;
    uint32_t number[VALUES_MAX];
};

/* Adds both ends. Returns whether any condition holds for one. */
static inline bool both(struct classes *classes, uint32_t source, uint32_t destination)
{
    classes->number[classes->count] = source;
    classes->number[classes->count + 1] = destination;
    classes->count += 2;
    return (source | destination) != 0;
}

static inline bool gather_addresses(const struct dimension *dimension, const uint8_t *bytes,
                                    const struct decoded_level *level, struct classes *classes)
{
    if ((level->flags & LEVEL_ADDRESSES) == 0)
        return false;
    const struct prefix_table *table = &dimension->address[level->version == 6];
    return both(classes, prefix_table_class(table, decoded_source(bytes, level)),
                prefix_table_class(table, decoded_destination(bytes, level)));
}

static inline uint32_t port_class(const struct port_table *table, uint32_t transport, uint32_t port)
{
    return table->class[table->page[transport][port / PAGE_PORTS] * PAGE_PORTS + port % PAGE_PORTS];
}

static inline bool gather_ports(const struct dimension *dimension,
                                const struct decoded_level *level, struct classes *classes)
{
    if ((level->flags & LEVEL_PORTS) == 0)
        return false;
    uint32_t transport = transport_of[level->protocol];
    return both(classes, port_class(dimension->port, transport, level->source_port),
                port_class(dimension->port, transport, level->destination_port));
}

static inline void mac_classes(const struct dimension *dimension, const uint8_t *bytes,
                               const struct decoded_packet *decoded, uint32_t class[2])
{
    const struct prefix_table *table = &dimension->address[0];
    class[0] = class[1] = 0;
    if ((decoded->flags & DECODED_MAC_SOURCE) != 0)
        class[0] = prefix_table_class(table, bytes + decoded->mac_source_at);
    if ((decoded->flags & DECODED_MAC_DESTINATION) != 0)
        class[1] = prefix_table_class(table, bytes + decoded->mac_destination_at);
}

static inline bool gather_tags(const struct dimension *dimension,
                               const struct decoded_packet *decoded, struct classes *classes)
{
    uint32_t any = 0;
    for (uint32_t i = 0; i < decoded->tags; i++) {
        classes->number[i] = dimension->number[decoded->tag[i]];
        any |= classes->number[i];
    }
    classes->count = decoded->tags;
    return any != 0;
}

static inline bool gather_apps(const struct dimension *dimension, uint32_t apps,
                               struct rule_verdict verdict, struct classes *classes)
{
    const uint32_t *number = dimension->number; /* 0 is of class 0 */
    return both(classes, number[verdict.app[0] <= apps ? verdict.app[0] : 0],
                number[verdict.app[1] <= apps ? verdict.app[1] : 0]);
}

static __attribute__((noinline)) uint32_t gather_inner(const struct rule_program *program,
                                                       const uint8_t *bytes,
                                                       const struct decoded_packet *decoded,
                                                       struct classes *classes)
{
    uint32_t hits = 0;
    for (enum dimension_kind kind = DIMENSION_INNER_IP; kind <= DIMENSION_INNER_PORT; kind++) {
        const struct dimension *dimension = &program->dimension[kind];
        classes[kind].count = 0;
        for (uint32_t i = 0; dimension->slots > 0 && i < decoded->levels; i++) {
            const struct decoded_level *level = &decoded->level[i];
            if ((level->flags & LEVEL_INNER) == 0)
                continue;
            bool hit = kind == DIMENSION_INNER_IP
                           ? gather_addresses(dimension, bytes, level, &classes[kind])
                           : gather_ports(dimension, level, &classes[kind]);
            hits |= (uint32_t)hit << kind;
        }
    }
    return hits;
}

/* Returns the dimensions in which some condition holds, with their classes. */
static inline uint32_t gather(const struct rule_program *program, const uint8_t *bytes,
                              const struct decoded_packet *decoded, struct rule_verdict verdict,
                              struct classes classes[DIMENSIONS])
{
    const struct dimension *dimension = program->dimension;
    uint32_t used = program->used, hits = 0;
    if ((used & 1u << DIMENSION_MAC) != 0) {
        uint32_t class[2];
        mac_classes(&dimension[DIMENSION_MAC], bytes, decoded, class);
        classes[DIMENSION_MAC].count = 0;
        hits |= (uint32_t)both(&classes[DIMENSION_MAC], class[0], class[1]) << DIMENSION_MAC;
    }
    if ((used & 1u << DIMENSION_VLAN) != 0)
        hits |= (uint32_t)gather_tags(&dimension[DIMENSION_VLAN], decoded, &classes[DIMENSION_VLAN])
                << DIMENSION_VLAN;
    if (decoded->levels == 0)
        return hits;
    const struct decoded_level *level = &decoded->level[0];
    if ((used & 1u << DIMENSION_IP) != 0) {
        classes[DIMENSION_IP].count = 0;
        hits |= (uint32_t)gather_addresses(&dimension[DIMENSION_IP], bytes, level,
                                           &classes[DIMENSION_IP])
                << DIMENSION_IP;
    }
    if ((used & 1u << DIMENSION_PORT) != 0) {
        classes[DIMENSION_PORT].count = 0;
        hits |= (uint32_t)gather_ports(&dimension[DIMENSION_PORT], level, &classes[DIMENSION_PORT])
                << DIMENSION_PORT;
    }
    if ((used & 1u << DIMENSION_APP) != 0 && !verdict.unknown) {
        classes[DIMENSION_APP].count = 0;
        hits |= (uint32_t)gather_apps(&dimension[DIMENSION_APP], program->apps, verdict,
                                      &classes[DIMENSION_APP])
                << DIMENSION_APP;
    }
    if ((used & (1u << DIMENSION_INNER_IP | 1u << DIMENSION_INNER_PORT)) != 0)
        hits |= gather_inner(program, bytes, decoded, classes);
    return hits;
}

static bool expressions_hold(const struct rule_program *program, const struct view *view,
                             uint32_t rule, const struct packet *packet)
{
    const struct residue *residue = &program->residue[rule];
    for (uint32_t i = 0; i < residue->count; i++) {
        const struct residual *residual = &program->residual[residue->first + i];
        const struct bpf_program *filter = &view->expressions->filter[residual->expression];
        bool holds = bpf_filter(filter->bf_insns, packet->bytes, packet->original_bytes,
                                packet->captured_bytes) != 0;
        if (holds == residual->negated)
            return false;
    }
    return true;
}

/* The first rule of a word's candidates, or -1. */
static inline int64_t first_of(const struct rule_program *program, const struct view *view,
                               uint32_t word, uint64_t candidates, const struct packet *packet)
{
    while (candidates != 0) {
        uint32_t bit = (uint32_t)__builtin_ctzll(candidates);
        uint32_t rule = word * 64 + bit;
        if ((program->bpf[word] >> bit & 1) == 0 || expressions_hold(program, view, rule, packet))
            return rule;
        candidates &= candidates - 1;
    }
    return -1;
}

static inline int64_t match_word(const struct rule_program *program, const struct view *view,
                                 const struct packet *packet, const struct classes *classes,
                                 uint32_t quiet, uint32_t hits)
{
    uint64_t candidates = view->mask[0] & program->quiet[quiet * 2 + 1];
    for (; hits != 0; hits &= hits - 1) {
        uint32_t kind = (uint32_t)__builtin_ctz(hits);
        const struct dimension *dimension = &program->dimension[kind];
        for (uint32_t slot = 0; slot < dimension->slots; slot++) {
            uint64_t hit = 0;
            for (uint32_t j = 0; j < classes[kind].count; j++)
                hit |= dimension->mask[(size_t)classes[kind].number[j] * dimension->slots + slot];
            candidates &= hit ^ dimension->base[slot];
        }
    }
    return first_of(program, view, 0, candidates, packet);
}

/* Intersects `live` words of `mask` with a slot; returns those that are left. */
static inline uint64_t narrow(const struct rule_program *program, const struct dimension *dimension,
                              uint32_t slot, const struct classes *classes, uint64_t live,
                              uint64_t *mask)
{
    const uint64_t *set[VALUES_MAX];
    const uint64_t *base = dimension->base + (size_t)slot * program->words;
    uint64_t summary = dimension->base_summary[slot];
    uint32_t sets = 0;
    for (uint32_t i = 0; i < classes->count; i++) {
        uint32_t number = dimension->set_of[(size_t)classes->number[i] * dimension->slots + slot];
        set[sets] = dimension->set + (size_t)number * (program->words + 1);
        summary |= set[sets++][0];
    }
    live &= summary;
    for (uint64_t rest = live; rest != 0; rest &= rest - 1) {
        uint32_t word = (uint32_t)__builtin_ctzll(rest);
        uint64_t hit = 0;
        for (uint32_t i = 0; i < sets; i++)
            hit |= set[i][1 + word];
        mask[word] &= hit ^ base[word];
        live &= ~((uint64_t)(mask[word] == 0) << word);
    }
    return live;
}

static int64_t match_words(const struct rule_program *program, const struct view *view,
                           const struct packet *packet, const struct classes *classes,
                           uint32_t quiet, uint32_t hits)
{
    uint64_t mask[WORDS_MAX];
    const uint64_t *left = program->quiet + (size_t)quiet * (program->words + 1);
    uint64_t live = view->summary & left[0];
    for (uint64_t rest = live; rest != 0; rest &= rest - 1) {
        uint32_t word = (uint32_t)__builtin_ctzll(rest);
        mask[word] = view->mask[word] & left[1 + word];
    }
    for (; hits != 0 && live != 0; hits &= hits - 1) {
        uint32_t kind = (uint32_t)__builtin_ctz(hits);
        const struct dimension *dimension = &program->dimension[kind];
        for (uint32_t slot = 0; slot < dimension->slots; slot++)
            live = narrow(program, dimension, slot, &classes[kind], live, mask);
    }
    for (; live != 0; live &= live - 1) {
        uint32_t word = (uint32_t)__builtin_ctzll(live);
        int64_t rule = first_of(program, view, word, mask[word], packet);
        if (rule >= 0)
            return rule;
    }
    return -1;
}

/* Number of the first rule that matches, from 1; 0: none. For every program and packet. */
static __attribute__((noinline)) uint32_t match_any(const struct rule_program *program,
                                                    const struct view *view,
                                                    const struct packet *packet,
                                                    const struct decoded_packet *decoded,
                                                    struct rule_verdict verdict)
{
    struct classes classes[DIMENSIONS];
    uint32_t hits =
        program->used != 0 ? gather(program, packet->bytes, decoded, verdict, classes) : 0;
    uint32_t quiet = program->used & ~hits;
    if (verdict.unknown && program->needs_app && decoded->levels > 0)
        quiet &= ~(1u << DIMENSION_APP); /* provisionally, each of its conditions holds */
    int64_t rule = program->words == 1 ? match_word(program, view, packet, classes, quiet, hits)
                                       : match_words(program, view, packet, classes, quiet, hits);
    return (uint32_t)(rule + 1);
}

/* ---- matching a batch ---------------------------------------------------------------------- */

/*
 * Packets of a batch are matched column by column: one dimension of all of them, then the next. So
 * what depends on the program alone is asked once a batch, and no branch depends on what traffic
 * mixes at random: versions, transports, tags.
 */
struct batch {
    const struct packet *packet;
    const struct decoded_packet *decoded;
    uint32_t count;
    const struct view *view_of_all;      /* null: they have different ones */
    const struct view *view[RULE_BATCH]; /* only then */
    uint32_t rule[RULE_BATCH];           /* number from 1; 0: none */
};

static inline const struct view *batch_view(const struct batch *batch, uint32_t i)
{
    return batch->view_of_all != NULL ? batch->view_of_all : batch->view[i];
}

/* Which packets of a batch have an IP header, by its version. */
struct versions {
    uint32_t count[2];
    uint8_t packet[2][RULE_BATCH];
};

static inline void batch_versions(const struct batch *batch, struct versions *versions)
{
    versions->count[0] = versions->count[1] = 0;
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct decoded_level *level = &batch->decoded[i].level[0];
        uint32_t known = (level->flags & LEVEL_ADDRESSES) != 0, six = level->version == 6;
        versions->packet[0][versions->count[0]] = (uint8_t)i;
        versions->packet[1][versions->count[1]] = (uint8_t)i;
        versions->count[0] += known & (six ^ 1);
        versions->count[1] += known & six;
    }
}

/* A column of classes: of the sources' values and the destinations'. */
struct column {
    uint32_t class[RULE_BATCH][2];
};

static void column_addresses(const struct dimension *dimension, const struct batch *batch,
                             struct column *column)
{
    struct versions versions;
    batch_versions(batch, &versions);
    memset(column->class, 0, batch->count * sizeof column->class[0]);
    for (uint32_t k = 0; k < versions.count[0]; k++) {
        uint32_t i = versions.packet[0][k];
        const uint8_t *source = batch->packet[i].bytes + batch->decoded[i].level[0].l3_start + 12;
        column->class[i][0] = prefix_table_class(&dimension->address[0], source);
        column->class[i][1] = prefix_table_class(&dimension->address[0], source + 4);
    }
    for (uint32_t k = 0; k < versions.count[1]; k++) {
        uint32_t i = versions.packet[1][k];
        const uint8_t *source = batch->packet[i].bytes + batch->decoded[i].level[0].l3_start + 8;
        column->class[i][0] = prefix_table_class(&dimension->address[1], source);
        column->class[i][1] = prefix_table_class(&dimension->address[1], source + 16);
    }
}

static inline void column_ports(const struct dimension *dimension, const struct batch *batch,
                                struct column *column)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct decoded_level *level = &batch->decoded[i].level[0];
        uint32_t known = (level->flags & LEVEL_PORTS) != 0;
        uint32_t transport = transport_of[level->protocol] * known;
        column->class[i][0] = port_class(dimension->port, transport, level->source_port);
        column->class[i][1] = port_class(dimension->port, transport, level->destination_port);
    }
}

static void column_macs(const struct dimension *dimension, const struct batch *batch,
                        struct column *column)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        mac_classes(dimension, batch->packet[i].bytes, &batch->decoded[i], column->class[i]);
    }
}

/* Of the first tag; that there is another is asked for elsewhere. */
static inline uint32_t tag_class(const struct dimension *dimension,
                                 const struct decoded_packet *decoded)
{
    return dimension->number[decoded->tag[0]] * (uint32_t)(decoded->tags > 0);
}

static inline void narrow_word(const struct dimension *dimension, const struct batch *batch,
                               const struct column *column, uint64_t *candidates)
{
    for (uint32_t i = 0; i < batch->count; i++)
        candidates[i] &=
            (dimension->mask[column->class[i][0]] | dimension->mask[column->class[i][1]]) ^
            dimension->base[0];
}

/*
 * The most usual lists: up to 64 rules, at most one condition of a kind in each, addresses, ports
 * and tags only. A set of rules is a word, and each dimension has one slot.
 */
static void match_one_word(const struct rule_program *program, struct batch *batch)
{
    const struct dimension *dimension = program->dimension;
    uint64_t candidates[RULE_BATCH];
    struct column column;
    for (uint32_t i = 0; i < batch->count; i++)
        candidates[i] = batch_view(batch, i)->mask[0];
    if ((program->used & 1u << DIMENSION_IP) != 0) {
        column_addresses(&dimension[DIMENSION_IP], batch, &column);
        narrow_word(&dimension[DIMENSION_IP], batch, &column, candidates);
    }
    if ((program->used & 1u << DIMENSION_PORT) != 0) {
        column_ports(&dimension[DIMENSION_PORT], batch, &column);
        narrow_word(&dimension[DIMENSION_PORT], batch, &column, candidates);
    }
    if ((program->used & 1u << DIMENSION_MAC) != 0) {
        column_macs(&dimension[DIMENSION_MAC], batch, &column);
        narrow_word(&dimension[DIMENSION_MAC], batch, &column, candidates);
    }
    if ((program->used & 1u << DIMENSION_VLAN) != 0) {
        const struct dimension *vlan = &dimension[DIMENSION_VLAN];
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct decoded_packet *decoded = &batch->decoded[i];
            uint64_t hit = vlan->mask[tag_class(vlan, decoded)];
            for (uint32_t j = 1; j < decoded->tags; j++)
                hit |= vlan->mask[vlan->number[decoded->tag[j]]];
            candidates[i] &= hit ^ vlan->base[0];
        }
    }
    for (uint32_t i = 0; i < batch->count; i++)
        batch->rule[i] = candidates[i] != 0 ? (uint32_t)__builtin_ctzll(candidates[i]) + 1 : 0;
}

static void tuples_put(struct tuple *tuple, enum tuple_place place, const struct batch *batch,
                       const struct column *column)
{
    for (uint32_t i = 0; i < batch->count; i++)
        memcpy(&tuple[i].place[place], column->class[i], sizeof column->class[i]);
}

static void batch_tuples(const struct rule_program *program, const struct batch *batch,
                         struct tuple *tuple)
{
    const struct dimension *dimension = program->dimension;
    struct column column;
    memset(tuple, 0, batch->count * sizeof *tuple);
    if ((program->used & 1u << DIMENSION_IP) != 0) {
        column_addresses(&dimension[DIMENSION_IP], batch, &column);
        tuples_put(tuple, TUPLE_IP, batch, &column);
    }
    if ((program->used & 1u << DIMENSION_PORT) != 0) {
        column_ports(&dimension[DIMENSION_PORT], batch, &column);
        tuples_put(tuple, TUPLE_PORT, batch, &column);
    }
    if ((program->used & 1u << DIMENSION_MAC) != 0) {
        column_macs(&dimension[DIMENSION_MAC], batch, &column);
        tuples_put(tuple, TUPLE_MAC, batch, &column);
    }
    if ((program->used & 1u << DIMENSION_VLAN) != 0) {
        for (uint32_t i = 0; i < batch->count; i++)
            tuple[i].place[TUPLE_TAG] = tag_class(&dimension[DIMENSION_VLAN], &batch->decoded[i]);
    }
}

/* Whether a packet has more values than a tuple has places. */
static inline bool beyond_tuples(const struct rule_program *program,
                                 const struct decoded_packet *decoded)
{
    const uint32_t inner = 1u << DIMENSION_INNER_IP | 1u << DIMENSION_INNER_PORT;
    return decoded->tags > 1 ||
           ((program->used & inner) != 0 &&
            (decoded->levels > 1 || (decoded->level[0].flags & LEVEL_INNER) != 0));
}

static inline uint32_t tuple_hash(const struct tuple *tuple)
{
    uint64_t mixed = tuple->pair[0] * UINT64_C(0x9e3779b97f4a7c15);
    mixed ^= tuple->pair[1] * UINT64_C(0xbf58476d1ce4e5b9);
    mixed ^= tuple->pair[2] * UINT64_C(0x94d049bb133111eb);
    mixed ^= tuple->pair[3] * UINT64_C(0xd6e8feb86659fd93);
    return (uint32_t)(mixed >> 32) % REMEMBERED;
}

static inline bool tuple_equal(const struct tuple *a, const struct tuple *b)
{
    return ((a->pair[0] ^ b->pair[0]) | (a->pair[1] ^ b->pair[1]) | (a->pair[2] ^ b->pair[2]) |
            (a->pair[3] ^ b->pair[3])) == 0;
}

/*
 * Longer lists. Of all the values that packets have, rules tell few apart, so that the same few
 * tuples of classes come again and again: mostly the one for which nothing holds, whose rule is
 * known beforehand. What others matched is remembered. Traffic that is made to miss costs what it
 * would without.
 */
static void match_tuples(struct rule_state *state, struct batch *batch)
{
    const struct rule_program *program = state->program;
    struct tuple tuple[RULE_BATCH];
    batch_tuples(program, batch, tuple);
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct view *view = batch_view(batch, i);
        struct tuple *own = &tuple[i];
        if (beyond_tuples(program, &batch->decoded[i])) {
            batch->rule[i] =
                match_any(program, view, &batch->packet[i], &batch->decoded[i], RULE_VERDICT_NONE);
            continue;
        }
        if ((own->pair[0] | own->pair[1] | own->pair[2] | own->pair[3]) == 0) {
            batch->rule[i] = view->rule_when_quiet;
            continue;
        }
        own->place[TUPLE_VIEW] = view == &state->nowhere ? 0 : (uint32_t)(view - state->view) + 1;
        struct remembered *remembered = &state->remembered[tuple_hash(own)];
        if (!tuple_equal(&remembered->tuple, own)) {
            remembered->rule =
                match_any(program, view, &batch->packet[i], &batch->decoded[i], RULE_VERDICT_NONE);
            remembered->tuple = *own;
        }
        batch->rule[i] = remembered->rule;
    }
}

/*
 * Where rules ask for much of the traffic, the sieve leaves much of it, and was for nothing: then
 * it is only tried now and again.
 */
#define SIEVE_PAUSE 15u /* batches */
#define SIEVE_LEFT_MAX (RULE_BATCH / 2)

static inline bool sieve_is_due(struct rule_state *state, const struct view *view)
{
    if (!view->sieved || state->sieve_pause == 0)
        return view->sieved;
    state->sieve_pause--;
    return false;
}

static inline uint32_t sieve_batch(struct rule_state *state, const struct packet *packet,
                                   uint32_t count, uint32_t behind, uint8_t left[RULE_BATCH])
{
    uint32_t lefts = sieve_pass(state->program->sieve, packet, count, behind, left);
    if (lefts > SIEVE_LEFT_MAX)
        state->sieve_pause = SIEVE_PAUSE;
    return lefts;
}

/*
 * Packets that were decoded for somebody else, and most of which are quiet: the rest is matched one
 * by one. False: too many are left for that, or there are too few in all.
 */
#define SIEVE_ONE_BY_ONE 8u

static bool match_sieved(struct rule_state *state, struct batch *batch)
{
    const struct view *view = batch->view_of_all;
    uint8_t left[RULE_BATCH];
    if (batch->count < SIEVE_ONE_BY_ONE || view == NULL || !sieve_is_due(state, view))
        return false;
    uint32_t lefts = sieve_batch(state, batch->packet, batch->count, 0, left);
    if (lefts > SIEVE_ONE_BY_ONE)
        return false;
    for (uint32_t i = 0; i < batch->count; i++)
        batch->rule[i] = view->rule_when_quiet;
    for (uint32_t k = 0; k < lefts; k++) {
        uint32_t i = left[k];
        batch->rule[i] = match_any(state->program, view, &batch->packet[i], &batch->decoded[i],
                                   RULE_VERDICT_NONE);
    }
    return true;
}

static void match_batch(struct rule_state *state, const struct rule_verdict *verdict,
                        struct batch *batch)
{
    const struct rule_program *program = state->program;
    if (program->used == 0 && program->expressions == 0) { /* there may be no `decoded` */
        for (uint32_t i = 0; i < batch->count; i++)
            batch->rule[i] = batch_view(batch, i)->rule_when_quiet;
    } else if (program->one_word) {
        match_one_word(program, batch);
    } else if (program->by_tuples) {
        match_tuples(state, batch);
    } else {
        for (uint32_t i = 0; i < batch->count; i++)
            batch->rule[i] =
                match_any(program, batch_view(batch, i), &batch->packet[i], &batch->decoded[i],
                          verdict != NULL ? verdict[i] : RULE_VERDICT_NONE);
    }
}

/* ---- actions ------------------------------------------------------------------------------- */

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t add_limited(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

/*
 * `flow N`: whole packets until the connection has had N bytes, counting what it had before this
 * packet. Without a connection there is nothing to count, and the packet is kept.
 */
static bool flow_is_over(struct rule_state *state, uint32_t bytes, const struct packet *packet,
                         const struct decoded_packet *decoded)
{
    const struct decoded_level *level = decoded_innermost(decoded);
    uint64_t hash;
    if (!decoded_flow_hash(packet->bytes, decoded, state->seed, &hash))
        return false;
    bool tcp = (level->flags & LEVEL_TCP_FLAGS) != 0;
    bool anew = tcp && (level->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    uint32_t before = flow_bytes_add(state->flows, hash, packet->captured_bytes, packet->time_ns,
                                     RULE_FLOW_IDLE_S, anew);
    if (tcp && (level->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) != 0)
        return false;
    return before >= bytes;
}

static void act(struct rule_state *state, struct action action, const struct packet *packet,
                const struct decoded_packet *decoded, struct rule_outcome *outcome)
{
    uint64_t hash;
    uint32_t keep = packet->captured_bytes;
    switch (action.kind) {
    case ACTION_FULL:
        return; /* as the outcome says already */
    case ACTION_DISCARD:
        outcome->decision = RULE_DISCARD;
        break;
    case ACTION_SNAP:
        keep = least(keep, action.number);
        break;
    case ACTION_HEADERS_L3:
        keep = least(keep, decoded->l3_end);
        break;
    case ACTION_HEADERS_L3_L4:
        keep = least(keep, add_limited(decoded->l4_end, action.number));
        break;
    case ACTION_FLOW:
        if (flow_is_over(state, action.number, packet, decoded))
            outcome->decision = RULE_DISCARD;
        break;
    case ACTION_SAMPLE:
        if (decoded_flow_hash(packet->bytes, decoded, state->seed, &hash) &&
            hash % action.number != 0)
            outcome->decision = RULE_SAMPLED_OUT;
        break;
    }
    outcome->keep_bytes = outcome->decision == RULE_STORE ? keep : 0;
    outcome->cut = outcome->decision == RULE_STORE && keep < packet->captured_bytes;
}

/*
 * One writer: no read-modify-write that other processors would have to see. Totals are bumped
 * before their parts and read after them, so that no reader sees a part that is larger than its
 * total.
 */
static inline void bump(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_release);
}

static inline void count(struct tally *tally, uint32_t captured_bytes,
                         const struct rule_outcome *outcome)
{
    bump(&tally->packets, 1);
    bump(&tally->bytes, captured_bytes);
    if (outcome->decision != RULE_STORE) {
        bump(&tally->discarded_packets, 1);
        bump(&tally->discarded_bytes, captured_bytes);
    } else if (outcome->cut) {
        bump(&tally->cut_packets, 1);
        bump(&tally->cut_bytes, captured_bytes - outcome->keep_bytes);
    }
}

static inline const struct view *view_of(const struct rule_state *state, uint32_t interface)
{
    if (interface < state->views && state->view[interface].mask != NULL)
        return &state->view[interface];
    return &state->nowhere;
}

/* Does to a packet what a rule says, and counts it. Without layer 7, `verdict` may be null. */
static inline void apply_one(struct rule_state *state, uint32_t rule, const struct packet *packet,
                             const struct decoded_packet *decoded,
                             const struct rule_verdict *verdict, struct rule_outcome *outcome)
{
    const struct compiled_action *action = &state->program->action[rule];
    *outcome = (struct rule_outcome){.rule = rule, .keep_bytes = packet->captured_bytes};
    if (action->has_app && verdict != NULL && verdict->unknown && decoded->levels > 0)
        act(state, action->until_known, packet, decoded, outcome);
    else
        act(state, action->action, packet, decoded, outcome);
    count(&state->tally[rule], packet->captured_bytes, outcome);
}

static inline bool keeps_whole(const struct rule_state *state, uint32_t rule)
{
    const struct compiled_action *action = &state->program->action[rule];
    return !action->has_app && action->action.kind == ACTION_FULL;
}

/* Counts packets that one rule keeps whole, at once. */
static void count_whole(struct rule_state *state, uint32_t rule, const struct packet *packet,
                        uint32_t count, struct rule_outcome *outcome)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += packet[i].captured_bytes;
    bump(&state->tally[rule].packets, count);
    bump(&state->tally[rule].bytes, bytes);
    *outcome = (struct rule_outcome){.rule = rule, .keep_bytes = packet->captured_bytes};
}

/* Whether all packets of a batch are that rule's. */
static inline bool all_of(const struct batch *batch, uint32_t rule)
{
    uint32_t unlike = 0;
    for (uint32_t i = 0; i < batch->count; i++)
        unlike |= batch->rule[i] ^ rule;
    return unlike == 0;
}

/* Mostly all are of one interface. */
static void batch_views(const struct rule_state *state, struct batch *batch)
{
    uint16_t interface = batch->packet[0].interface, unlike = 0;
    for (uint32_t i = 1; i < batch->count; i++)
        unlike |= batch->packet[i].interface ^ interface;
    batch->view_of_all = unlike == 0 ? view_of(state, interface) : NULL;
    for (uint32_t i = 0; unlike != 0 && i < batch->count; i++)
        batch->view[i] = view_of(state, batch->packet[i].interface);
}

/* rule_state_apply_alike(), with the sieve or without. */
static inline bool apply_batch(struct rule_state *state, const struct packet *packet,
                               const struct decoded_packet *decoded,
                               const struct rule_verdict *verdict, uint32_t count, bool sieved,
                               struct rule_outcome *outcome)
{
    struct batch batch;
    batch.packet = packet;
    batch.decoded = decoded;
    batch.count = count;
    batch_views(state, &batch);
    if (!sieved || !match_sieved(state, &batch))
        match_batch(state, verdict, &batch);
    /* Most lists keep most packets whole. */
    if (keeps_whole(state, batch.rule[0]) && all_of(&batch, batch.rule[0])) {
        count_whole(state, batch.rule[0], packet, count, outcome);
        return true;
    }
    for (uint32_t i = 0; i < count; i++)
        apply_one(state, batch.rule[i], &packet[i], decoded != NULL ? &decoded[i] : NULL,
                  verdict != NULL ? &verdict[i] : NULL, &outcome[i]);
    return false;
}

bool rule_state_apply_alike(struct rule_state *state, const struct packet *packet,
                            const struct decoded_packet *decoded,
                            const struct rule_verdict *verdict, uint32_t count,
                            struct rule_outcome *outcome)
{
    return apply_batch(state, packet, decoded, verdict, count, true, outcome);
}

/* ---- packets that nobody has decoded -------------------------------------------------------- */

/* As rule_state_judge(), all the long way. */
static __attribute__((noinline)) bool judge_decoded(struct rule_state *state,
                                                    const struct packet *packet, uint32_t count,
                                                    uint32_t behind, const uint16_t *link_type,
                                                    struct rule_outcome *outcome)
{
    struct decoded_packet decoded[RULE_BATCH];
    decode_batch(packet, count, behind, link_type, decoded);
    return apply_batch(state, packet, decoded, NULL, count, false, outcome);
}

/*
 * The sieve has left some: these are decoded and matched, together. The others are the quiet
 * rule's.
 */
static __attribute__((noinline)) bool judge_left(struct rule_state *state, uint32_t quiet_rule,
                                                 const struct packet *packet, uint32_t count,
                                                 const uint16_t *link_type, const uint8_t *left,
                                                 uint32_t lefts, struct rule_outcome *outcome)
{
    struct packet some[RULE_BATCH];
    struct decoded_packet decoded[RULE_BATCH];
    struct batch batch;
    for (uint32_t k = 0; k < lefts; k++)
        some[k] = packet[left[k]];
    decode_batch(some, lefts, 0, link_type, decoded);
    batch.packet = some;
    batch.decoded = decoded;
    batch.count = lefts;
    batch_views(state, &batch);
    match_batch(state, NULL, &batch);
    if (keeps_whole(state, quiet_rule) && all_of(&batch, quiet_rule)) {
        count_whole(state, quiet_rule, packet, count, outcome);
        return true;
    }
    for (uint32_t i = 0, k = 0; i < count; i++) {
        if (k < lefts && left[k] == i) {
            apply_one(state, batch.rule[k], &some[k], &decoded[k], NULL, &outcome[i]);
            k++;
        } else {
            apply_one(state, quiet_rule, &packet[i], NULL, NULL, &outcome[i]);
        }
    }
    return false;
}

static bool judge_quiet(struct rule_state *state, uint32_t quiet_rule, const struct packet *packet,
                        uint32_t count, struct rule_outcome *outcome)
{
    if (keeps_whole(state, quiet_rule)) {
        count_whole(state, quiet_rule, packet, count, outcome);
        return true;
    }
    for (uint32_t i = 0; i < count; i++)
        apply_one(state, quiet_rule, &packet[i], NULL, NULL, &outcome[i]);
    return false;
}

/* For programs that do not look at headers: where there are no expressions, all are quiet. */
static bool judge_headless(struct rule_state *state, const struct view *view,
                           const struct packet *packet, uint32_t count,
                           struct rule_outcome *outcome)
{
    uint32_t unlike = state->program->expressions;
    for (uint32_t i = 1; i < count; i++)
        unlike |= packet[i].interface ^ packet->interface;
    if (unlike != 0)
        return rule_state_apply_alike(state, packet, NULL, NULL, count, outcome);
    return judge_quiet(state, view->rule_when_quiet, packet, count, outcome);
}

static bool judge_sieved(struct rule_state *state, const struct view *view,
                         const struct packet *packet, uint32_t count, uint32_t behind,
                         const uint16_t *link_type, struct rule_outcome *outcome)
{
    uint8_t left[RULE_BATCH];
    uint32_t lefts = sieve_batch(state, packet, count, behind, left);
    if (lefts > 0)
        return judge_left(state, view->rule_when_quiet, packet, count, link_type, left, lefts,
                          outcome);
    return judge_quiet(state, view->rule_when_quiet, packet, count, outcome);
}

bool rule_state_judge(struct rule_state *state, const struct packet *packet, uint32_t count,
                      uint32_t behind, const uint16_t *link_type, struct rule_outcome *outcome)
{
    const struct view *view = view_of(state, packet->interface);
    if (!state->program->needs_decoding)
        return judge_headless(state, view, packet, count, outcome);
    if (!sieve_is_due(state, view))
        return judge_decoded(state, packet, count, behind, link_type, outcome);
    return judge_sieved(state, view, packet, count, behind, link_type, outcome);
}

/* ---- packets that were decoded -------------------------------------------------------------- */

void rule_state_apply_batch(struct rule_state *state, const struct packet *packet,
                            const struct decoded_packet *decoded,
                            const struct rule_verdict *verdict, uint32_t count,
                            struct rule_outcome *outcome)
{
    for (uint32_t from = 0, some; from < count; from += some) {
        some = least(count - from, RULE_BATCH);
        if (!rule_state_apply_alike(state, packet + from, decoded != NULL ? decoded + from : NULL,
                                    verdict != NULL ? verdict + from : NULL, some, outcome + from))
            continue;
        for (uint32_t i = from + 1; i < from + some; i++) {
            outcome[i] = outcome[from];
            outcome[i].keep_bytes = packet[i].captured_bytes;
        }
    }
}

void rule_state_apply(struct rule_state *state, const struct packet *packet,
                      const struct decoded_packet *decoded, struct rule_verdict verdict,
                      struct rule_outcome *outcome)
{
    rule_state_apply_batch(state, packet, decoded, &verdict, 1, outcome);
}
