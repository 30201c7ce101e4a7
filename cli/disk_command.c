/*
 * disk_command.c - the disks of the rings.
 */
#include "answer.h"
#include "commands.h"
#include "output.h"
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
    .examples = "  tapeloop disk list\n  tapeloop disk list dmz",
    .run = list_run,
};
