/*
 * test_key_run.c - a run never excludes a segment that holds a match, whatever happens to its
 * bytes; and it excludes most of those that do not.
 *
 * Segments of a few random packets each; the judge is libpcap, packet by packet.
 */
#include "unit_test.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "errors.h"
#include "filter.h"
#include "flow_index.h"
#include "key_run.h"
#include "packet_keys.h"
#include "packet_mixer.h"

#define SEGMENTS 300u
#define PACKETS 12u /* of a segment */

struct kept {
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t count;
};

static struct kept packet[SEGMENTS][PACKETS];
static const struct identity ring = {{1, 2, 3}};
static char directory_path[] = "/tmp/test-key-run-XXXXXX";
static int directory;

static int read_memory(void *context, uint32_t offset, uint32_t count, uint8_t *into)
{
    memcpy(into, (const uint8_t *)context + offset, count);
    return 0;
}

static void add_segment(struct key_run_maker *maker, struct flow_index *index, uint32_t number,
                        bool whole)
{
    struct flow_reader *reader;
    const uint8_t *bytes;
    flow_index_clear(index);
    for (uint32_t i = 0; i < PACKETS; i++) {
        const struct kept *one = &packet[number][i];
        struct decoded_packet decoded;
        struct flow_keys keys;
        decode_packet(LINK_ETHERNET, one->bytes, one->count, &decoded);
        packet_keys_fill(LINK_ETHERNET, one->bytes, one->count, &decoded, &keys);
        keys.entry = 0;
        flow_index_add(index, &keys, flow_index_hash(index, &keys), 1000 + i * 1000, 500);
    }
    flow_index_end_frame(index, FRAME_BYTES_USUAL);
    uint32_t length = flow_index_encode(index, NULL, 0, UINT32_MAX, &bytes);
    assert_true(length > 0);
    const struct flow_index_source source = {
        .read = read_memory, .context = (void *)(uintptr_t)bytes, .bytes = length};
    assert_int_equal(flow_reader_open(&source, &reader), 0);
    const struct key_run_segment segment = {
        .segment = {{(uint8_t)number}}, .position = 1000 + number, .revision = 1};
    assert_int_equal(key_run_add_segment(maker, &segment, whole ? reader : NULL, whole), 0);
    flow_reader_close(&reader);
}

/* Makes a run of the first `segments`; every 50th has no index. Returns its length. */
static uint64_t make_run(const char *name, uint32_t segments)
{
    struct key_run_maker *maker;
    struct flow_index *index;
    uint64_t bytes = 0;
    assert_int_equal(flow_index_open(1u << 20, &index), 0);
    assert_int_equal(key_run_begin(&ring, segments, &maker), 0);
    for (uint32_t i = 0; i < segments; i++)
        add_segment(maker, index, i, i % 50 != 49);
    assert_int_equal(
        key_run_add_segment(maker, &(struct key_run_segment){.position = 1}, NULL, false),
        ERR_NO_SPACE);
    assert_int_equal(key_run_publish(maker, directory, name, &bytes), 0);
    key_run_end(&maker);
    flow_index_close(&index);
    return bytes;
}

static int set_up(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 11};
    for (uint32_t i = 0; i < SEGMENTS; i++)
        for (uint32_t j = 0; j < PACKETS; j++)
            packet[i][j].count = mixer_packet(&mixer, packet[i][j].bytes);
    if (!mkdtemp(directory_path))
        return -1;
    directory = open(directory_path, O_RDONLY | O_DIRECTORY);
    return directory < 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const name[] = {"run", "small", "damaged"};
    for (size_t i = 0; i < COUNT(name); i++)
        unlinkat(directory, name[i], 0);
    close(directory);
    return rmdir(directory_path);
}

static bool has(const struct segment_set *set, uint32_t number)
{
    return (set->word[number / 64] >> number % 64 & 1) != 0;
}

static bool segment_matches(struct filter *filter, uint32_t number)
{
    const struct filter_program *program = filter_for(filter, LINK_ETHERNET);
    for (uint32_t i = 0; i < PACKETS; i++) {
        const struct packet one = {.bytes = packet[number][i].bytes,
                                   .captured_bytes = packet[number][i].count,
                                   .original_bytes = packet[number][i].count};
        if (filter_match(program, &one, 0))
            return true;
    }
    return false;
}

static void check(struct key_run *run, const char *text, unsigned long *excluded,
                  unsigned long *possible)
{
    struct filter *filter;
    struct failure failure;
    struct narrowing *tree;
    struct segment_set set;
    if (filter_open(text, NULL, &filter, &failure) != 0)
        return;
    assert_int_equal(narrowing_open(text, &tree), 0);
    assert_int_equal(key_run_narrow(run, tree, &set), 0);
    for (uint32_t i = 0; i < key_run_segments(run); i++) {
        bool matches = segment_matches(filter, i);
        if (matches && !has(&set, i))
            fail_msg("%s: segment %u is missing", text, i);
        *possible += !matches;
        *excluded += !has(&set, i);
    }
    for (uint32_t i = key_run_segments(run); i < KEY_RUN_SEGMENTS_MAX; i++)
        assert_false(has(&set, i));
    narrowing_close(&tree);
    filter_close(&filter);
}

static void test_never_misses(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 12};
    const uint32_t sizes[] = {SEGMENTS, 40};
    for (size_t size = 0; size < COUNT(sizes); size++) {
        const char *name = size == 0 ? "run" : "small";
        unsigned long excluded = 0, possible = 0;
        uint64_t bytes = make_run(name, sizes[size]);
        struct key_run *run;
        assert_int_equal(key_run_open(directory, name, &ring, &run), 0);
        assert_int_equal(key_run_segments(run), sizes[size]);
        assert_int_equal(key_run_segment(run, 3)->position, 1003);
        assert_null(key_run_segment(run, sizes[size]));
        for (unsigned i = 0; i < 400; i++) {
            char text[600];
            mixer_filter(&mixer, text);
            check(run, text, &excluded, &possible);
        }
        print_message("%u segments, %lu bytes: %lu of %lu that hold no match are left out\n",
                      sizes[size], (unsigned long)bytes, excluded, possible);
        assert_true(excluded > 0);
        key_run_close(&run);
    }
}

/* A key that few segments have is found by reading a few pages. */
static void test_it_excludes(void **state)
{
    (void)state;
    struct narrowing *tree;
    struct segment_set set;
    struct key_run *run;
    make_run("run", SEGMENTS);
    assert_int_equal(key_run_open(directory, "run", &ring, &run), 0);
    uint64_t before = key_run_bytes_read(run);
    assert_int_equal(narrowing_open("ether host 66:66:66:66:66:66", &tree), 0);
    assert_int_equal(key_run_narrow(run, tree, &set), 0);
    unsigned left = 0;
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        left += has(&set, i);
        assert_true(has(&set, i) || i % 50 != 49);
    }
    assert_true(left < SEGMENTS / 2);
    assert_true(key_run_bytes_read(run) - before < 40000);
    narrowing_close(&tree);
    key_run_close(&run);
}

static void write_file(const char *name, const uint8_t *bytes, size_t count)
{
    int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    close(fd);
}

/* Bytes changed or cut off: an error, or no segment too few. */
static void test_damage(void **state)
{
    (void)state;
    static const char *const filters[] = {"host 10.0.0.1 and not tcp", "net 10.0.1 or vlan 5",
                                          "ip6 and udp port 53", "ether src 2:0:0:0:0:1"};
    struct mixer mixer = {.state = 13};
    struct segment_set right[COUNT(filters)], now;
    struct narrowing *tree[COUNT(filters)];
    struct key_run *run;
    unsigned noticed = 0;
    uint64_t count = make_run("run", SEGMENTS);
    uint8_t *bytes = malloc(count);
    assert_non_null(bytes);
    int fd = openat(directory, "run", O_RDONLY);
    assert_int_equal(read(fd, bytes, count), count);
    close(fd);
    assert_int_equal(key_run_open(directory, "run", &ring, &run), 0);
    for (size_t i = 0; i < COUNT(filters); i++) {
        assert_int_equal(narrowing_open(filters[i], &tree[i]), 0);
        assert_int_equal(key_run_narrow(run, tree[i], &right[i]), 0);
    }
    key_run_close(&run);
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t at = mixer_below(&mixer, (uint32_t)count), length = count;
        uint8_t change = (uint8_t)(1 + mixer_below(&mixer, 255));
        if (i % 10 == 0)
            length = at; /* cut off */
        else
            bytes[at] ^= change;
        write_file("damaged", bytes, length);
        int code = key_run_open(directory, "damaged", &ring, &run);
        for (size_t j = 0; code == 0 && j < COUNT(filters); j++) {
            code = key_run_narrow(run, tree[j], &now);
            for (unsigned word = 0; word < COUNT(now.word); word++)
                assert_int_equal(right[j].word[word] & ~now.word[word], 0);
        }
        assert_true(code == 0 || code == ERR_CORRUPT || code == ERR_FOREIGN);
        noticed += code != 0;
        key_run_close(&run);
        if (length == count)
            bytes[at] ^= change;
    }
    print_message("%u of 3000 damages were met and noticed\n", noticed);
    assert_true(noticed > 300);
    for (size_t i = 0; i < COUNT(filters); i++)
        narrowing_close(&tree[i]);
    free(bytes);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct identity other = {{9}};
    struct key_run *run = NULL;
    struct key_run_maker *maker;
    make_run("small", 5);
    assert_int_equal(key_run_open(directory, "none", &ring, &run), ERR_NOT_FOUND);
    assert_int_equal(key_run_open(directory, "small", &other, &run), ERR_FOREIGN);
    assert_int_equal(key_run_begin(&ring, 0, &maker), ERR_INVALID);
    assert_int_equal(key_run_begin(&ring, KEY_RUN_SEGMENTS_MAX + 1, &maker), ERR_INVALID);
    struct stat about;
    assert_int_equal(fstatat(directory, "small.new", &about, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_misses),
        cmocka_unit_test(test_it_excludes),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
