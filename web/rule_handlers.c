/*
 * rule_handlers.c - the rules of a ring: looked at, and changed by people who may not know of each
 * other.
 *
 * The tag of a list is its revision and, behind a dash, a digest of the whole answer, for counters
 * move on by themselves. A change with If-Match is made to that revision only: what follows the
 * dash does not count.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handing_on.h"
#include "handlers.h"
#include "recorder_link.h"
#include "rule.h"
#include "web_server.h"

int handle_rules(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring = exchange->parameter[0];
    char revision[24];
    json_t *result;
    int status = check_plain_ring(exchange);
    if (status)
        return status;
    if (ask(exchange, "rule.list", json_pack("{s:s}", "ring", ring), &result, &failure) != 0)
        return answer_failure(exchange, &failure);
    snprintf(revision, sizeof revision, "%" JSON_INTEGER_FORMAT "-",
             json_integer_value(json_object_get(result, "revision")));
    return answer_json_tagged(exchange, result, revision);
}

/* The revision that If-Match names goes to the parameters. 0, or 412: it can be none of ours. */
static int take_revision(struct exchange *exchange, json_t *params)
{
    const char *tag = exchange_header(exchange, "If-Match");
    char *end;
    if (!tag || strcmp(tag, "*") == 0)
        return 0;
    bool ours = tag[0] == '"' && tag[1] >= '0' && tag[1] <= '9';
    long long revision = ours ? strtoll(tag + 1, &end, 10) : -1;
    if (!ours || (*end != '-' && *end != '"'))
        return answer_problem(exchange, 412, "mismatch",
                              "If-Match: that is no tag of a list of rules", NULL);
    json_object_set_new(params, "revision", json_integer(revision));
    return 0;
}

/* Hands on a change of the ring's rules; `params` is consumed. `number`: of the rule; 0: of none.
 */
static int change(struct exchange *exchange, int status, const char *method, json_t *params,
                  int64_t number)
{
    const char *ring = exchange->parameter[0];
    json_object_set_new(params, "ring", json_string(ring));
    if (number)
        json_object_set_new(params, "number", json_integer((json_int_t)number));
    int refused = check_ring(exchange, ring);
    if (!refused)
        refused = take_revision(exchange, params);
    if (!refused)
        return hand_on_change(exchange, status, method, params, HANDED_WHOLE, ring);
    json_decref(params);
    return refused;
}

/* The same with the body's members as parameters. */
static int change_by_body(struct exchange *exchange, int status, const char *method,
                          const char *names, bool of_one)
{
    int refused;
    int64_t number = 0;
    if (of_one && (refused = path_count(exchange, exchange->parameter[1], RULES_MAX, &number)) != 0)
        return refused;
    json_t *params = body_as_params(exchange, names, &refused);
    return params ? change(exchange, status, method, params, number) : refused;
}

int handle_rule_add(struct exchange *exchange)
{
    return change_by_body(exchange, 201, "rule.add", "rule at", false);
}

int handle_rules_replace(struct exchange *exchange)
{
    return change_by_body(exchange, 200, "rule.replace", "rules", false);
}

int handle_rule_set(struct exchange *exchange)
{
    return change_by_body(exchange, 200, "rule.set", "rule", true);
}

int handle_rule_move(struct exchange *exchange)
{
    return change_by_body(exchange, 200, "rule.move", "direction", true);
}

int handle_rule_delete(struct exchange *exchange)
{
    int64_t number;
    int refused = path_count(exchange, exchange->parameter[1], RULES_MAX, &number);
    return refused ? refused : change(exchange, 200, "rule.delete", json_object(), number);
}

/* What the rules, or others, would have made of the past. Changes nothing. */
int handle_rules_test(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *ring = exchange->parameter[0], *from = NULL, *to = NULL, *rules = NULL;
    int64_t from_ns = INT64_MIN, to_ns = INT64_MAX;
    char digits[24];
    int status = check_ring(exchange, ring);
    if (status)
        return status;
    int code = exchange_check_body(exchange, "from to rules", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "from", false, &from, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "to", false, &to, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "rules", false, &rules, &failure);
    if (code == 0)
        code = exchange_time("from", from, &from_ns, &failure);
    if (code == 0)
        code = exchange_time("to", to, &to_ns, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    json_t *params = json_pack("{s:s}", "ring", ring);
    if (rules)
        json_object_set_new(params, "rules", json_string(rules));
    snprintf(digits, sizeof digits, "%" PRId64, from_ns);
    if (from_ns != INT64_MIN)
        json_object_set_new(params, "from_ns", json_string(digits));
    snprintf(digits, sizeof digits, "%" PRId64, to_ns);
    if (to_ns != INT64_MAX)
        json_object_set_new(params, "to_ns", json_string(digits));
    return hand_on_watched(exchange, 200, "rule.test", params);
}
