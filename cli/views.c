#include "views.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "answer.h"
#include "output.h"
#include "text.h"

#define LINES_ALWAYS 2 /* seen and stored are shown also where they are 0 */

const char *view_line_name(int line)
{
    static char names[ACCOUNT_LINES][24];
    char *name = names[line];
    snprintf(name, sizeof names[0], "%s", account_name((enum account_line)line));
    for (char *c = name; *c; c++)
        if (*c == '_')
            *c = ' ';
    return name;
}

uint64_t view_dropped(const struct account *account)
{
    return account->packets[ACCOUNT_dropped_queue] + account->packets[ACCOUNT_dropped_kernel] +
           account->packets[ACCOUNT_lost_disk];
}

static const char *size_of(const json_t *object, const char *name, char text[TEXT_SIZE_SIZE])
{
    return text_size(answer_count(object, name), text);
}

static void line_time(const char *label, const json_t *time_ns)
{
    char text[TEXT_TIME_SIZE];
    int64_t value;
    printf("  %-14s %s\n", label, answer_time(time_ns, &value) ? text_time(value, text) : "-");
}

/* Bytes as a user counts them, each packet once, and in parentheses as the disks do, where that is another number. */
static const char *both_sizes(uint64_t logical, uint64_t raw, char text[64])
{
    char one[TEXT_SIZE_SIZE], other[TEXT_SIZE_SIZE];
    if (logical == raw)
        snprintf(text, 64, "%s", text_size(raw, one));
    else
        snprintf(text, 64, "%s (%s raw)", text_size(logical, one), text_size(raw, other));
    return text;
}

/* Used and whole size, in words. */
static void line_sizes(const json_t *ring)
{
    char total[64], used[64], slot[TEXT_SIZE_SIZE];
    uint64_t total_bytes = answer_count(ring, "total_bytes");
    uint64_t used_bytes = answer_count(ring, "used_bytes");
    bool copies = answer_count(ring, "copies") > 1;
    const json_t *disks = json_object_get(ring, "disks");
    uint64_t count = json_is_array(disks) ? json_array_size(disks) : answer_count(ring, "disks");
    uint64_t logical_total = copies ? answer_count(ring, "logical_total_bytes") : total_bytes;
    uint64_t logical_used = copies ? answer_count(ring, "logical_used_bytes") : used_bytes;
    printf("  %-14s %s on %" PRIu64 " disk%s", "size", both_sizes(logical_total, total_bytes, total),
           count, count == 1 ? "" : "s");
    if (total_bytes > 0)
        printf(", %s used (%u %%)", both_sizes(logical_used, used_bytes, used),
               (unsigned)((double)used_bytes * 100 / (double)total_bytes));
    printf("\n  %-14s %s\n", "segment size", size_of(ring, "slot_bytes", slot));
    printf("  %-14s %" PRIu64 "\n", "copies", answer_count(ring, "copies"));
}

void view_ring(const json_t *ring)
{
    printf("ring %s: %s\n", output_printable(answer_text(ring, "name")),
           output_printable(answer_text(ring, "state")));
    const char *error = answer_text(ring, "error");
    if (error[0])
        printf("  %-14s %s\n", strcmp(answer_text(ring, "state"), "empty") == 0 ? "note" : "error",
               output_printable(error));
    line_sizes(ring);
    printf("  %-14s %" PRIu64 "\n", "packets", answer_count(ring, "packets"));
    if (answer_count(ring, "purged") > 0)
        printf("  %-14s %" PRIu64 " packets, of which the numbers are left\n", "purged", answer_count(ring, "purged"));
    line_time("oldest packet", json_object_get(ring, "oldest_ns"));
    line_time("newest packet", json_object_get(ring, "newest_ns"));
}

void view_rings(const json_t *rings)
{
    struct table table;
    table_open(&table, 8);
    static const char *const heading[] = {"RING", "STATE", "DISKS",  "COPIES",
                                          "SIZE", "USED",  "OLDEST", "NEWEST"};
    for (size_t i = 0; i < sizeof heading / sizeof heading[0]; i++)
        table_text(&table, heading[i]);
    size_t i;
    json_t *ring;
    json_array_foreach(rings, i, ring)
    {
        table_text(&table, answer_text(ring, "name"));
        table_text(&table, answer_text(ring, "state"));
        const json_t *disks = json_object_get(ring, "disks");
        table_number(&table,
                     json_is_array(disks) ? json_array_size(disks) : answer_count(ring, "disks"));
        table_number(&table, answer_count(ring, "copies"));
        table_size(&table, answer_count(ring, "total_bytes"));
        table_size(&table, answer_count(ring, "used_bytes"));
        table_time(&table, json_object_get(ring, "oldest_ns"));
        table_time(&table, json_object_get(ring, "newest_ns"));
    }
    table_print(&table, stdout, "");
    table_close(&table);
}

/* Whether the ring has the disk; those it has not are a table of their own. */
static bool disk_is_there(const json_t *disk)
{
    static const char *const away[] = {"missing", "foreign", "removed"};
    for (size_t i = 0; i < sizeof away / sizeof away[0]; i++)
        if (strcmp(answer_text(disk, "state"), away[i]) == 0)
            return false;
    return true;
}

static bool disk_is_shown(const json_t *disk, const char *ring, bool there)
{
    return disk_is_there(disk) == there &&
           (!ring || strcmp(answer_text(disk, "ring"), ring) == 0);
}

static uint32_t count_disks(const json_t *disks, const char *ring, bool there)
{
    uint32_t count = 0;
    size_t i;
    json_t *disk;
    json_array_foreach(disks, i, disk)
        count += disk_is_shown(disk, ring, there);
    return count;
}

/* The digits of an identity that usually are enough to name a disk. */
static void cell_identity(struct table *table, const json_t *disk)
{
    char digits[9];
    snprintf(digits, sizeof digits, "%.8s", answer_text(disk, "id"));
    table_text(table, digits);
}

static void headings(struct table *table, const char *const *heading, uint32_t count,
                     const char *ring)
{
    table_open(table, count + (ring ? 0 : 1));
    if (!ring)
        table_text(table, "RING");
    for (uint32_t i = 0; i < count; i++)
        table_text(table, heading[i]);
}

/* In an enclosure that is known: which, and where in it; else what its maker called it. */
static void cell_device(struct table *table, const json_t *disk)
{
    char text[160];
    const char *enclosure = answer_text(disk, "enclosure");
    if (enclosure[0])
        snprintf(text, sizeof text, "%.70s, %.70s", enclosure, answer_text(disk, "enclosure_slot"));
    else
        snprintf(text, sizeof text, "%.150s", answer_text(disk, "device"));
    table_text(table, text[0] ? text : "-");
}

static void view_disks_there(const json_t *disks, const char *ring, const char *indent)
{
    static const char *const heading[] = {"DISK",   "STATE",   "SIZE",   "USED", "OLDEST", "IN-FLIGHT",
                                          "ERRORS", "WRITTEN", "ID", "DEVICE", "PATH"};
    struct table table;
    headings(&table, heading, sizeof heading / sizeof heading[0], ring);
    size_t i;
    json_t *disk;
    json_array_foreach(disks, i, disk)
    {
        if (!disk_is_shown(disk, ring, true))
            continue;
        if (!ring)
            table_text(&table, answer_text(disk, "ring"));
        table_number(&table, answer_count(disk, "number"));
        table_text(&table, answer_text(disk, "state"));
        table_size(&table, answer_count(disk, "bytes"));
        table_size(&table, answer_count(disk, "used_bytes"));
        table_time(&table, json_object_get(disk, "oldest_ns"));
        table_size(&table, answer_count(disk, "in_flight_bytes"));
        table_number(&table, answer_count(disk, "read_errors") + answer_count(disk, "write_errors"));
        table_size(&table, answer_count(disk, "written_bytes"));
        cell_identity(&table, disk);
        cell_device(&table, disk);
        table_text(&table, answer_text(disk, "path"));
    }
    table_print(&table, stdout, indent);
    table_close(&table);
}

static void view_disks_away(const json_t *disks, const char *ring, const char *indent)
{
    static const char *const heading[] = {"DISK", "STATE", "SIZE", "LAST-SEEN", "ID", "DEVICE", "PATH"};
    struct table table;
    headings(&table, heading, sizeof heading / sizeof heading[0], ring);
    size_t i;
    json_t *disk;
    json_array_foreach(disks, i, disk)
    {
        if (!disk_is_shown(disk, ring, false))
            continue;
        if (!ring)
            table_text(&table, answer_text(disk, "ring"));
        table_number(&table, answer_count(disk, "number"));
        table_text(&table, answer_text(disk, "state"));
        table_size(&table, answer_count(disk, "bytes"));
        table_time(&table, json_object_get(disk, "last_seen_ns"));
        cell_identity(&table, disk);
        cell_device(&table, disk);
        table_text(&table, answer_text(disk, "path"));
    }
    printf("%snot there:\n", indent);
    table_print(&table, stdout, indent);
    table_close(&table);
}

void view_disks(const json_t *disks, const char *ring, const char *indent)
{
    if (count_disks(disks, ring, true) > 0)
        view_disks_there(disks, ring, indent);
    if (count_disks(disks, ring, false) > 0)
        view_disks_away(disks, ring, indent);
}

static void account_row(struct table *table, const char *name, const struct account *account,
                        const bool shown[ACCOUNT_LINES])
{
    table_text(table, name);
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        if (!shown[line])
            continue;
        table_number(table, account->packets[line]);
        if (line == ACCOUNT_seen) /* the sum follows */
            table_text(table, account_sum(account) == account->packets[line] ? "=" : "?");
    }
}

void view_interfaces(const json_t *interfaces, const char *indent)
{
    struct account all = {0};
    struct account one;
    size_t i;
    json_t *row;
    json_array_foreach(interfaces, i, row)
    {
        answer_account(json_object_get(row, "account"), &one);
        account_add(&all, &one);
    }
    bool shown[ACCOUNT_LINES];
    uint32_t columns = 2; /* name, and "=" */
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        shown[line] = line < LINES_ALWAYS || line == ACCOUNT_dropped_queue ||
                      line == ACCOUNT_dropped_kernel || all.packets[line] > 0;
        columns += shown[line];
    }
    struct table table;
    table_open(&table, columns);
    table_text(&table, "INTERFACE");
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        if (!shown[line])
            continue;
        char heading[24];
        snprintf(heading, sizeof heading, "%.23s", view_line_name(line));
        for (char *c = heading; *c; c++)
            *c = *c == ' ' ? '-' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
        table_text(&table, heading);
        if (line == ACCOUNT_seen)
            table_text(&table, "=");
    }
    json_array_foreach(interfaces, i, row)
    {
        answer_account(json_object_get(row, "account"), &one);
        account_row(&table, answer_text(row, "name"), &one, shown);
    }
    if (json_array_size(interfaces) > 1)
        account_row(&table, "all", &all, shown);
    table_print(&table, stdout, indent);
    table_close(&table);
}

void view_account(const struct account *account, FILE *file)
{
    int width = 6;
    char text[24];
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        int length = snprintf(text, sizeof text, "%" PRIu64, account->packets[line]);
        if (length > width)
            width = length;
    }
    fprintf(file, "%-16s %*" PRIu64 "  %s\n", view_line_name(ACCOUNT_seen), width,
            account->packets[ACCOUNT_seen], account_help(ACCOUNT_seen));
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        bool always = line == ACCOUNT_stored || line == ACCOUNT_dropped_queue ||
                      line == ACCOUNT_dropped_kernel;
        if (line == ACCOUNT_seen || (!always && account->packets[line] == 0))
            continue;
        fprintf(file, "  %-14s %*" PRIu64 "  %s\n", view_line_name(line), width,
                account->packets[line], account_help((enum account_line)line));
    }
    uint64_t sum = account_sum(account);
    uint64_t seen = account->packets[ACCOUNT_seen];
    fprintf(file, "%-16s %*" PRIu64 "  ", "sum", width, sum);
    if (sum == seen)
        fprintf(file, "every packet is accounted for\n");
    else
        fprintf(file, "DIFFERS from what was seen by %" PRIu64 "\n",
                sum > seen ? sum - seen : seen - sum);
}

/* A value that is one thing; false for those that are made of others. */
static bool member_print(const char *name, const json_t *value, const char *indent, FILE *file)
{
    char label[64];
    snprintf(label, sizeof label, "%s", output_printable(name));
    int64_t time_ns;
    char time[TEXT_TIME_SIZE];
    size_t length = strlen(name);
    bool is_time = length > 3 && strcmp(name + length - 3, "_ns") == 0;
    if (is_time && json_is_string(value) && answer_time(value, &time_ns))
        fprintf(file, "%s%-24s %s\n", indent, label, text_time(time_ns, time));
    else if (json_is_string(value))
        fprintf(file, "%s%-24s %s\n", indent, label, output_printable(json_string_value(value)));
    else if (json_is_integer(value))
        fprintf(file, "%s%-24s %" JSON_INTEGER_FORMAT "\n", indent, label,
                json_integer_value(value));
    else if (json_is_real(value))
        fprintf(file, "%s%-24s %g\n", indent, label, json_real_value(value));
    else if (json_is_boolean(value))
        fprintf(file, "%s%-24s %s\n", indent, label, json_is_true(value) ? "yes" : "no");
    else
        return json_is_null(value);
    return true;
}

void view_members(const json_t *object, const char *indent, FILE *file)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        if (member_print(name, value, indent, file))
            continue;
        size_t i;
        json_t *element;
        json_array_foreach(value, i, element)
        {
            if (json_is_object(element)) {
                fprintf(file, "%s%s:\n", indent, output_printable(name));
                const char *inner;
                json_t *inner_value;
                json_object_foreach(element, inner, inner_value)
                    member_print(inner, inner_value, "    ", file);
            } else {
                member_print(name, element, indent, file);
            }
        }
        const char *inner;
        json_t *inner_value;
        json_object_foreach(value, inner, inner_value)
            member_print(inner, inner_value, indent, file);
    }
}
