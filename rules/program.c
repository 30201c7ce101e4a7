/*
 * program.c - from a list to the tables of program_inside.h, and a thread's state: everything but
 * the packet path, which is matching.c.
 */
#include "program.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "program_inside.h"

/* ---- bits ---------------------------------------------------------------------------------- */

static inline void bit_set(uint64_t *words, uint32_t bit)
{
    words[bit / 64] |= UINT64_C(1) << bit % 64;
}

static inline void bit_clear(uint64_t *words, uint32_t bit)
{
    words[bit / 64] &= ~(UINT64_C(1) << bit % 64);
}

static uint64_t summarize(const uint64_t *words, uint32_t count)
{
    uint64_t summary = 0;
    for (uint32_t i = 0; i < count; i++)
        summary |= (uint64_t)(words[i] != 0) << i;
    return summary;
}

/* ---- building: what a rule's conditions are ------------------------------------------------ */

static int dimension_of(const struct condition *condition)
{
    switch (condition->kind) {
    case CONDITION_MAC:
        return DIMENSION_MAC;
    case CONDITION_IP:
        return condition->inner ? DIMENSION_INNER_IP : DIMENSION_IP;
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
    case CONDITION_PORT:
        return condition->inner ? DIMENSION_INNER_PORT : DIMENSION_PORT;
    case CONDITION_VLAN:
        return DIMENSION_VLAN;
    case CONDITION_APP:
        return DIMENSION_APP;
    default:
        return -1;
    }
}

/* Calls `each` for every condition of a dimension, with its slot. */
struct walk {
    const struct condition *condition;
    uint32_t rule;
    uint32_t slot;
};

static bool walk_next(const struct rule_program *program, enum dimension_kind kind,
                      uint32_t *condition, struct walk *walk)
{
    while (walk->rule < program->rules) {
        const struct rule *rule = &program->list.rule[walk->rule];
        while (*condition < rule->conditions) {
            walk->condition = &rule->condition[(*condition)++];
            if (dimension_of(walk->condition) != (int)kind)
                continue;
            walk->slot++;
            return true;
        }
        walk->rule++;
        walk->slot = UINT32_MAX; /* the next one is slot 0 */
        *condition = 0;
    }
    return false;
}

#define WALK_BEGIN          \
    {                       \
        NULL, 0, UINT32_MAX \
    }

static uint32_t class_bit(const struct rule_program *program, const struct walk *walk)
{
    return walk->slot * program->words * 64 + walk->rule;
}

static bool app_known(const struct rule_program_options *options, const char *name,
                      uint32_t *number)
{
    for (uint32_t i = 0; i < options->apps; i++) {
        if (strcasecmp(options->app[i], name) == 0) {
            *number = i + 1;
            return true;
        }
    }
    return false;
}

static int check_app(const struct rule_program_options *options, uint32_t rule,
                     const struct condition *condition, struct failure *failure)
{
    uint32_t number;
    if (options->app == NULL)
        return fail(failure, ERR_UNSUPPORTED,
                    "rule %u: `app %s` needs layer-7 detection, which is not available here",
                    rule + 1, condition->text);
    if (!app_known(options, condition->text, &number))
        return fail(failure, ERR_INVALID,
                    "rule %u, column %u: layer-7 detection knows no protocol '%s'", rule + 1,
                    condition->column, condition->text);
    return 0;
}

/* ---- building: tables ---------------------------------------------------------------------- */

static int build_addresses(struct rule_program *program, enum dimension_kind kind,
                           struct bit_classes *classes)
{
    struct dimension *dimension = &program->dimension[kind];
    uint32_t count[2] = {0, 0}, condition = 0, total = 0;
    for (struct walk walk = WALK_BEGIN; walk_next(program, kind, &condition, &walk);)
        total++;
    struct prefix *prefix[2] = {calloc(total + 1, sizeof **prefix),
                                calloc(total + 1, sizeof **prefix)};
    int result = prefix[0] == NULL || prefix[1] == NULL ? ERR_NO_MEMORY : 0;
    condition = 0;
    for (struct walk walk = WALK_BEGIN;
         result == 0 && walk_next(program, kind, &condition, &walk);) {
        unsigned version = walk.condition->version == 6;
        struct prefix *next = &prefix[version][count[version]++];
        memcpy(next->key, walk.condition->address, sizeof next->key);
        next->bits = walk.condition->prefix_bits;
        next->bit = class_bit(program, &walk);
    }
    for (unsigned i = 0; i < 2 && result == 0; i++) {
        uint32_t key_bytes = kind == DIMENSION_MAC ? 6 : i == 0 ? 4 : 16;
        result = prefix_table_open(&dimension->address[i], prefix[i], count[i], key_bytes, classes,
                                   RULE_PROGRAM_BYTES_MAX / 4);
    }
    free(prefix[0]);
    free(prefix[1]);
    return result;
}

struct edge { /* a port from which on a bit is another */
    uint32_t port;
    uint32_t bit;
};

static int by_port(const void *a, const void *b)
{
    const struct edge *left = a, *right = b;
    return left->port < right->port ? -1 : left->port > right->port;
}

static bool concerns(const struct condition *condition, enum transport transport)
{
    switch (condition->kind) {
    case CONDITION_TCP_PORT:
        return transport == TRANSPORT_TCP;
    case CONDITION_UDP_PORT:
        return transport == TRANSPORT_UDP;
    default:
        return true;
    }
}

/* Gives a transport's classes, one for each port, their place in the table. */
static int add_pages(struct port_table *table, enum transport transport, const uint32_t *class)
{
    for (uint32_t i = 0; i < PORTS / PAGE_PORTS; i++) {
        const uint32_t *page = class + i * PAGE_PORTS;
        uint32_t number = 0;
        while (number < table->pages &&
               memcmp(table->class + number * PAGE_PORTS, page, PAGE_PORTS * sizeof *page) != 0)
            number++;
        if (number == table->pages) {
            uint32_t *grown =
                realloc(table->class, (size_t)(number + 1) * PAGE_PORTS * sizeof *grown);
            if (grown == NULL)
                return ERR_NO_MEMORY;
            memcpy(grown + number * PAGE_PORTS, page, PAGE_PORTS * sizeof *page);
            table->class = grown;
            table->pages++;
        }
        table->page[transport][i] = (uint16_t)number;
    }
    return 0;
}

static int build_transport(struct rule_program *program, enum dimension_kind kind,
                           enum transport transport, struct bit_classes *classes)
{
    uint32_t condition = 0, edges = 0, next = 0, number = 0;
    for (struct walk walk = WALK_BEGIN; walk_next(program, kind, &condition, &walk);)
        edges += concerns(walk.condition, transport) ? 2 : 0;
    struct edge *edge = malloc((edges + 1) * sizeof *edge);
    uint64_t *set = calloc(classes->words, sizeof *set);
    uint32_t *class = malloc(PORTS * sizeof *class);
    int result = 0;
    if (edge == NULL || set == NULL || class == NULL) {
        result = ERR_NO_MEMORY;
        goto done;
    }
    edges = 0;
    condition = 0;
    for (struct walk walk = WALK_BEGIN; walk_next(program, kind, &condition, &walk);) {
        if (!concerns(walk.condition, transport))
            continue;
        uint32_t bit = class_bit(program, &walk);
        edge[edges++] = (struct edge){walk.condition->low, bit};
        edge[edges++] = (struct edge){walk.condition->high + 1u, bit};
    }
    qsort(edge, edges, sizeof *edge, by_port);
    for (uint32_t port = 0; port < PORTS && result == 0; port++) {
        bool changed = false;
        for (; next < edges && edge[next].port == port; next++) {
            set[edge[next].bit / 64] ^= UINT64_C(1) << edge[next].bit % 64;
            changed = true;
        }
        if (changed)
            result = bit_classes_add(classes, set, RULE_PROGRAM_BYTES_MAX / 4, &number);
        class[port] = number;
    }
    if (result == 0)
        result = add_pages(program->dimension[kind].port, transport, class);
done:
    free(edge);
    free(set);
    free(class);
    return result;
}

static int build_ports(struct rule_program *program, enum dimension_kind kind,
                       struct bit_classes *classes)
{
    struct dimension *dimension = &program->dimension[kind];
    dimension->port = calloc(1, sizeof *dimension->port);
    if (dimension->port == NULL)
        return ERR_NO_MEMORY;
    dimension->port->class = calloc(PAGE_PORTS, sizeof *dimension->port->class);
    if (dimension->port->class == NULL)
        return ERR_NO_MEMORY;
    dimension->port->pages = 1;
    int result = 0;
    for (enum transport transport = TRANSPORT_TCP; transport < TRANSPORTS && result == 0;
         transport++)
        result = build_transport(program, kind, transport, classes);
    return result;
}

/* Values that are small numbers: sets are gathered for all of them, then classed. */
static int build_numbers(struct rule_program *program, enum dimension_kind kind, uint32_t values,
                         const struct rule_program_options *options, struct bit_classes *classes)
{
    struct dimension *dimension = &program->dimension[kind];
    uint64_t *set = calloc(classes->words, sizeof *set);
    dimension->number = calloc(values, sizeof *dimension->number);
    int result = set == NULL || dimension->number == NULL ? ERR_NO_MEMORY : 0;
    uint32_t condition = 0;
    for (struct walk walk = WALK_BEGIN;
         result == 0 && walk_next(program, kind, &condition, &walk);) {
        uint32_t value = walk.condition->low;
        if (kind == DIMENSION_APP)
            app_known(options, walk.condition->text, &value);
        memcpy(set, bit_classes_get(classes, dimension->number[value]),
               classes->words * sizeof *set);
        bit_set(set, class_bit(program, &walk));
        result =
            bit_classes_add(classes, set, RULE_PROGRAM_BYTES_MAX / 4, &dimension->number[value]);
    }
    free(set);
    return result;
}

static int build_base(struct rule_program *program, enum dimension_kind kind)
{
    struct dimension *dimension = &program->dimension[kind];
    uint32_t words = program->words, condition = 0;
    dimension->base = malloc((size_t)dimension->slots * words * sizeof *dimension->base);
    dimension->base_summary = calloc(dimension->slots, sizeof *dimension->base_summary);
    if (dimension->base == NULL || dimension->base_summary == NULL)
        return ERR_NO_MEMORY;
    memset(dimension->base, 0xff, (size_t)dimension->slots * words * sizeof *dimension->base);
    for (struct walk walk = WALK_BEGIN; walk_next(program, kind, &condition, &walk);) {
        if (!walk.condition->negated)
            bit_clear(dimension->base + (size_t)walk.slot * words, walk.rule);
    }
    for (uint32_t slot = 0; slot < dimension->slots; slot++)
        dimension->base_summary[slot] = summarize(dimension->base + (size_t)slot * words, words);
    return 0;
}

/* Turns classes, each a set for every slot, into what is matched with. */
static int build_sets(struct rule_program *program, struct dimension *dimension,
                      const struct bit_classes *classes)
{
    uint32_t words = program->words;
    size_t entries = (size_t)classes->count * dimension->slots;
    if (words == 1) { /* a class is one word for each slot already */
        dimension->mask = malloc(entries * sizeof *dimension->mask);
        if (dimension->mask == NULL)
            return ERR_NO_MEMORY;
        memcpy(dimension->mask, classes->bits, entries * sizeof *dimension->mask);
        return 0;
    }
    struct bit_classes sets;
    int result = bit_classes_open(&sets, words);
    if (result < 0)
        return result;
    dimension->set_of = malloc(entries * sizeof *dimension->set_of);
    if (dimension->set_of == NULL)
        result = ERR_NO_MEMORY;
    for (size_t i = 0; i < entries && result == 0; i++)
        result = bit_classes_add(&sets, classes->bits + i * words, RULE_PROGRAM_BYTES_MAX / 4,
                                 &dimension->set_of[i]);
    if (result == 0) {
        dimension->set = malloc((size_t)sets.count * (words + 1) * sizeof *dimension->set);
        result = dimension->set == NULL ? ERR_NO_MEMORY : 0;
    }
    for (uint32_t i = 0; i < sets.count && result == 0; i++) {
        uint64_t *set = dimension->set + (size_t)i * (words + 1);
        set[0] = summarize(bit_classes_get(&sets, i), words);
        memcpy(set + 1, bit_classes_get(&sets, i), words * sizeof *set);
    }
    bit_classes_close(&sets);
    return result;
}

static int build_dimension(struct rule_program *program, enum dimension_kind kind,
                           const struct rule_program_options *options)
{
    struct dimension *dimension = &program->dimension[kind];
    uint32_t condition = 0;
    for (struct walk walk = WALK_BEGIN; walk_next(program, kind, &condition, &walk);)
        dimension->slots = walk.slot + 1 > dimension->slots ? walk.slot + 1 : dimension->slots;
    if (dimension->slots == 0)
        return 0;
    struct bit_classes classes;
    int result = bit_classes_open(&classes, dimension->slots * program->words);
    if (result < 0)
        return result;
    switch (kind) {
    case DIMENSION_PORT:
    case DIMENSION_INNER_PORT:
        result = build_ports(program, kind, &classes);
        break;
    case DIMENSION_VLAN:
        result = build_numbers(program, kind, VLANS, options, &classes);
        break;
    case DIMENSION_APP:
        result = build_numbers(program, kind, options->apps + 1, options, &classes);
        break;
    default:
        result = build_addresses(program, kind, &classes);
    }
    if (result == 0)
        result = build_base(program, kind);
    if (result == 0)
        result = build_sets(program, dimension, &classes);
    bit_classes_close(&classes);
    return result;
}

/* What each subset of the dimensions leaves where none of its conditions holds. */
static int build_quiet(struct rule_program *program)
{
    uint32_t words = program->words, stride = words + 1;
    program->quiet = malloc((size_t)stride * (1u << DIMENSIONS) * sizeof *program->quiet);
    if (program->quiet == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t subset = 0; subset < 1u << DIMENSIONS; subset++) {
        uint64_t *quiet = program->quiet + (size_t)subset * stride;
        memset(quiet, 0xff, stride * sizeof *quiet);
        for (uint32_t kind = 0; kind < DIMENSIONS; kind++) {
            const struct dimension *dimension = &program->dimension[kind];
            for (uint32_t i = 0; (subset >> kind & 1) != 0 && i < dimension->slots * words; i++)
                quiet[1 + i % words] &= dimension->base[i];
        }
        quiet[0] = summarize(quiet + 1, words);
    }
    program->one_word = words == 1 && program->expressions == 0;
    for (uint32_t kind = 0; kind < DIMENSIONS; kind++) {
        uint32_t slots = program->dimension[kind].slots;
        program->used |= (uint32_t)(slots > 0) << kind;
        program->one_word &= slots <= (kind < DIMENSION_APP ? 1 : 0);
    }
    program->by_tuples = program->expressions == 0 && !program->needs_app;
    return 0;
}

/* ---- building: expressions ----------------------------------------------------------------- */

/* LINKTYPE_ numbers are DLT_ numbers but for these (pcap-linktype(7)). */
static int dlt_of(uint16_t link_type)
{
    switch (link_type) {
    case LINK_RAW:
    case LINK_RAW_BSD:
    case LINK_RAW_OPENBSD:
        return DLT_RAW;
    case LINK_ATM_RFC1483:
        return DLT_ATM_RFC1483;
    case 102:
        return DLT_SLIP_BSDOS;
    case 103:
        return DLT_PPP_BSDOS;
    case 106:
        return DLT_ATM_CLIP;
    default:
        return link_type;
    }
}

static void expressions_close(struct expressions **list, uint32_t count)
{
    while (*list != NULL) {
        struct expressions *first = *list;
        *list = first->next;
        for (uint32_t i = 0; first->filter != NULL && i < count; i++)
            pcap_freecode(&first->filter[i]);
        free(first->filter);
        free(first->compiled);
        free(first);
    }
}

static const struct expressions *expressions_find(const struct expressions *list,
                                                  uint16_t link_type)
{
    while (list != NULL && list->link_type != link_type)
        list = list->next;
    return list;
}

/* Whether a filter jumps backwards. Only `protochain` makes libpcap do that; nothing bounds it. */
static bool loops(const struct bpf_program *filter)
{
    for (unsigned i = 0; i < filter->bf_len; i++) {
        const struct bpf_insn *instruction = &filter->bf_insns[i];
        if (instruction->code == (BPF_JMP | BPF_JA) && (int32_t)instruction->k < 0)
            return true;
    }
    return false;
}

static void set_sorry(char (*sorry)[PCAP_ERRBUF_SIZE], uint32_t expression, const char *why)
{
    if (sorry != NULL)
        snprintf(sorry[expression], PCAP_ERRBUF_SIZE, "%s", why);
}

/* Compiles all expressions for a link type, and puts them before the list. What does not compile is
 * marked so; `sorry` (may be null) then gets libpcap's sentence. */
static int expressions_compile(const struct rule_program *program, uint16_t link_type,
                               struct expressions **list, char (*sorry)[PCAP_ERRBUF_SIZE])
{
    struct expressions *made = calloc(1, sizeof *made);
    if (made == NULL)
        return ERR_NO_MEMORY;
    made->link_type = link_type;
    made->next = *list;
    made->filter = calloc(program->expressions + 1, sizeof *made->filter);
    made->compiled = calloc(program->expressions + 1, sizeof *made->compiled);
    *list = made;
    pcap_t *dead = pcap_open_dead(dlt_of(link_type), (int)PACKET_CAPTURED_MAX);
    if (made->filter == NULL || made->compiled == NULL || dead == NULL) {
        if (dead != NULL)
            pcap_close(dead);
        return ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < program->expressions; i++) {
        if (pcap_compile(dead, &made->filter[i], program->expression[i], 1, PCAP_NETMASK_UNKNOWN) !=
            0)
            set_sorry(sorry, i, pcap_geterr(dead));
        else if (loops(&made->filter[i]))
            set_sorry(sorry, i,
                      "'protochain' loops, and a hostile packet can make it loop for ever");
        else
            made->compiled[i] = true;
    }
    pcap_close(dead);
    return 0;
}

static uint32_t expression_number(struct rule_program *program, const char *text)
{
    for (uint32_t i = 0; i < program->expressions; i++) {
        if (strcmp(program->expression[i], text) == 0)
            return i;
    }
    program->expression[program->expressions] = text;
    return program->expressions++;
}

static int build_residue(struct rule_program *program)
{
    size_t total = 0;
    for (uint32_t i = 0; i < program->rules; i++) {
        for (uint32_t j = 0; j < program->list.rule[i].conditions; j++)
            total += program->list.rule[i].condition[j].kind == CONDITION_BPF;
    }
    program->residue = calloc(program->rules + 1, sizeof *program->residue);
    program->residual = calloc(total + 1, sizeof *program->residual);
    program->expression = calloc(total + 1, sizeof *program->expression);
    if (program->residue == NULL || program->residual == NULL || program->expression == NULL)
        return ERR_NO_MEMORY;
    uint32_t next = 0;
    for (uint32_t i = 0; i < program->rules; i++) {
        const struct rule *rule = &program->list.rule[i];
        program->residue[i].first = next;
        for (uint32_t j = 0; j < rule->conditions; j++) {
            if (rule->condition[j].kind != CONDITION_BPF)
                continue;
            program->residual[next++] = (struct residual){
                expression_number(program, rule->condition[j].text), rule->condition[j].negated};
            bit_set(program->bpf, i);
        }
        program->residue[i].count = next - program->residue[i].first;
    }
    return 0;
}

/* Every expression must compile for one of the link types that are known now. */
static int check_expressions(struct rule_program *program, struct failure *failure,
                             char (*sorry)[PCAP_ERRBUF_SIZE])
{
    for (uint32_t i = 0; i < program->rules; i++) {
        const struct rule *rule = &program->list.rule[i];
        for (uint32_t j = 0; j < rule->conditions; j++) {
            const struct condition *condition = &rule->condition[j];
            if (condition->kind != CONDITION_BPF)
                continue;
            uint32_t number = expression_number(program, condition->text);
            bool good = false;
            for (const struct expressions *each = program->compiled; each != NULL;
                 each = each->next)
                good |= each->compiled[number];
            if (!good)
                return fail(failure, ERR_INVALID, "rule %u, column %u: bpf '%.200s': %.200s", i + 1,
                            condition->column, condition->text, sorry[number]);
        }
    }
    return 0;
}

static int build_expressions(struct rule_program *program,
                             const struct rule_program_options *options, struct failure *failure)
{
    static const uint16_t ethernet = LINK_ETHERNET;
    int result = build_residue(program);
    if (result < 0 || program->expressions == 0)
        return result;
    const uint16_t *link_type = options->link_types > 0 ? options->link_type : &ethernet;
    uint32_t link_types = options->link_types > 0 ? options->link_types : 1;
    char(*sorry)[PCAP_ERRBUF_SIZE] = calloc(program->expressions, sizeof *sorry);
    if (sorry == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < link_types && result == 0; i++) {
        if (expressions_find(program->compiled, link_type[i]) == NULL)
            result = expressions_compile(program, link_type[i], &program->compiled, sorry);
    }
    if (result == 0)
        result = check_expressions(program, failure, sorry);
    free(sorry);
    return result;
}

/* ---- building ------------------------------------------------------------------------------ */

static bool action_looks_at_headers(const struct action *action)
{
    switch (action->kind) {
    case ACTION_FULL:
    case ACTION_DISCARD:
    case ACTION_SNAP:
        return false;
    default:
        return true;
    }
}

static bool looks_at_headers(const struct rule *rule)
{
    if (action_looks_at_headers(&rule->action) || action_looks_at_headers(&rule->until_known))
        return true;
    for (uint32_t i = 0; i < rule->conditions; i++) {
        if (dimension_of(&rule->condition[i]) >= 0)
            return true;
    }
    return false;
}

static int build_rules(struct rule_program *program, const struct rule_program_options *options,
                       struct failure *failure)
{
    program->action = calloc(program->rules + 1, sizeof *program->action);
    program->possible = calloc(program->words, sizeof *program->possible);
    program->bpf = calloc(program->words, sizeof *program->bpf);
    if (program->action == NULL || program->possible == NULL || program->bpf == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < program->rules; i++) {
        const struct rule *rule = &program->list.rule[i];
        program->action[i + 1] = (struct compiled_action){rule->action, rule->until_known,
                                                          rule_has(rule, CONDITION_APP)};
        program->needs_decoding |= looks_at_headers(rule);
        program->needs_app |= program->action[i + 1].has_app;
        program->needs_flows |= rule->action.kind == ACTION_FLOW;
        program->needs_interface |=
            rule_has(rule, CONDITION_INTERFACE) || rule_has(rule, CONDITION_BPF);
        bit_set(program->possible, i);
        for (uint32_t j = 0; j < rule->conditions; j++) {
            const struct condition *condition = &rule->condition[j];
            if (condition->kind == CONDITION_ALL && condition->negated)
                bit_clear(program->possible, i);
            int result =
                condition->kind == CONDITION_APP ? check_app(options, i, condition, failure) : 0;
            if (result < 0)
                return result;
        }
    }
    return 0;
}

static void program_free(struct rule_program *program)
{
    for (uint32_t i = 0; i < DIMENSIONS; i++) {
        struct dimension *dimension = &program->dimension[i];
        free(dimension->base);
        free(dimension->base_summary);
        free(dimension->mask);
        free(dimension->set_of);
        free(dimension->set);
        free(dimension->number);
        prefix_table_close(&dimension->address[0]);
        prefix_table_close(&dimension->address[1]);
        if (dimension->port != NULL)
            free(dimension->port->class);
        free(dimension->port);
    }
    expressions_close(&program->compiled, program->expressions);
    sieve_close(&program->sieve);
    free(program->quiet);
    free(program->action);
    free(program->possible);
    free(program->bpf);
    free(program->residue);
    free(program->residual);
    free(program->expression);
    rule_list_clear(&program->list);
    free(program);
}

int rule_program_build(const struct rule_list *list, const struct rule_program_options *options,
                       struct rule_program **program, struct failure *failure)
{
    static const struct rule_program_options usual = {0};
    struct failure own = {0};
    *program = NULL;
    if (options == NULL)
        options = &usual;
    if (list->count > RULES_MAX)
        return fail(failure, ERR_TOO_LARGE, "a list holds at most %u rules", RULES_MAX);
    struct rule_program *made = calloc(1, sizeof *made);
    if (made == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory for a rule program");
    atomic_init(&made->holds, 1);
    int result = rule_list_copy(list, &made->list);
    made->rules = made->list.count;
    made->words = made->rules > 0 ? (made->rules + 63) / 64 : 1;
    made->apps = options->apps;
    if (result == 0)
        result = build_rules(made, options, &own);
    if (result == 0)
        result = build_expressions(made, options, &own);
    for (enum dimension_kind kind = 0; kind < DIMENSIONS && result == 0; kind++)
        result = build_dimension(made, kind, options);
    if (result == 0)
        result = build_quiet(made);
    const uint32_t inner = 1u << DIMENSION_INNER_IP | 1u << DIMENSION_INNER_PORT;
    if (result == 0 && made->by_tuples && (made->used & inner) == 0)
        result = sieve_open(&made->list, &made->sieve);
    if (result < 0) {
        program_free(made);
        if (own.text[0] != '\0')
            return fail(failure, result, "%s", own.text);
        if (result == ERR_TOO_LARGE)
            return fail(failure, result, "these rules would take more memory than a rule list may");
        return fail(failure, result, "no memory for a rule program");
    }
    *program = made;
    return 0;
}

struct rule_program *rule_program_hold(struct rule_program *program)
{
    atomic_fetch_add_explicit(&program->holds, 1, memory_order_relaxed);
    return program;
}

void rule_program_release(struct rule_program **program)
{
    struct rule_program *released = *program;
    *program = NULL;
    /* All that other holders did with it comes before the freeing. */
    if (released != NULL &&
        atomic_fetch_sub_explicit(&released->holds, 1, memory_order_acq_rel) == 1)
        program_free(released);
}

const struct rule_list *rule_program_list(const struct rule_program *program)
{
    return &program->list;
}

bool rule_program_needs_decoding(const struct rule_program *program)
{
    return program->needs_decoding;
}

bool rule_program_needs_app(const struct rule_program *program)
{
    return program->needs_app;
}

/* ---- state --------------------------------------------------------------------------------- */

/* A mask over the rules for an interface; null name: one that was not told of. */
static int view_make(const struct rule_program *program, const char *name,
                     const struct expressions *expressions, struct view *view)
{
    view->expressions = expressions;
    view->mask = malloc(program->words * sizeof *view->mask);
    if (view->mask == NULL)
        return ERR_NO_MEMORY;
    memcpy(view->mask, program->possible, program->words * sizeof *view->mask);
    for (uint32_t i = 0; i < program->rules && program->needs_interface; i++) {
        const struct rule *rule = &program->list.rule[i];
        for (uint32_t j = 0; j < rule->conditions; j++) {
            const struct condition *condition = &rule->condition[j];
            if (condition->kind == CONDITION_INTERFACE &&
                (name == NULL || (strcmp(condition->text, name) == 0) == condition->negated))
                bit_clear(view->mask, i);
        }
        const struct residue *residue = &program->residue[i];
        for (uint32_t j = 0; j < residue->count; j++) {
            if (expressions == NULL ||
                !expressions->compiled[program->residual[residue->first + j].expression])
                bit_clear(view->mask, i);
        }
    }
    view->summary = summarize(view->mask, program->words);
    const uint64_t *quiet = program->quiet + (size_t)program->used * (program->words + 1) + 1;
    view->rule_when_quiet = 0;
    for (uint32_t word = 0; word < program->words && view->rule_when_quiet == 0; word++) {
        uint64_t left = view->mask[word] & quiet[word];
        if (left != 0)
            view->rule_when_quiet = word * 64 + (uint32_t)__builtin_ctzll(left) + 1;
    }
    return 0;
}

int rule_state_open(struct rule_program *program, const struct rule_state_options *options,
                    struct rule_state **state, struct failure *failure)
{
    uint32_t flows = options != NULL && options->flows != 0 ? options->flows : RULE_FLOWS_USUAL;
    *state = NULL;
    if (flows > RULE_FLOWS_MAX)
        return fail(failure, ERR_TOO_LARGE, "at most %u connections can be followed",
                    RULE_FLOWS_MAX);
    struct rule_state *made = calloc(1, sizeof *made);
    if (made == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory for the state of rules");
    made->program = rule_program_hold(program);
    made->seed = options != NULL ? options->seed : 0;
    made->tally = calloc(program->rules + 1u, sizeof *made->tally);
    if (program->needs_flows)
        made->flows = flow_bytes_open(flows);
    if (program->by_tuples)
        made->remembered = calloc(REMEMBERED, sizeof *made->remembered);
    if (made->tally == NULL || (program->needs_flows && made->flows == NULL) ||
        (program->by_tuples && made->remembered == NULL) ||
        view_make(program, NULL, NULL, &made->nowhere) < 0) {
        rule_state_close(&made);
        return fail(failure, ERR_NO_MEMORY, "no memory for the state of rules");
    }
    *state = made;
    return 0;
}

void rule_state_close(struct rule_state **state)
{
    struct rule_state *closed = *state;
    *state = NULL;
    if (closed == NULL)
        return;
    for (uint32_t i = 0; i < closed->views; i++)
        free(closed->view[i].mask);
    free(closed->view);
    free(closed->nowhere.mask);
    free(closed->tally);
    free(closed->remembered);
    flow_bytes_close(&closed->flows);
    expressions_close(&closed->compiled, closed->program->expressions);
    rule_program_release(&closed->program);
    free(closed);
}

struct rule_program *rule_state_program(const struct rule_state *state)
{
    return state->program;
}

uint32_t rule_state_interfaces(const struct rule_state *state)
{
    uint32_t number = 0;
    while (number < state->views && state->view[number].mask != NULL)
        number++;
    return number;
}

static int views_grow(struct rule_state *state, uint32_t count)
{
    if (count > state->views_room) {
        uint32_t room = count < 8 ? 8 : count * 2;
        struct view *view = realloc(state->view, room * sizeof *view);
        if (view == NULL)
            return ERR_NO_MEMORY;
        state->view = view;
        state->views_room = room;
    }
    if (count > state->views) {
        memset(&state->view[state->views], 0, (count - state->views) * sizeof *state->view);
        state->views = count;
    }
    return 0;
}

int rule_state_interface(struct rule_state *state, uint32_t number,
                         const struct interface_description *interface, struct failure *failure)
{
    const struct rule_program *program = state->program;
    const struct expressions *expressions = NULL;
    int result = 0;
    if (number > UINT16_MAX)
        return fail(failure, ERR_TOO_LARGE, "there is no interface %u", number);
    if (program->expressions > 0) {
        expressions = expressions_find(program->compiled, interface->link_type);
        if (expressions == NULL)
            expressions = expressions_find(state->compiled, interface->link_type);
        if (expressions == NULL) {
            result = expressions_compile(program, interface->link_type, &state->compiled, NULL);
            if (result == 0)
                expressions = state->compiled;
            else
                expressions_close(&state->compiled, program->expressions);
        }
    }
    struct view view = {0};
    if (result == 0)
        result = views_grow(state, number + 1);
    if (result == 0)
        result = view_make(program, interface->name, expressions, &view);
    if (result < 0)
        return fail(failure, result, "interface %s: no memory for its rules", interface->name);
    view.sieved = program->sieve != NULL && interface->link_type == LINK_ETHERNET &&
                  !action_looks_at_headers(&program->action[view.rule_when_quiet].action);
    free(state->view[number].mask);
    state->view[number] = view;
    if (state->remembered != NULL) /* by the view that was there before */
        memset(state->remembered, 0, REMEMBERED * sizeof *state->remembered);
    return 0;
}

void rule_state_inherit(struct rule_state *state, struct rule_state *before)
{
    if (state->flows == NULL || before->flows == NULL)
        return;
    struct flow_bytes *flows = before->flows;
    before->flows = state->flows;
    state->flows = flows;
}

/* ---- counters ------------------------------------------------------------------------------ */

void rule_state_counters(const struct rule_state *state, uint32_t rule,
                         struct rule_counters *counters)
{
    assert(rule <= state->program->rules);
    struct tally *tally = &state->tally[rule];
    counters->cut_bytes = atomic_load_explicit(&tally->cut_bytes, memory_order_acquire);
    counters->cut_packets = atomic_load_explicit(&tally->cut_packets, memory_order_acquire);
    counters->discarded_bytes = atomic_load_explicit(&tally->discarded_bytes, memory_order_acquire);
    counters->discarded_packets =
        atomic_load_explicit(&tally->discarded_packets, memory_order_acquire);
    counters->bytes = atomic_load_explicit(&tally->bytes, memory_order_acquire);
    counters->packets = atomic_load_explicit(&tally->packets, memory_order_relaxed);
    counters->stored_packets = counters->packets - counters->discarded_packets;
    counters->stored_bytes = counters->bytes - counters->cut_bytes - counters->discarded_bytes;
}

/* ---- handing over -------------------------------------------------------------------------- */

void rule_handover_offer(struct rule_handover *handover, struct rule_state **state)
{
    struct rule_state *before =
        atomic_exchange_explicit(&handover->offered, *state, memory_order_acq_rel);
    *state = NULL;
    rule_state_close(&before);
}

struct rule_state *rule_handover_collect(struct rule_handover *handover)
{
    return atomic_exchange_explicit(&handover->retired, NULL, memory_order_acq_rel);
}

bool rule_handover_take_offer(struct rule_handover *handover, struct rule_state **current)
{
    if (*current != NULL && atomic_load_explicit(&handover->retired, memory_order_relaxed) != NULL)
        return false;
    struct rule_state *next =
        atomic_exchange_explicit(&handover->offered, NULL, memory_order_acq_rel);
    if (next == NULL)
        return false;
    if (*current != NULL) {
        rule_state_inherit(next, *current);
        /* Only this thread fills the place, and it was empty. */
        atomic_store_explicit(&handover->retired, *current, memory_order_release);
    }
    *current = next;
    return true;
}

void rule_handover_clear(struct rule_handover *handover)
{
    struct rule_state *offered = atomic_exchange(&handover->offered, NULL);
    struct rule_state *retired = atomic_exchange(&handover->retired, NULL);
    rule_state_close(&offered);
    rule_state_close(&retired);
}
