/*
 * settings.h - the settings of a ring, by name: one table, settings.def, makes parser, printer and
 * help.
 */
#ifndef SCHEMA_SETTINGS_H
#define SCHEMA_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

enum setting {
#define SETTING(name, unit, preset, min, max, sentence) SETTING_##name,
#include "settings.def"
#undef SETTING
    SETTINGS
};

struct settings {
    uint64_t value[SETTINGS]; /* bytes, nanoseconds, or 1 for on */
    bool set[SETTINGS];       /* by a person; else it is the default */
};

/* All defaults. */
void settings_default(struct settings *settings);

/* The setting of that name, or ERR_NOT_FOUND with a sentence that lists the names. */
int setting_find(const char *name, struct failure *failure);

/* Sets one setting from text ("64M", "250ms"). ERR_INVALID with a sentence: no such value, or out
 * of range. */
int setting_parse(struct settings *settings, enum setting setting, const char *text,
                  struct failure *failure);

/* The value as people write it, exactly: setting_parse() reads it back. Returns `text`. */
#define SETTING_TEXT_SIZE 32
const char *setting_text(enum setting setting, uint64_t value, char text[SETTING_TEXT_SIZE]);

/* Static memory. */
const char *setting_name(enum setting setting);
const char *setting_kind(enum setting setting); /* "bytes", "ns" or "switch" */
const char *setting_help(enum setting setting);
uint64_t setting_default(enum setting setting);
uint64_t setting_min(enum setting setting);
uint64_t setting_max(enum setting setting);

#endif
