/*
 * source_generator.c - repeatable traffic made in memory, fast enough to saturate a disk.
 *
 * Flows between Zipf-distributed hosts live in a table; each packet picks a flow at random, gets
 * that flow's headers with valid checksums, and a payload. A flow that has sent its packets is
 * replaced by a new one. What makes it fast:
 *  - a payload is never written twice. Every slot of an arena holds a payload of one length class;
 *    headers are written to end where the payload begins, so a packet starts wherever its headers
 * need;
 *  - each batch begins with the first slots again, so that an arena's used part stays in the
 * second-level cache;
 *  - the payloads' checksums are known beforehand, and so is what a flow adds to every packet's;
 *  - the flows of a batch are drawn and prefetched before the first is touched.
 *
 * Packets depend on the options alone: not on how many batches are held, nor on the machine. Random
 * numbers are drawn in one order; arenas are all alike; Zipf weights need only division, which IEEE
 * 754 defines exactly.
 *
 * Frames are Ethernet: IPv4 and, among the longer ones, IPv6; TCP and UDP; a VLAN tag in some
 * flows. The payload begins with the packet's number (64 bits, network order) where there is room
 * for it.
 */
#include "source.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "batch_arena.h"

/* ---- limits --------------------------------------------------------------------------------- */

#define FLOWS_DEFAULT 200000u
#define FLOWS_MAX (16u << 20)
#define HOSTS_DEFAULT 20000u
#define HOSTS_MAX 0xfffffeu /* what fits into 10.0.0.0/8 */
#define FRAME_BYTES_MIN 60u
#define FRAME_BYTES_LIMIT 9216u
#define STEP_NS_MAX UINT64_C(1000000000000)

#define HEADERS_MAX \
    80u /* room before a payload, a multiple of 16; the longest headers have 78 bytes */
#define CLASSES_MAX 3u
#define STAMP_BYTES 8u

/* What a flow's packets look like: bits that add up to an index of header_bytes. */
enum flow_kind { KIND_UDP = 1, KIND_V6 = 2, KIND_VLAN = 4, KINDS = 8 };

static const uint8_t header_bytes[KINDS] = {54, 42, 74, 62, 58, 46, 78, 66};

/* Flows are of IPv6 where these bits of their number are all set; clearing the lowest gives one of
 * IPv4. */
#define FLOW_V6_BITS 3u

struct flow { /* half a cache line */
    uint32_t host[2];
    uint16_t port[2];
    uint16_t vlan;
    uint8_t kind;
    uint8_t fresh;        /* nothing sent yet: the next packet opens the connection */
    uint32_t sequence[2]; /* of TCP, for each direction */
    uint32_t left;        /* packets */
    uint32_t sum;         /* of addresses and ports, for the checksums */
};
_Static_assert(sizeof(struct flow) == 32, "two flows a cache line");

struct length_class {
    uint32_t frame_bytes;
    uint32_t slot_bytes;
    uint32_t arena_offset;
    uint16_t payload_sum[SOURCE_BATCH_MAX]
                        [KINDS]; /* of each slot's payload, cut for each kind of headers */
};

struct alias {
    uint32_t threshold; /* below: this host; else the other one */
    uint32_t other;
};

struct generator {
    struct source source;
    struct source_generator_options options;
    struct interface_description interface;
    struct source_counters counters;
    uint64_t random[4];
    uint64_t made; /* packets */
    int64_t time_ns;
    uint8_t class_of[12]; /* of a draw below 12 */
    uint32_t classes;
    struct length_class class[CLASSES_MAX];
    uint8_t *pattern; /* what every arena begins with */
    struct arena_pool pool;
    struct alias *alias; /* of the hosts */
    struct flow *flow;
};

/* ---- random numbers ------------------------------------------------------------------------- */

/* splitmix64: spreads a seed over the state, so that similar seeds give unlike streams. */
static uint64_t seed_next(uint64_t *state)
{
    uint64_t mixed = *state += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ mixed >> 31;
}

static inline uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

/* xoshiro256++ 1.0 by Blackman and Vigna. */
static inline uint64_t random_next(uint64_t state[4])
{
    uint64_t result = rotate(state[0] + state[3], 23) + state[0];
    uint64_t shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate(state[3], 45);
    return result;
}

/* A number below `bound` out of 32 random bits. */
static inline uint32_t scale(uint32_t bits, uint32_t bound)
{
    return (uint32_t)((uint64_t)bits * bound >> 32);
}

/* ---- bytes and sums ------------------------------------------------------------------------- */

static inline void put16(uint8_t *to, uint16_t value)
{
    value = __builtin_bswap16(value);
    memcpy(to, &value, sizeof value);
}

static inline void put32(uint8_t *to, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(to, &value, sizeof value);
}

static inline void put64(uint8_t *to, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(to, &value, sizeof value);
}

static inline uint32_t sum32(uint32_t value)
{
    return (value >> 16) + (value & 0xffff);
}

/* One's complement sum of 16 bits, not inverted. */
static inline uint16_t fold(uint32_t sum)
{
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)sum;
}

static uint16_t bytes_sum(const uint8_t *bytes, size_t count)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < count; i += 2)
        sum = fold(sum + ((uint32_t)bytes[i] << 8 | bytes[i + 1]));
    if (count % 2 != 0)
        sum = fold(sum + ((uint32_t)bytes[count - 1] << 8));
    return (uint16_t)sum;
}

/* ---- hosts ---------------------------------------------------------------------------------- */

#define ADDRESS_V4 0x0a000001u        /* 10.0.0.1 and on */
#define ADDRESS_V6_PREFIX 0x20010db8u /* 2001:db8::1 and on */
#define ADDRESS_MAC_PREFIX 0x0200u    /* locally administered */

/* Vose's alias method: the host of rank r has the weight 1/(r + 1). */
static int hosts_make(struct generator *generator, uint32_t hosts)
{
    struct alias *alias = calloc(hosts, sizeof *alias);
    double *weight = calloc(hosts, sizeof *weight);
    uint32_t *work =
        calloc(hosts, sizeof *work); /* the light ones from the left, the heavy from the right */
    int result = ERR_NO_MEMORY;
    if (alias == NULL || weight == NULL || work == NULL)
        goto done;
    double total = 0;
    for (uint32_t i = 0; i < hosts; i++)
        total += 1.0 / (i + 1.0);
    uint32_t light = 0, heavy = hosts;
    for (uint32_t i = 0; i < hosts; i++) {
        weight[i] = 1.0 / (i + 1.0) / total * hosts;
        work[weight[i] < 1.0 ? light++ : --heavy] = i;
    }
    while (light > 0 && heavy < hosts) {
        uint32_t small = work[--light], big = work[heavy];
        alias[small].threshold = (uint32_t)(weight[small] * 4294967295.0);
        alias[small].other = big;
        weight[big] -= 1.0 - weight[small];
        if (weight[big] < 1.0) {
            work[light++] = big;
            heavy++;
        }
    }
    while (light > 0 || heavy < hosts) { /* what rounding has left over: as good as 1 */
        uint32_t whole = light > 0 ? work[--light] : work[heavy++];
        alias[whole] = (struct alias){UINT32_MAX, whole};
    }
    generator->alias = alias;
    alias = NULL;
    result = 0;
done:
    free(work);
    free(weight);
    free(alias);
    return result;
}

static uint32_t host_draw(struct generator *generator)
{
    uint64_t bits = random_next(generator->random);
    uint32_t host = scale((uint32_t)bits, generator->options.hosts);
    return (uint32_t)(bits >> 32) < generator->alias[host].threshold ? host
                                                                     : generator->alias[host].other;
}

/* ---- flows ---------------------------------------------------------------------------------- */

static const struct {
    uint16_t port;
    uint8_t udp;
} service[16] = {
    {443, 0}, {443, 0}, {443, 0}, {443, 0}, {443, 1}, {443, 1}, {80, 0},   {80, 0},
    {53, 1},  {53, 1},  {22, 0},  {25, 0},  {123, 1}, {445, 0}, {3306, 0}, {5060, 1},
};

static void flow_begin(struct generator *generator, uint32_t number)
{
    struct flow *flow = &generator->flow[number];
    uint64_t bits = random_next(generator->random);
    uint64_t more = random_next(generator->random);
    flow->host[0] = host_draw(generator);
    flow->host[1] = host_draw(generator);
    if (flow->host[1] == flow->host[0])
        flow->host[1] = (flow->host[0] + 1) % generator->options.hosts;
    flow->port[0] = (uint16_t)(32768 + (bits & 0x3fff));
    flow->port[1] = service[bits >> 14 & 15].port;
    bool v6 = (number & FLOW_V6_BITS) == FLOW_V6_BITS;
    bool tagged = (bits >> 18 & 7) == 0;
    flow->vlan = tagged ? (uint16_t)(100 + (bits >> 21 & 15)) : 0;
    flow->kind = (uint8_t)((service[bits >> 14 & 15].udp ? KIND_UDP : 0) | (v6 ? KIND_V6 : 0) |
                           (tagged ? KIND_VLAN : 0));
    flow->fresh = 1;
    flow->sequence[0] = (uint32_t)(bits >> 32);
    flow->sequence[1] = (uint32_t)more;
    /* Heavy-tailed: half of the flows have fewer than 18 packets, a few have a million. */
    flow->left = 2 + (uint32_t)((UINT64_C(8) << 32) / ((more >> 32) + (8u << 12)));
    flow->sum = flow->port[0] + flow->port[1];
    for (unsigned end = 0; end < 2; end++) {
        if (v6)
            flow->sum += sum32(ADDRESS_V6_PREFIX) + sum32(flow->host[end] + 1);
        else
            flow->sum += sum32(ADDRESS_V4 + flow->host[end]);
    }
    flow->sum = fold(flow->sum);
}

/* ---- packets -------------------------------------------------------------------------------- */

static inline uint8_t *put_ethernet(uint8_t *to, const struct flow *flow, unsigned from)
{
    put16(to, ADDRESS_MAC_PREFIX);
    put32(to + 2, flow->host[from ^ 1]);
    put16(to + 6, ADDRESS_MAC_PREFIX);
    put32(to + 8, flow->host[from]);
    to += 12;
    if ((flow->kind & KIND_VLAN) != 0) {
        put16(to, 0x8100);
        put16(to + 2, flow->vlan);
        to += 4;
    }
    put16(to, (flow->kind & KIND_V6) != 0 ? 0x86dd : 0x0800);
    return to + 2;
}

static inline uint8_t *put_ip(uint8_t *to, const struct flow *flow, unsigned from,
                              uint32_t l4_bytes, uint8_t protocol, uint16_t identification)
{
    enum { HOPS = 64, V4_BYTES = 20, V6_BYTES = 40 };
    if ((flow->kind & KIND_V6) != 0) {
        put32(to, 0x60000000u);
        put32(to + 4, l4_bytes << 16 | (uint32_t)protocol << 8 | HOPS);
        for (unsigned end = 0; end < 2; end++) {
            uint8_t *address = to + 8 + 16 * end;
            put64(address, (uint64_t)ADDRESS_V6_PREFIX << 32);
            put64(address + 8, (uint64_t)flow->host[from ^ end] + 1);
        }
        return to + V6_BYTES;
    }
    uint32_t source = ADDRESS_V4 + flow->host[from];
    uint32_t destination = ADDRESS_V4 + flow->host[from ^ 1];
    uint32_t total = V4_BYTES + l4_bytes;
    uint32_t dont_fragment = 0x4000;
    uint32_t sum = 0x4500 + total + identification + dont_fragment +
                   (HOPS << 8 | (uint32_t)protocol) + sum32(source) + sum32(destination);
    put32(to, 0x45000000u | total);
    put32(to + 4, (uint32_t)identification << 16 | dont_fragment);
    put32(to + 8, HOPS << 24 | (uint32_t)protocol << 16 | (uint16_t)~fold(sum));
    put32(to + 12, source);
    put32(to + 16, destination);
    return to + V4_BYTES;
}

/* Writes the headers of a flow's next packet to end at `payload`; returns where they begin. */
static uint8_t *put_headers(struct flow *flow, unsigned from, uint8_t *payload,
                            uint32_t payload_bytes, uint32_t payload_sum, uint16_t identification)
{
    enum { TCP = 6, UDP = 17, TCP_BYTES = 20, UDP_BYTES = 8 };
    enum { FIN = 1, SYN = 2, ACK = 16, WINDOW = 64240 };
    uint8_t *packet = payload - header_bytes[flow->kind];
    uint8_t *to = put_ethernet(packet, flow, from);
    if ((flow->kind & KIND_UDP) != 0) {
        uint32_t bytes = UDP_BYTES + payload_bytes;
        to = put_ip(to, flow, from, bytes, UDP, identification);
        uint16_t check = (uint16_t)~fold(flow->sum + UDP + bytes + bytes + payload_sum);
        put16(to, flow->port[from]);
        put16(to + 2, flow->port[from ^ 1]);
        put16(to + 4, (uint16_t)bytes);
        put16(to + 6, check != 0 ? check : 0xffff); /* 0 would say that there is none */
    } else {
        uint32_t bytes = TCP_BYTES + payload_bytes;
        to = put_ip(to, flow, from, bytes, TCP, identification);
        uint32_t flags = flow->fresh ? SYN : flow->left == 1 ? FIN | ACK : ACK;
        uint32_t sequence = flow->sequence[from], acknowledged = flow->sequence[from ^ 1];
        uint32_t offset_flags = 5u << 12 | flags;
        uint32_t sum = flow->sum + TCP + bytes + sum32(sequence) + sum32(acknowledged) +
                       offset_flags + WINDOW + payload_sum;
        put16(to, flow->port[from]);
        put16(to + 2, flow->port[from ^ 1]);
        put32(to + 4, sequence);
        put32(to + 8, acknowledged);
        put32(to + 12, offset_flags << 16 | WINDOW);
        put32(to + 16, (uint32_t)(uint16_t)~fold(sum) << 16);
        flow->sequence[from] = sequence + payload_bytes + flow->fresh;
    }
    flow->fresh = 0;
    return packet;
}

/* What was drawn for a packet before its flow is touched. */
struct draw {
    uint32_t flow;
    uint8_t class;
    uint8_t from;
};

static void generator_draw(struct generator *generator, struct draw *draw, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bits = random_next(generator->random);
        uint32_t class = generator->class_of[scale((uint32_t)bits << 16, 12)];
        uint32_t number = scale((uint32_t)(bits >> 32), generator->options.flows);
        if (generator->class[class].frame_bytes < header_bytes[KIND_V6 | KIND_VLAN] &&
            (number & FLOW_V6_BITS) == FLOW_V6_BITS)
            number--; /* too short for IPv6 */
        draw[i] = (struct draw){number, (uint8_t) class, bits >> 16 & 1};
        __builtin_prefetch(&generator->flow[number], 1);
    }
}

static void generator_fill(struct generator *generator, struct source_batch *batch, uint32_t count,
                           uint8_t *arena)
{
    struct draw draw[SOURCE_BATCH_MAX];
    uint32_t used[CLASSES_MAX] = {0};
    const uint64_t step_span = generator->options.step_ns * 2 + 1;
    int64_t time_ns = generator->time_ns;
    generator_draw(generator, draw, count);
    if (generator->options.step_ns == 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &generator->flow[draw[i].flow];
        struct length_class *class = &generator->class[draw[i].class];
        uint32_t slot = used[draw[i].class]++;
        uint8_t *payload =
            arena + class->arena_offset + (size_t)slot * class->slot_bytes + HEADERS_MAX;
        uint32_t payload_bytes = class->frame_bytes - header_bytes[flow->kind];
        uint32_t payload_sum = class->payload_sum[slot][flow->kind];
        uint64_t number = generator->made + i;
        if (payload_bytes >= STAMP_BYTES) {
            put64(payload, number);
            payload_sum += sum32((uint32_t)(number >> 32)) + sum32((uint32_t)number);
        } else { /* the slot's last packet may have had room for its number */
            memcpy(payload, generator->pattern + (payload - arena), STAMP_BYTES);
        }
        struct packet *packet = &batch->packet[i];
        packet->bytes =
            put_headers(flow, draw[i].from, payload, payload_bytes, payload_sum, (uint16_t)number);
        packet->captured_bytes = class->frame_bytes;
        packet->original_bytes = class->frame_bytes;
        packet->time_ns = time_ns;
        packet->interface = 0;
        packet->direction = DIRECTION_UNKNOWN;
        if (--flow->left == 0)
            flow_begin(generator, draw[i].flow);
        if (generator->options.step_ns != 0) {
            uint64_t bits = random_next(generator->random);
            time_ns = (int64_t)((uint64_t)time_ns +
                                (uint64_t)((unsigned __int128)bits * step_span >> 64));
        }
    }
    generator->time_ns = time_ns;
    generator->made += count;
}

/* ---- arenas --------------------------------------------------------------------------------- */

/* Slots hold text and random bytes in turn, so that the traffic compresses about as traffic does.
 */
static void pattern_fill(uint8_t *payload, uint32_t bytes, uint32_t slot, uint64_t random[4])
{
    static const char text[] =
        "GET /index.html HTTP/1.1\r\nHost: www.example.net\r\nUser-Agent: tape/1.0\r\nAccept: "
        "*/*\r\n"
        "Accept-Language: en\r\nConnection: keep-alive\r\n\r\n<!doctype html><title>loop</title>\n";
    size_t at = random_next(random) % (sizeof text - 1);
    uint64_t bits = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            bits = random_next(random);
        if (slot % 2 == 0) {
            payload[i] = (uint8_t)(bits >> i % 8 * 8);
        } else {
            payload[i] = (uint8_t)text[at];
            at = at + 1 == sizeof text - 1 ? 0 : at + 1;
        }
    }
}

/* Lays out the arena, makes its pattern and sums up each payload: without its stamp, which counts
 * by itself. */
static int pattern_make(struct generator *generator)
{
    for (uint32_t c = 0; c < generator->classes; c++) {
        struct length_class *class = &generator->class[c];
        uint32_t payload_max = class->frame_bytes - header_bytes[KIND_UDP];
        class->slot_bytes = (HEADERS_MAX + payload_max + 63) / 64 * 64;
        class->arena_offset = (uint32_t)generator->pool.arena_bytes;
        generator->pool.arena_bytes += (size_t) class->slot_bytes * SOURCE_BATCH_MAX;
    }
    generator->pattern = calloc(1, generator->pool.arena_bytes);
    if (generator->pattern == NULL)
        return ERR_NO_MEMORY;
    generator->pool.pattern = generator->pattern;
    for (uint32_t c = 0; c < generator->classes; c++) {
        struct length_class *class = &generator->class[c];
        for (uint32_t slot = 0; slot < SOURCE_BATCH_MAX; slot++) {
            uint8_t *payload = generator->pattern + class->arena_offset +
                               (size_t)slot * class->slot_bytes + HEADERS_MAX;
            pattern_fill(payload, class->slot_bytes - HEADERS_MAX, slot, generator->random);
            for (uint32_t kind = 0; kind < KINDS; kind++) {
                if (class->frame_bytes < header_bytes[kind])
                    continue;
                uint32_t bytes = class->frame_bytes - header_bytes[kind];
                uint32_t stamp = bytes >= STAMP_BYTES ? STAMP_BYTES : 0;
                class->payload_sum[slot][kind] = bytes_sum(payload + stamp, bytes - stamp);
            }
        }
    }
    return 0;
}

/* ---- the source's calls --------------------------------------------------------------------- */

static struct generator *generator_of(const struct source *source)
{
    return (struct generator *)source;
}

static int generator_next(struct source *source, struct source_batch *batch, int timeout_ms)
{
    struct generator *generator = generator_of(source);
    (void)timeout_ms; /* never waits */
    batch->count = 0;
    batch->body[0] = 0;
    uint64_t left = SOURCE_BATCH_MAX;
    if (generator->options.packets != 0)
        left = generator->options.packets - generator->made;
    if (left == 0)
        return ERR_END;
    struct batch_arena *arena = arena_take(&generator->pool, &source->failure);
    if (arena == NULL)
        return source->failure.code;
    batch->count = left < SOURCE_BATCH_MAX ? (uint32_t)left : SOURCE_BATCH_MAX;
    batch->body[0] = (uintptr_t)arena;
    generator_fill(generator, batch, batch->count, arena->bytes);
    generator->counters.seen += batch->count;
    return 1;
}

static void generator_release(struct source *source, struct source_batch *batch)
{
    arena_give(&generator_of(source)->pool, (struct batch_arena *)(uintptr_t)batch->body[0]);
    batch->body[0] = 0;
    batch->count = 0;
}

static uint32_t generator_interfaces(const struct source *source)
{
    (void)source;
    return 1;
}

static const struct interface_description *generator_interface(const struct source *source,
                                                               uint32_t number)
{
    assert(number == 0);
    return &generator_of(source)->interface;
}

static void generator_counters(struct source *source, uint32_t number,
                               struct source_counters *counters)
{
    assert(number == 0);
    *counters = generator_of(source)->counters;
}

static void generator_close(struct source *source)
{
    struct generator *generator = generator_of(source);
    arena_close(&generator->pool);
    free(generator->pattern);
    free(generator->alias);
    free(generator->flow);
    free(generator);
}

static const struct source_ops generator_ops = {
    .name = "generator",
    .next = generator_next,
    .release = generator_release,
    .interfaces = generator_interfaces,
    .interface = generator_interface,
    .counters = generator_counters,
    .close = generator_close,
};

/* ---- opening -------------------------------------------------------------------------------- */

static int options_check(struct source_generator_options *options, struct failure *failure)
{
    if (options->flows == 0)
        options->flows = FLOWS_DEFAULT;
    if (options->hosts == 0)
        options->hosts = HOSTS_DEFAULT;
    if (options->flows > FLOWS_MAX)
        return fail(failure, ERR_INVALID, "generator: at most %u flows, not %" PRIu32, FLOWS_MAX,
                    options->flows);
    if (options->hosts < 2 || options->hosts > HOSTS_MAX)
        return fail(failure, ERR_INVALID, "generator: 2 to %u hosts, not %" PRIu32, HOSTS_MAX,
                    options->hosts);
    if (options->frame_bytes != 0 &&
        (options->frame_bytes < FRAME_BYTES_MIN || options->frame_bytes > FRAME_BYTES_LIMIT))
        return fail(failure, ERR_INVALID, "generator: frames of %u to %u bytes, not %" PRIu32,
                    FRAME_BYTES_MIN, FRAME_BYTES_LIMIT, options->frame_bytes);
    if (options->step_ns > STEP_NS_MAX)
        return fail(failure, ERR_INVALID,
                    "generator: at most %" PRIu64 " ns between packets, not %" PRIu64, STEP_NS_MAX,
                    options->step_ns);
    return 0;
}

/* IMIX: of twelve packets, seven are short, four are of middle length, one is long. */
static void classes_make(struct generator *generator)
{
    static const struct {
        uint32_t frame_bytes;
        uint32_t share;
    } imix[CLASSES_MAX] = {{60, 7}, {566, 4}, {1514, 1}};
    if (generator->options.frame_bytes != 0) {
        generator->classes = 1;
        generator->class[0].frame_bytes = generator->options.frame_bytes;
        return;
    }
    uint32_t at = 0;
    generator->classes = CLASSES_MAX;
    for (uint32_t c = 0; c < CLASSES_MAX; c++) {
        generator->class[c].frame_bytes = imix[c].frame_bytes;
        for (uint32_t i = 0; i < imix[c].share; i++)
            generator->class_of[at++] = (uint8_t)c;
    }
}

int source_generator_open(const struct source_generator_options *options, struct source **source,
                          struct failure *failure)
{
    struct source_generator_options checked = *options;
    int result = options_check(&checked, failure);
    if (result < 0)
        return result;
    struct generator *generator = calloc(1, sizeof *generator);
    if (generator == NULL)
        return fail(failure, ERR_NO_MEMORY, "generator: no memory");
    generator->source = (struct source){.ops = &generator_ops, .waits = true, .wake_fd = -1};
    generator->options = checked;
    generator->time_ns = checked.start_ns;
    generator->interface = (struct interface_description){.link_type = 1, .name = "generator"};
    snprintf(generator->interface.description, sizeof generator->interface.description,
             "repeatable traffic of seed %" PRIu64, checked.seed);
    uint64_t seed = checked.seed;
    for (unsigned i = 0; i < 4; i++)
        generator->random[i] = seed_next(&seed);
    classes_make(generator);

    generator->flow =
        aligned_alloc(64, ((size_t)checked.flows * sizeof *generator->flow + 63) / 64 * 64);
    result = generator->flow == NULL ? ERR_NO_MEMORY : hosts_make(generator, checked.hosts);
    if (result == 0)
        result = pattern_make(generator);
    if (result < 0) {
        generator_close(&generator->source);
        return fail(failure, result, "generator: no memory for %" PRIu32 " flows", checked.flows);
    }
    for (uint32_t i = 0; i < checked.flows; i++) {
        flow_begin(generator, i);
        generator->flow[i].fresh = 0; /* they are met in mid-life */
    }
    *source = &generator->source;
    return 0;
}
