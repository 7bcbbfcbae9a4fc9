/* tensor.c: the table of element types, shapes, and the checks that stand between a stored tensor and its use. */
#include "format/tensor.h"

#include <stdio.h>

typedef struct type_row {
    const char *name;
    int32_t block; /* elements */
    uint32_t block_bytes;
    bool is_float;
} type_row;

static const type_row TYPES[] = {
    [PEFT_DTYPE_F32] = {"F32", 1, 4, true},       [PEFT_DTYPE_F16] = {"F16", 1, 2, true},
    [PEFT_DTYPE_BF16] = {"BF16", 1, 2, true},     [PEFT_DTYPE_Q8_0] = {"Q8_0", 32, 34, true},
    [PEFT_DTYPE_Q4_0] = {"Q4_0", 32, 18, true},   [PEFT_DTYPE_Q4_1] = {"Q4_1", 32, 20, true},
    [PEFT_DTYPE_Q5_0] = {"Q5_0", 32, 22, true},   [PEFT_DTYPE_Q5_1] = {"Q5_1", 32, 24, true},
    [PEFT_DTYPE_Q2_K] = {"Q2_K", 256, 84, true},  [PEFT_DTYPE_Q3_K] = {"Q3_K", 256, 110, true},
    [PEFT_DTYPE_Q4_K] = {"Q4_K", 256, 144, true}, [PEFT_DTYPE_Q5_K] = {"Q5_K", 256, 176, true},
    [PEFT_DTYPE_Q6_K] = {"Q6_K", 256, 210, true}, [PEFT_DTYPE_F64] = {"F64", 1, 8, true},
    [PEFT_DTYPE_I64] = {"I64", 1, 8, false},      [PEFT_DTYPE_I32] = {"I32", 1, 4, false},
    [PEFT_DTYPE_I16] = {"I16", 1, 2, false},      [PEFT_DTYPE_I8] = {"I8", 1, 1, false},
    [PEFT_DTYPE_U8] = {"U8", 1, 1, false},        [PEFT_DTYPE_BOOL] = {"BOOL", 1, 1, false},
    [PEFT_DTYPE_OTHER] = {"OTHER", 1, 0, false},
};

static const type_row *row_of(peft_dtype dtype) {
    return &TYPES[dtype >= 0 && dtype < (peft_dtype)PEFT_COUNT(TYPES) ? dtype : PEFT_DTYPE_OTHER];
}

const char *peft_dtype_name(peft_dtype dtype) {
    return dtype >= 0 && dtype < (peft_dtype)PEFT_COUNT(TYPES) ? TYPES[dtype].name : "?";
}

int64_t peft__dtype_block(peft_dtype dtype) {
    return row_of(dtype)->block;
}
size_t peft__dtype_block_bytes(peft_dtype dtype) {
    return row_of(dtype)->block_bytes;
}
bool peft__dtype_is_float(peft_dtype dtype) {
    return row_of(dtype)->is_float;
}

bool peft__dtype_row_bytes(peft_dtype dtype, int64_t cols, size_t *out_bytes) {
    const type_row *row = row_of(dtype);
    if (cols < 0 || row->block_bytes == 0 || cols % row->block != 0) return false;
    return peft__mul_size((size_t)(cols / row->block), row->block_bytes, out_bytes);
}

bool peft__shape_elements(uint32_t ndim, const int64_t *shape, int64_t *out_count) {
    if (ndim > PEFT_MAX_DIMS) return false;
    int64_t count = 1;
    for (uint32_t i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count)) return false;
    *out_count = count;
    return true;
}

bool peft__dtype_tensor_bytes(peft_dtype dtype, uint32_t ndim, const int64_t *shape, size_t *out_bytes) {
    int64_t count = 0;
    size_t row = 0, bytes = 0;
    if (!peft__shape_elements(ndim, shape, &count)) return false;
    if (!peft__dtype_row_bytes(dtype, ndim > 0 ? shape[ndim - 1] : 1, &row)) return false;
    const int64_t block = peft__dtype_block(dtype);
    if (!peft__mul_size((size_t)(count / block), peft__dtype_block_bytes(dtype), &bytes)) return false;
    *out_bytes = bytes;
    return true;
}

int64_t peft__tensor_elements(const peft__tensor *tensor) {
    int64_t count = 0;
    return peft__shape_elements(tensor->ndim, tensor->shape, &count) ? count : 0;
}

const char *peft__shape_text(char *buffer, size_t size, uint32_t ndim, const int64_t *shape) {
    size_t used = 0;
    for (uint32_t i = 0; i < ndim && used < size; i++) {
        const int put = snprintf(buffer + used, size - used, "%s%lld", i == 0 ? "[" : ", ", (long long)shape[i]);
        if (put < 0) break;
        used += (size_t)put;
    }
    if (used < size) snprintf(buffer + used, size - used, "%s", ndim == 0 ? "[]" : "]");
    return buffer;
}

static const char *file_of(const peft__tensor *tensor) {
    return tensor->file != NULL ? tensor->file : "memory";
}

static const char *type_of(const peft__tensor *tensor) {
    return tensor->type_name != NULL ? tensor->type_name : peft_dtype_name(tensor->dtype);
}

peft_status peft__tensor_check_float(peft_context *ctx, const peft__tensor *tensor) {
    if (peft__dtype_is_float(tensor->dtype)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                      "%s: tensor %s has type %s; weights can be F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or "
                      "Q2_K to Q6_K",
                      file_of(tensor), tensor->name, type_of(tensor));
}

peft_status peft__tensor_check_shape(peft_context *ctx, const peft__tensor *tensor, uint32_t ndim,
                                     const int64_t *shape) {
    bool same = tensor->ndim == ndim;
    for (uint32_t i = 0; same && i < ndim; i++) same = tensor->shape[i] == shape[i];
    if (same) return PEFT_OK;
    char want[96], found[96];
    return peft__fail(ctx, PEFT_E_MISMATCH, "%s: tensor %s: expected shape %s, found %s", file_of(tensor), tensor->name,
                      peft__shape_text(want, sizeof want, ndim, shape),
                      peft__shape_text(found, sizeof found, tensor->ndim, tensor->shape));
}

/* Element i of an integer tensor. */
static int64_t integer_at(const peft__tensor *tensor, int64_t i) {
    const size_t width = peft__dtype_block_bytes(tensor->dtype);
    const uint8_t *at = tensor->data + (size_t)i * width;
    int64_t i64 = 0;
    int32_t i32 = 0;
    int16_t i16 = 0;
    switch (tensor->dtype) {
    case PEFT_DTYPE_I64:
        memcpy(&i64, at, sizeof i64);
        return i64;
    case PEFT_DTYPE_I32:
        memcpy(&i32, at, sizeof i32);
        return i32;
    case PEFT_DTYPE_I16:
        memcpy(&i16, at, sizeof i16);
        return i16;
    case PEFT_DTYPE_I8:
        return (int8_t)*at;
    default:
        return *at; /* U8, BOOL */
    }
}

static bool is_integer(peft_dtype dtype) {
    return dtype >= PEFT_DTYPE_I64 && dtype <= PEFT_DTYPE_BOOL;
}

peft_status peft__tensor_read_f32(peft_context *ctx, const peft__tensor *tensor, float *out) {
    const int64_t count = peft__tensor_elements(tensor);
    if (is_integer(tensor->dtype)) {
        for (int64_t i = 0; i < count; i++) out[i] = (float)integer_at(tensor, i);
        return PEFT_OK;
    }
    PEFT_TRY(peft__tensor_check_float(ctx, tensor));
    peft__dequantize(tensor->dtype, tensor->data, count, out);
    return PEFT_OK;
}

peft_status peft__tensor_read_i64(peft_context *ctx, const peft__tensor *tensor, int64_t *out) {
    if (!is_integer(tensor->dtype))
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: tensor %s has type %s, expected integers", file_of(tensor),
                          tensor->name, type_of(tensor));
    const int64_t count = peft__tensor_elements(tensor);
    for (int64_t i = 0; i < count; i++) out[i] = integer_at(tensor, i);
    return PEFT_OK;
}
