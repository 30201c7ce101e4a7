#include "identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "errors.h"

void identity_make(struct identity *id)
{
    ssize_t got;
    do
        got = getrandom(id->byte, sizeof id->byte, 0);
    while (got < 0 && errno == EINTR);
    /* Up to 256 bytes come whole once the kernel's generator is seeded. */
    if (got != (ssize_t)sizeof id->byte) {
        perror("getrandom");
        abort();
    }
}

const char *identity_text(const struct identity *id, char text[IDENTITY_TEXT_SIZE])
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof id->byte; i++) {
        text[2 * i] = digit[id->byte[i] >> 4];
        text[2 * i + 1] = digit[id->byte[i] & 15];
    }
    text[2 * sizeof id->byte] = '\0';
    return text;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int identity_parse(const char *text, struct identity *id)
{
    struct identity read;
    for (size_t i = 0; i < sizeof read.byte; i++) {
        int high = digit_value(text[2 * i]);
        int low = high < 0 ? -1 : digit_value(text[2 * i + 1]);
        if (low < 0)
            return ERR_INVALID;
        read.byte[i] = (uint8_t)(high << 4 | low);
    }
    if (text[2 * sizeof read.byte] != '\0')
        return ERR_INVALID;
    *id = read;
    return 0;
}
