/*
 * sieve.h - packets for which no condition of a list holds, told from a few bytes of them.
 *
 * Most packets are what no rule asks for: the same rule is first for all of them, and which it is
 * has been known since the list was compiled. To see that a packet is one of them takes less than
 * decoding and matching it: its addresses, ports and tags are looked up in tables of bits, straight
 * from where a plain packet has them.
 *
 *     sieve_open(list, &sieve)                       when the list is compiled
 *     sieve_pass(sieve, packet, count, ..., left)    for some packets: those that are *left*
 *
 * What is left must be decoded and matched. Packets are left that are not plain, those for which a
 * condition holds, and some more: many values share a bit. A packet for which a condition holds is
 * never passed; that alone is what matching relies on.
 */
#ifndef RULES_SIEVE_H
#define RULES_SIEVE_H

#include <stdint.h>

#include "decode.h"
#include "packet.h"
#include "rule.h"

struct sieve;

/*
 * A sieve for the list's conditions on outer addresses, ports, MACs and tags; what other kinds ask
 * for it does not see, so that it is for lists without `inner`, `app` and `bpf`. Null where there
 * is nothing to ask. ERR_NO_MEMORY.
 */
int sieve_open(const struct rule_list *list, struct sieve **sieve);

/* Frees and nulls. A null *sieve is allowed. */
void sieve_close(struct sieve **sieve);

/*
 * Puts the places of those of 1 to DECODE_BATCH packets that are left into `left`, in order, and
 * returns how many. The interface of the first packet is of Ethernet; packets of another are left.
 * `behind` as in decode_batch(). Never reads beyond captured bytes; any thread.
 */
uint32_t sieve_pass(const struct sieve *sieve, const struct packet *packet, uint32_t count,
                    uint32_t behind, uint8_t left[DECODE_BATCH]);

#endif
