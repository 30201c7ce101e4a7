#include "settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

enum setting_unit { UNIT_bytes, UNIT_ns, UNIT_switch };

struct setting_row {
    const char *name;
    enum setting_unit unit;
    uint64_t preset, min, max;
    const char *help;
};

static const struct setting_row setting_table[SETTINGS] = {
#define SETTING(name, unit, preset, min, max, sentence) \
    [SETTING_##name] = {#name, UNIT_##unit, preset, min, max, sentence},
#include "settings.def"
#undef SETTING
};

void settings_default(struct settings *settings)
{
    *settings = (struct settings){0};
    for (int i = 0; i < SETTINGS; i++)
        settings->value[i] = setting_table[i].preset;
}

int setting_find(const char *name, struct failure *failure)
{
    char names[320] = "";
    for (int i = 0; i < SETTINGS; i++) {
        if (strcmp(setting_table[i].name, name) == 0)
            return i;
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                 setting_table[i].name);
    }
    char shown[64];
    text_printable(name, shown, sizeof shown);
    return fail(failure, ERR_NOT_FOUND, "there is no setting \"%s\"; there are %s", shown, names);
}

int setting_parse(struct settings *settings, enum setting setting, const char *text,
                  struct failure *failure)
{
    const struct setting_row *row = &setting_table[setting];
    uint64_t value;
    int result;
    if (row->unit == UNIT_ns) {
        int64_t duration_ns;
        result = text_parse_duration(text, &duration_ns, failure);
        if (result == 0 && duration_ns < 0)
            result = fail(failure, ERR_INVALID, "a duration is not negative");
        value = result == 0 ? (uint64_t)duration_ns : 0;
    } else if (row->unit == UNIT_switch) {
        value = strcmp(text, "on") == 0;
        result = value || strcmp(text, "off") == 0
                     ? 0
                     : fail(failure, ERR_INVALID, "expected on or off");
    } else {
        result = text_parse_size(text, &value, failure);
    }
    if (result != 0)
        return fail_context(failure, result, "%s", row->name);
    if (value < row->min || value > row->max) {
        char low[SETTING_TEXT_SIZE], high[SETTING_TEXT_SIZE];
        return fail(failure, ERR_INVALID, "%s is %s to %s", row->name,
                    setting_text(setting, row->min, low), setting_text(setting, row->max, high));
    }
    settings->value[setting] = value;
    settings->set[setting] = true;
    return 0;
}

/* The largest unit that needs no fraction; the smallest there is where all do. */
const char *setting_text(enum setting setting, uint64_t value, char text[SETTING_TEXT_SIZE])
{
    static const struct {
        enum setting_unit unit;
        uint64_t size;
        const char *name;
    } unit[] = {
        {UNIT_bytes, UINT64_C(1) << 50, "P"},       {UNIT_bytes, UINT64_C(1) << 40, "T"},
        {UNIT_bytes, UINT64_C(1) << 30, "G"},       {UNIT_bytes, 1u << 20, "M"},
        {UNIT_bytes, 1u << 10, "K"},                {UNIT_bytes, 1, ""},
        {UNIT_ns, UINT64_C(86400000000000), "d"},   {UNIT_ns, UINT64_C(3600000000000), "h"},
        {UNIT_ns, UINT64_C(60000000000), "m"},      {UNIT_ns, 1000000000, "s"},
        {UNIT_ns, 1000000, "ms"},
    };
    if (setting_table[setting].unit == UNIT_switch) {
        snprintf(text, SETTING_TEXT_SIZE, "%s", value ? "on" : "off");
        return text;
    }
    size_t best = sizeof unit / sizeof unit[0];
    for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++) {
        if (unit[i].unit != setting_table[setting].unit)
            continue;
        best = i;
        if (value % unit[i].size == 0 && value != 0)
            break;
    }
    int length = snprintf(text, SETTING_TEXT_SIZE, "%" PRIu64, value / unit[best].size);
    uint64_t rest = value % unit[best].size;
    if (rest != 0) { /* of a millisecond */
        length += snprintf(text + length, SETTING_TEXT_SIZE - (size_t)length, ".%06" PRIu64, rest);
        while (text[length - 1] == '0')
            length--;
    }
    snprintf(text + length, SETTING_TEXT_SIZE - (size_t)length, "%s", unit[best].name);
    return text;
}

const char *setting_name(enum setting setting)
{
    return setting_table[setting].name;
}

const char *setting_kind(enum setting setting)
{
    static const char *const kinds[] = {
        [UNIT_bytes] = "bytes", [UNIT_ns] = "ns", [UNIT_switch] = "switch"};
    return kinds[setting_table[setting].unit];
}

const char *setting_help(enum setting setting)
{
    return setting_table[setting].help;
}

uint64_t setting_default(enum setting setting)
{
    return setting_table[setting].preset;
}

uint64_t setting_min(enum setting setting)
{
    return setting_table[setting].min;
}

uint64_t setting_max(enum setting setting)
{
    return setting_table[setting].max;
}
