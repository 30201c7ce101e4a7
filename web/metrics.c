/*
 * metrics.c - see metrics.h.
 *
 * One family after the other, each with all its samples, as OpenMetrics wants it: so the rings are
 * gone through again for each. Counters are since the recorder started, and begin anew with it.
 */
#include "metrics.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"

static json_int_t count_of(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* Lines of packets that came as far as us, and of those that were lost on the way. */
static const enum account_line taken[] = {ACCOUNT_stored, ACCOUNT_in_flight, ACCOUNT_discarded,
                                          ACCOUNT_duplicates, ACCOUNT_sampled_out};
static const enum account_line lost[] = {ACCOUNT_dropped_queue, ACCOUNT_dropped_kernel,
                                         ACCOUNT_lost_disk, ACCOUNT_refused};

static json_int_t sum_of(const json_t *account, const enum account_line *line, size_t lines)
{
    json_int_t sum = 0;
    for (size_t i = 0; i < lines; i++)
        sum += count_of(account, account_name(line[i]));
    return sum;
}

static void add_batches(struct capture_figures *figures, const json_t *recording)
{
    const json_t *batches = json_object_get(recording, "batches");
    json_int_t max = count_of(batches, "ns_max"), min = count_of(batches, "ns_min");
    figures->recordings++;
    figures->batches += count_of(batches, "count");
    figures->batch_ns += count_of(batches, "ns");
    if (max > figures->batch_ns_max)
        figures->batch_ns_max = max;
    if (min > 0 && (figures->batch_ns_min == 0 || min < figures->batch_ns_min))
        figures->batch_ns_min = min;
}

void capture_figures_add(struct capture_figures *figures, const json_t *ring_status)
{
    const json_t *account = json_object_get(ring_status, "account");
    const json_t *bytes = json_object_get(ring_status, "account_bytes");
    const json_t *buffers = json_object_get(ring_status, "buffers");
    const json_t *recordings = json_object_get(ring_status, "recordings");
    figures->seen += count_of(account, account_name(ACCOUNT_seen));
    figures->captured += sum_of(account, taken, sizeof taken / sizeof taken[0]);
    figures->dropped += sum_of(account, lost, sizeof lost / sizeof lost[0]);
    figures->duplicates += count_of(account, account_name(ACCOUNT_duplicates));
    figures->in_flight += count_of(account, account_name(ACCOUNT_in_flight));
    figures->captured_bytes += sum_of(bytes, taken, sizeof taken / sizeof taken[0]);
    figures->bytes_per_s += count_of(ring_status, "bytes_per_s");
    figures->in_flight_bytes += count_of(ring_status, "in_flight_bytes");
    figures->buffers += count_of(buffers, "total");
    figures->buffers_free += count_of(buffers, "free");
    for (size_t i = 0; i < json_array_size(recordings); i++)
        add_batches(figures, json_array_get(recordings, i));
}

static double percent(json_int_t part, json_int_t whole)
{
    return whole > 0 ? (double)part * 100 / (double)whole : 0;
}

double capture_drop_percent(const struct capture_figures *figures)
{
    return percent(figures->dropped, figures->seen);
}

double capture_buffer_percent(const struct capture_figures *figures)
{
    return percent(figures->buffers - figures->buffers_free, figures->buffers);
}

/* ---- OpenMetrics ----------------------------------------------------------------------------- */

/* A label's value: quotes, backslashes and ends of lines are escaped. */
static void put_label(FILE *out, const char *name, const char *value)
{
    fprintf(out, "%s=\"", name);
    for (const char *c = value; *c; c++) {
        if (*c == '"' || *c == '\\')
            fputc('\\', out);
        if (*c == '\n')
            fputs("\\n", out);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static void family(FILE *out, const char *name, const char *type, const char *unit,
                   const char *help)
{
    fprintf(out, "# TYPE tapeloop_%s %s\n", name, type);
    if (unit[0])
        fprintf(out, "# UNIT tapeloop_%s %s\n", name, unit);
    fprintf(out, "# HELP tapeloop_%s %s\n", name, help);
}

/* "tapeloop_NAME{ring="..."" - the rest of the labels and "} VALUE" are the caller's. */
static void begin_sample(FILE *out, const char *name, const char *ring)
{
    fprintf(out, "tapeloop_%s{", name);
    put_label(out, "ring", ring);
}

static const char *ring_name(const json_t *ring_status)
{
    return text_of(json_object_get(ring_status, "ring"), "name");
}

/* Of each interface one counter a line of the account, but for packets in flight, which may become
 * fewer, and for those seen, which are the sum. */
static void put_packets(FILE *out, const json_t *rings)
{
    family(out, "packets", "counter", "", "Packets by interface and by what became of them.");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *ring = json_array_get(rings, i);
        const json_t *interfaces = json_object_get(ring, "interfaces");
        for (size_t k = 0; k < json_array_size(interfaces); k++) {
            const json_t *interface = json_array_get(interfaces, k);
            const json_t *account = json_object_get(interface, "account");
            for (int line = 0; line < ACCOUNT_LINES; line++) {
                char stream[24];
                if (line == ACCOUNT_in_flight || line == ACCOUNT_seen)
                    continue;
                snprintf(stream, sizeof stream, "%" JSON_INTEGER_FORMAT,
                         count_of(interface, "stream"));
                begin_sample(out, "packets_total", ring_name(ring));
                fputc(',', out);
                put_label(out, "interface", text_of(interface, "name"));
                fputc(',', out);
                put_label(out, "stream", stream);
                fputc(',', out);
                put_label(out, "outcome", account_name((enum account_line)line));
                fprintf(out, "} %" JSON_INTEGER_FORMAT "\n",
                        count_of(account, account_name((enum account_line)line)));
            }
        }
    }
}

/* What a sample of a ring is made of: a member of its status, or of `ring` or `buffers` in it. */
static const struct ring_family {
    const char *name, *type, *unit, *help;
    const char *object; /* "": the status itself */
    const char *member;
} ring_families[] = {
    {"stored_bytes", "counter", "bytes", "Bytes of packets that were stored.", "", "stored_bytes"},
    {"cut_packets", "counter", "", "Packets of which a rule has kept a part.", "", "cut_packets"},
    {"stored_bytes_per_second", "gauge", "", "Stored in the last second.", "", "bytes_per_s"},
    {"in_flight_bytes", "gauge", "bytes", "In memory, on the way to the disks.", "",
     "in_flight_bytes"},
    {"buffers", "gauge", "", "Buffers for packets on their way.", "buffers", "total"},
    {"buffers_free", "gauge", "", "Buffers that are free.", "buffers", "free"},
    {"durable_copies", "gauge", "", "How many disks a packet is on when it is durable.", "",
     "durable_copies"},
    {"reading_processes", "gauge", "", "Extractions and checks that read the ring.", "yielding", "readers"},
    {"reach_back_seconds", "gauge", "seconds", "How old the oldest packet is.", "", "reach_back_s"},
    {"ring_size_bytes", "gauge", "bytes", "Size of the ring, raw.", "ring", "total_bytes"},
    {"ring_used_bytes", "gauge", "bytes", "Used of it, raw.", "ring", "used_bytes"},
    {"ring_packets", "gauge", "", "Packets that the ring holds.", "ring", "packets"},
};

static void put_ring_families(FILE *out, const json_t *rings)
{
    for (size_t f = 0; f < sizeof ring_families / sizeof ring_families[0]; f++) {
        const struct ring_family *one = &ring_families[f];
        bool counter = strcmp(one->type, "counter") == 0;
        char sample[64];
        family(out, one->name, one->type, one->unit, one->help);
        snprintf(sample, sizeof sample, "%s%s", one->name, counter ? "_total" : "");
        for (size_t i = 0; i < json_array_size(rings); i++) {
            const json_t *ring = json_array_get(rings, i);
            const json_t *object = one->object[0] ? json_object_get(ring, one->object) : ring;
            begin_sample(out, sample, ring_name(ring));
            fprintf(out, "} %" JSON_INTEGER_FORMAT "\n", count_of(object, one->member));
        }
    }
}

static void put_held_back(FILE *out, const json_t *rings)
{
    static const char *const who[][2] = {{"readers", "readers_held_back_ms"}, {"mender", "mending_held_back_ms"}};
    family(out, "held_back_seconds", "counter", "seconds", "Waited because recording needed the disks.");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *ring = json_array_get(rings, i);
        for (size_t k = 0; k < sizeof who / sizeof who[0]; k++) {
            json_int_t ms = count_of(json_object_get(ring, "yielding"), who[k][1]);
            begin_sample(out, "held_back_seconds_total", ring_name(ring));
            fputc(',', out);
            put_label(out, "who", who[k][0]);
            fprintf(out, "} %" JSON_INTEGER_FORMAT ".%03d\n", ms / 1000, (int)(ms % 1000));
        }
    }
    family(out, "pressure_ratio", "gauge", "ratio", "How near recording is to holding readers back: from 1 on it does.");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *ring = json_array_get(rings, i);
        json_int_t level = count_of(json_object_get(ring, "yielding"), "level_permille");
        begin_sample(out, "pressure_ratio", ring_name(ring));
        fprintf(out, "} %" JSON_INTEGER_FORMAT ".%03d\n", level / 1000, (int)(level % 1000));
    }
}

/* One state of several: the sample of the one that it is in has 1. */
static void put_states(FILE *out, const json_t *rings)
{
    static const char *const states[] = {"starting", "idle", "recording", "failed", "empty"};
    family(out, "ring_state", "stateset", "", "What the ring is doing.");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *ring = json_array_get(rings, i);
        const char *state = text_of(json_object_get(ring, "ring"), "state");
        for (size_t k = 0; k < sizeof states / sizeof states[0]; k++) {
            begin_sample(out, "ring_state", ring_name(ring));
            fputc(',', out);
            put_label(out, "tapeloop_ring_state", states[k]);
            fprintf(out, "} %d\n", strcmp(state, states[k]) == 0);
        }
    }
    family(out, "degraded", "gauge", "", "1: segments lack a copy, or disks are missing.");
    for (size_t i = 0; i < json_array_size(rings); i++) {
        const json_t *ring = json_array_get(rings, i);
        begin_sample(out, "degraded", ring_name(ring));
        fprintf(out, "} %d\n", json_is_true(json_object_get(ring, "degraded")));
    }
}

static void put_disk_family(FILE *out, const json_t *disks, const char *name, const char *type,
                            const char *unit, const char *help, const char *member)
{
    char sample[64];
    family(out, name, type, unit, help);
    snprintf(sample, sizeof sample, "%s%s", name, strcmp(type, "counter") == 0 ? "_total" : "");
    for (size_t i = 0; i < json_array_size(disks); i++) {
        const json_t *disk = json_array_get(disks, i);
        char number[24];
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, count_of(disk, "number"));
        begin_sample(out, sample, text_of(disk, "ring"));
        fputc(',', out);
        put_label(out, "disk", number);
        fputc(',', out);
        put_label(out, "path", text_of(disk, "path"));
        if (member)
            fprintf(out, "} %" JSON_INTEGER_FORMAT "\n", count_of(disk, member));
        else
            fprintf(out, "} %d\n", strcmp(text_of(disk, "state"), "active") == 0);
    }
}

static void put_recorder(FILE *out, const json_t *recorder)
{
    const json_t *layer7 = json_object_get(recorder, "layer7");
    family(out, "build", "info", "", "The recorder's version.");
    fputs("tapeloop_build_info{", out);
    put_label(out, "version", text_of(recorder, "tapeloop"));
    fputs("} 1\n", out);
    family(out, "uptime_seconds", "gauge", "seconds", "Since the recorder started.");
    fprintf(out, "tapeloop_uptime_seconds %" JSON_INTEGER_FORMAT "\n",
            count_of(recorder, "uptime_s"));
    family(out, "layer7_skipped_packets", "counter", "",
           "Packets that layer 7 was to see and had no time for.");
    fprintf(out, "tapeloop_layer7_skipped_packets_total %" JSON_INTEGER_FORMAT "\n",
            count_of(layer7, "skipped"));
}

char *metrics_text(const json_t *status, const json_t *disks)
{
    char *text = NULL;
    size_t bytes = 0;
    const json_t *rings = json_object_get(status, "rings");
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return NULL;
    put_recorder(out, json_object_get(status, "recorder"));
    put_packets(out, rings);
    put_ring_families(out, rings);
    put_held_back(out, rings);
    put_states(out, rings);
    put_disk_family(out, disks, "disk_active", "gauge", "", "1: the disk is read and written.",
                    NULL);
    put_disk_family(out, disks, "disk_written_bytes", "counter", "bytes", "Written to the disk.",
                    "written_bytes");
    put_disk_family(out, disks, "disk_read_errors", "counter", "", "Reads that failed.",
                    "read_errors");
    put_disk_family(out, disks, "disk_write_errors", "counter", "", "Writes that failed.",
                    "write_errors");
    fputs("# EOF\n", out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
