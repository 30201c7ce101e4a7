/*
 * header_end.c - see packet_headers.h.
 *
 * A rule that keeps headers keeps the whole packet where it knows none: it must not destroy. This
 * is the other way round: it must not show.
 */
#include "header_end.h"

#include "decode.h"

uint32_t packet_headers(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes)
{
    struct decoded_packet decoded;
    decode_packet(link_type, bytes, captured_bytes, &decoded);
    uint32_t end = decoded.l4_end != DECODE_UNKNOWN                                 ? decoded.l4_end
                   : decoded.l3_end != DECODE_UNKNOWN                               ? decoded.l3_end
                   : decoded.flags & DECODED_L2 && decoded.l2_end != DECODE_UNKNOWN ? decoded.l2_end
                                                                                    : 0;
    return end < captured_bytes ? end : captured_bytes;
}
