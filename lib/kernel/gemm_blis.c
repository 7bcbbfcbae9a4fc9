/* gemm_blis.c: the only file that knows BLIS.
 *
 * The micro-kernels are called by name. They need nothing else of BLIS: not its initialisation (which reads an
 * environment variable and can abort), not its contexts, not its guess at the CPU (wrong on CPUs newer than the
 * release). And a static link takes in these two objects only, not ten megabytes.
 */
#include "kernel/gemm_blis.h"

#include "peft_config.h"

#if PEFT_BLIS_MICRO_KERNELS && defined(__x86_64__)
#include <blis.h>
#if defined(BLIS_KERNELS_SKX) && defined(BLIS_KERNELS_HASWELL)
#define HAVE_MICRO_KERNELS 1
#endif
#endif

#ifdef HAVE_MICRO_KERNELS

/* 32 x 12, stores columns of its tile: the tile's rows are our features, its columns our tokens. */
static void micro_avx512(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth, const float *w,
                         const float *x, float beta, float *c, int64_t ldc, const float *next_w, const float *next_x) {
    (void)gemm;
    float one = 1.0f;
    auxinfo_t aux;
    memset(&aux, 0, sizeof aux);
    bli_auxinfo_set_next_a((void *)next_w, &aux);
    bli_auxinfo_set_next_b((void *)next_x, &aux);
    bli_sgemm_skx_asm_32x12_l2(features, tokens, depth, &one, (float *)w, (float *)x, &beta, c, 1, ldc, &aux, NULL);
}

/* 6 x 16, stores rows: the tile's rows are our tokens. */
static void micro_avx2(const peft__gemm *gemm, int64_t features, int64_t tokens, int64_t depth, const float *w,
                       const float *x, float beta, float *c, int64_t ldc, const float *next_w, const float *next_x) {
    (void)gemm;
    float one = 1.0f;
    auxinfo_t aux;
    memset(&aux, 0, sizeof aux);
    bli_auxinfo_set_next_a((void *)next_x, &aux);
    bli_auxinfo_set_next_b((void *)next_w, &aux);
    bli_sgemm_haswell_asm_6x16(tokens, features, depth, &one, (float *)x, (float *)w, &beta, c, ldc, 1, &aux, NULL);
}

bool peft__gemm_blis(uint32_t cpu, bool few, peft__gemm *out) {
    if (cpu >= PEFT_CPU_AVX512 && !few) {
        *out = (peft__gemm){cpu, 32, 12, micro_avx512};
        return true;
    }
    if (cpu >= PEFT_CPU_AVX2) {
        *out = (peft__gemm){cpu, 16, 6, micro_avx2};
        return true;
    }
    return false;
}

#else

bool peft__gemm_blis(uint32_t cpu, bool few, peft__gemm *out) {
    (void)cpu;
    (void)few;
    (void)out;
    return false;
}

#endif
