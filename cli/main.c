/*
 * main.c - the tapeloop command: which commands there are, and from a command line to an exit
 * status.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "interrupt.h"
#include "output.h"

static const struct command *const commands[] = {
    &ring_create_command, &ring_list_command,   &ring_show_command,
    &ring_set_command,    &ring_delete_command, &ring_adopt_command,
    &disk_list_command,   &disk_add_command,    &disk_remove_command,
    &disk_resume_command, &disk_replace_command, &disk_locate_command,
    &rule_list_command,   &rule_add_command,
    &rule_set_command,    &rule_move_command,   &rule_delete_command,
    &rule_replace_command, &rule_test_command,  &run_command,         &record_command,      &import_command,
    &estimate_command,    &extract_command,     &keep_command,        &job_start_command,
    &job_list_command,    &job_show_command,    &job_get_command,
    &job_cancel_command,  &job_delete_command,  &purge_command,       &verify_command,      &rebuild_command,
    &status_command,      &history_command,     &events_command,
    &audit_list_command,  &audit_verify_command,
    &flush_command,       &interfaces_command,  &apps_command,        &shutdown_command,
    &version_command,     &help_command,        NULL,
};

static const struct later_row later[] = {
    {"analyze", NULL,
     "this version does not analyze: tapeloop extract hands the packets to a tool that does"},
    {"--encrypt", "ring create", "this version does not encrypt: --encrypt is not there yet"},
    {"--key-file", "ring create", "this version does not encrypt: --key-file is not there yet"},
    {"--server", NULL,
     "this version does not reach other machines: run tapeloop there, through ssh"},
    {0},
};

static const struct command_table table = {.commands = commands, .later = later};

/* Descriptors 0 to 2 exist: what is opened later must not become one of them. */
static void standard_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

static int exit_status(int code)
{
    if (code >= 0)
        return code;
    return code == ERR_INVALID ? EXIT_USAGE : EXIT_FAILED;
}

static int show_help(const struct invocation *invocation)
{
    if (invocation->command)
        options_help_command(invocation->command);
    else if (!invocation->group || !options_help_group(&table, invocation->group))
        options_help(&table);
    return EXIT_DONE;
}

/* With a usage error before --json was read: did the user ask for it at all? */
static bool json_wanted(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    standard_descriptors();
    interrupt_open();

    struct invocation invocation;
    struct failure failure = {0};
    int code = options_parse(&table, argc, argv, &invocation, &failure);
    output_setup(code == 0 ? invocation.json : json_wanted(argc, argv), invocation.quiet,
                 invocation.verbose);
    if (code == 0) {
        if (invocation.help)
            code = show_help(&invocation);
        else if (invocation.version)
            code = version_command.run(&invocation, &failure);
        else
            code = invocation.command->run(&invocation, &failure);
    }
    options_free(&invocation);

    struct failure write_failure = {0};
    int written = output_flush(&write_failure);
    if (code < 0) {
        failure.code = code;
        output_failure(&failure);
    } else if (written != 0 && written != ERR_CLOSED) { /* a reader that has seen enough is fine */
        output_failure(&write_failure);
        code = EXIT_FAILED;
    }
    return exit_status(code);
}
