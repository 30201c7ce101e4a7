/*
 * source_file.c - the source that reads a capture file, whatever its format.
 *
 * open: the first bytes decide on the format; pcap_reader.c or pcapng_reader.c reads on to the
 * first interface. next: the reader fills a batch with views into the feed's current chunk, which
 * the batch pins until release. Damage ends the file where it is: the packets before it are handed
 * out first, the next call says what is wrong. close frees all; views are void then.
 */
#include "capture_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "waiting.h"

/* ---- helpers of the readers ----------------------------------------------------------------- */

int file_fail(struct capture_file *file, int code, uint64_t offset, const char *format, ...)
{
    char reason[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return fail(&file->source.failure, code, "%s: %s at offset %" PRIu64 ": %s", file->name,
                code == ERR_CORRUPT ? "damaged" : "stopped", offset, reason);
}

/* The length of the UTF-8 character that `text` begins with, 0 if it is none or a control
 * character. */
static size_t character_bytes(const uint8_t *text, size_t left)
{
    uint8_t first = text[0];
    if (first < 0x80)
        return first >= 0x20 && first != 0x7f;
    size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || bytes > left)
        return 0;
    uint32_t point = first & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (text[i] & 0x3f);
    }
    static const uint32_t point_min[] = {0, 0, 0x80, 0x800, 0x10000};
    bool control = point < 0xa0;
    bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < point_min[bytes] || control || surrogate || point > 0x10ffff ? 0 : bytes;
}

void file_text(char *out, size_t out_size, const uint8_t *text, size_t count)
{
    static const char digit[] = "0123456789abcdef";
    size_t used = 0;
    while (count > 0 && text[0] != '\0') {
        size_t bytes = character_bytes(text, count);
        size_t needed = bytes != 0 ? bytes : 4;
        if (used + needed >= out_size)
            break;
        if (bytes != 0) {
            memcpy(out + used, text, bytes);
        } else {
            out[used] = '\\';
            out[used + 1] = 'x';
            out[used + 2] = digit[text[0] >> 4];
            out[used + 3] = digit[text[0] & 15];
            bytes = 1;
        }
        used += needed;
        text += bytes;
        count -= bytes;
    }
    out[used] = '\0';
}

uint32_t file_captured_max(uint16_t link_type)
{
    enum { LINK_DBUS = 231, LINK_USBPCAP = 249, LINK_EBHSCR = 279 };
    switch (link_type) {
    case LINK_DBUS: /* 128 MiB by its specification, more than a packet record can hold */
        return PACKET_CAPTURED_MAX;
    case LINK_USBPCAP:
        return 1u << 20;
    case LINK_EBHSCR:
        return 8u << 20;
    default:
        return FILE_CAPTURED_USUAL_MAX;
    }
}

struct file_interface *file_add_interface(struct capture_file *file, uint64_t offset,
                                          const struct interface_description *description)
{
    if (file->interfaces == SOURCE_INTERFACES_MAX) {
        file_fail(file, ERR_UNSUPPORTED, offset, "the file has more than %d interfaces",
                  SOURCE_INTERFACES_MAX);
        return NULL;
    }
    if (file->interfaces == file->interfaces_room) {
        uint32_t room = file->interfaces_room == 0 ? 4 : file->interfaces_room * 2;
        struct file_interface **grown = reallocarray(file->interface, room, sizeof(void *));
        if (grown == NULL)
            goto no_memory;
        file->interface = grown;
        file->interfaces_room = room;
    }
    struct file_interface *interface = calloc(1, sizeof *interface);
    if (interface == NULL)
        goto no_memory;
    interface->description = *description;
    interface->named = description->name[0] != '\0';
    if (!interface->named) {
        char number[16] = "";
        if (file->interfaces > 0)
            snprintf(number, sizeof number, "#%" PRIu32, file->interfaces);
        size_t number_bytes = strlen(number);
        char *name = interface->description.name;
        file_text(name, sizeof interface->description.name - number_bytes,
                  (const uint8_t *)file->name, strlen(file->name));
        memcpy(name + strlen(name), number, number_bytes + 1);
    }
    file->interface[file->interfaces++] = interface;
    return interface;

no_memory:
    file_fail(file, ERR_NO_MEMORY, offset, "no memory for its interfaces");
    return NULL;
}

/* ---- the source's calls --------------------------------------------------------------------- */

static struct capture_file *file_of(const struct source *source)
{
    return (struct capture_file *)source;
}

/* Puts the file's name before what the feed had to say. */
static int feed_failed(struct capture_file *file, int code)
{
    return fail_context(&file->source.failure, code, "%s at offset %" PRIu64, file->name,
                        file->feed.offset + feed_available(&file->feed));
}

static int cut_short(struct capture_file *file, size_t needed)
{
    return file_fail(file, ERR_CORRUPT, file->feed.offset,
                     "the file is cut short: %zu bytes are left where %zu or more are needed",
                     feed_available(&file->feed), needed);
}

static int file_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct capture_file *file = file_of(source);
    struct byte_feed *feed = &file->feed;
    bool blocks = feed->wake_fd >= 0;
    struct deadline deadline = deadline_of(blocks ? timeout_ms : 0);

    batch->count = 0;
    batch->body[0] = 0;
    if (file->failed != 0)
        return file->failed;
    for (;;) {
        size_t needed;
        int result = file->format->fill(file, batch, &needed);
        if (result < 0)
            file->failed = result;
        if (batch->count > 0) {
            batch->body[0] = (uintptr_t)feed_pin(feed);
            source->bytes_done = feed->offset;
            return 1;
        }
        if (result < 0)
            return result;

        result = feed_read(feed, needed, deadline_left_ms(&deadline), &source->failure);
        if (result == ERR_END) {
            source->bytes_done = feed->offset;
            file->failed = feed_available(feed) == 0 ? ERR_END : cut_short(file, needed);
            return file->failed;
        }
        if (result == 0 || result == ERR_INTERRUPTED)
            return 0;
        if (result < 0) {
            file->failed = feed_failed(file, result);
            return file->failed;
        }
    }
}

static void file_release(struct source *source, struct source_batch *batch)
{
    if (batch->body[0] != 0)
        feed_unpin(&file_of(source)->feed, (struct feed_chunk *)(uintptr_t)batch->body[0]);
    batch->body[0] = 0;
    batch->count = 0;
}

static uint32_t file_interfaces(const struct source *source)
{
    return file_of(source)->interfaces;
}

static const struct interface_description *file_interface(const struct source *source,
                                                          uint32_t number)
{
    const struct capture_file *file = file_of(source);
    assert(number < file->interfaces);
    return &file->interface[number]->description;
}

static void file_counters(struct source *source, uint32_t number, struct source_counters *counters)
{
    const struct capture_file *file = file_of(source);
    assert(number < file->interfaces);
    *counters = file->interface[number]->counters;
}

static void file_close(struct source *source)
{
    struct capture_file *file = file_of(source);
    if (file->format != NULL)
        file->format->close(file);
    for (uint32_t i = 0; i < file->interfaces; i++)
        free(file->interface[i]);
    free(file->interface);
    feed_close(&file->feed);
    free(file);
}

static const struct source_ops file_ops = {
    .name = "capture file",
    .next = file_next,
    .release = file_release,
    .interfaces = file_interfaces,
    .interface = file_interface,
    .counters = file_counters,
    .close = file_close,
};

/* ---- opening -------------------------------------------------------------------------------- */

struct known_format {
    uint8_t bytes[8];
    uint8_t count;
    const struct file_format *format; /* null: known, but not read */
    const char *refusal;
};

#define COMPRESSED(program) "is compressed: unpack it with " program " first"
#define PCAP_VARIANT(whose)                                                    \
    "is in " whose " variant of pcap, whose records cannot be told for sure: " \
    "convert it with `editcap -F pcapng`"
#define OTHER(what) "is " what ", not pcap or pcapng: convert it with `editcap -F pcapng`"

static const struct known_format known[] = {
    {{0xd4, 0xc3, 0xb2, 0xa1}, 4, &pcap_format, NULL},
    {{0xa1, 0xb2, 0xc3, 0xd4}, 4, &pcap_format, NULL},
    {{0x4d, 0x3c, 0xb2, 0xa1}, 4, &pcap_format, NULL},
    {{0xa1, 0xb2, 0x3c, 0x4d}, 4, &pcap_format, NULL},
    {{0x34, 0xcd, 0xb2, 0xa1}, 4, NULL, PCAP_VARIANT("Kuznetzov's")},
    {{0xa1, 0xb2, 0xcd, 0x34}, 4, NULL, PCAP_VARIANT("Kuznetzov's")},
    {{0xcd, 0x34, 0xb2, 0xa1}, 4, NULL, PCAP_VARIANT("Mesquita's")},
    {{0xa1, 0xb2, 0x34, 0xcd}, 4, NULL, PCAP_VARIANT("Mesquita's")},
    {{0x4d, 0x3c, 0x2b, 0xa1}, 4, NULL, PCAP_VARIANT("Navtel's")},
    {{0xa1, 0x2b, 0x3c, 0x4d}, 4, NULL, PCAP_VARIANT("Navtel's")},
    {{0xac, 0x01, 0x00, 0x1c}, 4, NULL, PCAP_VARIANT("Ixia's")},
    {{0x1c, 0x00, 0x01, 0xac}, 4, NULL, PCAP_VARIANT("Ixia's")},
    {{0xab, 0x01, 0x00, 0x1c}, 4, NULL, PCAP_VARIANT("Ixia's")},
    {{0x1c, 0x00, 0x01, 0xab}, 4, NULL, PCAP_VARIANT("Ixia's")},
    {{'s', 'n', 'o', 'o', 'p', 0, 0, 0}, 8, NULL, OTHER("a snoop file")},
    {{'R', 'T', 'S', 'S'}, 4, NULL, OTHER("a Network Monitor file")},
    {{'G', 'M', 'B', 'U'}, 4, NULL, OTHER("a Network Monitor file")},
    {{'X', 'C', 'P', 0}, 4, NULL, OTHER("a NetXRay file")},
    {{0x1f, 0x8b}, 2, NULL, COMPRESSED("gzip -d")},
    {{0x28, 0xb5, 0x2f, 0xfd}, 4, NULL, COMPRESSED("zstd -d")},
    {{0xfd, '7', 'z', 'X', 'Z', 0}, 6, NULL, COMPRESSED("xz -d")},
    {{'B', 'Z', 'h'}, 3, NULL, COMPRESSED("bzip2 -d")},
    {{0x04, 0x22, 0x4d, 0x18}, 4, NULL, COMPRESSED("lz4 -d")},
    {{'P', 'K', 3, 4}, 4, NULL, COMPRESSED("unzip")},
};

/* pcapng's first four bytes are line ends that any text may begin with; its byte order mark makes
 * it sure. */
static bool is_pcapng(const uint8_t *bytes, size_t count)
{
    static const uint8_t type[] = {0x0a, 0x0d, 0x0d, 0x0a};
    static const uint8_t little[] = {0x4d, 0x3c, 0x2b, 0x1a};
    static const uint8_t big[] = {0x1a, 0x2b, 0x3c, 0x4d};
    return count >= 12 && memcmp(bytes, type, 4) == 0 &&
           (memcmp(bytes + 8, little, 4) == 0 || memcmp(bytes + 8, big, 4) == 0);
}

/* Finds the format by the first bytes. */
static int file_recognise(struct capture_file *file)
{
    const uint8_t *bytes = feed_bytes(&file->feed);
    size_t count = feed_available(&file->feed);
    struct failure *failure = &file->source.failure;
    if (count == 0)
        return fail(failure, ERR_INVALID, "%s: is empty, not a capture file", file->name);
    if (is_pcapng(bytes, count)) {
        file->format = &pcapng_format;
    } else {
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            if (count < known[i].count || memcmp(bytes, known[i].bytes, known[i].count) != 0)
                continue;
            if (known[i].format == NULL)
                return fail(failure, ERR_UNSUPPORTED, "%s: at offset 0: %s", file->name,
                            known[i].refusal);
            file->format = known[i].format;
        }
    }
    if (file->format == NULL)
        return fail(failure, ERR_INVALID,
                    "%s: at offset 0: begins like neither a pcap nor a pcapng file", file->name);
    if (count < PCAP_FILE_HEADER_BYTES)
        return cut_short(file, PCAP_FILE_HEADER_BYTES);
    return 0;
}

/* Reads until `needed` bytes are available. 0; ERR_END when the file ends before; other failures
 * with their sentence. */
static int file_need(struct capture_file *file, size_t needed)
{
    while (feed_available(&file->feed) < needed) {
        int result = feed_read(&file->feed, needed, -1, &file->source.failure);
        if (result == ERR_END)
            return result;
        if (result < 0)
            return feed_failed(file, result);
    }
    return 0;
}

/* The file's head: format and first interface. */
static int file_begin(struct capture_file *file)
{
    int result = file_need(file, PCAP_FILE_HEADER_BYTES);
    if (result < 0 && result != ERR_END)
        return result;
    result = file_recognise(file);
    if (result < 0)
        return result;
    for (;;) {
        size_t needed;
        result = file->format->open(file, &needed);
        if (result < 0 || needed == 0)
            return result;
        result = file_need(file, needed);
        if (result == ERR_END && feed_available(&file->feed) == 0)
            return file_fail(file, ERR_INVALID, file->feed.offset,
                             "the file ends without describing an interface: it has no packet");
        if (result == ERR_END)
            return cut_short(file, needed);
        if (result < 0)
            return result;
    }
}

static struct capture_file *file_new(const char *name, struct failure *failure)
{
    struct capture_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        fail(failure, ERR_NO_MEMORY, "%s: no memory to read it", name);
        return NULL;
    }
    file->source = (struct source){.ops = &file_ops, .waits = true, .wake_fd = -1};
    file_text(file->name, sizeof file->name, (const uint8_t *)name, strlen(name));
    return file;
}

/* Hands out the file, or closes it and hands out why. */
static int file_opened(struct capture_file *file, int result, struct source **source,
                       struct failure *failure)
{
    if (result < 0) {
        if (failure != NULL)
            *failure = file->source.failure;
        file_close(&file->source);
        return result;
    }
    *source = &file->source;
    return 0;
}

/* Finds out what the descriptor is, and makes what is needed to be woken while it blocks. */
static int file_attach(struct capture_file *file, int fd)
{
    struct failure *failure = &file->source.failure;
    struct stat status;
    int wake_fd = -1;
    int result;
    if (fstat(fd, &status) < 0) {
        result = fail_errno(failure, errno, "%s", file->name);
        goto undo;
    }
    if (S_ISDIR(status.st_mode)) {
        result = fail(failure, ERR_INVALID, "%s: is a directory, not a capture file", file->name);
        goto undo;
    }
    if (S_ISREG(status.st_mode)) {
        off_t position = lseek(fd, 0, SEEK_CUR);
        if (position >= 0 && status.st_size > position)
            file->source.bytes_total = (uint64_t)(status.st_size - position);
        posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    } else {
        wake_fd = wake_open();
        if (wake_fd < 0) {
            result = fail_errno(failure, errno, "%s: cannot make an eventfd", file->name);
            goto undo;
        }
    }
    file->source.wake_fd = wake_fd;
    result = feed_open(&file->feed, fd, wake_fd);
    return result < 0 ? fail(failure, result, "%s: no memory to read it", file->name) : 0;

undo:
    close(fd);
    file->feed.fd = file->feed.wake_fd = -1;
    return result;
}

int source_file_open(int fd, const char *name, struct source **source, struct failure *failure)
{
    struct capture_file *file = file_new(name, failure);
    if (file == NULL) {
        close(fd);
        return ERR_NO_MEMORY;
    }
    int result = file_attach(file, fd);
    if (result == 0)
        result = file_begin(file);
    return file_opened(file, result, source, failure);
}

int capture_file_open_memory(const uint8_t *bytes, size_t count, size_t step_bytes,
                             const char *name, struct source **source, struct failure *failure)
{
    struct capture_file *file = file_new(name, failure);
    if (file == NULL)
        return ERR_NO_MEMORY;
    int result = feed_open_memory(&file->feed, bytes, count, step_bytes);
    if (result == 0)
        file->source.bytes_total = count;
    if (result == 0)
        result = file_begin(file);
    return file_opened(file, result, source, failure);
}
