/*
 * disk_uring.c - files and block devices through io_uring, one thread and one ring a disk.
 *
 * The happy path: any thread appends its request to `pending` and, where the disk's thread may be
 * asleep, writes to an eventfd that the ring reads. The thread takes the whole list, joins requests
 * that touch (see below), prepares an operation for each join, submits them all with one system
 * call and, in the same call, waits for the first completion. It hands each completed request back
 * with done() and goes round. The ring's file and the registered buffers are known to the kernel by
 * number, so that a request costs no reference counting and no pinning.
 *
 * The failure modes: a transfer that stops short at a multiple of the alignment is continued; one
 * that does not get on, or stops elsewhere, is ERR_IO. An operation of several requests that fails
 * is taken apart and each of them tried alone, so that only those fail that the disk refuses. EINTR
 * and EAGAIN are tried again. Where the kernel gives no ring (old, or forbidden by seccomp or
 * sysctl), the same thread makes plain system calls, one after the other; disk_uring_obstacle()
 * says why. Where buffers cannot be registered (RLIMIT_MEMLOCK), they are used unregistered.
 *
 * What closing does: the thread ends once nothing is pending or under way. There is no cancelling.
 *
 *   request     kept in                      moved on by
 *   pending     pending, then backlog        any thread -> the disk's thread
 *   under way   an operation in the ring     the kernel
 *   done        its owner's hands            finish()
 *
 * Joining: requests that follow one another on the disk and in the queue become one operation of up
 * to JOIN_BYTES, as one registered stretch where their buffers are neighbours too, else as a
 * vector. It happens only while requests wait, that is when the disk is the bottleneck. The numbers
 * are in README.md, "The seam".
 */
#include "disk_uring.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "buffer_poison.h"

#define OPERATIONS_MAX 128u /* under way at once; what is beyond waits in the backlog */
#define RING_ENTRIES (2 * OPERATIONS_MAX) /* and room for the eventfd's read */
#define JOIN_REQUESTS_MAX 16u
#define JOIN_BYTES (1024u * 1024)
#define TRIES_MAX 1000u           /* of an operation that gets EINTR or EAGAIN */
#define AREA_BYTES_MAX (1u << 30) /* of one registered buffer: the kernel's limit */
#define READ_PRIORITY \
    ((2 << 13) | 7) /* best effort, lowest (ioprio.h): readers yield to the recorder (P7) */

enum request_state { /* in body[3] */
                     REQUEST_SUBMITTED = 1,
                     REQUEST_DONE = 2,
};

/* body[0]: byte offset on the disk; body[1]: flags; body[2]: disk_check's answer */
#define REQUEST_ALONE 1u /* not to be joined again: it was part of an operation that failed */

struct operation {
    struct operation *next_spare;
    struct disk_request *first; /* linked by `next` */
    uint64_t offset;
    uint32_t bytes;
    uint32_t transferred;
    uint32_t tries;
    uint32_t count; /* requests */
    enum disk_op op;
    bool contiguous; /* in memory: `memory`; else `vector` */
    int32_t area;    /* registered, for a contiguous one; or -1 */
    uint8_t *memory;
    struct iovec vector[JOIN_REQUESTS_MAX];
    uint32_t vector_first; /* elements before this one are transferred */
};

struct registration {
    uint8_t *base;
    uint64_t buffer_bytes;
    uint32_t count;
    int result;
    bool finished;
};

struct disk_uring {
    struct disk head; /* first: the seam's pointer is ours */
    int fd;
    bool locked;
    uint32_t alignment;
    pthread_t thread;

    pthread_mutex_t lock; /* of this paragraph */
    pthread_cond_t changed;
    struct disk_request *pending, **pending_end;
    struct disk_request *completing; /* its done() is running */
    struct registration *registration;
    uint32_t waiters;
    bool asleep; /* or about to be: wake it after appending */
    bool closing;
    bool started;

    int wake_fd;

    /* The thread's own. */
    struct io_uring ring;
    bool has_ring;
    uint64_t wake_count;
    bool wake_armed;
    struct disk_request *backlog, **backlog_end;
    struct operation *spare;
    uint32_t under_way;
    uint8_t *area_base;
    uint64_t area_bytes;  /* of all areas; 0: none registered */
    uint64_t area_stride; /* bytes of each area but the last */
    struct operation operations[OPERATIONS_MAX];
};

static atomic_int obstacle; /* errno of the last ring that could not be had, 0 if all could */

const char *disk_uring_obstacle(void)
{
    int number = atomic_load(&obstacle);
    return number == 0 ? NULL : strerrordesc_np(number);
}

static struct disk_uring *uring_of(struct disk *disk)
{
    return (struct disk_uring *)disk;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A disk fails in two ways: it is full, or it is broken. */
static int result_of_errno(int number)
{
    return error_from_errno(number) == ERR_NO_SPACE ? ERR_NO_SPACE : ERR_IO;
}

/* ---- any thread
 * ---------------------------------------------------------------------------------- */

static void wake(struct disk_uring *disk)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(disk->wake_fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
}

static void uring_submit(struct disk *head, struct disk_request *request)
{
    struct disk_uring *disk = uring_of(head);
    uint64_t offset;
    request->body[2] = (uint64_t)(int64_t)disk_check(head, request, &offset);
    request->body[0] = offset;
    request->body[1] = 0;
    request->next = NULL;
    request->submitted_ns = now_ns();
    if (request->op == DISK_READ && request->body[2] == 0)
        buffer_poison(request->buffer, request->bytes);

    pthread_mutex_lock(&disk->lock);
    assert(!disk->closing);
    request->body[3] = REQUEST_SUBMITTED;
    *disk->pending_end = request;
    disk->pending_end = &request->next;
    bool asleep = disk->asleep;
    disk->asleep = false;
    pthread_mutex_unlock(&disk->lock);
    if (asleep)
        wake(disk);
}

static void uring_wait(struct disk *head, struct disk_request *request)
{
    struct disk_uring *disk = uring_of(head);
    assert(
        !pthread_equal(pthread_self(), disk->thread)); /* inside done() it would wait for itself */
    pthread_mutex_lock(&disk->lock);
    disk->waiters++;
    while (request->body[3] == REQUEST_SUBMITTED || disk->completing == request)
        pthread_cond_wait(&disk->changed, &disk->lock);
    disk->waiters--;
    pthread_mutex_unlock(&disk->lock);
}

static int uring_register(struct disk *head, uint8_t *base, uint64_t buffer_bytes, uint32_t count)
{
    struct disk_uring *disk = uring_of(head);
    if (count == 0 || buffer_bytes == 0 || buffer_bytes % PAGE_BYTES != 0 ||
        (uintptr_t)base % PAGE_BYTES != 0 || buffer_bytes > AREA_BYTES_MAX)
        return ERR_INVALID;
    struct registration registration = {.base = base, .buffer_bytes = buffer_bytes, .count = count};
    pthread_mutex_lock(&disk->lock);
    while (disk->registration != NULL)
        pthread_cond_wait(&disk->changed, &disk->lock);
    disk->registration = &registration;
    disk->asleep = false;
    disk->waiters++;
    wake(disk);
    while (!registration.finished)
        pthread_cond_wait(&disk->changed, &disk->lock);
    disk->waiters--;
    pthread_mutex_unlock(&disk->lock);
    return registration.result;
}

static void uring_free(struct disk_uring *disk)
{
    /* The ring's own reference to the file goes when the kernel gets to it; flock must not wait for
     * that. */
    if (disk->locked)
        flock(disk->fd, LOCK_UN);
    close(disk->fd);
    if (disk->wake_fd >= 0)
        close(disk->wake_fd);
    pthread_cond_destroy(&disk->changed);
    pthread_mutex_destroy(&disk->lock);
    free(disk);
}

static void uring_close(struct disk *head)
{
    struct disk_uring *disk = uring_of(head);
    pthread_mutex_lock(&disk->lock);
    disk->closing = true;
    pthread_mutex_unlock(&disk->lock);
    wake(disk);
    pthread_join(disk->thread, NULL);
    uring_free(disk);
}

/* ---- the disk's thread: giving requests back
 * ------------------------------------------------------ */

static void finish(struct disk_uring *disk, struct disk_request *request, int result)
{
    if (request->op == DISK_READ && request->body[2] == 0)
        buffer_unpoison(request->buffer, request->bytes);
    pthread_mutex_lock(&disk->lock);
    request->result = result;
    request->next = NULL;
    request->body[3] = REQUEST_DONE;
    disk->completing = request;
    pthread_mutex_unlock(&disk->lock);
    request->done(request); /* from here on it may be gone */
    pthread_mutex_lock(&disk->lock);
    disk->completing = NULL;
    bool tell = disk->waiters > 0;
    pthread_mutex_unlock(&disk->lock);
    if (tell)
        pthread_cond_broadcast(&disk->changed);
}

/* Takes what is pending into the backlog. Returns false when the disk is closing and nothing is
 * left. */
static bool take_pending(struct disk_uring *disk)
{
    pthread_mutex_lock(&disk->lock);
    if (disk->pending != NULL) {
        *disk->backlog_end = disk->pending;
        disk->backlog_end = disk->pending_end;
        disk->pending = NULL;
        disk->pending_end = &disk->pending;
    }
    disk->asleep = true; /* until somebody wakes it: there may be nothing to do but to wait */
    bool more = !disk->closing || disk->backlog != NULL || disk->under_way > 0 ||
                disk->registration != NULL;
    pthread_mutex_unlock(&disk->lock);
    return more;
}

static struct disk_request *backlog_pop(struct disk_uring *disk)
{
    struct disk_request *request = disk->backlog;
    disk->backlog = request->next;
    if (disk->backlog == NULL)
        disk->backlog_end = &disk->backlog;
    request->next = NULL;
    return request;
}

static void backlog_push_front(struct disk_uring *disk, struct disk_request *request)
{
    request->next = disk->backlog;
    if (disk->backlog == NULL)
        disk->backlog_end = &request->next;
    disk->backlog = request;
}

/* Requests that disk_check refused go back from here, so that done() comes from the disk's thread
 * only. */
static bool is_refused(struct disk_uring *disk, struct disk_request *request)
{
    int refused = (int)(int64_t)request->body[2];
    if (refused == 0)
        return false;
    finish(disk, request, refused);
    return true;
}

/* ---- the disk's thread: operations
 * ----------------------------------------------------------------- */

/* The number of the registered area that holds all of it, or -1. */
static int32_t area_of(const struct disk_uring *disk, const uint8_t *memory, uint64_t bytes)
{
    if (disk->area_bytes == 0 || memory < disk->area_base ||
        memory + bytes > disk->area_base + disk->area_bytes)
        return -1;
    uint64_t from = (uint64_t)(memory - disk->area_base);
    uint64_t area = from / disk->area_stride;
    return (from + bytes - 1) / disk->area_stride == area ? (int32_t)area : -1;
}

static void operation_start(struct disk_uring *disk, struct operation *operation,
                            struct disk_request *request)
{
    operation->first = request;
    operation->offset = request->body[0];
    operation->bytes = request->op == DISK_FLUSH ? 0 : request->bytes;
    operation->transferred = 0;
    operation->tries = 0;
    operation->count = 1;
    operation->op = request->op;
    operation->contiguous = true;
    operation->memory = request->buffer;
    operation->vector_first = 0;
    operation->area = -1;
    if (request->buffer_index >= 0 && request->op != DISK_FLUSH)
        operation->area = area_of(disk, request->buffer, request->bytes);
}

/* Adds the request at the head of the backlog to the operation if it follows on it. */
static bool operation_join(struct disk_uring *disk, struct operation *operation,
                           struct disk_request *last)
{
    struct disk_request *next = disk->backlog;
    if (next == NULL || operation->op == DISK_FLUSH || next->op != operation->op ||
        next->body[2] != 0 || ((next->body[1] | last->body[1]) & REQUEST_ALONE) != 0 ||
        operation->count == JOIN_REQUESTS_MAX ||
        operation->offset + operation->bytes != next->body[0] ||
        operation->bytes + next->bytes > JOIN_BYTES)
        return false;
    bool neighbours = operation->contiguous && operation->memory + operation->bytes == next->buffer;
    if (neighbours && operation->area >= 0 && next->buffer_index >= 0)
        operation->area = area_of(disk, operation->memory, operation->bytes + next->bytes);
    else
        operation->area = -1;
    operation->contiguous = neighbours;
    backlog_pop(disk);
    last->next = next;
    operation->bytes += next->bytes;
    operation->count++;
    return true;
}

static void operation_fill_vector(struct operation *operation)
{
    struct iovec *element = operation->vector;
    for (const struct disk_request *at = operation->first; at != NULL; at = at->next)
        *element++ = (struct iovec){.iov_base = at->buffer, .iov_len = at->bytes};
}

static struct io_uring_sqe *next_sqe(struct disk_uring *disk)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);
    assert(sqe != NULL); /* there are more than operations and the wake-up together */
    return sqe;
}

static void operation_issue(struct disk_uring *disk, struct operation *operation)
{
    struct io_uring_sqe *sqe = next_sqe(disk);
    bool writes = operation->op == DISK_WRITE;
    uint32_t left = operation->bytes - operation->transferred;
    uint64_t offset = operation->offset + operation->transferred;
    if (operation->op == DISK_FLUSH) {
        io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
    } else if (!operation->contiguous) {
        const struct iovec *vector = operation->vector + operation->vector_first;
        unsigned count = operation->count - operation->vector_first;
        if (writes)
            io_uring_prep_writev(sqe, 0, vector, count, offset);
        else
            io_uring_prep_readv(sqe, 0, vector, count, offset);
    } else {
        uint8_t *memory = operation->memory + operation->transferred;
        if (operation->area >= 0 && writes)
            io_uring_prep_write_fixed(sqe, 0, memory, left, offset, operation->area);
        else if (operation->area >= 0)
            io_uring_prep_read_fixed(sqe, 0, memory, left, offset, operation->area);
        else if (writes)
            io_uring_prep_write(sqe, 0, memory, left, offset);
        else
            io_uring_prep_read(sqe, 0, memory, left, offset);
    }
    if (operation->op == DISK_READ && disk->head.read_only)
        sqe->ioprio = READ_PRIORITY;
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, operation);
}

static void operation_free(struct disk_uring *disk, struct operation *operation)
{
    operation->next_spare = disk->spare;
    disk->spare = operation;
    disk->under_way--;
}

static void operation_finish(struct disk_uring *disk, struct operation *operation, int result)
{
    struct disk_request *request = operation->first;
    operation_free(disk, operation);
    while (request != NULL) {
        struct disk_request *next = request->next;
        finish(disk, request, result);
        request = next;
    }
}

/* An operation of several requests failed: each of them again, alone. */
static void operation_take_apart(struct disk_uring *disk, struct operation *operation)
{
    struct disk_request *request = operation->first, *reversed = NULL;
    operation_free(disk, operation);
    while (request != NULL) {
        struct disk_request *next = request->next;
        request->body[1] |= REQUEST_ALONE;
        request->next = reversed;
        reversed = request;
        request = next;
    }
    while (reversed != NULL) {
        struct disk_request *next = reversed->next;
        backlog_push_front(disk, reversed);
        reversed = next;
    }
}

static void operation_fail(struct disk_uring *disk, struct operation *operation, int result)
{
    if (operation->count > 1)
        operation_take_apart(disk, operation);
    else
        operation_finish(disk, operation, result);
}

/* Steps over `bytes` more of a vector. */
static void operation_advance(struct operation *operation, uint32_t bytes)
{
    operation->transferred += bytes;
    if (operation->contiguous)
        return;
    while (bytes > 0) {
        struct iovec *element = &operation->vector[operation->vector_first];
        if (bytes < element->iov_len) {
            element->iov_base = (uint8_t *)element->iov_base + bytes;
            element->iov_len -= bytes;
            return;
        }
        bytes -= (uint32_t)element->iov_len;
        operation->vector_first++;
    }
}

static void operation_completed(struct disk_uring *disk, struct operation *operation,
                                int32_t answer)
{
    if (answer == -EINTR || answer == -EAGAIN) {
        if (++operation->tries < TRIES_MAX)
            operation_issue(disk, operation);
        else
            operation_fail(disk, operation, ERR_IO);
        return;
    }
    if (answer < 0) {
        operation_fail(disk, operation, result_of_errno(-answer));
        return;
    }
    if (operation->op == DISK_FLUSH) {
        operation_finish(disk, operation, 0);
        return;
    }
    uint32_t left = operation->bytes - operation->transferred;
    if ((uint32_t)answer == left) {
        operation_finish(disk, operation, 0);
    } else if (answer > 0 && (uint32_t)answer < left && (uint32_t)answer % disk->alignment == 0) {
        operation_advance(operation, (uint32_t)answer);
        operation_issue(disk, operation);
    } else {
        operation_fail(disk, operation, ERR_IO);
    }
}

/* ---- the disk's thread: its ring
 * --------------------------------------------------------------------- */

static void ring_wake_arm(struct disk_uring *disk)
{
    struct io_uring_sqe *sqe = next_sqe(disk);
    io_uring_prep_read(sqe, disk->wake_fd, &disk->wake_count, sizeof disk->wake_count, 0);
    io_uring_sqe_set_data(sqe, NULL);
    disk->wake_armed = true;
}

static void ring_issue_backlog(struct disk_uring *disk)
{
    while (disk->backlog != NULL && disk->spare != NULL) {
        struct disk_request *request = backlog_pop(disk);
        if (is_refused(disk, request))
            continue;
        struct operation *operation = disk->spare;
        disk->spare = operation->next_spare;
        disk->under_way++;
        operation_start(disk, operation, request);
        struct disk_request *last = request;
        while (operation_join(disk, operation, last))
            last = last->next;
        if (!operation->contiguous)
            operation_fill_vector(operation);
        operation_issue(disk, operation);
    }
}

static void ring_reap(struct disk_uring *disk)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&disk->ring, &cqe) == 0) {
        struct operation *operation = io_uring_cqe_get_data(cqe);
        int32_t answer = cqe->res;
        io_uring_cqe_seen(&disk->ring, cqe);
        if (operation != NULL)
            operation_completed(disk, operation, answer);
        else
            disk->wake_armed = false;
    }
}

static int ring_register_areas(struct disk_uring *disk, const struct registration *registration)
{
    if (disk->area_bytes != 0)
        return ERR_EXISTS;
    /* Few large areas rather than one a buffer, so that neighbouring buffers can be joined. */
    uint64_t per_area = AREA_BYTES_MAX / registration->buffer_bytes;
    uint64_t stride = per_area * registration->buffer_bytes;
    uint64_t bytes = registration->count * registration->buffer_bytes;
    uint64_t areas = (bytes + stride - 1) / stride;
    struct iovec *vector = calloc(areas, sizeof *vector);
    if (vector == NULL)
        return ERR_NO_MEMORY;
    for (uint64_t i = 0; i < areas; i++) {
        vector[i].iov_base = registration->base + i * stride;
        vector[i].iov_len = i + 1 < areas ? stride : bytes - i * stride;
    }
    int answer = io_uring_register_buffers(&disk->ring, vector, (unsigned)areas);
    free(vector);
    if (answer == 0) { /* else: more than RLIMIT_MEMLOCK allows; it works without */
        disk->area_base = registration->base;
        disk->area_bytes = bytes;
        disk->area_stride = stride;
    }
    return 0;
}

static void serve_registration(struct disk_uring *disk)
{
    pthread_mutex_lock(&disk->lock);
    struct registration *registration = disk->registration;
    pthread_mutex_unlock(&disk->lock);
    if (registration == NULL)
        return;
    int result = disk->has_ring ? ring_register_areas(disk, registration) : 0;
    pthread_mutex_lock(&disk->lock);
    registration->result = result;
    registration->finished = true;
    disk->registration = NULL;
    pthread_mutex_unlock(&disk->lock);
    pthread_cond_broadcast(&disk->changed);
}

static void ring_serve(struct disk_uring *disk)
{
    while (take_pending(disk)) {
        serve_registration(disk);
        if (!disk->wake_armed)
            ring_wake_arm(disk);
        ring_issue_backlog(disk);
        int answer = io_uring_submit_and_wait(&disk->ring, 1);
        /* Nothing else can be wrong with a ring of our own than that there was no memory for once.
         */
        assert(answer >= 0 || answer == -EINTR || answer == -EAGAIN || answer == -EBUSY ||
               answer == -ENOMEM);
        ring_reap(disk);
    }
    io_uring_unregister_files(
        &disk->ring); /* an exclusive open of the device must not linger in the ring */
    io_uring_queue_exit(&disk->ring);
}

static int ring_open(struct disk_uring *disk)
{
    static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                                     IORING_SETUP_COOP_TASKRUN, 0};
    int answer = -EINVAL;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0] && answer == -EINVAL; i++)
        answer = io_uring_queue_init(RING_ENTRIES, &disk->ring, flags[i]);
    if (answer != 0)
        return answer;
    answer = io_uring_register_files(&disk->ring, &disk->fd, 1);
    if (answer != 0)
        io_uring_queue_exit(&disk->ring);
    return answer;
}

/* ---- the disk's thread: without a ring
 * ------------------------------------------------------------------ */

static int transfer_plainly(struct disk_uring *disk, struct disk_request *request)
{
    uint32_t transferred = 0, tries = 0;
    if (request->op == DISK_READ)
        buffer_unpoison(request->buffer, request->bytes); /* the sanitizer watches pread(2) */
    while (transferred < request->bytes) {
        uint8_t *memory = request->buffer + transferred;
        uint32_t left = request->bytes - transferred;
        off_t offset = (off_t)(request->body[0] + transferred);
        ssize_t answer = request->op == DISK_WRITE ? pwrite(disk->fd, memory, left, offset)
                                                   : pread(disk->fd, memory, left, offset);
        if (answer < 0 && (errno == EINTR || errno == EAGAIN) && ++tries < TRIES_MAX)
            continue;
        if (answer < 0)
            return result_of_errno(errno);
        transferred += (uint32_t)answer;
        if (answer == 0 ||
            (transferred < request->bytes && (uint32_t)answer % disk->alignment != 0))
            return ERR_IO;
    }
    return 0;
}

static int flush_plainly(struct disk_uring *disk)
{
    uint32_t tries = 0;
    while (fdatasync(disk->fd) != 0) {
        if (errno != EINTR || ++tries == TRIES_MAX)
            return result_of_errno(errno);
    }
    return 0;
}

static void serve_plainly(struct disk_uring *disk)
{
    while (take_pending(disk)) {
        serve_registration(disk);
        if (disk->backlog == NULL) {
            uint64_t count;
            ssize_t ignored = read(disk->wake_fd, &count, sizeof count);
            (void)ignored;
        }
        while (disk->backlog != NULL) {
            struct disk_request *request = backlog_pop(disk);
            if (is_refused(disk, request))
                continue;
            finish(disk, request,
                   request->op == DISK_FLUSH ? flush_plainly(disk)
                                             : transfer_plainly(disk, request));
        }
    }
}

static void *serve(void *argument)
{
    struct disk_uring *disk = argument;
    int answer = ring_open(disk); /* here: the ring belongs to the thread that made it */
    disk->has_ring = answer == 0;
    if (answer != 0)
        atomic_store(&obstacle, -answer);
    pthread_mutex_lock(&disk->lock);
    disk->started = true;
    pthread_mutex_unlock(&disk->lock);
    pthread_cond_broadcast(&disk->changed);
    if (disk->has_ring)
        ring_serve(disk);
    else
        serve_plainly(disk);
    return NULL;
}

/* ---- starting
 * ------------------------------------------------------------------------------------------ */

static const struct disk_ops uring_ops = {
    .name = "io_uring",
    .submit = uring_submit,
    .wait = uring_wait,
    .register_buffers = uring_register,
    .close = uring_close,
};

static const struct disk_ops plain_ops = {
    .name = "plain",
    .submit = uring_submit,
    .wait = uring_wait,
    .register_buffers = uring_register,
    .close = uring_close,
};

static int start_thread(struct disk_uring *disk)
{
    /* Signals are for the program's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int answer = pthread_create(&disk->thread, NULL, serve, disk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (answer == 0)
        pthread_setname_np(disk->thread, "tapeloop-disk");
    return answer;
}

int disk_uring_start(const struct disk_source *source, struct disk **out, struct failure *failure)
{
    *out = NULL;
    struct disk_uring *disk = calloc(1, sizeof *disk);
    if (disk == NULL) {
        close(source->fd);
        return fail(failure, ERR_NO_MEMORY, "%s: no memory", source->name);
    }
    disk->head.ops = &uring_ops;
    disk->head.bytes = source->bytes;
    disk->head.alignment = source->alignment;
    disk->head.read_only = source->read_only;
    snprintf(disk->head.name, sizeof disk->head.name, "%s", source->name);
    disk->fd = source->fd;
    disk->locked = source->locked;
    disk->alignment = source->alignment;
    disk->pending_end = &disk->pending;
    disk->backlog_end = &disk->backlog;
    pthread_mutex_init(&disk->lock, NULL);
    pthread_cond_init(&disk->changed, NULL);
    for (uint32_t i = 0; i < OPERATIONS_MAX; i++) {
        disk->operations[i].next_spare = disk->spare;
        disk->spare = &disk->operations[i];
    }
    disk->wake_fd = eventfd(0, EFD_CLOEXEC);
    int answer = disk->wake_fd < 0 ? errno : start_thread(disk);
    if (answer != 0) {
        uring_free(disk);
        return fail_errno(failure, answer, "%s: the disk's thread cannot be started", source->name);
    }
    pthread_mutex_lock(&disk->lock);
    while (!disk->started)
        pthread_cond_wait(&disk->changed, &disk->lock);
    pthread_mutex_unlock(&disk->lock);
    if (!disk->has_ring)
        disk->head.ops = &plain_ops;
    *out = &disk->head;
    return 0;
}
