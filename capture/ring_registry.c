#include "ring_registry.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "text.h"

void ring_registry_init(struct ring_registry *registry)
{
    *registry = (struct ring_registry){.rings_max = RINGS_MAX_USUAL};
    pthread_mutex_init(&registry->lock, NULL);
    clock_condition_init(&registry->changed);
}

static void entry_free(struct ring_entry *entry)
{
    if (entry->startup_running)
        pthread_join(entry->startup, NULL);
    assert(entry->jobs == 0 && entry->lookers == 0 && !entry->ring && entry->folded_count == 0);
    pthread_mutex_destroy(&entry->account_lock);
    pthread_mutex_destroy(&entry->leaving_lock);
    pthread_mutex_destroy(&entry->members_lock);
    free(entry->ended);
    free(entry->folded);
    ring_rules_close(&entry->rules);
    free(entry);
}

void ring_registry_free(struct ring_registry *registry)
{
    while (registry->entries) {
        struct ring_entry *entry = registry->entries;
        registry->entries = entry->next;
        entry_free(entry);
    }
    pthread_cond_destroy(&registry->changed);
    pthread_mutex_destroy(&registry->lock);
}

static struct ring_entry *find(struct ring_registry *registry, const char *name)
{
    for (struct ring_entry *entry = registry->entries; entry; entry = entry->next)
        if (strcmp(entry->row.name, name) == 0)
            return entry;
    return NULL;
}

static int not_found(const char *name, struct failure *failure)
{
    char shown[80];
    text_printable(name, shown, sizeof shown);
    return fail(failure, ERR_NOT_FOUND, "there is no ring \"%s\"", shown);
}

static int being_changed(const struct ring_entry *entry, struct failure *failure)
{
    return fail(failure, ERR_BUSY, "ring %s is being changed at the moment", entry->row.name);
}

int ring_registry_add(struct ring_registry *registry, struct recorder *recorder,
                      const struct state_ring *row, enum ring_entry_state state,
                      struct ring_entry **result, struct failure *failure)
{
    struct ring_entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    entry->recorder = recorder;
    entry->row = *row;
    entry->state = state;
    settings_default(&entry->settings);
    pthread_mutex_init(&entry->account_lock, NULL);
    pthread_mutex_init(&entry->members_lock, NULL);
    pthread_mutex_init(&entry->leaving_lock, NULL);
    pthread_mutex_lock(&registry->lock);
    struct ring_entry **end = &registry->entries;
    const struct ring_entry *same = NULL;
    uint32_t rings = 0;
    for (; *end; end = &(*end)->next, rings++)
        if (strcmp((*end)->row.name, row->name) == 0 ||
            identity_equal(&(*end)->row.ring, &row->ring))
            same = *end;
    int code = 0;
    if (!same && state == RING_CHANGING && rings >= registry->rings_max)
        code = fail(failure, ERR_TOO_LARGE,
                    "there are %u rings, and max-rings is %u: tapeloop ring set max-rings=%u allows "
                    "one more",
                    rings, registry->rings_max, rings + 1);
    else if (!same)
        *end = *result = entry;
    else if (strcmp(same->row.name, row->name) == 0)
        code = fail(failure, ERR_EXISTS, "there is a ring \"%s\" already", row->name);
    else
        code = fail(failure, ERR_EXISTS, "this ring is known already, as \"%s\"", same->row.name);
    pthread_mutex_unlock(&registry->lock);
    if (code != 0)
        entry_free(entry);
    return code;
}

void ring_registry_set_slot_bytes(struct ring_registry *registry, struct ring_entry *entry,
                                  uint64_t slot_bytes)
{
    pthread_mutex_lock(&registry->lock);
    entry->row.slot_bytes = slot_bytes;
    pthread_mutex_unlock(&registry->lock);
}

void ring_registry_set_copies(struct ring_registry *registry, struct ring_entry *entry,
                              uint8_t copies)
{
    pthread_mutex_lock(&registry->lock);
    entry->row.copies = copies;
    pthread_mutex_unlock(&registry->lock);
}

void ring_registry_set_max(struct ring_registry *registry, uint32_t rings_max)
{
    pthread_mutex_lock(&registry->lock);
    registry->rings_max = rings_max;
    pthread_mutex_unlock(&registry->lock);
}

void ring_registry_count(struct ring_registry *registry, uint32_t *rings_max, uint32_t *rings)
{
    pthread_mutex_lock(&registry->lock);
    *rings_max = registry->rings_max;
    *rings = 0;
    for (const struct ring_entry *entry = registry->entries; entry; entry = entry->next)
        ++*rings;
    pthread_mutex_unlock(&registry->lock);
}

void ring_registry_settle(struct ring_registry *registry, struct ring_entry *entry,
                          const struct failure *why)
{
    pthread_mutex_lock(&registry->lock);
    assert(entry->state == RING_STARTING || entry->state == RING_CHANGING);
    entry->state = entry->ring ? RING_UP : entry->empty ? RING_EMPTY : RING_FAILED;
    if (!entry->ring)
        entry->failure = *why;
    pthread_cond_broadcast(&registry->changed);
    pthread_mutex_unlock(&registry->lock);
}

void ring_registry_remove(struct ring_registry *registry, struct ring_entry **slot)
{
    struct ring_entry *entry = *slot;
    pthread_mutex_lock(&registry->lock);
    assert(entry->state == RING_CHANGING && entry->jobs == 0);
    struct ring_entry **link = &registry->entries;
    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    while (entry->lookers > 0)
        pthread_cond_wait(&registry->changed, &registry->lock);
    pthread_cond_broadcast(&registry->changed);
    pthread_mutex_unlock(&registry->lock);
    entry_free(entry);
    *slot = NULL;
}

int ring_registry_use(struct ring_registry *registry, const char *name, struct ring_entry **result,
                      struct failure *failure)
{
    int code = 0;
    struct ring_entry *entry;
    pthread_mutex_lock(&registry->lock);
    while ((entry = find(registry, name)) && entry->state == RING_STARTING && !registry->closing)
        pthread_cond_wait(&registry->changed, &registry->lock);
    if (!entry) {
        code = not_found(name, failure);
    } else if (registry->closing) {
        code = fail(failure, ERR_CLOSED, "the recorder is ending");
    } else if (entry->state == RING_CHANGING) {
        code = being_changed(entry, failure);
    } else if (entry->state == RING_FAILED || entry->state == RING_EMPTY) {
        code = fail(failure, entry->failure.code, "%s", entry->failure.text);
    } else {
        entry->jobs++;
        *result = entry;
    }
    pthread_mutex_unlock(&registry->lock);
    return code;
}

void ring_registry_release(struct ring_registry *registry, struct ring_entry **slot)
{
    pthread_mutex_lock(&registry->lock);
    assert((*slot)->jobs > 0);
    (*slot)->jobs--;
    pthread_cond_broadcast(&registry->changed);
    pthread_mutex_unlock(&registry->lock);
    *slot = NULL;
}

int ring_registry_claim(struct ring_registry *registry, const char *name,
                        struct ring_entry **result, struct failure *failure)
{
    int code = 0;
    struct ring_entry *entry;
    pthread_mutex_lock(&registry->lock);
    while ((entry = find(registry, name)) && entry->state == RING_STARTING && !registry->closing)
        pthread_cond_wait(&registry->changed, &registry->lock);
    if (!entry) {
        code = not_found(name, failure);
    } else if (registry->closing) {
        code = fail(failure, ERR_CLOSED, "the recorder is ending");
    } else if (entry->state == RING_CHANGING) {
        code = being_changed(entry, failure);
    } else if (entry->jobs > 0) {
        code = fail(failure, ERR_BUSY,
                    "ring %s is in use by %u recordings, imports or extractions: end them first",
                    name, entry->jobs);
    } else {
        entry->state = RING_CHANGING;
        atomic_store(&entry->slots_done, 0);
        atomic_store(&entry->slots_total, 0);
        entry->cancel = NULL;
        /* Those who look now hold the ring; those who look from now on see only the entry. */
        while (entry->live_lookers > 0)
            pthread_cond_wait(&registry->changed, &registry->lock);
        *result = entry;
    }
    pthread_mutex_unlock(&registry->lock);
    return code;
}

void ring_registry_wait(struct ring_registry *registry, int patience_ms)
{
    struct timespec until = clock_monotonic_in_ms(patience_ms);
    pthread_mutex_lock(&registry->lock);
    for (;;) {
        bool starting = false;
        for (const struct ring_entry *entry = registry->entries; entry; entry = entry->next)
            starting |= entry->state == RING_STARTING;
        if (!starting || registry->closing ||
            pthread_cond_timedwait(&registry->changed, &registry->lock, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&registry->lock);
}

int ring_registry_look(struct ring_registry *registry, const char *name, struct ring_look **result,
                       uint32_t *count, struct failure *failure)
{
    int code = 0;
    pthread_mutex_lock(&registry->lock);
    uint32_t entries = 0;
    for (const struct ring_entry *entry = registry->entries; entry; entry = entry->next)
        entries++;
    struct ring_look *looks = calloc(entries + 1, sizeof *looks);
    *count = 0;
    if (!looks)
        code = fail(failure, ERR_NO_MEMORY, "out of memory");
    for (struct ring_entry *entry = registry->entries; looks && entry; entry = entry->next) {
        if (name && strcmp(name, entry->row.name) != 0)
            continue;
        looks[*count] = (struct ring_look){.entry = entry,
                                           .state = entry->state,
                                           .live = entry->state == RING_UP,
                                           .slot_bytes = entry->row.slot_bytes,
                                           .copies = entry->row.copies};
        if (entry->state == RING_FAILED || entry->state == RING_EMPTY)
            looks[*count].failure = entry->failure;
        entry->lookers++;
        entry->live_lookers += looks[*count].live;
        (*count)++;
    }
    pthread_mutex_unlock(&registry->lock);
    if (code == 0 && name && *count == 0) {
        free(looks);
        return not_found(name, failure);
    }
    *result = looks;
    return code;
}

void ring_registry_look_away(struct ring_registry *registry, struct ring_look **slot,
                             uint32_t count)
{
    struct ring_look *looks = *slot;
    if (!looks)
        return;
    pthread_mutex_lock(&registry->lock);
    for (uint32_t i = 0; i < count; i++) {
        looks[i].entry->lookers--;
        looks[i].entry->live_lookers -= looks[i].live;
    }
    pthread_cond_broadcast(&registry->changed);
    pthread_mutex_unlock(&registry->lock);
    free(looks);
    *slot = NULL;
}

void ring_registry_close_down(struct ring_registry *registry)
{
    pthread_mutex_lock(&registry->lock);
    registry->closing = true;
    pthread_cond_broadcast(&registry->changed);
    pthread_mutex_unlock(&registry->lock);
}

/* ---- accounts
 * ------------------------------------------------------------------------------------- */

/* The total of that interface, made where there is none; null without memory. Under account_lock.
 */
static struct interface_total *total_of(struct ring_entry *entry, const char *name,
                                        uint16_t link_type)
{
    for (uint32_t i = 0; i < entry->ended_count; i++)
        if (entry->ended[i].link_type == link_type && strcmp(entry->ended[i].name, name) == 0)
            return &entry->ended[i];
    if (entry->ended_count >= INTERFACE_TOTALS_MAX - 1 && strcmp(name, OTHER_INTERFACES) != 0)
        return total_of(entry, OTHER_INTERFACES, 0);
    if (entry->ended_count == entry->ended_room) {
        uint32_t room = entry->ended_room ? 2 * entry->ended_room : 8;
        struct interface_total *grown = realloc(entry->ended, room * sizeof *grown);
        if (!grown)
            return NULL;
        entry->ended = grown;
        entry->ended_room = room;
    }
    struct interface_total *total = &entry->ended[entry->ended_count++];
    *total = (struct interface_total){.link_type = link_type};
    memcpy(total->name, name, strnlen(name, INTERFACE_NAME_MAX));
    return total;
}

struct fold {
    struct ring_entry *entry;
    struct account total;
    bool no_memory;
};

static void fold_interface(const struct stream_interface_state *state, void *context)
{
    struct fold *fold = context;
    account_add(&fold->total, &state->account);
    struct interface_total *total =
        total_of(fold->entry, state->description.name, state->description.link_type);
    if (total)
        account_add(&total->account, &state->account);
    else
        fold->no_memory = true;
}

static void unfold(struct ring_entry *entry, uint32_t stream)
{
    pthread_mutex_lock(&entry->account_lock);
    for (uint32_t i = 0; i < entry->folded_count; i++)
        if (entry->folded[i] == stream) {
            entry->folded[i] = entry->folded[--entry->folded_count];
            break;
        }
    pthread_mutex_unlock(&entry->account_lock);
}

int ring_entry_end_pipeline(struct ring_entry *entry, struct pipeline **pipeline,
                            struct account *total, struct failure *failure)
{
    int result = pipeline_finish(*pipeline, failure);
    struct fold fold = {.entry = entry};
    uint32_t stream = pipeline_stream(*pipeline);
    pthread_mutex_lock(&entry->account_lock);
    if (entry->folded_count == entry->folded_room) {
        uint32_t room = entry->folded_room ? 2 * entry->folded_room : 8;
        uint32_t *grown = realloc(entry->folded, room * sizeof *grown);
        if (grown) {
            entry->folded = grown;
            entry->folded_room = room;
        }
    }
    bool room = entry->folded_count < entry->folded_room;
    if (room) {
        pipeline_interfaces(*pipeline, fold_interface, &fold);
        entry->folded[entry->folded_count++] = stream;
    }
    pthread_mutex_unlock(&entry->account_lock);
    pipeline_close(pipeline);
    unfold(entry, stream);
    if (total)
        *total = fold.total;
    if (!room || fold.no_memory)
        return fail(failure, ERR_NO_MEMORY, "out of memory for the accounts of ring %s",
                    entry->row.name);
    return result;
}

struct relay {
    struct ring_entry *entry;
    void (*each)(int64_t stream, const char *name, uint16_t link_type,
                 const struct account *account, void *context);
    void *context;
};

static void relay_open_stream(uint32_t stream, const struct stream_interface_state *state,
                              void *context)
{
    const struct relay *relay = context;
    for (uint32_t i = 0; i < relay->entry->folded_count; i++)
        if (relay->entry->folded[i] == stream)
            return;
    relay->each(stream, state->description.name, state->description.link_type, &state->account,
                relay->context);
}

void ring_entry_accounts(struct ring_entry *entry,
                         void (*each)(int64_t stream, const char *name, uint16_t link_type,
                                      const struct account *account, void *context),
                         void *context)
{
    struct relay relay = {.entry = entry, .each = each, .context = context};
    pthread_mutex_lock(&entry->account_lock);
    for (uint32_t i = 0; i < entry->ended_count; i++)
        each(-1, entry->ended[i].name, entry->ended[i].link_type, &entry->ended[i].account,
             context);
    ring_interfaces(entry->ring, relay_open_stream, &relay);
    pthread_mutex_unlock(&entry->account_lock);
}
