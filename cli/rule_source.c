#include "rule_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "rule_text.h"

#define BYTES_MAX (900u << 10) /* what fits a request */

static char *read_all(FILE *file, const char *name, struct failure *failure)
{
    char *text = malloc(BYTES_MAX + 2);
    if (!text) {
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
        return NULL;
    }
    size_t got = fread(text, 1, BYTES_MAX + 1, file);
    text[got] = '\0';
    if (ferror(file))
        fail_errno(failure, errno, "%s", name);
    else if (got > BYTES_MAX)
        fail(failure, ERR_TOO_LARGE, "%s: more than %u KiB of rules", name, BYTES_MAX >> 10);
    else if (strlen(text) != got)
        fail(failure, ERR_INVALID, "%s: not a text of rules, it has a zero byte", name);
    else
        return text;
    free(text);
    return NULL;
}

char *rule_source_file(const char *path, struct failure *failure)
{
    bool input = strcmp(path, "-") == 0;
    const char *name = input ? "standard input" : output_printable(path);
    FILE *file = input ? stdin : fopen(path, "re");
    if (!file) {
        fail_errno(failure, errno, "%s", name);
        return NULL;
    }
    char *text = read_all(file, name, failure);
    if (!input)
        fclose(file);
    struct rule_list list;
    if (text && rule_list_parse(text, &list, NULL, failure) != 0) {
        fail_context(failure, ERR_INVALID, "%s", name);
        free(text);
        return NULL;
    }
    if (text)
        rule_list_clear(&list);
    return text;
}
