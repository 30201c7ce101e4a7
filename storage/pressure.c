/* pressure.c - see pressure.h. */
#include "pressure.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Since Linux 5.1; some headers are older. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

/* Each value stands for itself: a reader that sees a level a moment before its time errs by one look. */
struct pressure_page {
    _Atomic uint64_t written_ns;
    _Atomic uint64_t oldest; /* position */
    _Atomic uint32_t readers; /* who sit and read */
    _Atomic bool mends;
    _Atomic uint32_t turn[PRESSURE_SEATS];
    _Atomic uint32_t level[RING_DISKS_MAX];
    _Atomic uint64_t turn_ns[RING_DISKS_MAX];
};

uint32_t pressure_level(uint64_t bytes, uint64_t mark_bytes)
{
    uint64_t mark = mark_bytes > 0 ? mark_bytes : 1;
    if (bytes / mark >= UINT32_MAX / PRESSURE_HIGH)
        return UINT32_MAX;
    return (uint32_t)(bytes / mark * PRESSURE_HIGH + bytes % mark * PRESSURE_HIGH / mark);
}

static uint64_t power_of_two(uint64_t least)
{
    uint64_t power = PRESSURE_TURN_NS_MIN;
    while (power < least)
        power *= 2;
    return power;
}

/* How long a turn really is; 0: there are none. */
static uint64_t length_of_turn(bool held, uint64_t turn_ns)
{
    if (turn_ns > PRESSURE_PIECE_NS)
        turn_ns = PRESSURE_PIECE_NS;
    if (held)
        return power_of_two(PRESSURE_TRICKLE * turn_ns > PRESSURE_PIECE_NS ? PRESSURE_TRICKLE * turn_ns : PRESSURE_PIECE_NS);
    return turn_ns < PRESSURE_TURN_NS_MIN ? 0 : power_of_two(turn_ns);
}

/* Of the turns, counted from the clock's beginning, every few are the mender's, the others go round. */
static bool is_its_turn(const struct pressure_view *view, uint64_t number)
{
    uint32_t readers = view->readers > 0 ? view->readers : !view->is_mender;
    if (view->mends || view->is_mender) {
        uint32_t share = readers < PRESSURE_MENDER_SHARE ? readers + 1 : PRESSURE_MENDER_SHARE;
        if (number % share == share - 1)
            return view->is_mender;
        number = number / share * (share - 1) + number % share;
    }
    return !view->is_mender && number % readers == view->turn % readers;
}

uint64_t pressure_wait_ns(struct pressure_pace *pace, const struct pressure_view *view, uint64_t now_ns)
{
    if (view->level >= PRESSURE_HIGH)
        pace->held = true;
    else if (view->level <= PRESSURE_LOW)
        pace->held = false;
    uint64_t length_ns = length_of_turn(pace->held, view->turn_ns);
    if (length_ns > 0) {
        uint64_t next = now_ns / length_ns;
        if (pace->went_ns / length_ns == next)
            next++; /* this one has been used */
        while (!is_its_turn(view, next))
            next++;
        if (next * length_ns > now_ns) {
            uint64_t left_ns = next * length_ns - now_ns;
            return left_ns < PRESSURE_LOOK_NS ? left_ns : PRESSURE_LOOK_NS;
        }
    }
    pace->went_ns = now_ns;
    return 0;
}

int pressure_gauge_open(struct pressure_gauge *gauge, struct failure *failure)
{
    *gauge = (struct pressure_gauge){.fd = memfd_create("tapeloop-pressure", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    pthread_mutex_init(&gauge->lock, NULL);
    if (gauge->fd < 0)
        return fail_errno(failure, errno, "no memory for the pressure gauge");
    void *page = MAP_FAILED;
    /* What is mapped before F_SEAL_FUTURE_WRITE stays writable: ours alone. */
    if (ftruncate(gauge->fd, sizeof *gauge->page) == 0)
        page = mmap(NULL, sizeof *gauge->page, PROT_READ | PROT_WRITE, MAP_SHARED, gauge->fd, 0);
    if (page != MAP_FAILED)
        gauge->page = page;
    if (page == MAP_FAILED || fcntl(gauge->fd, F_ADD_SEALS, SEALS) != 0) {
        int error = errno;
        pressure_gauge_close(gauge);
        return fail_errno(failure, error, "the pressure gauge cannot be made");
    }
    return 0;
}

void pressure_gauge_close(struct pressure_gauge *gauge)
{
    if (gauge->page)
        munmap(gauge->page, sizeof *gauge->page);
    if (gauge->fd > 0) /* 0 is that of a gauge of zeros: descriptors 0 to 2 are never free here */
        close(gauge->fd);
    *gauge = (struct pressure_gauge){.fd = -1};
}

void pressure_publish(struct pressure_page *page, uint32_t disk, uint32_t level, uint64_t turn_ns)
{
    assert(disk < RING_DISKS_MAX);
    atomic_store_explicit(&page->level[disk], level, memory_order_relaxed);
    atomic_store_explicit(&page->turn_ns[disk], turn_ns, memory_order_relaxed);
}

void pressure_publish_time(struct pressure_page *page, bool mends, uint64_t now_ns)
{
    atomic_store_explicit(&page->mends, mends, memory_order_relaxed);
    atomic_store_explicit(&page->written_ns, now_ns, memory_order_release);
}

void pressure_publish_oldest(struct pressure_page *page, uint64_t position)
{
    atomic_store_explicit(&page->oldest, position, memory_order_relaxed);
}

uint64_t pressure_oldest(const struct pressure_page *page)
{
    return atomic_load_explicit(&page->oldest, memory_order_relaxed);
}

uint32_t pressure_readers(const struct pressure_page *page)
{
    return atomic_load_explicit(&page->readers, memory_order_relaxed);
}

/* ---- seats -------------------------------------------------------------------------------------- */

/* The turns of those who read, in the order of their seats. The lock is held. */
static void seats_publish(struct pressure_gauge *gauge)
{
    uint32_t turns = 0;
    for (uint32_t i = 0; i < PRESSURE_SEATS; i++)
        if (gauge->taken[i] && gauge->reads[i])
            atomic_store_explicit(&gauge->page->turn[i], turns++, memory_order_relaxed);
    for (uint32_t i = 0; i < PRESSURE_SEATS; i++)
        if (gauge->taken[i] && !gauge->reads[i]) /* until it is seen to read, the first one's */
            atomic_store_explicit(&gauge->page->turn[i], 0, memory_order_relaxed);
    atomic_store_explicit(&gauge->page->readers, turns, memory_order_relaxed);
}

uint32_t pressure_seat_take(struct pressure_gauge *gauge)
{
    uint32_t seat = 0;
    pthread_mutex_lock(&gauge->lock);
    while (seat < PRESSURE_SEATS && gauge->taken[seat])
        seat++;
    if (seat < PRESSURE_SEATS) {
        gauge->taken[seat] = gauge->reads[seat] = true;
        seats_publish(gauge);
    }
    pthread_mutex_unlock(&gauge->lock);
    return seat;
}

void pressure_seat_give(struct pressure_gauge *gauge, uint32_t seat)
{
    if (seat >= PRESSURE_SEATS)
        return;
    pthread_mutex_lock(&gauge->lock);
    gauge->taken[seat] = false;
    seats_publish(gauge);
    pthread_mutex_unlock(&gauge->lock);
}

void pressure_seat_reads(struct pressure_gauge *gauge, uint32_t seat, bool reads)
{
    if (seat >= PRESSURE_SEATS)
        return;
    pthread_mutex_lock(&gauge->lock);
    if (gauge->reads[seat] != reads) {
        gauge->reads[seat] = reads;
        seats_publish(gauge);
    }
    pthread_mutex_unlock(&gauge->lock);
}

/* ---- reading it ----------------------------------------------------------------------------------- */

int pressure_gauge_map(int fd, const struct pressure_page **page)
{
    struct stat status;
    *page = NULL;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) != 0 ||
        status.st_size != (off_t)sizeof **page)
        return ERR_PROTOCOL;
    void *mapped = mmap(NULL, sizeof **page, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return error_from_errno(errno);
    *page = mapped;
    return 0;
}

void pressure_gauge_unmap(const struct pressure_page **page)
{
    if (*page)
        munmap((void *)*page, sizeof **page);
    *page = NULL;
}

struct pressure_view pressure_read(const struct pressure_page *page, uint32_t seat, uint32_t disk, uint64_t now_ns)
{
    assert(disk < RING_DISKS_MAX);
    uint64_t written_ns = atomic_load_explicit(&page->written_ns, memory_order_acquire);
    /* Written after now_ns was taken: as fresh as can be. */
    if (written_ns < now_ns && now_ns - written_ns > PRESSURE_FRESH_NS)
        return (struct pressure_view){0};
    return (struct pressure_view){
        .level = atomic_load_explicit(&page->level[disk], memory_order_relaxed),
        .turn = seat < PRESSURE_SEATS ? atomic_load_explicit(&page->turn[seat], memory_order_relaxed) : 0,
        .readers = atomic_load_explicit(&page->readers, memory_order_relaxed),
        .mends = atomic_load_explicit(&page->mends, memory_order_relaxed),
        .turn_ns = atomic_load_explicit(&page->turn_ns[disk], memory_order_relaxed),
    };
}

struct pressure_view pressure_read_turn_of_mender(const struct pressure_page *page)
{
    return (struct pressure_view){.readers = atomic_load_explicit(&page->readers, memory_order_relaxed), .is_mender = true};
}

uint32_t pressure_most(const struct pressure_page *page)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < RING_DISKS_MAX; i++) {
        uint32_t level = atomic_load_explicit(&page->level[i], memory_order_relaxed);
        most = level > most ? level : most;
    }
    return most;
}

bool pressure_may_read(struct pressure_reader *reader, uint32_t disk, uint32_t ahead, bool wait)
{
    if (!reader->page)
        return true;
    for (;;) {
        uint64_t now_ns = reader->now_ns(reader->context);
        const struct pressure_view view = pressure_read(reader->page, reader->seat, disk, now_ns);
        if (!wait && view.turn_ns > 0 && ahead >= PRESSURE_AHEAD / (view.readers > 1 ? view.readers : 1))
            return false;
        uint64_t wait_ns = pressure_wait_ns(&reader->pace[disk], &view, now_ns);
        if (wait_ns == 0 || (reader->until_ns > 0 && now_ns >= reader->until_ns))
            return true;
        if (!wait)
            return false;
        reader->sleep_ns(reader->context, wait_ns);
        reader->held_back_ns += wait_ns;
    }
}
