/*
 * filter_words.c - finds our words in a filter, and judges them.
 *
 * A word of ours is taken for one only where a primitive can begin: at the start, behind `and`,
 * `or`, `not` and an opening parenthesis. Elsewhere ("host rule") it is a name and libpcap's, and
 * so it is behind a backslash.
 */
#include "filter_words.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "text.h"

#define LINK_RAW_IP 101 /* LINKTYPE_RAW: an IP header is the first byte */
#define DIGEST_BYTES 20u

enum {
    PROTOCOL_ICMP = 1,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_ICMP6 = 58,
    PROTOCOL_SCTP = 132
};

enum word_type {
    WORD_FLOW,
    WORD_COMMUNITY,
    WORD_INNER,
    WORD_OUTER,
    WORD_RULE,
    WORD_APP,
    WORD_AFTER,
    WORD_BEFORE
};

struct socket_address {
    uint8_t address[16]; /* network order; of version 4 the first four */
    uint16_t port;
};

struct word {
    enum word_type type;
    size_t from, to;  /* in the text */
    uint8_t version;  /* FLOW */
    uint8_t protocol; /* FLOW: 0 any */
    struct socket_address end[2];
    uint8_t digest[DIGEST_BYTES];
    uint32_t rule;
    char app[VERDICT_TEXT_BYTES];
    int64_t time_ns;       /* AFTER, BEFORE */
    struct filter *inner;  /* INNER, OUTER */
    const struct filter_program *program; /* inner's, for LINK_RAW_IP */
};

struct filter_words {
    char *text;
    uint32_t count;
    struct word word[FILTER_WORDS_MAX];
};

/* ---- tokens ------------------------------------------------------------------------------------
 */

enum token_type {
    TOKEN_END,
    TOKEN_WORD,
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_AND,
    TOKEN_OR,
    TOKEN_NOT,
    TOKEN_OTHER
};

struct token {
    enum token_type type;
    size_t from, to;
};

static bool is_word_byte(char byte)
{
    return isalnum((unsigned char)byte) || (byte != '\0' && strchr("_.:-/", byte));
}

static bool token_is(const char *text, const struct token *token, const char *word)
{
    size_t length = strlen(word);
    return token->type == TOKEN_WORD && token->to - token->from == length &&
           memcmp(text + token->from, word, length) == 0;
}

static struct token token_at(const char *text, size_t at)
{
    at += strspn(text + at, " \t\r\n");
    struct token token = {.type = TOKEN_OTHER, .from = at, .to = at + 1};
    switch (text[at]) {
    case '\0':
        token.type = TOKEN_END;
        token.to = at;
        return token;
    case '(':
        token.type = TOKEN_OPEN;
        return token;
    case ')':
        token.type = TOKEN_CLOSE;
        return token;
    case '!':
        if (text[at + 1] == '=')
            token.to++;
        else
            token.type = TOKEN_NOT;
        return token;
    case '&':
    case '|':
        if (text[at + 1] == text[at]) {
            token.type = text[at] == '&' ? TOKEN_AND : TOKEN_OR;
            token.to++;
        }
        return token;
    case '\\': /* what follows is a name, whatever it is */
        while (is_word_byte(text[token.to]))
            token.to++;
        return token;
    default:
        break;
    }
    if (!is_word_byte(text[at]))
        return token;
    token.type = TOKEN_WORD;
    while (is_word_byte(text[token.to]))
        token.to++;
    if (token_is(text, &token, "and"))
        token.type = TOKEN_AND;
    else if (token_is(text, &token, "or"))
        token.type = TOKEN_OR;
    else if (token_is(text, &token, "not"))
        token.type = TOKEN_NOT;
    return token;
}

static int expected(struct failure *failure, const struct token *token, const char *what)
{
    return fail(failure, ERR_INVALID, "the filter is not valid: column %zu: expected %s",
                token->from + 1, what);
}

/* ---- parsing -----------------------------------------------------------------------------------
 */

/* The token's bytes as a string. False: it is no word, or too long to be what is wanted. */
static bool word_text(const char *text, const struct token *token, char *into, size_t room)
{
    size_t length = token->to - token->from;
    if (token->type != TOKEN_WORD || length >= room)
        return false;
    memcpy(into, text + token->from, length);
    into[length] = '\0';
    return true;
}

static bool number_of(const char *text, uint32_t most, uint32_t *number)
{
    const char *end = text_number(text, 10, most, number);
    return end && *end == '\0';
}

/* A:P or [A]:P. *end: behind it. */
static bool parse_socket(const char *text, size_t at, struct socket_address *socket,
                         uint8_t *version, size_t *end)
{
    char copy[64];
    uint32_t port;
    size_t length = strcspn(text + at, " \t\r\n()&|!");
    *end = at + length;
    if (length == 0 || length >= sizeof copy)
        return false;
    memcpy(copy, text + at, length);
    copy[length] = '\0';
    char *colon = strrchr(copy, ':'), *address = copy;
    if (!colon || colon == copy || !number_of(colon + 1, UINT16_MAX, &port))
        return false;
    *colon = '\0';
    *version = 4;
    if (copy[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        address++;
        *version = 6;
    }
    socket->port = (uint16_t)port;
    return inet_pton(*version == 4 ? AF_INET : AF_INET6, address, socket->address) == 1;
}

static int parse_flow(const char *text, struct word *word, struct failure *failure)
{
    size_t at = word->to;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t version;
        struct token token = token_at(text, at);
        if (!parse_socket(text, token.from, &word->end[i], &version, &at) ||
            (i > 0 && version != word->version))
            return expected(failure, &token,
                            i == 0 ? "ADDRESS:PORT, a version 6 address in brackets"
                                   : "the other end's ADDRESS:PORT, of the same IP version");
        word->version = version;
    }
    word->to = at;
    struct token token = token_at(text, at);
    if (token_is(text, &token, "tcp"))
        word->protocol = PROTOCOL_TCP;
    else if (token_is(text, &token, "udp"))
        word->protocol = PROTOCOL_UDP;
    if (word->protocol != 0)
        word->to = token.to;
    return 0;
}

static int parse_community(const char *text, struct word *word, struct failure *failure)
{
    uint8_t decoded[24]; /* 28 digits give 21 bytes, the last of which is padding */
    struct token token = token_at(text, word->to);
    size_t length = strcspn(text + token.from, " \t\r\n()&|!");
    if (length != 30 || strncmp(text + token.from, "1:", 2) != 0 || text[token.from + 29] != '=' ||
        memchr(text + token.from + 2, '=', 27) ||
        EVP_DecodeBlock(decoded, (const uint8_t *)text + token.from + 2, 28) != 21)
        return expected(failure, &token, "a Community ID, \"1:\" and 28 characters");
    memcpy(word->digest, decoded, DIGEST_BYTES);
    word->to = token.from + length;
    return 0;
}

static int parse_rule(const char *text, struct word *word, struct failure *failure)
{
    char digits[16];
    struct token token = token_at(text, word->to);
    if (!word_text(text, &token, digits, sizeof digits) ||
        !number_of(digits, UINT32_MAX - 1, &word->rule) || word->rule == 0)
        return expected(failure, &token, "a rule's number, from 1");
    word->to = token.to;
    return 0;
}

static int parse_app(const char *text, struct word *word, struct failure *failure)
{
    struct token token = token_at(text, word->to);
    char quote = text[token.from];
    if (quote == '"' || quote == '\'') { /* a name with parentheses, say */
        const char *end = strchr(text + token.from + 1, quote);
        token = (struct token){.type = end ? TOKEN_WORD : TOKEN_OTHER, .from = token.from + 1, .to = end ? (size_t)(end - text) : token.to};
        word->to = token.to + 1;
    } else {
        word->to = token.to;
    }
    if (token.to == token.from || !word_text(text, &token, word->app, sizeof word->app))
        return expected(failure, &token, "the name of a protocol (tapeloop apps lists them)");
    return 0;
}

/* With date, time and zone: nothing that depends on where, or when, the filter is read. */
static int parse_time(const char *text, struct word *word, struct failure *failure)
{
    char copy[64];
    struct failure why;
    struct token token = token_at(text, word->to);
    size_t length = strcspn(text + token.from, " \t\r\n()&|!");
    bool fits = length > 0 && length < sizeof copy;
    memcpy(copy, text + token.from, fits ? length : 0);
    copy[fits ? length : 0] = '\0';
    char *clock = strchr(copy, 'T');
    if (!clock || !isdigit((unsigned char)copy[0]) || !strpbrk(clock, "Z+-") ||
        text_parse_time(copy, 0, &word->time_ns, &why) != 0)
        return expected(failure, &token, "a time with its zone, like 2026-11-21T14:05:00Z");
    word->to = token.from + length;
    return 0;
}

/* Whether `or` or `and` between these two is part of a direction: "src or dst". */
static bool joins_ways(const char *text, const struct token *before, const struct token *after)
{
    return (token_is(text, before, "src") && token_is(text, after, "dst")) ||
           (token_is(text, before, "dst") && token_is(text, after, "src"));
}

/* Behind `inner` and `outer`: one primitive, as far as the next `and` or `or` that does not belong to it. A `not` inside it
 * would be another thing than the `not` of it, which is what is meant; what moves offsets has
 * nothing to move in front of an IP header. */
static int parse_network(const char *text, struct word *word, struct failure *failure)
{
    static const char *const refused[] = {"vlan",  "mpls",      "pppoes", "pppoed", "geneve",
                                          "vxlan", "flow",      "inner",  "outer",  "rule",
                                          "app",   "community", "after",  "before", NULL};
    static const char wanted[] = "host, net, port, portrange, proto or a protocol here";
    size_t from = word->to;
    unsigned depth = 0;
    struct token before = {.type = TOKEN_OTHER}, token = token_at(text, from), first = token;
    for (; token.type != TOKEN_END; before = token, token = token_at(text, token.to)) {
        bool joins = token.type == TOKEN_AND || token.type == TOKEN_OR;
        struct token next = token_at(text, token.to);
        if (depth == 0 &&
            (token.type == TOKEN_CLOSE || (joins && !joins_ways(text, &before, &next))))
            break;
        bool bad = token.type == TOKEN_NOT;
        for (unsigned i = 0; refused[i]; i++)
            bad |= token_is(text, &token, refused[i]);
        if (bad)
            return expected(failure, &token, wanted);
        depth += token.type == TOKEN_OPEN;
        depth -= token.type == TOKEN_CLOSE;
        word->to = token.to;
    }
    if (word->to == from || depth > 0)
        return expected(failure, word->to == from ? &first : &token,
                        depth > 0 ? "a closing parenthesis" : wanted);
    char *copy = strndup(text + from, word->to - from);
    if (!copy)
        return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
    struct failure inner;
    int result = filter_open(copy, NULL, &word->inner, &inner);
    free(copy);
    if (result)
        return fail(failure, result, "column %zu: %s", first.from + 1, inner.text);
    word->program = filter_for(word->inner, LINK_RAW_IP);
    if (!word->program)
        return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
    if (word->program->verdict == FILTER_REFUSED)
        return fail(failure, ERR_INVALID, "column %zu: the filter is not valid: %s",
                    first.from + 1, word->program->text);
    return 0;
}

static int parse_word(struct filter_words *words, const struct token *token,
                      struct failure *failure)
{
    static const struct {
        const char *name;
        enum word_type type;
        int (*parse)(const char *text, struct word *word, struct failure *failure);
    } known[] = {{"flow", WORD_FLOW, parse_flow},
                 {"community", WORD_COMMUNITY, parse_community},
                 {"inner", WORD_INNER, parse_network},
                 {"outer", WORD_OUTER, parse_network},
                 {"rule", WORD_RULE, parse_rule},
                 {"app", WORD_APP, parse_app},
                 {"after", WORD_AFTER, parse_time},
                 {"before", WORD_BEFORE, parse_time}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!token_is(words->text, token, known[i].name))
            continue;
        if (words->count == FILTER_WORDS_MAX)
            return fail(failure, ERR_INVALID,
                        "the filter is not valid: column %zu: more than %u of flow, community, "
                        "inner, outer, rule, app, after and before",
                        token->from + 1, FILTER_WORDS_MAX);
        struct word *word = &words->word[words->count++];
        word->type = known[i].type;
        word->from = token->from;
        word->to = token->to;
        int result = known[i].parse(words->text, word, failure);
        struct token next = token_at(words->text, word->to);
        if (!result && next.type != TOKEN_AND && next.type != TOKEN_OR &&
            next.type != TOKEN_CLOSE && next.type != TOKEN_END)
            return expected(failure, &next, "`and`, `or` or the end");
        return result;
    }
    return 0;
}

int filter_words_open(const char *text, struct filter_words **out, struct failure *failure)
{
    *out = NULL;
    struct filter_words *words = calloc(1, sizeof *words);
    if (words)
        words->text = strdup(text);
    if (!words || !words->text) {
        free(words);
        return fail(failure, ERR_NO_MEMORY, "no memory for the filter");
    }
    int result = 0;
    bool fresh = true; /* a primitive can begin here */
    for (struct token token = token_at(text, 0); !result && token.type != TOKEN_END;) {
        uint32_t count = words->count;
        if (fresh && token.type == TOKEN_WORD)
            result = parse_word(words, &token, failure);
        fresh = token.type == TOKEN_OPEN || token.type == TOKEN_AND || token.type == TOKEN_OR ||
                token.type == TOKEN_NOT;
        token = token_at(text, words->count > count ? words->word[count].to : token.to);
    }
    if (result)
        filter_words_close(&words);
    *out = words;
    return result;
}

uint32_t filter_words_count(const struct filter_words *words)
{
    return words->count;
}

uint32_t filter_words_apps(const struct filter_words *words)
{
    uint32_t apps = 0;
    for (uint32_t i = 0; i < words->count; i++)
        apps |= (uint32_t)(words->word[i].type == WORD_APP) << i;
    return apps;
}

uint32_t filter_words_app_truth(const struct filter_words *words, const char *verdict)
{
    uint32_t truth = 0;
    for (uint32_t i = 0; i < words->count; i++)
        truth |= (uint32_t)(words->word[i].type == WORD_APP && verdict_is(verdict, words->word[i].app)) << i;
    return truth;
}

int filter_words_check_apps(const struct filter_words *words, const struct verdicts *verdicts, struct failure *failure)
{
    for (uint32_t i = 0; i < words->count; i++)
        if (words->word[i].type == WORD_APP && !verdicts_know(verdicts, words->word[i].app))
            return fail(failure, ERR_INVALID,
                        "the filter is not valid: column %zu: layer 7 knows no protocol %s: tapeloop apps lists those that it does",
                        words->word[i].from + 1, words->word[i].app);
    return 0;
}

char *filter_words_text(const struct filter_words *words, uint32_t truth)
{
    /* Folded away when compiled: what it decides is not undone by a read beyond the packet's end. */
    static const char always[] = "1 = 1", never[] = "1 = 0";
    char *text = malloc(strlen(words->text) + words->count * sizeof always + 1), *to = text;
    size_t from = 0;
    if (!text)
        return NULL;
    for (uint32_t i = 0; i < words->count; i++) {
        const struct word *word = &words->word[i];
        to = mempcpy(to, words->text + from, word->from - from);
        to = stpcpy(to, (truth >> i & 1) != 0 ? always : never);
        from = word->to;
    }
    strcpy(to, words->text + from);
    return text;
}

void filter_words_close(struct filter_words **words)
{
    if (!*words)
        return;
    for (uint32_t i = 0; i < (*words)->count; i++)
        if ((*words)->word[i].inner)
            filter_close(&(*words)->word[i].inner);
    free((*words)->text);
    free(*words);
    *words = NULL;
}

/* ---- judging -----------------------------------------------------------------------------------
 */

static uint32_t address_bytes(const struct packet_level *level)
{
    return level->version == 4 ? 4 : 16;
}

static const uint8_t *address_of(const uint8_t *bytes, const struct packet_level *level,
                                 unsigned end)
{
    return bytes + level->start + (level->version == 4 ? 12 : 8) + end * address_bytes(level);
}

static bool is_flow(const struct word *word, const uint8_t *bytes, const struct packet_level *level)
{
    const uint16_t port[2] = {level->source_port, level->destination_port};
    if (!level->ports || level->version != word->version ||
        (word->protocol != 0 && word->protocol != level->protocol))
        return false;
    for (unsigned from = 0; from < 2; from++) {
        bool same = true;
        for (unsigned end = 0; end < 2; end++) {
            const struct socket_address *wanted = &word->end[end ^ from];
            same =
                same && port[end] == wanted->port &&
                memcmp(address_of(bytes, level, end), wanted->address, address_bytes(level)) == 0;
        }
        if (same)
            return true;
    }
    return false;
}

/* What an ICMP message is answered with; 255: it has no answer. */
static uint8_t answer_of(uint8_t protocol, uint8_t type)
{
    static const uint8_t pair4[][2] = {{8, 0}, {13, 14}, {15, 16}, {17, 18}, {10, 9}};
    static const uint8_t pair6[][2] = {{128, 129}, {133, 134}, {135, 136},
                                       {130, 131}, {144, 145}, {139, 140}};
    size_t pairs =
        protocol == PROTOCOL_ICMP ? sizeof pair4 / sizeof pair4[0] : sizeof pair6 / sizeof pair6[0];
    for (size_t i = 0; i < pairs; i++) {
        const uint8_t *pair = protocol == PROTOCOL_ICMP ? pair4[i] : pair6[i];
        if (type == pair[0] || type == pair[1])
            return type == pair[0] ? pair[1] : pair[0];
    }
    return 255;
}

/* The published algorithm of Community ID, version 1: SHA-1 of seed, addresses, protocol, zero and
 * ports in an order that does not depend on the direction; of ICMP, message type and its answer, or
 * its code, stand for the ports. */
static bool is_community(const struct word *word, const struct packet *packet,
                         const struct packet_level *level)
{
    uint8_t text[2 + 16 + 16 + 2 + 4] = {0}, digest[EVP_MAX_MD_SIZE];
    const uint8_t *address[2] = {address_of(packet->bytes, level, 0),
                                 address_of(packet->bytes, level, 1)};
    uint16_t port[2] = {level->source_port, level->destination_port};
    uint32_t bytes = address_bytes(level), at = 2;
    bool has_ports = level->protocol == PROTOCOL_TCP || level->protocol == PROTOCOL_UDP ||
                     level->protocol == PROTOCOL_SCTP;
    bool icmp = level->protocol == PROTOCOL_ICMP || level->protocol == PROTOCOL_ICMP6,
         one_way = false;
    if (has_ports && !level->ports)
        return false;
    if (icmp) {
        if (level->later || level->transport == UINT32_MAX ||
            level->transport > packet->captured_bytes ||
            packet->captured_bytes - level->transport < 2)
            return false;
        const uint8_t *message = packet->bytes + level->transport;
        uint8_t answer = answer_of(level->protocol, message[0]);
        one_way = answer == 255;
        port[0] = message[0];
        port[1] = one_way ? message[1] : answer;
    }
    int order = memcmp(address[0], address[1], bytes);
    bool ports = has_ports || icmp;
    unsigned first = !one_way && (order > 0 || (order == 0 && ports && port[0] > port[1]));
    for (unsigned i = 0; i < 2; i++, at += bytes)
        memcpy(text + at, address[first ^ i], bytes);
    text[at] = level->protocol;
    at += 2;
    for (unsigned i = 0; ports && i < 2; i++, at += 2) {
        text[at] = (uint8_t)(port[first ^ i] >> 8);
        text[at + 1] = (uint8_t)port[first ^ i];
    }
    unsigned length = 0;
    return EVP_Digest(text, at, digest, &length, EVP_sha1(), NULL) == 1 &&
           memcmp(digest, word->digest, DIGEST_BYTES) == 0;
}

/* Whether the packet that begins with this header is what the word wants. */
static bool network_is(const struct word *word, const struct packet *packet,
                       const struct packet_level *level)
{
    struct packet inside = *packet;
    inside.bytes += level->start;
    inside.captured_bytes -= level->start;
    inside.original_bytes -=
        level->start < inside.original_bytes ? level->start : inside.original_bytes;
    return filter_match(word->program, &inside, 0);
}

uint32_t filter_words_judge(const struct filter_words *words, packet_levels_of *levels_of,
                            uint16_t link_type, const struct packet *packet, uint32_t rule)
{
    struct packet_level level[PACKET_LEVELS_MAX];
    uint32_t levels = levels_of(link_type, packet->bytes, packet->captured_bytes, level), truth = 0;
    for (uint32_t i = 0; i < words->count; i++) {
        const struct word *word = &words->word[i];
        bool holds = (word->type == WORD_RULE && rule == word->rule) ||
                     (word->type == WORD_AFTER && packet->time_ns >= word->time_ns) ||
                     (word->type == WORD_BEFORE && packet->time_ns < word->time_ns);
        for (uint32_t k = 0; k < levels && !holds; k++)
            holds = word->type == WORD_FLOW        ? is_flow(word, packet->bytes, &level[k])
                    : word->type == WORD_COMMUNITY ? is_community(word, packet, &level[k])
                    : word->type == WORD_INNER ? level[k].inner && network_is(word, packet, &level[k])
                    : word->type == WORD_OUTER ? k == 0 && network_is(word, packet, &level[k])
                                               : false;
        truth |= (uint32_t)holds << i;
    }
    return truth;
}
