/*
 * source_packet.c - live capture by AF_PACKET, TPACKET_V3 (packet(7), the kernel's
 * packet_mmap.rst).
 *
 * open: for each interface a socket and a ring of blocks that it shares with the kernel. The kernel
 * fills a block and hands it to us when it is full or RETIRE_MS old; next() hands out views into
 * it, a batch from one block at a time, the interfaces in turn. The kernel gets a block back when
 * all of it has been handed out and every batch of it released: until then it keeps its bytes in
 * place, and when no block is left for it, it drops and counts. Nothing is copied.
 *
 * A block's way:
 *
 *     state      owner   moved on by
 *     KERNEL     kernel  the kernel: full or old
 *     OPEN       source  next(): its last packet is in a batch
 *     HANDED_OUT caller  release() of its last batch (or, without any, next()): back to KERNEL
 *
 * The kernel takes the outermost VLAN tag out of a frame. It is put back where it was before
 * anybody sees the frame: room for it is reserved before each, and the two MAC addresses are moved
 * down.
 *
 * An interface that goes down or away ends alone: what its ring still holds is handed out, then
 * source->failure says so, and the other interfaces go on. When the last one has ended, next()
 * fails with ERR_IO.
 *
 * One thread, but for source_wake().
 */
#include "source.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "network_interface.h"
#include "waiting.h"

/* ---- limits --------------------------------------------------------------------------------- */

#define BUFFER_BYTES_USUAL (32u << 20)
#define BLOCK_BYTES_LIVE (1u << 20)
#define BLOCKS_MIN 4u
#define FRAME_STEP_BYTES 2048u /* only has to divide a block: TPACKET_V3 packs frames tightly */
#define RETIRE_MS 10u
#define LINE_BYTES 64u
#define AHEAD_BYTES 1536u
#define VLAN_TAG_BYTES 4u
#define MAC_PAIR_BYTES 12u
/* How long an interface that went down may still hand out what was in its ring: several times
 * RETIRE_MS. */
#define DRAIN_MS 100
/* A busy source looks after this many batches whether an interface went away. */
#define BATCHES_BETWEEN_CHECKS 256u

/* ---- state ---------------------------------------------------------------------------------- */

enum block_state { BLOCK_KERNEL, BLOCK_OPEN, BLOCK_HANDED_OUT };

struct ring_block {
    uint8_t state;    /* enum block_state */
    uint32_t batches; /* handed out and not yet released */
};

enum ring_state { RING_LIVE, RING_DRAINING, RING_ENDED };

struct packet_ring {
    int fd;
    uint8_t *memory;
    size_t memory_bytes;
    uint32_t block_bytes;
    uint32_t blocks;
    struct ring_block *block;
    uint32_t current; /* block that is open or comes next */
    uint32_t left;    /* packets of the open block that are not in a batch yet */
    uint8_t *frame;   /* the next of them */
    enum ring_state state;
    int64_t drained_ms; /* when a draining ring ends */
    bool skip_outgoing; /* by hand, where the kernel is too old to do it */
    uint32_t snapshot_bytes;
    uint32_t frame_max; /* longer ones have been merged */
    int index;
    uint64_t adapter_drops; /* when it was opened */
    uint64_t handed_out;
    uint64_t dropped;
    struct interface_description description;
    struct source_counters counters;
};

struct packet_source {
    struct source source;
    struct packet_ring *ring;
    uint32_t rings;
    uint32_t ended;
    uint32_t turn; /* ring that is asked first */
    uint32_t batches_unchecked;
    int drops_fd;
    struct pollfd *wait; /* the rings' sockets, then wake_fd */
};

static struct packet_source *packet_source_of(const struct source *source)
{
    return (struct packet_source *)source;
}

/* ---- blocks: the words that kernel and source share ----------------------------------------- */

static struct tpacket_hdr_v1 *ring_header(const struct packet_ring *ring, uint32_t number)
{
    struct tpacket_block_desc *block =
        (struct tpacket_block_desc *)(ring->memory + (size_t)number * ring->block_bytes);
    return &block->hdr.bh1;
}

/* Acquire: what the kernel wrote before it set the flag is seen after it. */
static bool block_is_ours(const struct packet_ring *ring, uint32_t number)
{
    uint32_t status = __atomic_load_n(&ring_header(ring, number)->block_status, __ATOMIC_ACQUIRE);
    return (status & TP_STATUS_USER) != 0;
}

/* Release: all our reads of the block are done before the kernel may write to it. */
static void block_return(struct packet_ring *ring, uint32_t number)
{
    ring->block[number].state = BLOCK_KERNEL;
    __atomic_store_n(&ring_header(ring, number)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

/* Opens the current block if the kernel has handed it over. */
static bool block_open(struct packet_ring *ring)
{
    if (ring->block[ring->current].state != BLOCK_KERNEL || !block_is_ours(ring, ring->current))
        return false;
    const struct tpacket_hdr_v1 *header = ring_header(ring, ring->current);
    ring->block[ring->current].state = BLOCK_OPEN;
    ring->left = header->num_pkts;
    ring->frame =
        ring->memory + (size_t)ring->current * ring->block_bytes + header->offset_to_first_pkt;
    return true;
}

/* The open block's last packet is in a batch. */
static void block_done(struct packet_ring *ring)
{
    uint32_t number = ring->current;
    ring->block[number].state = BLOCK_HANDED_OUT;
    if (ring->block[number].batches == 0)
        block_return(ring, number);
    ring->current = number + 1 == ring->blocks ? 0 : number + 1;
}

/* ---- packets -------------------------------------------------------------------------------- */

/* Puts the tag that the kernel took out back in place; returns where the frame begins now. */
static uint8_t *tag_restore(const struct tpacket3_hdr *header, uint8_t *bytes)
{
    uint16_t protocol = (header->tp_status & TP_STATUS_VLAN_TPID_VALID) != 0
                            ? header->hv1.tp_vlan_tpid
                            : ETH_P_8021Q;
    uint16_t tag[2] = {htobe16(protocol), htobe16((uint16_t)header->hv1.tp_vlan_tci)};
    memmove(bytes - VLAN_TAG_BYTES, bytes, MAC_PAIR_BYTES);
    bytes -= VLAN_TAG_BYTES;
    memcpy(bytes + MAC_PAIR_BYTES, tag, sizeof tag);
    return bytes;
}

/* The view of one frame; false if it is one that this machine sent and nobody asked for. */
static bool frame_view(struct packet_ring *ring, uint16_t number, uint8_t *frame,
                       struct packet *packet)
{
    const struct tpacket3_hdr *header = (const struct tpacket3_hdr *)frame;
    const struct sockaddr_ll *address =
        (const struct sockaddr_ll *)(frame + TPACKET_ALIGN(sizeof *header));
    if (ring->skip_outgoing && address->sll_pkttype == PACKET_OUTGOING)
        return false;
    uint8_t *bytes = frame + header->tp_mac;
    uint32_t captured = header->tp_snaplen;
    uint32_t original = header->tp_len;
    if ((header->tp_status & TP_STATUS_VLAN_VALID) != 0 && captured >= MAC_PAIR_BYTES) {
        bytes = tag_restore(header, bytes);
        captured += VLAN_TAG_BYTES;
        original += VLAN_TAG_BYTES;
    }
    packet->bytes = bytes;
    packet->captured_bytes = captured < ring->snapshot_bytes ? captured : ring->snapshot_bytes;
    packet->original_bytes = original;
    packet->time_ns = (int64_t)header->tp_sec * 1000000000 + header->tp_nsec;
    packet->interface = number;
    packet->direction = address->sll_pkttype == PACKET_OUTGOING ? DIRECTION_OUT : DIRECTION_IN;
    ring->counters.oversized += original > ring->frame_max;
    return true;
}

/*
 * Fills the batch from the open block; the batch holds the block. Where a packet begins is known only from the one before it, and
 * another processor's caches have them: so what lies ahead is asked for line by line, whatever it is. It will be copied soon.
 */
static void ring_fill(struct packet_ring *ring, uint16_t number, struct source_batch *batch)
{
    uint32_t block = ring->current;
    while (ring->left > 0 && batch->count < SOURCE_BATCH_MAX) {
        uint8_t *frame = ring->frame;
        uint8_t *next = frame + ((const struct tpacket3_hdr *)frame)->tp_next_offset;
        for (const uint8_t *line = frame + AHEAD_BYTES; line < next + AHEAD_BYTES; line += LINE_BYTES)
            __builtin_prefetch(line);
        --ring->left;
        ring->frame = next;
        batch->count += frame_view(ring, number, frame, &batch->packet[batch->count]);
    }
    if (batch->count > 0) {
        ring->block[block].batches++;
        batch->body[0] = (uint64_t)number + 1;
        batch->body[1] = block;
        ring->handed_out += batch->count;
    }
    if (ring->left == 0)
        block_done(ring);
}

/* ---- counters ------------------------------------------------------------------------------- */

/* The kernel forgets its counts when they are read: they are added up here. */
static void ring_count(struct packet_source *source, struct packet_ring *ring)
{
    struct tpacket_stats_v3 statistics;
    socklen_t bytes = sizeof statistics;
    if (ring->state != RING_ENDED) {
        if (getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &bytes) == 0)
            ring->dropped += statistics.tp_drops;
        uint64_t adapter = network_drops(source->drops_fd, ring->index);
        if (adapter > ring->adapter_drops) {
            ring->dropped += adapter - ring->adapter_drops;
            ring->adapter_drops = adapter;
        }
    }
    ring->counters.dropped_kernel = ring->dropped;
    ring->counters.seen = ring->handed_out + ring->dropped;
}

/* ---- interfaces that end -------------------------------------------------------------------- */

/* Looks whether a socket has an error: its interface went down, or is no more. */
static void ring_check(struct packet_ring *ring)
{
    int error = 0;
    socklen_t bytes = sizeof error;
    if (ring->state != RING_LIVE ||
        getsockopt(ring->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0 || error == 0)
        return;
    ring->state = RING_DRAINING;
    ring->drained_ms = monotonic_ms() + DRAIN_MS;
}

static void ring_end(struct packet_source *source, struct packet_ring *ring)
{
    struct network_interface interface;
    struct failure unknown;
    ring_count(source, ring);
    int result = network_interface_read(ring->fd, ring->description.name, &interface, &unknown);
    bool gone = result == ERR_NOT_FOUND || (result == 0 && interface.index != ring->index);
    fail(&source->source.failure, ERR_IO, "interface %s %s: capture from it has ended",
         ring->description.name, gone ? "was removed" : "went down");
    ring->state = RING_ENDED;
    source->wait[ring - source->ring].fd = -1;
    source->ended++;
}

/*
 * Ends the rings that are empty and whose time to drain is over. Returns how long waiting may last,
 * at most `timeout_ms`.
 */
static int rings_drain(struct packet_source *source, int timeout_ms)
{
    for (uint32_t i = 0; i < source->rings; i++) {
        struct packet_ring *ring = &source->ring[i];
        if (ring->state != RING_DRAINING || ring->left > 0 || block_is_ours(ring, ring->current))
            continue;
        int64_t left_ms = ring->drained_ms - monotonic_ms();
        if (left_ms <= 0)
            ring_end(source, ring);
        else if (timeout_ms < 0 || left_ms < timeout_ms)
            timeout_ms = (int)left_ms;
    }
    return timeout_ms;
}

/* ---- the source's calls --------------------------------------------------------------------- */

/* A batch from the next ring in turn that has one. */
static bool rings_fill(struct packet_source *source, struct source_batch *batch)
{
    for (uint32_t i = 0; i < source->rings; i++) {
        uint32_t number = (source->turn + i) % source->rings;
        struct packet_ring *ring = &source->ring[number];
        if (ring->state == RING_ENDED)
            continue;
        while (batch->count == 0 && (ring->left > 0 || block_open(ring)))
            ring_fill(ring, (uint16_t)number, batch);
        if (batch->count > 0) {
            source->turn = number + 1;
            return true;
        }
    }
    return false;
}

enum wait_result { WAIT_TIME_OVER, WAIT_READY, WAIT_WOKEN };

/* Waits for a block, an error or a wake; a negative code if it cannot. */
static int rings_wait(struct packet_source *source, int timeout_ms)
{
    struct pollfd *wake = &source->wait[source->rings];
    int ready = poll(source->wait, source->rings + 1, timeout_ms);
    if (ready < 0)
        return errno == EINTR
                   ? WAIT_WOKEN
                   : fail_errno(&source->source.failure, errno, "cannot wait for packets");
    source->batches_unchecked = 0;
    for (uint32_t i = 0; i < source->rings && ready > 0; i++) {
        if ((source->wait[i].revents & (POLLERR | POLLHUP)) != 0)
            ring_check(&source->ring[i]);
    }
    if ((wake->revents & POLLIN) != 0) {
        wake_drain(source->source.wake_fd);
        return WAIT_WOKEN;
    }
    return ready > 0 ? WAIT_READY : WAIT_TIME_OVER;
}

/*
 * The kernel says that there is a block, and there is none: it counts one that the caller has not
 * released. So as not to spin until that happens, waits a moment for nothing but a wake.
 */
static int rings_pause(struct packet_source *source)
{
    struct pollfd wake = {.fd = source->source.wake_fd, .events = POLLIN};
    if (poll(&wake, 1, 1) <= 0)
        return WAIT_READY;
    wake_drain(source->source.wake_fd);
    return WAIT_WOKEN;
}

static int packet_next(struct source *base, struct source_batch *batch, int timeout_ms)
{
    struct packet_source *source = packet_source_of(base);
    struct deadline deadline = deadline_of(timeout_ms);
    int waited = WAIT_TIME_OVER;
    batch->count = 0;
    batch->body[0] = 0;
    if (++source->batches_unchecked >= BATCHES_BETWEEN_CHECKS) {
        source->batches_unchecked = 0;
        for (uint32_t i = 0; i < source->rings; i++)
            ring_check(&source->ring[i]);
        rings_drain(source, -1);
    }
    for (;;) {
        if (rings_fill(source, batch))
            return 1;
        int left_ms = deadline_left_ms(&deadline);
        int wait_ms = rings_drain(source, left_ms);
        if (source->ended == source->rings)
            return base->failure.code;
        waited = waited == WAIT_READY ? rings_pause(source) : WAIT_TIME_OVER;
        if (waited != WAIT_WOKEN)
            waited = rings_wait(source, wait_ms);
        if (waited < 0)
            return waited;
        if (waited == WAIT_WOKEN)
            return 0;
        if (waited == WAIT_TIME_OVER && wait_ms == left_ms)
            return 0;
        if (left_ms == 0)
            return rings_fill(source, batch);
    }
}

static void packet_release(struct source *base, struct source_batch *batch)
{
    struct packet_source *source = packet_source_of(base);
    if (batch->body[0] != 0) {
        struct packet_ring *ring = &source->ring[batch->body[0] - 1];
        uint32_t number = (uint32_t)batch->body[1];
        assert(ring->block[number].batches > 0);
        if (--ring->block[number].batches == 0 && ring->block[number].state == BLOCK_HANDED_OUT)
            block_return(ring, number);
    }
    batch->body[0] = 0;
    batch->count = 0;
}

static uint32_t packet_interfaces(const struct source *base)
{
    return packet_source_of(base)->rings;
}

static const struct interface_description *packet_interface(const struct source *base,
                                                            uint32_t number)
{
    const struct packet_source *source = packet_source_of(base);
    assert(number < source->rings);
    return &source->ring[number].description;
}

static void packet_counters(struct source *base, uint32_t number, struct source_counters *counters)
{
    struct packet_source *source = packet_source_of(base);
    assert(number < source->rings);
    struct packet_ring *ring = &source->ring[number];
    ring_count(source, ring);
    *counters = ring->counters;
}

static void ring_close(struct packet_ring *ring)
{
    if (ring->memory != NULL)
        munmap(ring->memory, ring->memory_bytes);
    if (ring->fd >= 0)
        close(ring->fd);
    free(ring->block);
}

static void packet_close(struct source *base)
{
    struct packet_source *source = packet_source_of(base);
    for (uint32_t i = 0; source->ring != NULL && i < source->rings; i++)
        ring_close(&source->ring[i]);
    if (source->drops_fd >= 0)
        close(source->drops_fd);
    if (base->wake_fd >= 0)
        close(base->wake_fd);
    free(source->wait);
    free(source->ring);
    free(source);
}

static const struct source_ops packet_ops = {
    .name = "AF_PACKET",
    .next = packet_next,
    .release = packet_release,
    .interfaces = packet_interfaces,
    .interface = packet_interface,
    .counters = packet_counters,
    .close = packet_close,
};

/* ---- opening -------------------------------------------------------------------------------- */

static int option_set(struct packet_ring *ring, int option, const void *value, size_t bytes,
                      const char *what, struct failure *failure)
{
    if (setsockopt(ring->fd, SOL_PACKET, option, value, (socklen_t)bytes) == 0)
        return 0;
    return fail_errno(failure, errno, "interface %s: cannot %s", ring->description.name, what);
}

/* Asks the kernel for the ring's memory and maps it: blocks of 1 MiB, or smaller ones where there
 * are too few. */
static int ring_map(struct packet_ring *ring, uint32_t buffer_bytes, struct failure *failure)
{
    uint32_t page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
    uint32_t wanted = buffer_bytes != 0 ? buffer_bytes : BUFFER_BYTES_USUAL;
    ring->block_bytes = BLOCK_BYTES_LIVE;
    while (ring->block_bytes > page_bytes && wanted / ring->block_bytes < BLOCKS_MIN)
        ring->block_bytes /= 2;
    ring->blocks = wanted / ring->block_bytes;
    if (ring->blocks < BLOCKS_MIN)
        ring->blocks = BLOCKS_MIN;

    int version = TPACKET_V3;
    unsigned reserve = VLAN_TAG_BYTES;
    struct tpacket_req3 request = {
        .tp_block_size = ring->block_bytes,
        .tp_block_nr = ring->blocks,
        .tp_frame_size = FRAME_STEP_BYTES,
        .tp_frame_nr = ring->block_bytes / FRAME_STEP_BYTES * ring->blocks,
        .tp_retire_blk_tov = RETIRE_MS,
    };
    int result =
        option_set(ring, PACKET_VERSION, &version, sizeof version, "use TPACKET_V3", failure);
    if (result == 0)
        result = option_set(ring, PACKET_RESERVE, &reserve, sizeof reserve,
                            "reserve room for VLAN tags", failure);
    if (result == 0)
        result = option_set(ring, PACKET_RX_RING, &request, sizeof request,
                            "get its buffer from the kernel", failure);
    if (result < 0)
        return result;

    ring->block = calloc(ring->blocks, sizeof *ring->block);
    if (ring->block == NULL)
        return fail(failure, ERR_NO_MEMORY, "interface %s: no memory", ring->description.name);
    size_t bytes = (size_t)ring->blocks * ring->block_bytes;
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0);
    if (memory == MAP_FAILED)
        return fail_errno(failure, errno, "interface %s: cannot map its buffer of %zu bytes",
                          ring->description.name, bytes);
    ring->memory = memory;
    ring->memory_bytes = bytes;
    return 0;
}

/* Lets the kernel cut packets, so that short ones do not take the room of long ones. */
static int ring_cut(struct packet_ring *ring, struct failure *failure)
{
    struct sock_filter keep = BPF_STMT(BPF_RET | BPF_K, ring->snapshot_bytes);
    const struct sock_fprog program = {.len = 1, .filter = &keep};
    if (setsockopt(ring->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0)
        return 0;
    return fail_errno(failure, errno, "interface %s: cannot set the snapshot length",
                      ring->description.name);
}

static int ring_choose(struct packet_ring *ring, const struct source_live_options *options,
                       struct failure *failure)
{
    int yes = 1;
    if (!options->outgoing &&
        setsockopt(ring->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes) < 0)
        ring->skip_outgoing = true; /* before Linux 4.20 */
    if (!options->promiscuous)
        return 0;
    const struct packet_mreq everything = {.mr_ifindex = ring->index, .mr_type = PACKET_MR_PROMISC};
    return option_set(ring, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything,
                      "make it promiscuous", failure);
}

/* The last step: from here on, packets come in. */
static int ring_bind(struct packet_ring *ring, struct failure *failure)
{
    const struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL), .sll_ifindex = ring->index};
    if (bind(ring->fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return 0;
    return fail_errno(failure, errno, "interface %s: cannot be captured from",
                      ring->description.name);
}

static int ring_open(struct packet_source *source, struct packet_ring *ring, const char *name,
                     const struct source_live_options *options, struct failure *failure)
{
    struct network_interface interface;
    snprintf(ring->description.name, sizeof ring->description.name, "%s", name);
    /* Protocol 0: nothing comes in before all is set up and the socket is bound. */
    ring->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (ring->fd < 0 && errno == EPERM)
        return network_no_privilege(name, failure);
    if (ring->fd < 0)
        return fail_errno(failure, errno, "interface %s: cannot make a packet socket", name);
    int result = network_interface_read(ring->fd, name, &interface, failure);
    if (result == 0)
        result =
            network_link_type(name, interface.hardware_type, &ring->description.link_type, failure);
    if (result < 0)
        return result;
    if (!interface.up)
        return fail(failure, ERR_IO, "interface %s is down: `ip link set %s up` first", name, name);
    ring->index = interface.index;
    ring->frame_max = network_frame_max(ring->description.link_type, interface.mtu);
    ring->snapshot_bytes =
        options->snapshot_bytes != 0 && options->snapshot_bytes < NETWORK_SNAPSHOT_BYTES
            ? options->snapshot_bytes
            : NETWORK_SNAPSHOT_BYTES;
    ring->description.snapshot_length = ring->snapshot_bytes;
    memcpy(ring->description.hardware, interface.hardware, sizeof interface.hardware);
    ring->adapter_drops = network_drops(source->drops_fd, ring->index);
    result = ring_map(ring, options->buffer_bytes, failure);
    if (result == 0)
        result = ring_cut(ring, failure);
    if (result == 0)
        result = ring_choose(ring, options, failure);
    if (result == 0)
        result = ring_bind(ring, failure);
    return result;
}

int source_packet_open(const struct source_live_options *options, struct source **source,
                       struct failure *failure)
{
    int result =
        network_names_check(options->interface, options->interface_count, IFNAMSIZ - 1, failure);
    if (result < 0)
        return result;
    struct packet_source *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory to capture");
    opened->source = (struct source){.ops = &packet_ops, .wake_fd = -1};
    opened->drops_fd = network_drops_open();
    opened->ring = calloc(options->interface_count, sizeof *opened->ring);
    opened->wait = calloc(options->interface_count + 1, sizeof *opened->wait);
    opened->source.wake_fd = wake_open();
    if (opened->ring == NULL || opened->wait == NULL || opened->source.wake_fd < 0) {
        result = fail(failure, ERR_NO_MEMORY, "no memory to capture");
        goto undo;
    }
    for (uint32_t i = 0; i < options->interface_count; i++) {
        struct packet_ring *ring = &opened->ring[opened->rings++];
        ring->fd = -1;
        result = ring_open(opened, ring, options->interface[i], options, failure);
        if (result < 0)
            goto undo;
        opened->wait[i] = (struct pollfd){.fd = ring->fd, .events = POLLIN};
    }
    opened->wait[opened->rings] = (struct pollfd){.fd = opened->source.wake_fd, .events = POLLIN};
    *source = &opened->source;
    return 0;

undo:
    packet_close(&opened->source);
    return result;
}
