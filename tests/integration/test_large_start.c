/*
 * test_large_start.c - a ring of 1 TiB comes up: 65,536 slots of 16 MiB on 8 simulated disks, two
 * copies of each segment, the real catalog.
 *
 * Its media are sparse: of each segment there are the OPEN frame, and index and seal. Three starts
 * are looked at: without a catalog, which may cost two reads a slot and no more; with a good
 * catalog; and after kill -9, with the catalog's files as the dead process left them and segments
 * open on the disks. The times are printed; what is asserted is how much was read, for the time is
 * the machine's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "catalog.h"
#include "frame.h"
#include "keeper.h"
#include "recovery.h"
#include "segment_index.h"
#include "simulation.h"
#include "unit_test.h"

#define DISKS 8u
#define SLOTS 8192u /* on each */
#define SLOT_BYTES (16u << 20)
#define COPIES 2u
#define SEGMENTS (DISKS * SLOTS / COPIES)
#define STREAMS 8u
#define OPEN_SEGMENTS (STREAMS * (1 + KEEPER_LEASES_AHEAD)) /* being filled, and prepared */
#define PACKET_BYTES 1000u
#define DATA_BYTES (2 * PAGE_BYTES) /* a frame of a few packets */
#define PACKETS 4u
#define SEARCH_BYTES (1u << 20)
#define START_NS INT64_C(1700000000000000000)

static char directory[64], left_directory[64];
static struct simulation *simulation;
static struct simulated_media *media[DISKS];
static struct identity ring, run, disk_identity[DISKS];
static struct frame_table *table;
static struct segment_index segment_index;
static _Alignas(PAGE_BYTES) uint8_t buffer[FRAME_BYTES_USUAL];

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int64_t wall_ns(void *context)
{
    (void)context;
    return START_NS + (int64_t)SEGMENTS * 1000000000;
}

/* ---- what lies there ---------------------------------------------------------------------------
 */

/* Copy `copy` of the segment at a position: consecutive ones go round the disks, a lap later they
 * come back. */
static uint32_t place(uint64_t position, uint32_t copy, uint32_t *slot)
{
    uint64_t number = (position - 1) % SEGMENTS * COPIES + copy;
    *slot = (uint32_t)(number / DISKS);
    return (uint32_t)(number % DISKS);
}

static void poke(uint64_t position, uint64_t offset, const uint8_t *bytes, uint32_t count)
{
    for (uint32_t copy = 0; copy < COPIES; copy++) {
        uint32_t slot, disk = place(position, copy, &slot);
        simulated_media_poke(media[disk], META_BYTES + (uint64_t)slot * SLOT_BYTES + offset, bytes,
                             count);
    }
}

static void put_open(const struct frame_identity *identity, uint64_t first_packet,
                     int64_t opened_ns)
{
    struct open_body body = {.opened_ns = le64_of((uint64_t)opened_ns),
                             .slot_bytes = le64_of(SLOT_BYTES),
                             .copies = COPIES};
    for (uint32_t copy = 0; copy < COPIES; copy++) {
        uint32_t slot, disk = place(identity->position, copy, &slot);
        body.place[copy] = (struct open_place){.disk = disk_identity[disk], .slot = le32_of(slot)};
    }
    struct frame_finish finish = {
        .kind = FRAME_OPEN, .first_packet = first_packet, .frontier = first_packet};
    assert_int_equal(
        frame_build_plain(buffer, PAGE_BYTES, identity, NULL, &finish, &body, sizeof body),
        PAGE_BYTES);
    poke(identity->position, 0, buffer, PAGE_BYTES);
}

static struct frame_identity identity_at(uint64_t position)
{
    struct frame_identity identity = {.ring = ring,
                                      .run = run,
                                      .position = position,
                                      .revision = 1,
                                      .data_revision = 1,
                                      .stream = (uint32_t)(position % STREAMS)};
    identity_make(&identity.segment);
    return identity;
}

static void put_sealed(uint64_t position)
{
    struct frame_identity identity = identity_at(position);
    struct account account = {0};
    int64_t time_ns = START_NS + (int64_t)position * 1000000000;
    uint64_t first_packet = position / STREAMS * PACKETS;
    put_open(&identity, first_packet, time_ns);
    segment_index_clear(&segment_index, first_packet);
    segment_index_add(&segment_index, PAGE_BYTES, DATA_BYTES, 1, PACKETS, first_packet,
                      PACKETS * PACKET_BYTES, time_ns, time_ns, time_ns + 900000000);
    struct segment_seal seal = {
        .identity = &identity,
        .table = table,
        .interface_account = &account,
        .account = &account,
        .frontier = first_packet + PACKETS,
        .opened_ns = time_ns,
        .sealed_ns = time_ns + 1000000000,
        .reason = SEAL_FULL,
        .slot_bytes = SLOT_BYTES,
    };
    assert_int_equal(segment_index_parts(&segment_index, &seal), 1);
    uint32_t offset, bytes = segment_index_part(&segment_index, &seal, 0, buffer, &offset);
    poke(position, offset, buffer, bytes);
}

/* A segment that a dead process was filling: its OPEN frame, some packets, no seal, and the row of
 * an open segment. */
static void put_filling(struct catalog *catalog, uint64_t position, bool packets)
{
    static uint8_t bytes[PACKET_BYTES];
    static const uint8_t nothing[PAGE_BYTES];
    struct frame_identity identity = identity_at(position);
    struct account account = {0};
    int64_t time_ns = START_NS + (int64_t)position * 1000000000;
    uint64_t first_packet = position / STREAMS * PACKETS;
    put_open(&identity, first_packet, time_ns);
    poke(position, SLOT_BYTES - PAGE_BYTES, nothing, PAGE_BYTES);
    if (packets) {
        struct frame_builder builder;
        int entry = frame_table_entry(table, 0, 0, 0, 0);
        frame_builder_start(&builder, buffer, FRAME_BYTES_USUAL, table);
        for (uint32_t i = 0; i < PACKETS; i++) {
            struct packet packet = {.bytes = bytes,
                                    .captured_bytes = PACKET_BYTES,
                                    .original_bytes = PACKET_BYTES,
                                    .time_ns = time_ns + i};
            assert_true(frame_builder_fits(&builder, PACKET_BYTES));
            frame_builder_add(&builder, (uint8_t)entry, &packet, PACKET_BYTES);
        }
        struct frame_finish finish = {.kind = FRAME_DATA,
                                      .offset = PAGE_BYTES,
                                      .number = 1,
                                      .first_packet = first_packet,
                                      .frontier = first_packet,
                                      .account = &account};
        uint32_t length = frame_builder_finish(&builder, &identity, table, &finish);
        poke(position, PAGE_BYTES, buffer, length);
    }
    struct segment_row row = {
        .ring = ring,
        .segment = identity.segment,
        .position = position,
        .revision = 1,
        .data_revision = 1,
        .run = run,
        .stream = identity.stream,
        .state = SEGMENT_OPEN,
        .first_packet = first_packet,
        .opened_ns = time_ns,
        .first_ns = INT64_MAX,
        .last_ns = INT64_MIN,
        .data_end = PAGE_BYTES,
        .places = COPIES,
    };
    for (uint32_t copy = 0; copy < COPIES; copy++) {
        uint32_t disk = place(position, copy, &row.place[copy].slot);
        row.place[copy].disk = disk_identity[disk];
    }
    catalog_put_segment(catalog, &row);
}

/* ---- a start
 * ------------------------------------------------------------------------------------- */

struct start {
    double seconds;    /* catalog opened, disks looked at, beliefs in the keeper */
    uint64_t requests; /* to all disks */
    struct recovery_report report;
    uint64_t position;
};

static void start(const char *where, bool whole, bool keep_open, struct catalog **catalog,
                  struct start *result)
{
    struct recovery_disk recovery[DISKS];
    struct failure failure = {0};
    struct pool *pool;
    struct keeper *keeper;
    bool fresh;
    for (uint32_t i = 0; i < DISKS; i++) {
        struct disk *disk;
        assert_int_equal(simulated_disk_open(media[i], DISK_OPEN_EXCLUSIVE, &disk, &failure), 0);
        disk->geometry = (struct disk_geometry){.disk_bytes = disk->bytes,
                                                .slots_offset = META_BYTES,
                                                .slot_bytes = SLOT_BYTES,
                                                .slot_count = SLOTS};
        recovery[i] = (struct recovery_disk){.disk = disk,
                                             .identity = disk_identity[i],
                                             .belief = calloc(SLOTS, sizeof *recovery[i].belief)};
        assert_non_null(recovery[i].belief);
    }
    assert_int_equal(pool_open(16u << 20, &pool), 0);
    uint64_t events = simulation_events(simulation);
    double began = now_s();
    assert_int_equal(catalog_open(where, catalog, &fresh, &failure), 0);
    assert_int_equal(fresh, whole);
    struct recovery_options options = {
        .ring = ring, .catalog = *catalog, .whole = whole, .wall_ns = wall_ns};
    assert_int_equal(
        recovery_run(&options, recovery, DISKS, &result->position, &result->report, &failure), 0);
    struct keeper_options keep = {.ring = ring,
                                  .run = run,
                                  .slot_bytes = SLOT_BYTES,
                                  .copies = COPIES,
                                  .flush_window_ns = 1000000000,
                                  .pool = pool,
                                  .catalog = *catalog,
                                  .monotonic_ns = (uint64_t(*)(void *))simulation_now_ns,
                                  .wall_ns = wall_ns,
                                  .context = simulation};
    assert_int_equal(keeper_new(&keep, &keeper), 0);
    for (uint32_t i = 0; i < DISKS; i++)
        assert_int_equal(keeper_add_disk(keeper, recovery[i].disk, &recovery[i].identity,
                                         recovery[i].belief, NULL),
                         0);
    keeper_raise_position(keeper, result->position);
    result->seconds = now_s() - began;
    result->requests = (simulation_events(simulation) - events) / 2; /* submitted, completed */
    if (whole)
        catalog_fresh(*catalog);
    assert_int_equal(catalog_barrier(*catalog), 0);
    struct catalog_summary summary;
    assert_int_equal(catalog_summary(*catalog, &ring, &summary), 0);
    assert_int_equal(summary.segments,
                     SEGMENTS - (result->position > SEGMENTS ? OPEN_SEGMENTS - STREAMS : 0));
    if (!keep_open)
        catalog_close(catalog);
    while (simulation_step(simulation))
        continue;
    keeper_free(&keeper);
    pool_close(&pool);
    for (uint32_t i = 0; i < DISKS; i++) {
        disk_close(&recovery[i].disk);
        free(recovery[i].belief);
    }
}

static void report(const char *what, const struct start *start)
{
    printf("%-32s %.3f s, %llu requests to disks, %llu of %u slots looked at\n", what,
           start->seconds, (unsigned long long)start->requests,
           (unsigned long long)start->report.slots_read, DISKS * SLOTS);
}

static void copy_file(const char *name)
{
    char from[128], to[128];
    size_t bytes;
    snprintf(from, sizeof from, "%s/%s", directory, name);
    snprintf(to, sizeof to, "%s/%s", left_directory, name);
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    while ((bytes = fread(buffer, 1, sizeof buffer, in)) > 0)
        assert_int_equal(fwrite(buffer, 1, bytes, out), bytes);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(fclose(in), 0);
}

static void test_starts(void **state)
{
    struct catalog *catalog = NULL;
    struct start first = {0}, good = {0}, killed = {0};
    (void)state;

    for (uint64_t position = 1; position <= SEGMENTS; position++)
        put_sealed(position);
    start(directory, true, false, &catalog, &first);
    report("without a catalog", &first);
    assert_int_equal(first.position, SEGMENTS);
    assert_int_equal(first.report.segments_found, SEGMENTS);
    assert_int_equal(first.report.slots_read, DISKS * SLOTS);
    assert_in_range(first.requests, 2 * DISKS * SLOTS, 2 * DISKS * SLOTS + DISKS);

    start(directory, false, true, &catalog, &good);
    report("with a good catalog", &good);
    assert_int_equal(good.position, SEGMENTS);
    assert_int_equal(good.report.segments_found, 0);
    assert_in_range(good.report.slots_read, 1, DISKS * 128);

    /* The next lap has begun; then the process is gone, and its catalog's files are as they are. */
    for (uint64_t i = 0; i < OPEN_SEGMENTS; i++)
        put_filling(catalog, SEGMENTS + 1 + i, i < STREAMS);
    assert_int_equal(catalog_barrier(catalog), 0);
    copy_file("catalog.db");
    copy_file("catalog.db-wal");
    catalog_close(&catalog);
    start(left_directory, false, false, &catalog, &killed);
    report("after kill -9", &killed);
    assert_int_equal(killed.position, SEGMENTS + OPEN_SEGMENTS);
    assert_int_equal(killed.report.segments_sealed, STREAMS);
    assert_int_equal(killed.report.segments_empty, OPEN_SEGMENTS - STREAMS);
    assert_int_equal(killed.report.packets_recovered, STREAMS * PACKETS);
    assert_in_range(killed.report.slots_read, 1, DISKS * 128);
    /* What was open is searched for frames behind a hole, by the MiB. */
    assert_in_range(killed.requests, 1,
                    2 * killed.report.slots_read +
                        COPIES * OPEN_SEGMENTS * (SLOT_BYTES / SEARCH_BYTES + 8));
}

static int make(void **state)
{
    static const struct interface_description interface = {.link_type = 1, .name = "sim0"};
    (void)state;
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(directory, sizeof directory, "%.40s/tapeloop-XXXXXX", base);
    snprintf(left_directory, sizeof left_directory, "%.40s/tapeloop-XXXXXX", base);
    table = calloc(1, sizeof *table);
    if (!mkdtemp(directory) || !mkdtemp(left_directory) || !table)
        return -1;
    frame_table_clear(table);
    simulation = simulation_new(1);
    identity_make(&ring);
    identity_make(&run);
    for (uint32_t i = 0; i < DISKS; i++) {
        media[i] =
            simulated_media_new(simulation, 2 * META_BYTES + (uint64_t)SLOTS * SLOT_BYTES, 0, 1000);
        identity_make(&disk_identity[i]);
    }
    return frame_table_add_interface(table, &interface) == 0 &&
                   segment_index_open(&segment_index, SLOT_BYTES) == 0
               ? 0
               : -1;
}

static int unmake(void **state)
{
    static const char *const name[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    const char *const where[] = {directory, left_directory};
    (void)state;
    for (uint32_t i = 0; i < DISKS; i++)
        simulated_media_free(&media[i]);
    simulation_free(&simulation);
    segment_index_close(&segment_index);
    free(table);
    for (uint32_t i = 0; i < COUNT(where); i++) {
        for (uint32_t k = 0; k < COUNT(name); k++) {
            char path[128];
            snprintf(path, sizeof path, "%s/%s", where[i], name[k]);
            unlink(path);
        }
        rmdir(where[i]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_starts)};
    return cmocka_run_group_tests(tests, make, unmake);
}
