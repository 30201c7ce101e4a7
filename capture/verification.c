/*
 * verification.c - the method "verify": every frame by way of a worker, every superblock here; with
 * "repair" what is found is mended by the ring's mender, which is waited for.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "answer_json.h"
#include "event_log.h"
#include "methods.h"
#include "reading.h"
#include "superblock.h"

#define MENDED_MS 50

struct superblocks {
    uint64_t bad; /* places that are not as they should be */
    uint64_t repaired;
    json_t *list;
};

/* Reads the four places of one disk anew, past whatever the ring has in memory. */
static int check_superblocks(struct ring *ring, uint32_t number, bool repair,
                             struct superblocks *superblocks, struct failure *failure)
{
    struct identity identity;
    struct disk *held = ring_disk(ring, number, &identity), *disk;
    if (!held)
        return 0; /* a member that has left */
    struct superblock *superblock = malloc(sizeof *superblock);
    if (!superblock)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    struct superblock_condition condition = {0};
    int result = disk_uring_open(held->name, DISK_OPEN_READ, &disk, failure);
    if (result == 0) {
        result = superblock_read(disk, superblock, &condition, failure);
        disk_close(&disk);
    }
    /* What cannot be read at all is a finding, not the end of the check. */
    uint32_t bad = result != 0 ? SUPERBLOCK_PLACES : condition.repairs;
    if (result == 0 && !identity_equal(&superblock->disk, &identity))
        bad = SUPERBLOCK_PLACES;
    superblocks->bad += bad;
    for (int place = 0; place < SUPERBLOCK_PLACES && bad > 0; place++)
        if (condition.place[place] != SUPERBLOCK_GOOD || result != 0)
            json_array_append_new(superblocks->list,
                                  json_pack("{s:o, s:s}", "disk", json_text(held->name), "place",
                                            superblock_place_text((enum superblock_place)place)));
    if (result == 0 && bad > 0 && bad < SUPERBLOCK_PLACES && repair &&
        ring_superblock_repair(ring, number, le64_get(superblock->generation), failure) == 0)
        superblocks->repaired += bad;
    free(superblock);
    return 0;
}

static json_t *json_bad(const struct reading_result *result, struct ring *ring)
{
    json_t *list = json_array();
    char id[IDENTITY_TEXT_SIZE];
    for (uint32_t i = 0; i < result->bads; i++) {
        const struct reading_bad *one = &result->bad[i];
        const char *path = "";
        for (uint32_t d = 0; d < ring_disks(ring); d++) {
            struct identity identity;
            const struct disk *disk = ring_disk(ring, d, &identity);
            if (disk && identity_equal(&identity, &one->disk))
                path = disk->name;
        }
        json_array_append_new(list, json_pack("{s:s, s:o, s:I, s:I, s:I, s:s}", "segment",
                                              identity_text(&one->bad.segment, id), "disk",
                                              json_text(path), "slot", (json_int_t)one->slot,
                                              "offset", (json_int_t)one->bad.offset, "bytes",
                                              (json_int_t)one->bad.bytes, "reason",
                                              reading_bad_word(one->bad.reason)));
    }
    return list;
}

/* What the ring's mender did while we looked on. */
struct mended {
    struct mender_state before, after;
    bool waited; /* until nothing was left that could be mended */
};

/* Waits until all that was found is mended, as far as it can be, and copies that were missing are
 * made. */
static int wait_until_mended(struct request *request, struct ring *ring, struct mended *mended)
{
    int code = 0;
    while (!ring_mended(ring) && code == 0) {
        ring_mender_state(ring, &mended->after);
        request_progress(
            request,
            json_pack("{s:I, s:I}", "repairs_waiting", (json_int_t)mended->after.repairs_waiting,
                      "segments_healed",
                      (json_int_t)(mended->after.healed_segments - mended->before.healed_segments)),
            false);
        switch (request_watch(request, -1, MENDED_MS, NULL)) {
        case REQUEST_GONE:
            code = fail(&request->failure, ERR_INTERRUPTED, "interrupted");
            break;
        case REQUEST_STOPPING:
            code = fail(&request->failure, ERR_CLOSED, "the recorder is ending");
            break;
        case REQUEST_SECOND:
        case REQUEST_QUIET:
            break;
        }
    }
    mended->waited = code == 0;
    ring_mender_state(ring, &mended->after);
    return code;
}

__attribute__((format(printf, 3, 4))) static void reason_add(json_t *reasons, const char *reason, const char *format, ...)
{
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_array_append_new(reasons, json_pack("{s:s, s:o}", "reason", reason, "text", json_text(text)));
}

static void reason_count(json_t *reasons, const char *reason, uint64_t count, const char *one, const char *many)
{
    if (count > 0)
        reason_add(reasons, reason, "%llu %s", (unsigned long long)count, count == 1 ? one : many);
}

/* Why the ring is not clean, a sentence each; none: it is. A gap without a bad frame is of packets that are known to be missing: no finding of today. */
static json_t *find_reasons(const struct reading_result *checked, const struct superblocks *superblocks, const char *ring,
                            const struct mended *mended)
{
    const struct mender_state *before = &mended->before, *after = &mended->after;
    json_t *reasons = json_array();
    if (checked->not_flushed)
        reason_add(reasons, "not-flushed", "what is newest did not become durable in time, and was not read");
    if (checked->catalog_lacks)
        reason_add(reasons, "catalog", "the catalog has lost something, and segments may not have been read: tapeloop rebuild %s finds all again", ring);
    if (mended->waited) {
        reason_count(reasons, "frames", after->unrepairable - before->unrepairable + after->repairs_dropped - before->repairs_dropped,
                     "frame could not be mended", "frames could not be mended");
        reason_count(reasons, "copies", after->degraded_segments, "segment has too few copies", "segments have too few copies");
    } else {
        reason_count(reasons, "frames", checked->damaged, "copy of a frame is damaged", "copies of frames are damaged");
    }
    reason_count(reasons, "superblocks", superblocks->bad - superblocks->repaired, "place of a superblock is damaged",
                 "places of superblocks are damaged");
    return reasons;
}

static json_t *verify_answer(const struct reading_result *checked, struct superblocks *superblocks,
                             struct ring *ring, const struct mended *mended)
{
    const struct worker_done *done = &checked->done;
    const struct mender_state *before = &mended->before, *after = &mended->after;
    json_t *reasons = find_reasons(checked, superblocks, ring_options(ring)->name, mended);
    json_t *answer = json_pack(
        "{s:I, s:I, s:I, s:o, s:I, s:I, s:O, s:I, s:I, s:b}", "frames_checked",
        (json_int_t)done->frames_checked, "frames_bad", (json_int_t)checked->damaged, "segments",
        (json_int_t)done->total.segments_done, "bad", json_bad(checked, ring), "superblocks_bad",
        (json_int_t)superblocks->bad, "superblocks_repaired", (json_int_t)superblocks->repaired,
        "superblocks", superblocks->list, "gaps_total", (json_int_t)done->gaps, "bytes_read",
        (json_int_t)done->total.bytes_read, "clean", (int)(json_array_size(reasons) == 0));
    json_object_set_new(answer, "reasons", reasons);
    json_object_set_new(answer, "held_back_ms", json_integer((json_int_t)(done->total.held_back_ns / 1000000)));
    json_object_set_new(answer, "mending_held_back_ms",
                        json_integer((json_int_t)((after->held_back_ns - before->held_back_ns) / 1000000)));
    if (mended->waited)
        json_object_set_new(
            answer, "mended",
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "frames",
                      (json_int_t)(after->repaired - before->repaired), "frames_left",
                      (json_int_t)(after->unrepairable - before->unrepairable +
                                   after->repairs_dropped - before->repairs_dropped),
                      "copies", (json_int_t)(after->healed_segments - before->healed_segments),
                      "segments_left", (json_int_t)after->degraded_segments, "superblocks",
                      (json_int_t)superblocks->repaired, "superblocks_left",
                      (json_int_t)(superblocks->bad - superblocks->repaired)));
    return answer;
}

static int verify(struct request *request, struct ring_entry *entry, bool repair, json_t **result)
{
    struct reading_options options = {.kind = WORKER_VERIFY,
                                      .from_ns = INT64_MIN,
                                      .to_ns = INT64_MAX,
                                      .output = -1,
                                      .repair = repair};
    struct reading_result checked = {0};
    struct superblocks superblocks = {.list = json_array()};
    struct mended mended = {.waited = false};
    ring_mender_state(entry->ring, &mended.before);
    mended.after = mended.before;
    if (repair)
        ring_mend_hurry(entry->ring, true);
    int code = reading_run(request, entry, &options, &checked);
    for (uint32_t i = 0; i < ring_disks(entry->ring) && code == 0; i++)
        code = check_superblocks(entry->ring, i, repair, &superblocks, &request->failure);
    if (code == 0 && repair)
        code = wait_until_mended(request, entry->ring, &mended);
    if (repair)
        ring_mend_hurry(entry->ring, false);
    if (code == 0)
        *result = verify_answer(&checked, &superblocks, entry->ring, &mended);
    json_decref(superblocks.list);
    reading_result_free(&checked);
    return code;
}

int method_verify(struct request *request, json_t **result)
{
    struct ring_registry *registry = &request->recorder->registry;
    struct ring_entry *entry;
    const char *name;
    bool repair = false;
    int code = request_string(request, "ring", true, &name);
    if (code == 0)
        code = request_bool(request, "repair", &repair);
    if (code == 0)
        code = ring_registry_use(registry, name, &entry, &request->failure);
    if (code != 0)
        return code;
    code = verify(request, entry, repair, result);
    ring_registry_release(registry, &entry);
    return code;
}
