#include "catalog_care.h"

#include <string.h>

#include "event_log.h"
#include "recorder.h"

#define MARK ".read-whole" /* settings of state.db that are not a person's begin with a point */

static int find_mark(const char *name, const char *value, void *context)
{
    (void)value;
    if (strcmp(name, MARK) == 0)
        *(bool *)context = true;
    return 0;
}

int catalog_care_is_marked(struct recorder *recorder, const struct identity *ring, bool *marked)
{
    *marked = false;
    return state_settings(recorder->state, ring, find_mark, marked);
}

int catalog_care_mark(struct recorder *recorder, const struct identity *ring)
{
    return state_put_setting(recorder->state, ring, MARK, "1");
}

static int mark_row(const struct state_ring *row, void *context)
{
    struct recorder *recorder = context;
    return state_put_setting(recorder->state, &row->ring, MARK, "1");
}

int catalog_care_mark_all(struct recorder *recorder)
{
    return state_rings(recorder->state, mark_row, recorder);
}

/* Under the care's lock: what is missing now must be remembered before catalog_fresh() forgets it.
 */
static int remember(struct recorder *recorder)
{
    if (!catalog_stale(recorder->catalog))
        return 0;
    recorder->catalog_losses++;
    return catalog_care_mark_all(recorder);
}

bool catalog_care_lacks(const struct ring_entry *entry)
{
    return catalog_stale(entry->recorder->catalog) || entry->catalog_losses != entry->recorder->catalog_losses;
}

int catalog_care_begin(struct recorder *recorder, const struct identity *ring,
                       struct failure *failure)
{
    pthread_mutex_lock(&recorder->catalog_lock);
    int result = remember(recorder);
    if (result == 0)
        result = state_put_setting(recorder->state, ring, MARK, "1");
    if (result == 0)
        return 0;
    pthread_mutex_unlock(&recorder->catalog_lock);
    return fail(failure, result, "state.db could not be written: %s", error_text(result));
}

void catalog_care_end(struct recorder *recorder, const struct identity *ring, bool whole)
{
    /* The marks in state.db say now what the catalog lacks. What was dropped since the ring was
     * cleared is not forgiven. */
    catalog_fresh(recorder->catalog);
    if (whole && catalog_barrier(recorder->catalog) == 0 && !catalog_stale(recorder->catalog))
        (void)state_put_setting(recorder->state, ring, MARK, NULL);
    pthread_mutex_unlock(&recorder->catalog_lock);
}

void catalog_care_forget(struct recorder *recorder, const struct identity *ring)
{
    pthread_mutex_lock(&recorder->catalog_lock);
    bool known = remember(recorder) == 0;
    catalog_clear_ring(recorder->catalog, ring);
    if (known)
        catalog_fresh(recorder->catalog);
    pthread_mutex_unlock(&recorder->catalog_lock);
}

void catalog_care_watch(struct recorder *recorder)
{
    if (pthread_mutex_trylock(&recorder->catalog_lock) != 0)
        return; /* somebody makes it good */
    bool stale = catalog_stale(recorder->catalog);
    bool news = stale && !recorder->catalog_lacks;
    if (!news || catalog_care_mark_all(recorder) == 0)
        recorder->catalog_lacks = stale;
    pthread_mutex_unlock(&recorder->catalog_lock);
    if (news)
        event_log_say(recorder->events, "warning", "catalog-stale", "",
                      "the catalog lacks something: the next start reads the disks whole, or "
                      "`tapeloop rebuild` does it now");
}
