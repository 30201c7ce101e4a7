/*
 * disk_io.h - the seam: everything that tapeloop does to a disk goes through this one interface.
 *
 * Bodies: disk_uring.c (files and block devices, O_DIRECT through io_uring, one thread a disk),
 * disk_simulated.c (memory, seeded and deterministic, with power cuts and faults), disk_faulty.c
 * and disk_patient.c (both wrap another body). An object store may become one later, hence no paths and no descriptors here.
 *
 * Life of a request: the caller fills it and submits it; from then on request and buffer belong to
 * the disk until `done` is called, exactly once, also for a request that failed. There is no cancel:
 * the kernel cannot take back a write that it has begun.
 *
 *   state      owner        moved on by
 *   idle       caller       disk_submit
 *   submitted  disk         the body, which sets `result` and calls done()
 *   done       caller       -
 *
 * Threads: any thread may submit. The io_uring body calls done() on the disk's own thread, so done()
 * only posts to a queue; the simulated body calls it from disk_wait() and simulation_step().
 */
#ifndef STORAGE_DISK_IO_H
#define STORAGE_DISK_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "errors.h"

enum disk_op {
    DISK_READ = 1,
    DISK_WRITE = 2,
    DISK_FLUSH = 3, /* everything that completed before the submission is on stable storage when this is done */
};

#define DISK_SLOT_META UINT32_MAX /* `offset` counts from the disk's first byte, not a slot's */

struct disk_request {
    enum disk_op op;
    uint32_t slot;       /* DISK_SLOT_META or a slot number below the geometry's slot_count */
    uint64_t offset;     /* bytes from the start of the slot; multiple of PAGE_BYTES */
    uint8_t *buffer;     /* PAGE_BYTES-aligned */
    uint32_t bytes;      /* multiple of PAGE_BYTES; 0 for a flush */
    int32_t buffer_index; /* of a buffer that disk_register() named, or -1 */
    void (*done)(struct disk_request *request);
    void *owner;         /* the submitter's; the disk does not look at it */
    int result;          /* 0, ERR_IO, ERR_NO_SPACE ...: a short transfer is ERR_IO. Valid once done() is called */
    bool more;           /* set by the disk: the next one that it finishes, at once, has the same done() */
    uint64_t submitted_ns; /* CLOCK_MONOTONIC, or the simulation's time; set by the disk */
    struct disk_request *next; /* the disk's while submitted, the owner's otherwise */
    uint64_t body[4];    /* the body's */
};

struct disk_geometry {
    uint64_t disk_bytes;   /* used part, multiple of PAGE_BYTES */
    uint64_t slots_offset;
    uint64_t slot_bytes;   /* power of two, SLOT_BYTES_MIN to SLOT_BYTES_MAX */
    uint32_t slot_count;
};

struct disk;

struct disk_ops {
    const char *name; /* "io_uring", "simulated", "faulty" */
    void (*submit)(struct disk *disk, struct disk_request *request);
    /* `count` of them at once, so that the disk's thread is woken once. Null: one after the other. */
    void (*submit_all)(struct disk *disk, struct disk_request *request, uint32_t count);
    /* Blocks until `request` is done (and done() has returned). Never inside done(). */
    void (*wait)(struct disk *disk, struct disk_request *request);
    /* The same, but no longer than that: false if it is not done. Null: a body that always answers. */
    bool (*wait_for)(struct disk *disk, struct disk_request *request, unsigned limit_ms);
    /* Names a memory area once, so that requests with a buffer_index need no pinning: area i is buffer i. */
    int (*register_buffers)(struct disk *disk, uint8_t *base, uint64_t buffer_bytes, uint32_t count);
    /* Waits for everything under way, then releases the lock and frees the disk. */
    void (*close)(struct disk *disk);
};

/* The common head of every body. `bytes` is the whole size of device or file. */
struct disk {
    const struct disk_ops *ops;
    struct disk_geometry geometry; /* zeros until the superblock has been read or made */
    uint64_t bytes;
    uint32_t alignment;  /* of offsets and memory that the device asks for, at most PAGE_BYTES */
    bool read_only;
    uint64_t failure_domain; /* enclosure, or device below the file: what fails with it (device.h); 0 = not known */
    char name[256];      /* path, for messages */
};

static inline void disk_submit(struct disk *disk, struct disk_request *request)
{
    disk->ops->submit(disk, request);
}

static inline void disk_submit_all(struct disk *disk, struct disk_request *request, uint32_t count)
{
    if (disk->ops->submit_all) {
        disk->ops->submit_all(disk, request, count);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        disk->ops->submit(disk, &request[i]);
}

static inline void disk_wait(struct disk *disk, struct disk_request *request)
{
    disk->ops->wait(disk, request);
}

/* False: after limit_ms (0: only a look) the disk has not answered, and the request is still its own. */
static inline bool disk_wait_for(struct disk *disk, struct disk_request *request, unsigned limit_ms)
{
    if (disk->ops->wait_for)
        return disk->ops->wait_for(disk, request, limit_ms);
    disk->ops->wait(disk, request);
    return true;
}

/* Byte offset on the disk of a request's target; UINT64_MAX where it lies outside the geometry. */
uint64_t disk_offset(const struct disk *disk, uint32_t slot, uint64_t offset, uint32_t bytes);

/*
 * What every body asks of a request before it touches anything: 0 and the byte offset on the disk, or
 * ERR_INVALID (outside the geometry, not aligned, a write or flush on a read-only disk), with which the request then completes.
 */
int disk_check(const struct disk *disk, const struct disk_request *request, uint64_t *offset);

/* One operation, waited for. `buffer` as in disk_request. Returns the request's result. Not inside done(). */
int disk_read(struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer, uint32_t bytes);
int disk_write(struct disk *disk, uint32_t slot, uint64_t offset, uint8_t *buffer, uint32_t bytes);
int disk_flush(struct disk *disk);

/* Closes and nulls; a null *disk is allowed. */
void disk_close(struct disk **disk);

/* ---- patience: who takes a disk in holds locks that others need --------------------------------- */

#define DISK_PATIENCE_MS 10000     /* for one answer of a disk that is taken in; one that sleeps has to spin up first */
#define DISK_PATIENT_OWING_MAX 8u

/*
 * From now on, until disk_patient_end(), whoever waits for *disk waits for each answer patience_ms at most (0: DISK_PATIENCE_MS). A request that has not been
 * answered by then ends with ERR_TIMEOUT, and so does, at once, all that is asked later: *disk is lost. It can only be closed then, which does not wait: a
 * thread does, and the disk's lock is held until it has answered. *disk changes; its name, size and geometry are the same. For requests that are waited for (as
 * disk_read() and the others do), by one thread; no buffers are registered. Done twice it is done once. ERR_NO_MEMORY; ERR_BUSY: so many disks
 * have been lost in this process that owe an answer. *disk is as it was then.
 */
int disk_patient_begin(struct disk **disk, unsigned patience_ms);
/* False for a disk that nobody is patient with. */
bool disk_patient_lost(const struct disk *disk);
/* *disk is what it was before disk_patient_begin(), with the geometry that it has now. False: it is lost, and stays what it is. */
bool disk_patient_end(struct disk **disk);

/* ---- opening: files and block devices ---------------------------------------------------------- */

enum disk_open_mode {
    DISK_OPEN_READ,     /* no lock, no write */
    DISK_OPEN_EXCLUSIVE /* flock (file) or O_EXCL (device) first: the fence. Held until the last write of a dead owner has landed */
};

/*
 * Opens an existing file or block device. ERR_BUSY: another process holds it (the failure says so);
 * ERR_NOT_FOUND, ERR_PERMISSION, ERR_INVALID (neither file nor block device), ERR_IO.
 */
int disk_uring_open(const char *path, enum disk_open_mode mode, struct disk **disk, struct failure *failure);

/*
 * Takes over a descriptor that is open for reading (with O_DIRECT or not); closes it at close, and if this
 * fails. For the confined reader. Takes no lock: hand over a descriptor from an open(2) of its own, never a
 * copy of one that is locked, or the lock lives as long as the reader.
 */
int disk_uring_from_fd(int fd, const char *name, struct disk **disk, struct failure *failure);

/*
 * Makes (or, for a block device, takes) a disk at `path` of at least `bytes` (0: the whole device or the file as it is), fully
 * preallocated. A file gets exactly `bytes`, rounded up to PAGE_BYTES; a device stays as large as it is, disk->bytes says.
 * Without `force`, a file or device that holds anything that libblkid recognises, or one of our superblocks,
 * or, for a file, any data at all, is refused with ERR_FOREIGN and left as it was. With `force` the
 * signatures of what was there are wiped, so that no other tool takes the device for what it was.
 * ERR_NO_SPACE leaves no file behind that was not there. The disk is open and locked afterwards.
 */
int disk_uring_create(const char *path, uint64_t bytes, bool force, struct disk **disk, struct failure *failure);

/*
 * Null, or why a disk of this process had to do without io_uring ("Operation not permitted"): its ops->name
 * is then "plain", it is slower, and otherwise the same. Static memory; any thread.
 */
const char *disk_uring_obstacle(void);

#endif
