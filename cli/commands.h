/*
 * commands.h - the rows of the command table, one for each command; main.c puts them in order.
 */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "options.h"

extern const struct command ring_create_command;
extern const struct command ring_list_command;
extern const struct command ring_show_command;
extern const struct command ring_set_command;
extern const struct command ring_delete_command;
extern const struct command ring_adopt_command;
extern const struct command disk_list_command;
extern const struct command disk_add_command;
extern const struct command disk_remove_command;
extern const struct command disk_resume_command;
extern const struct command disk_replace_command;
extern const struct command disk_locate_command;
extern const struct command apps_command;
extern const struct command rule_list_command;
extern const struct command rule_add_command;
extern const struct command rule_set_command;
extern const struct command rule_move_command;
extern const struct command rule_delete_command;
extern const struct command rule_replace_command;
extern const struct command rule_test_command;
extern const struct command run_command;
extern const struct command record_command;
extern const struct command import_command;
extern const struct command estimate_command;
extern const struct command extract_command;
extern const struct command keep_command;
extern const struct command job_start_command;
extern const struct command job_list_command;
extern const struct command job_show_command;
extern const struct command job_get_command;
extern const struct command job_cancel_command;
extern const struct command job_delete_command;
extern const struct command purge_command;
extern const struct command verify_command;
extern const struct command rebuild_command;
extern const struct command status_command;
extern const struct command history_command;
extern const struct command events_command;
extern const struct command audit_list_command;
extern const struct command audit_verify_command;
extern const struct command flush_command;
extern const struct command interfaces_command;
extern const struct command shutdown_command;
extern const struct command version_command;
extern const struct command help_command;

#endif
