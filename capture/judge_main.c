/*
 * judge_main.c - the program tapeloop-judge: what rules would make of a capture file.
 *
 * Started by the recorder for rule.test (judging.c): the capture is standard input, the rules are
 * what can be read from descriptor 3, the first operand is the seed of sampling, the second the
 * name of the file. It gives up what it can before it looks at a packet, and writes one JSON object
 * to standard output:
 *
 *     {"packets", "bytes", "stored_packets", ... , "unmatched": COUNTERS,
 *      "rules": [{"number", "text", "counters": COUNTERS}], "until_known": null or a number,
 *      "error": null or {"code", "message"}}
 *
 * A file that is damaged is judged up to the damage: then "error" is not null. Where nothing could
 * be judged there is no "packets".
 *
 * With a third operand, "layer7", descriptor 4 is the memory of a tapeloop-classify that is here
 * for this alone (classifier_borrow()). Each packet that it is lent is waited for, so that the
 * answer is the same every time: a verdict holds from the packet on that comes after the one by
 * which nDPI recognised the flow, the earliest that a recorder could know it. To those before it,
 * and to flows that end without one, `until known` applies: "until_known" counts the packets for
 * which it did; null where no rule asks for layer 7.
 */
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "classifier.h"
#include "confinement.h"
#include "program.h"
#include "rule_text.h"
#include "source.h"

#define RULES_FD 3
#define LAYER7_FD 4
#define RULES_BYTES_MAX (20u << 20)
#define MEMORY_BYTES_MAX (UINT64_C(2) << 30)

struct judging {
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *state;
    struct source *source;
    struct classifier *classifier; /* null: no rule asks for layer 7 */
    struct classifier_port *port;
    uint64_t until_known; /* packets */
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

static int borrow_layer7(struct judging *judging, struct failure *failure)
{
    int code = classifier_borrow(LAYER7_FD, &judging->classifier, failure);
    return code == 0 ? classifier_port_open(judging->classifier, 0, &judging->port, failure) : code;
}

static int make_state(struct judging *judging, uint64_t seed, struct failure *failure)
{
    struct rule_program_options options = {0};
    struct rule_state_options state = {.seed = seed};
    int code = 0;
    if (judging->classifier)
        code = classifier_names(judging->classifier, &options.app, &options.apps, failure);
    if (code == 0)
        code = rule_program_build(&judging->list, &options, &judging->program, failure);
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

/* Waits until layer 7 has looked at all that it was lent, and hears what it made of it. */
static int await_layer7(struct judging *judging, struct failure *failure)
{
    for (;;) {
        struct classifier_counters counters;
        classifier_port_turn(judging->port);
        if (classifier_port_pending(judging->port) == 0)
            break;
        sched_yield();
        classifier_counters(judging->classifier, &counters);
        if (!counters.running)
            return fail(failure, ERR_CLOSED, "layer 7 has ended in the middle of the test");
    }
    classifier_port_turn(judging->port); /* what it said before it took the last one */
    return 0;
}

static int judge_asking(struct judging *judging, const struct source_batch *batch,
                        struct failure *failure)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct packet *packet = &batch->packet[i];
        struct decoded_packet decoded;
        struct rule_outcome outcome;
        decode_packet(judging->link_type[packet->interface], packet->bytes, packet->captured_bytes,
                      &decoded);
        struct rule_verdict verdict = classifier_verdict(judging->port, packet, &decoded);
        rule_state_apply(judging->state, packet, &decoded, verdict, &outcome);
        judging->until_known += verdict.unknown && outcome.rule > 0 &&
                                rule_has(&judging->list.rule[outcome.rule - 1], CONDITION_APP);
        int code = await_layer7(judging, failure);
        if (code != 0)
            return code;
    }
    return 0;
}

static void judge_alone(struct judging *judging, const struct source_batch *batch)
{
    struct decoded_packet decoded[DECODE_BATCH];
    struct rule_outcome outcome[DECODE_BATCH];
    for (uint32_t from = 0; from < batch->count; from += DECODE_BATCH) {
        uint32_t left = batch->count - from, count = left < DECODE_BATCH ? left : DECODE_BATCH;
        decode_batch(&batch->packet[from], count, left - count, judging->link_type, decoded);
        rule_state_apply_batch(judging->state, &batch->packet[from], decoded, NULL, count, outcome);
    }
}

static int judge(struct judging *judging, struct failure *failure)
{
    static struct source_batch batch;
    int result;
    while ((result = source_next(judging->source, &batch, -1)) >= 0) {
        int code = interfaces_grow(judging, failure);
        if (code == 0 && judging->port)
            code = judge_asking(judging, &batch, failure);
        else if (code == 0)
            judge_alone(judging, &batch);
        if (code != 0)
            return code;
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
    json_object_set_new(total, "until_known",
                        judging->port ? json_integer((json_int_t)judging->until_known)
                                      : json_null());
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
    bool layer7 = argc == 4 && strcmp(argv[3], "layer7") == 0;
    if (argc != 3 && !layer7) {
        fprintf(stderr, "tapeloop-judge is started by tapeloopd, not by hand\n");
        return 2;
    }
    int code = confinement_begin(CONFINEMENT_READING, &failure);
    if (code == 0)
        code = confinement_limit(MEMORY_BYTES_MAX, &failure);
    if (code == 0)
        code = read_rules(&judging, &failure);
    if (code == 0 && layer7)
        code = borrow_layer7(&judging, &failure);
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
