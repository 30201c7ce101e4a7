/*
 * doorkeeper.h - the process that tapeloop-web is started as: it starts the web process, again if
 * that dies, and connects to the recorder for it. It reads nothing that comes from the network.
 *
 *     tapeloop-web (as started) --fork--> the web process (another user, confined)
 *            |  <---- "c" ----------------------'
 *            |  -- connected control socket --> '
 *
 * The web process ends with 0 when it was told to, with 1 when it could not begin (the doorkeeper
 * then ends, too); any other end is a crash, after which there is a new one within a second.
 */
#ifndef WEB_DOORKEEPER_H
#define WEB_DOORKEEPER_H

/* The web process, in a fork of its own: `door_fd` is its end. Returns the exit status. */
typedef int (*doorkeeper_worker)(int door_fd, void *context);

/*
 * Serves until SIGTERM, SIGINT or SIGHUP, which it passes on. SIGCHLD and these are blocked on
 * return. Returns the exit status. `state_directory` is the recorder's.
 */
int doorkeeper_run(const char *state_directory, doorkeeper_worker worker, void *context);

#endif
