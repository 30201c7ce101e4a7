/*
 * test_state.c - what no disk can rebuild: that it is kept, counted right, and never replaced.
 *
 *     test_state [--damages N] [--seed S]
 *
 * With --damages, only the test that damages the file, N times.
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
#include <unistd.h>

#include "faulty_vfs.h"
#include "state.h"

static uint64_t seed = 1;
static unsigned long damages = 400;
static uint64_t damage_seed;

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

/* ---- files --------------------------------------------------------------------------------------
 */

static char directory[PATH_MAX];

static void make_directory(void)
{
    const char *temporary = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/test_state.XXXXXX", temporary ? temporary : "/tmp");
    assert_non_null(mkdtemp(directory));
}

static const char *file_path(const char *name)
{
    static char path[PATH_MAX + 300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* Returns how many files there were. */
static int remove_files(void)
{
    DIR *listing = opendir(directory);
    struct dirent *entry;
    int count = 0;
    assert_non_null(listing);
    while ((entry = readdir(listing)))
        if (entry->d_name[0] != '.' && ++count)
            unlink(file_path(entry->d_name));
    closedir(listing);
    return count;
}

static void remove_directory(void)
{
    remove_files();
    rmdir(directory);
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

static struct state *open_state(void)
{
    struct state *state = NULL;
    struct failure failure = {0};
    if (state_open(directory, &state, &failure) != 0)
        fail_msg("state_open: %s", failure.text);
    return state;
}

static void reopen(struct state **state)
{
    state_close(state);
    assert_null(*state);
    *state = open_state();
}

static const struct identity ring_a = {{1}};
static const struct identity ring_b = {{2}};
static const struct identity ring_c = {{3}};

static void put_ring(struct state *state, const struct identity *id, const char *name)
{
    struct state_ring ring = {.ring = *id, .copies = 1, .created_ns = 5};
    snprintf(ring.name, sizeof ring.name, "%s", name);
    assert_int_equal(state_put_ring(state, &ring), 0);
}

/* ---- rings, disks, settings ---------------------------------------------------------------------
 */

struct rings {
    uint32_t count;
    struct state_ring ring[8];
};

static int keep_ring(const struct state_ring *ring, void *context)
{
    struct rings *rings = context;
    rings->ring[rings->count++] = *ring;
    return 0;
}

struct disks {
    uint32_t count;
    struct state_disk disk[16];
};

static int keep_disk(const struct state_disk *disk, void *context)
{
    struct disks *disks = context;
    disks->disk[disks->count++] = *disk;
    return 0;
}

static struct disks disks_of(struct state *state, const struct identity *ring)
{
    struct disks disks = {0};
    assert_int_equal(state_disks(state, ring, keep_disk, &disks), 0);
    return disks;
}

/* "name=value;..." */
static int keep_setting(const char *name, const char *value, void *context)
{
    char *text = context;
    size_t length = strlen(text);
    snprintf(text + length, 1000 - length, "%s=%s;", name, value);
    return 0;
}

static void assert_settings(struct state *state, const struct identity *ring, const char *expected)
{
    char text[1000] = "";
    assert_int_equal(state_settings(state, ring, keep_setting, text), 0);
    assert_string_equal(text, expected);
}

static void test_rings(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    struct state_ring ring = {.ring = ring_a,
                              .name = "zeta",
                              .slot_bytes = UINT64_MAX,
                              .copies = UINT8_MAX,
                              .created_ns = INT64_MIN};
    assert_int_equal(state_put_ring(state, &ring), 0);
    put_ring(state, &ring_b, "alpha");
    struct state_ring other = {.ring = ring_c, .name = "zeta"};
    assert_int_equal(state_put_ring(state, &other), ERR_EXISTS);
    other.ring = (struct identity){{0}};
    assert_int_equal(state_put_ring(state, &other), ERR_INVALID);
    reopen(&state);
    struct rings rings = {0};
    assert_int_equal(state_rings(state, keep_ring, &rings), 0);
    assert_int_equal(rings.count, 2);
    assert_string_equal(rings.ring[0].name, "alpha");
    assert_memory_equal(&rings.ring[1].ring, &ring_a, sizeof ring_a);
    assert_true(rings.ring[1].slot_bytes == UINT64_MAX && rings.ring[1].created_ns == INT64_MIN);
    assert_int_equal(rings.ring[1].copies, UINT8_MAX);

    snprintf(ring.name, sizeof ring.name, "omega"); /* a new name for an old ring */
    assert_int_equal(state_put_ring(state, &ring), 0);
    put_ring(state, &ring_c, "zeta");
    memset(&rings, 0, sizeof rings);
    assert_int_equal(state_rings(state, keep_ring, &rings), 0);
    assert_int_equal(rings.count, 3);
    assert_string_equal(rings.ring[1].name, "omega");
    assert_int_equal(state_delete_ring(state, &ring_b), 0);
    assert_int_equal(state_delete_ring(state, &ring_b), ERR_NOT_FOUND);
    state_close(&state);
    state_close(&state); /* null is fine */
    remove_directory();
}

static void test_disk_numbers_are_never_reused(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    put_ring(state, &ring_a, "a");
    put_ring(state, &ring_b, "b");
    struct state_disk disk = {.ring = ring_a, .bytes = UINT64_MAX, .state = UINT8_MAX};
    memset(disk.path, 'p', sizeof disk.path - 1);
    for (uint8_t i = 1; i <= 3; i++) {
        disk.disk.byte[0] = i;
        assert_int_equal(state_put_disk(state, &disk), 0);
    }
    disk.disk.byte[0] = 3;
    assert_int_equal(state_delete_disk(state, &disk.disk), 0);
    assert_int_equal(state_delete_disk(state, &disk.disk), ERR_NOT_FOUND);
    reopen(&state);
    disk.disk.byte[0] = 4;
    assert_int_equal(state_put_disk(state, &disk), 0);
    assert_int_equal(state_put_disk(state, &disk), 0); /* keeps its number */
    struct disks disks = disks_of(state, &ring_a);
    assert_int_equal(disks.count, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(disks.disk[i].number, i < 2 ? i + 1 : 4);
    assert_true(disks.disk[2].bytes == UINT64_MAX && disks.disk[2].state == UINT8_MAX);
    assert_int_equal(strlen(disks.disk[2].path), sizeof disk.path - 1);

    disk.disk.byte[0] = 5;
    disk.number = 2;
    assert_int_equal(state_put_disk(state, &disk), ERR_EXISTS);
    disk.number = 10; /* as adopting a ring may give them */
    assert_int_equal(state_put_disk(state, &disk), 0);
    disk.disk.byte[0] = 6;
    disk.number = 0;
    assert_int_equal(state_put_disk(state, &disk), 0);
    disks = disks_of(state, &ring_a);
    assert_int_equal(disks.disk[disks.count - 1].number, 11);

    disk.ring = ring_b; /* moves to another ring, which counts by itself */
    assert_int_equal(state_put_disk(state, &disk), 0);
    assert_int_equal(disks_of(state, &ring_b).disk[0].number, 1);
    disk.ring = ring_c;
    assert_int_equal(state_put_disk(state, &disk), ERR_NOT_FOUND);

    disk.ring = ring_b;
    disk.disk.byte[0] = 7;
    disk.number = UINT32_MAX;
    assert_int_equal(state_put_disk(state, &disk), 0);
    disk.disk.byte[0] = 8;
    disk.number = 0;
    assert_int_equal(state_put_disk(state, &disk), ERR_TOO_LARGE); /* no number is left */
    assert_int_equal(disks_of(state, &ring_b).count, 2);
    state_close(&state);
    remove_directory();
}

static void test_settings(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    put_ring(state, &ring_a, "a");
    assert_int_equal(state_put_setting(state, NULL, "b", "1"), 0);
    assert_int_equal(state_put_setting(state, NULL, "a", ""), 0);
    assert_int_equal(state_put_setting(state, &ring_a, "b", "2"), 0);
    assert_int_equal(state_put_setting(state, &ring_a, "b", "'; DROP TABLE setting; --"), 0);
    assert_int_equal(state_put_setting(state, &ring_b, "b", "3"), ERR_NOT_FOUND);
    assert_int_equal(state_put_setting(state, &ring_b, "b", NULL), 0);
    reopen(&state);
    assert_settings(state, NULL, "a=;b=1;");
    assert_settings(state, &ring_a, "b='; DROP TABLE setting; --;");
    assert_settings(state, &ring_b, "");
    assert_int_equal(state_put_setting(state, NULL, "a", NULL), 0);
    assert_settings(state, NULL, "b=1;");

    struct state_disk disk = {.disk = {{9}}, .ring = ring_a};
    assert_int_equal(state_put_disk(state, &disk), 0);
    assert_int_equal(state_delete_ring(state, &ring_a), 0); /* with all that is its */
    assert_settings(state, &ring_a, "");
    assert_int_equal(disks_of(state, &ring_a).count, 0);
    assert_settings(state, NULL, "b=1;");
    state_close(&state);
    remove_directory();
}

/* `each` may call the module, and may end the call. */
static int delete_and_stop(const char *name, const char *value, void *context)
{
    (void)value;
    assert_int_equal(state_put_setting(context, NULL, name, NULL), 0);
    return 4321;
}

static void test_each_may_call_and_stop(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    assert_int_equal(state_put_setting(state, NULL, "a", "1"), 0);
    assert_int_equal(state_put_setting(state, NULL, "b", "1"), 0);
    assert_int_equal(state_settings(state, NULL, delete_and_stop, state), 4321);
    assert_settings(state, NULL, "b=1;");
    state_close(&state);
    remove_directory();
}

/* ---- history ------------------------------------------------------------------------------------
 */

struct history {
    uint32_t count;
    uint32_t max;
    struct history_row *row;
};

static int keep_history(const struct history_row *row, void *context)
{
    struct history *history = context;
    if (history->count == history->max) {
        history->max = history->max ? history->max * 2 : 1024;
        history->row = realloc(history->row, history->max * sizeof *history->row);
    }
    history->row[history->count++] = *row;
    return 0;
}

static struct history history_of(struct state *state, const char *interface, int64_t from,
                                 int64_t to)
{
    struct history history = {0};
    assert_int_equal(state_history(state, &ring_a, interface, from, to, keep_history, &history), 0);
    for (uint32_t i = 1; i < history.count; i++)
        assert_true(history.row[i - 1].second <= history.row[i].second);
    return history;
}

static uint32_t history_count(struct state *state, const char *interface, int64_t from, int64_t to)
{
    struct history history = history_of(state, interface, from, to);
    free(history.row);
    return history.count;
}

static struct history_row history_row(const char *interface, int64_t second, uint64_t packets)
{
    struct history_row row = {.ring = ring_a, .second = second};
    snprintf(row.interface, sizeof row.interface, "%s", interface);
    row.change.packets[ACCOUNT_seen] = packets;
    return row;
}

static void put_history(struct state *state, const char *interface, int64_t second,
                        uint64_t packets)
{
    struct history_row row = history_row(interface, second, packets);
    assert_int_equal(state_put_history(state, &row, 1), 0);
}

static void test_history_ranges(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    struct history_row *rows = calloc(2000, sizeof *rows);
    for (int i = 0; i < 2000; i++)
        rows[i] = history_row(i % 2 ? "eth0" : "eth1", 1000 + i / 2, (uint64_t)i);
    assert_int_equal(state_put_history(state, rows, 2000), 0);
    struct history history = history_of(state, NULL, INT64_MIN, INT64_MAX);
    assert_int_equal(history.count, 2000);
    free(history.row);
    history = history_of(state, "eth0", 1100, 1900);
    assert_int_equal(history.count, 800);
    assert_int_equal(history.row[0].second, 1100);   /* from is inclusive */
    assert_int_equal(history.row[799].second, 1899); /* to is exclusive */
    assert_int_equal(history.row[5].seconds, 1);
    assert_string_equal(history.row[5].interface, "eth0");
    free(history.row);
    assert_int_equal(history_count(state, "eth", 0, 5000), 0);
    assert_int_equal(history_count(state, NULL, 1500, 1500), 0);
    assert_int_equal(history_count(state, NULL, 1900, 1100), 0);

    rows[0].second = INT64_MAX; /* all or nothing */
    rows[1].second = 5;
    assert_int_equal(state_put_history(state, rows, 2), ERR_INVALID);
    rows[0].second = INT64_MIN;
    assert_int_equal(state_put_history(state, rows, 2), ERR_INVALID);
    assert_int_equal(history_count(state, NULL, 0, 100), 0);
    assert_int_equal(state_put_history(state, rows, 0), 0);
    free(rows);
    state_close(&state);
    remove_directory();
}

static void test_history_of_one_second_adds_up(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    struct history_row row = history_row("eth0", -77, 0);
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        row.change.packets[line] = (UINT64_C(1) << 63) + (uint64_t)line;
        row.change.bytes[line] = UINT64_MAX - (uint64_t)line;
    }
    row.change.stored_bytes = UINT64_MAX;
    row.change.cut_packets = INT64_MAX;
    assert_int_equal(state_put_history(state, &row, 1), 0);
    struct history_row more = row;
    more.change.packets[ACCOUNT_in_flight] = (uint64_t)-5; /* fewer in flight */
    assert_int_equal(state_put_history(state, &more, 1), 0);
    reopen(&state);
    struct history history = history_of(state, "eth0", -77, -76);
    assert_int_equal(history.count, 1);
    struct account sum = row.change;
    account_add(&sum, &more.change);
    assert_memory_equal(&history.row[0].change, &sum, sizeof sum);
    free(history.row);
    state_close(&state);
    remove_directory();
}

/* What a minute of an interface must be, summed here in the plainest way. */
static struct account sum_rows(const struct history_row *rows, uint32_t count,
                               const char *interface, int64_t minute)
{
    struct account sum = {0};
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(rows[i].interface, interface) == 0 && rows[i].second >= minute &&
            rows[i].second < minute + 60)
            account_add(&sum, &rows[i].change);
    return sum;
}

static void test_trimming_is_exact(void **unused)
{
    enum { rows_max = 3000 };
    (void)unused;
    make_directory();
    struct state *state = open_state();
    struct history_row *rows = calloc(rows_max, sizeof *rows);
    uint32_t count = 0;
    seed = 7;
    for (int64_t now = -5000; now <= 5000; now += 1000) {
        uint32_t begin = count;
        for (int i = 0; i < 250; i++) {
            struct history_row *row = &rows[count++];
            /* Now and then the clock was wrong: far back, into minutes that have been summed up. */
            int64_t second = now - (int64_t)random_below(random_below(10) == 0 ? 6000 : 1000);
            *row = history_row(random_below(2) ? "eth0" : "eth1", second, 0);
            for (int line = 0; line < ACCOUNT_LINES; line++) {
                row->change.packets[line] = random_u64();
                row->change.bytes[line] = random_u64();
            }
            row->change.stored_bytes = random_u64();
            row->change.cut_packets = random_u64();
        }
        assert_int_equal(state_put_history(state, &rows[begin], count - begin), 0);
        assert_int_equal(state_history_trim(state, now, 1500), 0);
        assert_int_equal(state_history_trim(state, now, 1500), 0); /* again changes nothing */
    }
    const int64_t cut = 3480; /* the last whole minute before 5000 - 1500 */
    struct history history = history_of(state, NULL, INT64_MIN, INT64_MAX);
    struct account total = {0};
    for (uint32_t i = 0; i < history.count; i++) {
        const struct history_row *row = &history.row[i];
        account_add(&total, &row->change);
        assert_int_equal(row->seconds, row->second < cut ? 60 : 1);
        if (row->seconds == 1)
            continue;
        assert_int_equal(row->second % 60, 0);
        struct account expected = sum_rows(rows, count, row->interface, row->second);
        assert_memory_equal(&row->change, &expected, sizeof expected);
        for (uint32_t j = 0; j < i; j++)
            assert_false(history.row[j].second == row->second &&
                         strcmp(history.row[j].interface, row->interface) == 0);
    }
    struct account expected = {0};
    for (uint32_t i = 0; i < count; i++)
        account_add(&expected, &rows[i].change);
    assert_memory_equal(&total, &expected, sizeof total);
    free(history.row);
    free(rows);
    state_close(&state);
    remove_directory();
}

static void test_trimming_drops_what_is_old(void **unused)
{
    const int64_t day = 86400;
    (void)unused;
    make_directory();
    struct state *state = open_state();
    put_history(state, "eth0", 0, 1);
    put_history(state, "eth0", 60, 2);
    put_history(state, "eth0", 400 * day + 60, 3);
    assert_int_equal(state_history_trim(state, 400 * day, 3600), 0);
    assert_int_equal(history_count(state, NULL, INT64_MIN, INT64_MAX), 3);
    assert_int_equal(state_history_trim(state, 400 * day + 60, 3600), 0);
    struct history history = history_of(state, NULL, INT64_MIN, INT64_MAX);
    assert_int_equal(history.count, 2);
    assert_int_equal(history.row[0].second, 60);
    free(history.row);

    assert_int_equal(state_history_trim(state, INT64_MAX, 0), ERR_INVALID);
    assert_int_equal(state_history_trim(state, INT64_MIN, 0), ERR_INVALID);
    assert_int_equal(state_history_trim(state, 0, -1), ERR_INVALID);
    assert_int_equal(state_history_trim(state, 0, INT64_MAX), 0); /* keeps all */
    assert_int_equal(history_count(state, NULL, INT64_MIN, INT64_MAX), 2);

    for (int i = 0; i < 1500; i++) { /* names of files that were imported, long ago */
        char name[32];
        snprintf(name, sizeof name, "file%d", i);
        put_history(state, name, 61, 1);
    }
    assert_int_equal(state_history_trim(state, 800 * day, 0), 0);
    assert_int_equal(history_count(state, NULL, INT64_MIN, INT64_MAX), 1);
    state_close(&state);
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open(file_path("state.db"), &database), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(database, "SELECT count(*) FROM history_subject", -1, &statement, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(statement, 0), 1); /* nothing is left of them */
    sqlite3_finalize(statement);
    sqlite3_close(database);
    remove_directory();
}

/* The columns of state.sql are written by hand; they must be the lines of account.def. */
static void test_history_has_every_line_of_the_account(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    state_close(&state);
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open(file_path("state.db"), &database), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(database, "SELECT name FROM pragma_table_info('history')",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    int column = 0;
    while (sqlite3_step(statement) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(statement, 0);
        int line = (column - 3) / 2;
        char expected[64];
        if (column >= 3 && line < ACCOUNT_LINES) {
            snprintf(expected, sizeof expected, "%s_%s", account_name((enum account_line)line),
                     (column - 3) % 2 ? "bytes" : "packets");
            assert_string_equal(name, expected);
        }
        column++;
    }
    assert_int_equal(column, 3 + 2 * ACCOUNT_LINES + 2);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    remove_directory();
}

/* ---- events -------------------------------------------------------------------------------------
 */

static uint64_t put_event(struct state *state, const char *text)
{
    struct event event = {
        .number = 999999, .time_ns = INT64_MIN, .severity = "warning", .kind = "test", .ring = ""};
    snprintf(event.text, sizeof event.text, "%s", text);
    assert_int_equal(state_put_event(state, &event), 0);
    return event.number;
}

struct events {
    uint32_t count;
    uint64_t first;
    uint64_t last;
    struct event event; /* the last one */
};

static int keep_event(const struct event *event, void *context)
{
    struct events *events = context;
    if (events->count++ == 0)
        events->first = event->number;
    else
        assert_true(event->number == events->last + 1);
    events->last = event->number;
    events->event = *event;
    return 0;
}

static struct events events_of(struct state *state, uint64_t after, uint32_t limit)
{
    struct events events = {0};
    assert_int_equal(state_events(state, after, limit, keep_event, &events), 0);
    return events;
}

static void test_events_are_numbered(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    assert_int_equal(events_of(state, 0, UINT32_MAX).count, 0);
    for (uint64_t i = 1; i <= 700; i++)
        assert_int_equal(put_event(state, "first"), i);
    reopen(&state);
    struct event full = {.time_ns = INT64_MAX};
    memset(full.severity, 's', sizeof full.severity); /* not terminated: cut */
    memset(full.kind, 'k', sizeof full.kind);
    memset(full.ring, 'r', sizeof full.ring);
    memset(full.text, 't', sizeof full.text);
    assert_int_equal(state_put_event(state, &full), 0);
    assert_int_equal(full.number, 701);
    struct events events = events_of(state, 0, UINT32_MAX);
    assert_int_equal(events.count, 701);
    assert_int_equal(events.first, 1);
    assert_true(events.event.time_ns == INT64_MAX);
    assert_int_equal(strlen(events.event.severity), sizeof full.severity - 1);
    assert_int_equal(strlen(events.event.kind), sizeof full.kind - 1);
    assert_int_equal(strlen(events.event.ring), sizeof full.ring - 1);
    assert_int_equal(strlen(events.event.text), sizeof full.text - 1);
    events = events_of(state, 100, 300);
    assert_int_equal(events.first, 101);
    assert_int_equal(events.last, 400);
    assert_int_equal(events_of(state, 701, 10).count, 0);
    assert_int_equal(events_of(state, UINT64_MAX, 10).count, 0);
    assert_int_equal(events_of(state, 0, 0).count, 0);
    assert_int_equal(events_of(state, 0, 256).count, 256);
    state_close(&state);
    remove_directory();
}

static void run_sql(const char *sql, const char *vfs)
{
    sqlite3 *database = NULL;
    int keep = 1;
    assert_int_equal(sqlite3_open_v2(file_path("state.db"), &database,
                                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs),
                     SQLITE_OK);
    sqlite3_file_control(database, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
    if (sqlite3_exec(database, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(database));
    sqlite3_close(database);
}

static void test_old_events_go(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    put_event(state, "first");
    run_sql(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100010) "
        "INSERT INTO event (time_ns, severity, kind, ring, text) SELECT i, '', '', '', '' FROM n",
        "tapeloop-pages");
    assert_int_equal(put_event(state, "last"), 100012);
    struct events events = events_of(state, 0, UINT32_MAX);
    assert_int_equal(events.count, EVENTS_MAX);
    assert_int_equal(events.first, 13);
    state_close(&state);
    run_sql("DELETE FROM event", "tapeloop-pages"); /* even then the numbers go on */
    state = open_state();
    assert_int_equal(put_event(state, "next"), 100013);
    state_close(&state);
    remove_directory();
}

/* ---- the audit log ------------------------------------------------------------------------------ */

static struct audit_row put_audit(struct state *state, const char *outcome)
{
    struct audit_row row = {.time_ns = -5, .actor = "eve from 192.0.2.1", .action = "rule.add", .ring = "dmz"};
    snprintf(row.detail, sizeof row.detail, "{\"rule\":\"all : full\"}");
    snprintf(row.outcome, sizeof row.outcome, "%s", outcome);
    assert_int_equal(state_put_audit(state, &row), 0);
    return row;
}

static struct audit_verdict verify_audit(struct state *state, uint64_t number, const uint8_t *hash)
{
    struct audit_verdict verdict;
    assert_int_equal(state_audit_verify(state, number, hash, &verdict), 0);
    return verdict;
}

static int count_audit(const struct audit_row *row, void *context)
{
    uint64_t *last = context;
    assert_true(row->number > *last);
    *last = row->number;
    return 0;
}

static void test_the_audit_log_shows_what_was_done_to_it(void **unused)
{
    /* One of each way to lie. */
    static const struct {
        const char *sql;
        uint64_t bad;
    } lie[] = {
        {"UPDATE audit SET outcome = 'done' WHERE number = 40", 40},
        {"UPDATE audit SET time_ns = time_ns + 1 WHERE number = 1", 1},
        {"UPDATE audit SET actor = actor || char(0) || 'x' WHERE number = 7", 7},
        {"UPDATE audit SET detail = detail || hex(zeroblob(2000)) WHERE number = 8", 8},
        {"UPDATE audit SET actor = 'eve', action = ' from 192.0.2.1' || action WHERE number = 9", 9},
        {"DELETE FROM audit WHERE number = 50", 50},
        {"DELETE FROM audit WHERE number = 1", 1},
        {"DELETE FROM audit WHERE number > 90", 91},
        {"DELETE FROM audit", 1},
        {"UPDATE audit SET hash = zeroblob(32) WHERE number = 100", 100},
    };
    (void)unused;
    for (size_t i = 0; i < COUNT(lie); i++) {
        make_directory();
        struct state *state = open_state();
        struct audit_verdict verdict = verify_audit(state, 0, NULL);
        assert_true(verdict.rows == 0 && verdict.bad == 0);
        struct audit_row row = {0};
        for (uint64_t number = 1; number <= 100; number++) {
            row = put_audit(state, "not_found: there is no ring \"dmz\"");
            assert_true(row.number == number);
        }
        verdict = verify_audit(state, row.number, row.hash);
        assert_true(verdict.rows == 100 && verdict.bad == 0 && verdict.known);
        assert_memory_equal(verdict.head, row.hash, sizeof row.hash);
        row.hash[31] ^= 1;
        assert_false(verify_audit(state, row.number, row.hash).known);
        uint64_t last = 60;
        assert_int_equal(state_audit(state, 60, 1000, count_audit, &last), 0);
        assert_true(last == 100);
        state_close(&state);
        run_sql(lie[i].sql, "tapeloop-pages");
        state = open_state();
        assert_true(verify_audit(state, 0, NULL).bad == lie[i].bad);
        put_audit(state, "done"); /* what comes later does not hide it */
        assert_true(verify_audit(state, 0, NULL).bad == lie[i].bad);
        state_close(&state);
        remove_directory();
    }
}

/* ---- the file -----------------------------------------------------------------------------------
 */

static void make_good(void)
{
    struct state *state = open_state();
    put_ring(state, &ring_a, "a");
    assert_int_equal(state_put_setting(state, NULL, "key", "value"), 0);
    for (int i = 0; i < 100; i++)
        put_event(state, "something happened that takes a sentence to tell, as events do");
    struct history_row *rows = calloc(2000, sizeof *rows);
    for (int i = 0; i < 2000; i++)
        rows[i] = history_row("eth0", i, random_u64());
    assert_int_equal(state_put_history(state, rows, 2000), 0);
    free(rows);
    state_close(&state);
}

static void test_the_directory_is_made(void **unused)
{
    struct stat status;
    struct state *state = NULL;
    struct failure failure;
    static const char *const name[] = {"state.db", "state.db-wal", "state.db-shm"};
    (void)unused;
    make_directory();
    remove_directory();
    mode_t before = umask(0022);
    state = open_state();
    put_event(state, "x");
    umask(before);
    assert_int_equal(stat(directory, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0750);
    for (size_t i = 0; i < COUNT(name); i++) {
        assert_int_equal(stat(file_path(name[i]), &status), 0);
        assert_int_equal(status.st_mode & 0777, 0640);
    }
    state_close(&state);
    char deep[PATH_MAX + 300];
    snprintf(deep, sizeof deep, "%s/not/there", directory);
    assert_int_equal(state_open(deep, &state, &failure), ERR_NOT_FOUND);
    assert_null(state);
    assert_int_equal(state_open(file_path("state.db"), &state, &failure), ERR_INVALID);
    remove_directory();
}

/* Whether SQLite's own counters are there, which nothing depends on. */
static bool is_counter(size_t at)
{
    return (at >= 24 && at < 28) || (at >= 40 && at < 44) || (at >= 92 && at < 100);
}

static void flip_any(uint8_t *bytes, size_t count)
{
    size_t at;
    do
        at = random_below(count);
    while (is_counter(at));
    bytes[at] ^= (uint8_t)(1u << random_below(8));
}

static void flip_page(uint8_t *bytes, size_t count)
{
    size_t page = random_below(count / 4096) * 4096;
    for (size_t i = 0; i < 4096; i++)
        bytes[page + i] = (uint8_t)random_u64();
}

static void lose_page(uint8_t *bytes, size_t count)
{
    size_t page = random_below(count / 4096) * 4096;
    size_t other = (page + 4096) % count;
    memcpy(bytes + page, bytes + other, 4096); /* a write that went to the wrong place */
}

static void flip_many(uint8_t *bytes, size_t count)
{
    for (uint64_t i = 1 + random_below(20); i > 0; i--)
        flip_any(bytes, count);
}

/* Any damage that leaves a page its checksum: refused, with a sentence, and not a byte changed. */
static void test_a_damaged_file_is_refused(void **unused)
{
    static void (*const damage[])(uint8_t *, size_t) = {flip_any, flip_any, flip_any, flip_page,
                                                        lose_page, flip_many};
    size_t bytes;
    size_t after_bytes;
    (void)unused;
    make_directory();
    make_good();
    uint8_t *good = read_file("state.db", &bytes);
    uint8_t *bad = malloc(bytes + 1);
    for (unsigned long i = 0; i < damages; i++) {
        struct state *state = NULL;
        struct failure failure = {0};
        seed = 11 + damage_seed + i;
        memcpy(bad, good, bytes);
        do
            damage[i % COUNT(damage)](bad, bytes);
        while (memcmp(bad, good, bytes) == 0);
        remove_files();
        write_file("state.db", bad, bytes);
        int code = state_open(directory, &state, &failure);
        assert_null(state);
        if (code != ERR_CORRUPT && code != ERR_FOREIGN && code != ERR_UNSUPPORTED)
            fail_msg("damage %lu: %d %s", i, code, failure.text);
        assert_non_null(strstr(failure.text, "state.db"));
        if (code != ERR_UNSUPPORTED)
            assert_non_null(strstr(failure.text, "backup"));
        uint8_t *after = read_file("state.db", &after_bytes);
        assert_int_equal(after_bytes, bytes);
        assert_memory_equal(after, bad, bytes);
        free(after);
    }
    write_file("state.db", good, bytes); /* the backup */
    struct state *state = open_state();
    assert_settings(state, NULL, "key=value;");
    state_close(&state);
    free(good);
    free(bad);
    remove_directory();
}

static void assert_refused(int expected, const char *words)
{
    struct state *state = NULL;
    struct failure failure = {0};
    size_t before_bytes;
    size_t after_bytes;
    uint8_t *before = read_file("state.db", &before_bytes);
    assert_int_equal(state_open(directory, &state, &failure), expected);
    assert_null(state);
    if (!strstr(failure.text, words))
        fail_msg("'%s' is not in '%s'", words, failure.text);
    assert_int_equal(state_open(directory, &state, NULL), expected);
    uint8_t *after = read_file("state.db", &after_bytes);
    assert_int_equal(after_bytes, before_bytes);
    assert_memory_equal(after, before, before_bytes);
    free(before);
    free(after);
}

static void test_other_files_are_refused(void **unused)
{
    size_t bytes;
    (void)unused;
    make_directory();
    write_file("state.db", "", 0);
    assert_refused(ERR_CORRUPT, "empty");
    write_file("state.db", "hello", 5);
    assert_refused(ERR_CORRUPT, "backup");
    remove_files();
    run_sql("CREATE TABLE precious (x); INSERT INTO precious VALUES (1)", NULL);
    assert_refused(ERR_FOREIGN, "another program");
    remove_files();

    make_good();
    uint8_t *good = read_file("state.db", &bytes);
    for (size_t cut = bytes - 4096; cut > 0; cut -= cut > 8 * 4096 ? 7 * 4096 : 4096) {
        assert_int_equal(truncate(file_path("state.db"), (off_t)cut), 0);
        assert_refused(ERR_CORRUPT, "backup");
        assert_int_equal(truncate(file_path("state.db"), (off_t)cut - 99), 0);
        assert_refused(ERR_CORRUPT, "backup");
    }
    good[63] = 3; /* user_version */
    write_file("state.db", good, bytes);
    assert_refused(ERR_UNSUPPORTED, "newer");
    good[63] = 0;
    write_file("state.db", good, bytes);
    assert_refused(ERR_UNSUPPORTED, "version 0");
    good[63] = 2;
    write_file("state.db", good, bytes);
    run_sql("CREATE TRIGGER evil AFTER INSERT ON event BEGIN DELETE FROM event; END",
            "tapeloop-pages");
    assert_refused(ERR_CORRUPT, "tables");
    free(good);
    remove_directory();
}

/* A database of version 1, without the audit log or with it, becomes one of this version, and keeps what it has. */
static void test_version_1_is_brought_up(void **unused)
{
    (void)unused;
    for (int had_audit = 0; had_audit < 2; had_audit++) {
        make_directory();
        struct state *state = open_state();
        put_event(state, "of long ago");
        struct audit_row row = {.time_ns = 1, .actor = "uid 0", .action = "ring.create", .outcome = "done"};
        if (had_audit)
            assert_int_equal(state_put_audit(state, &row), 0);
        state_close(&state);
        if (!had_audit)
            run_sql("DROP TABLE audit", "tapeloop-pages");
        run_sql("PRAGMA user_version = 1", "tapeloop-pages");
        for (int turn = 0; turn < 2; turn++) { /* and again: of this version */
            state = open_state();
            struct events events = events_of(state, 0, UINT32_MAX);
            assert_int_equal(events.count, 1);
            struct audit_verdict verdict;
            assert_int_equal(state_audit_verify(state, 0, NULL, &verdict), 0);
            assert_int_equal(verdict.rows, had_audit + turn);
            assert_int_equal(verdict.bad, 0);
            assert_int_equal(state_put_audit(state, &row), 0);
            state_close(&state);
        }
        size_t bytes;
        uint8_t *file = read_file("state.db", &bytes);
        assert_int_equal(file[63], 2);
        free(file);
        remove_directory();
    }
}

/* What is not quite version 1 is left as it is. */
static void test_a_step_that_fails_changes_nothing(void **unused)
{
    (void)unused;
    make_directory();
    make_good();
    run_sql("DROP TABLE audit; CREATE VIEW audit AS SELECT 1; PRAGMA user_version = 1", "tapeloop-pages");
    size_t bytes;
    uint8_t *before = read_file("state.db", &bytes);
    assert_refused(ERR_CORRUPT, "tables");
    uint8_t *after = read_file("state.db", &bytes);
    assert_int_equal(after[63], 1);
    free(before);
    free(after);
    remove_directory();
}

/* state.db was deleted, its WAL was not: there is something to save, so nothing is begun anew. */
static void test_an_orphaned_wal_is_refused(void **unused)
{
    size_t bytes;
    struct failure failure;
    (void)unused;
    make_directory();
    struct state *state = open_state();
    put_event(state, "x");
    uint8_t *wal = read_file("state.db-wal", &bytes);
    assert_true(bytes > 0);
    state_close(&state);
    unlink(file_path("state.db"));
    write_file("state.db-wal", wal, bytes);
    free(wal);
    assert_int_equal(state_open(directory, &state, &failure), ERR_CORRUPT);
    assert_non_null(strstr(failure.text, "state.db-wal"));
    assert_int_equal(access(file_path("state.db"), F_OK), -1);
    unlink(file_path("state.db-wal"));
    state = open_state();
    state_close(&state);
    remove_directory();
}

static int leave_a_wal(void)
{
    struct state *state = open_state();
    for (int i = 0; i < 60; i++)
        put_event(state,
                  "this one is in the WAL only, and in pages that the file does not have yet");
    put_history(state, "eth9", 1, 1);
    raise(SIGKILL);
    return 1;
}

/*
 * After a crash somebody looks at the file with another program, and that checkpoints: pages come
 * into the file without a checksum. They are accepted, and have one afterwards.
 */
static void test_another_program_looked_at_the_file(void **unused)
{
    size_t bytes;
    (void)unused;
    make_directory();
    make_good();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(leave_a_wal());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    free(read_file("state.db-wal", &bytes));
    assert_true(bytes > 0);
    run_sql("SELECT * FROM event; PRAGMA wal_checkpoint (TRUNCATE)", NULL);
    uint8_t *looked_at = read_file("state.db", &bytes);

    struct state *state = open_state();
    assert_int_equal(events_of(state, 0, UINT32_MAX).count, 160);
    state_close(&state);
    uint8_t *mended = read_file("state.db", &bytes);
    int differ = 0;
    for (size_t page = 0; page < bytes; page += 4096) {
        differ += memcmp(looked_at + page, mended + page, 4096) != 0;
        assert_memory_equal(looked_at + page, mended + page, 4088);
    }
    assert_true(differ > 1);
    uint8_t *bad = malloc(bytes + 1);
    for (int i = 0; i < 50; i++) { /* now damage is found again, in those pages too */
        memcpy(bad, mended, bytes);
        flip_any(bad, bytes);
        write_file("state.db", bad, bytes);
        assert_int_not_equal(state_open(directory, &state, NULL), 0);
    }
    free(bad);
    memset(mended + bytes - 512, 0,
           512); /* a lost sector is not taken for a page without a checksum */
    write_file("state.db", mended, bytes);
    assert_int_equal(state_open(directory, &state, NULL), ERR_CORRUPT);
    free(looked_at);
    free(mended);
    remove_directory();
}

/* Both ways to copy a database with sqlite3, of one at rest and of one with a WAL. */
static void test_backups_are_accepted(void **unused)
{
    static const char *const rest[] = {"", "-wal", "-shm"};
    char copy[PATH_MAX + 400];
    char sql[PATH_MAX + 500];
    (void)unused;
    for (int way = 0; way < 4; way++) {
        make_directory();
        make_good();
        snprintf(copy, sizeof copy, "%s", file_path("copy.db"));
        struct state *state = way & 1 ? open_state() : NULL;
        if (state)
            put_event(state, "in the WAL");
        if (way & 2) {
            sqlite3 *from = NULL;
            sqlite3 *to = NULL;
            assert_int_equal(sqlite3_open(file_path("state.db"), &from), SQLITE_OK);
            assert_int_equal(sqlite3_open(copy, &to), SQLITE_OK);
            sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");
            assert_int_equal(sqlite3_backup_step(backup, -1), SQLITE_DONE);
            assert_int_equal(sqlite3_backup_finish(backup), SQLITE_OK);
            sqlite3_close(from);
            sqlite3_close(to);
        } else {
            snprintf(sql, sizeof sql, "VACUUM INTO '%s'", copy);
            run_sql(sql, NULL);
        }
        state_close(&state);
        for (size_t i = 0; i < COUNT(rest); i++) {
            char name[32];
            snprintf(name, sizeof name, "state.db%s", rest[i]);
            unlink(file_path(name));
        }
        assert_int_equal(rename(copy, file_path("state.db")), 0);
        for (int again = 0; again < 2; again++) {
            state = open_state();
            assert_settings(state, NULL, "key=value;");
            assert_int_equal(put_event(state, "after"), 101 + (way & 1) + again);
            assert_int_equal(history_count(state, NULL, 0, 5000), 2000);
            state_close(&state);
        }
        remove_directory();
    }
}

/* ---- failing calls ------------------------------------------------------------------------------
 */

static const struct {
    unsigned operations;
    int result;
} fault_table[] = {
    {FAULTY_WRITE, SQLITE_FULL},
    {FAULTY_WRITE, SQLITE_IOERR_WRITE},
    {FAULTY_SYNC, SQLITE_IOERR_FSYNC},
    {FAULTY_READ, SQLITE_IOERR_READ},
    {FAULTY_OPEN, SQLITE_CANTOPEN},
    {FAULTY_TRUNCATE, SQLITE_IOERR_TRUNCATE},
    {FAULTY_READ | FAULTY_WRITE | FAULTY_SYNC, SQLITE_NOMEM},
};

/*
 * Fails the 1st call, the 2nd, ... until nothing fails any more: what was answered with 0 is there,
 * what was answered with an error is not, and the next attempt works.
 */
static void test_each_call_fails_once(void **unused)
{
    (void)unused;
    for (size_t fault = 0; fault < COUNT(fault_table); fault++) {
        uint32_t struck = 1;
        for (uint32_t after = 0; struck > 0; after++) {
            struct state *state = NULL;
            uint64_t packets = 0;
            uint32_t events = 0;
            make_directory();
            faulty_vfs_arm(fault_table[fault].operations, after, fault_table[fault].result, true);
            if (state_open(directory, &state, NULL) != 0)
                state = open_state();
            for (int i = 0; i < 6; i++) {
                struct event event = {.text = "x"};
                struct history_row row = history_row("eth0", i % 2, 1);
                if (state_put_event(state, &event) == 0)
                    assert_int_equal(event.number, ++events);
                if (state_put_history(state, &row, 1) == 0)
                    packets++;
                if (i == 3)
                    state_history_trim(state, 1000,
                                       0); /* sums stay right whether or not it is done */
            }
            struck = faulty_vfs_disarm();
            for (int again = 0; again < 2; again++) {
                struct history history = history_of(state, NULL, INT64_MIN, INT64_MAX);
                uint64_t sum = 0;
                for (uint32_t i = 0; i < history.count; i++)
                    sum += history.row[i].change.packets[ACCOUNT_seen];
                free(history.row);
                assert_int_equal(sum, packets);
                assert_int_equal(events_of(state, 0, 100).count, events);
                reopen(&state);
            }
            put_event(state, "y");
            state_close(&state);
            remove_directory();
        }
    }
}

/* Pitfall: after a power cut WAL with synchronous=NORMAL had lost acknowledged commits. */
static void test_answered_means_synced(void **unused)
{
    (void)unused;
    make_directory();
    struct state *state = open_state();
    for (int i = 0; i < 3000; i++) { /* over a checkpoint */
        uint32_t syncs = faulty_vfs_syncs();
        if (i % 3 == 0)
            put_event(state, "x");
        else if (i % 3 == 1)
            put_history(state, "eth0", i, 1);
        else
            assert_int_equal(state_put_setting(state, NULL, "i", i % 2 ? "1" : "0"), 0);
        assert_int_equal(faulty_vfs_unsynced(), 0);
        assert_true(faulty_vfs_syncs() > syncs);
    }
    state_close(&state);
    remove_directory();
}

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
    struct state *state;
    struct failure failure;
    if (geteuid() == 0 && (setegid(65534) != 0 || seteuid(65534) != 0))
        return 77;
    int code = state_open(directory, &state, &failure);
    return code == ERR_PERMISSION && strstr(failure.text, "state.db") ? 0 : 1;
}

static void test_a_read_only_directory(void **unused)
{
    (void)unused;
    make_directory();
    assert_int_equal(chmod(directory, 0555), 0);
    assert_int_equal(run_child(open_without_permission), 0);
    assert_int_equal(chmod(directory, 0755), 0);
    make_good();
    assert_int_equal(chmod(directory, 0555), 0);
    assert_int_equal(run_child(open_without_permission), 0);
    assert_int_equal(chmod(directory, 0755), 0);
    remove_directory();
}

/* On a small file system of its own. 77: this machine does not let us make one. */
static int fill_a_small_file_system(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("small", directory, "tmpfs", 0, "size=600k") != 0)
        return 77;
    struct state *state = NULL;
    if (state_open(directory, &state, NULL) != 0)
        return 1;
    int code = 0;
    uint32_t events = 0;
    while (code == 0 && events < 100000) {
        struct event event = {.severity = "info", .text = "one more"};
        code = state_put_event(state, &event);
        events += code == 0;
    }
    if (code != ERR_NO_SPACE)
        return 2;
    struct events kept = {0};
    if (state_events(state, 0, UINT32_MAX, keep_event, &kept) != 0 || kept.count != events)
        return 3;
    if (mount("small", directory, "tmpfs", MS_REMOUNT, "size=50m") != 0)
        return 77;
    struct event event = {.text = "there is room again"};
    if (state_put_event(state, &event) != 0 || event.number != events + 1)
        return 4;
    state_close(&state);
    if (state_open(directory, &state, NULL) != 0)
        return 5;
    memset(&kept, 0, sizeof kept);
    if (state_events(state, 0, UINT32_MAX, keep_event, &kept) != 0 || kept.count != events + 1)
        return 6;
    state_close(&state);
    return 0;
}

static void test_a_full_file_system(void **unused)
{
    (void)unused;
    make_directory();
    int code = run_child(fill_a_small_file_system);
    remove_directory();
    if (code == 77)
        skip();
    assert_int_equal(code, 0);
}

/* ---- kill -9 ------------------------------------------------------------------------------------
 */

static int told; /* the pipe's writing end */

static int put_for_ever(void)
{
    struct state *state = open_state();
    for (uint64_t i = 1;; i++) {
        uint64_t number = put_event(state, "x");
        put_history(state, "eth0", (int64_t)(i % 120), 1);
        if (i % 10 == 0 && state_history_trim(state, 1000, 0) != 0)
            return 2;
        if (number != i || write(told, &i, sizeof i) != sizeof i)
            return 1;
    }
}

static void test_killed_in_mid_write(void **unused)
{
    (void)unused;
    seed = 3003;
    for (int round = 0; round < 20; round++) {
        int ends[2];
        uint64_t written = 0;
        uint64_t next;
        make_directory();
        assert_int_equal(pipe(ends), 0);
        told = ends[1];
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            _exit(put_for_ever());
        close(ends[1]);
        for (uint64_t i = 1 + random_below(200); i > 0; i--)
            assert_int_equal(read(ends[0], &written, sizeof written), sizeof written);
        usleep((useconds_t)random_below(5000));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(ends[0], &next, sizeof next) == sizeof next)
            written = next;
        close(ends[0]);
        struct state *state = open_state();
        struct events events = events_of(state, 0, UINT32_MAX);
        assert_true(events.count >= written && events.count <= written + 1);
        struct history history = history_of(state, NULL, INT64_MIN, INT64_MAX);
        uint64_t sum = 0;
        for (uint32_t i = 0; i < history.count; i++)
            sum += history.row[i].change.packets[ACCOUNT_seen];
        free(history.row);
        assert_true(sum == events.count || sum + 1 == events.count);
        assert_true(sum >= written);
        state_close(&state);
        remove_directory();
    }
}

/* ---- threads ------------------------------------------------------------------------------------
 */

static struct state *shared;

static void *use(void *context)
{
    uintptr_t thread = (uintptr_t)context;
    char name[16];
    snprintf(name, sizeof name, "if%u", (unsigned)thread);
    for (int i = 0; i < 150; i++) {
        put_event(shared, name);
        put_history(shared, name, i, 1);
        assert_int_equal(state_put_setting(shared, NULL, name, i % 2 ? "1" : "0"), 0);
        struct history history = history_of(shared, name, 0, 1000);
        assert_int_equal(history.count, i + 1);
        free(history.row);
        events_of(shared, 0, 50);
    }
    return NULL;
}

static void test_threads(void **unused)
{
    pthread_t thread[4];
    (void)unused;
    make_directory();
    shared = open_state();
    for (uintptr_t i = 0; i < COUNT(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, use, (void *)i), 0);
    for (size_t i = 0; i < COUNT(thread); i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(events_of(shared, 0, UINT32_MAX).last, 600);
    assert_settings(shared, NULL, "if0=1;if1=1;if2=1;if3=1;");
    state_close(&shared);
    remove_directory();
}

int main(int argc, char **argv)
{
    bool campaign = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--damages") == 0) {
            damages = strtoul(argv[i + 1], NULL, 10);
            campaign = true;
        } else if (strcmp(argv[i], "--seed") == 0)
            damage_seed = strtoull(argv[i + 1], NULL, 10);
    }
    const struct CMUnitTest of_damage[] = {
        cmocka_unit_test(test_a_damaged_file_is_refused),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rings),
        cmocka_unit_test(test_disk_numbers_are_never_reused),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_each_may_call_and_stop),
        cmocka_unit_test(test_history_ranges),
        cmocka_unit_test(test_history_of_one_second_adds_up),
        cmocka_unit_test(test_trimming_is_exact),
        cmocka_unit_test(test_trimming_drops_what_is_old),
        cmocka_unit_test(test_history_has_every_line_of_the_account),
        cmocka_unit_test(test_events_are_numbered),
        cmocka_unit_test(test_old_events_go),
        cmocka_unit_test(test_the_audit_log_shows_what_was_done_to_it),
        cmocka_unit_test(test_the_directory_is_made),
        cmocka_unit_test(test_a_damaged_file_is_refused),
        cmocka_unit_test(test_other_files_are_refused),
        cmocka_unit_test(test_version_1_is_brought_up),
        cmocka_unit_test(test_a_step_that_fails_changes_nothing),
        cmocka_unit_test(test_an_orphaned_wal_is_refused),
        cmocka_unit_test(test_another_program_looked_at_the_file),
        cmocka_unit_test(test_backups_are_accepted),
        cmocka_unit_test(test_each_call_fails_once),
        cmocka_unit_test(test_answered_means_synced),
        cmocka_unit_test(test_a_read_only_directory),
        cmocka_unit_test(test_a_full_file_system),
        cmocka_unit_test(test_killed_in_mid_write),
        cmocka_unit_test(test_threads),
    };
    faulty_vfs_install();
    if (campaign)
        return cmocka_run_group_tests(of_damage, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
