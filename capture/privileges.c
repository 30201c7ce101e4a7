/*
 * privileges.c - see privileges.h.
 *
 * What remains, where the recorder is root: it may open network interfaces and every file and disk,
 * and nothing else of root's powers: no mounting, no modules, no tracing of others, no raw I/O, no
 * clock, no reboot. Where it is another user it has what systemd or file capabilities gave it, of
 * the same list.
 */
#include "privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const unsigned kept[] = {
    CAP_NET_RAW,                /* packet sockets */
    CAP_NET_ADMIN,              /* promiscuous mode, merging of frames off, large receive buffers */
    CAP_DAC_OVERRIDE,           /* disks and their directories, whoever owns them */
    CAP_CHOWN,                  /* the control socket's group */
    CAP_IPC_LOCK,               /* buffers registered with io_uring */
    CAP_SETUID,                 /* tapeloop-extract and -classify become nobody */
    CAP_SETGID,       CAP_KILL, /* and is ended as such */
};

static bool is_kept(unsigned capability)
{
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (kept[i] == capability)
            return true;
    return false;
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return written;
}

int privileges_drop(struct failure *failure)
{
    (void)write_text("/proc/self/oom_score_adj", "-800"); /* where that is permitted */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail_errno(failure, errno, "privileges cannot be given up");
    if (capng_get_caps_process() != 0)
        return fail(failure, ERR_PERMISSION, "the process's capabilities cannot be read");
    bool may_bound = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
    for (unsigned capability = 0; capability <= (unsigned)CAP_LAST_CAP; capability++)
        if (!is_kept(capability))
            capng_update(CAPNG_DROP,
                         (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE |
                                        CAPNG_BOUNDING_SET),
                         capability);
    if (capng_apply(may_bound ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) != 0)
        return fail(failure, ERR_PERMISSION, "capabilities cannot be given up");
    return 0;
}

void privileges_offer_child(int pid)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    (void)write_text(path, "500");
}
