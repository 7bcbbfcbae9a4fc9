/* gemv.c: products for a handful of rows: walks the stored matrix a piece at a time. */
#include "kernel/gemv.h"

#include "kernel/widen.h"

enum { PIECE = 512 }; /* a whole number of blocks of every type */

typedef void (*dot_fn)(const float *, const float *, int64_t, int64_t, int64_t, float *);
typedef void (*axpy_fn)(float, const float *, int64_t, float *);

static dot_fn choose_dot(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) return peft__gemv_dot_avx512;
    if (cpu >= PEFT_CPU_AVX2) return peft__gemv_dot_avx2;
#endif
    (void)cpu;
    return peft__gemv_dot_generic;
}

static axpy_fn choose_axpy(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) return peft__gemv_axpy_avx512;
    if (cpu >= PEFT_CPU_AVX2) return peft__gemv_axpy_avx2;
#endif
    (void)cpu;
    return peft__gemv_axpy_generic;
}

/* Stored [cols, rows]: y gathers one stored row per column of x. */
static void by_columns(uint32_t cpu, const peft__matrix *w, int64_t r0, int64_t r1, const float *x, int64_t ldx,
                       int64_t n, float *y, int64_t ldy) {
    const axpy_fn axpy = choose_axpy(cpu);
    float piece[PIECE];
    for (int64_t i = 0; i < n; i++) memset(y + i * ldy, 0, (size_t)(r1 - r0) * sizeof(float));
    for (int64_t first = r0; first < r1; first += PIECE) {
        const int64_t here = peft__min_i64(PIECE, r1 - first);
        for (int64_t c = 0; c < w->cols; c++) {
            peft__widen(cpu, w->dtype, peft__matrix_row(w, c), first, here, piece);
            for (int64_t i = 0; i < n; i++) axpy(x[i * ldx + c], piece, here, y + i * ldy + (first - r0));
        }
    }
}

void peft__gemv(uint32_t cpu, const peft__matrix *w, int64_t r0, int64_t r1, const float *x, int64_t ldx, int64_t n,
                float *y, int64_t ldy) {
    if (w->transposed) {
        by_columns(cpu, w, r0, r1, x, ldx, n, y, ldy);
        return;
    }
    const dot_fn dot = choose_dot(cpu);
    const bool floats = w->dtype == PEFT_DTYPE_F32 && ((uintptr_t)w->data | w->stride) % sizeof(float) == 0;
    float piece[PIECE];
    for (int64_t r = r0; r < r1; r++) {
        const uint8_t *row = peft__matrix_row(w, r);
        float sum[PEFT__GEMV_ROWS] = {0};
        if (floats) dot((const float *)(const void *)row, x, ldx, n, w->cols, sum);
        for (int64_t c = 0; c < w->cols && !floats; c += PIECE) {
            const int64_t here = peft__min_i64(PIECE, w->cols - c);
            peft__widen(cpu, w->dtype, row, c, here, piece);
            dot(piece, x + c, ldx, n, here, sum);
        }
        for (int64_t i = 0; i < n; i++) y[i * ldy + (r - r0)] = sum[i];
    }
}
