#include "disk_life.h"

#include <stddef.h>

#define BIT(state) (1u << (state))
#define ANY_OPEN (BIT(DISK_ACTIVE) | BIT(DISK_SUSPECT) | BIT(DISK_FAILED))

/* The table of allowed transitions: one row a cause. */
static const struct {
    const char *name;
    uint8_t from; /* set of states */
    uint8_t to;
} transition[DISK_CAUSES] = {
    [DISK_CAUSE_FORMAT] = {"format", BIT(DISK_FOREIGN), DISK_FRESH},
    [DISK_CAUSE_JOIN] = {"join", BIT(DISK_FRESH), DISK_ACTIVE},
    [DISK_CAUSE_REMOVE] = {"remove", ANY_OPEN | BIT(DISK_MISSING), DISK_REMOVED},
    [DISK_CAUSE_RESUME] = {"resume", BIT(DISK_FAILED) | BIT(DISK_MISSING) | BIT(DISK_REMOVED),
                           DISK_ACTIVE},
    [DISK_CAUSE_SLOW] = {"slow", BIT(DISK_ACTIVE), DISK_SUSPECT},
    [DISK_CAUSE_ERROR] = {"error", BIT(DISK_ACTIVE) | BIT(DISK_SUSPECT), DISK_FAILED},
    /* FOREIGN: what stood in its place is gone, too. */
    [DISK_CAUSE_VANISH] = {"vanish", ANY_OPEN | BIT(DISK_FOREIGN), DISK_MISSING},
    [DISK_CAUSE_OTHER_RING] = {"other ring", BIT(DISK_MISSING) | BIT(DISK_REMOVED), DISK_FOREIGN},
    [DISK_CAUSE_ANSWER] = {"answer", BIT(DISK_SUSPECT), DISK_ACTIVE},
    [DISK_CAUSE_READ_BACK] = {"read back", BIT(DISK_FAILED), DISK_ACTIVE},
    [DISK_CAUSE_RETURN] = {"return", BIT(DISK_MISSING), DISK_ACTIVE},
};

static const char *const state_name[DISK_STATES] = {
    [DISK_FRESH] = "fresh",     [DISK_ACTIVE] = "active",   [DISK_SUSPECT] = "suspect",
    [DISK_FAILED] = "failed",   [DISK_MISSING] = "missing", [DISK_REMOVED] = "removed",
    [DISK_FOREIGN] = "foreign",
};

int disk_life_next(enum disk_state state, enum disk_cause cause)
{
    if ((unsigned)state >= DISK_STATES || (unsigned)cause >= DISK_CAUSES ||
        (transition[cause].from & BIT(state)) == 0)
        return ERR_INVALID;
    return transition[cause].to;
}

bool disk_life_is_allowed(enum disk_state from, enum disk_state to)
{
    if ((unsigned)from >= DISK_STATES || (unsigned)to >= DISK_STATES)
        return false;
    for (unsigned cause = 0; cause < DISK_CAUSES; cause++)
        if (disk_life_next(from, (enum disk_cause)cause) == (int)to)
            return true;
    return from == to;
}

bool disk_life_is_read(enum disk_state state)
{
    return (unsigned)state < DISK_STATES && (ANY_OPEN & BIT(state)) != 0;
}

bool disk_life_is_missed(enum disk_state state)
{
    return state == DISK_MISSING || state == DISK_FOREIGN;
}

const char *disk_state_name(enum disk_state state)
{
    return (unsigned)state < DISK_STATES ? state_name[state] : "unknown";
}

const char *disk_cause_name(enum disk_cause cause)
{
    return (unsigned)cause < DISK_CAUSES ? transition[cause].name : "unknown";
}

const char *disk_life_check(const struct disk_facts *facts)
{
    if ((unsigned)facts->state >= DISK_STATES)
        return "a disk is in no state";
    bool serves = facts->state == DISK_ACTIVE || facts->state == DISK_SUSPECT;
    if (facts->requests > 0 && !facts->open)
        return "a disk was closed with a request under way";
    if (serves && !facts->open)
        return "a disk that is to be written is not open";
    if (serves && facts->leaving)
        return "a disk that is being left has not changed its state";
    if (facts->takes_segments && !serves)
        return "a segment may be placed on a disk that is not written";
    if (facts->is_read && (!facts->open || !disk_life_is_read(facts->state)))
        return "readers are sent to a disk that the ring does not have";
    /* What hangs is held until it answers, whatever its state: there is no cancel. */
    if (facts->open && !facts->leaving && !disk_life_is_read(facts->state) &&
        facts->state != DISK_FRESH)
        return "a disk is held that the ring does not have";
    return NULL;
}
