#include "account.h"

struct account_row {
    const char *name;
    const char *help;
    int summed;
};

static const struct account_row account_table[ACCOUNT_LINES] = {
#define ACCOUNT(name, summed, sentence) [ACCOUNT_##name] = {#name, sentence, summed},
#include "account.def"
#undef ACCOUNT
};

const char *account_name(enum account_line line)
{
    return account_table[line].name;
}

const char *account_help(enum account_line line)
{
    return account_table[line].help;
}

uint64_t account_sum(const struct account *account)
{
    uint64_t sum = 0;
    for (int line = 0; line < ACCOUNT_LINES; line++)
        if (account_table[line].summed)
            sum += account->packets[line];
    return sum;
}

void account_add(struct account *a, const struct account *b)
{
    for (int line = 0; line < ACCOUNT_LINES; line++) {
        a->packets[line] += b->packets[line];
        a->bytes[line] += b->bytes[line];
    }
    a->stored_bytes += b->stored_bytes;
    a->cut_packets += b->cut_packets;
}
