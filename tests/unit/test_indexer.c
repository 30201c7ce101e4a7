/*
 * test_indexer.c - an indexer that gets no further: a live stream goes on without it and says what it left out, a stream that can wait
 * waits, and when it gets on everything is indexed.
 *
 * The indexer is held up where it asks for a packet's keys. Real ring, on a file.
 */
#include "unit_test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

#define DISK_BYTES (64u << 20)
#define PACKET_BYTES 6000u
#define SLOT_PACKETS 160u /* fewer fit into a slot */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

/* Waits while somebody has shut the gate. */
static bool slow_keys(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain, struct flow_keys *keys)
{
    if (!keys)
        return false; /* asked by the capture thread */
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    memset(keys, 0, sizeof *keys);
    keys->kind.link_type = link_type;
    keys->kind.version = 4;
    memcpy(keys->end[0].address, bytes, captured_bytes < 4 ? captured_bytes : 4);
    (void)plain;
    return false;
}

struct world {
    char directory[64];
    struct catalog *catalog;
    struct ring *ring;
    struct stream *stream;
    uint32_t packets;
};

static void world_open(struct world *world)
{
    struct failure failure = {0};
    struct recovery_report report;
    struct identity identity, member;
    struct disk *disk;
    uint64_t slot_bytes;
    bool fresh;
    char path[128];
    memset(world, 0, sizeof *world);
    strcpy(world->directory, "/tmp/tapeloop-indexer-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    snprintf(path, sizeof path, "%s/disk", world->directory);
    identity_make(&identity);
    if (disk_uring_create(path, DISK_BYTES, false, &disk, &failure) != 0 ||
        ring_format_disks(&identity, "test", 1, SLOT_BYTES_MIN, &disk, 1, &member, &slot_bytes, &failure) != 0 ||
        catalog_open(world->directory, &world->catalog, &fresh, &failure) != 0)
        fail_msg("%s", failure.text);
    struct ring_options options = {.ring = identity,
                                   .name = "test",
                                   .copies = 1,
                                   .buffer_bytes = RING_BUFFER_BYTES_MIN,
                                   .flush_window_ns = RING_FLUSH_WINDOW_NS_MIN,
                                   .keys_of = slow_keys,
                                   .catalog = world->catalog};
    if (ring_open(&options, &disk, 1, &world->ring, &report, &failure) != 0)
        fail_msg("%s", failure.text);
    static const struct interface_description interface = {.link_type = 1, .name = "test0"};
    assert_int_equal(ring_stream_open(world->ring, &(struct stream_options){0}, &world->stream), 0);
    assert_int_equal(stream_add_interface(world->stream, &interface), 0);
}

static void world_close(struct world *world)
{
    char command[128];
    ring_close(&world->ring);
    catalog_close(&world->catalog);
    snprintf(command, sizeof command, "rm -r %s", world->directory);
    assert_int_equal(system(command), 0);
}

static int append(struct world *world)
{
    static uint8_t bytes[PACKET_BYTES];
    struct packet packet = {.bytes = bytes,
                            .captured_bytes = PACKET_BYTES,
                            .original_bytes = PACKET_BYTES,
                            .time_ns = (int64_t)world->packets + 1};
    memset(bytes, (int)world->packets, sizeof bytes);
    int result = stream_append(world->stream, 0, &packet, PACKET_BYTES, 0, 0);
    if (result != 0)
        return result;
    stream_count(world->stream, 0, ACCOUNT_seen, 1, PACKET_BYTES);
    world->packets++;
    return 0;
}

/* Until the store has taken them; whoever waits for the indexer here waits for ever. */
static void record(struct world *world, uint32_t packets)
{
    for (uint32_t until = world->packets + packets; world->packets < until;)
        if (append(world) != 0) {
            stream_tick(world->stream);
            stream_wait(world->stream, 20);
        }
}

/* Closes the stream; everything recorded is stored. */
static struct keeper_state finish(struct world *world)
{
    static struct ring_state state;
    struct account account;
    assert_int_equal(ring_stream_close(world->ring, &world->stream, &account, NULL, NULL), 0);
    assert_int_equal(account.packets[ACCOUNT_stored], world->packets);
    assert_int_equal(account_sum(&account), account.packets[ACCOUNT_seen]);
    assert_int_equal(ring_state(world->ring, &state), 0);
    assert_int_equal(state.pool.free, state.pool.buffers);
    return state.keeper;
}

static void test_a_live_stream_does_not_wait(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    stream_set_patient(world.stream, false);
    pthread_mutex_lock(&gate);
    record(&world, 20 * SLOT_PACKETS);
    pthread_mutex_unlock(&gate);
    record(&world, 10 * SLOT_PACKETS);
    struct keeper_state keeper = finish(&world);
    assert_in_range(keeper.segments_coarse, 15, keeper.segments_sealed);
    world_close(&world);
}

static void test_a_stream_that_can_wait_waits(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    pthread_mutex_lock(&gate);
    for (uint32_t tries = 0; tries < 20 && world.packets < 60 * SLOT_PACKETS;) {
        if (append(&world) == 0) {
            tries = 0;
            continue;
        }
        tries++;
        stream_tick(world.stream);
        stream_wait(world.stream, 10);
    }
    assert_in_range(world.packets, 1, 10 * SLOT_PACKETS); /* a quarter of the buffers, and what is being filled */
    pthread_mutex_unlock(&gate);
    record(&world, 20 * SLOT_PACKETS);
    struct keeper_state keeper = finish(&world);
    assert_in_range(keeper.segments_sealed, 20, 60);
    assert_int_equal(keeper.segments_coarse, 0);
    world_close(&world);
}

/* A flush is served, and the segment sealed, also where few frames are worth no waking of the indexer. */
static void test_a_few_packets_are_indexed(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    record(&world, 3);
    uint64_t ticket = stream_request_flush(world.stream);
    do
        stream_tick(world.stream);
    while (!stream_wait_flushed(world.stream, ticket, 1000));
    struct keeper_state keeper = finish(&world);
    assert_int_equal(keeper.segments_sealed, 1);
    assert_int_equal(keeper.segments_coarse, 0);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_live_stream_does_not_wait),
        cmocka_unit_test(test_a_stream_that_can_wait_waits),
        cmocka_unit_test(test_a_few_packets_are_indexed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
