/* simd_math.h: comparisons, rounding and elementary functions on vectors, for kernel templates.
 *
 * The functions are our own polynomials, because libm has no vector form that may be relied on and differs between
 * systems. exp is within 2 ulp; the others are built on it without cancellation: tanh on expm1, the normal
 * distribution on log(erfc), so that small results keep their relative accuracy. Coefficients are weighted minimax
 * fits. NaN passes through everything. Results below 1e-37 are zero: subnormal numbers would only make what follows
 * slow.
 */
#ifndef PEFT_KERNEL_SIMD_MATH_H
#define PEFT_KERNEL_SIMD_MATH_H

#include <math.h>

#include "kernel/simd.h"

#define PEFT_INLINE static inline __attribute__((always_inline, unused))

typedef int32_t peft__ivec __attribute__((vector_size(PEFT_WIDTH * 4)));
typedef uint32_t peft__uvec __attribute__((vector_size(PEFT_WIDTH * 4)));

#if PEFT_WIDTH == 16
/* a < b ? x : y in each element; false where either is NaN. */
PEFT_INLINE peft__vec peft__vec_less(peft__vec a, peft__vec b, peft__vec x, peft__vec y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* Where either is NaN: b. */
PEFT_INLINE peft__vec peft__vec_max(peft__vec a, peft__vec b) {
    return _mm512_max_ps(a, b);
}
PEFT_INLINE peft__vec peft__vec_min(peft__vec a, peft__vec b) {
    return _mm512_min_ps(a, b);
}
PEFT_INLINE peft__vec peft__vec_round(peft__vec x) {
    return _mm512_roundscale_ps(x, 8);
}
PEFT_INLINE peft__vec peft__vec_sqrt(peft__vec x) {
    return _mm512_sqrt_ps(x);
}
/* x 2^n for whole n in -125 .. 128. */
PEFT_INLINE peft__vec peft__vec_ldexp(peft__vec x, peft__vec n) {
    return _mm512_scalef_ps(x, n);
}

#elif PEFT_WIDTH == 8
PEFT_INLINE peft__vec peft__vec_less(peft__vec a, peft__vec b, peft__vec x, peft__vec y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
PEFT_INLINE peft__vec peft__vec_max(peft__vec a, peft__vec b) {
    return _mm256_max_ps(a, b);
}
PEFT_INLINE peft__vec peft__vec_min(peft__vec a, peft__vec b) {
    return _mm256_min_ps(a, b);
}
PEFT_INLINE peft__vec peft__vec_round(peft__vec x) {
    return _mm256_round_ps(x, 8);
}
PEFT_INLINE peft__vec peft__vec_sqrt(peft__vec x) {
    return _mm256_sqrt_ps(x);
}

#else
PEFT_INLINE peft__vec peft__vec_less(peft__vec a, peft__vec b, peft__vec x, peft__vec y) {
    const peft__ivec mask = (peft__ivec)(a < b);
    return (peft__vec)((mask & (peft__ivec)x) | (~mask & (peft__ivec)y));
}
PEFT_INLINE peft__vec peft__vec_max(peft__vec a, peft__vec b) {
    return peft__vec_less(b, a, a, b);
}
PEFT_INLINE peft__vec peft__vec_min(peft__vec a, peft__vec b) {
    return peft__vec_less(a, b, a, b);
}
/* To nearest by adding 1.5 * 2^23; good below 2^22. */
PEFT_INLINE peft__vec peft__vec_round(peft__vec x) {
    const peft__vec magic = peft__vec_set(12582912.0f);
    return (x + magic) - magic;
}
PEFT_INLINE peft__vec peft__vec_sqrt(peft__vec x) {
    for (int i = 0; i < PEFT_WIDTH; i++) x[i] = sqrtf(x[i]);
    return x;
}
#endif

#if PEFT_WIDTH != 16
PEFT_INLINE peft__vec peft__vec_ldexp(peft__vec x, peft__vec n) {
    /* In two factors: 2^128 alone is not a float. */
    const peft__ivec power = (__builtin_convertvector(n, peft__ivec) + 126) << 23;
    return x * (peft__vec)power * peft__vec_set(2.0f);
}
#endif

PEFT_INLINE peft__vec peft__vec_abs(peft__vec x) {
    return (peft__vec)((peft__ivec)x & 0x7fffffff);
}
/* The magnitude of x with the sign of s. */
PEFT_INLINE peft__vec peft__vec_copysign(peft__vec x, peft__vec s) {
    return (peft__vec)(((peft__ivec)x & 0x7fffffff) | ((peft__ivec)s & (int32_t)0x80000000u));
}

/* Up to PEFT_WIDTH elements at p when `left` remain: the loop form of every row kernel. */
PEFT_INLINE peft__vec peft__vec_get(const float *p, int64_t left) {
    return left >= PEFT_WIDTH ? peft__vec_load(p) : peft__vec_load_n(p, left);
}
PEFT_INLINE void peft__vec_put(float *p, peft__vec v, int64_t left) {
    if (left >= PEFT_WIDTH)
        peft__vec_store(p, v);
    else
        peft__vec_store_n(p, v, left);
}
/* Overwrites, or adds. */
PEFT_INLINE void peft__vec_give(float *p, peft__vec v, int64_t left, _Bool accumulate) {
    if (accumulate) v = v + peft__vec_get(p, left);
    peft__vec_put(p, v, left);
}

/* x = n ln 2 + r, |r| <= ln 2 / 2, and expm1(r) to 3e-9. */
PEFT_INLINE peft__vec peft__vec_expm1_reduced(peft__vec x, peft__vec *out_n) {
    const peft__vec n = peft__vec_round(x * peft__vec_set(1.44269504f));
    peft__vec r = peft__vec_fma(n, peft__vec_set(-0.693359375f), x); /* exact: few bits */
    r = peft__vec_fma(n, peft__vec_set(2.12194440e-4f), r);
    peft__vec p = peft__vec_set(0.0013950599823147058f);
    p = peft__vec_fma(p, r, peft__vec_set(0.008368954062461853f));
    p = peft__vec_fma(p, r, peft__vec_set(0.04166620597243309f));
    p = peft__vec_fma(p, r, peft__vec_set(0.166665181517601f));
    p = peft__vec_fma(p, r, peft__vec_set(0.5f));
    *out_n = n;
    return peft__vec_fma(p, r * r, r);
}

PEFT_INLINE peft__vec peft__vec_exp(peft__vec x) {
    const peft__vec lowest = peft__vec_set(-86.5f);
    peft__vec n;
    const peft__vec clamped = peft__vec_min(peft__vec_set(89.0f), peft__vec_max(lowest, x));
    const peft__vec e = peft__vec_expm1_reduced(clamped, &n);
    return peft__vec_less(x, lowest, peft__vec_set(0.0f), peft__vec_ldexp(e + peft__vec_set(1.0f), n));
}

PEFT_INLINE peft__vec peft__vec_sigmoid(peft__vec x) {
    /* 1 / (1 + e^-x), from e^-|x| so that nothing overflows. */
    const peft__vec one = peft__vec_set(1.0f);
    const peft__vec e = peft__vec_exp(peft__vec_set(0.0f) - peft__vec_abs(x));
    const peft__vec small = e / (one + e);
    return peft__vec_less(x, peft__vec_set(0.0f), small, one / (one + e));
}

PEFT_INLINE peft__vec peft__vec_tanh(peft__vec x) {
    const peft__vec one = peft__vec_set(1.0f);
    peft__vec n;
    const peft__vec twice = peft__vec_abs(x) * peft__vec_set(2.0f);
    const peft__vec e = peft__vec_expm1_reduced(peft__vec_min(peft__vec_set(30.0f), twice), &n);
    const peft__vec scale = peft__vec_ldexp(one, n);
    const peft__vec m = peft__vec_fma(e, scale, scale - one); /* expm1(2 |x|) */
    return peft__vec_copysign(m / (m + peft__vec_set(2.0f)), x);
}

/* Normal distribution: P(X < x), without cancellation in the lower tail. */
PEFT_INLINE peft__vec peft__vec_normal_cdf(peft__vec x) {
    const peft__vec t = peft__vec_abs(x) * peft__vec_set(0.70710678f);
    const peft__vec c = peft__vec_min(peft__vec_set(5.0f), t);
    peft__vec q = peft__vec_set(-1.0630768088049081e-07f);
    q = peft__vec_fma(q, c, peft__vec_set(2.664421572262654e-06f));
    q = peft__vec_fma(q, c, peft__vec_set(-2.966420834127348e-05f));
    q = peft__vec_fma(q, c, peft__vec_set(0.00019233726197853684f));
    q = peft__vec_fma(q, c, peft__vec_set(-0.0007831467664800584f));
    q = peft__vec_fma(q, c, peft__vec_set(0.0018404129659757018f));
    q = peft__vec_fma(q, c, peft__vec_set(-0.0002728727995418012f));
    q = peft__vec_fma(q, c, peft__vec_set(-0.01911582238972187f));
    q = peft__vec_fma(q, c, peft__vec_set(0.10277335345745087f));
    q = peft__vec_fma(q, c, peft__vec_set(0.6366191506385803f));
    q = peft__vec_fma(q, c, peft__vec_set(1.128379225730896f));
    /* -log(erfc(t)) = t q(t) */
    peft__vec tail = peft__vec_set(0.5f) * peft__vec_exp(peft__vec_set(0.0f) - t * q);
    tail = peft__vec_less(peft__vec_set(5.0f), t, peft__vec_set(0.0f), tail);
    return peft__vec_less(x, peft__vec_set(0.0f), tail, peft__vec_set(1.0f) - tail);
}

#endif
