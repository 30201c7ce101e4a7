/*
 * web_confinement.h - what the web process gives up before it reads its first byte from the
 * network: being root, every capability, every file but its own directory, every program, and the
 * system calls that it has no use for. A file descriptor that it holds already stays good.
 */
#ifndef WEB_WEB_CONFINEMENT_H
#define WEB_WEB_CONFINEMENT_H

#include <sys/types.h>

#include "errors.h"

struct web_identity {
    uid_t user;
    gid_t group;
};

/*
 * Whom the web process is to run as where it was started as root: `name`, or (null) the user
 * tapeloop-web where there is one, or else nobody. Not root: ourselves, and a `name` must be our
 * own. ERR_NOT_FOUND, ERR_PERMISSION, ERR_INVALID.
 */
int web_confinement_identity(const char *name, struct web_identity *identity,
                             struct failure *failure);

/* Becomes that user, and gives up capabilities and files outside of `directory`. One thread, before
 * others are made. */
int web_confinement_begin(const struct web_identity *identity, const char *directory,
                          struct failure *failure);

/* Restricts the system calls of all threads. When everything is open. */
int web_confinement_finish(struct failure *failure);

#endif
