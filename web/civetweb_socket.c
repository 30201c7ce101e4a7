/*
 * civetweb_socket.c - CivetWeb, and what only its own file can see; see civetweb_socket.h. The file
 * is taken in, not changed: what is built is what packaging/web has got.
 */
#include <civetweb.c>

#include "civetweb_socket.h"

int civetweb_socket(const struct mg_connection *connection)
{
    return connection->client.sock;
}
