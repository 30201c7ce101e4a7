/*
 * disk_command.c - the disks of the rings: listed, added, removed, resumed, replaced, shown.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "paths.h"
#include "recorder_session.h"
#include "text.h"
#include "views.h"

static int list_run(const struct invocation *invocation, struct failure *failure)
{
    const char *ring = invocation->operands > 0 ? invocation->operand[0] : NULL;
    int code = ring ? text_check_ring_name(ring, failure) : 0;
    if (code != 0)
        return code;
    json_t *result = NULL;
    json_t *params = json_pack("{s:s?, s:b}", "ring", ring, "oldest", 1);
    code = session_ask(invocation, SESSION_START | SESSION_RINGS, "disk.list", params, &result,
                       failure);
    if (code != 0)
        return code;
    const json_t *disks = answer_array(result, "disks");
    if (output_is_json())
        output_json(result);
    else if (json_array_size(disks) == 0)
        output_note("There is no disk.");
    else
        view_disks(disks, NULL, "");
    json_decref(result);
    return EXIT_DONE;
}

const struct command disk_list_command = {
    .name = "disk list",
    .operands = "[RING]",
    .operands_max = 1,
    .summary = "list the disks of a ring, or of all",
    .details =
        "Disks that the ring has not (missing, foreign, removed) are listed apart, with what is known "
        "of\nthem. With --json there is more of each, what its maker called it for one.",
    .examples = "  tapeloop disk list\n  tapeloop disk list dmz",
    .run = list_run,
};

/* ---- changing them --------------------------------------------------------------------------- */

/* DISK: a number or the digits of an identity as they are, a path from the root on. */
static json_t *disk_word(const char *word, struct failure *failure)
{
    bool digits = word[strspn(word, "0123456789abcdefABCDEF")] == '\0';
    if (!strchr(word, '/') && (digits || access(word, F_OK) != 0))
        return paths_json(word, failure);
    char *path = paths_absolute(word, failure);
    json_t *text = path ? paths_json(path, failure) : NULL;
    free(path);
    return text;
}

/* Asks, and says on success what was done to which disk. `params` is consumed. */
static int disk_ask(const struct invocation *invocation, const char *method, json_t *params,
                    const char *done, struct failure *failure)
{
    json_t *result = NULL;
    int code = params ? session_ask(invocation, SESSION_START | SESSION_RINGS, method, params,
                                    &result, failure)
                      : fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    if (code != 0)
        return code;
    const json_t *disk = answer_object(result, "disk");
    if (output_is_json())
        output_json(result);
    else if (disk)
        output_note("Disk %u of ring %s (%s) %s.", (unsigned)answer_count(disk, "number"),
                    output_printable(answer_text(disk, "ring")),
                    output_printable(answer_text(disk, "path")), done);
    json_decref(result);
    return EXIT_DONE;
}

static int add_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *disk;
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code == 0)
        code = paths_disk_json(invocation->operand[1], &disk, failure);
    if (code != 0)
        return code;
    return disk_ask(invocation, "disk.add",
                    json_pack("{s:s, s:o, s:b}", "ring", invocation->operand[0], "disk", disk,
                              "force", options_given(invocation, "force")),
                    "is added", failure);
}

static const struct option_row add_options[] = {
    {"force", 0, false, NULL, "overwrite what is on the disk, whoever it belongs to"},
    {0},
};

const struct command disk_add_command = {
    .name = "disk add",
    .operands = "RING PATH[:SIZE]",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "give a ring one more disk, also while it records",
    .details =
        "A file of SIZE, made and preallocated, or a whole block device. A disk that holds anything "
        "is\nrefused without --force. The first disk makes an empty ring live.",
    .examples = "  tapeloop disk add dmz /data/second.disk:100G\n"
                "  tapeloop disk add dmz /dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
    .options = add_options,
    .run = add_run,
};

/* {"ring", "disk"} of the two operands; null with the reason. */
static json_t *named(const struct invocation *invocation, struct failure *failure)
{
    if (text_check_ring_name(invocation->operand[0], failure) != 0)
        return NULL;
    json_t *word = disk_word(invocation->operand[1], failure);
    return word ? json_pack("{s:s, s:o}", "ring", invocation->operand[0], "disk", word) : NULL;
}

static int remove_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = named(invocation, failure);
    if (!params)
        return failure->code;
    bool forget = options_given(invocation, "forget");
    json_object_set_new(params, "forget", json_boolean(forget));
    return disk_ask(invocation, "disk.remove", params,
                    forget ? "is removed and forgotten; its packets stay on it"
                           : "is removed; its packets stay on it",
                    failure);
}

static const struct option_row remove_options[] = {
    {"forget", 0, false, NULL, "and take it off the list of disks"},
    {0},
};

const struct command disk_remove_command = {
    .name = "disk remove",
    .operands = "RING DISK",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "take a disk out of a ring, also while it records",
    .details =
        "Its packets leave the ring but stay on the disk: tapeloop disk resume brings them back. What "
        "had\nno other copy cannot be found meanwhile. DISK is its number, its path, or the first "
        "digits of its\nidentity.",
    .examples = "  tapeloop disk remove dmz 2\n  tapeloop disk remove dmz /dev/sdc",
    .options = remove_options,
    .run = remove_run,
};

static int resume_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = named(invocation, failure);
    if (!params)
        return failure->code;
    json_object_set_new(params, "force", json_boolean(options_given(invocation, "force")));
    return disk_ask(invocation, "disk.resume", params, "is part of the ring again", failure);
}

static const struct option_row resume_options[] = {
    {"force", 0, false, NULL, "also if another recorder has written to it since"},
    {0},
};

const struct command disk_resume_command = {
    .name = "disk resume",
    .operands = "RING DISK",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "take a disk up again that was removed, missing or failed",
    .details =
        "Its packets are found again. DISK is its number, the first digits of its identity, or a "
        "path,\nwhich may be another than it had. Missing disks are looked for by themselves, too "
        "(disk_retry).",
    .examples = "  tapeloop disk resume dmz 2\n  tapeloop disk resume dmz /mnt/usb/dmz.disk",
    .options = resume_options,
    .run = resume_run,
};

static int replace_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *with;
    json_t *params = named(invocation, failure);
    if (!params)
        return failure->code;
    int code = paths_disk_json(invocation->operand[2], &with, failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    json_object_set_new(params, "with", with);
    json_object_set_new(params, "force", json_boolean(options_given(invocation, "force")));
    return disk_ask(invocation, "disk.replace", params, "takes the place of the old one", failure);
}

const struct command disk_replace_command = {
    .name = "disk replace",
    .operands = "RING DISK PATH[:SIZE]",
    .operands_min = 3,
    .operands_max = 3,
    .summary = "add a disk and remove the one it is for",
    .details =
        "As disk add and then disk remove. In a ring with copies the new disk gets back what the old "
        "one\nheld; without, those packets stay on the old disk.",
    .examples = "  tapeloop disk replace dmz 2 /dev/sdd",
    .options = add_options,
    .run = replace_run,
};

static int locate_run(const struct invocation *invocation, struct failure *failure)
{
    const char *lamp = invocation->operand[1];
    bool on = strcmp(lamp, "on") == 0;
    if (!on && strcmp(lamp, "off") != 0)
        return fail(failure, ERR_INVALID, "\"%s\": expected on or off", output_printable(lamp));
    json_t *word = disk_word(invocation->operand[0], failure);
    if (!word)
        return failure->code;
    int code = disk_ask(invocation, "disk.locate", json_pack("{s:o, s:b}", "disk", word, "on", on),
                        "", failure);
    if (code == EXIT_DONE && !output_is_json())
        output_note("The lamp is %s.", lamp);
    return code;
}

const struct command disk_locate_command = {
    .name = "disk locate",
    .operands = "DISK on|off",
    .operands_min = 2,
    .operands_max = 2,
    .summary = "light the lamp of a disk's slot",
    .details = "For disks in an enclosure that the kernel or ledctl (package ledmon) knows.",
    .examples = "  tapeloop disk locate /dev/sdc on",
    .run = locate_run,
};
