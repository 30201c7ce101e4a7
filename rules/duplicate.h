/*
 * duplicate.h - whether the same packet was just seen: mirror ports and several taps hand out the
 * same packet twice, within microseconds.
 *
 * The same means: a hash of 128 bits over all captured bytes, and the lengths, agree; so payload
 * counts, not headers alone. What a router or a tap changes on the way can be left out of the hash
 * where the options say so. Off unless a ring asks for it; the caller counts what is left out.
 *
 * A table of fixed size: the newest DUPLICATE_ENTRIES_USUAL packets or so. A packet that was pushed
 * out of it is taken for a new one. No allocation, no lock after opening; one thread.
 */
#ifndef RULES_DUPLICATE_H
#define RULES_DUPLICATE_H

#include <stdbool.h>
#include <stdint.h>

#include "decode.h"
#include "errors.h"
#include "packet.h"

#define DUPLICATE_WINDOW_NS_USUAL 1000000 /* 1 ms */
#define DUPLICATE_WINDOW_NS_MAX INT64_C(10000000000)
#define DUPLICATE_ENTRIES_USUAL 10000u
#define DUPLICATE_ENTRIES_MAX 10000000u
#define DUPLICATE_HEADERS_MAX 512u /* headers longer than this are hashed as they are */

struct duplicate_options {
    int64_t window_ns; /* 0: usual; at most DUPLICATE_WINDOW_NS_MAX */
    uint32_t entries;  /* 0: usual */
    /* Differences that do not count. They need `decoded`. */
    bool ignore_hops; /* TTL or hop limit, and the header checksum of IPv4, of the outermost IP
                         header */
    bool ignore_tags; /* VLAN tags of the outermost frame, of Ethernet */
};

struct duplicate_table;

/* `options` may be null. ERR_NO_MEMORY, ERR_INVALID. */
int duplicate_open(const struct duplicate_options *options, struct duplicate_table **table,
                   struct failure *failure);

/* Frees and nulls. A null *table is allowed. */
void duplicate_close(struct duplicate_table **table);

/* Whether duplicate_seen() needs `decoded`. */
bool duplicate_needs_decoding(const struct duplicate_table *table);

/*
 * Whether the same packet was seen at most window_ns before this one (or after it: several queues
 * may hand packets out in another order), and remembers this one if not. `decoded` may be null
 * where it is not needed.
 */
bool duplicate_seen(struct duplicate_table *table, const struct packet *packet,
                    const struct decoded_packet *decoded);

#endif
