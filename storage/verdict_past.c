/*
 * verdict_past.c - see verdict_past.h.
 *
 * All pieces are gone through once, chunk by chunk. A stream's chunks that follow one another without a gap are a *chain*; what is said in a chain holds
 * for packets below its end, the last `upto`. Records that can concern a packet that is wanted are put into one array, which is sorted by
 * stream, conversation, number and order: the last one at or before a packet's number is the one that counts.
 *
 * Where there is no room for all of them they are read once more without what had been said when the first packet that is wanted was not yet taken: a segment
 * that is sealed by who filled it knows that itself.
 */
#include "verdict_past.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"

#define NO_CHAIN UINT32_MAX
#define NUMBER_SHIFT 16

struct scope {
    struct identity run;
    uint32_t stream;
    uint64_t first, end; /* of packets */
    uint64_t seed;
    uint64_t sequence; /* of the next chunk */
    uint32_t chain;    /* the one that goes on; NO_CHAIN: none has begun */
};

struct entry {
    uint64_t hash;
    uint64_t number;
    uint32_t scope;
    uint32_t order;
    uint32_t chain;
    uint16_t truth; /* which words hold, */
    uint16_t known; /* or that it begins anew there: 0 */
};
_Static_assert(sizeof(struct entry) == 32, "two in a cache line");

struct verdict_past {
    struct identity ring;
    verdict_past_truth *truth_of;
    void *context;
    int piece[VERDICT_PAST_PIECES_MAX];
    uint32_t pieces;
    struct scope *scope;
    uint32_t scopes, scope_room;
    uint64_t *chain; /* where it ends: the first packet number for which it does not hold */
    uint32_t chains, chain_room;
    struct entry *entry;
    uint32_t entries, entry_room, entries_max;
    uint64_t bytes_read;
    bool loaded;
    bool full;   /* there was no room: nothing is taken any more */
    bool recent; /* only what was said since the first packet that is wanted */
    uint8_t chunk[VERDICT_CHUNK_BYTES_MAX];
};

int verdict_past_open(const struct identity *ring, verdict_past_truth *truth_of, void *context, uint32_t entries_max, struct verdict_past **result)
{
    struct verdict_past *past = calloc(1, sizeof *past);
    *result = past;
    if (!past)
        return ERR_NO_MEMORY;
    past->ring = *ring;
    past->truth_of = truth_of;
    past->context = context;
    past->entries_max = entries_max ? entries_max : VERDICT_PAST_BYTES_MAX / sizeof *past->entry;
    return 0;
}

void verdict_past_close(struct verdict_past **slot)
{
    struct verdict_past *past = *slot;
    if (!past)
        return;
    for (uint32_t i = 0; i < past->pieces; i++)
        close(past->piece[i]);
    free(past->scope);
    free(past->chain);
    free(past->entry);
    free(past);
    *slot = NULL;
}

void verdict_past_piece(struct verdict_past *past, int fd)
{
    if (past->pieces == VERDICT_PAST_PIECES_MAX) {
        close(fd); /* its chunks are missing, as others can be */
        return;
    }
    past->piece[past->pieces++] = fd;
}

static struct scope *scope_find(const struct verdict_past *past, const struct identity *run, uint32_t stream)
{
    for (uint32_t i = past->scopes; i-- > 0;) /* segments of one stream come together */
        if (past->scope[i].stream == stream && identity_equal(&past->scope[i].run, run))
            return &past->scope[i];
    return NULL;
}

/* Room for one more element of an array that begins with `least`. */
static bool grow(void **array, uint32_t *room, uint32_t count, uint32_t least, size_t bytes)
{
    if (count < *room)
        return true;
    uint32_t more = *room > 0 ? 2 * *room : least;
    void *grown = realloc(*array, more * bytes);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

int verdict_past_want(struct verdict_past *past, const struct identity *run, uint32_t stream, uint64_t first, uint64_t end)
{
    if (past->loaded || first >= end)
        return 0;
    struct scope *scope = scope_find(past, run, stream);
    if (!scope) {
        if (!grow((void **)&past->scope, &past->scope_room, past->scopes, 16, sizeof *past->scope))
            return ERR_NO_MEMORY;
        scope = &past->scope[past->scopes++];
        *scope = (struct scope){.run = *run, .stream = stream, .first = first, .end = end};
    }
    scope->first = first < scope->first ? first : scope->first;
    scope->end = end > scope->end ? end : scope->end;
    return 0;
}

uint64_t verdict_past_bytes_read(const struct verdict_past *past)
{
    return past->bytes_read;
}

/* ---- reading ---------------------------------------------------------------------------------------- */

/* Names of the chunk as what they mean for the filter. False: they are none. */
static bool names_read(struct verdict_past *past, const struct verdict_chunk_head *head, uint16_t truth[VERDICT_CHUNK_NAMES_MAX])
{
    const char *at = (const char *)past->chunk, *end = at + le32_get(head->names_bytes);
    for (uint32_t i = 0; i < le32_get(head->names); i++) {
        const char *zero = at < end ? memchr(at, '\0', (size_t)(end - at)) : NULL;
        if (!zero || zero - at >= VERDICT_TEXT_BYTES)
            return false;
        truth[i] = (uint16_t)past->truth_of(past->context, at);
        at = zero + 1;
    }
    return true;
}

static void record_take(struct verdict_past *past, const struct scope *scope, const struct verdict_chunk_head *head,
                        const struct verdict_record *record, const uint16_t truth[VERDICT_CHUNK_NAMES_MAX])
{
    uint64_t number = le64_get(record->number_name) >> NUMBER_SHIFT;
    uint32_t name = (uint32_t)(le64_get(record->number_name) & ((1u << NUMBER_SHIFT) - 1));
    if (number >= scope->end || past->full)
        return;
    if (name > le32_get(head->names))
        name = 0; /* no name of it: nothing is known */
    if (past->entries == past->entries_max ||
        !grow((void **)&past->entry, &past->entry_room, past->entries, 1024, sizeof *past->entry)) {
        past->full = true;
        return;
    }
    past->entry[past->entries] = (struct entry){
        .hash = le64_get(record->hash),
        .number = number,
        .scope = (uint32_t)(scope - past->scope),
        .order = past->entries,
        .chain = scope->chain,
        .truth = name > 0 ? truth[name - 1] : 0,
        .known = name > 0,
    };
    past->entries++;
}

/* The chunk goes on with a chain, or begins one. False: no memory. */
static bool chain_go_on(struct verdict_past *past, struct scope *scope, const struct verdict_chunk_head *head)
{
    uint64_t sequence = le64_get(head->sequence);
    bool follows = scope->chain != NO_CHAIN && sequence == scope->sequence && le64_get(head->seed) == scope->seed;
    scope->sequence = sequence + 1;
    scope->seed = le64_get(head->seed);
    if (follows)
        return true;
    if (!grow((void **)&past->chain, &past->chain_room, past->chains, 16, sizeof *past->chain))
        return false;
    scope->chain = past->chains++;
    past->chain[scope->chain] = 0;
    return true;
}

static void chunk_take(struct verdict_past *past, int fd, uint64_t at, const struct verdict_chunk_head *head)
{
    struct scope *scope = scope_find(past, &head->run, le32_get(head->stream));
    uint64_t upto = le64_get(head->upto);
    uint32_t bytes = le32_get(head->bytes) - (uint32_t)sizeof *head, records = le32_get(head->records);
    uint16_t truth[VERDICT_CHUNK_NAMES_MAX];
    if (!scope || past->full)
        return;
    bool read = records > 0 && le64_get(head->first) < scope->end && !(past->recent && upto <= scope->first);
    if (read) {
        if (pread(fd, past->chunk, bytes, (off_t)at) != (ssize_t)bytes || checksum_crc32c(past->chunk, bytes) != le32_get(head->body_crc) ||
            !names_read(past, head, truth))
            return; /* its number is missing then */
        past->bytes_read += bytes;
    }
    if (!chain_go_on(past, scope, head)) {
        past->full = true;
        return;
    }
    const uint8_t *record = past->chunk + le32_get(head->names_bytes);
    for (uint32_t i = 0; read && i < records; i++) {
        struct verdict_record one;
        memcpy(&one, record + i * sizeof one, sizeof one);
        record_take(past, scope, head, &one, truth);
    }
    if (!past->full && upto > past->chain[scope->chain])
        past->chain[scope->chain] = upto;
}

static void piece_read(struct verdict_past *past, int fd)
{
    struct stat status;
    struct verdict_chunk_head head;
    if (fstat(fd, &status) != 0 || status.st_size < 0)
        return;
    uint64_t at = 0, size = (uint64_t)status.st_size;
    while (size - at >= sizeof head && pread(fd, &head, sizeof head, (off_t)at) == (ssize_t)sizeof head &&
           verdict_chunk_fits(&head, &past->ring, size - at)) {
        past->bytes_read += sizeof head;
        chunk_take(past, fd, at + sizeof head, &head);
        at += le32_get(head.bytes);
    }
}

static int order_entries(const void *a, const void *b)
{
    const struct entry *one = a, *two = b;
    if (one->scope != two->scope)
        return one->scope < two->scope ? -1 : 1;
    if (one->hash != two->hash)
        return one->hash < two->hash ? -1 : 1;
    if (one->number != two->number)
        return one->number < two->number ? -1 : 1;
    return one->order < two->order ? -1 : one->order > two->order;
}

static void pieces_read(struct verdict_past *past)
{
    past->entries = past->chains = 0;
    past->full = false;
    for (uint32_t i = 0; i < past->scopes; i++)
        past->scope[i].chain = NO_CHAIN;
    for (uint32_t i = 0; i < past->pieces; i++)
        piece_read(past, past->piece[i]);
}

static void load(struct verdict_past *past)
{
    past->loaded = true;
    pieces_read(past);
    past->recent = past->full;
    if (past->recent)
        pieces_read(past);
    if (past->entries > 1)
        qsort(past->entry, past->entries, sizeof *past->entry, order_entries);
}

/* ---- asking ----------------------------------------------------------------------------------------- */

bool verdict_past_ask(struct verdict_past *past, const struct identity *run, uint32_t stream, uint64_t number, const struct flow_keys *keys,
                      uint32_t *truth)
{
    *truth = 0;
    if (!past->loaded)
        load(past);
    const struct scope *scope = scope_find(past, run, stream);
    uint64_t hash;
    if (!scope || number < scope->first || number >= scope->end || scope->chain == NO_CHAIN || !verdicts_hash(keys, scope->seed, &hash))
        return false;
    struct entry wanted = {.hash = hash, .number = number, .scope = (uint32_t)(scope - past->scope), .order = UINT32_MAX};
    uint32_t low = 0, high = past->entries; /* the first one behind it */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (order_entries(&past->entry[middle], &wanted) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    const struct entry *entry = &past->entry[low - 1];
    if (entry->scope != wanted.scope || entry->hash != hash || !entry->known || number >= past->chain[entry->chain])
        return false;
    *truth = entry->truth;
    return true;
}
