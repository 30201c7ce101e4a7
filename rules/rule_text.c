/*
 * rule_text.c - a reader that goes over the text once, from word to word.
 *
 * A word ends at white space. Whether a colon ends it too depends on what is expected: keywords and
 * numbers hold none; of an address and a name, only the last one can be the rule's own, and of an
 * IPv6 address that ends in "::", only a third.
 */
#include "rule_text.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct reader {
    const char *text; /* the beginning of the line */
    const char *at;
    const char *end;
    uint32_t line; /* 0: one rule alone */
    struct rule_place *place;
    struct failure *failure;
};

struct word {
    const char *at;
    size_t bytes;
};

enum word_kind { WORD_PLAIN, WORD_ADDRESS, WORD_NAME };

/* ---- errors -------------------------------------------------------------------------------- */

static uint32_t column_of(const struct reader *reader, const char *at)
{
    uint32_t column = 1;
    for (const char *byte = reader->text; byte < at; byte++)
        column += ((unsigned char)*byte & 0xc0) != 0x80; /* not the inside of a character */
    return column;
}

static int refuse(const struct reader *reader, const char *at, int code, const char *sentence)
{
    uint32_t column = column_of(reader, at);
    if (reader->place != NULL)
        *reader->place = (struct rule_place){reader->line ? reader->line : 1, column};
    if (reader->line != 0)
        return fail(reader->failure, code, "line %u, column %u: %s", reader->line, column,
                    sentence);
    return fail(reader->failure, code, "column %u: %s", column, sentence);
}

/* "expected ..., found ...": what stands at `at` up to the next space is what was found. */
static int expected(const struct reader *reader, const char *at, const char *what)
{
    char sentence[400];
    size_t bytes = 0;
    while (at + bytes < reader->end && at[bytes] != ' ' && at[bytes] != '\t' && bytes < 40)
        bytes++;
    while (bytes > 0 && at + bytes < reader->end && ((unsigned char)at[bytes] & 0xc0) == 0x80)
        bytes--; /* whole characters */
    if (bytes == 0)
        snprintf(sentence, sizeof sentence, "expected %s, but the text ends here", what);
    else
        snprintf(sentence, sizeof sentence, "expected %s, found \"%.*s\"", what, (int)bytes, at);
    return refuse(reader, at, ERR_INVALID, sentence);
}

/* ---- words --------------------------------------------------------------------------------- */

static void skip_space(struct reader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\t'))
        reader->at++;
}

/* The next word, not yet passed over; of 0 bytes at a colon of the rule's, and at the end. */
static struct word peek_word(struct reader *reader, enum word_kind kind)
{
    skip_space(reader);
    struct word word = {reader->at, 0};
    while (word.at + word.bytes < reader->end) {
        char next = word.at[word.bytes];
        if (next == ' ' || next == '\t' || (kind == WORD_PLAIN && next == ':'))
            break;
        word.bytes++;
    }
    const char *last = word.at + word.bytes;
    if (kind == WORD_PLAIN || word.bytes == 0 || last[-1] != ':')
        return word;
    bool double_colon = word.bytes >= 2 && last[-2] == ':';
    bool triple_colon = word.bytes >= 3 && double_colon && last[-3] == ':';
    if (kind == WORD_NAME || !double_colon || triple_colon)
        word.bytes--;
    return word;
}

static void pass(struct reader *reader, struct word word)
{
    reader->at = word.at + word.bytes;
}

static bool is(struct word word, const char *keyword)
{
    return word.bytes == strlen(keyword) && strncasecmp(word.at, keyword, word.bytes) == 0;
}

static bool take_keyword(struct reader *reader, const char *keyword)
{
    struct word word = peek_word(reader, WORD_PLAIN);
    if (!is(word, keyword))
        return false;
    pass(reader, word);
    return true;
}

static int need_keyword(struct reader *reader, const char *keyword, const char *what)
{
    if (take_keyword(reader, keyword))
        return 0;
    return expected(reader, reader->at, what);
}

static bool take_colon(struct reader *reader)
{
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != ':')
        return false;
    reader->at++;
    return true;
}

static int at_end(struct reader *reader, const char *what)
{
    skip_space(reader);
    return reader->at == reader->end ? 0 : expected(reader, reader->at, what);
}

/* Digits only, all of them, up to `limit`. */
static bool number_of(struct word word, uint32_t limit, uint32_t *number)
{
    uint64_t value = 0;
    for (size_t i = 0; i < word.bytes; i++) {
        if (word.at[i] < '0' || word.at[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(word.at[i] - '0');
        if (value > limit)
            return false;
    }
    *number = (uint32_t)value;
    return word.bytes > 0;
}

/* Digits, and K, M or G for powers of 1024. */
static bool bytes_of(struct word word, uint32_t limit, uint32_t *number)
{
    unsigned shift = 0;
    if (word.bytes > 1) {
        switch (word.at[word.bytes - 1]) {
        case 'k':
        case 'K':
            shift = 10;
            break;
        case 'm':
        case 'M':
            shift = 20;
            break;
        case 'g':
        case 'G':
            shift = 30;
            break;
        default:
            break;
        }
        word.bytes -= shift > 0;
    }
    if (!number_of(word, limit >> shift, number))
        return false;
    *number <<= shift;
    return true;
}

static bool split(struct word word, char separator, struct word *head, struct word *tail)
{
    const char *found = memchr(word.at, separator, word.bytes);
    if (found == NULL)
        return false;
    size_t head_bytes = (size_t)(found - word.at);
    *head = (struct word){word.at, head_bytes};
    *tail = (struct word){found + 1, word.bytes - head_bytes - 1};
    return true;
}

/* ---- values -------------------------------------------------------------------------------- */

static void mask_address(uint8_t *address, unsigned address_bits, unsigned prefix_bits)
{
    for (unsigned bit = prefix_bits; bit < address_bits; bit++)
        address[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
}

static void print_mac(const uint8_t *address, char text[18])
{
    snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", address[0], address[1], address[2],
             address[3], address[4], address[5]);
}

/* The part behind a slash, or all bits. */
static int take_prefix(const struct reader *reader, struct word prefix, unsigned address_bits,
                       struct condition *condition)
{
    uint32_t bits = address_bits;
    if (prefix.at != NULL && !number_of(prefix, address_bits, &bits)) {
        char what[60];
        snprintf(what, sizeof what, "a prefix length from 0 to %u", address_bits);
        return expected(reader, prefix.at, what);
    }
    condition->prefix_bits = (uint8_t)bits;
    return 0;
}

/* An address whose bits behind the prefix are set is most likely a slip: a host, or another length.
 */
static int check_prefix(const struct reader *reader, struct word word, struct condition *condition,
                        unsigned address_bits)
{
    uint8_t masked[16];
    memcpy(masked, condition->address, sizeof masked);
    mask_address(masked, address_bits, condition->prefix_bits);
    if (memcmp(masked, condition->address, sizeof masked) == 0)
        return 0;
    char network[INET6_ADDRSTRLEN], sentence[200];
    if (condition->kind == CONDITION_MAC)
        print_mac(masked, network);
    else
        inet_ntop(condition->version == 4 ? AF_INET : AF_INET6, masked, network, sizeof network);
    snprintf(sentence, sizeof sentence,
             "expected an address without bits behind its prefix length: %s/%u", network,
             condition->prefix_bits);
    return refuse(reader, word.at, ERR_INVALID, sentence);
}

static int value_ip(struct reader *reader, struct word word, struct condition *condition)
{
    static const char what[] = "an IPv4 or IPv6 address or network (192.0.2.7, 2001:db8::/32)";
    struct word address = word, prefix = {NULL, 0};
    split(word, '/', &address, &prefix);
    char text[INET6_ADDRSTRLEN];
    if (address.bytes == 0 || address.bytes >= sizeof text)
        return expected(reader, word.at, what);
    memcpy(text, address.at, address.bytes);
    text[address.bytes] = '\0';
    if (inet_pton(AF_INET, text, condition->address) == 1)
        condition->version = 4;
    else if (inet_pton(AF_INET6, text, condition->address) == 1)
        condition->version = 6;
    else
        return expected(reader, word.at, what);
    unsigned address_bits = condition->version == 4 ? 32 : 128;
    int result = take_prefix(reader, prefix, address_bits, condition);
    return result < 0 ? result : check_prefix(reader, word, condition, address_bits);
}

static int hex_of(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

static int value_mac(struct reader *reader, struct word word, struct condition *condition)
{
    static const char what[] = "a MAC address (00:1b:21:0a:0b:0c), with a prefix length or without";
    struct word address = word, prefix = {NULL, 0};
    split(word, '/', &address, &prefix);
    if (address.bytes != 17)
        return expected(reader, word.at, what);
    for (unsigned i = 0; i < 6; i++) {
        const char *pair = address.at + 3 * i;
        int high = hex_of(pair[0]), low = hex_of(pair[1]);
        if (high < 0 || low < 0 || (i < 5 && pair[2] != address.at[2]))
            return expected(reader, word.at, what);
        condition->address[i] = (uint8_t)(high << 4 | low);
    }
    if (address.at[2] != ':' && address.at[2] != '-')
        return expected(reader, word.at, what);
    int result = take_prefix(reader, prefix, 48, condition);
    return result < 0 ? result : check_prefix(reader, word, condition, 48);
}

static int value_ports(struct reader *reader, struct word word, struct condition *condition)
{
    static const char what[] = "a port from 0 to 65535, or two with a '-' between them";
    struct word first = word, last = word;
    split(word, '-', &first, &last);
    uint32_t low, high;
    if (!number_of(first, 65535, &low) || !number_of(last, 65535, &high))
        return expected(reader, word.at, what);
    if (low > high)
        return expected(reader, word.at, "the lower port before the higher one");
    condition->low = (uint16_t)low;
    condition->high = (uint16_t)high;
    return 0;
}

static int value_vlan(struct reader *reader, struct word word, struct condition *condition)
{
    uint32_t id;
    if (!number_of(word, 4095, &id))
        return expected(reader, word.at, "a VLAN id from 0 to 4095");
    condition->low = (uint16_t)id;
    condition->high = (uint16_t)id;
    return 0;
}

static const char *what_text(uint8_t kind)
{
    switch (kind) {
    case CONDITION_APP:
        return "the name of a layer-7 protocol";
    case CONDITION_INTERFACE:
        return "the name of an interface";
    default:
        return "a pcap-filter(7) expression in quotes";
    }
}

/* Takes over `text`, which was allocated, also when it fails. */
static int value_text(struct reader *reader, const char *at, char *text,
                      struct condition *condition)
{
    if (text == NULL)
        return fail(reader->failure, ERR_NO_MEMORY, "no memory for a rule");
    size_t most = condition->kind == CONDITION_INTERFACE ? INTERFACE_NAME_MAX : RULE_VALUE_MAX;
    if (text[strspn(text, " \t")] == '\0') {
        free(text);
        return expected(reader, at, what_text(condition->kind));
    }
    if (strlen(text) > most) {
        free(text);
        char sentence[80];
        snprintf(sentence, sizeof sentence, "expected at most %zu bytes", most);
        return refuse(reader, at, ERR_INVALID, sentence);
    }
    condition->text = text;
    return 0;
}

/* A text in single or double quotes; the quote itself is written twice within. */
static int quoted_text(struct reader *reader, struct condition *condition)
{
    const char *begin = reader->at;
    char quote = *begin;
    char *text = malloc((size_t)(reader->end - begin) + 1), *to = text;
    if (text == NULL)
        return fail(reader->failure, ERR_NO_MEMORY, "no memory for a rule");
    for (const char *at = begin + 1; at < reader->end; at++) {
        if (*at == quote && at + 1 < reader->end && at[1] == quote) {
            at++;
        } else if (*at == quote) {
            *to = '\0';
            reader->at = at + 1;
            return value_text(reader, begin, text, condition);
        }
        *to++ = *at;
    }
    free(text);
    char sentence[80];
    snprintf(sentence, sizeof sentence, "expected a closing %c before the text ends", quote);
    return refuse(reader, reader->end, ERR_INVALID, sentence);
}

static int read_text(struct reader *reader, struct condition *condition)
{
    skip_space(reader);
    if (reader->at < reader->end && (*reader->at == '\'' || *reader->at == '"'))
        return quoted_text(reader, condition);
    struct word word = peek_word(reader, condition->kind == CONDITION_APP ? WORD_PLAIN : WORD_NAME);
    if (word.bytes == 0 || condition->kind == CONDITION_BPF ||
        memchr(word.at, '\'', word.bytes) != NULL || memchr(word.at, '"', word.bytes) != NULL)
        return expected(reader, reader->at, what_text(condition->kind));
    pass(reader, word);
    return value_text(reader, word.at, strndup(word.at, word.bytes), condition);
}

static int read_value(struct reader *reader, struct condition *condition)
{
    struct word word;
    switch (condition->kind) {
    case CONDITION_ALL:
        return 0;
    case CONDITION_MAC:
        word = peek_word(reader, WORD_ADDRESS);
        pass(reader, word);
        return value_mac(reader, word, condition);
    case CONDITION_IP:
        word = peek_word(reader, WORD_ADDRESS);
        pass(reader, word);
        return value_ip(reader, word, condition);
    case CONDITION_VLAN:
        word = peek_word(reader, WORD_PLAIN);
        pass(reader, word);
        return value_vlan(reader, word, condition);
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
    case CONDITION_PORT:
        word = peek_word(reader, WORD_PLAIN);
        pass(reader, word);
        return value_ports(reader, word, condition);
    default:
        return read_text(reader, condition);
    }
}

/* ---- conditions and actions ---------------------------------------------------------------- */

static const char *const keyword[] = {
    [CONDITION_ALL] = "all",
    [CONDITION_MAC] = "mac",
    [CONDITION_IP] = "ip",
    [CONDITION_TCP_PORT] = "tcp port",
    [CONDITION_UDP_PORT] = "udp port",
    [CONDITION_PORT] = "port",
    [CONDITION_APP] = "app",
    [CONDITION_VLAN] = "vlan",
    [CONDITION_INTERFACE] = "interface",
    [CONDITION_BPF] = "bpf",
};

#define KINDS (sizeof keyword / sizeof keyword[0])

const char *condition_keyword(enum condition_kind kind)
{
    return keyword[kind];
}

static int read_keyword(struct reader *reader, struct condition *condition)
{
    static const char any[] =
        "a condition (all, mac, ip, tcp port, udp port, port, app, vlan, interface, bpf, inner ip, "
        "inner port), or 'not' before one";
    static const char inner[] = "ip, port, tcp port or udp port after 'inner'";
    condition->inner = take_keyword(reader, "inner");
    const char *what = condition->inner ? inner : any;
    if (take_keyword(reader, "tcp")) {
        condition->kind = CONDITION_TCP_PORT;
        return need_keyword(reader, "port", "'port' after 'tcp'");
    }
    if (take_keyword(reader, "udp")) {
        condition->kind = CONDITION_UDP_PORT;
        return need_keyword(reader, "port", "'port' after 'udp'");
    }
    for (uint8_t kind = 0; kind < KINDS; kind++) {
        bool may = !condition->inner || kind == CONDITION_IP || kind == CONDITION_PORT;
        if (may && take_keyword(reader, keyword[kind])) {
            condition->kind = kind;
            return 0;
        }
    }
    return expected(reader, reader->at, what);
}

static int read_condition(struct reader *reader, struct condition *condition)
{
    *condition = (struct condition){0};
    skip_space(reader);
    condition->column = column_of(reader, reader->at);
    condition->negated = take_keyword(reader, "not");
    int result = read_keyword(reader, condition);
    return result < 0 ? result : read_value(reader, condition);
}

static int read_bytes(struct reader *reader, uint32_t limit, const char *what, uint32_t *number)
{
    struct word word = peek_word(reader, WORD_PLAIN);
    if (!bytes_of(word, limit, number) || *number == 0)
        return expected(reader, word.at, what);
    pass(reader, word);
    return 0;
}

static int read_headers(struct reader *reader, struct action *action)
{
    static const char l3_l4[] = "l3+l4+";
    struct word word = peek_word(reader, WORD_PLAIN);
    size_t bytes = sizeof l3_l4 - 1;
    if (is(word, "l3")) {
        *action = (struct action){ACTION_HEADERS_L3, 0};
    } else if (is(word, "l3+l4")) {
        *action = (struct action){ACTION_HEADERS_L3_L4, 0};
    } else {
        struct word more = {word.at + bytes, word.bytes - bytes};
        if (word.bytes <= bytes || strncasecmp(word.at, l3_l4, bytes) != 0 ||
            !bytes_of(more, RULE_SNAP_MAX, &action->number))
            return expected(reader, word.at,
                            "l3, l3+l4 or l3+l4+N, N from 0 to 16777215 bytes of what follows");
        action->kind = ACTION_HEADERS_L3_L4;
    }
    pass(reader, word);
    return 0;
}

static int read_sample(struct reader *reader, struct action *action)
{
    struct word word = peek_word(reader, WORD_PLAIN);
    struct word one, many;
    uint32_t head = 0;
    if (!split(word, '/', &one, &many) || !number_of(one, 1, &head) || head != 1 ||
        !number_of(many, RULE_SAMPLE_MAX, &action->number) || action->number == 0)
        return expected(reader, word.at, "1/N with N from 1 to 1000000");
    pass(reader, word);
    action->kind = ACTION_SAMPLE;
    return 0;
}

static int read_action(struct reader *reader, bool until_known, struct action *action)
{
    *action = (struct action){0};
    if (take_keyword(reader, "full"))
        return 0;
    if (take_keyword(reader, "discard")) {
        action->kind = ACTION_DISCARD;
        return 0;
    }
    if (take_keyword(reader, "headers"))
        return read_headers(reader, action);
    if (take_keyword(reader, "snap")) {
        action->kind = ACTION_SNAP;
        return read_bytes(reader, RULE_SNAP_MAX, "a snapshot length from 1 to 16777215 bytes",
                          &action->number);
    }
    if (until_known)
        return expected(reader, reader->at,
                        "full, discard, snap N or headers for the packets before the verdict");
    if (take_keyword(reader, "flow")) {
        action->kind = ACTION_FLOW;
        return read_bytes(reader, RULE_FLOW_MAX, "a number of bytes from 1 to 2G", &action->number);
    }
    if (take_keyword(reader, "sample"))
        return read_sample(reader, action);
    return expected(reader, reader->at,
                    "an action (full, discard, snap N, headers l3, headers l3+l4, headers l3+l4+N, "
                    "flow N, sample 1/N)");
}

/* ---- rules --------------------------------------------------------------------------------- */

static int read_until_known(struct reader *reader, struct rule *rule, bool *said)
{
    skip_space(reader);
    const char *begin = reader->at;
    if (!take_keyword(reader, "until"))
        return 0;
    if (*said)
        return refuse(reader, begin, ERR_INVALID,
                      "expected 'until known' once in a rule, not twice");
    *said = true;
    int result = need_keyword(reader, "known", "'known:' after 'until'");
    if (result < 0)
        return result;
    if (!take_colon(reader))
        return expected(reader, reader->at, "':' after 'until known'");
    return read_action(reader, true, &rule->until_known);
}

static int read_rule(struct reader *reader, struct rule *rule)
{
    bool until_known = false;
    int result;
    rule->condition = calloc(RULE_CONDITIONS_MAX, sizeof *rule->condition);
    if (rule->condition == NULL)
        return fail(reader->failure, ERR_NO_MEMORY, "no memory for a rule");
    for (;;) {
        skip_space(reader);
        if (rule->conditions == RULE_CONDITIONS_MAX)
            return refuse(reader, reader->at, ERR_INVALID,
                          "expected at most 16 conditions in a rule");
        struct condition *next = &rule->condition[rule->conditions++];
        result = read_condition(reader, next);
        if (result == 0 && next->kind == CONDITION_APP)
            result = read_until_known(reader, rule, &until_known);
        if (result < 0)
            return result;
        if (take_colon(reader))
            break;
        if (!take_keyword(reader, "and"))
            return expected(reader, reader->at,
                            "'and' and another condition, or ':' and an action");
    }
    result = read_action(reader, false, &rule->action);
    return result < 0 ? result : at_end(reader, "the end of the rule");
}

/* Length in bytes of the character at `at`, 0 where it is no UTF-8 (RFC 3629) or cannot be shown.
 */
static size_t character_bytes(const unsigned char *at, const unsigned char *end)
{
    if (at[0] < 0x80)
        return (at[0] >= 0x20 && at[0] != 0x7f) || at[0] == '\t';
    size_t bytes = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || (size_t)(end - at) < bytes)
        return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f) ||
        (at[0] == 0xc2 && at[1] < 0xa0))
        return 0;
    return bytes;
}

static int check_characters(const struct reader *reader)
{
    const unsigned char *end = (const unsigned char *)reader->end;
    for (const unsigned char *at = (const unsigned char *)reader->text; at < end;) {
        size_t bytes = character_bytes(at, end);
        if (bytes == 0)
            return refuse(reader, (const char *)at, ERR_INVALID,
                          "expected text in UTF-8 without control characters");
        at += bytes;
    }
    return 0;
}

static int parse_line(struct reader *reader, struct rule *rule)
{
    *rule = (struct rule){0};
    if (reader->end - reader->text > RULE_TEXT_MAX)
        return refuse(reader, reader->text, ERR_TOO_LARGE, "expected a rule of at most 4096 bytes");
    int result = check_characters(reader);
    if (result == 0)
        result = read_rule(reader, rule);
    if (result < 0)
        rule_clear(rule);
    return result;
}

int rule_parse(const char *text, struct rule *rule, struct rule_place *place,
               struct failure *failure)
{
    struct reader reader = {
        .text = text, .at = text, .end = text + strlen(text), .place = place, .failure = failure};
    return parse_line(&reader, rule);
}

int rule_list_parse(const char *text, struct rule_list *list, struct rule_place *place,
                    struct failure *failure)
{
    *list = (struct rule_list){0};
    uint32_t line = 0;
    while (*text != '\0') {
        size_t bytes = strcspn(text, "\n"), used = bytes;
        if (used > 0 && text[used - 1] == '\r')
            used--;
        line++;
        struct reader reader = {.text = text,
                                .at = text,
                                .end = text + used,
                                .line = line,
                                .place = place,
                                .failure = failure};
        skip_space(&reader);
        if (reader.at < reader.end && *reader.at != '#') {
            struct rule rule;
            reader.at = text;
            int result = parse_line(&reader, &rule);
            if (result == 0) {
                result = rule_list_insert(list, list->count, &rule, failure);
                if (result < 0 && place != NULL)
                    *place = (struct rule_place){line, 1};
            }
            if (result < 0) {
                rule_clear(&rule);
                rule_list_clear(list);
                return result;
            }
        }
        text += bytes + (text[bytes] == '\n');
    }
    return 0;
}

/* ---- parts --------------------------------------------------------------------------------- */

int condition_parse_value(struct condition *condition, const char *text, struct failure *failure)
{
    struct reader reader = {
        .text = text, .at = text, .end = text + strlen(text), .failure = failure};
    if (reader.end - text > RULE_TEXT_MAX)
        return refuse(&reader, text, ERR_TOO_LARGE, "expected at most 4096 bytes");
    int result = check_characters(&reader);
    if (result < 0)
        return result;
    switch (condition->kind) {
    case CONDITION_APP:
    case CONDITION_INTERFACE:
    case CONDITION_BPF:
        return value_text(&reader, text, strdup(text), condition);
    default:
        result = read_value(&reader, condition);
        return result < 0 ? result : at_end(&reader, "the end of the value");
    }
}

int action_parse(const char *text, struct action *action, struct failure *failure)
{
    struct reader reader = {
        .text = text, .at = text, .end = text + strlen(text), .failure = failure};
    int result = check_characters(&reader);
    if (result == 0)
        result = read_action(&reader, false, action);
    return result < 0 ? result : at_end(&reader, "the end of the action");
}

/* ---- printing ------------------------------------------------------------------------------ */

const char *action_print(const struct action *action, char text[ACTION_TEXT_SIZE])
{
    switch (action->kind) {
    case ACTION_FULL:
        snprintf(text, ACTION_TEXT_SIZE, "full");
        break;
    case ACTION_DISCARD:
        snprintf(text, ACTION_TEXT_SIZE, "discard");
        break;
    case ACTION_SNAP:
        snprintf(text, ACTION_TEXT_SIZE, "snap %u", action->number);
        break;
    case ACTION_HEADERS_L3:
        snprintf(text, ACTION_TEXT_SIZE, "headers l3");
        break;
    case ACTION_HEADERS_L3_L4:
        if (action->number == 0)
            snprintf(text, ACTION_TEXT_SIZE, "headers l3+l4");
        else
            snprintf(text, ACTION_TEXT_SIZE, "headers l3+l4+%u", action->number);
        break;
    case ACTION_FLOW:
        snprintf(text, ACTION_TEXT_SIZE, "flow %u", action->number);
        break;
    default:
        snprintf(text, ACTION_TEXT_SIZE, "sample 1/%u", action->number);
        break;
    }
    return text;
}

static void print_address(FILE *out, const struct condition *condition)
{
    char text[INET6_ADDRSTRLEN];
    unsigned address_bits = 48;
    if (condition->kind == CONDITION_MAC) {
        print_mac(condition->address, text);
    } else {
        address_bits = condition->version == 4 ? 32 : 128;
        inet_ntop(condition->version == 4 ? AF_INET : AF_INET6, condition->address, text,
                  sizeof text);
    }
    fputs(text, out);
    if (condition->prefix_bits != address_bits)
        fprintf(out, "/%u", condition->prefix_bits);
}

static bool is_plain_name(const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@+-/";
    return text[strspn(text, plain)] == '\0';
}

static void print_text(FILE *out, const char *text, bool quoted)
{
    if (!quoted) {
        fputs(text, out);
        return;
    }
    fputc('\'', out);
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            fputc('\'', out);
        fputc(*text, out);
    }
    fputc('\'', out);
}

static void print_value(FILE *out, const struct condition *condition)
{
    switch (condition->kind) {
    case CONDITION_ALL:
        break;
    case CONDITION_MAC:
    case CONDITION_IP:
        print_address(out, condition);
        break;
    case CONDITION_TCP_PORT:
    case CONDITION_UDP_PORT:
    case CONDITION_PORT:
    case CONDITION_VLAN:
        fprintf(out, "%u", condition->low);
        if (condition->high != condition->low)
            fprintf(out, "-%u", condition->high);
        break;
    default:
        fputs(condition->text, out);
    }
}

static void print_condition(FILE *out, const struct condition *condition)
{
    fprintf(out, "%s%s%s", condition->negated ? "not " : "", condition->inner ? "inner " : "",
            keyword[condition->kind]);
    if (condition->kind != CONDITION_ALL)
        fputc(' ', out);
    if (condition->text != NULL)
        print_text(out, condition->text,
                   condition->kind == CONDITION_BPF || !is_plain_name(condition->text));
    else
        print_value(out, condition);
}

static void print_rule(FILE *out, const struct rule *rule)
{
    char text[ACTION_TEXT_SIZE];
    bool said = rule->until_known.kind == ACTION_FULL;
    for (uint32_t i = 0; i < rule->conditions; i++) {
        fputs(i > 0 ? " and " : "", out);
        print_condition(out, &rule->condition[i]);
        if (rule->condition[i].kind == CONDITION_APP && !said) {
            said = true;
            fprintf(out, " until known: %s", action_print(&rule->until_known, text));
        }
    }
    fprintf(out, " : %s", action_print(&rule->action, text));
}

/* Closes a stream of open_memstream() and gives its text; null where memory ran out. */
static char *finish(FILE *out, char **text)
{
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(*text);
        return NULL;
    }
    return *text;
}

char *rule_print(const struct rule *rule)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL)
        return NULL;
    print_rule(out, rule);
    return finish(out, &text);
}

char *rule_list_print(const struct rule_list *list)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL)
        return NULL;
    for (uint32_t i = 0; i < list->count; i++) {
        print_rule(out, &list->rule[i]);
        fputc('\n', out);
    }
    return finish(out, &text);
}

char *condition_print_value(const struct condition *condition)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL)
        return NULL;
    print_value(out, condition);
    return finish(out, &text);
}
