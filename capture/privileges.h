/*
 * privileges.h - giving up what a recorder does not need, before it has a second thread.
 */
#ifndef CAPTURE_PRIVILEGES_H
#define CAPTURE_PRIVILEGES_H

#include "errors.h"

/*
 * Keeps the capabilities named in privileges.c, of those that the process has, and gives up the
 * others for good, for itself and its children; no program that it starts gains any (no_new_privs).
 * Also asks the kernel to kill it last when memory runs out. ERR_PERMISSION: the kernel refused to
 * take them.
 */
int privileges_drop(struct failure *failure);

/* Lets the kernel kill that child, a reader, first when memory runs out. */
void privileges_offer_child(int pid);

#endif
