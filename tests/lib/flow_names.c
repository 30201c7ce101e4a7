/*
 * flow_names.c - the program tapeloop-flows: which layer-7 protocol each flow of a capture file
 * carries, found by the recorder's own way: decoder, classifier, tapeloop-classify.
 *
 *     tapeloop-flows PROGRAM FILE [--each]
 *
 * Prints a line for each protocol: its name, a tab, and how many flows; with --each instead a line
 * for each flow: when its first packet came (its number in the file), how many there are, both
 * protocols. Exit 3: packets were skipped, so the answer says nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "classifier.h"
#include "source.h"

#define SETTLE_MS 60000
#define SEED 1

struct seen {
    uint64_t hash;
    struct packet packet; /* a copy of its first one, with the bytes */
    struct decoded_packet decoded;
    uint64_t number;
    uint64_t packets;
};

static struct seen *seen;
static size_t seen_count;

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "tapeloop-flows: %s: %s\n", what, why);
    exit(1);
}

static void said(void *context, const char *severity, const char *sentence)
{
    (void)context;
    fprintf(stderr, "%s: %s\n", severity, sentence);
}

static void remember(const struct packet *packet, const struct decoded_packet *decoded,
                     uint64_t number)
{
    uint64_t hash;
    struct decoded_packet whole = *decoded; /* a first fragment is one of its flow's packets */
    for (uint32_t i = 0; i < whole.levels; i++)
        whole.level[i].flags &= (uint8_t)~LEVEL_FRAGMENT;
    if (decoded->levels > 0 && decoded_innermost(decoded)->flags & LEVEL_LATER)
        return;
    if (!decoded_flow_hash(packet->bytes, &whole, SEED, &hash))
        return;
    for (size_t i = 0; i < seen_count; i++)
        if (seen[i].hash == hash) {
            seen[i].packets++;
            return;
        }
    uint8_t *bytes = malloc(packet->captured_bytes);
    seen = realloc(seen, (seen_count + 1) * sizeof *seen);
    if (!seen || !bytes)
        die("memory", "there is none");
    memcpy(bytes, packet->bytes, packet->captured_bytes);
    seen[seen_count] = (struct seen){
        .hash = hash, .packet = *packet, .decoded = *decoded, .number = number, .packets = 1};
    seen[seen_count].packet.bytes = bytes;
    /* Asked for again later, it must not open its flow anew. */
    struct decoded_level *level = &seen[seen_count].decoded.level[decoded->levels - 1];
    level->tcp_flags &= (uint8_t)~TCP_SYN;
    seen_count++;
}

static const struct timespec pause_time = {.tv_nsec = 1000000};

/* A file can wait for a process that is being started again. */
static void await_running(struct classifier *classifier, struct classifier_port *port)
{
    struct classifier_counters counters = {.running = false};
    for (;;) {
        classifier_counters(classifier, &counters);
        if (counters.running)
            break;
        nanosleep(&pause_time, NULL);
    }
    classifier_port_turn(port);
}

static void feed(struct classifier *classifier, struct classifier_port *port, struct source *source)
{
    static struct source_batch batch;
    uint64_t number = 0;
    int result;
    while ((result = source_next(source, &batch, -1)) >= 0) {
        await_running(classifier, port);
        for (uint32_t i = 0; i < batch.count && result > 0; i++) {
            const struct packet *packet = &batch.packet[i];
            struct decoded_packet decoded;
            uint16_t link = source->ops->interface(source, packet->interface)->link_type;
            decode_packet(link, packet->bytes, packet->captured_bytes, &decoded);
            (void)classifier_verdict(port, packet, &decoded);
            remember(packet, &decoded, ++number);
        }
        if (result > 0)
            source_release(source, &batch);
        classifier_port_turn(port);
        while (classifier_port_pending(port) > 0) {
            nanosleep(&pause_time, NULL);
            classifier_port_turn(port);
        }
    }
    if (result != ERR_END)
        fprintf(stderr, "tapeloop-flows: %s\n", source->failure.text);
}

static const char *name_of(const char *const *name, uint16_t number)
{
    return number == 0 ? "Unknown" : name[number - 1];
}

static void print(struct classifier_port *port, const char *const *name, uint32_t names, int each)
{
    uint64_t *flows = calloc(names + 1, sizeof *flows);
    if (!flows)
        die("memory", "there is none");
    for (size_t i = 0; i < seen_count; i++) {
        struct rule_verdict verdict = classifier_verdict(port, &seen[i].packet, &seen[i].decoded);
        uint16_t closest = verdict.app[1] ? verdict.app[1] : verdict.app[0];
        flows[closest]++;
        if (each)
            printf("%" PRIu64 "\t%" PRIu64 "\t%s\t%s%s\n", seen[i].number, seen[i].packets,
                   name_of(name, verdict.app[0]), name_of(name, verdict.app[1]),
                   verdict.unknown ? "\tnot judged" : "");
    }
    for (uint32_t i = 0; i <= names && !each; i++)
        if (flows[i] > 0)
            printf("%s\t%" PRIu64 "\n", name_of(name, (uint16_t)i), flows[i]);
    free(flows);
}

int main(int count, char **values)
{
    if (count < 3) {
        fprintf(stderr, "usage: tapeloop-flows PROGRAM FILE [--each]\n");
        return 2;
    }
    struct failure failure = {0};
    struct classifier_options options = {.program = values[1], .say = said};
    struct classifier *classifier = NULL;
    struct classifier_port *port = NULL;
    struct source *source = NULL;
    const char *const *name = NULL;
    uint32_t names = 0;
    if (classifier_open(&options, &classifier, &failure) != 0 ||
        classifier_names(classifier, &name, &names, &failure) != 0 ||
        classifier_port_open(classifier, 0, &port, &failure) != 0)
        die(values[1], failure.text);
    int file = open(values[2], O_RDONLY | O_CLOEXEC);
    if (file < 0)
        die(values[2], strerror(errno));
    if (source_file_open(file, "file", &source, &failure) != 0)
        die(values[2], failure.text);
    feed(classifier, port, source);
    int code = classifier_port_settle(port, SETTLE_MS);
    if (code != 0)
        die("waiting for verdicts", error_text(code));
    struct classifier_counters counters;
    classifier_counters(classifier, &counters);
    print(port, name, names, count > 3 && strcmp(values[3], "--each") == 0);
    source_close(&source);
    classifier_port_close(&port);
    classifier_close(&classifier);
    for (size_t i = 0; i < seen_count; i++)
        free((void *)seen[i].packet.bytes);
    free(seen);
    return counters.skipped > 0 || counters.starts != 1 ? 3 : 0;
}
