/*
 * The simulated disk keeps its own promises: what is flushed survives every cut, what is not
 * flushed is kept, dropped or torn at 512 bytes, later writes stay later ones, each fault does what
 * its name says, and a seed replays exactly. Prints its seeds in every failure.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "buffer_poison.h"
#include "checksum.h"
#include "simulation.h"
#include "unit_test.h"

#ifdef __SANITIZE_THREAD__ /* its shadow leaves no address space for more */
#define SPARSE_BYTES (UINT64_C(16) << 30)
#else
#define SPARSE_BYTES (UINT64_C(1) << 40)
#endif

#define MEDIA_BYTES (4u << 20)
#define PAGES (MEDIA_BYTES / PAGE_BYTES)

struct bench {
    struct simulation *simulation;
    struct simulated_media *media;
    struct disk *disk;
};

static void bench_open(struct bench *bench, uint64_t seed)
{
    bench->simulation = simulation_new(seed);
    bench->media = simulated_media_new(bench->simulation, MEDIA_BYTES, 1u << 30, 50000);
    assert_int_equal(simulated_disk_open(bench->media, DISK_OPEN_EXCLUSIVE, &bench->disk, NULL), 0);
}

static void bench_close(struct bench *bench)
{
    disk_close(&bench->disk);
    simulated_media_free(&bench->media);
    simulation_free(&bench->simulation);
}

static uint8_t *pages(uint32_t count, uint8_t fill)
{
    uint8_t *buffer = aligned_alloc(PAGE_BYTES, (size_t)count * PAGE_BYTES);
    assert_non_null(buffer);
    memset(buffer, fill, (size_t)count * PAGE_BYTES);
    return buffer;
}

static uint32_t done_count;

static void count_done(struct disk_request *request)
{
    (void)request;
    done_count++;
}

static struct disk_request make(enum disk_op op, uint64_t offset, uint8_t *buffer, uint32_t bytes)
{
    return (struct disk_request){.op = op,
                                 .slot = DISK_SLOT_META,
                                 .offset = offset,
                                 .buffer = buffer,
                                 .bytes = bytes,
                                 .buffer_index = -1,
                                 .done = count_done};
}

static void reads_back_what_was_written(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 1);
    uint8_t *buffer = pages(2, 0xa5);
    uint8_t *back = pages(2, 0);
    uint64_t before = simulation_now_ns(bench.simulation);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 8192, buffer, 8192), 0);
    assert_true(simulation_now_ns(bench.simulation) >= before + 50000);
    assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 8192, back, 8192), 0);
    assert_memory_equal(buffer, back, 8192);
    assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, 8192), 0);
    for (int i = 0; i < 8192; i++)
        assert_int_equal(back[i], 0);

    /* Slots count from the geometry; what lies outside is refused and changes nothing. */
    bench.disk->geometry = (struct disk_geometry){.disk_bytes = MEDIA_BYTES,
                                                  .slots_offset = 1u << 20,
                                                  .slot_bytes = 1u << 20,
                                                  .slot_count = 2};
    assert_int_equal(disk_write(bench.disk, 1, 4096, buffer, 4096), 0);
    simulated_media_peek(bench.media, (2u << 20) + 4096, back, 4096);
    assert_memory_equal(buffer, back, 4096);
    assert_int_equal(disk_write(bench.disk, 2, 0, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, 1, (1u << 20) - 4096, buffer, 8192), ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, MEDIA_BYTES, buffer, 4096),
                     ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, UINT64_MAX - 4095, buffer, 4096),
                     ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 512, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer + 512, 4096), ERR_INVALID);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 512), ERR_INVALID);
    bench_close(&bench);
    free(buffer);
    free(back);
}

static void one_exclusive_owner(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 2);
    struct disk *second = NULL;
    struct failure failure;
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_EXCLUSIVE, &second, &failure),
                     ERR_BUSY);
    assert_null(second);
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_READ, &second, &failure), 0);
    uint8_t *buffer = pages(1, 1);
    assert_int_equal(disk_write(second, DISK_SLOT_META, 0, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_read(second, DISK_SLOT_META, 0, buffer, 4096), 0);
    disk_close(&second);
    disk_close(&bench.disk);
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_EXCLUSIVE, &bench.disk, &failure),
                     0);
    bench_close(&bench);
    free(buffer);
}

static void completions_change_order(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 3);
    struct disk_request request[32];
    uint8_t *buffer = pages(32, 7);
    bool swapped = false;
    for (uint32_t i = 0; i < 32; i++) {
        request[i] = make(DISK_WRITE, i * 4096, buffer + i * 4096, 4096);
        disk_submit(bench.disk, &request[i]);
    }
    done_count = 0;
    uint32_t seen = 0;
    while (simulation_step(bench.simulation)) {
        seen++;
        assert_int_equal(done_count, seen);
        uint32_t done_prefix = 0;
        while (done_prefix < 32 && request[done_prefix].body[3] == 2)
            done_prefix++;
        swapped |= done_prefix != seen;
    }
    assert_int_equal(seen, 32);
    assert_true(swapped);
    bench_close(&bench);
    free(buffer);
}

static void bandwidth_is_one_budget(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 4);
    uint8_t *buffer = pages(256, 9);
    uint8_t *other = pages(256, 9);
    struct disk_request request[64];
    uint64_t before = simulation_now_ns(bench.simulation);
    for (uint32_t i = 0; i < 64; i++) {
        request[i] = make(i % 2 ? DISK_READ : DISK_WRITE, i % 2 ? 1u << 20 : 0,
                          i % 2 ? other : buffer, 1u << 20);
        if (i % 2 && i > 1)
            request[i].bytes = 0; /* one read buffer: only one read at a time */
        if (request[i].bytes)
            disk_submit(bench.disk, &request[i]);
    }
    while (simulation_step(bench.simulation))
        ;
    uint64_t took = simulation_now_ns(bench.simulation) - before;
    uint64_t transfers = 33ull * 1000000000ull / 1024; /* 33 MiB at 1 GiB/s */
    assert_true(took >= transfers && took < transfers + 2000000);
    bench_close(&bench);
    free(buffer);
    free(other);
}

/* One write of 64 pages, half of them written over while it is under way; any mixture of sectors
 * may be read. */
static void readers_of_writes_under_way_see_old_or_new_sectors(void **state)
{
    (void)state;
    bool mixed = false;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        uint8_t *old = pages(64, 1);
        uint8_t *new = pages(64, 2);
        uint8_t *back = pages(64, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, old, 64 * 4096), 0);
        struct disk_request write = make(DISK_WRITE, 0, new, 64 * 4096);
        disk_submit(bench.disk, &write);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, 64 * 4096), 0);
        uint32_t ones = 0, twos = 0;
        for (uint32_t sector = 0; sector < 64 * 8; sector++) {
            uint8_t value = back[sector * 512];
            assert_true(value == 1 || value == 2);
            for (uint32_t i = 0; i < 512; i++)
                assert_int_equal(back[sector * 512 + i], value);
            ones += value == 1;
            twos += value == 2;
        }
        mixed |= ones > 0 && twos > 0;
        disk_wait(bench.disk, &write);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, 64 * 4096), 0);
        assert_memory_equal(back, new, 64 * 4096);
        bench_close(&bench);
        free(old);
        free(new);
        free(back);
    }
    assert_true(mixed);
}

/*
 * Random writes (value = number of the write), flushes and a cut. For each sector the model keeps
 * the value at the last flush and the values written since, in order: after the cut it must be one
 * of them.
 */
static void what_a_cut_may_leave(void **state)
{
    (void)state;
    uint32_t kept = 0, dropped = 0, torn = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        static uint8_t durable[64 * 8];       /* by sector: what is safe */
        static uint8_t possible[64 * 8][256]; /* by sector and value: what may be there */
        memset(durable, 0, sizeof durable);
        memset(possible, 0, sizeof possible);
        uint8_t *buffer = pages(64 * 40, 0);
        uint8_t value = 1;
        uint32_t count = 5 + (uint32_t)simulation_random(bench.simulation, 30);
        struct disk_request write[40];
        uint32_t first_unflushed = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t first = (uint32_t)simulation_random(bench.simulation, 60);
            uint32_t length = 1 + (uint32_t)simulation_random(bench.simulation, 4);
            uint8_t *bytes = buffer + (size_t)i * 64 * 4096;
            memset(bytes, value, length * 4096);
            write[i] = make(DISK_WRITE, first * 4096, bytes, length * 4096);
            disk_submit(bench.disk, &write[i]);
            for (uint32_t sector = first * 8; sector < (first + length) * 8; sector++)
                possible[sector][value] = 1;
            value++;
            if (simulation_random(bench.simulation, 4) == 0) {
                /* Ordered: everything so far is done, so that "the latest" means something. */
                while (simulation_step(bench.simulation))
                    ;
                assert_int_equal(disk_flush(bench.disk), 0);
                memset(possible, 0, sizeof possible);
                for (uint32_t sector = 0; sector < 64 * 8; sector++) {
                    simulated_media_peek(bench.media, sector * 512, &durable[sector], 1);
                }
                first_unflushed = i + 1;
            } else if (simulation_random(bench.simulation, 2) == 0) {
                simulation_step(bench.simulation);
            }
        }
        simulation_power_cut(bench.simulation);
        static uint8_t after[64 * 4096];
        simulated_media_peek(bench.media, 0, after, sizeof after);
        for (uint32_t sector = 0; sector < 64 * 8; sector++) {
            uint8_t found = after[sector * 512];
            if (found != durable[sector] && !possible[sector][found])
                fail_msg("seed %llu: sector %u holds %u", (unsigned long long)seed, sector, found);
            for (uint32_t i = 0; i < 512; i++) {
                if (after[sector * 512 + i] != found)
                    fail_msg("seed %llu: torn inside a sector", (unsigned long long)seed);
            }
        }
        for (uint32_t i = first_unflushed; i < count; i++) {
            uint32_t sectors = write[i].bytes / 512, present = 0;
            for (uint32_t s = 0; s < sectors; s++)
                present += after[write[i].offset + s * 512] == write[i].buffer[0];
            kept += present == sectors;
            dropped += present == 0;
            torn += present > 0 && present < sectors;
        }
        assert_false(simulation_step(bench.simulation));
        simulated_disk_forget(&bench.disk);
        bench_close(&bench);
        free(buffer);
    }
    /* All three happen, and none is rare. */
    assert_true(kept > 300 && dropped > 300 && torn > 300);
}

/* Two writes to one place, both complete, not flushed: whatever is kept, where both are kept the
 * later one wins. */
static void later_writes_stay_later(void **state)
{
    (void)state;
    uint32_t outcome[3] = {0, 0, 0};
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        uint8_t *one = pages(1, 1);
        uint8_t *two = pages(1, 2);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, one, 4096), 0);
        struct disk_request flush = make(DISK_FLUSH, 0, NULL, 0);
        disk_submit(bench.disk, &flush); /* covers the first write, not the second */
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, two, 4096), 0);
        disk_wait(bench.disk, &flush);
        assert_int_equal(flush.result, 0);
        simulation_power_cut(bench.simulation);
        uint8_t after[4096];
        simulated_media_peek(bench.media, 0, after, sizeof after);
        for (uint32_t sector = 0; sector < 8; sector++) {
            /* Zero would mean that a flushed write was lost. */
            assert_true(after[sector * 512] == 1 || after[sector * 512] == 2);
            outcome[after[sector * 512]]++;
        }
        simulated_disk_forget(&bench.disk);
        bench_close(&bench);
        free(one);
        free(two);
    }
    assert_true(outcome[1] > 200 && outcome[2] > 200);
}

static void a_killed_process_lands_its_writes(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 5);
    uint8_t *buffer = pages(2, 3);
    struct disk_request write = make(DISK_WRITE, 4096, buffer, 8192);
    done_count = 0;
    disk_submit(bench.disk, &write);
    simulation_process_kill(bench.simulation);
    assert_false(simulation_step(bench.simulation));
    assert_int_equal(done_count, 0);
    simulated_disk_forget(&bench.disk);
    assert_null(bench.disk);
    uint8_t after[8192];
    simulated_media_peek(bench.media, 4096, after, sizeof after);
    assert_memory_equal(after, buffer, 8192);

    /* A write that hangs holds the successor off until it has landed. */
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_EXCLUSIVE, &bench.disk, NULL), 0);
    memset(buffer, 4, 8192);
    simulated_media_fault(bench.media, FAULT_HUNG, DISK_WRITE, 0, 0);
    disk_submit(bench.disk, &write);
    simulation_process_kill(bench.simulation);
    simulated_disk_forget(&bench.disk);
    memset(buffer, 9, 8192);
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_EXCLUSIVE, &bench.disk, NULL),
                     ERR_BUSY);
    simulated_media_unhang(bench.media);
    assert_int_equal(simulated_disk_open(bench.media, DISK_OPEN_EXCLUSIVE, &bench.disk, NULL), 0);
    simulated_media_peek(bench.media, 4096, after, sizeof after);
    memset(buffer, 4, 8192);
    assert_memory_equal(after, buffer, 8192);
    bench_close(&bench);
    free(buffer);
}

static void armed_cut_lets_the_caller_out(void **state)
{
    (void)state;
    uint8_t *buffer = pages(1, 1);
    uint64_t events = 0;
    for (uint64_t cut = 0; cut <= 12; cut++) {
        struct bench bench;
        bench_open(&bench, 6);
        simulation_cut_after(bench.simulation, cut,
                             cut % 2 ? SIMULATION_CUT_POWER : SIMULATION_CUT_PROCESS);
        int results[6];
        for (uint32_t i = 0; i < 6; i++)
            results[i] = disk_write(bench.disk, DISK_SLOT_META, i * 4096, buffer, 4096);
        if (cut == 0)
            events = simulation_events(bench.simulation);
        assert_int_equal(simulation_cut_happened(bench.simulation), cut != 0);
        for (uint32_t i = 0; i < 6;
             i++) /* odd: cut after the submission; even: after the completion */
            assert_int_equal(results[i], cut == 0 || 2 * (i + 1) <= cut ? 0 : ERR_CLOSED);
        bench_close(&bench);
    }
    assert_int_equal(events, 12);
    free(buffer);
}

static uint32_t sectors_equal(struct bench *bench, uint64_t offset, uint32_t bytes, uint8_t value)
{
    uint32_t count = 0;
    for (uint32_t at = 0; at < bytes; at += 512) {
        uint8_t sector[512], expected[512];
        memset(expected, value, sizeof expected);
        simulated_media_peek(bench->media, offset + at, sector, sizeof sector);
        count += memcmp(sector, expected, sizeof sector) == 0;
    }
    return count;
}

static void every_fault_does_what_it_says(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        uint8_t *buffer = pages(4, 5);
        uint8_t *back = pages(4, 0);
        const uint32_t bytes = 4 * 4096;

        /* `after` lets requests pass, and other kinds do not count. */
        simulated_media_fault(bench.media, FAULT_EIO, DISK_WRITE, 1, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, bytes), 0);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, bytes), 0);
        assert_int_equal(simulated_media_struck(bench.media, FAULT_EIO), 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 65536, buffer, bytes), ERR_IO);
        assert_int_equal(simulated_media_struck(bench.media, FAULT_EIO), 1);
        assert_int_equal(sectors_equal(&bench, 65536, bytes, 5), 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 65536, buffer, bytes), 0);

        simulated_media_fault(bench.media, FAULT_EIO_LANDED, DISK_WRITE, 0, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 131072, buffer, bytes), ERR_IO);
        assert_int_equal(sectors_equal(&bench, 131072, bytes, 5), 32);

        simulated_media_fault(bench.media, FAULT_LOST, DISK_WRITE, 0, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 196608, buffer, bytes), 0);
        assert_int_equal(sectors_equal(&bench, 196608, bytes, 5), 0);

        simulated_media_fault(bench.media, FAULT_TORN, DISK_WRITE, 0, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 262144, buffer, bytes), 0);
        uint32_t landed = sectors_equal(&bench, 262144, bytes, 5);
        assert_true(landed < 32);
        assert_int_equal(landed + sectors_equal(&bench, 262144, bytes, 0), 32);

        memset(buffer, 6, bytes);
        simulated_media_fault(bench.media, FAULT_MISDIRECTED, DISK_WRITE, 0, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 2 * 65536 * 4, buffer, bytes), 0);
        uint32_t here = sectors_equal(&bench, 2 * 65536 * 4, bytes, 6);
        assert_true(here < 32);
        assert_int_equal(sectors_equal(&bench, 0, MEDIA_BYTES, 6), 32);

        memset(buffer, 0xff, bytes);
        simulated_media_fault(bench.media, FAULT_FLIPPED, DISK_WRITE, 0, 0);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 1u << 20, buffer, bytes), 0);
        assert_int_equal(sectors_equal(&bench, 1u << 20, bytes, 0xff), 31);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 1u << 20, buffer, bytes), 0);
        simulated_media_fault(bench.media, FAULT_FLIPPED, DISK_READ, 0, 0);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 1u << 20, back, bytes), 0);
        uint32_t wrong_bits = 0;
        for (uint32_t i = 0; i < bytes; i++)
            wrong_bits += (uint32_t)__builtin_popcount(back[i] ^ 0xffu);
        assert_int_equal(wrong_bits, 1);
        assert_int_equal(sectors_equal(&bench, 1u << 20, bytes, 0xff), 32);

        uint64_t before = simulation_now_ns(bench.simulation);
        simulated_media_fault(bench.media, FAULT_DELAYED, DISK_WRITE, 0, 5000000000u);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, bytes), 0);
        assert_true(simulation_now_ns(bench.simulation) - before >= 5000000000u);

        struct disk_request hung = make(DISK_WRITE, 0, back, bytes);
        memset(back, 8, bytes);
        simulated_media_fault(bench.media, FAULT_HUNG, DISK_WRITE, 0, 0);
        done_count = 0;
        disk_submit(bench.disk, &hung);
        assert_false(simulation_step(bench.simulation));
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 1u << 20, buffer, bytes), 0);
        assert_int_equal(done_count, 0);
        simulated_media_unhang(bench.media);
        disk_wait(bench.disk, &hung);
        assert_int_equal(done_count, 1);
        assert_int_equal(sectors_equal(&bench, 0, bytes, 8), 32);

        simulated_media_fault(bench.media, FAULT_VANISHED, 0, 1, 0);
        struct disk_request late = make(DISK_READ, 0, back, bytes);
        disk_submit(bench.disk, &late);
        assert_int_equal(disk_flush(bench.disk), ERR_IO);
        disk_wait(bench.disk, &late); /* it was under way when the disk went */
        assert_true(late.result == ERR_IO || late.result == 0);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, bytes), ERR_IO);
        simulated_media_return(bench.media);
        assert_int_equal(disk_read(bench.disk, DISK_SLOT_META, 0, back, bytes), 0);
        bench_close(&bench);
        free(buffer);
        free(back);
    }
}

/* A flush that failed: some of what it covered stays lost, also when the next flush is well. */
static void a_failed_flush_is_not_mended_by_the_next(void **state)
{
    (void)state;
    uint32_t lost = 0, safe = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        uint8_t *buffer = pages(1, 7);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 4096), 0);
        simulated_media_fault(bench.media, FAULT_EIO, DISK_FLUSH, 0, 0);
        assert_int_equal(disk_flush(bench.disk), ERR_IO);
        assert_int_equal(disk_flush(bench.disk), 0);
        /* What is written after the failure is covered as ever. */
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 8192, buffer, 4096), 0);
        assert_int_equal(disk_flush(bench.disk), 0);
        simulation_power_cut(bench.simulation);
        uint32_t found = sectors_equal(&bench, 0, 4096, 7);
        lost += found == 0;
        safe += found == 8;
        assert_int_equal(sectors_equal(&bench, 8192, 4096, 7), 8);
        simulated_disk_forget(&bench.disk);
        bench_close(&bench);
        free(buffer);
    }
    assert_int_equal(lost + safe, 100);
    assert_true(lost > 20 && safe > 20);
}

/* A device that lies about a flush. */
static void a_lost_flush_covers_nothing(void **state)
{
    (void)state;
    uint32_t dropped = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct bench bench;
        bench_open(&bench, seed);
        uint8_t *buffer = pages(1, 7);
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 4096), 0);
        simulated_media_fault(bench.media, FAULT_LOST, DISK_FLUSH, 0, 0);
        assert_int_equal(disk_flush(bench.disk), 0);
        simulation_power_cut(bench.simulation);
        dropped += sectors_equal(&bench, 0, 4096, 7) == 0;
        simulated_disk_forget(&bench.disk);
        bench_close(&bench);
        free(buffer);
    }
    assert_true(dropped > 10);
}

static uint32_t run_once(uint64_t seed)
{
    struct bench bench;
    bench_open(&bench, seed);
    uint8_t *buffer = pages(64, 0);
    struct disk_request write[64];
    for (uint32_t i = 0; i < 64; i++) {
        memset(buffer + i * 4096, (int)i + 1, 4096);
        write[i] = make(DISK_WRITE, simulation_random(bench.simulation, 32) * 4096,
                        buffer + i * 4096, 4096);
        disk_submit(bench.disk, &write[i]);
        if (i % 3 == 0)
            simulation_step(bench.simulation);
    }
    simulation_power_cut(bench.simulation);
    static uint8_t after[32 * 4096];
    simulated_media_peek(bench.media, 0, after, sizeof after);
    uint64_t now_ns = simulation_now_ns(bench.simulation);
    uint32_t crc =
        checksum_crc32c_more(checksum_crc32c(after, sizeof after), &now_ns, sizeof now_ns);
    simulated_disk_forget(&bench.disk);
    bench_close(&bench);
    free(buffer);
    return crc;
}

static void a_seed_replays_exactly(void **state)
{
    (void)state;
    uint32_t different = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint32_t once = run_once(seed);
        assert_int_equal(once, run_once(seed));
        different += once != run_once(seed + 1);
    }
    assert_true(different > 45);
}

static void sparse_media_are_cheap(void **state)
{
    (void)state;
    struct simulation *simulation = simulation_new(1);
    struct simulated_media *media = simulated_media_new(simulation, SPARSE_BYTES, 0, 0);
    struct disk *disk;
    uint8_t *buffer = pages(1, 1);
    uint8_t *back = pages(1, 0);
    assert_int_equal(simulated_disk_open(media, DISK_OPEN_EXCLUSIVE, &disk, NULL), 0);
    for (uint64_t at = 0; at < SPARSE_BYTES; at += SPARSE_BYTES / 16)
        assert_int_equal(disk_write(disk, DISK_SLOT_META, at, buffer, 4096), 0);
    assert_int_equal(disk_read(disk, DISK_SLOT_META, SPARSE_BYTES / 16 * 15, back, 4096), 0);
    assert_memory_equal(back, buffer, 4096);
    disk_close(&disk);
    simulated_media_free(&media);
    simulation_free(&simulation);
    free(buffer);
    free(back);
}

/* Under the address sanitizer, whoever looks into a read buffer before done() is told. */
static void a_buffer_under_a_read_is_poisoned(void **state)
{
    (void)state;
#ifdef BUFFER_POISON
    struct bench bench;
    bench_open(&bench, 1);
    uint8_t *buffer = pages(1, 1);
    struct disk_request read = make(DISK_READ, 0, buffer, 4096);
    assert_false(__asan_address_is_poisoned(buffer + 4095));
    disk_submit(bench.disk, &read);
    assert_true(__asan_address_is_poisoned(buffer));
    assert_true(__asan_address_is_poisoned(buffer + 4095));
    disk_wait(bench.disk, &read);
    assert_false(__asan_address_is_poisoned(buffer + 4095));
    disk_submit(bench.disk, &read);
    simulation_power_cut(bench.simulation);
    simulated_disk_forget(&bench.disk);
    assert_false(__asan_address_is_poisoned(buffer + 4095));
    bench_close(&bench);
    free(buffer);
#else
    skip();
#endif
}

/* Runs `what` in a child; true if it was ended by abort(). */
static bool aborts(void (*what)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(1);
        what();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void change_a_buffer_under_a_write(void)
{
    struct bench bench;
    bench_open(&bench, 1);
    uint8_t *buffer = pages(1, 1);
    struct disk_request write = make(DISK_WRITE, 0, buffer, 4096);
    disk_submit(bench.disk, &write);
    buffer[4095] ^= 1;
    disk_wait(bench.disk, &write);
}

static void wait_for_a_hung_request(void)
{
    struct bench bench;
    bench_open(&bench, 1);
    uint8_t *buffer = pages(1, 1);
    simulated_media_fault(bench.media, FAULT_HUNG, 0, 0, 0);
    disk_read(bench.disk, DISK_SLOT_META, 0, buffer, 4096);
}

static void bugs_of_the_caller_are_caught(void **state)
{
    (void)state;
    assert_true(aborts(change_a_buffer_under_a_write));
    assert_true(aborts(wait_for_a_hung_request));
}

static void faulty_fails_the_request_it_was_told(void **state)
{
    (void)state;
    uint8_t *buffer = pages(1, 1);
    for (int once = 0; once < 2; once++) {
        for (uint64_t after = 0; after < 7; after++) {
            struct bench bench;
            bench_open(&bench, after);
            bench.disk = disk_faulty_wrap(bench.disk, DISK_WRITE, after, once);
            assert_int_equal(bench.disk->bytes, MEDIA_BYTES);
            bench.disk->geometry = (struct disk_geometry){.disk_bytes = MEDIA_BYTES,
                                                          .slots_offset = 1u << 20,
                                                          .slot_bytes = 1u << 20,
                                                          .slot_count = 2};
            for (uint64_t i = 0; i < 6; i++) {
                assert_int_equal(disk_faulty_struck(bench.disk), i > after);
                bool fails = once ? i == after : i >= after;
                buffer[0] = (uint8_t)(i + 1);
                assert_int_equal(disk_write(bench.disk, 1, i * 4096, buffer, 4096),
                                 fails ? ERR_IO : 0);
                uint8_t found;
                simulated_media_peek(bench.media, (2u << 20) + i * 4096, &found, 1);
                assert_int_equal(found, fails ? 0 : i + 1);
                assert_int_equal(disk_read(bench.disk, 1, i * 4096, buffer, 4096), 0);
                assert_int_equal(buffer[0], fails ? 0 : i + 1);
                memset(buffer, 1, 4096);
                assert_int_equal(disk_flush(bench.disk), 0);
            }
            assert_int_equal(disk_write(bench.disk, 2, 0, buffer, 4096), ERR_INVALID);
            bench_close(&bench);
        }
    }
    free(buffer);
}

/* Lasting faults: a disk that hangs, one that now and then lies, one that becomes slow; and each of them healed. */
static void lasting_faults_and_their_end(void **state)
{
    (void)state;
    struct bench bench;
    bench_open(&bench, 8);
    uint8_t *buffer = pages(256, 7);
    struct disk_request request[3];
    done_count = 0;
    simulated_media_fault_often(bench.media, FAULT_HUNG, 0, 1, 0);
    for (uint32_t i = 0; i < 3; i++) {
        request[i] = make(DISK_WRITE, i * UINT64_C(4096), buffer + i * (size_t)4096, 4096);
        disk_submit(bench.disk, &request[i]);
    }
    assert_false(simulation_step(bench.simulation));
    assert_int_equal(done_count, 0);
    simulated_media_heal(bench.media);
    while (simulation_step(bench.simulation))
        ;
    assert_int_equal(done_count, 3);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 4096), 0);

    simulated_media_fault_often(bench.media, FAULT_LOST, DISK_WRITE, 4, 0);
    for (uint32_t i = 0; i < 400; i++)
        assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 8192, buffer, 4096), 0);
    uint64_t lost = simulated_media_struck(bench.media, FAULT_LOST);
    assert_true(lost > 50 && lost < 150);
    simulated_media_heal(bench.media);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 8192, buffer, 4096), 0);
    assert_int_equal(simulated_media_struck(bench.media, FAULT_LOST), lost);

    simulated_media_fault(bench.media, FAULT_VANISHED, 0, 0, 0);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 4096), ERR_IO);
    simulated_media_heal(bench.media);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 4096), 0);

    simulated_media_pace(bench.media, 1u << 20, 50000);
    uint64_t before = simulation_now_ns(bench.simulation);
    assert_int_equal(disk_write(bench.disk, DISK_SLOT_META, 0, buffer, 1u << 20), 0);
    assert_true(simulation_now_ns(bench.simulation) - before >= 1000000000);
    bench_close(&bench);
    free(buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lasting_faults_and_their_end),
        cmocka_unit_test(reads_back_what_was_written),
        cmocka_unit_test(one_exclusive_owner),
        cmocka_unit_test(completions_change_order),
        cmocka_unit_test(bandwidth_is_one_budget),
        cmocka_unit_test(readers_of_writes_under_way_see_old_or_new_sectors),
        cmocka_unit_test(what_a_cut_may_leave),
        cmocka_unit_test(later_writes_stay_later),
        cmocka_unit_test(a_killed_process_lands_its_writes),
        cmocka_unit_test(armed_cut_lets_the_caller_out),
        cmocka_unit_test(every_fault_does_what_it_says),
        cmocka_unit_test(a_failed_flush_is_not_mended_by_the_next),
        cmocka_unit_test(a_lost_flush_covers_nothing),
        cmocka_unit_test(a_seed_replays_exactly),
        cmocka_unit_test(sparse_media_are_cheap),
        cmocka_unit_test(a_buffer_under_a_read_is_poisoned),
        cmocka_unit_test(bugs_of_the_caller_are_caught),
        cmocka_unit_test(faulty_fails_the_request_it_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
