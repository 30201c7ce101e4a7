/*
 * bench_flow_index.c - what the key index costs: bytes by column, nanoseconds a packet.
 *
 *     bench_flow_index [--slot MIB] [--rounds N] [FILE]
 *
 * FILE is a capture of up to a GiB; without one, packets come from the generator (which draws from
 * 200,000 flows evenly: three times the flows in a slot that ordinary traffic has). They are loaded
 * first, so that every round touches memory as a capture thread does. A round goes over all of them
 * in three ways: copied into frames; copied and decoded; copied, decoded and indexed. The
 * differences are what decoding, the index's part of a packet, and the encoding at the seal cost,
 * in processor time of this thread; medians of the rounds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode.h"
#include "flow_format.h"
#include "flow_index.h"
#include "packet_keys.h"
#include "source.h"

#define LOAD_BYTES_MAX (1u << 30)
#define FRAME_HEADER_BYTES 1024u
#define RECORD_BYTES 16u
#define BATCH 64u
#define ROUNDS_MAX 99u

static uint8_t *loaded;
static uint64_t loaded_bytes, packets;
static uint64_t slot_bytes = 16u << 20;
static uint8_t frame[FRAME_BYTES_USUAL];
static struct frame_entry entry_table[1];

/* What the segments of one round came to. */
static uint64_t part_bytes[FLOW_PARTS], index_bytes, stored_bytes, flow_sum, segments, bound_sum;
static double encoding_s;

static const char *const part_name[FLOW_PARTS] = {
    "blocks",    "entries", "kinds",   "states",   "sets",     "apps",  "inners", "macs",
    "address4",  "address6", "end_macs", "firsts", "seconds",  "kind",  "services", "service",
    "ports",     "state",   "inner",   "sizes",    "chunks",   "postings", "marks",
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_flow_index: %s: %s\n", what, why);
    exit(1);
}

/* All packets, back to back: length, bytes. */
static void load(const char *path)
{
    struct source *source;
    struct failure failure = {0};
    struct source_generator_options options = {.seed = 1, .packets = 1000000, .step_ns = 1000};
    int code = path ? source_file_open(open(path, O_RDONLY), path, &source, &failure)
                    : source_generator_open(&options, &source, &failure);
    if (code < 0)
        die(path ? path : "generator", failure.text);
    loaded = malloc(LOAD_BYTES_MAX);
    if (!loaded)
        die("load", "no memory");
    static struct source_batch batch;
    while (source_next(source, &batch, 0) > 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            const struct packet *packet = &batch.packet[i];
            if (loaded_bytes + packet->captured_bytes + 8 > LOAD_BYTES_MAX)
                continue;
            memcpy(loaded + loaded_bytes, &packet->captured_bytes, 4);
            memcpy(loaded + loaded_bytes + 4, packet->bytes, packet->captured_bytes);
            loaded_bytes += 4 + packet->captured_bytes;
            packets++;
        }
        source_release(source, &batch);
    }
    source_close(&source);
    if (packets == 0)
        die("load", "no packets");
}

static void seal(struct flow_index *index)
{
    const uint8_t *bytes;
    struct flow_index_head head;
    double begun = now_s();
    uint32_t bound = flow_index_bound(index), flows = flow_index_flows(index);
    uint32_t length = flow_index_encode(index, entry_table, 1, UINT32_MAX, &bytes);
    encoding_s += now_s() - begun;
    if (length == 0 || length > bound)
        die("seal", "the index is longer than it may be");
    memcpy(&head, bytes, sizeof head);
    for (unsigned i = 0; i < FLOW_PARTS; i++)
        part_bytes[i] += le32_get(head.part[i].bytes);
    index_bytes += length;
    bound_sum += bound;
    flow_sum += flows;
    segments++;
    flow_index_clear(index);
}

struct place {
    uint32_t at;    /* in the frame */
    uint64_t taken; /* of the slot */
};

/* Puts a packet into the frame; returns where. Frames and slots end where they are full. */
static uint32_t put(struct place *place, struct flow_index *index, const uint8_t *bytes,
                    uint32_t count)
{
    if (place->at + RECORD_BYTES + count > FRAME_BYTES_USUAL) {
        if (index)
            flow_index_end_frame(index, FRAME_BYTES_USUAL);
        place->at = FRAME_HEADER_BYTES;
        place->taken += FRAME_BYTES_USUAL;
        uint32_t reserved = index ? flow_index_bound(index) : 0;
        if (place->taken + FRAME_BYTES_USUAL + reserved > slot_bytes) {
            if (index)
                seal(index);
            place->taken = 4096;
        }
    }
    uint32_t at = place->at;
    memcpy(frame + at + RECORD_BYTES, bytes, count);
    place->at += RECORD_BYTES + count;
    return at;
}

enum way { COPY, DECODE, INDEX, WAYS };

static uint64_t used;

static double go_over(enum way way, struct flow_index *index)
{
    struct place place = {.at = FRAME_HEADER_BYTES, .taken = 4096};
    static struct flow_keys keys[BATCH];
    static uint64_t hash[BATCH];
    static struct decoded_packet decoded;
    const uint8_t *at = loaded, *end = loaded + loaded_bytes;
    encoding_s = 0;
    double begun = now_s();
    while (at < end) {
        const uint8_t *batch[BATCH];
        uint32_t count = 0, length[BATCH];
        for (; count < BATCH && at < end; count++) {
            memcpy(&length[count], at, 4);
            batch[count] = at + 4;
            at += 4 + length[count];
            decode_prefetch(at + 4);
            if (way == COPY)
                continue;
            decode_packet(LINK_ETHERNET, batch[count], length[count], &decoded);
            used += decoded.l4_end;
            if (way == DECODE)
                continue;
            packet_keys_fill(LINK_ETHERNET, batch[count], length[count], &decoded, &keys[count]);
            keys[count].entry = 0;
            hash[count] = flow_index_hash(index, &keys[count]);
            flow_index_prefetch(index, hash[count]);
        }
        for (uint32_t i = 0; i < count && way == INDEX; i++)
            flow_index_prefetch_flow(index, hash[i]);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t put_at = put(&place, way == INDEX ? index : NULL, batch[i], length[i]);
            if (way == INDEX)
                flow_index_add(index, &keys[i], hash[i], put_at, RECORD_BYTES + length[i]);
        }
    }
    double spent = now_s() - begun;
    if (way == INDEX && flow_index_packets(index) > 0)
        seal(index);
    return spent;
}

static int by_value(const void *a, const void *b)
{
    double one = *(const double *)a, two = *(const double *)b;
    return one < two ? -1 : one > two;
}

static double median_ns(double *value, unsigned count)
{
    qsort(value, count, sizeof *value, by_value);
    return value[count / 2] * 1e9 / (double)packets;
}

int main(int argc, char **argv)
{
    const char *path = NULL;
    unsigned rounds = 7;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--slot") == 0 && i + 1 < argc)
            slot_bytes = strtoull(argv[++i], NULL, 10) << 20;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = (unsigned)strtoul(argv[++i], NULL, 10);
        else
            path = argv[i];
    }
    if (rounds < 1 || rounds > ROUNDS_MAX || slot_bytes < SLOT_BYTES_MIN ||
        slot_bytes > SLOT_BYTES_MAX)
        die("usage", "bench_flow_index [--slot 1..64] [--rounds 1..99] [FILE]");
    struct flow_index *index;
    if (flow_index_open(slot_bytes, &index) != 0)
        die("open", "no memory");
    load(path);
    static double time_s[WAYS][ROUNDS_MAX], encode_s[ROUNDS_MAX];
    for (unsigned round = 0; round < rounds; round++) {
        memset(part_bytes, 0, sizeof part_bytes);
        index_bytes = flow_sum = segments = bound_sum = 0;
        for (enum way way = COPY; way < WAYS; way++)
            time_s[way][round] = go_over(way, index);
        encode_s[round] = encoding_s;
    }
    stored_bytes = loaded_bytes + packets * (RECORD_BYTES - 4);
    double copy = median_ns(time_s[COPY], rounds), decode = median_ns(time_s[DECODE], rounds);
    double all = median_ns(time_s[INDEX], rounds), encode = median_ns(encode_s, rounds);
    printf("{\"packets\":%lu,\"stored_bytes\":%lu,\"slot_bytes\":%lu,\"segments\":%lu,"
           "\"flows_per_segment\":%lu,\"index_bytes\":%lu,\"index_percent\":%.3f,"
           "\"bound_percent\":%.3f,\"ns_copy\":%.1f,\"ns_decode\":%.1f,\"ns_index\":%.1f,"
           "\"ns_of_it_encoding\":%.1f",
           packets, stored_bytes, slot_bytes, segments, flow_sum / segments, index_bytes,
           100.0 * (double)index_bytes / (double)stored_bytes,
           100.0 * (double)bound_sum / (double)stored_bytes, copy, decode - copy, all - decode,
           encode);
    printf(",\"percent_by_part\":{");
    for (unsigned i = 0; i < FLOW_PARTS; i++)
        printf("%s\"%s\":%.4f", i ? "," : "", part_name[i],
               100.0 * (double)part_bytes[i] / (double)stored_bytes);
    printf("}}\n");
    free(loaded);
    flow_index_close(&index);
    return used == 1;
}
