/*
 * disk_simulated.c - disks in memory, on virtual time, with power cuts and faults, all from one
 * seed.
 *
 * The happy path: submit checks the request, lets the armed faults strike, asks the media when the
 * transfer would be over and puts a `flight` into the simulation's heap. simulation_step() takes
 * the flight that lands first, moves the clock to it, moves the bytes and calls done(). Nothing
 * else moves anything, so the order of everything follows from the seed.
 *
 * What is on the media: a write reaches `map` when it completes, and what it replaced goes into the
 * media's log, in the order of completion. A flush that completes marks as durable every entry that
 * was there when it was submitted, and durable entries leave from the log's old end. A power cut
 * undoes the whole log backwards (entry and media swap bytes, so that the log then holds the new
 * bytes) and replays what the seed keeps, forwards: so a later write over an earlier one stays the
 * later one, whatever becomes of the earlier one. A flush that fails leaves some entries that no
 * later flush saves, as a disk's cache does that gave up on a sector.
 *
 *   flight      kept in                moved on by
 *   under way   heap, disk's list      simulation_step -> completed; a fault -> hung at submission
 *   hung        disk's list            simulated_media_unhang -> under way; a kill -> orphan
 *   orphan      media's list           simulated_media_unhang -> landed; power cut -> settled
 *   dead        dead disk's list       disk_wait, disk_close -> ERR_CLOSED; simulated_disk_forget
 *
 * What makes ten thousand runs cheap: a media knows which pages were ever written, the others are
 * zeros without being looked at or kept in the log; and mappings and log buffers of a finished run
 * are kept for the next one, cleaned page by page, because fresh memory costs more than anything
 * else here.
 *
 * What closing does: it steps the simulation until nothing of this disk is under way.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "buffer_poison.h"
#include "checksum.h"
#include "simulation.h"

#define SECTOR_BYTES 512u           /* what a device writes at once or not at all */
#define JITTER_NS_MIN 20000u        /* of completion times, where the latency is smaller */
#define SPARE_CLASSES 16u           /* log buffers of 4 KiB times a power of two */
#define SPARE_BYTES_MAX (64u << 20) /* of log buffers kept, and written in a mapping that is kept \
                                     */
#define SPARE_MAPS 8u
#define FAULT_KINDS (FAULT_VANISHED + 1)
#define FAULT_BIT(kind) (1u << (kind))

enum flight_state { /* in body[3] of a request */
                    FLIGHT_SUBMITTED = 1,
                    FLIGHT_DONE = 2,
};

struct flight {
    struct disk_request *request;   /* null: an orphan */
    struct simulated_disk *disk;    /* null: an orphan */
    struct flight *previous, *next; /* of the disk's or the orphans' list */
    uint64_t submitted_ns;
    uint64_t completes_ns;
    uint64_t sequence;     /* of submission: breaks ties of time */
    uint64_t salt;         /* decides which sectors of a write in flight a reader sees */
    uint64_t offset;       /* on the media, where the bytes really go or come from */
    uint64_t mark;         /* flush: completed writes when it was submitted */
    const uint8_t *source; /* write: the request's buffer, or the orphan's copy */
    uint32_t bytes;
    uint32_t crc;    /* write: of the buffer at submission */
    uint32_t faults; /* FAULT_BIT of each that struck */
    int refused;     /* disk_check's answer */
    enum disk_op op;
    bool hung;
    bool queued; /* in the heap */
};

struct log_entry {
    uint64_t offset;
    uint64_t number; /* of completion on this media, from 1 */
    uint32_t bytes;
    bool durable;
    bool given_up;    /* by a failed flush: no later one saves it */
    uint8_t *content; /* what was there before; null: zeros */
};

struct armed_fault {
    struct armed_fault *next;
    enum fault_kind kind;
    enum disk_op op;
    uint32_t after;
    uint32_t one_in; /* 0: strikes once */
    uint64_t delay_ns;
};

struct simulated_media {
    struct simulation *simulation;
    struct simulated_media *next;
    uint8_t *map;
    uint64_t bytes;
    uint64_t map_bytes;
    uint64_t *written; /* a bit for each page */
    uint64_t written_pages;
    uint64_t bandwidth;
    uint64_t latency_ns;
    uint64_t free_at_ns; /* when the transfers so far are over */
    struct simulated_disk *disks;
    struct simulated_disk *exclusive;
    struct flight *orphans;
    struct log_entry **log; /* entries log_begin to log_end, oldest first */
    size_t log_begin, log_end, log_room;
    uint64_t completed_writes;
    struct armed_fault *faults;
    bool vanished;
    uint64_t struck[FAULT_KINDS];
};

struct simulated_disk {
    struct disk head; /* first: the seam's pointer is ours */
    struct simulated_media *media;
    struct simulated_disk *next;
    struct flight *flights;
    uint8_t *area; /* registered buffers */
    uint64_t area_buffer_bytes;
    uint32_t area_buffers;
    bool dead;
};

struct simulation {
    uint64_t random;
    uint64_t now_ns;
    uint64_t sequence;
    uint64_t events;
    uint64_t cut_at; /* event number, 0 = none armed */
    enum simulation_cut cut_kind;
    bool cut_happened;
    bool in_done;
    struct simulated_media *media;
    struct flight **heap;
    size_t heap_count, heap_room;
};

/* ---- small helpers -----------------------------------------------------------------------------
 */

static void stop_if(bool condition, const char *sentence)
{
    if (condition) {
        fprintf(stderr, "simulation: %s\n", sentence);
        abort();
    }
}

static void *must(void *memory)
{
    stop_if(memory == NULL, "out of memory");
    return memory;
}

static uint64_t mix(uint64_t value) /* SplitMix64's finaliser (Steele, Lea, Flood 2014) */
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static uint64_t random_bits(struct simulation *simulation)
{
    simulation->random += UINT64_C(0x9e3779b97f4a7c15);
    return mix(simulation->random);
}

uint64_t simulation_random(struct simulation *simulation, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_bits(simulation) * bound) >> 64);
}

uint64_t simulation_now_ns(const struct simulation *simulation)
{
    return simulation->now_ns;
}

uint64_t simulation_events(const struct simulation *simulation)
{
    return simulation->events;
}

void simulation_advance(struct simulation *simulation, uint64_t ns)
{
    simulation->now_ns += ns;
}

static struct simulated_disk *simulated(struct disk *disk)
{
    return (struct simulated_disk *)disk;
}

/* ---- memory that outlives a run ----------------------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    void *buffers[SPARE_CLASSES]; /* each begins with a pointer to the next */
    uint64_t buffer_bytes;
    struct {
        uint8_t *map; /* all zeros */
        uint64_t bytes;
    } maps[SPARE_MAPS];
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned buffer_class(uint32_t bytes)
{
    unsigned class = 0;
    while (((uint64_t)PAGE_BYTES << class) < bytes)
        class ++;
    return class;
}

static uint8_t *buffer_take(uint32_t bytes)
{
    unsigned class = buffer_class(bytes);
    void *buffer = NULL;
    pthread_mutex_lock(&spare.lock);
    if (class < SPARE_CLASSES && spare.buffers[class] != NULL) {
        buffer = spare.buffers[class];
        memcpy(&spare.buffers[class], buffer, sizeof(void *));
        spare.buffer_bytes -= (uint64_t)PAGE_BYTES << class;
    }
    pthread_mutex_unlock(&spare.lock);
    return buffer != NULL ? buffer : must(malloc((size_t)PAGE_BYTES << class));
}

static void buffer_give(uint8_t *buffer, uint32_t bytes)
{
    unsigned class = buffer_class(bytes);
    uint64_t size = (uint64_t)PAGE_BYTES << class;
    pthread_mutex_lock(&spare.lock);
    bool keep = class < SPARE_CLASSES && spare.buffer_bytes + size <= SPARE_BYTES_MAX;
    if (keep) {
        memcpy(buffer, &spare.buffers[class], sizeof(void *));
        spare.buffers[class] = buffer;
        spare.buffer_bytes += size;
    }
    pthread_mutex_unlock(&spare.lock);
    if (!keep)
        free(buffer);
}

static uint8_t *map_take(uint64_t bytes)
{
    uint8_t *map = NULL;
    pthread_mutex_lock(&spare.lock);
    for (unsigned i = 0; i < SPARE_MAPS && map == NULL; i++) {
        if (spare.maps[i].map != NULL && spare.maps[i].bytes == bytes) {
            map = spare.maps[i].map;
            spare.maps[i].map = NULL;
        }
    }
    pthread_mutex_unlock(&spare.lock);
    if (map != NULL)
        return map;
    /* Reserved, not taken: a terabyte costs what is touched of it. */
    map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
               0);
    stop_if(map == MAP_FAILED, "no address space for the media");
    madvise(map, bytes, MADV_NOHUGEPAGE);
    return map;
}

/* `map` is zeros again. */
static void map_give(uint8_t *map, uint64_t bytes)
{
    pthread_mutex_lock(&spare.lock);
    for (unsigned i = 0; i < SPARE_MAPS && map != NULL; i++) {
        if (spare.maps[i].map == NULL) {
            spare.maps[i].map = map;
            spare.maps[i].bytes = bytes;
            map = NULL;
        }
    }
    pthread_mutex_unlock(&spare.lock);
    if (map != NULL)
        munmap(map, bytes);
}

/* ---- which pages were written ---------------------------------------------------------------- */

static bool is_untouched(const struct simulated_media *media, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / PAGE_BYTES; page * PAGE_BYTES < offset + bytes; page++) {
        if (media->written[page / 64] >> (page % 64) & 1)
            return false;
    }
    return true;
}

static void touch(struct simulated_media *media, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / PAGE_BYTES; page * PAGE_BYTES < offset + bytes; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);
        media->written_pages += (media->written[page / 64] & bit) == 0;
        media->written[page / 64] |= bit;
    }
}

static void media_copy(const struct simulated_media *media, uint64_t offset, uint8_t *to,
                       uint64_t bytes)
{
    if (is_untouched(media, offset, bytes))
        memset(to, 0, bytes);
    else
        memcpy(to, media->map + offset, bytes);
}

static bool is_zeros(const uint8_t *bytes, uint32_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* ---- the heap of flights, by time and then by submission ------------------------------------- */

static bool flight_before(const struct flight *a, const struct flight *b)
{
    if (a->completes_ns != b->completes_ns)
        return a->completes_ns < b->completes_ns;
    return a->sequence < b->sequence;
}

static void heap_push(struct simulation *simulation, struct flight *flight)
{
    if (simulation->heap_count == simulation->heap_room) {
        simulation->heap_room = simulation->heap_room ? 2 * simulation->heap_room : 64;
        simulation->heap =
            must(realloc(simulation->heap, simulation->heap_room * sizeof(struct flight *)));
    }
    size_t at = simulation->heap_count++;
    while (at > 0 && flight_before(flight, simulation->heap[(at - 1) / 2])) {
        simulation->heap[at] = simulation->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    simulation->heap[at] = flight;
    flight->queued = true;
}

static struct flight *heap_pop(struct simulation *simulation)
{
    if (simulation->heap_count == 0)
        return NULL;
    struct flight *first = simulation->heap[0];
    struct flight *last = simulation->heap[--simulation->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= simulation->heap_count)
            break;
        if (child + 1 < simulation->heap_count &&
            flight_before(simulation->heap[child + 1], simulation->heap[child]))
            child++;
        if (!flight_before(simulation->heap[child], last))
            break;
        simulation->heap[at] = simulation->heap[child];
        at = child;
    }
    simulation->heap[at] = last;
    first->queued = false;
    return first;
}

/* ---- lists of flights ------------------------------------------------------------------------ */

static void list_add(struct flight **list, struct flight *flight)
{
    flight->previous = NULL;
    flight->next = *list;
    if (*list != NULL)
        (*list)->previous = flight;
    *list = flight;
}

static void list_remove(struct flight **list, struct flight *flight)
{
    if (flight->previous != NULL)
        flight->previous->next = flight->next;
    else
        *list = flight->next;
    if (flight->next != NULL)
        flight->next->previous = flight->previous;
}

/* ---- the media: writes, the log, what a cut leaves ------------------------------------------- */

/* Does this write change the media at all when it lands? */
static bool flight_lands(const struct flight *flight)
{
    return flight->op == DISK_WRITE && flight->refused == 0 &&
           (flight->faults &
            (FAULT_BIT(FAULT_EIO) | FAULT_BIT(FAULT_LOST) | FAULT_BIT(FAULT_VANISHED))) == 0;
}

static struct log_entry *log_append(struct simulated_media *media, uint64_t offset, uint32_t bytes)
{
    if (media->log_end == media->log_room) {
        size_t count = media->log_end - media->log_begin;
        if (media->log_begin > media->log_room / 2) {
            memmove(media->log, media->log + media->log_begin, count * sizeof *media->log);
        } else {
            media->log_room = media->log_room ? 2 * media->log_room : 64;
            media->log = must(realloc(media->log, media->log_room * sizeof *media->log));
            memmove(media->log, media->log + media->log_begin, count * sizeof *media->log);
        }
        media->log_begin = 0;
        media->log_end = count;
    }
    struct log_entry *entry = must(malloc(sizeof *entry));
    *entry =
        (struct log_entry){.offset = offset, .number = ++media->completed_writes, .bytes = bytes};
    if (!is_untouched(media, offset, bytes)) {
        entry->content = buffer_take(bytes);
        memcpy(entry->content, media->map + offset, bytes);
    }
    media->log[media->log_end++] = entry;
    return entry;
}

static void log_entry_free(struct log_entry *entry)
{
    if (entry->content != NULL)
        buffer_give(entry->content, entry->bytes);
    free(entry);
}

static void log_clear(struct simulated_media *media)
{
    for (size_t i = media->log_begin; i < media->log_end; i++)
        log_entry_free(media->log[i]);
    media->log_begin = media->log_end = 0;
}

/* What of a torn transfer is there: the beginning, the end, or each sector by itself. */
struct tear {
    uint64_t salt;
    uint32_t sectors; /* those at the beginning (kind 0) or before the end (kind 1) */
    uint32_t kind;
    uint32_t all;
};

static struct tear tear_make(struct simulation *simulation, uint32_t bytes)
{
    struct tear tear = {.salt = random_bits(simulation), .all = bytes / SECTOR_BYTES};
    tear.kind = (uint32_t)simulation_random(simulation, 3);
    tear.sectors = 1 + (uint32_t)simulation_random(simulation, tear.all - 1);
    return tear;
}

static bool tear_keeps(const struct tear *tear, uint32_t sector)
{
    if (tear->kind == 0)
        return sector < tear->sectors;
    if (tear->kind == 1)
        return sector >= tear->all - tear->sectors;
    /* At least one is missing, or it would not be torn. */
    return sector != tear->sectors && (mix(tear->salt + sector) & 1) != 0;
}

static void copy_torn(const struct tear *tear, uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    for (uint32_t sector = 0; sector < bytes / SECTOR_BYTES; sector++) {
        if (tear_keeps(tear, sector))
            memcpy(to + (size_t)sector * SECTOR_BYTES, from + (size_t)sector * SECTOR_BYTES,
                   SECTOR_BYTES);
    }
}

static void flip_one_bit(struct simulation *simulation, uint8_t *bytes, uint32_t count)
{
    uint64_t bit = simulation_random(simulation, (uint64_t)count * 8);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

static void write_land(struct simulated_media *media, const struct flight *flight)
{
    if (!flight_lands(flight))
        return;
    stop_if(checksum_crc32c(flight->source, flight->bytes) != flight->crc,
            "a buffer was changed while a write of it was under way");
    if (is_untouched(media, flight->offset, flight->bytes) &&
        is_zeros(flight->source, flight->bytes) && !(flight->faults & FAULT_BIT(FAULT_FLIPPED))) {
        media->completed_writes++;
        return;
    }
    log_append(media, flight->offset, flight->bytes);
    touch(media, flight->offset, flight->bytes);
    uint8_t *to = media->map + flight->offset;
    if (flight->faults & FAULT_BIT(FAULT_TORN)) {
        struct tear tear = tear_make(media->simulation, flight->bytes);
        copy_torn(&tear, to, flight->source, flight->bytes);
    } else {
        memcpy(to, flight->source, flight->bytes);
    }
    if (flight->faults & FAULT_BIT(FAULT_FLIPPED))
        flip_one_bit(media->simulation, to, flight->bytes);
}

static void swap_bytes(uint8_t *a, uint8_t *b, uint32_t bytes)
{
    uint8_t sector[SECTOR_BYTES];
    for (uint32_t at = 0; at < bytes; at += SECTOR_BYTES) {
        memcpy(sector, a + at, SECTOR_BYTES);
        memcpy(a + at, b + at, SECTOR_BYTES);
        memcpy(b + at, sector, SECTOR_BYTES);
    }
}

/* The device's cache is gone: the seed decides what of it had reached the media. */
static void log_settle(struct simulated_media *media)
{
    struct simulation *simulation = media->simulation;
    uint64_t mood =
        simulation_random(simulation, 8); /* 0: everything stays, 1: nothing, else by entry */
    for (size_t i = media->log_end; i > media->log_begin; i--) {
        struct log_entry *entry = media->log[i - 1];
        uint8_t *at = media->map + entry->offset;
        if (entry->content != NULL) {
            swap_bytes(at, entry->content, entry->bytes);
        } else {
            entry->content = buffer_take(entry->bytes);
            memcpy(entry->content, at, entry->bytes);
            memset(at, 0, entry->bytes);
        }
    }
    for (size_t i = media->log_begin; i < media->log_end; i++) {
        struct log_entry *entry = media->log[i];
        uint64_t fate = mood < 2 ? mood : simulation_random(simulation, 3);
        if (entry->durable)
            fate = 0;
        else if (entry->given_up)
            fate = 1;
        if (fate == 0) {
            memcpy(media->map + entry->offset, entry->content, entry->bytes);
        } else if (fate == 2) {
            struct tear tear = tear_make(simulation, entry->bytes);
            copy_torn(&tear, media->map + entry->offset, entry->content, entry->bytes);
        }
    }
    log_clear(media);
}

static void flush_land(struct simulated_media *media, const struct flight *flight)
{
    struct simulation *simulation = media->simulation;
    if (flight->faults & FAULT_BIT(FAULT_LOST))
        return;
    bool failed = (flight->faults & FAULT_BIT(FAULT_EIO)) != 0;
    for (size_t i = media->log_begin; i < media->log_end && media->log[i]->number <= flight->mark;
         i++) {
        struct log_entry *entry = media->log[i];
        if (!failed)
            entry->durable = !entry->given_up;
        else if (!entry->durable)
            entry->given_up = entry->given_up || simulation_random(simulation, 2) != 0;
    }
    while (media->log_begin < media->log_end && media->log[media->log_begin]->durable)
        log_entry_free(media->log[media->log_begin++]);
    if (media->log_begin == media->log_end)
        media->log_begin = media->log_end = 0;
}

/* Of a write under way, a reader sees a sector once its share of the time has passed: never new
 * first and old later. */
static bool sector_seen(const struct flight *flight, uint64_t now_ns, uint32_t sector)
{
    uint64_t turn = mix(flight->salt ^ sector) >> 44; /* 20 bits */
    uint64_t span = flight->completes_ns - flight->submitted_ns;
    uint64_t passed = now_ns > flight->submitted_ns ? now_ns - flight->submitted_ns : 0;
    if (flight->hung) {
        span = 8;
        passed = flight->salt % 8;
    }
    if (passed >= span)
        return true;
    return turn < (uint64_t)(((unsigned __int128)passed << 20) / span);
}

static void overlay(const struct flight *flight, uint64_t now_ns, uint64_t offset, uint8_t *buffer,
                    uint32_t bytes)
{
    if (!flight_lands(flight) || flight->offset >= offset + bytes ||
        offset >= flight->offset + flight->bytes)
        return;
    for (uint32_t sector = 0; sector < flight->bytes / SECTOR_BYTES; sector++) {
        uint64_t at = flight->offset + (uint64_t)sector * SECTOR_BYTES;
        if (at >= offset && at < offset + bytes && sector_seen(flight, now_ns, sector))
            memcpy(buffer + (at - offset), flight->source + (size_t)sector * SECTOR_BYTES,
                   SECTOR_BYTES);
    }
}

static void read_land(struct simulated_media *media, struct flight *flight)
{
    uint8_t *buffer = flight->request->buffer;
    uint32_t bytes = flight->bytes;
    if (flight->faults &
        (FAULT_BIT(FAULT_EIO) | FAULT_BIT(FAULT_LOST) | FAULT_BIT(FAULT_EIO_LANDED)))
        return;
    uint8_t *whole = buffer;
    if (flight->faults & FAULT_BIT(FAULT_TORN))
        whole = must(malloc(bytes));
    media_copy(media, flight->offset, whole, bytes);
    uint64_t now_ns = media->simulation->now_ns;
    for (struct simulated_disk *disk = media->disks; disk != NULL; disk = disk->next) {
        for (struct flight *other = disk->dead ? NULL : disk->flights; other != NULL;
             other = other->next)
            overlay(other, now_ns, flight->offset, whole, bytes);
    }
    for (struct flight *other = media->orphans; other != NULL; other = other->next)
        overlay(other, now_ns, flight->offset, whole, bytes);
    if (whole != buffer) {
        struct tear tear = tear_make(media->simulation, bytes);
        copy_torn(&tear, buffer, whole, bytes);
        free(whole);
    }
    if (flight->faults & FAULT_BIT(FAULT_FLIPPED))
        flip_one_bit(media->simulation, buffer, bytes);
}

/* ---- the end of the world -------------------------------------------------------------------- */

static int by_landing(const void *a, const void *b)
{
    return flight_before(*(struct flight *const *)a, *(struct flight *const *)b) ? -1 : 1;
}

/* All flights of one media that still may land, in the order in which they would have. The caller
 * frees. */
static struct flight **media_flights(struct simulated_media *media, size_t *count)
{
    size_t room = 0;
    for (struct simulated_disk *disk = media->disks; disk != NULL; disk = disk->next) {
        for (struct flight *flight = disk->flights; flight != NULL; flight = flight->next)
            room += !disk->dead;
    }
    for (struct flight *flight = media->orphans; flight != NULL; flight = flight->next)
        room++;
    struct flight **flights = must(malloc((room + 1) * sizeof *flights));
    size_t n = 0;
    for (struct simulated_disk *disk = media->disks; disk != NULL; disk = disk->next) {
        for (struct flight *flight = disk->dead ? NULL : disk->flights; flight != NULL;
             flight = flight->next)
            flights[n++] = flight;
    }
    for (struct flight *flight = media->orphans; flight != NULL; flight = flight->next)
        flights[n++] = flight;
    qsort(flights, n, sizeof *flights, by_landing);
    *count = n;
    return flights;
}

static void orphan_free(struct flight *orphan)
{
    free((uint8_t *)(uintptr_t)orphan->source);
    free(orphan);
}

static void orphan_make(struct simulated_media *media, const struct flight *flight)
{
    struct flight *orphan = must(malloc(sizeof *orphan));
    *orphan = *flight;
    orphan->request = NULL;
    orphan->disk = NULL;
    uint8_t *copy = must(malloc(flight->bytes));
    memcpy(copy, flight->source, flight->bytes);
    orphan->source = copy;
    list_add(&media->orphans, orphan);
}

static void media_power_cut(struct simulated_media *media)
{
    size_t count;
    struct flight **flights = media_flights(media, &count);
    for (size_t i = 0; i < count; i++)
        write_land(media, flights[i]); /* into the log; log_settle decides what comes of it */
    free(flights);
    while (media->orphans != NULL) {
        struct flight *orphan = media->orphans;
        list_remove(&media->orphans, orphan);
        orphan_free(orphan);
    }
    log_settle(media);
}

/* Its power may have gone with it, or only its cable: then what is under way has landed or not. */
static void media_vanish(struct simulated_media *media)
{
    struct simulation *simulation = media->simulation;
    bool power = simulation_random(simulation, 2) == 0;
    if (power)
        media_power_cut(media);
    size_t count;
    struct flight **flights = media_flights(media, &count);
    for (size_t i = 0; i < count; i++) {
        if (flights[i]->request == NULL)
            continue;
        if (!power && simulation_random(simulation, 2) == 0)
            write_land(media, flights[i]);
        flights[i]->faults |=
            FAULT_BIT(FAULT_VANISHED); /* fails even if the disk is back by then */
    }
    free(flights);
    media->vanished = true;
}

static void media_kill(struct simulated_media *media)
{
    size_t count;
    struct flight **flights = media_flights(media, &count);
    for (size_t i = 0; i < count; i++) {
        if (flights[i]->request == NULL)
            continue; /* an orphan of an earlier kill goes on hanging */
        if (!flights[i]->hung)
            write_land(media, flights[i]);
        else if (flight_lands(flights[i]))
            orphan_make(media, flights[i]);
    }
    free(flights);
}

static void everybody_dies(struct simulation *simulation)
{
    for (size_t i = 0; i < simulation->heap_count; i++)
        simulation->heap[i]->queued = false;
    simulation->heap_count = 0;
    for (struct simulated_media *media = simulation->media; media != NULL; media = media->next) {
        media->exclusive = NULL;
        for (struct simulated_disk *disk = media->disks; disk != NULL; disk = disk->next)
            disk->dead = true;
    }
}

void simulation_power_cut(struct simulation *simulation)
{
    for (struct simulated_media *media = simulation->media; media != NULL; media = media->next)
        media_power_cut(media);
    everybody_dies(simulation);
}

void simulation_process_kill(struct simulation *simulation)
{
    for (struct simulated_media *media = simulation->media; media != NULL; media = media->next)
        media_kill(media);
    everybody_dies(simulation);
}

void simulation_cut_after(struct simulation *simulation, uint64_t events, enum simulation_cut kind)
{
    simulation->cut_at = events == 0 ? 0 : simulation->events + events;
    simulation->cut_kind = kind;
    simulation->cut_happened = false;
}

bool simulation_cut_happened(const struct simulation *simulation)
{
    return simulation->cut_happened;
}

static void event_count(struct simulation *simulation)
{
    simulation->events++;
    if (simulation->cut_at == 0 || simulation->events < simulation->cut_at)
        return;
    simulation->cut_at = 0;
    simulation->cut_happened = true;
    if (simulation->cut_kind == SIMULATION_CUT_POWER)
        simulation_power_cut(simulation);
    else
        simulation_process_kill(simulation);
}

/* ---- completion ------------------------------------------------------------------------------ */

static int flight_land(struct simulated_media *media, struct flight *flight)
{
    if (flight->refused != 0)
        return flight->refused;
    if (media->vanished || (flight->faults & FAULT_BIT(FAULT_VANISHED)))
        return ERR_IO;
    switch (flight->op) {
    case DISK_READ:
        read_land(media, flight);
        break;
    case DISK_WRITE:
        write_land(media, flight);
        break;
    case DISK_FLUSH:
        flush_land(media, flight);
        break;
    }
    return flight->faults & (FAULT_BIT(FAULT_EIO) | FAULT_BIT(FAULT_EIO_LANDED)) ? ERR_IO : 0;
}

/* Takes the flight out of its disk and gives the request back. The flight is gone afterwards. */
static void flight_end(struct simulation *simulation, struct flight *flight, int result)
{
    struct disk_request *request = flight->request;
    list_remove(&flight->disk->flights, flight);
    free(flight);
    request->result = result;
    request->body[3] = FLIGHT_DONE;
    bool nested = simulation->in_done;
    simulation->in_done = true;
    request->done(request);
    simulation->in_done = nested;
}

static void read_buffer_unpoison(const struct flight *flight)
{
    if (flight->op == DISK_READ && flight->refused == 0)
        buffer_unpoison(flight->request->buffer, flight->bytes);
}

uint64_t simulation_next_ns(const struct simulation *simulation)
{
    return simulation->heap_count > 0 ? simulation->heap[0]->completes_ns : UINT64_MAX;
}

bool simulation_step(struct simulation *simulation)
{
    stop_if(simulation->in_done, "simulation_step() or disk_wait() inside done()");
    struct flight *flight = heap_pop(simulation);
    if (flight == NULL)
        return false;
    if (flight->completes_ns > simulation->now_ns)
        simulation->now_ns = flight->completes_ns;
    read_buffer_unpoison(flight);
    int result = flight_land(flight->disk->media, flight);
    flight_end(simulation, flight, result);
    event_count(simulation);
    return true;
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void fault_arm(struct simulated_media *media, const struct armed_fault *wanted)
{
    struct armed_fault *fault = must(malloc(sizeof *fault));
    *fault = *wanted;
    struct armed_fault **end = &media->faults;
    while (*end != NULL)
        end = &(*end)->next;
    *end = fault;
}

static void faults_disarm(struct simulated_media *media)
{
    while (media->faults != NULL) {
        struct armed_fault *fault = media->faults;
        media->faults = fault->next;
        free(fault);
    }
}

void simulated_media_fault(struct simulated_media *media, enum fault_kind kind, enum disk_op op,
                           uint32_t after, uint64_t delay_ns)
{
    fault_arm(media, &(struct armed_fault){
                         .kind = kind, .op = op, .after = after, .delay_ns = delay_ns});
}

void simulated_media_fault_often(struct simulated_media *media, enum fault_kind kind,
                                 enum disk_op op, uint32_t one_in, uint64_t delay_ns)
{
    stop_if(one_in == 0, "a fault with a probability of 1/0");
    fault_arm(media, &(struct armed_fault){
                         .kind = kind, .op = op, .one_in = one_in, .delay_ns = delay_ns});
}

uint64_t simulated_media_struck(const struct simulated_media *media, enum fault_kind kind)
{
    return media->struck[kind];
}

static bool fault_fits(const struct armed_fault *fault, const struct flight *flight)
{
    if (fault->op != 0)
        return fault->op == flight->op;
    if (flight->op != DISK_FLUSH)
        return true;
    /* These mean something only where bytes move. */
    return fault->kind != FAULT_TORN && fault->kind != FAULT_MISDIRECTED &&
           fault->kind != FAULT_FLIPPED;
}

static uint64_t another_place(struct simulated_media *media, const struct flight *flight)
{
    uint64_t places = (media->bytes - flight->bytes) / PAGE_BYTES + 1;
    uint64_t here = flight->offset / PAGE_BYTES;
    if (places < 2)
        return flight->offset;
    uint64_t place;
    do {
        /* Near as often as far: a wrong neighbour is the commoner mistake. */
        if (simulation_random(media->simulation, 2) == 0) {
            place = simulation_random(media->simulation, places);
        } else {
            uint64_t reach = 64 < places ? 64 : places;
            uint64_t low = here > reach / 2 ? here - reach / 2 : 0;
            if (low + reach > places)
                low = places - reach;
            place = low + simulation_random(media->simulation, reach);
        }
    } while (place == here);
    return place * PAGE_BYTES;
}

static void fault_strike(struct simulated_media *media, const struct armed_fault *fault,
                         struct flight *flight)
{
    media->struck[fault->kind]++;
    if (fault->kind != FAULT_VANISHED)
        flight->faults |= FAULT_BIT(fault->kind);
    switch (fault->kind) {
    case FAULT_MISDIRECTED:
        if (flight->op != DISK_FLUSH)
            flight->offset = another_place(media, flight);
        break;
    case FAULT_DELAYED:
        flight->completes_ns += fault->delay_ns;
        break;
    case FAULT_HUNG:
        flight->hung = true;
        break;
    case FAULT_VANISHED:
        media_vanish(media);
        break;
    case FAULT_EIO:
    case FAULT_EIO_LANDED:
    case FAULT_TORN:
    case FAULT_LOST:
    case FAULT_FLIPPED:
        break;
    }
}

static void faults_strike(struct simulated_media *media, struct flight *flight)
{
    struct armed_fault **at = &media->faults;
    while (*at != NULL) {
        struct armed_fault *fault = *at;
        if (!fault_fits(fault, flight)) {
            at = &fault->next;
        } else if (fault->after > 0) {
            fault->after--;
            at = &fault->next;
        } else if (fault->one_in > 0) {
            if (simulation_random(media->simulation, fault->one_in) == 0)
                fault_strike(media, fault, flight);
            at = &fault->next;
        } else {
            *at = fault->next;
            fault_strike(media, fault, flight);
            free(fault);
        }
    }
}

void simulated_media_unhang(struct simulated_media *media)
{
    struct simulation *simulation = media->simulation;
    for (struct simulated_disk *disk = media->disks; disk != NULL; disk = disk->next) {
        for (struct flight *flight = disk->dead ? NULL : disk->flights; flight != NULL;
             flight = flight->next) {
            if (!flight->hung)
                continue;
            flight->hung = false;
            flight->completes_ns =
                simulation->now_ns + 1 + simulation_random(simulation, JITTER_NS_MIN);
            heap_push(simulation, flight);
        }
    }
    while (media->orphans != NULL) {
        struct flight *orphan = media->orphans;
        list_remove(&media->orphans, orphan);
        write_land(media, orphan);
        orphan_free(orphan);
    }
}

void simulated_media_return(struct simulated_media *media)
{
    media->vanished = false;
}

void simulated_media_heal(struct simulated_media *media)
{
    faults_disarm(media);
    simulated_media_return(media);
    simulated_media_unhang(media);
}

void simulated_media_pace(struct simulated_media *media, uint64_t bandwidth, uint64_t latency_ns)
{
    media->bandwidth = bandwidth;
    media->latency_ns = latency_ns;
}

/* ---- the seam's verbs ------------------------------------------------------------------------ */

/* One budget for reads and writes: transfers follow one another, latency and jitter do not. */
static uint64_t completion_time(struct simulated_media *media, uint32_t bytes)
{
    struct simulation *simulation = media->simulation;
    uint64_t start =
        media->free_at_ns > simulation->now_ns ? media->free_at_ns : simulation->now_ns;
    uint64_t transfer = 0;
    if (media->bandwidth > 0)
        transfer = (uint64_t)((unsigned __int128)bytes * 1000000000u / media->bandwidth);
    media->free_at_ns = start + transfer;
    uint64_t jitter = media->latency_ns > JITTER_NS_MIN ? media->latency_ns : JITTER_NS_MIN;
    if (simulation_random(simulation, 16) == 0)
        jitter *= 8; /* the long tail that every disk has */
    return media->free_at_ns + media->latency_ns + 1 + simulation_random(simulation, jitter);
}

static void check_registered(const struct simulated_disk *disk, const struct disk_request *request)
{
    if (request->buffer_index < 0)
        return;
    stop_if((uint32_t)request->buffer_index >= disk->area_buffers,
            "a request names a buffer that was not registered");
    const uint8_t *buffer = disk->area + (uint32_t)request->buffer_index * disk->area_buffer_bytes;
    stop_if(request->buffer < buffer ||
                request->buffer + request->bytes > buffer + disk->area_buffer_bytes,
            "a request reaches out of the registered buffer that it names");
}

static void simulated_submit(struct disk *head, struct disk_request *request)
{
    struct simulated_disk *disk = simulated(head);
    struct simulated_media *media = disk->media;
    struct simulation *simulation = media->simulation;
    struct flight *flight = must(calloc(1, sizeof *flight));

    flight->request = request;
    flight->disk = disk;
    flight->op = request->op;
    flight->bytes = request->op == DISK_FLUSH ? 0 : request->bytes;
    flight->source = request->buffer;
    flight->refused = disk_check(head, request, &flight->offset);
    flight->sequence = ++simulation->sequence;
    flight->salt = random_bits(simulation);
    flight->submitted_ns = simulation->now_ns;
    flight->mark = media->completed_writes;
    request->submitted_ns = simulation->now_ns;
    request->next = NULL;
    request->body[0] = (uint64_t)(uintptr_t)flight;
    request->body[3] = FLIGHT_SUBMITTED;
    list_add(&disk->flights, flight);

    if (flight->refused == 0 && request->op != DISK_FLUSH)
        check_registered(disk, request);
    if (flight->refused == 0 && request->op == DISK_WRITE)
        flight->crc = checksum_crc32c(request->buffer, request->bytes);
    if (flight->refused == 0 && request->op == DISK_READ)
        buffer_poison(request->buffer, request->bytes);
    if (disk->dead)
        return;
    flight->completes_ns = completion_time(media, flight->refused == 0 ? flight->bytes : 0);
    if (flight->refused == 0)
        faults_strike(media, flight);
    if (!flight->hung)
        heap_push(simulation, flight);
    event_count(simulation);
}

static void dead_end(struct flight *flight)
{
    read_buffer_unpoison(flight);
    flight_end(flight->disk->media->simulation, flight, ERR_CLOSED);
}

static void simulated_wait(struct disk *head, struct disk_request *request)
{
    struct simulated_disk *disk = simulated(head);
    struct simulation *simulation = disk->media->simulation;
    stop_if(simulation->in_done, "simulation_step() or disk_wait() inside done()");
    while (request->body[3] == FLIGHT_SUBMITTED) {
        if (disk->dead) {
            dead_end((struct flight *)(uintptr_t)request->body[0]);
            return;
        }
        stop_if(!simulation_step(simulation),
                "waits for a request that hangs: this would be for ever");
    }
}

static int simulated_register(struct disk *head, uint8_t *base, uint64_t buffer_bytes,
                              uint32_t count)
{
    struct simulated_disk *disk = simulated(head);
    if (disk->area_buffers > 0)
        return ERR_EXISTS;
    if (count == 0 || buffer_bytes == 0 || buffer_bytes % PAGE_BYTES != 0 ||
        (uintptr_t)base % PAGE_BYTES != 0)
        return ERR_INVALID;
    disk->area = base;
    disk->area_buffer_bytes = buffer_bytes;
    disk->area_buffers = count;
    return 0;
}

static void disk_unlink(struct simulated_disk *disk)
{
    struct simulated_media *media = disk->media;
    struct simulated_disk **at = &media->disks;
    while (*at != disk)
        at = &(*at)->next;
    *at = disk->next;
    if (media->exclusive == disk)
        media->exclusive = NULL;
    free(disk);
}

static void simulated_close(struct disk *head)
{
    struct simulated_disk *disk = simulated(head);
    while (disk->flights != NULL) {
        if (disk->dead)
            dead_end(disk->flights);
        else
            stop_if(!simulation_step(disk->media->simulation),
                    "closes a disk with a request that hangs: this would be for ever");
    }
    disk_unlink(disk);
}

static const struct disk_ops simulated_ops = {
    .name = "simulated",
    .submit = simulated_submit,
    .wait = simulated_wait,
    .register_buffers = simulated_register,
    .close = simulated_close,
};

int simulated_disk_open(struct simulated_media *media, enum disk_open_mode mode, struct disk **out,
                        struct failure *failure)
{
    *out = NULL;
    if (mode == DISK_OPEN_EXCLUSIVE && (media->exclusive != NULL || media->orphans != NULL))
        return fail(failure, ERR_BUSY, "the simulated disk is held by another recorder");
    if (media->vanished)
        return fail(failure, ERR_NOT_FOUND, "the simulated disk has vanished");
    struct simulated_disk *disk = must(calloc(1, sizeof *disk));
    disk->head.ops = &simulated_ops;
    disk->head.bytes = media->bytes;
    disk->head.alignment = SECTOR_BYTES;
    disk->head.read_only = mode == DISK_OPEN_READ;
    snprintf(disk->head.name, sizeof disk->head.name, "simulated");
    disk->media = media;
    disk->next = media->disks;
    media->disks = disk;
    if (mode == DISK_OPEN_EXCLUSIVE)
        media->exclusive = disk;
    *out = &disk->head;
    return 0;
}

void simulated_disk_forget(struct disk **head)
{
    if (*head == NULL)
        return;
    struct simulated_disk *disk = simulated(*head);
    stop_if(!disk->dead, "forgets a disk that is alive: close it");
    while (disk->flights != NULL) {
        struct flight *flight = disk->flights;
        read_buffer_unpoison(flight);
        list_remove(&disk->flights, flight);
        free(flight);
    }
    disk_unlink(disk);
    *head = NULL;
}

/* ---- simulation and media -------------------------------------------------------------------- */

struct simulation *simulation_new(uint64_t seed)
{
    struct simulation *simulation = must(calloc(1, sizeof *simulation));
    simulation->random = seed;
    simulation->now_ns = 1;
    return simulation;
}

void simulation_free(struct simulation **simulation)
{
    if (*simulation == NULL)
        return;
    stop_if((*simulation)->media != NULL, "freed before its media");
    free((*simulation)->heap);
    free(*simulation);
    *simulation = NULL;
}

struct simulated_media *simulated_media_new(struct simulation *simulation, uint64_t bytes,
                                            uint64_t bandwidth, uint64_t latency_ns)
{
    stop_if(bytes == 0 || bytes % SECTOR_BYTES != 0, "media must have whole sectors, and some");
    struct simulated_media *media = must(calloc(1, sizeof *media));
    media->map_bytes = round_up(bytes, 64 * PAGE_BYTES);
    media->map = map_take(media->map_bytes);
    media->written = must(calloc(media->map_bytes / PAGE_BYTES / 64, sizeof *media->written));
    media->simulation = simulation;
    media->bytes = bytes;
    media->bandwidth = bandwidth;
    media->latency_ns = latency_ns;
    media->next = simulation->media;
    simulation->media = media;
    return media;
}

static void media_give_map(struct simulated_media *media)
{
    if (media->written_pages * PAGE_BYTES > SPARE_BYTES_MAX) {
        munmap(media->map, media->map_bytes);
        return;
    }
    for (uint64_t i = 0; i < media->map_bytes / PAGE_BYTES / 64; i++) {
        for (uint64_t bits = media->written[i]; bits != 0; bits &= bits - 1)
            memset(media->map + (i * 64 + (uint64_t)__builtin_ctzll(bits)) * PAGE_BYTES, 0,
                   PAGE_BYTES);
    }
    map_give(media->map, media->map_bytes);
}

void simulated_media_free(struct simulated_media **out)
{
    struct simulated_media *media = *out;
    if (media == NULL)
        return;
    stop_if(media->disks != NULL, "media freed while a disk is open on it");
    struct simulated_media **at = &media->simulation->media;
    while (*at != media)
        at = &(*at)->next;
    *at = media->next;
    while (media->orphans != NULL) {
        struct flight *orphan = media->orphans;
        list_remove(&media->orphans, orphan);
        orphan_free(orphan);
    }
    faults_disarm(media);
    log_clear(media);
    free(media->log);
    media_give_map(media);
    free(media->written);
    free(media);
    *out = NULL;
}

void simulated_media_peek(struct simulated_media *media, uint64_t offset, uint8_t *bytes,
                          uint64_t count)
{
    stop_if(offset > media->bytes || count > media->bytes - offset, "peek outside the media");
    media_copy(media, offset, bytes, count);
}

void simulated_media_poke(struct simulated_media *media, uint64_t offset, const uint8_t *bytes,
                          uint64_t count)
{
    stop_if(offset > media->bytes || count > media->bytes - offset, "poke outside the media");
    touch(media, offset, count);
    memcpy(media->map + offset, bytes, count);
}
