/*
 * estimate_command.c - what an extraction would hand out, before there is one.
 */
#include <inttypes.h>
#include <stdio.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "range_params.h"
#include "recorder_session.h"
#include "views.h"

static void print_estimate(const json_t *result, const struct range *range)
{
    char size[TEXT_SIZE_SIZE], from[TEXT_TIME_SIZE], to[TEXT_TIME_SIZE];
    int64_t oldest_ns;
    struct account account;
    answer_account(answer_object(result, "account"), &account);
    range_text(range, from, to);
    bool lacks = json_is_false(json_object_get(result, "catalog_whole"));
    printf("%s %" PRIu64 " packets, %s as captured, from %s to %s", lacks ? "known are" : "at most",
           answer_count(result, "packets"), text_size(answer_count(result, "bytes"), size), from, to);
    double seconds = answer_number(result, "seconds");
    printf(seconds > 0 ? ", in about %s\n" : "\n", output_duration(seconds));
    if (!answer_time(json_object_get(result, "oldest_ns"), &oldest_ns))
        printf("the ring holds nothing\n");
    else if (!range->bounded_below || oldest_ns > range->from_ns)
        printf("the ring holds nothing from before %s\n", text_time(oldest_ns, from));
    if (lacks)
        printf("the catalog has lost something, and there may be more: tapeloop rebuild RING finds all again\n");
    uint64_t missing = answer_count(result, "missing"), dropped = view_dropped(&account);
    uint64_t left_out = account.packets[ACCOUNT_discarded] + account.packets[ACCOUNT_duplicates] +
                        account.packets[ACCOUNT_sampled_out];
    uint64_t purged = answer_count(result, "purged");
    if (purged > 0)
        printf("about %" PRIu64 " packets of that time were purged\n", purged);
    if (missing > 0)
        printf("%" PRIu64 " packets are known to be gone\n", missing);
    if (dropped > 0)
        printf("%" PRIu64 " packets were dropped in that time\n", dropped);
    if (left_out > 0)
        printf("%" PRIu64 " packets were left out by rules in that time\n", left_out);
}

static int estimate_run(const struct invocation *invocation, struct failure *failure)
{
    static const char *const others[] = {"format", "packets_max", "bytes_max", "headers"};
    struct range range = {0};
    json_t *params = range_params(invocation, &range, failure), *result = NULL;
    if (!params)
        return failure->code;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        json_object_del(params, others[i]);
    int code = session_ask(invocation, SESSION_START, "estimate", params, &result, failure);
    if (code != 0)
        return code;
    range_of_answer(result, &range);
    if (output_is_json())
        output_json(result);
    else
        print_estimate(result, &range);
    bool lacks = json_is_false(json_object_get(result, "catalog_whole"));
    json_decref(result);
    return lacks ? EXIT_INCOMPLETE : EXIT_DONE;
}

static const struct option_row options[] = {
    RANGE_TIME_OPTIONS,
    {0},
};

const struct command estimate_command = {
    .name = "estimate",
    .operands = "RING [FILTER...]",
    .operands_min = 1,
    .operands_max = UINT32_MAX,
    .summary = "how much an extraction would hand out at most",
    .details = "By what is known of the time range, without reading packets: the filter is checked, but not\n"
               "applied. Says what is known to be missing: what the ring does not hold any more or never\n"
               "held, what was dropped, what rules left out. Times and filters are those of extract. Exit\n"
               "status 3 if the catalog has lost something, and there may be more.",
    .examples = "  tapeloop estimate dmz --from -20m --to -15m\n"
                "  tapeloop estimate dmz --from -1d host 192.0.2.7",
    .options = options,
    .run = estimate_run,
};
