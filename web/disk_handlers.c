/*
 * disk_handlers.c - the disks of rings: looked at, added, removed, resumed, replaced, lit.
 *
 * In a path a disk is its number in the ring, or 4 or more digits of its identity.
 */
#include <stdbool.h>

#include "handing_on.h"
#include "handlers.h"

int handle_disks(struct exchange *exchange)
{
    struct failure failure = {0};
    char ring[PARAMETER_SIZE] = "";
    bool oldest = false;
    int code = exchange_check_query(exchange, "ring oldest", &failure);
    if (code == 0)
        code = exchange_query(exchange, "ring", ring, sizeof ring, &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "oldest", &oldest, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    bool one = ring[0] != '\0';
    int status = one ? check_ring(exchange, ring) : 0;
    if (status)
        return status;
    json_t *params = json_pack("{s:b}", "oldest", (int)oldest);
    if (one)
        json_object_set_new(params, "ring", json_string(ring));
    return hand_on(exchange, 200, "disk.list", params);
}

/* Hands on a change of one ring's disks: the body's members are parameters, and so is the disk of
 * the path, if it names one. */
static int change(struct exchange *exchange, int status, const char *method, const char *names,
                  bool of_one, const char *member)
{
    const char *ring = exchange->parameter[0];
    int refused = check_ring(exchange, ring);
    json_t *params = refused ? NULL : body_as_params(exchange, names, &refused);
    if (!params)
        return refused;
    json_object_set_new(params, "ring", json_string(ring));
    if (of_one)
        json_object_set_new(params, "disk", json_string(exchange->parameter[1]));
    return hand_on_change(exchange, status, method, params, member, ring);
}

int handle_disk_add(struct exchange *exchange)
{
    return change(exchange, 201, "disk.add", "disk force", false, HANDED_WHOLE);
}

int handle_disk_resume(struct exchange *exchange)
{
    return change(exchange, 200, "disk.resume", "force", true, HANDED_WHOLE);
}

/* A disk that the recorder does not know by number any more, or that has another path now. */
int handle_disk_resume_path(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *path;
    if (exchange_body_string(exchange, "disk", true, &path, &failure) != 0)
        return answer_failure(exchange, &failure);
    return change(exchange, 200, "disk.resume", "disk force", false, HANDED_WHOLE);
}

int handle_disk_replace(struct exchange *exchange)
{
    return change(exchange, 201, "disk.replace", "with force", true, HANDED_WHOLE);
}

int handle_disk_locate(struct exchange *exchange)
{
    return change(exchange, 204, "disk.locate", "on", true, NULL);
}

int handle_disk_remove(struct exchange *exchange)
{
    struct failure failure = {0};
    bool forget = false;
    const char *ring = exchange->parameter[0];
    int code = exchange_check_query(exchange, "forget", &failure);
    if (code == 0)
        code = exchange_query_switch(exchange, "forget", &forget, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    int status = check_ring(exchange, ring);
    if (status)
        return status;
    json_t *params = json_pack("{s:s, s:s, s:b}", "ring", ring, "disk", exchange->parameter[1],
                               "forget", (int)forget);
    return hand_on_change(exchange, 200, "disk.remove", params, HANDED_WHOLE, ring);
}
