/*
 * store_machine.h - a machine in the simulation: disks, catalog, keeper and streams on virtual time, that can lose its power.
 *
 * Packets are made from (life, stream, number) alone, so that whoever finds one on a disk can tell what it must look like.
 */
#ifndef TESTS_STORE_MACHINE_H
#define TESTS_STORE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "catalog.h"
#include "keeper.h"
#include "purge_live.h"
#include "recovery.h"
#include "simulation.h"
#include "stream.h"

#define MACHINE_DISKS_MAX 8
#define MACHINE_STREAMS_MAX 8
#define MACHINE_LIVES_MAX 64

struct machine_options {
    uint64_t seed;
    uint32_t disks;
    uint32_t slots;       /* on each disk */
    uint32_t slot_bytes;  /* may be smaller than a real disk's: the store does not mind */
    uint8_t copies;
    uint32_t streams;
    uint32_t packet_bytes_max;
    uint64_t flush_window_ns;
    uint64_t latency_ns;
    uint64_t bandwidth;
    struct mender_options mender;
    uint64_t pool_bytes;  /* of buffers; 0: 24 frames */
    bool without_index;   /* segments get no key index */
    struct pressure_page *gauge; /* or null; the caller's */
    bool roomy;           /* more slots than packets: nothing durable can have been overwritten */
};

/* What most tests have: one stream, slots of 64 KiB, packets of up to 1,500 bytes, nothing that heals. */
struct machine_options machine_small(uint64_t seed, uint32_t disks, uint32_t slots, uint8_t copies);

struct machine_life {
    struct identity run;
    uint64_t taken[MACHINE_STREAMS_MAX];
    uint64_t durable[MACHINE_STREAMS_MAX]; /* the frontier when the life ended */
};

struct machine {
    struct machine_options options;
    struct simulation *simulation;
    struct simulated_media *media[MACHINE_DISKS_MAX];
    struct identity identity[MACHINE_DISKS_MAX];
    struct identity ring;
    struct disk *disk[MACHINE_DISKS_MAX];
    bool absent[MACHINE_DISKS_MAX]; /* boots without this disk, and reads nothing from it: set between two lives */
    struct catalog *catalog;
    struct pool *pool;
    struct keeper *keeper;
    struct stream *stream[MACHINE_STREAMS_MAX];
    struct machine_life life[MACHINE_LIVES_MAX];
    uint32_t lives;
    struct recovery_report report;
    uint64_t events;
    bool (*may_be_purged)(uint32_t life, uint32_t stream, uint64_t number); /* null: no packet may */
    bool running;
};

/* New media, nothing on them. */
void machine_make(struct machine *machine, const struct machine_options *options);
void machine_free(struct machine *machine);

/* Recovery, keeper, streams: the next life. `whole`: without the catalog. */
void machine_boot(struct machine *machine, bool whole);

/* Appends the next packet of a stream. Returns stream_append()'s result. */
int machine_append(struct machine *machine, uint32_t stream);

/* What a packet of a life and a stream is: `bytes` has room for packet_bytes_max, and packet->bytes is that. */
void machine_packet(const struct machine *machine, uint32_t life, uint32_t stream, uint64_t number, uint8_t *bytes,
                    struct packet *packet);

/* Lets one thing happen: a completion, the keeper. Returns false when nothing is under way. */
bool machine_step(struct machine *machine);

/* Steps until nothing is under way. */
void machine_settle(struct machine *machine);

/* Lets everything happen that is due until then, on time. */
void machine_run_until(struct machine *machine, uint64_t time_ns);

/* Appends `packets` packets, spread over the streams, with completions, ticks and time in between as the seed decides. */
void machine_work(struct machine *machine, uint32_t packets);

/* Ends the life: by a power cut, by kill -9, or in good order. The catalog keeps `catalog_changes` of what is queued. */
void machine_power_cut(struct machine *machine, uint32_t catalog_changes);
void machine_kill(struct machine *machine, uint32_t catalog_changes);
void machine_shut_down(struct machine *machine);

/*
 * Purges between two lives, on the disks that are not absent. A cut that was armed may come in the midst: then the machine is as after
 * machine_power_cut() or machine_kill(), with so many catalog changes, and ERR_CLOSED is returned.
 */
int machine_purge(struct machine *machine, struct purge_range *range, uint32_t ranges, uint32_t catalog_changes,
                  struct purge_report *report);

/*
 * Purges while the machine runs (purge_live.h): `beside` packets are appended meanwhile, over the streams, with completions and time in between as the seed decides. A cut
 * that was armed may come in the midst, as with machine_purge(). Otherwise what purge_live_run() says, *failure likewise.
 */
int machine_purge_live(struct machine *machine, struct purge_range *range, uint32_t ranges, uint32_t beside, uint32_t catalog_changes,
                       struct purge_report *report, struct failure *failure);

struct machine_check {
    uint64_t packets;   /* found, and right */
    uint64_t segments;
    uint64_t bad_frames;
    uint64_t purged;    /* of which only that is left, each copy counted */
    uint64_t holes;     /* in the packet numbers of a stream, in what is there */
};

/*
 * Reads all that the catalog names, with code of its own, and checks every packet against what it must be. Fails the test
 * (prints the seed, aborts) when a packet is wrong, when one that was durable is missing although nothing could have
 * overwritten it, or when there is one that was never taken.
 */
void machine_verify(struct machine *machine, struct machine_check *check);

uint64_t machine_random(struct machine *machine, uint64_t bound);

#endif
