/*
 * Classic pcap files: no input may harm, and whatever libpcap hands out of one, the source hands
 * out too, or differs in a way that pcap_oracle.h names.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"
#include "pcap_oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct oracle_result result;
    if (count == 0)
        return 0;
    oracle_compare(bytes, count, 1 + count % 61, "fuzz", &result);
    if (result.verdict == ORACLE_DIFFERENT) {
        fprintf(stderr, "%s\n  ours: %s\n  theirs: %s\n", result.why, result.ours, result.theirs);
        abort();
    }
    return 0;
}
