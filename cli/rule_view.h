/*
 * rule_view.h - how rules and what they matched look to a person.
 */
#ifndef CLI_RULE_VIEW_H
#define CLI_RULE_VIEW_H

#include <jansson.h>

/* A table, one line a rule, one for the packets that none matched, and one for all (null: none). */
void rule_view(const json_t *rules, const json_t *unmatched, const json_t *all);

#endif
