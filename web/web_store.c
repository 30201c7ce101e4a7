/*
 * web_store.c - see web_store.h. The file itself is made, checked and opened as the recorder's
 * databases are (database.h).
 */
#include "web_store.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "database.h"
#include "web_sql.h"

static const struct database_kind web_kind = {
    .name = "users",
    .file = "web.db",
    .schema = web_sql,
    .application_id = 0x746c7762,
    .version = 1,
    .full = true,
    .cache_kib = 512,
};

#define USER_COLUMNS "name, role, must_change, created_s, password"
#define TOKEN_COLUMNS "number, user, name, rights, created_s, expires_s"
#define NOT_THE_LAST_ADMIN                                                                      \
    "(role <> 3 OR EXISTS (SELECT 1 FROM user AS other WHERE other.role = 3 AND other.name <> " \
    "?1))"

/* clang-format off */
#define WEB_STATEMENTS                                                                             \
    STATEMENT(BEGIN, "BEGIN IMMEDIATE")                                                            \
    STATEMENT(COMMIT, "COMMIT")                                                                    \
    STATEMENT(ROLLBACK, "ROLLBACK")                                                                \
    STATEMENT(USER_COUNT, "SELECT count(*) FROM user")                                             \
    STATEMENT(USER_GET, "SELECT " USER_COLUMNS " FROM user WHERE name = ?1")                       \
    STATEMENT(USERS, "SELECT " USER_COLUMNS " FROM user ORDER BY name")                            \
    STATEMENT(USER_ADD, "INSERT INTO user (name, role, must_change, created_s, password) "         \
                        "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING")                      \
    STATEMENT(USER_PASSWORD, "UPDATE user SET password = ?2, must_change = ?3 WHERE name = ?1")    \
    STATEMENT(USER_ROLE, "UPDATE user SET role = ?2 WHERE name = ?1 AND (?2 = 3 OR "               \
                         NOT_THE_LAST_ADMIN ")")                                                   \
    STATEMENT(USER_DELETE, "DELETE FROM user WHERE name = ?1 AND " NOT_THE_LAST_ADMIN)             \
    STATEMENT(USER_SESSIONS, "DELETE FROM session WHERE user = ?1")                                \
    STATEMENT(USER_TOKENS, "DELETE FROM token WHERE user = ?1")                                    \
    STATEMENT(SESSION_ADD, "INSERT INTO session (secret, user, created_s, used_s) "                \
                           "VALUES (?1, ?2, ?3, ?4)")                                              \
    STATEMENT(SESSION_GET, "SELECT user, created_s, used_s FROM session WHERE secret = ?1")        \
    STATEMENT(SESSION_USE, "UPDATE session SET used_s = ?2 WHERE secret = ?1")                     \
    STATEMENT(SESSION_DELETE, "DELETE FROM session WHERE secret = ?1")                             \
    STATEMENT(SESSIONS_TRIM, "DELETE FROM session WHERE created_s < ?1 OR used_s < ?2")            \
    STATEMENT(TOKEN_PUT, "INSERT INTO token (secret, user, name, rights, created_s, expires_s) "   \
                         "SELECT ?1, ?2, ?3, ?4, ?5, ?6 "                                          \
                         "WHERE (SELECT count(*) FROM token WHERE user = ?2) < ?7")                \
    STATEMENT(TOKEN_GET, "SELECT " TOKEN_COLUMNS " FROM token WHERE secret = ?1")                  \
    STATEMENT(TOKENS, "SELECT " TOKEN_COLUMNS " FROM token WHERE user = ?1 ORDER BY number")       \
    STATEMENT(TOKEN_DELETE, "DELETE FROM token WHERE user = ?1 AND number = ?2")
/* clang-format on */

enum web_statement {
#define STATEMENT(name, sql) SQL_##name,
    WEB_STATEMENTS
#undef STATEMENT
        SQL_STATEMENTS
};

static const char *const statements[SQL_STATEMENTS] = {
#define STATEMENT(name, sql) sql,
    WEB_STATEMENTS
#undef STATEMENT
};

struct web_store {
    pthread_mutex_t lock;
    sqlite3 *database;
    sqlite3_stmt *statement[SQL_STATEMENTS];
};

/* ---- statements: take one, bind, step, give back --------------------------------------------- */

/* The lock is ours from here to finish(). */
static sqlite3_stmt *begin(struct web_store *store, enum web_statement which)
{
    pthread_mutex_lock(&store->lock);
    return store->statement[which];
}

static int done(struct web_store *store, sqlite3_stmt *statement, int result)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return database_error(store->database, result);
}

static int finish(struct web_store *store, sqlite3_stmt *statement, int result)
{
    int code = done(store, statement, result);
    pthread_mutex_unlock(&store->lock);
    return code;
}

/* Runs a change. `none`: the code where it has changed nothing. */
static int change(struct web_store *store, sqlite3_stmt *statement, int none)
{
    int result = sqlite3_step(statement);
    int changed = sqlite3_changes(store->database);
    int code = finish(store, statement, result);
    return code == 0 && changed == 0 ? none : code;
}

static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
}

static void bind_secret(sqlite3_stmt *statement, const uint8_t *secret)
{
    sqlite3_bind_blob(statement, 1, secret, SECRET_DIGEST_BYTES, SQLITE_STATIC);
}

/* ---- opening --------------------------------------------------------------------------------- */

int web_store_open(const char *directory, struct web_store **result, struct failure *failure)
{
    char path[PATH_MAX];
    struct web_store *store = calloc(1, sizeof *store);
    if (!store)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    int code = database_path(directory, &web_kind, path, sizeof path, failure);
    if (code == 0)
        code = database_probe(path, &web_kind, failure);
    if (code == ERR_NOT_FOUND) {
        code = database_create(path, &web_kind, failure);
        if (code == 0 && chmod(path, 0600) != 0) /* nobody else's, and so its WAL */
            code = fail_errno(failure, errno, "%s", path);
    }
    if (code == 0)
        code = database_connect(path, &web_kind, false, &store->database, failure);
    if (code == 0) {
        code = database_prepare(store->database, statements, store->statement, SQL_STATEMENTS);
        if (code != 0)
            fail(failure, code, "%s: %s", path, error_text(code));
    }
    if (code != 0) {
        sqlite3_close(store->database);
        free(store);
        return code;
    }
    pthread_mutex_init(&store->lock, NULL);
    *result = store;
    return 0;
}

void web_store_close(struct web_store **slot)
{
    struct web_store *store = *slot;
    if (!store)
        return;
    database_finalize(store->statement, SQL_STATEMENTS);
    sqlite3_close(store->database);
    pthread_mutex_destroy(&store->lock);
    free(store);
    *slot = NULL;
}

int web_store_check_name(const char *name, struct failure *failure)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@";
    size_t length = strlen(name);
    if (length == 0 || length > USER_NAME_MAX || strspn(name, good) != length || name[0] == '-' ||
        name[0] == '.')
        return fail(failure, ERR_INVALID,
                    "a name has 1 to %u of a-z, A-Z, 0-9, \"-\", \"_\", \".\", \"@\", and begins "
                    "with none of \"-\" and \".\"",
                    USER_NAME_MAX);
    return 0;
}

/* ---- users ----------------------------------------------------------------------------------- */

static void take_user(sqlite3_stmt *statement, struct web_user *user)
{
    column_text(statement, 0, user->name, sizeof user->name);
    int role = sqlite3_column_int(statement, 1);
    user->role = role >= 0 && role < ROLES ? (enum role)role : ROLE_VIEWER;
    user->must_change = sqlite3_column_int(statement, 2) != 0;
    user->created_s = sqlite3_column_int64(statement, 3);
    column_text(statement, 4, user->password, sizeof user->password);
}

int web_store_user_count(struct web_store *store)
{
    sqlite3_stmt *statement = begin(store, SQL_USER_COUNT);
    int result = sqlite3_step(statement);
    int count = result == SQLITE_ROW ? sqlite3_column_int(statement, 0) : 0;
    int code = finish(store, statement, result);
    return code == 0 ? count : code;
}

int web_store_user(struct web_store *store, const char *name, struct web_user *user)
{
    sqlite3_stmt *statement = begin(store, SQL_USER_GET);
    bind_text(statement, 1, name);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        take_user(statement, user);
    int code = finish(store, statement, result);
    return code == 0 && result != SQLITE_ROW ? ERR_NOT_FOUND : code;
}

int web_store_add_user(struct web_store *store, const struct web_user *user)
{
    sqlite3_stmt *statement = begin(store, SQL_USER_ADD);
    bind_text(statement, 1, user->name);
    sqlite3_bind_int(statement, 2, (int)user->role);
    sqlite3_bind_int(statement, 3, user->must_change);
    sqlite3_bind_int64(statement, 4, user->created_s);
    bind_text(statement, 5, user->password);
    return change(store, statement, ERR_EXISTS);
}

/* Runs one of a transaction's statements that has the user's name as its first and only value. */
static int change_of_user(struct web_store *store, enum web_statement which, const char *name)
{
    sqlite3_stmt *statement = store->statement[which];
    bind_text(statement, 1, name);
    return done(store, statement, sqlite3_step(statement));
}

static int plain(struct web_store *store, enum web_statement which)
{
    sqlite3_stmt *statement = store->statement[which];
    return done(store, statement, sqlite3_step(statement));
}

/* The transaction's end; the lock's, too. */
static int end(struct web_store *store, int code)
{
    if (code == 0)
        code = plain(store, SQL_COMMIT);
    if (code != 0 && !sqlite3_get_autocommit(store->database))
        (void)plain(store, SQL_ROLLBACK);
    pthread_mutex_unlock(&store->lock);
    return code;
}

int web_store_set_password(struct web_store *store, const char *name, const char *password,
                           bool must_change)
{
    pthread_mutex_lock(&store->lock);
    int code = plain(store, SQL_BEGIN);
    if (code == 0) {
        sqlite3_stmt *statement = store->statement[SQL_USER_PASSWORD];
        bind_text(statement, 1, name);
        bind_text(statement, 2, password);
        sqlite3_bind_int(statement, 3, must_change);
        code = done(store, statement, sqlite3_step(statement));
        if (code == 0 && sqlite3_changes(store->database) == 0)
            code = ERR_NOT_FOUND;
    }
    if (code == 0)
        code = change_of_user(store, SQL_USER_SESSIONS, name);
    return end(store, code);
}

/* Why a change of a user has changed nothing: there is none, or it is the last admin. */
static int why_not(struct web_store *store, const char *name)
{
    struct web_user user;
    int code = web_store_user(store, name, &user);
    return code == 0 ? ERR_BUSY : code;
}

int web_store_set_role(struct web_store *store, const char *name, enum role role)
{
    sqlite3_stmt *statement = begin(store, SQL_USER_ROLE);
    bind_text(statement, 1, name);
    sqlite3_bind_int(statement, 2, (int)role);
    int code = change(store, statement, ERR_BUSY);
    return code == ERR_BUSY ? why_not(store, name) : code;
}

int web_store_delete_user(struct web_store *store, const char *name)
{
    pthread_mutex_lock(&store->lock);
    int code = plain(store, SQL_BEGIN);
    if (code == 0)
        code = change_of_user(store, SQL_USER_DELETE, name);
    if (code == 0 && sqlite3_changes(store->database) == 0)
        code = ERR_BUSY;
    if (code == 0)
        code = change_of_user(store, SQL_USER_SESSIONS, name);
    if (code == 0)
        code = change_of_user(store, SQL_USER_TOKENS, name);
    code = end(store, code);
    return code == ERR_BUSY ? why_not(store, name) : code;
}

int web_store_users(struct web_store *store,
                    int (*each)(const struct web_user *user, void *context), void *context)
{
    sqlite3_stmt *statement = begin(store, SQL_USERS);
    int result, code = 0;
    while (code == 0 && (result = sqlite3_step(statement)) == SQLITE_ROW) {
        struct web_user user;
        take_user(statement, &user);
        code = each(&user, context);
    }
    int end_code = finish(store, statement, code == 0 ? result : SQLITE_OK);
    return code == 0 ? end_code : code;
}

/* ---- sessions -------------------------------------------------------------------------------- */

int web_store_add_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                          const struct web_session *session)
{
    sqlite3_stmt *statement = begin(store, SQL_SESSION_ADD);
    bind_secret(statement, secret);
    bind_text(statement, 2, session->user);
    sqlite3_bind_int64(statement, 3, session->created_s);
    sqlite3_bind_int64(statement, 4, session->used_s);
    return change(store, statement, ERR_INTERNAL);
}

int web_store_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                      struct web_session *session)
{
    sqlite3_stmt *statement = begin(store, SQL_SESSION_GET);
    bind_secret(statement, secret);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        column_text(statement, 0, session->user, sizeof session->user);
        session->created_s = sqlite3_column_int64(statement, 1);
        session->used_s = sqlite3_column_int64(statement, 2);
    }
    int code = finish(store, statement, result);
    return code == 0 && result != SQLITE_ROW ? ERR_NOT_FOUND : code;
}

int web_store_use_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                          int64_t used_s)
{
    sqlite3_stmt *statement = begin(store, SQL_SESSION_USE);
    bind_secret(statement, secret);
    sqlite3_bind_int64(statement, 2, used_s);
    return change(store, statement, ERR_NOT_FOUND);
}

int web_store_delete_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES])
{
    sqlite3_stmt *statement = begin(store, SQL_SESSION_DELETE);
    bind_secret(statement, secret);
    return change(store, statement, ERR_NOT_FOUND);
}

int web_store_trim_sessions(struct web_store *store, int64_t created_s, int64_t used_s)
{
    sqlite3_stmt *statement = begin(store, SQL_SESSIONS_TRIM);
    sqlite3_bind_int64(statement, 1, created_s);
    sqlite3_bind_int64(statement, 2, used_s);
    return change(store, statement, 0);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void take_token(sqlite3_stmt *statement, struct web_token *token)
{
    token->number = sqlite3_column_int64(statement, 0);
    column_text(statement, 1, token->user, sizeof token->user);
    column_text(statement, 2, token->name, sizeof token->name);
    token->rights = (unsigned)sqlite3_column_int(statement, 3);
    token->created_s = sqlite3_column_int64(statement, 4);
    token->expires_s = sqlite3_column_int64(statement, 5);
}

int web_store_put_token(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                        struct web_token *token)
{
    sqlite3_stmt *statement = begin(store, SQL_TOKEN_PUT);
    bind_secret(statement, secret);
    bind_text(statement, 2, token->user);
    bind_text(statement, 3, token->name);
    sqlite3_bind_int(statement, 4, (int)token->rights);
    sqlite3_bind_int64(statement, 5, token->created_s);
    sqlite3_bind_int64(statement, 6, token->expires_s);
    sqlite3_bind_int(statement, 7, (int)TOKENS_MAX);
    int result = sqlite3_step(statement);
    int changed = sqlite3_changes(store->database);
    token->number = sqlite3_last_insert_rowid(store->database);
    int code = finish(store, statement, result);
    return code == 0 && changed == 0 ? ERR_TOO_LARGE : code;
}

int web_store_token(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                    struct web_token *token)
{
    sqlite3_stmt *statement = begin(store, SQL_TOKEN_GET);
    bind_secret(statement, secret);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        take_token(statement, token);
    int code = finish(store, statement, result);
    return code == 0 && result != SQLITE_ROW ? ERR_NOT_FOUND : code;
}

int web_store_delete_token(struct web_store *store, const char *user, int64_t number)
{
    sqlite3_stmt *statement = begin(store, SQL_TOKEN_DELETE);
    bind_text(statement, 1, user);
    sqlite3_bind_int64(statement, 2, number);
    return change(store, statement, ERR_NOT_FOUND);
}

int web_store_tokens(struct web_store *store, const char *user,
                     int (*each)(const struct web_token *token, void *context), void *context)
{
    sqlite3_stmt *statement = begin(store, SQL_TOKENS);
    bind_text(statement, 1, user);
    int result, code = 0;
    while (code == 0 && (result = sqlite3_step(statement)) == SQLITE_ROW) {
        struct web_token token;
        take_token(statement, &token);
        code = each(&token, context);
    }
    int end_code = finish(store, statement, code == 0 ? result : SQLITE_OK);
    return code == 0 ? end_code : code;
}
