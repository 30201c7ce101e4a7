/*
 * civetweb_socket.h - the socket below a connection of CivetWeb, which has no function for it.
 */
#ifndef WEB_CIVETWEB_SOCKET_H
#define WEB_CIVETWEB_SOCKET_H

struct mg_connection;

/* To wait for its end, and nothing else: it is the connection's, and TLS may be on it. */
int civetweb_socket(const struct mg_connection *connection);

#endif
