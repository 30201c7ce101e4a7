/*
 * role.h - what users and tokens may do. Every route (routes.def) asks for one right; a role is a
 * set of rights, and each role has those of the ones before it.
 */
#ifndef WEB_ROLE_H
#define WEB_ROLE_H

#include <jansson.h>

#include "errors.h"

enum right {
    RIGHT_NONE = 0,     /* whoever has logged in */
    RIGHT_READ = 1,     /* statistics, history, events, what rings and disks there are */
    RIGHT_PACKETS = 2,  /* packets, with payload */
    RIGHT_CONTROL = 4,  /* rings, disks, captures */
    RIGHT_USERS = 8,    /* users */
    RIGHT_HEADERS = 16, /* packets up to the end of their headers */
};

enum role { ROLE_VIEWER, ROLE_ANALYST, ROLE_OPERATOR, ROLE_ADMIN, ROLES };

/* "viewer" ... Static memory. */
const char *role_name(enum role role);

/* The role of that name, or ERR_INVALID with a sentence that lists them. */
int role_find(const char *name, struct failure *failure);

unsigned role_rights(enum role role);

/* Gives viewers RIGHT_HEADERS. Before the first request only. */
void role_give_headers(void);

/* Rights as an array of words: "read", "packets", "control", "users", "headers". Null: out of
 * memory. */
json_t *rights_json(unsigned rights);

/* An array of such words, not empty, into *rights. ERR_INVALID. */
int rights_parse(const json_t *words, unsigned *rights, struct failure *failure);

#endif
