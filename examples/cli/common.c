/* common.c: the context of the program, its messages, and small things of the system. */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void log_line(void *user, int32_t level, const char *line) {
    cli *c = user;
    if (c->quiet && level > PEFT_LOG_ERROR) return;
    cli_clear_line(c);
    fprintf(stderr, "%s: %s\n",
            level <= PEFT_LOG_ERROR     ? "error"
            : level == PEFT_LOG_WARNING ? "warning"
                                        : "note",
            line);
}

bool cli_start(cli *c, uint32_t threads, uint64_t memory_limit) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = threads;
    options.memory_limit = memory_limit;
    options.log = log_line;
    options.log_user = c;
    const peft_status status = peft_context_create(&options, &c->context);
    if (status < 0) fprintf(stderr, "peft: %s\n", peft_status_text(status));
    return status >= 0;
}

void cli_stop(cli *c) {
    peft_context_destroy(c->context);
    c->context = NULL;
}

bool cli_fail(cli *c, const char *what) {
    cli_clear_line(c);
    const char *text = c->context != NULL ? peft_context_error(c->context) : "";
    if (c->keep_failures) {
        free(c->failure);
        c->failure = text_copy(text[0] != '\0' ? text : what != NULL ? what : "failed");
        return false;
    }
    fprintf(stderr, "peft: %s%s%s\n", what != NULL ? what : "", what != NULL ? ": " : "",
            text[0] != '\0' ? text : "failed");
    return false;
}

void cli_clear_line(cli *c) {
    if (!c->line_open) return;
    fputs("\r\033[K", stderr);
    c->line_open = false;
}

void cli_say(cli *c, const char *format, ...) {
    if (c->quiet || c->json) return;
    cli_clear_line(c);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stdout, format, arguments);
    va_end(arguments);
    fflush(stdout);
}

void cli_note(cli *c, const char *format, ...) {
    if (c->quiet) return;
    cli_clear_line(c);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t peak_memory(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

bool on_terminal(FILE *file) {
    return isatty(fileno(file)) == 1;
}

bool file_exists(const char *path) {
    struct stat about;
    return stat(path, &about) == 0;
}

char *text_copy(const char *text) {
    const size_t length = strlen(text);
    char *copy = malloc(length + 1);
    if (copy != NULL) memcpy(copy, text, length + 1);
    return copy;
}

char *path_join(const char *folder, const char *name) {
    const size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    if (path != NULL) snprintf(path, size, "%s/%s", folder, name);
    return path;
}

char *read_file(const char *path, size_t *out_length) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    char *text = NULL;
    size_t length = 0, capacity = 0, got = 0;
    do {
        if (capacity - length < 4097) {
            capacity = capacity * 2 + 8192;
            char *more = realloc(text, capacity);
            if (more == NULL) break;
            text = more;
        }
        got = fread(text + length, 1, capacity - length - 1, file);
        length += got;
    } while (got > 0);
    const bool good = text != NULL && !ferror(file) && feof(file);
    fclose(file);
    if (!good) {
        free(text);
        return NULL;
    }
    text[length] = '\0';
    if (out_length != NULL) *out_length = length;
    return text;
}

bool write_file(const char *path, const char *text) {
    const size_t size = strlen(path) + 8;
    char *temporary = malloc(size);
    if (temporary == NULL) return false;
    snprintf(temporary, size, "%s.tmp", path);
    FILE *file = fopen(temporary, "wb");
    bool good = file != NULL && fputs(text, file) >= 0;
    if (file != NULL) good = fclose(file) == 0 && good;
    good = good && rename(temporary, path) == 0;
    if (!good) {
        fprintf(stderr, "peft: %s: %s\n", path, strerror(errno));
        (void)remove(temporary);
    }
    free(temporary);
    return good;
}

const char *format_bytes(uint64_t bytes, char *buffer, size_t size) {
    static const char *const UNITS[] = {"B", "KB", "MB", "GB", "TB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1000.0 && unit + 1 < sizeof UNITS / sizeof UNITS[0]) {
        value /= 1000.0;
        unit++;
    }
    snprintf(buffer, size,
             unit == 0 || value >= 100.0 ? "%.0f %s"
             : value >= 10.0             ? "%.1f %s"
                                         : "%.2f %s",
             value, UNITS[unit]);
    return buffer;
}

/* 1234567 as 1,234,567 */
const char *format_count(int64_t count, char *buffer, size_t size) {
    char digits[32];
    const int length = snprintf(digits, sizeof digits, "%lld", (long long)count);
    size_t at = 0;
    for (int i = 0; i < length && at + 2 < size; i++) {
        if (i > 0 && digits[i - 1] != '-' && (length - i) % 3 == 0) buffer[at++] = ',';
        buffer[at++] = digits[i];
    }
    buffer[at] = '\0';
    return buffer;
}

const char *format_time(double seconds, char *buffer, size_t size) {
    const long long whole = seconds > 0.0 ? (long long)(seconds + 0.5) : 0;
    if (whole >= 3600)
        snprintf(buffer, size, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(buffer, size, "%lld:%02lld", whole / 60, whole % 60);
    return buffer;
}
