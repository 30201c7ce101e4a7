/*
 * purge_live.h - packets are erased from a ring while it is recorded into, read and healed.
 *
 * The same as purge.h says, segment by segment, beside the keeper: a segment that is being filled and holds something that is to go is sealed early; each sealed
 * one is written anew under the next revision into other slots of the same disks, then the keeper believes those instead, in one step, and the old slots
 * are overwritten with zeros. In between recording goes on, and the mender has its turn. Reading and writing give way to recording, and keep to a rate.
 *
 * A segment that expires before its turn has come is gone as it would have been, and a disk without a free slot gives up its oldest segment, at all its places. Whoever reads
 * the old slots goes on doing so: they are left as they are until the readers that were there have gone, for a time; after that the reader is
 * told that it was overtaken. What is left of earlier laps in slots that recording uses (behind what it has written, and in those that are prepared) cannot be
 * cleared now: they are counted.
 *
 * A crash at any instant leaves each segment in its old or in its new revision, as with purge.h, and the next start has to read the disks whole.
 *
 * Threads: one, not the keeper's. Members do not join meanwhile. Memory: two slots' bytes, a MiB a disk, and what the key index of one segment takes.
 */
#ifndef STORAGE_PURGE_LIVE_H
#define STORAGE_PURGE_LIVE_H

#include "purge.h"

struct purge_live_options {
    struct purge_options purge; /* of recovery: ring, catalog, keys_of, progress, give_up (asked between segments) and context */
    struct keeper *keeper;
    uint64_t rate;              /* bytes read and written a second; 0: as fast as the recording lets it */
    bool heedless;              /* does not give way to recording */
    unsigned patience_ms;       /* for each answer of a disk; 0: DISK_PATIENCE_MS */
    uint64_t seal_wait_ns;      /* for segments to be sealed that hold something that is to go */
    uint64_t reader_wait_ns;    /* for those who read an old slot */
    void (*seal)(void *context, uint32_t stream);           /* asks the stream to seal what it fills (stream_request_seal()) */
    bool (*is_read)(void *context, uint64_t from_ns, uint64_t before_ns); /* whether somebody still reads who came then; may be null: nobody */
    bool (*step)(void *context);                            /* null where a thread runs the keeper; see disk_guest.h */
    void *context;
};

/*
 * 0 says that of the packets that were named no byte is left on the disks, but for what report->slots_in_use may hold. ERR_BUSY: a disk is not well, or some
 * segment could not be sealed, and stays; the rest has been erased. ERR_INTERRUPTED, ERR_TIMEOUT, ERR_CLOSED (a disk has left), ERR_NO_SPACE,
 * ERR_IO: part of it has been erased. Purging again goes on.
 */
int purge_live_run(const struct purge_live_options *options, struct purge_report *report, struct failure *failure);

#endif
