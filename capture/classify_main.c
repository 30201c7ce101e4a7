/*
 * classify_main.c - the program tapeloop-classify: nDPI over the first packets of each flow, in a
 * process that can do nothing else.
 *
 * Started by the recorder with the shared memory (classifier_queue.h) as descriptor 3. It becomes
 * somebody else, makes nDPI ready while there is nothing hostile to look at, says what protocols
 * there are, gives up every system call but those for memory, waiting and ending, and works.
 *
 * A flow is told about at most twice: when nDPI has recognised it, and when it wants no more
 * packets of it. It is given up, which is to say guessed by its port and addresses as nDPI does,
 * with the last packet that will come, after half a minute without one, or when room is needed.
 * What nDPI knows of a flow is freed then; that it was judged is remembered as long as there is
 * room, because some more of its packets may be on their way.
 *
 * Memory: FLOWS_MAX flows, NDPI_BYTES_MAX for what nDPI holds of them (the flow that was silent for
 * the longest is given up first), and a limit of the kernel above that. An allocation that fails
 * ends the process: nDPI does not look at all of them.
 */
#include <ctype.h>
#include <linux/futex.h>
#include <malloc.h>
#include <ndpi_api.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "classifier_queue.h"
#include "confinement.h"

#define FLOWS_MAX (1u << 16)
#define NDPI_BYTES_MAX ((size_t)192 << 20) /* for flows */
#define ROOM_BYTES ((uint64_t)512 << 20)   /* for everything but the shared memory */
#define SILENT_MS 30000
#define NICENESS 10 /* a tenth of a capture thread's share: enough to show signs of life */
#define TURN 32 /* packets of one port before the next one has its turn */
#define PAD 256 /* zeros behind a packet's head */
#define NONE UINT32_MAX

/* ---- what nDPI holds ----------------------------------------------------------------------------
 */

static size_t held; /* bytes */

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (!memory)
        _exit(3);
    held += malloc_usable_size(memory);
    return memory;
}

static void give_back(void *memory)
{
    if (memory)
        held -= malloc_usable_size(memory);
    free(memory);
}

/* ---- flows --------------------------------------------------------------------------------------
 */

struct flow {
    uint64_t hash; /* 0: in the free list */
    uint64_t touched_ms;
    uint32_t serial;
    uint32_t port;
    uint32_t next;          /* of the same bucket */
    uint32_t before, after; /* in its list */
    uint16_t app[2];        /* what was said */
    bool judged;
    struct ndpi_flow_struct *ndpi; /* null when judged */
};

/* From the one that was touched last to the one that was silent for the longest. */
struct list {
    uint32_t first, last;
};

struct port {
    uint32_t number; /* served; 0: none */
    uint64_t taken;
    uint64_t said;
    uint32_t settling; /* serial; 0: no */
};

static struct {
    struct classifier_shared *shared;
    struct ndpi_detection_module_struct *ndpi;
    uint32_t names;
    size_t base; /* bytes that nDPI holds without any flow */
    uint64_t now_ms;
    struct port port[CLASSIFIER_PORTS_MAX];
    struct list open, judged, free; /* each flow is in one of them */
    uint32_t bucket[FLOWS_MAX];
    struct flow flow[FLOWS_MAX];
} self;

static void list_take_out(struct list *list, uint32_t index)
{
    struct flow *flow = &self.flow[index];
    *(flow->before == NONE ? &list->first : &self.flow[flow->before].after) = flow->after;
    *(flow->after == NONE ? &list->last : &self.flow[flow->after].before) = flow->before;
}

static void list_put_first(struct list *list, uint32_t index)
{
    struct flow *flow = &self.flow[index];
    flow->before = NONE;
    flow->after = list->first;
    *(list->first == NONE ? &list->last : &self.flow[list->first].before) = index;
    list->first = index;
}

static struct list *list_of(const struct flow *flow)
{
    return flow->judged ? &self.judged : &self.open;
}

static uint32_t *bucket_of(uint64_t hash, uint32_t port)
{
    return &self.bucket[(hash >> 8 ^ port) % FLOWS_MAX];
}

static uint32_t flow_find(uint64_t hash, uint32_t port)
{
    uint32_t index = *bucket_of(hash, port);
    while (index != NONE && (self.flow[index].hash != hash || self.flow[index].port != port))
        index = self.flow[index].next;
    return index;
}

static void ndpi_drop(struct flow *flow)
{
    if (flow->ndpi)
        ndpi_free_flow(flow->ndpi);
    flow->ndpi = NULL;
}

static void flow_forget(uint32_t index)
{
    struct flow *flow = &self.flow[index];
    uint32_t *link = bucket_of(flow->hash, flow->port);
    while (*link != index)
        link = &self.flow[*link].next;
    *link = flow->next;
    list_take_out(list_of(flow), index);
    ndpi_drop(flow);
    flow->hash = 0;
    list_put_first(&self.free, index);
}

static uint32_t flow_begin(uint64_t hash, uint32_t port, uint32_t serial)
{
    uint32_t index = self.free.first;
    list_take_out(&self.free, index);
    uint32_t *bucket = bucket_of(hash, port);
    self.flow[index] = (struct flow){.hash = hash, .port = port, .serial = serial, .next = *bucket};
    self.flow[index].ndpi = ndpi_flow_malloc(SIZEOF_FLOW_STRUCT);
    if (!self.flow[index].ndpi)
        _exit(3);
    memset(self.flow[index].ndpi, 0, SIZEOF_FLOW_STRUCT);
    *bucket = index;
    list_put_first(&self.open, index);
    return index;
}

static void tables_empty(void)
{
    self.open = self.judged = self.free = (struct list){NONE, NONE};
    for (uint32_t i = 0; i < FLOWS_MAX; i++) {
        self.bucket[i] = NONE;
        list_put_first(&self.free, i);
    }
}

/* ---- saying -------------------------------------------------------------------------------------
 */

static uint64_t room_to_say(uint32_t number)
{
    struct classifier_queues *queues = &self.shared->port[number];
    return CLASSIFIER_SAID_SLOTS -
           (self.port[number].said - atomic_load_explicit(&queues->heard, memory_order_acquire));
}

static bool say(uint32_t number, const struct classifier_said *said)
{
    struct classifier_queues *queues = &self.shared->port[number];
    struct port *port = &self.port[number];
    if (port->number == 0 || room_to_say(number) == 0)
        return false;
    queues->verdict[port->said % CLASSIFIER_SAID_SLOTS] = *said;
    atomic_store_explicit(&queues->said, ++port->said, memory_order_release);
    return true;
}

static uint16_t known(uint16_t protocol)
{
    return protocol <= self.names ? protocol : 0;
}

/* Says what has been found out about a flow, unless that has been said; false: there is no room. */
static bool say_flow(struct flow *flow, ndpi_protocol found, bool final)
{
    struct classifier_said said = {
        .flow = flow->hash,
        .serial = flow->serial,
        .app = {known(found.master_protocol), known(found.app_protocol)},
        .flags = final ? CLASSIFIER_FINAL : 0,
    };
    if (!final && memcmp(said.app, flow->app, sizeof said.app) == 0)
        return true;
    memcpy(flow->app, said.app, sizeof flow->app);
    return say(flow->port, &said);
}

/* The flow's verdict; nDPI knows nothing of it any more. One that could not be told is forgotten,
 * to be judged when more of its packets come: the last one is never taken where there is no room.
 */
static void flow_judge(uint32_t index, ndpi_protocol found)
{
    struct flow *flow = &self.flow[index];
    bool told = say_flow(flow, found, true);
    list_take_out(&self.open, index);
    flow->judged = true;
    list_put_first(&self.judged, index);
    ndpi_drop(flow);
    if (!told)
        flow_forget(index);
}

static void flow_give_up(uint32_t index)
{
    struct flow *flow = &self.flow[index];
    ndpi_protocol found = {.master_protocol = flow->ndpi->detected_protocol_stack[1],
                           .app_protocol = flow->ndpi->detected_protocol_stack[0]};
    u_int8_t guessed;
    if (found.app_protocol == NDPI_PROTOCOL_UNKNOWN)
        found = ndpi_detection_giveup(self.ndpi, flow->ndpi, 1, &guessed);
    flow_judge(index, found);
}

/* ---- packets ------------------------------------------------------------------------------------
 */

/* A head that was cut says itself how long the packet was: nDPI would believe it. */
static void cut_ip_length(uint8_t *head, uint32_t bytes)
{
    uint32_t at = 2, header = 0;
    if (head[0] >> 4 == 6) {
        if (bytes < 40)
            return;
        at = 4;
        header = 40;
    }
    uint32_t length = (uint32_t)(head[at] << 8 | head[at + 1]) + header;
    if (length <= bytes && length > header)
        return;
    head[at] = (uint8_t)((bytes - header) >> 8);
    head[at + 1] = (uint8_t)(bytes - header);
}

static void make_room(void)
{
    if (self.free.first == NONE && self.judged.last == NONE)
        flow_give_up(self.open.last);
    if (self.free.first == NONE)
        flow_forget(self.judged.last);
    while (held > self.base + NDPI_BYTES_MAX && self.open.last != NONE)
        flow_give_up(self.open.last);
}

/* The flow of that packet; NONE: it needs no more packets. */
static uint32_t flow_of(uint32_t port, const struct classifier_lent *lent)
{
    uint32_t index = flow_find(lent->flow, port);
    if (index != NONE && self.flow[index].serial != lent->serial) {
        flow_forget(index);
        index = NONE;
    }
    if (index == NONE) {
        make_room();
        index = flow_begin(lent->flow, port, lent->serial);
    }
    struct flow *flow = &self.flow[index];
    flow->touched_ms = self.now_ms;
    list_take_out(list_of(flow), index);
    list_put_first(list_of(flow), index);
    return flow->judged ? NONE : index;
}

static void packet_judge(uint32_t port, const struct classifier_lent *lent)
{
    static uint8_t head[CLASSIFIER_HEAD_BYTES + PAD];
    uint32_t bytes = lent->bytes < CLASSIFIER_HEAD_BYTES ? lent->bytes : CLASSIFIER_HEAD_BYTES;
    uint32_t index = flow_of(port, lent);
    if (index == NONE || bytes < 20)
        return;
    memcpy(head, lent->byte, bytes);
    memset(head + bytes, 0, PAD);
    cut_ip_length(head, bytes);
    struct flow *flow = &self.flow[index];
    uint64_t time_ms = lent->time_ns > 0 ? (uint64_t)lent->time_ns / 1000000 : 0;
    ndpi_protocol found =
        ndpi_detection_process_packet(self.ndpi, flow->ndpi, head, (uint16_t)bytes, time_ms);
    bool found_one = found.app_protocol != NDPI_PROTOCOL_UNKNOWN;
    if (found_one && !ndpi_extra_dissection_possible(self.ndpi, flow->ndpi))
        flow_judge(index, found);
    else if (lent->flags & CLASSIFIER_LAST)
        flow_give_up(index);
    else if (found_one)
        (void)say_flow(flow, found, false);
}

/* ---- ports --------------------------------------------------------------------------------------
 */

static void port_forget(uint32_t number)
{
    for (uint32_t i = 0; i < FLOWS_MAX; i++) /* rarely: a capture thread has ended */
        if (self.flow[i].hash != 0 && self.flow[i].port == number)
            flow_forget(i);
}

/* Follows what the recorder wants of the port. False: nothing. */
static bool port_follow(uint32_t number)
{
    struct classifier_queues *queues = &self.shared->port[number];
    struct port *port = &self.port[number];
    uint32_t wanted = atomic_load_explicit(&queues->wanted, memory_order_acquire);
    if (wanted != self.shared->number)
        wanted = 0;
    if (wanted != port->number) {
        if (port->number != 0)
            port_forget(number);
        *port = (struct port){.number = wanted};
        atomic_store_explicit(&queues->served, wanted, memory_order_release);
    }
    return wanted != 0;
}

/* Gives up the port's flows, as long as there is room to say so. */
static void port_settle(uint32_t number)
{
    struct port *port = &self.port[number];
    for (uint32_t index = self.open.last, before; index != NONE; index = before) {
        before = self.flow[index].before;
        if (self.flow[index].port != number)
            continue;
        if (room_to_say(number) < 2)
            return;
        flow_give_up(index);
    }
    struct classifier_said done = {.flow = 0, .serial = port->settling};
    if (say(number, &done))
        port->settling = 0;
}

/* Takes some packets of a port; whether there were any. */
static bool port_serve(uint32_t number)
{
    if (!port_follow(number))
        return false;
    struct classifier_queues *queues = &self.shared->port[number];
    struct port *port = &self.port[number];
    if (port->settling != 0) {
        port_settle(number);
        return port->settling == 0;
    }
    uint64_t lent = atomic_load_explicit(&queues->lent, memory_order_acquire);
    uint32_t i;
    /* A packet says two things at most; the recorder is slow to hear when there is no room. */
    for (i = 0; i < TURN && port->taken != lent && room_to_say(number) >= 2; i++) {
        const struct classifier_lent *packet = &queues->packet[port->taken % CLASSIFIER_LENT_SLOTS];
        if (packet->flags & CLASSIFIER_SETTLE)
            port->settling = packet->serial;
        else
            packet_judge(number, packet);
        atomic_store_explicit(&queues->taken, ++port->taken, memory_order_release);
        atomic_fetch_add_explicit(&self.shared->signs, 1, memory_order_relaxed);
        if (port->settling != 0)
            break;
    }
    return i > 0;
}

/* Flows that have gone silent will not say more about themselves. */
static void silence_ends(void)
{
    while (self.open.last != NONE) {
        struct flow *flow = &self.flow[self.open.last];
        if (self.now_ms - flow->touched_ms < SILENT_MS)
            return;
        flow_give_up(self.open.last);
    }
}

/* ---- the loop
 * ------------------------------------------------------------------------------------ */

static bool work_waits(void)
{
    for (uint32_t i = 0; i < CLASSIFIER_PORTS_MAX; i++) {
        const struct port *port = &self.port[i];
        const struct classifier_queues *queues = &self.shared->port[i];
        if (port->number != 0 && port->settling == 0 &&
            atomic_load_explicit(&queues->lent, memory_order_relaxed) != port->taken &&
            room_to_say(i) >= 2)
            return true;
    }
    return false;
}

/* Waits for the bell, or until another sign of life is due. */
static void doze(void)
{
    struct classifier_shared *shared = self.shared;
    const struct timespec most = {.tv_nsec = CLASSIFIER_SIGN_MS * 1000000l};
    uint32_t bell = atomic_load(&shared->bell);
    atomic_exchange(&shared->sleeping, 1); /* see `sleeping` */
    if (!work_waits())
        syscall(SYS_futex, &shared->bell, FUTEX_WAIT, bell, &most, NULL, 0);
    atomic_store(&shared->sleeping, 0);
}

static _Noreturn void work(void)
{
    for (;;) {
        struct timespec now;
        bool worked = false;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        self.now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
        atomic_fetch_add_explicit(&self.shared->signs, 1, memory_order_relaxed);
        for (uint32_t i = 0; i < CLASSIFIER_PORTS_MAX; i++)
            worked |= port_serve(i);
        silence_ends();
        if (!worked)
            doze();
    }
}

/* ---- the beginning
 * ------------------------------------------------------------------------------- */

static bool map_shared(void)
{
    struct stat status;
    if (fstat(CLASSIFIER_MEMORY, &status) != 0 ||
        (size_t)status.st_size != sizeof(struct classifier_shared))
        return false;
    void *at = mmap(NULL, sizeof(struct classifier_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                    CLASSIFIER_MEMORY, 0);
    if (at == MAP_FAILED)
        return false;
    self.shared = at;
    close(CLASSIFIER_MEMORY);
    return true;
}

static int follow_recorder(struct failure *failure)
{
    /* After the change of user, which takes it back. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
        return fail(failure, ERR_UNSUPPORTED, "it cannot be made to end with the recorder");
    if ((uint32_t)getppid() != self.shared->recorder)
        _exit(0); /* too late: it is gone already */
    return 0;
}

static int ndpi_begin(struct failure *failure)
{
    NDPI_PROTOCOL_BITMASK all;
    set_ndpi_malloc(allocate);
    set_ndpi_free(give_back);
    set_ndpi_flow_malloc(allocate);
    set_ndpi_flow_free(give_back);
    self.ndpi = ndpi_init_detection_module(ndpi_no_prefs);
    if (!self.ndpi)
        return fail(failure, ERR_UNSUPPORTED, "nDPI does not begin (%s)", ndpi_revision());
    NDPI_BITMASK_SET_ALL(all);
    ndpi_set_protocol_detection_bitmask2(self.ndpi, &all);
    ndpi_finalize_initialization(self.ndpi);
    self.base = held;
    uint32_t protocols = ndpi_get_num_supported_protocols(self.ndpi);
    for (uint32_t id = 1; id < protocols && id <= CLASSIFIER_NAMES_MAX; id++) {
        snprintf(self.shared->name[id - 1], CLASSIFIER_NAME_BYTES, "%s",
                 ndpi_get_proto_name(self.ndpi, (uint16_t)id));
        self.names = id;
    }
    self.shared->names = self.names;
    return 0;
}

int main(void)
{
    struct failure failure = {0};
    if (!map_shared()) {
        fprintf(stderr, "tapeloop-classify is started by tapeloopd, not by hand\n");
        return 2;
    }
    /* Where processors are short, packets come first. Not being able to is no reason to end. */
    (void)setpriority(PRIO_PROCESS, 0, NICENESS);
    tables_empty();
    int code = confinement_begin(CONFINEMENT_COMPUTING, &failure);
    if (code == 0)
        code = follow_recorder(&failure);
    if (code == 0)
        code = ndpi_begin(&failure);
    if (code == 0)
        code = confinement_limit(sizeof(struct classifier_shared) + ROOM_BYTES, &failure);
    if (code == 0)
        code = confinement_finish(CONFINEMENT_COMPUTING, &failure);
    if (code != 0) {
        snprintf(self.shared->failure, sizeof self.shared->failure, "%s", failure.text);
        _exit(1);
    }
    atomic_store(&self.shared->ready, self.shared->number);
    work();
}
