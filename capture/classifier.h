/*
 * classifier.h - layer 7 of live traffic: what protocol a flow carries, found by nDPI in a process
 * of its own.
 *
 *     control threads                             capture thread
 *     classifier_open()
 *     classifier_names() -> rule_program_build()
 *     classifier_port_open()                -->   for each packet, after decode_packet():
 *                                                     verdict = classifier_verdict(port, ...)
 *                                                     rule_state_apply(..., verdict, ...)
 *                                                 after each batch, and where there is none
 *                                                 whenever the stream is ticked:
 *                                                     classifier_port_turn(port)
 *     classifier_port_close()               <--   when it has ended
 *     classifier_close()
 *
 * The recorder lends tapeloop-classify the first packets of each flow through a queue in shared
 * memory and hears verdicts through another one. Both are bounded. Recording never waits for the
 * process: when it is slow, work is skipped and counted; when it hangs, it is killed; when it dies,
 * it is started again, later and later while it keeps dying. Flows that were judged stay so, and
 * those that were not are lent again. Whatever lies in the shared memory is taken for hostile.
 *
 * The process is started when the first name or port is asked for, not before. Where
 * tapeloop-classify is not installed (it is built where libndpi-dev is), names and ports are
 * ERR_UNSUPPORTED with a sentence that says so, and everything else works without it.
 */
#ifndef CAPTURE_CLASSIFIER_H
#define CAPTURE_CLASSIFIER_H

#include <stdbool.h>
#include <stdint.h>

#include "decode.h"
#include "errors.h"
#include "packet.h"
#include "program.h"
#include "verdict_log.h"
#include "verdicts.h"

/* ---- the process, and what watches it ------------------------------------------------------- */

struct classifier;

#define CLASSIFIER_LENT_MAX 16            /* packets with payload of each flow that are lent */
#define CLASSIFIER_BARE_MAX 4             /* and without: TCP's handshake */
#define CLASSIFIER_PORTS_MAX 64           /* capture threads at once */
#define CLASSIFIER_NAMES_MAX 1024         /* protocols */
#define CLASSIFIER_FLOWS_USUAL (1u << 17) /* 4 MiB for each port */
#define CLASSIFIER_FLOWS_MAX (1u << 26)
#define CLASSIFIER_IDLE_S 120 /* what is not TCP, and was silent for so long, begins anew */

struct classifier_options {
    const char *program; /* path of tapeloop-classify; copied */
    /* Something that a person should know: the process has died, hangs, cannot be started. From the
     * thread that watches; must not call the classifier. May be null. */
    void (*say)(void *context, const char *severity, const char *sentence);
    void *context;
    uint32_t restart_ms; /* before the first new start; doubles from there, 0: 100 */
    uint32_t hang_ms;    /* without a sign of life, 0: 2000; at least 100 */
};

/* Starts nothing yet. ERR_NO_MEMORY. */
int classifier_open(const struct classifier_options *options, struct classifier **result,
                    struct failure *failure);

/* Ends the process, frees, nulls; all ports have been closed. A null *slot is allowed. */
void classifier_close(struct classifier **slot);

/*
 * A process that another classifier started, for somebody who may start none: the program that
 * tests rules. classifier_lend() starts it, waits until it is ready, and gives a descriptor of its
 * memory, the caller's to close; whoever has that shares all of it, so nobody else should use this
 * classifier then. classifier_borrow() owns the descriptor from then on, also when it fails, and
 * starts no thread; the process is not replaced when it dies, which classifier_counters() shows.
 * Errors as of classifier_names().
 */
int classifier_lend(struct classifier *classifier, int *memory, struct failure *failure);
int classifier_borrow(int memory, struct classifier **result, struct failure *failure);

/*
 * The names of protocols as nDPI has them, for rule_program_options.app: the verdicts' number for
 * name[i] is i + 1. They stay the same, and readable, until classifier_close(). Starts the process
 * and waits for it where that has not been done: not for a capture thread, otherwise any thread.
 * ERR_UNSUPPORTED: there is no such program; ERR_TIMEOUT, ERR_PROTOCOL and others: it does not come
 * up.
 */
int classifier_names(struct classifier *classifier, const char *const **name, uint32_t *names,
                     struct failure *failure);

/* Since classifier_open(), of all ports, those that have been closed too. Packets are those lent.
 */
struct classifier_counters {
    uint64_t lent;     /* packets handed to the process */
    uint64_t skipped;  /* packets that it should have had, but there was no room */
    uint64_t verdicts; /* flows judged, as unknown to nDPI too */
    uint64_t unknown;  /* of these: no protocol found */
    uint64_t stale;    /* verdicts for flows that had been forgotten meanwhile */
    uint64_t starts;   /* of the process; the first one counts */
    uint64_t hangs;    /* of which one was killed for */
    bool running;
};

/* Any thread. */
void classifier_counters(struct classifier *classifier, struct classifier_counters *counters);

/* ---- a capture thread's end ------------------------------------------------------------------ */

struct classifier_port;

/*
 * For one capture thread, which alone uses it from then on. Remembers at least `flows` flows (0:
 * CLASSIFIER_FLOWS_USUAL), and forgets the one that was silent for the longest when there are more.
 * Starts the process where that has not been done, without waiting for it. Any thread.
 * ERR_UNSUPPORTED as above; ERR_NO_MEMORY; ERR_TOO_LARGE: CLASSIFIER_PORTS_MAX,
 * CLASSIFIER_FLOWS_MAX.
 */
int classifier_port_open(struct classifier *classifier, uint32_t flows,
                         struct classifier_port **result, struct failure *failure);

/*
 * What is found is written there from now on, for who seals segments and reads them (verdicts.h): each conversation's protocols as they
 * become known, and again now and then as long as it has packets. Before the capture thread uses the port. `verdicts` has the names
 * of this classifier, and stays open longer than the port.
 */
void classifier_port_record(struct classifier_port *port, struct verdicts *verdicts);

/*
 * And it is written down of which packets it holds (verdict_log.h), where it is recorded at all: before each batch the number that its first packet will have at least is
 * said, and by the way that all is known of those before it. The capture thread's; `stream` stays open longer than the port.
 */
void classifier_port_log(struct classifier_port *port, struct verdict_stream *stream);
void classifier_port_at(struct classifier_port *port, uint64_t number);

/* Frees and nulls. Any thread, when the capture thread is done with it. A null *slot is allowed. */
void classifier_port_close(struct classifier_port **slot);

/*
 * What is known of the packet's flow: conversations as decoded_flow_hash() tells them apart, by the
 * innermost addresses, protocol and ports, both directions together. Lends the packet if its flow
 * is to be judged yet. `decoded` is of the same packet. No allocation, lock or system call.
 *
 * A flow of which nDPI has made nothing is known as such: {false, {0, 0}}. A first fragment belongs
 * to its flow, a later one (it has no ports) is unknown for ever. A packet without IP:
 * RULE_VERDICT_NONE.
 */
struct rule_verdict classifier_verdict(struct classifier_port *port, const struct packet *packet,
                                       const struct decoded_packet *decoded);

/* Hears verdicts and wakes the process if there is work for it: at most one system call. Between
 * batches, and some times a second where no packets come. */
void classifier_port_turn(struct classifier_port *port);

/* How many of the packets lent the process has not taken yet; 0 where there is none. For whoever
 * can wait and would rather do that than have packets skipped. The port's thread. */
uint32_t classifier_port_pending(struct classifier_port *port);

/*
 * For tests and tools: lets the process give up every flow of this port that it has not judged, and
 * waits until it has been heard, classifier_port_turn() included. ERR_TIMEOUT, ERR_CLOSED (the
 * process died meanwhile). Not for a capture thread at work.
 */
int classifier_port_settle(struct classifier_port *port, uint32_t timeout_ms);

#endif
