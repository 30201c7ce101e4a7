/*
 * rule_command.c - the rules of a ring: listed, added, changed, moved, deleted, replaced.
 *
 * A rule is read here first, so that a typing error costs no recorder and names its column; the
 * recorder reads it again and compiles it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"
#include "rule_source.h"
#include "rule_text.h"
#include "rule_view.h"
#include "text.h"

/* ---- words --------------------------------------------------------------------------------- */

/* The operands from the `first` on with blanks between them, read as a rule. The caller frees. */
static char *rule_operand(const struct invocation *invocation, uint32_t first,
                          struct failure *failure)
{
    size_t bytes = 1;
    for (uint32_t i = first; i < invocation->operands; i++)
        bytes += strlen(invocation->operand[i]) + 1;
    char *text = malloc(bytes);
    if (!text) {
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
        return NULL;
    }
    char *end = text;
    *end = '\0';
    for (uint32_t i = first; i < invocation->operands; i++)
        end += sprintf(end, "%s%s", i > first ? " " : "", invocation->operand[i]);
    struct rule rule;
    if (rule_parse(text, &rule, NULL, failure) != 0) {
        failure->code = ERR_INVALID;
        free(text);
        return NULL;
    }
    rule_clear(&rule);
    return text;
}

static int number_operand(const struct invocation *invocation, uint32_t at, uint64_t *number,
                          struct failure *failure)
{
    const char *text = invocation->operand[at];
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || *text < '0' || *text > '9' || value < 1 || value > RULES_MAX)
        return fail(failure, ERR_INVALID,
                    "\"%s\": expected the number of a rule, as in tapeloop rule list",
                    output_printable(text));
    *number = value;
    return 0;
}

/* ---- changes ------------------------------------------------------------------------------- */

/* {"ring", "revision" where it was given}; null with a failure. */
static json_t *change_params(const struct invocation *invocation, struct failure *failure)
{
    uint64_t revision = UINT64_MAX;
    if (text_check_ring_name(invocation->operand[0], failure) != 0 ||
        options_number(invocation, "revision", 0, INT64_MAX, &revision, failure) != 0)
        return NULL;
    json_t *params = json_pack("{s:s}", "ring", invocation->operand[0]);
    if (params && revision != UINT64_MAX)
        json_object_set_new(params, "revision", json_integer((json_int_t)revision));
    if (!params)
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    return params;
}

/* Asks for a change (params are consumed), and shows what came of it. */
static int change_ask(const struct invocation *invocation, const char *method, json_t *params,
                      struct failure *failure)
{
    json_t *result = NULL;
    int code = session_ask(invocation, SESSION_START, method, params, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else if (json_object_get(result, "number"))
        printf("%" PRIu64 "  %s\n", answer_count(result, "number"),
               output_printable(answer_text(result, "text")));
    if (!answer_is_true(result, "in_force"))
        output_note("It is kept, but a capture thread that waits for its disks does not use it "
                    "yet.");
    json_decref(result);
    return EXIT_DONE;
}

static int add_run(const struct invocation *invocation, struct failure *failure)
{
    uint64_t at = 0;
    json_t *params = change_params(invocation, failure);
    if (!params)
        return failure->code;
    int code = options_number(invocation, "at", 1, RULES_MAX, &at, failure);
    char *text = code == 0 ? rule_operand(invocation, 1, failure) : NULL;
    if (!text) {
        json_decref(params);
        return failure->code;
    }
    json_object_set_new(params, "rule", json_string(text));
    if (at > 0)
        json_object_set_new(params, "at", json_integer((json_int_t)at));
    free(text);
    return change_ask(invocation, "rule.add", params, failure);
}

static int set_run(const struct invocation *invocation, struct failure *failure)
{
    uint64_t number;
    json_t *params = change_params(invocation, failure);
    if (!params)
        return failure->code;
    char *text = number_operand(invocation, 1, &number, failure) == 0
                     ? rule_operand(invocation, 2, failure)
                     : NULL;
    if (!text) {
        json_decref(params);
        return failure->code;
    }
    json_object_set_new(params, "number", json_integer((json_int_t)number));
    json_object_set_new(params, "rule", json_string(text));
    free(text);
    return change_ask(invocation, "rule.set", params, failure);
}

static int move_run(const struct invocation *invocation, struct failure *failure)
{
    uint64_t number;
    const char *direction = invocation->operand[2];
    json_t *params = change_params(invocation, failure);
    if (!params)
        return failure->code;
    int code = number_operand(invocation, 1, &number, failure);
    if (code == 0 && strcmp(direction, "up") != 0 && strcmp(direction, "down") != 0)
        code =
            fail(failure, ERR_INVALID, "\"%s\": expected up or down", output_printable(direction));
    if (code != 0) {
        json_decref(params);
        return code;
    }
    json_object_set_new(params, "number", json_integer((json_int_t)number));
    json_object_set_new(params, "direction", json_string(direction));
    return change_ask(invocation, "rule.move", params, failure);
}

static int delete_run(const struct invocation *invocation, struct failure *failure)
{
    uint64_t number;
    json_t *params = change_params(invocation, failure);
    if (!params)
        return failure->code;
    if (number_operand(invocation, 1, &number, failure) != 0) {
        json_decref(params);
        return failure->code;
    }
    json_object_set_new(params, "number", json_integer((json_int_t)number));
    return change_ask(invocation, "rule.delete", params, failure);
}

static int replace_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = change_params(invocation, failure);
    if (!params)
        return failure->code;
    char *text = rule_source_file(invocation->operand[1], failure);
    json_t *rules = text ? json_string(text) : NULL;
    free(text);
    if (!rules) {
        json_decref(params);
        return failure->code;
    }
    json_object_set_new(params, "rules", rules);
    return change_ask(invocation, "rule.replace", params, failure);
}

/* ---- list ---------------------------------------------------------------------------------- */

/* For a file as it is; for a terminal harmless. */
static void text_line(const char *text)
{
    printf("%s\n", isatty(STDOUT_FILENO) == 1 ? output_printable(text) : text);
}

static int list_run(const struct invocation *invocation, struct failure *failure)
{
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code != 0)
        return code;
    json_t *result = NULL;
    code = session_ask(invocation, SESSION_START | SESSION_RINGS, "rule.list",
                       json_pack("{s:s}", "ring", invocation->operand[0]), &result, failure);
    if (code != 0)
        return code;
    const json_t *rules = answer_array(result, "rules");
    size_t i;
    json_t *rule;
    if (output_is_json())
        output_json(result);
    else if (options_given(invocation, "text"))
        json_array_foreach(rules, i, rule) text_line(answer_text(rule, "text"));
    else if (json_array_size(rules) == 0)
        output_note("Ring %s has no rules: every packet is kept whole.", invocation->operand[0]);
    else
        rule_view(answer_array(result, "rules"), answer_object(result, "unmatched"), NULL);
    if (answer_text(result, "error")[0])
        output_error("these rules are not in force, every packet is kept whole: %s",
                     answer_text(result, "error"));
    else if (!answer_is_true(result, "in_force"))
        output_note("A capture waits for its disks: it has the rules before these until they answer.");
    json_decref(result);
    return EXIT_DONE;
}

/* ---- the rows ------------------------------------------------------------------------------ */

#define RULE_WORDS                                                                                \
    "A rule is  [not] CONDITION [and ...] : ACTION\n"                                             \
    "  CONDITION  all, mac ADDR, ip ADDR[/LEN], tcp port N[-M], udp port N[-M], port N[-M],\n"    \
    "             app NAME, vlan N, interface NAME, bpf 'EXPRESSION'; \"inner\" before ip and\n"  \
    "             ports looks inside tunnels\n"                                                   \
    "  ACTION     full, discard, snap N, headers l3, headers l3+l4, headers l3+l4+N,\n"           \
    "             flow N, sample 1/N\n"                                                           \
    "The first rule that matches applies; without one the whole packet is kept. Changes are in\n" \
    "force at once, also while recording."

static const struct option_row list_options[] = {
    {"text", 0, false, NULL, "the rules alone, one a line, as rule replace reads them"},
    {0},
};

const struct command rule_list_command = {
    .name = "rule list",
    .operands = "RING",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "the rules of a ring, and what each has matched",
    .details =
        "Counts are since the recorder started; bytes are those captured, and the sum of those\n"
        "stored, cut off and discarded.",
    .examples = "  tapeloop rule list dmz\n  tapeloop rule list dmz --text > dmz.rules",
    .options = list_options,
    .run = list_run,
};

#define REVISION_ROW                                                                           \
    {                                                                                          \
        "revision", 0, false, "N",                                                             \
            "only if the list is at this revision (rule list --json\ntells it): refused when " \
            "somebody else has changed it"                                                     \
    }

static const struct option_row add_options[] = {
    {"at", 0, false, "N", "make it rule N, those from there on move down\n(default: the last)"},
    REVISION_ROW,
    {0},
};

static const struct option_row change_options[] = {
    REVISION_ROW,
    {0},
};

const struct command rule_add_command = {
    .name = "rule add",
    .operands = "RING TEXT...",
    .operands_min = 2,
    .operands_max = UINT32_MAX,
    .summary = "add a rule to a ring",
    .details = RULE_WORDS,
    .examples = "  tapeloop rule add dmz 'tcp port 443 : headers l3+l4+64'\n"
                "  tapeloop rule add dmz 'ip 10.1.2.0/24 and not vlan 7 : discard' --at 1",
    .options = add_options,
    .run = add_run,
};

const struct command rule_set_command = {
    .name = "rule set",
    .operands = "RING N TEXT...",
    .operands_min = 3,
    .operands_max = UINT32_MAX,
    .summary = "change what a rule says",
    .details = RULE_WORDS,
    .examples = "  tapeloop rule set dmz 2 'udp port 53 : full'",
    .options = change_options,
    .run = set_run,
};

const struct command rule_move_command = {
    .name = "rule move",
    .operands = "RING N up|down",
    .operands_min = 3,
    .operands_max = 3,
    .summary = "move a rule one place up or down",
    .examples = "  tapeloop rule move dmz 3 up",
    .options = change_options,
    .run = move_run,
};

const struct command rule_delete_command = {
    .name = "rule delete",
    .operands = "RING N",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "delete a rule",
    .examples = "  tapeloop rule delete dmz 3",
    .options = change_options,
    .run = delete_run,
};

const struct command rule_replace_command = {
    .name = "rule replace",
    .operands = "RING FILE",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "take the rules of a file instead of those of a ring",
    .details = "One rule a line; empty lines and those that begin with # are passed over; - is\n"
               "standard input. Rules that stay keep their counters.",
    .examples = "  tapeloop rule replace dmz dmz.rules\n"
                "  tapeloop rule list dmz --text | grep -v vlan | tapeloop rule replace dmz -",
    .options = change_options,
    .run = replace_run,
};
