/*
 * test_web_metrics.c - figures for monitoring: that their units are what they are called. Elsewhere
 * a loss gauge was wrong by a factor of 1000, and nobody saw it.
 */
#include "unit_test.h"

#include <stdlib.h>
#include <string.h>

#include "metrics.h"

static const char status_text[] =
    "{\"rings\": [{\"ring\": {\"name\": \"r\", \"state\": \"idle\"},"
    "  \"account\": {\"seen\": 1000, \"stored\": 500, \"in_flight\": 20, \"discarded\": 150, "
    "\"duplicates\": 60, \"sampled_out\": 20, \"dropped_queue\": 100, \"dropped_kernel\": 80, "
    "\"lost_disk\": 40, \"refused\": 30},"
    "  \"account_bytes\": {\"stored\": 5000, \"discarded\": 1500, \"dropped_queue\": 7},"
    "  \"buffers\": {\"total\": 200, \"free\": 150}, \"bytes_per_s\": 1000000,"
    "  \"yielding\": {\"level_permille\": 1062, \"readers\": 3, \"readers_held_back_ms\": 61007, \"mending_held_back_ms\": 20},"
    "  \"cut_packets\": 9,"
    "  \"interfaces\": [{\"name\": \"a\\\"b\\\\\\n\", \"stream\": 3, \"account\": {\"stored\": "
    "5}}],"
    "  \"recordings\": [{\"batches\": {\"count\": 4, \"ns\": 100, \"ns_max\": 70, \"ns_min\": 5}},"
    "   {\"batches\": {\"count\": 1, \"ns\": 9, \"ns_max\": 9, \"ns_min\": 9}}, {}]}]}";

static void test_percentages_are_of_what_was_seen(void **unused)
{
    json_t *status = json_loads(status_text, 0, NULL);
    struct capture_figures figures = {0};
    (void)unused;
    assert_non_null(status);
    assert_true(capture_drop_percent(&figures) == 0 && capture_buffer_percent(&figures) == 0);
    capture_figures_add(&figures, json_array_get(json_object_get(status, "rings"), 0));
    assert_int_equal(figures.captured, 500 + 20 + 150 + 60 + 20);
    assert_int_equal(figures.dropped, 100 + 80 + 40 + 30);
    assert_int_equal(figures.captured + figures.dropped, figures.seen);
    assert_true(capture_drop_percent(&figures) == 25);
    assert_true(capture_buffer_percent(&figures) == 25);
    assert_int_equal(figures.captured_bytes, 6500);
    assert_int_equal(figures.recordings, 3);
    assert_true(figures.batches == 5 && figures.batch_ns == 109);
    assert_true(figures.batch_ns_max == 70 && figures.batch_ns_min == 5);
    /* A second ring is added, not put in its place. */
    capture_figures_add(&figures, json_array_get(json_object_get(status, "rings"), 0));
    assert_true(figures.seen == 2000 && capture_drop_percent(&figures) == 25);
    json_decref(status);
}

static void test_names_are_escaped(void **unused)
{
    json_t *status = json_loads(status_text, 0, NULL);
    (void)unused;
    char *text = metrics_text(status, NULL);
    assert_non_null(text);
    assert_non_null(strstr(text, "tapeloop_packets_total{ring=\"r\",interface=\"a\\\"b\\\\\\n\","
                                 "stream=\"3\",outcome=\"stored\"} 5\n"));
    assert_non_null(strstr(text, "tapeloop_cut_packets_total{ring=\"r\"} 9\n"));
    assert_non_null(strstr(text, "tapeloop_held_back_seconds_total{ring=\"r\",who=\"readers\"} 61.007\n"));
    assert_non_null(strstr(text, "tapeloop_held_back_seconds_total{ring=\"r\",who=\"mender\"} 0.020\n"));
    assert_non_null(strstr(text, "tapeloop_pressure_ratio{ring=\"r\"} 1.062\n"));
    assert_non_null(strstr(text, "tapeloop_reading_processes{ring=\"r\"} 3\n"));
    assert_string_equal(text + strlen(text) - 6, "# EOF\n");
    free(text);
    json_decref(status);
    /* Whatever the recorder says, or leaves out, it is a text. */
    static const char *const odd[] = {"{}", "[]", "{\"rings\": 7}",
                                      "{\"rings\": [null, 1, {\"interfaces\": [1]}]}"};
    for (size_t i = 0; i < COUNT(odd); i++) {
        json_t *value = json_loads(odd[i], 0, NULL);
        assert_non_null(text = metrics_text(value, value));
        free(text);
        json_decref(value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentages_are_of_what_was_seen),
        cmocka_unit_test(test_names_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
