/*
 * test_source_captures.c - every capture of the shared collection, read by our source and by
 * libpcap.
 *
 * The folder is $TAPELOOP_CAPTURES or ../shared/captures beside the source tree; without it this is
 * skipped. Each file is read whole, through a pipe, and again and again with bytes flipped and its
 * end cut off: whatever libpcap hands out of it, the source must hand out too, and where libpcap
 * finds damage, so must we, unless the difference is one that pcap_oracle.h names.
 */
#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pcap_oracle.h"
#include "source.h"

#define DAMAGED_COPIES 40

/* Differences that a file of the collection shows by itself, by its name. Every other file is read
 * alike. */
static const struct {
    const char *name;
    enum oracle_verdict verdict;
} known[] = {
    {"time_2038_overflow.pcap", ORACLE_UNSIGNED_TIME},
    {"time_2106.pcap", ORACLE_UNSIGNED_TIME},
};

struct tally {
    unsigned files;
    unsigned failed;
    uint64_t packets;
    uint64_t damaged;
    uint64_t verdicts[ORACLE_DIFFERENT + 1];
    uint64_t random;
};

static uint64_t random_below(struct tally *tally, uint64_t bound)
{
    tally->random ^= tally->random << 13;
    tally->random ^= tally->random >> 7;
    tally->random ^= tally->random << 17;
    return tally->random % bound;
}

static void report(struct tally *tally, const char *path, const char *what,
                   const struct oracle_result *result)
{
    tally->failed++;
    printf("FAILED %s (%s): %s: %s\n    ours:   %" PRIu64 " packets, %s\n    theirs: %" PRIu64
           " packets, %s\n",
           path, what, oracle_verdict_name(result->verdict), result->why, result->packets_ours,
           result->ours, result->packets_theirs, result->theirs);
}

static enum oracle_verdict expected(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].name != NULL && strcmp(name, known[i].name) == 0)
            return known[i].verdict;
    }
    return ORACLE_SAME;
}

static uint8_t *slurp(const char *path, size_t *count)
{
    FILE *stream = fopen(path, "rb");
    struct stat status;
    if (stream == NULL || fstat(fileno(stream), &status) < 0) {
        perror(path);
        exit(1);
    }
    uint8_t *bytes = malloc((size_t)status.st_size + 1);
    assert(bytes != NULL);
    *count = fread(bytes, 1, (size_t)status.st_size, stream);
    assert(*count == (size_t)status.st_size);
    fclose(stream);
    return bytes;
}

/* Through a pipe, from another process: the same number of packets must come out as from memory. */
static void check_pipe(struct tally *tally, const char *path, const struct oracle_result *whole)
{
    int end[2];
    int made = pipe(end);
    assert(made == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        size_t count, done = 0;
        uint8_t *bytes = slurp(path, &count);
        close(end[0]);
        while (done < count) {
            size_t piece = count - done < 1000 ? count - done : 1000;
            ssize_t written = write(end[1], bytes + done, piece);
            if (written < 0)
                _exit(1);
            done += (size_t)written;
        }
        _exit(0);
    }
    close(end[1]);
    struct source *source = NULL;
    struct failure failure = {0};
    static struct source_batch batch;
    uint64_t packets = 0;
    int result = source_file_open(end[0], "-", &source, &failure);
    if (result == 0) {
        while ((result = source_next(source, &batch, 10000)) > 0) {
            packets += batch.count;
            source_release(source, &batch);
        }
        source_close(&source);
    }
    if (result != ERR_END || packets != whole->packets_ours) {
        tally->failed++;
        printf("FAILED %s (pipe): %" PRIu64 " packets, %s\n", path, packets, failure.text);
    }
}

/* Bytes flipped, most of them near the start or in headers, and ends cut off. */
static void check_damaged(struct tally *tally, const char *path, const uint8_t *bytes, size_t count)
{
    uint8_t *copy = malloc(count);
    assert(copy != NULL);
    for (unsigned i = 0; i < DAMAGED_COPIES; i++) {
        uint64_t random = tally->random;
        size_t kept = count;
        memcpy(copy, bytes, count);
        if (i % 4 == 0)
            kept = (size_t)random_below(tally, count);
        unsigned flips = 1 + (unsigned)random_below(tally, 4);
        for (unsigned flip = 0; flip < flips && kept > 0; flip++) {
            size_t span = random_below(tally, 2) == 0 && kept > 200 ? 200 : kept;
            size_t at = (size_t)random_below(tally, span);
            if (random_below(tally, 2) == 0)
                copy[at] ^= (uint8_t)(1u << random_below(tally, 8));
            else
                copy[at] = (uint8_t)random_below(tally, 256);
        }
        if (kept == 0)
            continue;
        struct oracle_result result;
        oracle_compare(copy, kept, 1 + (size_t)random_below(tally, 5000), path, &result);
        tally->damaged++;
        tally->verdicts[result.verdict]++;
        if (result.verdict == ORACLE_DIFFERENT) {
            char what[64];
            snprintf(what, sizeof what, "damaged, seed %#" PRIx64, random);
            report(tally, path, what, &result);
        }
    }
    free(copy);
}

static void check_file(struct tally *tally, const char *path)
{
    size_t count;
    uint8_t *bytes = slurp(path, &count);
    struct oracle_result result;
    oracle_compare(bytes, count, 65536, path, &result);
    tally->files++;
    tally->packets += result.packets_ours;
    if (result.verdict != expected(path))
        report(tally, path, "whole", &result);
    if (result.ours[0] == '\0')
        check_pipe(tally, path, &result);
    check_damaged(tally, path, bytes, count);
    free(bytes);
}

static void check_folder(struct tally *tally, const char *folder)
{
    struct dirent **entry;
    int entries = scandir(folder, &entry, NULL, alphasort);
    for (int i = 0; i < entries; i++) {
        char path[4096];
        struct stat status;
        const char *dot = strrchr(entry[i]->d_name, '.');
        snprintf(path, sizeof path, "%s/%s", folder, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.' && stat(path, &status) == 0) {
            if (S_ISDIR(status.st_mode))
                check_folder(tally, path);
            else if (dot != NULL && (strcmp(dot, ".pcap") == 0 || strcmp(dot, ".pcapng") == 0))
                check_file(tally, path);
        }
        free(entry[i]);
    }
    if (entries >= 0)
        free(entry);
}

int main(int argc, char **argv)
{
    char folder[4096];
    struct stat status;
    const char *given = getenv("TAPELOOP_CAPTURES");
    const char *tree = getenv("TAPELOOP_SOURCE");
    if (given != NULL)
        snprintf(folder, sizeof folder, "%s", given);
    else
        snprintf(folder, sizeof folder, "%s/../shared/captures", tree != NULL ? tree : ".");
    if (stat(folder, &status) < 0) {
        printf("skipped: there are no captures at %s (set TAPELOOP_CAPTURES)\n", folder);
        return 77;
    }
    struct tally tally = {.random = argc > 1 ? strtoull(argv[1], NULL, 0) : 0x7461706c6f6f70};
    printf("seed %#" PRIx64 "\n", tally.random);
    check_folder(&tally, folder);
    printf("%u files, %" PRIu64 " packets, %" PRIu64 " damaged copies\n", tally.files,
           tally.packets, tally.damaged);
    for (int i = 0; i <= ORACLE_DIFFERENT; i++)
        printf("    %-36s %" PRIu64 "\n", oracle_verdict_name(i), tally.verdicts[i]);
    if (tally.files == 0)
        printf("FAILED: no capture was found in %s\n", folder);
    return tally.failed != 0 || tally.files == 0;
}
