/*
 * haystack.c - a capture file of the generator's traffic with needles in it, for measuring how they are found.
 *
 *     tapeloop-haystack FILE BYTES [SEED [SECONDS]]
 *
 * Classic pcap, microseconds, about BYTES long, a minute of traffic, SECONDS later than a certain evening. Needles: one flow of 20 packets, 10.99.99.1:40001 and
 * 10.99.99.2:8443 over TCP, between 30 and 60 percent of the file; one host, 10.98.98.98, in one packet of 10,000, evenly. Says on standard output, as
 * JSON, what is in it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "source.h"

#define START_NS INT64_C(1700000000000000000)
#define SPAN_NS INT64_C(60000000000)
#define FRAME_MEAN_BYTES 341u /* of the generator's mix */
#define RECORD_BYTES 16u
#define FLOWS 20000u /* at once */
#define FLOW_PACKETS 20u
#define RARE_ONE_IN 10000u

static FILE *file;
static uint64_t written, packets, flow_packets, rare_packets;

static void put(const void *bytes, size_t count)
{
    if (fwrite(bytes, 1, count, file) != count) {
        perror("tapeloop-haystack");
        exit(1);
    }
    written += count;
}

static void put_packet(int64_t time_ns, const uint8_t *bytes, uint32_t count)
{
    const uint32_t head[4] = {(uint32_t)(time_ns / 1000000000), (uint32_t)(time_ns / 1000 % 1000000), count, count};
    put(head, sizeof head);
    put(bytes, count);
    packets++;
}

/* TCP over IPv4 over Ethernet, 200 bytes; the addresses' last three bytes, after 10. */
static void put_needle(int64_t time_ns, const uint8_t from[3], const uint8_t to[3], uint16_t from_port, uint16_t to_port)
{
    static const uint8_t head[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 186, 0, 1, 0x40, 0, 64, 6, 0, 0, 10};
    uint8_t packet[200] = {0};
    memcpy(packet, head, sizeof head);
    memcpy(packet + 27, from, 3);
    packet[30] = 10;
    memcpy(packet + 31, to, 3);
    packet[34] = (uint8_t)(from_port >> 8);
    packet[35] = (uint8_t)from_port;
    packet[36] = (uint8_t)(to_port >> 8);
    packet[37] = (uint8_t)to_port;
    packet[46] = 0x50;
    packet[47] = 0x18;
    put_packet(time_ns, packet, sizeof packet);
}

/* The needles that are due before a packet of the hay. */
static void put_needles(int64_t time_ns, uint64_t total)
{
    static const uint8_t one[3] = {99, 99, 1}, two[3] = {99, 99, 2}, rare[3] = {98, 98, 98};
    bool forth = flow_packets % 2 == 0;
    if (flow_packets < FLOW_PACKETS && packets >= total * (30 * FLOW_PACKETS + 30 * flow_packets) / (100 * FLOW_PACKETS)) {
        put_needle(time_ns, forth ? one : two, forth ? two : one, forth ? 40001 : 8443, forth ? 8443 : 40001);
        flow_packets++;
    }
    if (packets % RARE_ONE_IN == RARE_ONE_IN / 2) {
        put_needle(time_ns, rare, one, (uint16_t)(30000 + rare_packets % 1000), 443);
        rare_packets++;
    }
}

int main(int argc, char **argv)
{
    static const uint32_t head[] = {0xa1b2c3d4, 4u << 16 | 2, 0, 0, 262144, 1};
    static struct source_batch batch;
    struct source *source = NULL;
    struct failure failure = {0};
    uint64_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (argc < 3 || argc > 5 || bytes < 1u << 20) {
        fprintf(stderr, "usage: tapeloop-haystack FILE BYTES [SEED [SECONDS]]\n");
        return 2;
    }
    int64_t start_ns = START_NS + (argc > 4 ? strtoll(argv[4], NULL, 10) * INT64_C(1000000000) : 0);
    uint64_t total = bytes / (FRAME_MEAN_BYTES + RECORD_BYTES);
    const struct source_generator_options options = {.seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1,
                                                     .flows = FLOWS,
                                                     .packets = total,
                                                     .start_ns = start_ns,
                                                     .step_ns = (uint64_t)SPAN_NS / total};
    file = fopen(argv[1], "wb");
    if (!file || source_generator_open(&options, &source, &failure) != 0) {
        fprintf(stderr, "tapeloop-haystack: %s: %s\n", argv[1], file ? failure.text : "cannot be written");
        return 1;
    }
    put(head, sizeof head);
    while (source_next(source, &batch, 0) > 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            put_needles(batch.packet[i].time_ns, total);
            put_packet(batch.packet[i].time_ns, batch.packet[i].bytes, batch.packet[i].captured_bytes);
        }
        source_release(source, &batch);
    }
    source_close(&source);
    if (fclose(file) != 0) {
        perror("tapeloop-haystack");
        return 1;
    }
    printf("{\"packets\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"flow\": %" PRIu64 ", \"rare\": %" PRIu64 ", \"from_ns\": %" PRId64
           ", \"to_ns\": %" PRId64 "}\n",
           packets, written, flow_packets, rare_packets, start_ns, start_ns + SPAN_NS);
    return 0;
}
