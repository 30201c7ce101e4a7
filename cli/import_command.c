/*
 * import_command.c - capture files into a ring.
 *
 * The command opens the files, under its own user's rights, and hands their descriptors to the
 * recorder, as many at a time as one message carries, in the order in which they were named. A file
 * that cannot be opened or read is named, and the others go on; what was read of a damaged file
 * stays in the ring.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer.h"
#include "commands.h"
#include "output.h"
#include "recorder_session.h"
#include "text.h"
#include "views.h"

struct batch {
    uint32_t count;
    uint32_t file[CONTROL_DESCRIPTORS_MAX]; /* which operand */
    int fd[CONTROL_DESCRIPTORS_MAX];
    uint64_t bytes;
};

struct import {
    const struct invocation *invocation;
    struct session *session;
    struct progress progress;
    struct batch batch;
    struct account account;
    json_t *files;       /* of the answer */
    uint32_t files_done; /* of the batches before this one */
    uint32_t failed;
    uint64_t packets_done; /* of the batches before this one */
    uint64_t bytes_done;
    uint64_t bytes_total; /* 0: not known, there is a pipe among them */
    uint64_t packets;     /* of this batch, as far as it has come */
};

static const char *import_name(const struct import *import, uint32_t file)
{
    return import->invocation->operand[file];
}

static bool is_standard_input(const char *name)
{
    return strcmp(name, "-") == 0;
}

/* ---- what became of a file ------------------------------------------------------------------- */

/* `reason` may begin with the file's name, as a sentence of its own would. */
static const char *without_name(const char *reason, const char *name)
{
    const char *slash = strrchr(name, '/');
    const char *forms[] = {name, slash ? slash + 1 : name};
    for (size_t i = 0; i < 2; i++) {
        size_t length = strlen(forms[i]);
        if (length > 0 && strncmp(reason, forms[i], length) == 0 &&
            strncmp(reason + length, ": ", 2) == 0)
            return reason + length + 2;
    }
    return reason;
}

static void file_failed(struct import *import, uint32_t file, const char *code, const char *reason,
                        uint64_t packets, uint64_t bytes)
{
    const char *name = import_name(import, file);
    const char *shown = is_standard_input(name) ? "standard input" : name;
    reason = without_name(reason, name);
    import->failed++;
    if (!output_is_json()) {
        if (packets > 0)
            output_error("%s: %s (the %" PRIu64 " packets before that stay)", shown, reason,
                         packets);
        else
            output_error("%s: %s", shown, reason);
    }
    char printable_name[1024];
    char printable_reason[2048];
    text_printable(name, printable_name, sizeof printable_name);
    text_printable(reason, printable_reason, sizeof printable_reason);
    json_array_append_new(import->files,
                          json_pack("{s:s, s:I, s:I, s:{s:s, s:s}}", "name", printable_name,
                                    "packets", (json_int_t)packets, "bytes", (json_int_t)bytes,
                                    "error", "code", code, "message", printable_reason));
}

static void file_done(struct import *import, uint32_t file, uint64_t packets, uint64_t bytes)
{
    char printable_name[1024];
    text_printable(import_name(import, file), printable_name, sizeof printable_name);
    json_array_append_new(import->files,
                          json_pack("{s:s, s:I, s:I, s:n}", "name", printable_name, "packets",
                                    (json_int_t)packets, "bytes", (json_int_t)bytes, "error"));
}

/* ---- one batch ------------------------------------------------------------------------------- */

static void import_progress(const json_t *answer, void *context)
{
    struct import *import = context;
    import->packets = answer_count(answer, "packets");
    if (!progress_is_due(&import->progress))
        return;
    uint64_t file = answer_count(answer, "file");
    if (file >= import->batch.count)
        file = import->batch.count - 1;
    uint64_t bytes = answer_count(answer, "bytes_done");
    const char *text =
        progress_text(&import->progress, import->bytes_done + bytes, import->bytes_total, NULL);
    progress_show(&import->progress, "file %" PRIu64 " of %u, %" PRIu64 " packets, %s",
                  import->files_done + file + 1, import->invocation->operands - 1,
                  import->packets_done + import->packets, text);
}

/* Makes the messages of one batch out of the answer. */
static void batch_report(struct import *import, const json_t *result)
{
    const json_t *files = answer_array(result, "files");
    for (uint32_t i = 0; i < import->batch.count; i++) {
        const json_t *file = json_array_get(files, i);
        uint64_t packets = answer_count(file, "packets");
        uint64_t bytes = answer_count(file, "bytes");
        const json_t *error = answer_object(file, "error");
        import->packets_done += packets;
        if (error)
            file_failed(import, import->batch.file[i], answer_text(error, "code"),
                        answer_text(error, "message"), packets, bytes);
        else if (!file)
            file_failed(import, import->batch.file[i], error_name(ERR_PROTOCOL),
                        "the recorder does not say what became of it", 0, 0);
        else
            file_done(import, import->batch.file[i], packets, bytes);
    }
    struct account account;
    answer_account(answer_object(result, "account"), &account);
    account_add(&import->account, &account);
}

static void batch_close(struct import *import)
{
    for (uint32_t i = 0; i < import->batch.count; i++)
        if (import->batch.fd[i] != STDIN_FILENO)
            close(import->batch.fd[i]);
    import->files_done += import->batch.count;
    import->bytes_done += import->batch.bytes;
    import->batch.count = 0;
    import->batch.bytes = 0;
    import->packets = 0;
}

static int batch_send(struct import *import, struct failure *failure)
{
    struct batch *batch = &import->batch;
    if (batch->count == 0)
        return 0;
    json_t *names = json_array();
    for (uint32_t i = 0; i < batch->count; i++) {
        const char *name = import_name(import, batch->file[i]);
        const char *slash = strrchr(name, '/');
        json_t *text = json_string(slash ? slash + 1 : name);
        if (!text) { /* not UTF-8 */
            char printable[512];
            text_printable(slash ? slash + 1 : name, printable, sizeof printable);
            text = json_string(printable);
        }
        json_array_append_new(names, text);
    }
    json_t *params =
        json_pack("{s:s, s:o}", "ring", import->invocation->operand[0], "names", names);
    struct session_job job = {
        .method = "import",
        .descriptors = batch->fd,
        .descriptor_count = batch->count,
        .context = import,
        .progress = import_progress,
        .watched_fd = -1,
    };
    json_t *result = NULL;
    int code = session_call(import->session, &job, params, &result, failure);
    if (code == 0)
        batch_report(import, result);
    json_decref(result);
    if (code == 0)
        batch_close(import);
    return code;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The descriptor of a file, or -1 with the reason. */
static int file_open(const char *name, uint64_t *bytes, struct failure *failure)
{
    *bytes = 0;
    int fd = STDIN_FILENO;
    if (!is_standard_input(name))
        fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    else if (isatty(STDIN_FILENO) == 1) {
        fail(failure, ERR_INVALID, "a terminal gives no packets");
        return -1;
    }
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) {
        int number = errno;
        fail(failure, error_from_errno(number), "%s", strerror(number));
        if (fd > STDIN_FILENO)
            close(fd);
        return -1;
    }
    if (S_ISDIR(status.st_mode)) {
        fail(failure, ERR_INVALID, "a directory, not a capture file");
        if (fd != STDIN_FILENO)
            close(fd);
        return -1;
    }
    if (S_ISREG(status.st_mode))
        *bytes = (uint64_t)status.st_size;
    return fd;
}

/* The sum of all files, for progress; 0 where one has no size that is known beforehand. */
static uint64_t bytes_of_all(const struct invocation *invocation)
{
    uint64_t sum = 0;
    for (uint32_t i = 1; i < invocation->operands; i++) {
        struct stat status;
        const char *name = invocation->operand[i];
        int result = is_standard_input(name) ? fstat(STDIN_FILENO, &status) : stat(name, &status);
        if (result != 0)
            continue;
        if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
            return 0;
        sum += S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
    }
    return sum;
}

static int import_all(struct import *import, struct failure *failure)
{
    int code = 0;
    for (uint32_t i = 1; i < import->invocation->operands && code == 0; i++) {
        struct failure reason = {0};
        uint64_t bytes;
        int fd = file_open(import_name(import, i), &bytes, &reason);
        if (fd < 0) {
            /* First what was named before it, so that messages and packets keep the order. */
            code = batch_send(import, failure);
            if (code != 0)
                break;
            file_failed(import, i, error_name(reason.code), reason.text, 0, 0);
            import->files_done++;
            continue;
        }
        struct batch *batch = &import->batch;
        batch->file[batch->count] = i;
        batch->fd[batch->count] = fd;
        batch->count++;
        batch->bytes += bytes;
        if (batch->count == CONTROL_DESCRIPTORS_MAX)
            code = batch_send(import, failure);
    }
    return code == 0 ? batch_send(import, failure) : code;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int import_report(struct import *import)
{
    uint32_t files = import->invocation->operands - 1;
    double seconds = progress_seconds(&import->progress);
    if (output_is_json()) {
        json_t *account = json_object();
        for (int line = 0; line < ACCOUNT_LINES; line++)
            json_object_set_new(account, account_name((enum account_line)line),
                                json_integer((json_int_t)import->account.packets[line]));
        json_t *answer = json_pack("{s:O, s:o, s:I, s:i, s:b}", "files", import->files, "account",
                                   account, "packets", (json_int_t)import->packets_done, "failed",
                                   (int)import->failed, "frontier_durable", 1);
        output_json(answer);
        json_decref(answer);
    } else {
        output_note("%" PRIu64 " packets of %u file%s in %s are in ring %s%s", import->packets_done,
                    files, files == 1 ? "" : "s", output_duration(seconds),
                    import->invocation->operand[0], import->failed ? "" : ", durably");
        if (import->failed > 0 && files > 1)
            output_note("%u of %u files failed", import->failed, files);
        uint64_t refused = import->account.packets[ACCOUNT_refused];
        if (refused > 0)
            output_error("%" PRIu64 " packets were refused: longer than a segment or than 16 MiB",
                         refused);
    }
    if (import->failed > 0)
        return EXIT_FAILED;
    uint64_t missing = view_dropped(&import->account) + import->account.packets[ACCOUNT_refused];
    return missing > 0 ? EXIT_INCOMPLETE : EXIT_DONE;
}

static int import_run(const struct invocation *invocation, struct failure *failure)
{
    int code = text_check_ring_name(invocation->operand[0], failure);
    if (code != 0)
        return code;
    uint32_t inputs = 0;
    for (uint32_t i = 1; i < invocation->operands; i++)
        inputs += is_standard_input(invocation->operand[i]);
    if (inputs > 1)
        return fail(failure, ERR_INVALID, "standard input (-) can be read once only");
    struct session session;
    code = session_open(&session, invocation->state, SESSION_START, failure);
    if (code != 0)
        return code;
    struct import import = {
        .invocation = invocation,
        .session = &session,
        .files = json_array(),
        .bytes_total = bytes_of_all(invocation),
    };
    progress_open(&import.progress);
    code = import_all(&import, failure);
    progress_close(&import.progress);
    if (code == ERR_INTERRUPTED)
        fail(failure, code,
             "stopped; %" PRIu64
             " packets of %u files are in ring %s, and of the next files what had "
             "been read",
             import.packets_done, import.files_done, invocation->operand[0]);
    if (code == 0)
        code = import_report(&import);
    batch_close(&import);
    json_decref(import.files);
    return session_close(&session, code, failure);
}

const struct command import_command = {
    .name = "import",
    .operands = "RING FILE...",
    .operands_min = 2,
    .operands_max = UINT32_MAX,
    .summary = "put capture files into a ring",
    .details = "Reads pcap and pcapng; - is standard input. Waits for the disks and drops nothing. "
               "When it\n"
               "is done, the packets are durable. A file that is damaged is read up to the damage; "
               "one that\n"
               "cannot be read is named, the others go on, and the exit status is 1.",
    .examples = "  tapeloop import dmz monday.pcapng tuesday.pcap\n"
                "  zcat old.pcap.gz | tapeloop import dmz -",
    .run = import_run,
};
