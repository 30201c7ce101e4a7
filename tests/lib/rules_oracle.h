/*
 * rules_oracle.h - what rules mean, slowly: a reference that shares no code with rules/ but the
 * parsed rule itself.
 *
 * It decodes by recursion into lists of facts, evaluates one rule after the other, one condition
 * after the other, compiles expressions anew for every packet's link type, and remembers
 * connections in a list without a bound.
 */
#ifndef TESTS_RULES_ORACLE_H
#define TESTS_RULES_ORACLE_H

#include "packet.h"
#include "rule.h"

struct oracle_packet {
    struct packet packet;
    uint16_t link_type;
    const char *interface; /* its name */
    bool app_unknown;      /* no verdict yet */
    const char *app[2];    /* names, or null */
};

struct oracle_outcome {
    uint32_t rule; /* from 1, 0: none */
    uint32_t keep_bytes;
    char decision; /* 's'tored, 'd'iscarded, sampled 'o'ut */
};

/* Connections that `flow N` has met; zeros at first. Freed by oracle_forget(). */
struct oracle_memory {
    struct oracle_connection *connection;
    uint32_t connections;
};

void oracle_apply(const struct rule_list *list, const struct oracle_packet *packet,
                  struct oracle_memory *memory, struct oracle_outcome *outcome);
void oracle_forget(struct oracle_memory *memory);

/* Frees the expressions that were compiled. */
void oracle_forget_expressions(void);

#endif
