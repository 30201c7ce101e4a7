/* CRC-32C against published values, against a bit-by-bit reference, and in pieces. */
#include <string.h>

#include "checksum.h"
#include "unit_test.h"

static uint32_t reference(const uint8_t *bytes, size_t count)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
    }
    return ~crc;
}

static void known_values(void **state)
{
    (void)state;
    assert_int_equal(checksum_crc32c("123456789", 9), 0xE3069283u);
    assert_int_equal(checksum_crc32c("", 0), 0);
    /* RFC 3720, B.4 */
    uint8_t bytes[32];
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(checksum_crc32c(bytes, sizeof bytes), 0x8A9136AAu);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(checksum_crc32c(bytes, sizeof bytes), 0x62A8AB43u);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(checksum_crc32c(bytes, sizeof bytes), 0x46DD794Eu);
}

static void every_length_and_every_cut(void **state)
{
    (void)state;
    uint8_t bytes[700];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 131 + i / 7);
    for (size_t count = 0; count <= sizeof bytes; count++) {
        uint32_t whole = reference(bytes, count);
        assert_int_equal(checksum_crc32c(bytes, count), whole);
        size_t cut = count * 3 / 7;
        uint32_t first = checksum_crc32c(bytes, cut);
        assert_int_equal(checksum_crc32c_more(first, bytes + cut, count - cut), whole);
    }
}

static void unaligned(void **state)
{
    (void)state;
    uint8_t bytes[4096 + 16];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i ^ (i >> 5));
    for (size_t start = 0; start < 16; start++)
        assert_int_equal(checksum_crc32c(bytes + start, 4096), reference(bytes + start, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(every_length_and_every_cut),
        cmocka_unit_test(unaligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
