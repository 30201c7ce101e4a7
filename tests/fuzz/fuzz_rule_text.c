/*
 * Rule lists from hostile text, and from hostile JSON. What is taken must print to a text that
 * parses to the same rules and prints the same again, survive JSON, and make a program or a
 * sentence; what is refused must have a sentence and a place in the text.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "program.h"
#include "rule_json.h"
#include "rule_text.h"

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_same(const struct rule_list *a, const struct rule_list *b)
{
    check(a->count == b->count);
    for (uint32_t i = 0; i < a->count; i++)
        check(rule_equal(&a->rule[i], &b->rule[i]));
}

static void check_list(const struct rule_list *list)
{
    struct rule_list again;
    struct failure failure = {0};
    char *printed = rule_list_print(list);
    check(printed != NULL && rule_list_parse(printed, &again, NULL, &failure) == 0);
    check_same(list, &again);
    char *twice = rule_list_print(&again);
    check(twice != NULL && strcmp(printed, twice) == 0);
    rule_list_clear(&again);
    free(twice);
    free(printed);
    json_t *json = rule_list_to_json(list);
    check(json != NULL && rule_list_from_json(json, &again, &failure) == 0);
    check_same(list, &again);
    rule_list_clear(&again);
    json_decref(json);
}

/* Without expressions: libpcap's parser is not ours, and names in them would be looked up. */
static void check_program(const struct rule_list *list)
{
    static const char *const app[] = {"tls", "http"};
    const struct rule_program_options options = {.app = app, .apps = 2};
    struct rule_program *program;
    struct failure failure = {0};
    for (uint32_t i = 0; i < list->count; i++) {
        if (rule_has(&list->rule[i], CONDITION_BPF))
            return;
    }
    if (list->count > 64)
        return; /* slow, and tested elsewhere */
    int result = rule_program_build(list, &options, &program, &failure);
    check(result == 0 || (failure.text[0] != '\0' && program == NULL));
    rule_program_release(&program);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct rule_list list;
    struct rule_place place = {0};
    struct failure failure = {0};
    char *text = malloc(count + 1);
    check(text != NULL);
    memcpy(text, bytes, count);
    text[count] = '\0';
    if (rule_list_parse(text, &list, &place, &failure) == 0) {
        check_list(&list);
        check_program(&list);
    } else {
        check(list.count == 0 && failure.text[0] != '\0' && place.line >= 1 && place.column >= 1);
    }
    rule_list_clear(&list);
    json_t *json = json_loadb((const char *)bytes, count, 0, NULL);
    if (json != NULL && rule_list_from_json(json, &list, &failure) == 0) {
        check_list(&list);
        rule_list_clear(&list);
    }
    json_decref(json);
    free(text);
    return 0;
}
