/*
 * pipeline.c - see pipeline.h.
 *
 * The happy path: a batch comes from the source, is counted as seen, its packets go into the
 * stream, and the batch goes back. Where the ring has rules or leaves duplicates out, they go
 * through batch_judge() first, some at a time; where not, none of that is touched. Between batches,
 * and every 20 ms without one, the stream is ticked, so that flush windows end and requests to
 * flush are served, and every 100 ms the kernel's drop counters are read.
 *
 * What can go wrong is that the store has no room at the moment: a source that waits is kept
 * waiting, a live one loses the packet and that is counted. When no disk is left, a live source
 * goes on, and every packet is counted as lost; a source that waits ends, because nothing of it is
 * lost by trying again later.
 *
 * Closing: the stream is finished (sealed, everything durable or lost) before it is closed; between
 * the two its final accounts can be read.
 */
#include "pipeline.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "classifier.h"
#include "clock.h"
#include "decode.h"

#define TICK_MS 20
#define READY_MS 2000            /* the first segment is prepared in a fraction of it */
#define COUNTERS_NS 100000000ull /* between two readings of the source's counters */
#define DRAIN_NS 200000000ull    /* a stopped live source is emptied for so long at most */
#define PACE_NS 10000000ull      /* a source ahead of its rate sleeps this long at a time */
#define FINISH_NS 1000000ull     /* between two looks at whether everything is durable */
#define LAYER7_PENDING_MAX 1024u /* packets lent and not taken, beyond which a source that can wait does: half of the queue */
#define LAYER7_LOOK_NS 200000ull
#define LAYER7_LOOKS 5000u       /* a second */
#define LAYER7_SETTLE_MS 2000u   /* at the end, of a live source; */
#define LAYER7_SETTLE_WAITING_MS 20000u /* of one that can wait */

enum stored_action { STORED_WHOLE, STORED_CUT }; /* of a frame's entry: schema/disk_format.h */

/* An interface of the present source. */
struct run_interface {
    struct source_counters counted; /* what has been entered */
};

/* Packets of one kind in a row that are left out, not yet in the account. */
struct left_out {
    uint32_t interface;
    enum account_line line;
    uint64_t packets, bytes;
};

struct pipeline {
    struct pipeline_options options;
    struct stream *stream;
    uint32_t stream_number;
    bool finished;
    bool waited; /* the last source could */

    /* of the present run */
    struct source *source;
    uint32_t first_interface; /* the stream's number of the source's interface 0 */
    uint32_t interfaces;      /* of the source that the stream knows */
    uint32_t interfaces_all;  /* of all sources */
    struct run_interface *interface;
    uint16_t *link_type; /* of each, beside them: it is asked for with every packet */
    uint32_t interface_room;
    uint64_t counters_due_ns;
    uint64_t run_began_ns;
    uint64_t run_packets;
    bool no_disk;
    char ended_said[sizeof((struct failure *)0)->text]; /* of the last interface that ended early */
    struct source_batch batch;

    /* what is kept of a packet */
    struct rule_feed *feed;             /* null: no rules, now or ever */
    struct duplicate_table *duplicates; /* null: they stay */
    bool judges;                        /* there are rules, or duplicates are left out */
    bool decodes;                       /* and one of both looks at headers */
    bool classifies;                    /* what layer 7 finds is recorded */
    struct verdict_stream *verdict_stream; /* where it is also written down; null: nowhere */
    bool asks_app;                      /* layer 7 is asked: for that, or by a rule */
    const struct rule *rule;            /* those of the state in use */
    struct left_out left_out;

    /* for other threads */
    atomic_bool stop;
    _Atomic uint64_t batches, batch_ns, batch_ns_max, batch_ns_min;
    pthread_mutex_t wake_lock; /* waking */
    struct source *waking;
    _Atomic uint64_t packets;
    _Atomic uint64_t bytes_done;
    _Atomic uint64_t oversized;
    _Atomic uint64_t time_cut;
};

/* ---- opening -------------------------------------------------------------------------------- */

/* Somebody waits for a flush: the capture thread may be asleep in its source. Any thread. */
static void wake(void *context)
{
    struct pipeline *pipeline = context;
    pthread_mutex_lock(&pipeline->wake_lock);
    if (pipeline->waking)
        source_wake(pipeline->waking);
    pthread_mutex_unlock(&pipeline->wake_lock);
}

static void set_waking(struct pipeline *pipeline, struct source *source)
{
    pthread_mutex_lock(&pipeline->wake_lock);
    pipeline->waking = source;
    pthread_mutex_unlock(&pipeline->wake_lock);
}

/* ---- what is kept of a packet
 * ---------------------------------------------------------------- */

/* Which way packets take from now on. */
static void set_way(struct pipeline *pipeline)
{
    const struct rule_program *program =
        pipeline->feed ? rule_state_program(pipeline->feed->state) : NULL;
    const struct rule_list *list = program ? rule_program_list(program) : NULL;
    bool rules = list && list->count > 0;
    pipeline->rule = rules ? list->rule : NULL;
    pipeline->classifies = pipeline->feed && pipeline->options.verdicts && rule_feed_port(pipeline->feed);
    if (pipeline->classifies && pipeline->verdict_stream)
        classifier_port_log(rule_feed_port(pipeline->feed), pipeline->verdict_stream);
    pipeline->judges = rules || pipeline->duplicates || pipeline->classifies;
    pipeline->asks_app = pipeline->classifies || (rules && rule_program_needs_app(program));
    pipeline->decodes = pipeline->asks_app || (rules && rule_program_needs_decoding(program)) ||
                        (pipeline->duplicates && duplicate_needs_decoding(pipeline->duplicates));
}

static void judgement_close(struct pipeline *pipeline)
{
    ring_rules_detach(pipeline->options.rules, &pipeline->feed);
    duplicate_close(&pipeline->duplicates);
}

static int judgement_open(struct pipeline *pipeline, struct failure *failure)
{
    const struct pipeline_options *options = &pipeline->options;
    int code = 0;
    if (options->duplicates)
        code = duplicate_open(options->duplicates, &pipeline->duplicates, failure);
    if (code == 0 && options->rules)
        code = ring_rules_attach(options->rules, options->verdicts, &pipeline->feed, failure);
    if (code == 0)
        set_way(pipeline);
    else
        judgement_close(pipeline);
    return code;
}

/* ---- opening
 * -------------------------------------------------------------------------------- */

int pipeline_open(const struct pipeline_options *options, struct pipeline **result,
                  struct failure *failure)
{
    struct pipeline *pipeline = calloc(1, sizeof *pipeline);
    if (!pipeline)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    pipeline->options = *options;
    pthread_mutex_init(&pipeline->wake_lock, NULL);
    struct stream_options stream_options = {.wake = wake, .wake_context = pipeline};
    int code = judgement_open(pipeline, failure);
    if (code != 0)
        goto free_pipeline;
    code = ring_stream_open(options->ring, &stream_options, &pipeline->stream);
    if (code != 0) {
        fail(failure, code, "ring %s: no more streams can be opened: %s",
             ring_options(options->ring)->name, error_text(code));
        goto close_judgement;
    }
    pipeline->stream_number = stream_number(pipeline->stream);
    /* Without it what is found out late is not known of earlier segments: recording does not fail. */
    struct verdict_log *log = options->verdicts ? ring_verdict_log(options->ring) : NULL;
    if (log && verdict_log_stream(log, pipeline->stream_number, &pipeline->verdict_stream) == 0)
        set_way(pipeline);
    /* A live source that finds no segment prepared would lose its first packets. */
    stream_wait(pipeline->stream, READY_MS);
    *result = pipeline;
    return 0;

close_judgement:
    judgement_close(pipeline);
free_pipeline:
    pthread_mutex_destroy(&pipeline->wake_lock);
    free(pipeline);
    return code;
}

/* ---- interfaces and what the kernel counts
 * -------------------------------------------------------- */

static void interface_to_catalog(struct pipeline *pipeline,
                                 const struct interface_description *description)
{
    const struct ring_options *ring = ring_options(pipeline->options.ring);
    catalog_put_interface(ring->catalog, &ring->ring, description, clock_realtime_ns());
}

/* Interfaces have their source's numbers there, as packets do: those of a source before are told
 * anew. */
static int interface_to_rules(struct pipeline *pipeline, uint32_t number,
                              const struct interface_description *description)
{
    return pipeline->feed ? rule_state_interface(pipeline->feed->state, number, description, NULL)
                          : 0;
}

/* Makes the interfaces that the source has grown since the last batch known to stream and catalog.
 */
static int interfaces_grow(struct pipeline *pipeline)
{
    struct source *source = pipeline->source;
    uint32_t interfaces = source->ops->interfaces(source);
    if (interfaces == pipeline->interfaces)
        return 0;
    if (interfaces > pipeline->interface_room) {
        uint32_t room = interfaces < 8 ? 8 : 2 * interfaces;
        struct run_interface *grown = realloc(pipeline->interface, room * sizeof *grown);
        if (grown)
            pipeline->interface = grown;
        uint16_t *link_type = grown ? realloc(pipeline->link_type, room * sizeof *link_type) : NULL;
        if (!link_type)
            return ERR_NO_MEMORY;
        pipeline->link_type = link_type;
        pipeline->interface_room = room;
    }
    for (; pipeline->interfaces < interfaces; pipeline->interfaces++) {
        const struct interface_description *description =
            source->ops->interface(source, pipeline->interfaces);
        int number = stream_add_interface(pipeline->stream, description);
        if (number < 0)
            return number;
        assert((uint32_t)number == pipeline->first_interface + pipeline->interfaces);
        pipeline->interface[pipeline->interfaces] = (struct run_interface){0};
        pipeline->link_type[pipeline->interfaces] = description->link_type;
        pipeline->interfaces_all++;
        interface_to_catalog(pipeline, description);
        int known = interface_to_rules(pipeline, pipeline->interfaces, description);
        if (known != 0)
            return known;
    }
    return 0;
}

/* Enters the drops that kernel and adapter report: such a packet has been seen, and is accounted
 * for, in one step. */
static void counters_read(struct pipeline *pipeline)
{
    struct source *source = pipeline->source;
    for (uint32_t i = 0; i < pipeline->interfaces; i++) {
        struct source_counters now = {0}, *before = &pipeline->interface[i].counted;
        source->ops->counters(source, i, &now);
        if (now.dropped_kernel > before->dropped_kernel) {
            uint64_t dropped = now.dropped_kernel - before->dropped_kernel;
            stream_count(pipeline->stream, pipeline->first_interface + i, ACCOUNT_seen, dropped, 0);
            stream_count(pipeline->stream, pipeline->first_interface + i, ACCOUNT_dropped_kernel,
                         dropped, 0);
        } else {
            now.dropped_kernel =
                before->dropped_kernel; /* a counter that ran backwards unsays nothing */
        }
        atomic_fetch_add(&pipeline->oversized, now.oversized - before->oversized);
        atomic_fetch_add(&pipeline->time_cut, now.time_cut - before->time_cut);
        *before = now;
    }
}

static void counters_read_if_due(struct pipeline *pipeline, uint64_t now_ns)
{
    if (now_ns < pipeline->counters_due_ns)
        return;
    counters_read(pipeline);
    pipeline->counters_due_ns = now_ns + COUNTERS_NS;
}

/* ---- the packet path: no allocation, no lock, no system call, no print per packet
 * ----------------- */

/* The whole batch has been seen; packets that lie next to each other are mostly of one interface.
 */
static void batch_seen(struct pipeline *pipeline)
{
    const struct source_batch *batch = &pipeline->batch;
    for (uint32_t from = 0, to; from < batch->count; from = to) {
        uint16_t interface = batch->packet[from].interface;
        uint64_t bytes = 0;
        for (to = from; to < batch->count && batch->packet[to].interface == interface; to++)
            bytes += batch->packet[to].original_bytes;
        stream_count(pipeline->stream, pipeline->first_interface + interface, ACCOUNT_seen,
                     to - from, bytes);
    }
}

/* Enters what has been left out in a row. */
static void left_out_enter(struct pipeline *pipeline)
{
    struct left_out *left = &pipeline->left_out;
    if (left->packets > 0)
        stream_count(pipeline->stream, left->interface, left->line, left->packets, left->bytes);
    left->packets = left->bytes = 0;
}

static void packet_leave_out(struct pipeline *pipeline, const struct packet *packet,
                             enum account_line line)
{
    struct left_out *left = &pipeline->left_out;
    uint32_t interface = pipeline->first_interface + packet->interface;
    if (left->line != line || left->interface != interface) {
        left_out_enter(pipeline);
        left->line = line;
        left->interface = interface;
    }
    left->packets++;
    left->bytes += packet->original_bytes;
}

static void packet_not_stored(struct pipeline *pipeline, const struct packet *packet,
                              enum account_line line)
{
    stream_count(pipeline->stream, pipeline->first_interface + packet->interface, line, 1,
                 packet->original_bytes);
}

/* Puts the first keep_bytes of a packet into the store, or counts why not. */
static inline void packet_store(struct pipeline *pipeline, const struct packet *packet,
                                uint32_t keep_bytes, uint8_t action, uint32_t rule)
{
    uint32_t interface = pipeline->first_interface + packet->interface;
    for (;;) {
        switch (stream_append(pipeline->stream, interface, packet, keep_bytes, action, rule)) {
        case 0:
            return;
        case ERR_AGAIN:
            if (!pipeline->source->waits) {
                packet_not_stored(pipeline, packet, ACCOUNT_dropped_queue);
                return;
            }
            /* A stop is no reason to leave: what has been seen is stored, it is one batch at most.
             */
            left_out_enter(pipeline);
            stream_tick(pipeline->stream);
            stream_wait(pipeline->stream, TICK_MS);
            break;
        case ERR_TOO_LARGE:
            packet_not_stored(pipeline, packet, ACCOUNT_refused);
            return;
        default: /* ERR_IO: no disk is left */
            packet_not_stored(pipeline, packet, ACCOUNT_lost_disk);
            pipeline->no_disk = true;
            return;
        }
    }
}

/* Some packets of a batch on their way past duplicates and rules, all together: what is known of
 * them. */
struct judged {
    const struct packet *packet;
    uint32_t count;
    bool duplicate[DECODE_BATCH];
    struct decoded_packet decoded[DECODE_BATCH];
    struct rule_verdict verdict[DECODE_BATCH];
    struct rule_outcome outcome[DECODE_BATCH];
};

/*
 * A source that can wait does so where layer 7 is behind with what is to be recorded: what it is not lent it knows nothing of. Not for long: it may have
 * died, or hang.
 */
static void layer7_wait(struct pipeline *pipeline, struct classifier_port *port)
{
    if (!pipeline->classifies || !pipeline->source->waits)
        return;
    for (unsigned i = 0; i < LAYER7_LOOKS && classifier_port_pending(port) > LAYER7_PENDING_MAX; i++) {
        classifier_port_turn(port); /* also: what it has to say finds room */
        nanosleep(&(struct timespec){.tv_nsec = (long)LAYER7_LOOK_NS}, NULL);
    }
}

/*
 * What layer 7 says of the flows of the packets `from` to `to`, where it is asked; else null. An
 * answer is there or not, nothing waits for it.
 */
static const struct rule_verdict *judged_verdicts(struct pipeline *pipeline, struct judged *judged,
                                                  uint32_t from, uint32_t to)
{
    if (!pipeline->asks_app)
        return NULL;
    struct classifier_port *port = rule_feed_port(pipeline->feed);
    if (port) {
        layer7_wait(pipeline, port);
        classifier_port_at(port, stream_next_packet(pipeline->stream));
    }
    for (uint32_t i = from; i < to; i++)
        judged->verdict[i] =
            port ? classifier_verdict(port, &judged->packet[i], &judged->decoded[i])
                 : RULE_VERDICT_UNKNOWN;
    return judged->verdict + from;
}

/* What the rules say of the packets `from` to `to`. */
static void judged_rules(struct pipeline *pipeline, struct judged *judged, uint32_t from,
                         uint32_t to)
{
    rule_state_apply_batch(pipeline->feed->state, judged->packet + from, judged->decoded + from,
                           judged_verdicts(pipeline, judged, from, to), to - from,
                           judged->outcome + from);
}

/* Duplicates are no business of the rules: those see the packets between them. */
static void judged_decide(struct pipeline *pipeline, struct judged *judged)
{
    uint32_t from = 0;
    for (uint32_t i = 0; i < judged->count; i++) {
        judged->duplicate[i] =
            duplicate_seen(pipeline->duplicates, &judged->packet[i], &judged->decoded[i]);
        if (!judged->duplicate[i])
            continue;
        if (pipeline->feed)
            judged_rules(pipeline, judged, from, i);
        from = i + 1;
    }
    if (pipeline->feed)
        judged_rules(pipeline, judged, from, judged->count);
}

static inline uint32_t rule_id(const struct pipeline *pipeline, const struct rule_outcome *outcome)
{
    return outcome->rule > 0 ? pipeline->rule[outcome->rule - 1].id : 0;
}

/*
 * What the rules say of packets that no duplicates are looked for among. True: one rule keeps all
 * of them whole, as most do, and `outcome` has the first one's alone. Where layer 7 is not asked for,
 * either, nobody but the rules wants to know headers.
 */
static inline bool judged_alike(struct pipeline *pipeline, struct judged *judged, uint32_t behind)
{
    if (!pipeline->asks_app)
        return rule_state_judge(pipeline->feed->state, judged->packet, judged->count, behind,
                                pipeline->link_type, judged->outcome);
    decode_batch(judged->packet, judged->count, behind, pipeline->link_type, judged->decoded);
    return rule_state_apply_alike(pipeline->feed->state, judged->packet, judged->decoded,
                                  judged_verdicts(pipeline, judged, 0, judged->count),
                                  judged->count, judged->outcome);
}

static void judged_store(struct pipeline *pipeline, const struct judged *judged)
{
    for (uint32_t i = 0; i < judged->count; i++) {
        const struct packet *packet = &judged->packet[i];
        const struct rule_outcome *outcome = &judged->outcome[i];
        if (judged->duplicate[i])
            packet_leave_out(pipeline, packet, ACCOUNT_duplicates);
        else if (!pipeline->feed)
            packet_store(pipeline, packet, packet->captured_bytes, STORED_WHOLE, 0);
        else if (outcome->decision == RULE_STORE)
            packet_store(pipeline, packet, outcome->keep_bytes,
                         outcome->cut ? STORED_CUT : STORED_WHOLE,
                         rule_id(pipeline, outcome));
        else
            packet_leave_out(pipeline, packet,
                             outcome->decision == RULE_DISCARD ? ACCOUNT_discarded
                                                               : ACCOUNT_sampled_out);
    }
}

/* Packets in a row that one rule keeps whole, and that are not stored yet. */
struct alike {
    const struct packet *packet;
    uint32_t count;
    uint32_t rule; /* its id */
};

static void alike_store(struct pipeline *pipeline, struct alike *alike)
{
    for (uint32_t i = 0; i < alike->count; i++)
        packet_store(pipeline, &alike->packet[i], alike->packet[i].captured_bytes, STORED_WHOLE,
                     alike->rule);
    alike->count = 0;
}

static inline void alike_add(struct pipeline *pipeline, struct alike *alike,
                             const struct judged *judged)
{
    uint32_t rule = rule_id(pipeline, &judged->outcome[0]);
    if (alike->count > 0 && alike->rule != rule)
        alike_store(pipeline, alike);
    if (alike->count == 0)
        alike->packet = judged->packet;
    alike->count += judged->count;
    alike->rule = rule;
}

/*
 * The way of packets where not all is kept. They have been counted as seen, with their batch. Each
 * step may leave some out, under its own line of the account: duplicates, then rules. What is mostly
 * so, that one rule keeps all of a batch, is stored in one go: storing hides that packets come from
 * memory behind one another, and loses that at each end.
 */
static void batch_judge(struct pipeline *pipeline)
{
    const struct source_batch *batch = &pipeline->batch;
    struct alike alike = {.count = 0};
    struct judged judged;
    memset(judged.duplicate, 0, sizeof judged.duplicate); /* as long as none are looked for */
    for (uint32_t from = 0; from < batch->count; from += judged.count) {
        uint32_t left = batch->count - from;
        judged.packet = &batch->packet[from];
        judged.count = left < DECODE_BATCH ? left : DECODE_BATCH;
        left -= judged.count;
        if (!pipeline->duplicates && judged_alike(pipeline, &judged, left)) {
            alike_add(pipeline, &alike, &judged);
            continue;
        }
        alike_store(pipeline, &alike);
        if (pipeline->duplicates) {
            if (pipeline->decodes)
                decode_batch(judged.packet, judged.count, left, pipeline->link_type,
                             judged.decoded);
            judged_decide(pipeline, &judged);
        }
        judged_store(pipeline, &judged);
    }
    alike_store(pipeline, &alike);
    left_out_enter(pipeline);
}

/* Goes over to a new list. An interface that there is no memory for is one that no rule knows. */
static void rules_take(struct pipeline *pipeline)
{
    if (!pipeline->feed || !rule_feed_take(pipeline->feed))
        return;
    for (uint32_t i = 0; i < pipeline->interfaces; i++)
        (void)interface_to_rules(pipeline, i,
                                 pipeline->source->ops->interface(pipeline->source, i));
    set_way(pipeline);
}

/* Hears what layer 7 has found out meanwhile. All that was taken has been stored. */
static void layer7_turn(struct pipeline *pipeline)
{
    struct classifier_port *port = pipeline->asks_app ? rule_feed_port(pipeline->feed) : NULL;
    if (!port)
        return;
    classifier_port_at(port, stream_next_packet(pipeline->stream));
    classifier_port_turn(port);
}

static void batch_take(struct pipeline *pipeline)
{
    const struct source_batch *batch = &pipeline->batch;
    batch_seen(pipeline);
    if (pipeline->judges) {
        batch_judge(pipeline);
    } else {
        for (uint32_t i = 0; i < batch->count; i++)
            packet_store(pipeline, &batch->packet[i], batch->packet[i].captured_bytes, STORED_WHOLE,
                         0);
    }
    pipeline->run_packets += batch->count;
    atomic_fetch_add_explicit(&pipeline->packets, batch->count, memory_order_relaxed);
    atomic_store_explicit(&pipeline->bytes_done, pipeline->source->bytes_done,
                          memory_order_relaxed);
}

/* ---- a run
 * --------------------------------------------------------------------------------------- */

/* Keeps a source that would go faster down to the rate that was asked for. */
static void pace(struct pipeline *pipeline)
{
    uint64_t rate = pipeline->options.packets_per_s;
    if (rate == 0)
        return;
    while (!atomic_load(&pipeline->stop) &&
           pipeline->run_packets > (clock_monotonic_ns() - pipeline->run_began_ns) * (double)rate / 1e9) {
        nanosleep(&(struct timespec){.tv_nsec = (long)PACE_NS}, NULL);
        stream_tick(pipeline->stream);
    }
}

static bool stop_now(struct pipeline *pipeline, int result, uint64_t *drained_ns, uint64_t now_ns)
{
    if (!atomic_load(&pipeline->stop))
        return false;
    if (pipeline->source->waits || result == 0)
        return true;
    /* What a live source had received before the stop is still in its buffers: it is the user's. */
    if (*drained_ns == 0)
        *drained_ns = now_ns + DRAIN_NS;
    return now_ns >= *drained_ns;
}

/* The capture thread alone writes these; others may see the four of different moments. */
static void batch_note(struct pipeline *pipeline, uint64_t took_ns)
{
    uint64_t max_ns = atomic_load_explicit(&pipeline->batch_ns_max, memory_order_relaxed);
    uint64_t min_ns = atomic_load_explicit(&pipeline->batch_ns_min, memory_order_relaxed);
    if (took_ns > max_ns)
        atomic_store_explicit(&pipeline->batch_ns_max, took_ns, memory_order_relaxed);
    if (took_ns < min_ns || min_ns == 0)
        atomic_store_explicit(&pipeline->batch_ns_min, took_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&pipeline->batch_ns, took_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&pipeline->batches, 1, memory_order_relaxed);
}

static int run(struct pipeline *pipeline, struct failure *failure)
{
    struct source *source = pipeline->source;
    uint64_t drained_ns = 0;
    for (;;) {
        bool owes = stream_owes(pipeline->stream);
        int result = source_next(source, &pipeline->batch, owes ? 0 : TICK_MS);
        if (result <= 0)
            stream_rest(pipeline->stream);
        int grown =
            interfaces_grow(pipeline); /* also at the end: an interface without a packet is one */
        rules_take(pipeline);
        if (result > 0) {
            uint64_t taken_ns = clock_monotonic_ns();
            if (grown == 0)
                batch_take(pipeline);
            source_release(source, &pipeline->batch);
            batch_note(pipeline, clock_monotonic_ns() - taken_ns);
        }
        if (result >= 0 && source->failure.code != 0 &&
            strcmp(source->failure.text, pipeline->ended_said) != 0) {
            snprintf(pipeline->ended_said, sizeof pipeline->ended_said, "%s", source->failure.text);
            if (pipeline->options.interface_ended)
                pipeline->options.interface_ended(pipeline->options.context, source->failure.text);
        }
        layer7_turn(pipeline);
        uint64_t now_ns = clock_monotonic_ns();
        counters_read_if_due(pipeline, now_ns);
        stream_tick(pipeline->stream);
        if (grown != 0)
            return fail(failure, grown, "%s: no room for its interfaces: %s", source->ops->name,
                        error_text(grown));
        if (result == ERR_END)
            return 0;
        if (result < 0) {
            if (failure)
                *failure = source->failure;
            return result;
        }
        if (pipeline->no_disk && source->waits)
            return fail(failure, ERR_IO, "ring %s: no disk is left to write to",
                        ring_options(pipeline->options.ring)->name);
        if (stop_now(pipeline, result, &drained_ns, now_ns))
            return fail(failure, ERR_INTERRUPTED, "interrupted");
        pace(pipeline);
    }
}

int pipeline_run(struct pipeline *pipeline, struct source *source, struct failure *failure)
{
    assert(!pipeline->finished && !pipeline->source);
    pipeline->source = source;
    pipeline->first_interface = pipeline->interfaces_all;
    pipeline->interfaces = 0;
    pipeline->no_disk = false;
    pipeline->ended_said[0] = '\0';
    pipeline->run_began_ns = clock_monotonic_ns();
    pipeline->run_packets = 0;
    pipeline->counters_due_ns = 0;
    atomic_store(&pipeline->bytes_done, 0);
    pipeline->waited = source->waits;
    stream_set_patient(pipeline->stream, source->waits);
    set_waking(pipeline, source);
    layer7_turn(pipeline); /* the process may have come up since: from the first packet on it is there */

    int result = run(pipeline, failure);

    counters_read(pipeline);
    stream_tick(pipeline->stream);
    set_waking(pipeline, NULL);
    for (uint32_t i = 0; i < pipeline->interfaces; i++)
        interface_to_catalog(pipeline,
                             source->ops->interface(source, i)); /* when it was last seen */
    pipeline->source = NULL;
    return result;
}

bool pipeline_no_disk(const struct pipeline *pipeline)
{
    return pipeline->no_disk;
}

/* ---- the end
 * -------------------------------------------------------------------------------------- */

/* No more packets will come: what layer 7 thinks of the flows so far is what goes into the last segment. */
static void layer7_settle(struct pipeline *pipeline)
{
    struct classifier_port *port = pipeline->classifies ? rule_feed_port(pipeline->feed) : NULL;
    if (!port)
        return;
    (void)classifier_port_settle(port, pipeline->waited ? LAYER7_SETTLE_WAITING_MS : LAYER7_SETTLE_MS); /* who has died, or hangs, has told what it could */
    classifier_port_at(port, stream_next_packet(pipeline->stream));
}

int pipeline_finish(struct pipeline *pipeline, struct failure *failure)
{
    if (!pipeline->finished)
        layer7_settle(pipeline);
    uint64_t ticket = stream_request_flush(pipeline->stream);
    int result;
    pipeline->finished = true;
    while ((result = stream_finish(pipeline->stream)) == ERR_AGAIN) {
        stream_tick(pipeline->stream); /* serves the ticket, and everybody else's */
        if (stream_wait_flushed(pipeline->stream, ticket, TICK_MS))
            stream_wait(pipeline->stream, TICK_MS); /* for buffers: the index is not written yet */
        nanosleep(&(struct timespec){.tv_nsec = (long)FINISH_NS}, NULL); /* where neither waits */
    }
    stream_tick(pipeline->stream);
    if (result != 0)
        return fail(failure, result, "ring %s: packets were lost because no disk could store them",
                    ring_options(pipeline->options.ring)->name);
    return 0;
}

void pipeline_close(struct pipeline **slot)
{
    struct pipeline *pipeline = *slot;
    if (!pipeline)
        return;
    if (!pipeline->finished)
        (void)pipeline_finish(pipeline, NULL);
    (void)ring_stream_close(pipeline->options.ring, &pipeline->stream, NULL, NULL, NULL);
    judgement_close(pipeline);
    if (pipeline->verdict_stream)
        verdict_log_leave(ring_verdict_log(pipeline->options.ring), &pipeline->verdict_stream);
    pthread_mutex_destroy(&pipeline->wake_lock);
    free(pipeline->interface);
    free(pipeline->link_type);
    free(pipeline);
    *slot = NULL;
}

/* ---- any thread
 * ----------------------------------------------------------------------------------- */

void pipeline_stop(struct pipeline *pipeline)
{
    atomic_store(&pipeline->stop, true);
    wake(pipeline);
}

uint32_t pipeline_stream(const struct pipeline *pipeline)
{
    return pipeline->stream_number;
}

void pipeline_interfaces(struct pipeline *pipeline,
                         void (*each)(const struct stream_interface_state *state, void *context),
                         void *context)
{
    stream_interfaces(pipeline->stream, each, context);
}

void pipeline_progress(struct pipeline *pipeline, struct pipeline_progress *progress)
{
    *progress = (struct pipeline_progress){
        .packets = atomic_load(&pipeline->packets),
        .bytes_done = atomic_load(&pipeline->bytes_done),
        .oversized = atomic_load(&pipeline->oversized),
        .time_cut = atomic_load(&pipeline->time_cut),
        .batches = atomic_load(&pipeline->batches),
        .batch_ns = atomic_load(&pipeline->batch_ns),
        .batch_ns_max = atomic_load(&pipeline->batch_ns_max),
        .batch_ns_min = atomic_load(&pipeline->batch_ns_min),
    };
}
