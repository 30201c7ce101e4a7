#include "level_list.h"

#include "decode.h"

_Static_assert(PACKET_LEVELS_MAX >= DECODE_LEVELS_MAX, "every level has room");

uint32_t packet_levels(uint16_t link_type, const uint8_t *bytes, uint32_t captured_bytes,
                       struct packet_level level[PACKET_LEVELS_MAX])
{
    struct decoded_packet decoded;
    uint32_t count = 0;
    decode_packet(link_type, bytes, captured_bytes, &decoded);
    for (uint32_t i = 0; i < decoded.levels; i++) {
        const struct decoded_level *from = &decoded.level[i];
        if ((from->flags & LEVEL_ADDRESSES) == 0)
            continue;
        level[count++] = (struct packet_level){
            .start = from->l3_start,
            .transport = from->l3_end,
            .source_port = from->source_port,
            .destination_port = from->destination_port,
            .version = from->version,
            .protocol = from->protocol,
            .ports = (from->flags & LEVEL_PORTS) != 0,
            .later = (from->flags & LEVEL_LATER) != 0,
            .inner = (from->flags & LEVEL_INNER) != 0,
        };
    }
    return count;
}
