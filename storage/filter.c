/*
 * filter.c - asks libpcap for the program of each link type.
 *
 * libpcap has no public function from the LINKTYPE_ of a file to the DLT_ of its compiler, and its
 * own mapping has exceptions. So each program is compiled on a handle opened on an empty capture
 * file of that link type, in memory: whatever `tcpdump -r` would do with such a file, this does.
 */
#include "filter.h"

#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "filter_words.h"

#define SNAPSHOT_BYTES 262144u
#define NETWORK_MASK \
    0u /* what tcpdump -r passes: "ip broadcast" means 0.0.0.0 and 255.255.255.255 */

struct program {
    struct filter_program head; /* first: what filter_for() hands out */
    const struct filter *filter;
    struct program *next;
    bool plain; /* no words but libpcap's: code[0] is all */
    /* One for each way in which the words that are not libpcap's can turn out; without instructions: nothing matches. */
    struct bpf_program code[];
};

struct filter {
    struct filter_words *words;
    packet_levels_of *levels_of;
    bool everything;
    struct program *program;
};

/*
 * Link types that between them accept every primitive of the language (ATM, MTP, pf, wireless,
 * interface index and direction have link types of their own). What none of them takes is an error
 * in the expression.
 */
static const uint16_t probe[] = {
    1,   /* Ethernet: its message is the one shown */
    101, /* raw IP */
    105, /* IEEE 802.11 */
    113, /* Linux cooked */
    276, /* Linux cooked, version 2 */
    117, /* pf log */
    123, /* SunATM */
    140, /* MTP2 */
    9,   /* PPP */
    8,   /* SLIP */
    6,   /* token ring */
    226, /* IPNET */
    129, /* ARCNET, Linux */
    122, /* IP over fibre channel */
    197, /* ERF */
    137, /* Juniper */
};

static pcap_t *open_empty(uint16_t link_type, char *error)
{
    struct {
        le32 magic;
        le16 major, minor;
        le32 zone, accuracy, snapshot, link_type;
    } head = {
        .magic = le32_of(0xa1b2c3d4),
        .major = le16_of(2),
        .minor = le16_of(4),
        .snapshot = le32_of(SNAPSHOT_BYTES),
        .link_type = le32_of(link_type),
    };
    FILE *file = fmemopen(&head, sizeof head, "r");
    if (!file)
        return NULL;
    pcap_t *pcap = pcap_fopen_offline(file, error);
    if (!pcap)
        fclose(file);
    return pcap; /* its header has been read: the memory is needed no more, closing reads nothing */
}

static uint32_t ways(const struct filter *filter)
{
    return 1u << filter_words_count(filter->words);
}

/* False: no memory. */
static bool compile(const struct filter *filter, struct program *program)
{
    struct filter_program *head = &program->head;
    char error[PCAP_ERRBUF_SIZE] = "no memory";
    pcap_t *pcap = open_empty(head->link_type, error);
    head->verdict = FILTER_REFUSED;
    if (!pcap) {
        snprintf(head->text, sizeof head->text, "%s", error);
        return true;
    }
    bool refused = false, whole = true;
    for (uint32_t truth = 0; truth < ways(filter) && !refused && whole; truth++) {
        char *text = filter_words_text(filter->words, truth);
        if (!text) {
            whole = false;
        } else if (pcap_compile(pcap, &program->code[truth], text, 1, NETWORK_MASK) == 0) {
            head->verdict = FILTER_JUDGES;
        } else {
            snprintf(head->text, sizeof head->text, "%s", pcap_geterr(pcap));
            program->code[truth] = (struct bpf_program){.bf_len = 0};
            refused = strcmp(head->text, "expression rejects all packets") != 0;
        }
        free(text);
    }
    if (refused)
        head->verdict = FILTER_REFUSED;
    else if (head->verdict != FILTER_JUDGES)
        head->verdict = FILTER_NOTHING;
    pcap_close(pcap);
    return whole;
}

static void free_program(struct program *program)
{
    for (uint32_t truth = 0; truth < ways(program->filter); truth++)
        pcap_freecode(&program->code[truth]);
    free(program);
}

const struct filter_program *filter_for(struct filter *filter, uint16_t link_type)
{
    for (struct program *program = filter->program; program; program = program->next)
        if (program->head.link_type == link_type)
            return &program->head;
    struct program *program = calloc(1, sizeof *program + ways(filter) * sizeof program->code[0]);
    if (!program)
        return NULL;
    program->head.link_type = link_type;
    program->filter = filter;
    program->plain = filter_words_count(filter->words) == 0;
    if (filter->everything) {
        program->head.verdict = FILTER_EVERYTHING;
    } else if (!compile(filter, program)) {
        free_program(program);
        return NULL;
    }
    program->next = filter->program;
    filter->program = program;
    return &program->head;
}

uint32_t filter_apps(const struct filter *filter)
{
    return filter_words_apps(filter->words);
}

uint32_t filter_app_truth(const struct filter *filter, const char *verdict)
{
    return filter_words_app_truth(filter->words, verdict);
}

int filter_check_apps(const struct filter *filter, const struct verdicts *verdicts, struct failure *failure)
{
    return filter_words_check_apps(filter->words, verdicts, failure);
}

static uint32_t truth_of(const struct program *program, const struct packet *packet, uint32_t rule)
{
    const struct filter *filter = program->filter;
    return program->plain
               ? 0
               : filter_words_judge(filter->words, filter->levels_of, program->head.link_type, packet, rule);
}

static bool holds(const struct program *program, const struct packet *packet, uint32_t truth)
{
    const struct bpf_program *code = &program->code[truth];
    return code->bf_len > 0 &&
           bpf_filter(code->bf_insns, packet->bytes, packet->original_bytes, packet->captured_bytes) != 0;
}

bool filter_judge(const struct filter_program *head, const struct packet *packet, uint32_t rule)
{
    const struct program *program = (const struct program *)head;
    return head->verdict == FILTER_JUDGES && holds(program, packet, truth_of(program, packet, rule));
}

enum filter_answer filter_ask(const struct filter_program *head, const struct packet *packet, uint32_t rule, bool known, uint32_t app)
{
    const struct program *program = (const struct program *)head;
    if (head->verdict != FILTER_JUDGES)
        return head->verdict == FILTER_EVERYTHING ? FILTER_YES : FILTER_NO;
    uint32_t truth = truth_of(program, packet, rule), apps = filter_words_apps(program->filter->words);
    bool first = holds(program, packet, truth | app);
    if (known || apps == 0)
        return first ? FILTER_YES : FILTER_NO;
    /* Each way in which the protocols can turn out. */
    for (uint32_t way = apps; way != 0; way = (way - 1) & apps)
        if (holds(program, packet, truth | way) != first)
            return FILTER_UNDECIDED;
    return first ? FILTER_YES : FILTER_NO;
}

static int check(struct filter *filter, struct failure *failure)
{
    const struct filter_program *first = NULL;
    for (size_t i = 0; i < sizeof probe / sizeof probe[0]; i++) {
        const struct filter_program *program = filter_for(filter, probe[i]);
        if (!program)
            return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
        if (program->verdict == FILTER_JUDGES)
            return 0;
        if (!first)
            first = program;
    }
    return fail(failure, ERR_INVALID, "the filter is not valid: %s (see pcap-filter(7))",
                first->text);
}

int filter_open(const char *text, packet_levels_of *levels_of, struct filter **out, struct failure *failure)
{
    *out = NULL;
    struct filter *filter = calloc(1, sizeof *filter);
    if (!filter)
        return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
    text = text ? text : "";
    filter->levels_of = levels_of;
    filter->everything = text[strspn(text, " \t\r\n")] == '\0';
    int result = filter_words_open(text, &filter->words, failure);
    if (!result && filter_words_count(filter->words) > 0 && !levels_of)
        result = fail(failure, ERR_INVALID, "the filter is not valid: only libpcap's primitives can be used here");
    if (!result && !filter->everything)
        result = check(filter, failure);
    if (result) {
        filter_close(&filter);
        return result;
    }
    *out = filter;
    return 0;
}

void filter_close(struct filter **filter)
{
    if (!*filter)
        return;
    struct program *next;
    for (struct program *program = (*filter)->program; program; program = next) {
        next = program->next;
        free_program(program);
    }
    filter_words_close(&(*filter)->words);
    free(*filter);
    *filter = NULL;
}
