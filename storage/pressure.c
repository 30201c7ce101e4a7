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
    _Atomic uint32_t level[RING_DISKS_MAX];
};

uint32_t pressure_level(uint64_t in_flight_bytes, uint64_t buffer_bytes)
{
    uint64_t mark = buffer_bytes / PRESSURE_SHARE;
    if (mark == 0)
        mark = 1;
    if (in_flight_bytes / mark >= UINT32_MAX / PRESSURE_HIGH)
        return UINT32_MAX;
    return (uint32_t)(in_flight_bytes / mark * PRESSURE_HIGH + in_flight_bytes % mark * PRESSURE_HIGH / mark);
}

uint64_t pressure_wait_ns(struct pressure_pace *pace, uint32_t level, uint64_t now_ns)
{
    if (level >= PRESSURE_HIGH)
        pace->held = true;
    else if (level <= PRESSURE_LOW)
        pace->held = false;
    uint64_t since_ns = now_ns - pace->went_ns;
    if (pace->held && since_ns < PRESSURE_PIECE_NS) {
        uint64_t left_ns = PRESSURE_PIECE_NS - since_ns;
        return left_ns < PRESSURE_LOOK_NS ? left_ns : PRESSURE_LOOK_NS;
    }
    pace->went_ns = now_ns;
    return 0;
}

int pressure_gauge_open(struct pressure_gauge *gauge, struct failure *failure)
{
    *gauge = (struct pressure_gauge){.fd = memfd_create("tapeloop-pressure", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
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

void pressure_publish(struct pressure_page *page, uint32_t disk, uint32_t level)
{
    assert(disk < RING_DISKS_MAX);
    atomic_store_explicit(&page->level[disk], level, memory_order_relaxed);
}

void pressure_publish_time(struct pressure_page *page, uint64_t now_ns)
{
    atomic_store_explicit(&page->written_ns, now_ns, memory_order_release);
}

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

uint32_t pressure_read(const struct pressure_page *page, uint32_t disk, uint64_t now_ns)
{
    assert(disk < RING_DISKS_MAX);
    uint64_t written_ns = atomic_load_explicit(&page->written_ns, memory_order_acquire);
    /* Written after now_ns was taken: as fresh as can be. */
    if (written_ns < now_ns && now_ns - written_ns > PRESSURE_FRESH_NS)
        return 0;
    return atomic_load_explicit(&page->level[disk], memory_order_relaxed);
}
