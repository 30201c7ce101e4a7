/*
 * traffic.c - sends the generator's traffic out of an interface, at a bounded rate: something to
 * record for the quick start and for tests.
 *
 *     tapeloop-traffic INTERFACE [PACKETS_PER_SECOND [SECONDS [SEED [CAPTURE]]]]
 *
 * Or the packets of a capture file, as it is. Ends with that, when the time is over (0: never), on SIGTERM or SIGINT, and with whoever started it. Writes
 * the number of packets that the interface has handed on to standard output. Meant for interfaces in a network namespace of
 * their own: the addresses are invented.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "netns.h"
#include "source.h"

#define RATE_DEFAULT 5000u
#define RATE_MAX 1000000u
#define FLOWS 2000u
#define HOSTS 500u
#define TURN_NS 5000000 /* packets go out in bursts, so far apart at most */
#define SECOND_NS INT64_C(1000000000)

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static bool number_read(const char *text, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value > max)
        return false;
    *number = value;
    return true;
}

/* A packet socket that sends from `interface` and receives nothing. */
static int socket_open(const char *interface)
{
    unsigned index = if_nametoindex(interface);
    if (index == 0)
        return -1;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)index};
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends the packets of one batch. A full queue is waited for; a packet that the interface does not
 * take is left out. */
static void batch_send(int fd, const struct source_batch *batch)
{
    for (uint32_t i = 0; i < batch->count && !stopped; i++) {
        const struct packet *packet = &batch->packet[i];
        for (;;) {
            if (send(fd, packet->bytes, packet->captured_bytes, 0) >= 0)
                break;
            if ((errno != ENOBUFS && errno != EAGAIN && errno != EINTR) || stopped)
                break;
            nanosleep(&(struct timespec){.tv_nsec = TURN_NS}, NULL);
        }
    }
}

/* Keeps to the rate: sleeps until `count` packets are due. False when it is time to end. */
static bool wait_for_turn(int64_t began_ns, uint64_t count, uint64_t rate, uint64_t seconds)
{
    for (;;) {
        int64_t passed_ns = clock_ns() - began_ns;
        if (stopped || (seconds > 0 && passed_ns >= (int64_t)seconds * SECOND_NS))
            return false;
        if ((double)passed_ns * (double)rate / 1e9 >= (double)count)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = TURN_NS}, NULL);
    }
}

/* The generator, or a file where `capture` is not null. */
static int traffic_open(const char *capture, uint64_t seed, struct source **source, struct failure *failure)
{
    const struct source_generator_options options = {.seed = seed, .flows = FLOWS, .hosts = HOSTS};
    if (!capture)
        return source_generator_open(&options, source, failure);
    int file = open(capture, O_RDONLY | O_CLOEXEC);
    return file < 0 ? fail_errno(failure, errno, "%s", capture) : source_file_open(file, capture, source, failure);
}

static int traffic_send(int fd, const char *interface, uint64_t rate, uint64_t seconds, uint64_t seed, const char *capture)
{
    struct source *source = NULL;
    struct failure failure = {0};
    if (traffic_open(capture, seed, &source, &failure) != 0) {
        fprintf(stderr, "tapeloop-traffic: %s\n", failure.text);
        return 1;
    }
    int64_t began_ns = clock_ns();
    uint64_t made = 0;
    uint64_t before = netns_sent_here(interface);
    struct source_batch *batch = calloc(1, sizeof *batch);
    while (batch && wait_for_turn(began_ns, made, rate, seconds)) {
        if (source_next(source, batch, 0) <= 0)
            break;
        made += batch->count;
        batch_send(fd, batch);
        source_release(source, batch);
    }
    free(batch);
    source_close(&source);
    printf("%" PRIu64 "\n", netns_sent_here(interface) - before);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t rate = RATE_DEFAULT;
    uint64_t seconds = 0;
    uint64_t seed = 1;
    if (argc < 2 || argc > 6 ||
        (argc > 2 && (!number_read(argv[2], RATE_MAX, &rate) || rate == 0)) ||
        (argc > 3 && !number_read(argv[3], UINT32_MAX, &seconds)) ||
        (argc > 4 && !number_read(argv[4], UINT64_MAX, &seed))) {
        fprintf(stderr,
                "usage: tapeloop-traffic INTERFACE [PACKETS_PER_SECOND [SECONDS [SEED [CAPTURE]]]]\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        return 1;
    int fd = socket_open(argv[1]);
    if (fd < 0) {
        fprintf(stderr, "tapeloop-traffic: interface %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    int status = traffic_send(fd, argv[1], rate, seconds, seed, argc > 5 ? argv[5] : NULL);
    close(fd);
    return status;
}
