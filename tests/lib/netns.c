/*
 * netns.c - namespaces by unshare(2), links by ip(8).
 */
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void skip(const char *what)
{
    printf("skipped: %s: %s\n", what, strerror(errno));
    exit(77);
}

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

/* Waking devices, the kernel sends IPv6 and IGMP of its own accord: not here. */
static void silence(void)
{
    static const char *const file[] = {"/proc/sys/net/ipv6/conf/all/disable_ipv6",
                                       "/proc/sys/net/ipv6/conf/default/disable_ipv6"};
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        int fd = open(file[i], O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            continue; /* a kernel without IPv6 */
        if (write(fd, "1\n", 2) != 2)
            give_up(file[i]);
        close(fd);
    }
}

static int namespace_make(void)
{
    if (unshare(CLONE_NEWNET) < 0)
        skip("network namespaces cannot be made (run as root)");
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        give_up("/proc/thread-self/ns/net");
    silence();
    return fd;
}

void netns_enter(const struct netns *netns, enum netns_side side)
{
    if (setns(netns->side[side], CLONE_NEWNET) < 0)
        give_up("setns");
}

void netns_leave(const struct netns *netns)
{
    if (setns(netns->home, CLONE_NEWNET) < 0)
        give_up("setns");
}

int netns_run(const struct netns *netns, enum netns_side side, const char *format, ...)
{
    char command[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        netns_enter(netns, side);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            give_up("waitpid");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

void netns_await_up(const struct netns *netns, enum netns_side side, const char *interface)
{
    for (unsigned look = 0; look < 1000; look++) {
        if (netns_run(netns, side, "ip link show dev %s | grep -q 'state UP'", interface) == 0)
            return;
        poll(NULL, 0, 10);
    }
    give_up("an interface does not come up");
}

void netns_make(struct netns *netns, unsigned pairs)
{
    netns->home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (netns->home < 0)
        skip("/proc/thread-self/ns/net");
    netns->side[NETNS_LEFT] = namespace_make();
    netns->side[NETNS_RIGHT] = namespace_make();
    netns_leave(netns);
    for (unsigned pair = 0; pair < pairs; pair++) {
        char name[16];
        if (netns_run(netns, NETNS_LEFT,
                      "ip link add name left%u mtu %d type veth peer name right%u mtu %d "
                      "netns /proc/%d/fd/%d",
                      pair, NETNS_MTU, pair, NETNS_MTU, (int)getpid(),
                      netns->side[NETNS_RIGHT]) != 0) {
            printf("skipped: this machine makes no veth pairs (is iproute2 installed?)\n");
            exit(77);
        }
        if (netns_run(netns, NETNS_LEFT, "ip link set left%u arp off up", pair) != 0 ||
            netns_run(netns, NETNS_RIGHT, "ip link set right%u arp off up", pair) != 0)
            give_up("ip link set up");
        snprintf(name, sizeof name, "left%u", pair);
        netns_await_up(netns, NETNS_LEFT, name);
        snprintf(name, sizeof name, "right%u", pair);
        netns_await_up(netns, NETNS_RIGHT, name);
    }
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        skip("packet sockets cannot be made (CAP_NET_RAW)");
    close(fd);
}

void netns_free(struct netns *netns)
{
    netns_leave(netns);
    close(netns->side[NETNS_LEFT]);
    close(netns->side[NETNS_RIGHT]);
    close(netns->home);
}

/* Where the thread is, to come back to with put_back(). */
static int remember(void)
{
    int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (here < 0)
        give_up("/proc/thread-self/ns/net");
    return here;
}

static void put_back(int here)
{
    if (setns(here, CLONE_NEWNET) < 0)
        give_up("setns");
    close(here);
}

int netns_sender(const struct netns *netns, enum netns_side side, const char *interface)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET};
    int here = remember();
    netns_enter(netns, side);
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    address.sll_ifindex = (int)if_nametoindex(interface);
    if (fd < 0 || address.sll_ifindex == 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        give_up(interface);
    put_back(here);
    return fd;
}

int netns_table_open(void)
{
    int table = open("/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
    if (table < 0)
        give_up("/proc/thread-self/net/dev");
    return table;
}

uint64_t netns_table_sent(int table, const char *interface)
{
    char text[8192], *state = NULL;
    ssize_t count = pread(table, text, sizeof text - 1, 0);
    if (count < 0)
        give_up("/proc/thread-self/net/dev");
    text[count] = '\0';
    for (char *line = strtok_r(text, "\n", &state); line != NULL; line = strtok_r(NULL, "\n", &state)) {
        char *name = line + strspn(line, " ");
        size_t bytes = strlen(interface);
        if (strncmp(name, interface, bytes) != 0 || name[bytes] != ':')
            continue;
        /* Eight numbers of what came in, then bytes and packets of what went out. */
        unsigned long long sent = 0;
        char *number = name + bytes + 1;
        for (int column = 0; column < 10; column++)
            sent = strtoull(number, &number, 10);
        return sent;
    }
    give_up(interface);
    return 0;
}

uint64_t netns_sent_here(const char *interface)
{
    int table = netns_table_open();
    uint64_t sent = netns_table_sent(table, interface);
    close(table);
    return sent;
}

uint64_t netns_sent(const struct netns *netns, enum netns_side side, const char *interface)
{
    int here = remember();
    netns_enter(netns, side);
    uint64_t sent = netns_sent_here(interface);
    put_back(here);
    return sent;
}

void netns_send(int sender, const uint8_t *frame, size_t bytes)
{
    while (send(sender, frame, bytes, 0) != (ssize_t)bytes) {
        struct pollfd room = {.fd = sender, .events = POLLOUT};
        if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
            give_up("send");
        poll(&room, 1, 1);
    }
}
