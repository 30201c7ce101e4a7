/*
 * web_confinement.c - see web_confinement.h. Landlock has no wrappers in the C library: its calls
 * are made by number.
 *
 * System calls are refused (EPERM), not deadly: OpenSSL, SQLite and the C library try things and go
 * on without them, and a refused call is as harmless.
 */
#include "web_confinement.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* At its end the leak sanitizer clones a process that looks up this one in /proc, and traces it. */
#if defined(__SANITIZE_ADDRESS__)
#define LEAKS_LOOKED_FOR true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAKS_LOOKED_FOR true
#endif
#endif
#ifndef LEAKS_LOOKED_FOR
#define LEAKS_LOOKED_FOR false
#endif

#define USER "tapeloop-web"
#define USER_OTHERWISE "nobody"

int web_confinement_identity(const char *name, struct web_identity *identity,
                             struct failure *failure)
{
    *identity = (struct web_identity){geteuid(), getegid()};
    if (!name && geteuid() != 0)
        return 0;
    const struct passwd *user = getpwnam(name ? name : USER);
    if (!user && !name)
        user = getpwnam(USER_OTHERWISE);
    if (!user)
        return fail(failure, ERR_NOT_FOUND, "there is no user %s", name ? name : USER_OTHERWISE);
    if (geteuid() != 0 && user->pw_uid != geteuid())
        return fail(failure, ERR_PERMISSION,
                    "only root can become another user: leave --user away");
    if (user->pw_uid == 0)
        return fail(failure, ERR_INVALID, "the web process must not run as root");
    *identity = (struct web_identity){user->pw_uid, user->pw_gid};
    return 0;
}

/* ---- the first step -------------------------------------------------------------------------- */

static int become(const struct web_identity *identity, struct failure *failure)
{
    if (geteuid() == 0 && (setgroups(0, NULL) != 0 ||
                           setresgid(identity->group, identity->group, identity->group) != 0 ||
                           setresuid(identity->user, identity->user, identity->user) != 0))
        return fail_errno(failure, errno, "the web process cannot give up being root");
    /* Forgotten with the change of user. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || prctl(PR_SET_DUMPABLE, LEAKS_LOOKED_FOR) != 0)
        return fail_errno(failure, errno, "the web process cannot be tied to its parent");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* old kernels have none to clear */
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0)
        return fail(failure, ERR_PERMISSION, "the web process cannot give up its capabilities");
    return 0;
}

#define READING (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define KEEPING                                                                 \
    (READING | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK)
#define REFER (UINT64_C(1) << 13)
#define TRUNCATE (UINT64_C(1) << 14)
#define IOCTL_DEV (UINT64_C(1) << 15)
#define CONNECT_TCP (UINT64_C(1) << 1)

/* All that the newest kernel known here can forbid, cut down to what this one can. */
static uint64_t rights_known(long abi)
{
    uint64_t rights = KEEPING | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                      LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                      LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                      LANDLOCK_ACCESS_FS_MAKE_SYM;
    rights |= abi >= 2 ? REFER : 0;
    rights |= abi >= 3 ? TRUNCATE : 0;
    return rights | (abi >= 5 ? IOCTL_DEV : 0);
}

static int allow(int ruleset, const char *path, uint64_t rights)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = rights,
                                              .parent_fd = open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0)
        return errno;
    long result = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int error = result == 0 ? 0 : errno;
    close(rule.parent_fd);
    return error;
}

static int lock_files(const char *directory, struct failure *failure)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return 0; /* a kernel without Landlock: user and system calls are what there is */
    struct {      /* newer than some headers that this is built with */
        uint64_t files, network;
    } handled = {.files = rights_known(abi), .network = CONNECT_TCP};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled,
                               abi >= 4 ? sizeof handled : sizeof handled.files, 0);
    if (ruleset < 0)
        return fail_errno(failure, errno, "Landlock is there but refuses a ruleset");
    int error = allow(ruleset, directory, KEEPING | (abi >= 3 ? TRUNCATE : 0));
    if (!error) /* times are shown in the machine's zone; where it has none, in UTC */
        (void)allow(ruleset, "/etc/localtime", LANDLOCK_ACCESS_FS_READ_FILE);
    if (!error && LEAKS_LOOKED_FOR)
        error = allow(ruleset, "/proc", READING);
    if (!error && syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        error = errno;
    close(ruleset);
    return error ? fail_errno(failure, error, "Landlock cannot be applied") : 0;
}

int web_confinement_begin(const struct web_identity *identity, const char *directory,
                          struct failure *failure)
{
    struct rlimit none = {0, 0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || setrlimit(RLIMIT_CORE, &none) != 0)
        return fail_errno(failure, errno, "the web process cannot be confined");
    int result = become(identity, failure);
    return result ? result : lock_files(directory, failure);
}

/* ---- the second step ------------------------------------------------------------------------- */

/* What no web server needs, and what has been a way out of confinements. */
static const int refused[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(kcmp),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(open_tree),
    SCMP_SYS(move_mount),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsmount),
    SCMP_SYS(kexec_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setresgid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
    SCMP_SYS(memfd_create),
    SCMP_SYS(memfd_secret),
    SCMP_SYS(personality),
    SCMP_SYS(bind),
    SCMP_SYS(connect),
    SCMP_SYS(listen),
    SCMP_SYS(mknod),
    SCMP_SYS(mknodat),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(quotactl),
    SCMP_SYS(acct),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(socket),
    SCMP_SYS(inotify_init1),
    SCMP_SYS(fanotify_init),
};

static int add_rules(scmp_filter_ctx filter)
{
    int error = 0;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0] && !error; i++)
        if (!LEAKS_LOOKED_FOR || refused[i] != SCMP_SYS(ptrace))
            error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), refused[i], 0);
    /* New threads, but no new processes; signals to nobody else. */
    if (!error && !LEAKS_LOOKED_FOR)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                 SCMP_A0(SCMP_CMP_MASKED_EQ, 0x00010000 /* CLONE_THREAD */, 0));
    if (!error) /* its flags lie in memory, where no filter sees them: the C library then takes
                   clone */
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(kill), 1,
                                 SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid(), 0));
    return error;
}

int web_confinement_finish(struct failure *failure)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter)
        return fail(failure, ERR_NO_MEMORY, "no memory for confining the web process");
    int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!error)
        error = add_rules(filter);
    if (!error)
        error = seccomp_load(filter);
    seccomp_release(filter);
    return error ? fail_errno(failure, -error,
                              "the system calls of the web process cannot be restricted")
                 : 0;
}
