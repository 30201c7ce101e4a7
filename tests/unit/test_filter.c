/*
 * test_filter.c - filters match what tcpdump -r matches.
 *
 * The judge is tcpdump itself: it writes the packets of a capture file that an expression matches,
 * and ours must be the same ones. Where there is no tcpdump that part is skipped, and the rest says
 * what is known of the packets made here.
 */
#include "unit_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capture_writer.h"
#include "filter.h"

/* ---- packets -----------------------------------------------------------------------------------
 */

/* A packet under construction, from its first byte on. */
struct build {
    uint8_t bytes[512];
    uint32_t count;
};

static void add(struct build *build, const void *bytes, uint32_t count)
{
    assert_true(build->count + count <= sizeof build->bytes);
    memcpy(build->bytes + build->count, bytes, count);
    build->count += count;
}

static void add8(struct build *build, uint32_t value)
{
    uint8_t byte = (uint8_t)value;
    add(build, &byte, 1);
}

static void add16(struct build *build, uint32_t value)
{
    add8(build, value >> 8);
    add8(build, value);
}

static void add_zeros(struct build *build, uint32_t count)
{
    while (count-- > 0)
        add8(build, 0);
}

static void ethernet(struct build *build, uint8_t to, uint8_t from, uint32_t type)
{
    const uint8_t head[12] = {to == 255 ? 255 : 2,
                              to == 255 ? 255 : 0,
                              to == 255 ? 255 : 0,
                              to == 255 ? 255 : 0,
                              to == 255 ? 255 : 0,
                              to,
                              2,
                              0,
                              0,
                              0,
                              0,
                              from};
    add(build, head, sizeof head);
    add16(build, type);
}

/* 10.0.0.`from` to 10.0.`net`.`to` */
static void ip4(struct build *build, uint8_t from, uint8_t net, uint8_t to, uint8_t protocol,
                uint32_t payload, uint32_t fragment)
{
    add8(build, 0x45);
    add8(build, 0);
    add16(build, 20 + payload);
    add16(build, 1);
    add16(build, fragment);
    add8(build, 64);
    add8(build, protocol);
    add16(build, 0);
    const uint8_t addresses[8] = {10, 0, 0, from, 10, 0, net, to};
    add(build, addresses, sizeof addresses);
}

/* fd00::`from` to fd00::`to`, with a hop-by-hop header before the payload if `extended`. */
static void ip6(struct build *build, uint8_t from, uint8_t to, uint8_t protocol, uint32_t payload,
                bool extended)
{
    uint8_t address[16] = {0xfd};
    add16(build, 0x6000);
    add16(build, 0);
    add16(build, payload + (extended ? 8 : 0));
    add8(build, extended ? 0 : protocol);
    add8(build, 64);
    address[15] = from;
    add(build, address, 16);
    address[15] = to;
    add(build, address, 16);
    if (extended) {
        add8(build, protocol);
        add_zeros(build, 1);
        add8(build, 1); /* padding of 4 */
        add8(build, 4);
        add_zeros(build, 4);
    }
}

static void tcp(struct build *build, uint32_t from, uint32_t to, uint8_t flags)
{
    add16(build, from);
    add16(build, to);
    add_zeros(build, 8);
    add8(build, 0x50);
    add8(build, flags);
    add_zeros(build, 6);
}

static void udp(struct build *build, uint32_t from, uint32_t to, uint32_t payload)
{
    add16(build, from);
    add16(build, to);
    add16(build, 8 + payload);
    add16(build, 0);
    add_zeros(build, payload);
}

/* The n-th network layer and what is in it; the same in every capture. */
static void inner(struct build *build, uint32_t n)
{
    switch (n % 12) {
    case 0:
        ip4(build, 1, 0, 2, 6, 20, 0);
        tcp(build, 40000, 80, 0x02);
        break;
    case 1:
        ip4(build, 2, 0, 1, 6, 20, 0);
        tcp(build, 80, 40000, 0x12);
        break;
    case 2:
        ip4(build, 1, 0, 53, 17, 38, 0);
        udp(build, 5353, 53, 30);
        break;
    case 3:
        ip4(build, 1, 7, 9, 1, 8, 0); /* echo request */
        add16(build, 0x0800);
        add_zeros(build, 6);
        break;
    case 4:
        ip4(build, 3, 0, 4, 17, 24, 0x00b9); /* a later fragment: no ports */
        add_zeros(build, 24);
        break;
    case 5:
        ip4(build, 3, 0, 4, 17, 308, 0x2000); /* a first one */
        udp(build, 2049, 2049, 300);
        break;
    case 6:
        ip4(build, 5, 0, 6, 89, 20, 0); /* ospf */
        add_zeros(build, 20);
        break;
    case 7:
        ip4(build, 5, 0, 6, 47, 24, 0); /* gre */
        add_zeros(build, 24);
        break;
    case 8:
        ip6(build, 1, 2, 6, 20, false);
        tcp(build, 443, 50000, 0x10);
        break;
    case 9:
        ip6(build, 2, 1, 17, 18, true);
        udp(build, 53, 33000, 10);
        break;
    case 10:
        ip6(build, 1, 2, 58, 8, false); /* echo request */
        add16(build, 0x8000);
        add_zeros(build, 6);
        break;
    default:
        ip4(build, 9, 0, 255, 17, 308, 0);
        udp(build, 137, 137, 300);
        break;
    }
}

static void outer(struct build *build, uint16_t link_type, uint32_t n)
{
    bool six = n % 12 >= 8 && n % 12 <= 10;
    uint32_t type = six ? 0x86dd : 0x0800;
    if (link_type == 1) {
        uint8_t to = n % 12 == 11 ? 255 : (uint8_t)(n % 5);
        bool tagged = n / 12 % 3 > 0, twice = n / 12 % 3 == 2;
        ethernet(build, to, (uint8_t)(n % 7), tagged ? 0x8100 : type);
        if (twice) {
            add16(build, 100);
            add16(build, 0x8100);
        }
        if (tagged) {
            add16(build, 5 + n % 2);
            add16(build, type);
        }
    } else if (link_type == 113) {
        add16(build, n % 5); /* to us ... by us */
        add16(build, 1);
        add16(build, 6);
        add_zeros(build, 8);
        add16(build, type);
    }
}

#define PACKETS 72

static void make_packet(struct build *build, uint16_t link_type, uint32_t n)
{
    build->count = 0;
    if (link_type == 1 && n == PACKETS - 1) { /* ARP */
        ethernet(build, 255, 1, 0x0806);
        add16(build, 1);
        add16(build, 0x0800);
        add16(build, 0x0604);
        add16(build, 1);
        add_zeros(build, 20);
        return;
    }
    outer(build, link_type, n);
    inner(build, n);
}

static const uint16_t link_types[] = {1, 101, 113, 147};

static void make_capture(const char *path, uint16_t link_type)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    assert_true(fd >= 0);
    struct capture_writer_options options = {.format = CAPTURE_PCAP_US, .fd = fd};
    struct capture_writer *writer;
    assert_int_equal(capture_writer_open(&options, &writer, NULL), 0);
    struct interface_description description = {.link_type = link_type};
    int interface = capture_writer_interface(writer, &description);
    for (uint32_t n = 0; n < PACKETS; n++) {
        struct build build;
        make_packet(&build, link_type, n);
        uint32_t captured = n % 9 == 8 ? build.count / 2 : build.count; /* some are cut */
        struct packet packet = {.bytes = build.bytes,
                                .captured_bytes = captured,
                                .original_bytes = build.count,
                                .time_ns = n * 1000000000ll};
        assert_int_equal(capture_writer_packet(writer, (uint32_t)interface, &packet), 0);
    }
    assert_int_equal(capture_writer_finish(writer), 0);
    capture_writer_close(&writer);
    close(fd);
}

/* ---- filters -----------------------------------------------------------------------------------
 */

static const char *const filters[] = {
    "",
    "   ",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "arp",
    "ip",
    "ip6",
    "not ip",
    "tcp port 80",
    "tcp port http",
    "udp port domain",
    "port 53 or port 137",
    "src port 53",
    "dst port 443 or src port 443",
    "portrange 50-100",
    "tcp portrange 40000-50000",
    "host 10.0.0.1",
    "src host 10.0.0.1 and tcp",
    "dst 10.0.0.2 or src 10.0.0.2",
    "net 10.0.7.0/24",
    "net 10.0.0.0 mask 255.255.0.0",
    "src net 10 and not dst net 10.0.7.0/24",
    "host fd00::1",
    "ip6 net fd00::/64 and udp",
    "ip proto ospf",
    "ip proto 47",
    "ip6 proto 17",
    "ip6 protochain 17",
    "ip protochain 6",
    "proto \\tcp",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "tcp[13] = 0x12",
    "icmp[icmptype] == icmp-echo",
    "icmp6[0] == 128",
    "ip[6:2] & 0x1fff != 0",
    "ip[6:2] & 0x3fff != 0 and udp",
    "udp[4:2] > 100",
    "greater 100",
    "less 60",
    "len >= 62 and len <= 80",
    "ip broadcast",
    "ether broadcast",
    "ether multicast",
    "multicast",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:03 and ether dst 02:00:00:00:00:02",
    "ether proto 0x86dd",
    "ether[12:2] = 0x8100",
    "vlan",
    "vlan 5",
    "vlan 100 and vlan 6",
    "vlan and tcp port 80",
    "vlan 5 and not ip6",
    "tcp or vlan and udp",
    "link[0:2] = 0",
    "inbound",
    "outbound and tcp",
    "ifname eth0",
    "wlan type mgt",
    "mpls",
    "pppoes",
    "ip and ip6",
    "len > 100000",
    "not tcp and not udp and not icmp and not icmp6",
    "(tcp port 80 or udp port 53) and (host 10.0.0.1 or host fd00::2)",
    "tcp src port 80 and dst port 40000 and src 10.0.0.2 and dst 10.0.0.1 and greater 20",
};

static char folder[] = "/tmp/test_filter.XXXXXX";

/* Runs tcpdump -r `from` -w `to` `text`. Its exit code, or -1 if it is not there. */
static int run_tcpdump(const char *from, const char *to, const char *text)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        const char *arguments[9] = {"tcpdump", "-r", from, "-w", to};
        int count = 5;
        if (geteuid() == 0) {
            arguments[count++] = "-Z"; /* it would become another user, who cannot write here */
            arguments[count++] = "root";
        }
        arguments[count++] = text;
        execvp("tcpdump", (char *const *)arguments);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
    return code == 127 ? -1 : code;
}

/* What of a file `text` matches, by us, against the file that tcpdump made of it. */
static void compare(const char *from, const char *to, const char *text, int code)
{
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *pcap = pcap_open_offline_with_tstamp_precision(from, PCAP_TSTAMP_PRECISION_NANO, error);
    assert_non_null(pcap);
    /* The number in the file's head, which libpcap does not tell. pcapng: of its first interface,
     * for its DLT. */
    uint16_t link_type;
    FILE *file = fopen(from, "rb");
    uint8_t head[24];
    assert_int_equal(fread(head, 1, sizeof head, file), sizeof head);
    fclose(file);
    if (head[0] == 0x0a)
        link_type = (uint16_t)pcap_datalink(pcap);
    else
        link_type = head[0] == 0xd4 || head[0] == 0x4d ? (uint16_t)(head[20] | head[21] << 8)
                                                       : (uint16_t)(head[23] | head[22] << 8);

    struct filter *filter;
    struct failure failure;
    int result = filter_open(text, NULL, &filter, &failure);
    const struct filter_program *program = result ? NULL : filter_for(filter, link_type);
    if (result || program->verdict == FILTER_REFUSED || program->verdict == FILTER_NOTHING) {
        if (code == 0)
            fail_msg("%s: %s: tcpdump takes it: %s", from, text,
                     result ? failure.text : program->text);
        filter_close(&filter);
        pcap_close(pcap);
        return;
    }
    pcap_t *wanted = pcap_open_offline_with_tstamp_precision(to, PCAP_TSTAMP_PRECISION_NANO, error);
    if (!wanted)
        fail_msg("%s: %s: tcpdump refuses it: %s", from, text, error);
    struct pcap_pkthdr *head_ours, *head_theirs;
    const u_char *bytes_ours, *bytes_theirs;
    while (pcap_next_ex(pcap, &head_ours, &bytes_ours) == 1) {
        struct packet packet = {.bytes = bytes_ours,
                                .captured_bytes = head_ours->caplen,
                                .original_bytes = head_ours->len};
        if (!filter_match(program, &packet, 0))
            continue;
        if (pcap_next_ex(wanted, &head_theirs, &bytes_theirs) != 1 ||
            head_ours->caplen != head_theirs->caplen || head_ours->len != head_theirs->len ||
            memcmp(bytes_ours, bytes_theirs, head_ours->caplen) != 0)
            fail_msg("%s: %s: we match a packet that tcpdump does not", from, text);
    }
    if (pcap_next_ex(wanted, &head_theirs, &bytes_theirs) == 1)
        fail_msg("%s: %s: tcpdump matches a packet that we do not", from, text);
    pcap_close(wanted);
    pcap_close(pcap);
    filter_close(&filter);
}

static void test_against_tcpdump(void **state)
{
    (void)state;
    char from[4096], to[4096];
    snprintf(to, sizeof to, "%s/out", folder);
    for (size_t l = 0; l < COUNT(link_types); l++) {
        snprintf(from, sizeof from, "%s/%u.pcap", folder, link_types[l]);
        make_capture(from, link_types[l]);
        for (size_t i = 0; i < COUNT(filters); i++) {
            unlink(to);
            int code = run_tcpdump(from, to, filters[i]);
            if (code < 0) {
                print_message("there is no tcpdump to compare with\n");
                skip();
            }
            compare(from, to, filters[i], code);
        }
        unlink(from);
    }
    unlink(to);
}

/* The captures that tcpdump's and nDPI's own tests use, where they are at hand: each with some of
 * the filters. */
static void test_against_tcpdump_captures(void **state)
{
    (void)state;
    static const char *const folders[] = {"tcpdump", "ndpi"};
    const char *source = getenv("TAPELOOP_SOURCE");
    char path[4096], from[8192], to[4096];
    snprintf(to, sizeof to, "%s/out", folder);
    size_t next = 0, compared = 0;
    for (size_t f = 0; f < COUNT(folders); f++) {
        snprintf(path, sizeof path, "%s/../shared/captures/%s", source ? source : ".", folders[f]);
        struct dirent **entry;
        int entries = scandir(path, &entry, NULL, alphasort);
        for (int i = 0; i < entries; i++) {
            snprintf(from, sizeof from, "%s/%s", path, entry[i]->d_name);
            char error[PCAP_ERRBUF_SIZE];
            pcap_t *pcap = entry[i]->d_name[0] == '.' ? NULL : pcap_open_offline(from, error);
            for (int k = 0; pcap && k < 3; k++) {
                const char *text = filters[next++ % COUNT(filters)];
                unlink(to);
                int code = run_tcpdump(from, to, text);
                if (code < 0)
                    skip();
                compare(from, to, text, code);
                compared++;
            }
            if (pcap)
                pcap_close(pcap);
            free(entry[i]);
        }
        if (entries >= 0)
            free(entry);
    }
    unlink(to);
    if (compared == 0) {
        print_message("there is no folder ../shared/captures\n");
        skip();
    }
}

/* ---- without tcpdump ---------------------------------------------------------------------------
 */

static uint32_t count_matches(const char *text, uint16_t link_type)
{
    struct filter *filter;
    assert_int_equal(filter_open(text, NULL, &filter, NULL), 0);
    const struct filter_program *program = filter_for(filter, link_type);
    assert_non_null(program);
    assert_ptr_equal(filter_for(filter, link_type), program); /* compiled once */
    uint32_t matches = 0;
    for (uint32_t n = 0; n < PACKETS; n++) {
        struct build build;
        make_packet(&build, link_type, n);
        struct packet packet = {
            .bytes = build.bytes, .captured_bytes = build.count, .original_bytes = build.count};
        matches += filter_match(program, &packet, 0);
    }
    filter_close(&filter);
    assert_null(filter);
    return matches;
}

static void test_known_answers(void **state)
{
    (void)state;
    assert_int_equal(count_matches("", 1), PACKETS);
    assert_int_equal(count_matches(" \t\n", 147), PACKETS);
    assert_int_equal(count_matches("tcp port 80", 101), 12);
    assert_int_equal(count_matches("tcp port 80", 1), 4); /* the tagged ones need "vlan and" */
    assert_int_equal(count_matches("vlan and tcp port 80", 1),
                     4); /* and the doubly tagged ones twice */
    assert_int_equal(count_matches("vlan and vlan and tcp port 80", 1), 4);
    assert_int_equal(count_matches("arp", 1), 1);
    assert_int_equal(count_matches("ip6", 101), 18);
    assert_int_equal(count_matches("ip and ip6", 1), 0);
    assert_int_equal(count_matches("len > 100000", 1), 0);
}

static enum filter_verdict verdict(const char *text, uint16_t link_type)
{
    struct filter *filter;
    assert_int_equal(filter_open(text, NULL, &filter, NULL), 0);
    enum filter_verdict answer = filter_for(filter, link_type)->verdict;
    filter_close(&filter);
    return answer;
}

/* An error in the text is told at once; what only some link types have is refused for the others.
 */
static void test_errors(void **state)
{
    (void)state;
    static const char *const wrong[] = {"tcp port",
                                        "((",
                                        "foo",
                                        "host 1.2.3.4/99",
                                        "port 99999",
                                        "ip[",
                                        "tcp and and udp",
                                        "net 10.0.0.1/24",
                                        "ether host zz",
                                        "port nosuchservice",
                                        "vlan 5000"};
    struct filter *filter;
    struct failure failure;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        assert_int_equal(filter_open(wrong[i], NULL, &filter, &failure), ERR_INVALID);
        assert_null(filter);
        assert_non_null(strstr(failure.text, "filter is not valid"));
    }
    assert_int_equal(verdict("", 65535), FILTER_EVERYTHING);
    assert_int_equal(verdict("tcp", 1), FILTER_JUDGES);
    assert_int_equal(verdict("tcp", 65535), FILTER_REFUSED); /* libpcap does not know it */
    assert_int_equal(verdict("ip and ip6", 1), FILTER_NOTHING);
    assert_int_equal(verdict("wlan type mgt", 1), FILTER_REFUSED);
    assert_int_equal(verdict("wlan type mgt", 105), FILTER_JUDGES);
    assert_int_equal(verdict("vpi 3", 123), FILTER_JUDGES);
    assert_int_equal(verdict("fisu", 140), FILTER_JUDGES);
    assert_int_equal(verdict("on eth0", 117), FILTER_JUDGES);
    assert_int_equal(verdict("inbound", 1), FILTER_REFUSED);
    assert_int_equal(verdict("inbound", 113), FILTER_JUDGES);
    assert_int_equal(verdict("ifindex 3", 276), FILTER_JUDGES);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_tcpdump),
        cmocka_unit_test(test_against_tcpdump_captures),
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_errors),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
