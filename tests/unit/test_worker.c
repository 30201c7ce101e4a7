/*
 * test_worker.c - the program tapeloop-extract, started and spoken to as the recorder does it.
 */
#include "unit_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "catalog.h"
#include "extraction.h"
#include "segment_fixture.h"
#include "pressure.h"
#include "worker.h"

#define SECOND 1000000000ll
#define BADS_MAX 256
#define GAPS_MAX 64

static char program[4096];
static bool inside; /* the work is done by a thread of this process: for sanitizers and coverage */

/* One worker, its job and what it said. */
struct talk {
    struct worker worker;
    int socket; /* of the thread inside */
    pthread_t thread;
    int output; /* our end: a memory file, or the reading end of a pipe */
    uint8_t buffer[WORKER_MESSAGE_BYTES_MAX] __attribute__((aligned(8)));
    enum worker_judgement judgement;
    struct worker_bad bad[BADS_MAX];
    uint32_t bads;
    struct worker_gap gap[GAPS_MAX];
    uint32_t gaps;
    uint32_t progresses;
    struct worker_done done;
};

static int memory_file(const void *bytes, size_t count)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    if (count > 0)
        assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    return fd;
}

static struct worker_job usual_job(const struct fixture *fixture)
{
    struct worker_job job = {
        .kind = WORKER_EXTRACT,
        .format = WORKER_PCAPNG,
        .from_ns = INT64_MIN,
        .to_ns = INT64_MAX,
        .disks = 1,
        .memory_max = 16 << 20,
        .ring = fixture->ring,
        .ring_name = "lab",
        .host = "recorder",
    };
    job.disk[0].slots_offset = FIXTURE_SLOTS_OFFSET;
    job.disk[0].slot_bytes = fixture->slot_bytes;
    job.disk[0].slot_count = fixture->slots;
    job.disk[0].disk_bytes = fixture->bytes;
    memcpy(job.disk[0].name, "image", sizeof "image");
    return job;
}

static int say(struct talk *talk, enum worker_message_type type, const void *elements,
               uint32_t bytes, uint32_t count)
{
    return worker_send(&talk->worker, type, elements, bytes, count, NULL, 0);
}

static struct pressure_gauge gauge; /* goes with the jobs that have one */

static void *work_inside(void *context)
{
    struct talk *talk = context;
    struct extraction *extraction;
    if (extraction_open(talk->socket, NULL, &extraction) == 0) {
        (void)extraction_run(extraction);
        extraction_close(&extraction);
    }
    close(talk->socket);
    return NULL;
}

static void start_inside(struct talk *talk)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    talk->worker = (struct worker){.pid = -1, .socket = pair[0]};
    talk->socket = pair[1];
    assert_int_equal(pthread_create(&talk->thread, NULL, work_inside, talk), 0);
}

/* Starts a worker on the fixture's image. `output` is the worker's end, -1 for none; it stays the
 * caller's. */
static void start(struct talk *talk, const struct fixture *fixture, const struct worker_job *job,
                  int output, const char *filter)
{
    struct failure failure;
    memset(talk, 0, sizeof *talk);
    talk->judgement = WORKER_DAMAGED;
    if (inside)
        start_inside(talk);
    else
        assert_int_equal(worker_start(program, &talk->worker, &failure), 0);
    int descriptor[3] = {output, memory_file(fixture->image, fixture->bytes), gauge.fd};
    int from = output < 0;
    assert_int_equal(worker_send(&talk->worker, WORKER_JOB, job, sizeof *job, 1, descriptor + from,
                                 2 + job->gauge - (uint32_t)from),
                     0);
    close(descriptor[1]);
    if (filter)
        say(talk, WORKER_FILTER, filter, 1, (uint32_t)strlen(filter));
}

static void plan(struct talk *talk, const struct worker_segment *segments, uint32_t count)
{
    if (count > 0)
        say(talk, WORKER_SEGMENTS, segments, sizeof *segments, count);
    say(talk, WORKER_PLAN_END, NULL, 0, 0);
}

/* Answers and notes what comes up to a message of type `type`, which it returns, or an error. */
static int listen_for(struct talk *talk, int type, int timeout_ms)
{
    for (;;) {
        const void *element;
        int got = worker_receive(&talk->worker, talk->buffer, &element, timeout_ms);
        switch (got) {
        case WORKER_PROGRESS:
            talk->progresses++;
            break;
        case WORKER_BAD:
            if (talk->bads < BADS_MAX)
                talk->bad[talk->bads] = *(const struct worker_bad *)element;
            talk->bads++;
            struct worker_verdict verdict = {.judgement = talk->judgement};
            say(talk, WORKER_VERDICT, &verdict, sizeof verdict, 1);
            break;
        case WORKER_GAP:
            if (talk->gaps < GAPS_MAX)
                talk->gap[talk->gaps] = *(const struct worker_gap *)element;
            talk->gaps++;
            break;
        case WORKER_DONE:
            talk->done = *(const struct worker_done *)element;
            break;
        default:
            break;
        }
        if (got == type || got < 0 || got == WORKER_DONE)
            return got;
    }
}

/* The rest of the job: DONE and a clean end. */
static int finish(struct talk *talk)
{
    assert_int_equal(listen_for(talk, WORKER_DONE, -1), WORKER_DONE);
    /* It ends by itself; only then does its status say how. */
    struct pollfd gone = {.fd = talk->worker.socket, .events = POLLRDHUP};
    poll(&gone, 1, -1);
    int status = 0;
    if (inside)
        pthread_join(talk->thread, NULL);
    else
        waitpid(talk->worker.pid, &status, 0);
    talk->worker.pid = -1;
    worker_stop(&talk->worker);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    return talk->done.result;
}

/* A whole job with its output in a memory file, whose descriptor it returns. */
static int run(struct talk *talk, const struct fixture *fixture, const struct worker_job *job,
               const char *filter, const struct worker_segment *segments, uint32_t count)
{
    int output = memory_file(NULL, 0);
    start(talk, fixture, job, output, filter);
    plan(talk, segments, count);
    finish(talk);
    return output;
}

/* Whether the memory file is a capture file of exactly the packets [from, to) of stream 0. Closes
 * it. */
static void expect_capture(int fd, uint64_t from, uint64_t to)
{
    char error[PCAP_ERRBUF_SIZE];
    lseek(fd, 0, SEEK_SET);
    pcap_t *pcap = pcap_fopen_offline_with_tstamp_precision(fdopen(fd, "rb"),
                                                            PCAP_TSTAMP_PRECISION_NANO, error);
    assert_non_null(pcap);
    struct pcap_pkthdr *head;
    const u_char *bytes;
    uint8_t wanted[4096];
    for (uint64_t number = from; number < to; number++) {
        assert_int_equal(pcap_next_ex(pcap, &head, &bytes), 1);
        assert_true(head->caplen <= sizeof wanted);
        fixture_bytes(0, number, wanted, head->caplen);
        assert_memory_equal(bytes, wanted, head->caplen);
        assert_int_equal(head->ts.tv_sec, number);
    }
    assert_int_equal(pcap_next_ex(pcap, &head, &bytes), PCAP_ERROR_BREAK);
    pcap_close(pcap);
}

static bool file_contains(int fd, const char *text)
{
    off_t size = lseek(fd, 0, SEEK_END);
    char *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(bytes, MAP_FAILED);
    bool found = memmem(bytes, (size_t)size, text, strlen(text)) != NULL;
    munmap(bytes, (size_t)size);
    return found;
}

/* Packets [first, first + count) of stream 0, one a second from the epoch, 100 to 1,100 bytes long.
 */
static void fill(struct fixture_segment *segment, uint32_t count)
{
    int interface = segment->table.interfaces ? 0 : fixture_interface_usual(segment);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = segment->next_packet;
        assert_true(fixture_packet(segment, interface, 0, (int64_t)number * SECOND,
                                   100 + number % 11 * 100, 2000));
    }
}

static void make(struct fixture *fixture, struct fixture_segment *segment, uint32_t frames,
                 uint32_t packets)
{
    static const uint32_t slots[] = {0, 1};
    fixture_open(fixture, 4, 4 << 20);
    fixture_begin(segment, fixture, slots, 2, 1, 0, 2, 0, 0);
    for (uint32_t i = 0; i < frames; i++) {
        fill(segment, packets);
        fixture_flush(segment);
    }
    fixture_seal(segment);
}

static void drop(struct fixture *fixture, struct fixture_segment *segment)
{
    fixture_end(segment);
    fixture_close(fixture);
}

/* ---- extraction --------------------------------------------------------------------------------
 */

static void test_everything(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 10, 50);
    for (uint32_t format = WORKER_PCAPNG; format <= WORKER_PCAP_US; format++) {
        struct worker_job job = usual_job(&fixture);
        job.format = format;
        int output = run(&talk, &fixture, &job, NULL, &segment.about, 1);
        assert_int_equal(talk.done.result, 0);
        assert_int_equal(talk.done.gaps, 0);
        assert_int_equal(talk.done.total.packets, 500);
        assert_int_equal(talk.done.total.packets_judged, 500);
        assert_int_equal(talk.done.total.segments_done, 1);
        assert_int_equal(talk.done.total.segments_total, 1);
        assert_int_equal(talk.done.total.output_bytes, lseek(output, 0, SEEK_END));
        assert_int_equal(talk.done.total.bytes_read, segment.about.data_end);
        assert_int_equal(talk.done.total.at_ns, 499 * SECOND);
        assert_int_equal(talk.done.frames_checked, 11);
        if (format == WORKER_PCAPNG)
            assert_true(file_contains(output, "ring lab on recorder"));
        expect_capture(output, 0, 500);
    }
    drop(&fixture, &segment);
}

static void test_range_and_limits(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 10, 50);
    struct worker_job job = usual_job(&fixture);
    job.from_ns = 120 * SECOND;
    job.to_ns = 130 * SECOND;
    expect_capture(run(&talk, &fixture, &job, NULL, &segment.about, 1), 120, 130);
    assert_int_equal(talk.done.result, 0);

    job = usual_job(&fixture);
    job.packets_max = 77;
    expect_capture(run(&talk, &fixture, &job, NULL, &segment.about, 1), 0, 77);
    assert_int_equal(talk.done.result, 0);
    assert_int_equal(talk.done.gaps, 0);

    job = usual_job(&fixture);
    job.bytes_max = 20000;
    int output = run(&talk, &fixture, &job, NULL, &segment.about, 1);
    assert_int_equal(talk.done.result, 0);
    assert_in_range(lseek(output, 0, SEEK_END), 18800, 20000);
    expect_capture(output, 0, talk.done.total.packets);

    job = usual_job(&fixture); /* nothing at all is a capture file, too */
    expect_capture(run(&talk, &fixture, &job, NULL, NULL, 0), 0, 0);
    job.format = WORKER_PCAP_NS;
    expect_capture(run(&talk, &fixture, &job, NULL, NULL, 0), 0, 0);
    drop(&fixture, &segment);
}

static void test_filters(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t packets; /* -1: not valid */
    } filter[] = {
        {"", 500},
        {"len > 0", 500},
        {"greater 2001", 0},
        {"ether[0] >= 0", 500},
        {"tcp port http", 0}, /* names are looked up, confined or not */
        {"ip proto ospf", 0},
        {"((", -1},
        {"port nosuchservice", -1},
        {"host nosuch.invalid", -1},
        {"nonsense", -1},
    };
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 10, 50);
    struct worker_job job = usual_job(&fixture);
    for (size_t i = 0; i < COUNT(filter); i++) {
        if (inside && strstr(filter[i].text, "nosuch"))
            continue; /* outside of its confinement it would ask the network */
        int output = run(&talk, &fixture, &job, filter[i].text, &segment.about, 1);
        if (filter[i].packets < 0) {
            assert_int_equal(talk.done.result, ERR_INVALID);
            assert_non_null(strstr(talk.done.text, "filter"));
            close(output);
        } else {
            assert_int_equal(talk.done.result, 0);
            expect_capture(output, 0, (uint64_t)filter[i].packets);
        }
    }
    drop(&fixture, &segment);
}

/* Several link types: pcapng holds them, pcap does not; a filter that one of them does not know
 * leaves it out and says so. */
static void test_link_types(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    uint32_t slot = 0;
    fixture_open(&fixture, 1, 1 << 20);
    fixture_begin(&segment, &fixture, &slot, 1, 1, 0, 1, 0, 0);
    struct interface_description description = {.link_type = 1, .name = "eth0"};
    int ethernet = fixture_interface(&segment, &description);
    description = (struct interface_description){.link_type = 113, .name = "any"};
    int cooked = fixture_interface(&segment, &description);
    description = (struct interface_description){.link_type = 147, .name = "user"};
    int user = fixture_interface(&segment, &description);
    for (int i = 0; i < 9; i++)
        fixture_packet(&segment,
                       i % 3 == 0   ? ethernet
                       : i % 3 == 1 ? cooked
                                    : user,
                       0, i * SECOND, 100, 100);
    fixture_seal(&segment);

    struct worker_job job = usual_job(&fixture);
    int output = run(&talk, &fixture, &job, NULL, &segment.about, 1);
    assert_int_equal(talk.done.result, 0);
    assert_int_equal(talk.done.total.packets, 9);
    assert_int_equal(talk.done.gaps, 0);
    close(output);

    job.format = WORKER_PCAP_NS;
    close(run(&talk, &fixture, &job, NULL, &segment.about, 1));
    assert_int_equal(talk.done.result, ERR_UNSUPPORTED);
    assert_non_null(strstr(talk.done.text, "pcapng"));

    job.format = WORKER_PCAPNG;
    output =
        run(&talk, &fixture, &job, "ether host 00:11:22:33:44:55 or greater 50", &segment.about, 1);
    assert_int_equal(talk.done.result, 0);
    assert_int_equal(talk.done.total.packets, 3);
    assert_int_equal(talk.done.gaps, 2);
    assert_int_equal(talk.gaps, 2);
    assert_int_equal(talk.gap[0].reason, WORKER_GAP_FILTER);
    assert_int_equal(talk.gap[0].link_type, 113);
    assert_string_equal(talk.gap[0].interface, "any");
    assert_int_equal(talk.gap[1].link_type, 147);
    assert_true(file_contains(output, "link type 113 (any): left out"));
    close(output);
    drop(&fixture, &segment);
}

static void test_damage(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 3, 10);
    uint32_t second = le32_get(segment.index.entry[1].offset);
    struct worker_job job = usual_job(&fixture);
    fixture_slot(&fixture, 0, second)[3000] ^= 1; /* one copy */
    expect_capture(run(&talk, &fixture, &job, NULL, &segment.about, 1), 0, 30);
    assert_int_equal(talk.done.result, 0);
    assert_int_equal(talk.done.gaps, 0);
    assert_int_equal(talk.bads, 1);
    assert_int_equal(talk.done.frames_bad, 1);

    memset(fixture_slot(&fixture, 0, second), 0, PAGE_BYTES); /* both */
    memset(fixture_slot(&fixture, 1, second), 0, PAGE_BYTES);
    int output = run(&talk, &fixture, &job, NULL, &segment.about, 1);
    assert_int_equal(talk.done.result, 0);
    assert_int_equal(talk.done.total.packets, 20);
    assert_int_equal(talk.bads, 2);
    assert_int_equal(talk.gaps, 1);
    assert_int_equal(talk.done.gaps, 1);
    assert_int_equal(talk.gap[0].reason, WORKER_GAP_DAMAGED);
    assert_int_equal(talk.gap[0].packets, 10);
    assert_true(file_contains(output, "gap: 10 packets between 1970-01-01T00:00:09.000000000Z and "
                                      "1970-01-01T00:00:20.000000000Z: damaged on disk"));
    close(output);
    drop(&fixture, &segment);
}

/* ---- pipes and ends ----------------------------------------------------------------------------
 */

static void make_pipe(int ends[2])
{
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
}

static void test_slow_pipe(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 10, 120);
    struct worker_job job = usual_job(&fixture);
    for (int blocking = 0; blocking < 2; blocking++) {
        int ends[2];
        make_pipe(ends);
        if (!blocking)
            fcntl(ends[1], F_SETFL, O_NONBLOCK);
        start(&talk, &fixture, &job, ends[1], NULL);
        close(ends[1]);
        plan(&talk, &segment.about, 1);
        int copy = memory_file(NULL, 0);
        uint8_t bytes[30000];
        ssize_t count;
        struct timespec nap = {.tv_nsec = 20000000};
        while ((count = read(ends[0], bytes, sizeof bytes)) > 0) {
            assert_int_equal(write(copy, bytes, (size_t)count), count);
            nanosleep(&nap, NULL);
        }
        assert_int_equal(finish(&talk), 0);
        expect_capture(copy, 0, 1200);
        close(ends[0]);
    }
    drop(&fixture, &segment);
}

static void test_closed_pipe(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 40, 120);
    struct worker_job job = usual_job(&fixture);
    int ends[2];
    uint8_t bytes[100];
    make_pipe(ends); /* closed after the first bytes */
    start(&talk, &fixture, &job, ends[1], NULL);
    close(ends[1]);
    plan(&talk, &segment.about, 1);
    assert_int_equal(read(ends[0], bytes, sizeof bytes), sizeof bytes);
    close(ends[0]);
    assert_int_equal(finish(&talk), ERR_CLOSED);

    make_pipe(ends); /* closed before the first */
    start(&talk, &fixture, &job, ends[1], NULL);
    close(ends[1]);
    close(ends[0]);
    plan(&talk, &segment.about, 1);
    assert_int_equal(finish(&talk), ERR_CLOSED);

    make_pipe(ends); /* closed while it follows a ring where nothing comes any more */
    job.follow = 1;
    start(&talk, &fixture, &job, ends[1], "greater 100000");
    close(ends[1]);
    plan(&talk, &segment.about, 1);
    assert_int_equal(listen_for(&talk, WORKER_CAUGHT_UP, -1), WORKER_CAUGHT_UP);
    close(ends[0]);
    assert_int_equal(finish(&talk), ERR_CLOSED);
    drop(&fixture, &segment);
}

static void test_full_output(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full < 0)
        skip();
    make(&fixture, &segment, 1, 10);
    struct worker_job job = usual_job(&fixture);
    start(&talk, &fixture, &job, full, NULL);
    plan(&talk, &segment.about, 1);
    assert_int_equal(finish(&talk), ERR_NO_SPACE);
    assert_non_null(strstr(talk.done.text, "output"));
    close(full);
    drop(&fixture, &segment);
}

static void test_follow(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    uint32_t slot = 0;
    fixture_open(&fixture, 2, 1 << 20);
    fixture_begin(&segment, &fixture, &slot, 1, 1, 0, 1, 0, 0);
    fill(&segment, 5);
    fixture_flush(&segment);
    struct worker_segment growing[4];
    for (int i = 0; i < 3;
         i++) { /* the image is complete; the recorder tells of it piece by piece */
        growing[i] = segment.about;
        fill(&segment, 10);
        fixture_flush(&segment);
    }
    fixture_seal(&segment);
    growing[3] = segment.about;
    struct worker_job job = usual_job(&fixture);
    job.follow = 1;
    int output = memory_file(NULL, 0);
    start(&talk, &fixture, &job, output, NULL);
    plan(&talk, growing, 1);
    assert_int_equal(listen_for(&talk, WORKER_CAUGHT_UP, -1), WORKER_CAUGHT_UP);
    off_t size = lseek(output, 0, SEEK_END);
    assert_true(size > 5 * 100); /* what it has is out */
    for (int i = 1; i < 3; i++) {
        say(&talk, WORKER_SEGMENTS, &growing[i], sizeof growing[i], 1);
        assert_int_equal(listen_for(&talk, WORKER_CAUGHT_UP, -1), WORKER_CAUGHT_UP);
        assert_true(lseek(output, 0, SEEK_END) > size);
        size = lseek(output, 0, SEEK_END);
    }
    say(&talk, WORKER_SEGMENTS, &growing[3], sizeof growing[3], 1);
    say(&talk, WORKER_FINISH, NULL, 0, 0);
    assert_int_equal(finish(&talk), 0);
    assert_int_equal(talk.done.gaps, 0);
    expect_capture(output, 0, 35);
    drop(&fixture, &segment);
}

/* The recorder may kill it at any time; and when the recorder is gone, so is it, whatever it waits
 * for. */
static void test_deaths(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 40, 120); /* more than a pipe holds */
    struct worker_job job = usual_job(&fixture);
    int ends[2];
    make_pipe(ends);
    start(&talk, &fixture, &job, ends[1], NULL); /* blocks in its first write: nobody reads */
    plan(&talk, &segment.about, 1);
    struct pollfd begun = {.fd = ends[0], .events = POLLIN};
    poll(&begun, 1, -1);
    kill(talk.worker.pid, SIGKILL);
    assert_int_equal(listen_for(&talk, WORKER_DONE, -1), ERR_CLOSED);
    int status = worker_stop(&talk.worker);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

    start(&talk, &fixture, &job, ends[1], NULL); /* the pipe is still full */
    plan(&talk, &segment.about, 1);
    close(talk.worker.socket);
    waitpid(talk.worker.pid, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);

    start(&talk, &fixture, &job, ends[1], NULL); /* while it waits for the plan */
    close(talk.worker.socket);
    waitpid(talk.worker.pid, &status, 0);
    assert_true(WIFEXITED(status));

    start(&talk, &fixture, &job, ends[1], NULL); /* stopping one that works */
    status = worker_stop(&talk.worker);
    assert_true(WIFSIGNALED(status) || WIFEXITED(status));
    assert_int_equal(talk.worker.pid, -1);
    close(ends[0]);
    close(ends[1]);

    struct failure failure;
    struct worker worker;
    assert_int_equal(worker_start("/nonexistent/tapeloop-extract", &worker, &failure),
                     ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "/nonexistent/tapeloop-extract"));
    drop(&fixture, &segment);
}

static void test_nonsense(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 1, 10);
    int output = memory_file(NULL, 0);
    struct worker_job job = usual_job(&fixture);
    for (int i = 0; i < 6; i++) {
        struct worker_job wrong = job;
        struct worker_segment segments = segment.about;
        if (i == 0)
            wrong.kind = 7;
        if (i == 1)
            wrong.format = 9;
        if (i == 2)
            wrong.disks = 100;
        if (i == 3)
            wrong.disk[0].slot_count = 1 << 20;
        if (i == 4)
            segments.place[0].slot = 99;
        start(&talk, &fixture, &wrong, output, NULL);
        if (i == 5)
            worker_send(&talk.worker, WORKER_JOB, &job, sizeof job, 1, NULL, 0);
        plan(&talk, &segments, 1);
        assert_int_not_equal(finish(&talk), 0);
        assert_int_not_equal(talk.done.text[0], '\0');
    }
    close(output);
    drop(&fixture, &segment);
}

/* ---- yielding to recording ---------------------------------------------------------------------
 */

/* A recorder that is behind holds the worker back, one that is not does not; either way all comes. */
static void test_gauge(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    struct failure failure;
    make(&fixture, &segment, 40, 120); /* more than one piece */
    assert_int_equal(pressure_gauge_open(&gauge, &failure), 0);
    struct worker_job job = usual_job(&fixture);
    job.gauge = 1;
    job.disk[0].number = 5;
    uint64_t packets = 0;
    for (int behind = 0; behind < 2; behind++) {
        pressure_publish(gauge.page, 4, PRESSURE_HIGH, 1); /* another disk's */
        pressure_publish(gauge.page, 5, behind ? PRESSURE_HIGH : PRESSURE_HIGH - 1, 1);
        pressure_publish_time(gauge.page, false, UINT64_MAX); /* fresh for as long as it takes */
        close(run(&talk, &fixture, &job, NULL, &segment.about, 1));
        assert_int_equal(talk.done.result, 0);
        assert_int_equal(talk.done.gaps, 0);
        if (behind)
            assert_int_equal(talk.done.total.packets, packets);
        packets = talk.done.total.packets;
        assert_true(packets > 0);
        if (behind)
            assert_true(talk.done.total.held_back_ns > 0);
        else
            assert_int_equal(talk.done.total.held_back_ns, 0);
    }
    job.disk[0].number = RING_DISKS_MAX;
    close(run(&talk, &fixture, &job, NULL, &segment.about, 1));
    assert_int_not_equal(talk.done.result, 0);
    pressure_gauge_close(&gauge);
    drop(&fixture, &segment);
}

/* ---- confinement -------------------------------------------------------------------------------
 */

static bool status_has(const char *status, const char *line)
{
    return strstr(status, line) != NULL;
}

static void test_confinement(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 1, 10);
    struct worker_job job = usual_job(&fixture);
    job.follow = 1;
    int output = memory_file(NULL, 0);
    start(&talk, &fixture, &job, output, NULL);
    plan(&talk, &segment.about, 1);
    assert_int_equal(listen_for(&talk, WORKER_CAUGHT_UP, -1), WORKER_CAUGHT_UP);
    char path[64], status[8192] = "";
    snprintf(path, sizeof path, "/proc/%d/status", (int)talk.worker.pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t count = fread(status, 1, sizeof status - 1, file);
    fclose(file);
    assert_true(count > 0);
    assert_true(status_has(status, "\nNoNewPrivs:\t1\n"));
    assert_true(status_has(status, "\nSeccomp:\t2\n"));
    assert_true(status_has(status, "\nCapEff:\t0000000000000000\n"));
    assert_true(status_has(status, "\nCapPrm:\t0000000000000000\n"));
    if (geteuid() == 0) {
        assert_true(status_has(status, "\nUid:\t65534\t65534\t65534\t65534\n"));
        assert_true(status_has(status, "\nGid:\t65534\t65534\t65534\t65534\n"));
        assert_true(status_has(status, "\nGroups:\t \n"));
    }
    say(&talk, WORKER_FINISH, NULL, 0, 0);
    assert_int_equal(finish(&talk), 0);
    expect_capture(output, 0, 10);
    drop(&fixture, &segment);
}

/* ---- verifying ---------------------------------------------------------------------------------
 */

static void test_verify(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    static struct talk talk;
    make(&fixture, &segment, 5, 20);
    struct worker_job job = usual_job(&fixture);
    job.kind = WORKER_VERIFY;
    start(&talk, &fixture, &job, -1, NULL);
    plan(&talk, &segment.about, 1);
    assert_int_equal(finish(&talk), 0);
    assert_int_equal(talk.bads, 0);
    assert_int_equal(talk.done.frames_bad, 0);
    assert_int_equal(talk.done.frames_checked,
                     2 * (1 + 5 + 1 + 1)); /* OPEN, data, index, seal, in two copies */
    assert_int_equal(talk.done.total.segments_done, 1);

    /* One flipped bit anywhere is one complaint about that copy. */
    uint32_t spot[] = {100,
                       PAGE_BYTES + 100,
                       PAGE_BYTES + 9000,
                       segment.about.data_end - 1,
                       segment.about.index_offset + 50,
                       segment.about.index_offset + 2000,
                       (uint32_t)fixture.slot_bytes - PAGE_BYTES + 500,
                       (uint32_t)fixture.slot_bytes - 1};
    for (size_t i = 0; i < COUNT(spot); i++) {
        *fixture_slot(&fixture, 1, spot[i]) ^= 8;
        start(&talk, &fixture, &job, -1, NULL);
        plan(&talk, &segment.about, 1);
        assert_int_equal(finish(&talk), 0);
        assert_int_equal(talk.bads, 1);
        assert_int_equal(talk.bad[0].place, 1);
        assert_true(talk.bad[0].offset <= spot[i]);
        assert_true(talk.bad[0].offset + talk.bad[0].bytes > spot[i]);
        assert_int_equal(talk.done.frames_bad, 1);
        *fixture_slot(&fixture, 1, spot[i]) ^= 8;
    }

    /* A seal that is whole but says something else than the frames. */
    struct worker_segment about = segment.about;
    about.packets++;
    start(&talk, &fixture, &job, -1, NULL);
    plan(&talk, &about, 1);
    assert_int_equal(finish(&talk), 0);
    assert_int_equal(talk.bads, 2);
    assert_int_equal(talk.bad[0].reason, WORKER_BAD_RECORDS);

    /* A slot that the ring has taken meanwhile is no damage. */
    struct fixture_segment other;
    uint32_t slot = 1;
    fixture_begin(&other, &fixture, &slot, 1, 1, 0, 99, 0, 0);
    fill(&other, 10);
    fixture_seal(&other);
    start(&talk, &fixture, &job, -1, NULL);
    talk.judgement = WORKER_OVERTAKEN;
    plan(&talk, &segment.about, 1);
    assert_int_equal(finish(&talk), 0);
    assert_int_equal(talk.bads, 1);
    assert_int_equal(talk.bad[0].reason, WORKER_BAD_IDENTITY);
    assert_int_equal(talk.bad[0].found_position, 99);
    fixture_end(&other);
    drop(&fixture, &segment);
}

int main(void)
{
    const char *folder = getenv("TAPELOOP_BIN");
    snprintf(program, sizeof program, "%s/tapeloop-extract", folder ? folder : ".");
    if (access(program, X_OK) != 0) {
        fprintf(stderr, "%s is not there: set TAPELOOP_BIN\n", program);
        return 77;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),  cmocka_unit_test(test_range_and_limits),
        cmocka_unit_test(test_filters),     cmocka_unit_test(test_link_types),
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_slow_pipe),
        cmocka_unit_test(test_closed_pipe), cmocka_unit_test(test_full_output),
        cmocka_unit_test(test_gauge),       cmocka_unit_test(test_follow),      cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_confinement),
        cmocka_unit_test(test_verify),
    };
    const struct CMUnitTest tests_inside[] = {
        cmocka_unit_test(test_everything),  cmocka_unit_test(test_range_and_limits),
        cmocka_unit_test(test_filters),     cmocka_unit_test(test_link_types),
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_closed_pipe),
        cmocka_unit_test(test_full_output), cmocka_unit_test(test_follow),
        cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_verify),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    inside = true;
    return failed + cmocka_run_group_tests(tests_inside, NULL, NULL);
}
