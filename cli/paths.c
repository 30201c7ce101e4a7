#include "paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

char *paths_absolute(const char *path, struct failure *failure)
{
    char *absolute = NULL;
    if (path[0] == '/') {
        absolute = strdup(path);
    } else {
        char directory[PATH_MAX];
        if (!getcwd(directory, sizeof directory)) {
            fail_errno(failure, errno, "the current directory");
            return NULL;
        }
        const char *slash = strcmp(directory, "/") == 0 ? "" : "/";
        if (asprintf(&absolute, "%s%s%s", directory, slash, path) < 0)
            absolute = NULL;
    }
    if (!absolute)
        fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    return absolute;
}

int paths_parse_disk(const char *text, char **path, uint64_t *bytes, struct failure *failure)
{
    *bytes = 0;
    size_t length = strlen(text);
    const char *colon = strrchr(text, ':');
    if (colon) {
        struct stat status;
        struct failure reason = {0};
        int code = text_parse_size(colon + 1, bytes, &reason);
        if (code == 0)
            length = (size_t)(colon - text);
        else if ((colon[1] == '\0' || (colon[1] >= '0' && colon[1] <= '9')) &&
                 stat(text, &status) != 0)
            return fail(failure, ERR_INVALID, "disk %s: %s", text, reason.text);
        else
            *bytes = 0;
    }
    if (length == 0)
        return fail(failure, ERR_INVALID, "disk \"%s\": expected PATH or PATH:SIZE", text);
    char *typed = strndup(text, length);
    if (!typed)
        return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    *path = paths_absolute(typed, failure);
    free(typed);
    return *path ? 0 : failure->code;
}

json_t *paths_json(const char *path, struct failure *failure)
{
    json_t *text = json_string(path);
    if (!text)
        fail(failure, ERR_INVALID, "%s: a path that is not UTF-8", path);
    return text;
}

int paths_disk_json(const char *text, json_t **disk, struct failure *failure)
{
    char *path;
    uint64_t bytes;
    int code = paths_parse_disk(text, &path, &bytes, failure);
    if (code != 0)
        return code;
    json_t *name = paths_json(path, failure);
    free(path);
    if (!name)
        return failure->code;
    *disk = json_pack("{s:o, s:I}", "path", name, "bytes", (json_int_t)bytes);
    return *disk ? 0 : fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
}
