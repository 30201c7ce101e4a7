/*
 * options.h - what can be typed: tables of commands and options, and the parser and the help made
 * from them.
 *
 * A command is a row: its words, options, texts and the function that does it. The tables are the
 * only place where an option is named; parser, help and the suggestions for typing errors read
 * them.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define EXIT_INCOMPLETE 3 /* done, but there were gaps or drops */

struct option_row {
    const char *name;  /* "snapshot-length" for --snapshot-length */
    char letter;       /* 'w' for -w; 0: none */
    bool many;         /* may be given several times */
    const char *value; /* the word for its value in help; null: it takes none */
    const char *help;
};

struct invocation;

struct command {
    const char *name;     /* "ring create" */
    const char *operands; /* "NAME", as shown in help; "" for none */
    uint32_t operands_min;
    uint32_t operands_max;            /* UINT32_MAX: any number */
    const char *summary;              /* one line, no full stop */
    const char *details;              /* paragraphs below the usage, may be null */
    const char *examples;             /* one a line */
    void (*help)(void);               /* prints more, below the details; may be null */
    const struct option_row *options; /* ended by a row without name; may be null */
    /* Returns an EXIT_ value, or a negative error code with the sentence in `failure`. */
    int (*run)(const struct invocation *invocation, struct failure *failure);
};

/* What design has room for and this version does not have: named, so that nobody thinks of a typing
 * error. */
struct later_row {
    const char *name;     /* a command ("rule"), or an option of one ("--explain") */
    const char *command;  /* of an option: the command that it belongs to; null: of all */
    const char *sentence; /* what to tell the user */
};

struct command_table {
    const struct command *const *commands; /* ended by null, in the order of help */
    const struct later_row *later;         /* ended by a row without name */
};

struct option_value {
    const struct option_row *row;
    const char *text; /* null for an option without a value */
};

/* One command line, parsed. Texts point into argv. */
struct invocation {
    const struct command_table *table;
    const struct command *command; /* null: only --help or --version was asked for */
    const char *group;             /* "ring" of `tapeloop ring --help` */
    const char **operand;
    uint32_t operands;
    struct option_value *value;
    uint32_t values;
    bool help;
    bool version;
    bool json;
    bool quiet;
    bool verbose;
    const char *state; /* state directory, never null */
};

/*
 * Parses argv. Global options may stand anywhere before "--"; so may a command's, after its name.
 * ERR_INVALID with a sentence that names the nearest known word where there is one. The invocation
 * must be freed by options_free() in every case.
 */
int options_parse(const struct command_table *table, int argc, char **argv,
                  struct invocation *invocation, struct failure *failure);
void options_free(struct invocation *invocation);

/* The state directory where none is named: $TAPELOOP_STATE, or the system's. */
const char *options_state_default(void);

/* Was it given? */
bool options_given(const struct invocation *invocation, const char *name);

/* The value of an option, or null; of an option that may be given several times, the first. */
const char *options_text(const struct invocation *invocation, const char *name);

/* How often it was given, and the i-th value. */
uint32_t options_count(const struct invocation *invocation, const char *name);
const char *options_nth(const struct invocation *invocation, const char *name, uint32_t i);

/* The value as number or size where the option was given; else `*number` stays. ERR_INVALID names
 * the option. */
int options_number(const struct invocation *invocation, const char *name, uint64_t min,
                   uint64_t max, uint64_t *number, struct failure *failure);
int options_size(const struct invocation *invocation, const char *name, uint64_t *bytes,
                 struct failure *failure);

/* The command called `name` ("ring create"), or null. */
const struct command *options_find(const struct command_table *table, const char *name);

/* Help on standard output: of all commands, of those of a group ("ring"; false: no such group), of
 * one. */
void options_help(const struct command_table *table);
bool options_help_group(const struct command_table *table, const char *group);
void options_help_command(const struct command *command);

/* Says that there is no such command, and which one may have been meant. Returns ERR_INVALID. */
int options_unknown(const struct command_table *table, const char *name, struct failure *failure);

#endif
