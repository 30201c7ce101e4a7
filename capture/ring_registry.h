/*
 * ring_registry.h - the rings of a recorder: who uses which, who may change one, and their accounts
 * since the start.
 *
 *   state      what it means                          moved on by
 *   STARTING   its disks are being looked at          ring_registry_settle (startup thread)
 *   UP         `ring` is open and may be used         ring_registry_claim
 *   FAILED     `ring` is null, `failure` says why     ring_registry_claim
 *   EMPTY      the same: it has no disk yet           ring_registry_claim
 *   CHANGING   one thread owns `ring` and changes it  ring_registry_settle, ring_registry_remove
 *
 * Its disks come and go while it is UP: who adds or takes one, or looks for missing ones, holds
 * members_lock, which is taken before any other lock and may be held while a disk is waited for.
 *
 * A ring that is UP is used as a job (a recording, an import, an extraction: for as long as a
 * client likes) or looked at (for an answer, briefly). A change is refused while there are jobs; it
 * waits for those who look.
 *
 * Threads: any. The list and the states have one lock, the accounts of each ring another.
 */
#ifndef CAPTURE_RING_REGISTRY_H
#define CAPTURE_RING_REGISTRY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "pipeline.h"
#include "ring.h"
#include "settings.h"
#include "state.h"

struct recorder;

enum ring_entry_state { RING_STARTING, RING_UP, RING_FAILED, RING_EMPTY, RING_CHANGING };

#define RINGS_MAX_USUAL 16u /* unless the setting max_rings says otherwise */

/* What became of an interface's packets since the recorder started, as far as the streams that saw
 * them have ended. */
struct interface_total {
    char name[INTERFACE_NAME_MAX + 1];
    uint16_t link_type;
    struct account account;
};

#define INTERFACE_TOTALS_MAX \
    1024u /* of one ring; what is more is summed up under OTHER_INTERFACES */
#define OTHER_INTERFACES "(others)"

struct ring_entry {
    struct ring_entry *next;
    struct recorder *recorder;
    struct state_ring row; /* as in state.db; slot_bytes and copies under the registry's lock */
    pthread_t startup;     /* thread that brings the ring up */
    bool startup_running;

    pthread_mutex_t members_lock;
    uint64_t searched_ns; /* under it: when missing disks were last looked for */
    /* While a disk leaves, and while somebody looks at what struct disk says; within members_lock. Never held
     * while a disk is opened or read, which may take for ever. */
    pthread_mutex_t leaving_lock;

    /* under the registry's lock */
    enum ring_entry_state state;
    struct failure failure; /* FAILED, EMPTY: why */
    uint32_t jobs;
    uint32_t lookers, live_lookers; /* all, and those that may touch `ring` */

    /* the owner's while CHANGING or STARTING, constant while UP */
    struct ring *ring;
    struct settings settings; /* those in force */
    _Atomic uint64_t catalog_losses; /* the recorder's, when the catalog had all of this ring; UINT64_MAX: it has not (catalog_care_lacks()) */
    bool empty;               /* it has no disk: without a ring it is EMPTY, not FAILED */

    /* progress of whoever changes or starts the ring, for others to see */
    _Atomic uint64_t slots_done, slots_total;
    /* The same of a purge while the ring is used by others, too (purging.c). */
    atomic_bool purging;
    _Atomic uint64_t purge_done, purge_total; /* segments */
    atomic_bool *cancel; /* may be null; true: whoever changes the ring is to give up */

    pthread_mutex_t account_lock;
    struct interface_total *ended;
    uint32_t ended_count, ended_room;
    uint32_t *folded; /* streams that are summed up in `ended` and not yet gone from the ring */
    uint32_t folded_count, folded_room;

    _Atomic uint64_t bytes_per_s; /* stored, in the last second */

    struct ring_rules *rules; /* rule_store_open(); null: not read yet */
};

struct ring_registry {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct ring_entry *entries;
    bool closing;
    uint32_t rings_max; /* how many may be made; those that are there stay */
};

void ring_registry_init(struct ring_registry *registry);
/* Frees all entries. Nobody uses one any more, and their rings are closed. */
void ring_registry_free(struct ring_registry *registry);

/* How many rings a recorder may have; more are refused, but none goes. */
void ring_registry_set_max(struct ring_registry *registry, uint32_t rings_max);
/* The limit and how many there are. */
void ring_registry_count(struct ring_registry *registry, uint32_t *rings_max, uint32_t *rings);

/* Adds a ring in state STARTING or CHANGING. ERR_EXISTS: there is one of that name, or of that
 * identity. ERR_TOO_LARGE: CHANGING, and there are as many as there may be. */
int ring_registry_add(struct ring_registry *registry, struct recorder *recorder,
                      const struct state_ring *row, enum ring_entry_state state,
                      struct ring_entry **result, struct failure *failure);

/* Says what slots a ring has that is being made. */
void ring_registry_set_slot_bytes(struct ring_registry *registry, struct ring_entry *entry,
                                  uint64_t slot_bytes);

/* The same for how many copies it makes. */
void ring_registry_set_copies(struct ring_registry *registry, struct ring_entry *entry,
                              uint8_t copies);

/* Ends STARTING or CHANGING: UP where entry->ring is open, else FAILED or EMPTY with `why`. */
void ring_registry_settle(struct ring_registry *registry, struct ring_entry *entry,
                          const struct failure *why);

/* Takes an entry, which is CHANGING and whose ring is closed, off the list and frees it. */
void ring_registry_remove(struct ring_registry *registry, struct ring_entry **slot);

/*
 * Uses a ring as a job. Waits while it is STARTING. ERR_NOT_FOUND; ERR_BUSY (being changed);
 * FAILED: the ring's own failure.
 */
int ring_registry_use(struct ring_registry *registry, const char *name, struct ring_entry **result,
                      struct failure *failure);
void ring_registry_release(struct ring_registry *registry, struct ring_entry **slot);

/* Owns a ring alone, to change it: state CHANGING. ERR_NOT_FOUND; ERR_BUSY (jobs, or another
 * change). */
int ring_registry_claim(struct ring_registry *registry, const char *name,
                        struct ring_entry **result, struct failure *failure);

/* A look at a ring: while it lasts, the entry stays, and so does, if `live`, its ring. */
struct ring_look {
    struct ring_entry *entry;
    enum ring_entry_state state;
    bool live;
    struct failure failure;
    uint64_t slot_bytes;
    uint8_t copies;
};

/*
 * Waits up to patience_ms for rings that are STARTING: most are up at once, and whoever has just
 * started a recorder wants to see them so.
 */
void ring_registry_wait(struct ring_registry *registry, int patience_ms);

/* name null: all rings, else that one (ERR_NOT_FOUND). *result is the caller's until
 * ring_registry_look_away(). */
int ring_registry_look(struct ring_registry *registry, const char *name, struct ring_look **result,
                       uint32_t *count, struct failure *failure);
void ring_registry_look_away(struct ring_registry *registry, struct ring_look **slot,
                             uint32_t count);

/* Wakes whoever waits for a ring, and makes all later waits end at once. For the end of the
 * recorder. */
void ring_registry_close_down(struct ring_registry *registry);

/* ---- accounts
 * ------------------------------------------------------------------------------------- */

/*
 * Finishes and closes a pipeline; its final accounts go into the ring's totals in the same instant
 * in which the stream's own are no longer counted. *total (may be null) is the sum over its
 * interfaces. Result as pipeline_finish(). The capture thread's.
 */
int ring_entry_end_pipeline(struct ring_entry *entry, struct pipeline **pipeline,
                            struct account *total, struct failure *failure);

/*
 * Calls `each` for every interface of every open stream (stream >= 0) and for the totals of those
 * that have ended (stream -1); no packet is counted twice or left out. `each` must be brief. The
 * ring is UP and looked at or used.
 */
void ring_entry_accounts(struct ring_entry *entry,
                         void (*each)(int64_t stream, const char *name, uint16_t link_type,
                                      const struct account *account, void *context),
                         void *context);

#endif
