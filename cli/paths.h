/*
 * paths.h - paths as they are typed, for a recorder that runs in another directory.
 */
#ifndef CLI_PATHS_H
#define CLI_PATHS_H

#include <jansson.h>
#include <stdint.h>

#include "errors.h"

/* `path` from the root on, in memory that the caller frees; null with the reason in `failure`.
 * Nothing of it needs to exist. */
char *paths_absolute(const char *path, struct failure *failure);

/*
 * "PATH[:SIZE]": what is behind the last colon is a size if it reads as one; *bytes is 0 without.
 * PATH:0 names a path that ends like a size. What begins with a digit there and is no size is
 * refused, unless a file of the whole name exists. On success *path (absolute) is the caller's to
 * free.
 */
int paths_parse_disk(const char *text, char **path, uint64_t *bytes, struct failure *failure);

/* The same as a control request has it: {"path", "bytes"}. The caller's. */
int paths_disk_json(const char *text, json_t **disk, struct failure *failure);

/* A path as JSON text. Null where it is not UTF-8, which JSON and so the recorder cannot take; the
 * failure says so. */
json_t *paths_json(const char *path, struct failure *failure);

#endif
