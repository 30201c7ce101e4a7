#include "rule.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void rule_clear(struct rule *rule)
{
    for (uint32_t i = 0; i < rule->conditions; i++)
        free(rule->condition[i].text);
    free(rule->condition);
    *rule = (struct rule){0};
}

int rule_copy(const struct rule *rule, struct rule *copy)
{
    *copy = (struct rule){.action = rule->action, .until_known = rule->until_known, .id = rule->id};
    copy->condition = calloc(rule->conditions ? rule->conditions : 1, sizeof *copy->condition);
    if (copy->condition == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < rule->conditions; i++) {
        copy->condition[i] = rule->condition[i];
        copy->conditions = i + 1;
        if (rule->condition[i].text == NULL)
            continue;
        copy->condition[i].text = strdup(rule->condition[i].text);
        if (copy->condition[i].text == NULL) {
            rule_clear(copy);
            return ERR_NO_MEMORY;
        }
    }
    return 0;
}

static bool condition_equal(const struct condition *a, const struct condition *b)
{
    if (a->kind != b->kind || a->negated != b->negated || a->inner != b->inner)
        return false;
    switch (a->kind) {
    case CONDITION_MAC:
    case CONDITION_IP:
        return a->version == b->version && a->prefix_bits == b->prefix_bits &&
               memcmp(a->address, b->address, sizeof a->address) == 0;
    case CONDITION_APP:
        return strcasecmp(a->text, b->text) == 0;
    case CONDITION_INTERFACE:
    case CONDITION_BPF:
        return strcmp(a->text, b->text) == 0;
    default:
        return a->low == b->low && a->high == b->high;
    }
}

static bool action_equal(struct action a, struct action b)
{
    return a.kind == b.kind && a.number == b.number;
}

bool rule_equal(const struct rule *a, const struct rule *b)
{
    if (a->conditions != b->conditions || !action_equal(a->action, b->action) ||
        !action_equal(a->until_known, b->until_known))
        return false;
    for (uint32_t i = 0; i < a->conditions; i++) {
        if (!condition_equal(&a->condition[i], &b->condition[i]))
            return false;
    }
    return true;
}

bool rule_has(const struct rule *rule, enum condition_kind kind)
{
    for (uint32_t i = 0; i < rule->conditions; i++) {
        if (rule->condition[i].kind == kind)
            return true;
    }
    return false;
}

void rule_list_clear(struct rule_list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        rule_clear(&list->rule[i]);
    free(list->rule);
    *list = (struct rule_list){0};
}

int rule_list_copy(const struct rule_list *list, struct rule_list *copy)
{
    *copy = (struct rule_list){0};
    copy->rule = calloc(list->count ? list->count : 1, sizeof *copy->rule);
    if (copy->rule == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < list->count; i++) {
        int result = rule_copy(&list->rule[i], &copy->rule[i]);
        if (result < 0) {
            rule_list_clear(copy);
            return result;
        }
        copy->count = i + 1;
    }
    return 0;
}

int rule_list_insert(struct rule_list *list, uint32_t at, struct rule *rule,
                     struct failure *failure)
{
    if (list->count >= RULES_MAX)
        return fail(failure, ERR_TOO_LARGE, "a list holds at most %u rules", RULES_MAX);
    if (at > list->count)
        return fail(failure, ERR_INVALID, "there is no place %u in a list of %u rules", at + 1,
                    list->count);
    struct rule *grown = realloc(list->rule, (list->count + 1) * sizeof *grown);
    if (grown == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory for another rule");
    list->rule = grown;
    memmove(&grown[at + 1], &grown[at], (list->count - at) * sizeof *grown);
    grown[at] = *rule;
    list->count++;
    *rule = (struct rule){0};
    return 0;
}

static int check_number(const struct rule_list *list, uint32_t at, struct failure *failure)
{
    if (at < list->count)
        return 0;
    return fail(failure, ERR_NOT_FOUND, "there is no rule %u: the list has %u", at + 1,
                list->count);
}

int rule_list_remove(struct rule_list *list, uint32_t at, struct failure *failure)
{
    int result = check_number(list, at, failure);
    if (result < 0)
        return result;
    rule_clear(&list->rule[at]);
    memmove(&list->rule[at], &list->rule[at + 1], (list->count - at - 1) * sizeof *list->rule);
    list->count--;
    return 0;
}

int rule_list_move(struct rule_list *list, uint32_t at, bool up, struct failure *failure)
{
    int result = check_number(list, at, failure);
    if (result < 0)
        return result;
    if (up ? at == 0 : at + 1 == list->count)
        return fail(failure, ERR_INVALID, "rule %u is the %s already", at + 1,
                    up ? "first" : "last");
    uint32_t other = up ? at - 1 : at + 1;
    struct rule moved = list->rule[at];
    list->rule[at] = list->rule[other];
    list->rule[other] = moved;
    return 0;
}
