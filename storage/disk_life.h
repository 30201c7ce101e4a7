/*
 * disk_life.h - the life of a disk of a ring: which states there are, what leads from one to
 * another, and what is true in each.
 *
 *     FOREIGN ---format---> FRESH ---join---> ACTIVE ---slow---> SUSPECT
 *      |   ^                                  |  ^  <--answer---    |
 *      |   |                            error |  | read back,       | error
 *      |   |                                  v  | resume           |
 *      |   |                                 FAILED <---------------+
 *      |   |
 *      |   |               of ACTIVE, SUSPECT,     of ACTIVE, SUSPECT,
 *      |   |               FAILED                  FAILED
 *      |   |                 | vanish                | remove
 *      |   |                 v                       v
 *      |   +-other ring-- MISSING ----remove----> REMOVED ---resume---> ACTIVE
 *      +------vanish-----> |                         |
 *          ^               +---return, resume---> ACTIVE
 *          +------------------other ring-------------+
 *
 *     state     the ring...
 *     FRESH     has formatted it and not yet taken it
 *     ACTIVE    reads and writes it
 *     SUSPECT   waits for an answer of it; it gets a new segment only where nobody else can take one
 *     FAILED    writes nothing to it any more, and reads what can be read
 *     MISSING   cannot have it; its copies are gone until it returns, which is looked for
 *     REMOVED   was told to leave it alone; its packets stay on it
 *     FOREIGN   found something else in its place: another ring's, or nobody's
 *
 * The superblocks of the members that are there say the state of each; that of a disk that is away lags
 * behind, and what they say then wins.
 *
 * Pure: no I/O, no clock, any thread.
 */
#ifndef STORAGE_DISK_LIFE_H
#define STORAGE_DISK_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_format.h"
#include "errors.h"

#define DISK_STATES 7

enum disk_cause {
    DISK_CAUSE_FORMAT,     /* verb: disk add --force, ring create --force */
    DISK_CAUSE_JOIN,       /* verb: disk add */
    DISK_CAUSE_REMOVE,     /* verb: disk remove */
    DISK_CAUSE_RESUME,     /* verb: disk resume */
    DISK_CAUSE_SLOW,       /* error: a request has not been answered for some time */
    DISK_CAUSE_ERROR,      /* error: writes failed, or a flush */
    DISK_CAUSE_VANISH,     /* error: it cannot be opened, or it is gone */
    DISK_CAUSE_OTHER_RING, /* error: what is found in its place is not it */
    DISK_CAUSE_ANSWER,     /* return: everything has been answered */
    DISK_CAUSE_READ_BACK,  /* return: it has been read back after an error */
    DISK_CAUSE_RETURN,     /* return: it was found again, and is of this ring */
    DISK_CAUSES
};

/* The state that `cause` leads to from `state`, or ERR_INVALID: it leads nowhere from there. Any numbers. */
int disk_life_next(enum disk_state state, enum disk_cause cause);

/* Whether some cause leads from one state to the other. Staying is always allowed. */
bool disk_life_is_allowed(enum disk_state from, enum disk_state to);

/* Whether the ring counts what lies on a disk of this state: its copies are in the catalog, and readers are sent to them. */
bool disk_life_is_read(enum disk_state state);

/* Whether a member of this state is one that the ring would have and has not: it is looked for now and then. */
bool disk_life_is_missed(enum disk_state state);

/* "active"; for numbers that are no state "unknown". Static memory. */
const char *disk_state_name(enum disk_state state);
const char *disk_cause_name(enum disk_cause cause);

/* What the ring does with a disk at an instant. */
struct disk_facts {
    enum disk_state state;
    bool open;           /* the ring holds it open, and locked */
    bool leaving;        /* it is being left: closed as soon as nothing is under way there */
    bool takes_segments; /* a new segment may be placed there now */
    bool is_read;        /* places on it are handed to readers */
    uint32_t requests;   /* under way */
};

/*
 * The invariant: null, or the sentence that the facts break. For whoever changes a state to assert: what disks do never breaks
 * it, only a bug does. Static memory.
 */
const char *disk_life_check(const struct disk_facts *facts);

#endif
