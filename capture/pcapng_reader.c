/*
 * pcapng_reader.c - pcapng: sections of blocks, each with its type and its length at both ends.
 *
 * The format is draft-ietf-opsawg-pcapng. A section header tells the byte order of what follows and
 * voids the interfaces before it; interface blocks number themselves; enhanced, simple and obsolete
 * packet blocks carry packets; everything else is passed over. The length that a section header
 * gives is not needed and not believed.
 *
 * As in libpcap 1.10: a simple packet block has the time 0 (plus the interface's offset) and
 * belongs to the first interface; a captured length may exceed the original one, but neither
 * snapshot length nor block. Unlike it, link types, snapshot lengths and byte orders may differ
 * within a file, and a snapshot length of 0 is no limit, as the draft says. An interface whose
 * blocks are the same in the same place of several sections is one interface.
 */
#include "capture_file.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

enum block_type {
    BLOCK_INTERFACE = 1,
    BLOCK_PACKET = 2, /* obsolete */
    BLOCK_SIMPLE = 3,
    BLOCK_ENHANCED = 6,
    BLOCK_SECTION = PCAPNG_SECTION_MAGIC,
};

enum option {
    OPTION_END = 0,
    OPTION_PACKET_FLAGS = 2,
    OPTION_INTERFACE_NAME = 2,
    OPTION_INTERFACE_DESCRIPTION = 3,
    OPTION_INTERFACE_MAC = 6,
    OPTION_INTERFACE_RESOLUTION = 9,
    OPTION_INTERFACE_OFFSET = 14,
};

#define BYTE_ORDER_MAGIC 0x1a2b3c4du

#define BLOCK_HEADER_BYTES 8u
#define BLOCK_TRAILER_BYTES 4u
#define BLOCK_BYTES_MIN (BLOCK_HEADER_BYTES + BLOCK_TRAILER_BYTES)
#define SECTION_BYTES_MIN 28u

#define NS_PER_SECOND UINT64_C(1000000000)

struct pcapng_interface {
    struct file_interface *interface;
    uint64_t units;   /* of its clock in a second */
    int64_t offset_s; /* added to its times */
    uint32_t captured_max;
    uint16_t number; /* among the source's */
    bool mend;
};

/* What remains of a block's body. */
struct cursor {
    uint8_t *bytes;
    size_t left;
};

/* ---- options -------------------------------------------------------------------------------- */

/* Takes the next option. 1: there is one (its value is `length` bytes); 0: no more; ERR_CORRUPT:
 * cut off. */
static int option_next(struct cursor *cursor, bool swapped, uint16_t *code, uint16_t *length,
                       const uint8_t **value)
{
    if (cursor->left == 0)
        return 0;
    if (cursor->left < 4)
        return ERR_CORRUPT;
    *code = file_get16(cursor->bytes, swapped);
    *length = file_get16(cursor->bytes + 2, swapped);
    *value = cursor->bytes + 4;
    size_t padded = ((size_t)*length + 3) & ~(size_t)3;
    if (cursor->left - 4 < padded)
        return ERR_CORRUPT;
    cursor->bytes += 4 + padded;
    cursor->left -= 4 + padded;
    return 1;
}

/* The direction that a packet's flags give. Its options are a courtesy: damage in them harms
 * nobody. */
static uint8_t packet_direction(struct cursor options, bool swapped)
{
    uint16_t code, length;
    const uint8_t *value;
    while (option_next(&options, swapped, &code, &length, &value) == 1 && code != OPTION_END) {
        if (code != OPTION_PACKET_FLAGS || length != 4)
            continue;
        switch (file_get32(value, swapped) & 3) {
        case 1:
            return DIRECTION_IN;
        case 2:
            return DIRECTION_OUT;
        default:
            return DIRECTION_UNKNOWN;
        }
    }
    return DIRECTION_UNKNOWN;
}

/* ---- time ----------------------------------------------------------------------------------- */

/* Nanoseconds of a clock's reading; *cut when the reading was finer. What 64 bits cannot hold
 * becomes their end. */
static int64_t clock_time_ns(const struct pcapng_interface *interface, uint64_t reading, bool *cut)
{
    *cut = false;
    if (interface->offset_s == 0) {
        if (interface->units == NS_PER_SECOND && reading <= INT64_MAX)
            return (int64_t)reading;
        if (interface->units == 1000000 && reading <= INT64_MAX / 1000)
            return (int64_t)reading * 1000;
    }
    unsigned __int128 fraction = (unsigned __int128)(reading % interface->units) * NS_PER_SECOND;
    *cut = fraction % interface->units != 0;
    __int128 seconds = (__int128)(reading / interface->units) + interface->offset_s;
    __int128 time_ns = seconds * (int64_t)NS_PER_SECOND + (int64_t)(fraction / interface->units);
    return time_ns > INT64_MAX ? INT64_MAX : time_ns < INT64_MIN ? INT64_MIN : (int64_t)time_ns;
}

/* ---- interfaces ----------------------------------------------------------------------------- */

static bool description_equal(const struct interface_description *a,
                              const struct interface_description *b)
{
    return a->link_type == b->link_type && a->snapshot_length == b->snapshot_length &&
           memcmp(a->hardware, b->hardware, sizeof a->hardware) == 0 &&
           strcmp(a->description, b->description) == 0;
}

/* Room for one more interface of the section. */
static int section_grow(struct capture_file *file)
{
    struct pcapng_reader *reader = &file->pcapng;
    if (reader->interfaces < reader->interfaces_room)
        return 0;
    if (reader->interfaces == SOURCE_INTERFACES_MAX)
        return file_fail(file, ERR_UNSUPPORTED, file->feed.offset,
                         "a section has more than %d interfaces", SOURCE_INTERFACES_MAX);
    uint32_t room = reader->interfaces_room == 0 ? 4 : reader->interfaces_room * 2;
    struct pcapng_interface *grown = realloc(reader->interface, room * sizeof *grown);
    if (grown == NULL)
        return file_fail(file, ERR_NO_MEMORY, file->feed.offset, "no memory for its interfaces");
    reader->interface = grown;
    reader->interfaces_room = room;
    return 0;
}

static int resolution_parse(struct capture_file *file, uint8_t value, uint64_t *units)
{
    uint8_t exponent = value & 0x7f;
    if ((value & 0x80) != 0 && exponent <= 63) {
        *units = UINT64_C(1) << exponent;
        return 0;
    }
    if ((value & 0x80) == 0 && exponent <= 19) {
        *units = 1;
        for (uint8_t i = 0; i < exponent; i++)
            *units *= 10;
        return 0;
    }
    return file_fail(file, ERR_CORRUPT, file->feed.offset,
                     "an interface counts time in units of %d to the power of -%u, finer than 64 "
                     "bits can hold",
                     (value & 0x80) != 0 ? 2 : 10, exponent);
}

static int interface_wrong(struct capture_file *file, const char *what)
{
    return file_fail(file, ERR_CORRUPT, file->feed.offset, "an interface block %s", what);
}

static int interface_options(struct capture_file *file, struct cursor options,
                             struct interface_description *description,
                             struct pcapng_interface *clock)
{
    bool swapped = file->pcapng.swapped;
    bool resolution_seen = false, offset_seen = false;
    uint16_t code, length;
    const uint8_t *value;
    int result;
    while ((result = option_next(&options, swapped, &code, &length, &value)) == 1) {
        switch (code) {
        case OPTION_END:
            return length == 0 ? 0 : interface_wrong(file, "ends its options with a length");
        case OPTION_INTERFACE_NAME:
            file_text(description->name, sizeof description->name, value, length);
            break;
        case OPTION_INTERFACE_DESCRIPTION:
            file_text(description->description, sizeof description->description, value, length);
            break;
        case OPTION_INTERFACE_MAC:
            if (length == sizeof description->hardware)
                memcpy(description->hardware, value, sizeof description->hardware);
            break;
        case OPTION_INTERFACE_RESOLUTION:
            if (length != 1 || resolution_seen)
                return interface_wrong(file, "has a time resolution that is not one byte, once");
            resolution_seen = true;
            result = resolution_parse(file, value[0], &clock->units);
            if (result < 0)
                return result;
            break;
        case OPTION_INTERFACE_OFFSET:
            if (length != 8 || offset_seen)
                return interface_wrong(file, "has a time offset that is not eight bytes, once");
            offset_seen = true;
            clock->offset_s = (int64_t)file_get64(value, swapped);
            break;
        default:
            break;
        }
    }
    return result == 0 ? 0 : interface_wrong(file, "has an option that goes beyond its end");
}

static int interface_block(struct capture_file *file, struct cursor body)
{
    enum { FIXED_BYTES = 8 };
    struct pcapng_reader *reader = &file->pcapng;
    if (body.left < FIXED_BYTES)
        return interface_wrong(file, "is too short");
    struct interface_description description = {
        .link_type = file_get16(body.bytes, reader->swapped),
        .snapshot_length = file_get32(body.bytes + 4, reader->swapped),
    };
    if (description.snapshot_length > INT32_MAX)
        description.snapshot_length = 0;
    body.bytes += FIXED_BYTES;
    body.left -= FIXED_BYTES;
    struct pcapng_interface added = {.units = 1000000};
    int result = interface_options(file, body, &description, &added);
    if (result == 0)
        result = section_grow(file);
    if (result < 0)
        return result;

    const struct pcapng_interface *earlier = reader->interfaces < reader->interfaces_known
                                                 ? &reader->interface[reader->interfaces]
                                                 : NULL;
    bool named = description.name[0] != '\0';
    if (earlier != NULL && earlier->interface->named == named &&
        (!named || strcmp(earlier->interface->description.name, description.name) == 0) &&
        description_equal(&earlier->interface->description, &description)) {
        added.interface = earlier->interface;
        added.number = earlier->number;
    } else {
        added.interface = file_add_interface(file, file->feed.offset, &description);
        if (added.interface == NULL)
            return file->source.failure.code;
        added.number = (uint16_t)(file->interfaces - 1);
    }
    added.captured_max =
        description.snapshot_length != 0 && description.snapshot_length < PACKET_CAPTURED_MAX
            ? description.snapshot_length
            : PACKET_CAPTURED_MAX;
    added.mend = pseudo_header_concerns(description.link_type, reader->swapped);
    reader->interface[reader->interfaces++] = added;
    if (reader->interfaces_known < reader->interfaces)
        reader->interfaces_known = reader->interfaces;
    return 0;
}

/* ---- sections ------------------------------------------------------------------------------- */

static int section_block(struct capture_file *file, const uint8_t *block)
{
    struct pcapng_reader *reader = &file->pcapng;
    uint32_t major = file_get16(block + 12, reader->swapped);
    uint32_t minor = file_get16(block + 14, reader->swapped);
    bool minor_known = minor == 0 || minor == 2;
    /* As libpcap: only the first section's minor version is judged. */
    if (major != 1 || (!reader->section && !minor_known))
        return file_fail(file, ERR_UNSUPPORTED, file->feed.offset + 12,
                         "version %" PRIu32 ".%" PRIu32
                         " of the pcapng format is not known (1.0 is)",
                         major, minor);
    reader->section = true;
    reader->interfaces = 0;
    return 0;
}

/* ---- packets -------------------------------------------------------------------------------- */

/* A packet's fields, wherever its block has them; then `captured` bytes, padding and options. */
struct packet_fields {
    uint32_t interface;
    uint64_t reading; /* of the interface's clock */
    uint32_t captured;
    uint32_t original;
};

static int packet_wrong(struct capture_file *file, const char *what)
{
    return file_fail(file, ERR_CORRUPT, file->feed.offset, "a packet block %s", what);
}

/* Reads the fixed part and leaves the cursor behind it. False: the block is too short for it. */
static bool packet_fields(uint32_t type, bool swapped, struct cursor *body,
                          struct packet_fields *fields)
{
    enum { ENHANCED_BYTES = 20, SIMPLE_BYTES = 4 };
    size_t fixed = type == BLOCK_SIMPLE ? SIMPLE_BYTES : ENHANCED_BYTES;
    if (body->left < fixed)
        return false;
    const uint8_t *bytes = body->bytes;
    body->bytes += fixed;
    body->left -= fixed;
    if (type == BLOCK_SIMPLE) {
        fields->interface = 0;
        fields->reading = 0;
        fields->original = file_get32(bytes, swapped);
        fields->captured = fields->original; /* at most: packet_simple_captured() */
        return true;
    }
    fields->interface =
        type == BLOCK_ENHANCED ? file_get32(bytes, swapped) : file_get16(bytes, swapped);
    fields->reading =
        (uint64_t)file_get32(bytes + 4, swapped) << 32 | file_get32(bytes + 8, swapped);
    fields->captured = file_get32(bytes + 12, swapped);
    fields->original = file_get32(bytes + 16, swapped);
    return true;
}

/* A simple packet block leaves its captured length to be found: what snapshot length or block
 * allow. */
static uint32_t packet_simple_captured(const struct pcapng_interface *interface, uint32_t original,
                                       size_t left)
{
    if (interface->interface->description.snapshot_length == 0) {
        /* No limit: all of it, or as much as programs keep that have no limit either. */
        return original <= left || original < FILE_CAPTURED_USUAL_MAX ? original
                                                                      : FILE_CAPTURED_USUAL_MAX;
    }
    return original < interface->captured_max ? original : interface->captured_max;
}

static int packet_block(struct capture_file *file, uint32_t type, struct cursor body,
                        struct packet *packet)
{
    struct pcapng_reader *reader = &file->pcapng;
    struct packet_fields fields;
    if (!packet_fields(type, reader->swapped, &body, &fields))
        return packet_wrong(file, "is too short");
    if (fields.interface >= reader->interfaces)
        return file_fail(file, ERR_CORRUPT, file->feed.offset,
                         "a packet is of interface %" PRIu32 ", the section has described %" PRIu32,
                         fields.interface, reader->interfaces);
    const struct pcapng_interface *interface = &reader->interface[fields.interface];
    if (type == BLOCK_SIMPLE)
        fields.captured = packet_simple_captured(interface, fields.original, body.left);
    if (fields.captured > interface->captured_max)
        return file_fail(file, ERR_CORRUPT, file->feed.offset,
                         "a packet claims to have %" PRIu32 " bytes, at most %" PRIu32
                         " are possible",
                         fields.captured, interface->captured_max);
    if (fields.captured > body.left)
        return packet_wrong(file, "is shorter than its packet");

    bool cut;
    struct source_counters *counters = &interface->interface->counters;
    packet->bytes = body.bytes;
    packet->captured_bytes = fields.captured;
    packet->original_bytes = fields.original;
    packet->time_ns = clock_time_ns(interface, fields.reading, &cut);
    packet->interface = interface->number;
    packet->direction = DIRECTION_UNKNOWN;
    if (interface->mend)
        packet->original_bytes =
            pseudo_header_mend(interface->interface->description.link_type, reader->swapped,
                               body.bytes, fields.captured, fields.original);
    counters->seen++;
    counters->time_cut += cut;

    size_t padded = ((size_t)fields.captured + 3) & ~(size_t)3;
    if (type != BLOCK_SIMPLE && body.left > padded)
        packet->direction = packet_direction(
            (struct cursor){body.bytes + padded, body.left - padded}, reader->swapped);
    return 0;
}

/* ---- blocks --------------------------------------------------------------------------------- */

/*
 * Judges the block at the feed's head. 1: whole, its length in *length; 0: more bytes must be
 * available, as many as *length says; or damage. A section header sets the byte order before
 * anything else of it is believed.
 */
static int block_check(struct capture_file *file, uint32_t *type, uint32_t *length)
{
    struct byte_feed *feed = &file->feed;
    struct pcapng_reader *reader = &file->pcapng;
    size_t available = feed_available(feed);
    *type = 0;
    *length = BLOCK_BYTES_MIN;
    if (available < BLOCK_BYTES_MIN)
        return 0;
    const uint8_t *block = feed_bytes(feed);
    *type = file_get32(block, reader->swapped);
    if (*type == BLOCK_SECTION) {
        reader->swapped = file_get32(block + 8, false) != BYTE_ORDER_MAGIC;
        if (file_get32(block + 8, reader->swapped) != BYTE_ORDER_MAGIC)
            return file_fail(file, ERR_CORRUPT, feed->offset + 8,
                             "a section header has no byte order mark");
    }
    uint32_t bytes = file_get32(block + 4, reader->swapped);
    uint32_t bytes_min = *type == BLOCK_SECTION ? SECTION_BYTES_MIN : BLOCK_BYTES_MIN;
    /* Like libpcap, whose packets we must not miss: of the very first header's length, neither the
     * fours nor the repetition at its end are looked at. */
    bool judged = reader->section || *type != BLOCK_SECTION;
    if (bytes < bytes_min || (judged && bytes % 4 != 0) || bytes > FILE_BLOCK_BYTES_MAX)
        return file_fail(file, ERR_CORRUPT, feed->offset + 4,
                         "a block claims a length of %" PRIu32 " bytes; %" PRIu32
                         " to %u, in fours, are possible",
                         bytes, bytes_min, FILE_BLOCK_BYTES_MAX);
    *length = bytes;
    if (available < bytes)
        return 0;
    uint32_t trailer = file_get32(block + bytes - BLOCK_TRAILER_BYTES, reader->swapped);
    if (judged && trailer != bytes)
        return file_fail(file, ERR_CORRUPT, feed->offset + bytes - BLOCK_TRAILER_BYTES,
                         "a block begins with the length %" PRIu32 " and ends with %" PRIu32, bytes,
                         trailer);
    return 1;
}

/* Parses one block. 1: done, *packets says whether into *packet; 0: *needed bytes must be
 * available; or damage. */
static int block_parse(struct capture_file *file, struct packet *packet, uint32_t *packets,
                       size_t *needed)
{
    struct byte_feed *feed = &file->feed;
    uint32_t type, length;
    *packets = 0;
    int result = block_check(file, &type, &length);
    if (result == 0)
        *needed = length;
    if (result <= 0)
        return result;

    uint8_t *block = feed_bytes(feed);
    struct cursor body = {block + BLOCK_HEADER_BYTES, length - BLOCK_BYTES_MIN};
    switch (type) {
    case BLOCK_ENHANCED:
    case BLOCK_SIMPLE:
    case BLOCK_PACKET:
        result = packet_block(file, type, body, packet);
        *packets = 1;
        break;
    case BLOCK_INTERFACE:
        result = interface_block(file, body);
        break;
    case BLOCK_SECTION:
        result = section_block(file, block);
        break;
    default:
        result = 0;
        break;
    }
    if (result < 0)
        return result;
    feed_take(feed, length);
    return 1;
}

static int pcapng_fill(struct capture_file *file, struct source_batch *batch, size_t *needed)
{
    *needed = 0;
    while (batch->count < SOURCE_BATCH_MAX) {
        uint32_t packets;
        int result = block_parse(file, &batch->packet[batch->count], &packets, needed);
        if (result <= 0)
            return result;
        batch->count += packets;
    }
    return 0;
}

/* Reads on to the first interface: no packet can come before it, so none is met here. */
static int pcapng_open(struct capture_file *file, size_t *needed)
{
    struct packet packet;
    uint32_t packets;
    int result = 1;
    *needed = 0;
    while (result == 1 && file->interfaces == 0)
        result = block_parse(file, &packet, &packets, needed);
    return result < 0 ? result : 0;
}

static void pcapng_close(struct capture_file *file)
{
    free(file->pcapng.interface);
}

const struct file_format pcapng_format = {
    .name = "pcapng file", .open = pcapng_open, .fill = pcapng_fill, .close = pcapng_close};
