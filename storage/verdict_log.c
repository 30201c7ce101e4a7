/*
 * verdict_log.c - see verdict_log.h.
 *
 * The happy path: a capture thread puts records into its stream's queue and says how far it is; who flushes takes them out, as far as they are, puts them
 * into chunks and appends those to the last piece.
 *
 * Where the queue is full, the stream is *lost*: it takes no more, and its `upto` stands still, until a flush has written what was before that. That flush leaves out
 * a sequence number, so a reader knows. Where a chunk cannot be written its number has been used all the same, which comes to the same.
 *
 * Nothing here is synced: a power cut takes the last seconds with it, and what is left is told by checksums.
 */
#include "verdict_log.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"

#define QUEUE (1u << 15) /* records of a stream between two flushes */
#define NAME_SIZE 96
#define PIECE_BYTES_MIN (256u << 10)
#define BEGINS_ANEW UINT16_MAX

struct put {
    uint64_t hash;
    uint64_t number;
    uint16_t app[2];
};

struct verdict_stream {
    uint32_t number;
    struct verdict_stream *next; /* under the log's lock, as all up to the queue */
    uint64_t sequence;
    uint64_t written_upto;

    _Atomic uint64_t put, taken; /* of the queue: the stream's, who flushes */
    _Atomic uint64_t upto;
    _Atomic uint64_t lost;       /* records since the queue was full; 0: it is not lost */
    struct put queue[QUEUE];
};

struct verdict_log {
    struct verdict_log_options options;
    pthread_mutex_t lock;
    struct verdict_stream *streams;
    int fd;          /* of the last piece; -1: the next chunk begins one */
    uint64_t piece;  /* its number */
    uint64_t bytes;  /* in it */
    uint64_t newest; /* position */
    struct verdict_log_counters counters;
    uint8_t chunk[VERDICT_CHUNK_BYTES_MAX];
};

/* ---- the files ----------------------------------------------------------------------------------- */

struct piece {
    struct identity ring;
    uint64_t number, position;
    char name[NAME_SIZE];
};

struct pieces {
    struct piece *piece;
    uint32_t count, room;
};

static void put_name(struct piece *piece)
{
    char text[IDENTITY_TEXT_SIZE];
    snprintf(piece->name, sizeof piece->name, "%s-%016" PRIx64 "-%016" PRIx64 ".verdicts", identity_text(&piece->ring, text), piece->number, piece->position);
}

/* Whether a file's name is one that put_name() gives. */
static bool take_name(const char *name, struct piece *piece)
{
    char text[IDENTITY_TEXT_SIZE];
    if (sscanf(name, "%32[0-9a-f]-%16" SCNx64 "-%16" SCNx64 ".verdicts", text, &piece->number, &piece->position) != 3 ||
        identity_parse(text, &piece->ring) != 0)
        return false;
    put_name(piece);
    return strcmp(name, piece->name) == 0;
}

static int order_pieces(const void *a, const void *b)
{
    const struct piece *one = a, *two = b;
    return one->number < two->number ? -1 : one->number > two->number;
}

/* Those of a ring (null: of all), the oldest first. What there is no memory for is not seen. */
static struct pieces list_pieces(int directory, const struct identity *ring)
{
    struct pieces pieces = {0};
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = fd >= 0 ? fdopendir(fd) : NULL;
    if (!names) {
        if (fd >= 0)
            close(fd);
        return pieces;
    }
    const struct dirent *entry;
    while ((entry = readdir(names))) {
        struct piece piece;
        if (!take_name(entry->d_name, &piece) || (ring && !identity_equal(ring, &piece.ring)))
            continue;
        if (pieces.count == pieces.room) {
            uint32_t room = pieces.room > 0 ? 2 * pieces.room : 32;
            struct piece *more = realloc(pieces.piece, room * sizeof *more);
            if (!more)
                break;
            pieces.piece = more;
            pieces.room = room;
        }
        pieces.piece[pieces.count++] = piece;
    }
    closedir(names);
    if (pieces.count > 1)
        qsort(pieces.piece, pieces.count, sizeof *pieces.piece, order_pieces);
    return pieces;
}

int verdict_log_each(int directory, const struct identity *ring, int (*each)(int fd, void *context), void *context)
{
    struct pieces pieces = list_pieces(directory, ring);
    int result = 0;
    for (uint32_t i = 0; i < pieces.count && result == 0; i++) {
        int fd = openat(directory, pieces.piece[i].name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            continue;
        result = each(fd, context);
        close(fd);
    }
    free(pieces.piece);
    return result;
}

void verdict_log_tidy(int directory, bool (*known)(const struct identity *ring, void *context), void *context)
{
    struct pieces pieces = list_pieces(directory, NULL);
    for (uint32_t i = 0; i < pieces.count; i++)
        if (!known(&pieces.piece[i].ring, context))
            unlinkat(directory, pieces.piece[i].name, 0);
    free(pieces.piece);
}

/* Those that are about nothing any more, and the oldest where there are too many. */
static void drop_old(const struct verdict_log *log, uint64_t oldest)
{
    struct pieces pieces = list_pieces(log->options.directory, &log->options.ring);
    for (uint32_t i = 0; i + 1 < pieces.count; i++)
        if (pieces.piece[i + 1].position < oldest || pieces.count - i > VERDICT_PIECES_MAX)
            unlinkat(log->options.directory, pieces.piece[i].name, 0);
    free(pieces.piece);
}

/* ---- chunks -------------------------------------------------------------------------------------- */

static uint32_t head_crc(const struct verdict_chunk_head *head)
{
    size_t from = offsetof(struct verdict_chunk_head, body_crc);
    return checksum_crc32c((const uint8_t *)head + from, sizeof *head - from);
}

bool verdict_chunk_fits(const struct verdict_chunk_head *head, const struct identity *ring, uint64_t room)
{
    uint64_t bytes = le32_get(head->bytes), names = le32_get(head->names_bytes), records = le32_get(head->records);
    return memcmp(head->magic, VERDICT_CHUNK_MAGIC, sizeof head->magic) == 0 && le32_get(head->head_crc) == head_crc(head) &&
           identity_equal(&head->ring, ring) && bytes <= room && bytes <= VERDICT_CHUNK_BYTES_MAX && bytes % 8 == 0 && names % 8 == 0 &&
           le32_get(head->names) <= VERDICT_CHUNK_NAMES_MAX && bytes == sizeof *head + names + records * sizeof(struct verdict_record);
}

/* Where the last whole chunk ends, as far as heads tell. */
static uint64_t whole_bytes(const struct verdict_log *log, int fd)
{
    struct stat status;
    struct verdict_chunk_head head;
    uint64_t at = 0;
    if (fstat(fd, &status) != 0)
        return 0;
    while (pread(fd, &head, sizeof head, (off_t)at) == (ssize_t)sizeof head &&
           verdict_chunk_fits(&head, &log->options.ring, (uint64_t)status.st_size - at))
        at += le32_get(head.bytes);
    return at;
}

static uint64_t piece_bytes_max(const struct verdict_log *log)
{
    uint64_t bytes = log->options.bytes_max / VERDICT_PIECES_MAX;
    return bytes > PIECE_BYTES_MIN ? bytes : PIECE_BYTES_MIN;
}

static void piece_close(struct verdict_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    log->fd = -1;
}

static void piece_begin(struct verdict_log *log)
{
    struct piece piece = {.ring = log->options.ring, .number = ++log->piece, .position = log->newest};
    put_name(&piece);
    log->fd = openat(log->options.directory, piece.name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    log->bytes = 0;
}

/* Goes on with the last one, where it can be gone on with. */
static void piece_find(struct verdict_log *log)
{
    struct pieces pieces = list_pieces(log->options.directory, &log->options.ring);
    if (pieces.count > 0) {
        const struct piece *last = &pieces.piece[pieces.count - 1];
        log->piece = last->number;
        log->fd = openat(log->options.directory, last->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        log->bytes = log->fd >= 0 ? whole_bytes(log, log->fd) : 0;
        if (log->fd >= 0 && ftruncate(log->fd, (off_t)log->bytes) != 0)
            piece_close(log);
    }
    free(pieces.piece);
}

/* Appends the chunk. False: it is not there. */
static bool append(struct verdict_log *log, uint32_t bytes)
{
    if (log->fd >= 0 && log->bytes > 0 && log->bytes + bytes > piece_bytes_max(log))
        piece_close(log);
    if (log->fd < 0)
        piece_begin(log);
    if (log->fd < 0)
        return false;
    if (pwrite(log->fd, log->chunk, bytes, (off_t)log->bytes) == (ssize_t)bytes) {
        log->bytes += bytes;
        log->counters.bytes += bytes;
        return true;
    }
    if (ftruncate(log->fd, (off_t)log->bytes) != 0)
        piece_close(log); /* what is half-written ends its piece */
    return false;
}

/* ---- the stream's side ------------------------------------------------------------------------------ */

void verdict_stream_put(struct verdict_stream *stream, uint64_t hash, uint64_t number, const uint16_t app[2])
{
    uint64_t at = atomic_load_explicit(&stream->put, memory_order_relaxed);
    uint64_t lost = atomic_load_explicit(&stream->lost, memory_order_acquire);
    if (number >= VERDICT_NUMBER_MAX)
        return; /* upto does not come so far */
    if (lost > 0 || at - atomic_load_explicit(&stream->taken, memory_order_acquire) >= QUEUE) {
        atomic_fetch_add(&stream->lost, 1);
        return;
    }
    stream->queue[at % QUEUE] = (struct put){.hash = hash, .number = number, .app = {app ? app[0] : BEGINS_ANEW, app ? app[1] : 0}};
    atomic_store_explicit(&stream->put, at + 1, memory_order_release);
}

void verdict_stream_upto(struct verdict_stream *stream, uint64_t number)
{
    if (atomic_load_explicit(&stream->lost, memory_order_relaxed) == 0 && number < VERDICT_NUMBER_MAX)
        atomic_store_explicit(&stream->upto, number, memory_order_release);
}

/* ---- flushing: under the lock ------------------------------------------------------------------------- */

struct names {
    uint32_t pair[VERDICT_CHUNK_NAMES_MAX];
    uint32_t count, bytes;
};

/* Which name of the chunk it is, from 1; 0: none, or there is no room for it. */
static uint16_t name_take(struct verdict_log *log, struct names *names, const uint16_t app[2])
{
    char text[VERDICT_TEXT_BYTES];
    uint32_t pair = app[0] | (uint32_t)app[1] << 16, i = 0;
    while (i < names->count && names->pair[i] != pair)
        i++;
    if (i < names->count)
        return (uint16_t)(i + 1);
    if (i == VERDICT_CHUNK_NAMES_MAX || !verdicts_text(log->options.verdicts, app, text))
        return 0;
    size_t bytes = strlen(text) + 1;
    memcpy(log->chunk + sizeof(struct verdict_chunk_head) + names->bytes, text, bytes);
    names->bytes += (uint32_t)bytes;
    names->pair[names->count++] = pair;
    return (uint16_t)(i + 1);
}

/*
 * A chunk of the records from `from` on, as many as find room, up to `to`. Returns where it ends. Records are put together behind where the names end at
 * most, and brought together at the end.
 */
static uint64_t chunk_write(struct verdict_log *log, struct verdict_stream *stream, uint64_t from, uint64_t to, uint64_t upto)
{
    uint8_t *body = log->chunk + sizeof(struct verdict_chunk_head);
    struct verdict_record *record = (void *)(body + VERDICT_CHUNK_NAMES_MAX * VERDICT_TEXT_BYTES);
    struct names names = {.count = 0};
    uint64_t first = UINT64_MAX, at = from;
    uint32_t records = 0;
    for (; at < to && records < VERDICT_CHUNK_RECORDS_MAX && names.count < VERDICT_CHUNK_NAMES_MAX; at++) {
        const struct put *put = &stream->queue[at % QUEUE];
        uint16_t name = put->app[0] == BEGINS_ANEW ? 0 : name_take(log, &names, put->app);
        record[records++] = (struct verdict_record){le64_of(put->hash), le64_of(put->number << 16 | name)};
        first = put->number < first ? put->number : first;
    }
    while (names.bytes % 8 != 0)
        body[names.bytes++] = 0;
    memmove(body + names.bytes, record, records * sizeof *record);
    uint32_t bytes = names.bytes + records * (uint32_t)sizeof *record;
    struct verdict_chunk_head head = {
        .magic = VERDICT_CHUNK_MAGIC,
        .body_crc = le32_of(checksum_crc32c(body, bytes)),
        .ring = log->options.ring,
        .run = log->options.run,
        .seed = le64_of(verdicts_seed(log->options.verdicts)),
        .sequence = le64_of(stream->sequence++),
        .upto = le64_of(at == to ? upto : stream->written_upto), /* only with the last of them all is known */
        .first = le64_of(first),
        .bytes = le32_of((uint32_t)sizeof head + bytes),
        .stream = le32_of(stream->number),
        .records = le32_of(records),
        .names = le32_of(names.count),
        .names_bytes = le32_of(names.bytes),
    };
    head.head_crc = le32_of(head_crc(&head));
    memcpy(log->chunk, &head, sizeof head);
    if (append(log, (uint32_t)sizeof head + bytes))
        log->counters.records += records;
    else
        log->counters.lost += records;
    if (at == to)
        stream->written_upto = upto;
    return at;
}

static void stream_flush(struct verdict_log *log, struct verdict_stream *stream, bool always)
{
    /* Whether it is lost is asked before how far it is, and that before the queue's end: then `upto` and the queue are of before or after. */
    uint64_t lost = atomic_load(&stream->lost);
    uint64_t upto = atomic_load_explicit(&stream->upto, memory_order_acquire);
    uint64_t put = atomic_load_explicit(&stream->put, memory_order_acquire);
    uint64_t taken = atomic_load_explicit(&stream->taken, memory_order_relaxed);
    if (taken == put && ((always || lost > 0) && upto > stream->written_upto))
        chunk_write(log, stream, put, put, upto);
    while (taken < put)
        taken = chunk_write(log, stream, taken, put, upto);
    atomic_store_explicit(&stream->taken, taken, memory_order_release);
    if (lost > 0) {
        stream->sequence++;
        log->counters.lost += atomic_exchange(&stream->lost, 0);
    }
}

void verdict_log_flush(struct verdict_log *log, uint64_t oldest, uint64_t newest, bool always)
{
    pthread_mutex_lock(&log->lock);
    uint64_t piece = log->piece;
    log->newest = newest > log->newest ? newest : log->newest;
    for (struct verdict_stream *stream = log->streams; stream; stream = stream->next)
        stream_flush(log, stream, always);
    if (log->piece != piece || always)
        drop_old(log, oldest);
    pthread_mutex_unlock(&log->lock);
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

int verdict_log_open(const struct verdict_log_options *options, struct verdict_log **result)
{
    struct verdict_log *log = calloc(1, sizeof *log);
    *result = log;
    if (!log)
        return ERR_NO_MEMORY;
    log->options = *options;
    log->fd = -1;
    pthread_mutex_init(&log->lock, NULL);
    piece_find(log);
    return 0;
}

void verdict_log_close(struct verdict_log **slot)
{
    struct verdict_log *log = *slot;
    if (!log)
        return;
    assert(!log->streams);
    piece_close(log);
    pthread_mutex_destroy(&log->lock);
    free(log);
    *slot = NULL;
}

int verdict_log_stream(struct verdict_log *log, uint32_t number, struct verdict_stream **result)
{
    struct verdict_stream *stream = calloc(1, sizeof *stream);
    *result = stream;
    if (!stream)
        return ERR_NO_MEMORY;
    stream->number = number;
    pthread_mutex_lock(&log->lock);
    stream->next = log->streams;
    log->streams = stream;
    pthread_mutex_unlock(&log->lock);
    return 0;
}

void verdict_log_leave(struct verdict_log *log, struct verdict_stream **slot)
{
    struct verdict_stream *stream = *slot;
    if (!stream)
        return;
    pthread_mutex_lock(&log->lock);
    stream_flush(log, stream, true);
    struct verdict_stream **link = &log->streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    pthread_mutex_unlock(&log->lock);
    free(stream);
    *slot = NULL;
}

void verdict_log_counters(struct verdict_log *log, struct verdict_log_counters *counters)
{
    pthread_mutex_lock(&log->lock);
    *counters = log->counters;
    pthread_mutex_unlock(&log->lock);
}

void verdict_log_forget(struct verdict_log *log)
{
    pthread_mutex_lock(&log->lock);
    piece_close(log);
    struct pieces pieces = list_pieces(log->options.directory, &log->options.ring);
    for (uint32_t i = 0; i < pieces.count; i++)
        unlinkat(log->options.directory, pieces.piece[i].name, 0);
    free(pieces.piece);
    for (struct verdict_stream *stream = log->streams; stream; stream = stream->next)
        stream->sequence++; /* what they said is gone */
    pthread_mutex_unlock(&log->lock);
}
