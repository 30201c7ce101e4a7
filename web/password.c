/*
 * password.c - see password.h.
 */
#include "password.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRYPT_LOG_N 17u
#define SCRYPT_R 8u
#define SCRYPT_P 1u
#define SCRYPT_MEMORY_MAX (160u << 20) /* N * r * 128 bytes, and some */
#define SALT_BYTES 16u
#define HASH_BYTES 32u
#define WAITING_MAX 8u

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static unsigned waiting;

void hex_text(const uint8_t *bytes, size_t count, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * count] = '\0';
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool hex_bytes(const char *text, size_t count, uint8_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        int high = hex_value(text[2 * i]), low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- scrypt ---------------------------------------------------------------------------------- */

static int enter(struct failure *failure)
{
    pthread_mutex_lock(&counting);
    bool full = waiting >= WAITING_MAX;
    waiting += !full;
    pthread_mutex_unlock(&counting);
    if (full)
        return fail(failure, ERR_BUSY, "too many log-ins at a time: try again in some seconds");
    pthread_mutex_lock(&one_at_a_time);
    return 0;
}

static void leave(void)
{
    pthread_mutex_unlock(&one_at_a_time);
    pthread_mutex_lock(&counting);
    waiting--;
    pthread_mutex_unlock(&counting);
}

static int derive(const char *password, const uint8_t salt[SALT_BYTES], unsigned log_n, unsigned r,
                  unsigned p, uint8_t hash[HASH_BYTES], struct failure *failure)
{
    int result = enter(failure);
    if (result != 0)
        return result;
    int made = EVP_PBE_scrypt(password, strlen(password), salt, SALT_BYTES, UINT64_C(1) << log_n, r,
                              p, SCRYPT_MEMORY_MAX, hash, HASH_BYTES);
    leave();
    return made == 1 ? 0 : fail(failure, ERR_NO_MEMORY, "no memory to check a password");
}

int password_check_new(const char *password, struct failure *failure)
{
    size_t bytes = strlen(password);
    if (bytes < PASSWORD_BYTES_MIN || bytes > PASSWORD_BYTES_MAX)
        return fail(failure, ERR_INVALID, "a password has %u to %u bytes", PASSWORD_BYTES_MIN,
                    PASSWORD_BYTES_MAX);
    return 0;
}

int password_hash(const char *password, char text[PASSWORD_HASH_SIZE], struct failure *failure)
{
    uint8_t salt[SALT_BYTES], hash[HASH_BYTES];
    char salt_text[2 * SALT_BYTES + 1], hash_text[2 * HASH_BYTES + 1];
    if (RAND_bytes(salt, sizeof salt) != 1)
        return fail(failure, ERR_INTERNAL, "the random generator failed");
    int result = derive(password, salt, SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P, hash, failure);
    if (result != 0)
        return result;
    hex_text(salt, sizeof salt, salt_text);
    hex_text(hash, sizeof hash, hash_text);
    OPENSSL_cleanse(hash, sizeof hash);
    snprintf(text, PASSWORD_HASH_SIZE, "scrypt:%u:%u:%u:%s:%s", SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P,
             salt_text, hash_text);
    return 0;
}

struct parameters {
    unsigned log_n, r, p;
    uint8_t salt[SALT_BYTES], hash[HASH_BYTES];
};

/* A decimal number and the colon behind it; *text goes on after that. */
static bool take_number(const char **text, unsigned *number)
{
    char *end;
    unsigned long value = strtoul(*text, &end, 10);
    if (**text < '0' || **text > '9' || *end != ':' || value > 99)
        return false;
    *number = (unsigned)value;
    *text = end + 1;
    return true;
}

/* The parameters stand with each hash, so that they can grow without anybody's password becoming
 * void. */
static bool take_apart(const char *text, struct parameters *found)
{
    static const char kind[] = "scrypt:";
    if (!text || strncmp(text, kind, sizeof kind - 1) != 0)
        return false;
    text += sizeof kind - 1;
    if (!take_number(&text, &found->log_n) || !take_number(&text, &found->r) ||
        !take_number(&text, &found->p) || found->log_n < 1 || found->log_n > SCRYPT_LOG_N)
        return false;
    const char *hash = text + 2 * SALT_BYTES + 1;
    return strlen(text) == 2 * SALT_BYTES + 1 + 2 * HASH_BYTES && hash[-1] == ':' &&
           hex_bytes(text, SALT_BYTES, found->salt) && hex_bytes(hash, HASH_BYTES, found->hash);
}

int password_verify(const char *password, const char *text, struct failure *failure)
{
    struct parameters wanted = {.log_n = SCRYPT_LOG_N, .r = SCRYPT_R, .p = SCRYPT_P};
    uint8_t hash[HASH_BYTES];
    bool known = take_apart(text, &wanted);
    if (!known)
        wanted = (struct parameters){.log_n = SCRYPT_LOG_N, .r = SCRYPT_R, .p = SCRYPT_P};
    int result = derive(password, wanted.salt, wanted.log_n, wanted.r, wanted.p, hash, failure);
    if (result != 0)
        return result;
    bool equal = CRYPTO_memcmp(hash, wanted.hash, sizeof hash) == 0;
    OPENSSL_cleanse(hash, sizeof hash);
    return known && equal ? 0 : fail(failure, ERR_PERMISSION, "wrong user name or password");
}

/* ---- secrets --------------------------------------------------------------------------------- */

int secret_make(char text[SECRET_TEXT_SIZE])
{
    uint8_t bytes[SECRET_TEXT_SIZE / 2];
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return ERR_INTERNAL;
    hex_text(bytes, sizeof bytes, text);
    OPENSSL_cleanse(bytes, sizeof bytes);
    return 0;
}

void secret_digest(const char *label, const char *text, uint8_t digest[SECRET_DIGEST_BYTES])
{
    char message[256];
    int length = snprintf(message, sizeof message, "%s:%s", label, text);
    if (length < 0 || (size_t)length >= sizeof message)
        length = (int)sizeof message - 1; /* what is so long is no secret of ours */
    SHA256((const unsigned char *)message, (size_t)length, digest);
    OPENSSL_cleanse(message, sizeof message);
}

void secret_digest_bytes(const void *bytes, size_t count, uint8_t digest[SECRET_DIGEST_BYTES])
{
    SHA256(bytes, count, digest);
}

int password_make(char text[PASSWORD_MADE_SIZE])
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789"; /* 32, none like another */
    uint8_t bytes[20];
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return ERR_INTERNAL;
    size_t at = 0;
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (i > 0 && i % 5 == 0)
            text[at++] = '-';
        text[at++] = letters[bytes[i] & 31];
    }
    text[at] = '\0';
    return 0;
}
