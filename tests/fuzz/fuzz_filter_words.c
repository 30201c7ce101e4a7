/*
 * The primitives of ours in a filter's text, and what they say of packets of all kinds. What is refused must have a sentence; what is taken
 * must become text for libpcap in which none of our words is left, whichever way they turn out, and no packet, cut anywhere, may make a word
 * true that is not there, or another answer than before.
 *
 * Input: a byte for the seed of the packets, a byte for where they are cut, the text.
 */
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "filter_words.h"
#include "fuzz.h"
#include "level_list.h"
#include "packet_mixer.h"

#define ETHERNET 1
#define PACKETS 8u

/* In the place of libc's: libpcap would ask the network for each name, which the confined process cannot do either. */
int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints, struct addrinfo **restrict result)
{
    (void)name;
    (void)service;
    (void)hints;
    *result = NULL;
    return EAI_NONAME;
}

static void check_texts(const struct filter_words *words)
{
    uint32_t count = filter_words_count(words);
    if (count > FILTER_WORDS_MAX)
        abort();
    for (uint32_t truth = 0; truth < 1u << count; truth++) {
        struct filter_words *again;
        struct failure failure = {0};
        char *text = filter_words_text(words, truth);
        if (!text || filter_words_open(text, &again, &failure) != 0 || filter_words_count(again) != 0)
            abort();
        filter_words_close(&again);
        free(text);
    }
}

static void check_packets(const struct filter_words *words, uint8_t seed, uint8_t cut)
{
    struct mixer mixer = {.state = seed};
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint8_t bytes[MIXED_BYTES_MAX];
        uint32_t count = mixer_packet(&mixer, bytes);
        uint8_t *copy = malloc(count + 1); /* of its length: what is read behind it is seen */
        if (!copy)
            abort();
        memcpy(copy, bytes, count);
        struct packet packet = {.bytes = copy, .captured_bytes = cut > 0 && cut < count ? cut : count, .original_bytes = count, .time_ns = (int64_t)i << 55};
        uint32_t truth = filter_words_judge(words, packet_levels, ETHERNET, &packet, i);
        if (truth >> filter_words_count(words) != 0 || truth != filter_words_judge(words, packet_levels, ETHERNET, &packet, i))
            abort();
        free(copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct filter_words *words = NULL;
    struct failure failure = {0};
    if (count < 2)
        return 0;
    char *text = strndup((const char *)bytes + 2, count - 2);
    if (!text)
        abort();
    int code = filter_words_open(text, &words, &failure);
    free(text);
    if (code != 0) {
        if (failure.text[0] == '\0')
            abort();
        return 0;
    }
    check_texts(words);
    check_packets(words, bytes[0], bytes[1]);
    filter_words_close(&words);
    return 0;
}
