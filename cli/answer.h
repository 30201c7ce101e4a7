/*
 * answer.h - reading the recorder's answers without trusting their shape.
 *
 * A recorder of another version, or something that is no recorder, may send anything: what is
 * missing or of another type reads as nothing (0, "", null), and every function here accepts null.
 */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"

/* A member that is a count; 0 where it is missing, negative or no number. */
uint64_t answer_count(const json_t *object, const char *name);

/* A member that is a number of any kind; 0 where there is none. */
double answer_number(const json_t *object, const char *name);

/* A member that is text, "" where it is none. Not printable as it is; the object's. */
const char *answer_text(const json_t *object, const char *name);

bool answer_is_true(const json_t *object, const char *name);

/* A member that is an array or an object; null otherwise. The object's. */
const json_t *answer_array(const json_t *object, const char *name);
const json_t *answer_object(const json_t *object, const char *name);

/* Nanoseconds since the epoch in a string of digits (a number is accepted too). False: none there.
 */
bool answer_time(const json_t *value, int64_t *time_ns);

/* The packets of an account, by the names of account.def; bytes stay 0. */
void answer_account(const json_t *object, struct account *account);

/* A time for a request. The caller owns it; null where memory is out. */
json_t *answer_make_time(int64_t time_ns);

#endif
