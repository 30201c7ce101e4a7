/*
 * test_finding.c - what a filter finds through the key index is what it finds without: on packets of all kinds, long ones and short ones, by
 * libpcap's own judgement, with every kind of damage; and little is read for it.
 *
 *     test_finding [--damages N] [--seed S]
 */
#include "unit_test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "catalog.h"
#include "filter.h"
#include "key_runs.h"
#include "level_list.h"
#include "narrowing.h"
#include "packet_keys.h"
#include "packet_mixer.h"
#include "reader.h"
#include "run_maker.h"
#include "segment_fixture.h"
#include "sifter.h"

#define SEGMENTS 3u
#define PACKETS_MAX 20000u
#define LONG_BYTES 70000u
#define RARE 40u /* of so many packets one is to or from the rare host, where there is one */

static unsigned long damages = 300, seed = 1;

struct kept {
    uint8_t *bytes;
    uint32_t count;
    int64_t time_ns;
    bool found;
};

/* What layer 7 is said to have found of a packet's conversation. */
struct said {
    bool known;
    bool none; /* it belongs to no conversation */
    char text[VERDICT_TEXT_BYTES];
};

#define UNJUDGED_SEGMENT 1u /* was sealed before layer 7 was asked */

static bool all_judged; /* and nothing that layer 7 cannot judge */

struct world {
    struct verdicts *verdicts; /* null: layer 7 is not asked */
    struct fixture fixture;
    struct fixture_segment segment[SEGMENTS];
    uint32_t copies;
    bool whole[SEGMENTS]; /* every flow has found room in the key index */
    struct kept kept[PACKETS_MAX];
    uint32_t packets;
    uint8_t *run; /* of keys, of all segments */
    uint32_t run_bytes;
    struct disk *disk;
    struct reader *reader;
    uint32_t gaps, bads, runs_bad;
    uint64_t sifted; /* packets that the sifter has found */
    struct reader_counters counters;
};

static int judge(void *context, const struct worker_bad *bad)
{
    struct world *world = context;
    (void)bad;
    world->bads++;
    return WORKER_DAMAGED;
}

static void note_gap(void *context, const struct worker_gap *gap)
{
    struct world *world = context;
    (void)gap;
    world->gaps++;
}

/* Mostly a packet as the mixer makes them; some with much behind them, so that records cross from block to block, and some longer than a block. */
static uint32_t make_packet(struct mixer *mixer, uint8_t *bytes)
{
    uint32_t count = mixer_packet(mixer, bytes), kind = mixer_below(mixer, 200);
    uint32_t more = kind == 0 ? mixer_below(mixer, LONG_BYTES - MIXED_BYTES_MAX) : kind < 80 ? mixer_below(mixer, 1400) : 0;
    for (uint32_t i = 0; i < more; i++)
        bytes[count + i] = (uint8_t)(i * 7 + count);
    return count + more;
}

static void rare_packet(struct mixer *mixer, uint8_t *bytes)
{
    static const uint8_t head[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 9, 10, 0, 0, 1};
    memset(bytes, 0, 60);
    memcpy(bytes, head, sizeof head);
    bytes[34] = 4;
    bytes[35] = (uint8_t)mixer_below(mixer, 256);
    bytes[37] = 53;
    bytes[39] = 26;
}

/* Some conversations are not judged, some are unknown, the rest one or two protocols. */
static void judge_conversation(struct verdicts *verdicts, const uint8_t *bytes, uint32_t count)
{
    static const uint16_t app[][2] = {{0, 0}, {1, 0}, {2, 4}, {2, 0}, {3, 0}};
    struct flow_keys keys;
    uint64_t hash;
    (void)packet_keys_of(LINK_ETHERNET, bytes, count, NULL, &keys);
    if (!verdicts_hash(&keys, verdicts_seed(verdicts), &hash))
        return;
    if (all_judged) /* the rare host alone is what is asked for */
        verdicts_put(verdicts, hash, app[memcmp(keys.end[1].address, "\xcb\x00\x71\x09", 4) == 0 && keys.end[1].port < 1040 ? 4 : 1]);
    else if (hash % 11 > 1)
        verdicts_put(verdicts, hash, app[(hash >> 8) % COUNT(app)]);
}

static struct said said_of(const struct verdicts *verdicts, const uint8_t *bytes, uint32_t count)
{
    struct said said = {.known = false};
    struct flow_keys keys;
    uint64_t hash;
    uint16_t app[2];
    (void)packet_keys_of(LINK_ETHERNET, bytes, count, NULL, &keys);
    said.none = !verdicts_hash(&keys, verdicts_seed(verdicts), &hash);
    if (!said.none && verdicts_get(verdicts, hash, app))
        said.known = verdicts_text(verdicts, app, said.text);
    said.known |= said.none;
    return said;
}

static int no_tick(void *context)
{
    (void)context;
    return 0;
}

static int memory_file(const uint8_t *bytes, size_t count)
{
    int fd = memfd_create("run", MFD_CLOEXEC);
    assert_true(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    return fd;
}

static void make_run(struct world *world)
{
    struct disk *disk = fixture_disk(&world->fixture);
    struct segment_readers shared = {
        .disk = &disk, .disks = 1, .ring = world->fixture.ring, .from_ns = INT64_MIN, .to_ns = INT64_MAX, .judge = judge, .context = world};
    struct worker_segment about[SEGMENTS];
    int fd = memory_file(NULL, 0);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        about[i] = world->segment[i].about;
    assert_int_equal(segment_readers_open(&shared, 4u << 20), 0);
    assert_int_equal(run_maker_write(&shared, about, SEGMENTS, fd, no_tick, NULL), 0);
    segment_readers_close(&shared);
    disk_close(&disk);
    off_t bytes = lseek(fd, 0, SEEK_END);
    assert_true(bytes > PAGE_BYTES);
    world->run_bytes = (uint32_t)bytes;
    world->run = malloc((size_t)bytes);
    assert_non_null(world->run);
    assert_int_equal(pread(fd, world->run, (size_t)bytes, 0), bytes);
    close(fd);
}

static void fill_world(struct world *world, struct mixer *mixer, uint32_t copies, bool indexed, struct verdicts *verdicts)
{
    static uint8_t bytes[LONG_BYTES + MIXED_BYTES_MAX];
    memset(world, 0, sizeof *world);
    world->copies = copies;
    world->verdicts = verdicts;
    fixture_open(&world->fixture, SEGMENTS * copies, 1u << 20);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        uint32_t slots[] = {i * copies, i * copies + 1};
        struct fixture_segment *segment = &world->segment[i];
        fixture_begin(segment, &world->fixture, slots, copies, 1, 0, 1 + i, world->packets, 0);
        if (indexed)
            fixture_index(segment, packet_keys_of);
        int interface = fixture_interface_usual(segment);
        while (world->packets < PACKETS_MAX) {
            struct kept *kept = &world->kept[world->packets];
            uint32_t count = 60;
            bool rare = mixer_below(mixer, RARE) == 0;
            if (rare || all_judged) /* there are plain ones only: what layer 7 cannot judge is in every block otherwise */
                rare_packet(mixer, bytes);
            bytes[26] ^= !rare && all_judged;
            if (!rare && !all_judged)
                count = make_packet(mixer, bytes);
            int64_t time_ns = 1000 * (int64_t)world->packets + mixer_below(mixer, 3000);
            if (!fixture_packet_bytes(segment, interface, DIRECTION_IN, time_ns, bytes, count, count))
                break;
            *kept = (struct kept){.bytes = malloc(count + 1), .count = count, .time_ns = time_ns};
            assert_non_null(kept->bytes);
            memcpy(kept->bytes, bytes, count);
            world->packets++;
            if (verdicts)
                judge_conversation(verdicts, bytes, count);
        }
        fixture_flush(segment);
        world->whole[i] = indexed && flow_index_whole(segment->flows);
        if (verdicts && (i != UNJUDGED_SEGMENT || all_judged))
            flow_index_judge(segment->flows, verdicts);
        fixture_seal(segment);
    }
    make_run(world);
}

static void open_world(struct world *world, struct mixer *mixer, uint32_t copies, bool indexed)
{
    fill_world(world, mixer, copies, indexed, NULL);
}

static void close_world(struct world *world)
{
    for (uint32_t i = 0; i < SEGMENTS; i++)
        fixture_end(&world->segment[i]);
    for (uint32_t i = 0; i < world->packets; i++)
        free(world->kept[i].bytes);
    fixture_close(&world->fixture);
    free(world->run);
}

enum runs { RUNS_NONE, RUNS_BEST, RUNS_REAL };

struct question {
    const char *text;
    int64_t from_ns, to_ns;
    bool narrows;
    bool told; /* the reader is told of matches */
    enum runs runs; /* BEST: of each segment in which nothing matches, one has said so; REAL: the world's is asked */
    uint64_t memory_max;
    bool sifted; /* frames are checked, and the filter asked, on a thread beside the reader's */
};

static const void *program_for(void *context, uint16_t link_type)
{
    return link_type == LINK_ETHERNET ? context : NULL;
}

static bool program_matches(const void *program, const struct packet *packet, uint32_t rule)
{
    return filter_match(program, packet, rule);
}

static struct sifter *open_sifter(const struct filter_program *program)
{
    const struct sifter_question question = {.program = program_for, .match = program_matches, .context = (void *)program};
    struct sifter *sifter = sifter_open();
    assert_non_null(sifter);
    sifter_ask(sifter, &question);
    return sifter;
}

static bool has_match(const struct world *world, const struct worker_segment *about, const struct filter_program *program)
{
    for (uint64_t i = about->first_packet; i < about->first_packet + about->packets; i++) {
        const struct kept *kept = &world->kept[i];
        const struct packet packet = {.bytes = kept->bytes, .captured_bytes = kept->count, .original_bytes = kept->count, .time_ns = kept->time_ns};
        if (filter_match(program, &packet, 0))
            return true;
    }
    return false;
}

/*
 * Marks what is found. Every packet handed out is one of those that are in the range, and in order, or this fails. False: the filter is not
 * one that libpcap can compile.
 */
static bool ask(struct world *world, const struct question *question)
{
    struct filter *filter;
    struct narrowing *tree;
    struct failure failure = {0};
    struct reader_packet packet;
    int result;
    if (filter_open(question->text, packet_levels, &filter, &failure) != 0)
        return false;
    const struct filter_program *program = filter_for(filter, LINK_ETHERNET);
    assert_non_null(program);
    assert_int_equal(narrowing_open(question->text, &tree), 0);
    world->disk = fixture_disk(&world->fixture);
    world->gaps = world->bads = 0;
    struct sifter *sifter = question->sifted ? open_sifter(program) : NULL;
    const struct reader_options options = {
        .disk = &world->disk,
        .disks = 1,
        .ring = world->fixture.ring,
        .from_ns = question->from_ns,
        .to_ns = question->to_ns,
        .memory_max = question->memory_max,
        .sifter = sifter,
        .narrowing = question->narrows && narrowing_parsed(tree) ? tree : NULL,
        .judge = judge,
        .gap = note_gap,
        .context = world,
    };
    assert_int_equal(reader_open(&options, &world->reader), 0);
    struct key_runs runs = {0};
    if (question->runs == RUNS_REAL && narrowing_parsed(tree))
        assert_int_equal(key_runs_ask(&runs, memory_file(world->run, world->run_bytes), &world->fixture.ring, tree), 0);
    world->runs_bad = runs.bad;
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        struct worker_segment about = world->segment[i].about;
        about.nothing = question->runs == RUNS_BEST ? !has_match(world, &about, program) : key_runs_exclude(&runs, &about.segment, about.revision);
        assert_int_equal(reader_add(world->reader, &about, 1), 0);
    }
    key_runs_close(&runs);
    for (uint32_t i = 0; i < world->packets; i++)
        world->kept[i].found = false;
    uint32_t next = 0;
    while ((result = reader_next(world->reader, &packet)) == 1) {
        while (next < world->packets && (world->kept[next].time_ns != packet.packet->time_ns ||
                                         world->kept[next].count != packet.packet->captured_bytes ||
                                         memcmp(world->kept[next].bytes, packet.packet->bytes, world->kept[next].count) != 0))
            next++;
        assert_true(next < world->packets); /* never a wrong packet, nor one out of its order */
        assert_true(packet.packet->time_ns >= question->from_ns && packet.packet->time_ns < question->to_ns);
        world->sifted += packet.matches;
        if (filter_match(program, packet.packet, packet.rule)) {
            world->kept[next].found = true;
            if (question->told)
                reader_matched(world->reader);
        } else {
            assert_false(packet.matches);
        }
        next++;
    }
    assert_int_equal(result, 0);
    reader_finish(world->reader, true);
    reader_counters(world->reader, &world->counters);
    reader_close(&world->reader);
    sifter_close(&sifter);
    disk_close(&world->disk);
    filter_close(&filter);
    narrowing_close(&tree);
    return true;
}

/* How many of the packets that match were not found. */
static uint32_t missed(const struct world *world, const struct question *question)
{
    struct filter *filter;
    struct failure failure = {0};
    uint32_t count = 0;
    assert_int_equal(filter_open(question->text, packet_levels, &filter, &failure), 0);
    const struct filter_program *program = filter_for(filter, LINK_ETHERNET);
    for (uint32_t i = 0; i < world->packets; i++) {
        const struct kept *kept = &world->kept[i];
        const struct packet packet = {.bytes = kept->bytes, .captured_bytes = kept->count, .original_bytes = kept->count, .time_ns = kept->time_ns};
        bool in_range = kept->time_ns >= question->from_ns && kept->time_ns < question->to_ns;
        count += in_range && !kept->found && filter_match(program, &packet, 0);
    }
    filter_close(&filter);
    return count;
}

static struct question random_question(struct mixer *mixer, const struct world *world, char text[600])
{
    static const char *const rare[] = {"host 203.0.113.9", "src host 203.0.113.9 and port 1030", "host 203.0.113.9 and less 61", "portrange 1030-1040",
                                       "not host 203.0.113.9 and udp port 53", "flow 203.0.113.9:1030 10.0.0.1:53 udp", "host 192.0.2.222"};
    do /* behind `geneve`, libpcap's programs read memory that they have not written: the same packet matches now and then */
        mixer_filter(mixer, text);
    while (strstr(text, "geneve"));
    if (mixer_below(mixer, 3) == 0)
        snprintf(text, 600, "%s", rare[mixer_below(mixer, COUNT(rare))]);
    struct question question = {.text = text, .from_ns = INT64_MIN, .to_ns = INT64_MAX, .narrows = true, .told = mixer_below(mixer, 4) > 0, .runs = (enum runs)mixer_below(mixer, 3)};
    if (mixer_below(mixer, 3) == 0) {
        question.from_ns = 1000 * (int64_t)mixer_below(mixer, world->packets);
        question.to_ns = question.from_ns + 1000 * (int64_t)mixer_below(mixer, world->packets);
    }
    question.memory_max = mixer_below(mixer, 8) == 0 ? 1u << 20 : 16u << 20;
    question.sifted = mixer_below(mixer, 2) == 0;
    question.narrows = !question.sifted || mixer_below(mixer, 4) > 0;
    return question;
}

static void answers_are_whole(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed};
    static struct world world;
    char text[600];
    uint64_t wanted = 0, read = 0, passed_by = 0, asked = 0, sifted = 0;
    for (uint32_t copies = 1; copies <= 2; copies++) {
        open_world(&world, &mixer, copies, true);
        for (uint32_t i = 0; i < 300; i++) {
            struct question question = random_question(&mixer, &world, text);
            if (!ask(&world, &question))
                continue;
            if (missed(&world, &question) > 0)
                fail_msg("%u packets of %s are missing (seed %lu, question %u)", missed(&world, &question), text, seed, i);
            assert_int_equal(world.gaps, 0);
            assert_int_equal(world.bads, 0);
            assert_int_equal(world.counters.indexes_bad, 0);
            wanted += world.counters.blocks_wanted;
            read += world.counters.blocks_read;
            passed_by += world.counters.segments_by_runs;
            asked++;
        }
        sifted += world.sifted;
        close_world(&world);
    }
    print_message("%lu questions: %lu blocks may hold a match, %lu were read\n", (unsigned long)asked, (unsigned long)wanted, (unsigned long)read);
    assert_true(asked > 200);
    assert_true(passed_by > 0);
    assert_true(sifted > 0);
}

/* One host in some blocks: those are read, and hardly more. */
static void little_is_read(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed};
    static struct world world;
    open_world(&world, &mixer, 1, false);
    close_world(&world);
    open_world(&world, &mixer, 1, true);
    struct question question = {
        .text = "src host 203.0.113.9 and udp src port 1030", .from_ns = INT64_MIN, .to_ns = INT64_MAX, .narrows = true, .told = true, .memory_max = 16u << 20};
    assert_true(ask(&world, &question));
    assert_int_equal(missed(&world, &question), 0);
    print_message("%lu blocks may hold a match, %lu were read, %lu bytes in all\n", (unsigned long)world.counters.blocks_wanted,
                  (unsigned long)world.counters.blocks_read, (unsigned long)world.counters.bytes_read);
    assert_true(world.counters.blocks_wanted > 0);
    assert_true(2 * world.counters.blocks_read <= 3 * world.counters.blocks_wanted);
    close_world(&world);
}

/* Where nearly all is wanted, every second key index is asked, and then fewer; where little is, every one. The answer is whole either way. */
static void a_key_index_that_spares_nothing_is_not_asked(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed};
    static struct world world;
    open_world(&world, &mixer, 1, true);
    struct question question = {
        .text = "greater 20", .from_ns = INT64_MIN, .to_ns = INT64_MAX, .narrows = true, .told = true, .memory_max = 16u << 20};
    assert_true(ask(&world, &question));
    assert_int_equal(missed(&world, &question), 0);
    assert_int_equal(world.counters.segments_narrowed, SEGMENTS - 1);
    question.text = "src host 203.0.113.9 and udp src port 1030";
    assert_true(ask(&world, &question));
    assert_int_equal(missed(&world, &question), 0);
    assert_int_equal(world.counters.segments_narrowed, SEGMENTS);
    close_world(&world);
}

/* Changes bytes of the image in [from, to) of a slot, in one of several ways. */
static void damage(struct world *world, struct mixer *mixer, uint32_t slot, uint32_t from, uint32_t to)
{
    uint32_t at = from + mixer_below(mixer, to - from), way = mixer_below(mixer, 5), length = 1 + mixer_below(mixer, 600);
    if (mixer_below(mixer, 3) == 0) /* heads are what is looked at first */
        at = from + mixer_below(mixer, (to - from) / PAGE_BYTES) * PAGE_BYTES + mixer_below(mixer, 500);
    length = length < to - at ? length : to - at;
    uint8_t *bytes = fixture_slot(&world->fixture, slot, at);
    switch (way) {
    case 0:
        *bytes ^= (uint8_t)(1u << mixer_below(mixer, 8));
        break;
    case 1:
        memset(bytes, 0, length);
        break;
    case 2:
        for (uint32_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)mixer_random(mixer);
        break;
    case 3: { /* a page of somewhere else */
        uint32_t other = mixer_below(mixer, (uint32_t)(world->fixture.slot_bytes / PAGE_BYTES));
        memcpy(fixture_slot(&world->fixture, slot, at / PAGE_BYTES * PAGE_BYTES),
               fixture_slot(&world->fixture, mixer_below(mixer, world->fixture.slots), (uint64_t)other * PAGE_BYTES), PAGE_BYTES);
        break;
    }
    default:
        memset(bytes, 0xff, length);
        break;
    }
}

/* Index or run damaged: the answer is what it was. Anything damaged: what is missing is told, and nothing wrong comes out. */
static void damage_run(struct world *world, struct mixer *mixer)
{
    for (uint32_t n = 1 + mixer_below(mixer, 8); n > 0; n--) {
        uint32_t at = mixer_below(mixer, mixer_below(mixer, 3) == 0 ? 600 : world->run_bytes);
        world->run[at] ^= (uint8_t)(1 + mixer_below(mixer, 255));
    }
    if (mixer_below(mixer, 6) == 0)
        world->run_bytes = mixer_below(mixer, world->run_bytes);
}

static void damaged(bool index_only)
{
    struct mixer mixer = {.state = seed + index_only};
    static struct world world;
    char text[600];
    uint64_t bad = 0, runs_bad = 0, lacking = 0, asked = 0;
    for (unsigned long i = 0, each = 100; i < damages; i += each) {
        open_world(&world, &mixer, 1 + mixer_below(&mixer, 2), true);
        uint8_t *whole = malloc(world.fixture.bytes);
        assert_non_null(whole);
        memcpy(whole, world.fixture.image, world.fixture.bytes);
        uint32_t run_bytes = world.run_bytes;
        uint8_t *run = malloc(run_bytes);
        assert_non_null(run);
        memcpy(run, world.run, run_bytes);
        for (unsigned long j = 0; j < each && i + j < damages; j++) {
            for (uint32_t n = 1 + mixer_below(&mixer, 4); n > 0; n--) {
                uint32_t slot = mixer_below(&mixer, world.fixture.slots);
                const struct worker_segment *about = &world.segment[slot / world.copies].about;
                damage(&world, &mixer, slot, index_only ? about->index_offset : 0, about->index_offset + about->index_bytes);
            }
            if (mixer_below(&mixer, 2) == 0)
                damage_run(&world, &mixer);
            struct question question = random_question(&mixer, &world, text);
            if (ask(&world, &question)) {
                uint32_t lack = missed(&world, &question);
                if (lack > 0 && (index_only || world.gaps == 0))
                    fail_msg("%u packets of %s are missing, %u gaps told (seed %lu, damage %lu)", lack, text, world.gaps, seed, i + j);
                if (index_only)
                    assert_int_equal(world.gaps, 0);
                bad += world.counters.indexes_bad;
                runs_bad += world.runs_bad;
                lacking += lack > 0;
                asked++;
            }
            memcpy(world.fixture.image, whole, world.fixture.bytes);
            memcpy(world.run, run, run_bytes);
            world.run_bytes = run_bytes;
        }
        free(whole);
        free(run);
        close_world(&world);
    }
    print_message("%lu questions, %lu key indexes and %lu runs of no use, %lu answers with a gap that is told\n", (unsigned long)asked,
                  (unsigned long)bad, (unsigned long)runs_bad, (unsigned long)lacking);
    assert_true(!index_only || damages < 300 || (bad > 0 && runs_bad > 0));
}

static void a_damaged_index_costs_no_packet(void **state)
{
    (void)state;
    damaged(true);
}

static void what_damage_takes_is_told(void **state)
{
    (void)state;
    damaged(false);
}

/* ---- app ---------------------------------------------------------------------------------------- */

struct app_question {
    struct filter *filter;
    struct world *world;
};

static uint32_t truth_of(void *context, const char *verdict)
{
    const struct app_question *question = context;
    return filter_app_truth(question->filter, verdict);
}

static int judge_apart(void *context, const struct worker_bad *bad)
{
    const struct app_question *question = context;
    return judge(question->world, bad);
}

static void note_gap_apart(void *context, const struct worker_gap *gap)
{
    const struct app_question *question = context;
    note_gap(question->world, gap);
}

/* What the whole truth makes of a packet; `unjudged`: and what is recorded of it. */
static enum filter_answer answer_to(const struct app_question *question, const struct kept *kept, bool unjudged)
{
    struct said said = said_of(question->world->verdicts, kept->bytes, kept->count);
    const struct packet packet = {.bytes = kept->bytes, .captured_bytes = kept->count, .original_bytes = kept->count, .time_ns = kept->time_ns};
    bool known = said.none || (said.known && !unjudged);
    return filter_ask(filter_for(question->filter, LINK_ETHERNET), &packet, 0, known,
                      known && !said.none ? filter_app_truth(question->filter, said.text) : 0);
}

struct app_result {
    uint64_t found, undecided; /* packets */
    uint64_t read, of;         /* packets that were looked at, of so many */
    uint64_t exact;            /* of which nothing but the truth was right */
};

/*
 * What is found is what the truth says. Undamaged, and what is undecided is what is not recorded, no more; damaged, or where a flow found no room in the
 * index, what matches is found or undecided, and what is found matches. False: not a filter.
 */
static bool ask_app(struct world *world, const char *text, bool narrows, bool is_damaged, struct app_result *sum)
{
    struct app_question question = {.world = world};
    struct failure failure = {0};
    struct narrowing *tree;
    struct reader_packet packet;
    int result;
    if (filter_open(text, packet_levels, &question.filter, &failure) != 0)
        return false;
    assert_int_equal(narrowing_open(text, &tree), 0);
    world->disk = fixture_disk(&world->fixture);
    world->gaps = world->bads = 0;
    const struct reader_options options = {.disk = &world->disk,
                                           .disks = 1,
                                           .ring = world->fixture.ring,
                                           .from_ns = INT64_MIN,
                                           .to_ns = INT64_MAX,
                                           .memory_max = 16u << 20,
                                           .narrowing = narrows && narrowing_parsed(tree) ? tree : NULL,
                                           .truth_of = truth_of,
                                           .verdict_seed = seed,
                                           .judge = judge_apart,
                                           .gap = note_gap_apart,
                                           .context = &question};
    assert_int_equal(reader_open(&options, &world->reader), 0);
    struct key_runs runs = {0};
    if (narrowing_parsed(tree))
        assert_int_equal(key_runs_ask(&runs, memory_file(world->run, world->run_bytes), &world->fixture.ring, tree), 0);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        struct worker_segment about = world->segment[i].about;
        about.nothing = narrows && key_runs_exclude(&runs, &about.segment, about.revision);
        assert_int_equal(reader_add(world->reader, &about, 1), 0);
    }
    key_runs_close(&runs);
    static enum filter_answer heard[PACKETS_MAX];
    memset(heard, 0, sizeof heard);
    while ((result = reader_next(world->reader, &packet)) == 1) {
        struct flow_keys keys;
        uint64_t hash;
        uint32_t truth = 0;
        (void)packet_keys_of(LINK_ETHERNET, packet.packet->bytes, packet.packet->captured_bytes, NULL, &keys);
        bool known = !verdicts_hash(&keys, seed, &hash) || (packet.verdicts && segment_verdicts_get(packet.verdicts, hash, &truth));
        assert_true(packet.number < world->packets && !packet.unsealed);
        sum->read++;
        heard[packet.number] = filter_ask(filter_for(question.filter, LINK_ETHERNET), packet.packet, 0, known, truth);
        if (heard[packet.number] == FILTER_YES)
            reader_matched(world->reader);
    }
    assert_int_equal(result, 0);
    reader_finish(world->reader, true);
    reader_counters(world->reader, &world->counters);
    reader_close(&world->reader);
    disk_close(&world->disk);
    const struct worker_segment *unjudged = &world->segment[UNJUDGED_SEGMENT].about;
    for (uint32_t i = 0; i < world->packets; i++) {
        bool is_unjudged = !all_judged && i >= unjudged->first_packet && i < unjudged->first_packet + unjudged->packets;
        enum filter_answer truth = answer_to(&question, &world->kept[i], is_unjudged);
        uint32_t in = 0;
        while (i >= world->segment[in].about.first_packet + world->segment[in].about.packets)
            in++;
        sum->exact += !is_damaged && world->whole[in];
        bool right = is_damaged || !world->whole[in] ? heard[i] == truth || (truth == FILTER_YES && heard[i] == FILTER_UNDECIDED) || (truth == FILTER_NO && heard[i] == FILTER_UNDECIDED)
                                : heard[i] == truth;
        if (!right)
            fail_msg("packet %u of %s: %d instead of %d (seed %lu)", i, text, heard[i], truth, seed);
        sum->found += heard[i] == FILTER_YES;
        sum->undecided += heard[i] == FILTER_UNDECIDED;
    }
    sum->of += world->packets;
    filter_close(&question.filter);
    narrowing_close(&tree);
    return true;
}

static void app_filter(struct mixer *mixer, char text[700])
{
    static const char *const form[] = {"app dns",          "not app dns",           "app tls and udp",       "app example or app http", "app unknown",
                                       "(app tls) and %s", "not app http and %s",   "%s and not app tls",    "(%s) or app dns",         "app http and host 203.0.113.9",
                                       "app nothing",      "app tls.example && %s", "not (app tls || (%s))", "app quic and not app quic"};
    char other[600];
    do
        mixer_filter(mixer, other);
    while (strstr(other, "geneve"));
    char *to = text;
    for (const char *at = form[mixer_below(mixer, COUNT(form))]; *at; at++)
        if (*at == '%') {
            to = stpcpy(to, other);
            at++;
        } else {
            *to++ = *at;
        }
    *to = '\0';
}

static struct verdicts *open_verdicts(void)
{
    static const char *const name[] = {"DNS", "TLS", "HTTP", "Example"};
    struct verdicts *verdicts;
    struct failure failure;
    assert_int_equal(verdicts_open(&verdicts, &failure), 0);
    verdicts_name(verdicts, name, COUNT(name));
    return verdicts;
}

static void app_finds_what_was_recorded(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed + 77};
    static struct world world;
    struct app_result sum = {0};
    char text[700];
    uint32_t asked = 0;
    for (uint32_t copies = 1; copies <= 2; copies++) {
        struct verdicts *verdicts = open_verdicts();
        fill_world(&world, &mixer, copies, true, verdicts);
        for (uint32_t i = 0; i < 60; i++) {
            app_filter(&mixer, text);
            asked += ask_app(&world, text, i % 4 > 0, false, &sum);
            assert_int_equal(world.counters.indexes_bad, 0);
        }
        close_world(&world);
        verdicts_close(&verdicts);
    }
    print_message("%u questions: %lu packets found, %lu undecided\n", asked, (unsigned long)sum.found, (unsigned long)sum.undecided);
    print_message("%lu answers had to be exact\n", (unsigned long)sum.exact);
    assert_true(asked > 80 && sum.found > 1000 && sum.undecided > 1000 && sum.exact > 1000);
}

/* One protocol that few packets have: the blocks of those are read, and hardly more. */
static void little_is_read_for_app(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed};
    static struct world world;
    struct app_result sum = {0};
    struct verdicts *verdicts = open_verdicts();
    all_judged = true;
    fill_world(&world, &mixer, 1, true, verdicts);
    assert_true(ask_app(&world, "app http", true, false, &sum));
    print_message("%lu packets found, %lu of %lu were looked at\n", (unsigned long)sum.found, (unsigned long)sum.read, (unsigned long)sum.of);
    assert_true(sum.found > 0 && sum.undecided == 0);
    assert_true(sum.read < sum.of / 2);
    all_judged = false;
    close_world(&world);
    verdicts_close(&verdicts);
}

static void a_damaged_index_makes_no_verdict(void **state)
{
    (void)state;
    struct mixer mixer = {.state = seed + 78};
    static struct world world;
    struct app_result sum = {0};
    char text[700];
    uint64_t bad = 0;
    struct verdicts *verdicts = open_verdicts();
    fill_world(&world, &mixer, 1, true, verdicts);
    uint8_t *whole = malloc(world.fixture.bytes);
    assert_non_null(whole);
    memcpy(whole, world.fixture.image, world.fixture.bytes);
    for (unsigned long i = 0; i < damages; i++) {
        for (uint32_t n = 1 + mixer_below(&mixer, 4); n > 0; n--) {
            uint32_t slot = mixer_below(&mixer, world.fixture.slots);
            const struct worker_segment *about = &world.segment[slot].about;
            damage(&world, &mixer, slot, about->index_offset, about->index_offset + about->index_bytes);
        }
        app_filter(&mixer, text);
        if (ask_app(&world, text, i % 4 > 0, true, &sum))
            bad += world.counters.indexes_bad;
        memcpy(world.fixture.image, whole, world.fixture.bytes);
    }
    free(whole);
    close_world(&world);
    verdicts_close(&verdicts);
    assert_true(damages < 300 || bad > 0);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--damages") == 0)
            damages = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoul(argv[i + 1], NULL, 10);
    }
    print_message("seed %lu\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_whole),
        cmocka_unit_test(little_is_read),
        cmocka_unit_test(a_key_index_that_spares_nothing_is_not_asked),
        cmocka_unit_test(a_damaged_index_costs_no_packet),
        cmocka_unit_test(what_damage_takes_is_told),
        cmocka_unit_test(app_finds_what_was_recorded),
        cmocka_unit_test(little_is_read_for_app),
        cmocka_unit_test(a_damaged_index_makes_no_verdict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
