/*
 * network_interface.h - what the kernel knows of a network interface, for the live sources.
 */
#ifndef CAPTURE_NETWORK_INTERFACE_H
#define CAPTURE_NETWORK_INTERFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errors.h"
#include "packet.h"

#define NETWORK_SNAPSHOT_BYTES 262144u /* the usual "everything", as in libpcap */

struct network_interface {
    int index;
    uint16_t hardware_type; /* ARPHRD_ of linux/if_arp.h */
    uint8_t hardware[6];
    uint32_t mtu;
    bool up;
};

/*
 * Asks through `fd`, any socket, in whose network namespace `name` is looked up. ERR_NOT_FOUND
 * names the interfaces that there are; ERR_IO.
 */
int network_interface_read(int fd, const char *name, struct network_interface *interface,
                           struct failure *failure);

/* The LINKTYPE_ of what a raw packet socket gives for a hardware type. ERR_UNSUPPORTED says that
 * there is none. */
int network_link_type(const char *name, uint16_t hardware_type, uint16_t *link_type,
                      struct failure *failure);

/* The longest frame of an interface that has not been merged from several: its MTU, link header and
 * two VLAN tags. */
uint32_t network_frame_max(uint16_t link_type, uint32_t mtu);

/* ERR_INVALID where the names are none or too many, or one is empty, longer than bytes_max or given
 * twice. */
int network_names_check(const char *const *names, uint32_t count, size_t bytes_max,
                        struct failure *failure);

/* The sentence for missing privileges: which capability is needed and how to get it. Returns
 * ERR_PERMISSION. */
int network_no_privilege(const char *name, struct failure *failure);

/*
 * Switches off what merges received frames into larger ones before they can be captured: GRO and LRO. Returns what it has
 * switched off ("GRO", "LRO", "GRO and LRO"), static memory, or null: nothing was on, or it cannot be changed (then
 * frames longer than the MTU are still counted as oversized).
 */
const char *network_unmerge(const char *name);

/*
 * Packets that the adapter has lost since it was brought up, missed for want of a buffer: the
 * kernel never saw them. network_drops_open() gives a descriptor to ask through, closed by the
 * caller, or -1: nothing can be counted then.
 */
int network_drops_open(void);
uint64_t network_drops(int fd, int index);

#endif
