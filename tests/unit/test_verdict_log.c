/*
 * test_verdict_log.c - what is written down of verdicts says of a packet what was found of its conversation as it was then, or nothing: whatever is lost,
 * damaged, or finds no room.
 */
#include "unit_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "packet_mixer.h"
#include "verdict_past.h"

#define STREAMS 3u
#define CONVERSATIONS 500u
#define PACKETS 40000u /* a stream */
#define PIECES_MAX 64u

static const char *const name[] = {"DNS", "TLS", "Example", "HTTP"};

/* What layer 7 said of it, in this order; none: 0. As names from 1, which the filter of this test takes for what holds. */
struct instance {
    uint64_t began;
    uint8_t said[2];
};

struct packet_truth {
    uint16_t conversation;
    uint32_t instance;
};

struct world {
    char directory[64];
    int fd;
    struct identity ring, run;
    struct verdicts *verdicts;
    struct verdict_log *log;
    struct packet_truth packet[STREAMS][PACKETS];
    struct instance *instance;
    uint32_t instances;
    uint8_t *piece[PIECES_MAX];
    size_t bytes[PIECES_MAX];
    uint32_t pieces;
};

static uint64_t random_below(struct mixer *random, uint64_t bound)
{
    return mixer_random(random) % bound;
}

static struct flow_keys keys_of(uint32_t conversation)
{
    struct flow_keys keys = {.kind = {.version = 4, .protocol = 17, .ethertype = FLOW_ETHERTYPE_IP, .marks = FLOW_PORTS}};
    keys.end[0].address[0] = 10;
    memcpy(&keys.end[0].address[2], &conversation, 2);
    keys.end[1].address[0] = 192;
    keys.end[0].port = 53;
    keys.end[1].port = (uint16_t)(1000 + conversation);
    return keys;
}

static void open_world(struct world *world)
{
    struct failure failure;
    *world = (struct world){0};
    snprintf(world->directory, sizeof world->directory, "/tmp/test-verdict-log-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    world->fd = open(world->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(world->fd > 0);
    identity_make(&world->ring);
    identity_make(&world->run);
    assert_int_equal(verdicts_open(&world->verdicts, &failure), 0);
    verdicts_name(world->verdicts, name, COUNT(name));
    world->instance = calloc(STREAMS * (PACKETS + CONVERSATIONS), sizeof *world->instance);
    assert_non_null(world->instance);
}

static void begin_log(struct world *world, uint64_t bytes_max)
{
    struct verdict_log_options options = {
        .directory = world->fd, .ring = world->ring, .run = world->run, .verdicts = world->verdicts, .bytes_max = bytes_max};
    assert_int_equal(verdict_log_open(&options, &world->log), 0);
}

static int count_piece(int fd, void *context)
{
    (void)fd;
    ++*(uint32_t *)context;
    return 0;
}

static uint32_t pieces_there(const struct world *world)
{
    uint32_t count = 0;
    verdict_log_each(world->fd, &world->ring, count_piece, &count);
    return count;
}

static bool nobody(const struct identity *ring, void *context)
{
    (void)ring, (void)context;
    return false;
}

static void close_world(struct world *world)
{
    verdict_log_close(&world->log);
    verdict_log_tidy(world->fd, nobody, NULL);
    assert_int_equal(pieces_there(world), 0);
    for (uint32_t i = 0; i < world->pieces; i++)
        free(world->piece[i]);
    free(world->instance);
    verdicts_close(&world->verdicts);
    close(world->fd);
    assert_int_equal(rmdir(world->directory), 0);
}

/*
 * Packets of conversations that begin anew now and then, and of which layer 7 finds out something at once, late or never; some twice, then
 * the second one is the closer name. As capture/classifier_port.c does it. Flushed after `flush_every` packets, more or less. With `others` as many things are said
 * of conversations that have no packets for each packet.
 */
static void record(struct world *world, struct mixer *random, uint32_t flush_every, uint32_t others)
{
    struct verdict_stream *stream[STREAMS];
    static uint32_t now[STREAMS][CONVERSATIONS]; /* its instance, from 1 */
    uint64_t seed = verdicts_seed(world->verdicts);
    memset(now, 0, sizeof now);
    for (uint32_t i = 0; i < STREAMS; i++)
        assert_int_equal(verdict_log_stream(world->log, i + 7, &stream[i]), 0);
    for (uint32_t n = 0; n < PACKETS; n++)
        for (uint32_t i = 0; i < STREAMS; i++) {
            uint32_t c = (uint32_t)random_below(random, CONVERSATIONS);
            struct flow_keys keys = keys_of(c);
            uint64_t hash;
            assert_true(verdicts_hash(&keys, seed, &hash));
            verdict_stream_upto(stream[i], n);
            struct instance *instance = &world->instance[now[i][c]];
            if (now[i][c] == 0 || random_below(random, 4) == 0) {
                if (now[i][c] != 0 && instance->said[0] != 0)
                    verdict_stream_put(stream[i], hash, n, NULL);
                now[i][c] = ++world->instances;
                instance = &world->instance[now[i][c]];
                instance->began = n;
            }
            world->packet[i][n] = (struct packet_truth){.conversation = (uint16_t)c, .instance = now[i][c]};
            if (random_below(random, 3) == 0 && instance->said[1] == 0) {
                uint16_t app = (uint16_t)(1 + random_below(random, COUNT(name)));
                instance->said[instance->said[0] != 0] = (uint8_t)app;
                verdict_stream_put(stream[i], hash, instance->began, (const uint16_t[2]){app, 0});
            }
            for (uint32_t other = 0; other < others; other++)
                verdict_stream_put(stream[i], mixer_random(random), n, NULL);
            if (random_below(random, flush_every) == 0)
                verdict_log_flush(world->log, 1, 2, random_below(random, 2) == 0);
        }
    for (uint32_t i = 0; i < STREAMS; i++) {
        verdict_stream_upto(stream[i], PACKETS);
        verdict_log_leave(world->log, &stream[i]);
    }
}

static int keep_piece(int fd, void *context)
{
    struct world *world = context;
    assert_true(world->pieces < PIECES_MAX);
    off_t bytes = lseek(fd, 0, SEEK_END);
    uint8_t *piece = malloc((size_t)bytes + 1);
    assert_int_equal(pread(fd, piece, (size_t)bytes, 0), bytes);
    world->piece[world->pieces] = piece;
    world->bytes[world->pieces++] = (size_t)bytes;
    return 0;
}

static uint32_t number_of_name(void *context, const char *text)
{
    (void)context;
    for (uint32_t i = 0; i < COUNT(name); i++)
        if (strcmp(name[i], text) == 0)
            return i + 1;
    return 99; /* none that was ever said */
}

struct sum {
    uint64_t asked, right, nothing;
};

/* Asks of packets, which are wanted from `from` to `end`. What is said is right. With `all`, whatever can be said is. */
static struct sum ask(const struct world *world, const uint32_t *skip, uint32_t from, uint32_t end, uint32_t entries_max, bool all)
{
    struct verdict_past *past;
    struct sum sum = {0};
    assert_int_equal(verdict_past_open(&world->ring, number_of_name, NULL, entries_max, &past), 0);
    for (uint32_t i = 0; i < world->pieces; i++) {
        if (skip && *skip == i)
            continue;
        int fd = memfd_create("piece", MFD_CLOEXEC);
        assert_int_equal(write(fd, world->piece[i], world->bytes[i]), world->bytes[i]);
        verdict_past_piece(past, fd);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        assert_int_equal(verdict_past_want(past, &world->run, i + 7, from, end), 0);
    for (uint32_t i = 0; i < STREAMS; i++)
        for (uint32_t n = from; n < end; n++) {
            const struct packet_truth *packet = &world->packet[i][n];
            const struct instance *instance = &world->instance[packet->instance];
            struct flow_keys keys = keys_of(packet->conversation);
            uint32_t truth;
            sum.asked++;
            if (!verdict_past_ask(past, &world->run, i + 7, n, &keys, &truth)) {
                sum.nothing++;
                if (all && instance->said[0] != 0)
                    fail_msg("stream %u, packet %u: nothing is known, and it is %s", i, n, name[instance->said[0] - 1]);
                continue;
            }
            sum.right++;
            uint32_t last = instance->said[1] ? instance->said[1] : instance->said[0];
            if (truth != last && (all || truth == 0 || truth != instance->said[0]))
                fail_msg("stream %u, packet %u: said to be %u, and it is %u or %u", i, n, truth, instance->said[0], instance->said[1]);
        }
    struct flow_keys keys = keys_of(0);
    uint32_t truth;
    assert_false(verdict_past_ask(past, &world->run, 6, from, &keys, &truth)); /* a stream that was not wanted; numbers that were not */
    assert_false(verdict_past_ask(past, &world->run, 7, end, &keys, &truth));
    assert_true(from == 0 || !verdict_past_ask(past, &world->run, 7, from - 1, &keys, &truth));
    verdict_past_close(&past);
    return sum;
}

static void test_undamaged(void **state)
{
    (void)state;
    static struct world world;
    struct mixer random = {.state = 21};
    open_world(&world);
    begin_log(&world, 0);
    record(&world, &random, 700, 0);
    struct verdict_log_counters counters;
    verdict_log_counters(world.log, &counters);
    verdict_log_close(&world.log);
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    struct sum sum = ask(&world, NULL, 0, PACKETS, 0, true);
    print_message("%lu packets: %lu are known; %u conversations in %u pieces of %lu bytes\n", (unsigned long)sum.asked, (unsigned long)sum.right,
                  world.instances, world.pieces, (unsigned long)counters.bytes);
    assert_true(sum.right > sum.asked / 2 && sum.nothing > sum.asked / 10 && world.pieces >= 4);
    assert_int_equal(counters.lost, 0);
    ask(&world, NULL, 17000, 17500, 0, true);
    ask(&world, NULL, PACKETS - 1, PACKETS, 0, true);
    /* Where there is not the room for all of it, little is known, or only what was said since. */
    struct sum little = ask(&world, NULL, 0, PACKETS, 5000, false);
    assert_true(little.right > 0 && little.right < sum.right / 2);
    struct sum since = ask(&world, NULL, PACKETS - 2000, PACKETS, 10000, false);
    assert_true(since.right > since.asked / 3);
    close_world(&world);
}

/* Bytes are changed, files end early or are gone: what is known less, is right all the same. */
static void test_damaged(void **state)
{
    (void)state;
    static struct world world;
    struct mixer random = {.state = 22};
    open_world(&world);
    begin_log(&world, 0);
    record(&world, &random, 300, 0);
    verdict_log_close(&world.log);
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    struct sum whole = ask(&world, NULL, 0, PACKETS, 0, true);
    uint32_t less = 0;
    for (uint32_t round = 0; round < 60; round++) {
        uint32_t i = (uint32_t)random_below(&random, world.pieces), kind = (uint32_t)random_below(&random, 3);
        size_t bytes = world.bytes[i], at = random_below(&random, bytes);
        if (kind == 0)
            world.piece[i][at] ^= 4;
        else if (kind == 1)
            world.bytes[i] = at;
        struct sum sum = ask(&world, kind == 2 ? &i : NULL, 0, PACKETS, 0, false);
        less += sum.right < whole.right;
        assert_true(sum.right <= whole.right);
        if (kind == 0)
            world.piece[i][at] ^= 4;
        world.bytes[i] = bytes;
    }
    print_message("of 60 damages %u cost something\n", less);
    assert_true(less > 40);
    close_world(&world);
}

/* More than the queue holds between two flushes: what is lost is counted, and nothing wrong is said because of it. */
static void test_lost(void **state)
{
    (void)state;
    static struct world world;
    struct mixer random = {.state = 23};
    open_world(&world);
    begin_log(&world, 64u << 20);
    record(&world, &random, 40000, 2);
    struct verdict_log_counters counters;
    verdict_log_counters(world.log, &counters);
    verdict_log_close(&world.log);
    assert_true(counters.lost > 0);
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    assert_int_equal(world.pieces, 1);
    struct sum sum = ask(&world, NULL, 0, PACKETS, 0, false);
    print_message("%lu of %lu records are lost, %lu packets known of %lu\n", (unsigned long)counters.lost,
                  (unsigned long)(counters.lost + counters.records), (unsigned long)sum.right, (unsigned long)sum.asked);
    assert_true(sum.right > 0);
    close_world(&world);
}

struct beside {
    struct world *world;
    atomic_bool done;
};

static void *record_beside(void *context)
{
    struct beside *beside = context;
    struct mixer random = {.state = 24};
    record(beside->world, &random, UINT32_MAX, 0);
    atomic_store(&beside->done, true);
    return NULL;
}

/* It is flushed while streams go on. */
static void test_flushed_beside(void **state)
{
    (void)state;
    static struct world world;
    struct beside beside = {.world = &world};
    pthread_t thread;
    open_world(&world);
    begin_log(&world, 64u << 20);
    assert_int_equal(pthread_create(&thread, NULL, record_beside, &beside), 0);
    uint32_t flushes = 0;
    for (; !atomic_load(&beside.done); flushes++)
        verdict_log_flush(world.log, 1, 2, flushes % 2 == 0);
    pthread_join(thread, NULL);
    struct verdict_log_counters counters;
    verdict_log_counters(world.log, &counters);
    verdict_log_close(&world.log);
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    struct sum sum = ask(&world, NULL, 0, PACKETS, 0, counters.lost == 0);
    print_message("%u flushes, %lu records lost\n", flushes, (unsigned long)counters.lost);
    assert_true(sum.right > sum.asked / 2);
    close_world(&world);
}

/* One stream that says so many things; returns the pieces there. */
static uint32_t say(struct world *world, uint32_t records, uint64_t oldest, uint64_t newest)
{
    struct verdict_stream *stream;
    assert_int_equal(verdict_log_stream(world->log, 1, &stream), 0);
    for (uint32_t i = 0; i < records; i++) {
        verdict_stream_put(stream, i * 2 + 1, i, (const uint16_t[2]){1, 2});
        if (i % 10000 == 9999)
            verdict_log_flush(world->log, oldest, newest, false);
    }
    verdict_log_flush(world->log, oldest, newest, true);
    verdict_log_leave(world->log, &stream);
    return pieces_there(world);
}

/* Pieces go when the ring has overwritten what they are about, when there are too many, and when all is to be forgotten; what a crash left is gone on with. */
static void test_pieces(void **state)
{
    (void)state;
    static struct world world;
    open_world(&world);
    begin_log(&world, 0);
    assert_int_equal(say(&world, 60000, 1, 10), 4);
    verdict_log_close(&world.log);
    begin_log(&world, 0);
    assert_int_equal(say(&world, 10, 1, 20), 4); /* goes on with the last one */
    assert_int_equal(say(&world, 60000, 1, 20), 8);
    assert_int_equal(say(&world, 10, 10, 30), 8); /* the second one was begun at 10: not before the oldest */
    uint32_t left = say(&world, 10, 20, 30);
    assert_true(left < 8 && left >= 4);
    assert_true(say(&world, 400000, 20, 30) <= VERDICT_PIECES_MAX);
    verdict_log_forget(world.log);
    assert_int_equal(pieces_there(&world), 0);
    assert_int_equal(say(&world, 10, 20, 30), 1);
    verdict_log_close(&world.log);
    /* Half a chunk at the end. */
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    size_t whole = world.bytes[0];
    DIR *directory = opendir(world.directory);
    struct dirent *entry;
    while ((entry = readdir(directory)))
        if (strstr(entry->d_name, ".verdicts")) {
            int fd = openat(world.fd, entry->d_name, O_WRONLY | O_APPEND | O_CLOEXEC);
            assert_int_equal(write(fd, world.piece[0], whole - 8), whole - 8);
            close(fd);
        }
    closedir(directory);
    begin_log(&world, 0);
    assert_int_equal(say(&world, 10, 20, 30), 1);
    verdict_log_close(&world.log);
    assert_int_equal(verdict_log_each(world.fd, &world.ring, keep_piece, &world), 0);
    assert_memory_equal(world.piece[1], world.piece[0], whole);
    assert_int_equal(world.bytes[1], 2 * whole);
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undamaged),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_flushed_beside),
        cmocka_unit_test(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
