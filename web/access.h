/*
 * access.h - who asks, and whether that is believed: log-in, cookies, tokens, Host and origin, and
 * how often somebody may guess.
 *
 * A session is a cookie `__Host-tapeloop` with 256 random bits, sent over TLS only; every change
 * that it asks for must bring the header X-CSRF-Token with what the session's answer says. A token
 * (`Authorization: Bearer tl_...`) needs neither. On the Unix socket there are tokens only.
 */
#ifndef WEB_ACCESS_H
#define WEB_ACCESS_H

#include <stdbool.h>

#include "exchange.h"

struct login_guard;

/* Remembers wrong log-ins in memory. Null: out of memory. Any thread may use it. */
struct login_guard *login_guard_open(void);
void login_guard_close(struct login_guard **guard);

/*
 * A try of `key` begins. 0: it may, and counts as a wrong one from now on, so that tries which are made at once slow one another
 * down; login_guard_end() says what has come of it. Else how many seconds `key` has to wait before its next try, and this one
 * was none. `free_tries` wrong ones cost nothing; each further one doubles the wait, from 1 s to 5 minutes. A key that has made no
 * mistake for an hour is forgotten.
 */
unsigned login_guard_try(struct login_guard *guard, const char *key, unsigned free_tries);

enum guard_end {
    GUARD_WRONG, /* the wait counts from now */
    GUARD_RIGHT, /* the key is forgotten */
    GUARD_NONE,  /* nobody has looked, or it says nothing about the key: the try does not count */
};
void login_guard_end(struct login_guard *guard, const char *key, enum guard_end end);

/*
 * Where `address` guesses from, for a key: of IPv6 the network of 64 bits, for who has one address of it has all of them. An
 * address that is none stays as it is.
 */
#define GUARD_ADDRESS_SIZE 64
void login_guard_address(const char *address, char text[GUARD_ADDRESS_SIZE]);

/*
 * Whether the Host header names this server: an address, localhost, the machine's own name, or one
 * of the operator's. A name that somebody else's DNS points here (rebinding) is none of them.
 */
bool access_host_is_ours(const char *host, const char *const *names, unsigned count);

/* Whether a browser says that the request comes from our own pages; who says nothing is no browser.
 */
bool access_origin_is_ours(const struct exchange *exchange);

/* Fills exchange->caller from cookie or token. ERR_PERMISSION: neither, or not (any more) good. */
int access_identify(struct exchange *exchange, struct failure *failure);

/* Whether the change brings the session's CSRF token. Always true for tokens. */
bool access_csrf_is_right(const struct exchange *exchange);

/*
 * Checks name and password, and begins a session: exchange->caller is filled, `cookie` is a header
 * line. ERR_PERMISSION: wrong; ERR_AGAIN: too many wrong ones, *wait_s says how long to wait;
 * ERR_BUSY.
 */
#define COOKIE_LINE_SIZE 192
int access_log_in(struct exchange *exchange, const char *name, const char *password,
                  char cookie[COOKIE_LINE_SIZE], unsigned *wait_s, struct failure *failure);

/* Checks the password of a user again who is there already, as slowly as it is guessed elsewhere. Errors as above. */
int access_check_password(struct exchange *exchange, const char *name, const char *password, unsigned *wait_s,
                          struct failure *failure);

/* A new session for the caller, who has just proved who he is. */
int access_begin_session(struct exchange *exchange, char cookie[COOKIE_LINE_SIZE],
                         struct failure *failure);

/* The header line that makes a browser forget the cookie. */
extern const char access_no_cookie[];

#endif
