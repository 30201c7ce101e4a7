/*
 * unit_test.h - cmocka, what it needs before it, and its macro fail() out of the way of ours
 * (errors.h).
 */
#ifndef TESTS_UNIT_TEST_H
#define TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#undef fail
#undef fail_msg /* it calls fail() */
#define fail_msg(...)              \
    do {                           \
        print_error(__VA_ARGS__);  \
        print_error("\n");         \
        _fail(__FILE__, __LINE__); \
    } while (0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
