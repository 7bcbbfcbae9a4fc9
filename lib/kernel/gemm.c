/* gemm.c: choice of the micro-kernel, packing and the sweep over micro-tiles. */
#include "kernel/gemm.h"

#include "kernel/gemm_blis.h"
#include "kernel/widen.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Up to this many rows the narrow kernel wastes less on padding its last panel than the wide one gains. */
enum { FEW_ROWS = 24, AHEAD = 8 };

peft__gemm peft__gemm_own(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) return (peft__gemm){cpu, 32, 12, peft__gemm_micro_avx512};
    if (cpu >= PEFT_CPU_AVX2) return (peft__gemm){cpu, 16, 6, peft__gemm_micro_avx2};
#endif
    return (peft__gemm){cpu, 8, 4, peft__gemm_micro_generic};
}

peft__gemm peft__gemm_for(uint32_t cpu, int64_t rows) {
    peft__gemm gemm;
    if (peft__gemm_blis(cpu, rows <= FEW_ROWS, &gemm)) return gemm;
    gemm = peft__gemm_own(rows <= FEW_ROWS ? (uint32_t)peft__min_i64(cpu, PEFT_CPU_AVX2) : cpu);
    gemm.cpu = cpu;
    return gemm;
}

int64_t peft__gemm_depth(int64_t k, int64_t k0) {
    const int64_t pieces = peft__ceil_div(k, PEFT__GEMM_DEPTH);
    const int64_t piece = peft__ceil_div(peft__ceil_div(k, pieces), 32) * 32;
    return peft__min_i64(piece, k - k0);
}

/* ---- packing ------------------------------------------------------------------------------------------- */

void peft__gemm_turn_rows(const float *const *rows, int64_t count, int64_t width, int64_t depth, float *out) {
    int64_t k = 0;
#if defined(__SSE2__)
    const int64_t quads = count / 4 * 4;
    for (; k + 4 <= depth; k += 4) {
        float *to = out + k * width;
        int64_t i = 0;
        for (; i < quads; i += 4) {
            __m128 a = _mm_loadu_ps(rows[i] + k), b = _mm_loadu_ps(rows[i + 1] + k);
            __m128 c = _mm_loadu_ps(rows[i + 2] + k), d = _mm_loadu_ps(rows[i + 3] + k);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(to + i, a);
            _mm_storeu_ps(to + width + i, b);
            _mm_storeu_ps(to + 2 * width + i, c);
            _mm_storeu_ps(to + 3 * width + i, d);
        }
        for (; i < count; i++)
            for (int64_t j = 0; j < 4; j++) to[j * width + i] = rows[i][k + j];
        for (; i < width; i++)
            for (int64_t j = 0; j < 4; j++) to[j * width + i] = 0.0f;
    }
#endif
    for (; k < depth; k++) {
        for (int64_t i = 0; i < count; i++) out[k * width + i] = rows[i][k];
        for (int64_t i = count; i < width; i++) out[k * width + i] = 0.0f;
    }
}

void peft__gemm_turn(const float *x, int64_t ld, int64_t count, int64_t width, int64_t depth, float *out) {
    const float *rows[PEFT__GEMM_MAX_FEATURES];
    for (int64_t i = 0; i < count; i++) rows[i] = x + i * ld;
    peft__gemm_turn_rows(rows, count, width, depth, out);
}

/* Rows of [depth, count], `step` floats apart, into panels of `width`, which are `panel` floats apart. A copy of
 * constant length is a few vector moves, so every width has its own. */
static inline __attribute__((always_inline)) void scatter(const float *row, int64_t step, int64_t count, int64_t depth,
                                                          const int64_t width, int64_t panel, float *out) {
    const int64_t whole = count / width, rest = count % width;
    for (int64_t k = 0; k < depth; k++, row += step, out += width) {
        float *to = out;
        const float *from = row;
        /* Short pieces of far rows: the hardware sees no stream. */
        if (k + AHEAD < depth)
            for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(row + AHEAD * step + i);
        for (int64_t i = 0; i < whole; i++, from += width, to += panel) memcpy(to, from, (size_t)width * sizeof(float));
        if (rest != 0) {
            memcpy(to, from, (size_t)rest * sizeof(float));
            memset(to + rest, 0, (size_t)(width - rest) * sizeof(float));
        }
    }
}

static void scatter_rows(const float *row, int64_t step, int64_t count, int64_t depth, int64_t width, int64_t panel,
                         float *out) {
    switch (width) {
    case 32:
        scatter(row, step, count, depth, 32, panel, out);
        break;
    case 16:
        scatter(row, step, count, depth, 16, panel, out);
        break;
    case 12:
        scatter(row, step, count, depth, 12, panel, out);
        break;
    case 8:
        scatter(row, step, count, depth, 8, panel, out);
        break;
    case 6:
        scatter(row, step, count, depth, 6, panel, out);
        break;
    default:
        scatter(row, step, count, depth, width, panel, out);
        break;
    }
}

void peft__gemm_pack_tokens(const peft__gemm *gemm, const float *x, int64_t ld, int64_t count, int64_t depth,
                            float *out) {
    const int64_t width = gemm->tokens;
    for (int64_t first = 0; first < count; first += width, out += width * depth) {
        peft__gemm_turn(x + first * ld, ld, peft__min_i64(width, count - first), width, depth, out);
    }
}

void peft__gemm_pack_tokens_t(const peft__gemm *gemm, const float *x, int64_t ld, int64_t count, int64_t depth,
                              float *out) {
    scatter_rows(x, ld, count, depth, gemm->tokens, gemm->tokens * depth, out);
}

/* Stored rows are features: widen a panel's worth of row segments, then turn them. */
static void pack_by_rows(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                         int64_t depth, float *scratch, float *out) {
    const int64_t width = gemm->features, ld = PEFT__GEMM_DEPTH + 16;
    for (int64_t first = 0; first < count; first += width) {
        const int64_t here = peft__min_i64(width, count - first);
        for (int64_t done = 0; done < depth; done += PEFT__GEMM_DEPTH) {
            const int64_t part = peft__min_i64(PEFT__GEMM_DEPTH, depth - done);
            const float *rows[PEFT__GEMM_MAX_FEATURES];
            for (int64_t i = 0; i < here; i++) {
                rows[i] = scratch + i * ld;
                peft__widen(gemm->cpu, m->dtype, peft__matrix_row(m, f0 + first + i), k0 + done, part,
                            scratch + i * ld);
            }
            peft__gemm_turn_rows(rows, here, width, part, out + done * width);
        }
        out += width * depth;
    }
}

/* Stored rows run along the features: each is a piece of every panel. */
static void pack_by_columns(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                            int64_t depth, float *scratch, float *out) {
    const int64_t width = gemm->features, most = (int64_t)peft__gemm_pack_scratch() / width * width;
    if (m->dtype == PEFT_DTYPE_F32 && m->interleave == 0 && ((uintptr_t)m->data | m->stride) % sizeof(float) == 0) {
        const float *from = (const float *)(const void *)(m->data + (size_t)k0 * m->stride) + f0;
        scatter_rows(from, (int64_t)(m->stride / sizeof(float)), count, depth, width, width * depth, out);
        return;
    }
    for (int64_t first = 0; first < count; first += most) {
        const int64_t here = peft__min_i64(most, count - first);
        for (int64_t k = 0; k < depth; k++) {
            peft__widen(gemm->cpu, m->dtype, peft__matrix_row(m, k0 + k), f0 + first, here, scratch);
            scatter_rows(scratch, 0, here, 1, width, width * depth, out + first * depth + k * width);
        }
    }
}

void peft__gemm_pack_features(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                              int64_t depth, float *scratch, float *out) {
    if (m->transposed)
        pack_by_columns(gemm, m, f0, count, k0, depth, scratch, out);
    else
        pack_by_rows(gemm, m, f0, count, k0, depth, scratch, out);
}

void peft__gemm_pack_features_t(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                                int64_t depth, float *scratch, float *out) {
    if (m->transposed)
        pack_by_rows(gemm, m, f0, count, k0, depth, scratch, out);
    else
        pack_by_columns(gemm, m, f0, count, k0, depth, scratch, out);
}

/* ---- the sweep ------------------------------------------------------------------------------------------ */

/* The token panel stays in the first-level cache while the feature panels, in the second, pass by. */
void peft__gemm_sweep(const peft__gemm *gemm, const float *w, int64_t features, const float *x, int64_t x_stride,
                      int64_t count, int64_t depth, float beta, float *c, int64_t ldc) {
    const int64_t wide = gemm->features, tall = gemm->tokens;
    for (int64_t t = 0; t < count; t += tall, x += x_stride, c += tall * ldc) {
        const float *panel = w;
        for (int64_t f = 0; f < features; f += wide, panel += wide * depth) {
            const bool last = f + wide >= features;
            gemm->micro(gemm, peft__min_i64(wide, features - f), peft__min_i64(tall, count - t), depth, panel, x, beta,
                        c + f, ldc, last ? w : panel + wide * depth, last && t + tall < count ? x + x_stride : x);
        }
    }
}
