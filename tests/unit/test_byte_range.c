/*
 * The header Range: RFC 9110, section 14.1.2, and what is none.
 */
#include "unit_test.h"

#include "byte_range.h"

static void ranges(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        uint64_t bytes;
        enum byte_range result;
        uint64_t first, last;
    } table[] = {
        {NULL, 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=0-0", 100, BYTE_RANGE_PART, 0, 0},
        {"bytes=0-", 100, BYTE_RANGE_PART, 0, 99},
        {"BYTES=5-10", 100, BYTE_RANGE_PART, 5, 10},
        {"bytes=5-1000", 100, BYTE_RANGE_PART, 5, 99},
        {"bytes=99-", 100, BYTE_RANGE_PART, 99, 99},
        {"bytes=-1", 100, BYTE_RANGE_PART, 99, 99},
        {"bytes=-100", 100, BYTE_RANGE_PART, 0, 99},
        {"bytes=-101", 100, BYTE_RANGE_PART, 0, 99},
        {"bytes=-18446744073709551617", 100, BYTE_RANGE_PART, 0, 99},
        {"bytes=3-18446744073709551619", 100, BYTE_RANGE_PART, 3, 99},
        {"bytes=100-", 100, BYTE_RANGE_NONE, 0, 99},
        {"bytes=18446744073709551616-", 100, BYTE_RANGE_NONE, 0, 99},
        {"bytes=-0", 100, BYTE_RANGE_NONE, 0, 99},
        {"bytes=0-", 0, BYTE_RANGE_NONE, 0, 0},
        {"bytes=-5", 0, BYTE_RANGE_NONE, 0, 0},
        {"bytes=5-4", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=-", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=1", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=1-2,4-5", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=1-2 ", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes= 1-2", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes=+1-2", 100, BYTE_RANGE_ALL, 0, 99},
        {"bytes", 100, BYTE_RANGE_ALL, 0, 99},
        {"", 100, BYTE_RANGE_ALL, 0, 99},
        {"seconds=1-2", 100, BYTE_RANGE_ALL, 0, 99},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        uint64_t first, last;
        enum byte_range result = byte_range_parse(table[i].header, table[i].bytes, &first, &last);
        if (result != table[i].result || first != table[i].first || last != table[i].last)
            fail_msg("%s of %llu: %d, %llu-%llu", table[i].header ? table[i].header : "(none)",
                     (unsigned long long)table[i].bytes, (int)result, (unsigned long long)first,
                     (unsigned long long)last);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
