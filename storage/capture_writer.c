/*
 * capture_writer.c - capture files, as draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap describe
 * them.
 *
 * The usual packet takes one path: room for the block in the buffer, one store for its head, one
 * copy of its bytes, one store for its tail. What is rare (a first packet of an interface, a
 * comment, a packet longer than the buffer) goes through put(), which copies in pieces and flushes
 * as often as it must.
 *
 * After an error nothing more is written: every call then says the same.
 */
#include "capture_writer.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"

#define BUFFER_BYTES (512u * 1024)
#define INTERFACES_MAX 65535u
#define COMMENTS_MAX 8u
#define COMMENT_BYTES 504u /* with the terminating zero */

#define NS_PER_S 1000000000
#define EARLY_OFFSET_S (-9223372037ll) /* if_tsoffset of interfaces for times before 1970 */
#define NO_BLOCK UINT32_MAX
#define LINK_TYPE_OF_NONE 1 /* LINKTYPE_ETHERNET: of a classic pcap file without packets */
#define PCAP_SNAPSHOT 262144u

enum block_type {
    BLOCK_INTERFACE = 1,
    BLOCK_STATISTICS = 5,
    BLOCK_PACKET = 6,
    BLOCK_SECTION = 0x0a0d0d0a,
};

enum option_code {
    OPTION_END = 0,
    OPTION_COMMENT = 1,
    OPTION_SHB_USERAPPL = 4,
    OPTION_IF_NAME = 2,
    OPTION_IF_DESCRIPTION = 3,
    OPTION_IF_MACADDR = 6,
    OPTION_IF_TSRESOL = 9,
    OPTION_IF_TSOFFSET = 14,
    OPTION_EPB_FLAGS = 2,
    OPTION_ISB_STARTTIME = 2,
    OPTION_ISB_ENDTIME = 3,
    OPTION_ISB_IFRECV = 4,
    OPTION_ISB_IFDROP = 5,
    OPTION_ISB_USRDELIV = 8,
};

struct block_head {
    le32 type;
    le32 bytes;
};

struct pcap_head {
    le32 magic;
    le16 major, minor;
    le32 zone, accuracy;
    le32 snapshot;
    le32 link_type;
};

_Static_assert(sizeof(struct pcap_head) == 24, "pcap's layout");

#define PACKET_HEAD_BYTES 28u /* of an Enhanced Packet Block, before the packet */
#define PACKET_TAIL_BYTES 16u /* behind it, where the direction is known; else 4 */
#define RECORD_BYTES 16u      /* of classic pcap, before the packet */

/* A block that is put together in memory before it goes out: its length stands in front. */
struct block {
    uint32_t at;
    uint8_t bytes[COMMENTS_MAX * (COMMENT_BYTES + 4) + 2048];
};

struct out_interface {
    struct interface_description description;
    uint32_t block;       /* its number in the file; NO_BLOCK until its first packet */
    uint32_t early_block; /* the same for times before 1970 */
    uint64_t packets;
    uint64_t early_packets;
    struct capture_statistics statistics;
};

struct capture_writer {
    struct capture_writer_options options;
    struct failure failure;
    uint8_t *buffer;
    uint32_t at;
    uint64_t flushed;
    uint64_t packets;
    uint64_t times_moved;
    bool begun;
    struct out_interface *interface;
    uint32_t interfaces;
    uint32_t blocks; /* interface blocks written */
    uint16_t link_type;
    uint32_t comments;
    uint32_t comments_more; /* that had no room */
    char comment[COMMENTS_MAX][COMMENT_BYTES];
    char section_comment[COMMENT_BYTES];
};

/* ---- bytes out ---------------------------------------------------------------------------------
 */

static int write_all(struct capture_writer *writer, const uint8_t *bytes, size_t count)
{
    int fd = writer->options.fd;
    while (count > 0) {
        ssize_t written = write(fd, bytes, count);
        if (written >= 0) {
            bytes += written;
            count -= (size_t)written;
            writer->flushed += (uint64_t)written;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, -1); /* an error shows at the next write */
            continue;
        }
        if (errno == EPIPE || errno == ECONNRESET)
            return fail(&writer->failure, ERR_CLOSED, "the output was closed by its reader");
        return fail_errno(&writer->failure, errno, "writing the output failed after %llu bytes",
                          (unsigned long long)writer->flushed);
    }
    return 0;
}

int capture_writer_flush(struct capture_writer *writer)
{
    if (writer->failure.code)
        return writer->failure.code;
    uint32_t count = writer->at;
    writer->at = 0;
    return write_all(writer, writer->buffer, count);
}

static int put(struct capture_writer *writer, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    while (count > 0) {
        if (writer->at == BUFFER_BYTES) {
            int result = capture_writer_flush(writer);
            if (result)
                return result;
        }
        size_t part = BUFFER_BYTES - writer->at;
        if (part > count)
            part = count;
        memcpy(writer->buffer + writer->at, from, part);
        writer->at += (uint32_t)part;
        from += part;
        count -= part;
    }
    return 0;
}

static bool within_limit(const struct capture_writer *writer, uint64_t more)
{
    return writer->options.bytes_max == 0 ||
           capture_writer_bytes(writer) + more <= writer->options.bytes_max;
}

/* ---- blocks and options ------------------------------------------------------------------------
 */

static void block_start(struct block *block, enum block_type type)
{
    struct block_head head = {.type = le32_of((uint32_t)type)};
    memcpy(block->bytes, &head, sizeof head);
    block->at = sizeof head;
}

static void block_add(struct block *block, const void *bytes, uint32_t count)
{
    assert(count <= sizeof block->bytes - block->at);
    memcpy(block->bytes + block->at, bytes, count);
    block->at += count;
}

static void block_add32(struct block *block, uint32_t value)
{
    le32 field = le32_of(value);
    block_add(block, &field, sizeof field);
}

static void block_option(struct block *block, enum option_code code, const void *value,
                         uint32_t count)
{
    static const uint8_t padding[4];
    le16 head[2] = {le16_of((uint16_t)code), le16_of((uint16_t)count)};
    block_add(block, head, sizeof head);
    block_add(block, value, count);
    block_add(block, padding, -count & 3);
}

static void block_option_text(struct block *block, enum option_code code, const char *text)
{
    if (text[0] != '\0')
        block_option(block, code, text, (uint32_t)strlen(text));
}

/* A time goes as two halves, the high one first, in either byte order; a counter is one number. */
static void block_option_time(struct block *block, enum option_code code, uint64_t time)
{
    le32 halves[2] = {le32_of((uint32_t)(time >> 32)), le32_of((uint32_t)time)};
    block_option(block, code, halves, sizeof halves);
}

static void block_option64(struct block *block, enum option_code code, uint64_t value)
{
    le64 field = le64_of(value);
    block_option(block, code, &field, sizeof field);
}

/* Closes the block (with the end of its options); it may then be written as `block->at` bytes. */
static void block_finish(struct block *block, bool options)
{
    if (options)
        block_add32(block, OPTION_END);
    block_add32(block, block->at + 4);
    le32 bytes = le32_of(block->at);
    memcpy(block->bytes + offsetof(struct block_head, bytes), &bytes, sizeof bytes);
}

/* ---- the beginning -----------------------------------------------------------------------------
 */

/* Those that wait, as options of the block that they go out with. */
static void add_comments(struct capture_writer *writer, struct block *block)
{
    for (uint32_t i = 0; i < writer->comments; i++)
        block_option_text(block, OPTION_COMMENT, writer->comment[i]);
    if (writer->comments_more > 0) {
        char text[64];
        snprintf(text, sizeof text, "and %u more gaps here", writer->comments_more);
        block_option_text(block, OPTION_COMMENT, text);
    }
    writer->comments = writer->comments_more = 0;
}

static int put_section(struct capture_writer *writer)
{
    struct block block;
    block_start(&block, BLOCK_SECTION);
    block_add32(&block, 0x1a2b3c4d);
    block_add32(&block, 1); /* version 1.0 */
    le64 unknown = le64_of(UINT64_MAX);
    block_add(&block, &unknown, sizeof unknown); /* length of the section */
    block_option_text(&block, OPTION_COMMENT, writer->section_comment);
    add_comments(writer, &block);
    block_option_text(&block, OPTION_SHB_USERAPPL, "tapeloop " TAPELOOP_VERSION);
    block_finish(&block, true);
    return put(writer, block.bytes, block.at);
}

static int put_pcap_head(struct capture_writer *writer)
{
    struct pcap_head head = {
        .magic = le32_of(writer->options.format == CAPTURE_PCAP_NS ? 0xa1b23c4d : 0xa1b2c3d4),
        .major = le16_of(2),
        .minor = le16_of(4),
        .snapshot = le32_of(PCAP_SNAPSHOT),
        .link_type = le32_of(writer->link_type),
    };
    return put(writer, &head, sizeof head);
}

/* pcapng begins with the file, pcap with its first packet, whose link type its head names. */
static int begin(struct capture_writer *writer)
{
    if (writer->begun)
        return 0;
    writer->begun = true;
    return writer->options.format == CAPTURE_PCAPNG ? put_section(writer) : put_pcap_head(writer);
}

static void describe_interface(const struct out_interface *interface, bool early,
                               struct block *block)
{
    static const uint8_t unknown[6], nanoseconds[1] = {9};
    const struct interface_description *description = &interface->description;
    block_start(block, BLOCK_INTERFACE);
    block_add32(block, description->link_type); /* and 16 reserved bits */
    block_add32(block, 0);                      /* snapshot length: see the header */
    block_option_text(block, OPTION_IF_NAME, description->name);
    block_option_text(block, OPTION_IF_DESCRIPTION, description->description);
    if (memcmp(description->hardware, unknown, sizeof unknown) != 0)
        block_option(block, OPTION_IF_MACADDR, description->hardware, sizeof description->hardware);
    block_option(block, OPTION_IF_TSRESOL, nanoseconds, sizeof nanoseconds);
    if (early)
        block_option64(block, OPTION_IF_TSOFFSET, (uint64_t)EARLY_OFFSET_S);
    if (description->snapshot_length > 0 && description->snapshot_length < 65535) {
        char text[64];
        snprintf(text, sizeof text, "captured with a snapshot length of %u bytes",
                 description->snapshot_length);
        block_option_text(block, OPTION_COMMENT, text);
    }
    block_finish(block, true);
}

int capture_writer_interface(struct capture_writer *writer,
                             const struct interface_description *description)
{
    for (uint32_t i = 0; i < writer->interfaces; i++) {
        const struct interface_description *known = &writer->interface[i].description;
        if (known->link_type == description->link_type &&
            known->snapshot_length == description->snapshot_length &&
            memcmp(known->hardware, description->hardware, sizeof known->hardware) == 0 &&
            strcmp(known->name, description->name) == 0 &&
            strcmp(known->description, description->description) == 0)
            return (int)i;
    }
    if (writer->interfaces == INTERFACES_MAX)
        return ERR_TOO_LARGE;
    if ((writer->interfaces & (writer->interfaces - 1)) == 0) { /* full at every power of two */
        uint32_t room = writer->interfaces == 0 ? 1 : 2 * writer->interfaces;
        struct out_interface *more = realloc(writer->interface, room * sizeof *more);
        if (!more)
            return ERR_NO_MEMORY;
        writer->interface = more;
    }
    writer->interface[writer->interfaces] = (struct out_interface){
        .description = *description,
        .block = NO_BLOCK,
        .early_block = NO_BLOCK,
        .statistics = {CAPTURE_UNKNOWN, CAPTURE_UNKNOWN, INT64_MAX, INT64_MIN},
    };
    return (int)writer->interfaces++;
}

/* ---- packets -----------------------------------------------------------------------------------
 */

/* The first packet of an interface, or its first one before 1970: `packet_bytes` is what will
 * follow. */
static int put_interface(struct capture_writer *writer, struct out_interface *interface, bool early,
                         uint64_t packet_bytes)
{
    struct block block;
    describe_interface(interface, early, &block);
    if (!within_limit(writer, block.at + packet_bytes))
        return ERR_TOO_LARGE;
    int result = put(writer, block.bytes, block.at);
    if (result)
        return result;
    *(early ? &interface->early_block : &interface->block) = writer->blocks++;
    return 0;
}

static uint32_t packet_flags(const struct packet *packet)
{
    return packet->direction == DIRECTION_IN ? 1 : packet->direction == DIRECTION_OUT ? 2 : 0;
}

/*
 * Heads are stored field by field straight to where they belong: put together in a struct first and
 * copied from there, they would stall the processor (its wide load has to wait for the narrow
 * stores) for longer than all the rest of a packet takes.
 */
static inline void store_pair(uint8_t *at, uint32_t first, uint32_t second)
{
    le32 one = le32_of(first), two = le32_of(second);
    memcpy(at, &one, sizeof one);
    memcpy(at + sizeof one, &two, sizeof two);
}

static inline void store_packet_head(uint8_t *at, uint32_t block_bytes, uint32_t interface,
                                     uint64_t time, const struct packet *packet)
{
    le32 original = le32_of(packet->original_bytes);
    store_pair(at, BLOCK_PACKET, block_bytes);
    store_pair(at + 8, interface, (uint32_t)(time >> 32));
    store_pair(at + 16, (uint32_t)time, packet->captured_bytes);
    memcpy(at + 24, &original, sizeof original);
}

/* The rare packet: with comments, or longer than the buffer. */
static int put_packet_slowly(struct capture_writer *writer, uint32_t interface, uint64_t time,
                             const struct packet *packet)
{
    static const uint8_t padding[4];
    struct block options;
    block_start(&options, BLOCK_PACKET); /* only its options are used */
    add_comments(writer, &options);
    le32 flags = le32_of(packet_flags(packet));
    if (packet->direction != DIRECTION_UNKNOWN)
        block_option(&options, OPTION_EPB_FLAGS, &flags, sizeof flags);
    if (options.at > sizeof(struct block_head))
        block_add32(&options, OPTION_END);
    uint32_t options_bytes = options.at - (uint32_t)sizeof(struct block_head);

    uint32_t padded = (packet->captured_bytes + 3) & ~3u;
    uint32_t bytes = PACKET_HEAD_BYTES + padded + options_bytes + 4;
    if (!within_limit(writer,
                      bytes)) /* the comments are lost with it: nothing comes after the limit */
        return ERR_TOO_LARGE;
    uint8_t head[PACKET_HEAD_BYTES];
    store_packet_head(head, bytes, interface, time, packet);
    le32 end = le32_of(bytes);
    int result = put(writer, head, sizeof head);
    if (!result)
        result = put(writer, packet->bytes, packet->captured_bytes);
    if (!result)
        result = put(writer, padding, padded - packet->captured_bytes);
    if (!result)
        result = put(writer, options.bytes + sizeof(struct block_head), options_bytes);
    return result ? result : put(writer, &end, sizeof end);
}

/* Makes room for `bytes`, which the buffer can hold, and takes them; null after an error. */
static inline uint8_t *take_room(struct capture_writer *writer, uint32_t bytes)
{
    if (bytes > BUFFER_BYTES - writer->at && capture_writer_flush(writer))
        return NULL;
    uint8_t *at = writer->buffer + writer->at;
    writer->at += bytes;
    return at;
}

static int put_pcapng(struct capture_writer *writer, struct out_interface *interface,
                      const struct packet *packet)
{
    bool early = packet->time_ns < 0;
    uint64_t time = (uint64_t)packet->time_ns;
    if (early) /* lies between 0 and 2^63: the offset is just below the smallest time */
        time += (uint64_t)-EARLY_OFFSET_S * NS_PER_S;
    uint32_t padded = (packet->captured_bytes + 3) & ~3u;
    bool directed = packet->direction != DIRECTION_UNKNOWN;
    uint32_t bytes = PACKET_HEAD_BYTES + padded + (directed ? PACKET_TAIL_BYTES : 4);

    const uint32_t *block = early ? &interface->early_block : &interface->block;
    if (*block == NO_BLOCK) {
        int result = put_interface(writer, interface, early, bytes);
        if (result)
            return result;
    }
    if (writer->comments > 0 || bytes > BUFFER_BYTES)
        return put_packet_slowly(writer, *block, time, packet);
    if (!within_limit(writer, bytes))
        return ERR_TOO_LARGE;
    uint8_t *at = take_room(writer, bytes);
    if (!at)
        return writer->failure.code;
    store_packet_head(at, bytes, *block, time, packet);
    at += PACKET_HEAD_BYTES;
    if (padded > 0) {
        memset(at + padded - 4, 0,
               4); /* the padding; packet bytes among them are put right by the copy */
        memcpy(at, packet->bytes, packet->captured_bytes);
    }
    at += padded;
    if (directed) {
        store_pair(at, OPTION_EPB_FLAGS | 4u << 16, packet_flags(packet));
        store_pair(at + 8, OPTION_END, bytes);
    } else {
        le32 end = le32_of(bytes);
        memcpy(at, &end, sizeof end);
    }
    return 0;
}

static int put_pcap(struct capture_writer *writer, const struct packet *packet)
{
    int64_t seconds = packet->time_ns / NS_PER_S, fraction = packet->time_ns % NS_PER_S;
    if (packet->time_ns < 0 || seconds > UINT32_MAX) {
        seconds = packet->time_ns < 0 ? 0 : UINT32_MAX;
        fraction = packet->time_ns < 0 ? 0 : NS_PER_S - 1;
        writer->times_moved++;
    }
    if (writer->options.format == CAPTURE_PCAP_US)
        fraction /= 1000;
    uint32_t bytes = RECORD_BYTES + packet->captured_bytes;
    bool direct = bytes <= BUFFER_BYTES;
    uint8_t *at = take_room(writer, direct ? bytes : RECORD_BYTES);
    if (!at)
        return writer->failure.code;
    store_pair(at, (uint32_t)seconds, (uint32_t)fraction);
    store_pair(at + 8, packet->captured_bytes, packet->original_bytes);
    if (!direct)
        return put(writer, packet->bytes, packet->captured_bytes);
    if (packet->captured_bytes > 0)
        memcpy(at + RECORD_BYTES, packet->bytes, packet->captured_bytes);
    return 0;
}

/* The link type of the first packet is the file's. */
static int check_link_type(struct capture_writer *writer, const struct out_interface *interface)
{
    uint16_t link_type = interface->description.link_type;
    if (!writer->begun)
        writer->link_type = link_type;
    if (writer->link_type == link_type)
        return 0;
    return fail(&writer->failure, ERR_UNSUPPORTED,
                "a pcap file holds one link type only: it began with %u, interface %s has %u; ask "
                "for pcapng instead",
                writer->link_type, interface->description.name, link_type);
}

int capture_writer_packet(struct capture_writer *writer, uint32_t number,
                          const struct packet *packet)
{
    assert(number < writer->interfaces && packet->captured_bytes <= PACKET_CAPTURED_MAX);
    if (writer->failure.code)
        return writer->failure.code;
    struct out_interface *interface = &writer->interface[number];
    bool pcapng = writer->options.format == CAPTURE_PCAPNG;
    int result;
    if (!pcapng) {
        result = check_link_type(writer, interface);
        uint64_t bytes = RECORD_BYTES + packet->captured_bytes;
        if (!result &&
            !within_limit(writer, bytes + (writer->begun ? 0 : sizeof(struct pcap_head))))
            result = ERR_TOO_LARGE;
        if (result)
            return result;
    }
    if (!writer->begun) {
        result = begin(writer);
        if (result)
            return result;
    }
    result = pcapng ? put_pcapng(writer, interface, packet) : put_pcap(writer, packet);
    if (result)
        return result;
    writer->packets++;
    *(packet->time_ns < 0 ? &interface->early_packets : &interface->packets) += 1;
    return 0;
}

void capture_writer_comment(struct capture_writer *writer, const char *text)
{
    if (writer->options.format != CAPTURE_PCAPNG)
        return;
    if (writer->comments == COMMENTS_MAX) {
        writer->comments_more++;
        return;
    }
    char *comment = writer->comment[writer->comments++];
    size_t length = strnlen(text, COMMENT_BYTES - 4);
    memcpy(comment, text, length);
    comment[length] = '\0';
}

/* ---- the end -----------------------------------------------------------------------------------
 */

void capture_writer_statistics(struct capture_writer *writer, uint32_t number,
                               const struct capture_statistics *statistics)
{
    assert(number < writer->interfaces);
    writer->interface[number].statistics = *statistics;
}

static int put_statistics(struct capture_writer *writer, const struct out_interface *interface,
                          bool early)
{
    const struct capture_statistics *statistics = &interface->statistics;
    uint64_t base = early ? (uint64_t)-EARLY_OFFSET_S * NS_PER_S : 0;
    bool timed = statistics->from_ns <= statistics->to_ns && (early || statistics->from_ns >= 0);
    uint64_t to = timed ? (uint64_t)statistics->to_ns + base : 0;
    struct block block;
    block_start(&block, BLOCK_STATISTICS);
    block_add32(&block, early ? interface->early_block : interface->block);
    block_add32(&block, (uint32_t)(to >> 32));
    block_add32(&block, (uint32_t)to);
    add_comments(writer, &block);
    if (timed) {
        block_option_time(&block, OPTION_ISB_STARTTIME, (uint64_t)statistics->from_ns + base);
        block_option_time(&block, OPTION_ISB_ENDTIME, to);
    }
    /* What the interface saw and dropped is said once, where it has two blocks. */
    if (!early || interface->block == NO_BLOCK) {
        if (statistics->received != CAPTURE_UNKNOWN)
            block_option64(&block, OPTION_ISB_IFRECV, statistics->received);
        if (statistics->dropped != CAPTURE_UNKNOWN)
            block_option64(&block, OPTION_ISB_IFDROP, statistics->dropped);
    }
    block_option64(&block, OPTION_ISB_USRDELIV,
                   early ? interface->early_packets : interface->packets);
    block_finish(&block, true);
    return within_limit(writer, block.at) ? put(writer, block.bytes, block.at) : 0;
}

/* libpcap opens no file without an interface, be there no packet either. */
static int put_lone_interface(struct capture_writer *writer)
{
    struct interface_description none = {.link_type = LINK_TYPE_OF_NONE};
    int number = writer->interfaces > 0 ? 0 : capture_writer_interface(writer, &none);
    if (number < 0)
        return number;
    int result = put_interface(writer, &writer->interface[number], false, 0);
    return result == ERR_TOO_LARGE ? 0 : result;
}

int capture_writer_finish(struct capture_writer *writer)
{
    if (writer->failure.code)
        return writer->failure.code;
    if (!writer->begun)
        writer->link_type = LINK_TYPE_OF_NONE;
    if (writer->comments > 0 && writer->packets == 0 && writer->flushed == 0) {
        writer->begun =
            false; /* the section's head is still in the buffer: it takes the comments */
        writer->at = 0;
    }
    int result = begin(writer);
    if (!result && writer->blocks == 0 && writer->options.format == CAPTURE_PCAPNG)
        result = put_lone_interface(writer);
    for (uint32_t i = 0;
         i < writer->interfaces && !result && writer->options.format == CAPTURE_PCAPNG; i++) {
        const struct out_interface *interface = &writer->interface[i];
        if (interface->block != NO_BLOCK)
            result = put_statistics(writer, interface, false);
        if (!result && interface->early_block != NO_BLOCK)
            result = put_statistics(writer, interface, true);
    }
    return result ? result : capture_writer_flush(writer);
}

int capture_writer_open(const struct capture_writer_options *options, struct capture_writer **out,
                        struct failure *failure)
{
    *out = NULL;
    if (options->format < CAPTURE_PCAPNG || options->format > CAPTURE_PCAP_US)
        return fail(failure, ERR_INVALID, "%d is no capture file format", (int)options->format);
    struct capture_writer *writer = calloc(1, sizeof *writer);
    uint8_t *buffer = malloc(BUFFER_BYTES);
    if (!writer || !buffer) {
        free(writer);
        free(buffer);
        return fail(failure, ERR_NO_MEMORY, "no memory for writing a capture file");
    }
    writer->options = *options;
    writer->buffer = buffer;
    if (options->comment) {
        size_t length = strnlen(options->comment, COMMENT_BYTES - 4);
        memcpy(writer->section_comment, options->comment, length);
    }
    writer->options.comment = NULL;
    /* A pcapng file begins at once, so that one without a packet is one and a reader of a pipe sees
     * that it has begun. */
    if (options->format == CAPTURE_PCAPNG)
        begin(writer);
    *out = writer;
    return 0;
}

void capture_writer_close(struct capture_writer **writer)
{
    if (!*writer)
        return;
    free((*writer)->interface);
    free((*writer)->buffer);
    free(*writer);
    *writer = NULL;
}

uint64_t capture_writer_bytes(const struct capture_writer *writer)
{
    return writer->flushed + writer->at;
}

uint64_t capture_writer_packets(const struct capture_writer *writer)
{
    return writer->packets;
}

uint64_t capture_writer_times_moved(const struct capture_writer *writer)
{
    return writer->times_moved;
}

const struct failure *capture_writer_failure(const struct capture_writer *writer)
{
    return &writer->failure;
}
