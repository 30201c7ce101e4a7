/*
 * views.h - how rings, disks, accounts and reports look to a person. Everything comes from an
 * answer of the recorder and may be missing or odd.
 */
#ifndef CLI_VIEWS_H
#define CLI_VIEWS_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "account.h"

/* Some lines about one ring as in ring.list. */
void view_ring(const json_t *ring);

/* A table, one line a ring. */
void view_rings(const json_t *rings);

/* A table of those disks that belong to `ring` (null: all, with a column for it), and another of those that it has not: missing, foreign, removed. */
void view_disks(const json_t *disks, const char *ring, const char *indent);

/* One line an interface, and one for all; the columns of causes that never occurred are left out.
 * Each line adds up. */
void view_interfaces(const json_t *interfaces, const char *indent);

/* One line a cause, with what it means, and the sum. */
void view_account(const struct account *account, FILE *file);

/* How many packets of an account were lost on the way: for want of buffers, by the kernel, with a
 * disk. */
uint64_t view_dropped(const struct account *account);

/* Name and value, for objects whose members are not fixed (settings, reports). */
void view_members(const json_t *object, const char *indent, FILE *file);

/* "dropped_queue" -> "dropped queue". Static buffers. */
const char *view_line_name(int line);

#endif
