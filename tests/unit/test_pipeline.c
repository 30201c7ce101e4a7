/*
 * The pipeline against a real ring in a file: what goes in is what is counted, stored and found
 * again.
 */
#include "unit_test.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "pipeline.h"
#include "rule_text.h"
#include "source.h"

#define DISK_BYTES (48u << 20)
#define BUFFER_BYTES RING_BUFFER_BYTES_MIN

struct world {
    char directory[64];
    char path[96];
    struct catalog *catalog;
    struct ring *ring;
};

static void world_open(struct world *world)
{
    struct failure failure = {0};
    struct disk *disk;
    struct identity identity, disk_identity;
    uint64_t slot_bytes;
    bool fresh;
    strcpy(world->directory, "/tmp/tapeloop-pipeline-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    snprintf(world->path, sizeof world->path, "%s/disk", world->directory);
    if (disk_uring_create(world->path, DISK_BYTES, false, &disk, &failure) != 0)
        fail_msg("%s", failure.text);
    identity_make(&identity);
    if (ring_format_disks(&identity, "test", 1, 0, &disk, 1, &disk_identity, &slot_bytes,
                          &failure) != 0 ||
        catalog_open(world->directory, &world->catalog, &fresh, &failure) != 0)
        fail_msg("%s", failure.text);
    struct ring_options options = {
        .ring = identity,
        .name = "test",
        .copies = 1,
        .buffer_bytes = BUFFER_BYTES,
        .flush_window_ns = RING_FLUSH_WINDOW_NS_MIN,
        .catalog = world->catalog,
    };
    struct recovery_report report;
    if (ring_open(&options, &disk, 1, &world->ring, &report, &failure) != 0)
        fail_msg("%s", failure.text);
}

static void world_close(struct world *world)
{
    static const char *const made[] = {"disk", "catalog.db", "catalog.db-wal", "catalog.db-shm"};
    ring_close(&world->ring);
    catalog_close(&world->catalog);
    for (size_t i = 0; i < COUNT(made); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", world->directory, made[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(world->directory), 0);
}

/* `packets`: a multiple of SOURCE_BATCH_MAX, for the times within a batch depend on its length. */
static struct source *generator(uint64_t packets)
{
    struct source_generator_options options = {.seed = 7,
                                               .packets = packets,
                                               .flows = 100,
                                               .hosts = 50,
                                               .start_ns = 1000,
                                               .step_ns = 1000};
    struct source *source;
    struct failure failure = {0};
    if (source_generator_open(&options, &source, &failure) != 0)
        fail_msg("%s", failure.text);
    return source;
}

static struct pipeline *pipeline(struct world *world)
{
    struct pipeline_options options = {.ring = world->ring};
    struct pipeline *opened;
    struct failure failure = {0};
    if (pipeline_open(&options, &opened, &failure) != 0)
        fail_msg("%s", failure.text);
    return opened;
}

static void add_account(const struct stream_interface_state *state, void *context)
{
    account_add(context, &state->account);
    assert_true(state->account.packets[ACCOUNT_seen] == account_sum(&state->account));
}

static struct account account_of(struct pipeline *of)
{
    struct account account = {0};
    pipeline_interfaces(of, add_account, &account);
    return account;
}

/* ---- reading back: the frames of all segments, without the program for that
 * ---------------------- */

struct walk {
    struct world *world;
    uint64_t packets;
    uint64_t captured_bytes;
    uint64_t expected; /* number of the next packet, as the generator writes it */
    struct source *again;
    struct source_batch batch;
    uint32_t at;
    struct segment_row row[64];
    uint32_t rows;
    void (*check)(struct walk *walk, const struct frame_packet *packet);
    const void *context;
};

/* The generator makes the same packets once more: they are compared one by one. */
static void compare(struct walk *walk, const struct frame_packet *stored)
{
    const struct packet *packet = &stored->packet;
    while (walk->at == walk->batch.count) {
        if (walk->batch.count > 0)
            source_release(walk->again, &walk->batch);
        walk->at = 0;
        assert_int_equal(source_next(walk->again, &walk->batch, 0), 1);
    }
    const struct packet *original = &walk->batch.packet[walk->at++];
    assert_int_equal(packet->captured_bytes, original->captured_bytes);
    assert_int_equal(packet->original_bytes, original->original_bytes);
    assert_true(packet->time_ns == original->time_ns);
    assert_memory_equal(packet->bytes, original->bytes, packet->captured_bytes);
}

static void walk_segment(struct walk *walk, const struct segment_row *row)
{
    struct disk *disk = ring_disk(walk->world->ring, 0, NULL);
    uint8_t *bytes = aligned_alloc(PAGE_BYTES, disk->geometry.slot_bytes);
    assert_non_null(bytes);
    assert_int_equal(
        disk_read(disk, row->place[0].slot, 0, bytes, (uint32_t)disk->geometry.slot_bytes), 0);
    for (uint32_t offset = PAGE_BYTES; offset < row->data_end;) {
        struct frame_info info;
        struct frame_cursor cursor;
        struct frame_packet packet;
        assert_int_equal(frame_parse(bytes + offset, row->data_end - offset, &info), 0);
        assert_int_equal(frame_check(bytes + offset, &info), 0);
        frame_cursor_start(&cursor, bytes + offset, &info);
        while (frame_cursor_next(&cursor, &packet) > 0) {
            walk->check(walk, &packet);
            walk->packets++;
            walk->captured_bytes += packet.packet.captured_bytes;
        }
        offset += info.frame_bytes;
    }
    free(bytes);
}

static int collect(const struct segment_row *row, void *context)
{
    struct walk *walk = context;
    assert_true(walk->rows < COUNT(walk->row));
    walk->row[walk->rows++] = *row;
    return 0;
}

/* Segments come in the order of their positions. Of several that were being prepared at once, one may have been ready before another of a
 * lower position, and was then filled first. */
static int by_first_packet(const void *a, const void *b)
{
    const struct segment_row *left = a, *right = b;
    return left->first_packet < right->first_packet ? -1 : left->first_packet > right->first_packet;
}

static void walk_all(struct walk *walk)
{
    assert_int_equal(ring_find(walk->world->ring, INT64_MIN, INT64_MAX, collect, walk), 0);
    qsort(walk->row, walk->rows, sizeof walk->row[0], by_first_packet);
    for (uint32_t i = 0; i < walk->rows; i++)
        walk_segment(walk, &walk->row[i]);
}

static uint64_t stored_packets(struct world *world)
{
    struct walk walk = {.world = world, .again = generator(0), .check = compare};
    walk_all(&walk);
    source_release(walk.again, &walk.batch);
    source_close(&walk.again);
    return walk.packets;
}

/* ---- tests
 * ---------------------------------------------------------------------------------------- */

static void what_goes_in_is_stored(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world);
    struct pipeline *one = pipeline(&world);
    struct source *source = generator(40960);
    assert_int_equal(pipeline_run(one, source, &failure), 0);
    source_close(&source);
    struct account before = account_of(one);
    assert_true(before.packets[ACCOUNT_seen] == 40960);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    assert_true(account.packets[ACCOUNT_stored] == 40960);
    assert_true(account.packets[ACCOUNT_in_flight] == 0);
    assert_true(account.bytes[ACCOUNT_stored] == account.bytes[ACCOUNT_seen]);
    struct pipeline_progress progress;
    pipeline_progress(one, &progress);
    assert_true(progress.packets == 40960);
    pipeline_close(&one);
    assert_null(one);
    assert_true(stored_packets(&world) == 40960);
    world_close(&world);
}

/* A source that waits loses nothing, however small the buffers are: laps of the ring, and then
 * some. */
static void a_source_that_waits_loses_nothing(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world);
    struct pipeline *one = pipeline(&world);
    struct source *source = generator(600000); /* four times what the ring holds */
    assert_int_equal(pipeline_run(one, source, &failure), 0);
    source_close(&source);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    assert_true(account.packets[ACCOUNT_stored] == 600000);
    pipeline_close(&one);
    world_close(&world);
}

struct watch {
    struct pipeline *pipeline;
    atomic_bool stop;
    uint64_t looks;
    uint64_t seen;
};

static void *watch_accounts(void *context)
{
    struct watch *watch = context;
    while (!atomic_load(&watch->stop)) {
        struct account account = account_of(watch->pipeline); /* each line adds up, always */
        if (account.packets[ACCOUNT_seen] < watch->seen)
            fail_msg("the count of packets seen went back");
        watch->seen = account.packets[ACCOUNT_seen];
        watch->looks++;
    }
    return NULL;
}

static void accounts_add_up_at_every_instant(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    pthread_t thread;
    world_open(&world);
    struct watch watch = {.pipeline = pipeline(&world)};
    assert_int_equal(pthread_create(&thread, NULL, watch_accounts, &watch), 0);
    for (int turn = 0; turn < 3; turn++) {
        struct source *source = generator(200000);
        source->waits = turn != 1;
        assert_int_equal(pipeline_run(watch.pipeline, source, &failure), 0);
        source_close(&source);
    }
    assert_int_equal(pipeline_finish(watch.pipeline, &failure), 0);
    atomic_store(&watch.stop, true);
    pthread_join(thread, NULL);
    assert_true(watch.looks > 0);
    assert_true(account_of(watch.pipeline).packets[ACCOUNT_seen] == 600000);
    pipeline_close(&watch.pipeline);
    world_close(&world);
}

static void *stop_soon(void *context)
{
    struct pipeline_progress progress = {0};
    while (progress.packets < 10000)
        pipeline_progress(context, &progress);
    pipeline_stop(context);
    return NULL;
}

static void a_stop_ends_a_run_and_loses_nothing(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    pthread_t thread;
    world_open(&world);
    struct pipeline *one = pipeline(&world);
    struct source *source = generator(0); /* without end */
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, one), 0);
    assert_int_equal(pipeline_run(one, source, &failure), ERR_INTERRUPTED);
    pthread_join(thread, NULL);
    assert_int_equal(pipeline_run(one, source, &failure), ERR_INTERRUPTED); /* it stays stopped */
    source_close(&source);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    assert_true(account.packets[ACCOUNT_stored] >= 10000);
    assert_true(account.packets[ACCOUNT_stored] == account.packets[ACCOUNT_seen]);
    pipeline_close(&one);
    world_close(&world);
}

/* ---- a source of our own, for what the generator does not do
 * -------------------------------------- */

struct scripted {
    struct source source;
    uint32_t step;
    uint32_t interfaces;
    uint64_t dropped;
    struct interface_description description[3];
    uint8_t bytes[64];
    uint8_t *huge;
};

static int scripted_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct scripted *scripted = (struct scripted *)source;
    (void)timeout_ms;
    batch->count = 0;
    switch (scripted->step++) {
    case 0: /* two interfaces, mixed */
        for (uint32_t i = 0; i < 6; i++)
            batch->packet[batch->count++] = (struct packet){.bytes = scripted->bytes,
                                                            .captured_bytes = 60,
                                                            .original_bytes = 100,
                                                            .time_ns = i,
                                                            .interface = (uint16_t)(i / 2 % 2)};
        return 1;
    case 1: /* the kernel has dropped some, and says nothing else */
        scripted->dropped = 17;
        return 0;
    case 2: /* a third interface, and a packet that no segment holds */
        scripted->interfaces = 3;
        batch->packet[batch->count++] = (struct packet){.bytes = scripted->huge,
                                                        .captured_bytes = 8u << 20,
                                                        .original_bytes = 8u << 20,
                                                        .interface = 2};
        return 1;
    case 3:
        scripted->dropped = 20;
        return fail(&source->failure, ERR_CORRUPT, "scripted: damaged at offset 4711");
    default:
        return ERR_END;
    }
}

static void scripted_release(struct source *source, struct source_batch *batch)
{
    (void)source;
    batch->count = 0;
}

static uint32_t scripted_interfaces(const struct source *source)
{
    return ((const struct scripted *)source)->interfaces;
}

static const struct interface_description *scripted_interface(const struct source *source,
                                                              uint32_t number)
{
    return &((const struct scripted *)source)->description[number];
}

static void scripted_counters(struct source *source, uint32_t number,
                              struct source_counters *counters)
{
    const struct scripted *scripted = (struct scripted *)source;
    *counters = (struct source_counters){.dropped_kernel = number == 1 ? scripted->dropped : 0,
                                         .oversized = number == 0 ? 2 : 0};
}

static void scripted_close(struct source *source)
{
    (void)source;
}

static const struct source_ops scripted_ops = {
    .name = "script",
    .next = scripted_next,
    .release = scripted_release,
    .interfaces = scripted_interfaces,
    .interface = scripted_interface,
    .counters = scripted_counters,
    .close = scripted_close,
};

struct by_name {
    struct account account[3];
    uint32_t count;
};

static void note_interface(const struct stream_interface_state *state, void *context)
{
    struct by_name *by_name = context;
    assert_int_equal(state->description.name[0], 'a' + (int)by_name->count);
    by_name->account[by_name->count++] = state->account;
}

static void causes_are_kept_apart(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world);
    struct scripted scripted = {
        .source = {.ops = &scripted_ops, .wake_fd = -1},
        .interfaces = 2,
        .description = {{.link_type = 1, .name = "a"},
                        {.link_type = 1, .name = "b"},
                        {.link_type = 101, .name = "c"}},
        .huge = calloc(1, 8u << 20),
    };
    assert_non_null(scripted.huge);
    struct pipeline *one = pipeline(&world);
    assert_int_equal(pipeline_run(one, &scripted.source, &failure), ERR_CORRUPT);
    assert_string_equal(failure.text, "scripted: damaged at offset 4711");
    assert_int_equal(pipeline_finish(one, NULL), 0);
    struct by_name found = {0};
    pipeline_interfaces(one, note_interface, &found);
    assert_int_equal(found.count, 3);
    assert_true(found.account[0].packets[ACCOUNT_stored] == 4);
    assert_true(found.account[0].bytes[ACCOUNT_stored] == 400);
    assert_true(found.account[0].stored_bytes == 240);
    assert_true(found.account[1].packets[ACCOUNT_stored] == 2);
    assert_true(found.account[1].packets[ACCOUNT_dropped_kernel] == 20); /* also those of the end */
    assert_true(found.account[1].packets[ACCOUNT_seen] == 22);
    assert_true(found.account[2].packets[ACCOUNT_refused] == 1);
    for (int i = 0; i < 3; i++)
        assert_true(found.account[i].packets[ACCOUNT_seen] == account_sum(&found.account[i]));
    struct pipeline_progress progress;
    pipeline_progress(one, &progress);
    assert_true(progress.oversized == 2);
    pipeline_close(&one);
    free(scripted.huge);
    world_close(&world);
}

#define FLOOD_BATCHES 64
#define FLOOD_BYTES 65000u

/* Batches that are each more than all buffers, at the cost of nothing. */
static int flood_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct scripted *scripted = (struct scripted *)source;
    (void)timeout_ms;
    batch->count = 0;
    if (scripted->step++ == FLOOD_BATCHES)
        return ERR_END;
    while (batch->count < SOURCE_BATCH_MAX)
        batch->packet[batch->count++] = (struct packet){.bytes = scripted->huge,
                                                        .captured_bytes = FLOOD_BYTES,
                                                        .original_bytes = FLOOD_BYTES,
                                                        .time_ns = scripted->step};
    return 1;
}

/* A live source never waits: what finds no room is dropped and counted, what is counted as stored
 * is there. */
static void a_live_source_drops_and_counts(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    struct source_ops ops = scripted_ops;
    ops.next = flood_next;
    world_open(&world);
    struct scripted scripted = {.source = {.ops = &ops, .wake_fd = -1},
                                .interfaces = 1,
                                .description = {{.link_type = 1, .name = "a"}},
                                .huge = calloc(1, FLOOD_BYTES)};
    assert_non_null(scripted.huge);
    struct pipeline *one = pipeline(&world);
    assert_int_equal(pipeline_run(one, &scripted.source, &failure), 0);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    const uint64_t seen = FLOOD_BATCHES * SOURCE_BATCH_MAX;
    assert_true(account.packets[ACCOUNT_seen] == seen);
    assert_true(account.packets[ACCOUNT_in_flight] == 0);
    assert_true(account.packets[ACCOUNT_dropped_queue] > 0);
    assert_true(account.packets[ACCOUNT_stored] > 0);
    assert_true(account.packets[ACCOUNT_stored] + account.packets[ACCOUNT_dropped_queue] == seen);
    assert_true(account.bytes[ACCOUNT_seen] ==
                account.bytes[ACCOUNT_stored] + account.bytes[ACCOUNT_dropped_queue]);
    pipeline_close(&one);
    free(scripted.huge);
    world_close(&world);
}

static void a_flush_wakes_and_is_served(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world);
    struct pipeline *one = pipeline(&world);
    struct source *source = generator(100);
    assert_int_equal(pipeline_run(one, source, &failure), 0);
    source_close(&source);
    /* Between runs nobody ticks: the stream serves the request when it is finished. */
    assert_int_equal(ring_flush(world.ring, 10), ERR_TIMEOUT);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    assert_int_equal(ring_flush(world.ring, 0), ERR_TIMEOUT); /* finished: only closing is left */
    pipeline_close(&one);
    assert_int_equal(ring_flush(world.ring, 0), 0);
    world_close(&world);
}

/* ---- rules and duplicates
 * ------------------------------------------------------------------------ */

static void set_rules(struct ring_rules *rules, const char *text)
{
    struct ring_rules_draft draft;
    struct failure failure = {0};
    assert_int_equal(ring_rules_draft(rules, &draft), 0);
    rule_list_clear(&draft.list);
    if (rule_list_parse(text, &draft.list, NULL, &failure) != 0 ||
        ring_rules_change(rules, &draft, NULL, NULL, NULL, &failure) != 0)
        fail_msg("%s", failure.text);
}

static struct ring_rules *make_rules(const char *text)
{
    struct ring_rules *rules;
    assert_int_equal(ring_rules_open(5, NULL, &rules, NULL), 0);
    set_rules(rules, text);
    return rules;
}

static void rule_counters(struct ring_rules *rules, struct rule_counters counters[8])
{
    struct ring_rules_draft draft;
    assert_int_equal(ring_rules_draft(rules, &draft), 0);
    assert_true(draft.list.count < 8);
    assert_int_equal(ring_rules_counters(rules, &draft.list, counters), 0);
    rule_list_clear(&draft.list);
}

static struct pipeline *judging_pipeline(struct world *world, struct ring_rules *rules,
                                         const struct duplicate_options *duplicates)
{
    struct pipeline_options options = {
        .ring = world->ring, .rules = rules, .duplicates = duplicates};
    struct pipeline *opened;
    struct failure failure = {0};
    if (pipeline_open(&options, &opened, &failure) != 0)
        fail_msg("%s", failure.text);
    return opened;
}

/* What the same list makes of the same packets by itself. */
static struct account expected_account(struct ring_rules *rules, uint64_t packets)
{
    struct account account = {0};
    struct rule_feed *feed;
    static struct source_batch batch;
    struct source *source = generator(packets);
    assert_int_equal(ring_rules_attach(rules, NULL, &feed, NULL), 0);
    assert_int_equal(rule_state_interface(feed->state, 0, source->ops->interface(source, 0), NULL),
                     0);
    while (source_next(source, &batch, 0) > 0) {
        for (uint32_t i = 0; i < batch.count; i++) {
            struct decoded_packet decoded;
            struct rule_outcome outcome;
            const struct packet *packet = &batch.packet[i];
            decode_packet_slowly(1, packet->bytes, packet->captured_bytes, &decoded);
            rule_state_apply(feed->state, packet, &decoded, RULE_VERDICT_NONE, &outcome);
            enum account_line line = outcome.decision == RULE_STORE     ? ACCOUNT_stored
                                     : outcome.decision == RULE_DISCARD ? ACCOUNT_discarded
                                                                        : ACCOUNT_sampled_out;
            account.packets[line]++;
            account.bytes[line] += packet->original_bytes;
            account.stored_bytes += outcome.keep_bytes;
            account.cut_packets += outcome.cut;
        }
        source_release(source, &batch);
    }
    source_close(&source);
    ring_rules_detach(rules, &feed);
    return account;
}

static void rules_cut_and_leave_out(void **state)
{
    static const char text[] = "tcp port 443 : headers l3+l4+16\n"
                               "udp port 53 : discard\n"
                               "not tcp port 80 : snap 100\n"
                               "ip 0.0.0.0/1 : sample 1/3\n";
    (void)state;
    struct world world;
    struct failure failure = {0};
    world_open(&world);
    struct ring_rules *rules = make_rules(text);
    struct account expected = expected_account(rules, 40960);
    struct rule_counters before[8], counters[8];
    rule_counters(rules, before);
    assert_true(expected.packets[ACCOUNT_stored] > 0 && expected.cut_packets > 0 &&
                expected.packets[ACCOUNT_discarded] + expected.packets[ACCOUNT_sampled_out] > 0);
    struct pipeline *one = judging_pipeline(&world, rules, NULL);
    struct source *source = generator(40960);
    assert_int_equal(pipeline_run(one, source, &failure), 0);
    source_close(&source);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    assert_true(account.packets[ACCOUNT_seen] == 40960);
    for (int line = ACCOUNT_stored; line < ACCOUNT_LINES; line++) {
        assert_true(account.packets[line] == expected.packets[line]);
        assert_true(account.bytes[line] == expected.bytes[line]);
    }
    assert_true(account.stored_bytes == expected.stored_bytes);
    assert_true(account.cut_packets == expected.cut_packets);
    pipeline_close(&one);
    rule_counters(rules, counters); /* the same packets once more */
    for (int i = 0; i <= 4; i++) {
        assert_true(counters[i].packets == 2 * before[i].packets);
        assert_true(counters[i].cut_bytes == 2 * before[i].cut_bytes);
    }
    ring_rules_close(&rules);
    world_close(&world);
}

/* ---- packets in rows of one rule, and between them some of others, keep their order ----------- */

#define ROWS_BATCHES 60u

/* Which rule a packet of that number is to have, from 1: the same for many in a row, or mixed. */
static uint32_t rule_in_rows(uint32_t number)
{
    uint32_t row = number / 64 * 2654435761u >> 8, within = number % 64;
    switch (row % 5) {
    case 0:
    case 1:
        return 4; /* asked for nothing */
    case 2:
        return 1;
    case 3:
        return within == row % 61 ? 2 : 4;
    default:
        return 1 + (within * 7 + row) % 4;
    }
}

static uint32_t rows_batch_packets(uint32_t step)
{
    return step % 3 == 0 ? SOURCE_BATCH_MAX : 1 + step * 37 % SOURCE_BATCH_MAX;
}

static int rows_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    static const uint8_t ethernet_ip[] = {2, 0, 0,    0, 0,  1,  2,    0,    0, 0, 0,  2,
                                          8, 0, 0x45, 0, 0,  46, 0,    0,    0, 0, 64, 17,
                                          0, 0, 10,   9, 10, 9,  10,   9,    9, 9};
    struct scripted *scripted = (struct scripted *)source;
    (void)timeout_ms;
    batch->count = 0;
    if (scripted->step == ROWS_BATCHES)
        return ERR_END;
    for (uint32_t i = 0; i < rows_batch_packets(scripted->step); i++) {
        uint32_t number = (uint32_t)scripted->dropped++;
        uint8_t *bytes = scripted->huge + i * 64;
        memcpy(bytes, ethernet_ip, sizeof ethernet_ip);
        bytes[27] = (uint8_t)rule_in_rows(number);
        batch->packet[batch->count++] = (struct packet){
            .bytes = bytes, .captured_bytes = 60, .original_bytes = 60, .time_ns = number};
    }
    scripted->step++;
    return 1;
}

static void check_row(struct walk *walk, const struct frame_packet *packet)
{
    const uint32_t *id = walk->context;
    while (rule_in_rows((uint32_t)walk->expected) == 3) /* discarded */
        walk->expected++;
    uint32_t rule = rule_in_rows((uint32_t)walk->expected);
    assert_int_equal(packet->packet.time_ns, walk->expected);
    assert_int_equal(packet->rule, id[rule - 1]);
    assert_int_equal(packet->packet.captured_bytes, rule == 2 ? 40 : 60);
    walk->expected++;
}

static void rows_keep_their_order(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    struct source_ops ops = scripted_ops;
    struct ring_rules_draft draft;
    uint32_t id[4], discarded = 0, all = 0;
    ops.next = rows_next;
    world_open(&world);
    struct ring_rules *rules = make_rules("ip 10.1.0.0/16 : full\n"
                                          "ip 10.2.0.0/16 : snap 40\n"
                                          "ip 10.3.0.0/16 : discard\n"
                                          "all : full\n");
    assert_int_equal(ring_rules_draft(rules, &draft), 0);
    for (uint32_t i = 0; i < COUNT(id); i++)
        id[i] = draft.list.rule[i].id;
    rule_list_clear(&draft.list);
    for (uint32_t step = 0; step < ROWS_BATCHES; step++)
        all += rows_batch_packets(step);
    for (uint32_t number = 0; number < all; number++)
        discarded += rule_in_rows(number) == 3;
    struct scripted scripted = {.source = {.ops = &ops, .wake_fd = -1, .waits = true},
                                .interfaces = 1,
                                .description = {{.link_type = 1, .name = "a"}},
                                .huge = calloc(SOURCE_BATCH_MAX, 64)};
    struct pipeline *one = judging_pipeline(&world, rules, NULL);
    assert_int_equal(pipeline_run(one, &scripted.source, &failure), 0);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    struct account account = account_of(one);
    assert_true(account.packets[ACCOUNT_seen] == all);
    assert_true(account.packets[ACCOUNT_stored] == all - discarded);
    assert_true(account.packets[ACCOUNT_discarded] == discarded && discarded > 0);
    pipeline_close(&one);
    struct walk walk = {.world = &world, .check = check_row, .context = id};
    walk_all(&walk);
    assert_true(walk.packets == all - discarded);
    free(scripted.huge);
    ring_rules_close(&rules);
    world_close(&world);
}

struct changes {
    struct ring_rules *rules;
    uint32_t done;
    struct pipeline *pipeline;
};

#define CHANGES 1000u

/* The same three rules in another order each time; 1,000 times. */
static void *change_rules(void *context)
{
    struct changes *changes = context;
    while (changes->done < CHANGES) {
        struct ring_rules_draft draft;
        assert_int_equal(ring_rules_draft(changes->rules, &draft), 0);
        assert_int_equal(rule_list_move(&draft.list, changes->done % 2, false, NULL), 0);
        assert_int_equal(ring_rules_change(changes->rules, &draft, NULL, NULL, NULL, NULL), 0);
        rule_list_clear(&draft.list);
        /* However busy the machine is: a capture thread that runs comes round to it. */
        while (!ring_rules_in_force(changes->rules))
            sched_yield();
        changes->done++;
    }
    pipeline_stop(changes->pipeline);
    return NULL;
}

/* Every packet is treated by one list or the next: each is in the counters of exactly one rule, and
 * in exactly one line of the account. */
static void rules_changed_a_thousand_times(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    pthread_t changer, watcher;
    world_open(&world);
    struct ring_rules *rules =
        make_rules("all : snap 64\nip 0.0.0.0/0 : discard\nnot ip 0.0.0.0/0 : full\n");
    struct pipeline *one = judging_pipeline(&world, rules, NULL);
    struct changes changes = {.rules = rules, .pipeline = one};
    struct watch watch = {.pipeline = one};
    struct source *source = generator(0);
    assert_int_equal(pthread_create(&changer, NULL, change_rules, &changes), 0);
    assert_int_equal(pthread_create(&watcher, NULL, watch_accounts, &watch), 0);
    assert_int_equal(pipeline_run(one, source, &failure), ERR_INTERRUPTED);
    pthread_join(changer, NULL);
    source_close(&source);
    assert_int_equal(pipeline_finish(one, &failure), 0);
    atomic_store(&watch.stop, true);
    pthread_join(watcher, NULL);
    struct account account = account_of(one);
    pipeline_close(&one);
    struct rule_counters counters[8], sum = {0};
    rule_counters(rules, counters);
    for (int i = 0; i <= 3; i++) {
        sum.packets += counters[i].packets;
        sum.stored_packets += counters[i].stored_packets;
        sum.discarded_packets += counters[i].discarded_packets;
        sum.stored_bytes += counters[i].stored_bytes;
    }
    assert_true(ring_rules_revision(rules) == CHANGES + 1);
    assert_true(sum.packets == account.packets[ACCOUNT_seen]);
    assert_true(sum.stored_packets == account.packets[ACCOUNT_stored]);
    assert_true(sum.stored_bytes == account.stored_bytes);
    assert_true(sum.discarded_packets == account.packets[ACCOUNT_discarded]);
    assert_true(account.packets[ACCOUNT_stored] > 0 && account.packets[ACCOUNT_discarded] > 0);
    assert_true(account.cut_packets > 0);
    assert_true(account.packets[ACCOUNT_seen] == account_sum(&account));
    ring_rules_close(&rules);
    world_close(&world);
}

/* Somebody else was faster; a rule that does not compile: nothing has changed. */
static void changes_that_are_refused(void **state)
{
    (void)state;
    struct ring_rules *rules = make_rules("all : snap 64\nvlan 5 : full\n");
    struct ring_rules_draft late, wrong, kept;
    struct failure failure = {0};
    assert_int_equal(ring_rules_draft(rules, &late), 0);
    set_rules(rules, "vlan 5 : full\nall : snap 65\n");
    assert_int_equal(ring_rules_change(rules, &late, NULL, NULL, NULL, &failure), ERR_MISMATCH);
    assert_non_null(strstr(failure.text, "revision 2, not 1"));
    assert_int_equal(ring_rules_draft(rules, &wrong), 0);
    rule_list_clear(&wrong.list);
    assert_int_equal(rule_list_parse("bpf 'no such word' : full\n", &wrong.list, NULL, NULL), 0);
    assert_int_equal(ring_rules_change(rules, &wrong, NULL, NULL, NULL, &failure), ERR_INVALID);
    assert_int_equal(ring_rules_draft(rules, &kept), 0);
    assert_true(kept.revision == 2 && kept.list.count == 2);
    assert_int_equal(kept.list.rule[0].id, 2); /* it has moved; the other one is new */
    assert_int_equal(kept.list.rule[1].id, 3);
    rule_list_clear(&late.list);
    rule_list_clear(&wrong.list);
    rule_list_clear(&kept.list);
    ring_rules_close(&rules);
}

/* Each packet twice, a microsecond apart; and once more when the window is over. */
static int twice_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct scripted *scripted = (struct scripted *)source;
    (void)timeout_ms;
    batch->count = 0;
    if (scripted->step == 3)
        return ERR_END;
    for (uint32_t i = 0; i < 20; i++) {
        uint8_t *bytes = scripted->huge + i / 2 * 64;
        memset(bytes, (int)(i / 2), 64);
        batch->packet[batch->count++] =
            (struct packet){.bytes = bytes,
                            .captured_bytes = 60,
                            .original_bytes = 60,
                            .time_ns = scripted->step * 10000000 + i / 2 * 1000 + i % 2 * 100};
    }
    scripted->step++;
    return 1;
}

static void duplicates_are_left_out_and_counted(void **state)
{
    (void)state;
    struct world world;
    struct failure failure = {0};
    struct source_ops ops = scripted_ops;
    ops.next = twice_next;
    world_open(&world);
    for (int on = 0; on < 2; on++) {
        struct scripted scripted = {.source = {.ops = &ops, .wake_fd = -1, .waits = true},
                                    .interfaces = 1,
                                    .description = {{.link_type = 1, .name = "a"}},
                                    .huge = calloc(20, 64)};
        struct duplicate_options options = {.window_ns = 1000000};
        struct pipeline *one = judging_pipeline(&world, NULL, on ? &options : NULL);
        assert_int_equal(pipeline_run(one, &scripted.source, &failure), 0);
        assert_int_equal(pipeline_finish(one, &failure), 0);
        struct account account = account_of(one);
        assert_true(account.packets[ACCOUNT_seen] == 60);
        assert_true(account.packets[ACCOUNT_stored] == (on ? 30 : 60));
        assert_true(account.packets[ACCOUNT_duplicates] == (on ? 30 : 0));
        assert_true(account.bytes[ACCOUNT_duplicates] == (on ? 30 * 60 : 0));
        pipeline_close(&one);
        free(scripted.huge);
    }
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_is_stored),
        cmocka_unit_test(a_source_that_waits_loses_nothing),
        cmocka_unit_test(a_live_source_drops_and_counts),
        cmocka_unit_test(accounts_add_up_at_every_instant),
        cmocka_unit_test(a_stop_ends_a_run_and_loses_nothing),
        cmocka_unit_test(causes_are_kept_apart),
        cmocka_unit_test(a_flush_wakes_and_is_served),
        cmocka_unit_test(rules_cut_and_leave_out),
        cmocka_unit_test(rows_keep_their_order),
        cmocka_unit_test(rules_changed_a_thousand_times),
        cmocka_unit_test(changes_that_are_refused),
        cmocka_unit_test(duplicates_are_left_out_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
