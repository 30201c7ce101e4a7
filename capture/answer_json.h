/*
 * answer_json.h - what the recorder knows, in the JSON of schema/PROTOCOL.md.
 *
 * All returned objects are the caller's; null means out of memory, and is carried on by the jansson
 * calls around it.
 */
#ifndef CAPTURE_ANSWER_JSON_H
#define CAPTURE_ANSWER_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "account.h"
#include "packet.h"
#include "recovery.h"
#include "request.h"
#include "ring_registry.h"

/* A text as JSON can hold it: what is not UTF-8 becomes '?'. */
json_t *json_text(const char *text);

/* How layer 7 is. */
json_t *json_layer7(struct recorder *recorder);

/* "name_ns": "digits" and "name_text": RFC 3339; both null where `known` is false. `name` without
 * "_ns". */
void json_set_time(json_t *object, const char *name, int64_t time_ns, bool known);

/* With code 0, *result becomes an object with the array as its member `name`; else the array goes. Returns `code`. */
int json_answer_array(int code, json_t *array, const char *name, json_t **result);

/* The lines in packets, or in bytes. */
json_t *json_account(const struct account *account);
json_t *json_account_bytes(const struct account *account);

json_t *json_report(const struct recovery_report *report);

/* {name: text} of those in force; null after an error. */
json_t *json_settings(const struct settings *settings);

/* As in ring.list. 0 or an error with its sentence. */
int json_ring(const struct ring_look *look, json_t **ring, struct failure *failure);

/* As in ring.show: json_ring() with disks, interfaces and settings. */
int json_ring_whole(const struct ring_look *look, json_t **result, struct failure *failure);

/* Appends the disks of one ring, as in disk.list. */
int json_append_disks(const struct ring_look *look, json_t *disks, struct failure *failure);
/* With the time of the oldest packet on each, for which all places in the catalog are looked through. */
int json_append_disks_oldest(const struct ring_look *look, json_t *disks, struct failure *failure);

/* As in status. */
int json_ring_status(const struct ring_look *look, json_t **result, struct failure *failure);

/* Seconds from a ring's oldest packet to now, as the catalog knows it; null where it cannot be
 * said. */
json_t *json_reach_back(struct recorder *recorder, const char *ring);

/* The answer about one ring that is up and the caller's: {"ring": as in ring.list}. */
int json_answer_ring(struct request *request, const char *name, json_t **result);

#endif
