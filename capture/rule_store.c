#include "rule_store.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "classifier.h"
#include "event_log.h"
#include "recorder.h"
#include "ring_opening.h"
#include "rule_text.h"

#define STORED ".rules" /* settings of state.db that are not a person's begin with a point */

/* One at a time: reading the rules of a ring for the first time. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the text: {"revision", "last_id", "rules": [[id, text]...]} -------------------------- */

static char *draft_to_text(const struct ring_rules_draft *draft)
{
    json_t *rules = json_array();
    bool whole = rules != NULL;
    for (uint32_t i = 0; i < draft->list.count && whole; i++) {
        char *text = rule_print(&draft->list.rule[i]);
        whole =
            text && json_array_append_new(
                        rules, json_pack("[I, s]", (json_int_t)draft->list.rule[i].id, text)) == 0;
        free(text);
    }
    json_t *all = whole ? json_pack("{s:I, s:I, s:O}", "revision", (json_int_t)draft->revision,
                                    "last_id", (json_int_t)draft->last_id, "rules", rules)
                        : NULL;
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    json_decref(rules);
    return text;
}

/* What we have written ourselves: anything odd in it means damage, or a later version. */
static int draft_from_text(const char *text, struct ring_rules_draft *draft,
                           struct failure *failure)
{
    json_t *all = json_loads(text, 0, NULL), *rules, *row;
    json_int_t revision, last_id;
    size_t i;
    int code = all &&
                       json_unpack(all, "{s:I, s:I, s:o}", "revision", &revision, "last_id",
                                   &last_id, "rules", &rules) == 0 &&
                       json_is_array(rules) && revision >= 0 && last_id >= 0 && last_id < UINT32_MAX
                   ? 0
                   : fail(failure, ERR_CORRUPT, "the list in state.db is not one of ours");
    *draft = (struct ring_rules_draft){0};
    if (code == 0) {
        draft->revision = (uint64_t)revision;
        draft->last_id = (uint32_t)last_id;
        json_array_foreach(rules, i, row)
        {
            struct rule rule = {0};
            json_int_t id;
            const char *line;
            code = json_unpack(row, "[I, s]", &id, &line) == 0 && id > 0 && id <= last_id
                       ? rule_parse(line, &rule, NULL, failure)
                       : fail(failure, ERR_CORRUPT, "expected an id and a text");
            rule.id = code == 0 ? (uint32_t)id : 0;
            if (code == 0)
                code = rule_list_insert(&draft->list, draft->list.count, &rule, failure);
            if (code != 0) {
                rule_clear(&rule);
                fail_context(failure, code, "the list in state.db, rule %zu", i + 1);
                break;
            }
        }
    }
    if (code != 0)
        rule_list_clear(&draft->list);
    json_decref(all);
    return code;
}

/* ---- reading and keeping ------------------------------------------------------------------- */

static int find_stored(const char *name, const char *value, void *context)
{
    char **text = context;
    if (strcmp(name, STORED) != 0)
        return 0;
    *text = strdup(value);
    return *text ? 0 : ERR_NO_MEMORY;
}

uint64_t rule_store_seed(const struct ring_entry *entry)
{
    uint64_t seed;
    memcpy(&seed, entry->row.ring.byte, sizeof seed);
    return seed;
}

static int restore(struct ring_entry *entry, struct ring_rules *rules, struct failure *failure)
{
    char *text = NULL;
    struct ring_rules_draft draft;
    int code = state_settings(entry->recorder->state, &entry->row.ring, find_stored, &text);
    if (code != 0) {
        free(text);
        return fail(failure, code, "ring %s: its rules cannot be read: %s", entry->row.name,
                    error_text(code));
    }
    if (!text)
        return 0;
    code = draft_from_text(text, &draft, failure);
    free(text);
    if (code != 0) /* what is not understood is not overwritten either */
        return fail_context(failure, code, "ring %s: its rules", entry->row.name);
    struct failure why = {0};
    if (ring_rules_restore(rules, &draft, &why) != 0)
        event_log_say(entry->recorder->events, "error", "rules-failed", entry->row.name,
                      "its rules are not in force, every packet is kept whole: %.300s", why.text);
    rule_list_clear(&draft.list);
    return 0;
}

int rule_store_open(struct ring_entry *entry, struct ring_rules **rules, struct failure *failure)
{
    int code = 0;
    pthread_mutex_lock(&open_lock);
    if (!entry->rules) {
        struct ring_rules *opened;
        code =
            ring_rules_open(rule_store_seed(entry), entry->recorder->classifier, &opened, failure);
        if (code == 0)
            code = restore(entry, opened, failure);
        if (code == 0)
            entry->rules = opened;
        else
            ring_rules_close(&opened);
    }
    *rules = entry->rules;
    pthread_mutex_unlock(&open_lock);
    return code;
}

static int keep(const struct ring_rules_draft *draft, void *context, struct failure *failure)
{
    const struct ring_entry *entry = context;
    char *text = draft_to_text(draft);
    int code = text ? state_put_setting(entry->recorder->state, &entry->row.ring, STORED, text)
                    : ERR_NO_MEMORY;
    free(text);
    return code == 0 ? 0
                     : fail(failure, code, "state.db could not be written: %s", error_text(code));
}

int rule_store_change(struct ring_entry *entry, struct ring_rules *rules,
                      struct ring_rules_draft *draft, bool *in_force, struct failure *failure)
{
    return ring_rules_change(rules, draft, keep, entry, in_force, failure);
}

/* Where layer 7 writes what it finds. Without it what comes is recorded all the same: null, and it is said. */
static struct verdicts *verdicts_of(struct ring_entry *entry)
{
    struct failure why = {0};
    const char *const *name;
    uint32_t names;
    if (classifier_names(entry->recorder->classifier, &name, &names, &why) == 0) {
        verdicts_name(ring_verdicts(entry->ring), name, names);
        return ring_verdicts(entry->ring);
    }
    event_log_say(entry->recorder->events, "warning", "classify-failed", entry->row.name,
                  "what its flows carry is not found out (setting classify): %.300s", why.text);
    return NULL;
}

int rule_store_apply(struct ring_entry *entry, struct pipeline_options *options,
                     struct duplicate_options *duplicates, struct failure *failure)
{
    /* As they are kept, not as they were when the ring was opened: nothing of the ring itself hangs
     * on them, and a ring that always records is never opened anew. */
    struct settings settings;
    const uint64_t *setting = settings.value;
    int code = ring_stored_settings(entry, &settings, failure);
    if (code != 0)
        return code;
    *duplicates = (struct duplicate_options){
        .window_ns = (int64_t)setting[SETTING_duplicate_window],
        .ignore_hops = setting[SETTING_duplicate_ignore_ttl] != 0,
        .ignore_tags = setting[SETTING_duplicate_ignore_vlan] != 0,
    };
    options->duplicates = setting[SETTING_duplicates] != 0 ? duplicates : NULL;
    options->verdicts = setting[SETTING_classify] != 0 ? verdicts_of(entry) : NULL;
    return rule_store_open(entry, &options->rules, failure);
}
