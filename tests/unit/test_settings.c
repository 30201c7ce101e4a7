/*
 * The settings table: every default is in range, what is printed parses back, nonsense is refused.
 */
#include "unit_test.h"

#include <string.h>

#include "settings.h"

static void defaults_are_in_range(void **state)
{
    (void)state;
    struct settings settings;
    settings_default(&settings);
    for (int i = 0; i < SETTINGS; i++) {
        assert_true(settings.value[i] >= setting_min(i) && settings.value[i] <= setting_max(i));
        assert_false(settings.set[i]);
        assert_int_equal(setting_find(setting_name(i), NULL), i);
        assert_true(strlen(setting_help(i)) > 10);
    }
}

static void printed_values_parse_back(void **state)
{
    (void)state;
    for (int i = 0; i < SETTINGS; i++) {
        const uint64_t values[] = {setting_default(i), setting_min(i), setting_max(i),
                                   setting_max(i) - setting_max(i) / 3};
        for (size_t v = 0; v < COUNT(values); v++) {
            struct settings settings;
            struct failure failure = {0};
            char text[SETTING_TEXT_SIZE];
            settings_default(&settings);
            if (setting_parse(&settings, i, setting_text(i, values[v], text), &failure) != 0)
                fail_msg("%s=%s: %s", setting_name(i), text, failure.text);
            assert_true(settings.value[i] == values[v]);
            assert_true(settings.set[i]);
        }
    }
}

/* 30 days were 2592000s. */
static void values_are_shown_as_people_say_them(void **state)
{
    (void)state;
    static const struct {
        enum setting setting;
        uint64_t value;
        const char *text;
    } table[] = {
        {SETTING_scrub_interval, UINT64_C(2592000000000000), "30d"}, {SETTING_heal_delay, 120000000000, "2m"},
        {SETTING_disk_wait, 3600000000000, "1h"},                    {SETTING_disk_wait, 90000000000, "90s"},
        {SETTING_heal_delay, 0, "0ms"},                              {SETTING_duplicate_window, 10000, "0.01ms"},
        {SETTING_job_bytes, UINT64_C(1) << 40, "1T"},                {SETTING_job_bytes, (UINT64_C(1) << 40) + (1 << 30), "1025G"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        char text[SETTING_TEXT_SIZE];
        assert_string_equal(setting_text(table[i].setting, table[i].value, text), table[i].text);
    }
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum setting setting;
        const char *text;
    } table[] = {
        {SETTING_buffer_bytes, ""},   {SETTING_buffer_bytes, "lots"}, {SETTING_buffer_bytes, "1K"},
        {SETTING_buffer_bytes, "1P"}, {SETTING_buffer_bytes, "-8M"},  {SETTING_flush_window, "1"},
        {SETTING_flush_window, "1h"}, {SETTING_flush_window, "1ms"},  {SETTING_flush_window, "-1s"},
        {SETTING_duplicates, ""},     {SETTING_duplicates, "1"},      {SETTING_duplicates, "On"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        struct settings settings;
        struct failure failure = {0};
        settings_default(&settings);
        assert_int_equal(setting_parse(&settings, table[i].setting, table[i].text, &failure),
                         ERR_INVALID);
        assert_non_null(strstr(failure.text, setting_name(table[i].setting)));
        assert_true(settings.value[table[i].setting] == setting_default(table[i].setting));
        assert_false(settings.set[table[i].setting]);
    }
}

static void unknown_names_are_told_the_known_ones(void **state)
{
    (void)state;
    struct failure failure = {0};
    assert_int_equal(setting_find("bufer_bytes\n", &failure), ERR_NOT_FOUND);
    assert_non_null(strstr(failure.text, "buffer_bytes"));
    assert_null(strchr(failure.text, '\n'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_in_range),
        cmocka_unit_test(printed_values_parse_back),
        cmocka_unit_test(values_are_shown_as_people_say_them),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(unknown_names_are_told_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
