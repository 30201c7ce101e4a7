/*
 * packet_program.c - each instruction becomes the step at the same place, so that jumps stay what they are; a load that is followed by a comparison with a
 * constant does that one's work, too, and goes where it would. The comparison stands behind it all the same: others may jump to it.
 */
#include "packet_program.h"

#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>


/* Kinds of load: from a fixed place, and from behind x; of a word, half a word, a byte. */
#define EACH_LOAD(with) with(WORD) with(HALF) with(BYTE) with(WORD_X) with(HALF_X) with(BYTE_X)

/* What may follow one within its step. */
#define EACH_JUMP(with, load) with(load, EQUAL) with(load, GREATER) with(load, ATLEAST) with(load, SET)

#define NAME_LOAD(load) LOAD_##load,
#define NAME_JUMP(load, jump) LOAD_##load##_##jump,
#define NAME_JUMPS(load) EACH_JUMP(NAME_JUMP, load)

enum operation {
    EACH_LOAD(NAME_LOAD)
    EACH_LOAD(NAME_JUMPS)
    JUMP_EQUAL,
    JUMP_GREATER,
    JUMP_ATLEAST,
    JUMP_SET,
    JUMP_EQUAL_X,
    JUMP_GREATER_X,
    JUMP_ATLEAST_X,
    JUMP_SET_X,
    JUMP_ALWAYS,
    HEADER_X, /* four times the low half of a byte: an IP header's length */
    LENGTH,
    LENGTH_X,
    CONSTANT,
    CONSTANT_X,
    ADD,
    SUBTRACT,
    MULTIPLY,
    AND,
    OR,
    SHIFT_LEFT,
    SHIFT_RIGHT,
    ADD_X,
    SUBTRACT_X,
    AND_X,
    OR_X,
    NEGATE,
    TO_X,
    FROM_X,
    KEEP,
    KEEP_X,
    KEPT,
    KEPT_X,
    ANSWER,
    ANSWER_A,
};

#define JUMPS 4u /* of EACH_JUMP */

struct step {
    uint16_t operation;
    uint16_t yes, no; /* steps */
    uint32_t k;       /* the instruction's number */
    uint32_t value;   /* what is compared with, in a load with a comparison */
};

struct packet_program {
    bool keeps;        /* it has a use for memory */
    uint32_t measured; /* of a packet this long, all loads at fixed places are inside */
    struct step step[];
};

/* ---- making one -------------------------------------------------------------------------------- */

/* The bytes of a load from a fixed place, 0: it is none. */
static uint32_t fixed_bytes(uint16_t code)
{
    switch (code) {
    case BPF_LD | BPF_W | BPF_ABS:
        return 4;
    case BPF_LD | BPF_H | BPF_ABS:
        return 2;
    case BPF_LD | BPF_B | BPF_ABS:
    case BPF_LDX | BPF_MSH | BPF_B:
        return 1;
    default:
        return 0;
    }
}

/* Of a comparison with a constant: which of EACH_JUMP; JUMPS: it is none. */
static uint32_t jump_of(uint16_t code)
{
    static const uint16_t jump[JUMPS] = {BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JGT | BPF_K, BPF_JMP | BPF_JGE | BPF_K, BPF_JMP | BPF_JSET | BPF_K};
    uint32_t i = 0;
    while (i < JUMPS && jump[i] != code)
        i++;
    return i;
}

static bool keeps(uint16_t operation)
{
    return operation >= KEEP && operation <= KEPT_X;
}

static bool operation_of(const struct bpf_insn *instruction, uint16_t *operation)
{
    static const struct {
        uint16_t code, operation;
    } known[] = {
        {BPF_LD | BPF_W | BPF_ABS, LOAD_WORD},
        {BPF_LD | BPF_H | BPF_ABS, LOAD_HALF},
        {BPF_LD | BPF_B | BPF_ABS, LOAD_BYTE},
        {BPF_LD | BPF_W | BPF_IND, LOAD_WORD_X},
        {BPF_LD | BPF_H | BPF_IND, LOAD_HALF_X},
        {BPF_LD | BPF_B | BPF_IND, LOAD_BYTE_X},
        {BPF_LDX | BPF_MSH | BPF_B, HEADER_X},
        {BPF_LD | BPF_W | BPF_LEN, LENGTH},
        {BPF_LDX | BPF_W | BPF_LEN, LENGTH_X},
        {BPF_LD | BPF_IMM, CONSTANT},
        {BPF_LDX | BPF_IMM, CONSTANT_X},
        {BPF_JMP | BPF_JA, JUMP_ALWAYS},
        {BPF_JMP | BPF_JEQ | BPF_K, JUMP_EQUAL},
        {BPF_JMP | BPF_JGT | BPF_K, JUMP_GREATER},
        {BPF_JMP | BPF_JGE | BPF_K, JUMP_ATLEAST},
        {BPF_JMP | BPF_JSET | BPF_K, JUMP_SET},
        {BPF_JMP | BPF_JEQ | BPF_X, JUMP_EQUAL_X},
        {BPF_JMP | BPF_JGT | BPF_X, JUMP_GREATER_X},
        {BPF_JMP | BPF_JGE | BPF_X, JUMP_ATLEAST_X},
        {BPF_JMP | BPF_JSET | BPF_X, JUMP_SET_X},
        {BPF_ALU | BPF_ADD | BPF_K, ADD},
        {BPF_ALU | BPF_SUB | BPF_K, SUBTRACT},
        {BPF_ALU | BPF_MUL | BPF_K, MULTIPLY},
        {BPF_ALU | BPF_AND | BPF_K, AND},
        {BPF_ALU | BPF_OR | BPF_K, OR},
        {BPF_ALU | BPF_LSH | BPF_K, SHIFT_LEFT},
        {BPF_ALU | BPF_RSH | BPF_K, SHIFT_RIGHT},
        {BPF_ALU | BPF_ADD | BPF_X, ADD_X},
        {BPF_ALU | BPF_SUB | BPF_X, SUBTRACT_X},
        {BPF_ALU | BPF_AND | BPF_X, AND_X},
        {BPF_ALU | BPF_OR | BPF_X, OR_X},
        {BPF_ALU | BPF_NEG, NEGATE},
        {BPF_MISC | BPF_TAX, TO_X},
        {BPF_MISC | BPF_TXA, FROM_X},
        {BPF_ST, KEEP},
        {BPF_STX, KEEP_X},
        {BPF_LD | BPF_MEM, KEPT},
        {BPF_LDX | BPF_MEM, KEPT_X},
        {BPF_RET | BPF_K, ANSWER},
        {BPF_RET | BPF_A, ANSWER_A},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].code == instruction->code) {
            *operation = known[i].operation;
            return keeps(*operation)                                          ? instruction->k < BPF_MEMWORDS
                   : *operation == SHIFT_LEFT || *operation == SHIFT_RIGHT ? instruction->k < 32
                                                                           : true;
        }
    return false;
}

/* The step for an instruction; `left`: so many stand behind it. False: it is not done here. Jumps lead forward, and so every program ends. */
static bool make_step(const struct bpf_insn *instruction, uint32_t at, uint32_t left, struct step *step)
{
    uint16_t operation;
    if (!operation_of(instruction, &operation))
        return false;
    *step = (struct step){.operation = operation, .k = instruction->k};
    if (BPF_CLASS(instruction->code) == BPF_RET)
        return true;
    if (left == 0)
        return false;
    if (operation == JUMP_ALWAYS) {
        step->yes = (uint16_t)(at + 1 + instruction->k);
        return instruction->k < left;
    }
    if (BPF_CLASS(instruction->code) == BPF_JMP) {
        step->yes = (uint16_t)(at + 1 + instruction->jt);
        step->no = (uint16_t)(at + 1 + instruction->jf);
        return instruction->jt < left && instruction->jf < left;
    }
    return true;
}

/* A load takes over the comparison behind it. */
static void join(struct step *load, const struct bpf_insn *next, const struct step *comparison)
{
    uint32_t jump = jump_of(next->code);
    if (load->operation > LOAD_BYTE_X || jump == JUMPS)
        return;
    load->operation = (uint16_t)(LOAD_WORD_EQUAL + JUMPS * load->operation + jump);
    load->value = comparison->k;
    load->yes = comparison->yes;
    load->no = comparison->no;
}

struct packet_program *packet_program_new(const struct bpf_insn *instruction, uint32_t count)
{
    _Static_assert(LOAD_WORD == 0 && LOAD_BYTE_X + 1 == LOAD_WORD_EQUAL && LOAD_BYTE_X_SET + 1 == LOAD_WORD_EQUAL + 6 * JUMPS, "join() counts on it");
    struct packet_program *program = count > 0 && count < UINT16_MAX ? calloc(1, sizeof *program + count * sizeof program->step[0]) : NULL;
    for (uint32_t i = 0; i < count && program; i++) {
        uint32_t bytes = fixed_bytes(instruction[i].code);
        if (!make_step(&instruction[i], i, count - 1 - i, &program->step[i]) || instruction[i].k > UINT32_MAX - bytes)
            packet_program_free(&program);
        else if (bytes > 0 && instruction[i].k + bytes > program->measured)
            program->measured = instruction[i].k + bytes;
        if (program)
            program->keeps |= keeps(program->step[i].operation);
    }
    for (uint32_t i = 0; i + 1 < count && program; i++)
        join(&program->step[i], &instruction[i + 1], &program->step[i + 1]);
    return program;
}

void packet_program_free(struct packet_program **program)
{
    free(*program);
    *program = NULL;
}

/* ---- running it -------------------------------------------------------------------------------- */

static inline uint32_t load_word(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint32_t load_half(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static inline uint32_t load_byte(const uint8_t *at)
{
    return *at;
}

/* Whether a load of so many bytes, `k` behind `x`, lies in the packet. */
static inline bool lies_in(uint32_t x, uint32_t k, uint32_t bytes, uint32_t captured_bytes)
{
    return (uint64_t)x + k + bytes <= captured_bytes;
}

#define GO_ON step++; break
#define JUMP(holds) step = first + ((holds) ? step->yes : step->no); break

#define TEST_EQUAL(value) (a == (value))
#define TEST_GREATER(value) (a > (value))
#define TEST_ATLEAST(value) (a >= (value))
#define TEST_SET(value) ((a & (value)) != 0)

#define DO_LOAD(from, bytes, x_or_0, is_fixed)                                                                     \
    if (!(is_fixed && measured) && !lies_in(x_or_0, step->k, bytes, captured_bytes))                                \
        return 0;                                                                                                   \
    a = from(packet + (size_t)(x_or_0) + step->k);

#define CASES(load, from, bytes, x_or_0, is_fixed)                                                                  \
    case LOAD_##load:                                                                                               \
        DO_LOAD(from, bytes, x_or_0, is_fixed) GO_ON;                                                               \
    case LOAD_##load##_EQUAL:                                                                                       \
        DO_LOAD(from, bytes, x_or_0, is_fixed) JUMP(TEST_EQUAL(step->value));                                       \
    case LOAD_##load##_GREATER:                                                                                     \
        DO_LOAD(from, bytes, x_or_0, is_fixed) JUMP(TEST_GREATER(step->value));                                     \
    case LOAD_##load##_ATLEAST:                                                                                     \
        DO_LOAD(from, bytes, x_or_0, is_fixed) JUMP(TEST_ATLEAST(step->value));                                     \
    case LOAD_##load##_SET:                                                                                         \
        DO_LOAD(from, bytes, x_or_0, is_fixed) JUMP(TEST_SET(step->value));

/* `measured`: the packet is as long as loads from fixed places need. Each caller says it as a constant. */
static inline __attribute__((always_inline)) uint32_t run(const struct step *first, const uint8_t *packet, uint32_t captured_bytes,
                                                          uint32_t original_bytes, uint32_t memory[BPF_MEMWORDS], bool measured)
{
    const struct step *step = first;
    uint32_t a = 0, x = 0;
    for (;;) {
        switch ((enum operation)step->operation) {
            CASES(WORD, load_word, 4, 0u, true)
            CASES(HALF, load_half, 2, 0u, true)
            CASES(BYTE, load_byte, 1, 0u, true)
            CASES(WORD_X, load_word, 4, x, false)
            CASES(HALF_X, load_half, 2, x, false)
            CASES(BYTE_X, load_byte, 1, x, false)
        case JUMP_EQUAL:
            JUMP(TEST_EQUAL(step->k));
        case JUMP_GREATER:
            JUMP(TEST_GREATER(step->k));
        case JUMP_ATLEAST:
            JUMP(TEST_ATLEAST(step->k));
        case JUMP_SET:
            JUMP(TEST_SET(step->k));
        case JUMP_EQUAL_X:
            JUMP(TEST_EQUAL(x));
        case JUMP_GREATER_X:
            JUMP(TEST_GREATER(x));
        case JUMP_ATLEAST_X:
            JUMP(TEST_ATLEAST(x));
        case JUMP_SET_X:
            JUMP(TEST_SET(x));
        case JUMP_ALWAYS:
            JUMP(true);
        case HEADER_X:
            if (!measured && !lies_in(0, step->k, 1, captured_bytes))
                return 0;
            x = (packet[step->k] & 0xfu) << 2;
            GO_ON;
        case LENGTH:
            a = original_bytes;
            GO_ON;
        case LENGTH_X:
            x = original_bytes;
            GO_ON;
        case CONSTANT:
            a = step->k;
            GO_ON;
        case CONSTANT_X:
            x = step->k;
            GO_ON;
        case ADD:
            a += step->k;
            GO_ON;
        case SUBTRACT:
            a -= step->k;
            GO_ON;
        case MULTIPLY:
            a *= step->k;
            GO_ON;
        case AND:
            a &= step->k;
            GO_ON;
        case OR:
            a |= step->k;
            GO_ON;
        case SHIFT_LEFT:
            a <<= step->k;
            GO_ON;
        case SHIFT_RIGHT:
            a >>= step->k;
            GO_ON;
        case ADD_X:
            a += x;
            GO_ON;
        case SUBTRACT_X:
            a -= x;
            GO_ON;
        case AND_X:
            a &= x;
            GO_ON;
        case OR_X:
            a |= x;
            GO_ON;
        case NEGATE:
            a = 0 - a;
            GO_ON;
        case TO_X:
            x = a;
            GO_ON;
        case FROM_X:
            a = x;
            GO_ON;
        case KEEP:
            memory[step->k] = a;
            GO_ON;
        case KEEP_X:
            memory[step->k] = x;
            GO_ON;
        case KEPT:
            a = memory[step->k];
            GO_ON;
        case KEPT_X:
            x = memory[step->k];
            GO_ON;
        case ANSWER:
            return step->k;
        case ANSWER_A:
            return a;
        }
    }
}

bool packet_program_run(const struct packet_program *program, const uint8_t *bytes, uint32_t captured_bytes, uint32_t original_bytes)
{
    uint32_t memory[BPF_MEMWORDS];
    if (program->keeps)
        memset(memory, 0, sizeof memory);
    return (captured_bytes >= program->measured ? run(program->step, bytes, captured_bytes, original_bytes, memory, true)
                                                : run(program->step, bytes, captured_bytes, original_bytes, memory, false)) != 0;
}
