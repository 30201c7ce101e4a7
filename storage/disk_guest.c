/*
 * disk_guest.c - see disk_guest.h.
 *
 * The happy path: guest_submit() asks the keeper, on its thread, whether it may go, and has it submit a request of the guest's own, with memory of the guest's own;
 * finished() and, for a write, flushed() are called on the keeper's thread, and guest_wait() waits for them.
 *
 *   request      owner        moved on by
 *   idle         the guest    guest_submit
 *   asked        the keeper   finished
 *   unflushed    the keeper   flushed: a write that was good waits for a flush, its bytes are no more needed
 *
 * Closing: at once, where nothing is with the keeper; else the last answer frees it (on the keeper's thread), and gives the slots back.
 */
#include "disk_guest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "keeper_inside.h"

#define WRITES_MAX 32u          /* that wait for one flush */
#define UNNOTICED_BYTES 65536u  /* a read so short takes no turn: one is under way at most */
#define PAUSE_NS_MAX 20000000ull

struct guest_entry {
    struct keeper_request request;
    enum { ENTRY_IDLE, ENTRY_ASKED, ENTRY_UNFLUSHED } state;
};

struct guest_slot {
    bool taken;
    uint32_t slot;
    struct slot_belief left;
    struct segment stand_in; /* of no identity: says to readers of the slot that it is not theirs */
};

struct disk_guest {
    struct disk head; /* first: the seam's pointer is ours */
    struct disk_guest *next; /* the keeper's list */
    struct guest_options options;
    struct keeper_disk *disk;
    uint32_t joins;
    uint8_t *bytes; /* of the one request that is waited for */
    struct guest_entry entry[WRITES_MAX];
    struct guest_slot slot[GUEST_SLOTS_MAX]; /* the keeper's thread */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t asked, unflushed;
    bool failed;  /* a flush, since the last DISK_FLUSH that said so */
    bool lost, closed;
};

static struct disk_guest *guest_of(const struct disk *disk)
{
    return (struct disk_guest *)(uintptr_t)disk;
}

static uint64_t now_ns(const struct guest_options *options)
{
    const struct keeper_options *keeper = keeper_options(options->keeper);
    return keeper->monotonic_ns(keeper->context);
}

/* ---- the end ------------------------------------------------------------------------------------- */

static void slot_give(struct disk_guest *guest, struct guest_slot *slot, const struct slot_belief *left, uint64_t turn)
{
    struct keeper_disk *disk = guest->disk;
    slot->taken = false;
    if (disk->open[slot->slot] != &slot->stand_in)
        return; /* the disk has left, and may have returned since: the slot is no more ours */
    disk->belief[slot->slot] = *left;
    disk->position[slot->slot] = left->position ? left->position : turn;
    disk->open[slot->slot] = NULL;
    disk->keeper->prepare_again = true;
}

static void guest_free(struct disk_guest *guest)
{
    struct disk_guest **link = &guest->options.keeper->guests;
    for (uint32_t i = 0; i < GUEST_SLOTS_MAX; i++)
        if (guest->slot[i].taken)
            slot_give(guest, &guest->slot[i], &guest->slot[i].left, 0);
    while (*link != guest)
        link = &(*link)->next;
    *link = guest->next;
    pthread_cond_destroy(&guest->changed);
    pthread_mutex_destroy(&guest->lock);
    free(guest->bytes);
    free(guest);
}

void keeper_guests_free(struct keeper *keeper)
{
    while (keeper->guests)
        guest_free(keeper->guests);
}

/* After an answer: frees the guest where it was the last one of one that is closed. Called with the lock, which it lets go. */
static void answered(struct disk_guest *guest)
{
    bool last = guest->closed && guest->asked + guest->unflushed == 0;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    if (last)
        guest_free(guest);
}

static void guest_leave(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct disk_guest *guest = context;
    pthread_mutex_lock(&guest->lock);
    guest->closed = guest->lost = true;
    if (guest->unflushed > 0)
        guest->disk->flush_wanted = true;
    answered(guest);
}

static void guest_close(struct disk *disk)
{
    struct disk_guest *guest = guest_of(disk);
    keeper_call(guest->options.keeper, guest_leave, guest);
}

/* ---- answers: the keeper's thread ------------------------------------------------------------------ */

static struct guest_entry *entry_of(struct keeper_request *request)
{
    return (struct guest_entry *)(uintptr_t)request; /* its first member */
}

static void flushed(struct keeper *keeper, struct keeper_request *request, bool good)
{
    (void)keeper;
    struct disk_guest *guest = request->context;
    pthread_mutex_lock(&guest->lock);
    entry_of(request)->state = ENTRY_IDLE;
    guest->unflushed--;
    guest->failed |= !good;
    answered(guest);
}

static void finished(struct keeper *keeper, struct keeper_request *request)
{
    struct disk_guest *guest = request->context;
    bool good = request->request.op == DISK_WRITE && request->request.result == 0;
    pthread_mutex_lock(&guest->lock);
    guest->unflushed += good;
    entry_of(request)->state = good ? ENTRY_UNFLUSHED : ENTRY_IDLE;
    pthread_mutex_unlock(&guest->lock);
    if (good) /* of a disk that has left it says so at once: until then the request counts as asked, or the guest would go under our hands */
        keeper_request_flush(request, now_ns(&guest->options) + keeper->options.flush_window_ns);
    pthread_mutex_lock(&guest->lock);
    guest->asked--;
    answered(guest);
}

/* ---- asking ---------------------------------------------------------------------------------------- */

bool disk_guest_idle(const struct guest_options *options)
{
    if (options->step)
        return options->step(options->context);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return true;
}

struct question {
    struct disk_guest *guest;
    struct guest_entry *entry;
    uint64_t wait_ns;
    bool hurry;
};

/* How long it has to wait before a piece of so many bytes, 0: not at all, and it is noted. */
static uint64_t turn_wait_ns(struct disk_guest *guest, uint32_t bytes, bool reads)
{
    struct guest_pace *pace = guest->options.pace;
    uint64_t now = now_ns(&guest->options);
    if (pace->rate > 0 && now < pace->go_ns)
        return pace->go_ns - now;
    if (!pace->heedless && !(reads && bytes <= UNNOTICED_BYTES)) {
        const struct pressure_view pressure = keeper_pressure(guest->options.keeper, now);
        uint64_t wait_ns = pressure_wait_ns(&pace->pressure, &pressure, now);
        if (wait_ns > 0)
            return wait_ns;
    }
    if (pace->rate > 0)
        pace->go_ns = now + bytes * (1000000000ull / 16) / (pace->rate / 16 + 1);
    return 0;
}

static void ask(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct question *question = context;
    struct disk_guest *guest = question->guest;
    struct keeper_request *request = &question->entry->request;
    question->wait_ns =
        question->hurry ? 0 : turn_wait_ns(guest, request->request.bytes, request->request.op == DISK_READ);
    if (question->wait_ns > 0)
        return;
    pthread_mutex_lock(&guest->lock);
    guest->asked++;
    question->entry->state = ENTRY_ASKED;
    pthread_mutex_unlock(&guest->lock);
    keeper_request_submit(guest->disk, request);
}

static void ask_flush(struct keeper *keeper, void *context)
{
    (void)keeper;
    struct disk_guest *guest = context;
    struct keeper_disk *disk = guest->disk;
    if (!disk->io || !disk->unflushed_head)
        return;
    disk->flush_wanted = true;
    disk->flush_due_ns = 0; /* or the keeper would sleep on until it is due */
}

/* Waits until nothing is asked any more, and, where `all`, nothing unflushed. False: the guest is lost. */
static bool wait_answers(struct disk_guest *guest, bool all)
{
    const struct guest_options *options = &guest->options;
    uint64_t until_ns = now_ns(options) + (options->patience_ms ? options->patience_ms : DISK_PATIENCE_MS) * 1000000ull;
    pthread_mutex_lock(&guest->lock);
    while (!guest->lost && (guest->asked > 0 || (all && guest->unflushed > 0))) {
        if (now_ns(options) >= until_ns) {
            guest->lost = true;
        } else if (options->step) {
            pthread_mutex_unlock(&guest->lock);
            bool more = options->step(options->context);
            pthread_mutex_lock(&guest->lock);
            guest->lost |= !more;
        } else {
            struct timespec until = clock_monotonic_in_ms(100);
            pthread_cond_timedwait(&guest->changed, &guest->lock, &until);
        }
    }
    bool lost = guest->lost;
    pthread_mutex_unlock(&guest->lock);
    return !lost;
}

static int flush(struct disk_guest *guest)
{
    keeper_call(guest->options.keeper, ask_flush, guest);
    if (!wait_answers(guest, true))
        return ERR_TIMEOUT;
    int result = guest->failed ? ERR_IO : 0;
    guest->failed = false;
    return result;
}

static struct guest_entry *entry_take(struct disk_guest *guest)
{
    struct guest_entry *free_one = NULL;
    pthread_mutex_lock(&guest->lock);
    for (uint32_t i = 0; i < WRITES_MAX && !free_one; i++)
        if (guest->entry[i].state == ENTRY_IDLE)
            free_one = &guest->entry[i];
    pthread_mutex_unlock(&guest->lock);
    return free_one;
}

/* False: nothing will happen any more. */
static bool pause_for(const struct disk_guest *guest, uint64_t wait_ns)
{
    const struct guest_options *options = &guest->options;
    uint64_t began_ns = now_ns(options);
    bool more = true;
    if (options->step)
        more = options->step(options->context);
    else
        nanosleep(&(struct timespec){.tv_nsec = (long)(wait_ns < PAUSE_NS_MAX ? wait_ns : PAUSE_NS_MAX)}, NULL);
    options->pace->held_back_ns += now_ns(options) - began_ns;
    return more;
}

static int transfer(struct disk_guest *guest, const struct disk_request *request)
{
    struct guest_entry *entry = entry_take(guest);
    if (!entry) {
        int result = flush(guest);
        if (result == ERR_TIMEOUT)
            return result;
        guest->failed |= result != 0; /* the next flush that is asked for says so */
        entry = entry_take(guest);
        assert(entry);
    }
    entry->request = (struct keeper_request){
        .request = {.op = request->op,
                    .slot = request->slot,
                    .offset = request->offset,
                    .buffer = guest->bytes,
                    .bytes = request->bytes,
                    .buffer_index = -1},
        .finished = finished,
        .flushed = flushed,
        .context = guest,
    };
    if (request->op == DISK_WRITE)
        memcpy(guest->bytes, request->buffer, request->bytes);
    struct question question = {.guest = guest, .entry = entry};
    for (;;) {
        question.hurry = guest->options.hurry && guest->options.hurry(guest->options.context);
        keeper_call(guest->options.keeper, ask, &question);
        if (question.wait_ns == 0)
            break;
        if (!pause_for(guest, question.wait_ns)) {
            guest->lost = true;
            return ERR_TIMEOUT;
        }
    }
    if (!wait_answers(guest, false))
        return ERR_TIMEOUT;
    int result = entry->request.request.result;
    if (result == 0 && request->op == DISK_READ)
        memcpy(request->buffer, guest->bytes, request->bytes);
    return result;
}

/* All of it is done while it is submitted: who uses a guest waits for each request at once. */
static void guest_submit(struct disk *disk, struct disk_request *request)
{
    struct disk_guest *guest = guest_of(disk);
    uint64_t offset;
    request->next = NULL;
    request->result = guest->lost ? ERR_TIMEOUT : disk_check(disk, request, &offset);
    if (request->result == 0 && request->bytes > GUEST_PIECE_BYTES)
        request->result = ERR_INVALID;
    if (request->result == 0)
        request->result = request->op == DISK_FLUSH ? flush(guest) : transfer(guest, request);
    request->done(request);
}

static void guest_wait(struct disk *disk, struct disk_request *request)
{
    (void)disk, (void)request;
}

static const struct disk_ops guest_ops = {
    .name = "guest",
    .submit = guest_submit,
    .wait = guest_wait,
    .close = guest_close,
};

/* ---- opening, and the keeper's thread -------------------------------------------------------------- */

struct opening {
    struct disk_guest *guest;
    uint32_t number;
    int result;
};

static void guest_enter(struct keeper *keeper, void *context)
{
    struct opening *opening = context;
    struct disk_guest *guest = opening->guest;
    struct keeper_disk *disk = opening->number < keeper->disks ? keeper->disk[opening->number] : NULL;
    if (!disk || !disk->io) {
        opening->result = ERR_NOT_FOUND;
        return;
    }
    guest->head = (struct disk){.ops = &guest_ops,
                                .geometry = disk->io->geometry,
                                .bytes = disk->io->bytes,
                                .alignment = disk->io->alignment,
                                .failure_domain = disk->io->failure_domain};
    memcpy(guest->head.name, disk->name, sizeof guest->head.name);
    guest->disk = disk;
    guest->joins = disk->joins;
    guest->next = keeper->guests;
    keeper->guests = guest;
}

int disk_guest_open(const struct guest_options *options, uint32_t number, struct disk **disk)
{
    struct disk_guest *guest = calloc(1, sizeof *guest);
    struct opening opening = {.guest = guest, .number = number};
    if (guest)
        guest->bytes = aligned_alloc(PAGE_BYTES, GUEST_PIECE_BYTES);
    if (!guest || !guest->bytes) {
        free(guest);
        return ERR_NO_MEMORY;
    }
    guest->options = *options;
    pthread_mutex_init(&guest->lock, NULL);
    clock_condition_init(&guest->changed);
    keeper_call(options->keeper, guest_enter, &opening);
    if (opening.result == 0) {
        *disk = &guest->head;
        return 0;
    }
    pthread_cond_destroy(&guest->changed);
    pthread_mutex_destroy(&guest->lock);
    free(guest->bytes);
    free(guest);
    return opening.result;
}

bool disk_guest_is_well(const struct disk *disk)
{
    const struct disk_guest *guest = guest_of(disk);
    return !guest->lost && keeper_disk_usable(guest->disk) && guest->disk->joins == guest->joins;
}

bool disk_guest_is_lost(const struct disk *disk)
{
    return guest_of(disk)->lost;
}

struct keeper_disk *disk_guest_host(const struct disk *disk)
{
    return guest_of(disk)->disk;
}

bool disk_guest_take(struct disk *disk, uint32_t slot, const struct slot_belief *left)
{
    struct disk_guest *guest = guest_of(disk);
    struct keeper_disk *host = guest->disk;
    uint32_t i = 0;
    while (i < GUEST_SLOTS_MAX && guest->slot[i].taken)
        i++;
    if (i == GUEST_SLOTS_MAX || slot >= host->slots || host->open[slot] || host->position[slot] == POSITION_IN_USE)
        return false;
    guest->slot[i] = (struct guest_slot){.taken = true, .slot = slot, .left = *left}; /* `left` may be the belief itself */
    host->belief[slot] = guest->slot[i].left;
    host->position[slot] = POSITION_IN_USE;
    host->open[slot] = &guest->slot[i].stand_in;
    return true;
}

static struct guest_slot *slot_find(const struct disk_guest *guest, uint32_t slot)
{
    for (uint32_t i = 0; i < GUEST_SLOTS_MAX; i++)
        if (guest->slot[i].taken && guest->slot[i].slot == slot)
            return (struct guest_slot *)(uintptr_t)&guest->slot[i];
    return NULL;
}

bool disk_guest_has(const struct disk *disk, uint32_t slot)
{
    const struct disk_guest *guest = guest_of(disk);
    const struct guest_slot *one = slot_find(guest, slot);
    return one && guest->disk->open[slot] == &one->stand_in;
}

void disk_guest_give(struct disk *disk, uint32_t slot, const struct slot_belief *left, uint64_t turn)
{
    struct disk_guest *guest = guest_of(disk);
    struct guest_slot *one = slot_find(guest, slot);
    if (one)
        slot_give(guest, one, left, turn);
}
