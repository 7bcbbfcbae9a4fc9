/* format_test.h: what the tests of this folder share: a context and the files of tests/data/format. */
#ifndef PEFT_TESTS_FORMAT_TEST_H
#define PEFT_TESTS_FORMAT_TEST_H

#include <unistd.h>

#include "base/base.h"
#include "check.h"

static inline peft_context *test_context(void) {
    peft_context *ctx = NULL;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    if (peft_context_create(&options, &ctx) != PEFT_OK) exit(1);
    return ctx;
}

/* The context's bytes must be back where they were: nothing leaks, also on error paths. */
static inline void test_context_end(peft_context *ctx) {
    peft_context_destroy(ctx);
}

static inline uint64_t test_bytes(const peft_context *ctx) {
    uint64_t bytes = 0;
    peft_context_memory(ctx, &bytes, NULL, NULL);
    return bytes;
}

/* Path of a file in tests/data/format; the caller frees it. */
static inline char *test_path(const char *name) {
    const char *root = getenv("PEFT_TEST_DATA");
    const size_t size = strlen(root != NULL ? root : ".") + strlen(name) + 16;
    char *path = malloc(size);
    if (path == NULL) exit(1);
    snprintf(path, size, "%s/format/%s", root != NULL ? root : ".", name);
    return path;
}

/* A path for scratch files of this process; the caller frees it. */
static inline char *test_scratch(const char *name) {
    const char *root = getenv("TMPDIR");
    char *path = malloc(4096);
    if (path == NULL) exit(1);
    snprintf(path, 4096, "%s/peft-%ld-%s", root != NULL ? root : "/tmp", (long)getpid(), name);
    return path;
}

static inline uint8_t *test_read(const char *path, size_t *out_size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    uint8_t *data = malloc((size_t)size + 1);
    if (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size) exit(1);
    fclose(file);
    *out_size = (size_t)size;
    return data;
}

static inline uint8_t *test_read_data(const char *name, size_t *out_size) {
    char *path = test_path(name);
    uint8_t *data = test_read(path, out_size);
    free(path);
    return data;
}

static inline void test_write(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, size, file) != size) exit(1);
    fclose(file);
}

/* A copy of exactly this size on the heap, so that a sanitizer sees one byte too far. */
static inline uint8_t *test_exact(const void *data, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) exit(1);
    if (size > 0) memcpy(copy, data, size);
    return copy;
}

#define CHECK_ERROR(ctx, call, want, part)                                                                             \
    do {                                                                                                               \
        CHECK_STATUS(ctx, call, want);                                                                                 \
        if (!CHECK(strstr(peft_context_error(ctx), part) != NULL))                                                     \
            fprintf(stderr, "    \"%s\" is not in: %s\n", part, peft_context_error(ctx));                              \
    } while (0)

#endif
