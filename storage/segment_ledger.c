/*
 * segment_ledger.c - see segment_ledger.h.
 */
#include "segment_ledger.h"

#include <stdlib.h>
#include <sys/random.h>

#include "flow_frames.h"

int segment_ledger_open(struct segment_ledger *ledger, uint64_t slot_bytes)
{
    *ledger = (struct segment_ledger){0};
    ledger->table = malloc(sizeof *ledger->table);
    ledger->interface_account = calloc(FRAME_ENTRIES_MAX, sizeof *ledger->interface_account);
    if (!ledger->table || !ledger->interface_account || segment_index_open(&ledger->index, slot_bytes) != 0) {
        segment_ledger_close(ledger);
        return ERR_NO_MEMORY;
    }
    frame_table_clear(ledger->table);
    return 0;
}

void segment_ledger_close(struct segment_ledger *ledger)
{
    segment_index_close(&ledger->index);
    free(ledger->interface_account);
    free(ledger->table);
    *ledger = (struct segment_ledger){0};
}

void segment_ledger_begin(struct segment_ledger *ledger, struct segment *segment, uint64_t first_packet)
{
    ledger->segment = segment;
    ledger->frames_sent = ledger->part = 0;
    ledger->flush = false;
    segment_index_clear(&ledger->index, first_packet);
    frame_table_clear(ledger->table);
}

void segment_ledger_seal(struct segment_ledger *ledger, const struct keeper_options *options, enum seal_reason reason,
                         uint64_t frontier)
{
    ledger->seal = (struct segment_seal){
        .identity = &ledger->segment->identity,
        .table = ledger->table,
        .interface_account = ledger->interface_account,
        .account = &ledger->account,
        .frontier = frontier,
        .opened_ns = ledger->segment->row.opened_ns,
        .sealed_ns = options->wall_ns(options->context),
        .reason = reason,
        .slot_bytes = ledger->segment->slot_bytes,
    };
    ledger->part = 0;
    if (getrandom(ledger->seal.salt, sizeof ledger->seal.salt, 0) != (ssize_t)sizeof ledger->seal.salt)
        abort();
}

void segment_ledger_encode(struct segment_ledger *ledger, struct flow_index *flows, const struct verdicts *verdicts)
{
    if (verdicts && verdicts_any(verdicts))
        flow_index_judge(flows, verdicts);
    bool whole = flow_index_whole(flows) && flow_index_packets(flows) == ledger->index.packets;
    flow_frames_seal(flows, &ledger->index, &ledger->seal);
    ledger->segment->coarse = !whole || ledger->seal.flows_bytes == 0;
}

int segment_ledger_write(struct segment_ledger *ledger, struct keeper *keeper, struct stream *stream)
{
    const struct keeper_options *options = keeper_options(keeper);
    uint32_t parts = segment_index_parts(&ledger->index, &ledger->seal);
    for (; ledger->part < parts; ledger->part++) {
        if (atomic_load(&ledger->segment->ended)) {
            segment_ledger_leave(ledger, keeper, stream);
            return 0;
        }
        struct frame_buffer *buffer = pool_take(options->pool);
        if (!buffer)
            return ERR_AGAIN;
        buffer->segment = ledger->segment;
        buffer->stream = stream;
        buffer->length =
            segment_index_part(&ledger->index, &ledger->seal, ledger->part, buffer->bytes, &buffer->offset);
        buffer->kind = ledger->part + 1 == parts ? FRAME_SEAL : FRAME_INDEX; /* or FLOWS */
        buffer->flush = ledger->flush;
        buffer->due_ns = options->monotonic_ns(options->context) + ledger->window_ns;
        ledger->frames_sent++;
        if (buffer->kind == FRAME_SEAL)
            ledger->segment = NULL; /* the keeper may be done with it at any moment from now on */
        keeper_post_frame(keeper, buffer, true);
    }
    return 0;
}

void segment_ledger_leave(struct segment_ledger *ledger, struct keeper *keeper, struct stream *stream)
{
    struct segment *segment = ledger->segment;
    ledger->segment = NULL;
    atomic_store(&segment->frames_sent, ledger->frames_sent);
    keeper_post_stream(keeper, stream);
}
