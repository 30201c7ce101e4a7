/*
 * byte_range.c - see byte_range.h.
 */
#include "byte_range.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

/* Digits, at least one; what is too large stays at the largest. */
static bool take_number(const char **text, uint64_t *number)
{
    const char *at = *text;
    *number = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        *number = *number > (UINT64_MAX - 9) / 10 ? UINT64_MAX : *number * 10 + (uint64_t)(*at - '0');
    bool any = at > *text;
    *text = at;
    return any;
}

enum byte_range byte_range_parse(const char *header, uint64_t bytes, uint64_t *first, uint64_t *last)
{
    static const char unit[] = "bytes=";
    uint64_t from, to;
    *first = 0;
    *last = bytes > 0 ? bytes - 1 : 0;
    if (!header || strncasecmp(header, unit, sizeof unit - 1) != 0)
        return BYTE_RANGE_ALL;
    header += sizeof unit - 1;
    bool has_from = take_number(&header, &from);
    if (*header++ != '-')
        return BYTE_RANGE_ALL;
    bool has_to = take_number(&header, &to);
    if (*header != '\0' || (!has_from && !has_to) || (has_from && has_to && from > to))
        return BYTE_RANGE_ALL;
    if (!has_from) { /* the last `to` bytes */
        if (to == 0 || bytes == 0)
            return BYTE_RANGE_NONE;
        *first = to < bytes ? bytes - to : 0;
        return BYTE_RANGE_PART;
    }
    if (from >= bytes)
        return BYTE_RANGE_NONE;
    *first = from;
    if (has_to && to < bytes)
        *last = to;
    return BYTE_RANGE_PART;
}
