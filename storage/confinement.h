/*
 * confinement.h - how a process gives up what it could do, before it looks at foreign bytes.
 *
 * Two steps, because threads, rings and tables are made between them:
 *
 *   confinement_begin()  one thread only, nothing read yet: no new privileges, another user and no
 * groups if root, no capabilities, no core files, and by Landlock (where there is one) no file (for
 * CONFINEMENT_READING: but the few that names of ports, protocols and hosts in filters come from),
 * no TCP
 *   confinement_finish() all threads at once, by seccomp: only the system calls that its work
 * takes; anything else ends the process. Opening a file is an error, or, of a process that reads
 * under Landlock, possible for reading.
 *
 * In a build with sanitizers, whose runtimes do what they please, the second step only forbids what
 * an intruder would want (programs, sockets, tracing, files for writing) and lets the rest pass.
 */
#ifndef STORAGE_CONFINEMENT_H
#define STORAGE_CONFINEMENT_H

#include <stdint.h>

#include "errors.h"

enum confinement {
    CONFINEMENT_READING,   /* tapeloop-extract: reads disks, judges, writes packets */
    CONFINEMENT_COMPUTING, /* tapeloop-classify: memory that is mapped, and nothing else */
};

/* ERR_PERMISSION: something could not be given up. Landlock's absence is none. */
int confinement_begin(enum confinement kind, struct failure *failure);

/* No more memory than that, all mappings together; it cannot be raised again. In a build with
 * sanitizers, which reserve without bound, nothing. */
int confinement_limit(uint64_t bytes, struct failure *failure);

/* ERR_UNSUPPORTED: the kernel has no seccomp. */
int confinement_finish(enum confinement kind, struct failure *failure);

#endif
