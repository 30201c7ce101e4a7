/*
 * classifier_body.h - what the two halves of the classifier know of each other: classifier.c starts
 * and watches the process, classifier_port.c is the capture threads' side.
 */
#ifndef CAPTURE_CLASSIFIER_BODY_H
#define CAPTURE_CLASSIFIER_BODY_H

#include "classifier_queue.h"

/* Of one classifier, for all of its ports. */
struct classifier_link {
    struct classifier_shared *shared;
    _Atomic uint32_t number; /* of the process that is ready; 0: none is */
    uint32_t names;          /* how many there are; set before the first `number` */
    /* The process that wrote what it could not have written honestly: to be killed. Its number. */
    _Atomic uint32_t liar;
};

struct port_counters {
    uint64_t lent, skipped, verdicts, unknown, stale;
};

/* A port on the queues `place`, which no process touches. ERR_NO_MEMORY, ERR_TOO_LARGE. */
int port_create(struct classifier *classifier, struct classifier_link *link, uint32_t place,
                uint32_t flows, struct classifier_port **result, struct failure *failure);
void port_destroy(struct classifier_port **slot);

struct classifier *port_classifier(const struct classifier_port *port);
uint32_t port_place(const struct classifier_port *port);

/* Any thread: adds the port's counters to the sum. */
void port_count(const struct classifier_port *port, struct port_counters *sum);

#endif
