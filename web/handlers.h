/*
 * handlers.h - what answers the routes of routes.def, one function each, and the router before
 * them. Each returns the status that it has answered with.
 */
#ifndef WEB_HANDLERS_H
#define WEB_HANDLERS_H

#include "exchange.h"

#define ROUTE(method, path, access, handler) int handler(struct exchange *exchange);
#include "routes.def"
#undef ROUTE

/* Finds the route of a request, checks who asks and what is sent, and calls its handler. */
int route_request(struct exchange *exchange);

/* The files of the interface: GET or HEAD of a path outside of /api. */
int handle_ui_file(struct exchange *exchange);

/* Prints the table of routes: method, path, access, for the tests of openapi.yaml. */
void routes_print(void);

#endif
