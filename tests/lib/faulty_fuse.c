/*
 * faulty_fuse.c - a file system whose files are disks that fail on purpose, for tests of the real recorder.
 *
 *     tapeloop-faulty-fuse BACKING MOUNTPOINT CONTROL [SEED]
 *
 * Each file of the directory BACKING is a disk under MOUNTPOINT; files can be made, sized and removed there, too. Nothing is
 * cached above (direct_io, no attribute or name lives longer than its request), so that each O_DIRECT request, of
 * a ring or of a loop device on top, arrives here as it was made, in pieces of 1 MiB at most. Locks of flock(2)
 * are the kernel's own: they work, and last until the last request of a dead process has been answered.
 *
 * CONTROL is a Unix socket; a connection sends one line and gets one, "ok ..." or "error ...":
 *
 *     fault NAME KIND [op=read|write|flush] [after=N] [count=N] [one_in=N] [ms=N]
 *         strikes the (N+1)-th request that fits and those after it, `count` in all (1; 0: without end), each
 *         with a probability of 1/one_in. Kinds, named as in simulation.h:
 *             eio         fails, nothing landed             eio_landed   fails, and landed all the same
 *             torn        done, only a beginning landed     torn_eio     fails, a beginning landed
 *             lost        done, nothing landed              misdirected  done, landed elsewhere on the disk
 *             flipped     one bit changed on the way        delayed      lands and answers ms later
 *             hung        lands and answers after `release`
 *     clear NAME      disarms all its faults            release NAME    what hangs lands and answers now
 *     vanish NAME     no such disk any more: ENODEV     return NAME     it is back, with what was on it
 *     bandwidth NAME N    bytes/s, one budget for reads and writes; 0: none
 *     flip NAME OFFSET BIT    one bit at rest
 *     state NAME      reads, writes, flushes, read_bytes, written_bytes; of the requests under_way: delayed, hung; struck
 *
 * A write lands at the end of its delay, just before its answer: what was killed in between still lands.
 * Flushes cost nothing below: the machine stays on, so the page cache of BACKING is as good as a platter.
 *
 * Threads: main receives and does what has no delay; the clock thread does what is due; the control thread
 * changes faults. `lock` guards everything but the bytes of BACKING. Ends on SIGTERM, SIGINT, an
 * unmount, or with its parent; what hangs then fails with EIO. Exit 77: this machine lets us mount nothing.
 */
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <fuse_lowlevel.h>

#define DISKS_MAX 64
#define NAME_BYTES_MAX 64
#define LINE_BYTES_MAX 256
#define SECTOR_BYTES 512u
#define REQUEST_BYTES_MAX (1u << 20)
#define UNDER_WAY_MAX 4096 /* hung requests of one disk must not keep another's from coming in */
#define EXIT_SKIPPED 77
#define SECOND_NS UINT64_C(1000000000)

enum op { OP_ANY, OP_READ, OP_WRITE, OP_FLUSH };

enum kind { EIO_CLEAN, EIO_LANDED, TORN, TORN_EIO, LOST, MISDIRECTED, FLIPPED, DELAYED, HUNG, KINDS };

static const char *const kind_name[KINDS] = {
    "eio", "eio_landed", "torn", "torn_eio", "lost", "misdirected", "flipped", "delayed", "hung",
};

struct fault {
    struct fault *next;
    enum kind kind;
    enum op op;
    uint64_t after;
    uint64_t count; /* 0: without end */
    uint64_t one_in;
    uint64_t delay_ns;
};

/* A request: the kernel's, until it is answered. Waits in `waiting` until it is due, or hangs there. */
struct flight {
    struct flight *next;
    struct faulty_disk *disk;
    fuse_req_t request;
    enum op op;
    off_t offset;
    size_t bytes;
    uint8_t *data; /* write: the bytes; ours */
    uint64_t due_ns;
    uint32_t faults; /* a bit for each kind that struck */
    bool hung;
};

struct faulty_disk {
    char name[NAME_BYTES_MAX];
    int fd;
    bool there;    /* has a name in the directory */
    bool vanished;
    uint64_t bandwidth;
    uint64_t free_at_ns;
    struct fault *faults;
    uint64_t reads, writes, flushes, read_bytes, written_bytes, struck, under_way;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct faulty_disk disk[DISKS_MAX]; /* inode = index + 2 */
    unsigned disks;
    struct flight *waiting; /* by due time, the hung ones anywhere */
    uint64_t random;
    bool ending;
    int directory;
} world = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* Below `bound`; SplitMix64 (Steele, Lea, Flood 2014). The lock is held. */
static uint64_t dice(uint64_t bound)
{
    uint64_t value = world.random += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint64_t)(((unsigned __int128)(value ^ (value >> 31)) * bound) >> 64);
}

static uint64_t locked_dice(uint64_t bound)
{
    pthread_mutex_lock(&world.lock);
    uint64_t value = dice(bound);
    pthread_mutex_unlock(&world.lock);
    return value;
}

static bool struck_by(const struct flight *flight, enum kind kind)
{
    return (flight->faults >> kind & 1) != 0;
}

/* ---- what a request comes to --------------------------------------------------------------------- */

static int read_fully(int fd, uint8_t *bytes, size_t count, off_t offset, size_t *got)
{
    *got = 0;
    while (*got < count) {
        ssize_t part = pread(fd, bytes + *got, count - *got, offset + (off_t)*got);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return errno;
        if (part == 0)
            break;
        *got += (size_t)part;
    }
    return 0;
}

static int write_fully(int fd, const uint8_t *bytes, size_t count, off_t offset)
{
    while (count > 0) {
        ssize_t part = pwrite(fd, bytes, count, offset);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return errno;
        bytes += part;
        offset += part;
        count -= (size_t)part;
    }
    return 0;
}

/* A page of the same disk that is not the one that was meant. */
static off_t another_place(const struct flight *flight)
{
    struct stat status;
    if (fstat(flight->disk->fd, &status) != 0 || (size_t)status.st_size < flight->bytes + 4096)
        return flight->offset;
    uint64_t places = ((uint64_t)status.st_size - flight->bytes) / 4096 + 1;
    off_t place;
    do
        place = (off_t)(locked_dice(places) * 4096);
    while (place == flight->offset);
    return place;
}

static size_t a_beginning(size_t bytes)
{
    return bytes <= SECTOR_BYTES ? 0 : (size_t)locked_dice(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

static void flip(uint8_t *bytes, size_t count)
{
    uint64_t bit = count > 0 ? locked_dice((uint64_t)count * 8) : 0;
    if (count > 0)
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
}

static void do_read(struct flight *flight)
{
    off_t offset = struck_by(flight, MISDIRECTED) ? another_place(flight) : flight->offset;
    uint8_t *bytes = calloc(1, flight->bytes);
    size_t got = 0;
    int error = bytes == NULL ? ENOMEM : read_fully(flight->disk->fd, bytes, flight->bytes, offset, &got);
    if (struck_by(flight, EIO_CLEAN) || struck_by(flight, EIO_LANDED) || struck_by(flight, TORN_EIO))
        error = EIO;
    if (error == 0 && struck_by(flight, LOST))
        memset(bytes, 0, got);
    if (error == 0 && struck_by(flight, TORN)) {
        size_t kept = a_beginning(got);
        memset(bytes + kept, 0, got - kept);
    }
    if (error == 0 && struck_by(flight, FLIPPED))
        flip(bytes, got);
    if (error != 0)
        fuse_reply_err(flight->request, error);
    else
        fuse_reply_buf(flight->request, (const char *)bytes, got);
    free(bytes);
}

static void do_write(struct flight *flight)
{
    size_t bytes = flight->bytes;
    off_t offset = struck_by(flight, MISDIRECTED) ? another_place(flight) : flight->offset;
    if (struck_by(flight, TORN) || struck_by(flight, TORN_EIO))
        bytes = a_beginning(bytes);
    if (struck_by(flight, LOST) || struck_by(flight, EIO_CLEAN))
        bytes = 0;
    if (struck_by(flight, FLIPPED))
        flip(flight->data, bytes);
    int error = write_fully(flight->disk->fd, flight->data, bytes, offset);
    if (struck_by(flight, EIO_CLEAN) || struck_by(flight, EIO_LANDED) || struck_by(flight, TORN_EIO))
        error = EIO;
    if (error != 0)
        fuse_reply_err(flight->request, error);
    else
        fuse_reply_write(flight->request, flight->bytes);
}

static bool fails_a_flush(const struct flight *flight)
{
    return struck_by(flight, EIO_CLEAN) || struck_by(flight, EIO_LANDED) || struck_by(flight, TORN_EIO);
}

/* Answers and frees. Without the lock. */
static void land(struct flight *flight)
{
    pthread_mutex_lock(&world.lock);
    bool gone = flight->disk->vanished;
    bool ending = world.ending && flight->hung;
    flight->disk->under_way--;
    pthread_mutex_unlock(&world.lock);
    if (gone || ending)
        fuse_reply_err(flight->request, gone ? ENODEV : EIO);
    else if (flight->op == OP_READ)
        do_read(flight);
    else if (flight->op == OP_WRITE)
        do_write(flight);
    else
        fuse_reply_err(flight->request, fails_a_flush(flight) ? EIO : 0);
    free(flight->data);
    free(flight);
}

/* The lock is held. */
static void wait_in_line(struct flight *flight)
{
    struct flight **at = &world.waiting;
    while (*at != NULL && (*at)->due_ns <= flight->due_ns)
        at = &(*at)->next;
    flight->next = *at;
    *at = flight;
    pthread_cond_signal(&world.changed);
}

/* The lock is held. */
static struct flight *take_due(uint64_t now, uint64_t *next_ns)
{
    *next_ns = UINT64_MAX;
    for (struct flight **at = &world.waiting; *at != NULL; at = &(*at)->next) {
        struct flight *flight = *at;
        if (flight->hung && !world.ending)
            continue;
        if (flight->due_ns > now && !world.ending) {
            *next_ns = flight->due_ns;
            return NULL;
        }
        *at = flight->next;
        return flight;
    }
    return NULL;
}

/* Ends when everything has been answered after world.ending. */
static void *clock_run(void *unused)
{
    pthread_mutex_lock(&world.lock);
    for (;;) {
        uint64_t next_ns;
        struct flight *flight = take_due(now_ns(), &next_ns);
        if (flight != NULL) {
            pthread_mutex_unlock(&world.lock);
            land(flight);
            pthread_mutex_lock(&world.lock);
        } else if (world.ending) {
            break;
        } else if (next_ns == UINT64_MAX) {
            pthread_cond_wait(&world.changed, &world.lock);
        } else {
            struct timespec until = {.tv_sec = (time_t)(next_ns / SECOND_NS),
                                     .tv_nsec = (long)(next_ns % SECOND_NS)};
            pthread_cond_timedwait(&world.changed, &world.lock, &until);
        }
    }
    pthread_mutex_unlock(&world.lock);
    return unused;
}

/* Lets the armed faults strike. The lock is held. */
static void strike(struct flight *flight)
{
    struct fault **at = &flight->disk->faults;
    while (*at != NULL) {
        struct fault *fault = *at;
        if (fault->op != OP_ANY && fault->op != flight->op) {
            at = &fault->next;
            continue;
        }
        if (fault->after > 0 || (fault->one_in > 1 && dice(fault->one_in) != 0)) {
            fault->after -= fault->after > 0;
            at = &fault->next;
            continue;
        }
        flight->faults |= 1u << fault->kind;
        flight->disk->struck++;
        flight->hung = flight->hung || fault->kind == HUNG;
        if (fault->kind == DELAYED)
            flight->due_ns += fault->delay_ns;
        if (fault->count == 1) {
            *at = fault->next;
            free(fault);
        } else {
            fault->count -= fault->count > 0;
            at = &fault->next;
        }
    }
}

/* Takes a request in; `data` (a write's) is copied. */
static void take_off(fuse_req_t request, struct faulty_disk *disk, enum op op, const void *data, size_t bytes,
                     off_t offset)
{
    struct flight *flight = calloc(1, sizeof *flight);
    uint8_t *copy = data != NULL ? malloc(bytes) : NULL;
    if (flight == NULL || (data != NULL && copy == NULL)) {
        free(flight);
        free(copy);
        fuse_reply_err(request, ENOMEM);
        return;
    }
    if (data != NULL)
        memcpy(copy, data, bytes);
    *flight = (struct flight){
        .disk = disk, .request = request, .op = op, .offset = offset, .bytes = bytes, .data = copy};

    pthread_mutex_lock(&world.lock);
    uint64_t now = now_ns();
    disk->reads += op == OP_READ;
    disk->writes += op == OP_WRITE;
    disk->flushes += op == OP_FLUSH;
    disk->read_bytes += op == OP_READ ? bytes : 0;
    disk->written_bytes += op == OP_WRITE ? bytes : 0;
    disk->under_way++;
    flight->due_ns = now;
    if (disk->bandwidth > 0) { /* one budget: transfers follow one another; a flush waits for nothing */
        uint64_t start = disk->free_at_ns > now ? disk->free_at_ns : now;
        disk->free_at_ns = start + (uint64_t)((unsigned __int128)bytes * SECOND_NS / disk->bandwidth);
        if (bytes > 0)
            flight->due_ns = disk->free_at_ns;
    }
    if (!disk->vanished) /* one that is gone says so at once, whatever is armed */
        strike(flight);
    bool later = flight->hung || flight->due_ns > now;
    if (later)
        wait_in_line(flight);
    pthread_mutex_unlock(&world.lock);
    if (!later)
        land(flight);
}

/* ---- the file system ------------------------------------------------------------------------------ */

static struct faulty_disk *disk_of(fuse_ino_t inode)
{
    return &world.disk[inode - 2];
}

/* Null, or the disk of that name, which BACKING must hold. The lock is held. */
static struct faulty_disk *find(const char *name)
{
    for (unsigned i = 0; i < world.disks; i++)
        if (world.disk[i].there && strcmp(world.disk[i].name, name) == 0)
            return &world.disk[i];
    return NULL;
}

/* Finds or opens; *error says why not. */
static struct faulty_disk *find_or_open(const char *name, int flags, mode_t mode, int *error)
{
    pthread_mutex_lock(&world.lock);
    struct faulty_disk *disk = find(name);
    *error = 0;
    if (disk != NULL) {
        if (flags & O_EXCL)
            *error = EEXIST;
        else if (disk->vanished)
            *error = ENOENT;
    } else if (strlen(name) >= NAME_BYTES_MAX) {
        *error = ENAMETOOLONG;
    } else if (world.disks == DISKS_MAX) {
        *error = ENOSPC;
    } else {
        int fd = openat(world.directory, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (flags & (O_CREAT | O_EXCL)), mode);
        if (fd < 0) {
            *error = errno;
        } else {
            disk = &world.disk[world.disks++];
            *disk = (struct faulty_disk){.fd = fd, .there = true};
            memcpy(disk->name, name, strlen(name) + 1);
        }
    }
    pthread_mutex_unlock(&world.lock);
    return *error == 0 ? disk : NULL;
}

static int attributes(fuse_ino_t inode, struct stat *status)
{
    if (fstat(inode == FUSE_ROOT_ID ? world.directory : disk_of(inode)->fd, status) != 0)
        return errno;
    status->st_ino = inode;
    return 0;
}

static bool is_gone(fuse_ino_t inode)
{
    pthread_mutex_lock(&world.lock);
    bool gone = inode != FUSE_ROOT_ID && disk_of(inode)->vanished;
    pthread_mutex_unlock(&world.lock);
    return gone;
}

static int entry_of(const struct faulty_disk *disk, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){.ino = (fuse_ino_t)(disk - world.disk) + 2};
    return attributes(entry->ino, &entry->attr);
}

static void on_init(void *unused, struct fuse_conn_info *connection)
{
    (void)unused;
    connection->max_background = UNDER_WAY_MAX;
    connection->congestion_threshold = UNDER_WAY_MAX;
    connection->max_write = REQUEST_BYTES_MAX;
    connection->max_readahead = 0;
    connection->want &= ~(unsigned)FUSE_CAP_FLOCK_LOCKS; /* the kernel's own */
    connection->want |= connection->capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    int error = ENOENT;
    struct faulty_disk *disk = parent == FUSE_ROOT_ID ? find_or_open(name, 0, 0, &error) : NULL;
    if (disk != NULL)
        error = entry_of(disk, &entry);
    if (error != 0)
        fuse_reply_err(request, error);
    else
        fuse_reply_entry(request, &entry);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    (void)file;
    struct stat status;
    int error = is_gone(inode) ? ENODEV : attributes(inode, &status);
    if (error != 0)
        fuse_reply_err(request, error);
    else
        fuse_reply_attr(request, &status, 0);
}

static void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int what,
                       struct fuse_file_info *file)
{
    if (is_gone(inode) || inode == FUSE_ROOT_ID) {
        fuse_reply_err(request, inode == FUSE_ROOT_ID ? EPERM : ENODEV);
        return;
    }
    int fd = disk_of(inode)->fd;
    if (((what & FUSE_SET_ATTR_SIZE) && ftruncate(fd, wanted->st_size) != 0) ||
        ((what & FUSE_SET_ATTR_MODE) && fchmod(fd, wanted->st_mode) != 0)) {
        fuse_reply_err(request, errno);
        return;
    }
    on_getattr(request, inode, file);
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *file)
{
    struct fuse_entry_param entry;
    int error = EPERM;
    struct faulty_disk *disk =
        parent == FUSE_ROOT_ID ? find_or_open(name, O_CREAT | (file->flags & O_EXCL), mode, &error) : NULL;
    if (disk != NULL)
        error = entry_of(disk, &entry);
    file->direct_io = 1;
    if (error != 0)
        fuse_reply_err(request, error);
    else
        fuse_reply_create(request, &entry, file);
}

static void on_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    (void)parent;
    int error = unlinkat(world.directory, name, 0) == 0 ? 0 : errno;
    pthread_mutex_lock(&world.lock);
    struct faulty_disk *disk = error == 0 ? find(name) : NULL;
    if (disk != NULL)
        disk->there = false;
    pthread_mutex_unlock(&world.lock);
    fuse_reply_err(request, error);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    file->direct_io = 1;
    if (is_gone(inode))
        fuse_reply_err(request, ENODEV);
    else
        fuse_reply_open(request, file);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t bytes, off_t offset, struct fuse_file_info *file)
{
    (void)file;
    take_off(request, disk_of(inode), OP_READ, NULL, bytes, offset);
}

static void on_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t bytes, off_t offset,
                     struct fuse_file_info *file)
{
    (void)file;
    take_off(request, disk_of(inode), OP_WRITE, data, bytes, offset);
}

static void on_fsync(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *file)
{
    (void)data_only, (void)file;
    take_off(request, disk_of(inode), OP_FLUSH, NULL, 0, 0);
}

static void on_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                         struct fuse_file_info *file)
{
    (void)file;
    int error = is_gone(inode) ? ENODEV : 0;
    if (error == 0 && fallocate(disk_of(inode)->fd, mode, offset, length) != 0)
        error = errno;
    fuse_reply_err(request, error);
}

static void on_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, struct fuse_file_info *file)
{
    (void)file;
    off_t at = is_gone(inode) ? (errno = ENODEV, -1) : lseek(disk_of(inode)->fd, offset, whence);
    if (at < 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_lseek(request, at);
}

static void on_statfs(fuse_req_t request, fuse_ino_t inode)
{
    (void)inode;
    struct statvfs system;
    if (fstatvfs(world.directory, &system) != 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_statfs(request, &system);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .create = on_create,
    .unlink = on_unlink,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
    .fallocate = on_fallocate,
    .lseek = on_lseek,
    .statfs = on_statfs,
};

/* ---- the control socket: a line in, a line out ------------------------------------------------------ */

static bool number_read(const char *text, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = text != NULL ? strtoull(text, &end, 10) : 0;
    if (text == NULL || errno != 0 || end == text || *end != '\0' || text[0] == '-')
        return false;
    *number = value;
    return true;
}

/* One "key=value" of `fault`. */
static bool fault_option(struct fault *fault, const char *word)
{
    uint64_t ms;
    if (strncmp(word, "op=", 3) == 0) {
        static const char *const op_name[] = {"any", "read", "write", "flush"};
        for (unsigned i = 0; i < 4; i++) {
            if (strcmp(word + 3, op_name[i]) == 0) {
                fault->op = (enum op)i;
                return true;
            }
        }
        return false;
    }
    if (strncmp(word, "after=", 6) == 0)
        return number_read(word + 6, &fault->after);
    if (strncmp(word, "count=", 6) == 0)
        return number_read(word + 6, &fault->count);
    if (strncmp(word, "one_in=", 7) == 0)
        return number_read(word + 7, &fault->one_in);
    if (strncmp(word, "ms=", 3) != 0 || !number_read(word + 3, &ms) || ms > UINT32_MAX)
        return false;
    fault->delay_ns = ms * 1000000;
    return true;
}

static const char *arm(struct faulty_disk *disk, char **rest)
{
    const char *word = strtok_r(NULL, " ", rest);
    struct fault fault = {.kind = KINDS, .count = 1};
    for (int i = 0; word != NULL && i < KINDS; i++)
        if (strcmp(word, kind_name[i]) == 0)
            fault.kind = (enum kind)i;
    if (fault.kind == KINDS)
        return "error no such kind of fault\n";
    while ((word = strtok_r(NULL, " ", rest)) != NULL)
        if (!fault_option(&fault, word))
            return "error no such option, or no such value\n";
    struct fault *armed = malloc(sizeof *armed);
    if (armed == NULL)
        return "error no memory\n";
    *armed = fault;
    struct fault **end = &disk->faults;
    while (*end != NULL)
        end = &(*end)->next;
    *end = armed;
    return "ok\n";
}

static void disarm(struct faulty_disk *disk)
{
    while (disk->faults != NULL) {
        struct fault *fault = disk->faults;
        disk->faults = fault->next;
        free(fault);
    }
}

static const char *flip_at_rest(struct faulty_disk *disk, char **rest)
{
    uint64_t offset, bit;
    uint8_t byte;
    if (!number_read(strtok_r(NULL, " ", rest), &offset) || !number_read(strtok_r(NULL, " ", rest), &bit) || bit > 7)
        return "error flip NAME OFFSET BIT\n";
    if (pread(disk->fd, &byte, 1, (off_t)offset) != 1)
        return "error nothing is there\n";
    byte ^= (uint8_t)(1u << bit);
    return pwrite(disk->fd, &byte, 1, (off_t)offset) == 1 ? "ok\n" : "error it cannot be written\n";
}

static void state_of(const struct faulty_disk *disk, char *answer, size_t room)
{
    unsigned hung = 0, delayed = 0;
    for (const struct flight *flight = world.waiting; flight != NULL; flight = flight->next) {
        hung += flight->disk == disk && flight->hung;
        delayed += flight->disk == disk && struck_by(flight, DELAYED);
    }
    snprintf(answer, room,
             "ok reads=%llu writes=%llu flushes=%llu read_bytes=%llu written_bytes=%llu under_way=%llu "
             "delayed=%u hung=%u struck=%llu\n",
             (unsigned long long)disk->reads, (unsigned long long)disk->writes, (unsigned long long)disk->flushes,
             (unsigned long long)disk->read_bytes, (unsigned long long)disk->written_bytes,
             (unsigned long long)disk->under_way, delayed, hung, (unsigned long long)disk->struck);
}

/* The lock is held. */
static void command(char *line, char *answer, size_t room)
{
    char *rest;
    const char *verb = strtok_r(line, " ", &rest);
    const char *name = strtok_r(NULL, " ", &rest);
    struct faulty_disk *disk = name != NULL ? find(name) : NULL;
    const char *said = "ok\n";
    if (verb == NULL || disk == NULL) {
        said = "error no such disk\n";
    } else if (strcmp(verb, "fault") == 0) {
        said = arm(disk, &rest);
    } else if (strcmp(verb, "clear") == 0) {
        disarm(disk);
    } else if (strcmp(verb, "release") == 0) {
        for (struct flight *flight = world.waiting; flight != NULL; flight = flight->next)
            flight->hung = flight->hung && flight->disk != disk;
        pthread_cond_signal(&world.changed);
    } else if (strcmp(verb, "vanish") == 0) {
        disk->vanished = true;
    } else if (strcmp(verb, "return") == 0) {
        disk->vanished = false;
    } else if (strcmp(verb, "bandwidth") == 0) {
        said = number_read(strtok_r(NULL, " ", &rest), &disk->bandwidth) ? "ok\n" : "error bandwidth NAME N\n";
    } else if (strcmp(verb, "flip") == 0) {
        said = flip_at_rest(disk, &rest);
    } else if (strcmp(verb, "state") == 0) {
        state_of(disk, answer, room);
        return;
    } else {
        said = "error no such command\n";
    }
    snprintf(answer, room, "%s", said);
}

static void serve(int connection)
{
    char line[LINE_BYTES_MAX], answer[LINE_BYTES_MAX];
    size_t length = 0;
    ssize_t part;
    while (length < sizeof line - 1 && (part = read(connection, line + length, sizeof line - 1 - length)) > 0) {
        length += (size_t)part;
        line[length] = '\0';
        char *end = strchr(line, '\n');
        if (end == NULL)
            continue;
        *end = '\0';
        pthread_mutex_lock(&world.lock);
        command(line, answer, sizeof answer);
        pthread_mutex_unlock(&world.lock);
        if (send(connection, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            perror("faulty-fuse: control");
        return;
    }
}

static void *control_run(void *listener)
{
    for (;;) {
        int connection = accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0 && errno != EINTR && errno != ECONNABORTED)
            return NULL;
        if (connection < 0)
            continue;
        serve(connection);
        close(connection);
    }
}

static int control_open(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "faulty-fuse: %s: too long a path for a socket\n", path);
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 8) != 0) {
        perror("faulty-fuse: the control socket");
        return -1;
    }
    return fd;
}

/* ---- main ------------------------------------------------------------------------------------------- */

static int run(struct fuse_session *session, int control)
{
    pthread_t clock, controller;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&world.changed, &attributes);
    sigset_t all, before; /* signals are for main: they have to wake its read */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&clock, NULL, clock_run, NULL) != 0 ||
        pthread_create(&controller, NULL, control_run, &control) != 0)
        return EXIT_FAILURE;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    puts("ready");
    fflush(stdout);
    int result = fuse_session_loop(session);
    pthread_mutex_lock(&world.lock);
    world.ending = true;
    pthread_cond_signal(&world.changed);
    pthread_mutex_unlock(&world.lock);
    pthread_join(clock, NULL);
    shutdown(control, SHUT_RDWR);
    pthread_join(controller, NULL);
    return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 5 || (argc == 5 && !number_read(argv[4], &world.random))) {
        fprintf(stderr, "usage: tapeloop-faulty-fuse BACKING MOUNTPOINT CONTROL [SEED]\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    world.directory = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (world.directory < 0) {
        perror(argv[1]);
        return EXIT_FAILURE;
    }
    char *words[] = {argv[0], (char *)(uintptr_t) "-ofsname=faulty,subtype=tapeloop",
                     geteuid() == 0 ? (char *)(uintptr_t) "-oallow_other" : NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(geteuid() == 0 ? 3 : 2, words);
    struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
    fuse_opt_free_args(&arguments);
    if (session == NULL || fuse_set_signal_handlers(session) != 0)
        return EXIT_FAILURE;
    if (access("/dev/fuse", R_OK | W_OK) != 0 || fuse_session_mount(session, argv[2]) != 0) {
        fprintf(stderr, "faulty-fuse: this machine lets us mount nothing: skipped\n");
        fuse_session_destroy(session);
        return EXIT_SKIPPED;
    }
    int control = control_open(argv[3]);
    int result = control < 0 ? EXIT_FAILURE : run(session, control);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    unlink(argv[3]);
    return result;
}
