/*
 * judge_main.c - the program tapeloop-judge: what rules would make of a capture file.
 *
 * Started by the recorder for rule.test (judging.c): the capture is standard input, the rules are what can be read from
 * descriptor 3, the first operand is the seed of sampling, the second the name of the file. It
 * gives up what it can before it looks at a packet, and writes one JSON object to standard output:
 *
 *     {"packets", "bytes", "stored_packets", ... , "unmatched": COUNTERS,
 *      "rules": [{"number", "text", "counters": COUNTERS}], "error": null or {"code", "message"}}
 *
 * A file that is damaged is judged up to the damage: then "error" is not null. Where nothing could
 * be judged there is no "packets".
 *
 * Layer 7 is not asked: for `app`, every flow is one that has not been judged yet.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "confinement.h"
#include "program.h"
#include "rule_text.h"
#include "source.h"

#define RULES_FD 3
#define RULES_BYTES_MAX (20u << 20)
#define MEMORY_BYTES_MAX (UINT64_C(2) << 30)

struct judging {
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *state;
    struct source *source;
    const char **app; /* the names in the rules */
    uint16_t *link_type;
    uint32_t interfaces;
};

/* ---- what there is to judge by -------------------------------------------------------------- */

static int read_rules(struct judging *judging, struct failure *failure)
{
    char *text = malloc(RULES_BYTES_MAX + 1);
    size_t used = 0;
    ssize_t got = text ? 1 : -1;
    while (got > 0 && used < RULES_BYTES_MAX) {
        got = read(RULES_FD, text + used, RULES_BYTES_MAX - used);
        used += got > 0 ? (size_t)got : 0;
    }
    if (got < 0 || used == RULES_BYTES_MAX) {
        free(text);
        return fail(failure, ERR_INVALID, "the rules cannot be read");
    }
    text[used] = '\0';
    int code = rule_list_parse(text, &judging->list, NULL, failure);
    free(text);
    return code;
}

/* All protocols that the rules name count as known to layer 7, which has not judged yet. */
static uint32_t collect_apps(struct judging *judging)
{
    const struct rule_list *list = &judging->list;
    uint32_t apps = 0;
    judging->app = calloc((size_t)list->count * RULE_CONDITIONS_MAX + 1, sizeof *judging->app);
    for (uint32_t i = 0; judging->app && i < list->count; i++)
        for (uint32_t k = 0; k < list->rule[i].conditions; k++)
            if (list->rule[i].condition[k].kind == CONDITION_APP && apps < UINT16_MAX)
                judging->app[apps++] = list->rule[i].condition[k].text;
    return apps;
}

static int make_state(struct judging *judging, uint64_t seed, struct failure *failure)
{
    uint32_t apps = collect_apps(judging);
    if (!judging->app)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    struct rule_program_options options = {.app = judging->app, .apps = apps};
    struct rule_state_options state = {.seed = seed};
    int code = rule_program_build(&judging->list, &options, &judging->program, failure);
    return code == 0 ? rule_state_open(judging->program, &state, &judging->state, failure) : code;
}

/* ---- judging -------------------------------------------------------------------------------- */

static int interfaces_grow(struct judging *judging, struct failure *failure)
{
    struct source *source = judging->source;
    uint32_t interfaces = source->ops->interfaces(source);
    if (interfaces == judging->interfaces)
        return 0;
    uint16_t *grown = realloc(judging->link_type, interfaces * sizeof *grown);
    if (!grown)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    judging->link_type = grown;
    for (; judging->interfaces < interfaces; judging->interfaces++) {
        const struct interface_description *one =
            source->ops->interface(source, judging->interfaces);
        judging->link_type[judging->interfaces] = one->link_type;
        int code = rule_state_interface(judging->state, judging->interfaces, one, failure);
        if (code != 0)
            return code;
    }
    return 0;
}

static int judge(struct judging *judging, struct failure *failure)
{
    static struct source_batch batch;
    struct decoded_packet decoded;
    struct rule_outcome outcome;
    int result;
    while ((result = source_next(judging->source, &batch, -1)) >= 0) {
        int code = interfaces_grow(judging, failure);
        if (code != 0)
            return code;
        for (uint32_t i = 0; i < batch.count; i++) {
            const struct packet *packet = &batch.packet[i];
            decode_packet(judging->link_type[packet->interface], packet->bytes,
                          packet->captured_bytes, &decoded);
            rule_state_apply(judging->state, packet, &decoded, RULE_VERDICT_UNKNOWN, &outcome);
        }
        source_release(judging->source, &batch);
    }
    if (result == ERR_END)
        return 0;
    *failure = judging->source->failure;
    return result;
}

/* ---- the answer ----------------------------------------------------------------------------- */

static json_t *json_of(const struct rule_counters *counters)
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

static void add_number(json_t *total, const char *name, const json_t *value)
{
    json_int_t sum = json_integer_value(json_object_get(total, name)) + json_integer_value(value);
    json_object_set_new(total, name, json_integer(sum));
}

static void add_up(json_t *total, const json_t *counters)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)counters, name, value) add_number(total, name, value);
}

static json_t *answer(const struct judging *judging)
{
    json_t *total = json_object(), *rules = json_array();
    for (uint32_t number = 0; number <= judging->list.count; number++) {
        struct rule_counters counted;
        rule_state_counters(judging->state, number, &counted);
        json_t *counters = json_of(&counted);
        add_up(total, counters);
        if (number == 0) {
            json_object_set_new(total, "unmatched", counters);
            continue;
        }
        char *text = rule_print(&judging->list.rule[number - 1]);
        json_array_append_new(rules, json_pack("{s:I, s:s, s:o}", "number", (json_int_t)number,
                                               "text", text ? text : "", "counters", counters));
        free(text);
    }
    json_object_set_new(total, "rules", rules);
    return total;
}

static int say(json_t *object, const struct failure *failure)
{
    char text[sizeof failure->text];
    snprintf(text, sizeof text, "%s", failure->text);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?'; /* whatever a file calls itself, the answer is UTF-8 */
    json_object_set_new(object, "error",
                        failure->code == 0 ? json_null()
                                           : json_pack("{s:s, s:s}", "code",
                                                       error_name(failure->code), "message", text));
    int code = json_dumpf(object, stdout, JSON_COMPACT);
    if (code == 0)
        code = fflush(stdout);
    json_decref(object);
    return code == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct judging judging = {0};
    struct failure failure = {0};
    if (argc != 3) {
        fprintf(stderr, "tapeloop-judge is started by tapeloopd, not by hand\n");
        return 2;
    }
    int code = confinement_begin(CONFINEMENT_READING, &failure);
    if (code == 0)
        code = confinement_limit(MEMORY_BYTES_MAX, &failure);
    if (code == 0)
        code = read_rules(&judging, &failure);
    if (code == 0)
        code = make_state(&judging, strtoull(argv[1], NULL, 10), &failure);
    if (code == 0)
        code = confinement_finish(CONFINEMENT_READING, &failure);
    if (code == 0)
        code = source_file_open(STDIN_FILENO, argv[2], &judging.source, &failure);
    if (code != 0)
        return say(json_object(), &failure);
    (void)judge(&judging, &failure);
    return say(answer(&judging), &failure);
}
