#include "rule_view.h"

#include <inttypes.h>
#include <stdio.h>

#include "answer.h"
#include "output.h"

static void view_row(struct table *table, const char *number, const json_t *counters,
                     const char *text)
{
    table_text(table, number);
    table_number(table, answer_count(counters, "packets"));
    table_size(table, answer_count(counters, "bytes"));
    table_size(table, answer_count(counters, "stored_bytes"));
    table_size(table, answer_count(counters, "cut_bytes"));
    table_size(table, answer_count(counters, "discarded_bytes"));
    table_text(table, text);
}

void rule_view(const json_t *rules, const json_t *unmatched, const json_t *all)
{
    static const char *const heading[] = {"RULE", "PACKETS",   "BYTES", "STORED",
                                          "CUT",  "DISCARDED", ""};
    struct table table;
    table_open(&table, sizeof heading / sizeof heading[0]);
    for (size_t i = 0; i < sizeof heading / sizeof heading[0]; i++)
        table_text(&table, heading[i]);
    size_t i;
    json_t *rule;
    json_array_foreach(rules, i, rule)
    {
        char number[24];
        snprintf(number, sizeof number, "%" PRIu64, answer_count(rule, "number"));
        view_row(&table, number, answer_object(rule, "counters"), answer_text(rule, "text"));
    }
    view_row(&table, "-", unmatched, "(no rule matched: kept whole)");
    if (all)
        view_row(&table, "all", all, "");
    table_print(&table, stdout, "");
    table_close(&table);
}
