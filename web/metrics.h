/*
 * metrics.h - figures for monitoring: sums over rings, and the OpenMetrics text (version 1.0.0).
 *
 * Everything is made from the recorder's answers to `status` and `disk.list` (PROTOCOL.md); what is
 * missing in them counts as 0.
 */
#ifndef WEB_METRICS_H
#define WEB_METRICS_H

#include <jansson.h>

/* Sums over the rings that were asked for. */
struct capture_figures {
    json_int_t seen, captured, dropped, duplicates, in_flight; /* packets */
    json_int_t captured_bytes;                                 /* as captured, before rules cut */
    json_int_t bytes_per_s, in_flight_bytes;
    json_int_t buffers, buffers_free;
    json_int_t batches, batch_ns, batch_ns_max, batch_ns_min; /* of recordings that run */
    json_int_t recordings;
};

/* Adds one element of `rings` of status. */
void capture_figures_add(struct capture_figures *figures, const json_t *ring_status);

/* Packets dropped, in percent of those seen; 0 where none was. */
double capture_drop_percent(const struct capture_figures *figures);

/* Buffers in use, in percent of all. */
double capture_buffer_percent(const struct capture_figures *figures);

/* The text, to be freed with free(); null: no memory. `disks` as in disk.list. */
char *metrics_text(const json_t *status, const json_t *disks);

#endif
