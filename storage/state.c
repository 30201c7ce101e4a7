/*
 * state.c - state.db: one SQLite connection behind one lock.
 *
 * Every change is one transaction with synchronous=FULL: when a function returns 0, its change
 * survives a power cut. Answers are copied out under the lock, a page at a time, and handed out
 * without it.
 *
 * Nothing here ever replaces the file. It is checked whole when it is opened (storage/database.h: a
 * checksum in each page), because what is damaged should be known before it is built upon, and
 * while the last backup is near.
 */
#include "state.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bytes.h"
#include "database.h"
#include "state_sql.h"

#define MINUTE_KEEP_SECONDS (400 * INT64_C(86400))
#define SECOND_MAX (INT64_MAX / 1000000000) /* what fits nanoseconds */
#define TRIM_STEP_SECONDS 3600
#define HISTORY_PAGE_ROWS 256u
#define EVENT_PAGE_ROWS 256u
#define AUDIT_PAGE_ROWS 64u
#define SUBJECTS_UNUSED_MAX \
    1000 /* names that history no longer mentions are looked for above this */

/* From version 1 to 2: the audit log. Some of version 1 have it, for it was once forgotten to count. */
static const char *const state_step[] = {
    "CREATE TABLE IF NOT EXISTS audit (\n"
    "    number INTEGER PRIMARY KEY AUTOINCREMENT,\n"
    "    time_ns INTEGER NOT NULL,\n"
    "    actor TEXT NOT NULL,\n"
    "    action TEXT NOT NULL,\n"
    "    ring TEXT NOT NULL,\n"
    "    detail TEXT NOT NULL,\n"
    "    outcome TEXT NOT NULL,\n"
    "    hash BLOB NOT NULL CHECK (length(hash) = 32)\n"
    ") STRICT",
};

static const struct database_kind state_kind = {
    .name = "state",
    .file = "state.db",
    .schema = state_sql,
    .application_id = 0x746c7374,
    .version = 2,
    .step = state_step,
    .steps = sizeof state_step / sizeof state_step[0],
    .full = true,
    .cache_kib = 4096,
};

/* ---- SQL that follows account.def
 * ----------------------------------------------------------------- */

/* clang-format off */
static const char history_add_sql[] =
    "INSERT INTO history (seconds, second, subject"
#define ACCOUNT(name, summed, sentence) ", " #name "_packets, " #name "_bytes"
#include "account.def"
#undef ACCOUNT
    ", captured_bytes, cut_packets) VALUES (1, ?1, ?2"
#define ACCOUNT(name, summed, sentence) ", ?, ?"
#include "account.def"
#undef ACCOUNT
    ", ?, ?) ON CONFLICT (seconds, second, subject) DO UPDATE SET "
#define ACCOUNT(name, summed, sentence)                                                            \
    #name "_packets = u64_add(" #name "_packets, excluded." #name "_packets), "                    \
    #name "_bytes = u64_add(" #name "_bytes, excluded." #name "_bytes), "
#include "account.def"
#undef ACCOUNT
    "captured_bytes = u64_add(captured_bytes, excluded.captured_bytes), "
    "cut_packets = u64_add(cut_packets, excluded.cut_packets)";

/* ?1: one-second rows before this one go into minutes. % keeps the sign, hence the second one. */
static const char history_sum_sql[] =
    "INSERT INTO history (seconds, second, subject"
#define ACCOUNT(name, summed, sentence) ", " #name "_packets, " #name "_bytes"
#include "account.def"
#undef ACCOUNT
    ", captured_bytes, cut_packets) "
    "SELECT 60, second - (second % 60 + 60) % 60 AS minute, subject"
#define ACCOUNT(name, summed, sentence) ", u64_sum(" #name "_packets), u64_sum(" #name "_bytes)"
#include "account.def"
#undef ACCOUNT
    ", u64_sum(captured_bytes), u64_sum(cut_packets) "
    "FROM history WHERE seconds = 1 AND second < ?1 GROUP BY minute, subject "
    "ON CONFLICT (seconds, second, subject) DO UPDATE SET "
#define ACCOUNT(name, summed, sentence)                                                            \
    #name "_packets = u64_add(" #name "_packets, excluded." #name "_packets), "                    \
    #name "_bytes = u64_add(" #name "_bytes, excluded." #name "_bytes), "
#include "account.def"
#undef ACCOUNT
    "captured_bytes = u64_add(captured_bytes, excluded.captured_bytes), "
    "cut_packets = u64_add(cut_packets, excluded.cut_packets)";

#define HISTORY_COLUMNS "history.second, history.seconds, history.subject, history_subject.interface"
#define HISTORY_FROM(number)                                                                       \
    " FROM history CROSS JOIN history_subject ON history_subject.id = history.subject "            \
    "WHERE history.seconds = " #number " AND history.second >= ?3 AND history.second < ?4 AND "    \
    "(history.second, history.seconds, history.subject) > (?3, ?5, ?6) AND "                       \
    "history_subject.ring = ?1 AND (?2 IS NULL OR history_subject.interface = ?2)"

/* ?3, ?5, ?6: the row before the first one. Both halves come in order, SQLite merges them. */
static const char history_get_sql[] =
    "SELECT " HISTORY_COLUMNS
#define ACCOUNT(name, summed, sentence) ", history." #name "_packets, history." #name "_bytes"
#include "account.def"
#undef ACCOUNT
    ", history.captured_bytes, history.cut_packets" HISTORY_FROM(1)
    " UNION ALL SELECT " HISTORY_COLUMNS
#define ACCOUNT(name, summed, sentence) ", history." #name "_packets, history." #name "_bytes"
#include "account.def"
#undef ACCOUNT
    ", history.captured_bytes, history.cut_packets" HISTORY_FROM(60)
    " ORDER BY 1, 2, 3 LIMIT ?7";
/* clang-format on */

#define HISTORY_COLUMN_COUNTS 4 /* where the account begins in history_get_sql */

#define STATE_STATEMENTS                                                                           \
    STATEMENT(BEGIN, "BEGIN IMMEDIATE")                                                            \
    STATEMENT(COMMIT, "COMMIT")                                                                    \
    STATEMENT(ROLLBACK, "ROLLBACK")                                                                \
    STATEMENT(RING_PUT, "INSERT INTO ring (ring, name, slot_bytes, copies, created_ns) "           \
                        "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (ring) DO UPDATE SET name = ?2, " \
                        "slot_bytes = ?3, copies = ?4, created_ns = ?5")                           \
    STATEMENT(RING_DELETE, "DELETE FROM ring WHERE ring = ?1")                                     \
    STATEMENT(RING_DISKS_DELETE, "DELETE FROM disk WHERE ring = ?1")                               \
    STATEMENT(RING_SETTINGS_DELETE, "DELETE FROM setting WHERE ring = ?1")                         \
    STATEMENT(RING_NUMBERED, "SELECT disks_numbered FROM ring WHERE ring = ?1")                    \
    STATEMENT(RING_NUMBER,                                                                         \
              "UPDATE ring SET disks_numbered = max(disks_numbered, ?2) WHERE ring = ?1")          \
    STATEMENT(RINGS, "SELECT ring, name, slot_bytes, copies, created_ns FROM ring ORDER BY name")  \
    STATEMENT(DISK_NUMBER, "SELECT number FROM disk WHERE disk = ?1 AND ring = ?2")                \
    STATEMENT(DISK_PUT, "INSERT INTO disk (disk, ring, number, path, bytes, state) "               \
                        "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (disk) DO UPDATE SET "        \
                        "ring = ?2, number = ?3, path = ?4, bytes = ?5, state = ?6")               \
    STATEMENT(DISK_DELETE, "DELETE FROM disk WHERE disk = ?1")                                     \
    STATEMENT(DISKS, "SELECT disk, ring, number, path, bytes, state FROM disk WHERE ring = ?1 "    \
                     "ORDER BY number")                                                            \
    STATEMENT(SETTING_PUT, "INSERT INTO setting (ring, name, value) VALUES (?1, ?2, ?3) "          \
                           "ON CONFLICT (ring, name) DO UPDATE SET value = ?3")                    \
    STATEMENT(SETTING_DELETE, "DELETE FROM setting WHERE ring = ?1 AND name = ?2")                 \
    STATEMENT(SETTINGS, "SELECT name, value FROM setting WHERE ring = ?1 ORDER BY name")           \
    STATEMENT(SUBJECT_ID, "SELECT id FROM history_subject WHERE ring = ?1 AND interface = ?2")     \
    STATEMENT(SUBJECT_ADD, "INSERT INTO history_subject (ring, interface) VALUES (?1, ?2) "        \
                           "RETURNING id")                                                         \
    STATEMENT(SUBJECT_COUNT, "SELECT count(*) FROM history_subject")                               \
    STATEMENT(SUBJECTS_CUT, "DELETE FROM history_subject WHERE id NOT IN "                         \
                            "(SELECT DISTINCT subject FROM history)")                              \
    STATEMENT(HISTORY_ADD, history_add_sql)                                                        \
    STATEMENT(HISTORY_GET, history_get_sql)                                                        \
    STATEMENT(HISTORY_OLDEST,                                                                      \
              "SELECT second FROM history WHERE seconds = 1 ORDER BY second LIMIT 1")              \
    STATEMENT(HISTORY_SUM, history_sum_sql)                                                        \
    STATEMENT(HISTORY_SUMMED, "DELETE FROM history WHERE seconds = 1 AND second < ?1")             \
    STATEMENT(HISTORY_CUT, "DELETE FROM history WHERE seconds = 60 AND second < ?1")               \
    STATEMENT(EVENT_PUT, "INSERT INTO event (time_ns, severity, kind, ring, text) "                \
                         "VALUES (?1, ?2, ?3, ?4, ?5)")                                            \
    STATEMENT(EVENTS_CUT, "DELETE FROM event WHERE number <= ?1")                                  \
    STATEMENT(EVENTS, "SELECT number, time_ns, severity, kind, ring, text FROM event "             \
                      "WHERE number > ?1 ORDER BY number LIMIT ?2")                                \
    STATEMENT(AUDIT_LAST, "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")           \
    STATEMENT(AUDIT_GIVEN, "SELECT seq FROM sqlite_sequence WHERE name = 'audit'")                 \
    STATEMENT(AUDIT_PUT, "INSERT INTO audit (number, time_ns, actor, action, ring, detail, "       \
                         "outcome, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")                 \
    STATEMENT(AUDIT, "SELECT number, time_ns, actor, action, ring, detail, outcome, hash "         \
                     "FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2")

enum state_statement {
#define STATEMENT(name, sql) STATE_##name,
    STATE_STATEMENTS
#undef STATEMENT
        STATE_COUNT
};

static const char *const state_statement_sql[STATE_COUNT] = {
#define STATEMENT(name, sql) sql,
    STATE_STATEMENTS
#undef STATEMENT
};

struct state {
    pthread_mutex_t lock; /* all below */
    sqlite3 *database;
    sqlite3_stmt *statement[STATE_COUNT];
};

/* ---- transactions and statements
 * ------------------------------------------------------------------ */

static const struct identity recorder; /* zeros: the ring of the recorder's own settings */

/* Runs a statement to its end; SQLITE_OK or an error. */
static int run(sqlite3_stmt *statement)
{
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        result = sqlite3_step(statement);
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

/* Runs a statement that answers with one number. SQLITE_NOTFOUND: without a row. */
static int run_for_number(sqlite3_stmt *statement, int64_t *number)
{
    int result = sqlite3_step(statement);
    bool row = result == SQLITE_ROW;
    if (row) {
        *number = sqlite3_column_int64(statement, 0);
        result = sqlite3_step(statement);
    }
    sqlite3_reset(statement);
    if (result != SQLITE_DONE)
        return result;
    return row ? SQLITE_OK : SQLITE_NOTFOUND;
}

static void bind_identity(sqlite3_stmt *statement, int index, const struct identity *id)
{
    sqlite3_bind_blob(statement, index, id->byte, sizeof id->byte, SQLITE_STATIC);
}

/* Binds at most size - 1 bytes of a text field. */
static void bind_field(sqlite3_stmt *statement, int index, const char *text, size_t size)
{
    sqlite3_bind_text(statement, index, text, (int)strnlen(text, size - 1), SQLITE_STATIC);
}

/* Our code for a result, where a constraint is the caller's mistake rather than damage. */
static int code_of(struct state *state, int result)
{
    if (result == SQLITE_NOTFOUND)
        return ERR_NOT_FOUND;
    if (result == SQLITE_CONSTRAINT_UNIQUE)
        return ERR_EXISTS;
    return database_error(state->database, result);
}

static int begin(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    return run(state->statement[STATE_BEGIN]);
}

/* Commits, or undoes what was begun if `result` is an error; unlocks. Returns a code of ours. */
static int end(struct state *state, int result)
{
    if (result == SQLITE_OK)
        result = run(state->statement[STATE_COMMIT]);
    int code = code_of(state, result);
    if (!sqlite3_get_autocommit(state->database))
        run(state->statement[STATE_ROLLBACK]);
    pthread_mutex_unlock(&state->lock);
    return code;
}

/* ---- answers: copied under the lock, handed out without it
 * ---------------------------------------- */

struct rows {
    uint8_t *row;
    size_t row_bytes;
    uint32_t count;
    uint32_t max;
};

/* Room for one more row, as zeros. Null: out of memory. */
static void *rows_add(struct rows *rows)
{
    if (rows->count == rows->max) {
        uint32_t more = rows->max ? rows->max * 2 : 16;
        uint8_t *grown = reallocarray(rows->row, more, rows->row_bytes);
        if (!grown)
            return NULL;
        rows->row = grown;
        rows->max = more;
    }
    return memset(rows->row + rows->row_bytes * rows->count++, 0, rows->row_bytes);
}

/* Reads all rows of the statement by `read`; false from it means damage. Under the lock. */
static int rows_fill(struct rows *rows, sqlite3_stmt *statement,
                     bool (*read)(sqlite3_stmt *statement, void *row))
{
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        void *row = rows_add(rows);
        if (!row)
            result = SQLITE_NOMEM;
        else if (!read(statement, row))
            result = SQLITE_CORRUPT;
        if (result != SQLITE_ROW)
            break;
    }
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

static uint32_t column_u32(sqlite3_stmt *statement, int column, bool *sound)
{
    int64_t value = sqlite3_column_int64(statement, column);
    *sound &= value >= 0 && value <= UINT32_MAX;
    return (uint32_t)value;
}

/* ---- opening and closing
 * ---------------------------------------------------------------------------- */

static const char advice[] =
    "; restore it from a backup, or move it away and adopt the rings from their disks";

/* Puts what to do behind the sentence for a file that is there but cannot be used. */
static int advise(int code, struct failure *failure)
{
    if (!failure || (code != ERR_CORRUPT && code != ERR_FOREIGN))
        return code;
    char text[sizeof failure->text];
    memcpy(text, failure->text, sizeof text);
    return fail(failure, code, "%s%s", text, advice);
}

/* A WAL without its database holds changes that belong to a file which is lost: never replayed into
 * a new one. */
static int refuse_orphaned_wal(const char *path, struct failure *failure)
{
    char wal[PATH_MAX];
    struct stat status;
    int wanted = snprintf(wal, sizeof wal, "%s-wal", path);
    if (wanted < 0 || (size_t)wanted >= sizeof wal)
        return fail(failure, ERR_INVALID, "%s: the path is too long", path);
    if (stat(wal, &status) == 0 && status.st_size > 0)
        return fail(failure, ERR_CORRUPT, "%s is missing, but its %s is there", path, wal);
    return 0;
}

/* SQLite's own check, of structure. */
static int check_structure(struct state *state, const char *path, struct failure *failure)
{
    sqlite3_stmt *statement = NULL;
    int result =
        sqlite3_prepare_v2(state->database, "PRAGMA integrity_check (1)", -1, &statement, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_step(statement);
    int code = database_error(state->database, result);
    const char *words = "it cannot be read";
    if (result == SQLITE_ROW) {
        words = (const char *)sqlite3_column_text(statement, 0);
        code = words && strcmp(words, "ok") == 0 ? 0 : ERR_CORRUPT;
    }
    if (code != 0)
        fail(failure, code, "%s: %s", path, words ? words : "out of memory");
    sqlite3_finalize(statement);
    return code;
}

/*
 * Empties the WAL into the file and reads the file from end to end. Where the WAL cannot be emptied
 * just now (another process reads, the disk is full), its pages are newer than the file's, and the
 * check is left to the next start. Pages that another program has written (database_pages.c) get a
 * checksum if SQLite finds nothing wrong with them.
 */
static int check_pages(struct state *state, const char *path, struct failure *failure)
{
    uint32_t unsummed;
    int result =
        sqlite3_wal_checkpoint_v2(state->database, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    int code = database_error(state->database, result);
    if (code == ERR_CORRUPT || code == ERR_IO)
        return database_fail(state->database, result, path, failure);
    if (code != 0)
        return 0;
    code = database_scan(path, false, &unsummed, failure);
    if (code != 0 || unsummed == 0)
        return code;
    code = check_structure(state, path, failure);
    return code == 0 ? database_scan(path, true, &unsummed, failure) : code;
}

int state_open(const char *directory, struct state **state, struct failure *failure)
{
    *state = NULL;
    char path[PATH_MAX];
    if (mkdir(directory, 0750) != 0 && errno != EEXIST)
        return fail_errno(failure, errno, "cannot make the directory %s", directory);
    int code = database_path(directory, &state_kind, path, sizeof path, failure);
    if (code != 0)
        return code;
    code = database_probe(path, &state_kind, failure);
    if (code == ERR_NOT_FOUND) {
        code = refuse_orphaned_wal(path, failure);
        if (code == 0)
            code = database_create(path, &state_kind, failure);
    }
    if (code != 0)
        return advise(code, failure);

    struct state *opened = calloc(1, sizeof *opened);
    if (!opened)
        return fail(failure, ERR_NO_MEMORY, "%s: out of memory", path);
    code = database_connect(path, &state_kind, false, &opened->database, failure);
    if (code != 0)
        goto free_state;
    code = check_pages(opened, path, failure);
    if (code != 0)
        goto close_database;
    int result =
        database_prepare(opened->database, state_statement_sql, opened->statement, STATE_COUNT);
    if (result != SQLITE_OK) {
        code = database_fail(opened->database, result, path, failure);
        goto close_database;
    }
    pthread_mutex_init(&opened->lock, NULL);
    *state = opened;
    return 0;

close_database:
    sqlite3_close(opened->database);
free_state:
    free(opened);
    return advise(code, failure);
}

void state_close(struct state **state)
{
    if (!*state)
        return;
    struct state *closing = *state;
    *state = NULL;
    database_finalize(closing->statement, STATE_COUNT);
    /* An error here leaves the changes in the WAL, where they are as safe. */
    sqlite3_wal_checkpoint_v2(closing->database, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    int result = sqlite3_close(closing->database);
    assert(result == SQLITE_OK);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}

/* ---- rings
 * ------------------------------------------------------------------------------------------ */

int state_put_ring(struct state *state, const struct state_ring *ring)
{
    if (identity_is_zero(&ring->ring))
        return ERR_INVALID;
    int result = begin(state);
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement = state->statement[STATE_RING_PUT];
        bind_identity(statement, 1, &ring->ring);
        bind_field(statement, 2, ring->name, sizeof ring->name);
        bind_u64(statement, 3, ring->slot_bytes);
        sqlite3_bind_int64(statement, 4, ring->copies);
        sqlite3_bind_int64(statement, 5, ring->created_ns);
        result = run(statement);
    }
    return end(state, result);
}

/* Runs a statement whose one parameter is an identity. */
static int run_for_identity(struct state *state, enum state_statement which,
                            const struct identity *id)
{
    bind_identity(state->statement[which], 1, id);
    return run(state->statement[which]);
}

/* The last change must have found a row. */
static int require_change(struct state *state, int result)
{
    if (result == SQLITE_OK && sqlite3_changes64(state->database) == 0)
        return SQLITE_NOTFOUND;
    return result;
}

int state_delete_ring(struct state *state, const struct identity *ring)
{
    int result = begin(state);
    if (result == SQLITE_OK)
        result = run_for_identity(state, STATE_RING_DISKS_DELETE, ring);
    if (result == SQLITE_OK)
        result = run_for_identity(state, STATE_RING_SETTINGS_DELETE, ring);
    if (result == SQLITE_OK)
        result = require_change(state, run_for_identity(state, STATE_RING_DELETE, ring));
    return end(state, result);
}

static bool read_ring(sqlite3_stmt *statement, void *row)
{
    struct state_ring *ring = row;
    bool sound = column_blob(statement, 0, ring->ring.byte, sizeof ring->ring.byte);
    column_text(statement, 1, ring->name, sizeof ring->name);
    ring->slot_bytes = column_u64(statement, 2);
    uint32_t copies = column_u32(statement, 3, &sound);
    ring->copies = (uint8_t)copies;
    ring->created_ns = sqlite3_column_int64(statement, 4);
    return sound && copies <= UINT8_MAX;
}

int state_rings(struct state *state, int (*each)(const struct state_ring *ring, void *context),
                void *context)
{
    struct rows rows = {.row_bytes = sizeof(struct state_ring)};
    pthread_mutex_lock(&state->lock);
    int code = code_of(state, rows_fill(&rows, state->statement[STATE_RINGS], read_ring));
    pthread_mutex_unlock(&state->lock);
    for (uint32_t i = 0; i < rows.count && code == 0; i++)
        code = each((const struct state_ring *)(void *)(rows.row + i * rows.row_bytes), context);
    free(rows.row);
    return code;
}

/* ---- disks
 * ------------------------------------------------------------------------------------------ */

/* The number that a disk put without one gets. SQLITE_NOTFOUND: no such ring. */
static int choose_number(struct state *state, const struct state_disk *disk, uint32_t *number)
{
    int64_t numbered = 0;
    int64_t own = 0;
    sqlite3_stmt *statement = state->statement[STATE_RING_NUMBERED];
    bind_identity(statement, 1, &disk->ring);
    int result = run_for_number(statement, &numbered);
    if (result != SQLITE_OK || disk->number != 0) {
        *number = disk->number;
        return result;
    }
    statement = state->statement[STATE_DISK_NUMBER];
    bind_identity(statement, 1, &disk->disk);
    bind_identity(statement, 2, &disk->ring);
    result = run_for_number(statement, &own);
    if (result == SQLITE_NOTFOUND) {
        own = numbered + 1;
        result = SQLITE_OK;
    }
    if (own > UINT32_MAX)
        return SQLITE_TOOBIG;
    *number = (uint32_t)own;
    return result;
}

int state_put_disk(struct state *state, const struct state_disk *disk)
{
    uint32_t number = 0;
    int result = begin(state);
    if (result == SQLITE_OK)
        result = choose_number(state, disk, &number);
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement = state->statement[STATE_DISK_PUT];
        bind_identity(statement, 1, &disk->disk);
        bind_identity(statement, 2, &disk->ring);
        sqlite3_bind_int64(statement, 3, number);
        bind_field(statement, 4, disk->path, sizeof disk->path);
        bind_u64(statement, 5, disk->bytes);
        sqlite3_bind_int64(statement, 6, disk->state);
        result = run(statement);
    }
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement = state->statement[STATE_RING_NUMBER];
        bind_identity(statement, 1, &disk->ring);
        sqlite3_bind_int64(statement, 2, number);
        result = run(statement);
    }
    return end(state, result);
}

int state_delete_disk(struct state *state, const struct identity *disk)
{
    int result = begin(state);
    if (result == SQLITE_OK)
        result = require_change(state, run_for_identity(state, STATE_DISK_DELETE, disk));
    return end(state, result);
}

static bool read_disk(sqlite3_stmt *statement, void *row)
{
    struct state_disk *disk = row;
    bool sound = column_blob(statement, 0, disk->disk.byte, sizeof disk->disk.byte) &&
                 column_blob(statement, 1, disk->ring.byte, sizeof disk->ring.byte);
    disk->number = column_u32(statement, 2, &sound);
    column_text(statement, 3, disk->path, sizeof disk->path);
    disk->bytes = column_u64(statement, 4);
    uint32_t disk_state = column_u32(statement, 5, &sound);
    disk->state = (uint8_t)disk_state;
    return sound && disk_state <= UINT8_MAX;
}

int state_disks(struct state *state, const struct identity *ring,
                int (*each)(const struct state_disk *disk, void *context), void *context)
{
    struct rows rows = {.row_bytes = sizeof(struct state_disk)};
    pthread_mutex_lock(&state->lock);
    bind_identity(state->statement[STATE_DISKS], 1, ring);
    int code = code_of(state, rows_fill(&rows, state->statement[STATE_DISKS], read_disk));
    pthread_mutex_unlock(&state->lock);
    for (uint32_t i = 0; i < rows.count && code == 0; i++)
        code = each((const struct state_disk *)(void *)(rows.row + i * rows.row_bytes), context);
    free(rows.row);
    return code;
}

/* ---- settings
 * --------------------------------------------------------------------------------------- */

int state_put_setting(struct state *state, const struct identity *ring, const char *name,
                      const char *value)
{
    int64_t numbered;
    int result = begin(state);
    if (result == SQLITE_OK && ring && value) {
        bind_identity(state->statement[STATE_RING_NUMBERED], 1, ring);
        result = run_for_number(state->statement[STATE_RING_NUMBERED], &numbered);
    }
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement =
            state->statement[value ? STATE_SETTING_PUT : STATE_SETTING_DELETE];
        bind_identity(statement, 1, ring ? ring : &recorder);
        sqlite3_bind_text(statement, 2, name, -1, SQLITE_STATIC);
        if (value)
            sqlite3_bind_text(statement, 3, value, -1, SQLITE_STATIC);
        result = run(statement);
    }
    return end(state, result);
}

struct setting {
    char *name;
    char *value;
};

static bool read_setting(sqlite3_stmt *statement, void *row)
{
    struct setting *setting = row;
    const char *name = (const char *)sqlite3_column_text(statement, 0);
    const char *value = (const char *)sqlite3_column_text(statement, 1);
    setting->name = name ? strdup(name) : NULL;
    setting->value = value ? strdup(value) : NULL;
    return true;
}

int state_settings(struct state *state, const struct identity *ring,
                   int (*each)(const char *name, const char *value, void *context), void *context)
{
    struct rows rows = {.row_bytes = sizeof(struct setting)};
    pthread_mutex_lock(&state->lock);
    bind_identity(state->statement[STATE_SETTINGS], 1, ring ? ring : &recorder);
    int code = code_of(state, rows_fill(&rows, state->statement[STATE_SETTINGS], read_setting));
    pthread_mutex_unlock(&state->lock);
    struct setting *setting = (struct setting *)(void *)rows.row;
    for (uint32_t i = 0; i < rows.count && code == 0; i++) {
        if (!setting[i].name || !setting[i].value)
            code = ERR_NO_MEMORY;
        else
            code = each(setting[i].name, setting[i].value, context);
    }
    for (uint32_t i = 0; i < rows.count; i++) {
        free(setting[i].name);
        free(setting[i].value);
    }
    free(rows.row);
    return code;
}

/* ---- history
 * ---------------------------------------------------------------------------------------- */

static int subject_id(struct state *state, const struct history_row *row, int64_t *id)
{
    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *statement = state->statement[i == 0 ? STATE_SUBJECT_ID : STATE_SUBJECT_ADD];
        bind_identity(statement, 1, &row->ring);
        bind_field(statement, 2, row->interface, sizeof row->interface);
        int result = run_for_number(statement, id);
        if (result != SQLITE_NOTFOUND)
            return result;
    }
    return SQLITE_CORRUPT;
}

static int put_history_row(struct state *state, const struct history_row *row)
{
    int64_t subject = 0;
    int result = subject_id(state, row, &subject);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = state->statement[STATE_HISTORY_ADD];
    int index = 1;
    sqlite3_bind_int64(statement, index++, row->second);
    sqlite3_bind_int64(statement, index++, subject);
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        bind_u64(statement, index++, row->change.packets[line]);
        bind_u64(statement, index++, row->change.bytes[line]);
    }
    bind_u64(statement, index++, row->change.stored_bytes);
    bind_u64(statement, index, row->change.cut_packets);
    return run(statement);
}

int state_put_history(struct state *state, const struct history_row *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (rows[i].second > SECOND_MAX || rows[i].second < -SECOND_MAX)
            return ERR_INVALID;
    int result = begin(state);
    for (uint32_t i = 0; i < count && result == SQLITE_OK; i++)
        result = put_history_row(state, &rows[i]);
    return end(state, result);
}

/* Where a page of history begins: behind this row. */
struct history_cursor {
    int64_t second;
    int64_t seconds;
    int64_t subject;
};

static void read_history_row(sqlite3_stmt *statement, const struct identity *ring,
                             struct history_row *row)
{
    int column = HISTORY_COLUMN_COUNTS;
    memset(row, 0, sizeof *row);
    row->ring = *ring;
    row->second = sqlite3_column_int64(statement, 0);
    row->seconds = (uint32_t)sqlite3_column_int64(statement, 1);
    column_text(statement, 3, row->interface, sizeof row->interface);
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        row->change.packets[line] = column_u64(statement, column++);
        row->change.bytes[line] = column_u64(statement, column++);
    }
    row->change.stored_bytes = column_u64(statement, column++);
    row->change.cut_packets = column_u64(statement, column);
}

/* Reads the next page. Under the lock. */
static int read_history(struct state *state, const struct identity *ring, const char *interface,
                        int64_t to, struct history_cursor *cursor, struct history_row *page,
                        uint32_t *rows)
{
    sqlite3_stmt *statement = state->statement[STATE_HISTORY_GET];
    int result;
    *rows = 0;
    bind_identity(statement, 1, ring);
    sqlite3_bind_text(statement, 2, interface, -1, SQLITE_STATIC); /* null becomes SQL's null */
    sqlite3_bind_int64(statement, 3, cursor->second);
    sqlite3_bind_int64(statement, 4, to);
    sqlite3_bind_int64(statement, 5, cursor->seconds);
    sqlite3_bind_int64(statement, 6, cursor->subject);
    sqlite3_bind_int64(statement, 7, HISTORY_PAGE_ROWS);
    while ((result = sqlite3_step(statement)) == SQLITE_ROW && *rows < HISTORY_PAGE_ROWS) {
        struct history_row *row = &page[(*rows)++];
        read_history_row(statement, ring, row);
        cursor->second = row->second;
        cursor->seconds = row->seconds;
        cursor->subject = sqlite3_column_int64(statement, 2);
    }
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

int state_history(struct state *state, const struct identity *ring, const char *interface,
                  int64_t from, int64_t to,
                  int (*each)(const struct history_row *row, void *context), void *context)
{
    struct history_cursor cursor = {.second = from, .seconds = 0, .subject = 0};
    struct history_row *page = malloc(HISTORY_PAGE_ROWS * sizeof *page);
    uint32_t rows = HISTORY_PAGE_ROWS;
    int code = page ? 0 : ERR_NO_MEMORY;
    while (code == 0 && rows == HISTORY_PAGE_ROWS) {
        pthread_mutex_lock(&state->lock);
        code = code_of(state, read_history(state, ring, interface, to, &cursor, page, &rows));
        pthread_mutex_unlock(&state->lock);
        for (uint32_t i = 0; i < rows && code == 0; i++)
            code = each(&page[i], context);
    }
    free(page);
    return code;
}

/* The minute that a second belongs to; also before the epoch. */
static int64_t minute_of(int64_t second)
{
    return second - (second % 60 + 60) % 60;
}

/* Sums one-second rows before `cut` to minutes, an hour of them at most. *more: there are others
 * left. */
static int sum_step(struct state *state, int64_t cut, bool *more)
{
    int64_t oldest = 0;
    *more = false;
    int result = begin(state);
    if (result == SQLITE_OK)
        result = run_for_number(state->statement[STATE_HISTORY_OLDEST], &oldest);
    if (result == SQLITE_NOTFOUND || (result == SQLITE_OK && oldest >= cut))
        return end(state, SQLITE_OK);
    int64_t step_end = minute_of(oldest) + TRIM_STEP_SECONDS;
    if (step_end > cut)
        step_end = cut;
    if (result == SQLITE_OK) {
        sqlite3_bind_int64(state->statement[STATE_HISTORY_SUM], 1, step_end);
        result = run(state->statement[STATE_HISTORY_SUM]);
    }
    if (result == SQLITE_OK) {
        sqlite3_bind_int64(state->statement[STATE_HISTORY_SUMMED], 1, step_end);
        result = run(state->statement[STATE_HISTORY_SUMMED]);
    }
    *more = result == SQLITE_OK;
    return end(state, result);
}

/* Deletes minutes before `cut`, and the subjects that only they were about. */
static int cut_step(struct state *state, int64_t cut)
{
    int64_t subjects = 0;
    int result = begin(state);
    if (result == SQLITE_OK) {
        sqlite3_bind_int64(state->statement[STATE_HISTORY_CUT], 1, cut);
        result = run(state->statement[STATE_HISTORY_CUT]);
    }
    if (result == SQLITE_OK && sqlite3_changes64(state->database) > 0)
        result = run_for_number(state->statement[STATE_SUBJECT_COUNT], &subjects);
    if (result == SQLITE_OK && subjects > SUBJECTS_UNUSED_MAX)
        result = run(state->statement[STATE_SUBJECTS_CUT]);
    return end(state, result);
}

int state_history_trim(struct state *state, int64_t now, int64_t keep_seconds)
{
    if (now > SECOND_MAX || now < -SECOND_MAX || keep_seconds < 0)
        return ERR_INVALID;
    if (keep_seconds > SECOND_MAX)
        keep_seconds = SECOND_MAX;
    int64_t cut = minute_of(now - keep_seconds);
    bool more = true;
    int code = 0;
    while (code == 0 && more)
        code = sum_step(state, cut, &more);
    return code == 0 ? cut_step(state, now - MINUTE_KEEP_SECONDS) : code;
}

/* ---- events
 * ----------------------------------------------------------------------------------------- */

int state_put_event(struct state *state, struct event *event)
{
    int64_t number = 0;
    int result = begin(state);
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement = state->statement[STATE_EVENT_PUT];
        sqlite3_bind_int64(statement, 1, event->time_ns);
        bind_field(statement, 2, event->severity, sizeof event->severity);
        bind_field(statement, 3, event->kind, sizeof event->kind);
        bind_field(statement, 4, event->ring, sizeof event->ring);
        bind_field(statement, 5, event->text, sizeof event->text);
        result = run(statement);
    }
    if (result == SQLITE_OK) {
        number = sqlite3_last_insert_rowid(state->database);
        sqlite3_bind_int64(state->statement[STATE_EVENTS_CUT], 1, number - EVENTS_MAX);
        result = run(state->statement[STATE_EVENTS_CUT]);
    }
    int code = end(state, result);
    if (code == 0)
        event->number = (uint64_t)number;
    return code;
}

static bool read_event(sqlite3_stmt *statement, void *row)
{
    struct event *event = row;
    event->number = column_u64(statement, 0);
    event->time_ns = sqlite3_column_int64(statement, 1);
    column_text(statement, 2, event->severity, sizeof event->severity);
    column_text(statement, 3, event->kind, sizeof event->kind);
    column_text(statement, 4, event->ring, sizeof event->ring);
    column_text(statement, 5, event->text, sizeof event->text);
    return true;
}

int state_events(struct state *state, uint64_t after, uint32_t limit,
                 int (*each)(const struct event *event, void *context), void *context)
{
    struct rows rows = {.row_bytes = sizeof(struct event)};
    int code = 0;
    bool more = after < INT64_MAX;
    while (code == 0 && more && limit > 0) {
        uint32_t wanted = limit < EVENT_PAGE_ROWS ? limit : EVENT_PAGE_ROWS;
        sqlite3_stmt *statement = state->statement[STATE_EVENTS];
        rows.count = 0;
        pthread_mutex_lock(&state->lock);
        bind_u64(statement, 1, after);
        sqlite3_bind_int64(statement, 2, wanted);
        code = code_of(state, rows_fill(&rows, statement, read_event));
        pthread_mutex_unlock(&state->lock);
        more = rows.count == wanted;
        limit -= rows.count;
        for (uint32_t i = 0; i < rows.count && code == 0; i++) {
            const struct event *event =
                (const struct event *)(void *)(rows.row + i * rows.row_bytes);
            after = event->number;
            code = each(event, context);
        }
    }
    free(rows.row);
    return code;
}

/* ---- the audit log
 * ------------------------------------------------------------------------------------ */

/* The row's hash behind `before`. False: no memory. */
static bool audit_hash(const struct audit_row *row, const uint8_t before[AUDIT_HASH_BYTES],
                       uint8_t hash[AUDIT_HASH_BYTES])
{
    const struct {
        const char *text;
        size_t size;
    } field[] = {{row->actor, sizeof row->actor},
                 {row->action, sizeof row->action},
                 {row->ring, sizeof row->ring},
                 {row->detail, sizeof row->detail},
                 {row->outcome, sizeof row->outcome}};
    const le64 numbers[2] = {le64_of(row->number), le64_of((uint64_t)row->time_ns)};
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool done = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) &&
                EVP_DigestUpdate(context, before, AUDIT_HASH_BYTES) &&
                EVP_DigestUpdate(context, numbers, sizeof numbers);
    for (size_t i = 0; done && i < sizeof field / sizeof field[0]; i++) {
        size_t bytes = strnlen(field[i].text, field[i].size - 1);
        const le32 length = le32_of((uint32_t)bytes);
        done = EVP_DigestUpdate(context, &length, sizeof length) &&
               EVP_DigestUpdate(context, field[i].text, bytes);
    }
    done = done && EVP_DigestFinal_ex(context, hash, NULL);
    EVP_MD_CTX_free(context);
    return done;
}

/* The end of the chain. Where rows were taken off it, their numbers were given all the same, and the next row shows it. */
static int audit_last(struct state *state, uint64_t *number, uint8_t hash[AUDIT_HASH_BYTES])
{
    sqlite3_stmt *statement = state->statement[STATE_AUDIT_LAST];
    int64_t given = 0;
    int result = run_for_number(state->statement[STATE_AUDIT_GIVEN], &given);
    memset(hash, 0, AUDIT_HASH_BYTES);
    if (result != SQLITE_OK && result != SQLITE_NOTFOUND)
        return result;
    result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        result = column_blob(statement, 1, hash, AUDIT_HASH_BYTES) ? sqlite3_step(statement)
                                                                   : SQLITE_CORRUPT;
    }
    sqlite3_reset(statement);
    *number = (uint64_t)given;
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

int state_put_audit(struct state *state, struct audit_row *row)
{
    uint8_t before[AUDIT_HASH_BYTES];
    uint64_t last = 0;
    int result = begin(state);
    if (result == SQLITE_OK)
        result = audit_last(state, &last, before);
    if (result == SQLITE_OK) {
        row->number = last + 1;
        result = audit_hash(row, before, row->hash) ? SQLITE_OK : SQLITE_NOMEM;
    }
    if (result == SQLITE_OK) {
        sqlite3_stmt *statement = state->statement[STATE_AUDIT_PUT];
        bind_u64(statement, 1, row->number);
        sqlite3_bind_int64(statement, 2, row->time_ns);
        bind_field(statement, 3, row->actor, sizeof row->actor);
        bind_field(statement, 4, row->action, sizeof row->action);
        bind_field(statement, 5, row->ring, sizeof row->ring);
        bind_field(statement, 6, row->detail, sizeof row->detail);
        bind_field(statement, 7, row->outcome, sizeof row->outcome);
        sqlite3_bind_blob(statement, 8, row->hash, AUDIT_HASH_BYTES, SQLITE_STATIC);
        result = run(statement);
    }
    return end(state, result);
}

/* A text column into its field. What somebody has put in may be longer: then *fits is false. */
static void audit_text(sqlite3_stmt *statement, int column, char *text, size_t size, bool *fits)
{
    column_text(statement, column, text, size);
    *fits = *fits && strlen(text) == (size_t)sqlite3_column_bytes(statement, column);
}

static bool read_audit(sqlite3_stmt *statement, void *row)
{
    struct audit_row *audit = row;
    bool fits = true;
    audit->number = column_u64(statement, 0);
    audit->time_ns = sqlite3_column_int64(statement, 1);
    audit_text(statement, 2, audit->actor, sizeof audit->actor, &fits);
    audit_text(statement, 3, audit->action, sizeof audit->action, &fits);
    audit_text(statement, 4, audit->ring, sizeof audit->ring, &fits);
    audit_text(statement, 5, audit->detail, sizeof audit->detail, &fits);
    audit_text(statement, 6, audit->outcome, sizeof audit->outcome, &fits);
    bool sound = column_blob(statement, 7, audit->hash, AUDIT_HASH_BYTES);
    if (!fits)
        memset(audit->hash, 0, AUDIT_HASH_BYTES); /* that of no row */
    return sound;
}

int state_audit(struct state *state, uint64_t after, uint32_t limit,
                int (*each)(const struct audit_row *row, void *context), void *context)
{
    struct rows rows = {.row_bytes = sizeof(struct audit_row)};
    int code = 0;
    bool more = after < INT64_MAX;
    while (code == 0 && more && limit > 0) {
        uint32_t wanted = limit < AUDIT_PAGE_ROWS ? limit : AUDIT_PAGE_ROWS;
        sqlite3_stmt *statement = state->statement[STATE_AUDIT];
        rows.count = 0;
        pthread_mutex_lock(&state->lock);
        bind_u64(statement, 1, after);
        sqlite3_bind_int64(statement, 2, wanted);
        code = code_of(state, rows_fill(&rows, statement, read_audit));
        pthread_mutex_unlock(&state->lock);
        more = rows.count == wanted;
        limit -= rows.count;
        for (uint32_t i = 0; i < rows.count && code == 0; i++) {
            const struct audit_row *row =
                (const struct audit_row *)(void *)(rows.row + i * rows.row_bytes);
            after = row->number;
            code = each(row, context);
        }
    }
    free(rows.row);
    return code;
}

struct verifying {
    uint64_t number;
    const uint8_t *hash;
    struct audit_verdict *verdict;
};

static int verify_row(const struct audit_row *row, void *context)
{
    struct verifying *verifying = context;
    struct audit_verdict *verdict = verifying->verdict;
    uint8_t hash[AUDIT_HASH_BYTES];
    if (!audit_hash(row, verdict->head, hash))
        return ERR_NO_MEMORY;
    if (row->number != verdict->rows + 1 || memcmp(hash, row->hash, sizeof hash) != 0) {
        verdict->bad = verdict->rows + 1;
        return ERR_END;
    }
    verdict->rows = row->number;
    memcpy(verdict->head, hash, sizeof hash);
    if (verifying->hash && row->number == verifying->number)
        verdict->known = memcmp(hash, verifying->hash, sizeof hash) == 0;
    return 0;
}

int state_audit_verify(struct state *state, uint64_t number, const uint8_t *hash,
                       struct audit_verdict *verdict)
{
    struct verifying verifying = {.number = number, .hash = hash, .verdict = verdict};
    int64_t given = 0;
    *verdict = (struct audit_verdict){0};
    pthread_mutex_lock(&state->lock);
    int result = run_for_number(state->statement[STATE_AUDIT_GIVEN], &given);
    pthread_mutex_unlock(&state->lock);
    int code = result == SQLITE_NOTFOUND ? 0 : code_of(state, result);
    if (code == 0)
        code = state_audit(state, 0, UINT32_MAX, verify_row, &verifying);
    /* Numbers are never given again: fewer rows than numbers are rows that were taken off the end. */
    if (code == 0 && verdict->rows < (uint64_t)given)
        verdict->bad = verdict->rows + 1;
    return code == ERR_END ? 0 : code;
}
