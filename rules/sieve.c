#include "sieve.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"

/*
 * Tables have a byte for each 16-bit number, as it lies in a packet: what is looked up is loaded,
 * not computed. Ports and tags are such numbers.
 *
 * Of addresses, four bytes that tell the list's prefixes apart make two numbers, with a table each.
 * A prefix has one of 8 bits, a *group*, in both, and an address is in question where both have one
 * in common. Groups keep the halves of unlike prefixes from being taken for one address; one is for
 * prefixes that leave the second number open.
 */
#define NUMBERS 65536u
#define GROUPS 8u
#define GROUP_OPEN (GROUPS - 1)

struct address_table {
    uint32_t from; /* which byte of the address is the first of the four */
    uint8_t high[NUMBERS];
    uint8_t low[NUMBERS];
};

enum { V4, V6, MAC, ADDRESSES };

/*
 * Bits of ports. Each port has the last one: headers that may have another behind them ask for it,
 * and are left by it. What has no ports asks for none.
 */
enum { PORT_TCP = 1, PORT_UDP = 2, PORT_SCTP = 4, PORT_BEHIND = 8 };

enum asks { ASKS_IP = 1, ASKS_PORT = 2, ASKS_MAC = 4, ASKS_TAG = 8 };

/* Half a MiB, of which the packet path touches what traffic has of it. */
struct sieve {
    uint32_t asks; /* enum asks */
    uint8_t transport[256];
    struct address_table address[ADDRESSES];
    uint8_t port[NUMBERS];
    uint8_t port_page[256]; /* by a port's first byte: the bits of all that begin so */
    uint8_t tag[NUMBERS];
};

/* ---- building: what to ask for -------------------------------------------------------------- */

static uint32_t log2_of(uint32_t value)
{
    return 31 - (uint32_t)__builtin_clz(value);
}

/*
 * How much of the traffic a condition is thought to leave out, in bits; 0: it has no table. Ports
 * that are named in rules are those that much traffic has.
 */
static uint32_t selects(const struct condition *condition)
{
    enum { PORT_BITS = 8, TAG_BITS = 6 };
    switch (condition->kind) {
    case CONDITION_MAC:
        return 1 + condition->prefix_bits / 4u;
    case CONDITION_IP:
        return 1 + condition->prefix_bits / (condition->version == 6 ? 4u : 1u);
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
    case CONDITION_PORT:
        return 1 + PORT_BITS - log2_of(condition->high - condition->low + 1u) / 2;
    case CONDITION_VLAN:
        return 1 + TAG_BITS;
    default:
        return 0;
    }
}

/* What of a rule the tables hold. */
struct asked {
    bool never;                  /* the rule never matches */
    bool always_quiet;           /* and on every interface: no later rule is asked for */
    const struct condition *one; /* null: all of its conditions */
};

/*
 * A rule that wants something to hold does not match where one such condition does not hold: the
 * one that leaves out most is asked for. A rule that wants nothing to hold may be the quiet one: it
 * matches where none of its conditions holds.
 */
static struct asked asked_of(const struct rule *rule)
{
    struct asked asked = {.always_quiet = true};
    for (uint32_t i = 0; i < rule->conditions; i++) {
        const struct condition *condition = &rule->condition[i];
        asked.never |= condition->kind == CONDITION_ALL && condition->negated;
        asked.always_quiet &= condition->kind != CONDITION_INTERFACE;
        if (condition->negated || selects(condition) == 0)
            continue;
        if (asked.one == NULL || selects(condition) > selects(asked.one))
            asked.one = condition;
    }
    asked.always_quiet &= !asked.never && asked.one == NULL;
    return asked;
}

struct asking { /* steps through what a list asks for */
    const struct rule_list *list;
    uint32_t rule;
    uint32_t condition;
};

/* The next condition that has a table; null: no more. */
static const struct condition *asking_next(struct asking *asking)
{
    while (asking->rule < asking->list->count) {
        const struct rule *rule = &asking->list->rule[asking->rule];
        struct asked asked = asked_of(rule);
        while (!asked.never && asking->condition < rule->conditions) {
            const struct condition *condition = &rule->condition[asking->condition++];
            if (selects(condition) > 0 && (asked.one == NULL || asked.one == condition))
                return condition;
        }
        asking->rule = asked.always_quiet ? asking->list->count : asking->rule + 1;
        asking->condition = 0;
    }
    return NULL;
}

/* ---- building: tables ----------------------------------------------------------------------- */

/* A number as a packet has it in memory. */
static uint16_t in_memory(uint32_t number)
{
    const uint8_t bytes[2] = {(uint8_t)(number >> 8), (uint8_t)number};
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static void table_add(uint8_t *table, uint32_t first, uint32_t last, uint8_t bits)
{
    for (uint32_t number = first; number <= last; number++)
        table[in_memory(number)] |= bits;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool is_address(const struct condition *condition, unsigned which)
{
    if (which == MAC)
        return condition->kind == CONDITION_MAC;
    return condition->kind == CONDITION_IP && (condition->version == 6) == (which == V6);
}

/* The first of four bytes: behind those that all prefixes share, but within the shortest prefix. */
static uint32_t choose_from(const struct rule_list *list, unsigned which)
{
    static const uint8_t last[ADDRESSES] = {4 - 4, 16 - 4, 6 - 4};
    const struct condition *first = NULL, *condition;
    uint32_t from = last[which];
    for (struct asking asking = {.list = list}; (condition = asking_next(&asking)) != NULL;) {
        if (!is_address(condition, which))
            continue;
        first = first != NULL ? first : condition;
        uint32_t bytes = (condition->prefix_bits + 7u) / 8, shared = 0;
        while (shared < from && condition->address[shared] == first->address[shared])
            shared++;
        from = least(shared, bytes > 4 ? bytes - 4 : 0);
    }
    return first != NULL ? from : 0;
}

static void add_prefix(struct address_table *table, const struct condition *condition)
{
    const uint8_t *four = condition->address + table->from;
    uint32_t high = (uint32_t)four[0] << 8 | four[1], low = (uint32_t)four[2] << 8 | four[3];
    uint32_t before = 8 * table->from;
    uint32_t known = condition->prefix_bits > before ? condition->prefix_bits - before : 0;
    uint32_t group = known > 16 ? (high ^ high >> 8) % GROUP_OPEN : GROUP_OPEN;
    uint32_t high_open = 0xffffu >> least(known, 16);
    uint32_t low_open = known > 16 ? 0xffffu >> least(known - 16, 16) : 0xffffu;
    table_add(table->high, high, high | high_open, (uint8_t)(1u << group));
    table_add(table->low, low, low | low_open, (uint8_t)(1u << group));
}

static void add_ports(struct sieve *sieve, const struct condition *condition)
{
    uint8_t bits = condition->kind == CONDITION_TCP_PORT   ? PORT_TCP
                   : condition->kind == CONDITION_UDP_PORT ? PORT_UDP
                                                           : PORT_TCP | PORT_UDP | PORT_SCTP;
    table_add(sieve->port, condition->low, condition->high, bits);
    for (uint32_t page = condition->low >> 8; page <= condition->high >> 8u; page++)
        sieve->port_page[page] |= bits;
    sieve->asks |= ASKS_PORT;
}

static void add_condition(struct sieve *sieve, const struct condition *condition)
{
    switch (condition->kind) {
    case CONDITION_IP:
        add_prefix(&sieve->address[condition->version == 6 ? V6 : V4], condition);
        sieve->asks |= ASKS_IP;
        break;
    case CONDITION_MAC:
        add_prefix(&sieve->address[MAC], condition);
        sieve->asks |= ASKS_MAC;
        break;
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
    case CONDITION_PORT:
        add_ports(sieve, condition);
        break;
    case CONDITION_VLAN:
        for (uint32_t priority = 0; priority < 16; priority++)
            table_add(sieve->tag, priority << 12 | condition->low, priority << 12 | condition->low,
                      1);
        sieve->asks |= ASKS_TAG;
        break;
    default:
        break;
    }
}

int sieve_open(const struct rule_list *list, struct sieve **sieve)
{
    const struct condition *condition;
    *sieve = NULL;
    struct sieve *made = calloc(1, sizeof *made);
    if (made == NULL)
        return ERR_NO_MEMORY;
    /* Extension headers of version 6, and the one that version 4 has, too. */
    static const uint8_t extension[] = {0, 43, 44, 51, 60, 135, 139, 140};
    for (size_t i = 0; i < sizeof extension; i++)
        made->transport[extension[i]] = PORT_BEHIND;
    made->transport[PROTOCOL_TCP] = PORT_TCP;
    made->transport[PROTOCOL_UDP] = PORT_UDP;
    made->transport[PROTOCOL_SCTP] = PORT_SCTP;
    memset(made->port, PORT_BEHIND, sizeof made->port);
    memset(made->port_page, PORT_BEHIND, sizeof made->port_page);
    for (unsigned which = 0; which < ADDRESSES; which++)
        made->address[which].from = choose_from(list, which);
    for (struct asking asking = {.list = list}; (condition = asking_next(&asking)) != NULL;)
        add_condition(made, condition);
    if (made->asks != 0)
        *sieve = made;
    else
        free(made);
    return 0;
}

void sieve_close(struct sieve **sieve)
{
    free(*sieve);
    *sieve = NULL;
}

/* ---- the packet path ------------------------------------------------------------------------ */

static inline uint32_t load16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline uint32_t load32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* What four bytes in a packet are, as a number that load32() gives. */
#define IN_MEMORY(a, b, c, d)                                                             \
    (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__                                            \
         ? (uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24 \
         : (uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

/*
 * The groups that either address is in. Of most, the first number says that there is none; the
 * second tells more addresses apart, so that its table takes more of the cache: it is left alone.
 */
static inline uint32_t address_groups(const struct address_table *table, const uint8_t *source,
                                      const uint8_t *destination)
{
    uint32_t from = table->high[load16(source)], to = table->high[load16(destination)];
    if (__builtin_expect((from | to) == 0, 1))
        return 0;
    return (from & table->low[load16(source + 2)]) | (to & table->low[load16(destination + 2)]);
}

/* Hides from the compiler that a number is 0 or 1: it would branch on it. */
static inline uint32_t unforeseen(uint32_t value)
{
    __asm__("" : "+r"(value));
    return value;
}

#define ETHERNET_BYTES 14u
#define TAG_BYTES 4u
#define V4_BYTES 20u
#define V6_BYTES 40u
#define PORTS_BYTES 4u

/* The same in two steps for ports: their first byte, then all of them. */
static inline uint32_t port_bits(const struct sieve *sieve, uint8_t protocol, const uint8_t *ports)
{
    uint32_t transport = sieve->transport[protocol];
    if (__builtin_expect(
            ((sieve->port_page[ports[0]] | sieve->port_page[ports[2]]) & transport) == 0, 1))
        return 0;
    return (sieve->port[load16(ports)] | sieve->port[load16(ports + 2)]) & transport;
}

/* Version 4 without options. */
static inline __attribute__((always_inline)) bool left_v4(const struct sieve *sieve, uint32_t asks,
                                                          const uint8_t *ip, uint32_t found)
{
    if ((asks & ASKS_IP) != 0)
        found |= address_groups(&sieve->address[V4], ip + 12, ip + 16);
    if ((asks & ASKS_PORT) != 0)
        found |= port_bits(sieve, ip[9], ip + V4_BYTES);
    return found != 0;
}

static inline __attribute__((always_inline)) bool left_v6(const struct sieve *sieve, uint32_t asks,
                                                          const uint8_t *ip, uint32_t found)
{
    const struct address_table *table = &sieve->address[V6];
    if ((asks & ASKS_IP) != 0)
        found |= address_groups(table, ip + 8 + table->from, ip + 24 + table->from);
    if ((asks & ASKS_PORT) != 0)
        found |= port_bits(sieve, ip[6], ip + V6_BYTES);
    return found != 0;
}

/*
 * Whether a packet is left. A plain one is Ethernet with at most one tag, and an IP header without
 * options. What stands where it would have ports is taken for ports also where it is something
 * else, of a fragment, or beyond its length: then no condition on ports holds, and if one seems to,
 * the packet is left for nothing.
 *
 * Most networks mix versions, tags and transports. A branch that is guessed wrong costs as much as
 * half of all this, so that only versions have one.
 */
static inline __attribute__((always_inline)) bool is_left(const struct sieve *sieve, uint32_t asks,
                                                          const uint8_t *bytes,
                                                          uint32_t captured_bytes)
{
    if (captured_bytes < ETHERNET_BYTES + TAG_BYTES + V4_BYTES + PORTS_BYTES)
        return true;
    uint32_t tagged = unforeseen(load16(bytes + 12) == (IN_MEMORY(0x81, 0x00, 0, 0) & 0xffff));
    const uint8_t *ip = bytes + ETHERNET_BYTES + TAG_BYTES * tagged;
    uint32_t found = 0, type_and_first = load32(ip - 2);
    if ((asks & ASKS_MAC) != 0) {
        const struct address_table *table = &sieve->address[MAC];
        found |= address_groups(table, bytes + 6 + table->from, bytes + table->from);
    }
    if ((asks & ASKS_TAG) != 0)
        found |= sieve->tag[load16(bytes + 14)] & tagged;
    if ((type_and_first & IN_MEMORY(0xff, 0xff, 0xff, 0)) == IN_MEMORY(0x08, 0x00, 0x45, 0))
        return left_v4(sieve, asks, ip, found);
    if ((type_and_first & IN_MEMORY(0xff, 0xff, 0xf0, 0)) == IN_MEMORY(0x86, 0xdd, 0x60, 0) &&
        captured_bytes >= ETHERNET_BYTES + TAG_BYTES + V6_BYTES + PORTS_BYTES)
        return left_v6(sieve, asks, ip, found);
    return true;
}

/* Those of the packets `from` to `to` that are left, behind the `lefts` that there are. */
static inline __attribute__((always_inline)) uint32_t pass_some(
    const struct sieve *sieve, uint32_t asks, const struct packet *packet, uint32_t from,
    uint32_t to, bool prefetch, uint8_t *restrict left, uint32_t lefts)
{
    const uint16_t interface = packet->interface;
    for (uint32_t i = from; i < to; i++) {
        if (prefetch)
            decode_prefetch(packet[i + DECODE_PREFETCH_AHEAD].bytes);
        if (packet[i].interface != interface ||
            is_left(sieve, asks, packet[i].bytes, packet[i].captured_bytes))
            left[lefts++] = (uint8_t)i;
    }
    return lefts;
}

static inline __attribute__((always_inline)) uint32_t pass(const struct sieve *sieve, uint32_t asks,
                                                           const struct packet *packet,
                                                           uint32_t count, uint32_t behind,
                                                           uint8_t *left)
{
    const uint32_t ahead = DECODE_PREFETCH_AHEAD;
    uint32_t asking = behind >= ahead ? count : count + behind > ahead ? count + behind - ahead : 0;
    uint32_t lefts = pass_some(sieve, asks, packet, 0, asking, true, left, 0);
    return pass_some(sieve, asks, packet, asking, count, false, left, lefts);
}

/* Compiled for what lists mostly ask for; any other takes more: what is not asked for has empty
 * tables. */
uint32_t sieve_pass(const struct sieve *sieve, const struct packet *packet, uint32_t count,
                    uint32_t behind, uint8_t left[DECODE_BATCH])
{
    switch (sieve->asks) {
    case ASKS_IP:
        return pass(sieve, ASKS_IP, packet, count, behind, left);
    case ASKS_PORT:
        return pass(sieve, ASKS_PORT, packet, count, behind, left);
    case ASKS_IP | ASKS_PORT:
        return pass(sieve, ASKS_IP | ASKS_PORT, packet, count, behind, left);
    case ASKS_MAC:
    case ASKS_TAG:
    case ASKS_IP | ASKS_MAC:
    case ASKS_IP | ASKS_TAG:
    case ASKS_MAC | ASKS_TAG:
    case ASKS_IP | ASKS_MAC | ASKS_TAG: /* no ports: it does not matter whether there are any */
        return pass(sieve, ASKS_IP | ASKS_MAC | ASKS_TAG, packet, count, behind, left);
    default:
        return pass(sieve, ASKS_IP | ASKS_PORT | ASKS_MAC | ASKS_TAG, packet, count, behind, left);
    }
}
