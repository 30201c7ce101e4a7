/*
 * text.c - all by hand and by the byte: strptime, strtod and isdigit depend on the locale and take
 * more than they should ("0x10", "1e3", "inf", leading blanks). Amounts are exact: a fraction is
 * kept as digits, not as a double.
 */
#include "text.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "disk_format.h"

#define SECOND_NS INT64_C(1000000000)
#define DAY_SECONDS INT64_C(86400)
#define FRACTION_MAX 18 /* decimals that are read: 10^18 fits 64 bits */
#define TIME_DECIMALS 9
#define QUOTED_SIZE 96 /* of what a person wrote, in a message */
#define SIZE_BYTES_MAX (UINT64_C(1) << 62)

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

/* ---- decimal numbers ------------------------------------------------------------------------- */

/* whole + fraction / 10^decimals */
struct decimal {
    uint64_t whole;
    uint64_t fraction;
    uint64_t scale; /* 10^decimals */
    unsigned decimals;
    bool too_large;
};

/*
 * Reads digits, and a point and digits where there is one, and moves *text behind them. Returns
 * false if there is no number, or more decimals than are read. A whole part beyond 64 bits is
 * marked, so that what follows can still be checked and the complaint be the right one.
 */
static bool decimal_read(const char **text, struct decimal *number)
{
    const char *c = *text;
    *number = (struct decimal){.scale = 1};
    if (!is_digit(*c))
        return false;
    for (; is_digit(*c); c++)
        if (__builtin_mul_overflow(number->whole, 10, &number->whole) ||
            __builtin_add_overflow(number->whole, (uint64_t)(*c - '0'), &number->whole))
            number->too_large = true;
    if (*c == '.') {
        c++;
        if (!is_digit(*c))
            return false;
        for (; is_digit(*c); c++) {
            if (++number->decimals > FRACTION_MAX)
                return false;
            number->fraction = number->fraction * 10 + (uint64_t)(*c - '0');
            number->scale *= 10;
        }
    }
    *text = c;
    return true;
}

/* number * unit, rounded down; *exact says whether anything was lost. False where it exceeds `max`.
 */
static bool decimal_times(const struct decimal *number, uint64_t unit, uint64_t max,
                          uint64_t *product, bool *exact)
{
    /* fraction < 10^18 and unit < 2^64: the product of the two stays below 2^124. */
    unsigned __int128 part = (unsigned __int128)number->fraction * unit;
    *exact = part % number->scale == 0;
    unsigned __int128 sum = (unsigned __int128)number->whole * unit + part / number->scale;
    if (number->too_large || sum > max)
        return false;
    *product = (uint64_t)sum;
    return true;
}

/* Exactly `count` digits, of a number that fits an int. */
static bool digits_read(const char **text, int count, int *value)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        if (!is_digit((*text)[i]))
            return false;
        sum = sum * 10 + ((*text)[i] - '0');
    }
    *text += count;
    *value = sum;
    return true;
}

/* ---- the calendar ------------------------------------------------------------------------------
 */

struct moment {
    int year, month, day; /* 1 to 12, 1 to 31 */
    int hour, minute, second;
    int64_t nanosecond;
};

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int month_days(int64_t year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return month == 2 && is_leap(year) ? 29 : days[month - 1];
}

/* Days from 0000-01-01 to January 1st of `year`, proleptic Gregorian; year >= 0. */
static int64_t days_before_year(int64_t year)
{
    if (year == 0)
        return 0;
    int64_t last = year - 1;
    return year * 365 + last / 4 - last / 100 + last / 400 + 1; /* + 1: year 0 was a leap year */
}

#define DAYS_TO_EPOCH INT64_C(719528) /* days_before_year(1970) */

static int64_t seconds_from_date(int64_t year, int month, int day)
{
    int64_t days = days_before_year(year) - DAYS_TO_EPOCH + day - 1;
    for (int m = 1; m < month; m++)
        days += month_days(year, m);
    return days * DAY_SECONDS;
}

/* The UTC date and time of `seconds`, which lie within years 0 to 9999. */
static void moment_from_seconds(int64_t seconds, struct moment *moment)
{
    int64_t days = seconds / DAY_SECONDS;
    int64_t rest = seconds % DAY_SECONDS;
    if (rest < 0) {
        rest += DAY_SECONDS;
        days--;
    }
    days += DAYS_TO_EPOCH;
    int64_t year = days / 366; /* never too late; at 9999, seven years too early */
    while (days >= days_before_year(year + 1))
        year++;
    days -= days_before_year(year);
    int month = 1;
    while (days >= month_days(year, month))
        days -= month_days(year, month++);
    *moment = (struct moment){
        .year = (int)year,
        .month = month,
        .day = (int)days + 1,
        .hour = (int)(rest / 3600),
        .minute = (int)(rest / 60 % 60),
        .second = (int)(rest % 60),
    };
}

/* Nanoseconds since the epoch; false beyond what 64 bits hold (years 1677 to 2262). */
static bool nanoseconds_of(int64_t seconds, int64_t nanosecond, int64_t *time_ns)
{
    /* A negative second with a fraction may fit where the second alone does not. */
    if (seconds < 0 && nanosecond > 0) {
        seconds++;
        nanosecond -= SECOND_NS;
    }
    return !__builtin_mul_overflow(seconds, SECOND_NS, time_ns) &&
           !__builtin_add_overflow(*time_ns, nanosecond, time_ns);
}

/* ---- times -------------------------------------------------------------------------------------
 */

static int time_refuse(struct failure *failure, const char *text, const char *reason)
{
    char quoted[QUOTED_SIZE];
    text_printable(text, quoted, sizeof quoted);
    return fail(failure, ERR_INVALID, "time \"%s\": %s", quoted, reason);
}

#define TIME_EXPECTED                                                                             \
    "expected RFC 3339 (2026-11-21T14:05:00Z), seconds since the epoch, now, or relative (-90s, " \
    "-1h)"
#define TIME_OUTSIDE "outside the years 1677 to 2262 that can be stored"
#define TIME_TOO_FINE "finer than a nanosecond"
#define TIME_NO_DATE "no such date or time of day"

/* Unit of a duration in nanoseconds, 0 for an unknown one. */
static uint64_t duration_unit(const char *unit)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } table[] = {
        {"ms", SECOND_NS / 1000},       {"s", SECOND_NS},
        {"m", 60 * SECOND_NS},          {"h", 3600 * SECOND_NS},
        {"d", DAY_SECONDS * SECOND_NS},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(unit, table[i].name) == 0)
            return table[i].ns;
    return 0;
}

/* "-1h": `amount` is what stands behind the sign. */
static int parse_relative(const char *text, const char *amount, int64_t now_ns, int64_t *time_ns,
                          struct failure *failure)
{
    struct decimal number;
    if (!decimal_read(&amount, &number))
        return time_refuse(failure, text, TIME_EXPECTED);
    uint64_t unit = duration_unit(amount);
    if (unit == 0)
        return time_refuse(failure, text, TIME_EXPECTED);
    uint64_t distance;
    bool exact;
    if (!decimal_times(&number, unit, INT64_MAX, &distance, &exact))
        return time_refuse(failure, text, TIME_OUTSIDE);
    if (!exact)
        return time_refuse(failure, text, TIME_TOO_FINE);
    int64_t result;
    if (text[0] == '-' ? __builtin_sub_overflow(now_ns, (int64_t)distance, &result)
                       : __builtin_add_overflow(now_ns, (int64_t)distance, &result))
        return time_refuse(failure, text, TIME_OUTSIDE);
    *time_ns = result;
    return 0;
}

/* "1700000000.5", "-1.25" */
static int parse_epoch(const char *text, int64_t *time_ns, struct failure *failure)
{
    bool negative = text[0] == '-';
    const char *c = text + negative;
    struct decimal number;
    if (!decimal_read(&c, &number) || *c != '\0')
        return time_refuse(failure, text, TIME_EXPECTED);
    uint64_t distance;
    bool exact;
    uint64_t max = negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX;
    if (!decimal_times(&number, SECOND_NS, max, &distance, &exact))
        return time_refuse(failure, text, TIME_OUTSIDE);
    if (!exact || number.decimals > TIME_DECIMALS)
        return time_refuse(failure, text, TIME_TOO_FINE);
    /* Unsigned, as the smallest 64-bit number has no positive twin; the conversion back wraps. */
    *time_ns = negative ? (int64_t)(0 - distance) : (int64_t)distance;
    return 0;
}

/*
 * Seconds since the epoch of a local date and time; false where the clocks were put forward over
 * it. Where they were put back and it came twice, the first one.
 */
static bool seconds_from_local(const struct moment *moment, int64_t *seconds)
{
    bool found = false;
    *seconds = 0;
    for (int summer = 1; summer >= 0; summer--) {
        struct tm local = {
            .tm_year = moment->year - 1900,
            .tm_mon = moment->month - 1,
            .tm_mday = moment->day,
            .tm_hour = moment->hour,
            .tm_min = moment->minute,
            .tm_sec = moment->second,
            .tm_isdst = summer,
        };
        time_t candidate = mktime(&local);
        /* mktime moves what does not exist, and what is not of this half of the year, elsewhere. */
        if (local.tm_hour != moment->hour || local.tm_min != moment->minute ||
            local.tm_mday != moment->day || local.tm_sec != moment->second)
            continue;
        if (!found || candidate < *seconds)
            *seconds = candidate;
        found = true;
    }
    return found;
}

/* Reads "Z", "+01:00" or nothing. False: something else. */
static bool zone_read(const char *c, bool *local, int64_t *offset_seconds)
{
    *local = *c == '\0';
    *offset_seconds = 0;
    if (*c == '\0')
        return true;
    if (lower(*c) == 'z')
        return c[1] == '\0';
    if (*c != '+' && *c != '-')
        return false;
    bool west = *c++ == '-';
    int hours;
    int minutes;
    if (!digits_read(&c, 2, &hours) || *c++ != ':' || !digits_read(&c, 2, &minutes) || *c != '\0')
        return false;
    if (hours > 23 || minutes > 59)
        return false;
    *offset_seconds = (west ? -60 : 60) * (int64_t)(hours * 60 + minutes);
    return true;
}

static int parse_date(const char *text, int64_t *time_ns, struct failure *failure)
{
    struct moment moment = {0};
    const char *c = text;
    if (!digits_read(&c, 4, &moment.year) || *c++ != '-' || !digits_read(&c, 2, &moment.month) ||
        *c++ != '-' || !digits_read(&c, 2, &moment.day))
        return time_refuse(failure, text, TIME_EXPECTED);
    if (lower(*c) != 't' && *c != ' ')
        return time_refuse(failure, text, TIME_EXPECTED);
    c++;
    if (!digits_read(&c, 2, &moment.hour) || *c++ != ':' || !digits_read(&c, 2, &moment.minute) ||
        *c++ != ':' || !digits_read(&c, 2, &moment.second))
        return time_refuse(failure, text, TIME_EXPECTED);
    if (*c == '.') {
        int decimals = 0;
        for (c++; is_digit(*c); c++) {
            if (++decimals > TIME_DECIMALS)
                return time_refuse(failure, text, TIME_TOO_FINE);
            moment.nanosecond = moment.nanosecond * 10 + (*c - '0');
        }
        if (decimals == 0)
            return time_refuse(failure, text, TIME_EXPECTED);
        for (; decimals < TIME_DECIMALS; decimals++)
            moment.nanosecond *= 10;
    }
    bool local;
    int64_t offset_seconds;
    if (!zone_read(c, &local, &offset_seconds))
        return time_refuse(failure, text, TIME_EXPECTED);

    if (moment.month < 1 || moment.month > 12 || moment.day < 1 ||
        moment.day > month_days(moment.year, moment.month) || moment.hour > 23 ||
        moment.minute > 59 || moment.second > 60)
        return time_refuse(failure, text, TIME_NO_DATE);
    bool leap_second = moment.second == 60;
    moment.second -= leap_second;

    int64_t seconds;
    if (!local)
        seconds = seconds_from_date(moment.year, moment.month, moment.day) + moment.hour * 3600 +
                  moment.minute * 60 + moment.second - offset_seconds;
    else if (!seconds_from_local(&moment, &seconds))
        return time_refuse(failure, text, "the clocks were put forward over this local time");
    int64_t result;
    if (!nanoseconds_of(seconds + leap_second, moment.nanosecond, &result))
        return time_refuse(failure, text, TIME_OUTSIDE);
    if (leap_second) {
        /* They come at the end of June or December, UTC; POSIX counts them as the next second. */
        struct moment next;
        moment_from_seconds(seconds + 1, &next);
        if ((next.month != 1 && next.month != 7) || next.day != 1 || next.hour != 0 ||
            next.minute != 0 || next.second != 0)
            return time_refuse(failure, text, TIME_NO_DATE);
    }
    *time_ns = result;
    return 0;
}

int text_parse_time(const char *text, int64_t now_ns, int64_t *time_ns, struct failure *failure)
{
    if (strcmp(text, "now") == 0) {
        *time_ns = now_ns;
        return 0;
    }
    bool sign = text[0] == '-' || text[0] == '+';
    const char *behind = text + sign;
    size_t number = strspn(behind, "0123456789.");
    if (number == 0)
        return time_refuse(failure, text, TIME_EXPECTED);
    if (!sign && number == 4 && text[4] == '-')
        return parse_date(text, time_ns, failure);
    if (sign && behind[number] != '\0')
        return parse_relative(text, behind, now_ns, time_ns, failure);
    if (text[0] == '+') /* seconds since the epoch, or from now without a unit? */
        return time_refuse(failure, text, TIME_EXPECTED);
    return parse_epoch(text, time_ns, failure);
}

const char *text_time(int64_t time_ns, char text[TEXT_TIME_SIZE])
{
    int64_t seconds = time_ns / SECOND_NS;
    int64_t nanosecond = time_ns % SECOND_NS;
    if (nanosecond < 0) {
        nanosecond += SECOND_NS;
        seconds--;
    }
    struct moment moment;
    moment_from_seconds(seconds, &moment);
    snprintf(text, TEXT_TIME_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d.%09dZ", moment.year, moment.month,
             moment.day, moment.hour, moment.minute, moment.second, (int)nanosecond);
    return text;
}

/* ---- durations
 * ----------------------------------------------------------------------------------- */

int text_parse_duration(const char *text, int64_t *duration_ns, struct failure *failure)
{
    char quoted[QUOTED_SIZE];
    text_printable(text, quoted, sizeof quoted);
    struct decimal number;
    const char *c = text;
    uint64_t unit = decimal_read(&c, &number) ? duration_unit(c) : 0;
    if (unit == 0)
        return fail(failure, ERR_INVALID,
                    "duration \"%s\": expected a number and a unit: ms, s, m, h or d", quoted);
    uint64_t product;
    bool exact;
    if (!decimal_times(&number, unit, INT64_MAX, &product, &exact))
        return fail(failure, ERR_INVALID, "duration \"%s\": longer than 292 years", quoted);
    if (!exact)
        return fail(failure, ERR_INVALID, "duration \"%s\": " TIME_TOO_FINE, quoted);
    *duration_ns = (int64_t)product;
    return 0;
}

/* ---- sizes
 * --------------------------------------------------------------------------------------- */

int text_parse_size(const char *text, uint64_t *bytes, struct failure *failure)
{
    static const char unit_letters[] = "kmgtp";
    char quoted[QUOTED_SIZE];
    text_printable(text, quoted, sizeof quoted);

    struct decimal number;
    const char *c = text;
    bool understood = decimal_read(&c, &number);
    uint64_t unit = 1;
    const char *letter = understood && *c != '\0' ? strchr(unit_letters, lower(*c)) : NULL;
    if (letter) {
        unit = UINT64_C(1) << (10 * (letter - unit_letters + 1));
        c++;
        if (lower(c[0]) == 'i' && lower(c[1]) == 'b')
            c++; /* and the b below */
    }
    if (understood && lower(*c) == 'b')
        c++;
    if (!understood || *c != '\0' || (unit == 1 && number.decimals > 0))
        return fail(failure, ERR_INVALID,
                    "size \"%s\": expected a number of bytes, or a number and K, M, G, T or P",
                    quoted);
    uint64_t product;
    bool exact; /* 0.1K is 102 bytes */
    if (!decimal_times(&number, unit, SIZE_BYTES_MAX, &product, &exact))
        return fail(failure, ERR_TOO_LARGE, "size \"%s\": more than 4096 PiB", quoted);
    *bytes = product;
    return 0;
}

const char *text_size(uint64_t bytes, char text[TEXT_SIZE_SIZE])
{
    static const char unit_letters[] = "KMGTPE";
    if (bytes < 1024) {
        snprintf(text, TEXT_SIZE_SIZE, "%d B", (int)bytes);
        return text;
    }
    int unit = 0;
    while (unit < 5 && bytes >> (10 * (unit + 2)) != 0)
        unit++;
    /* Rounded to nearest; what rounds up to 1024 of a unit is 1.0 of the next. */
    unsigned __int128 divisor = (unsigned __int128)1 << (10 * (unit + 1));
    unsigned tenths = (unsigned)(((unsigned __int128)bytes * 10 + divisor / 2) / divisor);
    unsigned wholes = (unsigned)(((unsigned __int128)bytes + divisor / 2) / divisor);
    if (wholes >= 1024 && unit < 5) {
        tenths = 10;
        unit++;
    }
    if (tenths < 1000)
        snprintf(text, TEXT_SIZE_SIZE, "%u.%u %ciB", tenths / 10, tenths % 10, unit_letters[unit]);
    else
        snprintf(text, TEXT_SIZE_SIZE, "%u %ciB", wholes, unit_letters[unit]);
    return text;
}

/* ---- names and foreign bytes -------------------------------------------------------------------
 */

static bool is_name_character(char c)
{
    return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'z') || c == '-' || c == '_' || c == '.';
}

const char *text_number(const char *text, int base, uint32_t most, uint32_t *number)
{
    char *end;
    bool begins = base == 16 ? isxdigit((unsigned char)text[0]) : isdigit((unsigned char)text[0]);
    unsigned long long value = begins ? strtoull(text, &end, base) : 0;
    if (!begins || value > most)
        return NULL;
    *number = (uint32_t)value;
    return end;
}

int text_check_ring_name(const char *text, struct failure *failure)
{
    size_t length = 0;
    while (length <= RING_NAME_MAX && is_name_character(text[length]))
        length++;
    bool good = length >= 1 && length <= RING_NAME_MAX && text[length] == '\0' && text[0] != '-' &&
                text[0] != '.';
    if (good)
        return 0;
    char quoted[QUOTED_SIZE];
    text_printable(text, quoted, sizeof quoted);
    return fail(failure, ERR_INVALID,
                "ring name \"%s\": expected 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', "
                "not beginning with '-' or '.'",
                quoted);
}

void text_printable(const char *text, char *out, size_t out_size)
{
    static const char digit[] = "0123456789abcdef";
    if (out_size == 0)
        return;
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        bool plain = *c >= 0x20 && *c < 0x7f;
        if (used + (plain ? 1 : 4) >= out_size)
            break;
        if (plain) {
            out[used++] = (char)*c;
            continue;
        }
        out[used++] = '\\';
        out[used++] = 'x';
        out[used++] = digit[*c >> 4];
        out[used++] = digit[*c & 15];
    }
    out[used] = '\0';
}
