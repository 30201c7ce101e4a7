/*
 * capture_file.h - the source that reads capture files, as its parts see it. Not for others.
 *
 * source_file.c owns the file, finds out its format and hands out batches; pcap_reader.c and
 * pcapng_reader.c turn bytes into packets; pseudo_header.c puts right what was written in the byte
 * order of another machine. Nothing here blocks, but feed_read() in source_file.c.
 */
#ifndef CAPTURE_CAPTURE_FILE_H
#define CAPTURE_CAPTURE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "byte_feed.h"
#include "source.h"

/* ---- limits --------------------------------------------------------------------------------- */

/* The longest packet that libpcap takes from a file of most link types; a longer one is damage to
 * it and to us. */
#define FILE_CAPTURED_USUAL_MAX 262144u
/* The longest pcapng block: the longest packet, its block's own fields, and as much in options as
 * libpcap allows. */
#define FILE_BLOCK_BYTES_MAX ((16u << 20) + (128u << 10) + 32u)

/* ---- the file ------------------------------------------------------------------------------- */

struct file_interface {
    struct interface_description description;
    struct source_counters counters;
    bool named; /* by the file, not by us */
};

struct capture_file;

struct file_format {
    const char *name;
    /*
     * Reads the head of the file, of which PCAP_FILE_HEADER_BYTES are available, up to the first
     * interface. Returns 0, and in *needed how many bytes must be available before it is called
     * again, 0 when it is done; or a negative code.
     */
    int (*open)(struct capture_file *file, size_t *needed);
    /*
     * Parses what the feed has, adding packets to the batch until it is full or bytes are missing.
     * Returns 0 and sets *needed to how many bytes must be available to go on, 0 if the batch is
     * full; or a negative code with the sentence in file->source.failure, the packets before the
     * damage being in the batch.
     */
    int (*fill)(struct capture_file *file, struct source_batch *batch, size_t *needed);
    void (*close)(struct capture_file *file);
};

/* Whose lengths come in which order: captured length first since version 2.3, with exceptions. */
enum pcap_lengths { LENGTHS_CAPTURED_FIRST, LENGTHS_ORIGINAL_FIRST, LENGTHS_SMALLER_IS_CAPTURED };

struct pcap_reader {
    bool swapped; /* written in the other byte order */
    bool mend;    /* packets begin with a pseudo-header that may have to be put right */
    enum pcap_lengths lengths;
    uint32_t units_ns; /* of the second half of a time: 1000 or 1 */
    uint32_t captured_max;
    uint32_t snapshot_length; /* longer packets are cut to it, as libpcap does */
    struct file_interface *interface;
};

struct pcapng_interface;

struct pcapng_reader {
    bool swapped; /* this section was written in the other byte order */
    bool section; /* the first section header has been read */
    /* Of the current section, in the order of their blocks; beyond `interfaces`, those of earlier
     * sections. */
    struct pcapng_interface *interface;
    uint32_t interfaces;
    uint32_t interfaces_known;
    uint32_t interfaces_room;
};

struct capture_file {
    struct source source;
    struct byte_feed feed;
    const struct file_format *format;
    char name[INTERFACE_NAME_MAX + 1]; /* as it was given, made presentable */
    struct file_interface **interface; /* each allocated alone: their addresses stay */
    uint32_t interfaces;
    uint32_t interfaces_room;
    int failed; /* what the next call of next() returns, 0 = go on */
    union {
        struct pcap_reader pcap;
        struct pcapng_reader pcapng;
    };
};

/* source_file_open() from memory, which stays the caller's; for tests. `step_bytes`: handed to the
 * parser at a time. */
int capture_file_open_memory(const uint8_t *bytes, size_t count, size_t step_bytes,
                             const char *name, struct source **source, struct failure *failure);

/* fail() into the source's failure, the sentence beginning with name and offset. Returns `code`. */
int file_fail(struct capture_file *file, int code, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * Adds an interface. Without a name it gets the file's, with its number behind it where it is not
 * the first. The result belongs to the file. Null with a failure: no memory, or
 * SOURCE_INTERFACES_MAX are reached.
 */
struct file_interface *file_add_interface(struct capture_file *file, uint64_t offset,
                                          const struct interface_description *description);

/* Copies `count` bytes of foreign text: what is not UTF-8, and control characters, become \xNN; cut
 * at a character. */
void file_text(char *out, size_t out_size, const uint8_t *text, size_t count);

/* The longest packet that libpcap takes of a link type, but no more than we can keep. */
uint32_t file_captured_max(uint16_t link_type);

/* ---- formats -------------------------------------------------------------------------------- */

#define PCAP_FILE_HEADER_BYTES 24u
#define PCAPNG_SECTION_MAGIC 0x0a0d0d0au

extern const struct file_format pcap_format;
extern const struct file_format pcapng_format;

/* ---- pseudo-headers ------------------------------------------------------------------------- */

/* Whether packets of a link type, in a file of that byte order, must pass through
 * pseudo_header_mend(). */
bool pseudo_header_concerns(uint16_t link_type, bool swapped);

/*
 * Some link types put a header before the packet whose fields are in the byte order of the machine
 * that captured. Turns them to this machine's order, as libpcap does, since the file that we write
 * one day will be in this order. Also corrects the length of isochronous USB transfers that old
 * kernels reported wrongly. Returns the original length.
 */
uint32_t pseudo_header_mend(uint16_t link_type, bool swapped, uint8_t *bytes,
                            uint32_t captured_bytes, uint32_t original_bytes);

/* ---- integers ------------------------------------------------------------------------------- */

static inline uint16_t file_get16(const uint8_t *bytes, bool swapped)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return swapped ? __builtin_bswap16(value) : value;
}

static inline uint32_t file_get32(const uint8_t *bytes, bool swapped)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return swapped ? __builtin_bswap32(value) : value;
}

static inline uint64_t file_get64(const uint8_t *bytes, bool swapped)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return swapped ? __builtin_bswap64(value) : value;
}

#endif
