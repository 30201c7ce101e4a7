/*
 * pcap_reader.c - classic pcap: a header of 24 bytes, then records of 16 bytes and the packet.
 *
 * The format is draft-ietf-opsawg-pcap and pcap-savefile(5). Where files in the wild differ from
 * it, this does as libpcap 1.10 does, so that what `tcpdump -r` shows and what is recorded are the
 * same:
 *  - versions 2.0 to 2.4 and 543.0; before 2.3 the two lengths are in the other order, in 2.3 they
 * may be;
 *  - a fraction of more than a second is taken as it is: the time is the sum;
 *  - a packet longer than the file's snapshot length is cut to it; a captured length may exceed the
 * original;
 *  - a packet longer than what the link type allows (usually 256 KiB) is damage.
 * One exception: seconds are unsigned, as the format says, and reach to 2106. libpcap takes them for
 * signed in files of the machine's own byte order, and a packet of 2038 for one of 1901.
 */
#include "capture_file.h"

#include <inttypes.h>
#include <stdio.h>

#define RECORD_BYTES 16u

#define MAGIC_MICROSECONDS 0xa1b2c3d4u
#define MAGIC_NANOSECONDS 0xa1b23c4du

/* The link type field's upper bits: whether frames end with a check sequence, and of how many
 * 16-bit words. */
#define NETWORK_LINK_TYPE(network) ((network)&0xffffu)
#define NETWORK_FCS_PRESENT(network) (((network)&0x04000000u) != 0)
#define NETWORK_FCS_BYTES(network) (((network) >> 28) * 2)

static int pcap_fill(struct capture_file *file, struct source_batch *batch, size_t *needed)
{
    struct pcap_reader *reader = &file->pcap;
    struct byte_feed *feed = &file->feed;
    const bool swapped = reader->swapped;
    struct file_interface *interface = reader->interface;

    *needed = 0;
    while (batch->count < SOURCE_BATCH_MAX) {
        size_t available = feed_available(feed);
        if (available < RECORD_BYTES) {
            *needed = RECORD_BYTES;
            return 0;
        }
        uint8_t *record = feed_bytes(feed);
        uint32_t seconds = file_get32(record, swapped);
        uint32_t fraction = file_get32(record + 4, swapped);
        uint32_t captured = file_get32(record + 8, swapped);
        uint32_t original = file_get32(record + 12, swapped);
        if (reader->lengths == LENGTHS_ORIGINAL_FIRST ||
            (reader->lengths == LENGTHS_SMALLER_IS_CAPTURED && captured > original)) {
            uint32_t first = captured;
            captured = original;
            original = first;
        }
        if (captured > reader->captured_max)
            return file_fail(file, ERR_CORRUPT, feed->offset,
                             "a packet claims to have %" PRIu32 " bytes, at most %" PRIu32
                             " are possible",
                             captured, reader->captured_max);
        if (available < RECORD_BYTES + (size_t)captured) {
            *needed = RECORD_BYTES + (size_t)captured;
            return 0;
        }

        struct packet *packet = &batch->packet[batch->count];
        int64_t fraction_signed = swapped ? (int64_t)fraction : (int64_t)(int32_t)fraction;
        packet->bytes = record + RECORD_BYTES;
        packet->captured_bytes =
            captured < reader->snapshot_length ? captured : reader->snapshot_length;
        packet->original_bytes = original;
        packet->time_ns = (int64_t)seconds * 1000000000 + fraction_signed * reader->units_ns;
        packet->interface = 0;
        packet->direction = DIRECTION_UNKNOWN;
        if (reader->mend)
            packet->original_bytes =
                pseudo_header_mend(interface->description.link_type, swapped, record + RECORD_BYTES,
                                   packet->captured_bytes, original);
        batch->count++;
        interface->counters.seen++;
        feed_take(feed, RECORD_BYTES + (size_t)captured);
    }
    return 0;
}

static void pcap_close(struct capture_file *file)
{
    (void)file;
}

static int pcap_open(struct capture_file *file, size_t *needed)
{
    *needed = 0;
    const uint8_t *header = feed_bytes(&file->feed);
    struct pcap_reader *reader = &file->pcap;
    uint32_t magic = file_get32(header, false);
    bool swapped = magic != MAGIC_MICROSECONDS && magic != MAGIC_NANOSECONDS;
    magic = file_get32(header, swapped);
    uint32_t major = file_get16(header + 4, swapped);
    uint32_t minor = file_get16(header + 6, swapped);
    uint32_t snapshot = file_get32(header + 16, swapped);
    uint32_t network = file_get32(header + 20, swapped);

    if (!(major == 2 && minor <= 4) && !(major == 543 && minor == 0))
        return file_fail(file, ERR_UNSUPPORTED, 4,
                         "version %" PRIu32 ".%" PRIu32
                         " of the pcap format is not known (2.0 to 2.4 are)",
                         major, minor);

    struct interface_description description = {.link_type = (uint16_t)NETWORK_LINK_TYPE(network)};
    uint32_t captured_max = file_captured_max(description.link_type);
    if (snapshot > INT32_MAX)
        snapshot = 0;
    description.snapshot_length = snapshot;
    if (NETWORK_FCS_PRESENT(network))
        snprintf(description.description, sizeof description.description,
                 "frames end with a check sequence of %" PRIu32 " bytes",
                 NETWORK_FCS_BYTES(network));

    struct file_interface *interface = file_add_interface(file, 0, &description);
    if (interface == NULL)
        return file->source.failure.code;
    *reader = (struct pcap_reader){
        .swapped = swapped,
        .mend = pseudo_header_concerns(description.link_type, swapped),
        .lengths = major == 543 || minor < 3 ? LENGTHS_ORIGINAL_FIRST
                   : minor == 3              ? LENGTHS_SMALLER_IS_CAPTURED
                                             : LENGTHS_CAPTURED_FIRST,
        .units_ns = magic == MAGIC_NANOSECONDS ? 1 : 1000,
        .captured_max = captured_max,
        .snapshot_length = snapshot != 0 ? snapshot : captured_max,
        .interface = interface,
    };
    feed_take(&file->feed, PCAP_FILE_HEADER_BYTES);
    return 0;
}

const struct file_format pcap_format = {
    .name = "pcap file", .open = pcap_open, .fill = pcap_fill, .close = pcap_close};
