/*
 * test_placement.c - where copies go: properties over random rings, and rings of unequal disks over many laps.
 */
#include "unit_test.h"

#include <stdlib.h>
#include <string.h>

#include "placement.h"

#define DISKS_MAX 12u
#define SLOTS_MAX 400u

static uint64_t seed;

static uint64_t random_below(uint64_t bound)
{
    uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % bound;
}

static uint32_t domains_usable(const struct placement_disk *disk, uint32_t disks)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < disks; i++) {
        bool known = false;
        for (uint32_t before = 0; before < i && disk[i].failure_domain != 0; before++)
            known |= disk[before].usable && disk[before].failure_domain == disk[i].failure_domain;
        count += disk[i].usable && !known;
    }
    return count;
}

/* Never two on one disk, never one that is not usable, as many as can be had, and in as many domains as can be. */
static void test_properties(void **state)
{
    (void)state;
    seed = 1;
    for (uint32_t round = 0; round < 20000; round++) {
        struct placement_disk disk[DISKS_MAX];
        uint32_t disks = 1 + (uint32_t)random_below(DISKS_MAX), copies = 1 + (uint32_t)random_below(4), usable = 0;
        uint32_t chosen[4];
        for (uint32_t i = 0; i < disks; i++) {
            disk[i] = (struct placement_disk){
                .usable = random_below(4) != 0,
                .slots = 1 + (uint32_t)random_below(1000),
                .bytes_to_write = random_below(1 << 20),
                .failure_domain = random_below(4),
            };
            disk[i].free_slots = random_below(2) ? (uint32_t)random_below(disk[i].slots) : 0;
            disk[i].oldest_position = disk[i].free_slots ? 0 : 1 + random_below(1000);
            usable += disk[i].usable;
        }
        uint32_t count = placement_choose(disk, disks, copies, chosen);
        assert_int_equal(count, copies < usable ? copies : usable);
        struct placement_disk taken[4];
        for (uint32_t c = 0; c < count; c++) {
            assert_true(chosen[c] < disks && disk[chosen[c]].usable);
            taken[c] = disk[chosen[c]];
            for (uint32_t before = 0; before < c; before++)
                assert_int_not_equal(chosen[c], chosen[before]);
        }
        uint32_t domains = domains_usable(disk, disks);
        assert_int_equal(domains_usable(taken, count), domains < count ? domains : count);
    }
}

/* Of those that keep the ring even the one with the least to write; of all that are as good the most even one. What makes it uneven does not count. */
static void test_least_to_write(void **state)
{
    (void)state;
    struct placement_disk disk[5];
    for (int full = 0; full < 2; full++)
        for (uint32_t ahead = 0; ahead < 12; ahead++) {
            uint32_t chosen[4];
            for (uint32_t i = 0; i < 5; i++)
                disk[i] = (struct placement_disk){.usable = true, .slots = 100, .bytes_to_write = 1000 + i};
            for (uint32_t i = 0; i < 5; i++) {
                disk[i].oldest_position = full ? 1000 + i : 0;
                disk[i].free_slots = full ? 0 : 50;
            }
            disk[4].bytes_to_write = 1; /* and it is ahead of the others */
            disk[4].oldest_position = full ? 1000 + 5 * ahead : 0;
            disk[4].free_slots = full ? 0 : 50 - ahead;
            assert_int_equal(placement_choose(disk, 5, 2, chosen), 2);
            assert_int_equal(chosen[0], ahead <= 2 ? 4 : 0);
            assert_int_equal(chosen[1], ahead <= 2 ? 0 : 1);
        }
}

struct lap_disk {
    uint32_t slots;
    uint64_t position[SLOTS_MAX];
};

static uint32_t victim(const struct lap_disk *disk, uint32_t *free_slots)
{
    uint32_t best = 0;
    *free_slots = 0;
    for (uint32_t slot = 0; slot < disk->slots; slot++) {
        *free_slots += disk->position[slot] == 0;
        if (disk->position[slot] < disk->position[best])
            best = slot;
    }
    return best;
}

/* The oldest of a disk that is still whole in the ring: as the keeper, what is overwritten in one place expires in all. */
static void expire(struct lap_disk *disk, uint32_t disks, uint64_t position)
{
    for (uint32_t i = 0; position != 0 && i < disks; i++)
        for (uint32_t slot = 0; slot < disk[i].slots; slot++)
            if (disk[i].position[slot] == position)
                disk[i].position[slot] = 0;
}

/*
 * Disks of 1 to 8 times the size of the smallest, 1 to 4 copies, many laps: nearly all slots that copies can make use of are in use, and so all reach
 * equally far back. A disk that is larger than the others together cannot be filled: each copy needs another disk.
 */
static void laps(uint64_t from)
{
    static struct lap_disk disk[DISKS_MAX];
    seed = from;
    uint32_t disks = 2 + (uint32_t)random_below(6), copies = 1 + (uint32_t)random_below(disks < 4 ? disks : 4);
    uint64_t slots = 0, position = 0;
    memset(disk, 0, sizeof disk);
    for (uint32_t i = 0; i < disks; i++)
        slots += disk[i].slots = 40 * (1 + (uint32_t)random_below(8));
    /* As many segments as fit with each copy on another disk: the largest s with sum(min(slots, s)) >= copies * s. */
    uint64_t fit = 0;
    for (uint64_t s = 1; s <= slots; s++) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < disks; i++)
            sum += disk[i].slots < s ? disk[i].slots : s;
        if (sum < copies * s)
            break;
        fit = s;
    }
    uint64_t least = UINT64_MAX;
    for (uint64_t round = 0; round < 6 * slots; round++) {
        struct placement_disk candidate[DISKS_MAX];
        uint32_t slot[DISKS_MAX], chosen[4];
        for (uint32_t i = 0; i < disks; i++) {
            candidate[i] = (struct placement_disk){
                .usable = true, .slots = disk[i].slots, .bytes_to_write = random_below(1 << 20)};
            slot[i] = victim(&disk[i], &candidate[i].free_slots);
            candidate[i].oldest_position = disk[i].position[slot[i]];
        }
        assert_int_equal(placement_choose(candidate, disks, copies, chosen), copies);
        position++;
        for (uint32_t c = 0; c < copies; c++)
            expire(disk, disks, disk[chosen[c]].position[slot[chosen[c]]]);
        for (uint32_t c = 0; c < copies; c++)
            disk[chosen[c]].position[slot[chosen[c]]] = position;
        if (round < 3 * slots)
            continue;
        uint64_t places = 0;
        for (uint32_t i = 0; i < disks; i++)
            for (uint32_t s = 0; s < disk[i].slots; s++)
                places += disk[i].position[s] != 0;
        if (places / copies < least)
            least = places / copies;
    }
    if (least < fit - fit / 8)
        fail_msg("seed %llu: %u disks, %u copies: %llu segments at the least, %llu would fit", (unsigned long long)from, disks,
                 copies, (unsigned long long)least, (unsigned long long)fit);
}

static void test_unequal_disks_over_many_laps(void **state)
{
    (void)state;
    for (uint64_t from = 1; from <= 40; from++)
        laps(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_least_to_write),
        cmocka_unit_test(test_unequal_disks_over_many_laps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
