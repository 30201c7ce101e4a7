/*
 * output.c - messages, tables and progress.
 */
#include "output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "text.h"

#define MESSAGE_SIZE 1024
#define PRINTABLE_SIZE (4 * MESSAGE_SIZE) /* every byte as \xNN */
#define SHOWN_SIZE 512                    /* of one foreign text */
#define SHOWN_COUNT 8                     /* texts in one printf */
#define WIDTH_DEFAULT 80
#define WIDTH_MAX 400
#define DRAW_PERIOD_NS INT64_C(200000000)
#define LINE_PERIOD_NS INT64_C(10000000000)

static struct {
    bool json;
    bool quiet;
    bool verbose;
    bool terminal;   /* standard error is one */
    bool line_drawn; /* a progress line stands at the bottom */
} settings;

void output_setup(bool json, bool quiet, bool verbose)
{
    settings.json = json;
    settings.quiet = quiet;
    settings.verbose = verbose;
    settings.terminal = isatty(STDERR_FILENO) == 1;
}

bool output_is_json(void)
{
    return settings.json;
}

bool output_is_verbose(void)
{
    return settings.verbose;
}

bool output_is_drawn(void)
{
    return settings.terminal && !settings.quiet && !settings.json;
}

int64_t output_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- messages -------------------------------------------------------------------------------- */

static void line_erase(void)
{
    if (settings.line_drawn)
        fputs("\r\033[K", stderr);
    settings.line_drawn = false;
}

static void message_print(const char *prefix, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

static void message_print(const char *prefix, const char *format, va_list arguments)
{
    char text[MESSAGE_SIZE];
    char shown[PRINTABLE_SIZE];
    vsnprintf(text, sizeof text, format, arguments);
    text_printable(text, shown, sizeof shown);
    fflush(
        stdout); /* where both go to one place, they stand in the order in which they were said */
    line_erase();
    fprintf(stderr, "%s%s\n", prefix, shown);
}

void output_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    message_print("tapeloop: ", format, arguments);
    va_end(arguments);
}

void output_note(const char *format, ...)
{
    if (settings.quiet || settings.json)
        return;
    va_list arguments;
    va_start(arguments, format);
    message_print("", format, arguments);
    va_end(arguments);
}

void output_failure(const struct failure *failure)
{
    const char *text = failure->text[0] ? failure->text : error_text(failure->code);
    if (!settings.json) {
        output_error("%s", text);
        return;
    }
    char shown[PRINTABLE_SIZE];
    text_printable(text, shown, sizeof shown);
    json_t *object =
        json_pack("{s:{s:s,s:s}}", "error", "code", error_name(failure->code), "message", shown);
    if (object)
        output_json_aside(object);
    else
        output_error("%s", text);
    json_decref(object);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void json_print(const json_t *object, FILE *file)
{
    if (json_dumpf(object, file, JSON_COMPACT | JSON_ENSURE_ASCII) != 0 && !ferror(file))
        output_error("%s", error_text(ERR_NO_MEMORY));
    putc('\n', file);
}

void output_json(const json_t *object)
{
    json_print(object, stdout);
}

void output_json_aside(const json_t *object)
{
    fflush(stdout);
    json_print(object, stderr);
}

int output_flush(struct failure *failure)
{
    static int number; /* the first reason stays: later calls have nothing left to write */
    errno = 0;
    bool failed = fflush(stdout) != 0;
    if (number == 0 && (failed || ferror(stdout)))
        number = errno ? errno : EIO;
    if (number == 0)
        return 0;
    return number == EPIPE ? ERR_CLOSED : fail_errno(failure, number, "standard output");
}

const char *output_printable(const char *text)
{
    static char shown[SHOWN_COUNT][SHOWN_SIZE];
    static unsigned next;
    char *out = shown[next++ % SHOWN_COUNT];
    text_printable(text, out, SHOWN_SIZE);
    return out;
}

const char *output_duration(double seconds)
{
    static char shown[SHOWN_COUNT][48];
    static unsigned next;
    char *out = shown[next++ % SHOWN_COUNT];
    if (!(seconds > 0))
        seconds = 0;
    if (seconds > 1e10) {
        snprintf(out, sizeof shown[0], "more than 300 years");
        return out;
    }
    long long whole = (long long)seconds;
    if (seconds < 1)
        snprintf(out, sizeof shown[0], "%d ms", (int)(seconds * 1000));
    else if (whole < 60)
        snprintf(out, sizeof shown[0], "%lld s", whole);
    else if (whole < 3600)
        snprintf(out, sizeof shown[0], "%lld min %lld s", whole / 60, whole % 60);
    else if (whole < 86400)
        snprintf(out, sizeof shown[0], "%lld h %lld min", whole / 3600, whole / 60 % 60);
    else
        snprintf(out, sizeof shown[0], "%lld d %lld h", whole / 86400, whole / 3600 % 24);
    return out;
}

/* ---- tables ---------------------------------------------------------------------------------- */

void table_open(struct table *table, uint32_t columns)
{
    *table = (struct table){.columns = columns};
}

void table_close(struct table *table)
{
    for (uint32_t i = 0; i < table->cells; i++)
        free(table->cell[i]);
    free(table->cell);
    *table = (struct table){0};
}

void table_text(struct table *table, const char *text)
{
    if (table->failed)
        return;
    if (table->cells == table->capacity) {
        uint32_t capacity = table->capacity ? 2 * table->capacity : 64;
        char **cell = realloc(table->cell, capacity * sizeof *cell);
        if (!cell) {
            table->failed = true;
            return;
        }
        table->cell = cell;
        table->capacity = capacity;
    }
    char *copy = strdup(output_printable(text));
    if (!copy)
        table->failed = true;
    else
        table->cell[table->cells++] = copy;
}

void table_number(struct table *table, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    table_text(table, text);
}

void table_size(struct table *table, uint64_t bytes)
{
    char text[TEXT_SIZE_SIZE];
    table_text(table, text_size(bytes, text));
}

void table_time(struct table *table, const json_t *time_ns)
{
    char text[TEXT_TIME_SIZE];
    int64_t value;
    table_text(table, answer_time(time_ns, &value) ? text_time(value, text) : "-");
}

/* What stands right: numbers, and sizes and rates that begin with one; dates do not. */
static bool is_numeric(const char *cell)
{
    if (cell[0] == '-' && cell[1] == '\0')
        return true;
    size_t digits = strspn(cell, "0123456789.");
    return digits > 0 && (cell[digits] == '\0' || cell[digits] == ' ');
}

void table_print(struct table *table, FILE *file, const char *indent)
{
    if (table->failed) {
        output_error("%s", error_text(ERR_NO_MEMORY));
        return;
    }
    uint32_t columns = table->columns;
    uint32_t rows = table->cells / columns;
    for (uint32_t row = 0; row < rows; row++) {
        fputs(indent, file);
        for (uint32_t column = 0; column < columns; column++) {
            size_t width = 0;
            bool right = rows > 1;
            for (uint32_t other = 0; other < rows; other++) {
                const char *cell = table->cell[other * columns + column];
                if (strlen(cell) > width)
                    width = strlen(cell);
                right = right && (other == 0 || is_numeric(cell));
            }
            const char *cell = table->cell[row * columns + column];
            bool last = column + 1 == columns;
            int padded = (int)width;
            if (right)
                fprintf(file, "%*s%s", padded, cell, last ? "" : "  ");
            else
                fprintf(file, "%-*s%s", last ? 0 : padded, cell, last ? "" : "  ");
        }
        putc('\n', file);
    }
}

/* ---- progress -------------------------------------------------------------------------------- */

void progress_open(struct progress *progress)
{
    *progress = (struct progress){.started_ns = output_clock_ns()};
}

double progress_seconds(const struct progress *progress)
{
    return (double)(output_clock_ns() - progress->started_ns) / 1e9;
}

bool progress_is_due(const struct progress *progress)
{
    int64_t now_ns = output_clock_ns();
    if (output_is_drawn())
        return progress->drawn_ns == 0 || now_ns - progress->drawn_ns >= DRAW_PERIOD_NS;
    if (!settings.verbose || settings.quiet || settings.json)
        return false;
    int64_t before_ns = progress->drawn_ns ? progress->drawn_ns : progress->started_ns;
    return now_ns - before_ns >= LINE_PERIOD_NS;
}

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 2)
        return WIDTH_DEFAULT;
    return size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
}

void progress_show(struct progress *progress, const char *format, ...)
{
    if (!progress_is_due(progress))
        return;
    char text[MESSAGE_SIZE];
    char shown[PRINTABLE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text_printable(text, shown, sizeof shown);
    progress->drawn_ns = output_clock_ns();
    if (!output_is_drawn()) {
        fprintf(stderr, "%s\n", shown);
        return;
    }
    /* One column stays free: a full line would wrap, and could not be erased any more. */
    fprintf(stderr, "\r\033[K%.*s", terminal_width() - 1, shown);
    fflush(stderr);
    settings.line_drawn = true;
}

void progress_close(struct progress *progress)
{
    (void)progress;
    line_erase();
    fflush(stderr);
}

const char *progress_text(const struct progress *progress, uint64_t done, uint64_t total,
                          const char *unit)
{
    static char text[160];
    double seconds = progress_seconds(progress);
    double rate = seconds > 0 ? (double)done / seconds : 0;
    char rate_text[48];
    if (unit) {
        snprintf(rate_text, sizeof rate_text, "%.0f %s/s", rate, unit);
    } else {
        char size[TEXT_SIZE_SIZE];
        snprintf(rate_text, sizeof rate_text, "%s/s", text_size((uint64_t)rate, size));
    }
    if (total == 0 || done > total) {
        snprintf(text, sizeof text, "%s", rate_text);
        return text;
    }
    unsigned percent = (unsigned)((double)done * 100 / (double)total);
    double left = rate > 0 ? (double)(total - done) / rate : INFINITY;
    /* An estimate from the first moments is worth nothing. */
    if (seconds < 1 || !isfinite(left))
        snprintf(text, sizeof text, "%u %%, %s", percent, rate_text);
    else
        snprintf(text, sizeof text, "%u %%, %s, %s left", percent, rate_text,
                 output_duration(left));
    return text;
}
