/*
 * errors.h - what can go wrong, in one table, and the sentence that explains it to a person.
 *
 * Functions return 0 or a negative code. Where a person will want to know more, the caller hands
 * down a `struct failure`; the place that fails writes the code and one sentence that names ring,
 * disk, file or offset and, where there is something to do, says what to do next. A null pointer is
 * allowed everywhere and keeps only the code.
 */
#ifndef SCHEMA_ERRORS_H
#define SCHEMA_ERRORS_H

#include <stdarg.h>

enum error_code {
#define ERROR(name, code, control, sentence) name = code,
#include "errors.def"
#undef ERROR
};

struct failure {
    int code;
    char text[512];
};

/* The sentence for `code` ("input/output error"); "unknown error" for a code not in the table. Static memory. */
const char *error_text(int code);

/* The word for `code` in the control protocol ("io"); "internal" for a code not in the table. Static memory. */
const char *error_name(int code);

/* The code for a word of the control protocol; ERR_INTERNAL for an unknown word. */
int error_from_name(const char *name);

/* The code that fits a positive errno value best (ENOSPC -> ERR_NO_SPACE, EACCES -> ERR_PERMISSION ...). */
int error_from_errno(int number);

/* Stores code and sentence in `failure` (may be null), cutting the sentence if it is too long; returns `code`. */
int fail(struct failure *failure, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* fail() with the code that fits `number`, the sentence followed by ": " and strerror(number). */
int fail_errno(struct failure *failure, int number, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts context before what is already in `failure` ("disk /dev/sdb: ...") ; returns failure->code, or `code` if failure is null. */
int fail_context(struct failure *failure, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
