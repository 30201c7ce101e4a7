/*
 * ring_command.c - rings: made, listed, shown, set, deleted, adopted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "commands.h"
#include "disk_format.h"
#include "output.h"
#include "paths.h"
#include "recorder_session.h"
#include "settings.h"
#include "text.h"
#include "views.h"

/* The answer on standard output: as JSON, or as `view` shows its member `name`. */
static int ring_answer(json_t *result, void (*view)(const json_t *part), const char *name)
{
    if (output_is_json())
        output_json(result);
    else
        view(json_object_get(result, name));
    json_decref(result);
    return EXIT_DONE;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int create_disks(const struct invocation *invocation, json_t *disks, struct failure *failure)
{
    uint32_t count = options_count(invocation, "disk");
    if (count > RING_DISKS_MAX)
        return fail(failure, ERR_INVALID, "a ring has at most %u disks", RING_DISKS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        json_t *disk;
        int code = paths_disk_json(options_nth(invocation, "disk", i), &disk, failure);
        if (code != 0)
            return code;
        if (json_array_append_new(disks, disk) != 0)
            return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    }
    return 0;
}

static int create_check(const struct invocation *invocation, uint64_t *copies, uint64_t *slot_bytes,
                        struct failure *failure)
{
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code == 0)
        code = options_number(invocation, "copies", 1, COPIES_MAX, copies, failure);
    if (code == 0)
        code = options_size(invocation, "segment-size", slot_bytes, failure);
    if (code != 0 || *slot_bytes == 0)
        return code;
    bool power = (*slot_bytes & (*slot_bytes - 1)) == 0;
    if (!power || *slot_bytes < SLOT_BYTES_MIN || *slot_bytes > SLOT_BYTES_MAX)
        return fail(failure, ERR_INVALID,
                    "--segment-size \"%s\": expected a power of two from 1M to 64M",
                    options_text(invocation, "segment-size"));
    return 0;
}

static int create_run(const struct invocation *invocation, struct failure *failure)
{
    uint64_t copies = 1;
    uint64_t slot_bytes = 0;
    int code = create_check(invocation, &copies, &slot_bytes, failure);
    if (code != 0)
        return code;
    json_t *disks = json_array();
    code = create_disks(invocation, disks, failure);
    if (code != 0) {
        json_decref(disks);
        return code;
    }
    json_t *params = json_pack("{s:s, s:o, s:I, s:I, s:b}", "name", invocation->operand[0], "disks",
                               disks, "copies", (json_int_t)copies, "slot_bytes",
                               (json_int_t)slot_bytes, "force", options_given(invocation, "force"));
    json_t *result = NULL;
    code = session_ask(invocation, SESSION_START | SESSION_MAKE_STATE, "ring.create", params,
                       &result, failure);
    if (code == 0 && options_count(invocation, "disk") == 0)
        output_note("Ring %s has no disk and records nothing yet: tapeloop disk add %s PATH[:SIZE] "
                    "makes it live.",
                    invocation->operand[0], invocation->operand[0]);
    return code != 0 ? code : ring_answer(result, view_ring, "ring");
}

static const struct option_row create_options[] = {
    {"disk", 0, true, "PATH[:SIZE]",
     "a member of the ring, may be given several times: a file\n"
     "of SIZE, made and preallocated, or a whole block device"},
    {"copies", 0, false, "N", "write every packet to N disks, 1 to 4 (default 1)"},
    {"segment-size", 0, false, "SIZE",
     "a power of two from 1M to 64M (default: about 1/256 of\nthe smallest disk)"},
    {"force", 0, false, NULL, "overwrite what is on the disks, whoever it belongs to"},
    {0},
};

const struct command ring_create_command = {
    .name = "ring create",
    .operands = "NAME",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "make a ring, on disks or without any yet",
    .details =
        "Without a disk the ring is a name: it records nothing until tapeloop disk add gives it one.\n"
        "Makes the state directory if it is missing. A size is a number of bytes, or a number and\n"
        "K, M, G, T or P (powers of 1024). What is behind the last colon of --disk is the size if "
        "it\n"
        "reads as one; for a path that itself ends like that, add :0. A disk that holds anything "
        "is\n"
        "refused without --force.",
    .examples = "  tapeloop ring create dmz --disk /data/dmz.disk:100G\n"
                "  tapeloop ring create later\n"
                "  tapeloop ring create lab --disk /dev/sdb --disk /dev/sdc --segment-size 64M",
    .options = create_options,
    .run = create_run,
};

/* ---- list, show ------------------------------------------------------------------------------ */

static int list_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *result = NULL;
    int code =
        session_ask(invocation, SESSION_START | SESSION_RINGS, "ring.list", NULL, &result, failure);
    if (code != 0)
        return code;
    if (json_array_size(json_object_get(result, "rings")) == 0)
        output_note("There is no ring yet: tapeloop ring create NAME --disk PATH:SIZE makes one.");
    else if (!output_is_json())
        view_rings(json_object_get(result, "rings"));
    if (output_is_json())
        output_json(result);
    json_decref(result);
    return EXIT_DONE;
}

const struct command ring_list_command = {
    .name = "ring list",
    .operands = "",
    .summary = "list the rings",
    .examples = "  tapeloop ring list\n  tapeloop ring list --json",
    .run = list_run,
};

static void show_view(const json_t *ring)
{
    view_ring(ring);
    const json_t *interfaces = answer_array(ring, "interfaces");
    if (json_array_size(interfaces) > 0) {
        printf("interfaces\n");
        view_interfaces(interfaces, "  ");
    }
    const json_t *settings = answer_object(ring, "settings");
    if (json_object_size(settings) > 0) {
        printf("settings\n");
        view_members(settings, "  ", stdout);
    }
    const json_t *disks = answer_array(ring, "disks");
    if (json_array_size(disks) > 0) {
        printf("disks\n");
        view_disks(disks, answer_text(ring, "name"), "  ");
    }
}

static int show_run(const struct invocation *invocation, struct failure *failure)
{
    json_t *params = json_pack("{s:s}", "ring", invocation->operand[0]);
    json_t *result = NULL;
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code != 0) {
        json_decref(params);
        return code;
    }
    code = session_ask(invocation, SESSION_START | SESSION_RINGS, "ring.show", params, &result,
                       failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else
        show_view(json_is_object(json_object_get(result, "ring")) ? json_object_get(result, "ring")
                                                                  : result);
    json_decref(result);
    return EXIT_DONE;
}

const struct command ring_show_command = {
    .name = "ring show",
    .operands = "NAME",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "show one ring with its disks, interfaces and settings",
    .examples = "  tapeloop ring show dmz",
    .run = show_run,
};

/* ---- set ------------------------------------------------------------------------------------- */

/* "max-rings" and "max_rings" are the same; a setting is named with '_' to the recorder. */
static void set_spell(char *key)
{
    for (; *key; key++)
        if (*key == '-')
            *key = '_';
}

/* What is not in the table of a ring's settings: its copies, and the recorder's own. */
static bool set_is_special(const char *key, bool of_recorder)
{
    return strcmp(key, of_recorder ? "max_rings" : "copies") == 0;
}

static int set_parse(const struct invocation *invocation, uint32_t first, json_t *wanted,
                     struct failure *failure)
{
    struct settings checked;
    settings_default(&checked);
    for (uint32_t i = first; i < invocation->operands; i++) {
        const char *word = invocation->operand[i];
        size_t length = strcspn(word, "=");
        char key[64];
        if (word[length] != '=' || length == 0 || length >= sizeof key)
            return fail(failure, ERR_INVALID, "\"%s\": expected KEY=VALUE", output_printable(word));
        memcpy(key, word, length);
        key[length] = '\0';
        set_spell(key);
        const char *text = word + length + 1;
        if (!set_is_special(key, first == 0)) {
            if (first == 0)
                return fail(failure, ERR_INVALID,
                            "\"%s\": the only setting without a ring is max-rings; of which ring?",
                            output_printable(word));
            int setting = setting_find(key, failure);
            if (setting < 0)
                return fail(failure, ERR_INVALID, "%s", failure->text);
            int code = setting_parse(&checked, (enum setting)setting, text, failure);
            if (code != 0)
                return code;
        }
        if (json_object_set_new(wanted, key, json_string(text)) != 0)
            return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    }
    return 0;
}

static int set_run(const struct invocation *invocation, struct failure *failure)
{
    /* A name of a ring has no '=' in it: without one in front, the recorder itself is meant. */
    const char *name = strchr(invocation->operand[0], '=') ? NULL : invocation->operand[0];
    int code = name ? text_check_ring_name(name, failure) : 0;
    if (code == 0 && name && invocation->operands < 2)
        code = fail(failure, ERR_INVALID, "which setting? tapeloop help ring set lists them");
    if (code != 0)
        return code;
    json_t *wanted = json_object();
    code = set_parse(invocation, name ? 1 : 0, wanted, failure);
    if (code != 0) {
        json_decref(wanted);
        return code;
    }
    json_t *result = NULL;
    json_t *params = json_pack("{s:s?, s:o}", "ring", name, "settings", wanted);
    code = session_ask(invocation, SESSION_START, "ring.set", params, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else
        view_members(answer_object(result, "settings"), "", stdout);
    const char *note = answer_text(result, "note");
    if (note[0])
        output_note("Note: %s.", output_printable(note));
    json_decref(result);
    return EXIT_DONE;
}

static void set_help(void)
{
    printf("\nsettings:\n"
           "  copies (default 1)\n"
           "      on how many disks each packet is written, 1 to 4; at once, also while recording\n");
    for (int i = 0; i < SETTINGS; i++) {
        char preset[SETTING_TEXT_SIZE];
        enum setting setting = (enum setting)i;
        printf("  %s (default %s)\n      %s\n", setting_name(setting),
               setting_text(setting, setting_default(setting), preset), setting_help(setting));
    }
    printf("\nof the recorder, without NAME:\n"
           "  max-rings (default 16)\n"
           "      how many rings may be made, 1 to 1024; each has buffers of its own\n");
}

const struct command ring_set_command = {
    .name = "ring set",
    .operands = "[NAME] KEY=VALUE...",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "change settings of a ring, or of the recorder",
    .details = "The number of copies changes at once; other settings take effect when the ring is "
               "opened the\nnext time, which is at once if nobody uses it.",
    .help = set_help,
    .examples = "  tapeloop ring set dmz flush_window=250ms\n"
                "  tapeloop ring set dmz buffer_bytes=512M\n"
                "  tapeloop ring set dmz copies=2\n"
                "  tapeloop ring set max-rings=32",
    .run = set_run,
};

/* ---- delete ---------------------------------------------------------------------------------- */

static int delete_run(const struct invocation *invocation, struct failure *failure)
{
    const char *name = invocation->operand[0];
    int code = text_check_ring_name(name, failure);
    if (code != 0)
        return code;
    bool wipe = options_given(invocation, "wipe");
    json_t *params = json_pack("{s:s, s:b}", "ring", name, "wipe", wipe);
    json_t *result = NULL;
    code = session_ask(invocation, SESSION_START, "ring.delete", params, &result, failure);
    if (code != 0)
        return code;
    if (output_is_json())
        output_json(result);
    else if (wipe)
        output_note("Ring %s is deleted, and its disks are wiped.", name);
    else
        output_note(
            "Ring %s is deleted. Its disks keep their packets: tapeloop ring adopt brings it "
            "back.",
            name);
    json_decref(result);
    return EXIT_DONE;
}

static const struct option_row delete_options[] = {
    {"wipe", 0, false, NULL, "destroy what identifies the disks: nothing brings the\npackets back"},
    {0},
};

const struct command ring_delete_command = {
    .name = "ring delete",
    .operands = "NAME",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "forget a ring; its disks keep their packets",
    .examples = "  tapeloop ring delete lab\n  tapeloop ring delete lab --wipe",
    .options = delete_options,
    .run = delete_run,
};

/* ---- adopt ----------------------------------------------------------------------------------- */

/* --disk PATH and the operands: both name disks, so that a shell's wildcard can too. */
static int adopt_disks(const struct invocation *invocation, json_t *disks, struct failure *failure)
{
    uint32_t named = options_count(invocation, "disk");
    uint32_t count = named + invocation->operands;
    if (count == 0)
        return fail(failure, ERR_INVALID, "which disks? tapeloop ring adopt --disk PATH...");
    for (uint32_t i = 0; i < count; i++) {
        const char *typed =
            i < named ? options_nth(invocation, "disk", i) : invocation->operand[i - named];
        char *path = paths_absolute(typed, failure);
        json_t *text = path ? paths_json(path, failure) : NULL;
        free(path);
        if (!text)
            return failure->code;
        if (json_array_append_new(disks, text) != 0)
            return fail(failure, ERR_NO_MEMORY, "%s", error_text(ERR_NO_MEMORY));
    }
    return 0;
}

static int adopt_run(const struct invocation *invocation, struct failure *failure)
{
    const char *name = options_text(invocation, "name");
    int code = name ? text_check_ring_name(name, failure) : 0;
    if (code != 0)
        return code;
    json_t *disks = json_array();
    code = adopt_disks(invocation, disks, failure);
    if (code != 0) {
        json_decref(disks);
        return code;
    }
    json_t *result = NULL;
    json_t *params = json_pack("{s:o, s:s?}", "disks", disks, "name", name);
    code = session_ask(invocation, SESSION_START | SESSION_MAKE_STATE, "ring.adopt", params,
                       &result, failure);
    if (code != 0)
        return code;
    if (output_is_json()) {
        output_json(result);
    } else {
        view_ring(json_object_get(result, "ring"));
        view_members(answer_object(result, "report"), "  ", stdout);
    }
    json_decref(result);
    return EXIT_DONE;
}

static const struct option_row adopt_options[] = {
    {"disk", 0, true, "PATH", "a disk of the ring, may be given several times"},
    {"name", 0, false, "NAME", "call the ring so (default: as it was called)"},
    {0},
};

const struct command ring_adopt_command = {
    .name = "ring adopt",
    .operands = "[PATH...]",
    .operands_max = UINT32_MAX,
    .summary = "bring a ring up from its disks alone",
    .details =
        "For disks that come from another machine, or whose state directory is lost. Makes the\n"
        "state directory if it is missing.",
    .examples = "  tapeloop ring adopt --disk /dev/sdb --disk /dev/sdc\n"
                "  tapeloop --state /tmp/look ring adopt --disk /mnt/usb/dmz.disk --name seized",
    .options = adopt_options,
    .run = adopt_run,
};
