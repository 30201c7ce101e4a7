/*
 * filter.h - pcap-filter(7) expressions, compiled by libpcap and judged on stored bytes.
 *
 *     filter_open() -> { filter_for(link type) -> filter_match(packet) ... } -> filter_close()
 *
 * The answer is the one that `tcpdump -r FILE EXPRESSION` gives: for each link type libpcap
 * compiles the expression as it would for a capture file of that type (snapshot length 262,144,
 * optimised, network mask 0), and the program sees captured bytes, captured length and original
 * length. An expression that libpcap refuses for a link type matches nothing of it.
 *
 * Beside libpcap's primitives there are those of filter_words.h.
 *
 * libpcap's compiler takes hostile text: only the confined reading process calls this. Names of
 * ports and protocols come from /etc/services and /etc/protocols, if it may read them; it cannot
 * ask the network for names of hosts.
 *
 * Threads: one at a time.
 */
#ifndef STORAGE_FILTER_H
#define STORAGE_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "packet.h"
#include "packet_levels.h"
#include "verdicts.h"

enum filter_verdict {
    FILTER_EVERYTHING, /* no expression */
    FILTER_JUDGES,
    FILTER_NOTHING, /* libpcap proves that no packet of this link type can match */
    FILTER_REFUSED, /* the expression cannot be compiled for this link type: `text` says why */
};

/* The expression for one link type. The filter's, until filter_close(). */
struct filter_program {
    enum filter_verdict verdict;
    uint16_t link_type;
    char text[256];
};

struct filter;

/*
 * `text` is copied; null or only spaces: everything matches. ERR_INVALID, with libpcap's sentence,
 * where the expression compiles for no link type at all, or with the column where a word of ours is used wrongly.
 * levels_of: decodes headers for our words; null: they are refused.
 */
int filter_open(const char *text, packet_levels_of *levels_of, struct filter **out, struct failure *failure);

/* The program for a LINKTYPE_ value, compiled when first asked for. Null: no memory. */
const struct filter_program *filter_for(struct filter *filter, uint16_t link_type);

/*
 * `app NAME` is judged on the packet's conversation, so by what others know of it: bits for filter_ask(). filter_apps(): those that it
 * has, 0 where the filter does not ask; filter_app_truth(): which of them hold for what was recorded of a conversation (verdicts.h).
 */
uint32_t filter_apps(const struct filter *filter);
uint32_t filter_app_truth(const struct filter *filter, const char *verdict);

/* ERR_INVALID, with a sentence, where it asks for a protocol that `verdicts` do not know. */
int filter_check_apps(const struct filter *filter, const struct verdicts *verdicts, struct failure *failure);

enum filter_answer {
    FILTER_NO,
    FILTER_YES,
    FILTER_UNDECIDED, /* it depends on what the conversation is, and that is not known */
};

/* Of a packet whose conversation is known (`app`: the bits that hold), or is not. Undecided is never said where the rest of the
 * filter decides. */
enum filter_answer filter_ask(const struct filter_program *program, const struct packet *packet, uint32_t rule, bool known,
                              uint32_t app);

/* filter_match() asks this only where there is an expression. */
bool filter_judge(const struct filter_program *program, const struct packet *packet, uint32_t rule);

/* `rule`: the id of the rule that kept the packet; 0: none. Where the filter asks for no `app`; with one, as if none held. */
static inline bool filter_match(const struct filter_program *program, const struct packet *packet, uint32_t rule)
{
    return program->verdict == FILTER_EVERYTHING || filter_judge(program, packet, rule);
}

/* Nulls. */
void filter_close(struct filter **filter);

#endif
