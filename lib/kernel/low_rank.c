/* low_rank.c: choice of the variant; turning a thin matrix. */
#include "kernel/low_rank.h"

#include "kernel/gemm.h"

const peft__low_rank *peft__low_rank_for(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) return &peft__low_rank_avx512;
    if (cpu >= PEFT_CPU_AVX2) return &peft__low_rank_avx2;
#endif
    (void)cpu;
    return &peft__low_rank_generic;
}

enum { WIDE = PEFT__GEMM_MAX_FEATURES, TALL = 64 };

void peft__low_rank_turn(const float *b, int64_t ldb, int64_t count, int64_t rank, float scale, float *bt,
                         int64_t ldt) {
    float part[TALL * WIDE];
    for (int64_t i0 = 0; i0 < rank; i0 += TALL) {
        const int64_t tall = peft__min_i64(TALL, rank - i0);
        for (int64_t j0 = 0; j0 < count; j0 += WIDE) {
            const int64_t wide = peft__min_i64(WIDE, count - j0);
            peft__gemm_turn(b + j0 * ldb + i0, ldb, wide, WIDE, tall, part);
            for (int64_t i = 0; i < tall; i++)
                for (int64_t j = 0; j < wide; j++) bt[(i0 + i) * ldt + j0 + j] = scale * part[i * WIDE + j];
        }
    }
}
