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

#define SNAPSHOT_BYTES 262144u
#define NETWORK_MASK \
    0u /* what tcpdump -r passes: "ip broadcast" means 0.0.0.0 and 255.255.255.255 */

struct program {
    struct filter_program head; /* first: what filter_for() hands out */
    struct bpf_program code;
    struct program *next;
};

struct filter {
    char *text;
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

static void compile(const struct filter *filter, struct program *program)
{
    struct filter_program *head = &program->head;
    char error[PCAP_ERRBUF_SIZE] = "no memory";
    pcap_t *pcap = open_empty(head->link_type, error);
    if (!pcap) {
        head->verdict = FILTER_REFUSED;
        snprintf(head->text, sizeof head->text, "%s", error);
        return;
    }
    if (pcap_compile(pcap, &program->code, filter->text, 1, NETWORK_MASK) == 0) {
        head->verdict = FILTER_JUDGES;
    } else {
        snprintf(head->text, sizeof head->text, "%s", pcap_geterr(pcap));
        head->verdict = strcmp(head->text, "expression rejects all packets") == 0 ? FILTER_NOTHING
                                                                                  : FILTER_REFUSED;
    }
    pcap_close(pcap);
}

const struct filter_program *filter_for(struct filter *filter, uint16_t link_type)
{
    for (struct program *program = filter->program; program; program = program->next)
        if (program->head.link_type == link_type)
            return &program->head;
    struct program *program = calloc(1, sizeof *program);
    if (!program)
        return NULL;
    program->head.link_type = link_type;
    if (filter->everything)
        program->head.verdict = FILTER_EVERYTHING;
    else
        compile(filter, program);
    program->next = filter->program;
    filter->program = program;
    return &program->head;
}

bool filter_judge(const struct filter_program *head, const struct packet *packet)
{
    const struct program *program = (const struct program *)head;
    return head->verdict == FILTER_JUDGES &&
           bpf_filter(program->code.bf_insns, packet->bytes, packet->original_bytes,
                      packet->captured_bytes) != 0;
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

int filter_open(const char *text, struct filter **out, struct failure *failure)
{
    *out = NULL;
    struct filter *filter = calloc(1, sizeof *filter);
    if (filter)
        filter->text = strdup(text ? text : "");
    if (!filter || !filter->text) {
        free(filter);
        return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
    }
    filter->everything = filter->text[strspn(filter->text, " \t\r\n")] == '\0';
    int result = filter->everything ? 0 : check(filter, failure);
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
        pcap_freecode(&program->code);
        free(program);
    }
    free((*filter)->text);
    free(*filter);
    *filter = NULL;
}
