/*
 * test_rules_golden.c - the rule language by golden files: the *.rules below tests/golden/rules.
 *
 *     = what this list is about
 *     @ app NAME...                     layer 7 is available, and knows these
 *     RULE                              the list, one line a rule
 *     > PACKET -> RULE store BYTES      a packet (packet_maker.h), and what must become of it:
 *     > PACKET -> RULE discard          the rule's number, '-' for none, and what is done
 *     > PACKET -> RULE sampled
 *
 *     ! COLUMN | TEXT | WORDS           a text that must be refused at that column, with a sentence
 *                                       that holds these words
 *     ? TEXT | WORDS                    a rule that parses but must be refused when it is compiled
 *
 * Every list is also printed and parsed again, turned into JSON and back, and every packet put
 * before the oracle, and, where there is no layer 7, before the rules without being decoded.
 * Interfaces 0 to 2 are eth0, eth1 and uplink, of each packet's own link type.
 *
 *     test_rules_golden --write    fills in what the packets without "->" now get, to be reviewed
 */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit_test.h"

#include "decode.h"
#include "packet_maker.h"
#include "program.h"
#include "rule_json.h"
#include "rule_text.h"
#include "rules_oracle.h"

#define LINE_MAX_BYTES 8192
#define APPS_MAX 8

static const char *const interfaces[] = {"eth0", "eth1", "uplink"};

struct golden {
    const char *path;
    unsigned line;
    char title[200];
    char app[APPS_MAX][64];
    const char *app_name[APPS_MAX];
    unsigned apps;
    bool has_app;
    char text[65536];
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *state;
    struct rule_state *judging; /* for rule_state_judge() */
    struct oracle_memory memory;
    unsigned packets; /* of the present list */
    unsigned lists, all_packets, refusals;
    FILE *rewritten;
};

static void golden_close(struct golden *g)
{
    oracle_forget(&g->memory);
    rule_state_close(&g->state);
    rule_state_close(&g->judging);
    rule_program_release(&g->program);
    rule_list_clear(&g->list);
}

static void wrong(const struct golden *g, const char *what)
{
    fail_msg("%s:%u: (%s) %s", g->path, g->line, g->title, what);
}

static void check_equal(const struct golden *g, const struct rule_list *a,
                        const struct rule_list *b, const char *what)
{
    if (a->count != b->count)
        wrong(g, what);
    for (uint32_t i = 0; i < a->count; i++) {
        if (!rule_equal(&a->rule[i], &b->rule[i]))
            wrong(g, what);
    }
}

/* Text to list to text to list, and to JSON and back, by parts and by text. */
static void check_forms(const struct golden *g)
{
    struct rule_list again;
    struct failure failure = {0};
    char *printed = rule_list_print(&g->list);
    assert_non_null(printed);
    if (rule_list_parse(printed, &again, NULL, &failure) < 0)
        wrong(g, failure.text);
    check_equal(g, &g->list, &again, "what is printed parses to something else");
    rule_list_clear(&again);
    free(printed);

    json_t *json = rule_list_to_json(&g->list), *rule;
    size_t i;
    assert_non_null(json);
    if (rule_list_from_json(json, &again, &failure) < 0)
        wrong(g, failure.text);
    check_equal(g, &g->list, &again, "the JSON form says something else");
    rule_list_clear(&again);
    json_array_foreach(json, i, rule) json_object_del(rule, "text");
    if (rule_list_from_json(json, &again, &failure) < 0)
        wrong(g, failure.text);
    check_equal(g, &g->list, &again, "the JSON form without text says something else");
    rule_list_clear(&again);
    json_decref(json);
}

/* The rules have been read: what follows are packets. */
static void golden_open(struct golden *g)
{
    struct failure failure = {0};
    const struct rule_program_options options = {.app = g->has_app ? g->app_name : NULL,
                                                 .apps = g->apps};
    if (g->program != NULL)
        return;
    if (rule_list_parse(g->text, &g->list, NULL, &failure) < 0 ||
        rule_program_build(&g->list, &options, &g->program, &failure) < 0 ||
        rule_state_open(g->program, NULL, &g->state, &failure) < 0 ||
        rule_state_open(g->program, NULL, &g->judging, &failure) < 0)
        wrong(g, failure.text);
    check_forms(g);
    g->lists++;
}

static uint16_t app_number(const struct golden *g, const char *name)
{
    for (unsigned i = 0; i < g->apps; i++) {
        if (strcmp(g->app[i], name) == 0)
            return (uint16_t)(i + 1);
    }
    return 0;
}

static void print_outcome(char *text, size_t room, uint32_t rule, char decision,
                          uint32_t keep_bytes)
{
    char number[12] = "-";
    if (rule > 0)
        snprintf(number, sizeof number, "%u", rule);
    if (decision == 's')
        snprintf(text, room, "%s store %u", number, keep_bytes);
    else
        snprintf(text, room, "%s %s", number, decision == 'd' ? "discard" : "sampled");
}

/* Packets that nobody has decoded: the outcome must be the same. */
static void check_judge(struct golden *g, const struct made_packet *made,
                        const struct interface_description *about,
                        const struct rule_outcome *wanted)
{
    struct rule_outcome outcome;
    uint16_t link_type[COUNT(interfaces)] = {0};
    link_type[made->packet.interface] = made->link_type;
    assert_int_equal(rule_state_interface(g->judging, made->packet.interface, about, NULL), 0);
    rule_state_judge(g->judging, &made->packet, 1, 0, link_type, &outcome);
    if (outcome.rule != wanted->rule || outcome.decision != wanted->decision ||
        outcome.keep_bytes != wanted->keep_bytes || outcome.cut != wanted->cut)
        wrong(g, "without decoding, it is decided otherwise");
}

static void do_packet(struct golden *g, char *line)
{
    static struct made_packet made;
    char error[200], text[60], theirs[60];
    char *wanted = strstr(line, " -> ");
    if (wanted != NULL) {
        *wanted = '\0';
        wanted += 4;
    }
    golden_open(g);
    if (packet_make(line + 2, &made, error) < 0)
        wrong(g, error);
    assert_true(made.packet.interface < COUNT(interfaces));
    struct interface_description about = {.link_type = made.link_type};
    snprintf(about.name, sizeof about.name, "%s", interfaces[made.packet.interface]);
    assert_int_equal(rule_state_interface(g->state, made.packet.interface, &about, NULL), 0);

    struct rule_verdict verdict = {made.app_unknown,
                                   {app_number(g, made.app[0]), app_number(g, made.app[1])}};
    struct oracle_packet asked = {.packet = made.packet,
                                  .link_type = made.link_type,
                                  .interface = about.name,
                                  .app_unknown = made.app_unknown,
                                  .app = {made.app[0], made.app[1]}};
    struct decoded_packet decoded;
    struct rule_outcome outcome;
    struct oracle_outcome oracle;
    /* A copy of exactly the captured bytes, for sanitizers. */
    uint8_t *copy = malloc(made.packet.captured_bytes + 1u);
    assert_non_null(copy);
    memcpy(copy + 1, made.packet.bytes, made.packet.captured_bytes);
    asked.packet.bytes = made.packet.bytes = copy + 1;
    decode_packet(made.link_type, made.packet.bytes, made.packet.captured_bytes, &decoded);
    rule_state_apply(g->state, &made.packet,
                     rule_program_needs_decoding(g->program) ? &decoded : NULL, verdict, &outcome);
    if (!rule_program_needs_app(g->program))
        check_judge(g, &made, &about, &outcome);
    oracle_apply(&g->list, &asked, &g->memory, &oracle);
    free(copy);
    print_outcome(text, sizeof text, outcome.rule, "sdo"[outcome.decision], outcome.keep_bytes);
    print_outcome(theirs, sizeof theirs, oracle.rule, oracle.decision, oracle.keep_bytes);
    if (g->rewritten != NULL)
        fprintf(g->rewritten, "%s -> %s\n", line, wanted != NULL ? wanted : text);
    else if (wanted == NULL || strcmp(wanted, text) != 0)
        wrong(g, text);
    if (strcmp(text, theirs) != 0)
        wrong(g, theirs);
    g->packets++;
    g->all_packets++;
}

/* Splits at " | "; the parts are trimmed of nothing else. */
static unsigned split_bars(char *line, char *part[3])
{
    unsigned parts = 0;
    for (char *rest = line; rest != NULL && parts < 3; parts++) {
        part[parts] = rest;
        rest = parts < 2 ? strstr(rest, " | ") : NULL;
        if (rest != NULL) {
            *rest = '\0';
            rest += 3;
        }
    }
    return parts;
}

static void do_refusal(struct golden *g, char *line)
{
    char *part[3];
    struct rule rule;
    struct rule_place place = {0};
    struct failure failure = {0};
    assert_int_equal(split_bars(line + 2, part), 3);
    uint32_t column = (uint32_t)strtoul(part[0], NULL, 10);
    snprintf(g->title, sizeof g->title, "%.199s", part[1]);
    if (rule_parse(part[1], &rule, &place, &failure) == 0)
        wrong(g, "is not refused");
    char begin[40], what[700];
    snprintf(begin, sizeof begin, "column %u: expected", column);
    snprintf(what, sizeof what, "is refused otherwise: %s", failure.text);
    if (place.column != column || place.line != 1 || rule.conditions != 0 ||
        strncmp(failure.text, begin, strlen(begin)) != 0 || strstr(failure.text, part[2]) == NULL)
        wrong(g, what);

    /* As the third line of a list, too. */
    char list_text[LINE_MAX_BYTES + 40];
    struct rule_list list;
    snprintf(list_text, sizeof list_text, "# a comment\nall : full\n%s\nall : full\n", part[1]);
    if (strspn(part[1], " \t") != strlen(part[1]) && part[1][strspn(part[1], " \t")] != '#') {
        assert_true(rule_list_parse(list_text, &list, &place, &failure) < 0);
        assert_int_equal(place.line, 3);
        assert_int_equal(place.column, column);
        assert_int_equal(list.count, 0);
    }
    g->refusals++;
}

static void do_compile_refusal(struct golden *g, char *line)
{
    char *part[3];
    struct rule_list list;
    struct rule_program *program;
    struct failure failure = {0};
    const struct rule_program_options options = {.app = g->has_app ? g->app_name : NULL,
                                                 .apps = g->apps};
    assert_int_equal(split_bars(line + 2, part), 2);
    assert_int_equal(rule_list_parse(part[0], &list, NULL, &failure), 0);
    if (rule_program_build(&list, &options, &program, &failure) == 0)
        wrong(g, "is not refused when it is compiled");
    assert_null(program);
    if (strstr(failure.text, part[1]) == NULL)
        wrong(g, failure.text);
    rule_list_clear(&list);
    g->refusals++;
}

static void do_line(struct golden *g, char *line)
{
    switch (line[0]) {
    case '=':
        golden_close(g);
        if (g->title[0] != '\0' && g->text[0] != '\0' && g->packets == 0)
            wrong(g, "a list without packets");
        g->packets = g->apps = 0;
        g->has_app = false;
        g->text[0] = '\0';
        snprintf(g->title, sizeof g->title, "%.199s", line + 2);
        break;
    case '@': {
        char *save = NULL;
        g->has_app = true;
        strtok_r(line + 2, " ", &save);
        for (char *name; (name = strtok_r(NULL, " ", &save)) != NULL; g->apps++) {
            assert_true(g->apps < APPS_MAX);
            snprintf(g->app[g->apps], sizeof g->app[0], "%.63s", name);
            g->app_name[g->apps] = g->app[g->apps];
        }
        break;
    }
    case '>':
        do_packet(g, line);
        break;
    case '!':
        do_refusal(g, line);
        break;
    case '?':
        do_compile_refusal(g, line);
        break;
    case '#':
    case '\0':
        break;
    default:
        assert_true(strlen(g->text) + strlen(line) + 2 < sizeof g->text);
        strcat(g->text, line);
        strcat(g->text, "\n");
    }
}

static bool rewriting;

static void run_file(struct golden *g, const char *path)
{
    char line[LINE_MAX_BYTES], copy[LINE_MAX_BYTES], temporary[4096];
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    g->path = path;
    g->line = 0;
    snprintf(temporary, sizeof temporary, "%s.new", path);
    if (rewriting)
        g->rewritten = fopen(temporary, "w");
    while (fgets(line, sizeof line, in) != NULL) {
        g->line++;
        line[strcspn(line, "\n")] = '\0';
        snprintf(copy, sizeof copy, "%s", line);
        do_line(g, line);
        if (g->rewritten != NULL && copy[0] != '>')
            fprintf(g->rewritten, "%s\n", copy);
    }
    fclose(in);
    if (g->rewritten != NULL) {
        fclose(g->rewritten);
        g->rewritten = NULL;
        assert_int_equal(rename(temporary, path), 0);
    }
    golden_close(g);
}

static void test_golden(void **unused)
{
    (void)unused;
    static struct golden g;
    const char *root = getenv("TAPELOOP_SOURCE");
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/tests/golden/rules/*.rules", root != NULL ? root : ".");
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        g.title[0] = g.text[0] = '\0';
        g.packets = g.apps = 0;
        g.has_app = false;
        run_file(&g, found.gl_pathv[i]);
    }
    globfree(&found);
    oracle_forget_expressions();
    print_message("%u lists, %u packets, %u refusals\n", g.lists, g.all_packets, g.refusals);
    assert_true(g.lists >= 150);
    assert_true(g.refusals >= 40);
}

int main(int argc, char **argv)
{
    rewriting = argc > 1 && strcmp(argv[1], "--write") == 0;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
