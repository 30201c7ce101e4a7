/*
 * pcap_oracle.c - the same bytes through our source and through libpcap, compared.
 */
#include "pcap_oracle.h"

#include <assert.h>
#include <inttypes.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capture_file.h"

#define NS_PER_SECOND 1000000000

const char *oracle_verdict_name(enum oracle_verdict verdict)
{
    static const char *const name[] = {
        [ORACLE_SAME] = "same",
        [ORACLE_BOTH_REFUSED] = "both refused",
        [ORACLE_KUZNETZOV] = "Kuznetzov's variant",
        [ORACLE_RESERVED_BITS] = "reserved bits beside the link type",
        [ORACLE_LINK_TYPES] = "several link types",
        [ORACLE_SNAPSHOTS] = "several snapshot lengths",
        [ORACLE_BYTE_ORDERS] = "several byte orders",
        [ORACLE_NO_LIMIT] = "no snapshot length",
        [ORACLE_SECTION_HEADER] = "long section header",
        [ORACLE_BLOCK_LENGTH] = "longest block",
        [ORACLE_LONGEST] = "longest packet",
        [ORACLE_UNSIGNED_TIME] = "seconds that libpcap takes for signed",
        [ORACLE_FINE_TIME] = "time finer than libpcap can count",
        [ORACLE_WILD_TIME] = "time beyond 64 bits of nanoseconds",
        [ORACLE_DIFFERENT] = "DIFFERENT",
    };
    return name[verdict];
}

struct file {
    const uint8_t *bytes;
    size_t count;
};

/* The source's packets one by one. */
struct walk {
    struct source *source;
    struct source_batch batch;
    uint32_t at;
};

static int walk_next(struct walk *walk, const struct packet **packet)
{
    while (walk->at == walk->batch.count) {
        source_release(walk->source, &walk->batch);
        walk->at = 0;
        int result = source_next(walk->source, &walk->batch, -1);
        if (result < 0)
            return result;
    }
    *packet = &walk->batch.packet[walk->at++];
    return 1;
}

/* What libpcap makes of a link type in a file: its DLT_ number. */
static int their_link_type(uint16_t link_type)
{
    const uint32_t header[6] = {0xa1b2c3d4, 4u << 16 | 2, 0, 0, 65535, link_type};
    char error[PCAP_ERRBUF_SIZE];
    FILE *stream = fmemopen((void *)(uintptr_t)header, sizeof header, "rb");
    assert(stream != NULL);
    pcap_t *pcap = pcap_fopen_offline(stream, error);
    assert(pcap != NULL);
    int theirs = pcap_datalink(pcap);
    pcap_close(pcap);
    return theirs;
}

/* What in a file lets libpcap's arithmetic of times overflow. */
struct oddities {
    bool fine_time;   /* an interface may count time in 2^-35 s or finer */
    bool time_offset; /* an interface adds something to its times: the sum may wrap */
};

static struct oddities find_oddities(const struct file *file)
{
    const uint8_t *bytes = file->bytes;
    size_t count = file->count;
    struct oddities oddities = {false, false};
    for (size_t i = 0; i + 4 < count; i++) {
        const uint8_t *option = bytes + i;
        if (memcmp(option, "\x09\0\x01\0", 4) == 0 || memcmp(option, "\0\x09\0\x01", 4) == 0)
            oddities.fine_time |= option[4] >= 0x80 + 35;
        oddities.time_offset |=
            memcmp(option, "\x0e\0\x08\0", 4) == 0 || memcmp(option, "\0\x0e\0\x08", 4) == 0;
    }
    return oddities;
}

/* Whether there are section headers of both byte orders: libpcap misreads the length of the second
 * kind. */
static bool has_both_orders(const struct file *file)
{
    const uint8_t *bytes = file->bytes;
    size_t count = file->count;
    bool little = false, big = false;
    for (size_t i = 0; i + 12 <= count; i++) {
        if (memcmp(bytes + i, "\x0a\x0d\x0d\x0a", 4) != 0)
            continue;
        little |= memcmp(bytes + i + 8, "\x4d\x3c\x2b\x1a", 4) == 0;
        big |= memcmp(bytes + i + 8, "\x1a\x2b\x3c\x4d", 4) == 0;
    }
    return little && big;
}

/* Before the first interface, libpcap looks at no section header but the very first. */
static bool their_blindness(const char *ours)
{
    return strstr(ours, "a section header has no byte order mark") != NULL ||
           strstr(ours, "of the pcapng format is not known") != NULL;
}

/* What libpcap stops at, and we do not. */
static enum oracle_verdict their_limit(const char *error)
{
    static const struct {
        const char *text;
        enum oracle_verdict verdict;
    } limit[] = {
        {"different from the type of the first interface", ORACLE_LINK_TYPES},
        {"different from the snapshot length of the first interface", ORACLE_SNAPSHOTS},
        {"sections with different byte orders", ORACLE_BYTE_ORDERS},
        {"bigger than snaplen of 262144", ORACLE_NO_LIMIT},
        {"bigger than snaplen of 1048576", ORACLE_NO_LIMIT},
        {"bigger than snaplen of 8388608", ORACLE_NO_LIMIT},
        {"Section Header Block in pcapng dump file has invalid length", ORACLE_SECTION_HEADER},
    };
    for (size_t i = 0; i < sizeof limit / sizeof limit[0]; i++) {
        if (strstr(error, limit[i].text) != NULL)
            return limit[i].verdict;
    }
    static const char too_long[] = "pcapng block size ";
    const char *size = strstr(error, too_long);
    if (size != NULL)
        return strtoul(size + strlen(too_long), NULL, 10) <= FILE_BLOCK_BYTES_MAX
                   ? ORACLE_BLOCK_LENGTH
                   : ORACLE_BYTE_ORDERS;
    return ORACLE_DIFFERENT;
}

static bool same_time(const struct packet *ours, const struct pcap_pkthdr *theirs,
                      const struct file *file, enum oracle_verdict *verdict)
{
    __int128 time_ns = (__int128)theirs->ts.tv_sec * NS_PER_SECOND + theirs->ts.tv_usec;
    if (ours->time_ns == time_ns)
        return true;
    if (theirs->ts.tv_sec < 0 && theirs->ts.tv_sec >= INT32_MIN &&
        ours->time_ns == time_ns + (INT64_C(1) << 32) * NS_PER_SECOND) {
        *verdict = ORACLE_UNSIGNED_TIME;
        return true;
    }
    struct oddities oddities = find_oddities(file);
    /* libpcap's seconds have 64 bits and may have wrapped. */
    bool wild = time_ns > INT64_MAX || time_ns < INT64_MIN || oddities.time_offset ||
                (uint64_t)theirs->ts.tv_sec > INT64_MAX / NS_PER_SECOND;
    if ((ours->time_ns == INT64_MAX || ours->time_ns == INT64_MIN) && wild) {
        *verdict = ORACLE_WILD_TIME;
        return true;
    }
    int64_t seconds = ours->time_ns / NS_PER_SECOND - (ours->time_ns % NS_PER_SECOND < 0);
    if (oddities.fine_time && seconds == theirs->ts.tv_sec) {
        *verdict = ORACLE_FINE_TIME;
        return true;
    }
    return false;
}

/* Compares one packet; false with the reason where they differ. */
static bool same_packet(const struct packet *ours, const struct pcap_pkthdr *theirs,
                        const u_char *their_bytes, const struct file *file,
                        struct oracle_result *result)
{
    if (!same_time(ours, theirs, file, &result->verdict)) {
        snprintf(result->why, sizeof result->why,
                 "packet %" PRIu64 ": time %" PRId64 " ns, theirs %lld.%09lld",
                 result->packets_ours, ours->time_ns, (long long)theirs->ts.tv_sec,
                 (long long)theirs->ts.tv_usec);
        return false;
    }
    uint32_t captured = ours->captured_bytes;
    if (captured > theirs->caplen && theirs->caplen == FILE_CAPTURED_USUAL_MAX) {
        result->verdict = ORACLE_NO_LIMIT;
        captured = theirs->caplen;
    }
    if (captured != theirs->caplen || ours->original_bytes != theirs->len) {
        snprintf(result->why, sizeof result->why,
                 "packet %" PRIu64 ": lengths %" PRIu32 " of %" PRIu32 ", theirs %u of %u",
                 result->packets_ours, captured, ours->original_bytes, theirs->caplen, theirs->len);
        return false;
    }
    if (memcmp(ours->bytes, their_bytes, captured) != 0) {
        snprintf(result->why, sizeof result->why, "packet %" PRIu64 ": bytes differ",
                 result->packets_ours);
        return false;
    }
    return true;
}

static enum oracle_verdict different(struct oracle_result *result, const char *why)
{
    snprintf(result->why, sizeof result->why, "%s", why);
    return ORACLE_DIFFERENT;
}

/* Both are open: packet by packet, to the end of either. */
static enum oracle_verdict compare_packets(struct walk *walk, pcap_t *pcap, const struct file *file,
                                           struct oracle_result *result)
{
    for (;;) {
        const struct packet *packet = NULL;
        struct pcap_pkthdr *header;
        const u_char *their_bytes;
        int ours = walk_next(walk, &packet);
        int theirs = pcap_next_ex(pcap, &header, &their_bytes);
        result->packets_ours += ours == 1;
        result->packets_theirs += theirs == 1;
        if (ours < 0 && ours != ERR_END)
            snprintf(result->ours, sizeof result->ours, "%s", walk->source->failure.text);
        if (theirs == PCAP_ERROR)
            snprintf(result->theirs, sizeof result->theirs, "%s", pcap_geterr(pcap));

        if (ours == 1 && theirs == 1) {
            if (!same_packet(packet, header, their_bytes, file, result))
                return ORACLE_DIFFERENT;
            continue;
        }
        if (ours < 0 && ours != ERR_END && theirs == PCAP_ERROR)
            return result->verdict;
        if (ours == ERR_END && theirs == PCAP_ERROR_BREAK)
            return result->verdict;
        if (theirs == PCAP_ERROR) {
            enum oracle_verdict verdict = their_limit(result->theirs);
            return verdict != ORACLE_DIFFERENT ? verdict
                                               : different(result, "libpcap alone finds damage");
        }
        if (theirs == 1 && header->caplen > PACKET_CAPTURED_MAX)
            return ORACLE_LONGEST;
        return different(result, ours == 1         ? "we alone have one more packet"
                                 : ours == ERR_END ? "libpcap alone has one more packet"
                                                   : "we alone find damage");
    }
}

void oracle_compare(const uint8_t *bytes, size_t count, size_t step_bytes, const char *name,
                    struct oracle_result *result)
{
    char error[PCAP_ERRBUF_SIZE] = "";
    struct failure failure = {0};
    struct walk *walk = calloc(1, sizeof *walk);
    assert(walk != NULL);
    const struct file file = {bytes, count};
    *result = (struct oracle_result){.verdict = ORACLE_SAME};

    FILE *stream = fmemopen((void *)(uintptr_t)bytes, count, "rb");
    assert(stream != NULL);
    pcap_t *pcap =
        pcap_fopen_offline_with_tstamp_precision(stream, PCAP_TSTAMP_PRECISION_NANO, error);
    if (pcap == NULL)
        fclose(stream);
    int ours = capture_file_open_memory(bytes, count, step_bytes, name, &walk->source, &failure);
    if (ours < 0)
        snprintf(result->ours, sizeof result->ours, "%s", failure.text);
    if (pcap == NULL)
        snprintf(result->theirs, sizeof result->theirs, "%s", error);

    if (ours < 0 && pcap == NULL) {
        result->verdict = ORACLE_BOTH_REFUSED;
    } else if (ours < 0) {
        struct pcap_pkthdr *header;
        const u_char *their_bytes;
        if (strstr(failure.text, "Kuznetzov") != NULL)
            result->verdict = ORACLE_KUZNETZOV;
        else if (pcap_next_ex(pcap, &header, &their_bytes) == PCAP_ERROR)
            result->verdict =
                ORACLE_BOTH_REFUSED; /* it sees a little later that there is nothing to read */
        else
            result->verdict = their_blindness(failure.text)
                                  ? ORACLE_SECTION_HEADER
                                  : different(result, "we alone refuse it");
    } else if (pcap == NULL) {
        result->verdict = their_limit(error);
        if (result->verdict == ORACLE_DIFFERENT)
            different(result, "libpcap alone refuses it");
    } else {
        uint16_t link_type = walk->source->ops->interface(walk->source, 0)->link_type;
        int theirs = pcap_datalink(pcap);
        if (their_link_type(link_type) != theirs && link_type != (theirs & 0xffff)) {
            snprintf(result->why, sizeof result->why, "link type %u, theirs %d", link_type, theirs);
            result->verdict = ORACLE_DIFFERENT;
        } else {
            result->verdict = compare_packets(walk, pcap, &file, result);
        }
    }
    if (result->verdict == ORACLE_DIFFERENT && has_both_orders(&file))
        result->verdict = ORACLE_BYTE_ORDERS;
    if (result->verdict == ORACLE_DIFFERENT && pcap != NULL && pcap_datalink(pcap) > UINT16_MAX)
        result->verdict = ORACLE_RESERVED_BITS;
    if (walk->source != NULL)
        source_close(&walk->source);
    if (pcap != NULL)
        pcap_close(pcap);
    free(walk);
}
