/*
 * database.c - making, opening and checking our SQLite databases.
 */
#include "database.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATABASE_MODE 0640      /* the group reads: other processes of ours under other users */
#define DATABASE_DAMAGED_MAX 8u /* moved-aside databases of ours that are kept */
#define DATABASE_BUSY_MS 5000
#define LOCK_PAGE (0x40000000 / DATABASE_PAGE_BYTES) /* SQLite leaves this one page out */

/* ---- errors -------------------------------------------------------------------------------------
 */

int database_error(sqlite3 *database, int result)
{
    int number = database ? sqlite3_system_errno(database) : 0;
    switch (result) {
    case SQLITE_IOERR_DATA:
    case SQLITE_IOERR_CORRUPTFS:
        return ERR_CORRUPT;
    case SQLITE_IOERR_NOMEM:
        return ERR_NO_MEMORY;
    default:
        break;
    }
    switch (result & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return ERR_BUSY;
    case SQLITE_FULL:
        return ERR_NO_SPACE;
    case SQLITE_NOMEM:
        return ERR_NO_MEMORY;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return ERR_PERMISSION;
    case SQLITE_INTERRUPT:
        return ERR_INTERRUPTED;
    case SQLITE_TOOBIG:
        return ERR_TOO_LARGE;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN: {
        int code = number ? error_from_errno(number) : ERR_IO;
        return code == ERR_NO_SPACE || code == ERR_PERMISSION || code == ERR_NO_MEMORY ? code
                                                                                       : ERR_IO;
    }
    default:
        /* A statement of ours that no longer fits (no such table, a constraint): the file has
         * changed, not we. */
        return ERR_CORRUPT;
    }
}

int database_fail(sqlite3 *database, int result, const char *path, struct failure *failure)
{
    if (result == SQLITE_IOERR_DATA)
        return fail(failure, ERR_CORRUPT, "%s: a page does not have the checksum that was written",
                    path);
    const char *words = database ? sqlite3_errmsg(database) : sqlite3_errstr(result);
    return fail(failure, database_error(database, result), "%s: %s", path, words);
}

/* ---- functions that our schemas use -------------------------------------------------------------
 */

static void function_add(sqlite3_context *context, int count, sqlite3_value **value)
{
    (void)count;
    uint64_t sum =
        (uint64_t)sqlite3_value_int64(value[0]) + (uint64_t)sqlite3_value_int64(value[1]);
    sqlite3_result_int64(context, (sqlite3_int64)sum);
}

static void function_subtract(sqlite3_context *context, int count, sqlite3_value **value)
{
    (void)count;
    uint64_t rest =
        (uint64_t)sqlite3_value_int64(value[0]) - (uint64_t)sqlite3_value_int64(value[1]);
    sqlite3_result_int64(context, (sqlite3_int64)rest);
}

static void function_sum_step(sqlite3_context *context, int count, sqlite3_value **value)
{
    (void)count;
    uint64_t *sum = sqlite3_aggregate_context(context, sizeof *sum);
    if (sum)
        *sum += (uint64_t)sqlite3_value_int64(value[0]);
    else
        sqlite3_result_error_nomem(context);
}

static void function_sum_final(sqlite3_context *context)
{
    const uint64_t *sum = sqlite3_aggregate_context(context, 0);
    sqlite3_result_int64(context, sum ? (sqlite3_int64)*sum : 0);
}

static int add_functions(sqlite3 *database)
{
    const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    int result =
        sqlite3_create_function(database, "u64_add", 2, flags, NULL, function_add, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_create_function(database, "u64_subtract", 2, flags, NULL,
                                         function_subtract, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_create_function(database, "u64_sum", 1, flags, NULL, NULL,
                                         function_sum_step, function_sum_final);
    return result;
}

/* ---- files --------------------------------------------------------------------------------------
 */

int database_path(const char *directory, const struct database_kind *kind, char *path, size_t size,
                  struct failure *failure)
{
    char absolute[PATH_MAX];
    struct stat status;
    if (!realpath(directory, absolute))
        return fail_errno(failure, errno, "directory %s", directory);
    if (stat(absolute, &status) != 0)
        return fail_errno(failure, errno, "directory %s", directory);
    if (!S_ISDIR(status.st_mode))
        return fail(failure, ERR_INVALID, "%s is no directory", directory);
    int wanted = snprintf(path, size, "%s/%s", absolute, kind->file);
    if (wanted < 0 || (size_t)wanted + sizeof ".damaged-4294967295-wal" > size)
        return fail(failure, ERR_INVALID, "directory %s: the path is too long", directory);
    return 0;
}

/* PATH and a suffix; database_path() has left room. */
static void path_with(char *out, size_t size, const char *path, const char *suffix)
{
    int wanted = snprintf(out, size, "%s%s", path, suffix);
    assert(wanted > 0 && (size_t)wanted < size);
}

static int remove_file(const char *path, const char *suffix, struct failure *failure)
{
    char name[PATH_MAX];
    path_with(name, sizeof name, path, suffix);
    if (unlink(name) != 0 && errno != ENOENT)
        return fail_errno(failure, errno, "%s: cannot remove it", name);
    return 0;
}

/* What was renamed in the directory of `path` is on stable storage. */
static int sync_directory(const char *path, struct failure *failure)
{
    char directory[PATH_MAX];
    path_with(directory, sizeof directory, path, "");
    char *slash = strrchr(directory, '/');
    assert(slash);
    slash[slash == directory] = '\0';
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(failure, errno, "directory %s", directory);
    int result = fsync(fd) == 0 ? 0 : fail_errno(failure, errno, "directory %s", directory);
    close(fd);
    return result;
}

static uint32_t be32_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* The header's fields are SQLite's ("The Database File Format", section 1.3). */
static int check_header(const uint8_t header[100], const char *path,
                        const struct database_kind *kind, struct failure *failure)
{
    if (memcmp(header, "SQLite format 3", 16) != 0)
        return fail(failure, ERR_CORRUPT, "%s is no SQLite database, or its beginning is damaged",
                    path);
    if (be32_at(header + 68) != kind->application_id)
        return fail(failure, ERR_FOREIGN, "%s is a database of another program", path);
    uint32_t page_bytes = (uint32_t)header[16] << 8 | header[17];
    /* 2: with a WAL. 1: a copy that VACUUM INTO has made; it gets one. */
    bool mode = header[18] == header[19] && (header[18] == 1 || header[18] == 2);
    if (page_bytes != DATABASE_PAGE_BYTES || header[20] != DATABASE_PAGE_RESERVED || !mode)
        return fail(failure, ERR_CORRUPT, "%s: its header is not one that tapeloop has written",
                    path);
    uint32_t version = be32_at(header + 60);
    if (version > kind->version)
        return fail(failure, ERR_UNSUPPORTED,
                    "%s has version %u, made by a newer tapeloop; this one knows version %u", path,
                    version, kind->version);
    if (version < kind->version - kind->steps)
        return fail(failure, ERR_UNSUPPORTED,
                    "%s has version %u, which this tapeloop does not know", path, version);
    return 0;
}

int database_probe(const char *path, const struct database_kind *kind, struct failure *failure)
{
    /* For writing, so that "permission denied" shows here and not as one of SQLite's many faces. */
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail_errno(failure, errno, "%s", path);
    struct stat status;
    uint8_t header[100] = {0};
    int result = 0;
    if (fstat(fd, &status) != 0)
        result = fail_errno(failure, errno, "%s", path);
    else if (!S_ISREG(status.st_mode))
        result = fail(failure, ERR_INVALID, "%s is no regular file", path);
    else if (status.st_size == 0)
        result = fail(failure, ERR_CORRUPT, "%s is empty", path);
    else if (pread(fd, header, sizeof header, 0) < 0)
        result = fail_errno(failure, errno, "%s", path);
    else
        result = check_header(header, path, kind, failure);
    close(fd);
    return result;
}

int database_move_aside(const char *path, const struct database_kind *kind, struct failure *failure)
{
    char to[PATH_MAX];
    char wal[PATH_MAX];
    char wal_to[PATH_MAX];
    char suffix[32];
    uint32_t number = 0;
    do {
        number++;
        snprintf(suffix, sizeof suffix, ".damaged-%u", number);
        path_with(to, sizeof to, path, suffix);
    } while (access(to, F_OK) == 0 && number < UINT32_MAX);
    int result = remove_file(path, "-shm", failure);
    if (result != 0)
        return result;
    /* What is not known to be ours is kept whatever the number. */
    bool ours = database_probe(path, kind, NULL) == 0;
    if (ours && number > DATABASE_DAMAGED_MAX) {
        result = remove_file(path, "-wal", failure);
        return result != 0 ? result : remove_file(path, "", failure);
    }
    path_with(wal, sizeof wal, path, "-wal");
    path_with(wal_to, sizeof wal_to, to, "-wal");
    if (rename(wal, wal_to) != 0 && errno != ENOENT)
        return fail_errno(failure, errno, "%s: cannot move it aside", wal);
    if (rename(path, to) != 0 && errno != ENOENT)
        return fail_errno(failure, errno, "%s: cannot move it aside", path);
    return 0;
}

/* ---- making -------------------------------------------------------------------------------------
 */

static int run(sqlite3 *database, const char *sql)
{
    return sqlite3_exec(database, sql, NULL, NULL, NULL);
}

/* Fills the empty file at `path`. */
static int build(const char *path, const struct database_kind *kind, struct failure *failure)
{
    sqlite3 *database = NULL;
    int reserved = DATABASE_PAGE_RESERVED;
    int result = sqlite3_open_v2(
        path, &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
        database_pages_vfs(kind->derived));
    if (result == SQLITE_OK)
        result = sqlite3_file_control(database, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    if (result == SQLITE_OK)
        result = run(database, "PRAGMA page_size = 4096; PRAGMA journal_mode = MEMORY;"
                               "PRAGMA synchronous = FULL; BEGIN");
    if (result == SQLITE_OK)
        result = add_functions(database);
    if (result == SQLITE_OK)
        result = run(database, kind->schema);
    if (result == SQLITE_OK)
        result = run(database, "COMMIT; PRAGMA journal_mode = WAL");
    int code = result == SQLITE_OK ? 0 : database_fail(database, result, path, failure);
    result = sqlite3_close(database);
    assert(result == SQLITE_OK);
    return code;
}

int database_create(const char *path, const struct database_kind *kind, struct failure *failure)
{
    char new_path[PATH_MAX];
    path_with(new_path, sizeof new_path, path, ".new");
    int result = remove_file(new_path, "", failure);
    if (result == 0)
        result = remove_file(new_path, "-wal", failure);
    if (result == 0)
        result = remove_file(new_path, "-shm", failure);
    if (result != 0)
        return result;
    int fd = open(new_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, DATABASE_MODE);
    if (fd < 0)
        return fail_errno(failure, errno, "%s: cannot make it", path);
    if (fchmod(fd, DATABASE_MODE) != 0) /* whatever the umask; the WAL takes the same mode */
        result = fail_errno(failure, errno, "%s", new_path);
    if (result == 0)
        result = build(new_path, kind, failure);
    if (result == 0 && fsync(fd) != 0)
        result = fail_errno(failure, errno, "%s", new_path);
    close(fd);
    if (result == 0)
        result = database_probe(new_path, kind, failure);
    /* The WAL of a database that somebody deleted would be replayed into the new one. */
    if (result == 0)
        result = remove_file(path, "-wal", failure);
    if (result == 0)
        result = remove_file(path, "-shm", failure);
    if (result == 0 && rename(new_path, path) != 0)
        result = fail_errno(failure, errno, "%s: cannot make it", path);
    if (result == 0)
        return sync_directory(path, failure);
    unlink(new_path);
    remove_file(new_path, "-wal", NULL);
    remove_file(new_path, "-shm", NULL);
    return result;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static const char schema_query[] =
    "SELECT type, name, tbl_name, ifnull(sql, '') FROM sqlite_schema"
    " WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name";

/* SQLITE_OK: the same rows. SQLITE_CORRUPT: others. Else the error of `database`. */
static int compare_rows(sqlite3_stmt *a, sqlite3_stmt *b)
{
    for (;;) {
        int from_a = sqlite3_step(a);
        int from_b = sqlite3_step(b);
        if (from_a != SQLITE_ROW && from_a != SQLITE_DONE)
            return from_a;
        if (from_a != from_b)
            return SQLITE_CORRUPT;
        if (from_a == SQLITE_DONE)
            return SQLITE_OK;
        for (int column = 0; column < 4; column++) {
            const char *text_a = (const char *)sqlite3_column_text(a, column);
            const char *text_b = (const char *)sqlite3_column_text(b, column);
            if (!text_a || !text_b || strcmp(text_a, text_b) != 0)
                return SQLITE_CORRUPT;
        }
    }
}

/* Compares with what the SQL of this program makes: any other table, index or trigger is damage. */
static int compare_schema(sqlite3 *database, const struct database_kind *kind)
{
    sqlite3 *model = NULL;
    sqlite3_stmt *actual = NULL;
    sqlite3_stmt *wanted = NULL;
    int result =
        sqlite3_open_v2(":memory:", &model, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (result == SQLITE_OK)
        result = run(model, kind->schema);
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(model, schema_query, -1, &wanted, NULL);
    if (result != SQLITE_OK)
        result = SQLITE_NOMEM; /* the model itself is sound: a test sees to that */
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(database, schema_query, -1, &actual, NULL);
    if (result == SQLITE_OK)
        result = compare_rows(actual, wanted);
    sqlite3_finalize(actual);
    sqlite3_finalize(wanted);
    sqlite3_close(model);
    return result;
}

/* What the WAL says of the version counts, not the file's header. */
static int version_of(sqlite3 *database, uint32_t *version)
{
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(database, "PRAGMA user_version", -1, &statement, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        *version = (uint32_t)sqlite3_column_int64(statement, 0);
        result = SQLITE_OK;
    }
    sqlite3_finalize(statement);
    return result;
}

/* All steps from its version to this one, or none of them. */
static int upgrade(sqlite3 *database, const struct database_kind *kind)
{
    char pragma[64];
    uint32_t version = 0;
    int result = version_of(database, &version);
    if (result != SQLITE_OK || version >= kind->version || version < kind->version - kind->steps)
        return result; /* an older one that is not known is found by its schema */
    result = run(database, "BEGIN IMMEDIATE");
    for (uint32_t i = kind->steps - (kind->version - version); i < kind->steps; i++)
        if (result == SQLITE_OK)
            result = run(database, kind->step[i]);
    snprintf(pragma, sizeof pragma, "PRAGMA user_version = %u", kind->version);
    if (result == SQLITE_OK)
        result = run(database, pragma);
    if (result == SQLITE_OK)
        result = compare_schema(database, kind); /* what was not quite the older version stays as it is */
    if (result == SQLITE_OK)
        result = run(database, "COMMIT");
    if (result != SQLITE_OK)
        (void)run(database, "ROLLBACK"); /* where there is nothing to roll back, nothing happens */
    return result;
}

static int set_up(sqlite3 *database, const struct database_kind *kind, bool reader)
{
    char pragmas[512];
    int on = 1;
    sqlite3_busy_timeout(database, DATABASE_BUSY_MS);
    sqlite3_db_config(database, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(database, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    int result = sqlite3_file_control(database, "main", SQLITE_FCNTL_PERSIST_WAL, &on);
    if (result == SQLITE_OK)
        result = add_functions(database);
    snprintf(pragmas, sizeof pragmas,
             "PRAGMA journal_mode = WAL; PRAGMA synchronous = %s; PRAGMA cache_size = -%d; PRAGMA "
             "cell_size_check = ON;"
             "PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = %d;"
             "PRAGMA wal_autocheckpoint = %d; PRAGMA query_only = %s",
             kind->full ? "FULL" : "NORMAL", kind->cache_kib, DATABASE_WAL_BYTES_KEPT,
             kind->full ? DATABASE_WAL_PAGES : 0, reader ? "ON" : "OFF");
    if (result == SQLITE_OK)
        result = run(database, pragmas);
    if (result == SQLITE_OK && !reader)
        result = upgrade(database, kind);
    if (result == SQLITE_OK)
        result = compare_schema(database, kind);
    return result;
}

int database_connect(const char *path, const struct database_kind *kind, bool reader,
                     sqlite3 **database, struct failure *failure)
{
    int result = sqlite3_open_v2(
        path, database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
        database_pages_vfs(kind->derived));
    if (result == SQLITE_OK)
        result = set_up(*database, kind, reader);
    if (result == SQLITE_OK)
        return 0;
    int code = result == SQLITE_CORRUPT
                   ? fail(failure, ERR_CORRUPT, "%s: its tables are not those of tapeloop", path)
                   : database_fail(*database, result, path, failure);
    sqlite3_close(*database);
    *database = NULL;
    return code;
}

/* Checks the pages of a chunk of the file, from page `number` on. */
static int scan_chunk(int fd, uint8_t *chunk, size_t bytes, uint64_t number, bool mend,
                      uint32_t *unsummed, const char *path, struct failure *failure)
{
    for (size_t at = 0; at < bytes; at += DATABASE_PAGE_BYTES, number++) {
        if (number == LOCK_PAGE)
            continue;
        enum database_page page = DATABASE_PAGE_DAMAGED;
        if (bytes - at >= DATABASE_PAGE_BYTES)
            page = database_page_check(chunk + at, (uint32_t)number);
        if (page == DATABASE_PAGE_DAMAGED)
            return fail(failure, ERR_CORRUPT, "%s: page %llu is damaged", path,
                        (unsigned long long)number + 1);
        if (page == DATABASE_PAGE_GOOD)
            continue;
        ++*unsummed;
        database_page_sum(chunk + at, (uint32_t)number);
        if (mend && pwrite(fd, chunk + at, DATABASE_PAGE_BYTES,
                           (off_t)(number * DATABASE_PAGE_BYTES)) != DATABASE_PAGE_BYTES)
            return fail_errno(failure, errno, "%s: cannot write", path);
    }
    return 0;
}

int database_scan(const char *path, bool mend, uint32_t *unsummed, struct failure *failure)
{
    enum { chunk_bytes = 64 * DATABASE_PAGE_BYTES };
    uint64_t number = 0;
    uint64_t pages_wanted = 0;
    int result = 0;
    *unsummed = 0;
    int fd = open(path, (mend ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(failure, errno, "%s", path);
    uint8_t *chunk = calloc(1, chunk_bytes);
    if (!chunk) {
        close(fd);
        return fail(failure, ERR_NO_MEMORY, "%s: out of memory", path);
    }
    while (result == 0) {
        ssize_t got = pread(fd, chunk, chunk_bytes, (off_t)(number * DATABASE_PAGE_BYTES));
        if (got < 0)
            result = fail_errno(failure, errno, "%s", path);
        if (got <= 0)
            break;
        if (number == 0 && got >= 100)
            pages_wanted = be32_at(chunk + 28);
        result = scan_chunk(fd, chunk, (size_t)got, number, mend, unsummed, path, failure);
        number += (uint64_t)got / DATABASE_PAGE_BYTES;
    }
    if (result == 0 && number < pages_wanted)
        result = fail(failure, ERR_CORRUPT, "%s: its end is missing", path);
    if (result == 0 && mend && fdatasync(fd) != 0)
        result = fail_errno(failure, errno, "%s", path);
    free(chunk);
    close(fd);
    return result;
}

/* ---- statements and values ----------------------------------------------------------------------
 */

int database_prepare(sqlite3 *database, const char *const *sql, sqlite3_stmt **statement,
                     uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        statement[i] = NULL;
    for (uint32_t i = 0; i < count; i++) {
        int result = sqlite3_prepare_v3(database, sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                                        &statement[i], NULL);
        if (result != SQLITE_OK) {
            database_finalize(statement, count);
            return result;
        }
    }
    return SQLITE_OK;
}

void database_finalize(sqlite3_stmt **statement, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        sqlite3_finalize(statement[i]);
        statement[i] = NULL;
    }
}

void column_text(sqlite3_stmt *statement, int column, char *text, size_t size)
{
    const unsigned char *stored = sqlite3_column_text(statement, column);
    size_t length = stored ? (size_t)sqlite3_column_bytes(statement, column) : 0;
    if (length > size - 1)
        length = size - 1;
    if (stored)
        memcpy(text, stored, length);
    text[length] = '\0';
}

bool column_blob(sqlite3_stmt *statement, int column, void *bytes, size_t size)
{
    const void *stored = sqlite3_column_blob(statement, column);
    if (!stored || (size_t)sqlite3_column_bytes(statement, column) != size)
        return false;
    memcpy(bytes, stored, size);
    return true;
}
