/*
 * bench_flow_index.c - what the key index costs: bytes by column, nanoseconds a packet.
 *
 *     bench_flow_index [--slot MIB] [--rounds N] [FILE]
 *
 * FILE is a capture of up to a GiB; without one, packets come from the generator (which draws from
 * 200,000 flows evenly: three times the flows in a slot that ordinary traffic has). They are laid into
 * frames first. A round goes over all frames in three ways: each copied into a buffer, so that it is in the caches as one is that a
 * capture thread has just filled; copied, and notes of its packets made, as a capture thread does; copied and indexed, from notes that are there. The
 * differences are what notes, the indexer's part of a packet, and in it the encoding at the seal cost,
 * in processor time of this thread; medians of the rounds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flow_format.h"
#include "flow_frames.h"
#include "flow_index.h"
#include "frame.h"
#include "packet_keys.h"
#include "pool.h"
#include "source.h"

#define LOAD_BYTES_MAX (1u << 30)
#define FRAMES_MAX (LOAD_BYTES_MAX / FRAME_BYTES_USUAL)
#define ROUNDS_MAX 99u

#define PACKETS_MAX (LOAD_BYTES_MAX / 64)

static uint8_t *loaded; /* frames, FRAME_BYTES_USUAL apart */
static uint32_t laid[FRAMES_MAX];
static struct flow_note *note; /* of all packets, frame by frame */
static uint32_t frames;
static uint64_t packets;
static uint64_t slot_bytes = 16u << 20;
static uint8_t frame[FRAME_BYTES_USUAL] __attribute__((aligned(4096)));
static struct frame_table table;

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

static struct frame_builder builder;

static void frame_end(void)
{
    static const struct frame_identity identity;
    static const struct account account;
    const struct frame_finish finish = {.kind = FRAME_DATA, .offset = PAGE_BYTES, .account = &account};
    if (builder.packets > 0)
        laid[frames++] = frame_builder_finish(&builder, &identity, &table, &finish);
}

static void frame_start(void)
{
    frame_builder_start(&builder, loaded + (uint64_t)frames * FRAME_BYTES_USUAL, FRAME_BYTES_USUAL, &table);
}

static void lay(const struct packet *packet)
{
    if (packet->captured_bytes > FRAME_BYTES_USUAL / 2 || frames == FRAMES_MAX || packets == PACKETS_MAX)
        return;
    if (!frame_builder_fits(&builder, packet->captured_bytes)) {
        frame_end();
        if (frames == FRAMES_MAX)
            return;
        frame_start();
    }
    flow_note_put(&note[packets++], packet_keys_of, LINK_ETHERNET, packet->bytes, packet->captured_bytes, 0, builder.at);
    frame_builder_add(&builder, 0, packet, packet->captured_bytes);
}

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
    note = malloc(PACKETS_MAX * sizeof *note);
    if (!loaded || !note)
        die("load", "no memory");
    static const struct interface_description interface = {.link_type = LINK_ETHERNET, .name = "bench0"};
    frame_table_clear(&table);
    if (frame_table_add_interface(&table, &interface) != 0 || frame_table_entry(&table, 0, 0, 0, 0) != 0)
        die("load", "no room in a table");
    frame_start();
    static struct source_batch batch;
    while (source_next(source, &batch, 0) > 0) {
        for (uint32_t i = 0; i < batch.count; i++)
            lay(&batch.packet[i]);
        source_release(source, &batch);
    }
    source_close(&source);
    frame_end();
    if (packets == 0)
        die("load", "no packets");
}

static void seal(struct flow_index *index)
{
    const uint8_t *bytes;
    struct flow_index_head head;
    double begun = now_s();
    uint32_t bound = flow_index_bound(index), flows = flow_index_flows(index);
    uint32_t length = flow_index_encode(index, table.entry, table.entries, UINT32_MAX, &bytes);
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

enum way { COPY, NOTES, INDEX, WAYS };

static uint64_t used;

/* What the capture thread does. */
static void make_notes(const struct frame_info *info)
{
    static struct flow_note made[FLOW_NOTES_MAX];
    struct frame_cursor cursor;
    struct frame_packet packet;
    frame_cursor_start(&cursor, frame, info);
    for (uint32_t i = 0, at = cursor.at; i < FLOW_NOTES_MAX && frame_cursor_next(&cursor, &packet) > 0; i++, at = cursor.at)
        flow_note_put(&made[i], packet_keys_of, LINK_ETHERNET, packet.packet.bytes, packet.packet.captured_bytes, 0, at);
    used += made[0].plain.word[1];
}

static double go_over(enum way way, struct flow_index *index)
{
    uint64_t taken = PAGE_BYTES, first = 0;
    encoding_s = 0;
    double begun = now_s();
    for (uint32_t i = 0; i < frames; i++) {
        struct frame_info info;
        memcpy(frame, loaded + (uint64_t)i * FRAME_BYTES_USUAL, laid[i]);
        if (frame_parse(frame, laid[i], &info) != 0)
            die("frame", "it cannot be read");
        if (way == NOTES)
            make_notes(&info);
        if (way != INDEX)
            continue;
        if (taken + FRAME_BYTES_USUAL + flow_index_bound(index) > slot_bytes) {
            seal(index);
            taken = PAGE_BYTES;
        }
        flow_frame_add(index, packet_keys_of, frame, &info, note + first, info.packets < FLOW_NOTES_MAX ? info.packets : FLOW_NOTES_MAX, UINT32_MAX);
        first += info.packets;
        taken += laid[i];
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
    for (uint32_t i = 0; i < frames; i++)
        stored_bytes += laid[i];
    double copy = median_ns(time_s[COPY], rounds), notes = median_ns(time_s[NOTES], rounds);
    double all = median_ns(time_s[INDEX], rounds), encode = median_ns(encode_s, rounds);
    printf("{\"packets\":%lu,\"stored_bytes\":%lu,\"slot_bytes\":%lu,\"segments\":%lu,"
           "\"flows_per_segment\":%lu,\"index_bytes\":%lu,\"index_percent\":%.3f,"
           "\"bound_percent\":%.3f,\"ns_copy\":%.1f,\"ns_notes\":%.1f,\"ns_index\":%.1f,"
           "\"ns_of_it_encoding\":%.1f",
           packets, stored_bytes, slot_bytes, segments, flow_sum / segments, index_bytes,
           100.0 * (double)index_bytes / (double)stored_bytes,
           100.0 * (double)bound_sum / (double)stored_bytes, copy, notes - copy, all - copy,
           encode);
    printf(",\"percent_by_part\":{");
    for (unsigned i = 0; i < FLOW_PARTS; i++)
        printf("%s\"%s\":%.4f", i ? "," : "", part_name[i],
               100.0 * (double)part_bytes[i] / (double)stored_bytes);
    printf("}}\n");
    free(loaded);
    free(note);
    flow_index_close(&index);
    return used == 1;
}
