/*
 * confinement.c - see the header. Landlock has no wrappers in the C library: its three calls are
 * made by number.
 */
#include "confinement.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

static bool landlocked; /* files can be opened only where confinement_begin() left them */

/* ---- the first step ----------------------------------------------------------------------------
 */

static int drop_user(struct failure *failure)
{
    if (geteuid() != 0)
        return 0;
    if (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 ||
        setresuid(NOBODY, NOBODY, NOBODY) != 0)
        return fail_errno(failure, errno, "the process cannot give up being root");
    return 0;
}

static int drop_capabilities(struct failure *failure)
{
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0,
          0); /* a kernel without them has none to clear */
    capng_clear(CAPNG_SELECT_CAPS);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0)
        return fail(failure, ERR_PERMISSION, "the process cannot give up its capabilities");
    return 0;
}

/* What the newest kernel known here can forbid, cut down to what this one can. */
static uint64_t landlock_rights(int abi)
{
    uint64_t rights =
        LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
        LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR |
        LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
        LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
        LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;
    if (abi >= 2)
        rights |= 1u << 13; /* REFER */
    if (abi >= 3)
        rights |= 1u << 14; /* TRUNCATE */
    if (abi >= 5)
        rights |= 1u << 15; /* IOCTL_DEV */
    return rights;
}

static int allow_reading(int ruleset, const char *path)
{
    struct landlock_path_beneath_attr rule = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
        .parent_fd = open(path, O_PATH | O_CLOEXEC),
    };
    if (rule.parent_fd < 0)
        return 0; /* not on this machine: nobody will read it */
    long result = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(rule.parent_fd);
    return result == 0 ? 0 : errno;
}

static int lock_files(enum confinement kind, struct failure *failure)
{
    static const char *const names[] = {"/etc/services", "/etc/protocols", "/etc/hosts",
                                        "/etc/networks", "/etc/ethers",    "/etc/nsswitch.conf"};
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return 0;
    struct { /* newer than some headers that this is built with */
        uint64_t files, network, scoped;
    } handled = {.files = landlock_rights((int)abi)};
    size_t size = sizeof handled.files;
    if (abi >= 4) {
        handled.network = 3; /* binding and connecting TCP */
        size += sizeof handled.network;
    }
    if (abi >= 6) {
        handled.scoped = 3; /* abstract sockets and signals of others */
        size += sizeof handled.scoped;
    }
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, size, 0);
    if (ruleset < 0)
        return fail_errno(failure, errno, "Landlock is there but refuses a ruleset");
    int error = 0;
    for (size_t i = 0; kind == CONFINEMENT_READING && i < sizeof names / sizeof names[0] && !error;
         i++)
        error = allow_reading(ruleset, names[i]);
    if (!error && syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        error = errno;
    close(ruleset);
    if (error)
        return fail_errno(failure, error, "Landlock cannot be applied");
    landlocked = true;
    return 0;
}

int confinement_begin(enum confinement kind, struct failure *failure)
{
    struct rlimit none = {0, 0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || setrlimit(RLIMIT_CORE, &none) != 0)
        return fail_errno(failure, errno, "the process cannot be confined");
    int result = drop_user(failure);
    if (!result)
        result = drop_capabilities(failure);
    return result ? result : lock_files(kind, failure);
}

int confinement_limit(uint64_t bytes, struct failure *failure)
{
#ifndef SANITIZED
    struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return fail_errno(failure, errno, "the memory of the process cannot be limited");
#else
    (void)bytes;
    (void)failure;
#endif
    return 0;
}

/* ---- the second step ---------------------------------------------------------------------------
 */

#define OPEN_FOR_READING(flags) SCMP_CMP(flags, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT, O_RDONLY)
#define OPEN_TO_WRITE(flags) SCMP_CMP(flags, SCMP_CMP_MASKED_EQ, O_ACCMODE, O_WRONLY)
#define OPEN_TO_READ_WRITE(flags) SCMP_CMP(flags, SCMP_CMP_MASKED_EQ, O_ACCMODE, O_RDWR)

#define NOT_EXECUTABLE SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)

/* What name look-ups and the C library try, and must survive being refused. */
static const int refused[] = {
    SCMP_SYS(socket),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
    SCMP_SYS(ioctl),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(statx),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(prctl),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(prlimit64),
    SCMP_SYS(getcwd),
};

#ifndef SANITIZED

/* Memory, threads, time, the end. */
static const int allowed[] = {
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(gettid),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(membarrier),
    SCMP_SYS(getrandom),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
};

/* Reading, writing, waiting: allowed to a process that reads, refused to one that computes. */
static const int descriptors[] = {
    SCMP_SYS(read),       SCMP_SYS(write),          SCMP_SYS(writev),  SCMP_SYS(pread64),
    SCMP_SYS(preadv),     SCMP_SYS(lseek),          SCMP_SYS(close),   SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), SCMP_SYS(fadvise64),      SCMP_SYS(fcntl),   SCMP_SYS(poll),
    SCMP_SYS(ppoll),      SCMP_SYS(io_uring_enter), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),
    SCMP_SYS(eventfd2),
};

static int add_list(scmp_filter_ctx filter, uint32_t action, const int *calls, size_t count)
{
    int error = 0;
    for (size_t i = 0; i < count && !error; i++)
        error = seccomp_rule_add(filter, action, calls[i], 0);
    return error;
}

#define LIST(calls) calls, sizeof calls / sizeof calls[0]

static int add_rules(enum confinement kind, scmp_filter_ctx filter)
{
    bool reads = kind == CONFINEMENT_READING;
    int error = add_list(filter, SCMP_ACT_ALLOW, LIST(allowed));
    if (!error)
        error =
            add_list(filter, reads ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EACCES), LIST(descriptors));
    if (!error)
        error = add_list(filter, SCMP_ACT_ERRNO(EACCES), LIST(refused));
    /* Memory, but no code; signals, but only to itself (abort). */
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, NOT_EXECUTABLE);
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, NOT_EXECUTABLE);
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                 SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    static const int opening[] = {SCMP_SYS(open), SCMP_SYS(openat)};
    for (unsigned i = 0; i < 2 && !error; i++) { /* the flags are argument 1 and 2 */
        unsigned flags = i + 1;
        if (!landlocked || !reads)
            error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), opening[i], 0);
        else
            error =
                seccomp_rule_add(filter, SCMP_ACT_ALLOW, opening[i], 1, OPEN_FOR_READING(flags));
    }
    return error;
}

#define DEFAULT_ACTION SCMP_ACT_KILL_PROCESS

#else

static int add_rules(enum confinement kind, scmp_filter_ctx filter)
{
    static const int forbidden[] = {
        SCMP_SYS(socket), SCMP_SYS(connect),        SCMP_SYS(bind),
        SCMP_SYS(execve), SCMP_SYS(execveat),       SCMP_SYS(fork),
        SCMP_SYS(vfork),  SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_register),
        SCMP_SYS(setuid), SCMP_SYS(mount),          SCMP_SYS(unshare),
        SCMP_SYS(bpf),    SCMP_SYS(kexec_load),     SCMP_SYS(init_module)};
    int error = 0;
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0] && !error; i++)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), forbidden[i], 0);
    if (!error)
        error =
            seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1, OPEN_TO_WRITE(2));
    if (!error)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1,
                                 OPEN_TO_READ_WRITE(2));
    (void)refused;
    (void)kind;
    return error;
}

#define DEFAULT_ACTION SCMP_ACT_ALLOW

#endif

int confinement_finish(enum confinement kind, struct failure *failure)
{
    scmp_filter_ctx filter = seccomp_init(DEFAULT_ACTION);
    if (!filter)
        return fail(failure, ERR_NO_MEMORY, "no memory for confining the process");
    int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!error)
        error = add_rules(kind, filter);
    if (!error)
        error = seccomp_load(filter);
    seccomp_release(filter);
    if (error)
        return fail_errno(failure, -error, "the system calls of the process cannot be restricted");
    return 0;
}
