/*
 * filter_words.h - the primitives of the filter language that libpcap does not have.
 *
 *     filter_words_open(text) -> { filter_words_text(truth) ... filter_words_judge(packet) ... } ->
 * filter_words_close()
 *
 *     flow A:P B:Q [tcp|udp]   one conversation, both directions; [2001:db8::1]:443. Also inside tunnels
 *     community 1:...          its Community ID (version 1, seed 0)
 *     inner PRIMITIVE          an IP header in a tunnel or behind MPLS labels, and what follows it, is a packet that matches
 *     outer PRIMITIVE          the first IP header is, whatever tags and labels stand before it
 *     rule N                   what the rule with this number in the ring kept
 *     app NAME                 layer 7 has found that the packet's conversation is NAME (verdicts.h); one of its two protocols is enough. In quotes
 *                              where it is not a word
 *     after T, before T        not earlier than T; earlier. RFC 3339, with a zone
 *
 * They are found where a primitive can begin. libpcap gets the rest of the text, with a primitive
 * in the place of each word of ours that is always true, or never: one program for each way in
 * which our words can turn out. So all that it does, offsets that `vlan` moves for the rest of the
 * text above all, is what it would have done; nothing of its grammar has to be known here.
 *
 * The text is hostile. Threads: one at a time.
 */
#ifndef STORAGE_FILTER_WORDS_H
#define STORAGE_FILTER_WORDS_H

#include <stdint.h>

#include "errors.h"
#include "packet.h"
#include "packet_levels.h"
#include "verdicts.h"

#define FILTER_WORDS_MAX 6u /* 64 programs a link type */

struct filter_words;

/* ERR_INVALID: with the column, from 1, and what was expected there. `text` need not stay. */
int filter_words_open(const char *text, struct filter_words **words, struct failure *failure);

uint32_t filter_words_count(const struct filter_words *words);

/* The text with the i-th word true where bit i of `truth` is set. The caller's to free(); null: no
 * memory. */
char *filter_words_text(const struct filter_words *words, uint32_t truth);

/* Which of them are `app`: bits as of `truth`. */
uint32_t filter_words_apps(const struct filter_words *words);

/* Which of those hold for what was recorded of a conversation. */
uint32_t filter_words_app_truth(const struct filter_words *words, const char *verdict);

/* ERR_INVALID, with the column, where one of them asks for a name that `verdicts` do not know. */
int filter_words_check_apps(const struct filter_words *words, const struct verdicts *verdicts, struct failure *failure);

/* Which of the words are true of a packet: `truth`; not of `app`, which no packet says. `rule`: the id that it was stored under. */
uint32_t filter_words_judge(const struct filter_words *words, packet_levels_of *levels_of,
                            uint16_t link_type, const struct packet *packet, uint32_t rule);

/* Nulls; null is allowed. */
void filter_words_close(struct filter_words **words);

#endif
