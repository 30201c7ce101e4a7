/*
 * extract_main.c - the program tapeloop-extract: one confined process for one job of reading.
 *
 * Started by the recorder with a socket as descriptor 3 (worker.h), perhaps before there is a job (spare_worker.h). It gives up what it can, waits for
 * the job, starts the disks' threads and a thread that ends the process when the recorder goes,
 * gives up the rest, and works.
 *
 * It is here and not in storage/ because filters look at headers: the decoder is rules', which the store may not include.
 */
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "confinement.h"
#include "extraction.h"
#include "header_end.h"
#include "level_list.h"
#include "packet_keys.h"
#include "worker.h"

#define KEPT_BYTES_MAX (32 << 20)

/* A process that waits in a write or for a disk would not notice that nobody wants its work any
 * more. */
static void *watch_recorder(void *unused)
{
    struct pollfd socket = {.fd = WORKER_SOCKET, .events = POLLRDHUP};
    (void)unused;
    for (;;)
        if (poll(&socket, 1, -1) > 0)
            _exit(1);
}

static int start_watch(struct failure *failure)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, watch_recorder, NULL);
    pthread_attr_destroy(&attributes);
    return error ? fail_errno(failure, error, "the reading process cannot start a thread") : 0;
}

int main(void)
{
    struct failure failure = {0};
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(WORKER_SOCKET, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
        type != SOCK_SEQPACKET) {
        fprintf(stderr, "tapeloop-extract is started by tapeloopd, not by hand\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    /* Of each segment's key index a megabyte is decoded, again and again: memory that is given back would come back a page fault at a time. */
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES_MAX);
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX);

    struct extraction *extraction = NULL;
    if (confinement_begin(CONFINEMENT_READING, &failure) != 0) {
        struct worker_done done = {.result = failure.code};
        memcpy(done.text, failure.text, sizeof done.text - 1);
        (void)worker_offer(WORKER_SOCKET, WORKER_DONE, &done, sizeof done);
        _exit(1);
    }
    prctl(PR_SET_NAME, "tapeloop-waits"); /* for people: it may have been started long before there is a job for it */
    if (extraction_open(WORKER_SOCKET, packet_levels, &extraction) != 0)
        _exit(0); /* it has said why */
    prctl(PR_SET_NAME, "tapeloop-extract");
    extraction_set_headers(extraction, packet_headers);
    extraction_set_keys(extraction, packet_keys_of);
    if (start_watch(&failure) != 0 || confinement_finish(CONFINEMENT_READING, &failure) != 0)
        extraction_fail(extraction, &failure);
    else
        (void)extraction_run(extraction);
    /* DONE has been sent. Nothing that a tidy end would do is wanted any more: reads under way end
     * with the process. */
    _exit(0);
}
