/*
 * control_server.h - the control socket: who may connect, one thread a connection, one request at a
 * time on each.
 *
 * Bounded: CONNECTIONS_MAX connections; one more is answered "busy". A connection that has been
 * idle for long gives way then.
 */
#ifndef CAPTURE_CONTROL_SERVER_H
#define CAPTURE_CONTROL_SERVER_H

#include "recorder.h"

#define CONNECTIONS_MAX 160u /* READINGS_MAX, and room for everybody else */

struct control_server;

/*
 * Makes DIR/control.sock (0660) and listens. The caller holds the recorder's lock: a socket that
 * lies there is of a recorder that is dead, and replaced.
 */
int control_server_open(struct recorder *recorder, struct control_server **result,
                        struct failure *failure);

/*
 * Ends the service if nobody is connected: true, and from then on whoever connects is closed
 * without a word. False: somebody is, and nothing changes.
 */
bool control_server_leave(struct control_server *server);

/* Removes the socket, lets requests end (they see that the recorder stops), joins all threads. A
 * null *slot is allowed. */
void control_server_close(struct control_server **slot);

#endif
