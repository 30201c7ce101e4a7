/*
 * capture_writer.h - writes packets as a capture file: pcapng, or classic pcap with nano- or
 * microseconds.
 *
 *     capture_writer_open() -> capture_writer_packet() ... -> capture_writer_finish()
 *
 * pcapng is written as one section. An interface block comes right before the first packet of its
 * interface, so that interfaces are numbered in the order of their first packets and those without
 * packets do not appear. A file without any packet has one interface all the same: libpcap opens
 * none without. Three things about it are decisions:
 *
 *   times             pcapng counts from 1970 with an unsigned number; a stored time may be
 *                     earlier. Such a packet belongs to a second block of its interface, whose
 *                     if_tsoffset lies 9,223,372,037 seconds before 1970: every 64-bit time is
 *                     then exact, and Wireshark and libpcap read it back as it was.
 *   snapshot length   libpcap refuses a file whose interfaces differ in it, so every block says
 *                     0, no limit; an interface that cut its packets says so in a comment.
 *   link types        the format allows several in one file and Wireshark reads them; libpcap and
 *                     tcpdump refuse them.
 *
 * Classic pcap holds one link type and seconds from 0 to 2^32 - 1. A second link type is refused
 * with ERR_UNSUPPORTED; a time outside is moved to the nearest that fits and counted, because the
 * packet matters more.
 *
 * Threads: one at a time.
 */
#ifndef STORAGE_CAPTURE_WRITER_H
#define STORAGE_CAPTURE_WRITER_H

#include <stdint.h>

#include "errors.h"
#include "packet.h"

enum capture_format {
    CAPTURE_PCAPNG = 1,
    CAPTURE_PCAP_NS = 2,
    CAPTURE_PCAP_US = 3,
};

struct capture_writer_options {
    enum capture_format format;
    int fd;              /* any kind, blocking or not; stays the caller's */
    uint64_t bytes_max;  /* of the whole output, 0: no limit */
    const char *comment; /* on the section, null: none. pcapng only */
};

struct capture_writer;

/* Writes nothing yet. ERR_INVALID (format), ERR_NO_MEMORY. */
int capture_writer_open(const struct capture_writer_options *options, struct capture_writer **out,
                        struct failure *failure);

/*
 * The number that this description has in this file; equal descriptions have the same one.
 * ERR_NO_MEMORY, ERR_TOO_LARGE (more than 65,535). Nothing is written until its first packet comes.
 */
int capture_writer_interface(struct capture_writer *writer,
                             const struct interface_description *description);

/*
 * Appends a packet; `packet->interface` is not looked at. 0, or
 * ERR_TOO_LARGE      it would make the output longer than bytes_max: nothing of it was written;
 * ERR_UNSUPPORTED    its link type does not fit into this classic pcap file: nothing of it was
 * written; ERR_CLOSED         the reader of the output is gone; ERR_NO_SPACE, ERR_IO ...: writing
 * failed. capture_writer_failure() has the sentence; the file ends in mid-packet.
 */
int capture_writer_packet(struct capture_writer *writer, uint32_t number,
                          const struct packet *packet);

/* A comment for the next packet; if none comes, for the statistics at the end. Cut at 500 bytes;
 * pcap has no place for it. */
void capture_writer_comment(struct capture_writer *writer, const char *text);

#define CAPTURE_UNKNOWN UINT64_MAX

struct capture_statistics {
    uint64_t received; /* packets that the interface saw, or CAPTURE_UNKNOWN */
    uint64_t dropped;  /* of them, dropped against the user's will, or CAPTURE_UNKNOWN */
    int64_t from_ns;   /* the stretch of time that the counts are of; from > to: not known */
    int64_t to_ns;
};

/* Sets what the interface's statistics block at the end of the file will say beside the packets
 * written. */
void capture_writer_statistics(struct capture_writer *writer, uint32_t number,
                               const struct capture_statistics *statistics);

/* Brings everything appended so far to the descriptor. Errors as for capture_writer_packet(). */
int capture_writer_flush(struct capture_writer *writer);

/* Writes statistics and comments that are left, and flushes. Nothing may be appended afterwards. */
int capture_writer_finish(struct capture_writer *writer);

/* Frees; writes nothing. Nulls. */
void capture_writer_close(struct capture_writer **writer);

uint64_t capture_writer_bytes(const struct capture_writer *writer); /* of the output so far */
uint64_t capture_writer_packets(const struct capture_writer *writer);
uint64_t capture_writer_times_moved(
    const struct capture_writer *writer); /* pcap: packets whose time did not fit */
const struct failure *capture_writer_failure(const struct capture_writer *writer);

#endif
