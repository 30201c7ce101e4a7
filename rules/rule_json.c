#include "rule_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rule_text.h"

/* ---- out ----------------------------------------------------------------------------------- */

static json_t *action_to_json(const struct action *action)
{
    switch (action->kind) {
    case ACTION_FULL:
        return json_pack("{ss}", "kind", "full");
    case ACTION_DISCARD:
        return json_pack("{ss}", "kind", "discard");
    case ACTION_SNAP:
        return json_pack("{sssI}", "kind", "snap", "bytes", (json_int_t)action->number);
    case ACTION_HEADERS_L3:
        return json_pack("{ssss}", "kind", "headers", "layers", "l3");
    case ACTION_HEADERS_L3_L4:
        return json_pack("{sssssI}", "kind", "headers", "layers", "l3+l4", "bytes",
                         (json_int_t)action->number);
    case ACTION_FLOW:
        return json_pack("{sssI}", "kind", "flow", "bytes", (json_int_t)action->number);
    default:
        return json_pack("{sssI}", "kind", "sample", "one_in", (json_int_t)action->number);
    }
}

static json_t *condition_to_json(const struct condition *condition)
{
    json_t *json = json_pack("{ss}", "kind", condition_keyword(condition->kind));
    char *value = condition->kind == CONDITION_ALL ? NULL : condition_print_value(condition);
    bool good = json != NULL &&
                (condition->kind == CONDITION_ALL ||
                 (value != NULL && json_object_set_new(json, "value", json_string(value)) == 0));
    if (good && condition->inner)
        good = json_object_set_new(json, "inner", json_true()) == 0;
    if (good && condition->negated)
        good = json_object_set_new(json, "not", json_true()) == 0;
    free(value);
    if (good)
        return json;
    json_decref(json);
    return NULL;
}

json_t *rule_to_json(const struct rule *rule)
{
    char *text = rule_print(rule);
    json_t *conditions = json_array();
    bool good = text != NULL && conditions != NULL;
    for (uint32_t i = 0; i < rule->conditions && good; i++)
        good = json_array_append_new(conditions, condition_to_json(&rule->condition[i])) == 0;
    json_t *json = good ? json_pack("{sssOso}", "text", text, "conditions", conditions, "action",
                                    action_to_json(&rule->action))
                        : NULL;
    if (json != NULL && rule_has(rule, CONDITION_APP) &&
        json_object_set_new(json, "until_known", action_to_json(&rule->until_known)) < 0) {
        json_decref(json);
        json = NULL;
    }
    json_decref(conditions);
    free(text);
    return json;
}

json_t *rule_list_to_json(const struct rule_list *list)
{
    json_t *json = json_array();
    for (uint32_t i = 0; i < list->count && json != NULL; i++) {
        if (json_array_append_new(json, rule_to_json(&list->rule[i])) < 0) {
            json_decref(json);
            json = NULL;
        }
    }
    return json;
}

/* ---- in ------------------------------------------------------------------------------------ */

static int check_members(const json_t *json, const char *where, const char *const *known,
                         struct failure *failure)
{
    const char *name;
    json_t *value;
    if (!json_is_object(json))
        return fail(failure, ERR_INVALID, "%s: expected an object", where);
    json_object_foreach((json_t *)json, name, value)
    {
        unsigned i = 0;
        while (known[i] != NULL && strcmp(known[i], name) != 0)
            i++;
        if (known[i] == NULL)
            return fail(failure, ERR_INVALID, "%s: expected no member \"%.60s\"", where, name);
    }
    return 0;
}

static int read_flag(const json_t *json, const char *where, const char *name, bool *flag,
                     struct failure *failure)
{
    const json_t *value = json_object_get(json, name);
    if (value != NULL && !json_is_boolean(value))
        return fail(failure, ERR_INVALID, "%s: expected true or false as \"%s\"", where, name);
    *flag = json_is_true(value);
    return 0;
}

/* A string without a zero byte; null, without an error, where there is none. */
static int read_string(const json_t *json, const char *where, const char *name, const char **text,
                       struct failure *failure)
{
    const json_t *value = json_object_get(json, name);
    *text = json_string_value(value);
    if (value == NULL || (*text != NULL && strlen(*text) == json_string_length(value)))
        return 0;
    return fail(failure, ERR_INVALID, "%s: expected a string as \"%s\"", where, name);
}

static int read_kind(const char *text, const char *where, struct condition *condition,
                     struct failure *failure)
{
    for (int kind = CONDITION_ALL; text != NULL && kind <= CONDITION_BPF; kind++) {
        if (strcmp(condition_keyword((enum condition_kind)kind), text) == 0) {
            condition->kind = (uint8_t)kind;
            return 0;
        }
    }
    return fail(
        failure, ERR_INVALID,
        "%s: expected as \"kind\" one of all, mac, ip, tcp port, udp port, port, app, vlan, "
        "interface, bpf",
        where);
}

static bool may_be_inner(const struct condition *condition)
{
    switch (condition->kind) {
    case CONDITION_IP:
    case CONDITION_PORT:
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
        return true;
    default:
        return false;
    }
}

static int condition_from_json(const json_t *json, const char *where, struct condition *condition,
                               struct failure *failure)
{
    static const char *const known[] = {"kind", "value", "inner", "not", NULL};
    const char *kind, *value;
    int result = check_members(json, where, known, failure);
    if (result == 0)
        result = read_string(json, where, "kind", &kind, failure);
    if (result == 0)
        result = read_string(json, where, "value", &value, failure);
    if (result == 0)
        result = read_kind(kind, where, condition, failure);
    if (result == 0)
        result = read_flag(json, where, "not", &condition->negated, failure);
    if (result == 0)
        result = read_flag(json, where, "inner", &condition->inner, failure);
    if (result < 0)
        return result;
    if (condition->inner && !may_be_inner(condition))
        return fail(failure, ERR_INVALID, "%s: expected \"inner\" only of ip and ports", where);
    if ((value == NULL) != (condition->kind == CONDITION_ALL))
        return fail(failure, ERR_INVALID, "%s: expected %s \"value\"", where,
                    value == NULL ? "a" : "no");
    if (value == NULL)
        return 0;
    result = condition_parse_value(condition, value, failure);
    return result < 0 ? fail_context(failure, result, "%s: value", where) : 0;
}

/* The number of an action becomes text, and is read as that: one place knows the limits. */
static int action_from_json(const json_t *json, const char *where, struct action *action,
                            struct failure *failure)
{
    static const char *const plain[] = {"kind", NULL};
    static const char *const bytes[] = {"kind", "bytes", NULL};
    static const char *const layers[] = {"kind", "layers", "bytes", NULL};
    static const char *const one_in[] = {"kind", "one_in", NULL};
    const char *kind = NULL, *layer = NULL, *const *known = plain, *member = NULL;
    char text[80];
    int result = json_is_object(json) ? read_string(json, where, "kind", &kind, failure)
                                      : fail(failure, ERR_INVALID, "%s: expected an object", where);
    if (result < 0)
        return result;
    kind = kind != NULL ? kind : "";
    if (strcmp(kind, "snap") == 0 || strcmp(kind, "flow") == 0) {
        known = bytes;
        member = "bytes";
    } else if (strcmp(kind, "headers") == 0) {
        known = layers;
        member = "bytes";
    } else if (strcmp(kind, "sample") == 0) {
        known = one_in;
        member = "one_in";
    } else if (strcmp(kind, "full") != 0 && strcmp(kind, "discard") != 0) {
        return fail(failure, ERR_INVALID,
                    "%s: expected as \"kind\" one of full, discard, snap, headers, flow, sample",
                    where);
    }
    result = check_members(json, where, known, failure);
    if (result == 0)
        result = read_string(json, where, "layers", &layer, failure);
    if (result < 0)
        return result;
    const json_t *number = member != NULL ? json_object_get(json, member) : NULL;
    int64_t value = json_integer_value(number);
    if (known == layers) {
        bool l3 = layer != NULL && strcmp(layer, "l3") == 0;
        if (!l3 && (layer == NULL || strcmp(layer, "l3+l4") != 0))
            return fail(failure, ERR_INVALID, "%s: expected l3 or l3+l4 as \"layers\"", where);
        if (number != NULL && (l3 || !json_is_integer(number) || value < 0))
            return fail(failure, ERR_INVALID,
                        "%s: expected \"bytes\", a number from 0, only with l3+l4", where);
        snprintf(text, sizeof text, number == NULL ? "headers %s" : "headers %s+%" PRId64, layer,
                 value);
    } else if (member == NULL) {
        snprintf(text, sizeof text, "%s", kind);
    } else {
        if (!json_is_integer(number) || value < 1)
            return fail(failure, ERR_INVALID, "%s: expected a number from 1 as \"%s\"", where,
                        member);
        snprintf(text, sizeof text, known == one_in ? "%s 1/%" PRId64 : "%s %" PRId64, kind, value);
    }
    result = action_parse(text, action, failure);
    return result < 0 ? fail_context(failure, result, "%s: %s", where, text) : 0;
}

static int conditions_from_json(const json_t *json, struct rule *rule, struct failure *failure)
{
    size_t count = json_array_size(json);
    if (!json_is_array(json) || count == 0 || count > RULE_CONDITIONS_MAX)
        return fail(failure, ERR_INVALID, "conditions: expected an array of 1 to %u objects",
                    RULE_CONDITIONS_MAX);
    rule->condition = calloc(count, sizeof *rule->condition);
    if (rule->condition == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory for a rule");
    for (size_t i = 0; i < count; i++) {
        char where[40];
        snprintf(where, sizeof where, "conditions[%zu]", i);
        rule->conditions++;
        int result =
            condition_from_json(json_array_get(json, i), where, &rule->condition[i], failure);
        if (result < 0)
            return result;
    }
    return 0;
}

static int parts_from_json(const json_t *json, struct rule *rule, struct failure *failure)
{
    const json_t *until_known = json_object_get(json, "until_known");
    int result = conditions_from_json(json_object_get(json, "conditions"), rule, failure);
    if (result == 0)
        result =
            action_from_json(json_object_get(json, "action"), "action", &rule->action, failure);
    if (result == 0 && until_known != NULL) {
        result = action_from_json(until_known, "until_known", &rule->until_known, failure);
        if (result == 0 && !rule_has(rule, CONDITION_APP))
            result = fail(failure, ERR_INVALID, "until_known: expected only with an app condition");
        if (result == 0 &&
            (rule->until_known.kind == ACTION_FLOW || rule->until_known.kind == ACTION_SAMPLE))
            result =
                fail(failure, ERR_INVALID, "until_known: expected full, discard, snap or headers");
    }
    return result;
}

int rule_from_json(const json_t *json, struct rule *rule, struct failure *failure)
{
    static const char *const known[] = {"text", "conditions", "action", "until_known", NULL};
    struct rule said = {0};
    const char *text = NULL;
    *rule = (struct rule){0};
    int result = check_members(json, "rule", known, failure);
    if (result == 0)
        result = read_string(json, "rule", "text", &text, failure);
    if (result == 0 && text != NULL) {
        result = rule_parse(text, &said, NULL, failure);
        if (result < 0)
            fail_context(failure, result, "text");
    }
    bool parts = json_object_size(json) > (text != NULL);
    if (result == 0 && (parts || text == NULL)) {
        result = parts_from_json(json, rule, failure);
        if (result == 0 && text != NULL && !rule_equal(rule, &said))
            result =
                fail(failure, ERR_INVALID, "rule: expected text and conditions to say the same");
    } else if (result == 0) {
        *rule = said;
        return 0;
    }
    rule_clear(&said);
    if (result < 0)
        rule_clear(rule);
    return result;
}

int rule_list_from_json(const json_t *json, struct rule_list *list, struct failure *failure)
{
    *list = (struct rule_list){0};
    if (!json_is_array(json))
        return fail(failure, ERR_INVALID, "expected an array of rules");
    for (size_t i = 0; i < json_array_size(json); i++) {
        struct rule rule;
        int result = rule_from_json(json_array_get(json, i), &rule, failure);
        if (result == 0)
            result = rule_list_insert(list, list->count, &rule, failure);
        if (result < 0) {
            rule_clear(&rule);
            rule_list_clear(list);
            return fail_context(failure, result, "rule %zu", i + 1);
        }
    }
    return 0;
}
