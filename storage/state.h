/*
 * state.h - state.db: what no disk can rebuild: rings and their settings, history, events. synchronous=FULL.
 *
 * One connection, one lock, any thread but never the packet path or the keeper: every call may wait for a disk. What returned 0 is
 * on stable storage; what returned an error has changed nothing (ERR_NO_SPACE, ERR_IO, ERR_BUSY, ERR_CORRUPT where not said otherwise).
 * No lock and no transaction is held while `each` runs, so it may call this module; a nonzero return of it ends the call and is returned.
 */
#ifndef STORAGE_STATE_H
#define STORAGE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "errors.h"
#include "identity.h"

struct state;

/*
 * Opens DIR/state.db, making DIR (0750) and file where they are missing. A file that is damaged or of an unknown version is never
 * replaced: ERR_CORRUPT, ERR_UNSUPPORTED, ERR_FOREIGN with a sentence that says what to do. Every page of the file is checked.
 * Old versions are migrated; version 1 is the first. ERR_NOT_FOUND: DIR's parent is missing.
 */
int state_open(const char *directory, struct state **state, struct failure *failure);
void state_close(struct state **state);

struct state_ring {
    struct identity ring;
    char name[64];
    uint64_t slot_bytes;  /* 0: not yet decided (no disk) */
    uint8_t copies;
    int64_t created_ns;
};

struct state_disk {
    struct identity disk;
    struct identity ring;
    char path[1024];
    uint64_t bytes;
    uint8_t state; /* enum disk_state */
    uint32_t number; /* of the disk in its ring, from 1, never reused: what people type */
};

/* Inserts or replaces. ERR_EXISTS: another ring has the name. ERR_INVALID: the identity is zero. */
int state_put_ring(struct state *state, const struct state_ring *ring);
/* With its disks and settings; its history stays until it is old. ERR_NOT_FOUND. */
int state_delete_ring(struct state *state, const struct identity *ring);
/* By name. */
int state_rings(struct state *state, int (*each)(const struct state_ring *ring, void *context), void *context);
/*
 * Inserts or replaces. Number 0: a disk that is known in the ring keeps its own, a new one is given the next.
 * ERR_NOT_FOUND: no such ring. ERR_EXISTS: another disk of the ring has the number.
 */
int state_put_disk(struct state *state, const struct state_disk *disk);
int state_delete_disk(struct state *state, const struct identity *disk); /* ERR_NOT_FOUND */
/* By number. */
int state_disks(struct state *state, const struct identity *ring,
                int (*each)(const struct state_disk *disk, void *context), void *context);

/* Settings: names and texts. ring null: of the recorder. Value null: delete. ERR_NOT_FOUND: no such ring. By name. */
int state_put_setting(struct state *state, const struct identity *ring, const char *name, const char *value);
int state_settings(struct state *state, const struct identity *ring,
                   int (*each)(const char *name, const char *value, void *context), void *context);

/* One row a second, ring and interface while anything changes: differences, not totals. Several in one transaction. */
struct history_row {
    struct identity ring;
    char interface[256];
    int64_t second;          /* seconds since the epoch, by the recorder's clock */
    uint32_t seconds;        /* that the row is about: 1, or 60 from `second` on. Not looked at by state_put_history() */
    struct account change;   /* modulo 2^64: packets in flight may become fewer */
};

/*
 * Rows of the same second, ring and interface are added up. All or nothing. ERR_INVALID: a second that is not within
 * 292 years of the epoch.
 */
int state_put_history(struct state *state, const struct history_row *rows, uint32_t count);
/* Rows with second in [from, to), ascending; interface null: all. Rows of a minute go by its first second. */
int state_history(struct state *state, const struct identity *ring, const char *interface, int64_t from, int64_t to,
                  int (*each)(const struct history_row *row, void *context), void *context);
/*
 * Keeps one-second rows for `keep_seconds`, older ones are summed to minutes (whole ones, so up to 59 seconds more are kept), minutes
 * older than 400 days deleted. In steps of an hour, each all or nothing.
 */
int state_history_trim(struct state *state, int64_t now, int64_t keep_seconds);

struct event {
    uint64_t number; /* given by state_put_event */
    int64_t time_ns;
    char severity[8]; /* "info", "warning", "error" */
    char kind[32];    /* "drops-begin", "disk-failed", ... */
    char ring[64];    /* name, may be empty */
    char text[512];   /* one sentence */
};

/* Numbers grow by one from 1 and are never given again. The newest EVENTS_MAX are kept. */
#define EVENTS_MAX 100000u
int state_put_event(struct state *state, struct event *event);
/* Ascending from number `after`, at most `limit`. */
int state_events(struct state *state, uint64_t after, uint32_t limit,
                 int (*each)(const struct event *event, void *context), void *context);

/* ---- the audit log: who did what; only ever added to ------------------------------------------ */

#define AUDIT_HASH_BYTES 32u

struct audit_row {
    uint64_t number; /* from 1, without a gap; given by state_put_audit, as is the hash */
    int64_t time_ns;
    char actor[192];  /* who */
    char action[32];  /* a method of the control protocol, or what the web process has told of */
    char ring[64];    /* name, may be empty */
    char detail[1024]; /* its parameters */
    char outcome[256]; /* "done", "begun", or what went wrong */
    uint8_t hash[AUDIT_HASH_BYTES]; /* over the row and the hash of the one before: state.sql */
};

/* Adds a row to the end of the chain. ERR_CORRUPT: the last row that there is has no place in one. */
int state_put_audit(struct state *state, struct audit_row *row);
/* Ascending from number `after`, at most `limit`. */
int state_audit(struct state *state, uint64_t after, uint32_t limit,
                int (*each)(const struct audit_row *row, void *context), void *context);

struct audit_verdict {
    uint64_t rows;                  /* that fit, from the first on */
    uint8_t head[AUDIT_HASH_BYTES]; /* of the last of these; zeros where there is none */
    uint64_t bad;                   /* the number of the first that does not fit, or is missing; 0: none */
    bool known;                     /* whether a row of the asked number and hash was met */
};

/*
 * Reads the whole chain. `number` and `hash` (0, null: none) are a head that somebody has kept elsewhere: whoever rewrites
 * the whole chain is found by it alone.
 */
int state_audit_verify(struct state *state, uint64_t number, const uint8_t *hash, struct audit_verdict *verdict);

#endif
