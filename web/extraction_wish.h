/*
 * extraction_wish.h - which packets a request asks for: what extractions and jobs have in common
 * (extraction_handlers.c), and downloads of jobs (job_handlers.c).
 */
#ifndef WEB_EXTRACTION_WISH_H
#define WEB_EXTRACTION_WISH_H

#include "exchange.h"
#include "extraction_list.h"
#include "job_tickets.h"

#define DOWNLOAD_URL_SIZE 512

/* Range and filter from the body, for the caller; *wish is to be freed in every case. ERR_INVALID, ERR_TOO_LARGE. */
int extraction_wish_of_body(struct exchange *exchange, const char *ring, const char *format,
                            struct extraction_wish *wish, struct failure *failure);

/* Ring, range and filter as the recorder's methods take them. The caller owns it. */
json_t *extraction_wish_params(const struct extraction_wish *wish);

/* Where a ticket is to be used: the same name that the client knows us by, and the other port. */
void extraction_download_url(const struct exchange *exchange, const char *ticket,
                             char url[DOWNLOAD_URL_SIZE]);

/* Answers with the result of a job, or a part of it. Returns the status. */
int download_job(struct exchange *exchange, const struct job_ticket *ticket);

#endif
