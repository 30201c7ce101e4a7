/*
 * recorder_command.c - the recorder itself and this program: interfaces, apps, shutdown, version, help.
 */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"

/* ---- interfaces ------------------------------------------------------------------------------ */

static void interfaces_print(const json_t *interfaces)
{
    static const char *const heading[] = {"INTERFACE", "STATE", "LINK-TYPE", "MTU", "MBIT/S"};
    struct table table;
    table_open(&table, sizeof heading / sizeof heading[0]);
    for (size_t i = 0; i < sizeof heading / sizeof heading[0]; i++)
        table_text(&table, heading[i]);
    size_t i;
    json_t *interface;
    json_array_foreach(interfaces, i, interface)
    {
        const json_t *type = json_object_get(interface, "link_type");
        table_text(&table, answer_text(interface, "name"));
        table_text(&table, answer_is_true(interface, "up") ? "up" : "down");
        if (json_is_string(type))
            table_text(&table, json_string_value(type));
        else
            table_number(&table, answer_count(interface, "link_type"));
        table_number(&table, answer_count(interface, "mtu"));
        if (answer_count(interface, "speed_mbps") > 0)
            table_number(&table, answer_count(interface, "speed_mbps"));
        else
            table_text(&table, "-");
    }
    table_print(&table, stdout, "");
    table_close(&table);
}

static int entry_remove(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    return remove(path);
}

/*
 * Who has no ring yet wants to know what there is to record. The recorder that answers needs a
 * state directory; so that none is made where none is wanted, it gets one for the moment.
 */
static int interfaces_without_state(const struct invocation *invocation, json_t **result,
                                    struct failure *failure)
{
    const char *parent = getenv("TMPDIR");
    char *directory = NULL;
    if (asprintf(&directory, "%s/tapeloop-XXXXXX", parent && parent[0] ? parent : "/tmp") < 0)
        return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    int code = 0;
    if (!mkdtemp(directory)) {
        code = fail_errno(failure, errno, "%s", directory);
    } else {
        struct invocation elsewhere = *invocation;
        elsewhere.state = directory;
        code = session_ask(&elsewhere, SESSION_START, "interfaces", NULL, result, failure);
        nftw(directory, entry_remove, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    }
    free(directory);
    return code;
}

static int interfaces_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *result = NULL;
    struct stat status;
    int code;
    if (stat(invocation->state, &status) != 0 && errno == ENOENT)
        code = interfaces_without_state(invocation, &result, failure);
    else
        code = session_ask(invocation, SESSION_START, "interfaces", NULL, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else
        interfaces_print(answer_array(result, "interfaces"));
    json_decref(result);
    return EXIT_DONE;
}

const struct command interfaces_command = {
    .name = "interfaces",
    .operands = "",
    .summary = "list the interfaces that can be recorded",
    .examples = "  tapeloop interfaces",
    .run = interfaces_run,
};

/* ---- apps ------------------------------------------------------------------------------------ */

static int apps_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *result = NULL, *app;
    size_t i;
    int code = session_ask(invocation, SESSION_START, "apps", NULL, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else
        json_array_foreach(answer_array(result, "apps"), i, app)
            puts(output_printable(json_is_string(app) ? json_string_value(app) : ""));
    json_decref(result);
    return EXIT_DONE;
}

const struct command apps_command = {
    .name = "apps",
    .operands = "",
    .summary = "list the protocols that layer 7 can tell, for app NAME in rules and filters",
    .details = "A flow that is found to be none of them is called Unknown. What a ring records of its flows,\n"
               "and from when on, is its setting classify.",
    .examples = "  tapeloop apps | grep -i dns",
    .run = apps_run,
};

/* ---- shutdown -------------------------------------------------------------------------------- */

static int shutdown_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *result = NULL;
    int code = session_ask(invocation, 0, "shutdown", NULL, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    json_decref(result);
    return EXIT_DONE;
}

const struct command shutdown_command = {
    .name = "shutdown",
    .operands = "",
    .summary = "end the recorder in good order",
    .details = "Recordings end, and what they hold becomes durable, as on SIGTERM.",
    .examples = "  tapeloop shutdown",
    .run = shutdown_run,
};

/* ---- version --------------------------------------------------------------------------------- */

static int version_run(const struct invocation *invocation, struct failure *failure)
{
    (void)invocation;
    (void)failure;
    if (output_is_json()) {
        json_t *object =
            json_pack("{s:s, s:i}", "tapeloop", TAPELOOP_VERSION, "protocol", CONTROL_VERSION);
        output_json(object);
        json_decref(object);
    } else {
        printf("tapeloop %s\n", TAPELOOP_VERSION);
    }
    return EXIT_DONE;
}

const struct command version_command = {
    .name = "version",
    .operands = "",
    .summary = "the version of this program",
    .examples = "  tapeloop version",
    .run = version_run,
};

/* ---- help ------------------------------------------------------------------------------------ */

static int help_run(const struct invocation *invocation, struct failure *failure)
{
    const struct command_table *table = invocation->table;
    if (invocation->operands == 0) {
        options_help(table);
        return EXIT_DONE;
    }
    char name[64];
    if (invocation->operands == 1)
        snprintf(name, sizeof name, "%s", invocation->operand[0]);
    else
        snprintf(name, sizeof name, "%s %s", invocation->operand[0], invocation->operand[1]);
    const struct command *command = options_find(table, name);
    if (command)
        options_help_command(command);
    else if (!options_help_group(table, name))
        return options_unknown(table, name, failure);
    return EXIT_DONE;
}

const struct command help_command = {
    .name = "help",
    .operands = "[COMMAND]",
    .operands_max = 2,
    .summary = "what there is, or more on one command",
    .examples = "  tapeloop help extract\n  tapeloop help ring create",
    .run = help_run,
};
