/*
 * certificate.h - the server's TLS: a certificate of our own making where the operator gives none,
 * and the context that both HTTPS servers share.
 */
#ifndef WEB_CERTIFICATE_H
#define WEB_CERTIFICATE_H

#include <openssl/types.h>
#include <stddef.h>

#include "errors.h"

#define CERTIFICATE_FILE                                                     \
    "certificate.pem" /* in the web process's directory: certificate and key \
                       */
#define FINGERPRINT_SIZE 96u

/*
 * Makes DIR/certificate.pem (0600, ECDSA P-256, for this machine's name, localhost and the loopback
 * addresses) where it is missing, or has less than a month to go; the file is whole or not there.
 * `names`: further names or addresses that it is for.
 */
int certificate_make(const char *directory, const char *const *names, size_t count,
                     struct failure *failure);

/*
 * TLS 1.2 and 1.3 with the certificate chain of `certificate` and the key of `key` (null: in the
 * same file). The caller frees *result with SSL_CTX_free(). ERR_INVALID with what OpenSSL has to
 * say: not PEM, no key, a key that does not fit.
 */
int certificate_context(const char *certificate, const char *key, SSL_CTX **result,
                        struct failure *failure);

/* SHA-256 of the context's certificate as browsers show it, "AB:CD:...". Empty where there is none.
 */
void certificate_fingerprint(SSL_CTX *context, char text[FINGERPRINT_SIZE]);

#endif
