/* The table of errors and the sentences that go with them. */
#include <errno.h>
#include <string.h>

#include "errors.h"
#include "unit_test.h"

static const int codes[] = {
#define ERROR(name, code, control, sentence) name,
#include "errors.def"
#undef ERROR
};

static void names_lead_back_to_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(codes); i++) {
        assert_true(codes[i] < 0);
        assert_int_equal(error_from_name(error_name(codes[i])), codes[i]);
        assert_true(strlen(error_text(codes[i])) > 0);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(error_name(codes[i]), error_name(codes[j]));
    }
}

static void unknown_codes_and_names(void **state)
{
    (void)state;
    assert_string_equal(error_text(-9999), "unknown error");
    assert_string_equal(error_name(0), "internal");
    assert_int_equal(error_from_name("no such word"), ERR_INTERNAL);
    assert_int_equal(error_from_name(""), ERR_INTERNAL);
}

static void every_errno_becomes_a_failure(void **state)
{
    (void)state;
    for (int number = 1; number < 256; number++) {
        int code = error_from_errno(number);
        assert_true(code < 0);
        assert_string_not_equal(error_text(code), "unknown error");
    }
    assert_int_equal(error_from_errno(ENOSPC), ERR_NO_SPACE);
    assert_int_equal(error_from_errno(EACCES), ERR_PERMISSION);
    assert_int_equal(error_from_errno(EPERM), ERR_PERMISSION);
    assert_int_equal(error_from_errno(EIO), ERR_IO);
    assert_int_equal(error_from_errno(ENOENT), ERR_NOT_FOUND);
    assert_int_equal(error_from_errno(EPIPE), ERR_CLOSED);
}

static void fail_keeps_code_and_sentence(void **state)
{
    (void)state;
    struct failure failure = {0};
    assert_int_equal(fail(&failure, ERR_BUSY, "disk %s", "/dev/sdb"), ERR_BUSY);
    assert_int_equal(failure.code, ERR_BUSY);
    assert_string_equal(failure.text, "disk /dev/sdb");
    assert_int_equal(fail(NULL, ERR_BUSY, "disk %s", "/dev/sdb"), ERR_BUSY);
}

static void fail_errno_adds_the_reason(void **state)
{
    (void)state;
    struct failure failure = {0};
    assert_int_equal(fail_errno(&failure, ENOSPC, "file %d", 7), ERR_NO_SPACE);
    assert_string_equal(failure.text, "file 7: No space left on device");
    assert_int_equal(fail_errno(NULL, ENOSPC, "file"), ERR_NO_SPACE);
}

static void context_goes_before(void **state)
{
    (void)state;
    struct failure failure = {0};
    fail(&failure, ERR_CORRUPT, "offset 4096");
    assert_int_equal(fail_context(&failure, ERR_IO, "disk %s", "a"), ERR_CORRUPT);
    assert_string_equal(failure.text, "disk a: offset 4096");
    assert_int_equal(fail_context(NULL, ERR_IO, "disk"), ERR_IO);
}

static void context_for_a_failure_without_sentence(void **state)
{
    (void)state;
    struct failure failure = {0};
    assert_int_equal(fail_context(&failure, ERR_IO, "disk a"), ERR_IO);
    assert_int_equal(failure.code, ERR_IO);
    assert_string_equal(failure.text, "disk a: input/output error");
}

static void a_failure_may_quote_itself(void **state)
{
    (void)state;
    struct failure failure = {0};
    fail(&failure, ERR_IO, "inner");
    fail(&failure, failure.code, "outer (%s)", failure.text);
    assert_string_equal(failure.text, "outer (inner)");
}

static void long_sentences_are_cut(void **state)
{
    (void)state;
    struct failure failure = {0};
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    fail(&failure, ERR_IO, "%s", text);
    assert_int_equal(strlen(failure.text), sizeof failure.text - 1);
    fail_errno(&failure, EIO, "%s", text);
    assert_int_equal(strlen(failure.text), sizeof failure.text - 1);
    fail_context(&failure, ERR_IO, "before");
    assert_int_equal(strlen(failure.text), sizeof failure.text - 1);
    assert_memory_equal(failure.text, "before: xxx", 11);
}

/* Every place of the cut against characters of two, three and four bytes: none is left in half. */
static void a_cut_keeps_utf8_whole(void **state)
{
    (void)state;
    static const char *const character[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x93\xbc"};
    for (size_t kind = 0; kind < 3; kind++) {
        size_t bytes = strlen(character[kind]);
        for (size_t shift = 0; shift < bytes; shift++) {
            char text[2000] = {0};
            memset(text, 'x', shift);
            for (size_t at = shift; at + bytes < sizeof text; at += bytes)
                memcpy(text + at, character[kind], bytes);
            struct failure failure = {0};
            fail(&failure, ERR_IO, "%s", text);
            size_t length = strlen(failure.text);
            assert_int_equal((length - shift) % bytes, 0);
            assert_in_range(length, sizeof failure.text - bytes, sizeof failure.text - 1);
            fail_context(&failure, ERR_IO, "c");
            length = strlen(failure.text);
            assert_int_equal((length - shift - 3) % bytes, 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_lead_back_to_codes),
        cmocka_unit_test(unknown_codes_and_names),
        cmocka_unit_test(every_errno_becomes_a_failure),
        cmocka_unit_test(fail_keeps_code_and_sentence),
        cmocka_unit_test(fail_errno_adds_the_reason),
        cmocka_unit_test(context_goes_before),
        cmocka_unit_test(context_for_a_failure_without_sentence),
        cmocka_unit_test(a_failure_may_quote_itself),
        cmocka_unit_test(long_sentences_are_cut),
        cmocka_unit_test(a_cut_keeps_utf8_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
