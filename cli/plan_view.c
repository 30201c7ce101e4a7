/*
 * plan_view.c - see plan_view.h.
 */
#include "plan_view.h"

#include <inttypes.h>
#include <stdio.h>

#include "answer.h"
#include "output.h"
#include "text.h"

void plan_print(const json_t *plan, uint64_t packets)
{
    uint64_t segments = answer_count(plan, "segments"), left = segments - answer_count(plan, "segments_by_runs");
    uint64_t index_bytes = answer_count(plan, "index_bytes");
    const char *narrowing = answer_text(plan, "narrowing");
    char size[TEXT_SIZE_SIZE];
    printf("by index     %s\n", narrowing[0] ? output_printable(narrowing) : "nothing: every packet of the range is judged");
    printf("catalog      %" PRIu64 " segments that may hold packets of the range\n", segments);
    printf("runs         %" PRIu64 " asked (%" PRIu64 " of no use), %s read: %" PRIu64 " segments are left\n", answer_count(plan, "runs"),
           answer_count(plan, "runs_bad"), text_size(answer_count(plan, "run_bytes"), size), left);
    printf("key indexes  %" PRIu64 " asked (%" PRIu64 " more of no use), %s read: %" PRIu64 " segments are left, %" PRIu64
           " blocks of 16 KiB that may hold a match\n",
           answer_count(plan, "segments_narrowed"), answer_count(plan, "indexes_bad"), text_size(index_bytes, size),
           left - answer_count(plan, "segments_excluded"), answer_count(plan, "blocks_wanted"));
    printf("blocks       %" PRIu64 " read, %s with the headers of their frames\n", answer_count(plan, "blocks_read"),
           text_size(answer_count(plan, "bytes_read") - index_bytes, size));
    printf("packets      %" PRIu64 " judged, %" PRIu64 " match\n", answer_count(plan, "packets_judged"), packets);
    if (answer_count(plan, "purged") > 0)
        printf("purged       %" PRIu64 " packets of the range, whatever the filter\n", answer_count(plan, "purged"));
}
