/*
 * fuzz_verdict_past.c - arbitrary bytes as a piece of what is written down of verdicts.
 *
 * The first byte: bit 0: checksums are put right first; bit 1: there is little room. The rest is the file.
 */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checksum.h"
#include "verdict_past.h"

static void put_checksums(uint8_t *bytes, size_t count)
{
    size_t at = 0;
    struct verdict_chunk_head head;
    while (count - at >= sizeof head) {
        memcpy(&head, bytes + at, sizeof head);
        size_t length = le32_get(head.bytes);
        if (length < sizeof head || length > count - at)
            return;
        head.body_crc = le32_of(checksum_crc32c(bytes + at + sizeof head, length - sizeof head));
        size_t from = offsetof(struct verdict_chunk_head, body_crc);
        head.head_crc = le32_of(checksum_crc32c((const uint8_t *)&head + from, sizeof head - from));
        memcpy(bytes + at, &head, sizeof head);
        at += length;
    }
}

static uint32_t truth_of(void *context, const char *name)
{
    (void)context;
    assert(strlen(name) < VERDICT_TEXT_BYTES);
    return (uint32_t)strlen(name) + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count < 1)
        return 0;
    uint8_t *copy = malloc(count);
    int fd = memfd_create("piece", MFD_CLOEXEC);
    if (!copy || fd < 0)
        abort();
    memcpy(copy, bytes + 1, count - 1);
    if ((bytes[0] & 1) != 0)
        put_checksums(copy, count - 1);
    if (write(fd, copy, count - 1) != (ssize_t)(count - 1))
        abort();
    struct verdict_chunk_head head = {0};
    if (count > sizeof head)
        memcpy(&head, copy, sizeof head);
    struct verdict_past *past;
    if (verdict_past_open(&head.ring, truth_of, NULL, (bytes[0] & 2) != 0 ? 3 : 0, &past) != 0)
        abort();
    verdict_past_piece(past, fd);
    if (verdict_past_want(past, &head.run, le32_get(head.stream), 3, 1000) != 0)
        abort();
    for (uint32_t i = 0; i < 64; i++) {
        struct flow_keys keys = {.kind = {.version = 4, .protocol = 17, .ethertype = FLOW_ETHERTYPE_IP, .marks = FLOW_PORTS}};
        uint32_t truth;
        keys.end[0].port = (uint16_t)(i % 8);
        bool known = verdict_past_ask(past, &head.run, le32_get(head.stream), i * 17, &keys, &truth);
        assert(!known || (truth > 0 && i * 17 >= 3 && i * 17 < 1000));
    }
    assert(verdict_past_bytes_read(past) <= 2 * count);
    verdict_past_close(&past);
    free(copy);
    return 0;
}
