/*
 * range_params.h - which packets of a ring are meant: what extract, estimate, keep and job start take
 * on the command line alike, and how what is missing among them is said.
 */
#ifndef CLI_RANGE_PARAMS_H
#define CLI_RANGE_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "options.h"
#include "text.h"

/* Rows of a table of options. */
#define RANGE_TIME_OPTIONS                                                                  \
    {"from", 0, false, "T", "from this time on (default: the oldest packet)"},              \
        {"to", 0, false, "T", "up to, not including, this time (default: the newest)"},     \
    {                                                                                       \
        "query", 0, false, "LANGUAGE",                                                      \
            "the filter's: pcap (default), or steno, as stenoread takes it"                 \
    }
#define RANGE_OPTIONS                                                                       \
    RANGE_TIME_OPTIONS,                                                                     \
        {"format", 0, false, "FORMAT", "pcapng (default), pcap (nanoseconds) or pcap-us"},  \
        {"headers", 0, false, NULL,                                                         \
         "packets without what they carry: cut where their headers end"},                   \
        {"no-index", 0, false, NULL, "read everything, as if there were no index"},         \
        {"packets-max", 'c', false, "N", "end after N packets"},                            \
        {"bytes-max", 0, false, "SIZE", "end when the output has this size"},               \
    {                                                                                       \
        "seconds-max", 0, false, "N", "end when it has worked for N seconds"                \
    }

struct range {
    bool bounded_below, bounded_above;
    int64_t from_ns, to_ns;
};

/*
 * The first operand is the ring, the others are the filter. The params that extract and job.start have in common (the caller
 * owns them), or null with a failure. Relative times have one now.
 */
json_t *range_params(const struct invocation *invocation, struct range *range,
                     struct failure *failure);

/* The range as the recorder has taken it, from its answer: a query in stenographer's words may have narrowed it.
 * Where it does not say so, *range stays. */
void range_of_answer(const json_t *result, struct range *range);

/* Its ends in words. */
void range_text(const struct range *range, char from[TEXT_TIME_SIZE], char to[TEXT_TIME_SIZE]);

/* The gaps of a result, as notes: at most 20 of them. */
void range_gaps_print(const json_t *result);

#endif
