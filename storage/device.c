/*
 * device.c - see device.h.
 *
 * A path leads to a device number, that to a directory in sysfs, and from there down to the device at the
 * bottom: a partition to its disk, a loop device to the disk below its file, a mapped device to the one that it is made of. One that
 * is made of several is its own bottom.
 */
#include "device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libudev.h>
#include <limits.h>
#include <linux/fs.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"
#include "disk_format.h"

#define DEPTH_MAX 8 /* loop device on a partition on a mapped device ...: more is a loop of another kind */
#define DOMAIN_ENCLOSURE (UINT64_C(1) << 63) /* keeps names of enclosures and device numbers apart */

extern char **environ;

/* ---- sysfs ----------------------------------------------------------------------------------- */

/* The first line of directory/name without blanks at its ends; false where there is none. */
static bool attribute(const char *directory, const char *name, char *text, size_t text_bytes)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, text_bytes - 1);
    close(fd);
    if (length <= 0)
        return false;
    text[length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    size_t blanks = strspn(text, " ");
    memmove(text, text + blanks, strlen(text + blanks) + 1);
    for (size_t end = strlen(text); end > 0 && text[end - 1] == ' '; end--)
        text[end - 1] = '\0';
    return text[0] != '\0';
}

static uint64_t attribute_number(const char *directory, const char *name)
{
    char text[32];
    return attribute(directory, name, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

/* The directory of a device number, without links in its path. */
static bool directory_of(const char *sysfs, dev_t number, char directory[PATH_MAX])
{
    char path[PATH_MAX];
    return (size_t)snprintf(path, sizeof path, "%s/dev/block/%u:%u", sysfs, major(number),
                            minor(number)) < sizeof path &&
           realpath(path, directory) != NULL;
}

static bool number_of(const char *directory, dev_t *number)
{
    char text[32];
    unsigned high, low;
    if (!attribute(directory, "dev", text, sizeof text) || sscanf(text, "%u:%u", &high, &low) != 2)
        return false;
    *number = makedev(high, low);
    return true;
}

static void parent_of(char *directory)
{
    char *slash = strrchr(directory, '/');
    if (slash && slash != directory)
        *slash = '\0';
}

/* The only entry of directory/slaves, if there is one and no other. */
static bool only_slave(const char *directory, char slave[PATH_MAX])
{
    char path[PATH_MAX];
    unsigned count = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/slaves", directory) >= sizeof path)
        return false;
    DIR *slaves = opendir(path);
    if (!slaves)
        return false;
    for (struct dirent *entry; (entry = readdir(slaves));) {
        if (entry->d_name[0] == '.')
            continue;
        char link[PATH_MAX];
        if (++count == 1 &&
            ((size_t)snprintf(link, sizeof link, "%s/%s", path, entry->d_name) >= sizeof link ||
             !realpath(link, slave)))
            count = 2;
    }
    closedir(slaves);
    return count == 1;
}

/* One step down. `directory` and *number are changed only where there is one. */
static bool step_down(const char *sysfs, char directory[PATH_MAX], dev_t *number)
{
    char next[PATH_MAX], text[PATH_MAX];
    struct stat status;
    dev_t below;
    if (attribute(directory, "partition", text, sizeof text)) {
        memcpy(next, directory, strlen(directory) + 1);
        parent_of(next);
        if (!number_of(next, &below))
            return false;
    } else if (attribute(directory, "loop/backing_file", text, sizeof text)) {
        if (stat(text, &status) != 0)
            return false;
        below = S_ISBLK(status.st_mode) ? status.st_rdev : status.st_dev;
        if (!directory_of(sysfs, below, next)) { /* on a file system without a device */
            *number = below;
            return false;
        }
    } else if (!only_slave(directory, next) || !number_of(next, &below)) {
        return false;
    }
    memcpy(directory, next, strlen(next) + 1);
    *number = below;
    return true;
}

/* ---- who it is ------------------------------------------------------------------------------- */

static bool take_property(struct udev_device *udev, const char *name, const char *kind,
                          char identity[DEVICE_IDENTITY_SIZE])
{
    const char *value = udev_device_get_property_value(udev, name);
    if (!value || !value[0])
        return false;
    snprintf(identity, DEVICE_IDENTITY_SIZE, "%s:%s", kind, value);
    return true;
}

static void identity_by_udev(struct udev_device *udev, char identity[DEVICE_IDENTITY_SIZE])
{
    if (!take_property(udev, "ID_WWN_WITH_EXTENSION", "wwn", identity) &&
        !take_property(udev, "ID_WWN", "wwn", identity) &&
        !take_property(udev, "ID_SERIAL", "serial", identity) &&
        !take_property(udev, "DM_UUID", "dm", identity))
        (void)take_property(udev, "MD_UUID", "md", identity);
}

/* Where no udev runs. The kernel's names for the same things. */
static void identity_by_kernel(const char *directory, char identity[DEVICE_IDENTITY_SIZE])
{
    static const struct {
        const char *name, *kind;
    } source[] = {
        {"wwid", "wwn"},      {"device/wwid", "wwn"}, {"serial", "serial"}, {"device/serial", "serial"},
        {"dm/uuid", "dm"},    {"md/uuid", "md"},
    };
    char text[DEVICE_IDENTITY_SIZE - 16];
    for (size_t i = 0; i < sizeof source / sizeof source[0]; i++)
        if (attribute(directory, source[i].name, text, sizeof text)) {
            snprintf(identity, DEVICE_IDENTITY_SIZE, "%s:%s", source[i].kind, text);
            return;
        }
}

/* The link of udev's that says most about who it is; by WWN rather than by model. */
static void stable_path_of(struct udev_device *udev, char path[DEVICE_PATH_SIZE])
{
    static const char by_id[] = "/dev/disk/by-id/";
    struct udev_list_entry *entry;
    udev_list_entry_foreach(entry, udev_device_get_devlinks_list_entry(udev))
    {
        const char *link = udev_list_entry_get_name(entry);
        if (!link || strncmp(link, by_id, sizeof by_id - 1) != 0 || strlen(link) >= DEVICE_PATH_SIZE)
            continue;
        bool by_wwn = strncmp(link + sizeof by_id - 1, "wwn-", 4) == 0;
        if (path[0] == '\0' || by_wwn)
            memcpy(path, link, strlen(link) + 1);
        if (by_wwn)
            return;
    }
}

static void identify(const char *directory, dev_t number, struct device *device)
{
    char disk[PATH_MAX], part[16];
    dev_t disk_number = number;
    bool is_part = attribute(directory, "partition", part, sizeof part);
    memcpy(disk, directory, strlen(directory) + 1);
    if (is_part) {
        parent_of(disk);
        (void)number_of(disk, &disk_number);
    }
    struct udev *udev = udev_new();
    struct udev_device *whole = udev ? udev_device_new_from_devnum(udev, 'b', disk_number) : NULL;
    struct udev_device *own = udev ? udev_device_new_from_devnum(udev, 'b', number) : NULL;
    if (whole)
        identity_by_udev(whole, device->identity);
    if (own)
        stable_path_of(own, device->stable_path);
    if (device->identity[0] == '\0')
        identity_by_kernel(disk, device->identity);
    for (char *byte = device->identity; *byte; byte++) /* what a maker wrote may be anything */
        if (*byte < ' ' || *byte > '~')
            *byte = '_';
    size_t length = strlen(device->identity);
    if (is_part && length > 0)
        snprintf(device->identity + length, sizeof device->identity - length, "-part%.8s", part);
    udev_device_unref(own);
    udev_device_unref(whole);
    udev_unref(udev);
}

/* ---- where it sits --------------------------------------------------------------------------- */

static uint64_t domain_of_text(const char *text)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a: any spread will do */
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * UINT64_C(1099511628211);
    return hash | DOMAIN_ENCLOSURE;
}

/* The kernel's SES driver puts a link "enclosure_device:SLOT" beside the disk. */
static void find_enclosure(const char *directory, struct device *device)
{
    static const char prefix[] = "enclosure_device:";
    char path[PATH_MAX], place[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/device", directory) >= sizeof path)
        return;
    DIR *entries = opendir(path);
    if (!entries)
        return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        char link[PATH_MAX];
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0 ||
            (size_t)snprintf(link, sizeof link, "%s/%s", path, entry->d_name) >= sizeof link ||
            !realpath(link, place) || strlen(place) >= sizeof device->enclosure_path)
            continue;
        memcpy(device->enclosure_path, place, strlen(place) + 1);
        snprintf(device->enclosure_slot, sizeof device->enclosure_slot, "%.63s",
                 entry->d_name + sizeof prefix - 1);
        parent_of(place);
        if (!attribute(place, "id", device->enclosure, sizeof device->enclosure)) {
            const char *name = strrchr(place, '/');
            snprintf(device->enclosure, sizeof device->enclosure, "%.63s", name ? name + 1 : place);
        }
        break;
    }
    closedir(entries);
}

static void find_domain(const char *sysfs, const char *start, dev_t number, struct device *device)
{
    char directory[PATH_MAX];
    memcpy(directory, start, strlen(start) + 1);
    for (int depth = 0; depth < DEPTH_MAX && step_down(sysfs, directory, &number); depth++)
        ;
    find_enclosure(directory, device);
    device->failure_domain = device->enclosure[0] ? domain_of_text(device->enclosure)
                                                  : (uint64_t)number & ~DOMAIN_ENCLOSURE;
}

/* ---- looking --------------------------------------------------------------------------------- */

int device_look_in(const char *sysfs, const char *path, struct device *device, struct failure *failure)
{
    struct stat status;
    char directory[PATH_MAX];
    *device = (struct device){0};
    if (stat(path, &status) != 0)
        return fail_errno(failure, errno, "%s", path);
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(failure, ERR_INVALID, "%s is neither a file nor a block device", path);
    device->is_file = S_ISREG(status.st_mode);
    dev_t number = device->is_file ? status.st_dev : status.st_rdev;
    /* A file system without a device (tmpfs, overlay, some btrfs): what shares its number shares its fate. */
    device->failure_domain = (uint64_t)number;
    if (!directory_of(sysfs, number, directory))
        return 0;
    find_domain(sysfs, directory, number, device);
    if (device->is_file)
        return 0;
    identify(directory, number, device);
    char queue[PATH_MAX];
    memcpy(queue, directory, strlen(directory) + 1);
    if (attribute_number(queue, "partition") > 0)
        parent_of(queue);
    device->logical_bytes = (uint32_t)attribute_number(queue, "queue/logical_block_size");
    device->physical_bytes = (uint32_t)attribute_number(queue, "queue/physical_block_size");
    device->discards = attribute_number(queue, "queue/discard_max_bytes") > 0;
    return 0;
}

int device_look(const char *path, struct device *device, struct failure *failure)
{
    return device_look_in("/sys", path, device, failure);
}

int device_check_limits(const struct device *device, const char *path, struct failure *failure)
{
    if (device->logical_bytes <= PAGE_BYTES)
        return 0;
    return fail(failure, ERR_UNSUPPORTED,
                "%s has blocks of %u bytes: a ring writes %u bytes at once, and cannot use it", path,
                device->logical_bytes, PAGE_BYTES);
}

void device_discard(int fd, const struct device *device, uint64_t bytes)
{
    uint64_t range[2] = {0, round_down(bytes, PAGE_BYTES)};
    if (!device->is_file && device->discards && range[1] > 0)
        (void)ioctl(fd, BLKDISCARD, range);
}

/* ---- finding --------------------------------------------------------------------------------- */

int device_find(const char *identity, bool (*is_it)(const char *path, void *context), void *context,
                char path[DEVICE_PATH_SIZE])
{
    static const char class[] = "/sys/class/block";
    int result = ERR_NOT_FOUND;
    DIR *entries = opendir(class);
    if (!entries)
        return ERR_NOT_FOUND;
    for (struct dirent *entry; result != 0 && (entry = readdir(entries));) {
        char directory[PATH_MAX], candidate[DEVICE_PATH_SIZE];
        struct device device;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(directory, sizeof directory, "%s/%s", class, entry->d_name);
        if (attribute_number(directory, "size") == 0)
            continue;
        if ((size_t)snprintf(candidate, sizeof candidate, "/dev/%s", entry->d_name) >= sizeof candidate)
            continue;
        for (char *bang = candidate; (bang = strchr(bang, '!'));) /* sysfs has no '/' in names */
            *bang = '/';
        if (device_look(candidate, &device, NULL) != 0 || device.is_file ||
            strcmp(device.identity, identity) != 0 || !is_it(candidate, context))
            continue;
        memcpy(path, candidate, strlen(candidate) + 1);
        result = 0;
    }
    closedir(entries);
    return result;
}

/* ---- the lamp -------------------------------------------------------------------------------- */

static int write_lamp(const char *path, const char *place, bool on, struct failure *failure)
{
    char lamp[PATH_MAX];
    if ((size_t)snprintf(lamp, sizeof lamp, "%s/locate", place) >= sizeof lamp)
        return fail(failure, ERR_INVALID, "%s: too long a path", place);
    int fd = open(lamp, O_WRONLY | O_CLOEXEC);
    int number = errno;
    if (fd >= 0) {
        number = write(fd, on ? "1" : "0", 1) == 1 ? 0 : errno;
        close(fd);
    }
    return number == 0 ? 0 : fail_errno(failure, number, "%s: the lamp of its slot (%s)", path, lamp);
}

/* Whether ledctl was there; *status is what it ended with. */
static bool run_ledctl(const char *path, bool on, int *status)
{
    char request[DEVICE_PATH_SIZE + 32];
    snprintf(request, sizeof request, "%s=%s", on ? "locate" : "locate_off", path);
    char *const words[] = {"ledctl", request, NULL};
    static const char *const where[] = {"/usr/sbin/ledctl", "/usr/bin/ledctl", "/sbin/ledctl"};
    for (size_t i = 0; i < sizeof where / sizeof where[0]; i++) {
        pid_t child;
        if (access(where[i], X_OK) != 0 || posix_spawn(&child, where[i], NULL, NULL, words, environ) != 0)
            continue;
        while (waitpid(child, status, 0) < 0 && errno == EINTR)
            ;
        return true;
    }
    return false;
}

int device_locate(const char *path, bool on, struct failure *failure)
{
    struct device device;
    int result = device_look(path, &device, failure);
    if (result != 0)
        return result;
    if (device.enclosure_path[0])
        return write_lamp(path, device.enclosure_path, on, failure);
    int status = 0;
    if (device.is_file)
        return fail(failure, ERR_UNSUPPORTED,
                    "%s is a file, and the disk below it is in no enclosure with lamps", path);
    if (!run_ledctl(path, on, &status))
        return fail(failure, ERR_UNSUPPORTED,
                    "%s has no lamp: the kernel knows no enclosure of it, and ledctl (package ledmon) is "
                    "not installed",
                    path);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return fail(failure, ERR_UNSUPPORTED, "%s has no lamp: neither the kernel nor ledctl knows one", path);
    return 0;
}
