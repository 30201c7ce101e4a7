/*
 * placement.c - see placement.h.
 */
#include "placement.h"

static bool better(const struct placement_disk *a, const struct placement_disk *b)
{
    if ((a->free_slots > 0) != (b->free_slots > 0))
        return a->free_slots > 0;
    if (a->free_slots > 0) {
        /* free_a / slots_a > free_b / slots_b, without rounding */
        uint64_t left = (uint64_t)a->free_slots * b->slots, right = (uint64_t)b->free_slots * a->slots;
        if (left != right)
            return left > right;
    } else if (a->oldest_position != b->oldest_position) {
        return a->oldest_position < b->oldest_position;
    }
    return a->in_flight_bytes < b->in_flight_bytes;
}

static bool domain_taken(const struct placement_disk *disk, const uint32_t *chosen, uint32_t count, uint64_t domain)
{
    for (uint32_t i = 0; i < count; i++)
        if (domain != 0 && disk[chosen[i]].failure_domain == domain)
            return true;
    return false;
}

static bool is_chosen(const uint32_t *chosen, uint32_t count, uint32_t i)
{
    for (uint32_t c = 0; c < count; c++)
        if (chosen[c] == i)
            return true;
    return false;
}

uint32_t placement_choose(const struct placement_disk *disk, uint32_t disks, uint32_t copies, uint32_t *chosen)
{
    uint32_t count = 0;
    for (int share_domains = 0; share_domains <= 1; share_domains++) {
        while (count < copies) {
            uint32_t best = disks;
            for (uint32_t i = 0; i < disks; i++) {
                if (!disk[i].usable || is_chosen(chosen, count, i))
                    continue;
                if (!share_domains && domain_taken(disk, chosen, count, disk[i].failure_domain))
                    continue;
                if (best == disks || better(&disk[i], &disk[best]))
                    best = i;
            }
            if (best == disks)
                break;
            chosen[count++] = best;
        }
    }
    return count;
}
