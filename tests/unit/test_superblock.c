/*
 * The superblock: geometry, every field of a hostile one, every place damaged, and a power cut or
 * kill at every event of every write (promises P2 and P9). Seeds are printed in failures.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "simulation.h"
#include "superblock.h"
#include "unit_test.h"

#define MIB (UINT64_C(1) << 20)
#define DISK_BYTES (8 * MIB)

static const struct identity ring = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

struct bench {
    struct simulation *simulation;
    struct simulated_media *media;
    struct disk *disk;
};

static void bench_open(struct bench *bench, uint64_t seed)
{
    bench->simulation = simulation_new(seed);
    bench->media = simulated_media_new(bench->simulation, DISK_BYTES, 0, 0);
    assert_int_equal(simulated_disk_open(bench->media, DISK_OPEN_EXCLUSIVE, &bench->disk, NULL), 0);
}

static void bench_reopen(struct bench *bench)
{
    disk_close(&bench->disk);
    assert_int_equal(simulated_disk_open(bench->media, DISK_OPEN_EXCLUSIVE, &bench->disk, NULL), 0);
}

static void bench_close(struct bench *bench)
{
    disk_close(&bench->disk);
    simulated_media_free(&bench->media);
    simulation_free(&bench->simulation);
}

static struct superblock *fresh(uint64_t disk_bytes)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    struct disk_geometry geometry;
    assert_non_null(superblock);
    assert_int_equal(disk_geometry_plan(disk_bytes, 0, &geometry, NULL), 0);
    superblock_make(superblock, &geometry, &ring, "first-ring", 2, 1234567890);
    superblock_set_text(superblock->recorder, sizeof superblock->recorder, "host.example");
    superblock->members = le16_of(2);
    for (uint32_t i = 0; i < 2; i++) {
        struct superblock_member *member = &superblock->member[i];
        member->disk = superblock->disk;
        member->disk.byte[0] ^= (uint8_t)i;
        member->bytes = le64_of(disk_bytes);
        member->state = DISK_ACTIVE;
        superblock_set_text(member->name, sizeof member->name, "/dev/disk/by-id/something");
    }
    return superblock;
}

static void reseal(struct superblock *superblock)
{
    superblock->crc = le32_of(0);
    superblock->crc = le32_of(checksum_crc32c(superblock, sizeof *superblock));
}

static void geometry_of_all_sizes(void **state)
{
    (void)state;
    struct failure failure;
    struct disk_geometry geometry;
    static const struct {
        uint64_t disk, slot;
    } usual[] = {
        {8 * MIB, MIB},          {255 * MIB, MIB},
        {511 * MIB, MIB},        {512 * MIB, 2 * MIB},
        {1024 * MIB, 4 * MIB},   {16383 * MIB, 32 * MIB},
        {16384 * MIB, 64 * MIB}, {UINT64_C(1) << 50, 64 * MIB},
    };
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        assert_int_equal(disk_geometry_plan(usual[i].disk, 0, &geometry, &failure), 0);
        assert_int_equal(geometry.slot_bytes, usual[i].slot);
        uint64_t end = geometry.slots_offset + geometry.slot_count * geometry.slot_bytes;
        assert_true(geometry.slots_offset >= META_BYTES && geometry.slots_offset % MIB == 0);
        assert_true(end + META_BYTES <= geometry.disk_bytes);
        assert_true(end + META_BYTES + geometry.slot_bytes > geometry.disk_bytes);
    }
    /* An odd size is used down to a page. */
    assert_int_equal(disk_geometry_plan(20 * MIB + 5000, 0, &geometry, &failure), 0);
    assert_int_equal(geometry.disk_bytes, 20 * MIB + 4096);

    assert_int_equal(disk_geometry_plan(8 * MIB - 1, 0, &geometry, &failure), ERR_TOO_SMALL);
    assert_non_null(strstr(failure.text, "8.0 MiB"));
    assert_int_equal(disk_geometry_plan(0, 0, &geometry, &failure), ERR_TOO_SMALL);
    assert_int_equal(disk_geometry_plan(259 * MIB, 64 * MIB, &geometry, &failure), ERR_TOO_SMALL);
    assert_int_equal(disk_geometry_plan(260 * MIB, 64 * MIB, &geometry, &failure), 0);
    assert_int_equal(geometry.slot_count, 4);
    assert_int_equal(disk_geometry_plan(MIB * MIB, MIB / 2, &geometry, &failure), ERR_INVALID);
    assert_int_equal(disk_geometry_plan(MIB * MIB, 3 * MIB, &geometry, &failure), ERR_INVALID);
    assert_int_equal(disk_geometry_plan(MIB * MIB, 128 * MIB, &geometry, &failure), ERR_INVALID);
    assert_int_equal(disk_geometry_plan(UINT64_MAX, 0, &geometry, &failure), ERR_TOO_LARGE);
    assert_int_equal(disk_geometry_plan(UINT64_C(1) << 60, MIB, &geometry, &failure),
                     ERR_TOO_LARGE);
}

static void written_is_read(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 1);
    struct superblock *superblock = fresh(DISK_BYTES), *back = malloc(sizeof *back);
    struct superblock_condition condition;
    struct failure failure;

    assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), ERR_FOREIGN);
    assert_non_null(strstr(failure.text, "simulated"));
    assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
    assert_int_equal(bench.disk->geometry.slot_count, 4);
    for (uint64_t generation = 1; generation < 6; generation++) {
        bench_reopen(&bench);
        assert_int_equal(bench.disk->geometry.slot_count, 0);
        assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), 0);
        assert_memory_equal(superblock, back, sizeof *back);
        assert_int_equal(le64_get(back->generation), generation);
        assert_int_equal(condition.repairs, 0);
        assert_int_equal(bench.disk->geometry.slot_bytes, MIB);
        superblock->updated_ns = le64_of(generation);
        assert_int_equal(superblock_write(bench.disk, superblock, &failure), 0);
    }
    free(superblock);
    free(back);
    bench_close(&bench);
}

/* Each place, and each pair of places, hit in each of its bytes' neighbourhoods: noticed, read all
 * the same, mended. */
static void damage_is_noticed_and_mended(void **state)
{
    (void)state;
    struct superblock *superblock = fresh(DISK_BYTES), *back = malloc(sizeof *back);
    for (uint32_t places = 1; places < 15; places++) {
        for (uint32_t round = 0; round < 30; round++) {
            struct bench bench;
            struct superblock_condition condition;
            struct failure failure;
            bench_open(&bench, places * 100 + round);
            assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
            if (round % 2)
                assert_int_equal(superblock_write(bench.disk, superblock, &failure), 0);
            bool magic[SUPERBLOCK_PLACES] = {false};
            for (uint32_t place = 0; place < SUPERBLOCK_PLACES; place++) {
                if (!(places & (1u << place)))
                    continue;
                uint64_t at = superblock_place_offset(place, DISK_BYTES);
                uint64_t bit = simulation_random(bench.simulation, SUPERBLOCK_BYTES * 8);
                if (round < 8)
                    bit = round; /* in the magic */
                magic[place] = bit < 64;
                uint8_t byte;
                simulated_media_peek(bench.media, at + bit / 8, &byte, 1);
                byte ^= (uint8_t)(1u << (bit % 8));
                simulated_media_poke(bench.media, at + bit / 8, &byte, 1);
            }
            assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), 0);
            assert_int_equal(condition.repairs, __builtin_popcount(places));
            for (uint32_t place = 0; place < SUPERBLOCK_PLACES; place++) {
                bool hit = (places & (1u << place)) != 0;
                assert_int_equal(condition.place[place] != SUPERBLOCK_GOOD, hit);
                if (hit)
                    assert_int_equal(condition.place[place],
                                     magic[place] ? SUPERBLOCK_ABSENT : SUPERBLOCK_DAMAGED);
            }
            /* The truth, if a place of its generation is left; else the one before. */
            uint64_t generation = le64_get(superblock->generation);
            uint32_t of_generation = generation % 2 ? 10 : 5;
            bool truth_left = (places & of_generation) != of_generation;
            assert_int_equal(le64_get(back->generation), truth_left ? generation : generation - 1);
            assert_int_equal(superblock_repair(bench.disk, back, &failure), 0);
            bench_reopen(&bench);
            struct superblock *again = malloc(sizeof *again);
            assert_int_equal(superblock_read(bench.disk, again, &condition, &failure), 0);
            assert_int_equal(condition.repairs, 0);
            assert_memory_equal(again, back, sizeof *back);
            free(again);
            bench_close(&bench);
        }
    }
    free(superblock);
    free(back);
}

static void a_missing_write_is_noticed(void **state)
{
    (void)state;
    /* Writes 0 and 1 are those of superblock_write: the head, the tail. */
    for (uint32_t which = 0; which < 2; which++) {
        struct bench bench;
        struct superblock *superblock = fresh(DISK_BYTES);
        struct superblock_condition condition;
        struct failure failure;
        bench_open(&bench, which);
        assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
        simulated_media_fault(bench.media, FAULT_LOST, DISK_WRITE, which, 0);
        assert_int_equal(superblock_write(bench.disk, superblock, &failure), 0);
        assert_int_equal(superblock_read(bench.disk, superblock, &condition, &failure), 0);
        assert_int_equal(le64_get(superblock->generation), 2);
        assert_int_equal(condition.repairs, 1);
        assert_int_equal(
            condition.place[which == 0 ? SUPERBLOCK_HEAD_FIRST : SUPERBLOCK_TAIL_FIRST],
            SUPERBLOCK_STALE);
        free(superblock);
        bench_close(&bench);
    }
}

static void all_places_lost(void **state)
{
    (void)state;
    struct bench bench;
    struct superblock *superblock = fresh(DISK_BYTES);
    struct superblock_condition condition;
    struct failure failure;
    bench_open(&bench, 1);
    assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
    for (uint32_t place = 0; place < SUPERBLOCK_PLACES; place++) {
        uint8_t byte = 0xff;
        simulated_media_poke(bench.media, superblock_place_offset(place, DISK_BYTES) + 5000, &byte,
                             1);
    }
    assert_int_equal(superblock_read(bench.disk, superblock, &condition, &failure), ERR_CORRUPT);
    assert_int_equal(condition.repairs, 4);
    /* An unreadable place is not a foreign one. */
    simulated_media_fault(bench.media, FAULT_EIO, DISK_READ, 2, 0);
    assert_int_equal(superblock_read(bench.disk, superblock, &condition, &failure), ERR_IO);
    assert_int_equal(condition.place[SUPERBLOCK_TAIL_FIRST], SUPERBLOCK_UNREADABLE);
    free(superblock);
    bench_close(&bench);
}

static void a_shrunk_disk_is_named(void **state)
{
    (void)state;
    struct simulation *simulation = simulation_new(1);
    struct simulated_media *large = simulated_media_new(simulation, 2 * DISK_BYTES, 0, 0);
    struct simulated_media *small = simulated_media_new(simulation, DISK_BYTES, 0, 0);
    struct simulated_media *tiny = simulated_media_new(simulation, MIB, 0, 0);
    struct superblock *superblock = fresh(2 * DISK_BYTES);
    struct superblock_condition condition;
    struct failure failure;
    struct disk *disk;
    assert_int_equal(simulated_disk_open(large, DISK_OPEN_EXCLUSIVE, &disk, NULL), 0);
    assert_int_equal(superblock_format(disk, superblock, &failure), 0);
    disk_close(&disk);
    uint8_t *head = malloc(META_BYTES);
    simulated_media_peek(large, 0, head, META_BYTES);
    simulated_media_poke(small, 0, head, META_BYTES);
    assert_int_equal(simulated_disk_open(small, DISK_OPEN_EXCLUSIVE, &disk, NULL), 0);
    assert_int_equal(superblock_read(disk, superblock, &condition, &failure), ERR_CORRUPT);
    assert_non_null(strstr(failure.text, "shrunk"));
    assert_int_equal(disk->geometry.slot_count, 0);
    disk_close(&disk);
    assert_int_equal(simulated_disk_open(tiny, DISK_OPEN_EXCLUSIVE, &disk, NULL), 0);
    assert_int_equal(superblock_read(disk, superblock, &condition, &failure), ERR_FOREIGN);
    disk_close(&disk);
    free(head);
    free(superblock);
    simulated_media_free(&large);
    simulated_media_free(&small);
    simulated_media_free(&tiny);
    simulation_free(&simulation);
}

/* A disk used whole whose head is gone altogether is found by its tail; so is one that has grown,
 * by its head. */
static void one_end_is_enough(void **state)
{
    (void)state;
    struct bench bench;
    struct superblock *superblock = fresh(DISK_BYTES), *back = malloc(sizeof *back);
    struct superblock_condition condition;
    struct failure failure;
    uint8_t *zeros = calloc(1, META_BYTES);
    bench_open(&bench, 1);
    assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
    simulated_media_poke(bench.media, 0, zeros, META_BYTES);
    assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), 0);
    assert_memory_equal(back, superblock, sizeof *back);
    assert_int_equal(condition.repairs, 2);
    bench_close(&bench);

    struct simulation *simulation = simulation_new(1);
    struct simulated_media *grown = simulated_media_new(simulation, 3 * DISK_BYTES, 0, 0);
    struct disk *disk;
    assert_int_equal(simulated_disk_open(grown, DISK_OPEN_EXCLUSIVE, &disk, NULL), 0);
    assert_int_equal(superblock_format(disk, superblock, &failure), 0);
    assert_int_equal(superblock_read(disk, back, &condition, &failure), 0);
    assert_int_equal(condition.repairs, 0);
    assert_int_equal(disk->geometry.disk_bytes, DISK_BYTES);
    disk_close(&disk);
    simulated_media_free(&grown);
    simulation_free(&simulation);
    free(superblock);
    free(back);
    free(zeros);
}

/* Breaks one thing, with a right checksum, and expects the verdict. */
#define BROKEN(verdict, change)                                                           \
    do {                                                                                  \
        struct superblock *s = malloc(sizeof *s);                                         \
        memcpy(s, good, sizeof *s);                                                       \
        change;                                                                           \
        reseal(s);                                                                        \
        if (superblock_check((const uint8_t *)s, sizeof *s) != (verdict))                 \
            fail_msg("%s: %d", #change, superblock_check((const uint8_t *)s, sizeof *s)); \
        free(s);                                                                          \
    } while (0)

static void hostile_fields(void **state)
{
    (void)state;
    struct superblock *good = fresh(DISK_BYTES);
    reseal(good);
    assert_int_equal(superblock_check((const uint8_t *)good, sizeof *good), 0);
    assert_int_equal(superblock_check((const uint8_t *)good, sizeof *good - 1), ERR_FOREIGN);
    assert_int_equal(superblock_check(NULL, 0), ERR_FOREIGN);

    BROKEN(ERR_FOREIGN, s->magic[0] = 't');
    BROKEN(ERR_UNSUPPORTED, s->version = le32_of(2));
    BROKEN(ERR_UNSUPPORTED, s->version = le32_of(0));
    BROKEN(ERR_UNSUPPORTED, s->incompat = le32_of(1));
    BROKEN(ERR_UNSUPPORTED, s->incompat = le32_of(1u << 31));
    BROKEN(ERR_UNSUPPORTED, s->cipher = 1);
    BROKEN(0, s->compat = le32_of(1));
    BROKEN(ERR_CORRUPT, s->generation = le64_of(UINT64_MAX));
    BROKEN(ERR_CORRUPT, memset(&s->ring, 0, sizeof s->ring));
    BROKEN(ERR_CORRUPT, memset(&s->disk, 0, sizeof s->disk));
    BROKEN(ERR_CORRUPT, s->disk_bytes = le64_of(DISK_BYTES + 1));
    BROKEN(ERR_CORRUPT, s->disk_bytes = le64_of(DISK_BYTES - PAGE_BYTES));
    BROKEN(ERR_CORRUPT, s->disk_bytes = le64_of(0));
    BROKEN(ERR_CORRUPT, s->disk_bytes = le64_of(UINT64_MAX & ~4095ull));
    BROKEN(ERR_CORRUPT, s->slots_offset = le64_of(0));
    BROKEN(ERR_CORRUPT, s->slots_offset = le64_of(META_BYTES + 1));
    BROKEN(ERR_CORRUPT, s->slots_offset = le64_of(META_BYTES + PAGE_BYTES));
    BROKEN(ERR_CORRUPT, s->slots_offset = le64_of(UINT64_MAX & ~4095ull));
    BROKEN(ERR_CORRUPT, s->slot_bytes = le64_of(0));
    BROKEN(ERR_CORRUPT, s->slot_bytes = le64_of(MIB + 1));
    BROKEN(ERR_CORRUPT, s->slot_bytes = le64_of(2 * MIB));
    BROKEN(ERR_CORRUPT, s->slot_bytes = le64_of(UINT64_C(1) << 63));
    BROKEN(ERR_CORRUPT, s->slot_count = le64_of(3));
    BROKEN(ERR_CORRUPT, s->slot_count = le64_of(5));
    BROKEN(ERR_CORRUPT, s->slot_count = le64_of(UINT32_MAX));
    BROKEN(ERR_CORRUPT, s->slot_count = le64_of(UINT64_MAX));
    BROKEN(ERR_CORRUPT, s->slot_count = le64_of(UINT64_C(1) << 44)); /* times 2^20 is 2^64 */
    BROKEN(ERR_CORRUPT, s->copies = 0);
    BROKEN(ERR_CORRUPT, s->copies = 5);
    BROKEN(ERR_CORRUPT, s->members = le16_of(SUPERBLOCK_MEMBERS + 1));
    BROKEN(ERR_CORRUPT, s->members = le16_of(3)); /* the third is zeros */
    BROKEN(0, s->members = le16_of(0));
    BROKEN(ERR_CORRUPT, s->tombstones = le16_of(SUPERBLOCK_TOMBSTONES + 1));
    BROKEN(ERR_CORRUPT, s->ring_name[0] = 0);
    BROKEN(ERR_CORRUPT, s->ring_name[0] = '.');
    BROKEN(ERR_CORRUPT, s->ring_name[2] = '/');
    BROKEN(ERR_CORRUPT, memset(s->ring_name, 'a', sizeof s->ring_name));
    BROKEN(ERR_CORRUPT, memset(s->recorder, 'a', sizeof s->recorder));
    BROKEN(ERR_CORRUPT, s->recorder[1] = '\033');
    BROKEN(ERR_CORRUPT, s->member[1].name[1] = '\n');
    BROKEN(ERR_CORRUPT, memset(s->member[1].name, 'a', sizeof s->member[1].name));
    BROKEN(ERR_CORRUPT, s->member[1].disk = s->member[0].disk);
    BROKEN(ERR_CORRUPT, s->member[1].state = DISK_FOREIGN + 1);
    BROKEN(ERR_CORRUPT, s->member[1].bytes = le64_of(UINT64_MAX));
    free(good);
}

/* What is wrong in one place with a right checksum is refused as a whole only where a newer version
 * wrote it. */
static void a_newer_version_is_left_alone(void **state)
{
    (void)state;
    struct bench bench;
    struct superblock *superblock = fresh(DISK_BYTES);
    struct superblock_condition condition;
    struct failure failure;
    bench_open(&bench, 1);
    assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
    superblock->generation = le64_of(2);
    superblock->incompat = le32_of(4);
    reseal(superblock);
    simulated_media_poke(bench.media, 0, (const uint8_t *)superblock, sizeof *superblock);
    assert_int_equal(superblock_read(bench.disk, superblock, &condition, &failure),
                     ERR_UNSUPPORTED);

    /* A compatible feature: may be read, not written. */
    superblock->incompat = le32_of(0);
    superblock->compat = le32_of(1);
    reseal(superblock);
    simulated_media_poke(bench.media, 0, (const uint8_t *)superblock, sizeof *superblock);
    assert_int_equal(superblock_read(bench.disk, superblock, &condition, &failure),
                     ERR_UNSUPPORTED);
    struct disk *reader;
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_READ, &reader, &failure), 0);
    assert_int_equal(superblock_read(reader, superblock, &condition, &failure), 0);
    disk_close(&reader);
    free(superblock);
    bench_close(&bench);
}

static void impossible_ones_are_not_written(void **state)
{
    (void)state;
    struct bench bench;
    struct superblock *superblock = fresh(DISK_BYTES);
    struct failure failure;
    uint8_t head[4096], zeros[4096] = {0};
    bench_open(&bench, 1);
    superblock->copies = 9;
    assert_int_equal(superblock_format(bench.disk, superblock, &failure), ERR_INTERNAL);
    simulated_media_peek(bench.media, 0, head, sizeof head);
    assert_memory_equal(head, zeros, sizeof head);
    free(superblock);
    bench_close(&bench);
}

/*
 * A cut at every event of five writes, with many seeds: what is read afterwards is the last
 * acknowledged one or the one that was under way, and it can be written again at once.
 */
static void a_cut_at_every_event(void **state)
{
    (void)state;
    struct superblock *superblock = fresh(DISK_BYTES), *back = malloc(sizeof *back);
    uint32_t older = 0, newer = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        uint64_t events = 1;
        for (uint64_t cut = 0; cut <= events; cut++) {
            struct bench bench;
            struct superblock_condition condition;
            struct failure failure;
            bench_open(&bench, seed);
            assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
            uint64_t before = simulation_events(bench.simulation);
            simulation_cut_after(bench.simulation, cut,
                                 seed % 3 ? SIMULATION_CUT_POWER : SIMULATION_CUT_PROCESS);
            uint64_t acknowledged = 1;
            int result = 0;
            for (uint64_t write = 2; write < 7 && result == 0; write++) {
                superblock->updated_ns = le64_of(write);
                result = superblock_write(bench.disk, superblock, &failure);
                if (result == 0)
                    acknowledged = write;
            }
            if (cut == 0)
                events = simulation_events(bench.simulation) - before;
            else
                assert_true(result == ERR_CLOSED || cut == events);
            bench_reopen(&bench);
            result = superblock_read(bench.disk, back, &condition, &failure);
            if (result != 0)
                fail_msg("seed %llu, cut %llu: %s", (unsigned long long)seed,
                         (unsigned long long)cut, failure.text);
            uint64_t found = le64_get(back->generation);
            if (found != acknowledged && found != acknowledged + 1)
                fail_msg("seed %llu, cut %llu: %llu acknowledged, %llu found",
                         (unsigned long long)seed, (unsigned long long)cut,
                         (unsigned long long)acknowledged, (unsigned long long)found);
            if (found > 1)
                assert_int_equal(le64_get(back->updated_ns), found);
            older += found == acknowledged;
            newer += found == acknowledged + 1;
            assert_int_equal(superblock_repair(bench.disk, back, &failure), 0);
            assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), 0);
            assert_int_equal(condition.repairs, 0);
            bench_close(&bench);
        }
        assert_int_equal(events, 5 * 8);
    }
    assert_true(older > 100 && newer > 50);
    free(superblock);
    free(back);
}

/* A cut while a disk of an earlier ring is made ours: the earlier ring, ours, or nothing, never a
 * mixture. */
static void a_cut_while_formatting(void **state)
{
    (void)state;
    struct superblock *old = fresh(DISK_BYTES), *new = fresh(DISK_BYTES),
                      *back = malloc(sizeof *back);
    uint64_t events = 1;
    for (uint64_t cut = 0; cut <= events; cut++) {
        for (uint64_t seed = 0; seed < 10; seed++) {
            struct bench bench;
            struct superblock_condition condition;
            struct failure failure;
            bench_open(&bench, seed);
            assert_int_equal(superblock_format(bench.disk, old, &failure), 0);
            for (uint32_t i = 0; i < 7; i++)
                assert_int_equal(superblock_write(bench.disk, old, &failure), 0);
            uint64_t before = simulation_events(bench.simulation);
            simulation_cut_after(bench.simulation, cut, SIMULATION_CUT_POWER);
            int result = superblock_format(bench.disk, new, &failure);
            if (cut == 0)
                events = simulation_events(bench.simulation) - before;
            bench_reopen(&bench);
            int found = superblock_read(bench.disk, back, &condition, &failure);
            if (result == 0) {
                assert_int_equal(found, 0);
                assert_true(identity_equal(&back->disk, &new->disk));
            }
            if (found == 0 && identity_equal(&back->disk, &old->disk)) {
                assert_true(le64_get(back->generation) >= 7); /* or the one before */
                assert_int_equal(condition.place[SUPERBLOCK_HEAD_FIRST] == SUPERBLOCK_GOOD &&
                                     condition.generation[SUPERBLOCK_HEAD_FIRST] < 8,
                                 0);
            } else {
                assert_true(found == 0 || found == ERR_FOREIGN || found == ERR_CORRUPT);
            }
            bench_close(&bench);
        }
    }
    free(old);
    free(new);
    free(back);
}

/* Each I/O of a write fails in turn: the last acknowledged superblock stays, and the next write is
 * well. */
static void each_call_fails_in_turn(void **state)
{
    (void)state;
    for (uint32_t op = DISK_WRITE; op <= DISK_FLUSH; op++) {
        for (uint32_t after = 0; after < 4; after++) {
            struct bench bench;
            struct superblock *superblock = fresh(DISK_BYTES), *back = malloc(sizeof *back);
            struct superblock_condition condition;
            struct failure failure;
            bench_open(&bench, after);
            assert_int_equal(superblock_format(bench.disk, superblock, &failure), 0);
            bench.disk = disk_faulty_wrap(bench.disk, op, after, true);
            bool failed = false;
            for (uint32_t write = 0; write < 2; write++) {
                if (superblock_write(bench.disk, superblock, &failure) == 0)
                    continue;
                failed = true;
                assert_int_equal(failure.code, ERR_IO);
                assert_int_equal(superblock_read(bench.disk, back, NULL, &failure), 0);
                uint64_t found = le64_get(back->generation);
                assert_true(found == write + 1 || found == write + 2);
            }
            assert_true(failed && disk_faulty_struck(bench.disk));
            uint64_t before = le64_get(superblock->generation);
            assert_int_equal(superblock_write(bench.disk, superblock, &failure), 0);
            assert_true(le64_get(superblock->generation) > before);
            assert_int_equal(superblock_read(bench.disk, back, &condition, &failure), 0);
            assert_memory_equal(back, superblock, sizeof *back);
            free(superblock);
            free(back);
            bench_close(&bench);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(geometry_of_all_sizes),
        cmocka_unit_test(written_is_read),
        cmocka_unit_test(damage_is_noticed_and_mended),
        cmocka_unit_test(a_missing_write_is_noticed),
        cmocka_unit_test(all_places_lost),
        cmocka_unit_test(a_shrunk_disk_is_named),
        cmocka_unit_test(one_end_is_enough),
        cmocka_unit_test(hostile_fields),
        cmocka_unit_test(a_newer_version_is_left_alone),
        cmocka_unit_test(impossible_ones_are_not_written),
        cmocka_unit_test(a_cut_at_every_event),
        cmocka_unit_test(a_cut_while_formatting),
        cmocka_unit_test(each_call_fails_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
