/*
 * range_params.c - see range_params.h.
 */
#include "range_params.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "answer.h"
#include "clock.h"
#include "output.h"

#define GAPS_SHOWN 20
#define FILTER_BYTES_MAX 32768u

/* ---- asked for ------------------------------------------------------------------------------- */

/* The words of the filter with blanks between them, as tcpdump does. The caller frees. */
static char *filter_make(const struct invocation *invocation, struct failure *failure)
{
    size_t bytes = 1;
    for (uint32_t i = 1; i < invocation->operands; i++)
        bytes += strlen(invocation->operand[i]) + 1;
    if (bytes > FILTER_BYTES_MAX) {
        fail(failure, ERR_INVALID, "a filter of more than %u bytes", FILTER_BYTES_MAX);
        return NULL;
    }
    char *filter = malloc(bytes);
    if (!filter) {
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
        return NULL;
    }
    char *end = filter;
    *end = '\0';
    for (uint32_t i = 1; i < invocation->operands; i++)
        end += sprintf(end, "%s%s", i > 1 ? " " : "", invocation->operand[i]);
    return filter;
}

static int range_parse(const struct invocation *invocation, struct range *range,
                       struct failure *failure)
{
    int64_t now_ns = clock_realtime_ns();
    const char *from = options_text(invocation, "from");
    const char *to = options_text(invocation, "to");
    int code = from ? text_parse_time(from, now_ns, &range->from_ns, failure) : 0;
    if (code != 0)
        return fail_context(failure, code, "--from");
    code = to ? text_parse_time(to, now_ns, &range->to_ns, failure) : 0;
    if (code != 0)
        return fail_context(failure, code, "--to");
    range->bounded_below = from != NULL;
    range->bounded_above = to != NULL;
    if (from && to && range->from_ns >= range->to_ns)
        return fail(failure, ERR_INVALID, "--from %s is not before --to %s", from, to);
    return 0;
}

/* The recorder knows the language itself. */
static int query_check(const char *language, struct failure *failure)
{
    if (!language || strcmp(language, "pcap") == 0 || strcmp(language, "steno") == 0)
        return 0;
    return fail(failure, ERR_INVALID, "--query \"%s\": expected pcap or steno", output_printable(language));
}

static int format_check(const char *format, struct failure *failure)
{
    static const char *const known[] = {"pcapng", "pcap", "pcap-us"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(format, known[i]) == 0)
            return 0;
    return fail(failure, ERR_INVALID, "--format \"%s\": expected pcapng, pcap or pcap-us", format);
}

static json_t *time_or_null(bool given, int64_t time_ns)
{
    return given ? answer_make_time(time_ns) : json_null();
}

json_t *range_params(const struct invocation *invocation, struct range *range,
                     struct failure *failure)
{
    const char *format = options_text(invocation, "format");
    const char *query = options_text(invocation, "query");
    uint64_t packets_max = 0;
    uint64_t bytes_max = 0;
    uint64_t seconds_max = 0;
    if (!format)
        format = "pcapng";
    if (text_check_ring_name(invocation->operand[0], failure) != 0 ||
        range_parse(invocation, range, failure) != 0 || format_check(format, failure) != 0 ||
        query_check(query, failure) != 0 ||
        options_number(invocation, "packets-max", 1, INT64_MAX, &packets_max, failure) != 0 ||
        options_size(invocation, "bytes-max", &bytes_max, failure) != 0 ||
        options_number(invocation, "seconds-max", 1, INT32_MAX / 10, &seconds_max, failure) != 0)
        return NULL;
    char *filter = filter_make(invocation, failure);
    if (!filter)
        return NULL;
    json_t *text = json_string(filter);
    free(filter);
    if (!text) {
        fail(failure, ERR_INVALID, "a filter that is not UTF-8");
        return NULL;
    }
    json_t *params =
        json_pack("{s:s, s:o, s:o, s:o, s:s, s:I, s:I}", "ring", invocation->operand[0], "from_ns",
                  time_or_null(range->bounded_below, range->from_ns), "to_ns",
                  time_or_null(range->bounded_above, range->to_ns), "filter", text, "format", format,
                  "packets_max", (json_int_t)packets_max, "bytes_max", (json_int_t)bytes_max);
    if (!params)
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    if (seconds_max > 0)
        json_object_set_new(params, "seconds_max", json_integer((json_int_t)seconds_max));
    if (query)
        json_object_set_new(params, "query", json_string(query));
    if (options_given(invocation, "headers"))
        json_object_set_new(params, "headers", json_true());
    if (options_given(invocation, "no-index"))
        json_object_set_new(params, "no_index", json_true());
    return params;
}

void range_of_answer(const json_t *result, struct range *range)
{
    if (!json_object_get(result, "from_ns"))
        return; /* a recorder that does not say it */
    range->bounded_below = answer_time(json_object_get(result, "from_ns"), &range->from_ns);
    range->bounded_above = answer_time(json_object_get(result, "to_ns"), &range->to_ns);
}

void range_text(const struct range *range, char from[TEXT_TIME_SIZE], char to[TEXT_TIME_SIZE])
{
    snprintf(from, TEXT_TIME_SIZE, "the oldest");
    snprintf(to, TEXT_TIME_SIZE, "the newest");
    if (range->bounded_below)
        text_time(range->from_ns, from);
    if (range->bounded_above)
        text_time(range->to_ns, to);
}

/* ---- missing --------------------------------------------------------------------------------- */

/* The recorder's word for why, as a sentence; a word that we do not know stays as it is. */
static const char *gap_reason(const char *word)
{
    static const struct {
        const char *word;
        const char *sentence;
    } table[] = {
        {"damaged", "damaged on disk, and no good copy"},
        {"overwritten", "overwritten by the ring while they were read"},
        {"filter", "left out, the filter cannot be used on this link type"},
        {"dropped", "dropped while recording, see tapeloop history"},
        {"lost", "lost at a crash or with a disk"},
        {"no answer", "on a disk that does not answer"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].word, word) == 0)
            return table[i].sentence;
    return word;
}

/* A bound of a gap: the ends of time mean that there is none. */
static void gap_time(const json_t *gap, const char *name, const char *none,
                     char text[TEXT_TIME_SIZE])
{
    int64_t time_ns;
    if (answer_time(json_object_get(gap, name), &time_ns) && time_ns != INT64_MIN &&
        time_ns != INT64_MAX)
        text_time(time_ns, text);
    else
        snprintf(text, TEXT_TIME_SIZE, "%s", none);
}

static void gap_print(const json_t *gap)
{
    char from[TEXT_TIME_SIZE];
    char to[TEXT_TIME_SIZE];
    gap_time(gap, "from_ns", "the beginning", from);
    gap_time(gap, "to_ns", "the end", to);
    uint64_t packets = answer_count(gap, "packets");
    char count[32] = "packets";
    if (packets > 0)
        snprintf(count, sizeof count, "%" PRIu64 " packet%s", packets, packets == 1 ? "" : "s");
    const char *interface = answer_text(gap, "interface");
    const char *reason = answer_text(gap, "reason");
    char type[32] = "";
    if (strcmp(reason, "filter") == 0)
        snprintf(type, sizeof type, " (link type %" PRIu64 ")", answer_count(gap, "link_type"));
    output_note("  gap: %s from %s to %s%s%s: %s%s", count, from, to,
                interface[0] ? ", interface " : "", interface, gap_reason(reason), type);
}

void range_gaps_print(const json_t *result)
{
    const json_t *gaps = answer_array(result, "gaps");
    uint64_t total = answer_count(result, "gaps_total");
    size_t listed = json_array_size(gaps);
    if (total < listed)
        total = listed;
    for (size_t i = 0; i < listed && i < GAPS_SHOWN; i++)
        gap_print(json_array_get(gaps, i));
    size_t shown = listed < GAPS_SHOWN ? listed : GAPS_SHOWN;
    if (total > shown)
        output_note("  and %" PRIu64 " more gaps (--json shows more of them)", total - shown);
    uint64_t undecided = answer_count(result, "undecided");
    if (undecided > 0)
        output_note("  %" PRIu64 " packet%s not decided, and left out: what layer 7 found of %s flows is not recorded (setting classify)", undecided,
                    undecided == 1 ? "" : "s", undecided == 1 ? "its" : "their");
}
