/*
 * bench_reader.c - how fast tapeloop-extract turns stored segments into pcapng, against fio reading
 * the same file.
 *
 *     bench_reader [--directory DIR] [--mib N] [--pairs N] [--streams N] [--filter TEXT] [--fio
 * PROGRAM]
 *
 * Makes a file of sealed 64 MiB segments (IMIX sizes 60/566/1514 in 7:4:1), then, in turn (ABBA),
 * has fio read it sequentially (1 MiB, direct, queue depth 8) and tapeloop-extract write all of it
 * to /dev/null. Prints both rates for each pair and the median of their ratios. Without fio only
 * the second.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "segment_fixture.h"
#include "worker.h"

#define SLOT_BYTES (64u << 20)
#define PAIRS_MAX 99

static void give_up(const char *what)
{
    fprintf(stderr, "bench_reader: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* One segment into slot 0 of the fixture, until it is full. */
static void fill(struct fixture_segment *segment, struct fixture *fixture, uint32_t stream,
                 uint64_t position, uint64_t *first_packet, int64_t *time_ns)
{
    static uint8_t bytes[2048];
    static const uint32_t slot;
    uint32_t state = (uint32_t)position;
    fixture_begin(segment, fixture, &slot, 1, 1, stream, position, *first_packet, 0);
    int interface = fixture_interface_usual(segment);
    for (;;) {
        state = state * 1664525u + 1013904223u;
        uint32_t turn = (state >> 16) % 12, length = turn < 7 ? 60 : turn < 11 ? 566 : 1514;
        memcpy(bytes + 26, &state, sizeof state);
        if (!fixture_packet_bytes(segment, interface, DIRECTION_UNKNOWN, *time_ns, bytes, length,
                                  length))
            break;
        *time_ns += 1000;
    }
    fixture_seal(segment);
    *first_packet = segment->next_packet;
}

static struct worker_segment *make_file(const char *path, uint32_t slots, uint32_t streams,
                                        struct fixture *fixture, uint64_t *payload)
{
    static struct fixture_segment segment;
    struct worker_segment *segments = calloc(slots, sizeof *segments);
    uint64_t *first_packet = calloc(streams, sizeof *first_packet);
    int64_t *time_ns = calloc(streams, sizeof *time_ns);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (!segments || !first_packet || !time_ns || fd < 0)
        give_up(path);
    fixture_open(fixture, 1, SLOT_BYTES);
    *payload = 0;
    for (uint32_t i = 0; i < slots; i++) {
        uint32_t stream = i % streams;
        fill(&segment, fixture, stream, i + 1, &first_packet[stream], &time_ns[stream]);
        segments[i] = segment.about;
        segments[i].place[0].slot = i;
        *payload += segment.account.stored_bytes;
        fixture_end(&segment);
        uint64_t offset = FIXTURE_SLOTS_OFFSET + (uint64_t)i * SLOT_BYTES;
        for (uint32_t at = 0; at < SLOT_BYTES; at += 1 << 20)
            if (pwrite(fd, fixture_slot(fixture, 0, at), 1 << 20, (off_t)(offset + at)) != 1 << 20)
                give_up(path);
    }
    if (fsync(fd) != 0 || close(fd) != 0)
        give_up(path);
    free(first_packet);
    free(time_ns);
    return segments;
}

/* Seconds that one extraction of everything takes. */
static double extract(const char *program, const char *path, const struct fixture *fixture,
                      const struct worker_segment *segments, uint32_t slots, const char *filter,
                      struct worker_done *done)
{
    static uint8_t buffer[WORKER_MESSAGE_BYTES_MAX] __attribute__((aligned(8)));
    struct worker worker;
    struct failure failure;
    struct worker_job job = {
        .kind = WORKER_EXTRACT,
        .format = WORKER_PCAPNG,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .disks = 1,
        .memory_max = 64 << 20,
        .ring = fixture->ring,
    };
    job.disk[0].slots_offset = FIXTURE_SLOTS_OFFSET;
    job.disk[0].slot_bytes = SLOT_BYTES;
    job.disk[0].slot_count = slots;
    int descriptor[2] = {open("/dev/null", O_WRONLY), open(path, O_RDONLY | O_DIRECT)};
    if (descriptor[0] < 0 || descriptor[1] < 0)
        give_up(path);
    double start = now_s();
    if (worker_start(program, &worker, &failure) != 0) {
        fprintf(stderr, "bench_reader: %s\n", failure.text);
        exit(1);
    }
    worker_send(&worker, WORKER_JOB, &job, sizeof job, 1, descriptor, 2);
    if (filter)
        worker_send(&worker, WORKER_FILTER, filter, 1, (uint32_t)strlen(filter), NULL, 0);
    for (uint32_t i = 0; i < slots; i += 64)
        worker_send(&worker, WORKER_SEGMENTS, segments + i, sizeof *segments,
                    slots - i < 64 ? slots - i : 64, NULL, 0);
    worker_send(&worker, WORKER_PLAN_END, NULL, 0, 0, NULL, 0);
    const void *element;
    int got;
    while ((got = worker_receive(&worker, buffer, &element, -1)) != WORKER_DONE)
        if (got < 0) {
            fprintf(stderr, "bench_reader: the worker is gone\n");
            exit(1);
        }
    double seconds = now_s() - start;
    *done = *(const struct worker_done *)element;
    worker_stop(&worker);
    close(descriptor[0]);
    close(descriptor[1]);
    if (done->result != 0 || done->gaps != 0) {
        fprintf(stderr, "bench_reader: the extraction failed: %s\n", done->text);
        exit(1);
    }
    return seconds;
}

/* Bytes a second that fio reads; 0: there is no fio. */
static double read_with_fio(const char *fio, const char *path, uint64_t bytes)
{
    char command[4096], line[4096];
    snprintf(command, sizeof command,
             "%s --name=read --filename=%s --rw=read --bs=1M --direct=1 --ioengine=io_uring "
             "--iodepth=8 --size=%llu "
             "--output-format=terse --terse-version=3 2>/dev/null",
             fio, path, (unsigned long long)bytes);
    FILE *pipe = popen(command, "r"); // NOLINT(cert-env33-c): a benchmark, started by hand
    double rate = 0;
    while (pipe && fgets(line, sizeof line, pipe)) {
        char *rest = line, *field = NULL;
        for (int i = 0; i < 7; i++)
            field = strsep(&rest, ";");
        if (field && strncmp(line, "3", 1) == 0)
            rate = strtod(field, NULL) * 1024;
    }
    if (pipe)
        pclose(pipe);
    return rate;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    const char *directory = "/dev/shm", *fio = "fio", *filter = NULL,
               *folder = getenv("TAPELOOP_BIN");
    uint32_t mib = 2048, pairs = 5, streams = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--directory") == 0)
            directory = argv[i + 1];
        else if (strcmp(argv[i], "--mib") == 0)
            mib = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--pairs") == 0)
            pairs = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--streams") == 0)
            streams = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--filter") == 0)
            filter = argv[i + 1];
        else if (strcmp(argv[i], "--fio") == 0)
            fio = argv[i + 1];
    }
    uint32_t slots = mib / 64;
    if (slots == 0 || pairs == 0 || pairs > PAIRS_MAX || streams == 0) {
        fprintf(stderr, "bench_reader: at least 64 MiB, 1 to %d pairs, 1 stream\n", PAIRS_MAX);
        return 2;
    }
    char path[4096], program[4096];
    snprintf(path, sizeof path, "%s/bench_reader.%d", directory, (int)getpid());
    snprintf(program, sizeof program, "%s/tapeloop-extract", folder ? folder : "bin");
    struct fixture fixture;
    uint64_t payload;
    struct worker_segment *segments = make_file(path, slots, streams, &fixture, &payload);
    uint64_t bytes = FIXTURE_SLOTS_OFFSET + (uint64_t)slots * SLOT_BYTES;

    double ratio[PAIRS_MAX];
    for (uint32_t i = 0; i < pairs; i++) {
        struct worker_done done;
        double reference = i % 2 == 0 ? read_with_fio(fio, path, bytes) : 0;
        double seconds = extract(program, path, &fixture, segments, slots, filter, &done);
        if (i % 2 == 1)
            reference = read_with_fio(fio, path, bytes);
        double rate = (double)done.total.bytes_read / seconds;
        ratio[i] = reference > 0 ? rate / reference : 0;
        printf("extract %.2f GB/s (%.1f million packets/s), fio %.2f GB/s, ratio %.2f\n",
               rate / 1e9, (double)done.total.packets_judged / seconds / 1e6, reference / 1e9,
               ratio[i]);
        fflush(stdout);
    }
    qsort(ratio, pairs, sizeof ratio[0], ascending);
    printf("median ratio %.2f of %u pairs, %u MiB in %s, %u stream%s%s%s\n", ratio[pairs / 2],
           pairs, mib, directory, streams, streams == 1 ? "" : "s", filter ? ", filter " : "",
           filter ? filter : "");
    unlink(path);
    free(segments);
    fixture_close(&fixture);
    return 0;
}
