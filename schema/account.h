/*
 * account.h - the account of every packet (promise P6), one per interface and stream.
 */
#ifndef SCHEMA_ACCOUNT_H
#define SCHEMA_ACCOUNT_H

#include <stdint.h>

enum account_line {
#define ACCOUNT(name, summed, sentence) ACCOUNT_##name,
#include "account.def"
#undef ACCOUNT
    ACCOUNT_LINES
};

/* Packets and original bytes (length on the wire, where known) by cause, cumulative since the run began. */
struct account {
    uint64_t packets[ACCOUNT_LINES];
    uint64_t bytes[ACCOUNT_LINES];
    uint64_t stored_bytes; /* captured bytes stored, without record headers */
    uint64_t cut_packets;  /* of `stored`: packets that a rule or snapshot length cut */
};

const char *account_name(enum account_line line);
const char *account_help(enum account_line line);

/* The sum of all lines but `seen`, in packets; equal to packets[ACCOUNT_seen] when the account is whole. */
uint64_t account_sum(const struct account *account);

/* a += b, line by line. */
void account_add(struct account *a, const struct account *b);

#endif
