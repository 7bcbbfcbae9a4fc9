/* file.c: paths, folders and atomic writes.
 *
 * A file is written under a temporary name in the same folder, flushed to the disk, renamed over the old one, and the
 * folder is flushed. Whatever happens before the rename (full disk, killed process), the old file is whole. Writing
 * goes through one buffer of our own and write(): an error is known at the call that made it, with its reason.
 */
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_SIZE ((size_t)256 << 10)

struct peft__writer {
    peft_context *ctx;
    char *path, *folder, *temporary;
    uint8_t *buffer;
    size_t used;
    uint64_t offset;
    int fd; /* -1 = no temporary file */
    bool failed;
};

/* The two forms of strerror_r: which one is declared depends on the C library. */
const char *peft__errno_text(int code, char *buffer, size_t size) {
    const int saved_errno = errno;
#if defined(__GLIBC__)
    const char *text = strerror_r(code, buffer, size);
#else
    const char *text = strerror_r(code, buffer, size) == 0 ? buffer : "unknown error";
#endif
    errno = saved_errno;
    return text;
}

static peft_status fail_errno(peft_context *ctx, int code, const char *path, const char *what) {
    char text[128];
    return peft__fail(ctx, PEFT_E_IO, "%s: %s: %s", path, what, peft__errno_text(code, text, sizeof text));
}

/* ---- paths -------------------------------------------------------------------------------------------------- */

bool peft__path_is_dir(const char *path) {
    struct stat info;
    const int saved_errno = errno;
    const bool found = stat(path, &info) == 0;
    errno = saved_errno;
    return found && S_ISDIR(info.st_mode);
}

bool peft__path_exists(const char *path) {
    struct stat info;
    const int saved_errno = errno;
    const bool found = stat(path, &info) == 0;
    errno = saved_errno;
    return found;
}

char *peft__path_join(peft__mem *mem, const char *folder, const char *name) {
    const size_t length = strlen(folder);
    return peft__strfmt(mem, "%s%s%s", folder, length == 0 || folder[length - 1] == '/' ? "" : "/", name);
}

static peft_status make_one_dir(peft_context *ctx, const char *path) {
    if (mkdir(path, 0777) == 0 || peft__path_is_dir(path)) return PEFT_OK;
    return errno == EEXIST ? peft__fail(ctx, PEFT_E_IO, "%s: expected a folder, found a file", path)
                           : fail_errno(ctx, errno, path, "the folder cannot be made");
}

peft_status peft__make_dirs(peft_context *ctx, const char *path) {
    if (path[0] == '\0') return peft__fail(ctx, PEFT_E_ARG, "the path of the folder is empty");
    char *partial = peft__strdup(ctx->mem, path);
    if (partial == NULL) return peft__fail_nomem(ctx, strlen(path) + 1, "a path");
    const int saved_errno = errno;
    peft_status status = PEFT_OK;
    for (char *at = partial + 1; status == PEFT_OK && *at != '\0'; at++) {
        if (*at != '/' || at[-1] == '/') continue;
        *at = '\0';
        status = make_one_dir(ctx, partial);
        *at = '/';
    }
    if (status == PEFT_OK) status = make_one_dir(ctx, partial);
    peft__free(ctx->mem, partial);
    errno = saved_errno;
    return status;
}

typedef struct dir_name {
    struct dir_name *next;
    char *name;
} dir_name;

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static peft_status read_dir(peft_context *ctx, DIR *dir, const char *path, peft__arena *arena, char ***out_names,
                            size_t *out_count) {
    dir_name *list = NULL;
    size_t count = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL && errno != 0) return fail_errno(ctx, errno, path, "the folder cannot be read");
        if (entry == NULL) break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        dir_name *item = peft__arena_alloc(arena, sizeof *item);
        char *name = peft__arena_strdup(arena, entry->d_name);
        if (item == NULL || name == NULL) return peft__fail_nomem(ctx, sizeof *item, "the names in a folder");
        *item = (dir_name){.next = list, .name = name};
        list = item;
        count++;
    }
    char **names = peft__arena_alloc(arena, count * sizeof *names);
    if (names == NULL) return peft__fail_nomem(ctx, count * sizeof *names, "the names in a folder");
    size_t at = 0;
    for (const dir_name *item = list; item != NULL; item = item->next) names[at++] = item->name;
    qsort(names, count, sizeof *names, compare_names);
    *out_names = names;
    *out_count = count;
    return PEFT_OK;
}

peft_status peft__list_dir(peft_context *ctx, const char *path, peft__arena *arena, char ***out_names,
                           size_t *out_count) {
    const int saved_errno = errno;
    DIR *dir = opendir(path);
    peft_status status;
    if (dir == NULL) {
        status = fail_errno(ctx, errno, path, "the folder cannot be opened");
    } else {
        status = read_dir(ctx, dir, path, arena, out_names, out_count);
        (void)closedir(dir);
    }
    errno = saved_errno;
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static bool write_all(int fd, const uint8_t *data, size_t size) {
    while (size != 0) {
        const ssize_t written = write(fd, data, peft__min_size(size, (size_t)1 << 30));
        if (written < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        if (written == 0) {
            errno = ENOSPC;
            return false;
        }
        data += written;
        size -= (size_t)written;
    }
    return true;
}

static peft_status put_through(peft__writer *writer, const void *data, size_t size) {
    if (write_all(writer->fd, data, size)) return PEFT_OK;
    writer->failed = true;
    return fail_errno(writer->ctx, errno, writer->path, "writing failed");
}

static void writer_free(peft__writer *writer) {
    peft_context *ctx = writer->ctx;
    if (writer->fd >= 0) {
        (void)close(writer->fd);
        (void)unlink(writer->temporary);
    }
    peft__free(ctx->mem, writer->path);
    peft__free(ctx->mem, writer->folder);
    peft__free(ctx->mem, writer->temporary);
    peft__free(ctx->mem, writer->buffer);
    peft__free(ctx->mem, writer);
    peft__context_unref(ctx);
}

/* Makes the temporary file. Two writers, in one process or two, may find the same name at the same time: O_EXCL lets
 * one of them have it and the other tries the next. */
static peft_status open_temporary(peft__writer *writer, mode_t mode) {
    peft_context *ctx = writer->ctx;
    const uint64_t start = peft__clock_us();
    for (uint64_t attempt = 0; attempt < 100; attempt++) {
        char *name = peft__strfmt(ctx->mem, "%s.tmp.%ld-%llx", writer->path, (long)getpid(),
                                  (unsigned long long)(start + attempt));
        if (name == NULL) return peft__fail_nomem(ctx, strlen(writer->path) + 64, "a path");
        const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            writer->fd = fd;
            writer->temporary = name;
            if (mode != 0) (void)fchmod(fd, mode); /* a wish: the file system may have no modes */
            return PEFT_OK;
        }
        const int code = errno;
        peft__free(ctx->mem, name);
        if (code != EEXIST && code != EINTR) return fail_errno(ctx, code, writer->path, "cannot be written");
    }
    return peft__fail(ctx, PEFT_E_IO, "%s: no free name for a temporary file was found beside it", writer->path);
}

static peft_status open_writer(peft__writer *writer, const char *path) {
    peft_context *ctx = writer->ctx;
    const char *slash = strrchr(path, '/');
    /* Everything that commit needs is taken here: after the rename nothing may fail for want of memory. */
    writer->path = peft__strdup(ctx->mem, path);
    writer->folder = slash == NULL ? peft__strdup(ctx->mem, ".")
                                   : peft__strndup(ctx->mem, path, slash == path ? 1 : (size_t)(slash - path));
    writer->buffer = peft__alloc(ctx->mem, BUFFER_SIZE);
    if (writer->path == NULL || writer->folder == NULL || writer->buffer == NULL)
        return peft__fail_nomem(ctx, BUFFER_SIZE, "a write buffer");
    struct stat info;
    mode_t mode = 0; /* the old file's, if there is one */
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return peft__fail(ctx, PEFT_E_IO, "%s: expected a file, found a folder", path);
        if (!S_ISREG(info.st_mode))
            return peft__fail(ctx, PEFT_E_IO, "%s: expected a regular file, found a device or pipe", path);
        mode = info.st_mode & 0777;
    }
    return open_temporary(writer, mode);
}

peft_status peft__writer_open(peft_context *ctx, const char *path, peft__writer **out_writer) {
    if (path == NULL || path[0] == '\0') return peft__fail(ctx, PEFT_E_ARG, "the path is empty");
    peft__writer *writer = peft__alloc_zero(ctx->mem, sizeof *writer);
    if (writer == NULL) return peft__fail_nomem(ctx, sizeof *writer, "a file writer");
    writer->ctx = peft__context_ref(ctx);
    writer->fd = -1;
    const int saved_errno = errno;
    const peft_status status = open_writer(writer, path);
    if (status < 0)
        writer_free(writer);
    else
        *out_writer = writer;
    errno = saved_errno;
    return status;
}

static peft_status flush_buffer(peft__writer *writer) {
    const size_t size = writer->used;
    writer->used = 0;
    return put_through(writer, writer->buffer, size);
}

peft_status peft__writer_put(peft__writer *writer, const void *data, size_t size) {
    if (writer->failed)
        return peft__fail(writer->ctx, PEFT_E_IO, "%s: an earlier write failed; the file is given up", writer->path);
    const int saved_errno = errno;
    peft_status status = PEFT_OK;
    if (size > BUFFER_SIZE - writer->used) status = flush_buffer(writer);
    if (status == PEFT_OK && size >= BUFFER_SIZE) {
        status = put_through(writer, data, size);
    } else if (status == PEFT_OK && size != 0) {
        memcpy(writer->buffer + writer->used, data, size);
        writer->used += size;
    }
    if (status == PEFT_OK) writer->offset += size;
    errno = saved_errno;
    return status;
}

uint64_t peft__writer_offset(const peft__writer *writer) {
    return writer->offset;
}

/* Makes the rename last. Some systems cannot open or flush a folder; then the file itself is safe all the same. */
static peft_status flush_folder(peft_context *ctx, const char *folder) {
    const int fd = open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0) return PEFT_OK;
    peft_status status = PEFT_OK;
    if (fsync(fd) != 0 && errno == EIO) status = fail_errno(ctx, errno, folder, "flushing the folder failed");
    (void)close(fd);
    return status;
}

static peft_status commit(peft__writer *writer) {
    peft_context *ctx = writer->ctx;
    if (writer->failed)
        return peft__fail(ctx, PEFT_E_IO, "%s: an earlier write failed; the file is not replaced", writer->path);
    PEFT_TRY(flush_buffer(writer));
    if (fsync(writer->fd) != 0 && errno != EINVAL && errno != ENOTSUP)
        return fail_errno(ctx, errno, writer->path, "flushing to the disk failed");
    const int closed = close(writer->fd);
    const int close_code = errno;
    writer->fd = -1;
    if (closed != 0 && close_code != EINTR) {
        (void)unlink(writer->temporary);
        return fail_errno(ctx, close_code, writer->path, "closing failed");
    }
    if (rename(writer->temporary, writer->path) != 0) {
        const int code = errno;
        (void)unlink(writer->temporary);
        return fail_errno(ctx, code, writer->path, "replacing the file failed");
    }
    return flush_folder(ctx, writer->folder);
}

peft_status peft__writer_commit(peft__writer *writer) {
    const int saved_errno = errno;
    const peft_status status = commit(writer);
    writer_free(writer);
    errno = saved_errno;
    return status;
}

void peft__writer_abort(peft__writer *writer) {
    if (writer == NULL) return;
    const int saved_errno = errno;
    writer_free(writer);
    errno = saved_errno;
}

peft_status peft__write_file(peft_context *ctx, const char *path, const void *data, size_t size) {
    peft__writer *writer;
    PEFT_TRY(peft__writer_open(ctx, path, &writer));
    const peft_status status = peft__writer_put(writer, data, size);
    if (status < 0) {
        peft__writer_abort(writer);
        return status;
    }
    return peft__writer_commit(writer);
}
