/*
 * source_pcap.c - live capture by libpcap, for interfaces and systems that source_packet.c does not
 * do.
 *
 * One handle an interface, not blocking; poll(2) over the handles' descriptors and wake_fd.
 * libpcap's bytes are good only until its next call, so each packet is copied once, into the arena
 * of its batch; the arena comes back at release. libpcap itself puts VLAN tags back and cuts to the
 * snapshot length.
 *
 * An interface that goes down is waited for: it delivers again when it is up. One that is removed
 * or fails ends alone; source->failure says why, and the others go on. When the last one has ended,
 * next() fails with ERR_IO.
 *
 * One thread, but for source_wake().
 */
#include "source.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch_arena.h"
#include "network_interface.h"
#include "waiting.h"

/* ---- limits --------------------------------------------------------------------------------- */

#define BUFFER_BYTES_USUAL (32u << 20)
#define LINGER_MS 10 /* libpcap's time-out: how long the kernel may gather packets */
#define ARENA_BYTES \
    (NETWORK_SNAPSHOT_BYTES + (1u << 20)) /* a batch of usual packets, or a few long ones */
/* Where a handle cannot be waited for, it is asked this often. */
#define ASK_MS 10

/* ---- state ---------------------------------------------------------------------------------- */

struct pcap_handle {
    pcap_t *pcap; /* null: ended */
    bool nanoseconds;
    uint8_t direction; /* of all its packets: libpcap does not tell it of a single one */
    uint32_t snapshot_bytes;
    uint32_t frame_max;
    int index;
    uint64_t adapter_drops; /* when it was opened */
    uint64_t handed_out;
    uint64_t dropped;
    uint32_t dropped_last; /* libpcap's count, of 32 bits */
    struct interface_description description;
    struct source_counters counters;
};

struct pcap_source {
    struct source source;
    struct pcap_handle *handle;
    uint32_t handles;
    uint32_t ended;
    uint32_t turn;
    bool unwaitable; /* some handle has no descriptor to wait for */
    int drops_fd;
    struct pollfd *wait; /* the handles', then wake_fd */
    struct arena_pool pool;
};

static struct pcap_source *pcap_source_of(const struct source *source)
{
    return (struct pcap_source *)source;
}

/* ---- counters ------------------------------------------------------------------------------- */

static void handle_count(struct pcap_source *source, struct pcap_handle *handle)
{
    struct pcap_stat statistics;
    if (handle->pcap != NULL) {
        if (pcap_stats(handle->pcap, &statistics) == 0) {
            handle->dropped += (uint32_t)(statistics.ps_drop - handle->dropped_last);
            handle->dropped_last = statistics.ps_drop;
        }
        uint64_t adapter = network_drops(source->drops_fd, handle->index);
        if (adapter > handle->adapter_drops) {
            handle->dropped += adapter - handle->adapter_drops;
            handle->adapter_drops = adapter;
        }
    }
    handle->counters.dropped_kernel = handle->dropped;
    handle->counters.seen = handle->handed_out + handle->dropped;
}

/* ---- packets -------------------------------------------------------------------------------- */

static void handle_end(struct pcap_source *source, struct pcap_handle *handle)
{
    handle_count(source, handle);
    fail(&source->source.failure, ERR_IO, "interface %s: capture from it has ended: %s",
         handle->description.name, pcap_geterr(handle->pcap));
    pcap_close(handle->pcap);
    handle->pcap = NULL;
    source->wait[handle - source->handle].fd = -1;
    source->ended++;
}

/* Copies what a handle has until batch or arena are full. False: it has no more for now, or has
 * ended. */
static bool handle_copy(struct pcap_source *source, uint32_t number, struct source_batch *batch,
                        uint8_t *arena, size_t *used)
{
    struct pcap_handle *handle = &source->handle[number];
    while (batch->count < SOURCE_BATCH_MAX && ARENA_BYTES - *used >= handle->snapshot_bytes) {
        struct pcap_pkthdr *header;
        const u_char *bytes;
        int result = pcap_next_ex(handle->pcap, &header, &bytes);
        if (result == 0)
            return false;
        if (result < 0) {
            handle_end(source, handle);
            return false;
        }
        uint32_t captured =
            header->caplen < handle->snapshot_bytes ? header->caplen : handle->snapshot_bytes;
        struct packet *packet = &batch->packet[batch->count++];
        memcpy(arena + *used, bytes, captured);
        packet->bytes = arena + *used;
        packet->captured_bytes = captured;
        packet->original_bytes = header->len;
        packet->time_ns = (int64_t)header->ts.tv_sec * 1000000000 +
                          (int64_t)header->ts.tv_usec * (handle->nanoseconds ? 1 : 1000);
        packet->interface = (uint16_t)number;
        packet->direction = handle->direction;
        *used += captured;
        handle->handed_out++;
        handle->counters.oversized += header->len > handle->frame_max;
    }
    return true;
}

/* Copies from all handles, beginning with another one each time. */
static void handles_copy(struct pcap_source *source, struct source_batch *batch, uint8_t *arena)
{
    size_t used = 0;
    for (uint32_t i = 0; i < source->handles; i++) {
        uint32_t number = (source->turn + i) % source->handles;
        if (source->handle[number].pcap != NULL && handle_copy(source, number, batch, arena, &used))
            break;
    }
    source->turn++;
}

/* ---- the source's calls --------------------------------------------------------------------- */

/* Waits for packets. 1: look again; 0: time is over, or woken. */
static int handles_wait(struct pcap_source *source, int timeout_ms)
{
    struct pollfd *wake = &source->wait[source->handles];
    bool asking = source->unwaitable && (timeout_ms < 0 || timeout_ms > ASK_MS);
    int ready = poll(source->wait, source->handles + 1, asking ? ASK_MS : timeout_ms);
    if (ready < 0)
        return errno == EINTR
                   ? 0
                   : fail_errno(&source->source.failure, errno, "cannot wait for packets");
    if ((wake->revents & POLLIN) != 0) {
        wake_drain(source->source.wake_fd);
        return 0;
    }
    return ready > 0 || asking;
}

static int live_next(struct source *base, struct source_batch *batch, int timeout_ms)
{
    struct pcap_source *source = pcap_source_of(base);
    struct deadline deadline = deadline_of(timeout_ms);
    batch->count = 0;
    batch->body[0] = 0;
    struct batch_arena *arena = arena_take(&source->pool, &base->failure);
    if (arena == NULL)
        return base->failure.code;
    for (;;) {
        handles_copy(source, batch, arena->bytes);
        if (batch->count > 0) {
            batch->body[0] = (uintptr_t)arena;
            return 1;
        }
        int result = base->failure.code;
        if (source->ended < source->handles)
            result = handles_wait(source, deadline_left_ms(&deadline));
        if (result <= 0) {
            arena_give(&source->pool, arena);
            return result;
        }
    }
}

static void live_release(struct source *base, struct source_batch *batch)
{
    arena_give(&pcap_source_of(base)->pool, (struct batch_arena *)(uintptr_t)batch->body[0]);
    batch->body[0] = 0;
    batch->count = 0;
}

static uint32_t live_interfaces(const struct source *base)
{
    return pcap_source_of(base)->handles;
}

static const struct interface_description *live_interface(const struct source *base,
                                                          uint32_t number)
{
    const struct pcap_source *source = pcap_source_of(base);
    assert(number < source->handles);
    return &source->handle[number].description;
}

static void live_counters(struct source *base, uint32_t number, struct source_counters *counters)
{
    struct pcap_source *source = pcap_source_of(base);
    assert(number < source->handles);
    handle_count(source, &source->handle[number]);
    *counters = source->handle[number].counters;
}

static void live_close(struct source *base)
{
    struct pcap_source *source = pcap_source_of(base);
    for (uint32_t i = 0; source->handle != NULL && i < source->handles; i++) {
        if (source->handle[i].pcap != NULL)
            pcap_close(source->handle[i].pcap);
    }
    arena_close(&source->pool);
    if (source->drops_fd >= 0)
        close(source->drops_fd);
    if (base->wake_fd >= 0)
        close(base->wake_fd);
    free(source->wait);
    free(source->handle);
    free(source);
}

static const struct source_ops live_ops = {
    .name = "libpcap",
    .next = live_next,
    .release = live_release,
    .interfaces = live_interfaces,
    .interface = live_interface,
    .counters = live_counters,
    .close = live_close,
};

/* ---- opening -------------------------------------------------------------------------------- */

/* The sentence that names the interfaces that there are. */
static int interface_unknown(const char *name, struct failure *failure)
{
    struct network_interface interface;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int result = network_interface_read(fd, name, &interface, failure);
    if (fd >= 0)
        close(fd);
    return result < 0 ? result : fail(failure, ERR_NOT_FOUND, "there is no interface %s", name);
}

/* Why a handle could not be activated. Warnings are not failures. */
static int activation_failed(struct pcap_handle *handle, int code, struct failure *failure)
{
    const char *name = handle->description.name;
    switch (code) {
    case PCAP_ERROR_PERM_DENIED:
    case PCAP_ERROR_PROMISC_PERM_DENIED:
        return network_no_privilege(name, failure);
    case PCAP_ERROR_NO_SUCH_DEVICE:
        return interface_unknown(name, failure);
    case PCAP_ERROR_IFACE_NOT_UP:
        return fail(failure, ERR_IO, "interface %s is down: `ip link set %s up` first", name, name);
    default:
        return fail(failure, ERR_IO, "interface %s: %s: %s", name, pcap_statustostr(code),
                    pcap_geterr(handle->pcap));
    }
}

/* The LINKTYPE_ number, which is what libpcap would write into a file, not its own DLT_ number. */
static int handle_link_type(struct pcap_handle *handle, struct failure *failure)
{
    char *head = NULL;
    size_t head_bytes = 0;
    uint32_t network = UINT32_MAX;
    FILE *stream = open_memstream(&head, &head_bytes);
    pcap_dumper_t *dumper = stream != NULL ? pcap_dump_fopen(handle->pcap, stream) : NULL;
    if (dumper != NULL)
        pcap_dump_close(dumper);
    else if (stream != NULL)
        fclose(stream);
    if (dumper != NULL && head_bytes >= 24)
        memcpy(&network, head + 20, sizeof network);
    free(head);
    if (network > UINT16_MAX)
        return fail(failure, ERR_UNSUPPORTED,
                    "interface %s: its packets have no link type for files",
                    handle->description.name);
    handle->description.link_type = (uint16_t)network;
    return 0;
}

/* Facts for people and counters; pseudo-devices of libpcap ("any", "usbmon0") have none. */
static int handle_describe(struct pcap_source *source, struct pcap_handle *handle,
                           struct failure *failure)
{
    struct network_interface interface;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    handle->index = -1;
    handle->frame_max = UINT32_MAX;
    int result = handle_link_type(handle, failure);
    if (fd >= 0 && network_interface_read(fd, handle->description.name, &interface, NULL) == 0) {
        memcpy(handle->description.hardware, interface.hardware, sizeof interface.hardware);
        handle->index = interface.index;
        handle->adapter_drops = network_drops(source->drops_fd, interface.index);
        handle->frame_max = network_frame_max(handle->description.link_type, interface.mtu);
    }
    if (fd >= 0)
        close(fd);
    return result;
}

static int handle_open(struct pcap_source *source, struct pcap_handle *handle, const char *name,
                       const struct source_live_options *options, struct failure *failure)
{
    char error[PCAP_ERRBUF_SIZE] = "";
    uint32_t buffer_bytes = options->buffer_bytes != 0 ? options->buffer_bytes : BUFFER_BYTES_USUAL;
    snprintf(handle->description.name, sizeof handle->description.name, "%s", name);
    handle->snapshot_bytes =
        options->snapshot_bytes != 0 && options->snapshot_bytes < NETWORK_SNAPSHOT_BYTES
            ? options->snapshot_bytes
            : NETWORK_SNAPSHOT_BYTES;
    handle->description.snapshot_length = handle->snapshot_bytes;
    handle->pcap = pcap_create(name, error);
    if (handle->pcap == NULL)
        return fail(failure, ERR_IO, "interface %s: %s", name, error);
    pcap_set_snaplen(handle->pcap, (int)handle->snapshot_bytes);
    pcap_set_promisc(handle->pcap, options->promiscuous);
    pcap_set_timeout(handle->pcap, LINGER_MS);
    pcap_set_buffer_size(handle->pcap, buffer_bytes > INT32_MAX ? INT32_MAX : (int)buffer_bytes);
    handle->nanoseconds = pcap_set_tstamp_precision(handle->pcap, PCAP_TSTAMP_PRECISION_NANO) == 0;
    int code = pcap_activate(handle->pcap);
    if (code < 0)
        return activation_failed(handle, code, failure);
    handle->nanoseconds = pcap_get_tstamp_precision(handle->pcap) == PCAP_TSTAMP_PRECISION_NANO;
    /* Where it cannot choose, both directions come. */
    if (!options->outgoing && pcap_setdirection(handle->pcap, PCAP_D_IN) == 0)
        handle->direction = DIRECTION_IN;
    if (pcap_setnonblock(handle->pcap, 1, error) < 0)
        return fail(failure, ERR_IO, "interface %s: %s", name, error);
    return handle_describe(source, handle, failure);
}

int source_pcap_open(const struct source_live_options *options, struct source **source,
                     struct failure *failure)
{
    int result = network_names_check(options->interface, options->interface_count,
                                     INTERFACE_NAME_MAX, failure);
    if (result < 0)
        return result;
    struct pcap_source *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return fail(failure, ERR_NO_MEMORY, "no memory to capture");
    opened->source = (struct source){.ops = &live_ops, .wake_fd = -1};
    opened->drops_fd = network_drops_open();
    opened->handle = calloc(options->interface_count, sizeof *opened->handle);
    opened->wait = calloc(options->interface_count + 1, sizeof *opened->wait);
    opened->source.wake_fd = wake_open();
    opened->pool.arena_bytes = ARENA_BYTES;
    if (opened->handle == NULL || opened->wait == NULL || opened->source.wake_fd < 0) {
        result = fail(failure, ERR_NO_MEMORY, "no memory to capture");
        goto undo;
    }
    for (uint32_t i = 0; i < options->interface_count; i++) {
        struct pcap_handle *handle = &opened->handle[opened->handles++];
        result = handle_open(opened, handle, options->interface[i], options, failure);
        if (result < 0)
            goto undo;
        int fd = pcap_get_selectable_fd(handle->pcap);
        opened->unwaitable |= fd < 0;
        opened->wait[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    opened->wait[opened->handles] = (struct pollfd){.fd = opened->source.wake_fd, .events = POLLIN};
    *source = &opened->source;
    return 0;

undo:
    live_close(&opened->source);
    return result;
}
