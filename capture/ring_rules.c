/*
 * ring_rules.c - see ring_rules.h.
 *
 * A change: the program is built without the lock (libpcap may take its time), then, under it, the
 * revision is compared again, the draft is kept, and each feed is offered a state. What a capture
 * thread has given back is collected before each offer, so that it always finds room for the next.
 * Which of its states a feed uses is only known when one comes back: until then both are counted,
 * and neither is freed.
 */
#include "ring_rules.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "classifier.h"
#include "clock.h"

#define IN_FORCE_NS 2000000000ull
#define LOOK_NS 500000ull

/* What expressions are compiled for beforehand, so that no capture thread has to. */
static const uint16_t link_types[] = {
    LINK_ETHERNET, LINK_RAW,        LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_NULL,
    LINK_LOOP,     LINK_IEEE802_11, LINK_RADIOTAP,  LINK_PPP,        LINK_PPP_HDLC,
};

/* Of a rule that is in the list, and of 0; what the states that are gone have counted. */
struct rule_sum {
    uint32_t id;
    struct rule_counters counters;
};

struct ring_rules {
    uint64_t seed;
    struct classifier *classifier; /* null: no layer 7 */
    pthread_mutex_t change_lock;   /* held through a change; taken before the other one */
    pthread_mutex_t lock;          /* all below; list, program and revision change under both */
    struct rule_list list;
    uint64_t revision;
    uint32_t last_id;
    struct rule_program *program; /* of the list; of an empty one where it does not compile */
    struct failure failure;
    struct rule_feed *feeds;
    struct rule_sum *sum; /* one for each rule of the list, in its order, behind the one of 0 */
};

static bool list_needs_app(const struct rule_list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (rule_has(&list->rule[i], CONDITION_APP))
            return true;
    return false;
}

static int build(const struct ring_rules *rules, const struct rule_list *list,
                 struct rule_program **program, struct failure *failure)
{
    struct rule_program_options options = {
        .link_type = link_types,
        .link_types = sizeof link_types / sizeof link_types[0],
    };
    if (rules->classifier && list_needs_app(list)) {
        int code = classifier_names(rules->classifier, &options.app, &options.apps, failure);
        if (code != 0)
            return fail_context(failure, code, "app");
    }
    return rule_program_build(list, &options, program, failure);
}

int ring_rules_open(uint64_t seed, struct classifier *classifier, struct ring_rules **result,
                    struct failure *failure)
{
    struct ring_rules *rules = calloc(1, sizeof *rules);
    *result = NULL;
    if (!rules)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    rules->seed = seed;
    rules->classifier = classifier;
    rules->sum = calloc(1, sizeof *rules->sum);
    int code = rules->sum ? build(rules, &rules->list, &rules->program, failure)
                          : fail(failure, ERR_NO_MEMORY, "out of memory");
    if (code != 0) {
        free(rules->sum);
        free(rules);
        return code;
    }
    pthread_mutex_init(&rules->change_lock, NULL);
    pthread_mutex_init(&rules->lock, NULL);
    *result = rules;
    return 0;
}

void ring_rules_close(struct ring_rules **slot)
{
    struct ring_rules *rules = *slot;
    if (!rules)
        return;
    assert(!rules->feeds);
    rule_program_release(&rules->program);
    rule_list_clear(&rules->list);
    pthread_mutex_destroy(&rules->lock);
    pthread_mutex_destroy(&rules->change_lock);
    free(rules->sum);
    free(rules);
    *slot = NULL;
}

/* ---- counters: under the lock -------------------------------------------------------------- */

static void counters_add(struct rule_counters *a, const struct rule_counters *b)
{
    a->packets += b->packets;
    a->bytes += b->bytes;
    a->stored_packets += b->stored_packets;
    a->stored_bytes += b->stored_bytes;
    a->cut_packets += b->cut_packets;
    a->cut_bytes += b->cut_bytes;
    a->discarded_packets += b->discarded_packets;
    a->discarded_bytes += b->discarded_bytes;
}

/* What a state has counted goes to the rules that still are in the list. */
static void sum_state(const struct rule_state *state, struct rule_sum *sum, uint32_t sums)
{
    const struct rule_list *list = rule_program_list(rule_state_program(state));
    struct rule_counters counted;
    for (uint32_t number = 0; number <= list->count; number++) {
        uint32_t id = number > 0 ? list->rule[number - 1].id : 0;
        uint32_t at = number < sums && sum[number].id == id ? number : 0;
        while (at < sums && sum[at].id != id)
            at++;
        if (at == sums)
            continue; /* its rule is gone */
        rule_state_counters(state, number, &counted);
        counters_add(&sum[at].counters, &counted);
    }
}

/* Fills the sums of a list with what is known of its rules. */
static void sums_take(const struct ring_rules *rules, const struct rule_list *list,
                      struct rule_sum *sum)
{
    sum[0] = rules->sum[0];
    for (uint32_t i = 1; i <= list->count; i++) {
        sum[i].id = list->rule[i - 1].id;
        uint32_t k = i <= rules->list.count && rules->sum[i].id == sum[i].id ? i : 1;
        while (k <= rules->list.count && rules->sum[k].id != sum[i].id)
            k++;
        if (k <= rules->list.count)
            sum[i] = rules->sum[k];
    }
}

/* ---- feeds: under the lock ----------------------------------------------------------------- */

static void feed_retire(struct ring_rules *rules, struct rule_feed *feed,
                        struct rule_state **retired)
{
    assert(*retired == feed->in_use && feed->offered);
    sum_state(*retired, rules->sum, rules->list.count + 1);
    rule_state_close(retired);
    feed->in_use = feed->offered;
    feed->offered = NULL;
}

static void feed_collect(struct ring_rules *rules, struct rule_feed *feed)
{
    struct rule_state *retired = rule_handover_collect(&feed->handover);
    if (retired)
        feed_retire(rules, feed, &retired);
}

/* Takes back what has been offered and not been taken, so that there is one state again. */
static void feed_withdraw(struct ring_rules *rules, struct rule_feed *feed)
{
    feed_collect(rules, feed);
    if (!feed->offered)
        return;
    struct rule_state *offered =
        atomic_exchange_explicit(&feed->handover.offered, NULL, memory_order_acq_rel);
    if (offered) {
        rule_state_close(&offered);
        feed->offered = NULL;
    }
    while (feed->offered) { /* it is being taken at this moment */
        feed_collect(rules, feed);
        if (feed->offered)
            sched_yield();
    }
}

static void feed_offer(struct ring_rules *rules, struct rule_feed *feed, struct rule_state **state)
{
    feed_withdraw(rules, feed);
    feed->offered = *state;
    rule_handover_offer(&feed->handover, state);
}

static bool all_have_taken(struct ring_rules *rules)
{
    bool all = true;
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next) {
        feed_collect(rules, feed);
        all &= feed->offered == NULL;
    }
    return all;
}

bool ring_rules_in_force(struct ring_rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    bool all = all_have_taken(rules);
    pthread_mutex_unlock(&rules->lock);
    return all;
}

static bool wait_in_force(struct ring_rules *rules)
{
    uint64_t end_ns = clock_monotonic_ns() + IN_FORCE_NS;
    for (;;) {
        bool all = ring_rules_in_force(rules);
        if (all || clock_monotonic_ns() >= end_ns)
            return all;
        nanosleep(&(struct timespec){.tv_nsec = (long)LOOK_NS}, NULL);
    }
}

static int state_open(struct ring_rules *rules, struct rule_program *program,
                      struct rule_state **state, struct failure *failure)
{
    struct rule_state_options options = {.seed = rules->seed};
    return rule_state_open(program, &options, state, failure);
}

/* ---- the list ------------------------------------------------------------------------------ */

uint64_t ring_rules_revision(struct ring_rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    uint64_t revision = rules->revision;
    pthread_mutex_unlock(&rules->lock);
    return revision;
}

int ring_rules_draft(struct ring_rules *rules, struct ring_rules_draft *draft)
{
    pthread_mutex_lock(&rules->lock);
    *draft = (struct ring_rules_draft){.revision = rules->revision, .last_id = rules->last_id};
    int code = rule_list_copy(&rules->list, &draft->list);
    pthread_mutex_unlock(&rules->lock);
    return code;
}

static bool has_id(const struct rule_list *list, uint32_t id)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (list->rule[i].id == id)
            return true;
    return false;
}

/* A rule that says what one of the list before said is that one. */
static void give_ids(const struct rule_list *before, struct ring_rules_draft *draft)
{
    for (uint32_t i = 0; i < draft->list.count; i++) {
        struct rule *rule = &draft->list.rule[i];
        for (uint32_t k = 0; k < before->count && rule->id == 0; k++)
            if (rule_equal(&before->rule[k], rule) && !has_id(&draft->list, before->rule[k].id))
                rule->id = before->rule[k].id;
        if (rule->id == 0)
            rule->id = ++draft->last_id;
    }
}

/* A list with its program and room for its sums: the next one. */
struct ready {
    struct rule_program *program;
    struct rule_sum *sum;
};

static void ready_clear(struct ready *ready)
{
    rule_program_release(&ready->program);
    free(ready->sum);
    ready->sum = NULL;
}

static int make_ready(const struct ring_rules *rules, const struct rule_list *list,
                      struct ready *ready, struct failure *failure)
{
    *ready = (struct ready){.sum = calloc(list->count + 1u, sizeof *ready->sum)};
    int code = ready->sum ? build(rules, list, &ready->program, failure)
                          : fail(failure, ERR_NO_MEMORY, "out of memory");
    if (code != 0)
        ready_clear(ready);
    return code;
}

/* Under the lock: what a feed needs for a program that is not yet offered to it. */
static int port_open(struct ring_rules *rules, struct rule_feed *feed,
                     const struct rule_program *program, struct failure *failure)
{
    if (!rules->classifier || rule_feed_port(feed) || !(feed->verdicts || rule_program_needs_app(program)))
        return 0;
    struct classifier_port *port;
    int code = classifier_port_open(rules->classifier, 0, &port, failure);
    if (code == 0 && feed->verdicts)
        classifier_port_record(port, feed->verdicts);
    if (code == 0)
        atomic_store_explicit(&feed->port, port, memory_order_release);
    return code;
}

/* Under the lock: a state of the next program for each feed, or none. */
static int states_open(struct ring_rules *rules, struct rule_program *program,
                       struct failure *failure)
{
    int code = 0;
    for (struct rule_feed *feed = rules->feeds; feed && code == 0; feed = feed->next) {
        code = port_open(rules, feed, program, failure);
        if (code == 0)
            code = state_open(rules, program, &feed->next_state, failure);
    }
    return code;
}

static void states_close(struct ring_rules *rules)
{
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next)
        rule_state_close(&feed->next_state);
}

/* Under the lock: list, program and sums become those of the rules, and the feeds are offered their
 * states. Cannot fail. */
static void adopt(struct ring_rules *rules, struct ring_rules_draft *draft, struct ready *ready)
{
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next)
        feed_withdraw(rules, feed); /* into the sums of the list before */
    sums_take(rules, &draft->list, ready->sum);
    rule_list_clear(&rules->list);
    rules->list = draft->list;
    draft->list = (struct rule_list){0};
    rules->revision = draft->revision;
    rules->last_id = draft->last_id;
    rule_program_release(&rules->program);
    free(rules->sum);
    rules->program = ready->program;
    rules->sum = ready->sum;
    *ready = (struct ready){0};
    rules->failure = (struct failure){0};
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next)
        feed_offer(rules, feed, &feed->next_state);
}

int ring_rules_change(struct ring_rules *rules, struct ring_rules_draft *draft,
                      int (*keep)(const struct ring_rules_draft *draft, void *context,
                                  struct failure *failure),
                      void *context, bool *in_force, struct failure *failure)
{
    struct ready ready = {0};
    pthread_mutex_lock(&rules->change_lock);
    int code = 0;
    if (draft->revision != rules->revision)
        code = fail(failure, ERR_MISMATCH,
                    "the rules have been changed by somebody else: they are at revision %" PRIu64
                    ", not %" PRIu64,
                    rules->revision, draft->revision);
    if (code == 0) {
        give_ids(&rules->list, draft);
        draft->revision++;
        code = make_ready(rules, &draft->list, &ready, failure);
    }
    if (code == 0) {
        pthread_mutex_lock(&rules->lock);
        code = states_open(rules, ready.program, failure);
        if (code == 0 && keep)
            code = keep(draft, context, failure);
        if (code == 0)
            adopt(rules, draft, &ready);
        else
            states_close(rules);
        pthread_mutex_unlock(&rules->lock);
    }
    pthread_mutex_unlock(&rules->change_lock);
    ready_clear(&ready);
    if (code == 0) {
        bool all = wait_in_force(rules);
        if (in_force)
            *in_force = all;
    }
    return code;
}

int ring_rules_restore(struct ring_rules *rules, const struct ring_rules_draft *kept,
                       struct failure *failure)
{
    struct ring_rules_draft draft = {.revision = kept->revision, .last_id = kept->last_id};
    struct rule_list none = {0};
    struct failure why = {0};
    struct ready ready = {0};
    if (rule_list_copy(&kept->list, &draft.list) != 0)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    pthread_mutex_lock(&rules->change_lock);
    int code = make_ready(rules, &draft.list, &ready, &why);
    if (code != 0) {
        struct rule_sum *sum = calloc(draft.list.count + 1u, sizeof *sum);
        if (sum && make_ready(rules, &none, &ready, failure) == 0) {
            free(ready.sum);
            ready.sum = sum;
        } else {
            free(sum);
        }
    }
    if (ready.program) {
        pthread_mutex_lock(&rules->lock);
        if (states_open(rules, ready.program, &why) == 0)
            adopt(rules, &draft, &ready);
        else
            states_close(rules);
        rules->failure = why;
        pthread_mutex_unlock(&rules->lock);
    }
    pthread_mutex_unlock(&rules->change_lock);
    ready_clear(&ready);
    rule_list_clear(&draft.list);
    return why.code == 0 ? code : fail(failure, why.code, "%s", why.text);
}

struct failure ring_rules_failure(struct ring_rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    struct failure failure = rules->failure;
    pthread_mutex_unlock(&rules->lock);
    return failure;
}

bool ring_rules_need_app(struct ring_rules *rules)
{
    pthread_mutex_lock(&rules->lock);
    bool need = rule_program_needs_app(rules->program);
    pthread_mutex_unlock(&rules->lock);
    return need;
}

int ring_rules_counters(struct ring_rules *rules, const struct rule_list *list,
                        struct rule_counters *counters)
{
    uint32_t sums = list->count + 1;
    struct rule_sum *sum = calloc(sums, sizeof *sum);
    if (!sum)
        return ERR_NO_MEMORY;
    pthread_mutex_lock(&rules->lock);
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next)
        feed_collect(rules, feed);
    sums_take(rules, list, sum);
    for (struct rule_feed *feed = rules->feeds; feed; feed = feed->next) {
        sum_state(feed->in_use, sum, sums);
        if (feed->offered) /* it may have been taken since */
            sum_state(feed->offered, sum, sums);
    }
    pthread_mutex_unlock(&rules->lock);
    for (uint32_t i = 0; i < sums; i++)
        counters[i] = sum[i].counters;
    free(sum);
    return 0;
}

/* ---- one capture thread -------------------------------------------------------------------- */

int ring_rules_attach(struct ring_rules *rules, struct verdicts *verdicts, struct rule_feed **result, struct failure *failure)
{
    struct rule_feed *feed = calloc(1, sizeof *feed);
    *result = NULL;
    if (!feed)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    feed->verdicts = verdicts;
    pthread_mutex_lock(&rules->lock);
    int code = state_open(rules, rules->program, &feed->state, failure);
    if (code == 0) {
        /* Without it, every flow is one that has not been judged yet: recording does not fail. */
        (void)port_open(rules, feed, rules->program, NULL);
        feed->in_use = feed->state;
        feed->next = rules->feeds;
        rules->feeds = feed;
        *result = feed;
    }
    pthread_mutex_unlock(&rules->lock);
    if (code != 0)
        free(feed);
    return code;
}

void ring_rules_detach(struct ring_rules *rules, struct rule_feed **slot)
{
    struct rule_feed *feed = *slot;
    if (!feed)
        return;
    pthread_mutex_lock(&rules->lock);
    feed_withdraw(rules, feed);
    assert(feed->state == feed->in_use);
    sum_state(feed->in_use, rules->sum, rules->list.count + 1);
    struct rule_feed **link = &rules->feeds;
    while (*link != feed)
        link = &(*link)->next;
    *link = feed->next;
    pthread_mutex_unlock(&rules->lock);
    rule_state_close(&feed->state);
    struct classifier_port *port = rule_feed_port(feed);
    classifier_port_close(&port);
    free(feed);
    *slot = NULL;
}
