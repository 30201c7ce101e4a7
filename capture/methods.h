/*
 * methods.h - the methods of the control protocol (schema/PROTOCOL.md), one function each.
 *
 * A method returns 0 with its result in *result (null stands for an empty object; the caller owns
 * it), or an error with its sentence in request->failure. Where request->gone is set afterwards
 * nobody waits for an answer.
 */
#ifndef CAPTURE_METHODS_H
#define CAPTURE_METHODS_H

#include "recording.h"
#include "request.h"

/* Finds the method, checks its parameters' names, runs it. ERR_UNSUPPORTED: there is no such
 * method. */
int method_run(struct request *request, const char *name, json_t **result);

int method_ring_create(struct request *request, json_t **result);
int method_ring_list(struct request *request, json_t **result);
int method_ring_show(struct request *request, json_t **result);
int method_ring_set(struct request *request, json_t **result);
int method_ring_delete(struct request *request, json_t **result);
int method_ring_adopt(struct request *request, json_t **result);
int method_ring_rebuild(struct request *request, json_t **result);
int method_disk_list(struct request *request, json_t **result);
int method_settings(struct request *request, json_t **result);
int method_disk_add(struct request *request, json_t **result);
int method_disk_remove(struct request *request, json_t **result);
int method_disk_resume(struct request *request, json_t **result);
int method_disk_replace(struct request *request, json_t **result);
int method_disk_locate(struct request *request, json_t **result);
int method_record_start(struct request *request, json_t **result);
int method_record_stop(struct request *request, json_t **result);
int method_import(struct request *request, json_t **result);
int method_estimate(struct request *request, json_t **result);
int method_extract(struct request *request, json_t **result);
int method_job_start(struct request *request, json_t **result);
int method_job_list(struct request *request, json_t **result);
int method_job_show(struct request *request, json_t **result);
int method_job_cancel(struct request *request, json_t **result);
int method_job_delete(struct request *request, json_t **result);
int method_job_fetch(struct request *request, json_t **result);
int method_purge(struct request *request, json_t **result);
int method_verify(struct request *request, json_t **result);
int method_flush(struct request *request, json_t **result);
int method_status(struct request *request, json_t **result);
int method_history(struct request *request, json_t **result);
int method_events(struct request *request, json_t **result);
int method_interfaces(struct request *request, json_t **result);
int method_apps(struct request *request, json_t **result);
int method_rule_list(struct request *request, json_t **result);
int method_rule_add(struct request *request, json_t **result);
int method_rule_set(struct request *request, json_t **result);
int method_rule_move(struct request *request, json_t **result);
int method_rule_delete(struct request *request, json_t **result);
int method_rule_replace(struct request *request, json_t **result);
int method_rule_test(struct request *request, json_t **result);

/* What record.start is asked for. The texts in *options are the request's parameters'. */
int record_take_options(struct request *request, struct recording_options *options);

#endif
