/*
 * rule_methods.c - the methods rule.*: a ring's rules, looked at and changed while it records.
 *
 * Every change names what it is made to: with `revision`, one that somebody else has changed
 * meanwhile is refused; without it, the newest is meant. Rules are numbered from 1, as people see
 * them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer_json.h"
#include "classifier.h"
#include "event_log.h"
#include "methods.h"
#include "rule_json.h"
#include "rule_store.h"
#include "rule_text.h"

/* A request about the rules of a ring: looked at, for it may be down. */
struct rules_request {
    struct request *request;
    const char *name;
    struct ring_look *looks;
    uint32_t looked;
    struct ring_entry *entry;
    struct ring_rules *rules;
    struct ring_rules_draft draft;
};

static int rules_begin(struct request *request, struct rules_request *at)
{
    *at = (struct rules_request){.request = request};
    int code = request_string(request, "ring", true, &at->name);
    if (code == 0)
        code = ring_registry_look(&request->recorder->registry, at->name, &at->looks, &at->looked,
                                  &request->failure);
    if (code != 0)
        return code;
    at->entry = at->looks[0].entry;
    code = rule_store_open(at->entry, &at->rules, &request->failure);
    if (code == 0 && ring_rules_draft(at->rules, &at->draft) != 0)
        code = fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    return code;
}

static void rules_end(struct rules_request *at)
{
    rule_list_clear(&at->draft.list);
    ring_registry_look_away(&at->request->recorder->registry, &at->looks, at->looked);
}

/* ---- rule.list ----------------------------------------------------------------------------- */

static json_t *json_counters(const struct rule_counters *counters)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "packets",
                     (json_int_t)counters->packets, "bytes", (json_int_t)counters->bytes,
                     "stored_packets", (json_int_t)counters->stored_packets, "stored_bytes",
                     (json_int_t)counters->stored_bytes, "cut_packets",
                     (json_int_t)counters->cut_packets, "cut_bytes",
                     (json_int_t)counters->cut_bytes, "discarded_packets",
                     (json_int_t)counters->discarded_packets, "discarded_bytes",
                     (json_int_t)counters->discarded_bytes);
}

static json_t *json_rule(const struct rule_list *list, uint32_t i)
{
    json_t *rule = rule_to_json(&list->rule[i]);
    json_object_set_new(rule, "number", json_integer((json_int_t)i + 1));
    json_object_set_new(rule, "id", json_integer((json_int_t)list->rule[i].id));
    return rule;
}

int method_rule_list(struct request *request, json_t **result)
{
    struct rules_request at;
    int code = rules_begin(request, &at);
    struct rule_counters *counters = NULL;
    if (code == 0) {
        counters = calloc(at.draft.list.count + 1u, sizeof *counters);
        if (!counters || ring_rules_counters(at.rules, &at.draft.list, counters) != 0)
            code = fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    }
    if (code == 0) {
        struct failure why = ring_rules_failure(at.rules);
        json_t *rules = json_array();
        for (uint32_t i = 0; i < at.draft.list.count; i++) {
            json_t *rule = json_rule(&at.draft.list, i);
            json_object_set_new(rule, "counters", json_counters(&counters[i + 1]));
            json_array_append_new(rules, rule);
        }
        char seed[24];
        snprintf(seed, sizeof seed, "%" PRIu64, rule_store_seed(at.entry));
        *result = json_pack("{s:s, s:I, s:b, s:o, s:o, s:o, s:s}", "ring", at.entry->row.name,
                            "revision", (json_int_t)at.draft.revision, "in_force",
                            (int)ring_rules_in_force(at.rules), "rules", rules, "unmatched",
                            json_counters(&counters[0]), "error",
                            why.code != 0 ? json_text(why.text) : json_null(), "seed", seed);
        if (!*result)
            code = fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    }
    free(counters);
    rules_end(&at);
    return code;
}

/* ---- changes: parameters ------------------------------------------------------------------- */

/* The rule as text or as an object. */
static int take_rule(struct request *request, struct rule *rule)
{
    const json_t *given = json_object_get(request->params, "rule");
    const char *text = json_string_value(given);
    if (text)
        return rule_parse(text, rule, NULL, &request->failure);
    if (!given)
        return fail(&request->failure, ERR_INVALID, "parameter rule is missing");
    return rule_from_json(given, rule, &request->failure);
}

/* A list as text, or as an array of texts and objects. */
static int take_list(struct request *request, struct rule_list *list)
{
    const json_t *given = json_object_get(request->params, "rules");
    *list = (struct rule_list){0};
    if (json_is_string(given))
        return rule_list_parse(json_string_value(given), list, NULL, &request->failure);
    if (!json_is_array(given))
        return fail(&request->failure, ERR_INVALID,
                    "parameter rules: expected a text of one rule a line, or an array of rules");
    for (size_t i = 0; i < json_array_size(given); i++) {
        const json_t *one = json_array_get(given, i);
        struct rule rule = {0};
        int code = json_is_string(one)
                       ? rule_parse(json_string_value(one), &rule, NULL, &request->failure)
                       : rule_from_json(one, &rule, &request->failure);
        if (code == 0)
            code = rule_list_insert(list, list->count, &rule, &request->failure);
        if (code != 0) {
            rule_clear(&rule);
            rule_list_clear(list);
            return fail_context(&request->failure, code, "rule %zu", i + 1);
        }
    }
    return 0;
}

/* The number of a rule that there is, counted from 0. */
static int take_number(struct rules_request *at, uint32_t *place)
{
    uint32_t count = at->draft.list.count;
    uint64_t number = 0;
    int code = request_count(at->request, "number", 1, RULES_MAX, &number);
    if (code != 0)
        return code;
    if (number == 0)
        return fail(&at->request->failure, ERR_INVALID, "parameter number is missing");
    *place = (uint32_t)number - 1;
    if (number <= count)
        return 0;
    if (count == 0)
        return fail(&at->request->failure, ERR_NOT_FOUND, "ring %s has no rules", at->name);
    return fail(&at->request->failure, ERR_NOT_FOUND,
                "ring %s has no rule %" PRIu64 ": it has %" PRIu32, at->name, number, count);
}

/* Begins a change: what it is made to. */
static int change_begin(struct request *request, struct rules_request *at)
{
    uint64_t revision = UINT64_MAX;
    int code = rules_begin(request, at);
    if (code == 0)
        code = request_count(request, "revision", 0, INT64_MAX, &revision);
    if (code == 0 && revision != UINT64_MAX && revision != at->draft.revision)
        code = fail(&request->failure, ERR_MISMATCH,
                    "the rules of ring %s have been changed by somebody else: they are at revision "
                    "%" PRIu64 ", not %" PRIu64,
                    at->name, at->draft.revision, revision);
    return code;
}

/* Makes the change, tells of it, answers. `what` is the sentence; `place` of the rule that is
 * answered, UINT32_MAX: none. */
static int change_end(struct rules_request *at, uint32_t place, const char *what, json_t **result)
{
    struct request *request = at->request;
    struct rule rule = {0};
    bool in_force;
    if (place != UINT32_MAX && rule_copy(&at->draft.list.rule[place], &rule) != 0)
        return fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    int code = rule_store_change(at->entry, at->rules, &at->draft, &in_force, &request->failure);
    if (code == 0) {
        char *text = place != UINT32_MAX ? rule_print(&rule) : NULL;
        event_log_say(request->recorder->events, "info", "rules-changed", at->name,
                      "%s%s%.300s; revision %" PRIu64, what, text ? ": " : "", text ? text : "",
                      at->draft.revision);
        *result = json_pack("{s:I, s:b}", "revision", (json_int_t)at->draft.revision, "in_force",
                            (int)in_force);
        if (place != UINT32_MAX) {
            json_object_set_new(*result, "number", json_integer((json_int_t)place + 1));
            json_object_set_new(*result, "text", json_string(text ? text : ""));
        }
        free(text);
    }
    rule_clear(&rule);
    return code;
}

/* ---- changes ------------------------------------------------------------------------------- */

int method_rule_add(struct request *request, json_t **result)
{
    struct rules_request at;
    struct rule rule = {0};
    int code = change_begin(request, &at);
    uint32_t count = at.draft.list.count;
    uint64_t place = count + 1u;
    if (code == 0)
        code = request_count(request, "at", 1, RULES_MAX, &place);
    if (code == 0 && place > count + 1u)
        code = fail(&request->failure, ERR_INVALID,
                    "a rule cannot be put at place %" PRIu64 ": ring %s has %" PRIu32, place,
                    at.name, count);
    if (code == 0)
        code = take_rule(request, &rule);
    if (code == 0)
        code = rule_list_insert(&at.draft.list, (uint32_t)place - 1, &rule, &request->failure);
    if (code == 0)
        code = change_end(&at, (uint32_t)place - 1, "a rule was added", result);
    rule_clear(&rule);
    rules_end(&at);
    return code;
}

int method_rule_set(struct request *request, json_t **result)
{
    struct rules_request at;
    struct rule rule = {0};
    uint32_t place;
    int code = change_begin(request, &at);
    if (code == 0)
        code = take_number(&at, &place);
    if (code == 0)
        code = take_rule(request, &rule);
    if (code == 0) {
        struct rule *before = &at.draft.list.rule[place];
        if (rule_equal(before, &rule))
            rule.id = before->id;
        rule_clear(before);
        *before = rule;
        rule = (struct rule){0};
        code = change_end(&at, place, "a rule was changed", result);
    }
    rule_clear(&rule);
    rules_end(&at);
    return code;
}

int method_rule_move(struct request *request, json_t **result)
{
    struct rules_request at;
    const char *direction = NULL;
    uint32_t place;
    int code = change_begin(request, &at);
    if (code == 0)
        code = take_number(&at, &place);
    if (code == 0)
        code = request_string(request, "direction", true, &direction);
    bool up = code == 0 && strcmp(direction, "up") == 0;
    if (code == 0 && !up && strcmp(direction, "down") != 0)
        code = fail(&request->failure, ERR_INVALID, "parameter direction: expected up or down");
    if (code == 0)
        code = rule_list_move(&at.draft.list, place, up, &request->failure);
    if (code == 0)
        code = change_end(&at, up ? place - 1 : place + 1,
                          up ? "a rule was moved up" : "a rule was moved down", result);
    rules_end(&at);
    return code;
}

int method_rule_delete(struct request *request, json_t **result)
{
    struct rules_request at;
    uint32_t place;
    char what[64];
    int code = change_begin(request, &at);
    if (code == 0)
        code = take_number(&at, &place);
    if (code == 0)
        code = rule_list_remove(&at.draft.list, place, &request->failure);
    if (code == 0) {
        snprintf(what, sizeof what, "rule %" PRIu32 " was deleted", place + 1);
        code = change_end(&at, UINT32_MAX, what, result);
    }
    rules_end(&at);
    return code;
}

int method_rule_replace(struct request *request, json_t **result)
{
    struct rules_request at;
    struct rule_list list = {0};
    int code = change_begin(request, &at);
    if (code == 0)
        code = take_list(request, &list);
    if (code == 0) {
        rule_list_clear(&at.draft.list);
        at.draft.list = list;
        code = change_end(&at, UINT32_MAX, "the list of rules was replaced", result);
    }
    rules_end(&at);
    return code;
}

/* The protocols that rules and filters can name; one that is found to be none of them is "Unknown". */
int method_apps(struct request *request, json_t **result)
{
    const char *const *name;
    uint32_t names;
    int code = classifier_names(request->recorder->classifier, &name, &names, &request->failure);
    if (code != 0)
        return code;
    json_t *apps = json_array();
    for (uint32_t i = 0; i < names; i++)
        json_array_append_new(apps, json_text(name[i]));
    *result = json_pack("{s:o}", "apps", apps);
    return 0;
}
