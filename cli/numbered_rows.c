/*
 * numbered_rows.c - see numbered_rows.h.
 */
#include "numbered_rows.h"

#include "answer.h"
#include "output.h"
#include "recorder_session.h"

#define ROWS_MAX 10000 /* the recorder's own limit */

const struct option_row numbered_rows_options[] = {
    {"after", 0, false, "N", "those with a greater number than N (default 0)"},
    {"limit", 0, false, "N", "at most N of them (default 100)"},
    {0},
};

int numbered_rows_run(const struct invocation *invocation, const char *method, const char *member,
                      const char *none, void (*print)(const json_t *row), struct failure *failure)
{
    uint64_t after = 0, limit = 100;
    json_t *result = NULL;
    int code = options_number(invocation, "after", 0, INT64_MAX, &after, failure);
    if (code == 0)
        code = options_number(invocation, "limit", 1, ROWS_MAX, &limit, failure);
    if (code == 0)
        code = session_ask(
            invocation, SESSION_START, method,
            json_pack("{s:I, s:I}", "after", (json_int_t)after, "limit", (json_int_t)limit),
            &result, failure);
    if (code != 0)
        return code;
    const json_t *rows = answer_array(result, member);
    if (output_is_json())
        output_json(result);
    else if (json_array_size(rows) == 0)
        output_note("%s", none);
    for (size_t i = 0; !output_is_json() && i < json_array_size(rows); i++)
        print(json_array_get(rows, i));
    json_decref(result);
    return EXIT_DONE;
}
