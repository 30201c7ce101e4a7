/* A message of the control socket from hostile bytes: what is taken is an object that prints and
 * parses again. */
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    json_t *message;
    int code = control_parse(bytes, count, &message);
    if (code != 0) {
        if (code != ERR_PROTOCOL)
            abort();
        return 0;
    }
    char *text = json_dumps(message, JSON_COMPACT);
    if (!json_is_object(message) || !text)
        abort();
    json_t *again;
    if (control_parse((const uint8_t *)text, strlen(text), &again) != 0 ||
        !json_equal(message, again))
        abort();
    json_decref(again);
    json_decref(message);
    free(text);
    return 0;
}
