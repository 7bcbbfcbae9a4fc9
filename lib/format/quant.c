/* quant.c: the reference reading of stored types. One function per block type, written to be compared with the layout
 * table in docs/formats.md, not to be fast: kernels have their own vector versions, checked against these.
 *
 * Values equal those of ggml bit for bit; therefore scale products are formed first (dl = d * scale), as there.
 */
#include "base/half.h"
#include "format/tensor.h"

enum { BLOCK = 32, SUPER = 256 };

static uint16_t load16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t load32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static float half_at(const uint8_t *at) {
    return peft__f16_to_f32(load16(at));
}

static void read_q8_0(const uint8_t *b, float *out) {
    const float d = half_at(b);
    for (int j = 0; j < BLOCK; j++) out[j] = d * (float)(int8_t)b[2 + j];
}

static void read_q4_0(const uint8_t *b, float *out) {
    const float d = half_at(b);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((b[2 + j] & 15) - 8);
        out[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

static void read_q4_1(const uint8_t *b, float *out) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)(b[4 + j] & 15) + m;
        out[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

static void read_q5_0(const uint8_t *b, float *out) {
    const float d = half_at(b);
    const uint32_t high = load32(b + 2);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((int)((b[6 + j] & 15u) | (high >> j & 1u) << 4) - 16);
        out[j + 16] = d * (float)((int)((b[6 + j] >> 4) | (high >> (j + 16) & 1u) << 4) - 16);
    }
}

static void read_q5_1(const uint8_t *b, float *out) {
    const float d = half_at(b), m = half_at(b + 2);
    const uint32_t high = load32(b + 4);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((b[8 + j] & 15u) | (high >> j & 1u) << 4) + m;
        out[j + 16] = d * (float)((uint32_t)(b[8 + j] >> 4) | (high >> (j + 16) & 1u) << 4) + m;
    }
}

/* 16 sub-blocks of 16: scales[16] (scale | min << 4), qs[64] of 2 bits, d, dmin. */
static void read_q2_k(const uint8_t *b, float *out) {
    const uint8_t *scales = b, *qs = b + 16;
    const float d = half_at(b + 80), dmin = half_at(b + 82);
    int s = 0;
    for (int half = 0; half < 2; half++, qs += 32)
        for (int shift = 0; shift < 8; shift += 2)
            for (int part = 0; part < 2; part++, s++) {
                const float dl = d * (float)(scales[s] & 15), ml = dmin * (float)(scales[s] >> 4);
                for (int l = 0; l < 16; l++) *out++ = dl * (float)(qs[part * 16 + l] >> shift & 3) - ml;
            }
}

/* hmask[32], qs[64] of 2 bits, 16 scales of 6 bits in 12 bytes, d. A clear bit of hmask subtracts 4. */
static void read_q3_k(const uint8_t *b, float *out) {
    const uint8_t *hmask = b, *qs = b + 32;
    const float d = half_at(b + 108);
    const uint32_t a0 = load32(b + 96), a1 = load32(b + 100), top = load32(b + 104);
    const uint32_t two = 0x03030303u, four = 0x0f0f0f0fu;
    const uint32_t words[4] = {(a0 & four) | (top & two) << 4, (a1 & four) | (top >> 2 & two) << 4,
                               (a0 >> 4 & four) | (top >> 4 & two) << 4, (a1 >> 4 & four) | (top >> 6 & two) << 4};
    int s = 0;
    unsigned mask = 1;
    for (int half = 0; half < 2; half++, qs += 32)
        for (int shift = 0; shift < 8; shift += 2, mask <<= 1)
            for (int part = 0; part < 2; part++, s++) {
                const float dl = d * (float)((int)(words[s / 4] >> (s % 4 * 8) & 255u) - 32);
                for (int l = part * 16; l < part * 16 + 16; l++)
                    *out++ = dl * (float)((qs[l] >> shift & 3) - ((hmask[l] & mask) != 0 ? 0 : 4));
            }
}

/* Pair j of the eight 6-bit (scale, min) pairs in 12 bytes. */
static void pair_of(const uint8_t *q, int j, uint8_t *out_scale, uint8_t *out_min) {
    if (j < 4) {
        *out_scale = q[j] & 63;
        *out_min = q[j + 4] & 63;
    } else {
        *out_scale = (uint8_t)((q[j + 4] & 15) | (q[j - 4] >> 6) << 4);
        *out_min = (uint8_t)((q[j + 4] >> 4) | (q[j] >> 6) << 4);
    }
}

/* d, dmin, pairs[12], (Q5_K: qh[32] for the fifth bits), qs[128]: 64 elements from every 32 bytes. */
static void read_q45_k(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *out) {
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int group = 0; group < 8; group++) {
        uint8_t scale = 0, min = 0;
        pair_of(b + 4, group, &scale, &min);
        const float dl = d * (float)scale, ml = dmin * (float)min;
        const uint8_t *q = qs + group / 2 * 32;
        for (int l = 0; l < 32; l++) {
            const int low = group % 2 == 0 ? q[l] & 15 : q[l] >> 4;
            const int high = qh != NULL && (qh[l] >> group & 1) != 0 ? 16 : 0;
            *out++ = dl * (float)(low + high) - ml;
        }
    }
}

static void read_q4_k(const uint8_t *b, float *out) {
    read_q45_k(b, NULL, b + 16, out);
}
static void read_q5_k(const uint8_t *b, float *out) {
    read_q45_k(b, b + 16, b + 48, out);
}

/* ql[128] of 4 bits, qh[64] of 2 bits, int8 scales[16], d. */
static void read_q6_k(const uint8_t *b, float *out) {
    const float d = half_at(b + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = b + half * 64, *qh = b + 128 + half * 32, *scales = b + 192 + half * 8;
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++) {
                const uint8_t byte = ql[l + part % 2 * 32];
                const int low = part < 2 ? byte & 15 : byte >> 4;
                const int q = (low | (qh[l] >> (2 * part) & 3) << 4) - 32;
                *out++ = d * (float)(int8_t)scales[l / 16 + 2 * part] * (float)q;
            }
    }
}

typedef void (*read_block_fn)(const uint8_t *block, float *out);

static read_block_fn reader_of(peft_dtype dtype) {
    switch (dtype) {
    case PEFT_DTYPE_Q8_0:
        return read_q8_0;
    case PEFT_DTYPE_Q4_0:
        return read_q4_0;
    case PEFT_DTYPE_Q4_1:
        return read_q4_1;
    case PEFT_DTYPE_Q5_0:
        return read_q5_0;
    case PEFT_DTYPE_Q5_1:
        return read_q5_1;
    case PEFT_DTYPE_Q2_K:
        return read_q2_k;
    case PEFT_DTYPE_Q3_K:
        return read_q3_k;
    case PEFT_DTYPE_Q4_K:
        return read_q4_k;
    case PEFT_DTYPE_Q5_K:
        return read_q5_k;
    case PEFT_DTYPE_Q6_K:
        return read_q6_k;
    default:
        return NULL;
    }
}

void peft__dequantize(peft_dtype dtype, const void *blocks, int64_t count, float *out) {
    const uint8_t *at = blocks;
    if (count <= 0) return;
    switch (dtype) {
    case PEFT_DTYPE_F32:
        memcpy(out, at, (size_t)count * sizeof *out);
        return;
    case PEFT_DTYPE_F16:
        for (int64_t i = 0; i < count; i++) out[i] = half_at(at + 2 * i);
        return;
    case PEFT_DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) out[i] = peft__bf16_to_f32(load16(at + 2 * i));
        return;
    case PEFT_DTYPE_F64:
        for (int64_t i = 0; i < count; i++) {
            double value;
            memcpy(&value, at + 8 * i, sizeof value);
            out[i] = (float)value;
        }
        return;
    default:
        break;
    }
    const read_block_fn read_block = reader_of(dtype);
    const int64_t block = peft__dtype_block(dtype);
    const size_t bytes = peft__dtype_block_bytes(dtype);
    if (read_block == NULL) {
        memset(out, 0, (size_t)count * sizeof *out); /* not a float type: callers checked */
        return;
    }
    for (int64_t i = 0; i + block <= count; i += block, at += bytes) read_block(at, out + i);
}
