/*
 * bench_catalog.c - how long the catalog takes: filling it, opening it, and finding a range of time
 * in it.
 *
 *   bench_catalog [--rows N] [--wild N] [--queries N] [--keep] [DIRECTORY]
 *
 * Makes N segments (1,000,000) of four streams, about a second long each, and among them some
 * (1,000) with wild times: lasting from minutes to centuries, or lying centuries away (promise P8).
 * Then asks for ranges at random places and prints, for each length of range, how many rows it
 * finds and the median, 99th percentile and maximum of the time to the first row, to the last, and
 * of processor time.
 * DIRECTORY defaults to a new one under TMPDIR, which is removed at the end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "catalog.h"

#define SECOND_NS INT64_C(1000000000)
#define STREAMS 4
#define START_NS (INT64_C(1700000000) * SECOND_NS)

static uint64_t seed = 1;

/* splitmix64: the same rows in every run. */
static uint64_t random_u64(void)
{
    uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND_NS + time.tv_nsec;
}

/* Of this thread alone, which does all the work of a query: other load of the machine is not in it.
 */
static int64_t processor_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * SECOND_NS + time.tv_nsec;
}

static void die(const char *what, int code)
{
    fprintf(stderr, "bench_catalog: %s: %s\n", what, error_text(code));
    exit(1);
}

static struct segment_row make_row(const struct identity *ring, const struct identity *disk,
                                   uint64_t number, uint64_t wild_every)
{
    struct segment_row row = {
        .ring = *ring,
        .position = number,
        .revision = 1,
        .data_revision = 1,
        .run = {{1}},
        .stream = (uint32_t)(number % STREAMS),
        .state = SEGMENT_SEALED,
        .first_packet = number / STREAMS * 20000,
        .packets = 20000,
        .captured_bytes = 15000000,
        .data_end = 16000000,
        .index_offset = 16000000,
        .index_bytes = 65536,
        .places = 1,
    };
    uint64_t random[2] = {random_u64(), random_u64()};
    memcpy(row.segment.byte, random, sizeof random);
    row.place[0] = (struct segment_place){.disk = *disk, .slot = (uint32_t)number};
    row.first_ns = START_NS + (int64_t)(number / STREAMS) * SECOND_NS;
    row.last_ns = row.first_ns + SECOND_NS / 2 + (int64_t)(random_u64() % (uint64_t)SECOND_NS);
    if (wild_every > 0 && number % wild_every == wild_every / 2) {
        int64_t span = (int64_t)(random_u64() >> (1 + random_u64() % 28));
        if (random_u64() % 2 == 0)
            row.first_ns = (int64_t)random_u64();
        if (__builtin_add_overflow(row.first_ns, span, &row.last_ns))
            row.last_ns = INT64_MAX;
    }
    row.head_ns = row.first_ns;
    row.opened_ns = row.first_ns;
    row.sealed_ns = row.last_ns;
    return row;
}

static void fill(struct catalog *catalog, const struct identity *ring, uint64_t rows, uint64_t wild)
{
    struct identity disk = {{2}};
    int64_t begin_ns = now_ns();
    catalog_put_ring(catalog, ring, "bench", 1, 16 << 20);
    catalog_put_disk(catalog, ring, &disk, "/bench", rows << 24, (uint32_t)rows, DISK_ACTIVE);
    for (uint64_t number = 0; number < rows; number++) {
        struct segment_row row = make_row(ring, &disk, number, wild > 0 ? rows / wild : 0);
        catalog_put_segment(catalog, &row);
        int code = number % 32768 == 32767 ? catalog_barrier(catalog) : 0;
        if (code != 0)
            die("filling", code);
    }
    catalog_fresh(catalog);
    int code = catalog_barrier(catalog);
    if (code != 0)
        die("filling", code);
    double seconds = (double)(now_ns() - begin_ns) / 1e9;
    printf("filled          %llu rows in %.1f s: %.0f rows/s\n", (unsigned long long)rows, seconds,
           (double)rows / seconds);
}

struct answer {
    uint64_t rows;
    int64_t first_row_ns;
};

static int count_row(const struct segment_row *row, void *context)
{
    struct answer *answer = context;
    (void)row;
    if (answer->rows++ == 0)
        answer->first_row_ns = now_ns();
    return 0;
}

static int order_times(const void *a, const void *b)
{
    int64_t p = *(const int64_t *)a;
    int64_t q = *(const int64_t *)b;
    return p < q ? -1 : p > q;
}

static double ms(int64_t ns)
{
    return (double)ns / 1e6;
}

static void ask(struct catalog *catalog, const struct identity *ring, const char *name,
                int64_t range_ns, uint64_t rows, uint32_t queries)
{
    int64_t *first = calloc(queries, sizeof *first);
    int64_t *all = calloc(queries, sizeof *all);
    int64_t *processor = calloc(queries, sizeof *processor);
    uint64_t found = 0;
    int64_t length_ns = (int64_t)(rows / STREAMS) * SECOND_NS;
    if (!first || !all || !processor)
        die("asking", ERR_NO_MEMORY);
    for (uint32_t i = 0; i < queries; i++) {
        struct answer answer = {0};
        int64_t from_ns = INT64_MIN;
        int64_t to_ns = INT64_MAX;
        if (range_ns < length_ns) {
            from_ns = START_NS + (int64_t)(random_u64() % (uint64_t)(length_ns - range_ns));
            to_ns = from_ns + range_ns;
        }
        int64_t begin_ns = now_ns();
        int64_t processor_begin_ns = processor_ns();
        int code = catalog_find(catalog, ring, from_ns, to_ns, count_row, &answer);
        if (code != 0)
            die("asking", code);
        all[i] = now_ns() - begin_ns;
        processor[i] = processor_ns() - processor_begin_ns;
        first[i] = answer.rows > 0 ? answer.first_row_ns - begin_ns : all[i];
        found += answer.rows;
    }
    qsort(first, queries, sizeof *first, order_times);
    qsort(all, queries, sizeof *all, order_times);
    qsort(processor, queries, sizeof *processor, order_times);
    uint32_t p99 = queries - 1 - queries / 100;
    printf("%-11s %9.0f  %8.2f %8.2f %8.2f  %9.2f %9.2f %9.2f  %9.2f %9.2f %9.2f\n", name,
           (double)found / queries, ms(first[queries / 2]), ms(first[p99]), ms(first[queries - 1]),
           ms(all[queries / 2]), ms(all[p99]), ms(all[queries - 1]), ms(processor[queries / 2]),
           ms(processor[p99]), ms(processor[queries - 1]));
    free(first);
    free(all);
    free(processor);
}

static void time_others(struct catalog *catalog, const struct identity *ring)
{
    struct catalog_summary summary;
    int64_t begin_ns = now_ns();
    int code = 0;
    for (int i = 0; i < 100 && code == 0; i++)
        code = catalog_summary(catalog, ring, &summary);
    if (code != 0)
        die("summary", code);
    printf("summary         %.3f ms\n", ms(now_ns() - begin_ns) / 100);
}

static int count_place(const struct segment_row *row, const struct segment_place *place,
                       void *context)
{
    (void)row;
    (void)place;
    ++*(uint64_t *)context;
    return 0;
}

static void time_places(struct catalog *catalog, const struct identity *ring)
{
    uint64_t places = 0;
    int64_t begin_ns = now_ns();
    int code = catalog_places(catalog, ring, count_place, &places);
    if (code != 0)
        die("places", code);
    double seconds = (double)(now_ns() - begin_ns) / 1e9;
    printf("places          %llu in %.1f s\n", (unsigned long long)places, seconds);
}

static void remove_files(const char *directory)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char path[4200];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/catalog.db%s", directory, suffix[i]);
        unlink(path);
    }
    rmdir(directory);
}

int main(int argc, char **argv)
{
    uint64_t rows = 1000000;
    uint64_t wild = 1000;
    uint32_t queries = 1000;
    bool keep = false;
    char made[4096];
    const char *directory = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rows") == 0 && i + 1 < argc)
            rows = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--wild") == 0 && i + 1 < argc)
            wild = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--queries") == 0 && i + 1 < argc)
            queries = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--keep") == 0)
            keep = true;
        else if (argv[i][0] != '-' && !directory)
            directory = argv[i];
        else
            return fprintf(stderr, "bench_catalog: see the head of its source\n"), 2;
    }
    if (rows < 1000 || queries < 10 || wild > rows)
        return fprintf(stderr, "bench_catalog: at least 1000 rows and 10 queries\n"), 2;
    if (!directory) {
        const char *temporary = getenv("TMPDIR");
        snprintf(made, sizeof made, "%s/bench_catalog.XXXXXX", temporary ? temporary : "/tmp");
        if (!mkdtemp(made))
            return fprintf(stderr, "bench_catalog: %s: %s\n", made, strerror(errno)), 1;
        directory = made;
    } else if (mkdir(directory, 0750) != 0 && errno != EEXIST) {
        return fprintf(stderr, "bench_catalog: %s: %s\n", directory, strerror(errno)), 1;
    }

    struct catalog *catalog;
    struct failure failure;
    struct identity ring = {{3}};
    bool fresh;
    int code = catalog_open(directory, &catalog, &fresh, &failure);
    if (code != 0)
        return fprintf(stderr, "bench_catalog: %s\n", failure.text), 1;
    if (fresh)
        fill(catalog, &ring, rows, wild);
    int64_t begin_ns = now_ns();
    catalog_close(&catalog);
    int64_t closed_ns = now_ns();
    code = catalog_open(directory, &catalog, &fresh, &failure);
    if (code != 0 || fresh)
        return fprintf(stderr, "bench_catalog: cannot open it again\n"), 1;
    printf("closed          %.1f ms, opened %.1f ms\n", ms(closed_ns - begin_ns),
           ms(now_ns() - closed_ns));

    struct stat status;
    char path[4200];
    snprintf(path, sizeof path, "%s/catalog.db", directory);
    if (stat(path, &status) == 0)
        printf("file            %.1f MB, %.0f bytes a segment\n", (double)status.st_size / 1e6,
               (double)status.st_size / (double)rows);

    printf("                       ms to the first row        ms to the last row             ms of "
           "processor\n"
           "range            rows    median      p99      max     median       p99       max     "
           "median       "
           "p99       max\n");
    ask(catalog, &ring, "1 s", SECOND_NS, rows, queries);
    ask(catalog, &ring, "1 min", 60 * SECOND_NS, rows, queries);
    ask(catalog, &ring, "10 min", 600 * SECOND_NS, rows, queries);
    ask(catalog, &ring, "1 h", 3600 * SECOND_NS, rows, queries / 10);
    ask(catalog, &ring, "1 day", 86400 * SECOND_NS, rows, 10);
    ask(catalog, &ring, "everything", INT64_MAX, rows, 10);
    time_others(catalog, &ring);
    time_places(catalog, &ring);
    catalog_close(&catalog);

    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("peak memory     %.1f MB\n", (double)usage.ru_maxrss / 1024);
    if (!keep && directory == made)
        remove_files(directory);
    return 0;
}
