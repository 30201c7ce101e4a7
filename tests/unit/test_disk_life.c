/* The states of a disk: every state with every cause, and the invariant over every combination of facts. */
#include <string.h>

#include "disk_life.h"
#include "unit_test.h"

/* The table once more, as a person reads it off the drawing: rows are states, columns causes, '.' leads nowhere. */
static const char *const drawing[DISK_STATES] = {
    /*               format join remove resume slow error vanish other answer read-back return */
    [DISK_FRESH] = ".A.........",   [DISK_ACTIVE] = "..R.SFM....",  [DISK_SUSPECT] = "..R..FM.A..",
    [DISK_FAILED] = "..RA..M..A.",  [DISK_MISSING] = "..RA...X..A", [DISK_REMOVED] = "...A...X...",
    [DISK_FOREIGN] = "N.....M....",
};

static int state_of(char letter)
{
    switch (letter) {
    case 'N':
        return DISK_FRESH;
    case 'A':
        return DISK_ACTIVE;
    case 'S':
        return DISK_SUSPECT;
    case 'F':
        return DISK_FAILED;
    case 'M':
        return DISK_MISSING;
    case 'R':
        return DISK_REMOVED;
    case 'X':
        return DISK_FOREIGN;
    default:
        return ERR_INVALID;
    }
}

static void test_every_transition(void **state)
{
    (void)state;
    for (unsigned from = 0; from < DISK_STATES; from++) {
        assert_int_equal(strlen(drawing[from]), DISK_CAUSES);
        bool reached[DISK_STATES] = {false};
        reached[from] = true;
        for (unsigned cause = 0; cause < DISK_CAUSES; cause++) {
            int next = disk_life_next((enum disk_state)from, (enum disk_cause)cause);
            assert_int_equal(next, state_of(drawing[from][cause]));
            if (next >= 0)
                reached[next] = true;
        }
        for (unsigned to = 0; to < DISK_STATES; to++)
            assert_int_equal(disk_life_is_allowed((enum disk_state)from, (enum disk_state)to),
                             reached[to]);
    }
}

static void test_no_number_is_trusted(void **state)
{
    (void)state;
    for (int wrong = -3; wrong < 300; wrong++) {
        if (wrong < 0 || wrong >= DISK_STATES) {
            assert_int_equal(disk_life_next((enum disk_state)wrong, DISK_CAUSE_REMOVE), ERR_INVALID);
            assert_false(disk_life_is_allowed((enum disk_state)wrong, DISK_ACTIVE));
            assert_false(disk_life_is_allowed(DISK_ACTIVE, (enum disk_state)wrong));
            assert_false(disk_life_is_read((enum disk_state)wrong));
            assert_false(disk_life_is_missed((enum disk_state)wrong));
            assert_string_equal(disk_state_name((enum disk_state)wrong), "unknown");
            struct disk_facts facts = {.state = (enum disk_state)wrong};
            assert_non_null(disk_life_check(&facts));
        }
        if (wrong < 0 || wrong >= DISK_CAUSES) {
            assert_int_equal(disk_life_next(DISK_ACTIVE, (enum disk_cause)wrong), ERR_INVALID);
            assert_string_equal(disk_cause_name((enum disk_cause)wrong), "unknown");
        }
    }
}

static void test_names_differ(void **state)
{
    (void)state;
    for (unsigned i = 0; i < DISK_STATES; i++)
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(disk_state_name((enum disk_state)i),
                                    disk_state_name((enum disk_state)k));
    for (unsigned i = 0; i < DISK_CAUSES; i++)
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(disk_cause_name((enum disk_cause)i),
                                    disk_cause_name((enum disk_cause)k));
}

/* From every state there is a way back to ACTIVE, and a disk that works can be taken out by a person. */
static void test_no_dead_end(void **state)
{
    (void)state;
    for (unsigned from = 0; from < DISK_STATES; from++) {
        unsigned reached = 1u << from;
        for (unsigned round = 0; round < DISK_STATES; round++)
            for (unsigned at = 0; at < DISK_STATES; at++)
                for (unsigned to = 0; to < DISK_STATES; to++)
                    if ((reached & (1u << at)) &&
                        disk_life_is_allowed((enum disk_state)at, (enum disk_state)to))
                        reached |= 1u << to;
        assert_true(reached & (1u << DISK_ACTIVE));
        assert_true(reached & (1u << DISK_REMOVED));
    }
}

/* Nothing but a person's verb takes a disk out for good, or one that is out back in. */
static void test_only_verbs_remove_and_resume(void **state)
{
    (void)state;
    for (unsigned from = 0; from < DISK_STATES; from++)
        for (unsigned cause = 0; cause < DISK_CAUSES; cause++) {
            int next = disk_life_next((enum disk_state)from, (enum disk_cause)cause);
            if (next == DISK_REMOVED)
                assert_int_equal(cause, DISK_CAUSE_REMOVE);
            if (from == DISK_REMOVED && next == DISK_ACTIVE)
                assert_int_equal(cause, DISK_CAUSE_RESUME);
        }
}

/* Every combination of facts: the check says what the sentences of the header say. */
static void test_invariant(void **state)
{
    (void)state;
    for (unsigned life = 0; life < DISK_STATES; life++)
        for (unsigned bits = 0; bits < 32; bits++) {
            struct disk_facts facts = {
                .state = (enum disk_state)life,
                .open = bits & 1,
                .leaving = bits & 2,
                .takes_segments = bits & 4,
                .is_read = bits & 8,
                .requests = bits & 16 ? 3 : 0,
            };
            bool written = life == DISK_ACTIVE || life == DISK_SUSPECT;
            bool had = written || life == DISK_FAILED;
            bool right = (facts.open || facts.requests == 0) &&
                         (!written || (facts.open && !facts.leaving)) &&
                         (!facts.takes_segments || written) &&
                         (!facts.is_read || (facts.open && had)) &&
                         (!facts.open || facts.leaving || had || life == DISK_FRESH);
            assert_int_equal(disk_life_check(&facts) == NULL, right);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_transition),
        cmocka_unit_test(test_no_number_is_trusted),
        cmocka_unit_test(test_names_differ),
        cmocka_unit_test(test_no_dead_end),
        cmocka_unit_test(test_only_verbs_remove_and_resume),
        cmocka_unit_test(test_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
