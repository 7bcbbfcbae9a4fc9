/* kernels.c: the table of kernels for an instruction set. */
#include "kernel/kernels.h"

extern const peft__kernels peft__kernels_generic;
#if defined(__x86_64__)
extern const peft__kernels peft__kernels_avx2, peft__kernels_avx512;
#endif

const peft__kernels *peft__kernels_for(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) return &peft__kernels_avx512;
    if (cpu >= PEFT_CPU_AVX2) return &peft__kernels_avx2;
#endif
    (void)cpu;
    return &peft__kernels_generic;
}
