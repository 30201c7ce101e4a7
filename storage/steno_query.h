/*
 * steno_query.h - stenographer's query language, put into ours.
 *
 *     steno_query_open(text) -> filter and time range for an extraction -> steno_query_close()
 *
 * The language, as its users know it:
 *
 *     host ADDRESS, net ADDRESS/BITS, net ADDRESS mask MASK, port N, ip proto N (or protocol N),
 *     tcp, udp, icmp, before TIME, after TIME, before DURATION ago, after DURATION ago,
 *     joined by and, or, && and ||, of one precedence and from the left; parentheses
 *
 * It has no `not`. Addresses and ports are those of the first IP header, behind tags too, as stenographer finds them: the filter
 * says `outer` (filter_words.h), for pcap-filter(7) would want a `vlan` for each tag. `port` is TCP's or UDP's. `after` is inclusive, `before` is not. Its `vlan N` and `mpls N` are refused.
 *
 * Times that all packets must keep to become the range, so that nothing else is read; others, behind an `or`, become
 * `before` and `after` in the filter (filter_words.h).
 *
 * The text is hostile. Threads: any; nothing is shared.
 */
#ifndef STORAGE_STENO_QUERY_H
#define STORAGE_STENO_QUERY_H

#include <stdint.h>

#include "errors.h"

#define STENO_QUERY_PRIMITIVES_MAX 64u

struct steno_query {
    char *filter;    /* empty: everything in the range */
    int64_t from_ns; /* INT64_MIN: no bound */
    int64_t to_ns;   /* exclusive; INT64_MAX: no bound */
};

/* now_ns: what `ago` counts from. ERR_INVALID, with the column, from 1, and what was expected there; ERR_NO_MEMORY. */
int steno_query_open(const char *text, int64_t now_ns, struct steno_query *query, struct failure *failure);

/* Frees the filter, also of a query whose opening failed. */
void steno_query_close(struct steno_query *query);

#endif
