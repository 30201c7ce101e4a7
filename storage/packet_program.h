/*
 * packet_program.h - a filter's program (bpf(4)) made ready to be run on many packets.
 *
 *     packet_program_new() -> { packet_program_run() ... } -> packet_program_free()
 *
 * The answers are bpf_filter()'s, packet by packet; libpcap's interpreter is what they are tested against. It looks at the length of the packet
 * at each load, and at each instruction by itself: a third of what a large answer cost. Here a load and the comparison behind it are one step,
 * and a packet that is as long as all loads at fixed places need is not measured again. No machine code is made: a confined process may not run any that it has
 * written.
 *
 * Threads: any, once it is made.
 */
#ifndef STORAGE_PACKET_PROGRAM_H
#define STORAGE_PACKET_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

struct bpf_insn;
struct packet_program;

/* Null: there is an instruction in it that is not done here (division, a jump out of it), or no memory. Use bpf_filter(). */
struct packet_program *packet_program_new(const struct bpf_insn *instruction, uint32_t count);

/* What a program reads of its memory before it has written there (libpcap makes such ones of `geneve`) is zero here, and anything there. */
bool packet_program_run(const struct packet_program *program, const uint8_t *bytes, uint32_t captured_bytes, uint32_t original_bytes);

/* Nulls; null is allowed. */
void packet_program_free(struct packet_program **program);

#endif
