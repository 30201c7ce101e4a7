/*
 * rule_text.h - rules as people write them, in and out. The grammar is in rules/README.md.
 *
 * What is printed parses again to an equal rule. An error is one sentence that begins with the
 * column (and, for a list, the line) and says what was expected there.
 */
#ifndef RULES_RULE_TEXT_H
#define RULES_RULE_TEXT_H

#include "rule.h"

/* Where a text was refused. Columns count characters (of UTF-8) from 1; lines count from 1. */
struct rule_place {
    uint32_t line;
    uint32_t column;
};

/*
 * One rule from `text`. On 0, `rule` is the caller's, to be cleared with rule_clear(). ERR_INVALID
 * with a sentence, and the place where `place` is not null; ERR_TOO_LARGE (RULE_TEXT_MAX);
 * ERR_NO_MEMORY. `rule` is then empty.
 */
int rule_parse(const char *text, struct rule *rule, struct rule_place *place,
               struct failure *failure);

/* A list: one rule a line; empty lines, and lines that begin with '#', are passed over. */
int rule_list_parse(const char *text, struct rule_list *list, struct rule_place *place,
                    struct failure *failure);

/* The text of a rule, to be freed by the caller; null: no memory. */
char *rule_print(const struct rule *rule);

/* All rules, each with a newline at its end; to be freed by the caller. */
char *rule_list_print(const struct rule_list *list);

/* ---- parts, for the JSON form -------------------------------------------------------------- */

/* The keyword of a kind ("tcp port"). Static memory. */
const char *condition_keyword(enum condition_kind kind);

/* Reads the value of a condition of which kind, inner and negated are set ("10.0.0.0/8", "80-90");
 * names and expressions as they are, without quotes. */
int condition_parse_value(struct condition *condition, const char *text, struct failure *failure);

/* The value as condition_parse_value() reads it, to be freed; null: no memory. */
char *condition_print_value(const struct condition *condition);

int action_parse(const char *text, struct action *action, struct failure *failure);

#define ACTION_TEXT_SIZE 40
const char *action_print(const struct action *action, char text[ACTION_TEXT_SIZE]);

#endif
