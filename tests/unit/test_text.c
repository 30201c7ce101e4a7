/* Times, durations, sizes and names as people write them. */
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text.h"
#include "unit_test.h"

#define S_NS INT64_C(1000000000)
#define NOW_NS (INT64_C(1700000000) * S_NS + 123456789)
#define UNTOUCHED INT64_C(0x5a5a5a5a)

static void time_is(const char *text, int64_t expected_ns)
{
    struct failure failure = {0};
    int64_t time_ns = UNTOUCHED;
    int code = text_parse_time(text, NOW_NS, &time_ns, &failure);
    if (code != 0 || time_ns != expected_ns)
        fail_msg("%s: code %d (%s), %" PRId64 " instead of %" PRId64, text, code, failure.text,
                 time_ns, expected_ns);
}

/* Refused, with a sentence that quotes it and holds `reason`, and the result as it was. */
static void time_is_refused(const char *text, const char *reason)
{
    struct failure failure = {0};
    int64_t time_ns = UNTOUCHED;
    int code = text_parse_time(text, NOW_NS, &time_ns, &failure);
    if (code != ERR_INVALID || time_ns != UNTOUCHED || failure.code != ERR_INVALID)
        fail_msg("%s: code %d, %" PRId64, text, code, time_ns);
    if (!strstr(failure.text, reason))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, failure.text, reason);
}

static void dates(void **state)
{
    (void)state;
    time_is("1970-01-01T00:00:00Z", 0);
    time_is("1970-01-01t00:00:00z", 0);
    time_is("1970-01-01 00:00:00Z", 0);
    time_is("2026-11-21T14:05:00Z", INT64_C(1795269900) * S_NS);
    time_is("2026-11-21T14:05:00.5Z", INT64_C(1795269900) * S_NS + 500000000);
    time_is("2026-11-21T14:05:00.000000001Z", INT64_C(1795269900) * S_NS + 1);
    time_is("2026-11-21T14:05:00.123456789+01:00", INT64_C(1795266300) * S_NS + 123456789);
    time_is("2026-11-21T14:05:00-05:30", INT64_C(1795289700) * S_NS);
    time_is("2026-11-21T14:05:00-00:00", INT64_C(1795269900) * S_NS);
    time_is("1969-12-31T23:59:59.999999999Z", -1);
    time_is("1970-01-01T00:00:00+23:59", -86340 * S_NS);
    time_is("1900-03-01T00:00:00Z", INT64_C(-2203891200) * S_NS);
    time_is("2000-02-29T00:00:00Z", INT64_C(951782400) * S_NS);
    time_is("2024-02-29T23:59:59Z", INT64_C(1709251199) * S_NS);
    /* the ends of 64 bits */
    time_is("1677-09-21T00:12:43.145224192Z", INT64_MIN);
    time_is("2262-04-11T23:47:16.854775807Z", INT64_MAX);
}

static void dates_that_do_not_exist(void **state)
{
    (void)state;
    static const char *const none[] = {
        "2023-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2100-02-29T00:00:00Z",
        "2024-02-30T00:00:00Z", "2024-04-31T00:00:00Z", "2024-00-01T00:00:00Z",
        "2024-13-01T00:00:00Z", "2024-01-00T00:00:00Z", "2024-01-32T00:00:00Z",
        "2024-01-01T24:00:00Z", "2024-01-01T00:60:00Z", "2024-01-01T00:00:61Z",
    };
    for (size_t i = 0; i < COUNT(none); i++)
        time_is_refused(none[i], "no such date");
}

static void leap_seconds(void **state)
{
    (void)state;
    time_is("2016-12-31T23:59:60Z", INT64_C(1483228800) * S_NS);
    time_is("2015-06-30T23:59:60.25Z", INT64_C(1435708800) * S_NS + 250000000);
    time_is("2017-01-01T00:59:60+01:00", INT64_C(1483228800) * S_NS);
    time_is_refused("2016-12-30T23:59:60Z", "no such date");
    time_is_refused("2016-12-31T23:58:60Z", "no such date");
    time_is_refused("2016-12-31T12:00:60Z", "no such date");
    time_is_refused("2016-12-31T23:59:60+01:00", "no such date");
}

static void dates_beyond_64_bits(void **state)
{
    (void)state;
    static const char *const outside[] = {
        "1677-09-21T00:12:43.145224191Z", "2262-04-11T23:47:16.854775808Z",
        "0000-01-01T00:00:00Z",           "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59",
        "0000-01-01T00:00:00+23:59",      "2262-04-11T23:47:16.854775807-00:01",
    };
    for (size_t i = 0; i < COUNT(outside); i++)
        time_is_refused(outside[i], "1677 to 2262");
}

static void half_dates(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "2026-11-21",
        "2026-11-21T",
        "2026-11-21T14",
        "2026-11-21T14:05",
        "2026-11-21T14:05:",
        "2026-11-21T14:05:0",
        "2026-11-21T14:05:00.",
        "2026-11-21T14:05:00.Z",
        "2026-11-21T14:05:00X",
        "2026-11-21T14:05:00ZZ",
        "2026-11-21T14:05:00+1:00",
        "2026-11-21T14:05:00+0100",
        "2026-11-21T14:05:00+01:0",
        "2026-11-21T14:05:00+01:000",
        "2026-11-21T14:05:00+24:00",
        "2026-11-21T14:05:00+01:60",
        "2026-11-21T14:05:00+",
        "2026-1-21T14:05:00Z",
        "26-11-21T14:05:00Z",
        "20261-11-21T14:05:00Z",
        "2026/11/21T14:05:00Z",
        "2026-11-21  14:05:00Z",
        " 2026-11-21T14:05:00Z",
        "2026-11-21T14:05:00Z ",
        "2026-11-21_14:05:00Z",
        "2026-+1-21T14:05:00Z",
        "2026-11-21T-1:05:00Z",
        "2026-",
        "2026-11",
        "2026-11-",
        "-2026-11-21T14:05:00Z",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        time_is_refused(bad[i], "expected RFC 3339");
    time_is_refused("2026-11-21T14:05:00.0000000001Z", "finer than a nanosecond");
}

static void epochs(void **state)
{
    (void)state;
    time_is("0", 0);
    time_is("1700000000", INT64_C(1700000000) * S_NS);
    time_is("1700000000.5", INT64_C(1700000000) * S_NS + 500000000);
    time_is("1700000000.123456789", INT64_C(1700000000) * S_NS + 123456789);
    time_is("0.000000001", 1);
    time_is("-1", -S_NS);
    time_is("-0.5", -500000000);
    time_is("-1.000000001", -1000000001);
    time_is("-0", 0);
    time_is("007", 7 * S_NS);
    time_is("9223372036.854775807", INT64_MAX);
    time_is("-9223372036.854775808", INT64_MIN);
    time_is_refused("9223372036.854775808", "1677 to 2262");
    time_is_refused("-9223372036.854775809", "1677 to 2262");
    time_is_refused("1000000000000000000", "1677 to 2262");
    time_is_refused("18446744073709551616", "1677 to 2262");
    time_is_refused("18446744073709551617.5", "1677 to 2262");
    time_is_refused("99999999999999999999999999999999999999999999", "1677 to 2262");
    time_is_refused("0.0000000001", "finer than a nanosecond");
    time_is_refused("1.1234567890", "finer than a nanosecond");
}

static void relative_times(void **state)
{
    (void)state;
    time_is("now", NOW_NS);
    time_is("-90s", NOW_NS - 90 * S_NS);
    time_is("+10s", NOW_NS + 10 * S_NS);
    time_is("-250ms", NOW_NS - 250000000);
    time_is("-5m", NOW_NS - 300 * S_NS);
    time_is("-1h", NOW_NS - 3600 * S_NS);
    time_is("-2d", NOW_NS - 172800 * S_NS);
    time_is("-1.5h", NOW_NS - 5400 * S_NS);
    time_is("-0.000001ms", NOW_NS - 1);
    time_is("-0s", NOW_NS);
    time_is_refused("-0.0000001ms", "finer than a nanosecond");
    time_is_refused("-106752d", "1677 to 2262");
    time_is_refused("+9223372036854775807d", "1677 to 2262");
    time_is_refused("-99999999999999999999999s", "1677 to 2262");
    time_is_refused("+9000000000s", "1677 to 2262");
}

static void nonsense_times(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",     "+",    "-",    ".",        "-.",   "+.5s",        "1.",        ".5",  "1.2.3",
        "1e9",  "0x10", "inf",  "nan",      "Now",  "now ",        "yesterday", "1s",  "10m",
        "-1w",  "-1 h", "- 1h", "--1h",     "+-1h", "-1hh",        "-1H",       "-1M", "+5",
        "+5.5", "-h",   "1,5",  "\xd9\xa1", "-1us", "1700000000Z",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        time_is_refused(bad[i], "expected");
}

static void hostile_text_is_quoted_safely(void **state)
{
    (void)state;
    time_is_refused("\x1b[2Jx", "time \"\\x1b[2Jx\"");
    char text[5000];
    memset(text, '7', sizeof text);
    text[sizeof text - 1] = '\0';
    struct failure failure = {0};
    int64_t time_ns;
    assert_int_equal(text_parse_time(text, 0, &time_ns, &failure), ERR_INVALID);
    assert_non_null(strstr(failure.text, "1677 to 2262")); /* the long quotation left it room */
    assert_int_equal(text_parse_time("x", 0, &time_ns, NULL), ERR_INVALID);
}

static void local_times(void **state)
{
    (void)state;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1); /* as in Berlin */
    tzset();
    time_is("2026-01-15T12:00:00", INT64_C(1768474800) * S_NS);
    time_is("2026-07-15 12:00:00.25", INT64_C(1784109600) * S_NS + 250000000);
    /* 2026-03-29 02:00 to 03:00 is skipped, 2026-10-25 02:00 to 03:00 comes twice: the first */
    time_is_refused("2026-03-29T02:30:00", "put forward");
    time_is("2026-03-29T01:59:59", INT64_C(1774745999) * S_NS);
    time_is("2026-03-29T03:00:00", INT64_C(1774746000) * S_NS);
    time_is("2026-10-25T02:30:00", INT64_C(1792888200) * S_NS);
    time_is("2026-10-25T03:00:00", INT64_C(1792893600) * S_NS);
    time_is("2017-01-01T00:59:60", INT64_C(1483228800) * S_NS);
    time_is_refused("2026-02-29T00:00:00", "no such date");
    time_is_refused("9999-12-31T23:59:59", "1677 to 2262");
    setenv("TZ", "UTC0", 1);
    tzset();
    time_is("2026-01-15T12:00:00", INT64_C(1768478400) * S_NS);
    time_is("1969-12-31T23:59:59", -S_NS);
}

static void times_print(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *text;
    } table[] = {
        {0, "1970-01-01T00:00:00.000000000Z"},
        {-1, "1969-12-31T23:59:59.999999999Z"},
        {INT64_C(1795269900) * S_NS + 5, "2026-11-21T14:05:00.000000005Z"},
        {INT64_C(951868799) * S_NS, "2000-02-29T23:59:59.000000000Z"},
        {INT64_C(4107542400) * S_NS, "2100-03-01T00:00:00.000000000Z"},
        {INT64_MIN, "1677-09-21T00:12:43.145224192Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[TEXT_TIME_SIZE];
        assert_string_equal(text_time(table[i].ns, text), table[i].text);
        time_is(text, table[i].ns);
    }
}

/* Every 10th day of all that 64 bits hold agrees with the C library and reads back. */
static void the_calendar_agrees(void **state)
{
    (void)state;
    for (int64_t day = -106751; day <= 106751; day += 10) {
        int64_t seconds = day * 86400 + (day & 0xffff);
        char text[TEXT_TIME_SIZE];
        char expected[2 * TEXT_TIME_SIZE];
        struct tm utc;
        time_t c_seconds = seconds;
        assert_non_null(gmtime_r(&c_seconds, &utc));
        snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.000000000Z",
                 utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                 utc.tm_sec);
        assert_string_equal(text_time(seconds * S_NS, text), expected);
        time_is(text, seconds * S_NS);
    }
}

static void size_is(const char *text, uint64_t expected)
{
    struct failure failure = {0};
    uint64_t bytes = 0x5a5a;
    int code = text_parse_size(text, &bytes, &failure);
    if (code != 0 || bytes != expected)
        fail_msg("%s: code %d (%s), %" PRIu64, text, code, failure.text, bytes);
}

static void sizes(void **state)
{
    (void)state;
    size_is("0", 0);
    size_is("17", 17);
    size_is("17B", 17);
    size_is("17b", 17);
    size_is("4K", 4096);
    size_is("4k", 4096);
    size_is("4KiB", 4096);
    size_is("4kib", 4096);
    size_is("4KB", 4096);
    size_is("64MiB", 64 << 20);
    size_is("1.5G", UINT64_C(3) << 29);
    size_is("2T", UINT64_C(2) << 40);
    size_is("1P", UINT64_C(1) << 50);
    size_is("0.1K", 102);
    size_is("0.000000000000000001P", 0);
    size_is("1000000000000000000", UINT64_C(1000000000000000000));
    size_is("4096P", UINT64_C(1) << 62);
    size_is("4611686018427387904", UINT64_C(1) << 62);
    size_is("4503599627370496K", UINT64_C(1) << 62);

    static const char *const large[] = {
        "4611686018427387905",
        "4097P",
        "4096.1P",
        "18446744073709551616",
        "18446744073709551615P",
        "99999999999999999999999999999999999999T",
        "4503599627370496.001K",
    };
    for (size_t i = 0; i < COUNT(large); i++) {
        struct failure failure = {0};
        uint64_t bytes = 0x5a5a;
        if (text_parse_size(large[i], &bytes, &failure) != ERR_TOO_LARGE || bytes != 0x5a5a)
            fail_msg("%s was taken", large[i]);
        assert_non_null(strstr(failure.text, large[i]));
    }
    static const char *const bad[] = {
        "",
        "K",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 K",
        "1.5",
        "1.5B",
        "1.",
        ".5K",
        "1..5K",
        "1KK",
        "1Ki",
        "1iB",
        "1BB",
        "1E",
        "1e3",
        "0x10",
        "ten",
        "1,5K",
        "1KiBx",
        "1.0000000000000000001K",
        "99999999999999999999999999X",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        uint64_t bytes = 0x5a5a;
        if (text_parse_size(bad[i], &bytes, NULL) != ERR_INVALID || bytes != 0x5a5a)
            fail_msg("%s was taken", bad[i]);
    }
}

static void sizes_print(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } table[] = {
        {0, "0 B"},
        {17, "17 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {4096, "4.0 KiB"},
        {1536, "1.5 KiB"},
        {10 * 1024 + 512, "10.5 KiB"},
        {100 * 1024 - 51, "100 KiB"},
        {100 * 1024, "100 KiB"},
        {1023 * 1024, "1023 KiB"},
        {1024 * 1024 - 513, "1023 KiB"},
        {1024 * 1024 - 512, "1.0 MiB"},
        {1024 * 1024 - 1, "1.0 MiB"},
        {1 << 30, "1.0 GiB"},
        {UINT64_C(5) << 39, "2.5 TiB"},
        {UINT64_C(1) << 50, "1.0 PiB"},
        {UINT64_C(1) << 60, "1.0 EiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[TEXT_SIZE_SIZE];
        assert_string_equal(text_size(table[i].bytes, text), table[i].text);
    }
}

static void durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {
        {"0s", 0},
        {"1s", S_NS},
        {"50ms", 50000000},
        {"1.5s", 1500000000},
        {"2m", 120 * S_NS},
        {"1h", 3600 * S_NS},
        {"7d", 604800 * S_NS},
        {"0.25ms", 250000},
        {"9223372036.854775807s", INT64_MAX},
        {"106751d", INT64_C(106751) * 86400 * S_NS},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        int64_t ns = UNTOUCHED;
        assert_int_equal(text_parse_duration(good[i].text, &ns, NULL), 0);
        assert_true(ns == good[i].ns);
    }
    static const char *const bad[] = {
        "",
        "1",
        "s",
        "-1s",
        "+1s",
        "1 s",
        "1S",
        "1sec",
        "1us",
        "1e3s",
        "1.s",
        ".5s",
        "9223372036.854775808s",
        "106752d",
        "99999999999999999999s",
        "0.0000001ms",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct failure failure = {0};
        int64_t ns = UNTOUCHED;
        if (text_parse_duration(bad[i], &ns, &failure) != ERR_INVALID || ns != UNTOUCHED)
            fail_msg("%s was taken", bad[i]);
        assert_true(strlen(failure.text) > 0);
    }
}

/* A comma for the point, and digits that are not ASCII, must change nothing. */
static void the_locale_does_not_matter(void **state)
{
    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "C.UTF-8"))
        skip();
    time_is("1.5", 1500000000);
    time_is_refused("1,5", "expected");
    size_is("1.5K", 1536);
    char text[TEXT_SIZE_SIZE];
    assert_string_equal(text_size(1536, text), "1.5 KiB");
    setlocale(LC_ALL, "C");
}

static void ring_names(void **state)
{
    (void)state;
    char longest[65] = {0};
    memset(longest, 'a', 63);
    assert_int_equal(text_check_ring_name(longest, NULL), 0);
    longest[63] = 'a';
    assert_int_equal(text_check_ring_name(longest, NULL), ERR_INVALID);
    static const char *const good[] = {"a", "Z9", "_x", "dmz-1.left_2", "0"};
    for (size_t i = 0; i < COUNT(good); i++)
        assert_int_equal(text_check_ring_name(good[i], NULL), 0);
    static const char *const bad[] = {"",     ".",   "..",       ".a",    "-a", "a b", "a/b",
                                      "../x", "a\n", "\xc3\xa9", "a\x7f", "a:", "a%"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct failure failure = {0};
        assert_int_equal(text_check_ring_name(bad[i], &failure), ERR_INVALID);
        assert_non_null(strstr(failure.text, "expected 1 to 63"));
    }
}

static void foreign_bytes_are_made_printable(void **state)
{
    (void)state;
    char out[16];
    text_printable("plain ~", out, sizeof out);
    assert_string_equal(out, "plain ~");
    text_printable("\n\x7f\xff\x1b", out, sizeof out);
    assert_string_equal(out, "\\x0a\\x7f\\xff"); /* the fourth has no room */
    text_printable("\x01", out, 5);
    assert_string_equal(out, "\\x01");
    text_printable("\x01", out, 4);
    assert_string_equal(out, "");
    text_printable("abc", out, 3);
    assert_string_equal(out, "ab");
    memset(out, 'x', sizeof out);
    text_printable("abc", out, 0);
    assert_int_equal(out[0], 'x');
    text_printable("abc", out, 1);
    assert_string_equal(out, "");
}

static void numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int base;
        uint32_t most, number;
        int length; /* -1: it is none */
    } table[] = {
        {"0", 10, 9, 0, 1},           {"443", 10, 65535, 443, 3},       {"65535,", 10, 65535, 65535, 5}, {"65536", 10, 65535, 0, -1},
        {"", 10, 9, 0, -1},           {"x", 10, 9, 0, -1},              {" 1", 10, 9, 0, -1},            {"+1", 10, 9, 0, -1},
        {"-1", 10, UINT32_MAX, 0, -1}, {"-1", 16, UINT32_MAX, 0, -1},   {" a", 16, 255, 0, -1},          {"0x10", 10, 99, 0, 1},
        {"0x10", 0, 99, 16, 4},       {"010", 0, 99, 8, 3},             {"010", 10, 99, 10, 3},          {"fF:", 16, 255, 255, 2},
        {"g", 16, 255, 0, -1},        {"4294967295", 0, UINT32_MAX, UINT32_MAX, 10},
        {"4294967296", 10, UINT32_MAX, 0, -1}, {"99999999999999999999999", 10, UINT32_MAX, 0, -1},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        uint32_t number = 77;
        const char *end = text_number(table[i].text, table[i].base, table[i].most, &number);
        if ((end ? (int)(end - table[i].text) : -1) != table[i].length || number != (end ? table[i].number : 77))
            fail_msg("%s", table[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates),
        cmocka_unit_test(dates_that_do_not_exist),
        cmocka_unit_test(leap_seconds),
        cmocka_unit_test(dates_beyond_64_bits),
        cmocka_unit_test(half_dates),
        cmocka_unit_test(epochs),
        cmocka_unit_test(relative_times),
        cmocka_unit_test(nonsense_times),
        cmocka_unit_test(hostile_text_is_quoted_safely),
        cmocka_unit_test(local_times),
        cmocka_unit_test(times_print),
        cmocka_unit_test(the_calendar_agrees),
        cmocka_unit_test(sizes),
        cmocka_unit_test(sizes_print),
        cmocka_unit_test(durations),
        cmocka_unit_test(the_locale_does_not_matter),
        cmocka_unit_test(numbers),
        cmocka_unit_test(ring_names),
        cmocka_unit_test(foreign_bytes_are_made_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
