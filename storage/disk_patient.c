/*
 * disk_patient.c - wraps another body for the time in which somebody waits for it whose patience ends.
 *
 * The happy path: a request gets a shadow with memory of its own, the inner disk works on that, and when the one who asked waits for the answer, it is copied
 * to where it was wanted. The memory is the shadow's because there is no cancel: when patience has ended, the caller has its request and its buffer back, and
 * the inner disk goes on with the shadow for as long as it likes.
 *
 *   shadow       owner                      moved on by
 *   asked        the inner disk             patient_submit
 *   answered     freed                      patient_wait
 *   owed         the inner disk, the list   patient_wait, when the time is over -> freed by close_owing, when it has answered
 *
 * Closing is the caller's business as long as nothing is owed, and a thread's of its own otherwise: disk_close() waits.
 */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "disk_io.h"

struct shadow {
    struct disk_request inner;
    uint8_t *bytes;
    struct shadow *next;
};

struct disk_patient {
    struct disk head; /* first: the seam's pointer is ours */
    struct disk *inner;
    unsigned patience_ms;
    struct shadow *owed; /* not null: nothing more is asked of the inner disk */
};

static atomic_uint owing; /* disks that have been given up and have not answered yet */

static struct disk_patient *patient_of(const struct disk *disk)
{
    return (struct disk_patient *)(uintptr_t)disk;
}

static void answered(struct disk_request *request)
{
    (void)request; /* disk_wait() is how we learn of it */
}

static void shadow_free(struct shadow *shadow)
{
    if (shadow)
        free(shadow->bytes);
    free(shadow);
}

static struct shadow *shadow_new(const struct disk_request *request, uint64_t offset)
{
    struct shadow *shadow = calloc(1, sizeof *shadow);
    if (shadow && request->bytes > 0)
        shadow->bytes = aligned_alloc(PAGE_BYTES, request->bytes);
    if (!shadow || (request->bytes > 0 && !shadow->bytes)) {
        shadow_free(shadow);
        return NULL;
    }
    if (request->op == DISK_WRITE)
        memcpy(shadow->bytes, request->buffer, request->bytes);
    shadow->inner = (struct disk_request){
        .op = request->op,
        .slot = DISK_SLOT_META, /* the geometry is the wrapper's: disk_check() has looked */
        .offset = offset,
        .buffer = shadow->bytes,
        .bytes = request->bytes,
        .buffer_index = -1,
        .done = answered,
    };
    return shadow;
}

static void patient_submit(struct disk *disk, struct disk_request *request)
{
    struct disk_patient *patient = patient_of(disk);
    uint64_t offset = 0;
    struct shadow *shadow = NULL;
    request->result = patient->owed ? ERR_TIMEOUT : disk_check(disk, request, &offset);
    if (request->result == 0 && !(shadow = shadow_new(request, offset)))
        request->result = ERR_NO_MEMORY;
    request->next = NULL;
    request->body[0] = (uint64_t)(uintptr_t)shadow;
    if (shadow)
        disk_submit(patient->inner, &shadow->inner);
    else
        request->done(request);
}

static void patient_wait(struct disk *disk, struct disk_request *request)
{
    struct disk_patient *patient = patient_of(disk);
    struct shadow *shadow = (struct shadow *)(uintptr_t)request->body[0];
    if (!shadow)
        return;
    request->body[0] = 0;
    if (disk_wait_for(patient->inner, &shadow->inner, patient->owed ? 0 : patient->patience_ms)) {
        request->result = shadow->inner.result;
        request->submitted_ns = shadow->inner.submitted_ns;
        if (request->op == DISK_READ && request->result == 0)
            memcpy(request->buffer, shadow->bytes, request->bytes);
        shadow_free(shadow);
    } else {
        if (!patient->owed)
            atomic_fetch_add(&owing, 1);
        shadow->next = patient->owed;
        patient->owed = shadow;
        request->result = ERR_TIMEOUT;
    }
    request->done(request);
}

static void *close_owing(void *context)
{
    struct disk_patient *patient = context;
    disk_close(&patient->inner); /* waits for all that is owed */
    while (patient->owed) {
        struct shadow *shadow = patient->owed;
        patient->owed = shadow->next;
        shadow_free(shadow);
    }
    atomic_fetch_sub(&owing, 1);
    free(patient);
    return NULL;
}

static void patient_close(struct disk *disk)
{
    struct disk_patient *patient = patient_of(disk);
    pthread_t thread;
    if (!patient->owed) {
        disk_close(&patient->inner);
        free(patient);
    } else if (pthread_create(&thread, NULL, close_owing, patient) == 0) {
        pthread_detach(thread);
    } else {
        (void)close_owing(patient);
    }
}

static const struct disk_ops patient_ops = {
    .name = "patient",
    .submit = patient_submit,
    .wait = patient_wait,
    .close = patient_close,
};

int disk_patient_begin(struct disk **disk, unsigned patience_ms)
{
    if ((*disk)->ops == &patient_ops)
        return 0;
    if (atomic_load(&owing) >= DISK_PATIENT_OWING_MAX)
        return ERR_BUSY;
    struct disk_patient *patient = calloc(1, sizeof *patient);
    if (!patient)
        return ERR_NO_MEMORY;
    patient->head = **disk;
    patient->head.ops = &patient_ops;
    patient->inner = *disk;
    patient->patience_ms = patience_ms > 0 ? patience_ms : DISK_PATIENCE_MS;
    *disk = &patient->head;
    return 0;
}

bool disk_patient_lost(const struct disk *disk)
{
    return disk->ops == &patient_ops && patient_of(disk)->owed;
}

bool disk_patient_end(struct disk **disk)
{
    if ((*disk)->ops != &patient_ops)
        return true;
    struct disk_patient *patient = patient_of(*disk);
    if (patient->owed)
        return false;
    patient->inner->geometry = patient->head.geometry;
    *disk = patient->inner;
    free(patient);
    return true;
}
