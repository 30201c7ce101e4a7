/*
 * store_machine.c - see store_machine.h.
 */
#include "store_machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

#define POOL_BYTES (24u * FRAME_BYTES_USUAL)

static void machine_fail(const struct machine *machine, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

static void machine_fail(const struct machine *machine, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "seed %llu, life %u: ", (unsigned long long)machine->options.seed, machine->lives);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

uint64_t machine_random(struct machine *machine, uint64_t bound)
{
    return simulation_random(machine->simulation, bound);
}

/* ---- packets ------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t value)
{
    value ^= value >> 31;
    value *= 0x9fb21c651e98df25ull;
    value ^= value >> 28;
    value *= 0xd6e8feb86659fd93ull;
    return value ^ value >> 32;
}

static uint64_t packet_key(const struct machine *machine, uint32_t life, uint32_t stream, uint64_t number)
{
    return mix(mix(machine->options.seed * 1000003 + life) + stream * 7919 + number * 2 + 1);
}

void machine_packet(const struct machine *machine, uint32_t life, uint32_t stream, uint64_t number, uint8_t *bytes,
                    struct packet *packet)
{
    uint64_t key = packet_key(machine, life, stream, number);
    uint32_t length = 20 + (uint32_t)(key % (machine->options.packet_bytes_max - 20));
    for (uint32_t i = 0; i < length; i += 8) {
        uint64_t word = mix(key + i);
        memcpy(bytes + i, &word, sizeof word);
    }
    *packet = (struct packet){
        .bytes = bytes,
        .captured_bytes = length,
        .original_bytes = length + (uint32_t)(key >> 60),
        .time_ns = (int64_t)(key >> 1) - (int64_t)(1ull << 61),
    };
}

/* ---- life ----------------------------------------------------------------------------------------- */

static uint64_t monotonic_ns(void *context)
{
    return simulation_now_ns(((struct machine *)context)->simulation);
}

static int64_t wall_ns(void *context)
{
    return (int64_t)simulation_now_ns(((struct machine *)context)->simulation);
}

static void count_event(void *context, const char *severity, const char *kind, const char *text)
{
    (void)severity, (void)kind, (void)text;
    ((struct machine *)context)->events++;
}

/* A flow for every few packets: what is crashed and damaged has key indexes, too. */
/* Every second length of a packet is plain. */
static bool keys_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain, struct flow_keys *keys)
{
    if (plain && captured_bytes % 2 == 1) {
        uint32_t address = 0;
        memcpy(&address, bytes, captured_bytes < 4 ? captured_bytes : 4);
        *plain = (struct flow_plain){.word = {(uint64_t)address << 32 | (uint32_t)~address, 0, (uint16_t)captured_bytes, flow_plain_last(FLOW_PLAIN_TCP, false, 0)}};
        return true;
    }
    if (!keys)
        return false;
    *keys = (struct flow_keys){.kind = {.link_type = link_type, .version = 4, .marks = FLOW_PORTS}};
    memcpy(keys->end[0].address, bytes, captured_bytes < 4 ? captured_bytes : 4);
    keys->end[1].port = (uint16_t)captured_bytes;
    return false;
}

struct machine_options machine_small(uint64_t seed, uint32_t disks, uint32_t slots, uint8_t copies)
{
    return (struct machine_options){
        .seed = seed,
        .disks = disks,
        .slots = slots,
        .slot_bytes = 64 * 1024,
        .copies = copies,
        .streams = 1,
        .packet_bytes_max = 1500,
        .flush_window_ns = 50000000,
        .latency_ns = 100000,
    };
}

void machine_make(struct machine *machine, const struct machine_options *options)
{
    *machine = (struct machine){.options = *options};
    machine->simulation = simulation_new(options->seed);
    machine->catalog = catalog_memory_new();
    identity_make(&machine->ring);
    for (uint32_t i = 0; i < options->disks; i++) {
        uint64_t bytes = META_BYTES * 2 + (uint64_t)options->slots * options->slot_bytes;
        machine->media[i] =
            simulated_media_new(machine->simulation, bytes, options->bandwidth, options->latency_ns);
        identity_make(&machine->identity[i]);
    }
}

static void forget(struct machine *machine)
{
    /* The disks first: requests that will never be answered lie in the keeper's memory. */
    for (uint32_t i = 0; i < machine->options.disks; i++)
        simulated_disk_forget(&machine->disk[i]);
    for (uint32_t i = 0; i < machine->options.streams; i++)
        if (machine->stream[i])
            stream_free(&machine->stream[i]);
    keeper_free(&machine->keeper);
    pool_discard(&machine->pool);
    machine->running = false;
}

void machine_free(struct machine *machine)
{
    if (machine->running) {
        simulation_power_cut(machine->simulation);
        forget(machine);
    }
    for (uint32_t i = 0; i < machine->options.disks; i++)
        simulated_media_free(&machine->media[i]);
    catalog_close(&machine->catalog);
    simulation_free(&machine->simulation);
}

/* Opens the disks that are there. Returns how many. */
static uint32_t open_disks(struct machine *machine, struct recovery_disk *recovery)
{
    const struct machine_options *options = &machine->options;
    struct failure failure = {0};
    uint32_t present = 0;
    for (uint32_t i = 0; i < options->disks; i++) {
        if (machine->absent[i])
            continue;
        if (simulated_disk_open(machine->media[i], DISK_OPEN_EXCLUSIVE, &machine->disk[i], &failure) != 0)
            machine_fail(machine, "disk %u does not open: %s", i, failure.text);
        machine->disk[i]->geometry = (struct disk_geometry){
            .disk_bytes = machine->disk[i]->bytes,
            .slots_offset = META_BYTES,
            .slot_bytes = options->slot_bytes,
            .slot_count = options->slots,
        };
        recovery[present++] = (struct recovery_disk){.disk = machine->disk[i],
                                                     .identity = machine->identity[i],
                                                     .belief = calloc(options->slots, sizeof *recovery[0].belief)};
    }
    return present;
}

static struct recovery_options recovery_options_of(struct machine *machine, bool whole)
{
    return (struct recovery_options){
        .ring = machine->ring,
        .catalog = machine->catalog,
        .whole = whole,
        .keys_of = machine->options.without_index ? NULL : keys_of,
        .wall_ns = wall_ns,
        .event = count_event,
        .context = machine,
    };
}

int machine_purge(struct machine *machine, struct purge_range *range, uint32_t ranges, uint32_t catalog_changes,
                  struct purge_report *report)
{
    struct recovery_disk recovery[MACHINE_DISKS_MAX] = {0};
    struct failure failure = {0};
    uint64_t position;
    uint32_t present = open_disks(machine, recovery);
    struct recovery_options look = recovery_options_of(machine, true);
    struct purge_options options = {.recovery = &look,
                                    .range = range,
                                    .ranges = purge_sort(range, ranges),
                                    .from_ns = INT64_MIN,
                                    .to_ns = INT64_MAX};
    int result = purge_run(&options, recovery, present, &position, report, &failure);
    bool cut = simulation_cut_happened(machine->simulation);
    if (result != 0 && !cut)
        machine_fail(machine, "purging failed: %s", failure.text);
    catalog_memory_catch_up(machine->catalog, cut ? catalog_changes : UINT32_MAX);
    if (cut)
        catalog_memory_crash(machine->catalog);
    for (uint32_t i = 0; i < present; i++)
        free(recovery[i].belief);
    for (uint32_t i = 0; i < machine->options.disks; i++) {
        if (cut)
            simulated_disk_forget(&machine->disk[i]);
        else
            disk_close(&machine->disk[i]);
    }
    while (cut && simulation_step(machine->simulation))
        continue;
    return cut ? ERR_CLOSED : result;
}

void machine_boot(struct machine *machine, bool whole)
{
    const struct machine_options *options = &machine->options;
    struct recovery_disk recovery[MACHINE_DISKS_MAX] = {0};
    struct failure failure = {0};
    if (machine->lives == MACHINE_LIVES_MAX)
        machine_fail(machine, "too many lives for this test");
    uint32_t present = open_disks(machine, recovery);
    struct recovery_options recover = recovery_options_of(machine, whole);
    uint64_t position;
    int result = recovery_run(&recover, recovery, present, &position, &machine->report, &failure);
    if (result != 0)
        machine_fail(machine, "recovery failed: %s", failure.text);
    if (pool_open(options->pool_bytes ? options->pool_bytes : POOL_BYTES, &machine->pool) != 0)
        machine_fail(machine, "no memory");
    struct keeper_options keep = {
        .ring = machine->ring,
        .slot_bytes = options->slot_bytes,
        .copies = options->copies,
        .flush_window_ns = options->flush_window_ns,
        .mender = options->mender,
        .gauge = options->gauge,
        .keys_of = machine->options.without_index ? NULL : keys_of,
        .pool = machine->pool,
        .catalog = machine->catalog,
        .monotonic_ns = monotonic_ns,
        .wall_ns = wall_ns,
        .event = count_event,
        .context = machine,
    };
    identity_make(&keep.run);
    machine->life[machine->lives] = (struct machine_life){.run = keep.run};
    if (keeper_new(&keep, &machine->keeper) != 0)
        machine_fail(machine, "no memory");
    for (uint32_t i = 0; i < present; i++) {
        if (keeper_add_disk(machine->keeper, recovery[i].disk, &recovery[i].identity, recovery[i].belief, NULL) != 0)
            machine_fail(machine, "no memory");
        free(recovery[i].belief);
        uint32_t count;
        uint8_t *area = pool_area(machine->pool, &count);
        if (recovery[i].disk->ops->register_buffers(recovery[i].disk, area, FRAME_BYTES_USUAL, count) != 0)
            machine_fail(machine, "buffers cannot be registered");
    }
    keeper_raise_position(machine->keeper, position);
    static const struct interface_description interface = {.link_type = 1, .name = "sim0"};
    struct stream_options stream = {0};
    for (uint32_t i = 0; i < options->streams; i++)
        if (stream_open(machine->keeper, i, &stream, &machine->stream[i]) != 0 ||
            stream_add_interface(machine->stream[i], &interface) != 0)
            machine_fail(machine, "no memory");
    machine->running = true;
    machine->lives++;
}

static struct machine_life *life(struct machine *machine)
{
    return &machine->life[machine->lives - 1];
}

int machine_append(struct machine *machine, uint32_t stream)
{
    static uint8_t bytes[1 << 20];
    struct packet packet;
    uint64_t number = life(machine)->taken[stream];
    machine_packet(machine, machine->lives - 1, stream, number, bytes, &packet);
    int result = stream_append(machine->stream[stream], 0, &packet, packet.captured_bytes, 0, 0);
    if (result != 0)
        return result;
    stream_count(machine->stream[stream], 0, ACCOUNT_seen, 1, packet.original_bytes);
    life(machine)->taken[stream]++;
    return 0;
}

bool machine_step(struct machine *machine)
{
    bool did = keeper_run(machine->keeper, 0);
    return simulation_step(machine->simulation) || did;
}

void machine_settle(struct machine *machine)
{
    while (machine_step(machine))
        continue;
}

void machine_run_until(struct machine *machine, uint64_t time_ns)
{
    do
        (void)keeper_run(machine->keeper, 0);
    while (simulation_next_ns(machine->simulation) <= time_ns && simulation_step(machine->simulation));
    if (simulation_now_ns(machine->simulation) < time_ns)
        simulation_advance(machine->simulation, time_ns - simulation_now_ns(machine->simulation));
    (void)keeper_run(machine->keeper, 0);
}

void machine_work(struct machine *machine, uint32_t packets)
{
    uint32_t stream = 0;
    while (packets > 0) {
        stream = (uint32_t)machine_random(machine, machine->options.streams);
        uint32_t burst = 1 + (uint32_t)machine_random(machine, 20);
        while (burst > 0 && packets > 0) {
            int result = machine_append(machine, stream);
            if (result == ERR_AGAIN) {
                if (!machine_step(machine)) {
                    simulation_advance(machine->simulation, machine->options.flush_window_ns);
                    for (uint32_t i = 0; i < machine->options.streams; i++)
                        stream_tick(machine->stream[i]);
                }
                continue;
            }
            if (result != 0)
                return;
            burst--;
            packets--;
        }
        switch (machine_random(machine, 6)) {
        case 0:
            stream_tick(machine->stream[stream]);
            break;
        case 1:
            /* Disks work while time passes: a machine that hears of it late would take all of them for slow. */
            machine_run_until(machine, simulation_now_ns(machine->simulation) +
                                           machine_random(machine, machine->options.flush_window_ns));
            break;
        case 2:
            (void)keeper_run(machine->keeper, 0);
            break;
        case 3:
            for (uint64_t n = machine_random(machine, 8); n > 0; n--)
                (void)machine_step(machine);
            break;
        case 4:
            (void)stream_request_flush(machine->stream[stream]);
            break;
        default:
            catalog_memory_catch_up(machine->catalog, (uint32_t)machine_random(machine, 4));
            break;
        }
    }
}

static void note_frontiers(struct machine *machine)
{
    for (uint32_t i = 0; i < machine->options.streams; i++)
        life(machine)->durable[i] = stream_frontier(machine->stream[i]);
}

void machine_power_cut(struct machine *machine, uint32_t catalog_changes)
{
    note_frontiers(machine);
    simulation_power_cut(machine->simulation);
    catalog_memory_catch_up(machine->catalog, catalog_changes);
    catalog_memory_crash(machine->catalog);
    forget(machine);
}

void machine_kill(struct machine *machine, uint32_t catalog_changes)
{
    note_frontiers(machine);
    simulation_process_kill(machine->simulation);
    catalog_memory_catch_up(machine->catalog, catalog_changes);
    catalog_memory_crash(machine->catalog);
    forget(machine);
    while (simulation_step(machine->simulation))
        continue;
}

struct live {
    struct machine *machine;
    uint32_t beside;
};

static bool live_step(void *context)
{
    struct live *live = context;
    struct machine *machine = live->machine;
    if (simulation_cut_happened(machine->simulation))
        return false;
    uint32_t stream = (uint32_t)machine_random(machine, machine->options.streams);
    for (uint64_t burst = machine_random(machine, 4); burst > 0 && live->beside > 0; burst--)
        if (machine_append(machine, stream) == 0)
            live->beside--;
    if (machine_random(machine, 3) == 0)
        stream_tick(machine->stream[stream]);
    if (!machine_step(machine)) {
        simulation_advance(machine->simulation, machine->options.flush_window_ns / 8);
        for (uint32_t i = 0; i < machine->options.streams; i++)
            stream_tick(machine->stream[i]);
    }
    return !simulation_cut_happened(machine->simulation);
}

static void live_seal(void *context, uint32_t stream)
{
    stream_request_seal(((struct live *)context)->machine->stream[stream]);
}

int machine_purge_live(struct machine *machine, struct purge_range *range, uint32_t ranges, uint32_t beside, uint32_t catalog_changes,
                       struct purge_report *report, struct failure *failure)
{
    struct live live = {.machine = machine, .beside = beside};
    struct recovery_options look = recovery_options_of(machine, false);
    look.event = NULL;
    struct purge_live_options options = {
        .purge = {.recovery = &look, .range = range, .ranges = purge_sort(range, ranges), .from_ns = INT64_MIN, .to_ns = INT64_MAX},
        .keeper = machine->keeper,
        .seal_wait_ns = 10000000000,
        .seal = live_seal,
        .step = live_step,
        .context = &live,
    };
    int result = purge_live_run(&options, report, failure);
    if (!simulation_cut_happened(machine->simulation))
        return result;
    note_frontiers(machine);
    catalog_memory_catch_up(machine->catalog, catalog_changes);
    catalog_memory_crash(machine->catalog);
    forget(machine);
    while (simulation_step(machine->simulation))
        continue;
    return ERR_CLOSED;
}

void machine_shut_down(struct machine *machine)
{
    for (uint32_t i = 0; i < machine->options.streams; i++) {
        int result;
        while ((result = stream_finish(machine->stream[i])) == ERR_AGAIN)
            if (!machine_step(machine))
                simulation_advance(machine->simulation, machine->options.flush_window_ns);
        if (result != 0)
            machine_fail(machine, "closing stream %u: %s", i, error_text(result));
    }
    note_frontiers(machine);
    for (uint32_t i = 0; i < machine->options.streams; i++) {
        while (!keeper_stream_done(machine->keeper, machine->stream[i]))
            if (!machine_step(machine))
                simulation_advance(machine->simulation, machine->options.flush_window_ns);
        if (life(machine)->durable[i] != life(machine)->taken[i])
            machine_fail(machine, "closed in good order, and not everything is durable");
        keeper_detach_stream(machine->keeper, machine->stream[i]);
        stream_free(&machine->stream[i]);
    }
    keeper_stop_mending(machine->keeper);
    machine_settle(machine);
    if (!keeper_idle(machine->keeper))
        machine_fail(machine, "closed, and something is under way");
    keeper_free(&machine->keeper);
    for (uint32_t i = 0; i < machine->options.disks; i++)
        disk_close(&machine->disk[i]);
    pool_close(&machine->pool);
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    machine->running = false;
}

/* ---- verifying ------------------------------------------------------------------------------------ */

struct verify {
    struct machine *machine;
    struct machine_check *check;
    uint8_t *slot;
    uint8_t *expected;
    /* by life, stream and packet: the position of the segment where it was found, 0 where it was not */
    uint64_t *found[MACHINE_LIVES_MAX][MACHINE_STREAMS_MAX];
    uint64_t position_max;
};

static void check_packet(struct verify *verify, uint32_t which, uint32_t stream, uint64_t number, uint64_t position,
                         const struct packet *found)
{
    struct machine *machine = verify->machine;
    struct packet expected;
    if (number >= machine->life[which].taken[stream])
        machine_fail(machine, "packet %llu of life %u stream %u was never taken", (unsigned long long)number, which,
                     stream);
    machine_packet(machine, which, stream, number, verify->expected, &expected);
    if (found->captured_bytes != expected.captured_bytes || found->original_bytes != expected.original_bytes ||
        found->time_ns != expected.time_ns ||
        memcmp(found->bytes, expected.bytes, expected.captured_bytes) != 0)
        machine_fail(machine, "packet %llu of life %u stream %u is not what was stored", (unsigned long long)number,
                     which, stream);
    verify->found[which][stream][number] = position;
    if (position > verify->position_max)
        verify->position_max = position;
    verify->check->packets++;
}

/* It is not missing, and says nothing. */
static void note_purged(struct verify *verify, uint32_t which, uint32_t stream, uint64_t number, uint64_t position)
{
    struct machine *machine = verify->machine;
    if (!machine->may_be_purged || !machine->may_be_purged(which, stream, number))
        machine_fail(machine, "packet %llu of life %u stream %u was purged, and nobody wanted that",
                     (unsigned long long)number, which, stream);
    verify->found[which][stream][number] = position;
    verify->check->purged++;
}

static uint32_t life_of(struct machine *machine, const struct identity *run)
{
    for (uint32_t i = 0; i < machine->lives; i++)
        if (identity_equal(&machine->life[i].run, run))
            return i;
    machine_fail(machine, "a segment of a run that never was");
}

static int verify_segment(const struct segment_row *row, void *context)
{
    struct verify *verify = context;
    struct machine *machine = verify->machine;
    uint32_t which = life_of(machine, &row->run);
    if (row->packets == 0)
        return 0;
    if (row->places == 0)
        machine_fail(machine, "a segment without a place");
    verify->check->segments++;
    for (uint8_t place = 0; place < row->places; place++) {
        uint32_t disk = 0;
        while (!identity_equal(&machine->identity[disk], &row->place[place].disk))
            disk++;
        if (machine->absent[disk])
            continue;
        simulated_media_peek(machine->media[disk],
                             META_BYTES + (uint64_t)row->place[place].slot * machine->options.slot_bytes, verify->slot,
                             machine->options.slot_bytes);
        uint64_t counted = 0;
        for (uint32_t offset = PAGE_BYTES; offset < row->data_end;) {
            struct frame_info info;
            uint8_t *frame = verify->slot + offset;
            if (frame_parse(frame, row->data_end - offset, &info) != 0 || info.kind != FRAME_DATA ||
                frame_check(frame, &info) != 0 || !identity_equal(&info.segment, &row->segment) ||
                info.revision != row->data_revision || info.offset != offset) {
                verify->check->bad_frames++;
                offset += PAGE_BYTES;
                continue;
            }
            struct frame_cursor cursor;
            struct frame_packet packet;
            uint64_t number = info.first_packet;
            frame_cursor_start(&cursor, frame, &info);
            int result;
            for (; (result = frame_cursor_next(&cursor, &packet)) > 0; number++)
                if (packet.purged)
                    note_purged(verify, which, row->stream, number, row->position);
                else
                    check_packet(verify, which, row->stream, number, row->position, &packet.packet);
            if (result < 0)
                machine_fail(machine, "a frame whose records contradict its header");
            counted += info.packets;
            offset += info.frame_bytes;
        }
        if (counted != row->packets)
            machine_fail(machine, "segment at position %llu: the catalog says %llu packets, the slot holds %llu",
                         (unsigned long long)row->position, (unsigned long long)row->packets,
                         (unsigned long long)counted);
    }
    return 0;
}

/*
 * What was durable may be gone only because the ring has overwritten it. On each disk the oldest goes first, and the disks fill
 * evenly, so whatever is newer than the number of slots, less those that streams hold ready or that a crash left unused, must
 * be there.
 */
static void check_stream(struct verify *verify, uint32_t which, uint32_t stream)
{
    struct machine *machine = verify->machine;
    const struct machine_options *options = &machine->options;
    uint64_t slots = (uint64_t)options->disks * options->slots / options->copies;
    uint64_t ahead = options->streams * (KEEPER_LEASES_AHEAD + 2) + slots / KEEPER_LEASES_RING_SHARE;
    uint64_t held = ahead * (1 + machine->lives) + options->disks;
    uint64_t reach = slots > held ? slots - held : 0;
    uint64_t next_position = 0; /* of the next packet that is there */
    for (uint64_t n = machine->life[which].taken[stream]; n-- > 0;) {
        uint64_t position = verify->found[which][stream][n];
        if (position != 0) {
            next_position = position;
            continue;
        }
        if (n >= machine->life[which].durable[stream]) {
            verify->check->holes += next_position != 0;
            continue;
        }
        /* Alone on its disk, a stream loses its oldest packets first: nothing before a gap can be there. */
        if (options->disks == 1 && options->streams == 1)
            for (uint64_t before = 0; before < n; before++)
                if (verify->found[which][stream][before] != 0)
                    machine_fail(machine, "packet %llu of life %u was durable and is gone, packet %llu is there",
                                 (unsigned long long)n, which, (unsigned long long)before);
        if (options->roomy || (next_position != 0 && next_position + reach > verify->position_max))
            machine_fail(machine,
                         "packet %llu of life %u stream %u was durable and is gone; it lay before position %llu, "
                         "the last one is %llu",
                         (unsigned long long)n, which, stream, (unsigned long long)next_position,
                         (unsigned long long)verify->position_max);
        if (options->disks == 1 && options->streams == 1)
            return;
    }
}

void machine_verify(struct machine *machine, struct machine_check *check)
{
    *check = (struct machine_check){0};
    struct verify verify = {.machine = machine, .check = check};
    verify.slot = aligned_alloc(PAGE_BYTES, round_up(machine->options.slot_bytes, PAGE_BYTES));
    verify.expected = malloc(1 << 20);
    for (uint32_t i = 0; i < machine->lives; i++)
        for (uint32_t s = 0; s < machine->options.streams; s++)
            verify.found[i][s] = calloc(machine->life[i].taken[s] + 1, sizeof(uint64_t));
    catalog_memory_catch_up(machine->catalog, UINT32_MAX);
    int result = catalog_find(machine->catalog, &machine->ring, INT64_MIN, INT64_MAX, verify_segment, &verify);
    if (result != 0)
        machine_fail(machine, "the catalog does not answer: %s", error_text(result));
    for (uint32_t i = 0; i < machine->lives; i++)
        for (uint32_t s = 0; s < machine->options.streams; s++)
            check_stream(&verify, i, s);
    for (uint32_t i = 0; i < machine->lives; i++)
        for (uint32_t s = 0; s < machine->options.streams; s++)
            free(verify.found[i][s]);
    free(verify.expected);
    free(verify.slot);
}
