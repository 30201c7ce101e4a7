/*
 * access.c - see access.h.
 */
#include "access.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "web_server.h"

#define COOKIE "__Host-tapeloop"
#define TOKEN_PREFIX "tl_"
#define SESSION_IDLE_S (12 * 3600) /* without a request */
#define SESSION_MAX_S (7 * 86400)  /* since the log-in */
#define SESSION_NOTE_S 60          /* the last use is written down this often */
#define GUARD_PLACES 4096u
#define GUARD_FORGET_S 3600
#define GUARD_WAIT_S_MAX 300u
#define TRIES_FREE_PAIR 4u     /* wrong ones for a user from an address */
#define TRIES_FREE_ADDRESS 20u /* from an address */

const char access_no_cookie[] =
    "Set-Cookie: " COOKIE "=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0\r\n";

/* ---- guessing -------------------------------------------------------------------------------- */

struct guard_place {
    uint8_t key[SECRET_DIGEST_BYTES];
    int64_t last_s; /* when the last wrong try was; 0: free */
    unsigned wrong;
};

struct login_guard {
    pthread_mutex_t lock;
    struct guard_place place[GUARD_PLACES];
};

static int64_t monotonic_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec + 1; /* never 0 */
}

struct login_guard *login_guard_open(void)
{
    struct login_guard *guard = calloc(1, sizeof *guard);
    if (guard)
        pthread_mutex_init(&guard->lock, NULL);
    return guard;
}

void login_guard_close(struct login_guard **guard)
{
    if (!*guard)
        return;
    pthread_mutex_destroy(&(*guard)->lock);
    free(*guard);
    *guard = NULL;
}

/* The place of a key, or, where it has none, the one that is free or the oldest. */
static struct guard_place *find_place(struct login_guard *guard, const uint8_t *key, bool *known)
{
    struct guard_place *oldest = &guard->place[0];
    for (unsigned i = 0; i < GUARD_PLACES; i++) {
        struct guard_place *place = &guard->place[i];
        if (place->last_s && memcmp(place->key, key, sizeof place->key) == 0) {
            *known = monotonic_s() - place->last_s < GUARD_FORGET_S;
            return place;
        }
        if (place->last_s < oldest->last_s)
            oldest = place;
    }
    *known = false;
    return oldest;
}

/* How long a place has to wait yet. */
static unsigned wait_of(const struct guard_place *place, unsigned free_tries)
{
    if (place->wrong <= free_tries)
        return 0;
    unsigned doublings = place->wrong - free_tries - 1;
    int64_t due_s = doublings < 9 ? INT64_C(1) << doublings : (int64_t)GUARD_WAIT_S_MAX;
    if (due_s > GUARD_WAIT_S_MAX)
        due_s = GUARD_WAIT_S_MAX;
    due_s -= monotonic_s() - place->last_s;
    return due_s > 0 ? (unsigned)due_s : 0;
}

unsigned login_guard_try(struct login_guard *guard, const char *key, unsigned free_tries)
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    bool known;
    secret_digest("guard", key, digest);
    pthread_mutex_lock(&guard->lock);
    struct guard_place *place = find_place(guard, digest, &known);
    unsigned wait = known ? wait_of(place, free_tries) : 0;
    if (wait == 0) {
        unsigned wrong = known ? place->wrong : 0;
        *place = (struct guard_place){.last_s = monotonic_s(), .wrong = wrong < UINT32_MAX ? wrong + 1 : wrong};
        memcpy(place->key, digest, sizeof place->key);
    }
    pthread_mutex_unlock(&guard->lock);
    return wait;
}

void login_guard_end(struct login_guard *guard, const char *key, enum guard_end end)
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    bool known;
    secret_digest("guard", key, digest);
    pthread_mutex_lock(&guard->lock);
    struct guard_place *place = find_place(guard, digest, &known);
    if (known && end == GUARD_WRONG)
        place->last_s = monotonic_s();
    else if (known && (end == GUARD_RIGHT || --place->wrong == 0))
        *place = (struct guard_place){0};
    pthread_mutex_unlock(&guard->lock);
}

void login_guard_address(const char *address, char text[GUARD_ADDRESS_SIZE])
{
    struct in6_addr parsed;
    snprintf(text, GUARD_ADDRESS_SIZE, "%s", address);
    if (inet_pton(AF_INET6, address, &parsed) != 1 || IN6_IS_ADDR_V4MAPPED(&parsed))
        return;
    memset(&parsed.s6_addr[8], 0, 8);
    (void)inet_ntop(AF_INET6, &parsed, text, GUARD_ADDRESS_SIZE);
}

/* ---- Host and origin ------------------------------------------------------------------------- */

/* The name without its port and brackets. False: it makes no sense. */
static bool host_name(const char *host, char name[256])
{
    const char *end;
    if (host[0] == '[') {
        end = strchr(++host, ']');
        if (!end || (end[1] != '\0' && end[1] != ':'))
            return false;
    } else {
        end = strchr(host, ':');
        if (!end)
            end = host + strlen(host);
    }
    size_t length = (size_t)(end - host);
    if (length == 0 || length > 255)
        return false;
    memcpy(name, host, length);
    name[length] = '\0';
    return true;
}

bool access_host_is_ours(const char *host, const char *const *names, unsigned count)
{
    char name[256], own[256] = "";
    struct in6_addr address;
    if (!host || !host_name(host, name))
        return false;
    if (inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1 ||
        strcasecmp(name, "localhost") == 0)
        return true;
    if (gethostname(own, sizeof own - 1) == 0 && strcasecmp(name, own) == 0)
        return true;
    for (unsigned i = 0; i < count; i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

bool access_origin_is_ours(const struct exchange *exchange)
{
    char expected[300];
    const char *origin = exchange_header(exchange, "Origin");
    const char *site = exchange_header(exchange, "Sec-Fetch-Site");
    const char *host = exchange_header(exchange, "Host");
    if (site && strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0)
        return false;
    if (!origin)
        return true;
    snprintf(expected, sizeof expected, "https://%.256s", host ? host : "");
    return strcasecmp(origin, expected) == 0;
}

/* ---- who ------------------------------------------------------------------------------------- */

static int nobody(struct failure *failure)
{
    return fail(failure, ERR_PERMISSION, "log in first, or send a token that is good");
}

static int take_user(struct exchange *exchange, const char *name, struct failure *failure)
{
    struct web_user user;
    int code = web_store_user(exchange->server->store, name, &user);
    if (code == ERR_NOT_FOUND)
        return nobody(failure);
    if (code != 0)
        return fail(failure, code, "users cannot be read: %s", error_text(code));
    struct caller *caller = &exchange->caller;
    snprintf(caller->name, sizeof caller->name, "%s", user.name);
    caller->role = user.role;
    caller->rights = role_rights(user.role);
    caller->must_change = user.must_change;
    OPENSSL_cleanse(&user, sizeof user);
    return 0;
}

static int by_token(struct exchange *exchange, const char *text, struct failure *failure)
{
    struct web_token token;
    uint8_t digest[SECRET_DIGEST_BYTES];
    if (strncmp(text, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) != 0)
        return nobody(failure);
    secret_digest("token", text + strlen(TOKEN_PREFIX), digest);
    int code = web_store_token(exchange->server->store, digest, &token);
    if (code != 0 || (token.expires_s && token.expires_s <= time(NULL)))
        return nobody(failure);
    code = take_user(exchange, token.user, failure);
    exchange->caller.rights &= token.rights;
    return code;
}

/* The csrf token of a session is another digest of its secret: nothing to keep, nothing to lose. */
static void take_session(struct exchange *exchange, const char *secret)
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    exchange->caller.by_cookie = true;
    secret_digest("session", secret, exchange->caller.secret);
    secret_digest("csrf", secret, digest);
    hex_text(digest, sizeof digest, exchange->caller.csrf);
}

static int by_cookie(struct exchange *exchange, struct failure *failure)
{
    char secret[SECRET_TEXT_SIZE];
    struct web_session session;
    struct web_store *store = exchange->server->store;
    int64_t now = time(NULL);
    const char *cookies = exchange_header(exchange, "Cookie");
    if (!cookies || mg_get_cookie(cookies, COOKIE, secret, sizeof secret) != SECRET_TEXT_SIZE - 1)
        return nobody(failure);
    take_session(exchange, secret);
    int code = web_store_session(store, exchange->caller.secret, &session);
    if (code != 0 || now - session.used_s > SESSION_IDLE_S ||
        now - session.created_s > SESSION_MAX_S)
        return nobody(failure);
    if (now - session.used_s >= SESSION_NOTE_S)
        (void)web_store_use_session(store, exchange->caller.secret,
                                    now); /* it may have ended meanwhile */
    return take_user(exchange, session.user, failure);
}

int access_identify(struct exchange *exchange, struct failure *failure)
{
    static const char scheme[] = "Bearer ";
    const char *authorization = exchange_header(exchange, "Authorization");
    if (authorization) {
        if (strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
            return nobody(failure);
        return by_token(exchange, authorization + sizeof scheme - 1, failure);
    }
    return exchange->entrance == ENTRANCE_LOCAL ? nobody(failure) : by_cookie(exchange, failure);
}

bool access_csrf_is_right(const struct exchange *exchange)
{
    const char *given = exchange_header(exchange, "X-CSRF-Token");
    if (!exchange->caller.by_cookie)
        return true;
    return given && strlen(given) == SECRET_TEXT_SIZE - 1 &&
           CRYPTO_memcmp(given, exchange->caller.csrf, SECRET_TEXT_SIZE - 1) == 0;
}

/* ---- logging in ------------------------------------------------------------------------------ */

int access_begin_session(struct exchange *exchange, char cookie[COOKIE_LINE_SIZE],
                         struct failure *failure)
{
    char secret[SECRET_TEXT_SIZE];
    struct web_session session = {.created_s = time(NULL)};
    session.used_s = session.created_s;
    if (secret_make(secret) != 0)
        return fail(failure, ERR_INTERNAL, "the random generator failed");
    snprintf(session.user, sizeof session.user, "%s", exchange->caller.name);
    take_session(exchange, secret);
    (void)web_store_trim_sessions(exchange->server->store, session.created_s - SESSION_MAX_S,
                                  session.created_s - SESSION_IDLE_S);
    int code = web_store_add_session(exchange->server->store, exchange->caller.secret, &session);
    if (code != 0)
        return fail(failure, code, "the session cannot be kept: %s", error_text(code));
    snprintf(cookie, COOKIE_LINE_SIZE,
             "Set-Cookie: " COOKIE "=%s; Path=/; Secure; HttpOnly; SameSite=Strict\r\n", secret);
    OPENSSL_cleanse(secret, sizeof secret);
    return 0;
}

/* `hash` null: there is no such user, and it takes as long. */
static int try_password(struct exchange *exchange, const char *name, const char *password, const char *hash,
                        unsigned *wait_s, struct failure *failure)
{
    struct login_guard *guard = exchange->server->guard;
    char address[GUARD_ADDRESS_SIZE], pair[GUARD_ADDRESS_SIZE + USER_NAME_MAX + 2];
    login_guard_address(exchange->info->remote_addr, address);
    snprintf(pair, sizeof pair, "%s %.63s", address, name);
    *wait_s = login_guard_try(guard, pair, TRIES_FREE_PAIR);
    if (*wait_s == 0) {
        *wait_s = login_guard_try(guard, address, TRIES_FREE_ADDRESS);
        if (*wait_s > 0)
            login_guard_end(guard, pair, GUARD_NONE);
    }
    if (*wait_s > 0)
        return fail(failure, ERR_AGAIN, "too many wrong log-ins: wait %u s", *wait_s);
    int code = password_verify(password, hash, failure);
    bool wrong = code == ERR_PERMISSION;
    login_guard_end(guard, pair, wrong ? GUARD_WRONG : code == 0 ? GUARD_RIGHT : GUARD_NONE);
    login_guard_end(guard, address, wrong ? GUARD_WRONG : GUARD_NONE);
    return code;
}

int access_check_password(struct exchange *exchange, const char *name, const char *password, unsigned *wait_s,
                          struct failure *failure)
{
    struct web_user user = {0};
    bool known = strlen(name) <= USER_NAME_MAX && strlen(password) <= PASSWORD_BYTES_MAX &&
                 web_store_user(exchange->server->store, name, &user) == 0;
    int code = try_password(exchange, name, password, known ? user.password : NULL, wait_s, failure);
    OPENSSL_cleanse(&user, sizeof user);
    return code;
}

int access_log_in(struct exchange *exchange, const char *name, const char *password,
                  char cookie[COOKIE_LINE_SIZE], unsigned *wait_s, struct failure *failure)
{
    int code = access_check_password(exchange, name, password, wait_s, failure);
    if (code == 0)
        code = take_user(exchange, name, failure);
    return code == 0 ? access_begin_session(exchange, cookie, failure) : code;
}
