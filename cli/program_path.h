/*
 * program_path.h - where the other programs of this installation are.
 */
#ifndef CLI_PROGRAM_PATH_H
#define CLI_PROGRAM_PATH_H

#include <limits.h>

/* Beside this program, or where a distribution puts it; *path is empty where it is neither, and may
 * be somewhere in PATH. */
void program_path(const char *name, char path[PATH_MAX]);

#endif
