/*
 * fuzz_web_request.c - what a client can put into a request line and its Host header, as
 * tapeloop-web reads them: the first line is the Host, the second the query.
 */
#include <assert.h>
#include <civetweb.h>
#include <stdlib.h>
#include <string.h>

#include "access.h"
#include "exchange.h"
#include "fuzz.h"

static const char *const names[] = {"recorder.example"};

/* A name that is taken for ours is an address, or one of three names, whatever stands around it. */
static void check_host(const char *host)
{
    if (!access_host_is_ours(host, names, 1))
        return;
    assert(strlen(host) > 0 && strspn(host, "/@ \t") == 0);
}

static void check_query(char *query)
{
    struct failure failure = {0};
    struct mg_request_info info = {.query_string = query, .request_method = "GET"};
    struct exchange exchange = {.info = &info};
    char value[64];
    int64_t number = 7;
    int code = exchange_check_query(&exchange, "from to step", &failure);
    assert(code == 0 || (code == ERR_INVALID && failure.text[0]));
    value[0] = '\0';
    assert(exchange_query(&exchange, "from", value, sizeof value, &failure) <= 0);
    assert(memchr(value, '\0', sizeof value));
    code = exchange_query_count(&exchange, "step", 1, 100, &number, &failure);
    assert(code == ERR_INVALID ? number == 7 : number >= 1 && number <= 100);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 2);
    assert(text);
    memcpy(text, data, size);
    text[size] = text[size + 1] = '\0';
    char *query = strchr(text, '\n');
    if (query)
        *query++ = '\0';
    check_host(text);
    check_query(query ? query : text + size + 1);
    free(text);
    return 0;
}
