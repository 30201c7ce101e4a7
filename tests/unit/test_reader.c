/*
 * test_reader.c - what the reading side hands out of segments made by hand: order, holes, damage,
 * ranges, memory.
 */
#include "unit_test.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "reader.h"
#include "segment_fixture.h"
#include "sifter.h"
#include "segment_reader.h"

#define SECOND 1000000000ll
#define GAPS_MAX 64
#define BADS_MAX 64

/* A reader and everything that it says. */
static struct sifter *sifter; /* null: each frame is looked at when it is read */

struct harness {
    struct fixture *fixture;
    struct disk *disk;
    struct reader *reader;
    struct worker_gap gap[GAPS_MAX];
    uint32_t gaps;
    struct worker_bad bad[BADS_MAX];
    uint32_t bads;
    int judgement;
    void (*repair)(struct harness *harness, const struct worker_bad *bad);
    uint64_t heap_base;
    uint64_t heap_most;
    uint64_t oldest; /* what the gauge says */
    uint32_t turns;  /* that were asked for */
};

static bool may_read(void *context, uint32_t disk, uint32_t ahead, bool wait)
{
    struct harness *harness = context;
    assert_int_equal(disk, 0);
    (void)ahead;
    (void)wait;
    harness->turns++;
    return true;
}

static bool is_gone(void *context, uint64_t position)
{
    const struct harness *harness = context;
    return position < harness->oldest;
}

static int judge(void *context, const struct worker_bad *bad)
{
    struct harness *harness = context;
    if (harness->bads < BADS_MAX)
        harness->bad[harness->bads] = *bad;
    harness->bads++;
    if (harness->repair)
        harness->repair(harness, bad);
    return harness->judgement;
}

static void note_gap(void *context, const struct worker_gap *gap)
{
    struct harness *harness = context;
    if (harness->gaps < GAPS_MAX)
        harness->gap[harness->gaps] = *gap;
    harness->gaps++;
}

static uint64_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static int tick(void *context)
{
    struct harness *harness = context;
    uint64_t bytes = heap_bytes();
    if (bytes > harness->heap_most)
        harness->heap_most = bytes;
    return 0;
}

static void open_harness(struct harness *harness, struct fixture *fixture, int64_t from_ns,
                         int64_t to_ns, bool follow, uint64_t memory_max)
{
    *harness = (struct harness){.fixture = fixture, .judgement = WORKER_DAMAGED};
    harness->disk = fixture_disk(fixture);
    harness->heap_base = heap_bytes();
    struct reader_options options = {
        .disk = &harness->disk,
        .disks = 1,
        .ring = fixture->ring,
        .from_ns = from_ns,
        .to_ns = to_ns,
        .follow = follow,
        .memory_max = memory_max,
        .sifter = sifter,
        .judge = judge,
        .gap = note_gap,
        .tick = tick,
        .may_read = may_read,
        .is_gone = is_gone,
        .context = harness,
    };
    assert_int_equal(reader_open(&options, &harness->reader), 0);
}

static void open_usual(struct harness *harness, struct fixture *fixture)
{
    open_harness(harness, fixture, INT64_MIN, INT64_MAX, false, 16u << 20);
}

static void close_harness(struct harness *harness)
{
    reader_close(&harness->reader);
    disk_close(&harness->disk);
}

static void add(struct harness *harness, const struct fixture_segment *segment)
{
    assert_int_equal(reader_add(harness->reader, &segment->about, 1), 0);
}

/* The stream that an interface made by fixture_interface_usual() belongs to. */
static uint32_t stream_of(const struct harness *harness, uint32_t interface)
{
    return (uint32_t)strtoul(reader_interface(harness->reader, interface)->name + 3, NULL, 10);
}

/* The next packet's bytes are those of packet `number` of its stream. */
static bool is_packet(const struct harness *harness, const struct reader_packet *packet,
                      uint64_t number)
{
    static uint8_t bytes[1 << 24];
    uint32_t count = packet->packet->captured_bytes;
    fixture_bytes(stream_of(harness, packet->interface), number, bytes, count);
    return memcmp(bytes, packet->packet->bytes, count) == 0;
}

/* Expects exactly the packets [from, to) of stream `stream`, now. */
static void expect(struct harness *harness, uint32_t stream, uint64_t from, uint64_t to)
{
    for (uint64_t number = from; number < to; number++) {
        struct reader_packet packet;
        assert_int_equal(reader_next(harness->reader, &packet), 1);
        assert_int_equal(stream_of(harness, packet.interface), stream);
        assert_true(is_packet(harness, &packet, number));
    }
}

static void expect_end(struct harness *harness)
{
    struct reader_packet packet;
    assert_int_equal(reader_next(harness->reader, &packet), 0);
    reader_finish(harness->reader, true);
}

static void expect_gap(const struct harness *harness, uint32_t i, uint32_t reason, uint64_t packets,
                       int64_t from_ns, int64_t to_ns)
{
    assert_true(i < harness->gaps);
    assert_int_equal(harness->gap[i].reason, reason);
    assert_int_equal(harness->gap[i].packets, packets);
    assert_int_equal(harness->gap[i].from_ns, from_ns);
    assert_int_equal(harness->gap[i].to_ns, to_ns);
}

/* `count` packets of 100 bytes, a second apart, the first at `first_ns`. */
static void fill(struct fixture_segment *segment, uint32_t count, int64_t first_ns,
                 uint32_t captured)
{
    int interface = segment->table.interfaces ? 0 : fixture_interface_usual(segment);
    for (uint32_t i = 0; i < count; i++)
        assert_true(fixture_packet(segment, interface, DIRECTION_IN, first_ns + i * SECOND,
                                   captured, captured + 7));
}

static void begin(struct fixture_segment *segment, struct fixture *fixture, uint32_t slot,
                  uint32_t stream, uint64_t position, uint64_t first_packet)
{
    fixture_begin(segment, fixture, &slot, 1, 1, stream, position, first_packet, 0);
}

/* ---- order -------------------------------------------------------------------------------------
 */

static void test_one_stream(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment a, b;
    struct harness harness;
    fixture_open(&fixture, 2, 1 << 20);
    begin(&a, &fixture, 0, 0, 1, 0);
    fill(&a, 1000, 5 * SECOND, 700);
    fixture_seal(&a);
    begin(&b, &fixture, 1, 0, 2, 1000);
    fill(&b, 500, 2000 * SECOND, 60);
    fixture_seal(&b);
    open_usual(&harness, &fixture);
    add(&harness, &b); /* any order */
    add(&harness, &a);
    struct reader_packet packet;
    for (uint64_t i = 0; i < 1500; i++) {
        assert_int_equal(reader_next(harness.reader, &packet), 1);
        assert_true(is_packet(&harness, &packet, i));
        assert_int_equal(packet.packet->time_ns,
                         i < 1000 ? (5 + (int64_t)i) * SECOND : (1000 + (int64_t)i) * SECOND);
        assert_int_equal(packet.packet->captured_bytes, i < 1000 ? 700 : 60);
        assert_int_equal(packet.packet->original_bytes, i < 1000 ? 707 : 67);
        assert_int_equal(packet.packet->direction, DIRECTION_IN);
    }
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    assert_int_equal(harness.bads, 0);
    assert_int_equal(reader_interfaces(harness.reader), 1);
    close_harness(&harness);
    fixture_end(&a);
    fixture_end(&b);
    fixture_close(&fixture);
}

static void test_merge(void **state)
{
    (void)state;
    enum { STREAMS = 7, EACH = 900 };
    struct fixture fixture;
    struct fixture_segment segment[STREAMS];
    struct harness harness;
    fixture_open(&fixture, STREAMS, 1 << 20);
    for (uint32_t s = 0; s < STREAMS; s++) {
        begin(&segment[s], &fixture, s, s, 10 - s, 0); /* positions fall as numbers rise */
        int interface = fixture_interface_usual(&segment[s]);
        for (int64_t i = 0; i < EACH; i++) /* all streams meet at every tenth of a second */
            assert_true(fixture_packet(&segment[s], interface, 0, i * SECOND / 10 / (1 + s % 3),
                                       100 + s, 100));
        fixture_seal(&segment[s]);
    }
    open_usual(&harness, &fixture);
    for (uint32_t s = 0; s < STREAMS; s++)
        add(&harness, &segment[s]);
    uint64_t seen[STREAMS] = {0};
    int64_t last_ns = -1;
    uint32_t last_stream = 0;
    struct reader_packet packet;
    for (uint32_t i = 0; i < STREAMS * EACH; i++) {
        assert_int_equal(reader_next(harness.reader, &packet), 1);
        uint32_t stream = stream_of(&harness, packet.interface);
        assert_true(is_packet(&harness, &packet, seen[stream]++));
        assert_true(packet.packet->time_ns >= last_ns);
        if (packet.packet->time_ns ==
            last_ns) /* a tie goes to the lower position: here to the higher stream */
            assert_true(stream < last_stream);
        last_ns = packet.packet->time_ns;
        last_stream = stream;
    }
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    close_harness(&harness);
    for (uint32_t s = 0; s < STREAMS; s++)
        fixture_end(&segment[s]);
    fixture_close(&fixture);
}

/* Within a stream arrival order stays, even where times run backwards, before 1970, or to the ends
 * of time (P8). */
static void test_backward_times(void **state)
{
    (void)state;
    static const int64_t time_ns[] = {50, 40, 30, INT64_MAX, 60, INT64_MIN, -5, 100, 0, 70};
    struct fixture fixture;
    struct fixture_segment wild, tame;
    struct harness harness;
    fixture_open(&fixture, 2, 1 << 20);
    begin(&wild, &fixture, 0, 0, 1, 0);
    int interface = fixture_interface_usual(&wild);
    for (size_t i = 0; i < COUNT(time_ns); i++)
        assert_true(fixture_packet(&wild, interface, 0, time_ns[i], 64, 64));
    fixture_seal(&wild);
    begin(&tame, &fixture, 1, 1, 2, 0);
    interface = fixture_interface_usual(&tame);
    for (int64_t i = 0; i < 10; i++)
        assert_true(fixture_packet(&tame, interface, 0, 45 + i, 64, 64));
    fixture_seal(&tame);
    open_usual(&harness, &fixture);
    add(&harness, &wild);
    add(&harness, &tame);
    expect(&harness, 1, 0, 5);  /* 45 to 49 */
    expect(&harness, 0, 0, 3);  /* 50, and 40 and 30 that stood behind it */
    expect(&harness, 1, 5, 10); /* 50 to 54: position 2 loses the tie; then INT64_MAX waits */
    expect(&harness, 0, 3, COUNT(time_ns));
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    close_harness(&harness);
    fixture_end(&wild);
    fixture_end(&tame);
    fixture_close(&fixture);
}

/* Frames of odd lengths, straddling pieces; some longer than usual, one longer than a piece. */
static void test_odd_frames(void **state)
{
    (void)state;
    static const uint32_t length[] = {300000, 100,  65535,   250000, 9000,   1,
                                      0,      1500, 2500000, 40,     262144, 1100000};
    struct fixture fixture;
    struct fixture_segment segment;
    for (uint64_t memory = 1; memory <= 64u << 20; memory *= 4096) {
        struct harness harness;
        uint32_t slot = 0;
        fixture_open(&fixture, 1, 32 << 20);
        fixture_begin(&segment, &fixture, &slot, 1, 1, 0, 1, 0, 52 * 1024);
        int interface = fixture_interface_usual(&segment);
        uint64_t packets = 0;
        while (fixture_packet(&segment, interface, 0, (int64_t)packets,
                              length[packets % COUNT(length)], 70000))
            packets++;
        fixture_seal(&segment);
        assert_true(packets > 60);
        open_harness(&harness, &fixture, INT64_MIN, INT64_MAX, false, memory);
        add(&harness, &segment);
        expect(&harness, 0, 0, packets);
        expect_end(&harness);
        assert_int_equal(harness.gaps, 0);
        assert_int_equal(harness.bads, 0);
        close_harness(&harness);
        fixture_end(&segment);
        fixture_close(&fixture);
    }
}

/* ---- numbers -----------------------------------------------------------------------------------
 */

static void test_hole(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment a, b, c;
    struct harness harness;
    fixture_open(&fixture, 3, 1 << 20);
    begin(&a, &fixture, 0, 0, 1, 100); /* what was before has been overwritten: that is no gap */
    fill(&a, 10, 0, 100);
    fixture_seal(&a);
    begin(&b, &fixture, 1, 0, 2, 117);
    fill(&b, 10, 20 * SECOND, 100);
    fixture_seal(&b);
    begin(&c, &fixture, 2, 0, 3, 127);
    fill(&c, 5, 40 * SECOND, 100);
    fixture_seal(&c);
    c.about.packets += 3; /* known to have been there */
    c.about.last_ns += 3 * SECOND;
    open_usual(&harness, &fixture);
    add(&harness, &a);
    add(&harness, &b);
    add(&harness, &c);
    expect(&harness, 0, 100, 110);
    assert_int_equal(harness.gaps, 0);
    expect(&harness, 0, 117, 118);
    assert_int_equal(harness.gaps, 1);
    expect_gap(&harness, 0, WORKER_GAP_LOST, 7, 9 * SECOND, 20 * SECOND);
    expect(&harness, 0, 118, 132);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 2);
    expect_gap(&harness, 1, WORKER_GAP_LOST, 3, 44 * SECOND, 47 * SECOND);
    close_harness(&harness);

    /* A gap outside the range is none of the result's. */
    open_harness(&harness, &fixture, 0, 5 * SECOND, false, 16u << 20);
    add(&harness, &a);
    add(&harness, &b);
    add(&harness, &c);
    expect(&harness, 0, 100, 105);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    close_harness(&harness);
    fixture_end(&a);
    fixture_end(&b);
    fixture_end(&c);
    fixture_close(&fixture);
}

/* A segment that cannot be read at all because its disk is missing. */
static void test_no_place(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment a, b;
    struct harness harness;
    fixture_open(&fixture, 2, 1 << 20);
    begin(&a, &fixture, 0, 0, 1, 0);
    fill(&a, 10, 0, 100);
    fixture_seal(&a);
    begin(&b, &fixture, 1, 0, 2, 10);
    fill(&b, 10, 10 * SECOND, 100);
    fixture_seal(&b);
    a.about.places = 0;
    open_usual(&harness, &fixture);
    add(&harness, &a);
    add(&harness, &b);
    expect(&harness, 0, 10, 20);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 1);
    expect_gap(&harness, 0, WORKER_GAP_LOST, 10, 0, 10 * SECOND);
    close_harness(&harness);

    /* The same at the end, and outside the range, where it is no gap. */
    a.about.places = 1;
    b.about.places = 0;
    for (int narrow = 0; narrow < 2; narrow++) {
        open_harness(&harness, &fixture, INT64_MIN, narrow ? 10 * SECOND : INT64_MAX, false,
                     16u << 20);
        add(&harness, &a);
        add(&harness, &b);
        expect(&harness, 0, 0, 10);
        expect_end(&harness);
        assert_int_equal(harness.gaps, narrow ? 0 : 1);
        if (!narrow)
            expect_gap(&harness, 0, WORKER_GAP_LOST, 10, 9 * SECOND, 19 * SECOND);
        close_harness(&harness);
    }
    fixture_end(&a);
    fixture_end(&b);
    fixture_close(&fixture);
}

/* A write failed: the frames that lacked a good copy open the next segment. Each packet comes once.
 */
static void test_duplicates(void **state)
{
    (void)state;
    for (int spoil = 0; spoil < 2; spoil++) {
        struct fixture fixture;
        struct fixture_segment a, b;
        struct harness harness;
        fixture_open(&fixture, 2, 1 << 20);
        begin(&a, &fixture, 0, 0, 1, 0);
        fill(&a, 10, 0, 100);
        fixture_flush(&a);
        uint32_t last = a.offset;
        fill(&a, 10, 10 * SECOND, 100);
        fixture_seal(&a);
        begin(&b, &fixture, 1, 0, 2, 5);
        fill(&b, 4, 5 * SECOND, 100); /* all seen */
        fixture_flush(&b);
        fill(&b, 21, 9 * SECOND, 100); /* the first of them seen, or all up to number 20 */
        fixture_seal(&b);
        if (spoil)
            fixture_slot(&fixture, 0, last)[2000] ^= 1;
        open_usual(&harness, &fixture);
        add(&harness, &a);
        add(&harness, &b);
        expect(&harness, 0, 0, 30);
        expect_end(&harness);
        assert_int_equal(harness.gaps, 0);
        assert_int_equal(harness.bads, spoil);
        close_harness(&harness);
        fixture_end(&a);
        fixture_end(&b);
        fixture_close(&fixture);
    }
}

/* ---- damage ------------------------------------------------------------------------------------
 */

/* Four frames of 10 packets each of 1,000 bytes, in `copies` copies; frame f begins at offset[f].
 */
static void make_frames(struct fixture *fixture, struct fixture_segment *segment, uint32_t copies,
                        uint32_t offset[5])
{
    static const uint32_t slots[] = {0, 1, 2, 3};
    fixture_open(fixture, 4, 1 << 20);
    fixture_begin(segment, fixture, slots, copies, 1, 0, 77, 0, 0);
    for (uint32_t f = 0; f < 4; f++) {
        fill(segment, 10, f * 10 * SECOND, 1000);
        offset[f] = segment->offset;
        fixture_flush(segment);
    }
    offset[4] = segment->offset;
    fixture_seal(segment);
}

static void test_bad_frame(void **state)
{
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        for (uint32_t spoiled = 0; spoiled < 4; spoiled++) {
            for (int header = 0; header < 2; header++) {
                struct fixture fixture;
                struct fixture_segment segment;
                struct harness harness;
                uint32_t offset[5];
                make_frames(&fixture, &segment, 1, offset);
                if (!sealed) { /* no index to find the next frame with */
                    segment.about.state = SEGMENT_OPEN;
                    segment.about.index_bytes = segment.about.index_offset = 0;
                }
                fixture_slot(&fixture, 0, offset[spoiled])[header ? 100 : 5000] ^= 0x40;
                open_usual(&harness, &fixture);
                add(&harness, &segment);
                expect(&harness, 0, 0, 10 * spoiled);
                expect(&harness, 0, 10 * (spoiled + 1), 40);
                expect_end(&harness);
                assert_int_equal(harness.bads, 1);
                assert_int_equal(harness.bad[0].reason, WORKER_BAD_CHECKSUM);
                assert_int_equal(harness.bad[0].offset, offset[spoiled]);
                assert_int_equal(harness.bad[0].place, 0);
                if (sealed || !header)
                    assert_int_equal(harness.bad[0].bytes, offset[spoiled + 1] - offset[spoiled]);
                assert_int_equal(harness.gaps, 1);
                int64_t last_ns = (spoiled * 10 - 1) * SECOND;
                expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 10, spoiled == 0 ? 0 : last_ns,
                           (spoiled == 3 ? 39 : spoiled * 10 + 10) * SECOND);
                close_harness(&harness);
                fixture_end(&segment);
                fixture_close(&fixture);
            }
        }
    }
}

static void test_bad_frame_with_copies(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    uint32_t offset[5];
    make_frames(&fixture, &segment, 3, offset);
    uint32_t first = (uint32_t)(segment.about.position % 3); /* the copy that is read */
    fixture_slot(&fixture, first, offset[0])[5000] ^= 1;
    memset(fixture_slot(&fixture, first, offset[1]), 0, PAGE_BYTES);
    fixture_slot(&fixture, first, offset[2])[20] ^= 1;
    fixture_slot(&fixture, (first + 1) % 3, offset[2])[20] ^= 2;
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    expect(&harness, 0, 0, 40);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    assert_in_range(harness.bads, 2, 4);
    assert_int_equal(harness.bad[0].place, first);
    close_harness(&harness);

    /* All copies of frame 3, too: exactly its packets are missing. */
    for (uint32_t i = 0; i < 3; i++)
        memset(fixture_slot(&fixture, i, offset[3]), 0xff, PAGE_BYTES);
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    expect(&harness, 0, 0, 30);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 1);
    expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 10, 29 * SECOND, 39 * SECOND);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* Blocks are the unit of checking: what lies before the first bad one is handed out, and copies
 * complete each other. */
static void test_bad_blocks(void **state)
{
    (void)state;
    static const uint32_t slots[] = {0, 1};
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    fixture_open(&fixture, 2, 1 << 20);
    fixture_begin(&segment, &fixture, slots, 2, 1, 0, 2, 0, 0);
    fill(&segment, 100, 0, 1984); /* 2,000 bytes a record, 200,000 a frame */
    fixture_seal(&segment);
    fixture_slot(&fixture, 0, PAGE_BYTES)[5 * BLOCK_BYTES + 7] ^= 1;
    fixture_slot(&fixture, 1, PAGE_BYTES)[9 * BLOCK_BYTES + 7] ^= 1;
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    expect(&harness, 0, 0, 100);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    assert_int_equal(harness.bads, 2);
    close_harness(&harness);

    fixture_slot(&fixture, 1, PAGE_BYTES)[5 * BLOCK_BYTES + 9] ^= 1;
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    struct frame_header header;
    memcpy(&header, fixture_slot(&fixture, 0, PAGE_BYTES), sizeof header);
    uint64_t whole = (5 * BLOCK_BYTES - le32_get(header.header_bytes)) / 2000;
    expect(&harness, 0, 0, whole);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 1);
    expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 100 - whole, ((int64_t)whole - 1) * SECOND,
               99 * SECOND);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* The disk fails to read a part: only the frames there are missing, or come from the other copy. */
static void test_unreadable(void **state)
{
    (void)state;
    for (uint32_t copies = 1; copies <= 2; copies++) {
        struct fixture fixture;
        struct fixture_segment segment;
        struct harness harness;
        uint32_t offset[5];
        make_frames(&fixture, &segment, copies, offset);
        uint32_t first = (uint32_t)(segment.about.position % copies);
        fixture.broken_from =
            (uint64_t)(fixture_slot(&fixture, first, offset[2]) - fixture.image) + PAGE_BYTES;
        fixture.broken_to = fixture.broken_from + 1;
        open_usual(&harness, &fixture);
        add(&harness, &segment);
        expect(&harness, 0, 0, copies == 1 ? 20 : 40);
        if (copies == 1)
            expect(&harness, 0, 30, 40);
        expect_end(&harness);
        assert_int_equal(harness.bads, 1);
        assert_int_equal(harness.bad[0].reason, WORKER_BAD_READ);
        assert_int_equal(harness.bad[0].offset, offset[2]);
        assert_int_equal(harness.gaps, copies == 1);
        if (copies == 1)
            expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 10, 19 * SECOND, 30 * SECOND);
        close_harness(&harness);
        fixture_end(&segment);
        fixture_close(&fixture);
    }
}

#define LONG_FRAMES 30u

/*
 * A disk stops answering in the midst of a job, at one read after the other: what another disk has is read from there, and where there is none it is
 * a gap with a name. Both once waited for ever.
 */
static void hang(uint32_t copies, uint64_t memory_max, bool part, bool comes_back)
{
    bool hung = true;
    for (uint64_t after = 0; hung; after++) {
        static const uint32_t slots[] = {0, 1};
        struct fixture fixture;
        struct fixture_segment segment;
        struct harness harness;
        fixture_open(&fixture, 2, 8 << 20);
        fixture_begin(&segment, &fixture, slots, copies, 1, 0, 76, 0, 0);
        for (uint32_t f = 0; f < LONG_FRAMES; f++) {
            fill(&segment, 10, f * 10 * SECOND, 20000);
            fixture_flush(&segment);
        }
        fixture_seal(&segment);
        struct disk *disk[2] = {fixture_disk(&fixture), fixture_disk(&fixture)};
        for (uint32_t i = 0; i < copies; i++)
            segment.about.place[i].disk = i;
        harness = (struct harness){.fixture = &fixture, .judgement = WORKER_DAMAGED};
        struct reader_options options = {
            .disk = disk,
            .disks = copies,
            .ring = fixture.ring,
            .from_ns = part ? 100 * SECOND : INT64_MIN,
            .to_ns = part ? 250 * SECOND : INT64_MAX,
            .memory_max = memory_max,
            .sifter = sifter,
            .judge = judge,
            .gap = note_gap,
            .tick = tick,
            .context = &harness,
        };
        assert_int_equal(reader_open(&options, &harness.reader), 0);
        add(&harness, &segment);
        fixture_disk_hangs(disk[0], after);
        uint64_t number = part ? 100 : 0, end = part ? 250 : LONG_FRAMES * 10;
        struct reader_packet packet;
        uint64_t packets = 0;
        while (reader_next(harness.reader, &packet) == 1) {
            while (!is_packet(&harness, &packet, number))
                assert_true(++number < end);
            number++;
            if (++packets == 40 && comes_back)
                fixture_disk_hangs(disk[0], UINT64_MAX);
        }
        reader_finish(harness.reader, true);
        hung = harness.bads > 0;
        for (uint32_t i = 0; i < harness.bads && i < BADS_MAX; i++)
            assert_int_equal(harness.bad[i].reason, WORKER_BAD_SILENT); /* it was once called damage */
        if (copies > 1 || !hung)
            assert_int_equal(packets, part ? 150 : end);
        assert_int_equal(harness.gaps > 0, packets < (part ? 150 : end));
        for (uint32_t i = 0; i < harness.gaps && i < GAPS_MAX; i++)
            assert_int_equal(harness.gap[i].reason, WORKER_GAP_SILENT);
        reader_close(&harness.reader);
        for (uint32_t i = 0; i < 2; i++)
            disk_close(&disk[i]);
        fixture_end(&segment);
        fixture_close(&fixture);
        assert_true(after < 200);
        assert_true(hung || after > 0);
    }
}

static void test_disk_hangs(void **state)
{
    (void)state;
    for (uint32_t copies = 1; copies <= 2; copies++)
        for (int part = 0; part < 2; part++)
            for (int back = 0; back < 2; back++) {
                hang(copies, 16u << 20, part, back);
                hang(copies, 1, part, back); /* one piece */
            }
}

/* A frame that is whole but of something else: an older segment's, another place's. Never believed
 * (P3). */
static void test_foreign_frame(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment, older;
    struct harness harness;
    uint32_t offset[5], slot = 3;
    make_frames(&fixture, &segment, 1, offset);
    fixture_begin(&older, &fixture, &slot, 1, 1, 0, 5, 0, 0);
    fill(&older, 10, 0, 1000);
    fixture_flush(&older);
    fill(&older, 10, 0, 1000);
    fixture_seal(&older);
    memcpy(fixture_slot(&fixture, 0, offset[1]), fixture_slot(&fixture, 3, offset[1]),
           offset[2] - offset[1]);
    memcpy(fixture_slot(&fixture, 0, offset[3]), fixture_slot(&fixture, 0, offset[0]),
           offset[1] - offset[0]);
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    expect(&harness, 0, 0, 10);
    expect(&harness, 0, 20, 30);
    expect_end(&harness);
    assert_int_equal(harness.bads, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(harness.bad[i].reason, WORKER_BAD_IDENTITY);
    assert_int_equal(harness.bad[0].found_position, 5);
    assert_memory_equal(&harness.bad[0].found, &older.about.segment, 16);
    assert_int_equal(harness.gaps, 2);
    expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 10, 9 * SECOND, 20 * SECOND);
    expect_gap(&harness, 1, WORKER_GAP_DAMAGED, 10, 29 * SECOND, 39 * SECOND);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_end(&older);
    fixture_close(&fixture);
}

/*
 * The ring reuses a slot while a reader is in the midst of the segment that lay there: sealed or still open, read by the piece or frame by frame, after each
 * packet. Nothing of the new segment is taken for the old one's (P3), and what is gone is named as overwritten.
 */
static void reassign(uint64_t memory_max, bool open, uint32_t after)
{
    static const uint32_t slots[] = {0};
    struct fixture fixture;
    struct fixture_segment segment, newer;
    struct harness harness;
    struct reader_packet packet;
    uint32_t offset[5], number = 0;
    make_frames(&fixture, &segment, 1, offset);
    if (open) {
        segment.about.state = SEGMENT_OPEN;
        segment.about.index_bytes = segment.about.index_offset = 0;
    }
    open_harness(&harness, &fixture, INT64_MIN, INT64_MAX, false, memory_max);
    harness.judgement = WORKER_OVERTAKEN; /* what the recorder says of a slot that it has given to another segment */
    add(&harness, &segment);
    expect(&harness, 0, 0, number = after);
    fixture_begin(&newer, &fixture, slots, 1, 1, 0, 177, 4000, 0); /* of the same run and stream: laid out alike */
    for (uint32_t f = 0; f < 4; f++) {
        fill(&newer, 10, (4000 + f * 10) * SECOND, 1000);
        fixture_flush(&newer);
    }
    fixture_seal(&newer);
    while (reader_next(harness.reader, &packet) == 1) {
        assert_true(number < 40);
        assert_true(is_packet(&harness, &packet, number++));
    }
    reader_finish(harness.reader, true);
    assert_true(number == 40 || number % 10 == 0);
    bool index = sifter && number == 0 && !open; /* its INDEX has been asked for, too */
    assert_int_equal(harness.bads, (number < 40) + index);
    assert_int_equal(harness.gaps, number < 40);
    if (number < 40) {
        assert_int_equal(harness.bad[0].reason, WORKER_BAD_IDENTITY);
        assert_int_equal(harness.bad[0].found_position, 177);
        expect_gap(&harness, 0, WORKER_GAP_OVERWRITTEN, 40 - number, number == 0 ? 0 : (number - 1) * SECOND, 39 * SECOND);
    } else {
        assert_int_not_equal(after, 0); /* it was all read already */
    }
    close_harness(&harness);
    fixture_end(&segment);
    fixture_end(&newer);
    fixture_close(&fixture);
}

static void test_slot_reassigned_under_a_reader(void **state)
{
    (void)state;
    for (uint32_t after = 0; after <= 40; after++)
        for (int open = 0; open < 2; open++) {
            reassign(1, open, after);
            reassign(16u << 20, open, after);
        }
}

/*
 * Of a segment that the gauge says is gone, a page is read out of turn. When it is: overwritten, and nobody has waited. When the gauge is
 * wrong: all of it, as ever. A reader behind a fast ring waited for its turn for each of a thousand such segments, and never ended.
 */
static void test_what_is_gone_costs_no_turn(void **state)
{
    (void)state;
    static const uint32_t slots[] = {0};
    for (int gone = 0; gone < 2; gone++) {
        struct fixture fixture;
        struct fixture_segment segment, newer;
        struct harness harness;
        uint32_t offset[5];
        make_frames(&fixture, &segment, 1, offset);
        if (gone) {
            fixture_begin(&newer, &fixture, slots, 1, 1, 0, 177, 4000, 0);
            fill(&newer, 10, 4000 * SECOND, 1000);
            fixture_seal(&newer);
        }
        open_usual(&harness, &fixture);
        harness.judgement = WORKER_OVERTAKEN;
        harness.oldest = 177;
        add(&harness, &segment);
        expect(&harness, 0, 0, gone ? 0 : 40);
        struct reader_packet packet;
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        reader_finish(harness.reader, true);
        assert_int_equal(harness.gaps, gone);
        if (gone) {
            expect_gap(&harness, 0, WORKER_GAP_OVERWRITTEN, 40, 0, 39 * SECOND);
            assert_int_equal(harness.turns, 0);
            fixture_end(&newer);
        } else {
            assert_int_not_equal(harness.turns, 0);
        }
        close_harness(&harness);
        fixture_end(&segment);
        fixture_close(&fixture);
    }
}

static void repair_first(struct harness *harness, const struct worker_bad *bad)
{
    if (harness->bads == 2) /* the second time it is asked */
        fixture_slot(harness->fixture, 0, bad->offset)[5000] ^= 0x40;
}

/* The recorder judges. */
static void test_verdicts(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment, next;
    struct harness harness;
    uint32_t offset[5];
    make_frames(&fixture, &segment, 1, offset);
    begin(&next, &fixture, 2, 0, 78, 40);
    fill(&next, 10, 40 * SECOND, 100);
    fixture_seal(&next);
    fixture_slot(&fixture, 0, offset[1])[5000] ^= 0x40;

    open_usual(&harness, &fixture);
    harness.judgement = WORKER_OVERTAKEN; /* the rest of the segment is gone */
    add(&harness, &segment);
    add(&harness, &next);
    expect(&harness, 0, 0, 10);
    expect(&harness, 0, 40, 50);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 1);
    expect_gap(&harness, 0, WORKER_GAP_OVERWRITTEN, 30, 9 * SECOND, 40 * SECOND);
    close_harness(&harness);

    open_usual(&harness, &fixture);
    harness.judgement = WORKER_TORN; /* a crash's end: nothing is missing */
    segment.about.packets = 10;
    add(&harness, &segment);
    expect(&harness, 0, 0, 10);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    close_harness(&harness);
    segment.about.packets = 40;

    open_usual(&harness, &fixture);
    harness.judgement = WORKER_AGAIN; /* it is repaired, at the second try */
    harness.repair = repair_first;
    add(&harness, &segment);
    expect(&harness, 0, 0, 40);
    expect_end(&harness);
    assert_int_equal(harness.bads, 2);
    assert_int_equal(harness.gaps, 0);
    close_harness(&harness);

    fixture_slot(&fixture, 0, offset[1])[5000] ^= 0x40;
    open_usual(&harness, &fixture);
    harness.judgement = WORKER_AGAIN; /* it is not repaired, whatever the recorder says */
    add(&harness, &segment);
    expect(&harness, 0, 0, 10);
    expect(&harness, 0, 20, 40);
    expect_end(&harness);
    expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 10, 9 * SECOND, 20 * SECOND);
    close_harness(&harness);

    open_usual(&harness, &fixture);
    harness.judgement = ERR_CLOSED; /* the recorder is gone */
    add(&harness, &segment);
    expect(&harness, 0, 0, 10);
    struct reader_packet packet;
    assert_int_equal(reader_next(harness.reader, &packet), ERR_CLOSED);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_end(&next);
    fixture_close(&fixture);
}

/* A recovered segment: index and seal are of a higher revision than the data. */
static void test_recovered(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    fixture_open(&fixture, 1, 1 << 20);
    begin(&segment, &fixture, 0, 0, 1, 0);
    fill(&segment, 10, 0, 100);
    fixture_flush(&segment);
    fill(&segment, 10, 10 * SECOND, 100);
    fixture_flush(&segment);
    segment.identity.revision = 2;
    fixture_seal(&segment);
    for (int narrow = 0; narrow < 2; narrow++) { /* without the index, with it */
        open_harness(&harness, &fixture, narrow ? 10 * SECOND : 0, INT64_MAX, false, 16u << 20);
        add(&harness, &segment);
        expect(&harness, 0, narrow ? 10 : 0, 20);
        expect_end(&harness);
        assert_int_equal(harness.bads, 0);
        assert_int_equal(harness.gaps, 0);
        close_harness(&harness);
    }
    segment.about.data_revision = 2; /* frames of revision 1 are then another segment's */
    open_usual(&harness, &fixture);
    add(&harness, &segment);
    expect_end(&harness);
    assert_true(harness.bads > 0);
    expect_gap(&harness, 0, WORKER_GAP_DAMAGED, 20, 0, 19 * SECOND);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* ---- ranges ------------------------------------------------------------------------------------
 */

/* 2,000 frames of 4 KiB with times that mostly rise. */
static void make_many(struct fixture *fixture, struct fixture_segment *segment)
{
    uint32_t slot = 0;
    fixture_open(fixture, 1, 16 << 20);
    fixture_begin(segment, fixture, &slot, 1, 1, 0, 1, 0, PAGE_BYTES);
    int interface = fixture_interface_usual(segment);
    for (int64_t i = 0; i < 2000 * 3; i++) {
        int64_t time_ns = i % 97 == 50 ? (i - 600) * SECOND : i * SECOND;
        assert_true(fixture_packet(segment, interface, 0, time_ns, 1000, 1000));
    }
    fixture_seal(segment);
}

/* Every packet in the range and no other, in order, whatever the way to it. */
static void expect_range(struct harness *harness, int64_t from_ns, int64_t to_ns)
{
    for (int64_t i = 0; i < 2000 * 3; i++) {
        int64_t time_ns = i % 97 == 50 ? (i - 600) * SECOND : i * SECOND;
        if (time_ns >= from_ns && time_ns < to_ns)
            expect(harness, 0, (uint64_t)i, (uint64_t)i + 1);
    }
    expect_end(harness);
    assert_int_equal(harness->gaps, 0);
}

static void test_time_pruning(void **state)
{
    (void)state;
    static const int64_t range[][2] = {{0, 1},       {3000, 3001}, {3000, 3300}, {-700, 0},
                                       {5990, 9999}, {100, 5900},  {7000, 8000}, {-9000, 9000}};
    struct fixture fixture;
    struct fixture_segment segment;
    make_many(&fixture, &segment);
    for (size_t i = 0; i < COUNT(range); i++) {
        int64_t from_ns = range[i][0] * SECOND, to_ns = range[i][1] * SECOND;
        for (int index = 0; index < 3; index++) { /* good, damaged, an open segment without one */
            struct harness harness;
            struct worker_segment about = segment.about;
            uint8_t *spoil = fixture_slot(&fixture, 0, segment.about.index_offset) + 6000;
            *spoil ^= index == 1;
            if (index == 2) {
                about.state = SEGMENT_OPEN;
                about.index_bytes = about.index_offset = 0;
            }
            fixture.read_bytes = 0;
            open_harness(&harness, &fixture, from_ns, to_ns, false, 16u << 20);
            assert_int_equal(reader_add(harness.reader, &about, 1), 0);
            expect_range(&harness, from_ns, to_ns);
            assert_true(index == 1 || harness.bads == 0);
            if (index == 0 && range[i][1] - range[i][0] <= 300) /* a tenth, with the index */
                assert_true(fixture.read_bytes < 2500000);
            close_harness(&harness);
            *spoil ^= index == 1;
        }
    }
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* With damage in the index and in the frames, all that can be had comes, and what is missing is
 * named. */
static void test_pruned_damage(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    make_many(&fixture, &segment);
    struct index_frame_entry entry = segment.index.entry[1000];
    assert_int_equal(le32_get(entry.packets), 3);
    fixture_slot(&fixture, 0, le32_get(entry.offset))[3000] ^= 1;
    for (int index = 0; index < 2; index++) {
        if (index == 1)
            fixture_slot(&fixture, 0, segment.about.index_offset)[6000] ^= 1;
        open_harness(&harness, &fixture, 2900 * SECOND, 3100 * SECOND, false, 16u << 20);
        add(&harness, &segment);
        uint32_t packets = 0;
        struct reader_packet packet;
        while (reader_next(harness.reader, &packet) == 1)
            packets++;
        reader_finish(harness.reader, true);
        assert_int_equal(harness.gaps, 1);
        assert_int_equal(harness.gap[0].reason, WORKER_GAP_DAMAGED);
        assert_int_equal(harness.gap[0].packets, 3);
        assert_int_equal(harness.gap[0].from_ns, 2999 * SECOND);
        assert_int_equal(harness.gap[0].to_ns, 3003 * SECOND);
        assert_int_equal(harness.bads, index == 0 ? 1 : 2);
        uint32_t all = 0;
        for (int64_t i = 0; i < 6000; i++) {
            int64_t second = i % 97 == 50 ? i - 600 : i;
            all += second >= 2900 && second < 3100;
        }
        assert_int_equal(packets, all - 3);
        close_harness(&harness);
    }
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* What was dropped in the range is told, per stream, from the accounts in the frames around it. */
static void test_drops(void **state)
{
    (void)state;
    static const struct {
        int64_t from, to;
        uint64_t drops, seen;
    } part[] = {{INT64_MIN, INT64_MAX, 100 + 5 + 30, 40 + 135},
                {0, 10, 100, 110},
                {10, 20, 5, 15},
                {20, 30, 0, 10},
                {25, 31, 30, 20 + 30}};
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    fixture_open(&fixture, 1, 1 << 20);
    begin(&segment, &fixture, 0, 0, 1, 0);
    static const uint64_t drops[] = {100, 5, 0, 30};
    for (uint32_t f = 0; f < 4; f++) {
        fill(&segment, 10, f * 10 * SECOND, 1000);
        segment.account.packets[ACCOUNT_seen] += drops[f];
        segment.account.packets[f % 2 ? ACCOUNT_dropped_queue : ACCOUNT_dropped_kernel] += drops[f];
        fixture_flush(&segment);
    }
    fixture_seal(&segment);
    for (int sealed = 0; sealed < 2; sealed++) {
        struct worker_segment about = segment.about;
        if (!sealed) {
            about.state = SEGMENT_OPEN;
            about.index_bytes = about.index_offset = 0;
        }
        for (size_t i = 0; i < COUNT(part); i++) {
            int64_t from_ns = part[i].from == INT64_MIN ? INT64_MIN : part[i].from * SECOND;
            int64_t to_ns = part[i].to == INT64_MAX ? INT64_MAX : part[i].to * SECOND;
            open_harness(&harness, &fixture, from_ns, to_ns, false, 16u << 20);
            assert_int_equal(reader_add(harness.reader, &about, 1), 0);
            struct reader_packet packet;
            while (reader_next(harness.reader, &packet) == 1)
                ;
            reader_finish(harness.reader, true);
            uint64_t seen, dropped;
            reader_account(harness.reader, 0, &seen, &dropped);
            assert_int_equal(dropped, part[i].drops);
            assert_int_equal(seen, part[i].seen);
            assert_int_equal(harness.gaps, part[i].drops > 0);
            if (part[i].drops > 0) {
                assert_int_equal(harness.gap[0].reason, WORKER_GAP_DROPPED);
                assert_int_equal(harness.gap[0].packets, part[i].drops);
                assert_string_equal(harness.gap[0].interface, "eth0");
            }
            close_harness(&harness);
        }
    }
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* Interfaces of one stream are counted together: what one of them alone saw is not known, and not
 * guessed. */
static void test_drops_of_several(void **state)
{
    (void)state;
    for (uint64_t drops = 0; drops <= 9; drops += 9) {
        struct fixture fixture;
        struct fixture_segment segment;
        struct harness harness;
        fixture_open(&fixture, 1, 1 << 20);
        begin(&segment, &fixture, 0, 0, 1, 0);
        struct interface_description description = {.link_type = 1, .name = "eth0"};
        int first = fixture_interface(&segment, &description);
        description.name[3] = '1';
        int second = fixture_interface(&segment, &description);
        for (int i = 0; i < 10; i++)
            assert_true(fixture_packet(&segment, i % 2 ? first : second, 0, i, 100, 100));
        segment.account.packets[ACCOUNT_lost_disk] += drops;
        fixture_seal(&segment);
        open_usual(&harness, &fixture);
        add(&harness, &segment);
        struct reader_packet packet;
        while (reader_next(harness.reader, &packet) == 1)
            ;
        reader_finish(harness.reader, true);
        for (uint32_t i = 0; i < 2; i++) {
            uint64_t seen, dropped;
            reader_account(harness.reader, i, &seen, &dropped);
            assert_true(seen == READER_UNKNOWN);
            assert_true(dropped == (drops ? READER_UNKNOWN : 0));
        }
        assert_int_equal(harness.gaps, drops > 0);
        if (drops > 0) {
            assert_int_equal(harness.gap[0].packets, drops);
            assert_string_equal(harness.gap[0].interface, "eth0, eth1");
        }
        close_harness(&harness);
        fixture_end(&segment);
        fixture_close(&fixture);
    }
}

/* ---- memory ------------------------------------------------------------------------------------
 */

/* 300 streams: one after the other in time, or all at once. The same packets in the same order with
 * little memory and much (P10). */
static void test_many_streams(void **state)
{
    (void)state;
    enum { STREAMS = 300, EACH = 300 };
    struct fixture fixture;
    static struct fixture_segment segment;
    fixture_open(&fixture, STREAMS, 512 << 10);
    for (int overlap = 0; overlap < 2; overlap++) {
        struct worker_segment about[STREAMS];
        for (uint32_t s = 0; s < STREAMS; s++) {
            fixture_begin(&segment, &fixture, &s, 1, 1, s, s + 1, 0, 128 << 10);
            int interface = fixture_interface_usual(&segment);
            for (int64_t i = 0; i < EACH; i++)
                assert_true(fixture_packet(
                    &segment, interface, 0,
                    overlap ? i * 1000 + s * 7 % 1000 : (STREAMS - s) * SECOND + i, 1200, 1200));
            fixture_seal(&segment);
            about[s] = segment.about;
            fixture_end(&segment);
        }
        uint64_t order[2] = {0, 0};
        for (int little = 0; little < 2; little++) {
            struct harness harness;
            uint64_t memory = little ? 8u << 20 : 1u << 30;
            open_harness(&harness, &fixture, INT64_MIN, INT64_MAX, false, memory);
            assert_int_equal(reader_add(harness.reader, about, STREAMS), 0);
            static uint64_t seen[STREAMS];
            memset(seen, 0, sizeof seen);
            int64_t last_ns = INT64_MIN;
            struct reader_packet packet;
            for (uint32_t i = 0; i < STREAMS * EACH; i++) {
                assert_int_equal(reader_next(harness.reader, &packet), 1);
                uint32_t stream = stream_of(&harness, packet.interface);
                assert_true(is_packet(&harness, &packet, seen[stream]++));
                assert_true(packet.packet->time_ns >= last_ns);
                last_ns = packet.packet->time_ns;
                order[little] = (order[little] ^ stream) * 0x9e3779b97f4a7c15u;
            }
            expect_end(&harness);
            assert_int_equal(harness.gaps, 0);
            uint64_t used = harness.heap_most - harness.heap_base;
            uint64_t tables = STREAMS * (sizeof(struct worker_segment) + 8192) + 300 * 1024;
            if (harness.heap_most > 0 && little) /* a sanitizer's allocator does not say */
                assert_true(used <= memory + 2 * FRAME_BYTES_USUAL + tables);
            close_harness(&harness);
        }
        assert_int_equal(order[0], order[1]);
    }
    fixture_close(&fixture);
}

/* ---- following ---------------------------------------------------------------------------------
 */

static void test_follow(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment a, b;
    struct harness harness;
    struct reader_packet packet;
    fixture_open(&fixture, 2, 1 << 20);
    begin(&a, &fixture, 0, 0, 1, 0);
    open_harness(&harness, &fixture, INT64_MIN, INT64_MAX, true, 16u << 20);
    add(&harness, &a); /* nothing in it yet */
    assert_int_equal(reader_next(harness.reader, &packet), 0);
    uint64_t seen = 0;
    for (uint32_t round = 1; round <= 30; round++) { /* it grows by frames of all sizes */
        fill(&a, round, (int64_t)seen * SECOND, 500);
        fixture_flush(&a);
        add(&harness, &a);
        expect(&harness, 0, seen, seen + round);
        seen += round;
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        assert_int_equal(reader_next(harness.reader, &packet), 0);
    }
    /* The next segment is told of before the end of this one: it waits. */
    fill(&a, 5, 1000 * SECOND, 500);
    fixture_seal(&a);
    begin(&b, &fixture, 1, 0, 2, seen + 5);
    fill(&b, 5, 2000 * SECOND, 500);
    fixture_flush(&b);
    add(&harness, &b);
    assert_int_equal(reader_next(harness.reader, &packet), 0);
    add(&harness, &a);
    expect(&harness, 0, seen, seen + 10);
    assert_int_equal(reader_next(harness.reader, &packet), 0);
    fill(&b, 5, 3000 * SECOND, 500);
    fixture_seal(&b);
    add(&harness, &b);
    add(&harness, &b); /* told twice */
    expect(&harness, 0, seen + 10, seen + 15);
    expect_end(&harness);
    assert_int_equal(harness.gaps, 0);
    assert_int_equal(harness.bads, 0);
    struct reader_counters counters;
    reader_counters(harness.reader, &counters);
    assert_int_equal(counters.segments_total, 2);
    assert_int_equal(counters.segments_done, 2);
    close_harness(&harness);
    fixture_end(&a);
    fixture_end(&b);
    fixture_close(&fixture);
}

/*
 * A write failed: what segment a could not take was rescued to segment c, which has a higher
 * position than b, where the stream went on. Numbers are the order.
 */
static void test_rescue(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment a, b, c, d;
    fixture_open(&fixture, 4, 1 << 20);
    begin(&a, &fixture, 0, 0, 1, 0);
    fill(&a, 10, 0, 100);
    fixture_flush(&a); /* and is never sealed */
    begin(&b, &fixture, 1, 0, 2, 15);
    fill(&b, 5, 15 * SECOND, 100);
    fixture_seal(&b);
    begin(&c, &fixture, 2, 0, 3, 10);
    fill(&c, 5, 10 * SECOND, 100);
    fixture_flush(&c);
    begin(&d, &fixture, 3, 0, 4, 20);
    fill(&d, 5, 20 * SECOND, 100);
    fixture_flush(&d);
    struct fixture_segment *order[] = {&a, &b, &c, &d};
    struct harness harness;
    for (int rotate = 0; rotate < 4; rotate++) {
        open_usual(&harness, &fixture);
        for (int i = 0; i < 4; i++)
            add(&harness, order[(i + rotate) % 4]);
        expect(&harness, 0, 0, 25);
        expect_end(&harness);
        assert_int_equal(harness.gaps, 0);
        close_harness(&harness);
    }

    /* Followed: b is not begun before it is known where 10 to 14 are; or that nobody will say. */
    for (int lost = 0; lost < 2; lost++) {
        struct reader_packet packet;
        struct worker_segment empty = d.about;
        open_harness(&harness, &fixture, INT64_MIN, INT64_MAX, true, 16u << 20);
        add(&harness, &a);
        expect(&harness, 0, 0, 10);
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        assert_false(reader_waits(harness.reader));
        empty.packets = 0; /* begun, with nothing in it: is no reason to wait for anything */
        empty.data_end = PAGE_BYTES;
        empty.first_packet = 0;
        assert_int_equal(reader_add(harness.reader, &empty, 1), 0);
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        assert_false(reader_waits(harness.reader));
        add(&harness, &b);
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        assert_true(reader_waits(harness.reader));
        if (lost)
            reader_hurry(harness.reader);
        else
            add(&harness, &c);
        expect(&harness, 0, lost ? 15 : 10, 20);
        assert_int_equal(reader_next(harness.reader, &packet), 0);
        assert_false(reader_waits(harness.reader));
        add(&harness, &d);
        expect(&harness, 0, 20, 25);
        if (lost) { /* too late: what came after it is out */
            add(&harness, &c);
            expect_gap(&harness, 0, WORKER_GAP_LOST, 5, 9 * SECOND, 15 * SECOND);
        }
        expect_end(&harness);
        assert_int_equal(harness.gaps, lost);
        close_harness(&harness);
    }
    for (int i = 0; i < 4; i++)
        fixture_end(order[i]);
    fixture_close(&fixture);
}

/* What no recorder says is refused, and changes nothing. */
static void test_invalid_segments(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    fixture_open(&fixture, 1, 1 << 20);
    begin(&segment, &fixture, 0, 0, 1, 0);
    fill(&segment, 3, 0, 100);
    fixture_seal(&segment);
    open_usual(&harness, &fixture);
    struct worker_segment wrong[7];
    for (size_t i = 0; i < COUNT(wrong); i++)
        wrong[i] = segment.about;
    wrong[0].place[0].disk = 1;
    wrong[1].place[0].slot = 1;
    wrong[2].data_end = (1 << 20) + PAGE_BYTES;
    wrong[3].data_end = 100;
    wrong[4].index_bytes = 2 << 20;
    wrong[5].places = COPIES_MAX + 1;
    wrong[6].packets = UINT64_MAX;
    wrong[6].first_packet = 1;
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_int_equal(reader_add(harness.reader, &wrong[i], 1), ERR_INVALID);
    add(&harness, &segment);
    expect(&harness, 0, 0, 3);
    expect_end(&harness);
    close_harness(&harness);
    fixture_end(&segment);
    fixture_close(&fixture);
}

/* ---- promise P3 --------------------------------------------------------------------------------
 */

/* Under a sanitizer, where each of the 100,000 readers costs ten times as much, every 13th bit. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BIT_STEP 13
#else
#define BIT_STEP 1
#endif

/* Every single bit of what is read of a segment, flipped: noticed, and never handed out. */
static void test_every_bit(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_segment segment;
    struct harness harness;
    uint32_t slot = 0;
    fixture_open(&fixture, 1, 64 << 10);
    fixture_begin(&segment, &fixture, &slot, 1, 1, 0, 1, 0, PAGE_BYTES);
    fill(&segment, 12, 0, 60);
    fixture_flush(&segment);
    fill(&segment, 20, 12 * SECOND, 150);
    fixture_seal(&segment);
    assert_int_equal(segment.about.data_end, 3 * PAGE_BYTES);
    for (uint32_t narrow = 0; narrow < 2; narrow++) {
        uint32_t end = narrow ? segment.about.index_offset + segment.about.index_bytes
                              : segment.about.data_end;
        uint32_t first = narrow ? segment.about.index_offset : sifter ? PAGE_BYTES : 0; /* by the INDEX, the OPEN frame is not read */
        for (uint64_t bit = (uint64_t)first * 8; bit < (uint64_t)end * 8; bit += BIT_STEP) {
            fixture_slot(&fixture, 0, bit / 8)[0] ^= (uint8_t)(1u << bit % 8);
            open_harness(&harness, &fixture, narrow ? SECOND : INT64_MIN, INT64_MAX, false,
                         2u << 20);
            add(&harness, &segment);
            uint64_t next = narrow, missing = 0;
            struct reader_packet packet;
            int result;
            while ((result = reader_next(harness.reader, &packet)) == 1) {
                uint64_t number = (uint64_t)(packet.packet->time_ns / SECOND);
                assert_true(number >= next && number < 32);
                next = number + 1;
                assert_true(is_packet(&harness, &packet, number));
                assert_int_equal(packet.packet->captured_bytes, number < 12 ? 60 : 150);
                assert_int_equal(packet.packet->original_bytes, number < 12 ? 67 : 157);
                assert_int_equal(packet.packet->direction, DIRECTION_IN);
                missing++;
            }
            assert_int_equal(result, 0);
            reader_finish(harness.reader, true);
            missing = 32 - narrow - missing;
            assert_int_equal(harness.bads, 1);
            for (uint32_t i = 0; i < harness.gaps; i++)
                missing -= harness.gap[i].packets;
            assert_int_equal(missing, 0);
            close_harness(&harness);
            fixture_slot(&fixture, 0, bit / 8)[0] ^= (uint8_t)(1u << bit % 8);
        }
    }
    fixture_end(&segment);
    fixture_close(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_stream),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_backward_times),
        cmocka_unit_test(test_odd_frames),
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_no_place),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_bad_frame),
        cmocka_unit_test(test_bad_frame_with_copies),
        cmocka_unit_test(test_bad_blocks),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_disk_hangs),
        cmocka_unit_test(test_foreign_frame),
        cmocka_unit_test(test_slot_reassigned_under_a_reader),
        cmocka_unit_test(test_what_is_gone_costs_no_turn),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_recovered),
        cmocka_unit_test(test_time_pruning),
        cmocka_unit_test(test_pruned_damage),
        cmocka_unit_test(test_drops),
        cmocka_unit_test(test_drops_of_several),
        cmocka_unit_test(test_many_streams),
        cmocka_unit_test(test_follow),
        cmocka_unit_test(test_rescue),
        cmocka_unit_test(test_invalid_segments),
        cmocka_unit_test(test_every_bit),
    };
    /* All of it twice: with a sifter sealed segments are read by their INDEX, and on two threads. */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sifter = sifter_open();
    if (!sifter)
        return 1;
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    sifter_close(&sifter);
    return failed;
}
