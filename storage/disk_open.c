/*
 * disk_open.c - opening, locking and making the files and block devices that disk_uring.c serves.
 *
 * The fence: a recorder holds a file by flock(2) and a device by O_EXCL, on the descriptor that its
 * ring uses. Both last until the kernel has let go of the last write of a killed process, which a
 * lock of fcntl(2) or a pid file does not. So ERR_BUSY may pass by itself soon after a kill; the
 * caller tries again for as long as it sees fit.
 *
 * Nothing is written before the disk is locked and, without `force`, found empty (promise P9). What
 * a failed creation has allocated is given back.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <blkid/blkid.h>

#include "bytes.h"
#include "device.h"
#include "disk_uring.h"
#include "superblock.h"
#include "text.h"

#define FILE_MODE 0600    /* other people's packets */
#define SIGNATURES_MAX 64 /* wiped from one device: more is a loop */

/* ---- what a descriptor is -------------------------------------------------------------------- */

static int source_alignment(int fd, const struct stat *status, struct disk_source *source,
                            struct failure *failure)
{
    source->alignment = 1;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_DIRECT) == 0)
        return 0;
    source->alignment = 512;
    int sector;
    if (S_ISBLK(status->st_mode) && ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
        source->alignment = (uint32_t)sector;
#ifdef STATX_DIOALIGN
    struct statx more;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0 &&
        (more.stx_mask & STATX_DIOALIGN) != 0 && more.stx_dio_offset_align > 0) {
        source->alignment = more.stx_dio_offset_align;
        if (more.stx_dio_mem_align > source->alignment)
            source->alignment = more.stx_dio_mem_align;
    }
#endif
    if (source->alignment > PAGE_BYTES || PAGE_BYTES % source->alignment != 0)
        return fail(failure, ERR_UNSUPPORTED, "%s asks for an alignment of %u bytes, more than %u",
                    source->name, source->alignment, PAGE_BYTES);
    return 0;
}

/* Fills bytes and alignment of an open descriptor; refuses what is neither a file nor a block
 * device. */
static int source_measure(int fd, struct disk_source *source, struct failure *failure)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "%s", source->name);
    if (S_ISREG(status.st_mode)) {
        source->bytes = (uint64_t)status.st_size;
    } else if (S_ISBLK(status.st_mode)) {
        if (ioctl(fd, BLKGETSIZE64, &source->bytes) != 0)
            return fail_errno(failure, errno, "%s: its size", source->name);
    } else {
        return fail(failure, ERR_INVALID, "%s is neither a file nor a block device", source->name);
    }
    return source_alignment(fd, &status, source, failure);
}

/*
 * open(2) past the page cache, or through it where the file system knows no other way. Never
 * blocks, and never opens what is not a file or block device: a tape would rewind, a FIFO wait.
 */
static int open_direct(const char *path, int flags, mode_t mode, struct failure *failure)
{
    struct stat status;
    if (stat(path, &status) == 0) {
        if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
            return fail(failure, ERR_INVALID, "%s is neither a file nor a block device", path);
        if (S_ISBLK(status.st_mode) && (flags & O_ACCMODE) != O_RDONLY)
            flags |= O_EXCL;
    }
    flags |= O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int fd;
    do
        fd = open(path, flags | O_DIRECT, mode);
    while (fd < 0 && errno == EINTR);
    if (fd < 0 && errno == EINVAL) {
        if (flags & O_CREAT) /* it may have been made before the file system looked at O_DIRECT */
            flags &= ~O_EXCL;
        fd = open(path, flags, mode);
    }
    if (fd >= 0)
        return fd;
    if (errno == EBUSY)
        return fail(failure, ERR_BUSY,
                    "%s is in use: mounted, part of another device, or held by another recorder",
                    path);
    return fail_errno(failure, errno, "%s", path);
}

static int lock_file(int fd, const char *path, struct failure *failure)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "%s", path);
    if (S_ISBLK(status.st_mode))
        return 0; /* O_EXCL has done it */
    int answer;
    do
        answer = flock(fd, LOCK_EX | LOCK_NB);
    while (answer != 0 && errno == EINTR);
    if (answer != 0 && errno == EWOULDBLOCK)
        return fail(failure, ERR_BUSY, "%s is in use, by a ring or by another recorder", path);
    if (answer != 0 || fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "%s: locking it", path);
    if (status.st_nlink == 0) /* by a recorder that failed to make it */
        return fail(failure, ERR_NOT_FOUND, "%s was removed while it was opened", path);
    return 0;
}

/* Consumes fd. */
static int start(int fd, const char *name, bool read_only, bool locked, struct disk **disk,
                 struct failure *failure)
{
    struct disk_source source = {.fd = fd, .read_only = read_only, .name = name};
    int result = source_measure(fd, &source, failure);
    if (result != 0) {
        close(fd);
        return result;
    }
    source.locked = locked;
    return disk_uring_start(&source, disk, failure);
}

/* The same for a disk that is to be written: with what its copies must not share with others. */
static int start_writing(int fd, const char *path, struct disk **disk, struct failure *failure)
{
    struct device device;
    int result = device_look(path, &device, failure);
    if (result == 0)
        result = device_check_limits(&device, path, failure);
    if (result != 0) {
        close(fd);
        return result;
    }
    result = start(fd, path, false, true, disk, failure);
    if (result == 0)
        (*disk)->failure_domain = device.failure_domain;
    return result;
}

int disk_uring_open(const char *path, enum disk_open_mode mode, struct disk **disk,
                    struct failure *failure)
{
    *disk = NULL;
    bool read_only = mode == DISK_OPEN_READ;
    int fd = open_direct(path, read_only ? O_RDONLY : O_RDWR, 0, failure);
    if (fd < 0)
        return fd;
    int result = read_only ? 0 : lock_file(fd, path, failure);
    if (result != 0) {
        close(fd);
        return result;
    }
    return read_only ? start(fd, path, true, false, disk, failure)
                     : start_writing(fd, path, disk, failure);
}

int disk_uring_from_fd(int fd, const char *name, struct disk **disk, struct failure *failure)
{
    *disk = NULL;
    return start(fd, name, true, false, disk, failure);
}

/* ---- what is on it already ------------------------------------------------------------------- */

static const char *article(const char *word)
{
    return word[0] != 0 && strchr("aeioxAEIOX", word[0]) != NULL ? "an" : "a";
}

/* "an ext4 file system "data"", from what libblkid has found. */
static void describe(blkid_probe probe, char *text, size_t text_bytes)
{
    const char *type = NULL, *usage = NULL, *label = NULL, *table = NULL;
    char shown[64] = "", quoted[72] = "";
    blkid_probe_lookup_value(probe, "PTTYPE", &table, NULL);
    blkid_probe_lookup_value(probe, "TYPE", &type, NULL);
    blkid_probe_lookup_value(probe, "USAGE", &usage, NULL);
    blkid_probe_lookup_value(probe, "LABEL", &label, NULL);
    if (label != NULL && label[0] != 0) {
        text_printable(label, shown, sizeof shown);
        snprintf(quoted, sizeof quoted, " \"%s\"", shown);
    }
    if (type == NULL && table != NULL)
        snprintf(text, text_bytes, "a partition table (%s)", table);
    else if (type == NULL)
        snprintf(text, text_bytes, "data of an unknown kind");
    else if (usage != NULL && strcmp(usage, "filesystem") == 0)
        snprintf(text, text_bytes, "%s %s file system%s", article(type), type, quoted);
    else if (usage != NULL && strcmp(usage, "raid") == 0)
        snprintf(text, text_bytes, "a member of a RAID or volume group (%s)%s", type, quoted);
    else if (usage != NULL && strcmp(usage, "crypto") == 0)
        snprintf(text, text_bytes, "an encrypted volume (%s)%s", type, quoted);
    else
        snprintf(text, text_bytes, "%s data%s", type, quoted);
}

static blkid_probe probe_new(int fd)
{
    blkid_probe probe = blkid_new_probe();
    if (probe == NULL)
        return NULL;
    if (blkid_probe_set_device(probe, fd, 0, 0) != 0) {
        blkid_free_probe(probe);
        return NULL;
    }
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
                                                 BLKID_SUBLKS_LABEL | BLKID_SUBLKS_MAGIC);
    blkid_probe_enable_partitions(probe, 1);
    blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
    return probe;
}

/* libblkid reads as it likes: it needs a descriptor through the page cache. */
static int open_for_probing(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC | O_NONBLOCK);
}

/* 0: nothing is recognised; ERR_FOREIGN: `text` says what. */
static int recognise(const char *path, char *text, size_t text_bytes, struct failure *failure)
{
    int fd = open_for_probing(path, O_RDONLY);
    if (fd < 0)
        return fail_errno(failure, errno, "%s", path);
    blkid_probe probe = probe_new(fd);
    if (probe == NULL) {
        close(fd);
        return fail(failure, ERR_IO, "%s cannot be probed for what it holds", path);
    }
    int answer = blkid_do_safeprobe(probe);
    int result = 0;
    if (answer == 0) {
        describe(probe, text, text_bytes);
        result = ERR_FOREIGN;
    } else if (answer == -2) {
        snprintf(text, text_bytes, "signatures of several kinds of data");
        result = ERR_FOREIGN;
    } else if (answer != 1) {
        result = fail(failure, ERR_IO, "%s cannot be probed for what it holds", path);
    }
    blkid_free_probe(probe);
    close(fd);
    return result;
}

/* Is there one of our superblocks, whole or not? */
static int recognise_ours(int fd, const char *path, char *text, size_t text_bytes,
                          struct failure *failure)
{
    struct superblock *superblock = malloc(sizeof *superblock);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (superblock == NULL || copy < 0) {
        free(superblock);
        if (copy >= 0)
            close(copy);
        return fail(failure, ERR_NO_MEMORY, "%s: no memory or descriptor", path);
    }
    struct disk *disk;
    int result = disk_uring_from_fd(copy, path, &disk, failure);
    if (result == 0) {
        int found = superblock_read(disk, superblock, NULL, failure);
        disk_close(&disk);
        if (found == 0)
            snprintf(text, text_bytes, "a disk of the tapeloop ring \"%s\"", superblock->ring_name);
        else if (found == ERR_CORRUPT || found == ERR_UNSUPPORTED)
            snprintf(text, text_bytes, "a tapeloop disk, damaged or of another version");
        if (found == 0 || found == ERR_CORRUPT || found == ERR_UNSUPPORTED)
            result = ERR_FOREIGN;
        else if (found != ERR_FOREIGN)
            result = found;
    }
    free(superblock);
    return result;
}

static bool has_data(int fd, uint64_t bytes)
{
    if (bytes == 0)
        return false;
    /* Preallocated and never written counts as a hole; where holes are unknown, all is data. */
    return lseek(fd, 0, SEEK_DATA) >= 0 || errno != ENXIO;
}

/* ERR_FOREIGN with the sentence, unless nobody would miss what is there. */
static int refuse_foreign(int fd, const char *path, const struct stat *status,
                          struct failure *failure)
{
    char text[160];
    if (S_ISREG(status->st_mode) && !has_data(fd, (uint64_t)status->st_size))
        return 0;
    int result = recognise_ours(fd, path, text, sizeof text, failure);
    if (result == 0)
        result = recognise(path, text, sizeof text, failure);
    if (result == 0 && S_ISREG(status->st_mode)) {
        snprintf(text, sizeof text, "data");
        result = ERR_FOREIGN;
    }
    if (result != ERR_FOREIGN)
        return result;
    return fail(failure, ERR_FOREIGN, "%s holds %s (use --force to overwrite it)", path, text);
}

/* Takes every signature away that libblkid knows, so that nobody takes the disk for what it was. */
static int wipe_signatures(const char *path, struct failure *failure)
{
    int fd = open_for_probing(path, O_RDWR);
    if (fd < 0)
        return fail_errno(failure, errno, "%s", path);
    blkid_probe probe = probe_new(fd);
    int result = 0;
    if (probe == NULL)
        result = fail(failure, ERR_IO, "%s cannot be probed for what it holds", path);
    for (int i = 0; result == 0 && i < SIGNATURES_MAX && blkid_do_probe(probe) == 0; i++) {
        if (blkid_do_wipe(probe, 0) != 0)
            result = fail(failure, ERR_IO, "%s: wiping the signature of what it held", path);
    }
    if (result == 0 && fsync(fd) != 0)
        result = fail_errno(failure, errno, "%s: wiping the signature of what it held", path);
    if (probe != NULL)
        blkid_free_probe(probe);
    close(fd);
    return result;
}

/* ---- making ---------------------------------------------------------------------------------- */

/* A full file system hurts everybody on it, for as long as a doomed allocation runs: look first. */
static int check_room(int fd, const char *path, uint64_t more_bytes, struct failure *failure)
{
    struct statvfs system;
    char want[TEXT_SIZE_SIZE], have[TEXT_SIZE_SIZE];
    if (fstatvfs(fd, &system) != 0 || system.f_blocks == 0)
        return 0;
    uint64_t free_blocks = geteuid() == 0 ? system.f_bfree : system.f_bavail;
    uint64_t free_bytes = free_blocks * system.f_frsize;
    if (more_bytes <= free_bytes)
        return 0;
    return fail(failure, ERR_NO_SPACE, "%s needs %s more, and its file system has %s left", path,
                text_size(more_bytes, want), text_size(free_bytes, have));
}

static int allocate(int fd, const char *path, uint64_t bytes, struct failure *failure)
{
    char size[TEXT_SIZE_SIZE];
    int answer;
    do
        answer = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;
    while (answer == EINTR);
    if (answer == EOPNOTSUPP)
        answer = posix_fallocate(fd, 0, (off_t)bytes); /* by writing to it */
    if (answer == 0)
        return 0;
    return fail_errno(failure, answer, "%s: allocating %s", path, text_size(bytes, size));
}

/* So that the file is still there after a power cut. */
static int settle_file(int fd, const char *path, struct failure *failure)
{
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof copy)
        return fail(failure, ERR_INVALID, "%s: too long a path", path);
    memcpy(copy, path, strlen(path) + 1);
    int directory = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = 0;
    if (fsync(fd) != 0 || directory < 0 || (fsync(directory) != 0 && errno != EINVAL))
        result = fail_errno(failure, errno, "%s: making the file durable", path);
    if (directory >= 0)
        close(directory);
    return result;
}

/* Gives the file its size; after an error it has the size that it had. */
static int size_file(int fd, const char *path, uint64_t bytes, struct failure *failure)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "%s", path);
    uint64_t allocated = (uint64_t)status.st_blocks * 512;
    int result = 0;
    if (bytes > allocated)
        result = check_room(fd, path, bytes - allocated, failure);
    if (result == 0)
        result = allocate(fd, path, bytes, failure);
    if (result != 0) {
        int ignored = ftruncate(fd, status.st_size);
        (void)ignored;
        return result;
    }
    if ((uint64_t)status.st_size > bytes && ftruncate(fd, (off_t)bytes) != 0)
        return fail_errno(failure, errno, "%s: cutting it to its size", path);
    return 0;
}

/* The descriptor is locked. Makes the file or device at `path` ours to write; leaves it alone after
 * an error. */
static int prepare(int fd, const char *path, uint64_t bytes, bool force, bool is_new,
                   struct failure *failure)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_errno(failure, errno, "%s", path);
    bool is_file = S_ISREG(status.st_mode);
    struct disk_source source = {.fd = fd, .name = path};
    struct device device = {.is_file = is_file};
    if (!is_file) {
        char have[TEXT_SIZE_SIZE], want[TEXT_SIZE_SIZE];
        int result = device_look(path, &device, failure);
        if (result == 0)
            result = device_check_limits(&device, path, failure);
        if (result == 0)
            result = source_measure(fd, &source, failure);
        if (result != 0)
            return result;
        if (bytes > source.bytes)
            return fail(failure, ERR_TOO_SMALL, "%s has %s, less than %s", path,
                        text_size(source.bytes, have), text_size(bytes, want));
    } else if (bytes == 0) {
        bytes = round_down((uint64_t)status.st_size, PAGE_BYTES);
        if (bytes == 0)
            return fail(failure, ERR_INVALID, "%s: a file needs a size, for example %s:100G", path,
                        path);
    }
    int result = force || is_new ? 0 : refuse_foreign(fd, path, &status, failure);
    if (result == 0 && force && !is_new)
        result = wipe_signatures(path, failure);
    if (result == 0)
        device_discard(fd, &device, source.bytes);
    if (result == 0 && force && !is_file)
        ioctl(fd, BLKRRPART); /* the partitions that are gone; where there were none it fails, to no
                                 harm */
    if (result == 0 && is_file)
        result = size_file(fd, path, bytes, failure);
    if (result == 0 && is_file)
        result = settle_file(fd, path, failure);
    return result;
}

int disk_uring_create(const char *path, uint64_t bytes, bool force, struct disk **disk,
                      struct failure *failure)
{
    *disk = NULL;
    if (bytes > INT64_MAX - PAGE_BYTES)
        return fail(failure, ERR_TOO_LARGE, "%s: %llu bytes are too many", path,
                    (unsigned long long)bytes);
    bytes = round_up(bytes, PAGE_BYTES);
    bool is_new = false;
    int fd = open_direct(path, O_RDWR, 0, failure);
    if (fd == ERR_NOT_FOUND && bytes > 0) {
        fd = open_direct(path, O_RDWR | O_CREAT | O_EXCL, FILE_MODE, failure);
        is_new = fd >= 0;
    }
    if (fd < 0)
        return fd;
    int result = lock_file(fd, path, failure);
    if (result != 0) {
        close(fd); /* new or not, it is somebody else's now */
        return result;
    }
    result = prepare(fd, path, bytes, force, is_new, failure);
    if (result != 0) {
        if (is_new)
            unlink(path);
        close(fd);
        return result;
    }
    result = start_writing(fd, path, disk, failure);
    if (result != 0 && is_new)
        unlink(path);
    return result;
}
