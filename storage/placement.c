/*
 * placement.c - see placement.h.
 */
#include "placement.h"

#define PLACEMENT_SLACK 2u /* segments */

/* Whether a copy on `a` keeps the ring more even than one on `b`. */
static bool more_even(const struct placement_disk *a, const struct placement_disk *b)
{
    if ((a->free_slots > 0) != (b->free_slots > 0))
        return a->free_slots > 0;
    if (a->free_slots > 0) /* free_a / slots_a > free_b / slots_b, without rounding */
        return (uint64_t)a->free_slots * b->slots > (uint64_t)b->free_slots * a->slots;
    return a->oldest_position < b->oldest_position;
}

/* Whether a copy on `one` keeps the ring even as well as one on `best`, by PLACEMENT_SLACK segments of each disk. */
static bool as_even(const struct placement_disk *one, const struct placement_disk *best, uint32_t disks)
{
    if ((one->free_slots > 0) != (best->free_slots > 0))
        return false;
    if (one->free_slots > 0)
        return ((uint64_t)one->free_slots + PLACEMENT_SLACK) * best->slots >= (uint64_t)best->free_slots * one->slots;
    return one->oldest_position - best->oldest_position <= (uint64_t)PLACEMENT_SLACK * disks;
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
            uint32_t possible[RING_DISKS_MAX], possibles = 0, even = 0;
            for (uint32_t i = 0; i < disks; i++) {
                if (!disk[i].usable || is_chosen(chosen, count, i))
                    continue;
                if (!share_domains && domain_taken(disk, chosen, count, disk[i].failure_domain))
                    continue;
                possible[possibles++] = i;
                if (more_even(&disk[i], &disk[possible[even]]))
                    even = possibles - 1;
            }
            if (possibles == 0)
                break;
            uint32_t best = possible[even];
            for (uint32_t p = 0; p < possibles; p++)
                if (as_even(&disk[possible[p]], &disk[possible[even]], disks) &&
                    disk[possible[p]].bytes_to_write < disk[best].bytes_to_write)
                    best = possible[p];
            chosen[count++] = best;
        }
    }
    return count;
}
