/*
 * fake_classify.c - stands in for tapeloop-classify in tests: judges by a packet's last byte, and
 * misbehaves as the name that it was started by says.
 *
 * A packet that ends in k has the protocols {0, k}, of which there are three, and its flow is
 * judged at once; 'N' (named) says {0, 1} and wants more. What a name may begin with:
 *
 *     honest   nothing
 *     deaf     takes nothing
 *     slow     takes 8 packets a millisecond
 *     hang     the first process shows no sign of life after 100 packets
 *     mortal   kills itself 100 ms after it became ready
 *     refuse   ends at once, with a reason that is no clean text
 *     names-*  says odd names: none, many, twins; other (from the second process on; the first
 *              kills itself when it has taken a packet)
 *     lie-*    the first process writes what it cannot know: said, taken, app, flows, noise
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "classifier_queue.h"

static struct classifier_shared *shared;
static const char *mode;
static bool first; /* of its kind: number 1 */
static uint64_t served_packets;

static bool is(const char *name)
{
    return strncmp(mode, name, strlen(name)) == 0;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void say_names(void)
{
    static const char *const plain[] = {"Alpha", "Beta", "Gamma"};
    static const char *const twins[] = {"Alpha", "alpha", "", "Nul\x01\xff"};
    static const char *const other[] = {"Alpha", "Gamma", "Beta"};
    bool odd = is("names-twins");
    const char *const *name = odd ? twins : is("names-other") && !first ? other : plain;
    shared->names = odd ? 4 : 3;
    for (uint32_t i = 0; i < shared->names; i++)
        snprintf(shared->name[i], sizeof shared->name[i], "%s", name[i]);
    if (is("names-none"))
        shared->names = 0;
    if (is("names-many"))
        shared->names = UINT32_MAX;
    if (is("names-twins")) /* no zero at the end of the last one */
        memset(shared->name[3] + 5, 'x', CLASSIFIER_NAME_BYTES - 5);
}

static void say(struct classifier_queues *queues, uint64_t flow, uint32_t serial, uint16_t app,
                bool final)
{
    uint64_t said = atomic_load(&queues->said);
    while (said - atomic_load(&queues->heard) >= CLASSIFIER_SAID_SLOTS)
        pause_ms(1);
    queues->verdict[said % CLASSIFIER_SAID_SLOTS] = (struct classifier_said){
        .flow = flow, .serial = serial, .app = {0, app}, .flags = final ? CLASSIFIER_FINAL : 0};
    atomic_store(&queues->said, said + 1);
}

static void lie(struct classifier_queues *queues, const struct classifier_lent *packet)
{
    uint64_t said = atomic_load(&queues->said);
    if (is("lie-said"))
        atomic_store(&queues->said, said + CLASSIFIER_SAID_SLOTS + 1000);
    else if (is("lie-taken"))
        atomic_store(&queues->taken, atomic_load(&queues->lent) + (1u << 20));
    else if (is("lie-app"))
        say(queues, packet->flow, packet->serial, 4, true);
    for (uint64_t i = 1; is("lie-flows") && i < 1000; i++)
        say(queues, packet->flow ^ i << 33, packet->serial, 3, true);
    for (uint32_t i = 1; is("lie-flows") && i < 1000; i++)
        say(queues, packet->flow, packet->serial + i, 3, true);
}

/* Of the packet's IPv4; of TCP without payload nothing is said. */
static uint8_t last_byte(const struct classifier_lent *packet)
{
    uint8_t total = packet->byte[3];
    if (total == 0 || total > packet->bytes || (packet->byte[9] == 6 && total == 40))
        return 'x';
    return packet->byte[total - 1];
}

static void serve(struct classifier_queues *queues)
{
    uint32_t wanted = atomic_load(&queues->wanted);
    if (wanted != shared->number) {
        atomic_store(&queues->served, 0);
        return;
    }
    atomic_store(&queues->served, wanted);
    if (is("deaf"))
        return;
    uint64_t taken = atomic_load(&queues->taken);
    while (taken != atomic_load(&queues->lent)) {
        const struct classifier_lent *packet = &queues->packet[taken % CLASSIFIER_LENT_SLOTS];
        uint8_t last = last_byte(packet);
        if (is("lie-") && first)
            lie(queues, packet);
        if (packet->flags & CLASSIFIER_SETTLE)
            say(queues, 0, packet->serial, 0, false);
        else if (last == 'N')
            say(queues, packet->flow, packet->serial, 1, packet->flags & CLASSIFIER_LAST);
        else if (last <= 3)
            say(queues, packet->flow, packet->serial, last, true);
        if (is("lie-taken") && first)
            return;
        atomic_store(&queues->taken, ++taken);
        atomic_fetch_add(&shared->signs, 1);
        if (++served_packets >= 100 && is("hang") && first)
            for (;;)
                pause();
        if (is("slow") && served_packets % 8 == 0)
            pause_ms(1);
    }
}

/* All of the memory is noise, again and again. */
static void make_noise(void)
{
    unsigned seed = 1;
    for (;;) {
        uint32_t *word = (uint32_t *)(void *)&shared->ready;
        uint32_t *end = (uint32_t *)(void *)(&shared->port[2]);
        for (; word < end; word++)
            *(volatile uint32_t *)word = (uint32_t)rand_r(&seed) << 16 ^ (uint32_t)rand_r(&seed);
    }
}

int main(int count, char **values)
{
    const char *slash = count > 0 ? strrchr(values[0], '/') : NULL;
    mode = slash ? slash + 1 : "honest";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, CLASSIFIER_MEMORY, 0);
    if (shared == MAP_FAILED)
        return 2;
    first = shared->number == 1;
    if (is("refuse")) {
        memset(shared->failure, '\n', sizeof shared->failure);
        memcpy(shared->failure, "no \x1b[31mway", 12);
        return 1;
    }
    say_names();
    atomic_store(&shared->ready, shared->number);
    double born_s = now_s();
    if (is("lie-noise") && first) {
        pause_ms(100); /* as long as it takes to be believed */
        make_noise();
    }
    for (;;) {
        for (uint32_t i = 0; i < CLASSIFIER_PORTS_MAX; i++)
            serve(&shared->port[i]);
        atomic_fetch_add(&shared->signs, 1);
        if ((is("mortal") && now_s() - born_s > 0.1) || (is("names-other") && first && served_packets > 0))
            raise(SIGKILL);
        pause_ms(1);
    }
}
