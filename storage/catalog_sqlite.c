/*
 * catalog_sqlite.c - the catalog in catalog.db: one thread that writes, one connection for queries.
 *
 * Happy path: a change is posted -> the write thread wakes -> within a second, or as soon as a
 * batch of 1,000 is there, it applies them in one transaction, commits, and removes them from the
 * queue. A checkpoint follows when the WAL has become long.
 *
 * When it fails, the batch is rolled back and stays in the queue, the error is kept for
 * catalog_barrier(), and the thread tries again after a pause that doubles up to 30 s. Meanwhile
 * recording goes on; if the queue fills up, changes are dropped and the catalog is stale
 * (catalog.c).
 *   - busy, full, no memory, no permission: that is all.
 *   - damaged (a wrong page checksum, SQLITE_CORRUPT, a row that cannot be): both connections are
 * closed, the files are moved aside, an empty catalog is begun, which is stale until somebody has
 * filled it. A query that finds damage reports it to the write thread and fails with ERR_CORRUPT.
 *   - an I/O error: as above when it has come five times in a row.
 *
 * Closing: the thread writes what is queued, unless an attempt fails, and ends; the WAL is emptied.
 *
 *   what               owner                                                  lock
 *   writer             the write thread; before it runs, whoever opens        none
 *   reader             any thread; the write thread while it begins anew      read_lock
 *   queue, counters    any thread                                             head.lock
 * read_lock is taken before head.lock where both are.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "catalog.h"
#include "catalog_body.h"
#include "catalog_sql.h"
#include "clock.h"
#include "database.h"

#define BATCH_CHANGES_DUE 1000u /* waiting changes that start a batch at once */
#define BATCH_CHANGES_MAX                                                                  \
    32768u                 /* of a backlog: a rebuild posts faster than this thread writes \
                            */
#define BATCH_WAIT_MS 1000 /* fewer changes wait this long for others */
#define BATCH_APPLY_MS 500 /* a transaction takes no more changes after this */
#define RETRY_MS_MIN 100
#define RETRY_MS_MAX 30000
#define IO_ERRORS_MAX 5       /* in a row, before the file is given up */
#define INTERFACES_MAX 10000u /* of a ring; the longest unseen go */
#define INTERFACES_STEP 256   /* new ones, until that is looked at again */
#define KEYS_MAX 16384u       /* segments that a query sorts in memory; more are walked in order */
#define WALK_ROWS_MAX 8192u   /* looked at in one transaction of a walk */

/* The column `span`, see catalog.sql. */
#define SPAN_ALWAYS 65
#define SPAN_NEVER 66

static const struct database_kind catalog_kind = {
    .name = "catalog",
    .file = "catalog.db",
    .schema = catalog_sql,
    .application_id = 0x746c6361,
    .version = 2,
    .full = false,
    .derived = true,
    .cache_kib = 8192,
};

#define SEGMENT_COLUMNS                                                                       \
    "segment, position, revision, data_revision, run, stream, state, first_packet, packets, " \
    "captured_bytes, missing, opened_ns, sealed_ns, head_ns, first_ns, last_ns, data_end, "   \
    "index_offset, index_bytes, purged"

#define WRITE_STATEMENTS                                                                           \
    STATEMENT(BEGIN, "BEGIN IMMEDIATE")                                                            \
    STATEMENT(COMMIT, "COMMIT")                                                                    \
    STATEMENT(ROLLBACK, "ROLLBACK")                                                                \
    STATEMENT(COMPLETE, "UPDATE catalog SET complete = ?1")                                        \
    STATEMENT(RING_ID, "SELECT id FROM ring WHERE ring = ?1")                                      \
    STATEMENT(RING_ADD, "INSERT INTO ring (ring) VALUES (?1) RETURNING id")                        \
    STATEMENT(RING_PUT, "UPDATE ring SET name = ?2, copies = ?3, slot_bytes = ?4 WHERE id = ?1")   \
    STATEMENT(DISK_ID, "SELECT id FROM disk WHERE disk = ?1")                                      \
    STATEMENT(DISK_ADD, "INSERT INTO disk (disk) VALUES (?1) RETURNING id")                        \
    STATEMENT(DISK_PUT, "UPDATE disk SET ring = ?2, path = ?3, bytes = ?4, slots = ?5, "           \
                        "state = ?6 WHERE id = ?1")                                                \
    STATEMENT(SEGMENT_ID, "SELECT id FROM segment WHERE segment = ?1")                             \
    STATEMENT(SEGMENT_PUT,                                                                         \
              "INSERT INTO segment (" SEGMENT_COLUMNS ", ring, span) VALUES (?1, ?2, ?3, ?4, ?5, " \
              "?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22) "  \
              "ON CONFLICT (segment) DO UPDATE SET position = ?2, revision = ?3, "                 \
              "data_revision = ?4, run = ?5, stream = ?6, state = ?7, first_packet = ?8, "         \
              "packets = ?9, captured_bytes = ?10, missing = ?11, opened_ns = ?12, "               \
              "sealed_ns = ?13, head_ns = ?14, first_ns = ?15, last_ns = ?16, data_end = ?17, "    \
              "index_offset = ?18, index_bytes = ?19, purged = ?20, ring = ?21, span = ?22 "       \
              "RETURNING id")                                                                      \
    STATEMENT(SEGMENT_DELETE, "DELETE FROM segment WHERE id = ?1")                                 \
    STATEMENT(PLACES, "SELECT disk.disk, place.slot FROM place CROSS JOIN disk "                   \
                      "ON disk.id = place.disk WHERE place.segment = ?1 ORDER BY place.copy")      \
    STATEMENT(PLACES_DELETE, "DELETE FROM place WHERE segment = ?1")                               \
    STATEMENT(PLACE_HOLDER, "SELECT segment FROM place WHERE disk = ?1 AND slot = ?2")             \
    STATEMENT(PLACE_PUT, "INSERT OR REPLACE INTO place (disk, slot, segment, copy) "               \
                         "VALUES (?1, ?2, ?3, ?4)")                                                \
    STATEMENT(PLACES_LEFT, "SELECT EXISTS (SELECT 1 FROM place WHERE segment = ?1)")               \
    STATEMENT(SEGMENT_REVISION, "SELECT revision FROM segment WHERE id = ?1")                      \
    STATEMENT(PLACE_DISK_DROP, "DELETE FROM place WHERE segment = ?1 AND disk = ?2")               \
    STATEMENT(PLACE_DROP, "DELETE FROM place WHERE segment = ?1 AND disk = ?2 AND slot = ?3")      \
    STATEMENT(PLACES_DROP, "DELETE FROM place WHERE disk = ?1")                                    \
    STATEMENT(COPY_NEXT, "SELECT coalesce(max(copy) + 1, 0) FROM place WHERE segment = ?1")        \
    STATEMENT(COPIES, "SELECT count(*) FROM place WHERE segment = ?1")                             \
    STATEMENT(ONLY_THERE_DROP,                                                                     \
              "DELETE FROM segment WHERE id IN (SELECT one.segment FROM place AS one "             \
              "WHERE one.disk = ?1 AND NOT EXISTS (SELECT 1 FROM place AS other "                  \
              "WHERE other.segment = one.segment AND other.disk <> ?1))")                          \
    STATEMENT(CLEAR_PLACES, "DELETE FROM place WHERE segment IN "                                  \
                            "(SELECT id FROM segment WHERE ring = ?1)")                            \
    STATEMENT(CLEAR_SEGMENTS, "DELETE FROM segment WHERE ring = ?1")                               \
    STATEMENT(INTERFACE_ID, "SELECT id FROM interface WHERE ring = ?1 AND name = ?2 AND "          \
                            "description = ?3 AND link_type = ?4 AND snapshot_length = ?5 AND "    \
                            "hardware = ?6")                                                       \
    STATEMENT(INTERFACE_SEEN, "UPDATE interface SET first_seen_ns = min(first_seen_ns, ?2), "      \
                              "last_seen_ns = max(last_seen_ns, ?2) WHERE id = ?1")                \
    STATEMENT(INTERFACE_ADD, "INSERT INTO interface (ring, name, description, link_type, "         \
                             "snapshot_length, hardware, first_seen_ns, last_seen_ns) "            \
                             "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)")                            \
    STATEMENT(INTERFACES_CUT,                                                                      \
              "DELETE FROM interface WHERE id IN (SELECT id FROM interface "                       \
              "WHERE ring = ?1 ORDER BY last_seen_ns DESC, id DESC LIMIT -1 OFFSET ?2)")

/* INDEXED BY: there are no statistics that would lead the planner, and a missing index is damage.
 */
#define READ_STATEMENTS                                                                           \
    STATEMENT(BEGIN, "BEGIN")                                                                     \
    STATEMENT(COMMIT, "COMMIT")                                                                   \
    STATEMENT(RING, "SELECT id, segments, packets, captured_bytes, missing, damaged_segments, purged " \
                    "FROM ring WHERE ring = ?1")                                                  \
    STATEMENT(SPAN_NEXT, "SELECT min(span) FROM segment INDEXED BY segment_time "                 \
                         "WHERE ring = ?1 AND span > ?2")                                         \
    STATEMENT(SPAN,                                                                               \
              "SELECT id, run, stream, position FROM segment INDEXED BY segment_time "            \
              "WHERE ring = ?1 AND span = ?2 AND first_ns BETWEEN ?3 AND ?4 AND last_ns >= ?5")   \
    STATEMENT(GROUP_NEXT,                                                                         \
              "SELECT run, stream FROM segment INDEXED BY segment_order "                         \
              "WHERE ring = ?1 AND (run, stream) > (?2, ?3) ORDER BY run, stream LIMIT 1")        \
    STATEMENT(GROUP,                                                                              \
              "SELECT id, position, first_ns, last_ns, span FROM segment "                        \
              "INDEXED BY segment_order WHERE ring = ?1 AND run = ?2 AND stream = ?3 AND "        \
              "(position < 0) = ?4 AND (position, id) > (?5, ?6) ORDER BY position, id LIMIT ?7") \
    STATEMENT(ROW, "SELECT " SEGMENT_COLUMNS " FROM segment WHERE id = ?1 AND ring = ?2")         \
    STATEMENT(PLACES, "SELECT disk.disk, place.slot FROM place CROSS JOIN disk "                  \
                      "ON disk.id = place.disk WHERE place.segment = ?1 ORDER BY place.copy")     \
    STATEMENT(DISK_NEXT, "SELECT id, disk FROM disk WHERE disk > ?1 ORDER BY disk LIMIT 1")       \
    STATEMENT(SLOTS, "SELECT place.slot, place.segment FROM place CROSS JOIN segment "            \
                     "ON segment.id = place.segment WHERE place.disk = ?1 AND place.slot > ?2 "   \
                     "AND segment.ring = ?3 ORDER BY place.slot LIMIT ?4")                        \
    STATEMENT(SEALED, "SELECT id, run, stream, position FROM segment INDEXED BY segment_position "  \
                      "WHERE ring = ?1 AND (position < 0) = 0 AND position BETWEEN ?2 AND ?3 "      \
                      "AND state <> 1 ORDER BY position LIMIT ?4")                                  \
    STATEMENT(POSITION_MIN, "SELECT position FROM segment INDEXED BY segment_position "           \
                            "WHERE ring = ?1 ORDER BY position < 0, position LIMIT 1")            \
    STATEMENT(POSITION_MAX, "SELECT position FROM segment INDEXED BY segment_position "           \
                            "WHERE ring = ?1 ORDER BY position < 0 DESC, position DESC LIMIT 1")  \
    STATEMENT(FIRST, "SELECT first_ns FROM segment INDEXED BY segment_first "                     \
                     "WHERE ring = ?1 AND first_ns <= last_ns ORDER BY first_ns LIMIT 1")         \
    STATEMENT(LAST, "SELECT last_ns FROM segment INDEXED BY segment_last "                        \
                    "WHERE ring = ?1 AND first_ns <= last_ns ORDER BY last_ns DESC LIMIT 1")      \
    STATEMENT(INTERFACES,                                                                         \
              "SELECT id, name, description, link_type, snapshot_length, hardware, "              \
              "first_seen_ns, last_seen_ns FROM interface WHERE ring = ?1 AND id > ?2 "           \
              "ORDER BY id LIMIT ?3")

enum write_statement {
#define STATEMENT(name, sql) WRITE_##name,
    WRITE_STATEMENTS
#undef STATEMENT
        WRITE_COUNT
};

enum read_statement {
#define STATEMENT(name, sql) READ_##name,
    READ_STATEMENTS
#undef STATEMENT
        READ_COUNT
};

static const char *const write_sql[WRITE_COUNT] = {
#define STATEMENT(name, sql) sql,
    WRITE_STATEMENTS
#undef STATEMENT
};

static const char *const read_sql[READ_COUNT] = {
#define STATEMENT(name, sql) sql,
    READ_STATEMENTS
#undef STATEMENT
};

struct catalog_sqlite {
    struct catalog head;
    char path[PATH_MAX];
    pthread_t thread;

    /* the write thread's */
    sqlite3 *writer; /* null while there is no usable file */
    sqlite3_stmt *write[WRITE_COUNT];
    uint64_t covered;   /* drops that the last CHANGE_COMPLETE has made good */
    uint32_t io_errors; /* in a row */
    bool young;         /* begun anew, and nothing committed since */

    /* under head.lock */
    pthread_cond_t wake;  /* to the write thread */
    pthread_cond_t tried; /* from it: an attempt has ended */
    uint64_t committed;   /* changes, of head.posted */
    uint64_t failures;    /* attempts */
    uint64_t barriers;    /* asked for */
    int error;            /* of the last attempt */
    bool stopping;
    bool damaged; /* a query found damage in the present file */

    /* under read_lock */
    pthread_mutex_t read_lock;
    sqlite3 *reader; /* null while there is no usable file */
    sqlite3_stmt *read[READ_COUNT];
    uint64_t generation; /* how often the catalog was begun anew */
};

/* ---- writing: one change ------------------------------------------------------------------------
 */

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
    if (result == SQLITE_ROW) {
        *number = sqlite3_column_int64(statement, 0);
        result = sqlite3_step(statement);
        sqlite3_reset(statement);
        return result == SQLITE_DONE ? SQLITE_OK : result;
    }
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_NOTFOUND : result;
}

static void bind_identity(sqlite3_stmt *statement, int index, const struct identity *id)
{
    sqlite3_bind_blob(statement, index, id->byte, sizeof id->byte, SQLITE_STATIC);
}

static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
}

/* The row's number in ring or disk; it is made where it is missing. */
static int id_of(sqlite3_stmt *find, sqlite3_stmt *add, const struct identity *identity,
                 int64_t *id)
{
    bind_identity(find, 1, identity);
    int result = run_for_number(find, id);
    if (result != SQLITE_NOTFOUND)
        return result;
    bind_identity(add, 1, identity);
    result = run_for_number(add, id);
    return result == SQLITE_NOTFOUND ? SQLITE_CORRUPT : result;
}

static int ring_id(struct catalog_sqlite *sqlite, const struct identity *ring, int64_t *id)
{
    return id_of(sqlite->write[WRITE_RING_ID], sqlite->write[WRITE_RING_ADD], ring, id);
}

static int disk_id(struct catalog_sqlite *sqlite, const struct identity *disk, int64_t *id)
{
    return id_of(sqlite->write[WRITE_DISK_ID], sqlite->write[WRITE_DISK_ADD], disk, id);
}

static int put_ring(struct catalog_sqlite *sqlite, const struct catalog_change_ring *put)
{
    int64_t id = 0;
    int result = ring_id(sqlite, &put->ring, &id);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_RING_PUT];
    sqlite3_bind_int64(statement, 1, id);
    bind_text(statement, 2, put->name);
    sqlite3_bind_int64(statement, 3, put->copies);
    bind_u64(statement, 4, put->slot_bytes);
    return run(statement);
}

static int put_disk(struct catalog_sqlite *sqlite, const struct catalog_change_disk *put)
{
    int64_t id = 0;
    int64_t ring = 0;
    int result = ring_id(sqlite, &put->ring, &ring);
    if (result == SQLITE_OK)
        result = disk_id(sqlite, &put->disk, &id);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_DISK_PUT];
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, ring);
    bind_text(statement, 3, put->path);
    bind_u64(statement, 4, put->bytes);
    sqlite3_bind_int64(statement, 5, put->slots);
    sqlite3_bind_int64(statement, 6, put->state);
    return run(statement);
}

/* The number of bits of the time from first to last packet; what catalog.sql calls span. */
static int span_of(const struct segment_row *row)
{
    if (segment_row_always(row))
        return SPAN_ALWAYS;
    if (!segment_row_timed(row))
        return SPAN_NEVER;
    uint64_t length_ns = (uint64_t)row->last_ns - (uint64_t)row->first_ns;
    return length_ns == 0 ? 0 : 64 - __builtin_clzll(length_ns);
}

static int put_segment_row(struct catalog_sqlite *sqlite, const struct segment_row *row,
                           int64_t *id)
{
    int64_t ring = 0;
    int result = ring_id(sqlite, &row->ring, &ring);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_SEGMENT_PUT];
    bind_identity(statement, 1, &row->segment);
    bind_u64(statement, 2, row->position);
    sqlite3_bind_int64(statement, 3, row->revision);
    sqlite3_bind_int64(statement, 4, row->data_revision);
    bind_identity(statement, 5, &row->run);
    sqlite3_bind_int64(statement, 6, row->stream);
    sqlite3_bind_int64(statement, 7, row->state);
    bind_u64(statement, 8, row->first_packet);
    bind_u64(statement, 9, row->packets);
    bind_u64(statement, 10, row->captured_bytes);
    bind_u64(statement, 11, row->missing);
    sqlite3_bind_int64(statement, 12, row->opened_ns);
    sqlite3_bind_int64(statement, 13, row->sealed_ns);
    sqlite3_bind_int64(statement, 14, row->head_ns);
    sqlite3_bind_int64(statement, 15, row->first_ns);
    sqlite3_bind_int64(statement, 16, row->last_ns);
    sqlite3_bind_int64(statement, 17, row->data_end);
    sqlite3_bind_int64(statement, 18, row->index_offset);
    sqlite3_bind_int64(statement, 19, row->index_bytes);
    bind_u64(statement, 20, row->purged);
    sqlite3_bind_int64(statement, 21, ring);
    sqlite3_bind_int(statement, 22, span_of(row));
    result = run_for_number(statement, id);
    return result == SQLITE_NOTFOUND ? SQLITE_CORRUPT : result;
}

/* Reads the places of segment `id`. More than COPIES_MAX, or impossible ones, are damage. */
static int read_places(sqlite3_stmt *statement, int64_t id, struct segment_row *row)
{
    int result;
    row->places = 0;
    sqlite3_bind_int64(statement, 1, id);
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        struct segment_place place;
        int64_t slot = sqlite3_column_int64(statement, 1);
        if (row->places == COPIES_MAX || slot < 0 || slot > UINT32_MAX ||
            !column_blob(statement, 0, place.disk.byte, sizeof place.disk.byte)) {
            result = SQLITE_CORRUPT;
            break;
        }
        place.slot = (uint32_t)slot;
        row->place[row->places++] = place;
    }
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

static bool places_equal(const struct segment_row *a, const struct segment_row *b)
{
    bool equal = a->places == b->places;
    for (uint8_t p = 0; equal && p < a->places; p++)
        equal = a->place[p].slot == b->place[p].slot &&
                identity_equal(&a->place[p].disk, &b->place[p].disk);
    return equal;
}

static int delete_segment(struct catalog_sqlite *sqlite, int64_t id)
{
    sqlite3_bind_int64(sqlite->write[WRITE_PLACES_DELETE], 1, id);
    int result = run(sqlite->write[WRITE_PLACES_DELETE]);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_SEGMENT_DELETE], 1, id);
    return run(sqlite->write[WRITE_SEGMENT_DELETE]);
}

/* Gives a place to segment `id`; who held it and has no other is deleted. */
static int put_place(struct catalog_sqlite *sqlite, int64_t id, const struct segment_place *place,
                     uint8_t copy)
{
    int64_t disk = 0;
    int64_t holder = id;
    int64_t left = 1;
    int result = disk_id(sqlite, &place->disk, &disk);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_PLACE_HOLDER];
    sqlite3_bind_int64(statement, 1, disk);
    sqlite3_bind_int64(statement, 2, place->slot);
    result = run_for_number(statement, &holder);
    if (result == SQLITE_OK && holder == id)
        return SQLITE_OK; /* named twice */
    if (result != SQLITE_OK && result != SQLITE_NOTFOUND)
        return result;
    statement = sqlite->write[WRITE_PLACE_PUT];
    sqlite3_bind_int64(statement, 1, disk);
    sqlite3_bind_int64(statement, 2, place->slot);
    sqlite3_bind_int64(statement, 3, id);
    sqlite3_bind_int64(statement, 4, copy);
    result = run(statement);
    if (result != SQLITE_OK || holder == id)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_PLACES_LEFT], 1, holder);
    result = run_for_number(sqlite->write[WRITE_PLACES_LEFT], &left);
    if (result == SQLITE_OK && left == 0)
        result = delete_segment(sqlite, holder);
    return result;
}

static int put_segment(struct catalog_sqlite *sqlite, const struct segment_row *row)
{
    int64_t id = 0;
    struct segment_row old;
    int result = put_segment_row(sqlite, row, &id);
    if (result == SQLITE_OK)
        result = read_places(sqlite->write[WRITE_PLACES], id, &old);
    if (result != SQLITE_OK || places_equal(&old, row))
        return result; /* an open segment that has grown: the usual case */
    sqlite3_bind_int64(sqlite->write[WRITE_PLACES_DELETE], 1, id);
    result = run(sqlite->write[WRITE_PLACES_DELETE]);
    for (uint8_t p = 0; p < row->places && result == SQLITE_OK; p++)
        result = put_place(sqlite, id, &row->place[p], p);
    return result;
}

static int drop_segment(struct catalog_sqlite *sqlite, const struct identity *segment)
{
    int64_t id = 0;
    bind_identity(sqlite->write[WRITE_SEGMENT_ID], 1, segment);
    int result = run_for_number(sqlite->write[WRITE_SEGMENT_ID], &id);
    if (result == SQLITE_NOTFOUND)
        return SQLITE_OK;
    return result == SQLITE_OK ? delete_segment(sqlite, id) : result;
}

/* The number of a segment that is known; SQLITE_NOTFOUND. */
static int segment_id(struct catalog_sqlite *sqlite, const struct identity *segment, int64_t *id)
{
    bind_identity(sqlite->write[WRITE_SEGMENT_ID], 1, segment);
    return run_for_number(sqlite->write[WRITE_SEGMENT_ID], id);
}

static int run_for_segment(struct catalog_sqlite *sqlite, int statement, int64_t id, int64_t *number)
{
    sqlite3_bind_int64(sqlite->write[statement], 1, id);
    return run_for_number(sqlite->write[statement], number);
}

static int add_place(struct catalog_sqlite *sqlite, const struct catalog_change_place *add)
{
    int64_t id = 0, disk = 0, revision = 0, copies = 0, copy = 0;
    int result = segment_id(sqlite, &add->segment, &id);
    if (result == SQLITE_OK)
        result = run_for_segment(sqlite, WRITE_SEGMENT_REVISION, id, &revision);
    if (result == SQLITE_NOTFOUND || (result == SQLITE_OK && revision != add->revision))
        return SQLITE_OK;
    if (result == SQLITE_OK)
        result = disk_id(sqlite, &add->place.disk, &disk);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_PLACE_DISK_DROP];
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, disk);
    result = run(statement);
    if (result == SQLITE_OK)
        result = run_for_segment(sqlite, WRITE_COPIES, id, &copies);
    if (result != SQLITE_OK || copies >= COPIES_MAX)
        return result;
    result = run_for_segment(sqlite, WRITE_COPY_NEXT, id, &copy);
    return result == SQLITE_OK ? put_place(sqlite, id, &add->place, (uint8_t)copy) : result;
}

static int drop_place(struct catalog_sqlite *sqlite, const struct catalog_change_place *drop)
{
    int64_t id = 0, disk = 0, left = 1;
    int result = segment_id(sqlite, &drop->segment, &id);
    if (result == SQLITE_NOTFOUND)
        return SQLITE_OK;
    if (result == SQLITE_OK)
        result = disk_id(sqlite, &drop->place.disk, &disk);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_PLACE_DROP];
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, disk);
    sqlite3_bind_int64(statement, 3, drop->place.slot);
    result = run(statement);
    if (result == SQLITE_OK && sqlite3_changes(sqlite->writer) > 0)
        result = run_for_segment(sqlite, WRITE_PLACES_LEFT, id, &left);
    return result == SQLITE_OK && left == 0 ? delete_segment(sqlite, id) : result;
}

static int drop_places(struct catalog_sqlite *sqlite, const struct identity *identity)
{
    int64_t disk = 0;
    int result = disk_id(sqlite, identity, &disk);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_ONLY_THERE_DROP], 1, disk);
    result = run(sqlite->write[WRITE_ONLY_THERE_DROP]);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_PLACES_DROP], 1, disk);
    return run(sqlite->write[WRITE_PLACES_DROP]);
}

static int clear_ring(struct catalog_sqlite *sqlite, const struct identity *ring)
{
    int64_t id = 0;
    int result = ring_id(sqlite, ring, &id);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_CLEAR_PLACES], 1, id);
    result = run(sqlite->write[WRITE_CLEAR_PLACES]);
    if (result != SQLITE_OK)
        return result;
    sqlite3_bind_int64(sqlite->write[WRITE_CLEAR_SEGMENTS], 1, id);
    return run(sqlite->write[WRITE_CLEAR_SEGMENTS]);
}

static void bind_interface(sqlite3_stmt *statement, int64_t ring,
                           const struct interface_description *description)
{
    sqlite3_bind_int64(statement, 1, ring);
    bind_text(statement, 2, description->name);
    bind_text(statement, 3, description->description);
    sqlite3_bind_int64(statement, 4, description->link_type);
    sqlite3_bind_int64(statement, 5, description->snapshot_length);
    sqlite3_bind_blob(statement, 6, description->hardware, sizeof description->hardware,
                      SQLITE_STATIC);
}

static int put_interface(struct catalog_sqlite *sqlite, const struct catalog_change_interface *put)
{
    int64_t ring = 0;
    int64_t id = 0;
    int result = ring_id(sqlite, &put->ring, &ring);
    if (result != SQLITE_OK)
        return result;
    sqlite3_stmt *statement = sqlite->write[WRITE_INTERFACE_ID];
    bind_interface(statement, ring, &put->description);
    result = run_for_number(statement, &id);
    if (result == SQLITE_OK) {
        statement = sqlite->write[WRITE_INTERFACE_SEEN];
        sqlite3_bind_int64(statement, 1, id);
        sqlite3_bind_int64(statement, 2, put->seen_ns);
        return run(statement);
    }
    if (result != SQLITE_NOTFOUND)
        return result;
    statement = sqlite->write[WRITE_INTERFACE_ADD];
    bind_interface(statement, ring, &put->description);
    sqlite3_bind_int64(statement, 7, put->seen_ns);
    result = run(statement);
    if (result != SQLITE_OK || sqlite3_last_insert_rowid(sqlite->writer) % INTERFACES_STEP != 0)
        return result;
    statement = sqlite->write[WRITE_INTERFACES_CUT];
    sqlite3_bind_int64(statement, 1, ring);
    sqlite3_bind_int64(statement, 2, INTERFACES_MAX);
    return run(statement);
}

static int set_complete(struct catalog_sqlite *sqlite, bool complete)
{
    sqlite3_bind_int(sqlite->write[WRITE_COMPLETE], 1, complete);
    return run(sqlite->write[WRITE_COMPLETE]);
}

/* ---- writing: a batch ---------------------------------------------------------------------------
 */

static struct timespec time_after_ms(int64_t ms)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += ms / 1000;
    time.tv_nsec += ms % 1000 * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec++;
    }
    return time;
}

static bool time_is_over(const struct timespec *deadline)
{
    struct timespec now = time_after_ms(0);
    return now.tv_sec > deadline->tv_sec ||
           (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

struct batch {
    uint32_t changes; /* taken; a transaction that lasts long leaves the last ones for the next */
    uint64_t dropped; /* up to when the batch was taken */
    uint64_t covered; /* after it */
};

static int apply(struct catalog_sqlite *sqlite, struct batch *batch,
                 const struct catalog_change *change)
{
    switch ((enum catalog_change_kind)change->kind) {
    case CHANGE_RING:
        return put_ring(sqlite, &change->ring);
    case CHANGE_DISK:
        return put_disk(sqlite, &change->disk);
    case CHANGE_SEGMENT:
        return put_segment(sqlite, &change->segment);
    case CHANGE_DROP:
        return drop_segment(sqlite, &change->drop);
    case CHANGE_PLACE_ADD:
        return add_place(sqlite, &change->place);
    case CHANGE_PLACE_DROP:
        return drop_place(sqlite, &change->place);
    case CHANGE_PLACES_DROP:
        return drop_places(sqlite, &change->places);
    case CHANGE_INTERFACE:
        return put_interface(sqlite, &change->interface);
    case CHANGE_CLEAR: {
        int result = set_complete(sqlite, false);
        return result == SQLITE_OK ? clear_ring(sqlite, &change->clear) : result;
    }
    case CHANGE_COMPLETE:
        batch->covered = change->complete;
        /* What was dropped after the new posting began may be gone for good: stay incomplete. */
        return batch->dropped <= batch->covered ? set_complete(sqlite, true) : SQLITE_OK;
    case CHANGE_FILLER:
        break;
    }
    return SQLITE_OK;
}

/*
 * Applies the batch in one transaction. Drops are written down first: what comes behind them in the
 * queue must not be there after a crash without that mark (the contract in catalog_body.h).
 *
 * Identities are random, so each change dirties a page of their index, and a transaction is the
 * cheaper for each of its changes the more it has: hence no fixed length for a backlog.
 */
static int apply_batch(struct catalog_sqlite *sqlite, struct batch *batch)
{
    batch->covered = sqlite->covered;
    int result = run(sqlite->write[WRITE_BEGIN]);
    if (result != SQLITE_OK)
        return result;
    if (batch->dropped > batch->covered)
        result = set_complete(sqlite, false);
    const struct catalog_change *change = NULL;
    struct timespec deadline = time_after_ms(BATCH_APPLY_MS);
    for (uint32_t i = 0; i < batch->changes && result == SQLITE_OK; i++) {
        change = catalog_queue_next(&sqlite->head.queue, change, batch->changes - i);
        result = apply(sqlite, batch, change);
        if (i % 256 == 255 && time_is_over(&deadline))
            batch->changes = i + 1;
    }
    if (result == SQLITE_OK)
        result = run(sqlite->write[WRITE_COMMIT]);
    if (result == SQLITE_OK) {
        sqlite->covered = batch->covered;
        return SQLITE_OK;
    }
    /* Some errors have rolled back already. */
    if (!sqlite3_get_autocommit(sqlite->writer))
        run(sqlite->write[WRITE_ROLLBACK]);
    return result;
}

/* Called by SQLite after each commit with the length of the WAL. */
static int note_wal(void *context, sqlite3 *database, const char *schema, int pages)
{
    (void)database;
    (void)schema;
    *(int *)context = pages;
    return SQLITE_OK;
}

/* ---- the files ----------------------------------------------------------------------------------
 */

static void close_writer(struct catalog_sqlite *sqlite)
{
    database_finalize(sqlite->write, WRITE_COUNT);
    sqlite3_close(sqlite->writer);
    sqlite->writer = NULL;
}

static void close_reader(struct catalog_sqlite *sqlite)
{
    database_finalize(sqlite->read, READ_COUNT);
    sqlite3_close(sqlite->reader);
    sqlite->reader = NULL;
}

/* Whether an earlier process left the catalog whole. */
static int read_complete(sqlite3 *database, bool *complete)
{
    sqlite3_stmt *statement = NULL;
    int64_t value = 0;
    int result = sqlite3_prepare_v2(database, "SELECT complete FROM catalog", -1, &statement, NULL);
    if (result == SQLITE_OK)
        result = run_for_number(statement, &value);
    sqlite3_finalize(statement);
    *complete = value == 1;
    return result == SQLITE_NOTFOUND ? SQLITE_CORRUPT : result;
}

/* Opens both connections to a file that is there. Under read_lock. */
static int connect_both(struct catalog_sqlite *sqlite, bool *complete, struct failure *failure)
{
    int code = database_connect(sqlite->path, &catalog_kind, false, &sqlite->writer, failure);
    if (code != 0)
        return code;
    int result = database_prepare(sqlite->writer, write_sql, sqlite->write, WRITE_COUNT);
    if (result == SQLITE_OK)
        result = read_complete(sqlite->writer, complete);
    if (result != SQLITE_OK)
        code = database_fail(sqlite->writer, result, sqlite->path, failure);
    if (code == 0)
        code = database_connect(sqlite->path, &catalog_kind, true, &sqlite->reader, failure);
    if (code == 0) {
        result = database_prepare(sqlite->reader, read_sql, sqlite->read, READ_COUNT);
        if (result != SQLITE_OK)
            code = database_fail(sqlite->reader, result, sqlite->path, failure);
    }
    if (code != 0) {
        close_reader(sqlite);
        close_writer(sqlite);
    }
    return code;
}

/* Whether to give the present file up, rather than to try again later. */
static bool gives_up(int code)
{
    return code == ERR_CORRUPT || code == ERR_FOREIGN || code == ERR_UNSUPPORTED ||
           code == ERR_INVALID || code == ERR_IO;
}

/* Makes an empty catalog and opens it. Under read_lock. */
static int begin_anew(struct catalog_sqlite *sqlite, struct failure *failure)
{
    bool complete;
    int code = database_create(sqlite->path, &catalog_kind, failure);
    return code == 0 ? connect_both(sqlite, &complete, failure) : code;
}

/*
 * Opens the catalog, or makes one where there is none or none that can be used. *fresh: nothing of
 * what an earlier process knew is there. Under read_lock.
 */
static int open_files(struct catalog_sqlite *sqlite, bool *fresh, struct failure *failure)
{
    bool complete = false;
    *fresh = true;
    int code = database_probe(sqlite->path, &catalog_kind, failure);
    if (code == 0)
        code = connect_both(sqlite, &complete, failure);
    if (code == 0 && complete) {
        *fresh = false;
        return 0;
    }
    if (code == 0) {
        /* Ours and undamaged, but not whole: there is nothing in it to keep. */
        close_reader(sqlite);
        close_writer(sqlite);
        return begin_anew(sqlite, failure);
    }
    if (code == ERR_NOT_FOUND)
        return begin_anew(sqlite, failure);
    if (!gives_up(code))
        return code;
    code = database_move_aside(sqlite->path, &catalog_kind, failure);
    return code == 0 ? begin_anew(sqlite, failure) : code;
}

/*
 * Opens the files again after a failure; `damaged`: moves the present ones aside first, whatever
 * they look like. Write thread.
 */
static int reopen(struct catalog_sqlite *sqlite, bool damaged)
{
    bool fresh = false;
    int code = 0;
    pthread_mutex_lock(&sqlite->read_lock);
    close_reader(sqlite);
    close_writer(sqlite);
    sqlite->generation++;
    if (damaged)
        code = database_move_aside(sqlite->path, &catalog_kind, NULL);
    if (code == 0)
        code = open_files(sqlite, &fresh, NULL);
    if (damaged || fresh) {
        /* Stale before the first query can see how empty it is. Even a new posting under way has
         * lost its beginning. */
        pthread_mutex_lock(&sqlite->head.lock);
        sqlite->head.dropped++;
        pthread_mutex_unlock(&sqlite->head.lock);
        sqlite->young = true;
        sqlite->io_errors = 0;
    }
    pthread_mutex_unlock(&sqlite->read_lock);
    return code;
}

/* ---- the write thread ---------------------------------------------------------------------------
 */

/* One attempt: database open, batch in, checkpoint where one is due. Returns a code of ours. */
static int attempt(struct catalog_sqlite *sqlite, struct batch *batch, bool damaged, bool *applied)
{
    int code = 0;
    int wal_pages = 0;
    *applied = false;
    if (damaged || !sqlite->writer)
        code = reopen(sqlite, damaged);
    if (code != 0)
        return code;
    sqlite3_wal_hook(sqlite->writer, note_wal, &wal_pages);
    int result = apply_batch(sqlite, batch);
    *applied = result == SQLITE_OK;
    if (result == SQLITE_OK && wal_pages > DATABASE_WAL_PAGES)
        result =
            sqlite3_wal_checkpoint_v2(sqlite->writer, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (result == SQLITE_BUSY && *applied)
        result = SQLITE_OK; /* a query is reading; next time */
    code = database_error(sqlite->writer, result);
    sqlite3_wal_hook(sqlite->writer, NULL, NULL);
    sqlite->io_errors = code == ERR_IO ? sqlite->io_errors + 1 : 0;
    if (*applied)
        sqlite->young = false;
    return code;
}

/*
 * Waits until there is something to do; `retry`: there has been since the last attempt failed.
 * Returns false when the thread is to end. Under the lock.
 */
static bool wait_for_work(struct catalog_sqlite *sqlite, uint64_t *barriers, bool retry)
{
    struct catalog *head = &sqlite->head;
    while (head->queue.count == 0 && !sqlite->stopping && !sqlite->damaged)
        pthread_cond_wait(&sqlite->wake, &head->lock);
    struct timespec deadline = time_after_ms(BATCH_WAIT_MS);
    int timed_out = 0;
    while (!retry && head->queue.count > 0 && head->queue.count < BATCH_CHANGES_DUE &&
           !sqlite->stopping && !sqlite->damaged && sqlite->barriers == *barriers && timed_out == 0)
        timed_out = pthread_cond_timedwait(&sqlite->wake, &head->lock, &deadline);
    *barriers = sqlite->barriers;
    return head->queue.count > 0 || sqlite->damaged || !sqlite->stopping;
}

/* After a failure: until the pause is over, or somebody asks. Under the lock. */
static void wait_to_retry(struct catalog_sqlite *sqlite, uint64_t barriers, int64_t pause_ms)
{
    struct timespec deadline = time_after_ms(pause_ms);
    int timed_out = 0;
    while (!sqlite->stopping && sqlite->barriers == barriers && timed_out == 0)
        timed_out = pthread_cond_timedwait(&sqlite->wake, &sqlite->head.lock, &deadline);
}

static void *write_thread(void *context)
{
    struct catalog_sqlite *sqlite = context;
    struct catalog *head = &sqlite->head;
    uint64_t barriers = 0;
    int64_t pause_ms = RETRY_MS_MIN;
    bool retry = false;
    bool damaged = false; /* move the files aside at the next attempt */
    pthread_mutex_lock(&head->lock);
    while (wait_for_work(sqlite, &barriers, retry)) {
        struct batch batch = {.changes = head->queue.count, .dropped = head->dropped};
        if (batch.changes > BATCH_CHANGES_MAX)
            batch.changes = BATCH_CHANGES_MAX;
        damaged |= sqlite->damaged;
        bool last = sqlite->stopping;
        pthread_mutex_unlock(&head->lock);

        bool applied;
        bool young = sqlite->young;
        int code = attempt(sqlite, &batch, damaged, &applied);
        damaged = sqlite->writer && (code == ERR_CORRUPT || sqlite->io_errors >= IO_ERRORS_MAX);
        /* Changes that damage a catalog which was empty a moment ago must not do so for ever. */
        bool poisoned = damaged && young && !applied;

        pthread_mutex_lock(&head->lock);
        if (applied || poisoned) {
            catalog_queue_remove(&head->queue, batch.changes);
            sqlite->committed += batch.changes;
            head->dropped += poisoned;
        }
        sqlite->damaged = false;
        sqlite->error = code;
        sqlite->failures += code != 0;
        pthread_cond_broadcast(&sqlite->tried);
        retry = code != 0;
        if (code == 0) {
            pause_ms = RETRY_MS_MIN;
            continue;
        }
        if (last)
            break;
        if (damaged && !young)
            continue; /* begin anew at once */
        wait_to_retry(sqlite, barriers, pause_ms);
        pause_ms = pause_ms * 2 < RETRY_MS_MAX ? pause_ms * 2 : RETRY_MS_MAX;
    }
    pthread_mutex_unlock(&head->lock);
    return NULL;
}

/* ---- the front's calls --------------------------------------------------------------------------
 */

static void sqlite_posted(struct catalog *head)
{
    struct catalog_sqlite *sqlite = (struct catalog_sqlite *)head;
    if (head->queue.count == 1 || head->queue.count == BATCH_CHANGES_DUE)
        pthread_cond_signal(&sqlite->wake);
}

static int sqlite_barrier(struct catalog *head)
{
    struct catalog_sqlite *sqlite = (struct catalog_sqlite *)head;
    pthread_mutex_lock(&head->lock);
    uint64_t target = head->posted;
    uint64_t failures = sqlite->failures;
    sqlite->barriers++;
    pthread_cond_signal(&sqlite->wake);
    while ((sqlite->committed < target || sqlite->damaged) && sqlite->failures == failures)
        pthread_cond_wait(&sqlite->tried, &head->lock);
    int code = sqlite->failures != failures ? sqlite->error : 0;
    pthread_mutex_unlock(&head->lock);
    return code;
}

/* ---- queries ------------------------------------------------------------------------------------
 */

struct segment_key {
    struct identity run;
    uint64_t position;
    int64_t id;
    uint32_t stream;
};

struct query {
    struct catalog_sqlite *sqlite;
    sqlite3_stmt **read;
    uint64_t
        generation; /* of the first transaction; another one later means that rows are missing */
    bool begun;
    int64_t ring; /* row number */
    bool known;   /* the ring is in the catalog */
};

/*
 * Begins a short transaction: queries take as many as they need, and none spans a call of the
 * caller's function. Takes read_lock unless it fails.
 */
static int query_enter(struct query *query)
{
    struct catalog_sqlite *sqlite = query->sqlite;
    pthread_mutex_lock(&sqlite->read_lock);
    int code = 0;
    if (!sqlite->reader)
        code = ERR_IO;
    else if (query->begun && query->generation != sqlite->generation)
        code = ERR_CORRUPT;
    if (code == 0) {
        query->begun = true;
        query->generation = sqlite->generation;
        query->read = sqlite->read;
        code = database_error(sqlite->reader, run(sqlite->read[READ_BEGIN]));
    }
    if (code != 0)
        pthread_mutex_unlock(&sqlite->read_lock);
    return code;
}

/* Ends the transaction; `result` is what the query's last step said. Returns a code of ours. */
static int query_leave(struct query *query, int result)
{
    struct catalog_sqlite *sqlite = query->sqlite;
    int code = database_error(sqlite->reader, result);
    if (!sqlite3_get_autocommit(sqlite->reader))
        run(sqlite->read[READ_COMMIT]);
    if (code == ERR_CORRUPT) {
        pthread_mutex_lock(&sqlite->head.lock);
        sqlite->head.dropped +=
            !sqlite->damaged; /* stale from now on, though the file is still there */
        sqlite->damaged = true;
        pthread_cond_signal(&sqlite->wake);
        pthread_mutex_unlock(&sqlite->head.lock);
    }
    pthread_mutex_unlock(&sqlite->read_lock);
    return code;
}

/* Looks the ring up, and its sums where `summary` is not null. */
static int query_ring(struct query *query, const struct identity *ring,
                      struct catalog_summary *summary)
{
    sqlite3_stmt *statement = query->read[READ_RING];
    bind_identity(statement, 1, ring);
    int result = sqlite3_step(statement);
    query->known = result == SQLITE_ROW;
    if (query->known)
        query->ring = sqlite3_column_int64(statement, 0);
    if (query->known && summary) {
        summary->segments = column_u64(statement, 1);
        summary->packets = column_u64(statement, 2);
        summary->captured_bytes = column_u64(statement, 3);
        summary->missing = column_u64(statement, 4);
        summary->damaged_segments = column_u64(statement, 5);
        summary->purged = column_u64(statement, 6);
    }
    sqlite3_reset(statement);
    return result == SQLITE_ROW || result == SQLITE_DONE ? SQLITE_OK : result;
}

/* A column that must fit 32 bits; *sound becomes false where it does not. */
static uint32_t column_u32(sqlite3_stmt *statement, int column, bool *sound)
{
    int64_t value = sqlite3_column_int64(statement, column);
    *sound &= value >= 0 && value <= UINT32_MAX;
    return (uint32_t)value;
}

/* Turns the statement's row (SEGMENT_COLUMNS) into `row`, without ring and places. False: no such
 * row can be. */
static bool read_row(sqlite3_stmt *statement, struct segment_row *row)
{
    bool sound = column_blob(statement, 0, row->segment.byte, sizeof row->segment.byte);
    row->position = column_u64(statement, 1);
    row->revision = column_u32(statement, 2, &sound);
    row->data_revision = column_u32(statement, 3, &sound);
    sound &= column_blob(statement, 4, row->run.byte, sizeof row->run.byte);
    row->stream = column_u32(statement, 5, &sound);
    uint32_t state = column_u32(statement, 6, &sound);
    sound &= state >= SEGMENT_OPEN && state <= SEGMENT_DAMAGED;
    row->state = sound ? (enum segment_state)state : SEGMENT_DAMAGED;
    row->first_packet = column_u64(statement, 7);
    row->packets = column_u64(statement, 8);
    row->captured_bytes = column_u64(statement, 9);
    row->missing = column_u64(statement, 10);
    row->opened_ns = sqlite3_column_int64(statement, 11);
    row->sealed_ns = sqlite3_column_int64(statement, 12);
    row->head_ns = sqlite3_column_int64(statement, 13);
    row->first_ns = sqlite3_column_int64(statement, 14);
    row->last_ns = sqlite3_column_int64(statement, 15);
    row->data_end = column_u32(statement, 16, &sound);
    row->index_offset = column_u32(statement, 17, &sound);
    row->index_bytes = column_u32(statement, 18, &sound);
    row->purged = column_u64(statement, 19);
    return sound;
}

/* Reads segment `id` with its places. SQLITE_NOTFOUND: it is not there (any more). */
static int query_row(struct query *query, const struct identity *ring, int64_t id,
                     struct segment_row *row)
{
    sqlite3_stmt *statement = query->read[READ_ROW];
    memset(row, 0, sizeof *row);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, query->ring);
    int result = sqlite3_step(statement);
    bool sound = result != SQLITE_ROW || read_row(statement, row);
    sqlite3_reset(statement);
    if (result != SQLITE_ROW)
        return result == SQLITE_DONE ? SQLITE_NOTFOUND : result;
    if (!sound)
        return SQLITE_CORRUPT;
    row->ring = *ring;
    return read_places(query->read[READ_PLACES], id, row);
}

static int order_keys(const void *a, const void *b)
{
    const struct segment_key *p = a;
    const struct segment_key *q = b;
    int order = memcmp(p->run.byte, q->run.byte, sizeof p->run.byte);
    if (order != 0)
        return order;
    if (p->stream != q->stream)
        return p->stream < q->stream ? -1 : 1;
    if (p->position != q->position)
        return p->position < q->position ? -1 : 1;
    return p->id < q->id ? -1 : p->id > q->id;
}

/*
 * Reads the rows of the next keys, at most a page, and hands them out. A segment that has gone or
 * changed places with another since the key was read is left out: it was overwritten, and a later
 * query would not find it.
 */
static int hand_out(struct query *query, const struct identity *ring, const struct segment_key *key,
                    uint32_t keys, struct segment_row *page,
                    int (*each)(const struct segment_row *row, void *context), void *context)
{
    assert(keys <= CATALOG_PAGE_ROWS);
    uint32_t rows = 0;
    int result = SQLITE_OK;
    int code = query_enter(query);
    if (code != 0)
        return code;
    for (uint32_t i = 0; i < keys && result == SQLITE_OK; i++) {
        struct segment_row *row = &page[rows];
        result = query_row(query, ring, key[i].id, row);
        if (result == SQLITE_OK && row->position == key[i].position &&
            row->stream == key[i].stream && identity_equal(&row->run, &key[i].run))
            rows++;
        if (result == SQLITE_NOTFOUND)
            result = SQLITE_OK;
    }
    code = query_leave(query, result);
    for (uint32_t i = 0; i < rows && code == 0; i++)
        code = each(&page[i], context);
    return code;
}

/* ---- find: few segments, by time ----------------------------------------------------------------
 */

struct find {
    struct query query;
    const struct identity *ring;
    int64_t from_ns;
    int64_t last_ns;
    struct segment_key *key; /* KEYS_MAX */
    uint32_t keys;
    struct segment_row *page; /* CATALOG_PAGE_ROWS */
};

/* Adds what a bound statement names: id, run, stream, position. SQLITE_TOOBIG: that is more than KEYS_MAX. */
static int collect_keys(struct find *find, sqlite3_stmt *statement)
{
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        if (find->keys == KEYS_MAX) {
            result = SQLITE_TOOBIG;
            break;
        }
        struct segment_key *key = &find->key[find->keys++];
        bool sound = column_blob(statement, 1, key->run.byte, sizeof key->run.byte);
        key->id = sqlite3_column_int64(statement, 0);
        key->stream = column_u32(statement, 2, &sound);
        key->position = column_u64(statement, 3);
        if (!sound) {
            result = SQLITE_CORRUPT;
            break;
        }
    }
    sqlite3_reset(statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

/* Adds the segments of one span that begin in [low_ns, high_ns] and end at from_ns or later. Stops
 * when there are too many. */
static int collect_span(struct find *find, int64_t span, int64_t low_ns, int64_t high_ns,
                        int64_t from_ns)
{
    sqlite3_stmt *statement = find->query.read[READ_SPAN];
    sqlite3_bind_int64(statement, 1, find->query.ring);
    sqlite3_bind_int64(statement, 2, span);
    sqlite3_bind_int64(statement, 3, low_ns);
    sqlite3_bind_int64(statement, 4, high_ns);
    sqlite3_bind_int64(statement, 5, from_ns);
    return collect_keys(find, statement);
}

/* The smallest span above `span` that the ring has; SPAN_ALWAYS where there is none. */
static int next_span(struct find *find, int64_t *span)
{
    sqlite3_stmt *statement = find->query.read[READ_SPAN_NEXT];
    sqlite3_bind_int64(statement, 1, find->query.ring);
    sqlite3_bind_int64(statement, 2, *span);
    int result = sqlite3_step(statement);
    int64_t next = SPAN_ALWAYS;
    if (result == SQLITE_ROW && sqlite3_column_type(statement, 0) != SQLITE_NULL)
        next = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    if (result == SQLITE_ROW && next <= *span)
        return SQLITE_CORRUPT;
    *span = next;
    return result == SQLITE_ROW ? SQLITE_OK : result;
}

/* All segments that match, by span. SQLITE_TOOBIG: more than KEYS_MAX. */
static int collect(struct find *find)
{
    int result = collect_span(find, SPAN_ALWAYS, INT64_MIN, INT64_MAX, INT64_MIN);
    if (result != SQLITE_OK || find->from_ns > find->last_ns)
        return result;
    int64_t span = -1;
    result = next_span(find, &span);
    while (result == SQLITE_OK && span < SPAN_ALWAYS) {
        int64_t low_ns = INT64_MIN;
        if (span < 64) {
            int64_t length_ns_max = (int64_t)((UINT64_C(1) << span) - 1);
            if (__builtin_sub_overflow(find->from_ns, length_ns_max, &low_ns))
                low_ns = INT64_MIN;
        }
        result = collect_span(find, span, low_ns, find->last_ns, find->from_ns);
        if (result == SQLITE_OK)
            result = next_span(find, &span);
    }
    return result;
}

/* ---- find: many segments, in their order --------------------------------------------------------
 */

struct walk {
    struct identity run; /* the group: one stream of one run */
    uint32_t stream;
    bool in_group;
    bool upper;       /* the positions of 2^63 and above, which SQL has as negative */
    int64_t position; /* the last one looked at */
    int64_t id;
    bool end;
};

static void walk_half(struct walk *walk, bool upper)
{
    walk->upper = upper;
    walk->position = INT64_MIN;
    walk->id = INT64_MIN;
}

static int walk_next_group(struct find *find, struct walk *walk, bool first)
{
    sqlite3_stmt *statement = find->query.read[READ_GROUP_NEXT];
    sqlite3_bind_int64(statement, 1, find->query.ring);
    if (first)
        sqlite3_bind_zeroblob(statement, 2, 0); /* less than any identity */
    else
        bind_identity(statement, 2, &walk->run);
    sqlite3_bind_int64(statement, 3, walk->stream);
    int result = sqlite3_step(statement);
    struct walk next = {.in_group = true};
    bool sound = true;
    if (result == SQLITE_ROW) {
        sound = column_blob(statement, 0, next.run.byte, sizeof next.run.byte);
        next.stream = column_u32(statement, 1, &sound);
    }
    sqlite3_reset(statement);
    if (!sound)
        return SQLITE_CORRUPT;
    walk_half(&next, false);
    next.end = result == SQLITE_DONE;
    *walk = next;
    return result == SQLITE_ROW || result == SQLITE_DONE ? SQLITE_OK : result;
}

/* Looks at up to `left` segments of the group, and keeps the keys of those that match, a page at
 * most. */
static int walk_group(struct find *find, struct walk *walk, uint32_t *left)
{
    sqlite3_stmt *statement = find->query.read[READ_GROUP];
    int result = SQLITE_ROW;
    uint32_t seen = 0;
    sqlite3_bind_int64(statement, 1, find->query.ring);
    bind_identity(statement, 2, &walk->run);
    sqlite3_bind_int64(statement, 3, walk->stream);
    sqlite3_bind_int(statement, 4, walk->upper);
    sqlite3_bind_int64(statement, 5, walk->position);
    sqlite3_bind_int64(statement, 6, walk->id);
    sqlite3_bind_int64(statement, 7, *left);
    while (find->keys < CATALOG_PAGE_ROWS && (result = sqlite3_step(statement)) == SQLITE_ROW) {
        int64_t id = sqlite3_column_int64(statement, 0);
        int64_t position = sqlite3_column_int64(statement, 1);
        int64_t first_ns = sqlite3_column_int64(statement, 2);
        int64_t last_ns = sqlite3_column_int64(statement, 3);
        int64_t span = sqlite3_column_int64(statement, 4);
        if (position < walk->position || (position == walk->position && id <= walk->id)) {
            result = SQLITE_CORRUPT; /* and no walk without an end */
            break;
        }
        walk->position = position;
        walk->id = id;
        seen++;
        if (span != SPAN_ALWAYS &&
            (span == SPAN_NEVER || first_ns > find->last_ns || last_ns < find->from_ns))
            continue;
        find->key[find->keys++] = (struct segment_key){
            .run = walk->run, .stream = walk->stream, .position = (uint64_t)position, .id = id};
    }
    sqlite3_reset(statement);
    *left -= seen;
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        return result;
    if (result == SQLITE_ROW || *left == 0)
        return SQLITE_OK; /* there may be more of the group */
    if (walk->upper)
        walk->in_group = false;
    else
        walk_half(walk, true);
    return SQLITE_OK;
}

/* The next keys in order: a page, or what a bounded number of rows gives. */
static int walk_on(struct find *find, struct walk *walk, bool *first)
{
    uint32_t left = WALK_ROWS_MAX;
    int result = SQLITE_OK;
    find->keys = 0;
    while (result == SQLITE_OK && !walk->end && left > 0 && find->keys < CATALOG_PAGE_ROWS) {
        if (!walk->in_group) {
            result = walk_next_group(find, walk, *first);
            *first = false;
            left--;
        } else {
            result = walk_group(find, walk, &left);
        }
    }
    return result;
}

static int find_by_walk(struct find *find,
                        int (*each)(const struct segment_row *row, void *context), void *context)
{
    struct walk walk = {0};
    bool first = true;
    int code = 0;
    while (code == 0 && !walk.end) {
        code = query_enter(&find->query);
        if (code != 0)
            return code;
        code = query_leave(&find->query, walk_on(find, &walk, &first));
        if (code == 0)
            code = hand_out(&find->query, find->ring, find->key, find->keys, find->page, each,
                            context);
    }
    return code;
}

static int find_by_keys(struct find *find,
                        int (*each)(const struct segment_row *row, void *context), void *context)
{
    int code = 0;
    qsort(find->key, find->keys, sizeof *find->key, order_keys);
    for (uint32_t at = 0; at < find->keys && code == 0; at += CATALOG_PAGE_ROWS) {
        uint32_t keys = find->keys - at;
        if (keys > CATALOG_PAGE_ROWS)
            keys = CATALOG_PAGE_ROWS;
        code = hand_out(&find->query, find->ring, &find->key[at], keys, find->page, each, context);
    }
    return code;
}

/*
 * Two ways. Usually the range holds few segments: their keys are collected by time, sorted in
 * memory, and their rows read. Where it holds more than memory is lent for, the ring's segments are
 * walked in the order that is asked for, and those outside the range are passed over: less than a
 * microsecond for each, and the answer is long anyway.
 */
static int sqlite_find(struct catalog *head, const struct identity *ring, int64_t from_ns,
                       int64_t last_ns, int (*each)(const struct segment_row *row, void *context),
                       void *context)
{
    struct find find = {
        .query = {.sqlite = (struct catalog_sqlite *)head},
        .ring = ring,
        .from_ns = from_ns,
        .last_ns = last_ns,
        .key = malloc(KEYS_MAX * sizeof(struct segment_key)),
        .page = malloc(CATALOG_PAGE_ROWS * sizeof(struct segment_row)),
    };
    bool many = false;
    int code = find.key && find.page ? query_enter(&find.query) : ERR_NO_MEMORY;
    if (code == 0) {
        int result = query_ring(&find.query, ring, NULL);
        if (result == SQLITE_OK && find.query.known)
            result = collect(&find);
        many = result == SQLITE_TOOBIG;
        code = query_leave(&find.query, many ? SQLITE_OK : result);
    }
    if (code == 0 && many)
        code = find_by_walk(&find, each, context);
    else if (code == 0)
        code = find_by_keys(&find, each, context);
    free(find.key);
    free(find.page);
    return code;
}

static int sqlite_find_sealed(struct catalog *head, const struct identity *ring, uint64_t from, uint64_t to, uint32_t count,
                              int (*each)(const struct segment_row *row, void *context), void *context)
{
    struct find find = {
        .query = {.sqlite = (struct catalog_sqlite *)head},
        .ring = ring,
        .key = malloc(KEYS_MAX * sizeof(struct segment_key)),
        .page = malloc(CATALOG_PAGE_ROWS * sizeof(struct segment_row)),
    };
    int code = find.key && find.page ? query_enter(&find.query) : ERR_NO_MEMORY;
    if (code == 0) {
        int result = query_ring(&find.query, ring, NULL);
        if (result == SQLITE_OK && find.query.known) {
            sqlite3_stmt *statement = find.query.read[READ_SEALED];
            sqlite3_bind_int64(statement, 1, find.query.ring);
            sqlite3_bind_int64(statement, 2, (int64_t)from);
            sqlite3_bind_int64(statement, 3, (int64_t)to);
            sqlite3_bind_int64(statement, 4, count);
            result = collect_keys(&find, statement);
        }
        code = query_leave(&find.query, result);
    }
    if (code == 0)
        code = hand_out(&find.query, ring, find.key, find.keys, find.page, each, context);
    free(find.key);
    free(find.page);
    return code;
}

/* ---- places -------------------------------------------------------------------------------------
 */

struct places {
    struct query query;
    const struct identity *ring;
    struct identity disk;
    int64_t disk_id;
    int64_t slot; /* the last one handed out, or -1 */
    bool in_disk;
    bool end;
    struct segment_row *page; /* CATALOG_PAGE_ROWS */
    uint32_t *slots;
    uint32_t rows;
};

static int places_next_disk(struct places *places, bool first)
{
    sqlite3_stmt *statement = places->query.read[READ_DISK_NEXT];
    if (first)
        sqlite3_bind_zeroblob(statement, 1, 0);
    else
        bind_identity(statement, 1, &places->disk);
    int result = sqlite3_step(statement);
    bool sound = true;
    places->end = result == SQLITE_DONE;
    if (result == SQLITE_ROW) {
        places->disk_id = sqlite3_column_int64(statement, 0);
        places->slot = -1;
        places->in_disk = true;
        sound = column_blob(statement, 1, places->disk.byte, sizeof places->disk.byte);
        result = SQLITE_OK;
    }
    sqlite3_reset(statement);
    if (!sound)
        return SQLITE_CORRUPT;
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

/* The next page of the disk at hand. */
static int places_page(struct places *places)
{
    sqlite3_stmt *statement = places->query.read[READ_SLOTS];
    int result = SQLITE_OK;
    int stepped;
    sqlite3_bind_int64(statement, 1, places->disk_id);
    sqlite3_bind_int64(statement, 2, places->slot);
    sqlite3_bind_int64(statement, 3, places->query.ring);
    sqlite3_bind_int64(statement, 4, CATALOG_PAGE_ROWS);
    while ((stepped = sqlite3_step(statement)) == SQLITE_ROW && result == SQLITE_OK) {
        int64_t slot = sqlite3_column_int64(statement, 0);
        int64_t segment = sqlite3_column_int64(statement, 1);
        if (slot <= places->slot || slot > UINT32_MAX || places->rows == CATALOG_PAGE_ROWS) {
            result = SQLITE_CORRUPT;
            break;
        }
        places->slot = slot;
        places->slots[places->rows] = (uint32_t)slot;
        result = query_row(&places->query, places->ring, segment, &places->page[places->rows]);
        places->rows++;
        if (result == SQLITE_NOTFOUND)
            result = SQLITE_CORRUPT; /* the join has just found it */
    }
    sqlite3_reset(statement);
    if (result == SQLITE_OK && stepped != SQLITE_DONE)
        result = stepped;
    if (places->rows < CATALOG_PAGE_ROWS)
        places->in_disk = false;
    return result;
}

static int sqlite_places(struct catalog *head, const struct identity *ring,
                         int (*each)(const struct segment_row *row,
                                     const struct segment_place *place, void *context),
                         void *context)
{
    struct places places = {
        .query = {.sqlite = (struct catalog_sqlite *)head},
        .ring = ring,
        .page = malloc(CATALOG_PAGE_ROWS * sizeof(struct segment_row)),
        .slots = malloc(CATALOG_PAGE_ROWS * sizeof(uint32_t)),
    };
    bool first = true;
    int code = places.page && places.slots ? 0 : ERR_NO_MEMORY;
    while (code == 0 && !places.end) {
        places.rows = 0;
        code = query_enter(&places.query);
        if (code != 0)
            break;
        int result = SQLITE_OK;
        if (first)
            result = query_ring(&places.query, ring, NULL);
        places.end = result == SQLITE_OK && !places.query.known;
        if (result == SQLITE_OK && !places.end && !places.in_disk)
            result = places_next_disk(&places, first);
        first = false;
        if (result == SQLITE_OK && !places.end)
            result = places_page(&places);
        code = query_leave(&places.query, result);
        for (uint32_t i = 0; i < places.rows && code == 0; i++) {
            struct segment_place place = {.disk = places.disk, .slot = places.slots[i]};
            code = each(&places.page[i], &place, context);
        }
    }
    free(places.page);
    free(places.slots);
    return code;
}

/* ---- the other queries --------------------------------------------------------------------------
 */

static int sqlite_summary(struct catalog *head, const struct identity *ring,
                          struct catalog_summary *summary)
{
    struct query query = {.sqlite = (struct catalog_sqlite *)head};
    int code = query_enter(&query);
    if (code != 0)
        return code;
    int64_t position_min = 0;
    int64_t position_max = 0;
    const struct {
        enum read_statement statement;
        int64_t *number;
    } edge[] = {
        {READ_POSITION_MIN, &position_min},
        {READ_POSITION_MAX, &position_max},
        {READ_FIRST, &summary->first_ns},
        {READ_LAST, &summary->last_ns},
    };
    int result = query_ring(&query, ring, summary);
    for (size_t i = 0; i < 4 && result == SQLITE_OK && query.known; i++) {
        sqlite3_stmt *statement = query.read[edge[i].statement];
        sqlite3_bind_int64(statement, 1, query.ring);
        result = run_for_number(statement, edge[i].number);
        if (result == SQLITE_NOTFOUND)
            result = SQLITE_OK;
    }
    summary->position_min = (uint64_t)position_min;
    summary->position_max = (uint64_t)position_max;
    return query_leave(&query, result);
}

struct interface_row {
    struct interface_description description;
    int64_t first_seen_ns;
    int64_t last_seen_ns;
};

/* One page of interfaces behind row `*id`. */
static int interfaces_page(struct query *query, int64_t *id, struct interface_row *page,
                           uint32_t *rows)
{
    sqlite3_stmt *statement = query->read[READ_INTERFACES];
    int result;
    sqlite3_bind_int64(statement, 1, query->ring);
    sqlite3_bind_int64(statement, 2, *id);
    sqlite3_bind_int64(statement, 3, CATALOG_PAGE_ROWS);
    while ((result = sqlite3_step(statement)) == SQLITE_ROW && *rows < CATALOG_PAGE_ROWS) {
        struct interface_row *row = &page[(*rows)++];
        bool sound = sqlite3_column_int64(statement, 0) > *id;
        *id = sqlite3_column_int64(statement, 0);
        column_text(statement, 1, row->description.name, sizeof row->description.name);
        column_text(statement, 2, row->description.description,
                    sizeof row->description.description);
        uint32_t link_type = column_u32(statement, 3, &sound);
        row->description.link_type = (uint16_t)link_type;
        row->description.snapshot_length = column_u32(statement, 4, &sound);
        sound &= link_type <= UINT16_MAX && column_blob(statement, 5, row->description.hardware,
                                                        sizeof row->description.hardware);
        row->first_seen_ns = sqlite3_column_int64(statement, 6);
        row->last_seen_ns = sqlite3_column_int64(statement, 7);
        if (!sound) {
            result = SQLITE_CORRUPT;
            break;
        }
    }
    sqlite3_reset(statement);
    return result == SQLITE_ROW || result == SQLITE_DONE ? SQLITE_OK : result;
}

static int sqlite_interfaces(struct catalog *head, const struct identity *ring,
                             int (*each)(const struct interface_description *description,
                                         int64_t first_seen_ns, int64_t last_seen_ns,
                                         void *context),
                             void *context)
{
    struct query query = {.sqlite = (struct catalog_sqlite *)head};
    struct interface_row *page = calloc(CATALOG_PAGE_ROWS, sizeof *page);
    int64_t id = INT64_MIN;
    uint32_t rows = CATALOG_PAGE_ROWS;
    int code = page ? 0 : ERR_NO_MEMORY;
    while (code == 0 && rows == CATALOG_PAGE_ROWS) {
        rows = 0;
        code = query_enter(&query);
        if (code != 0)
            break;
        int result = query_ring(&query, ring, NULL);
        if (result == SQLITE_OK && query.known)
            result = interfaces_page(&query, &id, page, &rows);
        code = query_leave(&query, result);
        for (uint32_t i = 0; i < rows && code == 0; i++)
            code = each(&page[i].description, page[i].first_seen_ns, page[i].last_seen_ns, context);
    }
    free(page);
    return code;
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static void sqlite_close(struct catalog *head)
{
    struct catalog_sqlite *sqlite = (struct catalog_sqlite *)head;
    pthread_mutex_lock(&head->lock);
    sqlite->stopping = true;
    pthread_cond_signal(&sqlite->wake);
    pthread_mutex_unlock(&head->lock);
    pthread_join(sqlite->thread, NULL);
    close_reader(sqlite);
    if (sqlite->writer) /* an error here costs the next start some reading of the WAL */
        sqlite3_wal_checkpoint_v2(sqlite->writer, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    close_writer(sqlite);
    pthread_cond_destroy(&sqlite->wake);
    pthread_cond_destroy(&sqlite->tried);
    pthread_mutex_destroy(&sqlite->read_lock);
    catalog_head_close(head);
    free(sqlite);
}

static const struct catalog_ops sqlite_ops = {
    .posted = sqlite_posted,
    .barrier = sqlite_barrier,
    .find = sqlite_find,
    .find_sealed = sqlite_find_sealed,
    .places = sqlite_places,
    .summary = sqlite_summary,
    .interfaces = sqlite_interfaces,
    .close = sqlite_close,
};

static void make_conditions(struct catalog_sqlite *sqlite)
{
    clock_condition_init(&sqlite->wake);
    pthread_cond_init(&sqlite->tried, NULL);
    pthread_mutex_init(&sqlite->read_lock, NULL);
}

int catalog_open(const char *directory, struct catalog **catalog, bool *fresh,
                 struct failure *failure)
{
    *catalog = NULL;
    *fresh = false;
    struct catalog_sqlite *sqlite = calloc(1, sizeof *sqlite);
    if (!sqlite || catalog_head_open(&sqlite->head, &sqlite_ops) != 0) {
        free(sqlite);
        return fail(failure, ERR_NO_MEMORY, "catalog: out of memory");
    }
    make_conditions(sqlite);
    int code = database_path(directory, &catalog_kind, sqlite->path, sizeof sqlite->path, failure);
    if (code == 0)
        code = open_files(sqlite, fresh, failure);
    if (code == 0) {
        sqlite->head.incomplete = *fresh;
        sqlite->young = *fresh;
        int number = pthread_create(&sqlite->thread, NULL, write_thread, sqlite);
        if (number == 0) {
            *catalog = &sqlite->head;
            return 0;
        }
        code = fail_errno(failure, number, "catalog: cannot start its thread");
    }
    close_reader(sqlite);
    close_writer(sqlite);
    pthread_cond_destroy(&sqlite->wake);
    pthread_cond_destroy(&sqlite->tried);
    pthread_mutex_destroy(&sqlite->read_lock);
    catalog_head_close(&sqlite->head);
    free(sqlite);
    return code;
}
