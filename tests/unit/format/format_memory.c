/* Memory: every allocation of every reader and writer made to fail in turn. Each failure is PEFT_E_NOMEM, nothing
 * leaks, and nothing is written. */
#include "format/gguf.h"
#include "format/idx.h"
#include "format/safetensors.h"
#include "format/text_rows.h"
#include "format/yaml.h"
#include "format_test.h"

typedef struct failing {
    long left; /* allocations until the one that fails; negative = never */
    long live;
} failing;

static void *fail_alloc(void *user, size_t size, size_t align) {
    failing *f = user;
    void *memory = NULL;
    if (f->left == 0) return NULL;
    if (f->left > 0) f->left--;
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size > 0 ? size : 1) != 0) return NULL;
    f->live++;
    return memory;
}

static void fail_free(void *user, void *memory, size_t size) {
    (void)size;
    if (memory != NULL) ((failing *)user)->live--;
    free(memory);
}

typedef peft_status (*action_fn)(peft_context *ctx, const char *path);

static peft_status open_safetensors(peft_context *ctx, const char *path) {
    peft__tensors *tensors = NULL;
    const peft_status status = peft__safetensors_open(ctx, path, &tensors);
    peft__tensors_unref(tensors);
    return status;
}

static peft_status open_gguf(peft_context *ctx, const char *path) {
    peft__gguf *gguf = NULL;
    const peft__text *tokens = NULL;
    size_t count = 0;
    PEFT_TRY(peft__gguf_open(ctx, path, &gguf));
    const peft_status status = peft__gguf_get_strings(gguf, "tokenizer.ggml.tokens", &tokens, &count);
    peft__gguf_free(gguf);
    return status;
}

static peft_status write_files(peft_context *ctx, const char *path) {
    const float values[4] = {1, 2, 3, 4};
    const peft__tensor_out out[] = {{.name = "a", .dtype = PEFT_DTYPE_F32, .ndim = 1, .shape = {4}, .data = values},
                                    {.name = "b", .dtype = PEFT_DTYPE_F32, .ndim = 2, .shape = {2, 2}, .data = values}};
    peft__gguf_metadata metadata;
    peft__gguf_metadata_init(&metadata, ctx->mem);
    peft__gguf_put_string(&metadata, "general.architecture", "x");
    peft_status status = peft__gguf_write(ctx, path, &metadata, out, 2);
    peft__gguf_metadata_free(&metadata);
    if (status == PEFT_OK) status = peft__safetensors_write(ctx, path, out, 2, NULL, 0);
    return status;
}

static peft_status read_json(peft_context *ctx, const char *path) {
    json_t *json = NULL;
    peft__buffer text;
    PEFT_TRY(peft__json_load_file(ctx, path, 0, &json));
    peft__buffer_init(&text, ctx->mem);
    const peft_status status = peft__json_dump(ctx, json, 2, true, &text);
    peft__buffer_free(&text);
    json_decref(json);
    return status;
}

static peft_status read_yaml(peft_context *ctx, const char *path) {
    static const char TEXT[] = "a: 1\nb: [1, {c: d}]\n";
    json_t *json = NULL;
    peft__yaml_lines *lines = NULL;
    (void)path;
    PEFT_TRY(peft__yaml_load_memory(ctx, "t", TEXT, sizeof TEXT - 1, 0, &json, &lines));
    peft__yaml_lines_free(lines);
    json_decref(json);
    return PEFT_OK;
}

static peft_status read_rows(peft_context *ctx, const char *path) {
    static const char TEXT[] = "a,b\n\"1,\"\"\",2\n3,4\n";
    peft__rows *rows = NULL;
    json_t *row = NULL;
    (void)path;
    PEFT_TRY(peft__rows_open_memory(ctx, "t.csv", TEXT, sizeof TEXT - 1, NULL, &rows));
    peft_status status = PEFT_OK;
    while ((status = peft__rows_next(rows, &row)) == PEFT_OK) json_decref(row);
    peft__rows_free(rows);
    return status == PEFT_END ? PEFT_OK : status;
}

static peft_status read_gzip(peft_context *ctx, const char *path) {
    static const uint8_t DATA[] = {31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 75, 4, 0, 67, 190, 183, 232, 1, 0, 0, 0};
    peft__buffer out;
    (void)path;
    peft__buffer_init(&out, ctx->mem);
    const peft_status status = peft__gzip_inflate(ctx, "t", DATA, sizeof DATA, 10, &out);
    if (status == PEFT_OK) CHECK(out.length == 1 && out.data[0] == 'a');
    peft__buffer_free(&out);
    return status;
}

static void run(const char *name, action_fn action, const char *path) {
    failing f = {.left = -1};
    const peft_allocator allocator = {.alloc = fail_alloc, .free = fail_free, .user = &f};
    peft_context_options options;
    peft_context *ctx = NULL;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = &allocator;
    if (!CHECK(peft_context_create(&options, &ctx) == PEFT_OK)) return;
    const long live = f.live;
    long nth = 0;
    for (; nth < 10000; nth++) {
        f.left = nth;
        const peft_status status = action(ctx, path);
        f.left = -1;
        if (!CHECK(f.live == live)) fprintf(stderr, "    %s: allocation %ld: %ld leaked\n", name, nth, f.live - live);
        if (status == PEFT_OK) break;
        if (!CHECK(status == PEFT_E_NOMEM))
            fprintf(stderr, "    %s: allocation %ld: %s: %s\n", name, nth, peft_status_name(status),
                    peft_context_error(ctx));
    }
    CHECK(nth > 0 && nth < 10000);
    peft_context_destroy(ctx);
    CHECK(f.live == 0);
}

int main(void) {
    char *safetensors = test_path("mixed.safetensors"), *gguf = test_path("qwen2.Q4_1.gguf"),
         *json = test_path("python.json");
    char *scratch = test_scratch("memory");
    run("safetensors", open_safetensors, safetensors);
    run("gguf", open_gguf, gguf);
    run("writers", write_files, scratch);
    run("json", read_json, json);
    run("yaml", read_yaml, NULL);
    run("rows", read_rows, NULL);
    run("gzip", read_gzip, NULL);
    remove(scratch);
    free(safetensors);
    free(gguf);
    free(json);
    free(scratch);
    return check_summary();
}
