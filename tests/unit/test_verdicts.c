/*
 * test_verdicts.c - what layer 7 has found is kept for as long as there is room, never becomes something else, and is found under the
 * same conversations that rules go by.
 */
#include "unit_test.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "packet_keys.h"
#include "packet_mixer.h"
#include "verdicts.h"

static const char *const name[] = {"DNS", "TLS", "Example", "With.Dot"};

static struct verdicts *open_verdicts(void)
{
    struct verdicts *verdicts;
    struct failure failure;
    assert_int_equal(verdicts_open(&verdicts, &failure), 0);
    return verdicts;
}

static void test_names(void **state)
{
    (void)state;
    static const char *const other[] = {"Other"};
    char text[VERDICT_TEXT_BYTES];
    struct verdicts *verdicts = open_verdicts();
    assert_int_equal(verdicts_names(verdicts), 0);
    assert_true(verdicts_know(verdicts, "whatever")); /* nobody has said which there are */
    verdicts_name(verdicts, name, COUNT(name));
    verdicts_name(verdicts, other, COUNT(other));
    assert_int_equal(verdicts_names(verdicts), COUNT(name));
    static const struct {
        const char *name;
        bool known;
    } ask[] = {{"dns", true},         {"DNS", true},       {"tls.example", true}, {"unknown", true}, {"with.dot", true},
               {"tls.with.dot", true}, {"other", false},    {"dn", false},         {"dnss", false},   {"tls.", false},
               {".tls", false},        {"tls.nope", false}, {"", false}};
    for (size_t i = 0; i < COUNT(ask); i++)
        if (verdicts_know(verdicts, ask[i].name) != ask[i].known)
            fail_msg("%s", ask[i].name);
    static const struct {
        uint16_t app[2];
        const char *text;
    } texts[] = {{{1, 0}, "DNS"}, {{0, 1}, "DNS"}, {{2, 3}, "TLS.Example"}, {{2, 2}, "TLS"}, {{0, 0}, "Unknown"}, {{5, 0}, NULL}, {{1, 9}, NULL}};
    for (size_t i = 0; i < COUNT(texts); i++) {
        assert_true(verdicts_text(verdicts, texts[i].app, text) == (texts[i].text != NULL));
        if (texts[i].text)
            assert_string_equal(text, texts[i].text);
    }
    assert_true(verdict_is("TLS.Example", "tls") && verdict_is("TLS.Example", "EXAMPLE") && verdict_is("TLS.Example", "tls.example"));
    assert_false(verdict_is("TLS.Example", "tl") || verdict_is("TLS.Example", "ample") || verdict_is("TLS", "tls.example") || verdict_is("TLS", ""));
    assert_true(verdict_is("Unknown", "unknown"));
    verdicts_close(&verdicts);
}

/* Whoever reads sees what was written, through a descriptor that lets it write nothing. */
static void test_shared(void **state)
{
    (void)state;
    const uint16_t said[2] = {2, 3};
    uint16_t heard[2];
    struct verdicts *verdicts = open_verdicts(), *reader;
    verdicts_name(verdicts, name, COUNT(name));
    assert_int_equal(verdicts_map(verdicts_fd(verdicts), &reader), 0);
    assert_int_equal(verdicts_seed(reader), verdicts_seed(verdicts));
    assert_int_equal(verdicts_names(reader), COUNT(name));
    assert_false(verdicts_any(verdicts)); /* that somebody has asked for names is no reason to look flows up */
    assert_false(verdicts_get(reader, 77, heard));
    verdicts_put(verdicts, 77, said);
    assert_true(verdicts_any(verdicts));
    assert_true(verdicts_get(reader, 77, heard));
    assert_memory_equal(heard, said, sizeof said);
    assert_false(verdicts_get(reader, 79, heard));
    verdicts_drop(verdicts, 77);
    assert_false(verdicts_get(reader, 77, heard));
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, verdicts_fd(verdicts), 0), MAP_FAILED);
    verdicts_close(&reader);
    int fd = memfd_create("none", MFD_CLOEXEC);
    assert_int_equal(verdicts_map(fd, &reader), ERR_PROTOCOL);
    close(fd);
    verdicts_close(&verdicts);
}

/* Far more conversations than there is room for: what is there still is what was said of it last. */
static void test_flood(void **state)
{
    (void)state;
    struct verdicts *verdicts = open_verdicts();
    verdicts_name(verdicts, name, COUNT(name));
    uint32_t kept = 0, many = 3 * VERDICTS_MAX;
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t i = 0; i < many; i++) {
            const uint16_t app[2] = {(uint16_t)(i % 3), (uint16_t)((i + round) % 4)};
            verdicts_put(verdicts, (i * 0x9e3779b97f4a7c15u ^ i << 20) | 1, app);
        }
    for (uint64_t i = 0; i < many; i++) {
        uint16_t heard[2];
        if (!verdicts_get(verdicts, (i * 0x9e3779b97f4a7c15u ^ i << 20) | 1, heard))
            continue;
        kept++;
        assert_int_equal(heard[0], i % 3);
        assert_int_equal(heard[1], (i + 1) % 4);
    }
    print_message("%u of %u are kept\n", kept, many);
    assert_true(kept > VERDICTS_MAX * 9 / 10 && kept <= VERDICTS_MAX);
    verdicts_close(&verdicts);
}

/* Conversations are those of decoded_flow_hash(), which rules and layer 7 go by. */
static void test_conversations(void **state)
{
    (void)state;
    struct mixer mixer = {.state = 11};
    uint8_t bytes[MIXED_BYTES_MAX];
    uint32_t some = 0, none = 0, never = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        struct decoded_packet decoded;
        struct flow_keys keys;
        uint32_t count = mixer_packet(&mixer, bytes);
        uint64_t ours, theirs;
        decode_packet(LINK_ETHERNET, bytes, count, &decoded);
        packet_keys_fill(LINK_ETHERNET, bytes, count, &decoded, &keys);
        const struct decoded_level *level = decoded_innermost(&decoded);
        bool has = verdicts_hash(&keys, 5, &ours), fragment = level && (level->flags & LEVEL_FRAGMENT) != 0;
        bool rules_have = decoded_flow_hash(bytes, &decoded, 5, &theirs);
        none += !has;
        assert_true(!has || !verdicts_never(&keys.kind));
        never += verdicts_never(&keys.kind);
        if (fragment) /* one with ports is of its flow, others of none */
            assert_true(!has || (level->flags & LEVEL_PORTS) != 0);
        else if (has != rules_have || (has && ours != (theirs | 1)))
            fail_msg("packet %u: %d, %d", i, has, rules_have);
        some += has;
    }
    assert_true(some > 100000 && none > 1000 && never > none / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_conversations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
