/* softmax_loss.c: choice of the variant. */
#include "kernel/softmax_loss.h"

void peft__softmax_loss_panel(uint32_t cpu, const peft__softmax_loss *job) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512) {
        peft__softmax_loss_avx512(job);
        return;
    }
    if (cpu >= PEFT_CPU_AVX2) {
        peft__softmax_loss_avx2(job);
        return;
    }
#endif
    (void)cpu;
    peft__softmax_loss_generic(job);
}
