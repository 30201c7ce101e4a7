/*
 * simulation.h - disks that exist in memory, run on virtual time and fail on purpose, all from one seed.
 *
 * A simulation holds any number of disks and one clock. Requests complete in an order and after
 * delays that the seed decides; nothing happens outside simulation_step() and disk_wait(), so a run
 * is single-threaded and replays exactly from its seed.
 *
 * Power cuts: a disk remembers each write since the last completed flush. simulation_power_cut()
 * keeps, drops or tears (at multiples of 512 bytes) each of them as the seed decides, including
 * those still under way, fails nothing, completes nothing, and leaves the media as a fresh machine
 * would find it.
 *
 * Media are sparse: pages never written read as zeros.
 *
 * What only a bug of the caller can do ends the program with a sentence: a buffer changed while a write
 * of it was under way, a wait for something that hangs, a wait inside done().
 */
#ifndef STORAGE_SIMULATION_H
#define STORAGE_SIMULATION_H

#include "disk_io.h"

struct simulation;
struct simulated_media; /* what survives a power cut; outlives the disks opened on it */

struct simulation *simulation_new(uint64_t seed);
void simulation_free(struct simulation **simulation); /* after its media, which go after their disks */

/* Virtual time in nanoseconds, from 1. Advanced by completions and simulation_advance(). */
uint64_t simulation_now_ns(const struct simulation *simulation);

/* A uniformly distributed number below `bound` from the simulation's seed. */
uint64_t simulation_random(struct simulation *simulation, uint64_t bound);

/* Media of `bytes`; `bandwidth` in bytes/s for reads and writes together, 0 = unlimited; latency_ns per request. */
struct simulated_media *simulated_media_new(struct simulation *simulation, uint64_t bytes, uint64_t bandwidth,
                                            uint64_t latency_ns);
void simulated_media_free(struct simulated_media **media);

/* Opens the media as a disk; ERR_BUSY while another disk is open on it with DISK_OPEN_EXCLUSIVE. */
int simulated_disk_open(struct simulated_media *media, enum disk_open_mode mode, struct disk **disk,
                        struct failure *failure);

/* Completes the next request (calls its done()) and advances the clock to it. Returns false when none is under way. */
bool simulation_step(struct simulation *simulation);

/* When the next request will complete; UINT64_MAX when none is under way that will. */
uint64_t simulation_next_ns(const struct simulation *simulation);

/* Lets virtual time pass; completes nothing. */
void simulation_advance(struct simulation *simulation, uint64_t ns);

/*
 * Power goes: every disk opened on any media of the simulation is dead (its requests never complete and the
 * disk structs are freed by simulated_disk_forget()), media keep what the seed decides of unflushed writes.
 */
void simulation_power_cut(struct simulation *simulation);

/*
 * kill -9 of the process: writes under way still land whole, in the kernel's hands; flushes never answer.
 * A write that hangs (FAULT_HUNG) holds the media's lock until simulated_media_unhang() lets it land.
 */
void simulation_process_kill(struct simulation *simulation);

enum simulation_cut {
    SIMULATION_CUT_POWER,   /* simulation_power_cut */
    SIMULATION_CUT_PROCESS, /* simulation_process_kill */
};

/*
 * Arms one cut: it comes with the `events`-th event from now (0: disarms), in the midst of whatever the code
 * under test is doing. Events are submissions and completions; simulation_events() counts them since the
 * simulation began, so that a test can run once for the number and then once for each event.
 *
 * So that the code under test gets out of its own functions then: on a dead disk disk_wait() and disk_close()
 * end requests with ERR_CLOSED, done() called, nothing touched. simulation_cut_happened() tells; it is
 * false again once the next cut is armed.
 */
void simulation_cut_after(struct simulation *simulation, uint64_t events, enum simulation_cut kind);
bool simulation_cut_happened(const struct simulation *simulation);
uint64_t simulation_events(const struct simulation *simulation);

/* Frees a disk that a power cut or kill left behind, without waiting and without calling done(). */
void simulated_disk_forget(struct disk **disk);

/* Direct access to the media for tests (flip a bit, compare): copies bytes out or in. No virtual time. */
void simulated_media_peek(struct simulated_media *media, uint64_t offset, uint8_t *bytes, uint64_t count);
void simulated_media_poke(struct simulated_media *media, uint64_t offset, const uint8_t *bytes, uint64_t count);

/* ---- faults: what the next requests that match will suffer ------------------------------------- */

enum fault_kind {
    FAULT_EIO,        /* fails with ERR_IO, media unchanged; a flush: some of what it covered no later flush saves */
    FAULT_EIO_LANDED, /* fails with ERR_IO, but the write landed all the same */
    FAULT_TORN,       /* reported as done; only a part, in units of 512 bytes, landed */
    FAULT_LOST,       /* reported as done; nothing landed */
    FAULT_MISDIRECTED,/* reported as done; landed at another place of the same disk */
    FAULT_FLIPPED,    /* one bit changed on the way (write: on the media; read: in the buffer) */
    FAULT_DELAYED,    /* completes `delay_ns` later */
    FAULT_HUNG,       /* never completes until simulated_media_unhang() */
    FAULT_VANISHED,   /* from now on every request fails with ERR_IO until simulated_media_return(); unflushed writes may be lost */
};

/* Arms one fault: it strikes the (after+1)-th request of kind `op` (0: any that it makes sense for) from now. Several may be armed. */
void simulated_media_fault(struct simulated_media *media, enum fault_kind kind, enum disk_op op, uint32_t after,
                           uint64_t delay_ns);
/* Strikes each request that fits with a probability of 1/one_in, until simulated_media_heal(). one_in 1 with FAULT_HUNG: the disk hangs. */
void simulated_media_fault_often(struct simulated_media *media, enum fault_kind kind, enum disk_op op, uint32_t one_in,
                                 uint64_t delay_ns);
void simulated_media_unhang(struct simulated_media *media);
void simulated_media_return(struct simulated_media *media);
/* Disarms all faults, lets go of what hangs, and is back if it had vanished. */
void simulated_media_heal(struct simulated_media *media);

/* From the next request on: a disk that becomes slow, or fast again. As in simulated_media_new(). */
void simulated_media_pace(struct simulated_media *media, uint64_t bandwidth, uint64_t latency_ns);

/* How many faults of this kind have struck so far. */
uint64_t simulated_media_struck(const struct simulated_media *media, enum fault_kind kind);

/* ---- the faulty body ---------------------------------------------------------------------------- */

/*
 * Wraps another disk: `after` requests of kind `op` (0: any) pass, the next fails with ERR_IO, and so do all
 * that follow unless `once` (style: fail the first call, the second ... until the test passes). Requests
 * of other kinds pass. Takes ownership of `inner`, also of its name and size; close closes it.
 */
struct disk *disk_faulty_wrap(struct disk *inner, enum disk_op op, uint64_t after, bool once);
bool disk_faulty_struck(const struct disk *faulty);

#endif
