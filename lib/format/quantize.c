/* quantize.c: the reference quantisers, for files that other programs read.
 *
 * Bit for bit those of ggml: quantise with the scale in float, store it as half; ties of the largest magnitude go to
 * the first element; values are multiplied by the reciprocal, not divided.
 */
#include <float.h>
#include <math.h>

#include "base/half.h"
#include "format/tensor.h"

enum { BLOCK = 32 };

static void store_half(uint8_t *at, float value) {
    const uint16_t half = peft__f32_to_f16(value);
    at[0] = (uint8_t)(half & 255);
    at[1] = (uint8_t)(half >> 8);
}

/* A scale so small that its reciprocal is not finite is stored as zero anyway. */
static float reciprocal(float d) {
    const float r = d != 0.0f ? 1.0f / d : 0.0f;
    return r >= -FLT_MAX && r <= FLT_MAX ? r : 0.0f;
}

/* The element with the largest magnitude, with its sign. */
static float signed_peak(const float *x) {
    float peak = 0.0f, magnitude = 0.0f;
    for (int j = 0; j < BLOCK; j++)
        if (fabsf(x[j]) > magnitude) {
            magnitude = fabsf(x[j]);
            peak = x[j];
        }
    return peak;
}

static void range_of(const float *x, float *out_min, float *out_max) {
    float min = FLT_MAX, max = -FLT_MAX;
    for (int j = 0; j < BLOCK; j++) {
        if (x[j] < min) min = x[j];
        if (x[j] > max) max = x[j];
    }
    *out_min = min;
    *out_max = max;
}

static uint32_t level(float value, uint32_t top) {
    const int32_t q = (int32_t)value;
    return q < 0 ? 0u : (uint32_t)q > top ? top : (uint32_t)q;
}

/* Nibbles and, for five bits, the packed high bits before them. */
static void store_levels(const uint32_t *q, uint8_t *high, uint8_t *low) {
    uint32_t bits = 0;
    for (int j = 0; j < 16; j++) {
        low[j] = (uint8_t)((q[j] & 15u) | (q[j + 16] & 15u) << 4);
        bits |= (q[j] >> 4) << j | (q[j + 16] >> 4) << (j + 16);
    }
    if (high == NULL) return;
    for (int j = 0; j < 4; j++) high[j] = (uint8_t)(bits >> (8 * j));
}

/* Each writes one block and returns the scale, so that the caller sees whether it fits a half. */
static float write_q8_0(const float *x, uint8_t *out) {
    const float d = fabsf(signed_peak(x)) / 127.0f, id = reciprocal(d);
    store_half(out, d);
    for (int j = 0; j < BLOCK; j++) out[2 + j] = (uint8_t)(int8_t)roundf(x[j] * id);
    return d;
}

static float write_q4_0(const float *x, uint8_t *out) {
    const float d = signed_peak(x) / -8.0f, id = reciprocal(d);
    uint32_t q[BLOCK];
    for (int j = 0; j < BLOCK; j++) q[j] = level(x[j] * id + 8.5f, 15);
    store_half(out, d);
    store_levels(q, NULL, out + 2);
    return d;
}

static float write_q5_0(const float *x, uint8_t *out) {
    const float d = signed_peak(x) / -16.0f, id = reciprocal(d);
    uint32_t q[BLOCK];
    for (int j = 0; j < BLOCK; j++) q[j] = level(x[j] * id + 16.5f, 31);
    store_half(out, d);
    store_levels(q, out + 2, out + 6);
    return d;
}

/* Q4_1 and Q5_1: the scale covers the range, the minimum is stored. Returns the larger of the two halves. */
static float write_range(const float *x, uint32_t top, uint8_t *out) {
    float min = 0.0f, max = 0.0f;
    range_of(x, &min, &max);
    const float d = (max - min) / (float)top, id = reciprocal(d);
    uint32_t q[BLOCK];
    for (int j = 0; j < BLOCK; j++) q[j] = level((x[j] - min) * id + 0.5f, top);
    store_half(out, d);
    store_half(out + 2, min);
    if (top == 31)
        store_levels(q, out + 4, out + 8);
    else
        store_levels(q, NULL, out + 4);
    return fabsf(min) > d ? min : d;
}

static float write_q4_1(const float *x, uint8_t *out) {
    return write_range(x, 15, out);
}
static float write_q5_1(const float *x, uint8_t *out) {
    return write_range(x, 31, out);
}

typedef float (*write_block_fn)(const float *values, uint8_t *out);

static write_block_fn writer_of(peft_dtype dtype) {
    switch (dtype) {
    case PEFT_DTYPE_Q8_0:
        return write_q8_0;
    case PEFT_DTYPE_Q4_0:
        return write_q4_0;
    case PEFT_DTYPE_Q4_1:
        return write_q4_1;
    case PEFT_DTYPE_Q5_0:
        return write_q5_0;
    case PEFT_DTYPE_Q5_1:
        return write_q5_1;
    default:
        return NULL;
    }
}

static peft_status quantize_blocks(peft_context *ctx, peft_dtype dtype, write_block_fn write_block, const float *values,
                                   int64_t count, uint8_t *out) {
    const size_t bytes = peft__dtype_block_bytes(dtype);
    if (count % BLOCK != 0)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%lld elements are not whole blocks of %d of type %s", (long long)count,
                          BLOCK, peft_dtype_name(dtype));
    for (int64_t i = 0; i < count; i += BLOCK, out += bytes) {
        for (int j = 0; j < BLOCK; j++)
            if (!isfinite(values[i + j]))
                return peft__fail(ctx, PEFT_E_NONFINITE, "element %lld is not finite and cannot be stored as %s",
                                  (long long)(i + j), peft_dtype_name(dtype));
        const float scale = write_block(values + i, out);
        if (!(fabsf(scale) < 65520.0f))
            return peft__fail(ctx, PEFT_E_NONFINITE, "elements %lld to %lld are too large for the half scale of %s",
                              (long long)i, (long long)(i + BLOCK - 1), peft_dtype_name(dtype));
    }
    return PEFT_OK;
}

peft_status peft__quantize(peft_context *ctx, peft_dtype dtype, const float *values, int64_t count, void *out_blocks) {
    uint8_t *out = out_blocks;
    const write_block_fn write_block = writer_of(dtype);
    if (count < 0) return peft__fail(ctx, PEFT_E_ARG, "a negative count of elements");
    if (count == 0) return PEFT_OK;
    if (write_block != NULL) return quantize_blocks(ctx, dtype, write_block, values, count, out);
    switch (dtype) {
    case PEFT_DTYPE_F32:
        memcpy(out, values, (size_t)count * sizeof *values);
        return PEFT_OK;
    case PEFT_DTYPE_F64:
        for (int64_t i = 0; i < count; i++) {
            const double value = values[i];
            memcpy(out + 8 * i, &value, sizeof value);
        }
        return PEFT_OK;
    case PEFT_DTYPE_F16:
    case PEFT_DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) {
            const uint16_t half = dtype == PEFT_DTYPE_F16 ? peft__f32_to_f16(values[i]) : peft__f32_to_bf16(values[i]);
            memcpy(out + 2 * i, &half, sizeof half);
        }
        return PEFT_OK;
    default:
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "writing type %s is not supported; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 are",
                          peft_dtype_name(dtype));
    }
}
