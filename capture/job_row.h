/*
 * job_row.h - one extraction job as it is kept in state.db and shown: a JSON object (the members are
 * those of job.show in schema/PROTOCOL.md), and what is decided from it alone.
 *
 * Nothing here locks, waits or touches a file.
 */
#ifndef CAPTURE_JOB_ROW_H
#define CAPTURE_JOB_ROW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "identity.h"
#include "reading.h"

enum job_state {
    JOB_WAITING,   /* for one that runs to end, or for room */
    JOB_RUNNING,   /* a worker writes its file */
    JOB_DONE,      /* the file is whole and durable */
    JOB_FAILED,    /* there is no file; `error` says why */
    JOB_CANCELLED, /* there is no file: somebody wanted it so */
    JOB_STATES
};

/* "waiting" ... Static memory. */
const char *job_state_word(enum job_state state);

#define JOB_GAPS_KEPT 100u /* in the row; all of them are counted, and in the comments of a pcapng file */
#define JOB_FILE_NAME_SIZE 48

/* What a new job is: the texts are the caller's. */
struct job_wish {
    const struct reading_options *options;
    const char *ring;
    struct identity ring_id;
    const char *name; /* null: no kept range, but a result that is fetched soon */
    const char *user; /* for whom, "" where nobody was named */
    const char *actor; /* as in the audit log */
    int64_t created_ns, expires_ns;
    bool expires; /* else at some time after it has ended, or, with a name, never */
};

/* A row in state "waiting". Null: out of memory. The caller owns it. */
json_t *job_row_make(uint64_t number, const struct job_wish *wish);

/* What the recorder itself needs of a row that comes from state.db. */
struct job_facts {
    uint64_t number;
    enum job_state state;
    struct identity ring;
    bool kept; /* it has a name */
    uint64_t file_bytes;
    int64_t expires_ns; /* INT64_MAX: never */
};

/* Gives a row that an earlier version wrote the members that it knew nothing of. False: out of memory. */
bool job_row_complete(json_t *row);

/* False: it is none that this version has written, or has completed. */
bool job_row_read(const json_t *row, struct job_facts *facts);

/* Options to run it by; the texts are the row's. False as above. */
bool job_row_options(const json_t *row, struct reading_options *options);

/* A name of a kept range: as one of a ring, and no number, which is how jobs are called. ERR_INVALID. */
int job_name_check(const char *name, struct failure *failure);

/* "job-17.pcapng": made of number and format alone. */
void job_file_name(const json_t *row, char text[JOB_FILE_NAME_SIZE]);

/* Whether a file in the directory of jobs is of our making, and the number in its name. */
bool job_file_number(const char *name, uint64_t *number);

/* Which share of the time from lo to hi is behind `at`: 0 to 1. */
double job_share(int64_t lo_ns, int64_t hi_ns, int64_t at_ns);

/* Whether a setting of a ring is about its jobs: each reads it anew, so it is in force at once. */
bool job_has_setting(const char *name);

struct job_room {
    uint64_t quota_bytes;    /* of its store */
    uint64_t taken_bytes;    /* in it: by files, and set aside for jobs that run */
    uint64_t disk_bytes;     /* free for results, without what is set aside and not yet written */
};

/*
 * How many bytes a job may write: no more than it needs, than is left of the quota, than the disk has. *limit is why it gets
 * less than `need` ("quota" or "disk"), or null.
 */
uint64_t job_allowance(const struct job_room *room, uint64_t need_bytes, const char **limit);

#endif
