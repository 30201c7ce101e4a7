/*
 * bench_rules.c - what rules cost on the packet path: one run, a few lines of JSON.
 *
 *     bench_rules [--packets N] [--rounds N] [--dir D]
 *
 * The bare pipeline is the recorder's own (pipeline_run()), with the generator in memory before it
 * and a ring behind it whose disk is a file in D, /dev/shm, where writing takes no time of a disk.
 * What counts is the processor time of the capture thread, which this is: other threads write. It
 * runs without rules and with lists of 1 to 1,000 rules of which the last is the only one that
 * matches, in turn, several rounds; the ratio is the median of those of each round, for what a
 * shared machine is given changes from one round to the next. Lists are of exact addresses, of
 * ports, and of all kinds mixed.
 *
 * Then decoding: packets lie in memory as a capture ring has them, more than any cache holds, and
 * their first 64 bytes are touched, or they are decoded and judged by 10 rules, or judged as the
 * recorder does it where nobody else wants them decoded; all with the same prefetching, which is
 * how a capture thread goes over a batch. And the same from the cache.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "decode.h"
#include "pipeline.h"
#include "program.h"
#include "rule_text.h"
#include "source.h"

#define RING_BYTES (768u << 20)
#define BUFFER_BYTES (128u << 20)
#define STORE_BYTES (256u << 20)
#define STORE_STEP 2048u
#define ROUNDS_MAX 101

/* Of this thread's processor: nothing here waits, and what else runs on the machine does not count.
 */
static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static _Noreturn void die(const char *what, const struct failure *failure)
{
    fprintf(stderr, "bench_rules: %s: %s\n", what, failure->text);
    exit(1);
}

/* Rules of which only the last matches anything that the generator makes. */
static char *make_list(const char *kind, unsigned count)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    for (unsigned i = 0; i + 1 < count; i++) {
        unsigned which = strcmp(kind, "addresses") == 0 ? 0
                         : strcmp(kind, "ports") == 0   ? 1
                                                        : i % 6;
        switch (which) {
        case 0:
            fprintf(out, "ip 10.%u.%u.%u : discard\n", 2 + i / 200, i % 200, i * 7 % 250 + 1);
            break;
        case 1:
            fprintf(out, "tcp port %u : discard\n", 20000 + i * 3);
            break;
        case 2:
            fprintf(out, "udp port %u-%u and not vlan 7 : snap 64\n", 10000 + i * 4, 10002 + i * 4);
            break;
        case 3:
            fprintf(out, "mac 00:1b:21:00:%02x:%02x : headers l3\n", i >> 8, i & 255);
            break;
        case 4:
            fprintf(out, "ip 2001:db8:%x::/48 and tcp port 443 : headers l3+l4\n", i + 1);
            break;
        default:
            fprintf(out, "vlan %u : snap 96\n", 1000 + i % 2000);
        }
    }
    fprintf(out, "not ip 192.0.2.0/24 : full\n");
    fclose(out);
    return text;
}

static struct rule_state *make_state(const char *text)
{
    static const struct interface_description interface = {.link_type = LINK_ETHERNET,
                                                           .name = "bench0"};
    struct failure failure = {0};
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *state;
    if (rule_list_parse(text, &list, NULL, &failure) < 0 ||
        rule_program_build(&list, NULL, &program, &failure) < 0 ||
        rule_state_open(program, NULL, &state, &failure) < 0 ||
        rule_state_interface(state, 0, &interface, &failure) < 0)
        die("rules", &failure);
    rule_program_release(&program);
    rule_list_clear(&list);
    return state;
}

/* No end where `packets` is 0. */
static struct source *make_source(uint64_t packets)
{
    struct source_generator_options options = {.seed = 1, .packets = packets, .step_ns = 1000};
    struct source *source;
    struct failure failure = {0};
    if (source_generator_open(&options, &source, &failure) < 0)
        die("generator", &failure);
    return source;
}

static const uint16_t link_type[1] = {LINK_ETHERNET};
static uint64_t touched; /* what was read must be used */

/* ---- the pipeline --------------------------------------------------------------------------- */

struct store {
    char directory[128];
    struct catalog *catalog;
    struct ring *ring;
};

static void store_open(const char *parent, struct store *store)
{
    struct failure failure = {0};
    struct disk *disk;
    struct identity identity, member;
    struct recovery_report recovery;
    char path[160];
    uint64_t slot_bytes;
    bool fresh;
    snprintf(store->directory, sizeof store->directory, "%s/bench_rules.XXXXXX", parent);
    if (mkdtemp(store->directory) == NULL)
        die(parent, &(struct failure){.text = "no directory can be made here"});
    snprintf(path, sizeof path, "%s/disk", store->directory);
    identity_make(&identity);
    if (disk_uring_create(path, RING_BYTES, true, &disk, &failure) != 0 ||
        ring_format_disks(&identity, "bench", 1, 0, &disk, 1, &member, &slot_bytes, &failure) !=
            0 ||
        catalog_open(store->directory, &store->catalog, &fresh, &failure) != 0)
        die(path, &failure);
    struct ring_options options = {.ring = identity,
                                   .name = "bench",
                                   .copies = 1,
                                   .buffer_bytes = BUFFER_BYTES,
                                   .flush_window_ns = 1000000000,
                                   .catalog = store->catalog,
                                   .whole = true};
    if (ring_open(&options, &disk, 1, &store->ring, &recovery, &failure) != 0)
        die(path, &failure);
}

static void store_close(struct store *store)
{
    static const char *const made[] = {"disk", "catalog.db", "catalog.db-wal", "catalog.db-shm"};
    char path[160];
    ring_close(&store->ring);
    catalog_close(&store->catalog);
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", store->directory, made[i]);
        unlink(path);
    }
    rmdir(store->directory);
}

static struct ring_rules *make_rules(const char *text)
{
    struct ring_rules *rules;
    struct ring_rules_draft draft;
    struct failure failure = {0};
    if (ring_rules_open(1, NULL, &rules, &failure) != 0 || ring_rules_draft(rules, &draft) != 0)
        die("rules", &failure);
    rule_list_clear(&draft.list);
    if (rule_list_parse(text, &draft.list, NULL, &failure) != 0 ||
        ring_rules_change(rules, &draft, NULL, NULL, NULL, &failure) != 0)
        die("rules", &failure);
    rule_list_clear(&draft.list);
    return rules;
}

/* Packets a second of the capture thread's time; null: no rules. */
static double run_pipeline(struct store *store, struct ring_rules *rules, uint64_t packets)
{
    struct failure failure = {0};
    struct pipeline *pipeline;
    struct pipeline_options options = {.ring = store->ring, .rules = rules};
    struct source *source = make_source(packets);
    if (pipeline_open(&options, &pipeline, &failure) != 0)
        die("pipeline", &failure);
    double begun = now_s();
    if (pipeline_run(pipeline, source, &failure) != 0)
        die("pipeline", &failure);
    double took = now_s() - begun;
    if (pipeline_finish(pipeline, &failure) != 0)
        die("pipeline", &failure);
    pipeline_close(&pipeline);
    source_close(&source);
    return (double)packets / took;
}

static int by_value(const void *a, const void *b)
{
    const double *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static double median(double *value, unsigned count)
{
    qsort(value, count, sizeof *value, by_value);
    return value[count / 2];
}

static void bench_pipeline(struct store *store, const char *kind, uint64_t packets, unsigned rounds)
{
    static const unsigned count[] = {0, 1, 10, 100, 1000};
    enum { LISTS = sizeof count / sizeof count[0] };
    static double rate[LISTS][ROUNDS_MAX], ratio[LISTS][ROUNDS_MAX];
    struct ring_rules *rules[LISTS] = {NULL};
    for (unsigned i = 1; i < LISTS; i++) {
        char *text = make_list(kind, count[i]);
        rules[i] = make_rules(text);
        free(text);
    }
    run_pipeline(store, NULL, packets);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < LISTS; i++)
            rate[i][round] = run_pipeline(store, rules[i], packets);
    }
    for (unsigned i = 0; i < LISTS; i++) {
        for (unsigned round = 0; round < rounds; round++)
            ratio[i][round] = rate[i][round] / rate[0][round];
    }
    for (unsigned i = 0; i < LISTS; i++) {
        double middle = median(rate[i], rounds);
        printf("{\"bench\": \"rules\", \"kind\": \"%s\", \"rules\": %u, \"packets_per_s\": %.0f, "
               "\"ns\": %.1f, \"ratio\": %.3f}\n",
               kind, count[i], middle, 1e9 / middle, median(ratio[i], rounds));
        ring_rules_close(&rules[i]);
    }
}

/* ---- decoding alone ------------------------------------------------------------------------- */

static double run_touch(const struct packet *packet, uint32_t count)
{
    double begun = now_s();
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        decode_prefetch(
            packet[i + DECODE_PREFETCH_AHEAD < count ? i + DECODE_PREFETCH_AHEAD : i].bytes);
        uint64_t word[8];
        memcpy(word, packet[i].bytes, sizeof word); /* its place has more bytes than it */
        for (unsigned j = 0; j < 8; j++)
            sum += word[j];
    }
    touched += sum;
    return (now_s() - begun) / count * 1e9;
}

static double run_decode(const struct packet *packet, uint32_t count, struct rule_state *state)
{
    double begun = now_s();
    struct decoded_packet decoded[DECODE_BATCH];
    struct rule_outcome outcome[DECODE_BATCH];
    for (uint32_t i = 0; i < count; i += DECODE_BATCH) {
        decode_batch(packet + i, DECODE_BATCH, count - i - DECODE_BATCH, link_type, decoded);
        touched += decoded[0].l4_end;
        if (state != NULL) {
            rule_state_apply_batch(state, packet + i, decoded, NULL, DECODE_BATCH, outcome);
            touched += outcome[0].keep_bytes;
        }
    }
    return (now_s() - begun) / count * 1e9;
}

static double run_judge(const struct packet *packet, uint32_t count, struct rule_state *state)
{
    double begun = now_s();
    struct rule_outcome outcome[DECODE_BATCH];
    for (uint32_t i = 0; i < count; i += DECODE_BATCH) {
        rule_state_judge(state, packet + i, DECODE_BATCH, count - i - DECODE_BATCH, link_type,
                         outcome);
        touched += outcome[0].keep_bytes;
    }
    return (now_s() - begun) / count * 1e9;
}

static void bench_decode(const char *where, uint32_t count, unsigned rounds)
{
    static double touch[ROUNDS_MAX], decode[ROUNDS_MAX], rules[ROUNDS_MAX], judge[ROUNDS_MAX],
        ratio[ROUNDS_MAX];
    static struct source_batch batch;
    uint8_t *store = malloc((size_t)count * STORE_STEP);
    struct packet *packet = calloc(count, sizeof *packet);
    char *text = make_list("mixed", 10);
    struct rule_state *state = make_state(text);
    struct source *source = make_source(0);
    if (store == NULL || packet == NULL)
        exit(1);
    for (uint32_t made = 0; made < count;) {
        source_next(source, &batch, 0);
        for (uint32_t i = 0; i < batch.count && made < count; i++, made++) {
            packet[made] = batch.packet[i];
            packet[made].bytes = memcpy(store + (size_t)made * STORE_STEP, batch.packet[i].bytes,
                                        batch.packet[i].captured_bytes);
        }
        source_release(source, &batch);
    }
    uint32_t repeats = STORE_BYTES / STORE_STEP / count;
    for (unsigned round = 0; round < rounds; round++) {
        touch[round] = decode[round] = rules[round] = judge[round] = 0;
        for (uint32_t i = 0; i < repeats; i++)
            touch[round] += run_touch(packet, count) / repeats;
        for (uint32_t i = 0; i < repeats; i++)
            decode[round] += run_decode(packet, count, NULL) / repeats;
        for (uint32_t i = 0; i < repeats; i++)
            rules[round] += run_decode(packet, count, state) / repeats;
        for (uint32_t i = 0; i < repeats; i++)
            judge[round] += run_judge(packet, count, state) / repeats;
        ratio[round] = rules[round] / touch[round];
    }
    printf("{\"bench\": \"decode\", \"where\": \"%s\", \"touch_ns\": %.1f, \"decode_ns\": %.1f, "
           "\"decode_and_10_rules_ns\": %.1f, \"ratio\": %.2f, \"judge_by_10_rules_ns\": %.1f}\n",
           where, median(touch, rounds), median(decode, rounds), median(rules, rounds),
           median(ratio, rounds), median(judge, rounds));
    source_close(&source);
    rule_state_close(&state);
    free(text);
    free(packet);
    free(store);
}

int main(int argc, char **argv)
{
    uint64_t packets = 1000000;
    unsigned rounds = 15;
    const char *directory = "/dev/shm";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--packets") == 0)
            packets = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--rounds") == 0)
            rounds = (unsigned)strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--dir") == 0)
            directory = argv[i + 1];
    }
    if (rounds < 1 || rounds > ROUNDS_MAX)
        rounds = ROUNDS_MAX;
    struct store store;
    store_open(directory, &store);
    bench_pipeline(&store, "addresses", packets, rounds);
    bench_pipeline(&store, "ports", packets, rounds);
    bench_pipeline(&store, "mixed", packets, rounds);
    store_close(&store);
    bench_decode("memory", STORE_BYTES / STORE_STEP, rounds);
    bench_decode("cache", 64, rounds);
    return touched == 0;
}
