/*
 * role.c - see role.h.
 */
#include "role.h"

#include <string.h>

static struct {
    const char *name;
    unsigned rights;
} roles[ROLES] = {
    [ROLE_VIEWER] = {"viewer", RIGHT_READ},
    [ROLE_ANALYST] = {"analyst", RIGHT_READ | RIGHT_HEADERS | RIGHT_PACKETS},
    [ROLE_OPERATOR] = {"operator", RIGHT_READ | RIGHT_HEADERS | RIGHT_PACKETS | RIGHT_CONTROL},
    [ROLE_ADMIN] = {"admin",
                    RIGHT_READ | RIGHT_HEADERS | RIGHT_PACKETS | RIGHT_CONTROL | RIGHT_USERS},
};

static const char *const right_names[] = {"read", "packets", "control", "users",
                                          "headers"}; /* bit 0, 1 ... */
#define RIGHTS (sizeof right_names / sizeof right_names[0])

const char *role_name(enum role role)
{
    return roles[role].name;
}

int role_find(const char *name, struct failure *failure)
{
    for (int i = 0; i < ROLES; i++)
        if (strcmp(roles[i].name, name) == 0)
            return i;
    return fail(failure, ERR_INVALID, "a role is viewer, analyst, operator or admin");
}

unsigned role_rights(enum role role)
{
    return roles[role].rights;
}

void role_give_headers(void)
{
    roles[ROLE_VIEWER].rights |= RIGHT_HEADERS;
}

json_t *rights_json(unsigned rights)
{
    json_t *words = json_array();
    for (unsigned i = 0; i < RIGHTS; i++)
        if (rights & 1u << i)
            json_array_append_new(words, json_string(right_names[i]));
    return words;
}

static unsigned right_of(const char *word)
{
    for (unsigned i = 0; word && i < RIGHTS; i++)
        if (strcmp(right_names[i], word) == 0)
            return 1u << i;
    return 0;
}

int rights_parse(const json_t *words, unsigned *rights, struct failure *failure)
{
    *rights = 0;
    for (size_t i = 0; i < json_array_size(words); i++) {
        unsigned right = right_of(json_string_value(json_array_get(words, i)));
        if (right == 0)
            return fail(failure, ERR_INVALID,
                        "a scope is read, headers, packets, control or users");
        *rights |= right;
    }
    return *rights ? 0
                   : fail(failure, ERR_INVALID,
                          "scopes: at least one of read, headers, packets, control, users");
}
