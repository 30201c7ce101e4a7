/*
 * verdicts.h - what layer 7 has found out about the conversations of a ring, for who seals segments and who reads them.
 *
 *     recorder: verdicts_open() -> verdicts_name() -> { verdicts_put(), verdicts_drop(): capture threads } -> verdicts_close()
 *               segments: flow_index_judge(), when one is sealed
 *     reader:   verdicts_map() -> { verdicts_get() } -> verdicts_close()
 *
 * A conversation is what the innermost IP header says: both addresses, protocol and ports, both directions together; the same that
 * rules go by (decoded_flow_hash() of rules/). A packet without an IP header belongs to none, nor does a piece of a datagram
 * without ports: no `app` holds for it.
 *
 * The table is memory that the recorder shares with reading processes, which can only read it: so they know of segments that are
 * still open what it knows. It has VERDICTS_MAX places, eight to a set, and takes 4 MiB when it is used; where a set is full,
 * any one of it makes room. What has been forgotten counts as not judged, never as something else.
 *
 * Threads: any number put, drop and get at once: a place is one word, which is written and read whole. Names are set before the first verdict.
 */
#ifndef STORAGE_VERDICTS_H
#define STORAGE_VERDICTS_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "flow_keys.h"

#define VERDICTS_MAX (1u << 19)
#define VERDICTS_NAMES_MAX 1024u
#define VERDICTS_NAME_BYTES 32u
#define VERDICT_TEXT_BYTES 64u
#define VERDICT_NOTHING "Unknown" /* layer 7 has looked at it, and knows no protocol that it could be */

struct verdicts;

/* ERR_NO_MEMORY, or what the kernel says. */
int verdicts_open(struct verdicts **verdicts, struct failure *failure);

/* Of another process's, for reading only; the descriptor stays the caller's. ERR_PROTOCOL: it is none. */
int verdicts_map(int fd, struct verdicts **verdicts);

void verdicts_close(struct verdicts **verdicts); /* null is allowed */

/* Of the memory, to be handed to a reading process. */
int verdicts_fd(const struct verdicts *verdicts);

/*
 * The names of protocols: the number of name[i] is i + 1. The first call counts, later ones change nothing: a recorder has one list.
 * Any thread, one at a time.
 */
void verdicts_name(struct verdicts *verdicts, const char *const *name, uint32_t names);

/* How many there are; 0: nobody has said. */
uint32_t verdicts_names(const struct verdicts *verdicts);

/* Whether a filter may ask for this name, in either case. Where nobody has said which there are, for any. */
bool verdicts_know(const struct verdicts *verdicts, const char *name);

/* What hashes of conversations are made with. */
uint64_t verdicts_seed(const struct verdicts *verdicts);

/* A conversation's hash, never 0. False: the packet belongs to none. */
bool verdicts_hash(const struct flow_keys *keys, uint64_t seed, uint64_t *hash);

/* Whether packets of this kind belong to none, as far as that can be told without what is inside a tunnel: then no `app` holds for them, and nobody
 * need wait for a verdict. */
bool verdicts_never(const struct flow_kind *kind);

/* The conversation is these protocols (numbers of names, 0: none): the lower one, what it carries. */
void verdicts_put(struct verdicts *verdicts, uint64_t hash, const uint16_t app[2]);

/* Whether any was ever put: where layer 7 was never asked nobody need look for what it has found. */
bool verdicts_any(const struct verdicts *verdicts);

/* It begins anew: what it was is not what it is. */
void verdicts_drop(struct verdicts *verdicts, uint64_t hash);

/* False: not judged, or forgotten. */
bool verdicts_get(const struct verdicts *verdicts, uint64_t hash, uint16_t app[2]);

/* Asks for the memory that verdicts_get() will look at. */
void verdicts_prefetch(const struct verdicts *verdicts, uint64_t hash);

/* As it is recorded: "DNS", "TLS.Example", or VERDICT_NOTHING. False: a number that is none. */
bool verdicts_text(const struct verdicts *verdicts, const uint16_t app[2], char text[VERDICT_TEXT_BYTES]);

/* Whether `app name` holds for what was recorded as `text`: the whole of it, or one of its two protocols, in either case. */
bool verdict_is(const char *text, const char *name);

#endif
