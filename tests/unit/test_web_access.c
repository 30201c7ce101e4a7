/*
 * test_web_access.c - passwords, who is kept waiting, which Host is ours, users and tokens on the
 * disk.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unit_test.h"

#include "access.h"
#include "web_store.h"

static char directory[] = "/tmp/tapeloop-web-access-XXXXXX";

static void passwords_are_recognised(void **state)
{
    (void)state;
    char hash[PASSWORD_HASH_SIZE], again[PASSWORD_HASH_SIZE];
    assert_int_equal(password_hash("a good password", hash, NULL), 0);
    assert_int_equal(password_hash("a good password", again, NULL), 0);
    assert_string_not_equal(hash, again); /* salted */
    assert_int_equal(password_verify("a good password", hash, NULL), 0);
    assert_int_equal(password_verify("a good passwore", hash, NULL), ERR_PERMISSION);
    assert_int_equal(password_verify("", hash, NULL), ERR_PERMISSION);
    hash[strlen(hash) - 1] ^= 1;
    assert_int_equal(password_verify("a good password", hash, NULL), ERR_PERMISSION);
}

static void a_hash_is_scrypt_as_rfc_7914_has_it(void **state)
{
    (void)state;
    /* Made by another implementation (Python's hashlib): N = 2^14, r = 8, p = 1, salt of 16 zeros,
     * 32 bytes. */
    static const char known[] = "scrypt:14:8:1:00000000000000000000000000000000:"
                                "99b284e6de83e771345d75d459857c6d357724e0f5e618ee1adf34981cb8a809";
    assert_int_equal(password_verify("pleaseletmein", known, NULL), 0);
    assert_int_equal(password_verify("pleaseletmeout", known, NULL), ERR_PERMISSION);
}

static void hashes_that_make_no_sense_let_nobody_in(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        NULL,
        "",
        "scrypt",
        "scrypt:17:8:1::",
        "scrypt:99:8:1:00000000000000000000000000000000:00",
        "plain:secret",
        "scrypt:63:8:1:00000000000000000000000000000000:"
        "0000000000000000000000000000000000000000000000000000000000000000"};
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_int_equal(password_verify("secret", wrong[i], NULL), ERR_PERMISSION);
}

static void new_passwords_have_a_length(void **state)
{
    (void)state;
    char text[300];
    memset(text, 'x', sizeof text);
    text[257] = '\0';
    assert_int_equal(password_check_new(text, NULL), ERR_INVALID);
    text[256] = '\0';
    assert_int_equal(password_check_new(text, NULL), 0);
    text[10] = '\0';
    assert_int_equal(password_check_new(text, NULL), 0);
    text[9] = '\0';
    assert_int_equal(password_check_new(text, NULL), ERR_INVALID);
}

static void secrets_differ_by_text_and_purpose(void **state)
{
    (void)state;
    char one[SECRET_TEXT_SIZE], other[SECRET_TEXT_SIZE];
    uint8_t a[SECRET_DIGEST_BYTES], b[SECRET_DIGEST_BYTES];
    assert_int_equal(secret_make(one), 0);
    assert_int_equal(secret_make(other), 0);
    assert_int_equal(strlen(one), 64);
    assert_string_not_equal(one, other);
    secret_digest("session", one, a);
    secret_digest("session", one, b);
    assert_memory_equal(a, b, sizeof a);
    secret_digest("csrf", one, b);
    assert_memory_not_equal(a, b, sizeof a);
    secret_digest("session", other, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void wrong_tries_cost_more_and_more(void **state)
{
    (void)state;
    struct login_guard *guard = login_guard_open();
    assert_non_null(guard);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(login_guard_try(guard, "a", 3), 0);
        login_guard_end(guard, "a", GUARD_WRONG);
    }
    for (unsigned i = 0; i < 4; i++) /* as if the waits had been waited for */
        assert_int_equal(login_guard_try(guard, "a", 100), 0);
    assert_in_range(login_guard_try(guard, "a", 3), 10, 16);
    for (unsigned i = 0; i < 90; i++)
        assert_int_equal(login_guard_try(guard, "a", 1000), 0);
    assert_in_range(login_guard_try(guard, "a", 3), 290, 300);
    assert_int_equal(login_guard_try(guard, "b", 3), 0);
    login_guard_end(guard, "a", GUARD_RIGHT);
    assert_int_equal(login_guard_try(guard, "a", 3), 0);
    /* Tries that nobody has looked at do not count; those that are under way do. */
    for (int i = 0; i < 50; i++) {
        assert_int_equal(login_guard_try(guard, "c", 0), 0);
        login_guard_end(guard, "c", GUARD_NONE);
    }
    for (int i = 0; i < 8; i++)
        assert_int_equal(login_guard_try(guard, "c", 100), 0);
    assert_in_range(login_guard_try(guard, "c", 2), 20, 32);
    login_guard_end(guard, "c", GUARD_NONE); /* one that had not been looked at yet */
    assert_in_range(login_guard_try(guard, "c", 2), 6, 16);
    login_guard_end(guard, "nobody", GUARD_NONE);
    login_guard_end(guard, "nobody", GUARD_WRONG);
    assert_int_equal(login_guard_try(guard, "nobody", 0), 0);
    /* However many keys there are, memory stays what it is and the latest are known. */
    char key[32];
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "k%u", i);
        assert_int_equal(login_guard_try(guard, key, 1), 0);
    }
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(login_guard_try(guard, key, 100), 0);
    assert_int_not_equal(login_guard_try(guard, key, 1), 0);
    login_guard_close(&guard);
    assert_null(guard);
}

static void who_has_one_address_of_a_network_has_all(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"192.0.2.7", "192.0.2.7"},
                                           {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
                                           {"2001:db8:1:2::", "2001:db8:1:2::"},
                                           {"::ffff:192.0.2.7", "::ffff:192.0.2.7"},
                                           {"::1", "::"},
                                           {"", ""},
                                           {"somewhere", "somewhere"}};
    char text[GUARD_ADDRESS_SIZE], longest[200];
    for (size_t i = 0; i < COUNT(pairs); i++) {
        login_guard_address(pairs[i][0], text);
        assert_string_equal(text, pairs[i][1]);
    }
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    login_guard_address(longest, text);
    assert_int_equal(strlen(text), GUARD_ADDRESS_SIZE - 1);
}

static void only_our_own_names_are_hosts(void **state)
{
    (void)state;
    static const char *const names[] = {"tapeloop.example"};
    static const char *const ours[] = {"127.0.0.1",        "10.1.2.3:8443",        "[::1]",
                                       "[fe80::1]:8443",   "localhost:1",          "LOCALHOST",
                                       "tapeloop.example", "Tapeloop.Example:8443"};
    static const char *const others[] = {
        "",     ":8443",  "evil.example", "tapeloop.example.evil", "127.0.0.1.evil",
        "[::1", "[::1]x", "[]",           "127.0.0.1@evil"};
    for (size_t i = 0; i < COUNT(ours); i++)
        assert_true(access_host_is_ours(ours[i], names, 1));
    for (size_t i = 0; i < COUNT(others); i++)
        assert_false(access_host_is_ours(others[i], names, 1));
    assert_false(access_host_is_ours(NULL, names, 1));
    assert_false(access_host_is_ours("tapeloop.example", names, 0));
}

static void users_tokens_and_sessions_stay(void **state)
{
    (void)state;
    struct web_store *store;
    struct web_user user = {.name = "ann", .role = ROLE_ADMIN, .created_s = 5, .password = "x"},
                    found;
    struct web_token token = {.user = "ann", .name = "t", .rights = RIGHT_READ, .created_s = 7},
                     other;
    struct web_session session = {.user = "ann", .created_s = 1, .used_s = 2}, seen;
    uint8_t secret[SECRET_DIGEST_BYTES] = {1};
    assert_int_equal(web_store_open(directory, &store, NULL), 0);
    assert_int_equal(web_store_user_count(store), 0);
    assert_int_equal(web_store_add_user(store, &user), 0);
    assert_int_equal(web_store_add_user(store, &user), ERR_EXISTS);
    assert_int_equal(web_store_put_token(store, secret, &token), 0);
    assert_int_equal(web_store_add_session(store, secret, &session), 0);
    web_store_close(&store);
    assert_int_equal(web_store_open(directory, &store, NULL), 0);
    assert_int_equal(web_store_user(store, "ann", &found), 0);
    assert_int_equal(found.role, ROLE_ADMIN);
    assert_int_equal(web_store_token(store, secret, &other), 0);
    assert_string_equal(other.user, "ann");
    assert_int_equal(other.number, token.number);
    assert_int_equal(web_store_session(store, secret, &seen), 0);
    assert_int_equal(seen.used_s, 2);
    /* The last admin stays; with a second one, the first may go, and takes everything along. */
    assert_int_equal(web_store_delete_user(store, "ann"), ERR_BUSY);
    assert_int_equal(web_store_set_role(store, "ann", ROLE_VIEWER), ERR_BUSY);
    assert_int_equal(web_store_set_role(store, "bob", ROLE_VIEWER), ERR_NOT_FOUND);
    assert_int_equal(web_store_delete_user(store, "bob"), ERR_NOT_FOUND);
    snprintf(user.name, sizeof user.name, "bob");
    assert_int_equal(web_store_add_user(store, &user), 0);
    assert_int_equal(web_store_delete_user(store, "ann"), 0);
    assert_int_equal(web_store_session(store, secret, &seen), ERR_NOT_FOUND);
    assert_int_equal(web_store_token(store, secret, &other), ERR_NOT_FOUND);
    assert_int_equal(web_store_set_role(store, "bob", ROLE_VIEWER), ERR_BUSY);
    /* A new password ends sessions; so does time. */
    snprintf(session.user, sizeof session.user, "bob");
    assert_int_equal(web_store_add_session(store, secret, &session), 0);
    assert_int_equal(web_store_set_password(store, "bob", "y", false), 0);
    assert_int_equal(web_store_session(store, secret, &seen), ERR_NOT_FOUND);
    assert_int_equal(web_store_add_session(store, secret, &session), 0);
    assert_int_equal(web_store_trim_sessions(store, 0, 2), 0);
    assert_int_equal(web_store_session(store, secret, &seen), 0);
    assert_int_equal(web_store_trim_sessions(store, 0, 3), 0);
    assert_int_equal(web_store_session(store, secret, &seen), ERR_NOT_FOUND);
    web_store_close(&store);
}

static void a_damaged_file_is_not_replaced(void **state)
{
    (void)state;
    char path[sizeof directory + 16];
    struct web_store *store = NULL;
    snprintf(path, sizeof path, "%s/web.db", directory);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fputs("this is no database", file);
    fclose(file);
    assert_int_not_equal(web_store_open(directory, &store, NULL), 0);
    assert_int_equal(access(path, F_OK), 0);
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passwords_are_recognised),
        cmocka_unit_test(a_hash_is_scrypt_as_rfc_7914_has_it),
        cmocka_unit_test(hashes_that_make_no_sense_let_nobody_in),
        cmocka_unit_test(new_passwords_have_a_length),
        cmocka_unit_test(secrets_differ_by_text_and_purpose),
        cmocka_unit_test(wrong_tries_cost_more_and_more),
        cmocka_unit_test(who_has_one_address_of_a_network_has_all),
        cmocka_unit_test(only_our_own_names_are_hosts),
        cmocka_unit_test(users_tokens_and_sessions_stay),
        cmocka_unit_test(a_damaged_file_is_not_replaced),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
