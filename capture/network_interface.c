/*
 * network_interface.c - ioctls of netdevice(7) and one question of rtnetlink(7).
 */
#include "network_interface.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "source.h"

/* ---- facts ---------------------------------------------------------------------------------- */

static int interface_unknown(const char *name, struct failure *failure)
{
    char list[256] = "";
    size_t used = 0;
    struct if_nameindex *all = if_nameindex();
    for (size_t i = 0; all != NULL && all[i].if_index != 0; i++) {
        int written =
            snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", all[i].if_name);
        if (written < 0 || (size_t)written >= sizeof list - used) {
            snprintf(list + (used < sizeof list - 4 ? used : sizeof list - 4), 4, "...");
            break;
        }
        used += (size_t)written;
    }
    if (all != NULL)
        if_freenameindex(all);
    return fail(failure, ERR_NOT_FOUND, "there is no interface %s; there are: %s", name,
                list[0] != '\0' ? list : "none");
}

/* One ioctl on an interface by its name. */
static int ask(int fd, const char *name, unsigned long question, struct ifreq *answer,
               struct failure *failure)
{
    memset(answer, 0, sizeof *answer);
    snprintf(answer->ifr_name, sizeof answer->ifr_name, "%s", name);
    if (ioctl(fd, question, answer) == 0)
        return 0;
    if (errno == ENODEV)
        return interface_unknown(name, failure);
    return fail_errno(failure, errno, "interface %s: cannot be asked about", name);
}

int network_interface_read(int fd, const char *name, struct network_interface *interface,
                           struct failure *failure)
{
    struct ifreq answer;
    int result = ask(fd, name, SIOCGIFINDEX, &answer, failure);
    if (result < 0)
        return result;
    interface->index = answer.ifr_ifindex;
    result = ask(fd, name, SIOCGIFHWADDR, &answer, failure);
    if (result < 0)
        return result;
    interface->hardware_type = answer.ifr_hwaddr.sa_family;
    memset(interface->hardware, 0, sizeof interface->hardware);
    if (interface->hardware_type == ARPHRD_ETHER)
        memcpy(interface->hardware, answer.ifr_hwaddr.sa_data, sizeof interface->hardware);
    result = ask(fd, name, SIOCGIFMTU, &answer, failure);
    if (result < 0)
        return result;
    interface->mtu = answer.ifr_mtu > 0 ? (uint32_t)answer.ifr_mtu : 0;
    result = ask(fd, name, SIOCGIFFLAGS, &answer, failure);
    if (result < 0)
        return result;
    interface->up = (answer.ifr_flags & IFF_UP) != 0;
    return 0;
}

enum { LINK_ETHERNET = 1, LINK_RAW = 101, LINK_80211 = 105, LINK_PRISM = 119, LINK_RADIOTAP = 127 };

int network_link_type(const char *name, uint16_t hardware_type, uint16_t *link_type,
                      struct failure *failure)
{
    switch (hardware_type) {
    case ARPHRD_ETHER:
    case ARPHRD_LOOPBACK:
        *link_type = LINK_ETHERNET;
        return 0;
    case ARPHRD_NONE:
    case ARPHRD_RAWIP:
    case ARPHRD_TUNNEL:
    case ARPHRD_TUNNEL6:
    case ARPHRD_SIT:
        *link_type = LINK_RAW;
        return 0;
    case ARPHRD_IEEE80211:
        *link_type = LINK_80211;
        return 0;
    case ARPHRD_IEEE80211_PRISM:
        *link_type = LINK_PRISM;
        return 0;
    case ARPHRD_IEEE80211_RADIOTAP:
        *link_type = LINK_RADIOTAP;
        return 0;
    default:
        return fail(failure, ERR_UNSUPPORTED,
                    "interface %s: its hardware type %u has no link type that this backend knows; "
                    "try the backend pcap",
                    name, hardware_type);
    }
}

uint32_t network_frame_max(uint16_t link_type, uint32_t mtu)
{
    enum { ETHERNET_BYTES = 14, TAGS_BYTES = 8 };
    switch (link_type) {
    case LINK_ETHERNET:
        return mtu + ETHERNET_BYTES + TAGS_BYTES;
    case LINK_RAW:
        return mtu;
    default:
        return UINT32_MAX; /* radio frames are not merged, and their headers vary */
    }
}

int network_names_check(const char *const *names, uint32_t count, size_t bytes_max,
                        struct failure *failure)
{
    if (count == 0)
        return fail(failure, ERR_INVALID, "no interface to capture from was given");
    if (count > SOURCE_INTERFACES_MAX)
        return fail(failure, ERR_INVALID, "at most %d interfaces at once", SOURCE_INTERFACES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        if (names[i][0] == '\0' || strlen(names[i]) > bytes_max)
            return fail(failure, ERR_INVALID,
                        "an interface's name has 1 to %zu characters: '%.40s'", bytes_max,
                        names[i]);
        for (uint32_t earlier = 0; earlier < i; earlier++) {
            if (strcmp(names[i], names[earlier]) == 0)
                return fail(failure, ERR_INVALID, "interface %s is given twice", names[i]);
        }
    }
    return 0;
}

int network_no_privilege(const char *name, struct failure *failure)
{
    return fail(
        failure, ERR_PERMISSION,
        "interface %s: capturing needs the capability CAP_NET_RAW: run as root, or give it to "
        "the program with `setcap cap_net_raw+ep`",
        name);
}

/* ---- drops by the adapter ------------------------------------------------------------------- */

int network_drops_open(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    /* The kernel answers at once; should it ever not, counting must not hold up the capture. */
    const struct timeval patience = {.tv_usec = 100000};
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/* The answer to question `sequence`, skipping late ones to earlier questions. Null: none. */
static struct nlmsghdr *drops_answer(int fd, uint32_t sequence, void *buffer, size_t room,
                                     size_t *count)
{
    for (;;) {
        ssize_t received = recv(fd, buffer, room, 0);
        if (received < 0 && errno == EINTR)
            continue;
        if (received < (ssize_t)sizeof(struct nlmsghdr))
            return NULL;
        struct nlmsghdr *answer = buffer;
        *count = (size_t)received;
        if (answer->nlmsg_seq != sequence)
            continue;
        bool whole = NLMSG_OK(answer, *count) && answer->nlmsg_type == RTM_NEWLINK;
        return whole ? answer : NULL;
    }
}

uint64_t network_drops(int fd, int index)
{
    static _Thread_local uint32_t sequence;
    struct {
        struct nlmsghdr header;
        struct ifinfomsg interface;
    } question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = RTM_GETLINK,
                   .nlmsg_flags = NLM_F_REQUEST,
                   .nlmsg_seq = ++sequence},
        .interface = {.ifi_index = index},
    };
    _Alignas(struct nlmsghdr) char buffer[16384];
    size_t count;
    if (fd < 0 || send(fd, &question, sizeof question, 0) < 0)
        return 0;
    struct nlmsghdr *answer = drops_answer(fd, sequence, buffer, sizeof buffer, &count);
    if (answer == NULL || answer->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return 0;
    const struct ifinfomsg *interface = NLMSG_DATA(answer);
    int left = (int)IFLA_PAYLOAD(answer);
    for (const struct rtattr *attribute = IFLA_RTA(interface); RTA_OK(attribute, left);
         attribute = RTA_NEXT(attribute, left)) {
        struct rtnl_link_stats64 statistics = {0};
        if (attribute->rta_type != IFLA_STATS64)
            continue;
        size_t bytes = RTA_PAYLOAD(attribute);
        memcpy(&statistics, RTA_DATA(attribute),
               bytes < sizeof statistics ? bytes : sizeof statistics);
        return statistics.rx_missed_errors + statistics.rx_fifo_errors;
    }
    return 0;
}

/* ---- offloads that merge frames ------------------------------------------------------------------ */

static bool ethtool(int fd, const char *name, void *command)
{
    struct ifreq request = {.ifr_data = command};
    memcpy(request.ifr_name, name, strnlen(name, sizeof request.ifr_name - 1));
    return ioctl(fd, SIOCETHTOOL, &request) == 0;
}

const char *network_unmerge(const char *name)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    struct ethtool_value gro = {.cmd = ETHTOOL_GGRO}, flags = {.cmd = ETHTOOL_GFLAGS};
    bool gro_off = false, lro_off = false;
    if (ethtool(fd, name, &gro) && gro.data != 0) {
        struct ethtool_value off = {.cmd = ETHTOOL_SGRO};
        struct ethtool_value now = {.cmd = ETHTOOL_GGRO};
        gro_off = ethtool(fd, name, &off) && ethtool(fd, name, &now) && now.data == 0;
    }
    if (ethtool(fd, name, &flags) && (flags.data & ETH_FLAG_LRO)) {
        struct ethtool_value off = {.cmd = ETHTOOL_SFLAGS, .data = flags.data & ~(uint32_t)ETH_FLAG_LRO};
        struct ethtool_value now = {.cmd = ETHTOOL_GFLAGS};
        lro_off = ethtool(fd, name, &off) && ethtool(fd, name, &now) && !(now.data & ETH_FLAG_LRO);
    }
    close(fd);
    return gro_off && lro_off ? "GRO and LRO" : gro_off ? "GRO" : lro_off ? "LRO" : NULL;
}
