/*
 * job_list.h - extractions that run in the recorder's care into files, and the files until somebody
 * has fetched them or their time is over.
 *
 *     job_list_add() -> runs when there is room -> job_list_file() -> expires, or job_list_delete()
 *
 *   state      file     moved on by
 *   WAITING    none     the scheduler's thread: RUNNING; job_list_cancel(): CANCELLED
 *   RUNNING    grows    its runner's thread: DONE, FAILED, CANCELLED, or WAITING where there is no room yet
 *   DONE       whole    -
 *   FAILED     none     -
 *   CANCELLED  none     -
 *
 * A job with a name is a kept range: it differs in its quota (setting keep_bytes, not job_bytes, of its
 * ring) and in that it stays until it is told to go, or until its own time.
 *
 * Rows lie in state.db, files in the folder JOBS_DIRECTORY of the state directory (which may be a link to a folder on
 * another disk), named by number alone. A job that a crash or an end of the recorder has interrupted is FAILED at the next
 * start and its file removed; what is in the folder and no job's result is removed too, if its name is one of ours.
 *
 * Threads: any; one that schedules, and one for each job that runs (JOBS_RUNNING_MAX). Nobody holds `lock` while waiting
 * for a disk.
 */
#ifndef CAPTURE_JOB_LIST_H
#define CAPTURE_JOB_LIST_H

#include "job_row.h"

#define JOBS_MAX 1000u        /* that are known, whatever their state */
#define JOBS_RUNNING_MAX 2u   /* at once; the others wait */
#define JOBS_DIRECTORY "jobs" /* in the state directory, 0700 */

struct job_list;

/* Reads what state.db has of jobs, clears up what was interrupted, starts the scheduler. */
int job_list_open(struct recorder *recorder, struct job_list **result, struct failure *failure);

/* Jobs that run end (the recorder is stopping); joins all threads. A null *slot is allowed. */
void job_list_close(struct job_list **slot);

/* ERR_EXISTS: the name is taken. ERR_TOO_LARGE: JOBS_MAX. ERR_IO ...: it could not be written down. */
int job_list_add(struct job_list *list, const struct job_wish *wish, uint64_t *number,
                 struct failure *failure);

/* The job of that number, or kept under that name. ERR_NOT_FOUND. */
int job_list_find(struct job_list *list, const char *text, uint64_t *number,
                  struct failure *failure);

/* As job.show; the caller owns it. ERR_NOT_FOUND: it has gone. */
int job_list_show(struct job_list *list, uint64_t number, json_t **row, struct failure *failure);

/* All of one ring (null: of all), the oldest first, without their gaps and plans. Null: out of memory. */
json_t *job_list_all(struct job_list *list, const char *ring);

/* Whether it has come to its end, one way or the other; a job that has gone has. */
bool job_list_has_ended(struct job_list *list, uint64_t number);

/*
 * Ends one that waits or runs, and waits for that. `user` (may be null: anybody) must be the job's. ERR_NOT_FOUND;
 * ERR_PERMISSION; ERR_BUSY: it has ended already.
 */
int job_list_cancel(struct job_list *list, uint64_t number, const char *user,
                    struct failure *failure);

/* Removes job and file, after having cancelled it where it was still under way. Errors as above. */
int job_list_delete(struct job_list *list, uint64_t number, const char *user,
                    struct failure *failure);

/*
 * The result: a descriptor that can only read, and the row as job.show, both the caller's. ERR_NOT_FOUND: there is no file
 * (yet). ERR_CORRUPT: it is not as long as it was.
 */
int job_list_file(struct job_list *list, uint64_t number, int *fd, json_t **row,
                  struct failure *failure);

#endif
