/*
 * state.h - state.db: what no disk can rebuild: rings and their settings, history, events. synchronous=FULL.
 *
 * One connection, one lock, any thread but never the packet path or the keeper: every call may wait for a disk.
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
 * replaced: ERR_CORRUPT, ERR_UNSUPPORTED with a sentence that says what to do. Old versions are migrated.
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

int state_put_ring(struct state *state, const struct state_ring *ring);
int state_delete_ring(struct state *state, const struct identity *ring); /* with its disks and settings */
int state_rings(struct state *state, int (*each)(const struct state_ring *ring, void *context), void *context);
int state_put_disk(struct state *state, const struct state_disk *disk); /* number 0: the next one is given */
int state_delete_disk(struct state *state, const struct identity *disk);
int state_disks(struct state *state, const struct identity *ring,
                int (*each)(const struct state_disk *disk, void *context), void *context);

/* Settings: names and texts. ring null: of the recorder. Value null: delete. */
int state_put_setting(struct state *state, const struct identity *ring, const char *name, const char *value);
int state_settings(struct state *state, const struct identity *ring,
                   int (*each)(const char *name, const char *value, void *context), void *context);

/* One row a second, ring and interface while anything changes: differences, not totals. Several in one transaction. */
struct history_row {
    struct identity ring;
    char interface[256];
    int64_t second;          /* seconds since the epoch, by the recorder's clock */
    struct account change;
};

int state_put_history(struct state *state, const struct history_row *rows, uint32_t count);
/* Rows with second in [from, to), ascending; interface null: all. */
int state_history(struct state *state, const struct identity *ring, const char *interface, int64_t from, int64_t to,
                  int (*each)(const struct history_row *row, void *context), void *context);
/* Keeps one-second rows for `keep_seconds`, older ones are summed to minutes, minutes older than 400 days deleted. */
int state_history_trim(struct state *state, int64_t now, int64_t keep_seconds);

struct event {
    uint64_t number; /* given by state_put_event */
    int64_t time_ns;
    char severity[8]; /* "info", "warning", "error" */
    char kind[32];    /* "drops-begin", "disk-failed", ... */
    char ring[64];    /* name, may be empty */
    char text[512];   /* one sentence */
};

int state_put_event(struct state *state, struct event *event);
/* Ascending from number `after`, at most `limit`. */
int state_events(struct state *state, uint64_t after, uint32_t limit,
                 int (*each)(const struct event *event, void *context), void *context);

#endif
