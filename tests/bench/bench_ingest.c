/*
 * bench_ingest.c - how fast packets get from the generator into a ring on its second lap: one run, one line of JSON.
 *
 *     bench_ingest --disk PATH --size BYTES [--bytes CAPTURED] [--buffer BYTES] [--copies N] [--index on|off]
 *                  [--flows N] [--stage all|source|append|disk]
 *
 * --copies N (all): N disks, PATH, PATH.2 and so on, of BYTES each, and as many copies.
 * --index (all; else on): whether segments get their key index.
 * --flows (else 200,000): how many flows are open at a time, of which each packet is drawn evenly. With 200,000 hardly two packets of
 * a segment share a flow; with 20,000 a segment of 16 MiB has 48,000 packets of 19,000 flows, as ordinary traffic has.
 * Stages, each alone: source (the generator makes packets and nobody takes them), append (packets into frames, checksums, a disk
 * that takes no time), disk (frames that are ready are written again and again), all (the recorder's own way). `ingest` drives it
 * and compares it with fio.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "disk_io.h"
#include "packet_keys.h"
#include "pipeline.h"
#include "pool.h"
#include "ring.h"
#include "source.h"
#include "text.h"

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what, const struct failure *failure)
{
    fprintf(stderr, "bench_ingest: %s: %s\n", what, failure ? failure->text : "");
    exit(1);
}

struct options {
    const char *disk;
    uint64_t disk_bytes;
    uint64_t bytes; /* captured, to be measured */
    uint64_t buffer_bytes;
    uint64_t frame_bytes;
    uint64_t copies;
    bool index;
    uint64_t flows;
    const char *stage;
};

static void disk_path(const struct options *options, uint32_t number, char *path, size_t size)
{
    if (number == 0)
        snprintf(path, size, "%s", options->disk);
    else
        snprintf(path, size, "%s.%u", options->disk, number + 1);
}

static void report(const struct options *options, uint64_t packets, uint64_t bytes, double seconds, double cpu)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"stage\": \"%s\", \"packets\": %llu, \"bytes\": %llu, \"seconds\": %.4f, \"bytes_per_s\": %.0f, "
           "\"packets_per_s\": %.0f, \"cpu_s\": %.4f, \"peak_kib\": %ld}\n",
           options->stage, (unsigned long long)packets, (unsigned long long)bytes, seconds, (double)bytes / seconds,
           (double)packets / seconds, cpu, usage.ru_maxrss);
}

static struct source *generator(const struct options *bench)
{
    struct source_generator_options options = {
        .seed = 1, .flows = (uint32_t)bench->flows, .hosts = 20000, .frame_bytes = (uint32_t)bench->frame_bytes, .start_ns = 1700000000000000000,
        .step_ns = 100};
    struct source *source;
    struct failure failure;
    if (source_generator_open(&options, &source, &failure) != 0)
        die("generator", &failure);
    return source;
}

static void stage_source(const struct options *options)
{
    struct source *source = generator(options);
    struct source_batch *batch = malloc(sizeof *batch);
    uint64_t packets = 0, bytes = 0;
    double start = now_s(), cpu = cpu_s();
    while (bytes < options->bytes && source_next(source, batch, 0) == 1) {
        for (uint32_t i = 0; i < batch->count; i++)
            bytes += batch->packet[i].captured_bytes;
        packets += batch->count;
        source_release(source, batch);
    }
    report(options, packets, bytes, now_s() - start, cpu_s() - cpu);
    free(batch);
    source_close(&source);
}

/* ---- a ring of its own ----------------------------------------------------------------------------- */

static struct ring *open_ring(const struct options *options, struct catalog **catalog, const char *directory)
{
    struct failure failure = {0};
    struct disk *disk[COPIES_MAX];
    struct identity identity, member[COPIES_MAX];
    uint32_t copies = (uint32_t)options->copies;
    uint64_t slot_bytes;
    bool fresh;
    for (uint32_t i = 0; i < copies; i++) {
        char path[300];
        disk_path(options, i, path, sizeof path);
        unlink(path);
        if (disk_uring_create(path, options->disk_bytes, true, &disk[i], &failure) != 0)
            die(path, &failure);
    }
    identity_make(&identity);
    if (ring_format_disks(&identity, "bench", (uint8_t)copies, 0, disk, copies, member, &slot_bytes, &failure) != 0)
        die("format", &failure);
    if (catalog_open(directory, catalog, &fresh, &failure) != 0)
        die(directory, &failure);
    struct ring_options ring_options = {.ring = identity,
                                        .name = "bench",
                                        .copies = (uint8_t)copies,
                                        .buffer_bytes = options->buffer_bytes,
                                        .flush_window_ns = 1000000000,
                                        .keys_of = options->index ? packet_keys_of : NULL,
                                        .catalog = *catalog,
                                        .whole = true};
    struct ring *ring;
    struct recovery_report recovery;
    if (ring_open(&ring_options, disk, copies, &ring, &recovery, &failure) != 0)
        die("ring", &failure);
    return ring;
}

struct progress {
    uint64_t packets, bytes;
};

static void add_interface(const struct stream_interface_state *state, void *context)
{
    struct progress *progress = context;
    progress->packets += state->account.packets[ACCOUNT_stored] + state->account.packets[ACCOUNT_in_flight];
    progress->bytes += state->account.bytes[ACCOUNT_stored] + state->account.bytes[ACCOUNT_in_flight];
}

/* A generator that stops by itself after a number of captured bytes. */
struct limited {
    struct source head;
    struct source *inner;
    uint64_t bytes, bytes_max;
};

static int limited_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct limited *limited = (struct limited *)source;
    if (limited->bytes >= limited->bytes_max)
        return ERR_END;
    int result = source_next(limited->inner, batch, timeout_ms);
    for (uint32_t i = 0; result == 1 && i < batch->count; i++)
        limited->bytes += batch->packet[i].captured_bytes;
    return result;
}

static void limited_release(struct source *source, struct source_batch *batch)
{
    source_release(((struct limited *)source)->inner, batch);
}

static uint32_t limited_interfaces(const struct source *source)
{
    const struct limited *limited = (const struct limited *)source;
    return limited->inner->ops->interfaces(limited->inner);
}

static const struct interface_description *limited_interface(const struct source *source, uint32_t number)
{
    const struct limited *limited = (const struct limited *)source;
    return limited->inner->ops->interface(limited->inner, number);
}

static void limited_counters(struct source *source, uint32_t number, struct source_counters *counters)
{
    struct limited *limited = (struct limited *)source;
    limited->inner->ops->counters(limited->inner, number, counters);
}

static void limited_close(struct source *source)
{
    source_close(&((struct limited *)source)->inner);
}

static const struct source_ops limited_ops = {"limited generator", limited_next,     limited_release, limited_interfaces,
                                              limited_interface,   limited_counters, limited_close};

static void run_pipeline(struct ring *ring, uint64_t bytes, const struct options *options, struct progress *progress)
{
    struct failure failure = {0};
    struct pipeline *pipeline;
    struct pipeline_options pipeline_options = {.ring = ring};
    struct limited limited = {.head = {.ops = &limited_ops, .waits = true, .wake_fd = -1},
                              .inner = generator(options),
                              .bytes_max = bytes};
    if (pipeline_open(&pipeline_options, &pipeline, &failure) != 0)
        die("pipeline", &failure);
    if (pipeline_run(pipeline, &limited.head, &failure) != 0)
        die("run", &failure);
    if (pipeline_finish(pipeline, &failure) != 0)
        die("finish", &failure);
    *progress = (struct progress){0};
    pipeline_interfaces(pipeline, add_interface, progress);
    pipeline_close(&pipeline);
    limited_close(&limited.head);
}

static void stage_all(const struct options *options)
{
    char directory[] = "/tmp/bench_ingest.XXXXXX";
    struct catalog *catalog;
    struct progress progress;
    if (!mkdtemp(directory))
        die("mkdtemp", NULL);
    struct ring *ring = open_ring(options, &catalog, directory);
    run_pipeline(ring, options->disk_bytes, options, &progress); /* the first lap */
    double start = now_s(), cpu = cpu_s();
    run_pipeline(ring, options->bytes, options, &progress);
    double seconds = now_s() - start, cpu_used = cpu_s() - cpu;
    report(options, progress.packets, progress.bytes, seconds, cpu_used);
    ring_close(&ring);
    catalog_close(&catalog);
    char path[300];
    static const char *const files[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
    for (uint32_t i = 0; i < options->copies; i++) {
        disk_path(options, i, path, sizeof path);
        unlink(path);
    }
}

/* ---- append: frames without a disk ------------------------------------------------------------------ */

static void stage_append(const struct options *options)
{
    struct source *source = generator(options);
    struct source_batch *batch = malloc(sizeof *batch);
    struct frame_table *table = malloc(sizeof *table);
    struct pool *pool;
    if (pool_open(options->buffer_bytes, &pool) != 0)
        die("pool", NULL);
    frame_table_clear(table);
    frame_table_add_interface(table, source->ops->interface(source, 0));
    int entry = frame_table_entry(table, 0, 0, 0, 0);
    struct frame_identity identity = {.position = 1};
    struct frame_builder builder;
    struct frame_buffer *buffer = pool_take(pool);
    struct account account = {0};
    uint64_t packets = 0, bytes = 0;
    frame_builder_start(&builder, buffer->bytes, buffer->capacity, table);
    double start = now_s(), cpu = cpu_s();
    while (bytes < options->bytes && source_next(source, batch, 0) == 1) {
        for (uint32_t i = 0; i < batch->count; i++) {
            const struct packet *packet = &batch->packet[i];
            if (!frame_builder_fits(&builder, packet->captured_bytes)) {
                struct frame_finish finish = {.kind = FRAME_DATA, .account = &account};
                frame_builder_finish(&builder, &identity, table, &finish);
                pool_give(pool, buffer);
                buffer = pool_take(pool);
                frame_builder_start(&builder, buffer->bytes, buffer->capacity, table);
            }
            frame_builder_add(&builder, (uint8_t)entry, packet, packet->captured_bytes);
            bytes += packet->captured_bytes;
        }
        packets += batch->count;
        source_release(source, batch);
    }
    report(options, packets, bytes, now_s() - start, cpu_s() - cpu);
    pool_give(pool, buffer);
    pool_close(&pool);
    free(table);
    free(batch);
    source_close(&source);
}

/* ---- disk: the seam alone ---------------------------------------------------------------------------- */

static void request_done(struct disk_request *request)
{
    __atomic_fetch_sub((int *)request->owner, 1, __ATOMIC_RELEASE);
}

static void stage_disk(const struct options *options)
{
    struct failure failure = {0};
    struct disk *disk;
    struct pool *pool;
    uint32_t count;
    static struct disk_request request[16];
    int under_way = 0;
    unlink(options->disk);
    if (disk_uring_create(options->disk, options->disk_bytes, true, &disk, &failure) != 0 ||
        disk_geometry_plan(disk->bytes, 0, &disk->geometry, &failure) != 0)
        die(options->disk, &failure);
    if (pool_open(options->buffer_bytes, &pool) != 0)
        die("pool", NULL);
    uint8_t *area = pool_area(pool, &count);
    memset(area, 0x5a, (size_t)count * FRAME_BYTES_USUAL);
    disk->ops->register_buffers(disk, area, FRAME_BYTES_USUAL, count);
    double start = 0, cpu = 0;
    uint64_t lap = disk->geometry.slot_bytes * disk->geometry.slot_count, written = 0;
    for (uint64_t offset = 0; offset < lap + options->bytes; offset += FRAME_BYTES_USUAL) {
        if (offset == lap) {
            while (__atomic_load_n(&under_way, __ATOMIC_ACQUIRE) > 0)
                usleep(10);
            start = now_s(), cpu = cpu_s();
        }
        while (__atomic_load_n(&under_way, __ATOMIC_ACQUIRE) >= 16)
            usleep(10);
        uint32_t i = (uint32_t)(offset / FRAME_BYTES_USUAL), buffer = i % count;
        while (__atomic_load_n(&request[i % 16].body[3], __ATOMIC_ACQUIRE) == 1)
            usleep(10);
        __atomic_fetch_add(&under_way, 1, __ATOMIC_RELEASE);
        request[i % 16] = (struct disk_request){
            .op = DISK_WRITE,
            .slot = (uint32_t)(offset % lap / disk->geometry.slot_bytes),
            .offset = offset % disk->geometry.slot_bytes,
            .buffer = area + (uint64_t)buffer * FRAME_BYTES_USUAL,
            .bytes = FRAME_BYTES_USUAL,
            .buffer_index = (int32_t)buffer,
            .done = request_done,
            .owner = &under_way,
        };
        disk_submit(disk, &request[i % 16]);
        written = offset;
    }
    while (__atomic_load_n(&under_way, __ATOMIC_ACQUIRE) > 0)
        usleep(10);
    disk_flush(disk);
    report(options, 0, written - lap, now_s() - start, cpu_s() - cpu);
    disk_close(&disk);
    pool_close(&pool);
    unlink(options->disk);
}

int main(int argc, char **argv)
{
    struct options options = {
        .disk_bytes = 2ull << 30, .bytes = 4ull << 30, .buffer_bytes = 256ull << 20, 
        .copies = 1, .index = true, .flows = 200000, .stage = "all"};
    struct failure failure;
    for (int i = 1; i + 1 < argc; i += 2) {
        int result = 0;
        if (strcmp(argv[i], "--disk") == 0)
            options.disk = argv[i + 1];
        else if (strcmp(argv[i], "--stage") == 0)
            options.stage = argv[i + 1];
        else if (strcmp(argv[i], "--index") == 0)
            options.index = strcmp(argv[i + 1], "off") != 0;
        else if (strcmp(argv[i], "--flows") == 0)
            options.flows = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--copies") == 0)
            options.copies = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--size") == 0)
            result = text_parse_size(argv[i + 1], &options.disk_bytes, &failure);
        else if (strcmp(argv[i], "--bytes") == 0)
            result = text_parse_size(argv[i + 1], &options.bytes, &failure);
        else if (strcmp(argv[i], "--buffer") == 0)
            result = text_parse_size(argv[i + 1], &options.buffer_bytes, &failure);
        else if (strcmp(argv[i], "--frame") == 0)
            result = text_parse_size(argv[i + 1], &options.frame_bytes, &failure);
        else
            die(argv[i], NULL);
        if (result != 0)
            die(argv[i], &failure);
    }
    if (options.copies < 1 || options.copies > COPIES_MAX)
        die("--copies: 1 to 4", NULL);
    if (strcmp(options.stage, "source") == 0)
        stage_source(&options);
    else if (strcmp(options.stage, "append") == 0)
        stage_append(&options);
    else if (!options.disk)
        die("--disk is needed", NULL);
    else if (strcmp(options.stage, "disk") == 0)
        stage_disk(&options);
    else
        stage_all(&options);
    return 0;
}
