/*
 * test_write_bandwidth.c - c copies on d disks, each of bandwidth b, take packets at d x b / c: on simulated disks, so that virtual time can be judged.
 *
 *     test_write_bandwidth [all]
 *
 * Packets come as fast as the store takes them, as from a file. The time is that from the first packet to the last one durable; counted are packets with
 * their 16-byte records. All else that is written and read (headers, indexes, seals, padding, checks before a slot is reused) comes off the disks' budget.
 * There is no key index: each simulated packet is a flow of its own, in slots of 2 MiB, of which indexes would take an unlikely share
 * (0.94 to 0.97 with them); what an index costs is measured by bench-ingest. Buffers are the recorder's default. Eight streams, as eight capture threads would be: each has a few segments prepared, and so keeps as many disks busy. Without `all` only the corners of the table are worked out.
 */
#include <stdio.h>
#include <string.h>

#include "store_machine.h"
#include "unit_test.h"

#define BANDWIDTH 50000000u
#define MS UINT64_C(1000000)
#define SPAN_NS (4000 * MS) /* what the work should take */
#define POOL_BYTES (256u << 20)
#define RECORD_BYTES 16u

static void add_interface(const struct stream_interface_state *state, void *context)
{
    *(uint64_t *)context +=
        state->account.stored_bytes + RECORD_BYTES * state->account.packets[ACCOUNT_stored];
}

/* Appends packets of about so many bytes in all, to the streams in turn, and closes the ring. */
static void pour(struct machine *machine, uint64_t bytes)
{
    uint64_t packets = bytes / (machine->options.packet_bytes_max / 2 + RECORD_BYTES);
    uint64_t tick_ns = 0;
    while (packets > 0) {
        bool any = false;
        for (uint32_t i = 0; i < machine->options.streams; i++)
            for (int n = 0; n < 64 && packets > 0 && machine_append(machine, i) == 0; n++, packets--)
                any = true;
        (void)keeper_run(machine->keeper, 0);
        if (simulation_now_ns(machine->simulation) >= tick_ns) {
            tick_ns = simulation_now_ns(machine->simulation) + 10 * MS;
            for (uint32_t i = 0; i < machine->options.streams; i++)
                stream_tick(machine->stream[i]);
            catalog_memory_catch_up(machine->catalog, UINT32_MAX);
        }
        if (!any && !machine_step(machine))
            simulation_advance(machine->simulation, MS);
    }
}

static void finish(struct machine *machine)
{
    for (uint32_t i = 0; i < machine->options.streams; i++)
        for (int result; (result = stream_finish(machine->stream[i])) != 0;) {
            assert_int_equal(result, ERR_AGAIN);
            if (!machine_step(machine))
                simulation_advance(machine->simulation, MS);
        }
}

/* Of what d disks could do with c copies, how much the store does. */
static double share_of_bandwidth(uint8_t copies, uint32_t disks)
{
    struct machine machine;
    struct machine_options options = {
        .seed = 100u * copies + disks,
        .disks = disks,
        .slots = 64, /* for 8 streams with their leases */
        .slot_bytes = 2u << 20,
        .copies = copies,
        .streams = 8,
        .packet_bytes_max = 3000,
        .flush_window_ns = 200 * MS,
        .latency_ns = MS / 10,
        .bandwidth = BANDWIDTH,
        .pool_bytes = POOL_BYTES,
        .without_index = true,
    };
    machine_make(&machine, &options);
    machine_boot(&machine, true);
    uint64_t begin_ns = simulation_now_ns(machine.simulation), stored = 0;
    pour(&machine, (uint64_t)BANDWIDTH * disks / copies * (SPAN_NS / MS) / 1000);
    finish(&machine);
    double seconds = (double)(simulation_now_ns(machine.simulation) - begin_ns) / 1e9;
    for (uint32_t i = 0; i < options.streams; i++)
        stream_interfaces(machine.stream[i], add_interface, &stored);
    assert_int_equal(machine.events, 0); /* one would be a disk that was left behind, and copies with it */
    machine_free(&machine);
    return (double)stored / seconds / ((double)disks * BANDWIDTH / copies);
}

static bool work_out_all;

static bool is_wanted(uint8_t copies, uint32_t disks)
{
    return disks >= copies && (work_out_all || disks == copies || disks == MACHINE_DISKS_MAX);
}

static void bandwidth_of_all_combinations(void **state)
{
    (void)state;
    double least = 1;
    printf("packets made durable, as a share of disks x bandwidth / copies\ncopies \\ disks");
    for (uint32_t disks = 1; disks <= MACHINE_DISKS_MAX; disks++)
        printf("%7u", disks);
    putchar('\n');
    for (uint8_t copies = 1; copies <= COPIES_MAX; copies++) {
        printf("%14u", copies);
        for (uint32_t disks = 1; disks <= MACHINE_DISKS_MAX; disks++) {
            if (!is_wanted(copies, disks)) {
                printf("%7s", "-");
                continue;
            }
            double share = share_of_bandwidth(copies, disks);
            least = share < least ? share : least;
            printf("%7.3f", share);
            fflush(stdout);
        }
        putchar('\n');
    }
    assert_true(least >= 0.95);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bandwidth_of_all_combinations)};
    work_out_all = argc > 1 && strcmp(argv[1], "all") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
