#include "answer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t answer_count(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (json_is_real(value)) {
        double real = json_real_value(value);
        return real >= 0 && real < 1.8e19 ? (uint64_t)real : 0;
    }
    json_int_t count = json_integer_value(value);
    return count > 0 ? (uint64_t)count : 0;
}

double answer_number(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

const char *answer_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

bool answer_is_true(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

const json_t *answer_array(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_array(value) ? value : NULL;
}

const json_t *answer_object(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_object(value) ? value : NULL;
}

bool answer_time(const json_t *value, int64_t *time_ns)
{
    if (json_is_integer(value)) {
        *time_ns = json_integer_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    if (!text || (*text != '-' && (*text < '0' || *text > '9')))
        return false;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text)
        return false;
    *time_ns = number;
    return true;
}

void answer_account(const json_t *object, struct account *account)
{
    *account = (struct account){0};
    for (int line = 0; line < ACCOUNT_LINES; line++)
        account->packets[line] = answer_count(object, account_name((enum account_line)line));
    account->stored_bytes = answer_count(object, "stored_bytes");
    account->cut_packets = answer_count(object, "cut_packets");
}

json_t *answer_make_time(int64_t time_ns)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, time_ns);
    return json_string(text);
}
