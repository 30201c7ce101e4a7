/*
 * faulty_vfs.c - passes everything to the real VFS, but for the operations that were armed.
 */
#include "faulty_vfs.h"

#include <assert.h>
#include <pthread.h>
#include <sqlite3.h>
#include <string.h>

struct faulty_file {
    sqlite3_file head;
    sqlite3_file *inner;
    uint32_t unsynced;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* all below */
static unsigned armed;
static uint32_t left;
static bool once;
static int armed_result;
static uint32_t struck;
static uint32_t unsynced;
static uint32_t syncs;

static sqlite3_vfs *real;

/* SQLITE_OK, or the failure that is due. */
static int strike(enum faulty_operation operation)
{
    int result = SQLITE_OK;
    pthread_mutex_lock(&lock);
    if (armed & operation) {
        if (left > 0) {
            left--;
        } else {
            result = armed_result;
            struck++;
            if (once)
                armed = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static struct faulty_file *faulty_of(sqlite3_file *file)
{
    return (struct faulty_file *)(void *)file;
}

static void note_write(struct faulty_file *file)
{
    pthread_mutex_lock(&lock);
    file->unsynced++;
    unsynced++;
    pthread_mutex_unlock(&lock);
}

static void note_sync(struct faulty_file *file, bool closed)
{
    pthread_mutex_lock(&lock);
    unsynced -= file->unsynced;
    file->unsynced = 0;
    syncs += !closed;
    pthread_mutex_unlock(&lock);
}

static int file_close(sqlite3_file *file)
{
    struct faulty_file *faulty = faulty_of(file);
    note_sync(faulty, true);
    int result = faulty->inner->pMethods->xClose(faulty->inner);
    sqlite3_free(faulty->inner);
    return result;
}

static int file_read(sqlite3_file *file, void *buffer, int bytes, sqlite3_int64 offset)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    int result = strike(FAULTY_READ);
    return result != SQLITE_OK ? result : inner->pMethods->xRead(inner, buffer, bytes, offset);
}

/* A write that fails has written its first half: a full disk may do so. */
static int file_write(sqlite3_file *file, const void *buffer, int bytes, sqlite3_int64 offset)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    int result = strike(FAULTY_WRITE);
    note_write(faulty_of(file));
    if (result == SQLITE_OK)
        return inner->pMethods->xWrite(inner, buffer, bytes, offset);
    inner->pMethods->xWrite(inner, buffer, bytes / 2, offset);
    return result;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    int result = strike(FAULTY_TRUNCATE);
    return result != SQLITE_OK ? result : inner->pMethods->xTruncate(inner, bytes);
}

static int file_sync(sqlite3_file *file, int flags)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    int result = strike(FAULTY_SYNC);
    if (result == SQLITE_OK)
        result = inner->pMethods->xSync(inner, flags);
    if (result == SQLITE_OK)
        note_sync(faulty_of(file), false);
    return result;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *bytes)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xFileSize(inner, bytes);
}

static int file_lock(sqlite3_file *file, int kind)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xLock(inner, kind);
}

static int file_unlock(sqlite3_file *file, int kind)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xUnlock(inner, kind);
}

static int file_reserved_lock(sqlite3_file *file, int *locked)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xCheckReservedLock(inner, locked);
}

static int file_control(sqlite3_file *file, int verb, void *argument)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xFileControl(inner, verb, argument);
}

static int file_sector_bytes(sqlite3_file *file)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xSectorSize(inner);
}

static int file_characteristics(sqlite3_file *file)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xDeviceCharacteristics(inner);
}

static int file_shm_map(sqlite3_file *file, int region, int bytes, int extend,
                        void volatile **memory)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xShmMap(inner, region, bytes, extend, memory);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xShmLock(inner, offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    inner->pMethods->xShmBarrier(inner);
}

static int file_shm_unmap(sqlite3_file *file, int remove)
{
    sqlite3_file *inner = faulty_of(file)->inner;
    return inner->pMethods->xShmUnmap(inner, remove);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_reserved_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector_bytes,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    (void)vfs;
    struct faulty_file *faulty = faulty_of(file);
    memset(faulty, 0, sizeof *faulty);
    int result = strike(FAULTY_OPEN);
    if (result != SQLITE_OK)
        return result;
    faulty->inner = sqlite3_malloc(real->szOsFile);
    if (!faulty->inner)
        return SQLITE_NOMEM;
    memset(faulty->inner, 0, (size_t)real->szOsFile);
    result = real->xOpen(real, name, faulty->inner, flags, out);
    if (result != SQLITE_OK) {
        sqlite3_free(faulty->inner);
        return result;
    }
    faulty->head.pMethods = &methods;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    return real->xDelete(real, name, sync);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *result)
{
    (void)vfs;
    return real->xAccess(real, name, flags, result);
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *name, int size, char *out)
{
    (void)vfs;
    return real->xFullPathname(real, name, size, out);
}

static int vfs_randomness(sqlite3_vfs *vfs, int bytes, char *out)
{
    (void)vfs;
    return real->xRandomness(real, bytes, out);
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
    (void)vfs;
    return real->xSleep(real, microseconds);
}

static int vfs_time(sqlite3_vfs *vfs, double *days)
{
    (void)vfs;
    return real->xCurrentTime(real, days);
}

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *text)
{
    (void)vfs;
    if (size > 0)
        text[0] = '\0';
    return 0; /* no errno stands behind these failures */
}

static sqlite3_vfs faulty_vfs = {
    .iVersion = 1,
    .szOsFile = sizeof(struct faulty_file),
    .zName = "faulty",
    .xOpen = vfs_open,
    .xDelete = vfs_delete,
    .xAccess = vfs_access,
    .xFullPathname = vfs_full_path,
    .xRandomness = vfs_randomness,
    .xSleep = vfs_sleep,
    .xCurrentTime = vfs_time,
    .xGetLastError = vfs_last_error,
};

void faulty_vfs_install(void)
{
    if (real)
        return;
    real = sqlite3_vfs_find(NULL);
    assert(real);
    faulty_vfs.mxPathname = real->mxPathname;
    sqlite3_vfs_register(&faulty_vfs, 1);
}

void faulty_vfs_arm(unsigned operations, uint32_t after, int result, bool only_once)
{
    pthread_mutex_lock(&lock);
    armed = operations;
    left = after;
    armed_result = result;
    once = only_once;
    struck = 0;
    pthread_mutex_unlock(&lock);
}

uint32_t faulty_vfs_disarm(void)
{
    pthread_mutex_lock(&lock);
    armed = 0;
    uint32_t count = struck;
    pthread_mutex_unlock(&lock);
    return count;
}

uint32_t faulty_vfs_unsynced(void)
{
    pthread_mutex_lock(&lock);
    uint32_t count = unsynced;
    pthread_mutex_unlock(&lock);
    return count;
}

uint32_t faulty_vfs_syncs(void)
{
    pthread_mutex_lock(&lock);
    uint32_t count = syncs;
    pthread_mutex_unlock(&lock);
    return count;
}
