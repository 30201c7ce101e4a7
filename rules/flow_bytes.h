/*
 * flow_bytes.h - how many bytes each connection has had: a table of fixed size, for `flow N`.
 *
 * Connections are known by a hash of 64 bits; four of them share a set of one cache line, and a new
 * one takes the place of that of its set which has been silent for the longest. A connection that
 * was pushed out begins anew when it comes back: what is wrong in a flood is kept too much, never
 * lost. One thread.
 */
#ifndef RULES_FLOW_BYTES_H
#define RULES_FLOW_BYTES_H

#include <stdbool.h>
#include <stdint.h>

struct flow_bytes;

/* For at least `flows` connections, 16 bytes each. Null: no memory. */
struct flow_bytes *flow_bytes_open(uint32_t flows);
void flow_bytes_close(struct flow_bytes **table); /* null is allowed */

uint32_t flow_bytes_room(const struct flow_bytes *table);

/*
 * Adds `bytes` to the connection, and returns what it had before. `anew`: this packet opens it.
 * It also begins anew after idle_s seconds of silence by the packets' own times; times that run
 * backwards, or are wild, do no more than that.
 */
uint32_t flow_bytes_add(struct flow_bytes *table, uint64_t hash, uint32_t bytes, int64_t time_ns,
                        uint32_t idle_s, bool anew);

#endif
