/*
 * job_tickets.h - tickets for the results of jobs: good for as many downloads as it takes, until
 * nobody has used them for JOB_TICKET_S, so that a download that broke off can be taken up again.
 *
 * In memory. There are JOB_TICKETS_MAX; one more takes the place of the one that was used the
 * longest ago: who had that asks for another. Any thread.
 */
#ifndef WEB_JOB_TICKETS_H
#define WEB_JOB_TICKETS_H

#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "password.h"
#include "web_store.h"

#define JOB_TICKETS_MAX 256u
#define JOB_TICKET_S 600

struct job_tickets;

struct job_ticket {
    int64_t job;                    /* its number */
    char user[USER_NAME_MAX + 1]; /* who asked for it */
};

/* Null: out of memory. */
struct job_tickets *job_tickets_open(void);
void job_tickets_close(struct job_tickets **slot);

/* ERR_INTERNAL: no random bits. */
int job_tickets_add(struct job_tickets *tickets, const struct job_ticket *ticket,
                    char secret[SECRET_TEXT_SIZE], struct failure *failure);

/* Finds the one, and counts it as used now. False: there is none, or none any more. */
bool job_tickets_use(struct job_tickets *tickets, const char *secret, struct job_ticket *ticket);

#endif
