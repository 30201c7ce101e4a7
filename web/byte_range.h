/*
 * byte_range.h - the header Range of a request (RFC 9110, section 14): which part of a file is
 * wanted.
 */
#ifndef WEB_BYTE_RANGE_H
#define WEB_BYTE_RANGE_H

#include <stdint.h>

enum byte_range {
    BYTE_RANGE_ALL,  /* no range, one of another unit, several, or one that is not understood: all of it is the answer */
    BYTE_RANGE_PART, /* *first to *last, both inclusive */
    BYTE_RANGE_NONE, /* nothing of the file lies in it: 416 */
};

/* `header` may be null; `bytes` is the file's length. With BYTE_RANGE_ALL they are all of it (*last 0 where it is empty). */
enum byte_range byte_range_parse(const char *header, uint64_t bytes, uint64_t *first,
                                 uint64_t *last);

#endif
