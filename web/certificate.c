/*
 * certificate.c - see certificate.h.
 */
#include "certificate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAYS 397 /* browsers take no longer ones */
#define DAYS_LEFT_MIN 30
#define DAY_S (24 * 60 * 60)
#define NAMES_SIZE 2048u

/* The sentence with OpenSSL's own words; its queue of errors is empty then. */
static int fail_tls(struct failure *failure, int code, const char *what)
{
    char words[256] = "no reason given";
    unsigned long error = ERR_get_error();
    if (error)
        ERR_error_string_n(error, words, sizeof words);
    ERR_clear_error();
    return fail(failure, code, "%s: %s", what, words);
}

/* ---- making one ------------------------------------------------------------------------------ */

static bool add_extension(X509 *certificate, int kind, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    bool added = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

/* Whether it can stand in a list of alternative names; what else there is would be syntax there. */
static bool is_name(const char *text)
{
    size_t length = strlen(text);
    return length > 0 && length < 254 &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:") ==
               length;
}

static void append_name(char *names, const char *name)
{
    struct in6_addr address;
    size_t used = strlen(names);
    if (!is_name(name))
        return;
    bool number =
        inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
    if (!number && strchr(name, ':'))
        return;
    int added = snprintf(names + used, NAMES_SIZE - used, ",%s:%s", number ? "IP" : "DNS", name);
    if (added < 0 || (size_t)added >= NAMES_SIZE - used)
        names[used] = '\0'; /* whole names only */
}

static bool name_it(X509 *certificate, const char *const *names, size_t count)
{
    char host[256] = "", common[65], alternatives[NAMES_SIZE] = "DNS:localhost,IP:127.0.0.1,IP:::1";
    if (gethostname(host, sizeof host - 1) != 0 || !is_name(host))
        snprintf(host, sizeof host, "localhost");
    if (strcmp(host, "localhost") != 0)
        append_name(alternatives, host);
    for (size_t i = 0; i < count; i++)
        append_name(alternatives, names[i]);
    snprintf(common, sizeof common, "%.64s", host);
    X509_NAME *name = X509_get_subject_name(certificate);
    return X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"tapeloop",
                                      -1, -1, 0) == 1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(certificate, name) == 1 &&
           add_extension(certificate, NID_subject_alt_name, alternatives);
}

static bool number_it(X509 *certificate)
{
    BIGNUM *number = BN_new();
    bool done = number && BN_rand(number, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return done;
}

static X509 *sign(EVP_PKEY *key, const char *const *names, size_t count)
{
    X509 *certificate = X509_new();
    if (certificate && X509_set_version(certificate, X509_VERSION_3) == 1 &&
        number_it(certificate) && X509_gmtime_adj(X509_getm_notBefore(certificate), -DAY_S) &&
        X509_gmtime_adj(X509_getm_notAfter(certificate), (long)DAYS * DAY_S) &&
        X509_set_pubkey(certificate, key) == 1 && name_it(certificate, names, count) &&
        add_extension(certificate, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(certificate, NID_key_usage, "critical,digitalSignature") &&
        add_extension(certificate, NID_ext_key_usage, "serverAuth") &&
        X509_sign(certificate, key, EVP_sha256()) > 0)
        return certificate;
    X509_free(certificate);
    return NULL;
}

/* Under another name, synced, and renamed. */
static int write_pem(const char *path, EVP_PKEY *key, X509 *certificate, struct failure *failure)
{
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh)
        return fail(failure, ERR_INVALID, "%s: too long a name", path);
    (void)unlink(fresh);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return fail_errno(failure, number, "%s", fresh);
    }
    bool written = PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1 &&
                   PEM_write_X509(file, certificate) == 1 && fflush(file) == 0 && fsync(fd) == 0;
    int number = errno;
    if (fclose(file) != 0 || !written || rename(fresh, path) != 0) {
        if (written)
            number = errno;
        unlink(fresh);
        return fail_errno(failure, number ? number : EIO, "%s", path);
    }
    return 0;
}

/* Whether the file holds a certificate that is good for a month more. */
static bool is_fresh(const char *path)
{
    FILE *file = fopen(path, "re");
    X509 *certificate = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
    if (file)
        fclose(file);
    ERR_clear_error();
    int days = 0, seconds = 0;
    bool fresh = certificate &&
                 ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)) == 1 &&
                 days >= DAYS_LEFT_MIN;
    X509_free(certificate);
    return fresh;
}

int certificate_make(const char *directory, const char *const *names, size_t count,
                     struct failure *failure)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", directory, CERTIFICATE_FILE) >= (int)sizeof path)
        return fail(failure, ERR_INVALID, "%s: too long a name", directory);
    if (is_fresh(path))
        return 0;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = key ? sign(key, names, count) : NULL;
    int code = certificate ? write_pem(path, key, certificate, failure)
                           : fail_tls(failure, ERR_INTERNAL, "a certificate cannot be made");
    X509_free(certificate);
    EVP_PKEY_free(key);
    return code;
}

/* ---- using one ------------------------------------------------------------------------------- */

int certificate_context(const char *certificate, const char *key, SSL_CTX **result,
                        struct failure *failure)
{
    char what[PATH_MAX + 64];
    if (!key)
        key = certificate;
    if (access(certificate, R_OK) != 0)
        return fail_errno(failure, errno, "certificate %s", certificate);
    if (access(key, R_OK) != 0)
        return fail_errno(failure, errno, "key %s", key);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (!context)
        return fail_tls(failure, ERR_NO_MEMORY, "TLS cannot be set up");
    snprintf(what, sizeof what, "certificate %s", certificate);
    bool good = SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
                SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL") == 1;
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    good = good && SSL_CTX_use_certificate_chain_file(context, certificate) == 1;
    if (good) {
        snprintf(what, sizeof what, "key %s", key);
        good = SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1 &&
               SSL_CTX_check_private_key(context) == 1;
    }
    if (!good) {
        SSL_CTX_free(context);
        return fail_tls(failure, ERR_INVALID, what);
    }
    *result = context;
    return 0;
}

void certificate_fingerprint(SSL_CTX *context, char text[FINGERPRINT_SIZE])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    const X509 *certificate = SSL_CTX_get0_certificate(context);
    text[0] = '\0';
    if (!certificate || X509_digest(certificate, EVP_sha256(), digest, &count) != 1 || count != 32)
        return;
    for (unsigned i = 0; i < count; i++)
        snprintf(text + 3 * i, FINGERPRINT_SIZE - 3 * i, i + 1 < count ? "%02X:" : "%02X",
                 digest[i]);
}
