/*
 * The real body, on files (on tmpfs and in TMPDIR, or /tmp) and, where loop devices can be had, on
 * a block device: transfers, locks, what creation refuses, a full file system, and life without
 * io_uring. Promises P2 (locks outlive a killed process as long as its writes) and P9.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_io.h"
#include "simulation.h"
#include "superblock.h"
#include "unit_test.h"

#define MIB (UINT64_C(1) << 20)
#define FILE_BYTES (8 * MIB)

static const char *directories[2];
static char path_buffer[2][512];

/* A path in the i-th directory that is this process's own. */
static const char *path_in(unsigned i, const char *name)
{
    snprintf(path_buffer[i], sizeof path_buffer[i], "%s/tapeloop-uring-%d-%s", directories[i],
             (int)getpid(), name);
    return path_buffer[i];
}

static uint8_t *memory(size_t bytes)
{
    uint8_t *buffer = aligned_alloc(PAGE_BYTES, bytes);
    assert_non_null(buffer);
    memset(buffer, 0, bytes);
    return buffer;
}

static struct disk *make_file(const char *path, uint64_t bytes)
{
    struct disk *disk;
    struct failure failure;
    int result = disk_uring_create(path, bytes, false, &disk, &failure);
    if (result != 0)
        fail_msg("%s", failure.text);
    return disk;
}

struct counter {
    pthread_mutex_t lock;
    uint32_t done;
    uint32_t failed;
};

static void count_done(struct disk_request *request)
{
    struct counter *counter = request->owner;
    pthread_mutex_lock(&counter->lock);
    counter->done++;
    counter->failed += request->result != 0;
    pthread_mutex_unlock(&counter->lock);
}

/* ---- transfers ------------------------------------------------------------------------------- */

/* 64 requests at once, in and out of order, with and without registered buffers, over and under one
 * ring's depth. */
static void transfer(struct disk *disk, bool registered)
{
    enum { REQUESTS = 300, BYTES = 16384 };
    struct disk_request *request = calloc(REQUESTS, sizeof *request);
    uint8_t *area = memory((size_t)REQUESTS * BYTES);
    struct counter counter = {.lock = PTHREAD_MUTEX_INITIALIZER};
    if (registered) {
        assert_int_equal(disk->ops->register_buffers(disk, area, BYTES, REQUESTS), 0);
    }
    for (uint32_t round = 0; round < 2; round++) {
        enum disk_op op = round == 0 ? DISK_WRITE : DISK_READ;
        for (uint32_t i = 0; i < REQUESTS; i++) {
            uint32_t place = i * 7 % REQUESTS;
            uint8_t *buffer = area + (size_t)i * BYTES;
            for (uint32_t at = 0; at < BYTES; at += 512)
                memset(buffer + at, op == DISK_WRITE ? (int)(place + at / 512) : 0xee, 512);
            request[i] = (struct disk_request){.op = op,
                                               .slot = DISK_SLOT_META,
                                               .offset = (uint64_t)place * BYTES,
                                               .buffer = buffer,
                                               .bytes = BYTES,
                                               .buffer_index = registered ? (int32_t)i : -1,
                                               .done = count_done,
                                               .owner = &counter};
            if (round == 0)
                disk_submit(disk, &request[i]);
        }
        if (round == 1) /* all at once */
            disk_submit_all(disk, request, REQUESTS);
        for (uint32_t i = 0; i < REQUESTS; i++)
            disk_wait(disk, &request[i]);
        assert_int_equal(counter.done, (round + 1) * REQUESTS);
        assert_int_equal(counter.failed, 0);
        assert_true(request[0].submitted_ns > 0);
        assert_int_equal(disk_flush(disk), 0);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t place = i * 7 % REQUESTS;
        for (uint32_t at = 0; at < BYTES; at++)
            assert_int_equal(area[(size_t)i * BYTES + at], (uint8_t)(place + at / 512));
    }
    free(request);
    if (registered) /* the kernel has it pinned until the ring is gone */
        disk_close(&disk);
    free(area);
}

static void writes_are_read_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(directories); i++) {
        const char *path = path_in(i, "transfer");
        struct failure failure;
        struct disk *disk = make_file(path, FILE_BYTES);
        print_message("%s: %s, alignment %u\n", path, disk->ops->name, disk->alignment);
        assert_int_equal(disk->bytes, FILE_BYTES);
        assert_false(disk->read_only);
        transfer(disk, false);
        disk_close(&disk);
        assert_int_equal(disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure), 0);
        transfer(disk, true);
        unlink(path);
    }
}

static void impossible_requests_are_refused(void **state)
{
    (void)state;
    const char *path = path_in(0, "refused");
    struct disk *disk = make_file(path, FILE_BYTES), *reader;
    struct failure failure;
    uint8_t *buffer = memory(8192);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, FILE_BYTES, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, FILE_BYTES - 4096, buffer, 8192),
                     ERR_INVALID);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, 1, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, 0, buffer + 8, 4096), ERR_INVALID);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, 0, buffer, 100), ERR_INVALID);
    assert_int_equal(disk_write(disk, DISK_SLOT_META, 0, buffer, 0), ERR_INVALID);
    assert_int_equal(disk_write(disk, 0, 0, buffer, 4096), ERR_INVALID); /* no geometry yet */
    assert_int_equal(disk->ops->register_buffers(disk, buffer, 100, 1), ERR_INVALID);
    assert_int_equal(disk->ops->register_buffers(disk, buffer, 4096, 0), ERR_INVALID);
    assert_int_equal(disk_uring_open(path, DISK_OPEN_READ, &reader, &failure), 0);
    assert_true(reader->read_only);
    assert_int_equal(disk_write(reader, DISK_SLOT_META, 0, buffer, 4096), ERR_INVALID);
    assert_int_equal(disk_flush(reader), ERR_INVALID);
    assert_int_equal(disk_read(reader, DISK_SLOT_META, 0, buffer, 4096), 0);
    disk_close(&reader);
    disk_close(&disk);
    disk_close(&disk); /* a null one is allowed */
    unlink(path);
    free(buffer);
}

static void a_short_read_is_an_error(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(directories); i++) {
        const char *path = path_in(i, "short");
        struct disk *disk = make_file(path, FILE_BYTES);
        uint8_t *buffer = memory(65536);
        assert_int_equal(truncate(path, (off_t)(4 * MIB + 8192)), 0);
        assert_int_equal(disk_read(disk, DISK_SLOT_META, 4 * MIB, buffer, 8192), 0);
        assert_int_equal(disk_read(disk, DISK_SLOT_META, 4 * MIB, buffer, 65536), ERR_IO);
        assert_int_equal(disk_read(disk, DISK_SLOT_META, 6 * MIB, buffer, 4096), ERR_IO);
        disk_close(&disk);
        unlink(path);
        free(buffer);
    }
}

static void closing_waits_for_everything(void **state)
{
    (void)state;
    const char *path = path_in(1, "closing");
    struct failure failure;
    struct counter counter = {.lock = PTHREAD_MUTEX_INITIALIZER};
    enum { REQUESTS = 200, BYTES = 32768 };
    struct disk_request *request = calloc(REQUESTS, sizeof *request);
    uint8_t *buffer = memory(BYTES);
    memset(buffer, 0x77, BYTES);
    struct disk *disk = make_file(path, FILE_BYTES);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        request[i] = (struct disk_request){.op = DISK_WRITE,
                                           .slot = DISK_SLOT_META,
                                           .offset = (uint64_t)i * BYTES,
                                           .buffer = buffer,
                                           .bytes = BYTES,
                                           .buffer_index = -1,
                                           .done = count_done,
                                           .owner = &counter};
        disk_submit(disk, &request[i]);
    }
    disk_close(&disk);
    assert_int_equal(counter.done, REQUESTS);
    assert_int_equal(counter.failed, 0);
    uint8_t *back = memory(BYTES);
    assert_int_equal(disk_uring_open(path, DISK_OPEN_READ, &disk, &failure), 0);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(disk_read(disk, DISK_SLOT_META, (uint64_t)i * BYTES, back, BYTES), 0);
        assert_memory_equal(back, buffer, BYTES);
    }
    disk_close(&disk);
    unlink(path);
    free(buffer);
    free(back);
    free(request);
}

struct submitter {
    struct disk *disk;
    uint32_t number;
    uint32_t wrong;
};

/* Each thread writes and reads its own pages, waiting for each: waits and completions of all
 * interleave. */
static void *submit_many(void *argument)
{
    struct submitter *submitter = argument;
    uint8_t *buffer = memory(4096);
    for (uint32_t i = 0; i < 200; i++) {
        uint64_t at = (submitter->number * 200 + i) * 4096;
        memset(buffer, (int)(i + submitter->number + 1), 4096);
        submitter->wrong += disk_write(submitter->disk, DISK_SLOT_META, at, buffer, 4096) != 0;
        memset(buffer, 0, 4096);
        submitter->wrong += disk_read(submitter->disk, DISK_SLOT_META, at, buffer, 4096) != 0;
        submitter->wrong += buffer[4095] != (uint8_t)(i + submitter->number + 1);
    }
    free(buffer);
    return NULL;
}

static void any_thread_may_submit(void **state)
{
    (void)state;
    const char *path = path_in(0, "threads");
    struct disk *disk = make_file(path, FILE_BYTES);
    pthread_t thread[6];
    struct submitter submitter[COUNT(thread)];
    for (uint32_t i = 0; i < COUNT(thread); i++) {
        submitter[i] = (struct submitter){.disk = disk, .number = i};
        assert_int_equal(pthread_create(&thread[i], NULL, submit_many, &submitter[i]), 0);
    }
    for (uint32_t i = 0; i < COUNT(thread); i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(submitter[i].wrong, 0);
    }
    disk_close(&disk);
    unlink(path);
}

/* The wrapper of simulation.h does the same around a real disk as around a simulated one. */
static void a_faulty_disk_fails_one_request_of_many_threads(void **state)
{
    (void)state;
    const char *path = path_in(0, "faulty");
    struct disk *disk = disk_faulty_wrap(make_file(path, FILE_BYTES), DISK_WRITE, 500, true);
    pthread_t thread[6];
    struct submitter submitter[COUNT(thread)];
    uint32_t wrong = 0;
    assert_string_equal(disk->name, path);
    for (uint32_t i = 0; i < COUNT(thread); i++) {
        submitter[i] = (struct submitter){.disk = disk, .number = i};
        assert_int_equal(pthread_create(&thread[i], NULL, submit_many, &submitter[i]), 0);
    }
    for (uint32_t i = 0; i < COUNT(thread); i++) {
        pthread_join(thread[i], NULL);
        wrong += submitter[i].wrong;
    }
    assert_true(disk_faulty_struck(disk));
    assert_int_equal(wrong, 2); /* the write that failed, and what was then read in its place */
    disk_close(&disk);
    unlink(path);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void one_recorder_at_a_time(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(directories); i++) {
        const char *path = path_in(i, "lock");
        struct disk *disk = make_file(path, FILE_BYTES), *second;
        struct failure failure;
        assert_int_equal(disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &second, &failure), ERR_BUSY);
        assert_null(second);
        assert_non_null(strstr(failure.text, path));
        assert_non_null(strstr(failure.text, "another recorder"));
        assert_int_equal(disk_uring_create(path, FILE_BYTES, true, &second, &failure), ERR_BUSY);
        assert_int_equal(disk_uring_open(path, DISK_OPEN_READ, &second, &failure), 0);
        disk_close(&second);
        /* A reader that comes and goes does not take the lock along; and a closed disk is free at
         * once. */
        assert_int_equal(disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &second, &failure), ERR_BUSY);
        for (uint32_t round = 0; round < 50; round++) {
            disk_close(&disk);
            if (disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0)
                fail_msg("round %u: %s", round, failure.text);
        }
        disk_close(&disk);
        unlink(path);
    }
}

/*
 * A recorder is killed with 64 MiB of writes under way. Whoever gets the lock afterwards must find
 * a disk on which nothing moves any more: what is there then is there half a second later.
 */
static void a_killed_recorder_holds_its_lock_until_its_writes_have_landed(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20, REQUESTS = 64 };
    for (unsigned i = 0; i < COUNT(directories); i++) {
        const char *path = path_in(i, "killed");
        struct disk *disk = make_file(path, (uint64_t)BYTES * REQUESTS);
        struct failure failure;
        disk_close(&disk);
        uint32_t held_off = 0;
        for (uint32_t round = 1; round <= 5; round++) {
            int ready[2];
            assert_int_equal(pipe(ready), 0);
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                uint8_t *buffer = memory(BYTES);
                struct counter counter = {.lock = PTHREAD_MUTEX_INITIALIZER};
                memset(buffer, (int)round, BYTES);
                struct disk_request *request = calloc(REQUESTS, sizeof *request);
                if (disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, NULL) != 0)
                    _exit(1);
                for (uint32_t n = 0; n < REQUESTS; n++) {
                    request[n] = (struct disk_request){.op = DISK_WRITE,
                                                       .slot = DISK_SLOT_META,
                                                       .offset = (uint64_t)n * BYTES,
                                                       .buffer = buffer,
                                                       .bytes = BYTES,
                                                       .buffer_index = -1,
                                                       .done = count_done,
                                                       .owner = &counter};
                    disk_submit(disk, &request[n]);
                }
                if (write(ready[1], "x", 1) != 1)
                    _exit(1);
                pause();
                _exit(1);
            }
            char byte;
            close(ready[1]);
            assert_int_equal(read(ready[0], &byte, 1), 1);
            close(ready[0]);
            kill(child, SIGKILL);
            int result;
            while ((result = disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure)) ==
                   ERR_BUSY) {
                held_off++;
                usleep(1000);
            }
            assert_int_equal(result, 0);
            uint8_t *then = memory((size_t)BYTES * REQUESTS),
                    *later = memory((size_t)BYTES * REQUESTS);
            for (uint32_t n = 0; n < REQUESTS; n++)
                assert_int_equal(disk_read(disk, DISK_SLOT_META, (uint64_t)n * BYTES,
                                           then + (size_t)n * BYTES, BYTES),
                                 0);
            usleep(200000);
            for (uint32_t n = 0; n < REQUESTS; n++)
                assert_int_equal(disk_read(disk, DISK_SLOT_META, (uint64_t)n * BYTES,
                                           later + (size_t)n * BYTES, BYTES),
                                 0);
            assert_int_equal(memcmp(then, later, (size_t)BYTES * REQUESTS), 0);
            free(then);
            free(later);
            disk_close(&disk);
            int status;
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFSIGNALED(status));
        }
        print_message("%s: the successor was held off %u times\n", path, held_off);
        unlink(path);
    }
}

/* ---- making ---------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void a_new_file_is_allocated_whole(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(directories); i++) {
        const char *path = path_in(i, "new");
        struct disk *disk = make_file(path, FILE_BYTES + 1), *again;
        struct failure failure;
        struct stat status;
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_size, FILE_BYTES + 4096);
        assert_true((uint64_t)status.st_blocks * 512 >= FILE_BYTES + 4096);
        assert_int_equal(status.st_mode & 0777, 0600);
        assert_int_equal(disk->bytes, FILE_BYTES + 4096);
        disk_close(&disk);

        /* Nothing was written: it may be taken again, also smaller, larger, and as it is. (tmpfs
         * calls pages data that were allocated twice.) */
        struct statfs system;
        assert_int_equal(statfs(path, &system), 0);
        bool force = false;
        static const struct {
            uint64_t asked, got;
        } sizes[] = {{3 * MIB, 3 * MIB}, {9 * MIB, 9 * MIB}, {0, 9 * MIB}};
        for (uint32_t n = 0; n < COUNT(sizes); n++) {
            if (disk_uring_create(path, sizes[n].asked, force, &disk, &failure) != 0)
                fail_msg("%s", failure.text);
            assert_int_equal(disk->bytes, sizes[n].got);
            if (n + 1 < COUNT(sizes))
                disk_close(&disk);
            force = system.f_type == TMPFS_MAGIC;
        }

        /* One page is written: now it is somebody's. */
        uint8_t *buffer = memory(4096);
        assert_int_equal(disk_write(disk, DISK_SLOT_META, 5 * MIB, buffer, 4096), 0);
        disk_close(&disk);
        assert_int_equal(disk_uring_create(path, FILE_BYTES, false, &again, &failure), ERR_FOREIGN);
        assert_null(again);
        assert_non_null(strstr(failure.text, "--force"));
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_size, 9 * MIB);
        assert_int_equal(disk_uring_create(path, FILE_BYTES, true, &again, &failure), 0);
        assert_int_equal(again->bytes, FILE_BYTES);
        disk_close(&again);
        free(buffer);
        unlink(path);
    }
}

static void somebodys_data_is_refused(void **state)
{
    (void)state;
    const char *path = path_in(0, "data");
    struct disk *disk;
    struct failure failure;
    write_file(path, "a letter to somebody");
    assert_int_equal(disk_uring_create(path, FILE_BYTES, false, &disk, &failure), ERR_FOREIGN);
    assert_non_null(strstr(failure.text, path));
    struct stat status;
    char text[64] = "";
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 20);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, text, sizeof text), 20);
    close(fd);
    assert_string_equal(text, "a letter to somebody");
    assert_int_equal(disk_uring_create(path, FILE_BYTES, true, &disk, &failure), 0);
    assert_int_equal(disk->bytes, FILE_BYTES);

    /* A ring's disk is named as such. */
    struct superblock *superblock = malloc(sizeof *superblock);
    struct disk_geometry geometry;
    struct identity ring;
    identity_make(&ring);
    assert_int_equal(disk_geometry_plan(disk->bytes, 0, &geometry, &failure), 0);
    superblock_make(superblock, &geometry, &ring, "lobby", 1, 1);
    assert_int_equal(superblock_format(disk, superblock, &failure), 0);
    disk_close(&disk);
    assert_int_equal(disk_uring_create(path, FILE_BYTES, false, &disk, &failure), ERR_FOREIGN);
    assert_non_null(strstr(failure.text, "\"lobby\""));
    assert_int_equal(disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure), 0);
    assert_int_equal(superblock_read(disk, superblock, NULL, &failure), 0);
    assert_string_equal(superblock->ring_name, "lobby");
    disk_close(&disk);
    free(superblock);
    unlink(path);
}

static bool make_file_system(const char *path)
{
    char command[700];
    snprintf(command, sizeof command,
             "PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -F -L archive '%s' 2>/dev/null", path);
    return system(command) == 0;
}

static bool holds_file_system(const char *path)
{
    char command[700];
    snprintf(command, sizeof command, "PATH=$PATH:/sbin:/usr/sbin blkid -p '%s' >/dev/null 2>&1",
             path);
    return system(command) == 0;
}

static void a_file_system_is_refused_by_name(void **state)
{
    (void)state;
    const char *path = path_in(0, "ext4");
    struct disk *disk = make_file(path, 16 * MIB);
    struct failure failure;
    disk_close(&disk);
    if (!make_file_system(path)) {
        unlink(path);
        print_message("no mkfs.ext4 here\n");
        skip();
    }
    assert_int_equal(disk_uring_create(path, 16 * MIB, false, &disk, &failure), ERR_FOREIGN);
    assert_non_null(strstr(failure.text, "an ext4 file system \"archive\""));
    assert_true(holds_file_system(path));
    assert_int_equal(disk_uring_create(path, 16 * MIB, true, &disk, &failure), 0);
    disk_close(&disk);
    assert_false(holds_file_system(path));
    unlink(path);
}

static void bad_paths_get_a_sentence(void **state)
{
    (void)state;
    struct disk *disk;
    struct failure failure;
    const char *missing = path_in(0, "missing/disk");
    assert_int_equal(disk_uring_open(missing, DISK_OPEN_READ, &disk, &failure), ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, missing));
    assert_int_equal(disk_uring_create(missing, FILE_BYTES, false, &disk, &failure), ERR_NOT_FOUND);
    assert_int_equal(disk_uring_open(directories[0], DISK_OPEN_READ, &disk, &failure), ERR_INVALID);
    assert_int_equal(disk_uring_create(directories[0], FILE_BYTES, true, &disk, &failure),
                     ERR_INVALID);
    assert_int_equal(disk_uring_create("/dev/null", FILE_BYTES, true, &disk, &failure),
                     ERR_INVALID);
    assert_int_equal(disk_uring_create(missing, UINT64_MAX, true, &disk, &failure), ERR_TOO_LARGE);

    const char *fifo = path_in(0, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(disk_uring_open(fifo, DISK_OPEN_EXCLUSIVE, &disk, &failure), ERR_INVALID);
    unlink(fifo);

    const char *empty = path_in(0, "empty");
    assert_int_equal(disk_uring_create(empty, 0, false, &disk, &failure), ERR_NOT_FOUND);
    write_file(empty, "");
    assert_int_equal(disk_uring_create(empty, 0, false, &disk, &failure), ERR_INVALID);
    unlink(empty);

    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(disk_uring_from_fd(ends[0], "a pipe", &disk, &failure), ERR_INVALID);
    assert_int_equal(fcntl(ends[0], F_GETFD), -1); /* it was consumed */
    close(ends[1]);
}

/* The confined reader's way in: no lock, no write, buffered or not. */
static void a_descriptor_is_enough_to_read(void **state)
{
    (void)state;
    const char *path = path_in(1, "descriptor");
    struct disk *writer = make_file(path, FILE_BYTES), *reader;
    struct failure failure;
    uint8_t *buffer = memory(4096), *back = memory(4096);
    memset(buffer, 0x31, 4096);
    assert_int_equal(disk_write(writer, DISK_SLOT_META, MIB, buffer, 4096), 0);
    for (int direct = 0; direct < 2; direct++) {
        int fd = open(path, O_RDONLY | (direct ? O_DIRECT : 0));
        assert_true(fd >= 0);
        assert_int_equal(disk_uring_from_fd(fd, "the file", &reader, &failure), 0);
        assert_string_equal(reader->name, "the file");
        assert_int_equal(reader->bytes, FILE_BYTES);
        assert_true(reader->read_only);
        assert_int_equal(disk_read(reader, DISK_SLOT_META, MIB, back, 4096), 0);
        assert_memory_equal(back, buffer, 4096);
        disk_close(&reader);
    }
    disk_close(&writer);
    unlink(path);
    free(buffer);
    free(back);
}

/* ---- a full file system ---------------------------------------------------------------------- */

static bool write_proc(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return good;
}

static bool become_root_of_a_namespace(void)
{
    char users[64], groups[64];
    snprintf(users, sizeof users, "0 %u 1", (unsigned)getuid());
    snprintf(groups, sizeof groups, "0 %u 1", (unsigned)getgid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           write_proc("/proc/self/setgroups", "deny") && write_proc("/proc/self/uid_map", users) &&
           write_proc("/proc/self/gid_map", groups);
}

/* In a child with a mount namespace of its own: 77 where there can be none, else 0 if all is well.
 */
static int on_a_small_file_system(void)
{
    const char *directory = directories[1];
    struct disk *disk;
    struct failure failure;
    struct stat status;
    char path[600];
    if (unshare(CLONE_NEWNS) != 0 && !become_root_of_a_namespace())
        return 77;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", directory, "tmpfs", 0, "size=12m,mode=700") != 0)
        return 77;

    snprintf(path, sizeof path, "%s/full", directory);
    if (disk_uring_create(path, 64 * MIB, false, &disk, &failure) != ERR_NO_SPACE ||
        strstr(failure.text, "64.0 MiB") == NULL || stat(path, &status) == 0)
        return 1;
    write_file(path, "");
    if (disk_uring_create(path, 64 * MIB, false, &disk, &failure) != ERR_NO_SPACE ||
        stat(path, &status) != 0 || status.st_size != 0 || status.st_blocks != 0)
        return 2;
    if (disk_uring_create(path, 8 * MIB, false, &disk, &failure) != 0)
        return 3;
    disk_close(&disk);

    /* A file with holes on a file system that fills up under it: 4 MiB left, of which the first
     * write of three fits, the second stops half-way, and the third gets nothing. */
    snprintf(path, sizeof path, "%s/holes", directory);
    write_file(path, "");
    if (truncate(path, (off_t)(64 * MIB)) != 0 ||
        disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0)
        return 4;
    uint8_t *buffer = memory(3 * MIB);
    if (disk_write(disk, DISK_SLOT_META, 0, buffer, 3 * MIB) != 0 ||
        disk_write(disk, DISK_SLOT_META, 3 * MIB, buffer, 3 * MIB) != ERR_NO_SPACE ||
        disk_write(disk, DISK_SLOT_META, 6 * MIB, buffer, 3 * MIB) != ERR_NO_SPACE)
        return 5;
    if (disk_write(disk, DISK_SLOT_META, 0, buffer, 3 * MIB) != 0 || disk_flush(disk) != 0)
        return 6;
    disk_close(&disk);
    free(buffer);
    return 0;
}

static int in_a_child(int (*what)(void))
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(what());
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_full_file_system_is_left_as_it_was(void **state)
{
    (void)state;
    int answer = in_a_child(on_a_small_file_system);
    if (answer == 77) {
        print_message("no mount namespace here\n");
        skip();
    }
    assert_int_equal(answer, 0);
}

/* ---- without io_uring ------------------------------------------------------------------------ */

static int without_io_uring(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = COUNT(program), .filter = program};
    if (disk_uring_obstacle() != NULL)
        return 1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        return 77;
    const char *path = path_in(0, "plain");
    struct failure failure;
    struct disk *disk = make_file(path, FILE_BYTES);
    if (strcmp(disk->ops->name, "plain") != 0 || disk_uring_obstacle() == NULL)
        return 2;
    transfer(disk, false);
    disk_close(&disk);
    if (disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0)
        return 3;
    transfer(disk, true); /* closes it */
    uint8_t *buffer = memory(65536);
    if (disk_uring_open(path, DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0 ||
        truncate(path, (off_t)(4 * MIB + 8192)) != 0 ||
        disk_read(disk, DISK_SLOT_META, 4 * MIB, buffer, 8192) != 0 ||
        disk_read(disk, DISK_SLOT_META, 4 * MIB, buffer, 65536) != ERR_IO ||
        disk_write(disk, DISK_SLOT_META, 1, buffer, 4096) != ERR_INVALID)
        return 4;
    disk_close(&disk);
    free(buffer);
    unlink(path);
    return 0;
}

static void it_works_without_io_uring(void **state)
{
    (void)state;
    if (disk_uring_obstacle() != NULL) {
        print_message("no io_uring on this machine: all tests ran without it\n");
        skip();
    }
    int answer = in_a_child(without_io_uring);
    if (answer == 77) {
        print_message("no seccomp here\n");
        skip();
    }
    assert_int_equal(answer, 0);
}

/* ---- a block device -------------------------------------------------------------------------- */

static bool loop_attach(const char *backing, char *device, size_t device_bytes, int *loop)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int file = open(backing, O_RDWR | O_CLOEXEC);
    *loop = -1;
    for (int tries = 0; control >= 0 && file >= 0 && *loop < 0 && tries < 20; tries++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            break;
        snprintf(device, device_bytes, "/dev/loop%d", number);
        *loop = open(device, O_RDWR | O_CLOEXEC);
        if (*loop >= 0 && ioctl(*loop, LOOP_SET_FD, file) != 0) {
            close(*loop); /* somebody else was faster */
            *loop = -1;
        }
    }
    if (control >= 0)
        close(control);
    if (file >= 0)
        close(file);
    return *loop >= 0;
}

/* The device has an ext4 file system; `loop` is a descriptor that does not hold it. */
static void block_device(const char *device)
{
    struct disk *disk, *second;
    struct failure failure;
    char directory[600];
    assert_int_equal(disk_uring_create(device, 0, false, &disk, &failure), ERR_FOREIGN);
    assert_non_null(strstr(failure.text, "\"archive\""));
    assert_int_equal(disk_uring_create(device, 1024 * MIB, true, &disk, &failure), ERR_TOO_SMALL);

    snprintf(directory, sizeof directory, "%s", path_in(0, "mount"));
    assert_int_equal(mkdir(directory, 0700), 0);
    if (mount(device, directory, "ext4", 0, NULL) == 0) {
        assert_int_equal(disk_uring_create(device, 0, true, &disk, &failure), ERR_BUSY);
        assert_non_null(strstr(failure.text, "mounted"));
        assert_int_equal(umount(directory), 0);
    }
    rmdir(directory);
    assert_true(holds_file_system(device));

    assert_int_equal(disk_uring_create(device, 0, true, &disk, &failure), 0);
    assert_int_equal(disk->bytes, 32 * MIB);
    assert_int_equal(disk_uring_open(device, DISK_OPEN_EXCLUSIVE, &second, &failure), ERR_BUSY);
    assert_non_null(strstr(failure.text, "another recorder"));
    assert_int_equal(disk_uring_open(device, DISK_OPEN_READ, &second, &failure), 0);
    disk_close(&second);
    transfer(disk, false);
    uint8_t *zeros = memory(4 * MIB);
    for (uint64_t at = 0; at < 32 * MIB; at += 4 * MIB)
        assert_int_equal(disk_write(disk, DISK_SLOT_META, at, zeros, 4 * MIB), 0);
    free(zeros);
    disk_close(&disk);
    assert_false(holds_file_system(device));
    for (uint32_t round = 0; round < 20; round++) {
        if (disk_uring_open(device, DISK_OPEN_EXCLUSIVE, &disk, &failure) != 0)
            fail_msg("round %u: %s", round, failure.text);
        disk_close(&disk);
    }
    /* Nothing on it: it may be taken without force. */
    assert_int_equal(disk_uring_create(device, 0, false, &disk, &failure), 0);
    transfer(disk, true);
}

static void a_block_device_is_held_and_looked_at(void **state)
{
    (void)state;
    const char *backing = path_in(1, "backing");
    char device[64];
    int loop = -1;
    struct disk *disk = make_file(backing, 32 * MIB);
    disk_close(&disk);
    bool possible = make_file_system(backing) && loop_attach(backing, device, sizeof device, &loop);
    if (!possible) {
        unlink(backing);
        print_message("no loop device or no mkfs.ext4 here\n");
        skip();
    }
    int answer = 1;
    pid_t child = fork(); /* so that the loop device is detached whatever happens */
    assert_true(child >= 0);
    if (child == 0) {
        block_device(device);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &answer, 0), child);
    ioctl(loop, LOOP_CLR_FD, 0);
    close(loop);
    unlink(backing);
    assert_int_equal(answer, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_are_read_back),
        cmocka_unit_test(impossible_requests_are_refused),
        cmocka_unit_test(a_short_read_is_an_error),
        cmocka_unit_test(closing_waits_for_everything),
        cmocka_unit_test(any_thread_may_submit),
        cmocka_unit_test(a_faulty_disk_fails_one_request_of_many_threads),
        cmocka_unit_test(one_recorder_at_a_time),
        cmocka_unit_test(a_killed_recorder_holds_its_lock_until_its_writes_have_landed),
        cmocka_unit_test(a_new_file_is_allocated_whole),
        cmocka_unit_test(somebodys_data_is_refused),
        cmocka_unit_test(a_file_system_is_refused_by_name),
        cmocka_unit_test(bad_paths_get_a_sentence),
        cmocka_unit_test(a_descriptor_is_enough_to_read),
        cmocka_unit_test(a_full_file_system_is_left_as_it_was),
        cmocka_unit_test(it_works_without_io_uring),
        cmocka_unit_test(a_block_device_is_held_and_looked_at),
    };
    const char *temporary = getenv("TMPDIR");
    directories[0] = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    directories[1] = temporary != NULL ? temporary : "/tmp";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
