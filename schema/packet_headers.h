/*
 * packet_headers.h - how much of a packet is headers: what cuts stored packets for those who may not see what they carry
 * needs of the decoder.
 *
 * The store does not decode headers itself. Who starts the reading side hands it such a function: packet_headers() of rules/.
 */
#ifndef SCHEMA_PACKET_HEADERS_H
#define SCHEMA_PACKET_HEADERS_H

#include <stdint.h>

/*
 * The bytes up to the end of the last header that is known for one, never more than captured_bytes: link layer, tags and
 * labels, IP with extensions, tunnels, the transport with its options. What is not known is payload. Bytes are hostile. Any
 * thread, no state.
 */
typedef uint32_t packet_headers_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes);

#endif
