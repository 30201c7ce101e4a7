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
    json_t *params = json_pack("{s:s?}", "ring", ring);
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
    .summary = "give a ring without a disk its first",
    .details =
        "A file of SIZE, made and preallocated, or a whole block device. A disk that holds anything "
        "is\nrefused without --force. It makes the ring live.",
    .examples = "  tapeloop disk add dmz /data/dmz.disk:100G\n"
                "  tapeloop disk add dmz /dev/disk/by-id/wwn-0x5000c500a1b2c3d4",
    .options = add_options,
    .run = add_run,
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
