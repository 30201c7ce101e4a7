/*
 * output.h - what people and programs get to see: answers on standard output, everything else on
 * standard error; tables, progress, and numbers as people read them.
 *
 * Whatever came from outside (names of interfaces, paths, sentences of the recorder) is shown with
 * every byte that is not printable ASCII as \xNN: a terminal obeys bytes. One thread.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "errors.h"

/* How to speak, for the whole process. */
void output_setup(bool json, bool quiet, bool verbose);
bool output_is_json(void);

bool output_is_verbose(void);

/* Is standard error a terminal on which progress may be drawn? Not with --quiet or --json. */
bool output_is_drawn(void);

/* ---- messages on standard error ---------------------------------------------------------------
 */

/* "tapeloop: ...", always, made printable. Not for the failure that ends the program. */
void output_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The failure that ends the program: a sentence, or with --json {"error": {"code", "message"}}. */
void output_failure(const struct failure *failure);

/* A line without prefix, made printable; not with --quiet or --json. Two blanks in front belong to
 * `format`. */
void output_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- answers on standard output ---------------------------------------------------------------
 */

/* One JSON object on one line, ASCII only. */
void output_json(const json_t *object);

/* The same on standard error: where standard output carries packets. */
void output_json_aside(const json_t *object);

/*
 * Writes out what is buffered. 0, or ERR_CLOSED where the reader is gone (a pipe into head: nothing
 * to complain about), or the error with a sentence: an answer that was not written is not an
 * answer.
 */
int output_flush(struct failure *failure);

/* Foreign text made printable, in one of a few static buffers: good for the arguments of one
 * printf. */
const char *output_printable(const char *text);

/* "13 min 20 s", "2 d 3 h", "850 ms". Static buffers as above. */
const char *output_duration(double seconds);

/* ---- tables -------------------------------------------------------------------------------------
 */

/* Cells are added row by row; the first row is the heading. Numbers stand right, text left. */
struct table {
    uint32_t columns;
    uint32_t cells;
    uint32_t capacity;
    char **cell;
    bool failed; /* out of memory: printing says so */
};

void table_open(struct table *table, uint32_t columns);
void table_text(struct table *table, const char *text); /* made printable; copied */
void table_number(struct table *table, uint64_t number);
void table_size(struct table *table, uint64_t bytes);
void table_time(struct table *table,
                const json_t *time_ns); /* as in the protocol; "-" where there is none */
void table_print(struct table *table, FILE *file, const char *indent);
void table_close(struct table *table);

/* ---- progress -----------------------------------------------------------------------------------
 */

/*
 * One line at the bottom of the terminal that is drawn again and again, some times a second at
 * most, cut to the terminal's width, and erased by progress_close() and before every message. With
 * --verbose and without a terminal: a line every ten seconds.
 */
struct progress {
    int64_t started_ns;
    int64_t drawn_ns; /* 0: not yet */
};

void progress_open(struct progress *progress);
/* Is it time for a new line? Saves the making of one that would not be shown. */
bool progress_is_due(const struct progress *progress);
void progress_show(struct progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void progress_close(struct progress *progress);

/* Seconds since progress_open(). */
double progress_seconds(const struct progress *progress);

/*
 * "42 %, 310 MiB/s, 12 s left" of `done` of `total` (0: unknown: no percentage) units, bytes where
 * `bytes`, else `unit`s. Static buffer.
 */
const char *progress_text(const struct progress *progress, uint64_t done, uint64_t total,
                          const char *unit);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t output_clock_ns(void);

#endif
