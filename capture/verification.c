/*
 * verification.c - the method "verify": every frame by way of a worker, every superblock here.
 */
#include <stdlib.h>
#include <unistd.h>

#include "answer_json.h"
#include "event_log.h"
#include "methods.h"
#include "reading.h"
#include "superblock.h"

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
        superblock_repair(held, superblock, failure) == 0)
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
            if (identity_equal(&identity, &one->disk))
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

static int verify(struct request *request, struct ring_entry *entry, bool repair, json_t **result)
{
    struct reading_options options = {
        .kind = WORKER_VERIFY, .from_ns = INT64_MIN, .to_ns = INT64_MAX, .output = -1};
    struct reading_result checked = {0};
    struct superblocks superblocks = {.list = json_array()};
    int code = reading_run(request, entry, &options, &checked);
    for (uint32_t i = 0; i < ring_disks(entry->ring) && code == 0; i++)
        code = check_superblocks(entry->ring, i, repair, &superblocks, &request->failure);
    if (code == 0) {
        const struct worker_done *done = &checked.done;
        /* A gap without a bad frame is of packets that are known to be missing: no finding of
         * today. */
        bool clean =
            checked.damaged == 0 && superblocks.bad == superblocks.repaired && !checked.not_flushed;
        *result = json_pack(
            "{s:I, s:I, s:I, s:o, s:I, s:I, s:o, s:I, s:I, s:b}", "frames_checked",
            (json_int_t)done->frames_checked, "frames_bad", (json_int_t)checked.damaged, "segments",
            (json_int_t)done->total.segments_done, "bad", json_bad(&checked, entry->ring),
            "superblocks_bad", (json_int_t)superblocks.bad, "superblocks_repaired",
            (json_int_t)superblocks.repaired, "superblocks", superblocks.list, "gaps_total",
            (json_int_t)done->gaps, "bytes_read", (json_int_t)done->total.bytes_read, "clean",
            (int)clean);
    } else {
        json_decref(superblocks.list);
    }
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
