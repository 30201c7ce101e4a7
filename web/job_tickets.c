/*
 * job_tickets.c - see job_tickets.h.
 */
#include "job_tickets.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct place {
    bool taken;
    int64_t used_s; /* CLOCK_MONOTONIC */
    uint8_t digest[SECRET_DIGEST_BYTES];
    struct job_ticket ticket;
};

struct job_tickets {
    pthread_mutex_t lock;
    struct place place[JOB_TICKETS_MAX];
};

static int64_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

struct job_tickets *job_tickets_open(void)
{
    struct job_tickets *tickets = calloc(1, sizeof *tickets);
    if (tickets)
        pthread_mutex_init(&tickets->lock, NULL);
    return tickets;
}

void job_tickets_close(struct job_tickets **slot)
{
    if (!*slot)
        return;
    pthread_mutex_destroy(&(*slot)->lock);
    free(*slot);
    *slot = NULL;
}

int job_tickets_add(struct job_tickets *tickets, const struct job_ticket *ticket,
                    char secret[SECRET_TEXT_SIZE], struct failure *failure)
{
    if (secret_make(secret) != 0)
        return fail(failure, ERR_INTERNAL, "the random generator failed");
    pthread_mutex_lock(&tickets->lock);
    struct place *found = &tickets->place[0];
    for (unsigned i = 1; i < JOB_TICKETS_MAX && found->taken; i++)
        if (!tickets->place[i].taken || tickets->place[i].used_s < found->used_s)
            found = &tickets->place[i];
    *found = (struct place){.taken = true, .used_s = now_s(), .ticket = *ticket};
    secret_digest("job-ticket", secret, found->digest);
    pthread_mutex_unlock(&tickets->lock);
    return 0;
}

bool job_tickets_use(struct job_tickets *tickets, const char *secret, struct job_ticket *ticket)
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    bool found = false;
    secret_digest("job-ticket", secret, digest);
    pthread_mutex_lock(&tickets->lock);
    for (unsigned i = 0; i < JOB_TICKETS_MAX && !found; i++) {
        struct place *place = &tickets->place[i];
        if (!place->taken || CRYPTO_memcmp(place->digest, digest, sizeof digest) != 0)
            continue;
        place->taken = found = now_s() - place->used_s <= JOB_TICKET_S;
        place->used_s = now_s();
        *ticket = place->ticket;
    }
    pthread_mutex_unlock(&tickets->lock);
    return found;
}
