/* Sources: files, memory, the host's reader; how each refuses. */
#include "base/base.h"
#include "check.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/peft-source-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void make_file(const char *name, size_t size) {
    FILE *file = fopen(in_folder(name), "wb");
    for (size_t i = 0; i < size; i++) fputc((int)(i * 7 % 251), file);
    fclose(file);
}

static void test_path(peft_context *ctx) {
    peft__source *source = NULL;
    make_file("data", 100000);
    make_file("empty", 0);
    errno = 0;
    CHECK_OK(ctx, peft__source_open_path(ctx, in_folder("data"), &source));
    CHECK(source->size == 100000 && strcmp(source->name, in_folder("data")) == 0 && errno == 0);
    int wrong = 0;
    for (size_t i = 0; i < source->size; i++) wrong += source->data[i] != i * 7 % 251;
    peft__source_drop(source, 0, source->size);
    peft__source_drop(source, 5000, 10000);
    peft__source_drop(source, 99999, SIZE_MAX);
    peft__source_drop(source, SIZE_MAX, SIZE_MAX);
    for (size_t i = 0; i < source->size; i++) wrong += source->data[i] != i * 7 % 251;
    CHECK(wrong == 0);
    peft__source *again = peft__source_ref(source);
    peft__source_unref(source);
    CHECK(again->data[8] == 56);
    peft__source_unref(again);
    peft__source_unref(NULL);

    CHECK_OK(ctx, peft__source_open_path(ctx, in_folder("empty"), &source));
    CHECK(source->size == 0 && source->data != NULL);
    peft__source_drop(source, 0, 10);
    peft__source_unref(source);

    source = NULL;
    CHECK_STATUS(ctx, peft__source_open_path(ctx, in_folder("missing"), &source), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "missing: cannot be opened: No such file") != NULL);
    CHECK_STATUS(ctx, peft__source_open_path(ctx, folder, &source), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "expected a file, found a folder") != NULL);
    CHECK_STATUS(ctx, peft__source_open_path(ctx, "/dev/null", &source), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "found a device or pipe") != NULL);
    CHECK(mkfifo(in_folder("fifo"), 0600) == 0);
    CHECK_STATUS(ctx, peft__source_open_path(ctx, in_folder("fifo"), &source), PEFT_E_IO); /* and does not wait */
    CHECK_STATUS(ctx, peft__source_open_path(ctx, "", &source), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft__source_open_path(ctx, NULL, &source), PEFT_E_ARG);
    peft__mem_freeze(ctx->mem, true);
    CHECK_STATUS(ctx, peft__source_open_path(ctx, in_folder("data"), &source), PEFT_E_NOMEM);
    peft__mem_freeze(ctx->mem, false);
    CHECK(source == NULL);
    unlink(in_folder("data"));
    unlink(in_folder("empty"));
    unlink(in_folder("fifo"));
}

static void test_memory(peft_context *ctx) {
    static const char text[] = "some bytes";
    peft__source *source = NULL;
    CHECK_OK(ctx, peft__source_open_memory(ctx, text, sizeof text, NULL, &source));
    CHECK(source->data == (const uint8_t *)text && source->size == sizeof text);
    CHECK_STR(source->name, "memory");
    peft__source_drop(source, 0, sizeof text);
    peft__source_unref(source);
    CHECK_OK(ctx, peft__source_open_memory(ctx, NULL, 0, "nothing", &source));
    CHECK(source->data != NULL && source->size == 0);
    CHECK_STR(source->name, "nothing");
    peft__source_unref(source);
    CHECK_STATUS(ctx, peft__source_open_memory(ctx, NULL, 5, NULL, &source), PEFT_E_ARG);
}

typedef struct reading {
    int mode; /* 0 good, 1 fails at half, 2 ends at half, 3 claims too much */
    uint64_t size;
    int calls;
} reading;

static int64_t read_some(void *user, uint64_t offset, void *buffer, uint64_t size) {
    reading *state = user;
    state->calls++;
    if (state->mode != 0 && offset >= state->size / 2)
        return state->mode == 1 ? -5 : state->mode == 2 ? 0 : (int64_t)size + 1;
    const uint64_t step = size < 1000 ? size : 1000; /* short reads */
    for (uint64_t i = 0; i < step; i++) ((uint8_t *)buffer)[i] = (uint8_t)((offset + i) % 253);
    return (int64_t)step;
}

static void test_reader(peft_context *ctx) {
    reading state = {.size = 12345};
    peft_reader reader = {.read = read_some, .size = state.size, .user = &state};
    peft__source *source = NULL;
    CHECK_OK(ctx, peft__source_open_reader(ctx, &reader, "assets/model.gguf", &source));
    int wrong = 0;
    for (size_t i = 0; i < source->size; i++) wrong += source->data[i] != i % 253;
    CHECK(wrong == 0 && source->size == 12345 && state.calls == 13);
    peft__source_unref(source);
    source = NULL;
    static const char *const want[] = {"failed at offset 7000 with -5", "ended at offset 7000 of 12345",
                                       "says it read"};
    for (state.mode = 1; state.mode <= 3; state.mode++) {
        CHECK_STATUS(ctx, peft__source_open_reader(ctx, &reader, "asset", &source), PEFT_E_CALLBACK);
        CHECK(strstr(peft_context_error(ctx), want[state.mode - 1]) != NULL);
    }
    state.mode = 0;
    reader.size = 0;
    CHECK_OK(ctx, peft__source_open_reader(ctx, &reader, NULL, &source));
    CHECK(source->size == 0);
    peft__source_unref(source);
    source = NULL;
    reader.size = UINT64_MAX;
    CHECK_STATUS(ctx, peft__source_open_reader(ctx, &reader, NULL, &source), PEFT_E_LIMIT);
    reader.size = 1;
    reader.read = NULL;
    CHECK_STATUS(ctx, peft__source_open_reader(ctx, &reader, NULL, &source), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft__source_open_reader(ctx, NULL, NULL, &source), PEFT_E_ARG);
    CHECK(source == NULL);
}

int main(void) {
    if (mkdtemp(folder) == NULL) return 77;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.memory_limit = 1 << 20;
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(&options, &ctx));
    uint64_t before = 0, after = 1;
    peft_context_memory(ctx, &before, NULL, NULL);
    test_path(ctx);
    test_memory(ctx);
    test_reader(ctx);
    reading state = {.size = 2 << 20};
    const peft_reader large = {.read = read_some, .size = state.size, .user = &state};
    peft__source *source = NULL;
    CHECK_STATUS(ctx, peft__source_open_reader(ctx, &large, "large", &source), PEFT_E_LIMIT);
    CHECK(state.calls == 0 && strstr(peft_context_error(ctx), "large takes 2097152 bytes") != NULL);
    peft_context_memory(ctx, &after, NULL, NULL);
    CHECK(before == after);

    /* A source outlives the host's hold on the context. */
    CHECK_OK(ctx, peft__source_open_memory(ctx, "abc", 3, NULL, &source));
    peft_context_destroy(ctx);
    CHECK(source->data[2] == 'c');
    peft__source_unref(source);
    rmdir(folder);
    return check_summary();
}
