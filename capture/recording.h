/*
 * recording.h - recordings: a live source, a pipeline and a thread that runs it into a ring, until
 * somebody stops it.
 *
 *   state     owner of source and pipeline   moved on by
 *   running   the recording's thread         recording_stop(), the source's end or failure
 *   ended     nobody: both are closed        recording_release() of the last who holds it
 *
 * Who starts a recording holds it; it ends when he stops it, not when he lets go of it.
 */
#ifndef CAPTURE_RECORDING_H
#define CAPTURE_RECORDING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "recorder.h"

#define RECORDING_INTERFACES_MAX 64u

struct recording_list;
struct recording;

enum recording_backend { BACKEND_AUTO, BACKEND_PACKET, BACKEND_PCAP, BACKEND_GENERATOR };

struct recording_options {
    const char *interface[RECORDING_INTERFACES_MAX];
    uint32_t interfaces;
    enum recording_backend backend;
    uint32_t snapshot_bytes;
    uint32_t buffer_bytes;
    bool promiscuous;
    bool outgoing;
    const char *key;                  /* what recording_runs() finds it by; may be null */
    uint64_t generator_packets;       /* in all, 0: no end */
    uint64_t generator_packets_per_s; /* 0: as fast as the disks take them */
    uint64_t generator_seed;
};

int recording_list_open(struct recording_list **list, struct failure *failure);
/* All recordings have been stopped and released. */
void recording_list_close(struct recording_list **list);

/* The backend of that name ("auto", "packet" ...), or ERR_INVALID with a sentence. */
int recording_backend(const char *name, struct failure *failure);

/*
 * Starts a recording. ERR_NOT_FOUND (ring, interface), ERR_PERMISSION, ERR_BUSY (the interface is
 * being recorded into this ring) ...
 */
int recording_start(struct recorder *recorder, const char *ring,
                    const struct recording_options *options, struct recording **result,
                    struct failure *failure);

/* Whether a recording with that key runs in the ring. */
bool recording_runs(struct recorder *recorder, const char *ring, const char *key);

/* Becomes readable when the recording has ended. */
int recording_ended_fd(const struct recording *recording);

bool recording_has_ended(struct recording *recording);

/* Asks it to end. Does not wait. */
void recording_stop(struct recording *recording);

/*
 * Waits until it has ended (sealed, durable): 0, or what ended it or was lost, with its sentence.
 * *account (may be null) is what became of its packets.
 */
int recording_wait(struct recording *recording, struct account *account, struct failure *failure);

/* {`account`, `interfaces`, `bytes_per_s`}: as it is now. */
json_t *recording_progress(struct recording *recording);

/* Lets go of it. A recording that runs goes on. */
void recording_release(struct recording **slot);

/*
 * Stops all recordings of a ring (null: of all rings), waits for them, adds up their accounts.
 * Returns how many there were; of their failures the first one.
 */
uint32_t recordings_stop(struct recorder *recorder, const char *ring, struct account *account,
                         struct failure *failure);

/* Forgets recordings that ended by themselves and that nobody holds. Now and then. */
void recordings_reap(struct recorder *recorder);

/* Appends {`interfaces`, `backend`, `since_ns`, `batches`} for each recording of the ring. */
void recordings_describe(struct recorder *recorder, const char *ring, json_t *array);

#endif
