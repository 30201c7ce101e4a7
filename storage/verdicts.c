/*
 * verdicts.c - see verdicts.h.
 *
 * A place is a word: 41 bits of the hash that do not choose the set, both protocols, and a bit that says that it is in use. With the 16 bits
 * that choose the set 57 bits tell conversations apart, and the seed is nobody's to know who sends packets.
 */
#include "verdicts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define WAYS 8u
#define SETS (VERDICTS_MAX / WAYS)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)
#define IN_USE UINT64_C(1)
#define APP_BITS 11u
#define APP_MASK ((1u << APP_BITS) - 1)
#define TAG_SHIFT (1 + 2 * APP_BITS)

_Static_assert(VERDICTS_NAMES_MAX <= APP_MASK, "a protocol's number fits its bits");
_Static_assert(SETS == 1u << 16, "the set is what is above the tag");

struct verdict_set {
    _Alignas(64) _Atomic uint64_t place[WAYS];
};

struct shared {
    uint64_t seed;
    _Atomic uint32_t names;
    _Atomic uint32_t any; /* something was put */
    char name[VERDICTS_NAMES_MAX][VERDICTS_NAME_BYTES];
    struct verdict_set set[SETS];
};

struct verdicts {
    int fd; /* -1: another process's */
    struct shared *shared;
};

/* ---- opening ------------------------------------------------------------------------------------ */

int verdicts_open(struct verdicts **out, struct failure *failure)
{
    struct verdicts *verdicts = calloc(1, sizeof *verdicts);
    *out = NULL;
    if (!verdicts)
        return fail(failure, ERR_NO_MEMORY, "no memory for what layer 7 finds");
    void *memory = MAP_FAILED;
    verdicts->fd = memfd_create("tapeloop-verdicts", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* What is mapped before F_SEAL_FUTURE_WRITE stays writable: ours alone. */
    if (verdicts->fd >= 0 && ftruncate(verdicts->fd, sizeof *verdicts->shared) == 0)
        memory = mmap(NULL, sizeof *verdicts->shared, PROT_READ | PROT_WRITE, MAP_SHARED, verdicts->fd, 0);
    if (memory != MAP_FAILED)
        verdicts->shared = memory;
    if (memory == MAP_FAILED || fcntl(verdicts->fd, F_ADD_SEALS, SEALS) != 0) {
        int error = errno;
        verdicts_close(&verdicts);
        return fail_errno(failure, error, "no memory for what layer 7 finds");
    }
    if (getrandom(&verdicts->shared->seed, sizeof verdicts->shared->seed, GRND_NONBLOCK) != sizeof verdicts->shared->seed)
        verdicts->shared->seed = (uint64_t)(uintptr_t)memory; /* early at boot: less hard to guess */
    *out = verdicts;
    return 0;
}

int verdicts_map(int fd, struct verdicts **out)
{
    struct stat status;
    *out = NULL;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) != 0 ||
        status.st_size != (off_t)sizeof(struct shared))
        return ERR_PROTOCOL;
    struct verdicts *verdicts = calloc(1, sizeof *verdicts);
    if (!verdicts)
        return ERR_NO_MEMORY;
    verdicts->fd = -1;
    void *memory = mmap(NULL, sizeof *verdicts->shared, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int error = errno;
        free(verdicts);
        return error_from_errno(error);
    }
    verdicts->shared = memory;
    *out = verdicts;
    return 0;
}

void verdicts_close(struct verdicts **slot)
{
    struct verdicts *verdicts = *slot;
    if (!verdicts)
        return;
    if (verdicts->shared)
        munmap(verdicts->shared, sizeof *verdicts->shared);
    if (verdicts->fd >= 0)
        close(verdicts->fd);
    free(verdicts);
    *slot = NULL;
}

int verdicts_fd(const struct verdicts *verdicts)
{
    return verdicts->fd;
}

uint64_t verdicts_seed(const struct verdicts *verdicts)
{
    return verdicts->shared->seed;
}

/* ---- names -------------------------------------------------------------------------------------- */

void verdicts_name(struct verdicts *verdicts, const char *const *name, uint32_t names)
{
    struct shared *shared = verdicts->shared;
    if (atomic_load(&shared->names) > 0 || names > VERDICTS_NAMES_MAX)
        return;
    for (uint32_t i = 0; i < names; i++) {
        size_t length = strnlen(name[i], VERDICTS_NAME_BYTES - 1);
        memcpy(shared->name[i], name[i], length);
    }
    atomic_store(&shared->names, names); /* who sees it sees them */
}

uint32_t verdicts_names(const struct verdicts *verdicts)
{
    uint32_t names = atomic_load(&verdicts->shared->names);
    return names <= VERDICTS_NAMES_MAX ? names : 0;
}

bool verdicts_know(const struct verdicts *verdicts, const char *name)
{
    uint32_t names = verdicts_names(verdicts);
    if (names == 0 || strcasecmp(name, VERDICT_NOTHING) == 0)
        return true;
    const char *dot = strchr(name, '.');
    bool whole = false, head = false, rest = false;
    for (uint32_t i = 0; i < names; i++) {
        const char *known = verdicts->shared->name[i];
        whole |= strcasecmp(known, name) == 0;
        head |= dot && strlen(known) == (size_t)(dot - name) && strncasecmp(known, name, strlen(known)) == 0;
        rest |= dot && strcasecmp(known, dot + 1) == 0;
    }
    return whole || (head && rest);
}

bool verdicts_text(const struct verdicts *verdicts, const uint16_t app[2], char text[VERDICT_TEXT_BYTES])
{
    const struct shared *shared = verdicts->shared;
    uint32_t names = verdicts_names(verdicts);
    char *at = text;
    if (app[0] > names || app[1] > names)
        return false;
    if (app[0] == 0 && app[1] == 0) {
        strcpy(text, VERDICT_NOTHING);
        return true;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (app[i] == 0 || (i == 1 && app[1] == app[0]))
            continue;
        if (at > text)
            *at++ = '.';
        size_t length = strnlen(shared->name[app[i] - 1], VERDICTS_NAME_BYTES - 1);
        at = mempcpy(at, shared->name[app[i] - 1], length);
    }
    *at = '\0';
    return at > text;
}

bool verdict_is(const char *text, const char *name)
{
    const char *dot = strchr(text, '.');
    size_t head = dot ? (size_t)(dot - text) : strlen(text);
    return strcasecmp(text, name) == 0 || (dot && strcasecmp(dot + 1, name) == 0) ||
           (head == strlen(name) && strncasecmp(text, name, head) == 0);
}

/* ---- conversations ------------------------------------------------------------------------------ */

bool verdicts_never(const struct flow_kind *kind)
{
    const uint32_t anything = FLOW_LINK_UNSURE | FLOW_NETWORK_UNSURE | FLOW_TRANSPORT_UNSURE | FLOW_DEEP; /* found no room in a key index */
    if ((kind->marks & FLOW_INNER) != 0 || (kind->marks & anything) == anything)
        return false;
    return kind->version == 0 || kind->tunnel != 0 || kind->ethertype == FLOW_ETHERTYPE_ARP || kind->ethertype == FLOW_ETHERTYPE_RARP ||
           (kind->marks & (FLOW_FRAGMENT | FLOW_PORTS)) == FLOW_FRAGMENT;
}

bool verdicts_hash(const struct flow_keys *keys, uint64_t seed, uint64_t *hash)
{
    const struct flow_kind *kind = &keys->kind;
    const uint8_t *address[2] = {keys->end[0].address, keys->end[1].address};
    uint16_t port[2] = {keys->end[0].port, keys->end[1].port};
    uint32_t marks = kind->marks;
    uint8_t version = kind->version, protocol = kind->protocol;
    if ((marks & FLOW_INNER) != 0) {
        const struct flow_inner *inner = &keys->inner;
        address[0] = inner->address[0], address[1] = inner->address[1];
        port[0] = inner->port[0], port[1] = inner->port[1];
        marks = inner->marks;
        version = inner->version;
        protocol = inner->protocol;
    } else if (kind->tunnel != 0 || kind->ethertype == FLOW_ETHERTYPE_ARP || kind->ethertype == FLOW_ETHERTYPE_RARP) {
        return false; /* what is in the tunnel was not seen; addresses that are no IP header's */
    }
    bool ports = (marks & FLOW_PORTS) != 0;
    if (version == 0 || ((marks & FLOW_FRAGMENT) != 0 && !ports))
        return false;
    /* The lesser end first: address, then port. As decoded_flow_hash() of rules/ has it. */
    struct {
        uint8_t address[2][16];
        uint16_t port[2];
        uint16_t protocol;
        uint16_t version;
    } key;
    _Static_assert(sizeof key == 40, "no padding is hashed");
    memset(&key, 0, sizeof key);
    uint32_t address_bytes = version == 4 ? 4 : 16;
    int order = memcmp(address[0], address[1], address_bytes);
    if (order == 0 && ports)
        order = (int)port[0] - (int)port[1];
    for (unsigned i = 0; i < 2; i++) {
        unsigned place = order > 0 ? !i : i;
        memcpy(key.address[place], address[i], address_bytes);
        key.port[place] = ports ? port[i] : 0;
    }
    key.protocol = protocol;
    key.version = version;
    *hash = XXH3_64bits_withSeed(&key, sizeof key, seed) | 1;
    return true;
}

/* ---- the table ---------------------------------------------------------------------------------- */

static struct verdict_set *set_of(const struct verdicts *verdicts, uint64_t hash)
{
    return &verdicts->shared->set[hash >> 48];
}

/* The lowest bit of a hash is always set: it says nothing. */
static uint64_t tag_of(uint64_t hash)
{
    return hash >> 1 << TAG_SHIFT;
}

/* Where the conversation is, or WAYS. */
static unsigned find(const struct verdict_set *set, uint64_t tag, uint64_t *word)
{
    unsigned i;
    for (i = 0; i < WAYS; i++) {
        *word = atomic_load_explicit(&set->place[i], memory_order_relaxed);
        if ((*word & IN_USE) != 0 && *word >> TAG_SHIFT == tag >> TAG_SHIFT)
            break;
    }
    return i;
}

void verdicts_put(struct verdicts *verdicts, uint64_t hash, const uint16_t app[2])
{
    struct verdict_set *set = set_of(verdicts, hash);
    uint64_t tag = tag_of(hash), before;
    uint64_t word = tag | (uint64_t)(app[1] & APP_MASK) << (1 + APP_BITS) | (uint64_t)(app[0] & APP_MASK) << 1 | IN_USE;
    unsigned place = find(set, tag, &before);
    for (unsigned i = 0; i < WAYS && place == WAYS; i++)
        if ((atomic_load_explicit(&set->place[i], memory_order_relaxed) & IN_USE) == 0)
            place = i;
    if (place == WAYS)
        place = (unsigned)(hash >> 1) % WAYS;
    if (before != word)
        atomic_store_explicit(&set->place[place], word, memory_order_relaxed);
    if (atomic_load_explicit(&verdicts->shared->any, memory_order_relaxed) == 0)
        atomic_store_explicit(&verdicts->shared->any, 1, memory_order_relaxed);
}

bool verdicts_any(const struct verdicts *verdicts)
{
    return atomic_load_explicit(&verdicts->shared->any, memory_order_relaxed) != 0;
}

void verdicts_drop(struct verdicts *verdicts, uint64_t hash)
{
    struct verdict_set *set = set_of(verdicts, hash);
    uint64_t word;
    unsigned place = find(set, tag_of(hash), &word);
    if (place < WAYS)
        atomic_store_explicit(&set->place[place], 0, memory_order_relaxed);
}

bool verdicts_get(const struct verdicts *verdicts, uint64_t hash, uint16_t app[2])
{
    uint64_t word;
    if (find(set_of(verdicts, hash), tag_of(hash), &word) == WAYS)
        return false;
    app[0] = (uint16_t)(word >> 1 & APP_MASK);
    app[1] = (uint16_t)(word >> (1 + APP_BITS) & APP_MASK);
    return true;
}

void verdicts_prefetch(const struct verdicts *verdicts, uint64_t hash)
{
    __builtin_prefetch(set_of(verdicts, hash));
}
