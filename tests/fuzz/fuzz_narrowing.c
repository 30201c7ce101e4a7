/*
 * fuzz_narrowing.c - arbitrary text as a filter, judged against libpcap.
 *
 * What libpcap compiles and matches on one of a few packets, the tree must not say "none" of.
 */
#include "fuzz.h"

#include <assert.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "level_list.h"
#include "narrowing.h"
#include "packet_keys.h"
#include "packet_mixer.h"

#define PACKETS 200u
#define TEXT_BYTES_MAX 400u

static struct {
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t count;
    struct flow_keys keys;
} made[PACKETS];

static void make_packets(void)
{
    struct mixer mixer = {.state = 21};
    for (uint32_t i = 0; i < PACKETS; i++) {
        struct decoded_packet decoded;
        made[i].count = mixer_packet(&mixer, made[i].bytes);
        decode_packet(LINK_ETHERNET, made[i].bytes, made[i].count, &decoded);
        packet_keys_fill(LINK_ETHERNET, made[i].bytes, made[i].count, &decoded, &made[i].keys);
    }
}

/* libpcap asks for names, over the network where there is one; here nothing has a name. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result)
{
    (void)node, (void)service, (void)hints, (void)result;
    return EAI_NONAME;
}

/*
 * `protochain` compiles to a loop, and other names come from files of this machine: only texts all of
 * whose words are known are compared with it.
 */
static bool is_for_libpcap(const char *text)
{
    static const char *const known[] = {
        "host", "net", "port", "portrange", "proto", "src", "dst", "and", "or", "not", "ip", "ip6",
        "arp", "rarp", "tcp", "udp", "icmp", "icmp6", "sctp", "ether", "vlan", "mpls", "pppoes",
        "pppoed", "geneve", "mask", "len", "broadcast", "multicast", "less", "greater", "x", "flow", "community", "inner", "rule"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    if (strspn(text, "0123456789.:/()&|!<>=[]+-* \\\n_abcdefghijklmnopqrstuvwxyz") != strlen(text))
        return false;
    for (const char *at = text + strcspn(text, letters); *at != '\0'; at += strcspn(at, letters)) {
        size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_-."), i = 0;
        while (i < sizeof known / sizeof known[0] &&
               (strlen(known[i]) != length || strncmp(at, known[i], length) != 0))
            i++;
        if (i == sizeof known / sizeof known[0])
            return false;
        at += length;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    char text[TEXT_BYTES_MAX + 1];
    struct narrowing *tree;
    struct filter *filter;
    struct failure failure;
    if (made[0].count == 0)
        make_packets();
    if (count > TEXT_BYTES_MAX)
        count = TEXT_BYTES_MAX;
    memcpy(text, bytes, count);
    text[count] = '\0';
    if (narrowing_open(text, &tree) != 0)
        return 0;
    if (is_for_libpcap(text) && filter_open(text, packet_levels, &filter, &failure) == 0) {
        const struct filter_program *program = filter_for(filter, LINK_ETHERNET);
        for (uint32_t i = 0; i < PACKETS; i++) {
            const struct packet packet = {.bytes = made[i].bytes,
                                          .captured_bytes = made[i].count,
                                          .original_bytes = made[i].count};
            const struct flow_seen seen = {.ways = (uint8_t)(FLOW_WAY_0 << made[i].keys.from)};
            if (filter_match(program, &packet, 0))
                assert(narrowing_judge(tree, &made[i].keys, &seen) != NARROWING_NONE);
        }
        filter_close(&filter);
    }
    narrowing_close(&tree);
    return 0;
}
