/*
 * bench_rules.c - what rules cost on the packet path: one run, a few lines of JSON.
 *
 *     bench_rules [--packets N] [--rounds N]
 *
 * The bare pipeline is the generator, rules, and a copy of what they leave into a buffer that lies
 * in the cache, as an open segment's frame does; no disk. It runs without rules and with lists of 1
 * to 1,000 rules of which the last is the only one that matches, in turn, several rounds; the
 * medians are compared. Lists are of exact addresses, of ports, and of all kinds mixed. Decoding is
 * a step of the pipeline by itself, rules or not; a last figure compares with a pipeline without
 * it.
 *
 * Then decoding: packets lie in memory as a capture ring has them, more than any cache holds, and
 * their first 64 bytes are touched, or they are decoded and judged by 10 rules; all with the same
 * prefetching, which is how a capture thread goes over a batch. And the same from the cache.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode.h"
#include "program.h"
#include "rule_text.h"
#include "source.h"

#define SINK_BYTES (512u << 10)
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

static struct source *make_source(void)
{
    struct source_generator_options options = {.seed = 1, .step_ns = 1000};
    struct source *source;
    struct failure failure = {0};
    if (source_generator_open(&options, &source, &failure) < 0)
        die("generator", &failure);
    return source;
}

static const uint16_t link_type[1] = {LINK_ETHERNET};
static uint64_t touched; /* what was read must be used */

static uint8_t sink[SINK_BYTES + (1u << 16)];
static uint32_t sink_at;

static void take(const struct packet *packet, uint32_t keep_bytes)
{
    struct {
        int64_t time_ns;
        uint32_t original_bytes;
        uint32_t captured_bytes;
    } record = {packet->time_ns, packet->original_bytes, keep_bytes};
    memcpy(sink + sink_at, &record, sizeof record);
    memcpy(sink + sink_at + sizeof record, packet->bytes, keep_bytes);
    sink_at += (uint32_t)sizeof record + keep_bytes;
    if (sink_at > SINK_BYTES)
        sink_at = 0;
}

/* Packets a second through the bare pipeline; a null state is one without rules. */
static double run_pipeline(struct source *source, struct rule_state *state, bool decode,
                           uint64_t packets)
{
    static struct source_batch batch;
    struct decoded_packet decoded[DECODE_BATCH];
    struct rule_outcome outcome[DECODE_BATCH];
    uint64_t done = 0;
    double begun = now_s();
    while (done < packets && source_next(source, &batch, 0) > 0) {
        for (uint32_t from = 0; from < batch.count; from += DECODE_BATCH) {
            const struct packet *packet = &batch.packet[from];
            uint32_t count = batch.count - from < DECODE_BATCH ? batch.count - from : DECODE_BATCH;
            if (decode) {
                decode_batch(packet, count, batch.count - from - count, link_type, decoded);
                touched += decoded[0].l4_end;
            }
            if (state != NULL)
                rule_state_apply_batch(state, packet, decoded, NULL, count, outcome);
            for (uint32_t i = 0; i < count; i++) {
                if (state == NULL)
                    take(&packet[i], packet[i].captured_bytes);
                else if (outcome[i].decision == RULE_STORE)
                    take(&packet[i], outcome[i].keep_bytes);
            }
        }
        done += batch.count;
        source_release(source, &batch);
    }
    return (double)done / (now_s() - begun);
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

static void bench_pipeline(const char *kind, uint64_t packets, unsigned rounds)
{
    static const unsigned count[] = {0, 1, 10, 100, 1000};
    enum { LISTS = sizeof count / sizeof count[0] };
    static double rate[LISTS][ROUNDS_MAX], bare[ROUNDS_MAX];
    struct rule_state *state[LISTS] = {NULL};
    struct source *source = make_source();
    for (unsigned i = 1; i < LISTS; i++) {
        char *text = make_list(kind, count[i]);
        state[i] = make_state(text);
        free(text);
    }
    run_pipeline(source, NULL, true, packets);
    for (unsigned round = 0; round < rounds; round++) {
        bare[round] = run_pipeline(source, NULL, false, packets);
        for (unsigned i = 0; i < LISTS; i++)
            rate[i][round] = run_pipeline(source, state[i], true, packets);
    }
    double undecoded = median(bare, rounds);
    double none = median(rate[0], rounds);
    for (unsigned i = 0; i < LISTS; i++) {
        double middle = median(rate[i], rounds);
        printf("{\"bench\": \"rules\", \"kind\": \"%s\", \"rules\": %u, \"packets_per_s\": %.0f, "
               "\"ns\": %.1f, \"ratio\": %.3f, \"ratio_to_undecoded\": %.3f}\n",
               kind, count[i], middle, 1e9 / middle, middle / none, middle / undecoded);
        rule_state_close(&state[i]);
    }
    source_close(&source);
}

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

static void bench_decode(const char *where, uint32_t count, unsigned rounds)
{
    static double touch[ROUNDS_MAX], decode[ROUNDS_MAX], rules[ROUNDS_MAX];
    static struct source_batch batch;
    uint8_t *store = malloc((size_t)count * STORE_STEP);
    struct packet *packet = calloc(count, sizeof *packet);
    char *text = make_list("mixed", 10);
    struct rule_state *state = make_state(text);
    struct source *source = make_source();
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
        touch[round] = decode[round] = rules[round] = 0;
        for (uint32_t i = 0; i < repeats; i++)
            touch[round] += run_touch(packet, count) / repeats;
        for (uint32_t i = 0; i < repeats; i++)
            decode[round] += run_decode(packet, count, NULL) / repeats;
        for (uint32_t i = 0; i < repeats; i++)
            rules[round] += run_decode(packet, count, state) / repeats;
    }
    double middle = median(touch, rounds);
    printf("{\"bench\": \"decode\", \"where\": \"%s\", \"touch_ns\": %.1f, \"decode_ns\": %.1f, "
           "\"decode_and_10_rules_ns\": %.1f, \"ratio\": %.2f}\n",
           where, middle, median(decode, rounds), median(rules, rounds),
           median(rules, rounds) / middle);
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
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--packets") == 0)
            packets = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--rounds") == 0)
            rounds = (unsigned)strtoul(argv[i + 1], NULL, 0);
    }
    if (rounds < 1 || rounds > ROUNDS_MAX)
        rounds = ROUNDS_MAX;
    bench_pipeline("addresses", packets, rounds);
    bench_pipeline("ports", packets, rounds);
    bench_pipeline("mixed", packets, rounds);
    bench_decode("memory", STORE_BYTES / STORE_STEP, rounds);
    bench_decode("cache", 64, rounds);
    return touched == 0;
}
