/*
 * netns.h - two network namespaces with veth pairs between them, for tests with live packets.
 *
 * The namespaces belong to this process alone and vanish with it, however it ends; nothing of the
 * machine's own network is touched. In each of them IPv6 and ARP are off, so that no packet flows
 * but those that a test sends.
 *
 *     netns_make, netns_enter, netns_sender ... netns_free
 */
#ifndef TESTS_NETNS_H
#define TESTS_NETNS_H

#include <stddef.h>
#include <stdint.h>

enum netns_side { NETNS_LEFT, NETNS_RIGHT };

struct netns {
    int side[2]; /* descriptors of the two namespaces */
    int home;    /* of the one that we came from */
};

#define NETNS_MTU 9000

/*
 * Makes both, and `pairs` veth pairs: left0 to right0, left1 to right1 ... Ends the program with 77
 * and a sentence where this machine does not let us.
 */
void netns_make(struct netns *netns, unsigned pairs);
void netns_free(struct netns *netns);

/* Puts the calling thread into one of the namespaces, or back home. */
void netns_enter(const struct netns *netns, enum netns_side side);
void netns_leave(const struct netns *netns);

/* Runs a shell command in one of the namespaces; its exit status. */
int netns_run(const struct netns *netns, enum netns_side side, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Waits until the kernel has noticed that an interface of a pair can send: that both ends are up is not enough, and
 * what is sent before is thrown away without a word.
 */
void netns_await_up(const struct netns *netns, enum netns_side side, const char *interface);

/* A raw packet socket on an interface, to send frames with netns_send(). The caller closes it. */
int netns_sender(const struct netns *netns, enum netns_side side, const char *interface);

/* Sends one frame, waiting for room where there is none; any failure ends the test. */
void netns_send(int sender, const uint8_t *frame, size_t bytes);

/*
 * How many packets an interface of a veth pair has handed to the other end, so far. Of what send(2) took, that may lack some:
 * the queue between the two overflows where nobody else gets to run.
 */
uint64_t netns_sent(const struct netns *netns, enum netns_side side, const char *interface);
/* The same in the namespace that the calling thread is in; and for who asks after each packet, by a descriptor of the caller's. */
uint64_t netns_sent_here(const char *interface);
int netns_table_open(void);
uint64_t netns_table_sent(int table, const char *interface);

#endif
