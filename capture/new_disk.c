#include "new_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ring_opening.h"
#include "superblock.h"
#include "text.h"

int new_disk_take_path(struct request *request, const char *path, struct new_disk *disk)
{
    char shown[128];
    text_printable(path, shown, sizeof shown);
    if (path[0] != '/')
        return fail(&request->failure, ERR_INVALID,
                    "disk \"%s\": the path does not begin at the root", shown);
    if (strlen(path) >= sizeof disk->path)
        return fail(&request->failure, ERR_INVALID, "disk \"%s\": the path is too long", shown);
    memcpy(disk->path, path, strlen(path) + 1);
    return 0;
}

/* A file has no size of its own before it is made. */
static int check_size(struct request *request, const struct new_disk *disk)
{
    struct stat status;
    bool there = stat(disk->path, &status) == 0;
    if (disk->bytes > 0 || (there && S_ISBLK(status.st_mode)))
        return 0;
    if (there && S_ISREG(status.st_mode) && status.st_size > 0)
        return 0;
    if (!there && errno != ENOENT)
        return fail_errno(&request->failure, errno, "%s", disk->path);
    return fail(&request->failure, ERR_INVALID, "disk %s: how large is it to be? Say PATH:SIZE",
                disk->path);
}

int new_disk_take(struct request *request, const json_t *object, struct new_disk *disk)
{
    const char *key;
    const json_t *value, *path = json_object_get(object, "path");
    json_t *bytes = json_object_get(object, "bytes");
    if (!json_is_object(object) || !json_is_string(path) ||
        strlen(json_string_value(path)) != json_string_length(path))
        return fail(&request->failure, ERR_INVALID, "a disk is given by its path and its bytes");
    json_object_foreach((json_t *)object, key, value)
    {
        if (strcmp(key, "path") != 0 && strcmp(key, "bytes") != 0)
            return fail(&request->failure, ERR_INVALID, "a disk has a path and bytes, no more");
    }
    if (bytes && !json_is_null(bytes) && (!json_is_integer(bytes) || json_integer_value(bytes) < 0))
        return fail(&request->failure, ERR_INVALID, "the bytes of a disk are a whole number");
    disk->bytes = (uint64_t)json_integer_value(bytes);
    int code = new_disk_take_path(request, json_string_value(path), disk);
    return code != 0 ? code : check_size(request, disk);
}

int new_disk_create(struct new_disk *disk, bool force, struct failure *failure)
{
    struct stat status;
    disk->was_there = lstat(disk->path, &status) == 0;
    return disk_uring_create(disk->path, disk->bytes, force, &disk->disk, failure);
}

void new_disk_undo(struct new_disk *disk)
{
    if (disk->was_there && disk->written) {
        if (!disk->disk) /* the ring closed it */
            (void)disk_uring_open(disk->path, DISK_OPEN_EXCLUSIVE, &disk->disk, NULL);
        struct superblock *superblock = malloc(sizeof *superblock);
        /* Its geometry is not known yet if the format failed at its first write. */
        if (disk->disk && superblock &&
            (disk->disk->geometry.disk_bytes > 0 ||
             superblock_read(disk->disk, superblock, NULL, NULL) == 0))
            (void)disk_wipe_superblocks(disk->disk, NULL);
        free(superblock);
    }
    bool made = disk->disk || disk->written;
    disk_close(&disk->disk);
    if (made && !disk->was_there)
        (void)unlink(disk->path);
}
