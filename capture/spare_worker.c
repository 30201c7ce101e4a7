#include "spare_worker.h"

#include <poll.h>

#include "privileges.h"

static const struct worker none = {.pid = -1, .socket = -1};

void spare_worker_open(struct spare_worker *spare, bool kept)
{
    *spare = (struct spare_worker){.worker = none, .kept = kept};
    for (uint32_t i = 0; i < SPARE_LEAVING_MAX; i++)
        spare->leaving[i] = none;
    pthread_mutex_init(&spare->lock, NULL);
}

int spare_worker_start(const char *path, struct worker *worker, struct failure *failure)
{
    int code = worker_start(path, worker, failure);
    if (code == 0)
        privileges_offer_child(worker->pid);
    return code;
}

/* It says nothing before it has a job, unless it cannot go on. */
static bool waits(const struct worker *worker)
{
    struct pollfd socket = {.fd = worker->socket, .events = POLLIN};
    return poll(&socket, 1, 0) == 0;
}

int spare_worker_take(struct spare_worker *spare, const char *path, struct worker *worker, struct failure *failure)
{
    pthread_mutex_lock(&spare->lock);
    *worker = spare->worker;
    spare->worker = none;
    spare->wanted = true;
    pthread_mutex_unlock(&spare->lock);
    if (worker->socket >= 0 && waits(worker))
        return 0;
    if (worker->socket >= 0)
        worker_stop(worker);
    return spare_worker_start(path, worker, failure);
}

void spare_worker_leave(struct spare_worker *spare, struct worker *worker)
{
    bool kept = false;
    pthread_mutex_lock(&spare->lock);
    for (uint32_t i = 0; i < SPARE_LEAVING_MAX && !kept; i++) {
        kept = spare->leaving[i].socket < 0;
        if (kept)
            spare->leaving[i] = *worker;
    }
    pthread_mutex_unlock(&spare->lock);
    if (!kept)
        worker_stop(worker);
    *worker = none;
}

static void wait_for_leaving(struct spare_worker *spare)
{
    struct worker leaving[SPARE_LEAVING_MAX];
    pthread_mutex_lock(&spare->lock);
    for (uint32_t i = 0; i < SPARE_LEAVING_MAX; i++) {
        leaving[i] = spare->leaving[i];
        spare->leaving[i] = none;
    }
    pthread_mutex_unlock(&spare->lock);
    for (uint32_t i = 0; i < SPARE_LEAVING_MAX; i++)
        if (leaving[i].socket >= 0)
            worker_stop(&leaving[i]);
}

void spare_worker_refill(struct spare_worker *spare, const char *path)
{
    struct failure failure = {0};
    wait_for_leaving(spare);
    pthread_mutex_lock(&spare->lock);
    if (spare->kept && spare->wanted && spare->worker.socket < 0 && spare_worker_start(path, &spare->worker, &failure) != 0)
        spare->worker = none; /* whoever needs one is told why there is none */
    spare->wanted = false;
    pthread_mutex_unlock(&spare->lock);
}

void spare_worker_close(struct spare_worker *spare)
{
    wait_for_leaving(spare);
    if (spare->worker.socket >= 0)
        worker_stop(&spare->worker);
    spare->worker = none;
    pthread_mutex_destroy(&spare->lock);
}
