/*
 * Times, sizes, durations and names from hostile text: whatever is taken must read back the same
 * after it has been printed.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "text.h"

static void check(bool good)
{
    if (!good)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    char *text = malloc(count + 1);
    check(text != NULL);
    memcpy(text, bytes, count);
    text[count] = '\0';

    struct failure failure = {0};
    int64_t time_ns;
    int64_t again_ns;
    char printed[TEXT_TIME_SIZE];
    int code = text_parse_time(text, INT64_C(1700000000000000000), &time_ns, &failure);
    if (code == 0)
        check(text_parse_time(text_time(time_ns, printed), 0, &again_ns, NULL) == 0 &&
              time_ns == again_ns);
    else
        check(code == ERR_INVALID && failure.text[0] != '\0');

    uint64_t size;
    char size_printed[TEXT_SIZE_SIZE];
    if (text_parse_size(text, &size, &failure) == 0)
        check(size <= UINT64_C(1) << 62 && text_size(size, size_printed)[0] != '\0');
    int64_t duration_ns;
    if (text_parse_duration(text, &duration_ns, &failure) == 0)
        check(duration_ns >= 0);
    if (text_check_ring_name(text, &failure) == 0)
        check(strlen(text) <= 63 && strpbrk(text, "/ \n") == NULL);

    char out[64];
    text_printable(text, out, count % sizeof out + 1);
    check(strlen(out) <= count % sizeof out);
    free(text);
    return 0;
}
