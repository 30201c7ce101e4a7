/*
 * run_care.c - see run_care.h.
 *
 * A pass looks at each ring that has changed since the last one. What it needs to know of runs is in their names, and of segments in the
 * catalog, so that it costs some milliseconds however large the ring is. One run is made after the other, so that recording is disturbed by one
 * reading process at most; that one yields by the pressure gauge, as all do.
 *
 * A run covers positions without holes between its neighbours. A segment that was open when its run was made is in none until small runs become one:
 * it is read, as without runs.
 */
#include "run_care.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "event_log.h"
#include "key_run.h"
#include "reading.h"
#include "rounds.h"
#include "waiting.h"

#define CARE_PERIOD_MS 2000
#define RUN_NAME_SIZE 96
#define SAY_AGAIN_MS 3600000 /* that runs cannot be made */

struct run_care {
    struct recorder *recorder;
    int directory; /* STATE/runs */
    struct rounds *rounds;
    atomic_bool doubt;

    /* the rounds' own */
    struct seen {
        struct identity ring;
        uint64_t changes;
    } *seen; /* how often each ring had changed when all was done for it */
    uint32_t seen_count;
    int64_t said_ms;
};

struct run_file {
    struct identity ring;
    uint64_t from, to;
    uint32_t segments;
    char name[RUN_NAME_SIZE];
};

struct run_list {
    struct run_file *file;
    uint32_t count, room;
};

/* ---- names -------------------------------------------------------------------------------------- */

static void put_name(const struct identity *ring, uint64_t from, uint64_t to, uint32_t segments, char name[RUN_NAME_SIZE])
{
    char text[IDENTITY_TEXT_SIZE];
    snprintf(name, RUN_NAME_SIZE, "%s-%016" PRIx64 "-%016" PRIx64 "-%04" PRIx32 ".run", identity_text(ring, text), from, to, segments);
}

/* Whether a file's name is one that put_name() gives. */
static bool take_name(const char *name, struct run_file *file)
{
    char text[IDENTITY_TEXT_SIZE], again[RUN_NAME_SIZE];
    if (sscanf(name, "%32[0-9a-f]-%16" SCNx64 "-%16" SCNx64 "-%8" SCNx32 ".run", text, &file->from, &file->to, &file->segments) != 4 ||
        identity_parse(text, &file->ring) != 0 || file->from > file->to)
        return false;
    put_name(&file->ring, file->from, file->to, file->segments, again);
    if (strcmp(name, again) != 0)
        return false;
    memcpy(file->name, again, sizeof again);
    return true;
}

static int order_files(const void *a, const void *b)
{
    const struct run_file *one = a, *two = b;
    if (one->from != two->from)
        return one->from < two->from ? -1 : 1;
    return one->to > two->to ? -1 : one->to < two->to; /* the longer one first */
}

/* The runs of a ring (null: of all), by positions. What begins to be written but has not its name yet is none. 0 or a negative code. */
static int list_runs(const struct run_care *care, const struct identity *ring, struct run_list *list)
{
    *list = (struct run_list){0};
    int fd = openat(care->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        if (fd >= 0)
            close(fd);
        return ERR_IO;
    }
    int code = 0;
    const struct dirent *entry;
    while (code == 0 && (entry = readdir(directory))) {
        struct run_file file;
        if (!take_name(entry->d_name, &file) || (ring && !identity_equal(ring, &file.ring)))
            continue;
        if (list->count == list->room) {
            uint32_t room = list->room > 0 ? 2 * list->room : 64;
            struct run_file *more = realloc(list->file, room * sizeof *more);
            if (!more) {
                code = ERR_NO_MEMORY;
                break;
            }
            list->file = more;
            list->room = room;
        }
        list->file[list->count++] = file;
    }
    closedir(directory);
    if (list->count > 1)
        qsort(list->file, list->count, sizeof *list->file, order_files);
    return code;
}

static void drop_run(const struct run_care *care, struct run_list *list, uint32_t i)
{
    unlinkat(care->directory, list->file[i].name, 0);
    memmove(&list->file[i], &list->file[i + 1], (list->count - i - 1) * sizeof list->file[0]);
    list->count--;
}

/* ---- making ------------------------------------------------------------------------------------- */

struct making {
    struct request request; /* of nobody */
    struct ring_registry *registry;
    const char *ring;
};

/* Whoever wants to change the ring need not wait for us. */
static void look_up(const json_t *progress, void *context)
{
    struct making *making = context;
    struct ring_look *looks;
    uint32_t count;
    (void)progress;
    if (ring_registry_look(making->registry, making->ring, &looks, &count, NULL) != 0) {
        making->request.gone = true;
        return;
    }
    making->request.gone |= !looks[0].live;
    ring_registry_look_away(making->registry, &looks, count);
}

/* Has a run made of the sealed segments from one position to another. 0 or a negative code. */
static int make_run(struct run_care *care, struct ring_entry *entry, uint64_t from, uint64_t to, uint32_t segments)
{
    char name[RUN_NAME_SIZE];
    int fd;
    put_name(&entry->row.ring, from, to, segments, name);
    int code = key_run_create(care->directory, name, &fd);
    if (code != 0)
        return code;
    struct making making = {.request = {.recorder = care->recorder, .answer_fd = -1, .cancel_fd = -1, .take_progress = look_up},
                            .registry = &care->recorder->registry,
                            .ring = entry->row.name};
    making.request.context = &making;
    struct reading_options options = {.kind = WORKER_RUN_MAKE,
                                      .from_ns = INT64_MIN,
                                      .to_ns = INT64_MAX,
                                      .from_position = from,
                                      .to_position = to,
                                      .filter = "",
                                      .output = fd};
    struct reading_result result;
    code = reading_run(&making.request, entry, &options, &result);
    reading_result_free(&result);
    code = key_run_settle(care->directory, name, fd, code);
    int64_t now_ms = monotonic_ms();
    if (code != 0 && !making.request.gone && !recorder_stopping(care->recorder) && code != ERR_BUSY &&
        (care->said_ms == 0 || now_ms - care->said_ms > SAY_AGAIN_MS)) {
        care->said_ms = now_ms;
        event_log_say(care->recorder->events, "warning", "run-not-made", entry->row.name,
                      "a run of keys could not be written, searches take longer: %.300s",
                      making.request.failure.code ? making.request.failure.text : error_text(code));
    }
    return code;
}

/* ---- what there is to do for a ring --------------------------------------------------------------- */

/* Drops what is overwritten, and what lies within another one, as it does when we were interrupted. */
static void drop_old(const struct run_care *care, struct run_list *list, uint64_t oldest)
{
    for (uint32_t i = list->count; i-- > 0;)
        if (oldest == 0 || list->file[i].to < oldest || (i > 0 && list->file[i].to <= list->file[i - 1].to))
            drop_run(care, list, i);
}

/* Reads every run, and drops those that are damaged. */
static void drop_damaged(struct run_care *care, const struct ring_entry *entry, struct run_list *list)
{
    for (uint32_t i = list->count; i-- > 0;) {
        struct key_run *run = NULL;
        int code = key_run_open(care->directory, list->file[i].name, &entry->row.ring, &run);
        if (code == 0)
            code = key_run_check(run);
        if (code == ERR_CORRUPT || code == ERR_FOREIGN) {
            event_log_say(care->recorder->events, "warning", "run-damaged", entry->row.name, "the run of keys %s is damaged, and made again",
                          list->file[i].name);
            drop_run(care, list, i);
        }
        key_run_close(&run);
    }
}

/* Small neighbours that have RUN_SEGMENTS together: [*first, *end). */
static bool find_small(const struct run_list *list, uint32_t *first, uint32_t *end)
{
    uint32_t segments = 0;
    *first = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->file[i].segments > RUN_SEGMENTS / 2) {
            segments = 0;
            *first = i + 1;
            continue;
        }
        segments += list->file[i].segments;
        *end = i + 1;
        if (segments >= RUN_SEGMENTS)
            return true;
    }
    return false;
}

struct sealed {
    uint32_t count;
    uint64_t last;
};

static int count_sealed(const struct segment_row *row, void *context)
{
    struct sealed *sealed = context;
    sealed->count++;
    sealed->last = row->position;
    return 0;
}

/*
 * What lies between runs, or behind the last, and is worth a run: the first such stretch. Between runs that is any sealed segment, for no more
 * will come there.
 */
static bool find_uncovered(const struct ring_entry *entry, const struct run_list *list, uint64_t oldest, uint64_t newest, uint64_t *from,
                           uint64_t *to, uint32_t *segments)
{
    uint64_t at = oldest;
    for (uint32_t i = 0; i <= list->count; i++) {
        bool last = i == list->count;
        uint64_t end = last ? newest + 1 : list->file[i].from;
        struct sealed sealed = {0};
        if (end > at && ring_find_sealed(entry->ring, at, end - 1, RUN_SEGMENTS, count_sealed, &sealed) != 0)
            return false;
        if (sealed.count >= (last ? RUN_SEGMENTS_FIRST : 1)) {
            *from = at;
            *to = last || sealed.count == RUN_SEGMENTS ? sealed.last : end - 1;
            *segments = sealed.count;
            return true;
        }
        if (!last && list->file[i].to >= at)
            at = list->file[i].to + 1;
    }
    return false;
}

/* One thing that there is to do. 1: done, there may be more; 0: nothing was left; negative: it could not be done. */
static int do_something(struct run_care *care, struct ring_entry *entry, bool doubt)
{
    struct run_list list;
    uint64_t oldest, newest, from = 0, to = 0;
    uint32_t first, end, segments = 0;
    int code = list_runs(care, &entry->row.ring, &list);
    ring_positions(entry->ring, &oldest, &newest);
    if (code == 0)
        drop_old(care, &list, oldest);
    if (code == 0 && doubt)
        drop_damaged(care, entry, &list);
    if (code == 0 && oldest > 0 && find_small(&list, &first, &end)) {
        for (uint32_t i = first; i < end; i++)
            segments += list.file[i].segments;
        code = make_run(care, entry, list.file[first].from, list.file[end - 1].to, segments);
        for (uint32_t i = end; code == 0 && i-- > first;)
            drop_run(care, &list, i);
        code = code == 0 ? 1 : code;
    } else if (code == 0 && oldest > 0 && find_uncovered(entry, &list, oldest, newest, &from, &to, &segments)) {
        code = make_run(care, entry, from, to, segments);
        code = code == 0 ? 1 : code;
    }
    free(list.file);
    return code;
}

static struct seen *seen_of(struct run_care *care, const struct identity *ring)
{
    for (uint32_t i = 0; i < care->seen_count; i++)
        if (identity_equal(&care->seen[i].ring, ring))
            return &care->seen[i];
    struct seen *more = realloc(care->seen, (care->seen_count + 1) * sizeof *more);
    if (!more)
        return NULL;
    care->seen = more;
    more[care->seen_count] = (struct seen){.ring = *ring};
    return &more[care->seen_count++];
}

static void care_for(struct run_care *care, struct ring_entry *entry, bool doubt)
{
    struct seen *seen = seen_of(care, &entry->row.ring);
    uint64_t changes = ring_changes(entry->ring) + 1; /* 0: never looked at */
    if (!seen || entry->settings.value[SETTING_index] == 0 || (seen->changes == changes && !doubt))
        return;
    int code;
    do {
        code = do_something(care, entry, doubt);
        doubt = false;
    } while (code > 0 && !recorder_stopping(care->recorder));
    if (code == 0)
        seen->changes = changes;
}

/* ---- the thread --------------------------------------------------------------------------------- */

/* Drops the runs of rings that are no more. */
static void drop_orphans(const struct run_care *care, const struct ring_look *looks, uint32_t count)
{
    struct run_list list;
    if (list_runs(care, NULL, &list) == 0)
        for (uint32_t i = list.count; i-- > 0;) {
            bool known = false;
            for (uint32_t j = 0; j < count; j++)
                known |= identity_equal(&looks[j].entry->row.ring, &list.file[i].ring);
            if (!known)
                drop_run(care, &list, i);
        }
    free(list.file);
}

static void pass(struct run_care *care, bool doubt)
{
    struct ring_registry *registry = &care->recorder->registry;
    struct ring_look *looks, *one;
    uint32_t count, ones;
    if (ring_registry_look(registry, NULL, &looks, &count, NULL) != 0)
        return;
    drop_orphans(care, looks, count);
    char(*name)[sizeof looks[0].entry->row.name] = calloc(count + 1, sizeof *name);
    for (uint32_t i = 0; name && i < count; i++)
        memcpy(name[i], looks[i].entry->row.name, sizeof *name);
    ring_registry_look_away(registry, &looks, count);
    for (uint32_t i = 0; name && i < count && !recorder_stopping(care->recorder); i++) {
        if (ring_registry_look(registry, name[i], &one, &ones, NULL) != 0)
            continue;
        if (one[0].live)
            care_for(care, one[0].entry, doubt);
        ring_registry_look_away(registry, &one, ones);
    }
    free(name);
}

static void make_round(void *context)
{
    struct run_care *care = context;
    pass(care, atomic_exchange(&care->doubt, false));
}

/* STATE/runs, without what an interrupted recorder has left half-made. */
static int open_directory(const struct recorder *recorder, int *result, struct failure *failure)
{
    int state = open(recorder->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *result = -1;
    if (state >= 0 && (mkdirat(state, "runs", 0750) == 0 || errno == EEXIST))
        *result = openat(state, "runs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int error = errno;
    if (state >= 0)
        close(state);
    if (*result < 0)
        return fail_errno(failure, error, "%.300s/runs cannot be opened", recorder->directory);
    key_run_tidy(*result);
    return 0;
}

int run_care_open(struct recorder *recorder, struct run_care **result, struct failure *failure)
{
    struct run_care *care = calloc(1, sizeof *care);
    if (!care)
        return fail(failure, ERR_NO_MEMORY, "out of memory");
    care->recorder = recorder;
    int code = open_directory(recorder, &care->directory, failure);
    if (code == 0) {
        code = rounds_open("run-care", CARE_PERIOD_MS, make_round, care, &care->rounds, failure);
        if (code == 0) {
            *result = care;
            return 0;
        }
        close(care->directory);
    }
    free(care);
    return code;
}

void run_care_close(struct run_care **slot)
{
    struct run_care *care = *slot;
    if (!care)
        return;
    rounds_close(&care->rounds);
    close(care->directory);
    free(care->seen);
    free(care);
    *slot = NULL;
}

/* ---- for readers -------------------------------------------------------------------------------- */

int run_care_each(struct run_care *care, const struct identity *ring, uint64_t from, uint64_t to, int (*each)(int fd, void *context),
                  void *context)
{
    struct run_list list;
    int result = list_runs(care, ring, &list) == ERR_NO_MEMORY ? ERR_NO_MEMORY : 0;
    for (uint32_t i = 0; i < list.count && result == 0; i++) {
        if (list.file[i].to < from || list.file[i].from > to)
            continue;
        int fd = openat(care->directory, list.file[i].name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            continue;
        result = each(fd, context);
        close(fd);
    }
    free(list.file);
    return result;
}

void run_care_drop(struct run_care *care, const struct identity *ring)
{
    struct run_list list;
    if (list_runs(care, ring, &list) == 0)
        while (list.count > 0)
            drop_run(care, &list, list.count - 1);
    free(list.file);
    run_care_doubt(care); /* looks again, though the ring has opened and sealed nothing */
}

void run_care_doubt(struct run_care *care)
{
    atomic_store(&care->doubt, true);
    rounds_hurry(care->rounds);
}
