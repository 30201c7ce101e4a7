/*
 * options.c - the parser of command lines, and help.
 */
#include "options.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

#define STATE_DEFAULT "/var/lib/tapeloop"
#define WORD_MAX 32u   /* longer words are not compared: nobody mistypes by so much */
#define QUOTED_SIZE 80 /* of what was typed, in a message */

static const struct option_row global_options[] = {
    {"state", 0, false, "DIR", "state directory (default " STATE_DEFAULT ", or $TAPELOOP_STATE)"},
    {"json", 0, false, NULL, "the answer as one JSON object; errors too"},
    {"quiet", 'q', false, NULL, "no progress, summaries and hints; errors only"},
    {"verbose", 0, false, NULL, "progress lines also where standard error is no terminal"},
    {"help", 'h', false, NULL, "help, also behind a command"},
    {"version", 'V', false, NULL, "the version"},
    {0},
};

/* ---- nearest words ---------------------------------------------------------------------------
 */

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Letters to add, drop, replace or swap until `a` is `b` (optimal string alignment). */
static unsigned word_distance(const char *a, const char *b)
{
    size_t la = strlen(a);
    size_t lb = strlen(b);
    if (la > WORD_MAX || lb > WORD_MAX)
        return UINT32_MAX;
    unsigned cost[WORD_MAX + 1][WORD_MAX + 1] = {{0}};
    for (size_t i = 0; i <= la; i++)
        cost[i][0] = (unsigned)i;
    for (size_t j = 0; j <= lb; j++)
        cost[0][j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        for (size_t j = 1; j <= lb; j++) {
            unsigned other = a[i - 1] != b[j - 1];
            cost[i][j] =
                least(least(cost[i - 1][j], cost[i][j - 1]) + 1, cost[i - 1][j - 1] + other);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                cost[i][j] = least(cost[i][j], cost[i - 2][j - 2] + 1);
        }
    }
    return cost[la][lb];
}

/* Keeps in *best the candidate that is nearest to `word`, if it is near at all. */
static void word_nearer(const char *word, const char *candidate, const char **best,
                        unsigned *distance)
{
    unsigned found = word_distance(word, candidate);
    if (found < *distance && found <= 1 + strlen(word) / 4) {
        *best = candidate;
        *distance = found;
    }
}

/* ---- the tables ------------------------------------------------------------------------------
 */

/* Is `name` ("ring create") in the group `group` ("ring")? */
static bool in_group(const char *name, const char *group)
{
    size_t length = strlen(group);
    return strncmp(name, group, length) == 0 && name[length] == ' ';
}

static bool is_group(const struct command_table *table, const char *word)
{
    for (size_t i = 0; table->commands[i]; i++)
        if (in_group(table->commands[i]->name, word))
            return true;
    return false;
}

const struct command *options_find(const struct command_table *table, const char *name)
{
    for (size_t i = 0; table->commands[i]; i++)
        if (strcmp(table->commands[i]->name, name) == 0)
            return table->commands[i];
    return NULL;
}

static const struct later_row *later_find(const struct command_table *table, const char *name,
                                          const char *command)
{
    for (const struct later_row *row = table->later; row->name; row++)
        if (strcmp(row->name, name) == 0 &&
            (!row->command || (command && strcmp(row->command, command) == 0)))
            return row;
    return NULL;
}

int options_unknown(const struct command_table *table, const char *name, struct failure *failure)
{
    const struct later_row *later = later_find(table, name, NULL);
    if (later)
        return fail(failure, ERR_INVALID, "%s", later->sentence);
    char quoted[QUOTED_SIZE];
    text_printable(name, quoted, sizeof quoted);
    if (is_group(table, name))
        return fail(failure, ERR_INVALID, "\"%s\" wants a second word: see tapeloop %s --help",
                    quoted, quoted);
    const char *best = NULL;
    unsigned distance = UINT32_MAX;
    for (size_t i = 0; table->commands[i]; i++)
        word_nearer(name, table->commands[i]->name, &best, &distance);
    /* "rings list", "lsit": a group or a member of one, mistyped, or a member without its group. */
    char group[WORD_MAX + 1];
    char nearest_group[WORD_MAX + 1];
    for (size_t i = 0; table->commands[i]; i++) {
        const char *whole = table->commands[i]->name;
        const char *blank = strchr(whole, ' ');
        if (!blank)
            continue;
        snprintf(group, sizeof group, "%.*s", (int)(blank - whole), whole);
        unsigned before = distance;
        const char *kept = best;
        word_nearer(name, group, &best, &distance);
        if (distance < before) {
            snprintf(nearest_group, sizeof nearest_group, "%s", group);
            best = nearest_group;
        } else {
            best = kept;
        }
        if (distance > 0 && strcmp(name, blank + 1) == 0) {
            best = whole;
            distance = 0;
        }
    }
    if (best)
        return fail(failure, ERR_INVALID, "there is no command \"%s\": did you mean \"%s\"?",
                    quoted, best);
    return fail(failure, ERR_INVALID, "there is no command \"%s\": see tapeloop help", quoted);
}

static const struct option_row *row_by_name(const struct option_row *rows, const char *name,
                                            size_t length)
{
    for (; rows && rows->name; rows++)
        if (strlen(rows->name) == length && strncmp(rows->name, name, length) == 0)
            return rows;
    return NULL;
}

static const struct option_row *row_by_letter(const struct option_row *rows, char letter)
{
    for (; rows && rows->name; rows++)
        if (rows->letter != 0 && rows->letter == letter)
            return rows;
    return NULL;
}

/* `name` as typed ("--form", "-x"); `word` without its dashes, null for a single letter. */
static int unknown_option(const struct invocation *invocation, const char *name, const char *word,
                          struct failure *failure)
{
    const struct command *command = invocation->command;
    const struct later_row *later =
        later_find(invocation->table, name, command ? command->name : NULL);
    if (later)
        return fail(failure, ERR_INVALID, "%s", later->sentence);
    char quoted[QUOTED_SIZE];
    text_printable(name, quoted, sizeof quoted);
    const char *best = NULL;
    unsigned distance = UINT32_MAX;
    const struct option_row *tables[] = {command ? command->options : NULL, global_options};
    if (word)
        for (size_t t = 0; t < 2; t++)
            for (const struct option_row *row = tables[t]; row && row->name; row++)
                word_nearer(word, row->name, &best, &distance);
    const char *blank = command ? " " : "";
    const char *which = command ? command->name : "";
    if (best)
        return fail(failure, ERR_INVALID, "there is no option %s: did you mean --%s?", quoted,
                    best);
    return fail(failure, ERR_INVALID, "there is no option %s: see tapeloop%s%s --help", quoted,
                blank, which);
}

/* ---- parsing ---------------------------------------------------------------------------------
 */

/* Where the parser is in argv. */
struct position {
    char **argv;
    int argc;
    int next;
};

static void global_take(struct invocation *invocation, const struct option_row *row,
                        const char *text)
{
    if (strcmp(row->name, "state") == 0)
        invocation->state = text;
    else if (strcmp(row->name, "json") == 0)
        invocation->json = true;
    else if (strcmp(row->name, "quiet") == 0)
        invocation->quiet = true;
    else if (strcmp(row->name, "verbose") == 0)
        invocation->verbose = true;
    else if (strcmp(row->name, "help") == 0)
        invocation->help = true;
    else if (strcmp(row->name, "version") == 0)
        invocation->version = true;
}

/* An option was recognised; `attached` is the value written with it ("--from=-1h", "-w-"), or null.
 */
static int option_take(struct invocation *invocation, const struct option_row *row, bool global,
                       const char *attached, struct position *at, struct failure *failure)
{
    const char *text = NULL;
    if (row->value) {
        text = attached;
        if (!text) {
            if (at->next >= at->argc)
                return fail(failure, ERR_INVALID, "--%s wants a value: --%s %s", row->name,
                            row->name, row->value);
            text = at->argv[at->next++];
        }
    } else if (attached) {
        return fail(failure, ERR_INVALID, "--%s takes no value", row->name);
    }
    if (global) {
        global_take(invocation, row, text);
        return 0;
    }
    if (!row->many && options_given(invocation, row->name))
        return fail(failure, ERR_INVALID, "--%s is given twice", row->name);
    invocation->value[invocation->values++] = (struct option_value){.row = row, .text = text};
    return 0;
}

static int long_option(struct invocation *invocation, const char *word, struct position *at,
                       struct failure *failure)
{
    const char *name = word + 2;
    size_t length = strcspn(name, "=");
    const char *attached = name[length] == '=' ? name + length + 1 : NULL;
    const struct option_row *own = invocation->command ? invocation->command->options : NULL;
    const struct option_row *row = row_by_name(own, name, length);
    if (row)
        return option_take(invocation, row, false, attached, at, failure);
    row = row_by_name(global_options, name, length);
    if (row)
        return option_take(invocation, row, true, attached, at, failure);
    char bare[QUOTED_SIZE];
    snprintf(bare, sizeof bare, "%.*s", (int)least((unsigned)length + 2, sizeof bare - 1), word);
    return unknown_option(invocation, bare, bare + 2, failure);
}

/* "-q", "-w FILE", "-wFILE", "-qw FILE" */
static int short_options(struct invocation *invocation, const char *word, struct position *at,
                         struct failure *failure)
{
    const struct option_row *own = invocation->command ? invocation->command->options : NULL;
    for (const char *c = word + 1; *c; c++) {
        const struct option_row *row = row_by_letter(own, *c);
        bool global = !row;
        if (!row)
            row = row_by_letter(global_options, *c);
        if (!row) {
            char bare[3] = {'-', *c, '\0'};
            return unknown_option(invocation, bare, NULL, failure);
        }
        const char *attached = row->value && c[1] != '\0' ? c + 1 : NULL;
        int code = option_take(invocation, row, global, attached, at, failure);
        if (code != 0 || row->value)
            return code;
    }
    return 0;
}

/* A word before the command is known: a command, a group, or the second word behind one. */
static int command_word(struct invocation *invocation, const char *word, struct failure *failure)
{
    const struct command_table *table = invocation->table;
    if (!invocation->group) {
        invocation->command = options_find(table, word);
        if (invocation->command)
            return 0;
        if (!is_group(table, word))
            return options_unknown(table, word, failure);
        invocation->group = word;
        return 0;
    }
    char name[2 * WORD_MAX];
    snprintf(name, sizeof name, "%s %s", invocation->group, word);
    invocation->command = options_find(table, name);
    return invocation->command ? 0 : options_unknown(table, name, failure);
}

static int check_operands(const struct invocation *invocation, struct failure *failure)
{
    const struct command *command = invocation->command;
    if (invocation->operands < command->operands_min)
        return fail(failure, ERR_INVALID, "something is missing: tapeloop %s %s", command->name,
                    command->operands);
    if (invocation->operands > command->operands_max) {
        char quoted[QUOTED_SIZE];
        text_printable(invocation->operand[command->operands_max], quoted, sizeof quoted);
        return fail(failure, ERR_INVALID, "\"%s\" is one word too many: tapeloop %s%s%s", quoted,
                    command->name, command->operands[0] ? " " : "", command->operands);
    }
    return 0;
}

const char *options_state_default(void)
{
    const char *state = getenv("TAPELOOP_STATE");
    return state && state[0] ? state : STATE_DEFAULT;
}

int options_parse(const struct command_table *table, int argc, char **argv,
                  struct invocation *invocation, struct failure *failure)
{
    *invocation = (struct invocation){.table = table, .state = options_state_default()};
    size_t words = argc > 0 ? (size_t)argc : 1;
    /* "-qqq" is three options in one word, but none of those that are kept can be written so twice.
     */
    size_t letters = 0;
    for (int i = 1; i < argc; i++)
        letters += strlen(argv[i]);
    invocation->operand = calloc(words, sizeof *invocation->operand);
    invocation->value = calloc(letters + 1, sizeof *invocation->value);
    if (!invocation->operand || !invocation->value)
        return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));

    struct position at = {.argv = argv, .argc = argc, .next = 1};
    bool options_end = false;
    while (at.next < argc) {
        const char *word = argv[at.next++];
        int code = 0;
        if (!options_end && strcmp(word, "--") == 0)
            options_end = true;
        else if (!options_end && strncmp(word, "--", 2) == 0)
            code = long_option(invocation, word, &at, failure);
        else if (!options_end && word[0] == '-' && word[1] != '\0')
            code = short_options(invocation, word, &at, failure);
        else if (!invocation->command)
            code = command_word(invocation, word, failure);
        else
            invocation->operand[invocation->operands++] = word;
        if (code != 0)
            return code;
    }
    if (invocation->help || invocation->version)
        return 0;
    if (!invocation->command && invocation->group)
        return options_unknown(table, invocation->group, failure);
    if (!invocation->command)
        return fail(failure, ERR_INVALID, "no command: see tapeloop help");
    if (!invocation->state || invocation->state[0] == '\0')
        return fail(failure, ERR_INVALID, "--state wants the name of a directory");
    return check_operands(invocation, failure);
}

void options_free(struct invocation *invocation)
{
    free(invocation->operand);
    free(invocation->value);
    *invocation = (struct invocation){0};
}

/* ---- values ----------------------------------------------------------------------------------
 */

static bool is_value_of(const struct option_value *value, const char *name)
{
    return value->row && strcmp(value->row->name, name) == 0;
}

uint32_t options_count(const struct invocation *invocation, const char *name)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < invocation->values; i++)
        count += is_value_of(&invocation->value[i], name);
    return count;
}

const char *options_nth(const struct invocation *invocation, const char *name, uint32_t i)
{
    for (uint32_t k = 0; k < invocation->values; k++)
        if (is_value_of(&invocation->value[k], name) && i-- == 0)
            return invocation->value[k].text;
    return NULL;
}

const char *options_text(const struct invocation *invocation, const char *name)
{
    return options_nth(invocation, name, 0);
}

bool options_given(const struct invocation *invocation, const char *name)
{
    return options_count(invocation, name) > 0;
}

int options_number(const struct invocation *invocation, const char *name, uint64_t min,
                   uint64_t max, uint64_t *number, struct failure *failure)
{
    const char *text = options_text(invocation, name);
    if (!text)
        return 0;
    uint64_t value = 0;
    bool good = text[0] != '\0';
    for (const char *c = text; *c && good; c++)
        good = *c >= '0' && *c <= '9' && !__builtin_mul_overflow(value, 10, &value) &&
               !__builtin_add_overflow(value, (uint64_t)(*c - '0'), &value);
    if (!good || value < min || value > max) {
        char quoted[QUOTED_SIZE];
        text_printable(text, quoted, sizeof quoted);
        if (max >= INT64_MAX)
            return fail(failure, ERR_INVALID, "--%s \"%s\": expected a number from %llu", name,
                        quoted, (unsigned long long)min);
        return fail(failure, ERR_INVALID, "--%s \"%s\": expected a number from %llu to %llu", name,
                    quoted, (unsigned long long)min, (unsigned long long)max);
    }
    *number = value;
    return 0;
}

int options_size(const struct invocation *invocation, const char *name, uint64_t *bytes,
                 struct failure *failure)
{
    const char *text = options_text(invocation, name);
    if (!text)
        return 0;
    struct failure reason = {0};
    if (text_parse_size(text, bytes, &reason) == 0)
        return 0;
    return fail(failure, ERR_INVALID, "--%s: %s", name, reason.text);
}

/* ---- help ------------------------------------------------------------------------------------
 */

static void help_options(const struct option_row *rows)
{
    for (const struct option_row *row = rows; row->name; row++) {
        char left[64];
        char letter[8] = "    ";
        if (row->letter)
            snprintf(letter, sizeof letter, "-%c, ", row->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, row->name, row->value ? " " : "",
                 row->value ? row->value : "");
        /* Lines of a longer text stand below one another. */
        const char *text = row->help;
        while (text) {
            int length = (int)strcspn(text, "\n");
            printf("  %-30s %.*s\n", left, length, text);
            left[0] = '\0';
            text = text[length] ? text + length + 1 : NULL;
        }
    }
}

static void help_row(const struct command *command)
{
    printf("  %-14s %s\n", command->name, command->summary);
}

void options_help(const struct command_table *table)
{
    printf("usage: tapeloop [OPTION...] COMMAND [OPERAND...]\n\n"
           "A packet recorder with a memory: records into a ring of fixed size, hands any part of "
           "the\n"
           "past back as a capture file.\n\ncommands:\n");
    for (size_t i = 0; table->commands[i]; i++)
        help_row(table->commands[i]);
    printf("\noptions of every command:\n");
    help_options(global_options);
    printf("\nexamples:\n"
           "  tapeloop ring create dmz --disk /data/dmz.disk:100G\n"
           "  tapeloop record dmz -i eth0\n"
           "  tapeloop extract dmz --from -20m --to -15m -w incident.pcapng host 192.0.2.7\n"
           "\nexit status: 0 done, 1 failed, 2 wrong usage, 3 done, but there were gaps or drops\n"
           "More on one command: tapeloop help COMMAND\n");
}

bool options_help_group(const struct command_table *table, const char *group)
{
    if (!is_group(table, group))
        return false;
    printf("usage: tapeloop %s COMMAND [OPERAND...]\n\ncommands:\n", group);
    for (size_t i = 0; table->commands[i]; i++)
        if (in_group(table->commands[i]->name, group))
            help_row(table->commands[i]);
    printf("\nMore on one command: tapeloop %s COMMAND --help\n", group);
    return true;
}

void options_help_command(const struct command *command)
{
    bool has_options = command->options && command->options->name;
    char first = command->summary[0]; /* a sentence begins with a capital letter */
    if (first >= 'a' && first <= 'z')
        first = (char)(first - 'a' + 'A');
    printf("usage: tapeloop %s%s%s%s\n\n%c%s.\n", command->name, has_options ? " [OPTION...]" : "",
           command->operands[0] ? " " : "", command->operands, first, command->summary + 1);
    if (command->details)
        printf("\n%s\n", command->details);
    if (command->help)
        command->help();
    if (has_options) {
        printf("\noptions:\n");
        help_options(command->options);
    }
    printf("\noptions of every command:\n");
    help_options(global_options);
    printf("\nexamples:\n%s\n", command->examples);
}
