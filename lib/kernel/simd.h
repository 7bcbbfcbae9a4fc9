/* simd.h: the few vector operations that kernel templates are written in.
 *
 * A template (*.inc) is compiled once per instruction set, with that set's compiler flags; this header gives it vectors
 * of PEFT_WIDTH floats and PEFT_VARIANT(name) -> name_avx512, name_avx2 or name_generic. The generic form uses 16-byte
 * vectors of the compiler, which every machine with vectors of its own (x86-64, ARM) can do well.
 */
#ifndef PEFT_KERNEL_SIMD_H
#define PEFT_KERNEL_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define PEFT_WIDTH 16
#define PEFT_VARIANT(name) name##_avx512
typedef __m512 peft__vec;
static inline peft__vec peft__vec_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void peft__vec_store(float *p, peft__vec v) {
    _mm512_storeu_ps(p, v);
}
static inline peft__vec peft__vec_set(float x) {
    return _mm512_set1_ps(x);
}
static inline peft__vec peft__vec_add(peft__vec a, peft__vec b) {
    return _mm512_add_ps(a, b);
}
static inline peft__vec peft__vec_mul(peft__vec a, peft__vec b) {
    return _mm512_mul_ps(a, b);
}
static inline peft__vec peft__vec_fma(peft__vec a, peft__vec b, peft__vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* The first n (0..16) elements; others read as 0 and are not touched. */
static inline peft__vec peft__vec_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
static inline void peft__vec_store_n(float *p, peft__vec v, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), v);
}
static inline float peft__vec_sum(peft__vec v) {
    return _mm512_reduce_add_ps(v);
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define PEFT_WIDTH 8
#define PEFT_VARIANT(name) name##_avx2
typedef __m256 peft__vec;
static inline peft__vec peft__vec_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void peft__vec_store(float *p, peft__vec v) {
    _mm256_storeu_ps(p, v);
}
static inline peft__vec peft__vec_set(float x) {
    return _mm256_set1_ps(x);
}
static inline peft__vec peft__vec_add(peft__vec a, peft__vec b) {
    return _mm256_add_ps(a, b);
}
static inline peft__vec peft__vec_mul(peft__vec a, peft__vec b) {
    return _mm256_mul_ps(a, b);
}
static inline peft__vec peft__vec_fma(peft__vec a, peft__vec b, peft__vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline __m256i peft__vec_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline peft__vec peft__vec_load_n(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, peft__vec_mask(n));
}
static inline void peft__vec_store_n(float *p, peft__vec v, int64_t n) {
    _mm256_maskstore_ps(p, peft__vec_mask(n), v);
}
static inline float peft__vec_sum(peft__vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#else
#define PEFT_WIDTH 4
#define PEFT_VARIANT(name) name##_generic
typedef float peft__vec __attribute__((vector_size(16)));
static inline peft__vec peft__vec_load(const float *p) {
    peft__vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void peft__vec_store(float *p, peft__vec v) {
    memcpy(p, &v, sizeof v);
}
static inline peft__vec peft__vec_set(float x) {
    return (peft__vec){x, x, x, x};
}
static inline peft__vec peft__vec_add(peft__vec a, peft__vec b) {
    return a + b;
}
static inline peft__vec peft__vec_mul(peft__vec a, peft__vec b) {
    return a * b;
}
static inline peft__vec peft__vec_fma(peft__vec a, peft__vec b, peft__vec c) {
    return a * b + c;
}
static inline peft__vec peft__vec_load_n(const float *p, int64_t n) {
    peft__vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
static inline void peft__vec_store_n(float *p, peft__vec v, int64_t n) {
    memcpy(p, &v, (size_t)n * sizeof(float));
}
static inline float peft__vec_sum(peft__vec v) {
    return (v[0] + v[2]) + (v[1] + v[3]);
}
#endif

#endif
