/*
 * database.h - SQLite as the catalog and the state use it: opening, making, checking, and errors in
 * our words.
 *
 * Making: a database is built under another name with schema, ids and WAL mode in place, synced,
 * and renamed, so that a file under the right name is always whole, whatever was killed. Opening
 * looks at the header first (application_id: is it ours?), takes a database of an older version
 * through the steps that lead to this one, in one transaction, then compares the schema with the one
 * that this program was built with.
 *
 * Page checksums: SQLite finds damage only where it breaks a structure. So every page of a database
 * file ends in 8 reserved bytes that database_pages.c fills when a page is written to the file and
 * checks when it is read: a CRC-32C of the page and its number. Pages that wait in the WAL are
 * covered by the WAL's own checksums. A page that fails is SQLITE_IOERR_DATA, in our words
 * ERR_CORRUPT.
 *
 * Threads: one connection belongs to one thread at a time (no mutex in SQLite); the functions keep
 * no state of their own.
 */
#ifndef STORAGE_DATABASE_H
#define STORAGE_DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define DATABASE_PAGE_BYTES 4096
#define DATABASE_PAGE_RESERVED 8
#define DATABASE_WAL_PAGES 1000            /* a checkpoint is due when the WAL is longer */
#define DATABASE_WAL_BYTES_KEPT (16 << 20) /* of the WAL file, after a checkpoint */

struct database_kind {
    const char *name;        /* "catalog", for messages */
    const char *file;        /* "catalog.db" */
    const char *schema;      /* SQL that makes it, ids included */
    uint32_t application_id; /* as in the SQL */
    uint32_t version;        /* user_version as in the SQL */
    /* How older versions become this one: step[i] is the SQL that leads from version (version - steps + i)
     * to the next. What it makes must read like the schema, to the letter. */
    const char *const *step;
    uint32_t steps;
    bool full; /* synchronous=FULL, and SQLite checkpoints. Else NORMAL, the owner checkpoints */
    bool derived; /* it can be rebuilt: a page that another program has written, without a checksum, is damaged */
    int cache_kib; /* page cache of a connection */
};

/* DIRECTORY/kind->file with `directory` made absolute. ERR_NOT_FOUND, ERR_PERMISSION, ERR_INVALID
 * (too long, no directory). */
int database_path(const char *directory, const struct database_kind *kind, char *path, size_t size,
                  struct failure *failure);

/*
 * Looks at the header of the file. 0: ours, of this version or of one from which steps lead to it.
 * ERR_NOT_FOUND: no file. ERR_FOREIGN: another program's database. ERR_UNSUPPORTED: ours, of another
 * version.
 * ERR_CORRUPT: no database, or its header makes no sense. ERR_INVALID: no regular file.
 * ERR_PERMISSION, ERR_IO ...
 */
int database_probe(const char *path, const struct database_kind *kind, struct failure *failure);

/* Makes the database (0640) where there is none; stray WAL files of a lost one are removed. */
int database_create(const char *path, const struct database_kind *kind, struct failure *failure);

/*
 * Opens a connection to a database that database_probe() has accepted, and compares its schema.
 * *database is null after an error. `reader`: every write fails. One that may write brings an older
 * version to this one first.
 */
int database_connect(const char *path, const struct database_kind *kind, bool reader,
                     sqlite3 **database, struct failure *failure);

/*
 * Reads every page of the file and checks it; the WAL must have been checkpointed to its end, and
 * nobody write meanwhile. `mend`: puts checksums where there are none. *unsummed: how many pages
 * had none. ERR_CORRUPT, ERR_IO. For what cannot be rebuilt: about a second for each GB.
 */
int database_scan(const char *path, bool mend, uint32_t *unsummed, struct failure *failure);

/* Renames the file and its WAL to FILE.damaged-N with the smallest free N; see .c for how many are
 * kept. */
int database_move_aside(const char *path, const struct database_kind *kind,
                        struct failure *failure);

/* The error code for a result of SQLite; 0 for SQLITE_OK, SQLITE_ROW and SQLITE_DONE. `database`
 * may be null. */
int database_error(sqlite3 *database, int result);

/* database_error() with a sentence: "WHAT: SQLite's own words". */
int database_fail(sqlite3 *database, int result, const char *path, struct failure *failure);

/* Prepares the `count` statements of `sql` for long use. On error none is left. */
int database_prepare(sqlite3 *database, const char *const *sql, sqlite3_stmt **statement,
                     uint32_t count);
void database_finalize(sqlite3_stmt **statement, uint32_t count);

/* The VFS with the page checksums, on top of the default one; registered at the first call. `derived`: as in struct database_kind. */
const char *database_pages_vfs(bool derived);

enum database_page {
    DATABASE_PAGE_GOOD,
    DATABASE_PAGE_UNSUMMED, /* written by a program that knows nothing of the checksum */
    DATABASE_PAGE_DAMAGED,
};

/* What the page (DATABASE_PAGE_BYTES at `page`) with the number `number`, from 0, looks like. */
enum database_page database_page_check(const uint8_t *page, uint32_t number);

/* Puts the checksum into the page. */
void database_page_sum(uint8_t *page, uint32_t number);

/* ---- values
 * --------------------------------------------------------------------------------------- */

static inline void bind_u64(sqlite3_stmt *statement, int index, uint64_t value)
{
    sqlite3_bind_int64(statement, index, (int64_t)value);
}

static inline uint64_t column_u64(sqlite3_stmt *statement, int column)
{
    return (uint64_t)sqlite3_column_int64(statement, column);
}

/* Copies a text column, cut to size - 1 bytes and always terminated. */
void column_text(sqlite3_stmt *statement, int column, char *text, size_t size);

/* Copies a blob column of exactly `size` bytes. False if it is none. */
bool column_blob(sqlite3_stmt *statement, int column, void *bytes, size_t size);

#endif
