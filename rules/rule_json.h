/*
 * rule_json.h - rules as JSON, for the API; schema/rules.schema.json says what is allowed.
 *
 *     {"text": "not inner ip 10.0.0.0/8 and tcp port 80-90 : headers l3+l4+16",
 *      "conditions": [{"kind": "ip", "value": "10.0.0.0/8", "inner": true, "not": true},
 *                     {"kind": "tcp port", "value": "80-90"}],
 *      "action": {"kind": "headers", "layers": "l3+l4", "bytes": 16}}
 *
 * A rule that comes in has `text`, or `conditions` and `action` (and `until_known`), or both if
 * they say the same. What goes out has both.
 */
#ifndef RULES_RULE_JSON_H
#define RULES_RULE_JSON_H

#include <jansson.h>

#include "rule.h"

/* New references; null: no memory. A list is an array of rules. */
json_t *rule_to_json(const struct rule *rule);
json_t *rule_list_to_json(const struct rule_list *list);

/* `json` stays the caller's. ERR_INVALID with a sentence that names the member; `rule` is then
 * empty. */
int rule_from_json(const json_t *json, struct rule *rule, struct failure *failure);
int rule_list_from_json(const json_t *json, struct rule_list *list, struct failure *failure);

#endif
