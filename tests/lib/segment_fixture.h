/*
 * segment_fixture.h - segments made by hand, without a recorder: a disk image in memory and what to
 * tell a reader of it.
 *
 *     fixture_open() -> { fixture_begin() -> fixture_packet() ... -> fixture_seal() } ... ->
 * fixture_close()
 *
 * The bytes of a packet follow from its stream and its number, so that whoever reads it back can
 * tell whether it is the one. The image may be changed at will (flip a bit, zero a page) and read
 * through fixture_disk(), or written to a file.
 */
#ifndef TESTS_SEGMENT_FIXTURE_H
#define TESTS_SEGMENT_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "disk_io.h"
#include "flow_frames.h"
#include "frame.h"
#include "segment_index.h"
#include "worker.h"

#define FIXTURE_SLOTS_OFFSET (64u * 1024)

struct fixture {
    uint8_t *image;
    uint64_t bytes;
    uint64_t slot_bytes;
    uint32_t slots;
    struct identity ring;
    uint64_t reads; /* requests that the disks of this fixture have answered */
    uint64_t read_bytes;
    uint64_t broken_from; /* reads that touch [from, to) of the image fail with ERR_IO */
    uint64_t broken_to;
};

/* A segment being written. */
struct fixture_segment {
    struct fixture *fixture;
    struct worker_segment
        about; /* what a reader is told: valid at any time after the first frame */
    struct frame_identity identity;
    struct frame_table table;
    struct frame_builder builder;
    struct segment_index index;
    flow_keys_of *keys_of;
    struct flow_index *flows; /* null: without a key index */
    struct account account;
    uint8_t *buffer;
    uint32_t frame_capacity;
    uint32_t offset;
    uint32_t number;
    uint64_t next_packet;
};

void fixture_open(struct fixture *fixture, uint32_t slots, uint64_t slot_bytes);
void fixture_close(struct fixture *fixture);

/* The image as a disk, with geometry. Reads are answered in disk_wait(). disk_close() it. */
struct disk *fixture_disk(struct fixture *fixture);

/*
 * From now on the disk gives so many answers, and then none to whoever waits for a while only; UINT64_MAX: all of them. disk_wait() is
 * answered always: at last it comes to itself.
 */
void fixture_disk_hangs(struct disk *disk, uint64_t after);

/* Writes the image to a new file at `path`. */
void fixture_write(const struct fixture *fixture, const char *path);

/* The image's byte at `offset` of a slot. */
uint8_t *fixture_slot(const struct fixture *fixture, uint32_t slot, uint64_t offset);

/*
 * Begins a segment at `places` slots (copies), with its OPEN frame. `run` is one byte that stands
 * for a run; frames are closed when `frame_bytes` are full (0: FRAME_BYTES_USUAL).
 */
void fixture_begin(struct fixture_segment *segment, struct fixture *fixture, const uint32_t *slots,
                   uint32_t places, uint8_t run, uint32_t stream, uint64_t position,
                   uint64_t first_packet, uint32_t frame_bytes);

/* The segment gets a key index of what follows. After fixture_begin(), before the first packet. */
void fixture_index(struct fixture_segment *segment, flow_keys_of *keys_of);

/* Adds an interface; fixture_interface_usual() is Ethernet, named "eth" and the stream's number.
 * Returns its number. */
int fixture_interface(struct fixture_segment *segment,
                      const struct interface_description *description);
int fixture_interface_usual(struct fixture_segment *segment);

/* The bytes that packet `number` of a stream has. */
void fixture_bytes(uint32_t stream, uint64_t number, uint8_t *bytes, uint32_t count);

/* Appends the stream's next packet. False: it does not fit into the slot any more, nothing was
 * added. */
bool fixture_packet(struct fixture_segment *segment, int interface, uint8_t direction,
                    int64_t time_ns, uint32_t captured_bytes, uint32_t original_bytes);

/* The same with bytes of the caller's. */
bool fixture_packet_bytes(struct fixture_segment *segment, int interface, uint8_t direction,
                          int64_t time_ns, const uint8_t *bytes, uint32_t captured_bytes,
                          uint32_t original_bytes);

/* Closes the frame: what was appended so far is on the image and in `about`. */
void fixture_flush(struct fixture_segment *segment);

/* Closes the frame, writes index and seal. `about` then describes a sealed segment. */
void fixture_seal(struct fixture_segment *segment);

/* Frees what the making took. The image stays. Also after fixture_seal(). */
void fixture_end(struct fixture_segment *segment);

#endif
