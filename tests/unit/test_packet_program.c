/*
 * test_packet_program.c - programs that were made ready give the answers of libpcap's interpreter: of random filters, on random packets, cut at any length.
 *
 *     test_packet_program [--seed S]
 */
#include "unit_test.h"

#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>

#include "packet_mixer.h"
#include "packet_program.h"

#define FILTERS 1500u
#define PACKETS 60u

static unsigned long seed = 1;

/* Each packet whole, and cut somewhere; the copy is as long as the packet, so that a sanitizer sees what is read behind it. */
static void same_answers(const struct bpf_program *code, const struct packet_program *ready, struct mixer *mixer, const char *text, uint32_t matches[2])
{
    static uint8_t bytes[MIXED_BYTES_MAX];
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint32_t whole = mixer_packet(mixer, bytes);
        for (uint32_t cut = 0; cut < 2; cut++) {
            uint32_t count = cut ? mixer_below(mixer, whole + 1) : whole;
            uint8_t *copy = malloc(count + 1ul);
            assert_non_null(copy);
            memcpy(copy, bytes, count);
            uint8_t *exact = realloc(copy, count > 0 ? count : 1);
            assert_non_null(exact);
            bool expected = bpf_filter(code->bf_insns, exact, whole, count) != 0;
            if (packet_program_run(ready, exact, count, whole) != expected)
                fail_msg("%s: %u of %u bytes, %d was expected (seed %lu)", text, count, whole, expected, seed);
            matches[expected]++;
            free(exact);
        }
    }
}

static void random_filters(void **state)
{
    (void)state;
    static const char *const more[] = {
        "port 53", "len > 1000", "greater 100 and not tcp", "tcp[13] & 2 != 0", "ip[8] < 64 or ip6", "tcp[((tcp[12] & 0xf0) >> 2):2] = 0x4745",
        "ip[2:2] - ((ip[0] & 0xf) << 2) > 40", "portrange 1000-2000", "udp[4:2] = len - 34", "ether[0] & 1 = 1", "ip and (ip[6:2] & 0x1fff) * 2 > 4"};
    struct mixer mixer = {.state = seed};
    pcap_t *pcap = pcap_open_dead(DLT_EN10MB, 262144);
    uint32_t made = 0, not_made = 0, matches[2] = {0, 0};
    assert_non_null(pcap);
    for (uint32_t i = 0; i < FILTERS; i++) {
        struct bpf_program code;
        char text[600];
        if (i < COUNT(more))
            snprintf(text, sizeof text, "%s", more[i]);
        else
            mixer_filter(&mixer, text);
        if (pcap_compile(pcap, &code, text, i % 4 > 0, 0) != 0)
            continue;
        struct packet_program *ready = packet_program_new(code.bf_insns, code.bf_len);
        made += ready != NULL;
        not_made += ready == NULL;
        assert_true(ready || i >= COUNT(more));
        if (ready && !strstr(text, "geneve")) /* there, libpcap reads memory that it has not written */
            same_answers(&code, ready, &mixer, text, matches);
        packet_program_free(&ready);
        pcap_freecode(&code);
    }
    pcap_close(pcap);
    print_message("%u programs were made ready, %u not; %u packets matched, %u did not\n", made, not_made, matches[1], matches[0]);
    assert_true(made > FILTERS / 4 && matches[0] > 1000 && matches[1] > 1000);
}

/* What would read or jump out of the program is left to libpcap; so is a program that has no end. */
static void what_is_not_done_here(void **state)
{
    (void)state;
    const struct bpf_insn answer = BPF_STMT(BPF_RET | BPF_K, 1);
    const struct bpf_insn programs[][2] = {
        {BPF_STMT(BPF_ST, BPF_MEMWORDS), answer},
        {BPF_STMT(BPF_LD | BPF_MEM, BPF_MEMWORDS), answer},
        {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), answer},
        {BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), answer},
        {BPF_STMT(BPF_JMP | BPF_JA, 1), answer},
        {BPF_STMT(BPF_JMP | BPF_JA, UINT32_MAX), answer},
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), answer},
        {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, UINT32_MAX - 2), answer},
        {answer, BPF_STMT(BPF_LD | BPF_IMM, 1)},
        {BPF_STMT(0xffff, 0), answer},
    };
    for (uint32_t i = 0; i < COUNT(programs); i++)
        assert_null(packet_program_new(programs[i], 2));
    assert_null(packet_program_new(&answer, 0));
    struct packet_program *ready = packet_program_new(&answer, 1);
    assert_non_null(ready);
    assert_true(packet_program_run(ready, NULL, 0, 0));
    packet_program_free(&ready);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoul(argv[i + 1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_filters),
        cmocka_unit_test(what_is_not_done_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
