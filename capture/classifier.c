/*
 * classifier.c - starts and watches tapeloop-classify: see classifier.h. classifier_port.c is the
 * packets' side.
 *
 * One thread does all of it, from the first time that somebody asks for names or a port: start,
 * wait until the process is ready, then look several times a second whether it shows signs of life,
 * and wait for its death at the same time (a pidfd). When it is dead, and only then, its number is
 * taken back; the capture threads see that between two batches, and begin with the next process
 * when that is ready.
 *
 *     resting --ask--> starting --ready--> working
 *                       ^  |                 |  dead, hung (killed), lied (killed)
 *                       |  +--> waiting <----+
 *                       +----------+  after a while that doubles, from 100 ms to 1 s
 *
 * Closing: the process is killed, the thread joined. A process whose recorder is gone is ended by
 * the kernel (PR_SET_PDEATHSIG), which looks at the thread that started it: this one.
 */
#include "classifier_body.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "privileges.h"
#include "waiting.h"

#define RESTART_MS_USUAL 100
#define RESTART_MS_MAX 1000
#define WELL_MS 60000 /* a process that lived for so long is started again at once */
#define HANG_MS_USUAL 2000
#define HANG_MS_MIN 100
#define LOOKS_MIN 8 /* without a sign of life, until it hangs: clocks that jump are no reason */
#define LOOK_MS_MAX 100
#define START_MS 20000
#define NAMES_MS (START_MS + 1000)

enum phase {
    RESTING = 0, /* nobody has asked yet */
    STARTING,
    WORKING,
    WAITING, /* to be started again */
};

struct classifier {
    struct classifier_link link;
    char program[PATH_MAX];
    struct classifier_options options;
    int memory;
    int wake; /* eventfd: close */

    pthread_mutex_t lock; /* what follows, up to the next comment */
    pthread_cond_t changed;
    enum phase phase;
    bool threaded;
    bool borrowed;          /* another one watches the process, and there is no thread here */
    struct failure failure; /* of the last process that did not come up */
    struct classifier_port *port[CLASSIFIER_PORTS_MAX];
    bool reserved[CLASSIFIER_PORTS_MAX]; /* by a port that is being made */
    bool present[CLASSIFIER_PORTS_MAX];  /* the queues have memory */
    struct port_counters closed;         /* of ports that are no more */
    char name[CLASSIFIER_NAMES_MAX][CLASSIFIER_NAME_BYTES];
    const char *names[CLASSIFIER_NAMES_MAX];

    /* The watching thread's. */
    pthread_t thread;
    atomic_bool closing;
    uint32_t number; /* of the last process */
    pid_t pid;
    int pidfd;

    _Atomic uint64_t starts, hangs;
};

/* ---- opening and closing --------------------------------------------------------------------- */

static int map_memory(struct classifier *classifier, struct failure *failure)
{
    void *at = mmap(NULL, sizeof(struct classifier_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                    classifier->memory, 0);
    if (at == MAP_FAILED)
        return fail_errno(failure, errno, "the memory shared with tapeloop-classify");
    classifier->link.shared = at;
    return 0;
}

static int make_memory(struct classifier *classifier, struct failure *failure)
{
    classifier->memory = memfd_create("tapeloop-classify", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (classifier->memory < 0)
        return fail_errno(failure, errno, "no memory to share with tapeloop-classify");
    /* All of the head, now: a page that cannot be had later would end the recorder. */
    if (ftruncate(classifier->memory, (off_t)sizeof(struct classifier_shared)) != 0 ||
        fcntl(classifier->memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0 ||
        fallocate(classifier->memory, 0, 0, offsetof(struct classifier_shared, port)) != 0)
        return fail_errno(failure, errno, "the memory shared with tapeloop-classify");
    return map_memory(classifier, failure);
}

static int make(struct classifier **result, struct failure *failure)
{
    struct classifier *classifier = calloc(1, sizeof *classifier);
    *result = classifier;
    if (!classifier)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    classifier->memory = -1;
    classifier->pidfd = -1;
    pthread_mutex_init(&classifier->lock, NULL);
    clock_condition_init(&classifier->changed);
    classifier->wake = wake_open();
    return classifier->wake < 0 ? fail_errno(failure, errno, "no descriptor") : 0;
}

int classifier_open(const struct classifier_options *options, struct classifier **result,
                    struct failure *failure)
{
    int code = make(result, failure);
    struct classifier *classifier = *result;
    if (code == 0)
        code = make_memory(classifier, failure);
    if (code != 0) {
        classifier_close(result);
        return code;
    }
    classifier->options = *options;
    if (classifier->options.restart_ms == 0)
        classifier->options.restart_ms = RESTART_MS_USUAL;
    if (classifier->options.hang_ms == 0)
        classifier->options.hang_ms = HANG_MS_USUAL;
    if (classifier->options.hang_ms < HANG_MS_MIN)
        classifier->options.hang_ms = HANG_MS_MIN;
    snprintf(classifier->program, sizeof classifier->program, "%s", options->program);
    return 0;
}

void classifier_close(struct classifier **slot)
{
    struct classifier *classifier = *slot;
    if (!classifier)
        return;
    if (classifier->threaded) {
        atomic_store(&classifier->closing, true);
        (void)eventfd_write(classifier->wake, 1);
        pthread_join(classifier->thread, NULL);
    }
    if (classifier->link.shared)
        munmap(classifier->link.shared, sizeof(struct classifier_shared));
    if (classifier->memory >= 0)
        close(classifier->memory);
    if (classifier->wake >= 0)
        close(classifier->wake);
    pthread_cond_destroy(&classifier->changed);
    pthread_mutex_destroy(&classifier->lock);
    free(classifier);
    *slot = NULL;
}

/* ---- the process ------------------------------------------------------------------------------
 */

static void set_phase(struct classifier *classifier, enum phase phase)
{
    pthread_mutex_lock(&classifier->lock);
    classifier->phase = phase;
    pthread_cond_broadcast(&classifier->changed);
    pthread_mutex_unlock(&classifier->lock);
}

static void say(struct classifier *classifier, const char *severity, const char *sentence)
{
    if (classifier->options.say)
        classifier->options.say(classifier->options.context, severity, sentence);
}

/* Whatever the process wrote where a text should be: cut, and made printable. */
static void take_text(char *to, size_t size, const char *from, size_t length)
{
    size_t i;
    for (i = 0; i + 1 < size && i < length; i++) {
        char c = ((const volatile char *)from)[i];
        if (c == '\0')
            break;
        to[i] = isprint((unsigned char)c) ? c : '?';
    }
    to[i] = '\0';
}

static int spawn_with(struct classifier *classifier, posix_spawn_file_actions_t *actions,
                      posix_spawnattr_t *attributes, int memory)
{
    sigset_t none, ordinary;
    sigemptyset(&none);
    sigfillset(&ordinary);
    sigdelset(&ordinary, SIGKILL);
    sigdelset(&ordinary, SIGSTOP);
    char *const arguments[] = {classifier->program, NULL}, *const environment[] = {NULL};
    int error = posix_spawn_file_actions_adddup2(actions, memory, CLASSIFIER_MEMORY);
    if (!error)
        error = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    /* nDPI prints what it likes, and hostile packets may choose what: nobody listens. */
    for (int fd = 1; fd <= 2 && !error; fd++)
        error = posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_addclosefrom_np(actions, CLASSIFIER_MEMORY + 1);
    if (!error)
        error = posix_spawnattr_setsigmask(attributes, &none);
    if (!error)
        error = posix_spawnattr_setsigdefault(attributes, &ordinary);
    if (!error)
        error =
            posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    return error ? error
                 : posix_spawn(&classifier->pid, classifier->program, actions, attributes,
                               arguments, environment);
}

static int spawn(struct classifier *classifier)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    /* Descriptors 0 to 2 are given to other things in the child before this one is moved. */
    int memory = fcntl(classifier->memory, F_DUPFD_CLOEXEC, CLASSIFIER_MEMORY);
    if (memory < 0)
        return errno;
    int error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        error = posix_spawnattr_init(&attributes);
        if (!error) {
            error = spawn_with(classifier, &actions, &attributes, memory);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
    }
    close(memory);
    return error;
}

/* The process before may have left anything anywhere: the next one is wanted nowhere until a
 * capture thread says so. */
static void queues_unwanted(struct classifier *classifier)
{
    pthread_mutex_lock(&classifier->lock);
    for (uint32_t i = 0; i < CLASSIFIER_PORTS_MAX; i++)
        if (classifier->present[i])
            atomic_store(&classifier->link.shared->port[i].wanted, 0);
    pthread_mutex_unlock(&classifier->lock);
}

static int process_start(struct classifier *classifier, struct failure *failure)
{
    struct classifier_shared *shared = classifier->link.shared;
    queues_unwanted(classifier);
    memset(shared->failure, 0, sizeof shared->failure);
    shared->names = 0;
    shared->number = ++classifier->number;
    shared->recorder = (uint32_t)getpid();
    atomic_store(&shared->ready, 0);
    atomic_store(&shared->signs, 0);
    atomic_store(&shared->sleeping, 0);
    int error = spawn(classifier);
    if (error)
        return fail_errno(failure, error, "starting %s failed", classifier->program);
    classifier->pidfd = pidfd_open(classifier->pid, 0);
    if (classifier->pidfd < 0) {
        error = errno;
        kill(classifier->pid, SIGKILL); /* nobody else waits for it: the number is its own */
        while (waitpid(classifier->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return fail_errno(failure, error, "%s cannot be watched", classifier->program);
    }
    atomic_fetch_add(&classifier->starts, 1);
    privileges_offer_child(classifier->pid);
    return 0;
}

/* Ends it if it has not ended, and waits until it has. The wait status. */
static int process_end(struct classifier *classifier)
{
    int status = 0;
    (void)pidfd_send_signal(classifier->pidfd, SIGKILL, NULL, 0);
    while (waitpid(classifier->pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(classifier->pidfd);
    classifier->pidfd = -1;
    atomic_store(&classifier->link.number, 0);
    return status;
}

/* Waits that long, or until it is dead (1) or the classifier is to be closed (-1). */
static int process_wait(struct classifier *classifier, int timeout_ms)
{
    struct pollfd event[2] = {{.fd = classifier->wake, .events = POLLIN},
                              {.fd = classifier->pidfd, .events = POLLIN}};
    int ready = poll(event, 2, timeout_ms);
    if (atomic_load(&classifier->closing))
        return -1;
    return ready > 0 && event[1].revents ? 1 : 0;
}

/* ---- names ------------------------------------------------------------------------------------
 */

/* The name of a protocol: printable, not empty, and nobody else's. */
static void name_take(struct classifier *classifier, uint32_t i, const char *raw)
{
    char *name = classifier->name[i];
    take_text(name, CLASSIFIER_NAME_BYTES, raw, CLASSIFIER_NAME_BYTES);
    bool taken = name[0] == '\0';
    for (uint32_t k = 0; k < i && !taken; k++)
        taken = strcasecmp(classifier->name[k], name) == 0;
    if (taken) /* of two that are alike the second one is known by its number */
        snprintf(name, CLASSIFIER_NAME_BYTES, "nDPI-%u", i + 1);
    classifier->names[i] = name;
}

/* Of the first process the names are taken; those of later ones must be the same, or verdicts would
 * mean something else. With the lock. */
static int names_take(struct classifier *classifier, struct failure *failure)
{
    const struct classifier_shared *shared = classifier->link.shared;
    uint32_t names = *(const volatile uint32_t *)&shared->names;
    if (names == 0 || names > CLASSIFIER_NAMES_MAX)
        return fail(failure, ERR_PROTOCOL, "tapeloop-classify knows %u protocols", names);
    if (classifier->link.names == 0) {
        for (uint32_t i = 0; i < names; i++)
            name_take(classifier, i, shared->name[i]);
        classifier->link.names = names;
        return 0;
    }
    bool same = names == classifier->link.names;
    for (uint32_t i = 0; i < names && same; i++) {
        char name[CLASSIFIER_NAME_BYTES];
        take_text(name, sizeof name, shared->name[i], sizeof shared->name[i]);
        same =
            strncmp(classifier->name[i], "nDPI-", 5) == 0 || strcmp(name, classifier->name[i]) == 0;
    }
    return same ? 0
                : fail(failure, ERR_MISMATCH,
                       "tapeloop-classify is another one than before: restart tapeloopd");
}

/* ---- watching ---------------------------------------------------------------------------------
 */

static uint32_t look_ms(const struct classifier *classifier)
{
    uint32_t ms = classifier->options.hang_ms / LOOKS_MIN;
    return ms < LOOK_MS_MAX ? ms : LOOK_MS_MAX;
}

/* Until it is ready. 0; ERR_CLOSED: it is dead or to be closed; ERR_TIMEOUT, or what names are. */
static int await_ready(struct classifier *classifier, struct failure *failure)
{
    struct classifier_shared *shared = classifier->link.shared;
    struct deadline deadline = deadline_of(START_MS);
    while (atomic_load(&shared->ready) != classifier->number) {
        if (deadline_left_ms(&deadline) == 0)
            return fail(failure, ERR_TIMEOUT, "tapeloop-classify does not become ready");
        if (process_wait(classifier, 10) != 0)
            return ERR_CLOSED;
    }
    pthread_mutex_lock(&classifier->lock);
    int code = names_take(classifier, failure);
    if (code == 0) {
        atomic_store(&classifier->link.number, classifier->number);
        classifier->failure = (struct failure){0};
        classifier->phase = WORKING;
        pthread_cond_broadcast(&classifier->changed);
    }
    pthread_mutex_unlock(&classifier->lock);
    return code;
}

/* While it works. What ended that: ERR_CLOSED (it is dead, or to be closed), ERR_TIMEOUT (it
 * hangs), ERR_PROTOCOL (it lies). */
static int watch(struct classifier *classifier)
{
    struct classifier_shared *shared = classifier->link.shared;
    uint32_t signs = 0, silent = 0;
    for (;;) {
        if (process_wait(classifier, (int)look_ms(classifier)) != 0)
            return ERR_CLOSED;
        if (atomic_load(&classifier->link.liar) == classifier->number)
            return ERR_PROTOCOL;
        uint32_t now = atomic_load(&shared->signs);
        silent = now == signs ? silent + 1 : 0;
        signs = now;
        if (silent * look_ms(classifier) >= classifier->options.hang_ms)
            return ERR_TIMEOUT;
    }
}

/* The sentence of why it has ended. */
static void explain(struct classifier *classifier, int code, int status, struct failure *failure)
{
    char own[sizeof classifier->link.shared->failure];
    take_text(own, sizeof own, classifier->link.shared->failure, sizeof own);
    if (code == ERR_TIMEOUT && failure->code == 0)
        fail(failure, ERR_TIMEOUT, "tapeloop-classify hung and was ended");
    else if (code == ERR_PROTOCOL && failure->code == 0)
        fail(failure, ERR_PROTOCOL, "tapeloop-classify said what it cannot know and was ended");
    else if (failure->code != 0)
        return;
    else if (own[0])
        fail(failure, ERR_CLOSED, "tapeloop-classify ended: %s", own);
    else if (WIFSIGNALED(status))
        fail(failure, ERR_CLOSED, "tapeloop-classify died of signal %d", WTERMSIG(status));
    else
        fail(failure, ERR_CLOSED, "tapeloop-classify ended with status %d", WEXITSTATUS(status));
}

/* One process, from start to end. */
static void live(struct classifier *classifier)
{
    struct failure failure = {0};
    set_phase(classifier, STARTING);
    int code = process_start(classifier, &failure);
    if (code == 0) {
        code = await_ready(classifier, &failure);
        if (code == 0)
            code = watch(classifier);
        if (code == ERR_TIMEOUT)
            atomic_fetch_add(&classifier->hangs, 1);
        int status = process_end(classifier);
        if (atomic_load(&classifier->closing))
            return;
        explain(classifier, code, status, &failure);
    }
    say(classifier, "warning", failure.text);
    pthread_mutex_lock(&classifier->lock);
    classifier->failure = failure;
    classifier->phase = WAITING;
    pthread_cond_broadcast(&classifier->changed);
    pthread_mutex_unlock(&classifier->lock);
}

static void *supervise(void *context)
{
    struct classifier *classifier = context;
    uint32_t pause_ms = classifier->options.restart_ms;
    while (!atomic_load(&classifier->closing)) {
        int64_t began_ms = monotonic_ms();
        live(classifier);
        if (atomic_load(&classifier->closing))
            break;
        if (monotonic_ms() - began_ms > WELL_MS)
            pause_ms = classifier->options.restart_ms;
        struct pollfd wake = {.fd = classifier->wake, .events = POLLIN};
        (void)poll(&wake, 1, (int)pause_ms);
        pause_ms = 2 * pause_ms < RESTART_MS_MAX ? 2 * pause_ms : RESTART_MS_MAX;
    }
    return NULL;
}

/* Starts the watching thread if there is none. With the lock. */
static int ask(struct classifier *classifier, struct failure *failure)
{
    if (classifier->threaded || classifier->borrowed)
        return 0;
    if (access(classifier->program, X_OK) != 0)
        return fail(failure, ERR_UNSUPPORTED,
                    "layer 7 is not there: %s is missing (it is built where Debian's package "
                    "libndpi-dev is installed)",
                    classifier->program);
    int error = pthread_create(&classifier->thread, NULL, supervise, classifier);
    if (error)
        return fail_errno(failure, error, "no thread to watch tapeloop-classify");
    classifier->threaded = true;
    classifier->phase = STARTING;
    return 0;
}

/* ---- for others -------------------------------------------------------------------------------
 */

int classifier_names(struct classifier *classifier, const char *const **name, uint32_t *names,
                     struct failure *failure)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += NAMES_MS / 1000;
    pthread_mutex_lock(&classifier->lock);
    int code = ask(classifier, failure);
    int error = 0;
    while (code == 0 && classifier->link.names == 0 && error == 0 && classifier->phase != WAITING)
        error = pthread_cond_timedwait(&classifier->changed, &classifier->lock, &until);
    if (code == 0 && classifier->link.names == 0) {
        code = classifier->failure.code ? classifier->failure.code : ERR_TIMEOUT;
        fail(failure, code, "layer 7 does not come up: %s",
             classifier->failure.code ? classifier->failure.text : error_text(ERR_TIMEOUT));
    }
    *name = classifier->names;
    *names = classifier->link.names;
    pthread_mutex_unlock(&classifier->lock);
    return code;
}

int classifier_lend(struct classifier *classifier, int *memory, struct failure *failure)
{
    const char *const *name;
    uint32_t names;
    int code = classifier_names(classifier, &name, &names, failure);
    if (code != 0)
        return code;
    *memory = fcntl(classifier->memory, F_DUPFD_CLOEXEC, 0);
    return *memory >= 0 ? 0 : fail_errno(failure, errno, "no descriptor");
}

int classifier_borrow(int memory, struct classifier **result, struct failure *failure)
{
    struct stat status;
    int code = make(result, failure);
    struct classifier *classifier = *result;
    if (!classifier) {
        close(memory);
        return code;
    }
    classifier->memory = memory;
    classifier->borrowed = true;
    if (code == 0 &&
        (fstat(memory, &status) != 0 || (size_t)status.st_size != sizeof(struct classifier_shared)))
        code = fail(failure, ERR_INVALID, "this is not the memory of tapeloop-classify");
    if (code == 0)
        code = map_memory(classifier, failure);
    if (code == 0)
        code = names_take(classifier, failure);
    if (code != 0) {
        classifier_close(result);
        return code;
    }
    classifier->number = atomic_load(&classifier->link.shared->ready);
    atomic_store(&classifier->link.number, classifier->number);
    return 0;
}

/* Queues that no process touches: never served, given back, or of a process that is dead. */
static bool place_is_free(const struct classifier *classifier, uint32_t place)
{
    const struct classifier_queues *queues = &classifier->link.shared->port[place];
    if (classifier->port[place] || classifier->reserved[place])
        return false;
    uint32_t number = atomic_load(&classifier->link.number);
    uint32_t served = atomic_load(&queues->served);
    return served == 0 || served != number;
}

static int place_find(struct classifier *classifier, uint32_t *place, struct failure *failure)
{
    for (*place = 0; *place < CLASSIFIER_PORTS_MAX; ++*place)
        if (place_is_free(classifier, *place))
            break;
    if (*place == CLASSIFIER_PORTS_MAX)
        return fail(failure, ERR_TOO_LARGE, "layer 7 serves %u capture threads at most",
                    CLASSIFIER_PORTS_MAX);
    off_t at = (off_t)(offsetof(struct classifier_shared, port) +
                       *place * sizeof(struct classifier_queues));
    if (fallocate(classifier->memory, 0, at, sizeof(struct classifier_queues)) != 0)
        return fail_errno(failure, errno, "no memory to share with tapeloop-classify");
    classifier->reserved[*place] = classifier->present[*place] = true;
    return 0;
}

int classifier_port_open(struct classifier *classifier, uint32_t flows,
                         struct classifier_port **result, struct failure *failure)
{
    uint32_t place;
    pthread_mutex_lock(&classifier->lock);
    int code = ask(classifier, failure);
    if (code == 0)
        code = place_find(classifier, &place, failure);
    pthread_mutex_unlock(&classifier->lock);
    if (code != 0)
        return code;
    /* Outside of the lock: a large table takes its time. */
    code = port_create(classifier, &classifier->link, place, flows, result, failure);
    pthread_mutex_lock(&classifier->lock);
    classifier->reserved[place] = false;
    if (code == 0)
        classifier->port[place] = *result;
    pthread_mutex_unlock(&classifier->lock);
    return code;
}

void classifier_port_close(struct classifier_port **slot)
{
    struct classifier_port *port = *slot;
    if (!port)
        return;
    struct classifier *classifier = port_classifier(port);
    pthread_mutex_lock(&classifier->lock);
    port_count(port, &classifier->closed);
    classifier->port[port_place(port)] = NULL;
    port_destroy(slot);
    pthread_mutex_unlock(&classifier->lock);
}

void classifier_counters(struct classifier *classifier, struct classifier_counters *counters)
{
    pthread_mutex_lock(&classifier->lock);
    struct port_counters sum = classifier->closed;
    for (uint32_t i = 0; i < CLASSIFIER_PORTS_MAX; i++)
        if (classifier->port[i])
            port_count(classifier->port[i], &sum);
    bool running = classifier->phase == WORKING;
    if (classifier->borrowed)
        running = atomic_load(&classifier->link.shared->ready) == classifier->number;
    pthread_mutex_unlock(&classifier->lock);
    *counters = (struct classifier_counters){
        .lent = sum.lent,
        .skipped = sum.skipped,
        .verdicts = sum.verdicts,
        .unknown = sum.unknown,
        .stale = sum.stale,
        .starts = atomic_load(&classifier->starts),
        .hangs = atomic_load(&classifier->hangs),
        .running = running,
    };
}
