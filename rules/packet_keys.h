/*
 * packet_keys.h - from a decoded packet to the keys that the index files it under.
 *
 *     decode_packet(link_type, bytes, captured_bytes, &decoded);
 *     packet_keys_fill(link_type, bytes, captured_bytes, &decoded, &keys);
 *
 * Keys are made so that they can be held against pcap-filter(7), which reads packets at fixed
 * places and believes what it finds there: where the decoder saw something else than such a reading
 * might, the keys are marked as unsure (flow_keys.h).
 *
 * No state, no allocation, any thread. Bytes are hostile.
 */
#ifndef RULES_PACKET_KEYS_H
#define RULES_PACKET_KEYS_H

#include "decode.h"
#include "flow_keys.h"

/* Sets everything but keys->entry, and keys->inner only with FLOW_INNER. */
void packet_keys_fill(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                      const struct decoded_packet *decoded, struct flow_keys *keys);

/* Decodes and fills: what the store is given to index by (flow_keys_of). */
bool packet_keys_of(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes, struct flow_plain *plain, struct flow_keys *keys);

#endif
