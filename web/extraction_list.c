/*
 * extraction_list.c - see extraction_list.h.
 */
#include "extraction_list.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text.h"

struct extraction {
    int64_t number; /* 0: free */
    enum extraction_state state;
    struct extraction_wish wish;
    uint8_t ticket[SECRET_DIGEST_BYTES];
    int64_t created_s, began_s, ended_s; /* began, ended: 0 before */
    struct extraction_progress progress;
    bool stop;
    char error[512];
};

struct extraction_list {
    pthread_mutex_t lock;
    unsigned running, running_max;
    int64_t last;
    struct extraction entry[EXTRACTIONS_MAX];
};

static const char *const state_names[] = {
    [EXTRACTION_WAITING] = "waiting", [EXTRACTION_RUNNING] = "running",
    [EXTRACTION_DONE] = "done",       [EXTRACTION_FAILED] = "failed",
    [EXTRACTION_STOPPED] = "stopped", [EXTRACTION_EXPIRED] = "expired",
};

void extraction_wish_free(struct extraction_wish *wish)
{
    free(wish->filter);
    wish->filter = NULL;
}

struct extraction_list *extraction_list_open(unsigned running_max)
{
    struct extraction_list *list = calloc(1, sizeof *list);
    if (!list)
        return NULL;
    pthread_mutex_init(&list->lock, NULL);
    list->running_max = running_max;
    return list;
}

void extraction_list_close(struct extraction_list **slot)
{
    struct extraction_list *list = *slot;
    if (!list)
        return;
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++)
        extraction_wish_free(&list->entry[i].wish);
    pthread_mutex_destroy(&list->lock);
    free(list);
    *slot = NULL;
}

static void expire(struct extraction_list *list)
{
    int64_t now = time(NULL);
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++) {
        struct extraction *one = &list->entry[i];
        if (one->number && one->state == EXTRACTION_WAITING && now - one->created_s > TICKET_S) {
            one->state = EXTRACTION_EXPIRED;
            one->ended_s = now;
        }
    }
}

static unsigned count_of(const struct extraction_list *list, const char *user)
{
    unsigned count = 0;
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++) {
        const struct extraction *one = &list->entry[i];
        count += one->number && one->state <= EXTRACTION_RUNNING && strcmp(one->wish.user, user) == 0;
    }
    return count;
}

static struct extraction *find(struct extraction_list *list, int64_t number)
{
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++)
        if (number && list->entry[i].number == number)
            return &list->entry[i];
    return NULL;
}

/* A free entry, or the oldest that has ended; null: there is none. */
static struct extraction *find_room(struct extraction_list *list)
{
    struct extraction *oldest = NULL;
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++) {
        struct extraction *one = &list->entry[i];
        if (!one->number)
            return one;
        if (one->state > EXTRACTION_RUNNING && (!oldest || one->number < oldest->number))
            oldest = one;
    }
    return oldest;
}

int extraction_list_add(struct extraction_list *list, struct extraction_wish *wish, int64_t *number,
                        char ticket[SECRET_TEXT_SIZE], struct failure *failure)
{
    if (secret_make(ticket) != 0)
        return fail(failure, ERR_INTERNAL, "the random generator failed");
    pthread_mutex_lock(&list->lock);
    expire(list);
    bool too_many = count_of(list, wish->user) >= EXTRACTIONS_OF_USER_MAX;
    struct extraction *one = too_many ? NULL : find_room(list);
    if (one) {
        extraction_wish_free(&one->wish);
        *one = (struct extraction){.number = ++list->last, .wish = *wish, .created_s = time(NULL)};
        secret_digest("ticket", ticket, one->ticket);
        *number = one->number;
        *wish = (struct extraction_wish){0};
    }
    pthread_mutex_unlock(&list->lock);
    return one ? 0
               : fail(failure, ERR_BUSY, "too many extractions %s: stop one, or try again later",
                      too_many ? "of this user wait or run" : "wait or run");
}

static struct extraction *find_ticket(struct extraction_list *list, const uint8_t *ticket)
{
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++) {
        struct extraction *one = &list->entry[i];
        if (one->number && one->state == EXTRACTION_WAITING &&
            CRYPTO_memcmp(one->ticket, ticket, SECRET_DIGEST_BYTES) == 0)
            return one;
    }
    return NULL;
}

int extraction_list_begin(struct extraction_list *list, const char *ticket, int64_t *number,
                          struct extraction_wish *wish, struct failure *failure)
{
    uint8_t digest[SECRET_DIGEST_BYTES];
    int code = 0;
    secret_digest("ticket", ticket, digest);
    pthread_mutex_lock(&list->lock);
    expire(list);
    struct extraction *one = find_ticket(list, digest);
    char *filter = one && list->running < list->running_max ? strdup(one->wish.filter) : NULL;
    if (!one)
        code =
            fail(failure, ERR_NOT_FOUND,
                 "this download was used already, or not within %d s: ask for another", TICKET_S);
    else if (list->running >= list->running_max)
        code = fail(failure, ERR_AGAIN, "as many downloads run as may (%u): try again",
                    list->running_max);
    else if (!filter)
        code = fail(failure, ERR_NO_MEMORY, "out of memory");
    else {
        *wish = one->wish;
        wish->filter = filter;
        one->state = EXTRACTION_RUNNING;
        one->began_s = time(NULL);
        list->running++;
        *number = one->number;
    }
    pthread_mutex_unlock(&list->lock);
    return code;
}

bool extraction_list_progress(struct extraction_list *list, int64_t number,
                              const struct extraction_progress *progress)
{
    pthread_mutex_lock(&list->lock);
    struct extraction *one = find(list, number);
    bool go_on = one && !one->stop;
    if (one)
        one->progress = *progress;
    pthread_mutex_unlock(&list->lock);
    return go_on;
}

void extraction_list_end(struct extraction_list *list, int64_t number, enum extraction_state state,
                         const struct extraction_progress *progress, const char *error)
{
    pthread_mutex_lock(&list->lock);
    struct extraction *one = find(list, number);
    if (one) {
        one->state = state;
        one->progress = *progress;
        one->ended_s = time(NULL);
        text_printable(error, one->error, sizeof one->error);
    }
    list->running--;
    pthread_mutex_unlock(&list->lock);
}

bool extraction_list_enter(struct extraction_list *list)
{
    pthread_mutex_lock(&list->lock);
    bool free_place = list->running < list->running_max;
    list->running += free_place;
    pthread_mutex_unlock(&list->lock);
    return free_place;
}

void extraction_list_leave(struct extraction_list *list)
{
    pthread_mutex_lock(&list->lock);
    list->running--;
    pthread_mutex_unlock(&list->lock);
}

int extraction_list_stop(struct extraction_list *list, int64_t number, const char *user)
{
    int code = 0;
    pthread_mutex_lock(&list->lock);
    struct extraction *one = find(list, number);
    if (!one || one->state > EXTRACTION_RUNNING)
        code = ERR_NOT_FOUND;
    else if (user && strcmp(one->wish.user, user) != 0)
        code = ERR_PERMISSION;
    else if (one->state == EXTRACTION_RUNNING)
        one->stop = true;
    else {
        one->state = EXTRACTION_STOPPED;
        one->ended_s = time(NULL);
    }
    pthread_mutex_unlock(&list->lock);
    return code;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static json_t *time_json(int64_t time_ns, int64_t none)
{
    char text[24];
    if (time_ns == none)
        return json_null();
    snprintf(text, sizeof text, "%" PRId64, time_ns);
    return json_string(text);
}

static json_t *second_json(int64_t second)
{
    return second ? json_integer((json_int_t)second) : json_null();
}

static json_t *one_json(const struct extraction *one)
{
    const struct extraction_progress *progress = &one->progress;
    json_t *object =
        json_pack("{s:I, s:s, s:s, s:s, s:s, s:s}", "extraction", (json_int_t)one->number, "state",
                  state_names[one->state], "user", one->wish.user, "ring", one->wish.ring, "filter",
                  one->wish.filter, "format", one->wish.format);
    json_object_set_new(object, "headers", json_boolean(one->wish.headers_only));
    json_object_set_new(object, "follow", json_boolean(one->wish.follow));
    json_object_set_new(object, "query", json_string(one->wish.query));
    json_object_set_new(object, "no_index", json_boolean(one->wish.no_index));
    json_object_set_new(object, "explain", json_boolean(one->wish.explain));
    json_object_set_new(object, "from_ns", time_json(one->wish.from_ns, INT64_MIN));
    json_object_set_new(object, "to_ns", time_json(one->wish.to_ns, INT64_MAX));
    json_object_set_new(object, "created_s", second_json(one->created_s));
    json_object_set_new(object, "began_s", second_json(one->began_s));
    json_object_set_new(object, "ended_s", second_json(one->ended_s));
    json_object_set_new(object, "packets", json_integer((json_int_t)progress->packets));
    json_object_set_new(object, "output_bytes", json_integer((json_int_t)progress->output_bytes));
    json_object_set_new(object, "segments_done", json_integer((json_int_t)progress->segments_done));
    json_object_set_new(object, "segments_total",
                        json_integer((json_int_t)progress->segments_total));
    json_object_set_new(object, "gaps_total", json_integer((json_int_t)progress->gaps_total));
    json_object_set_new(object, "undecided", json_integer((json_int_t)progress->undecided));
    json_object_set_new(object, "complete",
                        one->state == EXTRACTION_DONE ? json_boolean(progress->complete)
                                                      : json_null());
    json_object_set_new(object, "error", one->error[0] ? json_string(one->error) : json_null());
    return object;
}

static int newest_first(const void *a, const void *b)
{
    const struct extraction *const *x = a, *const *y = b;
    return (*x)->number < (*y)->number ? 1 : -1;
}

json_t *extraction_list_json(struct extraction_list *list)
{
    const struct extraction *found[EXTRACTIONS_MAX];
    size_t count = 0;
    json_t *array = json_array();
    pthread_mutex_lock(&list->lock);
    expire(list);
    for (unsigned i = 0; i < EXTRACTIONS_MAX; i++)
        if (list->entry[i].number)
            found[count++] = &list->entry[i];
    qsort(found, count, sizeof(const struct extraction *), newest_first);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, one_json(found[i]));
    pthread_mutex_unlock(&list->lock);
    return array;
}

json_t *extraction_list_one(struct extraction_list *list, int64_t number)
{
    pthread_mutex_lock(&list->lock);
    const struct extraction *one = find(list, number);
    json_t *object = one ? one_json(one) : NULL;
    pthread_mutex_unlock(&list->lock);
    return object;
}
