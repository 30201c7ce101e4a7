/*
 * password.h - passwords as scrypt hashes (RFC 7914), and secrets out of random bits.
 *
 * One hash takes about 0.4 s and 128 MiB, so only one is made at a time, and only a few callers may
 * wait for it: whoever comes on top of these is refused, not queued.
 */
#ifndef WEB_PASSWORD_H
#define WEB_PASSWORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define PASSWORD_BYTES_MIN 10u
#define PASSWORD_BYTES_MAX 256u
#define PASSWORD_HASH_SIZE 160u /* "scrypt:17:8:1:SALT:HASH", hexadecimal, and a zero */
#define SECRET_TEXT_SIZE 65u    /* 256 bits in hexadecimal, and a zero */
#define SECRET_DIGEST_BYTES 32u

/* ERR_INVALID: too short or too long for a new password. */
int password_check_new(const char *password, struct failure *failure);

/* Hashes with a fresh salt. ERR_BUSY: as many are waiting as may. ERR_NO_MEMORY. Any thread. */
int password_hash(const char *password, char text[PASSWORD_HASH_SIZE], struct failure *failure);

/*
 * Whether `password` is the one that `text` was made of. A null text, or one that makes no sense,
 * costs the same time and is ERR_PERMISSION, as a wrong password is. ERR_BUSY, ERR_NO_MEMORY. Any
 * thread.
 */
int password_verify(const char *password, const char *text, struct failure *failure);

/* 256 random bits. ERR_INTERNAL: the random generator failed. */
int secret_make(char text[SECRET_TEXT_SIZE]);

/* What is kept of a secret: SHA-256 of `label` and its text. One label for each purpose. */
void secret_digest(const char *label, const char *text, uint8_t digest[SECRET_DIGEST_BYTES]);

/* SHA-256 of any bytes. */
void secret_digest_bytes(const void *bytes, size_t count, uint8_t digest[SECRET_DIGEST_BYTES]);

/* A password that a person can type: 20 letters and digits in groups of five, 100 random bits.
 * ERR_INTERNAL. */
#define PASSWORD_MADE_SIZE 24u
int password_make(char text[PASSWORD_MADE_SIZE]);

/* Bytes as lower-case hexadecimal, terminated. `text` has room for 2 * count + 1. */
void hex_text(const uint8_t *bytes, size_t count, char *text);

#endif
