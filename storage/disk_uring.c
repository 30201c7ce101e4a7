/*
 * disk_uring.c - files and block devices through io_uring, one thread and one ring a disk.
 *
 * The happy path: any thread appends its request to `pending` and, where the disk's thread may be
 * asleep, writes to an eventfd that the ring reads. The thread takes the whole list, prepares an
 * operation for each request, submits them all with one system call (reads 256 KiB at a time) and, in the same call, waits
 * for the first completion (of reads: when there is none yet). It hands each completed request back with done() - telling whether another
 * of its kind follows at once, so that the owner wakes once for them all - and goes round. The
 * ring's file and the registered buffers are known to the kernel by number, so that a request costs
 * no reference counting and no pinning.
 *
 * The failure modes: a transfer that stops short at a multiple of the alignment is continued; one
 * that does not get on, or stops elsewhere, is ERR_IO. EINTR and EAGAIN are tried again. Where the
 * kernel gives no ring (old, or forbidden by seccomp or sysctl), the same thread makes plain system
 * calls, one after the other; disk_uring_obstacle() says why. Where buffers cannot be registered
 * (RLIMIT_MEMLOCK), they are used unregistered.
 *
 * What closing does: the thread ends once nothing is pending or under way. There is no cancelling.
 *
 *   request     kept in                      moved on by
 *   pending     pending, then backlog        any thread -> the disk's thread
 *   under way   an operation in the ring     the kernel
 *   done        its owner's hands            finish()
 *
 * Requests that follow one another on the disk are not joined into larger ones: 256 KiB at a depth
 * of 8 to 32 were as fast as 1 MiB at 8, and as fio at either, on tmpfs and on a virtual disk.
 * The block layer joins what one system call submits.
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
#include "clock.h"

/*
 * liburing unmaps and maps rings by system calls of its own, which the thread sanitizer does not see: to it, a new ring
 * where an old one was is a race with the old one's thread. So it is told that the end of one comes before the next.
 */
#if defined(__SANITIZE_THREAD__)
#define SEES_THREADS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SEES_THREADS 1
#endif
#endif
#ifdef SEES_THREADS
extern void __tsan_acquire(void *address);
extern void __tsan_release(void *address);
static char ring_memory;
#define RING_MEMORY_TAKEN() __tsan_acquire(&ring_memory)
#define RING_MEMORY_GIVEN() __tsan_release(&ring_memory)
#else
#define RING_MEMORY_TAKEN() ((void)0)
#define RING_MEMORY_GIVEN() ((void)0)
#endif

#define OPERATIONS_MAX 128u /* under way at once; what is beyond waits in the backlog */
#define RING_ENTRIES (2 * OPERATIONS_MAX) /* and room for the eventfd's read */
#define READ_AT_ONCE_BYTES (256u * 1024)  /* given to the kernel at once */
#define TRIES_MAX 1000u                   /* of an operation that gets EINTR or EAGAIN */
/* Best effort, lowest (ioprio.h): readers yield to the recorder (P7). */
#define READ_PRIORITY ((2 << 13) | 7)

/* Of a request, body[0] is the byte offset on the disk, body[2] disk_check's answer, and body[3]:
 */
enum request_state {
    REQUEST_SUBMITTED = 1,
    REQUEST_DONE = 2,
};

struct operation {
    struct operation *next_spare;
    struct disk_request *request;
    uint32_t transferred;
    uint32_t tries;
    bool registered; /* the memory, as buffer request->buffer_index */
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
    struct disk_request *awaited; /* by the only waiter; null: there are several, or it waits for something else */
    bool tell; /* the disk's thread's: somebody waits, and what they wait for may have completed since they were last woken */
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
    struct disk_request *held; /* answered, and given back with the next one or at the end of a look at the ring */
    int held_result;
    uint8_t *buffers; /* the registered ones, back to back; null: none */
    uint64_t buffer_bytes;
    uint32_t buffer_count;
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

/* A disk fails in two ways: it is full, or it is broken. */
static int result_of_errno(int number)
{
    return error_from_errno(number) == ERR_NO_SPACE ? ERR_NO_SPACE : ERR_IO;
}

/* ---- any thread ------------------------------------------------------------------------------ */

static void wake(struct disk_uring *disk)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(disk->wake_fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
}

static void uring_submit_all(struct disk *head, struct disk_request *request, uint32_t count)
{
    struct disk_uring *disk = uring_of(head);
    const uint64_t now_ns = clock_monotonic_ns();
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset;
        request[i].body[2] = (uint64_t)(int64_t)disk_check(head, &request[i], &offset);
        request[i].body[0] = offset;
        request[i].next = i + 1 < count ? &request[i + 1] : NULL;
        request[i].submitted_ns = now_ns;
        if (request[i].op == DISK_READ && request[i].body[2] == 0)
            buffer_poison(request[i].buffer, request[i].bytes);
        request[i].body[3] = REQUEST_SUBMITTED;
    }
    if (count == 0)
        return;
    pthread_mutex_lock(&disk->lock);
    assert(!disk->closing);
    *disk->pending_end = request;
    disk->pending_end = &request[count - 1].next;
    bool asleep = disk->asleep;
    disk->asleep = false;
    pthread_mutex_unlock(&disk->lock);
    if (asleep)
        wake(disk);
}

static void uring_submit(struct disk *head, struct disk_request *request)
{
    uring_submit_all(head, request, 1);
}

static void uring_wait(struct disk *head, struct disk_request *request)
{
    struct disk_uring *disk = uring_of(head);
    assert(
        !pthread_equal(pthread_self(), disk->thread)); /* inside done() it would wait for itself */
    pthread_mutex_lock(&disk->lock);
    disk->awaited = disk->waiters++ == 0 ? request : NULL;
    while (request->body[3] == REQUEST_SUBMITTED || disk->completing == request)
        pthread_cond_wait(&disk->changed, &disk->lock);
    disk->awaited = NULL;
    disk->waiters--;
    pthread_mutex_unlock(&disk->lock);
}

static bool uring_wait_for(struct disk *head, struct disk_request *request, unsigned limit_ms)
{
    struct disk_uring *disk = uring_of(head);
    struct timespec until;
    assert(!pthread_equal(pthread_self(), disk->thread));
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(limit_ms % 1000) * 1000000;
    until.tv_sec += (time_t)(limit_ms / 1000) + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int waited = limit_ms > 0 ? 0 : ETIMEDOUT;
    pthread_mutex_lock(&disk->lock);
    disk->awaited = disk->waiters++ == 0 ? request : NULL;
    bool done;
    while (!(done = request->body[3] != REQUEST_SUBMITTED && disk->completing != request) && waited == 0)
        waited = pthread_cond_timedwait(&disk->changed, &disk->lock, &until);
    disk->awaited = NULL;
    disk->waiters--;
    pthread_mutex_unlock(&disk->lock);
    return done;
}

static int uring_register(struct disk *head, uint8_t *base, uint64_t buffer_bytes, uint32_t count)
{
    struct disk_uring *disk = uring_of(head);
    if (count == 0 || buffer_bytes == 0 || buffer_bytes % PAGE_BYTES != 0 ||
        (uintptr_t)base % PAGE_BYTES != 0)
        return ERR_INVALID;
    struct registration registration = {.base = base, .buffer_bytes = buffer_bytes, .count = count};
    pthread_mutex_lock(&disk->lock);
    while (disk->registration != NULL)
        pthread_cond_wait(&disk->changed, &disk->lock);
    disk->registration = &registration;
    disk->asleep = false;
    disk->waiters++;
    disk->awaited = NULL;
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

/* ---- the disk's thread: giving requests back ------------------------------------------------- */

static void finish(struct disk_uring *disk, struct disk_request *request, int result, bool more)
{
    if (request->op == DISK_READ && request->body[2] == 0)
        buffer_unpoison(request->buffer, request->bytes);
    pthread_mutex_lock(&disk->lock);
    request->result = result;
    request->more = more;
    request->next = NULL;
    request->body[3] = REQUEST_DONE;
    disk->completing = request;
    pthread_mutex_unlock(&disk->lock);
    request->done(request); /* from here on it may be gone */
    pthread_mutex_lock(&disk->lock);
    disk->completing = NULL;
    disk->tell |= disk->waiters > 0 && (disk->awaited == NULL || disk->awaited == request);
    pthread_mutex_unlock(&disk->lock);
}

/* After what has completed together, before anything is waited for: who waits for several is not woken for each. */
static void tell_waiters(struct disk_uring *disk)
{
    if (disk->tell)
        pthread_cond_broadcast(&disk->changed);
    disk->tell = false;
}

/* Takes what is pending into the backlog. Returns false when the disk is closing and nothing is
 * left. `may_sleep`: where there is nothing to do, the thread will wait. */
static bool take_pending(struct disk_uring *disk, bool may_sleep)
{
    pthread_mutex_lock(&disk->lock);
    if (disk->pending != NULL) {
        *disk->backlog_end = disk->pending;
        disk->backlog_end = disk->pending_end;
        disk->pending = NULL;
        disk->pending_end = &disk->pending;
    }
    disk->asleep = may_sleep; /* until somebody wakes it */
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

/* Requests that disk_check refused go back from here, so that done() comes from the disk's thread
 * only. */
static bool is_refused(struct disk_uring *disk, struct disk_request *request)
{
    int refused = (int)(int64_t)request->body[2];
    if (refused == 0)
        return false;
    finish(disk, request, refused, false);
    return true;
}

/* ---- the disk's thread: operations ----------------------------------------------------------- */

/* Does the request's memory lie in the registered buffer that it names? */
static bool is_registered(const struct disk_uring *disk, const struct disk_request *request)
{
    if (disk->buffers == NULL || request->buffer_index < 0 || request->op == DISK_FLUSH ||
        (uint32_t)request->buffer_index >= disk->buffer_count)
        return false;
    const uint8_t *buffer = disk->buffers + (uint32_t)request->buffer_index * disk->buffer_bytes;
    return request->buffer >= buffer &&
           request->buffer + request->bytes <= buffer + disk->buffer_bytes;
}

static struct io_uring_sqe *next_sqe(struct disk_uring *disk)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);
    assert(sqe != NULL); /* there are more than operations and the wake-up together */
    return sqe;
}

static void operation_issue(struct disk_uring *disk, struct operation *operation)
{
    const struct disk_request *request = operation->request;
    struct io_uring_sqe *sqe = next_sqe(disk);
    bool writes = request->op == DISK_WRITE;
    uint8_t *memory = request->buffer + operation->transferred;
    uint32_t left = request->bytes - operation->transferred;
    uint64_t offset = request->body[0] + operation->transferred;
    int index = request->buffer_index;
    if (request->op == DISK_FLUSH)
        io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
    else if (writes && operation->registered)
        io_uring_prep_write_fixed(sqe, 0, memory, left, offset, index);
    else if (writes)
        io_uring_prep_write(sqe, 0, memory, left, offset);
    else if (operation->registered)
        io_uring_prep_read_fixed(sqe, 0, memory, left, offset, index);
    else
        io_uring_prep_read(sqe, 0, memory, left, offset);
    if (request->op == DISK_READ && disk->head.read_only)
        sqe->ioprio = READ_PRIORITY;
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, operation);
}

/* Gives back the request that was held back for the next one, `next`, to be known; null: there is none now. */
static void held_finish(struct disk_uring *disk, const struct disk_request *next)
{
    struct disk_request *request = disk->held;
    disk->held = NULL;
    if (request)
        finish(disk, request, disk->held_result, next && next->done == request->done);
}

static void operation_finish(struct disk_uring *disk, struct operation *operation, int result)
{
    struct disk_request *request = operation->request;
    operation->next_spare = disk->spare;
    disk->spare = operation;
    disk->under_way--;
    held_finish(disk, request);
    disk->held = request;
    disk->held_result = result;
}

static void operation_completed(struct disk_uring *disk, struct operation *operation,
                                int32_t answer)
{
    uint32_t left = operation->request->bytes - operation->transferred;
    if ((answer == -EINTR || answer == -EAGAIN) && ++operation->tries < TRIES_MAX) {
        operation_issue(disk, operation);
    } else if (answer < 0) {
        operation_finish(disk, operation, result_of_errno(-answer));
    } else if (operation->request->op == DISK_FLUSH || (uint32_t)answer == left) {
        operation_finish(disk, operation, 0);
    } else if (answer > 0 && (uint32_t)answer < left && (uint32_t)answer % disk->alignment == 0) {
        operation->transferred += (uint32_t)answer;
        operation_issue(disk, operation);
    } else {
        operation_finish(disk, operation, ERR_IO);
    }
}

/* ---- the disk's thread: its ring ------------------------------------------------------------- */

static void ring_wake_arm(struct disk_uring *disk)
{
    struct io_uring_sqe *sqe = next_sqe(disk);
    io_uring_prep_read(sqe, disk->wake_fd, &disk->wake_count, sizeof disk->wake_count, 0);
    io_uring_sqe_set_data(sqe, NULL);
    disk->wake_armed = true;
}

/* As many operations as there is room for. Of reads only so many bytes at once: where the kernel has them in memory it copies them within the system call
 * that submits them, and whoever waits for the first one would wait for all. */
static void ring_issue_backlog(struct disk_uring *disk)
{
    uint64_t bytes_max = disk->head.read_only ? READ_AT_ONCE_BYTES : UINT64_MAX, bytes = 0;
    while (disk->backlog != NULL && disk->spare != NULL && bytes < bytes_max) {
        struct disk_request *request = backlog_pop(disk);
        if (is_refused(disk, request))
            continue;
        bytes += request->bytes;
        struct operation *operation = disk->spare;
        disk->spare = operation->next_spare;
        disk->under_way++;
        *operation =
            (struct operation){.request = request, .registered = is_registered(disk, request)};
        operation_issue(disk, operation);
    }
}

/* Whether anything had completed. */
static bool ring_reap(struct disk_uring *disk)
{
    struct io_uring_cqe *cqe;
    bool any = false;
    while (io_uring_peek_cqe(&disk->ring, &cqe) == 0) {
        struct operation *operation = io_uring_cqe_get_data(cqe);
        int32_t answer = cqe->res;
        any = true;
        io_uring_cqe_seen(&disk->ring, cqe);
        if (operation != NULL)
            operation_completed(disk, operation, answer);
        else
            disk->wake_armed = false;
    }
    held_finish(disk, NULL);
    return any;
}

static int ring_register(struct disk_uring *disk, const struct registration *registration)
{
    if (disk->buffers != NULL)
        return ERR_EXISTS;
    struct iovec *vector = calloc(registration->count, sizeof *vector);
    if (vector == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < registration->count; i++) {
        vector[i].iov_base = registration->base + i * registration->buffer_bytes;
        vector[i].iov_len = registration->buffer_bytes;
    }
    int answer = io_uring_register_buffers(&disk->ring, vector, registration->count);
    free(vector);
    if (answer == 0) { /* else: more than the kernel or RLIMIT_MEMLOCK allows; it works without */
        disk->buffers = registration->base;
        disk->buffer_bytes = registration->buffer_bytes;
        disk->buffer_count = registration->count;
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
    int result = disk->has_ring ? ring_register(disk, registration) : 0;
    pthread_mutex_lock(&disk->lock);
    registration->result = result;
    registration->finished = true;
    disk->registration = NULL;
    pthread_mutex_unlock(&disk->lock);
    pthread_cond_broadcast(&disk->changed);
}

/* The thread of a disk that is only read waits when a look at the ring has shown nothing, so that nobody has to wake it while it is busy copying. One that
 * is written to waits in the call that submits, and saves the look. */
static void ring_serve(struct disk_uring *disk)
{
    const bool looks = disk->head.read_only;
    bool may_sleep = !looks;
    while (take_pending(disk, may_sleep)) {
        bool waits = may_sleep && (!looks || disk->backlog == NULL);
        serve_registration(disk);
        if (!disk->wake_armed)
            ring_wake_arm(disk);
        ring_issue_backlog(disk);
        tell_waiters(disk); /* of requests that were refused */
        waits |= disk->spare == NULL; /* there is no room for more before something completes */
        int answer = waits ? io_uring_submit_and_wait(&disk->ring, 1) : io_uring_submit(&disk->ring);
        /* Nothing else can be wrong with a ring of our own than that there was no memory for once.
         */
        assert(answer >= 0 || answer == -EINTR || answer == -EAGAIN || answer == -EBUSY ||
               answer == -ENOMEM);
        may_sleep = !ring_reap(disk) || !looks;
        tell_waiters(disk);
    }
    io_uring_unregister_files(
        &disk->ring); /* an exclusive open of the device must not linger in the ring */
    RING_MEMORY_GIVEN();
    io_uring_queue_exit(&disk->ring);
}

/*
 * The ring of a disk that is only read can do nothing but read, for ever: seccomp, which confines the
 * process that reads for users, does not see what a ring is asked to do.
 */
static int ring_restrict(struct disk_uring *disk)
{
    struct io_uring_restriction may[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ_FIXED},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE},
        {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_BUFFERS},
        {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_FILES},
    };
    int answer = io_uring_register_restrictions(&disk->ring, may, sizeof may / sizeof may[0]);
    return answer != 0 ? answer : io_uring_enable_rings(&disk->ring);
}

static int ring_open(struct disk_uring *disk)
{
    bool read_only = disk->head.read_only;
    static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                                     IORING_SETUP_COOP_TASKRUN, 0};
    int answer = -EINVAL;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0] && answer == -EINVAL; i++)
        answer = io_uring_queue_init(RING_ENTRIES, &disk->ring,
                                     flags[i] | (read_only ? IORING_SETUP_R_DISABLED : 0));
    if (answer != 0)
        return answer;
    RING_MEMORY_TAKEN();
    answer = io_uring_register_files(&disk->ring, &disk->fd, 1);
    if (answer == 0 && read_only)
        answer = ring_restrict(disk);
    if (answer != 0) {
        RING_MEMORY_GIVEN();
        io_uring_queue_exit(&disk->ring);
    }
    return answer;
}

/* ---- the disk's thread: without a ring ------------------------------------------------------- */

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
    while (take_pending(disk, true)) {
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
                                             : transfer_plainly(disk, request),
                   false);
            tell_waiters(disk);
        }
        tell_waiters(disk);
    }
}

static void *serve(void *argument)
{
    struct disk_uring *disk = argument;
    /* By the thread itself: a name that another one gives goes through /proc, which a confined process may not open, and what has been looked up there
     * has to be thrown away, some milliseconds long, when the process is reaped. */
    pthread_setname_np(pthread_self(), "tapeloop-disk");
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

/* ---- starting -------------------------------------------------------------------------------- */

static const struct disk_ops uring_ops = {
    .name = "io_uring",
    .submit = uring_submit,
    .submit_all = uring_submit_all,
    .wait = uring_wait,
    .wait_for = uring_wait_for,
    .register_buffers = uring_register,
    .close = uring_close,
};

static const struct disk_ops plain_ops = {
    .name = "plain",
    .submit = uring_submit,
    .submit_all = uring_submit_all,
    .wait = uring_wait,
    .wait_for = uring_wait_for,
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
    clock_condition_init(&disk->changed);
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
