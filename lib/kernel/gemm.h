/* gemm.h: dense products in three moves: pack the feature side, pack the token side, sweep micro-tiles.
 *
 * All products of a transformer step have the form C[tokens, features] = beta C + sum_k X[token, k] W[feature, k]; what
 * differs is where X and W come from. So there is no "gemm call" here but its parts, which operations put
 * together over tiles of their own, sharing packed panels between products and widening stored types on the way:
 *
 *   token panel    [k][tokens]    `tokens` rows of C, one panel behind the other
 *   feature panel  [k][features]  `features` neighbouring columns of C
 *   micro kernel   multiplies one panel with one panel into a micro-tile of C
 *
 * Micro-kernels are those of BLIS (called directly: no context lookup, no allocation, no thread, no abort path of BLIS
 * is ever entered) or, where they are not in the archive and on CPUs without AVX2, our own (gemm_micro.inc). Which one
 * is a function of (cpu, rows of the whole product) only, never of a worker's share: same bits for any number of
 * threads.
 *
 * Panels are padded with zeros to full width; `c` is only touched inside the valid part.
 */
#ifndef PEFT_KERNEL_GEMM_H
#define PEFT_KERNEL_GEMM_H

#include "kernel/matrix.h"

typedef struct peft__gemm peft__gemm;

/* Everything of one micro-tile, fewer than full rows or columns included. beta is 0 or 1; with 0 C is not read. */
typedef void (*peft__gemm_micro_fn)(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth,
                                    const float *w, const float *x, float beta, float *c, int64_t ldc,
                                    const float *next_w, const float *next_x);

struct peft__gemm {
    uint32_t cpu;
    int32_t features; /* panel width, at most PEFT__GEMM_MAX_FEATURES */
    int32_t tokens;   /* panel width, at most PEFT__GEMM_MAX_TOKENS, divides PEFT__GEMM_TOKEN_CHUNK */
    peft__gemm_micro_fn micro;
};

enum {
    PEFT__GEMM_MAX_FEATURES = 32,
    PEFT__GEMM_MAX_TOKENS = 12,
    PEFT__GEMM_TOKEN_CHUNK = 48, /* multiple of every panel width: cut rows at multiples of this */
    PEFT__GEMM_DEPTH = 384       /* most of k between two visits of C: a token panel stays in the first-level cache */
};

/* The kernel for a product with this many rows. */
peft__gemm peft__gemm_for(uint32_t cpu, int64_t rows);
/* Our own micro-kernel even where BLIS has one (tests). */
peft__gemm peft__gemm_own(uint32_t cpu);

/* Length of the piece of k that starts at k0: pieces are equal to within 32 and at most PEFT__GEMM_DEPTH. */
int64_t peft__gemm_depth(int64_t k, int64_t k0);

/* Floats of packed panels for any kernel: `count` rows (or features) of `depth`. */
static inline size_t peft__gemm_token_floats(int64_t count, int64_t depth) {
    return (size_t)((count + PEFT__GEMM_MAX_TOKENS - 1) * depth);
}
static inline size_t peft__gemm_feature_floats(int64_t count, int64_t depth) {
    return (size_t)((count + PEFT__GEMM_MAX_FEATURES - 1) * depth);
}
/* Scratch floats of peft__gemm_pack_features and its transposed form. */
static inline size_t peft__gemm_pack_scratch(void) {
    return (size_t)PEFT__GEMM_MAX_FEATURES * (PEFT__GEMM_DEPTH + 16);
}

/* Rows [0, count) of x [count, depth] (ld apart) into token panels; panel p begins at out + p * tokens * depth. */
void peft__gemm_pack_tokens(const peft__gemm *gemm, const float *x, int64_t ld, int64_t count, int64_t depth,
                            float *out);
/* The same from x [depth, count]: column i is token i. */
void peft__gemm_pack_tokens_t(const peft__gemm *gemm, const float *x, int64_t ld, int64_t count, int64_t depth,
                              float *out);

/* One panel from rows anywhere: out[k * width + i] = rows[i][k] for i < count <= width, 0 for the other i. */
void peft__gemm_turn_rows(const float *const *rows, int64_t count, int64_t width, int64_t depth, float *out);
/* The same for rows `ld` apart; width at most PEFT__GEMM_MAX_FEATURES. */
void peft__gemm_turn(const float *x, int64_t ld, int64_t count, int64_t width, int64_t depth, float *out);

/* Rows [f0, f0 + count) and columns [k0, k0 + depth) of the logical matrix into feature panels, each feature a row. */
void peft__gemm_pack_features(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                              int64_t depth, float *scratch, float *out);
/* Each feature a column: rows [k0, k0 + depth), columns [f0, f0 + count). depth at most PEFT__GEMM_DEPTH. */
void peft__gemm_pack_features_t(const peft__gemm *gemm, const peft__matrix *m, int64_t f0, int64_t count, int64_t k0,
                                int64_t depth, float *scratch, float *out);

/* C[count tokens, features] = beta C + X W over `depth`. w: feature panels of this depth; x: token panels `x_stride`
 * floats apart, beginning at the wanted k. */
void peft__gemm_sweep(const peft__gemm *gemm, const float *w, int64_t features, const float *x, int64_t x_stride,
                      int64_t count, int64_t depth, float beta, float *c, int64_t ldc);

/* ---- own micro-kernels, one per instruction set (gemm_micro.inc) */
void peft__gemm_micro_generic(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth, const float *w,
                              const float *x, float beta, float *c, int64_t ldc, const float *next_w,
                              const float *next_x);
void peft__gemm_micro_avx2(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth, const float *w,
                           const float *x, float beta, float *c, int64_t ldc, const float *next_w, const float *next_x);
void peft__gemm_micro_avx512(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth, const float *w,
                             const float *x, float beta, float *c, int64_t ldc, const float *next_w,
                             const float *next_x);

#endif
