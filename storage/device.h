/*
 * device.h - what is behind a path: a file or a block device, who it is whatever it is called today,
 * what it asks of those who write to it, and what it shares its fate with.
 *
 * Names like /dev/sdb go to another disk at the next start. A disk is known by what its maker gave it: its WWN, else its
 * serial number, both as udev reports them, or, where no udev runs, as the kernel does. Of a partition it is the
 * disk's, with "-partN" behind it. Loop devices and the like have none.
 *
 * A failure domain is what fails as one: the enclosure, where the kernel knows one (SES), else the device at the
 * bottom: the disk of a partition, of a file system, or of the file behind a loop device. Files on one file system share a domain.
 *
 * Threads: any. Calls read sysfs and udev's database and may take milliseconds.
 */
#ifndef STORAGE_DEVICE_H
#define STORAGE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"

#define DEVICE_IDENTITY_SIZE 160
#define DEVICE_PATH_SIZE 256

struct device {
    bool is_file;
    char identity[DEVICE_IDENTITY_SIZE]; /* "wwn:0x5000c500a1b2c3d4", "serial:S3Z9NB0K"; "" where there is none */
    char stable_path[DEVICE_PATH_SIZE];  /* "/dev/disk/by-id/..." of udev's; "" where there is none */
    uint32_t logical_bytes;              /* smallest unit of transfer; 0 of a file */
    uint32_t physical_bytes;
    bool discards;                       /* takes BLKDISCARD */
    uint64_t failure_domain;             /* 0: not known */
    char enclosure[64];                  /* "" where it is in none that is known */
    char enclosure_slot[64];             /* its place in it */
    char enclosure_path[512];            /* sysfs directory of that place: `locate` is the lamp */
};

/* Looks at what is behind a path. ERR_NOT_FOUND, ERR_PERMISSION, ERR_INVALID (neither file nor block device). */
int device_look(const char *path, struct device *device, struct failure *failure);

/* The same with another directory for /sys: for tests. */
int device_look_in(const char *sysfs, const char *path, struct device *device, struct failure *failure);

/* 0, or ERR_UNSUPPORTED with a sentence: its blocks are larger than what a ring writes at once. */
int device_check_limits(const struct device *device, const char *path, struct failure *failure);

/*
 * Tells a whole block device that none of its contents are needed any more, where it takes that; a file is left alone, for
 * its room must stay its own. A hint: what goes wrong is of no consequence.
 */
void device_discard(int fd, const struct device *device, uint64_t bytes);

/*
 * Looks through all block devices for the one that had `identity`; "" stands for those without one. `is_it`
 * decides, by what is on it. 0 and its path, or ERR_NOT_FOUND.
 */
int device_find(const char *identity, bool (*is_it)(const char *path, void *context), void *context,
                char path[DEVICE_PATH_SIZE]);

/*
 * Lights or darkens the lamp of the disk's slot, through the kernel's enclosure class, else through ledctl, where that is
 * installed. ERR_UNSUPPORTED with a sentence: there is no such lamp; ERR_IO, ERR_PERMISSION.
 */
int device_locate(const char *path, bool on, struct failure *failure);

#endif
