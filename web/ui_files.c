/*
 * ui_files.c - the interface's files, which the build has put into the program
 * (web/CMakeLists.txt): each as it is, and compressed.
 */
#include <civetweb.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "handlers.h"

#define BYTES(symbol, file)                                                                   \
    __asm__(".section .rodata\n" #symbol ":\n.incbin \"" UI_DIRECTORY "/" file "\"\n" #symbol \
            "_end:\n.byte 0\n.previous\n");                                                   \
    extern const char symbol[] __attribute__((visibility("hidden")));                         \
    extern const char symbol##_end[] __attribute__((visibility("hidden")));

#define FILES                                                                 \
    FILE_OF(ui_index, "/", "index.html", "text/html; charset=utf-8")          \
    FILE_OF(ui_script, "/app.js", "app.js", "text/javascript; charset=utf-8") \
    FILE_OF(ui_style, "/app.css", "app.css", "text/css; charset=utf-8")       \
    FILE_OF(ui_icon, "/icon.svg", "icon.svg", "image/svg+xml")

#define FILE_OF(symbol, path, file, type) BYTES(symbol, file) BYTES(symbol##_gz, file ".gz")
FILES
#undef FILE_OF

static const struct ui_file {
    const char *path, *type;
    const char *plain, *plain_end, *packed, *packed_end;
} files[] = {
#define FILE_OF(symbol, path, file, type) \
    {path, type, symbol, symbol##_end, symbol##_gz, symbol##_gz_end},
    FILES
#undef FILE_OF
};

/* Anybody may have these: they say nothing about the recorder. */
int handle_ui_file(struct exchange *exchange)
{
    const char *method = exchange->info->request_method;
    const char *accepted = exchange_header(exchange, "Accept-Encoding");
    bool get = strcmp(method, "GET") == 0, packed = accepted && strstr(accepted, "gzip");
    if (!get && strcmp(method, "HEAD") != 0)
        return answer_problem(exchange, 405, "method", "this path does not have this method",
                              "Allow: GET, HEAD\r\n");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const struct ui_file *file = &files[i];
        if (strcmp(file->path, exchange->info->local_uri) != 0)
            continue;
        const char *bytes = packed ? file->packed : file->plain;
        size_t count = (size_t)((packed ? file->packed_end : file->plain_end) - bytes);
        answer_head(exchange, 200, file->type, (int64_t)count,
                    packed ? "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
                           : "Vary: Accept-Encoding\r\n");
        if (get)
            (void)exchange_write(exchange, bytes, count);
        return 200;
    }
    return answer_problem(exchange, 404, "not_found", "there is nothing at this path", NULL);
}
