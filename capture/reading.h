/*
 * reading.h - reading a ring through a tapeloop-extract process: packets out, or everything
 * checked.
 *
 * The recorder says what there is to read (the plan), judges what the worker could not believe, and
 * passes progress on. The worker alone touches stored bytes and the output.
 */
#ifndef CAPTURE_READING_H
#define CAPTURE_READING_H

#include <stdbool.h>
#include <stdint.h>

#include "request.h"
#include "worker.h"

#define READINGS_MAX 128u       /* at once in a recorder: each is a process and holds a connection */
#define FILTER_BYTES_MAX (32u * 1024)
#define READING_LIST_MAX 1000u /* gaps, and bad places, that are listed; all are counted */

struct reading_options {
    enum worker_kind kind;
    enum worker_format format;
    int64_t from_ns, to_ns;
    bool follow;
    uint64_t packets_max, bytes_max, seconds_max; /* 0: no limit */
    const char *filter;
    const char *query; /* the language in which it was asked for: "pcap", "steno" */
    const char *asked; /* how it was, where that is not the filter; else null */
    char *translated;  /* what reading_options_free() frees: the filter, where it was made from `asked` */
    bool headers_only; /* packets are cut where their headers end, before the filter looks */
    bool no_index; /* everything is read, as if there were neither key indexes nor runs */
    uint64_t from_position, to_position; /* WORKER_RUN_MAKE: of the sealed segments */
    bool promptly; /* somebody waits for the answer: by the recorder's spare worker, if there is one */
    bool repair; /* what is found damaged is to be mended: waits while too much of it waits */
    int output; /* stays the caller's; -1 for a check */
};

struct reading_bad {
    struct worker_bad bad;
    struct identity disk;
    uint32_t slot;
};

struct reading_result {
    struct worker_done done;
    struct worker_gap *gap;
    uint32_t gaps;
    struct reading_bad *bad; /* judged as damage */
    uint32_t bads;
    uint64_t damaged; /* all of them */
    bool catalog_lacks; /* the catalog has lost something of the ring: segments may be missing */
    bool not_flushed; /* what was taken last could not be made durable in time, and is not in the
                         result */
};

/*
 * Runs one job to its end: 0, or what ended it, with the sentence in request->failure. The entry is
 * used as a job. ERR_BUSY: READINGS_MAX of them run, and clients that stall may hold them for ever;
 * so connections remain to ask and to end something. *result is to be freed with reading_result_free() in every case.
 */
int reading_run(struct request *request, struct ring_entry *entry,
                const struct reading_options *options, struct reading_result *result);

void reading_result_free(struct reading_result *result);

/* Whether the filter is understood, by the process that would use it, on an empty range: as
 * reading_run(). */
int reading_check_filter(struct request *request, struct ring_entry *entry, const char *filter);

/*
 * What extract and job.start are asked for: range, filter, format, headers and limits; the rest is zero, output -1. The texts are
 * the request's or the options' own: reading_options_free(), in every case. A filter in another language is put into ours, and the
 * range narrowed by the times in it; `ago` counts from now. ERR_INVALID, ERR_TOO_LARGE, ERR_NO_MEMORY.
 */
int reading_take_options(struct request *request, struct reading_options *options);

/* The same, range and filter only. */
int reading_take_range(struct request *request, struct reading_options *options);

void reading_options_free(struct reading_options *options);

/* What was asked for, in our language (of a query in another one, nobody else can say it), as members of the answer. */
void reading_add_asked(json_t *result, const struct reading_options *options);

/* As extract answers (schema/PROTOCOL.md), without what was asked for. The caller owns it; null: out of memory. */
json_t *reading_result_json(const struct reading_result *result);

/* Of that, how it was found: what each step has left for the next, and read for it. Likewise. */
json_t *reading_plan_json(const struct reading_result *result);

/* "damaged", "overwritten" ... Static memory. */
const char *reading_gap_word(uint32_t reason);
const char *reading_bad_word(uint32_t reason);

#endif
