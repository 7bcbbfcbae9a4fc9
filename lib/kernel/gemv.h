/* gemv.h: products for a handful of rows (generation, one sequence at a time).
 *
 * With so few rows a product only reads the weights: packing them would cost more than using them. Rows are read in
 * their stored type and multiplied on the way.
 */
#ifndef PEFT_KERNEL_GEMV_H
#define PEFT_KERNEL_GEMV_H

#include "kernel/matrix.h"

enum { PEFT__GEMV_ROWS = 4 };

/* y[i, r - r0] = sum_c x[i, c] W[r, c] for r0 <= r < r1 and i < n <= PEFT__GEMV_ROWS. */
void peft__gemv(uint32_t cpu, const peft__matrix *w, int64_t r0, int64_t r1, const float *x, int64_t ldx, int64_t n,
                float *y, int64_t ldy);

/* ---- variants (gemv.inc): sum[i] += x[i, 0..count) . w, and y[i, 0..count) += x[i] w */
void peft__gemv_dot_generic(const float *w, const float *x, int64_t ldx, int64_t n, int64_t count, float *sum);
void peft__gemv_dot_avx2(const float *w, const float *x, int64_t ldx, int64_t n, int64_t count, float *sum);
void peft__gemv_dot_avx512(const float *w, const float *x, int64_t ldx, int64_t n, int64_t count, float *sum);
void peft__gemv_axpy_generic(float factor, const float *w, int64_t count, float *y);
void peft__gemv_axpy_avx2(float factor, const float *w, int64_t count, float *y);
void peft__gemv_axpy_avx512(float factor, const float *w, int64_t count, float *y);

#endif
