/*
 * test_civetweb.c - the CivetWeb that is linked is the one that web/ counts on: its version, and
 * what it was built with and without.
 */
#include <stdio.h>

#include "unit_test.h"

#include <civetweb.h>

static void the_version_is_one_whose_https_works(void **state)
{
    (void)state;
    int major = 0, minor = 0;
    assert_int_equal(sscanf(mg_version(), "%d.%d", &major, &minor), 2);
    assert_true(major > 1 || (major == 1 && minor >= 16)); /* 1.15 on OpenSSL 3 crashed */
}

static void what_the_server_needs_is_in(void **state)
{
    (void)state;
    assert_true(mg_check_feature(MG_FEATURES_TLS));
    assert_true(mg_check_feature(MG_FEATURES_IPV6));
    assert_true(mg_check_feature(MG_FEATURES_X_DOMAIN_SOCKET));
    assert_true(mg_check_feature(MG_FEATURES_STATS));
}

static void what_it_must_not_do_is_out(void **state)
{
    (void)state;
    assert_false(mg_check_feature(MG_FEATURES_FILES));
    assert_false(mg_check_feature(MG_FEATURES_CGI));
    assert_false(mg_check_feature(MG_FEATURES_LUA));
    assert_false(mg_check_feature(MG_FEATURES_CACHE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_version_is_one_whose_https_works),
        cmocka_unit_test(what_the_server_needs_is_in),
        cmocka_unit_test(what_it_must_not_do_is_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
