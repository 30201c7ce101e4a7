/*
 * job_row.c - see job_row.h.
 */
#include "job_row.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer_json.h"
#include "text.h"

static const char *const state_word[JOB_STATES] = {"waiting", "running", "done", "failed", "cancelled"};
static const char *const format_word[] = {
    [WORKER_PCAPNG] = "pcapng", [WORKER_PCAP_NS] = "pcap", [WORKER_PCAP_US] = "pcap-us"};

#define FILE_PREFIX "job-"

const char *job_state_word(enum job_state state)
{
    return state_word[state];
}

/* ---- made ----------------------------------------------------------------------------------- */

json_t *job_row_make(uint64_t number, const struct job_wish *wish)
{
    const struct reading_options *options = wish->options;
    struct identity tag;
    char ring_id[IDENTITY_TEXT_SIZE], tag_text[IDENTITY_TEXT_SIZE];
    identity_make(&tag);
    json_t *row = json_pack(
        "{s:I, s:s?, s:s, s:n, s:s, s:s, s:o, s:o, s:o, s:s, s:b, s:I, s:I, s:I, s:s}", "number",
        (json_int_t)number, "name", wish->name, "state", state_word[JOB_WAITING], "error", "ring",
        wish->ring, "ring_id", identity_text(&wish->ring_id, ring_id), "user",
        json_text(wish->user), "actor", json_text(wish->actor), "filter",
        json_text(options->filter), "format", format_word[options->format], "headers",
        (int)options->headers_only, "packets_max", (json_int_t)options->packets_max, "bytes_max",
        (json_int_t)options->bytes_max, "seconds_max", (json_int_t)options->seconds_max, "tag",
        identity_text(&tag, tag_text));
    json_t *how = json_pack("{s:s, s:o?, s:b, s:n}", "query", options->query, "asked",
                            options->asked ? json_text(options->asked) : NULL, "no_index",
                            (int)options->no_index, "plan");
    json_t *begun = json_pack("{s:I, s:I, s:I, s:I, s:f, s:n, s:I, s:I, s:[], s:n}", "packets", (json_int_t)0,
                              "output_bytes", (json_int_t)0, "segments_done", (json_int_t)0,
                              "segments_total", (json_int_t)0, "share", 0.0, "limit", "gaps_total",
                              (json_int_t)0, "undecided", (json_int_t)0, "gaps", "complete");
    bool good = row && how && begun && json_object_update(row, how) == 0 && json_object_update(row, begun) == 0;
    json_decref(how);
    json_decref(begun);
    if (!good) {
        json_decref(row);
        return NULL;
    }
    json_set_time(row, "from", options->from_ns, options->from_ns != INT64_MIN);
    json_set_time(row, "to", options->to_ns, options->to_ns != INT64_MAX);
    json_set_time(row, "created", wish->created_ns, true);
    json_set_time(row, "started", 0, false);
    json_set_time(row, "ended", 0, false);
    json_set_time(row, "expires", wish->expires_ns, wish->expires);
    json_set_time(row, "oldest", 0, false);
    return row;
}

/* ---- read back ------------------------------------------------------------------------------- */

bool job_row_complete(json_t *row)
{
    json_t *later = json_pack("{s:s, s:n, s:b, s:n, s:I}", "query", "pcap", "asked", "no_index", 0, "plan",
                              "undecided", (json_int_t)0);
    bool good = later && json_object_update_missing(row, later) == 0;
    json_decref(later);
    return good;
}

static bool read_count(const json_t *row, const char *name, uint64_t *number)
{
    const json_t *value = json_object_get(row, name);
    *number = (uint64_t)json_integer_value(value);
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

/* A null time is `none`. */
static bool read_time(const json_t *row, const char *name, int64_t none, int64_t *time_ns)
{
    const json_t *value = json_object_get(row, name);
    const char *text = json_string_value(value);
    char *end;
    *time_ns = none;
    if (json_is_null(value))
        return true;
    if (!text || !text[0])
        return false;
    *time_ns = strtoll(text, &end, 10);
    return *end == '\0';
}

static bool read_word(const json_t *row, const char *name, const char *const *words, int count, int *found)
{
    const char *text = json_string_value(json_object_get(row, name));
    for (*found = 0; *found < count; ++*found)
        if (text && words[*found] && strcmp(text, words[*found]) == 0)
            return true;
    return false;
}

bool job_row_read(const json_t *row, struct job_facts *facts)
{
    const json_t *name = json_object_get(row, "name");
    const char *ring = json_string_value(json_object_get(row, "ring_id"));
    struct reading_options options;
    int state;
    *facts = (struct job_facts){0};
    if (!read_count(row, "number", &facts->number) || facts->number == 0 ||
        !read_word(row, "state", state_word, JOB_STATES, &state) || !ring ||
        identity_parse(ring, &facts->ring) != 0 ||
        !(json_is_null(name) ||
          (json_is_string(name) && job_name_check(json_string_value(name), NULL) == 0)) ||
        !read_time(row, "expires_ns", INT64_MAX, &facts->expires_ns) ||
        !read_count(row, "output_bytes", &facts->file_bytes) || !job_row_options(row, &options) ||
        !json_is_string(json_object_get(row, "ring")) || !json_is_string(json_object_get(row, "tag")))
        return false;
    facts->state = (enum job_state)state;
    facts->kept = json_is_string(name);
    return true;
}

bool job_row_options(const json_t *row, struct reading_options *options)
{
    int format;
    *options = (struct reading_options){.kind = WORKER_EXTRACT, .output = -1};
    options->filter = json_string_value(json_object_get(row, "filter"));
    options->query = json_string_value(json_object_get(row, "query"));
    options->asked = json_string_value(json_object_get(row, "asked"));
    options->headers_only = json_is_true(json_object_get(row, "headers"));
    options->no_index = json_is_true(json_object_get(row, "no_index"));
    if (!options->filter || !options->query || !read_time(row, "from_ns", INT64_MIN, &options->from_ns) ||
        !read_time(row, "to_ns", INT64_MAX, &options->to_ns) ||
        !read_count(row, "packets_max", &options->packets_max) ||
        !read_count(row, "bytes_max", &options->bytes_max) ||
        !read_count(row, "seconds_max", &options->seconds_max) ||
        !read_word(row, "format", format_word, WORKER_PCAP_US + 1, &format))
        return false;
    options->format = (enum worker_format)format;
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

int job_name_check(const char *name, struct failure *failure)
{
    char shown[80];
    if (text_check_ring_name(name, NULL) == 0 && name[strspn(name, "0123456789")] != '\0')
        return 0;
    text_printable(name, shown, sizeof shown);
    return fail(failure, ERR_INVALID,
                "name \"%s\": expected 1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', not beginning "
                "with '-' or '.', and not a number",
                shown);
}

void job_file_name(const json_t *row, char text[JOB_FILE_NAME_SIZE])
{
    const char *format = json_string_value(json_object_get(row, "format"));
    snprintf(text, JOB_FILE_NAME_SIZE, FILE_PREFIX "%" PRIu64 ".%s",
             (uint64_t)json_integer_value(json_object_get(row, "number")),
             format && strcmp(format, "pcapng") == 0 ? "pcapng" : "pcap");
}

bool job_file_number(const char *name, uint64_t *number)
{
    char *end;
    if (strncmp(name, FILE_PREFIX, sizeof FILE_PREFIX - 1) != 0)
        return false;
    name += sizeof FILE_PREFIX - 1;
    if (!isdigit((unsigned char)name[0]) || name[0] == '0' || strspn(name, "0123456789") > 18)
        return false;
    *number = strtoull(name, &end, 10);
    return strcmp(end, ".pcapng") == 0 || strcmp(end, ".pcap") == 0;
}

/* ---- decided --------------------------------------------------------------------------------- */

double job_share(int64_t lo_ns, int64_t hi_ns, int64_t at_ns)
{
    if (at_ns <= lo_ns || lo_ns >= hi_ns)
        return 0;
    double share = ((double)at_ns - (double)lo_ns) / ((double)hi_ns - (double)lo_ns);
    return share < 1 ? share : 1;
}

bool job_has_setting(const char *name)
{
    int setting = setting_find(name, NULL);
    return setting == SETTING_job_bytes || setting == SETTING_job_keep || setting == SETTING_keep_bytes;
}

uint64_t job_allowance(const struct job_room *room, uint64_t need_bytes, const char **limit)
{
    uint64_t left =
        room->quota_bytes > room->taken_bytes ? room->quota_bytes - room->taken_bytes : 0;
    uint64_t allowed = need_bytes;
    *limit = NULL;
    if (left < allowed) {
        allowed = left;
        *limit = "quota";
    }
    if (room->disk_bytes < allowed) {
        allowed = room->disk_bytes;
        *limit = "disk";
    }
    return allowed;
}
