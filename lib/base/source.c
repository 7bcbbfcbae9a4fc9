/* source.c: where bytes come from.
 *
 * Readers of formats see one thing, a block of bytes, whatever it is: a mapped file (the usual case: pages are shared
 * with other processes and cost nothing until they are touched), memory of the host, or what a callback of the host
 * delivered (assets inside a package), which is copied once.
 */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SOURCE_MAPPED, SOURCE_BORROWED, SOURCE_OWNED };

static peft_status source_create(peft_context *ctx, const char *name, int kind, peft__source **out_source) {
    peft__source *source = peft__alloc_zero(ctx->mem, sizeof *source);
    char *copy = peft__strdup(ctx->mem, name);
    if (source == NULL || copy == NULL) {
        peft__free(ctx->mem, source);
        peft__free(ctx->mem, copy);
        return peft__fail_nomem(ctx, sizeof *source + strlen(name) + 1, "a data source");
    }
    source->ctx = peft__context_ref(ctx);
    source->name = copy;
    source->kind = kind;
    source->data = (const uint8_t *)""; /* an empty source has an address, too */
    atomic_init(&source->references, 1);
    *out_source = source;
    return PEFT_OK;
}

static peft_status map_file(peft_context *ctx, const char *path, int fd, peft__source **out_source) {
    char text[128];
    struct stat info;
    if (fstat(fd, &info) != 0)
        return peft__fail(ctx, PEFT_E_IO, "%s: cannot be examined: %s", path,
                          peft__errno_text(errno, text, sizeof text));
    if (S_ISDIR(info.st_mode)) return peft__fail(ctx, PEFT_E_IO, "%s: expected a file, found a folder", path);
    if (!S_ISREG(info.st_mode))
        return peft__fail(ctx, PEFT_E_IO, "%s: expected a regular file, found a device or pipe", path);
    if ((uint64_t)info.st_size > SIZE_MAX)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: %lld bytes are more than this process can map", path,
                          (long long)info.st_size);

    peft__source *source;
    PEFT_TRY(source_create(ctx, path, SOURCE_MAPPED, &source));
    const size_t size = (size_t)info.st_size;
    if (size != 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            const int code = errno;
            peft__source_unref(source);
            return peft__fail(ctx, code == ENOMEM ? PEFT_E_NOMEM : PEFT_E_IO, "%s: %zu bytes cannot be mapped: %s",
                              path, size, peft__errno_text(code, text, sizeof text));
        }
        source->data = data;
        source->size = size;
    }
    *out_source = source;
    return PEFT_OK;
}

static peft_status read_all(peft_context *ctx, const peft_reader *reader, const char *name, uint8_t *data,
                            size_t size) {
    for (size_t done = 0; done < size;) {
        const uint64_t want = size - done;
        const int64_t got = reader->read(reader->user, done, data + done, want);
        if (got < 0)
            return peft__fail(ctx, PEFT_E_CALLBACK, "%s: the host's reader failed at offset %zu with %lld", name, done,
                              (long long)got);
        if (got == 0)
            return peft__fail(ctx, PEFT_E_CALLBACK, "%s: the host's reader ended at offset %zu of %zu bytes", name,
                              done, size);
        if ((uint64_t)got > want)
            return peft__fail(ctx, PEFT_E_CALLBACK,
                              "%s: the host's reader was asked for %llu bytes at offset %zu and says it read %lld",
                              name, (unsigned long long)want, done, (long long)got);
        done += (size_t)got;
    }
    return PEFT_OK;
}

peft_status peft__source_open_path(peft_context *ctx, const char *path, peft__source **out_source) {
    if (path == NULL || path[0] == '\0') return peft__fail(ctx, PEFT_E_ARG, "the path is empty");
    const int saved_errno = errno;
    peft_status status;
    int fd;
    do {
        /* Opening a pipe that nobody writes to would otherwise wait for ever. */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        char text[128];
        status =
            peft__fail(ctx, PEFT_E_IO, "%s: cannot be opened: %s", path, peft__errno_text(errno, text, sizeof text));
    } else {
        status = map_file(ctx, path, fd, out_source);
        (void)close(fd);
    }
    errno = saved_errno;
    return status;
}

peft_status peft__source_open_memory(peft_context *ctx, const void *data, size_t size, const char *name,
                                     peft__source **out_source) {
    if (data == NULL && size != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: the address is NULL but the size is %zu",
                          name != NULL ? name : "memory", size);
    peft__source *source = NULL;
    PEFT_TRY(source_create(ctx, name != NULL ? name : "memory", SOURCE_BORROWED, &source));
    if (size != 0) source->data = data;
    source->size = size;
    *out_source = source;
    return PEFT_OK;
}

peft_status peft__source_open_reader(peft_context *ctx, const peft_reader *reader, const char *name,
                                     peft__source **out_source) {
    if (name == NULL) name = "reader";
    if (reader == NULL || reader->read == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%s: the reader has no read function", name);
    if (reader->size > SIZE_MAX / 2)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: %llu bytes are more than this process can hold", name,
                          (unsigned long long)reader->size);
    const size_t size = (size_t)reader->size;
    peft__source *source;
    PEFT_TRY(source_create(ctx, name, SOURCE_OWNED, &source));
    uint8_t *data = peft__alloc(ctx->mem, size);
    if (data == NULL) {
        const peft_status status = peft__fail_nomem(ctx, size, name);
        source->kind = SOURCE_BORROWED;
        peft__source_unref(source);
        return status;
    }
    source->data = data;
    source->size = size;
    const int saved_errno = errno;
    const peft_status status = read_all(ctx, reader, name, data, size);
    errno = saved_errno;
    if (status < 0) {
        peft__source_unref(source);
        return status;
    }
    *out_source = source;
    return PEFT_OK;
}

peft__source *peft__source_ref(peft__source *source) {
    atomic_fetch_add_explicit(&source->references, 1, memory_order_relaxed);
    return source;
}

void peft__source_unref(peft__source *source) {
    if (source == NULL || atomic_fetch_sub_explicit(&source->references, 1, memory_order_acq_rel) != 1) return;
    peft_context *ctx = source->ctx;
    if (source->kind == SOURCE_MAPPED && source->size != 0) {
        const int saved_errno = errno;
        (void)munmap((void *)(uintptr_t)source->data, source->size);
        errno = saved_errno;
    }
    if (source->kind == SOURCE_OWNED) peft__free(ctx->mem, (void *)(uintptr_t)source->data);
    peft__free(ctx->mem, source->name);
    peft__free(ctx->mem, source);
    peft__context_unref(ctx);
}

void peft__source_drop(const peft__source *source, size_t offset, size_t size) {
    if (source->kind != SOURCE_MAPPED || offset >= source->size) return;
    const int saved_errno = errno;
    const long asked = sysconf(_SC_PAGESIZE);
    const size_t page = asked > 0 ? (size_t)asked : 4096;
    const size_t end = offset + peft__min_size(size, source->size - offset);
    /* Whole pages only: the neighbours may be needed. The mapping starts on a page. */
    const size_t first = (offset + page - 1) / page * page;
    const size_t last = end == source->size ? end : end / page * page;
    if (first < last) (void)madvise((void *)(uintptr_t)(source->data + first), last - first, MADV_DONTNEED);
    errno = saved_errno;
}
