/* Stored types: dequantisers and quantisers against bytes and values of the reference implementation. */
#include <math.h>

#include "base/half.h"
#include "format/safetensors.h"
#include "format_test.h"

static const peft_dtype TYPES[] = {PEFT_DTYPE_Q8_0, PEFT_DTYPE_Q4_0, PEFT_DTYPE_Q4_1, PEFT_DTYPE_Q5_0, PEFT_DTYPE_Q5_1,
                                   PEFT_DTYPE_Q2_K, PEFT_DTYPE_Q3_K, PEFT_DTYPE_Q4_K, PEFT_DTYPE_Q5_K, PEFT_DTYPE_Q6_K};

static void test_read_blocks(peft_context *ctx, const peft__tensors *file) {
    for (size_t i = 0; i < PEFT_COUNT(TYPES); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.bytes", peft_dtype_name(TYPES[i]));
        const peft__tensor *bytes = peft__tensors_find(file, name);
        snprintf(name, sizeof name, "%s.values", peft_dtype_name(TYPES[i]));
        const peft__tensor *values = peft__tensors_find(file, name);
        if (!CHECK(bytes != NULL && values != NULL)) continue;
        const int64_t count = peft__tensor_elements(values);
        CHECK(bytes->shape[1] == (int64_t)peft__dtype_block_bytes(TYPES[i]));
        CHECK(values->shape[1] == peft__dtype_block(TYPES[i]));
        float *want = malloc((size_t)count * sizeof *want), *got = malloc((size_t)count * sizeof *got);
        CHECK_OK(ctx, peft__tensor_read_f32(ctx, values, want));
        peft__dequantize(TYPES[i], bytes->data, count, got);
        int64_t exact = 0, wrong = 0;
        for (int64_t j = 0; j < count; j++) {
            if (got[j] == want[j]) exact++;
            if (fabsf(got[j] - want[j]) > 1.2e-7f * fabsf(want[j])) wrong++;
        }
        if (!CHECK(wrong == 0) || exact != count)
            fprintf(stderr, "    %s: %lld of %lld exact\n", peft_dtype_name(TYPES[i]), (long long)exact,
                    (long long)count);
        free(want);
        free(got);
    }
}

static void test_write_blocks(peft_context *ctx, const peft__tensors *file) {
    static const peft_dtype WRITABLE[] = {PEFT_DTYPE_BF16, PEFT_DTYPE_Q8_0, PEFT_DTYPE_Q4_0,
                                          PEFT_DTYPE_Q4_1, PEFT_DTYPE_Q5_0, PEFT_DTYPE_Q5_1};
    const peft__tensor *input = peft__tensors_find(file, "quantize.input");
    if (!CHECK(input != NULL)) return;
    const int64_t count = peft__tensor_elements(input);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, input, values));
    for (size_t i = 0; i < PEFT_COUNT(WRITABLE); i++) {
        char name[64];
        snprintf(name, sizeof name, "quantize.%s", peft_dtype_name(WRITABLE[i]));
        const peft__tensor *want = peft__tensors_find(file, name);
        if (!CHECK(want != NULL)) continue;
        uint8_t *got = test_exact(want->data, want->bytes);
        memset(got, 0xee, want->bytes);
        CHECK_OK(ctx, peft__quantize(ctx, WRITABLE[i], values, count, got));
        if (!CHECK(memcmp(got, want->data, want->bytes) == 0)) fprintf(stderr, "    %s\n", name);
        free(got);
    }
    free(values);
}

static void test_bad_values(peft_context *ctx) {
    float x[32] = {0};
    uint8_t out[64];
    CHECK_OK(ctx, peft__quantize(ctx, PEFT_DTYPE_Q4_0, x, 32, out));
    CHECK_ERROR(ctx, peft__quantize(ctx, PEFT_DTYPE_Q4_0, x, 31, out), PEFT_E_MISMATCH, "whole blocks of 32");
    x[3] = NAN;
    CHECK_ERROR(ctx, peft__quantize(ctx, PEFT_DTYPE_Q4_1, x, 32, out), PEFT_E_NONFINITE, "element 3");
    x[3] = 3e38f;
    CHECK_ERROR(ctx, peft__quantize(ctx, PEFT_DTYPE_Q8_0, x, 32, out), PEFT_E_NONFINITE, "too large");
    x[3] = 1e-42f; /* the reciprocal of the scale is infinite */
    for (size_t i = 0; i < 5; i++) CHECK_OK(ctx, peft__quantize(ctx, TYPES[i], x, 32, out));
    CHECK_STATUS(ctx, peft__quantize(ctx, PEFT_DTYPE_Q4_K, x, 32, out), PEFT_E_UNSUPPORTED);
}

static void test_sizes(void) {
    size_t bytes = 0;
    CHECK(peft__dtype_row_bytes(PEFT_DTYPE_Q4_1, 64, &bytes) && bytes == 40);
    CHECK(!peft__dtype_row_bytes(PEFT_DTYPE_Q4_1, 65, &bytes));
    CHECK(!peft__dtype_row_bytes(PEFT_DTYPE_F32, -1, &bytes));
    CHECK(!peft__dtype_row_bytes(PEFT_DTYPE_OTHER, 4, &bytes));
    CHECK(!peft__dtype_row_bytes(PEFT_DTYPE_F32, INT64_MAX, &bytes));
    const int64_t huge[3] = {INT64_MAX / 2, 4, 0}, fine[3] = {2, 3, 64};
    CHECK(!peft__dtype_tensor_bytes(PEFT_DTYPE_F32, 3, huge, &bytes));
    CHECK(peft__dtype_tensor_bytes(PEFT_DTYPE_Q8_0, 3, fine, &bytes) && bytes == 6 * 68);
    CHECK(peft__dtype_tensor_bytes(PEFT_DTYPE_F64, 0, NULL, &bytes) && bytes == 8);
    CHECK_STR(peft_dtype_name(PEFT_DTYPE_Q4_1), "Q4_1");
    CHECK_STR(peft_dtype_name(-1), "?");
    CHECK_STR(peft_dtype_name(1000), "?");
}

int main(void) {
    peft_context *ctx = test_context();
    char *path = test_path("kquants.safetensors");
    peft__tensors *file = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, path, &file));
    if (file != NULL) {
        test_read_blocks(ctx, file);
        test_write_blocks(ctx, file);
    }
    test_bad_values(ctx);
    test_sizes();
    peft__tensors_unref(file);
    free(path);
    test_context_end(ctx);
    return check_summary();
}
