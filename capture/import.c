/*
 * import.c - the method "import": capture files into a ring, durable before it is answered.
 *
 * One stream takes all files of a call, one after the other. A file that cannot be read, or only up
 * to where it is damaged, is named with its reason; what was read of it stays, and the others go
 * on. What ends the whole call is a ring that cannot store (ERR_IO), and a client that has gone.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer_json.h"
#include "event_log.h"
#include "methods.h"
#include "pipeline.h"
#include "rule_store.h"
#include "source.h"

#define PATIENCE_MS 100 /* between two looks at whether somebody still wants a pipe's first byte \
                         */

struct import_file {
    const char *name;
    int fd; /* until the source owns it */
    uint64_t bytes_total;
    uint64_t packets;
    uint64_t bytes;
    struct failure failure;
};

struct import {
    struct ring_entry *entry;
    struct import_file file[CONTROL_DESCRIPTORS_MAX];
    uint32_t files;
    uint64_t bytes_total; /* of those files whose size is known */
    struct pipeline *pipeline;
    struct account account;
    struct failure failure;

    atomic_bool cancel;
    _Atomic uint32_t at;           /* the file that is being read */
    _Atomic uint64_t bytes_before; /* of the files before it */
};

static uint64_t packets_taken(struct import *import)
{
    struct pipeline_progress progress;
    pipeline_progress(import->pipeline, &progress);
    return progress.packets;
}

/* Opening a source waits for its first bytes, and cannot be interrupted in that. */
static bool wait_for_bytes(struct import *import, int fd)
{
    struct pollfd bytes = {.fd = fd, .events = POLLIN};
    while (!atomic_load(&import->cancel)) {
        int ready = poll(&bytes, 1, PATIENCE_MS);
        if (ready > 0 || (ready < 0 && errno != EINTR))
            return true;
    }
    return false;
}

/* Returns what ends the import as a whole; a file's own trouble is kept with the file. */
static int import_file(struct import *import, struct import_file *file)
{
    struct source *source;
    if (!wait_for_bytes(import, file->fd))
        return fail(&import->failure, ERR_INTERRUPTED, "interrupted");
    int result = source_file_open(file->fd, file->name, &source, &file->failure);
    file->fd = -1;
    if (result != 0)
        return 0;
    uint64_t before = packets_taken(import);
    struct failure failure = {0};
    result = pipeline_run(import->pipeline, source, &failure);
    file->packets = packets_taken(import) - before;
    file->bytes = source->bytes_done;
    source_close(&source);
    if (result == ERR_INTERRUPTED || pipeline_no_disk(import->pipeline)) {
        import->failure = failure;
        return result;
    }
    file->failure = failure;
    return 0;
}

static int import_work(void *context)
{
    struct import *import = context;
    int result = 0;
    for (uint32_t i = 0; i < import->files && result == 0; i++) {
        atomic_store(&import->at, i);
        result = import_file(import, &import->file[i]);
        atomic_fetch_add(&import->bytes_before, import->file[i].bytes_total);
    }
    struct failure lost = {0};
    int ended = pipeline_finish(import->pipeline, &lost);
    if (result == 0 && ended != 0) {
        import->failure = lost;
        result = ended;
    }
    return result;
}

static void import_cancel(void *context)
{
    struct import *import = context;
    atomic_store(&import->cancel, true);
    pipeline_stop(import->pipeline);
}

static json_t *import_progress(void *context)
{
    struct import *import = context;
    struct pipeline_progress progress;
    pipeline_progress(import->pipeline, &progress);
    uint64_t done = atomic_load(&import->bytes_before) + progress.bytes_done;
    if (done > import->bytes_total)
        done = import->bytes_total;
    return json_pack("{s:i, s:i, s:I, s:I, s:I}", "file", (int)atomic_load(&import->at) + 1,
                     "files", (int)import->files, "packets", (json_int_t)progress.packets,
                     "bytes_done", (json_int_t)done, "bytes_total",
                     (json_int_t)import->bytes_total);
}

/* ---- the method
 * ------------------------------------------------------------------------------------ */

static int take_files(struct request *request, struct import *import)
{
    const json_t *names;
    int code = request_strings(request, "names", CONTROL_DESCRIPTORS_MAX, &names, &import->files);
    if (code != 0)
        return code;
    if (import->files == 0)
        return fail(&request->failure, ERR_INVALID,
                    "parameter names: expected a name for each of "
                    "1 to %d files",
                    CONTROL_DESCRIPTORS_MAX);
    if (request->connection->descriptors != import->files)
        return fail(&request->failure, ERR_INVALID,
                    "%u names and %u descriptors do not go together", import->files,
                    request->connection->descriptors);
    for (uint32_t i = 0; i < import->files; i++) {
        struct import_file *file = &import->file[i];
        struct stat status;
        file->name = json_string_value(json_array_get(names, i));
        file->fd = control_take_descriptor(request->connection, i);
        if (fstat(file->fd, &status) == 0 && S_ISREG(status.st_mode))
            file->bytes_total = (uint64_t)status.st_size;
        import->bytes_total += file->bytes_total;
    }
    return 0;
}

static json_t *json_file(const struct import_file *file)
{
    const struct failure *failure = &file->failure;
    json_t *error = failure->code == 0 ? json_null()
                                       : json_pack("{s:s, s:o}", "code", error_name(failure->code),
                                                   "message", json_text(failure->text));
    return json_pack("{s:o, s:I, s:I, s:o}", "name", json_text(file->name), "packets",
                     (json_int_t)file->packets, "bytes", (json_int_t)file->bytes, "error", error);
}

static void import_answer(const struct import *import, json_t **result)
{
    json_t *files = json_array();
    for (uint32_t i = 0; i < import->files; i++)
        json_array_append_new(files, json_file(&import->file[i]));
    *result = json_pack("{s:o, s:o, s:b}", "files", files, "account",
                        json_account(&import->account), "frontier_durable", 1);
}

int method_import(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct import *import = calloc(1, sizeof *import);
    const char *name;
    if (!import)
        return fail(&request->failure, ERR_NO_MEMORY, "out of memory");
    for (uint32_t i = 0; i < CONTROL_DESCRIPTORS_MAX; i++)
        import->file[i].fd = -1;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = take_files(request, import);
    if (code == 0)
        code = ring_registry_use(registry, name, &import->entry, &request->failure);
    if (code != 0)
        goto out;
    struct pipeline_options options = {.ring = import->entry->ring};
    struct duplicate_options duplicates;
    code = rule_store_apply(import->entry, &options, &duplicates, &request->failure);
    if (code == 0)
        code = pipeline_open(&options, &import->pipeline, &request->failure);
    if (code == 0) {
        code = request_background(request, import_work, import_progress, import_cancel, import);
        if (code != 0 && import->failure.code != 0)
            request->failure = import->failure;
        int ended = ring_entry_end_pipeline(import->entry, &import->pipeline, &import->account,
                                            code == 0 ? &request->failure : NULL);
        if (code == 0)
            code = ended;
    }
    ring_registry_release(registry, &import->entry);
    if (code == 0)
        import_answer(import, result);
out:
    for (uint32_t i = 0; i < CONTROL_DESCRIPTORS_MAX; i++)
        if (import->file[i].fd >= 0)
            close(import->file[i].fd);
    free(import);
    return code;
}
