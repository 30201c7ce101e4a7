/*
 * Rows of jobs: what is made is read back, what others may have written is refused, names lead
 * nowhere, and room is counted right.
 */
#include "unit_test.h"

#include <stdio.h>
#include <string.h>

#include "job_row.h"

static json_t *make_row(const char *name)
{
    static const struct reading_options options = {.kind = WORKER_EXTRACT,
                                                   .format = WORKER_PCAP_NS,
                                                   .from_ns = 5,
                                                   .to_ns = INT64_MAX,
                                                   .filter = "udp port 53",
                                                   .query = "pcap",
                                                   .headers_only = true,
                                                   .packets_max = 7,
                                                   .bytes_max = 8,
                                                   .seconds_max = 9};
    struct job_wish wish = {.options = &options, .ring = "dmz", .name = name, .user = "alice",
                            .actor = "alice from here", .created_ns = 10, .expires_ns = 99,
                            .expires = name != NULL};
    wish.ring_id.byte[3] = 0x42;
    return job_row_make(17, &wish);
}

static void what_is_made_is_read_back(void **state)
{
    (void)state;
    struct job_facts facts;
    struct reading_options options;
    char file[JOB_FILE_NAME_SIZE];
    json_t *row = make_row("incident-7");
    char *text = json_dumps(row, 0);
    json_t *again = json_loads(text, 0, NULL);
    assert_true(job_row_read(again, &facts));
    assert_int_equal(facts.number, 17);
    assert_int_equal(facts.state, JOB_WAITING);
    assert_int_equal(facts.ring.byte[3], 0x42);
    assert_true(facts.kept);
    assert_int_equal(facts.expires_ns, 99);
    assert_true(job_row_options(again, &options));
    assert_int_equal(options.format, WORKER_PCAP_NS);
    assert_int_equal(options.from_ns, 5);
    assert_true(options.to_ns == INT64_MAX && options.headers_only);
    assert_string_equal(options.filter, "udp port 53");
    assert_int_equal(options.packets_max * 100 + options.bytes_max * 10 + options.seconds_max, 789);
    job_file_name(again, file);
    assert_string_equal(file, "job-17.pcap");
    json_decref(row);
    row = make_row(NULL);
    assert_true(job_row_read(row, &facts));
    assert_false(facts.kept);
    assert_true(facts.expires_ns == INT64_MAX);
    json_decref(row);
    json_decref(again);
    free(text);
}

/* What was asked for in another language, and how it is to be read, stays with the row. */
static void a_query_is_kept_beside_its_filter(void **state)
{
    (void)state;
    const struct reading_options asked = {.filter = "outer (port 53)", .query = "steno", .asked = "port 53", .no_index = true,
                                          .format = WORKER_PCAPNG, .from_ns = INT64_MIN, .to_ns = 7};
    const struct job_wish wish = {.options = &asked, .ring = "dmz", .user = "", .actor = ""};
    struct reading_options options;
    json_t *row = job_row_make(1, &wish);
    assert_true(job_row_options(row, &options));
    assert_string_equal(options.filter, "outer (port 53)");
    assert_string_equal(options.query, "steno");
    assert_string_equal(options.asked, "port 53");
    assert_true(options.no_index && !options.translated);
    json_decref(row);
}

/* Rows of the versions that had no other language, no no_index and no plan. */
static void an_earlier_row_is_completed(void **state)
{
    (void)state;
    static const char *const later[] = {"query", "asked", "no_index", "plan"};
    struct job_facts facts;
    struct reading_options options;
    json_t *row = make_row("x"), *whole = json_deep_copy(row);
    for (size_t i = 0; i < COUNT(later); i++)
        assert_int_equal(json_object_del(row, later[i]), 0);
    assert_false(job_row_read(row, &facts));
    assert_true(job_row_complete(row));
    assert_true(job_row_read(row, &facts) && job_row_options(row, &options));
    assert_true(json_equal(row, whole));
    json_object_set_new(row, "no_index", json_true()); /* what is there stays */
    assert_true(job_row_complete(row) && job_row_options(row, &options) && options.no_index);
    json_decref(row);
    json_decref(whole);
}

/* Each member that the recorder relies on, missing or of another kind. */
static void other_rows_are_refused(void **state)
{
    (void)state;
    static const char *const members[] = {"number",  "state",   "ring_id",     "name",      "expires_ns",
                                          "filter",  "from_ns", "to_ns",       "format",    "packets_max",
                                          "ring",    "tag",     "output_bytes", "bytes_max", "seconds_max"};
    static const char *const values[] = {"[1]", "{}", "true", "-1", "\"..\"", "1.5"};
    struct job_facts facts;
    for (size_t i = 0; i < COUNT(members); i++) {
        json_t *row = make_row("x");
        json_object_del(row, members[i]);
        if (job_row_read(row, &facts))
            fail_msg("without %s", members[i]);
        json_decref(row);
        for (size_t v = 0; v < COUNT(values); v++) {
            json_t *changed = make_row("x");
            json_object_set_new(changed, members[i], json_loads(values[v], JSON_DECODE_ANY, NULL));
            bool text = strcmp(values[v], "\"..\"") == 0;
            bool any_text = strcmp(members[i], "filter") == 0 || strcmp(members[i], "ring") == 0 ||
                            strcmp(members[i], "tag") == 0;
            if (job_row_read(changed, &facts) != (text && any_text))
                fail_msg("%s is %s", members[i], values[v]);
            json_decref(changed);
        }
    }
    json_t *nothing = json_array();
    assert_false(job_row_read(nothing, &facts));
    assert_false(job_row_read(NULL, &facts));
    json_decref(nothing);
}

static void names_lead_nowhere(void **state)
{
    (void)state;
    static const char *const good[] = {"incident-7", "7up", "a", "_.-", "A.b_c"};
    static const char *const bad[] = {"", ".", "..", "../x", "a/b", "-x", "17", "0", "a b", "a\n", "\xc3\xa4",
                                      "1234567890123456789012345678901234567890123456789012345678901234"};
    static const char *const ours[] = {"job-1.pcap", "job-18446.pcapng"};
    static const char *const others[] = {"job-.pcap", "job-0.pcap", "job-01.pcap", "job-1", "job-1.pcapx", "job-x.pcap",
                                         "job-1.pcap/x", "xjob-1.pcap", "job--1.pcap", "job-1 .pcap",
                                         "job-9999999999999999999.pcap", ""};
    uint64_t number;
    for (size_t i = 0; i < COUNT(good); i++)
        assert_int_equal(job_name_check(good[i], NULL), 0);
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(job_name_check(bad[i], NULL), ERR_INVALID);
    for (size_t i = 0; i < COUNT(ours); i++)
        assert_true(job_file_number(ours[i], &number));
    assert_int_equal(number, 18446);
    for (size_t i = 0; i < COUNT(others); i++)
        if (job_file_number(others[i], &number))
            fail_msg("%s", others[i]);
}

static void shares_are_between_0_and_1(void **state)
{
    (void)state;
    assert_true(job_share(10, 20, 15) == 0.5);
    assert_true(job_share(10, 20, 5) == 0 && job_share(10, 20, 10) == 0);
    assert_true(job_share(10, 20, 20) == 1 && job_share(10, 20, 25) == 1);
    assert_true(job_share(20, 10, 15) == 0 && job_share(10, 10, 10) == 0 && job_share(10, 10, 11) == 0);
    assert_true(job_share(INT64_MAX, INT64_MIN, 0) == 0);
    assert_true(job_share(INT64_MIN, INT64_MAX, 0) == 0.5);
}

static void room_is_what_is_left(void **state)
{
    (void)state;
    static const struct {
        struct job_room room;
        uint64_t need, allowed;
        const char *limit;
    } table[] = {
        {{100, 0, 1000}, 50, 50, NULL},    {{100, 50, 1000}, 50, 50, NULL},
        {{100, 51, 1000}, 50, 49, "quota"}, {{100, 200, 1000}, 50, 0, "quota"},
        {{100, 0, 49}, 50, 49, "disk"},    {{100, 60, 30}, 50, 30, "disk"},
        {{100, 90, 30}, 50, 10, "quota"},  {{100, 0, UINT64_MAX}, UINT64_MAX, 100, "quota"},
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        const char *limit;
        uint64_t allowed = job_allowance(&table[i].room, table[i].need, &limit);
        if (allowed != table[i].allowed || !limit != !table[i].limit ||
            (limit && strcmp(limit, table[i].limit) != 0))
            fail_msg("row %zu: %llu, %s", i, (unsigned long long)allowed, limit ? limit : "-");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_made_is_read_back), cmocka_unit_test(other_rows_are_refused),
        cmocka_unit_test(a_query_is_kept_beside_its_filter), cmocka_unit_test(an_earlier_row_is_completed),
        cmocka_unit_test(names_lead_nowhere),        cmocka_unit_test(shares_are_between_0_and_1),
        cmocka_unit_test(room_is_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
