/*
 * steno_query.c - parses into a tree, takes from it the times that every packet must keep to, and prints the rest.
 */
#include "steno_query.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

#define WORD_BYTES 64u
#define DEPTH_MAX 64u
#define NODES_MAX (2u * STENO_QUERY_PRIMITIVES_MAX)
#define ALWAYS UINT32_MAX /* the node of what holds for all in the range */

enum node_type { NODE_AND, NODE_OR, NODE_TEXT, NODE_AFTER, NODE_BEFORE };

struct node {
    enum node_type type;
    uint32_t left, right;
    char text[2 * WORD_BYTES + 32]; /* TEXT */
    int64_t time_ns;                /* AFTER, BEFORE */
};

struct parser {
    const char *text;
    const char *at;
    const char *from; /* of the token in hand */
    char word[WORD_BYTES]; /* its text */
    int64_t now_ns;
    struct failure *failure;
    uint32_t depth;
    uint32_t nodes;
    struct node node[NODES_MAX];
};

/* ---- tokens: words, and the signs ( ) && || ------------------------------------------------------ */

static int expected(const struct parser *parser, const char *what)
{
    return fail(parser->failure, ERR_INVALID, "the query is not valid: column %zu: expected %s",
                (size_t)(parser->from - parser->text) + 1, what);
}

/* Takes the next token into parser->word; empty at the end. A word that is too long is cut, and then no known one. */
static void next(struct parser *parser)
{
    parser->at += strspn(parser->at, " \t\r\n");
    parser->from = parser->at;
    size_t length = strcspn(parser->at, " \t\r\n()&|");
    if (length == 0 && *parser->at != '\0')
        length = *parser->at == parser->at[1] && strchr("&|", *parser->at) ? 2 : 1;
    parser->at += length;
    if (length >= WORD_BYTES)
        length = WORD_BYTES - 1;
    memcpy(parser->word, parser->from, length);
    parser->word[length] = '\0';
}

static bool is(const struct parser *parser, const char *word)
{
    return strcmp(parser->word, word) == 0;
}

static bool take_number(struct parser *parser, uint32_t most, uint32_t *number)
{
    const char *end = text_number(parser->word, 10, most, number);
    if (!end || *end != '\0')
        return false;
    next(parser);
    return true;
}

/* ---- primitives ---------------------------------------------------------------------------------- */

struct address {
    uint32_t bytes; /* 4 or 16 */
    uint8_t byte[16];
};

static bool address_of(const char *text, struct address *address)
{
    address->bytes = strchr(text, ':') ? 16 : 4;
    return inet_pton(address->bytes == 4 ? AF_INET : AF_INET6, text, address->byte) == 1;
}

static const char *address_text(const struct address *address, char text[INET6_ADDRSTRLEN])
{
    inet_ntop(address->bytes == 4 ? AF_INET : AF_INET6, address->byte, text, INET6_ADDRSTRLEN);
    return text;
}

/* The length of a mask whose ones stand in front; UINT32_MAX: another mask. */
static uint32_t mask_bits(const struct address *mask)
{
    uint32_t bits = 0, ones = 0;
    for (uint32_t i = 0; i < 8 * mask->bytes; i++) {
        bool one = (mask->byte[i / 8] >> (7 - i % 8) & 1) != 0;
        ones += one;
        if (one && bits == i)
            bits = i + 1;
    }
    return ones == bits ? bits : UINT32_MAX;
}

static void keep_bits(struct address *address, uint32_t bits)
{
    for (uint32_t i = bits; i < 8 * address->bytes; i++)
        address->byte[i / 8] &= (uint8_t) ~(0x80u >> i % 8);
}

static int host(struct parser *parser, struct node *node)
{
    struct address address;
    char text[INET6_ADDRSTRLEN];
    if (!address_of(parser->word, &address))
        return expected(parser, "an IP address");
    snprintf(node->text, sizeof node->text, "host %s", address_text(&address, text));
    next(parser);
    return 0;
}

static int net(struct parser *parser, struct node *node)
{
    struct address address, mask;
    char *slash = strchr(parser->word, '/'), text[INET6_ADDRSTRLEN];
    uint32_t bits = 0;
    if (slash)
        *slash = '\0';
    if (!address_of(parser->word, &address))
        return expected(parser, "the address of a network");
    if (slash) {
        const char *end = text_number(slash + 1, 10, 8 * address.bytes, &bits);
        if (!end || *end != '\0')
            return expected(parser, "a network with the length of its prefix behind the slash");
    } else {
        next(parser);
        if (!is(parser, "mask"))
            return expected(parser, "mask, or a slash and a length behind the address");
        next(parser);
        if (!address_of(parser->word, &mask) || mask.bytes != address.bytes || (bits = mask_bits(&mask)) == UINT32_MAX)
            return expected(parser, "a mask whose ones stand in front");
    }
    keep_bits(&address, bits);
    snprintf(node->text, sizeof node->text, "net %s/%u", address_text(&address, text), bits);
    next(parser);
    return 0;
}

static int port(struct parser *parser, struct node *node)
{
    uint32_t number;
    if (!take_number(parser, UINT16_MAX, &number))
        return expected(parser, "a port");
    snprintf(node->text, sizeof node->text, "tcp port %u or udp port %u", number, number);
    return 0;
}

static int protocol(struct parser *parser, struct node *node)
{
    uint32_t number;
    if (!take_number(parser, UINT8_MAX, &number))
        return expected(parser, "the number of an IP protocol");
    snprintf(node->text, sizeof node->text, "ip proto %u or ip6 proto %u", number, number);
    return 0;
}

static int ip_proto(struct parser *parser, struct node *node)
{
    if (!is(parser, "proto"))
        return expected(parser, "proto");
    next(parser);
    return protocol(parser, node);
}

static int moment(struct parser *parser, struct node *node)
{
    struct failure why;
    int64_t ago_ns;
    char word[WORD_BYTES];
    memcpy(word, parser->word, sizeof word);
    if (text_parse_duration(word, &ago_ns, &why) == 0) {
        const char *from = parser->from;
        next(parser);
        if (!is(parser, "ago"))
            return expected(parser, "ago behind a duration");
        if (__builtin_sub_overflow(parser->now_ns, ago_ns, &node->time_ns)) {
            parser->from = from;
            return expected(parser, "a shorter time ago");
        }
    } else if (!isdigit((unsigned char)word[0]) || !strchr(word, 'T') ||
               text_parse_time(word, parser->now_ns, &node->time_ns, &why) != 0) {
        return expected(parser, "a time like 2026-11-21T14:05:00Z, or 45m ago");
    }
    next(parser);
    return 0;
}

static int primitive(struct parser *parser, struct node *node)
{
    static const struct {
        const char *word;
        enum node_type type;
        int (*parse)(struct parser *parser, struct node *node);
    } known[] = {{"host", NODE_TEXT, host},       {"net", NODE_TEXT, net},
                 {"port", NODE_TEXT, port},       {"protocol", NODE_TEXT, protocol},
                 {"ip", NODE_TEXT, ip_proto},     {"after", NODE_AFTER, moment},
                 {"before", NODE_BEFORE, moment}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!is(parser, known[i].word))
            continue;
        node->type = known[i].type;
        next(parser);
        return known[i].parse(parser, node);
    }
    node->type = NODE_TEXT;
    if (is(parser, "tcp") || is(parser, "udp"))
        strcpy(node->text, parser->word);
    else if (is(parser, "icmp"))
        strcpy(node->text, "ip proto 1 or ip6 proto 1");
    else if (is(parser, "vlan") || is(parser, "mpls"))
        return fail(parser->failure, ERR_INVALID,
                    "the query is not valid: column %zu: `%s` cannot be asked for in this language; a filter of "
                    "pcap-filter(7) can",
                    (size_t)(parser->from - parser->text) + 1, parser->word);
    else
        return expected(parser, "host, net, port, ip proto, tcp, udp, icmp, before, after or a parenthesis");
    next(parser);
    return 0;
}

/* ---- the tree ------------------------------------------------------------------------------------ */

static int node_new(struct parser *parser, uint32_t *number)
{
    if (parser->nodes == NODES_MAX)
        return fail(parser->failure, ERR_TOO_LARGE, "the query has more than %u primitives", STENO_QUERY_PRIMITIVES_MAX);
    *number = parser->nodes++;
    parser->node[*number] = (struct node){.type = NODE_TEXT};
    return 0;
}

static int expression(struct parser *parser, uint32_t *number);

static int operand(struct parser *parser, uint32_t *number)
{
    if (!is(parser, "(")) {
        int result = node_new(parser, number);
        return result ? result : primitive(parser, &parser->node[*number]);
    }
    if (++parser->depth > DEPTH_MAX)
        return fail(parser->failure, ERR_TOO_LARGE, "the query has more than %u parentheses in each other", DEPTH_MAX);
    next(parser);
    int result = expression(parser, number);
    if (result)
        return result;
    parser->depth--;
    if (!is(parser, ")"))
        return expected(parser, "and, or, or a closing parenthesis");
    next(parser);
    return 0;
}

static int expression(struct parser *parser, uint32_t *number)
{
    int result = operand(parser, number);
    while (!result) {
        uint32_t joined = 0;
        bool both = is(parser, "and") || is(parser, "&&");
        if (!both && !is(parser, "or") && !is(parser, "||"))
            return 0;
        next(parser);
        result = node_new(parser, &joined);
        if (result)
            return result;
        struct node *node = &parser->node[joined];
        node->type = both ? NODE_AND : NODE_OR;
        node->left = *number;
        *number = joined;
        result = operand(parser, &node->right);
    }
    return result;
}

/* ---- what comes of it ---------------------------------------------------------------------------- */

struct range {
    int64_t from_ns, to_ns;
};

/* When a packet for which the node holds can have come. */
static struct range range_of(const struct parser *parser, uint32_t number)
{
    const struct node *node = &parser->node[number];
    struct range range = {INT64_MIN, INT64_MAX};
    if (node->type == NODE_AFTER)
        range.from_ns = node->time_ns;
    if (node->type == NODE_BEFORE)
        range.to_ns = node->time_ns;
    if (node->type != NODE_AND && node->type != NODE_OR)
        return range;
    struct range left = range_of(parser, node->left), right = range_of(parser, node->right);
    if (node->type == NODE_AND) {
        range.from_ns = left.from_ns > right.from_ns ? left.from_ns : right.from_ns;
        range.to_ns = left.to_ns < right.to_ns ? left.to_ns : right.to_ns;
    } else {
        range.from_ns = left.from_ns < right.from_ns ? left.from_ns : right.from_ns;
        range.to_ns = left.to_ns > right.to_ns ? left.to_ns : right.to_ns;
    }
    return range;
}

/* The tree without the times that stand for all: the range says them. */
static uint32_t without_times(struct parser *parser, uint32_t number)
{
    struct node *node = &parser->node[number];
    if (node->type == NODE_AFTER || node->type == NODE_BEFORE)
        return ALWAYS;
    if (node->type != NODE_AND)
        return number;
    node->left = without_times(parser, node->left);
    node->right = without_times(parser, node->right);
    return node->left == ALWAYS ? node->right : node->right == ALWAYS ? node->left : number;
}

static bool has_time(const struct parser *parser, uint32_t number)
{
    const struct node *node = &parser->node[number];
    return node->type == NODE_AFTER || node->type == NODE_BEFORE ||
           (node->type != NODE_TEXT && (has_time(parser, node->left) || has_time(parser, node->right)));
}

/* `inside`: behind an `outer`, which is said of the largest parts that no time is in. */
static void print(const struct parser *parser, uint32_t number, bool inside, FILE *out)
{
    const struct node *node = &parser->node[number];
    char time[TEXT_TIME_SIZE];
    if (node->type == NODE_AFTER || node->type == NODE_BEFORE) {
        fprintf(out, "%s %s", node->type == NODE_AFTER ? "after" : "before", text_time(node->time_ns, time));
        return;
    }
    bool begins = !inside && !has_time(parser, number);
    inside |= begins;
    if (begins)
        fputs("outer ", out);
    fputc('(', out);
    if (node->type == NODE_TEXT) {
        fputs(node->text, out);
    } else {
        print(parser, node->left, inside, out);
        fputs(node->type == NODE_AND ? " and " : " or ", out);
        print(parser, node->right, inside, out);
    }
    fputc(')', out);
}

static int print_filter(const struct parser *parser, uint32_t number, struct steno_query *query)
{
    size_t bytes;
    FILE *out = open_memstream(&query->filter, &bytes);
    if (!out)
        return fail(parser->failure, ERR_NO_MEMORY, "no memory for the query");
    if (number != ALWAYS)
        print(parser, number, false, out);
    bool bad = ferror(out) != 0;
    bad |= fclose(out) != 0;
    return bad ? fail(parser->failure, ERR_NO_MEMORY, "no memory for the query") : 0;
}

int steno_query_open(const char *text, int64_t now_ns, struct steno_query *query, struct failure *failure)
{
    *query = (struct steno_query){.from_ns = INT64_MIN, .to_ns = INT64_MAX};
    struct parser *parser = calloc(1, sizeof *parser);
    if (!parser)
        return fail(failure, ERR_NO_MEMORY, "no memory for the query");
    parser->text = parser->at = text;
    parser->now_ns = now_ns;
    parser->failure = failure;
    uint32_t root = ALWAYS;
    next(parser);
    int result = parser->word[0] == '\0' ? 0 : expression(parser, &root);
    if (!result && parser->word[0] != '\0')
        result = expected(parser, "and, or, or the end");
    if (!result && root != ALWAYS) {
        struct range range = range_of(parser, root);
        query->from_ns = range.from_ns;
        query->to_ns = range.to_ns;
        if (range.from_ns >= range.to_ns)
            result = fail(failure, ERR_INVALID, "no packet can match the query: no time is both after and before what it says");
    }
    if (!result)
        result = print_filter(parser, root == ALWAYS ? root : without_times(parser, root), query);
    free(parser);
    if (result)
        steno_query_close(query);
    return result;
}

void steno_query_close(struct steno_query *query)
{
    free(query->filter);
    query->filter = NULL;
}
