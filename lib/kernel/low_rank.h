/* low_rank.h: products in which one side has only a few rows (the rank of an adapter).
 *
 * A dense product packs both sides and multiplies tiles of 32 by 12: with a rank of 8 most of that is waste. These
 * three need no packing and take any rank; together they are all that an adapter and its backward pass compute:
 *
 *   reduce   U = X A^T        short dot products, several rows of X times several of A in registers
 *   expand   Y += U A         a few rows of A added to each row of Y
 *   gather   D += U^T X       sums over rows, in their order
 */
#ifndef PEFT_KERNEL_LOW_RANK_H
#define PEFT_KERNEL_LOW_RANK_H

#include "base/base.h"

typedef struct peft__low_rank {
    /* u[n, i] = scale * sum_k x[n, k] a[i, k] for n < rows, i < rank, k < depth. */
    void (*reduce)(const float *x, int64_t ldx, int64_t rows, const float *a, int64_t lda, int64_t rank, int64_t depth,
                   float scale, float *u, int64_t ldu);
    /* y[n, c] = (keep ? y[n, c] : 0) + sum_i u[n, i] a[i, c] for c < cols. */
    void (*expand)(const float *u, int64_t ldu, int64_t rows, const float *a, int64_t lda, int64_t rank, int64_t cols,
                   bool keep, float *y, int64_t ldy);
    /* d[i * di + c * dc] = (keep ? itself : 0) + scale * sum_n u[n, i] x[n, c]. Either di or dc is 1. */
    void (*gather)(const float *u, int64_t ldu, int64_t rows, const float *x, int64_t ldx, int64_t rank, int64_t cols,
                   float scale, bool keep, float *d, int64_t di, int64_t dc);
} peft__low_rank;

const peft__low_rank *peft__low_rank_for(uint32_t cpu);

extern const peft__low_rank peft__low_rank_generic, peft__low_rank_avx2, peft__low_rank_avx512;

/* bt[i, j] = scale * b[j, i] for j < count, i < rank. */
void peft__low_rank_turn(const float *b, int64_t ldb, int64_t count, int64_t rank, float scale, float *bt, int64_t ldt);

#endif
