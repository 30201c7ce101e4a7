/*
 * web_store.h - web.db: users, sessions, tokens. One SQLite connection behind one lock; any thread
 * may call. Every change is on the disk when its function returns 0.
 */
#ifndef WEB_WEB_STORE_H
#define WEB_WEB_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "password.h"
#include "role.h"

struct web_store;

#define USER_NAME_MAX 63u
#define TOKEN_NAME_MAX 63u
#define TOKENS_MAX 100u /* of one user */

struct web_user {
    char name[USER_NAME_MAX + 1];
    enum role role;
    bool must_change; /* the password was given by somebody else */
    int64_t created_s;
    char password[PASSWORD_HASH_SIZE];
};

struct web_session {
    char user[USER_NAME_MAX + 1];
    int64_t created_s, used_s;
};

struct web_token {
    int64_t number; /* given by web_store_put_token() */
    char user[USER_NAME_MAX + 1];
    char name[TOKEN_NAME_MAX + 1];
    unsigned rights;
    int64_t created_s, expires_s; /* 0: never */
};

/* Opens or makes DIR/web.db. A file that is damaged or not ours is never replaced. */
int web_store_open(const char *directory, struct web_store **result, struct failure *failure);
void web_store_close(struct web_store **slot);

/* 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', '@', not beginning with '-' or '.'. ERR_INVALID. */
int web_store_check_name(const char *name, struct failure *failure);

/* How many users there are, or a negative code. */
int web_store_user_count(struct web_store *store);
int web_store_user(struct web_store *store, const char *name,
                   struct web_user *user);                                    /* ERR_NOT_FOUND */
int web_store_add_user(struct web_store *store, const struct web_user *user); /* ERR_EXISTS */
int web_store_set_password(struct web_store *store, const char *name, const char *password,
                           bool must_change); /* ERR_NOT_FOUND. Ends the user's sessions */
/* ERR_NOT_FOUND; ERR_BUSY: there would be no admin left. */
int web_store_set_role(struct web_store *store, const char *name, enum role role);
int web_store_delete_user(struct web_store *store,
                          const char *name); /* with sessions and tokens; as above */
/* By name; `each` must not call the store. */
int web_store_users(struct web_store *store,
                    int (*each)(const struct web_user *user, void *context), void *context);

/* Sessions go by secret_digest("session", ...). */
int web_store_add_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                          const struct web_session *session);
int web_store_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                      struct web_session *session); /* ERR_NOT_FOUND */
int web_store_use_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                          int64_t used_s);
int web_store_delete_session(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES]);
/* Forgets sessions that began before or were last used before these times. */
int web_store_trim_sessions(struct web_store *store, int64_t created_s, int64_t used_s);

/* Tokens go by secret_digest("token", ...). ERR_TOO_LARGE: the user has TOKENS_MAX. */
int web_store_put_token(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                        struct web_token *token);
int web_store_token(struct web_store *store, const uint8_t secret[SECRET_DIGEST_BYTES],
                    struct web_token *token); /* ERR_NOT_FOUND */
int web_store_delete_token(struct web_store *store, const char *user,
                           int64_t number); /* ERR_NOT_FOUND */
int web_store_tokens(struct web_store *store, const char *user,
                     int (*each)(const struct web_token *token, void *context), void *context);

#endif
