/*
 * extraction_list.h - extractions that were asked for through the web process: waiting for their
 * download, running, and the last ones that have ended. In memory: a restart forgets them, with
 * their downloads.
 *
 *     WAITING --ticket is used--> RUNNING --> DONE | FAILED | STOPPED
 *        '------- 60 s -------> EXPIRED
 *
 * A ticket is 256 random bits and good for one download. An entry that runs belongs to its
 * download's thread; others look at it under the list's lock only. Entries that have ended give way
 * to new ones.
 */
#ifndef WEB_EXTRACTION_LIST_H
#define WEB_EXTRACTION_LIST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "errors.h"
#include "password.h"
#include "web_store.h"

#define EXTRACTIONS_MAX 256u
#define EXTRACTIONS_OF_USER_MAX 64u /* that wait or run: the others have places left */
#define TICKET_S 60
#define FILTER_TEXT_MAX 4096u

struct extraction_list;

enum extraction_state {
    EXTRACTION_WAITING,
    EXTRACTION_RUNNING,
    EXTRACTION_DONE,
    EXTRACTION_FAILED,
    EXTRACTION_STOPPED,
    EXTRACTION_EXPIRED,
};

/* What is wanted. */
struct extraction_wish {
    char user[USER_NAME_MAX + 1];
    char ring[64];
    int64_t from_ns, to_ns; /* INT64_MIN, INT64_MAX: no limit */
    char *filter;           /* the wish's; see extraction_wish_free() */
    char query[8];          /* its language: "pcap", "steno" */
    char format[16];
    bool headers_only; /* packets are cut where their headers end */
    bool no_index;     /* everything is read, as if there were no index */
    bool explain;      /* how the packets are found is wanted, not they */
    bool follow;       /* it goes on with what is recorded, until to_ns or until it is stopped */
};

/* How far one is. */
struct extraction_progress {
    int64_t packets, output_bytes, segments_done, segments_total;
    int64_t gaps_total;
    int64_t undecided;
    bool complete; /* of one that is done: nothing of the range is missing */
};

void extraction_wish_free(struct extraction_wish *wish);

/* `running_max`: how many may run at a time. Null: out of memory. */
struct extraction_list *extraction_list_open(unsigned running_max);
void extraction_list_close(struct extraction_list **slot);

/* Adds one that waits; *wish is taken over. ERR_BUSY: the list is full of those that wait or run.
 */
int extraction_list_add(struct extraction_list *list, struct extraction_wish *wish, int64_t *number,
                        char ticket[SECRET_TEXT_SIZE], struct failure *failure);

/*
 * Begins the one that the ticket is for; *wish is a copy. ERR_NOT_FOUND: no such ticket, or it has
 * been used, or is too old. ERR_AGAIN: as many run as may, and the ticket stays good.
 */
int extraction_list_begin(struct extraction_list *list, const char *ticket, int64_t *number,
                          struct extraction_wish *wish, struct failure *failure);

/* Says how far it is. False: somebody wants it to stop, from then on. */
bool extraction_list_progress(struct extraction_list *list, int64_t number,
                              const struct extraction_progress *progress);
void extraction_list_end(struct extraction_list *list, int64_t number, enum extraction_state state,
                         const struct extraction_progress *progress, const char *error);

/* Ends one that waits or runs. `user` null: whoever's it is. ERR_NOT_FOUND, ERR_PERMISSION. */
int extraction_list_stop(struct extraction_list *list, int64_t number, const char *user);

/* A place among the downloads that may run at a time, for one that is in no list. False: there is none. */
bool extraction_list_enter(struct extraction_list *list);
void extraction_list_leave(struct extraction_list *list);

/* The newest first. */
json_t *extraction_list_json(struct extraction_list *list);
/* One of them; null: there is none of that number. */
json_t *extraction_list_one(struct extraction_list *list, int64_t number);

#endif
