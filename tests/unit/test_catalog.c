/*
 * test_catalog.c - both bodies of the catalog against the same table, and what can happen to
 * catalog.db.
 *
 *     test_catalog [--damages N] [--seed S] [--only TEST]
 *
 * With --damages, only the tests that damage the file, N times each.
 */
#include "unit_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "catalog.h"
#include "faulty_vfs.h"

/* Random rounds are fewer where each is many times as slow. */
#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static uint64_t seed = 20231114;
static unsigned long damages = SANITIZED ? 20 : 120; /* in each test of damage */
static uint64_t damage_seed, damage_at; /* the first one's, and that of the one that was last */

/* splitmix64: the same test in every run. */
static uint64_t random_u64(void)
{
    uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t random_below(uint64_t bound)
{
    return random_u64() % bound;
}

/* ---- directories --------------------------------------------------------------------------------
 */

static char directory[PATH_MAX];

static void make_directory(void)
{
    const char *temporary = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/test_catalog.XXXXXX", temporary ? temporary : "/tmp");
    assert_non_null(mkdtemp(directory));
}

/* Calls `each` with the path of every file of the directory whose name begins with `prefix`;
 * returns how many. */
static int each_file(const char *prefix, void (*each)(const char *path))
{
    DIR *listing = opendir(directory);
    struct dirent *entry;
    int count = 0;
    assert_non_null(listing);
    while ((entry = readdir(listing))) {
        char path[PATH_MAX + 300];
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (each)
            each(path);
        count++;
    }
    closedir(listing);
    return count;
}

static void remove_file(const char *path)
{
    if (unlink(path) != 0)
        rmdir(path);
}

static void remove_directory(void)
{
    each_file("", remove_file);
    rmdir(directory);
}

static const char *file_path(const char *name)
{
    static char path[PATH_MAX + 300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static uint8_t *read_file(const char *name, size_t *bytes)
{
    int fd = open(file_path(name), O_RDONLY);
    struct stat status;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    *bytes = (size_t)status.st_size;
    uint8_t *content = malloc(*bytes + 1);
    assert_int_equal(pread(fd, content, *bytes, 0), (ssize_t)*bytes);
    close(fd);
    return content;
}

static void write_file(const char *name, const void *content, size_t bytes)
{
    int fd = open(file_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, content, bytes, 0), (ssize_t)bytes);
    close(fd);
}

/* ---- catalogs -----------------------------------------------------------------------------------
 */

static struct catalog *open_catalog(bool *fresh)
{
    struct catalog *catalog = NULL;
    struct failure failure = {0};
    if (catalog_open(directory, &catalog, fresh, &failure) != 0)
        fail_msg("catalog_open: %s", failure.text);
    assert_non_null(catalog);
    return catalog;
}

/* A catalog of the body that the test is run for, without rows and not stale. */
static struct catalog *body_open(void **state)
{
    if (strcmp(*state, "memory") == 0)
        return catalog_memory_new();
    bool fresh;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    assert_true(fresh);
    assert_true(catalog_stale(catalog));
    catalog_fresh(catalog);
    assert_false(catalog_stale(catalog));
    return catalog;
}

static void body_close(void **state, struct catalog **catalog)
{
    catalog_close(catalog);
    assert_null(*catalog);
    if (strcmp(*state, "memory") != 0)
        remove_directory();
}

static void settle(struct catalog *catalog)
{
    assert_int_equal(catalog_barrier(catalog), 0);
}

static struct identity identity_of(uint64_t number)
{
    struct identity id = {{0}};
    for (int i = 0; i < 8; i++)
        id.byte[15 - i] = (uint8_t)(number >> (8 * i));
    id.byte[0] = 0xa0; /* none is zero */
    return id;
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

static const struct identity ring_a = {{1}};
static const struct identity ring_b = {{2}};

static struct segment_row plain_row(uint64_t number)
{
    struct segment_row row = {
        .ring = ring_a,
        .segment = identity_of(number),
        .position = number,
        .revision = 1,
        .data_revision = 1,
        .run = {{7}},
        .stream = 0,
        .state = SEGMENT_SEALED,
        .first_packet = number * 10,
        .packets = 10,
        .captured_bytes = 1000,
        .first_ns = (int64_t)number * 1000,
        .last_ns = (int64_t)number * 1000 + 999,
        .places = 1,
    };
    row.place[0] = (struct segment_place){.disk = {{9}}, .slot = (uint32_t)number};
    return row;
}

static bool row_equal(const struct segment_row *a, const struct segment_row *b)
{
    bool equal =
        identity_equal(&a->ring, &b->ring) && identity_equal(&a->segment, &b->segment) &&
        identity_equal(&a->run, &b->run) && a->position == b->position &&
        a->revision == b->revision && a->data_revision == b->data_revision &&
        a->stream == b->stream && a->state == b->state && a->first_packet == b->first_packet &&
        a->packets == b->packets && a->captured_bytes == b->captured_bytes &&
        a->missing == b->missing && a->purged == b->purged && a->opened_ns == b->opened_ns && a->sealed_ns == b->sealed_ns &&
        a->head_ns == b->head_ns && a->first_ns == b->first_ns && a->last_ns == b->last_ns &&
        a->data_end == b->data_end && a->index_offset == b->index_offset &&
        a->index_bytes == b->index_bytes && a->places == b->places;
    for (uint8_t p = 0; equal && p < a->places; p++)
        equal = a->place[p].slot == b->place[p].slot &&
                identity_equal(&a->place[p].disk, &b->place[p].disk);
    return equal;
}

struct found {
    struct segment_row *row;
    struct segment_place *place; /* of catalog_places() */
    uint32_t count;
    uint32_t max;
    uint32_t stop_after; /* 0: never */
};

static int keep_row(const struct segment_row *row, void *context)
{
    struct found *found = context;
    if (found->count == found->max) {
        found->max = found->max ? found->max * 2 : 1024;
        found->row = realloc(found->row, found->max * sizeof *found->row);
        found->place = realloc(found->place, found->max * sizeof *found->place);
    }
    found->row[found->count++] = *row;
    return found->stop_after != 0 && found->count == found->stop_after ? 1234 : 0;
}

static int keep_place(const struct segment_row *row, const struct segment_place *place,
                      void *context)
{
    struct found *found = context;
    int result = keep_row(row, context);
    found->place[found->count - 1] = *place;
    return result;
}

static void forget(struct found *found)
{
    free(found->row);
    free(found->place);
    memset(found, 0, sizeof *found);
}

static struct found find(struct catalog *catalog, const struct identity *ring, int64_t from_ns,
                         int64_t to_ns)
{
    struct found found = {0};
    assert_int_equal(catalog_find(catalog, ring, from_ns, to_ns, keep_row, &found), 0);
    return found;
}

static uint32_t find_count(struct catalog *catalog, const struct identity *ring, int64_t from_ns,
                           int64_t to_ns)
{
    struct found found = find(catalog, ring, from_ns, to_ns);
    uint32_t count = found.count;
    forget(&found);
    return count;
}

/* ---- both bodies: fields ------------------------------------------------------------------------
 */

static void test_every_field_survives(void **state)
{
    struct catalog *catalog = body_open(state);
    struct segment_row row = {
        .ring = ring_a,
        .segment = identity_of(UINT64_MAX),
        .position = UINT64_MAX,
        .revision = UINT32_MAX,
        .data_revision = UINT32_MAX - 1,
        .run = {{0xff, 0xfe, 0}},
        .stream = UINT32_MAX,
        .state = SEGMENT_DAMAGED,
        .first_packet = UINT64_C(1) << 63,
        .packets = UINT64_MAX - 1,
        .captured_bytes = (UINT64_C(1) << 63) + 1,
        .missing = UINT64_MAX - 2,
        .purged = UINT64_MAX - 3,
        .opened_ns = INT64_MIN,
        .sealed_ns = INT64_MAX,
        .head_ns = -1,
        .first_ns = INT64_MIN + 1,
        .last_ns = INT64_MAX - 1,
        .data_end = UINT32_MAX,
        .index_offset = UINT32_MAX - 1,
        .index_bytes = UINT32_MAX - 2,
        .places = COPIES_MAX,
    };
    for (uint8_t p = 0; p < COPIES_MAX; p++)
        row.place[p] = (struct segment_place){.disk = identity_of(90u - p), .slot = UINT32_MAX - p};
    catalog_put_segment(catalog, &row);
    settle(catalog);

    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, 1);
    assert_true(row_equal(&found.row[0], &row));
    forget(&found);
    assert_int_equal(catalog_places(catalog, &ring_a, keep_place, &found), 0);
    assert_int_equal(found.count, COPIES_MAX);
    for (uint32_t i = 0; i < found.count; i++) {
        assert_true(row_equal(&found.row[i], &row));
        assert_int_equal(found.place[i].slot, UINT32_MAX - COPIES_MAX + 1 + i); /* by disk */
    }
    forget(&found);

    struct catalog_summary summary;
    assert_int_equal(catalog_summary(catalog, &ring_a, &summary), 0);
    assert_int_equal(summary.segments, 1);
    assert_int_equal(summary.damaged_segments, 1);
    assert_true(summary.packets == row.packets);
    assert_true(summary.captured_bytes == row.captured_bytes);
    assert_true(summary.missing == row.missing);
    assert_true(summary.purged == row.purged);
    assert_true(summary.first_ns == row.first_ns && summary.last_ns == row.last_ns);
    assert_true(summary.position_min == UINT64_MAX && summary.position_max == UINT64_MAX);
    body_close(state, &catalog);
}

static void test_an_unknown_ring_is_empty(void **state)
{
    struct catalog *catalog = body_open(state);
    struct segment_row row = plain_row(1);
    struct catalog_summary summary;
    struct found found = {0};
    catalog_put_segment(catalog, &row);
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_b, INT64_MIN, INT64_MAX), 0);
    assert_int_equal(catalog_places(catalog, &ring_b, keep_place, &found), 0);
    assert_int_equal(found.count, 0);
    assert_int_equal(catalog_summary(catalog, &ring_b, &summary), 0);
    assert_int_equal(summary.segments, 0);
    assert_true(summary.first_ns == INT64_MAX && summary.last_ns == INT64_MIN);
    assert_true(summary.position_min == 0 && summary.position_max == 0);
    body_close(state, &catalog);
}

/* ---- both bodies: time (promise P8) -------------------------------------------------------------
 */

static const struct {
    int64_t first_ns, last_ns; /* of the segment */
    int64_t from_ns, to_ns;    /* asked for */
    bool found;
} time_table[] = {
    {100, 200, 100, 101, true},
    {100, 200, 99, 100, false}, /* `to` is exclusive */
    {100, 200, 200, 201, true}, /* `from` is inclusive */
    {100, 200, 201, 300, false},
    {100, 200, 150, 150, false}, /* an empty range */
    {100, 200, 180, 120, false}, /* and one the wrong way round */
    {100, 100, 100, 101, true},
    {100, 100, INT64_MIN, 100, false},
    {100, 100, 100, INT64_MAX, true},
    {-5, 5, -1, 1, true},
    {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MAX, true},
    {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN + 1, true},
    {INT64_MIN, INT64_MIN, INT64_MIN, INT64_MIN, false},
    {INT64_MIN, INT64_MIN, INT64_MIN + 1, INT64_MAX, false},
    {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, true}, /* INT64_MAX is no bound */
    {INT64_MAX, INT64_MAX, 0, INT64_MAX, true},
    {INT64_MAX, INT64_MAX, 0, INT64_MAX - 1, false},
    {INT64_MAX - 1, INT64_MAX - 1, INT64_MAX - 1, INT64_MAX, true},
    {INT64_MIN, INT64_MAX, 0, 1, true},
    {INT64_MIN, INT64_MAX, INT64_MAX, INT64_MAX, true},
    {INT64_MIN, 0, 0, 1, true},
    {INT64_MIN, -1, 0, 1, false},
    {0, INT64_MAX, INT64_MIN, 0, false},
    {0, INT64_MAX, INT64_MIN, 1, true},
    {1, 0, INT64_MIN, INT64_MAX, false}, /* no packet */
    {INT64_MAX, INT64_MIN, INT64_MIN, INT64_MAX, false},
};

static void test_times(void **state)
{
    struct catalog *catalog = body_open(state);
    for (size_t i = 0; i < COUNT(time_table); i++) {
        struct segment_row row = plain_row(1);
        row.first_ns = time_table[i].first_ns;
        row.last_ns = time_table[i].last_ns;
        catalog_put_segment(catalog, &row);
        settle(catalog);
        uint32_t count = find_count(catalog, &ring_a, time_table[i].from_ns, time_table[i].to_ns);
        if (count != time_table[i].found)
            fail_msg("row %zu of the table: found %u", i, count);
    }
    body_close(state, &catalog);
}

static void test_open_and_holed_segments_are_always_named(void **state)
{
    struct catalog *catalog = body_open(state);
    struct segment_row row = plain_row(1);
    row.state = SEGMENT_OPEN;
    catalog_put_segment(catalog, &row); /* times known so far do not bound it */
    row = plain_row(2);
    row.state = SEGMENT_OPEN;
    row.first_ns = INT64_MAX;
    row.last_ns = INT64_MIN;
    catalog_put_segment(catalog, &row);
    row = plain_row(3);
    row.packets = 0;
    row.missing = 5; /* all its packets are gone, and so are their times */
    row.first_ns = 1;
    row.last_ns = 0;
    catalog_put_segment(catalog, &row);
    row = plain_row(4);
    catalog_put_segment(catalog, &row);
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, 500000, 600000), 3);
    assert_int_equal(find_count(catalog, &ring_a, 7, 7), 3);

    row = plain_row(1); /* sealed: now its times count */
    catalog_put_segment(catalog, &row);
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, 500000, 600000), 2);
    assert_int_equal(find_count(catalog, &ring_a, 1000, 2000), 3);
    body_close(state, &catalog);
}

/* ---- both bodies: places ------------------------------------------------------------------------
 */

static void test_a_place_has_one_segment(void **state)
{
    struct catalog *catalog = body_open(state);
    struct identity disk[2] = {identity_of(50), identity_of(51)};
    struct segment_row old = plain_row(1);
    old.places = 2;
    old.place[0] = (struct segment_place){disk[0], 3};
    old.place[1] = (struct segment_place){disk[1], 3};
    catalog_put_segment(catalog, &old);

    struct segment_row new = plain_row(2);
    new.places = 1;
    new.place[0] = (struct segment_place){disk[0], 3};
    catalog_put_segment(catalog, &new);
    settle(catalog);
    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, 2); /* the old one has a place left */
    assert_int_equal(found.row[0].places, 1);
    assert_true(identity_equal(&found.row[0].place[0].disk, &disk[1]));
    forget(&found);

    new = plain_row(3);
    new.place[0] = (struct segment_place){disk[1], 3};
    catalog_put_segment(catalog, &new);
    settle(catalog);
    found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, 2); /* and now none */
    assert_int_equal(found.row[0].position, 2);
    assert_int_equal(found.row[1].position, 3);
    forget(&found);

    new.place[0].slot = 4; /* moves: its old place is nobody's */
    catalog_put_segment(catalog, &new);
    settle(catalog);
    assert_int_equal(catalog_places(catalog, &ring_a, keep_place, &found), 0);
    assert_int_equal(found.count, 2);
    assert_int_equal(found.place[0].slot, 3);
    assert_int_equal(found.place[1].slot, 4);
    forget(&found);

    new.places = 0; /* known, but without a place: stays until it is dropped */
    catalog_put_segment(catalog, &new);
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 2);
    catalog_drop_segment(catalog, &new.segment);
    catalog_drop_segment(catalog, &new.segment); /* twice does no harm */
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 1);

    struct catalog_summary summary;
    assert_int_equal(catalog_summary(catalog, &ring_a, &summary), 0);
    assert_int_equal(summary.segments, 1);
    assert_int_equal(summary.packets, 10);
    body_close(state, &catalog);
}

static void test_a_place_named_twice(void **state)
{
    struct catalog *catalog = body_open(state);
    struct segment_row row = plain_row(1);
    row.places = 3;
    row.place[0] = row.place[1] = row.place[2] = (struct segment_place){{{9}}, 8};
    catalog_put_segment(catalog, &row);
    settle(catalog);
    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.row[0].places, 1);
    forget(&found);
    body_close(state, &catalog);
}

static void test_clearing_a_ring(void **state)
{
    struct catalog *catalog = body_open(state);
    for (uint64_t i = 0; i < 2500; i++) {
        struct segment_row row = plain_row(i);
        row.ring = i % 2 ? ring_a : ring_b;
        catalog_put_segment(catalog, &row);
    }
    assert_false(catalog_stale(catalog));
    catalog_clear_ring(catalog, &ring_a);
    assert_true(catalog_stale(catalog)); /* until it is filled again */
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 0);
    assert_int_equal(find_count(catalog, &ring_b, INT64_MIN, INT64_MAX), 1250);
    struct catalog_summary summary;
    assert_int_equal(catalog_summary(catalog, &ring_a, &summary), 0);
    assert_int_equal(summary.segments, 0);
    assert_int_equal(summary.packets, 0);
    catalog_fresh(catalog);
    assert_false(catalog_stale(catalog));
    body_close(state, &catalog);
}

/* ---- both bodies: interfaces --------------------------------------------------------------------
 */

struct seen {
    uint32_t count;
    struct interface_description description;
    int64_t first_ns;
    int64_t last_ns;
};

static int keep_interface(const struct interface_description *description, int64_t first_seen_ns,
                          int64_t last_seen_ns, void *context)
{
    struct seen *seen = context;
    seen->count++;
    seen->description = *description;
    seen->first_ns = first_seen_ns;
    seen->last_ns = last_seen_ns;
    return 0;
}

static void test_interfaces(void **state)
{
    struct catalog *catalog = body_open(state);
    struct seen seen = {0};
    struct interface_description eth0 = {.link_type = UINT16_MAX,
                                         .snapshot_length = UINT32_MAX,
                                         .hardware = {0xff, 0, 1, 2, 3, 0xfe},
                                         .name = "eth0\xff'\"",
                                         .description = ""};
    catalog_put_interface(catalog, &ring_a, &eth0, 100);
    catalog_put_interface(catalog, &ring_a, &eth0, INT64_MAX);
    catalog_put_interface(catalog, &ring_a, &eth0, INT64_MIN);
    catalog_put_interface(catalog, &ring_b, &eth0, 7);
    settle(catalog);
    assert_int_equal(catalog_interfaces(catalog, &ring_a, keep_interface, &seen), 0);
    assert_int_equal(seen.count, 1);
    assert_memory_equal(&seen.description, &eth0, sizeof eth0);
    assert_true(seen.first_ns == INT64_MIN && seen.last_ns == INT64_MAX);

    memset(eth0.name, 'x', sizeof eth0.name); /* not terminated: cut, not read beyond */
    memset(eth0.description, 'y', sizeof eth0.description);
    catalog_put_interface(catalog, &ring_a, &eth0, 1);
    settle(catalog);
    memset(&seen, 0, sizeof seen);
    assert_int_equal(catalog_interfaces(catalog, &ring_a, keep_interface, &seen), 0);
    assert_int_equal(seen.count, 2);
    assert_int_equal(strlen(seen.description.name), INTERFACE_NAME_MAX);
    assert_int_equal(strlen(seen.description.description), INTERFACE_TEXT_MAX);

    for (int i = 0; i < 2400; i++) { /* more than a page */
        snprintf(eth0.name, sizeof eth0.name, "if%d", i);
        catalog_put_interface(catalog, &ring_a, &eth0, i);
    }
    settle(catalog);
    memset(&seen, 0, sizeof seen);
    assert_int_equal(catalog_interfaces(catalog, &ring_a, keep_interface, &seen), 0);
    assert_int_equal(seen.count, 2402);
    body_close(state, &catalog);
}

/* ---- both bodies: callbacks ---------------------------------------------------------------------
 */

static void test_each_may_stop(void **state)
{
    struct catalog *catalog = body_open(state);
    for (uint64_t i = 0; i < 1500; i++) {
        struct segment_row row = plain_row(i);
        catalog_put_segment(catalog, &row);
    }
    settle(catalog);
    struct found found = {.stop_after = 1100};
    assert_int_equal(catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, keep_row, &found), 1234);
    assert_int_equal(found.count, 1100);
    forget(&found);
    found.stop_after = 1;
    assert_int_equal(catalog_places(catalog, &ring_a, keep_place, &found), 1234);
    assert_int_equal(found.count, 1);
    forget(&found);
    body_close(state, &catalog);
}

struct nested {
    struct catalog *catalog;
    uint32_t rows;
};

/* Asks and changes from within a query. */
static int ask_again(const struct segment_row *row, void *context)
{
    struct nested *nested = context;
    struct catalog_summary summary;
    assert_int_equal(catalog_summary(nested->catalog, &ring_a, &summary), 0);
    catalog_drop_segment(nested->catalog, &row->segment);
    if (nested->rows++ % 500 == 0)
        settle(nested->catalog);
    return 0;
}

static void test_each_may_call_the_catalog(void **state)
{
    struct catalog *catalog = body_open(state);
    for (uint64_t i = 0; i < 2500; i++) {
        struct segment_row row = plain_row(i);
        catalog_put_segment(catalog, &row);
    }
    settle(catalog);
    struct nested nested = {.catalog = catalog};
    assert_int_equal(catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, ask_again, &nested), 0);
    assert_int_equal(nested.rows, 2500);
    settle(catalog);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 0);
    body_close(state, &catalog);
}

/* ---- both bodies: everything at random, against a third that is simpler than both ---------------
 */

#define MODEL_ROWS 3000

struct model {
    struct segment_row row[MODEL_ROWS];
    uint32_t rows;
};

static void model_drop(struct model *model, uint32_t i)
{
    model->row[i] = model->row[--model->rows];
}

static void model_put(struct model *model, const struct segment_row *put)
{
    for (uint32_t i = model->rows; i-- > 0;)
        if (identity_equal(&model->row[i].segment, &put->segment))
            model_drop(model, i);
    for (uint32_t i = model->rows; i-- > 0;) {
        struct segment_row *row = &model->row[i];
        uint8_t before = row->places;
        for (uint8_t p = row->places; p-- > 0;)
            for (uint8_t q = 0; q < put->places; q++)
                if (p < row->places && row->place[p].slot == put->place[q].slot &&
                    identity_equal(&row->place[p].disk, &put->place[q].disk)) {
                    row->places--;
                    memmove(&row->place[p], &row->place[p + 1],
                            (size_t)(row->places - p) * sizeof row->place[0]);
                }
        if (before > 0 && row->places == 0)
            model_drop(model, i);
    }
    assert_true(model->rows < MODEL_ROWS);
    model->row[model->rows++] = *put;
}

static bool model_matches(const struct segment_row *row, int64_t from_ns, int64_t to_ns)
{
    __int128 from = from_ns;
    __int128 to = to_ns == INT64_MAX ? (__int128)INT64_MAX + 1 : to_ns;
    if (row->state == SEGMENT_OPEN || (row->first_ns > row->last_ns && row->missing > 0))
        return true;
    return row->first_ns <= row->last_ns && from < to && row->first_ns < to && row->last_ns >= from;
}

static int64_t random_time(void)
{
    static const int64_t edge[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
    switch (random_below(4)) {
    case 0:
        return edge[random_below(COUNT(edge))];
    case 1:
        return (int64_t)random_u64() >> random_below(64);
    default:
        return (int64_t)(1000000 + random_below(100000));
    }
}

static struct segment_row random_row(void)
{
    static const uint64_t edge[] = {0, 1, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX};
    struct segment_row row = plain_row(random_below(2000));
    if (random_below(20) == 0)
        row.position = edge[random_below(COUNT(edge))];
    row.ring = random_below(10) == 0 ? ring_b : ring_a;
    row.run.byte[3] = (uint8_t)random_below(3);
    row.stream = (uint32_t)random_below(3);
    row.state = (enum segment_state)(1 + random_below(3));
    if (row.state == SEGMENT_OPEN && random_below(4) != 0)
        row.state = SEGMENT_SEALED;
    row.packets = random_u64() >> random_below(64);
    row.captured_bytes = random_u64() >> random_below(64);
    row.missing = random_below(10) == 0 ? random_u64() : 0;
    row.purged = random_below(10) == 0 ? random_u64() : 0;
    row.first_ns = random_time();
    if (random_below(2) != 0 ||
        __builtin_add_overflow(row.first_ns, (int64_t)random_below(5000), &row.last_ns))
        row.last_ns = random_time();
    row.places = 0;
    for (uint64_t wanted = random_below(COPIES_MAX + 1); row.places < wanted; row.places++)
        row.place[row.places] = (struct segment_place){.disk = identity_of(100 + row.places),
                                                       .slot = (uint32_t)random_below(1500)};
    return row;
}

static int order_rows(const void *a, const void *b)
{
    const struct segment_row *p = a;
    const struct segment_row *q = b;
    int order = memcmp(&p->run, &q->run, sizeof p->run);
    if (order == 0)
        order = (p->stream > q->stream) - (p->stream < q->stream);
    if (order == 0)
        order = (p->position > q->position) - (p->position < q->position);
    return order;
}

/* Where several rows have one position (no sound ring makes such), their order is free: as sets,
 * then. */
static void assert_same_rows(const struct segment_row *expected, const struct segment_row *row,
                             uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(order_rows(&expected[i], &row[i]), 0);
        bool present = false;
        for (uint32_t j = i; !present && j < count && order_rows(&row[i], &expected[j]) == 0; j++)
            present = row_equal(&row[i], &expected[j]);
        for (uint32_t j = i; !present && j-- > 0 && order_rows(&row[i], &expected[j]) == 0;)
            present = row_equal(&row[i], &expected[j]);
        assert_true(present);
    }
}

static void check_find(struct catalog *catalog, struct model *model, const struct identity *ring,
                       int64_t from_ns, int64_t to_ns)
{
    struct segment_row *expected = calloc(MODEL_ROWS, sizeof *expected);
    uint32_t count = 0;
    for (uint32_t i = 0; i < model->rows; i++)
        if (identity_equal(&model->row[i].ring, ring) &&
            model_matches(&model->row[i], from_ns, to_ns))
            expected[count++] = model->row[i];
    qsort(expected, count, sizeof *expected, order_rows);
    struct found found = find(catalog, ring, from_ns, to_ns);
    assert_int_equal(found.count, count);
    assert_same_rows(expected, found.row, count);
    forget(&found);
    free(expected);
}

static void check_summary(struct catalog *catalog, struct model *model, const struct identity *ring)
{
    struct catalog_summary sum = {.first_ns = INT64_MAX, .last_ns = INT64_MIN};
    struct catalog_summary summary;
    for (uint32_t i = 0; i < model->rows; i++) {
        const struct segment_row *row = &model->row[i];
        if (!identity_equal(&row->ring, ring))
            continue;
        if (sum.segments == 0 || row->position < sum.position_min)
            sum.position_min = row->position;
        if (row->position > sum.position_max)
            sum.position_max = row->position;
        sum.segments++;
        sum.packets += row->packets;
        sum.captured_bytes += row->captured_bytes;
        sum.missing += row->missing;
        sum.purged += row->purged;
        sum.damaged_segments += row->state == SEGMENT_DAMAGED;
        if (row->first_ns <= row->last_ns) {
            sum.first_ns = row->first_ns < sum.first_ns ? row->first_ns : sum.first_ns;
            sum.last_ns = row->last_ns > sum.last_ns ? row->last_ns : sum.last_ns;
        }
    }
    assert_int_equal(catalog_summary(catalog, ring, &summary), 0);
    assert_memory_equal(&summary, &sum, sizeof sum);
}

static void check_places(struct catalog *catalog, struct model *model, const struct identity *ring)
{
    struct found found = {0};
    uint32_t expected = 0;
    for (uint32_t i = 0; i < model->rows; i++)
        if (identity_equal(&model->row[i].ring, ring))
            expected += model->row[i].places;
    assert_int_equal(catalog_places(catalog, ring, keep_place, &found), 0);
    assert_int_equal(found.count, expected);
    for (uint32_t i = 0; i < found.count; i++) {
        const struct segment_place *place = &found.place[i];
        bool holds = false;
        for (uint8_t p = 0; p < found.row[i].places; p++)
            holds |= found.row[i].place[p].slot == place->slot &&
                     identity_equal(&found.row[i].place[p].disk, &place->disk);
        assert_true(holds);
        if (i > 0) {
            int order = memcmp(&found.place[i - 1].disk, &place->disk, sizeof place->disk);
            assert_true(order < 0 || (order == 0 && found.place[i - 1].slot < place->slot));
        }
    }
    forget(&found);
}

/* One place more. */
static void model_add(struct model *model, uint32_t i, const struct segment_place *place)
{
    struct segment_row row = model->row[i];
    row.places = 0;
    for (uint8_t p = 0; p < model->row[i].places; p++)
        if (!identity_equal(&model->row[i].place[p].disk, &place->disk))
            row.place[row.places++] = model->row[i].place[p];
    if (row.places == COPIES_MAX)
        return;
    row.place[row.places++] = *place;
    model_put(model, &row);
}

/* Without the places on a disk, or (slot not UINT32_MAX) without one. */
static void model_leave(struct model *model, uint32_t i, const struct identity *disk, uint32_t slot)
{
    struct segment_row *row = &model->row[i];
    uint8_t kept = 0, before = row->places;
    for (uint8_t p = 0; p < row->places; p++)
        if (!identity_equal(&row->place[p].disk, disk) ||
            (slot != UINT32_MAX && row->place[p].slot != slot))
            row->place[kept++] = row->place[p];
    row->places = kept;
    if (before > 0 && kept == 0)
        model_drop(model, i);
}

/* Changes one place of a known segment, at times one of a disk, in the catalog and in the model. */
static void change_a_place(struct catalog *catalog, struct model *model)
{
    uint32_t i = (uint32_t)random_below(model->rows);
    struct identity unknown = identity_of(1000000);
    struct segment_row row = model->row[i];
    struct segment_place place = {.disk = identity_of(100 + random_below(COPIES_MAX + 2)),
                                  .slot = (uint32_t)random_below(1500)};
    switch (random_below(4)) {
    case 0:
        if (row.places > 0)
            place = row.place[random_below(row.places)];
        catalog_drop_place(catalog, &row.segment, &place);
        model_leave(model, i, &place.disk, place.slot);
        break;
    case 1: /* of another revision, or unknown: nothing happens */
        catalog_add_place(catalog, &row.segment, row.revision + 1, &place);
        catalog_add_place(catalog, &unknown, row.revision, &place);
        catalog_drop_place(catalog, &unknown, &place);
        break;
    default:
        catalog_add_place(catalog, &row.segment, row.revision, &place);
        model_add(model, i, &place);
    }
    if (random_below(200) == 0) {
        catalog_drop_places(catalog, &place.disk);
        for (uint32_t r = model->rows; r-- > 0;)
            model_leave(model, r, &place.disk, UINT32_MAX);
    }
}

static void test_random_changes(void **state)
{
    struct model *model = calloc(1, sizeof *model);
    struct catalog *catalog = body_open(state);
    seed = 4711;
    for (int round = 0; round < 12; round++) {
        for (int change = 0; change < 400; change++) {
            struct segment_row row = random_row();
            if (random_below(10) == 0 && model->rows > 0) {
                uint32_t i = (uint32_t)random_below(model->rows);
                catalog_drop_segment(catalog, &model->row[i].segment);
                model_drop(model, i);
            } else if (random_below(4) == 0 && model->rows > 0) {
                change_a_place(catalog, model);
            } else {
                catalog_put_segment(catalog, &row);
                model_put(model, &row);
            }
        }
        settle(catalog);
        check_find(catalog, model, &ring_a, INT64_MIN, INT64_MAX);
        check_find(catalog, model, &ring_b, INT64_MIN, INT64_MAX);
        for (int query = 0; query < 60; query++)
            check_find(catalog, model, &ring_a, random_time(), random_time());
        check_places(catalog, model, &ring_a);
        check_places(catalog, model, &ring_b);
        check_summary(catalog, model, &ring_a);
        check_summary(catalog, model, &ring_b);
    }
    body_close(state, &catalog);
    free(model);
}

/* ---- both bodies: dropping changes --------------------------------------------------------------
 */

static void test_what_is_dropped_while_posting_anew_is_not_forgotten(void **state)
{
    struct catalog *catalog = catalog_memory_new();
    struct segment_row row = plain_row(1);
    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        catalog_put_segment(catalog, &row);
    assert_false(catalog_stale(catalog));
    catalog_put_segment(catalog, &row); /* one too many */
    assert_true(catalog_stale(catalog));
    catalog_fresh(catalog); /* is dropped itself */
    assert_true(catalog_stale(catalog));

    catalog_memory_catch_up(catalog,
                            2); /* room for two: the keeper begins to post everything anew ... */
    catalog_put_segment(catalog, &row);
    catalog_put_segment(catalog, &row);
    catalog_put_segment(catalog, &row);  /* ... and loses this one */
    assert_true(catalog_stale(catalog)); /* somebody else asks: must not hide it */
    catalog_memory_catch_up(catalog, UINT32_MAX);
    catalog_fresh(catalog);
    assert_true(catalog_stale(catalog));
    catalog_put_segment(catalog, &row); /* the second time all goes well */
    catalog_fresh(catalog);
    assert_false(catalog_stale(catalog));
    catalog_close(&catalog);
}

static void test_the_memory_is_behind_or_loses_the_last_ones(void **state)
{
    struct catalog *catalog = catalog_memory_new();
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        struct segment_row row = plain_row(i);
        catalog_put_segment(catalog, &row);
    }
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 0);
    catalog_memory_catch_up(catalog, 4);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 4);
    catalog_memory_crash(catalog);
    catalog_memory_catch_up(catalog, UINT32_MAX);
    assert_int_equal(find_count(catalog, &ring_a, INT64_MIN, INT64_MAX), 4);
    catalog_close(&catalog);
}

/* Records of many lengths through many laps of the queue. */
static void test_the_queue_keeps_order_over_its_end(void **state)
{
    struct catalog *catalog = catalog_memory_new();
    (void)state;
    char *path = malloc(5001);
    memset(path, 'p', 5000);
    path[5000] = '\0';
    uint64_t number = 0;
    seed = 99;
    for (int lap = 0; lap < 400; lap++) {
        for (uint64_t i = random_below(400); i > 0; i--) {
            struct segment_row row = plain_row(7); /* always the same one: the last must win */
            row.places = (uint8_t)random_below(COPIES_MAX + 1);
            for (uint8_t p = 0; p < row.places; p++)
                row.place[p] = (struct segment_place){identity_of(p), 1};
            row.packets = ++number;
            catalog_put_segment(catalog, &row);
            catalog_put_disk(catalog, &ring_a, &ring_b, path + random_below(5000), 1, 1,
                             DISK_ACTIVE);
        }
        catalog_memory_catch_up(catalog, (uint32_t)random_below(1000));
    }
    assert_false(catalog_stale(catalog));
    catalog_memory_catch_up(catalog, UINT32_MAX);
    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.row[0].packets, number);
    forget(&found);
    free(path);
    catalog_close(&catalog);
}

/* ---- catalog.db: opening ------------------------------------------------------------------------
 */

static void fill(struct catalog *catalog, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        struct segment_row row = plain_row(i);
        catalog_put_segment(catalog, &row);
    }
}

/* Whether the catalog holds exactly the plain rows below some number; returns it. */
static uint64_t assert_prefix(struct catalog *catalog)
{
    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    uint64_t count = found.count;
    for (uint32_t i = 0; i < found.count; i++) {
        struct segment_row row = plain_row(i);
        assert_true(row_equal(&found.row[i], &row));
    }
    forget(&found);
    return count;
}

static void test_what_was_written_is_there_again(void **state)
{
    bool fresh;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    assert_true(fresh);
    catalog_put_ring(catalog, &ring_a, "a", 2, UINT64_MAX);
    catalog_put_disk(catalog, &ring_a, &ring_b, "/dev/x", UINT64_MAX, UINT32_MAX, DISK_ACTIVE);
    fill(catalog, 0, 5000);
    catalog_fresh(catalog);
    catalog_close(&catalog); /* no barrier: closing writes what is queued */

    catalog = open_catalog(&fresh);
    assert_false(fresh);
    assert_false(catalog_stale(catalog));
    assert_int_equal(assert_prefix(catalog), 5000);
    catalog_close(&catalog);
    remove_directory();
}

static void test_left_stale_is_begun_anew(void **state)
{
    bool fresh;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    fill(catalog, 0, 10);
    catalog_close(&catalog); /* without catalog_fresh(): nobody says that this is all */
    catalog = open_catalog(&fresh);
    assert_true(fresh);
    assert_int_equal(assert_prefix(catalog), 0);
    fill(catalog, 0, 10);
    catalog_fresh(catalog);
    catalog_close(&catalog);

    catalog = open_catalog(&fresh);
    assert_false(fresh);
    catalog_clear_ring(catalog, &ring_a); /* a rebuild that never ends */
    fill(catalog, 0, 3);
    catalog_close(&catalog);
    catalog = open_catalog(&fresh);
    assert_true(fresh);
    catalog_close(&catalog);
    assert_int_equal(each_file("catalog.db.damaged", NULL), 0); /* it was not damaged */
    remove_directory();
}

static void test_files_are_for_the_group(void **state)
{
    bool fresh;
    static const char *const name[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    (void)state;
    make_directory();
    mode_t before = umask(0077);
    struct catalog *catalog = open_catalog(&fresh);
    fill(catalog, 0, 10);
    settle(catalog);
    catalog_close(&catalog);
    umask(before);
    for (size_t i = 0; i < COUNT(name); i++) {
        struct stat status;
        assert_int_equal(stat(file_path(name[i]), &status), 0); /* they persist */
        assert_int_equal(status.st_mode & 0777, 0640);
    }
    remove_directory();
}

static void run_sql(const char *name, const char *sql)
{
    sqlite3 *database = NULL;
    assert_int_equal(sqlite3_open(file_path(name), &database), SQLITE_OK);
    assert_int_equal(sqlite3_exec(database, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(database);
}

static void make_garbage(void)
{
    uint8_t bytes[10000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)random_u64();
    write_file("catalog.db", bytes, sizeof bytes);
}

static void make_short(void)
{
    write_file("catalog.db", "SQLite format 3", 16);
}

static void make_empty(void)
{
    write_file("catalog.db", "", 0);
}

static void make_foreign(void)
{
    run_sql("catalog.db", "CREATE TABLE precious (x); INSERT INTO precious VALUES (1)");
}

static void make_rows(uint64_t rows)
{
    bool fresh;
    struct catalog *catalog = open_catalog(&fresh);
    fill(catalog, 0, rows);
    catalog_fresh(catalog);
    catalog_close(&catalog);
}

static void make_good(void)
{
    make_rows(3000);
}

static void patch(const char *name, off_t offset, const void *bytes, size_t count)
{
    int fd = open(file_path(name), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, offset), (ssize_t)count);
    close(fd);
}

static void make_newer(void)
{
    make_good();
    patch("catalog.db", 60, "\0\0\0\3", 4);
}

/* It is derived: no steps lead from an older one, the disks are read. */
static void make_older(void)
{
    make_good();
    patch("catalog.db", 60, "\0\0\0\1", 4);
}

static void make_truncated(void)
{
    make_good();
    assert_int_equal(truncate(file_path("catalog.db"), 5 * 4096 + 77), 0);
}

static void make_other_tables(void)
{
    make_good();
    run_sql("catalog.db", "DROP INDEX segment_time");
}

static void make_a_directory(void)
{
    assert_int_equal(mkdir(file_path("catalog.db"), 0700), 0);
}

static void (*const unusable[])(void) = {make_garbage,      make_short,      make_empty,
                                         make_foreign,      make_newer,      make_older,     make_truncated,
                                         make_other_tables, make_a_directory};

static void test_unusable_files_are_moved_aside(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(unusable); i++) {
        bool fresh;
        struct stat status;
        size_t before_bytes = 0;
        size_t after_bytes = 0;
        uint8_t *before = NULL;
        make_directory();
        unusable[i]();
        bool regular = stat(file_path("catalog.db"), &status) == 0 && S_ISREG(status.st_mode);
        if (regular)
            before = read_file("catalog.db", &before_bytes);
        struct catalog *catalog = open_catalog(&fresh);
        assert_true(fresh);
        assert_int_equal(assert_prefix(catalog), 0);
        fill(catalog, 0, 20);
        catalog_fresh(catalog);
        settle(catalog);
        assert_int_equal(assert_prefix(catalog), 20);
        catalog_close(&catalog);
        catalog = open_catalog(&fresh);
        assert_false(fresh);
        catalog_close(&catalog);
        if (regular) { /* P9: what was there is there still, under another name */
            uint8_t *after = read_file("catalog.db.damaged-1", &after_bytes);
            assert_int_equal(after_bytes, before_bytes);
            assert_memory_equal(after, before, before_bytes);
            free(after);
        }
        free(before);
        remove_directory();
    }
}

static void test_moved_aside_again_and_again(void **state)
{
    bool fresh;
    (void)state;
    make_directory();
    for (int i = 0; i < 12; i++) {
        make_other_tables();
        struct catalog *catalog = open_catalog(&fresh);
        assert_true(fresh);
        catalog_close(&catalog);
    }
    assert_int_equal(each_file("catalog.db.damaged", NULL), 8);
    each_file("catalog.db-", remove_file);
    unlink(file_path("catalog.db"));
    make_foreign();
    struct catalog *catalog = open_catalog(&fresh);
    catalog_close(&catalog);
    assert_int_equal(access(file_path("catalog.db.damaged-9"), F_OK), 0); /* not ours to delete */
    remove_directory();
}

/* Somebody deletes catalog.db but not its WAL: the old changes must not come into the new file. */
static void test_a_wal_left_behind(void **state)
{
    bool fresh;
    size_t bytes;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    fill(catalog, 0, 100);
    catalog_fresh(catalog);
    settle(catalog);
    uint8_t *wal = read_file("catalog.db-wal", &bytes);
    assert_true(bytes > 0);
    catalog_close(&catalog);
    unlink(file_path("catalog.db"));
    write_file("catalog.db-wal", wal, bytes);
    free(wal);
    catalog = open_catalog(&fresh);
    assert_true(fresh);
    assert_int_equal(assert_prefix(catalog), 0);
    catalog_close(&catalog);
    remove_directory();
}

static void test_no_directory(void **state)
{
    struct catalog *catalog;
    struct failure failure = {0};
    bool fresh;
    (void)state;
    make_directory();
    assert_int_equal(catalog_open(file_path("missing"), &catalog, &fresh, &failure), ERR_NOT_FOUND);
    assert_null(catalog);
    assert_non_null(strstr(failure.text, "missing"));
    write_file("file", "x", 1);
    assert_int_equal(catalog_open(file_path("file"), &catalog, &fresh, NULL), ERR_INVALID);
    catalog_close(&catalog); /* null is fine */
    remove_directory();
}

/* ---- catalog.db: damage -------------------------------------------------------------------------
 */

/* Queries of every kind; a code or 0. What they answer with 0 must be right. */
static int ask_everything(struct catalog *catalog, uint64_t rows)
{
    struct found found = {0};
    struct catalog_summary summary;
    struct seen seen;
    int code = catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, keep_row, &found);
    if (code == 0 && !catalog_stale(catalog)) {
        assert_int_equal(found.count, rows);
        for (uint32_t i = 0; i < found.count; i++) {
            struct segment_row row = plain_row(i);
            assert_true(row_equal(&found.row[i], &row));
        }
    }
    forget(&found);
    for (int64_t at = 0; code == 0 && at < (int64_t)rows; at += 97) {
        code = catalog_find(catalog, &ring_a, at * 1000, at * 1000 + 1, keep_row, &found);
        if (code == 0 && !catalog_stale(catalog)) {
            assert_int_equal(found.count, 1);
            assert_int_equal(found.row[0].position, at);
        }
        forget(&found);
    }
    if (code == 0)
        code = catalog_places(catalog, &ring_a, keep_place, &found);
    if (code == 0 && !catalog_stale(catalog))
        assert_int_equal(found.count, rows);
    forget(&found);
    if (code == 0)
        code = catalog_summary(catalog, &ring_a, &summary);
    if (code == 0 && !catalog_stale(catalog))
        assert_int_equal(summary.packets, rows * 10);
    if (code == 0)
        code = catalog_interfaces(catalog, &ring_a, keep_interface, &seen);
    return code;
}

/* Posts everything anew until that was enough. An attempt that fails may yet find the file damaged.
 */
static void heal(struct catalog *catalog, uint64_t rows)
{
    for (int attempt = 0; catalog_barrier(catalog) != 0 || catalog_stale(catalog); attempt++) {
        assert_true(attempt < 20);
        if (!catalog_stale(catalog))
            continue;
        catalog_clear_ring(catalog, &ring_a);
        fill(catalog, 0, rows);
        catalog_fresh(catalog);
    }
}

/* Damages a copy of a file in one of the ways in which disks and people do. Returns the number of its bytes, which may be fewer. */
static size_t damage(uint8_t *bytes, size_t count)
{
    size_t at = random_below(count), length = 1 + random_below(600);
    if (random_below(3) == 0) /* the heads of pages are what is looked at first */
        at = at / 4096 * 4096 + random_below(100);
    length = length < count - at ? length : count - at;
    switch (random_below(9)) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << random_below(8));
        return count;
    case 1:
        for (uint64_t i = 1 + random_below(20); i > 0; i--)
            bytes[random_below(count)] ^= (uint8_t)(1u << random_below(8));
        return count;
    case 2:
        memset(bytes + at, 0, length);
        return count;
    case 3:
        memset(bytes + at, 0xff, length);
        return count;
    case 4:
        for (size_t i = 0; i < length; i++)
            bytes[at + i] = (uint8_t)random_u64();
        return count;
    case 5: /* pages that were never written */
        at = at / 4096 * 4096;
        length = 4096 * (1 + random_below(4));
        memset(bytes + at, 0, length < count - at ? length : count - at);
        return count;
    case 6: /* a page that was written to the place of another one */
        memmove(bytes + at / 4096 * 4096, bytes + random_below(count / 4096) * 4096, 4096);
        return count;
    case 7: /* the end of a page, with its checksum: it looked as if another program had written it, and was believed */
        at = at / 4096 * 4096 + 4096;
        memset(bytes + at - length, 0, at <= count ? length : 0);
        return count;
    default: /* the end is gone */
        return at;
    }
}

static void test_damaged_files(void **state)
{
    enum { rows = 1500 };
    bool fresh;
    size_t bytes;
    unsigned long noticed = 0, changed = 0;
    (void)state;
    make_directory();
    make_rows(rows);
    uint8_t *good = read_file("catalog.db", &bytes), *bad = malloc(bytes);
    assert_non_null(bad);
    assert_int_equal(bytes % 4096, 0);
    for (unsigned long i = 0; i < damages; i++) {
        seed = 815 + (damage_at = damage_seed + i);
        memcpy(bad, good, bytes);
        size_t left = damage(bad, bytes);
        changed += left < bytes || memcmp(bad, good, bytes) != 0;
        each_file("catalog.db", remove_file);
        write_file("catalog.db", bad, left);

        struct catalog *catalog = open_catalog(&fresh);
        int code = fresh ? 0 : ask_everything(catalog, rows);
        if (code != 0 && code != ERR_CORRUPT)
            fail_msg("damage %lu: %d", i, code);
        struct segment_row row = plain_row(rows / 2);
        catalog_put_segment(catalog, &row); /* as it is there already */
        catalog_barrier(catalog);
        noticed += catalog_stale(catalog);
        heal(catalog, rows);
        assert_int_equal(ask_everything(catalog, rows), 0);
        catalog_close(&catalog);
        catalog = open_catalog(&fresh);
        assert_false(fresh);
        assert_int_equal(ask_everything(catalog, rows), 0);
        catalog_close(&catalog);
    }
    print_message("%lu damages, of which %lu changed something; %lu were noticed\n", damages, changed, noticed);
    /* Not all need be: a page that no query read may be among them. But an answer is never wrong.
     */
    assert_true(noticed > changed / 2);
    free(good);
    free(bad);
    remove_directory();
}

/* Changes that only the WAL has: damage there costs the last ones, and never more than that. */
static void test_a_damaged_wal(void **state)
{
    bool fresh;
    size_t bytes;
    size_t wal_bytes;
    unsigned long shorter = 0;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    catalog_fresh(catalog);
    settle(catalog);
    for (uint64_t i = 0; i < 30; i++) {
        fill(catalog, i * 10, i * 10 + 10);
        settle(catalog);
    }
    uint8_t *good = read_file("catalog.db", &bytes);
    uint8_t *wal = read_file("catalog.db-wal", &wal_bytes), *bad = malloc(wal_bytes);
    assert_non_null(bad);
    catalog_close(&catalog);
    for (unsigned long i = 0; i < damages; i++) {
        seed = 1863 + (damage_at = damage_seed + i);
        each_file("catalog.db", remove_file);
        memcpy(bad, wal, wal_bytes);
        size_t left = damage(bad, wal_bytes);
        write_file("catalog.db", good, bytes);
        write_file("catalog.db-wal", bad, left);
        catalog = open_catalog(&fresh);
        uint64_t count = assert_prefix(catalog);
        if (count > 300 || (!fresh && count % 10 != 0))
            fail_msg("damage %lu: %lu rows", i, (unsigned long)count);
        shorter += count < 300;
        heal(catalog, 300);
        if (!fresh)
            fill(catalog, count, 300);
        settle(catalog);
        assert_int_equal(ask_everything(catalog, 300), 0);
        catalog_close(&catalog);
    }
    print_message("%lu damages, %lu of them cost the last changes\n", damages, shorter);
    assert_true(shorter > damages / 2);
    free(good);
    free(wal);
    free(bad);
    remove_directory();
}

/* The file goes bad under an open catalog: noticed, moved aside, begun anew, filled again. */
static void test_damage_at_run_time(void **state)
{
    bool fresh;
    size_t bytes;
    (void)state;
    make_directory();
    make_good();
    struct catalog *catalog = open_catalog(&fresh);
    assert_false(fresh);
    free(read_file("catalog.db", &bytes));
    uint8_t zap[64];
    memset(zap, 0xee, sizeof zap);
    for (size_t page = 4; page < bytes / 4096; page++)
        patch("catalog.db", (off_t)(page * 4096 + 1000), zap, sizeof zap);
    assert_int_equal(ask_everything(catalog, 3000), ERR_CORRUPT);
    for (int i = 0; i < 1000 && access(file_path("catalog.db.damaged-1"), F_OK) != 0; i++)
        usleep(10000);
    assert_int_equal(access(file_path("catalog.db.damaged-1"), F_OK), 0);
    catalog_barrier(catalog);
    assert_true(catalog_stale(catalog));
    heal(catalog, 3000);
    assert_int_equal(ask_everything(catalog, 3000), 0);
    catalog_close(&catalog);
    catalog = open_catalog(&fresh);
    assert_false(fresh);
    assert_int_equal(ask_everything(catalog, 3000), 0);
    catalog_close(&catalog);
    remove_directory();
}

/* ---- catalog.db: failing calls ------------------------------------------------------------------
 */

static const struct {
    unsigned operations;
    int result;
} fault_table[] = {
    {FAULTY_WRITE, SQLITE_FULL},
    {FAULTY_WRITE, SQLITE_IOERR_WRITE},
    {FAULTY_SYNC, SQLITE_IOERR_FSYNC},
    {FAULTY_READ, SQLITE_IOERR_READ},
    {FAULTY_READ, SQLITE_IOERR_DATA},
    {FAULTY_READ, SQLITE_CORRUPT},
    {FAULTY_OPEN, SQLITE_CANTOPEN},
    {FAULTY_TRUNCATE, SQLITE_IOERR_TRUNCATE},
    {FAULTY_READ | FAULTY_WRITE | FAULTY_SYNC, SQLITE_NOMEM},
};

/* Fails the 1st call, the 2nd, ... (later every 7th) until nothing fails any more. Afterwards
 * everything is as if nothing had been. */
static void test_each_call_fails_once(void **state)
{
    (void)state;
    for (size_t fault = 0; fault < COUNT(fault_table); fault++) {
        uint32_t struck = 1;
        for (uint32_t after = 0; struck > 0; after += after < 60 && !SANITIZED ? 1 : 7) {
            struct catalog *catalog = NULL;
            bool fresh;
            make_directory();
            faulty_vfs_arm(fault_table[fault].operations, after, fault_table[fault].result, true);
            int code = catalog_open(directory, &catalog, &fresh, NULL);
            if (code != 0) { /* nothing is open, and the next attempt works */
                assert_null(catalog);
                catalog = open_catalog(&fresh);
            }
            for (uint64_t i = 0; i < 40; i++) {
                fill(catalog, i * 10, i * 10 + 10);
                if (i % 10 == 0)
                    catalog_barrier(catalog);
            }
            if (fresh)
                catalog_fresh(catalog);
            catalog_barrier(catalog);
            struct found found = {0};
            catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, keep_row, &found);
            forget(&found);
            struck = faulty_vfs_disarm();
            catalog_barrier(catalog);
            heal(catalog, 400);
            assert_int_equal(ask_everything(catalog, 400), 0);
            catalog_close(&catalog);
            catalog = open_catalog(&fresh);
            assert_int_equal(fresh ? 0 : assert_prefix(catalog), fresh ? 0 : 400);
            catalog_close(&catalog);
            remove_directory();
        }
    }
}

/* Nothing can be written for a while: recording goes on, the catalog catches up or says that it is
 * stale. */
static void test_a_full_disk_for_a_while(void **state)
{
    bool fresh;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    catalog_fresh(catalog);
    settle(catalog);
    faulty_vfs_arm(FAULTY_WRITE, 0, SQLITE_FULL, false);
    fill(catalog, 0, 1000);
    assert_int_equal(catalog_barrier(catalog), ERR_NO_SPACE);
    assert_int_equal(assert_prefix(catalog), 0); /* queries go on */
    assert_false(catalog_stale(catalog));        /* nothing is lost yet */
    faulty_vfs_disarm();
    settle(catalog);
    assert_int_equal(assert_prefix(catalog), 1000);

    faulty_vfs_arm(FAULTY_WRITE, 0, SQLITE_FULL, false);
    fill(catalog, 1000, 70000); /* more than the queue holds */
    assert_true(catalog_stale(catalog));
    assert_int_equal(catalog_barrier(catalog), ERR_NO_SPACE);
    faulty_vfs_disarm();
    settle(catalog);
    assert_true(catalog_stale(catalog));
    catalog_close(&catalog);
    catalog = open_catalog(&fresh);
    assert_true(fresh); /* the next start knows that something is missing */
    catalog_close(&catalog);
    remove_directory();
}

/* An error that does not go away: the file is given up, and closing does not wait for it. */
static void test_closing_while_nothing_can_be_written(void **state)
{
    bool fresh;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    catalog_fresh(catalog);
    settle(catalog);
    faulty_vfs_arm(FAULTY_WRITE | FAULTY_SYNC, 0, SQLITE_IOERR, false);
    fill(catalog, 0, 1000);
    for (int i = 0; i < 8; i++)
        assert_int_not_equal(catalog_barrier(catalog), 0);
    assert_true(catalog_stale(catalog)); /* after five I/O errors in a row */
    catalog_close(&catalog);
    faulty_vfs_disarm();
    catalog = open_catalog(&fresh);
    assert_true(fresh);
    catalog_close(&catalog);
    remove_directory();
}

static void test_busy(void **state)
{
    bool fresh;
    sqlite3 *other = NULL;
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    catalog_fresh(catalog);
    settle(catalog);
    assert_int_equal(sqlite3_open(file_path("catalog.db"), &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    fill(catalog, 0, 100);
    assert_int_equal(catalog_barrier(catalog), ERR_BUSY);
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    settle(catalog);
    assert_int_equal(assert_prefix(catalog), 100);
    assert_false(catalog_stale(catalog));
    catalog_close(&catalog);
    remove_directory();
}

/* ---- catalog.db: directories that cannot be written ---------------------------------------------
 */

/* Runs `child` in a process of its own; its exit code. */
static int run_child(int (*child)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(child());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int open_without_permission(void)
{
    struct catalog *catalog;
    struct failure failure;
    bool fresh;
    if (geteuid() == 0 && (setegid(65534) != 0 || seteuid(65534) != 0))
        return 77;
    int code = catalog_open(directory, &catalog, &fresh, &failure);
    return code == ERR_PERMISSION && strstr(failure.text, "catalog.db") ? 0 : 1;
}

static void test_a_read_only_directory(void **state)
{
    (void)state;
    make_directory();
    assert_int_equal(chmod(directory, 0555), 0);
    assert_int_equal(run_child(open_without_permission), 0);
    assert_int_equal(each_file("", NULL), 0);
    assert_int_equal(chmod(directory, 0755), 0);
    make_good();
    assert_int_equal(chmod(directory, 0555), 0);
    assert_int_equal(run_child(open_without_permission), 0);
    assert_int_equal(each_file("catalog.db.damaged", NULL), 0); /* it is not damaged */
    assert_int_equal(chmod(directory, 0755), 0);
    remove_directory();
}

/* On a small file system of its own. 77: this machine does not let us make one. */
static int fill_a_small_file_system(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("small", directory, "tmpfs", 0, "size=700k") != 0)
        return 77;
    bool fresh;
    struct catalog *catalog = NULL;
    if (catalog_open(directory, &catalog, &fresh, NULL) != 0)
        return 1;
    catalog_fresh(catalog);
    int code = 0;
    uint64_t posted = 0;
    while (code == 0 && posted < 100000) {
        fill(catalog, posted, posted + 200);
        posted += 200;
        code = catalog_barrier(catalog);
    }
    if (code != ERR_NO_SPACE)
        return 2;
    struct found found = {0};
    if (catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, keep_row, &found) != 0)
        return 3;
    uint32_t before = found.count;
    forget(&found);
    if (mount("small", directory, "tmpfs", MS_REMOUNT, "size=50m") != 0)
        return 77;
    if (catalog_barrier(catalog) != 0)
        return 4;
    if (catalog_find(catalog, &ring_a, INT64_MIN, INT64_MAX, keep_row, &found) != 0)
        return 5;
    bool whole = found.count == posted && before < posted;
    forget(&found);
    catalog_close(&catalog);
    return whole ? 0 : 6;
}

static void test_a_full_file_system(void **state)
{
    (void)state;
    make_directory();
    int code = run_child(fill_a_small_file_system);
    remove_directory();
    if (code == 77)
        skip();
    assert_int_equal(code, 0);
}

/* ---- catalog.db: kill -9 ------------------------------------------------------------------------
 */

static int told; /* the pipe's writing end */

static int post_for_ever(void)
{
    bool fresh;
    struct catalog *catalog = open_catalog(&fresh);
    catalog_fresh(catalog);
    for (uint64_t i = 0;; i += 7) {
        fill(catalog, i, i + 7);
        uint64_t written = i + 7;
        if (i % 5 == 0 && (catalog_barrier(catalog) != 0 ||
                           write(told, &written, sizeof written) != sizeof written))
            return 1;
    }
}

static void test_killed_in_mid_write(void **state)
{
    (void)state;
    seed = 3003;
    for (int round = 0; round < 15; round++) {
        int ends[2];
        bool fresh;
        uint64_t written = 0;
        uint64_t next;
        make_directory();
        assert_int_equal(pipe(ends), 0);
        told = ends[1];
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            _exit(post_for_ever());
        close(ends[1]);
        for (uint64_t i = 1 + random_below(20); i > 0; i--)
            assert_int_equal(read(ends[0], &written, sizeof written), sizeof written);
        usleep((useconds_t)random_below(20000));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(ends[0], &next, sizeof next) == sizeof next)
            written = next;
        close(ends[0]);
        struct catalog *catalog = open_catalog(&fresh);
        assert_false(fresh);
        assert_true(assert_prefix(catalog) >= written);
        catalog_close(&catalog);
        assert_int_equal(each_file("catalog.db.damaged", NULL), 0);
        remove_directory();
    }
}

/* ---- threads ------------------------------------------------------------------------------------
 */

static struct catalog *shared;
static _Atomic bool posting;

static void *post_rows(void *context)
{
    uint64_t thread = (uint64_t)(uintptr_t)context;
    for (uint64_t i = 0; i < 4000; i++) {
        struct segment_row row = plain_row(thread * 100000 + i);
        row.stream = (uint32_t)thread;
        catalog_put_segment(shared, &row);
        if (i % 1000 == 999)
            assert_int_equal(catalog_barrier(shared), 0);
    }
    return NULL;
}

static void *ask_questions(void *context)
{
    (void)context;
    while (posting) {
        struct catalog_summary summary;
        struct found found = {0};
        assert_int_equal(catalog_find(shared, &ring_a, 0, INT64_MAX, keep_row, &found), 0);
        for (uint32_t i = 1; i < found.count; i++)
            assert_true(order_rows(&found.row[i - 1], &found.row[i]) < 0);
        forget(&found);
        assert_int_equal(catalog_summary(shared, &ring_a, &summary), 0);
        assert_int_equal(summary.packets, summary.segments * 10);
        catalog_stale(shared);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t poster[3];
    pthread_t asker[2];
    shared = body_open(state);
    posting = true;
    for (uintptr_t i = 0; i < COUNT(poster); i++)
        assert_int_equal(pthread_create(&poster[i], NULL, post_rows, (void *)(i + 1)), 0);
    for (size_t i = 0; i < COUNT(asker); i++)
        assert_int_equal(pthread_create(&asker[i], NULL, ask_questions, NULL), 0);
    for (size_t i = 0; i < COUNT(poster); i++)
        pthread_join(poster[i], NULL);
    posting = false;
    for (size_t i = 0; i < COUNT(asker); i++)
        pthread_join(asker[i], NULL);
    settle(shared);
    assert_int_equal(find_count(shared, &ring_a, INT64_MIN, INT64_MAX), 12000);
    body_close(state, &shared);
}

/* More segments than a query sorts in memory: the walk. Positions on both sides of 2^63. */
static void test_many_segments(void **state)
{
    bool fresh;
    enum { rows = 40000 };
    (void)state;
    make_directory();
    struct catalog *catalog = open_catalog(&fresh);
    for (uint64_t i = 0; i < rows; i++) {
        struct segment_row row = plain_row(i);
        row.position += (UINT64_C(1) << 63) - rows / 2;
        row.stream = i % 3;
        row.run.byte[1] = (uint8_t)(i % 5);
        if (i % 100 == 50)
            row.last_ns = INT64_MAX;
        catalog_put_segment(catalog, &row);
    }
    settle(catalog);
    struct found found = find(catalog, &ring_a, INT64_MIN, INT64_MAX);
    assert_int_equal(found.count, rows);
    for (uint32_t i = 1; i < found.count; i++)
        assert_true(order_rows(&found.row[i - 1], &found.row[i]) < 0);
    forget(&found);
    found = find(catalog, &ring_a, 10000 * 1000, 35000 * 1000);
    assert_int_equal(found.count, 25000 + 100); /* and those that last for ever */
    for (uint32_t i = 1; i < found.count; i++)
        assert_true(order_rows(&found.row[i - 1], &found.row[i]) < 0);
    forget(&found);
    found.stop_after = 20000;
    assert_int_equal(catalog_find(catalog, &ring_a, 0, INT64_MAX, keep_row, &found), 1234);
    assert_int_equal(found.count, 20000);
    forget(&found);
    catalog_close(&catalog);
    remove_directory();
}

#define BOTH(test)                                            \
    {#test " (memory)", test, NULL, NULL, (void *)"memory"},  \
    {                                                         \
#test " (sqlite)", test, NULL, NULL, (void *)"sqlite" \
    }

int main(int argc, char **argv)
{
    bool campaign = false;
    const char *only = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--damages") == 0) {
            damages = strtoul(argv[i + 1], NULL, 10);
            campaign = true;
        } else if (strcmp(argv[i], "--seed") == 0)
            damage_seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
    }
    const struct CMUnitTest of_damage[] = {
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_a_damaged_wal),
    };
    const struct CMUnitTest tests[] = {
        BOTH(test_every_field_survives),
        BOTH(test_an_unknown_ring_is_empty),
        BOTH(test_times),
        BOTH(test_open_and_holed_segments_are_always_named),
        BOTH(test_a_place_has_one_segment),
        BOTH(test_a_place_named_twice),
        BOTH(test_clearing_a_ring),
        BOTH(test_interfaces),
        BOTH(test_each_may_stop),
        BOTH(test_each_may_call_the_catalog),
        BOTH(test_random_changes),
        BOTH(test_threads),
        cmocka_unit_test(test_what_is_dropped_while_posting_anew_is_not_forgotten),
        cmocka_unit_test(test_the_memory_is_behind_or_loses_the_last_ones),
        cmocka_unit_test(test_the_queue_keeps_order_over_its_end),
        cmocka_unit_test(test_what_was_written_is_there_again),
        cmocka_unit_test(test_left_stale_is_begun_anew),
        cmocka_unit_test(test_files_are_for_the_group),
        cmocka_unit_test(test_unusable_files_are_moved_aside),
        cmocka_unit_test(test_moved_aside_again_and_again),
        cmocka_unit_test(test_a_wal_left_behind),
        cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_a_damaged_wal),
        cmocka_unit_test(test_damage_at_run_time),
        cmocka_unit_test(test_each_call_fails_once),
        cmocka_unit_test(test_a_full_disk_for_a_while),
        cmocka_unit_test(test_closing_while_nothing_can_be_written),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_a_read_only_directory),
        cmocka_unit_test(test_a_full_file_system),
        cmocka_unit_test(test_killed_in_mid_write),
        cmocka_unit_test(test_many_segments),
    };
    faulty_vfs_install();
    if (campaign) {
        cmocka_set_test_filter(only);
        int failed = cmocka_run_group_tests(of_damage, NULL, NULL);
        if (failed)
            print_message("the last damage is that of --damages 1 --seed %lu\n", (unsigned long)damage_at);
        return failed;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
