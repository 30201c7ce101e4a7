#include "errors.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct error_row {
    int code;
    const char *name;
    const char *text;
};

static const struct error_row error_table[] = {
#define ERROR(name, code, control, sentence) {code, control, sentence},
#include "errors.def"
#undef ERROR
};

#define ERROR_ROWS (sizeof error_table / sizeof error_table[0])

static const struct error_row *error_find(int code)
{
    for (size_t i = 0; i < ERROR_ROWS; i++)
        if (error_table[i].code == code)
            return &error_table[i];
    return NULL;
}

const char *error_text(int code)
{
    const struct error_row *row = error_find(code);
    return row ? row->text : "unknown error";
}

const char *error_name(int code)
{
    const struct error_row *row = error_find(code);
    return row ? row->name : "internal";
}

int error_from_name(const char *name)
{
    for (size_t i = 0; i < ERROR_ROWS; i++)
        if (strcmp(error_table[i].name, name) == 0)
            return error_table[i].code;
    return ERR_INTERNAL;
}

int error_from_errno(int number)
{
    switch (number) {
    case EAGAIN:
    case EINPROGRESS:
        return ERR_AGAIN;
    case EINTR:
        return ERR_INTERRUPTED;
    case ENOSPC:
    case EDQUOT:
        return ERR_NO_SPACE;
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
        return ERR_NO_MEMORY;
    case EBUSY:
    case ETXTBSY:
    case EADDRINUSE:
        return ERR_BUSY;
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ESRCH:
        return ERR_NOT_FOUND;
    case EEXIST:
    case ENOTEMPTY:
        return ERR_EXISTS;
    case EINVAL:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTBLK:
    case EBADF:
    case ESPIPE:
    case ENOTTY:
    case EDOM:
        return ERR_INVALID;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERMISSION;
    case EFBIG:
    case EOVERFLOW:
    case E2BIG:
    case EMSGSIZE:
    case ERANGE:
        return ERR_TOO_LARGE;
    case EOPNOTSUPP:
    case ENOSYS:
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT:
        return ERR_UNSUPPORTED;
    case ETIMEDOUT:
    case ETIME:
        return ERR_TIMEOUT;
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case ENOTCONN:
        return ERR_CLOSED;
    case EPROTO:
    case EBADMSG:
        return ERR_PROTOCOL;
    default:
        return ERR_IO;
    }
}

/*
 * Ends `text`, of which snprintf wanted `wanted` bytes, at the end of a UTF-8 character. The
 * sentence goes into JSON, which takes no halves.
 */
static void cut_cleanly(char *text, size_t size, int wanted)
{
    if (wanted < 0)
        text[0] = '\0';
    if (wanted < 0 || (size_t)wanted < size)
        return;
    size_t end = size - 1;
    size_t lead = end;
    while (lead > 0 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80)
        lead--; /* text[lead] is the first of the continuation bytes at the end */
    if (lead == 0 || (unsigned char)text[lead - 1] < 0xc0)
        return; /* plain ASCII before the cut */
    unsigned char first = (unsigned char)text[lead - 1];
    size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (end - (lead - 1) < length)
        text[lead - 1] = '\0';
}

/* Formats aside first: an argument may be the very text that is being replaced. */
static void failure_set(struct failure *failure, int code, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));

static void failure_set(struct failure *failure, int code, const char *format, va_list arguments)
{
    struct failure made;
    int wanted = vsnprintf(made.text, sizeof made.text, format, arguments);
    cut_cleanly(made.text, sizeof made.text, wanted);
    memcpy(failure->text, made.text, sizeof failure->text);
    failure->code = code;
}

/* text = text, ": ", tail */
static void failure_append(struct failure *failure, const char *tail)
{
    size_t used = strlen(failure->text);
    size_t size = sizeof failure->text - used;
    int wanted = snprintf(failure->text + used, size, ": %s", tail);
    /* From the start of the text: the character that is cut may begin before `used`. */
    if (wanted >= 0)
        cut_cleanly(failure->text, sizeof failure->text, (int)used + wanted);
}

int fail(struct failure *failure, int code, const char *format, ...)
{
    if (!failure)
        return code;
    va_list arguments;
    va_start(arguments, format);
    failure_set(failure, code, format, arguments);
    va_end(arguments);
    return code;
}

int fail_errno(struct failure *failure, int number, const char *format, ...)
{
    int code = error_from_errno(number);
    if (!failure)
        return code;
    va_list arguments;
    va_start(arguments, format);
    failure_set(failure, code, format, arguments);
    va_end(arguments);
    failure_append(failure, strerror(number));
    return code;
}

int fail_context(struct failure *failure, int code, const char *format, ...)
{
    if (!failure)
        return code;
    if (failure->code == 0) /* whoever failed left no sentence */
        fail(failure, code, "%s", error_text(code));
    char before[sizeof failure->text];
    memcpy(before, failure->text, sizeof before);
    va_list arguments;
    va_start(arguments, format);
    failure_set(failure, failure->code, format, arguments);
    va_end(arguments);
    failure_append(failure, before);
    return failure->code;
}
