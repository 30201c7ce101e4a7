/*
 * confinement.h - how tapeloop-extract gives up what it could do, before it looks at foreign bytes.
 *
 * Two steps, because the disks' threads and rings are made between them:
 *
 *   confinement_begin()  one thread only, nothing read yet: no new privileges, another user and no
 * groups if root, no capabilities, no core files, and by Landlock (where there is one) no file but
 * the five that names of ports, protocols and hosts in filters come from, no TCP
 *   confinement_finish() all threads at once, by seccomp: only the system calls that reading,
 * judging and writing packets take; anything else ends the process. Opening a file is an error, or,
 * under Landlock, possible for reading.
 *
 * In a build with sanitizers, whose runtimes do what they please, the second step only forbids what
 * an intruder would want (programs, sockets, tracing, files for writing) and lets the rest pass.
 */
#ifndef STORAGE_CONFINEMENT_H
#define STORAGE_CONFINEMENT_H

#include "errors.h"

/* ERR_PERMISSION: something could not be given up. Landlock's absence is none. */
int confinement_begin(struct failure *failure);

/* ERR_UNSUPPORTED: the kernel has no seccomp. */
int confinement_finish(struct failure *failure);

#endif
