/* GGUF: real files, hostile headers, truncation and single damaged bytes, and the writer against the reader. */
#include "format/gguf.h"
#include "format_test.h"

/* A header under construction. */
typedef struct file {
    uint8_t bytes[4096];
    size_t size;
} file;

static void put(file *f, const void *data, size_t size) {
    memcpy(f->bytes + f->size, data, size);
    f->size += size;
}

static void put32(file *f, uint32_t value) {
    put(f, &value, 4);
}
static void put64(file *f, uint64_t value) {
    put(f, &value, 8);
}

static void put_text(file *f, const char *text) {
    put64(f, strlen(text));
    put(f, text, strlen(text));
}

static file head(uint32_t version, uint64_t tensors, uint64_t pairs) {
    file f = {.size = 0};
    put(&f, "GGUF", 4);
    put32(&f, version);
    put64(&f, tensors);
    put64(&f, pairs);
    return f;
}

static void put_u32_pair(file *f, const char *key, uint32_t value) {
    put_text(f, key);
    put32(f, 4);
    put32(f, value);
}

static void put_record(file *f, const char *name, uint32_t ndim, const uint64_t *ne, uint32_t type, uint64_t offset) {
    put_text(f, name);
    put32(f, ndim);
    for (uint32_t i = 0; i < ndim; i++) put64(f, ne[i]);
    put32(f, type);
    put64(f, offset);
}

static void put_data(file *f, size_t alignment, size_t size) {
    while (f->size % alignment != 0) put(f, "", 1);
    memset(f->bytes + f->size, 1, size);
    f->size += size;
}

static void expect(peft_context *ctx, const file *f, peft_status want, const char *part, int line) {
    uint8_t *copy = test_exact(f->bytes, f->size);
    peft__gguf *gguf = NULL;
    const peft_status got = peft__gguf_open_memory(ctx, "t", copy, f->size, &gguf);
    if (!CHECK(got == want) || (got < 0 && !CHECK(strstr(peft_context_error(ctx), part) != NULL)))
        fprintf(stderr, "    line %d: %s: %s\n", line, peft_status_name(got), peft_context_error(ctx));
    peft__gguf_free(gguf);
    free(copy);
}
#define EXPECT(f, want, part) expect(ctx, &(f), want, part, __LINE__)

static void test_hostile(peft_context *ctx) {
    file f = head(3, 0, 0);
    EXPECT(f, PEFT_OK, "");
    f = head(2, 0, 0);
    EXPECT(f, PEFT_OK, "");
    f = head(1, 0, 0);
    EXPECT(f, PEFT_E_UNSUPPORTED, "version 1");
    f = head(0x03000000, 0, 0);
    EXPECT(f, PEFT_E_UNSUPPORTED, "big-endian");
    f = head(3, 0, 0);
    f.bytes[0] = 'g';
    EXPECT(f, PEFT_E_FORMAT, "not a GGUF");
    static const uint64_t COUNTS[] = {1, 1000, UINT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX / 24 + 1, 1ull << 32};
    for (size_t i = 0; i < PEFT_COUNT(COUNTS); i++) {
        f = head(3, 0, COUNTS[i]);
        EXPECT(f, PEFT_E_FORMAT, "do not fit");
        f = head(3, COUNTS[i], 0);
        EXPECT(f, PEFT_E_FORMAT, "do not fit");
        f = head(3, 0, 1); /* string length */
        put_text(&f, "k");
        put32(&f, 8);
        put64(&f, COUNTS[i]);
        EXPECT(f, PEFT_E_FORMAT, "");
        f = head(3, 0, 1); /* key length */
        put64(&f, COUNTS[i] + 100);
        put(&f, "abcdefgh", 8);
        EXPECT(f, PEFT_E_FORMAT, "");
        for (uint32_t type = 0; type < 13; type++) { /* array length */
            f = head(3, 0, 1);
            put_text(&f, "k");
            put32(&f, 9);
            put32(&f, type);
            put64(&f, COUNTS[i]);
            EXPECT(f, PEFT_E_FORMAT, "");
        }
    }
    for (uint32_t alignment = 0; alignment < 80; alignment++) {
        f = head(3, 0, 1);
        put_u32_pair(&f, "general.alignment", alignment);
        const bool fine = alignment >= 8 && (alignment & (alignment - 1)) == 0;
        EXPECT(f, fine ? PEFT_OK : PEFT_E_FORMAT, "general.alignment");
    }
    f = head(3, 0, 1);
    put_u32_pair(&f, "general.alignment", 1u << 21);
    EXPECT(f, PEFT_E_FORMAT, "general.alignment");
    f = head(3, 0, 1);
    put_u32_pair(&f, "", 1);
    EXPECT(f, PEFT_E_FORMAT, "not a text");
    f = head(3, 0, 2);
    put_u32_pair(&f, "k", 1);
    put_u32_pair(&f, "k", 2);
    EXPECT(f, PEFT_E_FORMAT, "there twice");
    f = head(3, 0, 1);
    put_text(&f, "k");
    put32(&f, 13);
    put64(&f, 0);
    EXPECT(f, PEFT_E_FORMAT, "13 is not a type");
    f = head(3, 0, 1);
    put_text(&f, "k");
    put32(&f, 9);
    put32(&f, 9);
    put64(&f, 1);
    put64(&f, 1);
    EXPECT(f, PEFT_E_FORMAT, "arrays of arrays");
    f = head(3, 0, 1);
    put_text(&f, "split.count");
    put32(&f, 2);
    put(&f, "\x05\x00", 2);
    EXPECT(f, PEFT_E_UNSUPPORTED, "part 1 of a model split into 5");
}

static void test_hostile_tensors(peft_context *ctx) {
    static const struct {
        const char *name;
        uint32_t ndim;
        uint64_t ne[6];
        uint32_t type;
        uint64_t offset;
        size_t data;
        peft_status status;
        const char *part;
    } CASES[] = {
        {"w", 2, {4, 2}, 0, 0, 32, PEFT_OK, ""},
        {"w", 2, {4, 2}, 0, 0, 31, PEFT_E_FORMAT, "the file has only"},
        {"w", 0, {0}, 0, 0, 4, PEFT_OK, ""},
        {"w", 2, {0, 5}, 8, 0, 0, PEFT_OK, ""},
        {"w", 2, {5, 0}, 0, 0, 0, PEFT_OK, ""},
        {"w", 5, {1, 1, 1, 1, 1}, 0, 0, 4, PEFT_E_FORMAT, "5 dimensions"},
        {"w", 0xffffffff, {0}, 0, 0, 4, PEFT_E_FORMAT, "dimensions"},
        {"w", 1, {UINT64_MAX}, 0, 0, 4, PEFT_E_FORMAT, "negative"},
        {"w", 2, {1ull << 62, 4}, 0, 0, 4, PEFT_E_FORMAT, "overflows"},
        {"w", 1, {1ull << 62}, 0, 0, 4, PEFT_E_FORMAT, "overflows"},
        {"w", 1, {1ull << 61}, 0, 0, 4, PEFT_E_FORMAT, "the file has only"},
        {"w", 1, {33}, 8, 0, 34, PEFT_E_FORMAT, "whole blocks of 32"},
        {"w", 1, {64}, 8, 0, 68, PEFT_OK, ""},
        {"w", 1, {256}, 16, 0, 66, PEFT_OK, ""},
        {"w", 1, {4}, 4, 0, 16, PEFT_E_FORMAT, "4 is not a ggml type"},
        {"w", 1, {4}, 0xffffffff, 0, 16, PEFT_E_FORMAT, "is not a ggml type"},
        {"w", 1, {64}, 40, 0, 36, PEFT_OK, ""},
        {"w", 1, {64}, 42, 0, 36, PEFT_E_UNSUPPORTED, "too new"},
        {"w", 1, {4}, 0, 32, 64, PEFT_E_FORMAT, "data offset 32, expected 0"},
        {"w", 1, {4}, 0, UINT64_MAX, 64, PEFT_E_FORMAT, "expected 0"},
        {"", 1, {4}, 0, 0, 16, PEFT_E_FORMAT, "tensor name of 0 bytes"},
        {"0123456789012345678901234567890123456789012345678901234567890123",
         1,
         {4},
         0,
         0,
         16,
         PEFT_E_FORMAT,
         "64 bytes"},
        {"012345678901234567890123456789012345678901234567890123456789012", 1, {4}, 0, 0, 16, PEFT_OK, ""},
        {"\xff", 1, {4}, 0, 0, 16, PEFT_E_FORMAT, "tensor name"},
    };
    for (size_t i = 0; i < PEFT_COUNT(CASES); i++) {
        file f = head(3, 1, 0);
        put_text(&f, CASES[i].name);
        put32(&f, CASES[i].ndim);
        for (uint32_t d = 0; d < CASES[i].ndim && d < 6; d++) put64(&f, CASES[i].ne[d]);
        put32(&f, CASES[i].type);
        put64(&f, CASES[i].offset);
        put_data(&f, 32, CASES[i].data);
        EXPECT(f, CASES[i].status, CASES[i].part);
    }
    static const uint64_t FOUR[] = {4};
    file f = head(3, 2, 0);
    put_record(&f, "a", 1, FOUR, 0, 0);
    put_record(&f, "a", 1, FOUR, 0, 32);
    put_data(&f, 32, 48);
    EXPECT(f, PEFT_E_FORMAT, "there twice");
    f = head(3, 2, 0);
    put_record(&f, "a", 1, FOUR, 0, 0);
    put_record(&f, "b", 1, FOUR, 0, 0);
    put_data(&f, 32, 48);
    EXPECT(f, PEFT_E_FORMAT, "data offset 0, expected 32");
    f = head(3, 2, 1);
    put_u32_pair(&f, "general.alignment", 64);
    put_record(&f, "a", 1, FOUR, 0, 0);
    put_record(&f, "b", 1, FOUR, 0, 64);
    put_data(&f, 64, 80);
    EXPECT(f, PEFT_OK, "");
}

static void read_all(peft_context *ctx, peft__gguf *gguf) {
    const peft__tensors *tensors = peft__gguf_tensors(gguf);
    for (size_t i = 0; i < peft__tensors_count(tensors); i++) {
        const peft__tensor *tensor = peft__tensors_at(tensors, i);
        const int64_t count = peft__tensor_elements(tensor);
        float *values = count < 1 << 20 ? malloc((size_t)(count > 0 ? count : 1) * sizeof *values) : NULL;
        if (values != NULL) (void)peft__tensor_read_f32(ctx, tensor, values);
        free(values);
    }
    for (size_t i = 0; i < peft__gguf_key_count(gguf); i++) {
        const char *key = peft__gguf_key_at(gguf, i), *text = NULL;
        int64_t integer = 0;
        double number = 0.0;
        bool flag = false;
        const peft__text *texts = NULL;
        const float *floats = NULL;
        const int32_t *integers = NULL;
        size_t count = 0;
        (void)peft__gguf_get_uniform_int(gguf, key, 0, 100, 0, &integer);
        (void)peft__gguf_need_int(gguf, key, 0, 100, &integer);
        (void)peft__gguf_need_float(gguf, key, &number);
        (void)peft__gguf_get_bool(gguf, key, false, &flag);
        (void)peft__gguf_need_string(gguf, key, &text);
        (void)peft__gguf_get_strings(gguf, key, &texts, &count);
        (void)peft__gguf_get_f32s(gguf, key, &floats, &count);
        (void)peft__gguf_get_i32s(gguf, key, &integers, &count);
    }
}

/* Prefixes and single damaged bytes of a small file with every kind of value. */
static void test_damage(peft_context *ctx, const uint8_t *data, size_t size) {
    const uint64_t before = test_bytes(ctx);
    size_t opened = 0;
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = test_exact(data, cut);
        peft__gguf *gguf = NULL;
        if (peft__gguf_open_memory(ctx, "t", copy, cut, &gguf) == PEFT_OK) opened++;
        peft__gguf_free(gguf);
        free(copy);
    }
    CHECK(opened < 32); /* only the padding behind the last tensor may be missing */
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit++) {
            uint8_t *copy = test_exact(data, size);
            copy[at] = (uint8_t)(copy[at] ^ 1u << bit);
            peft__gguf *gguf = NULL;
            if (peft__gguf_open_memory(ctx, "t", copy, size, &gguf) == PEFT_OK) read_all(ctx, gguf);
            peft__gguf_free(gguf);
            free(copy);
        }
    CHECK(test_bytes(ctx) == before);
}

static void test_writing(peft_context *ctx) {
    char *path = test_scratch("w.gguf");
    peft__gguf_metadata metadata;
    peft__gguf_metadata_init(&metadata, ctx->mem);
    peft__gguf_put_string(&metadata, "general.architecture", "llama");
    peft__gguf_put_u32(&metadata, "u32", 7);
    peft__gguf_put_i32(&metadata, "i32", -7);
    peft__gguf_put_u64(&metadata, "u64", UINT64_MAX);
    peft__gguf_put_f32(&metadata, "f32", 0.5f);
    peft__gguf_put_bool(&metadata, "bool", true);
    const peft__text texts[] = {{"a", 1}, {"", 0}, {"\xff\x00z", 3}};
    peft__gguf_put_strings(&metadata, "strings", texts, 3);
    peft__gguf_put_f32s(&metadata, "f32s", (const float[]){1.0f, -2.0f}, 2);
    peft__gguf_put_i32s(&metadata, "i32s", (const int32_t[]){4, 4, 4}, 3);
    peft__gguf_put_i32s(&metadata, "none", NULL, 0);
    const float values[] = {1, 2, 3, 4, 5, 6};
    const uint8_t blocks[2 * 34] = {0, 60, 1, 2};
    const peft__tensor_out out[] = {
        {.name = "w", .dtype = PEFT_DTYPE_F32, .ndim = 2, .shape = {2, 3}, .data = values},
        {.name = "q", .dtype = PEFT_DTYPE_Q8_0, .ndim = 2, .shape = {2, 32}, .data = blocks},
        {.name = "s", .dtype = PEFT_DTYPE_F32, .ndim = 0, .data = values},
    };
    CHECK_OK(ctx, peft__gguf_write(ctx, path, &metadata, out, 3));
    peft__gguf *gguf = NULL;
    CHECK_OK(ctx, peft__gguf_open(ctx, path, &gguf));
    if (gguf == NULL) exit(1);
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    const peft__text *list = NULL;
    const float *floats = NULL;
    const int32_t *integers = NULL;
    size_t count = 0;
    CHECK(peft__gguf_key_count(gguf) == 10);
    CHECK_OK(ctx, peft__gguf_need_string(gguf, "general.architecture", &s));
    CHECK_STR(s, "llama");
    CHECK_OK(ctx, peft__gguf_need_int(gguf, "u32", 0, 10, &i));
    CHECK(i == 7);
    CHECK_OK(ctx, peft__gguf_need_int(gguf, "i32", -10, 10, &i));
    CHECK(i == -7);
    CHECK_ERROR(ctx, peft__gguf_need_int(gguf, "u32", 0, 6, &i), PEFT_E_FORMAT,
                "u32: expected an integer from 0 to 6, found 7");
    CHECK_STATUS(ctx, peft__gguf_need_int(gguf, "u64", 0, INT64_MAX, &i), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft__gguf_need_int(gguf, "i32s", 0, 10, &i), PEFT_E_FORMAT);
    CHECK_OK(ctx, peft__gguf_get_uniform_int(gguf, "i32s", 0, 10, 1, &i));
    CHECK(i == 4);
    CHECK_OK(ctx, peft__gguf_get_uniform_int(gguf, "absent", 0, 10, 1, &i));
    CHECK(i == 1);
    CHECK_STATUS(ctx, peft__gguf_get_uniform_int(gguf, "none", 0, 10, 1, &i), PEFT_E_FORMAT);
    CHECK_ERROR(ctx, peft__gguf_need_int(gguf, "absent", 0, 10, &i), PEFT_E_FORMAT, "the key absent is missing");
    CHECK_OK(ctx, peft__gguf_need_float(gguf, "f32", &d));
    CHECK(d == 0.5);
    CHECK_OK(ctx, peft__gguf_get_float(gguf, "u32", 0, &d));
    CHECK(d == 7.0);
    CHECK_OK(ctx, peft__gguf_get_bool(gguf, "bool", false, &b));
    CHECK(b);
    CHECK_OK(ctx, peft__gguf_get_strings(gguf, "strings", &list, &count));
    CHECK(count == 3 && list[2].length == 3 && memcmp(list[2].data, "\xff\x00z", 3) == 0);
    const peft__text *again = NULL;
    CHECK_OK(ctx, peft__gguf_get_strings(gguf, "strings", &again, &count));
    CHECK(again == list);
    CHECK_OK(ctx, peft__gguf_get_f32s(gguf, "f32s", &floats, &count));
    CHECK(count == 2 && floats[1] == -2.0f);
    CHECK_OK(ctx, peft__gguf_get_i32s(gguf, "i32s", &integers, &count));
    CHECK(count == 3 && integers[0] == 4);
    CHECK_OK(ctx, peft__gguf_get_i32s(gguf, "absent", &integers, &count));
    CHECK(count == 0 && integers == NULL);
    CHECK_STATUS(ctx, peft__gguf_get_i32s(gguf, "f32s", &integers, &count), PEFT_E_FORMAT);
    peft__tensors *tensors = peft__tensors_ref(peft__gguf_tensors(gguf));
    peft__gguf_metadata copy;
    peft__gguf_metadata_init(&copy, ctx->mem);
    for (size_t k = 0; k < peft__gguf_key_count(gguf); k++)
        CHECK(peft__gguf_put_copy(&copy, gguf, peft__gguf_key_at(gguf, k)));
    CHECK(!peft__gguf_put_copy(&copy, gguf, "absent"));
    CHECK(copy.bytes.length == metadata.bytes.length &&
          memcmp(copy.bytes.data, metadata.bytes.data, copy.bytes.length) == 0);
    peft__gguf_metadata_free(&copy);
    peft__gguf_free(gguf);
    /* The tensors outlive the gguf object. */
    const peft__tensor *w = peft__tensors_find(tensors, "w");
    CHECK(w != NULL && w->shape[0] == 2 && w->shape[1] == 3 && memcmp(w->data, values, sizeof values) == 0);
    CHECK(peft__tensors_find(tensors, "s")->ndim == 0);
    float q[64];
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, peft__tensors_find(tensors, "q"), q));
    CHECK(q[0] == 1.0f && q[1] == 2.0f && q[2] == 0.0f);
    peft__tensors_unref(tensors);
    size_t size = 0;
    uint8_t *data = test_read(path, &size);
    test_damage(ctx, data, size);
    free(data);
    peft__gguf_metadata_free(&metadata);
    remove(path);
    free(path);
}

/* Files of the real converter: reading and writing again gives the same bytes. */
static void test_real(peft_context *ctx, const char *name, peft_dtype dtype) {
    char *path = test_path(name), *to = test_scratch("again.gguf");
    peft__gguf *gguf = NULL;
    CHECK_OK(ctx, peft__gguf_open(ctx, path, &gguf));
    if (gguf == NULL) exit(1);
    const char *arch = NULL;
    CHECK_OK(ctx, peft__gguf_need_string(gguf, "general.architecture", &arch));
    CHECK_STR(arch, "qwen2");
    const peft__tensors *tensors = peft__gguf_tensors(gguf);
    const peft__tensor *embedding = peft__tensors_find(tensors, "token_embd.weight");
    CHECK(embedding != NULL && embedding->dtype == dtype && embedding->ndim == 2);
    read_all(ctx, gguf);
    const size_t count = peft__tensors_count(tensors);
    peft__tensor_out *out = calloc(count, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const peft__tensor *tensor = peft__tensors_at(tensors, i);
        out[i] = (peft__tensor_out){
            .name = tensor->name, .dtype = tensor->dtype, .ndim = tensor->ndim, .data = tensor->data};
        memcpy(out[i].shape, tensor->shape, sizeof out[i].shape);
    }
    peft__gguf_metadata metadata;
    peft__gguf_metadata_init(&metadata, ctx->mem);
    for (size_t i = 0; i < peft__gguf_key_count(gguf); i++)
        peft__gguf_put_copy(&metadata, gguf, peft__gguf_key_at(gguf, i));
    CHECK_OK(ctx, peft__gguf_write(ctx, to, &metadata, out, count));
    size_t want_size = 0, got_size = 0;
    uint8_t *want = test_read(path, &want_size), *got = test_read(to, &got_size);
    CHECK(got_size == want_size && memcmp(got, want, want_size) == 0);
    free(want);
    free(got);
    free(out);
    peft__gguf_metadata_free(&metadata);
    peft__gguf_free(gguf);
    remove(to);
    free(to);
    free(path);
}

int main(void) {
    peft_context *ctx = test_context();
    const uint64_t before = test_bytes(ctx);
    test_hostile(ctx);
    test_hostile_tensors(ctx);
    test_writing(ctx);
    test_real(ctx, "qwen2.Q4_1.gguf", PEFT_DTYPE_Q4_1);
    test_real(ctx, "qwen2.Q5_0.gguf", PEFT_DTYPE_Q5_0);
    CHECK(test_bytes(ctx) == before);
    test_context_end(ctx);
    return check_summary();
}
