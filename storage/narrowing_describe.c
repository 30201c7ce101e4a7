/*
 * narrowing_describe.c - the tree of a filter as people read it, for --explain.
 */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "narrowing_inside.h"

struct writer {
    char *text;
    size_t size, at;
};

static void __attribute__((format(printf, 2, 3))) put(struct writer *writer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(writer->text + writer->at, writer->size - writer->at, format, arguments);
    va_end(arguments);
    size_t left = writer->size - writer->at - 1;
    writer->at += count < 0 ? 0 : (size_t)count < left ? (size_t)count : left;
}

static void put_host(struct writer *writer, const struct host *host)
{
    char address[INET6_ADDRSTRLEN];
    uint32_t bits = 0, most = host->version == 4 ? 32 : 128;
    while (bits < most && (host->mask[bits / 8] >> (7 - bits % 8) & 1) != 0)
        bits++;
    inet_ntop(host->version == 4 ? AF_INET : AF_INET6, host->address, address, sizeof address);
    put(writer, bits == most ? "%s" : "%s/%u", address, bits);
}

static void put_atom(struct writer *writer, const struct atom *atom)
{
    static const char *const way[] = {
        [WAY_EITHER] = "", [WAY_SOURCE] = "src ", [WAY_DESTINATION] = "dst ", [WAY_BOTH] = "src and dst "};
    if (atom->type != ATOM_MAYBE)
        put(writer, "%s%s", atom->inner ? "inner " : "", way[atom->way]);
    switch (atom->type) {
    case ATOM_HOST:
        put(writer, "host ");
        put_host(writer, &atom->host);
        break;
    case ATOM_PORT:
        if (atom->protocol != 0)
            put(writer, "proto %u ", atom->protocol);
        put(writer, atom->low == atom->high ? "port %u" : "ports %u-%u", atom->low, atom->high);
        break;
    case ATOM_PROTOCOL:
        put(writer, "%s proto %u", atom->version == 4 ? "ip" : atom->version == 6 ? "ip6" : "ip or ip6", atom->protocol);
        break;
    case ATOM_ETHERTYPE:
        put(writer, "ether proto 0x%04x", atom->low);
        break;
    case ATOM_MAC:
        put(writer, "ether host %02x:%02x:%02x:%02x:%02x:%02x", atom->mac[0], atom->mac[1], atom->mac[2], atom->mac[3], atom->mac[4], atom->mac[5]);
        break;
    case ATOM_MAC_GROUP:
        put(writer, atom->any ? "ether multicast" : "ether broadcast");
        break;
    case ATOM_IP_MULTICAST:
        put(writer, "ip multicast");
        break;
    case ATOM_VLAN:
        put(writer, atom->any ? "vlan" : "vlan %u", atom->low);
        break;
    case ATOM_MPLS:
        put(writer, "mpls");
        break;
    case ATOM_PPPOE_DISCOVERY:
        put(writer, "pppoed");
        break;
    case ATOM_PPPOE_SESSION:
        put(writer, "pppoes");
        break;
    case ATOM_GENEVE:
        put(writer, "geneve");
        break;
    case ATOM_APP:
        put(writer, "app %s", atom->app);
        break;
    case ATOM_FLOW:
        put(writer, "flow ");
        put_host(writer, &atom->host);
        put(writer, " port %u, ", atom->low);
        put_host(writer, &atom->peer);
        put(writer, " port %u", atom->high);
        break;
    case ATOM_COMMUNITY:
        put(writer, "community");
        break;
    case ATOM_RULE:
        put(writer, "rule %u", atom->rule);
        break;
    case ATOM_MAYBE:
        put(writer, "(packets)");
        break;
    }
}

/* As deep as the tree; a chain of one operator has no parentheses. */
static void put_node(struct writer *writer, const struct narrowing *tree, uint32_t number, enum node_type above)
{
    const struct node *node = &tree->node[number];
    bool closed = node->type == NODE_ATOM || node->type == NODE_NOT || node->type == above;
    if (writer->at + 1 >= writer->size)
        return;
    if (node->type == NODE_ATOM) {
        put_atom(writer, &node->atom);
        return;
    }
    put(writer, closed ? "" : "(");
    if (node->type == NODE_NOT) {
        put(writer, "not ");
        put_node(writer, tree, node->left, NODE_NOT);
    } else {
        put_node(writer, tree, node->left, node->type);
        put(writer, node->type == NODE_AND ? " and " : " or ");
        put_node(writer, tree, node->right, node->type);
    }
    put(writer, closed ? "" : ")");
}

void narrowing_describe(const struct narrowing *tree, char *text, size_t size)
{
    struct writer writer = {.text = text, .size = size};
    text[0] = '\0';
    if (tree->everything || !tree->parsed)
        return;
    put_node(&writer, tree, tree->root, tree->node[tree->root].type);
    if (writer.at + 1 == size && size > 4)
        memcpy(text + size - 4, "...", 4);
}
