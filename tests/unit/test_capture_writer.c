/*
 * test_capture_writer.c - what is written is read back: by libpcap, by our own reader, and block by
 * block.
 */
#include "unit_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bytes.h"
#include "capture_writer.h"
#include "source.h"

#define SECOND 1000000000ll

static uint8_t pattern[4 << 20];

static int memory_file(void)
{
    int fd = memfd_create("capture", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static struct capture_writer *open_writer(enum capture_format format, int fd, uint64_t bytes_max)
{
    struct capture_writer_options options = {
        .format = format, .fd = fd, .bytes_max = bytes_max, .comment = "a test"};
    struct capture_writer *writer;
    assert_int_equal(capture_writer_open(&options, &writer, NULL), 0);
    return writer;
}

static int ethernet(struct capture_writer *writer, const char *name)
{
    struct interface_description description = {.link_type = 1};
    snprintf(description.name, sizeof description.name, "%s", name);
    int number = capture_writer_interface(writer, &description);
    assert_true(number >= 0);
    return number;
}

static int put(struct capture_writer *writer, int interface, int64_t time_ns, uint32_t captured,
               uint32_t original)
{
    struct packet packet = {
        .bytes = pattern + captured % 251,
        .captured_bytes = captured,
        .original_bytes = original,
        .time_ns = time_ns,
    };
    return capture_writer_packet(writer, (uint32_t)interface, &packet);
}

static void finish(struct capture_writer **writer)
{
    assert_int_equal(capture_writer_finish(*writer), 0);
    capture_writer_close(writer);
    assert_null(*writer);
}

/* ---- reading back ------------------------------------------------------------------------------
 */

struct found {
    uint32_t interface; /* number of its block */
    int64_t time_ns;    /* with the interface's offset */
    uint32_t captured;
    uint32_t original;
    uint32_t flags; /* UINT32_MAX: none */
    const uint8_t *bytes;
    uint32_t comments;
    char comment[9][512];
};

struct found_interface {
    uint16_t link_type;
    uint32_t snapshot;
    int64_t offset_s;
    uint8_t resolution;
    bool has_hardware;
    uint8_t hardware[6];
    char name[256];
    char description[256];
    char comment[512];
};

struct found_statistics {
    uint32_t interface;
    uint64_t received, dropped, delivered; /* UINT64_MAX: none */
    uint32_t comments;
    char comment[512];
};

/* A whole pcapng file, checked for its structure while it is read. */
struct file {
    uint8_t *bytes;
    size_t count;
    char section_comment[512];
    struct found_interface interface[16];
    uint32_t interfaces;
    struct found packet[64];
    uint32_t packets;
    struct found_statistics statistics[16];
    uint32_t statistic;
};

static uint32_t get32(const uint8_t *at)
{
    le32 field;
    memcpy(&field, at, sizeof field);
    return le32_get(field);
}

static uint16_t get16(const uint8_t *at)
{
    le16 field;
    memcpy(&field, at, sizeof field);
    return le16_get(field);
}

static uint64_t get64(const uint8_t *at)
{
    le64 field;
    memcpy(&field, at, sizeof field);
    return le64_get(field);
}

/* Calls `each` for the options in [at, end), which must end with opt_endofopt if there are any. */
static void each_option(const uint8_t *at, const uint8_t *end,
                        void (*each)(uint16_t code, const uint8_t *value, uint16_t length,
                                     void *context),
                        void *context)
{
    if (at == end)
        return;
    for (;;) {
        assert_true(end - at >= 4);
        uint16_t code = get16(at), length = get16(at + 2);
        at += 4;
        if (code == 0) {
            assert_int_equal(length, 0);
            assert_ptr_equal(at, end);
            return;
        }
        assert_true(end - at >= (length + 3) / 4 * 4);
        each(code, at, length, context);
        for (uint32_t i = length; i % 4 != 0; i++)
            assert_int_equal(at[i], 0);
        at += (length + 3) / 4 * 4;
    }
}

static void take_text(char *text, size_t size, const uint8_t *value, uint16_t length)
{
    assert_true(length < size);
    memcpy(text, value, length);
    text[length] = '\0';
}

static void section_option(uint16_t code, const uint8_t *value, uint16_t length, void *context)
{
    struct file *file = context;
    if (code == 1)
        take_text(file->section_comment, sizeof file->section_comment, value, length);
}

static void interface_option(uint16_t code, const uint8_t *value, uint16_t length, void *context)
{
    struct found_interface *interface = context;
    if (code == 1)
        take_text(interface->comment, sizeof interface->comment, value, length);
    else if (code == 2)
        take_text(interface->name, sizeof interface->name, value, length);
    else if (code == 3)
        take_text(interface->description, sizeof interface->description, value, length);
    else if (code == 6) {
        assert_int_equal(length, 6);
        interface->has_hardware = true;
        memcpy(interface->hardware, value, 6);
    } else if (code == 9) {
        assert_int_equal(length, 1);
        interface->resolution = value[0];
    } else if (code == 14) {
        assert_int_equal(length, 8);
        interface->offset_s = (int64_t)get64(value);
    } else {
        fail_msg("interface option %u", code);
    }
}

static void packet_option(uint16_t code, const uint8_t *value, uint16_t length, void *context)
{
    struct found *packet = context;
    if (code == 1) {
        take_text(packet->comment[packet->comments++], 512, value, length);
    } else {
        assert_int_equal(code, 2);
        assert_int_equal(length, 4);
        packet->flags = get32(value);
    }
}

static void statistics_option(uint16_t code, const uint8_t *value, uint16_t length, void *context)
{
    struct found_statistics *statistics = context;
    if (code == 1) {
        take_text(statistics->comment, sizeof statistics->comment, value, length);
        statistics->comments++;
        return;
    }
    assert_int_equal(length, 8);
    if (code == 4)
        statistics->received = get64(value);
    else if (code == 5)
        statistics->dropped = get64(value);
    else if (code == 8)
        statistics->delivered = get64(value);
    else
        assert_in_range(code, 2, 3);
}

static void read_block(struct file *file, uint32_t type, const uint8_t *body, const uint8_t *end)
{
    if (type == 0x0a0d0d0a) {
        assert_int_equal(get32(body), 0x1a2b3c4d);
        each_option(body + 16, end, section_option, file);
    } else if (type == 1) {
        struct found_interface *interface = &file->interface[file->interfaces++];
        interface->link_type = get16(body);
        interface->snapshot = get32(body + 4);
        each_option(body + 8, end, interface_option, interface);
    } else if (type == 5) {
        struct found_statistics *statistics = &file->statistics[file->statistic++];
        *statistics = (struct found_statistics){.interface = get32(body),
                                                .received = UINT64_MAX,
                                                .dropped = UINT64_MAX,
                                                .delivered = UINT64_MAX};
        assert_true(statistics->interface < file->interfaces);
        each_option(body + 12, end, statistics_option, statistics);
    } else {
        assert_int_equal(type, 6);
        struct found *packet = &file->packet[file->packets++];
        uint64_t time = (uint64_t)get32(body + 4) << 32 | get32(body + 8);
        packet->interface = get32(body);
        assert_true(packet->interface < file->interfaces); /* its block came before */
        packet->time_ns = (int64_t)(time + (uint64_t)file->interface[packet->interface].offset_s *
                                               (uint64_t)SECOND);
        packet->captured = get32(body + 12);
        packet->original = get32(body + 16);
        packet->flags = UINT32_MAX;
        packet->bytes = body + 20;
        const uint8_t *behind = body + 20 + (packet->captured + 3) / 4 * 4;
        assert_true(behind <= end);
        for (const uint8_t *at = packet->bytes + packet->captured; at < behind; at++)
            assert_int_equal(*at, 0);
        each_option(behind, end, packet_option, packet);
    }
}

static void read_file(struct file *file, int fd)
{
    memset(file, 0, sizeof *file);
    file->count = (size_t)lseek(fd, 0, SEEK_END);
    file->bytes = mmap(NULL, file->count, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(file->bytes, MAP_FAILED);
    for (size_t at = 0; at < file->count;) {
        assert_true(file->count - at >= 12);
        uint32_t type = get32(file->bytes + at), length = get32(file->bytes + at + 4);
        assert_true(length % 4 == 0 && length >= 12 && length <= file->count - at);
        assert_int_equal(get32(file->bytes + at + length - 4), length);
        assert_true(at > 0 || type == 0x0a0d0d0a);
        read_block(file, type, file->bytes + at + 8, file->bytes + at + length - 4);
        at += length;
    }
}

static void forget_file(struct file *file)
{
    munmap(file->bytes, file->count);
}

/* ---- pcapng ------------------------------------------------------------------------------------
 */

static struct file file;

static void test_pcapng(void **state)
{
    (void)state;
    int fd = memory_file();
    struct capture_writer *writer = open_writer(CAPTURE_PCAPNG, fd, 0);
    int unused = ethernet(writer, "unused"), second = ethernet(writer, "eth1");
    struct interface_description description = {
        .link_type = 113,
        .snapshot_length = 96,
        .hardware = {2, 0, 0, 0, 0, 7},
        .name = "any",
        .description = "all of them",
    };
    int any = capture_writer_interface(writer, &description);
    assert_int_equal(capture_writer_interface(writer, &description), any);
    assert_int_equal(ethernet(writer, "eth1"), second);
    assert_int_not_equal(unused, second);

    struct packet packet = {
        .bytes = pattern, .captured_bytes = 61, .original_bytes = 1500, .time_ns = 5};
    packet.direction = DIRECTION_OUT;
    assert_int_equal(capture_writer_packet(writer, (uint32_t)any, &packet), 0);
    packet.direction = DIRECTION_IN;
    packet.time_ns = 3; /* backwards is no problem of a file */
    assert_int_equal(capture_writer_packet(writer, (uint32_t)second, &packet), 0);
    capture_writer_comment(writer, "something is missing here");
    capture_writer_comment(writer, "and here");
    packet.captured_bytes = 0;
    packet.time_ns = 1700000000123456789;
    assert_int_equal(capture_writer_packet(writer, (uint32_t)any, &packet), 0);
    packet.direction = DIRECTION_UNKNOWN;
    packet.captured_bytes = 64;
    packet.original_bytes = 10; /* as the source gave it */
    assert_int_equal(capture_writer_packet(writer, (uint32_t)any, &packet), 0);
    struct capture_statistics statistics = {
        .received = 100, .dropped = 7, .from_ns = 3, .to_ns = 9};
    capture_writer_statistics(writer, (uint32_t)any, &statistics);
    capture_writer_statistics(writer, (uint32_t)unused, &statistics);
    capture_writer_comment(writer, "at the end");
    assert_int_equal(capture_writer_packets(writer), 4);
    finish(&writer);

    read_file(&file, fd);
    assert_string_equal(file.section_comment, "a test");
    assert_int_equal(file.interfaces,
                     2); /* in the order of their first packets, without the unused one */
    assert_int_equal(file.interface[0].link_type, 113);
    assert_int_equal(file.interface[0].snapshot, 0);
    assert_int_equal(file.interface[0].resolution, 9);
    assert_string_equal(file.interface[0].name, "any");
    assert_string_equal(file.interface[0].description, "all of them");
    assert_true(file.interface[0].has_hardware);
    assert_memory_equal(file.interface[0].hardware, description.hardware, 6);
    assert_non_null(strstr(file.interface[0].comment, "96 bytes"));
    assert_string_equal(file.interface[1].name, "eth1");
    assert_false(file.interface[1].has_hardware);
    assert_string_equal(file.interface[1].comment, "");

    assert_int_equal(file.packets, 4);
    assert_int_equal(file.packet[0].interface, 0);
    assert_int_equal(file.packet[0].time_ns, 5);
    assert_int_equal(file.packet[0].captured, 61);
    assert_int_equal(file.packet[0].original, 1500);
    assert_int_equal(file.packet[0].flags, 2);
    assert_memory_equal(file.packet[0].bytes, pattern, 61);
    assert_int_equal(file.packet[1].interface, 1);
    assert_int_equal(file.packet[1].flags, 1);
    assert_int_equal(file.packet[1].comments, 0);
    assert_int_equal(file.packet[2].time_ns, 1700000000123456789);
    assert_int_equal(file.packet[2].captured, 0);
    assert_int_equal(file.packet[2].comments, 2);
    assert_string_equal(file.packet[2].comment[0], "something is missing here");
    assert_string_equal(file.packet[2].comment[1], "and here");
    assert_int_equal(file.packet[2].flags, 1);
    assert_int_equal(file.packet[3].comments, 0);
    assert_int_equal(file.packet[3].flags, UINT32_MAX);
    assert_int_equal(file.packet[3].original, 10);

    assert_int_equal(file.statistic, 2);
    assert_int_equal(file.statistics[0].interface,
                     1); /* in the order in which the writer was told of them */
    assert_int_equal(file.statistics[0].received, UINT64_MAX);
    assert_int_equal(file.statistics[0].delivered, 1);
    assert_string_equal(file.statistics[0].comment, "at the end");
    assert_int_equal(file.statistics[1].interface, 0);
    assert_int_equal(file.statistics[1].received, 100);
    assert_int_equal(file.statistics[1].dropped, 7);
    assert_int_equal(file.statistics[1].delivered, 3);
    assert_int_equal(file.statistics[1].comments, 0);
    forget_file(&file);
    close(fd);
}

/* Every 64-bit time comes back as it was (P8), though pcapng has no numbers before 1970. */
static void test_every_time(void **state)
{
    (void)state;
    static const int64_t times[] = {0,
                                    -1,
                                    1,
                                    -SECOND,
                                    INT64_MIN,
                                    INT64_MAX,
                                    1700000000000000001,
                                    -1700000000000000001,
                                    INT64_MIN + 1};
    int fd = memory_file();
    struct capture_writer *writer = open_writer(CAPTURE_PCAPNG, fd, 0);
    int interface = ethernet(writer, "eth0");
    for (size_t i = 0; i < COUNT(times); i++)
        assert_int_equal(put(writer, interface, times[i], 60, 60), 0);
    finish(&writer);
    read_file(&file, fd);
    assert_int_equal(file.packets, COUNT(times));
    assert_int_equal(file.interfaces, 2);
    for (size_t i = 0; i < COUNT(times); i++)
        assert_int_equal(file.packet[i].time_ns, times[i]);
    assert_int_equal(file.statistic, 2);
    assert_int_equal(file.statistics[0].delivered + file.statistics[1].delivered, COUNT(times));
    forget_file(&file);

    lseek(fd, 0, SEEK_SET); /* libpcap agrees, as far as its seconds go */
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *pcap = pcap_fopen_offline_with_tstamp_precision(fdopen(dup(fd), "rb"),
                                                            PCAP_TSTAMP_PRECISION_NANO, error);
    assert_non_null(pcap);
    for (size_t i = 0; i < COUNT(times); i++) {
        struct pcap_pkthdr *head;
        const u_char *bytes;
        assert_int_equal(pcap_next_ex(pcap, &head, &bytes), 1);
        assert_true((uint64_t)head->ts.tv_sec * (uint64_t)SECOND + (uint64_t)head->ts.tv_usec ==
                    (uint64_t)times[i]);
    }
    pcap_close(pcap);

    lseek(fd, 0, SEEK_SET); /* and so does our own reader */
    struct source *source;
    struct failure failure;
    static struct source_batch batch;
    assert_int_equal(source_file_open(dup(fd), "capture", &source, &failure), 0);
    uint32_t seen = 0;
    while (source_next(source, &batch, 0) >= 0) {
        for (uint32_t i = 0; i < batch.count; i++, seen++)
            assert_int_equal(batch.packet[i].time_ns, times[seen]);
        source_release(source, &batch);
    }
    assert_int_equal(source->failure.code, 0);
    assert_int_equal(seen, COUNT(times));
    source_close(&source);
    close(fd);
}

static void test_many_comments(void **state)
{
    (void)state;
    char longest[2000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    int fd = memory_file();
    struct capture_writer *writer = open_writer(CAPTURE_PCAPNG, fd, 0);
    int interface = ethernet(writer, "eth0");
    for (int i = 0; i < 20; i++)
        capture_writer_comment(writer, longest);
    assert_int_equal(put(writer, interface, 0, 1 << 20, 1 << 20),
                     0); /* longer than the writer's buffer */
    finish(&writer);
    read_file(&file, fd);
    assert_int_equal(file.packet[0].comments, 9);
    assert_int_equal(strlen(file.packet[0].comment[0]), 500);
    assert_string_equal(file.packet[0].comment[8], "and 12 more gaps here");
    assert_memory_equal(file.packet[0].bytes, pattern + (1 << 20) % 251, 1 << 20);
    forget_file(&file);
    close(fd);
}

/* Comments of a result without any packet stand at the section; the file is one that libpcap opens.
 */
static void test_no_packets(void **state)
{
    (void)state;
    for (enum capture_format format = CAPTURE_PCAPNG; format <= CAPTURE_PCAP_US; format++) {
        int fd = memory_file();
        struct capture_writer *writer = open_writer(format, fd, 0);
        capture_writer_comment(writer, "all of it is missing");
        finish(&writer);
        if (format == CAPTURE_PCAPNG) {
            read_file(&file, fd);
            assert_string_equal(file.section_comment, "all of it is missing");
            assert_int_equal(file.packets, 0);
            forget_file(&file);
        }
        lseek(fd, 0, SEEK_SET);
        char error[PCAP_ERRBUF_SIZE];
        pcap_t *pcap = pcap_fopen_offline(fdopen(fd, "rb"), error);
        assert_non_null(pcap);
        assert_int_equal(pcap_datalink(pcap), DLT_EN10MB);
        pcap_close(pcap);
    }
}

/* ---- libpcap reads it --------------------------------------------------------------------------
 */

static void test_libpcap(void **state)
{
    (void)state;
    for (enum capture_format format = CAPTURE_PCAPNG; format <= CAPTURE_PCAP_US; format++) {
        int fd = memory_file();
        struct capture_writer *writer = open_writer(format, fd, 0);
        int interface = ethernet(writer, "eth0");
        for (uint32_t i = 0; i < 20000; i++) /* many buffers full, every length of padding */
            assert_int_equal(
                put(writer, interface, (int64_t)i * 1000000007, i % 1600, i % 1600 + i % 3), 0);
        uint64_t bytes = capture_writer_bytes(writer);
        assert_int_equal(capture_writer_flush(writer), 0);
        assert_int_equal(lseek(fd, 0, SEEK_END), bytes);
        finish(&writer);
        lseek(fd, 0, SEEK_SET);
        char error[PCAP_ERRBUF_SIZE];
        pcap_t *pcap = pcap_fopen_offline_with_tstamp_precision(fdopen(fd, "rb"),
                                                                PCAP_TSTAMP_PRECISION_NANO, error);
        assert_non_null(pcap);
        assert_int_equal(pcap_snapshot(pcap), 262144);
        for (uint32_t i = 0; i < 20000; i++) {
            struct pcap_pkthdr *head;
            const u_char *got;
            assert_int_equal(pcap_next_ex(pcap, &head, &got), 1);
            int64_t time_ns = (int64_t)i * 1000000007;
            if (format == CAPTURE_PCAP_US)
                time_ns -= time_ns % 1000;
            assert_int_equal(head->ts.tv_sec * SECOND + head->ts.tv_usec, time_ns);
            assert_int_equal(head->caplen, i % 1600);
            assert_int_equal(head->len, i % 1600 + i % 3);
            assert_memory_equal(got, pattern + i % 1600 % 251, head->caplen);
        }
        struct pcap_pkthdr *head;
        const u_char *got;
        assert_int_equal(pcap_next_ex(pcap, &head, &got), PCAP_ERROR_BREAK);
        pcap_close(pcap);
    }
}

/* ---- classic pcap ------------------------------------------------------------------------------
 */

static void test_pcap_refuses_second_link_type(void **state)
{
    (void)state;
    for (enum capture_format format = CAPTURE_PCAP_NS; format <= CAPTURE_PCAP_US; format++) {
        int fd = memory_file();
        struct capture_writer *writer = open_writer(format, fd, 0);
        struct interface_description raw = {.link_type = 101, .name = "tun0"};
        int ethernet_number = ethernet(writer, "eth0"),
            raw_number = capture_writer_interface(writer, &raw);
        assert_int_equal(put(writer, raw_number, 0, 60, 60), 0);
        assert_int_equal(put(writer, ethernet_number, 0, 60, 60), ERR_UNSUPPORTED);
        const char *text = capture_writer_failure(writer)->text;
        assert_non_null(strstr(text, "pcapng"));
        assert_non_null(strstr(text, "101"));
        assert_non_null(strstr(text, "eth0"));
        assert_int_equal(put(writer, raw_number, 0, 60, 60), ERR_UNSUPPORTED); /* it stays failed */
        assert_int_equal(capture_writer_finish(writer), ERR_UNSUPPORTED);
        capture_writer_close(&writer);
        close(fd);
    }
}

static void test_pcap_times(void **state)
{
    (void)state;
    static const struct {
        int64_t time_ns;
        uint32_t seconds, fraction;
    } one[] = {
        {0, 0, 0},
        {1999999999, 1, 999999999},
        {4294967295 * SECOND + 5, 4294967295u, 5},
        {4294967296 * SECOND, 4294967295u, 999999999},
        {INT64_MAX, 4294967295u, 999999999},
        {-1, 0, 0},
        {INT64_MIN, 0, 0},
    };
    int fd = memory_file();
    struct capture_writer *writer = open_writer(CAPTURE_PCAP_NS, fd, 0);
    int interface = ethernet(writer, "eth0");
    for (size_t i = 0; i < COUNT(one); i++)
        assert_int_equal(put(writer, interface, one[i].time_ns, 0, 60), 0);
    assert_int_equal(capture_writer_times_moved(writer), 4);
    assert_int_equal(capture_writer_packets(writer), COUNT(one));
    finish(&writer);
    uint8_t bytes[24 + 16 * COUNT(one)];
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(get32(bytes), 0xa1b23c4d);
    for (size_t i = 0; i < COUNT(one); i++) {
        assert_int_equal(get32(bytes + 24 + 16 * i), one[i].seconds);
        assert_int_equal(get32(bytes + 28 + 16 * i), one[i].fraction);
    }
    close(fd);
}

/* ---- limits and failures -----------------------------------------------------------------------
 */

static void test_limit(void **state)
{
    (void)state;
    for (enum capture_format format = CAPTURE_PCAPNG; format <= CAPTURE_PCAP_US; format++) {
        for (uint64_t limit = 0; limit < 1000; limit += 7) {
            int fd = memory_file();
            struct capture_writer *writer = open_writer(format, fd, limit + 1);
            int interface = ethernet(writer, "eth0"), other = ethernet(writer, "eth1");
            uint32_t written = 0;
            int result;
            while ((result = put(writer, written % 2 ? other : interface, 0, 60, 60)) == 0)
                written++;
            assert_int_equal(result, ERR_TOO_LARGE);
            assert_int_equal(capture_writer_failure(writer)->code, 0);
            finish(&writer);
            uint64_t bytes = (uint64_t)lseek(fd, 0, SEEK_END);
            assert_true(bytes <= limit + 1 || written == 0); /* the head alone may be longer */
            if (format != CAPTURE_PCAPNG && written > 0)
                assert_int_equal(bytes, 24 + written * 76);
            close(fd);
        }
    }
}

struct slow_reader {
    int fd;
    uint8_t *bytes;
    size_t count;
};

static void *read_slowly(void *context)
{
    struct slow_reader *reader = context;
    ssize_t count;
    while ((count = read(reader->fd, reader->bytes + reader->count, 1013)) > 0)
        reader->count += (size_t)count;
    return NULL;
}

/* A pipe takes what it has room for, and one that does not block says so: nothing is lost or
 * written twice. */
static void test_pipe(void **state)
{
    (void)state;
    for (int blocking = 0; blocking < 2; blocking++) {
        int ends[2], fd = memory_file();
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        if (!blocking)
            fcntl(ends[1], F_SETFL, O_NONBLOCK);
        struct slow_reader reader = {.fd = ends[0], .bytes = malloc(8 << 20)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
        for (int i = 0; i < 2; i++) {
            struct capture_writer *writer = open_writer(CAPTURE_PCAPNG, i == 0 ? ends[1] : fd, 0);
            int interface = ethernet(writer, "eth0");
            for (uint32_t number = 0; number < 3000; number++)
                assert_int_equal(put(writer, interface, number, number % 1500, 1500), 0);
            finish(&writer);
        }
        close(ends[1]);
        pthread_join(thread, NULL);
        size_t count = (size_t)lseek(fd, 0, SEEK_END);
        assert_int_equal(reader.count, count);
        uint8_t *wanted = mmap(NULL, count, PROT_READ, MAP_SHARED, fd, 0);
        assert_memory_equal(reader.bytes, wanted, count);
        munmap(wanted, count);
        free(reader.bytes);
        close(ends[0]);
        close(fd);
    }
}

static void test_closed_pipe(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[0]);
    struct capture_writer *writer = open_writer(CAPTURE_PCAPNG, ends[1], 0);
    int interface = ethernet(writer, "eth0"), result = 0;
    uint32_t taken = 0;
    while (result == 0 && taken++ < 100000)
        result = put(writer, interface, 0, 1500, 1500);
    assert_int_equal(result, ERR_CLOSED);
    assert_int_equal(capture_writer_flush(writer), ERR_CLOSED);
    assert_int_equal(capture_writer_finish(writer), ERR_CLOSED);
    assert_int_not_equal(capture_writer_failure(writer)->text[0], '\0');
    capture_writer_close(&writer);
    close(ends[1]);
}

static void test_full_disk(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        skip();
    struct capture_writer *writer = open_writer(CAPTURE_PCAP_US, fd, 0);
    int interface = ethernet(writer, "eth0");
    assert_int_equal(put(writer, interface, 0, 60, 60), 0);
    assert_int_equal(capture_writer_finish(writer), ERR_NO_SPACE);
    capture_writer_close(&writer);
    close(fd);
    struct capture_writer_options options = {.format = 4};
    struct failure failure;
    assert_int_equal(capture_writer_open(&options, &writer, &failure), ERR_INVALID);
    assert_null(writer);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 31 + i / 251 + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pcapng),        cmocka_unit_test(test_every_time),
        cmocka_unit_test(test_many_comments), cmocka_unit_test(test_no_packets),
        cmocka_unit_test(test_libpcap),       cmocka_unit_test(test_pcap_refuses_second_link_type),
        cmocka_unit_test(test_pcap_times),    cmocka_unit_test(test_limit),
        cmocka_unit_test(test_pipe),          cmocka_unit_test(test_closed_pipe),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
