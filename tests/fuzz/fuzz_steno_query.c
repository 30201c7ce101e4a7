/*
 * Queries in stenographer's language from hostile text. What is taken must be a filter whose words of ours are used
 * rightly and that narrowing understands; what is refused must have a sentence.
 */
#include <stdlib.h>
#include <string.h>

#include "filter_words.h"
#include "fuzz.h"
#include "narrowing.h"
#include "steno_query.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct steno_query query;
    struct failure failure = {0};
    char *text = strndup((const char *)bytes, count);
    if (!text)
        abort();
    int code = steno_query_open(text, INT64_C(1700000000000000000), &query, &failure);
    free(text);
    if (code != 0) {
        if (failure.text[0] == '\0' || query.filter)
            abort();
        return 0;
    }
    struct narrowing *tree;
    if (query.from_ns >= query.to_ns || narrowing_open(query.filter, &tree) != 0 || !narrowing_parsed(tree))
        abort();
    narrowing_close(&tree);
    steno_query_close(&query);
    return 0;
}
