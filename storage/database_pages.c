/*
 * database_pages.c - a VFS that puts a checksum at the end of every page of a database file.
 *
 * It stands between SQLite and the default VFS and passes everything through, but for whole pages
 * of a main database: one that is written gets its trailer (in a copy: SQLite's buffer is not ours
 * to change), one that is read is checked. In WAL mode pages reach the file in checkpoints only.
 * WAL, journal and shared memory pass as they are; the WAL has checksums of its own.
 *
 *   trailer  offset 4088: le32 page number, from 0     offset 4092: le32 CRC-32C of bytes 0 to 4091
 *
 * The number is in it so that a page written to the wrong place is found. Three more are accepted:
 *
 *   - A page of zeros: SQLite leaves holes for pages that it has freed before it ever wrote them,
 * and reads no structure from such a page.
 *   - A trailer that says "no checksum". SQLite is handed pages with this trailer, so those that it
 *     changes have it in the WAL, and in the file too if it is not us who checkpoint: whoever only
 * looks at the file with another program after a crash does that, without knowing it.
 *   - A trailer of zeros, for the same reason: a page that was new in the WAL, or is so in a copy
 * made by VACUUM INTO. But a lost sector is all zeros too; so other bytes in the page's last sector
 * must not be (a table's page is filled from its end), or the page be a table's without a row.
 *
 * The last two are accepted only where the database cannot be rebuilt. One that can is not worth the risk: what takes the end of a page away may take some of its
 * rows, too, and what is left is then no more than another program's page.
 *
 * Left out of the first page's checksum are the counters that SQLite's backup changes in the copy:
 * how often the file and the schema were changed, and by which SQLite. Nothing of ours depends on
 * them.
 */
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "database.h"

#define TRAILER_NUMBER (DATABASE_PAGE_BYTES - DATABASE_PAGE_RESERVED)
#define TRAILER_CRC (TRAILER_NUMBER + 4)

#define SECTOR_BYTES 512

static const uint8_t trailer_none[DATABASE_PAGE_RESERVED] = {'n', 'o', 't', 's',
                                                             'u', 'm', 'm', 'd'};

_Static_assert(TRAILER_CRC + 4 == DATABASE_PAGE_BYTES, "the trailer fills the reserved bytes");

struct page_file {
    sqlite3_file head;   /* what SQLite sees */
    sqlite3_file *inner; /* the default VFS's, in memory of its own */
    bool checked;        /* a main database */
    bool derived;        /* a page without a checksum is damaged */
};

static sqlite3_file *inner_of(sqlite3_file *file)
{
    return ((struct page_file *)(void *)file)->inner;
}

/* The checksum that the page should have; its number is in place. */
static uint32_t page_crc(const uint8_t *page, uint32_t number)
{
    static const uint8_t zero[8];
    if (number > 0)
        return checksum_crc32c(page, TRAILER_CRC);
    uint32_t crc = checksum_crc32c(page, 24);
    crc = checksum_crc32c_more(crc, zero, 4); /* 24: changes of the file */
    crc = checksum_crc32c_more(crc, page + 28, 12);
    crc = checksum_crc32c_more(crc, zero, 4); /* 40: changes of the schema */
    crc = checksum_crc32c_more(crc, page + 44, 48);
    crc = checksum_crc32c_more(crc, zero, 8); /* 92: changes of the file again, version of SQLite */
    return checksum_crc32c_more(crc, page + 100, TRAILER_CRC - 100);
}

static bool all_zero(const uint8_t *bytes, size_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* A page of a table or index without a row: no cell, and nothing but free room behind its header.
 */
static bool is_empty_table(const uint8_t *page)
{
    bool leaf = page[0] == 10 || page[0] == 13;
    return leaf && page[3] == 0 && page[4] == 0 && (page[5] << 8 | page[6]) == TRAILER_NUMBER;
}

/* A page that another program has written, going by its trailer. */
static bool is_unsummed(const uint8_t *page)
{
    const uint8_t *trailer = page + TRAILER_NUMBER;
    if (memcmp(trailer, trailer_none, sizeof trailer_none) == 0)
        return true;
    return all_zero(trailer, DATABASE_PAGE_RESERVED) &&
           (!all_zero(page + DATABASE_PAGE_BYTES - SECTOR_BYTES, SECTOR_BYTES) ||
            is_empty_table(page));
}

enum database_page database_page_check(const uint8_t *page, uint32_t number)
{
    le32 stored_number;
    le32 stored_crc;
    memcpy(&stored_number, page + TRAILER_NUMBER, sizeof stored_number);
    memcpy(&stored_crc, page + TRAILER_CRC, sizeof stored_crc);
    if (le32_get(stored_number) == number && le32_get(stored_crc) == page_crc(page, number))
        return DATABASE_PAGE_GOOD;
    if (is_unsummed(page))
        return DATABASE_PAGE_UNSUMMED;
    return all_zero(page, DATABASE_PAGE_BYTES) ? DATABASE_PAGE_GOOD : DATABASE_PAGE_DAMAGED;
}

void database_page_sum(uint8_t *page, uint32_t number)
{
    le32 stored_number = le32_of(number);
    memcpy(page + TRAILER_NUMBER, &stored_number, sizeof stored_number);
    le32 crc = le32_of(page_crc(page, number));
    memcpy(page + TRAILER_CRC, &crc, sizeof crc);
}

static bool is_page(const sqlite3_file *file, int bytes, sqlite3_int64 offset)
{
    return ((const struct page_file *)(const void *)file)->checked &&
           bytes == DATABASE_PAGE_BYTES && offset % DATABASE_PAGE_BYTES == 0;
}

/* ---- the file's methods
 * --------------------------------------------------------------------------- */

static int pages_close(sqlite3_file *file)
{
    sqlite3_file *inner = inner_of(file);
    int result = inner->pMethods->xClose(inner);
    sqlite3_free(inner);
    return result;
}

static int pages_read(sqlite3_file *file, void *buffer, int bytes, sqlite3_int64 offset)
{
    sqlite3_file *inner = inner_of(file);
    int result = inner->pMethods->xRead(inner, buffer, bytes, offset);
    if (result != SQLITE_OK || !is_page(file, bytes, offset))
        return result;
    uint32_t number = (uint32_t)(offset / DATABASE_PAGE_BYTES);
    enum database_page page = database_page_check(buffer, number);
    if (page == DATABASE_PAGE_DAMAGED ||
        (page == DATABASE_PAGE_UNSUMMED && ((const struct page_file *)(const void *)file)->derived))
        return SQLITE_IOERR_DATA;
    memcpy((uint8_t *)buffer + TRAILER_NUMBER, trailer_none, sizeof trailer_none);
    return SQLITE_OK;
}

static int pages_write(sqlite3_file *file, const void *buffer, int bytes, sqlite3_int64 offset)
{
    sqlite3_file *inner = inner_of(file);
    if (!is_page(file, bytes, offset))
        return inner->pMethods->xWrite(inner, buffer, bytes, offset);
    uint8_t page[DATABASE_PAGE_BYTES];
    memcpy(page, buffer, TRAILER_NUMBER);
    database_page_sum(page, (uint32_t)(offset / DATABASE_PAGE_BYTES));
    return inner->pMethods->xWrite(inner, page, bytes, offset);
}

static int pages_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xTruncate(inner, bytes);
}

static int pages_sync(sqlite3_file *file, int flags)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xSync(inner, flags);
}

static int pages_size(sqlite3_file *file, sqlite3_int64 *bytes)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xFileSize(inner, bytes);
}

static int pages_lock(sqlite3_file *file, int kind)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xLock(inner, kind);
}

static int pages_unlock(sqlite3_file *file, int kind)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xUnlock(inner, kind);
}

static int pages_reserved_lock(sqlite3_file *file, int *locked)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xCheckReservedLock(inner, locked);
}

static int pages_control(sqlite3_file *file, int verb, void *argument)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xFileControl(inner, verb, argument);
}

static int pages_sector_bytes(sqlite3_file *file)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xSectorSize(inner);
}

static int pages_characteristics(sqlite3_file *file)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xDeviceCharacteristics(inner);
}

static int pages_shm_map(sqlite3_file *file, int region, int bytes, int extend,
                         void volatile **memory)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xShmMap(inner, region, bytes, extend, memory);
}

static int pages_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xShmLock(inner, offset, count, flags);
}

static void pages_shm_barrier(sqlite3_file *file)
{
    sqlite3_file *inner = inner_of(file);
    inner->pMethods->xShmBarrier(inner);
}

static int pages_shm_unmap(sqlite3_file *file, int remove)
{
    sqlite3_file *inner = inner_of(file);
    return inner->pMethods->xShmUnmap(inner, remove);
}

/* Version 2: shared memory, but no memory-mapped reads, which would pass the check by. */
static const sqlite3_io_methods pages_methods = {
    .iVersion = 2,
    .xClose = pages_close,
    .xRead = pages_read,
    .xWrite = pages_write,
    .xTruncate = pages_truncate,
    .xSync = pages_sync,
    .xFileSize = pages_size,
    .xLock = pages_lock,
    .xUnlock = pages_unlock,
    .xCheckReservedLock = pages_reserved_lock,
    .xFileControl = pages_control,
    .xSectorSize = pages_sector_bytes,
    .xDeviceCharacteristics = pages_characteristics,
    .xShmMap = pages_shm_map,
    .xShmLock = pages_shm_lock,
    .xShmBarrier = pages_shm_barrier,
    .xShmUnmap = pages_shm_unmap,
};

/* ---- the VFS
 * -------------------------------------------------------------------------------------- */

/* The default VFS, asked for each time: a test may have put a faulty one there. */
static sqlite3_vfs *inner_vfs(void)
{
    return sqlite3_vfs_find(NULL);
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    sqlite3_vfs *inner = inner_vfs();
    struct page_file *pages = (struct page_file *)(void *)file;
    memset(pages, 0, sizeof *pages);
    pages->inner = sqlite3_malloc(inner->szOsFile);
    if (!pages->inner)
        return SQLITE_NOMEM;
    memset(pages->inner, 0, (size_t)inner->szOsFile);
    int result = inner->xOpen(inner, name, pages->inner, flags, out);
    if (result != SQLITE_OK) {
        if (pages->inner->pMethods)
            pages->inner->pMethods->xClose(pages->inner);
        sqlite3_free(pages->inner);
        return result;
    }
    pages->head.pMethods = &pages_methods;
    pages->checked = (flags & SQLITE_OPEN_MAIN_DB) != 0;
    pages->derived = vfs->pAppData != NULL;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    return inner_vfs()->xDelete(inner_vfs(), name, sync);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *result)
{
    (void)vfs;
    return inner_vfs()->xAccess(inner_vfs(), name, flags, result);
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *name, int size, char *out)
{
    (void)vfs;
    return inner_vfs()->xFullPathname(inner_vfs(), name, size, out);
}

static int vfs_randomness(sqlite3_vfs *vfs, int bytes, char *out)
{
    (void)vfs;
    return inner_vfs()->xRandomness(inner_vfs(), bytes, out);
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
    (void)vfs;
    return inner_vfs()->xSleep(inner_vfs(), microseconds);
}

static int vfs_time(sqlite3_vfs *vfs, double *days)
{
    (void)vfs;
    return inner_vfs()->xCurrentTime(inner_vfs(), days);
}

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *text)
{
    (void)vfs;
    return inner_vfs()->xGetLastError(inner_vfs(), size, text);
}

static sqlite3_vfs pages_vfs = {
    .iVersion = 1,
    .szOsFile = sizeof(struct page_file),
    .zName = "tapeloop-pages",
    .xOpen = vfs_open,
    .xDelete = vfs_delete,
    .xAccess = vfs_access,
    .xFullPathname = vfs_full_path,
    .xRandomness = vfs_randomness,
    .xSleep = vfs_sleep,
    .xCurrentTime = vfs_time,
    .xGetLastError = vfs_last_error,
};

static sqlite3_vfs derived_vfs;

static void register_vfs(void)
{
    pages_vfs.mxPathname = inner_vfs()->mxPathname;
    derived_vfs = pages_vfs;
    derived_vfs.zName = "tapeloop-derived-pages";
    derived_vfs.pAppData = &derived_vfs;
    sqlite3_vfs_register(&pages_vfs, 0);
    sqlite3_vfs_register(&derived_vfs, 0);
}

const char *database_pages_vfs(bool derived)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_vfs);
    return derived ? derived_vfs.zName : pages_vfs.zName;
}
