/*
 * disk_guest.h - a disk of a ring that may be recorded into, for a thread that reads and rewrites slots of it beside the keeper, and waits for each answer.
 *
 *     disk_guest_open() -> { keeper_call(.. disk_guest_take() ..) -> disk_read(), disk_write(), disk_flush() -> keeper_call(.. disk_guest_give() ..) } -> disk_close()
 *
 * One more body of disk_io.h. Each request goes through the keeper, as the mender's do (keeper_request): so errors, silence and flushes of the disk are the
 * keeper's to judge, a disk can leave at any time (ERR_CLOSED), and an error at a flush strikes everything that the flush should have covered, whosesoever it is. To
 * give the thread the disk itself would have taken flush errors away from the recording. DISK_FLUSH makes durable what this guest has written.
 *
 * It gives way to the recording (P7) by the pressure gauge, as the mender does, and keeps to a rate. A disk that does not answer within the patience is lost to
 * the guest, as with disk_patient.c: all else ends with ERR_TIMEOUT, the memory is the guest's own, and it and the slots that it has taken are given
 * back when the disk has answered.
 *
 * Threads: one uses a guest, not the keeper's; where no thread runs the keeper (the simulation), `step` does. A guest is closed before its keeper is freed.
 */
#ifndef STORAGE_DISK_GUEST_H
#define STORAGE_DISK_GUEST_H

#include "keeper.h"

#define GUEST_PIECE_BYTES (1u << 20) /* of one request, at most */
#define GUEST_SLOTS_MAX 4u           /* taken at a time */

/* Shared by the guests of one piece of work, and the opener's, as long as they are open. Zeros to begin with, but `rate` and `heedless`. */
struct guest_pace {
    uint64_t rate; /* bytes a second; 0: as fast as the recording lets it */
    bool heedless; /* does not give way */
    uint64_t go_ns;
    struct pressure_pace pressure;
    uint64_t held_back_ns; /* waited for the recording */
};

struct guest_options {
    struct keeper *keeper;
    struct guest_pace *pace;
    unsigned patience_ms;           /* for each answer; 0: DISK_PATIENCE_MS */
    bool (*hurry)(void *context);   /* may be null; true: neither rate nor recording holds it back: what has been begun is to come to an end */
    bool (*step)(void *context);    /* null where a thread runs the keeper; else lets something happen, false: nothing ever will */
    void *context;
};

/* ERR_NOT_FOUND: the disk has left; ERR_NO_MEMORY. */
int disk_guest_open(const struct guest_options *options, uint32_t number, struct disk **disk);

/* Waits a moment, for something that the keeper does. False: nothing will happen any more. */
bool disk_guest_idle(const struct guest_options *options);

/* ---- inside keeper_call() -------------------------------------------------------------------------- */

/* Whether the disk is there and well, and has not been away since the guest was opened. */
bool disk_guest_is_well(const struct disk *disk);

/* Whose number it is in keeper_inside.h. */
struct keeper_disk;
struct keeper_disk *disk_guest_host(const struct disk *disk);

/*
 * The slot is nobody else's from now on: readers of whatever was there are told that it is overtaken. `left` is what is believed of it if it has to be given back by the guest
 * itself. False: somebody uses it, or the guest has GUEST_SLOTS_MAX.
 */
bool disk_guest_take(struct disk *disk, uint32_t slot, const struct slot_belief *left);
bool disk_guest_has(const struct disk *disk, uint32_t slot);

/* Gives it back, with what is believed of it; `turn`: where that is nothing, when its turn comes to be reused (0: it is free). Nothing where it has not got it. */
void disk_guest_give(struct disk *disk, uint32_t slot, const struct slot_belief *left, uint64_t turn);

/* Whether it is lost: has not answered, or was closed, in the midst of something. */
bool disk_guest_is_lost(const struct disk *disk);

#endif
