/*
 * replay_main.c - stands in for libFuzzer where a harness is built without it.
 *
 *     fuzz_NAME CORPUS... [--seed N] [--rounds N]
 *
 * Feeds every file of the corpus directories (or single files) to the harness, then `rounds` inputs
 * made from them by a seeded generator: bits and bytes changed, pieces cut out, repeated and put
 * together from two files. So every run of the test suite touches the harnesses and a little more
 * than their corpus. The seed is printed; the same seed makes the same inputs.
 *
 * Each input lies in memory of exactly its size, so that a sanitizer sees a read beyond it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

#define ROUNDS_USUAL 20000
#define SEED_USUAL 1
#define INPUTS_MAX 4096
#define INPUT_BYTES_MAX (4u << 20)

struct input {
    uint8_t *bytes;
    size_t count;
};

static struct input corpus[INPUTS_MAX];
static size_t corpus_count;

static void give_up(const char *what, const char *name)
{
    fprintf(stderr, "replay: %s %s: %s\n", what, name, strerror(errno));
    exit(1);
}

static void read_input(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat about;
    if (!file || fstat(fileno(file), &about) != 0)
        give_up("cannot open", path);
    if (about.st_size > INPUT_BYTES_MAX || corpus_count == INPUTS_MAX) {
        fprintf(stderr, "replay: %s: too large, or too many files\n", path);
        exit(1);
    }
    struct input *input = &corpus[corpus_count++];
    input->count = (size_t)about.st_size;
    input->bytes = malloc(input->count ? input->count : 1);
    if (!input->bytes || fread(input->bytes, 1, input->count, file) != input->count)
        give_up("cannot read", path);
    fclose(file);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_corpus(const char *path)
{
    struct stat about;
    if (stat(path, &about) != 0)
        give_up("cannot find", path);
    if (!S_ISDIR(about.st_mode)) {
        read_input(path);
        return;
    }
    struct dirent **entry;
    int entries = scandir(path, &entry, NULL, by_name);
    if (entries < 0)
        give_up("cannot list", path);
    for (int i = 0; i < entries; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entry[i]->d_name);
        if (stat(name, &about) == 0 && S_ISREG(about.st_mode))
            read_input(name);
        free(entry[i]);
    }
    free(entry);
}

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_next(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t random_below(size_t bound)
{
    return bound ? (size_t)(random_next() % bound) : 0;
}

/* Changes `bytes` in place; returns the new count, at most the old one. */
static size_t mutate(uint8_t *bytes, size_t count)
{
    static const uint8_t edge[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '{', '[', '-', '.', '0', '9'};
    size_t at = random_below(count);
    size_t length = 1 + random_below(count - at < 8 ? count - at : 8);
    switch (random_below(6)) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << random_below(8));
        break;
    case 1:
        bytes[at] = (uint8_t)random_next();
        break;
    case 2:
        bytes[at] = edge[random_below(sizeof edge)];
        break;
    case 3: /* a run of one value: lengths of zeros and of ones */
        memset(bytes + at, random_below(2) ? 0xff : 0x00, length);
        break;
    case 4: /* cut a piece out */
        memmove(bytes + at, bytes + at + length, count - at - length);
        return count - length;
    default: /* cut the end off */
        return at;
    }
    return count;
}

static void run_copy(const uint8_t *bytes, size_t count)
{
    uint8_t *copy = malloc(count ? count : 1);
    if (!copy)
        give_up("cannot allocate", "an input");
    memcpy(copy, bytes, count);
    LLVMFuzzerTestOneInput(copy, count);
    free(copy);
}

static void run_mutated(uint8_t *work)
{
    const struct input *head = &corpus[random_below(corpus_count)];
    const struct input *tail = &corpus[random_below(corpus_count)];
    size_t count = head->count;
    memcpy(work, head->bytes, count);
    if (random_below(4) == 0) { /* the beginning of one, the end of another */
        size_t from = random_below(tail->count);
        count = random_below(count);
        memcpy(work + count, tail->bytes + from, tail->count - from);
        count += tail->count - from;
    }
    for (size_t changes = 1 + random_below(8); changes > 0 && count > 0; changes--)
        count = mutate(work, count);
    run_copy(work, count);
}

int main(int argc, char **argv)
{
    uint64_t rounds = ROUNDS_USUAL;
    random_state = SEED_USUAL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            random_state = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = strtoull(argv[++i], NULL, 0);
        else
            read_corpus(argv[i]);
    }
    if (corpus_count == 0) {
        fprintf(stderr, "replay: no corpus: nothing was tested\n");
        return 1;
    }
    printf("replay: %zu files, then %llu inputs from seed %llu\n", corpus_count,
           (unsigned long long)rounds, (unsigned long long)random_state);
    fflush(stdout);

    for (size_t i = 0; i < corpus_count; i++)
        run_copy(corpus[i].bytes, corpus[i].count);
    uint8_t *work = malloc(2 * (size_t)INPUT_BYTES_MAX);
    if (!work)
        give_up("cannot allocate", "work space");
    for (uint64_t i = 0; i < rounds; i++)
        run_mutated(work);
    free(work);
    for (size_t i = 0; i < corpus_count; i++)
        free(corpus[i].bytes);
    return 0;
}
