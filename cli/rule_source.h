/*
 * rule_source.h - lists of rules from files.
 */
#ifndef CLI_RULE_SOURCE_H
#define CLI_RULE_SOURCE_H

#include "errors.h"

/* What a file of rules holds ("-": standard input), found to be a list of rules; the caller frees.
 * Null with a sentence that names the file, and line and column of an error. */
char *rule_source_file(const char *path, struct failure *failure);

#endif
