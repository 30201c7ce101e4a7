/*
 * Headers of hostile packets. The first two bytes choose the link type, the rest is the packet.
 * What the short cut says must be what the walk says, offsets must lie in order, the same bytes
 * without their end must not be decoded to more, what rules keep of the packet must not be more
 * than it has, and what they decide must not depend on who decoded it.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "duplicate.h"
#include "fuzz.h"
#include "packet_keys.h"
#include "program.h"
#include "rule_text.h"

static void check(bool good)
{
    if (!good)
        abort();
}

static struct rule_state *state;
static struct rule_state *applying, *judging; /* of the same list, which has a sieve */
static struct duplicate_table *duplicates;

static struct rule_state *state_of(const char *rules)
{
    struct rule_list list;
    struct rule_program *program;
    struct rule_state *made;
    const struct rule_state_options options = {.flows = 64};
    check(rule_list_parse(rules, &list, NULL, NULL) == 0);
    check(rule_program_build(&list, NULL, &program, NULL) == 0);
    check(rule_state_open(program, &options, &made, NULL) == 0);
    rule_program_release(&program);
    rule_list_clear(&list);
    return made;
}

static void make_state(void)
{
    static const char rules[] = "inner ip 10.0.0.0/8 and not inner port 80 : headers l3+l4+7\n"
                                "inner ip ::/1 and inner tcp port 0-65535 : headers l3\n"
                                "ip 0.0.0.0/2 and not vlan 5 : flow 1000\n"
                                "mac 00:00:00:00:00:00/3 and udp port 0-40000 : sample 1/3\n"
                                "ip ::/2 : headers l3+l4\n"
                                "bpf 'ip6[6] = 6 or tcp[13] = 2' : snap 40\n"
                                "bpf 'len > 100' : headers l3+l4+1\n";
    static const char plain[] = "ip 10.0.0.0/9 and not vlan 5 : flow 1000\n"
                                "mac 00:00:00:00:00:00/12 and udp port 0-4000 : sample 1/3\n"
                                "ip fe80::/10 : headers l3+l4\n"
                                "ip 2001:db8:0:1::/64 and not port 80 : headers l3\n"
                                "tcp port 79-443 and vlan 5 : snap 40\n"
                                "port 60000-65535 : headers l3+l4+1\n"
                                "not ip 192.0.0.0/7 and not vlan 7 : full\n"
                                "all : discard\n";
    const struct duplicate_options both = {.entries = 64, .ignore_hops = true, .ignore_tags = true};
    state = state_of(rules);
    applying = state_of(plain);
    judging = state_of(plain);
    check(duplicate_open(&both, &duplicates, NULL) == 0);
}

/* `slowly` is what the walk makes of the packet. */
static void check_judging(const struct packet *packet, uint16_t link_type,
                          const struct decoded_packet *slowly)
{
    struct rule_outcome wanted, got;
    rule_state_apply(applying, packet, slowly, RULE_VERDICT_NONE, &wanted);
    bool alike = rule_state_judge(judging, packet, 1, 0, &link_type, &got);
    check(!alike || (wanted.decision == RULE_STORE && !wanted.cut));
    check(got.rule == wanted.rule && got.decision == wanted.decision &&
          got.keep_bytes == wanted.keep_bytes && got.cut == wanted.cut);
}

/* A plain packet's words say what its keys do. */
static void check_plain(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes)
{
    struct flow_plain plain, again;
    struct flow_keys keys, whole;
    packet_keys_of(link_type, bytes, captured_bytes, NULL, &keys);
    if (!packet_keys_of(link_type, bytes, captured_bytes, &plain, NULL))
        return;
    flow_plain_keys(&plain, &whole);
    check(memcmp(&whole, &keys, FLOW_KEY_BYTES) == 0 && flow_plain_from(plain.word[3]) == keys.from &&
          flow_plain_tcp_flags(plain.word[3]) == keys.tcp_flags);
    check(flow_keys_plain(&keys, &again) && memcmp(plain.word, again.word, sizeof plain.word) == 0);
}

static void check_levels(const struct decoded_packet *decoded, uint32_t captured_bytes)
{
    uint32_t before = 0;
    check(decoded->levels <= DECODE_LEVELS_MAX && decoded->tags <= DECODE_TAGS_MAX);
    for (uint32_t i = 0; i < decoded->levels; i++) {
        const struct decoded_level *level = &decoded->level[i];
        check(level->version == 4 || level->version == 6);
        check(level->l3_start >= before && level->l3_start < captured_bytes);
        check(level->l3_end > level->l3_start);
        if (level->l3_end != DECODE_UNKNOWN)
            check(level->l4_end >= level->l3_end);
        if ((level->flags & LEVEL_ADDRESSES) != 0)
            check(level->l3_start + (level->version == 4 ? 20u : 40u) <= captured_bytes);
        if ((level->flags & LEVEL_PORTS) != 0)
            check(level->l3_end + 4 <= captured_bytes && (level->flags & LEVEL_LATER) == 0);
        if ((level->flags & LEVEL_LATER) != 0)
            check((level->flags & LEVEL_FRAGMENT) != 0);
        if (i > 0)
            check((level->flags & LEVEL_INNER) != 0 && level->tunnel != TUNNEL_NONE);
        before = level->l3_start + 1;
    }
    if ((decoded->flags & DECODED_MAC_SOURCE) != 0)
        check(decoded->mac_source_at + 6u <= captured_bytes);
    if ((decoded->flags & DECODED_MAC_DESTINATION) != 0)
        check(decoded->mac_destination_at + 6u <= captured_bytes);
    if ((decoded->flags & DECODED_L2) != 0)
        check(decoded->l2_end <= captured_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const uint16_t link_types[] = {
        LINK_ETHERNET, LINK_ETHERNET, LINK_ETHERNET,      LINK_RAW,        LINK_NULL,
        LINK_PPP,      LINK_PPPOE,    LINK_ATM_RFC1483,   LINK_CISCO_HDLC, LINK_IEEE802_11,
        LINK_LOOP,     LINK_PRISM,    LINK_LINUX_SLL,     LINK_RADIOTAP,   LINK_LINUX_SLL2,
        LINK_IPV4,     LINK_IPV6,     LINK_PPP_DIRECTION, LINK_FDDI,       LINK_TOKEN_RING,
    };
    if (count < 2)
        return 0;
    if (state == NULL)
        make_state();
    uint16_t link_type = link_types[bytes[0] % (sizeof link_types / sizeof link_types[0])];
    if (bytes[0] == 255)
        link_type = bytes[1];
    bytes += 2;
    uint32_t captured_bytes = (uint32_t)count - 2;
    struct decoded_packet decoded, slowly;
    memset(&decoded, 0, sizeof decoded);
    memset(&slowly, 0, sizeof slowly);
    decode_packet(link_type, bytes, captured_bytes, &decoded);
    decode_packet_slowly(link_type, bytes, captured_bytes, &slowly);
    decoded.tag[0] =
        decoded.tags > 0 ? decoded.tag[0] : 0; /* where there is none, it means nothing */
    if (memcmp(&decoded, &slowly, offsetof(struct decoded_packet, level)) == 0)
        check(memcmp(decoded.level, slowly.level, decoded.levels * sizeof decoded.level[0]) == 0);
    else /* a walk that failed after tags may have left some that the short cut did not */
        check(decoded.levels == slowly.levels && decoded.flags == slowly.flags &&
              decoded.tags == slowly.tags && decoded.l2_end == slowly.l2_end &&
              decoded.l3_end == slowly.l3_end && decoded.l4_end == slowly.l4_end);
    check_levels(&decoded, captured_bytes);
    check_plain(link_type, bytes, captured_bytes);

    struct decoded_packet less;
    uint32_t cut_bytes = captured_bytes / 2;
    uint8_t *cut = malloc(cut_bytes != 0 ? cut_bytes : 1);
    check(cut != NULL);
    memcpy(cut, bytes, cut_bytes);
    decode_packet(link_type, cut, cut_bytes, &less);
    check(less.levels <= decoded.levels && less.tags <= decoded.tags);
    free(cut);

    const struct interface_description about = {.link_type = link_type, .name = "fuzz"};
    struct packet packet = {.bytes = bytes,
                            .captured_bytes = captured_bytes,
                            .original_bytes = captured_bytes,
                            .time_ns = (int64_t)count * 1000000007};
    struct rule_outcome outcome;
    static uint16_t told = UINT16_MAX;
    if (told != link_type)
        check(rule_state_interface(state, 0, &about, NULL) == 0 &&
              rule_state_interface(applying, 0, &about, NULL) == 0 &&
              rule_state_interface(judging, 0, &about, NULL) == 0);
    told = link_type;
    rule_state_apply(state, &packet, &decoded, RULE_VERDICT_NONE, &outcome);
    check(outcome.keep_bytes <= captured_bytes && outcome.rule <= 7);
    check_judging(&packet, link_type, &slowly);
    bool seen = duplicate_seen(duplicates, &packet, &decoded);
    check(duplicate_seen(duplicates, &packet, &decoded) || seen || captured_bytes == 0);
    return 0;
}
