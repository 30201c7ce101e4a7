/*
 * test_rules_captures.c - every packet of the shared captures under many rule lists, against the
 * oracle; and every truncation of every packet decoded.
 *
 *     test_rules_captures [FILE...]
 *
 * Captures are read from $TAPELOOP_CAPTURES or ../shared/captures beside the source tree; without
 * them this is skipped. The lists are in tests/golden/rules/captures.lists. For each packet and
 * list, the rule that matched, what is done and how many bytes are kept must be what rules_oracle.h
 * says, and each rule's counters must add up to it. Lists without `app` decide twice: about packets
 * that were decoded, and about the same where nobody has. Truncated packets lie in memory of
 * exactly their length, so that a sanitizer sees a read beyond; short ones go through the oracle
 * too.
 */
#include <assert.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode.h"
#include "program.h"
#include "rule_text.h"
#include "rules_oracle.h"
#include "source.h"

#define LISTS_MAX 64
#define ORACLE_TRUNCATION_MAX 400 /* longer ones are decoded only */

static struct {
    struct rule_list list;
    struct rule_program *program;
} set[LISTS_MAX];
static unsigned sets;

static const char *const app_names[] = {"tls", "http", "dns"};

static unsigned failures;
static unsigned long packets_checked, truncations, judgements;

static void complain(const char *file, unsigned long packet, const char *what)
{
    if (failures++ < 40)
        printf("FAILED %s, packet %lu: %s\n", file, packet, what);
}

static void load_lists(const char *root)
{
    char path[4096], line[RULE_TEXT_MAX], text[65536] = "";
    snprintf(path, sizeof path, "%s/tests/golden/rules/captures.lists", root);
    FILE *in = fopen(path, "r");
    if (in == NULL) {
        perror(path);
        exit(1);
    }
    const struct rule_program_options options = {.app = app_names, .apps = 3};
    bool more = true;
    while (more) {
        more = fgets(line, sizeof line, in) != NULL;
        if (more && line[0] != '=') {
            strcat(text, line);
            continue;
        }
        struct failure failure = {0};
        if (text[strspn(text, " \n")] != '\0') {
            assert(sets < LISTS_MAX);
            if (rule_list_parse(text, &set[sets].list, NULL, &failure) < 0 ||
                rule_program_build(&set[sets].list, &options, &set[sets].program, &failure) < 0) {
                printf("list %u: %s\n", sets + 1, failure.text);
                exit(1);
            }
            sets++;
        }
        text[0] = '\0';
    }
    fclose(in);
}

/* A verdict that depends on the packet alone, so that both sides can have it. */
static void verdict_of(const struct packet *packet, struct oracle_packet *asked,
                       struct rule_verdict *verdict)
{
    unsigned draw = packet->captured_bytes % 5;
    *verdict = RULE_VERDICT_NONE;
    asked->app_unknown = verdict->unknown = draw == 0;
    if (draw >= 1 && draw <= 3) {
        verdict->app[draw & 1] = (uint16_t)draw;
        asked->app[draw & 1] = app_names[draw - 1];
    }
}

/* Packets that are judged together, as the pipeline does it. */
#define TOGETHER_MAX 80

static void compare(const char *file, unsigned long number, unsigned list,
                    const struct oracle_packet *asked, const struct rule_outcome *outcome,
                    const struct oracle_outcome *wanted)
{
    judgements++;
    char decision = "sdo"[outcome->decision];
    if (outcome->rule == wanted->rule && outcome->keep_bytes == wanted->keep_bytes &&
        decision == wanted->decision &&
        outcome->cut == (decision == 's' && outcome->keep_bytes < asked->packet.captured_bytes))
        return;
    char what[300];
    snprintf(what, sizeof what,
             "list %u, link type %u, %u bytes: rule %u keeps %u (%c); the oracle says rule %u "
             "keeps %u (%c)",
             list + 1, asked->link_type, asked->packet.captured_bytes, outcome->rule,
             outcome->keep_bytes, decision, wanted->rule, wanted->keep_bytes, wanted->decision);
    complain(file, number, what);
}

/* Judges `count` packets, the first of which is `number`; `wanted` gets what the oracle says. */
static void judge(const char *file, unsigned long number, unsigned list,
                  struct rule_state *const state[2], const struct oracle_packet *given,
                  uint32_t count, const uint16_t *link_type, struct oracle_memory *memory,
                  struct oracle_outcome *wanted)
{
    static struct decoded_packet decoded[TOGETHER_MAX];
    struct oracle_packet asked[TOGETHER_MAX];
    struct packet packet[TOGETHER_MAX];
    struct rule_verdict verdict[TOGETHER_MAX];
    struct rule_outcome outcome[TOGETHER_MAX];
    for (uint32_t i = 0; i < count; i++) {
        asked[i] = given[i];
        packet[i] = given[i].packet;
        verdict_of(&packet[i], &asked[i], &verdict[i]);
        oracle_apply(&set[list].list, &asked[i], memory, &wanted[i]);
    }
    bool decodes = rule_program_needs_decoding(set[list].program);
    if (decodes)
        decode_batch(packet, count, 0, link_type, decoded);
    rule_state_apply_batch(state[0], packet, decodes ? decoded : NULL, verdict, count, outcome);
    for (uint32_t i = 0; i < count; i++)
        compare(file, number + i, list, &asked[i], &outcome[i], &wanted[i]);
    if (rule_program_needs_app(set[list].program))
        return;
    for (uint32_t from = 0, some; from < count; from += some) {
        some = count - from < DECODE_BATCH ? count - from : DECODE_BATCH;
        bool alike = rule_state_judge(state[1], packet + from, some, count - from - some, link_type,
                                      outcome + from);
        for (uint32_t i = from + 1; alike && i < from + some; i++) {
            outcome[i] = outcome[from];
            outcome[i].keep_bytes = packet[i].captured_bytes;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        compare(file, number + i, list, &asked[i], &outcome[i], &wanted[i]);
}

static void check_counters(const char *file, unsigned list, const struct rule_state *state,
                           const struct rule_counters *wanted)
{
    for (uint32_t i = 0; i <= set[list].list.count; i++) {
        struct rule_counters counters;
        rule_state_counters(state, i, &counters);
        if (memcmp(&counters, &wanted[i], sizeof counters) != 0 ||
            counters.bytes !=
                counters.stored_bytes + counters.cut_bytes + counters.discarded_bytes ||
            counters.packets != counters.stored_packets + counters.discarded_packets)
            complain(file, 0, "the counters of a rule are not what was done");
    }
}

static void add_up(struct rule_counters *counters, const struct packet *packet,
                   const struct oracle_outcome *outcome)
{
    bool stored = outcome->decision == 's';
    bool cut = stored && outcome->keep_bytes < packet->captured_bytes;
    counters->packets++;
    counters->bytes += packet->captured_bytes;
    counters->stored_packets += stored;
    counters->stored_bytes += outcome->keep_bytes;
    counters->cut_packets += cut;
    counters->cut_bytes += cut ? packet->captured_bytes - outcome->keep_bytes : 0;
    counters->discarded_packets += !stored;
    counters->discarded_bytes += stored ? 0 : packet->captured_bytes;
}

static bool same_decoding(const struct decoded_packet *a, const struct decoded_packet *b)
{
    if (a->flags != b->flags || a->ethertype != b->ethertype || a->levels != b->levels ||
        a->tags != b->tags || a->labels != b->labels || a->mac_source_at != b->mac_source_at ||
        a->mac_destination_at != b->mac_destination_at || a->l2_end != b->l2_end ||
        a->l3_end != b->l3_end || a->l4_end != b->l4_end)
        return false;
    return memcmp(a->tag, b->tag, a->tags * sizeof a->tag[0]) == 0 &&
           memcmp(a->level, b->level, a->levels * sizeof a->level[0]) == 0;
}

static void check_truncations(const char *file, unsigned long number,
                              const struct oracle_packet *given, const uint16_t *link_type,
                              struct rule_state *const state[2], unsigned list,
                              struct oracle_memory *memory)
{
    for (uint32_t bytes = 0; bytes <= given->packet.captured_bytes; bytes++) {
        struct decoded_packet decoded, slowly;
        struct oracle_outcome wanted;
        uint8_t *copy = malloc(bytes != 0 ? bytes : 1);
        assert(copy != NULL);
        memcpy(copy, given->packet.bytes, bytes);
        memset(&decoded, 0, sizeof decoded);
        memset(&slowly, 0, sizeof slowly);
        const uint8_t *at = bytes != 0 ? copy : copy + 1; /* not even one byte may be read */
        decode_packet(given->link_type, at, bytes, &decoded);
        decode_packet_slowly(given->link_type, at, bytes, &slowly);
        if (!same_decoding(&decoded, &slowly))
            complain(file, number, "the short cut of decoding says something else");
        truncations++;
        if (bytes <= ORACLE_TRUNCATION_MAX) {
            struct oracle_packet cut = *given;
            cut.packet.bytes = at;
            cut.packet.captured_bytes = bytes;
            judge(file, number, list, state, &cut, 1, link_type, memory, &wanted);
        }
        free(copy);
    }
}

static void check_file(const char *file)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    struct source *source = NULL;
    struct failure failure = {0};
    static struct source_batch batch;
    struct oracle_packet *held = NULL;
    size_t count = 0;
    if (fd < 0 || source_file_open(fd, "file", &source, &failure) < 0)
        return; /* what is no capture is tested elsewhere */
    while (source_next(source, &batch, 1000) > 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            held = realloc(held, (count + 1) * sizeof *held);
            assert(held != NULL);
            struct packet packet = batch.packet[i];
            const struct interface_description *about =
                source->ops->interface(source, packet.interface);
            uint8_t *bytes = malloc(packet.captured_bytes + 1);
            assert(bytes != NULL);
            packet.bytes = memcpy(bytes, packet.bytes, packet.captured_bytes);
            held[count++] =
                (struct oracle_packet){packet, about->link_type, "file", false, {NULL, NULL}};
        }
        source_release(source, &batch);
    }
    uint32_t interfaces = source->ops->interfaces(source);
    uint16_t *link_type = calloc(interfaces + 1, sizeof *link_type);
    assert(link_type != NULL);
    for (uint32_t i = 0; i < interfaces; i++)
        link_type[i] = source->ops->interface(source, i)->link_type;
    for (unsigned list = 0; list < sets; list++) {
        struct rule_state *state[2]; /* for packets that were decoded, and for others */
        struct oracle_memory memory = {0}, none = {0};
        struct rule_counters wanted[RULES_MAX + 1];
        memset(wanted, 0, (set[list].list.count + 1) * sizeof *wanted);
        for (unsigned which = 0; which < 2; which++) {
            int result = rule_state_open(set[list].program, NULL, &state[which], &failure);
            assert(result == 0);
            for (uint32_t i = 0; i < interfaces; i++) {
                struct interface_description about = *source->ops->interface(source, i);
                snprintf(about.name, sizeof about.name, "file");
                result = rule_state_interface(state[which], i, &about, &failure);
                assert(result == 0);
            }
        }
        uint32_t together = 1; /* batches of all lengths */
        for (size_t from = 0; from < count; from += together) {
            struct oracle_outcome outcome[TOGETHER_MAX];
            together = (uint32_t)((from + list) % TOGETHER_MAX) + 1;
            if (together > count - from)
                together = (uint32_t)(count - from);
            judge(file, from + 1, list, state, &held[from], together, link_type, &memory, outcome);
            for (uint32_t i = 0; i < together; i++)
                add_up(&wanted[outcome[i].rule], &held[from + i].packet, &outcome[i]);
        }
        check_counters(file, list, state[0], wanted);
        if (!rule_program_needs_app(set[list].program))
            check_counters(file, list, state[1], wanted);
        if (list < 2) { /* the first two lists look at everything and remember nothing */
            for (size_t i = 0; i < count; i++)
                check_truncations(file, i + 1, &held[i], link_type, state, list, &none);
        }
        oracle_forget(&memory);
        oracle_forget(&none);
        rule_state_close(&state[0]);
        rule_state_close(&state[1]);
    }
    packets_checked += count;
    for (size_t i = 0; i < count; i++)
        free((void *)held[i].packet.bytes);
    free(held);
    free(link_type);
    source_close(&source);
}

int main(int argc, char **argv)
{
    const char *root = getenv("TAPELOOP_SOURCE"), *captures = getenv("TAPELOOP_CAPTURES");
    char beside[4096];
    if (root == NULL)
        root = ".";
    snprintf(beside, sizeof beside, "%s/../shared/captures", root);
    if (captures == NULL)
        captures = beside;
    struct stat about;
    if (argc == 1 && stat(captures, &about) != 0) {
        printf("skipped: there are no captures in %s\n", captures);
        return 77;
    }
    load_lists(root);
    unsigned files = 0;
    char *const paths[] = {(char *)captures, NULL};
    if (argc > 1) {
        for (int i = 1; i < argc; i++, files++)
            check_file(argv[i]);
    } else {
        FTS *walk = fts_open(paths, FTS_LOGICAL | FTS_NOSTAT, NULL);
        for (FTSENT *entry; (entry = fts_read(walk)) != NULL;) {
            if (strstr(entry->fts_name, ".pcap") != NULL) {
                check_file(entry->fts_path);
                files++;
            }
        }
        fts_close(walk);
    }
    printf("%u files, %lu packets, %u lists, %lu judgements, %lu truncations, %u failures\n", files,
           packets_checked, sets, judgements, truncations, failures);
    for (unsigned i = 0; i < sets; i++) {
        rule_list_clear(&set[i].list);
        rule_program_release(&set[i].program);
    }
    oracle_forget_expressions();
    return failures != 0 || packets_checked == 0;
}
